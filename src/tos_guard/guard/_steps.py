"""The steps of one exchange that need the outside, written once for both colours (DESIGN D1).

Each is a generator that yields what it needs (`tos_guard.guard._needs`) and receives it; `tos_guard.guard._colours` serves the needs.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from cachetools import LRUCache

from tos_guard._canonical import b64url_encode
from tos_guard.config import GuardSettings, RouteSettings
from tos_guard.dialects import ChatDialect, Dialect, PlainDialect, RequestFacts
from tos_guard.errors import ConfigurationError, DeniedError, MalformedRequestError, RequestError, SignerError, StoreError
from tos_guard.exchange import Exchange, ExchangeIds, Head, Response, Sealed, TermsInForce
from tos_guard.guard._needs import Admission, CurrentKey, FindAccount, Identify, Keep, RequestView, Route, Sign, Steps
from tos_guard.guard._refusals import denial, refusal, unauthenticated
from tos_guard.keys import KeyRecord, join_jws
from tos_guard.protocols import AccountSource, AsyncAccountSource, AsyncSigner, Clock, RecordStore, Signer, TermsArchive
from tos_guard.provenance import MAX_WRITTEN_CHARS, Claims, token_signing_input
from tos_guard.rights import Account, PlanCache, hash_secret, parse_api_key
from tos_guard.terms import TermsVersion
from tos_guard.types import UNDECLARED, Completion, Facts

__all__ = ["Assertions", "GuardSteps", "Identifier", "utc_now"]

_log = logging.getLogger("tos_guard")

MAX_CACHED_ACCOUNTS: Final = 10_000
FULFILLED_DUTIES: Final = frozenset({"seal"})  # every response is sealed, whether a clause asks for it or not
MAX_NONCE_CHARS: Final = 64  # 256 bits in any spelling; a token has no room for more
_DETOUR: Final = re.compile(r"//|\\|/\.{1,2}(?:/|$)|%(?:2[5ef]|5c)", re.IGNORECASE)
_PURPOSE_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")

Identifier = Callable[[RequestView], str | None] | Callable[[RequestView], Awaitable[str | None]]
"""Names the account of a request that the host has authenticated, or None."""

Assertions = Callable[[RequestView, Account], Mapping[str, str | None]]
"""What the provider knows of a request: ``region``, ``verification``; None for unknown."""


def utc_now() -> datetime:
    """The present."""
    return datetime.now(UTC)


class GuardSteps:
    """What both colours share: everything but how needs are served."""

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
        identify: Identifier | None = None,
        assertions: Assertions | None = None,
        clock: Clock = utc_now,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.settings = settings
        self.terms = terms
        self.clock = clock
        self.counts: Counter[str] = Counter()
        self._count_lock = threading.Lock()
        self.archive = archive
        self._accounts = accounts
        self._records = records
        self._signer = signer
        self._pepper = pepper
        self._identify = identify
        self._assertions = assertions
        self._entropy = entropy
        self._plans = PlanCache()
        self._found: LRUCache[tuple[int, FindAccount], Account] = LRUCache(MAX_CACHED_ACCOUNTS)
        self._found_lock = threading.Lock()
        self._sub_key = hmac.digest(pepper, b"tos_guard stable subject", hashlib.sha256)
        self._routes = {path: Route(path, _dialect(route)) for path, route in settings.routes.items()}
        self._patterns = [(path.split("/"), route) for path, route in self._routes.items() if "*" in path]
        self._check_sources()
        self._check_duties()

    def _check_sources(self) -> None:
        """Fail at start where terms ask for a fact nobody asserts (D2)."""
        for fact in sorted(self.terms.required_facts):
            source = getattr(self.settings.sources, fact, None)
            if source is None:
                raise ConfigurationError(
                    f"the terms ask for the fact {fact!r}, which has no source",
                    where="[sources]",
                    cure=f'Set {fact} = "account" or "host", or remove the condition from the terms.',
                )
            if source == "host" and self._assertions is None:
                raise ConfigurationError(f"the fact {fact!r} comes from the host, and assertions= is not given", where="[sources]")

    def _check_duties(self) -> None:
        """Fail at start where terms oblige us to something we do not do: a duty that is silently left out is a broken promise."""
        for clause in self.terms.clauses:
            for duty in sorted(set(clause.duties) - FULFILLED_DUTIES):
                raise ConfigurationError(
                    f"clause {clause.id} obliges to {duty!r}, which this guard cannot fulfil",
                    where=f"terms {self.terms.version}",
                    cure=f"Fulfilled are: {', '.join(sorted(FULFILLED_DUTIES))}. Remove the duty from the terms.",
                )

    # Routing

    def is_exempt(self, path: str) -> bool:
        """Whether a path is exempt by name."""
        for name in self.settings.exempt:
            if path == name:
                return True
            # A path that an inner app or proxy may normalise leads elsewhere: only its own name could exempt it.
            if name.endswith("*") and path.startswith(name[:-1]) and _DETOUR.search(path) is None:
                return True
        return False

    def route(self, path: str) -> Route | None:
        """The guarded route of a path, or None."""
        if (route := self._routes.get(path)) is not None:
            return route
        segments = path.split("/")
        for pattern, candidate in self._patterns:
            if len(pattern) == len(segments) and all(p in ("*", s) for p, s in zip(pattern, segments, strict=True)):
                return candidate
        return None

    # Counting: the seam of telemetry

    def count(self, what: str) -> None:
        """Count something that must not pass unseen; names are ``word:detail``."""
        with self._count_lock:
            self.counts[what] += 1

    # One exchange

    def authenticate(self, view: RequestView) -> Steps[Account]:
        """Find who asks.

        Raises:
            AuthenticationError: No credential, or none that we accept; one text for all.
            StoreError: The account source did not answer.
        """
        if self._identify is not None:
            account_id = yield Identify(view)
            need = FindAccount(account_id=account_id) if account_id is not None else None
        else:
            need = self._key_need(view)
        account: Account | None = None
        if need is not None:
            account = yield need
        if account is None:
            raise unauthenticated()
        return account

    def _key_need(self, view: RequestView) -> FindAccount | None:
        try:
            authorization, key = view.header("authorization"), view.header("x-api-key")
        except MalformedRequestError:
            raise unauthenticated() from None  # two credentials are none
        if authorization is not None:
            scheme, _, text = authorization.partition(" ")
            if scheme.lower() != "bearer" or key not in (None, text):
                return None
            key = text
        if key is None:
            return None
        public_id, secret = parse_api_key(key)
        return FindAccount(public_id=public_id, secret_hash=hash_secret(secret, self._pepper))

    def begin(self, account: Account, view: RequestView, route: Route, body: bytes, *, request: RequestFacts | None = None) -> Exchange:
        """Read the request and decide it.

        Args:
            request: What the route's dialect read in the body, where an adapter had it read elsewhere; a large body takes seconds.

        Raises:
            MalformedRequestError: Body or a header cannot be read.
        """
        now = self.clock()
        encoding = view.header("content-encoding")
        if encoding not in (None, "identity"):
            raise MalformedRequestError(f"content encoding {encoding!r} is not accepted", where="request body", cure="Send it plain.")
        if request is None:
            request = route.dialect.read_request(body)
        facts = self._facts(account, view, request.action, request.model)
        plan = self._plans.plan(account, self.terms, issuer=self.settings.issuer, now=now)
        rights = plan.rights(request.model)
        return Exchange(
            issuer=self.settings.issuer,
            ids=ExchangeIds.fresh(self._entropy, sub=self._stable_sub(account)),
            account_id=account.id,
            started=now,
            dialect=route.dialect,
            request=request,
            facts=facts,
            decision=plan.decide(facts),
            in_force=TermsInForce.of(
                uri=self.terms.uri, version=self.terms.version, sha256=self.terms.sha256, policy=rights.usage, grant=rights.grant
            ),
            request_body=body,
            nonce=_nonce(view),
        )

    def _facts(self, account: Account, view: RequestView, action: str, model: str) -> Facts:
        host = self._assertions(view, account) if self._assertions is not None else {}

        def asserted(fact: str, source: str | None) -> str | None:
            value: str | None = getattr(account, fact) if source == "account" else None
            return host.get(fact) if source == "host" else value

        sources = self.settings.sources
        return Facts(
            action=action,
            model=model,
            purpose=_purpose(view),
            region=asserted("region", sources.region),
            verification=asserted("verification", sources.verification),
        )

    def _stable_sub(self, account: Account) -> str | None:
        if not account.stable_sub:
            return None
        return b64url_encode(hmac.digest(self._sub_key, account.id.encode("utf-8"), hashlib.sha256)[:16])

    def admission(self, account: Account, exchange: Exchange) -> Admission:
        """What the handler may know."""
        clauses = exchange.decision.clauses
        return Admission(account, exchange.ids.rid, exchange.facts, clauses, exchange.in_force.usage.content_usage)

    def keep_denial(self, exchange: Exchange) -> Steps[DeniedError]:
        """Record a denial and say what it is."""
        error = denial(exchange)
        self.count(f"denied:{error.reason}")
        try:
            yield Keep(exchange.record(now=self.clock(), status=error.status), wait=False)
        except StoreError as failure:
            self.report_failure("record", failure)
        return error

    def pending(self, exchange: Exchange) -> Steps[str | None]:
        """The pending token, or None where the signer failed and the settings allow that.

        Raises:
            SignerError: No token could be made, and the settings deny.
        """
        now = self.clock()
        try:
            key: KeyRecord = yield CurrentKey(now)
            return (yield from _signed(exchange.pending_claims(now), key))
        except SignerError as failure:
            self.report_failure("signer", failure)
            if self.settings.on_seal_failure == "deny":
                raise
            return None

    def seal(self, exchange: Exchange, response: Response, status: int) -> Steps[Sealed]:
        """Make the final token, and give it out once its record is durable: whoever holds one can demand its record.

        Signed first, so that the record of an exchange whose signer failed does not speak of a token that nobody made.

        Raises:
            SignerError, StoreError: No token could be made.
        """
        now = self.clock()
        content = response.content
        assert content is not None  # noqa: S101 - a response that asks to be sealed has content
        key: KeyRecord = yield CurrentKey(now)
        token = yield from _signed(exchange.final_claims(now, content, response.completion), key)
        if len(token) > MAX_WRITTEN_CHARS and content.is_inline:
            content = content.with_leaves_beside()
            token = yield from _signed(exchange.final_claims(now, content, response.completion), key)
        record = exchange.record(
            now=now, status=status, content=content, completion=response.completion, kid=key.kid, carrier=response.carrier
        )
        yield Keep(record, wait=self.settings.records == "durable")
        return Sealed(token, content)

    def close(self, exchange: Exchange, response: Response | None, *, status: int, sealed: bool, reason: str = "") -> Steps[None]:
        """Count how the exchange ended, and record it if no final token did.

        Args:
            response: The response, or None where the handler never began one.
            status: HTTP status sent, 0 for none.
            sealed: Whether the final token was made.
            reason: Why not, where the response does not know (``client_gone``, ``handler_raised``).
        """
        if response is not None:
            with self._count_lock:
                self.counts["removed_tags"] += response.removed_tags
                self.counts["dropped_events"] += response.dropped_events
        if sealed:
            self.count(f"sealed:{response.carrier if response else 'none'}")
            return
        why = reason or (response.unsealed if response else None) or "no_response"
        self.count(f"unsealed:{why}")
        completion = Completion.ABORTED if why == "client_gone" else Completion.ERROR if why == "handler_raised" else None
        content = response.content if response is not None else None
        record = exchange.record(now=self.clock(), status=status, content=content, completion=completion, unsealed=why)
        try:
            yield Keep(record, wait=False)
        except StoreError as failure:
            self.report_failure("record", failure)

    def count_refusal(self, error: RequestError) -> None:
        """Roll up a refusal before anything was decided: no account, or a request that cannot be read."""
        self.count(f"denied:{error.code}")
        try:
            self._records.count_denial(error.code, self.clock())
        except StoreError as failure:
            self.report_failure("record", failure)

    def report_failure(self, what: str, failure: Exception) -> None:
        """Count and log that a part of us failed, so that no degraded mode passes unseen."""
        self.count(f"failed:{what}")
        _log.error("tos_guard %s failed: %s", what, failure, exc_info=failure.__cause__)

    # Refusals

    def refuse(self, error: RequestError, dialect: Dialect | None = None, exchange: Exchange | None = None) -> tuple[Head, bytes]:
        """The answer to a request that is not served, in the dialect's own error shape."""
        rid = exchange.ids.rid if exchange is not None else f"req_{b64url_encode(self._entropy(16))}"
        return refusal(error, dialect, rid=rid, terms_url=self.terms.uri, appeal_url=self.settings.appeal_url)

    def purge(self) -> int:
        """Delete records that are older than their type is kept. Returns how many. Reads and writes the store, so not for an event loop."""
        return self._records.purge(self.clock(), self.settings.retention.model_dump())

    def close_stores(self) -> None:
        """Wait until all records are durable."""
        self._records.close()


def _dialect(route: RouteSettings) -> Dialect:
    if route.dialect == "openai-chat":
        return ChatDialect(action=route.action)
    return PlainDialect(action=route.action, model=route.model or "")


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


def _signed(claims: Claims, key: KeyRecord) -> Steps[str]:
    message = token_signing_input(claims, key)
    signature: bytes = yield Sign(key, message)
    return join_jws(message, signature)
