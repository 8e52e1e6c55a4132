"""The two colours: how the needs of a step are served, blocking or awaiting."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

from tos_guard.errors import ConfigurationError, RequestError, StoreError, TosGuardError
from tos_guard.guard._assembly import assemble
from tos_guard.guard._needs import (
    Ask,
    AskHost,
    AskLimits,
    Cancel,
    CurrentKey,
    FindHolder,
    FindSeal,
    Identify,
    Keep,
    KeepPolicy,
    KeepSeals,
    Need,
    ReadBody,
    ReadTerms,
    Reserve,
    Settle,
    Sign,
    Steps,
    UndecidedError,
    UseProof,
    VerifyBearer,
)
from tos_guard.guard._steps import GuardSteps
from tos_guard.ledger import ExchangeRecord, KeptSeal, SealKind
from tos_guard.limits import LimitRefusal, Reservation
from tos_guard.protocols import (
    AccountSource,
    AsyncAccountSource,
    AsyncLimitEngine,
    AsyncReplayCache,
    BearerAuthenticator,
    LimitEngine,
    ReplayCache,
    RightsSource,
    SealStore,
    Signer,
    TermsArchive,
    Use,
)
from tos_guard.rights import UNLIMITED_KEY, Account, Holder, KeyedHolder

__all__ = ["AsyncGuard", "Guard"]

_T = TypeVar("_T")

_LIMIT_THREADS: Final = 2  # engines on disk take one caller at a time; the second is ready when the first is done
_FIRST_KEYS_SECONDS: Final = 10.0  # how long the first requests with bearer tokens wait for the first keys of their issuer
_CLOSE_SECONDS: Final = 10.0  # how long an engine's last calls may take when everything ends; each has a deadline of its own
_SEAL_SECONDS: Final = 30.0  # how long a record may take to become durable before sealing counts as failed


class Guard(GuardSteps):
    """A guard for synchronous hosts (WSGI, gRPC threads)."""

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> Guard:
        """A guard from its settings file; *overrides* replace parts (``identify=``, ``assertions=``, ``clock=``, …).

        Raises:
            ConfigurationError: A file, key or setting is unusable.
        """
        return cls(**assemble(Path(path), overrides, awaits=False))

    def run(self, steps: Steps[_T]) -> _T:
        """Serve the needs of *steps* until they are done."""
        return _drive(steps, self._serve)

    def _check_bearer(self) -> None:
        super()._check_bearer()
        if inspect.iscoroutinefunction(getattr(self._replays, "use", None)):
            raise ConfigurationError("a Guard does not await", where="replays=", cure="Give a ReplayCache, or take AsyncGuard.")

    def _serve(self, need: Need) -> Any:
        match need:
            case FindHolder():
                with _of_the_host("its source of accounts"):
                    return self._find(need)
            case ReadTerms():
                return cast(TermsArchive, self.archive).terms_versions()
            case KeepPolicy():
                return cast(TermsArchive, self.archive).put_usage_policy(need.policy.sha256, need.policy.document)
            case Reserve():
                return cast(LimitEngine, self._limits).reserve(need.charges, id=need.id, lease=need.lease)
            case Settle():
                return cast(LimitEngine, self._limits).settle(need.reservation, need.actual)
            case Cancel():
                return cast(LimitEngine, self._limits).cancel(need.reservation)
            case Identify():
                with _of_the_host("identify="):
                    return self._identify(need.view) if self._identify is not None else None
            case VerifyBearer():
                bearer = cast(BearerAuthenticator, self._bearer)
                if (first := bearer.first_keys(need.token)) is not None:
                    wait((first,), _FIRST_KEYS_SECONDS)
                return bearer.verify(need.token, need.now)
            case UseProof():
                return cast(ReplayCache, self._replays).use(need.use, made_after=need.made_after, keep=need.keep)
            case Ask():
                return need.call()
            case AskHost():
                with _of_the_host(need.what):
                    return need.call()
            case ReadBody():
                return need.read()
            case AskLimits():
                return cast(LimitEngine, self._limits).states(need.charges)
            case CurrentKey():
                return cast(Signer, self._signer_for(need.purpose)).current(need.now)
            case Sign():
                return cast(Signer, self._signer_for(need.key.purpose)).sign(need.key, need.message)
            case Keep():
                future = self._records.append(need.record)
                return _result(future) if need.wait else _watch(self, future)
            case FindSeal():
                return cast(SealStore, self.seals).kept(need.account_id, need.kind, need.key, need.now)
            case KeepSeals():
                kept = cast(SealStore, self.seals).keep(need.seals, need.record)
                return _result(kept)

    def _find(self, need: FindHolder) -> KeyedHolder | None:
        cache_key = self._cache_key(need)
        with self._found_lock:
            found = self._found.get(cache_key)
        if found is None:
            found = _look_up(cast(AccountSource, self._accounts), self._rights, need)
            if found is not None:
                with self._found_lock:
                    self._found[cache_key] = found
        return found


class AsyncGuard(GuardSteps):
    """A guard for asynchronous hosts (ASGI, grpc.aio)."""

    _pool: tuple[int, ThreadPoolExecutor | None] = (0, None)
    """The process, and its threads."""

    _loop: asyncio.AbstractEventLoop | None = None
    """The event loop in which engines that await were asked last."""

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> AsyncGuard:
        """As `Guard.from_file`."""
        return cls(**assemble(Path(path), overrides, awaits=True))

    async def run(self, steps: Steps[_T]) -> _T:
        """Serve the needs of *steps* until they are done.

        A task that is cancelled while an exchange is ended (`KeepSeals.instead`, `Settle`, `Cancel`) does not wait for that, and is
        cancelled when *steps* are done: there may be more of them, and whoever ends them does not do so twice.
        """
        answer: Any = None
        failure: BaseException | None = None
        cancelled: asyncio.CancelledError | None = None
        try:
            while True:
                need = steps.send(answer) if failure is None else steps.throw(failure)
                answer, failure = None, None
                try:
                    answer = await self._serve(need)
                except TosGuardError as error:
                    failure = error
                except asyncio.CancelledError as error:
                    if not isinstance(need, Settle | Cancel) and not (isinstance(need, KeepSeals) and need.instead is not None):
                        raise
                    cancelled = error
        except (StopIteration, TosGuardError) as end:
            if cancelled is not None:
                raise cancelled from None
            if isinstance(end, StopIteration):
                return end.value  # type: ignore[no-any-return]
            raise

    async def _serve(self, need: Need) -> Any:
        match need:
            case FindHolder():
                with _of_the_host("its source of accounts"):
                    return await self._find(need)
            case ReadTerms():
                if (store := _awaitable(self.archive)) is not None:
                    return await store.terms_versions()
                return await asyncio.to_thread(cast(TermsArchive, self.archive).terms_versions)
            case KeepPolicy():
                policy = need.policy
                if (store := _awaitable(self.archive)) is not None:
                    return await store.put_usage_policy(policy.sha256, policy.document)
                return await asyncio.to_thread(cast(TermsArchive, self.archive).put_usage_policy, policy.sha256, policy.document)
            case Reserve():
                if self._async_limits is not None:
                    return await self._reserved_awaiting(self._async_limits, need)
                return await self._reserved(cast(LimitEngine, self._limits), need)
            case Settle():
                if self._async_limits is not None:
                    return await self._done(self._async_limits.settle(need.reservation, need.actual))
                engine = cast(LimitEngine, self._limits)
                return await self._ended(engine, partial(engine.settle, need.reservation, need.actual))
            case Cancel():
                if self._async_limits is not None:
                    return await self._done(self._async_limits.cancel(need.reservation))
                engine = cast(LimitEngine, self._limits)
                return await self._ended(engine, partial(engine.cancel, need.reservation))
            case Identify():
                with _of_the_host("identify="):
                    named = self._identify(need.view) if self._identify is not None else None
                    return await named if isinstance(named, Awaitable) else named
            case VerifyBearer():
                bearer = cast(BearerAuthenticator, self._bearer)
                if (first := bearer.first_keys(need.token)) is not None:
                    # Nobody who waits holds a thread, and none who leaves takes the answer from the others.
                    await asyncio.wait((asyncio.wrap_future(first),), timeout=_FIRST_KEYS_SECONDS)
                return bearer.verify(need.token, need.now)
            case UseProof():
                return await self._use_proof(need)
            case Ask():
                return await asyncio.to_thread(need.call)
            case AskHost():
                with _of_the_host(need.what):
                    said = need.call()
                    return await said if isinstance(said, Awaitable) else said
            case ReadBody():
                body = need.read()
                return await body if isinstance(body, Awaitable) else body
            case AskLimits():
                if self._async_limits is not None:
                    return await self._async_limits.states(need.charges)
                engine = cast(LimitEngine, self._limits)
                if not engine.blocks:
                    return engine.states(need.charges)
                return await asyncio.wrap_future(self._workers.submit(engine.states, need.charges))
            case CurrentKey():
                key = self._signer_for(need.purpose).current(need.now)
                return await key if isinstance(key, Awaitable) else key
            case Sign():
                signature = self._signer_for(need.key.purpose).sign(need.key, need.message)
                return await signature if isinstance(signature, Awaitable) else signature
            case Keep():
                future = self._records.append(need.record)
                return await _durable(future) if need.wait else _watch(self, future)
            case FindSeal():
                if (store := _awaitable(self.seals)) is not None:
                    return await store.kept(need.account_id, need.kind, need.key, need.now)
                return await asyncio.to_thread(cast(SealStore, self.seals).kept, need.account_id, need.kind, need.key, need.now)
            case KeepSeals():
                kept = cast(SealStore, self.seals).keep(need.seals, need.record)
                try:
                    return await _durable(kept)
                except asyncio.CancelledError:
                    if need.instead is not None:
                        _watch(self, kept, instead=need.instead)
                    raise

    async def _find(self, need: FindHolder) -> KeyedHolder | None:
        await self._hear()
        cache_key = self._cache_key(need)
        with self._found_lock:
            found = self._found.get(cache_key)
        if found is None:
            # Both colours have the same names, so only the look-ups themselves tell them apart.
            if (store := _awaitable(self._accounts)) is not None and id(self._accounts) == id(self._rights):
                found = await _look_up_in(store, need)
            elif inspect.iscoroutinefunction(self._accounts.by_id):
                account = await _look_up_async(cast(AsyncAccountSource, self._accounts), need)
                found = await asyncio.to_thread(_with_rights, self._rights, account) if account is not None else None
            else:
                found = await asyncio.to_thread(_look_up, cast(AccountSource, self._accounts), self._rights, need)
            if found is not None:
                with self._found_lock:
                    self._found[cache_key] = found
        return found

    async def _hear(self) -> None:
        """See to it that versions which lie at a server are known without waiting: the event loop must not, while a server is silent."""
        for hearing in self._hearings:
            if not hearing.is_fresh:
                with suppress(StoreError):  # whoever asks for it now is told at once
                    await hearing.heard_version()

    async def _use_proof(self, need: UseProof) -> Use:
        replays = self._replays
        if inspect.iscoroutinefunction(getattr(replays, "use", None)):
            self._loop = asyncio.get_running_loop()
            return await cast(AsyncReplayCache, replays).use(need.use, made_after=need.made_after, keep=need.keep)
        cache = cast(ReplayCache, replays)
        use = partial(cache.use, need.use, made_after=need.made_after, keep=need.keep)
        return await asyncio.wrap_future(self._workers.submit(use)) if cache.blocks else use()

    async def _reserved(self, engine: LimitEngine, need: Reserve) -> Reservation | LimitRefusal:
        if not engine.blocks:
            return engine.reserve(need.charges, id=need.id, lease=need.lease)
        future = self._workers.submit(engine.reserve, need.charges, id=need.id, lease=need.lease)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            give_back = partial(_give_back, self, engine)  # nobody is left who would settle it
            if future.done():
                with suppress(RuntimeError):  # the interpreter ends; then it expires
                    self._workers.submit(give_back, future)
            else:
                future.add_done_callback(give_back)
            raise

    async def _ended(self, engine: LimitEngine, end: Callable[[], None]) -> None:
        if not engine.blocks:
            end()
            return
        await asyncio.shield(asyncio.wrap_future(self._workers.submit(end)))

    async def _reserved_awaiting(self, engine: AsyncLimitEngine, need: Reserve) -> Reservation | LimitRefusal:
        reserving = self._going_on(engine.reserve(need.charges, id=need.id, lease=need.lease))
        try:
            await asyncio.wait((reserving,))
        except asyncio.CancelledError:
            self._going_on(_given_back(self, engine, reserving))  # nobody is left who would settle it
            raise
        return reserving.result()

    async def _done(self, call: Coroutine[Any, Any, _T]) -> _T:
        """What comes of it. Whoever waits may leave: it runs to its end."""
        task = self._going_on(call)
        await asyncio.wait((task,))
        return task.result()

    def _going_on(self, call: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """A task of its own, which nobody's leaving cancels. What fails in it, and nobody waits for, its engine has reported."""
        self._loop = loop = asyncio.get_running_loop()
        task = loop.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # else the loop would report it once more

    @cached_property
    def _tasks(self) -> set[asyncio.Task[Any]]:
        """What runs to its end, whoever waits for it."""
        return set()

    def close_stores(self) -> None:
        """Wait until all records are durable, and settled what the last requests had reserved."""
        (process, workers), self._pool = self._pool, (0, None)
        if workers is not None and process == os.getpid():
            workers.shutdown()
        self._close_awaiting()
        super().close_stores()

    def _close_awaiting(self) -> None:
        """Close what awaits: in the loop that asked it, where that still runs. In the loop's own thread it is only begun."""
        if self._async_limits is None and not inspect.iscoroutinefunction(getattr(self._replays, "close", None)):
            return
        loop, self._loop = self._loop, None
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if loop is not None and loop.is_running() and loop is not here:
            with suppress(TimeoutError):  # a loop that is blocked for so long: what was reserved expires
                asyncio.run_coroutine_threadsafe(self._end_awaiting(loop), loop).result(_CLOSE_SECONDS)
        elif here is not None:
            self._going_on(self._end_awaiting(here))
        else:
            asyncio.run(self._end_awaiting(None))

    async def _end_awaiting(self, loop: asyncio.AbstractEventLoop | None) -> None:
        mine = asyncio.current_task()
        if open_ := [task for task in self._tasks if task.get_loop() is loop and task is not mine]:
            await asyncio.wait(open_, timeout=_CLOSE_SECONDS / 2)
        if self._async_limits is not None:
            await self._async_limits.close()
        if inspect.iscoroutinefunction(getattr(self._replays, "close", None)):
            await cast(AsyncReplayCache, self._replays).close()

    @property
    def _workers(self) -> ThreadPoolExecutor:
        """Threads for engines that wait for a disk: the event loop does not wait, and the host's own threads are not used up.

        A child of a fork has its own: of its parent's none came along, and what is given to them would wait for ever.
        """
        process, workers = self._pool
        if workers is None or process != os.getpid():
            workers = ThreadPoolExecutor(_LIMIT_THREADS, thread_name_prefix="tos-guard-limits")
            self._pool = os.getpid(), workers
        return workers


def _give_back(guard: GuardSteps, engine: LimitEngine, future: Future[Reservation | LimitRefusal]) -> None:
    if future.exception() is None and isinstance(answer := future.result(), Reservation):
        with suppress(StoreError):  # then it expires
            engine.cancel(answer)
            guard.telemetry.settled("cancelled")


async def _given_back(guard: GuardSteps, engine: AsyncLimitEngine, reserving: asyncio.Task[Reservation | LimitRefusal]) -> None:
    await asyncio.wait((reserving,))
    if not reserving.cancelled() and reserving.exception() is None and isinstance(answer := reserving.result(), Reservation):
        with suppress(StoreError):  # then it expires
            await engine.cancel(answer)
            guard.telemetry.settled("cancelled")


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
            except TosGuardError as error:
                failure = error
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


@runtime_checkable
class _OneStore(Protocol):
    """A store that keeps accounts with their rights, and what keys are for, as ours do: one look-up finds all of it."""

    def holder_by_id(self, account_id: str) -> Holder | None: ...

    def keyed_holder(self, public_id: str, secret_hash: bytes) -> KeyedHolder | None: ...


class _Awaitable(Protocol):
    """What a request asks of a store, with ``await``."""

    async def holder_by_id(self, account_id: str) -> Holder | None: ...

    async def keyed_holder(self, public_id: str, secret_hash: bytes) -> KeyedHolder | None: ...

    async def terms_versions(self) -> Sequence[Any]: ...

    async def put_usage_policy(self, sha256: str, document: bytes) -> None: ...

    async def kept(self, account_id: str, kind: SealKind, key: str, now: datetime) -> KeptSeal | None: ...


def _awaitable(store: object) -> _Awaitable | None:
    """The second colour of a store that has one; the others lie in memory or on a disk of ours, and a thread asks them."""
    found: _Awaitable | None = getattr(store, "awaitable", None)
    return found


async def _look_up_in(store: _Awaitable, need: FindHolder) -> KeyedHolder | None:
    if need.account_id is None:
        return await store.keyed_holder(need.public_id or "", need.secret_hash)
    holder = await store.holder_by_id(need.account_id)
    return None if holder is None else KeyedHolder(holder, UNLIMITED_KEY)


def _look_up(accounts: AccountSource, rights: RightsSource | None, need: FindHolder) -> KeyedHolder | None:
    if not isinstance(accounts, _OneStore):
        if need.account_id is not None:
            account = accounts.by_id(need.account_id)
        else:
            account = accounts.by_api_key(need.public_id or "", need.secret_hash)
        return None if account is None else _with_rights(rights, account)
    if need.account_id is not None:
        holder = accounts.holder_by_id(need.account_id)
        found = None if holder is None else KeyedHolder(holder, UNLIMITED_KEY)
    else:
        found = accounts.keyed_holder(need.public_id or "", need.secret_hash)
    if found is None or id(accounts) == id(rights):
        return found
    return replace(_with_rights(rights, found.holder.account), terms=found.terms)


def _with_rights(rights: RightsSource | None, account: Account) -> KeyedHolder:
    return KeyedHolder(Holder(account) if rights is None else rights.rights_of(account), UNLIMITED_KEY)


async def _look_up_async(accounts: AsyncAccountSource, need: FindHolder) -> Account | None:
    if need.account_id is not None:
        return await accounts.by_id(need.account_id)
    return await accounts.by_api_key(need.public_id or "", need.secret_hash)


def _result(future: Future[_T]) -> _T:
    try:
        return future.result(_SEAL_SECONDS)
    except TimeoutError:
        raise UndecidedError("the record was not durable in time", where="record store") from None


async def _durable(future: Future[_T]) -> _T:
    """What comes of it. Shielded: a client that leaves must not undo the order in which records become durable."""
    try:
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), _SEAL_SECONDS)
    except TimeoutError:
        raise UndecidedError("the record was not durable in time", where="record store") from None


def _watch(guard: GuardSteps, future: Future[Any], *, instead: ExchangeRecord | None = None) -> None:
    """Count what nobody waits for and could not be kept, and keep the record *instead*, if there is one."""

    def done(finished: Future[Any]) -> None:
        if finished.cancelled():
            return
        if (failure := finished.exception()) is not None:
            guard.report_failure("record", failure if isinstance(failure, Exception) else StoreError(str(failure)))
        if instead is not None and (failure is not None or finished.result() is not None):
            _watch(guard, guard._records.append(instead))

    future.add_done_callback(done)
