"""The script of the limits in Valkey against the rules in Python: whatever is asked, in whatever order, they answer the same.

Both go by one clock, which stands at whole seconds: `MemoryLimits` ends leases with the second after their end, and is given one less.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tos_guard.limits import Amounts, Calendar, Charge, Limit, Quantity, Reservation, Sliding, account_limits
from tos_guard.limits._model import Dimension
from tos_guard.stores import MemoryLimits, ValkeyLimits

START = 1_795_350_600  # 2026-11-22T12:30Z
PER = (Dimension.ACCOUNT,)


def limit(name: str, quantity: Quantity, amount: int, window: Any, **changes: Any) -> Limit:
    return Limit(id=name, quantity=quantity, amount=amount, per=PER, window=window, **changes)


LIMITS = (
    limit("minute", Quantity.TOKENS, 100, Sliding(60)),
    limit("tighter", Quantity.TOKENS, 60, Sliding(60), shadow=True),
    limit("burst", Quantity.INPUT_TOKENS, 90, Sliding(12), burst=40),
    limit("large-burst", Quantity.INPUT_TOKENS, 70, Sliding(12), burst=200, shadow=True),
    limit("hour", Quantity.COST, 300, Sliding(3_600)),
    limit("calendar", Quantity.COST, 150, Calendar("minute", "Asia/Kathmandu")),
    limit("day", Quantity.OUTPUT_TOKENS, 400, Calendar("day", "America/New_York")),
    limit("running", Quantity.CONCURRENCY, 3, None),
    limit("running-tighter", Quantity.CONCURRENCY, 1, None, shadow=True),
    limit("nothing", Quantity.REASONING_TOKENS, 0, Sliding(60)),
    limit("hostile", Quantity.OUTPUT_TOKENS, 1, Sliding(24), shadow=True),
)

amounts = st.builds(
    Amounts,
    requests=st.just(1),
    input_tokens=st.integers(0, 60),
    output_tokens=st.integers(0, 60),
    reasoning_tokens=st.sampled_from([0] * 9 + [1]),
    cost=st.integers(0, 200),
)
reserve = st.tuples(st.just("reserve"), amounts, st.sets(st.integers(0, len(LIMITS) - 1), min_size=1), st.sampled_from([5, 40, 90]))
which = st.integers(0, 2) | st.integers(0, 30)  # among the newest, most of the time
settle = st.tuples(st.just("settle"), which, st.none() | amounts)
end = st.tuples(st.sampled_from(["cancel", "renew", "states"]), which)
move = st.tuples(st.just("move"), st.one_of(st.integers(1, 9), st.integers(1, 90), st.sampled_from([60, 600, 4_000, 40_000, 100_000])))
raised = st.tuples(st.just("amounts"), st.sampled_from([0.5, 1, 2]))
steps = st.lists(st.one_of(reserve, reserve, reserve, settle, settle, end, move, move, raised), min_size=10, max_size=60)


class Both:
    """The two engines, asked the same."""

    def __init__(self, url: str) -> None:
        self.seconds = START
        self.memory = MemoryLimits(clock=lambda: datetime.fromtimestamp(self.seconds, UTC), monotonic=lambda: self.seconds)
        self.valkey = ValkeyLimits(
            url,
            domain=f"test-{secrets.token_hex(6)}",
            note_domain=lambda domain: True,
            deadline=timedelta(seconds=20),
            slot_lease=timedelta(seconds=90),
            unsafe_time=lambda: self.seconds * 1000,
        )
        self.made: list[Reservation] = []
        self.factor = 1.0
        self.numbers = 0

    def ask(self, name: str, *told: Any) -> None:
        getattr(self, name)(*told)

    def reserve(self, taken: Amounts, limits: set[int], lease: int) -> None:
        wanted = [LIMITS[number] for number in sorted(limits)]
        overrides = {each.id: int(each.amount * self.factor) for each in wanted}
        charges = account_limits(wanted, account="acme", overrides=overrides).charges(taken, model="m", action="generate")
        self.numbers += 1
        one = self.memory.reserve(charges, id=str(self.numbers), lease=timedelta(seconds=lease - 1))
        other = self.valkey.reserve(charges, id=str(self.numbers), lease=timedelta(seconds=lease))
        assert one == other
        if isinstance(one, Reservation):
            self.made.append(one)

    def settle(self, number: int, actual: Amounts | None) -> None:
        for reservation in self.newest(number):
            self.memory.settle(reservation, actual)
            self.valkey.settle(reservation, actual)

    def cancel(self, number: int) -> None:
        for reservation in self.newest(number):
            self.memory.cancel(reservation)
            self.valkey.cancel(reservation)

    def newest(self, number: int) -> list[Reservation]:
        """The newest reservation but so many."""
        return [self.made[-1 - number % len(self.made)]] if self.made else []

    def renew(self, number: int) -> None:
        self.memory.renew_all(self.made[-1 - number :], lease=timedelta(seconds=49))
        self.valkey.renew_all(self.made[-1 - number :], lease=timedelta(seconds=50))

    def states(self, _: int) -> None:
        charges = [Charge(each, ("acme",), 5) for each in LIMITS]
        assert self.memory.states(charges) == self.valkey.states(charges)

    def move(self, seconds: int) -> None:
        self.seconds += seconds

    def amounts(self, factor: float) -> None:
        self.factor = factor


@given(told=steps)
@settings(max_examples=100)
def test_the_script_answers_as_the_rules_do(valkey: str, told: list[tuple[Any, ...]]) -> None:
    """Reservations, refusals with their waits, settlements, renewals and looks, while time passes and amounts change."""
    both = Both(valkey)
    try:
        for name, *arguments in told:
            both.ask(name, *arguments)
        both.states(0)
    finally:
        both.valkey.close()
