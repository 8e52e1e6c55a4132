"""What all projections share: parts collected, uncovered members remembered (docs/spec/projection.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from tos_guard._canonical import b64url_encode
from tos_guard.errors import MalformedError, UnsupportedVersionError
from tos_guard.provenance import Content, Parts, canonical_part
from tos_guard.types import Completion

__all__ = ["BytesProjection", "JSONProjection", "Projection", "projection_named"]

BODY_PART: Final = "body"


class Projection:
    """Finds the parts of a response.

    Attributes:
        name: The ``proj`` of the token.
        parts: What was found so far.
        completion: How the response ended, as its whole body says.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.parts: Parts = Parts()
        self.completion: Completion = Completion.COMPLETE
        self._uncovered: set[str] = set()

    def add_body(self, body: Any) -> None:
        """Take a whole response body, parsed if it is JSON, as bytes otherwise.

        Raises:
            MalformedError: The body is not one this projection covers.
        """
        raise MalformedError(f"a {type(body).__name__} has no {self.name}", where="response body")

    def add_event(self, event: dict[str, Any]) -> bool:
        """Take one event of a stream. Returns whether it bears content.

        Raises:
            MalformedError: The event is not one this projection covers.
        """
        raise MalformedError(f"a stream of {len(event)} members has no {self.name}", where="event stream")

    def note_body(self, body: Any) -> None:
        """Remember which members of a body are not covered. Only a verifier asks, so sealing does not pay for it."""

    def note_event(self, event: dict[str, Any]) -> None:
        """Remember which members of an event are not covered."""

    def note(self, paths: Iterable[str]) -> None:
        """Remember members that are not covered."""
        self._uncovered.update(paths)

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Paths of members that the projection does not cover, in order."""
        return tuple(sorted(self._uncovered))

    def content(self) -> Content:
        """The content as its token says it."""
        return Content.of(self.name, self.parts.leaves())


class JSONProjection(Projection):
    """``json-1``: a whole JSON body without its tag."""

    name = "json-1"

    def add_body(self, body: Any) -> None:
        """Take a parsed JSON body."""
        covered = {name: value for name, value in body.items() if name != "ai_provenance"} if isinstance(body, dict) else body
        data = canonical_part(covered)
        if data is None:
            self.parts.cannot_cover(0, BODY_PART)
        else:
            self.parts.add(0, BODY_PART, data, text=False)


class BytesProjection(Projection):
    """``bytes-1``: the bytes as they are. Holds one hash, however many there are."""

    name = "bytes-1"

    def __init__(self) -> None:
        super().__init__()
        self._digest = hashlib.sha256()
        self._is_empty = True

    def add_body(self, body: Any) -> None:
        """Take the body's bytes."""
        if not isinstance(body, bytes):
            raise MalformedError("bytes-1 covers bytes, not what was read from them", where="response body")
        self.add_chunk(body)

    def add_chunk(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._digest.update(chunk)
        self._is_empty = self._is_empty and not chunk

    def content(self) -> Content:
        """The content so far."""
        leaves = [] if self._is_empty else [(0, BODY_PART, b64url_encode(self._digest.copy().digest()))]
        return Content.of(self.name, leaves)


def projection_named(name: str, known: Iterable[type[Projection]]) -> Projection:
    """A fresh projection by the name in a token (P9).

    Raises:
        UnsupportedVersionError: None of the known ones has this name.
    """
    for projection in known:
        if projection.name == name:
            return projection()
    raise UnsupportedVersionError(
        f"projection {name[:32]!r} is not one this version reads", where="token content", cure="Use a newer verifier."
    )
