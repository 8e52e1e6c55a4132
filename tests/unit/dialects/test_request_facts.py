"""What a request could take at most, for whom it is, and what a response says it took."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tos_guard.dialects import ChatDialect, PlainDialect, RequestFacts, read_usage
from tos_guard.errors import MalformedRequestError
from tos_guard.limits import Usage


def read(**members: Any) -> RequestFacts:
    return ChatDialect().read_request(json.dumps({"model": "m", **members}).encode())


@pytest.mark.parametrize(
    ("members", "largest"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 1, "max_completion_tokens": 10_000}, 10_000),
        ({"max_completion_tokens": 1, "max_tokens": 10_000}, 10_000),
        ({"max_tokens": 1, "max_output_tokens": 9}, 9),
        ({"max_tokens": 1, "max_new_tokens": 9}, 9),
        ({"max_tokens": 1, "options": {"num_predict": 9}}, 9),
        ({"max_tokens": 1, "parameters": {"max_new_tokens": 9}}, 9),
        ({"max_tokens": 1, "thinking": {"type": "enabled", "budget_tokens": 9}}, 9),
        ({"max_tokens": 1, "reasoning": {"max_tokens": 9}}, 9),
        ({"max_tokens": 1, "sampling_params": {"max_tokens": 9}}, 9),
        ({"max_tokens": 1, "sampling_params": [{"max_tokens": 2}, {"max_tokens": 9}, "odd"]}, 9),
        ({"max_tokens": 1, "generationConfig": {"maxOutputTokens": 9}}, 9),
        ({"max_tokens": 1, "n_predict": -1}, 1),
        ({"max_tokens": 1, "max_length": "9"}, 9),
        ({"max_tokens": 1, "max_new_tokens": 8.5}, 9),
        ({"max_tokens": 1, "reasoning": "high"}, 1),
        ({"max_tokens": None, "max_completion_tokens": 3}, 3),
    ],
)
def test_the_largest_maximum_counts_under_whatever_name(members: dict[str, Any], largest: int | None) -> None:
    """A small one beside a large one bounds nothing. A number in a text is one to lenient servers."""
    assert read(**members).max_output_tokens == largest


@pytest.mark.parametrize("value", [-1, "many", "inf", True, [], {}, "9" * 40, -0.5e9], ids=repr)
def test_no_end_beside_a_number_takes_nothing_back_of_it(value: Any) -> None:
    """Else whoever asks for 100,000 tokens under one name would be charged the default by writing -1 under another."""
    facts = PlainDialect(model="m").read_request(json.dumps({"max_tokens": 100_000, "n_predict": value}).encode())
    assert (facts.max_output_tokens, facts.is_open_ended) == (100_000, True)
    assert not read(max_tokens=100_000).is_open_ended


@pytest.mark.parametrize(("members", "choices"), [({}, 1), ({"n": 3}, 3), ({"n": 0}, 1), ({"n": 2, "best_of": 5}, 5), ({"n": None}, 1)])
def test_choices_that_are_made_count(members: dict[str, Any], choices: int) -> None:
    assert read(**members).choices == choices


@pytest.mark.parametrize(
    ("prompt", "answers"), [("one", 2), (["one", "two"], 4), ([1, 2, 3], 2), ([[1], [2]], 4), ([1, "two"], 4), ([], 2), ({}, 2), (None, 2)]
)
def test_each_prompt_of_a_list_is_answered(prompt: Any, answers: int) -> None:
    """As the older completion API has it, where a list of integers is one prompt in tokens. In a chat the name means nothing."""
    body = json.dumps({"model": "m", "prompt": prompt, "n": 2}).encode()
    assert PlainDialect(model="m").read_request(body).choices == answers
    assert ChatDialect().read_request(body).choices == 2


@pytest.mark.parametrize(
    ("body", "choices"),
    [
        ({"prompt": "one", "prompt_embeds": ["a", "b"]}, 3),
        ({"prompt": None, "prompt_embeds": ["a", "b"]}, 2),
        ({"input_ids": [1, 2, 3]}, 1),
        ({"input_ids": [[1, 2], [3]]}, 2),
        ({"text": {"format": "plain"}}, 1),
        ({"input": [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]}, 1),
        ({"input": ["one", "two"]}, 2),
        ([], 1),
        ([1, 2, 3], 1),
        (["one", "two"], 2),
        ([["one", "two"], ["three", []], [1, 2]], 4),
        ([{"n": 2}, {"n": 3}], 5),
    ],
    ids=json.dumps,
)
def test_prompts_of_a_plain_request(body: Any, choices: int) -> None:
    """A conversation is one prompt, and so is a list of tokens; each text of a list is another."""
    assert PlainDialect(model="m").read_request(json.dumps(body).encode()).choices == choices


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ([{"model": "big"}], "big"),
        ([{"model": "big"}, {"model": "big"}], "big"),
        ([[{"model": "big"}], [[{"model": "big"}]]], "big"),
        ([{"model": "small"}, {}, "text"], "small"),
        ([{}, {}], "small"),
        (["text"], "small"),
        ([], "small"),
        ("text", "small"),
        (7, "small"),
    ],
    ids=json.dumps,
)
def test_the_model_of_an_array_is_the_one_that_its_requests_name(body: Any, model: str) -> None:
    assert PlainDialect(model="small").read_request(b" " + json.dumps(body).encode()).model == model


@pytest.mark.parametrize(
    "body",
    [
        [{"model": "big"}, {"model": "small"}],
        [{"model": "big"}, {}],
        [{"model": "big"}, "text"],
        [{}, [[{"model": "big"}]]],
        [{"model": 7}],
        [{"user": "one"}, {"user": "two"}],
        [{}] * 513,
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_an_array_of_requests_that_differ_is_refused(body: Any) -> None:
    """Else what is allowed to the first would be done for all, or the route's model would be paid for another."""
    with pytest.raises(MalformedRequestError):
        PlainDialect(model="small").read_request(json.dumps(body).encode())


@pytest.mark.parametrize("body", [b'[{"model":"big"}', b'[{"model":"big","model":"small"}]', b"[{}]{}", b"[" * 100_000])
def test_what_begins_as_an_array_and_is_none_is_refused(body: bytes) -> None:
    """A reader less strict than ours could find a model in it."""
    with pytest.raises(MalformedRequestError):
        PlainDialect(model="small").read_request(body)


def test_the_end_user_of_an_array_is_the_one_that_is_named() -> None:
    facts = PlainDialect(model="m").read_request(b'[{"user":"one"},{},{"user":"one","max_tokens":5}]')
    assert (facts.end_user, facts.max_output_tokens, facts.is_open_ended) == ("one", 5, True)


@pytest.mark.parametrize(
    "members", [{"n": -1}, {"n": "2"}, {"n": True}, {"best_of": 1.5}, {"max_tokens": -1}, {"max_completion_tokens": "9"}]
)
def test_a_count_that_is_none_is_refused_in_a_chat(members: dict[str, Any]) -> None:
    """Nobody can say what a server would make of it."""
    with pytest.raises(MalformedRequestError, match="is not a whole number"):
        read(**members)


def test_another_endpoint_may_mean_something_else_by_the_same_names() -> None:
    """A plain JSON body is read for what it says, and never refused for it."""
    facts = PlainDialect(model="m").read_request(b'{"n":"two","best_of":-1,"max_tokens":"many","user":7}')
    assert (facts.choices, facts.max_output_tokens, facts.is_open_ended, facts.end_user) == (1, None, True, None)
    assert PlainDialect(model="m").read_request(b'{"n":"3","best_of":2.0}').choices == 3
    assert PlainDialect(model="m").read_request(b'{"n":3,"max_tokens":7}').max_output_tokens == 7


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"safety_identifier": "a", "user": "b"}, "a"),
        ({"user": "b", "metadata": {"user_id": "c"}}, "b"),
        ({"metadata": {"user_id": "c"}}, "c"),
        ({"safety_identifier": 7, "user": "b"}, "b"),
        ({"user": ""}, None),
        ({"user": "x" * 513}, None),
        ({"metadata": "c"}, None),
        ({}, None),
    ],
)
def test_the_end_user_is_who_the_request_names(members: dict[str, Any], named: str | None) -> None:
    assert read(**members).end_user == named


def test_parts_whose_tokens_do_not_show_in_their_size_are_counted() -> None:
    """An image's address is short, and the image is not."""
    image = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    content = [{"type": "text", "text": "What is this?"}, image, {"type": "input_audio"}, "odd", {}]
    messages = [{"role": "user", "content": content}, {"role": "user", "content": "words"}, "odd", {"role": "user", "content": [image]}]
    assert read(messages=messages).media_parts == 4
    assert read(messages="odd").media_parts == 0


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 5}}, Usage(3, 5)),
        ({"usage": {"input_tokens": 3, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2}}}, Usage(3, 5, 2)),
        ({"usage": {"input_tokens": 3, "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 2}}}, Usage(3, 5, 2)),
        ({"usage": {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 4}}}, Usage(None, 5, 4)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": -5}}, Usage(3, None)),
        ({"usage": {"prompt_tokens": "3", "completion_tokens": True}}, None),
        ({"usage": {"prompt_tokens": 2**60}}, None),
        ({"usage": None}, None),
        ({"usage": []}, None),
        ({}, None),
        ([], None),
    ],
)
def test_what_a_response_says_it_used(body: Any, usage: Usage | None) -> None:
    """Whatever a careless upstream writes, numbers are numbers, and the rest is unknown."""
    assert read_usage(body) == usage


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"input_tokens": 10, "cache_read_input_tokens": 90_000, "cache_creation_input_tokens": 5, "output_tokens": 1}, 90_015),
        ({"input_tokens": 10, "cache_read_input_tokens": None, "output_tokens": 1}, 10),
        ({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 9}, "output_tokens": 1}, 10),
        ({"prompt_tokens": 10, "cache_read_input_tokens": 9, "completion_tokens": 1}, 10),
    ],
    ids=["beside", "none", "within", "within-openai"],
)
def test_a_prompt_from_a_cache_is_counted(usage: dict[str, Any], counted: int) -> None:
    """Else a long prompt that is sent again and again would be given back each time."""
    read_of_it = read_usage({"usage": usage})
    assert read_of_it is not None
    assert read_of_it.input_tokens == counted
