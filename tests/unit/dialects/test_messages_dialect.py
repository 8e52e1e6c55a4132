"""What a Messages request asks for, and how Anthropic's clients are told no."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tos_guard.dialects import MessagesDialect, RequestFacts, RequestHead
from tos_guard.errors import MalformedRequestError
from tos_guard.limits import Dimension, Limit, LimitState, Quantity, Sliding

NOW = datetime(2026, 12, 31, 23, 59, 30, 250_000, tzinfo=UTC)
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}
WORDS = {"type": "text", "text": "Hello"}


def read(path: str = "/v1/messages", **members: Any) -> RequestFacts:
    return MessagesDialect().read_request(json.dumps({"model": "m", **members}).encode(), RequestHead(path=path))


def test_a_request_says_what_it_asks_for() -> None:
    facts = read(
        max_tokens=100,
        stream=True,
        thinking={"type": "enabled", "budget_tokens": 64},
        metadata={"user_id": "u-1"},
        system=[WORDS],
        tools=[{"name": "weather", "input_schema": {"type": "object"}}],
        messages=[{"role": "user", "content": "Hello"}],
    )
    assert facts == RequestFacts(action="generate", model="m", stream=True, max_output_tokens=100, end_user="u-1")


@pytest.mark.parametrize(
    ("members", "largest"),
    [
        ({}, None),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "thinking": {"type": "enabled", "budget_tokens": 9}}, 9),
        ({"max_tokens": 5, "thinking": {"type": "adaptive"}}, 5),
        ({"max_tokens": 5, "max_tokens_to_sample": 9}, 9),
    ],
)
def test_the_largest_maximum_counts(members: dict[str, Any], largest: int | None) -> None:
    """Where tools and thinking interleave, the budget of thinking may be larger than ``max_tokens``."""
    assert read(**members).max_output_tokens == largest


@pytest.mark.parametrize("value", [-1, "9", 1.5, True, [], {}])
def test_a_maximum_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(MalformedRequestError, match="max_tokens is not a whole number"):
        read(max_tokens=value)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model":5}', b'{"model":"m","model":"n"}', b"\xff", b'{"model":""}'])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        MessagesDialect().read_request(body)


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({}, 0),
        ({"messages": "x", "system": 5}, 0),
        ({"messages": [1, {"content": "text"}, {"content": None}]}, 0),
        ({"messages": [{"content": [WORDS, IMAGE, IMAGE]}]}, 2),
        ({"messages": [{"content": [{"type": "document", "source": {"type": "content", "content": [WORDS, IMAGE]}}]}]}, 2),
        ({"messages": [{"content": [{"type": "tool_result", "content": [WORDS, IMAGE]}]}]}, 1),
        ({"messages": [{"content": [{"type": "tool_result", "content": "words"}]}]}, 0),
        ({"messages": [{"content": [{"type": "web_fetch_tool_result", "content": {"type": "web_fetch_result", "content": IMAGE}}]}]}, 1),
        ({"system": [WORDS, IMAGE]}, 1),
        ({"messages": [{"content": [{"type": "unheard_of"}, {}]}]}, 2),
        (
            {
                "messages": [
                    {
                        "content": [
                            {"type": kind, "content": [WORDS]}
                            for kind in ("thinking", "redacted_thinking", "tool_use", "server_tool_use", "mcp_tool_use", "search_result")
                        ]
                        + [{"type": "web_search_tool_result", "content": [{"type": "web_search_result"}]}]
                    }
                ]
            },
            0,
        ),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_media_are_found_at_any_depth(members: dict[str, Any], found: int) -> None:
    """Images come back from tools as well as from people. What we do not know costs as much."""
    assert read(**members).media_parts == found


def test_counting_tokens_takes_none() -> None:
    """No model reads the prompt, and none answers."""
    facts = read("/v1/messages/count_tokens", messages=[{"role": "user", "content": "Hello"}])
    assert (facts.model, facts.takes_input, facts.gives_output) == ("m", False, False)
    for path in ("/v1/messages", "/count_tokens", "/v1/messages/count_tokens/x", ""):
        assert read(path).gives_output, path


@pytest.mark.parametrize(
    ("kind", "code", "name"),
    [
        ("authentication_error", "tos_unauthenticated", "authentication_error"),
        ("permission_error", "tos_model_not_allowed", "permission_error"),
        ("rate_limit_error", "tos_limit", "rate_limit_error"),
        ("invalid_request_error", "tos_malformed_request", "invalid_request_error"),
        ("invalid_request_error", "tos_route_not_guarded", "not_found_error"),
        ("invalid_request_error", "tos_request_too_large", "request_too_large"),
        ("server_error", "tos_handler_error", "api_error"),
        ("server_error", "anything_else", "api_error"),
        ("server_error", "tos_unavailable", "overloaded_error"),
    ],
)
def test_a_refusal_has_the_shape_and_the_names_of_anthropic(kind: str, code: str, name: str) -> None:
    body = MessagesDialect().refusal_body(message="No \ud800", code=code, kind=kind, extra={"terms_url": "u", "request_id": "r"})
    assert json.loads(body) == {
        "type": "error",
        "error": {"type": name, "message": "No \ud800", "code": code, "terms_url": "u"},
        "request_id": "r",
    }


@pytest.mark.parametrize(
    ("code", "name"), [("tos_clause", "permission_error"), ("tos_handler_error", "api_error"), ("tos_limit", "rate_limit_error")]
)
def test_an_error_in_a_stream_is_an_event_of_that_name(code: str, name: str) -> None:
    event = MessagesDialect().error_event(message="Stop", code=code, extra={})
    assert event.startswith(b"event: error\ndata: {")
    assert event.endswith(b"}\n\n")
    assert json.loads(event.split(b"data: ")[1]) == {"type": "error", "error": {"type": name, "message": "Stop", "code": code}}


def state(quantity: Quantity, remaining: int, reset: float = 30.2, *, shadow: bool = False) -> LimitState:
    limit = Limit(id="x", quantity=quantity, amount=100, per=(Dimension.ACCOUNT,), window=Sliding(60), shadow=shadow)
    return LimitState(limit, ("acme",), 100 - remaining, remaining, reset)


def test_limits_are_told_where_anthropics_clients_look() -> None:
    """Of each quantity the limit that is used most; when it resets as a moment, rounded up to the second."""
    states = [
        state(Quantity.REQUESTS, 40),
        state(Quantity.REQUESTS, 90),
        state(Quantity.REQUESTS, 1, shadow=True),
        state(Quantity.TOKENS, 5, 0.0),
        state(Quantity.INPUT_TOKENS, 7, 29.75),
        state(Quantity.OUTPUT_TOKENS, 8, 3600),
        state(Quantity.COST, 9),
    ]
    assert dict(MessagesDialect().limit_fields(states, now=NOW)) == {
        b"anthropic-ratelimit-requests-limit": b"100",
        b"anthropic-ratelimit-requests-remaining": b"40",
        b"anthropic-ratelimit-requests-reset": b"2027-01-01T00:00:01Z",
        b"anthropic-ratelimit-tokens-limit": b"100",
        b"anthropic-ratelimit-tokens-remaining": b"5",
        b"anthropic-ratelimit-tokens-reset": b"2026-12-31T23:59:31Z",
        b"anthropic-ratelimit-input-tokens-limit": b"100",
        b"anthropic-ratelimit-input-tokens-remaining": b"7",
        b"anthropic-ratelimit-input-tokens-reset": b"2027-01-01T00:00:00Z",
        b"anthropic-ratelimit-output-tokens-limit": b"100",
        b"anthropic-ratelimit-output-tokens-remaining": b"8",
        b"anthropic-ratelimit-output-tokens-reset": b"2027-01-01T00:59:31Z",
    }
    assert MessagesDialect().limit_fields([], now=NOW) == []
