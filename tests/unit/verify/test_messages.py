"""Response messages of gRPC calls against their token (docs/spec/carriers.md C7, C15), offline and with keys that are fetched."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from loopback_issuer import SALT, START, Keys
from tos_guard._canonical import b64url_encode
from tos_guard.errors import (
    AbsentError,
    ContentMismatchError,
    IncompleteError,
    MalformedError,
    NonceError,
    SignatureError,
    UnsupportedVersionError,
    UntrustedIssuerError,
    VerificationError,
)
from tos_guard.provenance import Content
from tos_guard.testing import FixedClock
from tos_guard.types import Completion, Stage
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Expected, MessagesVerifier, Trust, Verified, verify_messages

KEYS = Keys("https://api.example.com")
MESSAGES = (b"\n\3Hel", b"", b"\n\2lo")
TOKEN = KEYS.sealed_messages(*MESSAGES)
PENDING = KEYS.token()
Verify = Callable[..., Verified]


def offline(messages: Any = MESSAGES, **given: Any) -> Verified:
    return verify_messages(messages, trust=Trust.of(KEYS.key_set()), now=START, **{"token": TOKEN, **given})


def discovering(messages: Any = MESSAGES, **given: Any) -> Verified:
    with Verifier(pinned=KEYS.key_set(), clock=FixedClock(START)) as verifier:
        return verifier.verify_messages(messages, **{"token": TOKEN, **given})


WAYS = pytest.mark.parametrize("verify", [offline, discovering], ids=["offline", "discovering"])


@WAYS
@pytest.mark.parametrize("pending", [None, PENDING])
def test_messages_as_they_were_sealed_are_proven(verify: Verify, pending: str | None) -> None:
    verified = verify(pending=pending)
    assert (verified.token, verified.claims.rid, verified.kid, verified.notes) == (TOKEN, "r", KEYS.key.kid, ())


async def test_the_asynchronous_verifier_finds_the_same() -> None:
    async with AsyncVerifier(pinned=KEYS.key_set(), clock=FixedClock(START)) as verifier:
        assert await verifier.verify_messages(MESSAGES, token=TOKEN, pending=PENDING) == discovering(pending=PENDING)
        with pytest.raises(ContentMismatchError):
            await verifier.verify_messages(MESSAGES[:2], token=TOKEN)


@WAYS
def test_a_call_without_a_message_is_proven_by_the_token_of_none(verify: Verify) -> None:
    token = KEYS.sealed_messages(completion=Completion.ERROR)
    assert verify((), token=token).notes == ("completion: error",)
    with pytest.raises(ContentMismatchError):
        verify((b"",), token=token)


@WAYS
def test_no_byte_of_a_message_can_be_changed(verify: Verify) -> None:
    for position, message in enumerate(MESSAGES):
        for place in range(len(message)):
            changed = message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]
            with pytest.raises(ContentMismatchError):
                verify((*MESSAGES[:position], changed, *MESSAGES[position + 1 :]))


@WAYS
@pytest.mark.parametrize(
    "messages",
    [(), *(MESSAGES[:length] for length in (1, 2)), MESSAGES[::-1], (*MESSAGES, b""), (b"".join(MESSAGES),), MESSAGES[1:]],
    ids=lambda messages: str(messages)[:40],
)
def test_messages_that_are_missing_moved_added_or_joined_are_found(verify: Verify, messages: tuple[bytes, ...]) -> None:
    with pytest.raises(ContentMismatchError, match="messages"):
        verify(messages)


@WAYS
def test_a_call_cut_before_its_final_token_is_incomplete_and_one_without_any_absent(verify: Verify) -> None:
    for length in range(len(MESSAGES) + 1):
        with pytest.raises(IncompleteError):
            verify(MESSAGES[:length], token=None, pending=PENDING)
        with pytest.raises(AbsentError):
            verify(MESSAGES[:length], token=None)


@WAYS
@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"token": PENDING}, IncompleteError),
        ({"token": TOKEN[:-9] + "A" * 9}, SignatureError),
        ({"token": ""}, MalformedError),
        ({"token": "a.b.c"}, MalformedError),
        ({"token": "\u2028" * 9}, MalformedError),
        ({"token": Keys("https://other.example").sealed_messages(*MESSAGES)}, UntrustedIssuerError),
        ({"token": KEYS.token(Content.of("chat-1", []))}, ContentMismatchError),
        ({"token": KEYS.token(Content.of("bytes-1", []))}, ContentMismatchError),
        ({"token": KEYS.token(Content.of("grpc-2", []))}, UnsupportedVersionError),
        ({"pending": TOKEN}, MalformedError),
        ({"pending": "x"}, MalformedError),
        ({"pending": TOKEN, "token": None}, MalformedError),
        ({"pending": KEYS.token(rid="another")}, ContentMismatchError),
        ({"pending": KEYS.token(sub="another")}, ContentMismatchError),
        ({"pending": KEYS.token(request=b"another")}, ContentMismatchError),
    ],
    ids=lambda given: str(given)[:40],
)
def test_tokens_that_are_none_or_not_of_this_call_are_refused(verify: Verify, given: Any, error: type[VerificationError]) -> None:
    with pytest.raises(error):
        verify(**given)


@WAYS
def test_what_was_demanded_is_checked(verify: Verify) -> None:
    salt = b64url_encode(SALT)
    assert verify(expected=Expected(request=b"", salt=salt)).request_checked
    with pytest.raises(NonceError):
        verify(expected=Expected(request=b"another", salt=salt))
    with pytest.raises(NonceError):
        verify(expected=Expected(nonce="n"))


def test_a_stream_longer_than_the_allowed_skew_is_judged_by_the_time_of_its_end() -> None:
    clock = FixedClock(START - timedelta(minutes=5))
    verifier = MessagesVerifier(trust=Trust.of(KEYS.key_set()), now=clock)
    for message in MESSAGES:
        verifier.feed(message)
    with pytest.raises(MalformedError, match="future"):
        verifier.finish(TOKEN)
    clock.advance(timedelta(minutes=5))
    assert verifier.finish(TOKEN).claims.stage is Stage.FINAL
