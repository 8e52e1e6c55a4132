"""Connections to Valkey or Redis, for threads and for an event loop: redis-py, held to what our calls need.

- Nothing is ever asked twice: a call whose answer was lost may have been carried out, and only its caller knows what that means. So
  redis-py's own retries are off.
- A call of an event loop has one deadline for everything. A thread's has it for each of what it waits for: a free connection, a new one,
  the whole answer, however it trickles in.
- What cannot be read, comes late or is cut ends the connection, and is a `StoreError`. So is what the caller finds senseless: `discard`.
- Answers come as the engine gave them, and not as redis-py would read them.
- After a fork the child makes its own connections.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import DefaultParser, parse_url
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from tos_guard.errors import ConfigurationError, StoreError

__all__ = ["Address", "AsyncConnections", "Command", "Connections", "Refusal", "parse_address"]

Command = Sequence[bytes | str | int]
"""Name and arguments."""

_MOST_CONNECTIONS: Final = 64
"""Of one process, or of one event loop. A call takes a tenth of a millisecond: more would wait for the engine instead of for each other."""

_SCHEMES: Final = {"valkey": "redis", "valkeys": "rediss"}
_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_OPTIONS: Final = _FILES | {"db", "ssl_cert_reqs", "ssl_check_hostname"}


class Refusal(Exception):
    """An error that the engine answers with, in its words.

    Attributes:
        is_without_script: The engine does not know the script; it has done nothing.
    """

    def __init__(self, error: ResponseError) -> None:
        super().__init__(str(error))
        self.is_without_script: bool = isinstance(error, NoScriptError)


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine is, and how to get in.

    Attributes:
        url: As redis-py reads it; shown nowhere, since it may hold a password.
        where: Host and port, or the path of a socket, for messages.
    """

    url: str = field(repr=False)
    where: str

    def __str__(self) -> str:
        return self.where


def parse_address(url: str) -> Address:
    """Read ``redis://user:password@host:port/database``, ``rediss`` for TLS, or ``unix:///path/to.sock``.

    With TLS the engine's certificate is checked, by ``ssl_ca_certs`` where it is given; ``ssl_certfile`` and ``ssl_keyfile`` are ours.

    Raises:
        ConfigurationError: It cannot be read. The text does not repeat the password.
    """
    try:
        parts = urlsplit(url)
        scheme = _SCHEMES.get(parts.scheme, parts.scheme)
        plain = url if scheme == parts.scheme else parts._replace(scheme=scheme).geturl()
        where = parts.path if scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
        read: dict[str, Any] = parse_url(plain)  # type: ignore[no-untyped-call]
    except ValueError:
        raise _bad("it is none of an engine") from None
    if scheme != "unix" and not parts.hostname:
        raise _bad("there is no host")
    if scheme != "unix" and not (parts.path.strip("/") or "0").isdecimal():
        raise _bad("the database is no number")
    named = {name: value for name, _, value in (option.partition("=") for option in parts.query.split("&") if option)}
    if unknown := sorted(name for name in named if name not in _OPTIONS):
        # Words without a value are not repeated: one may be what follows a question mark in a password.
        raise _bad(f"unknown options {', '.join(name if named[name] else '…' for name in unknown)}")
    if missing := [value for name, value in named.items() if name in _FILES and not Path(unquote(value)).is_file()]:
        raise _bad(f"there is no file {missing[0]}")
    if scheme == "rediss" and str(read.get("ssl_cert_reqs", "required")) != "required":
        raise _bad("ssl_cert_reqs is not required: anybody could answer in the engine's place")
    return Address(plain, where)


def _bad(what: str) -> ConfigurationError:
    return ConfigurationError(f"the URL cannot be used: {what}", where="valkey.url", cure="Write redis://host:6379/0, or rediss:// for TLS")


def _options(deadline: float) -> dict[str, Any]:
    """What connections of both colours are made with. RESP2, in which answers have one form."""
    return {
        "socket_timeout": deadline,
        "socket_connect_timeout": deadline,
        "health_check_interval": 0,
        "protocol": 2,
    }


@contextmanager
def _told(address: Address) -> Iterator[None]:
    """What goes wrong on the way is our error."""
    try:
        yield
    except (redis.TimeoutError, TimeoutError):
        raise StoreError("no answer within the deadline", where=str(address), cure="Is the engine overloaded, or far away?") from None
    except AuthenticationError as error:
        raise StoreError(f"we are refused ({error})", where=str(address), cure="Look at user and password in valkey.url") from None
    except (RedisError, OSError, ValueError, RecursionError) as error:  # a senseless answer is a ValueError in some of redis-py's readers
        what = f"the connection failed ({type(error).__name__}: {error})"
        raise StoreError(what, where=str(address), cure="Is the engine running, and reachable from here?") from None


def _answers(answers: Sequence[Any], count: int) -> list[Any]:
    if len(answers) != count:
        raise RedisError(f"{len(answers)} answers to {count} commands")
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            raise answer
    return [Refusal(answer) if isinstance(answer, ResponseError) else answer for answer in answers]


def _closed() -> StoreError:
    return StoreError("the connections are closed")


_Parser: Any = DefaultParser


class _BoundedParser(_Parser):  # type: ignore[misc]
    """Reads an answer in the time of a connection as a whole: redis-py's own gives it anew to each part that arrives."""

    _seconds = _ends = float("inf")

    def on_connect(self, connection: Any, **options: Any) -> None:
        self._seconds = connection.socket_timeout
        super().on_connect(connection, **options)

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        self._ends = time.monotonic() + self._seconds
        return super().read_response(*arguments, **options)

    def read_from_socket(self, *arguments: Any, **options: Any) -> Any:
        if "raise_on_timeout" in options:  # nobody waits for an answer
            return super().read_from_socket(*arguments, **options)
        left = self._ends - time.monotonic()
        if left <= 0:
            raise redis.TimeoutError("no answer in time")
        return super().read_from_socket(timeout=left)


class Connections:
    """Connections of the threads of a process. Nothing is opened before the first call.

    Args:
        address: The engine.
        deadline: Seconds for each of what a call waits for.

    Raises:
        ConfigurationError: The URL of *address* cannot be used.
    """

    def __init__(self, address: Address, *, deadline: float = 0.25) -> None:
        self._address = address
        self._closed = False
        options = _options(deadline) | {
            "retry": Retry(NoBackoff(), 0),
            "max_connections": _MOST_CONNECTIONS,
            "timeout": deadline,
            "parser_class": _BoundedParser,
        }
        self._client = redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(address.url, **options))
        self._client.response_callbacks.clear()

    def ask(self, commands: Sequence[Command], ends: float) -> list[Any]:
        """The answers to *commands*, asked in one go; `Refusal` for each that the engine refuses.

        Args:
            commands: What to ask.
            ends: Until when it may begin, by `time.monotonic`.

        Raises:
            StoreError: The engine was not reached, or did not answer in time or in order. The commands may have been carried out.
        """
        if self._closed:
            raise _closed()
        with _told(self._address):
            if time.monotonic() >= ends:
                raise TimeoutError
            if len(commands) == 1:
                try:
                    return _answers([self._client.execute_command(*commands[0])], 1)  # type: ignore[no-untyped-call]
                except ResponseError as refusal:
                    return [Refusal(refusal)]
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return _answers(pipeline.execute(raise_on_error=False), len(commands))

    def discard(self) -> None:
        """Let go of idle connections: what came over one of them made no sense, and more of it may be on its way."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Let go of everything. Further use raises `StoreError`."""
        self._closed = True
        self._client.connection_pool.disconnect(inuse_connections=False)


class AsyncConnections:
    """Connections of an event loop, opened as they are needed. Another loop, or a child, opens its own.

    Args:
        address: The engine.
        deadline: Seconds for one call.

    Raises:
        ConfigurationError: The URL of *address* cannot be used.
    """

    def __init__(self, address: Address, *, deadline: float = 0.25) -> None:
        self._address = address
        self._deadline = deadline
        self._closed = False
        self._of: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._client: redis.asyncio.Redis | None = None
        self._turns = asyncio.Semaphore(_MOST_CONNECTIONS)

    async def ask(self, commands: Sequence[Command], ends: float) -> list[Any]:
        """As `Connections.ask`, with the answers until *ends*. A call that is cancelled may have been carried out."""
        if self._closed:
            raise _closed()
        client = self._client_here()
        with _told(self._address):
            async with asyncio.timeout(max(0.0, ends - time.monotonic())), self._turns:
                if len(commands) == 1:
                    try:
                        return _answers([await client.execute_command(*commands[0])], 1)  # type: ignore[no-untyped-call]
                    except ResponseError as refusal:
                        return [Refusal(refusal)]
                pipeline = client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                return _answers(await pipeline.execute(raise_on_error=False), len(commands))

    def _client_here(self) -> redis.asyncio.Redis:
        here = (os.getpid(), asyncio.get_running_loop())
        if self._client is None or self._of != here:
            options = _options(self._deadline) | {"retry": AsyncRetry(NoBackoff(), 0)}
            # Whoever would have to wait for a connection waits here: redis-py's pool that waits costs each call 30 microseconds.
            self._turns = asyncio.Semaphore(_MOST_CONNECTIONS)
            pool = redis.asyncio.ConnectionPool.from_url(self._address.url, **options)
            self._client, self._of = redis.asyncio.Redis(connection_pool=pool), here
            self._client.response_callbacks.clear()
        return self._client

    async def discard(self) -> None:
        """As `Connections.discard`."""
        client, self._client = self._client, None
        if client is not None and self._of == (os.getpid(), asyncio.get_running_loop()):
            await client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Let go of everything. Further use raises `StoreError`."""
        self._closed = True
        await self.discard()
