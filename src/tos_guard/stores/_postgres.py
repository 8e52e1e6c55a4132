"""The PostgreSQL store: two schemas of one database, for the processes of many hosts."""

from __future__ import annotations

import re
import secrets
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from tos_guard.errors import ConfigurationError
from tos_guard.protocols import Clock, Entropy, HeardVersion
from tos_guard.stores._accounts import SQLAccounts
from tos_guard.stores._announcements import Announcements, ListenNotify, NoAnnouncements
from tos_guard.stores._hearing import ServerHearing
from tos_guard.stores._postgres_async import AsyncPostgresStore
from tos_guard.stores._postgres_database import PostgresDatabase, namespace_exists
from tos_guard.stores._postgres_pool import AsyncPool, Pool, Server
from tos_guard.stores._records import RECORDS_SCHEMA, SQLRecords
from tos_guard.stores._schema import ACCOUNTS_SCHEMA

__all__ = ["PostgresStore"]

_MAX_PENDING: Final = 10_000
"""As of the SQLite store."""

_DEADLINE_SECONDS: Final = 2.0
"""How long a call may take. Look-ups take a millisecond; behind a queue of changes, ten."""

_CONNECTIONS: Final = 8
"""Connections of a process: more would only queue at the server."""

_NAMESPACE: Final = re.compile(r"[a-z_][a-z0-9_]{0,47}")


class PostgresStore(SQLRecords, SQLAccounts):
    """A `Store` for the processes of many hosts, in a PostgreSQL database (14 or newer).

    Accounts, keys and terms live in the schema of that name, records in a second one beside it (``tos_guard`` and ``tos_guard_records``).
    Both are made and migrated when the store is opened; the role needs ``CREATE`` on the database for that, and afterwards no more than
    the tables' own rights. Make the store before the server forks, or after: both work.

    What is erased or deleted is gone for whoever asks, and its space is given to others; the server's files, its write-ahead log, replicas
    and backups hold the bytes for longer (`PostgresDatabase.scrub`).

    Args:
        conninfo: ``postgresql://user:password@host/database``, or what else psycopg takes.
        issuer: Whose accounts and records these are. One database may serve several issuers; none sees the others'.
        clock: Tells when something was changed.
        entropy: Where the pepper comes from.
        monotonic: Seconds that never go back; tells how old the version is.
        max_pending: Records that may wait for the server, before `append` fails.
        commit_delay: Seconds for which a record waits for others to be committed with; as of `SQLiteStore`.
        namespace: Name of the PostgreSQL schema: small letters, digits and ``_``.
        deadline: Seconds for which one call may take.
        connections: Connections of this process at most, beside one that listens and one that asks; as many again of each event loop that
            asks itself.
        announcements: How changes are heard of at once: ``listen`` (``LISTEN`` and ``NOTIFY``). Where a pooler gives each transaction
            another connection: `ValkeyAnnouncements`, or what else tells; or ``none``: then within 0.2 s.

    Attributes:
        awaitable: What a request asks of it, with `await`. An `AsyncGuard` uses it by itself.
        hearing: How old what is known of changes is. Guards look at it, and say so where nothing is heard.

    Raises:
        ConfigurationError: The issuer is empty, the address or a name is none, or a schema is something else or of a newer release.
        StoreError: The server does not answer, or the schema cannot be made.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        issuer: str,
        clock: Clock,
        entropy: Entropy = secrets.token_bytes,
        monotonic: Callable[[], float] = time.monotonic,
        max_pending: int = _MAX_PENDING,
        commit_delay: float = 0.0,
        namespace: str = "tos_guard",
        deadline: float = _DEADLINE_SECONDS,
        connections: int = _CONNECTIONS,
        announcements: Literal["listen", "none"] | Announcements = "listen",
    ) -> None:
        server = Server(conninfo, deadline, connections, prepare=announcements == "listen")
        if not issuer:
            raise ConfigurationError("the issuer is empty", where=server.where, cure="Name the issuer, an https URL")
        if _NAMESPACE.fullmatch(namespace) is None:
            raise ConfigurationError(f"{namespace!r} is no name of a schema", where=server.where, cure="Write small letters, digits and _")
        pool = Pool(server)
        asking = Pool(replace(server, size=1))  # who asks for the version waits for nobody's changes
        asynchronous = AsyncPool(server)
        try:
            accounts = PostgresDatabase(pool, ACCOUNTS_SCHEMA, namespace, asynchronous=asynchronous)
            records = PostgresDatabase(pool, RECORDS_SCHEMA, f"{namespace}_records", asynchronous=asynchronous)
            if isinstance(announcements, str):
                announcements = ListenNotify(pool, namespace) if announcements == "listen" else NoAnnouncements()
            hearing = ServerHearing(accounts.by(asking), announcements, issuer, monotonic)
            SQLAccounts.__init__(self, accounts, hearing, issuer=issuer, clock=clock, entropy=entropy)
        except BaseException:
            asking.close()
            pool.close()
            raise
        hearing.on_loss(self._forget)
        self.hearing: HeardVersion = hearing
        self._accounts_tables: PostgresDatabase = accounts
        self._records_tables: PostgresDatabase = records
        self.awaitable: AsyncPostgresStore = AsyncPostgresStore(self)
        SQLRecords.__init__(self, records, issuer=issuer, max_pending=max_pending, commit_delay=commit_delay)
        self._finalizer = weakref.finalize(self, _close, self._writer.close, hearing.close, asynchronous.close, asking.close, pool.close)

    @staticmethod
    def is_there(conninfo: str, *, namespace: str = "tos_guard", deadline: float = _DEADLINE_SECONDS) -> bool:
        """Whether a database has such a store: looking makes nothing.

        Raises:
            ConfigurationError: The address is none.
            StoreError: The server does not answer.
        """
        pool = Pool(Server(conninfo, deadline, 1))
        try:
            return namespace_exists(pool, namespace)
        finally:
            pool.close()

    def close(self) -> None:
        """Wait until everything appended is durable, then let go of connections and threads. Closing twice is closing once."""
        self._finalizer()


def _close(*steps: Callable[[], None]) -> None:
    for step in steps:
        step()
