"""Checkpoints of streams: which event gets one, and that no other byte moves."""

from __future__ import annotations

import pytest

from streams import STREAMS, event
from tos_guard.dialects import ChatFormat, Step, StreamSealing, dialect_named
from tos_guard.provenance import Content, text_digest

TAG, MARK = b'{"token":"a.b.c"}', b'{"token":"c.c.c"}'


def chunk(content: str | None = None, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": finish}]})


def marked(raw: bytes) -> bytes:
    return raw[:-3] + b',"ai_provenance":' + MARK + b"}\n\n"


class Driver:
    """What a server does with the machine; remembers what each checkpoint covered."""

    def __init__(self, *, every: int | None = None, name: str = "openai-chat", mark: bytes | None = MARK) -> None:
        stream_format = dialect_named(name).stream_format(b"text/event-stream")
        assert stream_format is not None
        self.sealing = StreamSealing(stream_format, checkpoint_events=every)
        self.covered: list[Content] = []
        self._mark = mark

    def take(self, step: Step) -> bytes:
        out = step.out
        while step.checkpoint:
            assert not step.seal
            self.covered.append(self.sealing.content)
            step = self.sealing.checkpointed(self._mark)
            out += step.out
        return out + (self.take(self.sealing.sealed(TAG)) if step.seal else b"")

    def feed(self, *chunks: bytes) -> bytes:
        return b"".join(self.take(self.sealing.feed(data)) for data in chunks)

    def run(self, *chunks: bytes) -> bytes:
        return self.feed(*chunks) + self.take(self.sealing.finish())


A, B, C, D, END = chunk("a"), chunk("b"), chunk("c"), chunk("d"), chunk(finish="stop")
DONE = b"data: [DONE]\n\n"


def test_every_so_many_events_with_content_one_carries_a_checkpoint() -> None:
    driver = Driver(every=2)
    assert driver.feed(chunk(""), A) == chunk("") + A
    assert driver.feed(B) == marked(B)
    assert driver.feed(C, D) == C + marked(D)
    assert driver.covered == [Content.of("chat-1", [(0, "text", text_digest(text))]) for text in ("ab", "abcd")]


def test_one_that_is_asked_for_comes_with_the_next_content_and_once() -> None:
    driver = Driver()
    assert driver.feed(A) == A
    driver.sealing.ask_checkpoint()
    assert driver.feed(b": ping\n\n", chunk(""), B, C) == b": ping\n\n" + chunk("") + marked(B) + C


def test_asking_does_not_disturb_the_count() -> None:
    driver = Driver(every=3)
    driver.sealing.ask_checkpoint()
    assert driver.feed(A, B, C, D) == marked(A) + B + C + marked(D)


def test_events_behind_the_marked_one_in_the_same_chunk_wait_for_it_and_are_sealed_too() -> None:
    driver = Driver(every=1)
    assert driver.feed(A + B + END + DONE) == marked(A) + marked(B) + END[:-3] + b',"ai_provenance":' + TAG + b"}\n\n" + DONE


def test_two_thousand_checkpoints_in_one_chunk_are_made_one_after_the_other() -> None:
    driver = Driver(every=1)
    assert driver.feed(A * 2_000) == marked(A) * 2_000


def test_the_finishing_event_gets_the_final_token_and_no_checkpoint() -> None:
    last = chunk("!", finish="stop")
    driver = Driver(every=1)
    assert driver.feed(A, last, DONE) == marked(A) + last[:-3] + b',"ai_provenance":' + TAG + b"}\n\n" + DONE


def test_content_behind_a_held_event_releases_it_before_the_checkpoint() -> None:
    assert Driver(every=2).feed(A, END, B) == A + END + marked(B)


def test_a_checkpoint_that_cannot_be_made_leaves_the_event_as_it_was() -> None:
    stream = [A, B, END, DONE]
    driver = Driver(every=1, mark=None)
    assert b"c.c.c" not in (out := driver.run(*stream))
    assert out.replace(b',"ai_provenance":' + TAG, b"") == b"".join(stream)


@pytest.mark.parametrize("rest", [b"data: {broken\n\n" + B, b"data: {broken\n\n" + B[:9]])
def test_giving_up_behind_a_marked_event_loses_no_byte(rest: bytes) -> None:
    driver = Driver(every=1)
    assert driver.run(A + rest) == marked(A) + rest
    assert driver.sealing.unsealed == "unprojectable"


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_without_its_tags_a_stream_is_the_handlers_own(name: str, every: int) -> None:
    driver = Driver(every=every, name=name)
    out = driver.run(*STREAMS[name])
    assert out.count(MARK) == len(driver.covered) > 0
    assert out.count(TAG) == 1
    assert out.replace(b',"ai_provenance":' + MARK, b"").replace(b',"ai_provenance":' + TAG, b"") == b"".join(STREAMS[name])


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_where_checkpoints_go_does_not_depend_on_chunking(name: str, size: int) -> None:
    stream = b"".join(STREAMS[name])
    whole = Driver(every=2, name=name).run(*STREAMS[name])
    assert Driver(every=2, name=name).run(*(stream[at : at + size] for at in range(0, len(stream), size))) == whole


def test_a_machine_without_checkpoints_makes_none() -> None:
    sealing = StreamSealing(ChatFormat())
    assert not any(sealing.feed(each).checkpoint for each in [A, B, C, D, END, DONE])
