"""What the guard adds at each door: Flask and the four kinds of gRPC methods, in threads and on an event loop, beside the bare server.

Guarded with `async` records, an SQLite file, the sample terms, API keys, and four limits in the memory of the process, as `guard.py` has
them for FastAPI. Bare and guarded take turns in one run; figures are medians of rounds.

- Flask is called in process through the WSGI interface: a JSON call of 1 KB, and a stream of 200 events.
- gRPC is served on loopback from this process, and called by one client with one call at a time: what is added is the guard's own work
  and the metadata it sends. Kinds with many messages send 200 of 64 bytes.
- A verifying channel is measured against a plain one, both on the guarded server.

    python benchmarks/doors.py [rounds]
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import flask
import grpc
import grpc.aio

from tos_guard.guard import AsyncGuard, Guard
from tos_guard.rights import Account, hash_secret, new_api_key
from tos_guard.stores import KeyFolder, SQLiteStore
from tos_guard.verifier import Verifier
from tos_guard_flask import TosGuard
from tos_guard_grpc import AsyncGuardInterceptor, GuardInterceptor, verified_channel

ROUNDS = 7
CALLS = 40
MESSAGES = 200
ISSUER = "https://api.example.com"
CHAT = "/v1/chat/completions"
SERVICE = "bench.Echo"
KINDS = {"unary_unary": "1→1", "unary_stream": "1→n", "stream_unary": "n→1", "stream_stream": "n→n"}
TERMS = Path(__file__).parents[1] / "examples" / "terms" / "sample-2026-11.toml"
MESSAGE = b"x" * 64

SETTINGS = """\
issuer = "{issuer}"
terms = "{terms}"
store = "tos-guard.db"
keys = "keys"
records = "async"
limits_shared_by = "process"
sources = {{ region = "account" }}
limits = [
  {{ id = "requests", quantity = "requests", amount = 1_000_000_000, window = "1m" }},
  {{ id = "tokens", quantity = "tokens", amount = 1_000_000_000_000, window = "1m" }},
  {{ id = "month", quantity = "tokens", amount = 1_000_000_000_000, window = "calendar month" }},
  {{ id = "slots", quantity = "concurrency", amount = 1_000 }},
]

[routes]
"{chat}" = "openai-chat"
{methods}
"""

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "The quick brown fox. " * 35}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 12, "completion_tokens": 175, "total_tokens": 187}
COMPLETION = json.dumps({"id": "c", "object": "chat.completion", "model": "small", "choices": [CHOICE], "usage": USAGE}).encode()


def _event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "logprobs": None, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "small", "choices": [choice]}).encode() + b"\n\n"


EVENTS = [*(_event(f"word{number} ") for number in range(MESSAGES)), _event("", "stop"), b"data: [DONE]\n\n"]


def provision(folder: Path) -> str:
    """Settings, keys and one account; its API key."""
    KeyFolder(folder / "keys").create(ISSUER, now=datetime.now(UTC))
    methods = "\n".join(f'"/{SERVICE}/{kind}" = {{ dialect = "grpc", model = "small" }}' for kind in KINDS)
    (folder / "tos-guard.toml").write_text(SETTINGS.format(issuer=ISSUER, terms=TERMS, chat=CHAT, methods=methods))
    with SQLiteStore(folder / "tos-guard.db", issuer=ISSUER, clock=lambda: datetime.now(UTC)) as store:
        store.add_account(Account(id="acme", models=frozenset({"small"}), actions=frozenset({"generate"}), region="DE"))
        key = new_api_key(secrets.token_bytes)
        store.add_api_key("acme", key.public_id, hash_secret(key.secret, store.pepper()))
    return key.text


class Pair:
    """What is measured beside what: seconds of a call, bare and guarded, and of the long ones for the cost of a message."""

    def __init__(self, name: str, bare: Callable[[], object], guarded: Callable[[], object], *, messages: int = 1) -> None:
        self.name = name
        self.messages = messages
        self._calls = (bare, guarded)
        self._rounds: tuple[list[float], list[float]] = ([], [])
        for call in self._calls:
            call()

    def round(self, calls: int) -> None:
        """One round of each, in turn."""
        for call, rounds in zip(self._calls, self._rounds, strict=True):
            times = []
            for _ in range(calls):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            rounds.append(statistics.median(times))

    def row(self) -> str:
        """Bare, guarded, what is added in all and for each message, and the ratio."""
        bare, guarded = map(statistics.median, self._rounds)
        each = f"{(guarded - bare) / self.messages * 1e6:>10.2f}" if self.messages > 1 else f"{'':>10}"
        return f"{self.name:<34}{bare * 1e6:>11.0f}{guarded * 1e6:>11.0f}{(guarded - bare) * 1e6:>11.0f}{each}{guarded / bare:>9.2f} ×"


HEADINGS = f"{'':<34}{'bare µs':>11}{'guarded µs':>11}{'added µs':>11}{'a message':>10}{'ratio':>11}"


# Flask


def flask_app() -> flask.Flask:
    """A trivial provider."""
    app = flask.Flask(__name__, static_folder=None)

    @app.post(CHAT)
    def chat() -> flask.Response:
        if flask.request.get_json()["stream"]:
            return flask.Response(iter(EVENTS), mimetype="text/event-stream")
        return flask.Response(COMPLETION, mimetype="application/json")

    return app


def wsgi_call(app: Any, key: str, *, stream: bool) -> Callable[[], None]:
    """One request through the WSGI interface, read to its end."""
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "Tell me."}], "stream": stream, "max_tokens": 1}).encode()

    def call() -> None:
        environ = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": CHAT,
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_AUTHORIZATION": f"Bearer {key}",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
            del headers, exc_info
            if not status.startswith("200"):
                raise RuntimeError(status)
            return len

        content = app(environ, start_response)
        for _ in content:
            pass
        if hasattr(content, "close"):
            content.close()

    return call


# gRPC


def behaviors(*, is_async: bool) -> dict[str, Any]:
    """Handlers of each kind."""
    if not is_async:

        def one(request: Any, context: Any) -> bytes:
            del context
            return bytes(request)

        def drained(requests: Any, context: Any) -> bytes:
            del context
            for _ in requests:
                pass
            return MESSAGE

        def stream(_: Any, context: Any) -> Iterator[bytes]:
            del context
            yield from [MESSAGE] * MESSAGES

        def echo(requests: Any, context: Any) -> Iterator[bytes]:
            del context
            yield from requests

        return {
            "unary_unary": one,
            "unary_stream": stream,
            "stream_unary": drained,
            "stream_stream": echo,
        }

    async def answered(request: Any, context: Any) -> bytes:
        del context
        return bytes(request)

    async def many(_: Any, context: Any) -> AsyncIterator[bytes]:
        del context
        for _ in range(MESSAGES):
            yield MESSAGE

    async def drain(requests: Any, context: Any) -> bytes:
        del context
        async for _ in requests:
            pass
        return MESSAGE

    async def echoed(requests: Any, context: Any) -> AsyncIterator[bytes]:
        del context
        async for request in requests:
            yield request

    return {"unary_unary": answered, "unary_stream": many, "stream_unary": drain, "stream_stream": echoed}


def handler(*, is_async: bool) -> Any:
    made = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(behavior) for kind, behavior in behaviors(is_async=is_async).items()}
    return grpc.method_handlers_generic_handler(SERVICE, made)


@contextmanager
def serving(interceptors: list[Any]) -> Iterator[str]:
    """A server in threads."""
    server = grpc.server(ThreadPoolExecutor(4), interceptors=interceptors)
    server.add_generic_rpc_handlers((handler(is_async=False),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def serving_async(interceptors: list[Any]) -> Iterator[str]:
    """A server on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[Any, int]:
        server = grpc.aio.server(interceptors=interceptors)
        server.add_generic_rpc_handlers((handler(is_async=True),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def grpc_call(channel: Any, kind: str, key: str) -> Callable[[], None]:
    """One call of a kind, read to its end."""
    method = getattr(channel, kind)(f"/{SERVICE}/{kind}", _registered_method=False)
    metadata = (("authorization", f"Bearer {key}"),)

    def call() -> None:
        asked: Any = iter([MESSAGE] * MESSAGES) if kind.startswith("stream") else MESSAGE
        answer = method(asked, metadata=metadata, timeout=30)
        if kind.endswith("stream"):
            for _ in answer:
                pass

    return call


def pairs(folder: Path, key: str, stack: ExitStack) -> list[Pair]:
    """Everything that is measured."""
    settings = folder / "tos-guard.toml"
    guard, async_guard = Guard.from_file(settings), AsyncGuard.from_file(settings)
    stack.callback(guard.close_stores)
    stack.callback(async_guard.close_stores)
    bare, guarded = flask_app(), flask_app()
    TosGuard(guarded, guard=guard)
    found = [
        Pair("Flask, JSON", wsgi_call(bare, key, stream=False), wsgi_call(guarded, key, stream=False)),
        Pair("Flask, 200 events", wsgi_call(bare, key, stream=True), wsgi_call(guarded, key, stream=True), messages=MESSAGES),
    ]
    verifier = stack.enter_context(Verifier([], pinned=KeyFolder(folder / "keys").public_set(datetime.now(UTC))))
    for name, serve, interceptor in (
        ("gRPC", serving, GuardInterceptor(guard)),
        ("gRPC aio", serving_async, AsyncGuardInterceptor(async_guard)),
    ):
        channels = [
            stack.enter_context(grpc.insecure_channel(stack.enter_context(serve(interceptors)))) for interceptors in ([], [interceptor])
        ]
        for kind, arrow in KINDS.items():
            messages = 1 if kind == "unary_unary" else MESSAGES
            found.append(Pair(f"{name} {arrow}", *(grpc_call(channel, kind, key) for channel in channels), messages=messages))
        if serve is serving:
            target = stack.enter_context(serve([interceptor]))
            plain = stack.enter_context(grpc.insecure_channel(target))
            verifying = stack.enter_context(verified_channel(grpc.insecure_channel(target), verifier, issuer=ISSUER))
            for kind in ("unary_unary", "unary_stream"):
                messages = 1 if kind == "unary_unary" else MESSAGES
                name_of = f"verified channel {KINDS[kind]}"
                found.append(Pair(name_of, grpc_call(plain, kind, key), grpc_call(verifying, kind, key), messages=messages))
    return found


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        measured = pairs(Path(name), provision(Path(name)), stack)
        for number in range(rounds):
            for pair in measured:
                pair.round(max(4, CALLS // (1 if pair.messages == 1 else 5)))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
        print(HEADINGS)
        for pair in measured:
            print(pair.row())


if __name__ == "__main__":
    main()
