"""Limits that the processes of a fleet share, in Valkey or Redis (``_limits_valkey.lua``, docs/adr/0009-a-fleet.md).

- One call is one script, carried out whole or not at all, in one round trip under a deadline.
- A call whose answer was lost may have been carried out, and is not made again: what was reserved counts, and its slots end with the lease.
- Time is the engine's. Within a domain it never goes back; set ahead, it ends windows early, so its clock is to be slewed and not set.
- Engines that lost their memory are noticed; see `tos_guard.stores._limits_valkey_domain`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from tos_guard.errors import LimitsForgottenError, StoreError
from tos_guard.limits import Amounts, Charge, LimitRefusal, LimitState, Reservation
from tos_guard.stores._limits_valkey_domain import Ask, Domain, Epoch, Note, Steps
from tos_guard.stores._valkey import Connections, parse_address

__all__ = ["DEADLINE", "SLOT_LEASE", "ValkeyLimits"]

T = TypeVar("T")

DEADLINE: Final = timedelta(milliseconds=250)
"""For a call, connecting included. On the network of a site an answer takes one."""

SLOT_LEASE: Final = timedelta(seconds=60)
"""Longest lease of a reservation with slots of concurrency: as long as they are in doubt when the engine has lost its memory."""


def ignore(_: Epoch) -> None:
    """Nobody wants to know."""


class ValkeyLimits:
    """A `LimitEngine` for the processes of a fleet.

    Nothing is opened before the first call. A process may be forked at any time.

    Args:
        url: Where the engine is: ``redis://user:password@host:port/database``; ``rediss`` for TLS (`parse_address`).
        domain: What is counted of one request is in one domain, and so on one node of a cluster.
        note_domain: Asked once, with the first call: notes that the domain lives, and says whether it never has before
            (`Store.note_limits_domain`).
        deadline: For each call. A process's first may wait a second longer for another that begins the domain.
        slot_lease: Longest lease of a reservation with slots of concurrency. All processes give the same.
        told: Called with each epoch that this process comes to. It must not raise, and may be called by any thread.
        unsafe_time: The engine's time in milliseconds, for tests alone: whoever hands one in decides when windows end.

    Raises:
        ConfigurationError: The URL or the name of the domain cannot be used.
    """

    blocks: bool = True
    """Each call waits for the network."""

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
        known = Domain(domain, where=str(address), slot_lease=slot_lease, told=told, unsafe_time=unsafe_time)
        self._begin(known, Connections(address, deadline=deadline.total_seconds()), note_domain, deadline)

    @classmethod
    def _beside(cls, domain: Domain, connections: Connections, note_domain: Callable[[str], bool], deadline: timedelta) -> ValkeyLimits:
        """One that shares what is known of the domain with another."""
        limits = cls.__new__(cls)
        limits._begin(domain, connections, note_domain, deadline)
        return limits

    def _begin(self, domain: Domain, connections: Connections, note_domain: Callable[[str], bool], deadline: timedelta) -> None:
        self._domain = domain
        self._connections = connections
        self._note_domain = note_domain
        self._deadline = deadline.total_seconds()

    @property
    def epoch(self) -> Epoch | None:
        """The epoch that this process knows; None before the first call, and after it was found to be over."""
        return self._domain.epoch

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        """Take all charges, or none; see `LimitEngine.reserve`.

        Raises:
            LimitsForgottenError: The engine has lost what one of the limits had counted.
            StoreError: The engine failed, or is closed.
            ValueError: An open reservation has this id; or slots are taken for longer than `slot_lease`.
        """
        return self._run(self._domain.reserve(charges, id, lease))

    def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """Replace the estimate by what was used; see `LimitEngine.settle`.

        Raises:
            StoreError: The engine failed, or is closed.
        """
        self._run(self._domain.settle(reservation, actual))

    def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """Let the reservation hold for *lease* from now; see `LimitEngine.renew`.

        One that the engine has forgotten with the rest holds its slots again.

        Raises:
            StoreError: The engine failed, or is closed.
            ValueError: It has slots, and *lease* is longer than `slot_lease`.
        """
        self.renew_all((reservation,), lease=lease)

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        """`renew` for many, in one call for each hundred; see `LimitEngine.renew_all`.

        Raises:
            StoreError: The engine failed, or is closed. Some of them may have been renewed.
            ValueError: As of `renew`.
        """
        self._run(self._domain.renew(reservations, lease))

    def cancel(self, reservation: Reservation) -> None:
        """Give everything back; see `LimitEngine.cancel`.

        Raises:
            StoreError: The engine failed, or is closed.
        """
        self._run(self._domain.cancel(reservation))

    def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """How far the limits are used; see `LimitEngine.states`.

        Raises:
            LimitsForgottenError: The engine has lost what one of the limits had counted.
            StoreError: The engine failed, or is closed.
        """
        return self._run(self._domain.states(charges))

    def close(self) -> None:
        """Let go of the connections. Further use raises `StoreError`."""
        self._connections.close()

    def _run(self, steps: Steps[T]) -> T:
        answer: Any = None
        ends = time.monotonic() + self._deadline
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Ask):
                    answer = self._connections.ask(step.commands, ends)
                    continue
                answer = None
                if isinstance(step, Note):
                    answer = self._note_domain(self._domain.name)
                else:
                    time.sleep(step.seconds)
                ends = time.monotonic() + self._deadline
        except StopIteration as done:
            result: T = done.value
            return result
        except LimitsForgottenError:
            raise
        except StoreError:
            self._connections.discard()
            self._domain.look_again()
            raise
