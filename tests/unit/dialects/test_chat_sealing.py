"""A chat stream on its way out: what is held, when it is sealed, and that no other byte moves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tos_guard.dialects import ChatFormat, ChatProjection, EventStream, Step, StreamSealing
from tos_guard.provenance import Content, text_digest
from tos_guard.types import Completion

TAG = b'{"token":"a.b.c"}'
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(content: str | None = None, *, index: int = 0, finish: str | None = None, **members: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    return event({"id": "c", "choices": [{"index": index, "delta": delta, "finish_reason": finish}], **members})


USAGE = event({"id": "c", "choices": [], "usage": {"total_tokens": 3}})
HELLO = [chunk("Hel"), chunk("lo"), chunk(finish="stop")]


class Driver:
    """What a server does with the machine: passes chunks, seals when asked, and remembers when each byte left."""

    def __init__(self, *, fail_with: str | None = None) -> None:
        self.sealing = StreamSealing(ChatFormat())
        self.out: list[bytes] = []
        self.sealed_content: Content | None = None
        self._fail_with = fail_with

    def take(self, step: Step) -> bytes:
        sent = step.out
        if step.seal:
            self.sealed_content = self.sealing.content
            after = self.sealing.sealed(TAG) if self._fail_with is None else self.sealing.unsealed_because(self._fail_with)
            assert not after.seal
            sent += after.out
        self.out.append(sent)
        return sent

    def feed(self, *chunks: bytes) -> bytes:
        return b"".join(self.take(self.sealing.feed(data)) for data in chunks)

    def finish(self) -> bytes:
        return self.take(self.sealing.finish())

    def run(self, *chunks: bytes) -> bytes:
        return self.feed(*chunks) + self.finish()


def tagged(data: bytes, tag: bytes = TAG) -> bytes:
    return data.replace(b"}\n\n", b',"ai_provenance":' + tag + b"}\n\n")


def test_content_leaves_at_once_and_only_the_finishing_chunk_waits() -> None:
    driver = Driver()
    assert driver.feed(HELLO[0]) == HELLO[0]
    assert driver.feed(HELLO[1]) == HELLO[1]
    assert driver.feed(HELLO[2]) == b""
    assert driver.feed(DONE) == tagged(HELLO[2]) + DONE
    assert driver.finish() == b""
    assert driver.sealing.completion is Completion.COMPLETE


@pytest.mark.parametrize("ending", [[USAGE, DONE], [USAGE], [DONE], []], ids=["usage and done", "usage", "done", "nothing"])
def test_every_byte_but_the_tag_is_the_handlers_own(ending: list[bytes]) -> None:
    driver = Driver()
    out = driver.run(*HELLO, *ending)
    assert out == b"".join([*HELLO[:2], tagged(HELLO[2]), *ending])
    assert driver.sealed_content == Content.of("chat-1", [(0, "text", text_digest("Hello"))])


def test_sealing_happens_at_the_usage_chunk_and_does_not_wait_for_done() -> None:
    driver = Driver()
    driver.feed(*HELLO)
    assert driver.feed(USAGE) == tagged(HELLO[2]) + USAGE
    assert not driver.sealing.is_open


def test_more_content_releases_the_held_chunk_unchanged() -> None:
    late = chunk("!", index=1)
    end = chunk(index=1, finish="stop")
    driver = Driver()
    driver.feed(*HELLO)
    assert driver.feed(late) == HELLO[2] + late
    assert driver.feed(end, DONE) == tagged(end) + DONE


def test_only_the_last_of_several_choices_carries_the_tag() -> None:
    chunks = [chunk("a"), chunk("b", index=1), chunk("c", index=2), *(chunk(index=i, finish="stop") for i in (1, 0, 2))]
    out = Driver().run(*chunks, DONE)
    assert out == b"".join([*chunks[:5], tagged(chunks[5]), DONE])


def test_fewer_choices_than_asked_for_still_get_their_tag() -> None:
    """n = 3 was asked and one choice came: the machine counts what is there and waits for nothing else."""
    out = Driver().run(*HELLO, DONE)
    assert out.count(b"ai_provenance") == 1


def test_a_finishing_chunk_with_content_is_covered_and_held() -> None:
    last = chunk("lo", finish="stop")
    driver = Driver()
    assert driver.feed(HELLO[0], last) == HELLO[0]
    assert driver.feed(DONE) == tagged(last) + DONE
    assert driver.sealed_content == Content.of("chat-1", [(0, "text", text_digest("Hello"))])


def test_comments_and_empty_events_overtake_the_held_chunk() -> None:
    driver = Driver()
    driver.feed(*HELLO)
    assert driver.feed(b": keep-alive\n\n") == b": keep-alive\n\n"
    assert driver.feed(b"data:\n\n") == b"data:\n\n"
    assert driver.feed(DONE) == tagged(HELLO[2]) + DONE


def test_an_empty_data_event_does_not_end_the_sealing() -> None:
    """It once did: an event with empty data is ignored by readers (C3) and was taken for JSON here."""
    driver = Driver()
    out = driver.run(HELLO[0], b"data: \n\n", *HELLO[1:], DONE)
    assert out == b"".join([HELLO[0], b"data: \n\n", HELLO[1], tagged(HELLO[2]), DONE])


@pytest.mark.parametrize(
    "failure", [{"error": {"message": "overloaded"}}, {"type": "error", "message": "overloaded"}, {"type": "response.failed"}]
)
def test_an_error_event_is_held_and_carries_the_tag(failure: dict[str, Any]) -> None:
    """Of each kind that must not come after the token (C5)."""
    error = event(failure)
    driver = Driver()
    assert driver.feed(HELLO[0], error) == HELLO[0] + tagged(error)
    assert driver.sealing.completion is Completion.ERROR
    assert driver.feed(DONE) == DONE


def test_fail_ends_the_stream_with_an_event_of_ours_that_carries_the_tag() -> None:
    driver = Driver()
    driver.feed(*HELLO)
    error = event({"error": {"message": "stopped", "code": "tos_policy_stop"}})
    assert driver.take(driver.sealing.fail(error, Completion.POLICY)) == HELLO[2] + tagged(error)
    assert driver.sealing.completion is Completion.POLICY


def test_fail_after_the_seal_adds_no_error_behind_the_token() -> None:
    """It once did, and made a genuine stream invalid: no event after the final token may hold an error (C5)."""
    driver = Driver()
    driver.feed(*HELLO, USAGE)
    assert driver.take(driver.sealing.fail(event({"error": {}}), Completion.ERROR)) == b""
    assert driver.sealing.completion is Completion.COMPLETE
    assert driver.sealing.dropped_events == 1


def test_content_and_errors_after_the_seal_are_dropped_and_counted() -> None:
    driver = Driver()
    driver.feed(*HELLO, USAGE)
    assert driver.feed(chunk("more"), event({"error": {"message": "late"}}), event({"type": "error"})) == b""
    assert driver.feed(b"data: {broken\n\n") == b""
    assert driver.feed(DONE) == DONE
    assert driver.sealing.dropped_events == 4
    assert driver.sealing.unsealed is None


def test_a_tag_of_an_upstream_is_removed_and_counted() -> None:
    driver = Driver()
    foreign = chunk(finish="stop", ai_provenance={"token": "x.y.z"}, extra=1)
    out = driver.run(HELLO[0], foreign, DONE)
    assert out.count(b"ai_provenance") == 1
    assert b"x.y.z" not in out
    assert b'"extra": 1' in out
    assert driver.sealing.removed_tags == 1


def test_an_infinite_number_beside_a_foreign_tag_never_becomes_the_word_infinity() -> None:
    """It once did: 1e400 is JSON, reads as infinity, and was written back as a word that is no JSON."""
    foreign = b'data: {"x":1e400,"ai_provenance":{"token":"x"},"choices":[], "y": 1.0e0}\n\n'
    kept = b'data: {"x":1e400,"choices":[], "y": 1.0e0}\n\n'
    driver = Driver()
    assert driver.run(HELLO[0], foreign, *HELLO[1:], DONE) == HELLO[0] + kept + HELLO[1] + tagged(HELLO[2]) + DONE


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {broken\n\n",
        b"data: 1\n\n",
        event({"choices": 1}),
        event({"choices": [{"delta": {"content": "x"}}]}),
        b'data: {"a":1,"a":2}\n\n',
    ],
)
def test_what_cannot_be_projected_passes_unchanged_and_untagged(bad: bytes) -> None:
    driver = Driver()
    assert driver.run(*HELLO, bad, chunk("more"), DONE) == b"".join([*HELLO, bad, chunk("more"), DONE])
    assert driver.sealing.unsealed == "unprojectable"


@pytest.mark.parametrize("cut", range(1, 30))
def test_giving_up_inside_a_chunk_loses_no_byte_of_the_next_event(cut: int) -> None:
    """It once did: the begun event stayed behind in the buffer when the machine turned to passing bytes on."""
    driver = Driver()
    begun = chunk("next")
    assert driver.run(HELLO[0] + b"data: {broken\n\n" + begun[:cut], begun[cut:] + DONE) == HELLO[0] + b"data: {broken\n\n" + begun + DONE


@pytest.mark.parametrize("cut", range(1, len(DONE)))
def test_a_seal_that_fails_loses_no_byte_of_the_next_event(cut: int) -> None:
    """It once did, as above: the signer failed at the usage chunk while ``[DONE]`` had half arrived."""
    driver = Driver(fail_with="signer")
    assert driver.run(*HELLO, USAGE + DONE[:cut], DONE[cut:]) == b"".join([*HELLO, USAGE, DONE])
    assert driver.sealing.unsealed == "signer"


def test_a_stream_without_a_place_for_the_tag_passes_unchanged() -> None:
    driver = Driver()
    assert driver.run(chunk("Hel"), chunk("lo"), DONE) == chunk("Hel") + chunk("lo") + DONE
    assert driver.sealing.unsealed == "no_carrier"


@pytest.mark.parametrize("rest", [b"data: [DONE]\n", b"data: [DON", b": c"])
def test_an_unfinished_event_at_the_end_is_passed_on(rest: bytes) -> None:
    """It once was lost when the seal came at the end: what follows the last blank line is no event, and still the handler's."""
    assert Driver().run(*HELLO, rest) == b"".join([*HELLO[:2], tagged(HELLO[2]), rest])
    assert Driver().run(*HELLO, USAGE, rest) == b"".join([*HELLO[:2], tagged(HELLO[2]), USAGE, rest])
    assert Driver().run(HELLO[0], rest) == HELLO[0] + rest


def test_an_event_that_is_too_large_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It once did: events completed by the same chunk as the begun giant were found and thrown away."""
    driver = Driver()
    monkeypatch.setattr(driver.sealing, "_events", EventStream(max_event_bytes=200))
    giant = b"data: " + b"x" * 300
    assert driver.run(HELLO[0], HELLO[1] + giant, b"y") == HELLO[0] + HELLO[1] + giant + b"y"
    assert driver.sealing.unsealed == "unprojectable"


def test_an_event_that_is_too_large_after_the_seal_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(driver.sealing, "_events", EventStream(max_event_bytes=200))
    driver.feed(*HELLO, USAGE)
    assert driver.feed(b"data: " + b"x" * 300) == b""
    assert driver.sealing.dropped_events == 1


def test_an_endless_tail_behind_the_held_chunk_is_not_kept_forever() -> None:
    driver = Driver()
    driver.feed(*HELLO)
    meta = event({"id": "c", "choices": [], "pad": "x" * 10_000})
    out = driver.feed(*[meta] * 7)
    assert out == tagged(HELLO[2]) + meta * 7


def test_the_tag_fits_into_every_way_of_writing_an_event() -> None:
    for raw in (
        b"event: message\r\nid: 7\r\ndata: %s\r\n\r\n",
        b"data:%s\n\n",
        b": note\ndata: %s\rretry: 5\r\r",
    ):
        held = raw % b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}] }'
        out = Driver().run(HELLO[0], held, DONE)
        (first, last, done), tail = read(out)
        assert (first, done, tail) == ({"content": "Hel"}, None, b"")
        assert last == {"ai_provenance": {"token": "a.b.c"}}
        assert all(line in out for line in raw.replace(b"\r", b"\n").split(b"\n") if line and b"%s" not in line)


def read(out: bytes) -> tuple[list[Any], bytes]:
    stream = EventStream()
    found: list[Any] = []
    for item in stream.feed(out):
        if item.data == b"[DONE]":
            found.append(None)
        elif item.data:
            value = json.loads(item.data)
            found.append(value["choices"][0]["delta"] or {"ai_provenance": value.get("ai_provenance")})
    return found, stream.tail


def test_data_over_several_lines_is_joined_before_it_is_tagged() -> None:
    held = b'data: {"choices":[{"index":0,\ndata: "delta":{},"finish_reason":"stop"}]}\n\n'
    found, _ = read(Driver().run(HELLO[0], held, DONE))
    assert found == [{"content": "Hel"}, {"ai_provenance": {"token": "a.b.c"}}, None]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 10_000])
def test_the_result_does_not_depend_on_chunking(size: int) -> None:
    stream = b"".join([b": hi\n\n", *HELLO, USAGE, DONE])
    whole = Driver().run(stream)
    assert Driver().run(*(stream[i : i + size] for i in range(0, len(stream), size))) == whole
    projection = ChatProjection()
    for item in EventStream().feed(whole):
        if item.data and item.data != b"[DONE]":
            projection.add_event(json.loads(item.data))
    assert projection.content() == Content.of("chat-1", [(0, "text", text_digest("Hello"))])
