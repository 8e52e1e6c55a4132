"""A guard whose accounts lie elsewhere: what it says where nothing is heard of them, and what it does then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from kit import Kit, ask, whole
from tos_guard.errors import StoreError
from tos_guard.guard import AsyncGuard
from tos_guard.rights import Account
from tos_guard.testing import MemoryStore

CUT = StoreError("no answer", where="10.0.0.1:6379")


class Hearing:
    """A `HeardVersion` that can be cut off; a call that would wait for the network in an event loop is an error."""

    def __init__(self) -> None:
        self.number = 1
        self.cut = False
        self.fresh = True
        self.age: float | None = 0.1
        self.awaited = 0
        self.told: Callable[[str, StoreError | None], None] = lambda word, failure: None

    @property
    def is_fresh(self) -> bool:
        return self.fresh and not self.cut

    def version(self) -> int:
        if self.cut:
            raise CUT
        assert self.fresh, "waits for the network"
        return self.number

    async def heard_version(self) -> int:
        self.awaited += 1
        if self.cut:
            raise CUT
        self.fresh = True
        return self.number

    def watch(self, told: Callable[[str, StoreError | None], None]) -> None:
        self.told = told


class Hosts:
    """Accounts of a host."""

    def __init__(self, store: MemoryStore) -> None:
        self.hearing = Hearing()
        self._store = store

    def version(self) -> int:
        return self.hearing.version()

    def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        return self._store.by_api_key(public_id, secret_hash)

    def by_id(self, account_id: str) -> Account | None:
        return self._store.by_id(account_id)


class HostsKit(Kit):
    """A `Kit` whose accounts are the host's."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(settings=settings)
        hosts = Hosts(self.store)
        self.hearing = hosts.hearing
        self.guard = AsyncGuard(self.guard.settings, **{**self.parts, "accounts": hosts, "rights": None})


BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}'


async def status(kit: HostsKit) -> int:
    return (await ask(kit.wrap(whole(BODY)), key=kit.key)).status


async def test_a_version_that_is_not_fresh_is_awaited() -> None:
    """The event loop does not wait for the network."""
    kit = HostsKit()
    kit.hearing.fresh = False
    assert await status(kit) == 200
    assert kit.hearing.awaited == 1
    assert await status(kit) == 200
    assert kit.hearing.awaited == 1


async def test_whoever_hears_nothing_refuses() -> None:
    """``accounts = "deny"``: also for an account that was read before."""
    kit = HostsKit()
    assert await status(kit) == 200
    kit.hearing.cut = True
    assert [await status(kit) for _ in range(3)] == [503] * 3
    kit.hearing.cut = False
    assert await status(kit) == 200


async def test_or_goes_by_what_was_read_for_so_long() -> None:
    """``accounts = "local"``: for `stale_seconds`, counted each time; and no longer."""
    kit = HostsKit(failure={"accounts": "local", "stale_seconds": 60})
    assert await status(kit) == 200
    kit.hearing.cut = True
    assert [await status(kit) for _ in range(3)] == [200] * 3
    assert kit.guard.counts["degraded:accounts:local"] == 3
    kit.clock.advance(timedelta(seconds=61))
    assert await status(kit) == 503
    kit.hearing.cut = False
    assert await status(kit) == 200


def test_what_happens_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """In the log, in the counts, and as the age that a collector reads."""
    kit = HostsKit()
    with caplog.at_level(logging.WARNING, "tos_guard"):
        kit.hearing.told("unheard", CUT)
        kit.hearing.told("heard", None)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
    assert "10.0.0.1:6379" in caplog.records[0].getMessage()
    assert kit.guard.counts["hearing:unheard"] == kit.guard.counts["hearing:heard"] == 1
    assert kit.guard.telemetry.readings("hearing.age") == [(0.1, {})]
    kit.hearing.age = None
    assert kit.guard.telemetry.readings("hearing.age") == []
