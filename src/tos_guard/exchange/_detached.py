"""Responses whose final token cannot travel in them, or only behind them: digested as they flow, and sealed when they end.

The head goes out at once with the pending token. Nothing of the body is kept but its digest (and, of a response in lines, the line that
is not whole yet), however long it is. The final token is kept under the request id, or is the last line of a response in lines.
"""

from __future__ import annotations

from typing import Any, Final

from tos_guard.dialects import BytesProjection, LinesSealing, NdjsonDialect, Step, apart, ends_of
from tos_guard.exchange._exchange import Exchange, Head, Sealed
from tos_guard.exchange._fields import kept_fields, tag_bytes
from tos_guard.limits import Usage
from tos_guard.provenance import Content
from tos_guard.types import Completion

__all__ = ["EVENT_STREAM", "DetachedResponse", "LinesResponse", "WithoutCheckpoints"]

EVENT_STREAM: Final = b"text/event-stream"


class WithoutCheckpoints:
    """A response in which no checkpoint has a place."""

    def ask_checkpoint(self) -> None:
        """There is none to be had."""

    def checkpointed(self, token: str | None) -> Step:
        """Never asked for."""
        del token
        return Step(b"")


class DetachedResponse(WithoutCheckpoints):
    """Bytes that pass as they are (``bytes-1``): files, streams of other forms, bodies too large to wait for."""

    carrier: str = "detached"
    early: bool = True
    removed_tags: int = 0
    dropped_events: int = 0
    held_bytes: int = 0
    usage: Usage | None = None
    response_id: str | None = None
    is_running: bool = False

    def __init__(self, exchange: Exchange, head: Head) -> None:
        self._exchange = exchange
        self._head = head
        self._bytes = BytesProjection()
        fields = dict(head.headers)
        self._is_event_stream = fields.get(b"content-type", b"").split(b";")[0].strip().lower() == EVENT_STREAM
        length = fields.get(b"content-length", b"")
        self._length = int(length) if length.isdigit() and not self._is_event_stream else None
        self._size = 0
        self._ends = b""
        self._held = b""
        self.completion: Completion = Completion.ERROR if head.status >= 400 else Completion.COMPLETE
        self.unsealed: str | None = None

    def head(self, token: str | None) -> Head:
        """The handler's head with our fields; its length stays, since its bytes do, unless an error event may follow them."""
        length = [] if self._length is None else [(b"content-length", str(self._length).encode("ascii"))]
        return Head(self._head.status, [*kept_fields(self._head.headers), *length, *self._exchange.headers(token, early=True)])

    def feed(self, chunk: bytes) -> Step:
        """Pass on. Only what makes a body of known length whole waits for the seal: a client that has all of it asks for the token."""
        if not chunk:
            return Step(b"")
        self._bytes.add_chunk(chunk)
        self._size += len(chunk)
        self._ends = ends_of(self._ends, chunk)
        if self._length is None or self._size < self._length:
            return Step(chunk)
        out, self._held = self._held, chunk
        return Step(out)

    def finish(self) -> Step:
        """The content is whole."""
        if self.unsealed is not None:
            return Step(self._release())
        return Step(b"", seal=True)

    def fail(self, *, message: str, code: str, extra: dict[str, Any], completion: Completion) -> Step:
        """Say so in an event, in a stream of events; other bytes break off. What left is sealed with the completion that says so."""
        self.completion = completion
        event = self._error(message=message, code=code, extra=extra)
        self._bytes.add_chunk(event)
        return Step(self._release() + event, seal=self.unsealed is None)

    def in_band_error(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """An event, in a stream of events; nothing in other bytes. What waited for its seal does not leave."""
        self._held = b""
        return self._error(message=message, code=code, extra=extra)

    def _error(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The event, one of its own also where the handler began another and did not end it."""
        if not self._is_event_stream:
            return b""
        event = self._exchange.dialect.error_event(message=message, code=code, extra=extra)
        if isinstance(self._exchange.dialect, NdjsonDialect):
            event = b"data: " + event + b"\n"  # whose errors are lines
        return apart(self._ends) + event

    @property
    def can_end(self) -> bool:
        """Whether a failure ends the body as a whole one ends: only where it says in-band that it failed."""
        return self._is_event_stream

    @property
    def content(self) -> Content | None:
        """The bytes so far."""
        return self._bytes.content()

    def sealed(self, seal: Sealed) -> Step:
        """Let go what waited for it."""
        del seal
        return Step(self._release())

    def unsealed_because(self, reason: str) -> Step:
        """Go on without a final token."""
        self.unsealed = reason
        return Step(self._release())

    def _release(self) -> bytes:
        held, self._held = self._held, b""
        return held


class LinesResponse(WithoutCheckpoints):
    """JSON in lines (``ndjson-1``)."""

    early: bool = True
    can_end: bool = True
    dropped_events: int = 0
    held_bytes: int = 0
    usage: Usage | None = None
    response_id: str | None = None
    is_running: bool = False

    def __init__(self, exchange: Exchange, head: Head, *, tag_line: bool) -> None:
        self._exchange = exchange
        self._head = head
        self._sealing = LinesSealing()
        self._tag_line = tag_line
        self.unsealed: str | None = None
        if head.status >= 400:
            self._sealing.completion = Completion.ERROR

    @property
    def carrier(self) -> str:
        """``line`` where it ends with the tag's own, else ``detached``."""
        return "line" if self._tag_line and self._sealing.is_lines else "detached"

    @property
    def completion(self) -> Completion:
        """How it ended."""
        return self._sealing.completion

    @property
    def removed_tags(self) -> int:
        """Tag lines of an upstream that were taken out."""
        return self._sealing.removed_tags

    @property
    def content(self) -> Content | None:
        """The lines so far."""
        return self._sealing.content

    def head(self, token: str | None) -> Head:
        """The handler's head with our fields and without a length."""
        return Head(self._head.status, [*kept_fields(self._head.headers, changed=True), *self._exchange.headers(token, early=True)])

    def feed(self, chunk: bytes) -> Step:
        """Take a chunk."""
        return self._sealing.feed(chunk)

    def finish(self) -> Step:
        """The body ended."""
        step = self._sealing.finish()
        return step if self.unsealed is None else Step(step.out)

    def fail(self, *, message: str, code: str, extra: dict[str, Any], completion: Completion) -> Step:
        """End with a line that says so."""
        return self._sealing.fail(self._exchange.dialect.error_event(message=message, code=code, extra=extra), completion)

    def in_band_error(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """A line."""
        return self._sealing.last_line(self._exchange.dialect.error_event(message=message, code=code, extra=extra))

    def sealed(self, seal: Sealed) -> Step:
        """End with the tag's own line, if it is to have one."""
        return Step(self._sealing.tag_line(tag_bytes(seal)) if self.carrier == "line" else b"")

    def unsealed_because(self, reason: str) -> Step:
        """Go on without a final token."""
        self.unsealed = reason
        return Step(b"")
