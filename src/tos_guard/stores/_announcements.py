"""How processes tell each other that something has changed, sooner than each would find out by asking.

An announcement may be lost, late or doubled: it only wakes whoever listens, who then asks the store. Whoever misses all of them hears by
asking (`tos_guard.stores._hearing`).
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from tos_guard.stores._sql import Connection

if TYPE_CHECKING:
    from tos_guard.stores._postgres_pool import Link, Pool

__all__ = ["Announcements", "ListenNotify", "NoAnnouncements"]

_AGAIN_SECONDS: Final = 1.0
"""How long a listener waits before it connects again, and at most before it sees that it is to stop."""


class Announcements(Protocol):
    """A way to tell other processes of an issuer's changes. Any thread may call; no method waits, and none raises but `announce`."""

    @property
    def is_hearing(self) -> bool:
        """Whether announcements would be heard now, as far as one can know."""
        ...

    def announce(self, issuer: str, connection: Connection) -> None:
        """Within the transaction of a change, for what is told when it commits.

        Raises:
            Whatever a statement of the connection does.
        """

    def committed(self, issuer: str) -> None:
        """After the commit of a change, for what is told outside of the database."""

    def listen(self, issuer: str, wake: Callable[[], None]) -> None:
        """Call *wake*, from any thread, whenever the issuer may have changed, and whenever announcements may have been missed."""

    def forget(self) -> None:
        """In the child of a fork: hold nothing of the parent's, and listen to nothing."""

    def close(self) -> None:
        """Stop listening."""


class NoAnnouncements:
    """Nobody is told: everyone hears by asking. For poolers that give each transaction another connection."""

    is_hearing = True

    def announce(self, issuer: str, connection: Connection) -> None:
        """Nothing."""

    def committed(self, issuer: str) -> None:
        """Nothing."""

    def listen(self, issuer: str, wake: Callable[[], None]) -> None:
        """Nothing."""

    def forget(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class ListenNotify:
    """``NOTIFY`` in the transaction of a change, and one thread with one connection that listens.

    Args:
        pool: Makes the connection.
        namespace: Schema of the store: others in the same database are not woken.
    """

    def __init__(self, pool: Pool, namespace: str) -> None:
        self._pool = pool
        self._namespace = namespace
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self.forget()

    @property
    def is_hearing(self) -> bool:
        """As `Announcements.is_hearing`."""
        return self._hearing

    def announce(self, issuer: str, connection: Connection) -> None:
        """As `Announcements.announce`."""
        connection.execute("SELECT pg_notify(?, '')", (self._channel(issuer),))

    def committed(self, issuer: str) -> None:
        """Nothing: the commit has told it."""

    def listen(self, issuer: str, wake: Callable[[], None]) -> None:
        """As `Announcements.listen`."""
        thread = threading.Thread(target=self._loop, args=(self._channel(issuer), wake), name="tos-guard-listener", daemon=True)
        with suppress(RuntimeError):  # no thread to be had: then everyone asks
            thread.start()
            self._thread = thread

    def forget(self) -> None:
        """As `Announcements.forget`."""
        self._closing = threading.Event()
        self._hearing = False
        self._thread = None
        self._link = None

    def close(self) -> None:
        """As `Announcements.close`."""
        self._closing.set()
        thread = self._thread
        while thread is not None and thread.is_alive():
            if (link := self._link) is not None:
                _cut(link)
            thread.join(_AGAIN_SECONDS)

    def _channel(self, issuer: str) -> str:
        return "tos_guard_" + hashlib.sha256(f"{self._namespace}\n{issuer}".encode()).hexdigest()[:32]

    def _loop(self, channel: str, wake: Callable[[], None]) -> None:
        import psycopg
        from psycopg import sql

        closing = self._closing
        while not closing.is_set():
            try:
                link = self._link = self._pool.connect()
            except psycopg.Error:
                closing.wait(_AGAIN_SECONDS)
                continue
            try:
                link.until = time.monotonic() + self._pool.server.deadline
                link.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                link.until = float("inf")
                self._hearing = True
                wake()  # for what was announced while nobody listened
                while not closing.is_set():
                    for _ in link.notifies(timeout=_AGAIN_SECONDS):
                        wake()
            except psycopg.Error:
                pass  # cut off: again in a moment, and until then nothing is heard
            finally:
                self._hearing = False
                self._link = None
                link.pgconn.finish()
            closing.wait(_AGAIN_SECONDS)


def _cut(link: Link) -> None:
    """Let whoever waits on the connection see that it has ended."""
    with suppress(Exception), socket.socket(fileno=os.dup(link.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)
