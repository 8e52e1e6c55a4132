"""The row of an issuer: the version that grows with each change, and the pepper; and how its rooms read and change one state."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from tos_guard.protocols import Clock, Entropy
from tos_guard.stores._fork import watch_forks
from tos_guard.stores._hearing import SELECT_VERSION, Hearing, version_in
from tos_guard.stores._sql import Asking, Connection, Database, answered
from tos_guard.stores._store import Store

__all__ = ["CACHED", "SQLIssuer"]

T = TypeVar("T")

CACHED: Final = 20_000
"""Accounts, keys, organizations and acceptances kept in memory, of each; about 2 KB each."""


class SQLIssuer(Store):
    """What the rooms of the accounts have in common.

    Args:
        accounts: The tables of `ACCOUNTS_SCHEMA`.
        hearing: Knows of changes.
        issuer: Whose accounts these are.
        clock: Tells when something was changed.
        entropy: Where the pepper comes from.

    Raises:
        StoreError: The engine failed.
    """

    def __init__(self, accounts: Database, hearing: Hearing, *, issuer: str, clock: Clock, entropy: Entropy) -> None:
        self.issuer = issuer
        self._clock = clock
        self._accounts = accounts
        self._hearing = hearing
        self._forget()
        self._pepper = self._read_pepper(entropy)
        watch_forks(self)

    def _read_pepper(self, entropy: Entropy) -> bytes:
        with self._accounts.write() as connection:
            connection.execute("INSERT INTO issuer VALUES (?, 1, ?) ON CONFLICT DO NOTHING", (self.issuer, entropy(32)))
            pepper: bytes = connection.execute("SELECT pepper FROM issuer WHERE issuer = ?", (self.issuer,)).fetchone()[0]
        return pepper

    def _forget(self) -> None:
        """Know nothing, and have locks that nobody holds."""
        self._caching = threading.Lock()

    def before_fork(self) -> None:
        """Nothing: the connections are the database's."""

    def after_fork_in_parent(self) -> None:
        """Nothing: they are opened again."""

    def after_fork_in_child(self) -> None:
        """Another thread may have held a lock, or been at work on a cache."""
        self._hearing.forget()
        self._forget()

    def version(self) -> int:
        """As `Store.version`."""
        return self._hearing.version()

    def pepper(self) -> bytes:
        """As `Store.pepper`."""
        return self._pepper

    def _ask_version(self) -> Asking[int]:
        """The version of the state that is being read."""
        return version_in((yield SELECT_VERSION, (self.issuer,)), self._accounts.where)

    def _read(self, asking: Asking[T]) -> T:
        """What *asking* comes to, which asks one question."""
        with self._accounts.read() as connection:
            return answered(connection, asking)

    def _look(self, asking: Asking[T]) -> T:
        """What *asking* comes to, in one state."""
        with self._accounts.snapshot() as connection:
            return answered(connection, asking)

    @contextmanager
    def _changing(self) -> Iterator[tuple[Connection, int]]:
        """A connection for one change, and the version that the store has with it. Changes follow one another by the issuer's row."""
        with self._accounts.write() as connection:
            connection.execute("UPDATE issuer SET version = version + 1 WHERE issuer = ?", (self.issuer,))
            version = version_in(connection.execute(SELECT_VERSION, (self.issuer,)).fetchall(), self._accounts.where)
            yield connection, version
            self._hearing.announce(connection)
        self._hearing.note(version)
