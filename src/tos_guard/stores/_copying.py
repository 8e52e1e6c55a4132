"""Moves what an SQLite store holds into a PostgreSQL database that holds nothing yet.

All issuers of the file, all tables, in one transaction: all is there, or nothing. Nobody writes to the file meanwhile, since the copy holds
the writers' lock; rows are counted on both sides before the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.stores._database import Database
from tos_guard.stores._postgres_database import PostgresConnection, PostgresDatabase
from tos_guard.stores._postgres_pool import Pool, Server
from tos_guard.stores._records import RECORDS_SCHEMA
from tos_guard.stores._schema import ACCOUNTS_SCHEMA
from tos_guard.stores._sql import Connection

__all__ = ["copy_store"]

_SECONDS: Final = 6 * 3600.0
"""How long a copy may take: a hundred million records."""

_ROWS: Final = 1_000
"""Rows of one round trip."""

_OPEN_SECONDS: Final = 10.0


def copy_store(source: Path, conninfo: str, *, namespace: str = "tos_guard") -> dict[str, int]:
    """Copy all rows.

    Args:
        source: The file of the accounts; the records lie beside it.
        conninfo: The database.
        namespace: Name of its schema for the accounts; made where it is not there.

    Returns:
        How many rows each table has, by schema and name.

    Raises:
        ConfigurationError: There is no such file, the database holds a store already, or one of them is something else.
        StoreError: Either could not be read or written. Nothing was copied.
    """
    if not source.is_file():
        raise ConfigurationError("there is no such file", where=str(source), cure="Name the SQLite file of the accounts")
    pool = Pool(Server(conninfo, _OPEN_SECONDS, 2))
    files: list[Database] = []
    try:
        files.append(Database(source, ACCOUNTS_SCHEMA))
        files.append(Database(source.with_name(f"{source.stem}.records{source.suffix}"), RECORDS_SCHEMA))
        servers = [
            PostgresDatabase(pool, schema, name)
            for schema, name in ((ACCOUNTS_SCHEMA, namespace), (RECORDS_SCHEMA, f"{namespace}_records"))
        ]
        with files[0].write() as accounts, files[1].write() as records, servers[0].bulk(_SECONDS) as there:
            return {
                f"{server.namespace}.{table}": count
                for here, server in zip((accounts, records), servers, strict=True)
                for table, count in _copy(here, there, server).items()
            }
    finally:
        for file in files:
            file.close()
        pool.close()


def _copy(here: Connection, there: PostgresConnection, server: PostgresDatabase) -> dict[str, int]:
    there.execute("SELECT set_config('search_path', ?, true)", (f'"{server.namespace}"',))
    tables = [name for (name,) in here.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall()]
    for table in tables:
        if _count(there, table):
            raise ConfigurationError(
                f"there are rows in {table} already", where=server.where, cure="Copy into a new database, before any server opens it"
            )
    return {table: _copy_table(here, there, table, server) for table in tables}


def _copy_table(here: Connection, there: PostgresConnection, table: str, server: PostgresDatabase) -> int:
    columns = [name for _, name, *_ in here.execute(f"PRAGMA table_info({table})").fetchall()]
    names, places = ", ".join(columns), ", ".join("?" * len(columns))
    insert = f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608 - names of our own
    for rows in _batches(here, table, names):
        there.executemany(insert, rows)
    _go_on_counting(there, table, server)
    count, expected = _count(there, table), _count(here, table)
    if count != expected:
        raise StoreError(f"{count} of {expected} rows of {table} arrived", where=server.where)
    return count


def _batches(here: Connection, table: str, names: str) -> Any:
    rows = here.execute(f"SELECT {names} FROM {table}")  # noqa: S608 - names of our own
    batch: list[Sequence[Any]] = []
    while (row := rows.fetchone()) is not None:
        batch.append(row)
        if len(batch) == _ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _go_on_counting(there: PostgresConnection, table: str, server: PostgresDatabase) -> None:
    """Numbers that the database gives go on behind those that were copied."""
    query = "SELECT column_name FROM information_schema.columns WHERE table_schema = ? AND table_name = ? AND is_identity = 'YES'"
    for (column,) in there.execute(query, (server.namespace, table)).fetchall():
        there.execute(
            f"SELECT setval(pg_get_serial_sequence(?, ?), coalesce((SELECT max({column}) FROM {table}), 0) + 1, false)",  # noqa: S608 - names of our own
            (f'"{server.namespace}"."{table}"', column),
        )


def _count(connection: Connection, table: str) -> int:
    count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - names of our own
    return count
