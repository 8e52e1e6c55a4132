"""Which parts the tensors of Open Inference have, whichever way they came (docs/spec/projection.md infer-1, P12)."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from tritonclient.grpc.service_pb2 import ModelInferResponse, ModelStreamInferResponse

from tos_guard._canonical import sha256_b64url
from tos_guard.dialects import PROJECTIONS, InferProjection, parse_response_json, projection_named
from tos_guard.dialects._infer import MAX_MESSAGE_FIELDS, MAX_MESSAGES, MAX_OUTPUTS, MAX_PARTS
from tos_guard.errors import MalformedError
from tos_guard.provenance import Content, Leaf

# Datatype, elements as JSON has them, their raw bytes, and the typed contents of protobuf.
TENSORS: list[tuple[str, list[Any], bytes, str]] = [
    ("BOOL", [True, False], b"\1\0", "bool_contents"),
    ("INT8", [-1, 127], b"\xff\x7f", "int_contents"),
    ("INT16", [-2, 300], b"\xfe\xff\x2c\x01", "int_contents"),
    ("INT32", [-(2**31), 7], struct.pack("<2i", -(2**31), 7), "int_contents"),
    ("INT64", [-(2**63), 2**63 - 1], struct.pack("<2q", -(2**63), 2**63 - 1), "int64_contents"),
    ("UINT8", [0, 255], b"\0\xff", "uint_contents"),
    ("UINT16", [1, 65535], b"\1\0\xff\xff", "uint_contents"),
    ("UINT32", [2**32 - 1, 0], struct.pack("<2I", 2**32 - 1, 0), "uint_contents"),
    ("UINT64", [2**64 - 1, 1], struct.pack("<2Q", 2**64 - 1, 1), "uint64_contents"),
    ("FP32", [0.1, -0.0], struct.pack("<2f", 0.1, -0.0), "fp32_contents"),
    ("FP64", [0.1, 1e300], struct.pack("<2d", 0.1, 1e300), "fp64_contents"),
    ("BYTES", ["né", ""], b"\3\0\0\0n\xc3\xa9\0\0\0\0", "bytes_contents"),
]


def of_json(*outputs: dict[str, Any]) -> tuple[Leaf, ...]:
    projection = InferProjection()
    projection.add_body(parse_response_json(json.dumps({"model_name": "m", "outputs": outputs}).encode(), where="body"))
    return projection.content().leaves or ()


def of_messages(*messages: ModelInferResponse) -> tuple[Leaf, ...]:
    projection = InferProjection()
    for message in messages:
        projection.add_message(message.SerializeToString())
    return projection.content().leaves or ()


def response(datatype: str, shape: list[int], *, raw: bytes | None = None, **contents: Any) -> ModelInferResponse:
    made = ModelInferResponse(model_name="m", model_version="1", id="x")
    output = made.outputs.add(name="out", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(output.contents, name).extend(values)
    if raw is not None:
        made.raw_output_contents.append(raw)
    return made


def data(leaves: tuple[Leaf, ...]) -> str | None:
    (found,) = (digest for _, name, digest in leaves if name == "outputs.0.data")
    return found


@pytest.mark.parametrize(("datatype", "elements", "raw", "member"), TENSORS, ids=[row[0] for row in TENSORS])
def test_a_tensor_has_the_same_leaves_as_json_raw_and_typed(datatype: str, elements: list[Any], raw: bytes, member: str) -> None:
    typed: Any = [element.encode() for element in elements] if datatype == "BYTES" else elements
    expected = (
        (0, "outputs.0.data", sha256_b64url(raw)),
        (0, "outputs.0.datatype", sha256_b64url(datatype.encode())),
        (0, "outputs.0.name", sha256_b64url(b"out")),
        (0, "outputs.0.shape", sha256_b64url(b"[2,1]")),
    )
    assert of_json({"name": "out", "datatype": datatype, "shape": [2, 1], "data": elements}) == expected
    assert of_json({"name": "out", "datatype": datatype, "shape": [2, 1], "data": [[element] for element in elements]}) == expected
    assert of_messages(response(datatype, [2, 1], raw=raw)) == expected
    assert of_messages(response(datatype, [2, 1], raw=None, **{member: typed})) == expected


@pytest.mark.parametrize(("datatype", "size"), [("FP16", 2), ("BF16", 2)])
def test_halves_have_raw_bytes_alone_in_protobuf(datatype: str, size: int) -> None:
    assert data(of_messages(response(datatype, [3], raw=bytes(3 * size)))) == sha256_b64url(bytes(3 * size))
    assert data(of_messages(response(datatype, [3], fp32_contents=[0.0] * 3))) is None


def test_a_half_in_json_has_the_bytes_of_a_raw_one() -> None:
    assert data(of_json({"datatype": "FP16", "shape": [2], "data": [1, 0.1]})) == sha256_b64url(struct.pack("<2e", 1, 0.1))


def test_a_tensor_without_elements_has_no_data() -> None:
    names = {"outputs.0.datatype", "outputs.0.name", "outputs.0.shape"}
    empty = {"name": "out", "datatype": "FP32", "shape": [0, 4]}
    for leaves in (
        of_json(empty),
        of_json({**empty, "data": []}),
        of_messages(response("FP32", [0, 4])),
        of_messages(response("FP32", [0, 4], raw=b"")),
    ):
        assert {name for _, name, _ in leaves} == names


def test_a_scalar_has_an_empty_shape() -> None:
    scalar = of_json({"name": "out", "datatype": "INT8", "shape": [], "data": [5]})
    assert scalar == of_messages(response("INT8", [], int_contents=[5]))
    assert (0, "outputs.0.shape", sha256_b64url(b"[]")) in scalar


@pytest.mark.parametrize(
    "output",
    [
        {"datatype": "INT8", "shape": [1], "data": [128]},
        {"datatype": "INT8", "shape": [1], "data": [1.0]},
        {"datatype": "INT8", "shape": [1], "data": [True]},
        {"datatype": "UINT8", "shape": [1], "data": [-1]},
        {"datatype": "BOOL", "shape": [1], "data": [1]},
        {"datatype": "FP32", "shape": [1], "data": [1e39]},
        {"datatype": "FP64", "shape": [1], "data": ["1"]},
        {"datatype": "FP64", "shape": [1], "data": [10**400]},
        {"datatype": "FP64", "shape": [1], "data": [None]},
        {"datatype": "BYTES", "shape": [1], "data": ["\ud800"]},
        {"datatype": "BYTES", "shape": [1], "data": [1]},
        {"datatype": "BF16", "shape": [1], "data": [1.0]},
        {"datatype": "FP8", "shape": [1], "data": [1.0]},
        {"datatype": 7, "shape": [1], "data": [1.0]},
        {"shape": [1], "data": [1.0]},
        {"datatype": "INT8", "shape": [2], "data": [1]},
        {"datatype": "INT8", "shape": [-1], "data": [1]},
        {"datatype": "INT8", "shape": [1.0], "data": [1]},
        {"datatype": "INT8", "shape": "1", "data": [1]},
        {"datatype": "INT8", "data": [1]},
        {"datatype": "INT8", "shape": [2**62, 2**62], "data": [1]},
        {"datatype": "INT8", "shape": [1], "data": 1},
        {"datatype": "INT8", "shape": [1], "data": {"0": 1}},
        {"datatype": "INT8", "shape": [1]},
        {"datatype": "INT8", "shape": [1], "data": [1], "parameters": {"binary_data_size": 1}},
        {"datatype": "INT8", "shape": [1], "data": [1], "parameters": {"shared_memory_region": "r"}},
    ],
)
def test_data_that_cannot_be_written_as_bytes_is_uncoverable_and_says_so(output: dict[str, Any]) -> None:
    assert data(of_json(output)) is None


def test_an_infinite_number_of_json_is_uncoverable() -> None:
    projection = InferProjection()
    projection.add_body(parse_response_json(b'{"outputs":[{"datatype":"FP64","shape":[1],"data":[1e400]}]}', where="body"))
    assert data(projection.content().leaves or ()) is None


@pytest.mark.parametrize(
    "made",
    [
        response("INT8", [2], raw=b"\1"),
        response("INT8", [2], int_contents=[1]),
        response("INT8", [1], int_contents=[128]),
        response("INT8", [1], int64_contents=[1]),
        response("INT8", [1], int_contents=[1], fp32_contents=[1.0]),
        response("INT8", [1], int_contents=[1], raw=b"\1"),
        response("INT8", [1], int_contents=[1], raw=b""),
        response("INT8", [-1], raw=b"\1"),
        response("INT8", [1]),
        response("FP4", [1], raw=b"\1"),
        response("BYTES", [1], raw=b"\2\0\0\0a"),
        response("BYTES", [2], raw=b"\1\0\0\0a"),
        response("BYTES", [1], raw=b"\1\0\0\0a\0\0\0\0"),
        response("BYTES", [1], raw=b"\1\0"),
    ],
)
def test_messages_whose_data_could_be_read_in_two_ways_or_in_none_are_uncoverable(made: ModelInferResponse) -> None:
    assert data(of_messages(made)) is None


def test_data_in_shared_memory_is_elsewhere() -> None:
    made = response("INT8", [1], raw=b"\1")
    made.outputs[0].parameters["shared_memory_region"].string_param = "r"
    assert data(of_messages(made)) is None


def test_a_shape_beyond_the_integers_of_json_is_uncoverable() -> None:
    big = of_messages(response("INT8", [0, 2**62]))
    assert (0, "outputs.0.shape", None) in big
    assert big == of_json({"name": "out", "datatype": "INT8", "shape": [0, 2**62], "data": []})


def test_names_that_are_no_strings_are_uncoverable_and_missing_ones_are_no_part() -> None:
    assert of_json({"name": 7, "datatype": "INT8", "shape": [0]})[1:2] == ((0, "outputs.0.name", None),)
    assert [name for _, name, _ in of_json({"datatype": "INT8", "shape": [0]})] == ["outputs.0.datatype", "outputs.0.shape"]


def test_a_datatype_that_nobody_knows_has_no_data_even_where_there_are_no_elements() -> None:
    for leaves in (of_json({"shape": [0]}), of_messages(response("", [0])), of_messages(response("", [0], raw=b""))):
        assert data(leaves) is None


def test_each_message_is_a_choice_of_its_own() -> None:
    one = response("INT8", [1], raw=b"\1")
    assert [choice for choice, _, _ in of_messages(one, ModelInferResponse(), one)] == [0] * 4 + [2] * 4


def test_what_a_client_read_and_serialised_again_has_the_same_leaves() -> None:
    for datatype, _, raw, _ in TENSORS:
        sent = response(datatype, [2], raw=raw)
        sent.parameters["seen"].bool_param = True
        again = ModelInferResponse.FromString(sent.SerializeToString())
        again.model_name, again.id = "other", ""
        del again.parameters["seen"]
        assert of_messages(sent) == of_messages(again)


def test_unpacked_numbers_and_wide_spellings_read_as_packed_ones() -> None:
    output = b"\n\x03out\x12\x04INT8" + b"\x18\x02\x18\x81\x00" + b"\x2a\x06\x10\x01\x10\xff\x80\x00"
    unpacked = b"\x2a" + bytes([len(output)]) + output
    projection = InferProjection()
    projection.add_message(unpacked)
    assert projection.content().leaves == of_messages(response("INT8", [2, 1], int_contents=[1, 127]))


def streamed(*, error: str = "", inner: ModelInferResponse | None = None) -> bytes:
    return bytes(ModelStreamInferResponse(error_message=error, infer_response=inner).SerializeToString())


def test_a_streamed_message_is_its_response_and_an_error_is_a_part() -> None:
    one = response("INT8", [1], raw=b"\1")
    projection = InferProjection()
    assert projection.add_message(streamed(inner=one), streamed=True)
    assert not projection.add_message(streamed(), streamed=True)
    assert projection.add_message(streamed(error="no", inner=one), streamed=True)
    found = projection.content().leaves or ()
    assert found[:4] == of_messages(one)
    assert found[4] == (2, "error_message", sha256_b64url(b"no"))
    assert [leaf[1:] for leaf in found[5:]] == [leaf[1:] for leaf in of_messages(one)]


def test_the_root_so_far_can_be_asked_for_and_a_copy_goes_on_by_itself() -> None:
    one = response("INT8", [1], raw=b"\1")
    projection = InferProjection()
    for count in range(1, 40):
        projection.add_message(one.SerializeToString())
        parallel = InferProjection()
        for _ in range(count):
            parallel.add_message(one.SerializeToString())
        assert projection.content() == Content.of("infer-1", projection.content().leaves or ())
        assert projection.content() == parallel.content()
    copy = projection.copy()
    copy.add_message(one.SerializeToString())
    assert (projection.count, copy.count) == (39, 40)
    assert copy.content().count == projection.content().count + 4


def field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


@pytest.mark.parametrize(
    "message",
    [
        b"\x2a",  # cut
        b"\x2a\x05abc",  # longer than the message
        b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of 2^64-1
        b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # of more than 64 bits
        b"\x2a" + b"\x80" * 11,  # of more than ten bytes
        b"\x28\x01",  # outputs as a number
        b"\x0b\x0c",  # a group
        b"\x02\x00",  # field 0
        field(1, b"a") + field(1, b"b"),  # two names
        field(5, field(1, b"a") + field(1, b"b")),
        field(5, field(5, b"") + field(5, b"")),  # contents that parsers merge
        field(5, field(1, b"\xff")),  # no UTF-8
        field(5, field(2, b"INT8") + b"\x19" + bytes(8)),  # a shape of doubles
        field(5, field(2, b"INT8") + field(3, b"\x80")),  # a shape that is cut
        field(5, field(2, b"FP32") + field(3, b"\1") + field(5, field(6, b"abc"))),
        field(5, field(2, b"FP32") + field(3, b"\1") + field(5, b"\x30\x01")),
        field(5, field(4, field(1, b"k") + field(1, b"k"))),
        field(6, b"raw of no output"),
    ],
)
def test_a_message_that_is_not_well_formed_is_refused(message: bytes) -> None:
    with pytest.raises(MalformedError):
        InferProjection().add_message(message)


def test_two_responses_in_one_streamed_message_are_refused() -> None:
    with pytest.raises(MalformedError):
        InferProjection().add_message(field(2, b"") + field(2, b""), streamed=True)


@pytest.mark.parametrize("body", [[], {}, {"outputs": None}, {"outputs": [1]}, {"outputs": [{}] * (MAX_OUTPUTS + 1)}])
def test_a_body_without_an_array_of_outputs_has_no_such_projection(body: Any) -> None:
    with pytest.raises(MalformedError):
        InferProjection().add_body(body)


def test_bounds_are_kept() -> None:
    too_many = ModelInferResponse()
    for _ in range(MAX_OUTPUTS + 1):
        too_many.outputs.add()
    for message in (too_many.SerializeToString(), b"\x52\x00" * (MAX_MESSAGE_FIELDS + 1)):
        with pytest.raises(MalformedError, match="more than"):
            InferProjection().add_message(message)
    projection = InferProjection()
    projection.count = MAX_MESSAGES
    with pytest.raises(MalformedError, match="messages"):
        projection.add_message(b"")
    projection = InferProjection()
    full = ModelInferResponse()
    for _ in range(MAX_OUTPUTS):
        full.outputs.add(name="a", datatype="INT8", shape=[1])
    for _ in range(MAX_PARTS // 4 // MAX_OUTPUTS):
        projection.add_message(full.SerializeToString())
    with pytest.raises(MalformedError, match="parts"):
        projection.add_message(full.SerializeToString())


def test_what_is_not_covered_is_listed() -> None:
    projection = InferProjection()
    body = {"model_name": "m", "ai_provenance": {}, "outputs": [{"name": "o", "parameters": {}}]}
    projection.add_body(body)
    projection.note_body(body)
    assert projection.uncovered == ("model_name", "outputs[].parameters")
    made = response("INT8", [1], raw=b"\1")
    made.parameters["k"].bool_param = True
    made.parameters["ai_provenance"].string_param = "t"
    made.outputs[0].parameters["p"].bool_param = True
    projection = InferProjection()
    projection.note_message(made.SerializeToString())
    assert projection.uncovered == ("id", "model_name", "model_version", "outputs[].parameters", "parameters.k")


def test_a_verifier_finds_it_by_the_name_in_a_token() -> None:
    assert isinstance(projection_named("infer-1", PROJECTIONS), InferProjection)
