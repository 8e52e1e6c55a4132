"""Trust, demands, and the proof that a token is genuine (docs/spec/token.md T1–T16, keys.md K8, K9)."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tos_guard._canonical import b64url_decode
from tos_guard.errors import (
    AudienceError,
    ContentMismatchError,
    ExpiredError,
    MalformedError,
    NonceError,
    PolicyMismatchError,
    UnknownKeyError,
    UntrustedIssuerError,
)
from tos_guard.keys import KeySet
from tos_guard.provenance import Claims, parse_token, request_mac
from tos_guard.types import KeyPurpose

__all__ = ["Expected", "Trust", "Verified", "open_token", "parse_tag", "verify_token"]

MAX_CLOCK_SKEW_SECONDS: Final = 60  # T12
_SALT_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Trust:
    """Which keys the caller trusts, for which issuer. A key that came with the data is not among them."""

    issuers: Mapping[str, KeySet]

    @classmethod
    def of(cls, *sets: KeySet, issuer: str | None = None) -> Trust:
        """Trust these sets, each for the issuer it names, or for *issuer*.

        Raises:
            ValueError: A set names no issuer and none is given, names another one, or nothing is given at all.
        """
        if not sets:
            raise ValueError("trust needs at least one key set: with none, everything would be undecidable")
        issuers: dict[str, KeySet] = {}
        for keys in sets:
            name = keys.issuer or issuer
            if name is None:
                raise ValueError("the key set names no issuer: say which issuer it is trusted for")
            if issuer is not None and name != issuer:
                raise ValueError(f"the key set speaks for {name}, not for {issuer}")
            issuers[name] = issuers[name].merged(keys.keys) if name in issuers else keys
        return cls(issuers)

    def keys_of(self, issuer: object, *, where: str = "token") -> KeySet:
        """The keys trusted for an issuer that a token or receipt named.

        Raises:
            UntrustedIssuerError: None are.
        """
        keys = self.issuers.get(issuer) if isinstance(issuer, str) else None
        if keys is None:
            raise UntrustedIssuerError(f"issuer {str(issuer)[:200]!r} is not trusted", where=where, cure="Pin its keys if you trust it.")
        return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the caller demands beyond genuineness.

    Attributes:
        audience: The ``aud`` the token must have. None demands that it has none (T14).
        nonce: The nonce the caller sent, or None to demand nothing.
        request: Bytes of the request body as sent; needs *salt*.
        salt: The value of ``AI-Provenance-Salt``; needs *request*.
        policies: Digests of usage policies that are acceptable, or None to demand nothing. Empty is an error, not a pass.
    """

    audience: str | None = None
    nonce: str | None = None
    request: bytes | None = None
    salt: str | None = None
    policies: Collection[str] | None = None

    def __post_init__(self) -> None:
        if (self.request is None) != (self.salt is None):
            raise ValueError("a request is checked with its salt: give both or neither")
        if self.policies is not None and not self.policies:
            raise ValueError("no policy would be acceptable: name at least one, or None to demand nothing")

    def check(self, claims: Claims, *, now: datetime) -> None:
        """Check what was demanded of genuine claims (T13–T16).

        Raises:
            ExpiredError: Past ``exp``.
            AudienceError: Made for another audience, or for none where one was demanded.
            NonceError: Another nonce, or another request.
            PolicyMismatchError: A usage policy that is not acceptable.
            MalformedError: The salt is not 32 bytes of base64url.
        """
        if claims.exp is not None and int(now.timestamp()) > claims.exp:
            raise ExpiredError("the token has expired", where="token exp")
        if claims.aud != self.audience:
            raise AudienceError(
                "the token is made for another audience" if claims.aud else "the token is made for no audience",
                where="token aud",
                cure="Say which audience you expect." if self.audience is None else "",
            )
        if self.nonce is not None and claims.nonce != self.nonce:
            raise NonceError("the token does not carry the nonce you sent", where="token nonce")
        if self.request is not None and self.salt is not None:
            salt = b64url_decode(self.salt, where="request salt")
            if len(salt) != _SALT_BYTES:
                raise MalformedError(f"has {len(salt)} bytes instead of {_SALT_BYTES}", where="request salt")
            if not hmac.compare_digest(request_mac(salt, self.request), claims.req):
                raise NonceError("the token was made for another request", where="token req")
        if self.policies is not None and claims.usage.sha256 not in self.policies:
            raise PolicyMismatchError("the usage policy is not one you accept", where="token usage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was proven. There is no such value for anything but ``valid``.

    Attributes:
        claims: The claims, signed by a trusted key of ``claims.iss``.
        kid: That key.
        token: The token itself.
        uncovered: Members of what was given that the token does not cover: they may have been changed.
        notes: Things worth knowing that do not change the verdict, as ``key: value``.
        request_checked: Whether the request was checked too.
        nonce_checked: Whether the nonce was checked too.
    """

    claims: Claims
    kid: str
    token: str
    uncovered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    request_checked: bool = False
    nonce_checked: bool = False


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag member, not believed: the token, and leaves beside it."""

    token: str
    leaves: Any = field(default=None)


def parse_tag(value: object) -> Tag:
    """Read the member ``ai_provenance`` (C1).

    Raises:
        MalformedError: It is not an object with a token, or its leaves are no array.
    """
    token = value.get("token") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(token, str):
        raise MalformedError("is not an object with a token", where="member ai_provenance")
    if "leaves" in value and not isinstance(value["leaves"], list):
        raise MalformedError("leaves is not an array", where="member ai_provenance")
    return Tag(token, value.get("leaves"))


def open_token(text: str, *, trust: Trust, now: datetime) -> tuple[Claims, str]:
    """Prove that a token is genuine: T1–T12, K8, K9. Its stage may be either.

    Returns:
        The claims, and the id of the key that signed them.

    Raises:
        MalformedError, SignatureError, UnsupportedVersionError: It is not such a token.
        UntrustedIssuerError, UnknownKeyError, KeyRevokedError: It cannot be decided.
        ExpiredError: Its key was not in use when it signed.
    """
    unverified = parse_token(text)
    key = trust.keys_of(unverified.unverified_issuer).find(unverified.jws.kid, KeyPurpose.PROVENANCE)
    if key is None:
        raise UnknownKeyError(
            f"no trusted key of {unverified.unverified_issuer} has the id {unverified.jws.kid[:64]!r}",
            where="token kid",
            cure="Fetch the issuer's newest keys, if you trust where they come from.",
        )
    claims = unverified.verify_with(key)
    if claims.iat > now.timestamp() + MAX_CLOCK_SKEW_SECONDS:
        raise MalformedError("iat lies in the future", where="token", cure="Check this machine's clock.")
    key.check_time(claims.iat, where="token")
    return claims, key.kid


def verify_token(text: str, *, trust: Trust, now: datetime, expected: Expected | None = None) -> Verified:
    """Prove that a token is genuine and meets the demands. Says nothing about any content; its stage may be ``pending``.

    Raises:
        VerificationError: As `open_token` and `Expected.check`.
    """
    claims, kid = open_token(text, trust=trust, now=now)
    demands = expected or Expected()
    demands.check(claims, now=now)
    return Verified(
        claims=claims, kid=kid, token=text, request_checked=demands.request is not None, nonce_checked=demands.nonce is not None
    )


def mismatch(
    what: str, leaves: Iterable[tuple[int, str, str | None]] | None, found: Iterable[tuple[int, str, str | None]]
) -> ContentMismatchError:
    """The error for content that is not what was sealed, naming the parts that differ where the leaves are known."""
    if leaves is None:
        return ContentMismatchError(f"the {what} is not the content the token was made for", where="content")
    differing = sorted({(choice, name) for choice, name, _ in set(leaves) ^ set(found)})
    names = ", ".join(f"choice {choice} {name}" for choice, name in differing[:5])
    return ContentMismatchError(f"the {what} is not the content the token was made for ({names})", where="content")
