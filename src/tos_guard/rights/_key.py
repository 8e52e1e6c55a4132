"""API keys: ``tg-<public id>-<secret>``. The public id names the key in lists and logs; only a keyed hash of the secret is stored."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tos_guard._canonical import b64url_encode
from tos_guard.errors import AuthenticationError

__all__ = ["API_KEY_PREFIX", "ApiKey", "hash_secret", "new_api_key", "parse_api_key"]

API_KEY_PREFIX: Final = "tg"
_ALPHABET: Final = "0123456789abcdefghijkmnpqrstuvwxyz"  # no l and o, which people mistake for 1 and 0
_FORM: Final = re.compile(r"tg-([0-9a-z]{12})-([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A new key. Its secret is shown once and kept nowhere.

    Attributes:
        public_id: 12 characters that name the key.
        secret: 43 characters, 256 random bits.
    """

    public_id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The key as its holder uses it."""
        return f"{API_KEY_PREFIX}-{self.public_id}-{self.secret}"


def new_api_key(entropy: Callable[[int], bytes]) -> ApiKey:
    """Make a key from fresh random bytes."""
    public_id = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in entropy(12))
    return ApiKey(public_id, b64url_encode(entropy(32)))


def parse_api_key(text: str) -> tuple[str, str]:
    """Public id and secret of a key as its holder sent it.

    Raises:
        AuthenticationError: It is no such key; the text is the same as for an unknown or a wrong one.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise AuthenticationError
    return match[1], match[2]


def hash_secret(secret: str, pepper: bytes) -> bytes:
    """HMAC-SHA-256 of a secret under the store's pepper. Fast, since the secret has 256 random bits and cannot be guessed."""
    return hmac.digest(pepper, secret.encode("utf-8"), hashlib.sha256)
