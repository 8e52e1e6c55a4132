"""A Responses stream on its way out: nothing waits but the event that ends it, and the tag goes into the response it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streams import STREAMS, event, responses_body
from tos_guard.dialects import ResponsesDialect, ResponsesFormat, Step, StreamSealing
from tos_guard.limits import Usage
from tos_guard.types import Completion

TAG = b'{"token":"a.b.c"}'
EVENTS = STREAMS["openai-responses"]
ERROR = event({"type": "error", "code": "server_error", "message": "boom", "param": None, "sequence_number": 4}, "error")
FAILED = event({"type": "response.failed", "response": responses_body([], status="failed", error={"code": "server_error"})})
DONE = b"data: [DONE]\n\n"


class Driver:
    """What a server does with the machine."""

    def __init__(self) -> None:
        self.sealing = StreamSealing(ResponsesFormat())

    def take(self, step: Step) -> bytes:
        return step.out + (self.sealing.sealed(TAG).out if step.seal else b"")

    def feed(self, *chunks: bytes) -> bytes:
        return b"".join(self.take(self.sealing.feed(chunk)) for chunk in chunks)

    def run(self, *chunks: bytes) -> bytes:
        return self.feed(*chunks) + self.take(self.sealing.finish())


def tagged(raw: bytes) -> bytes:
    """The event with the tag at the end of its response: the last brace but one."""
    assert raw.endswith(b"}}\n\n")
    return raw[:-4] + b',"ai_provenance":' + TAG + b"}}\n\n"


def test_every_event_leaves_at_once_and_the_terminal_one_with_the_tag() -> None:
    driver = Driver()
    for each in EVENTS[:-1]:
        assert driver.feed(each) == each
    assert driver.feed(EVENTS[-1]) == tagged(EVENTS[-1])
    assert driver.sealing.completion is Completion.COMPLETE
    assert driver.sealing.usage == Usage(input_tokens=9, output_tokens=21, reasoning_tokens=5)
    assert driver.feed(DONE) == DONE


def test_an_incomplete_response_is_a_whole_one_that_reached_its_maximum() -> None:
    cut = event({"type": "response.incomplete", "response": responses_body([], incomplete_details={"reason": "max_output_tokens"})})
    driver = Driver()
    assert driver.run(*EVENTS[:5], cut) == b"".join(EVENTS[:5]) + tagged(cut)
    assert driver.sealing.completion is Completion.COMPLETE


def test_a_failed_response_says_so_in_its_token() -> None:
    driver = Driver()
    assert driver.feed(*EVENTS[:5], FAILED) == b"".join(EVENTS[:5]) + tagged(FAILED)
    assert driver.sealing.completion is Completion.ERROR


def test_an_error_event_that_ends_the_stream_carries_the_tag() -> None:
    driver = Driver()
    out = driver.run(*EVENTS[:5], ERROR)
    assert out == b"".join(EVENTS[:5]) + ERROR[:-3] + b',"ai_provenance":' + TAG + b"}\n\n"
    assert driver.sealing.completion is Completion.ERROR


def test_an_error_event_before_a_failed_response_passes_and_the_response_carries_the_tag() -> None:
    """The official server sends both, and clients read why it failed in the second."""
    assert Driver().run(*EVENTS[:5], ERROR, FAILED) == b"".join([*EVENTS[:5], ERROR, tagged(FAILED)])


def test_a_stream_that_goes_on_after_an_error_event_is_sealed_at_its_end() -> None:
    driver = Driver()
    assert driver.run(*EVENTS[:5], ERROR, *EVENTS[5:]) == b"".join([*EVENTS[:5], ERROR, *EVENTS[5:-1], tagged(EVENTS[-1])])
    assert driver.sealing.completion is Completion.COMPLETE


def test_the_guards_own_error_ends_the_stream_with_the_tag() -> None:
    driver = Driver()
    ours = ResponsesDialect().error_event(message="Stopped", code="tos_policy_stop", extra={"clause": "x"})
    out = driver.feed(*EVENTS[:5]) + driver.take(driver.sealing.fail(ours, Completion.POLICY))
    last = out.removeprefix(b"".join(EVENTS[:5]))
    assert last.startswith(b"event: error\ndata: ")
    said: dict[str, Any] = json.loads(last.split(b"data: ")[1])
    assert (said["type"], said["code"], said["error"]["code"], said["error"]["clause"]) == ("error", *["tos_policy_stop"] * 2, "x")
    assert said["ai_provenance"] == {"token": "a.b.c"}
    assert driver.sealing.completion is Completion.POLICY


def test_nothing_that_fails_or_adds_follows_the_token() -> None:
    driver = Driver()
    driver.feed(*EVENTS)
    more = event({"type": "response.output_text.delta", "output_index": 9, "content_index": 0, "delta": "x"})
    assert driver.feed(ERROR, FAILED, more) == b""
    assert driver.sealing.dropped_events == 3


def test_a_tag_of_an_upstream_is_removed_from_inside() -> None:
    foreign = event({"type": "response.completed", "response": responses_body(ai_provenance={"token": "x.y.z"})})
    driver = Driver()
    out = driver.run(*EVENTS[:-1], foreign)
    assert b"x.y.z" not in out
    assert out.count(b"ai_provenance") == 1
    assert driver.sealing.removed_tags == 1


@pytest.mark.parametrize(
    "odd",
    [
        event({"type": "response.completed", "response": None}),
        event({"type": ["odd"], "error": 1, "response": 1}) + b"data: 1\n\n",
        event({"type": "response.output_text.done", "output_index": 1, "content_index": 0, "text": "another"}),
    ],
)
def test_a_stream_that_contradicts_itself_passes_unsealed(odd: bytes) -> None:
    stream = [*EVENTS[:-1], odd, EVENTS[-1]]
    driver = Driver()
    assert driver.run(*stream) == b"".join(stream)
    assert driver.sealing.unsealed == "unprojectable"


def test_a_stream_of_another_form_on_this_route_passes_unsealed() -> None:
    driver = Driver()
    assert driver.run(*STREAMS["openai-chat"]) == b"".join(STREAMS["openai-chat"])
    assert driver.sealing.unsealed == "unprojectable"
