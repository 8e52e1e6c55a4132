"""How an end user of an account is named in records and in ``blocked_end_users``: by a keyed hash, never by the account's own name."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from tos_guard._canonical import b64url_encode

__all__ = ["end_user_key", "hash_end_user"]

_BYTES: Final = 16  # no two end users of one account meet by chance, and an attacker without the key has nothing to try


def end_user_key(pepper: bytes) -> bytes:
    """The key under which end users are hashed, from the store's pepper."""
    return hmac.digest(pepper, b"tos_guard end user", hashlib.sha256)


def hash_end_user(end_user: str, *, account_id: str, key: bytes) -> str:
    """``eu_`` and 128 bits of a keyed hash, so that one name means another end user in each account.

    Args:
        end_user: The account's own name for it, as its requests give it.
        account_id: Whose end user it is.
        key: From `end_user_key`.
    """
    named = f"{len(account_id)}:{account_id}:{end_user}".encode("utf-8", "surrogatepass")
    return "eu_" + b64url_encode(hmac.digest(key, named, hashlib.sha256)[:_BYTES])
