"""Changes of a PostgreSQL store told over Valkey, for fleets whose pooler lets nobody listen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from engines import Valkey, new_database, running
from proxies import Proxy
from tos_guard.config import GuardSettings
from tos_guard.rights import Account
from tos_guard.stores import PostgresStore, ValkeyAnnouncements, open_store
from tos_guard.stores import _hearing as hearing
from tos_guard.types import Standing

ISSUER = "https://api.example"
PATIENCE = 20.0


def opened(conninfo: str, url: str, domain: str = "fleet") -> PostgresStore:
    announcements = ValkeyAnnouncements(url, domain=domain)
    return PostgresStore(conninfo, issuer=ISSUER, clock=lambda: datetime.now(UTC), announcements=announcements)


def heard_after(store: PostgresStore, standing: Standing) -> float:
    """Seconds until a store has heard of it."""
    began = time.monotonic()
    while (found := store.by_id("acme")) is None or found.standing is not standing:
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.002)
    return time.monotonic() - began


def is_listening(store: PostgresStore) -> bool:
    announcements: Any = store.hearing._announcements  # type: ignore[attr-defined]
    until = time.monotonic() + PATIENCE
    while not announcements.is_hearing:
        assert time.monotonic() < until
        time.sleep(0.01)
    return True


def test_changes_are_announced(postgres: str, valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody asks on their own, each change is heard of by its announcement."""
    monkeypatch.setattr(hearing, "_ASK_SECONDS", PATIENCE)
    monkeypatch.setattr(hearing, "_FRESH_SECONDS", 10 * PATIENCE)
    conninfo = new_database(postgres)
    with opened(conninfo, valkey, "announced") as store, opened(conninfo, valkey, "announced") as other:
        store.add_account(Account(id="acme", models=frozenset({"small"})))
        assert other.by_id("acme") is not None
        assert is_listening(other)
        for standing in (Standing.SUSPENDED, Standing.GOOD, Standing.WARNED) * 2:
            store.set_standing("acme", standing, "x")
            heard_after(other, standing)


def test_changes_are_heard_of_without_the_engine(postgres: str) -> None:
    """Announcements only make it quicker: killed, restarted or silent, the engine delays nobody beyond a second, and no change fails."""
    conninfo = new_database(postgres)
    with running(Valkey) as engine, Proxy(engine.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        with opened(conninfo, url) as store, opened(conninfo, url) as other:
            store.add_account(Account(id="acme", models=frozenset({"small"})))
            assert other.by_id("acme") is not None
            assert is_listening(other)
            faults = {"killed": engine.kill, "restarted": engine.start, "silent": proxy.stall, "cut": proxy.drop}
            for fault, happen in faults.items():
                happen()
                for standing in (Standing.SUSPENDED, Standing.GOOD):
                    began = time.monotonic()
                    store.set_standing("acme", standing, fault)
                    assert time.monotonic() - began < 1.0, "a change waits for its announcement"
                    assert heard_after(other, standing) < 1.0
            proxy.heal()
            assert is_listening(other)


def test_a_command_that_ends_at_once_has_told(postgres: str, valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is closed right after its change has announced it."""
    monkeypatch.setattr(hearing, "_ASK_SECONDS", PATIENCE)
    monkeypatch.setattr(hearing, "_FRESH_SECONDS", 10 * PATIENCE)
    conninfo = new_database(postgres)
    with opened(conninfo, valkey, "told") as other:
        with opened(conninfo, valkey, "told") as store:
            store.add_account(Account(id="acme", models=frozenset({"small"})))
        assert other.by_id("acme") is not None
        assert is_listening(other)
        with opened(conninfo, valkey, "told") as store:
            store.set_standing("acme", Standing.SUSPENDED, "x")
        heard_after(other, Standing.SUSPENDED)


FORKS = """
import os, sys
from datetime import UTC, datetime
from tos_guard.stores import PostgresStore, ValkeyAnnouncements, open_store
from tos_guard.types import Standing

announcements = ValkeyAnnouncements(sys.argv[2], domain="forks")
store = PostgresStore(sys.argv[1], issuer="https://api.example", clock=lambda: datetime.now(UTC), announcements=announcements)
store.set_standing("acme", Standing.WARNED, "before")
pid = os.fork()
if pid == 0:
    try:
        store.set_standing("acme", Standing.SUSPENDED, "child")
        store.close()
    except BaseException:
        os._exit(1)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
store.close()
"""


def test_a_child_of_a_fork_announces_too(postgres: str, valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a parent's threads were to tell, a child's own tell."""
    monkeypatch.setattr(hearing, "_ASK_SECONDS", PATIENCE)
    monkeypatch.setattr(hearing, "_FRESH_SECONDS", 10 * PATIENCE)
    conninfo = new_database(postgres)
    with opened(conninfo, valkey, "forks") as other:
        other.add_account(Account(id="acme", models=frozenset({"small"})))
        assert other.by_id("acme") is not None
        assert is_listening(other)
        ran = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, conninfo, valkey],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ},
        )
        assert ran.returncode == 0, ran.stderr
        heard_after(other, Standing.SUSPENDED)


def test_the_settings_name_it(postgres: str, valkey: str) -> None:
    """``announcements = "valkey"`` takes the server of ``[valkey]``, under the issuer's domain; statements are not prepared."""
    parts = conninfo_to_dict(new_database(postgres))
    members = {
        "issuer": ISSUER,
        "terms": "terms.toml",
        "store": f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}",
        "keys": "keys",
        "routes": {"/v1/chat/completions": "openai-chat"},
        "postgres": {"announcements": "valkey"},
        "valkey": {"url": valkey},
    }
    with open_store(GuardSettings.model_validate(members), clock=lambda: datetime.now(UTC)) as store:
        assert isinstance(store, PostgresStore)
        store.version()
        assert is_listening(store)
        assert not store._accounts_tables._pool.server.prepare
