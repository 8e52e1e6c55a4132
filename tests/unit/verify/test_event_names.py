"""What the events of a stream are called, and a [DONE] before its end, bind it as its content does (C16, C17)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fuzz import seeds
from streams import STREAMS, event
from tos_guard.dialects import DONE, EventStream, ServerSentEvent, StreamSealing, dialect_named, is_named_right
from tos_guard.errors import AbsentError, IncompleteError, MalformedError, VerificationError
from tos_guard.types import Stage
from tos_guard.verify import Prefix, StreamVerifier, Trust, Verified, verify_prefix, verify_stream

TRUST = Trust.of(seeds.KEYS)
PENDING = seeds.token(None)
DONE_EVENT = b"data: [DONE]\n\n"
NAMES = ("ping", "message", "error", "thread.x", "completion", "response.completed", "message_stop", "")


def sealed(name: str, *events: bytes, every: int | None = None) -> list[ServerSentEvent]:
    """The events of a stream as a guard sends them."""
    stream_format = dialect_named(name).stream_format(b"text/event-stream")
    assert stream_format is not None
    sealing = StreamSealing(stream_format, checkpoint_events=every)
    sealing.pending = b'{"token":"%s"}' % PENDING.encode()
    out = b""
    for each in [*(events or STREAMS[name]), None]:
        step = sealing.finish() if each is None else sealing.feed(each)
        out += step.out
        while step.checkpoint or step.seal:
            if step.checkpoint:
                token = seeds.token(sealing.content, stage=Stage.CHECKPOINT, completion=None)
                step = sealing.checkpointed(b'{"token":"%s"}' % token.encode())
            else:
                step = sealing.sealed(seeds.tag_of(sealing.content))
            out += step.out
    assert sealing.unsealed is None
    return EventStream().feed(out)


def named(sent: ServerSentEvent, name: str | None) -> bytes:
    """The event under another name, or under none."""
    assert sent.data is not None
    return (b"" if name is None else b"event: " + name.encode() + b"\n") + b"data: " + sent.data + b"\n\n"


def raws(events: list[ServerSentEvent]) -> list[bytes]:
    return [each.raw for each in events]


def verify(*events: bytes, token: str | None = PENDING) -> Verified:
    return verify_stream(b"".join(events), trust=TRUST, now=seeds.NOW, token=token)


def prefix(*events: bytes) -> Prefix:
    return verify_prefix(b"".join(events), trust=TRUST, now=seeds.NOW)


@pytest.mark.parametrize(
    ("form", "said", "name", "right"),
    [
        ("messages-1", {"type": "ping"}, b"ping", True),
        ("messages-1", {"type": "ping"}, b"", False),
        ("messages-1", {"type": "ping"}, b"ping ", False),
        ("messages-1", {"type": "ping"}, b"message", False),
        ("messages-1", {"type": "error", "error": {}}, b"error", True),
        ("messages-1", {"error": {}}, b"error", False),
        ("messages-1", {}, b"", False),
        ("messages-1", {"type": ""}, b"", True),
        ("messages-1", {"type": None}, b"None", False),
        ("messages-1", {"type": ["ping"]}, b"ping", False),
        ("messages-1", {"type": "\ud800"}, b"\xed\xa0\x80", False),
        ("responses-1", {"type": "response.created"}, b"response.created", True),
        ("responses-1", {"type": "response.created"}, b"", True),
        ("responses-1", {"type": "response.created"}, b"message", False),
        ("responses-1", {"type": "response.created"}, b"thread.created", False),
        ("responses-1", {"error": {}}, b"error", False),
        ("responses-1", {}, b"", True),
        *((form, {"choices": []}, name, True) for form in ("chat-1", "completions-1") for name in (b"", b"message")),
        *((form, {"error": {}}, b"error", True) for form in ("chat-1", "completions-1")),
        *((form, {"error": None}, b"error", False) for form in ("chat-1", "completions-1")),
        *((form, {"type": "error"}, b"error", False) for form in ("chat-1", "completions-1")),
        *((form, {"type": "x"}, b"x", False) for form in ("chat-1", "completions-1")),
    ],
)
def test_what_an_event_may_be_called_in_each_form(form: str, said: dict[str, Any], name: bytes, right: bool) -> None:
    assert is_named_right(form, said, name) is right


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("dialect", STREAMS)
def test_no_event_can_be_called_something_else(dialect: str, every: int | None) -> None:
    """Whichever event, before and after the one that tells the form and the one with the token."""
    events = sealed(dialect, every=every)
    verify(*raws(events))
    form = verify(*raws(events)).claims.content.projection  # type: ignore[union-attr]
    renamed = 0
    for position, sent in enumerate(events):
        if not sent.data or sent.data == DONE:
            continue
        for name in (*NAMES, None):
            if is_named_right(form, json.loads(sent.data), (name or "").encode()):
                continue
            renamed += 1
            changed = [*raws(events[:position]), named(sent, name), *raws(events[position + 1 :])]
            for token in (None, PENDING):
                with pytest.raises(MalformedError, match=r"event \d+ .*\(C16\)"):
                    verify(*changed, token=token)
            with pytest.raises(MalformedError, match=r"\(C16\)"):
                prefix(*changed)
    assert renamed >= 5 * len(STREAMS[dialect]) - 20


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("dialect", STREAMS)
def test_no_done_can_be_put_before_the_event_with_the_token(dialect: str, every: int | None) -> None:
    events = raws(sealed(dialect, every=every))
    last = max(position for position, raw in enumerate(events) if b"ai_provenance" in raw)
    for position in range(len(events) + 1):
        changed = [*events[:position], DONE_EVENT, *events[position:]]
        if position > last:
            assert verify(*changed).claims.stage is Stage.FINAL
            continue
        for token in (None, PENDING):
            with pytest.raises(MalformedError, match=r"is \[DONE\] and comes before the final token \(C17\)"):
                verify(*changed, token=token)


@pytest.mark.parametrize("dialect", STREAMS)
def test_a_checkpoint_behind_done_proves_nothing(dialect: str) -> None:
    events = raws(sealed(dialect, every=1))
    marks = [position for position, raw in enumerate(events) if b"ai_provenance" in raw and PENDING.encode() not in raw]
    first, second = marks[0], marks[1]
    cut = [*events[: first + 1], DONE_EVENT, *events[first + 1 : second + 1]]
    with pytest.raises(IncompleteError) as caught:
        verify(*cut)
    assert caught.value.proven == prefix(*cut)
    assert prefix(*cut).size_bytes == sum(map(len, events[: first + 1]))
    early = [*events[:first], DONE_EVENT, *events[first : second + 1]]
    with pytest.raises(IncompleteError) as caught:
        verify(*early, token=None)
    assert caught.value.proven is None
    with pytest.raises(IncompleteError, match="before its first checkpoint"):
        prefix(*early)


@pytest.mark.parametrize("dialect", STREAMS)
def test_what_a_checkpoint_proved_before_a_wrong_name_stays_proven_and_no_more(dialect: str) -> None:
    events = sealed(dialect, every=2)
    first = next(at for at, sent in enumerate(events) if b"ai_provenance" in sent.raw and PENDING.encode() not in sent.raw)
    verifier = StreamVerifier(trust=TRUST, now=seeds.NOW, token=PENDING)
    size = sum(map(len, raws(events[: first + 1])))
    verifier.feed(b"".join(raws(events[: first + 1])))
    with pytest.raises(MalformedError, match=f"event {len([each for each in events[: first + 2] if each.data])} .*named 'x'.*C16"):
        verifier.feed(named(events[first + 1], "x"))
    proven = verifier.proven()
    assert proven is not None
    assert proven.size_bytes == size


def test_the_form_may_be_told_after_the_name() -> None:
    """What comes first tells nothing, and each form has its own names."""
    ping = {"type": "ping"}
    for dialect in STREAMS:
        events = raws(sealed(dialect))
        for name in ("ping", None, "message", "x"):
            changed = [event(ping, name), *events]
            form = verify(*events).claims.content.projection  # type: ignore[union-attr]
            if is_named_right(form, ping, (name or "").encode()):
                verify(*changed)
                continue
            with pytest.raises(MalformedError, match=r"event 1 of type 'ping' is .*\(C16\)"):
                verify(*changed)


def test_where_no_event_tells_the_token_does() -> None:
    """That of the end, or else of the first checkpoint."""
    for dialect in STREAMS:
        stream_format = dialect_named(dialect).stream_format(b"text/event-stream")
        assert stream_format is not None
        content = stream_format.projection().content()
        right = is_named_right(stream_format.projection.name, {"type": "ping"}, b"ping")
        final = {"type": "error", "error": {}, "ai_provenance": json.loads(seeds.tag_of(content))}
        point = seeds.token(content, stage=Stage.CHECKPOINT, completion=None)
        told_by_end = [event({"type": "ping"}, "ping"), event(final, "error")]
        told_by_checkpoint = [event({"type": "ping"}, "ping"), event({"type": "ping", "ai_provenance": {"token": point}}, "ping")]
        if right:
            verify(*told_by_end)
            assert prefix(*told_by_checkpoint).claims.stage is Stage.CHECKPOINT
            continue
        with pytest.raises(MalformedError, match=r"event 1 of type 'ping' is named 'ping'.*\(C16\)"):
            verify(*told_by_end)
        with pytest.raises(MalformedError, match=r"event 1 .*\(C16\)"):
            prefix(*told_by_checkpoint)


def test_a_stream_without_a_token_is_absent_whatever_its_events_are_called() -> None:
    stream = [named(ServerSentEvent(each, each[6:-2]), "x") for each in STREAMS["openai-chat"] if each.startswith(b"data: {")]
    with pytest.raises(AbsentError):
        verify(*stream, token=None)
    with pytest.raises(IncompleteError):
        verify(*stream)


def test_names_and_types_of_any_size_are_told_in_short() -> None:
    events = raws(sealed("openai-chat"))
    odd = event({"type": "ping", "x": "y" * 100_000}, "\x1b[31m" + "n" * 100_000)
    with pytest.raises(VerificationError) as caught:
        verify(odd, *events)
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)
