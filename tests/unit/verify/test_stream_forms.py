"""Which form a verifier takes a stream for, while it is read (C13), and that a token of another form does not fit it (P9)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fuzz import seeds
from streams import STREAMS, event
from tos_guard.dialects import StreamSealing, dialect_named, told_form
from tos_guard.dialects._sse import usual_event
from tos_guard.errors import VerificationError
from tos_guard.types import Completion
from tos_guard.verify import Trust, Verified, verify_stream

TRUST = Trust.of(seeds.KEYS)
TEXT = {"index": 0, "text": "x"}
DELTA = {"index": 0, "delta": {"content": "x"}}


@pytest.mark.parametrize(
    ("first", "form"),
    [
        ({"type": "response.created"}, "responses-1"),
        ({"type": "response."}, "responses-1"),
        ({"type": "message_start"}, "messages-1"),
        ({"type": "message_stop"}, "chat-1"),
        ({"type": "response"}, "chat-1"),
        ({"type": "response.created", "choices": [TEXT]}, "responses-1"),
        ({"type": "chunk", "choices": [TEXT]}, "chat-1"),
        ({"type": "ping", "choices": [TEXT]}, "completions-1"),
        ({"type": ["response.created"], "choices": [TEXT]}, "completions-1"),
        ({"choices": [DELTA]}, "chat-1"),
        ({"choices": [DELTA], "object": "text_completion"}, "completions-1"),
        ({"choices": [DELTA, TEXT]}, "completions-1"),
        ({"choices": [{"text": None}]}, "completions-1"),
        ({"choices": "odd"}, "chat-1"),
        ({"choices": 0}, "chat-1"),
        ({"choices": ["text"]}, "chat-1"),
        ({"choices": []}, None),
        ({"choices": None}, None),
        ({"type": "ping"}, None),
        ({"type": "error", "error": {}}, None),
        ({"error": {}}, None),
        ({}, None),
    ],
)
def test_the_first_telling_event_tells_the_form(first: dict[str, Any], form: str | None) -> None:
    assert told_form(first) == form


def verify(stream: bytes) -> Verified:
    return verify_stream(stream, trust=TRUST, now=seeds.NOW)


def failed(name: str, *before: bytes) -> bytes:
    """A stream that fails at once, as the guard ends it."""
    dialect = dialect_named(name)
    stream_format = dialect.stream_format(b"text/event-stream")
    assert stream_format is not None
    sealing = StreamSealing(stream_format)
    out = b"".join(sealing.feed(each).out for each in before)
    out += sealing.fail(dialect.error_event(message="broken", code="c", extra={}), Completion.ERROR).out
    return out + sealing.sealed(seeds.tag_of(sealing.content, completion=Completion.ERROR)).out


def ping(dialect: str) -> bytes:
    """As each dialect names it."""
    return event({"type": "ping"}, "ping" if dialect == "anthropic-messages" else None)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("pings", [0, 2])
def test_a_stream_that_tells_nothing_is_of_the_form_of_its_token(name: str, pings: int) -> None:
    verified = verify(failed(name, *[ping(name)] * pings, b": hi\n\n"))
    assert verified.claims.content is not None
    assert verified.claims.content.count == 0
    assert verified.claims.completion is Completion.ERROR


@pytest.mark.parametrize("name", STREAMS)
def test_a_token_of_one_form_fits_no_stream_of_another(name: str) -> None:
    """Not even where both hold nothing that is covered."""
    for other in STREAMS.keys() - {name}:
        telling = next(
            each for each in STREAMS[other] if (found := usual_event(each)) and told_form(json.loads(found.data or b"")) is not None
        )
        with pytest.raises(VerificationError, match=r"the token is not of|\(C16\)") as caught:
            verify(telling + failed(name))
        assert caught.value.verdict == "invalid"


@pytest.mark.parametrize("name", STREAMS)
def test_pings_and_events_without_choices_tell_nothing(name: str) -> None:
    untyped = [] if name == "anthropic-messages" else [event({"choices": []}), event({"vendor": 1})]
    verified = verify(failed(name, ping(name), *untyped, *STREAMS[name][:3]))
    assert verified.claims.content is not None
    assert verified.claims.content.projection == told_form_of(name)


def told_form_of(name: str) -> str:
    stream_format = dialect_named(name).stream_format(b"text/event-stream")
    assert stream_format is not None
    return stream_format.projection.name
