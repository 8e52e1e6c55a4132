"""What a request for embeddings asks for: input, and no output."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tos_guard.dialects import EmbeddingsDialect, JSONProjection, RequestFacts
from tos_guard.errors import MalformedRequestError
from tos_guard.guard import Meter, ModelFacts
from tos_guard.limits import Price, Usage


def read(**members: Any) -> RequestFacts:
    return EmbeddingsDialect().read_request(json.dumps({"model": "m", **members}).encode())


@pytest.mark.parametrize(
    ("given", "inputs"), [("one", 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1], [2], [3]], 3), ([], 1), (None, 1), ({}, 1), (5, 1)]
)
def test_each_input_is_a_prompt(given: Any, inputs: int) -> None:
    """A text, or a list of texts; one list of tokens, or a list of such lists."""
    facts = read(input=given, user="u", encoding_format="base64", dimensions=4)
    assert facts == RequestFacts(action="generate", model="m", choices=inputs, end_user="u", gives_output=False)


def test_pictures_among_inputs_count() -> None:
    assert read(input=["text", {"type": "image_url", "image_url": "u"}]).media_parts == 1
    assert read(messages=[{"content": [{"type": "image_url"}]}]).media_parts == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"input":"x"}', b'{"model":1,"input":"x"}'])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        EmbeddingsDialect().read_request(body)


def test_input_alone_is_reserved_whatever_else_is_declared() -> None:
    """Neither the default maximum nor the model's, and nothing for each input once more."""
    meter = Meter((), models={"m": ModelFacts(max_output_tokens=9_000, price=Price(input=1_000_000, output=5_000_000))})
    body = json.dumps({"model": "m", "input": ["Hello"] * 10, "max_tokens": 500}).encode()
    reserved = meter.estimate(EmbeddingsDialect().read_request(body), body)
    assert (reserved.input_tokens, reserved.output_tokens, reserved.reasoning_tokens) == (-(-len(body) // 2), 0, 0)
    assert reserved.cost == reserved.input_tokens
    used = meter.actual(Usage(input_tokens=12), reserved=reserved, model="m")
    assert (used.input_tokens, used.output_tokens, used.reasoning_tokens, used.cost) == (12, 0, 0, 12)


def test_a_body_is_covered_whole_and_never_streamed() -> None:
    dialect = EmbeddingsDialect()
    assert dialect.projection is JSONProjection
    assert dialect.stream_format(b"text/event-stream") is None
