"""What happens when the engine of the limits fails (DESIGN D11): a named mode, and a report of each use.

- ``deny``: the request is refused, with the engine's `StoreError`.
- ``allow``: it goes on, and nothing is counted.
- ``local``: this process counts alone, at its share of each limit. It starts from nothing whenever the process does, so the shares of all
  processes together should be well below one for each limit that must hold.

After a failure the engine is left alone for a moment (`tos_guard.stores._breaker`), and all keep to the mode. An engine that has lost its
memory (`LimitsForgottenError`) works: the mode decides for the calls that it cannot answer, and the others go to it as ever.

A settlement that fails is reported and dropped: the response has been given, and the estimate stands.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Final, Literal, TypeVar

from cachetools import LRUCache

from tos_guard.errors import ConfigurationError, LimitsForgottenError, StoreError
from tos_guard.limits import Amounts, Charge, Limit, LimitRefusal, LimitState, Reservation
from tos_guard.protocols import AsyncLimitEngine, Clock, LimitEngine
from tos_guard.stores._breaker import Breaker
from tos_guard.stores._fork import watch_forks
from tos_guard.stores._limits_memory import MemoryLimits

__all__ = ["AsyncFallbackLimits", "FallbackLimits"]

T = TypeVar("T")

Operation = Literal["reserve", "settle", "renew", "cancel", "states"]
Mode = Literal["deny", "allow", "local"]

_MAX_SHARES: Final = 10_000
"""Limits whose share is kept: those of the settings, and the amounts of single accounts."""


class _Rules:
    """What both colours share: the mode, the breaker, and what this process counts alone."""

    def __init__(
        self,
        mode: Mode,
        on_use: Callable[[Operation, Mode, StoreError], None],
        clock: Clock,
        local_share: float,
        monotonic: Callable[[], float],
        on_change: Callable[[StoreError | None], None] | None,
    ) -> None:
        if not 0 < local_share <= 1:
            raise ConfigurationError(f"a local share of {local_share:g}", cure="It is above 0 and at most 1")
        self._mode: Mode = mode
        self._on_use = on_use
        self._share = local_share
        self.local = MemoryLimits(clock=clock, monotonic=monotonic)
        self._shares: LRUCache[Limit, Limit] = LRUCache(_MAX_SHARES)
        self._closed = False
        self.breaker = Breaker(monotonic=monotonic, on_change=on_change)
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()

    def check_open(self) -> None:
        if self._closed:
            raise StoreError("the limits are closed")

    def close(self) -> None:
        self._closed = True
        self.local.close()

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Around each call of the engine."""
        forgotten: LimitsForgottenError | None = None
        with self.breaker.trying():
            try:
                yield
            except LimitsForgottenError as error:
                forgotten = error
        if forgotten is not None:
            raise forgotten

    # In place of the engine.

    def reserved(self, error: StoreError, charges: Sequence[Charge], id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002
        self._on_use("reserve", self._mode, error)
        if self._mode == "allow":
            return Reservation(id, (), fallback="allow")
        if self._mode == "local":
            return self.local.reserve(self._shared(charges), id=id, lease=lease)._replace(fallback="local")
        raise error

    def states(self, error: StoreError, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        self._on_use("states", self._mode, error)
        if self._mode == "allow":
            return ()
        if self._mode == "local":
            return self.local.states(self._shared(charges))
        raise error

    def failed(self, operation: Operation, error: StoreError) -> None:
        """Something failed that nobody can do anything about."""
        self._on_use(operation, self._mode, error)

    def _shared(self, charges: Sequence[Charge]) -> list[Charge]:
        return [charge._replace(limit=self._share_of(charge.limit)) for charge in charges]

    def _share_of(self, limit: Limit) -> Limit:
        with self._lock:
            shared = self._shares.get(limit)
            if shared is None:
                burst = None if limit.burst is None else self._part(limit.burst)
                shared = self._shares[limit] = replace(limit, amount=self._part(limit.amount), burst=burst)
        return shared

    def _part(self, amount: int) -> int:
        # What nobody may have is not given out in shares of one.
        return max(1, int(amount * self._share)) if amount else 0

    def before_fork(self) -> None:
        """Hold still while the shares are copied."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Another thread may have held the lock."""
        self._reset()


class FallbackLimits:
    """A `LimitEngine` that knows what to do when another one fails.

    Args:
        engine: The other one.
        mode: What to do; see the module.
        on_use: Called with the operation, the mode and the error, each time that the mode decided in place of the engine. It must not
            raise, and may be called by any thread.
        clock: The time on the wall, for ``local``.
        local_share: What part of each limit this process allows alone, above 0 and up to 1. No limit falls below 1.
        monotonic: Seconds that never go back.
        on_change: Called with the failure when the engine is left alone from now on, and with None when it answers again. It must not
            raise, and may be called by any thread.

    Raises:
        ConfigurationError: The share is out of range.
    """

    def __init__(
        self,
        engine: LimitEngine,
        *,
        mode: Mode,
        on_use: Callable[[Operation, Mode, StoreError], None],
        clock: Clock,
        local_share: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
        on_change: Callable[[StoreError | None], None] | None = None,
    ) -> None:
        self._begin(engine, _Rules(mode, on_use, clock, local_share, monotonic, on_change))

    @classmethod
    def _beside(cls, engine: LimitEngine, rules: _Rules) -> FallbackLimits:
        """One that shares mode, breaker and counts with another."""
        limits = cls.__new__(cls)
        limits._begin(engine, rules)
        return limits

    def _begin(self, engine: LimitEngine, rules: _Rules) -> None:
        self._engine = engine
        self._rules = rules

    @property
    def blocks(self) -> bool:
        """Whether the engine blocks; see `LimitEngine.blocks`."""
        return self._engine.blocks

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        """Take all charges, or none; by the mode when the engine fails.

        Raises:
            StoreError: The engine failed, and the mode is ``deny``; or this is closed.
            ValueError: An open reservation has this id.
        """
        self._rules.check_open()
        try:
            with self._rules.trying():
                return self._engine.reserve(charges, id=id, lease=lease)
        except StoreError as error:
            return self._rules.reserved(error, charges, id, lease)

    def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """Replace the estimate by what was used, where it was reserved. A failure is reported, and the estimate stands.

        Raises:
            StoreError: This is closed.
        """
        self._finish("settle", reservation, lambda engine: engine.settle(reservation, actual))

    def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """Let the reservation hold for *lease* from now. A failure is reported, and the old lease stands.

        Raises:
            StoreError: This is closed.
        """
        self._finish("renew", reservation, lambda engine: engine.renew(reservation, lease=lease))

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        """`renew` for many. A failure is reported once, and the old leases stand.

        Raises:
            StoreError: This is closed.
        """
        self._rules.check_open()
        if local := [reservation for reservation in reservations if reservation.fallback == "local"]:
            self._rules.local.renew_all(local, lease=lease)
        if held := [reservation for reservation in reservations if not reservation.fallback]:
            try:
                with self._rules.trying():
                    self._engine.renew_all(held, lease=lease)
            except StoreError as error:
                self._rules.failed("renew", error)

    def cancel(self, reservation: Reservation) -> None:
        """Give everything back, where it was reserved. A failure is reported, and the estimate stands.

        Raises:
            StoreError: This is closed.
        """
        self._finish("cancel", reservation, lambda engine: engine.cancel(reservation))

    def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """How far the limits are used; by this process alone when the engine fails and the mode is ``local``, else nothing.

        Raises:
            StoreError: The engine failed, and the mode is ``deny``; or this is closed.
        """
        self._rules.check_open()
        try:
            with self._rules.trying():
                return self._engine.states(charges)
        except StoreError as error:
            return self._rules.states(error, charges)

    def close(self) -> None:
        """Close the engine. Further use raises `StoreError`."""
        self._rules.close()
        self._engine.close()

    def _finish(self, operation: Operation, reservation: Reservation, call: Callable[[LimitEngine], None]) -> None:
        self._rules.check_open()
        if reservation.fallback == "local":
            call(self._rules.local)
        elif not reservation.fallback:
            try:
                with self._rules.trying():
                    call(self._engine)
            except StoreError as error:
                self._rules.failed(operation, error)


class AsyncFallbackLimits:
    """`FallbackLimits` over an `AsyncLimitEngine`. Its `blocking` shares mode, breaker and what this process counts alone.

    Args:
        engine: The other one.
        mode: As of `FallbackLimits`, like all the others.
        on_use: See there.
        clock: See there.
        local_share: See there.
        monotonic: See there.
        on_change: See there.

    Raises:
        ConfigurationError: The share is out of range.
    """

    def __init__(
        self,
        engine: AsyncLimitEngine,
        *,
        mode: Mode,
        on_use: Callable[[Operation, Mode, StoreError], None],
        clock: Clock,
        local_share: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
        on_change: Callable[[StoreError | None], None] | None = None,
    ) -> None:
        self._engine = engine
        self._rules = _Rules(mode, on_use, clock, local_share, monotonic, on_change)
        self._blocking = FallbackLimits._beside(engine.blocking, self._rules)

    @property
    def blocking(self) -> LimitEngine:
        """The same for threads."""
        return self._blocking

    async def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        """As `FallbackLimits.reserve`."""
        self._rules.check_open()
        try:
            with self._rules.trying():
                return await self._engine.reserve(charges, id=id, lease=lease)
        except StoreError as error:
            return self._rules.reserved(error, charges, id, lease)

    async def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """As `FallbackLimits.settle`."""
        await self._finish(
            "settle",
            reservation,
            lambda engine: engine.settle(reservation, actual),
            lambda local: local.settle(reservation, actual),
        )

    async def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """As `FallbackLimits.renew`."""
        await self._finish(
            "renew",
            reservation,
            lambda engine: engine.renew(reservation, lease=lease),
            lambda local: local.renew(reservation, lease=lease),
        )

    async def cancel(self, reservation: Reservation) -> None:
        """As `FallbackLimits.cancel`."""
        await self._finish("cancel", reservation, lambda engine: engine.cancel(reservation), lambda local: local.cancel(reservation))

    async def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """As `FallbackLimits.states`."""
        self._rules.check_open()
        try:
            with self._rules.trying():
                return await self._engine.states(charges)
        except StoreError as error:
            return self._rules.states(error, charges)

    async def close(self) -> None:
        """Close the engine, in both colours. Further use raises `StoreError`."""
        self._rules.close()
        await self._engine.close()

    async def _finish(
        self,
        operation: Operation,
        reservation: Reservation,
        call: Callable[[AsyncLimitEngine], Awaitable[None]],
        alone: Callable[[MemoryLimits], None],
    ) -> None:
        self._rules.check_open()
        if reservation.fallback == "local":
            alone(self._rules.local)
        elif not reservation.fallback:
            try:
                with self._rules.trying():
                    await call(self._engine)
            except StoreError as error:
                self._rules.failed(operation, error)
