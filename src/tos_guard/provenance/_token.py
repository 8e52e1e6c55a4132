"""The token as bytes: what to sign, how to read it, and how a request is bound to it (docs/spec/token.md)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from tos_guard._canonical import b64url_encode
from tos_guard.keys import KeyRecord, UnverifiedJWS, encode_jws_signing_input, parse_jws
from tos_guard.provenance._claims import Claims

__all__ = ["MAX_TOKEN_CHARS", "MAX_WRITTEN_CHARS", "TOKEN_TYP", "UnverifiedToken", "parse_token", "request_mac", "token_signing_input"]

TOKEN_TYP: Final = "ai-provenance+jwt"
MAX_TOKEN_CHARS: Final = 8_192  # what readers accept (T1)
MAX_WRITTEN_CHARS: Final = 1_800  # what writers stay within, so that headers and gateways carry it


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A well-formed JWS of our typ. Nothing it says has been checked; `claims` reads it once its key has been."""

    jws: UnverifiedJWS

    @property
    def unverified_issuer(self) -> object:
        """What the token says about who issued it."""
        return self.jws.payload.get("iss")

    @property
    def unverified_stage(self) -> object:
        """What the token says about how much it knows of its response."""
        return self.jws.payload.get("stage")

    def verify_with(self, key: KeyRecord, *, where: str = "token") -> Claims:
        """Check the signature with *key*, then read the claims (T6–T11).

        Raises:
            SignatureError: No match, or another algorithm.
            UnsupportedVersionError: A version we do not read.
            MalformedError: A claim is missing or has the wrong form.
        """
        key.verify(self.jws.algorithm, self.jws.signing_input, self.jws.signature, where=where)
        return Claims.from_payload(self.jws.payload, where=where)


def parse_token(text: str, *, where: str = "token") -> UnverifiedToken:
    """Read a token's form (T1–T4).

    Raises:
        MalformedError: It is not a token.
    """
    return UnverifiedToken(parse_jws(text, typ=TOKEN_TYP, where=where, max_chars=MAX_TOKEN_CHARS))


def token_signing_input(claims: Claims, key: KeyRecord) -> bytes:
    """The bytes to sign; `tos_guard.keys.join_jws` then makes the token."""
    return encode_jws_signing_input(claims.to_payload(), algorithm=key.algorithm, kid=key.kid, typ=TOKEN_TYP)


def request_mac(salt: bytes, body: bytes) -> str:
    """HMAC-SHA-256 of the request body under the exchange's salt, base64url: the claim ``req``."""
    return b64url_encode(hmac.digest(salt, body, hashlib.sha256))
