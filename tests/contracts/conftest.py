"""The implementations that every contract suite runs over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engines import new_database
from postgres_tables import empty
from sample_records import sample_record
from tos_guard.ledger import ExchangeRecord
from tos_guard.rights import Account, Grant
from tos_guard.stores import MemoryStore, PostgresStore, SQLiteStore, Store
from tos_guard.terms import TermsVersion, parse_terms

ISSUER = "https://api.example"


class FixedClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, 0, 0, 123000, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, span: timedelta) -> None:
        self.now += span


class Seconds:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Case:
    """One implementation, and a second view of the same state as another process of the host has it."""

    store: Store
    peer: Store
    clock: FixedClock
    seconds: Seconds
    folder: Path

    def a_second_passes(self) -> None:
        self.seconds.now += 1.0
        self.clock.move(timedelta(seconds=1))


@pytest.fixture(scope="session")
def _database(postgres: str) -> str:
    """A database of PostgreSQL that the tests of this folder share, one after the other."""
    return new_database(postgres)


@pytest.fixture
def database(_database: str) -> str:
    """The conninfo of an empty database."""
    empty(_database)
    return _database


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    clock, seconds = FixedClock(), Seconds()
    if request.param == "memory":
        store: Store = MemoryStore(issuer=ISSUER, clock=clock)
        peer = store
    elif request.param == "sqlite":
        store, peer = (SQLiteStore(tmp_path / "guard.db", issuer=ISSUER, clock=clock, monotonic=seconds) for _ in range(2))
    else:
        conninfo = request.getfixturevalue("database")
        store, peer = (PostgresStore(conninfo, issuer=ISSUER, clock=clock, monotonic=seconds) for _ in range(2))
    yield Case(store, peer, clock, seconds, tmp_path)
    store.close()
    peer.close()


@pytest.fixture
def store(case: Case) -> Store:
    return case.store


@pytest.fixture
def account() -> Callable[..., Account]:
    def make(account_id: str = "acme", **fields: Any) -> Account:
        return Account(**({"id": account_id, "kind": "organization", "models": {"small"}, "actions": {"generate"}} | fields))

    return make


@pytest.fixture
def grant() -> Callable[..., Grant]:
    def make(grant_id: str = "g1", **fields: Any) -> Grant:
        return Grant(**({"id": grant_id, "type": "licensed-distillation"} | fields))

    return make


@pytest.fixture
def record() -> Callable[..., ExchangeRecord]:
    def make(rid: str, **fields: Any) -> ExchangeRecord:
        return sample_record(rid, **({"issuer": ISSUER} | fields))

    return make


@pytest.fixture
def terms() -> Callable[..., TermsVersion]:
    def make(version: str = "2026-11", effective: date = date(2026, 11, 1), text: str = "Be kind.\n") -> TermsVersion:
        uri = f"https://api.example/terms/{version}"
        head = f'[terms]\nversion = "{version}"\ntitle = "Terms"\nuri = "{uri}"\neffective = {effective}\ntext = "terms.md"\n'
        clause = '[[clause]]\nid = "use"\neffect = "permit"\naction = "generate"\ntext = "You may."\n'
        return parse_terms((head + clause).encode(), text.encode())

    return make
