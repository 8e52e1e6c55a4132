"""Files of the SQLite store: who may read them, and what is refused."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.stores import SQLiteStore
from tos_guard.stores._database import Database, Schema

ISSUER = "https://api.example"


def open_store(path: Path, **options) -> SQLiteStore:
    return SQLiteStore(path, issuer=ISSUER, clock=lambda: datetime(2026, 11, 22, tzinfo=UTC), **options)


def test_a_missing_folder_is_named(tmp_path):
    """The error names the path and says what to do."""
    with pytest.raises(ConfigurationError, match=r"nowhere/guard\.db.*mkdir"):
        open_store(tmp_path / "nowhere" / "guard.db")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_issuer_is_refused(tmp_path):
    """A store without an issuer would mix the accounts of all."""
    with pytest.raises(ConfigurationError, match="issuer"):
        SQLiteStore(tmp_path / "guard.db", issuer="", clock=lambda: datetime.now(UTC))


def test_all_files_are_private(tmp_path, record):
    """Nobody but the owner reads accounts, records, logs or locks."""
    with open_store(tmp_path / "guard.db") as store:
        store.append(record("r1")).result(30)
        files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert {"guard.db", "guard.records.db", "guard.db.lock", "guard.records.db.lock", "guard.records.db-wal"} <= files.keys()
    assert set(files.values()) == {0o600}


def write_text(path: Path) -> None:
    path.write_text("This is a diary, and not a database. " * 100)


def write_other(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE diary (day TEXT)")
    connection.close()


def make_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("name", ["guard.db", "guard.records.db"])
@pytest.mark.parametrize("make", [write_text, write_other, make_folder])
def test_another_file_is_refused_and_left_alone(tmp_path, name, make):
    """A file that is not ours is named and not touched."""
    path = tmp_path / name
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ConfigurationError, match=name):
        open_store(tmp_path / "guard.db")
    assert before is None or sqlite_body(path.read_bytes()) == sqlite_body(before)


def sqlite_body(data: bytes) -> bytes:
    """Without the header, where SQLite keeps journal mode and change counter."""
    return data[100:]


def test_records_are_not_taken_for_accounts(tmp_path):
    """The two files cannot be confused."""
    open_store(tmp_path / "guard.db").close()
    with pytest.raises(ConfigurationError, match="does not keep accounts"):
        open_store(tmp_path / "guard.records.db")


def test_a_newer_file_is_refused(tmp_path):
    """An older release does not write into what a newer one has migrated."""
    open_store(tmp_path / "guard.db").close()
    connection = sqlite3.connect(tmp_path / "guard.records.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ConfigurationError, match="version 99"):
        open_store(tmp_path / "guard.db")


def test_migrations_lead_from_each_version(tmp_path):
    """A file of an earlier release takes the missing steps only, in order, and keeps what it holds."""
    first = ("CREATE TABLE a (x)", "INSERT INTO a VALUES (1)")
    second = ("ALTER TABLE a ADD COLUMN y", "UPDATE a SET y = x + 1")
    path = tmp_path / "x.db"
    Database(path, Schema("things", 7, (first,))).close()
    for _ in range(2):
        database = Database(path, Schema("things", 7, (first, second)))
        with database.read() as connection:
            assert connection.execute("SELECT x, y FROM a").fetchall() == [(1, 2)]
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        database.close()


def test_a_migration_that_fails_leaves_the_old_version(tmp_path):
    """A step is taken whole or not at all."""
    path = tmp_path / "x.db"
    Database(path, Schema("things", 7, (("CREATE TABLE a (x)",),))).close()
    broken = Schema("things", 7, (("CREATE TABLE a (x)",), ("CREATE TABLE b (x)", "INSERT INTO nowhere VALUES (1)")))
    with pytest.raises(StoreError, match="nowhere"):
        Database(path, broken)
    database = Database(path, Schema("things", 7, (("CREATE TABLE a (x)",), ("CREATE TABLE b (x)",))))
    database.close()


def test_processes_that_start_together_agree(tmp_path):
    """Workers may all create the same store at once: one pepper, one schema."""
    script = (
        "import sys\nfrom datetime import UTC, datetime\nfrom pathlib import Path\nfrom tos_guard.stores import SQLiteStore\n"
        "sys.stdin.readline()\n"
        "with SQLiteStore(Path(sys.argv[1]), issuer='https://api.example', clock=lambda: datetime.now(UTC)) as store:\n"
        "    print(store.pepper().hex(), store.version())\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "guard.db")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(answers) == 1


def test_a_file_removed_under_the_store_is_an_error(tmp_path):
    """A lost file is never replaced by an empty one in silence."""
    store = open_store(tmp_path / "guard.db")
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.accounts()
    database = Database(tmp_path / "x.db", Schema("things", 7, (("CREATE TABLE a (x)",),)))
    for file in tmp_path.glob("x.db*"):
        file.unlink()
    with pytest.raises(StoreError, match=r"x\.db"), database.read() as connection:
        connection.execute("SELECT * FROM a")
    assert not (tmp_path / "x.db").exists()
    database.close()


def test_a_patient_writer_gives_up_in_the_end(tmp_path):
    """Whoever holds the writers' lock for too long holds up nobody for ever, in this process or another; afterwards all is well."""
    schema = Schema("things", 7, (("CREATE TABLE a (x)",),))
    holder = Database(tmp_path / "x.db", schema)
    other, same = (Database(tmp_path / "x.db", schema, durable=False, patience=0.05) for _ in range(2))
    with holder.write(), pytest.raises(StoreError, match=r"x\.db\.lock: another writer has held the lock for 0\.05 s"), other.write():
        pytest.fail("two writers at once")
    with ThreadPoolExecutor(1) as threads, same.write(), pytest.raises(StoreError, match="another writer"):
        threads.submit(lambda: same.write().__enter__()).result()
    for database in (other, same, holder):
        with database.write() as connection:
            connection.execute("INSERT INTO a VALUES (1)")
    with other.read() as connection:
        assert connection.execute("SELECT count(*) FROM a").fetchone() == (3,)
    for database in (other, same, holder):
        database.close()


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
def test_only_what_is_durable_waits_for_the_disk(tmp_path, durable, synchronous):
    """FULL for accounts and records; NORMAL, which syncs at checkpoints alone, for what may be counted anew."""
    database = Database(tmp_path / "x.db", Schema("things", 7, (("CREATE TABLE a (x)",),)), durable=durable)
    with database.write() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    database.close()
