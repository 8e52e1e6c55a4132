"""The whole guard on a chat call (authenticated, decided, limited, sealed, recorded), beside the bare app and two do-it-yourself stacks.

All stacks guard one FastAPI app with a trivial handler: a body of 1 KB, or a stream of 200 chunks. They take turns within one run.

- bare: no guard.
- async, durable: `tos_guard_fastapi` with API keys, the sample terms, an SQLite file, and this setting of `records`. Four limits are
  reserved before and settled after each call, in the memory of the process.
- async, host: the same as async, with the limits counted for all processes of the host, in a file.
- own: what one writes in an afternoon. A dependency checks an EdDSA bearer token with PyJWT and counts it in a moving window of `limits`
  in memory; an HTTP middleware hashes the body and adds an EdDSA JWT as a header. It decides no terms and keeps no records.
- own, lean: the same with an HS256 bearer token, and the header set by the handler, which knows its body: the least such a stack can cost.

In process, the app is called without sockets: CPU is that of the whole process, with the thread that writes records, until all are
durable. Served, each stack is one uvicorn worker on loopback, and this process keeps 16 connections busy.

    python benchmarks/guard.py [rounds]
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from measure import Budget, interleaved
from pydantic import BaseModel
from records import fsync_seconds

from tos_guard.rights import Account, hash_secret, new_api_key
from tos_guard.stores import KeyFolder, SQLiteStore
from tos_guard_fastapi import TosGuard

ROUNDS = 9
CALLS = 150
CONNECTIONS = 16
SERVED_SECONDS = 1.0
CHUNKS = 200
ISSUER = "https://api.example.com"
CHAT = "/v1/chat/completions"
TERMS = Path(__file__).parents[1] / "examples" / "terms" / "sample-2026-11.toml"
GUARDED = ("async", "async, host", "durable")
STACKS = ("bare", *GUARDED, "own", "own, lean")
ROUTES = f'{{ "{CHAT}" = "openai-chat" }}'

SETTINGS = """\
issuer = "{issuer}"
terms = "{terms}"
store = "tos-guard-{records}.db"
keys = "keys"
records = "{records}"
limits_shared_by = "{shared}"
sources = {{ region = "account" }}
routes = {routes}
limits = [
  {{ id = "requests", quantity = "requests", amount = 1_000_000_000, window = "1m" }},
  {{ id = "tokens", quantity = "tokens", amount = 1_000_000_000_000, window = "1m" }},
  {{ id = "month", quantity = "tokens", amount = 1_000_000_000_000, window = "calendar month" }},
  {{ id = "slots", quantity = "concurrency", amount = 1_000 }},
]
"""

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "The quick brown fox. " * 35}, "logprobs": None, "finish_reason": "stop"}
COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "small",
        "choices": [CHOICE],
        "usage": {"prompt_tokens": 12, "completion_tokens": 175, "total_tokens": 187},
    }
).encode()


def event(text: str, finish: str | None = None) -> bytes:
    """One chunk of a chat stream."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": "small", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


EVENTS = [event(f"word{number} ") for number in range(CHUNKS)]
LAST = [event("", "stop"), b"data: [DONE]\n\n"]


def request_body(chunks: int = 0) -> bytes:
    """A chat request; *chunks* is how many the handler streams, 0 for a whole body."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me of the fox and the dog."}]
    return json.dumps({"model": "small", "messages": messages, "stream": chunks > 0, "max_tokens": max(chunks, 1)}).encode()


# The stacks


class Chat(BaseModel):
    """What the handler reads of a request."""

    model: str
    messages: list[dict[str, str]]
    stream: bool = False
    max_tokens: int = 0


async def streamed(chunks: int) -> AsyncIterator[bytes]:
    for part in EVENTS[:chunks]:
        yield part
    for part in LAST:
        yield part


def answer(chat: Chat) -> Response:
    if chat.stream:
        return StreamingResponse(streamed(chat.max_tokens), media_type="text/event-stream")
    return Response(COMPLETION, media_type="application/json")


def bare_app() -> FastAPI:
    app = FastAPI()

    @app.post(CHAT)
    async def chat(asked: Chat) -> Response:
        return answer(asked)

    return app


def guarded_app(folder: Path, stack: str) -> FastAPI:
    app = bare_app()
    TosGuard.from_file(folder / f"{stack}.toml").install(app)
    return app


def own_app(key: Ed25519PrivateKey, secret: str, *, lean: bool) -> FastAPI:
    """The stack one would write oneself."""
    app = FastAPI()
    limiter, rate = MovingWindowRateLimiter(MemoryStorage()), RateLimitItemPerMinute(1_000_000)
    public = key.public_key()

    def tag(body: bytes, account: str) -> str:
        claims = {"iss": ISSUER, "iat": int(time.time()), "jti": secrets.token_urlsafe(16), "sub": account, "model": "small"}
        return jwt.encode({**claims, "sha256": hashlib.sha256(body).hexdigest()}, key, algorithm="EdDSA")

    async def account_of(request: Request, authorization: str = Header()) -> str:
        try:
            token = authorization.removeprefix("Bearer ")
            claims = jwt.decode(token, secret, algorithms=["HS256"]) if lean else jwt.decode(token, public, algorithms=["EdDSA"])
        except jwt.InvalidTokenError:
            raise HTTPException(401) from None
        account: str = claims["sub"]
        if not limiter.hit(rate, account):
            raise HTTPException(429)
        request.state.account = account
        return account

    if not lean:

        @app.middleware("http")
        async def add_tag(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Response:
            inner = await call_next(request)
            body = b"".join([part async for part in inner.body_iterator])
            inner.headers["x-provenance"] = tag(body, request.state.account)
            return Response(body, inner.status_code, dict(inner.headers))

    @app.post(CHAT)
    async def chat(asked: Chat, account: str = Depends(account_of)) -> Response:
        response = answer(asked)
        if lean:
            response.headers["x-provenance"] = tag(COMPLETION, account)
        return response

    return app


@dataclass
class Bench:
    """A provisioned folder, and a credential for each stack."""

    folder: Path
    own_key: Ed25519PrivateKey
    own_secret: str

    @classmethod
    def provision(cls, folder: Path, routes: str = ROUTES) -> Bench:
        KeyFolder(folder / "keys").create(ISSUER, now=datetime.now(UTC))
        (folder / "own.key").write_bytes(Ed25519PrivateKey.generate().private_bytes_raw())
        (folder / "own.secret").write_text(secrets.token_urlsafe(32))
        for stack, records, shared in (("async", "async", "process"), ("async, host", "async", "host"), ("durable", "durable", "process")):
            (folder / f"{stack}.toml").write_text(
                SETTINGS.format(issuer=ISSUER, terms=TERMS, routes=routes, records=records, shared=shared)
            )
        for records in ("async", "durable"):
            with SQLiteStore(folder / f"tos-guard-{records}.db", issuer=ISSUER, clock=lambda: datetime.now(UTC)) as store:
                store.add_account(Account(id="acme", models=frozenset({"small"}), actions=frozenset({"generate"}), region="DE"))
                key = new_api_key(secrets.token_bytes)
                store.add_api_key("acme", key.public_id, hash_secret(key.secret, store.pepper()))
                (folder / f"{records}.credential").write_text(key.text)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Bench:
        private = Ed25519PrivateKey.from_private_bytes((folder / "own.key").read_bytes())
        return cls(folder, private, (folder / "own.secret").read_text())

    def app(self, stack: str) -> FastAPI:
        if stack == "bare":
            return bare_app()
        if stack in GUARDED:
            return guarded_app(self.folder, stack)
        return own_app(self.own_key, self.own_secret, lean=stack == "own, lean")

    def authorization(self, stack: str) -> bytes:
        if stack == "bare":
            return b"Bearer none"
        if stack in GUARDED:
            return b"Bearer " + (self.folder / f"{stack.partition(',')[0]}.credential").read_bytes()
        claims = {"sub": "acme", "exp": int(time.time()) + 3600}
        lean = stack == "own, lean"
        token = jwt.encode(claims, self.own_secret, algorithm="HS256") if lean else jwt.encode(claims, self.own_key, algorithm="EdDSA")
        return b"Bearer " + token.encode()


# In process


@dataclass
class Called:
    """One stack, called without sockets; seconds."""

    app: FastAPI
    authorization: bytes
    flush: Callable[[], object]
    p50: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    short: list[float] = field(default_factory=list)
    long: list[float] = field(default_factory=list)
    parse: list[float] = field(default_factory=list)

    async def call(self, body: bytes) -> tuple[float, float]:
        """Seconds until the first byte of the body, and until the end."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": CHAT,
            "raw_path": CHAT.encode(),
            "query_string": b"",
            "root_path": "",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 50000),
            "headers": [
                (b"host", b"api.example.com"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"authorization", self.authorization),
            ],
        }
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        first = 0.0

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            return await asyncio.Future()  # the client stays

        async def send(message: Any) -> None:
            nonlocal first
            if message["type"] == "http.response.start" and message["status"] != 200:
                raise RuntimeError(f"status {message['status']}")
            if not first and message.get("body"):
                first = time.perf_counter()

        start = time.perf_counter()
        await self.app(scope, receive, send)
        return first - start, time.perf_counter() - start

    async def whole(self, calls: int) -> None:
        """A round of whole bodies."""
        body, times = request_body(), []
        cpu = time.process_time()
        for _ in range(calls):
            _, whole = await self.call(body)
            times.append(whole)
        self.flush()
        self.cpu.append((time.process_time() - cpu) / calls)
        self.p50.append(statistics.median(times))

    async def streams(self, calls: int) -> None:
        """A round of streams: when the first chunk leaves, and what short and long ones take."""
        short, long = request_body(2), request_body(CHUNKS)
        few, many, parse = [], [], []
        payloads = [part[6:] for part in EVENTS]
        for _ in range(calls):
            few.append(await self.call(short))
            many.append(await self.call(long))
            start = time.perf_counter()
            for payload in payloads:
                json.loads(payload)
            parse.append((time.perf_counter() - start) / CHUNKS)
        self.flush()
        self.first.append(statistics.median(first for first, _ in few + many))
        self.short.append(statistics.median(whole for _, whole in few))
        self.long.append(statistics.median(whole for _, whole in many))
        self.parse.append(statistics.median(parse))


def called(bench: Bench, stack: str) -> Called:
    app = bench.app(stack)
    guards = [middleware.kwargs["guard"] for middleware in app.user_middleware if "guard" in middleware.kwargs]
    flush: Callable[[], object] = guards[0]._records.flush if guards else lambda: None
    return Called(app, bench.authorization(stack), flush)


async def in_process(bench: Bench, rounds: int) -> dict[str, Called]:
    """All stacks in turn."""
    stacks = {stack: called(bench, stack) for stack in STACKS}
    for measured in stacks.values():  # the first calls build routes and plans
        await measured.call(request_body())
        await measured.call(request_body(2))
    for _ in range(rounds):
        for measured in stacks.values():
            await measured.whole(CALLS)
        for stack in ("bare", "async"):
            await stacks[stack].streams(CALLS // 10)
    return stacks


# Served


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, request: bytes, until: float) -> None:
        self.count = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._until = until
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(head.decode("latin-1")))
            return
        self._buffer = b""
        self.count += 1
        if time.perf_counter() < self._until:
            self._transport.write(self._request)
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))


async def load(port: int, authorization: bytes, seconds: float, connections: int = CONNECTIONS) -> float:
    """Answers a second."""
    body = request_body()
    request = (
        b"POST %s HTTP/1.1\r\nhost: api.example.com\r\ncontent-type: application/json\r\ncontent-length: %d\r\nauthorization: %s\r\n\r\n%s"
        % (
            CHAT.encode(),
            len(body),
            authorization,
            body,
        )
    )
    start = time.perf_counter()
    loop = asyncio.get_running_loop()
    clients = [(await loop.create_connection(lambda: Client(request, start + seconds), "127.0.0.1", port))[1] for _ in range(connections)]
    await asyncio.gather(*(client.done for client in clients))
    return sum(client.count for client in clients) / (time.perf_counter() - start)


def serve(stack: str, folder: Path) -> None:
    """One uvicorn worker; prints its port when it listens."""
    # asyncio turns off Nagle's delay only on sockets that were made with the protocol named (docs/guides/asgi.md).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(CONNECTIONS)  # so that a client may come before the app has started
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(Bench.open(folder).app(stack), log_config=None, access_log=False)).run(sockets=[listener])


def served(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Answers a second of each stack, round by round."""
    rates: dict[str, list[float]] = {stack: [] for stack in STACKS}
    with ExitStack() as running:
        ports = {}
        for stack in STACKS:
            command = [sys.executable, __file__, "serve", stack, str(bench.folder)]
            process = running.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            running.callback(process.terminate)
            assert process.stdout is not None
            ports[stack] = int(process.stdout.readline())
            asyncio.run(load(ports[stack], bench.authorization(stack), SERVED_SECONDS / 4))
        for _ in range(rounds):
            for stack, port in ports.items():
                rates[stack].append(asyncio.run(load(port, bench.authorization(stack), SERVED_SECONDS)))
    return rates


# Printing


def at_least(figure: float, floor: float) -> str:
    return f"{figure:.2f} × (budget ≥ {floor:g}: {'within' if figure >= floor else 'OVER'})"


def median_of_differences(these: list[float], those: list[float]) -> float:
    return statistics.median(this - that for this, that in zip(these, those, strict=True))


def median_of_ratios(these: list[float], those: list[float]) -> float:
    return statistics.median(this / that for this, that in zip(these, those, strict=True))


def print_in_process(stacks: dict[str, Called], fsync: float, signature: float) -> bool:
    """Print, and say whether all budgets are held."""
    bare = stacks["bare"]
    held = True
    print(f"\nOne JSON call in process, median of rounds in turn ({CALLS} calls each)\n{'-' * 100}")
    print(f"{'stack':<12} {'p50 µs':>8} {'CPU µs':>8} {'p50 added':>10} {'CPU added':>10}")
    for stack, measured in stacks.items():
        added = median_of_differences(measured.p50, bare.p50) * 1e6
        cpu = median_of_differences(measured.cpu, bare.cpu) * 1e6
        medians = [statistics.median(values) * 1e6 for values in (measured.p50, measured.cpu)]
        row = f"{stack:<12} {medians[0]:>8.0f} {medians[1]:>8.0f} {added:>10.0f} {cpu:>10.0f}"
        if stack == "async":
            budgets = [Budget(cpu, 150, "µs CPU added"), Budget(added, 250, "µs p50 added")]
            held = held and all(budget.figure <= budget.at_most for budget in budgets)
            row += f"  {'; '.join(map(str, budgets))}"
        elif stack == "durable":
            row += f"  p50 added is {added / fsync / 1e6:.2f} × the fsync of this disk ({fsync * 1e6:.0f} µs)"
        print(row)
    guarded = stacks["async"]
    parse = statistics.median(guarded.parse)
    chunks = CHUNKS - 2
    slopes = [[(long - short) / chunks for long, short in zip(s.long, s.short, strict=True)] for s in (guarded, bare)]
    per_chunk = median_of_differences(*slopes)
    first = median_of_differences(guarded.first, bare.first)
    over = Budget((per_chunk - parse) * 1e6, 3, "µs over json.loads")
    print(f"\nA stream in process, async against bare\n{'-' * 100}")
    print(f"one chunk, bare                  {statistics.median(slopes[1]) * 1e6:>8.2f} µs")
    print(f"one chunk, added by the guard    {per_chunk * 1e6:>8.2f} µs  json.loads of it {parse * 1e6:.2f} µs; {over}")
    print(f"until the first chunk, bare      {statistics.median(bare.first) * 1e6:>8.0f} µs")
    print(
        f"until the first chunk, added     {first * 1e6:>8.0f} µs  "
        f"{first / signature:.2f} × one raw Ed25519 signature ({signature * 1e6:.0f} µs): admission and pending token"
    )
    return held and over.figure <= over.at_most


def print_served(rates: dict[str, list[float]]) -> bool:
    """Print, and say whether all budgets are held."""
    held = True
    print(f"\nJSON calls under uvicorn, 1 worker, {CONNECTIONS} connections, rounds in turn\n{'-' * 100}")
    print(f"{'stack':<12} {'calls/s':>8} {'× bare':>8} {'× own':>8} {'× lean':>8}")
    for stack, measured in rates.items():
        ratios = [median_of_ratios(measured, rates[other]) for other in ("bare", "own", "own, lean")]
        row = f"{stack:<12} {statistics.median(measured):>8.0f} {ratios[0]:>8.2f} {ratios[1]:>8.2f} {ratios[2]:>8.2f}"
        if stack in GUARDED:
            row += f"  bare {at_least(ratios[0], 0.5)}; own {at_least(ratios[1], 2)}"
            held = held and ratios[0] >= 0.5 and ratios[1] >= 2
        print(row)
    return held


def main() -> int:
    """Run and print.

    Returns:
        1 when a budget is missed, otherwise 0.
    """
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
        return 0
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        bench = Bench.provision(Path(directory))
        print(f"whole guard: CPython {platform.python_version()}, {os.cpu_count()} cores, {rounds} rounds")
        signature = interleaved(lambda: bench.own_key.sign(b"x" * 900), number=200)[0]
        before = fsync_seconds(bench.folder)
        stacks = asyncio.run(in_process(bench, rounds))
        fsync = statistics.median([before, fsync_seconds(bench.folder)])
        held = print_in_process(stacks, fsync, signature)
        held = print_served(served(bench, rounds)) and held
        for measured in stacks.values():
            measured.flush()
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
