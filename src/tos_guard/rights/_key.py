"""Keys that we make: ``tg-<public id>-<secret>`` of accounts, ``tga-<public id>-<secret>`` of administrators.

The public id names the key in lists and logs; only a keyed hash of the secret is stored. Neither kind is ever taken for the other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tos_guard._canonical import b64url_encode
from tos_guard.errors import AuthenticationError

__all__ = [
    "ADMIN_KEY_PREFIX",
    "API_KEY_PREFIX",
    "ApiKey",
    "hash_secret",
    "new_admin_key",
    "new_api_key",
    "parse_admin_key",
    "parse_api_key",
]

API_KEY_PREFIX: Final = "tg"
ADMIN_KEY_PREFIX: Final = "tga"
_ALPHABET: Final = "0123456789abcdefghijkmnpqrstuvwxyz"  # no l and o, which people mistake for 1 and 0
_FORM: Final = re.compile(r"(tga?)-([0-9a-z]{12})-([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A new key. Its secret is shown once and kept nowhere.

    Attributes:
        public_id: 12 characters that name the key.
        secret: 43 characters, 256 random bits.
        prefix: Whose kind of key it is: an account's or an administrator's.
    """

    public_id: str
    secret: str = field(repr=False)
    prefix: str = API_KEY_PREFIX

    @property
    def text(self) -> str:
        """The key as its holder uses it."""
        return f"{self.prefix}-{self.public_id}-{self.secret}"


def new_api_key(entropy: Callable[[int], bytes]) -> ApiKey:
    """Make a key for an account from fresh random bytes."""
    return _new_key(entropy, API_KEY_PREFIX)


def new_admin_key(entropy: Callable[[int], bytes]) -> ApiKey:
    """Make a key for an administrator from fresh random bytes."""
    return _new_key(entropy, ADMIN_KEY_PREFIX)


def _new_key(entropy: Callable[[int], bytes], prefix: str) -> ApiKey:
    public_id = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in entropy(12))
    return ApiKey(public_id, b64url_encode(entropy(32)), prefix)


def parse_api_key(text: str) -> tuple[str, str]:
    """Public id and secret of an account's key as its holder sent it.

    Raises:
        AuthenticationError: It is no such key; the text is the same as for an unknown or a wrong one.
    """
    return _parsed(text, API_KEY_PREFIX)


def parse_admin_key(text: str) -> tuple[str, str]:
    """As `parse_api_key`, of an administrator's key.

    Raises:
        AuthenticationError: It is no such key; the text is the same as for an unknown or a wrong one.
    """
    return _parsed(text, ADMIN_KEY_PREFIX)


def _parsed(text: str, prefix: str) -> tuple[str, str]:
    match = _FORM.fullmatch(text)
    if match is None or match[1] != prefix:
        raise AuthenticationError
    return match[2], match[3]


def hash_secret(secret: str, pepper: bytes) -> bytes:
    """HMAC-SHA-256 of a secret under the store's pepper. Fast, since the secret has 256 random bits and cannot be guessed."""
    return hmac.digest(pepper, secret.encode("utf-8"), hashlib.sha256)
