"""The file of the accounts and its version, which any process learns within `POLL_SECONDS` of a commit and at next to no cost.

``PRAGMA data_version`` tells that the file has changed, and only then is anything read again. Accounts and records are two files, since
each record would otherwise look like a change of rights.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tos_guard.errors import StoreError
from tos_guard.protocols import Clock, Entropy
from tos_guard.stores._database import Database
from tos_guard.stores._fork import watch_forks
from tos_guard.stores._schema import ACCOUNTS_SCHEMA
from tos_guard.stores._store import Store

__all__ = ["CACHED", "POLL_SECONDS", "AccountsFile"]

POLL_SECONDS: Final = 0.05
"""How old `version` may be. Revocation must hold everywhere within a second (DESIGN D3)."""

_STALE_SECONDS: Final = 0.5
"""How old it may be while another thread is asking; then everyone waits for the answer."""

CACHED: Final = 20_000
"""Accounts, keys, organizations and acceptances kept in memory, of each; about 2 KB each."""


class AccountsFile(Store):
    """What the rooms of the file have in common.

    Raises:
        ConfigurationError: The file cannot be a store of accounts.
        StoreError: It cannot be created or opened.
    """

    def __init__(self, path: Path, *, issuer: str, clock: Clock, entropy: Entropy, monotonic: Callable[[], float]) -> None:
        self.issuer = issuer
        self._clock = clock
        self._monotonic = monotonic
        self._accounts = Database(path, ACCOUNTS_SCHEMA)
        self._forget()
        with self._accounts.write() as connection:
            connection.execute("INSERT INTO issuer VALUES (?, 1, ?) ON CONFLICT DO NOTHING", (issuer, entropy(32)))
        with self._accounts.read() as connection:
            self._pepper: bytes = connection.execute("SELECT pepper FROM issuer WHERE issuer = ?", (issuer,)).fetchone()[0]
        watch_forks(self)

    def _forget(self) -> None:
        """Know nothing, and have locks that nobody holds."""
        self._caching = threading.Lock()
        self._polling = threading.Lock()
        self._polled_at = float("-inf")
        self._state: tuple[int, int] | None = None
        self._version = 0

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

    def pepper(self) -> bytes:
        """As `Store.pepper`."""
        return self._pepper

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """A connection that sees one state of the file, and the version of that state."""
        with self._accounts.read() as connection:
            connection.execute("BEGIN")
            try:
                yield connection, self._read_version(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")

    @contextmanager
    def _changing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """A connection for one change, and the version that the store has with it."""
        with self._accounts.write() as connection:
            connection.execute("UPDATE issuer SET version = version + 1 WHERE issuer = ?", (self.issuer,))
            version = self._read_version(connection)
            yield connection, version
        # Own changes show at once. Never backwards: another thread may have seen a later one.
        with self._polling:
            self._version = max(self._version, version)
