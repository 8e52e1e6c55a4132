"""An engine that awaits, under `AsyncGuard`: nobody's leaving loses what was reserved or settled, and closing waits for the last of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from kit import Kit, ask, whole
from tos_guard.config import GuardSettings
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.guard import Guard
from tos_guard.limits import Amounts, Charge, Dimension, Limit, LimitRefusal, LimitState, Quantity, Reservation
from tos_guard.protocols import LimitEngine, Use
from tos_guard.stores import MemoryLimits
from tos_guard.testing import FixedClock

BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}'
SLOTS = Limit(id="running", quantity=Quantity.CONCURRENCY, amount=1, per=(Dimension.ACCOUNT,), window=None)


class Slow:
    """An engine whose answers can be held back, after it has done what was asked."""

    def __init__(self) -> None:
        clock = FixedClock()
        self.blocking: LimitEngine = MemoryLimits(clock=clock, monotonic=lambda: 0.0)
        self.threads: set[int] = set()
        self.begun: list[str] = []
        self.done: list[str] = []
        self.closed = False
        self.hold = ""
        self.free = asyncio.Event()

    async def _answer(self, operation: str) -> None:
        self.threads.add(threading.get_ident())
        self.begun.append(operation)
        if operation == self.hold:
            await self.free.wait()
        else:
            await asyncio.sleep(0)
        self.done.append(operation)

    async def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002
        answer = self.blocking.reserve(charges, id=id, lease=lease)
        await self._answer("reserve")
        return answer

    async def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        await self._answer("settle")
        self.blocking.settle(reservation, actual)

    async def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        self.blocking.renew(reservation, lease=lease)

    async def cancel(self, reservation: Reservation) -> None:
        await self._answer("cancel")
        self.blocking.cancel(reservation)

    async def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        await self._answer("states")
        return self.blocking.states(charges)

    async def close(self) -> None:
        self.closed = True
        self.blocking.close()


async def until(holds: Any) -> None:
    """Let the loop turn until it does."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for knows nothing of us
            await asyncio.sleep(0)


def desk() -> tuple[Kit, Slow]:
    engine = Slow()
    return Kit(limits=[SLOTS], engine=engine), engine


async def test_an_engine_that_awaits_is_asked_in_the_event_loop_without_threads() -> None:
    kit, engine = desk()
    assert [(await ask(kit.wrap(whole(BODY)), key=kit.key)).status for _ in range(3)] == [200] * 3
    assert engine.done == ["reserve", "settle"] * 3
    assert engine.threads == {threading.get_ident()}
    assert kit.guard._pool == (0, None)
    assert kit.used() == {"running": 0}


async def test_what_was_reserved_for_a_client_that_left_is_given_back() -> None:
    """It left between the engine's work and its answer."""
    kit, engine = desk()
    engine.hold = "reserve"
    task = asyncio.create_task(ask(kit.wrap(whole(BODY)), key=kit.key))
    await until(lambda: engine.begun == ["reserve"])
    assert kit.used() == {"running": 1}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert kit.used() == {"running": 1}
    engine.free.set()
    await until(lambda: kit.used() == {"running": 0})
    assert engine.done == ["reserve", "cancel"]
    assert kit.guard.counts["reservation:cancelled"] == 1


async def test_a_settlement_runs_to_its_end_whoever_leaves() -> None:
    kit, engine = desk()
    engine.hold = "settle"
    task = asyncio.create_task(ask(kit.wrap(whole(BODY)), key=kit.key))
    await until(lambda: engine.begun == ["reserve", "settle"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    engine.free.set()
    await until(lambda: kit.used() == {"running": 0})
    assert engine.done == ["reserve", "settle"]


async def test_closing_waits_for_the_last_settlement_and_closes_both_colours() -> None:
    """As servers close: from a thread, while the loop goes on."""
    kit, engine = desk()
    engine.hold = "settle"
    task = asyncio.create_task(ask(kit.wrap(whole(BODY)), key=kit.key))
    await until(lambda: engine.begun == ["reserve", "settle"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    closing = asyncio.create_task(asyncio.to_thread(kit.guard.close_stores))
    await until(lambda: kit.guard._loop is None)
    assert not engine.closed
    engine.free.set()
    await closing
    assert engine.done == ["reserve", "settle"]
    assert engine.closed
    with pytest.raises(StoreError, match="closed"):
        engine.blocking.states([])


@pytest.mark.parametrize("asked", [True, False])
def test_stores_close_without_a_loop_too(asked: bool) -> None:
    """Of a loop that has ended, or that there never was, as of a guard that a command opens."""
    kit, engine = asyncio.run(_asked(asked))
    kit.guard.close_stores()
    assert engine.closed


async def _asked(asked: bool) -> tuple[Kit, Slow]:
    kit, engine = desk()
    if asked:
        await ask(kit.wrap(whole(BODY)), key=kit.key)
    return kit, engine


async def test_a_guard_that_does_not_await_takes_the_engine_for_threads() -> None:
    kit, engine = desk()
    guard = Guard(kit.guard.settings, **kit.parts)
    assert guard._limits is engine.blocking


class AwaitedReplays:
    async def use(self, use: bytes, *, made_after: object, keep: timedelta) -> Use:
        raise NotImplementedError

    async def close(self) -> None: ...


def test_a_guard_that_does_not_await_takes_no_replay_cache_that_does() -> None:
    """What it gives is no answer, and would pass for one."""
    kit = Kit()
    settings: dict[str, Any] = {**kit.guard.settings.model_dump(exclude={"dpop"}), "dpop": {}}
    with pytest.raises(ConfigurationError, match="does not await"):
        Guard(GuardSettings(**settings), **{**kit.parts, "replays": AwaitedReplays()})
