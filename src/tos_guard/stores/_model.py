"""What stores keep besides accounts and records, and the JSON form of an account."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from tos_guard.errors import AccountError, ConfigurationError

if TYPE_CHECKING:
    from tos_guard.rights import Account, Grant

__all__ = [
    "AccountChange",
    "StoredKey",
    "StoredTerms",
    "account_document",
    "account_from_document",
    "changed_account",
    "checked_public_key",
    "grant_document",
]

_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members of a JWK that are secret (RFC 7518 section 6): a public key document never holds one."""

_MATERIAL: Final = ("kty", "crv", "x", "y", "n", "e")
"""Members that make the key: under one `kid` they never change."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key as its account's administrator sees it: neither the secret nor its hash.

    Attributes:
        public_id: The part of the key that names it.
        account_id: Whose it is.
        label: What the administrator calls it.
        created: When it was made.
        revoked: When it was revoked, or None.
    """

    public_id: str
    account_id: str
    label: str
    created: datetime
    revoked: datetime | None = None


@dataclass(frozen=True, slots=True)
class AccountChange:
    """One step in the history of an account.

    Attributes:
        account_id: Whose.
        version: The account's version after the step; an API key changes no version but is listed under the one it found.
        at: When.
        what: ``added``, ``changed``, ``standing``, ``grant_added``, ``grant_voided``, ``key_added``, ``key_revoked``.
        detail: What was set: the standing, the grant's or the key's id.
        reason: Why, in the administrator's words.
    """

    account_id: str
    version: int
    at: datetime
    what: str
    detail: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StoredTerms:
    """A published terms version, byte for byte.

    Attributes:
        version: Its name.
        uri: Its immutable address.
        effective: First day on which it holds.
        sha256: Digest over document and text.
        document: RFC 8785 bytes.
        text: The text people read.
    """

    version: str
    uri: str
    effective: date
    sha256: str
    document: bytes
    text: str


@cache
def _accounts() -> TypeAdapter[Account]:
    from tos_guard.rights import Account

    return TypeAdapter(Account)


@cache
def _grants() -> TypeAdapter[Grant]:
    from tos_guard.rights import Grant

    return TypeAdapter(Grant)


def account_document(account: Account) -> dict[str, Any]:
    """The JSON form of *account*."""
    document: dict[str, Any] = _accounts().dump_python(account, mode="json")
    return document


def account_from_document(document: Mapping[str, Any] | bytes | str) -> Account:
    """The account of a JSON form.

    Raises:
        AccountError: The document is no account.
    """
    try:
        text = document if isinstance(document, bytes | str) else json.dumps(document)
        return _accounts().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise AccountError(
            f"not a valid account ({first['msg']})", where=".".join(str(part) for part in first["loc"]) or "account"
        ) from None


def changed_account(account: Account, changes: Mapping[str, Any]) -> Account:
    """*account* with the members of its JSON form in *changes* set.

    Raises:
        AccountError: The result is no account.
    """
    return account_from_document(account_document(account) | dict(changes))


def grant_document(grant: Grant) -> dict[str, Any]:
    """The JSON form of *grant*."""
    document: dict[str, Any] = _grants().dump_python(grant, mode="json")
    return document


def checked_public_key(document: Mapping[str, Any], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """*document*, fit to be kept as public key beside the *known* one of the same `kid`.

    Raises:
        ConfigurationError: No `kid`, a private member, or other key material than is known under this `kid`.
    """
    kid = document.get("kid")
    if not isinstance(kid, str) or not kid:
        raise ConfigurationError("a public key has no kid", where="public key")
    if _PRIVATE_MEMBERS & document.keys():
        raise ConfigurationError("private members in a public key", where=f"key {kid}", cure="Keep only the public part")
    if known is not None and any(known.get(name) != document.get(name) for name in _MATERIAL):
        raise ConfigurationError("another key is known under this kid", where=f"key {kid}", cure="Name keys by their thumbprint")
    return dict(document)
