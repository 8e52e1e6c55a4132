"""Streams: cutting them anywhere changes nothing, and no byte is lost."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fuzz import seeds
from tos_guard.dialects import ChatFormat, ChatProjection, EventStream, StreamSealing
from tos_guard.errors import VerificationError
from tos_guard.provenance import Content, normalise_text, text_digest
from tos_guard.verify import Trust, verify_stream

PIECES = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data",
        b": c",
        b"id: 1",
        b"event: x",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"\xef\xbb\xbf",
        b"\xff",
        b" ",
    ]
)
STREAMS = st.lists(PIECES, max_size=30).map(b"".join)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


def datas(chunks: list[bytes]) -> tuple[list[bytes], bytes]:
    stream = EventStream()
    events = [event for chunk in chunks for event in stream.feed(chunk)]
    return [event.data for event in events if event.data is not None], b"".join(event.raw for event in events) + stream.tail


@given(STREAMS, st.lists(st.integers(0, 1_000), max_size=12))
def test_cuts_change_neither_the_data_nor_the_bytes(data: bytes, at: list[int]) -> None:
    found, raw = datas(cut(data, at))
    assert found == datas([data])[0]
    assert raw == data


def browser_datas(data: bytes) -> list[str]:
    """WHATWG 9.2.6 line by line, as a second opinion."""
    text = data.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found: list[str] = []
    lines: list[str] | None = None
    for line in text.split("\n")[:-1]:  # what follows the last line end is no line yet
        if not line:
            if lines is not None:
                found.append("\n".join(lines))
            lines = None
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            if name == "data":
                lines = [*(lines or []), value.removeprefix(" ")]
    return found


@given(STREAMS)
def test_events_are_those_of_the_standard(data: bytes) -> None:
    assert [event.decode("utf-8", "replace") for event in datas([data])[0]] == browser_datas(data)


TRUST = Trust.of(seeds.KEYS)
SEALED = b"".join(seeds.sealed_stream(seeds.MESSAGES[1]))


@given(st.lists(st.integers(0, 100_000), max_size=20))
def test_sealing_does_not_depend_on_chunking(at: list[int]) -> None:
    sealing = StreamSealing(ChatFormat())
    out = b""
    for chunk in cut(b"".join(seeds.plain_stream(seeds.MESSAGES[1])), at):
        step = sealing.feed(chunk)
        out += step.out
        if step.seal:
            out += sealing.sealed(seeds.tag_of(sealing.content)).out
    assert out + sealing.finish().out == SEALED


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_byte_is_invalid_or_uncovered(position: int, difference: int) -> None:
    """Any byte of a sealed stream may change: then either verification fails, or what it covers reads the same."""
    changed = SEALED[:position] + bytes([SEALED[position] ^ difference]) + SEALED[position + 1 :]
    try:
        verified = verify_stream(changed, trust=TRUST, now=seeds.NOW)
    except VerificationError:
        return
    assert verified.claims.content is not None
    assert contents(changed) == verified.claims.content.root


def contents(stream: bytes) -> str:
    projection = ChatProjection()
    for data in datas([stream])[0]:
        if data and data != b"[DONE]":
            projection.add_event(json.loads(data))
    return projection.content().root


@given(st.text(max_size=40), st.lists(st.integers(0, 100), max_size=6))
def test_text_cut_into_deltas_has_the_digest_of_the_whole(text: str, at: list[int]) -> None:
    """Also where a cut falls between CR and LF, or between the two halves of a character outside the first plane."""
    units = text.encode("utf-16-le", "surrogatepass")
    places = sorted({0, len(units), *(2 * (place % (len(units) // 2 + 1)) for place in at)})
    projection = ChatProjection()
    for a, b in pairwise(places):
        piece = units[a:b].decode("utf-16-le", "surrogatepass")
        projection.add_event({"choices": [{"index": 0, "delta": {"content": piece}}]})
    whole = normalise_text(text)
    assert projection.content() == Content.of("chat-1", [(0, "text", text_digest(text))] if whole else [])


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert "\r" not in once
