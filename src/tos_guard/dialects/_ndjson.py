"""JSON in lines: where its content is, and how it carries a tag as it flows.

Implements projection ``ndjson-1`` (docs/spec/projection.md) and lines as carrier (docs/spec/carriers.md, C14). A line leaves when it is
whole; nothing else is kept of it than a digest.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from tos_guard._canonical import b64url_encode
from tos_guard.dialects._body import TAG_MEMBER, parse_response_json
from tos_guard.dialects._plain import PlainDialect
from tos_guard.dialects._projection import BytesProjection, Projection
from tos_guard.dialects._sealing import Step
from tos_guard.errors import MalformedError
from tos_guard.provenance import Content, canonical_part
from tos_guard.types import Completion

__all__ = ["LINES_PROJECTION", "LINES_TYPES", "LineStream", "LinesProjection", "LinesSealing", "NdjsonDialect", "tag_of_line"]

LINES_PROJECTION: Final = "ndjson-1"
LINES_PART: Final = "lines"
MAX_LINE_BYTES: Final = 16 * 1024 * 1024  # as for a whole JSON body
LINES_TYPES: Final = frozenset(
    {
        b"application/x-ndjson",
        b"application/ndjson",
        b"application/jsonl",
        b"application/x-jsonlines",
        b"application/jsonlines",
    }
)
_WHITE: Final = b" \t\r\n"


class LinesProjection(Projection):
    """``ndjson-1``: the JSON values of lines, in order. Holds one hash, however many there are."""

    name = LINES_PROJECTION

    def __init__(self) -> None:
        super().__init__()
        self._digest = hashlib.sha256()
        self.count: int = 0
        self.is_coverable: bool = True

    def add_line(self, value: Any) -> None:
        """Take the value of the next line that is neither blank nor the tag's own."""
        self.count += 1
        data = canonical_part(value)
        if data is None:
            self.is_coverable = False
        else:
            self._digest.update(data + b"\n")

    def content(self) -> Content:
        """The content so far."""
        digest = b64url_encode(self._digest.copy().digest()) if self.is_coverable else None
        return Content.of(self.name, [(0, LINES_PART, digest)] if self.count else [])


class LineStream:
    """Cuts chunks of bytes into lines."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take a chunk, give the lines it completes, each with its LF.

        Raises:
            MalformedError: One line is larger than we take; what came so far is in the tail.
        """
        end = chunk.rfind(b"\n") + 1
        whole = b""
        if end:
            whole = b"".join((*self._pieces, chunk[:end]))
            self._pieces, self._size = [], 0
        if end < len(chunk):
            self._pieces.append(chunk[end:])
            self._size += len(chunk) - end
        lines = whole.splitlines(keepends=True) if b"\r" not in whole else [line + b"\n" for line in whole.split(b"\n")[:-1]]
        if self._size > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES + 1 for line in lines):
            self._pieces = [whole, *self._pieces]
            raise MalformedError(f"one line is larger than {MAX_LINE_BYTES} bytes", where="lines")
        return lines

    def take_tail(self) -> bytes:
        """What follows the last LF, which is then no longer kept."""
        tail = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        return tail


def tag_of_line(value: Any) -> Any:
    """The tag member of a line that is the tag's own, or None."""
    return value[TAG_MEMBER] if isinstance(value, dict) and value.keys() == {TAG_MEMBER} else None


class LinesSealing:
    """One response in lines on its way out.

    What cannot be read as lines of JSON, or has no canonical form, is sealed as the bytes that leave: under ``bytes-1``, and then without
    a line of its own.

    Attributes:
        completion: How it ended.
        removed_tags: Tag lines of an upstream that were taken out.
    """

    def __init__(self) -> None:
        self.completion: Completion = Completion.COMPLETE
        self.removed_tags: int = 0
        self._lines = LineStream()
        self._values = LinesProjection()
        self._bytes = BytesProjection()
        self._is_json = True
        self._ends_with_line = True

    @property
    def is_lines(self) -> bool:
        """Whether it can be sealed as lines."""
        return self._is_json and self._values.is_coverable

    @property
    def content(self) -> Content:
        """The content so far."""
        return (self._values if self.is_lines else self._bytes).content()

    def feed(self, chunk: bytes) -> Step:
        """Take bytes of the handler, and let whole lines go."""
        if not self._is_json:
            return Step(self._leaves(chunk))
        try:
            lines = self._lines.feed(chunk)
        except MalformedError:
            self._is_json = False
            return Step(self._leaves(self._lines.take_tail()))
        return Step(self._leaves(b"".join(line for line in lines if self._take(line))))

    def finish(self) -> Step:
        """The handler's response ended: what it left without an LF is a line too."""
        tail = self._lines.take_tail()
        return Step(self._leaves(tail if self._take(tail) else b""), seal=True)

    def fail(self, line: bytes, completion: Completion) -> Step:
        """The response cannot go on: *line*, which says so, is its last. A line that was begun and not ended does not leave."""
        self._lines.take_tail()
        self.completion = completion
        self._take(line)
        return Step(self._leaves(self.last_line(line)), seal=True)

    def tag_line(self, tag: bytes) -> bytes:
        """The tag's own line, behind all that left."""
        return self.last_line(b'{"%s":%s}\n' % (TAG_MEMBER.encode("ascii"), tag))

    def last_line(self, line: bytes) -> bytes:
        """A line of ours as it stands behind what left, which may lack its LF."""
        return line if self._ends_with_line else b"\n" + line

    def _leaves(self, data: bytes) -> bytes:
        if data:
            self._bytes.add_chunk(data)
            self._ends_with_line = data.endswith(b"\n")
        return data

    def _take(self, line: bytes) -> bool:
        """Cover a line. Returns whether it may leave."""
        if not self._is_json or not line.strip(_WHITE):
            return True
        try:
            value = parse_response_json(line, where="line")
        except MalformedError:
            self._is_json = False
            return True
        if tag_of_line(value) is not None:
            self.removed_tags += 1
            return False
        self._values.add_line(value)
        return True


class NdjsonDialect(PlainDialect):
    """A JSON request that is answered in lines.

    Args:
        model: Model of a request that names none.
        action: Action of the terms that a request asks for.
        tag_line: Whether a response in lines ends with a line that carries its tag.
    """

    name = "ndjson"

    def __init__(self, *, model: str, action: str = "generate", tag_line: bool = False) -> None:
        super().__init__(model=model, action=action)
        self.tag_line: bool = tag_line

    def error_event(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The line that ends a response in-band."""
        return json.dumps({"error": {"message": message, "code": code, **extra}}).encode("ascii") + b"\n"
