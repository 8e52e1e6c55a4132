"""Connections to Valkey or Redis, for threads and for an event loop.

- A call has one deadline, for everything: waiting for a connection, connecting, asking, reading to the end. Nothing is ever asked twice.
- What cannot be read, comes late or is cut ends the connection, and is a `StoreError`. So is what the caller finds senseless: `discard`.
- Threads take a connection each, of a bounded number. The calls of an event loop share one, where the engine answers them in order.
- After a fork the child makes its own.
- The parser is hiredis, as in redis-py; of a client's other parts nothing is needed, and they double the time of a call.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.stores._fork import watch_forks

__all__ = ["Address", "AsyncConnections", "Command", "Connections", "Refusal", "parse_address"]

Command = Sequence[bytes | str | int]
"""Name and arguments."""

_MOST_CONNECTIONS: Final = 64
"""Of the threads of one process. A call takes a tenth of a millisecond: more would wait for the engine instead of for each other."""

_MOST_WAITING: Final = 10_000
"""Calls of an event loop that wait for answers, about 1 KB each."""

_READ_BYTES: Final = 65_536
_HUGE: Final = re.compile(rb"\*\d{6}")
_DEFAULT_PORT: Final = 6379
_OPTIONS: Final = {"ssl_ca_certs": "cafile", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile", "db": ""}


class Refusal(Exception):
    """An error that the engine answers with, in its words."""

    @property
    def is_without_script(self) -> bool:
        """Whether the engine does not know the script; it has done nothing."""
        return str(self).startswith("NOSCRIPT")


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine is, and how to get in.

    Attributes:
        host: Its name or address.
        port: Its port.
        database: Which of its databases.
        user: Who we are; empty for the default user.
        password: Its password; shown nowhere.
        tls: How to make sure who it is, or None for no encryption.
    """

    host: str
    port: int
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def greeting(self) -> tuple[Command, ...]:
        """What a new connection begins with."""
        user = (self.user,) if self.user else ()
        login: tuple[Command, ...] = (("AUTH", *user, self.password),) if self.password else ()
        chosen: tuple[Command, ...] = (("SELECT", self.database),) if self.database else ()
        return login + chosen


def parse_address(url: str) -> Address:
    """Read ``redis://user:password@host:port/database``, or ``rediss`` for TLS with ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``.

    Raises:
        ConfigurationError: It cannot be read. The text does not repeat the password.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
        options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        database = int(options.pop("db", "") or parts.path.strip("/") or 0)
    except ValueError:
        raise _bad("it is none of an engine") from None
    scheme = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}.get(parts.scheme)
    if scheme is None or not host:
        raise _bad(f"a scheme {parts.scheme!r}, or no host")
    if unknown := sorted(options.keys() - _OPTIONS.keys()):
        raise _bad(f"unknown options {', '.join(unknown)}")
    return Address(
        host,
        _DEFAULT_PORT if port is None else port,
        database,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        _tls(options) if scheme else None,
    )


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if certificate := options.get("ssl_certfile"):
            context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise _bad(f"its certificates cannot be read ({error})") from None
    return context


def _bad(what: str) -> ConfigurationError:
    return ConfigurationError(f"the URL cannot be used: {what}", where="valkey.url", cure="Write redis://host:6379/0, or rediss:// for TLS")


def packed(commands: Sequence[Command]) -> bytes:
    """Commands as they are sent."""
    return b"".join([hiredis.pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]


def _feed(reader: Any, received: bytes) -> None:
    """Hand the parser what was received.

    Raises:
        _Garbled: It announces an array of a size that none of ours has. The parser would take memory for all of it at once.
    """
    if _HUGE.search(received):
        raise _Garbled("an array of more than 99,999 parts")
    reader.feed(received)


def _reader() -> Any:
    return hiredis.Reader(protocolError=_Garbled, replyError=Refusal)


class _Garbled(Exception):
    """Bytes that are no answer."""


def _failure(address: Address, what: str, error: BaseException | None = None) -> StoreError:
    told = f" ({error})" if error is not None and str(error) else ""
    return StoreError(f"{what}{told}", where=str(address), cure="Is the engine running, and reachable from here?")


def _late(address: Address) -> StoreError:
    return StoreError("no answer within the deadline", where=str(address), cure="Is the engine overloaded, or far away?")


def _closed() -> StoreError:
    return StoreError("the connections are closed")


class _Connection:
    """One socket, used by one thread at a time."""

    def __init__(self, address: Address, ends: float) -> None:
        self._address = address
        self._reader = _reader()
        self._socket = socket.create_connection((address.host, address.port), timeout=_left(ends))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.tls is not None:
                self._socket.settimeout(_left(ends))
                self._socket = address.tls.wrap_socket(self._socket, server_hostname=address.host)
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            greeting = address.greeting
            for answer in self.ask(packed(greeting), len(greeting), ends) if greeting else ():
                if isinstance(answer, Refusal):
                    raise StoreError(f"we are refused ({answer})", where=str(address), cure="Look at user and password in valkey.url")
        except BaseException:
            self._socket.close()
            raise

    def ask(self, commands: bytes, count: int, ends: float) -> list[Any]:
        """Write and read.

        Raises:
            OSError: The connection failed; a `TimeoutError` at the end of the time.
            _Garbled: The answer cannot be read.
        """
        self._socket.settimeout(_left(ends))
        self._socket.sendall(commands)
        answers: list[Any] = []
        while len(answers) < count:
            if (answer := self._reader.gets()) is not False:
                answers.append(answer)
                continue
            self._socket.settimeout(_left(ends))
            received = self._socket.recv(_READ_BYTES)
            if not received:
                raise ConnectionResetError("the engine has closed the connection")
            _feed(self._reader, received)
        return answers

    @property
    def is_spoiled(self) -> bool:
        """Whether there is something to read although nothing was asked: its end, most likely."""
        return bool(self._reader.has_data() or self._poll.poll(0))

    def close(self) -> None:
        self._socket.close()


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class Connections:
    """Connections of the threads of a process. Nothing is opened before the first call.

    Args:
        address: The engine.
        most: How many there may be; further calls wait.
    """

    def __init__(self, address: Address, *, most: int = _MOST_CONNECTIONS) -> None:
        self._address = address
        self._most = most
        self._closed = False
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._free = threading.Condition(threading.Lock())
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._taken = 0

    def ask(self, commands: Sequence[Command], ends: float) -> list[Any]:
        """The answers to *commands*, asked in one go; `Refusal` for each that the engine refuses.

        Args:
            commands: What to ask.
            ends: Until when, by `time.monotonic`.

        Raises:
            StoreError: The engine was not reached, or did not answer in time or in order. The commands may have been carried out.
        """
        asked = packed(commands)
        with self._free:
            while True:
                if self._closed:
                    raise _closed()
                connection = self._idle.pop() if self._idle else None
                if connection is not None or self._taken < self._most:
                    self._taken += 1
                    break
                if not self._free.wait(max(0.0, ends - time.monotonic())):
                    raise StoreError(f"all {self._most} connections are in use", where=str(self._address), cure="Is the engine slow?")
        try:
            if connection is not None and connection.is_spoiled:
                self._drop(connection)
                connection = None
            if connection is None:
                connection = _Connection(self._address, ends)
                self._all.add(connection)
            answers = connection.ask(asked, len(commands), ends)
        except TimeoutError:
            raise _late(self._address) from None
        except _Garbled as error:
            raise _failure(self._address, "the answer cannot be read", error) from None
        except OSError as error:
            raise _failure(self._address, "the connection failed", error) from None
        else:
            with self._free:
                if not self._closed:
                    self._idle.append(connection)
                    connection = None
            return answers
        finally:
            if connection is not None:
                self._drop(connection)
            with self._free:
                self._taken -= 1
                self._free.notify()

    def discard(self) -> None:
        """Let go of idle connections: what came over one of them made no sense, and more of it may be on its way."""
        with self._free:
            idle, self._idle = self._idle, []
        for connection in idle:
            self._drop(connection)

    def close(self) -> None:
        """Let go of everything. Further use raises `StoreError`."""
        self._closed = True
        self.discard()

    def _drop(self, connection: _Connection) -> None:
        self._all.discard(connection)
        connection.close()

    def before_fork(self) -> None:
        """Hold still."""
        self._free.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._free.release()

    def after_fork_in_child(self) -> None:
        """Leave the parent's connections to the parent: closed here, they stay open there."""
        for connection in list(self._all):
            connection.close()
        self._reset()


class _Link(asyncio.Protocol):
    """One connection, whose answers come in the order in which was asked."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._reader = _reader()
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int, list[Any]]] = deque()
        self._transport: asyncio.Transport | None = None
        self.process = os.getpid()
        self.loop = asyncio.get_running_loop()

    @property
    def is_open(self) -> bool:
        """Whether it can be asked, here."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and self.process == os.getpid()

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def ask(self, commands: bytes, count: int) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = self.loop.create_future()
        self._waiting.append((future, count, []))
        assert self._transport is not None  # noqa: S101 - it is open
        self._transport.write(commands)
        return future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            _feed(self._reader, data)
            while (answer := self._reader.gets()) is not False:
                if not self._waiting:
                    raise _Garbled("an answer to nothing")
                future, count, answers = self._waiting[0]
                answers.append(answer)
                if len(answers) == count:
                    self._waiting.popleft()
                    if not future.done():
                        future.set_result(answers)
        except _Garbled as error:
            self.end(_failure(self._address, "the answer cannot be read", error))

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(_failure(self._address, "the connection failed", exc or ConnectionResetError("the engine has closed it")))

    def end_late(self) -> None:
        """Close it: an answer is overdue, and all that were asked for after it are."""
        self.end(_late(self._address))

    def end(self, error: StoreError) -> None:
        """Close it; whoever waits gets the error."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        while self._waiting:
            future, _, _ = self._waiting.popleft()
            if not future.done():
                # One each: an error that was raised holds on to every frame it passed.
                future.set_exception(StoreError(error.what, where=error.where, cure=error.cure))


class AsyncConnections:
    """The connection of an event loop, which is opened with the first call. Another loop, or a child, opens its own.

    Args:
        address: The engine.
        most: How many calls may wait for answers.
    """

    def __init__(self, address: Address, *, most: int = _MOST_WAITING) -> None:
        self._address = address
        self._most = most
        self._closed = False
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link] | None = None

    async def ask(self, commands: Sequence[Command], ends: float) -> list[Any]:
        """As `Connections.ask`. A call that is cancelled may have been carried out."""
        if self._closed:
            raise _closed()
        asked = packed(commands)
        loop = asyncio.get_running_loop()
        link = self._link
        if link is None or link.loop is not loop or not link.is_open:
            link = await self._open(loop, ends)
        if link.waiting >= self._most:
            raise StoreError(f"{self._most} calls wait for answers", where=str(self._address), cure="Is the engine slow?")
        future = link.ask(asked, len(commands))
        timer = loop.call_later(max(0.0, ends - time.monotonic()), link.end_late)
        try:
            return await future
        finally:
            timer.cancel()

    def discard(self) -> None:
        """Let go of the connection: what came over it made no sense, and more of it may be on its way."""
        link, self._link = self._link, None
        if link is not None and link.is_open and not link.loop.is_closed():
            link.end(_failure(self._address, "a senseless answer came before"))

    def close(self) -> None:
        """Let go of everything. Further use raises `StoreError`."""
        self._closed = True
        self.discard()

    async def _open(self, loop: asyncio.AbstractEventLoop, ends: float) -> _Link:
        """One attempt for all that wait for it."""
        opening = self._opening
        if opening is None or opening.done() or opening.get_loop() is not loop:
            opening = self._opening = loop.create_task(self._connect(ends))
            opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(opening)

    async def _connect(self, ends: float) -> _Link:
        address = self._address
        link: _Link | None = None
        try:
            async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                loop = asyncio.get_running_loop()
                _, link = await loop.create_connection(lambda: _Link(address), address.host, address.port, ssl=address.tls)
                if address.greeting:
                    for answer in await link.ask(packed(address.greeting), len(address.greeting)):
                        if isinstance(answer, Refusal):
                            raise StoreError(
                                f"we are refused ({answer})", where=str(address), cure="Look at user and password in valkey.url"
                            )
        except BaseException as error:
            if link is not None:
                link.end(_closed())
            if isinstance(error, TimeoutError):
                raise _late(address) from None
            if isinstance(error, OSError):
                raise _failure(address, "the connection failed", error) from None
            raise
        self._link = link
        if self._closed:
            self.discard()
        return link
