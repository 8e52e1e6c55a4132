"""How processes over PostgreSQL hear of one another's changes, and what their transactions leave behind on a connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from engines import new_database
from sample_records import sample_record
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.rights import Account
from tos_guard.stores import PostgresStore, _hearing
from tos_guard.types import Standing

ISSUER = "https://api.example"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PATIENCE = 20.0


@pytest.fixture(scope="module")
def conninfo(postgres: str) -> str:
    return new_database(postgres)


@pytest.fixture
def opened(conninfo: str) -> Iterator[Callable[..., PostgresStore]]:
    """Opens stores over one database; each test has an issuer of its own."""
    made: list[PostgresStore] = []

    def open_one(issuer: str = f"{ISSUER}/{time.monotonic_ns()}", **options: object) -> PostgresStore:
        made.append(PostgresStore(conninfo, issuer=issuer, clock=lambda: NOW, **options))
        return made[-1]

    yield open_one
    for store in made:
        store.close()


def eventually(is_so: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.005)


def both(opened: Callable[..., PostgresStore], **options: object) -> tuple[PostgresStore, PostgresStore]:
    issuer = f"{ISSUER}/{time.monotonic_ns()}"
    one, other = opened(issuer, **options), opened(issuer, **options)
    one.add_account(Account(id="acme"))
    assert other.by_id("acme") is not None
    return one, other


def test_an_announced_change_is_heard_without_asking(opened, monkeypatch):
    """Nobody asks for a minute, and the change is there at once."""
    monkeypatch.setattr(_hearing, "_ASK_SECONDS", 60.0)
    monkeypatch.setattr(_hearing, "_FRESH_SECONDS", 60.0)
    one, other = both(opened)
    eventually(lambda: other._hearing._announcements.is_hearing)
    one.set_standing("acme", Standing.SUSPENDED, "x")
    eventually(lambda: other.by_id("acme").standing is Standing.SUSPENDED)


def test_what_is_not_announced_is_heard_by_asking(opened, monkeypatch):
    """For poolers: no connection listens, and changes are heard all the same, by the thread that asks."""
    monkeypatch.setattr(_hearing, "_FRESH_SECONDS", 60.0)
    one, other = both(opened, announcements="none")
    one.set_standing("acme", Standing.SUSPENDED, "x")
    eventually(lambda: other.by_id("acme").standing is Standing.SUSPENDED)


def test_a_listener_that_was_cut_off_listens_again(opened, conninfo, monkeypatch):
    """Meanwhile it knows that it does not hear, and hears by asking."""
    one, other = both(opened)
    announcements = other._hearing._announcements
    eventually(lambda: announcements.is_hearing)
    with psycopg.connect(conninfo, autocommit=True) as admin:
        assert admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        ).fetchall()
    eventually(lambda: not announcements.is_hearing)
    one.set_standing("acme", Standing.SUSPENDED, "x")
    eventually(lambda: other.by_id("acme").standing is Standing.SUSPENDED)
    eventually(lambda: announcements.is_hearing)


def test_another_issuer_of_the_database_hears_and_sees_nothing(opened):
    """Two providers share a database: ids, versions, peppers and records are each their own."""
    one, other = opened("https://one.example"), opened("https://other.example")
    before = other.version()
    one.add_account(Account(id="acme"))
    one.append(sample_record("r1", issuer="https://one.example", account_id="acme")).result(30)
    assert one.pepper() != other.pepper()
    assert (other.version(), other.by_id("acme"), other.accounts()) == (before, None, ())
    assert other.count_records("https://other.example") == 0
    other.add_account(Account(id="acme", region="FR"))
    assert one.by_id("acme").region is None


def test_two_namespaces_of_a_database_are_two_stores(opened):
    """Of one issuer, even."""
    one, other = opened("https://same.example", namespace="first"), opened("https://same.example", namespace="second")
    one.add_account(Account(id="acme"))
    assert other.by_id("acme") is None


def test_a_connection_is_left_as_it_was(opened):
    """What a block sets, it sets for one transaction: a pooler may give the connection to anybody afterwards."""
    store = opened(announcements="none")
    store.add_account(Account(id="acme"))
    store.by_id("acme")
    for number in range(20):
        store.append(sample_record(f"r{number}", issuer=store.issuer, account_id="acme")).result(30)
    store.erase_account(store.issuer, "acme")
    pool = store._accounts._pool
    links = [pool.take(time.monotonic() + 5)[0] for _ in range(len(pool._idle))]
    assert links
    for link in links:
        said = [link.execute(f"SHOW {name}").fetchone()[0] for name in ("search_path", "statement_timeout", "lock_timeout")]
        assert said == ['"$user", public', "0", "0"]
        assert link.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        assert link.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)
        pool.give(link, usable=True)


def test_a_server_that_would_commit_ahead_of_its_disk_is_told_not_to(conninfo, opened):
    """`synchronous_commit = off` is not followed; what promises more is left as it is."""
    for said, followed in (("off", "on"), ("remote_apply", "remote_apply")):
        store = PostgresStore(make_conninfo(conninfo, options=f"-c synchronous_commit={said}"), issuer=ISSUER, clock=lambda: NOW)
        with store, store._records.write() as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == (followed,)


def test_whoever_stops_within_a_change_loses_its_lock(opened):
    """Others wait for it no longer than a call may take; the one that was stopped is told, and has changed nothing."""
    issuer = f"{ISSUER}/{time.monotonic_ns()}"
    stopped, other = opened(issuer, deadline=1.0), opened(issuer, deadline=5.0)
    other.add_account(Account(id="acme"))
    entered, go_on, said = threading.Event(), threading.Event(), []

    def change() -> None:
        try:
            with stopped._changing() as (connection, _):
                connection.execute("UPDATE account SET document = '{}' WHERE issuer = ?", (issuer,))
                entered.set()
                go_on.wait(PATIENCE)
        except StoreError as error:
            said.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    assert entered.wait(PATIENCE)
    other.set_standing("acme", Standing.SUSPENDED, "x")
    go_on.set()
    thread.join(PATIENCE)
    assert len(said) == 1
    assert other.account_version("acme", 2).standing is Standing.SUSPENDED


@pytest.mark.parametrize(
    ("waiting", "connecting"),
    [(1, 0.0), (8, 0.0), (8, 2.4)],
    ids=["one", "as many as there are connections", "over connections that were long in the making"],
)
def test_changes_that_wait_for_others_cut_nobody_off(opened, monkeypatch, waiting, connecting):
    """Whoever holds the row for too long lets changes fail, and nothing else: the process hears, and answers from what it knows."""
    store = opened(deadline=4.0, connections=8)  # a quarter of what is left of it is the server's to say so, on a busy machine too
    pool = store._accounts._pool
    connect = pool.connect
    monkeypatch.setattr(pool, "connect", lambda: (time.sleep(connecting), connect())[1])
    store.add_account(Account(id="acme"))
    assert store.by_id("acme") is not None
    said, told = [], []
    store.hearing.watch(lambda word, _: told.append(word))

    def change() -> None:
        try:
            store.set_standing("acme", Standing.WARNED, "x")
        except StoreError as error:
            said.append(error)

    with psycopg.connect(store._accounts._pool.server.conninfo) as holder:
        holder.execute("UPDATE tos_guard.issuer SET version = version WHERE issuer = %s", (store.issuer,))
        threads = [threading.Thread(target=change) for _ in range(waiting)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert store.by_id("acme").standing is Standing.GOOD
        assert store.by_id("acme").standing is Standing.GOOD
        holder.rollback()
    assert len(said) == waiting
    assert "unheard" not in told
    store.set_standing("acme", Standing.WARNED, "x")


def test_hostile_addresses_are_our_error():
    """Whatever stands in the setting; and no message holds its password."""
    for address in ("postgresql://guard:s3cret@[", "postgresql://guard:s3cret@127.0.0.1:1/x", "s3cret=1"):
        with pytest.raises((ConfigurationError, StoreError)) as caught:
            PostgresStore(address, issuer=ISSUER, clock=lambda: NOW)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("namespace", ["", "Upper", 'a"b', "a;b", "x" * 49, "1a"])
def test_a_name_that_is_no_schema_is_refused(conninfo, namespace):
    with pytest.raises(ConfigurationError, match="no name of a schema"):
        PostgresStore(conninfo, issuer=ISSUER, clock=lambda: NOW, namespace=namespace)
