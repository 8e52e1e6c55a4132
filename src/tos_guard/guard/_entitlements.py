"""Entitlements from outside: when a source is asked, what is done with its document, and what becomes of it when the source fails.

- A document is applied account by account, each whole or not at all; what is cut short is done again by the next pull, since the ``ETag``
  is kept only when all was applied. To do it twice changes nothing.
- One process of a fleet at a time applies what a source says, and one of them asks it when that is due (`tos_guard.stores.Turn`).
- A document that was issued before the one in force is refused: a message that came late must not undo a newer one.
- A source that fails is loud. When it has failed for longer than its settings say, the failure mode decides about the rights that it gave.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from tos_guard._canonical import sha256_b64url
from tos_guard.config import EntitlementSettings
from tos_guard.errors import AccountError, ConflictError, MalformedError, NotFoundError, StoreError, TosGuardError
from tos_guard.guard._background import Worker
from tos_guard.protocols import Clock
from tos_guard.rights import Entitlement, entitlement_actor, parse_entitlements
from tos_guard.telemetry import Telemetry

if TYPE_CHECKING:
    from tos_guard.stores import Store

__all__ = ["EntitlementSource", "EntitlementSync", "FetchEntitlements", "Pulled", "SourceState"]

_log = logging.getLogger("tos_guard")

LEASE: Final = timedelta(seconds=60)
"""For so long a process may be silent while it applies a document, before another begins."""

ACCOUNTS_PER_LEASE: Final = 100  # after so many the lease is renewed: they take a second on a slow disk
LOOK_SECONDS: Final = 15.0  # how soon a process takes up what another has left
MAX_FAILURE_CHARS: Final = 500
MAX_SKIPPED: Final = 20  # accounts that are named where some could not be as the source says
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)

FetchEntitlements = Callable[[str], tuple[bytes, str] | None]
"""Asks a source, given an ``ETag``; gives document and ``ETag``, or None for no change. Raises `TosGuardError`."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """How it stands with a source.

    Attributes:
        etag: Of the document that was applied as a whole; empty where it had none, or not all was applied.
        sha256: Its digest; empty where there was none.
        issued: When its source made it.
        heard: When the source last answered as it should.
        failed: When it last did not; None where it has answered since.
        failure: What failed.
        lapsed: Whether what it gave was taken back, since it failed for too long.
    """

    etag: str = ""
    sha256: str = ""
    issued: datetime | None = None
    heard: datetime | None = None
    failed: datetime | None = None
    failure: str = ""
    lapsed: bool = False

    def text(self) -> str:
        """As it is kept."""
        return json.dumps({name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()})

    @classmethod
    def parse(cls, text: str) -> SourceState:
        """As `text` has kept it; the beginning, where nothing is kept or another release kept something else."""
        try:
            members: dict[str, Any] = json.loads(text or "{}")
            for name in ("issued", "heard", "failed"):
                if members.get(name) is not None:
                    members[name] = datetime.fromisoformat(members[name])
            return cls(**members)
        except (ValueError, TypeError, AttributeError):
            return cls()


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of a document.

    Attributes:
        source: Its source.
        outcome: ``unchanged``: it is the one that was applied before; ``applied``; or ``withdrawn``: all was taken back.
        accounts: How many accounts it names.
        changed: Ids of accounts that it changed or added.
        skipped: Ids of accounts that are not as it says, and why.
    """

    source: str
    outcome: Literal["unchanged", "applied", "withdrawn"]
    accounts: int = 0
    changed: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EntitlementSource:
    """A source of the settings, and what asks it.

    Attributes:
        settings: The settings.
        fetch: Asks; None where it is only pushed.
    """

    settings: EntitlementSettings
    fetch: FetchEntitlements | None


class EntitlementSync:
    """Keeps accounts as the sources say.

    Args:
        store: Where the accounts are.
        sources: The sources.
        mode: What becomes of rights whose source fails for too long.
        limits: Ids of the limits that there are; a document that names another is refused.
        telemetry: What counts failures.
        clock: The present.
    """

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, EntitlementSource],
        *,
        mode: Literal["deny", "local"],
        limits: frozenset[str],
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        self._store = store
        self._sources = dict(sources)
        self._mode = mode
        self._limits = limits
        self._telemetry = telemetry
        self._clock = clock
        self._workers = {
            name: Worker(f"tos-guard-entitlements-{name}", partial(self.work, name))
            for name, source in self._sources.items()
            if source.fetch is not None
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The sources."""
        return tuple(self._sources)

    def keep_up(self) -> None:
        """See that this process has threads that ask."""
        for worker in self._workers.values():
            worker.keep_up()

    def close(self) -> None:
        """Stop asking."""
        for worker in self._workers.values():
            worker.close()

    def state(self, name: str) -> SourceState:
        """How it stands with a source.

        Raises:
            NotFoundError: There is no such source.
            StoreError: The store failed.
        """
        self._source(name)
        turn = self._store.turn(_turn(name))
        return SourceState.parse("" if turn is None else turn.state)

    def pull(self, name: str) -> Pulled:
        """Ask a source now, and apply what it says.

        Raises:
            NotFoundError: There is no such source, or it is only pushed.
            ConflictError: Another process is at it.
            DiscoveryError: It did not answer.
            MalformedError: Its document is refused.
            ConfigurationError: Its token cannot be read.
            StoreError: The store failed. What was applied stays; the rest follows with the next pull.
        """
        source = self._source(name)
        fetch = source.fetch
        if fetch is None:
            raise NotFoundError("the source has no url to ask", where=f"entitlements {name}", cure="It pushes its document.")
        with self._alone(name) as lease:
            state = self.state(name)
            try:
                answer = fetch(state.etag)
                if answer is None:
                    self._put(name, replace(state, heard=self._clock(), failed=None, failure=""))
                    return Pulled(name, "unchanged")
                return self._apply(source.settings, *answer, state=state, lease=lease)
            except TosGuardError as error:
                self._fail(source.settings, error, lease)
                raise

    def push(self, name: str, document: bytes) -> Pulled:
        """Apply a document that the source has sent. Errors as of `pull`."""
        source = self._source(name)
        with self._alone(name) as lease:
            return self._apply(source.settings, document, "", state=self.state(name), lease=lease)

    def withdraw(self, name: str) -> Pulled:
        """Take back all that a source gave, which need not be in the settings any longer.

        Raises:
            ConflictError: Another process is at it.
            StoreError: The store failed. What was taken back stays so.
        """
        with self._alone(name) as lease:
            changed: list[str] = []
            for number, kept in enumerate(self._store.entitlements(name)):
                lease.renew(number)
                self._entitle(name, kept.account_id, None, changed)
            self._put(name, SourceState())
            return Pulled(name, "withdrawn", changed=tuple(changed))

    def announce(self, name: str) -> None:
        """A source has changed: ask it as soon as may be. Durable when this returns; one process of the fleet asks.

        Raises:
            NotFoundError: There is no such source, or it is only pushed.
            StoreError: The store failed.
        """
        if self._source(name).fetch is None:
            raise NotFoundError("the source has no url to ask", where=f"entitlements {name}", cure="Push its document.")
        self._store.put_turn(_turn(name), due=_BEGINNING)
        self._workers[name].wake()

    def work(self, name: str) -> float:
        """Ask a source if that is due and nobody else does. Returns in how many seconds to look again. Raises nothing that may happen."""
        settings = self._source(name).settings
        now = self._clock()
        interval = timedelta(seconds=settings.interval_seconds)
        try:
            if self._store.take_turn(_turn(name), until=now + interval) is None:
                turn = self._store.turn(_turn(name))
                left = (turn.due - self._clock()).total_seconds() if turn is not None else 0.0
                return min(max(left, 0.05), LOOK_SECONDS)
            self.pull(name)
        except ConflictError:
            return LOOK_SECONDS
        except TosGuardError as error:
            self._telemetry.failed("entitlements", error)
            _log.error("entitlements of %s: %s", name, error)
        return min(float(settings.interval_seconds), LOOK_SECONDS)

    # What is done with a document

    def _apply(self, settings: EntitlementSettings, body: bytes, etag: str, *, state: SourceState, lease: _Lease) -> Pulled:
        name = settings.name
        document = parse_entitlements(body, now=self._clock())
        if unknown := sorted(document.limits - self._limits):
            known = ", ".join(sorted(self._limits)) or "none"
            raise MalformedError(f"there is no limit {unknown[0]!r}", where=f"entitlements {name}", cure=f"The settings have: {known}.")
        if state.issued is not None and document.issued < state.issued:
            raise MalformedError(
                f"issued at {document.issued.isoformat()}, before the one in force, of {state.issued.isoformat()}",
                where=f"entitlements {name}",
            )
        lease.renew(0)  # the state was read before the answer came, which may have taken longer than the lease
        # Noted first: once a part of it is applied, no older document may follow, nor may this one be taken for applied.
        self._put(name, replace(state, etag="", sha256="", issued=document.issued, heard=self._clock()))
        kept = {one.account_id: one for one in self._store.entitlements(name)}
        changed: list[str] = []
        skipped: dict[str, str] = {}
        number = 0
        for account_id, entitlement in sorted(document.accounts.items()):
            known_before = kept.pop(account_id, None)
            if known_before is not None and known_before.is_current and not known_before.lapsed and known_before.text == entitlement.text:
                continue
            lease.renew(number := number + 1)
            try:
                if not self._entitle(name, account_id, entitlement, changed, create=settings.create):
                    skipped[account_id] = "unknown account"
            except AccountError as error:
                skipped[account_id] = error.what
        for account_id in kept:
            lease.renew(number := number + 1)
            self._entitle(name, account_id, None, changed)
        for account_id, why in list(skipped.items())[:MAX_SKIPPED]:
            _log.warning("entitlements of %s: account %s is not as it says: %s", name, account_id, why)
        lease.renew(0)
        now = self._clock()
        self._put(name, SourceState("" if skipped else etag, sha256_b64url(body), document.issued, now))
        return Pulled(name, "applied", len(document.accounts), tuple(changed), skipped)

    def _entitle(
        self, name: str, account_id: str, entitlement: Entitlement | None, changed: list[str], *, create: bool = False, lapse: bool = False
    ) -> bool:
        """Whether there is such an account."""
        before = self._store.by_id(account_id)
        if before is None and not create:
            return False  # without a lock that writers wait for
        after = self._store.entitle(name, account_id, entitlement, create=create, lapse=lapse)
        if after is not None and (before is None or after.version != before.version):
            changed.append(account_id)
            self._telemetry.changed("added" if before is None else "changed")
        return after is not None

    def _fail(self, settings: EntitlementSettings, error: TosGuardError, lease: _Lease) -> None:
        """Remember that a source failed, and let the failure mode decide where it has for too long."""
        state = replace(self.state(settings.name), failed=self._clock(), failure=str(error)[:MAX_FAILURE_CHARS])
        patience = timedelta(seconds=settings.stale_if_error_seconds)
        if state.heard is not None and self._clock() - state.heard > patience:
            if self._mode == "local":
                self._telemetry.degraded("entitlements", "local")
            elif not state.lapsed:
                changed: list[str] = []
                for number, kept in enumerate(self._store.entitlements(settings.name)):
                    lease.renew(number)
                    if not kept.lapsed:
                        self._entitle(settings.name, kept.account_id, None, changed, lapse=True)
                state = replace(state, etag="", lapsed=True)
                _log.error("entitlements of %s lapse: it has failed since %s", settings.name, state.heard)
                self._telemetry.degraded("entitlements", "deny")
        self._put(settings.name, state)

    # State and turns

    def _source(self, name: str) -> EntitlementSource:
        try:
            return self._sources[name]
        except KeyError:
            known = ", ".join(self._sources) or "none"
            raise NotFoundError("no such source of entitlements", where=name[:64], cure=f"The settings have: {known}.") from None

    def _put(self, name: str, state: SourceState) -> None:
        """Keep how it stands; when the source is asked next stays as it is, since somebody may have announced a change meanwhile."""
        self._store.put_turn(_turn(name), state=state.text())

    def _alone(self, name: str) -> _Lease:
        return _Lease(self._store, name, self._clock)


class _Lease:
    """The right to apply what a source says, for one process at a time. One that is stopped for longer than a minute loses it."""

    def __init__(self, store: Store, name: str, clock: Clock) -> None:
        self._store = store
        self._name = f"entitlements-applied:{name}"
        self._clock = clock
        self._until = _BEGINNING

    def __enter__(self) -> _Lease:
        if not self._take():
            raise ConflictError("another process is applying what this source says", where=self._name, cure="Try again in a minute.")
        return self

    def __exit__(self, *_: object) -> None:
        if self._holds():
            self._store.put_turn(self._name, due=_BEGINNING)

    def renew(self, number: int) -> None:
        """Before the account of this number. Raises `StoreError` where it was lost: what this process has may be older than what holds."""
        if number % ACCOUNTS_PER_LEASE and self._clock() < self._until:
            return
        if not self._holds():
            raise StoreError("this process was silent for too long, and another goes on", where=self._name)
        self._until = _in_ms(self._clock() + LEASE)
        self._store.put_turn(self._name, due=self._until)

    def _take(self) -> bool:
        self._until = _in_ms(self._clock() + LEASE)
        return self._store.take_turn(self._name, until=self._until) is not None

    def _holds(self) -> bool:
        turn = self._store.turn(self._name)
        return turn is not None and turn.due == self._until


def _in_ms(moment: datetime) -> datetime:
    """As stores keep it."""
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)


def _turn(name: str) -> str:
    return entitlement_actor(name)
