"""Group commit: when it commits, what it does when the disk fails, and that its thread lives on."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence

import pytest

from tos_guard.errors import AccountError, StoreError
from tos_guard.stores._database import Database, Schema
from tos_guard.stores._writer import GroupWriter, Row

SCHEMA = Schema("things", 7, (("CREATE TABLE thing (rid TEXT)",),))


class Disk:
    """Writes rows, when it is let, and keeps the groups it was given."""

    def __init__(self) -> None:
        self.groups: list[tuple[list[str], dict]] = []
        self.error: Exception | None = None
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()

    def __call__(self, connection: sqlite3.Connection, rows: Sequence[Row], counts: dict) -> None:
        self.entered.release()
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error
        connection.executemany("INSERT INTO thing VALUES (?)", [(row.rid,) for row in rows])
        self.groups.append(([row.rid for row in rows], dict(counts)))


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "x.db", SCHEMA)
    yield database
    database.close()


@pytest.fixture
def writer(database, disk):
    writer = GroupWriter(database, disk, max_pending=1000)
    yield writer
    disk.open.set()
    writer.close()


def row(rid: str) -> Row:
    return Row("issuer", rid, None, "exchange", 0, b"{}", None)


def test_no_thread_before_there_is_work(database, disk):
    """A store may be made before a server forks."""
    before = set(threading.enumerate())
    writer = GroupWriter(database, disk, max_pending=1000)
    assert not started_since(before)
    writer.append(row("a")).result(30)
    assert started_since(before) == ["tos-guard-records"]
    writer.close()


def started_since(before):
    """Names of threads that are not among these; other tests in this process may have left some."""
    return [thread.name for thread in threading.enumerate() if thread not in before]


def test_with_a_delay_rows_gather_and_nobody_who_asks_waits(database, disk):
    """Rows that nobody waits for go to the disk together; a full group, a flush and the end do not wait for the delay."""
    writer = GroupWriter(database, disk, max_pending=1000, delay=3600)
    full = [writer.append(row(str(number))) for number in range(512)]
    for future in full:
        future.result(30)
    few = [writer.append(row(name)) for name in "ab"]
    writer.flush().result(30)
    last = writer.append(row("c"))
    writer.close()
    assert all(future.done() for future in (*few, last))
    assert [len(rows) for rows, _ in disk.groups] == [512, 2, 1]


def test_an_idle_writer_waits_for_nobody_and_a_busy_one_groups(writer, disk):
    """The first row is written alone and at once; what comes during its commit is one group, of at most 512."""
    disk.open.clear()
    first = writer.append(row("first"))
    assert disk.entered.acquire(timeout=30)
    others = [writer.append(row(str(number))) for number in range(600)]
    disk.open.set()
    for future in (first, *others):
        future.result(30)
    assert [len(rids) for rids, _ in disk.groups] == [1, 512, 88]
    assert [rid for rids, _ in disk.groups for rid in rids] == ["first", *map(str, range(600))]


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), OSError("gone"), ValueError("strange")])
def test_a_failed_group_fails_and_the_thread_lives(writer, disk, database, error):
    """Each future of the group fails with `StoreError`, nothing of the group is stored, and the next group is."""
    disk.error = error
    failed = [writer.append(row(f"bad{number}")) for number in range(3)]
    for future in failed:
        with pytest.raises(StoreError, match=str(error)):
            future.result(30)
    disk.error = None
    writer.append(row("good")).result(30)
    with database.read() as connection:
        assert connection.execute("SELECT rid FROM thing").fetchall() == [("good",)]


def test_a_full_queue_refuses_the_newcomer(database, disk):
    """The bound on what waits holds; what waits already is written."""
    writer = GroupWriter(database, disk, max_pending=2)
    disk.open.clear()
    accepted = [writer.append(row("a"))]
    assert disk.entered.acquire(timeout=30)
    accepted += [writer.append(row("b")), writer.append(row("c"))]
    refused = writer.append(row("d"))
    assert isinstance(refused.exception(0), StoreError)
    disk.open.set()
    for future in accepted:
        future.result(30)
    writer.close()
    assert [rid for rids, _ in disk.groups for rid in rids] == ["a", "b", "c"]


def test_work_runs_alone_and_in_its_turn(writer, disk):
    """Work sees everything queued before it and nothing queued after; its own errors come back as they are."""
    disk.open.clear()
    writer.append(row("a"))
    assert disk.entered.acquire(timeout=30)
    writer.append(row("b"))
    seen = writer.run(lambda _: [rid for rids, _ in disk.groups for rid in rids])
    failing = writer.run(lambda _: (_ for _ in ()).throw(AccountError("no")))
    strange = writer.run(lambda _: 1 // 0)
    later = writer.append(row("c"))
    disk.open.set()
    assert seen.result(30) == ["a", "b"]
    with pytest.raises(AccountError):
        failing.result(30)
    with pytest.raises(StoreError, match="ZeroDivisionError"):
        strange.result(30)
    later.result(30)


def test_counts_ride_along(writer, disk):
    """Counts go with the next commit of records, added up."""
    disk.open.clear()
    first = writer.append(row("first"))
    assert disk.entered.acquire(timeout=30)
    for _ in range(3):
        writer.count(("issuer", 5, "code"))
    second = writer.append(row("second"))
    disk.open.set()
    first.result(30)
    second.result(30)
    assert disk.groups == [(["first"], {}), (["second"], {("issuer", 5, "code"): 3})]


def test_counts_alone_are_written_soon(writer, disk):
    """Without any record, counts get a commit of their own."""
    writer.count(("issuer", 5, "code"))
    assert disk.entered.acquire(timeout=30)
    writer.flush().result(30)
    assert disk.groups == [([], {("issuer", 5, "code"): 1})]


def test_counts_outlive_a_failing_disk(writer, disk):
    """What could not be counted is counted later."""
    disk.error = StoreError("disk")
    writer.count(("issuer", 5, "code"))
    with pytest.raises(StoreError):
        writer.flush().result(30)
    writer.count(("issuer", 5, "code"))
    disk.error = None
    writer.flush().result(30)
    assert disk.groups == [([], {("issuer", 5, "code"): 2})]


def test_close_ends_even_when_the_disk_fails(database, disk):
    """Nothing keeps a process from ending; whoever waits gets an error."""
    writer = GroupWriter(database, disk, max_pending=10)
    disk.error = StoreError("disk")
    future = writer.append(row("a"))
    writer.count(("issuer", 5, "code"))
    writer.close()
    assert isinstance(future.exception(30), StoreError)
    assert isinstance(writer.append(row("b")).exception(0), StoreError)


def test_close_writes_counts_that_no_thread_has_taken_up(database, disk):
    """A process that counted one denial and ended has counted it."""
    writer = GroupWriter(database, disk, max_pending=10)
    writer.count(("issuer", 5, "code"))
    writer.close()
    assert disk.groups == [([], {("issuer", 5, "code"): 1})]
