"""The signed key history: every key that ever signed, so that old tokens stay provable (docs/spec/keys.md H1–H3; DESIGN D16)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tos_guard.errors import MalformedError, UndecidableError, UnknownKeyError, UntrustedIssuerError
from tos_guard.keys._jws import parse_jws
from tos_guard.keys._record import KeyRecord
from tos_guard.keys._set import KeySet, parse_key_list
from tos_guard.types import KeyPurpose

__all__ = ["KEY_HISTORY_TYP", "KeyHistory", "key_history_payload", "open_key_history"]

KEY_HISTORY_TYP: Final = "ai-key-history+jwt"
MAX_CHARS: Final = 262_144  # about 700 keys
MAX_KEYS: Final = 1_024


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """A verified history.

    Attributes:
        issuer: Origin it speaks for.
        sequence: One more with each change.
        issued_at: When it was signed, seconds since 1970.
        keys: Every key of every purpose, oldest first.
    """

    issuer: str
    sequence: int
    issued_at: int
    keys: tuple[KeyRecord, ...]

    def to_key_set(self) -> KeySet:
        """All keys of the history as a set."""
        return KeySet(self.issuer, self.keys)

    def check_follows(self, earlier: KeyHistory) -> None:
        """Check that nothing an earlier history said was taken back (H3).

        Raises:
            UndecidableError: It is older, or a key vanished, changed, lived longer, or is no longer revoked.
        """
        if self.issuer != earlier.issuer or self.sequence < earlier.sequence:
            raise UndecidableError(f"is older than the history already known ({self.sequence} < {earlier.sequence})", where="key history")
        now = {key.kid: key for key in self.keys}
        for before in earlier.keys:
            after = now.get(before.kid)
            if after is None or after.coordinates != before.coordinates or after.purpose != before.purpose:
                raise UndecidableError(f"key {before.kid} is missing or changed", where="key history")
            if before.not_after is not None and (after.not_after is None or after.not_after > before.not_after):
                raise UndecidableError(f"key {before.kid} was retired and lives again", where="key history")
            if before.revoked is not None and (after.revoked is None or after.revoked > before.revoked):
                raise UndecidableError(f"key {before.kid} was revoked and is no longer, or later", where="key history")
            if before.revoked is not None and before.reason != "superseded" and after.reason == "superseded":
                raise UndecidableError(f"key {before.kid} was compromised and is said to be superseded", where="key history")


def key_history_payload(history: KeyHistory) -> dict[str, Any]:
    """The claims to sign with a key of purpose ``key-history``."""
    return {
        "iat": history.issued_at,
        "iss": history.issuer,
        "keys": [key.to_jwk() for key in history.keys],
        "seq": history.sequence,
        "ver": 1,
    }


def open_key_history(text: str, *, trusted: KeySet, expected_issuer: str, where: str = "key history") -> KeyHistory:
    """Prove that a history came from a trusted key of the expected issuer (H1, H2).

    Args:
        text: The compact JWS.
        trusted: Keys of purpose ``key-history`` that the caller trusts for this issuer.
        expected_issuer: The issuer the caller asked.

    Raises:
        MalformedError: Not a history.
        UntrustedIssuerError: It speaks for another issuer.
        UnknownKeyError: Signed by a key the caller does not trust, or one it does not list itself, or revoked.
        SignatureError: The signature does not match.
    """
    unverified = parse_jws(text, typ=KEY_HISTORY_TYP, where=where, max_chars=MAX_CHARS)
    claims = unverified.payload
    key = trusted.find(unverified.kid, KeyPurpose.KEY_HISTORY)
    if claims.get("iss") != expected_issuer:
        raise UntrustedIssuerError("speaks for another issuer", where=where)
    if key is None:
        raise UnknownKeyError(f"signed by the unknown key {unverified.kid[:64]}", where=where)
    key.verify(unverified.algorithm, unverified.signing_input, unverified.signature, where=where)
    sequence, issued_at = claims.get("seq"), claims.get("iat")
    if claims.get("ver") != 1 or type(claims.get("ver")) is not int:
        raise MalformedError("ver is not 1", where=where)
    if type(sequence) is not int or sequence < 0 or type(issued_at) is not int:
        raise MalformedError("seq or iat is not a whole number", where=where)
    keys = parse_key_list(claims.get("keys"), where=where, max_keys=MAX_KEYS)
    if any(record.not_before is None for record in keys):
        raise MalformedError("a key has no nbf", where=where)
    history = KeyHistory(expected_issuer, sequence, issued_at, keys)
    own = history.to_key_set().find(key.kid, KeyPurpose.KEY_HISTORY)
    if own is None or own.revoked is not None:
        raise UnknownKeyError("signed by a key it does not list, or lists as revoked", where=where)
    return history
