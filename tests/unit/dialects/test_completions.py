"""OpenAI's older completions: what a request asks for, where its texts are, and that its streams are sealed as those of chat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streams import STREAMS, event
from tos_guard.dialects import CompletionsDialect, CompletionsFormat, CompletionsProjection, StreamSealing
from tos_guard.errors import MalformedError, MalformedRequestError
from tos_guard.provenance import Content, text_digest

CONTENT = Content.of("completions-1", [(0, "text", text_digest("Hello, wö")), (1, "text", text_digest("Bye bye"))])


def read(**members: Any) -> Any:
    return CompletionsDialect().read_request(json.dumps({"model": "m", "prompt": "x", **members}).encode())


def test_each_prompt_is_answered_with_all_its_choices() -> None:
    facts = read(prompt=["a", "b"], n=2, best_of=3, max_tokens=5, stream=True, user="u")
    assert (facts.choices, facts.max_output_tokens, facts.stream, facts.end_user) == (6, 5, True, "u")
    assert read(prompt=[1, 2, 3]).choices == 1


@pytest.mark.parametrize("body", [b"", b"{}", b'{"model":"m","n":"two"}', b'{"model":"m","max_tokens":1.5}'])
def test_a_request_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        CompletionsDialect().read_request(body)


def test_stream_and_body_have_the_same_leaves() -> None:
    body, streamed = CompletionsProjection(), CompletionsProjection()
    choices = [{"index": 1, "text": "Bye bye", "finish_reason": "length"}, {"index": 0, "text": "Hello, wö"}]
    body.add_body({"id": "c", "choices": choices})
    body.note_body({"id": "c", "choices": choices})
    for raw in STREAMS["openai-completions"][:-1]:
        streamed.add_event(json.loads(raw[6:]))
    assert body.content() == streamed.content() == CONTENT
    assert body.uncovered == ("choices[].finish_reason", "id")


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"choices": {}},
        {"choices": ["x"]},
        {"choices": [{"text": "x"}]},
        {"choices": [{"index": 65_536, "text": "x"}]},
        {"choices": [{"index": 0}, {"index": 0}]},
    ],
)
def test_bodies_of_another_form_are_refused(body: Any) -> None:
    with pytest.raises(MalformedError):
        CompletionsProjection().add_body(body)


def test_a_text_that_is_none_is_named_and_not_covered() -> None:
    projection = CompletionsProjection()
    assert projection.add_event({"choices": [{"index": 0, "text": ["x"]}]}) is True
    assert projection.add_event({"choices": [{"index": 1, "text": None}, {"index": 2, "text": ""}]}) is False
    assert projection.content() == Content.of("completions-1", [(0, "text", None)])


def test_the_tag_goes_where_that_of_chat_goes() -> None:
    *texts, last, done = STREAMS["openai-completions"]
    sealing = StreamSealing(CompletionsFormat())
    for each in texts[:-1]:
        assert sealing.feed(each).out == each
    assert sealing.feed(texts[-1]).out == b""  # one choice has finished, and the other may go on
    assert sealing.feed(last).out == texts[-1]
    assert sealing.feed(done).seal
    assert sealing.content == CONTENT
    assert sealing.sealed(b'{"token":"a.b.c"}').out == last[:-3] + b',"ai_provenance":{"token":"a.b.c"}}\n\n' + done


def test_chat_on_a_route_of_completions_passes_unsealed() -> None:
    sealing = StreamSealing(CompletionsFormat())
    out = b"".join(sealing.feed(each).out for each in [event({"choices": []}), *STREAMS["openai-chat"]])
    assert out == event({"choices": []}) + b"".join(STREAMS["openai-chat"])
    assert sealing.unsealed == "unprojectable"
