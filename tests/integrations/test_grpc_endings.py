"""What meets the end of a call at a gRPC server, or another task of it: each is decided, settled and recorded once."""

from __future__ import annotations

import asyncio
import inspect
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio
import pytest

from grpc_kit import DOORS, KINDS, Door, ask, grpc_kit, interceptor, path_of
from kit import Kit
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard_grpc import current_admission

ACCOUNT = (Dimension.ACCOUNT,)
REQUESTS = Limit(id="requests", quantity=Quantity.REQUESTS, amount=100, per=ACCOUNT, window=Sliding(3_600))
TOKENS = Limit(id="input", quantity=Quantity.INPUT_TOKENS, amount=1_000, per=ACCOUNT, window=Sliding(3_600))
SLOTS = Limit(id="slots", quantity=Quantity.CONCURRENCY, amount=2, per=ACCOUNT, window=None)
AWAITING = DOORS[1:3]
INFER = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(params=DOORS, ids=lambda door: door.name)
def door(request: pytest.FixtureRequest) -> Door:
    """Each way to serve."""
    return request.param  # type: ignore[no-any-return]


def is_awaiting(door: Door) -> bool:
    """Whether its servicers are coroutines."""
    return door in AWAITING


def reader(door: Door, requests: Any, context: Any) -> Callable[[], Any]:
    """Reads a request message, in the door's style; what it gives is awaited where servicers are coroutines."""
    if door.name == "writing":
        return context.read  # type: ignore[no-any-return]
    if door.name == "generators":
        return lambda: anext(aiter(requests))
    return lambda: next(requests)


def stream_unary(door: Door, each: Callable[[Any, Any], Any]) -> Any:
    """A service whose ``stream_unary`` is a generator's steps: each yields what is awaited where servicers are coroutines."""
    service = door.echo()

    async def awaited(requests: Any, context: Any) -> bytes:
        steps, said = each(requests, context), None
        while True:
            try:
                step = steps.send(said)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            try:
                said = await step()
            except Exception as error:
                said = error

    def called(requests: Any, context: Any) -> bytes:
        steps, said = each(requests, context), None
        while True:
            try:
                step = steps.send(said)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            try:
                said = step()
            except Exception as error:
                said = error

    service.stream_unary = awaited if is_awaiting(door) else called
    return service


def report(context: Any, tokens: int) -> None:
    """Say what the call took."""
    admission = current_admission(context)
    assert admission is not None
    admission.report_usage(input_tokens=tokens)


# Request messages after the end


def test_a_servicer_that_swallows_its_abort_reads_nothing_more_on_the_account(door: Door) -> None:
    """What it read afterwards would be reserved, and never settled."""
    kit = grpc_kit(limits=(REQUESTS, TOKENS))
    said: list[Any] = []

    def each(requests: Any, context: Any) -> Iterator[Any]:
        read = reader(door, requests, context)
        said.append((yield read))
        report(context, 7)
        said.append((yield lambda: context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far")))
        said.append((yield read))
        return b"never"

    with door.serving(kit, stream_unary(door, each)) as address:
        told = ask(address, "StreamUnary", [bytes(100)] * 3, kit=kit)
    assert (told.code, said[0]) == (grpc.StatusCode.OUT_OF_RANGE, bytes(100))
    assert [isinstance(one, Exception) for one in said] == [False, True, True]
    assert kit.used() == {"requests": 1, "input": 7}


def test_what_a_reader_of_its_own_reserves_when_the_call_has_ended_is_given_back(door: Door) -> None:
    """A message that was being decided when the servicer returned goes nowhere."""
    kit = grpc_kit(limits=(REQUESTS, TOKENS))
    assert kit.engine is not None
    kit.engine.blocks = True  # type: ignore[misc]
    entered, ended, done = threading.Event(), threading.Event(), threading.Event()
    said: list[Any] = []
    reserve, settle = kit.engine.reserve, kit.engine.settle

    def reserving(charges: Any, *, id: str, lease: Any) -> Any:  # noqa: A002
        if id.endswith(".2"):
            entered.set()
            assert ended.wait(10)
        return reserve(charges, id=id, lease=lease)

    def settling(reservation: Any, actual: Any) -> None:
        settle(reservation, actual)
        if "." not in reservation.id:  # the call's own, which is the last
            ended.set()

    kit.engine.reserve, kit.engine.settle = reserving, settling  # type: ignore[method-assign]
    service = door.echo()

    def told(error: Any) -> None:
        said.append(error)
        done.set()

    def called(requests: Any, context: Any) -> bytes:
        def further() -> None:
            try:
                told(next(requests))
            except Exception as error:
                told(error)

        next(requests)
        report(context, 7)
        threading.Thread(target=further).start()
        assert entered.wait(10)
        return b"done"

    async def awaited(requests: Any, context: Any) -> bytes:
        read = reader(door, requests, context)

        async def further() -> None:
            try:
                told(await read())
            except Exception as error:
                told(error)

        await read()
        report(context, 7)
        service.task = asyncio.create_task(further())
        assert await asyncio.to_thread(entered.wait, 10)
        return b"done"

    service.stream_unary = awaited if is_awaiting(door) else called
    with door.serving(kit, service) as address:
        assert ask(address, "StreamUnary", [bytes(100)] * 2, kit=kit).code is grpc.StatusCode.OK
        assert done.wait(10)
    assert [type(one).__name__ for one in said] == ["MessageAfterEndError"]
    assert kit.used() == {"requests": 1, "input": 7}


def test_a_message_that_is_denied_while_the_call_is_sealed_makes_no_denial_of_it() -> None:
    """The servicer has answered: what its own thread goes on to read is no part of that."""
    kit = grpc_kit(limits=(Limit(id="one", quantity=Quantity.REQUESTS, amount=1, per=ACCOUNT, window=Sliding(3_600)),))
    assert kit.engine is not None
    entered, sealing, done = threading.Event(), threading.Event(), threading.Event()
    signed, reserve, sign = counted(kit), kit.engine.reserve, kit.signer.sign
    said: list[Any] = []

    def reserving(charges: Any, *, id: str, lease: Any) -> Any:  # noqa: A002
        if "." in id:
            entered.set()
            assert sealing.wait(10)
        return reserve(charges, id=id, lease=lease)

    def signing(key: Any, message: bytes) -> Any:
        if len(signed) == 1:  # the pending token was the first
            sealing.set()
            assert done.wait(10)
        return sign(key, message)

    kit.engine.reserve, kit.signer.sign = reserving, signing  # type: ignore[method-assign]
    service = DOORS[0].echo()

    def called(requests: Any, context: Any) -> bytes:
        def further() -> None:
            try:
                next(requests)
            except Exception as error:
                said.append(error)
            done.set()

        next(requests)
        threading.Thread(target=further).start()
        assert entered.wait(10)
        return b"done"

    service.stream_unary = called
    with DOORS[0].serving(kit, service) as address:
        told = ask(address, "StreamUnary", [b"1", b"2"], kit=kit)
    assert [type(error).__name__ for error in said] == ["LimitExceededError"]
    assert (told.code, told.messages) == (grpc.StatusCode.OK, [b"done"])
    assert told.verify(kit).claims.completion == "complete"
    (record,) = kit.records()
    assert (record.type, record.decision, record.completion) == ("exchange", "allow", "complete")


# Statuses


@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream"])
@pytest.mark.parametrize("ends", ["set_code", "abort"])
def test_a_status_given_as_a_number_is_not_taken_for_success(door: Door, kind: str, ends: str) -> None:
    """``grpc.aio`` takes numbers: the token says error, and the record what was sent."""
    kit = grpc_kit()
    service = door.echo()

    def fail(context: Any) -> Any:
        return context.set_code(5) if ends == "set_code" else context.abort(5, "no such thing")

    service.unary_unary, service.unary_stream = ending(door, fail), ending(door, fail, streaming=True)
    with door.serving(kit, service) as address:
        told = ask(address, kind, kit=kit)
    assert (told.code, told.messages) == (grpc.StatusCode.NOT_FOUND, [])
    assert told.verify(kit).claims.completion == "error"
    (record,) = kit.records()
    assert (record.status, record.completion) == (404, "error")


def ending(door: Door, call: Callable[[Any], Any], *, streaming: bool = False) -> Any:
    """A method that calls something, and says no more of a stream, or a message."""

    async def awaited(request: bytes, context: Any) -> Any:
        if inspect.isawaitable(said := call(context)):
            await said
        return None if streaming else b"said"

    async def generated(request: bytes, context: Any) -> Any:
        await awaited(request, context)
        for message in ():
            yield message

    def called(request: bytes, context: Any) -> Any:
        call(context)
        return iter(()) if streaming else b"said"

    if not is_awaiting(door):
        return called
    return generated if streaming and door.name == "generators" else awaited


# Monitoring


def test_monitoring_loses_no_message_that_the_guard_has_read() -> None:
    """Of a method whose first message says what is asked for, a call that cannot be decided passes whole."""
    kit = Kit(settings={"mode": "monitor", "routes": {INFER: "open-inference"}})
    messages = [b"\xff\xff", b"second", b"third"]
    seen: list[bytes] = []

    async def written(requests: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            seen.append(message)
            await context.write(b"re:" + message)

    handlers = {"ModelStreamInfer": grpc.stream_stream_rpc_method_handler(written)}
    generic = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    with DOORS[2].serving(kit, register=lambda server: server.add_generic_rpc_handlers((generic,))) as address:
        told = ask(address, f"{INFER}#StreamStream", messages, kit=kit)
    assert (told.code, told.token) == (grpc.StatusCode.OK, None), told
    assert (seen, told.messages) == (messages, [b"re:" + message for message in messages])


def test_messages_that_pass_are_not_kept() -> None:
    """However long a stream is that monitoring lets through."""
    kit = grpc_kit(settings={"mode": "monitor"})
    service = DOORS[2].echo()
    traced: list[int] = []

    async def written(requests: Any, context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            traced.append(tracemalloc.get_traced_memory()[0])

    service.stream_stream = written
    tracemalloc.start()
    try:
        with DOORS[2].serving(kit, service) as address:
            told = ask(address, "StreamStream", (bytes(1_000_000) for _ in range(20)))  # type: ignore[arg-type]
    finally:
        tracemalloc.stop()
    assert (told.code, len(traced)) == (grpc.StatusCode.OK, 20)
    assert traced[-1] - traced[0] < 10_000_000


def test_monitoring_refuses_a_message_that_is_too_large_in_a_stream_too(door: Door) -> None:
    """Nothing is refused but what is too large, whatever kind of method."""
    kit = grpc_kit(settings={"mode": "monitor", "max_request_bytes": 1_024})
    with door.serving(kit) as address:
        for kind in KINDS:
            told = ask(address, kind, [b"small", bytes(1_025)] if kind.startswith("Stream") else [bytes(1_025)], kit=kit)
            assert (told.code, told.error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "tos_request_too_large"), kind


# Cancelled within the guard


def cancel_here(task: asyncio.Task[Any]) -> None:
    """From a thread: cancel a task that waits, and return when it has been told."""
    for call in (task.cancel, lambda: None, lambda: None):
        told: Future[None] = Future()
        task.get_loop().call_soon_threadsafe(lambda call=call, told=told: told.set_result(call() and None))
        told.result(10)


@pytest.mark.parametrize("door", AWAITING, ids=lambda door: door.name)
def test_a_call_that_is_cancelled_while_it_is_settled_is_settled_whole(door: Door) -> None:
    """Each of its reservations ends, however often it is cancelled, and the slot is free."""
    kit = grpc_kit(limits=(REQUESTS, TOKENS, SLOTS))
    assert kit.engine is not None
    kit.engine.blocks = True  # type: ignore[misc]
    settled = threading.Event()
    tasks: list[asyncio.Task[Any]] = []
    settle = kit.engine.settle

    def settling(reservation: Any, actual: Any) -> None:
        if not tasks[0].done():
            cancel_here(tasks[0])
        settle(reservation, actual)
        if "." not in reservation.id:  # the call's own, which is the last
            settled.set()

    kit.engine.settle = settling  # type: ignore[method-assign]
    service = door.echo()

    async def awaited(requests: Any, context: Any) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        read = reader(door, requests, context)
        for _ in range(3):
            await read()
        report(context, 7)
        return b"done"

    service.stream_unary = awaited
    with door.serving(kit, service) as address, grpc.insecure_channel(address) as channel:
        metadata = (("authorization", f"Bearer {kit.key}"),)
        call = channel.stream_unary(path_of("StreamUnary")).future(iter([bytes(100)] * 3), metadata=metadata, timeout=20)
        assert settled.wait(10)
        call.cancel()
    (record,) = kit.records()
    assert (record.completion, record.unsealed) == ("complete", None)
    assert kit.used() == {"requests": 3, "input": 7, "slots": 0}


@pytest.mark.parametrize("door", AWAITING, ids=lambda door: door.name)
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "failed"])
def test_a_call_that_is_cancelled_while_its_record_is_kept_is_counted_as_its_record_says(door: Door, kept: bool) -> None:
    """Where the store fails behind its back, the record says that the client has left."""
    kit = grpc_kit()
    append, given = kit.store.append, []
    late: Future[None] = Future()
    tasks: list[asyncio.Task[Any]] = []
    closed = threading.Event()

    def appending(record: Any) -> Future[None]:
        given.append(record)
        if len(given) > 1:
            answer = append(record)
            closed.set()
            return answer
        if kept:
            append(record).result(10)
        tasks[0].get_loop().call_soon(tasks[0].cancel)
        return late

    kit.store.append = appending  # type: ignore[method-assign]
    service = door.echo()

    async def awaited(request: bytes, context: Any) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        return request

    service.unary_unary = awaited
    with door.serving(kit, service) as address, grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(path_of("UnaryUnary")).future(b"x", metadata=(("authorization", f"Bearer {kit.key}"),), timeout=20)
        assert closed.wait(10)
        call.cancel()
        late.set_result(None)
    (record,) = kit.records()
    assert (record.completion, record.unsealed) == (("complete", None) if kept else ("aborted", "client_gone"))
    assert kit.guard.counts["unsealed:client_gone"] == 0
    assert kit.guard.counts["sealed:grpc"] == 1


def test_a_client_that_leaves_while_its_call_is_decided_leaves_nothing_reserved(door: Door) -> None:
    """Also where the servicer would run in a thread, which nobody can cancel."""
    kit = grpc_kit(limits=(REQUESTS, SLOTS))
    assert kit.engine is not None
    kit.engine.blocks = True  # type: ignore[misc]
    entered, left, back = threading.Event(), threading.Event(), threading.Event()
    reserve, settle, cancel = kit.engine.reserve, kit.engine.settle, kit.engine.cancel

    def reserving(charges: Any, *, id: str, lease: Any) -> Any:  # noqa: A002
        entered.set()
        assert left.wait(10)
        return reserve(charges, id=id, lease=lease)

    def ending_(end: Any) -> Any:
        def telling(*arguments: Any) -> None:
            end(*arguments)
            back.set()

        return telling

    kit.engine.reserve, kit.engine.settle, kit.engine.cancel = reserving, ending_(settle), ending_(cancel)  # type: ignore[method-assign]
    with door.serving(kit, outside=[telling_when_done(door, left)]) as address, grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(path_of("UnaryUnary")).future(b"x", metadata=(("authorization", f"Bearer {kit.key}"),), timeout=20)
        assert entered.wait(10)
        call.cancel()
        assert back.wait(10)
    assert kit.used()["slots"] == 0
    assert [record.unsealed for record in kit.records()] == ([] if is_awaiting(door) else ["client_gone"])


def test_a_late_answer_of_a_thread_has_no_token_made_for_nobody() -> None:
    """Its client has left, and its record says so."""
    door = DOORS[3]
    kit = grpc_kit(limits=(SLOTS,))
    assert kit.engine is not None
    signed = counted(kit)
    entered, settled, answered = threading.Event(), threading.Event(), threading.Event()
    settle = kit.engine.settle

    def settling(*arguments: Any) -> None:
        settle(*arguments)
        settled.set()

    kit.engine.settle = settling  # type: ignore[method-assign]
    service = door.echo()

    def called(request: bytes, context: Any) -> bytes:
        entered.set()
        assert settled.wait(10)
        return b"late"

    def change(handler: Any) -> Any:
        def behavior(request: Any, context: Any) -> Any:
            try:
                return handler.unary_unary(request, context)
            finally:
                answered.set()

        return grpc.unary_unary_rpc_method_handler(
            behavior, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    service.unary_unary = called
    with door.serving(kit, service, outside=[interceptor(door, change)]) as address, grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(path_of("UnaryUnary")).future(b"x", metadata=(("authorization", f"Bearer {kit.key}"),), timeout=20)
        assert entered.wait(10)
        call.cancel()
        assert answered.wait(10)
    assert signed == []
    assert [(record.completion, record.unsealed) for record in kit.records()] == [("aborted", "client_gone")]


def telling_when_done(door: Door, left: threading.Event) -> Any:
    """An interceptor that sets an event when gRPC is done with a call."""

    def change(handler: Any) -> Any:
        if door.is_async:
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(left.set))
            return handler

        def behavior(request: Any, context: Any) -> Any:
            context.add_callback(left.set)
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            behavior, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    return interceptor(door, change)


# Ends of servicers


@pytest.mark.parametrize("door", [door for door in DOORS if not is_awaiting(door)], ids=lambda door: door.name)
@pytest.mark.parametrize("early", [True, False], ids=["after None", "at its end"])
def test_a_generator_that_raises_when_it_is_closed_ends_with_a_token_that_says_error(door: Door, early: bool) -> None:
    """It said None, with which a stream ends, and had something to clear up that failed."""
    kit = grpc_kit()
    service = door.echo()

    def streamed(request: bytes, context: Any) -> Iterator[Any]:
        try:
            yield b"first"
            if early:
                yield None
        finally:
            raise ValueError("broken")

    service.unary_stream = streamed
    with door.serving(kit, service) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert (told.code, told.messages) == (grpc.StatusCode.UNKNOWN, [b"first"])
    assert told.verify(kit).claims.completion == "error"
    (record,) = kit.records()
    assert (record.completion, record.unsealed) == ("error", None)


# Initial metadata


def counted(kit: Kit) -> list[bytes]:
    """What is signed from now on."""
    signed: list[bytes] = []
    sign = kit.signer.sign

    def counting(key: Any, message: bytes) -> Any:
        signed.append(message)
        return sign(key, message)

    kit.signer.sign = counting  # type: ignore[method-assign]
    return signed


@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream"])
def test_behind_an_interceptor_that_has_sent_initial_metadata_all_of_ours_is_in_trailing_metadata(door: Door, kind: str) -> None:
    """No pending token can leave: one is made at most."""
    kit = grpc_kit()
    signed = counted(kit)

    def change(handler: Any) -> Any:
        method = handler.unary_stream or handler.unary_unary
        make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        own = (("x-own", "1"),)

        async def awaited(request: Any, context: Any) -> Any:
            await context.send_initial_metadata(own)
            return await method(request, context)

        async def generated(request: Any, context: Any) -> Any:
            await context.send_initial_metadata(own)
            async for message in method(request, context):
                yield message

        def called(request: Any, context: Any) -> Any:
            context.send_initial_metadata(own)
            return method(request, context)

        def streamed(request: Any, context: Any) -> Any:
            context.send_initial_metadata(own)
            yield from method(request, context)

        wrapped: Any = streamed if handler.response_streaming else called
        if is_awaiting(door):
            wrapped = generated if inspect.isasyncgenfunction(method) else awaited
        return make(wrapped, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer)

    with door.serving(kit, outside=[interceptor(door, change)]) as address:
        told = ask(address, kind, kit=kit)
    assert told.code is grpc.StatusCode.OK, told.details
    assert (("x-own", "1") in told.initial, told.pending) == (True, None)
    told.verify(kit)
    assert dict(told.trailing)["x-request-id"]
    assert len(signed) == 2


def test_tasks_that_write_the_first_message_at_once_make_one_pending_token() -> None:
    """And what they write leaves in the order in which it was sealed."""
    kit = grpc_kit()
    signed = counted(kit)
    messages = [b"%d" % number for number in range(5)]
    service = DOORS[2].echo()

    async def written(request: bytes, context: Any) -> None:
        await asyncio.gather(*(context.write(message) for message in messages))

    service.unary_stream = written
    with DOORS[2].serving(kit, service) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert (told.code, told.messages) == (grpc.StatusCode.OK, messages)
    told.verify(kit)
    assert len(signed) == 2


# A host that stops a call


@pytest.mark.parametrize("kind", ["StreamUnary", "StreamStream"])
def test_a_host_stops_a_stream_of_requests_from_anywhere(door: Door, kind: str) -> None:
    """The servicer is told with the next message that it reads, and the call ends as with a policy stop, whatever it makes of that."""
    kit = grpc_kit(limits=(REQUESTS,))
    service = door.echo()
    seen: list[Any] = []

    def stop(context: Any) -> None:
        admission = current_admission(context)
        assert admission is not None
        thread = threading.Thread(target=admission.stop, args=("unsafe",), kwargs={"clause": "serve", "code": "our_filter"})
        thread.start()
        thread.join()

    def called(requests: Any, context: Any) -> Any:
        for _ in range(3):
            try:
                seen.append(next(requests))
            except Exception as error:
                seen.append(error)
                break
            if len(seen) == 2:
                stop(context)
        return b"done"

    def streamed(requests: Any, context: Any) -> Any:
        yield called(requests, context)

    async def awaited(requests: Any, context: Any) -> Any:
        read = reader(door, requests, context)
        for _ in range(3):
            try:
                seen.append(await read())
            except Exception as error:
                seen.append(error)
                break
            if len(seen) == 2:
                stop(context)
        return b"done"

    async def generated(requests: Any, context: Any) -> Any:
        yield await awaited(requests, context)

    async def written(requests: Any, context: Any) -> None:
        await context.write(await awaited(requests, context))

    service.stream_unary = awaited if is_awaiting(door) else called
    service.stream_stream = {"generators": generated, "writing": written}.get(door.name, streamed)
    with door.serving(kit, service) as address:
        told = ask(address, kind, [b"1", b"2", b"3"], kit=kit)
    assert [type(one).__name__ for one in seen] == ["bytes", "bytes", "PolicyStop"]
    assert (told.code, told.messages) == (grpc.StatusCode.PERMISSION_DENIED, [])
    assert (told.error.reason, told.error.metadata["clause"]) == ("our_filter", "serve")
    assert told.verify(kit).claims.completion == "policy"
    (record,) = kit.records()
    assert record.completion == "policy"
    assert kit.used() == {"requests": 2}
