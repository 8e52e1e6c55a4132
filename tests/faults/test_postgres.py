"""PostgreSQL killed, restarted and stopped, and answers lost, while a store is at work: nothing acknowledged is lost, and no call hangs."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from engines import Postgres, running
from postgres_tables import empty
from sample_records import sample_acceptance, sample_record
from tos_guard.errors import AccountError, StoreError
from tos_guard.rights import Account, Grant
from tos_guard.stores import PostgresStore
from tos_guard.stores import _postgres_database as postgres_database
from tos_guard.stores._postgres_database import PostgresDatabase
from tos_guard.stores._records import RECORDS_SCHEMA
from tos_guard.types import Standing

ISSUER = "https://api.example"
DEADLINE = 0.5
PATIENCE = 30.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Postgres]:
    """A server of our own whose commits wait for the disk."""
    with running(lambda folder: Postgres(folder, durable=True)) as engine:
        engine.conninfo_of_test = engine.database()
        yield engine


@pytest.fixture
def database(engine: Postgres) -> str:
    empty(engine.conninfo_of_test)
    return engine.conninfo_of_test


def opened(conninfo: str, **options: object) -> PostgresStore:
    return PostgresStore(conninfo, **({"issuer": ISSUER, "clock": lambda: datetime.now(UTC), "deadline": DEADLINE} | options))


def account(account_id: str = "acme") -> Account:
    return Account(id=account_id, models=frozenset({"small"}))


def eventually(ask: Callable[[], object]) -> object:
    """What it answers once it answers."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except StoreError:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_what_was_acknowledged_survives_a_kill(engine: Postgres, database: str, record_property: Callable[[str, object], None]) -> None:
    """The server is killed three times while four threads append and one grants and records acceptances.

    Each acknowledged record is there, linked, and there once; each acknowledged grant and acceptance holds.
    """
    acknowledged: set[str] = set()
    failed = 0
    stop = threading.Event()
    lock = threading.Lock()

    def append(store: PostgresStore, thread: int) -> None:
        nonlocal failed
        number = 0
        while not stop.is_set():
            rids = [f"{thread}-{number + more}" for more in range(20)]
            records = [sample_record(rid, issuer=ISSUER, account_id=f"a{number % 7}") for rid in rids]
            for rid, future in [(record.rid, store.append(record)) for record in records]:
                try:
                    future.result(PATIENCE)
                except StoreError:
                    with lock:
                        failed += 1
                    time.sleep(0.001)
                else:
                    with lock:
                        acknowledged.add(rid)
            number += 20

    granted: list[str] = []
    accepted: list[str] = []

    def administer(store: PostgresStore) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with suppress(StoreError, AccountError):  # of an account that a lost answer had changed all the same
                store.add_grant("acme", Grant(id=f"g{number}", type="research"))
                granted.append(f"g{number}")
            with suppress(StoreError):
                accepted.append(store.add_acceptance(sample_acceptance(number, issuer=ISSUER)).id)
            time.sleep(0.001)

    with opened(database) as store:
        store.add_account(account())
        threads = [threading.Thread(target=append, args=(store, number)) for number in range(4)]
        threads.append(threading.Thread(target=administer, args=(store,)))
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = len(acknowledged)
            until = time.monotonic() + PATIENCE
            while len(acknowledged) < before + 500:
                assert time.monotonic() < until
                time.sleep(0.005)
            engine.kill()
            engine.start()
        stop.set()
        for thread in threads:
            thread.join()
        holder = eventually(lambda: store.holder_by_id("acme"))
        linked = [each.rid for number in range(7) for each in eventually(lambda n=number: store.of_account(ISSUER, f"a{n}"))]
    assert not acknowledged - set(linked)
    assert len(linked) == len(set(linked))
    assert set(granted) <= {grant.id for grant in holder.account.grants}
    assert set(accepted) <= {each.id for each in holder.acceptances}
    kept = f"{len(acknowledged)} records, {len(granted)} grants, {len(accepted)} acceptances acknowledged"
    record_property("counts", f"3 kills: {kept}, {len(linked)} records stored; 0 lost, 0 twice; {failed} refused")


def test_a_store_outlives_its_server(engine: Postgres, database: str) -> None:
    """While it is down `version` and look-ups raise; once it is back, the same store answers, and hears of changes by others."""
    with opened(database) as store, opened(database) as other:
        store.add_account(account())
        assert store.by_id("acme") is not None
        engine.stop()
        time.sleep(0.6)  # the time for which an answer holds
        for ask in (store.version, lambda: store.by_id("acme"), lambda: store.set_standing("acme", Standing.WARNED, "x")):
            with pytest.raises(StoreError):
                ask()
        engine.start()
        eventually(lambda: other.set_standing("acme", Standing.SUSPENDED, "x"))
        eventually(store.version)
        until = time.monotonic() + 1.0
        while eventually(lambda: store.by_id("acme")).standing is not Standing.SUSPENDED:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_server_that_is_stopped_holds_nobody(engine: Postgres, database: str) -> None:
    """A call ends by its deadline; the next ones fail at once; and when it goes on, so do they."""
    with opened(database) as store:
        store.add_account(account())
        store.by_id("acme")
        engine.pause()
        try:
            time.sleep(0.6)
            began = time.monotonic()
            with pytest.raises(StoreError):
                store.version()
            assert time.monotonic() - began < DEADLINE + 2.5  # psycopg waits two seconds for a connection
            refused = 0
            began = time.monotonic()
            for _ in range(100):
                with suppress(StoreError):
                    store.by_id("acme")
                    continue
                refused += 1
            assert refused == 100
            assert time.monotonic() - began < 2 * (DEADLINE + 2.5)
        finally:
            engine.resume()
        assert eventually(lambda: store.by_id("acme")) == account()


class CutsAfterCommit(threading.Thread):
    """A way to the server that hands a commit on and cuts the connection before the answer, as often as it is told to."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.cuts = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._there, args=(client, server), daemon=True).start()
                threading.Thread(target=self._back, args=(client, server), daemon=True).start()

    def stop(self) -> None:
        self._listener.close()

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), client, server:
            while data := client.recv(65536):
                is_commit = b"COMMIT" in data and self.cuts > 0
                if is_commit:
                    self.cuts -= 1
                    client.shutdown(socket.SHUT_RDWR)
                server.sendall(data)
                if is_commit:
                    time.sleep(0.05)
                    return

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def way(engine: Postgres) -> Iterator[CutsAfterCommit]:
    way = CutsAfterCommit(engine.port)
    way.start()
    yield way
    way.stop()


def through(way: CutsAfterCommit, conninfo: str) -> str:
    host, port = way.address
    return f"postgresql://postgres@{host}:{port}/{conninfo_to_dict(conninfo)['dbname']}"


def test_a_commit_whose_answer_was_lost_is_found_out(way: CutsAfterCommit, database: str) -> None:
    """A change, a record with its seals and a count: each is done once and said to be done, though no answer to its commit arrived."""
    with opened(through(way, database), announcements="none") as store, opened(database) as other:
        store.add_account(account())
        way.cuts = 1
        assert store.set_standing("acme", Standing.WARNED, "x").version == 2
        assert way.cuts == 0
        assert [step.what for step in other.history("acme")] == ["added", "standing"]
        way.cuts = 1
        store.append(sample_record("r1", issuer=ISSUER, account_id="acme")).result(PATIENCE)
        assert way.cuts == 0
        way.cuts = 1
        store.count_denial("x", datetime(2026, 11, 22, tzinfo=UTC))
        store.flush()
        assert way.cuts == 0
        assert [each.rid for each in other.of_account(ISSUER, "acme")] == ["r1"]
        assert [count for *_, count in other.denial_counts(ISSUER)] == [1]


def test_a_deadlock_is_no_failure(database: str) -> None:
    """Two blocks that wait for one another: one is undone by the server and done again, and both end.

    The one that is done again may be quicker than the one that waited, and meet it once more.
    """
    with opened(database, deadline=10.0) as store:
        records = store._records
        assert isinstance(records, PostgresDatabase)
        with records.write() as connection:
            connection.insert(
                "INSERT INTO account (issuer, account_id) VALUES (?, ?) ON CONFLICT DO NOTHING", [(ISSUER, "a"), (ISSUER, "b")]
            )
        met = threading.Barrier(2)
        tries = {"ab": 0, "ba": 0}
        ended: list[str] = []

        def work(order: str) -> None:
            def block(connection: object) -> None:
                tries[order] += 1
                for position, name in enumerate(order):
                    connection.execute("UPDATE account SET issuer = issuer WHERE account_id = ?", (name,))
                    if position == 0 and tries[order] == 1:
                        met.wait(PATIENCE)

            records.run(block)
            ended.append(order)

        threads = [threading.Thread(target=work, args=(order,)) for order in tries]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(ended) == ["ab", "ba"]
        assert sum(tries.values()) > 2


def test_a_version_that_goes_back_is_noticed(database: str) -> None:
    """A replica that took over without the newest changes: a change under a number that was known already is heard."""
    with opened(database) as store, opened(database) as other:
        store.add_account(account())
        for standing in (Standing.WARNED, Standing.GOOD, Standing.WARNED):
            store.set_standing("acme", standing, "x")
        known = store.version()
        while other.version() != known:
            time.sleep(0.01)
        assert store.by_id("acme").standing is other.by_id("acme").standing is Standing.WARNED
        with other._accounts.write() as connection:  # type: ignore[attr-defined]
            connection.execute("UPDATE issuer SET version = 2 WHERE issuer = ?", (ISSUER,))
            connection.execute(
                "UPDATE account SET document = replace(document, 'warned', 'suspended'), changed = 2 WHERE issuer = ?", (ISSUER,)
            )
        for each in (store, other):
            until = time.monotonic() + 2.0
            while each.by_id("acme").standing is not Standing.SUSPENDED:
                assert time.monotonic() < until
                time.sleep(0.01)


def test_another_change_under_a_number_that_is_known_is_noticed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica took over without the newest change, and came to its number by another one: its timeline tells."""
    with opened(database, announcements="none") as store:
        store.add_account(account())
        assert store.by_id("acme").standing is Standing.GOOD
        assert store._accounts_tables.timeline() == "00000001"
        with store._accounts.write() as connection:  # type: ignore[attr-defined]
            # Version and row have the numbers that the lost change had given them.
            connection.execute("UPDATE account SET document = replace(document, 'good', 'suspended') WHERE issuer = ?", (ISSUER,))
        known = store.version()
        assert store.by_id("acme").standing is Standing.GOOD
        monkeypatch.setattr(PostgresDatabase, "timeline", lambda self: "00000002")
        until = time.monotonic() + PATIENCE
        while store.by_id("acme").standing is not Standing.SUSPENDED:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert store.version() == known + 1
        time.sleep(0.5)
        assert store.version() == known + 1  # told once


def test_a_server_that_tells_no_timeline_is_asked_once(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever speaks as PostgreSQL does, and keeps its log in another way, is heard of all the same."""
    monkeypatch.setattr(postgres_database, "_TIMELINE", "SELECT no_such_function()")
    with opened(database) as store, opened(database) as other:
        store.add_account(account())
        assert store._accounts_tables.timeline() == ""
        assert not store._accounts_tables._tells_timeline
        other.set_standing("acme", Standing.SUSPENDED, "x")
        until = time.monotonic() + PATIENCE
        while store.by_id("acme").standing is not Standing.SUSPENDED:
            assert time.monotonic() < until
            time.sleep(0.01)


PROCESS = """
import sys
from datetime import UTC, datetime
from tos_guard.rights import Organization
from tos_guard.stores import PostgresStore
from tos_guard.types import Standing
sys.path.insert(0, sys.argv[3])
from sample_records import sample_record

store = PostgresStore(sys.argv[1], issuer="https://api.example", clock=lambda: datetime.now(UTC))
name = sys.argv[2]
pending = []
for number in range(250):
    pending.append(store.append(sample_record(f"{name}-{number}", issuer="https://api.example", account_id=f"a{number % 5}")))
    if number % 10 == 0:
        store.set_limit("acme", f"{name}-{number}", number + 1)
for future in pending:
    future.result(60)
store.close()
"""


def test_four_processes_append_and_change(database: str) -> None:
    """Each change of one account is a version of its own, none undoes another's, and each record is there once and linked."""
    with opened(database, deadline=10.0) as store:
        store.add_account(account())
        command = [sys.executable, "-W", "error", "-c", PROCESS, database]
        processes = [
            subprocess.Popen([*command, f"p{number}", str(Path(__file__).parents[1])], stderr=subprocess.PIPE) for number in range(4)
        ]
        for process in processes:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
        after = store.account_version("acme", 101)
        assert after is not None
        assert len(after.limits) == 100
        assert [step.version for step in store.history("acme")] == list(range(1, 102))
        linked = [each.rid for number in range(5) for each in store.of_account(ISSUER, f"a{number}")]
        assert sorted(linked) == sorted(f"p{process}-{number}" for process in range(4) for number in range(250))


FORKS = """
import os, sys
from datetime import UTC, datetime
from tos_guard.stores import PostgresStore
from tos_guard.types import Standing
sys.path.insert(0, sys.argv[2])
from sample_records import sample_record

store = PostgresStore(sys.argv[1], issuer="https://api.example", clock=lambda: datetime.now(UTC))
store.by_id("acme")
store.append(sample_record("before", issuer="https://api.example")).result(30)
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert store.by_id("acme") is not None
            for number in range(20):
                store.append(sample_record(f"{child}-{number}", issuer="https://api.example")).result(30)
            store.set_standing("acme", Standing.WARNED, f"child {child}")
            store.close()
            status = 0
        finally:
            os._exit(status)
    children.append(pid)
for number in range(20):
    store.append(sample_record(f"parent-{number}", issuer="https://api.example")).result(30)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 3
assert store.count_records("https://api.example") == 81
assert len(store.history("acme")) == 4, store.history("acme")
store.close()
"""


def test_a_store_survives_forks(database: str) -> None:
    """Parent and children go on with connections of their own, and none speaks in another's name."""
    with opened(database) as store:
        store.add_account(account())
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", FORKS, database, str(Path(__file__).parents[1])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr


STOPPED = """
import sys
from datetime import UTC, datetime
from tos_guard.stores import PostgresStore

store = PostgresStore(sys.argv[1], issuer="https://api.example", clock=lambda: datetime.now(UTC))
for line in sys.stdin:
    print(store.by_id("acme").standing.value, flush=True)
store.close()
"""


def test_a_process_that_was_stopped_asks_before_it_answers(database: str) -> None:
    """It is stopped while the account is suspended, and its first answer after that is the new one."""
    with opened(database) as store:
        store.add_account(account())
        process = subprocess.Popen([sys.executable, "-c", STOPPED, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> str:
            process.stdin.write("?\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        chance = random.Random(5)
        assert ask() == "good"
        for standing in (Standing.SUSPENDED, Standing.GOOD, Standing.SUSPENDED):
            os.kill(process.pid, signal.SIGSTOP)
            store.set_standing("acme", standing, "x")
            time.sleep(0.5 + chance.random() / 10)  # the time for which an answer holds
            os.kill(process.pid, signal.SIGCONT)
            assert ask() == standing.value
        process.stdin.close()
        assert process.wait(30) == 0
        process.stdout.close()


def test_records_and_accounts_are_kept_apart(database: str) -> None:
    """The schemas of the two cannot be confused."""
    from tos_guard.errors import ConfigurationError

    with opened(database) as store, pytest.raises(ConfigurationError, match="keeps accounts, not exchange records"):
        PostgresDatabase(store._records._pool, RECORDS_SCHEMA, "tos_guard")  # type: ignore[attr-defined]
