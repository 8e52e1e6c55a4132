"""Windows of the calendar in zones with daylight saving, and what a slot of a sliding window forgets when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tos_guard.limits import Calendar, Limit, Quantity, Sliding
from tos_guard.limits._counters import BUCKET, SLOTS, calendar_window, counter_named
from tos_guard.limits._time import MICROSECONDS, Moment

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut",
    "Pacific/Apia", "Pacific/Chatham", "America/Sao_Paulo", "Africa/Casablanca", "Antarctica/Troll",
]  # fmt: skip


def at(text: str) -> int:
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def text(moment: int) -> str:
    return (EPOCH + timedelta(microseconds=moment)).strftime("%Y-%m-%dT%H:%M")


@pytest.mark.parametrize(
    ("unit", "zone", "moment", "start", "end"),
    [
        ("minute", "UTC", "2026-11-22T12:34:56", "2026-11-22T12:34", "2026-11-22T12:35"),
        ("hour", "Asia/Kolkata", "2026-11-22T12:34:56", "2026-11-22T12:30", "2026-11-22T13:30"),
        ("day", "UTC", "2026-11-22T12:34:56", "2026-11-22T00:00", "2026-11-23T00:00"),
        ("day", "Europe/Berlin", "2026-11-22T23:00:00", "2026-11-22T23:00", "2026-11-23T23:00"),
        ("week", "UTC", "2026-11-22T12:34:56", "2026-11-16T00:00", "2026-11-23T00:00"),
        ("month", "UTC", "2028-02-29T12:00:00", "2028-02-01T00:00", "2028-03-01T00:00"),
        ("month", "UTC", "2026-12-31T23:59:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("month", "Asia/Tokyo", "2026-11-30T15:00:00", "2026-11-30T15:00", "2026-12-31T15:00"),
        # Daylight saving: a day of 23 hours, one of 25, a month that gains an hour.
        ("day", "Europe/Berlin", "2026-03-29T12:00:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        ("month", "Europe/Berlin", "2026-10-01T12:00:00", "2026-09-30T22:00", "2026-10-31T23:00"),
        # Where midnight is skipped, the day begins with the skip.
        ("day", "Asia/Beirut", "2026-03-29T12:00:00", "2026-03-28T22:00", "2026-03-29T21:00"),
        # The hour that comes twice is two windows.
        ("hour", "Europe/Berlin", "2026-10-25T00:30:00", "2026-10-25T00:00", "2026-10-25T01:00"),
        ("hour", "Europe/Berlin", "2026-10-25T01:30:00", "2026-10-25T01:00", "2026-10-25T02:00"),
        # A day that the zone left out.
        ("day", "Pacific/Apia", "2011-12-30T09:59:00", "2011-12-29T10:00", "2011-12-30T10:00"),
        ("day", "Pacific/Apia", "2011-12-30T10:00:00", "2011-12-30T10:00", "2011-12-31T10:00"),
    ],
)
def test_a_window_of_the_calendar(
    unit: Literal["minute", "hour", "day", "week", "month"], zone: str, moment: str, start: str, end: str
) -> None:
    assert tuple(map(text, calendar_window(Calendar(unit, zone), at(moment)))) == (start, end)


@given(
    st.sampled_from(["minute", "hour", "day", "week", "month"]),
    st.sampled_from(ZONES),
    st.integers(at("1995-01-01"), at("2037-01-01")),
)
def test_windows_never_begin_earlier_than_those_before(
    unit: Literal["minute", "hour", "day", "week", "month"], zone: str, moment: int
) -> None:
    """Through any change of a zone: the window holds its moment, and whatever follows its end begins later than it did."""
    start, end = calendar_window(Calendar(unit, zone), moment)
    assert start <= moment < end
    following = calendar_window(Calendar(unit, zone), end)
    assert following[0] > start
    assert following[0] <= end < following[1]
    if unit in {"day", "week", "month"}:
        assert following[0] == end
        assert calendar_window(Calendar(unit, zone), start) == (start, end)


@given(st.integers(1, 100) | st.just(31 * 86_400), st.integers(0, 10**15))
def test_a_slot_counts_until_it_has_left_whole(seconds: int, charged: int) -> None:
    """From any moment of charging: still counted when the window ends, gone at most one slot later, and exactly when it was said."""
    counter = counter_named(f'["tokens",[],"{seconds}s",[],[]]')
    window = seconds * MICROSECONDS
    row = [0] * counter.width
    _, _, reset = counter.take(row, 0, 5, Moment(charged, 0))
    gone = charged + round(reset * MICROSECONDS)
    assert window <= gone - charged <= window + -(-window // SLOTS) + SLOTS
    assert counter.used(row, 0, Moment(gone - 1, 0)) == 5
    assert counter.reset(row, 0, Moment(gone - 1, 0)) == 1 / MICROSECONDS
    assert counter.used(row, 0, Moment(gone, 0)) == 0
    assert row[2:] == [0] * (counter.width - 2)


@pytest.mark.parametrize("seconds", range(1, 61))
def test_twelve_slots_are_no_shorter_than_the_window(seconds: int) -> None:
    """Charged at the very end of a slot, it still counts a microsecond before the window ends."""
    counter = counter_named(f'["tokens",[],"{seconds}s",[],[]]')
    row = [0] * counter.width
    _, mark, reset = counter.take(row, 0, 5, Moment(0, 0))
    slot = round(reset * MICROSECONDS) // (SLOTS + 1)
    charged = (mark + 1) * slot - 1
    counter.take(row, 0, 5, Moment(charged, 0))
    assert counter.used(row, 0, Moment(charged + seconds * MICROSECONDS - 1, 0)) == 10


def test_a_refund_never_reaches_a_later_charge() -> None:
    """A slot takes the place of the one that has just left the window; what is given back to that is gone."""
    counter = counter_named('["tokens",[],"12s",[],[]]')
    row = [0] * counter.width
    _, mark, _ = counter.take(row, 0, 5, Moment(100 * MICROSECONDS, 0))
    counter.take(row, 0, 7, Moment(113 * MICROSECONDS, 0))
    counter.give_back(row, 0, mark, 5)
    assert counter.used(row, 0, Moment(113 * MICROSECONDS, 0)) == 7


def test_what_was_refunded_is_not_waited_for() -> None:
    """When the oldest slot has been given back, the next one is the first to return something."""
    counter = counter_named('["tokens",[],"12s",[],[]]')
    row = [0] * counter.width
    _, mark, _ = counter.take(row, 0, 5, Moment(100 * MICROSECONDS, 0))
    counter.take(row, 0, 5, Moment(104 * MICROSECONDS, 0))
    now = Moment(105 * MICROSECONDS, 0)
    assert counter.reset(row, 0, now) == 8
    counter.give_back(row, 0, mark, 5)
    assert counter.reset(row, 0, now) == counter.wait(row, 0, 5, now) == 12


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=16, max_size=16), st.integers(0, 2**62), st.integers(0, 10**15))
def test_a_row_that_somebody_else_wrote_ends_in_a_number(row: list[int], mark: int, time: int) -> None:
    """Whatever stands in the file, no call runs on and on while it holds the writers' lock."""
    counter = counter_named('["tokens",[],"12s",[],[]]')
    now = Moment(time, 0)
    assert isinstance(counter.used(row, 0, now), int)
    counter.take(row, 0, 5, now)
    counter.wait(row, 0, 2**63, now)
    counter.reset(row, 0, now)
    counter.give_back(row, 0, min(mark, max(row[0], 0)), 3)


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    """Even where so much flows in that a microsecond brings thousands."""
    for amount, burst in ((7, 1), (10**15, 3), (10**15, 10**14), (60, 60), (1, 1)):
        limit = Limit(id="x", quantity=Quantity.TOKENS, amount=amount, per=(), window=Sliding(60), burst=burst)
        row = [0]
        assert BUCKET.room(row, 0, limit, Moment(10**12, 0)) == burst
        BUCKET.take(row, 0, limit, burst, Moment(10**12, 0))
        assert BUCKET.room(row, 0, limit, Moment(10**12, 0)) == 0


def test_time_that_stands_a_little_back_changes_nothing() -> None:
    """Processes read the time one after another, and write in another order."""
    counter = counter_named('["tokens",[],"12s",[],[]]')
    row = [0] * counter.width
    counter.take(row, 0, 5, Moment(100 * MICROSECONDS, 0))
    used, mark, _ = counter.take(row, 0, 3, Moment(98 * MICROSECONDS, 0))
    assert (used, mark) == (8, 100)
    monthly = counter_named('["tokens",[],"calendar month UTC",[],[]]')
    row = [0] * monthly.width
    monthly.take(row, 0, 5, Moment(0, at("2026-11-01")))
    assert monthly.take(row, 0, 3, Moment(0, at("2026-10-31")))[0] == 8


def test_all_slots_in_turn() -> None:
    """One unit in each slot for three windows: thirteen slots count, the oldest leaves first."""
    counter = counter_named('["tokens",[],"12s",[],[]]')
    row = [0] * counter.width
    totals = [counter.take(row, 0, 1, Moment(second * MICROSECONDS, 0))[0] for second in range(36)]
    assert totals == [*range(1, 14), *[13] * 23]
    resets = [counter.reset(row, 0, Moment(35 * MICROSECONDS + part, 0)) for part in (0, 500_000)]
    assert resets == [1.0, 0.5]
    waits = [counter.wait(row, 0, amount, Moment(35 * MICROSECONDS, 0)) for amount in range(1, 14)]
    assert [after - before for before, after in pairwise(waits)] == [1.0] * 12
