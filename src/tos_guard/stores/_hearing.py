"""How a store learns that something has changed, and how old its answer may be.

`tos_guard.stores._issuer` counts the changes of an issuer in one row. Who asks for that number on each request must not pay for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from tos_guard.errors import StoreError
from tos_guard.stores._database import Database
from tos_guard.stores._sql import Connection

__all__ = ["POLL_SECONDS", "SELECT_VERSION", "FileHearing", "Hearing", "version_in"]

POLL_SECONDS: Final = 0.05
"""How old the version of a file may be. Revocation must hold everywhere within a second (DESIGN D3)."""

_STALE_SECONDS: Final = 0.5
"""How old it may be while another thread is asking; then everyone waits for the answer."""

SELECT_VERSION: Final = "SELECT version FROM issuer WHERE issuer = ?"


class Hearing(Protocol):
    """Knows the version of an issuer. Any thread may call."""

    def version(self) -> int:
        """The version, at most half a second old.

        Raises:
            StoreError: It could not be learned.
        """

    def announce(self, connection: Connection) -> None:
        """Within the transaction of a change: let others hear of it once it is committed."""

    def note(self, version: int) -> None:
        """A change of our own is committed, which made this version."""

    def forget(self) -> None:
        """In the child of a fork: know nothing, and hold nothing."""

    def close(self) -> None:
        """Stop listening."""


class FileHearing:
    """The version in an SQLite file, which any process learns within `POLL_SECONDS` of a commit and at next to no cost.

    ``PRAGMA data_version`` tells that the file has changed, and only then is anything read again. Accounts and records are two files,
    since each record would otherwise look like a change of rights.
    """

    def __init__(self, database: Database, issuer: str, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._issuer = issuer
        self._monotonic = monotonic
        self.forget()

    def forget(self) -> None:
        """As `Hearing.forget`."""
        self._polling = threading.Lock()
        self._polled_at = float("-inf")
        self._state: tuple[int, int] | None = None
        self._version = 0

    def version(self) -> int:
        """As `Hearing.version`: a number of the file, the same in all processes."""
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

    def announce(self, connection: Connection) -> None:
        """Nothing: the file tells."""

    def note(self, version: int) -> None:
        """Own changes show at once. Never backwards: another thread may have seen a later one."""
        with self._polling:
            self._version = max(self._version, version)

    def close(self) -> None:
        """Nothing: there is no thread."""

    def _poll(self, now: float) -> None:
        if now - self._polled_at < POLL_SECONDS:
            return  # another thread has asked while this one waited
        with self._database.read() as connection:
            # Which file state this is must be known before the state is read, or a commit in between would be missed.
            state = (self._database.generation, connection.execute("PRAGMA data_version").fetchone()[0])
            if state != self._state:
                rows = connection.execute(SELECT_VERSION, (self._issuer,)).fetchall()
                self._version = max(self._version, version_in(rows, self._database.where))
                self._state = state
        self._polled_at = now


def version_in(rows: list[Any], where: str) -> int:
    """The version that `SELECT_VERSION` found.

    Raises:
        StoreError: The issuer's row is gone.
    """
    if not rows:
        raise StoreError("the issuer's row is gone", where=where, cure="Restore it from a backup")
    version: int = rows[0][0]
    return version
