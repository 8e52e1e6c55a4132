"""Compact JWS that bring the key that signed them: proofs that whoever sends them holds its private half (RFC 9449 section 4.2).

Such a key proves possession and nothing else. Whoever calls this compares its thumbprint with one that was bound before.

- The header is exactly ``typ``, ``alg`` and ``jwk``; the algorithm is asymmetric, and fits the key.
- The key is public, of a kind we read, and passes the checks of every other foreign key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tos_guard._canonical import b64url_decode
from tos_guard.errors import MalformedError
from tos_guard.keys._foreign import ForeignJWS, foreign_key, jwk_thumbprint
from tos_guard.keys._jws import parse_object, split_compact

__all__ = ["KeyProof", "prove_possession"]

MAX_PROOF_CHARS: Final = 8_192  # an RSA key of 8,192 bits and its signature take 3,000
MAX_HEADER_BYTES: Final = 4_096
MAX_PAYLOAD_BYTES: Final = 4_096
MAX_DEPTH: Final = 4  # the key stands one deep; claims that we do not read may nest
_HEADER_MEMBERS: Final = frozenset({"typ", "alg", "jwk"})


@dataclass(frozen=True, slots=True)
class KeyProof:
    """What a proof says, signed by the key that it brings.

    Attributes:
        claims: Its claims, none of them judged.
        thumbprint: RFC 7638 SHA-256 thumbprint of the key, base64url.
    """

    claims: dict[str, Any]
    thumbprint: str


def prove_possession(text: str, *, typ: str, where: str) -> KeyProof:
    """Read a proof, and check its signature with the key in its header.

    Args:
        text: The compact JWS.
        typ: What its header must say, exactly.
        where: What it is, for the error.

    Raises:
        MalformedError: It is no such JWS, or its key is secret, weak, private, or of a kind we do not read.
        SignatureError: The key did not sign it, or is not for the algorithm that it names.
    """
    header_part, payload_part, signature_part = split_compact(text, where=where, max_chars=MAX_PROOF_CHARS)
    header = parse_object(b64url_decode(header_part, where=f"{where} header"), f"{where} header", MAX_HEADER_BYTES, MAX_DEPTH)
    algorithm, jwk = header.get("alg"), header.get("jwk")
    if header.keys() != _HEADER_MEMBERS or header["typ"] != typ or not isinstance(algorithm, str) or not isinstance(jwk, dict):
        raise MalformedError(f"members are not exactly typ {typ!r}, alg and jwk", where=f"{where} header")
    # Its kind is looked at first: a secret is no key to bring along, and its thumbprint would be that of whoever knows it.
    key = foreign_key(jwk, where=f"{where} key", assumed_algorithm=algorithm) if jwk.get("kty") != "oct" else None
    if key is None:
        raise MalformedError("is no public key for signatures that we read", where=f"{where} key")
    payload = b64url_decode(payload_part, where=f"{where} payload")
    signing_input = text[: len(header_part) + 1 + len(payload_part)].encode("ascii")
    jws = ForeignJWS({"alg": algorithm, "typ": typ}, payload, signing_input, b64url_decode(signature_part, where=f"{where} signature"))
    claims = parse_object(key.verify(jws, where=where), f"{where} payload", MAX_PAYLOAD_BYTES, MAX_DEPTH)
    return KeyProof(claims, jwk_thumbprint(jwk, where=f"{where} key"))
