"""Keys of other authorization servers, which sign the bearer tokens that accounts present (DESIGN D8).

Rules kept here:

- Each issuer has one address, from the settings. Nothing in a token becomes an address, and no token makes anybody wait: a key that is
  not known is refused at once, and asked for meanwhile.
- One thread per issuer asks, started when keys are first wanted in a process, so after any fork. It asks again when keys grow old or an
  unknown key was named, and rests in between, after failures too: at most two questions a minute, whatever happens.
- An answer is believed as a whole or not at all. A secret in it is refused, for whoever can read the address could sign with it; and so
  is another key under an id that was known, even if the id had vanished meanwhile. That a key vanishes is how its owner revokes it.
- What is known stays in force when nothing better comes: for `max_stale` in the mode ``local``, for `grace` in the mode ``deny``.
  Every use of keys that are overdue is counted.

Spans are measured on a clock that never goes back, so that a clock which is set does neither age keys nor bring questions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final, Literal

import httpx
from cachetools import LRUCache

from tos_guard.errors import ConfigurationError, DiscoveryError, MalformedError, StoreError, TosGuardError, UndecidableError
from tos_guard.keys._foreign import ForeignKey, ForeignKeySet, parse_foreign_key_set
from tos_guard.remote._cache import CachePolicy
from tos_guard.remote._discovery import utc_now
from tos_guard.remote._issuer import KEY_SET_TYPES, Fetch, Fetched, Issuer, Step, parse_issuer, way_to
from tos_guard.remote._network import DEFAULT_TIMEOUT, ThreadNetwork, no_cookies

__all__ = ["JWKSPolicy", "JWKSource", "JWKSourceStatus", "KeyEvent", "Told"]

_LOG: Final = logging.getLogger("tos_guard.remote")

MAX_SET_BYTES: Final = 65_536  # of a foreign key set; 64 RSA keys take half of it
MAX_BELIEVED_KIDS: Final = 1_024  # remembered, so that none comes back with another key; sixteen full sets
MIN_COOLDOWN: Final = timedelta(seconds=30)  # two questions a minute
_PATIENCE: Final = 3  # timeouts, for which `close` waits: an answer may take two, and a name has to be looked up
_ADDRESS: Final = re.compile(r"(https?://[^/?#@\s]{1,260})(/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,512})")


KeyEvent = Literal["fetched", "vanished", "unreachable", "refused", "replaced", "stale", "denied"]
"""What may happen to the keys of an issuer. ``vanished``: a key is no longer published. ``replaced``: an answer was refused since another
key stands under a known id. ``stale``: overdue keys were used. ``denied``: a use failed, since they are too old or were never fetched."""

Told = Callable[[KeyEvent, DiscoveryError | None], None]
"""Who is told what happens, and what failed where something did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JWKSPolicy(CachePolicy):
    """When an issuer is asked again, and how long its keys are used when it does not answer.

    Attributes:
        refresh_after: Keys older than this are asked for again.
        cooldown: At least this long from the end of one question to the next; at least 30 seconds.
        max_stale: So long keys are used in the mode ``local``; at least a day.
        grace: Keys that are older than `refresh_after` by this much are overdue.
        mode: What becomes of overdue keys: they go on (``local``), or no token is accepted (``deny``).

    Raises:
        ValueError: A span is out of bounds, or the mode is none.
    """

    refresh_after: timedelta = timedelta(minutes=10)
    grace: timedelta = timedelta(minutes=5)
    mode: Literal["local", "deny"] = "local"

    def __post_init__(self) -> None:
        CachePolicy.__post_init__(self)
        if self.cooldown < MIN_COOLDOWN or self.grace < self.cooldown:
            raise ValueError("cooldown is at least 30 seconds, and grace at least cooldown")
        if self.mode not in ("local", "deny"):
            raise ValueError("mode is local or deny")


@dataclass(frozen=True, slots=True)
class JWKSourceStatus:
    """How things stand with the keys of one issuer.

    Attributes:
        issuer: Its name.
        uri: Where its keys are.
        kids: Ids of the keys in force; None for one without.
        fetched_at: When they were fetched, or None where they never were.
        attempted_at: When it was last asked, or None.
        failure: Why the last question failed, or None if it did not.
        is_refused: The issuer answered, and what it said was refused: an alarm. What was known before stays in force.
        is_overdue: The keys should have been refreshed by now.
        mode: What becomes of overdue keys, ``local`` or ``deny``.
    """

    issuer: str
    uri: str
    kids: tuple[str | None, ...]
    fetched_at: datetime | None
    attempted_at: datetime | None
    failure: DiscoveryError | None
    is_refused: bool
    is_overdue: bool
    mode: Literal["local", "deny"]


@dataclass(frozen=True, slots=True)
class _Known:
    """Keys that were believed, and when: on the clock that never goes back, and for people."""

    keys: ForeignKeySet
    at: float
    told_at: datetime


class JWKSource:
    """The keys of one issuer. Any thread may call; nothing here waits for the network but `refresh`.

    Args:
        issuer: Whose keys, as its tokens name it.
        uri: Where they are.
        policy: When it is asked again, and what becomes of keys that are overdue.
        assumed_algorithm: The algorithm of RSA keys that name none; by None such a set is refused.
        client: Makes the client of each question, which is closed after it. Its redirects and credentials are not used, its proxies
            and TLS settings are; by default it has none of its own.
        timeout: For connecting and each read; the whole answer may take twice as long.
        unsafe_any_address: Connect wherever the name leads, private networks among it, without checking addresses.
        clock: Tells the time, for `JWKSourceStatus`.
        monotonic: Seconds that never go back.

    Raises:
        ConfigurationError: The address is none that we ask.
    """

    def __init__(
        self,
        issuer: str,
        uri: str,
        *,
        policy: JWKSPolicy | None = None,
        assumed_algorithm: str | None = None,
        client: Callable[[], httpx.AsyncClient] | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        unsafe_any_address: bool = False,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self.uri = uri
        self._server, self._path = _parse_address(uri)
        policy = policy or JWKSPolicy()
        self._mode: Literal["local", "deny"] = policy.mode
        self._refresh_after = policy.refresh_after.total_seconds()
        self._cooldown = policy.cooldown.total_seconds()
        self._overdue_after = (policy.refresh_after + policy.grace).total_seconds()
        self._usable_for = self._overdue_after if policy.mode == "deny" else policy.max_stale.total_seconds()
        self._assumed_algorithm = assumed_algorithm
        self._client = client or _client
        self._timeout = timeout
        self._any_address = unsafe_any_address
        self._clock = clock
        self._monotonic = monotonic
        self._told: Told | None = None
        self._known: _Known | None = None
        self._believed: LRUCache[str, ForeignKey] = LRUCache(MAX_BELIEVED_KIDS)
        self._failure: DiscoveryError | None = None
        self._refused = False
        self._attempted_at: datetime | None = None
        self._rests_until: float | None = None
        self._wanted = False
        self._closed = False
        self._begin_anew()
        _watch_forks(self)

    def _begin_anew(self) -> None:
        """What belongs to one process: a child has no thread, and a lock that another thread held stays locked there for ever."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._asking = False
        self._answer = _answer()

    def watch(self, told: Told) -> None:
        """Tell *told* what happens: a `KeyEvent`, and what failed where something did. Any thread may call it; it must not wait."""
        self._told = told

    # For whoever verifies

    @property
    def is_known(self) -> bool:
        """Whether its keys have ever come."""
        return self._known is not None

    def in_force(self) -> ForeignKeySet:
        """The keys to verify with. Gives the same object for as long as they stay the same.

        Raises:
            StoreError: They have not been fetched, or are too old.
        """
        self._keep_up()
        known = self._known
        if known is None:
            self._tell("denied")
            raise StoreError("its keys have not been fetched", where=self.issuer, cure="Is its jwks_uri right, and can it be reached?")
        age = self._monotonic() - known.at
        if age >= self._usable_for:
            self._tell("denied")
            raise StoreError(f"its keys are {timedelta(seconds=int(age))} old", where=self.issuer, cure="Its jwks_uri cannot be reached.")
        if age >= self._overdue_after:
            self._tell("stale")
        return known.keys

    def want(self) -> None:
        """A key was named that is not known: ask for newer ones as soon as that may be. Returns at once."""
        if not self._wanted:
            self._wanted = True
            self._wake.set()

    def first_answer(self) -> Future[None] | None:
        """What to wait for before `in_force` can have keys for the first time; None where waiting would bring nothing."""
        if self._known is not None:
            return None
        self._keep_up()
        with self._lock:
            return self._answer if self._answers_soon() else None

    def _tell(self, event: KeyEvent, failure: DiscoveryError | None = None) -> None:
        if self._told is None:
            return
        try:
            self._told(event, failure)
        except Exception:  # noqa: BLE001 - who counts wrongly fails no request
            _LOG.exception("that keys are %s could not be told", event)

    # For people

    def refresh(self, *, seconds: float = 15.0) -> JWKSourceStatus:
        """Ask now, unless it was asked a moment ago, and wait for the answer, at most so many seconds."""
        self.want()
        self._keep_up()
        with self._lock:
            answer = self._answer if self._answers_soon() else None
        if answer is not None:
            with suppress(TimeoutError):
                answer.result(seconds)
        return self.status()

    def status(self) -> JWKSourceStatus:
        """How things stand. Asks nothing."""
        with self._lock:
            known = self._known
            return JWKSourceStatus(
                issuer=self.issuer,
                uri=self.uri,
                kids=tuple(key.kid for key in known.keys.keys) if known is not None else (),
                fetched_at=known.told_at if known is not None else None,
                attempted_at=self._attempted_at,
                failure=self._failure,
                is_refused=self._refused,
                is_overdue=known is not None and self._monotonic() - known.at >= self._overdue_after,
                mode=self._mode,
            )

    def close(self) -> None:
        """Stop asking. Keys that are known stay in force as before."""
        self._closed = True
        self._wake.set()
        if (thread := self._thread) is not None:
            thread.join(_PATIENCE * self._timeout.total_seconds())

    # The thread that asks

    def _keep_up(self) -> None:
        """See that the thread runs, and wake it if it has something to do."""
        if self._thread is None:
            self._start()
        elif self._due_in() <= 0.0:
            self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._closed:
                return
            thread = threading.Thread(target=self._work, name="tos-guard-bearer-keys", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads, or the interpreter is ending; the next use tries again
                _LOG.warning("no thread to fetch the keys of %s: %s", self.issuer, error)
                return
            self._thread = thread

    def _due_in(self) -> float:
        """Seconds until the next question; 0 or less where it is due."""
        known = self._known
        due = known.at + self._refresh_after if known is not None and not self._wanted else float("-inf")
        return max(due, self._rests_until if self._rests_until is not None else float("-inf")) - self._monotonic()

    def _answers_soon(self) -> bool:
        """Whether a question is under way or due. Inside the lock."""
        return self._thread is not None and not self._closed and (self._asking or self._due_in() <= 0.0)

    def _work(self) -> None:
        while True:
            self._wake.wait(max(0.0, self._due_in()))
            self._wake.clear()
            if self._closed:
                return
            if self._due_in() <= 0.0:
                self._begin()
                self._settle(self._ask())

    def _begin(self) -> None:
        with self._lock:
            self._asking = True
            self._wanted = False
            self._attempted_at = self._clock()
            # For a child that is forked now: it must not ask again at once.
            self._rests_until = self._monotonic() + self._cooldown

    def _ask(self) -> ForeignKeySet | BaseException:
        try:
            answer = asyncio.run(self._fetch())
            keys = parse_foreign_key_set(answer.body, where="published key set", assumed_algorithm=self._assumed_algorithm)
            if keys.keys[0].is_secret:
                raise MalformedError("holds secrets, with which everyone who reads it could sign", where="published key set")
            import jwt.algorithms  # noqa: F401 - what checks the signatures is slow to load: here, nobody waits for that

            return keys
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the thread must live on, whatever it was
            return error

    async def _fetch(self) -> Fetched:
        async with self._client() as client:
            return await ThreadNetwork(client, timeout=self._timeout).run(self._steps())

    def _steps(self) -> Generator[Step, Any, Fetched]:
        addresses = yield from way_to(self._server, any_address=self._any_address)
        answer: Fetched = yield Fetch(self._server, self._path, addresses, MAX_SET_BYTES, KEY_SET_TYPES)
        return answer

    def _settle(self, outcome: ForeignKeySet | BaseException) -> None:
        """Take up what a question brought, and tell those who wait for it."""
        with self._lock:
            events = self._believe(outcome) if isinstance(outcome, ForeignKeySet) else self._fail(outcome)
            failure = self._failure
            self._asking = False
            # From its end, so that questions reach the server no nearer to each other than that.
            self._rests_until = self._monotonic() + self._cooldown
            answer, self._answer = self._answer, _answer()
        for event in events:
            self._tell(event, failure)
        if failure is not None:
            _LOG.warning("no new keys of %s: %s", self.issuer, failure)
        elif "vanished" in events:
            _LOG.warning("a key of %s is no longer published", self.issuer)
        answer.set_result(None)

    def _believe(self, keys: ForeignKeySet) -> tuple[KeyEvent, ...]:
        """Put new keys in force. Inside the lock."""
        for key in keys.keys:
            before = self._believed.get(key.kid) if key.kid is not None else None
            if before is not None and not key.is_same_key(before):
                refusal = UndecidableError(f"key {key.kid!r} was another key before", where="published key set")
                return self._fail(refusal, "replaced")
        before_keys = self._known.keys if self._known is not None else None
        for key in keys.keys:
            if key.kid is not None:
                self._believed[key.kid] = key
        if before_keys is not None and keys == before_keys:
            keys = before_keys  # whoever keeps results by these keys may go on keeping them
        self._known = _Known(keys, self._monotonic(), self._clock())
        self._failure, self._refused = None, False
        gone = {key.kid for key in before_keys.keys} - {key.kid for key in keys.keys} if before_keys is not None else set()
        return ("fetched", "vanished") if gone else ("fetched",)

    def _fail(self, error: BaseException, event: KeyEvent = "refused") -> tuple[KeyEvent, ...]:
        """Keep what is known. Inside the lock."""
        self._refused = isinstance(error, TosGuardError) and not isinstance(error, DiscoveryError)
        if isinstance(error, DiscoveryError):
            self._failure = error
        elif self._refused:
            self._failure = DiscoveryError(f"its answer was refused: {error}", where=self.uri, cure="Keys known already stay in use.")
        else:
            what = "took too long" if isinstance(error, TimeoutError) else f"was not asked to the end ({type(error).__name__})"
            self._failure = DiscoveryError(what, where=self.uri, cure="Keys known already stay in use.")
        self._failure.__cause__ = None if self._failure is error else error
        return (event if self._refused else "unreachable",)


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, cookies=no_cookies())


def _answer() -> Future[None]:
    """Is done once the next question is settled, whatever it brought. Nobody who waits for it can cancel it for the others."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


def _parse_address(uri: str) -> tuple[Issuer, str]:
    match = _ADDRESS.fullmatch(uri)
    try:
        if match is not None:
            return parse_issuer(match[1]), match[2]
    except ConfigurationError:
        pass
    raise ConfigurationError(
        f"{uri[:200]!r} is no address of keys that we ask", where="jwks_uri", cure="Give https://host/path, the host in lower case."
    )


_sources: weakref.WeakSet[JWKSource] = weakref.WeakSet()


def _watch_forks(source: JWKSource) -> None:
    _register()
    _sources.add(source)


@cache
def _register() -> None:
    """Called when there is something to tell, so that importing the module has no effect."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    for source in list(_sources):
        source._begin_anew()
