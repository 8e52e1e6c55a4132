"""The calendar of an engine follows the clock on the wall, and is not jerked by it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tos_guard.limits._time import MICROSECONDS, follow

HOUR = 3_600 * MICROSECONDS
START = 1_795_000_000 * MICROSECONDS


def days(hours: float, jump: int, *, steps: int = 720) -> list[int]:
    """What the calendar shows while the wall clock is *jump* off, from then on in steps of the given hours together."""
    shown = [START]
    step = int(hours * HOUR / steps)
    for number in range(1, steps + 1):
        shown.append(follow(shown[-1], step, START + jump + number * step))
    return shown


def test_it_goes_as_the_wall_clock_goes() -> None:
    assert days(1, 0)[-1] == START + HOUR


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 5 * HOUR, -48 * HOUR])
def test_a_wall_clock_that_was_set_is_followed_slowly(jump: int) -> None:
    """Never back, never faster or slower than an eighth, and in the end where the wall clock is."""
    shown = days(8 * 48 + 1, jump)
    paces = [(after - before) / (shown[1] - START) for before, after in pairwise(shown)]
    assert max(paces) / min(paces) <= 1.3
    assert min(paces) > 0
    assert shown[-1] == START + jump + (8 * 48 + 1) * HOUR
    assert abs(days(1, jump)[-1] - START - HOUR) == HOUR // 8


def test_a_clock_that_was_never_set_is_believed_at_once() -> None:
    """A machine begins in 1970, and learns the time a moment later."""
    assert follow(5, 7, START) == START


def test_a_clock_that_goes_far_back_is_not() -> None:
    assert follow(START, 8 * MICROSECONDS, 0) == START + 7 * MICROSECONDS
