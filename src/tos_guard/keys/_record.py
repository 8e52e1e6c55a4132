"""One public key: its material checked, its purpose and its time known (docs/spec/keys.md K2–K9, T6, T7).

Ed25519 and P-256 go straight to `cryptography`: importing PyJWT costs more than our whole verifier may (docs/adr/0002).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tos_guard._canonical import b64url_decode, b64url_encode, encode_claims
from tos_guard.errors import ExpiredError, KeyRevokedError, MalformedError, SignatureError
from tos_guard.types import KeyPurpose

__all__ = ["ALGORITHM_NAME", "KeyRecord", "PublicKey", "parse_jwk", "record_of", "thumbprint"]

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

ALGORITHM_NAME: Final = {"OKP": "Ed25519", "EC": "ES256"}
"""The algorithm name we write for each key type."""

_ACCEPTED: Final = {"OKP": frozenset({"Ed25519", "EdDSA"}), "EC": frozenset({"ES256"})}
PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_SIGNATURE_BYTES: Final = 64
_ECDSA: Final = ECDSA(SHA256())
_CURVE: Final = SECP256R1()

# Ed25519 (RFC 8032 section 5.1): field prime, curve constant, and the y coordinates of the points of order 1, 2, 4 and 8.
# Under such a key one signature verifies for every message.
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_Y8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_P256_P: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1  # FIPS 186-4 D.1.2.3
_LOW_ORDER_Y: Final = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})

Reason = Literal["compromised", "superseded"]


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A checked public key with its purpose and history.

    Attributes:
        kid: RFC 7638 SHA-256 thumbprint.
        kty: ``OKP`` (Ed25519) or ``EC`` (P-256).
        coordinates: ``x``, or ``x`` and ``y``, 32 bytes each.
        purpose: The one thing this key signs.
        not_before: First second at which it signs, since 1970, or None.
        not_after: Last second at which it signs, or None.
        revoked: When it was revoked, or None.
        reason: Why it was revoked.
        public: The primitive.
    """

    kid: str
    kty: str
    coordinates: tuple[bytes, ...]
    purpose: KeyPurpose
    public: PublicKey
    not_before: int | None = None
    not_after: int | None = None
    revoked: int | None = None
    reason: Reason | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyRecord) and self.to_jwk() == other.to_jwk()

    def __hash__(self) -> int:
        return hash(self.kid)

    @property
    def algorithm(self) -> str:
        """The ``alg`` we write with this key."""
        return ALGORITHM_NAME[self.kty]

    def verify(self, algorithm: str, message: bytes, signature: bytes, *, where: str) -> None:
        """Check a signature; the key and not the header says which algorithm counts (T6, T7).

        Raises:
            SignatureError: Another algorithm, another length, or no match.
        """
        if algorithm not in _ACCEPTED[self.kty]:
            raise SignatureError(f"algorithm {algorithm[:24]!r} is not one this key is for", where=where)
        if len(signature) != _SIGNATURE_BYTES:
            raise SignatureError(f"signature has {len(signature)} bytes instead of {_SIGNATURE_BYTES}", where=where)
        try:
            if isinstance(self.public, Ed25519PublicKey):
                self.public.verify(signature, message)
            else:
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                self.public.verify(encode_dss_signature(r, s), message, _ECDSA)
        except InvalidSignature:
            raise SignatureError("the signature does not match", where=where, cure="The token or its claims were altered.") from None

    def check_time(self, issued_at: int, *, where: str) -> None:
        """Check that the key could sign at *issued_at*, seconds since 1970 (K8, K9).

        Raises:
            ExpiredError: Before the key's first or after its last moment.
            KeyRevokedError: Revoked, and the date alone proves nothing.
        """
        if self.revoked is not None:
            if self.reason != "superseded":
                raise KeyRevokedError(f"key {self.kid} was revoked as {self.reason or 'compromised'}", where=where, cure=_PROOF_OF_TIME)
            if issued_at >= self.revoked:
                raise KeyRevokedError(f"signed after key {self.kid} was revoked", where=where)
        if self.not_before is not None and issued_at < self.not_before:
            raise ExpiredError(f"signed before key {self.kid} was in use", where=where)
        if self.not_after is not None and issued_at > self.not_after:
            raise ExpiredError(f"signed after key {self.kid} was retired", where=where)

    def with_times(
        self,
        *,
        not_before: int | None = None,
        not_after: int | None = None,
        revoked: int | None = None,
        reason: Reason | None = None,
    ) -> KeyRecord:
        """The same key with these times in place of its own where given."""
        changes = {"not_before": not_before, "not_after": not_after, "revoked": revoked, "reason": reason}
        return replace(self, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]

    def to_jwk(self) -> dict[str, Any]:
        """The key as published: without ``alg``, since PyJWT drops keys that say ``Ed25519``."""
        times = {"nbf": self.not_before, "exp": self.not_after, "revoked": self.revoked, "reason": self.reason}
        return {
            **_material(self.kty, self.coordinates),
            "kid": self.kid,
            "purpose": str(self.purpose),
            "use": "sig",
            **{name: value for name, value in times.items() if value is not None},
        }


_PROOF_OF_TIME: Final = "Only evidence from outside the token that it is older than the revocation could decide this."


def _material(kty: str, coordinates: tuple[bytes, ...]) -> dict[str, str]:
    names = ("x", "y")[: len(coordinates)]
    crv = "Ed25519" if kty == "OKP" else "P-256"
    return {"crv": crv, "kty": kty, **{n: b64url_encode(c) for n, c in zip(names, coordinates, strict=True)}}


def thumbprint(kty: str, coordinates: tuple[bytes, ...]) -> str:
    """RFC 7638 SHA-256 thumbprint, base64url."""
    return b64url_encode(hashlib.sha256(encode_claims(_material(kty, coordinates))).digest())


def record_of(public: PublicKey, purpose: KeyPurpose, *, not_before: int | None = None) -> KeyRecord:
    """The record of a key we hold ourselves."""
    if isinstance(public, Ed25519PublicKey):
        kty = "OKP"
        coordinates: tuple[bytes, ...] = (public.public_bytes(Encoding.Raw, PublicFormat.Raw),)
    else:
        numbers = public.public_numbers()
        kty, coordinates = "EC", (numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big"))
    return KeyRecord(thumbprint(kty, coordinates), kty, coordinates, purpose, public, not_before)


def parse_jwk(jwk: dict[str, Any], *, where: str) -> KeyRecord:
    """Check one key of a set, as read from JSON (K2–K7).

    Raises:
        MalformedError: The key breaks one of the rules; the message says which.
    """
    if leaked := PRIVATE_MEMBERS & jwk.keys():
        raise MalformedError(
            f"holds the private member {min(leaked)!r}", where=where, cure="Publish the public part, and revoke this key: it is known."
        )
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if kty == "OKP" and crv == "Ed25519":
        coordinates: tuple[bytes, ...] = (_coordinate(jwk, "x", where),)
        public: PublicKey = ed25519_key(coordinates[0], where)
    elif kty == "EC" and crv == "P-256":
        coordinates = (_coordinate(jwk, "x", where), _coordinate(jwk, "y", where))
        public = _p256(*coordinates, where=where)
    else:
        raise MalformedError("is neither an Ed25519 nor a P-256 key", where=where)
    _check_use(jwk, kty, where)
    kid = thumbprint(kty, coordinates)
    if jwk.get("kid") != kid:
        raise MalformedError("kid is not the RFC 7638 thumbprint of the key", where=where)
    purpose = jwk.get("purpose")
    if purpose not in tuple(KeyPurpose):
        raise MalformedError(f"purpose is none of {', '.join(KeyPurpose)}", where=where)
    reason = jwk.get("reason")
    if reason not in (None, "compromised", "superseded"):
        raise MalformedError("reason is neither compromised nor superseded", where=where)
    nbf, exp, revoked = (_time(jwk, name, where) for name in ("nbf", "exp", "revoked"))
    return KeyRecord(kid, kty, coordinates, KeyPurpose(purpose), public, nbf, exp, revoked, reason)


def _coordinate(jwk: dict[str, Any], name: str, where: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise MalformedError(f"{name} is not a string", where=where)
    data = b64url_decode(value, where=f"{where} {name}")
    if len(data) != 32:
        raise MalformedError(f"{name} has {len(data)} bytes instead of 32", where=where)
    return data


def _time(jwk: dict[str, Any], name: str, where: str) -> int | None:
    value = jwk.get(name)
    if value is not None and type(value) is not int:
        raise MalformedError(f"{name} is not whole seconds since 1970", where=where)
    return value


def ed25519_key(x: bytes, where: str) -> Ed25519PublicKey:
    """The key of 32 bytes that RFC 8032 section 5.1.2 encodes (K3).

    Raises:
        MalformedError: Not canonically encoded, of low order, or not on the curve.
    """
    encoded = int.from_bytes(x, "little")
    y = encoded & (2**255 - 1)
    if y >= _P:
        raise MalformedError("the Ed25519 point is not canonically encoded", where=where)
    if y in _LOW_ORDER_Y:
        raise MalformedError("the Ed25519 point is of low order: one signature would verify for every message", where=where)
    # RFC 8032 section 5.1.3: x² = (y² - 1) / (d·y² + 1) must be a square. x = 0 only at low order, so the sign is free.
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if pow(x_squared, (_P - 1) // 2, _P) != 1:
        raise MalformedError("the Ed25519 point is not on the curve", where=where)
    return Ed25519PublicKey.from_public_bytes(x)


def _p256(x: bytes, y: bytes, *, where: str) -> EllipticCurvePublicKey:
    numbers = int.from_bytes(x, "big"), int.from_bytes(y, "big")
    if max(numbers) >= _P256_P:
        raise MalformedError("a P-256 coordinate is not reduced", where=where)  # `cryptography` would reduce it: two spellings of one key
    try:
        return EllipticCurvePublicNumbers(*numbers, _CURVE).public_key()
    except ValueError:
        raise MalformedError("the P-256 point is not on the curve", where=where) from None


def _check_use(jwk: dict[str, Any], kty: str, where: str) -> None:
    if "use" in jwk and jwk["use"] != "sig":
        raise MalformedError("use is not sig", where=where)
    operations = check_key_ops(jwk, where)
    if operations is not None and "verify" not in operations:
        raise MalformedError("key_ops does not hold verify", where=where)
    if "alg" in jwk and (not isinstance(jwk["alg"], str) or jwk["alg"] not in _ACCEPTED[kty]):
        raise MalformedError("alg is not one this key is for", where=where)


def check_key_ops(jwk: dict[str, Any], where: str) -> list[str] | None:
    """The member ``key_ops``, or None where there is none (RFC 7517 section 4.3).

    Raises:
        MalformedError: It is not an array of unique strings.
    """
    if "key_ops" not in jwk:
        return None
    operations = jwk["key_ops"]
    if (
        not isinstance(operations, list)
        or not all(isinstance(operation, str) for operation in operations)
        or len(set(operations)) != len(operations)
    ):
        raise MalformedError("key_ops is not an array of unique strings", where=where)
    return operations
