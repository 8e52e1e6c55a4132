"""Triton's own gRPC client against a guarded server of Open Inference: it shows no trailing metadata, so the tag is in the message."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from grpc_kit import DOORS, Door, ask
from kit import Kit
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.provenance import parse_token
from tos_guard_grpc import verify_infer_result, verify_infer_stream

SERVICE = "/inference.GRPCInferenceService"
REQUESTS = Limit(id="requests", quantity=Quantity.REQUESTS, amount=5, per=(Dimension.ACCOUNT,), window=Sliding(3_600))
THREADS, ASYNC = DOORS[0], DOORS[1]


def infer_kit(**parts: Any) -> Kit:
    """A kit whose routes are the two methods that infer."""
    routes = {f"{SERVICE}/{method}": "open-inference" for method in ("ModelInfer", "ModelStreamInfer")}
    return Kit(settings={"routes": routes, "exempt": [f"{SERVICE}/ServerLive"]}, **parts)


def doubled(request: Any) -> Any:
    """What the model answers: each number twice as large. It says a tag of an upstream, which must not leave."""
    numbers = np.frombuffer(request.raw_input_contents[0], dtype=np.float32) * 2
    answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id, raw_output_contents=[numbers.tobytes()])
    answer.outputs.add(name="OUT", datatype="FP32", shape=[len(numbers)])
    answer.parameters["kept"].int64_param = 7
    answer.parameters["ai_provenance"].string_param = "forged"
    return answer


class Model(service_pb2_grpc.GRPCInferenceServiceServicer):
    """In threads."""

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return doubled(request)

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            yield service_pb2.ModelStreamInferResponse(infer_response=doubled(request))


class AsyncModel(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Awaiting."""

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return doubled(request)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> Any:  # noqa: N802
        async for request in requests:
            yield service_pb2.ModelStreamInferResponse(infer_response=doubled(request))


@pytest.fixture(params=[THREADS, ASYNC], ids=["threads", "aio"])
def door(request: pytest.FixtureRequest) -> Door:
    """Servers of both colours."""
    return request.param  # type: ignore[no-any-return]


def serving(door: Door, kit: Kit) -> Any:
    """The model behind the guard."""
    model = AsyncModel() if door.is_async else Model()
    return door.serving(kit, register=lambda server: service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(model, server))


def numbers() -> list[InferInput]:
    """An input of three numbers."""
    given = InferInput("IN", [3], "FP32")
    given.set_data_from_numpy(np.array([1, 2, 3], dtype=np.float32))
    return [given]


def test_infer_shows_the_final_token_among_the_parameters(door: Door) -> None:
    """With the servicer's own parameters untouched; trailing metadata has the same token."""
    kit = infer_kit()
    with serving(door, kit) as address, InferenceServerClient(address) as client:
        assert client.is_server_live()
        result = client.infer("small", numbers(), headers={"authorization": f"Bearer {kit.key}"})
        raw = service_pb2.ModelInferRequest(model_name="small", raw_input_contents=[np.ones(2, dtype=np.float32).tobytes()])
        told = ask(address, f"{SERVICE}/ModelInfer#UnaryUnary", [raw.SerializeToString()], kit=kit)
    assert list(result.as_numpy("OUT")) == [2, 4, 6]
    response = result.get_response()
    assert response.parameters["kept"].int64_param == 7
    assert "ai_provenance" in response.parameters
    verify_infer_result(response, trust=kit.trust, now=kit.clock())
    message = service_pb2.ModelInferResponse.FromString(told.messages[0])
    assert message.parameters["ai_provenance"].string_param == told.token
    told.verify(kit, method=f"{SERVICE}/ModelInfer")
    assert {(record.carrier, record.proj, record.model) for record in kit.records()} == {("grpc-message", "infer-1", "small")}


def test_each_message_of_a_stream_shows_a_checkpoint(door: Door) -> None:
    """A cut stream proves itself up to its newest message; the final token is in trailing metadata, where other clients read it."""
    kit = infer_kit()
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    raw = service_pb2.ModelInferRequest(model_name="small", raw_input_contents=[np.ones(2, dtype=np.float32).tobytes()])
    with serving(door, kit) as address, InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), headers={"authorization": f"Bearer {kit.key}"})
        results = []
        for _ in range(3):
            client.async_stream_infer("small", numbers())
            result, error = answers.get(timeout=10)
            assert error is None
            results.append(result)
        client.stop_stream()
        told = ask(address, f"{SERVICE}/ModelStreamInfer#StreamStream", [raw.SerializeToString()] * 2, kit=kit)
    tokens = [result.get_response().parameters["ai_provenance"].string_param for result in results]
    claims = [parse_token(token).jws.payload for token in tokens]
    assert [said["stage"] for said in claims] == ["checkpoint"] * 3
    assert len({said["rid"] for said in claims}) == 1
    assert told.token is not None
    told.verify(kit, method=f"{SERVICE}/ModelStreamInfer")
    proven = verify_infer_stream([result.get_response() for result in results], trust=kit.trust, now=kit.clock())
    assert proven.messages == 3
    assert parse_token(told.token).jws.payload["stage"] == "final"


def test_the_model_is_what_each_message_names(door: Door) -> None:
    """The first is read before the call is decided; a later one for another model ends the stream."""
    kit = infer_kit()
    allowed = service_pb2.ModelInferRequest(model_name="small").SerializeToString()
    other = service_pb2.ModelInferRequest(model_name="secret").SerializeToString()
    with serving(door, kit) as address, InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException, match="no right to the model secret"):
            client.infer("secret", numbers(), headers={"authorization": f"Bearer {kit.key}"})
        first = ask(address, f"{SERVICE}/ModelStreamInfer#StreamStream", [other], kit=kit)
        unnamed = ask(address, f"{SERVICE}/ModelInfer#UnaryUnary", [b"\x00"], kit=kit)
    assert (first.code.name, first.error.reason, first.messages) == ("PERMISSION_DENIED", "tos_model_not_allowed", [])
    assert unnamed.messages == []
    assert allowed != other


def test_a_stream_infers_no_more_often_than_the_limits_allow(door: Door) -> None:
    """Five requests allowed, fifty sent in one stream."""
    kit = infer_kit(limits=(REQUESTS,))
    raw = service_pb2.ModelInferRequest(model_name="small", raw_input_contents=[np.ones(2, dtype=np.float32).tobytes()])
    with serving(door, kit) as address:
        told = ask(address, f"{SERVICE}/ModelStreamInfer#StreamStream", [raw.SerializeToString()] * 50, kit=kit)
    assert (told.code.name, len(told.messages)) == ("RESOURCE_EXHAUSTED", 5)
    assert told.verify(kit, method=f"{SERVICE}/ModelStreamInfer").claims.completion == "policy"
    assert kit.used() == {"requests": 5}
