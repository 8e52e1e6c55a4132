"""The guard as an interceptor of ``grpc.aio`` servers.

gRPC looks at the kind of a handler's function before it calls it, and so do interceptors outside of the guard. So what stands in its
place is of the same kind: a coroutine that writes, an asynchronous generator, or a plain function, which gRPC runs in a thread.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from tos_guard.guard import AsyncGuard, Steps
from tos_guard_grpc._call import Call, merged
from tos_guard_grpc._context import AsyncGuardedContext, PassedContext, code_of
from tos_guard_grpc._guarding import Serving, behavior_of, calls_for_a_guard, failure, guarded_handler, with_behavior
from tos_guard_grpc._status import Refusal

__all__ = ["AsyncGuardInterceptor"]

_T = TypeVar("_T")

_NOTHING: Final = object()
_EOF: Final[Any] = grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue] - named nowhere but in __all__


class AsyncGuardInterceptor(grpc.aio.ServerInterceptor):
    """Guards a `grpc.aio.server`: all four kinds of methods, in each of the styles that gRPC knows.

    Give it to ``grpc.aio.server(interceptors=…)`` behind interceptors that trace, and before those that change messages.

    Args:
        guard: The guard.
        adapter: What the guard came in by, as telemetry names it.
    """

    def __init__(self, guard: AsyncGuard, *, adapter: str = "grpc-aio") -> None:
        self.guard: AsyncGuard = guard
        self.adapter: str = adapter
        self._closing: set[asyncio.Task[None]] = set()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """The handler of a call, behind the guard."""
        if not calls_for_a_guard(self.guard, handler_call_details.method):
            return await continuation(handler_call_details)
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC says that there is no such method
        details = handler_call_details
        call = Call(self.guard, details.method, details.invocation_metadata, adapter=self.adapter, handler=handler)
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(lambda _: self._ended(call))
        behavior = behavior_of(handler)
        serving = _AsyncServing(call, behavior, self.guard)
        if inspect.isasyncgenfunction(behavior):

            async def generated(request: Any, context: Any) -> AsyncIterator[Any]:
                async with aclosing(serving.stream(request, context)) as messages:
                    async for message in messages:
                        yield message

            return with_behavior(handler, call, generated)
        if inspect.iscoroutinefunction(behavior):

            async def awaited(request: Any, context: Any) -> Any:
                return await serving.answer(request, context, streaming=handler.response_streaming)

            return with_behavior(handler, call, awaited)
        return guarded_handler(handler, call, Serving(call, behavior, self._from_thread(asyncio.get_running_loop())))

    def _ended(self, call: Call) -> None:
        """A call is done for gRPC. One whose handler it has left standing is closed here: such is a generator in a thread."""
        if not call.over and not call.closed:
            closing = asyncio.get_running_loop().create_task(self.guard.run(call.close()))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _from_thread(self, loop: asyncio.AbstractEventLoop) -> Callable[[Steps[_T]], _T]:
        def run(steps: Steps[_T]) -> _T:
            coroutine = self.guard.run(steps)
            try:
                return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
            finally:
                coroutine.close()  # where the loop has ended, it was never begun

        return run


class _AsyncServing:
    """Drives one call. As `tos_guard_grpc._guarding.Serving`, awaiting.

    Args:
        call: The call.
        behavior: What the host would do with it: a coroutine function or an asynchronous generator function.
        guard: The guard.
    """

    def __init__(self, call: Call, behavior: Any, guard: AsyncGuard) -> None:
        self._call = call
        self._behavior = behavior
        self._run = guard.run
        self._heading = asyncio.Lock()
        self._writing = asyncio.Lock()

    async def answer(self, request: Any, context: Any, *, streaming: bool) -> Any:
        """Answer with one message, or with what the servicer writes."""
        call = self._call
        try:
            entered = await self._enter(request, context)
            if entered is None:
                return None
            request, guarded = entered
            if call.passes:
                return await self._behavior(request, guarded)
            try:
                message = await self._behavior(request, guarded)
                if call.over:
                    return message  # it has aborted the call, and gRPC knows
                if streaming:
                    call.check()
                else:
                    await self._keep(message, guarded)
            except Exception as error:  # noqa: BLE001 - whatever the host's code raises ends this call, and goes on to gRPC
                await self._fail(error, guarded)
                return None
            await self._finish(guarded)
            return message
        finally:
            if not call.closed:
                await self._run(call.close())

    async def _keep(self, message: Any, guarded: AsyncGuardedContext) -> None:
        self._call.check()
        if code_of(guarded) is grpc.StatusCode.OK:
            await self._out(message, guarded)
        else:
            self._call.no_message(message)

    async def stream(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        """Answer with the messages that the servicer yields."""
        call = self._call
        try:
            entered = await self._enter(request, context)
            if entered is None:
                return
            request, guarded = entered
            if call.passes:
                async with aclosing(self._behavior(request, guarded)) as messages:
                    async for message in messages:
                        yield message
                return
            try:
                async with aclosing(self._behavior(request, guarded)) as messages:
                    async for message in messages:
                        await self._out(message, guarded)
                        yield message
                call.check()
            except Exception as error:  # noqa: BLE001 - as above
                await self._fail(error, guarded)
                return
            if not call.over:
                await self._finish(guarded)
        finally:
            if not call.closed:
                await self._run(call.close())

    async def _out(self, message: Any, guarded: AsyncGuardedContext) -> None:
        self._call.check()
        await self._send_head(guarded, ())
        await self._run(self._call.message_out(message))

    async def _enter(self, request: Any, context: Any) -> tuple[Any, Any] | None:
        """Decide the call. Returns what the servicer gets, or None where it is not served and gRPC knows."""
        call, run = self._call, self._run
        refusal = await run(call.authenticate(context))
        first: list[Any] = []
        if refusal is None and not call.passes:
            if call.wants_first and (message := await anext(aiter(request), _NOTHING)) is not _NOTHING:
                first.append(message)
            refusal = await run(call.admit())
        if refusal is not None:
            await _abort(context, refusal, refusal.metadata)
            return None

        def read() -> Awaitable[Any]:
            return self._read(context, first)

        requests = self._requests(first, request) if call.is_request_stream else request
        if call.passes:
            return requests, (PassedContext(context, call, read) if first else context)
        guarded = AsyncGuardedContext(
            context,
            call,
            send=lambda metadata: self._send_head(guarded, metadata, asked=True),
            end=lambda code, details, trailing: self._aborted(guarded, code, details, trailing),
            read=read,
            write=lambda message: self._write(guarded, message),
        )
        return requests, guarded

    async def _requests(self, first: list[Any], rest: Any) -> AsyncIterator[Any]:
        while first:
            message = first.pop()
            await self._run(self._call.message_in())
            yield message
        async for message in rest:
            await self._run(self._call.message_in())
            yield message

    async def _read(self, context: Any, first: list[Any]) -> Any:
        message = first.pop() if first else await context.read()
        if message is not _EOF:
            await self._run(self._call.message_in())
        return message

    async def _write(self, guarded: AsyncGuardedContext, message: Any) -> None:
        async with self._writing:  # messages leave in the order in which they were digested
            await self._out(message, guarded)
            await guarded._inner.write(message)

    async def _send_head(self, guarded: AsyncGuardedContext, theirs: Any, *, asked: bool = False) -> None:
        """As `Serving`."""
        call, inner = self._call, guarded._inner
        async with self._heading:  # two tasks may send the first message at once
            if not call.sends_no_head:
                ours = await self._run(call.head())
                try:
                    await inner.send_initial_metadata(merged(theirs, ours))
                except grpc.aio.UsageError:  # an outer interceptor has sent some: then all of ours goes into trailing metadata
                    if asked:
                        raise
                    call.head_lost = True
                    return
                call.head_out = True
                return
        if asked:
            await inner.send_initial_metadata(theirs)

    async def _aborted(self, guarded: AsyncGuardedContext, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        """The servicer aborts. gRPC sends the status at once, so that the seal comes first."""
        call, inner = self._call, guarded._inner
        if call.over:
            await inner.abort(code, details)
            return
        ending = await self._run(call.end(None, failure(code)))
        base = guarded.trailing_metadata() if trailing is None else trailing
        metadata = merged(base, ending.metadata)
        if ending.refusal is not None:
            await _abort(inner, ending.refusal, metadata)
        else:
            await inner.abort(code, details, metadata)

    async def _fail(self, error: Exception, guarded: AsyncGuardedContext) -> None:
        """The servicer raised.

        Raises:
            Exception: The same again, for gRPC; or gRPC's own, with which a call is aborted.
        """
        call, inner = self._call, guarded._inner
        if call.over:
            raise error
        ending = await self._run(call.end(error, code_of(guarded)))
        if ending.refusal is None:
            inner.set_trailing_metadata(guarded.with_ours(ending.metadata))
            raise error
        await _abort(inner, ending.refusal, guarded.with_ours(ending.metadata))

    async def _finish(self, guarded: AsyncGuardedContext) -> None:
        """The servicer is done."""
        call, inner = self._call, guarded._inner
        ending = await self._run(call.end(None, code_of(guarded)))
        metadata = guarded.with_ours(ending.metadata)
        if ending.refusal is not None:
            await _abort(inner, ending.refusal, metadata)
        inner.set_trailing_metadata(metadata)


async def _abort(context: Any, refusal: Refusal, metadata: Any) -> None:
    await context.abort(refusal.code, refusal.message, tuple(metadata))
