"""Clients that prove that they hold a key (RFC 9449), and everything such a client can get wrong."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from tos_guard._canonical import b64url_encode
from tos_guard.keys._foreign import jwk_thumbprint

_KINDS: dict[str, tuple[Any, Any]] = {
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "ES384": (lambda: ec.generate_private_key(ec.SECP384R1()), ECAlgorithm),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "PS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
}


def ath(credential: str) -> str:
    """What a proof says of the credential that it comes with."""
    return b64url_encode(hashlib.sha256(credential.encode()).digest())


@dataclass
class Holder:
    """Who holds a key, and proves it."""

    algorithm: str = "ES256"
    private: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.private = self.private or _KINDS[self.algorithm][0]()

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        text: str = _KINDS[self.algorithm][1].to_jwk(self.private.public_key())
        return {name: value for name, value in json.loads(text).items() if name not in {"key_ops", "alg", "use"}}

    @property
    def thumbprint(self) -> str:
        """Its thumbprint: what a credential is bound to."""
        return jwk_thumbprint(self.jwk)

    def claims(self, credential: str, *, method: str = "POST", uri: str, now: float, **changes: Any) -> dict[str, Any]:
        """Claims of a good proof, with changes; None leaves one out."""
        claims = {"jti": uuid.uuid4().hex, "htm": method, "htu": uri, "iat": int(now), "ath": ath(credential)} | changes
        return {name: value for name, value in claims.items() if value is not None}

    def sign(self, claims: dict[str, Any], *, header: dict[str, Any] | None = None) -> str:
        """A proof with these claims; *header* changes members of the header, None leaves one out."""
        head = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk} | (header or {})
        parts = ({name: value for name, value in head.items() if value is not None}, claims)
        signed = ".".join(b64url_encode(json.dumps(part).encode()) for part in parts)
        algorithm = get_default_algorithms()["EdDSA" if self.algorithm == "Ed25519" else self.algorithm]
        return f"{signed}.{b64url_encode(algorithm.sign(signed.encode(), self.private))}"

    def proof(self, credential: str, *, method: str = "POST", uri: str, now: float, **changes: Any) -> str:
        """A good proof, but for changes of its claims."""
        return self.sign(self.claims(credential, method=method, uri=uri, now=now, **changes))
