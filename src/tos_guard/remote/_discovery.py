"""Key discovery: the keys of allow-listed issuers, fetched when first needed and kept current (docs/spec/discovery.md).

The rules stand in `_issuer` (what is asked and believed) and `_cache` (when). Here are their two drivers, one per colour. Both ask an
issuer at most once at a time. A caller whose key is known never waits: newer keys are fetched by a thread or task that lives as
long as the question. Make a discovery in the process that uses it, after any fork, and an asynchronous one on its event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import httpx

from tos_guard.errors import DiscoveryError, TosGuardError, UntrustedIssuerError, VerificationError
from tos_guard.keys import KeyHistory, KeySet
from tos_guard.remote._cache import CachePolicy, IssuerKeys, IssuerStatus, Need
from tos_guard.remote._issuer import KnownKeys, Step, discover, parse_issuer
from tos_guard.remote._network import DEFAULT_TIMEOUT, AsyncNetwork, Network
from tos_guard.verify import Trust

__all__ = ["AsyncKeyDiscovery", "KeyDiscovery", "utc_now"]

_LOG: Final = logging.getLogger("tos_guard.remote")
_DEFAULT_POLICY: Final = CachePolicy()
_PATIENCE: Final = 4  # timeouts, for the three documents of one question together


def utc_now() -> datetime:
    """The present."""
    return datetime.now(UTC)


class _Issuers:
    """What both colours share: one `IssuerKeys` for each issuer that is trusted at all."""

    def __init__(
        self,
        issuers: Iterable[str],
        pinned: KeySet | Trust | None,
        histories: Iterable[KeyHistory],
        policy: CachePolicy,
        clock: Callable[[], datetime],
        unsafe_any_address: bool,
    ) -> None:
        if isinstance(issuers, str):
            raise TypeError("issuers is a collection of origins: put the one into a list")
        pins = dict((pinned if isinstance(pinned, Trust) else Trust.of(pinned)).issuers) if pinned is not None else {}
        kept = {history.issuer: history for history in histories}
        asked = {origin: parse_issuer(origin) for origin in issuers}
        self._clock = clock
        self._any_address = unsafe_any_address
        self._issuers = {
            origin: IssuerKeys(asked.get(origin), origin, pinned=pins.get(origin), history=kept.get(origin), policy=policy, clock=clock)
            for origin in (*asked, *(pins.keys() - asked.keys()))
        }
        if not self._issuers:
            raise ValueError("name at least one issuer, or pin a key set: with neither, everything would be undecidable")

    @property
    def issuers(self) -> frozenset[str]:
        """Origins of all issuers that are trusted, asked or only pinned."""
        return frozenset(self._issuers)

    def _of(self, origin: str) -> IssuerKeys:
        keys = self._issuers.get(origin)
        if keys is None:
            raise UntrustedIssuerError(f"issuer {origin[:200]!r} is not trusted", where="token", cure="Nothing was asked of it.")
        return keys

    def status(self, issuer: str) -> IssuerStatus:
        """How things stand with an issuer. Asks nothing.

        Raises:
            UntrustedIssuerError: It is not on the list.
        """
        return self._of(issuer).status(self._clock())

    def notes(self, issuer: str) -> tuple[str, ...]:
        """What a caller should know of keys just used, as ``key: value``; nothing where all is well."""
        return self._of(issuer).notes(self._clock())

    def _steps(self, keys: IssuerKeys) -> Generator[Step, Any, KnownKeys]:
        if keys.issuer is None:
            raise DiscoveryError("its keys are pinned and it is not asked", where=keys.origin, cure="Name it among the issuers.")
        return discover(
            keys.issuer,
            earlier=keys.known,
            pinned=keys.pinned,
            history=keys.kept_history,
            any_address=self._any_address,
            now=self._clock(),
        )

    @staticmethod
    def _settle(keys: IssuerKeys, outcome: KnownKeys | BaseException) -> None:
        """Take up what a question brought."""
        if isinstance(outcome, KnownKeys):
            try:
                keys.accept(outcome)
            except VerificationError as error:
                outcome = error
            else:
                return
        if isinstance(outcome, DiscoveryError):
            keys.fail(outcome, refused=False)
        elif isinstance(outcome, TosGuardError):
            refusal = DiscoveryError(f"its answer was refused: {outcome}", where=keys.origin, cure="Keys known already stay in use.")
            refusal.__cause__ = outcome
            keys.fail(refusal, refused=True)
        else:
            keys.fail(DiscoveryError(f"was not asked to the end ({type(outcome).__name__})", where=keys.origin), refused=False)
        _LOG.warning("no new keys of %s: %s", keys.origin, keys.failure)


def _too_long(keys: IssuerKeys) -> DiscoveryError:
    return DiscoveryError("took too long", where=keys.origin, cure="Keys that are known already stay in use.")


@dataclass(slots=True)
class _Lane:
    """One issuer's lock, and the question under way."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    flight: threading.Event | None = None
    thread: threading.Thread | None = None


class KeyDiscovery(_Issuers):
    """The keys of issuers, for blocking code. Any thread may call.

    Args:
        issuers: Origins that may be asked. No other address is ever contacted.
        pinned: Keys trusted without asking. Issuers that are pinned and not in *issuers* are never asked. Pinned keys of purpose
            ``key-history`` are then the only root of trust for that issuer; without them, the first answer is trusted.
        client: An `httpx.Client` for all requests; its redirects and credentials are not used, its proxies and TLS settings are.
        clock: Tells the time.
        policy: When an issuer is asked again.
        histories: Histories kept from earlier runs (`IssuerStatus.history`), which newer ones must follow.
        timeout: For connecting and each read. One document may take twice as long, and all together four times.
        unsafe_any_address: Connect wherever the client leads, private networks and proxies among it, without checking addresses.

    Raises:
        ConfigurationError: An issuer is not an origin we ask.
        ValueError: There is no issuer at all.
    """

    def __init__(
        self,
        issuers: Iterable[str] = (),
        *,
        pinned: KeySet | Trust | None = None,
        client: httpx.Client | None = None,
        clock: Callable[[], datetime] = utc_now,
        policy: CachePolicy = _DEFAULT_POLICY,
        histories: Iterable[KeyHistory] = (),
        timeout: timedelta = DEFAULT_TIMEOUT,
        unsafe_any_address: bool = False,
    ) -> None:
        super().__init__(issuers, pinned, histories, policy, clock, unsafe_any_address)
        self._network = Network(client, timeout=timeout)
        self._patience = _PATIENCE * timeout.total_seconds()
        self._lanes = {origin: _Lane() for origin in self._issuers}

    def keys_of(self, issuer: str, kid: str) -> KeySet:
        """The keys to verify a token with, fetched if need be.

        Args:
            issuer: Whom the token names, not believed.
            kid: The key it names, not believed. The set may lack it: then the issuer has no such key.

        Raises:
            UntrustedIssuerError: The issuer is not on the list; nothing was asked.
            DiscoveryError: The key is not known, and the issuer could not be asked.
        """
        keys, lane = self._of(issuer), self._lanes.get(issuer, _Lane())
        with lane.lock:
            now = self._clock()
            need = keys.need(kid, now=now, in_flight=lane.flight is not None)
            flight, mine = self._board(keys, lane) if need in (Need.REFRESH, Need.WAIT) else (None, False)
            if flight is not None and mine:
                self._start(keys, lane, flight)
            if flight is None or need is Need.REFRESH:
                return keys.give(kid, now=now)
        self._wait(keys, lane, flight)
        with lane.lock:
            keys.miss(kid, now=self._clock())
            return keys.give(kid, now=self._clock())

    def refresh(self, issuer: str) -> IssuerStatus:
        """Ask an issuer now, whatever is known, and wait for its answer.

        Raises:
            UntrustedIssuerError: It is not on the list.
            DiscoveryError: It could not be asked, or its answer was refused.
        """
        keys, lane = self._of(issuer), self._lanes[issuer]
        with lane.lock:
            flight, mine = self._board(keys, lane)
            if mine:
                self._start(keys, lane, flight)
        self._wait(keys, lane, flight)
        with lane.lock:
            if keys.failure is not None:
                raise keys.failure
            return keys.status(self._clock())

    def _board(self, keys: IssuerKeys, lane: _Lane) -> tuple[threading.Event, bool]:
        """The question under way, or a new one, which is then the caller's to ask. Inside the lock."""
        if lane.flight is not None:
            return lane.flight, False
        keys.begin(self._clock())
        lane.flight = threading.Event()
        return lane.flight, True

    def _start(self, keys: IssuerKeys, lane: _Lane, flight: threading.Event) -> None:
        """Ask in a thread of its own, so that a caller can give up on an issuer that never ends its answer. Inside the lock."""
        lane.thread = threading.Thread(target=self._fly, args=(keys, lane, flight), name="tos-guard-keys", daemon=True)
        try:
            lane.thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            self._settle(keys, error)
            lane.thread, lane.flight = None, None
            flight.set()

    def _wait(self, keys: IssuerKeys, lane: _Lane, flight: threading.Event) -> None:
        if flight.wait(self._patience):
            return
        with lane.lock:
            if lane.flight is flight:  # and what it may still bring is no longer wanted
                lane.flight = None
                self._settle(keys, _too_long(keys))
        flight.set()

    def _fly(self, keys: IssuerKeys, lane: _Lane, flight: threading.Event) -> None:
        outcome: KnownKeys | Exception
        try:
            outcome = self._network.run(self._steps(keys))
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it was
            outcome = error
        with lane.lock:
            if lane.flight is flight:
                lane.flight = None
                self._settle(keys, outcome)
        flight.set()

    def close(self) -> None:
        """Wait a little for questions under way, and close the client if it is ours."""
        for lane in self._lanes.values():
            if (thread := lane.thread) is not None:
                thread.join(self._patience)
        self._network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncKeyDiscovery(_Issuers):
    """The keys of issuers, for one event loop. Arguments as `KeyDiscovery`, with an `httpx.AsyncClient`."""

    def __init__(
        self,
        issuers: Iterable[str] = (),
        *,
        pinned: KeySet | Trust | None = None,
        client: httpx.AsyncClient | None = None,
        clock: Callable[[], datetime] = utc_now,
        policy: CachePolicy = _DEFAULT_POLICY,
        histories: Iterable[KeyHistory] = (),
        timeout: timedelta = DEFAULT_TIMEOUT,
        unsafe_any_address: bool = False,
    ) -> None:
        super().__init__(issuers, pinned, histories, policy, clock, unsafe_any_address)
        self._network = AsyncNetwork(client, timeout=timeout)
        self._patience = _PATIENCE * timeout.total_seconds()
        self._flights: dict[str, asyncio.Task[None]] = {}

    async def keys_of(self, issuer: str, kid: str) -> KeySet:
        """As `KeyDiscovery.keys_of`."""
        keys, now = self._of(issuer), self._clock()
        need = keys.need(kid, now=now, in_flight=issuer in self._flights)
        if need is Need.REFRESH:
            self._board(keys)
        elif need is Need.WAIT:
            await asyncio.shield(self._board(keys))  # who gives up does not take the answer away from the others
            now = self._clock()
            keys.miss(kid, now=now)
        return keys.give(kid, now=now)

    async def refresh(self, issuer: str) -> IssuerStatus:
        """As `KeyDiscovery.refresh`."""
        keys = self._of(issuer)
        await asyncio.shield(self._board(keys))
        if keys.failure is not None:
            raise keys.failure
        return keys.status(self._clock())

    def _board(self, keys: IssuerKeys) -> asyncio.Task[None]:
        flight = self._flights.get(keys.origin)
        if flight is None:
            keys.begin(self._clock())
            flight = self._flights[keys.origin] = asyncio.get_running_loop().create_task(self._fly(keys), name="tos-guard-keys")
        return flight

    async def _fly(self, keys: IssuerKeys) -> None:
        outcome: KnownKeys | BaseException | None = None
        try:
            async with asyncio.timeout(self._patience):
                outcome = await self._network.run(self._steps(keys))
        except TimeoutError:
            outcome = _too_long(keys)
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it was
            outcome = error
        finally:
            self._settle(keys, outcome if outcome is not None else asyncio.CancelledError())
            self._flights.pop(keys.origin, None)

    async def aclose(self) -> None:
        """Give up questions under way, and close the client if it is ours."""
        for flight in list(self._flights.values()):
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)
        await self._network.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
