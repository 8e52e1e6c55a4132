"""Verified channels under protoc's stubs, against a sealing server on loopback: blocking and asynchronous, all four kinds of method."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import grpc.experimental
import httpx
import pytest

from loopback_issuer import START, Keys
from provider_grpc.text_pb2 import Completion, Prompt
from provider_grpc.text_pb2_grpc import TextStub
from sealing_rpc import ISSUER, KINDS, SERVICE, Reply, SealingServer, serve_sealing, wire_to
from tos_guard.errors import (
    AbsentError,
    AudienceError,
    ContentMismatchError,
    IncompleteError,
    MalformedError,
    NonceError,
    SignatureError,
    UnacceptableError,
    UntrustedIssuerError,
    VerificationError,
)
from tos_guard.remote import ResponseCheck
from tos_guard.testing import FixedClock
from tos_guard.types import Completion as Ended
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Expected, Trust, Verified
from tos_guard_grpc import ChannelChecks, verified, verified_async_channel, verified_channel

PROMPT = Prompt(text="Once upon a time", max_words=3)


@pytest.fixture(scope="module")
def _sealing() -> Iterator[SealingServer]:
    with serve_sealing() as server:
        yield server


@pytest.fixture
def server(_sealing: SealingServer) -> SealingServer:
    _sealing.reset()
    return _sealing


def blocking_verifier(*keys: Keys) -> Verifier:
    """One whose client is quickly made: nothing is ever fetched."""
    return Verifier(pinned=Trust.of(*(one.key_set() for one in keys)), clock=FixedClock(START), client=httpx.Client(verify=False))


def looping_verifier(*keys: Keys) -> AsyncVerifier:
    trust = Trust.of(*(one.key_set() for one in keys))
    return AsyncVerifier(pinned=trust, clock=FixedClock(START), client=httpx.AsyncClient(verify=False))


@dataclass
class Kept:
    """What a channel reported."""

    verified: list[Verified] = field(default_factory=list)
    unverified: list[VerificationError] = field(default_factory=list)

    def checks(self, **given: Any) -> ChannelChecks:
        return ChannelChecks(
            on_verified=lambda found, _: self.verified.append(found), on_unverified=lambda error, _: self.unverified.append(error), **given
        )


@dataclass
class Got:
    """What a stub's caller got."""

    texts: list[str]
    check: ResponseCheck | None = None
    error: BaseException | None = None
    kept: Kept = field(default_factory=Kept)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def requests_for(method: str) -> Any:
    return [PROMPT, Prompt(text="and then")] if KINDS[method][0] else PROMPT


class Blocking:
    """A blocking stub."""

    async def ask(self, target: str, method: str, *, keys: Keys, **given: Any) -> Got:
        return await asyncio.to_thread(self._ask, target, method, keys, given)

    def _ask(self, target: str, method: str, keys: Keys, given: dict[str, Any]) -> Got:
        got = Got([])
        asked = {name: given.pop(name) for name in ("metadata", "timeout") if name in given}
        with (
            blocking_verifier(keys) as verifier,
            verified_channel(grpc.insecure_channel(target), verifier, issuer=ISSUER, checks=got.kept.checks(**given)) as channel,
        ):
            call = None
            try:
                request = requests_for(method)
                request = iter(request) if KINDS[method][0] else request
                if KINDS[method][1]:
                    call = getattr(TextStub(channel), method)(request, **asked)
                    for piece in call:
                        got.texts.append(piece.text)
                else:
                    response, call = getattr(TextStub(channel), method).with_call(request, **asked)
                    got.texts.append(response.text)
            except (VerificationError, grpc.RpcError) as error:
                got.error = error
            got.check = getattr(call, "tos_guard_check", None)
        return got


class Looping:
    """An asynchronous stub."""

    async def ask(self, target: str, method: str, *, keys: Keys, **given: Any) -> Got:
        got = Got([])
        asked = {name: given.pop(name) for name in ("metadata", "timeout") if name in given}
        async with (
            looping_verifier(keys) as verifier,
            verified_async_channel(grpc.aio.insecure_channel(target), verifier, issuer=ISSUER, checks=got.kept.checks(**given)) as channel,
        ):
            call = getattr(TextStub(channel), method)(requests_for(method), **asked)
            try:
                if KINDS[method][1]:
                    async for piece in call:
                        got.texts.append(piece.text)
                else:
                    got.texts.append((await call).text)
            except (VerificationError, grpc.RpcError) as error:
                got.error = error
            got.check = call.tos_guard_check
        return got


class Reading(Looping):
    """An asynchronous stub whose streams are read and written message by message."""

    async def ask(self, target: str, method: str, *, keys: Keys, **given: Any) -> Got:
        if not any(KINDS[method]):
            return await super().ask(target, method, keys=keys, **given)
        got = Got([])
        asked = {name: given.pop(name) for name in ("metadata", "timeout") if name in given}
        async with (
            looping_verifier(keys) as verifier,
            verified_async_channel(grpc.aio.insecure_channel(target), verifier, issuer=ISSUER, checks=got.kept.checks(**given)) as channel,
        ):
            streams_requests, streams_responses = KINDS[method]
            given_requests = () if streams_requests else (PROMPT,)
            call = getattr(TextStub(channel), method)(*given_requests, **asked)
            try:
                if streams_requests:
                    for request in requests_for(method):
                        await call.write(request)
                    await call.done_writing()
                if streams_responses:
                    while (piece := await call.read()) is not grpc.aio.EOF:
                        got.texts.append(piece.text)
                else:
                    got.texts.append((await call).text)
            except (VerificationError, grpc.RpcError) as error:
                got.error = error
            got.check = call.tos_guard_check
        return got


WAYS = {"blocking": Blocking(), "looping": Looping(), "reading": Reading()}
way = pytest.fixture(params=list(WAYS))(lambda request: WAYS[request.param])
method = pytest.fixture(params=list(KINDS))(lambda request: request.param)


async def test_what_was_sealed_for_this_call_is_handed_out_and_proven(server: SealingServer, way: Any, method: str) -> None:
    got = await way.ask(server.target, method, keys=server.keys)
    assert (got.error, got.text, len(got.texts)) == (None, "Hello!", 4 if KINDS[method][1] else 1)
    (proven,) = got.kept.verified
    assert proven.request_checked
    assert got.kept.unverified == []
    nonce = server.asked[0][1]["ai-provenance-nonce"]
    assert proven.claims.nonce == nonce
    if got.check is not None:
        assert got.check.verified is proven


async def test_a_stream_without_messages_is_proven_too(server: SealingServer, way: Any) -> None:
    """As often as a race in `grpc.aio` needs to show, which loses the salt where no message comes."""
    server.texts = ()
    for method in ("Stream", "Chat") * 10:
        got = await way.ask(server.target, method, keys=server.keys)
        assert (got.texts, got.error, len(got.kept.verified)) == ([], None, 1)


async def test_a_server_may_send_its_salt_at_the_end(server: SealingServer, way: Any, method: str) -> None:
    """As ours does where a call ends before its first message, or where an interceptor has sent initial metadata before it."""
    salt = "ai-provenance-salt"
    server.tamper = lambda reply: replace(reply.ending((salt, dict(reply.initial)[salt])), initial=())
    got = await way.ask(server.target, method, keys=server.keys)
    assert (got.error, [proven.request_checked for proven in got.kept.verified]) == (None, [True])
    server.tamper = lambda reply: reply.ending((salt, dict(reply.initial)[salt]))
    assert type((await way.ask(server.target, method, keys=server.keys)).error) is MalformedError


async def test_without_a_nonce_a_stream_without_messages_needs_its_salt(server: SealingServer, way: Any) -> None:
    server.texts = ()
    server.tamper = TAMPERED["the salt dropped"][0]
    assert (await way.ask(server.target, "Stream", keys=server.keys)).error is None
    assert type((await way.ask(server.target, "Stream", keys=server.keys, send_nonce=False)).error) is NonceError


def changed_byte(reply: Reply) -> Reply:
    first = bytearray(reply.messages[0])
    first[-1] ^= 1
    return replace(reply, messages=(bytes(first), *reply.messages[1:]))


def appended_unknown_field(reply: Reply) -> Reply:
    return replace(reply, messages=(*reply.messages[:-1], reply.messages[-1] + b"\x78\x01"))


OTHER = Keys(ISSUER).sealed_messages(b"another")
TAMPERED: dict[str, tuple[Callable[[Reply], Reply], type[VerificationError]]] = {
    "a byte of a message": (changed_byte, ContentMismatchError),
    "a field that the client does not know": (appended_unknown_field, ContentMismatchError),
    "the final token dropped": (lambda reply: reply.without("ai-provenance"), IncompleteError),
    "every token dropped": (lambda reply: reply.without("ai-provenance").without_initial("ai-provenance"), AbsentError),
    "the token of another response": (lambda reply: reply.ending(("ai-provenance", OTHER)), ContentMismatchError),
    "the pending token at the end": (lambda reply: reply.ending(("ai-provenance", dict(reply.initial)["ai-provenance"])), IncompleteError),
    "the final token at the start": (
        lambda reply: replace(reply, initial=(("ai-provenance", dict(reply.trailing)["ai-provenance"]),)),
        MalformedError,
    ),
    "two final tokens": (lambda reply: replace(reply, trailing=reply.trailing * 2), MalformedError),
    "two pending tokens": (lambda reply: replace(reply, initial=reply.initial * 2), MalformedError),
    "a signature": (lambda reply: reply.ending(("ai-provenance", dict(reply.trailing)["ai-provenance"][:-9] + "A" * 9)), SignatureError),
    "no token at all but words": (lambda reply: reply.ending(("ai-provenance", "words")), MalformedError),
    "the salt dropped": (lambda reply: reply.without_initial("ai-provenance-salt"), NonceError),
    "another salt": (
        lambda reply: replace(reply.without_initial("ai-provenance-salt"), initial=(("ai-provenance-salt", "A" * 43),)),
        NonceError,
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_whatever_is_changed_on_the_way_is_found(server: SealingServer, way: Any, method: str, what: str) -> None:
    server.tamper, expected = TAMPERED[what]
    got = await way.ask(server.target, method, keys=server.keys)
    assert type(got.error) is expected
    assert got.kept.verified == []
    assert [type(error) for error in got.kept.unverified] == [expected]
    if not KINDS[method][1]:
        assert got.texts == []  # a unary response is handed out only after it is proven


async def test_tokens_of_two_calls_cannot_be_swapped(server: SealingServer, way: Any, method: str) -> None:
    """Two equal calls have equal responses: only the nonce tells their tokens apart."""
    seen: list[Reply] = []

    def swap(reply: Reply) -> Reply:
        seen.append(reply)
        return seen[0]

    server.tamper = swap
    assert (await way.ask(server.target, method, keys=server.keys)).error is None
    assert type((await way.ask(server.target, method, keys=server.keys)).error) is NonceError


@pytest.mark.parametrize("method", ["Stream", "Chat"])
@pytest.mark.parametrize(
    ("code", "dropped", "error", "reported"),
    [
        (grpc.StatusCode.OK, False, ContentMismatchError, ContentMismatchError),
        (grpc.StatusCode.OK, True, IncompleteError, IncompleteError),
        (grpc.StatusCode.UNAVAILABLE, True, grpc.RpcError, IncompleteError),
    ],
)
async def test_a_stream_cut_after_any_message_is_never_verified(
    server: SealingServer, way: Any, method: str, code: grpc.StatusCode, dropped: bool, error: type[Exception], reported: type[Exception]
) -> None:
    length = 0

    def cut(reply: Reply) -> Reply:
        shorter = replace(reply, messages=reply.messages[:length], code=code)
        return shorter.without("ai-provenance") if dropped else shorter

    server.tamper = cut
    for length in range(len(server.texts)):
        got = await way.ask(server.target, method, keys=server.keys)
        assert (len(got.texts), got.kept.verified) == (length, [])
        if length:
            assert isinstance(got.error, error)
            assert [type(one) for one in got.kept.unverified] == [reported]
        else:  # grpc.aio may lose initial metadata, and the pending token with them, where no message comes
            assert isinstance(got.error, (error, AbsentError) if dropped else error)


async def test_a_failed_call_reaches_the_caller_as_it_would_without_us(server: SealingServer, way: Any, method: str) -> None:
    server.tamper = lambda reply: Reply((), (), (("why", "because"),), grpc.StatusCode.PERMISSION_DENIED)
    got = await way.ask(server.target, method, keys=server.keys)
    assert isinstance(got.error, grpc.RpcError)
    assert (got.error.code(), got.error.details()) == (grpc.StatusCode.PERMISSION_DENIED, "told to fail")
    assert dict(got.error.trailing_metadata())["why"] == "because"
    assert (got.kept.verified, got.kept.unverified) == ([], [])


async def test_a_failed_call_with_a_token_is_judged_by_it(server: SealingServer, way: Any) -> None:
    def fail(reply: Reply, content: tuple[bytes, ...] | None = None) -> Reply:
        nonce = server.asked[-1][1]["ai-provenance-nonce"]
        token = server.keys.sealed_messages(*(reply.messages if content is None else content), nonce=nonce, completion=Ended.ERROR)
        return replace(Reply((), reply.messages, (("ai-provenance", token),)), code=grpc.StatusCode.INTERNAL)

    server.tamper = fail
    got = await way.ask(server.target, "Stream", keys=server.keys)
    assert isinstance(got.error, grpc.RpcError)
    assert [proven.notes for proven in got.kept.verified] == [("completion: error",)]
    server.tamper = lambda reply: fail(reply, (b"another",))
    got = await way.ask(server.target, "Stream", keys=server.keys)
    assert type(got.error) is ContentMismatchError


@pytest.mark.parametrize("at", ["in a message", "in the trailers"])
async def test_a_connection_lost_on_the_way_is_the_rpc_s_own_error(server: SealingServer, way: Any, at: str) -> None:
    with wire_to(server.target) as wire:
        assert (await way.ask(wire.target, "Stream", keys=server.keys)).error is None
    with wire_to(server.target) as cut:  # another address: connections are shared below channels
        cut.cuts.append(wire.passed - (200 if at == "in the trailers" else 1_100))
        got = await way.ask(cut.target, "Stream", keys=server.keys)
    assert isinstance(got.error, grpc.RpcError)
    assert got.kept.verified == []


def test_a_connection_cut_at_any_byte_is_verified_only_where_the_whole_stream_came(server: SealingServer) -> None:
    """Each byte that a server sends for one stream, once."""
    with wire_to(server.target) as wire, blocking_verifier(server.keys) as verifier:

        def ask(_: int) -> tuple[int, str]:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]  # each call has a connection of its own
            texts: list[str] = []
            call = None
            with verified_channel(grpc.insecure_channel(wire.target, options=options), verifier, issuer=ISSUER) as channel:
                try:
                    call = TextStub(channel).Stream(PROMPT, timeout=30)
                    texts += [piece.text for piece in call]
                    return len(texts), "proven" if verified(call) else ""
                except VerificationError as error:
                    return len(texts), type(error).__name__
                except grpc.RpcError:
                    with pytest.raises((IncompleteError, AbsentError)):
                        verified(call)
                    return len(texts), "failed"

        assert ask(0) == (4, "proven")
        total = wire.passed
        wire.cuts.extend(range(total))
        with ThreadPoolExecutor(8) as pool:
            found = Counter(pool.map(ask, range(total)))
    assert found.total() == total > 2_000
    assert {how for _, how in found} == {"failed", "proven"}
    assert found[4, "proven"] < 40  # what a server says after the status: windows and pings
    assert {count for count, how in found if how == "proven"} == {4}


async def test_responses_without_a_token_pass_where_the_policy_says_so(server: SealingServer, way: Any, method: str) -> None:
    server.tamper = TAMPERED["every token dropped"][0]
    got = await way.ask(server.target, method, keys=server.keys, on_missing="report")
    assert (got.error, got.text) == (None, "Hello!")
    assert [type(error) for error in got.kept.unverified] == [AbsentError]
    server.tamper = changed_byte
    got = await way.ask(server.target, method, keys=server.keys, on_missing="report")
    assert type(got.error) is ContentMismatchError


async def test_exempt_methods_pass_as_they_are(server: SealingServer, way: Any, method: str) -> None:
    server.tamper = TAMPERED["every token dropped"][0]
    for name in (f"{SERVICE}/{method}", f"{SERVICE}/*"):
        got = await Blocking().ask(server.target, method, keys=server.keys, exempt_methods=[name])
        assert (got.error, got.text, got.check) == (None, "Hello!", None)
        assert "ai-provenance-nonce" not in server.asked[-1][1]


async def test_without_the_salt_a_nonce_can_be_enough(server: SealingServer, way: Any, method: str) -> None:
    server.tamper = TAMPERED["the salt dropped"][0]
    got = await way.ask(server.target, method, keys=server.keys, require_request=False)
    assert (got.error, [proven.request_checked for proven in got.kept.verified]) == (None, [False])


async def test_the_caller_s_metadata_and_nonce_are_kept(server: SealingServer, way: Any, method: str) -> None:
    got = await way.ask(server.target, method, keys=server.keys, metadata=(("ai-provenance-nonce", "mine"), ("own", "x")), send_nonce=False)
    sent = server.asked[-1][1]
    assert (sent["ai-provenance-nonce"], sent["own"], got.error) == ("mine", "x", None)
    swapped = server.keys.sealed_messages
    server.tamper = lambda reply: replace(reply, initial=()).ending(("ai-provenance", swapped(*reply.messages, nonce="another")))
    got = await way.ask(server.target, method, keys=server.keys, metadata=(("ai-provenance-nonce", "mine"),), require_request=False)
    assert type(got.error) is NonceError
    server.tamper = lambda reply: reply
    got = await way.ask(server.target, method, keys=server.keys, send_nonce=False)
    assert (got.error, "ai-provenance-nonce" in server.asked[-1][1]) == (None, False)


def test_another_issuer_than_the_channel_s_is_refused_though_it_is_trusted(server: SealingServer) -> None:
    other = Keys("https://other.example")
    server.tamper = lambda reply: replace(reply.ending(("ai-provenance", other.sealed_messages(*reply.messages))), initial=())
    checks = ChannelChecks(require_request=False, send_nonce=False)
    with (
        blocking_verifier(server.keys, other) as verifier,
        verified_channel(grpc.insecure_channel(server.target), verifier, issuer=ISSUER, checks=checks) as channel,
        pytest.raises(UnacceptableError, match=r"other\.example"),
    ):
        TextStub(channel).Complete(PROMPT)


async def test_an_issuer_that_is_not_trusted_is_refused(server: SealingServer, way: Any, method: str) -> None:
    other = Keys("https://other.example")
    server.tamper = lambda reply: reply.ending(("ai-provenance", other.sealed_messages(*reply.messages)))
    assert type((await way.ask(server.target, method, keys=server.keys)).error) is UntrustedIssuerError


async def test_further_demands_are_checked(server: SealingServer, way: Any, method: str) -> None:
    got = await way.ask(server.target, method, keys=server.keys, expected=Expected(audience="us"))
    assert type(got.error) is AudienceError


@pytest.fixture
def channel(server: SealingServer) -> Iterator[Any]:
    with (
        blocking_verifier(server.keys) as verifier,
        verified_channel(grpc.insecure_channel(server.target), verifier, issuer=ISSUER) as found,
    ):
        yield found


@pytest.fixture
async def aio_channel(server: SealingServer) -> AsyncIterator[Any]:
    async with (
        looping_verifier(server.keys) as verifier,
        verified_async_channel(grpc.aio.insecure_channel(server.target), verifier, issuer=ISSUER) as found,
    ):
        yield found


def test_a_call_knows_what_was_proven_of_it(channel: Any) -> None:
    stub = TextStub(channel)
    response, call = stub.Complete.with_call(PROMPT)
    assert (response.text, call.code(), call.is_active()) == ("Hello!", grpc.StatusCode.OK, False)
    assert verified(call).claims.rid == "r"
    assert dict(call.initial_metadata())["x-request-id"] == "r"
    assert dict(call.trailing_metadata())["own"] == "kept"
    assert stub.Complete(PROMPT) == response
    assert isinstance(call, grpc.Call)
    assert isinstance(call, grpc.Future)


def test_a_stream_is_not_proven_before_its_end(channel: Any) -> None:
    call = TextStub(channel).Stream(PROMPT)
    next(call)
    with pytest.raises(IncompleteError, match="not been judged"):
        verified(call)
    assert [piece.text for piece in call] == ["lo", "", "!"]
    assert verified(call).claims.rid == "r"
    with pytest.raises(StopIteration):
        next(call)


def test_what_is_no_call_of_a_verified_channel_has_no_verdict() -> None:
    with pytest.raises(TypeError, match="no call"):
        verified(object())


def test_a_stream_that_failed_its_check_never_ends_as_if_it_had_passed(server: SealingServer, channel: Any) -> None:
    server.tamper = changed_byte
    call = TextStub(channel).Stream(PROMPT)
    for _ in range(3):
        with pytest.raises(ContentMismatchError):
            list(call)
    with pytest.raises(ContentMismatchError):
        verified(call)
    assert isinstance(call.exception(), ContentMismatchError)
    with pytest.raises(ContentMismatchError):
        call.result()


async def test_an_asynchronous_stream_that_failed_never_ends_as_if_it_had_passed(server: SealingServer, aio_channel: Any) -> None:
    server.tamper = changed_byte
    iterated, read = TextStub(aio_channel).Stream(PROMPT), TextStub(aio_channel).Stream(PROMPT)
    for _ in range(3):
        with pytest.raises(ContentMismatchError):
            _ = [piece async for piece in iterated]
        with pytest.raises(ContentMismatchError):
            while await read.read() is not grpc.aio.EOF:
                pass


@pytest.mark.parametrize("method", ["Complete", "Collect"])
def test_a_future_gives_its_response_when_it_is_proven(server: SealingServer, channel: Any, method: str) -> None:
    request = requests_for(method)
    ask = getattr(TextStub(channel), method)
    given = (iter(request) if KINDS[method][0] else request,)
    done: list[Any] = []
    called = threading.Event()
    call = ask.future(*given)
    call.add_done_callback(lambda found: (done.append(found), called.set()))
    assert call.result(10).text == "Hello!"
    assert called.wait(10)
    assert done == [call]
    assert (call.exception(), call.traceback(), call.done(), call.running(), call.cancelled()) == (None, None, True, False, False)
    assert verified(call).request_checked

    server.tamper = changed_byte
    given = (iter(request) if KINDS[method][0] else request,)
    call = ask.future(*given)
    for _ in range(2):
        with pytest.raises(ContentMismatchError):
            call.result(10)
    assert isinstance(call.exception(), ContentMismatchError)
    assert call.traceback() is not None
    assert call.code() is grpc.StatusCode.OK  # the status is the call's own


def test_a_future_that_failed_or_was_left_is_as_without_us(server: SealingServer, channel: Any) -> None:
    server.tamper = lambda reply: Reply((), (), (), grpc.StatusCode.NOT_FOUND)
    call = TextStub(channel).Complete.future(PROMPT)
    assert isinstance(call.exception(10), grpc.RpcError)
    with pytest.raises(AbsentError, match="NOT_FOUND without a token"):
        verified(call)
    with pytest.raises(grpc.RpcError):
        call.result(10)

    server.tamper = lambda reply: replace(reply, blocks=True)
    call = TextStub(channel).Complete.future(PROMPT)
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(0.01)
    assert call.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        call.result(10)
    assert server.left.wait(10)


async def test_a_deadline_is_the_rpc_s_own_error_and_leaves_what_was_read_unproven(server: SealingServer, way: Any) -> None:
    server.tamper = lambda reply: replace(reply, blocks=True)
    got = await way.ask(server.target, "Stream", keys=server.keys, timeout=0.5)
    server.left.set()
    assert isinstance(got.error, grpc.RpcError)
    assert got.error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert got.text == "Hello!"
    assert [type(error) for error in got.kept.unverified] == [IncompleteError]
    assert got.check is not None
    assert "DEADLINE_EXCEEDED" in str(got.check.error)


def test_a_stream_that_is_cancelled_is_reported_and_reaches_the_server(server: SealingServer) -> None:
    kept = Kept()
    server.tamper = lambda reply: replace(reply, blocks=True)
    with verified_channel(
        grpc.insecure_channel(server.target), Trust.of(server.keys.key_set()), issuer=ISSUER, checks=kept.checks()
    ) as channel:
        call = TextStub(channel).Stream(PROMPT)
        assert next(call).text == "Hel"
        assert call.cancel()
        with pytest.raises(grpc.RpcError) as failed:
            list(call)
        assert failed.value.code() is grpc.StatusCode.CANCELLED
        assert server.left.wait(10)
    assert [type(error) for error in kept.unverified] == [IncompleteError]


async def test_an_asynchronous_call_that_is_cancelled_reaches_the_server(server: SealingServer, aio_channel: Any) -> None:
    server.tamper = lambda reply: replace(reply, blocks=True)
    call = TextStub(aio_channel).Stream(PROMPT)
    assert (await call.read()).text == "Hel"
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    with pytest.raises(IncompleteError):
        verified(call)
    assert await asyncio.to_thread(server.left.wait, 10)
    assert (call.cancelled(), call.done()) == (True, True)

    server.called, server.left = threading.Event(), threading.Event()
    unary = TextStub(aio_channel).Complete(PROMPT)
    task = asyncio.ensure_future(unary)
    assert await asyncio.to_thread(server.called.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.left.wait, 10)


async def test_an_asynchronous_call_can_be_awaited_twice_and_knows_what_was_proven(aio_channel: Any) -> None:
    done = asyncio.Event()
    call = TextStub(aio_channel).Complete(PROMPT)
    call.add_done_callback(lambda found: done.set() if found is call else None)
    await call.wait_for_connection()
    first, second = await asyncio.gather(call, call)
    assert first == second
    await asyncio.wait_for(done.wait(), 10)
    assert verified(call).request_checked
    assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
    assert dict(await call.initial_metadata())["x-request-id"] == "r"
    assert dict(await call.trailing_metadata())["own"] == "kept"
    assert isinstance(call, grpc.aio.UnaryUnaryCall)
    assert call.time_remaining() is None


def test_streams_without_a_thread_of_their_own_are_verified_too(server: SealingServer) -> None:
    options = [(grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]
    trust = Trust.of(server.keys.key_set())
    with verified_channel(grpc.insecure_channel(server.target, options=options), trust, issuer=ISSUER) as channel:
        call = TextStub(channel).Stream(PROMPT)
        assert type(call._inner).__name__ == "_SingleThreadedRendezvous"
        assert "".join(piece.text for piece in call) == "Hello!"
        assert verified(call).request_checked
        server.tamper = changed_byte
        with pytest.raises(ContentMismatchError):
            list(TextStub(channel).Stream(PROMPT))


class Seeing(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        self.seen += [request, call.result()]
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        for message in call:
            self.seen.append(message)
            yield message


def test_interceptors_on_either_side_see_messages(server: SealingServer) -> None:
    trust = Trust.of(server.keys.key_set())
    below, above = Seeing(), Seeing()
    inner = grpc.intercept_channel(grpc.insecure_channel(server.target), below)
    with verified_channel(inner, trust, issuer=ISSUER) as channel:
        stub = TextStub(grpc.intercept_channel(channel, above))
        response = stub.Complete(PROMPT)
        assert below.seen == above.seen == [PROMPT, response]
        server.tamper = changed_byte
        with pytest.raises(ContentMismatchError):
            stub.Complete(PROMPT)
        assert len(above.seen) == 2


class Again(grpc.UnaryUnaryClientInterceptor):
    """Asks again where the first answer was a failure."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        return continuation(details, request) if call.code() is not grpc.StatusCode.OK else call


def test_an_interceptor_below_may_try_again(server: SealingServer) -> None:
    replies = iter([lambda reply: replace(reply, code=grpc.StatusCode.UNAVAILABLE), lambda reply: reply])
    server.tamper = lambda reply: next(replies)(reply)
    inner = grpc.intercept_channel(grpc.insecure_channel(server.target), Again())
    with verified_channel(inner, Trust.of(server.keys.key_set()), issuer=ISSUER) as channel:
        assert TextStub(channel).Complete(PROMPT).text == "Hello!"
    assert len(server.asked) == 2


class AioSeeing(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        self.seen += [request, await call]
        return call


async def test_asynchronous_interceptors_see_messages(server: SealingServer) -> None:
    below = AioSeeing()
    inner = grpc.aio.insecure_channel(server.target, interceptors=[below])
    async with verified_async_channel(inner, Trust.of(server.keys.key_set()), issuer=ISSUER) as channel:
        response = await TextStub(channel).Complete(PROMPT)
        assert below.seen == [PROMPT, response]
        server.tamper = changed_byte
        with pytest.raises(ContentMismatchError):
            await TextStub(channel).Complete(PROMPT)


def test_methods_without_parsers_give_bytes(server: SealingServer, channel: Any) -> None:
    ask = channel.unary_unary(f"{SERVICE}/Complete")
    assert Completion.FromString(ask(PROMPT.SerializeToString())).text == "Hello!"


def test_bytes_that_no_message_has_are_found_too_and_sealed_ones_the_rpc_s_own_error(server: SealingServer, channel: Any) -> None:
    nothing = (b"\xff" * 9,)
    server.tamper = lambda reply: replace(reply, messages=nothing)
    with pytest.raises(ContentMismatchError):
        TextStub(channel).Complete(PROMPT)

    def seal(reply: Reply) -> Reply:
        bound = {"request": PROMPT.SerializeToString(), "nonce": server.asked[-1][1]["ai-provenance-nonce"]}
        return replace(reply, messages=nothing).ending(("ai-provenance", server.keys.sealed_messages(*nothing, **bound)))

    server.tamper = seal
    with pytest.raises(grpc.RpcError) as failed:
        TextStub(channel).Complete(PROMPT)
    assert failed.value.code() is grpc.StatusCode.INTERNAL


def test_many_threads_share_a_channel(server: SealingServer, channel: Any) -> None:
    stub = TextStub(channel)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                assert stub.Complete(PROMPT).text == "Hello!"
                assert len(list(stub.Stream(PROMPT))) == 4
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_channel_is_made_for_an_issuer_that_is_trusted_and_of_its_own_colour(server: SealingServer) -> None:
    trust = Trust.of(server.keys.key_set())
    with grpc.insecure_channel(server.target) as plain, pytest.raises(ValueError, match="no issuer that the verifier trusts"):
        verified_channel(plain, trust, issuer="https://other.example")
    with grpc.insecure_channel(server.target) as plain, pytest.raises(TypeError, match="verified_channel"):
        verified_async_channel(plain, trust, issuer=ISSUER)


async def test_an_asynchronous_channel_is_refused_by_the_blocking_wrapper(server: SealingServer) -> None:
    async with grpc.aio.insecure_channel(server.target) as plain:
        with pytest.raises(TypeError, match="verified_async_channel"):
            verified_channel(plain, Trust.of(server.keys.key_set()), issuer=ISSUER)


@pytest.mark.parametrize("given", [{"on_missing": "pass"}, {"exempt_methods": "/a/b"}, {"exempt_methods": ["a/b"]}])
def test_checks_that_would_check_nothing_are_refused(given: Any) -> None:
    with pytest.raises(ValueError):
        ChannelChecks(**given)


def test_a_channel_tells_its_connectivity(channel: Any) -> None:
    grpc.channel_ready_future(channel).result(10)
    with pytest.raises(TypeError, match="timeout"):
        TextStub(channel).Complete(PROMPT, 1, None, None, None, None, None)


async def test_an_asynchronous_channel_tells_its_connectivity(aio_channel: Any) -> None:
    await asyncio.wait_for(aio_channel.channel_ready(), 10)
    assert aio_channel.get_state() is grpc.ChannelConnectivity.READY
