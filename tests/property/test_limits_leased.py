"""Processes that spend blocks of limits alone, over one engine: no window ever holds more than the limit (docs/adr/0009-a-fleet.md).

The model remembers when each request was admitted, and how much of it counts. At each admission it is asked for all windows that end
then, which are those that can have become too full. What was used beyond an estimate is no admission, and is left out. The processes'
clocks begin anywhere, and run up to a ninth slower than the engine's or faster; processes are killed at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tos_guard.limits import Amounts, Calendar, Charge, Limit, LimitRefusal, Quantity, Reservation, Sliding
from tos_guard.stores import LeasedLimits, MemoryLimits, _limits_blocks

AMOUNT = 400
WINDOW = 60.0
SLOT = 5.0
LEASE = 90.0
TOKENS = Limit(id="tokens", quantity=Quantity.TOKENS, amount=AMOUNT, per=(), window=Sliding(int(WINDOW)))
INPUT = Limit(id="input", quantity=Quantity.INPUT_TOKENS, amount=AMOUNT, per=(), window=Calendar("minute"))
REQUESTS = Limit(id="requests", quantity=Quantity.REQUESTS, amount=120, per=(), window=Sliding(12))
RUNNING = Limit(id="running", quantity=Quantity.CONCURRENCY, amount=60, per=(), window=None)
SHAPES = [(TOKENS,), (TOKENS, INPUT, REQUESTS, RUNNING), (REQUESTS, RUNNING)]
WINDOWS = {TOKENS.id: WINDOW, REQUESTS.id: 12.0}


@dataclass
class Admitted:
    """One request as the model remembers it."""

    reservation: Reservation
    at: float
    calendar: int
    ends: float
    counts: dict[str, int]
    is_open: bool = True


@dataclass
class Process:
    """One process, and its clock."""

    limits: LeasedLimits
    open: list[Admitted] = field(default_factory=list)


class Fleet(RuleBasedStateMachine):
    """What processes do to limits that they share, and what the model says of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1_000.0
        self.admitted: list[Admitted] = []
        self.numbers = count()
        self.engine = MemoryLimits(clock=self.wall, monotonic=lambda: self.seconds)
        self.processes = [self.start(0.0, 1.0), self.start(50_000.0, 8 / 9), self.start(7.0, 1.2)]

    def wall(self) -> datetime:
        return datetime(2026, 11, 22, 12, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def start(self, offset: float, rate: float) -> Process:
        limits = LeasedLimits(self.engine, share=0.25, monotonic=lambda: offset + rate * self.seconds, every=None)
        return Process(limits)

    def counted(self, limit: Limit) -> int:
        """What counts of a limit now."""
        if limit.window is None:
            return sum(one.is_open and one.ends > self.seconds for one in self.admitted if limit.id in one.counts)
        if isinstance(limit.window, Calendar):
            return sum(one.counts.get(limit.id, 0) for one in self.admitted if one.calendar == int(self.seconds // 60))
        return sum(one.counts.get(limit.id, 0) for one in self.admitted if one.at > self.seconds - WINDOWS[limit.id])

    @rule(
        which=st.integers(0, 2),
        shape=st.sampled_from(SHAPES),
        tokens=st.integers(0, 12),
        more=st.sampled_from([0, 0, 0, 100]),
        times=st.integers(1, 12),
    )
    def reserve(self, which: int, shape: tuple[Limit, ...], tokens: int, more: int, times: int) -> None:
        process = self.processes[which]
        wanted = Amounts(input_tokens=tokens, output_tokens=more)
        charges = [Charge(limit, (), wanted.of(limit.quantity)) for limit in shape]
        for _ in range(times):
            answer = process.limits.reserve(charges, id=str(next(self.numbers)), lease=timedelta(seconds=LEASE))
            if isinstance(answer, LimitRefusal):
                event("refused")
                self.check_refusal(process, answer)
                return
            event("admitted")
            for limit in shape:
                amount = wanted.of(limit.quantity)
                assert not amount or self.counted(limit) + amount <= limit.amount, f"{limit.id} is exceeded"
            counts = {limit.id: wanted.of(limit.quantity) for limit in shape}
            # Slots are counted until the lease ends by whichever clock is first; a request that was not renewed is lost by then.
            one = Admitted(answer, self.seconds, int(self.seconds // 60), self.seconds + LEASE * 8 / 10, counts)
            self.admitted.append(one)
            process.open.append(one)

    def check_refusal(self, process: Process, refusal: LimitRefusal) -> None:
        """What is left, with what its own blocks hold, is too little for one of the charges."""
        charges = [Charge(state.limit, state.scope, 0) for state in refusal.states]
        left = process.limits.states(charges)
        assert any(state.remaining < refusal.wanted for state in left)

    @precondition(lambda self: any(process.open for process in self.processes))
    @rule(data=st.data(), part=st.sampled_from([0.0, 0.2, 1.0, 3.0, None]), many=st.booleans())
    def settle(self, data: Any, part: float | None, many: bool) -> None:
        process = data.draw(st.sampled_from([each for each in self.processes if each.open]))
        ending = list(process.open) if many else [data.draw(st.sampled_from(process.open))]
        for one in ending:
            process.open.remove(one)
            tokens = one.counts.get(TOKENS.id, 0)
            read = min(one.counts.get(INPUT.id, tokens), int(tokens * (part or 0)))
            written = int(tokens * (part or 0)) - read
            process.limits.settle(one.reservation, None if part is None else Amounts(input_tokens=read, output_tokens=written))
            if part is not None and one.ends > self.seconds:
                used = {TOKENS.id: read + written, INPUT.id: read}
                one.counts = {name: min(amount, used.get(name, amount)) for name, amount in one.counts.items()}
            one.is_open = False

    @precondition(lambda self: any(process.open for process in self.processes))
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        process = data.draw(st.sampled_from([each for each in self.processes if each.open]))
        process.limits.renew_all([one.reservation for one in process.open], lease=timedelta(seconds=LEASE))
        for one in process.open:
            if one.ends > self.seconds:
                one.ends = self.seconds + LEASE * 8 / 10

    @rule(which=st.integers(0, 2))
    def give_back(self, which: int) -> None:
        self.processes[which].limits.give_back()

    @rule(which=st.integers(0, 2), rate=st.sampled_from([8 / 9, 1.0, 1.2]), offset=st.floats(0, 1e6))
    def kill(self, which: int, rate: float, offset: float) -> None:
        for one in self.processes[which].open:
            one.is_open = False
        self.processes[which] = self.start(offset, rate)

    @rule(seconds=st.one_of(st.floats(0.001, 0.5), st.floats(0.5, 6), st.sampled_from([SLOT, WINDOW, WINDOW + SLOT])))
    def time_passes(self, seconds: float) -> None:
        self.seconds += seconds

    @invariant()
    def the_engine_never_admits_more(self) -> None:
        states = self.engine.states([Charge(REQUESTS, (), 0)])
        assert states[0].used <= REQUESTS.amount


class Pressed(Fleet):
    """The same with blocks that may be all that is left, which are held by one process while others want them."""

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_limits_blocks, "_PARTS", 1)
        super().__init__()

    def teardown(self) -> None:
        self.patch.undo()


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=50, stateful_step_count=50)
TestPressed = Pressed.TestCase
TestPressed.settings = settings(max_examples=50, stateful_step_count=50)
