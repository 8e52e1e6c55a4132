"""A seal that is kept because the same response may leave again (docs/adr/0008-every-door.md, "Kept seals")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from tos_guard._canonical import encode_claims

__all__ = ["KeptSeal", "SealKind"]

Leaf = tuple[int, str, str | None]
"""As `tos_guard.provenance.Leaf`."""


class SealKind(StrEnum):
    """By what a kept seal is found again."""

    REQUEST = "request"
    """The request id: a response whose final token nothing could carry."""
    RESPONSE = "response"
    """The response's own id: one that the provider stores, or that runs in the background."""
    IDEMPOTENCY = "idempotency"
    """The caller's ``Idempotency-Key``, hashed."""
    BATCH = "batch"
    """Batch and line: a line of a batch that has no response yet."""

    @property
    def is_fixed(self) -> bool:
        """Whether the first seal under a name stays, whatever comes of another request."""
        return self in (SealKind.IDEMPOTENCY, SealKind.BATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSeal:
    """A seal under one name: no prompt, no output, no salt.

    Attributes:
        issuer: Who signs.
        account_id: Whose it is. Like the link of a record it is kept apart, and goes with the account.
        kind: By what it is found.
        key: The name itself.
        rid: Request id of the exchange that it seals.
        jti: Id of its final token.
        sub: Pseudonym in its tokens.
        req: The request's HMAC, as in its tokens.
        kept: When it was kept, in ms since 1970.
        until: Until when, in ms since 1970. A change of the settings holds for what is kept from then on.
        request_hash: Keyed hash of the request, or None where nobody compares it.
        token: The final token, or None while the exchange is open.
        leaves: Leaves beside the token, or None where it holds them.
        proj: Projection, or None while open; ``n`` and ``root`` likewise.
        n: Number of leaves.
        root: Root over them.
        exchange: What it takes to decide on the exchange again and, while it is open, to seal and settle it: facts, terms in force,
            decision, reservation. JSON members.
    """

    issuer: str
    account_id: str
    kind: SealKind
    key: str
    rid: str
    jti: str
    sub: str
    req: str
    kept: int
    until: int
    request_hash: str | None = None
    token: str | None = None
    leaves: tuple[Leaf, ...] | None = None
    proj: str | None = None
    n: int | None = None
    root: str | None = None
    exchange: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_open(self) -> bool:
        """Whether its exchange has no final token yet."""
        return self.token is None

    def gives_way_to(self, other: KeptSeal) -> bool:
        """Whether *other*, of the same name, may take its place: once an exchange is sealed, its seal stays."""
        if self.until <= other.kept:
            return True
        return self.is_open if self.rid == other.rid else not self.kind.is_fixed

    def to_document(self) -> dict[str, Any]:
        """The seal as JSON members, without `account_id`."""
        document = {name: getattr(self, name) for name in _MEMBERS}
        document["kind"] = str(self.kind)
        document["leaves"] = None if self.leaves is None else [list(leaf) for leaf in self.leaves]
        document["exchange"] = dict(self.exchange)
        return document

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes of the seal.

        Raises:
            MalformedError, TypeError, ValueError: It holds what JSON cannot.
        """
        return encode_claims(self.to_document())

    @classmethod
    def from_document(cls, document: Mapping[str, Any], *, account_id: str) -> KeptSeal:
        """The seal that `to_document` or `to_bytes` wrote.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        members = dict(document)
        members["kind"] = SealKind(members["kind"])
        if members["leaves"] is not None:
            members["leaves"] = tuple((choice, name, digest) for choice, name, digest in members["leaves"])
        return cls(**members, account_id=account_id)


_MEMBERS: Final = tuple(each.name for each in fields(KeptSeal) if each.name != "account_id")
