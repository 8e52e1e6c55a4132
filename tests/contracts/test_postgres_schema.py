"""The tables of PostgreSQL: made once by whoever comes first, migrated from each earlier version, refused where they are newer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from engines import new_database
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.stores import PostgresStore
from tos_guard.stores._postgres_database import PostgresDatabase
from tos_guard.stores._postgres_pool import Pool, Server
from tos_guard.stores._postgres_sql import definition, statement
from tos_guard.stores._records import RECORDS_SCHEMA
from tos_guard.stores._schema import ACCOUNTS_SCHEMA
from tos_guard.stores._sql import OnlySQLite, Schema

ISSUER = "https://api.example"


@pytest.fixture
def conninfo(postgres: str) -> str:
    """A database that nobody else uses."""
    return new_database(postgres)


@pytest.fixture
def pool(conninfo: str) -> Iterator[Pool]:
    pool = Pool(Server(conninfo, 5.0, 4))
    yield pool
    pool.close()


def tables(conninfo: str, namespace: str) -> dict[str, list[tuple[str, str, str]]]:
    """Columns of each table, with their types and defaults."""
    query = """SELECT table_name, column_name, data_type, coalesce(column_default, '') FROM information_schema.columns
        WHERE table_schema = %s ORDER BY table_name, ordinal_position"""
    found: dict[str, list[tuple[str, str, str]]] = {}
    with psycopg.connect(conninfo) as connection:
        for table, *column in connection.execute(query, (namespace,)):
            found.setdefault(table, []).append(tuple(column))
    return found


@pytest.mark.parametrize("schema", [ACCOUNTS_SCHEMA, RECORDS_SCHEMA], ids=lambda schema: schema.what)
def test_every_version_leads_to_the_newest(conninfo: str, pool: Pool, schema: Schema) -> None:
    """Tables of each earlier version take the missing steps, and are then as those that were made at once."""
    PostgresDatabase(pool, schema, "new")
    for version in range(1, len(schema.migrations)):
        earlier = Schema(schema.what, schema.application_id, schema.migrations[:version])
        PostgresDatabase(pool, earlier, f"from_{version}")
        for _ in range(2):
            PostgresDatabase(pool, schema, f"from_{version}")
        assert tables(conninfo, f"from_{version}") == tables(conninfo, "new")


def test_what_earlier_tables_hold_stays(conninfo: str, pool: Pool) -> None:
    """A migration keeps the rows, and gives new columns their default."""
    first = ("CREATE TABLE a (id INTEGER PRIMARY KEY, x TEXT NOT NULL)", "INSERT INTO a (x) VALUES ('?%')", OnlySQLite("no such words"))
    second = ("ALTER TABLE a ADD COLUMN y INTEGER NOT NULL DEFAULT 7",)
    PostgresDatabase(pool, Schema("things", 7, (first,)), "things")
    database = PostgresDatabase(pool, Schema("things", 7, (first, second)), "things")
    with database.read() as connection:
        assert connection.execute("SELECT id, x, y FROM a WHERE x = ? AND x <> '?'", ("?%",)).fetchall() == [(1, "?%", 7)]


def test_a_migration_that_fails_leaves_the_old_version(conninfo: str, pool: Pool) -> None:
    """A step is taken whole or not at all."""
    first = ("CREATE TABLE a (x TEXT)",)
    PostgresDatabase(pool, Schema("things", 7, (first,)), "things")
    with pytest.raises(StoreError, match="nowhere"):
        PostgresDatabase(pool, Schema("things", 7, (first, ("CREATE TABLE b (x TEXT)", "INSERT INTO nowhere VALUES (1)"))), "things")
    assert tables(conninfo, "things").keys() == {"a", "schema_version"}
    PostgresDatabase(pool, Schema("things", 7, (first, ("CREATE TABLE b (x TEXT)",))), "things")


def test_a_migration_may_take_longer_than_a_call(conninfo: str) -> None:
    """Tables that are large are written anew in more time than a request waits."""
    pool = Pool(Server(conninfo, 0.2, 2))
    database = PostgresDatabase(
        pool, Schema("things", 7, (("CREATE TABLE a (x TEXT)", "DO 'BEGIN PERFORM pg_sleep(0.6); END'"),)), "things"
    )
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM a").fetchall() == [(0,)]
    pool.close()


def test_newer_tables_are_refused(conninfo: str, pool: Pool) -> None:
    """An older release does not write into what a newer one has migrated."""
    PostgresDatabase(pool, RECORDS_SCHEMA, "tos_guard_records")
    with psycopg.connect(conninfo) as connection:
        connection.execute("UPDATE tos_guard_records.schema_version SET version = 99")
    with pytest.raises(ConfigurationError, match="version 99"):
        PostgresStore(conninfo, issuer=ISSUER, clock=lambda: None)


def test_processes_that_start_together_agree(conninfo: str) -> None:
    """Workers may all make the same store at once: one pepper, one schema."""
    script = (
        "import sys\nfrom datetime import UTC, datetime\nfrom tos_guard.stores import PostgresStore\n"
        "sys.stdin.readline()\n"
        "with PostgresStore(sys.argv[1], issuer='https://api.example', clock=lambda: datetime.now(UTC)) as store:\n"
        "    print(store.pepper().hex(), store.version())\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, conninfo]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(answers) == 1


def test_a_role_without_the_right_to_make_schemas_uses_those_that_are_there(conninfo: str) -> None:
    """Whoever runs the servers need not own the tables."""
    PostgresStore(conninfo, issuer=ISSUER, clock=lambda: None).close()
    with psycopg.connect(conninfo) as connection:
        (name,) = connection.execute("SELECT 'worker_' || substr(md5(random()::text), 1, 8)").fetchone()
        connection.execute(f"CREATE ROLE {name} LOGIN")
        for schema in ("tos_guard", "tos_guard_records"):
            connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
            connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {name}")
    with PostgresStore(psycopg.conninfo.make_conninfo(conninfo, user=name), issuer=ISSUER, clock=lambda: None) as store:
        assert store.version() == 1
        assert store.by_id("nobody") is None


def test_parameters_are_found_outside_of_literals() -> None:
    """A sign within a text, a quoted name or a comment is none; a percent sign stays one."""
    assert statement("SELECT '?''?' || \"a?\" || ? -- ?\nWHERE x LIKE 'a%' AND y % ? = 0") == (
        b"SELECT '?''?' || \"a?\" || %s -- ?\nWHERE x LIKE 'a%%' AND y %% %s = 0"
    )


def test_types_are_postgresqls() -> None:
    """As the migrations of SQLite name them; what is no type stays."""
    assert definition("CREATE TABLE t (number INTEGER PRIMARY KEY, text TEXT, b BLOB, n INTEGER) WITHOUT ROWID") == (
        b'CREATE TABLE t (number BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, text TEXT COLLATE "C", b BYTEA, n BIGINT)'
    )


def test_many_rows_are_one_statement(pool: Pool) -> None:
    """What was inserted has its number at its own place, what stood in the way has none; twice in one call counts once."""
    things = ("CREATE TABLE thing (id INTEGER PRIMARY KEY, a TEXT NOT NULL, b TEXT NOT NULL, n INTEGER, data BLOB, UNIQUE (a, b))",)
    database = PostgresDatabase(pool, Schema("things", 7, (things,)), "things")
    insert = "INSERT INTO thing (a, b, n, data) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
    rows = [("x", "1", None, b"\x00%?"), ("x", "?%", 2**53, None), ("x", "1", 3, b""), ("'", "ü\\", -1, b"\xff")]
    with database.write() as connection:
        assert connection.insert(insert, []) == connection.each("SELECT n FROM thing WHERE a = ?", []) == []
        numbers = connection.insert(insert, rows)
        assert [number is None for number in numbers] == [False, False, True, False]
        assert connection.insert(insert, rows[:2]) == [None, None]
        asked = [("'", "ü\\"), ("x", "none"), ("x", "1"), ("x", "1")]
        found = connection.each("SELECT id, n, data FROM thing WHERE a = ? AND b = ? AND a <> '?' FOR UPDATE", asked)
        assert found == [(numbers[3], -1, b"\xff"), None, (numbers[0], None, b"\x00%?"), (numbers[0], None, b"\x00%?")]
        connection.executemany("INSERT INTO thing (a, b, n, data) VALUES (?, ?, ?, ?)", [("y", "1", None, None), ("y", "2", None, None)])
        connection.executemany("UPDATE thing SET n = ? WHERE b = ?", [(7, "1"), (8, "2")])
        connection.executemany("DELETE FROM thing WHERE a = ?", [])
    with database.read() as connection:
        query = "SELECT a, b, n FROM thing WHERE a IN ('x', 'y') ORDER BY a, b"
        assert connection.execute(query).fetchall() == [("x", "1", 7), ("x", "?%", 2**53), ("y", "1", 7), ("y", "2", 8)]
