"""A provider of chat completions as one finds it: Flask, no terms, no tags. `guarded` shows what it takes to guard it.

flask --app examples/provider_flask/app.py run
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from flask import Flask, Response, jsonify, request

__all__ = ["create_app"]

STORY = "and so the story went on until somebody asked who had written it and what else might be done with it"
MODELS = ("smollm2-135m",)
WORDS = 12
MORE_WORDS = re.compile(r"\[\[words (\d{1,4})\]\]")


def create_app() -> Flask:
    """The provider. Its model continues every prompt by words from a list, as many as the prompt asks for with ``[[words 400]]``."""
    app = Flask(__name__, static_folder=None)

    @app.post("/v1/chat/completions")
    def complete() -> Response | tuple[Response, int]:
        asked = request.get_json()
        if asked.get("model") not in MODELS:
            return _error("there is no such model", "model_not_found"), 404
        if not isinstance(asked.get("messages"), list) or not asked["messages"]:
            return _error("messages are missing", "invalid_messages"), 400
        words = _words(str(asked["messages"][-1]))
        if asked.get("stream"):
            return Response(_events(asked["model"], words), mimetype="text/event-stream", headers={"Cache-Control": "no-cache"})
        message = {"role": "assistant", "content": "".join(words)}
        return jsonify(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1_790_000_000,
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": _usage(words),
            }
        )

    @app.get("/v1/models")
    def models() -> Response:
        return jsonify({"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify({"status": "ok"})

    return app


def _error(message: str, code: str) -> Response:
    return jsonify({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}})


def _words(prompt: str) -> list[str]:
    words, start, asked = STORY.split(), sum(prompt.encode("utf-8", "replace")), MORE_WORDS.search(prompt)
    return [f"{words[(start + number) % len(words)]} " for number in range(int(asked[1]) if asked is not None else WORDS)]


def _usage(words: list[str]) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": len(words) + 1}


def _events(model: str, words: list[str]) -> Iterator[str]:
    for word in words:
        yield _event(model, {"content": word}, None)
    yield _event(model, {}, "stop")
    yield "data: [DONE]\n\n"


def _event(model: str, delta: dict[str, str], finish_reason: str | None) -> str:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return f"data: {json.dumps(chunk)}\n\n"
