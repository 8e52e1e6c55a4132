"""A slot is held as long as its response runs, and comes back when the process dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tos_guard.errors import StoreError
from tos_guard.guard._leases import LEASE, Leases
from tos_guard.limits import Amounts, Charge, Dimension, Limit, Quantity, Reservation
from tos_guard.stores._limits_memory import MemoryLimits

SLOT = Limit(id="slots", quantity=Quantity.CONCURRENCY, amount=1, per=(Dimension.ACCOUNT,), window=None)
CHARGES = (Charge(SLOT, ("acme",), 1),)


class Engine(MemoryLimits):
    """Counts in memory, by a clock that is moved by hand; fails to renew on demand."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.failing = False
        self.renewed: list[str] = []
        super().__init__(clock=lambda: datetime(2026, 11, 25, tzinfo=UTC) + timedelta(seconds=self.seconds), monotonic=lambda: self.seconds)

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        if self.failing:
            raise StoreError("the disk is gone", where="limits")
        self.renewed += [reservation.id for reservation in reservations]
        super().renew_all(reservations, lease=lease)

    def take(self, name: str) -> Reservation | None:
        answer = self.reserve(CHARGES, id=name, lease=LEASE)
        return answer if isinstance(answer, Reservation) else None


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def leases(engine: Engine, failures: list[str]) -> Leases:
    return Leases(engine, lambda what, _: failures.append(what))


def test_a_long_response_keeps_its_slot(engine: Engine, leases: Leases) -> None:
    """Renewed in time, the slot is taken for as long as the response runs; let go, it is free."""
    held = engine.take("long")
    assert held is not None
    leases.hold(held)
    for _ in range(100):
        engine.seconds += LEASE.total_seconds() / 2
        leases.renew()
        assert engine.take("another") is None
    leases.let_go(held)
    engine.settle(held, Amounts())
    assert engine.take("another") is not None
    leases.close()


def test_the_slot_of_a_killed_process_comes_back(engine: Engine, leases: Leases) -> None:
    """Nobody renews it: after one lease it is free."""
    held = engine.take("killed")
    assert held is not None
    engine.seconds += LEASE.total_seconds() + 1
    assert engine.take("another") is not None


def test_a_failure_to_renew_is_reported_and_tried_again(engine: Engine, leases: Leases, failures: list[str]) -> None:
    """One failure loses no slot: there are several renewals in a lease."""
    held = engine.take("long")
    assert held is not None
    leases.hold(held)
    engine.failing = True
    leases.renew()
    assert failures == ["limits"]
    engine.failing = False
    engine.seconds += LEASE.total_seconds() / 2
    leases.renew()
    engine.seconds += LEASE.total_seconds() * 0.75
    assert engine.take("another") is None
    leases.close()


def in_a_child(holds: Callable[[], bool]) -> bool:
    """Whether something holds in a forked child, which is killed if it does not answer."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(0 if holds() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_a_forked_worker_does_not_keep_its_parents_slots(engine: Engine, leases: Leases) -> None:
    """The parent's reservations are the parent's to renew: when it dies they must end."""
    held = engine.take("of the parent")
    assert held is not None
    leases.hold(held)

    def holds_its_own() -> bool:
        leases.hold(Reservation("of the child", ()))
        engine.renewed.clear()
        leases.renew()
        return engine.renewed == ["of the child"]

    assert in_a_child(holds_its_own)
    leases.renew()
    assert engine.renewed == ["of the parent"]
    leases.close()


def test_a_fork_while_others_hold_and_let_go_blocks_no_child(leases: Leases) -> None:
    """A server may fork workers while it answers: their first requests wait for no thread that stayed behind."""
    ended = threading.Event()

    def work() -> None:
        mine = Reservation("of a thread", ())
        while not ended.is_set():
            leases.hold(mine)
            leases.let_go(mine)

    thread = threading.Thread(target=work)
    thread.start()

    def holds() -> bool:
        leases.hold(Reservation("of the child", ()))
        return True

    answers = [in_a_child(holds) for _ in range(20)]
    ended.set()
    thread.join()
    leases.close()
    assert all(answers)
