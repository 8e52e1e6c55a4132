"""Streams of every dialect that were cut: incomplete before the final token, and proven as far as their checkpoints say."""

from __future__ import annotations

from functools import cache

import pytest

from fuzz import seeds
from streams import STREAMS, event
from tos_guard.dialects import EventStream, StreamSealing, dialect_named
from tos_guard.errors import AbsentError, ContentMismatchError, IncompleteError, MalformedError, NonceError
from tos_guard.types import Stage
from tos_guard.verify import Expected, StreamVerifier, Trust, verify_body, verify_prefix, verify_stream

TRUST = Trust.of(seeds.KEYS)
PENDING = seeds.token(None)


@cache
def sealed(name: str, every: int | None) -> tuple[bytes, list[int]]:
    """The stream as it leaves, and the ends of the events with a token: checkpoints first, the final one last."""
    stream_format = dialect_named(name).stream_format(b"text/event-stream")
    assert stream_format is not None
    sealing = StreamSealing(stream_format, checkpoint_events=every)
    sealing.pending = b'{"token":"%s"}' % PENDING.encode()
    out = b""
    for each in [*STREAMS[name], None]:
        step = sealing.finish() if each is None else sealing.feed(each)
        while True:
            out += step.out
            if step.checkpoint:
                token = seeds.token(sealing.content, stage=Stage.CHECKPOINT, completion=None)
                step = sealing.checkpointed(b'{"token":"%s"}' % token.encode())
            elif step.seal:
                step = sealing.sealed(seeds.tag_of(sealing.content))
            else:
                break
    ends, size = [], 0
    for item in EventStream().feed(out):
        size += len(item.raw)
        if b"ai_provenance" in item.raw and PENDING.encode() not in item.raw:
            ends.append(size)
    return out, ends


@pytest.mark.parametrize("name", STREAMS)
def test_the_whole_stream_is_valid_with_and_without_checkpoints(name: str) -> None:
    for every in (None, 1, 3):
        stream, ends = sealed(name, every)
        verified = verify_stream(stream, trust=TRUST, now=seeds.NOW, token=PENDING)
        assert verified.claims.stage is Stage.FINAL
        assert not verified.notes
        prefix = verify_prefix(stream, trust=TRUST, now=seeds.NOW)
        assert (prefix.size_bytes, prefix.claims) == (ends[-1], verified.claims)
        assert (len(ends) > 1) is (every is not None)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("every", [None, 3])
def test_a_cut_at_every_byte_is_incomplete_until_the_final_token_has_come(name: str, every: int | None) -> None:
    """One reader looks after each byte at what would be known if the stream ended there."""
    stream, ends = sealed(name, every)
    verifier = StreamVerifier(trust=TRUST, now=seeds.NOW, token=PENDING)
    for size in range(1, ends[-1]):
        verifier.feed(stream[size - 1 : size])
        with pytest.raises(IncompleteError) as caught:
            verifier.finish()
        proven = [end for end in ends if end <= size]
        assert (0 if caught.value.proven is None else caught.value.proven.size_bytes) == (proven[-1] if proven else 0)
    for size in range(ends[-1], len(stream) + 1):
        verifier.feed(stream[size - 1 : size])
        assert verifier.finish().claims.stage is Stage.FINAL


@pytest.mark.parametrize("name", STREAMS)
def test_a_saved_cut_says_the_same_as_one_that_is_read(name: str) -> None:
    stream, ends = sealed(name, 3)
    for end in ends[:-1]:
        for size in (end - 1, end, end + 1):
            with pytest.raises(IncompleteError) as caught:
                verify_stream(stream[:size], trust=TRUST, now=seeds.NOW, token=PENDING)
            if caught.value.proven is None:
                assert size < ends[0]
                continue
            assert caught.value.proven.claims.stage is Stage.CHECKPOINT
            assert verify_prefix(stream[:size], trust=TRUST, now=seeds.NOW) == caught.value.proven


CHAT, ENDS = sealed("openai-chat", 2)
FIRST = CHAT[: ENDS[0]]


def test_a_stream_with_a_checkpoint_and_no_pending_token_is_incomplete_and_not_absent() -> None:
    with pytest.raises(IncompleteError):
        verify_stream(FIRST, trust=TRUST, now=seeds.NOW)
    with pytest.raises(AbsentError):
        verify_prefix(b": hi\n\n", trust=TRUST, now=seeds.NOW)
    with pytest.raises(IncompleteError, match="before its first checkpoint"):
        verify_prefix(b": hi\n\n", trust=TRUST, now=seeds.NOW, token=PENDING)


def test_a_checkpoint_over_other_content_is_invalid() -> None:
    with pytest.raises(ContentMismatchError):
        verify_prefix(FIRST.replace(b'"Hel"', b'"Bel"'), trust=TRUST, now=seeds.NOW)
    with pytest.raises(ContentMismatchError):
        verify_prefix(event({"choices": [{"index": 0, "delta": {"content": "More "}}]}) + FIRST, trust=TRUST, now=seeds.NOW)


def checkpoint(**members: object) -> bytes:
    content = verify_prefix(FIRST, trust=TRUST, now=seeds.NOW).claims.content
    token = seeds.token(content, **{"stage": Stage.CHECKPOINT, "completion": None, **members})
    return event({"ai_provenance": {"token": token}})


@pytest.mark.parametrize("claim", ["rid", "sub"])
def test_checkpoints_of_another_exchange_are_invalid(claim: str) -> None:
    with pytest.raises(ContentMismatchError, match="different exchanges"):
        verify_prefix(FIRST + checkpoint(**{claim: "other"}), trust=TRUST, now=seeds.NOW)
    with pytest.raises(ContentMismatchError, match="different exchanges"):
        verify_stream(FIRST, trust=TRUST, now=seeds.NOW, token=seeds.token(None, **{claim: "other"}))


def test_nothing_but_a_checkpoint_goes_before_the_final_token_and_nothing_behind_it() -> None:
    with pytest.raises(MalformedError, match="carries a pending token"):
        verify_prefix(FIRST + event({"ai_provenance": {"token": PENDING}}), trust=TRUST, now=seeds.NOW)
    with pytest.raises(MalformedError, match="a second token"):
        verify_stream(CHAT + checkpoint(), trust=TRUST, now=seeds.NOW)


def test_a_checkpoint_inside_a_response_is_invalid() -> None:
    stream, ends = sealed("openai-responses", None)
    token = seeds.token(verify_prefix(stream, trust=TRUST, now=seeds.NOW).claims.content, stage=Stage.CHECKPOINT, completion=None)
    final = verify_prefix(stream, trust=TRUST, now=seeds.NOW).token
    with pytest.raises(MalformedError, match="carries a checkpoint token"):
        verify_prefix(stream[: ends[-1]].replace(final.encode(), token.encode()), trust=TRUST, now=seeds.NOW)


def test_demands_are_made_of_a_prefix_too() -> None:
    expected = Expected(nonce="mine")
    with pytest.raises(NonceError):
        verify_prefix(FIRST, trust=TRUST, now=seeds.NOW, expected=expected)
    with pytest.raises(IncompleteError) as caught:
        verify_stream(FIRST, trust=TRUST, now=seeds.NOW, expected=expected)
    assert caught.value.proven is None


def test_a_checkpoint_given_as_a_header_or_for_a_body_is_incomplete_or_refused() -> None:
    token = verify_prefix(FIRST, trust=TRUST, now=seeds.NOW).token
    with pytest.raises(MalformedError, match="header of a stream carries a checkpoint token"):
        verify_stream(CHAT, trust=TRUST, now=seeds.NOW, token=token)
    with pytest.raises(IncompleteError, match="more was to come"):
        verify_body(b'{"choices":[]}', trust=TRUST, now=seeds.NOW, token=token)
