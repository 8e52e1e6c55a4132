"""One request as a machine without I/O: begin → decide → feed → seal (DESIGN §5).

`Exchange` knows what was asked, by whom and under which plan. `Exchange.respond` looks at the head of the handler's response and gives
the `Response` that fits: a whole body, a chat stream, or bytes that pass untouched. A response takes the handler's bytes and says
what to send and when to seal; its driver (`tos_guard.guard`) makes tokens, writes records and sends. Clock, randomness and keys
come in as arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from tos_guard._canonical import b64url_encode, encode_claims
from tos_guard._content_digest import content_digest
from tos_guard.dialects import (
    MAX_BODY_BYTES,
    TAG_MEMBER,
    BytesProjection,
    ChatDialect,
    ChatSealing,
    Dialect,
    JSONProjection,
    Projection,
    RequestFacts,
    Step,
    parse_response_json,
    splice_tag,
    without_tag,
)
from tos_guard.errors import MalformedError
from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.policy import UsagePolicy
from tos_guard.provenance import Claims, Content, Terms, Usage, request_mac
from tos_guard.types import Completion, Decision, Facts, Stage

__all__ = ["Exchange", "ExchangeIds", "Head", "Response", "Sealed", "TermsInForce"]

Headers = list[tuple[bytes, bytes]]
"""Header fields in order; names in lower case."""

_REPLACED: Final = frozenset(
    {
        b"ai-provenance",
        b"ai-provenance-salt",
        b"content-usage",
        b"content-digest",
        b"x-request-id",
        b"request-id",
        b"content-length",
        b"transfer-encoding",
    }
)
_OF_OTHER_BYTES: Final = frozenset({b"repr-digest", b"digest", b"content-md5"})
"""Digests of the handler's bytes: false once a tag is in them."""

_EXPOSED: Final = "AI-Provenance, AI-Provenance-Salt, Content-Usage, Content-Digest, Link, X-Request-ID, Request-ID"
_NO_BODY: Final = frozenset({204, 304})  # what a server sends no body with


@dataclass(frozen=True, slots=True)
class ExchangeIds:
    """The fresh values of one exchange, all drawn before it is decided.

    Attributes:
        rid: Request id.
        jti: Id of the final token.
        pending_jti: Id of the pending token.
        sub: Pseudonym of the account in both.
        salt: 32 bytes that bind the request; only the caller receives them.
    """

    rid: str
    jti: str
    pending_jti: str
    sub: str
    salt: bytes

    @classmethod
    def fresh(cls, entropy: Callable[[int], bytes], *, sub: str | None = None) -> ExchangeIds:
        """Draw new ids: 128 random bits each, 256 for the salt, in one call."""
        drawn = entropy(96)
        names = [b64url_encode(drawn[start : start + 16]) for start in (0, 16, 32, 48)]
        return cls(rid=f"req_{names[0]}", jti=names[1], pending_jti=names[2], sub=sub or names[3], salt=drawn[64:])


@dataclass(frozen=True, slots=True)
class TermsInForce:
    """What a plan says about its terms and the use of the output, ready for the token."""

    terms: Terms
    usage: Usage
    grant: str | None = None

    @classmethod
    def of(cls, *, uri: str, version: str, sha256: str, policy: UsagePolicy, grant: str | None) -> TermsInForce:
        """From the parts of a plan."""
        return cls(Terms(uri, version, sha256), Usage(policy.sha256, tuple(policy.clauses), policy.content_usage), grant)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A final token and the content it covers, which knows whether its leaves stand beside it."""

    token: str
    content: Content


@dataclass(frozen=True, slots=True)
class Head:
    """Status and header fields to send."""

    status: int
    headers: Headers


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One authenticated exchange, from its decision to its record.

    Attributes:
        issuer: Origin that signs.
        ids: Fresh ids.
        account_id: Who asks; never in a token, and in the record only as the link kept apart.
        started: When the request came.
        dialect: What the request and response mean.
        request: What the request asks for.
        facts: What was decided on.
        decision: The decision.
        in_force: Terms and usage policy.
        request_body: Body of the request as received.
        nonce: Chosen by the caller, or None.
    """

    issuer: str
    ids: ExchangeIds
    account_id: str
    started: datetime
    dialect: Dialect
    request: RequestFacts
    facts: Facts
    decision: Decision
    in_force: TermsInForce
    request_body: bytes
    nonce: str | None = None
    req: str = field(init=False)

    def __post_init__(self) -> None:
        self.req = request_mac(self.ids.salt, self.request_body)

    def pending_claims(self, now: datetime) -> Claims:
        """Claims of the token that goes out before the content is known."""
        return self._claims(now, self.ids.pending_jti, Stage.PENDING, None, None)

    def final_claims(self, now: datetime, content: Content, completion: Completion) -> Claims:
        """Claims of the token over the whole content."""
        return self._claims(now, self.ids.jti, Stage.FINAL, content, completion)

    def _claims(self, now: datetime, jti: str, stage: Stage, content: Content | None, completion: Completion | None) -> Claims:
        return Claims(
            iss=self.issuer,
            iat=int(now.timestamp()),
            jti=jti,
            rid=self.ids.rid,
            sub=self.ids.sub,
            stage=stage,
            model=self.facts.model,
            terms=self.in_force.terms,
            usage=self.in_force.usage,
            req=self.req,
            content=content,
            completion=completion,
            nonce=self.nonce,
            grant=self.in_force.grant,
        )

    def record(
        self,
        *,
        now: datetime,
        status: int,
        content: Content | None = None,
        completion: Completion | None = None,
        kid: str | None = None,
        carrier: str = "none",
        unsealed: str | None = None,
    ) -> ExchangeRecord:
        """What is kept of the exchange (docs/spec/records.md)."""
        sealed = kid is not None
        return ExchangeRecord(
            type=RecordType.EXCHANGE if self.decision.allowed else RecordType.DENIAL,
            issuer=self.issuer,
            rid=self.ids.rid,
            sub=self.ids.sub,
            started=_milliseconds(self.started),
            finished=_milliseconds(now),
            status=status,
            action=self.facts.action,
            model=self.facts.model,
            purpose=self.facts.purpose,
            decision=self.decision.outcome.value,
            reasons=tuple(_reason_word(reason) for reason in self.decision.reasons),
            terms_version=self.in_force.terms.version,
            terms_sha256=self.in_force.terms.sha256,
            usage_sha256=self.in_force.usage.sha256,
            grant=self.in_force.grant,
            jti=self.ids.jti if sealed else None,
            kid=kid,
            proj=content.projection if content else None,
            n=content.count if content else None,
            root=content.root if content else None,
            completion=completion.value if completion else None,
            req=self.req,
            carrier=carrier,
            unsealed=unsealed,
            account_id=self.account_id,
        )

    def headers(self, token: str | None, *, early: bool = False) -> Headers:
        """The fields we add: the token, what it says in standard words, and the ids it is bound to.

        Args:
            token: The token that is known by now.
            early: Whether a final token may still follow, which only the salt in this head can check.
        """
        rid = self.ids.rid.encode("ascii")
        fields: Headers = [
            (b"link", f'<{self.in_force.terms.uri}>; rel="terms-of-service"'.encode("ascii")),
            (b"x-request-id", rid),
            (b"request-id", rid),
        ]
        if self.in_force.usage.content_usage:
            fields.append((b"content-usage", self.in_force.usage.content_usage.encode("ascii")))
        if token is not None:
            fields.append((b"ai-provenance", token.encode("ascii")))
        if token is not None or early:
            fields.append((b"ai-provenance-salt", b64url_encode(self.ids.salt).encode("ascii")))
        return fields

    def respond(self, head: Head, *, bodiless: bool) -> Response:
        """The response machine that fits the handler's head.

        Args:
            head: What the handler sent.
            bodiless: Whether the method allows no body (HEAD).
        """
        fields = dict(head.headers)
        media_type = fields.get(b"content-type", b"").split(b";")[0].strip().lower()
        if bodiless or head.status in _NO_BODY or head.status < 200:
            return OpaqueResponse(self, head, "no_body")
        if any(name == b"content-encoding" and value.strip().lower() not in (b"", b"identity") for name, value in head.headers):
            return OpaqueResponse(self, head, "encoded")
        if head.status == 206:
            return OpaqueResponse(self, head, "partial")
        if media_type == b"application/json" or media_type.endswith(b"+json"):
            return WholeResponse(self, head, is_json=True)
        if media_type == b"text/event-stream" and isinstance(self.dialect, ChatDialect):
            return StreamResponse(self, head)
        length = fields.get(b"content-length", b"")
        if media_type != b"text/event-stream" and length.isdigit() and int(length) <= MAX_BODY_BYTES:
            return WholeResponse(self, head, is_json=False)
        return OpaqueResponse(self, head, "no_carrier")


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _reason_word(reason: Any) -> str:
    word = reason.code if reason.clause is None else f"{reason.code}:{reason.clause}"
    return f"shadow:{word}" if reason.shadow else word


class Response(Protocol):
    """A response on its way out.

    The driver asks for `head` as soon as `has_head`; feeds; and when a step says `seal`, makes the token for `content` and calls
    `sealed`, or `unsealed_because` if none can be made.
    """

    @property
    def carrier(self) -> str:
        """Where the final token goes: ``json``, ``sse``, ``header`` or ``none``."""
        ...

    @property
    def early(self) -> bool:
        """Whether the head goes out before the content is known, with a pending token."""
        ...

    @property
    def completion(self) -> Completion:
        """How the response ended."""
        ...

    @property
    def unsealed(self) -> str | None:
        """Why there is no final token, or None."""
        ...

    @property
    def removed_tags(self) -> int:
        """Tag members of an upstream that were taken out."""
        ...

    @property
    def dropped_events(self) -> int:
        """Events that bore content after the seal."""
        ...

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
    def content(self) -> Content | None:
        """What the final token covers, so far as it is known."""
        ...

    def sealed(self, seal: Sealed) -> Step:
        """Place the final token."""
        ...

    def unsealed_because(self, reason: str) -> Step:
        """Go on without a final token."""
        ...


class OpaqueResponse:
    """Bytes that pass untouched, with a pending token: nothing we could put a final one in, or nothing to cover."""

    carrier: str = "none"
    early: bool = True
    completion: Completion = Completion.COMPLETE
    removed_tags: int = 0
    dropped_events: int = 0
    held_bytes: int = 0

    def __init__(self, exchange: Exchange, head: Head, reason: str) -> None:
        self._exchange = exchange
        self._head = head
        self._bodiless = reason == "no_body"
        self.unsealed: str | None = reason

    def head(self, token: str | None) -> Head:
        """The handler's head with our fields; its length stays, since its bytes do."""
        length = [(name, value) for name, value in self._head.headers if name == b"content-length"]
        return Head(self._head.status, [*_kept(self._head.headers), *length, *self._exchange.headers(token)])

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
    """An OpenAI chat stream: the head goes out at once, the tag in the stream."""

    carrier = "sse"
    held_bytes = 0
    early = True

    def __init__(self, exchange: Exchange, head: Head) -> None:
        self._exchange = exchange
        self._head = head
        self._sealing = ChatSealing()

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
    def content(self) -> Content | None:
        """The content so far."""
        return self._sealing.content

    def head(self, token: str | None) -> Head:
        """The handler's head with our fields and without a length."""
        return Head(self._head.status, [*_retagged(self._head.headers), *self._exchange.headers(token, early=True)])

    def feed(self, chunk: bytes) -> Step:
        """Take a chunk."""
        return self._sealing.feed(chunk)

    def finish(self) -> Step:
        """The body ended."""
        return self._sealing.finish()

    def fail(self, *, message: str, code: str, extra: dict[str, Any], completion: Completion) -> Step:
        """End with the dialect's in-band error, which carries the tag."""
        event = self._exchange.dialect.error_event(message=message, code=code, extra=extra)
        return self._sealing.fail(event, completion)

    def sealed(self, seal: Sealed) -> Step:
        """Place the tag."""
        return self._sealing.sealed(tag_bytes(seal))

    def unsealed_because(self, reason: str) -> Step:
        """Go on without."""
        return self._sealing.unsealed_because(reason)


class WholeResponse:
    """A body that is sent whole: it waits for its end, so that head and body carry the same final token."""

    early = False
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
        self.carrier: str = "header"
        self.completion: Completion = Completion.ERROR if head.status >= 400 else Completion.COMPLETE
        self.unsealed: str | None = None
        self.removed_tags: int = 0

    @property
    def content(self) -> Content | None:
        """The content, once whole."""
        return self._content

    @property
    def held_bytes(self) -> int:
        """All of the body, until it is whole."""
        return self._size

    def feed(self, chunk: bytes) -> Step:
        """Keep a chunk. A body over the cap is let go, unsealed, as it comes."""
        if self.unsealed is not None:
            return Step(chunk)
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_BODY_BYTES:
            return self.unsealed_because("too_large")
        return Step(b"")

    def finish(self) -> Step:
        """The body is whole: find what it says."""
        if self.unsealed is not None:
            return Step(b"")
        self._body = b"".join(self._chunks)
        try:
            self._content = self._project()
        except ValueError:  # a foreign tag beside a number that only JSON can hold: it cannot be taken out without changing the number
            return self.unsealed_because("unprojectable")
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

    def _project_json(self, document: Any) -> Content:
        if isinstance(document, dict):
            self.carrier = "json"
            if TAG_MEMBER in document:
                self.removed_tags += 1
                document = without_tag(document)
                self._body = _json_bytes(document)
        projection = self._exchange.dialect.projection()
        try:
            if self._head.status >= 400:
                raise MalformedError("an error is no completion", where="response body")
            projection.add_body(document)
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
        """Replace the body, of which nothing has been sent, by the dialect's error."""
        self.completion = completion
        if self.unsealed is not None:
            return Step(b"")
        status, kind = (403, "permission_error") if completion is Completion.POLICY else (500, "server_error")
        body = self._exchange.dialect.refusal_body(message=message, code=code, kind=kind, extra=extra)
        self._head = Head(status, [(b"content-type", b"application/json")])
        self._is_json = True
        self._chunks = [body]
        return self.finish()

    def sealed(self, seal: Sealed) -> Step:
        """Put the token in."""
        if self.carrier == "json":
            self._body = splice_tag(self._body, tag_bytes(seal))
        self._spliced = True
        return Step(self._body)

    def unsealed_because(self, reason: str) -> Step:
        """Let the body go as it is."""
        self.unsealed = reason
        self.carrier = "none"
        body = self._body or b"".join(self._chunks)
        self._chunks = []
        return Step(body)

    def head(self, token: str | None) -> Head:
        """The handler's head with our fields, and the length and digest of the body as it now is."""
        kept = _retagged(self._head.headers) if self._spliced else _kept(self._head.headers)
        headers = [*kept, *self._exchange.headers(token)]
        if self._spliced:
            headers.append((b"content-length", str(len(self._body)).encode("ascii")))
            headers.append((b"content-digest", content_digest(self._body).encode("ascii")))
        return Head(self._head.status, headers)


def _json_bytes(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def tag_bytes(seal: Sealed) -> bytes:
    """The tag member's value as JSON bytes, with the leaves where they do not fit in the token."""
    if seal.content.is_inline or seal.content.leaves is None:
        return b'{"token":"%s"}' % seal.token.encode("ascii")  # base64url and dots: nothing to escape
    return encode_claims({"token": seal.token, "leaves": [list(leaf) for leaf in seal.content.leaves]})


def _retagged(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """As `_kept`, for a body with a tag in it."""
    return [
        (name, b"W/" + value if name == b"etag" and not value.startswith(b"W/") else value)  # the bytes differ, the meaning does not
        for name, value in _kept(headers)
        if name not in _OF_OTHER_BYTES
    ]


def _kept(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The handler's fields without those we set ourselves; with ours exposed where the host answers another origin."""
    kept = [(name, value) for name, value in headers if name not in _REPLACED]
    for position, (name, value) in enumerate(kept):
        if name == b"access-control-expose-headers":
            kept[position] = (name, value + b", " + _EXPOSED.encode("ascii"))
            return kept
    if any(name == b"access-control-allow-origin" for name, _ in kept):
        kept.append((b"access-control-expose-headers", _EXPOSED.encode("ascii")))
    return kept
