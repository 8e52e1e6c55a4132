"""The content projection: parts, leaves and their root (docs/spec/projection.md P2–P8).

The same code makes the leaves when a response is sealed and when it is verified. What a dialect adds is only where parts are found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from tos_guard._canonical import b64url_encode, canonical_json, is_digest, leaf_hash, merkle_root
from tos_guard.errors import MalformedError

__all__ = [
    "MAX_INLINE_LEAVES",
    "Content",
    "Leaf",
    "LeafTree",
    "Parts",
    "canonical_part",
    "encode_text",
    "normalise_text",
    "parse_leaves",
    "text_digest",
]

MAX_INLINE_LEAVES: Final = 4
"""Up to so many leaves may travel in the token itself; others stand beside it, so that a token stays under 1.8 KB."""

MAX_LEAVES: Final = 65_536
MAX_CHOICE: Final = 65_535
_NAME: Final = re.compile(r"[a-z0-9_.]{1,64}")
_OUTER: Final = "\t\n\r "

Leaf = tuple[int, str, str | None]
"""Choice, name of the part, and SHA-256 of its value in base64url, or None for a part that cannot be covered."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a final token says of the content.

    Attributes:
        projection: Name of the projection: ``chat-1``, ``json-1``, ``bytes-1``, …
        leaves: All leaves in order; None where the token does not hold them and nobody gave them.
        count: Number of leaves.
        root: RFC 6962 root over them, base64url.
        beside: The leaves stand beside the token although they are few, since it would become too long with them.
    """

    projection: str
    count: int
    root: str
    leaves: tuple[Leaf, ...] | None
    beside: bool = False

    @classmethod
    def of(cls, projection: str, leaves: Iterable[Leaf]) -> Content:
        """The content with these leaves, which are put in order."""
        ordered = tuple(sorted(leaves, key=_order))
        return cls(projection, len(ordered), root_of(ordered), ordered)

    @property
    def is_inline(self) -> bool:
        """Whether the leaves travel in the token."""
        return self.count <= MAX_INLINE_LEAVES and not self.beside

    def with_leaves_beside(self) -> Content:
        """The same content, its leaves beside the token."""
        return replace(self, beside=True)

    def to_claim(self) -> dict[str, Any]:
        """The claim ``content``."""
        claim: dict[str, Any] = {"n": self.count, "proj": self.projection, "root": self.root}
        if self.is_inline and self.leaves is not None:
            claim["leaves"] = [list(leaf) for leaf in self.leaves]
        return claim

    @classmethod
    def from_claim(cls, claim: object, *, where: str) -> Content:
        """Read the claim ``content`` (T11).

        Raises:
            MalformedError: It is not well formed.
        """
        if not isinstance(claim, dict):
            raise MalformedError("is not an object", where=where)
        projection, count, root = claim.get("proj"), claim.get("n"), claim.get("root")
        if not isinstance(projection, str) or type(count) is not int or not 0 <= count <= MAX_LEAVES or not is_digest(root):
            raise MalformedError("proj, n or root has the wrong form", where=where)
        if count > MAX_INLINE_LEAVES and "leaves" in claim:
            raise MalformedError(f"leaves stand beside the token where there are more than {MAX_INLINE_LEAVES} parts", where=where)
        content = cls(projection, count, str(root), None)
        return content.with_leaves(claim["leaves"], where=where) if "leaves" in claim else content

    def with_leaves(self, leaves: object, *, where: str) -> Content:
        """The same content with its leaves, which must have its count and root.

        Raises:
            MalformedError: They are not the leaves of this root.
        """
        parsed = parse_leaves(leaves, where=where)
        if len(parsed) != self.count or root_of(parsed) != self.root:
            raise MalformedError("the leaves do not have the count and root of the token", where=where)
        return Content(self.projection, self.count, self.root, parsed)


def _order(leaf: Leaf) -> tuple[int, str]:
    return leaf[0], leaf[1]


def root_of(leaves: Iterable[Leaf]) -> str:
    """RFC 6962 root over leaves in their order, base64url (P6)."""
    return b64url_encode(merkle_root([leaf_hash(_leaf_bytes(leaf)) for leaf in leaves]))


def _leaf_bytes(leaf: Leaf) -> bytes:
    choice, name, digest = leaf
    # Names and digests hold no character that JSON escapes, so this is the RFC 8785 form.
    return (f'[{choice},"{name}",null]' if digest is None else f'[{choice},"{name}","{digest}"]').encode("ascii")


def parse_leaves(value: object, *, where: str) -> tuple[Leaf, ...]:
    """Read an array of leaves: well formed, in order, unique (P4, P5).

    Raises:
        MalformedError: It is not such an array.
    """
    if not isinstance(value, list) or len(value) > MAX_LEAVES:
        raise MalformedError("leaves is not an array of leaves", where=where)
    leaves: list[Leaf] = []
    for item in value:
        if not isinstance(item, list) or len(item) != 3:
            raise MalformedError("a leaf is not an array of three", where=where)
        choice, name, digest = item
        if type(choice) is not int or not 0 <= choice <= MAX_CHOICE or not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise MalformedError("a leaf has no proper choice and name", where=where)
        if digest is not None and not is_digest(digest):
            raise MalformedError("a leaf has no proper digest", where=where)
        leaves.append((choice, name, digest))
    if any(_order(a) >= _order(b) for a, b in pairwise(leaves)):
        raise MalformedError("leaves are not in order, or two are of the same part", where=where)
    return tuple(leaves)


def normalise_text(text: str) -> str:
    """Line ends become LF, outer white space goes, nothing else changes (P2)."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip(_OUTER)


def encode_text(text: str) -> bytes | None:
    """UTF-8 after joining UTF-16 halves, or None for a lone one (P3)."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le").encode("utf-8")
        except UnicodeDecodeError:
            return None


def canonical_part(value: object) -> bytes | None:
    """RFC 8785 bytes of a JSON value, or None if it is not I-JSON (P3)."""
    try:
        return canonical_json(value)
    except MalformedError:
        return None


def text_digest(text: str) -> str | None:
    """Digest of a text part as its leaf carries it, or None if the text cannot be covered."""
    data = encode_text(normalise_text(text))
    return None if data is None else _digest(data)


def _digest(data: bytes) -> str:
    return b64url_encode(hashlib.sha256(data).digest())


class Parts:
    """Collects the values of parts as they come, and makes the leaves in the end.

    Values are kept, not hashed as they flow: joining once is quicker than keeping a state machine per part, and what has been sent
    to the client is bounded by the response itself.
    """

    __slots__ = ("_values",)

    def __init__(self) -> None:
        # (choice, name) → (is text, pieces), or None once uncoverable
        self._values: dict[tuple[int, str], tuple[bool, list[str | bytes]] | None] = {}

    def add(self, choice: int, name: str, value: str | bytes, *, text: bool) -> None:
        """Append a value. *text* values are normalised in the end, others taken exactly; bytes are taken as encoded already."""
        key = (choice, name)
        try:
            part = self._values[key]
        except KeyError:
            self._values[key] = (text, [value])
        else:
            if part is not None:
                part[1].append(value)

    def cannot_cover(self, choice: int, name: str) -> None:
        """Mark a part as uncoverable, whatever else is added to it (P4)."""
        self._values[(choice, name)] = None

    def has(self, choice: int, name: str) -> bool:
        """Whether anything was added to a part."""
        return (choice, name) in self._values

    def digest(self, choice: int, name: str) -> str | None:
        """Digest of a part as it is now, also where it is empty; None if it is uncoverable."""
        data = _bytes_of(self._values[choice, name])
        return None if data is None else _digest(data)

    def leaves(self) -> list[Leaf]:
        """The leaves, without parts that turned out empty."""
        found: list[Leaf] = []
        for (choice, name), part in self._values.items():
            data = _bytes_of(part)
            if data is None:
                found.append((choice, name, None))
            elif data:
                found.append((choice, name, _digest(data)))
        return found


def _bytes_of(part: tuple[bool, list[str | bytes]] | None) -> bytes | None:
    return None if part is None else _join(part[1], is_text=part[0])


def _join(pieces: list[str | bytes], *, is_text: bool) -> bytes | None:
    if not any(isinstance(piece, bytes) for piece in pieces):
        joined = "".join(pieces)  # type: ignore[arg-type]
        return encode_text(normalise_text(joined) if is_text else joined)
    # An object among string values: only alone does it have a meaning.
    return bytes(pieces[0]) if len(pieces) == 1 and isinstance(pieces[0], bytes) else None


class LeafTree:
    """Leaves that come in their order, and their root at any time: what a long stream costs for each message does not grow with it.

    Attributes:
        count: How many there are.
    """

    __slots__ = ("_leaves", "_peaks", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._leaves: list[Leaf] = []
        self._peaks: list[tuple[int, bytes]] = []  # height and root of each whole subtree, the highest first

    def append(self, leaf: Leaf) -> None:
        """Add the next leaf, which follows all others by choice and name."""
        node, height = leaf_hash(_leaf_bytes(leaf)), 0
        while self._peaks and self._peaks[-1][0] == height:
            node = _pair(self._peaks.pop()[1], node)
            height += 1
        self._peaks.append((height, node))
        self._leaves.append(leaf)
        self.count += 1

    def content(self, projection: str) -> Content:
        """The content with the leaves so far."""
        root = self._peaks[-1][1] if self._peaks else merkle_root(())
        for _, peak in reversed(self._peaks[:-1]):
            root = _pair(peak, root)
        return Content(projection, self.count, b64url_encode(root), tuple(self._leaves))

    def copy(self) -> LeafTree:
        """One that goes on from here by itself."""
        other = LeafTree()
        other.count, other._leaves, other._peaks = self.count, list(self._leaves), list(self._peaks)
        return other


def _pair(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
