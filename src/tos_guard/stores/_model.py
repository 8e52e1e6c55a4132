"""What stores keep besides accounts and records, and the JSON forms of accounts and organizations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tos_guard.errors import AccountError, ConfigurationError

if TYPE_CHECKING:
    from tos_guard.rights import Account, Grant, KeyTerms, Measure, Organization

__all__ = [
    "AccountChange",
    "OrganizationChange",
    "Step",
    "StoredAdminKey",
    "StoredKey",
    "StoredTerms",
    "account_document",
    "account_from_document",
    "changed_account",
    "changed_organization",
    "check_grants_kept",
    "check_measures_kept",
    "check_name",
    "check_secret_hash",
    "check_text",
    "checked_public_key",
    "from_ms",
    "grant_document",
    "key_taken",
    "measure_document",
    "organization_document",
    "organization_from_document",
    "storable",
    "to_ms",
    "unknown_key",
]

_T = TypeVar("_T")

SECRET_HASH_BYTES: Final = 32
"""HMAC-SHA256."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members of a JWK that are secret (RFC 7518 section 6): a public key document never holds one."""

_MATERIAL: Final = ("kty", "crv", "x", "y", "n", "e")
"""Members that make the key: under one `kid` they never change."""


def _unlimited() -> KeyTerms:
    from tos_guard.rights import UNLIMITED_KEY

    return UNLIMITED_KEY


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key as its account's administrator sees it: neither the secret nor its hash.

    Attributes:
        public_id: The part of the key that names it.
        account_id: Whose it is.
        label: What the administrator calls it.
        created: When it was made.
        revoked: When it was revoked, or None.
        terms: What it is for.
        replaces: Public id of the key that it was rotated from, or empty.
    """

    public_id: str
    account_id: str
    label: str
    created: datetime
    revoked: datetime | None = None
    terms: KeyTerms = field(default_factory=_unlimited)
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class StoredAdminKey:
    """An administrator's key as others see it: neither the secret nor its hash.

    Attributes:
        public_id: The part of the key that names it.
        name: Whose it is, as histories name who did something.
        created: When it was made.
        created_by: Who made it; empty where nobody said.
        revoked: When it was revoked, or None.
        revoked_by: Who revoked it; empty where nobody did, or said so.
    """

    public_id: str
    name: str
    created: datetime
    created_by: str = ""
    revoked: datetime | None = None
    revoked_by: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What an administrator does, as the history tells it.

    Attributes:
        what: The kind of step.
        detail: What was set.
        reason: Why, in the administrator's words.
        actor: Who did it.
        delivery: Sender and id of the message that asks for it: it is done once for each, and noted with it. None where nobody sent one.

    Raises:
        AccountError: A text cannot be stored.
    """

    what: str
    detail: str = ""
    reason: str = ""
    actor: str = ""
    delivery: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        for name in ("detail", "reason", "actor"):
            check_text(getattr(self, name), name)


@dataclass(frozen=True, slots=True)
class AccountChange:
    """One step in the history of an account.

    Attributes:
        account_id: Whose.
        version: The account's version after the step; an API key changes no version but is listed under the one it found.
        at: When.
        what: ``added``, ``changed``, ``standing``, ``grant_added``, ``grant_voided``, ``limit_set``, ``limit_cleared``,
            ``end_user_blocked``, ``end_user_unblocked``, ``key_added``, ``key_revoked``, ``measure_taken``, ``measure_lifted``,
            ``appeal_filed``, ``appeal_withdrawn``, ``appeal_rejected``, and ``appeal_upheld`` where its measure was lifted before.
        detail: What was set: the standing, the grant's, the key's or the end user's id, the limit with its amount, the measure with its
            step or its id alone, the appeal's id with that of its measure.
        reason: Why, in the administrator's words.
        actor: Who did it: an administrator's name, ``cli``, …; empty where nobody said.
    """

    account_id: str
    version: int
    at: datetime
    what: str
    detail: str = ""
    reason: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True)
class OrganizationChange:
    """One step in the history of an organization.

    Attributes:
        organization_id: Whose.
        version: The organization's version after the step.
        at: When.
        what: ``added``, ``changed``, ``limit_set``, ``limit_cleared``.
        detail: What was set: the limit with its amount.
        reason: Why, in the administrator's words.
        actor: Who did it; empty where nobody said.
    """

    organization_id: str
    version: int
    at: datetime
    what: str
    detail: str = ""
    reason: str = ""
    actor: str = ""


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
        published: When it was published: what was decided before that did not know it.
        published_by: Who published it; empty where nobody said, or a process did at its start.
    """

    version: str
    uri: str
    effective: date
    sha256: str
    document: bytes
    text: str
    published: datetime
    published_by: str = ""


def account_document(account: Account) -> dict[str, Any]:
    """The JSON form of *account*."""
    return account.model_dump(mode="json")


def account_from_document(document: Mapping[str, Any] | bytes | str) -> Account:
    """The account of a JSON form.

    Raises:
        AccountError: The document is no account.
    """
    from tos_guard.rights import Account

    return _of_document(Account, document)


def changed_account(account: Account, changes: Mapping[str, Any]) -> Account:
    """*account* with the members of its JSON form in *changes* set.

    Raises:
        AccountError: The result is no account.
    """
    return account_from_document(account_document(account) | dict(changes))


def grant_document(grant: Grant) -> dict[str, Any]:
    """The JSON form of *grant*."""
    return grant.model_dump(mode="json")


def check_grants_kept(before: Account, after: Account) -> None:
    """See to it that *after* holds every grant of *before* as it was given; one that was in force may be voided.

    Raises:
        AccountError: A grant was changed or dropped, or the mark of a voided one was.
    """
    held = {grant.id: grant for grant in after.grants}
    for grant in before.grants:
        given = held.get(grant.id)
        if given is None or given.unvoided() != grant.unvoided() or (grant.voided is not None and given != grant):
            problem = "left out" if given is None else "changed"
            raise AccountError(
                f"grant {grant.id} was {problem}: a grant stays as it was given",
                where=f"account {before.id}",
                cure="Void it, and give another under a new id",
            )


def measure_document(measure: Measure) -> dict[str, Any]:
    """The JSON form of *measure*."""
    return measure.model_dump(mode="json")


def check_measures_kept(before: Account, after: Account) -> None:
    """See to it that *after* holds the measures of *before*, and no others: each is taken and lifted by a step of its own.

    Raises:
        AccountError: It does not.
    """
    if before.measures != after.measures:
        raise AccountError(
            "its measures were changed: a measure is taken or lifted", where=f"account {before.id}", cure="Use take_measure, lift_measure"
        )


def organization_document(organization: Organization) -> dict[str, Any]:
    """The JSON form of *organization*."""
    return organization.model_dump(mode="json")


def organization_from_document(document: Mapping[str, Any] | bytes | str) -> Organization:
    """The organization of a JSON form.

    Raises:
        AccountError: The document is no organization.
    """
    from tos_guard.rights import Organization

    return _of_document(Organization, document)


def changed_organization(organization: Organization, changes: Mapping[str, Any]) -> Organization:
    """*organization* with the members of its JSON form in *changes* set.

    Raises:
        AccountError: The result is no organization.
    """
    return organization_from_document(organization_document(organization) | dict(changes))


def _of_document(kind: type[_T], document: Mapping[str, Any] | bytes | str) -> _T:
    what = kind.__name__.lower()
    try:
        members = json.loads(document) if isinstance(document, bytes | str) else document
        return kind(**members)
    except (ValueError, TypeError):  # no JSON, no object, or a member of the name ``self``
        raise AccountError(f"not a valid {what}", where=what) from None


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


def unknown_key(public_id: str) -> AccountError:
    """There is no such key."""
    return AccountError("unknown API key", where=f"key {public_id}")


def new_stored_key(
    public_id: str, account_id: str, label: str, now: datetime, terms: KeyTerms | None = None, *, replaces: str = ""
) -> StoredKey:
    """A key that is added.

    Raises:
        AccountError: Its id or label cannot be stored, or it has expired already.
    """
    terms = _unlimited() if terms is None else terms
    if terms.has_expired(now):
        raise AccountError("it would expire before it is used", where=f"key {public_id}", cure="Give a later time")
    return StoredKey(check_name(public_id, "key"), account_id, check_text(label, "label"), now, None, terms, replaces)


def rotated(
    old: StoredKey, public_id: str, now: datetime, overlap: timedelta, terms: KeyTerms | None, *, successor: str | None
) -> tuple[KeyTerms, StoredKey]:
    """What the old key is for from now on, and the new one.

    Raises:
        AccountError: The old key was revoked, has expired or was replaced before, the overlap is negative, or the new key cannot be added.
    """
    where = f"key {old.public_id}"
    if successor is not None:
        # Its end is that of an overlap by now, which another key must not inherit.
        raise AccountError(f"key {successor} has replaced it already", where=where, cure=f"Rotate {successor}, or make a new key")
    if old.revoked is not None or old.terms.has_expired(now):
        raise AccountError("it was revoked or has expired", where=where, cure="Make a new key")
    if overlap < timedelta(0):
        raise AccountError("the overlap is negative", where=where, cure="Give 0 or more")
    end = now + overlap
    ending = replace(old.terms, expires=end if old.terms.expires is None else min(end, old.terms.expires))
    return ending, new_stored_key(public_id, old.account_id, old.label, now, old.terms if terms is None else terms, replaces=old.public_id)


def key_terms_document(terms: KeyTerms) -> str:
    """What a key is for, in its JSON form."""
    return json.dumps(terms.document())


def key_terms_from_document(document: str) -> KeyTerms:
    """What a key is for, from its JSON form.

    Raises:
        AccountError: It cannot be read.
    """
    from tos_guard.rights import KeyTerms

    try:
        return KeyTerms.from_document(json.loads(document))
    except (ValueError, RecursionError) as error:
        raise AccountError(f"what the key is for cannot be read ({error})", where="key") from None


def key_taken(public_id: str) -> AccountError:
    """A public id names one key for ever."""
    return AccountError("this public id is taken", where=f"key {public_id}", cure="Make a new key")


def check_secret_hash(secret_hash: bytes, public_id: str) -> None:
    """See to it that it can be a hash.

    Raises:
        AccountError: It has not 32 bytes.
    """
    if len(secret_hash) != SECRET_HASH_BYTES:
        raise AccountError(f"a hash of {len(secret_hash)} bytes, not {SECRET_HASH_BYTES}", where=f"key {public_id}")


def storable(name: str) -> str:
    """*name*, or what nothing stored has, for a name that not every engine can take: a lone surrogate of a hostile header, or U+0000."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return ""
    return "" if "\0" in name else name


def check_name(name: str, what: str) -> str:
    """*name*, if something can be found by it.

    Raises:
        AccountError: It is empty, or cannot be stored.
    """
    if not name or storable(name) != name:
        raise AccountError(f"{name!r} cannot name it", where=what, cure="Choose a name of letters, digits and dashes")
    return name


def check_text(text: str, what: str) -> str:
    """*text*, if it can be stored.

    Raises:
        AccountError: It holds half of a UTF-16 pair, or U+0000.
    """
    if storable(text) != text:
        raise AccountError(f"{text!r} is no text", where=what)
    return text


def to_ms(at: datetime) -> int:
    """Whole milliseconds since 1970: as exactly as stores keep a time."""
    return (at - _EPOCH) // _MILLISECOND


def from_ms(milliseconds: int) -> datetime:
    """The time of `to_ms`."""
    return _EPOCH + milliseconds * _MILLISECOND
