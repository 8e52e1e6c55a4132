"""Tensors have one meaning whichever way they came, and no bytes are too strange for the wire reader."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.service_pb2 import ModelInferResponse, ModelStreamInferResponse

from tos_guard.dialects import InferProjection, parse_response_json, read_infer_tag, splice_infer_tag
from tos_guard.errors import MalformedError
from tos_guard.provenance import Leaf


def _integers(name: str, code: str, member: str, bits: int, *, signed: bool) -> st.SearchStrategy[tuple[str, str, str, list[Any]]]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.lists(st.integers(low, high), max_size=6).map(lambda values: (name, code, member, values))


TENSORS = st.one_of(
    *(_integers(f"INT{bits}", code, "int_contents", bits, signed=True) for bits, code in ((8, "b"), (16, "h"), (32, "i"))),
    *(_integers(f"UINT{bits}", code, "uint_contents", bits, signed=False) for bits, code in ((8, "B"), (16, "H"), (32, "I"))),
    _integers("INT64", "q", "int64_contents", 64, signed=True),
    _integers("UINT64", "Q", "uint64_contents", 64, signed=False),
    st.lists(st.booleans(), max_size=6).map(lambda values: ("BOOL", "?", "bool_contents", values)),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=6).map(lambda v: ("FP32", "f", "fp32_contents", v)),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=6).map(lambda values: ("FP64", "d", "fp64_contents", values)),
    st.lists(st.text(max_size=8), max_size=6).map(lambda values: ("BYTES", "", "bytes_contents", values)),
)


def leaves_of(message: ModelInferResponse) -> tuple[Leaf, ...]:
    projection = InferProjection()
    projection.add_message(message.SerializeToString())
    return projection.content().leaves or ()


@given(st.text(max_size=8), TENSORS)
def test_json_raw_and_typed_contents_have_equal_leaves(name: str, tensor: tuple[str, str, str, list[Any]]) -> None:
    datatype, code, member, values = tensor
    strings = [value.encode() for value in values] if datatype == "BYTES" else []
    raw = b"".join(struct.pack("<I", len(s)) + s for s in strings) if datatype == "BYTES" else struct.pack(f"<{len(values)}{code}", *values)
    body = {"outputs": [{"name": name, "datatype": datatype, "shape": [len(values)], "data": values}]}
    projection = InferProjection()
    projection.add_body(parse_response_json(json.dumps(body).encode(), where="body"))
    as_raw, as_typed = ModelInferResponse(), ModelInferResponse()
    for made in (as_raw, as_typed):
        made.outputs.add(name=name, datatype=datatype, shape=[len(values)])
    as_raw.raw_output_contents.append(raw)
    getattr(as_typed.outputs[0].contents, member).extend(strings or values)
    assert projection.content().leaves == leaves_of(as_raw) == leaves_of(as_typed)


WIRE = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            [b"\x2a", b"\x22", b"\x32", b"\x12", b"\x0a", b"\x1a", b"\x08", b"\x80", b"\xff", b"\x00", b"\x05", b"ai_provenance"]
        ),
        max_size=40,
    ).map(b"".join),
)


@given(WIRE, st.booleans())
def test_any_bytes_give_a_value_or_our_error(message: bytes, streamed: bool) -> None:
    projection = InferProjection()
    began = time.thread_time()
    for read in (
        lambda: projection.add_message(message, streamed=streamed),
        lambda: projection.note_message(message, streamed=streamed),
        lambda: read_infer_tag(message, streamed=streamed),
        lambda: splice_infer_tag(message, "t", streamed=streamed),
    ):
        with contextlib.suppress(MalformedError):
            read()
    assert time.thread_time() - began < 0.05


@given(WIRE, st.booleans())
def test_what_we_read_protobuf_reads_alike(message: bytes, streamed: bool) -> None:
    """A tag that we put in is found by the official parser, and what it writes again means the same to us."""
    try:
        tagged, _ = splice_infer_tag(message, "t", streamed=streamed)
        projection = InferProjection()
        projection.add_message(tagged, streamed=streamed)
        made = (ModelStreamInferResponse if streamed else ModelInferResponse).FromString(tagged)
    except Exception:
        return
    again = InferProjection()
    again.add_message(made.SerializeToString(), streamed=streamed)
    assert again.content() == projection.content()


def test_a_message_of_sixteen_megabytes_in_empty_fields_is_refused_at_once() -> None:
    began = time.thread_time()
    with contextlib.suppress(MalformedError):
        InferProjection().add_message(b"\x52\x00" * 8_000_000)
    assert time.thread_time() - began < 1
