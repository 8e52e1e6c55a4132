"""What requests of Open Inference ask for, over HTTP and gRPC, and how refusals look."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tos_guard.dialects import GrpcFormat, InferFormat, OpenInferenceDialect, RequestFacts, RequestHead
from tos_guard.errors import MalformedRequestError

DIALECT = OpenInferenceDialect(action="classify")
METHOD = "/inference.GRPCInferenceService/ModelInfer"


def over_http(body: bytes, path: str = "/v2/models/small/infer", *headers: tuple[bytes, bytes]) -> RequestFacts:
    return DIALECT.read_request(body, RequestHead("POST", path, "application/json", headers))


def over_grpc(message: bytes, path: str = METHOD) -> RequestFacts:
    return DIALECT.read_request(message, RequestHead("POST", path))


@pytest.mark.parametrize(
    "path", ["/v2/models/small/infer", "/v2/models/small/versions/3/infer", "/serving/v2/models/small/infer", "/v2/models/small/generate"]
)
def test_over_http_the_path_names_the_model(path: str) -> None:
    facts = over_http(b'{"model":"other","inputs":[]}', path)
    assert (facts.model, facts.action) == ("small", "classify")


@pytest.mark.parametrize(
    "path", ["", "/v2/models/infer", "/v2/models/a/b/infer", "/v2/models/small", "/v2/models/small/infer/", "/v2/models//infer"]
)
def test_a_path_that_names_none_is_refused(path: str) -> None:
    with pytest.raises(MalformedRequestError):
        over_http(b"{}", path)


def test_parameters_and_prompts_are_counted() -> None:
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [3, 1], "data": ["a", "b", "c"]}
    body = {"inputs": [tensor, {"datatype": "FP32", "shape": [9]}], "parameters": {"max_tokens": 70, "n": 2, "user": "u"}}
    facts = over_http(json.dumps(body).encode())
    assert (facts.choices, facts.max_output_tokens, facts.end_user) == (6, 70, "u")
    assert over_http(b'{"max_tokens":7,"parameters":{"max_new_tokens":9}}').max_output_tokens == 9


def test_a_small_number_among_the_parameters_hides_no_larger_one_beside_them() -> None:
    """Triton's ``generate`` gives a model the members of the body as well."""
    facts = over_http(b'{"max_tokens":9000,"n":8,"parameters":{"max_tokens":1,"n":1}}', "/v2/models/small/generate")
    assert (facts.max_output_tokens, facts.choices) == (9000, 8)
    assert over_http(b'{"max_tokens":-1,"parameters":{"max_tokens":1}}', "/v2/models/small/generate").is_open_ended


def test_the_same_request_over_grpc_asks_for_the_same() -> None:
    request = ModelInferRequest(model_name="small", model_version="1")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[3, 1])
    request.parameters["max_tokens"].int64_param = 70
    request.parameters["n"].uint64_param = 2
    request.parameters["user"].string_param = "u"
    request.parameters["flag"].bool_param = True
    facts = over_grpc(request.SerializeToString())
    assert (facts.model, facts.choices, facts.max_output_tokens, facts.end_user) == ("small", 6, 70, "u")
    request.parameters["max_new_tokens"].double_param = 1e9
    request.parameters["n"].double_param = 64.0
    facts = over_grpc(request.SerializeToString(), METHOD.replace("ModelInfer", "ModelStreamInfer"))
    assert (facts.choices, facts.max_output_tokens) == (3 * 64, 10**9)
    request.parameters["max_new_tokens"].double_param = math.inf
    assert over_grpc(request.SerializeToString()).is_open_ended


@pytest.mark.parametrize("message", [b"", b"\x0a\x01\xff", b"\x0a\x05ab", b"\x08\x01", b"\x0a\x01m\x20\x01", b"\x0a\x01m\x28\x01"])
def test_a_message_that_names_no_model_or_cannot_be_read_is_refused(message: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        over_grpc(message)


def triton_request() -> tuple[bytes, int]:
    given = tritonclient.http.InferInput("text_input", [2], "BYTES")
    given.set_data_from_numpy(np.array([b"a", b"b"], dtype=np.object_), binary_data=True)
    body, size = tritonclient.http.InferenceServerClient.generate_request_body([given], parameters={"max_tokens": 9})
    assert size is not None
    return body, size


def test_behind_the_json_of_tritons_binary_extension_come_tensors() -> None:
    body, size = triton_request()
    facts = over_http(body, "/v2/models/small/infer", (b"inference-header-content-length", str(size).encode()))
    assert (facts.choices, facts.max_output_tokens) == (2, 9)


@pytest.mark.parametrize("said", [[], [b"9999999"], [b"-1"], [b"1e2"], [b"5"], [b"9" * 5000], [b"100", b"100"]])
def test_a_length_that_bounds_no_json_is_refused(said: list[bytes]) -> None:
    body, _ = triton_request()
    with pytest.raises(MalformedRequestError):
        over_http(body, "/v2/models/small/infer", *((b"inference-header-content-length", value) for value in said))


def test_a_refusal_has_the_protocols_error_with_ours_beside_it() -> None:
    said: dict[str, Any] = {"message": "no", "code": "tos_x", "extra": {"clause": "c"}}
    assert json.loads(DIALECT.refusal_body(kind="k", **said)) == {"error": "no", "type": "k", "code": "tos_x", "clause": "c"}
    assert json.loads(DIALECT.error_event(**said).removeprefix(b"data: ")) == {"error": "no", "code": "tos_x", "clause": "c"}


def test_messages_of_the_methods_that_infer_carry_the_tag_and_others_are_bytes() -> None:
    single, stream = DIALECT.call_format(METHOD), DIALECT.call_format("/x.Y/ModelStreamInfer")
    assert isinstance(single, InferFormat)
    assert isinstance(stream, InferFormat)
    assert (single.carries, stream.carries) == ("final", "checkpoint")
    assert isinstance(DIALECT.call_format("/inference.GRPCInferenceService/ServerLive"), GrpcFormat)
