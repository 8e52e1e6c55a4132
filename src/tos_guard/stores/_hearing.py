"""How a store learns that something has changed, and how old its answer may be.

`tos_guard.stores._issuer` counts the changes of an issuer in one row. Who asks for that number on each request must not pay for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from tos_guard.errors import StoreError
from tos_guard.stores._announcements import Announcements
from tos_guard.stores._database import Database as FileDatabase
from tos_guard.stores._sql import Connection, Database

__all__ = ["POLL_SECONDS", "SELECT_VERSION", "FileHearing", "Hearing", "ServerHearing", "version_in"]

POLL_SECONDS: Final = 0.05
"""How old the version of a file may be. Revocation must hold everywhere within a second (DESIGN D3)."""

_STALE_SECONDS: Final = 0.5
"""How old it may be while another thread is asking; then everyone waits for the answer."""

_ASK_SECONDS: Final = 0.2
"""How often a server is asked for the version, whatever is announced."""

_FRESH_SECONDS: Final = 0.5
"""How long an answer of a server holds. Whoever has heard nothing for longer asks before it answers."""

SELECT_VERSION: Final = "SELECT version FROM issuer WHERE issuer = ?"


class Hearing(Protocol):
    """Knows the version of an issuer. Any thread may call."""

    def version(self) -> int:
        """The version, at most half a second old.

        Raises:
            StoreError: It could not be learned.
        """
        ...

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

    def __init__(self, database: FileDatabase, issuer: str, monotonic: Callable[[], float]) -> None:
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


class ServerHearing:
    """The version in a server's database: asked for by a thread, every `_ASK_SECONDS` and whenever a change is announced.

    A process that has heard nothing for `_FRESH_SECONDS` (the thread did not get to run, the server was silent, the process was stopped)
    asks before it answers, and raises where it gets no answer. Time counts from when a question was sent: the answer may have been on its
    way for as long.

    A version never goes back. Where the database's does (a replica took over that had not heard of the newest changes), it is raised
    above what is known here: a later change would otherwise come under a number that is known already, and not be heard.
    """

    def __init__(self, database: Database, announcements: Announcements, issuer: str, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._announcements = announcements
        self._issuer = issuer
        self._monotonic = monotonic
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._knowing = threading.Lock()
        self._asking = threading.Lock()
        self._wake = threading.Event()
        self._heard_at = float("-inf")
        self._version = 0
        self._thread: threading.Thread | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether `version` answers without asking."""
        return self._monotonic() - self._heard_at <= _FRESH_SECONDS

    def version(self) -> int:
        """As `Hearing.version`.

        Raises:
            StoreError: Nothing was heard for half a second, and the server does not answer.
        """
        if not self.is_fresh:
            with self._asking:
                if not self.is_fresh:  # another thread may have asked while this one waited
                    self._ask()
                self._start()
        return self._version

    def announce(self, connection: Connection) -> None:
        """As `Hearing.announce`."""
        self._announcements.announce(self._issuer, connection)

    def note(self, version: int) -> None:
        """As `Hearing.note`."""
        with self._knowing:
            self._version = max(self._version, version)
        self._announcements.committed(self._issuer)

    def forget(self) -> None:
        """As `Hearing.forget`."""
        self._announcements.forget()
        self._reset()

    def close(self) -> None:
        """As `Hearing.close`."""
        self._closed = True
        self._wake.set()
        self._announcements.close()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        """Begin to listen, with the first question of a process: a server may fork after it has made its store."""
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._loop, name="tos-guard-hearing", daemon=True)
            with suppress(RuntimeError):  # no thread to be had: then each call asks that must
                thread.start()
                self._thread = thread
                self._announcements.listen(self._issuer, self._wake.set)

    def _loop(self) -> None:
        wake = self._wake
        while not self._closed:
            wake.wait(_ASK_SECONDS)
            wake.clear()
            if not self._closed:
                with suppress(StoreError):  # whoever needs to know asks, and is told
                    self._ask()

    def _ask(self) -> None:
        asked_at = self._monotonic()
        with self._knowing:
            known = self._version
        with self._database.read() as connection:
            version = version_in(connection.execute(SELECT_VERSION, (self._issuer,)).fetchall(), self._database.where)
        if version < known:
            version = known + 1
            with self._database.write() as connection:
                query = "UPDATE issuer SET version = ? WHERE issuer = ? AND version < ?"
                connection.execute(query, (version, self._issuer, version))
                self.announce(connection)
        with self._knowing:
            self._version = max(self._version, version)
            self._heard_at = max(self._heard_at, asked_at)


def version_in(rows: list[Any], where: str) -> int:
    """The version that `SELECT_VERSION` found.

    Raises:
        StoreError: The issuer's row is gone.
    """
    if not rows:
        raise StoreError("the issuer's row is gone", where=where, cure="Restore it from a backup")
    version: int = rows[0][0]
    return version
