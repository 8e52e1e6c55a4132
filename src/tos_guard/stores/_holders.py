"""Who asks, and with what rights: look-ups that cost a request next to nothing.

- Whatever was found is kept under the version of the state that it was read from, and holds until `version` shows a later one.
- Then only what has changed is parsed again. Each row says when it last changed, and acceptances are only ever added.
- A `Holder` is the same object as long as nothing of it has changed, by whichever key it was found: plans are kept by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from cachetools import LRUCache

from tos_guard.errors import AccountError, StoreError
from tos_guard.stores._acceptances import AcceptanceRows, SQLAcceptances
from tos_guard.stores._issuer import CACHED
from tos_guard.stores._model import account_from_document, key_terms_from_document, storable
from tos_guard.stores._organizations import SQLOrganizations
from tos_guard.stores._sql import Asking
from tos_guard.stores._store import matching

if TYPE_CHECKING:
    from tos_guard.rights import Account, Holder, KeyedHolder, KeyTerms

__all__ = ["Found", "Kind", "SQLHolders"]

_MISSING: Final = 20_000
"""Unknown ids kept in memory, apart from the known ones: whoever invents ids must not be able to push the known out."""

_OF_THE_HOST: Final = -1
"""In place of the change of an account that was not read here."""

Kind = Literal["key", "id"]
"""By what an account is looked up."""

_SELECT: Final[dict[Kind, str]] = {
    "key": """SELECT account.id, account.changed, account.document, api_key.secret_hash, api_key.terms FROM api_key
        JOIN account ON account.issuer = api_key.issuer AND account.id = api_key.account_id
        WHERE api_key.issuer = ? AND api_key.public_id = ? AND api_key.revoked IS NULL""",
    "id": "SELECT id, changed, document, NULL, '{}' FROM account WHERE issuer = ? AND id = ?",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up found in the state of this version."""

    version: int
    holder: Holder | None
    secret_hash: bytes | None = None
    keyed: KeyedHolder | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    """A holder, the version of the last state in which it was so, and what tells whether it still is.

    Attributes:
        changed: When its account changed last, or `_OF_THE_HOST`.
        organization_changed: When its organization changed last, 0 where it has none.
        rows: Its acceptances.
    """

    version: int
    holder: Holder
    changed: int
    organization_changed: int
    rows: AcceptanceRows

    def is_of(self, account: Account, changed: int) -> bool:
        """Whether its account is this one."""
        if changed != _OF_THE_HOST:
            return self.changed == changed
        return self.holder.account is account or self.holder.account == account


class SQLHolders(SQLOrganizations, SQLAcceptances):
    """The look-ups of `Store`."""

    def _forget(self) -> None:
        super()._forget()
        self._known: LRUCache[tuple[str, str], Found] = LRUCache(CACHED)
        self._unknown: LRUCache[tuple[str, str], Found] = LRUCache(_MISSING)
        self._holders: LRUCache[str, _Kept] = LRUCache(CACHED)

    def keyed_holder(self, public_id: str, secret_hash: bytes) -> KeyedHolder | None:
        """As `Store.keyed_holder`."""
        found = self._find("key", public_id)
        return found.keyed if matching(found.secret_hash, secret_hash) else None

    def holder_by_id(self, account_id: str) -> Holder | None:
        """As `Store.holder_by_id`."""
        return self._find("id", account_id).holder

    def rights_of(self, account: Account) -> Holder:
        """As `Store.rights_of`."""
        known, asking = self._rights_or_ask(account, self._hearing.version())
        return self._look(asking) if known is None else known

    def rights_at(self, account: Account, moment: datetime) -> Holder:
        """As `Store.rights_at`."""
        from tos_guard.rights import Holder

        organization = None if account.organization is None else self.organization_at(account.organization, moment)
        return Holder(account, organization, self._acceptances_at(account, moment))

    def _find(self, kind: Kind, name: str) -> Found:
        found = self._remembered(kind, name, self._hearing.version())
        return self._remember(kind, name, self._look(self._ask(kind, name))) if found is None else found

    def _remembered(self, kind: Kind, name: str, version: int) -> Found | None:
        """What a look-up found, if it is of this version or a later one."""
        key = (kind, name)
        with self._caching:
            before = self._known.get(key) or self._unknown.get(key)
        return before if before is not None and before.version >= version else None

    def _remember(self, kind: Kind, name: str, found: Found) -> Found:
        """What is now known to have been found."""
        key = (kind, name)
        with self._caching:
            # Another thread may have read and kept a newer state while we read: ours must not take its place.
            kept = self._known.get(key) or self._unknown.get(key)
            if kept is not None and kept.version > found.version:
                return kept
            cache, other = (self._known, self._unknown) if found.holder is not None else (self._unknown, self._known)
            other.pop(key, None)
            cache[key] = found
        return found

    def _ask(self, kind: Kind, name: str) -> Asking[Found]:
        from tos_guard.rights import KeyedHolder

        version = yield from self._ask_version()
        rows = yield _SELECT[kind], (self.issuer, storable(name))
        if not rows:
            return Found(version, None)
        ((account_id, changed, document, secret_hash, terms),) = rows
        with self._caching:
            kept = self._holders.get(account_id)
        account = kept.holder.account if kept is not None and kept.changed == changed else self._account(document)
        holder = yield from self._ask_holder(version, account, changed)
        return Found(version, holder, secret_hash, KeyedHolder(holder, self._key_terms(terms)))

    def _rights_or_ask(self, account: Account, version: int) -> tuple[Holder | None, Asking[Holder]]:
        """The rights of an account, where they are known in this version; and what to ask where they are not."""
        with self._caching:
            kept = self._holders.get(account.id)
        if kept is None or not kept.is_of(account, _OF_THE_HOST):
            return None, self._ask_rights(account, _OF_THE_HOST)
        known = kept.holder if kept.version >= version else None
        return known, self._ask_rights(kept.holder.account, kept.changed)

    def _ask_rights(self, account: Account, changed: int) -> Asking[Holder]:
        version = yield from self._ask_version()
        return (yield from self._ask_holder(version, account, changed))

    def _ask_holder(self, version: int, account: Account, changed: int) -> Asking[Holder]:
        """The account with all that belongs to it in this state; the holder that is known, if it is still so."""
        from tos_guard.rights import Holder

        organization, organization_changed = yield from self._ask_organization(account.organization)
        acceptances, rows = yield from self._ask_acceptances(account)
        holder = Holder(account, organization, acceptances)
        with self._caching:
            kept = self._holders.get(account.id)
            if kept is not None and kept.is_of(account, changed) and (kept.organization_changed, kept.rows) == (organization_changed, rows):
                holder = kept.holder
            if kept is None or kept.version <= version:
                self._holders[account.id] = _Kept(version, holder, changed, organization_changed, rows)
        return holder

    def _key_terms(self, document: str) -> KeyTerms:
        try:
            return key_terms_from_document(document)
        except AccountError as error:
            raise StoreError(f"a stored key cannot be read ({error})", where=self._accounts.where) from error

    def _account(self, document: str) -> Account:
        try:
            return account_from_document(document)
        except AccountError as error:
            raise StoreError(f"a stored account cannot be read ({error})", where=self._accounts.where) from error
