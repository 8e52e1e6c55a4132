"""A number in Valkey or Redis that changes whenever a host says so: for accounts that the host keeps itself.

- It is the engine's time in milliseconds, and more than it was before: it grows also where the engine has lost its memory. Who has known
  it raises it above what they knew; a number that is gone counts as a change.
- Each value has a random mark. An engine that took over without the newest change, and reaches its number by another one, is told apart.
- It is heard of as `tos_guard.stores._hearing` says: announced, asked for five times a second behind that, and half a second old at most.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from importlib.resources import files
from typing import Any, Final

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.stores._announcements_valkey import Subscription
from tos_guard.stores._breaker import Breaker
from tos_guard.stores._fork import watch_forks
from tos_guard.stores._hearing import AskedVersion
from tos_guard.stores._valkey import Connections, Refusal, parse_address

__all__ = ["SharedVersion"]

_DEADLINE: Final = timedelta(milliseconds=250)
"""As for limits."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SCRIPT: Final = files("tos_guard.stores").joinpath("_shared_version.lua").read_bytes()
_ANY: Final = b"*"
_TRIES: Final = 4
"""How often a number is raised. Once more where others have come first; for ever where it is beyond what Lua counts."""

_VALUE: Final = re.compile(rb"([1-9][0-9]{0,15}) ([0-9a-f]{16})")
"""Digits that a float of Lua holds exactly."""


class SharedVersion(AskedVersion):
    """What a host's own `AccountSource` answers `version` with, and names as its ``hearing``: a `HeardVersion`.

    Whoever changes an account, a key or a grant calls `bump` after the change is committed; every process has another `version` within a
    second, or raises. Nothing is opened before the first call; make it before the server forks, or after.

    Args:
        url: Where the engine is: ``redis://user:password@host:port/database``; ``rediss`` for TLS, ``unix`` for a socket.
        name: Of the number; up to 64 letters, digits, dots and dashes.
        deadline: For each call.
        monotonic: Seconds that never go back; tells how old the version is.

    Raises:
        ConfigurationError: The URL or the name cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "accounts",
        deadline: timedelta = _DEADLINE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(f"{name!r} cannot name a version", cure="Take up to 64 letters, digits, dots and dashes")
        address = parse_address(url)
        self._where = f"{address} version {name}"
        self._key = f"tosg:{{{name}}}:version"
        self._channel = f"tosg:{{{name}}}:version:changes"
        self._deadline = deadline.total_seconds()
        self._connections = Connections(address, deadline=self._deadline)
        self._subscription = Subscription(address, deadline=self._deadline)
        self._breaker = Breaker(monotonic=monotonic)
        self._value = b""
        super().__init__(monotonic)
        watch_forks(self)

    def bump(self) -> int:
        """Tell all processes that something has changed, and return the new version. Call it after the change is committed.

        Raises:
            StoreError: The engine did not answer. Others may have heard of it, or not: call it again until it returns.
        """
        with self._knowing:
            known = self._version
        number, value = self._renewed(known, _ANY)
        self._know(number, value)
        return number

    def close(self) -> None:
        """Stop listening and asking. Further use raises `StoreError` once the version is half a second old."""
        super().close()
        self._subscription.close()
        self._connections.close()

    def before_fork(self) -> None:
        """Nothing: connections know their process."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """Know nothing, and listen to nothing."""
        self.forget()

    def forget(self) -> None:
        """As `AskedVersion.forget`."""
        self._subscription.forget()
        self._value = b""
        super().forget()

    @property
    def _is_listening(self) -> bool:
        return self._subscription.is_hearing

    def _listen(self, wake: Callable[[], None]) -> None:
        self._subscription.listen(self._channel, wake)

    def _learn(self, known: int) -> int:
        with self._breaker.trying():
            value = self._asked("GET", self._key) or b""
            if value == self._value and value:
                return known
            number = self._number(value) if value else 0
        if number <= known:
            number, value = self._renewed(known, value)
        self._know(number, value)
        return number

    def _know(self, number: int, value: bytes) -> None:
        with self._knowing:
            if number > self._version:
                self._version, self._value = number, value

    def _renewed(self, known: int, stands: bytes) -> tuple[int, bytes]:
        """The version, made more than *known*: by us, or by who came before us."""
        mark = secrets.token_hex(8)
        with self._breaker.trying():
            for _ in range(_TRIES):
                value = self._asked("EVAL", _SCRIPT, 1, self._key, self._channel, mark, known + 1, stands)
                number = self._number(value)
                if number > known:
                    return number, value
                stands = value
        raise StoreError("the number cannot be raised", where=self._where, cure="Delete its key: that counts as a change")

    def _asked(self, *command: bytes | str | int) -> Any:
        (answer,) = self._connections.ask([command], time.monotonic() + self._deadline)
        if isinstance(answer, Refusal):
            raise StoreError(str(answer), where=self._where, cure="See the engine's log; failure.accounts decides meanwhile")
        return answer

    def _number(self, value: object) -> int:
        found = _VALUE.fullmatch(value) if isinstance(value, bytes) else None
        if found is None:
            self._connections.discard()
            raise StoreError(
                f"a senseless answer ({str(value)[:80]})",
                where=self._where,
                cure="Is this Valkey or Redis, and nothing else under this key?",
            )
        return int(found[1])
