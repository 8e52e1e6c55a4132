"""What is known of one issuer's keys, and when it is asked again. Values and rules only: no network, no lock, no clock.

- A key that is known is used at once. If the keys are old, somebody asks for newer ones meanwhile, and nobody waits for that.
- A key id that is not known is worth one question per cooldown, whatever the answer was; between two questions unknown ids are
  refused at once. An id that the newest keys do not hold is not asked for again for a minute.
- An answer that fails or is refused leaves what is known in force, for `max_stale` at most: the issuer may have revoked a key since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from cachetools import TTLCache

from tos_guard.errors import DiscoveryError
from tos_guard.keys import KeyHistory, KeySet
from tos_guard.remote._issuer import Issuer, KnownKeys, strictest
from tos_guard.types import KeyPurpose

__all__ = ["CachePolicy", "IssuerKeys", "IssuerStatus", "Need"]

MAX_UNKNOWN_KIDS: Final = 1_024  # remembered per issuer; a flood of more forgets the oldest, and the cooldown still holds
UNKNOWN_KID_SECONDS: Final = 60.0
_MIN_STALE: Final = timedelta(hours=24)  # DESIGN §10: an outage of a day fails nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """When an issuer is asked again.

    Attributes:
        refresh_after: Keys older than this are asked for again when they are next used. Issuers publish a key at least twice this
            long before it signs.
        cooldown: At least this long between two questions to one issuer.
        max_stale: So long keys are used while the issuer cannot be asked; at least a day.
    """

    refresh_after: timedelta = timedelta(minutes=30)
    cooldown: timedelta = timedelta(seconds=30)
    max_stale: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        if self.cooldown <= timedelta(0) or self.refresh_after < self.cooldown or self.max_stale < max(_MIN_STALE, self.refresh_after):
            raise ValueError("cooldown must be above 0, refresh_after at least cooldown, and max_stale at least a day and refresh_after")


@dataclass(frozen=True, slots=True)
class IssuerStatus:
    """How things stand with one issuer.

    Attributes:
        issuer: Its origin.
        keys: Keys trusted now, pinned and discovered.
        history: The newest key history believed, to be kept by who wants to notice a forked issuer after a restart.
        fetched_at: When the issuer last gave an answer that was believed, or None.
        attempted_at: When it was last asked, or None.
        failure: Why the last question failed, or None if it did not.
        refused: The issuer answered, and what it said was refused: an alarm. What was known before stays in force.
    """

    issuer: str
    keys: KeySet
    history: KeyHistory | None
    fetched_at: datetime | None
    attempted_at: datetime | None
    failure: DiscoveryError | None
    refused: bool


class Need(Enum):
    """What a caller who wants a key has to do."""

    USE = "use what is known"
    REFRESH = "use what is known; newer keys should be asked for meanwhile"
    WAIT = "wait for an answer of the issuer"
    REFUSED = "do without: it was asked a moment ago"


class IssuerKeys:
    """The keys of one issuer. The driver sees to it that one thread or task at a time is inside."""

    def __init__(
        self,
        issuer: Issuer | None,
        origin: str,
        *,
        pinned: KeySet | None,
        history: KeyHistory | None,
        policy: CachePolicy,
        clock: Callable[[], datetime],
    ) -> None:
        self.issuer = issuer
        self.origin = origin
        self.pinned = pinned
        self.kept_history = history
        self.known: KnownKeys | None = None
        self.trusted: KeySet = pinned or KeySet(origin, ())
        self.failure: DiscoveryError | None = None
        self.refused = False
        self.attempted_at: datetime | None = None
        self._policy = policy
        self._unknown: TTLCache[str, bool] = TTLCache(MAX_UNKNOWN_KIDS, UNKNOWN_KID_SECONDS, timer=lambda: clock().timestamp())

    def need(self, kid: str, *, now: datetime, in_flight: bool) -> Need:
        """What to do for this key id. With `Need.WAIT` and nothing in flight, the caller asks."""
        if self.issuer is None:
            return Need.USE
        resting = in_flight or self._is_within(self.attempted_at, self._policy.cooldown, now)
        if self._has(kid, now):
            fetched = self.known.fetched_at if self.known is not None else None
            return Need.USE if resting or self._is_within(fetched, self._policy.refresh_after, now) else Need.REFRESH
        if kid in self._unknown:
            return Need.REFUSED
        return Need.WAIT if in_flight or not resting else Need.REFUSED

    def begin(self, now: datetime) -> None:
        """The issuer is being asked."""
        self.attempted_at = now

    def accept(self, known: KnownKeys) -> None:
        """It answered.

        Raises:
            UndecidableError: Its answer contradicts a pinned key.
        """
        merged = {key.kid: key for key in known.keys.keys}
        for key in self.pinned.keys if self.pinned is not None else ():
            merged[key.kid] = strictest(key, merged[key.kid]) if key.kid in merged else key
        self.known, self.trusted = known, KeySet(self.origin, tuple(merged.values()))
        self.failure, self.refused = None, False

    def fail(self, error: DiscoveryError, *, refused: bool) -> None:
        """It did not answer, or its answer is not believed."""
        self.failure, self.refused = error, refused

    def give(self, kid: str, *, now: datetime) -> KeySet:
        """The keys to verify with, which may still lack this one.

        Raises:
            DiscoveryError: The key is not known, and the issuer could not be asked whether there are newer ones.
        """
        if self._has(kid, now) or self.issuer is None:
            return self._in_force(now)
        if self.failure is not None:
            raise DiscoveryError(
                f"the keys could not be fetched: {self.failure.what}", where=self.failure.where, cure=self.failure.cure
            ) from self.failure
        return self._in_force(now)

    def miss(self, kid: str, *, now: datetime) -> None:
        """The issuer has just answered: remember an id that it does not know."""
        if self.failure is None and not self._has(kid, now):
            self._unknown[kid] = True

    def notes(self, now: datetime) -> tuple[str, ...]:
        """What a caller should know of the keys just used."""
        if self.known is None or self.failure is None or self._is_within(self.known.fetched_at, self._policy.refresh_after, now):
            return ()
        reason = "refused" if self.refused else "unreachable"
        return (f"keys: as of {self.known.fetched_at.isoformat(timespec='seconds')}, issuer {reason} since",)

    def status(self, now: datetime) -> IssuerStatus:
        """How things stand."""
        known = self.known
        history = known.history if known is not None else self.kept_history
        fetched = known.fetched_at if known is not None else None
        return IssuerStatus(self.origin, self._in_force(now), history, fetched, self.attempted_at, self.failure, self.refused)

    def _in_force(self, now: datetime) -> KeySet:
        return self.trusted if self.known is None or self._is_usable(now) else (self.pinned or KeySet(self.origin, ()))

    def _is_usable(self, now: datetime) -> bool:
        return self.known is not None and now - self.known.fetched_at <= self._policy.max_stale

    def _has(self, kid: str, now: datetime) -> bool:
        return self._in_force(now).find(kid, KeyPurpose.PROVENANCE) is not None

    @staticmethod
    def _is_within(moment: datetime | None, span: timedelta, now: datetime) -> bool:
        # A clock that was set back must not stop questions until it has caught up.
        return moment is not None and timedelta(0) <= now - moment < span
