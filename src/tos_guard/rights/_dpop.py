"""Proofs of possession (DPoP, RFC 9449): whoever stole a credential does not have the key that it is bound to.

Rules kept here, after section 4.3:

- A proof is for one request (``htm``, ``htu``), one credential (``ath``) and a short time (``iat``), and is used once (``jti``). Whether it
  was used before is the work of a replay cache (`tos_guard.protocols.ReplayCache`); its name there is a digest of key and ``jti``.
- ``htu`` is compared with addresses from the settings, never with what the request says of its host. Query and fragment do not count, nor
  how scheme, host, default port and percent-encoding are written (RFC 3986 section 6.2).
- A nonce of ours carries when it was made, under a secret that all processes share: none has to be kept. It proves that the proof is
  younger than that, which ``iat``, a word of the client, does not; so where there is one, a client's clock may be wrong.
- The key is compared with the one the credential is bound to, in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from tos_guard._canonical import b64url_decode, b64url_encode, sha256_b64url
from tos_guard.errors import MalformedError, ProofError, SignatureError
from tos_guard.keys._proof import prove_possession

__all__ = ["DPOP_ALGORITHMS", "DPOP_TYP", "DPoPNonces", "DPoPPolicy", "DPoPProof", "normal_uri", "read_dpop_proof"]

DPOP_TYP: Final = "dpop+jwt"
DPOP_ALGORITHMS: Final = "ES256 ES384 ES512 Ed25519 EdDSA PS256 PS384 PS512 RS256 RS384 RS512"
"""What a challenge offers (``algs``)."""

MAX_TEXT_CHARS: Final = 256  # of jti and nonce
MAX_URI_CHARS: Final = 2_048
MAX_LEEWAY: Final = timedelta(seconds=60)
MAX_WINDOW: Final = timedelta(seconds=300)
_NONCE_TIME_BYTES: Final = 8
_NONCE_TAG_BYTES: Final = 16
_PORTS: Final = {"http": 80, "https": 443}
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999: the last moment that a datetime can hold


@dataclass(frozen=True, slots=True, kw_only=True)
class DPoPPolicy:
    """When a proof is accepted.

    Attributes:
        uris: Addresses under which clients reach our root: ``https://api.example.com``, with a path where a proxy adds one.
        window: How old a proof may be; at most five minutes.
        leeway: How far a client's clock may differ from ours; at most a minute.
        require_nonce: Whether each proof must carry a nonce of ours.
        nonce_lifetime: For how long a nonce of ours is accepted.

    Raises:
        ValueError: There is no address, or a span is out of bounds.
    """

    uris: tuple[str, ...]
    window: timedelta = timedelta(seconds=60)
    leeway: timedelta = timedelta(seconds=5)
    require_nonce: bool = False
    nonce_lifetime: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        if not self.uris:
            raise ValueError("name the address under which clients reach us: what a request says of its host is its client's word")
        if not timedelta(0) < self.window <= MAX_WINDOW or not timedelta(0) <= self.leeway <= MAX_LEEWAY:
            raise ValueError("a window is more than 0 and at most 300 seconds, a leeway 0 to 60")

    @property
    def keep(self) -> timedelta:
        """For how long a proof must be remembered once it was used: as long as it could be used again."""
        return max(self.window + 2 * self.leeway, self.nonce_lifetime + MAX_LEEWAY)

    def targets(self, path: str) -> frozenset[str]:
        """Under which addresses a client may ask for a decoded path of ours, as `normal_uri` writes them."""
        return frozenset(f"{normal_uri(uri).rstrip('/')}{path}" for uri in self.uris)


@dataclass(frozen=True, slots=True)
class DPoPProof:
    """A proof that fits its request, and may have been used before.

    Attributes:
        thumbprint: RFC 7638 thumbprint of the key that made it.
        use: 32 bytes that name this proof of this key, for the replay cache.
        made_after: No earlier than this was it made.
    """

    thumbprint: str
    use: bytes
    made_after: datetime

    def is_of(self, thumbprint: str) -> bool:
        """Whether the key is the one with this thumbprint."""
        return hmac.compare_digest(self.thumbprint.encode("utf-8"), thumbprint.encode("utf-8", "surrogatepass"))


class DPoPNonces:
    """Nonces that say when they were made. All processes with one secret know each other's.

    Args:
        secret: 32 random bytes or more.
        lifetime: For how long one is accepted.
    """

    def __init__(self, secret: bytes, *, lifetime: timedelta) -> None:
        self._key = hmac.digest(secret, b"tos_guard DPoP nonce 1", hashlib.sha256)
        self._lifetime = lifetime

    def new(self, now: datetime) -> str:
        """A nonce: 32 characters."""
        made = int(now.timestamp() * 1000).to_bytes(_NONCE_TIME_BYTES, "big")
        return b64url_encode(made + self._tag(made))

    def made(self, nonce: str, now: datetime) -> datetime | None:
        """When one of ours was made; None for any other, and for one that is too old or from the future."""
        try:
            data = b64url_decode(nonce, where="nonce")
        except MalformedError:
            return None
        made, tag = data[:_NONCE_TIME_BYTES], data[_NONCE_TIME_BYTES:]
        if not hmac.compare_digest(tag, self._tag(made)):
            return None
        at = datetime.fromtimestamp(int.from_bytes(made, "big") / 1000, UTC)
        # Clocks of a fleet differ: what another process made a moment ago may be from our future.
        return at if -MAX_LEEWAY <= now - at <= self._lifetime else None

    def _tag(self, made: bytes) -> bytes:
        return hmac.digest(self._key, made, hashlib.sha256)[:_NONCE_TAG_BYTES]


def read_dpop_proof(
    text: str, *, method: str, path: str, credential: str, policy: DPoPPolicy, nonces: DPoPNonces, now: datetime
) -> DPoPProof:
    """Judge a proof for one request.

    Args:
        text: The field ``DPoP`` as it came.
        method: Method of the request.
        path: Its decoded path.
        credential: The access token or key that came with it.
        policy: When a proof is accepted.
        nonces: Our nonces.
        now: The present.

    Raises:
        ProofError: It is not accepted, or a nonce is wanted.
    """
    try:
        proven = prove_possession(text, typ=DPOP_TYP, where="DPoP proof")
    except MalformedError as error:
        raise ProofError("malformed") from error
    except SignatureError as error:
        raise ProofError("signature") from error
    claims = proven.claims
    jti, htm, htu, ath = (_text(claims, name) for name in ("jti", "htm", "htu", "ath"))
    if htm != method or _target(htu) not in policy.targets(path):
        raise ProofError("request")
    if not hmac.compare_digest(ath.encode("utf-8"), sha256_b64url(credential.encode("utf-8", "surrogatepass")).encode("ascii")):
        raise ProofError("credential")
    made_after = _made_after(claims, policy, nonces, now)
    use = hashlib.sha256(f"{proven.thumbprint}.{jti}".encode()).digest()
    return DPoPProof(proven.thumbprint, use, made_after)


def _made_after(claims: dict[str, Any], policy: DPoPPolicy, nonces: DPoPNonces, now: datetime) -> datetime:
    issued = claims.get("iat")
    if type(issued) is not int or not 0 <= issued <= _LAST_SECOND:  # True would be an int, and one second after 1970
        raise ProofError("malformed")
    nonce = _text(claims, "nonce") if "nonce" in claims else None
    nonce_made = None if nonce is None else nonces.made(nonce, now)
    if nonce_made is None and (nonce is not None or policy.require_nonce):
        raise ProofError("nonce", wants_nonce=True)
    if nonce_made is not None:
        return nonce_made
    at = datetime.fromtimestamp(issued, UTC)
    if not now - policy.window - policy.leeway <= at <= now + policy.leeway:
        raise ProofError("time", wants_nonce=True)  # a client whose clock is wrong takes the time from us
    return at - policy.leeway


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    most = MAX_URI_CHARS if name == "htu" else MAX_TEXT_CHARS
    if not isinstance(value, str) or not 1 <= len(value) <= most or not value.isprintable():
        raise ProofError("malformed")
    return value


def _target(uri: str) -> str:
    try:
        return normal_uri(uri)
    except ValueError:
        raise ProofError("request") from None


def normal_uri(uri: str) -> str:
    """Scheme, host, port and decoded path of an address, each written in one way; query and fragment are left out.

    Raises:
        ValueError: It is no address over HTTP, or names a user.
    """
    parts = urlsplit(uri)
    scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    if scheme not in _PORTS or not host or "@" in parts.netloc:
        raise ValueError("not an http or https address")
    if ":" in host:
        host = f"[{host}]"
    at = host if port in (None, _PORTS[scheme]) else f"{host}:{port}"
    return f"{scheme}://{at}{unquote(parts.path, errors='strict') or '/'}"
