"""A Messages stream on its way out: the pending tag where it starts, the final one where it stops, and no other byte moved."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tos_guard.dialects import EventStream, MessagesDialect, MessagesFormat, MessagesProjection, Step, StreamSealing
from tos_guard.limits import Usage
from tos_guard.provenance import Content
from tos_guard.types import Completion

TAG, PENDING = b'{"token":"a.b.c"}', b'{"token":"p.p.p"}'


def event(kind: str, **members: Any) -> bytes:
    data = json.dumps({"type": kind, **members}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "usage": {"input_tokens": 9, "output_tokens": 1},
}
START = event("message_start", message=MESSAGE)
PING = event("ping")
STOP = event("message_stop")
HELLO = [
    event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
    PING,
    event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
    event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2ln"}),
    event("content_block_stop", index=0),
    event("content_block_start", index=1, content_block={"type": "text", "text": ""}),
    event("content_block_delta", index=1, delta={"type": "text_delta", "text": "Grü"}),
    event("content_block_delta", index=1, delta={"type": "text_delta", "text": "ße \U0001f642"}),
    event("content_block_stop", index=1),
    event("content_block_start", index=2, content_block={"type": "tool_use", "id": "t", "name": "f", "input": {}}),
    event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": ""}),
    event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '{"city": "K'}),
    event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": 'öln"}'}),
    event("content_block_stop", index=2),
    event("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 21}),
]
WHOLE = [START, *HELLO, STOP]
BUILT = {
    **MESSAGE,
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "text", "text": "Grüße \U0001f642"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"city": "Köln"}},
    ],
}


def content_of(message: dict[str, Any]) -> Content:
    projection = MessagesProjection()
    projection.add_body(message)
    return projection.content()


class Driver:
    """What a server does with the machine: passes chunks, seals when asked."""

    def __init__(self, *, fail_with: str | None = None, pending: bytes | None = PENDING) -> None:
        self.sealing = StreamSealing(MessagesFormat())
        self.sealing.pending = pending
        self.content: Content | None = None
        self._fail_with = fail_with

    def take(self, step: Step) -> bytes:
        if not step.seal:
            return step.out
        self.content = self.sealing.content
        after = self.sealing.sealed(TAG) if self._fail_with is None else self.sealing.unsealed_because(self._fail_with)
        assert not after.seal
        return step.out + after.out

    def feed(self, *chunks: bytes) -> bytes:
        return b"".join(self.take(self.sealing.feed(chunk)) for chunk in chunks)

    def run(self, *chunks: bytes) -> bytes:
        return self.feed(*chunks) + self.take(self.sealing.finish())


def opened(start: bytes = START) -> bytes:
    """The event with the pending tag at the end of its message."""
    return start.replace(b"}}\n\n", b"}\n\n").replace(b"}\n\n", b',"ai_provenance":' + PENDING + b"}}\n\n")


def tagged(last: bytes = STOP) -> bytes:
    """The event with the final tag at its end."""
    return last.replace(b"}\n\n", b',"ai_provenance":' + TAG + b"}\n\n")


SEALED = b"".join([opened(), *HELLO, tagged()])


def test_nothing_waits_but_the_end_and_no_byte_moves_but_the_tags() -> None:
    driver = Driver()
    assert driver.feed(START) == opened()
    for chunk in HELLO:
        assert driver.feed(chunk) == chunk
    assert driver.feed(STOP) == tagged()
    assert driver.take(driver.sealing.finish()) == b""
    assert driver.content == content_of(BUILT)
    assert (driver.sealing.completion, driver.sealing.unsealed) == (Completion.COMPLETE, None)
    assert driver.sealing.usage == Usage(input_tokens=9, output_tokens=21)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_how_the_stream_is_cut_into_chunks_changes_nothing(size: int) -> None:
    stream = b"".join(WHOLE)
    assert Driver().run(*(stream[at : at + size] for at in range(0, len(stream), size))) == SEALED


def test_a_stream_cut_at_every_byte_is_sealed_if_its_last_event_came_whole() -> None:
    """What came is passed on either way, and only a stream with its end has a token."""
    stream = b"".join(WHOLE)
    for size in range(len(stream) + 1):
        driver = Driver()
        out = driver.run(stream[:size])
        if size == len(stream):
            assert out == SEALED
        else:
            assert driver.sealing.unsealed == "no_carrier", size
            assert out.replace(b',"ai_provenance":' + PENDING, b"") == stream[:size]


def test_without_a_pending_token_the_start_passes_as_it_is() -> None:
    assert Driver(pending=None).feed(START) == START


def test_a_start_without_a_message_is_unsealed() -> None:
    for start in (event("message_start"), event("message_start", message=None), event("message_start", message=[])):
        driver = Driver()
        assert driver.run(start, STOP) == start + STOP
        assert driver.sealing.unsealed == "unprojectable"


def test_a_stream_that_ends_without_its_last_event_is_unsealed() -> None:
    driver = Driver()
    assert driver.run(START, *HELLO) == opened() + b"".join(HELLO)
    assert driver.sealing.unsealed == "no_carrier"


@pytest.mark.parametrize("error", [event("error", error={"type": "overloaded_error", "message": "Overloaded"}), event("broken", error={})])
def test_an_error_of_the_upstream_carries_the_final_tag(error: bytes) -> None:
    """Whatever says that it is one."""
    driver = Driver()
    assert driver.run(START, *HELLO[:3], error) == opened() + b"".join(HELLO[:3]) + tagged(error)
    assert (driver.sealing.completion, driver.sealing.unsealed) == (Completion.ERROR, None)


def test_an_error_before_anything_else_carries_it_too() -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    driver = Driver()
    assert driver.run(PING, error) == PING + tagged(error)
    assert driver.content == Content.of("messages-1", [])


def test_a_stream_that_we_stop_ends_with_an_error_event_that_carries_it() -> None:
    driver = Driver()
    out = driver.feed(START, *HELLO[:8], b"event: content_block_delta\ndata: {half of an")
    error = MessagesDialect().error_event(message="Stopped", code="tos_policy_stop", extra={"clause": "c", "request_id": "r"})
    out += driver.take(driver.sealing.fail(error, Completion.POLICY))
    assert out == opened() + b"".join(HELLO[:8]) + tagged(error)
    assert driver.sealing.completion is Completion.POLICY


@pytest.mark.parametrize(
    "late",
    [
        event("content_block_delta", index=1, delta={"type": "text_delta", "text": "more"}),
        event("content_block_start", index=3, content_block={"type": "text", "text": "more"}),
        event("content_block_start", index=3, content_block={"type": "unheard_of"}),
        event("error", error={"type": "api_error", "message": "no"}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        b"data: {not json}\n\n",
    ],
)
def test_what_would_contradict_the_token_is_dropped_behind_it(late: bytes) -> None:
    driver = Driver()
    assert driver.run(*WHOLE, late, PING) == SEALED + PING
    assert driver.sealing.dropped_events == 1


def test_comments_and_pings_pass_at_any_time() -> None:
    comment = b": keep-alive\n\n"
    chunks = [chunk for event_ in [*WHOLE, PING] for chunk in (comment, event_)]
    assert Driver().run(PING, *chunks) == PING + b"".join(comment + event_ for event_ in [opened(), *HELLO, tagged(), PING])


def test_tags_of_an_upstream_are_taken_out_wherever_they_are() -> None:
    foreign = {"token": "x.y.z"}
    start = event("message_start", message={**MESSAGE, "ai_provenance": foreign}, ai_provenance=foreign)
    stop = event("message_stop", ai_provenance=foreign)
    driver = Driver()
    out = driver.run(start, *HELLO, stop)
    assert b"x.y.z" not in out
    assert driver.sealing.removed_tags == 2
    found = [json.loads(found.data) for found in EventStream().feed(out) if found.data]
    assert found[0] == {"type": "message_start", "message": {**MESSAGE, "ai_provenance": json.loads(PENDING)}}
    assert found[-1] == {"type": "message_stop", "ai_provenance": json.loads(TAG)}


@pytest.mark.parametrize(
    "bad",
    [
        event("content_block_delta", index=9, delta={"type": "text_delta", "text": "a"}),
        event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "{"}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_start", index=70_000, content_block={"type": "text", "text": ""}),
        b"data: [1]\n\n",
        b"data: {\n\n",
    ],
)
def test_what_cannot_be_covered_passes_unsealed(bad: bytes) -> None:
    driver = Driver()
    assert driver.run(START, *HELLO, bad, STOP) == opened() + b"".join(HELLO) + bad + STOP
    assert driver.sealing.unsealed == "unprojectable"


@pytest.mark.parametrize("first", [HELLO[0], event("message_delta", delta={}), b'data: {"type":"response.created"}\n\n'])
def test_a_stream_that_does_not_begin_as_messages_do_is_unsealed(first: bytes) -> None:
    """Readers would take it for another form (C13)."""
    driver = Driver()
    assert driver.run(first, *WHOLE) == first + b"".join(WHOLE)
    assert driver.sealing.unsealed == "unprojectable"


def test_a_failing_signer_lets_the_end_pass_as_it_was() -> None:
    driver = Driver(fail_with="signer")
    assert driver.run(*WHOLE, PING) == opened() + b"".join(HELLO) + STOP + PING
    assert driver.sealing.unsealed == "signer"


@pytest.mark.parametrize(
    ("started", "deltas", "usage"),
    [
        ({"input_tokens": 9, "output_tokens": 1}, [], Usage(input_tokens=9)),
        ({"input_tokens": 9, "output_tokens": 1}, [{"output_tokens": 5}, {"output_tokens": 21}], Usage(9, 21)),
        (
            {"input_tokens": 9, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 10, "output_tokens": 1},
            [{"output_tokens": 21}],
            Usage(119, 21),
        ),
        (
            {"input_tokens": 9, "cache_read_input_tokens": 100, "output_tokens": 1},
            [{"input_tokens": 9, "output_tokens": 21}],
            Usage(109, 21),
        ),
        (
            {"input_tokens": 9, "output_tokens": 1},
            [{"input_tokens": 700, "cache_read_input_tokens": 3, "output_tokens": 21, "output_tokens_details": {"thinking_tokens": 4}}],
            Usage(703, 21, 4),
        ),
        (None, [{"output_tokens": 21}], Usage(None, 21)),
        ({}, [], None),
        ({"input_tokens": -1}, [{"output_tokens": "many"}], None),
        ({"input_tokens": 9}, [{"output_tokens": 2}, {}, None], Usage(9, 2)),
    ],
)
def test_input_counts_from_the_start_and_output_from_the_newest_delta(started: Any, deltas: list[Any], usage: Usage | None) -> None:
    """The one output token of ``message_start`` is not what a stream took that breaks off later: then the estimate stays."""
    driver = Driver()
    driver.feed(event("message_start", message={**MESSAGE, "usage": started}))
    driver.feed(*(event("message_delta", delta={}, usage=said) for said in deltas))
    assert driver.sealing.usage == usage
