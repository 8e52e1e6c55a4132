"""Group commit: one thread per process writes everything that was queued while the last commit was on its way to the disk.

- An idle writer starts at once; nothing waits for company. Under load, what queues during one fsync is the next group.
- Where nobody waits for the disk, a delay may be set that gathers larger groups: a commit costs the processor far more than a row.
- The thread starts with the first work in a process, so a server may fork after it has built its store.
- A failed group fails its futures, and the thread lives on. The queue is bounded; when it is full, the newcomer's future fails.
- What has a result that somebody waits for (kept seals) is written without the delay.
- Futures cannot be cancelled: a caller who goes away (an asyncio task, say) must not take the record with it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tos_guard.errors import StoreError, TosGuardError
from tos_guard.ledger import KeptSeal
from tos_guard.stores._fork import watch_forks
from tos_guard.stores._sql import Connection, Database

__all__ = ["Counter", "GroupWriter", "KeptRows", "Row", "SealRow"]

T = TypeVar("T")

Counter = tuple[str, int, str]
"""Issuer, hour since 1970, code."""

_GROUP_ROWS: Final = 512
"""Most rows of one commit: a commit holds the writers' lock, and other processes wait for it."""

_COUNTS_WAIT_SECONDS: Final = 0.5
"""How long counts alone wait for a commit of records to go along with, before they get one of their own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record, encoded."""

    issuer: str
    rid: str
    jti: str | None
    type: str
    started: int
    document: bytes
    account_id: str | None


@dataclass(frozen=True, slots=True)
class SealRow:
    """One kept seal, encoded, with the value that it was made from."""

    seal: KeptSeal
    document: bytes


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Kept seals that stand or fall together, and the record of their exchange."""

    seals: tuple[SealRow, ...]
    record: Row | None


WriteRows = Callable[[Connection, Sequence[Row | KeptRows], dict[Counter, int]], Sequence[Any] | None]
"""Stores rows and counts, inside a transaction, and says what came of each row; None for nothing to say."""


@dataclass(frozen=True, slots=True)
class _Item:
    future: Future[Any]
    row: Row | KeptRows | None = None
    work: Callable[[Database], Any] | None = None


class GroupWriter:
    """Writes to one database from one thread.

    Args:
        database: Where to.
        write_rows: Stores rows and counts, inside a transaction (`WriteRows`).
        max_pending: Items that may wait; a bound on memory while the disk hangs.
        delay: Seconds for which the first row of a group waits for others.
    """

    def __init__(
        self,
        database: Database,
        write_rows: WriteRows,
        *,
        max_pending: int,
        delay: float = 0.0,
    ) -> None:
        self._database = database
        self._write_rows = write_rows
        self._max_pending = max_pending
        self._delay = delay
        self._closing = False
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._wake = threading.Condition(threading.Lock())
        self._queue: deque[_Item] = deque()
        self._counts: dict[Counter, int] = {}
        self._counts_due = 0.0
        self._thread: threading.Thread | None = None

    def append(self, row: Row) -> Future[None]:
        """Queue one row. The future is done when it is durable, and fails with `StoreError`."""
        return self._enqueue(_Item(Future(), row=row))

    def keep(self, rows: KeptRows) -> Future[KeptSeal | None]:
        """Queue seals with their record. The future gives what stands in their way, or None once they are durable."""
        return self._enqueue(_Item(Future(), row=rows))

    def run(self, work: Callable[[Database], T]) -> Future[T]:
        """Queue *work*, to run alone, after everything queued before it. Its `TosGuardError` goes to the future."""
        return self._enqueue(_Item(Future(), work=work))

    def flush(self) -> Future[None]:
        """Write what is queued and counted so far."""
        return self.run(self._write_counts)

    def count(self, counter: Counter) -> None:
        """Add one to *counter*, durable within a second."""
        with self._wake:
            if self._closing:
                return
            if not self._counts:
                self._counts_due = time.monotonic() + _COUNTS_WAIT_SECONDS
            self._counts[counter] = self._counts.get(counter, 0) + 1
            if len(self._counts) == 1 and self._started():
                self._wake.notify()

    def close(self) -> None:
        """Write what is queued, then stop. What is queued later fails."""
        with self._wake:
            self._closing = True
            if self._counts and self._thread is None:
                self._started()
            thread = self._thread
            self._wake.notify()
        if thread is not None:
            thread.join()

    def before_fork(self) -> None:
        """Hold the queue still while it is copied."""
        self._wake.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._wake.release()

    def after_fork_in_child(self) -> None:
        """Start empty: what was queued is the parent's, and the parent writes it."""
        self._reset()

    def _enqueue(self, item: _Item) -> Future[Any]:
        # Running from the start: `cancel` has no effect any more.
        item.future.set_running_or_notify_cancel()
        with self._wake:
            problem = self._problem()
            if problem is None:
                self._queue.append(item)
                if len(self._queue) in (1, _GROUP_ROWS) or _is_awaited(item):
                    self._wake.notify()
        if problem is not None:
            item.future.set_exception(problem)
        return item.future

    def _problem(self) -> StoreError | None:
        where = self._database.where
        if self._closing:
            return StoreError("the store is closed", where=where)
        if len(self._queue) >= self._max_pending:
            return StoreError(
                f"{self._max_pending} writes are waiting for the disk already", where=where, cure="Find out why the disk is slow"
            )
        if not self._started():
            return StoreError("the writer thread cannot be started", where=where, cure="Raise the limit of threads")
        return None

    def _started(self) -> bool:
        if self._thread is None:
            # A daemon, since Python joins other threads before it calls what would end this one; stores close themselves at exit.
            thread = threading.Thread(target=self._loop, name="tos-guard-records", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _loop(self) -> None:
        while (taken := self._take()) is not None:
            group, counts = taken
            if group and group[0].work is not None:
                self._run(group[0])
            else:
                self._commit(group, counts)

    def _take(self) -> tuple[list[_Item], dict[Counter, int]] | None:
        with self._wake:
            while not self._queue:
                if self._closing:
                    if not self._counts:
                        return None
                    break
                wait = self._counts_due - time.monotonic() if self._counts else None
                if wait is not None and wait <= 0:
                    break
                self._wake.wait(wait)
            if self._queue and self._delay:
                self._wake.wait_for(self._is_group, self._delay)
            group: list[_Item] = []
            while self._queue and len(group) < _GROUP_ROWS:
                if self._queue[0].work is not None and group:
                    break
                group.append(self._queue.popleft())
                if group[-1].work is not None:
                    return group, {}
            counts, self._counts = self._counts, {}
            return group, counts

    def _is_group(self) -> bool:
        return self._closing or len(self._queue) >= _GROUP_ROWS or any(map(_is_awaited, self._queue))

    def _run(self, item: _Item) -> None:
        assert item.work is not None  # noqa: S101 - `_loop` looked
        try:
            result = item.work(self._database)
        except TosGuardError as error:
            item.future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the thread must live on, whatever the work did
            item.future.set_exception(self._unexpected(error))
        else:
            item.future.set_result(result)

    def _commit(self, group: list[_Item], counts: dict[Counter, int]) -> None:
        problem: StoreError | None = None
        results: Sequence[Any] | None = None
        try:
            rows = [item.row for item in group if item.row is not None]
            results = self._database.run(lambda connection: self._write_rows(connection, rows, counts))
        except StoreError as error:
            problem = error
        except Exception as error:  # noqa: BLE001 - the thread must live on, and every future must end
            problem = self._unexpected(error)
        if problem is not None:
            self._keep(counts)
        for position, item in enumerate(group):
            if problem is None:
                item.future.set_result(None if results is None else results[position])
            else:
                item.future.set_exception(problem)

    def _write_counts(self, database: Database) -> None:
        with self._wake:
            counts, self._counts = self._counts, {}
        try:
            if counts:
                database.run(lambda connection: self._write_rows(connection, (), counts))
        except StoreError:
            self._keep(counts)
            raise

    def _keep(self, counts: dict[Counter, int]) -> None:
        """Counts wait for a better time; at close there is none."""
        with self._wake:
            if counts and not self._closing:
                self._counts_due = time.monotonic() + _COUNTS_WAIT_SECONDS
                for counter, count in counts.items():
                    self._counts[counter] = self._counts.get(counter, 0) + count

    def _unexpected(self, error: Exception) -> StoreError:
        problem = StoreError(f"cannot write records ({type(error).__name__}: {error})", where=self._database.where)
        problem.__cause__ = error
        return problem


def _is_awaited(item: _Item) -> bool:
    """Whether somebody waits for more than that it is written."""
    return item.work is not None or isinstance(item.row, KeptRows)
