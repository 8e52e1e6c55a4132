"""Server-sent events as bytes (WHATWG HTML section 9.2): events out of chunks, without losing a byte.

Chunking never matters, nothing is decoded before an event is whole, and each event keeps the bytes it came in, so that a guard can
pass it on unchanged.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tos_guard.errors import MalformedError

__all__ = ["DONE", "EventStream", "ServerSentEvent", "apart", "ends_of", "is_split", "is_whole_object"]

DONE: Final = b"[DONE]"
"""Data of the event that ends an OpenAI stream."""

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024  # as for a whole JSON body
_BOM: Final = b"\xef\xbb\xbf"
# A blank line: two line ends in a row. Atomic, since CR LF is one end and not two.
_BLANK: Final = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")
_BLANK_LAST: Final = re.compile(_BLANK.pattern + rb"\Z")
_END: Final = re.compile(rb"\r\n|\r|\n")
_LONGEST_BLANK: Final = 4  # bytes: CR LF CR LF
_STRING_OR_BRACE: Final = re.compile(rb'(?s)"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}]')


class ServerSentEvent(NamedTuple):
    """One event.

    Attributes:
        raw: The bytes it came in, with its comments and its blank line.
        data: The data lines joined with LF, or None where there is none: a comment, a lone ``event:`` or ``id:``.
        name: What its ``event`` field says, the last where there are several; empty where there is none.
    """

    raw: bytes
    data: bytes | None
    name: bytes = b""

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Field names and values in order, decoded as the standard says (wrong UTF-8 becomes U+FFFD)."""
        return [(name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in _fields(self.raw)]

    def with_data(self, data: bytes) -> bytes:
        """The event's bytes with *data*, which holds no line end, in place of its own."""
        if self.data is not None and self.raw == b"data: " + self.data + b"\n\n":
            return b"data: " + data + b"\n\n"
        end = match.group() if (match := _END.search(self.raw)) else b"\n"
        kept = [line for line in _END.split(self.raw.removeprefix(_BOM)) if line and _field(line)[0] != b"data"]
        return b"".join(line + end for line in [*kept, b"data: " + data, b""])


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")


def _fields(raw: bytes) -> list[tuple[bytes, bytes]]:
    return [_field(line) for line in _END.split(raw) if line and not line.startswith(b":")]


def _data_of(raw: bytes) -> bytes:
    return b"\n".join(value for name, value in _fields(raw) if name == b"data")


def usual_event(raw: bytes) -> ServerSentEvent | None:
    """The event that bytes of a usual form are (a single data line, maybe with its name before it), without a search.

    None for any other bytes.
    """
    lines = raw.splitlines()  # at the line ends of an event stream, which are those of bytes
    name = b""
    if len(lines) == 2:
        data, end = lines
    elif len(lines) == 3:
        name, data, end = lines
        if name[:7] != b"event: ":
            return None
        name = name[7:]
    else:
        return None
    return ServerSentEvent(raw, data[6:], name) if not end and data[:6] == b"data: " else None


def ends_of(before: bytes, more: bytes) -> bytes:
    """The last bytes of a stream that go on to `apart`, from those that were kept of it *before* and what it has *more* now."""
    return (before + more[-_LONGEST_BLANK:])[-_LONGEST_BLANK:]


def apart(ends: bytes) -> bytes:
    """What must be sent before an event so that it is one of its own, after a stream that *ends* so (`ends_of`; empty: not begun)."""
    if not ends or _BLANK_LAST.search(ends):
        return b""
    return b"\n" if ends.endswith(b"\n") else b"\n\n"  # after a lone CR, the first LF would belong to it


def is_whole_object(data: bytes) -> bool:
    """Whether data that begins with a brace has the one that ends it, whatever is wrong with what stands between and behind them."""
    depth = 0
    for mark in _STRING_OR_BRACE.finditer(data):
        if mark[0] == b"{":
            depth += 1
        elif mark[0] == b"}":
            depth -= 1
            if not depth:
                return True
    return False


def is_split(data: bytes) -> bool:
    """Whether data has several lines, blank ones not counted, of which one is an object by itself, or begins with one.

    Readers of lines take it for an event (C18).
    """
    if b"\n" not in data:
        return False
    lines = [line for line in (each.lstrip(b" \t") for each in data.split(b"\n")) if line]
    return len(lines) > 1 and any(line.startswith(b"{") and is_whole_object(line) for line in lines)


def has_data(tail: bytes) -> bool:
    """Whether bytes without a blank line hold data other than the end of a stream, for a reader that does not wait for the blank line."""
    data = _data_of(tail)
    return bool(data.strip(b" \t\n")) and not DONE.startswith(data)


class EventStream:
    """Cuts chunks of bytes into events."""

    __slots__ = ("_buffer", "_first", "_max_event_bytes")

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._buffer = bytearray()  # grows in place: one large event in small chunks is not copied with each of them
        self._first = True
        self._max_event_bytes = max_event_bytes

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take a chunk, give the events it completes.

        Raises:
            MalformedError: One event is larger than we take; what came so far is in `tail`.
        """
        if not self._buffer and not self._first and (event := usual_event(chunk)) is not None:
            return [event]
        # A blank line is at most four bytes, so one that ends in this chunk starts at most three before it.
        scan = max(0, len(self._buffer) - 3)
        buffer = self._buffer
        buffer += chunk
        events = []
        start = 0
        while match := _BLANK.search(buffer, max(start, scan)):
            events.append(self._event(bytes(buffer[start : match.end()])))
            start = match.end()
        if len(buffer) - start > self._max_event_bytes:  # the events just found stay with it, since nobody gets them
            raise MalformedError(f"one event is larger than {self._max_event_bytes} bytes", where="event stream")
        del buffer[:start]
        return events

    @property
    def tail(self) -> bytes:
        """What follows the last blank line: by the standard, no event."""
        return bytes(self._buffer)

    @property
    def tail_data(self) -> bytes:
        """Data lines of the tail, joined as those of an event; empty where it has none."""
        return _data_of(bytes(self._buffer))

    def take_tail(self) -> bytes:
        """The tail, which is then no longer kept."""
        tail, self._buffer = bytes(self._buffer), bytearray()
        return tail

    def _event(self, raw: bytes) -> ServerSentEvent:
        read = raw
        if self._first:
            self._first = False
            read = raw.removeprefix(_BOM)
        if (event := usual_event(read)) is not None:
            return event if read is raw else event._replace(raw=raw)
        values, event_name = [], b""
        for name, value in _fields(read):
            if name == b"data":
                values.append(value)
            elif name == b"event":
                event_name = value
        return ServerSentEvent(raw, b"\n".join(values) if values else None, event_name)
