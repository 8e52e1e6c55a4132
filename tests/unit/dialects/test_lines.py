"""Responses in lines on their way out: lines leave whole, what is covered is their values, and cuts change nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tos_guard._canonical import sha256_b64url
from tos_guard.dialects import LinesSealing, LineStream, NdjsonDialect
from tos_guard.dialects import _ndjson as ndjson
from tos_guard.errors import MalformedError
from tos_guard.provenance import Content
from tos_guard.types import Completion

TAG = b'{"token":"t"}'
TAG_LINE = b'{"ai_provenance":{"token":"t"}}\n'


def through(*chunks: bytes) -> tuple[list[bytes], LinesSealing]:
    """What leaves with each chunk, the end included."""
    sealing = LinesSealing()
    out = [sealing.feed(chunk).out for chunk in chunks]
    step = sealing.finish()
    assert step.seal
    return [*out, step.out], sealing


def lines(covered: bytes) -> Content:
    return Content.of("ndjson-1", [(0, "lines", sha256_b64url(covered))])


def test_a_line_leaves_when_it_is_whole_and_as_it_came() -> None:
    out, sealing = through(b'{"b": 1,', b' "a": 2}\r\n[', b"1.0]\n\n", b"null")
    assert out == [b"", b'{"b": 1, "a": 2}\r\n', b"[1.0]\n\n", b"", b"null"]
    assert sealing.content == lines(b'{"a":2,"b":1}\n[1]\nnull\n')


STREAM = b'{"b": 1, "a": "x"}\r\n \n[1, 2]\n{"ai_provenance": {"token": "theirs"}}\n"end"'


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_cuts_change_neither_the_bytes_nor_the_content(at: list[int]) -> None:
    chunks = [STREAM[a:b] for a, b in pairwise(sorted({0, *at, len(STREAM)}))]
    out, sealing = through(*chunks)
    assert b"".join(out) == b'{"b": 1, "a": "x"}\r\n \n[1, 2]\n"end"'
    assert sealing.content == lines(b'{"a":"x","b":1}\n[1,2]\n"end"\n')
    assert sealing.removed_tags == 1


def test_the_tags_own_line_stands_behind_the_last_even_where_that_was_not_ended() -> None:
    for sent, expected in ((b"1\n", TAG_LINE), (b"1", b"\n" + TAG_LINE), (b"", TAG_LINE)):
        assert through(sent)[1].tag_line(TAG) == expected


def test_without_lines_there_is_no_part() -> None:
    assert through(b"\n \r\n")[1].content == Content.of("ndjson-1", [])


@pytest.mark.parametrize("odd", [b"{", b'{"a":1,"a":2}', b"NaN", b"\xff", b'"\\ud800"', b"9007199254740993", b'{"a":1} {"b":2}'])
def test_lines_without_a_canonical_form_are_sealed_as_the_bytes_that_left(odd: bytes) -> None:
    sent = b"1\n" + TAG_LINE + odd + b"\n2\n"
    out, sealing = through(sent)
    assert not sealing.is_lines
    assert b"".join(out) == b"1\n" + odd + b"\n2\n"
    assert sealing.content == Content.of("bytes-1", [(0, "body", sha256_b64url(b"".join(out)))])


def test_a_line_that_is_too_large_goes_on_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "MAX_LINE_BYTES", 16)
    out, sealing = through(b"1\n", b'"' + b"x" * 10, b"x" * 10, b'"\n', b"2\n")
    assert b"".join(out) == b'1\n"' + b"x" * 20 + b'"\n2\n'
    assert not sealing.is_lines
    stream = LineStream()
    with pytest.raises(MalformedError):
        stream.feed(b"y" * 17 + b"\n1\n")
    assert stream.take_tail() == b"y" * 17 + b"\n1\n"


def test_a_failure_is_a_line_of_its_own_and_what_was_begun_does_not_leave() -> None:
    sealing = LinesSealing()
    assert sealing.feed(b'1\n{"half').out == b"1\n"
    line = NdjsonDialect(model="m").error_event(message="no", code="c", extra={})
    step = sealing.fail(line, Completion.ERROR)
    assert (step.out, step.seal) == (b'{"error": {"message": "no", "code": "c"}}\n', True)
    assert sealing.completion is Completion.ERROR
    assert sealing.content == lines(b'1\n{"error":{"code":"c","message":"no"}}\n')
