"""The guard at gRPC servers, in threads and in event loops, in each style of servicers: verdict, token, record, whatever a call does."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from grpc_kit import DOORS, KINDS, Do, Door, Guarded, Say, ask, grpc_kit, interceptor, path_of, sync_guard
from kit import TERMS, Kit
from tos_guard.errors import DeniedError, IncompleteError, PolicyStop, StoreError
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.telemetry import Telemetry
from tos_guard.types import Standing
from tos_guard.verify import Expected
from tos_guard_grpc import current_admission
from tos_guard_grpc._status import refusal_of

ACCOUNT = (Dimension.ACCOUNT,)
REQUESTS = Limit(id="requests", quantity=Quantity.REQUESTS, amount=5, per=ACCOUNT, window=Sliding(3_600))
TOKENS = Limit(id="input", quantity=Quantity.INPUT_TOKENS, amount=1_000, per=ACCOUNT, window=Sliding(3_600))
SLOTS = Limit(id="slots", quantity=Quantity.CONCURRENCY, amount=2, per=ACCOUNT, window=None)


@pytest.fixture(params=DOORS, ids=lambda door: door.name)
def door(request: pytest.FixtureRequest) -> Door:
    """Each way to serve."""
    return request.param  # type: ignore[no-any-return]


# What is sealed


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_method_is_sealed_and_recorded(door: Door, kind: str) -> None:
    """The final token proves the messages, the pending one is of the same exchange, and one record says so."""
    kit = grpc_kit()
    with door.serving(kit) as address:
        told = ask(address, kind, kit=kit)
    assert told.code is grpc.StatusCode.OK, told
    assert told.messages
    verified = told.verify(kit)
    assert verified.claims.completion == "complete"
    assert told.pending is not None
    (record,) = kit.records()
    assert (record.carrier, record.completion, record.status, record.decision) == ("grpc", "complete", 200, "allow")


def test_the_request_is_bound_and_so_is_the_nonce(door: Door) -> None:
    """`req` is over the serialised request, under the salt that initial metadata carries; the nonce is the caller's."""
    kit = grpc_kit()
    with door.serving(kit) as address:
        told = ask(address, "UnaryUnary", [b"prompt"], kit=kit, metadata=(("ai-provenance-nonce", "n-1"),))
        streamed = ask(address, "StreamUnary", [b"a", b"b"], kit=kit)
    told.verify(kit, expected=Expected(request=b"prompt", salt=told.salt, nonce="n-1"))
    streamed.verify(kit, expected=Expected(request=b"", salt=streamed.salt))


def test_messages_may_be_empty_or_large(door: Door) -> None:
    """An empty message is content; megabytes are, too."""
    kit = grpc_kit()
    large = bytes(3_000_000)
    with door.serving(kit, door.scripted(Say(b""), Say(large), Say(b""))) as address:
        told = ask(address, "UnaryStream", [b""], kit=kit)
        empty = ask(address, "UnaryUnary", [b""], kit=kit)
    assert told.messages == [b"", large, b""]
    told.verify(kit)
    assert len(empty.messages[0]) == len(large)
    empty.verify(kit)


def test_a_stream_without_messages_is_sealed_in_trailing_metadata_alone(door: Door) -> None:
    """There is no content, and the token says so; salt and request id come with it."""
    kit = grpc_kit()
    with door.serving(kit, door.scripted()) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert told.code is grpc.StatusCode.OK
    assert (told.messages, told.pending) == ([], None)
    told.verify(kit, expected=Expected(request=b"hello", salt=told.salt))


def test_compression_is_outside_of_what_is_sealed(door: Door) -> None:
    """gRPC compresses after serialising: what a client reads is what was sealed."""
    kit = grpc_kit()
    compress = Do(lambda context: context.set_compression(grpc.Compression.Gzip))
    with door.serving(kit, door.scripted(compress, Say(b"a" * 10_000))) as address:
        told = ask(address, "UnaryStream", [b"b" * 10_000], kit=kit, compression=grpc.Compression.Deflate)
    assert told.messages == [b"a" * 10_000]
    told.verify(kit, expected=Expected(request=b"b" * 10_000, salt=told.salt))


def test_metadata_of_ours_leaves_five_kilobytes_for_the_hosts(door: Door) -> None:
    """At most 2,300 bytes are added to initial and to trailing metadata, each of which gRPC takes 8 KiB."""
    kit = grpc_kit(limits=(REQUESTS, TOKENS, SLOTS))
    own = (("x-own", "o" * 5_000),)
    script = (Do(lambda context: context.send_initial_metadata(own)), Say(), Do(lambda context: context.set_trailing_metadata(own)))
    with door.serving(kit, door.scripted(*script)) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert told.code is grpc.StatusCode.OK, told.details
    for metadata in (told.initial, told.trailing):
        assert ("x-own", "o" * 5_000) in metadata
        added = sum(
            len(name) + len(value) + 4 for name, value in metadata if name != "x-own" and not name.startswith(("grpc-", "user-agent"))
        )
        assert 0 < added <= 2_300
    told.verify(kit)


def test_a_message_is_serialised_once_and_the_request_read_once(door: Door) -> None:
    """What is digested is what leaves."""
    kit = grpc_kit()
    counts: Counter[str] = Counter()

    class Counting:
        def __init__(self, handler: Any) -> None:
            self.handler = handler

        def __getattr__(self, name: str) -> Any:
            return getattr(self.handler, name)

        @staticmethod
        def request_deserializer(data: bytes) -> bytes:
            counts["read"] += 1
            return data

        @staticmethod
        def response_serializer(message: bytes) -> bytes:
            counts["written"] += 1
            return message + b"!"

    with door.serving(kit, inside=[interceptor(door, Counting)]) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert told.messages == [b"0:hello!", b"1:hello!", b"2:hello!"]
    assert counts == {"read": 1, "written": 3}
    told.verify(kit)


# Who is served


def refused(told: Any, kit: Kit, code: grpc.StatusCode, reason: str) -> None:
    """A call ended with a status, details that agree with it, and no token."""
    assert (told.code, told.messages, told.token) == (code, [], None), told
    assert (told.error.reason, told.error.domain) == (reason, kit.guard.settings.issuer)
    assert told.error.metadata["terms_url"].startswith("https://")
    assert told.error.metadata["request_id"] == told.get("x-request-id")
    assert any(link.url == told.error.metadata["terms_url"] for link in told.detail(error_details_pb2.Help).links)


@pytest.mark.parametrize("kind", KINDS)
def test_no_credential_and_a_wrong_one_are_told_the_same(door: Door, kind: str) -> None:
    """UNAUTHENTICATED, before the servicer runs."""
    kit = grpc_kit()
    with door.serving(kit, unreachable(door)) as address:
        none = ask(address, kind)
        wrong = ask(address, kind, metadata=(("authorization", f"Bearer {kit.key[:-4]}AAAA"),))
    for told in (none, wrong):
        refused(told, kit, grpc.StatusCode.UNAUTHENTICATED, "tos_unauthenticated")
        assert told.get("grpc-retry-pushback-ms") == "-1"
    assert none.details == wrong.details


def unreachable(door: Door) -> Any:
    """A service that nobody may reach."""
    service = door.echo()
    for name in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        method = getattr(service, name)
        setattr(service, name, _failing(method))
    return service


def _failing(method: Any) -> Any:
    if inspect.isasyncgenfunction(method):

        async def generated(request: Any, context: Any) -> Any:
            pytest.fail("reached")
            yield b""

        return generated
    if inspect.iscoroutinefunction(method):

        async def awaited(request: Any, context: Any) -> Any:
            pytest.fail("reached")

        return awaited

    def called(request: Any, context: Any) -> Any:
        pytest.fail("reached")

    return called


def test_a_suspended_account_is_denied_with_where_to_appeal(door: Door) -> None:
    """PERMISSION_DENIED; the record is a denial."""
    kit = grpc_kit()
    kit.store.set_standing("acme", Standing.SUSPENDED, "test")
    with door.serving(kit, unreachable(door)) as address:
        told = ask(address, "UnaryStream", kit=kit)
    refused(told, kit, grpc.StatusCode.PERMISSION_DENIED, "tos_account_suspended")
    assert told.error.metadata["appeal_url"] == "https://api.example.com/appeal"
    assert {link.url for link in told.detail(error_details_pb2.Help).links} >= {"https://api.example.com/appeal"}
    assert told.get("grpc-retry-pushback-ms") == "-1"
    (record,) = kit.records()
    assert (record.type, record.status) == ("denial", 403)


def test_a_limit_says_when_there_is_room_again(door: Door) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo; clients that retry by themselves are held back where it takes longer than they wait."""
    kit = grpc_kit(limits=(REQUESTS,))
    with door.serving(kit) as address:
        told = [ask(address, "UnaryUnary", kit=kit) for _ in range(6)]
    assert [one.code for one in told[:5]] == [grpc.StatusCode.OK] * 5
    refused(told[5], kit, grpc.StatusCode.RESOURCE_EXHAUSTED, "tos_limit")
    assert told[5].error.metadata["limit"] == "requests"
    assert 3_600 <= told[5].detail(error_details_pb2.RetryInfo).retry_delay.seconds <= 4_000
    assert told[5].get("grpc-retry-pushback-ms") == "-1"


def test_a_limit_with_room_again_soon_says_after_how_many_milliseconds(door: Door) -> None:
    """Within a minute a client may retry by itself."""
    kit = grpc_kit(limits=(Limit(id="requests", quantity=Quantity.REQUESTS, amount=1, per=ACCOUNT, window=Sliding(30)),))
    with door.serving(kit) as address:
        told = [ask(address, "UnaryUnary", kit=kit) for _ in range(2)]
    assert 0 < int(told[1].get("grpc-retry-pushback-ms") or 0) <= 60_000


def test_terms_to_be_accepted_are_a_failed_precondition(door: Door, tmp_path: Any) -> None:
    """FAILED_PRECONDITION, with what to accept."""
    document = TERMS.read_text().replace('text = "', 'acceptance = "required"\ntext = "', 1)
    (tmp_path / "terms.toml").write_text(document)
    (tmp_path / "minimal.md").write_text((TERMS.parent / "minimal.md").read_text())
    kit = grpc_kit(terms=tmp_path / "terms.toml")
    with door.serving(kit, unreachable(door)) as address:
        told = ask(address, "UnaryUnary", kit=kit)
    refused(told, kit, grpc.StatusCode.FAILED_PRECONDITION, "tos_terms_not_accepted")
    assert '"version": "1"' in told.error.metadata["accept"]


def test_what_is_neither_guarded_nor_exempt_is_unimplemented(door: Door) -> None:
    """Nothing slips past because nobody thought of it; a method that does not exist is gRPC's to say."""
    kit = grpc_kit()
    with door.serving(kit, unreachable(door)) as address:
        told = ask(address, path_of("Unguarded"), kit=kit)
        missing = ask(address, "/echo.Echo/Missing", kit=kit)
    refused(told, kit, grpc.StatusCode.UNIMPLEMENTED, "tos_route_not_guarded")
    assert missing.code is grpc.StatusCode.UNIMPLEMENTED
    assert missing.get("grpc-status-details-bin") is None


def test_metadata_that_cannot_be_read_is_an_invalid_argument(door: Door) -> None:
    """A purpose that is no word; a purpose given twice."""
    kit = grpc_kit()
    with door.serving(kit, unreachable(door)) as address:
        for metadata in ((("ai-usage-purpose", "No Word!"),), (("ai-usage-purpose", "a"), ("ai-usage-purpose", "b"))):
            refused(ask(address, "UnaryUnary", kit=kit, metadata=metadata), kit, grpc.StatusCode.INVALID_ARGUMENT, "tos_malformed_request")


def test_a_request_message_larger_than_the_settings_allow_is_refused(door: Door) -> None:
    """Of a stream, too."""
    kit = grpc_kit(settings={"max_request_bytes": 1_024})
    with door.serving(kit) as address:
        told = ask(address, "UnaryUnary", [bytes(1_025)], kit=kit)
        streamed = ask(address, "StreamStream", [b"small", bytes(1_025)], kit=kit)
    refused(told, kit, grpc.StatusCode.RESOURCE_EXHAUSTED, "tos_request_too_large")
    assert (streamed.code, streamed.messages) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [b"re:small"])
    assert streamed.verify(kit).claims.completion == "error"


def test_health_and_reflection_answer_without_a_credential_where_they_are_exempt(door: Door) -> None:
    """By name, with a star for the rest of a service."""
    kit = grpc_kit()

    def register(server: Any) -> None:
        service = health.aio.HealthServicer() if door.is_async else health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(service, server)

    with door.serving(kit, register=register) as address, grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    assert kit.records() == []


# How calls end


def test_trailing_metadata_of_the_servicer_is_kept_and_none_of_ours_is_taken_from_it(door: Door) -> None:
    """Merged in any order of events; a token that the servicer made up does not leave."""
    kit = grpc_kit()
    own = (("x-own", "1"), ("x-own-bin", b"\x00\xff"), ("ai-provenance", "forged"))
    script = (Do(lambda context: context.set_trailing_metadata(own)), Say())
    with door.serving(kit, door.scripted(*script)) as address:
        for kind in ("UnaryUnary", "UnaryStream"):
            told = ask(address, kind, kit=kit)
            assert {("x-own", "1"), ("x-own-bin", b"\x00\xff")} <= set(told.trailing)
            told.verify(kit)


def test_initial_metadata_of_the_servicer_leaves_when_it_says_so_with_ours(door: Door) -> None:
    """Once: a second time is refused as ever."""
    kit = grpc_kit()
    errors: list[str] = []

    def twice(context: Any) -> Any:
        async def again() -> None:
            try:
                await context.send_initial_metadata((("x-again", "1"),))
            except Exception as error:
                errors.append(type(error).__name__)

        if door.is_async and door.name != "threads-of-aio":
            return again()
        try:
            context.send_initial_metadata((("x-again", "1"),))
        except Exception as error:
            errors.append(type(error).__name__)
        return None

    script = (Do(lambda context: context.send_initial_metadata((("x-own", "1"), ("ai-provenance", "forged")))), Do(twice), Say())
    with door.serving(kit, door.scripted(*script)) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert ("x-own", "1") in told.initial
    assert len(errors) == 1
    told.verify(kit)
    assert told.pending is not None


@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream"])
@pytest.mark.parametrize("before", [(), (Say(b"first"),)], ids=["at once", "after a message"])
def test_a_servicer_that_raises_ends_with_a_token_that_says_error(door: Door, kind: str, before: tuple[Any, ...]) -> None:
    """UNKNOWN, as gRPC makes of it, and the token over what had left."""
    kit = grpc_kit(limits=(SLOTS,))
    with door.serving(kit, door.scripted(*before, Do(_raises(ValueError("broken"))))) as address:
        told = ask(address, kind, kit=kit)
    assert told.code is grpc.StatusCode.UNKNOWN
    assert told.messages == ([b"first"] if before and kind == "UnaryStream" else [])
    verified = told.verify(kit, expected=Expected(request=b"hello", salt=told.salt))
    assert verified.claims.completion == "error"
    (record,) = kit.records()
    assert (record.completion, record.status) == ("error", 200 if told.messages else 500)
    assert kit.used() == {"slots": 0}


def _raises(error: BaseException) -> Any:
    def call(context: Any) -> None:
        raise error

    return call


@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream"])
@pytest.mark.parametrize("step", [Do, Guarded], ids=["let go", "swallowed"])
def test_a_servicer_that_aborts_keeps_its_status_details_and_trailers(door: Door, kind: str, step: Any) -> None:
    """The token is there too: under aio the status leaves within ``abort``."""
    kit = grpc_kit()

    def abort(context: Any) -> Any:
        context.set_trailing_metadata((("x-own", "1"),))
        return context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far")

    with door.serving(kit, door.scripted(Say(b"first"), step(abort), Say(b"after"))) as address:
        told = ask(address, kind, kit=kit)
    assert (told.code, told.details) == (grpc.StatusCode.OUT_OF_RANGE, "too far")
    assert ("x-own", "1") in told.trailing
    assert told.messages == ([b"first"] if kind == "UnaryStream" else [])
    assert told.verify(kit).claims.completion == "error"
    (record,) = kit.records()
    assert record.completion == "error"


def test_a_status_that_the_servicer_sets_is_kept(door: Door) -> None:
    """Of a single response under an error no client sees the message: it is neither sent nor sealed."""
    kit = grpc_kit()

    def fail(context: Any) -> None:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("no such thing")

    with door.serving(kit, door.scripted(Say(b"first"), Do(fail))) as address:
        single, streamed = ask(address, "UnaryUnary", kit=kit), ask(address, "UnaryStream", kit=kit)
    for told in (single, streamed):
        assert (told.code, told.details) == (grpc.StatusCode.NOT_FOUND, "no such thing")
        assert told.verify(kit).claims.completion == "error"
    assert (single.messages, streamed.messages) == ([], [b"first"])


@pytest.mark.parametrize("before", [(), (Say(b"first"),)], ids=["at once", "after a message"])
def test_a_policy_stop_ends_the_call_with_a_token_that_says_policy(door: Door, before: tuple[Any, ...]) -> None:
    """PERMISSION_DENIED with the clause."""
    kit = grpc_kit()
    with door.serving(kit, door.scripted(*before, Do(_raises(PolicyStop("unsafe", clause="serve"))))) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert told.code is grpc.StatusCode.PERMISSION_DENIED
    assert (told.error.reason, told.error.metadata["clause"]) == ("tos_policy_stop", "serve")
    assert told.verify(kit).claims.completion == "policy"
    assert len(told.messages) == len(before)


@pytest.mark.parametrize("step", [Do, Guarded], ids=["let go", "swallowed"])
def test_a_host_stops_a_call_from_anywhere(door: Door, step: Any) -> None:
    """`Admission.stop`: the next message does not leave, and the call ends as with a policy stop, with the host's own code."""
    kit = grpc_kit()

    def stop(context: Any) -> None:
        admission = current_admission(context)
        assert admission is not None
        thread = threading.Thread(target=admission.stop, args=("unsafe",), kwargs={"clause": "serve", "code": "our_filter"})
        thread.start()
        thread.join()

    with door.serving(kit, door.scripted(Say(b"first"), step(stop), Say(b"after"))) as address:
        streamed = ask(address, "UnaryStream", kit=kit)
    with door.serving(kit, door.scripted(step(stop), Say(b"after"))) as address:
        single = ask(address, "UnaryUnary", kit=kit)
    assert (streamed.messages, single.messages) == ([b"first"], [])
    for told in (streamed, single):
        assert told.code is grpc.StatusCode.PERMISSION_DENIED
        assert (told.error.reason, told.error.metadata["clause"]) == ("our_filter", "serve")
        assert told.verify(kit).claims.completion == "policy"
    assert [record.completion for record in kit.records()] == ["policy", "policy"]


@pytest.mark.parametrize("step", [Do, Guarded], ids=["let go", "swallowed"])
def test_a_denial_that_the_servicer_meets_is_the_answer_whatever_it_makes_of_it(door: Door, step: Any) -> None:
    """At once it is a refusal without a token; after a message the stream ends, and its token says policy."""
    kit = grpc_kit()

    def require(context: Any) -> None:
        admission = current_admission(context)
        assert admission is not None
        admission.require("fine-tune")

    with door.serving(kit, door.scripted(step(require), Say(b"after"))) as address:
        at_once = ask(address, "UnaryStream", kit=kit)
        single = ask(address, "UnaryUnary", kit=kit)
    for told in (at_once, single):
        refused(told, kit, grpc.StatusCode.PERMISSION_DENIED, "tos_action_not_allowed")
    with door.serving(kit, door.scripted(Say(b"first"), step(require), Say(b"after"))) as address:
        later = ask(address, "UnaryStream", kit=kit)
    assert (later.code, later.messages) == (grpc.StatusCode.PERMISSION_DENIED, [b"first"])
    assert later.verify(kit).claims.completion == "policy"
    assert [record.type for record in kit.records()] == ["denial"] * 3


# Clients that leave


def waiting(door: Door, entered: threading.Event, closed: threading.Event, recorded: threading.Event) -> Any:
    """A service whose stream says one message and then waits until its client is gone."""
    service = door.echo()
    if door.name in ("generators", "writing"):

        async def generated(request: bytes, context: Any) -> Any:
            try:
                yield b"first"
                entered.set()
                await asyncio.Event().wait()
            finally:
                closed.set()

        async def written(request: bytes, context: Any) -> None:
            async for message in generated(request, context):
                await context.write(message)

        service.unary_stream = generated if door.name == "generators" else written
        return service

    def threaded(request: bytes, context: Any) -> Iterator[bytes]:
        try:
            while True:
                yield b"first"
                entered.set()
                if door.is_async:  # gRPC does not close generators of threads, and would wait for ever to pass on another message
                    recorded.wait(10)
                    return
        finally:
            closed.set()

    service.unary_stream = threaded
    return service


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
def test_a_client_that_leaves_ends_the_exchange_once(door: Door, leave: str) -> None:
    """The servicer is closed, the record says aborted, the slot is free."""
    kit = grpc_kit(limits=(SLOTS,))
    entered, closed, recorded = threading.Event(), threading.Event(), threading.Event()
    tell_when_recorded(kit, recorded)
    with door.serving(kit, waiting(door, entered, closed, recorded)) as address, grpc.insecure_channel(address) as channel:
        timeout = 1.0 if leave == "deadline" else 20.0
        call = channel.unary_stream(path_of("UnaryStream"))(b"x", metadata=(("authorization", f"Bearer {kit.key}"),), timeout=timeout)
        assert next(call) == b"first"
        assert entered.wait(10)
        if leave == "cancel":
            call.cancel()
        with pytest.raises(grpc.RpcError):
            list(call)
        assert closed.wait(10)
        assert recorded.wait(10)
    (record,) = kit.records()
    assert (record.completion, record.unsealed, record.carrier) == ("aborted", "client_gone", "none")
    assert kit.used() == {"slots": 0}


def tell_when_recorded(kit: Kit, recorded: threading.Event) -> None:
    """Set an event when a record is kept and what it reserved is settled."""
    assert kit.engine is not None
    engine = kit.engine
    settle = engine.settle

    def telling(*arguments: Any) -> None:
        settle(*arguments)
        recorded.set()

    engine.settle = telling  # type: ignore[method-assign]


def test_a_client_that_leaves_while_its_single_answer_is_made_is_recorded_as_gone(door: Door) -> None:
    """What no one gets is not sealed."""
    kit = grpc_kit(limits=(SLOTS,))
    entered, gone, recorded = threading.Event(), threading.Event(), threading.Event()
    tell_when_recorded(kit, recorded)
    service = door.echo()

    def unary(request: bytes, context: Any) -> bytes:
        context.add_callback(gone.set)
        entered.set()
        gone.wait(10 if not door.is_async else 0.2)  # a callback of aio comes after the end
        return b"late"

    async def awaited(request: bytes, context: Any) -> bytes:
        entered.set()
        await asyncio.Event().wait()
        return b"never"

    service.unary_unary = awaited if door.name in ("generators", "writing") else unary
    with door.serving(kit, service) as address, grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(path_of("UnaryUnary")).future(b"x", metadata=(("authorization", f"Bearer {kit.key}"),), timeout=20)
        assert entered.wait(10)
        call.cancel()
        assert recorded.wait(10)
    (record,) = kit.records()
    if door.name != "threads-of-aio":  # whose context does not tell a thread that the client is gone
        assert (record.completion, record.unsealed) == ("aborted", "client_gone")
    assert kit.used() == {"slots": 0}


# Streams of requests


@pytest.mark.parametrize("kind", ["StreamUnary", "StreamStream"])
def test_one_stream_gives_no_more_than_the_limits(door: Door, kind: str) -> None:
    """Five requests allowed, fifty messages sent: the servicer sees five, and the stream ends with a token that says policy."""
    kit = grpc_kit(limits=(REQUESTS,))
    seen: list[bytes] = []
    with door.serving(kit, inside=[seeing(door, seen)]) as address:
        told = ask(address, kind, [b"%d" % number for number in range(50)], kit=kit)
    assert len(seen) == 5
    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told.error.reason == "tos_limit"
    if kind == "StreamStream":
        assert told.messages == [b"re:%d" % number for number in range(5)]
        assert told.verify(kit).claims.completion == "policy"
    else:
        assert (told.messages, told.token) == ([], None)
    assert kit.used() == {"requests": 5}
    (record,) = kit.records()
    assert (record.type, record.reasons) == ("denial", ("tos_limit:requests",))


def seeing(door: Door, seen: list[bytes]) -> Any:
    """An interceptor that keeps the request messages which handlers read."""

    class Seeing:
        def __init__(self, handler: Any) -> None:
            self.handler = handler

        def __getattr__(self, name: str) -> Any:
            found = getattr(self.handler, name)
            if name not in ("stream_unary", "stream_stream") or found is None:
                return found
            return _watched(found, seen)

    return interceptor(door, Seeing)


def _watched(method: Any, seen: list[bytes]) -> Any:
    """The method, whose request messages are kept as it reads them, in any style."""

    def each(requests: Iterator[bytes]) -> Iterator[bytes]:
        for request in requests:
            seen.append(request)
            yield request

    async def each_async(requests: Any) -> Any:
        async for request in requests:
            seen.append(request)
            yield request

    if inspect.isasyncgenfunction(method):

        async def generated(requests: Any, context: Any) -> Any:
            async for message in method(each_async(requests), context):
                yield message

        return generated
    if inspect.iscoroutinefunction(method):

        async def awaited(requests: Any, context: Any) -> Any:
            read = context.read

            async def reading() -> Any:
                if (request := await read()) is not grpc.aio.EOF:
                    seen.append(request)
                return request

            context.read = reading
            return await method(each_async(requests), context)

        return awaited
    return lambda requests, context: method(each(requests), context)


def test_the_size_of_each_message_counts(door: Door) -> None:
    """Of the first, of which the call itself knew nothing, too; what was reserved stays what was used."""
    kit = grpc_kit(limits=(TOKENS,))
    with door.serving(kit) as address:
        told = ask(address, "StreamStream", [bytes(600), bytes(600), bytes(2_000)], kit=kit)
    assert (told.code, len(told.messages)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 2)
    assert kit.used() == {"input": 600}


def test_usage_that_the_servicer_reports_is_of_the_whole_stream(door: Door) -> None:
    """What the messages had reserved goes back."""
    kit = grpc_kit(limits=(REQUESTS, TOKENS))
    service = door.echo()

    def report(context: Any) -> None:
        admission = current_admission(context)
        assert admission is not None
        admission.report_usage(input_tokens=7)

    original = service.stream_unary
    if door.is_async and inspect.iscoroutinefunction(original):

        async def awaited(requests: Any, context: Any) -> bytes:
            answer = await original(requests, context)
            report(context)
            return answer  # type: ignore[no-any-return]

        service.stream_unary = awaited
    else:

        def called(requests: Any, context: Any) -> bytes:
            answer = original(requests, context)
            report(context)
            return answer  # type: ignore[no-any-return]

        service.stream_unary = called
    with door.serving(kit, service) as address:
        told = ask(address, "StreamUnary", [bytes(100)] * 3, kit=kit)
    assert told.code is grpc.StatusCode.OK
    assert kit.used() == {"requests": 3, "input": 7}


def test_a_suspension_holds_in_the_middle_of_a_stream(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next message is decided on the account as it is now."""
    monkeypatch.setattr("tos_guard.guard._admitting.MAX_FOUND_SECONDS", 0.0)
    kit = grpc_kit()
    answered = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        assert answered.wait(10)
        kit.store.set_standing("acme", Standing.SUSPENDED, "test")
        yield b"three"

    with door.serving(kit) as address, grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(path_of("StreamStream"))(requests(), metadata=(("authorization", f"Bearer {kit.key}"),), timeout=20)
        assert [next(call), next(call)] == [b"re:one", b"re:two"]
        answered.set()
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_call_that_waits_with_its_first_message_is_decided_on_the_account_as_it_is_then(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens calls before a suspension has nothing to send on them afterwards."""
    monkeypatch.setattr("tos_guard.guard._admitting.MAX_FOUND_SECONDS", 0.0)
    kit = grpc_kit()
    admitted = threading.Event()
    decided = Telemetry.decided

    def deciding(*given: Any, **named: Any) -> None:
        decided(*given, **named)
        admitted.set()

    monkeypatch.setattr(Telemetry, "decided", deciding)

    def requests() -> Iterator[bytes]:
        assert admitted.wait(10)
        kit.store.set_standing("acme", Standing.SUSPENDED, "test")
        yield b"one"

    with door.serving(kit) as address, grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(path_of("StreamStream"))(requests(), metadata=(("authorization", f"Bearer {kit.key}"),), timeout=20)
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


# Other interceptors, other styles


def test_two_guards_of_one_issuer_seal_once(door: Door) -> None:
    """The outer one does; there is one record."""
    kit = grpc_kit()
    with door.serving(kit, guards=[door.guard(kit), door.guard(kit)]) as address:
        told = ask(address, "StreamStream", [b"a", b"b"], kit=kit)
    assert told.messages == [b"re:a", b"re:b"]
    told.verify(kit)
    assert len(kit.records()) == 1


def test_an_interceptor_outside_sees_messages_and_may_set_metadata(door: Door) -> None:
    """As tracing does: it is given what the servicer gave, and what it sets leaves beside ours."""
    kit = grpc_kit()
    seen: list[bytes] = []

    def wrap(handler: Any) -> Any:
        return outer(handler, lambda context, message: seen.append(message) or message)

    with door.serving(kit, outside=[interceptor(door, wrap)]) as address:
        single, streamed = ask(address, "UnaryUnary", kit=kit), ask(address, "UnaryStream", kit=kit)
    for told in (single, streamed):
        assert ("x-outside", "1") in told.trailing or door.name == "threads-of-aio"  # whose context does not tell what was set
        told.verify(kit)
    assert seen[:1] == single.messages
    if door.name != "writing":
        assert seen[1:] == streamed.messages


def test_an_interceptor_outside_that_puts_another_message_in_place_breaks_the_call(door: Door) -> None:
    """Only what was sealed leaves."""
    kit = grpc_kit()

    def wrap(handler: Any) -> Any:
        return outer(handler, lambda context, message: message + b"?")

    with door.serving(kit, outside=[interceptor(door, wrap)]) as address:
        # What a coroutine writes passes by interceptors; and gRPC waits for ever for a thread whose messages nobody takes any more.
        for kind in ("UnaryUnary", "UnaryStream") if door.name in ("threads", "generators") else ("UnaryUnary",):
            told = ask(address, kind, kit=kit)
            assert (told.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), told.messages) == (True, [])


def outer(handler: Any, change: Any) -> Any:
    """A handler as tracing interceptors make it: of the same kind and style, setting metadata before, looking at messages after."""
    method = handler.unary_stream or handler.unary_unary
    make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler

    def before(context: Any) -> None:
        context.set_trailing_metadata((("x-outside", "1"),))

    if inspect.isasyncgenfunction(method):

        async def generated(request: Any, context: Any) -> Any:
            before(context)
            async for message in method(request, context):
                yield change(context, message)

        wrapped: Any = generated
    elif inspect.iscoroutinefunction(method):

        async def awaited(request: Any, context: Any) -> Any:
            before(context)
            answer = await method(request, context)
            return answer if handler.response_streaming else change(context, answer)

        wrapped = awaited
    elif handler.response_streaming:

        def streamed(request: Any, context: Any) -> Any:
            before(context)
            for message in method(request, context):
                yield change(context, message)

        wrapped = streamed
    else:

        def single(request: Any, context: Any) -> Any:
            before(context)
            return change(context, method(request, context))

        wrapped = single
    return make(wrapped, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer)


def test_the_admission_is_found_through_interceptors_that_hide_the_context(door: Door) -> None:
    """By where the call runs; and by the context, in a thread of the servicer's own."""
    kit = grpc_kit()
    found: list[Any] = []

    class Hiding:
        """As some interceptors make them: without what it does not know."""

        def __init__(self, context: Any) -> None:
            self.peer = context.peer

    def look(context: Any) -> None:
        found.append(current_admission(Hiding(context)))
        elsewhere = threading.Thread(target=lambda: found.append(current_admission(context)))
        elsewhere.start()
        elsewhere.join()

    with door.serving(kit, door.scripted(Do(look), Say())) as address:
        told = ask(address, "UnaryStream", kit=kit)
    rid = dict(told.initial)["x-request-id"]
    assert found[1].request_id == rid
    if door.name != "threads-of-aio":  # whose threads are everybody's
        assert found[0].request_id == rid
    else:
        assert found[0] is None


def test_the_context_is_grpcs_own_in_everything_but_the_end(door: Door) -> None:
    """Also in what gRPC does not document, and in attributes that servicers put there."""
    kit = grpc_kit()
    said: dict[str, Any] = {}

    def look(context: Any) -> None:
        context.mine = "kept"
        said.update(
            is_context=isinstance(
                context, grpc.aio.ServicerContext if door.is_async and door.name != "threads-of-aio" else grpc.ServicerContext
            ),
            mine=context.mine,
            peer=context.peer(),
            remaining=context.time_remaining(),
            metadata=dict(context.invocation_metadata()),
            identities=context.peer_identities(),
            auth=dict(context.auth_context()),
        )
        if door.name == "threads":
            said["state"] = context._state
        context.disable_next_message_compression()
        (context.add_done_callback if door.name in ("generators", "writing") else context.add_callback)(lambda *_: None)
        with pytest.raises(AttributeError):
            context.no_such_thing  # noqa: B018

    with door.serving(kit, door.scripted(Do(look), Say())) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert told.code is grpc.StatusCode.OK, told.details
    assert (said["is_context"], said["mine"]) == (True, "kept")
    assert said["peer"].startswith("ipv4:127.0.0.1")
    assert 0 < said["remaining"] <= 21
    assert said["metadata"]["authorization"] == f"Bearer {kit.key}"


def test_the_host_may_identify_by_the_peer_and_its_certificate(door: Door) -> None:
    """``identify=`` is given the context as ``view.host``."""
    peers: list[str] = []

    def identify(view: Any) -> str:
        peers.append(view.host.peer())
        assert view.host.auth_context() is not None
        return "acme"

    kit = grpc_kit(overrides={"identify": identify})
    with door.serving(kit) as address:
        told = ask(address, "UnaryUnary")
    told.verify(kit)
    assert peers[0].startswith("ipv4:127.0.0.1")


@pytest.mark.parametrize("door", DOORS[:3], ids=lambda door: door.name)
def test_health_watches_can_be_guarded(door: Door) -> None:
    """In threads its handler calls back with messages and returns at once; under aio it is a coroutine that writes."""
    path = "/grpc.health.v1.Health/Watch"
    kit = grpc_kit(settings={"exempt": [], "routes": {path: {"dialect": "grpc", "model": "small"}}}, limits=(SLOTS,))
    recorded = threading.Event()
    tell_when_recorded(kit, recorded)

    def register(server: Any) -> None:
        service = health.aio.HealthServicer() if door.is_async else health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(service, server)

    with door.serving(kit, register=register) as address, grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Check(health_pb2.HealthCheckRequest())
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        watch = stub.Watch(health_pb2.HealthCheckRequest(), metadata=(("authorization", f"Bearer {kit.key}"),))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert "ai-provenance" in dict(watch.initial_metadata())
        watch.cancel()
        assert recorded.wait(10)
    (record,) = kit.records()
    assert (record.unsealed, record.completion) == ("client_gone", "aborted")
    assert kit.used() == {"slots": 0}


def test_reflection_can_be_guarded(door: Door) -> None:
    """A stream both ways of another's service, with its own messages: what it sent is what was sealed."""
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    kit = grpc_kit(settings={"routes": {path: {"dialect": "grpc", "model": "small"}}})

    def register(server: Any) -> None:
        reflection.enable_server_reflection(("grpc.health.v1.Health",), server)

    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with door.serving(kit, register=register) as address:
        told = ask(address, f"{path}#StreamStream", [request.SerializeToString()], kit=kit)
    assert told.code is grpc.StatusCode.OK, told.details
    (message,) = [reflection_pb2.ServerReflectionResponse.FromString(message) for message in told.messages]
    assert message.list_services_response.service[0].name == "grpc.health.v1.Health"
    told.verify(kit)


# When parts fail


def test_monitoring_refuses_nothing_and_seals_what_it_could_decide(door: Door) -> None:
    """A denied account is served, with a token, and recorded; a caller without a credential is served without."""
    kit = grpc_kit(settings={"mode": "monitor"})
    kit.store.set_standing("acme", Standing.SUSPENDED, "test")
    with door.serving(kit) as address:
        denied = ask(address, "StreamStream", [b"a", b"b"], kit=kit)
        unknown = ask(address, "UnaryUnary")
        unguarded = ask(address, path_of("Unguarded"), kit=kit)
    denied.verify(kit)
    for told in (unknown, unguarded):
        assert (told.code, told.messages, told.token, told.pending) == (grpc.StatusCode.OK, [b"re:hello"], None, None)
    assert kit.guard.counts["unsealed:monitor"] == 2 or not door.is_async
    (record,) = kit.records()
    assert (record.decision, record.mode, record.carrier) == ("deny", "monitor", "grpc")


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_signer_nothing_leaves(door: Door, kind: str) -> None:
    """UNAVAILABLE, which clients may retry; the record says why there is no token."""
    kit = grpc_kit(limits=(SLOTS,))
    kit.signer.failing = True
    with door.serving(kit) as address:
        told = ask(address, kind, kit=kit)
    refused(told, kit, grpc.StatusCode.UNAVAILABLE, "tos_unavailable")
    assert told.get("grpc-retry-pushback-ms") is None
    (record,) = kit.records()
    assert (record.unsealed, record.status) == ("signer", 503)
    assert kit.used() == {"slots": 0}


def test_a_signer_that_fails_at_the_end_ends_the_stream_as_unavailable(door: Door) -> None:
    """What has left has left; nobody is told that it was all."""
    kit = grpc_kit()
    script = (Say(b"first"), Do(lambda context: setattr(kit.signer, "failing", True)))
    with door.serving(kit, door.scripted(*script)) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert (told.code, told.messages, told.token) == (grpc.StatusCode.UNAVAILABLE, [b"first"], None)
    with pytest.raises(IncompleteError):
        told.verify(kit)


@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream"])
def test_settings_may_let_messages_leave_without_a_token(door: Door, kind: str) -> None:
    """Counted, recorded, and nothing looks like a token."""
    kit = grpc_kit(settings={"failure": {"signer": "allow"}})
    kit.signer.failing = True
    with door.serving(kit) as address:
        told = ask(address, kind, kit=kit)
    assert (told.code, told.token, told.pending) == (grpc.StatusCode.OK, None, None)
    assert told.messages
    assert [record.unsealed for record in kit.records()] == ["signer"]


def test_without_its_store_nobody_is_served(door: Door) -> None:
    """UNAVAILABLE, before the servicer runs."""
    kit = grpc_kit()

    def fail(*arguments: Any) -> Any:
        raise StoreError("told to fail")

    kit.store.keyed_holder = fail  # type: ignore[method-assign]
    with door.serving(kit, unreachable(door)) as address:
        told = ask(address, "UnaryStream", kit=kit)
    refused(told, kit, grpc.StatusCode.UNAVAILABLE, "tos_unavailable")


def test_without_its_record_no_final_token_leaves(door: Door) -> None:
    """A single answer is withheld; whoever holds a token can demand its record."""
    kit = grpc_kit()
    kit.store.fault = "before"
    with door.serving(kit) as address:
        told = ask(address, "UnaryUnary", kit=kit)
    refused(told, kit, grpc.StatusCode.UNAVAILABLE, "tos_unavailable")


def test_a_stream_without_end_keeps_a_bounded_number_of_reservations_open(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest keep their estimates; every message is counted once."""
    monkeypatch.setattr("tos_guard.guard._messages.MAX_FURTHER", 2)
    kit = grpc_kit(limits=(Limit(id="requests", quantity=Quantity.REQUESTS, amount=100, per=ACCOUNT, window=Sliding(3_600)),))
    with door.serving(kit) as address:
        told = ask(address, "StreamStream", [b"m"] * 10, kit=kit)
    assert len(told.messages) == 10
    assert kit.used() == {"requests": 10}


def test_details_of_a_refusal_stay_within_what_metadata_carries() -> None:
    """Members of a denial may be long: then what everyone needs stays."""
    error = DeniedError("no " * 5_000, reason="tos_denied", clauses=("c",), details={"long": "x" * 10_000, "odd": "\ud800"})
    refusal = refusal_of(error, sync_guard(grpc_kit()), None)
    assert sum(len(name) + len(value) for name, value in refusal.metadata) < 4_096
    assert len(refusal.message) <= 1_024
    assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
