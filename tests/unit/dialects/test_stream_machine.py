"""The stream machine with a format of each kind: what a format says is what happens to an event, and to nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streams import STREAMS
from tos_guard.dialects import ChatProjection, EventStream, Projection, Role, Step, StreamSealing, cut_tag, dialect_named, splice_tag
from tos_guard.limits import Usage
from tos_guard.types import Completion

TAG, PENDING = b'{"token":"a.b.c"}', b'{"token":"p.p.p"}'


class NestedFormat:
    """Events named by what they do; the tag goes into their member ``inner``, where they have one."""

    projection: type[Projection] = ChatProjection
    nested: tuple[str, ...] = ("inner",)
    closes_with_done: bool = False

    def role(self, event: dict[str, Any]) -> Role:
        return Role(event.get("does", "passes"))

    def place(self, event: dict[str, Any]) -> str | None:
        return "inner" if "inner" in event else None

    def usage(self, event: dict[str, Any], known: Usage | None) -> Usage | None:
        return known


def event(raw: str) -> bytes:
    return b"data: " + raw.encode() + b"\n\n"


def run(*chunks: bytes, pending: bytes | None = PENDING) -> tuple[bytes, StreamSealing]:
    sealing = StreamSealing(NestedFormat())
    sealing.pending = pending
    out = b""

    def take(step: Step) -> bytes:
        return step.out + (sealing.sealed(TAG).out if step.seal else b"")

    for chunk in chunks:
        out += take(sealing.feed(chunk))
    return out + take(sealing.finish()), sealing


def test_a_terminal_event_carries_the_tag_inside_and_no_other_byte_moves() -> None:
    terminal = event('{"does": "terminal",  "inner" : {"a":[{}], "t":"}\\u007d\\"é"  }, "z":1.0e0 }')
    out, sealing = run(event('{"x":1}'), terminal, event('{"y":2}'))
    expected = terminal.replace('é"  }'.encode(), 'é"  ,"ai_provenance":'.encode() + TAG + b"}")
    assert out == event('{"x":1}') + expected + event('{"y":2}')
    assert sealing.completion is Completion.COMPLETE
    assert not sealing.is_open


def test_an_event_that_fails_seals_at_once_and_says_so() -> None:
    out, sealing = run(event('{"does":"fails","error":{}}'))
    assert out == event('{"does":"fails","error":{},"ai_provenance":{"token":"a.b.c"}}')
    assert sealing.completion is Completion.ERROR


def test_an_opening_event_carries_the_pending_tag_inside() -> None:
    out, sealing = run(event('{"does":"opens","inner":{}}'), event('{"does":"terminal","inner":{}}'))
    assert out == (
        event('{"does":"opens","inner":{"ai_provenance":{"token":"p.p.p"}}}')
        + event('{"does":"terminal","inner":{"ai_provenance":{"token":"a.b.c"}}}')
    )
    assert run(event('{"does":"opens","inner":{}}'), pending=None)[0] == event('{"does":"opens","inner":{}}')
    assert sealing.unsealed is None


def test_tags_of_an_upstream_are_removed_inside_too() -> None:
    foreign = event('{"does":"terminal","inner":{"k":1,"ai_provenance":{"token":"x.y.z"}},"ai_provenance":{"token":"x.y.z"}}')
    out, sealing = run(foreign)
    assert out == event('{"does":"terminal","inner":{"k":1,"ai_provenance":{"token":"a.b.c"}}}')
    assert sealing.removed_tags == 1


def test_a_stream_without_its_terminal_event_gets_no_tag() -> None:
    stream = event('{"x":1}') + b"data: [DONE]\n\n"
    out, sealing = run(stream)
    assert (out, sealing.unsealed) == (stream, "no_carrier")


def test_a_stream_that_readers_would_take_for_another_form_gets_no_tag() -> None:
    stream = event('{"type":"response.created"}') + event('{"does":"terminal","inner":{}}')
    out, sealing = run(stream)
    assert (out, sealing.unsealed) == (stream, "unprojectable")


def whole(name: str, *events: bytes) -> tuple[bytes, StreamSealing]:
    """What leaves of a stream of a dialect, and its machine."""
    stream_format = dialect_named(name).stream_format(b"text/event-stream")
    assert stream_format is not None
    sealing = StreamSealing(stream_format)
    out = b""
    for each in [*events, None]:
        step = sealing.finish() if each is None else sealing.feed(each)
        out += step.out + (sealing.sealed(TAG).out if step.seal else b"")
    return out, sealing


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_with_an_event_that_clients_take_for_something_else_passes_unsealed(name: str) -> None:
    """C16: with a seal, it would be one that no reader can verify."""
    events = STREAMS[name]
    for position, raw in enumerate(events):
        if b"data: {" not in raw:
            continue
        misnamed = b"event: x\n" + raw[raw.index(b"data: ") :]
        out, sealing = whole(name, *events[:position], misnamed, *events[position + 1 :])
        assert sealing.unsealed in ("unprojectable", None)
        if sealing.unsealed is None:  # it came behind the seal, where it may be left out
            assert misnamed not in out
            assert sealing.dropped_events == 1
        else:
            assert out == b"".join([*events[:position], misnamed, *events[position + 1 :]])


def test_messages_without_names_pass_unsealed() -> None:
    """Some servers send them so; no official client reads them."""
    events = [raw[raw.index(b"data: ") :] for raw in STREAMS["anthropic-messages"]]
    out, sealing = whole("anthropic-messages", *events)
    assert (out, sealing.unsealed) == (b"".join(events), "unprojectable")


@pytest.mark.parametrize("name", STREAMS)
def test_a_done_before_the_end_leaves_no_place_for_a_seal(name: str) -> None:
    """C17: nothing is sealed behind it."""
    events = STREAMS[name]
    for position in range(len(events)):
        out, sealing = whole(name, *events[:position], b"data: [DONE]\n\n", *events[position:])
        before, _, _ = out.partition(b"data: [DONE]")
        assert (sealing.unsealed == "no_carrier") is (b"ai_provenance" not in out)
        assert b"ai_provenance" not in out or b"ai_provenance" in before


@pytest.mark.parametrize("begun", [b"", b"data: {", b"data: {}\n", b"data: {}\r", b"event: x\r\ndata: {}\r\n", b": hi"])
@pytest.mark.parametrize("name", STREAMS)
def test_an_error_behind_a_stream_that_is_unsealed_is_an_event_of_its_own(name: str, begun: bytes) -> None:
    """Also where the handler began an event and failed."""
    dialect = dialect_named(name)
    stream_format = dialect.stream_format(b"text/event-stream")
    assert stream_format is not None
    error = dialect.error_event(message="broken", code="c", extra={})
    for cut in range(len(begun) + 1):
        sealing = StreamSealing(stream_format)
        out = sealing.feed(b"data: not JSON\n\n" + begun[:cut]).out + sealing.feed(begun[cut:]).out
        assert sealing.unsealed == "unprojectable"
        assert out == b"data: not JSON\n\n" + begun
        out += sealing.fail(error, Completion.ERROR).out
        (own,) = EventStream().feed(error)
        last = EventStream().feed(out)[-1]
        assert (last.data, last.name) == (own.data, own.name)


@pytest.mark.parametrize("before", ["", '"a":"{\\"inner\\":{}}",', '"b":[[{"inner":{}}]],"\\u00e9":"\U0001f600",'])
@pytest.mark.parametrize("inner", ["{}", "{ }", '{"a":1}', '{"inner":{}}', '{"x":"}"}'])
@pytest.mark.parametrize("after", ["", ',"z":{}', ',"z":"\\u0022}"'])
def test_a_tag_is_found_where_it_was_put(before: str, inner: str, after: str) -> None:
    data = f'{{{before}"inner":{inner}{after}}}'.encode()
    tagged = splice_tag(data, TAG, member="inner")
    expected = json.loads(data)
    expected["inner"]["ai_provenance"] = {"token": "a.b.c"}
    assert json.loads(tagged) == expected
    position = next(i for i in range(len(data)) if data[i:] != tagged[i : len(data)] and tagged.endswith(data[i:]))
    assert tagged.startswith(data[:position])


def test_a_name_written_with_escapes_is_the_same_name() -> None:
    assert splice_tag(b'{"\\u0069nner":{}}', TAG, member="inner") == b'{"\\u0069nner":{"ai_provenance":{"token":"a.b.c"}}}'


@pytest.mark.parametrize(
    ("data", "left"),
    [
        ('{"ai_provenance":1}', "{}"),
        ('{ "ai_provenance" : {"a":[1,{}]} }', "{  }"),
        ('{"ai_provenance":1, "b":2}', '{"b":2}'),
        ('{"a":1.0e0 , "ai_provenance":"}" ,"b":2}', '{"a":1.0e0 ,"b":2}'),
        ('{"a":"ai_provenance","ai_provenance":null}', '{"a":"ai_provenance"}'),
        ('{"a":{"ai_provenance":1},"\\u0061i_provenance":1}', '{"a":{"ai_provenance":1}}'),
        ('{"inner":{"ai_provenance":1,"k":"é"},"ai_provenance":2}', '{"inner":{"k":"é"}}'),
        ('{"ai_provenance":2,"inner":{"k":1,"ai_provenance":1}}', '{"inner":{"k":1}}'),
        ('{"inner":["ai_provenance"],"z":"\\ud83d\\ude00\\ud800"}', '{"inner":["ai_provenance"],"z":"\\ud83d\\ude00\\ud800"}'),
    ],
)
def test_taking_a_tag_out_moves_no_other_byte(data: str, left: str) -> None:
    assert cut_tag(data.encode(), ("inner",)) == left.encode()
