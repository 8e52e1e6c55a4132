"""Accounts, API keys, terms and public keys in SQLite, with look-ups that cost a request next to nothing.

- Look-ups are cached under `version`. A commit of any process shows there within `POLL_SECONDS`: ``PRAGMA data_version`` tells that the
  file has changed, and only then is anything read again.
- When something has changed, an account is parsed again only if its own version has.
- This file and the records are two files, since each record would otherwise look like a change of rights.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cachetools import LRUCache

from tos_guard.errors import AccountError, StoreError, TermsError
from tos_guard.protocols import Clock, Entropy
from tos_guard.stores._database import Database, Schema
from tos_guard.stores._fork import watch_forks
from tos_guard.stores._model import (
    AccountChange,
    StoredKey,
    StoredTerms,
    account_document,
    account_from_document,
    changed_account,
    checked_public_key,
)
from tos_guard.stores._store import Store, matching

if TYPE_CHECKING:
    from tos_guard.rights import Account
    from tos_guard.terms import TermsVersion

__all__ = ["POLL_SECONDS", "SECRET_HASH_BYTES", "SQLiteAccounts"]

POLL_SECONDS: Final = 0.05
"""How old `version` may be. Revocation must hold everywhere within a second (DESIGN D3)."""

_STALE_SECONDS: Final = 0.5
"""How old it may be while another thread is asking; then everyone waits for the answer."""

SECRET_HASH_BYTES: Final = 32
"""HMAC-SHA256."""

_CACHED: Final = 20_000
"""Accounts and keys kept in memory, about 2 KB each."""

_MISSING: Final = 20_000
"""Unknown ids kept in memory, apart from the known ones: whoever invents ids must not be able to push the known out."""

_SCHEMA: Final = Schema(
    what="accounts",
    application_id=0x74676163,  # "tgac"
    migrations=(
        (
            "CREATE TABLE issuer (issuer TEXT PRIMARY KEY, version INTEGER NOT NULL, pepper BLOB NOT NULL)",
            """CREATE TABLE account (
                issuer TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, document TEXT NOT NULL,
                PRIMARY KEY (issuer, id)) WITHOUT ROWID""",
            """CREATE TABLE api_key (
                number INTEGER PRIMARY KEY,
                issuer TEXT NOT NULL,
                public_id TEXT NOT NULL,
                account_id TEXT NOT NULL,
                secret_hash BLOB NOT NULL,
                label TEXT NOT NULL,
                created INTEGER NOT NULL,
                revoked INTEGER,
                UNIQUE (issuer, public_id),
                FOREIGN KEY (issuer, account_id) REFERENCES account (issuer, id))""",
            "CREATE INDEX api_key_account ON api_key (issuer, account_id)",
            """CREATE TABLE account_change (
                number INTEGER PRIMARY KEY,
                issuer TEXT NOT NULL,
                account_id TEXT NOT NULL,
                version INTEGER NOT NULL,
                at INTEGER NOT NULL,
                what TEXT NOT NULL,
                detail TEXT NOT NULL,
                reason TEXT NOT NULL,
                FOREIGN KEY (issuer, account_id) REFERENCES account (issuer, id))""",
            "CREATE INDEX account_change_account ON account_change (issuer, account_id)",
            """CREATE TABLE terms (
                number INTEGER PRIMARY KEY,
                issuer TEXT NOT NULL,
                version TEXT NOT NULL,
                uri TEXT NOT NULL,
                effective TEXT NOT NULL,
                sha256 TEXT NOT NULL,
                document BLOB NOT NULL,
                text TEXT NOT NULL,
                published INTEGER NOT NULL,
                UNIQUE (issuer, version))""",
            """CREATE TABLE public_key (
                number INTEGER PRIMARY KEY, issuer TEXT NOT NULL, kid TEXT NOT NULL, document TEXT NOT NULL,
                UNIQUE (issuer, kid))""",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class _Found:
    """A row as it was read under `version` of the store."""

    version: int
    account: Account | None
    secret_hash: bytes | None = None

    def is_newer_than(self, other: _Found) -> bool:
        """Whether this was read of a newer state than *other*; one version of the store may be seen while the next is committed."""
        if self.version != other.version:
            return self.version > other.version
        return self.account is not None and other.account is not None and self.account.version > other.account.version


class SQLiteAccounts(Store):
    """`AccountSource` and its administration in one SQLite file.

    Raises:
        ConfigurationError: The file cannot be a store of accounts.
        StoreError: It cannot be created or opened.
    """

    def __init__(self, path: Path, *, issuer: str, clock: Clock, entropy: Entropy, monotonic: Callable[[], float]) -> None:
        self.issuer = issuer
        self._clock = clock
        self._monotonic = monotonic
        self._accounts = Database(path, _SCHEMA)
        self._forget()
        with self._accounts.write() as connection:
            connection.execute("INSERT INTO issuer VALUES (?, 1, ?) ON CONFLICT DO NOTHING", (issuer, entropy(32)))
        with self._accounts.read() as connection:
            self._pepper: bytes = connection.execute("SELECT pepper FROM issuer WHERE issuer = ?", (issuer,)).fetchone()[0]
        watch_forks(self)

    def _forget(self) -> None:
        self._polling = threading.Lock()
        self._polled_at = float("-inf")
        self._state: tuple[int, int] | None = None
        self._version = 0
        self._caching = threading.Lock()
        self._known: LRUCache[tuple[str, str], _Found] = LRUCache(_CACHED)
        self._unknown: LRUCache[tuple[str, str], _Found] = LRUCache(_MISSING)

    def before_fork(self) -> None:
        """Nothing: the connections are the database's."""

    def after_fork_in_parent(self) -> None:
        """Nothing: they are opened again."""

    def after_fork_in_child(self) -> None:
        """Another thread may have held a lock, or been at work on a cache."""
        self._forget()

    def version(self) -> int:
        """As `Store.version`: a number of the file, the same in all processes."""
        now = self._monotonic()
        age = now - self._polled_at
        if age < POLL_SECONDS:
            return self._version
        if self._polling.acquire(blocking=age >= _STALE_SECONDS):
            try:
                self._poll(now)
            finally:
                self._polling.release()
        return self._version

    def _poll(self, now: float) -> None:
        if now - self._polled_at < POLL_SECONDS:
            return  # another thread has asked while this one waited
        with self._accounts.read() as connection:
            # Which file state this is must be known before the state is read, or a commit in between would be missed.
            state = (self._accounts.generation, connection.execute("PRAGMA data_version").fetchone()[0])
            if state != self._state:
                self._version = max(self._version, self._read_version(connection))
                self._state = state
        self._polled_at = now

    def _read_version(self, connection: sqlite3.Connection) -> int:
        row: tuple[int] | None = connection.execute("SELECT version FROM issuer WHERE issuer = ?", (self.issuer,)).fetchone()
        if row is None:
            raise StoreError("the issuer's row is gone", where=str(self._accounts.path), cure="Restore the file from a backup")
        return row[0]

    def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        """As `Store.by_api_key`."""
        found = self._find("key", public_id, self._read_key)
        return found.account if matching(found.secret_hash, secret_hash) else None

    def by_id(self, account_id: str) -> Account | None:
        """As `Store.by_id`."""
        return self._find("id", account_id, self._read_account).account

    def _find(self, kind: str, name: str, read: Callable[[str, int, _Found | None], _Found]) -> _Found:
        version = self.version()
        key = (kind, name)
        with self._caching:
            before = self._known.get(key) or self._unknown.get(key)
        if before is not None and before.version == version:
            return before
        found = read(name, version, before)
        with self._caching:
            # Another thread may have read and kept a newer state while we read: ours must not take its place.
            kept = self._known.get(key) or self._unknown.get(key)
            if kept is not None and kept.is_newer_than(found):
                return kept
            cache, other = (self._known, self._unknown) if found.account is not None else (self._unknown, self._known)
            other.pop(key, None)
            cache[key] = found
        return found

    def _read_key(self, public_id: str, version: int, before: _Found | None) -> _Found:
        with self._accounts.read() as connection:
            row = connection.execute(
                """SELECT account.version, account.document, api_key.secret_hash FROM api_key
                JOIN account ON account.issuer = api_key.issuer AND account.id = api_key.account_id
                WHERE api_key.issuer = ? AND api_key.public_id = ? AND api_key.revoked IS NULL""",
                (self.issuer, _storable(public_id)),
            ).fetchone()
        return self._found(row, version, before)

    def _read_account(self, account_id: str, version: int, before: _Found | None) -> _Found:
        with self._accounts.read() as connection:
            row = connection.execute(
                "SELECT version, document, NULL FROM account WHERE issuer = ? AND id = ?", (self.issuer, _storable(account_id))
            ).fetchone()
        return self._found(row, version, before)

    def _found(self, row: tuple[int, str, bytes | None] | None, version: int, before: _Found | None) -> _Found:
        if row is None:
            return _Found(version, None)
        account_version, document, secret_hash = row
        if before is not None and before.account is not None and before.account.version == account_version:
            return _Found(version, before.account, secret_hash)
        return _Found(version, self._decode(document), secret_hash)

    def pepper(self) -> bytes:
        """As `Store.pepper`."""
        return self._pepper

    def accounts(self) -> Sequence[Account]:
        """As `Store.accounts`."""
        with self._accounts.read() as connection:
            rows = connection.execute("SELECT document FROM account WHERE issuer = ? ORDER BY id", (self.issuer,)).fetchall()
        return tuple(self._decode(document) for (document,) in rows)

    def delete_account(self, account_id: str) -> None:
        """As `Store.delete_account`."""
        with self._changing() as connection:
            connection.execute("DELETE FROM api_key WHERE issuer = ? AND account_id = ?", (self.issuer, _storable(account_id)))
            connection.execute("DELETE FROM account_change WHERE issuer = ? AND account_id = ?", (self.issuer, _storable(account_id)))
            known = connection.execute("DELETE FROM account WHERE issuer = ? AND id = ?", (self.issuer, _storable(account_id))).rowcount
        # Deleted rows may live on in the unused part of pages that others share; only a file written anew is free of them.
        # Unknown accounts come here too: whoever calls again after an error below gets the rest done.
        with self._accounts.write(transaction=False) as connection:
            connection.execute("VACUUM")
        self._accounts.empty_log()
        if not known:
            raise unknown_account(account_id)

    def history(self, account_id: str) -> Sequence[AccountChange]:
        """As `Store.history`."""
        with self._accounts.read() as connection:
            self._stored(connection, account_id)
            rows = connection.execute(
                """SELECT account_id, version, at, what, detail, reason FROM account_change
                WHERE issuer = ? AND account_id = ? ORDER BY number""",
                (self.issuer, account_id),
            ).fetchall()
        return tuple(AccountChange(owner, version, _from_ms(at), what, detail, reason) for owner, version, at, what, detail, reason in rows)

    def add_api_key(self, account_id: str, public_id: str, secret_hash: bytes, *, label: str = "") -> StoredKey:
        """As `Store.add_api_key`."""
        if len(secret_hash) != SECRET_HASH_BYTES:
            raise AccountError(f"a hash of {len(secret_hash)} bytes, not {SECRET_HASH_BYTES}", where=f"key {public_id}")
        now = self._clock()
        with self._changing() as connection:
            account = self._stored(connection, account_id)
            inserted = connection.execute(
                """INSERT INTO api_key (issuer, public_id, account_id, secret_hash, label, created) VALUES (?, ?, ?, ?, ?, ?)
                ON CONFLICT DO NOTHING""",
                (self.issuer, check_name(public_id, "key"), account_id, secret_hash, label, _to_ms(now)),
            )
            if inserted.rowcount != 1:
                raise AccountError("this public id is taken", where=f"key {public_id}", cure="Make a new key")
            self._note(connection, AccountChange(account_id, account.version, now, "key_added", public_id))
        return StoredKey(public_id, account_id, label, _from_ms(_to_ms(now)))

    def revoke_api_key(self, public_id: str, reason: str = "") -> StoredKey:
        """As `Store.revoke_api_key`."""
        now = self._clock()
        with self._changing() as connection:
            revoked = connection.execute(
                "UPDATE api_key SET revoked = ? WHERE issuer = ? AND public_id = ? AND revoked IS NULL",
                (_to_ms(now), self.issuer, _storable(public_id)),
            ).rowcount
            row = connection.execute(f"{_SELECT_KEY} WHERE issuer = ? AND public_id = ?", (self.issuer, _storable(public_id))).fetchone()
            if row is None:
                raise AccountError("unknown API key", where=f"key {public_id}")
            key = _stored_key(row)
            if revoked:
                account = self._stored(connection, key.account_id)
                self._note(connection, AccountChange(key.account_id, account.version, now, "key_revoked", public_id, reason))
        return key

    def api_keys(self, account_id: str) -> Sequence[StoredKey]:
        """As `Store.api_keys`."""
        with self._accounts.read() as connection:
            self._stored(connection, account_id)
            rows = connection.execute(
                f"{_SELECT_KEY} WHERE issuer = ? AND account_id = ? ORDER BY number", (self.issuer, account_id)
            ).fetchall()
        return tuple(map(_stored_key, rows))

    def publish_terms(self, terms: TermsVersion) -> None:
        """As `Store.publish_terms`."""
        known = self.terms(terms.version)
        if known is not None and known.sha256 == terms.sha256:
            return  # as each worker does at its start
        with self._changing() as connection:
            row = connection.execute("SELECT sha256 FROM terms WHERE issuer = ? AND version = ?", (self.issuer, terms.version)).fetchone()
            if row is None:
                connection.execute(
                    """INSERT INTO terms (issuer, version, uri, effective, sha256, document, text, published)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
                    (
                        self.issuer,
                        terms.version,
                        terms.uri,
                        terms.effective.isoformat(),
                        terms.sha256,
                        terms.document_bytes,
                        terms.text,
                        _to_ms(self._clock()),
                    ),
                )
            elif row[0] != terms.sha256:
                raise already_published(terms.version)

    def terms(self, version: str) -> StoredTerms | None:
        """As `Store.terms`."""
        with self._accounts.read() as connection:
            row = connection.execute(f"{_SELECT_TERMS} WHERE issuer = ? AND version = ?", (self.issuer, _storable(version))).fetchone()
        return None if row is None else _stored_terms(row)

    def terms_versions(self) -> Sequence[StoredTerms]:
        """As `Store.terms_versions`."""
        with self._accounts.read() as connection:
            rows = connection.execute(f"{_SELECT_TERMS} WHERE issuer = ? ORDER BY effective, number", (self.issuer,)).fetchall()
        return tuple(map(_stored_terms, rows))

    def put_public_key(self, document: Mapping[str, Any]) -> None:
        """As `Store.put_public_key`."""
        with self._changing() as connection:
            row = connection.execute(
                "SELECT document FROM public_key WHERE issuer = ? AND kid = ?", (self.issuer, _storable(str(document.get("kid"))))
            ).fetchone()
            checked = checked_public_key(document, None if row is None else json.loads(row[0]))
            connection.execute(
                """INSERT INTO public_key (issuer, kid, document) VALUES (?, ?, ?)
                ON CONFLICT DO UPDATE SET document = excluded.document""",
                (self.issuer, checked["kid"], json.dumps(checked)),
            )

    def public_keys(self) -> Sequence[dict[str, Any]]:
        """As `Store.public_keys`."""
        with self._accounts.read() as connection:
            rows = connection.execute("SELECT document FROM public_key WHERE issuer = ? ORDER BY number", (self.issuer,)).fetchall()
        return tuple(json.loads(document) for (document,) in rows)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._accounts.write() as connection:
            connection.execute("UPDATE issuer SET version = version + 1 WHERE issuer = ?", (self.issuer,))
            version = self._read_version(connection)
            yield connection
        # Own changes show at once. Never backwards: another thread may have seen a later one.
        with self._polling:
            self._version = max(self._version, version)

    def _insert_account(self, account: Account) -> Account:
        with self._changing() as connection:
            inserted = connection.execute(
                "INSERT INTO account VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (self.issuer, check_name(account.id, "account"), account.version, json.dumps(account_document(account))),
            )
            if inserted.rowcount != 1:
                raise account_exists(account.id)
            self._note(connection, AccountChange(account.id, account.version, self._clock(), "added"))
        return account

    def _change_account(
        self, account_id: str, change: Callable[[Account], Mapping[str, Any]], *, what: str, detail: str, reason: str
    ) -> Account:
        with self._changing() as connection:
            stored = self._stored(connection, account_id)
            account = changed_account(stored, {**change(stored), "version": stored.version + 1})
            connection.execute(
                "UPDATE account SET version = ?, document = ? WHERE issuer = ? AND id = ?",
                (account.version, json.dumps(account_document(account)), self.issuer, account_id),
            )
            self._note(connection, AccountChange(account_id, account.version, self._clock(), what, detail, reason))
        return account

    def _stored(self, connection: sqlite3.Connection, account_id: str) -> Account:
        row = connection.execute(
            "SELECT document FROM account WHERE issuer = ? AND id = ?", (self.issuer, _storable(account_id))
        ).fetchone()
        if row is None:
            raise unknown_account(account_id)
        return self._decode(row[0])

    def _note(self, connection: sqlite3.Connection, change: AccountChange) -> None:
        connection.execute(
            """INSERT INTO account_change (issuer, account_id, version, at, what, detail, reason) VALUES (?, ?, ?, ?, ?, ?, ?)""",
            (self.issuer, change.account_id, change.version, _to_ms(change.at), change.what, change.detail, change.reason),
        )

    def _decode(self, document: str) -> Account:
        try:
            return account_from_document(document)
        except AccountError as error:
            raise StoreError(f"a stored account cannot be read ({error})", where=str(self._accounts.path)) from error


_SELECT_KEY: Final = "SELECT public_id, account_id, label, created, revoked FROM api_key"
_SELECT_TERMS: Final = "SELECT version, uri, effective, sha256, document, text FROM terms"


def unknown_account(account_id: str) -> AccountError:
    """There is no such account."""
    return AccountError("unknown account", where=f"account {account_id}", cure="List the accounts")


def account_exists(account_id: str) -> AccountError:
    """There is one already."""
    return AccountError("this account exists already", where=f"account {account_id}", cure="Change it, or choose another id")


def already_published(version: str) -> TermsError:
    """A version is one document and one text, for ever."""
    return TermsError(
        "other terms have been published under this version", where=f"terms {version}", cure="Give the changed terms a new version"
    )


def _stored_key(row: tuple[str, str, str, int, int | None]) -> StoredKey:
    public_id, account_id, label, created, revoked = row
    return StoredKey(public_id, account_id, label, _from_ms(created), None if revoked is None else _from_ms(revoked))


def _stored_terms(row: tuple[str, str, str, str, bytes, str]) -> StoredTerms:
    version, uri, effective, sha256, document, text = row
    return StoredTerms(version, uri, date.fromisoformat(effective), sha256, document, text)


def _storable(name: str) -> str:
    """*name*, or what no row has for a name that SQLite cannot take: a lone surrogate of a hostile header, say."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return ""
    return name


def check_name(name: str, what: str) -> str:
    if not name or _storable(name) != name:
        raise AccountError(f"{name!r} cannot name it", where=what, cure="Choose a name of letters, digits and dashes")
    return name


def _to_ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _from_ms(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
