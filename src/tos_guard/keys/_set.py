"""Sets of keys of one issuer (docs/spec/keys.md K1, K6)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from tos_guard._canonical import encode_claims, parse_json
from tos_guard.errors import MalformedError
from tos_guard.keys._record import KeyRecord, parse_jwk
from tos_guard.types import KeyPurpose

__all__ = ["KeySet", "parse_key_list", "parse_key_set"]

MAX_BYTES: Final = 65_536  # 64 keys of the largest form take 30 KB
MAX_KEYS: Final = 64  # a key a month for five years


@dataclass(frozen=True, slots=True)
class KeySet:
    """Checked keys of one issuer.

    Attributes:
        issuer: Origin the set speaks for, or None where the set does not say.
        keys: The keys, no two with the same id.
    """

    issuer: str | None
    keys: tuple[KeyRecord, ...]

    def find(self, kid: str, purpose: KeyPurpose) -> KeyRecord | None:
        """The key with this id, if it is for this purpose."""
        for key in self.keys:
            if key.kid == kid and key.purpose is purpose:
                return key
        return None

    def merged(self, others: Iterable[KeyRecord]) -> KeySet:
        """These keys, with the others added or put in the place of those with the same id."""
        by_id = {key.kid: key for key in self.keys} | {key.kid: key for key in others}
        return KeySet(self.issuer, tuple(by_id.values()))

    def to_document(self) -> dict[str, Any]:
        """The set as JSON members."""
        issuer = {} if self.issuer is None else {"issuer": self.issuer}
        return {**issuer, "keys": [key.to_jwk() for key in self.keys]}

    def to_bytes(self) -> bytes:
        """The set as published, RFC 8785 JSON."""
        return encode_claims(self.to_document())


def parse_key_set(data: bytes, *, where: str = "key set") -> KeySet:
    """Read an untrusted key set, and refuse it as a whole if one key breaks a rule (K1–K7).

    Raises:
        MalformedError: A rule is broken; the message names it and the key.
    """
    document = parse_json(data, where=where, max_depth=8, max_bytes=MAX_BYTES, integers_only=True)
    if not isinstance(document, dict):
        raise MalformedError("not a JSON object", where=where, cure='A key set is {"issuer": …, "keys": […]}.')
    issuer = document.get("issuer")
    if "issuer" in document and not isinstance(issuer, str):
        raise MalformedError("issuer is not a string", where=where)
    return KeySet(issuer, parse_key_list(document.get("keys"), where=where, max_keys=MAX_KEYS))


def parse_key_list(value: Any, *, where: str, max_keys: int) -> tuple[KeyRecord, ...]:
    """Read the member ``keys`` of a set or history.

    Raises:
        MalformedError: As `parse_key_set`.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= max_keys:
        raise MalformedError(f"keys is not an array of 1 to {max_keys}", where=where)
    records = []
    for position, jwk in enumerate(value):
        if not isinstance(jwk, dict):
            raise MalformedError("is not an object", where=f"{where} key {position}")
        records.append(parse_jwk(jwk, where=f"{where} key {position}"))
    if len({record.kid for record in records}) != len(records):
        raise MalformedError("two keys have the same kid", where=where)
    return tuple(records)
