"""The doors over HTTP: what the client of each sees, read from real connections."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Set
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import flask
import httpx
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from werkzeug.serving import make_server

from scenarios.cases import STATUSES, Case, Does, Outcome, Record
from scenarios.rules import Door, expected_at
from scenarios.world import MODEL, PIECES, SECONDS, World
from serving import serve_app
from tos_guard.errors import AbsentError, IncompleteError, VerificationError
from tos_guard.verify import Verified, verify_body, verify_stream
from tos_guard.web.asgi import TosGuardMiddleware
from tos_guard.web.wsgi import TosGuardMiddleware as WSGIMiddleware

__all__ = ["ASGI", "WSGI", "FastAPIDoor", "FlaskDoor", "HTTPDoor", "body_of", "events_of", "serve_wsgi"]

CHAT = "/v1/chat/completions"
TEXT = "".join(PIECES)


def body_of(text: str = TEXT) -> bytes:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "model": MODEL, "choices": [choice]}).encode()


def events_of() -> list[bytes]:
    """The events of a stream."""
    deltas: list[tuple[dict[str, str], str | None]] = [*(({"content": piece}, None) for piece in PIECES), ({}, "stop")]
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas]
    return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


class HTTPDoor:
    """A door over HTTP.

    Attributes:
        name: As the table has it.
        kind: ``http``: for the rules of what does not apply.
        answers_errors: The framework answers an exception of the handler inside the guard.
        streams_requests: Requests are streams of messages.
    """

    name = "HTTP"
    kind = "http"
    answers_errors = False
    streams_requests = False

    def serve(self, world: World, does: Does) -> AbstractContextManager[str]:
        """Serve *world* with a handler that does so; gives the base URL."""
        raise NotImplementedError

    def close(self, world: World) -> None:
        """Wait for what the guard still has to do."""

    def run(self, case: Case) -> Outcome:
        """What comes of a case."""
        world = World(case)
        with self.serve(world, case.does) as url:
            for _ in range(case.before):
                _ask(url, world, Case("before", case.expected), Does.ANSWER)
            before = {record.rid for record in world.kit.records()}
            case.prepare(world)
            verdict, code, token = _ask(url, world, case, case.does)
            record = record_after(world, before, wants=wants_record(case, self))
        return Outcome(verdict, code, token, record)


def _request(world: World, case: Case, does: Does) -> tuple[str, bytes]:
    if case.body == "empty":
        return "/plain", b""
    content = "x" * 4_096 if case.body == "big" else "hi"
    asked: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    if does in (Does.STREAM, Does.BREAK, Does.LINGER):
        asked["stream"] = True
    return CHAT, json.dumps(asked).encode()


def _ask(url: str, world: World, case: Case, does: Does) -> tuple[str, str, str]:
    path, body = _request(world, case, does)
    fields = {"content-type": "application/json", **({} if world.key is None else {"authorization": f"Bearer {world.key}"})}
    if does is Does.LINGER:
        with httpx.stream("POST", url + path, content=body, headers=fields, timeout=SECONDS) as response:
            next(response.iter_raw())
        world.left.set()
        return "left", "", ""
    try:
        with httpx.stream("POST", url + path, content=body, headers=fields, timeout=SECONDS) as response:
            received = b"".join(response.iter_raw())
    except httpx.RemoteProtocolError:
        return "failed", "", ""
    return _judged(world, response, received)


def _judged(world: World, response: httpx.Response, received: bytes) -> tuple[str, str, str]:
    given: dict[str, Any] = {"trust": world.kit.trust, "now": world.kit.clock(), "token": response.headers.get("ai-provenance")}
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    verified: Verified | None = None
    try:
        verified = verify_stream(received, **given) if is_stream else verify_body(received, **given)
    except (AbsentError, IncompleteError):
        pass
    except VerificationError as error:
        raise AssertionError(f"what was served does not verify: {error}") from error
    token = str(verified.claims.completion) if verified is not None else ""
    if verified is not None:
        claims_are_of(world, verified)
    refusal = code_of(received)
    if refusal.startswith("tos_") and refusal != "tos_handler_error":
        assert response.status_code == (200 if is_stream else STATUSES[refusal][0])
        return "refused", refusal, token
    return ("failed" if response.status_code >= 500 or refusal else "served"), "", token


def claims_are_of(world: World, verified: Verified) -> None:
    """The claims that every door must make of the same exchange."""
    claims, terms = verified.claims, world.kit.guard.terms
    assert (claims.model, claims.terms.version, claims.terms.sha256) == (MODEL, terms.version, terms.sha256)
    assert claims.usage.content_usage
    assert claims.grant is None


def code_of(received: bytes) -> str:
    """The code of an error in a body or in a stream's last event; empty where there is none."""
    for line in reversed(received.splitlines()):
        try:
            document = json.loads(line.removeprefix(b"data: "))
        except ValueError:
            continue
        if isinstance(document, dict):
            error = document.get("error") or {}
            return str(document.get("code") or (error.get("code") or "error" if error else ""))
    return ""


def wants_record(case: Case, door: Door) -> bool:
    """Whether a record must come of a case at a door, which is then waited for."""
    expected = expected_at(case, door)
    return expected is not None and expected.record is not None


def record_after(world: World, before: Set[str], *, wants: bool) -> Record | None:
    """The record that came of the request: those of an exchange that nobody waits for come a moment later."""
    deadline = time.monotonic() + SECONDS
    while not (new := [record for record in world.kit.records() if record.rid not in before]):
        if not wants or time.monotonic() > deadline:
            return None
        time.sleep(0.005)
    (record,) = new
    assert (record.action, record.model, record.purpose) == ("generate", MODEL, "undeclared")
    assert record.usage_sha256
    return Record(record.type.value, record.decision, record.reasons, record.completion, record.unsealed, record.mode)


class ASGI(HTTPDoor):
    """The middleware around a bare ASGI app, under uvicorn."""

    name = "ASGI"

    def serve(self, world: World, does: Does) -> AbstractContextManager[str]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                return
            while (await receive()).get("more_body", False):
                pass
            world.calls += 1
            if does is Does.RAISE:
                raise RuntimeError("told to")
            is_stream = does in (Does.STREAM, Does.BREAK, Does.LINGER) and scope["path"] == CHAT
            media_type = b"text/event-stream" if is_stream else b"application/json"
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})
            leaving = asyncio.ensure_future(receive())
            async for chunk in _answer(world, does) if is_stream else _whole():
                if leaving.done():
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            leaving.cancel()
            await send({"type": "http.response.body", "body": b""})

        return serve_app(TosGuardMiddleware(app, guard=world.async_guard), lifespan="off")


async def _whole() -> AsyncIterator[bytes]:
    yield body_of()


async def _answer(world: World, does: Does) -> AsyncIterator[bytes]:
    events = events_of()
    if does is Does.LINGER:
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            yield events[0]
            await asyncio.sleep(0.005)
    if does is Does.BREAK:
        yield events[0]
        raise RuntimeError("told to")
    for event in events:
        yield event


def answer(world: World, does: Does) -> Iterator[bytes]:
    """The same for synchronous doors."""
    events = events_of()
    if does is Does.LINGER:
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            yield events[0]
            world.left.wait(0.005)
    if does is Does.BREAK:
        yield events[0]
        raise RuntimeError("told to")
    yield from events


class FastAPIDoor(HTTPDoor):
    """The extension on a FastAPI app, under uvicorn."""

    name = "FastAPI"

    def serve(self, world: World, does: Does) -> AbstractContextManager[str]:
        from tos_guard_fastapi import TosGuard

        app = FastAPI()

        @app.post("/plain")
        @app.post(CHAT)
        async def handler() -> Response:
            world.calls += 1
            if does is Does.RAISE:
                raise RuntimeError("told to")
            if does in (Does.STREAM, Does.BREAK, Does.LINGER):
                return StreamingResponse(_answer(world, does), media_type="text/event-stream")
            return Response(body_of(), media_type="application/json")

        world.async_guard.settings = world.async_guard.settings.model_copy(update={"exempt": ("/healthz",)})
        TosGuard(world.async_guard).install(app)
        return serve_app(app, lifespan="off")


class WSGI(HTTPDoor):
    """The middleware around a bare WSGI app, under Werkzeug's server with a thread for each request."""

    name = "WSGI"

    def serve(self, world: World, does: Does) -> AbstractContextManager[str]:
        def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            world.calls += 1
            if does is Does.RAISE:
                raise RuntimeError("told to")
            is_stream = does in (Does.STREAM, Does.BREAK, Does.LINGER) and environ["PATH_INFO"] == CHAT
            start_response("200 OK", [("content-type", "text/event-stream" if is_stream else "application/json")])
            return answer(world, does) if is_stream else iter([body_of()])

        return serve_wsgi(WSGIMiddleware(app, guard=world.guard))


@contextmanager
def serve_wsgi(app: Any) -> Iterator[str]:
    """Serve a WSGI app from threads."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="werkzeug")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(SECONDS)
        server.server_close()


class FlaskDoor(HTTPDoor):
    """The extension on a Flask app, under Werkzeug's server."""

    name = "Flask"
    answers_errors = True

    def serve(self, world: World, does: Does) -> AbstractContextManager[str]:
        from tos_guard_flask import TosGuard as FlaskGuard

        app = flask.Flask(__name__)

        @app.post("/plain")
        @app.post(CHAT)
        def handler() -> flask.Response:
            world.calls += 1
            if does is Does.RAISE:
                raise RuntimeError("told to")
            if does in (Does.STREAM, Does.BREAK, Does.LINGER):
                return flask.Response(answer(world, does), mimetype="text/event-stream")
            return flask.Response(body_of(), mimetype="application/json")

        FlaskGuard(app, guard=world.guard)
        return serve_wsgi(app)
