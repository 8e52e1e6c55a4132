"""An authorization server of somebody else: its keys, the access tokens it signs (RFC 9068), and an address on loopback for its keys."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from loopback_issuer import START, LoopbackIssuer, serve_issuer
from tos_guard._canonical import b64url_encode
from tos_guard.errors import DiscoveryError
from tos_guard.remote import BearerVerifier, JWKSource, JWKSPolicy
from tos_guard.rights import BearerPolicy
from tos_guard.testing import FixedClock

AUDIENCE = "https://api.example.com"
JWKS_PATH = "/oauth/jwks.json"
NOW = int(START.timestamp())

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True)
class ServerKey:
    """A key of the server: what it publishes, and how it signs."""

    kid: str
    algorithm: str
    jwk: dict[str, Any]
    sign: Sign


def ed25519_key(kid: str = "ed-1", seed: str | None = None) -> ServerKey:
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256((seed or kid).encode()).digest())
    x = b64url_encode(private.public_key().public_bytes_raw())
    return ServerKey(kid, "EdDSA", {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA"}, private.sign)


def p256_key(kid: str = "ec-1", number: int = 0xC0FFEE) -> ServerKey:
    private = ec.derive_private_key(number, ec.SECP256R1())
    point = private.public_key().public_numbers()
    x, y = (b64url_encode(value.to_bytes(32, "big")) for value in (point.x, point.y))

    def sign(message: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return ServerKey(kid, "ES256", {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig"}, sign)


def rsa_key(kid: str = "rsa-1") -> ServerKey:
    private = rsa.generate_private_key(65_537, 2_048)
    n = private.public_key().public_numbers().n
    jwk = {"kty": "RSA", "n": b64url_encode(n.to_bytes(256, "big")), "e": "AQAB", "kid": kid, "use": "sig", "alg": "RS256"}
    return ServerKey(kid, "RS256", jwk, lambda message: private.sign(message, padding.PKCS1v15(), SHA256()))


def compact(header: dict[str, Any] | bytes, payload: dict[str, Any] | bytes, sign: Sign) -> str:
    """A JWS over a header and a payload, or over the bytes that stand for them."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload))
    message = ".".join(b64url_encode(part) for part in parts)
    return f"{message}.{b64url_encode(sign(message.encode()))}"


@dataclass
class AuthorizationServer:
    """Whose tokens are tested.

    Attributes:
        issuer: Its name.
        keys: What it publishes; it signs with the first.
    """

    issuer: str = "https://login.example.com/"
    keys: list[ServerKey] = field(default_factory=lambda: [ed25519_key()])

    def header(self, key: ServerKey | None = None, **changes: Any) -> dict[str, Any]:
        """The header of its tokens; what is changed to ``...`` is left out."""
        key = key or self.keys[0]
        return _changed({"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt"}, changes)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of its tokens; what is changed to ``...`` is left out."""
        known = {
            "iss": self.issuer,
            "sub": "acme",
            "aud": AUDIENCE,
            "client_id": "batch-runner",
            "iat": NOW - 60,
            "exp": NOW + 540,
            "jti": "t-1",
            "scope": "generate classify",
        }
        return _changed(known, changes)

    def token(self, key: ServerKey | None = None, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token; *header* and *claims* change what stands in it."""
        key = key or self.keys[0]
        return compact(self.header(key, **(header or {})), self.claims(**claims), key.sign)

    def key_set(self) -> bytes:
        """What it publishes."""
        return json.dumps({"keys": [key.jwk for key in self.keys]}).encode()

    def policy(self, **changes: Any) -> BearerPolicy:
        """What we demand of its tokens."""
        return BearerPolicy(**({"issuer": self.issuer, "audiences": frozenset({AUDIENCE})} | changes))


def _changed(known: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (known | changes).items() if value is not ...}


class Monotonic:
    """Seconds that follow a clock, so that one clock moves everything."""

    def __init__(self, clock: FixedClock) -> None:
        self._clock = clock

    def __call__(self) -> float:
        return self._clock().timestamp()


class Served(AuthorizationServer):
    """An authorization server whose keys are at an address on loopback.

    Attributes:
        http: The server, to spoil, hold up and count.
        clock: The time, as the source of its keys sees it.
        counted: What the source has told.
        asked_at: When its keys were asked for, by the clock.
    """

    def __init__(self, http: LoopbackIssuer, clock: FixedClock) -> None:
        super().__init__()
        self.http = http
        self.clock = clock
        self.counted: Counter[str] = Counter()
        self.asked_at: list[datetime] = []
        self._settled = threading.Semaphore(0)
        answer = http.answer

        def timed(path: str) -> Any:
            self.asked_at.append(clock())
            return answer(path)

        http.answer = timed  # type: ignore[method-assign]
        self.publish()

    @property
    def uri(self) -> str:
        """Where its keys are."""
        return self.http.issuer + JWKS_PATH

    @property
    def fetches(self) -> int:
        """How often its keys were asked for."""
        return self.http.hits[JWKS_PATH]

    def publish(self, *keys: ServerKey) -> None:
        """Publish its keys, or these from now on."""
        self.keys = list(keys) or self.keys
        self.http.put(JWKS_PATH, self.key_set())

    def count(self, event: str, failure: DiscoveryError | None) -> None:
        """Counts what the source tells."""
        assert (failure is None) == (event in ("fetched", "vanished", "stale", "denied"))
        self.counted[event] += 1
        if event in ("fetched", "unreachable", "refused", "replaced"):
            self._settled.release()

    def wait_until_settled(self) -> None:
        """Wait until a question that nobody has waited for is settled."""
        assert self._settled.acquire(timeout=30)

    def source(self, **given: Any) -> JWKSource:
        """Where a verifier gets its keys."""
        known = {"clock": self.clock, "monotonic": Monotonic(self.clock), "policy": JWKSPolicy()}
        source = JWKSource(self.issuer, self.uri, **(known | given))
        source.watch(self.count)
        return source

    @contextmanager
    def verifier(self, **given: Any) -> Iterator[BearerVerifier]:
        """A verifier that has its keys; *given* is for the source."""
        verifier = BearerVerifier([(self.policy(), self.source(**given))])
        try:
            verifier.refresh()
            yield verifier
        finally:
            self.http.gate.set()
            verifier.close()

    def pass_by(self, **span: float) -> datetime:
        """Let time pass. Returns the present."""
        self.clock.advance(timedelta(**span))
        return self.clock()


@contextmanager
def serve_authorization() -> Iterator[Served]:
    """An authorization server on a free port of loopback, at a time that stands still."""
    with serve_issuer() as http:
        yield Served(http, FixedClock(START))
