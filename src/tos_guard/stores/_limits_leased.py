"""Limits of which a process spends blocks alone, over an engine that processes share (`tos_guard.stores._limits_blocks` has the rules).

What has ended goes back from a thread: at once where others could use it, and else once a second while there is anything. Requests wait
for the engine only when there is no block for them. What others see as used includes what this process has reserved and not spent yet.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from tos_guard.errors import StoreError
from tos_guard.limits import Amounts, Charge, LimitRefusal, LimitState, Reservation
from tos_guard.protocols import AsyncLimitEngine, LimitEngine
from tos_guard.stores._limits_blocks import NOTHING, Blocks, Steps
from tos_guard.stores._limits_sqlite import host_seconds

__all__ = ["AsyncLeasedLimits", "LeasedLimits"]

T = TypeVar("T")

_EVERY: Final = timedelta(seconds=1)
"""For so much longer may an ended block be missing to others."""


def ignore(_: StoreError) -> None:
    """Nobody wants to know."""


def _renew(reservation: Reservation, lease: timedelta, engine: Any) -> Any:
    return engine.renew(reservation, lease=lease)


class LeasedLimits:
    """A `LimitEngine` that reserves blocks in another one and spends them alone.

    A reservation that was taken from a block is known to this process alone: another can neither settle nor renew it.

    Args:
        engine: The other one, which processes share. No `FallbackLimits`: that goes around this.
        share: Which part of a limit's amount a block takes at most, above 0 and up to 0.25.
        monotonic: Seconds that never go back, and count while the machine sleeps: windows of the engine end meanwhile.
        every: How often a thread gives back what has ended; None for whoever calls `give_back`.
        told: Called with each failure to give back. It must not raise, and is called by the thread.

    Raises:
        ConfigurationError: The share is out of range.
    """

    def __init__(
        self,
        engine: LimitEngine,
        *,
        share: float,
        monotonic: Callable[[], float] = host_seconds,
        every: timedelta | None = _EVERY,
        told: Callable[[StoreError], None] = ignore,
    ) -> None:
        self._begin(engine, Blocks(share, monotonic=monotonic), every, told)

    @classmethod
    def _beside(cls, engine: LimitEngine, blocks: Blocks, every: timedelta | None, told: Callable[[StoreError], None]) -> LeasedLimits:
        """One that shares its blocks with another."""
        limits = cls.__new__(cls)
        limits._begin(engine, blocks, every, told)
        return limits

    def _begin(self, engine: LimitEngine, blocks: Blocks, every: timedelta | None, told: Callable[[StoreError], None]) -> None:
        self._engine = engine
        self._blocks = blocks
        self._every = every
        self._told = told
        self._starting = threading.Lock()
        self._is_stopping = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    @property
    def blocks(self) -> bool:
        """Whether the engine blocks; see `LimitEngine.blocks`."""
        return self._engine.blocks

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        """Take all charges, or none; see `LimitEngine.reserve`.

        Raises:
            StoreError: The engine failed, or this is closed.
            ValueError: An open reservation of this process, or of the engine, has this id.
        """
        kept = tuple(charges)
        taken = self._blocks.take(kept, id, lease)
        if taken is not None:
            return taken
        answer = self._run(self._blocks.reserve(kept, id, lease))
        self._watch()
        return answer

    def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """Replace the estimate by what was used; see `LimitEngine.settle`.

        Raises:
            StoreError: The engine failed, or is closed.
        """
        self._run(self._blocks.settle(reservation, actual))

    def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """Let the reservation hold for *lease* from now; see `LimitEngine.renew`.

        Raises:
            StoreError: The engine failed, or is closed.
        """
        self.renew_all((reservation,), lease=lease)

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        """`renew` for many, and each of their blocks once; see `LimitEngine.renew_all`.

        Raises:
            StoreError: The engine failed, or is closed. Some of them may have been renewed.
        """
        self._ask(lambda engine: engine.renew_all(self._blocks.renewed(reservations, lease), lease=lease))

    def cancel(self, reservation: Reservation) -> None:
        """Give everything back; see `LimitEngine.cancel`.

        Raises:
            StoreError: The engine failed, or is closed.
        """
        self.settle(reservation, NOTHING)

    def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """How far the limits are used, by requests of this process, and by requests and blocks of others; see `LimitEngine.states`.

        Raises:
            StoreError: The engine failed, or is closed.
        """
        return self._run(self._blocks.states(charges))

    def give_back(self) -> None:
        """Give back what blocks that have ended did not spend, as the thread does.

        Raises:
            StoreError: The engine failed. What is left goes back next time, or stays used.
        """
        self._run(self._blocks.give_back())

    def close(self) -> None:
        """Give all blocks back, and close the engine. Further use raises `StoreError`."""
        self._stop()
        try:
            self._run(self._blocks.give_back(is_last=True))
        except StoreError as failure:
            self._told(failure)
        self._engine.close()

    def _run(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                try:
                    answer = self._ask(call)
                except StoreError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        try:
            return call(self._engine)
        except StoreError:
            self._blocks.end_all()
            raise

    # The thread.

    def _watch(self) -> None:
        """Have a thread that gives back, if there is anything; wake it, if it should not wait."""
        if self._every is None or self._blocks.is_idle:
            return
        if self._process != os.getpid():  # forked: the thread, and whoever held the lock, stayed there
            self._process, self._thread, self._starting, self._wake = os.getpid(), None, threading.Lock(), threading.Event()
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._give_back_often, name="tos-guard-blocks", daemon=True)
                self._thread.start()
        if self._blocks.is_holding:
            self._wake.set()

    def _give_back_often(self) -> None:
        assert self._every is not None  # noqa: S101 - else there is no thread
        seconds, due = self._every.total_seconds(), 0.0
        while True:
            self._wake.wait(max(0.0, due - time.monotonic()))
            self._wake.clear()
            if self._is_stopping:
                return
            is_due = time.monotonic() >= due
            try:
                self._run(self._blocks.give_back() if is_due else self._blocks.give_back_held())
            except StoreError as failure:
                self._told(failure)
            if is_due:
                due = time.monotonic() + seconds
            with self._starting:
                if self._blocks.is_idle:
                    self._thread = None
                    return

    def _stop(self) -> None:
        self._is_stopping = True
        self._wake.set()


class AsyncLeasedLimits:
    """`LeasedLimits` over an `AsyncLimitEngine`. Its `blocking` shares the blocks, and its thread gives back what has ended.

    Args:
        engine: The other one.
        share: As of `LeasedLimits`, like all the others.
        monotonic: See there.
        every: See there.
        told: See there.

    Raises:
        ConfigurationError: The share is out of range.
    """

    def __init__(
        self,
        engine: AsyncLimitEngine,
        *,
        share: float,
        monotonic: Callable[[], float] = host_seconds,
        every: timedelta | None = _EVERY,
        told: Callable[[StoreError], None] = ignore,
    ) -> None:
        self._engine = engine
        self._blocks = Blocks(share, monotonic=monotonic)
        self._told = told
        self._blocking = LeasedLimits._beside(engine.blocking, self._blocks, every, told)

    @property
    def blocking(self) -> LeasedLimits:
        """The same engine for threads."""
        return self._blocking

    async def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        """As `LeasedLimits.reserve`."""
        kept = tuple(charges)
        taken = self._blocks.take(kept, id, lease)
        if taken is not None:
            return taken
        answer = await self._run(self._blocks.reserve(kept, id, lease))
        self._blocking._watch()
        return answer

    async def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """As `LeasedLimits.settle`."""
        await self._run(self._blocks.settle(reservation, actual))

    async def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """As `LeasedLimits.renew`."""
        for found in self._blocks.renewed((reservation,), lease):
            await self._ask(partial(_renew, found, lease))

    async def cancel(self, reservation: Reservation) -> None:
        """As `LeasedLimits.cancel`."""
        await self.settle(reservation, NOTHING)

    async def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """As `LeasedLimits.states`."""
        return await self._run(self._blocks.states(charges))

    async def close(self) -> None:
        """Give all blocks back, and close the engine, in both colours. Further use raises `StoreError`."""
        self._blocking._stop()
        try:
            await self._run(self._blocks.give_back(is_last=True))
        except StoreError as failure:
            self._told(failure)
        await self._engine.close()

    async def _run(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                try:
                    answer = await self._ask(call)
                except StoreError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _ask(self, call: Callable[[Any], Any]) -> Any:
        try:
            return await call(self._engine)
        except StoreError:
            self._blocks.end_all()
            raise
