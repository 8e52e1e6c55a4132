"""Where the content of a message is (docs/spec/projection.md messages-1, P11), and what of it is not covered."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tos_guard._canonical import b64url_encode, canonical_json, sha256_b64url
from tos_guard.dialects import MessagesProjection
from tos_guard.errors import MalformedError
from tos_guard.provenance import Leaf, text_digest

THINKING = {"type": "thinking", "thinking": " so\r\n", "signature": "c2ln"}
TEXT = {"type": "text", "text": " Grüße\r\n", "citations": None}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln", "days": 2.0}}
RESULT = {"type": "web_search_tool_result", "tool_use_id": "t", "content": [{"type": "web_search_result", "url": "https://a.example"}]}


def body(*blocks: Any, **members: Any) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "content": list(blocks), **members}


def leaves(document: Any) -> tuple[Leaf, ...]:
    projection = MessagesProjection()
    projection.add_body(document)
    return projection.content().leaves or ()


def start(index: Any, block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: Any, kind: str, **members: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **members}}


def streamed(*events: dict[str, Any]) -> tuple[Leaf, ...]:
    projection = MessagesProjection()
    for event in events:
        projection.add_event(event)
    return projection.content().leaves or ()


def tool(*pieces: Any, given: Any = None, kind: str = "tool_use") -> tuple[dict[str, Any], ...]:
    block = {"type": kind, "id": "t", "name": "f", "input": {} if given is None else given}
    return start(0, block), *(delta(0, "input_json_delta", partial_json=piece) for piece in pieces)


def digest(data: bytes) -> str:
    return b64url_encode(hashlib.sha256(data).digest())


def test_every_part_has_its_name_and_the_index_of_its_block() -> None:
    assert leaves(body(THINKING, TEXT, TOOL, RESULT, {"type": "redacted_thinking", "data": "x"})) == (
        (0, "signature", sha256_b64url(b"c2ln")),
        (0, "thinking", text_digest("so")),
        (1, "text", text_digest("Grüße")),
        (2, "input", sha256_b64url('{"city":"Köln","days":2}'.encode())),
        (2, "name", sha256_b64url(b"weather")),
        (3, "block", digest(canonical_json(RESULT))),
        (4, "redacted_thinking", sha256_b64url(b"x")),
    )


def test_a_stream_and_the_message_built_from_it_have_the_same_leaves() -> None:
    events = (
        {"type": "message_start", "message": body(usage={"input_tokens": 1, "output_tokens": 1})},
        start(0, {"type": "thinking", "thinking": "", "signature": ""}),
        {"type": "ping"},
        delta(0, "thinking_delta", thinking=" so\r"),
        delta(0, "thinking_delta", thinking="\n"),
        delta(0, "signature_delta", signature="c2ln"),
        {"type": "content_block_stop", "index": 0},
        start(1, {"type": "text", "text": " G"}),
        delta(1, "text_delta", text="rü"),
        delta(1, "citations_delta", citation={"cited_text": "x"}),
        delta(1, "text_delta", text="ße\r\n"),
        start(2, {**TOOL, "input": {}}),
        delta(2, "input_json_delta", partial_json=""),
        delta(2, "input_json_delta", partial_json=' {"days": 2.0, '),
        delta(2, "input_json_delta", partial_json='"city":"K\\u00f6ln"}'),
        start(3, RESULT),
        start(4, {"type": "redacted_thinking", "data": "x"}),
        start(5, {"type": "compaction", "content": None}),
        delta(5, "compaction_delta", content="short", encrypted_content="ZW5j"),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
    compacted = {"type": "compaction", "content": "short", "encrypted_content": "ZW5j"}
    message = body(THINKING, TEXT, TOOL, RESULT, {"type": "redacted_thinking", "data": "x"}, compacted)
    assert streamed(*events) == leaves(message)


def test_blocks_of_the_message_that_starts_count_as_begun() -> None:
    opened = {"type": "message_start", "message": body({"type": "text", "text": "Grü"}, TOOL)}
    assert MessagesProjection().add_event(opened)
    assert streamed(opened, delta(0, "text_delta", text="ße")) == leaves(body(TEXT, TOOL))
    with pytest.raises(MalformedError, match="begins twice"):
        streamed(opened, start(1, TEXT))


@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use", "mcp_tool_use"])
@pytest.mark.parametrize("pieces", [(), ("",), ("", None), ("{", "}"), (" { ", "} ")])
def test_a_tool_that_is_given_nothing_is_given_an_empty_object(kind: str, pieces: tuple[Any, ...]) -> None:
    expected = ((0, "input", sha256_b64url(b"{}")), (0, "name", sha256_b64url(b"f")))
    assert streamed(*tool(*pieces, kind=kind)) == leaves(body({"type": kind, "name": "f", "input": {}})) == expected


def test_pieces_of_json_stand_in_place_of_the_input_that_the_block_began_with() -> None:
    expected = ((0, "input", sha256_b64url(b'{"a":1}')), (0, "name", sha256_b64url(b"f")))
    for given in ({"b": 2}, "text", 5, {"n": 2**60}):
        assert streamed(*tool('{"a"', ":1}", given=given)) == expected


def test_where_json_is_cut_into_pieces_and_how_it_is_written_changes_nothing() -> None:
    text = json.dumps({"z": [1.50, "\U0001f642", {"q": None}], "a": "é\n"}, indent=1)
    found = {streamed(*tool(text[:cut], text[cut:])) for cut in range(len(text) + 1)}
    assert found == {leaves(body({"type": "tool_use", "name": "f", "input": json.loads(text)}))}


def test_halves_of_a_character_meet_across_pieces() -> None:
    assert streamed(*tool('{"a":"\ud83d', '\ude42"}')) == streamed(*tool('{"a":"\U0001f642"}'))


@pytest.mark.parametrize(
    "pieces",
    [
        ("{",),
        ('{"city": "Kö',),
        ("[1]",),
        ("null",),
        ("5",),
        (" ",),
        ("{}{}",),
        ('{"a":1,"a":2}',),
        ('{"a":NaN}',),
        ('{"a":1e400}',),
        ('{"a":9007199254740993}',),
        ('{"a":"\\ud800"}',),
        ('{"a":"\ud800"}',),
        ("{}", 5),
        (5, "{}"),
        ({},),
        ("[" * 500,),
        ('{"a":' + "[" * 100 + "]" * 100 + "}",),
    ],
    ids=lambda pieces: str(pieces)[:30].encode("ascii", "backslashreplace").decode(),
)
def test_pieces_that_make_no_i_json_object_are_uncoverable(pieces: tuple[Any, ...]) -> None:
    """A call that ``max_tokens`` cut off, for one. The rest of the message is covered all the same."""
    assert streamed(*tool(*pieces)) == ((0, "input", None), (0, "name", sha256_b64url(b"f")))


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": 5},
        {"type": "text", "text": ["a"]},
        {"type": "text", "text": "\ud800"},
        {"type": "thinking", "signature": {}},
        {"type": "tool_use", "input": [1]},
        {"type": "tool_use", "input": False},
        {"type": "tool_use", "input": {"n": 2**53}},
        {"type": "tool_use", "name": {}},
        {"type": "other", "n": float("inf")},
    ],
    ids=str,
)
def test_values_of_another_kind_are_uncoverable(block: dict[str, Any]) -> None:
    assert [digest for _, _, digest in leaves(body(block))] == [None]


def test_an_input_that_is_a_string_is_taken_exactly() -> None:
    assert leaves(body({"type": "tool_use", "input": ' {"a":1}'})) == ((0, "input", sha256_b64url(b' {"a":1}')),)


@pytest.mark.parametrize(
    "block",
    [{"type": "text"}, {"type": "text", "text": None}, {"type": "text", "text": " \r\n"}, {"type": "thinking", "signature": ""}],
    ids=str,
)
def test_null_absent_and_empty_are_the_same(block: dict[str, Any]) -> None:
    assert leaves(body(block)) == ()


@pytest.mark.parametrize(
    "block", [{}, {"type": None}, {"type": 5}, {"type": ["text"]}, {"type": {}}, {"type": "Text", "text": "a"}, {"type": ""}], ids=str
)
def test_a_block_of_a_type_we_do_not_know_is_covered_whole(block: dict[str, Any]) -> None:
    assert leaves(body(block)) == ((0, "block", digest(canonical_json(block))),)
    assert streamed(start(0, block)) == leaves(body(block))


@pytest.mark.parametrize(
    "document", [None, [], "x", b"x", {}, {"content": None}, {"content": {}}, {"content": "text"}, body(1), body(None), body([]), body("a")]
)
def test_p11_bodies_of_another_form_are_refused(document: Any) -> None:
    with pytest.raises(MalformedError):
        leaves(document)


FIRST = start(0, {"type": "text", "text": ""})


@pytest.mark.parametrize(
    "events",
    [
        *((start(index, TEXT),) for index in (None, "0", True, 0.0, -1, 65_536, [], {})),
        *((FIRST, delta(index, "text_delta", text="a")) for index in (None, "0", False, 0.0, 1, -1, [], {})),
        *((start(0, block),) for block in (None, 1, "x", [])),
        *((FIRST, {"type": "content_block_delta", "index": 0, "delta": value}) for value in (None, 1, "x", [])),
        (FIRST, FIRST),
        (delta(0, "text_delta", text="a"), FIRST),
        (delta(0, "made_up_delta"),),
        (FIRST, delta(0, "thinking_delta", thinking="a")),
        (FIRST, delta(0, "input_json_delta", partial_json="{}")),
        (start(0, TOOL), delta(0, "text_delta", text="a")),
        (start(0, THINKING), delta(0, "text_delta", text="a")),
        (start(0, RESULT), delta(0, "text_delta", text="a")),
        (start(0, {"type": "redacted_thinking"}), delta(0, "signature_delta", signature="a")),
        *(({"type": "message_start", "message": message},) for message in (None, 1, "x", [], {"content": {}}, {"content": [1]})),
    ],
    ids=lambda events: json.dumps(events)[:70],
)
def test_p11_events_of_another_form_are_refused(events: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(MalformedError):
        streamed(*events)


@pytest.mark.parametrize(
    ("event", "bears"),
    [
        ({"type": "message_start", "message": body()}, False),
        ({"type": "message_start", "message": {}}, False),
        (start(1, {"type": "text", "text": ""}), False),
        (start(1, {"type": "text", "text": "a"}), True),
        (start(1, {"type": "tool_use", "input": {}}), True),
        (start(1, {"type": "unheard_of"}), True),
        (delta(0, "text_delta", text=""), False),
        (delta(0, "text_delta", text=None), False),
        (delta(0, "text_delta", text="a"), True),
        (delta(0, "text_delta", text=0), True),
        (delta(0, "citations_delta", citation={}), False),
        ({"type": "content_block_stop", "index": 0}, False),
        ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, False),
        ({"type": "message_stop"}, False),
        ({"type": "ping"}, False),
        ({"type": ["content_block_delta"], "index": 0, "delta": {"type": "text_delta", "text": "a"}}, False),
        ({"content": [TEXT]}, False),
        ({}, False),
    ],
    ids=lambda value: json.dumps(value)[:70],
)
def test_which_events_bear_content(event: dict[str, Any], bears: bool) -> None:
    projection = MessagesProjection()
    projection.add_event(FIRST)
    assert projection.add_event(event) is bears


def test_a_piece_of_json_bears_content_and_an_empty_one_does_not() -> None:
    projection = MessagesProjection()
    projection.add_event(start(0, TOOL))
    assert [projection.add_event(delta(0, "input_json_delta", partial_json=piece)) for piece in ("", None, "{", 5)] == [
        False,
        False,
        True,
        True,
    ]


def test_what_a_body_holds_beside_is_listed() -> None:
    projection = MessagesProjection()
    document = body(TEXT, THINKING, TOOL, RESULT, model="m", stop_reason="end_turn", ai_provenance={"token": "x"})
    projection.add_body(document)
    projection.note_body(document)
    assert projection.uncovered == ("content[].citations", "content[].id", "id", "model", "role", "stop_reason", "type")


def test_what_events_hold_beside_is_listed_with_the_deltas_that_are_not_covered() -> None:
    projection = MessagesProjection()
    events = [
        {"type": "message_start", "message": {**body(TEXT), "ai_provenance": {}}, "more": 1},
        start(1, {**TOOL, "cache": 1}),
        delta(0, "citations_delta", citation={}),
        delta(0, "text_delta", text="a", logprob=1),
        delta(1, "input_json_delta", partial_json="{}"),
        delta(0, "x" * 100),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop", "ai_provenance": {}},
        {"type": {}},
    ]
    for event in events:
        projection.add_event(event)
        projection.note_event(event)
    assert projection.uncovered == (
        "content_block.cache",
        "content_block.id",
        "delta",
        "delta of type citations_delta",
        f"delta of type {'x' * 64}",
        "delta.logprob",
        "message.content[].citations",
        "message.id",
        "message.role",
        "message.type",
        "more",
        "usage",
    )
