"""One call on its way through the guard, without I/O: what both colours share (docs/adr/0008, docs/spec/carriers.md).

- A call is decided before its handler runs; of a request stream each message is, before the handler sees it.
- A message is serialised once, here. What is digested is what leaves: gRPC's own serialiser gets the bytes that wait for this message. An
  interceptor outside of the guard sees messages and may look at them; one that puts another message in their place breaks the call.
- Our initial metadata goes out with the first message, or with what the handler sends by itself. Where a call ends before that, all of it
  is in trailing metadata: initial metadata would keep clients from retrying.
- Sealed, recorded and settled before the status leaves. However a call ends, it is closed once; what a servicer reads or says afterwards
  is neither decided nor sealed.
- Of a single response under a status other than OK no client sees the message: it is not sent, and not sealed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import grpc

from tos_guard.dialects import (
    REQUEST_ID_METADATA,
    SALT_METADATA,
    TOKEN_METADATA,
    USAGE_METADATA,
    CallDialect,
    CallFormat,
    GrpcFormat,
)
from tos_guard.errors import (
    AuthenticationError,
    DeniedError,
    PolicyStop,
    RequestError,
    SignerError,
    StoreError,
    TosGuardError,
)
from tos_guard.exchange import CallResponse, Exchange
from tos_guard.guard import Admission, Caller, Connection, GuardSteps, RequestView, Route, Steps, der_of, unavailable
from tos_guard.types import Completion
from tos_guard_grpc._status import HTTP_STATUS, Metadata, Refusal, refusal_of

__all__ = ["ADMISSION", "ISSUERS", "Call", "Ending", "MessageAfterEndError", "merged", "pairs"]

ISSUERS: Final[ContextVar[tuple[str, ...]]] = ContextVar("tos_guard_grpc.issuers", default=())
"""Issuers that already guard this call, so that two stacked guards of one issuer seal once. A call has a context of its own."""

ADMISSION: Final[ContextVar[Admission | None]] = ContextVar("tos_guard_grpc.admission", default=None)
"""What the handler may know. Never reset: the generator of an aio handler is closed in another context than it was begun in."""

_OURS: Final = frozenset({TOKEN_METADATA, SALT_METADATA, USAGE_METADATA, REQUEST_ID_METADATA})
"""Names that only the guard may say in a response."""


class MethodNotGuardedError(RequestError):
    """The method is neither guarded nor exempt."""

    code = "tos_route_not_guarded"
    status = 404


class MessageTooLargeError(RequestError):
    """A request message is larger than the settings allow."""

    code = "tos_request_too_large"
    status = 413


class MessageAfterEndError(RuntimeError):
    """The handler goes on although its call is over."""


class Ending(NamedTuple):
    """How a call ends.

    Attributes:
        metadata: Trailing metadata of ours.
        refusal: The status to end with in place of the handler's, or None.
    """

    metadata: Metadata
    refusal: Refusal | None = None


class Call:
    """One call.

    Args:
        guard: The guard.
        method: ``/package.Service/Method``.
        metadata: Of the invocation.
        adapter: What the guard came in by, as telemetry names it.
        handler: What would serve the call.

    Attributes:
        admission: What the handler may know, once the call is admitted.
        passes: It goes to the handler as if there were no guard: monitor mode, where nothing could be decided.
        over: Its status is decided, or nobody is left to be told one.
        head_out: Our initial metadata has left.
        head_lost: It cannot leave any more: initial metadata has left without it.
    """

    def __init__(self, guard: GuardSteps, method: str, metadata: Iterable[tuple[str, str | bytes]], *, adapter: str, handler: Any) -> None:
        self.admission: Admission | None = None
        self.passes: bool = False
        self.over: bool = False
        self.head_out: bool = False
        self.head_lost: bool = False
        self._guard = guard
        self._view = RequestView("POST", method, _headers(metadata), None, guard.telemetry.observe(adapter))
        self._request_streaming: bool = handler.request_streaming
        self._response_streaming: bool = handler.response_streaming
        self._deserializer: Callable[[bytes], Any] | None = handler.request_deserializer
        self._serializer: Callable[[Any], bytes] | None = handler.response_serializer
        self._received: deque[bytes] = deque()
        self._ready: deque[tuple[Any, bytes]] = deque()
        self._format: CallFormat = GrpcFormat()
        self._route: Route | None = None
        self._caller: Caller | None = None
        self._exchange: Exchange | None = None
        self._response: CallResponse | None = None
        self._stop: TosGuardError | None = None
        self._failed_part = "store"
        self._messages_in = 0
        self._sealed = False
        self._closed = False
        self._reason = ""
        self._status = 0

    @property
    def sends_no_head(self) -> bool:
        """Whether there is no initial metadata of ours to be sent, or none any more."""
        return self.head_out or self.head_lost or self.over or self.passes

    @property
    def closed(self) -> bool:
        """Whether nothing is left to be done for it."""
        return self._closed

    # What gRPC calls

    def deserialize(self, data: bytes) -> Any:
        """Read a request message, and keep its bytes."""
        if not self.passes:
            self._received.append(data)
        return data if self._deserializer is None else self._deserializer(data)

    def serialize(self, message: Any) -> bytes:
        """The bytes that were sealed for a message.

        Raises:
            RuntimeError: It is not the message that was sealed.
        """
        if self.passes:
            return self._serialized(message)
        if self._ready and self._ready[0][0] is message:
            return self._ready.popleft()[1]
        raise RuntimeError("another message than the guard has sealed: an interceptor outside of it put it there")

    def _serialized(self, message: Any) -> bytes:
        return message if self._serializer is None else self._serializer(message)

    # Deciding

    def authenticate(self, context: Any) -> Steps[Refusal | None]:
        """Find who calls. The context is what ``identify=`` and ``assertions=`` see as ``view.host``.

        Returns:
            Why the call is not served, or None.
        """
        view = self._view
        self._view = RequestView(view.method, view.path, view.headers, context, view.observed, _connection(context))
        return (yield from self._deciding(self._authenticate()))

    def _authenticate(self) -> Steps[None]:
        route = self._guard.route(self._view.path)
        if route is None or not isinstance(route.dialect, CallDialect):
            raise MethodNotGuardedError("this method is neither guarded nor exempt", where=self._view.path[:200])
        self._route = route
        self._format = route.dialect.call_format(self._view.path)
        self._caller = yield from self._guard.authenticate(self._view)

    @property
    def is_request_stream(self) -> bool:
        """Whether requests are a stream."""
        return self._request_streaming

    @property
    def wants_first(self) -> bool:
        """Whether the first message of the request stream says what is asked for."""
        return self._request_streaming and self._format.reads_requests

    def admit(self) -> Steps[Refusal | None]:
        """Decide the call, on the request message that has been read, where there is one.

        Returns:
            Why it is not served, or None.
        """
        return (yield from self._deciding(self._admit()))

    def _admit(self) -> Steps[None]:
        caller, route, guard = self._caller, self._route, self._guard
        assert caller is not None  # noqa: S101 - authenticated before
        assert route is not None  # noqa: S101
        message = self._received[0] if self._received else b""
        self._check_size(message)
        if self._request_streaming:
            # `req` is over no bytes, and what the messages take is reserved as they come.
            said = route.dialect.read_request(message, self._view.head)
            exchange = yield from guard.admit(caller, self._view, route, b"", request=said)
        else:
            self._received.clear()
            exchange = yield from guard.admit(caller, self._view, route, message)
        if self._closed:
            yield from guard.close(exchange, None, status=0, sealed=False, reason="client_gone")
            raise MessageAfterEndError("the client left while its call was decided")
        self._exchange = exchange
        if exchange.is_refused:
            raise (yield from guard.keep_denial(exchange))
        self._response = CallResponse(exchange, self._format)
        self.admission = guard.admission(caller, exchange)
        ADMISSION.set(self.admission)

    def _check_size(self, message: bytes) -> None:
        limit = self._guard.settings.max_request_bytes
        if len(message) > limit:
            raise MessageTooLargeError(f"larger than the {limit} bytes accepted", where="request message", cure="Send less.")

    def _deciding(self, steps: Steps[None]) -> Steps[Refusal | None]:
        guard, observed = self._guard, self._view.observed
        try:
            yield from steps
        except RequestError as error:
            lets_pass = self._exchange is None and guard.monitors and not isinstance(error, MessageTooLargeError)
            if self._exchange is None:
                guard.count_refusal(error, observed, monitored=lets_pass)
            refused = error
        except StoreError as error:
            lets_pass, refused = guard.monitors, unavailable()
            guard.report_failure("accounts", error)
            guard.telemetry.refused(observed, refused.code, monitored=lets_pass)
        else:
            return None
        if lets_pass:
            self.passes = True
            self._received.clear()
            return None
        self.over = self._closed = True
        return refusal_of(refused, guard, self._exchange)

    # Requests

    def message_in(self) -> Steps[None]:
        """The next message of the request stream was read: decide it before the handler sees it.

        Raises:
            RequestError: It is not allowed, or cannot be decided. The call ends with that, whatever the handler makes of it.
            PolicyStop: The host has stopped the call.
            MessageAfterEndError: It has ended.
        """
        message = self._received.popleft() if self._received else b""
        first = not self._messages_in
        self._messages_in += 1
        exchange, route, caller = self._exchange, self._route, self._caller
        if exchange is None or route is None or caller is None:
            return
        if self.over:
            raise MessageAfterEndError("a request message after the end of the call")
        self.check()
        try:
            self._check_size(message)
            self._caller = yield from self._guard.admit_message(caller, self._view, route, exchange, message, first=first)
        except RequestError as error:
            if not self._guard.monitors or isinstance(error, MessageTooLargeError):
                self._stop = error
                raise
        except StoreError as error:
            self._guard.report_failure("accounts", error)
            if not self._guard.monitors:
                self._stop = unavailable()
                raise self._stop from error
        if self.over:  # while it was decided: what it had reserved is given back, or settled with the rest
            raise MessageAfterEndError("the call ended while a request message was decided")

    # Responses

    def message_out(self, message: Any) -> Steps[None]:
        """Serialise the next message, and make it part of what is sealed.

        Raises:
            TosGuardError: The call is to end instead.
            MessageAfterEndError: It has ended.
        """
        response, exchange = self._response, self._exchange
        if response is None or exchange is None:
            return
        if self.over:
            response.dropped_events += 1
            raise MessageAfterEndError("a message after the end of the call")
        self.check()
        data = response.add(self._serialized(message))
        if self._format.carries == "final":
            response.carrier = "grpc-message"
        if self._format.carries == "checkpoint" and (token := (yield from self._guard.checkpoint(exchange, response))) is not None:
            data = response.tagged(data, token)
        self._ready.append((message, data))

    def no_message(self, message: Any) -> None:
        """The single response does not leave: its status is no success."""
        self._ready.append((message, b""))

    def check(self) -> None:
        """Whether the call may go on.

        Raises:
            TosGuardError: It is to end: the handler met a denial, or a message did.
        """
        if (stop := self._stopped(None)) is not None:
            raise stop

    def head(self) -> Steps[Metadata]:
        """Our initial metadata, to be sent now.

        Raises:
            SignerError: There can be no token, and the settings deny.
        """
        exchange = self._exchange
        if exchange is None:
            return ()
        try:
            token = yield from self._guard.pending(exchange)
        except SignerError:
            self._stop, self._failed_part = unavailable(), "signer"
            raise
        return _fields(exchange, token)

    # Ending

    def end(self, error: BaseException | None, code: grpc.StatusCode) -> Steps[Ending]:
        """Decide how the call ends, seal what left, settle what was reserved, and close: whoever reads the status finds all of it done.

        Args:
            error: What the handler raised, or None.
            code: Its status.
        """
        self.over = True
        exchange, response = self._exchange, self._response
        if exchange is None or response is None or self._closed:
            return Ending(())
        stop = self._stopped(error)
        failed = error is not None or code is not grpc.StatusCode.OK
        refusal = refusal_of(stop, self._guard, exchange) if stop is not None else None
        if error is not None and code is grpc.StatusCode.OK:
            code = grpc.StatusCode.UNKNOWN  # as gRPC says of a handler that raised
        self._status = self._http_status(refusal.code if refusal is not None else code)
        exchange.answered = True
        if isinstance(stop, RequestError) and not response.count:
            self._reason = "denied" if stop.status < 500 else self._failed_part
            metadata: Metadata = ()
        else:
            by_policy = isinstance(stop, (DeniedError, PolicyStop, AuthenticationError))
            response.completion = Completion.POLICY if by_policy else Completion.ERROR if failed or stop else Completion.COMPLETE
            token, withheld = yield from self._seal(exchange, response)
            if withheld and refusal is None and not failed:
                refusal = refusal_of(unavailable(), self._guard, exchange)
                self._status = self._http_status(refusal.code)
            metadata = self._trailing(exchange, token)
        yield from self._guard.settle(exchange, response, status=self._status, reason=self._reason)
        yield from self.close()
        return Ending((*metadata, *(refusal.metadata if refusal is not None else ())), refusal)

    def _http_status(self, code: grpc.StatusCode) -> int:
        """What records write. As of a stream over HTTP: what has left has left under success."""
        streamed = self._response_streaming and self._response is not None and self._response.count
        return 200 if streamed else HTTP_STATUS.get(code, 500)

    def _seal(self, exchange: Exchange, response: CallResponse) -> Steps[tuple[str | None, bool]]:
        """The final token, or None; and whether the call may not end well without."""
        try:
            seal = yield from self._guard.seal(exchange, response, self._status)
        except (SignerError, StoreError) as failure:
            what, part = ("signer", "signer") if isinstance(failure, SignerError) else ("store", "records")
            self._guard.report_failure(what, failure)
            response.unsealed = what
            if self._guard.denies_without(part):
                return None, True
            self._guard.report_degraded(part, "allow")
            return None, False
        self._sealed = True
        if self._format.carries == "final" and self._ready:
            message, data = self._ready.pop()
            self._ready.append((message, response.tagged(data, seal.token)))
        return seal.token, False

    def _trailing(self, exchange: Exchange, token: str | None) -> Metadata:
        if not self.head_out:
            return _fields(exchange, token)
        return ((TOKEN_METADATA, token),) if token is not None else ()

    def _stopped(self, error: BaseException | None) -> TosGuardError | None:
        """Why the guard ends the call in place of the handler, or None where it does not."""
        exchange = self._exchange
        if exchange is not None and exchange.is_refused:
            return self._guard.denied(exchange)
        stopped = exchange.stopped if exchange is not None and not self._sealed else None
        return self._stop or _stop_in(error) or stopped

    def close(self) -> Steps[None]:
        """The call is over, however it ended: record it, count it, and settle what is not settled. A second time changes nothing."""
        if self._closed:
            return
        self._closed = True
        status = self._status if self.over else 200 if self.head_out else 0
        self.over = True
        if self.passes:
            self._guard.telemetry.ended(self._view.observed, unsealed="monitor")
        if (exchange := self._exchange) is None:
            return
        response = self._response
        gone = not self._sealed and not self._reason and (response is None or response.unsealed is None)
        reason = "client_gone" if gone else self._reason
        yield from self._guard.close(exchange, response, status=status, sealed=self._sealed, reason=reason)


def pairs(metadata: Any) -> list[tuple[str, str | bytes]]:
    """Metadata as a handler gives it: pairs, a mapping, or None."""
    if metadata is None:
        return []
    return [(name, value) for name, value in (metadata.items() if isinstance(metadata, Mapping) else metadata)]


def merged(theirs: Any, ours: Metadata) -> Metadata:
    """The handler's metadata and ours. Names of ours in the handler's are left out: two tokens would be none."""
    return (*((name, value) for name, value in pairs(theirs) if name.lower() not in _OURS), *ours)


def _connection(context: Any) -> Connection:
    return Connection(_address(context.peer()), partial(_certificate, context))


def _address(peer: str) -> str:
    """The address in ``ipv4:127.0.0.1:50051`` or ``ipv6:%5B::1%5D:50051``; of a Unix socket there is none."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


def _certificate(context: Any) -> bytes | None:
    """The client certificate that the server has demanded and verified."""
    said = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
    return None if said is None else der_of(said.decode("ascii", "replace"))


def _headers(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    """The head of the call, as guards read requests. Its media type is not among the metadata that gRPC shows.

    Idempotency keys are left out: what a handler answers to a retry over gRPC is sealed as its own.
    """
    return [(b"content-type", b"application/grpc")] + [
        (name.lower().encode("utf-8", "replace"), value if isinstance(value, bytes) else value.encode("utf-8", "replace"))
        for name, value in metadata or ()
        if name.lower() not in ("content-type", "idempotency-key")
    ]


def _fields(exchange: Exchange, token: str | None) -> Metadata:
    return tuple((name.decode("ascii"), value.decode("ascii")) for name, value in exchange.headers(token, early=True))


def _stop_in(error: BaseException | None) -> TosGuardError | None:
    """What the handler raised for the guard to say, maybe inside an exception group, or as the cause of another."""
    if error is None:
        return None
    if isinstance(error, (PolicyStop, DeniedError)):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _stop_in(inner)) is not None), None)
    return error.__cause__ if isinstance(error.__cause__, (PolicyStop, DeniedError)) else None
