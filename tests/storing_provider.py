"""A provider that stores responses, runs them in the background and replays retries, in as many workers as a server likes.

What it knows is in files, so that any worker answers for any other. Each response has a text that nobody could guess, so that only a
replay says the same again.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tos_guard.guard import AsyncGuard
from tos_guard.web import own_routes
from tos_guard.web.asgi import ASGIApp, TosGuardMiddleware

LOOKS = 1
"""How often a background response is seen running before it has ended."""


def guarded() -> ASGIApp:
    """The provider behind its guard; the folder of both is ``PROVIDER_FOLDER``."""
    folder = Path(os.environ["PROVIDER_FOLDER"])
    guard = AsyncGuard.from_file(folder / "tos-guard.toml")
    return TosGuardMiddleware(provider(folder), guard=guard, routes=own_routes(guard))


def provider(folder: Path) -> FastAPI:
    """The provider."""
    app = FastAPI()

    def text_of(name: str) -> str:
        """The text under a name, made when it is first asked for."""
        path = folder / f"text-{name}"
        try:
            with path.open("x") as new:
                new.write(secrets.token_hex(8))
        except FileExistsError:
            pass
        return path.read_text()

    @app.post("/v1/responses")
    async def create(request: Request) -> Response:
        asked = await request.json()
        name = request.headers.get("idempotency-key") or secrets.token_hex(8)
        if asked.get("background"):
            (folder / f"looks-{name}").write_text(str(LOOKS))
            return JSONResponse(response(name, "", "queued"))
        if asked.get("stream"):
            return StreamingResponse(events(name, text_of(name)), media_type="text/event-stream")
        return JSONResponse(response(name, text_of(name)))

    @app.get("/v1/responses/resp_{name}")
    async def retrieve(name: str, stream: bool = False) -> Response:
        looks = folder / f"looks-{name}"
        left = int(looks.read_text()) if looks.exists() else 0
        if left and not stream:
            looks.write_text(str(left - 1))
            return JSONResponse(response(name, "", "in_progress"))
        if stream:
            return StreamingResponse(events(name, text_of(name)), media_type="text/event-stream")
        return JSONResponse(response(name, text_of(name)))

    @app.post("/v1/responses/resp_{name}/cancel")
    async def cancel(name: str) -> Response:
        return JSONResponse(response(name, "", "cancelled"))

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        asked = await request.json()
        text = text_of(request.headers.get("idempotency-key") or secrets.token_hex(8))
        if asked.get("stream"):
            return StreamingResponse(chunks(text), media_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return JSONResponse({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "small", "choices": [choice]})

    return app


def response(name: str, text: str, status: str = "completed") -> dict[str, Any]:
    """A response object."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    output = [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}] if text else []
    fixed = {"object": "response", "created_at": 1, "model": "small", "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {"id": f"resp_{name}", **fixed, "status": status, "output": output}


async def events(name: str, text: str) -> AsyncIterator[bytes]:
    """The stream of a response, as its API has it."""
    placed = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    said: list[dict[str, Any]] = [{"type": "response.created", "response": response(name, "", "in_progress")}]
    item = response(name, text)["output"][0]
    said.append({"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress", "content": []}})
    part = {"type": "output_text", "text": "", "annotations": []}
    said.append({"type": "response.content_part.added", **placed, "part": part})
    said += [{"type": "response.output_text.delta", **placed, "delta": letter, "logprobs": []} for letter in text]
    said.append({"type": "response.output_text.done", **placed, "text": text, "logprobs": []})
    said.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    said.append({"type": "response.completed", "response": response(name, text)})
    for number, event in enumerate(said):
        yield f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n".encode()


async def chunks(text: str) -> AsyncIterator[bytes]:
    """The stream of a chat completion."""
    for delta, reason in [*(({"content": letter}, None) for letter in text), ({}, "stop")]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "small", "choices": [choice]}
        yield f"data: {json.dumps(chunk)}\n\n".encode()
    yield b"data: [DONE]\n\n"
