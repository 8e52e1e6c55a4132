"""Limits shared by the processes of one host, in an SQLite file of its own.

- One call is one transaction under the writers' lock, so that it is as one whatever other processes do, and whenever one of them dies.
- A commit does not wait for the disk: what is counted survives the death of all processes; a crash of the machine may take the newest.
- Whoever waits for others longer than its patience gets `StoreError`: a process that is stopped while it writes stops nobody else.
- Time is the host's and stands in the file. Between two calls it grows by the clock of the machine's boot; after a reboot by what passed on
  the wall, and never goes back.
- Counters that count nothing, and reservations that have ended, are removed a few at a time, with other calls.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Final

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.limits import Amounts, Charge, LimitRefusal, LimitState, Reservation
from tos_guard.limits._admission import Place, admit, settle, states_of
from tos_guard.limits._counters import BUCKET, Bucket, Counter, counter_named
from tos_guard.limits._time import MICROSECONDS, Moment, follow, microseconds
from tos_guard.protocols import Clock
from tos_guard.stores._database import Database, Schema

__all__ = ["SQLiteLimits"]

_SCHEMA: Final = Schema(
    what="limits",
    application_id=0x746F736C,  # "tosl"
    migrations=(
        (
            "CREATE TABLE clock (time INTEGER, calendar INTEGER, boot TEXT, monotonic INTEGER, wall INTEGER)",
            "CREATE TABLE counters (name TEXT PRIMARY KEY, numbers BLOB) WITHOUT ROWID",
            "CREATE TABLE reservations (id TEXT PRIMARY KEY, expires INTEGER, marks TEXT, slots TEXT) WITHOUT ROWID",
            "CREATE INDEX reservations_by_end ON reservations (expires)",
        ),
    ),
)

_PATIENCE_SECONDS: Final = 2.0
"""A call takes a tenth of a millisecond; behind a hundred others, ten."""

_SWEEP_ROWS: Final = 32
"""Rows looked at in one sweep, which is due after so many calls; a new row counts as two, so that rows go faster than they come."""

_EXPIRE_ROWS: Final = 256
"""Ended reservations that one call clears away, while the others wait. Their slots are free after the call that comes to them."""

_ALL: Final = -1

_KEEP_TIME: Final = MICROSECONDS
"""How often the time is written down. A reboot forgets no more of it."""

_NOTHING: Final = Amounts(requests=0)
_BURST: Final = "burst "
_DELETE_ENDED: Final = "DELETE FROM reservations WHERE id IN (SELECT id FROM reservations WHERE expires <= ? ORDER BY expires, id LIMIT ?)"


def host_seconds() -> float:
    """Seconds since the machine was started, the same in all its processes. Where the system tells, those of its sleep count."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@cache
def host_boot() -> str:
    """Which start of the machine this is, and which of its clocks; empty where the system does not tell.

    Without it a reboot is seen by the clock having gone back, and otherwise at worst too little time seems to have passed.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text('ascii').strip()} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return ""


class SQLiteLimits:
    """A `LimitEngine` for the processes of one host, on a local file system.

    Args:
        path: The file; made when absent, mode 0600. Its folder must exist.
        clock: The time on the wall, for windows of the calendar and for what passed during a reboot.
        monotonic: Seconds since the machine was started, the same in all its processes.
        boot: Which start of the machine that is.
        patience: Seconds for which a call waits for other processes and threads.

    Raises:
        ConfigurationError: The folder is missing, or the file is something else or of a newer release.
        StoreError: The file cannot be created, opened or migrated.
    """

    blocks = True
    """Each call takes the writers' lock and touches the disk."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        monotonic: Callable[[], float] = host_seconds,
        boot: str | None = None,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._boot = host_boot() if boot is None else boot
        self._unswept = 0
        self._swept = ""
        self._database = Database(path, _SCHEMA, durable=False, patience=patience)

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        """Take all charges, or none; see `LimitEngine.reserve`.

        Raises:
            StoreError: The engine failed, others wrote for too long, or the engine is closed.
            ValueError: An open reservation has this id.
        """
        with self._writing() as (connection, now):
            rows = _Rows(connection, charges)
            answer = admit(rows.places, now)
            if isinstance(answer, LimitRefusal):
                self._sweep(connection, now, 1)
                return answer
            marks, states, shadowed = answer
            slots = {_name(charge): charge.amount for charge in charges if charge.limit.window is None and charge.counts}
            row = (id, now.time + microseconds(lease), json.dumps(marks), json.dumps(slots))
            if connection.execute("INSERT OR IGNORE INTO reservations VALUES (?, ?, ?, ?)", row).rowcount != 1:
                raise ValueError(f"a reservation with the id {id!r} is open")
            self._sweep(connection, now, 1 + 2 * rows.save())
        return Reservation(id, tuple(charges), states, shadowed)

    def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """Replace the estimate by what was used; see `LimitEngine.settle`.

        Raises:
            StoreError: The engine failed, others wrote for too long, or the engine is closed.
        """
        with self._writing() as (connection, now):
            held = connection.execute("SELECT marks FROM reservations WHERE id = ? AND expires > ?", (reservation.id, now.time)).fetchone()
            if held is None:
                return
            connection.execute("DELETE FROM reservations WHERE id = ?", (reservation.id,))
            rows = _Rows(connection, reservation.charges)
            settle(rows.places, json.loads(held[0]), actual, now)
            rows.save()

    def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """Let the reservation hold for *lease* from now; see `LimitEngine.renew`.

        Raises:
            StoreError: The engine failed, others wrote for too long, or the engine is closed.
        """
        self.renew_all((reservation,), lease=lease)

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        """`renew` for many, in one transaction; see `LimitEngine.renew_all`.

        Raises:
            StoreError: The engine failed, others wrote for too long, or the engine is closed.
        """
        with self._writing() as (connection, now):
            until = now.time + microseconds(lease)
            rows = [(until, reservation.id, now.time) for reservation in reservations]
            connection.executemany("UPDATE reservations SET expires = ? WHERE id = ? AND expires > ?", rows)

    def cancel(self, reservation: Reservation) -> None:
        """Give everything back; see `LimitEngine.cancel`.

        Raises:
            StoreError: The engine failed, others wrote for too long, or the engine is closed.
        """
        self.settle(reservation, _NOTHING)

    def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """How far the limits are used; see `LimitEngine.states`. Waits for no writer.

        Raises:
            StoreError: The engine failed, or is closed.
        """
        with self._database.read() as connection, _damage(self._database.path):
            connection.execute("BEGIN")  # one state of the file for all that follows
            try:
                now, _ = self._now(connection)
                rows = _Rows(connection, charges)
                rows.free(_ended_slots(connection, now, _ALL) or {})
                return states_of(rows.places, now)
            finally:
                connection.execute("COMMIT")

    def close(self) -> None:
        """Let go of the files. Further use raises `StoreError`."""
        self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, Moment]]:
        """One transaction, at a moment of the host; what has ended by then is cleared away."""
        with self._database.write() as connection, _damage(self._database.path):
            now, kept = self._now(connection)
            if kept is not None:
                connection.execute("DELETE FROM clock")
                connection.execute("INSERT INTO clock VALUES (?, ?, ?, ?, ?)", kept)
            if ended := _ended_slots(connection, now, _EXPIRE_ROWS):
                rows = _Rows(connection, (), ended)
                rows.free(ended)
                rows.save()
                connection.execute(_DELETE_ENDED, (now.time, _EXPIRE_ROWS))
            yield connection, now

    def _now(self, connection: sqlite3.Connection) -> tuple[Moment, tuple[int, int, str, int, int] | None]:
        """The present, and what to write down of it, if anything."""
        monotonic, wall = int(self._monotonic() * MICROSECONDS), int(self._clock().timestamp() * MICROSECONDS)
        kept = connection.execute("SELECT time, calendar, boot, monotonic, wall FROM clock").fetchone()
        if kept is None:
            return Moment(0, wall), (0, wall, self._boot, monotonic, wall)
        then, calendar, boot, monotonic_then, wall_then = kept
        is_same_boot = boot == self._boot and monotonic >= monotonic_then
        elapsed = monotonic - monotonic_then if is_same_boot else max(0, wall - wall_then)
        now = Moment(then + elapsed, follow(calendar, elapsed, wall))
        if is_same_boot and elapsed < _KEEP_TIME:
            return now, None
        return now, (now[0], now[1], self._boot, monotonic, wall)

    def _sweep(self, connection: sqlite3.Connection, now: Moment, due: int) -> None:
        self._unswept += due
        if self._unswept < _SWEEP_ROWS:
            return
        query = "SELECT name, numbers FROM counters WHERE name > ? ORDER BY name LIMIT ?"
        found = connection.execute(query, (self._swept, self._unswept)).fetchall()
        self._swept = found[-1][0] if len(found) == self._unswept else ""
        self._unswept = 0
        empty = [(name,) for name, numbers in found if not _counter(name).used(_unpack(numbers, _counter(name)), 0, now)]
        connection.executemany("DELETE FROM counters WHERE name = ?", empty)


class _Rows:
    """The counters that one transaction reads and changes."""

    def __init__(self, connection: sqlite3.Connection, charges: Iterable[Charge], slots: Iterable[str] = ()) -> None:
        self._connection = connection
        named = [(charge, _name(charge), None if charge.limit.burst is None else _bucket_name(charge)) for charge in charges]
        names = {*slots, *(name for _, name, _ in named), *(bucket for _, _, bucket in named if bucket is not None)}
        query = f"SELECT name, numbers FROM counters WHERE name IN ({','.join('?' * len(names))})"  # noqa: S608 - question marks only
        self._kept: dict[str, bytes] = dict(connection.execute(query, tuple(names)))
        self._rows = {name: _unpack(self._kept.get(name), _counter(name)) for name in names}
        self.places: list[Place] = []
        for charge, name, bucket in named:
            counter, row = counter_named(charge.limit.counted), self._rows[name]
            limit, scope, amount, counts = charge
            self.places.append((limit, scope, amount, counts, counter, row, 0, None if bucket is None else (self._rows[bucket], 0)))

    def free(self, slots: Mapping[str, int]) -> None:
        """Give slots of concurrency back, as far as their counters are among these."""
        for name, amount in slots.items():
            if name in self._rows:
                counter_named(_counted(name)).give_back(self._rows[name], 0, 0, amount)

    def save(self) -> int:
        """Write what has changed. Returns how many counters are new."""
        packed = ((name, _pack(row)) for name, row in self._rows.items())
        changed = [(name, numbers) for name, numbers in packed if numbers != self._kept.get(name)]
        self._connection.executemany("INSERT OR REPLACE INTO counters VALUES (?, ?)", changed)
        return sum(name not in self._kept for name, _ in changed)


def _ended_slots(connection: sqlite3.Connection, now: Moment, most: int) -> dict[str, int] | None:
    """How many slots come back to each counter from so many reservations that have ended; None where none has."""
    query = "SELECT slots FROM reservations WHERE expires <= ? ORDER BY expires, id LIMIT ?"
    ended = connection.execute(query, (now.time, most)).fetchall()
    if not ended:
        return None
    slots: dict[str, int] = {}
    for (held,) in ended:
        for name, amount in json.loads(held).items():
            slots[name] = slots.get(name, 0) + amount
    return slots


def _name(charge: Charge) -> str:
    return f"{charge.limit.counted}\n{json.dumps(charge.scope)}"  # ASCII, whatever the scope holds


def _bucket_name(charge: Charge) -> str:
    return f"{_BURST}{json.dumps([charge.limit.id, charge.limit.counted, charge.scope])}"


def _counted(name: str) -> str:
    return name.partition("\n")[0]


def _counter(name: str) -> Counter | Bucket:
    return BUCKET if name.startswith(_BURST) else counter_named(_counted(name))


def _pack(row: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(row)}q", *row)


def _unpack(numbers: bytes | None, counter: Counter | Bucket) -> list[int]:
    return [0] * counter.width if numbers is None else list(struct.unpack(f"<{counter.width}q", numbers))


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What somebody else wrote into the file, or a zone that this machine has no more, is an error of the engine."""
    try:
        yield
    except (struct.error, TypeError, json.JSONDecodeError, ConfigurationError) as error:
        raise StoreError(f"a row cannot be read ({error})", where=str(path), cure="Remove the file: all usage is forgotten") from error
