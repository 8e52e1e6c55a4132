"""Accounts and their API keys, in tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tos_guard.errors import AccountError
from tos_guard.stores._admin_keys import SQLAdminKeys
from tos_guard.stores._administration import ToAccount
from tos_guard.stores._appeal_tables import SQLAppeals
from tos_guard.stores._appeals import Appeal, ToAppeal
from tos_guard.stores._archive import SQLArchive
from tos_guard.stores._holders import SQLHolders
from tos_guard.stores._model import (
    AccountChange,
    Step,
    StoredKey,
    account_document,
    changed_account,
    check_name,
    check_secret_hash,
    from_ms,
    key_taken,
    key_terms_document,
    key_terms_from_document,
    new_stored_key,
    rotated,
    storable,
    to_ms,
    unknown_key,
)
from tos_guard.stores._outside import ToGiven
from tos_guard.stores._outside_tables import SQLOutside, note_delivery
from tos_guard.stores._sql import ALL_ROWS, Connection

if TYPE_CHECKING:
    from tos_guard.rights import Account, KeyTerms

__all__ = ["SQLAccounts", "account_exists", "unknown_account"]

_SELECT_KEY: Final = "SELECT public_id, account_id, label, created, revoked, terms, replaces FROM api_key"
_SELECT_VERSION: Final = "SELECT document FROM account_version WHERE issuer = ? AND account_id = ?"


class SQLAccounts(SQLOutside, SQLAppeals, SQLHolders, SQLArchive, SQLAdminKeys):
    """All of `Store` that is not about records."""

    def accounts(self, *, after: str = "", limit: int | None = None) -> Sequence[Account]:
        """As `Store.accounts`."""
        with self._accounts.read() as connection:
            rows = connection.execute(
                "SELECT document FROM account WHERE issuer = ? AND id > ? ORDER BY id LIMIT ?",
                (self.issuer, storable(after), ALL_ROWS if limit is None else limit),
            ).fetchall()
        return tuple(self._account(document) for (document,) in rows)

    def delete_account(self, account_id: str) -> None:
        """As `Store.delete_account`."""
        with self._changing() as (connection, _):
            name = (self.issuer, storable(account_id))
            connection.execute("DELETE FROM api_key WHERE issuer = ? AND account_id = ?", name)
            connection.execute("DELETE FROM appeal WHERE issuer = ? AND account_id = ?", name)
            connection.execute("DELETE FROM account_change WHERE issuer = ? AND account_id = ?", name)
            connection.execute("DELETE FROM account_version WHERE issuer = ? AND account_id = ?", name)
            connection.execute("DELETE FROM entitlement WHERE issuer = ? AND account_id = ?", name)
            known = connection.execute("DELETE FROM account WHERE issuer = ? AND id = ?", name).rowcount
            if known:
                connection.execute(
                    "UPDATE acceptance SET former = 1 WHERE issuer = ? AND subject_kind = 'account' AND subject_id = ?", name
                )
        # Unknown accounts come here too: whoever calls again after an error gets the rest done.
        self._accounts.scrub("account", "account_change", "account_version", "api_key", "appeal", "entitlement")
        if not known:
            raise unknown_account(account_id)

    def history(self, account_id: str) -> Sequence[AccountChange]:
        """As `Store.history`."""
        with self._accounts.read() as connection:
            self._stored(connection, account_id)
            rows = connection.execute(
                """SELECT account_id, version, at, what, detail, reason, actor FROM account_change
                WHERE issuer = ? AND account_id = ? ORDER BY number""",
                (self.issuer, account_id),
            ).fetchall()
        return tuple(AccountChange(owner, version, from_ms(at), *said) for owner, version, at, *said in rows)

    def account_version(self, account_id: str, version: int) -> Account | None:
        """As `Store.account_version`."""
        return self._earlier(f"{_SELECT_VERSION} AND version = ?", account_id, version)

    def account_at(self, account_id: str, moment: datetime) -> Account | None:
        """As `Store.account_at`."""
        return self._earlier(f"{_SELECT_VERSION} AND at <= ? ORDER BY version DESC LIMIT 1", account_id, to_ms(moment))

    def _earlier(self, query: str, account_id: str, value: int) -> Account | None:
        with self._accounts.read() as connection:
            row = connection.execute(query, (self.issuer, storable(account_id), value)).fetchone()
        return None if row is None else self._account(row[0])

    def add_api_key(
        self, account_id: str, public_id: str, secret_hash: bytes, *, label: str = "", terms: KeyTerms | None = None, actor: str = ""
    ) -> StoredKey:
        """As `Store.add_api_key`."""
        key = new_stored_key(public_id, account_id, label, self._now(), terms)
        with self._changing() as (connection, _):
            account = self._stored(connection, account_id)
            self._insert_key(connection, key, secret_hash)
            self._note(connection, account, Step("key_added", public_id, actor=actor))
        return key

    def rotate_api_key(
        self, public_id: str, new_public_id: str, secret_hash: bytes, *, overlap: timedelta, terms: KeyTerms | None = None, actor: str = ""
    ) -> StoredKey:
        """As `Store.rotate_api_key`."""
        with self._changing() as (connection, _):
            old, now = self._stored_key(connection, public_id), self._now()
            replaced = connection.execute(
                "SELECT public_id FROM api_key WHERE issuer = ? AND account_id = ? AND replaces = ?",
                (self.issuer, old.account_id, public_id),
            ).fetchone()
            ending, key = rotated(old, new_public_id, now, overlap, terms, successor=None if replaced is None else replaced[0])
            connection.execute(
                "UPDATE api_key SET terms = ? WHERE issuer = ? AND public_id = ?", (key_terms_document(ending), self.issuer, public_id)
            )
            self._insert_key(connection, key, secret_hash)
            step = Step("key_rotated", new_public_id, f"replaces {public_id}", actor)
            self._note(connection, self._stored(connection, key.account_id), step)
        return key

    def _insert_key(self, connection: Connection, key: StoredKey, secret_hash: bytes) -> None:
        check_secret_hash(secret_hash, key.public_id)
        inserted = connection.execute(
            """INSERT INTO api_key (issuer, public_id, account_id, secret_hash, label, created, terms, replaces)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
            (
                *(self.issuer, key.public_id, key.account_id, secret_hash, key.label, to_ms(key.created)),
                *(key_terms_document(key.terms), key.replaces),
            ),
        )
        if inserted.rowcount != 1:
            raise key_taken(key.public_id)

    def _stored_key(self, connection: Connection, public_id: str) -> StoredKey:
        row = connection.execute(f"{_SELECT_KEY} WHERE issuer = ? AND public_id = ?", (self.issuer, storable(public_id))).fetchone()
        if row is None:
            raise unknown_key(public_id)
        return _stored_key(row)

    def revoke_api_key(self, public_id: str, reason: str = "", *, actor: str = "") -> StoredKey:
        """As `Store.revoke_api_key`."""
        step = Step("key_revoked", storable(public_id), reason, actor)
        with self._changing() as (connection, _):
            revoked = connection.execute(
                "UPDATE api_key SET revoked = ? WHERE issuer = ? AND public_id = ? AND revoked IS NULL",
                (to_ms(self._clock()), self.issuer, storable(public_id)),
            ).rowcount
            key = self._stored_key(connection, public_id)
            if revoked:
                self._note(connection, self._stored(connection, key.account_id), step)
        return key

    def api_keys(self, account_id: str) -> Sequence[StoredKey]:
        """As `Store.api_keys`."""
        with self._accounts.read() as connection:
            self._stored(connection, account_id)
            rows = connection.execute(
                f"{_SELECT_KEY} WHERE issuer = ? AND account_id = ? ORDER BY number", (self.issuer, account_id)
            ).fetchall()
        return tuple(map(_stored_key, rows))

    def _insert_account(self, account: Account, step: Step) -> Account:
        with self._changing() as (connection, changed):
            self._insert(connection, changed, account, step)
        return account

    def _insert(self, connection: Connection, changed: int, account: Account, step: Step) -> None:
        inserted = connection.execute(
            "INSERT INTO account (issuer, id, version, changed, document) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (self.issuer, check_name(account.id, "account"), account.version, changed, json.dumps(account_document(account))),
        )
        if inserted.rowcount != 1:
            raise account_exists(account.id)
        self._keep_account(connection, account, step)

    def _change_account(self, account_id: str, change: ToAccount, step: Step) -> Account:
        try:
            with self._changing() as (connection, changed):
                stored = self._stored(connection, account_id)
                if step.delivery is not None and not note_delivery(connection, self.issuer, *step.delivery, now=self._now()):
                    raise _NothingChangedError(stored)
                changes = change(stored)
                if changes is None:
                    raise _NothingChangedError(stored)
                account = changed_account(stored, {**changes, "version": stored.version + 1})
                self._replace(connection, changed, account, step)
        except _NothingChangedError as nothing:
            return nothing.account
        return account

    def _appeal(self, account_id: str, change: ToAppeal) -> Appeal:
        with self._changing() as (connection, changed):
            stored = self._stored(connection, account_id)
            appeal, changes, step = change(stored, self._appeals_of(connection, stored.id))
            self._put_appeal(connection, appeal)
            if changes is None:
                self._note(connection, stored, step)
            else:
                account = changed_account(stored, {**changes, "version": stored.version + 1})
                self._replace(connection, changed, account, step)
        return appeal

    def _replace(self, connection: Connection, changed: int, account: Account, step: Step) -> None:
        connection.execute(
            "UPDATE account SET version = ?, changed = ?, document = ? WHERE issuer = ? AND id = ?",
            (account.version, changed, json.dumps(account_document(account)), self.issuer, account.id),
        )
        self._keep_account(connection, account, step)

    def _entitle(self, source: str, account_id: str, change: ToGiven, step: Step) -> Account | None:
        try:
            with self._changing() as (connection, changed):
                name = (self.issuer, storable(account_id))
                row = connection.execute("SELECT document FROM account WHERE issuer = ? AND id = ?", name).fetchone()
                stored = None if row is None else self._account(row[0])
                earlier = self._given(connection, source, account_id)
                account, given = change(stored, earlier)
                if account is None or (account is stored and given == earlier):
                    raise _NothingGivenError(account)
                if stored is None:
                    self._insert(connection, changed, account, replace(step, what="added"))
                elif account is not stored:
                    account = changed_account(account, {"version": stored.version + 1})
                    self._replace(connection, changed, account, step)
                self._keep_given(connection, source, account, given)
        except _NothingGivenError as nothing:
            return nothing.account
        return account

    def _keep_account(self, connection: Connection, account: Account, step: Step) -> None:
        """Keep this version beside the earlier ones, and the step that led to it."""
        connection.execute(
            "INSERT INTO account_version (issuer, account_id, version, at, document) VALUES (?, ?, ?, ?, ?)",
            (self.issuer, account.id, account.version, to_ms(self._clock()), json.dumps(account_document(account))),
        )
        self._note(connection, account, step)

    def _note(self, connection: Connection, account: Account, step: Step) -> None:
        connection.execute(
            """INSERT INTO account_change (issuer, account_id, version, at, what, detail, reason, actor)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
            (self.issuer, account.id, account.version, to_ms(self._clock()), step.what, step.detail, step.reason, step.actor),
        )

    def _stored(self, connection: Connection, account_id: str) -> Account:
        row = connection.execute("SELECT document FROM account WHERE issuer = ? AND id = ?", (self.issuer, storable(account_id))).fetchone()
        if row is None:
            raise unknown_account(account_id)
        return self._account(row[0])


class _NothingChangedError(Exception):
    """Rolls a change back that changes nothing."""

    def __init__(self, account: Account) -> None:
        self.account = account


class _NothingGivenError(Exception):
    """The same, of what a source gives: perhaps there is no account."""

    def __init__(self, account: Account | None) -> None:
        self.account = account


def unknown_account(account_id: str) -> AccountError:
    """There is no such account."""
    return AccountError("unknown account", where=f"account {account_id}", cure="List the accounts")


def account_exists(account_id: str) -> AccountError:
    """There is one already."""
    return AccountError("this account exists already", where=f"account {account_id}", cure="Change it, or choose another id")


def _stored_key(row: tuple[str, str, str, int, int | None, str, str]) -> StoredKey:
    public_id, account_id, label, created, revoked, terms, replaces = row
    ended = None if revoked is None else from_ms(revoked)
    return StoredKey(public_id, account_id, label, from_ms(created), ended, key_terms_from_document(terms), replaces)
