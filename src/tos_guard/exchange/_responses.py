"""A response on its way out: bytes of the handler in, bytes to send out, and the moment to seal."""

from __future__ import annotations

from typing import Any, Final, Protocol

from tos_guard._content_digest import content_digest
from tos_guard.dialects import (
    LINES_TYPES,
    MAX_BODY_BYTES,
    TAG_MEMBER,
    BytesProjection,
    JSONProjection,
    NdjsonDialect,
    Projection,
    Step,
    StreamFormat,
    StreamSealing,
    cut_tag,
    is_running,
    parse_response_json,
    read_usage,
    response_id,
    splice_tag,
    without_tag,
)
from tos_guard.errors import MalformedError
from tos_guard.exchange._call import Sealable
from tos_guard.exchange._detached import EVENT_STREAM, DetachedResponse, LinesResponse, WithoutCheckpoints
from tos_guard.exchange._exchange import Exchange, Head, Sealed
from tos_guard.exchange._fields import bare_tag, kept_fields, tag_bytes
from tos_guard.limits import Usage
from tos_guard.provenance import Content
from tos_guard.types import Completion

__all__ = ["Response", "respond"]

_NO_BODY: Final = frozenset({204, 304})  # what a server sends no body with
_SENT_FOR_IT: Final = frozenset({b"x-accel-redirect", b"x-sendfile", b"x-lighttpd-send-file", b"x-reproxy-url"})
"""Fields by which an app has the server in front send a file in place of its body: nothing that passes here is what the client gets."""


def respond(exchange: Exchange, head: Head, *, bodiless: bool) -> Response:
    """The response machine that fits the handler's head.

    Args:
        exchange: The exchange that the handler answers.
        head: What the handler sent.
        bodiless: Whether the method allows no body (HEAD).
    """
    fields = dict(head.headers)
    media_type = fields.get(b"content-type", b"").split(b";")[0].strip().lower()
    if bodiless or head.status in _NO_BODY or head.status < 200:
        return OpaqueResponse(exchange, head, "no_body")
    if any(name == b"content-encoding" and value.strip().lower() not in (b"", b"identity") for name, value in head.headers):
        return OpaqueResponse(exchange, head, "encoded")
    if head.status == 206:
        return OpaqueResponse(exchange, head, "partial")
    if not _SENT_FOR_IT.isdisjoint(fields):
        return OpaqueResponse(exchange, head, "by_proxy")
    dialect, length = exchange.dialect, fields.get(b"content-length", b"")
    size = int(length) if length.isdigit() else None
    touches_json = dialect.projection is not BytesProjection
    if touches_json and (media_type == b"application/json" or media_type.endswith(b"+json")):
        too_large = size is not None and size > MAX_BODY_BYTES
        return DetachedResponse(exchange, head) if too_large else WholeResponse(exchange, head, is_json=True)
    if isinstance(dialect, NdjsonDialect) and media_type in LINES_TYPES:
        return LinesResponse(exchange, head, tag_line=dialect.tag_line)
    stream_format = dialect.stream_format(media_type)
    if stream_format is not None:
        return StreamResponse(exchange, head, stream_format)
    if media_type != EVENT_STREAM and size is not None and size <= MAX_BODY_BYTES:
        return WholeResponse(exchange, head, is_json=False)
    return DetachedResponse(exchange, head)


class Response(Sealable, Protocol):
    """A response on its way out.

    The driver sends `head` before anything is fed if it is `early`, and otherwise with the first bytes that come out; feeds; and when a
    step says `seal`, makes the token for `content` and calls
    `sealed`, or `unsealed_because` if none can be made. Where a step says `checkpoint` it makes one of stage ``checkpoint`` and calls
    `checkpointed`.
    """

    @property
    def held_bytes(self) -> int:
        """How much of the body waits for its end."""
        ...

    def head(self, token: str | None) -> Head:
        """Status and fields to send, with the token that is known by then."""
        ...

    def feed(self, chunk: bytes) -> Step:
        """Take bytes of the handler."""
        ...

    def finish(self) -> Step:
        """The handler's body ended."""
        ...

    def fail(self, *, message: str, code: str, extra: dict[str, Any], completion: Completion) -> Step:
        """The response cannot go on."""
        ...

    @property
    def can_end(self) -> bool:
        """Whether a response that fails ends as a whole one does: where it can say in-band that it failed. Otherwise it breaks off."""
        ...

    def in_band_error(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The error in place of the last content, which nothing seals; empty where there is no place for one."""
        ...

    def sealed(self, seal: Sealed) -> Step:
        """Place the final token."""
        ...

    def unsealed_because(self, reason: str) -> Step:
        """Go on without a final token."""
        ...

    def ask_checkpoint(self) -> None:
        """Let a step say `checkpoint` as soon as it can."""
        ...

    def checkpointed(self, token: str | None) -> Step:
        """Place a checkpoint that a step asked for, or go on without."""
        ...


class OpaqueResponse(WithoutCheckpoints):
    """Bytes that pass untouched, with a pending token: nothing we could put a final one in, or nothing to cover."""

    carrier: str = "none"
    early: bool = True
    can_end: bool = False
    completion: Completion = Completion.COMPLETE
    removed_tags: int = 0
    dropped_events: int = 0
    held_bytes: int = 0
    usage: Usage | None = None
    response_id: str | None = None
    is_running: bool = False

    def __init__(self, exchange: Exchange, head: Head, reason: str) -> None:
        self._exchange = exchange
        self._head = head
        self._bodiless = reason == "no_body"
        self.unsealed: str | None = reason

    def head(self, token: str | None) -> Head:
        """The handler's head with our fields; its length stays, since its bytes do."""
        length = [(name, value) for name, value in self._head.headers if name == b"content-length"]
        return Head(self._head.status, [*kept_fields(self._head.headers), *length, *self._exchange.headers(token)])

    def feed(self, chunk: bytes) -> Step:
        """Pass on. Where there must be no body none leaves: some servers would send it, and nothing seals it."""
        return Step(b"" if self._bodiless else chunk)

    def finish(self) -> Step:
        """Nothing is left."""
        return Step(b"")

    def fail(self, *, message: str, code: str, extra: dict[str, Any], completion: Completion) -> Step:
        """Nothing can be said in-band."""
        del message, code, extra
        self.completion = completion
        return Step(b"")

    def in_band_error(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """Likewise."""
        del message, code, extra
        return b""

    @property
    def content(self) -> Content | None:
        """Nothing is covered."""
        return None

    def sealed(self, seal: Sealed) -> Step:
        """Never asked for."""
        del seal
        return Step(b"")

    def unsealed_because(self, reason: str) -> Step:
        """Remember why."""
        self.unsealed = reason
        return Step(b"")


class StreamResponse:
    """A stream with a place for the tag: the head goes out at once, the tag in the stream."""

    carrier = "sse"
    held_bytes = 0
    early = True
    can_end = True
    is_running = False

    def __init__(self, exchange: Exchange, head: Head, stream_format: StreamFormat) -> None:
        self._exchange = exchange
        self._head = head
        self._sealing = StreamSealing(stream_format, checkpoint_events=exchange.checkpoint_events)
        self._cut = False

    @property
    def response_id(self) -> str | None:
        """As the events say, unless we ended them."""
        return None if self._cut else self._sealing.response_id

    @property
    def completion(self) -> Completion:
        """As the events say."""
        return self._sealing.completion

    @property
    def unsealed(self) -> str | None:
        """Why the tag could not be placed."""
        return self._sealing.unsealed

    @property
    def removed_tags(self) -> int:
        """Tag members taken out."""
        return self._sealing.removed_tags

    @property
    def dropped_events(self) -> int:
        """Events not passed on."""
        return self._sealing.dropped_events

    @property
    def usage(self) -> Usage | None:
        """As the events say."""
        return self._sealing.usage

    @property
    def content(self) -> Content | None:
        """The content so far."""
        return self._sealing.content

    def head(self, token: str | None) -> Head:
        """The handler's head with our fields and without a length. The pending token goes into events that open a stream, too."""
        self._sealing.pending = None if token is None else bare_tag(token)
        return Head(self._head.status, [*kept_fields(self._head.headers, changed=True), *self._exchange.headers(token, early=True)])

    def feed(self, chunk: bytes) -> Step:
        """Take a chunk."""
        return self._sealing.feed(chunk)

    def finish(self) -> Step:
        """The body ended."""
        return self._sealing.finish()

    def fail(self, *, message: str, code: str, extra: dict[str, Any], completion: Completion) -> Step:
        """End with the dialect's in-band error, which carries the tag."""
        self._cut = True
        event = self._exchange.dialect.error_event(message=message, code=code, extra=extra)
        return self._sealing.fail(event, completion)

    def in_band_error(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """As an event."""
        return self._exchange.dialect.error_event(message=message, code=code, extra=extra)

    def sealed(self, seal: Sealed) -> Step:
        """Place the tag."""
        return self._sealing.sealed(tag_bytes(seal))

    def unsealed_because(self, reason: str) -> Step:
        """Go on without."""
        return self._sealing.unsealed_because(reason)

    def ask_checkpoint(self) -> None:
        """With the next event that bears content."""
        self._sealing.ask_checkpoint()

    def checkpointed(self, token: str | None) -> Step:
        """Place it in that event. Its leaves stay out: whoever checks a stream has its parts."""
        return self._sealing.checkpointed(None if token is None else bare_tag(token))


class WholeResponse(WithoutCheckpoints):
    """A body that is sent whole: it waits for its end, so that head and body carry the same final token.

    One that turns out too large to wait for goes on as a detached one.
    """

    dropped_events = 0

    def __init__(self, exchange: Exchange, head: Head, *, is_json: bool) -> None:
        self._exchange = exchange
        self._head = head
        self._is_json = is_json
        self._chunks: list[bytes] = []
        self._size = 0
        self._body = b""
        self._spliced = False
        self._content: Content | None = None
        self._over: DetachedResponse | None = None
        self.response_id: str | None = None
        self.is_running: bool = False
        self.carrier: str = "header"
        self.completion: Completion = Completion.ERROR if head.status >= 400 else Completion.COMPLETE
        self.unsealed: str | None = None
        self.removed_tags: int = 0
        self.usage: Usage | None = None

    @property
    def early(self) -> bool:
        """Only of a body that is too large to wait for."""
        return self._over is not None

    @property
    def can_end(self) -> bool:
        """Until it is too large to wait for, nothing of it has left."""
        return self._over is None

    @property
    def content(self) -> Content | None:
        """The content, once whole; of one that is too large, so far."""
        return self._content if self._over is None else self._over.content

    @property
    def held_bytes(self) -> int:
        """All of the body, until it is whole."""
        return 0 if self._over is not None else self._size

    def feed(self, chunk: bytes) -> Step:
        """Keep a chunk. A body over the cap is let go as it comes."""
        if self._over is not None:
            return self._over.feed(chunk)
        if self.unsealed is not None:
            return Step(chunk)
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size <= MAX_BODY_BYTES:
            return Step(b"")
        self._over = DetachedResponse(self._exchange, self._head)
        self.carrier = self._over.carrier
        chunks, self._chunks = self._chunks, []
        return self._over.feed(b"".join(chunks))

    def finish(self) -> Step:
        """The body is whole: find what it says."""
        if self._over is not None:
            return self._over.finish()
        if self.unsealed is not None:
            return Step(b"")
        self._body = b"".join(self._chunks)
        self._content = self._project()
        return Step(b"", seal=True)

    def _project(self) -> Content:
        if self._is_json:
            try:
                document = parse_response_json(self._body, where="response body")
            except MalformedError:
                pass  # what no strict reader can read is still bytes
            else:
                return self._project_json(document)
        projection: Projection = BytesProjection()
        projection.add_body(self._body)
        return projection.content()

    def _read_id(self, document: dict[str, Any]) -> None:
        request = self._exchange.request
        if self._head.status < 400 and (request.stores or request.background or request.retrieves is not None):
            self.response_id, self.is_running = response_id(document), is_running(document)

    def _project_json(self, document: Any) -> Content:
        self.usage = read_usage(document)
        if isinstance(document, dict):
            self.carrier = "json"
            self._read_id(document)
            if TAG_MEMBER in document:
                self.removed_tags += 1
                document = without_tag(document)
                self._body = cut_tag(self._body)
        projection = self._exchange.dialect.projection()
        try:
            if self._head.status >= 400:
                raise MalformedError("an error is no completion", where="response body")
            projection.add_body(document)
            self.completion = projection.completion
        except MalformedError:
            projection = JSONProjection()  # covers whatever shape the body has
            projection.add_body(document)
        content = projection.content()
        if content.projection == JSONProjection.name and any(digest is None for _, _, digest in content.leaves or ()):
            self.carrier = "header"  # what has no canonical form is still bytes: a seal over nothing would fit any body
            projection = BytesProjection()
            projection.add_body(self._body)
            content = projection.content()
        return content

    def fail(self, *, message: str, code: str, extra: dict[str, Any], completion: Completion) -> Step:
        """Replace the body, of which nothing has been sent, by the dialect's error. One that is too large breaks off."""
        self.completion = completion
        if self._over is not None:
            return self._over.fail(message=message, code=code, extra=extra, completion=completion)
        if self.unsealed is not None:
            return Step(b"")
        status, kind = (403, "permission_error") if completion is Completion.POLICY else (500, "server_error")
        body = self._exchange.dialect.refusal_body(message=message, code=code, kind=kind, extra=extra)
        self._head = Head(status, [(b"content-type", b"application/json")])
        self._is_json = True
        self._chunks = [body]
        return self.finish()

    def in_band_error(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """None: while nothing is sent a refusal can be."""
        return b"" if self._over is None else self._over.in_band_error(message=message, code=code, extra=extra)

    def sealed(self, seal: Sealed) -> Step:
        """Put the token in."""
        if self._over is not None:
            return self._over.sealed(seal)
        if self.carrier == "json":
            self._body = splice_tag(self._body, tag_bytes(seal))
        self._spliced = True
        return Step(self._body)

    def unsealed_because(self, reason: str) -> Step:
        """Let the body go as it is."""
        self.unsealed = reason
        if self._over is not None:
            return self._over.unsealed_because(reason)
        self.carrier = "none"
        body = self._body or b"".join(self._chunks)
        self._chunks = []
        return Step(body)

    def head(self, token: str | None) -> Head:
        """The handler's head with our fields, and the length and digest of the body as it now is."""
        if self._over is not None:
            return self._over.head(token)
        changed = self._spliced and (self.carrier == "json" or self.removed_tags > 0)
        kept = kept_fields(self._head.headers, changed=changed)
        headers = [*kept, *self._exchange.headers(token)]
        if self._spliced:
            headers.append((b"content-length", str(len(self._body)).encode("ascii")))
            headers.append((b"content-digest", content_digest(self._body).encode("ascii")))
        return Head(self._head.status, headers)
