"""Which proofs were used: in this process, or in a file that the processes of one host share.

- What is remembered is a digest and until when, nothing else. Times are the clock's, and never go back.
- A state that is new or was lost has no past: proofs that may be older than it count as forgotten, and are refused, not believed.
- Memory is bounded: where too many proofs of the last minutes are known, the newest is refused with `StoreError`, and none is forgotten.
- The file need not be durable: what a crash of the machine takes from it is younger than the crash, and the state then begins anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from tos_guard.errors import StoreError
from tos_guard.protocols import AsyncReplayCache, Clock, ReplayCache, Use
from tos_guard.stores._breaker import Breaker
from tos_guard.stores._database import Database, Schema
from tos_guard.stores._fork import watch_forks
from tos_guard.stores._limits_sqlite import host_boot

__all__ = ["AsyncFallbackReplays", "FallbackReplays", "MemoryReplays", "SQLiteReplays"]

_MAX_KNOWN: Final = 1_000_000
"""Uses kept in memory, about 150 bytes each: 3,000 a second for five minutes."""

_PATIENCE_SECONDS: Final = 2.0
_SWEEP_ROWS: Final = 4
"""Rows whose time is over that each use removes: more than it adds."""

_SCHEMA: Final = Schema(
    what="used proofs",
    application_id=0x746F7372,  # "tosr"
    migrations=(
        (
            "CREATE TABLE state (since INTEGER NOT NULL, newest INTEGER NOT NULL, boot TEXT NOT NULL)",
            "CREATE TABLE used (use BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID",
            "CREATE INDEX used_until ON used (until)",
        ),
    ),
)


class MemoryReplays:
    """A `ReplayCache` of one process. With several processes, each of them takes a proof once.

    Args:
        clock: The present.
        most: How many uses are kept.
    """

    blocks = False

    def __init__(self, *, clock: Clock, most: int = _MAX_KNOWN) -> None:
        self._clock = clock
        self._most = most
        self._closed = False
        self._since = self._newest = _micros(clock())
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._until: OrderedDict[bytes, int] = OrderedDict()

    def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        """Use a proof; see `ReplayCache.use`.

        Raises:
            StoreError: More uses are known than may be kept, or this is closed.
        """
        with self._lock:
            if self._closed:
                raise StoreError("the replay cache is closed")
            self._newest = now = max(self._newest, _micros(self._clock()))
            while self._until and next(iter(self._until.values())) <= now:
                self._until.popitem(last=False)
            if use in self._until:
                return "used"
            if _micros(made_after) <= self._since:
                return "forgotten"
            if len(self._until) >= self._most:
                raise StoreError(f"{self._most} proofs were used within minutes", where="replay cache", cure="Share it over Valkey")
            self._until[use] = now + _micros_of(keep)
            return "first"

    def remember(self, use: bytes, keep: timedelta) -> None:
        """Somebody else has let the proof pass."""
        with self._lock:
            if len(self._until) < self._most:
                self._until[use] = _micros(self._clock()) + _micros_of(keep)

    def close(self) -> None:
        """Forget everything. Further use raises `StoreError`."""
        with self._lock:
            self._closed = True
            self._until.clear()

    def before_fork(self) -> None:
        """Hold still while what is known is copied."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the parent and the other children use proofs that this process does not hear of."""
        self._reset()
        self._since = max(self._newest, _micros(self._clock()))


class SQLiteReplays:
    """A `ReplayCache` for the processes of one host, in a file on a local file system.

    Args:
        path: The file; made when absent, mode 0600. Its folder must exist.
        clock: The present.
        boot: Which start of the machine this is: after another, what was committed last may be lost.

    Raises:
        ConfigurationError: The folder is missing, or the file is something else or of a newer release.
        StoreError: The file cannot be created, opened or migrated.
    """

    blocks = True

    def __init__(self, path: Path, *, clock: Clock, boot: Callable[[], str] = host_boot) -> None:
        self._clock = clock
        self._boot = boot()
        self._database = Database(path, _SCHEMA, durable=False, patience=_PATIENCE_SECONDS)

    def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        """Use a proof; see `ReplayCache.use`.

        Raises:
            StoreError: The engine failed, others wrote for too long, or this is closed.
        """
        with self._database.write() as connection:
            now = _micros(self._clock())
            state = connection.execute("SELECT since, newest FROM state WHERE boot = ?", (self._boot,)).fetchone()
            if state is None:
                newest = connection.execute("SELECT max(newest) FROM state").fetchone()[0]
                since = now = max(now, newest or 0)
                connection.execute("DELETE FROM state")
                connection.execute("INSERT INTO state VALUES (?, ?, ?)", (since, now, self._boot))
            else:
                since, newest = state
                now = max(now, newest)
                connection.execute("UPDATE state SET newest = ?", (now,))
            ended = "DELETE FROM used WHERE use IN (SELECT use FROM used WHERE until <= ? LIMIT ?)"
            connection.execute(ended, (now, _SWEEP_ROWS))
            known = connection.execute("SELECT 1 FROM used WHERE use = ? AND until > ?", (use, now)).fetchone()
            if known is not None:
                return "used"
            if _micros(made_after) <= since:
                return "forgotten"
            connection.execute("INSERT OR REPLACE INTO used VALUES (?, ?)", (use, now + _micros_of(keep)))
            return "first"

    def close(self) -> None:
        """Let go of the file. Further use raises `StoreError`."""
        self._database.close()


class FallbackReplays:
    """A `ReplayCache` that knows what to do when another one fails: nothing (``deny``), or to remember in this process alone (``local``).

    Args:
        engine: The other one.
        is_local: Whether this process goes on alone. A proof may then be used once in each.
        on_use: Called with the error each time that this process decided alone. It must not raise, and may be called by any thread.
        clock: The present.
        on_change: Called with the failure when the engine is left alone from now on, and with None when it answers again. Likewise.
    """

    def __init__(
        self,
        engine: ReplayCache,
        *,
        is_local: bool,
        on_use: Callable[[StoreError], None],
        clock: Clock,
        on_change: Callable[[StoreError | None], None] | None = None,
    ) -> None:
        self._engine = engine
        self._alone = _Alone(is_local, on_use, clock, on_change)

    @property
    def blocks(self) -> bool:
        """Whether the engine blocks; see `ReplayCache.blocks`."""
        return self._engine.blocks

    def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        """Use a proof; see `ReplayCache.use`.

        Raises:
            StoreError: The engine failed, and the mode is ``deny``.
        """
        try:
            with self._alone.breaker.trying():
                said = self._engine.use(use, made_after=made_after, keep=keep)
        except StoreError as error:
            return self._alone.use(error, use, made_after, keep)
        self._alone.heard(said, use, keep)
        return said

    def close(self) -> None:
        """Close the engine. Further use raises `StoreError`."""
        self._alone.closed = True
        self._engine.close()


class AsyncFallbackReplays:
    """`FallbackReplays` over an `AsyncReplayCache`."""

    def __init__(
        self,
        engine: AsyncReplayCache,
        *,
        is_local: bool,
        on_use: Callable[[StoreError], None],
        clock: Clock,
        on_change: Callable[[StoreError | None], None] | None = None,
    ) -> None:
        self._engine = engine
        self._alone = _Alone(is_local, on_use, clock, on_change)

    async def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        """As `FallbackReplays.use`."""
        try:
            with self._alone.breaker.trying():
                said = await self._engine.use(use, made_after=made_after, keep=keep)
        except StoreError as error:
            return self._alone.use(error, use, made_after, keep)
        self._alone.heard(said, use, keep)
        return said

    async def close(self) -> None:
        """As `FallbackReplays.close`."""
        self._alone.closed = True
        await self._engine.close()


class _Alone:
    """What a process knows by itself, for while its engine is down."""

    def __init__(
        self, is_local: bool, on_use: Callable[[StoreError], None], clock: Clock, on_change: Callable[[StoreError | None], None] | None
    ) -> None:
        self.breaker = Breaker(on_change=on_change)
        self.known = MemoryReplays(clock=clock)
        self.closed = False
        self._is_local = is_local
        self._on_use = on_use

    def use(self, error: StoreError, use: bytes, made_after: datetime, keep: timedelta) -> Use:
        """The engine failed, is left alone, or was closed with this."""
        if not self._is_local or self.closed:
            raise error
        self._on_use(error)
        return self.known.use(use, made_after=made_after, keep=keep)

    def heard(self, said: Use, use: bytes, keep: timedelta) -> None:
        """The engine answered. What it let pass, this process does not let pass again when it is alone a moment later."""
        if self._is_local and said == "first":
            self.known.remember(use, keep)


def _micros(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def _micros_of(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
