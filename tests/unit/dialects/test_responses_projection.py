"""OpenAI Responses: what a request asks for, and the same parts in a body and in the events of its stream (P10)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streams import OUTPUT, responses_body, responses_events
from tos_guard.dialects import RequestHead, ResponsesDialect, ResponsesProjection
from tos_guard.errors import MalformedError, MalformedRequestError
from tos_guard.provenance import Content, text_digest
from tos_guard.types import Completion


def of_body(body: Any) -> Content:
    projection = ResponsesProjection()
    projection.add_body(body)
    return projection.content()


def of_events(*events: dict[str, Any]) -> Content:
    projection = ResponsesProjection()
    for each in events:
        projection.add_event(each)
    return projection.content()


def say(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": 0, "content_index": 0, **members}


def test_stream_and_body_have_the_same_leaves() -> None:
    content = of_body(responses_body())
    assert of_events(*responses_events()) == content
    assert [(choice, name) for choice, name, _ in content.leaves or ()] == [
        (0, "reasoning"),
        (0, "reasoning_summary"),
        (1, "content.2"),
        (1, "refusal.1"),
        (1, "text"),
        (2, "arguments"),
        (2, "name"),
        (3, "custom_name"),
        (3, "input"),
        (4, "item"),
    ]
    assert (1, "text", text_digest("Hello, wörld")) in (content.leaves or ())


def test_deltas_alone_have_the_leaves_that_deltas_can_have() -> None:
    """Servers that leave ``output`` of the terminal event out, or empty, still say what they streamed."""
    events = [each for each in responses_events() if not each["type"].endswith(("part.done", "item.done"))]
    for output in (None, []):
        events[-1] = say("completed", response={**responses_body(), "output": output})
        names = [(choice, name) for choice, name, _ in of_events(*events).leaves or ()]
        assert {(1, "text"), (2, "arguments"), (2, "name"), (3, "input")} <= set(names)


def test_a_part_that_is_only_said_whole_is_covered_once() -> None:
    item = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    expected = Content.of("responses-1", [(0, "text", text_digest("Hi"))])
    projection = ResponsesProjection()
    assert projection.add_event(say("output_item.done", item=item)) is True
    assert projection.add_event(say("completed", response=responses_body([item]))) is False
    assert projection.content() == expected


@pytest.mark.parametrize(
    "repeated",
    [
        say("output_text.done", text="Hi!"),
        say("content_part.done", part={"type": "output_text", "text": "Ho"}),
        say("output_item.done", item={"type": "message", "content": [{"type": "output_text", "text": "H"}]}),
        say("completed", response=responses_body([{"type": "message", "content": [{"type": "output_text", "text": 7}]}])),
    ],
)
def test_what_is_repeated_must_be_what_was_streamed(repeated: dict[str, Any]) -> None:
    projection = ResponsesProjection()
    projection.add_event(say("output_text.delta", delta="Hi"))
    with pytest.raises(MalformedError, match="repeats text of item 0"):
        projection.add_event(repeated)


def test_outer_white_space_and_line_ends_may_differ_where_a_text_is_repeated() -> None:
    """They are not covered (P2), and servers strip them."""
    of_events(say("output_text.delta", delta=" a\r\nb\n"), say("output_text.done", text="a\nb"), say("output_text.done", text=" a\rb"))


@pytest.mark.parametrize("kind", ["output_item.done", "completed"])
def test_nothing_is_added_to_what_is_whole(kind: str) -> None:
    item = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    projection = ResponsesProjection()
    projection.add_event(say(kind, item=item, response=responses_body([item])))
    assert projection.add_event(say("output_text.delta", delta="")) is False
    with pytest.raises(MalformedError, match="which is whole"):
        projection.add_event(say("output_text.delta", delta="!"))


@pytest.mark.parametrize("item", [{"type": "reasoning", "summary": []}, {"type": "compaction", "id": "cmp_1"}])
def test_what_is_encrypted_anew_in_each_event_is_not_covered(item: dict[str, Any]) -> None:
    """OpenAI says another ciphertext of one plaintext in each event that has it, and a shorter one when the item begins."""
    kinds = ("output_item.added", "output_item.done")
    events = [say(kind, item={**item, "encrypted_content": f"gAAA{kind}"}) for kind in kinds]
    ended = say("completed", response=responses_body([{**item, "encrypted_content": "gAAA"}]))
    assert of_events(*events, ended) == of_body(responses_body([item]))


def test_an_item_is_the_same_whatever_its_id_and_status() -> None:
    first = {"type": "mcp_call", "id": "1", "status": "in_progress", "output": "x"}
    assert of_body(responses_body([first])) == of_body(responses_body([{**first, "id": "2", "status": "completed"}]))
    assert of_body(responses_body([first])) != of_body(responses_body([{**first, "output": "y"}]))


@pytest.mark.parametrize(
    "event",
    [
        say("output_text.delta", output_index=None, delta="x"),
        say("output_text.delta", output_index=65_536, delta="x"),
        say("output_text.delta", output_index=-1, delta="x"),
        say("output_text.delta", output_index=True, delta="x"),
        say("output_text.delta", content_index="0", delta="x"),
        say("reasoning_summary_text.delta", delta="x"),
        say("output_item.added", item=[]),
        say("output_item.done", item={"type": "message", "content": "Hi"}),
        say("output_item.done", item={"type": "message", "content": ["Hi"]}),
        say("output_item.done", item={"type": "reasoning", "summary": {}}),
        say("content_part.done", part=1),
        say("created", response="x"),
        say("completed", response={"output": {}}),
        say("completed", response=None),
        say("failed"),
    ],
)
def test_events_of_another_form_are_refused(event: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        of_events(event)


@pytest.mark.parametrize("body", [[], {}, {"output": None}, {"output": {}}, {"output": ["x"]}, {"output": [{}] * 65_537}, "x", None])
def test_bodies_of_another_form_are_refused(body: Any) -> None:
    with pytest.raises(MalformedError):
        of_body(body)


@pytest.mark.parametrize("kind", ["output_text.annotation.added", "made_up", ["x"], None, 7])
def test_other_events_bear_nothing_and_are_named(kind: Any) -> None:
    event = {"type": f"response.{kind}" if isinstance(kind, str) else kind, "output_index": "odd"}
    projection = ResponsesProjection()
    assert projection.add_event(event) is False
    projection.note_event(event)
    assert projection.uncovered == (f"response.{kind}" if isinstance(kind, str) else "event",)


def test_members_that_are_not_covered_are_named_by_their_paths() -> None:
    body, streamed = ResponsesProjection(), ResponsesProjection()
    body.add_body(responses_body())
    body.note_body(responses_body())
    assert set(body.uncovered) == {
        *("id", "model", "object", "status", "usage"),
        *("output[].call_id", "output[].id", "output[].role", "output[].status", "output[].content[].annotations"),
        "output[].encrypted_content",
    }
    for each in responses_events():
        streamed.add_event(each)
        streamed.note_event(each)
    assert {"response.usage", "response.output_text.annotation.added", "item.call_id", "part.annotations"} <= set(streamed.uncovered)


@pytest.mark.parametrize(
    ("item", "leaf"),
    [
        ({"type": "function_call", "arguments": {"a": 1}}, False),
        ({"type": "function_call", "arguments": [1]}, True),
        ({"type": "function_call", "name": {"a": 1}}, True),
        ({"type": "custom_tool_call", "input": 3}, True),
        ({"type": "message", "content": [{"type": "output_text", "text": "\ud800"}]}, True),
        ({"type": "unknown", "value": 2**60}, True),
        ({"type": ["odd"], "value": 1}, False),
        ({"type": "message", "content": [{"type": "odd", "value": "\ud800"}]}, True),
    ],
)
def test_what_has_no_canonical_form_is_named_and_not_covered(item: dict[str, Any], leaf: bool) -> None:
    content = of_body(responses_body([item]))
    assert [digest is None for _, _, digest in content.leaves or ()] == [leaf]
    assert of_events(say("output_item.done", item=item), say("completed", response=responses_body([item]))) == content


@pytest.mark.parametrize(
    ("status", "completion"),
    [
        ("completed", Completion.COMPLETE),
        ("incomplete", Completion.COMPLETE),
        ("failed", Completion.ERROR),
        ("cancelled", Completion.ABORTED),
        (["odd"], Completion.COMPLETE),
    ],
)
def test_a_body_says_how_the_response_ended(status: Any, completion: Completion) -> None:
    projection = ResponsesProjection()
    projection.add_body(responses_body(OUTPUT, status=status))
    assert projection.completion is completion


# requests


def read(**members: Any) -> Any:
    return ResponsesDialect().read_request(json.dumps({"model": "m", "input": "hi", **members}).encode())


def test_a_request_says_what_it_asks_for() -> None:
    image = {"type": "input_image", "image_url": "data:"}
    message = {"role": "user", "content": [{"type": "input_text", "text": "x"}, image, {"type": "input_file", "file_id": "f"}]}
    facts = read(stream=True, max_output_tokens=9, input=[message], safety_identifier="u7", background=True, store=False)
    assert (facts.model, facts.stream, facts.max_output_tokens, facts.media_parts, facts.end_user) == ("m", True, 9, 2, "u7")
    assert (facts.background, facts.stores, facts.retrieves) == (True, False, None)
    assert read(user="u8").end_user == "u8"
    screenshot = {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "data:"}}
    given = {"type": "function_call_output", "output": [{"type": "input_text", "text": "x"}, image]}
    assert read(input=[screenshot, given, {"type": "function_call_output", "output": "x"}]).media_parts == 2
    assert read().stores is True


@pytest.mark.parametrize("body", [b"", b"[]", b'{"input":"x"}', b'{"model":"m","max_output_tokens":"9"}', b'{"model":"m","model":"n"}'])
def test_a_request_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        ResponsesDialect().read_request(body)


@pytest.mark.parametrize(
    ("method", "path", "stored"),
    [
        ("GET", "/v1/responses/resp_1", "resp_1"),
        ("DELETE", "/v1/responses/resp_1", "resp_1"),
        ("POST", "/v1/responses/resp_1/cancel", "resp_1"),
        ("POST", "/v1/responses/resp_1", "resp_1"),
        ("POST", "/v1/responses/resp_1/anything", "resp_1"),
        ("GET", "/v1/responses/resp_1/input_items", "resp_1"),
        ("HEAD", "/openai/v1/responses/resp_1", "resp_1"),
    ],
)
def test_a_request_about_a_stored_response_says_which(method: str, path: str, stored: str) -> None:
    facts = ResponsesDialect(action="ask").read_request(b"", RequestHead(method, path))
    assert (facts.retrieves, facts.action, facts.model) == (stored, "ask", "")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/responses"), ("GET", "/v1/responses/"), ("POST", "/v1/responses//cancel"), ("GET", "/v1/responses/" + "x" * 257)],
)
def test_a_request_without_body_that_names_no_response_is_refused(method: str, path: str) -> None:
    with pytest.raises(MalformedRequestError, match="names no stored response"):
        ResponsesDialect().read_request(b"", RequestHead(method, path))


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact", "/ask"])
def test_what_is_posted_anywhere_else_is_read_by_its_body(path: str) -> None:
    assert ResponsesDialect().read_request(b'{"model":"m"}', RequestHead("POST", path)).model == "m"
