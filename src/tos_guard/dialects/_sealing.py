"""Putting the final tag into an OpenAI chat stream as it flows (docs/spec/carriers.md; DESIGN §7).

The newest chunk with a `finish_reason` is held back. If more content follows, it goes out unchanged; at the usage chunk, at `[DONE]`
or at the end of the body it is sealed. Everything else leaves at once and byte for byte, so the first token is as early as without
us. The machine does no I/O: when `Step.seal` is set, its driver makes the token and calls `ChatSealing.sealed` or `ChatSealing.unsealed`.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from tos_guard.dialects._body import TAG_MEMBER, parse_response_json, read_usage, splice_tag, without_tag
from tos_guard.dialects._chat import ChatProjection, is_finish, is_usage
from tos_guard.dialects._sse import DONE, EventStream, ServerSentEvent, has_data
from tos_guard.errors import MalformedError
from tos_guard.limits import Usage
from tos_guard.provenance import Content
from tos_guard.types import Completion

__all__ = ["ChatSealing", "Step"]

MAX_QUEUED_BYTES: Final = 65_536  # events without content behind the held chunk: in practice one or two


class Step(NamedTuple):
    """What came of a chunk.

    Attributes:
        out: Bytes to send on now.
        seal: The content is whole: make the final token before anything else is sent.
    """

    out: bytes
    seal: bool = False


class ChatSealing:
    """One stream on its way out.

    Attributes:
        completion: How the stream ended, as far as its own events say.
        removed_tags: Tag members of an upstream that were taken out.
        dropped_events: Events after the seal that were not passed on: they bore content or an error, or could not be read.
        unsealed: Why no tag can be placed, or None: ``unprojectable`` or ``no_carrier``.
        usage: The tokens that the newest event to say so says were used, or None.
    """

    def __init__(self) -> None:
        self.completion: Completion = Completion.COMPLETE
        self.removed_tags: int = 0
        self.dropped_events: int = 0
        self.unsealed: str | None = None
        self.usage: Usage | None = None
        self._projection = ChatProjection()
        self._events = EventStream()
        self._held: ServerSentEvent | None = None
        self._queued: list[bytes] = []
        self._waiting: list[ServerSentEvent] = []
        self._sealed = False
        self._finished = False

    @property
    def content(self) -> Content:
        """The content so far."""
        return self._projection.content()

    @property
    def is_open(self) -> bool:
        """Whether the final tag is still to come."""
        return not self._sealed and self.unsealed is None

    def feed(self, chunk: bytes) -> Step:
        """Take a chunk of the handler's response."""
        if self.unsealed is not None:
            return Step(chunk)
        try:
            events = self._events.feed(chunk)
        except MalformedError:
            if self._sealed:
                return self._drop(self._events.take_tail())
            return Step(self._give_up("unprojectable") + self._events.take_tail())
        step = self._take(events)
        return step if self.is_open or self._sealed else Step(step.out + self._events.take_tail())

    def finish(self) -> Step:
        """The handler's response ended."""
        self._finished = True
        if not self.is_open:
            return Step(self._tail())
        if self._held is not None:
            return Step(b"", seal=True)
        return Step(self._give_up("no_carrier") + self._events.take_tail())

    def fail(self, event: bytes, completion: Completion) -> Step:
        """The response cannot go on: *event* is the dialect's in-band error, and carries the tag.

        What the handler began and did not end (an event without its blank line) is not sent. After the seal nothing is: the
        content is whole, and an error behind its token would contradict it (C5).
        """
        if self._sealed:
            return self._drop(event)
        if self.unsealed is not None:
            return Step(event)
        out = self._release()
        self._held = ServerSentEvent(event, event.removeprefix(b"data: ").removesuffix(b"\n\n"))
        self.completion = completion
        return Step(out, seal=True)

    def sealed(self, tag: bytes) -> Step:
        """Send the held chunk with its tag, and what waited behind it."""
        held = self._held
        assert held is not None  # noqa: S101 - a step said to seal
        self._held = None
        self._sealed = True
        out = held.with_data(splice_tag(_one_line(held.data or b"{}"), tag))
        return self._after(out)

    def unsealed_because(self, reason: str) -> Step:
        """No token could be made: send the held chunk as it was."""
        out = self._give_up(reason)
        waiting, self._waiting = self._waiting, []
        return Step(out + b"".join(event.raw for event in waiting) + self._events.take_tail())

    def _after(self, out: bytes) -> Step:
        queued, self._queued = self._queued, []
        waiting, self._waiting = self._waiting, []
        rest = self._tail() if self._finished else b""
        return Step(out + b"".join(queued) + self._take(waiting).out + rest)

    def _tail(self) -> bytes:
        """What follows the last blank line: no event, but readers of lines take it for one, so data stays here after the seal."""
        tail = self._events.take_tail()
        if self._sealed and has_data(tail):
            self.dropped_events += 1
            return b""
        return tail

    def _drop(self, what: bytes) -> Step:
        self.dropped_events += bool(what)
        return Step(b"")

    def _take(self, events: list[ServerSentEvent]) -> Step:
        out: list[bytes] = []
        for position, event in enumerate(events):
            if self.unsealed is not None:
                out.append(event.raw)
            elif self._event(event, out):
                self._waiting = events[position + 1 :]
                return Step(b"".join(out), seal=True)
        return Step(b"".join(out))

    def _event(self, event: ServerSentEvent, out: list[bytes]) -> bool:
        """Handle one event. Returns whether it is time to seal."""
        if not event.data:
            out.append(event.raw)  # comments and keep-alives carry nothing and overtake the held chunk
            return False
        if event.data == DONE:
            return self._end(event, out)
        try:
            chunk = _parse_chunk(event.data)
            bears = self._projection.add_event(chunk)
            if TAG_MEMBER in chunk:
                event = self._without_tag(event, chunk)
            if chunk.get("usage") is not None:
                self.usage = read_usage(chunk) or self.usage
        except MalformedError:
            if self._sealed:
                self.dropped_events += 1  # no reader could check the stream behind it
            else:
                out.append(self._give_up("unprojectable") + event.raw)
            return False
        failed = chunk.get("error") is not None
        if self._sealed:
            if bears or failed:
                self.dropped_events += 1
            else:
                out.append(event.raw)
            return False
        if failed:
            out.append(self._release())
            self._held, self.completion = event, Completion.ERROR
            return True
        finishes = is_finish(chunk)
        if self._held is not None and (bears or finishes):
            out.append(self._release())
        if finishes:
            self._held = event
            return False
        if self._held is None:
            out.append(event.raw)
            return False
        self._queued.append(event.raw)
        return is_usage(chunk) or sum(map(len, self._queued)) > MAX_QUEUED_BYTES

    def _end(self, event: ServerSentEvent, out: list[bytes]) -> bool:
        if self._held is not None:
            self._queued.append(event.raw)
            return True
        if not self._sealed:
            out.append(self._give_up("no_carrier"))
        out.append(event.raw)
        return False

    def _release(self) -> bytes:
        """The held chunk and what queued behind it, unchanged."""
        held, self._held = self._held, None
        queued, self._queued = self._queued, []
        return (held.raw if held is not None else b"") + b"".join(queued)

    def _give_up(self, reason: str) -> bytes:
        self.unsealed = reason
        return self._release()

    def _without_tag(self, event: ServerSentEvent, chunk: dict[str, Any]) -> ServerSentEvent:
        try:
            data = json.dumps(without_tag(chunk), separators=(",", ":"), allow_nan=False).encode("ascii")
        except ValueError:  # 1e400 is JSON, and infinite once read
            raise MalformedError("a number is too large to be written again", where="event") from None
        self.removed_tags += 1
        return ServerSentEvent(event.with_data(data), data)


def _parse_chunk(data: bytes) -> dict[str, Any]:
    chunk = parse_response_json(data, where="event")
    if not isinstance(chunk, dict):
        raise MalformedError("not a JSON object", where="event")
    return chunk


def _one_line(data: bytes) -> bytes:
    # Data lines joined by LF: in JSON, where strings hold no line end, a space says the same.
    return data.replace(b"\n", b" ")
