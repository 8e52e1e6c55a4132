"""What follows the last blank line of a stream is more of it for readers of lines: it binds the stream as its events do (C18)."""

from __future__ import annotations

import json

import pytest

from fuzz import seeds
from streams import STREAMS
from tos_guard.dialects import EventStream, StreamSealing, dialect_named, is_whole_object
from tos_guard.errors import ContentMismatchError, MalformedError, VerificationError
from tos_guard.verify import Trust, verify_prefix, verify_stream

TRUST = Trust.of(seeds.KEYS)
MORE = json.dumps({"choices": [{"index": 0, "delta": {"content": " more"}}]}).encode()


def sealed(name: str) -> bytes:
    """A stream as a guard sends it."""
    stream_format = dialect_named(name).stream_format(b"text/event-stream")
    assert stream_format is not None
    sealing = StreamSealing(stream_format)
    out = b""
    for each in [*STREAMS[name], None]:
        step = sealing.finish() if each is None else sealing.feed(each)
        out += step.out
        if step.seal:
            out += sealing.sealed(seeds.tag_of(sealing.content)).out
    return out


def verify(stream: bytes) -> None:
    verify_stream(stream, trust=TRUST, now=seeds.NOW)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_valid_stream_stays_valid_wherever_it_is_cut_behind_its_token(name: str, end: bytes) -> None:
    """Also in events that a server may send behind it, of several data lines and with what looks like content in strings."""
    whole = sealed(name)
    events = EventStream().feed(whole)
    last = next(place for place, each in enumerate(events) if each.data is not None and b"ai_provenance" in each.data)
    head = b"".join(each.raw for each in events[: last + 1])
    ping = b"event: ping\n" if name == "anthropic-messages" else b""
    later = (
        b": x\n\n"
        + ping
        + b'data: {"type": "ping",\ndata:  "x": {"y": "}{\\"", "z": [{}]}\ndata: } \n\n'
        + whole[len(head) :]
        + b"data: \n\n"
    )
    head, later = head.replace(b"\n", end), later.replace(b"\n", end)
    for size in range(len(later) + 1):
        verify(head + later[:size])


@pytest.mark.parametrize(
    "tail",
    [
        b"data: " + MORE + b"\n",
        b"data:" + MORE,
        b"event: x\ndata: " + MORE + b"\r\n",
        b'data: {\ndata: "error": {}}',
        b": x\rdata: " + MORE,
    ],
)
def test_content_or_an_error_without_a_blank_line_is_refused(tail: bytes) -> None:
    whole = sealed("openai-chat")
    for stream in (whole + tail, whole.removesuffix(b"data: [DONE]\n\n") + tail):
        with pytest.raises(ContentMismatchError, match=r"\(C18\)"):
            verify(stream)
        with pytest.raises(VerificationError):
            verify_prefix(stream, trust=TRUST, now=seeds.NOW)


@pytest.mark.parametrize(
    "tail",
    [b"data: x", b"data: [DONE]x", b"data: " + MORE + b"\ndata: x", b"data: {}\ndata: " + MORE, b'data: {"x":1,"x":2}', b"data: {}}"],
)
def test_what_begins_no_event_is_refused(tail: bytes) -> None:
    with pytest.raises(MalformedError):
        verify(sealed("openai-chat") + tail)


@pytest.mark.parametrize("data", [b'{"x":\n' + MORE + b"\n}", b'{"x":[\n' + MORE + b",\n{}]}"])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_line_that_is_an_event_by_itself_is_refused_wherever_it_stands(data: bytes, place: int) -> None:
    """Readers that skip lines which are no JSON would take it for content."""
    events = [each.raw for each in EventStream().feed(sealed("openai-chat"))]
    lines = b"data: " + data.replace(b"\n", b"\ndata: ")
    events.insert(place if place >= 0 else len(events), lines + b"\n\n")
    for end in (b"\n", b"\r\n", b"\r"):
        with pytest.raises(MalformedError, match=r"\(C18\)"):
            verify(b"".join(events).replace(b"\n", end))
    with pytest.raises(MalformedError, match=r"\(C18\)"):
        verify(sealed("openai-chat") + lines)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_with_an_event_in_such_lines_is_not_sealed(name: str) -> None:
    """No reader could verify it. Behind the seal such an event is dropped."""
    stream_format = dialect_named(name).stream_format(b"text/event-stream")
    assert stream_format is not None
    sealing, later = StreamSealing(stream_format), StreamSealing(stream_format)
    split = b'event: ping\ndata: {"type":"ping",\ndata: "x":[\ndata: {}\ndata: ]}\n\n'
    if name != "anthropic-messages":
        split = split.removeprefix(b"event: ping\n")
    assert sealing.feed(split).out == split
    assert sealing.unsealed == "unprojectable"
    for each in STREAMS[name]:
        if later.feed(each).seal:
            later.sealed(seeds.tag_of(later.content))
    assert later.feed(split).out == b""
    assert later.dropped_events == 1


def test_an_object_is_whole_with_the_brace_that_ends_it() -> None:
    for data in (b"{}", b"{} x", b'{"}":{}}', b'{"\\"":"{"}', b"{]}", b"{\n}\n{"):
        assert is_whole_object(data)
        assert not is_whole_object(data[: data.rindex(b"}")].rstrip(b"}"))
    for data in (b"{", b'{"}', b'{"\\"}', b'{"}\\', b"{{}", b'{"a":"}"'):
        assert not is_whole_object(data)


def test_a_long_tail_is_read_in_one_pass() -> None:
    """A million quotes, backslashes or braces take no longer than their length asks for."""
    for tail in (b'"' * 1_000_000, b'"' + b"\\" * 1_000_001, b"{" * 1_000_000):
        assert not is_whole_object(b"{" + tail)
