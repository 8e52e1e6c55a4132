"""The two colours: how the needs of a step are served, blocking or awaiting."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from tos_guard.config import parse_settings
from tos_guard.errors import RequestError, SignerError, StoreError
from tos_guard.guard._needs import CurrentKey, FindAccount, Identify, Keep, Need, Sign, Steps
from tos_guard.guard._steps import GuardSteps, utc_now
from tos_guard.protocols import AccountSource, AsyncAccountSource, Signer
from tos_guard.rights import Account

__all__ = ["AsyncGuard", "Guard"]

_T = TypeVar("_T")

_ASYNC_COMMIT_SECONDS: Final = 0.05  # how long records that nobody waits for gather for one commit
_SEAL_SECONDS: Final = 30.0  # how long a record may take to become durable before sealing counts as failed


class Guard(GuardSteps):
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


class AsyncGuard(GuardSteps):
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


def _watch(guard: GuardSteps, future: Future[None]) -> None:
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
