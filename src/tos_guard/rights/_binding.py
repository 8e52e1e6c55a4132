"""What a credential is bound to: a key or a certificate of its holder, so that whoever stole it cannot use it (RFC 9449, RFC 8705)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tos_guard._canonical import b64url_encode

__all__ = ["UNBOUND", "Binding", "certificate_thumbprint", "read_confirmation"]

_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_MEMBERS: Final = {"jkt": "jkt", "x5t#S256": "x5t"}


@dataclass(frozen=True, slots=True)
class Binding:
    """Thumbprints, each of SHA-256 in base64url; where both are given, both must be proven.

    Attributes:
        jkt: Of a key (RFC 7638), whose holder proves it with each request (DPoP); or None.
        x5t: Of a client certificate (its DER), which the connection proves (mutual TLS); or None.

    Raises:
        ValueError: One of them is no such thumbprint.
    """

    jkt: str | None = None
    x5t: str | None = None

    def __post_init__(self) -> None:
        for thumbprint in (self.jkt, self.x5t):
            if thumbprint is not None and _THUMBPRINT.fullmatch(thumbprint) is None:
                raise ValueError("a thumbprint is 43 characters of base64url")

    def __bool__(self) -> bool:
        return self.jkt is not None or self.x5t is not None


UNBOUND: Final = Binding()
"""Whoever has the credential may use it."""


def read_confirmation(confirmation: Any) -> Binding | None:
    """What ``cnf`` of a token says (RFC 7800), or None for a confirmation that we cannot check: such a token names nobody."""
    if not isinstance(confirmation, Mapping) or not confirmation or not confirmation.keys() <= _MEMBERS.keys():
        return None
    if not all(isinstance(value, str) for value in confirmation.values()):
        return None
    try:
        return Binding(**{_MEMBERS[name]: value for name, value in confirmation.items()})
    except ValueError:
        return None


def certificate_thumbprint(certificate: bytes) -> str:
    """``x5t#S256`` of a certificate in DER (RFC 8705 section 3.1)."""
    return b64url_encode(hashlib.sha256(certificate).digest())
