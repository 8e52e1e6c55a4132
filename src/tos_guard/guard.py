"""The shell around one exchange: who asks, under which plan, what is recorded, what is signed (DESIGN §5, D1).

Each step that needs the outside is a generator that yields what it needs (`FindAccount`, `CurrentKey`, `Sign`, `Keep`). `Guard` and
`AsyncGuard` differ only in how they serve these. An adapter calls, in this order:

    account  = run(guard.authenticate(view))          AuthenticationError → guard.refuse
    exchange = guard.begin(account, view, route, body)
    run(guard.keep_denial(exchange))                  where it was denied → guard.refuse
    token    = run(guard.pending(exchange))           where the head goes out early
    token    = run(guard.seal(exchange, response))    when a step says seal
    run(guard.close(exchange, response))              in any case, once, in the end
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import logging
import re
import secrets
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from cachetools import LRUCache

from tos_guard._canonical import b64url_encode
from tos_guard.config import GuardSettings, RouteSettings, parse_settings
from tos_guard.dialects import ChatDialect, Dialect, PlainDialect, RequestFacts
from tos_guard.errors import (
    AuthenticationError,
    ConfigurationError,
    DeniedError,
    MalformedRequestError,
    RequestError,
    SignerError,
    StoreError,
)
from tos_guard.exchange import Exchange, ExchangeIds, Head, Headers, Response, Sealed, TermsInForce
from tos_guard.keys import KeyRecord, join_jws
from tos_guard.ledger import ExchangeRecord
from tos_guard.protocols import AccountSource, AsyncAccountSource, AsyncSigner, Clock, RecordStore, Signer, TermsArchive
from tos_guard.provenance import MAX_WRITTEN_CHARS, Claims, token_signing_input
from tos_guard.rights import Account, PlanCache, hash_secret, parse_api_key
from tos_guard.terms import TermsVersion
from tos_guard.types import UNDECLARED, Completion, Facts

__all__ = ["Admission", "AsyncGuard", "Guard", "RequestView", "Route"]

_log = logging.getLogger("tos_guard")
_T = TypeVar("_T")

MAX_CACHED_ACCOUNTS: Final = 10_000
FULFILLED_DUTIES: Final = frozenset({"seal"})  # every response is sealed, whether a clause asks for it or not
MAX_NONCE_CHARS: Final = 64  # 256 bits in any spelling; a token has no room for more
_ASYNC_COMMIT_SECONDS: Final = 0.05  # how long records that nobody waits for gather for one commit
_SEAL_SECONDS: Final = 30.0  # how long a record may take to become durable before sealing counts as failed
_DETOUR: Final = re.compile(r"//|\\|/\.{1,2}(?:/|$)|%(?:2[5ef]|5c)", re.IGNORECASE)
_PURPOSE_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_INVALID: Final = "invalid_request_error"
_KINDS: Final = {400: _INVALID, 401: "authentication_error", 403: "permission_error", 404: _INVALID, 413: _INVALID}


def utc_now() -> datetime:
    """The present."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RequestView:
    """The head of a request, as an adapter sees it.

    Attributes:
        method: In upper case.
        path: Decoded path, without the root path that the app is mounted under.
        headers: Fields in order, names in lower case.
        host: What the host has of the request (the ASGI scope, the Flask request, …): for ``identify=`` and ``assertions=``.
    """

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    host: Any = field(default=None, compare=False)

    def header(self, name: str) -> str | None:
        """The value of a field that may occur once, or None.

        Raises:
            MalformedRequestError: It occurs twice, or is not printable ASCII.
        """
        wanted = name.encode("ascii")
        found: bytes | None = None
        for key, value in self.headers:
            if key == wanted:
                if found is not None:
                    raise MalformedRequestError("occurs more than once", where=f"header {name}", cure="Send it once.")
                found = value
        if found is None:
            return None
        text = found.decode("latin-1")
        if not (text.isascii() and text.isprintable()):
            raise MalformedRequestError("is not printable ASCII", where=f"header {name}")
        return text


@dataclass(frozen=True, slots=True)
class Route:
    """A guarded route: its path as configured, and its dialect."""

    path: str
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class Admission:
    """What a handler may know of the exchange it serves.

    Attributes:
        account: The account.
        request_id: Id of the exchange.
        facts: What was decided on.
        clauses: Clauses that decided.
        content_usage: Value of ``Content-Usage`` of the response.
    """

    account: Account
    request_id: str
    facts: Facts
    clauses: tuple[str, ...]
    content_usage: str


@dataclass(frozen=True, slots=True)
class FindAccount:
    """Needs the account of a key or of an id."""

    public_id: str | None = None
    secret_hash: bytes = b""
    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class Identify:
    """Needs the host's word on who asks."""

    view: RequestView


@dataclass(frozen=True, slots=True)
class CurrentKey:
    """Needs the key to sign with."""

    now: datetime


@dataclass(frozen=True, slots=True)
class Sign:
    """Needs a signature."""

    key: KeyRecord
    message: bytes


@dataclass(frozen=True, slots=True)
class Keep:
    """Needs a record kept; waits until it is durable if *wait*."""

    record: ExchangeRecord
    wait: bool


Need = FindAccount | Identify | CurrentKey | Sign | Keep
Steps = Generator[Need, Any, _T]
Identifier = Callable[[RequestView], str | None] | Callable[[RequestView], Awaitable[str | None]]
Assertions = Callable[[RequestView, Account], Mapping[str, str | None]]


class _Core:
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
            raise _unauthenticated()
        return account

    def _key_need(self, view: RequestView) -> FindAccount | None:
        try:
            authorization, key = view.header("authorization"), view.header("x-api-key")
        except MalformedRequestError:
            raise _unauthenticated() from None  # two credentials are none
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
        error = self._denial(exchange)
        self.count(f"denied:{error.reason}")
        try:
            yield Keep(exchange.record(now=self.clock(), status=error.status), wait=False)
        except StoreError as failure:
            self.report_failure("record", failure)
        return error

    def _denial(self, exchange: Exchange) -> DeniedError:
        reasons = [reason for reason in exchange.decision.reasons if not reason.shadow]
        code = reasons[0].code if reasons else "tos_no_permission"
        clause = next((reason.clause for reason in reasons if reason.clause is not None), None)
        what = _DENIALS.get(code, "The terms do not allow this request").format(
            model=exchange.facts.model, action=exchange.facts.action, clause=clause
        )
        unknown = sorted({name for reason in reasons for name in reason.unknown})
        cure = f"Not known of this request: {', '.join(unknown)}." if unknown else _CURES.get(code, "")
        return DeniedError(what, reason=code, clauses=exchange.decision.clauses, cure=cure)

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
        reason = error.reason if isinstance(error, DeniedError) else error.code
        rid = exchange.ids.rid if exchange is not None else f"req_{b64url_encode(self._entropy(16))}"
        extra: dict[str, Any] = {"terms_url": self.terms.uri, "request_id": rid}
        if isinstance(error, DeniedError) and error.clauses:
            extra["clause"] = error.clauses[0]
            extra["clauses"] = list(error.clauses)
        if self.settings.appeal_url is not None and error.status == 403:
            extra["appeal_url"] = self.settings.appeal_url
        body = (dialect or _PLAIN).refusal_body(message=f"{error}", code=reason, kind=_KINDS.get(error.status, "server_error"), extra=extra)
        encoded_rid = rid.encode("ascii")
        headers: Headers = [
            (b"content-type", b"application/json" if isinstance(dialect, ChatDialect) else b"application/problem+json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"cache-control", b"no-store"),
            (b"link", f'<{self.terms.uri}>; rel="terms-of-service"'.encode("ascii")),
            (b"x-should-retry", b"true" if error.status >= 500 else b"false"),
            (b"x-request-id", encoded_rid),
            (b"request-id", encoded_rid),
        ]
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return Head(error.status, headers), body

    def purge(self) -> int:
        """Delete records that are older than their type is kept. Returns how many. Reads and writes the store, so not for an event loop."""
        return self._records.purge(self.clock(), self.settings.retention.model_dump())

    def close_stores(self) -> None:
        """Wait until all records are durable."""
        self._records.close()


_PLAIN: Final = PlainDialect(model="none")
_DENIALS: Final = {
    "tos_account_suspended": "This account is suspended",
    "tos_model_not_allowed": "This account has no right to the model {model}",
    "tos_action_not_allowed": "This account has no right to the action {action}",
    "tos_no_permission": "No clause of the terms permits this request",
    "tos_clause": "Clause {clause} of the terms forbids this request",
}
_CURES: Final = {
    "tos_account_suspended": "The provider can lift this; the terms say how to appeal.",
    "tos_model_not_allowed": "Ask the provider for access, or use another model.",
    "tos_action_not_allowed": "Ask the provider for access.",
}


class UnavailableError(RequestError):
    """A part of the guard failed, and the settings deny rather than allow."""

    code = "tos_unavailable"
    status = 503


def unavailable() -> UnavailableError:
    """The refusal for a failure of our own; says nothing of its cause, which is in the log."""
    return UnavailableError("The provider cannot check or seal this request at present", cure="Try again later.")


def _unauthenticated() -> AuthenticationError:
    return AuthenticationError("The credential is missing or not accepted", cure="Send a valid API key as 'Authorization: Bearer …'.")


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


class Guard(_Core):
    """A guard for synchronous hosts (WSGI, gRPC threads)."""

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> Guard:
        """A guard from its settings file; *overrides* replace parts (``identify=``, ``assertions=``, ``clock=``, …).

        Raises:
            ConfigurationError: A file, key or setting is unusable.
        """
        return cls(**_parts(Path(path), overrides))

    def run(self, steps: Steps[_T]) -> _T:
        """Serve the needs of *steps* until they are done."""
        return _drive(steps, self._serve)

    def _serve(self, need: Need) -> Any:
        match need:
            case FindAccount():
                with _of_the_host("its source of accounts"):
                    return self._find(need)
            case Identify():
                with _of_the_host("identify="):
                    return self._identify(need.view) if self._identify is not None else None
            case CurrentKey():
                return cast(Signer, self._signer).current(need.now)
            case Sign():
                return cast(Signer, self._signer).sign(need.key, need.message)
            case Keep():
                future = self._records.append(need.record)
                return _result(future) if need.wait else _watch(self, future)

    def _find(self, need: FindAccount) -> Account | None:
        cache_key = (self._accounts.version(), need)
        with self._found_lock:
            account = self._found.get(cache_key)
        if account is None:
            account = _look_up(cast(AccountSource, self._accounts), need)
            if account is not None:
                with self._found_lock:
                    self._found[cache_key] = account
        return account


class AsyncGuard(_Core):
    """A guard for asynchronous hosts (ASGI, grpc.aio)."""

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> AsyncGuard:
        """As `Guard.from_file`."""
        return cls(**_parts(Path(path), overrides))

    async def run(self, steps: Steps[_T]) -> _T:
        """Serve the needs of *steps* until they are done."""
        answer: Any = None
        failure: BaseException | None = None
        try:
            while True:
                need = steps.send(answer) if failure is None else steps.throw(failure)
                answer, failure = None, None
                try:
                    answer = await self._serve(need)
                except (RequestError, StoreError, SignerError) as error:
                    failure = error
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _serve(self, need: Need) -> Any:
        match need:
            case FindAccount():
                with _of_the_host("its source of accounts"):
                    return await self._find(need)
            case Identify():
                with _of_the_host("identify="):
                    named = self._identify(need.view) if self._identify is not None else None
                    return await named if isinstance(named, Awaitable) else named
            case CurrentKey():
                key = self._signer.current(need.now)
                return await key if isinstance(key, Awaitable) else key
            case Sign():
                signature = self._signer.sign(need.key, need.message)
                return await signature if isinstance(signature, Awaitable) else signature
            case Keep():
                future = self._records.append(need.record)
                if not need.wait:
                    return _watch(self, future)
                # Shielded: a client that leaves must not undo the order in which records become durable.
                try:
                    return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), _SEAL_SECONDS)
                except TimeoutError:
                    raise StoreError("the record was not durable in time", where="record store") from None

    async def _find(self, need: FindAccount) -> Account | None:
        cache_key = (self._accounts.version(), need)
        with self._found_lock:
            account = self._found.get(cache_key)
        if account is None:
            # Both colours have the same names, so only the look-ups themselves tell them apart.
            if inspect.iscoroutinefunction(self._accounts.by_id):
                account = await _look_up_async(cast(AsyncAccountSource, self._accounts), need)
            else:
                account = await asyncio.to_thread(_look_up, cast(AccountSource, self._accounts), need)
            if account is not None:
                with self._found_lock:
                    self._found[cache_key] = account
        return account


@contextmanager
def _of_the_host(what: str) -> Iterator[None]:
    """Whatever the host's own code raises is a failure of a part, counted and answered with 503, and not an answer of ours."""
    try:
        yield
    except (RequestError, StoreError):
        raise
    except Exception as error:  # anything at all may come out of code that is not ours
        raise StoreError(f"{what} raised {type(error).__name__}", where="host") from error


def _drive(steps: Steps[_T], serve: Callable[[Need], Any]) -> _T:
    answer: Any = None
    failure: BaseException | None = None
    try:
        while True:
            need = steps.send(answer) if failure is None else steps.throw(failure)
            answer, failure = None, None
            try:
                answer = serve(need)
            except (RequestError, StoreError, SignerError) as error:
                failure = error
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _look_up(accounts: AccountSource, need: FindAccount) -> Account | None:
    if need.account_id is not None:
        return accounts.by_id(need.account_id)
    return accounts.by_api_key(need.public_id or "", need.secret_hash)


async def _look_up_async(accounts: AsyncAccountSource, need: FindAccount) -> Account | None:
    if need.account_id is not None:
        return await accounts.by_id(need.account_id)
    return await accounts.by_api_key(need.public_id or "", need.secret_hash)


def _result(future: Future[None]) -> None:
    try:
        future.result(_SEAL_SECONDS)
    except TimeoutError:
        raise StoreError("the record was not durable in time", where="record store") from None


def _watch(guard: _Core, future: Future[None]) -> None:
    """Count a record that nobody waits for and that could not be kept."""

    def done(finished: Future[None]) -> None:
        if not finished.cancelled() and (failure := finished.exception()) is not None:
            guard.report_failure("record", failure if isinstance(failure, Exception) else StoreError(str(failure)))

    future.add_done_callback(done)


def _parts(path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Everything a guard needs, from its settings file."""
    from tos_guard.stores import FileSigner, SQLiteStore, load_terms, read_settings

    settings = overrides.pop("settings", None) or parse_settings(read_settings(path), where=str(path)).beside(path.parent)
    clock = overrides.get("clock", utc_now)
    delay = _ASYNC_COMMIT_SECONDS if settings.records == "async" else 0.0
    store = overrides.pop("store", None) or SQLiteStore(settings.store, issuer=settings.issuer, clock=clock, commit_delay=delay)
    terms = load_terms(settings.terms)
    store.publish_terms(terms)
    signer = overrides.pop("signer", None) or FileSigner(settings.keys)
    if isinstance(signer, FileSigner):
        for key in signer.folder.history().keys:  # beside the records they sign for, so that a lost key folder loses no proof
            store.put_public_key(key.to_jwk())
    defaults = {
        "settings": settings,
        "terms": terms,
        "accounts": store,
        "records": store,
        "signer": signer,
        "pepper": store.pepper(),
        "archive": store,
    }
    return {**defaults, **overrides}
