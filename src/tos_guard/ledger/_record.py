"""The record of one exchange, field for field as docs/spec/records.md lists it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

from tos_guard._canonical import encode_claims

__all__ = ["ExchangeRecord", "RecordType"]


class RecordType(StrEnum):
    """Whether the handler ran. Retention is set per type."""

    EXCHANGE = "exchange"
    DENIAL = "denial"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRecord:
    """One authenticated exchange: no prompt, no output, no address, no credential.

    Attributes are those of docs/spec/records.md. `account_id` is not part of the record: it is the link that stores keep apart, and
    erase on request.
    """

    type: RecordType
    issuer: str
    rid: str
    sub: str
    started: int
    finished: int
    status: int
    action: str
    model: str
    purpose: str
    decision: str
    reasons: tuple[str, ...]
    terms_version: str
    terms_sha256: str
    usage_sha256: str
    grant: str | None = None
    jti: str | None = None
    kid: str | None = None
    proj: str | None = None
    n: int | None = None
    root: str | None = None
    completion: str | None = None
    req: str | None = None
    carrier: str = "none"
    unsealed: str | None = None
    region: str | None = None
    verification: str | None = None
    channel: str = "api"
    end_user: str | None = None
    account_version: int | None = None
    terms_also: tuple[str, ...] = ()
    receipt: str | None = None
    mode: str = "enforce"
    account_id: str | None = None

    def to_document(self) -> dict[str, Any]:
        """The record as JSON members, without `account_id`."""
        # Not `asdict`: it copies deeply, and this runs for every exchange.
        document = {name: getattr(self, name) for name in _MEMBERS}
        document["type"] = str(self.type)
        document["reasons"] = list(self.reasons)
        document["terms_also"] = list(self.terms_also)
        return document

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes of the record: without the members that were added later, where they have their default.

        So a record keeps the bytes that an earlier release gave it.
        """
        document = self.to_document()
        for name, default in _ADDED:
            if document[name] == default:
                del document[name]
        return encode_claims(document)

    @classmethod
    def from_document(cls, document: dict[str, Any], *, account_id: str | None = None) -> ExchangeRecord:
        """The record that `to_document` or `to_bytes` wrote, in this release or an earlier one.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        fields = dict(document)
        fields["type"] = RecordType(fields["type"])
        fields["reasons"] = tuple(fields["reasons"])
        fields["terms_also"] = tuple(fields.get("terms_also", ()))
        return cls(**fields, account_id=account_id)


_MEMBERS: Final = tuple(field.name for field in fields(ExchangeRecord) if field.name != "account_id")
_ADDED: Final[tuple[tuple[str, Any], ...]] = (
    ("region", None),
    ("verification", None),
    ("channel", "api"),
    ("end_user", None),
    ("account_version", None),
    ("terms_also", []),
    ("receipt", None),
    ("mode", "enforce"),
)
"""Members that records of the first release do not have, as JSON values."""
