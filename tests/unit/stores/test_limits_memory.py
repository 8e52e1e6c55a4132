"""What limits in memory cost and keep."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from tos_guard.limits import Amounts, Calendar, Charge, Dimension, Limit, LimitRefusal, Quantity, Reservation, Sliding, account_limits
from tos_guard.stores import MemoryLimits

LEASE = timedelta(seconds=30)
LIMITS = (
    Limit(id="requests", quantity=Quantity.REQUESTS, amount=100, per=(Dimension.ACCOUNT,), window=Sliding(60)),
    Limit(id="tokens", quantity=Quantity.TOKENS, amount=1_000, per=(Dimension.ACCOUNT,), window=Sliding(60), burst=900),
    Limit(id="cost", quantity=Quantity.COST, amount=1_000, per=(Dimension.ACCOUNT,), window=Calendar("hour")),
    Limit(id="running", quantity=Quantity.CONCURRENCY, amount=1, per=(Dimension.ACCOUNT,), window=None),
)


class Clocks:
    def __init__(self) -> None:
        self.seconds = 0.0

    def wall(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def engine(self) -> MemoryLimits:
        return MemoryLimits(clock=self.wall, monotonic=lambda: self.seconds)


def charges(account: str) -> tuple[Charge, ...]:
    return account_limits(LIMITS, account=account).charges(Amounts(input_tokens=3, cost=2), model="m", action="generate")


def counters(engine: MemoryLimits) -> int:
    """How many counters the engine keeps, of all limits and bursts."""
    tables = [*engine._tables.values(), *engine._buckets.values()]
    assert all(len(table.row) == len(table.places) * table.counter.width for table in tables)
    return sum(len(table.places) for table in tables)


def test_counters_that_count_nothing_are_forgotten() -> None:
    """10,000 accounts come once each; an hour later, one account's requests have cleared all of them away."""
    clocks = Clocks()
    engine = clocks.engine()
    for number in range(10_000):
        engine.settle(engine.reserve(charges(f"account-{number}"), id=str(number), lease=LEASE), None)  # type: ignore[arg-type]
    assert counters(engine) > 25_000
    clocks.seconds += 3_700
    for number in range(60_000):
        clocks.seconds += 0.01
        answer = engine.reserve(charges("acme"), id=f"again-{number}", lease=LEASE)
        if isinstance(answer, Reservation):
            engine.settle(answer, None)
    assert counters(engine) <= 5
    assert engine._open == engine._leases == {}


def test_counters_come_no_faster_than_they_go() -> None:
    """New accounts for ever: what is kept is what was used within the windows, and not twice as much."""
    clocks = Clocks()
    engine = clocks.engine()
    most = 0
    for number in range(30_000):
        clocks.seconds += 1
        engine.settle(engine.reserve(charges(f"account-{number}"), id=str(number), lease=LEASE), None)  # type: ignore[arg-type]
        most = max(most, counters(engine)) if number % 100 == 0 else most
    # 65 s of requests and tokens, a burst and a slot for a moment, an hour of costs
    assert most <= 2 * (2 * 65 + 2 + 3_600)


def test_sweeping_forgets_nobody() -> None:
    """While thousands of counters are removed around it, one that is used stays as it was."""
    clocks = Clocks()
    engine = clocks.engine()
    engine.settle(engine.reserve(charges("acme"), id="acme", lease=LEASE), None)  # type: ignore[arg-type]
    for number in range(5_000):
        clocks.seconds += 0.01
        reservation = engine.reserve(charges(f"account-{number}"), id=str(number), lease=LEASE)
        assert isinstance(reservation, Reservation)
        engine.cancel(reservation)
    assert counters(engine) < 200
    assert [state.used for state in engine.states(charges("acme"))] == [1, 3, 2, 0]


def test_abandoned_reservations_are_forgotten() -> None:
    """What nobody settles is kept for as long as its lease and a second at most, also across long silence."""
    clocks = Clocks()
    engine = clocks.engine()
    for number in range(500):
        engine.reserve(charges(f"account-{number}"), id=str(number), lease=timedelta(seconds=number + 1))
    clocks.seconds += 251.5
    engine.states(())
    assert len(engine._open) == 250
    clocks.seconds += 86_400
    engine.states(())
    assert engine._open == engine._leases == {}


def test_a_child_holds_no_slots_of_its_parent() -> None:
    """After a fork the child counts on from what was used, with nothing running; the parent settles as if nothing had been."""
    engine = Clocks().engine()
    reservation = engine.reserve(charges("acme"), id="r", lease=LEASE)
    assert isinstance(reservation, Reservation)
    child = os.fork()
    if not child:
        answer = engine.reserve(charges("acme"), id="r", lease=LEASE)
        used = [state.used for state in engine.states(charges("acme"))]
        os._exit(0 if isinstance(answer, Reservation) and used == [2, 6, 4, 1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert isinstance(engine.reserve(charges("acme"), id="r2", lease=LEASE), LimitRefusal)
    engine.settle(reservation, None)
    assert [state.used for state in engine.states(charges("acme"))] == [1, 3, 2, 0]
