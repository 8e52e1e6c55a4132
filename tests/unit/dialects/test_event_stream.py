"""Events out of chunks (WHATWG HTML section 9.2): nothing lost, nothing decoded too early."""

from __future__ import annotations

import pytest

from tos_guard.dialects import EventStream, ServerSentEvent, apart, ends_of
from tos_guard.errors import MalformedError


def feed(*chunks: bytes) -> list[ServerSentEvent]:
    stream = EventStream()
    return [event for chunk in chunks for event in stream.feed(chunk)]


@pytest.mark.parametrize("first", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("second", [b"\n", b"\r", b"\r\n"])
def test_every_pair_of_line_ends_is_a_blank_line(first: bytes, second: bytes) -> None:
    if first + second == b"\r\n":
        assert feed(b"data: a\r\n") == []  # together they are one line end
        return
    (event,) = feed(b"data: a" + first + second)
    assert event == (b"data: a" + first + second, b"a", b"")


def test_a_line_end_cut_in_two_is_no_blank_line() -> None:
    assert feed(b"data: a\r", b"\ndata: b\r", b"\n") == []
    assert [event.data for event in feed(b"data: a\r", b"\ndata: b\r", b"\n", b"\r\n")] == [b"a\nb"]


def test_a_blank_line_that_ends_in_a_later_chunk_is_seen() -> None:
    """Its first half may belong to a line end that came before: three bytes are looked at again."""
    for cut in range(1, 12):
        whole = b"data: a\r\n\r\n"
        assert [event.data for event in feed(whole[:cut], whole[cut:])] == [b"a"]
    assert [event.data for event in feed(b"data: a\r\n\r", b"\ndata: b\n\n")] == [b"a", b"b"]


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b"data: \n\n", b""),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\nid: 1\ndata\n\n", b"a\n"),
        (b": data: a\n\n", None),
        (b"data : a\n\n", None),
        (b" data: a\n\n", None),
        (b"Data: a\n\n", None),
        (b"\xef\xbb\xbfdata: a\n\n", b"a"),
        (b"data: \xff\xfe\n\n", b"\xff\xfe"),
        (b"data: a\x0bb\x85\xe2\x80\xa8c\n\n", b"a\x0bb\x85\xe2\x80\xa8c"),
    ],
)
def test_data_of_an_event(raw: bytes, data: bytes | None) -> None:
    assert feed(raw) == [ServerSentEvent(raw, data)]


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"data: a\n\n", b""),
        (b"event: x\ndata: a\n\n", b"x"),
        (b"data: a\nevent: x\n\n", b"x"),
        (b"event:x\r\ndata: a\r\n\r\n", b"x"),
        (b"event: x \rdata: a\r\r", b"x "),
        (b"event:  x\ndata: a\n\n", b" x"),
        (b"event: x\nevent: y\ndata: a\n\n", b"y"),
        (b"event: x\nevent\ndata: a\n\n", b""),
        (b"event: x\n: event: y\nid: 1\ndata: a\n\n", b"x"),
        (b"Event: x\ndata: a\n\n", b""),
        (b"\xef\xbb\xbfevent: x\ndata: a\n\n", b"x"),
        (b"event: \xff\ndata: a\n\n", b"\xff"),
    ],
)
def test_the_name_of_an_event_is_what_its_last_event_field_says(raw: bytes, name: bytes) -> None:
    assert feed(raw) == [ServerSentEvent(raw, b"a", name)]


@pytest.mark.parametrize(
    "ends",
    [b"", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n", b"\r\n\n", b": x\n\n", b"data: a", b"data: a\n", b"data: a\r", b"data: a\r\n", b"\n"],
)
def test_an_event_put_behind_a_stream_that_broke_off_is_one_of_its_own(ends: bytes) -> None:
    for cut in range(len(ends) + 1):  # however the stream came
        before = ends_of(ends_of(b"", ends[:cut]), ends[cut:])
        assert feed(ends + apart(before) + b"data: own\n\n")[-1].data == b"own"
    whole = bool(feed(b"data: a" + ends))
    assert (apart(before) == b"") is (whole or not ends)


def test_only_the_first_event_may_begin_with_a_byte_order_mark() -> None:
    assert feed(b": x\n\n", b"\xef\xbb\xbfevent: x\ndata: b\n\n")[1].name == b""
    assert [event.data for event in feed(b"\xef\xbb\xbfdata: a\n\n", b"\xef\xbb\xbfdata: b\n\n")] == [b"a", None]
    assert [event.data for event in feed(b": x\n\n", b"\xef\xbb\xbfdata: b\n\n")] == [None, None]


def test_a_byte_order_mark_in_pieces_is_still_one() -> None:
    assert [event.data for event in feed(b"\xef", b"\xbb", b"\xbfdata: a\n\n")] == [b"a"]


def test_fields_are_names_and_values_in_order() -> None:
    (event,) = feed(b": c\nid: 1\nid\nevent:x\nretry: 5\nd\xff: a:b\n\n")
    assert event.fields == [("id", "1"), ("id", ""), ("event", "x"), ("retry", "5"), ("d\ufffd", "a:b")]


def test_the_tail_is_what_follows_the_last_blank_line() -> None:
    stream = EventStream()
    stream.feed(b"data: a\n\ndata: b")
    assert stream.tail == b"data: b"
    assert stream.take_tail() == b"data: b"
    assert stream.tail == b""


def test_a_giant_event_is_refused_and_nothing_of_it_lost() -> None:
    stream = EventStream(max_event_bytes=20)
    with pytest.raises(MalformedError, match="larger than 20"):
        stream.feed(b"data: a\n\ndata: " + b"b" * 20)
    assert stream.tail == b"data: a\n\ndata: " + b"b" * 20


def test_new_data_keeps_the_other_fields_and_the_line_ends() -> None:
    cases = {
        b"data: a\n\n": b"data: new\n\n",
        b"data:a\r\n\r\n": b"data: new\r\n\r\n",
        b": c\rid: 1\rdata: a\rdata: b\revent: e\r\r": b": c\rid: 1\revent: e\rdata: new\r\r",
        b"\xef\xbb\xbfdata: a\n\n": b"data: new\n\n",
    }
    for raw, expected in cases.items():
        (event,) = feed(raw)
        assert event.with_data(b"new") == expected
