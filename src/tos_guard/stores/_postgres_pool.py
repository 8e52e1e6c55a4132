"""Connections to one PostgreSQL server: bounded in number, bounded in time, given back or closed.

- A call has a deadline, kept here and not only by the server: one that is stopped answers nothing, and says nothing either.
- A connection that failed is never used again; when one turns out to be cut, those that lie idle are thought to be cut as well.
- After a connection could not be made, or did not answer in time, all calls fail at once for a second; then one of them tries
  (`tos_guard.stores._breaker`). Those that wait would otherwise take every thread of the host.
- Connections are made by whoever needs one: there is no thread, and a fork takes none along. A child of a fork forgets its parent's
  connections without closing them: what it would say to the server, it would say in the parent's name.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import psycopg
from psycopg import waiting
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tos_guard.errors import ConfigurationError
from tos_guard.stores._breaker import Breaker
from tos_guard.stores._fork import watch_forks

__all__ = ["AsyncLink", "AsyncPool", "LateError", "Link", "Pool", "Server", "close_link"]

T = TypeVar("T")

_LOOK_SECONDS: Final = 0.1
"""How often a call that waits looks at the time."""

_IDLE_SECONDS: Final = 60.0
"""Connections idle for longer are closed: what stands between us and the server may have forgotten them without a word."""

_CONNECT_SECONDS: Final = 2
"""How long connecting may take: psycopg does not wait for less."""

_KEEPALIVE: Final = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


class LateError(psycopg.OperationalError):
    """No answer before the deadline."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is, and how it is spoken to.

    Attributes:
        conninfo: As psycopg takes it; may hold a password.
        deadline: Seconds for which a call may take.
        size: Connections at most, of each colour and event loop.
        prepare: Whether statements may be prepared. A pooler that gives each transaction another connection may not know them.
    """

    conninfo: str = field(repr=False)
    deadline: float
    size: int
    prepare: bool = True

    @property
    def where(self) -> str:
        """Host and database, for messages.

        Raises:
            ConfigurationError: The conninfo is none.
        """
        try:
            members = conninfo_to_dict(self.conninfo)
        except psycopg.Error:
            raise ConfigurationError(
                "is no address of a PostgreSQL database", where="store", cure="Write postgresql://user@host/database."
            ) from None
        host, port = members.get("host") or "localhost", members.get("port") or 5432
        return f"postgresql://{host}:{port}/{members.get('dbname') or ''}"

    @property
    def options(self) -> dict[str, Any]:
        """How a connection is made; what the conninfo says itself, holds."""
        ours: dict[str, str | int] = {
            "application_name": "tos-guard",
            "connect_timeout": _CONNECT_SECONDS,
            "tcp_user_timeout": int(1000 * self.deadline),
            **_KEEPALIVE,
        }
        said = conninfo_to_dict(self.conninfo)
        return {
            "conninfo": make_conninfo(self.conninfo, **{name: value for name, value in ours.items() if name not in said}),
            "autocommit": True,  # transactions begin and end with words of ours, in as few round trips as can be
            "prepare_threshold": 5 if self.prepare else None,
        }


def _bounded(steps: Generator[Any, Any, T], until: float) -> Generator[Any, Any, T]:
    """*steps* of a call, until it is too late for an answer."""
    try:
        waits_for = next(steps)
        while True:
            ready = yield waits_for
            if not ready and time.monotonic() >= until:  # what has come is an answer, however late this process looks
                raise LateError("no answer in time")
            waits_for = steps.send(ready)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


class Link(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose calls end by a time.

    Attributes:
        until: When, on `time.monotonic`.
        idle_since: Since when nobody has used it.
    """

    until = float("inf")
    idle_since = 0.0

    def wait(self, gen: Generator[Any, Any, T], interval: float = _LOOK_SECONDS, timeout: float | None = None) -> T:
        """As psycopg's, and no longer than until then.

        Raises:
            LateError: It was.
        """
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}  # of which older releases do not know
        return super().wait(_bounded(gen, self.until), interval, **options)

    def __del__(self, _warn: Any = None, /) -> None:
        """Nothing: whoever made it closes it, unless a fork has taken it along."""


class AsyncLink(psycopg.AsyncConnection[tuple[Any, ...]]):
    """`Link`, with `await`."""

    until = float("inf")
    idle_since = 0.0

    async def wait(
        self,
        gen: Generator[Any, Any, T],
        interval: float = _LOOK_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109 - as psycopg's
    ) -> T:
        """As `Link.wait`. Whoever is cancelled leaves at once: psycopg's own would first ask the server to stop, and wait for its answer.

        Raises:
            LateError: As `Link.wait`.
        """
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        return await waiting.wait_async(_bounded(gen, self.until), self.pgconn.socket, interval=interval, **options)

    def __del__(self, _warn: Any = None, /) -> None:
        """As of `Link`."""


def close_link(link: Link | AsyncLink) -> None:
    """Close a connection, in whatever state it is, without asking its server."""
    link.pgconn.finish()


class Pool:
    """Connections for threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.breaker = Breaker()
        self._closed = False
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._idle: list[Link] = []
        self._count = 0

    def take(self, until: float) -> tuple[Link, bool]:
        """A connection whose calls end by *until*, and whether it is new.

        Raises:
            psycopg.OperationalError: None could be made, or none became free in time.
        """
        with self._changed:
            while True:
                if self._closed:
                    raise psycopg.OperationalError("the store is closed")
                if (link := self._pop()) is not None:
                    link.until = until
                    return link, False
                if self._count < self.server.size:
                    self._count += 1
                    break
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    raise LateError(f"all {self.server.size} connections are in use")
        try:
            link = self.connect()
        except BaseException:
            with self._changed:
                self._count -= 1
                self._changed.notify()
            raise
        link.until = until
        return link, True

    def connect(self) -> Link:
        """A connection that the pool does not know of.

        Raises:
            psycopg.OperationalError: The server refuses, or does not answer.
        """
        return Link.connect(**self.server.options)

    def give(self, link: Link, *, usable: bool) -> None:
        """Take a connection back; one that is not *usable* is closed, and with it those that lie idle."""
        with self._changed:
            idle: list[Link] = []
            if usable and not self._closed:
                link.idle_since = time.monotonic()
                self._idle.append(link)
            else:
                idle, self._idle = [link, *self._idle], []
                self._count -= len(idle)
            self._changed.notify_all()
        for each in idle:
            close_link(each)

    def close(self) -> None:
        """Close what lies idle now, and what is given back later."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._count -= len(idle)
            self._changed.notify_all()
        for each in idle:
            close_link(each)

    def before_fork(self) -> None:
        """Hold still what is copied."""
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Forget the parent's connections; it closes them."""
        self._reset()

    def _pop(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if time.monotonic() - link.idle_since < _IDLE_SECONDS:
                return link
            self._count -= 1
            close_link(link)
        return None


@dataclass(eq=False)
class _OfLoop:
    """Connections of one event loop."""

    free: asyncio.Semaphore
    idle: list[AsyncLink] = field(default_factory=list)


class AsyncPool:
    """Connections for coroutines. Each event loop has its own, since a connection cannot be waited for by another."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._closed = False
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = weakref.WeakKeyDictionary()
        watch_forks(self)

    async def take(self, until: float) -> tuple[AsyncLink, bool]:
        """As `Pool.take`.

        Raises:
            psycopg.OperationalError: As `Pool.take`.
        """
        if self._closed:
            raise psycopg.OperationalError("the store is closed")
        mine = self._mine()
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await mine.free.acquire()
        except TimeoutError:
            raise LateError(f"all {self.server.size} connections are in use") from None
        while mine.idle:
            link = mine.idle.pop()
            if time.monotonic() - link.idle_since < _IDLE_SECONDS:
                link.until = until
                return link, False
            close_link(link)
        try:
            link = await AsyncLink.connect(**self.server.options)
        except BaseException:
            mine.free.release()
            raise
        link.until = until
        return link, True

    def give(self, link: AsyncLink, *, usable: bool) -> None:
        """As `Pool.give`, in the loop that took it."""
        mine = self._mine()
        if usable and not self._closed:
            link.idle_since = time.monotonic()
            mine.idle.append(link)
        else:
            for each in (link, *mine.idle):
                close_link(each)
            mine.idle.clear()
        mine.free.release()

    def close(self) -> None:
        """As `Pool.close`, for all loops."""
        self._closed = True
        for each in list(self._loops.values()):
            while each.idle:
                close_link(each.idle.pop())

    def before_fork(self) -> None:
        """Nothing: a loop does not fork while it works."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """As `Pool.after_fork_in_child`."""
        self._loops = weakref.WeakKeyDictionary()

    def _mine(self) -> _OfLoop:
        loop = asyncio.get_running_loop()
        if (mine := self._loops.get(loop)) is None:
            mine = self._loops[loop] = _OfLoop(asyncio.Semaphore(self.server.size))
        return mine
