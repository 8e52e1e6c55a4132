"""Reserve and settle over counters that an engine has fetched: all charges or none (DESIGN D4).

The engine keeps others away meanwhile, and keeps what was changed. A limit with a burst has a bucket beside its counter. The bucket is
the limit's own; limits that count the same share a counter, and one of their charges counts.

What is handed about for each charge are plain tuples, unpacked at once: a request has several, and is to be decided in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from tos_guard.limits._counters import BUCKET, Counter, Row
from tos_guard.limits._model import Amounts, Limit, LimitRefusal, LimitState
from tos_guard.limits._time import Moment

__all__ = ["Admitted", "Place", "admit", "settle", "states_of"]

Place = tuple[Limit, tuple[str, ...], int, bool, Counter, Row, int, tuple[Row, int] | None]
"""The parts of a charge, and where it is counted: counter, row, position, and the bucket where the limit has a burst."""

Admitted = tuple[tuple[int, ...], tuple[LimitState, ...], tuple[LimitState, ...]]
"""When each charge was taken, as its counter says it; the limits afterwards; those in shadow that would have refused."""

_state: Final = partial(tuple.__new__, LimitState)
"""`LimitState` from a tuple of its members, in half the time."""


def admit(places: Sequence[Place], now: Moment) -> Admitted | LimitRefusal:
    """Take all charges, or none: everything is taken in one pass, and given back where a limit refuses."""
    marks: list[int] = []
    states: list[LimitState] = []
    lacking: list[int] = []
    has_bucket = False
    for limit, scope, amount, counts, counter, row, at, bucket in places:
        used, mark, reset = counter.take(row, at, amount if counts else 0, now)
        remaining = limit.amount - used
        if bucket is not None:
            has_bucket = True
            remaining = min(remaining, BUCKET.room(*bucket, limit, now) - amount)
        if remaining < 0:
            # Who wants nothing of a quantity is not refused for it, even after an overage.
            if amount:
                lacking.append(len(marks))
            remaining = 0
        marks.append(mark)
        states.append(_state((limit, scope, used, remaining, reset)))
    if lacking:
        refusing = [number for number in lacking if not places[number][0].shadow]
        if refusing:
            for (_, _, amount, counts, counter, row, at, _), mark in zip(places, marks, strict=True):
                if counts:
                    counter.give_back(row, at, mark, amount)
            return _refusal(places, lacking, refusing, now)
    if has_bucket:
        for limit, _, amount, _, _, _, _, bucket in places:
            if bucket is not None:
                BUCKET.take(*bucket, limit, amount, now)
    return tuple(marks), tuple(states), tuple([states[number] for number in lacking]) if lacking else ()


def _refusal(places: Sequence[Place], lacking: Sequence[int], refusing: Sequence[int], now: Moment) -> LimitRefusal:
    states = states_of(places, now)
    # Of several, the one that takes longest; None stands for ever.
    wait, longest = max(((_wait(places[number], now), number) for number in refusing), key=lambda each: (each[0] is None, each[0] or 0.0))
    shadowed = tuple(states[number] for number in lacking if number not in refusing)
    return LimitRefusal(states[longest], places[longest][2], wait, states, shadowed)


def states_of(places: Sequence[Place], now: Moment) -> tuple[LimitState, ...]:
    """How far the limits of the charges are used."""
    states = []
    for limit, scope, _, _, counter, row, at, bucket in places:
        used = counter.used(row, at, now)
        remaining = max(0, limit.amount - used)
        if bucket is not None:
            remaining = min(remaining, BUCKET.room(*bucket, limit, now))
        states.append(LimitState(limit, scope, used, remaining, counter.reset(row, at, now)))
    return tuple(states)


def settle(places: Sequence[Place], marks: Sequence[int], actual: Amounts | None, now: Moment) -> None:
    """Replace what was taken by what was used: the rest goes back to when it was charged, an overage is charged now.

    Args:
        places: What was charged.
        marks: When, for each charge.
        actual: What was used, or None for what was estimated. Slots of concurrency come back either way.
        now: The present.
    """
    for (limit, _, amount, counts, counter, row, at, bucket), mark in zip(places, marks, strict=True):
        if limit.window is None:
            over = -amount
        elif actual is None:
            continue
        else:
            over = actual.of(limit.quantity) - amount
        if over > 0:
            if counts:
                counter.take(row, at, over, now)
            if bucket is not None:
                BUCKET.take(*bucket, limit, over, now)
        elif over < 0:
            if counts:
                counter.used(row, at, now)
                counter.give_back(row, at, mark, -over)
            if bucket is not None:
                BUCKET.give_back(*bucket, limit, -over)


def _wait(place: Place, now: Moment) -> float | None:
    """Seconds until the charge fits; None for never."""
    limit, _, amount, _, counter, row, at, bucket = place
    if amount > limit.amount or (limit.burst is not None and amount > limit.burst):
        return None
    over = counter.used(row, at, now) + amount - limit.amount
    wait = counter.wait(row, at, over, now) if over > 0 else 0.0
    return wait if bucket is None else max(wait, BUCKET.wait(*bucket, limit, amount, now))
