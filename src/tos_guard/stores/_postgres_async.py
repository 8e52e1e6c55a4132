"""What a request asks of a PostgreSQL store, with `await`: the same statements, the same caches, and connections of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from tos_guard.ledger import KeptSeal, SealKind
from tos_guard.stores._kept_seals import ask_seal
from tos_guard.stores._model import StoredTerms
from tos_guard.stores._store import matching

if TYPE_CHECKING:
    from tos_guard.rights import Account, Holder, KeyedHolder
    from tos_guard.stores._holders import Found, Kind
    from tos_guard.stores._postgres import PostgresStore

__all__ = ["AsyncPostgresStore"]


class AsyncPostgresStore:
    """The look-ups of a `PostgresStore` for coroutines: an `AsyncAccountSource`. Any event loop may call; no thread waits.

    What changes something has one colour: that of the store, whose records are written by a thread, and whose administration is rare.

    Args:
        store: Whose caches and connections' settings these are. It outlives this.
    """

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    @property
    def is_fresh(self) -> bool:
        """Whether `version` answers without asking the server."""
        return self._store.hearing.is_fresh

    def version(self) -> int:
        """As `Store.version`; waits for the server where `is_fresh` is false.

        Raises:
            StoreError: The server does not answer.
        """
        return self._store.version()

    async def heard_version(self) -> int:
        """As `Store.version`; where it must be asked for, the event loop does not wait.

        Raises:
            StoreError: The server does not answer.
        """
        return await self._store.hearing.heard_version()

    async def holder_by_api_key(self, public_id: str, secret_hash: bytes) -> Holder | None:
        """As `Store.holder_by_api_key`.

        Raises:
            StoreError: The server failed, or did not answer in time.
        """
        keyed = await self.keyed_holder(public_id, secret_hash)
        return None if keyed is None else keyed.holder

    async def keyed_holder(self, public_id: str, secret_hash: bytes) -> KeyedHolder | None:
        """As `Store.keyed_holder`.

        Raises:
            StoreError: As `holder_by_api_key`.
        """
        found = await self._find("key", public_id)
        return found.keyed if matching(found.secret_hash, secret_hash) else None

    async def holder_by_id(self, account_id: str) -> Holder | None:
        """As `Store.holder_by_id`.

        Raises:
            StoreError: As `holder_by_api_key`.
        """
        return (await self._find("id", account_id)).holder

    async def rights_of(self, account: Account) -> Holder:
        """As `Store.rights_of`.

        Raises:
            StoreError: As `holder_by_api_key`.
        """
        known, asking = self._store._rights_or_ask(account, await self.heard_version())
        return await self._store._accounts_tables.look(asking) if known is None else known

    async def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        """As `Store.by_api_key`.

        Raises:
            StoreError: As `holder_by_api_key`.
        """
        holder = await self.holder_by_api_key(public_id, secret_hash)
        return None if holder is None else holder.account

    async def by_id(self, account_id: str) -> Account | None:
        """As `Store.by_id`.

        Raises:
            StoreError: As `holder_by_api_key`.
        """
        holder = await self.holder_by_id(account_id)
        return None if holder is None else holder.account

    async def terms_versions(self) -> Sequence[StoredTerms]:
        """As `Store.terms_versions`.

        Raises:
            StoreError: As `holder_by_api_key`.
        """
        return await self._store._accounts_tables.look(self._store._ask_terms_versions())

    async def usage_policy(self, sha256: str) -> bytes | None:
        """As `Store.usage_policy`.

        Raises:
            StoreError: As `holder_by_api_key`.
        """
        return await self._store._accounts_tables.look(self._store._ask_usage_policy(sha256))

    async def put_usage_policy(self, sha256: str, document: bytes) -> None:
        """As `Store.put_usage_policy`; a thread waits where the policy is not kept yet.

        Raises:
            StoreError: As `holder_by_api_key`, or *sha256* is not the digest of *document*.
        """
        if await self.usage_policy(sha256) is None:
            await asyncio.to_thread(self._store.put_usage_policy, sha256, document)

    async def kept(self, account_id: str, kind: SealKind, key: str, now: datetime) -> KeptSeal | None:
        """As `Store.kept`.

        Raises:
            StoreError: As `holder_by_api_key`, or the row is damaged.
        """
        return await self._store._records_tables.look(ask_seal(self._store.issuer, account_id, kind, key, now))

    async def _find(self, kind: Kind, name: str) -> Found:
        found = self._store._remembered(kind, name, await self.heard_version())
        if found is None:
            asked = await self._store._accounts_tables.look(self._store._ask(kind, name))
            found = self._store._remember(kind, name, asked)
        return found
