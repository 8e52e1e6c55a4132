"""`ValkeyLimits` whose calls await."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from tos_guard.errors import LimitsForgottenError, StoreError
from tos_guard.limits import Amounts, Charge, LimitRefusal, LimitState, Reservation
from tos_guard.protocols import LimitEngine
from tos_guard.stores._limits_valkey import DEADLINE, SLOT_LEASE, ValkeyLimits, ignore
from tos_guard.stores._limits_valkey_domain import Ask, Domain, Epoch, Note, Steps
from tos_guard.stores._valkey import AsyncConnections, Connections, parse_address

__all__ = ["AsyncValkeyLimits"]

T = TypeVar("T")


class AsyncValkeyLimits:
    """An `AsyncLimitEngine` for the processes of a fleet.

    All calls of an event loop share one connection, in which they follow one another without waiting. *note_domain* is called in a thread.

    Args:
        url: As of `ValkeyLimits`, like all the others.
        domain: See there.
        note_domain: See there.
        deadline: See there.
        slot_lease: See there.
        told: See there.
        unsafe_time: See there.

    Raises:
        ConfigurationError: The URL or the name of the domain cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        domain: str,
        note_domain: Callable[[str], bool],
        deadline: timedelta = DEADLINE,
        slot_lease: timedelta = SLOT_LEASE,
        told: Callable[[Epoch], None] = ignore,
        unsafe_time: Callable[[], int] | None = None,
    ) -> None:
        address = parse_address(url)
        self._domain = Domain(domain, where=str(address), slot_lease=slot_lease, told=told, unsafe_time=unsafe_time)
        seconds = deadline.total_seconds()
        self._connections = AsyncConnections(address, deadline=seconds)
        self._note_domain = note_domain
        self._deadline = seconds
        connections = Connections(address, deadline=seconds)
        self._blocking = ValkeyLimits._beside(self._domain, connections, note_domain, deadline)

    @property
    def blocking(self) -> LimitEngine:
        """The same engine for threads."""
        return self._blocking

    @property
    def epoch(self) -> Epoch | None:
        """The epoch that this process knows; None before the first call, and after it was found to be over."""
        return self._domain.epoch

    async def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        """Take all charges, or none; see `LimitEngine.reserve`.

        Raises:
            LimitsForgottenError: The engine has lost what one of the limits had counted.
            StoreError: The engine failed, or is closed.
            ValueError: An open reservation has this id; or slots are taken for longer than `slot_lease`.
        """
        return await self._run(self._domain.reserve(charges, id, lease))

    async def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """Replace the estimate by what was used; see `LimitEngine.settle`.

        Raises:
            StoreError: The engine failed, or is closed.
        """
        await self._run(self._domain.settle(reservation, actual))

    async def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """Let the reservation hold for *lease* from now; see `ValkeyLimits.renew`.

        Raises:
            StoreError: The engine failed, or is closed.
            ValueError: It has slots, and *lease* is longer than `slot_lease`.
        """
        await self._run(self._domain.renew((reservation,), lease))

    async def cancel(self, reservation: Reservation) -> None:
        """Give everything back; see `LimitEngine.cancel`.

        Raises:
            StoreError: The engine failed, or is closed.
        """
        await self._run(self._domain.cancel(reservation))

    async def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """How far the limits are used; see `LimitEngine.states`.

        Raises:
            LimitsForgottenError: The engine has lost what one of the limits had counted.
            StoreError: The engine failed, or is closed.
        """
        return await self._run(self._domain.states(charges))

    async def close(self) -> None:
        """Let go of the connections, of `blocking` too. Further use raises `StoreError`."""
        await self._connections.close()
        self._blocking.close()

    async def _run(self, steps: Steps[T]) -> T:
        answer: Any = None
        ends = time.monotonic() + self._deadline
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Ask):
                    answer = await self._connections.ask(step.commands, ends)
                    continue
                answer = None
                if isinstance(step, Note):
                    answer = await asyncio.to_thread(self._note_domain, self._domain.name)
                else:
                    await asyncio.sleep(step.seconds)
                ends = time.monotonic() + self._deadline
        except StopIteration as done:
            result: T = done.value
            return result
        except LimitsForgottenError:
            raise
        except StoreError:
            await self._connections.discard()
            self._domain.look_again()
            raise
