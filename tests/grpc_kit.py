"""Guarded gRPC servers on loopback, and clients that keep everything they were told."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from kit import Kit
from tos_guard.guard import Guard
from tos_guard.stores import load_terms
from tos_guard.verify import Expected, Verified, verify_messages
from tos_guard_grpc import AsyncGuardInterceptor, GuardInterceptor

SERVICE = "echo.Echo"
KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
ROUTES = {f"/{SERVICE}/{kind}": {"dialect": "grpc", "model": "small"} for kind in KINDS}
HEALTH = "/grpc.health.v1.Health/*"

Metadata = tuple[tuple[str, str | bytes], ...]


def grpc_kit(**parts: Any) -> Kit:
    """A kit whose routes are the methods of the echo service."""
    settings = {"routes": ROUTES, "exempt": [HEALTH], "appeal_url": "https://api.example.com/appeal", **parts.pop("settings", {})}
    return Kit(settings=settings, **parts)


def sync_guard(kit: Kit) -> Guard:
    """The synchronous twin of the kit's guard, over the same stores."""
    parts = {
        "terms": load_terms(kit.terms),
        "accounts": kit.store,
        "rights": kit.store,
        "archive": kit.store,
        "records": kit.store,
        "signer": kit.signer,
        "pepper": kit.store.pepper(),
        "clock": kit.clock,
        "meter": kit.guard.meter,
        "limits": kit.engine,
    }
    return Guard(kit.guard.settings, **{**parts, **kit.overrides})


# A service of all four kinds


def _texts(requests: Iterable[bytes]) -> bytes:
    return b"+".join(requests)


class Echo:
    """Answers with what it is sent, in threads; a stream as three messages for each."""

    def unary_unary(self, request: bytes, context: Any) -> bytes:
        return b"re:" + request

    def unary_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(3):
            yield b"%d:" % number + request

    def stream_unary(self, requests: Iterator[bytes], context: Any) -> bytes:
        return _texts(requests)

    def stream_stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield b"re:" + request


class AsyncEcho:
    """The same, awaiting."""

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        return b"re:" + request

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d:" % number + request

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return _texts([request async for request in requests])

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"re:" + request


class WritingEcho(AsyncEcho):
    """The same, in the style of ``read`` and ``write``."""

    async def unary_stream(self, request: bytes, context: Any) -> None:  # type: ignore[override]
        for number in range(3):
            await context.write(b"%d:" % number + request)

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        read = []
        while (request := await context.read()) is not grpc.aio.EOF:
            read.append(request)
        return _texts(read)

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> None:  # type: ignore[override]
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(b"re:" + request)


# Servicers that follow a script, in each style


@dataclass(frozen=True)
class Say:
    """Answers with a message."""

    message: bytes = b"said"


@dataclass(frozen=True)
class Do:
    """Calls something with the context; what it gives is awaited where it can be."""

    call: Callable[[Any], Any]


@dataclass(frozen=True)
class Guarded:
    """As `Do`, and goes on whatever it raises."""

    call: Callable[[Any], Any]


Step = Say | Do | Guarded


class Scripted(Echo):
    """Follows a script, in a thread."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps

    def unary_unary(self, request: bytes, context: Any) -> bytes:
        return b"".join(self.unary_stream(request, context))

    def unary_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        for step in self.steps:
            if isinstance(step, Say):
                yield step.message
            elif isinstance(step, Do):
                step.call(context)
            else:
                with suppress(Exception):
                    step.call(context)


class AsyncScripted(AsyncEcho):
    """Follows a script, awaiting."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        return b"".join([message async for message in AsyncScripted.unary_stream(self, request, context)])

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for step in self.steps:
            if isinstance(step, Say):
                yield step.message
            elif isinstance(step, Do):
                await _awaited(step.call(context))
            else:
                with suppress(Exception):
                    await _awaited(step.call(context))


class WritingScripted(AsyncScripted):
    """Follows a script, writing."""

    async def unary_stream(self, request: bytes, context: Any) -> None:  # type: ignore[override]
        async for message in AsyncScripted.unary_stream(self, request, context):
            await context.write(message)


async def _awaited(said: Any) -> None:
    if inspect.isawaitable(said):
        await said


def handlers_of(service: Any) -> grpc.GenericRpcHandler:
    """The service as gRPC registers it. Messages are bytes, without a serialiser."""
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(service.unary_unary),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(service.unary_stream),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(service.stream_unary),
            "StreamStream": grpc.stream_stream_rpc_method_handler(service.stream_stream),
            "Unguarded": grpc.unary_unary_rpc_method_handler(service.unary_unary),
        },
    )


@dataclass(frozen=True)
class Door:
    """One way to serve: which server, and in which style its servicers are written.

    Attributes:
        name: Of the way.
        is_async: Whether the server is one of ``grpc.aio``.
        echo: Makes the echo service.
        scripted: Makes a service that follows a script.
    """

    name: str
    is_async: bool
    echo: Callable[[], Any]
    scripted: Callable[..., Any]

    @property
    def adapter(self) -> str:
        """As telemetry names it."""
        return "grpc-aio" if self.is_async else "grpc"

    def guard(self, kit: Kit) -> Any:
        """The interceptor."""
        return AsyncGuardInterceptor(kit.guard) if self.is_async else GuardInterceptor(sync_guard(kit))

    @contextmanager
    def serving(
        self,
        kit: Kit,
        service: Any = None,
        *,
        outside: Sequence[Any] = (),
        inside: Sequence[Any] = (),
        guards: Sequence[Any] | None = None,
        register: Callable[[Any], None] = lambda server: None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> Iterator[str]:
        """A server behind the guard. Yields its address."""
        interceptors = [*outside, *([self.guard(kit)] if guards is None else guards), *inside]

        def prepare(server: Any) -> str:
            server.add_generic_rpc_handlers((handlers_of(service or self.echo()),))
            register(server)
            return f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"

        if self.is_async:
            with _in_a_loop(lambda: grpc.aio.server(ThreadPoolExecutor(8), interceptors=interceptors, options=options), prepare) as address:
                yield address
            return
        server = grpc.server(ThreadPoolExecutor(8), interceptors=interceptors, options=options)
        address = prepare(server)
        server.start()
        try:
            yield address
        finally:
            server.stop(None).wait()


@contextmanager
def _in_a_loop(make: Callable[[], Any], prepare: Callable[[Any], str]) -> Iterator[str]:
    """Serve in an event loop of its own, in a thread."""
    ready: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        try:
            server, stop = make(), asyncio.Event()
            address = prepare(server)
            await server.start()
        except BaseException as error:
            ready.set_exception(error)
            raise
        ready.set_result((address, asyncio.get_running_loop(), stop))
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    address, loop, stop = ready.result(10)
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


DOORS = (
    Door("threads", False, Echo, Scripted),
    Door("generators", True, AsyncEcho, AsyncScripted),
    Door("writing", True, WritingEcho, WritingScripted),
    Door("threads-of-aio", True, Echo, Scripted),
)


def interceptor(door: Door, change: Any) -> Any:
    """An interceptor that changes handlers."""
    if door.is_async:

        class AsyncChanging(grpc.aio.ServerInterceptor):
            async def intercept_service(self, continuation: Any, details: Any) -> Any:
                return change(await continuation(details))

        return AsyncChanging()

    class Changing(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            return change(continuation(details))

    return Changing()


def serving(kit: Kit, service: Any) -> AbstractContextManager[str]:
    """A server that runs its handlers in threads, behind the guard. Yields its address."""
    return DOORS[0].serving(kit, service)


@asynccontextmanager
async def serving_async(kit: Kit, service: Any) -> AsyncIterator[str]:
    """A server of ``grpc.aio`` behind the guard, in the event loop of the caller. Yields its address."""
    server = grpc.aio.server(interceptors=[AsyncGuardInterceptor(kit.guard)])
    server.add_generic_rpc_handlers((handlers_of(service),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


def echoing(**methods: Callable[..., Any]) -> Any:
    """An echo service, in threads, with some of its methods in another's place."""
    return _with(Echo(), methods)


def async_echoing(**methods: Callable[..., Any]) -> Any:
    """The same, awaiting."""
    return _with(AsyncEcho(), methods)


def _with(service: Any, methods: Mapping[str, Callable[..., Any]]) -> Any:
    for name, method in methods.items():
        setattr(service, name, method)
    return service


# Clients


@dataclass
class Told:
    """What a client was told.

    Attributes:
        messages: Response messages, as serialised.
        initial: Initial metadata.
        trailing: Trailing metadata.
        code: The status.
        details: What it says.
    """

    messages: list[bytes] = field(default_factory=list)
    initial: Metadata = ()
    trailing: Metadata = ()
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""

    @property
    def token(self) -> str | None:
        """The final token."""
        return _only(self.trailing, "ai-provenance")

    @property
    def pending(self) -> str | None:
        """The pending token."""
        return _only(self.initial, "ai-provenance")

    @property
    def salt(self) -> str | None:
        """The salt, wherever it came."""
        return _only(self.initial, "ai-provenance-salt") or _only(self.trailing, "ai-provenance-salt")

    def get(self, name: str) -> str | bytes | None:
        """A value of trailing metadata."""
        return dict(self.trailing).get(name)

    def verify(self, kit: Kit, *, expected: Expected | None = None, method: str | None = None) -> Verified:
        """Prove it."""
        found = {"token": self.token, "pending": self.pending, "method": method, "expected": expected}
        return verify_messages(self.messages, trust=kit.trust, now=kit.clock(), **found)  # type: ignore[arg-type]

    @property
    def error(self) -> error_details_pb2.ErrorInfo:
        """The details of a refusal."""
        return self.detail(error_details_pb2.ErrorInfo)

    def detail(self, kind: Any) -> Any:
        """One of the details, which must be there."""
        status = status_pb2.Status.FromString(self.get("grpc-status-details-bin"))
        assert (status.code, status.message) == (self.code.value[0], self.details)
        for packed in status.details:
            found = kind()
            if packed.Unpack(found):
                return found
        raise AssertionError(f"no {kind.__name__} in {status}")


def _only(metadata: Metadata, name: str) -> str | None:
    found = [value for key, value in metadata if key == name]
    assert len(found) <= 1, f"{name} occurs {len(found)} times"
    return found[0] if found else None  # type: ignore[return-value]


def _credentials(kit: Kit | None, metadata: Metadata) -> Metadata:
    return metadata if kit is None else (("authorization", f"Bearer {kit.key}"), *metadata)


def path_of(kind: str) -> str:
    """The path of a method of the echo service."""
    return kind if kind.startswith("/") else f"/{SERVICE}/{kind}"


def ask(
    address: str,
    kind: str,
    requests: Sequence[bytes] = (b"hello",),
    *,
    kit: Kit | None = None,
    metadata: Metadata = (),
    timeout: float = 20,
    **options: Any,
) -> Told:
    """Call a method with bytes, and wait for its end."""
    with grpc.insecure_channel(address, options=tuple(options.pop("options", ()))) as channel:
        return ask_on(channel, kind, requests, kit=kit, metadata=metadata, timeout=timeout, **options)


def ask_on(
    channel: grpc.Channel,
    kind: str,
    requests: Sequence[bytes] = (b"hello",),
    *,
    kit: Kit | None = None,
    metadata: Metadata = (),
    timeout: float = 20,
    **options: Any,
) -> Told:
    """As `ask`, on a channel."""
    told = Told()
    method, _, kind = kind.rpartition("#")  # of others' services the kind stands behind the path
    request_stream, response_stream = "Stream" in kind.rpartition("/")[2][:6], kind.endswith("Stream")
    multi = getattr(channel, f"{'stream' if request_stream else 'unary'}_{'stream' if response_stream else 'unary'}")(
        path_of(method or kind)
    )
    argument = iter(requests) if request_stream else requests[0]
    options |= {"metadata": _credentials(kit, metadata), "timeout": timeout}
    if response_stream:
        call = multi(argument, **options)
        with suppress(grpc.RpcError):
            told.messages.extend(call)
    else:
        try:
            message, call = multi.with_call(argument, **options)
            told.messages.append(message)
        except grpc.RpcError as error:
            call = error
    told.initial, told.trailing = _plain(call.initial_metadata()), _plain(call.trailing_metadata())
    told.code, told.details = call.code(), call.details() or ""
    return told


def _plain(metadata: Any) -> Metadata:
    return tuple((key, value) for key, value in metadata or ())
