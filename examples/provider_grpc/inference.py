"""A model behind Open Inference, as Triton's client asks for it: it turns texts into capitals, and counts their letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer

__all__ = ["Letters"]

_pb2: Any = service_pb2  # its classes are made when it is imported, out of the sight of who checks types
MODEL = "letters"


class Letters(GRPCInferenceServiceServicer):
    """Answers ``ModelInfer`` and ``ModelStreamInfer`` for one model."""

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - named by the proto
        try:
            return _answer(request)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise  # abort has raised already

    def ModelStreamInfer(self, request_iterator: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        del context
        for request in request_iterator:
            try:
                yield _pb2.ModelStreamInferResponse(infer_response=_answer(request))
            except ValueError as error:  # as Triton does: the stream goes on
                yield _pb2.ModelStreamInferResponse(error_message=str(error))


def _answer(request: Any) -> Any:
    if request.model_name != MODEL:
        raise ValueError(f"there is no model {request.model_name!r}")
    texts = [text.decode("utf-8", "replace") for raw in request.raw_input_contents[:1] for text in _elements(raw)]
    response = _pb2.ModelInferResponse(model_name=MODEL, model_version="1", id=request.id)
    _add(response, "capitals", "BYTES", [len(texts)], b"".join(_packed(text.upper().encode()) for text in texts))
    _add(response, "letters", "INT32", [len(texts)], b"".join(len(text).to_bytes(4, "little") for text in texts))
    return response


def _add(response: Any, name: str, datatype: str, shape: list[int], raw: bytes) -> None:
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    response.raw_output_contents.append(raw)


def _elements(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        if at + 4 + size > len(raw):
            raise ValueError("the input is cut short")
        yield raw[at + 4 : at + 4 + size]
        at += 4 + size


def _packed(element: bytes) -> bytes:
    return len(element).to_bytes(4, "little") + element
