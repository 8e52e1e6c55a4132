"""A provider of chat completions as one finds it: FastAPI, no terms, no tags. `guarded` shows what it takes to guard it.

uvicorn --app-dir examples --factory provider_fastapi.app:unguarded
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse

from .models import ChatModel, model_from_environment
from .wire import DONE, ChatRequest, JSONObject, ProviderError, ScoreRequest, encode_event, encode_json

__all__ = ["create_app", "unguarded"]

_CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")


def create_app(model: ChatModel) -> FastAPI:
    """The provider of *model*, which is closed when the application shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await model.aclose()

    app = FastAPI(title="A small model provider", lifespan=lifespan)

    @app.exception_handler(ProviderError)
    async def answer_error(_: Request, error: ProviderError) -> Response:
        return _json(error.body, status=error.status)

    @app.exception_handler(RequestValidationError)
    async def answer_invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part != "body") or None
        return _json(ProviderError(400, str(first["msg"]), type="invalid_request_error", param=param).body, status=400)

    @app.post("/v1/chat/completions")
    async def create_chat_completion(chat: ChatRequest) -> Response:
        if not chat.stream:
            return _json(await model.complete(chat))
        events = _events(model.stream(chat))
        first = await anext(events)  # an error before the first chunk is a status, no event
        return StreamingResponse(
            _joined(first, events), media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )

    @app.get("/v1/models")
    async def list_models() -> Response:
        models = [{"id": name, "object": "model", "created": 1_730_000_000, "owned_by": "provider"} for name in model.names]
        return _json({"object": "list", "data": models})

    @app.post("/v1/score")
    async def score(asked: ScoreRequest) -> Response:
        inputs = [asked.input] if isinstance(asked.input, str) else asked.input
        digest = hashlib.sha256("\0".join(inputs).encode("utf-8", "surrogatepass")).hexdigest()
        return _json({"id": f"score-{digest[:24]}", "model": asked.model, "results": [_score(text) for text in inputs]})

    @app.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    return app


def unguarded() -> FastAPI:
    """The provider of the model that the environment names (`model_from_environment`), for ``uvicorn --factory``."""
    return create_app(model_from_environment())


def _json(body: JSONObject, *, status: int = 200) -> Response:
    return Response(encode_json(body), status_code=status, media_type="application/json")


async def _events(chunks: AsyncGenerator[JSONObject, None]) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream. An error after the first chunk becomes an event, and the stream ends without its ``[DONE]``."""
    started = False
    async with aclosing(chunks) as stream:
        try:
            async for chunk in stream:
                yield encode_event(chunk)
                started = True
        except ProviderError as error:
            if not started:
                raise
            yield encode_event(error.body)
            return
    yield DONE


async def _joined(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest) as events:
        yield first
        async for event in events:
            yield event


def _score(text: str) -> JSONObject:
    """Scores from 1 down to very small ones, from the text's digest: their spelling as JSON numbers is what a seal has to survive."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    scores = {name: (digest[at] + 1) / 256 * 10.0 ** -(digest[at + 8] % 9) for at, name in enumerate(_CATEGORIES)}
    categories = {name: value > 0.5 for name, value in scores.items()}
    return {"flagged": any(categories.values()), "categories": categories, "category_scores": scores}
