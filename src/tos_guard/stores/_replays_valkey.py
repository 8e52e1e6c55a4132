"""Which proofs were used, for the processes of a fleet: in Valkey or Redis (``_replays_valkey.lua``, docs/adr/0009-a-fleet.md).

- One use is one script, in one round trip under a deadline. One whose answer was lost may have been carried out, and counts as used.
- Time is the engine's, and never goes back. Set ahead, it forgets uses early, so its clock is to be slewed and not set.
- An engine that was restarted, promoted or emptied may have lost uses: it begins anew, and what may be older is *forgotten*, whatever it
  has kept. A restart is noticed by the script, which is not stored; everything else by the engine's history. `CLOCKS_APART` is added, since
  the process that let a proof pass may have had another clock.
- A process that comes from another engine (a primary that lived on beside its successor) tells how long ago it asked there.
- An engine that may evict keys would forget without a word, and is refused.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from importlib.resources import files
from itertools import count
from typing import Any, Final

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.protocols import Clock, Use
from tos_guard.stores._limits_valkey import DEADLINE
from tos_guard.stores._valkey import AsyncConnections, Command, Connections, Refusal, parse_address

__all__ = ["CLOCKS_APART", "AsyncValkeyReplays", "ValkeyReplays"]

CLOCKS_APART: Final = timedelta(seconds=1)
"""How far the clocks of the fleet's hosts and of the engine may differ: for so long after a loss every proof counts as forgotten."""

_SCRIPT: Final = files("tos_guard.stores").joinpath("_replays_valkey.lua").read_bytes()
_SCRIPT_DIGEST: Final = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()
_SAID: Final[dict[int, Use]] = {0: "first", 1: "used", 2: "forgotten"}
_DOMAIN_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_MAX_DOMAIN: Final = 64

_Steps = Generator[Command, Any, Use]


class _State:
    """What a process knows of the state. Any thread may call."""

    def __init__(self, domain: str, *, where: str, clock: Clock, apart: timedelta, unsafe_time: Callable[[], int] | None) -> None:
        if not 0 < len(domain) <= _MAX_DOMAIN or not _DOMAIN_CHARS.issuperset(domain):
            raise ConfigurationError(f"{domain!r} cannot name a domain", cure="Take up to 64 letters, digits, dots and dashes")
        self._where = f"{where} domain {domain}"
        self._prefix = f"tosg:{{{domain}}}:".encode()
        self._clock = clock
        self._apart = _millis_of(apart)
        self._unsafe_time = unsafe_time
        self._numbers = count(1)
        self._last: tuple[bytes, float] = (b"", 0.0)
        """The state in which the last use was answered, and when."""

    def use(self, use: bytes, made_after: datetime, keep: timedelta) -> _Steps:
        """Use a proof: gives what is to be asked, and gets what was answered."""
        keys = (self._prefix + b"proofs", self._prefix + b"p:" + use)
        answer = yield ("EVALSHA", _SCRIPT_DIGEST, 2, *keys, *(told := self._told(made_after, keep, is_bringing=False)))
        if isinstance(answer, Refusal) and answer.is_without_script:
            answer = yield ("EVAL", _SCRIPT, 2, *keys, *(told := self._told(made_after, keep, is_bringing=True)))
        if isinstance(answer, Refusal):
            raise self._failed(str(answer))
        match answer:
            case [number, 3] if number == told[0]:
                raise self._failed("maxmemory-policy: it would forget what was used, without a word", cure="Set it to noeviction")
            case [number, int(said), bytes(state)] if number == told[0] and said in _SAID:
                self._last = state, time.monotonic()
                return _SAID[said]
        raise self._failed(f"a senseless answer ({str(answer)[:80]})", cure="Is this Valkey or Redis, and nothing in between?")

    def _told(self, made_after: datetime, keep: timedelta, *, is_bringing: bool) -> tuple[bytes, ...]:
        known, when = self._last
        numbers = (next(self._numbers), is_bringing, _millis(made_after), _millis_of(keep), _millis(self._clock()), self._apart)
        age = int((time.monotonic() - when) * 1000) if known else 0
        test_time = b"" if self._unsafe_time is None else b"%d" % self._unsafe_time()
        return (*(b"%d" % number for number in numbers), known, b"%d" % age, secrets.token_hex(8).encode(), test_time)

    def _failed(self, what: str, *, cure: str = "See the engine's log; failure.replay decides meanwhile") -> StoreError:
        return StoreError(what, where=self._where, cure=cure)


class ValkeyReplays:
    """A `ReplayCache` for the processes of a fleet.

    Nothing is opened before the first call. A process may be forked at any time.

    Args:
        url: Where the engine is: ``redis://user:password@host:port/database``; ``rediss`` for TLS, ``unix`` for a socket.
        domain: Whose uses they are; up to 64 letters, digits, dots and dashes.
        clock: The present, as by it proofs are judged.
        deadline: For each call.
        clocks_apart: How far the clocks of the fleet and of the engine may differ.
        unsafe_time: The engine's time in milliseconds, for tests alone.

    Raises:
        ConfigurationError: The URL or the name of the domain cannot be used.
    """

    blocks: bool = True
    """Each call waits for the network."""

    def __init__(
        self,
        url: str,
        *,
        domain: str,
        clock: Clock,
        deadline: timedelta = DEADLINE,
        clocks_apart: timedelta = CLOCKS_APART,
        unsafe_time: Callable[[], int] | None = None,
    ) -> None:
        address = parse_address(url)
        self._state = _State(domain, where=str(address), clock=clock, apart=clocks_apart, unsafe_time=unsafe_time)
        self._deadline = deadline.total_seconds()
        self._connections = Connections(address, deadline=self._deadline)

    def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        """Use a proof; see `ReplayCache.use`.

        Raises:
            StoreError: The engine failed, or is closed. The proof may count as used.
        """
        steps = self._state.use(use, made_after, keep)
        ends = time.monotonic() + self._deadline
        try:
            asked = next(steps)
            while True:
                (answer,) = self._connections.ask((asked,), ends)
                asked = steps.send(answer)
        except StopIteration as done:
            said: Use = done.value
            return said
        except StoreError:
            self._connections.discard()
            raise

    def close(self) -> None:
        """Let go of the connections. Further use raises `StoreError`."""
        self._connections.close()


class AsyncValkeyReplays:
    """`ValkeyReplays` whose calls await: an `AsyncReplayCache`.

    Args:
        url: As of `ValkeyReplays`, like all the others.
        domain: See there.
        clock: See there.
        deadline: See there.
        clocks_apart: See there.
        unsafe_time: See there.

    Raises:
        ConfigurationError: The URL or the name of the domain cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        domain: str,
        clock: Clock,
        deadline: timedelta = DEADLINE,
        clocks_apart: timedelta = CLOCKS_APART,
        unsafe_time: Callable[[], int] | None = None,
    ) -> None:
        address = parse_address(url)
        self._state = _State(domain, where=str(address), clock=clock, apart=clocks_apart, unsafe_time=unsafe_time)
        self._deadline = deadline.total_seconds()
        self._connections = AsyncConnections(address, deadline=self._deadline)

    async def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        """As `ValkeyReplays.use`."""
        steps = self._state.use(use, made_after, keep)
        ends = time.monotonic() + self._deadline
        try:
            asked = next(steps)
            while True:
                (answer,) = await self._connections.ask((asked,), ends)
                asked = steps.send(answer)
        except StopIteration as done:
            said: Use = done.value
            return said
        except StoreError:
            await self._connections.discard()
            raise

    async def close(self) -> None:
        """As `ValkeyReplays.close`."""
        await self._connections.close()


def _millis(moment: datetime) -> int:
    """Rounded down: what may be as old as that counts as older."""
    return int(moment.timestamp() * 1000 // 1)


def _millis_of(span: timedelta) -> int:
    """Rounded up."""
    return -(-span // timedelta(milliseconds=1))
