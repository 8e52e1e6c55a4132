"""Engines against a model that remembers every charge (DESIGN D4, section 10).

The model keeps each charge with its time, and is asked for sums. An engine may be up to one slot of a sliding window later than the model
to give something back, and never earlier: admitted means that the model finds room in the window, refused means that it finds none in
one that is a slot longer. The wall clock is set about while this goes on.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tos_guard.limits import Amounts, Charge, Limit, LimitRefusal, Quantity, Reservation, Sliding
from tos_guard.limits._counters import SLOTS
from tos_guard.protocols import LimitEngine
from tos_guard.stores import MemoryLimits, SQLiteLimits

AMOUNT = 100
WINDOW = 60.0
SLOT = WINDOW / SLOTS
RESOLUTION = 0.001
"""Engines may let their time stand still for so long."""
LEASE = 90.0
MINUTE = Limit(id="minute", quantity=Quantity.TOKENS, amount=AMOUNT, per=(), window=Sliding(int(WINDOW)))
LONG = Limit(id="long", quantity=Quantity.INPUT_TOKENS, amount=3 * AMOUNT, per=(), window=Sliding(int(10 * WINDOW)))
SLOTS_LIMIT = Limit(id="slots", quantity=Quantity.CONCURRENCY, amount=4, per=(), window=None)
SHADOW = Limit(id="shadow", quantity=Quantity.OUTPUT_TOKENS, amount=1, per=(), window=Sliding(7), shadow=True)
SCOPES = [("a",), ("b",)]


@dataclass
class Kept:
    """One request as the model remembers it."""

    reservation: Reservation
    scope: tuple[str, ...]
    at: float
    ends: float
    amounts: list[tuple[float, int]] = field(default_factory=list)
    """What counts, and since when."""
    is_open: bool = True


class Limits(RuleBasedStateMachine):
    """What any process does to an engine, and what the model says of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1_000.0
        self.wall = datetime(2026, 11, 22, 12, tzinfo=UTC)
        self.kept: list[Kept] = []
        self.numbers = count()
        self.engines = self.open()

    def open(self) -> list[LimitEngine]:
        return [MemoryLimits(clock=lambda: self.wall, monotonic=lambda: self.seconds)]

    def teardown(self) -> None:
        for engine in self.engines:
            engine.close()

    def counted(self, scope: tuple[str, ...], window: float) -> int:
        """What the model counts in a window that ends now."""
        return sum(amount for kept in self.kept if kept.scope == scope for at, amount in kept.amounts if at > self.seconds - window)

    def running(self, scope: tuple[str, ...], *, late: float = 0.0) -> int:
        return sum(kept.is_open and kept.ends + late > self.seconds for kept in self.kept if kept.scope == scope)

    @rule(scope=st.sampled_from(SCOPES), amount=st.integers(0, AMOUNT + 20), engine=st.integers(0, 1))
    def reserve(self, scope: tuple[str, ...], amount: int, engine: int) -> None:
        charges = [Charge(limit, scope, 1 if limit is SLOTS_LIMIT else amount) for limit in (MINUTE, LONG, SLOTS_LIMIT, SHADOW)]
        answer = self.engines[engine % len(self.engines)].reserve(charges, id=str(next(self.numbers)), lease=timedelta(seconds=LEASE))
        exact = {MINUTE.id: self.counted(scope, WINDOW), LONG.id: self.counted(scope, 10 * WINDOW), SLOTS_LIMIT.id: self.running(scope)}
        latest = {
            MINUTE.id: self.counted(scope, WINDOW + SLOT + RESOLUTION),
            LONG.id: self.counted(scope, 10 * (WINDOW + SLOT) + RESOLUTION),
            SLOTS_LIMIT.id: self.running(scope, late=1 + RESOLUTION),
        }
        if isinstance(answer, Reservation):
            for state, charge in zip(answer.states[:3], charges, strict=False):
                assert exact[state.limit.id] + charge.amount <= state.used <= latest[state.limit.id] + charge.amount
                assert not charge.amount or exact[state.limit.id] + charge.amount <= state.limit.amount, "the limit is exceeded"
                assert state.remaining == max(0, state.limit.amount - state.used)
            self.kept.append(Kept(answer, scope, self.seconds, self.seconds + LEASE, [(self.seconds, amount)]))
        else:
            assert answer.wanted
            assert latest[answer.state.limit.id] + answer.wanted > answer.state.limit.amount, "refused although there was room"
            assert (answer.retry_after is None) == (answer.wanted > answer.state.limit.amount)
            self.comes_back(answer, charges)

    def comes_back(self, refusal: LimitRefusal, charges: list[Charge]) -> None:
        """Some time, `retry_after` later, the same request fits, if nobody else asks and nothing runs."""
        if refusal.retry_after is None or refusal.state.limit is SLOTS_LIMIT:
            return
        before, self.seconds = self.seconds, self.seconds + max(refusal.retry_after, LEASE + 1) + RESOLUTION
        answer = self.engines[0].reserve(charges, id=str(next(self.numbers)), lease=timedelta(seconds=LEASE))
        assert isinstance(answer, Reservation), f"refused again {self.seconds - before} s later"
        self.engines[0].cancel(answer)

    def is_settled(self, kept: Kept) -> bool:
        """Whether the engine still knows it; near its end that may be either."""
        assume(abs(kept.ends - self.seconds) > 1 + RESOLUTION)
        return not kept.is_open or kept.ends < self.seconds

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), used=st.none() | st.integers(0, 2 * AMOUNT), engine=st.integers(0, 1))
    def settle(self, data: Any, used: int | None, engine: int) -> None:
        kept = data.draw(st.sampled_from(self.kept))
        settled = self.is_settled(kept)
        actual = None if used is None else Amounts(input_tokens=used)
        self.engines[engine % len(self.engines)].settle(kept.reservation, actual)
        if not settled:
            kept.is_open = False
            reserved = kept.amounts[0][1]
            if used is not None and used < reserved:
                kept.amounts = [(kept.at, used)]
            elif used is not None:
                kept.amounts.append((self.seconds, used - reserved))

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        kept = data.draw(st.sampled_from(self.kept))
        if not self.is_settled(kept):
            kept.is_open, kept.amounts = False, []
        self.engines[0].cancel(kept.reservation)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        kept = data.draw(st.sampled_from(self.kept))
        if not self.is_settled(kept):
            kept.ends = self.seconds + LEASE
        self.engines[-1].renew(kept.reservation, lease=timedelta(seconds=LEASE))

    @rule(seconds=st.one_of(st.floats(0.001, 6), st.floats(1, 70), st.sampled_from([SLOT, WINDOW, 400.0, 1_000.0, 100_000.0])))
    def time_passes(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += timedelta(seconds=seconds)

    @rule(hours=st.sampled_from([-48, -1, 1, 48]))
    def somebody_sets_the_clock(self, hours: int) -> None:
        self.wall += timedelta(hours=hours)

    @invariant()
    def looking_says_the_same_everywhere(self) -> None:
        for scope in SCOPES:
            states = [engine.states([Charge(MINUTE, scope, 0), Charge(SLOTS_LIMIT, scope, 0)]) for engine in self.engines]
            assert all(state == states[0] for state in states)
            tokens, slots = states[0]
            assert self.counted(scope, WINDOW) <= tokens.used <= self.counted(scope, WINDOW + SLOT + RESOLUTION)
            assert self.running(scope) <= slots.used <= self.running(scope, late=1 + RESOLUTION)


class SharedLimits(Limits):
    """The same over a file, from two processes' point of view, which restart."""

    def open(self) -> list[LimitEngine]:
        if not hasattr(self, "folder"):
            self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "limits.db"
        return [SQLiteLimits(path, clock=lambda: self.wall, monotonic=lambda: self.seconds, boot="boot") for _ in range(2)]

    @rule()
    def everything_restarts(self) -> None:
        super().teardown()
        self.engines = self.open()

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestMemoryLimits = Limits.TestCase
TestMemoryLimits.settings = settings(max_examples=100, stateful_step_count=60)
TestSQLiteLimits = SharedLimits.TestCase
TestSQLiteLimits.settings = settings(max_examples=10, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
