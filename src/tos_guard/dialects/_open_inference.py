"""Open Inference (KServe v2, Triton) as requests come: over HTTP as JSON or with Triton's binary tail, and over gRPC as a message.

The model stands in the path, or in ``model_name`` of the message. What is read of the rest are its ``parameters`` and how many prompts
it has; tensors are for the model alone. Error bodies have the protocol's one member ``error``, a string, with ours beside it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal

from tos_guard.dialects._body import (
    RequestFacts,
    parse_request_object,
    request_choices,
    request_end_user,
    request_model,
    request_output_maximum,
)
from tos_guard.dialects._dialect import NO_HEAD, RequestHead
from tos_guard.dialects._grpc import CallFormat, CallProjection, GrpcFormat
from tos_guard.dialects._infer import InferProjection, StreamedInferProjection, infer_streams, splice_infer_tag, strip_infer_tag
from tos_guard.dialects._projection import Projection
from tos_guard.dialects._protobuf import Field, Wire, fields_of, read_text, signed, varints_of
from tos_guard.dialects._streams import StreamFormat
from tos_guard.dialects._tensors import element_count
from tos_guard.errors import MalformedError, MalformedRequestError
from tos_guard.limits import LimitState

__all__ = ["InferFormat", "OpenInferenceDialect"]

JSON_LENGTH: Final = b"inference-header-content-length"
"""Triton's header field: how many bytes of the body are JSON; tensors follow."""

MAX_PROMPTS: Final = 1 << 20  # more elements of BYTES than a request has room for

_PATH: Final = re.compile(r"(?:/[^/]+)*/v2/models/([^/]+)(?:/versions/[^/]+)?/(?:infer|generate|generate_stream)")
_REQUEST: Final = "infer request"

# Field numbers of ModelInferRequest, of its inputs, and of InferParameter.
_MODEL_NAME, _PARAMETERS, _INPUTS = 1, 4, 5
_DATATYPE, _SHAPE = 2, 3
_BOOL, _INT64, _STRING, _DOUBLE, _UINT64 = 1, 2, 3, 4, 5


class InferFormat:
    """Messages of ``ModelInfer``, or of ``ModelStreamInfer``: requests name their model, responses have room for the tag.

    Args:
        streamed: Whether it is ``ModelStreamInfer``.
    """

    reads_requests: bool = True

    def __init__(self, *, streamed: bool) -> None:
        self.carries: Literal["", "final", "checkpoint"] = "checkpoint" if streamed else "final"
        self._streamed = streamed

    def projection(self) -> CallProjection:
        """Of the tensors in the messages."""
        return StreamedInferProjection() if self._streamed else InferProjection()

    def tagged(self, message: bytes, token: str) -> bytes:
        """A response message with a token among its parameters.

        Raises:
            MalformedError: It is not well formed.
        """
        return splice_infer_tag(message, token, streamed=self._streamed)[0]

    def without_tag(self, message: bytes) -> bytes:
        """A response message without a tag that it came with.

        Raises:
            MalformedError: It is not well formed.
        """
        return strip_infer_tag(message, streamed=self._streamed)[0]


class OpenInferenceDialect:
    """Open Inference over HTTP and gRPC. Triton's ``generate`` has its model in the path as well, and is read likewise."""

    name = "open-inference"
    projection: type[Projection] = InferProjection
    refusal_type: bytes = b"application/json"

    def __init__(self, *, action: str = "generate") -> None:
        self.action: str = action

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What a request asks for: one over HTTP, or of the method ``ModelInfer`` or ``ModelStreamInfer`` over gRPC.

        Raises:
            MalformedRequestError: It names no model, or cannot be read.
        """
        if infer_streams(head.path) is not None:
            return self.read_request_message(body)
        named = _PATH.fullmatch(head.path)
        if named is None:
            raise MalformedRequestError(
                "names no model",
                where="path",
                cure="Open Inference has it in the path: /v2/models/{model}/infer, or /versions/{version}/infer.",
            )
        request = parse_request_object(body[: _json_length(head, len(body))])
        parameters = request.get("parameters")
        inputs = request.get("inputs")
        shapes = [
            shape
            for tensor in (inputs if isinstance(inputs, list) else ())
            if isinstance(tensor, dict) and tensor.get("datatype") == "BYTES" and isinstance(shape := tensor.get("shape"), list)
        ]
        beside = [parameters] if isinstance(parameters, dict) else []
        return self._facts(named[1], [*beside, request], [shape for shape in shapes if all(type(size) is int for size in shape)])

    def read_request_message(self, message: bytes) -> RequestFacts:
        """What a serialised ``ModelInferRequest`` asks for.

        Raises:
            MalformedRequestError: It is not well formed, or names no model.
        """
        model = ""
        parameters: dict[str, Any] = {}
        shapes: list[list[int]] = []
        try:
            for field in fields_of(message, where=_REQUEST):
                if field.number == _MODEL_NAME:
                    model = read_text(field, where=_REQUEST)  # of several, parsers keep the last
                elif field.number == _PARAMETERS:
                    parameters.update(_parameter(field))
                elif field.number == _INPUTS and (shape := _prompt_shape(field)) is not None:
                    shapes.append(shape)
        except MalformedError as error:
            raise MalformedRequestError(error.what, where=error.where, cure="Send a ModelInferRequest.") from None
        return self._facts(model, [parameters], shapes)

    def _facts(self, model: str, said: list[dict[str, Any]], shapes: list[list[int]]) -> RequestFacts:
        """What a request asks for. Servers look in one or another of the objects *said*: a small number in one hides none elsewhere."""
        read = [request_output_maximum({**each, "parameters": each}) for each in said]
        maximum = max((number for number, _ in read if number is not None), default=None)
        prompts = max((min(element_count(shape) or 1, MAX_PROMPTS) for shape in shapes), default=1)
        return RequestFacts(
            action=self.action,
            model=request_model({"model": model}),
            choices=max(map(request_choices, said)) * prompts,
            max_output_tokens=maximum,
            is_open_ended=any(is_open_ended for _, is_open_ended in read),
            end_user=next(filter(None, map(request_end_user, said)), None),
        )

    def call_format(self, path: str) -> CallFormat:
        """How the messages of a method carry their tag: those of the protocol's other methods are bytes like any."""
        streamed = infer_streams(path)
        return GrpcFormat() if streamed is None else InferFormat(streamed=streamed)

    def stream_format(self, media_type: bytes) -> StreamFormat | None:
        """None: the protocol's streams are those of gRPC."""
        del media_type
        return None

    def refusal_body(self, *, message: str, code: str, kind: str, extra: dict[str, Any]) -> bytes:
        """A refusal in the protocol's error shape; ours stands beside it."""
        return json.dumps({"error": message, "type": kind, "code": code, **extra}).encode("ascii")

    def limit_fields(self, states: Sequence[LimitState], *, now: datetime) -> list[tuple[bytes, bytes]]:
        """None beside the standard ones."""
        del states, now
        return []

    def error_event(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The event that ends a stream of ``generate_stream`` in-band."""
        return b"data: " + json.dumps({"error": message, "code": code, **extra}).encode("ascii") + b"\n\n"


def _json_length(head: RequestHead, size: int) -> int:
    """How many bytes of a body are JSON."""
    said = head.field(JSON_LENGTH)
    if said is None:
        return size
    if not said.isdigit() or len(said) > len(str(size)) or int(said) > size:
        raise MalformedRequestError("is not a number of bytes of the body", where=f"header {JSON_LENGTH.decode('ascii')}")
    return int(said)


def _parameter(entry: Field) -> dict[str, Any]:
    """A request parameter that can be read as one; others bound nothing, and name nobody."""
    key, value = "", b""
    for part in _submessage(entry):
        if part.number == 1:
            key = read_text(part, where=_REQUEST)
        elif part.number == 2 and part.wire is Wire.BYTES:
            value = bytes(part.data)
    read: Any = None
    for part in fields_of(value, where=_REQUEST):
        if part.wire is Wire.VARINT:
            read = {_BOOL: bool(part.varint), _INT64: signed(part.varint), _UINT64: part.varint}.get(part.number, read)
        elif part.number == _STRING:
            read = read_text(part, where=_REQUEST)
        elif part.number == _DOUBLE and part.wire is Wire.FIXED64:
            (read,) = struct.unpack("<d", part.data)
    return {key: read}


def _prompt_shape(tensor: Field) -> list[int] | None:
    """The shape of an input of BYTES."""
    datatype = ""
    shape: list[int] = []
    for part in _submessage(tensor):
        if part.number == _DATATYPE:
            datatype = read_text(part, where=_REQUEST)
        elif part.number == _SHAPE:
            shape += map(signed, varints_of(part, where=_REQUEST))
    return shape if datatype == "BYTES" else None


def _submessage(field: Field) -> list[Field]:
    if field.wire is not Wire.BYTES:
        raise MalformedError(f"field {field.number} has another wire type", where=_REQUEST)
    return list(fields_of(field.data, where=_REQUEST))
