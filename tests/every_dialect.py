"""A provider that speaks every dialect over HTTP, in the forms that official clients expect, and always says the same.

What it says is fixed, so that what a client makes of it can be compared with and without a guard in front.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator, Iterable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

__all__ = ["ROUTES", "TEXT", "THOUGHT", "VECTOR", "every_dialect"]

TEXT = "Grüße aus Köln \U0001f642, with a tab\tand two\nlines."
THOUGHT = "The user greets; so greet back."
VECTOR = [0.25, -0.5, 0.125, 1.0]
CREATED = 1_764_000_000

ROUTES: dict[str, Any] = {
    "/v1/chat/completions": "openai-chat",
    "/v1/completions": "openai-completions",
    "/v1/responses": "openai-responses",
    "/v1/embeddings": "openai-embeddings",
    "/v1/messages": "anthropic-messages",
    "/v2/models/*/infer": "open-inference",
}
"""Routes to guard it with."""


def pieces(text: str) -> list[str]:
    """The text in deltas of seven characters."""
    return [text[at : at + 7] for at in range(0, len(text), 7)]


def every_dialect() -> FastAPI:
    """The provider."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await request.json()
        if asked.get("stream"):
            return _events(_chat_events(asked))
        return JSONResponse(_chat_body(asked))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await request.json()
        if asked.get("stream"):
            return _events(_completion_events(asked))
        choice = {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}
        return JSONResponse({**_completion_head(asked), "choices": [choice], "usage": _OPENAI_USAGE})

    @app.post("/v1/responses")
    async def responses(request: Request) -> Response:
        asked = await request.json()
        if asked.get("stream"):
            return _events(_response_events(asked))
        return JSONResponse(_response(asked, "completed", _output()))

    @app.post("/v1/messages")
    async def messages(request: Request) -> Response:
        asked = await request.json()
        if asked.get("stream"):
            return _events(_message_events(asked))
        content = [{"type": "thinking", "thinking": THOUGHT, "signature": "c2lnbmVk"}, {"type": "text", "text": TEXT, "citations": None}]
        return JSONResponse(_message(asked, content, "end_turn", {"input_tokens": 9, "output_tokens": 21}))

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        asked = await request.json()
        inputs = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        vector: Any = VECTOR
        if asked.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode("ascii")
        data = [{"object": "embedding", "index": at, "embedding": vector} for at in range(len(inputs))]
        return JSONResponse({"object": "list", "data": data, "model": asked["model"], "usage": {"prompt_tokens": 9, "total_tokens": 9}})

    @app.post("/v2/models/{model}/infer")
    async def infer(model: str, request: Request) -> Response:
        size = request.headers.get("inference-header-content-length")
        body = await request.body()
        asked = json.loads(body[: int(size)] if size else body)
        element = TEXT.encode("utf-8")
        head = {"model_name": model, "model_version": "1", "id": asked.get("id", "")}
        output = {"name": "OUTPUT", "shape": [1], "datatype": "BYTES"}
        wants_binary = asked.get("parameters", {}).get("binary_data_output", False) or any(
            each.get("parameters", {}).get("binary_data") for each in asked.get("outputs", ())
        )
        if not wants_binary:
            return JSONResponse({**head, "outputs": [{**output, "data": [TEXT]}]})
        raw = struct.pack("<I", len(element)) + element
        described = json.dumps({**head, "outputs": [{**output, "parameters": {"binary_data_size": len(raw)}}]}).encode("utf-8")
        return Response(
            described + raw,
            media_type="application/octet-stream",
            headers={"inference-header-content-length": str(len(described))},
        )

    @app.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    return app


_OPENAI_USAGE = {"prompt_tokens": 9, "completion_tokens": 21, "total_tokens": 30}


def _events(events: Iterable[tuple[str | None, Any]]) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for name, data in events:
            line = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
            yield (f"event: {name}\n" if name else "").encode("ascii") + f"data: {line}\n\n".encode()

    return StreamingResponse(body(), media_type="text/event-stream")


def _chat_body(asked: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": CREATED, "model": asked["model"]}
    return {**head, "choices": [choice], "usage": _OPENAI_USAGE}


def _chat_events(asked: dict[str, Any]) -> list[tuple[str | None, Any]]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED, "model": asked["model"]}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    events: list[tuple[str | None, Any]] = [(None, chunk({"role": "assistant", "content": ""}))]
    events += [(None, chunk({"content": piece})) for piece in pieces(TEXT)]
    events.append((None, chunk({}, "stop")))
    if (asked.get("stream_options") or {}).get("include_usage"):
        events.append((None, {**head, "choices": [], "usage": _OPENAI_USAGE}))
    return [*events, (None, "[DONE]")]


def _completion_head(asked: dict[str, Any]) -> dict[str, Any]:
    return {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": asked["model"]}


def _completion_events(asked: dict[str, Any]) -> list[tuple[str | None, Any]]:
    def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {**_completion_head(asked), "choices": [choice]}

    return [*((None, chunk(piece)) for piece in pieces(TEXT)), (None, chunk("", "stop")), (None, "[DONE]")]


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(status: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": list(content)}


def _reasoning(*summary: dict[str, Any]) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": list(summary)}


def _output() -> list[dict[str, Any]]:
    return [_reasoning({"type": "summary_text", "text": THOUGHT}), _item("completed", _text_part(TEXT))]


def _response(asked: dict[str, Any], status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 21,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 30,
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": asked["model"],
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if status == "completed" else None,
    }


def _response_events(asked: dict[str, Any]) -> list[tuple[str | None, Any]]:
    events: list[tuple[str | None, Any]] = []

    def say(kind: str, **members: Any) -> None:
        events.append((f"response.{kind}", {"type": f"response.{kind}", "sequence_number": len(events), **members}))

    say("created", response=_response(asked, "in_progress", []))
    say("in_progress", response=_response(asked, "in_progress", []))
    say("output_item.added", output_index=0, item=_reasoning())
    thought = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    say("reasoning_summary_part.added", **thought, part={"type": "summary_text", "text": ""})
    for piece in pieces(THOUGHT):
        say("reasoning_summary_text.delta", **thought, delta=piece)
    say("reasoning_summary_text.done", **thought, text=THOUGHT)
    say("reasoning_summary_part.done", **thought, part={"type": "summary_text", "text": THOUGHT})
    say("output_item.done", output_index=0, item=_output()[0])
    say("output_item.added", output_index=1, item=_item("in_progress"))
    part = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    say("content_part.added", **part, part=_text_part(""))
    for piece in pieces(TEXT):
        say("output_text.delta", **part, delta=piece, logprobs=[])
    say("output_text.done", **part, text=TEXT, logprobs=[])
    say("content_part.done", **part, part=_text_part(TEXT))
    say("output_item.done", output_index=1, item=_output()[1])
    say("completed", response=_response(asked, "completed", _output()))
    return events


def _message(asked: dict[str, Any], content: list[dict[str, Any]], stop: str | None, usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }


def _message_events(asked: dict[str, Any]) -> list[tuple[str | None, Any]]:
    events: list[tuple[str | None, Any]] = []

    def say(kind: str, **members: Any) -> None:
        events.append((kind, {"type": kind, **members}))

    say("message_start", message=_message(asked, [], None, {"input_tokens": 9, "output_tokens": 1}))
    say("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""})
    say("ping")
    for piece in pieces(THOUGHT):
        say("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": piece})
    say("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2lnbmVk"})
    say("content_block_stop", index=0)
    say("content_block_start", index=1, content_block={"type": "text", "text": ""})
    for piece in pieces(TEXT):
        say("content_block_delta", index=1, delta={"type": "text_delta", "text": piece})
    say("content_block_stop", index=1)
    say("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 21})
    say("message_stop")
    return events
