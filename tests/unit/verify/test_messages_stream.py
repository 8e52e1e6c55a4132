"""Messages streams against their token (docs/spec/carriers.md C4, C5, C7, C12, C13), and the messages that are built from them."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import pytest

from loopback_issuer import SALT, START, Keys
from tos_guard._canonical import b64url_encode
from tos_guard.dialects import MessagesFormat, MessagesProjection, StreamSealing
from tos_guard.errors import (
    AbsentError,
    ContentMismatchError,
    IncompleteError,
    MalformedError,
    NonceError,
    SignatureError,
    VerificationError,
)
from tos_guard.testing import FixedClock
from tos_guard.types import Completion
from tos_guard.verifier import Verifier
from tos_guard.verify import Expected, StreamVerifier, Trust, Verified, verify_body, verify_stream, verify_text

ISSUER = "https://api.example.com"
KEYS = Keys(ISSUER)
TRUST = Trust.of(KEYS.key_set())
PENDING = KEYS.token()

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "small",
    "content": [],
    "stop_reason": None,
    "usage": {"input_tokens": 9, "output_tokens": 1},
}
BLOCKS = [
    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
    {"type": "text", "text": "Grüße \U0001f642"},
    {"type": "tool_use", "id": "t", "name": "f", "input": {"city": "Köln"}},
]


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def plain(*, last: bytes | None = None) -> list[bytes]:
    """The events of a stream of all three blocks."""
    return [
        event("message_start", message=MESSAGE),
        event("ping"),
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
        event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
        event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2ln"}),
        event("content_block_stop", index=0),
        event("content_block_start", index=1, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=1, delta={"type": "text_delta", "text": "Grüße "}),
        event("content_block_delta", index=1, delta={"type": "text_delta", "text": "\U0001f642"}),
        event("content_block_stop", index=1),
        event("content_block_start", index=2, content_block={"type": "tool_use", "id": "t", "name": "f", "input": {}}),
        event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '{"city": "K'}),
        event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": 'öln"}'}),
        event("content_block_stop", index=2),
        event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 21}),
        last if last is not None else event("message_stop"),
    ]


def sealed(
    events: list[bytes], *, pending: str | None = PENDING, completion: Completion | None = None, **claims: Any
) -> tuple[list[bytes], dict[str, Any]]:
    """The events as the machine seals them, and the final tag."""
    sealing = StreamSealing(MessagesFormat())
    sealing.pending = None if pending is None else json.dumps({"token": pending}).encode()
    out: list[bytes] = []
    tag: dict[str, Any] = {}
    for chunk in events:
        step = sealing.feed(chunk)
        sent = step.out
        if step.seal:
            content = sealing.content
            tag = {"token": KEYS.token(content, completion=completion or sealing.completion, **claims)}
            if not content.is_inline:
                tag["leaves"] = [list(leaf) for leaf in content.leaves or ()]
            sent += sealing.sealed(json.dumps(tag).encode()).out
        out.append(sent)
    return out, tag


SEALED, TAG = sealed(plain())


def verify(events: list[bytes], **given: Any) -> Verified:
    return verify_stream(b"".join(events), **{"trust": TRUST, "now": START, **given})


@pytest.mark.parametrize("header", [None, PENDING], ids=["without its header", "with its header"])
def test_a_sealed_stream_is_proven(header: str | None) -> None:
    verified = verify(SEALED, token=header, expected=Expected(request=b"", salt=b64url_encode(SALT)))
    assert (verified.claims.content.projection, verified.notes) == ("messages-1", ())  # type: ignore[union-attr]
    assert verified.request_checked
    assert "delta" in verified.uncovered  # of message_delta: the reason why it stopped


def test_a_stream_cut_around_any_event_is_incomplete_until_its_end() -> None:
    """Once the event with the pending token has come, it is known that a final one is missing, even without the header."""
    stream = b"".join(SEALED)
    ends = list(accumulate(map(len, SEALED)))
    for size in {0, *(end + more for end in ends for more in (-2, -1, 0, 1) if end + more < len(stream))}:
        with pytest.raises(IncompleteError if size >= ends[0] else AbsentError):
            verify_stream(stream[:size], trust=TRUST, now=START)
        with pytest.raises(IncompleteError):
            verify_stream(stream[:size], trust=TRUST, now=START, token=PENDING)
    assert verify_stream(stream, trust=TRUST, now=START).notes == ()


def test_a_message_built_from_a_stream_is_proven_by_the_tag_of_the_stream() -> None:
    """The member of ``message_stop`` takes the place of the pending one, and the message is a body as if it had never been streamed."""
    built = {**MESSAGE, "content": BLOCKS, "stop_reason": "tool_use", "ai_provenance": TAG}
    body = json.dumps(built).encode()
    assert verify_body(body, trust=TRUST, now=START).claims.content.projection == "messages-1"  # type: ignore[union-attr]
    assert verify_body(body, trust=TRUST, now=START, token=TAG["token"]).claims.jti == "j"
    pending = json.dumps({**built, "ai_provenance": {"token": PENDING}}).encode()
    with pytest.raises(IncompleteError):
        verify_body(pending, trust=TRUST, now=START)
    for change in ({"text": "Grüsse"}, {"type": "redacted_thinking", "data": "x"}):
        changed = [BLOCKS[0], {**BLOCKS[1], **change}, BLOCKS[2]]
        with pytest.raises(ContentMismatchError):
            verify_body(json.dumps({**built, "content": changed}).encode(), trust=TRUST, now=START)
    with pytest.raises(MalformedError, match="array of content"):
        verify_body(json.dumps({"choices": [], "ai_provenance": TAG}).encode(), trust=TRUST, now=START)


def test_a_text_alone_is_proven() -> None:
    verified = verify_text("Grüße \U0001f642", token=TAG["token"], leaves=TAG["leaves"], choice=1, trust=TRUST, now=START)
    assert verified.notes == ("parts not given: 4",)
    with pytest.raises(ContentMismatchError):
        verify_text("hm", token=TAG["token"], leaves=TAG["leaves"], trust=TRUST, now=START)  # thinking is no text of the answer


@pytest.mark.parametrize("position", [3, 4, 7, 8, 11, 12])
def test_a_change_a_loss_or_a_doubling_of_any_content_is_found(position: int) -> None:
    changed = (
        SEALED[position].replace(b'": "', b'": "x') if position < 11 else SEALED[position].replace(b"city", b"town").replace(b"ln", b"nn")
    )
    for events in (
        [*SEALED[:position], *SEALED[position + 1 :]],
        [*SEALED[:position], SEALED[position], *SEALED[position:]],
        [*SEALED[:position], changed, *SEALED[position + 1 :]],
    ):
        with pytest.raises(VerificationError):
            verify(events)


def test_c12_the_pending_token_in_the_stream_must_be_the_one_beside_it() -> None:
    other = KEYS.token(jti="k")
    with pytest.raises(MalformedError, match="different pending tokens"):
        verify(SEALED, token=other)
    with pytest.raises(MalformedError):
        verify(sealed(plain(), pending=TAG["token"])[0])  # a final token where the message starts
    with pytest.raises(SignatureError):
        verify(sealed(plain(), pending=PENDING[:-8] + "A" * 8)[0])


@pytest.mark.parametrize("claims", [{"rid": "r2"}, {"sub": "s2"}, {"request": b"x"}])
def test_c12_the_pending_token_in_the_stream_must_be_of_the_same_exchange(claims: dict[str, Any]) -> None:
    with pytest.raises(ContentMismatchError, match="different exchanges"):
        verify(sealed(plain(), **claims)[0])


def test_c4_a_token_beside_the_message_that_starts_is_no_pending_one() -> None:
    start = event("message_start", message=MESSAGE, ai_provenance={"token": PENDING})
    with pytest.raises(MalformedError, match="pending"):
        verify([start, *SEALED[1:]])


def test_c4_more_than_one_final_token_is_invalid() -> None:
    with pytest.raises(MalformedError, match="second token"):
        verify([*SEALED, SEALED[-1]])
    second = event("message_stop", message={"ai_provenance": TAG})
    with pytest.raises(MalformedError, match="second token"):
        verify([*SEALED, second])


@pytest.mark.parametrize(
    "late",
    [
        event("content_block_delta", index=1, delta={"type": "text_delta", "text": "!"}),
        event("content_block_start", index=3, content_block={"type": "unheard_of"}),
        event("error", error={"type": "api_error", "message": "no"}),
        event("error"),
        event("ping", error="late"),
    ],
)
def test_c5_no_content_and_no_error_follows_the_token(late: bytes) -> None:
    with pytest.raises(ContentMismatchError, match="follows"):
        verify([*SEALED, late])
    assert verify([*SEALED, event("ping"), b": bye\n\n"]).notes == ()


def test_a_stream_that_failed_is_proven_with_what_came_of_it() -> None:
    for error in (event("error", error={"type": "overloaded_error", "message": "x"}), event("error", error={"type": "permission_error"})):
        events, _ = sealed([*plain()[:8], error], completion=Completion.POLICY if b"permission" in error else Completion.ERROR)
        verified = verify(events)
        assert verified.notes == (f"completion: {verified.claims.completion}",)
        assert verified.claims.completion in ("error", "policy")


def test_an_error_as_the_first_event_is_proven() -> None:
    """It tells nothing of the form of the stream: the token does."""
    events, _ = sealed([event("ping"), event("error", error={"type": "overloaded_error", "message": "x"})])
    assert verify(events).claims.content.projection == "messages-1"  # type: ignore[union-attr]


def unnamed(raw: bytes) -> bytes:
    return raw[raw.index(b"data: ") :]


def test_c13_a_token_of_messages_proves_no_other_stream() -> None:
    with pytest.raises(ContentMismatchError, match="not of chat-1"):
        verify(
            [
                b'data: {"type":"content_block_stop"}\n\n',
                *(unnamed(each) for each in sealed([event("message_start", message=MESSAGE), event("message_stop")])[0][1:]),
            ]
        )
    chat = MessagesProjection()
    tag = {"token": KEYS.token(chat.content())}
    chunk = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "ai_provenance": tag}
    with pytest.raises(ContentMismatchError, match="not of chat-1"):
        verify([b"data: " + json.dumps(chunk).encode() + b"\n\n"])


def test_a_verifier_says_when_the_stream_has_ended() -> None:
    """Clients stop reading there."""
    verifier = StreamVerifier(trust=TRUST, now=START)
    for chunk in SEALED[:-1]:
        verifier.feed(chunk)
        assert not verifier.done
    verifier.feed(SEALED[-1])
    assert verifier.done
    assert verifier.finish().notes == ()


def test_keys_are_found_for_the_pending_token_inside_a_stream() -> None:
    """It may be the only token that came: then the stream is incomplete, and not of an issuer that nobody knows."""
    with Verifier(pinned=TRUST, clock=FixedClock(START)) as verifier:
        stream = verifier.stream()
        stream.feed(b"".join(SEALED[:5]))
        assert not stream.done
        with pytest.raises(IncompleteError):
            stream.finish()
        stream = verifier.stream()
        stream.feed(b"".join(SEALED))
        assert stream.done
        assert stream.finish().kid == KEYS.key.kid


def test_the_request_and_the_nonce_are_checked() -> None:
    with pytest.raises(NonceError):
        verify(SEALED, expected=Expected(nonce="n"))
