"""Guarded gRPC servers under verified channels, each of either colour: nothing but the two packages that users install."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from grpc_kit import AsyncEcho, Echo, grpc_kit, handlers_of, path_of, sync_guard
from kit import ISSUER, Kit
from tos_guard.errors import PolicyStop, VerificationError
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Verified
from tos_guard_grpc import AsyncGuardInterceptor, ChannelChecks, GuardInterceptor, verified_async_channel, verified_channel

ARITIES = {
    "UnaryUnary": "unary_unary",
    "UnaryStream": "unary_stream",
    "StreamUnary": "stream_unary",
    "StreamStream": "stream_stream",
}
SENT = [b"hello", b"again"]
SAID = {"UnaryUnary": [b"re:hello"], "UnaryStream": [b"0:hello", b"1:hello", b"2:hello"], "StreamUnary": [b"hello+again"]}
SAID["StreamStream"] = [b"re:hello", b"re:again"]


@dataclass
class Got:
    """What a caller got, and what was proven."""

    messages: list[bytes] = field(default_factory=list)
    proven: list[Verified] = field(default_factory=list)
    error: Exception | None = None


async def ask_blocking(address: str, kind: str, kit: Kit, *, key: str) -> Got:
    def ask() -> Got:
        got = Got()
        checks = ChannelChecks(on_verified=lambda found, _: got.proven.append(found))
        with (
            Verifier(pinned=kit.trust, clock=kit.clock, client=httpx.Client(verify=False)) as verifier,
            verified_channel(grpc.insecure_channel(address), verifier, issuer=ISSUER, checks=checks) as channel,
        ):
            call = getattr(channel, ARITIES[kind])(path_of(kind))
            request: Any = iter(SENT) if kind.startswith("Stream") else SENT[0]
            try:
                answer = call(request, metadata=(("authorization", f"Bearer {key}"),), timeout=20)
                for message in answer if kind.endswith("Stream") else [answer]:
                    got.messages.append(message)
            except (grpc.RpcError, VerificationError) as error:
                got.error = error
        return got

    return await asyncio.to_thread(ask)


async def ask_awaiting(address: str, kind: str, kit: Kit, *, key: str) -> Got:
    got = Got()
    checks = ChannelChecks(on_verified=lambda found, _: got.proven.append(found))
    async with (
        AsyncVerifier(pinned=kit.trust, clock=kit.clock, client=httpx.AsyncClient(verify=False)) as verifier,
        verified_async_channel(grpc.aio.insecure_channel(address), verifier, issuer=ISSUER, checks=checks) as channel,
    ):
        call = getattr(channel, ARITIES[kind])(path_of(kind))
        request: Any = iter(SENT) if kind.startswith("Stream") else SENT[0]
        try:
            answer = call(request, metadata=(("authorization", f"Bearer {key}"),), timeout=20)
            if kind.endswith("Stream"):
                async for message in answer:
                    got.messages.append(message)
            else:
                got.messages.append(await answer)
        except (grpc.RpcError, VerificationError) as error:
            got.error = error
    return got


def changed(service: Any, methods: dict[str, Any]) -> Any:
    """A service with some of its methods in another's place."""
    for name, method in methods.items():
        setattr(service, name, method)
    return service


@asynccontextmanager
async def in_threads(kit: Kit, **methods: Any) -> AsyncIterator[str]:
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[GuardInterceptor(sync_guard(kit))])
    server.add_generic_rpc_handlers((handlers_of(changed(Echo(), methods)),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(server.stop(None).wait)


@asynccontextmanager
async def awaiting(kit: Kit, **methods: Any) -> AsyncIterator[str]:
    server = grpc.aio.server(interceptors=[AsyncGuardInterceptor(kit.guard)])
    server.add_generic_rpc_handlers((handlers_of(changed(AsyncEcho(), methods)),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


Serve = Callable[..., Any]
Ask = Callable[..., Any]
server = pytest.mark.parametrize("serve", [in_threads, awaiting], ids=["threads", "aio"])
client = pytest.mark.parametrize("ask", [ask_blocking, ask_awaiting], ids=["blocking", "awaiting"])
kind = pytest.mark.parametrize("kind", ARITIES)


@server
@client
@kind
async def test_what_a_guarded_server_says_is_proven(serve: Serve, ask: Ask, kind: str) -> None:
    kit = grpc_kit()
    async with serve(kit) as address:
        got = await ask(address, kind, kit, key=kit.key)
    assert (got.error, got.messages) == (None, SAID[kind])
    (proven,) = got.proven
    assert (proven.request_checked, proven.notes, proven.claims.nonce is not None) == (True, (), True)
    (record,) = kit.records()
    assert (record.rid, record.jti, record.carrier) == (proven.claims.rid, proven.claims.jti, "grpc")


@server
@client
@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream"])  # of a request stream grpc.aio may fail to write what nobody reads
async def test_a_refusal_reaches_the_caller_as_a_status(serve: Serve, ask: Ask, kind: str) -> None:
    kit = grpc_kit()
    async with serve(kit) as address:
        got = await ask(address, kind, kit, key="nobody")
    assert isinstance(got.error, grpc.RpcError)
    assert got.error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (got.messages, got.proven) == ([], [])


def aborting(request: bytes, context: Any) -> Iterator[bytes]:
    yield b"so far"
    context.abort(grpc.StatusCode.DATA_LOSS, "disk")


async def async_aborting(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"so far"
    await context.abort(grpc.StatusCode.DATA_LOSS, "disk")


def stopping(request: bytes, context: Any) -> Iterator[bytes]:
    yield b"so far"
    raise PolicyStop("enough", clause="no-competing-model")


async def async_stopping(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"so far"
    raise PolicyStop("enough", clause="no-competing-model")


@client
@pytest.mark.parametrize(
    ("serve", "method", "code", "note"),
    [
        (in_threads, aborting, grpc.StatusCode.DATA_LOSS, "completion: error"),
        (awaiting, async_aborting, grpc.StatusCode.DATA_LOSS, "completion: error"),
        (in_threads, stopping, grpc.StatusCode.PERMISSION_DENIED, "completion: policy"),
        (awaiting, async_stopping, grpc.StatusCode.PERMISSION_DENIED, "completion: policy"),
    ],
)
async def test_a_stream_that_breaks_off_is_proven_as_far_as_it_came(
    ask: Ask, serve: Serve, method: Any, code: grpc.StatusCode, note: str
) -> None:
    """The caller gets the status; that this is all that was said, the token with it proves."""
    kit = grpc_kit()
    async with serve(kit, unary_stream=method) as address:
        got = await ask(address, "UnaryStream", kit, key=kit.key)
    assert got.messages == [b"so far"]
    assert isinstance(got.error, grpc.RpcError)
    assert got.error.code() is code
    assert [proven.notes for proven in got.proven] == [(note,)]


def silent(request: bytes, context: Any) -> Iterator[bytes]:
    return iter(())


async def async_silent(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for nothing in ():
        yield nothing


@client
@pytest.mark.parametrize(("serve", "method"), [(in_threads, silent), (awaiting, async_silent)], ids=["threads", "aio"])
async def test_a_stream_that_says_nothing_is_proven_and_bound_to_its_request(ask: Ask, serve: Serve, method: Any) -> None:
    """Its salt comes at the end, with the token."""
    kit = grpc_kit()
    async with serve(kit, unary_stream=method) as address:
        got = await ask(address, "UnaryStream", kit, key=kit.key)
    assert (got.error, got.messages) == (None, [])
    assert [proven.request_checked for proven in got.proven] == [True]
