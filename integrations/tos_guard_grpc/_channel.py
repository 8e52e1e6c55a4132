"""A `grpc.Channel` whose responses are verified. What is decided says `_channel_checks`; here is how blocking calls are driven."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import grpc
import grpc.aio

from tos_guard.errors import VerificationError
from tos_guard.verifier import Verifier
from tos_guard.verify import Trust
from tos_guard_grpc._channel_checks import LEFT, Attempt, ChannelChecks, Issuer, MessagesVerifier, Transform, has_token
from tos_guard_grpc._channel_shape import CallBelow, ChannelBelow, Method

__all__ = ["VerifiedCall", "VerifiedChannel", "VerifiedStream", "verified_channel"]

if TYPE_CHECKING:
    _Future: TypeAlias = grpc.Future[Any]  # generic only to those who check types
else:
    _Future = grpc.Future


def verified_channel(
    channel: grpc.Channel, verifier: MessagesVerifier | Trust, *, issuer: str, checks: ChannelChecks | None = None
) -> VerifiedChannel:
    """A channel whose responses are verified before a stub's caller gets them.

    Args:
        channel: What carries the calls, closed with the one returned. Interceptors may stand on either side: below they see messages that
            are not proven yet.
        verifier: A `tos_guard.verifier.Verifier`, which stays the caller's to close, or keys to trust.
        issuer: Who must have sealed what comes over this channel: a gRPC target is no origin.
        checks: What else is demanded.

    Raises:
        ValueError: The issuer is not one that is trusted.
        TypeError: The channel is asynchronous.
    """
    if isinstance(channel, grpc.aio.Channel):
        raise TypeError("an asynchronous channel is verified by verified_async_channel")
    return VerifiedChannel(channel, verifier, issuer=issuer, checks=checks)


class VerifiedChannel(ChannelBelow, grpc.Channel):
    """Made by `verified_channel`. Any thread may call."""

    def __init__(
        self, channel: grpc.Channel, verifier: MessagesVerifier | Trust, *, issuer: str, checks: ChannelChecks | None = None
    ) -> None:
        self._channel = channel
        self._own = Verifier(pinned=verifier) if isinstance(verifier, Trust) else None
        self._verifier: MessagesVerifier = self._own or verifier  # type: ignore[assignment]
        self._issuer = Issuer.among(self._verifier.issuers, issuer, checks)

    def unary_unary(
        self,
        method: str,
        request_serializer: Transform | None = None,
        response_deserializer: Transform | None = None,
        _registered_method: bool = False,
    ) -> grpc.UnaryUnaryMultiCallable[Any, Any]:
        """As `grpc.Channel.unary_unary`."""
        return self._of(_UnaryUnary, method, request_serializer, response_deserializer, _registered_method)

    def unary_stream(
        self,
        method: str,
        request_serializer: Transform | None = None,
        response_deserializer: Transform | None = None,
        _registered_method: bool = False,
    ) -> grpc.UnaryStreamMultiCallable[Any, Any]:
        """As `grpc.Channel.unary_stream`."""
        return self._of(_UnaryStream, method, request_serializer, response_deserializer, _registered_method)

    def stream_unary(
        self,
        method: str,
        request_serializer: Transform | None = None,
        response_deserializer: Transform | None = None,
        _registered_method: bool = False,
    ) -> grpc.StreamUnaryMultiCallable[Any, Any]:
        """As `grpc.Channel.stream_unary`."""
        return self._of(_StreamUnary, method, request_serializer, response_deserializer, _registered_method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Transform | None = None,
        response_deserializer: Transform | None = None,
        _registered_method: bool = False,
    ) -> grpc.StreamStreamMultiCallable[Any, Any]:
        """As `grpc.Channel.stream_stream`."""
        return self._of(_StreamStream, method, request_serializer, response_deserializer, _registered_method)

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """As `grpc.Channel.subscribe`."""
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """As `grpc.Channel.unsubscribe`."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """Close the channel below."""
        self._channel.close()
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class _MultiCallable(Method):
    """A method, and how its calls are begun."""

    _verifier: MessagesVerifier

    def _with_call(self, request: Any, options: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, VerifiedCall]:
        attempt, below, given = self._begin(options, named)
        try:
            response, inner = below.with_call(request, **given)
        except grpc.RpcError as failure:
            VerifiedCall(self._verifier, attempt, failure)._judge_failure(failure)
            raise
        call = VerifiedCall(self._verifier, attempt, inner)
        call._judge()
        return response, call

    def _future(self, request: Any, options: tuple[Any, ...], named: dict[str, Any]) -> VerifiedCall:
        attempt, below, given = self._begin(options, named)
        return VerifiedCall(self._verifier, attempt, below.future(request, **given))

    def _stream(self, request: Any, options: tuple[Any, ...], named: dict[str, Any]) -> VerifiedStream:
        attempt, below, given = self._begin(options, named)
        return VerifiedStream(self._verifier, attempt, below(request, **given))


class _UnaryUnary(_MultiCallable, grpc.UnaryUnaryMultiCallable):
    arity = "unary_unary"

    def __call__(self, request: Any, *options: Any, **named: Any) -> Any:
        return self._with_call(request, options, named)[0]

    def with_call(self, request: Any, *options: Any, **named: Any) -> Any:
        return self._with_call(request, options, named)

    def future(self, request: Any, *options: Any, **named: Any) -> Any:
        return self._future(request, options, named)


class _UnaryStream(_MultiCallable, grpc.UnaryStreamMultiCallable):
    arity = "unary_stream"

    def __call__(self, request: Any, *options: Any, **named: Any) -> Any:
        return self._stream(request, options, named)


class _StreamUnary(_MultiCallable, grpc.StreamUnaryMultiCallable):
    arity = "stream_unary"

    def __call__(self, request_iterator: Any, *options: Any, **named: Any) -> Any:
        return self._with_call(request_iterator, options, named)[0]

    def with_call(self, request_iterator: Any, *options: Any, **named: Any) -> Any:
        return self._with_call(request_iterator, options, named)

    def future(self, request_iterator: Any, *options: Any, **named: Any) -> Any:
        return self._future(request_iterator, options, named)


class _StreamStream(_MultiCallable, grpc.StreamStreamMultiCallable):
    arity = "stream_stream"

    def __call__(self, request_iterator: Any, *options: Any, **named: Any) -> Any:
        return self._stream(request_iterator, options, named)


class _Call(CallBelow, grpc.Call, _Future):
    """A call, whose verdict is asked for in threads."""

    _verifier: MessagesVerifier

    def __init__(self, verifier: MessagesVerifier, attempt: Attempt, inner: Any) -> None:
        super().__init__(verifier, attempt, inner)
        self._lock = threading.RLock()  # what is told of a verdict may ask for it

    def _judge(self) -> None:
        """The call ended with OK: prove it, once.

        Raises:
            VerificationError: It is not what a trusted issuer sealed.
        """
        with self._lock:
            if not self._attempt.is_judged:
                self._prove(self._inner, is_ok=True)
            self._attempt.raise_again()

    def _judge_failure(self, failure: BaseException) -> None:
        """The call ended with another status: a token that is there must be right, and none is missed.

        Raises:
            VerificationError: The token is wrong.
        """
        with self._lock:
            if not self._attempt.is_judged:
                if isinstance(failure, grpc.Call) and has_token(failure.trailing_metadata()):
                    self._prove(failure, is_ok=False)
                else:
                    self._attempt.failed(failure.code() if isinstance(failure, grpc.Call) else type(failure).__name__, self)
            self._attempt.raise_again()

    def _prove(self, ended: grpc.Call, *, is_ok: bool) -> None:
        try:
            initial, trailing = ended.initial_metadata(), ended.trailing_metadata()
            checker = self._check_received(initial)
            proven = checker.finish(self._attempt.final(trailing), expected=self._attempt.expected(initial, trailing))
            self._attempt.accept(proven, is_ok=is_ok)
        except VerificationError as error:
            self._attempt.fail(error, self)
        else:
            self._attempt.succeed(proven, self)

    def _check_received(self, initial: Any) -> Any:
        """A checker that has been fed what was received."""
        checker = self._verifier.messages(pending=self._attempt.pending(initial), method=self._attempt.method)
        for message in self._attempt.received:
            checker.feed(message)
        return checker

    # grpc.RpcContext and grpc.Call: the call's own, whatever the verdict

    def is_active(self) -> bool:
        """As `grpc.RpcContext.is_active`."""
        active: bool = self._inner.is_active()
        return active

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """As `grpc.RpcContext.add_callback`."""
        added: bool = self._inner.add_callback(callback)
        return added

    def initial_metadata(self) -> Any:
        """As `grpc.Call.initial_metadata`."""
        return self._inner.initial_metadata()

    def trailing_metadata(self) -> Any:
        """As `grpc.Call.trailing_metadata`."""
        return self._inner.trailing_metadata()

    def code(self) -> grpc.StatusCode:
        """The status of the call, whatever the verdict."""
        return self._inner.code()

    def details(self) -> str:
        """As `grpc.Call.details`."""
        details: str = self._inner.details()
        return details

    def running(self) -> bool:
        """As `grpc.Future.running`."""
        running: bool = self._inner.running()
        return running

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """As `grpc.Future.add_done_callback`; *fn* gets this call."""
        self._inner.add_done_callback(lambda _: fn(self))


class VerifiedCall(_Call):
    """The call of a unary response."""

    def result(self, timeout: float | None = None) -> Any:
        """The response, when it is proven.

        Raises:
            VerificationError: It is not what a trusted issuer sealed.
            grpc.RpcError: As `grpc.Future.result`; so are `grpc.FutureTimeoutError` and `grpc.FutureCancelledError`.
        """
        try:
            response = self._inner.result(timeout)
        except grpc.RpcError as failure:
            self._judge_failure(failure)
            raise
        self._judge()
        return response

    def exception(self, timeout: float | None = None) -> Any:
        """What `result` would raise, or None."""
        failure = self._inner.exception(timeout)
        try:
            if failure is None:
                self._judge()
            else:
                self._judge_failure(failure)
        except VerificationError as error:
            return error
        return failure

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """The traceback of what `result` would raise, or None."""
        failure = self.exception(timeout)
        if isinstance(failure, VerificationError):
            return failure.__traceback__
        found: TracebackType | None = self._inner.traceback(timeout)
        return found


class VerifiedStream(_Call):
    """The call of a streamed response, which iterates over its messages. Nothing is proven before the iteration has ended."""

    def __init__(self, verifier: MessagesVerifier, attempt: Attempt, inner: Any) -> None:
        super().__init__(verifier, attempt, inner)
        self._checker: Any = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._attempt.raise_again()
        try:
            message = next(self._inner)
        except StopIteration:
            self._judge()
            raise
        except grpc.RpcError as failure:
            self._judge_failure(failure)
            raise
        self._check_on_the_way()
        self._attempt.handed_on()
        return message

    def _check_on_the_way(self) -> None:
        with self._lock:
            try:
                self._check_received(self._inner.initial_metadata())
            except VerificationError as error:
                self._inner.cancel()
                self._attempt.fail(error, self)

    def _check_received(self, initial: Any) -> Any:
        received = self._attempt.received
        if self._checker is None:
            self._checker = self._verifier.messages(pending=self._attempt.pending(initial), method=self._attempt.method)
        while received:
            self._checker.feed(received.popleft())
        return self._checker

    def cancel(self) -> bool:
        """As `grpc.RpcContext.cancel`; a stream that was not judged by now stays unproven."""
        with self._lock:
            self._attempt.leave(LEFT, self)
        return super().cancel()

    def result(self, timeout: float | None = None) -> Any:
        """As the stream of the channel below; raises what the check found by now."""
        found = self._inner.result(timeout)
        self._attempt.raise_again()
        return found

    def exception(self, timeout: float | None = None) -> Any:
        """As the stream of the channel below, or what the check found by now."""
        failure = self._inner.exception(timeout)
        return self._attempt.check.error if failure is None else failure

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """As the stream of the channel below."""
        found: TracebackType | None = self._inner.traceback(timeout)
        return found
