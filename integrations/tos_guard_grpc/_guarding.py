"""The guard as an interceptor of gRPC servers that run their handlers in threads.

`intercept_service` runs in the server's one polling thread, so that nothing is decided there: the handler that it gives back decides, in
the thread of its call. What happens to a call is the business of `tos_guard_grpc._call`; here it is driven.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TypeVar

import grpc
import grpc.aio

from tos_guard.guard import Guard, GuardSteps, Steps
from tos_guard_grpc._call import ISSUERS, Call, merged
from tos_guard_grpc._context import GuardedContext, code_of
from tos_guard_grpc._status import Refusal

__all__ = ["GuardInterceptor", "Serving", "behavior_of", "calls_for_a_guard", "failure", "guarded_handler", "with_behavior"]

_T = TypeVar("_T")

_GONE: Final = object()
_OF_BEHAVIORS: Final = ("experimental_thread_pool",)
"""What gRPC reads of a handler's function beside calling it."""


class Runner(Protocol):
    """Runs a step of the guard, and waits for what it makes."""

    def __call__(self, steps: Steps[_T], /) -> _T:
        """Run it."""
        ...


class GuardInterceptor(grpc.ServerInterceptor):
    """Guards a `grpc.server`: all four kinds of methods.

    Give it to ``grpc.server(interceptors=…)`` behind interceptors that trace, and before those that change messages.

    Args:
        guard: The guard.
        adapter: What the guard came in by, as telemetry names it.
    """

    def __init__(self, guard: Guard, *, adapter: str = "grpc") -> None:
        self.guard: Guard = guard
        self.adapter: str = adapter

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """The handler of a call, behind the guard."""
        if not calls_for_a_guard(self.guard, handler_call_details.method):
            return continuation(handler_call_details)
        handler = continuation(handler_call_details)
        if handler is None:
            return None  # gRPC says that there is no such method
        details = handler_call_details
        call = Call(self.guard, details.method, details.invocation_metadata, adapter=self.adapter, handler=handler)
        return guarded_handler(handler, call, Serving(call, behavior_of(handler), self.guard.run))


def calls_for_a_guard(guard: GuardSteps, method: str) -> bool:
    """Whether a call is neither exempt by name nor guarded for this issuer already. From now on it is."""
    issuers, issuer = ISSUERS.get(), guard.settings.issuer
    if issuer in issuers or guard.is_exempt(method):
        return False
    ISSUERS.set((*issuers, issuer))
    return True


def behavior_of(handler: Any) -> Any:
    """The function of a handler."""
    if handler.request_streaming:
        return handler.stream_stream if handler.response_streaming else handler.stream_unary
    return handler.unary_stream if handler.response_streaming else handler.unary_unary


def with_behavior(handler: Any, call: Call, behavior: Any) -> Any:
    """A handler of the same kind, with another function, whose messages the call reads and writes."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(behavior, request_deserializer=call.deserialize, response_serializer=call.serialize)


def guarded_handler(handler: Any, call: Call, serving: Serving) -> Any:
    """The handler with its function driven by *serving*."""
    if handler.response_streaming:

        def behavior(request: Any, context: Any) -> Any:
            return serving.stream(request, context)

    else:

        def behavior(request: Any, context: Any) -> Any:
            return serving.unary(request, context)

    for name in _OF_BEHAVIORS:
        if (value := getattr(behavior_of(handler), name, None)) is not None:
            setattr(behavior, name, value)
    return with_behavior(handler, call, behavior)


class Serving:
    """Drives one call in a thread.

    Args:
        call: The call.
        behavior: What the host would do with it.
        run: Runs a step of the guard, and waits.
    """

    def __init__(self, call: Call, behavior: Any, run: Runner) -> None:
        self._call = call
        self._behavior = _blocking(behavior) if getattr(behavior, "experimental_non_blocking", False) else behavior
        self._run = run

    def unary(self, request: Any, context: Any) -> Any:
        """Answer with one message."""
        call = self._call
        try:
            entered = self._enter(request, context)
            if entered is None:
                return None
            request, guarded = entered
            if call.passes:
                return self._behavior(request, context)
            try:
                message = self._behavior(request, guarded)
                if call.over:
                    return message  # it has aborted the call, and gRPC knows
                self._keep(message, guarded)
            except Exception as error:  # noqa: BLE001 - whatever the host's code raises ends this call, and goes on to gRPC
                self._fail(error, guarded)
                return None
            return message if self._finish(guarded) else None
        finally:
            if not call.closed:
                self._run(call.close())

    def _keep(self, message: Any, guarded: GuardedContext) -> None:
        self._call.check()
        if code_of(guarded) is grpc.StatusCode.OK:
            self._out(message, guarded)
        else:
            self._call.no_message(message)

    def stream(self, request: Any, context: Any) -> Iterator[Any]:
        """Answer with a stream of messages."""
        call = self._call
        try:
            entered = self._enter(request, context)
            if entered is None:
                return
            request, guarded = entered
            if call.passes:
                yield from self._behavior(request, context)
                return
            try:
                messages = self._behavior(request, guarded)
                try:
                    for message in messages:
                        if message is None:
                            break  # with which gRPC ends a stream
                        self._out(message, guarded)
                        yield message
                finally:
                    if (close := getattr(messages, "close", None)) is not None:
                        close()
                call.check()
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(error, guarded)
                return
            if not call.over:
                self._finish(guarded)
        finally:
            if not call.closed:
                self._run(call.close())

    def _out(self, message: Any, guarded: GuardedContext) -> None:
        self._call.check()
        self._send_head(guarded, ())
        self._run(self._call.message_out(message))

    def _enter(self, request: Any, context: Any) -> tuple[Any, GuardedContext] | None:
        """Decide the call. Returns what the servicer gets, or None where it is not served and gRPC knows."""
        call, run = self._call, self._run
        refusal = run(call.authenticate(context))
        first: tuple[Any, ...] = ()
        if refusal is None and not call.passes:
            if call.wants_first:
                first = tuple(message for message in (next(request, _GONE),) if message is not _GONE)
            refusal = run(call.admit())
        if refusal is not None:
            _abort(context, refusal, refusal.metadata)
            return None
        guarded = GuardedContext(
            context,
            call,
            lambda metadata: self._send_head(guarded, metadata, asked=True),
            lambda code, details, trailing: self._aborted(guarded, code, details, trailing),
        )
        return (self._requests(first, request) if call.is_request_stream else request), guarded

    def _requests(self, first: Iterable[Any], rest: Iterable[Any]) -> Iterator[Any]:
        for message in first:
            self._run(self._call.message_in())
            yield message
        for message in rest:
            self._run(self._call.message_in())
            yield message

    def _send_head(self, guarded: GuardedContext, theirs: Any, *, asked: bool = False) -> None:
        """Send initial metadata with ours, once; what the servicer sends a second time is for gRPC to refuse."""
        call, inner = self._call, guarded._inner
        if call.sends_no_head:
            if asked:
                inner.send_initial_metadata(theirs)
            return
        ours = self._run(call.head())
        try:
            inner.send_initial_metadata(merged(theirs, ours))
        except (ValueError, grpc.aio.UsageError):  # an outer interceptor has sent some: then all of ours goes into trailing metadata
            if asked:
                raise
            call.head_lost = True
            return
        call.head_out = True

    def _aborted(self, guarded: GuardedContext, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        """The servicer aborts."""
        call, inner = self._call, guarded._inner
        if call.over or not _is_active(inner):
            inner.abort(code, details)
            return
        ending = self._run(call.end(None, failure(code)))
        base = guarded.trailing_metadata() if trailing is None else trailing
        metadata = merged(base, ending.metadata)
        if ending.refusal is not None:
            _abort(inner, ending.refusal, metadata)
            return
        inner.set_trailing_metadata(metadata)
        inner.abort(code, details)

    def _fail(self, error: Exception, guarded: GuardedContext) -> None:
        """The servicer raised.

        Raises:
            Exception: The same again, for gRPC; or gRPC's own, with which a call is aborted.
        """
        call, inner = self._call, guarded._inner
        if call.over or not _is_active(inner):
            raise error
        ending = self._run(call.end(error, code_of(guarded)))
        if ending.refusal is None:
            inner.set_trailing_metadata(guarded.with_ours(ending.metadata))
            raise error
        _abort(inner, ending.refusal, guarded.with_ours(ending.metadata))

    def _finish(self, guarded: GuardedContext) -> bool:
        """The servicer is done. Returns whether its answer stands."""
        call, inner = self._call, guarded._inner
        if not _is_active(inner):
            return True  # nobody is left who would get it
        ending = self._run(call.end(None, code_of(guarded)))
        metadata = guarded.with_ours(ending.metadata)
        if ending.refusal is not None:
            _abort(inner, ending.refusal, metadata)
            return False
        inner.set_trailing_metadata(metadata)
        return True


def _abort(context: Any, refusal: Refusal, metadata: Any) -> None:
    context.set_trailing_metadata(metadata)
    context.abort(refusal.code, refusal.message)


def failure(code: grpc.StatusCode) -> grpc.StatusCode:
    """The status that an abort ends with: gRPC makes UNKNOWN of OK."""
    return grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code


def _is_active(context: Any) -> bool:
    """Whether the client is still there, as far as is known."""
    ask = getattr(context, "is_active", None)
    return True if ask is None else bool(ask())


def _blocking(behavior: Any) -> Callable[[Any, Any], Iterator[Any]]:
    """A handler that calls back with its messages, and returns at once, as one that yields them."""

    def iterate(request: Any, context: Any) -> Iterator[Any]:
        messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        if not context.add_callback(lambda: messages.put(_GONE)):
            return
        behavior(request, context, messages.put)
        while (message := messages.get()) is not None and message is not _GONE:
            yield message

    return iterate
