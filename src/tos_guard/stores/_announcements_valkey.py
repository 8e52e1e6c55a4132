"""Announcements over Valkey or Redis, published and subscribed to: beside a PostgreSQL behind a pooler, where nobody can listen.

- A subscription is one connection of its own and one thread. It is asked every `_LOOK_SECONDS` whether it lives, since one that was cut
  off in between says nothing for hours.
- What a message says is not read: it wakes, and whoever wakes asks the store.
- Publishing is left to a thread: a change does not wait for it, and is heard of by asking where it fails.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tos_guard.errors import StoreError
from tos_guard.stores._sql import Connection
from tos_guard.stores._valkey import Address, Connections, parse_address

__all__ = ["Subscription", "ValkeyAnnouncements"]

_DEADLINE: Final = timedelta(milliseconds=250)
"""As for limits."""

_AGAIN_SECONDS: Final = 1.0
"""How long a listener waits before it connects again."""

_LOOK_SECONDS: Final = 1.0
"""How often a subscription on which nothing comes is asked whether it lives."""

_TICK_SECONDS: Final = 0.25
"""How soon a listener sees that it is to stop."""


class Subscription:
    """Wakes whoever listens to a channel. Any thread may call; safe after fork.

    Args:
        address: The engine.
        deadline: Seconds for connecting, and for each answer.
    """

    def __init__(self, address: Address, *, deadline: float) -> None:
        self._address = address
        self._options: dict[str, Any] = {
            "socket_timeout": deadline,
            "socket_connect_timeout": deadline,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
            "protocol": 2,
        }
        self._deadline = deadline
        self._thread: threading.Thread | None = None
        self.forget()

    @property
    def is_hearing(self) -> bool:
        """Whether a message would be heard now, as far as one can know."""
        return self._hearing

    def listen(self, channel: str, wake: Callable[[], None]) -> None:
        """Call *wake* for each message, and whenever messages may have been missed."""
        thread = threading.Thread(target=self._loop, args=(channel, wake), name="tos-guard-listener", daemon=True)
        with suppress(RuntimeError):  # no thread to be had: then everyone asks
            thread.start()
            self._thread = thread

    def forget(self) -> None:
        """In the child of a fork: listen to nothing."""
        self._closing = threading.Event()
        self._hearing = False
        self._thread = None

    def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _loop(self, channel: str, wake: Callable[[], None]) -> None:
        closing = self._closing
        while not closing.is_set():
            connection = redis.ConnectionPool.from_url(self._address.url, **self._options).make_connection()
            with suppress(redis.RedisError, OSError, ValueError, RecursionError):
                self._follow(connection, channel, wake, closing)
            self._hearing = False
            with suppress(redis.RedisError, OSError):
                connection.disconnect()  # type: ignore[no-untyped-call]
            closing.wait(_AGAIN_SECONDS)

    def _follow(self, connection: Any, channel: str, wake: Callable[[], None], closing: threading.Event) -> None:
        connection.connect()
        connection.send_command("SUBSCRIBE", channel)
        spoke_at, is_asked = time.monotonic(), True
        while not closing.is_set():
            if connection.can_read(timeout=min(_TICK_SECONDS, self._deadline)):
                said = connection.read_response()
                spoke_at, is_asked = time.monotonic(), False
                self._hearing = True
                if not (isinstance(said, list) and said[:1] == [b"pong"]):
                    wake()  # for a message; and, with the first answer, for what was announced while nobody listened
                continue
            silent = time.monotonic() - spoke_at
            if is_asked and silent > (self._deadline if not self._hearing else _LOOK_SECONDS + self._deadline):
                raise redis.TimeoutError("no answer in time")
            if not is_asked and silent > _LOOK_SECONDS:
                connection.send_command("PING")
                is_asked = True


class ValkeyAnnouncements:
    """The `Announcements` of a `PostgresStore` whose fleet has a Valkey or Redis server.

    Nothing is opened before it is needed. Everyone who is to hear of one another names one *domain*.

    Args:
        url: Where the engine is: ``redis://user:password@host:port/database``; ``rediss`` for TLS, ``unix`` for a socket.
        domain: Whose announcements they are; part of the name of the channel.
        deadline: For each call.

    Raises:
        ConfigurationError: The URL cannot be used.
    """

    def __init__(self, url: str, *, domain: str, deadline: timedelta = _DEADLINE) -> None:
        address = parse_address(url)
        self._domain = domain
        self._deadline = deadline.total_seconds()
        self._connections = Connections(address, deadline=self._deadline)
        self._subscription = Subscription(address, deadline=self._deadline)
        self._forget_telling()

    def _forget_telling(self) -> None:
        self._starting = threading.Lock()
        self._changed = threading.Event()
        self._ending = False
        self._channels: set[str] = set()
        self._teller: threading.Thread | None = None

    @property
    def is_hearing(self) -> bool:
        """Whether announcements would be heard now, as far as one can know."""
        return self._subscription.is_hearing

    def announce(self, issuer: str, connection: Connection) -> None:
        """Nothing: what is told before the commit would be asked for too early."""

    def committed(self, issuer: str) -> None:
        """Let a thread tell it: at once, or once where changes come faster than they can be told."""
        with self._starting:
            self._channels.add(self._channel(issuer))
            if self._teller is None and not self._ending:
                teller = threading.Thread(target=self._tell, name="tos-guard-announcer", daemon=True)
                with suppress(RuntimeError):  # no thread to be had: then everyone hears by asking
                    teller.start()
                    self._teller = teller
        self._changed.set()

    def listen(self, issuer: str, wake: Callable[[], None]) -> None:
        """Call *wake*, from a thread, whenever the issuer may have changed, and whenever announcements may have been missed."""
        self._subscription.listen(self._channel(issuer), wake)

    def forget(self) -> None:
        """In the child of a fork: hold nothing of the parent's, and listen to nothing."""
        self._subscription.forget()
        self._forget_telling()

    def close(self) -> None:
        """Tell what is not told yet, and stop listening."""
        self._ending = True
        self._changed.set()
        if self._teller is not None:
            self._teller.join()
        self._subscription.close()
        self._connections.close()

    def _channel(self, issuer: str) -> str:
        return f"tosg:{{{self._domain}}}:changes:{hashlib.sha256(issuer.encode()).hexdigest()[:32]}"

    def _tell(self) -> None:
        while not self._ending or self._changed.is_set():
            self._changed.wait()
            self._changed.clear()
            with self._starting:
                channels, self._channels = self._channels, set()
            if channels:
                with suppress(StoreError):
                    self._connections.ask([("PUBLISH", channel, "") for channel in sorted(channels)], time.monotonic() + self._deadline)
