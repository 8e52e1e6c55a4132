"""Engines that await, for callers that wait: a thread runs their loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tos_guard.limits import Amounts, Charge, LimitRefusal, LimitState, Reservation
from tos_guard.protocols import AsyncLimitEngine, AsyncReplayCache, Use

T = TypeVar("T")


class _Looped:
    """A loop that a thread runs."""

    blocks = True

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Close it, and end the loop."""
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(60)


class AwaitedReplays(_Looped):
    """A `ReplayCache` that gives each call to *cache*."""

    def __init__(self, cache: AsyncReplayCache) -> None:
        super().__init__()
        self.cache = cache

    def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        return self._run(self.cache.use(use, made_after=made_after, keep=keep))

    def close(self) -> None:
        self._run(self.cache.close())


class Awaited(_Looped):
    """A `LimitEngine` that gives each call to *engine*, in one event loop; renewals to its blocking side, as guards do."""

    def __init__(self, engine: AsyncLimitEngine) -> None:
        super().__init__()
        self.engine = engine

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        return self._run(self.engine.reserve(charges, id=id, lease=lease))

    def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        self._run(self.engine.settle(reservation, actual))

    def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        self._run(self.engine.renew(reservation, lease=lease))

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        self.engine.blocking.renew_all(reservations, lease=lease)

    def cancel(self, reservation: Reservation) -> None:
        self._run(self.engine.cancel(reservation))

    def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        return self._run(self.engine.states(charges))

    def close(self) -> None:
        self._run(self.engine.close())
