"""Triton's own client at the guarded example provider: it sees no metadata, and proves what it got all the same."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from provider_grpc.server import serving
from provisioned import Provider
from tos_guard.errors import ContentMismatchError, NonceError
from tos_guard.verify import Expected
from tos_guard_grpc import verified, verified_channel, verify_infer_result

SERVICE = "/inference.GRPCInferenceService"
MODEL = "scorer"
ROUTES = f'"{SERVICE}/ModelInfer" = "open-inference"\n"{SERVICE}/ModelStreamInfer" = "open-inference"\n'


@pytest.fixture(scope="module")
def provided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Provider, str]]:
    provider = Provider(tmp_path_factory.mktemp("triton"))
    provider.settings.write_text(provider.settings.read_text() + ROUTES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("provider_grpc.inference.MODEL", MODEL)
        with serving(Path(provider.settings)) as target:
            yield provider, target


def asked() -> list[InferInput]:
    texts = InferInput("texts", [2], "BYTES")
    texts.set_data_from_numpy(np.array([b"hello", b"you"], dtype=np.object_))
    return [texts]


def test_the_client_reads_and_proves_a_response(provided: tuple[Provider, str]) -> None:
    provider, target = provided
    client = InferenceServerClient(target)
    headers = {"authorization": f"Bearer {provider.keys['good']}", "ai-provenance-nonce": "mine"}
    try:
        result = client.infer(MODEL, asked(), headers=headers)
    finally:
        client.close()
    assert result.as_numpy("capitals").tolist() == [b"HELLO", b"YOU"]
    response: Any = result.get_response()
    now = datetime.now(UTC)
    proven = verify_infer_result(response, trust=provider.trust(), now=now, expected=Expected(nonce="mine"))
    assert (proven.claims.model, proven.claims.content and proven.claims.content.projection) == (MODEL, "infer-1")
    with pytest.raises(NonceError):
        verify_infer_result(response, trust=provider.trust(), now=now, expected=Expected(nonce="another"))
    response.raw_output_contents[0] = response.raw_output_contents[0].replace(b"YOU", b"YOW")
    with pytest.raises(ContentMismatchError):
        verify_infer_result(response, trust=provider.trust(), now=now)


def test_a_stub_on_a_verified_channel_proves_single_responses_and_streams(provided: tuple[Provider, str]) -> None:
    provider, target = provided
    metadata = (("authorization", f"Bearer {provider.keys['good']}"),)
    request = ModelInferRequest(model_name=MODEL, id="1")
    request.inputs.add(name="texts", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(b"\2\0\0\0hi")
    with verified_channel(grpc.insecure_channel(target), provider.trust(), issuer=provider.issuer) as channel:
        stub = GRPCInferenceServiceStub(channel)
        response, call = stub.ModelInfer.with_call(request, metadata=metadata)
        assert response.raw_output_contents[0] == b"\2\0\0\0HI"
        assert verified(call).request_checked
        stream = stub.ModelStreamInfer(iter([request, ModelInferRequest(model_name=MODEL)]), metadata=metadata)
        assert len(list(stream)) == 2
        assert verified(stream).claims.content is not None


def test_the_client_s_stream_is_read_as_ever(provided: tuple[Provider, str]) -> None:
    provider, target = provided
    results: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client = InferenceServerClient(target)
    try:
        client.start_stream(
            lambda result, error: results.put((result, error)), headers={"authorization": f"Bearer {provider.keys['good']}"}
        )
        for _ in range(2):
            client.async_stream_infer(MODEL, asked())
        read = [results.get(timeout=20) for _ in range(2)]
        client.stop_stream()
    finally:
        client.close()
    assert [error for _, error in read] == [None, None]
    assert [result.as_numpy("letters").tolist() for result, _ in read] == [[5, 3], [5, 3]]
