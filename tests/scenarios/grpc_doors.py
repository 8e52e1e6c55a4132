"""The doors over gRPC: four kinds of methods, in threads and on an event loop, each over a real connection."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from scenarios.cases import STATUSES, Case, Does, Outcome
from scenarios.http_doors import claims_are_of, record_after, wants_record
from scenarios.world import MODEL, PIECES, SECONDS, World
from tos_guard.errors import AbsentError, IncompleteError
from tos_guard.verify import verify_messages
from tos_guard_grpc import AsyncGuardInterceptor, GuardInterceptor

__all__ = ["KINDS", "AioGrpcDoor", "GrpcDoor"]

SERVICE = "scenarios.Speaker"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
ROUTES = {f"/{SERVICE}/{kind}": {"dialect": "grpc", "model": MODEL} for kind in KINDS}
ARROWS = {"unary_unary": "1→1", "unary_stream": "1→n", "stream_unary": "n→1", "stream_stream": "n→n"}
BODIES = {"normal": b"hi", "big": b"x" * 4_096, "empty": b""}


class GrpcDoor:
    """The interceptor of `grpc.server` before a method of one kind.

    Args:
        method: The kind of the method.
    """

    answers_errors = True
    flavour = "gRPC"

    def __init__(self, method: str) -> None:
        self.method = method
        self.name = f"{self.flavour} {ARROWS[method]}"
        self.streams_requests = method.startswith("stream")
        self.kind = "grpc-unary" if method.endswith("unary") else "grpc-stream"

    def run(self, case: Case) -> Outcome:
        """What comes of a case."""
        world = World(case, ROUTES)
        with self._serve(world, case.does) as target, grpc.insecure_channel(target) as channel:
            for _ in range(case.before):
                self._ask(channel, world, Case("before", case.expected), Does.ANSWER)
            before = {record.rid for record in world.kit.records()}
            case.prepare(world)
            verdict, code, token = self._ask(channel, world, case, case.does)
            record = record_after(world, before, wants=wants_record(case, self))
        return Outcome(verdict, code, token, record)

    @contextmanager
    def _serve(self, world: World, does: Does) -> Iterator[str]:
        server = grpc.server(ThreadPoolExecutor(4), interceptors=[GuardInterceptor(world.guard)])
        server.add_generic_rpc_handlers((_handlers({kind: _behavior(kind, world, does) for kind in KINDS}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait(SECONDS)

    def _ask(self, channel: Any, world: World, case: Case, does: Does) -> tuple[str, str, str]:
        body = BODIES[case.body]
        asked: Any = iter([body]) if self.method.startswith("stream") else body
        metadata = () if world.key is None else (("authorization", f"Bearer {world.key}"),)
        callable_ = getattr(channel, self.method)(f"/{SERVICE}/{self.method}", _registered_method=False)
        if self.method.endswith("unary"):
            call = callable_.future(asked, metadata=metadata, timeout=SECONDS)
            if does is Does.LINGER:
                world.begun.wait(SECONDS)
        else:
            call = callable_(asked, metadata=metadata, timeout=SECONDS)
            if does is Does.LINGER:
                next(call)
        if does is Does.LINGER:
            call.cancel()
            world.left.set()
            return "left", "", ""
        messages: list[bytes] = []
        try:
            for message in [call.result()] if self.method.endswith("unary") else call:
                messages.append(message)  # noqa: PERF402 - those before an error are kept
        except grpc.RpcError:
            pass
        return self._judged(world, call, messages)

    def _judged(self, world: World, call: Any, messages: list[bytes]) -> tuple[str, str, str]:
        initial, trailing = dict(call.initial_metadata() or ()), dict(call.trailing_metadata() or ())
        token, pending = trailing.get("ai-provenance"), initial.get("ai-provenance")
        completion = ""
        try:
            verified = verify_messages(messages, trust=world.kit.trust, now=world.kit.clock(), token=token, pending=pending)
        except (AbsentError, IncompleteError):
            pass
        else:
            completion = str(verified.claims.completion)
            claims_are_of(world, verified)
        status = call.code()
        if status is grpc.StatusCode.OK:
            return "served", "", completion
        reason = _reason(trailing)
        if reason.startswith("tos_"):
            assert status.name == STATUSES[reason][1]
            return "refused", reason, completion
        return "failed", "", completion


def _reason(trailing: dict[str, Any]) -> str:
    """The reason in the structured details of a status, or empty."""
    status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")


def _handlers(behaviors: dict[str, Any]) -> grpc.GenericRpcHandler:
    made = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(behavior) for kind, behavior in behaviors.items()}
    handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(SERVICE, made)
    return handler


def _behavior(kind: str, world: World, does: Does) -> Any:
    def begin(request: Any) -> None:
        for _ in request if kind.startswith("stream") else ():
            pass
        world.calls += 1
        if does is Does.RAISE:
            raise RuntimeError("told to")

    def unary(request: Any, context: Any) -> bytes:
        begin(request)
        world.begun.set()
        began = time.monotonic()
        while does is Does.LINGER and context.is_active() and time.monotonic() - began < SECONDS:
            world.left.wait(0.005)
        return "".join(PIECES).encode()

    def stream(request: Any, context: Any) -> Iterator[bytes]:
        begin(request)
        began = time.monotonic()
        while does is Does.LINGER and context.is_active() and time.monotonic() - began < SECONDS:
            yield PIECES[0].encode()
            world.left.wait(0.005)
        if does is Does.BREAK:
            yield PIECES[0].encode()
            raise RuntimeError("told to")
        for piece in PIECES:
            yield piece.encode()

    return unary if kind.endswith("unary") else stream


class AioGrpcDoor(GrpcDoor):
    """The interceptor of `grpc.aio.server`."""

    flavour = "gRPC aio"

    @contextmanager
    def _serve(self, world: World, does: Does) -> Iterator[str]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="grpc-aio")
        thread.start()

        async def start() -> tuple[Any, int]:
            server = grpc.aio.server(interceptors=[AsyncGuardInterceptor(world.async_guard)])
            server.add_generic_rpc_handlers((_handlers({kind: _async_behavior(kind, world, does) for kind in KINDS}),))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            return server, port

        server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(SECONDS)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(SECONDS)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(SECONDS)
            loop.close()


def _async_behavior(kind: str, world: World, does: Does) -> Any:
    async def begin(request: Any) -> None:
        if kind.startswith("stream"):
            async for _ in request:
                pass
        world.calls += 1
        if does is Does.RAISE:
            raise RuntimeError("told to")

    async def unary(request: Any, context: Any) -> bytes:
        del context
        await begin(request)
        world.begun.set()
        if does is Does.LINGER:
            await asyncio.sleep(SECONDS)
        return "".join(PIECES).encode()

    async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
        del context
        await begin(request)
        began = time.monotonic()
        while does is Does.LINGER and time.monotonic() - began < SECONDS:
            yield PIECES[0].encode()
            await asyncio.sleep(0.005)
        if does is Does.BREAK:
            yield PIECES[0].encode()
            raise RuntimeError("told to")
        for piece in PIECES:
            yield piece.encode()

    return unary if kind.endswith("unary") else stream
