"""Bearer tokens of others' authorization servers (RFC 9068): whom their claims name, and when these claims are accepted.

Rules kept here:

- A token is an access token by its ``typ``, and says so exactly: an ID token, a logout token or a DPoP proof names nobody.
- Every claim that RFC 9068 section 2.2 requires is there, of its kind, once. Times are integers: neither texts nor booleans.
- The issuer is the configured one to the byte, and ours is among the audiences.
- A lifetime is bounded, so that no token outlives what its issuer can be held to. Clocks may differ by a minute at most.
- A token that is bound to a key of its holder (``cnf``: DPoP, mutual TLS) says so in what is made of it, and names nobody until that key is
  proven: to take it as a bearer token would undo the binding. One that is bound in another way is not accepted.
- Whoever asks is named by the claims alone. Every refusal tells the caller the same; `BearerError.fault` says more, to us.

The signature is the work of `tos_guard.keys`; finding the keys that of `tos_guard.remote`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tos_guard._canonical import parse_json
from tos_guard.errors import BearerError, MalformedError
from tos_guard.rights._binding import UNBOUND, Binding, read_confirmation

__all__ = ["BearerIdentity", "BearerPolicy", "check_bearer_type", "read_bearer_claims", "unverified_issuer"]

MAX_PAYLOAD_BYTES: Final = 6_144  # what a token of 8,192 characters can hold
MAX_DEPTH: Final = 8  # claims of common servers nest 3 deep (roles within resources)
MAX_AUDIENCES: Final = 32
MAX_ACCOUNT_CHARS: Final = 128  # of an account's id
MAX_TEXT_CHARS: Final = 256  # of any other claim that is kept
MAX_LEEWAY: Final = timedelta(seconds=60)
MAX_SECONDS: Final = 253_402_300_799  # the end of the year 9999: the last moment that a datetime can hold

NO_NAMES: Final = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti", "scope", "cnf"})
"""Claims that name nobody, so that no account can be read from them."""

_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
_SCOPE_CHARS: Final = frozenset(map(chr, range(0x21, 0x7F))) - {'"', "\\"}  # RFC 6749 section 3.3


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerPolicy:
    """What one authorization server's tokens must say to be accepted.

    Attributes:
        issuer: Its name, exactly as its tokens write it.
        audiences: Our names; a token is addressed to one of them.
        account_claim: The claim that names the account.
        account_prefix: Stands before that name in the account's id, so that two servers never name one account by chance.
        organization_claim: The claim that names the account's organization, or None.
        end_user_claim: The claim that names the end user behind the account, or None.
        person_claim: The claim that names the person who acts for the account, or None.
        scopes: Scopes that a token must have, all of them.
        leeway: How far the server's clock may differ from ours; at most a minute.
        max_lifetime: Tokens made for longer than this are refused.

    Raises:
        ValueError: There is no audience, a span is out of bounds, or a claim cannot name anybody.
    """

    issuer: str
    audiences: frozenset[str]
    account_claim: str = "sub"
    account_prefix: str = ""
    organization_claim: str | None = None
    end_user_claim: str | None = None
    person_claim: str | None = None
    scopes: frozenset[str] = frozenset()
    leeway: timedelta = timedelta(seconds=30)
    max_lifetime: timedelta = timedelta(days=1)

    def __post_init__(self) -> None:
        if not self.audiences or not all(self.audiences):
            raise ValueError("name our audience: without it, a token for any other service would open ours")
        if not timedelta(0) <= self.leeway <= MAX_LEEWAY or self.max_lifetime <= timedelta(0):
            raise ValueError("leeway is 0 to 60 seconds, and max_lifetime more than 0")
        if useless := NO_NAMES & {self.account_claim, self.organization_claim, self.end_user_claim, self.person_claim}:
            raise ValueError(f"the claim {min(useless)!r} names nobody")


@dataclass(frozen=True, slots=True)
class BearerIdentity:
    """Who asks, as an accepted token says.

    Attributes:
        issuer: The authorization server.
        account_id: Id of the account.
        subject: ``sub``, as the server names whom the token is about.
        client_id: The application that the token was given to.
        organization: The account's organization, or None where it is not said.
        end_user: The end user behind the account, or None where it is not said.
        person: The person who acts for the account, or None where it is not said.
        scopes: What the token was given for.
        not_before: Since when it is good.
        expires: Until when it is good.
        jti: Its id.
        binding: What its holder must prove beside having it.
    """

    issuer: str
    account_id: str
    subject: str
    client_id: str
    organization: str | None
    end_user: str | None
    person: str | None
    scopes: frozenset[str]
    not_before: datetime
    expires: datetime
    jti: str
    binding: Binding = UNBOUND

    def has_expired(self, now: datetime) -> bool:
        """Whether it is good no more, however far its server's clock may differ from ours."""
        return now - MAX_LEEWAY >= self.expires


def check_bearer_type(header: Mapping[str, str]) -> None:
    """See that a token is an access token.

    Raises:
        BearerError: ``typ`` is missing or another.
    """
    if header.get("typ") not in _TYPES:
        raise BearerError("type")


def unverified_issuer(payload: bytes) -> str:
    """Whom a token names as its issuer, not believed: only to look up whose keys must have signed it.

    Raises:
        BearerError: The payload is no object of strict JSON, or names none.
    """
    issuer = _claims(payload).get("iss")
    if not isinstance(issuer, str):
        raise BearerError("claims")
    return issuer


def read_bearer_claims(payload: bytes, policy: BearerPolicy, now: datetime) -> BearerIdentity:
    """Judge the claims of a token.

    Args:
        payload: What a key of the issuer has signed.
        policy: What that issuer's tokens must say.
        now: The present.

    Raises:
        BearerError: They are not accepted.
    """
    claims = _claims(payload)
    if claims.get("iss") != policy.issuer:
        raise BearerError("issuer")
    subject, client_id, jti = (_text(claims, name) for name in ("sub", "client_id", "jti"))
    if policy.audiences.isdisjoint(_audiences(claims)):
        raise BearerError("audience")
    binding = read_confirmation(claims["cnf"]) if "cnf" in claims else UNBOUND
    if binding is None:
        raise BearerError("bound")
    not_before, expires = _times(claims, policy, now)
    scopes = _scopes(claims)
    if not policy.scopes <= scopes:
        raise BearerError("scope")
    account_id = policy.account_prefix + _text(claims, policy.account_claim)
    if len(account_id) > MAX_ACCOUNT_CHARS:
        raise BearerError("claims")
    return BearerIdentity(
        issuer=policy.issuer,
        account_id=account_id,
        subject=subject,
        client_id=client_id,
        organization=_optional_text(claims, policy.organization_claim),
        end_user=_optional_text(claims, policy.end_user_claim),
        person=_optional_text(claims, policy.person_claim),
        scopes=scopes,
        not_before=not_before,
        expires=expires,
        jti=jti,
        binding=binding,
    )


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        claims = parse_json(payload, where="bearer token", max_depth=MAX_DEPTH, max_bytes=MAX_PAYLOAD_BYTES, integers_only=True)
    except MalformedError as error:
        raise BearerError("malformed") from error
    if not isinstance(claims, dict):
        raise BearerError("malformed")
    return claims


def _times(claims: dict[str, Any], policy: BearerPolicy, now: datetime) -> tuple[datetime, datetime]:
    issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
    not_before = max(issued, _seconds(claims, "nbf")) if "nbf" in claims else issued
    if not issued < expires <= issued + policy.max_lifetime.total_seconds():
        raise BearerError("lifetime")
    present, leeway = now.timestamp(), policy.leeway.total_seconds()
    if not_before > present + leeway:
        raise BearerError("early")
    if present >= expires + leeway:
        raise BearerError("expired")
    return datetime.fromtimestamp(not_before, UTC), datetime.fromtimestamp(expires, UTC)


def _seconds(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= MAX_SECONDS:  # True would be an int, and one second after 1970
        raise BearerError("claims")
    return value


def _audiences(claims: dict[str, Any]) -> list[str]:
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or not 1 <= len(audiences) <= MAX_AUDIENCES or not all(isinstance(one, str) for one in audiences):
        raise BearerError("claims")
    return audiences


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    text = claims.get("scope", "")
    if not isinstance(text, str):
        raise BearerError("claims")
    scopes = text.split(" ") if text else []
    if not all(scope and _SCOPE_CHARS.issuperset(scope) for scope in scopes):
        raise BearerError("claims")
    return frozenset(scopes)


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    # Printable, since ids reach logs and headers, where a line break would begin a line of the token's own making.
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT_CHARS or not value.isprintable():
        raise BearerError("claims")
    return value


def _optional_text(claims: dict[str, Any], name: str | None) -> str | None:
    return _text(claims, name) if name is not None and name in claims else None
