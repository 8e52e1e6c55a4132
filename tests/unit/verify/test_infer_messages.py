"""Responses of Open Inference over gRPC against their tokens and checkpoints (docs/spec/carriers.md C11, C15; projection.md P9, P12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tritonclient.grpc.service_pb2 import ModelInferResponse, ModelStreamInferResponse

from loopback_issuer import SALT, START, Keys
from tos_guard._canonical import b64url_encode
from tos_guard.dialects import GrpcProjection, InferProjection, splice_infer_tag
from tos_guard.errors import (
    AbsentError,
    ContentMismatchError,
    IncompleteError,
    MalformedError,
    NonceError,
    SignatureError,
    UndecidableError,
    VerificationError,
)
from tos_guard.testing import FixedClock
from tos_guard.types import Completion, Stage
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Expected, MessagesVerifier, Trust, Verified, verify_messages
from tos_guard_grpc import verify_infer_result, verify_infer_stream

KEYS = Keys("https://api.example.com")
TRUST = Trust.of(KEYS.key_set())
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PENDING = KEYS.token()
CHECKPOINT: dict[str, Any] = {"stage": Stage.CHECKPOINT, "completion": None}
Verify = Callable[..., Verified]


def offline(messages: Any, **given: Any) -> Verified:
    return verify_messages(messages, trust=TRUST, now=START, **given)


def discovering(messages: Any, **given: Any) -> Verified:
    with Verifier(pinned=KEYS.key_set(), clock=FixedClock(START)) as verifier:
        return verifier.verify_messages(messages, **given)


WAYS = pytest.mark.parametrize("verify", [offline, discovering], ids=["offline", "discovering"])


def response(text: bytes = b"\2\0\0\0hi", **parameters: str) -> ModelInferResponse:
    made = ModelInferResponse(model_name="small", model_version="1", id="7")
    made.outputs.add(name="text", datatype="BYTES", shape=[1])
    made.raw_output_contents.append(text)
    for name, value in parameters.items():
        made.parameters[name].string_param = value
    return made


def token_of(*messages: bytes, streamed: bool = False, **token: Any) -> str:
    projection = InferProjection()
    for message in messages:
        projection.add_message(message, streamed=streamed)
    return KEYS.token(projection.content(), **token)


def streamed(*texts: bytes, checkpoints: bool = True) -> list[bytes]:
    """Messages of a stream, each with the checkpoint of what came up to it."""
    plain = [ModelStreamInferResponse(infer_response=response(text)).SerializeToString() for text in texts]
    if not checkpoints:
        return plain
    return [
        splice_infer_tag(message, token_of(*plain[: number + 1], streamed=True, **CHECKPOINT), streamed=True)[0]
        for number, message in enumerate(plain)
    ]


TEXTS = (b"\1\0\0\0a", b"\1\0\0\0b", b"\1\0\0\0c")
SEALED = response().SerializeToString()
TOKEN = token_of(SEALED)
TAGGED = splice_infer_tag(SEALED, TOKEN)[0]
FLOWING = streamed(*TEXTS)
FINAL = token_of(*streamed(*TEXTS, checkpoints=False), streamed=True)


@WAYS
@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_response_is_proven_by_the_token_in_it_or_beside_it(verify: Verify, token: str | None) -> None:
    verified = verify([TAGGED], token=token, method=INFER, pending=PENDING)
    assert (verified.token, verified.uncovered) == (TOKEN, ("id", "model_name", "model_version"))
    assert verify([SEALED], token=TOKEN, method=INFER).token == TOKEN


@WAYS
def test_a_response_that_was_parsed_and_serialised_again_is_still_proven(verify: Verify) -> None:
    again = ModelInferResponse.FromString(TAGGED)
    again.model_name = "another name, which nothing covers"
    assert verify([again.SerializeToString()], token=None, method=INFER).claims.rid == "r"


async def test_the_asynchronous_verifier_finds_the_same() -> None:
    async with AsyncVerifier(pinned=KEYS.key_set(), clock=FixedClock(START)) as verifier:
        assert await verifier.verify_messages([TAGGED], token=None, method=INFER) == discovering([TAGGED], token=None, method=INFER)
        assert await verifier.verify_messages(FLOWING, token=FINAL, method=STREAM) == discovering(FLOWING, token=FINAL, method=STREAM)


@WAYS
@pytest.mark.parametrize(
    ("messages", "given", "error"),
    [
        ([SEALED], {}, AbsentError),
        ([SEALED], {"pending": PENDING}, IncompleteError),
        ([TAGGED, TAGGED], {}, AbsentError),  # the tag in a message is of a single one
        ([SEALED, TAGGED], {}, AbsentError),
        ([], {"token": TOKEN}, ContentMismatchError),
        ([response(b"\2\0\0\0ho", ai_provenance=TOKEN).SerializeToString()], {}, ContentMismatchError),
        ([TAGGED], {"token": token_of(SEALED, jti="another")}, MalformedError),
        ([response(ai_provenance=PENDING).SerializeToString()], {}, IncompleteError),
        ([response(ai_provenance="words").SerializeToString()], {}, MalformedError),
        ([response(ai_provenance=TOKEN[:-9] + "A" * 9).SerializeToString()], {}, SignatureError),
        ([TAGGED[:-1]], {"token": TOKEN}, MalformedError),
        ([TAGGED], {"pending": KEYS.token(rid="another")}, ContentMismatchError),
        ([TAGGED], {"expected": Expected(request=b"another", salt=b64url_encode(SALT))}, NonceError),
        ([TAGGED], {"method": None}, AbsentError),
        ([SEALED], {"method": None, "token": TOKEN}, UndecidableError),
        ([SEALED], {"method": "/text.v1.Text/Complete", "token": TOKEN}, UndecidableError),
        ([SEALED], {"method": STREAM, "token": TOKEN}, VerificationError),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_the_response_that_was_sealed_is_refused(verify: Verify, messages: Any, given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(messages, **{"token": None, "method": INFER, **given})


@WAYS
def test_the_tag_must_be_a_string(verify: Verify) -> None:
    spoilt = response()
    spoilt.parameters["ai_provenance"].int64_param = 1
    for token in (None, TOKEN):
        with pytest.raises(MalformedError, match="ai_provenance"):
            verify([spoilt.SerializeToString()], token=token, method=INFER)


@WAYS
def test_a_method_of_the_protocol_may_be_sealed_by_its_bytes_too(verify: Verify) -> None:
    """A provider may guard it as any gRPC method: then messages may be anything."""
    for message in (SEALED, b"\xff"):
        assert verify([message], token=KEYS.sealed_messages(message), method=INFER).uncovered == ()
    with pytest.raises(ContentMismatchError):
        verify([SEALED + b"\x78\1"], token=KEYS.sealed_messages(SEALED), method=INFER)


@WAYS
def test_a_stream_is_proven_to_its_end_by_the_final_token(verify: Verify) -> None:
    for messages in (FLOWING, streamed(*TEXTS, checkpoints=False)):
        assert verify(messages, token=FINAL, pending=PENDING, method=STREAM).token == FINAL
    failed = ModelStreamInferResponse(error_message="out of memory").SerializeToString()
    whole = [*FLOWING, failed]
    token = token_of(*whole, streamed=True, completion=Completion.ERROR)
    assert verify(whole, token=token, method=STREAM).notes == ("completion: error",)
    with pytest.raises(ContentMismatchError):
        verify(FLOWING, token=token, method=STREAM)


@WAYS
@pytest.mark.parametrize("pending", [None, PENDING])
def test_a_stream_cut_after_any_message_is_incomplete_and_proven_up_to_there(verify: Verify, pending: str | None) -> None:
    for length in range(1, len(FLOWING) + 1):
        with pytest.raises(IncompleteError) as cut:
            verify(FLOWING[:length], token=None, pending=pending, method=STREAM)
        proven = cut.value.proven
        assert proven is not None
        assert (proven.messages, proven.size_bytes) == (length, sum(map(len, FLOWING[:length])))
        assert proven.claims.stage is Stage.CHECKPOINT
        with pytest.raises(ContentMismatchError):
            verify(FLOWING[:length] if length < 3 else FLOWING[1:], token=FINAL, method=STREAM)


def test_messages_after_the_newest_checkpoint_are_not_proven() -> None:
    with pytest.raises(IncompleteError) as cut:
        offline([*FLOWING[:2], streamed(*TEXTS, checkpoints=False)[2]], token=None, method=STREAM)
    assert cut.value.proven is not None
    assert cut.value.proven.messages == 2


def test_of_what_was_not_demanded_no_prefix_is_proven() -> None:
    with pytest.raises(IncompleteError) as cut:
        offline(FLOWING, token=None, method=STREAM, expected=Expected(nonce="n"))
    assert cut.value.proven is None
    verifier = MessagesVerifier(trust=TRUST, now=START, method=STREAM, expected=Expected(nonce="n"))
    assert verifier.proven() is None
    verifier.feed(FLOWING[0])
    with pytest.raises(NonceError):
        verifier.proven()


def spoilt(number: int, token: str) -> list[bytes]:
    plain = streamed(*TEXTS, checkpoints=False)
    return [*FLOWING[:number], splice_infer_tag(plain[number], token, streamed=True)[0], *FLOWING[number + 1 :]]


PLAIN = streamed(*TEXTS, checkpoints=False)


@WAYS
@pytest.mark.parametrize(
    ("messages", "error"),
    [
        (FLOWING[1:], ContentMismatchError),
        (FLOWING[::-1], ContentMismatchError),
        ([FLOWING[0], FLOWING[2]], ContentMismatchError),
        (spoilt(1, token_of(*PLAIN[:2], streamed=True)), MalformedError),  # a final token is not in a message
        (spoilt(1, PENDING), MalformedError),
        (spoilt(1, "words"), MalformedError),
        (spoilt(1, token_of(*PLAIN, streamed=True, **CHECKPOINT)), ContentMismatchError),
        (spoilt(1, token_of(*PLAIN[:2], streamed=True, rid="another", **CHECKPOINT)), ContentMismatchError),
        (spoilt(0, KEYS.token(GrpcProjection().content(), **CHECKPOINT)), ContentMismatchError),
        (spoilt(2, token_of(*PLAIN, streamed=True, **CHECKPOINT)[:-9] + "A" * 9), SignatureError),
    ],
    ids=range(10),
)
def test_checkpoints_must_be_of_what_came_and_of_one_exchange(verify: Verify, messages: list[bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(messages, token=FINAL, pending=PENDING, method=STREAM)


@WAYS
def test_checkpoints_of_another_exchange_than_the_metadata_s_are_refused(verify: Verify) -> None:
    for given in ({"pending": KEYS.token(sub="another")}, {"token": token_of(*PLAIN, streamed=True, sub="another")}):
        with pytest.raises(ContentMismatchError):
            verify(FLOWING, **{"token": FINAL, "method": STREAM, **given})


# What tritonclient hands out


def test_a_parsed_response_is_proven_without_metadata() -> None:
    assert verify_infer_result(ModelInferResponse.FromString(TAGGED), trust=TRUST, now=START).claims.rid == "r"
    with pytest.raises(AbsentError):
        verify_infer_result(response(), trust=TRUST, now=START)
    with pytest.raises(ContentMismatchError):
        verify_infer_result(response(b"\2\0\0\0ho", ai_provenance=TOKEN), trust=TRUST, now=START)
    with pytest.raises(NonceError):
        verify_infer_result(ModelInferResponse.FromString(TAGGED), trust=TRUST, now=START, expected=Expected(nonce="n"))


def test_parsed_responses_of_a_stream_are_proven_as_far_as_their_checkpoints() -> None:
    parsed = [ModelStreamInferResponse.FromString(message).infer_response for message in FLOWING]
    for length in range(1, 4):
        assert verify_infer_stream(parsed[:length], trust=TRUST, now=START).messages == length
    assert verify_infer_stream([*parsed, response()], trust=TRUST, now=START).messages == 3
    with pytest.raises(ContentMismatchError):
        verify_infer_stream(parsed[1:], trust=TRUST, now=START)
    for nothing in ([], [response()], [ModelInferResponse()]):
        with pytest.raises(IncompleteError):
            verify_infer_stream(nothing, trust=TRUST, now=START)
