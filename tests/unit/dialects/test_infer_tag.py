"""The tag in messages of Open Inference (docs/spec/carriers.md, gRPC, C15), read by the classes that clients use."""

from __future__ import annotations

import pytest
from tritonclient.grpc.service_pb2 import ModelInferResponse, ModelStreamInferResponse

from tos_guard.dialects import InferProjection, read_infer_tag, splice_infer_tag
from tos_guard.errors import MalformedError
from tos_guard.provenance import Leaf

TOKEN = "e30.e30." + "x" * 700  # longer than a length of one byte can say


def response(**parameters: str) -> ModelInferResponse:
    made = ModelInferResponse(model_name="m", model_version="1")
    made.outputs.add(name="out", datatype="INT8", shape=[1])
    made.raw_output_contents.append(b"\1")
    for name, value in parameters.items():
        made.parameters[name].string_param = value
    return made


def leaves(message: bytes, *, streamed: bool = False) -> tuple[Leaf, ...]:
    projection = InferProjection()
    projection.add_message(message, streamed=streamed)
    return projection.content().leaves or ()


def entry(value: bytes) -> bytes:
    key = b"\x0a\x0dai_provenance"
    body = key + bytes([0x12, len(value)]) + value
    return bytes([0x22, len(body)]) + body


def test_the_tag_is_a_parameter_and_no_other_byte_moves() -> None:
    sent = response(other="kept").SerializeToString()
    tagged, removed = splice_infer_tag(sent, TOKEN)
    assert tagged.startswith(sent)
    assert removed == 0
    read = ModelInferResponse.FromString(tagged)
    assert read.parameters["ai_provenance"].string_param == TOKEN == read_infer_tag(tagged)
    assert read.parameters["other"].string_param == "kept"
    assert leaves(tagged) == leaves(sent)


def test_an_upstreams_tag_is_taken_out_and_counted() -> None:
    sent = response(ai_provenance="theirs", other="kept").SerializeToString()
    twice = sent + entry(b"\x1a\x05again")
    tagged, removed = splice_infer_tag(twice, TOKEN)
    assert removed == 2
    assert b"theirs" not in tagged
    assert b"again" not in tagged
    assert dict(ModelInferResponse.FromString(tagged).parameters.items()).keys() == {"ai_provenance", "other"}
    assert read_infer_tag(tagged) == TOKEN


def test_what_a_client_serialises_again_keeps_tag_and_leaves() -> None:
    tagged, _ = splice_infer_tag(response(z="1", a="2").SerializeToString(), TOKEN)
    again = ModelInferResponse.FromString(tagged).SerializeToString(deterministic=True)
    assert again != tagged
    assert read_infer_tag(again) == TOKEN
    assert leaves(again) == leaves(tagged)


def test_a_streamed_message_carries_it_in_its_response() -> None:
    inner = response(ai_provenance="theirs")
    for error in ("", "late"):
        sent = ModelStreamInferResponse(error_message=error, infer_response=inner).SerializeToString()
        tagged, removed = splice_infer_tag(sent, TOKEN, streamed=True)
        assert removed == 1
        read = ModelStreamInferResponse.FromString(tagged)
        assert read.infer_response.parameters["ai_provenance"].string_param == TOKEN
        assert read.error_message == error
        assert read_infer_tag(tagged, streamed=True) == TOKEN
        assert leaves(tagged, streamed=True) == leaves(sent, streamed=True)


def test_an_error_without_a_response_has_no_place_for_it() -> None:
    sent = ModelStreamInferResponse(error_message="no").SerializeToString()
    assert splice_infer_tag(sent, TOKEN, streamed=True) == (sent, 0)
    assert read_infer_tag(sent, streamed=True) is None


def test_without_a_tag_there_is_none() -> None:
    assert read_infer_tag(response(other="x").SerializeToString()) is None
    assert read_infer_tag(b"") is None


@pytest.mark.parametrize(
    "message",
    [
        entry(b"\x08\x01"),  # a bool
        entry(b""),
        entry(b"\x1a\x01a\x1a\x01b"),  # two strings
        entry(b"\x1a\x01\xff"),  # no UTF-8
        entry(b"\x18\x01"),  # field 3 as a number
        entry(b"\x1a\x01a") * 2,
        entry(b"\x1a\x01a")[:-1],
    ],
)
def test_a_tag_that_is_no_single_string_is_refused(message: bytes) -> None:
    with pytest.raises(MalformedError):
        read_infer_tag(message)
