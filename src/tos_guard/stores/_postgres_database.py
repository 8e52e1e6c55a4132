"""Tables in one schema of a PostgreSQL database.

- Each block is one transaction with bounds of its own (``SET LOCAL``), so that a pooler which gives every transaction another connection
  does no harm. The server ends one whose process says nothing for as long as a call may take: whoever is stopped loses its locks.
- Blocks that write run ``READ COMMITTED`` and take the lock of the row that they decide by; snapshots run ``REPEATABLE READ``.
- A commit whose answer was lost is found out by the number of its transaction (``pg_xact_status``), which the log of the server keeps
  through a crash. Only where the server does not come back before the deadline, nobody knows; that is said.
- A server that lets commits run ahead of its disk (``synchronous_commit = off``) is told not to, for what we write.
- Migrations run in one transaction, under an advisory lock. A newer schema is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from copy import copy
from typing import Any, Final, TypeVar, cast

import psycopg
from psycopg import errors, sql

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.stores._postgres_pool import AsyncLink, AsyncPool, LateError, Link, Pool
from tos_guard.stores._postgres_sql import columns, definition, for_each, insertion, names_of, statement
from tos_guard.stores._sql import Asking, OnlySQLite, Rows, Schema

__all__ = ["PostgresConnection", "PostgresDatabase", "namespace_exists"]

T = TypeVar("T")

_MIGRATION_SECONDS: Final = 120.0
"""How long a migration may take: it may write tables anew."""

_CHANGE_PART: Final = 0.75
"""Of the time left, for a statement of a change: the server says that it waited for others before it is taken for one that is silent."""

_SCRUB_SECONDS: Final = 60.0
"""How long ``VACUUM`` of the small tables may take."""

_TRIES: Final = 4
"""How often work is done again whose transaction was undone by others. Each time somebody else has gone on."""

_FIND_OUT_SECONDS: Final = (0.02, 0.25)
"""First and longest pause before a server that has gone is asked again what became of a transaction."""

_UNDONE: Final = (errors.SerializationFailure, errors.DeadlockDetected)
_NO_SCHEMA: Final = (errors.UndefinedTable, errors.InvalidSchemaName)

_UNTOLD: Final = (psycopg.ProgrammingError, psycopg.NotSupportedError, errors.ObjectNotInPrerequisiteState)
"""What servers answer that speak as PostgreSQL does and keep their log in another way."""

_TIMELINE: Final = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
_READ: Final = "BEGIN READ ONLY"
_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_WRITE: Final = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"
_DURABLE: Final = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
_NUMBER: Final = "SELECT pg_current_xact_id()::text"


class _UndoneError(StoreError):
    """Nothing of the block is kept, and doing it again may go better."""


class _UnkeptError(psycopg.OperationalError):
    """A commit got no answer, and has not happened."""


class PostgresConnection:
    """A `Connection` within a transaction."""

    for_share = " FOR KEY SHARE"
    for_turns = " FOR NO KEY UPDATE"
    for_update = " FOR UPDATE"

    def __init__(self, link: Link) -> None:
        self._link = link

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        """As `Connection.execute`."""
        return self._link.execute(statement(sql), parameters)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> Rows:
        """As `Connection.executemany`: all of them in one round trip."""
        cursor = self._link.cursor()
        if parameters:
            types, turned = columns(parameters)
            if (at_once := insertion(sql, types)) is not None:
                return cursor.execute(at_once, turned)
        cursor.executemany(statement(sql), parameters)
        return cursor

    def each(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> list[Any]:
        """As `Connection.each`: all of them in one round trip."""
        if not parameters:
            return []
        types, turned = columns(parameters)
        rows: list[Any] = [None] * len(parameters)
        for position, *row in self._link.execute(for_each(sql, types), turned):
            rows[position - 1] = rows[position - 1] or tuple(row)
        return rows

    def insert(self, sql: str, rows: Sequence[Sequence[Any]], /) -> list[int | None]:
        """As `Connection.insert`: all of them in one round trip."""
        if not rows:
            return []
        types, turned = columns(rows)
        first, second = names_of(sql)
        at_once = insertion(sql, types, f"RETURNING {first}, {second}, id")
        if at_once is None:
            raise ValueError(f"no insertion of rows: {sql}")
        made = {(one, other): int(number) for one, other, number in self._link.execute(at_once, turned)}
        return [made.pop((row[0], row[1]), None) for row in rows]

    def renew(self, table: str, columns: str, /) -> None:
        """Nothing: what a table still holds, `PostgresDatabase.scrub` tells."""


class PostgresDatabase:
    """A `Database` in one schema of a PostgreSQL database.

    Args:
        pool: Connections; others may share it.
        schema: What is kept.
        namespace: Name of the PostgreSQL schema.

    Attributes:
        namespace: The same.

    Raises:
        ConfigurationError: The schema is another's, or of a newer release.
        StoreError: The server does not answer, or the schema cannot be made.
    """

    def __init__(self, pool: Pool, schema: Schema, namespace: str, *, asynchronous: AsyncPool | None = None) -> None:
        self.where = f"{pool.server.where} (schema {namespace})"
        self._pool = pool
        self._asynchronous = asynchronous
        self._schema = schema
        self.namespace = namespace
        self._deadline = pool.server.deadline
        self._bounds = _bounds(namespace, self._deadline)
        self._tells_timeline = True
        self._migrate()

    def by(self, pool: Pool) -> PostgresDatabase:
        """The same tables over connections of their own, which nobody else can use up."""
        other = copy(self)
        other._pool = pool
        return other

    @contextmanager
    def read(self) -> Iterator[PostgresConnection]:
        """As `Database.read`.

        Raises:
            StoreError: The server failed, or did not answer in time.
        """
        with self._transaction("read", _READ) as (connection, _):
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[PostgresConnection]:
        """As `Database.snapshot`.

        Raises:
            StoreError: As `read`.
        """
        with self._transaction("read", _SNAPSHOT) as (connection, _):
            yield connection

    @contextmanager
    def write(self) -> Iterator[PostgresConnection]:
        """As `Database.write`.

        Raises:
            StoreError: The server failed, or did not answer in time. Where the commit itself got no answer and the server did not come
                back, it may have been kept all the same.
        """
        with self._transaction("write", _WRITE, number=True) as (connection, _):
            yield connection

    @contextmanager
    def bulk(self, seconds: float) -> Iterator[PostgresConnection]:
        """As `write`, for work that takes up to so many seconds.

        Raises:
            StoreError: As `write`.
        """
        with self._transaction("write", _WRITE, number=True, seconds=seconds) as (connection, _):
            yield connection

    def run(self, work: Callable[[PostgresConnection], T]) -> T:
        """As `Database.run`: again after a deadlock, or on another connection where one was cut before the commit.

        Raises:
            StoreError: As `write`.
        """
        for _ in range(_TRIES - 1):
            with suppress(_UndoneError), self.write() as connection:
                return work(connection)
        with self.write() as connection:
            return work(connection)

    def scrub(self, *tables: str, renewed: bool = False) -> None:  # noqa: ARG002 - `renew` does nothing here
        """Free the space of deleted rows (``VACUUM``).

        Nobody reads them any more, and their space is given to others. Their bytes stay on the disk until it is: in the tables, and in the
        write-ahead log, replicas, archives and backups until these are overwritten or thrown away. While a transaction of anyone is open
        that is older than the deletion, they stay as well.

        Raises:
            StoreError: The server failed, or was busy for longer than a minute. Call again.
        """
        names = sql.SQL(", ").join(sql.Identifier(self.namespace, table) for table in tables)
        try:
            link, _ = self._pool.take(time.monotonic() + _SCRUB_SECONDS)
            try:
                link.execute(sql.SQL("VACUUM {}").format(names))
            except BaseException:
                self._pool.give(link, usable=False)
                raise
            self._pool.give(link, usable=True)
        except psycopg.Error as error:
            raise self._failed("clean", error) from error

    def timeline(self) -> str:
        """Which of its histories the server writes: another one after a replica took over. Empty where it does not say.

        Raises:
            StoreError: The server failed, or did not answer in time.
        """
        if not self._tells_timeline:
            return ""
        try:
            with self.read() as connection:
                return str(connection.execute(_TIMELINE).fetchone()[0])
        except StoreError as error:
            if isinstance(error.__cause__, _UNTOLD):
                self._tells_timeline = False
                return ""
            raise

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()

    async def look(self, asking: Asking[T]) -> T:
        """What *asking* comes to, in one state, with `await`.

        Raises:
            StoreError: As `read`.
        """
        async with self._async_snapshot() as link:
            rows: list[Any] | None = None
            try:
                while True:
                    query, parameters = next(asking) if rows is None else asking.send(rows)
                    rows = await (await link.execute(statement(query), parameters)).fetchall()
            except StopIteration as stop:
                return cast("T", stop.value)

    @contextmanager
    def _transaction(
        self, verb: str, begin: str, *, number: bool = False, seconds: float | None = None
    ) -> Iterator[tuple[PostgresConnection, str]]:
        until = time.monotonic() + (seconds or self._deadline)
        link, transaction = self._begun(verb, begin, until, number=number)
        try:
            yield PostgresConnection(link), transaction
        except BaseException as error:
            self._undo(link, error)
            if isinstance(error, psycopg.Error):
                raise self._failed(verb, error, undone=True) from error
            raise
        try:
            self._commit(link, transaction)
        except psycopg.Error as error:
            raise self._failed(verb, error, undone=isinstance(error, (*_UNDONE, _UnkeptError))) from error

    def _begun(self, verb: str, begin: str, until: float, *, number: bool) -> tuple[Link, str]:
        with self._pool.breaker.trying():
            try:
                return self._begin(begin, until, number=number)
            except psycopg.Error as error:
                raise self._failed(verb, error) from error

    def _begin(self, begin: str, until: float, *, number: bool) -> tuple[Link, str]:
        while True:
            link, is_new = self._pool.take(until)
            try:
                cursor = link.execute(self._opening(begin, until, number=number).encode(), prepare=False)
                while cursor.nextset():
                    pass
                row = cursor.fetchone() if number else None
            except BaseException as error:
                self._pool.give(link, usable=False)
                if isinstance(error, psycopg.OperationalError) and not isinstance(error, LateError) and not is_new:
                    continue  # it was cut while it lay idle, and nothing has been asked of it
                raise
            return link, "" if row is None else str(row[0])

    def _opening(self, begin: str, until: float, *, number: bool) -> str:
        """What a transaction begins with. A change is bounded by the time left: connecting may have taken some of it."""
        if not number:
            return f"{begin}; {self._bounds}"
        bounds = _bounds(self.namespace, max(0.001, until - time.monotonic()), part=_CHANGE_PART)
        return f"{begin}; {bounds}; {_DURABLE}; {_NUMBER}"

    def _undo(self, link: Link, error: BaseException) -> None:
        usable = False
        if not link.broken and not isinstance(error, LateError):
            with suppress(psycopg.Error):
                link.execute("ROLLBACK")
                usable = True
        self._pool.give(link, usable=usable)
        self._note_late(error)

    def _commit(self, link: Link, transaction: str) -> None:
        try:
            ended = link.execute("COMMIT").statusmessage
        except BaseException as error:
            self._pool.give(link, usable=False)
            self._note_late(error)
            if not transaction or not isinstance(error, psycopg.OperationalError) or isinstance(error, _UNDONE):
                raise
            if self._was_kept(transaction):
                return
            raise _UnkeptError("the transaction was undone") from error
        self._pool.give(link, usable=True)
        if transaction and ended != "COMMIT":  # a statement had failed, and whoever wrote it went on
            raise psycopg.OperationalError("the transaction was undone")

    def _was_kept(self, transaction: str) -> bool:
        """What became of a transaction whose commit got no answer.

        Raises:
            psycopg.OperationalError: It is not known: the server did not come back, or is still at work on it.
        """
        until = time.monotonic() + self._deadline
        pause, longest = _FIND_OUT_SECONDS
        while True:
            try:
                link, _ = self._pool.take(until)
                try:
                    row = link.execute("SELECT pg_xact_status(%s::text::xid8)", (transaction,)).fetchone()
                except BaseException:
                    self._pool.give(link, usable=False)
                    raise
                self._pool.give(link, usable=True)
                state = None if row is None else row[0]
            except psycopg.OperationalError:
                state = "in progress"
            if state in ("committed", "aborted"):
                return bool(state == "committed")
            if time.monotonic() + pause >= until:
                raise psycopg.OperationalError("the server is gone, and whether it was kept is not known")
            time.sleep(pause)
            pause = min(2 * pause, longest)

    @asynccontextmanager
    async def _async_snapshot(self) -> AsyncIterator[AsyncLink]:
        pool = self._asynchronous
        if pool is None:
            raise StoreError("this store has no asynchronous connections", where=self.where)
        until = time.monotonic() + self._deadline
        with self._pool.breaker.trying():
            try:
                link = await self._begin_async(pool, until)
            except psycopg.Error as error:
                raise self._failed("read", error) from error
        try:
            try:
                yield link
                await link.execute("COMMIT")
            except BaseException as error:
                usable = False
                if not link.broken and not isinstance(error, LateError | asyncio.CancelledError):
                    with suppress(psycopg.Error):
                        await link.execute("ROLLBACK")
                        usable = True
                pool.give(link, usable=usable)
                self._note_late(error)
                raise
            pool.give(link, usable=True)
        except psycopg.Error as error:
            raise self._failed("read", error) from error

    async def _begin_async(self, pool: AsyncPool, until: float) -> AsyncLink:
        while True:
            link, is_new = await pool.take(until)
            try:
                await link.execute(f"{_SNAPSHOT}; {self._bounds}".encode(), prepare=False)
            except BaseException as error:
                pool.give(link, usable=False)
                if isinstance(error, psycopg.OperationalError) and not isinstance(error, LateError) and not is_new:
                    continue
                raise
            return link

    def _note_late(self, error: BaseException) -> None:
        """A server that begins a transaction and then says nothing is left alone as well."""
        if isinstance(error, LateError):
            self._pool.breaker.failed(self._failed("ask for", error))

    def _migrate(self) -> None:
        newest = len(self._schema.migrations)
        if self._version() == newest:
            return
        with self._transaction("migrate", _WRITE, number=True, seconds=_MIGRATION_SECONDS) as (connection, _):
            link = connection._link
            link.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"tos_guard migration of {self.namespace}",))
            # Of the catalogue's rows, not by `to_regnamespace`: that may remember what was so before we waited for the lock.
            if link.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (self.namespace,)).fetchone() is None:
                link.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.namespace)))
            link.execute('CREATE TABLE IF NOT EXISTS schema_version (what TEXT COLLATE "C" PRIMARY KEY, version BIGINT NOT NULL)')
            version = self._checked(link.execute("SELECT what, version FROM schema_version").fetchall())
            for statements in self._schema.migrations[version:]:
                for each in statements:
                    if not isinstance(each, OnlySQLite):
                        link.execute(definition(each))
            link.execute(
                "INSERT INTO schema_version VALUES (%s, %s) ON CONFLICT (what) DO UPDATE SET version = excluded.version",
                (self._schema.what, newest),
            )

    def _version(self) -> int:
        """The version of the schema, 0 where there is none."""
        try:
            with self.read() as connection:
                return self._checked(connection.execute("SELECT what, version FROM schema_version").fetchall())
        except StoreError as error:
            if isinstance(error.__cause__, _NO_SCHEMA):
                return 0
            raise

    def _checked(self, rows: Sequence[tuple[str, int]]) -> int:
        newest = len(self._schema.migrations)
        for what, version in rows:
            if what != self._schema.what:
                raise ConfigurationError(f"the schema keeps {what}, not {self._schema.what}", where=self.where, cure="Name another schema")
            if version > newest:
                raise ConfigurationError(
                    f"{self._schema.what} in version {version}, and this release reads up to {newest}",
                    where=self.where,
                    cure="Install the newer tos-guard again",
                )
        return rows[0][1] if rows else 0

    def _failed(self, verb: str, error: psycopg.Error, *, undone: bool = False) -> StoreError:
        kind = _UndoneError if undone and _may_go_better(error) else StoreError
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        return kind(
            f"cannot {verb} {self._schema.what} ({said})",
            where=self.where,
            cure="Check the server and the way to it; nothing that was acknowledged is lost",
        )


def namespace_exists(pool: Pool, namespace: str) -> bool:
    """Whether the database has a store's tables under this name.

    Raises:
        StoreError: The server does not answer.
    """
    try:
        link, _ = pool.take(time.monotonic() + pool.server.deadline)
        try:
            row = link.execute("SELECT to_regclass(%s)", (f'"{namespace}".schema_version',)).fetchone()
        finally:
            pool.give(link, usable=False)
    except psycopg.Error as error:
        said = str(error).strip().partition("\n")[0]
        raise StoreError(
            f"the server cannot be asked ({said})", where=pool.server.where, cure="Check the server and the way to it"
        ) from error
    return row is not None and row[0] is not None


def _may_go_better(error: psycopg.Error) -> bool:
    """Whether all was undone, and by something that passes: a deadlock, or a connection that was cut."""
    if isinstance(error, LateError):
        return False
    return isinstance(error, _UNDONE) or (isinstance(error, psycopg.OperationalError) and error.sqlstate in (None, "57P01", "57P02"))


def _bounds(namespace: str, seconds: float, *, part: float = 1.0) -> str:
    """What holds for one transaction: where names are looked up, for how long it may take, and which part of that a statement may."""
    quoted = '"' + namespace.replace('"', '""') + '"'
    most, each = (max(1, int(1000 * each)) for each in (seconds, seconds * part))  # nought would be no bound
    return (
        f"SET LOCAL search_path TO {quoted}, pg_temp; SET LOCAL statement_timeout TO {each}; SET LOCAL lock_timeout TO {each}; "
        f"SET LOCAL idle_in_transaction_session_timeout TO {most}"
    )
