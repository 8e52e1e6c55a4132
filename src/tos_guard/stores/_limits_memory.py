"""Limits of one process, in memory.

- One lock; nobody waits for anything under it but arithmetic.
- The counters of everything that counts the same stand in one array, without gaps: an account costs a row in each and a key.
- Counters that count nothing any more are removed a few at a time, with other calls, so that no call takes long.
- Leases end within a second of their time.
- After a fork the child has its own counters, with what was used so far and nothing running.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, Generic, Protocol, TypeVar

from tos_guard.errors import StoreError
from tos_guard.limits import Amounts, Charge, Limit, LimitRefusal, LimitState, Reservation
from tos_guard.limits._admission import Place, admit, settle, states_of
from tos_guard.limits._counters import BUCKET, Bucket, Counter, Row, counter_named
from tos_guard.limits._time import MICROSECONDS, Moment, follow, microseconds
from tos_guard.protocols import Clock
from tos_guard.stores._fork import watch_forks

__all__ = ["MemoryLimits"]

_RESOLUTION: Final = 1_000
"""Microseconds for which the engine's time stands still: asking the clocks takes longer than what a limit does with the answer."""

_SWEEP_ROWS: Final = 32
"""Rows looked at in one sweep, which is due after so many calls; a new row counts as two, so that rows go faster than they come."""

_Taken = tuple[tuple[Charge, ...], tuple[int, ...]]
"""What was charged, and when, as the counters say it."""

_NOTHING: Final = Amounts(requests=0)


class _Kind(Protocol):
    """A counter or a bucket."""

    @property
    def width(self) -> int: ...

    def used(self, row: Row, at: int, now: Moment) -> int: ...


K = TypeVar("K", bound=_Kind)


class _Table(Generic[K]):
    """The counters of everything that counts the same: integers in one array, and where they begin for each scope."""

    def __init__(self, counter: K) -> None:
        self.counter = counter
        self.row = array("q")
        self.places: dict[tuple[str, ...], int] = {}
        self._scopes: list[tuple[str, ...]] = []
        self._new = array("q", [0] * counter.width)

    def add(self, scope: tuple[str, ...]) -> int:
        place = self.places[scope] = len(self.row)
        self.row.extend(self._new)
        self._scopes.append(scope)
        return place

    def sweep(self, number: int, most: int, now: Moment) -> int:
        """Look at *most* rows, from row *number* on; those that count nothing are replaced by the last. Returns where to go on."""
        width, row, scopes = self.counter.width, self.row, self._scopes
        for _ in range(most):
            if number >= len(scopes):
                break
            if self.counter.used(row, number * width, now):
                number += 1
                continue
            del self.places[scopes[number]]
            last = scopes.pop()
            if number < len(scopes):
                scopes[number] = last
                self.places[last] = number * width
                row[number * width : (number + 1) * width] = row[-width:]
            del row[-width:]
        return number if number < len(scopes) else 0


class MemoryLimits:
    """A `LimitEngine` for one process.

    Args:
        clock: The time on the wall, for windows of the calendar.
        monotonic: Seconds that never go back, for everything else.
    """

    blocks = False
    """Nothing here waits for anything but its own lock."""

    def __init__(self, *, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._tables: dict[str, _Table[Counter]] = {}
        self._buckets: dict[tuple[str, str], _Table[Bucket]] = {}
        self._open: dict[str, tuple[int, _Taken]] = {}
        """The second in which each open reservation ends, and what it took."""
        self._leases: dict[int, dict[str, None]] = {}
        """Open reservations by the second in which they end."""
        self._sweeping: list[tuple[_Table[Any], int]] = []
        self._unswept = 0
        self._closed = False
        self._now = Moment(int(monotonic() * MICROSECONDS), self._wall())
        watch_forks(self)

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        """Take all charges, or none; see `LimitEngine.reserve`.

        Raises:
            StoreError: The engine is closed.
            ValueError: An open reservation has this id.
        """
        with self._lock:
            now = self._begin()
            if id in self._open:
                raise ValueError(f"a reservation with the id {id!r} is open")
            answer = admit(self._find(charges), now)
            self._unswept += 1
            if self._unswept >= _SWEEP_ROWS:
                self._sweep(now)
            if isinstance(answer, LimitRefusal):
                return answer
            marks, states, shadowed = answer
            kept = tuple(charges)
            self._hold(id, (kept, marks), now.time + microseconds(lease))
        return Reservation(id, kept, states, shadowed)

    def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """Replace the estimate by what was used; see `LimitEngine.settle`.

        Raises:
            StoreError: The engine is closed.
        """
        with self._lock:
            now = self._begin()
            if (taken := self._let_go(reservation.id)) is not None:
                self._settle(taken, actual, now)

    def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """Let the reservation hold for *lease* from now; see `LimitEngine.renew`.

        Raises:
            StoreError: The engine is closed.
        """
        self.renew_all((reservation,), lease=lease)

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        """`renew` for many; see `LimitEngine.renew_all`.

        Raises:
            StoreError: The engine is closed.
        """
        with self._lock:
            now = self._begin()
            for reservation in reservations:
                if (taken := self._let_go(reservation.id)) is not None:
                    self._hold(reservation.id, taken, now.time + microseconds(lease))

    def cancel(self, reservation: Reservation) -> None:
        """Give everything back; see `LimitEngine.cancel`.

        Raises:
            StoreError: The engine is closed.
        """
        self.settle(reservation, _NOTHING)

    def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """How far the limits are used; see `LimitEngine.states`.

        Raises:
            StoreError: The engine is closed.
        """
        with self._lock:
            now = self._begin()
            return states_of(self._find(charges), now)

    def close(self) -> None:
        """Forget everything. Further use raises `StoreError`."""
        with self._lock:
            self._closed = True
            self._tables, self._buckets, self._open, self._leases, self._sweeping = {}, {}, {}, {}, []

    def before_fork(self) -> None:
        """Let the call under way end."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Forget what runs in the parent, which settles it there."""
        self._lock = threading.Lock()
        for reservation in list(self._open):
            if (taken := self._let_go(reservation)) is not None:
                self._settle(taken, None, self._now)

    def _begin(self) -> Moment:
        if self._closed:
            raise StoreError("the limits are closed")
        at = int(self._monotonic() * MICROSECONDS)
        before = self._now
        if at - before.time < _RESOLUTION:
            return before
        now = self._now = Moment(at, follow(before.calendar, at - before.time, self._wall()))
        if (second := at // MICROSECONDS) > before.time // MICROSECONDS:
            self._expire(second, now)
        return now

    def _wall(self) -> int:
        return int(self._clock().timestamp() * MICROSECONDS)

    def _find(self, charges: Iterable[Charge]) -> list[Place]:
        """Where the charges are counted; made where nothing was counted yet."""
        places: list[Place] = []
        for charge in charges:
            limit, scope, amount, counts = charge
            table = self._tables.get(limit.counted)
            if table is None:
                table = self._tables[limit.counted] = _Table(counter_named(limit.counted))
            at = table.places.get(scope)
            if at is None:
                at = self._add(table, scope)
            bucket = None if limit.burst is None else self._find_bucket(limit, scope)
            places.append((limit, scope, amount, counts, table.counter, table.row, at, bucket))
        return places

    def _find_bucket(self, limit: Limit, scope: tuple[str, ...]) -> tuple[Row, int]:
        name = (limit.id, limit.counted)
        table = self._buckets.get(name)
        if table is None:
            table = self._buckets[name] = _Table(BUCKET)
        at = table.places.get(scope)
        return table.row, self._add(table, scope) if at is None else at

    def _add(self, table: _Table[K], scope: tuple[str, ...]) -> int:
        self._unswept += 2
        return table.add(scope)

    def _settle(self, taken: _Taken, actual: Amounts | None, now: Moment) -> None:
        charges, marks = taken
        settle(self._find(charges), marks, actual, now)

    def _hold(self, id: str, taken: _Taken, until: int) -> None:  # noqa: A002 - as in the Protocol
        expires = until // MICROSECONDS + 1
        self._open[id] = expires, taken
        self._leases.setdefault(expires, {})[id] = None

    def _let_go(self, id: str) -> _Taken | None:  # noqa: A002 - as in the Protocol
        held = self._open.pop(id, None)
        if held is None:
            return None
        expires, taken = held
        ending = self._leases[expires]
        del ending[id]
        if not ending:
            del self._leases[expires]
        return taken

    def _expire(self, second: int, now: Moment) -> None:
        for ended in [each for each in self._leases if each <= second]:
            for id in list(self._leases[ended]):  # noqa: A001 - as in the Protocol
                if (taken := self._let_go(id)) is not None:
                    self._settle(taken, None, now)

    def _sweep(self, now: Moment) -> None:
        if not self._sweeping:
            tables: list[_Table[Any]] = [*self._tables.values(), *self._buckets.values()]
            self._sweeping = [(table, 0) for table in tables]
        table, number = self._sweeping.pop()
        if number := table.sweep(number, self._unswept, now):
            self._sweeping.append((table, number))
        self._unswept = 0
