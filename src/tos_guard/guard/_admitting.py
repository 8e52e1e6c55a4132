"""From a request to its decision: who asks, under which terms, whether they allow it, and what is reserved for it (DESIGN §5)."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from tos_guard._canonical import b64url_encode
from tos_guard.dialects import RequestFacts
from tos_guard.errors import BearerError, DeniedError, MalformedRequestError, PolicyStop, ProofError, StoreError
from tos_guard.exchange import Exchange, ExchangeIds, TermsInForce
from tos_guard.guard._keeping import Keeping
from tos_guard.guard._leases import BACKGROUND_LEASE, LEASE
from tos_guard.guard._needs import (
    Admission,
    Caller,
    Cancel,
    FindHolder,
    Identify,
    Keep,
    KeepPolicy,
    ReadTerms,
    RequestView,
    Reserve,
    Route,
    Steps,
    VerifyBearer,
)
from tos_guard.guard._refusals import denial, unauthenticated, unavailable
from tos_guard.limits import Charge, LimitRefusal, LimitState, Reservation, Usage
from tos_guard.policy import UsagePolicy
from tos_guard.rights import (
    API_KEY_PREFIX,
    Account,
    BearerIdentity,
    Holder,
    KeyedHolder,
    KeyTerms,
    Plan,
    Rights,
    hash_end_user,
    hash_secret,
    parse_api_key,
)
from tos_guard.types import UNDECLARED, Decision, Facts, Outcome, Reason

__all__ = ["Admitting", "credential_of", "decided"]

MAX_FOUND_SECONDS: Final = 0.5
"""So old may be what was found of an account when its request is decided: with what a store may lag, within a second (DESIGN D3)."""

MAX_NONCE_CHARS: Final = 64  # 256 bits in any spelling; a token has no room for more
_ASSERTED: Final = {"region": re.compile("[A-Z]{2}"), "verification": re.compile("[ -~]{1,64}")}
"""Facts that a host may assert, and in which form."""

_PURPOSE_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class Admitting(Keeping):
    """The steps before the handler runs."""

    def authenticate(self, view: RequestView) -> Steps[Caller]:
        """Find who asks: by the host's word, by an API key, or by a bearer token of another authorization server.

        Raises:
            AuthenticationError: No credential, or none that we accept; one text for all.
            RequestError: 503, where the keys of a bearer token's issuer are not at hand, or too old for the settings.
            StoreError: The account source did not answer, and nothing that was read before may be used.
        """
        return self._timed(view.observed, self._authenticate(view))

    def _authenticate(self, view: RequestView) -> Steps[Caller]:
        self.keep_up()
        if self._identify is not None:
            account_id = yield Identify(view)
            if account_id is None:
                raise unauthenticated()
            return (yield from self._caller(FindHolder(account_id=account_id), None))
        try:
            return (yield from self._presented(view))
        except ProofError as error:
            self.telemetry.proof_refused(error.fault)
            raise

    def _presented(self, view: RequestView) -> Steps[Caller]:
        """Whoever presents a credential, and proves what it is bound to."""
        credential = credential_of(view)
        self._prover.check_fields(view)
        if credential is None:
            raise unauthenticated()
        identity: BearerIdentity | None = None
        if credential.is_key or self._bearer is None:
            public_id, secret = parse_api_key(credential.text)
            need = FindHolder(public_id=public_id, secret_hash=hash_secret(secret, self._pepper))
        else:
            identity = yield from self._bearer_identity(credential.text)
            need = FindHolder(account_id=identity.account_id)
        caller = yield from self._caller(need, identity)
        binding = caller.key.binding if identity is None else identity.binding
        yield from self._prover.prove(view, credential.text, is_dpop=credential.is_dpop, binding=binding)
        return caller

    def _caller(self, need: FindHolder, identity: BearerIdentity | None) -> Steps[Caller]:
        found_at = time.monotonic()
        found = yield from self._holder(need)
        if found is None or found.terms.has_expired(self.clock()) or not _belongs_to(found.holder, identity):
            raise unauthenticated()
        return Caller(found.holder, identity, found.terms, need, found_at)

    def still(self, caller: Caller) -> Steps[Caller]:
        """The caller with its rights as they are now: a body comes as slowly as its client likes, and a suspension does not wait for it.

        What a credential is bound to is not proven again: a proof is good once.

        Raises:
            AuthenticationError: The account was deleted, its key was revoked, or key or token has expired.
            StoreError: The account source did not answer, and nothing that was read before may be used.
        """
        now, identity = self.clock(), caller.identity
        if caller.key.has_expired(now) or (identity is not None and identity.has_expired(now)):
            raise unauthenticated()
        if caller.need is None or time.monotonic() - caller.found_at < MAX_FOUND_SECONDS:
            return caller
        return (yield from self._caller(caller.need, caller.identity))

    def _bearer_identity(self, token: str) -> Steps[BearerIdentity]:
        """Who presents a bearer token. Whatever fails is counted in one word, which the caller never reads."""
        try:
            identity: BearerIdentity = yield VerifyBearer(token, self.clock())
        except BearerError as error:
            self.telemetry.bearer_refused(error.fault)
            raise
        except StoreError as failure:
            raise unavailable() from failure  # whoever keeps the keys has told what failed: a flood of tokens must not fill the log
        return identity

    def _holder(self, need: FindHolder) -> Steps[KeyedHolder | None]:
        """The account of *need*; where the store is down and the settings say ``local``, as it was last read."""
        failure_modes = self.settings.failure
        try:
            found: KeyedHolder | None = yield need
        except StoreError as failure:
            known = self._known_before(need) if failure_modes.accounts == "local" else None
            if known is None:
                raise
            self.report_failure("accounts", failure)
            self.report_degraded("accounts", "local")
            return known
        if failure_modes.accounts == "local":
            with self._found_lock:
                if found is None:
                    self._last_known.pop(need, None)
                else:
                    self._last_known[need] = (found, self.clock())
        return found

    def _known_before(self, need: FindHolder) -> KeyedHolder | None:
        with self._found_lock:
            found, read_at = self._last_known.get(need, (None, None))
        if found is None or read_at is None:
            return None
        # A clock that was set back makes nothing younger.
        return found if abs(self.clock() - read_at) <= timedelta(seconds=self.settings.failure.stale_seconds) else None

    def admit(
        self, caller: Caller, view: RequestView, route: Route, body: bytes, *, request: RequestFacts | None = None
    ) -> Steps[Exchange]:
        """Read the request, decide it, and reserve what it may take. What was reserved is settled by `close`, which must follow.

        Args:
            caller: Who asks.
            view: Head of the request.
            route: Its route.
            body: Its body.
            request: What the route's dialect read in the body, where an adapter had it read elsewhere; a large body takes seconds.

        Raises:
            AuthenticationError: The account was deleted, or its key revoked, while the body came.
            MalformedRequestError: Body or a header cannot be read.
            UnknownResponseError: It asks for a response that was not sealed for the account.
            IdempotencyMismatchError: Its ``Idempotency-Key`` was given with another request.
            RequestError: 503, where the limits engine failed and the settings deny.
            StoreError: Published terms or kept seals could not be read, or the account source did not answer once more.
        """
        observed = view.observed
        exchange = yield from self._timed(observed, self._admit(caller, view, route, body, request))
        exchange.observed = observed
        observed.request_id = exchange.ids.rid
        self._told(exchange)
        return exchange

    def _told(self, exchange: Exchange) -> None:
        version = exchange.in_force.terms.version
        self.telemetry.decided(exchange.observed, exchange.decision, terms_version=version, monitored=exchange.monitored)

    def _admit(self, caller: Caller, view: RequestView, route: Route, body: bytes, request: RequestFacts | None) -> Steps[Exchange]:
        now = self.clock()
        encoding = view.header("content-encoding")
        if encoding not in (None, "identity"):
            raise MalformedRequestError(f"content encoding {encoding!r} is not accepted", where="request body", cure="Send it plain.")
        if request is None:
            request = route.dialect.read_request(body, view.head)
        caller = yield from self.still(caller)
        holder = caller.holder
        nonce = _nonce(view)
        retry, seal = None, None
        if request.retrieves is not None:
            # Whoever may not make a response may not have it again: what decides is what decided when it was made.
            seal = yield from self._retrieved(holder.account.id, request.retrieves)
            facts = self._facts_of(seal)
            request = replace(request, action=facts.action, model=facts.model)
        else:
            facts = self._facts(caller, view, request)
            retry = self._retry(holder.account.id, view, route, body)
            seal = (yield from self._repeated(holder.account.id, retry)) if retry is not None else None
        exchange, rights = yield from self._decided(
            caller, route, request, facts, body=body, nonce=nonce, now=now, salt=retry[2] if retry is not None else None
        )
        if retry is not None:
            exchange.key, exchange.request_hash, _ = retry
        if seal is not None:
            self._expect(exchange, seal, salt=exchange.ids.salt if retry is not None else b"")
        if exchange.decision.allowed and request.retrieves is None:
            yield from self._reserve(exchange, holder, rights)
        return exchange

    def _decided(
        self,
        caller: Caller,
        route: Route,
        request: RequestFacts,
        facts: Facts,
        *,
        body: bytes,
        nonce: str | None,
        now: datetime,
        salt: bytes | None,
    ) -> Steps[tuple[Exchange, Rights]]:
        """The exchange of a request, decided under the terms in force, and the rights of its account."""
        yield from self._read_terms()
        plan = self.rulebook.plan(caller.holder, request.model, now)
        rights = plan.rights(facts)
        yield from self._keep_policy(rights.usage)
        return self._exchange(caller, route, request, facts, plan, rights, body=body, nonce=nonce, now=now, salt=salt), rights

    def _exchange(
        self,
        caller: Caller,
        route: Route,
        request: RequestFacts,
        facts: Facts,
        plan: Plan,
        rights: Rights,
        *,
        body: bytes,
        nonce: str | None,
        now: datetime,
        salt: bytes | None,
    ) -> Exchange:
        account, general = caller.account, plan.terms.general
        settings = self.settings.routes[route.path]
        return Exchange(
            issuer=self.settings.issuer,
            ids=ExchangeIds.fresh(self._entropy, sub=self._stable_sub(account), salt=salt),
            account_id=account.id,
            account_version=account.version,
            started=now,
            dialect=route.dialect,
            request=request,
            facts=facts,
            decision=decided(plan, caller.key, facts),
            in_force=TermsInForce.of(
                uri=general.uri,
                version=general.version,
                sha256=general.sha256,
                policy=rights.usage,
                grant=rights.grant,
                # One acceptance stands behind all of an account's tokens: naming it would link them (DESIGN D10).
                receipt=plan.receipt if account.stable_sub else None,
                also=tuple(terms.version for terms in plan.terms.documents[1:]),
            ),
            plan=plan,
            request_body=body,
            nonce=nonce,
            standing_url=self.notice_url,
            monitored=self.settings.mode == "monitor",
            checkpoint_seconds=settings.checkpoint_seconds,
            checkpoint_events=settings.checkpoint_events,
        )

    def _read_terms(self) -> Steps[None]:
        """See to it that the shelf holds what is published."""
        if self.archive is None:
            return
        try:
            version = self.archive.version()
            if self.rulebook.is_current(version):
                return
            published = yield ReadTerms()
        except StoreError as failure:
            if self.settings.failure.accounts != "local":
                raise
            self.report_failure("terms", failure)
            self.report_degraded("accounts", "local")
            return
        known = self.rulebook.shelf.versions if self.rulebook.has_read else None
        for problem in self.rulebook.read(published, version):
            self.report_failure("terms", problem)
        if known is not None:  # what was there at the start is no news
            for terms in self.rulebook.shelf.versions:
                if terms not in known and terms.organization is None:
                    self.telemetry.published(terms.version)

    def _keep_policy(self, policy: UsagePolicy) -> Steps[None]:
        """Keep the usage policy that tokens will name. Where that fails the next request tries again."""
        if self.archive is None or self.rulebook.is_kept(policy):
            return
        try:
            yield KeepPolicy(policy)
        except StoreError as failure:
            self.report_failure("usage_policy", failure)
        else:
            self.rulebook.note_kept(policy)

    def _reserve(self, exchange: Exchange, holder: Holder, rights: Rights) -> Steps[None]:
        """Take what the request may take of the account's limits; a limit that has not enough denies."""
        if self._limits is None or self._leases is None:
            return
        exchange.estimate = self.meter.estimate(exchange.request, exchange.request_body)
        share = exchange.plan.rung.limit_share
        charges = self.meter.charges(holder, rights.larger_limits, exchange.facts, exchange.estimate, share=share)
        if not charges:
            return
        background = exchange if exchange.request.background or exchange.facts.channel == "batch" else None
        answer, shadowed = yield from self._charge(charges, exchange.ids.rid, background)
        if isinstance(answer, LimitRefusal):
            exchange.limit_refusal = answer
            reported = (reason for reason in exchange.decision.reasons if reason.shadow)
            exchange.decision = self._over_limit(answer, *reported, *shadowed)
            return
        exchange.reservation = answer
        held = answer if background is None else exchange.slot
        if held is not None:
            self._leases.hold(held)
        if shadowed:
            exchange.decision = replace(exchange.decision, reasons=(*exchange.decision.reasons, *shadowed))

    def _charge(
        self,
        charges: tuple[Charge, ...],
        id: str,  # noqa: A002 - as the engine's
        background: Exchange | None = None,
    ) -> Steps[tuple[Reservation | LimitRefusal, tuple[Reason, ...]]]:
        """Ask the engine for all charges or none. Returns its answer, and the limits in shadow that would have refused."""
        began = time.perf_counter()
        try:
            answer = yield from self._taken(charges, id, background)
        except StoreError as failure:
            self.telemetry.reserve_failed(time.perf_counter() - began)
            self.report_failure("limits", failure)
            raise unavailable() from failure
        self.telemetry.reserved(answer, time.perf_counter() - began)
        if answer.fallback:
            self.report_degraded("limits", answer.fallback)
        return answer, tuple(_limit_reason(state, shadow=True) for state in answer.shadowed)

    @staticmethod
    def _over_limit(refused: LimitRefusal, *others: Reason) -> Decision:
        """The denial by a limit, with what else was to be told."""
        return Decision(Outcome.DENY, (_limit_reason(refused.state), *others))

    def _taken(self, charges: tuple[Charge, ...], id: str, background: Exchange | None) -> Steps[Reservation | LimitRefusal]:  # noqa: A002
        """Take all charges, or none.

        Of an exchange in the *background*, the slots of concurrency are taken apart from the rest: they come back when its first answer
        has left, and what is counted over time can be settled by whoever fetches the response. A line of a batch waits for its turn, and
        takes no slot.
        """
        if background is None:
            answer: Reservation | LimitRefusal = yield Reserve(charges, id)
            return answer
        slots = tuple(charge for charge in charges if charge.limit.window is None and background.facts.channel != "batch")
        rest = tuple(charge for charge in charges if charge.limit.window is not None)
        taken: Reservation | LimitRefusal = Reservation(id, ())
        if rest:
            taken = yield Reserve(rest, id, BACKGROUND_LEASE)
        if isinstance(taken, LimitRefusal) or not slots:
            return taken
        try:
            slot: Reservation | LimitRefusal = yield Reserve(slots, f"{id}.slot", LEASE)
        except StoreError:
            if rest:
                yield Cancel(taken)
            raise
        if isinstance(slot, LimitRefusal):
            if rest:
                yield Cancel(taken)
            return slot._replace(states=(*taken.states, *slot.states), shadowed=(*taken.shadowed, *slot.shadowed))
        background.slot = slot
        if slot.fallback:
            self.report_degraded("limits", slot.fallback)
        return taken._replace(states=(*taken.states, *slot.states), shadowed=(*taken.shadowed, *slot.shadowed))

    def _facts(self, caller: Caller, view: RequestView, request: RequestFacts) -> Facts:
        account = caller.account
        host = self._asserted(view, account)

        def asserted(fact: str, source: str | None) -> str | None:
            value: str | None = getattr(account, fact) if source == "account" else None
            return host.get(fact) if source == "host" else value

        sources = self.settings.sources
        # A token's word, where it has one: what the body says is the application's own.
        end_user = (caller.identity.end_user if caller.identity is not None else None) or request.end_user
        return Facts(
            action=request.action,
            model=request.model,
            purpose=_purpose(view),
            region=asserted("region", sources.region),
            verification=asserted("verification", sources.verification),
            end_user=UNDECLARED if end_user is None else self.end_user_hash(account.id, end_user),
        )

    def _asserted(self, view: RequestView, account: Account) -> Mapping[str, str | None]:
        """What the host says of a request. What has another form is unknown: no clause on KP would meet ``kp``."""
        if self._assertions is None:
            return {}
        try:
            said = dict(self._assertions(view, account))
        except Exception as error:  # noqa: BLE001 - anything at all may come out of code that is not ours; its facts are then unknown (D2)
            self.report_failure("assertions", StoreError(f"assertions= raised {type(error).__name__}", where="host"))
            return {}
        known: dict[str, str | None] = {}
        for fact, form in _ASSERTED.items():
            value = said.get(fact)
            known[fact] = value if isinstance(value, str) and form.fullmatch(value) else None
            if value is not None and known[fact] is None:
                self.report_failure("assertions", StoreError(f"assertions= gave a {fact} that is none", where="host"))
        return known

    def end_user_hash(self, account_id: str, end_user: str) -> str:
        """How an end user of an account is named in records and in ``blocked_end_users`` (`tos_guard.rights.hash_end_user`)."""
        return hash_end_user(end_user, account_id=account_id, key=self._end_user_key)

    def _stable_sub(self, account: Account) -> str | None:
        if not account.stable_sub:
            return None
        return b64url_encode(hmac.digest(self._sub_key, account.id.encode("utf-8"), hashlib.sha256)[:16])

    def admission(self, caller: Caller, exchange: Exchange) -> Admission:
        """What the handler may know, and say."""

        def report(usage: Usage) -> None:
            exchange.reported = usage

        def stop(why: PolicyStop) -> None:
            exchange.stopped = exchange.stopped or why

        return Admission(
            account=caller.account,
            request_id=exchange.ids.rid,
            facts=exchange.facts,
            clauses=exchange.decision.clauses,
            content_usage=exchange.in_force.usage.content_usage,
            key=caller.key,
            _report=report,
            _narrow=lambda action: self._narrow(exchange, caller.key, action),
            _stop=stop,
        )

    def _narrow(self, exchange: Exchange, key: KeyTerms, action: str) -> None:
        """Decide once more, for an action that only the handler knows.

        Raises:
            DeniedError: It is not allowed. The exchange is then a denial, unless its response has ended.
        """
        facts = replace(exchange.facts, action=action)
        decision = decided(exchange.plan, key, facts)
        if decision.allowed:
            return
        asked = copy(exchange) if exchange.answered else exchange
        asked.facts, asked.decision = facts, decision
        self._told(asked)
        if not exchange.monitored:
            raise self.denied(asked)

    def denied(self, exchange: Exchange) -> DeniedError:
        """What a denied exchange is told."""
        return denial(exchange, self.accept_url)

    def keep_denial(self, exchange: Exchange) -> Steps[DeniedError]:
        """Record a denial and say what it is."""
        error = self.denied(exchange)
        try:
            yield Keep(exchange.record(now=self.clock(), status=error.status), wait=False)
        except StoreError as failure:
            self.report_failure("record", failure)
        return error

    @property
    def accept_url(self) -> str | None:
        """Where people accept terms, or None where nobody said."""
        if self.settings.acceptance.url is not None or self.settings.account_routes is None:
            return self.settings.acceptance.url
        return f"{self.settings.issuer}{self.settings.account_routes}/terms"


def _limit_reason(state: LimitState, *, shadow: bool = False) -> Reason:
    return Reason("tos_limit", state.limit.id, shadow=shadow)


class Credential(NamedTuple):
    """What a request presents.

    Attributes:
        text: The credential.
        is_key: Whether only our keys may stand where it stood, or it looks like one.
        is_dpop: Whether it came under the scheme ``DPoP`` (RFC 9449).
    """

    text: str
    is_key: bool
    is_dpop: bool = False


def credential_of(view: RequestView) -> Credential | None:
    """The one credential of a request, or None."""
    try:
        authorization, key = view.header("authorization"), view.header("x-api-key")
    except MalformedRequestError:
        raise unauthenticated() from None  # two credentials are none
    if authorization is None:
        return None if key is None else Credential(key, is_key=True)
    scheme, _, text = authorization.partition(" ")
    is_dpop = scheme.lower() == "dpop"
    if not (is_dpop or scheme.lower() == "bearer") or key not in (None, text):
        return None
    return Credential(text, text.startswith(f"{API_KEY_PREFIX}-"), is_dpop)


def decided(plan: Plan, key: KeyTerms, facts: Facts) -> Decision:
    """What the account's plan says, unless the key is for less."""
    decision = plan.decide(facts)
    if not decision.allowed or key.permits(facts.action, facts.model):
        return decision
    return Decision(Outcome.DENY, (Reason("tos_key_scope"), *(reason for reason in decision.reasons if reason.shadow)))


def _belongs_to(holder: Holder, identity: BearerIdentity | None) -> bool:
    """Whether an account is of the organization that the token names, where it names one."""
    return identity is None or identity.organization in (None, holder.account.organization)


def _purpose(view: RequestView) -> str:
    purpose = view.header("ai-usage-purpose")
    if purpose is None:
        return UNDECLARED
    if not 1 <= len(purpose) <= 32 or not _PURPOSE_CHARS.issuperset(purpose):
        raise MalformedRequestError("is not a word of a-z, 0-9 and -", where="header ai-usage-purpose")
    return purpose


def _nonce(view: RequestView) -> str | None:
    nonce = view.header("ai-provenance-nonce")
    if nonce is not None and not 1 <= len(nonce) <= MAX_NONCE_CHARS:
        raise MalformedRequestError(f"has not 1 to {MAX_NONCE_CHARS} characters", where="header ai-provenance-nonce")
    return nonce
