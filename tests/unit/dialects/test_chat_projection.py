"""Where the content of a chat completion is (docs/spec/projection.md chat-1, P1), and what of it is not covered."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tos_guard._canonical import sha256_b64url
from tos_guard.dialects import (
    BytesProjection,
    ChatDialect,
    ChatProjection,
    JSONProjection,
    PlainDialect,
    parse_response_json,
    splice_tag,
    without_tag,
)
from tos_guard.errors import MalformedError, MalformedRequestError
from tos_guard.provenance import Leaf, text_digest


def body(*messages: Any, **members: Any) -> dict[str, Any]:
    return {"choices": [{"index": i, "message": message, "finish_reason": "stop"} for i, message in enumerate(messages)], **members}


def leaves(document: Any) -> tuple[Leaf, ...]:
    projection = ChatProjection()
    projection.add_body(document)
    return projection.content().leaves or ()


def streamed(*deltas: Any, index: int = 0) -> tuple[Leaf, ...]:
    projection = ChatProjection()
    for delta in deltas:
        projection.add_event({"choices": [{"index": index, "delta": delta}]})
    return projection.content().leaves or ()


CALL: dict[str, Any] = {"id": "t", "type": "function", "function": {"name": "find", "arguments": ' {"q":1}'}}


ANYTHING_ELSE: list[Any] = [1, "x", [], True]
BAD_CALLS: list[Any] = [{}, "x", 1, [1], ["x"], [CALL] * 257, [{"function": 1}], [{"custom": []}]]
BAD_CHOICES: list[Any] = [{}, 1, "x", [1], [{}], [{"index": True}], [{"index": 65_536}]]


def test_every_part_has_its_name() -> None:
    message = {
        "role": "assistant",
        "content": "text",
        "refusal": "no",
        "reasoning": "because",
        "reasoning_content": "hm",
        "tool_calls": [CALL, {"type": "custom", "custom": {"name": "run", "input": "ls"}}],
        "function_call": {"name": "f", "arguments": "{}"},
    }
    assert {(choice, name) for choice, name, _ in leaves(body(message))} == {
        *((0, name) for name in ("text", "refusal", "reasoning", "reasoning_content", "function_call.name", "function_call.arguments")),
        *((0, f"tool_calls.{name}") for name in ("0.name", "0.arguments", "1.custom_name", "1.input")),
    }


def test_arguments_are_taken_exactly_and_texts_normalised() -> None:
    found = leaves(body({"content": " a\r\n", "tool_calls": [CALL]}))
    assert (0, "text", text_digest("a")) in found
    assert (0, "tool_calls.0.arguments", sha256_b64url(b' {"q":1}')) in found


def test_arguments_given_as_an_object_are_taken_in_canonical_form() -> None:
    call = {"function": {"name": "f", "arguments": {"b": 1.0, "a": "é"}}}
    assert (0, "tool_calls.0.arguments", sha256_b64url('{"a":"é","b":1}'.encode())) in leaves(body({"tool_calls": [call]}))
    infinite = {"function": {"name": "f", "arguments": {"a": float("inf")}}}
    assert (0, "tool_calls.0.arguments", None) in leaves(body({"tool_calls": [infinite]}))


@pytest.mark.parametrize("value", [1, True, ["a"], {"type": "text"}, 0, False])
def test_values_that_are_neither_text_nor_null_are_uncoverable(value: Any) -> None:
    assert leaves(body({"content": value})) == ((0, "text", None),)


@pytest.mark.parametrize(
    "absent",
    [{}, {"content": None}, {"content": ""}, {"content": " \r\n"}, {"tool_calls": None}, {"tool_calls": []}, {"function_call": None}],
)
def test_null_absent_and_empty_are_the_same(absent: dict[str, Any]) -> None:
    assert leaves(body(absent)) == ()


def test_choices_are_told_apart_by_their_index_and_not_their_place() -> None:
    document = body({"content": "a"}, {"content": "b"})
    turned = copy.deepcopy(document)
    turned["choices"].reverse()
    assert leaves(document) == leaves(turned)
    swapped = body({"content": "b"}, {"content": "a"})
    assert leaves(document) != leaves(swapped)


@pytest.mark.parametrize(
    "document",
    [
        *(None, [], "x", {}, {"choices": None}, {"choices": {}}, {"choices": [1]}, {"choices": [None]}, {"choices": [{}]}),
        *({"choices": [{"index": i}]} for i in (None, "0", True, 0.0, -1, 65_536)),
        {"choices": [{"index": 0}, {"index": 0}]},
        *({"choices": [{"index": 0, "message": message}]} for message in ANYTHING_ELSE),
        *(body({"tool_calls": calls}) for calls in BAD_CALLS),
        *(body({"function_call": call}) for call in ANYTHING_ELSE),
    ],
    ids=lambda document: json.dumps(document)[:50],
)
def test_p1_bodies_of_another_form_are_refused(document: Any) -> None:
    with pytest.raises(MalformedError):
        leaves(document)


@pytest.mark.parametrize(
    "event",
    [
        *({"choices": choices} for choices in BAD_CHOICES),
        *({"choices": [{"index": 0, "delta": delta}]} for delta in ANYTHING_ELSE),
        *({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": i}]}}]} for i in (None, "0", -1, 256, True)),
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"name": "f"}}]}}]},
    ],
    ids=lambda event: json.dumps(event)[:60],
)
def test_p1_events_of_another_form_are_refused(event: Any) -> None:
    with pytest.raises(MalformedError):
        ChatProjection().add_event(event)


def test_half_of_a_name_cannot_be_moved_from_a_function_into_a_custom_tool() -> None:
    """Both kinds of one call once shared the part `name`: a sealed `get_weather_now` verified as `get_weather` and `_now`."""
    whole, split = ChatProjection(), ChatProjection()
    whole.add_body(body({"tool_calls": [{"function": {"name": "get_weather_now"}}]}))
    split.add_body(body({"tool_calls": [{"function": {"name": "get_weather"}, "custom": {"name": "_now"}}]}))
    assert whole.content().root != split.content().root
    names = [name for _, name, _ in split.content().leaves or ()]
    assert names == ["tool_calls.0.custom_name", "tool_calls.0.name"]


def test_a_stream_has_the_leaves_of_its_body() -> None:
    found = streamed(
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo\r"},
        {"content": "\n!"},
        {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "find", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ' {"q"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
    )
    assert found == leaves(body({"content": "Hello\r\n!", "tool_calls": [CALL]}))


def test_a_character_cut_in_two_over_deltas_is_whole() -> None:
    halves = [parse_response_json(data, where="event") for data in (b'{"content":"\\ud83d"}', b'{"content":"\\ude00"}')]
    assert streamed(*halves) == ((0, "text", text_digest("\U0001f600")),)
    assert streamed(*reversed(halves)) == ((0, "text", None),)


@pytest.mark.parametrize(
    ("delta", "bears"),
    [
        ({}, False),
        ({"role": "assistant"}, False),
        ({"content": ""}, False),
        ({"content": None}, False),
        ({"content": " "}, True),
        ({"content": 1}, True),
        ({"refusal": "x"}, True),
        ({"tool_calls": []}, False),
        ({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, True),
        ({"tool_calls": [{"index": 0, "function": {"arguments": ""}}]}, False),
        ({"audio": {"data": "x"}}, False),
    ],
)
def test_which_events_bear_content(delta: dict[str, Any], bears: bool) -> None:
    assert ChatProjection().add_event({"choices": [{"index": 0, "delta": delta}]}) is bears


def test_events_without_choices_bear_nothing() -> None:
    events: list[dict[str, Any]] = [{}, {"choices": None}, {"choices": []}, {"usage": {"total_tokens": 1}}]
    for event in events:
        assert ChatProjection().add_event(event) is False


def test_members_that_are_not_covered_are_listed() -> None:
    projection = ChatProjection()
    message = {"role": "assistant", "content": "a", "tool_calls": [{**CALL, "function": {**CALL["function"], "strict": True}}]}
    document = body(message, id="x", model="m", ai_provenance={})
    projection.add_body(document)
    projection.note_body(document)
    assert projection.uncovered == (
        "choices[].finish_reason",
        "choices[].message.role",
        "choices[].message.tool_calls[].function.strict",
        "choices[].message.tool_calls[].id",
        "choices[].message.tool_calls[].type",
        "id",
        "model",
    )


def test_json_1_covers_everything_but_the_tag() -> None:
    def content(document: Any) -> Any:
        projection = JSONProjection()
        projection.add_body(document)
        return projection.content().leaves

    assert content({"b": 1, "a": [1.0], "ai_provenance": {"token": "x"}}) == ((0, "body", sha256_b64url(b'{"a":[1],"b":1}')),)
    assert content([{"ai_provenance": 1}]) == ((0, "body", sha256_b64url(b'[{"ai_provenance":1}]')),)
    assert content({"a": 2**60}) == ((0, "body", None),)


def test_bytes_1_covers_the_bytes() -> None:
    projection = BytesProjection()
    projection.add_body(b"\r\n \xff")
    assert projection.content().leaves == ((0, "body", sha256_b64url(b"\r\n \xff")),)
    with pytest.raises(MalformedError):
        BytesProjection().add_body({"a": 1})


def test_projections_refuse_what_they_do_not_cover() -> None:
    with pytest.raises(MalformedError):
        JSONProjection().add_event({})


@pytest.mark.parametrize("data", [b"{}", b"{ }", b'{"a":1}', b'{"a":{}} ', b'{"a":"}"}\n', b'{"a":[{}]\r\n}', b'{"a":"{"}'])
def test_splicing_moves_no_other_byte(data: bytes) -> None:
    tagged = splice_tag(data, b'{"token":"t"}')
    assert json.loads(tagged) == {**json.loads(data), "ai_provenance": {"token": "t"}}
    assert without_tag(json.loads(tagged)) == json.loads(data)
    assert tagged.replace(b',"ai_provenance":{"token":"t"}', b"").replace(b'"ai_provenance":{"token":"t"}', b"") == data


# requests


def ask(**members: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [], **members}).encode()


def test_the_largest_of_the_limits_counts() -> None:
    facts = ChatDialect().read_request(ask(stream=True, n=3, max_tokens=5, max_completion_tokens=7))
    assert (facts.model, facts.stream, facts.choices, facts.max_output_tokens) == ("m", True, 3, 7)
    assert ChatDialect().read_request(ask()).max_output_tokens is None
    assert ChatDialect().read_request(ask(stream="true")).stream is False


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"[]",
            b"null",
            b"{}",
            b"{",
            b'{"model":1}',
            b'{"model":""}',
            b'{"model":null}',
            b'{"model":"a","model":"b"}',
            b"\xff",
            b"[" * 5_000,
        ),
        *(ask(model="m" * 97), ask(model="a\r\nx"), ask(model="\x00"), ask(n="3"), ask(n=-1), ask(n=True), ask(n=1.5), ask(max_tokens="x")),
        *(ask(max_completion_tokens=[]), ask(deep=json.loads("[" * 64 + "]" * 64)), ask()[:-1]),
    ],
    ids=lambda data: str(data[:30]),
)
def test_requests_of_another_form_are_refused_as_such(data: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        ChatDialect().read_request(data)


def test_a_plain_request_names_its_model_or_takes_the_dialects() -> None:
    dialect = PlainDialect(model="embed-1")
    assert dialect.read_request(b'{"model":"other"}').model == "other"
    for data in (b"", b"binary \xff", b"{}", b"[1]", b'{"model":null}', b' {"input":1}'):
        assert dialect.read_request(data).model == "embed-1"
    for data in (b'{"model":"a","model":"b"}', b'{"model":1}', b'{"model":"a\\nb"}', b'\xef\xbb\xbf{"model":"b"}'):
        with pytest.raises(MalformedRequestError):
            dialect.read_request(data)


@pytest.mark.parametrize("dialect", [ChatDialect(), PlainDialect(model="m")])
def test_refusals_and_errors_are_json_whatever_they_say(dialect: Any) -> None:
    nasty = 'a"\r\n\x00\u2028é'
    refusal = json.loads(dialect.refusal_body(message=nasty, code="tos_x", kind=nasty, extra={"clause": nasty}))
    assert nasty in json.dumps(refusal, ensure_ascii=False) or json.dumps(nasty)[1:-1] in json.dumps(refusal)
    event = dialect.error_event(message=nasty, code="tos_x", extra={"clause": nasty})
    assert event.startswith(b"data: ")
    assert event.count(b"\n") == 2
    assert b"\r" not in event
    assert json.loads(event[6:])["error"]["message"] == nasty
