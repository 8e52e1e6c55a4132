"""A `grpc.aio.Channel` whose responses are verified. What is decided says `_channel_checks`; here is how calls of a loop are driven."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from types import TracebackType
from typing import Any, ClassVar, Self

import grpc
import grpc.aio

from tos_guard.errors import VerificationError
from tos_guard.verifier import AsyncVerifier
from tos_guard.verify import Trust
from tos_guard_grpc._channel_checks import LEFT, AsyncMessagesVerifier, Attempt, ChannelChecks, Issuer, Transform, has_token
from tos_guard_grpc._channel_shape import CallBelow, ChannelBelow, Method

__all__ = ["AsyncVerifiedChannel", "verified_async_channel"]

_EOF: Any = grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue] - what it knows of grpc lacks it


def verified_async_channel(
    channel: grpc.aio.Channel, verifier: AsyncMessagesVerifier | Trust, *, issuer: str, checks: ChannelChecks | None = None
) -> AsyncVerifiedChannel:
    """`verified_channel` for one event loop.

    Args:
        channel: What carries the calls, closed with the one returned. Its interceptors see messages that are not proven yet.
        verifier: A `tos_guard.verifier.AsyncVerifier`, which stays the caller's to close, or keys to trust.
        issuer: Who must have sealed what comes over this channel: a gRPC target is no origin.
        checks: What else is demanded.

    Raises:
        ValueError: The issuer is not one that is trusted.
        TypeError: The channel is not asynchronous.
    """
    if not isinstance(channel, grpc.aio.Channel):
        raise TypeError("a blocking channel is verified by verified_channel")
    return AsyncVerifiedChannel(channel, verifier, issuer=issuer, checks=checks)


class AsyncVerifiedChannel(ChannelBelow, grpc.aio.Channel):
    """Made by `verified_async_channel`."""

    def __init__(
        self, channel: grpc.aio.Channel, verifier: AsyncMessagesVerifier | Trust, *, issuer: str, checks: ChannelChecks | None = None
    ) -> None:
        self._channel = channel
        self._own = AsyncVerifier(pinned=verifier) if isinstance(verifier, Trust) else None
        self._verifier: AsyncMessagesVerifier = self._own or verifier  # type: ignore[assignment]
        self._issuer = Issuer.among(self._verifier.issuers, issuer, checks)

    def unary_unary(
        self,
        method: str,
        request_serializer: Transform | None = None,
        response_deserializer: Transform | None = None,
        _registered_method: bool = False,
    ) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        """As `grpc.aio.Channel.unary_unary`."""
        return self._of(_UnaryUnary, method, request_serializer, response_deserializer, _registered_method)

    def unary_stream(
        self,
        method: str,
        request_serializer: Transform | None = None,
        response_deserializer: Transform | None = None,
        _registered_method: bool = False,
    ) -> grpc.aio.UnaryStreamMultiCallable[Any, Any]:
        """As `grpc.aio.Channel.unary_stream`."""
        return self._of(_UnaryStream, method, request_serializer, response_deserializer, _registered_method)

    def stream_unary(
        self,
        method: str,
        request_serializer: Transform | None = None,
        response_deserializer: Transform | None = None,
        _registered_method: bool = False,
    ) -> grpc.aio.StreamUnaryMultiCallable[Any, Any]:
        """As `grpc.aio.Channel.stream_unary`."""
        return self._of(_StreamUnary, method, request_serializer, response_deserializer, _registered_method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Transform | None = None,
        response_deserializer: Transform | None = None,
        _registered_method: bool = False,
    ) -> grpc.aio.StreamStreamMultiCallable[Any, Any]:
        """As `grpc.aio.Channel.stream_stream`."""
        return self._of(_StreamStream, method, request_serializer, response_deserializer, _registered_method)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As `grpc.aio.Channel.get_state`."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As `grpc.aio.Channel.wait_for_state_change`."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As `grpc.aio.Channel.channel_ready`."""
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel below."""
        await self._channel.close(grace)
        if self._own is not None:
            await self._own.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()


class _MultiCallable(Method):
    """A method, and how its calls are begun."""

    _verifier: AsyncMessagesVerifier
    call: ClassVar[type[_Call]]

    def _call(self, request: Any, options: tuple[Any, ...], named: dict[str, Any]) -> Any:
        attempt, below, given = self._begin(options, named)
        return self.call(self._verifier, attempt, below(request, **given))


class _Call(CallBelow, grpc.aio.Call):
    """A call, whose verdict is awaited."""

    _verifier: AsyncMessagesVerifier

    def __init__(self, verifier: AsyncMessagesVerifier, attempt: Attempt, inner: Any) -> None:
        super().__init__(verifier, attempt, inner)
        self._lock = asyncio.Lock()

    async def _judge(self) -> None:
        """The call ended with OK: prove it, once.

        Raises:
            VerificationError: It is not what a trusted issuer sealed.
        """
        async with self._lock:
            if not self._attempt.is_judged:
                await self._prove(await self._inner.initial_metadata(), await self._inner.trailing_metadata(), is_ok=True)
        self._attempt.raise_again()

    async def _judge_failure(self, failure: BaseException) -> None:
        """The call ended with another status: a token that is there must be right, and none is missed.

        Raises:
            VerificationError: The token is wrong.
        """
        async with self._lock:
            if not self._attempt.is_judged:
                if isinstance(failure, grpc.aio.AioRpcError) and has_token(failure.trailing_metadata()):
                    await self._prove(failure.initial_metadata(), failure.trailing_metadata(), is_ok=False)
                else:
                    self._attempt.failed(failure.code() if isinstance(failure, grpc.aio.AioRpcError) else type(failure).__name__, self)
        self._attempt.raise_again()

    async def _prove(self, initial: Any, trailing: Any, *, is_ok: bool) -> None:
        try:
            checker = await self._check_received(initial)
            proven = await checker.finish(self._attempt.final(trailing), expected=self._attempt.expected(initial, trailing))
            self._attempt.accept(proven, is_ok=is_ok)
        except VerificationError as error:
            self._attempt.fail(error, self)
        else:
            self._attempt.succeed(proven, self)

    async def _check_received(self, initial: Any) -> Any:
        """A checker that has been fed what was received."""
        checker = self._verifier.messages(pending=self._attempt.pending(initial), method=self._attempt.method)
        for message in self._attempt.received:
            await checker.feed(message)
        return checker

    # grpc.aio.Call: the call's own, whatever the verdict

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """As `grpc.aio.RpcContext.add_done_callback`; *callback* gets this call."""
        self._inner.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> Any:
        """As `grpc.aio.Call.initial_metadata`."""
        return await self._inner.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """As `grpc.aio.Call.trailing_metadata`."""
        return await self._inner.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        """The status of the call, whatever the verdict."""
        return await self._inner.code()

    async def details(self) -> str:
        """As `grpc.aio.Call.details`."""
        details: str = await self._inner.details()
        return details

    async def wait_for_connection(self) -> None:
        """As `grpc.aio.Call.wait_for_connection`."""
        await self._inner.wait_for_connection()


class _UnaryResponse(_Call):
    def __await__(self) -> Generator[Any, None, Any]:
        """The response, when it is proven. Raises `VerificationError`, or `grpc.aio.AioRpcError`."""
        return self._response().__await__()

    async def _response(self) -> Any:
        try:
            response = await self._inner
        except grpc.RpcError as failure:
            await self._judge_failure(failure)
            raise
        await self._judge()
        return response


class _StreamedResponse(_Call):
    def __init__(self, verifier: AsyncMessagesVerifier, attempt: Attempt, inner: Any) -> None:
        super().__init__(verifier, attempt, inner)
        self._checker: Any = None
        self._messages: _Messages | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        """The messages as they come. Nothing is proven before the iteration has ended."""
        if self._messages is None:
            self._messages = _Messages(self, self._inner.__aiter__())
        return self._messages

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF` when the stream has ended and is proven.

        Raises:
            VerificationError: It is not what a trusted issuer sealed.
        """
        message = await self._next(self._inner.read)
        if message is _EOF:
            await self._judge()
        return message

    async def _next(self, read: Callable[[], Any]) -> Any:
        self._attempt.raise_again()
        try:
            message = await read()
        except grpc.RpcError as failure:
            await self._judge_failure(failure)
            raise
        if message is not _EOF:
            await self._check_on_the_way()
            self._attempt.handed_on()
        return message

    async def _check_on_the_way(self) -> None:
        async with self._lock:
            try:
                await self._check_received(await self._inner.initial_metadata())
            except VerificationError as error:
                self._inner.cancel()
                self._attempt.fail(error, self)

    async def _check_received(self, initial: Any) -> Any:
        received = self._attempt.received
        if self._checker is None:
            self._checker = self._verifier.messages(pending=self._attempt.pending(initial), method=self._attempt.method)
        while received:
            await self._checker.feed(received.popleft())
        return self._checker

    def cancel(self) -> bool:
        """As `grpc.aio.RpcContext.cancel`; a stream that was not judged by now stays unproven."""
        self._attempt.leave(LEFT, self)
        return super().cancel()


class _Messages(AsyncIterator[Any]):
    """Iterates over a stream. Other than a generator it goes on raising what it has found, however often it is asked."""

    def __init__(self, call: _StreamedResponse, inner: AsyncIterator[Any]) -> None:
        self._call = call
        self._inner = inner

    async def __anext__(self) -> Any:
        try:
            return await self._call._next(self._inner.__anext__)
        except StopAsyncIteration:
            await self._call._judge()
            raise

    async def aclose(self) -> None:
        """Leave the stream."""
        self._call.cancel()


class _StreamedRequest:
    """What a caller writes goes to the call of the channel below as it is."""

    _inner: Any

    async def write(self, request: Any) -> None:
        """As `grpc.aio.StreamUnaryCall.write`."""
        await self._inner.write(request)

    async def done_writing(self) -> None:
        """As `grpc.aio.StreamUnaryCall.done_writing`."""
        await self._inner.done_writing()


class _UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    pass


class _UnaryStreamCall(_StreamedResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    pass


class _StreamUnaryCall(_StreamedRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    pass


class _StreamStreamCall(_StreamedRequest, _StreamedResponse, grpc.aio.StreamStreamCall[Any, Any]):
    pass


class _UnaryUnary(_MultiCallable, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    arity = "unary_unary"
    call = _UnaryUnaryCall

    def __call__(self, request: Any, *options: Any, **named: Any) -> Any:
        return self._call(request, options, named)


class _UnaryStream(_MultiCallable, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    arity = "unary_stream"
    call = _UnaryStreamCall

    def __call__(self, request: Any, *options: Any, **named: Any) -> Any:
        return self._call(request, options, named)


class _StreamUnary(_MultiCallable, grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    arity = "stream_unary"
    call = _StreamUnaryCall

    def __call__(self, request_iterator: Any = None, *options: Any, **named: Any) -> Any:
        return self._call(request_iterator, options, named)


class _StreamStream(_MultiCallable, grpc.aio.StreamStreamMultiCallable[Any, Any]):
    arity = "stream_stream"
    call = _StreamStreamCall

    def __call__(self, request_iterator: Any = None, *options: Any, **named: Any) -> Any:
        return self._call(request_iterator, options, named)
