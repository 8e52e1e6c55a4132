"""Counters: a few integers each, and how time, charges and refunds change them.

The integers stand in a sequence of the engine's (an array of all accounts, or a row that was read), from position *at*.

- A sliding window is `SLOTS` equal slots and the one in progress. A slot counts until it has left the window whole, so that no window
  of that length ever holds more than was admitted; what it holds comes back up to one slot late.
- A window of the calendar begins at its start in a named zone, whatever daylight saving does; an earlier one never opens again.
- A bucket refills evenly (GCRA), and remembers one time: when it will be full. What it owes is never more than a window away.
- Refunds go to the slot that was charged, while it counts. Counts stay between zero and `CAP`.
- Times are microseconds. Those of sliding windows and buckets never go back; see `tos_guard.limits._time`.
"""

# ruff: noqa: ARG002 - counters of all kinds take the same arguments

from __future__ import annotations

import json
from collections.abc import MutableSequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from tos_guard.limits._model import Calendar, Limit, Sliding
from tos_guard.limits._time import MICROSECONDS, Moment, zone_named

__all__ = ["BUCKET", "CAP", "SLOTS", "Bucket", "Counter", "calendar_window", "counter_named"]

SLOTS: Final = 12
"""Slots of a sliding window. More would return amounts earlier (a twelfth of the window late, at most) and cost each account memory."""

CAP: Final = 2**62
"""Most that one counter holds: engines keep 64 bits, and a limit in shadow counts whatever is asked for."""

_RING: Final = SLOTS + 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ASK_AGAIN_SECONDS: Final = 1.0
"""When a slot of concurrency comes back, nobody knows: responses last from milliseconds to minutes."""

Row = MutableSequence[int]


class Counter(Protocol):
    """Counts in rows of *width* integers; all zeros is a new one. `used` and `take` bring the row up to date, the others expect that."""

    @property
    def width(self) -> int:
        """Integers of one row."""
        ...

    def used(self, row: Row, at: int, now: Moment) -> int:
        """What counts now. Zero: the row may be forgotten."""
        ...

    def take(self, row: Row, at: int, amount: int, now: Moment) -> tuple[int, int, float]:
        """Count so much more. Returns what counts then, a mark of the time it was charged to, and what `reset` says."""
        ...

    def give_back(self, row: Row, at: int, mark: int, amount: int) -> None:
        """Count so much less, if what was charged then still counts."""
        ...

    def reset(self, row: Row, at: int, now: Moment) -> float:
        """Seconds until some of it comes back; 0 when nothing counts."""
        ...

    def wait(self, row: Row, at: int, amount: int, now: Moment) -> float:
        """Seconds until so much has come back, of what counts now."""
        ...


@lru_cache(maxsize=256)
def counter_named(counted: str) -> Counter:
    """The counter for what is ``Limit.counted``; all that count the same share it.

    Raises:
        ConfigurationError: The zone of its window is unknown.
    """
    window = json.loads(counted)[2]
    match window.split(" "):
        case [""]:
            return _Slots()
        case ["calendar", unit, zone]:
            return _Calendar(Calendar(unit, zone))
        case _:
            return _Sliding(int(window.removesuffix("s")))


class _Sliding:
    """Row: newest slot, oldest slot that holds something, total, and the slots in a ring."""

    width: int = 3 + _RING

    def __init__(self, seconds: int) -> None:
        # Rounded up: twelve slots are never shorter than the window.
        self._slot = -(-seconds * MICROSECONDS // SLOTS)

    def used(self, row: Row, at: int, now: Moment) -> int:
        slot = now[0] // self._slot
        return self._go_on(row, at, slot) if slot > row[at] else row[at + 2]

    def take(self, row: Row, at: int, amount: int, now: Moment) -> tuple[int, int, float]:
        time = now[0]
        slot = time // self._slot
        newest = row[at]
        if slot > newest:
            total = self._go_on(row, at, slot)
        else:
            slot, total = newest, row[at + 2]
        if total:
            oldest = row[at + 1]
        else:
            row[at + 1] = oldest = slot
        if total + amount > CAP:
            amount = CAP - total
        row[at + 3 + slot % _RING] += amount
        row[at + 2] = total = total + amount
        return total, slot, ((oldest + _RING) * self._slot - time) / MICROSECONDS if total else 0.0

    def give_back(self, row: Row, at: int, mark: int, amount: int) -> None:
        if mark < row[at] - SLOTS:
            return
        place = at + 3 + mark % _RING
        amount = min(amount, row[place])
        row[place] -= amount
        row[at + 2] -= amount
        self._find_oldest(row, at, row[at + 1])

    def reset(self, row: Row, at: int, now: Moment) -> float:
        return self._leaves(row[at + 1], now) if row[at + 2] else 0.0

    def wait(self, row: Row, at: int, amount: int, now: Moment) -> float:
        slot = self._oldest(row, at)
        while (amount := amount - row[at + 3 + slot % _RING]) > 0 and slot < row[at]:
            slot += 1
        return self._leaves(slot, now)

    def _leaves(self, slot: int, now: Moment) -> float:
        return ((slot + _RING) * self._slot - now.time) / MICROSECONDS

    def _go_on(self, row: Row, at: int, slot: int) -> int:
        """Begin a slot, and let go of those that have left the window. Returns the total."""
        oldest = self._oldest(row, at)
        first = min(slot - SLOTS, oldest + _RING)
        row[at] = slot
        total = row[at + 2]
        if total and oldest < first:
            while total and oldest < first:
                place = at + 3 + oldest % _RING
                total -= row[place]
                row[place] = 0
                oldest += 1
            row[at + 2] = total
            self._find_oldest(row, at, oldest)
        return total

    def _oldest(self, row: Row, at: int) -> int:
        """The oldest slot that may hold something: none is older than the window, unless somebody else wrote the row."""
        return max(row[at + 1], row[at] - SLOTS)

    def _find_oldest(self, row: Row, at: int, oldest: int) -> None:
        if row[at + 2]:
            newest = row[at]
            oldest = max(oldest, newest - SLOTS)
            while not row[at + 3 + oldest % _RING] and oldest < newest:
                oldest += 1
            row[at + 1] = oldest


class _Calendar:
    """Row: start and end of the window, total."""

    width: int = 3

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        self._window = calendar_window(calendar, 0)

    def used(self, row: Row, at: int, now: Moment) -> int:
        if now[1] >= row[at + 1]:
            start, end = self._window
            if not start <= now.calendar < end:
                self._window = start, end = calendar_window(self._calendar, now.calendar)
            row[at], row[at + 1], row[at + 2] = start, end, 0
        return row[at + 2]

    def take(self, row: Row, at: int, amount: int, now: Moment) -> tuple[int, int, float]:
        if now[1] >= row[at + 1]:
            self.used(row, at, now)
        total = row[at + 2] + amount
        if total > CAP:
            total = CAP
        row[at + 2] = total
        return total, row[at], (row[at + 1] - now[1]) / MICROSECONDS if total else 0.0

    def give_back(self, row: Row, at: int, mark: int, amount: int) -> None:
        if mark == row[at]:
            row[at + 2] -= min(amount, row[at + 2])

    def reset(self, row: Row, at: int, now: Moment) -> float:
        return (row[at + 1] - now.calendar) / MICROSECONDS if row[at + 2] else 0.0

    def wait(self, row: Row, at: int, amount: int, now: Moment) -> float:
        return (row[at + 1] - now.calendar) / MICROSECONDS


class _Slots:
    """Row: how many are taken."""

    width: int = 1

    def used(self, row: Row, at: int, now: Moment) -> int:
        return row[at]

    def take(self, row: Row, at: int, amount: int, now: Moment) -> tuple[int, int, float]:
        row[at] = taken = row[at] + amount
        return taken, 0, _ASK_AGAIN_SECONDS if taken else 0.0

    def give_back(self, row: Row, at: int, mark: int, amount: int) -> None:
        row[at] -= min(amount, row[at])

    def reset(self, row: Row, at: int, now: Moment) -> float:
        return _ASK_AGAIN_SECONDS if row[at] else 0.0

    def wait(self, row: Row, at: int, amount: int, now: Moment) -> float:
        return _ASK_AGAIN_SECONDS


class Bucket:
    """The bucket of a limit's burst. Row: the time at which it will be full."""

    width: int = 1

    def used(self, row: Row, at: int, now: Moment) -> int:
        """Microseconds until it is full."""
        return max(0, row[at] - now.time)

    def room(self, row: Row, at: int, limit: Limit, now: Moment) -> int:
        """How much it holds now."""
        window, burst, amount = _flow(limit)
        spare = -(-burst * window // amount) - self.used(row, at, now)
        return max(0, min(burst, spare * amount // window))

    def take(self, row: Row, at: int, limit: Limit, taken: int, now: Moment) -> None:
        """Take so much out, more than it holds if need be."""
        window, burst, amount = _flow(limit)
        full = max(row[at], now.time) - (-taken * window // amount)
        # After an overage it owes no more than a window, as the counter does; a burst may be larger than the amount.
        row[at] = min(full, now.time + max(window, -(-burst * window // amount)))

    def give_back(self, row: Row, at: int, limit: Limit, amount: int) -> None:
        """Put so much back."""
        window, _, refill = _flow(limit)
        row[at] = max(0, row[at] - amount * window // refill)

    def wait(self, row: Row, at: int, limit: Limit, wanted: int, now: Moment) -> float:
        """Seconds until it holds so much."""
        window, burst, amount = _flow(limit)
        spare = -(-burst * window // amount) + (-wanted * window // amount)
        return max(0, row[at] - now.time - spare) / MICROSECONDS


BUCKET: Final = Bucket()


def _flow(limit: Limit) -> tuple[int, int, int]:
    """Window in microseconds, burst, and what flows in during one window: 1 at least, for a limit of nothing refuses before."""
    assert isinstance(limit.window, Sliding) and limit.burst is not None  # noqa: S101, PT018 - `Limit` saw to it
    return limit.window.seconds * MICROSECONDS, limit.burst, max(1, limit.amount)


def calendar_window(calendar: Calendar, at: int) -> tuple[int, int]:
    """Start and end of the window that holds *at*, all in microseconds since 1970."""
    zone = zone_named(calendar.zone)
    local = (_EPOCH + timedelta(microseconds=at)).astimezone(zone)
    today = local.date()
    match calendar.unit:
        case "minute" | "hour":
            # By the zone's distance from UTC at that moment: the hour that comes twice, when clocks are set back, is two windows.
            length = (60 if calendar.unit == "minute" else 3600) * MICROSECONDS
            offset = (local.utcoffset() or timedelta()) // timedelta(microseconds=1)
            start = (at + offset) // length * length - offset
            return start, start + length
        case "day":
            first, after = today, today + timedelta(days=1)
        case "week":
            first = today - timedelta(days=today.weekday())
            after = first + timedelta(days=7)
        case _:
            first = today.replace(day=1)
            after = (first + timedelta(days=31)).replace(day=1)
    return _midnight(first, zone), _midnight(after, zone)


def _midnight(day: date, zone: ZoneInfo) -> int:
    """The day's first moment. A midnight that the zone skips is the moment of the skip; of one that comes twice, the first counts."""
    return (datetime.combine(day, time(), zone) - _EPOCH) // timedelta(microseconds=1)
