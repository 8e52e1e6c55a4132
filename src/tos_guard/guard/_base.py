"""What every step of a guard knows: its settings and parts, its routes, its counts."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from cachetools import LRUCache

from tos_guard.config import GuardSettings, RouteSettings
from tos_guard.dialects import Dialect, dialect_named
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.guard._entitlements import EntitlementSync
from tos_guard.guard._leases import Leases
from tos_guard.guard._meter import Meter
from tos_guard.guard._needs import FindHolder, RequestView, Route, Steps
from tos_guard.guard._notices import NoticeSender
from tos_guard.guard._proving import Prover
from tos_guard.guard._rulebook import Rulebook
from tos_guard.guard._standing_settings import check_ladder, ladder_of
from tos_guard.protocols import (
    AccountSource,
    AsyncAccountSource,
    AsyncLimitEngine,
    AsyncReplayCache,
    AsyncSigner,
    BearerAuthenticator,
    Clock,
    HeardVersion,
    LimitEngine,
    RecordStore,
    ReplayCache,
    RightsSource,
    SealStore,
    Signer,
    TermsArchive,
)
from tos_guard.rights import Account, HeldStanding, Holder, KeyedHolder, Rung, end_user_key
from tos_guard.telemetry import Observed, Telemetry
from tos_guard.terms import TermsVersion
from tos_guard.types import KeyPurpose

if TYPE_CHECKING:
    from tos_guard.stores import Store

__all__ = ["Acceptor", "AdminAuthorizer", "Assertions", "GuardBase", "Identifier", "swallows", "utc_now"]

_log = logging.getLogger("tos_guard")
_OF_AN_ADDRESS: Final = "%/:?#[]@!$&'()*+,;=~"
"""Characters that mean something in an address; what is none of these, nor a letter, digit or -._, is percent-encoded."""

_T = TypeVar("_T")

MAX_CACHED_ACCOUNTS: Final = 10_000
MAX_LOGGED: Final = 20
LOG_SECONDS: Final = 10.0
"""Of one part at most `MAX_LOGGED` failures are logged in `LOG_SECONDS`: an engine that is down fails every request. Counters miss none."""

FULFILLED_DUTIES: Final = frozenset({"seal"})  # every response is sealed, whether a clause asks for it or not
_OF_HEARING: Final = {
    "unheard": "hears nothing of changes to accounts and terms, and goes by failure.accounts",
    "heard": "hears of changes again",
    "silent": "misses announcements of changes, and hears of them by asking alone",
    "listening": "listens to announcements of changes again",
}
_NO_NAMES: Final = frozenset({"", ".", ".."})  # segments by which a path leads elsewhere
_DETOUR: Final = re.compile(r"//|\\|/\.{1,2}(?:/|$)|%(?:2[5ef]|5c)", re.IGNORECASE)

Identifier = Callable[[RequestView], str | None] | Callable[[RequestView], Awaitable[str | None]]
"""Names the account of a request that the host has authenticated, or None."""

Acceptor = Callable[[RequestView, Account], str | None] | Callable[[RequestView, Account], Awaitable[str | None]]
"""Names the person whom the host has authenticated and who acts for the account, or None."""

AdminAuthorizer = Callable[[RequestView], str | None] | Callable[[RequestView], Awaitable[str | None]]
"""Names the administrator of a request that the host has authenticated, or None for anybody else."""

Assertions = Callable[[RequestView, Account], Mapping[str, str | None]]
"""What the provider knows of a request: ``region`` (as ``DE``), ``verification``; None, or another form, for unknown."""


def utc_now() -> datetime:
    """The present."""
    return datetime.now(UTC)


class GuardBase:
    """Settings, parts, routes and counts of a guard.

    Args:
        settings: The settings.
        terms: General terms to begin with; what `archive` has is added while the guard runs.
        accounts: Where accounts are found.
        records: Where exchanges are recorded.
        signer: Signs tokens.
        pepper: Key under which secrets of API keys and end users are hashed.
        archive: Where terms and usage policies are published, or None to know only *terms*.
        rights: Where organizations and acceptances are kept, or None for none.
        meter: The limits, and what requests are charged; None for no limits.
        limits: Counts what accounts use; needed where there are limits. One that awaits is asked by `AsyncGuard` without threads; whatever
            else asks takes its ``blocking``.
        identify: Names the account of a request that the host has authenticated.
        bearer: Proves who presents a bearer token of the authorization servers in the settings.
        replays: Knows which proofs of possession were used; needed where the settings have ``dpop``.
        assertions: What the provider knows of a request.
        store: Our own store, where acceptances are kept and which administrators change; None where the host keeps neither.
        receipts: Signs receipts of acceptances; None where nothing is accepted through this guard.
        acceptor: Names the person who accepts terms, where the host has authenticated one.
        authorize_admin: Names the administrator who asks, in place of administrators' keys.
        entitlements: Keeps accounts as systems outside say, or None.
        notices: Tells other systems of what happens to the standing of accounts, or None.
        clock: The present.
        entropy: Random bytes.
        telemetry: What counts and tells OpenTelemetry; one that speaks to the process's own providers by default.

    Attributes:
        settings: The settings.
        rulebook: Terms and plans.
        meter: Limits and what requests are charged.
        telemetry: What happens is counted there, and told to OpenTelemetry.
        archive: As given.
        store: As given.
        entitlements: As given.
        seals: The store of records, where it keeps seals too; else None, and nothing that leaves again has its first seal.
        form_key: Key under which tokens against forged forms are made.

    Raises:
        ConfigurationError: The terms need what nothing provides, there are limits and nothing counts them, or there are authorization
            servers and nothing verifies their tokens, or the host identifies as well, or proofs are accepted and nothing knows which were
            used, or a route is idempotent and nothing keeps seals,
            or an exemption takes a guarded route, or a step of standing obliges to what nobody fulfils.
    """

    def __init__(
        self,
        settings: GuardSettings,
        *,
        terms: TermsVersion,
        accounts: AccountSource | AsyncAccountSource,
        records: RecordStore,
        signer: Signer | AsyncSigner,
        pepper: bytes,
        archive: TermsArchive | None = None,
        rights: RightsSource | None = None,
        meter: Meter | None = None,
        limits: LimitEngine | AsyncLimitEngine | None = None,
        identify: Identifier | None = None,
        bearer: BearerAuthenticator | None = None,
        replays: ReplayCache | AsyncReplayCache | None = None,
        assertions: Assertions | None = None,
        store: Store | None = None,
        receipts: Signer | AsyncSigner | None = None,
        acceptor: Acceptor | None = None,
        authorize_admin: AdminAuthorizer | None = None,
        entitlements: EntitlementSync | None = None,
        notices: NoticeSender | None = None,
        clock: Clock = utc_now,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.settings: GuardSettings = settings
        self.meter: Meter = meter or Meter(())
        self.clock: Clock = clock
        self.telemetry: Telemetry = telemetry or Telemetry(clock=clock)
        self.telemetry.in_force(settings.failure.modes)
        self.archive: TermsArchive | None = archive
        self._accounts = accounts
        self._rights = rights
        self._records = records
        self.seals: SealStore | None = records if isinstance(records, SealStore) else None
        self._signer = signer
        self._pepper = pepper
        self._identify = identify
        self._bearer = bearer
        self._replays = replays
        self._assertions = assertions
        self.store: Store | None = store
        self._receipts = receipts
        self._acceptor = acceptor
        self._authorize_admin = authorize_admin
        self.entitlements: EntitlementSync | None = entitlements
        self._beside = tuple(one for one in (entitlements, notices) if one is not None)
        self._entropy = entropy
        self._found: LRUCache[tuple[int, int, FindHolder], KeyedHolder] = LRUCache(MAX_CACHED_ACCOUNTS)
        self._last_known: LRUCache[FindHolder, tuple[KeyedHolder, datetime]] = LRUCache(MAX_CACHED_ACCOUNTS)
        self._found_lock = threading.Lock()
        self._logged: dict[str, tuple[float, int]] = {}
        self.form_key: bytes = hmac.digest(pepper, b"tos_guard form", hashlib.sha256)
        self._sub_key = hmac.digest(pepper, b"tos_guard stable subject", hashlib.sha256)
        self._end_user_key = end_user_key(pepper)
        self._retry_key = hmac.digest(pepper, b"tos_guard idempotency", hashlib.sha256)
        self._routes = {path: Route(path, _dialect(route), route.idempotent) for path, route in settings.routes.items()}
        self._patterns = [(path.split("/"), route) for path, route in self._routes.items() if "*" in path]
        if self.meter.limits and limits is None:
            raise ConfigurationError("there are limits, and nothing that counts them", where="limits=")
        self._async_limits = limits if isinstance(limits, AsyncLimitEngine) else None
        self._limits: LimitEngine | None = limits.blocking if isinstance(limits, AsyncLimitEngine) else limits
        self._leases = Leases(self._limits, self.report_failure) if self._limits is not None else None
        self._prover = Prover(
            settings,
            secret=hmac.digest(pepper, b"tos_guard proofs", hashlib.sha256),
            clock=clock,
            report=self.report_failure,
        )
        self._hearings = self._watch_hearings()
        self._check_bearer()
        self._check_kept()
        self.check_exempt(settings.exempt, where="exempt")
        self.check_fulfillable(terms)
        told = self.standing_url or settings.appeal_url
        self._notice_url = quote(told, safe=_OF_AN_ADDRESS) if told is not None else None
        ladder = ladder_of(settings)
        check_ladder(ladder, FULFILLED_DUTIES)
        self.rulebook: Rulebook = Rulebook(settings.issuer, terms, self.check_fulfillable, ladder)

    def _watch_hearings(self) -> tuple[HeardVersion, ...]:
        """How changes are heard of that come from a server: of accounts, rights and terms. What happens to it is told from now on."""
        found: dict[int, HeardVersion] = {}
        for source in (self._accounts, self._rights, self.archive):
            hearing = getattr(source, "hearing", None)
            if isinstance(hearing, HeardVersion):
                found.setdefault(id(hearing), hearing)
        hearings = tuple(found.values())
        for each in hearings:
            each.watch(self._report_hearing)
        if hearings:
            self.telemetry.watch_hearing(lambda: [age for each in hearings if (age := each.age) is not None])
        return hearings

    def _report_hearing(self, event: str, failure: StoreError | None) -> None:
        """Say once that nothing is heard of changes, or only late; and once that it is again. Uses of a failure mode are counted apart."""
        self.telemetry.hearing(event)
        said = _OF_HEARING.get(event, event)
        if failure is not None:
            _log.error("tos_guard %s: %s", said, failure)
        else:
            _log.warning("tos_guard %s", said)

    def _check_bearer(self) -> None:
        """Fail where it would not be plain who says who asks. Keys of bearer tokens are reported on from now on."""
        if self.settings.dpop is not None and self._replays is None:
            raise ConfigurationError(
                "proofs of possession are accepted, and nothing knows which were used",
                where="replays=",
                cure="Give a ReplayCache, as from_file does.",
            )
        if self._bearer is None:
            if self.settings.bearer:
                raise ConfigurationError(
                    "authorization servers are set, and nothing verifies their tokens",
                    where="bearer=",
                    cure="Give tos_guard.remote.bearer_from_settings(settings.bearer), as from_file does.",
                )
            return
        if self._identify is not None:
            raise ConfigurationError("the host identifies, and so do bearer tokens", where="identify=", cure="Leave one of them out.")
        self._bearer.watch(self._report_bearer_keys)
        self.telemetry.watch_bearer_keys(self._bearer.fetched)

    def _check_kept(self) -> None:
        """Fail where a retry is promised its first token, and nothing keeps it."""
        for path, route in self.settings.routes.items():
            if route.idempotent and self.seals is None:
                raise ConfigurationError(
                    "the route is idempotent, and the store of records keeps no seals",
                    where=f'routes."{path}"',
                    cure="Let records= be a SealStore as well, as our stores are.",
                )

    def _report_bearer_keys(self, event: str, failure: Exception | None) -> None:
        self.telemetry.bearer_keys(event)
        if failure is not None:
            self.report_failure("bearer_keys", failure)
        if event == "stale":
            self.report_degraded("bearer_keys", "local")

    def check_fulfillable(self, terms: TermsVersion) -> None:
        """Fail where terms ask for a fact nobody asserts (D2), or oblige us to something we do not do.

        A duty that is silently left out is a broken promise.
        """
        for fact in sorted(terms.required_facts):
            source = getattr(self.settings.sources, fact, None)
            if source is None:
                raise ConfigurationError(
                    f"the terms ask for the fact {fact!r}, which has no source",
                    where="[sources]",
                    cure=f'Set {fact} = "account" or "host", or remove the condition from the terms.',
                )
            if source == "host" and self._assertions is None:
                raise ConfigurationError(f"the fact {fact!r} comes from the host, and assertions= is not given", where="[sources]")
        for clause in terms.clauses:
            for duty in sorted(set(clause.duties) - FULFILLED_DUTIES):
                raise ConfigurationError(
                    f"clause {clause.id} obliges to {duty!r}, which this guard cannot fulfil",
                    where=f"terms {terms.version}",
                    cure=f"Fulfilled are: {', '.join(sorted(FULFILLED_DUTIES))}. Remove the duty from the terms.",
                )

    def standing(self, holder: Holder) -> tuple[HeldStanding, Rung]:
        """Where an account stands now, and what that does."""
        ladder = self.rulebook.ladder
        held = holder.account.standing_at(self.clock(), acceptances=holder.acceptances, ladder=ladder)
        return held, ladder.rung(held.step)

    @property
    def notice_url(self) -> str | None:
        """Where accounts that are served all the same learn where they stand, as a header field can carry it; None where nobody said."""
        return self._notice_url

    @property
    def standing_url(self) -> str | None:
        """Where the holder of an account sees where it stands, and may appeal: a page of the account routes; None where they are off."""
        routes = self.settings.account_routes
        return f"{self.settings.issuer}{routes}/standing" if routes is not None else None

    @property
    def appeal_url(self) -> str | None:
        """Where a refused account can appeal, or None where nobody said."""
        return self.settings.appeal_url or self.standing_url

    @property
    def takes_credentials(self) -> bool:
        """Whether API keys and bearer tokens are read here. With ``identify=`` the host authenticates, in its own way."""
        return self._identify is None

    @property
    def monitors(self) -> bool:
        """Whether nothing is refused, and what would be is only counted and recorded."""
        return self.settings.mode == "monitor"

    def denies_without(self, part: str) -> bool:
        """Whether nothing leaves while ``records`` or ``signer`` fails. A guard that only monitors stops nothing by its own failures."""
        return not self.monitors and self.settings.failure.modes[part] == "deny"

    def keep_up(self) -> None:
        """See that what this process does beside its requests is done. Called with each of them; costs next to nothing."""
        for one in self._beside:
            one.keep_up()

    # Routing

    def is_exempt(self, path: str, also: Sequence[str] = ()) -> bool:
        """Whether a path is exempt by name.

        Args:
            path: The path.
            also: Names beside those of the settings, of one app that shares the guard with others.
        """
        for name in (*self.settings.exempt, *also) if also else self.settings.exempt:
            if path == name:
                return True
            # A path that an inner app or proxy may normalise leads elsewhere: only its own name could exempt it.
            if name.endswith("*") and path.startswith(name[:-1]) and _DETOUR.search(path) is None:
                return True
        return False

    def check_exempt(self, names: Sequence[str], *, where: str) -> None:
        """See that no exemption, which comes first, takes a guarded route with all of its paths.

        Args:
            names: Names of paths that are exempt.
            where: The setting that says them.

        Raises:
            ConfigurationError: One does.
        """
        for name in names:
            for route in self.settings.routes:
                if swallows(name, route):
                    raise ConfigurationError(
                        f"{route} is guarded, and {name!r} among the exempt paths lets every request to it pass unguarded",
                        where=where,
                        cure=f"Narrow {name!r}, or remove it.",
                    )

    def route(self, path: str) -> Route | None:
        """The guarded route of a path, or None. A ``*`` stands for one segment of it, which is a name and leads nowhere else."""
        if (route := self._routes.get(path)) is not None:
            return route
        if self._patterns and _DETOUR.search(path) is not None:
            return None
        segments = path.split("/")
        for pattern, candidate in self._patterns:
            if len(pattern) == len(segments) and all(
                p == s or (p == "*" and s not in _NO_NAMES) for p, s in zip(pattern, segments, strict=True)
            ):
                return candidate
        return None

    # What must not pass unseen

    @property
    def counts(self) -> Counter[str]:
        """How often what happened, by ``word:detail``."""
        return self.telemetry.counts

    def _timed(self, observed: Observed, steps: Steps[_T]) -> Steps[_T]:
        """The same steps, with what they take added to the time of enforcing."""
        began = time.perf_counter()
        try:
            return (yield from steps)
        finally:
            observed.enforce_seconds += time.perf_counter() - began

    def _signer_for(self, purpose: KeyPurpose) -> Signer | AsyncSigner:
        """The signer of tokens, or that of receipts."""
        if purpose is not KeyPurpose.RECEIPT:
            return self._signer
        if self._receipts is None:
            raise ConfigurationError(
                "there is nothing that signs receipts", where="receipts=", cure="Give a signer of purpose receipt, as from_file does."
            )
        return self._receipts

    def _cache_key(self, need: FindHolder) -> tuple[int, int, FindHolder]:
        """Under what a look-up is kept: a change of accounts, organizations or acceptances makes it another."""
        accounts = self._accounts.version()
        return accounts, self._rights.version() if self._rights is not None else 0, need

    def report_failure(self, what: str, failure: Exception) -> None:
        """Count and log that a part of us failed, so that no degraded mode passes unseen; at most `MAX_LOGGED` lines of one part."""
        self.telemetry.failed(what, failure)
        now = time.monotonic()
        began, number = self._logged.get(what, (now, 0))  # two threads at once make one line more
        if now - began >= LOG_SECONDS:
            began, number = now, 0
        self._logged[what] = began, number + 1
        if number >= MAX_LOGGED:
            return
        _log.error("tos_guard %s failed: %s", what, failure, exc_info=failure.__cause__)

    def report_degraded(self, failed: str, mode: str) -> None:
        """Count that a failure mode other than ``deny`` was used: which class failed, and what was done."""
        self.telemetry.degraded(failed, mode)


def swallows(name: str, route: str) -> bool:
    """Whether all paths of a guarded route, in which ``*`` stands for a segment, are exempt under a name, in which it ends it."""
    return name == route or (name.endswith("*") and route.partition("*")[0].startswith(name[:-1]))


def _dialect(route: RouteSettings) -> Dialect:
    return dialect_named(route.dialect, action=route.action, model=route.model, tag_line=route.tag_line)
