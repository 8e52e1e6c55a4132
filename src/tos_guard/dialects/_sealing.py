"""Putting the tag into a stream of server-sent events as it flows (docs/spec/carriers.md; DESIGN §7).

One machine for every dialect: a `StreamFormat` says what each event does. The newest event that may carry the tag is held back. If more
content follows, it goes out unchanged; at an event that ends the content, at `[DONE]` or at the end of the body it is sealed. A terminal
event carries the tag itself. A checkpoint goes into an event that bears content and leaves anyway. Everything else leaves at once and
byte for byte, so the first token is as early as without us.

The machine does no I/O: when a step says `seal` or `checkpoint`, its driver makes the token and hands it to `StreamSealing.sealed` or
`StreamSealing.checkpointed`; `StreamSealing.unsealed_because` where there can be no final one.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tos_guard.dialects._body import TAG_MEMBER, cut_tag, parse_response_json, response_id, splice_tag
from tos_guard.dialects._projection import Projection
from tos_guard.dialects._sse import DONE, EventStream, ServerSentEvent, apart, ends_of, has_data, is_split
from tos_guard.dialects._streams import Role, StreamFormat, is_named_right, told_form
from tos_guard.errors import MalformedError
from tos_guard.limits import Usage
from tos_guard.provenance import Content
from tos_guard.types import Completion

__all__ = ["Step", "StreamSealing"]

MAX_QUEUED_BYTES: Final = 65_536  # events without content behind the held chunk: in practice one or two


_PASSES: Final = Role.PASSES
_FAILURES: Final = (Role.FAILS, Role.ERRS)


class Step(NamedTuple):
    """What came of a chunk.

    Attributes:
        out: Bytes to send on now.
        seal: The content is whole: make the final token before anything else is sent.
        checkpoint: Make a token over the content so far before anything else is sent.
    """

    out: bytes
    seal: bool = False
    checkpoint: bool = False


class StreamSealing:
    """One stream on its way out.

    Args:
        stream_format: What events do in it.
        checkpoint_events: After so many events that bear content one of them gets a checkpoint; None for no such count.

    Attributes:
        pending: JSON bytes of the tag with the pending token, for events that open a stream; None where there is none.
        completion: How the stream ended, as far as its own events say.
        removed_tags: Tag members of an upstream that were taken out.
        dropped_events: Events after the seal that were not passed on: they bore content or an error, or could not be read.
        unsealed: Why no tag can be placed, or None: ``unprojectable`` or ``no_carrier``.
        usage: The tokens that the newest event to say so says were used, or None.
        response_id: The id that the response gives itself, or None while it gives none.
    """

    def __init__(self, stream_format: StreamFormat, *, checkpoint_events: int | None = None) -> None:
        self.pending: bytes | None = None
        self.completion: Completion = Completion.COMPLETE
        self.removed_tags: int = 0
        self.dropped_events: int = 0
        self.unsealed: str | None = None
        self.usage: Usage | None = None
        self.response_id: str | None = None
        self._format = stream_format
        self._nested = stream_format.nested
        self._projection: Projection = stream_format.projection()
        self._is_told = False
        self._events = EventStream()
        self._ends = b""  # of what left after it was given up: there, an event may be begun and not ended
        self._held: ServerSentEvent | None = None
        self._place: str | None = None  # in the held event
        self._errs = False  # the held event says that the response failed
        self._queued: list[bytes] = []
        self._waiting: list[ServerSentEvent] = []
        self._checkpoint_events = checkpoint_events
        self._bearing = 0  # events with content since the last checkpoint
        self._asked = checkpoint_events is not None  # a checkpoint may be due
        self._marked: ServerSentEvent | None = None
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
            self._ends = ends_of(self._ends, chunk)
            return Step(chunk)
        try:
            events = self._events.feed(chunk)
        except MalformedError:
            if self._sealed:
                return self._drop(self._events.take_tail())
            return Step(self._give_up("unprojectable") + self._begun())
        return self._through(events)

    def finish(self) -> Step:
        """The handler's response ended."""
        self._finished = True
        if not self.is_open:
            return Step(self._tail())
        if self._held is not None:
            return Step(b"", seal=self._end_held())
        return Step(self._give_up("no_carrier") + self._begun())

    def fail(self, event: bytes, completion: Completion) -> Step:
        """The response cannot go on: *event* is the dialect's in-band error, and carries the tag.

        What the handler began and did not end (an event without its blank line) is not sent; where that has left, since no tag can
        be placed, the error is an event of its own behind it. After the seal nothing is sent: the content is whole, and an error
        behind its token would contradict it (C5).
        """
        if self._sealed:
            return self._drop(event)
        if self.unsealed is not None:
            return Step(apart(self._ends) + event)
        out = self._release()
        (self._held,) = EventStream().feed(event)
        self._errs = False
        self._place = self._format.place(_parse_event(self._held.data or b"{}"))
        self.completion = completion
        return Step(out, seal=True)

    def sealed(self, tag: bytes) -> Step:
        """Send the held chunk with its tag, and what waited behind it."""
        held = self._held
        assert held is not None  # noqa: S101 - a step said to seal
        self._held = None
        self._sealed = True
        return self._after(_tagged(held, tag, self._place))

    def unsealed_because(self, reason: str) -> Step:
        """No token could be made: send the held chunk as it was."""
        out = self._give_up(reason)
        waiting, self._waiting = self._waiting, []
        return Step(out + b"".join(event.raw for event in waiting) + self._begun())

    def ask_checkpoint(self) -> None:
        """Let the next event that bears content get a checkpoint."""
        self._asked = True
        self._bearing = self._checkpoint_events or 0

    def checkpointed(self, tag: bytes | None) -> Step:
        """Send the event that a step asked a checkpoint for, with it or, where none could be made, as it was; and go on."""
        marked, self._marked = self._marked, None
        assert marked is not None  # noqa: S101 - a step asked for it
        out = marked.raw if tag is None else _tagged(marked, tag, None)
        waiting, self._waiting = self._waiting, []
        step = self._through(waiting)
        return step._replace(out=out + step.out)

    def _through(self, events: list[ServerSentEvent]) -> Step:
        step = self._take(events)
        return step if self.is_open or self._sealed else step._replace(out=step.out + self._begun())

    def _begun(self) -> bytes:
        """The event that is begun and not ended, of a stream that from now on passes as it comes."""
        tail = self._events.take_tail()
        self._ends = ends_of(b"", tail)
        return tail

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
                return Step(b"".join(out), seal=self._marked is None, checkpoint=self._marked is not None)
        return Step(out[0] if len(out) == 1 else b"".join(out))

    def _event(self, event: ServerSentEvent, out: list[bytes]) -> bool:
        """Handle one event. Returns whether a token is to be made: for a checkpoint where the event is marked, else the final one."""
        if not event.data:
            out.append(event.raw)  # comments and keep-alives carry nothing and overtake the held chunk
            return False
        if event.data == DONE:
            return self._end(event, out)
        try:
            parsed = _parse_event(event.data)
            if self.response_id is None:
                self.response_id = response_id(parsed)
            if not self._is_told:
                self._tell(parsed)
            if not is_named_right(self._projection.name, parsed, event.name):
                raise MalformedError("is named as no client reads it", where="event")  # C16
            if is_split(event.data):
                raise MalformedError("has a line that is an event by itself", where="event")  # C18
            bears = self._projection.add_event(parsed)
            if TAG_MEMBER in parsed or (self._nested and self._is_tagged(parsed)):
                data = cut_tag(_one_line(event.data), self._nested)
                event = ServerSentEvent(event.with_data(data), data, event.name)
                self.removed_tags += 1
            self.usage = self._format.usage(parsed, self.usage)
            role = self._format.role(parsed)
        except MalformedError:
            if self._sealed:
                self.dropped_events += 1  # no reader could check the stream behind it
            else:
                out.append(self._give_up("unprojectable") + event.raw)
            return False
        if self._sealed:
            if bears or role in _FAILURES:
                self.dropped_events += 1
            else:
                out.append(event.raw)
            return False
        if role is _PASSES and bears and self._asked and self._is_due():
            out.append(self._release())
            self._marked = event
            return True
        if role is _PASSES and self._held is None:
            out.append(event.raw)
            return False
        return self._placed(event, parsed, role, bears, out)

    def _placed(self, event: ServerSentEvent, parsed: dict[str, Any], role: Role, bears: bool, out: list[bytes]) -> bool:
        """Handle an event that has a part in sealing, or comes while another one is held. Returns whether it is time to seal."""
        if role is Role.FAILS or role is Role.TERMINAL:
            out.append(self._release())
            self._held, self._place, self._errs = event, self._format.place(parsed), False
            if role is Role.FAILS:
                self.completion = Completion.ERROR
            return True
        if role is Role.OPENS and self.pending is not None:
            event = ServerSentEvent(_tagged(event, self.pending, self._format.place(parsed)), event.data, event.name)
        waits = role is Role.HOLDS or role is Role.ERRS
        if self._held is not None and (bears or waits):
            out.append(self._release())
        if waits:
            self._held, self._place, self._errs = event, self._format.place(parsed), role is Role.ERRS
            return False
        if self._held is None:
            out.append(event.raw)
            return False
        self._queued.append(event.raw)
        return (role is Role.ENDS or sum(map(len, self._queued)) > MAX_QUEUED_BYTES) and self._end_held()

    def _is_due(self) -> bool:
        """Count an event that bears content. Returns whether it gets a checkpoint."""
        self._bearing += 1
        if self._bearing < (self._checkpoint_events or 0):
            return False
        self._bearing = 0
        self._asked = self._checkpoint_events is not None
        return True

    def _tell(self, parsed: dict[str, Any]) -> None:
        """See to it that readers take the stream for what it is sealed as.

        Raises:
            MalformedError: They take it for another form (C13).
        """
        form = told_form(parsed)
        if form is not None:
            self._is_told = True
            if form != self._projection.name:
                raise MalformedError(f"reads as {form}", where="event stream")

    def _end(self, event: ServerSentEvent, out: list[bytes]) -> bool:
        if self._held is not None:
            self._queued.append(event.raw)
            return self._end_held()
        if not self._sealed:
            out.append(self._give_up("no_carrier"))
        out.append(event.raw)
        return False

    def _end_held(self) -> bool:
        """The held event was the last with content: it is time to seal."""
        if self._errs:
            self.completion = Completion.ERROR
        return True

    def _release(self) -> bytes:
        """The held chunk and what queued behind it, unchanged."""
        held, self._held = self._held, None
        queued, self._queued = self._queued, []
        return (held.raw if held is not None else b"") + b"".join(queued)

    def _give_up(self, reason: str) -> bytes:
        self.unsealed = reason
        return self._release()

    def _is_tagged(self, parsed: dict[str, Any]) -> bool:
        for name in self._nested:  # noqa: SIM110 - this runs for each chunk, and a generator costs three times as much
            if name in parsed and isinstance(parsed[name], dict) and TAG_MEMBER in parsed[name]:
                return True
        return False


def _tagged(event: ServerSentEvent, tag: bytes, place: str | None) -> bytes:
    """The event's bytes with a tag in them."""
    return event.with_data(splice_tag(_one_line(event.data or b"{}"), tag, member=place))


def _parse_event(data: bytes) -> dict[str, Any]:
    event = parse_response_json(data, where="event")
    if not isinstance(event, dict):
        raise MalformedError("not a JSON object", where="event")
    return event


def _one_line(data: bytes) -> bytes:
    # Data lines joined by LF: in JSON, where strings hold no line end, a space says the same.
    return data.replace(b"\n", b" ")
