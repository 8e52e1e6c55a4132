"""What the guard adds at each door: a call, and a message of a stream, beside the same server without it.

Flask and ASGI (FastAPI) serve the app of `guard.py`, in process and on loopback (werkzeug, uvicorn); gRPC, sync and aio, all four kinds of
methods on loopback. A call of a whole body, or of one message, has 1 KB; a stream has as many short messages as are asked for, and what a
message costs is what the longer of two streams costs more. Four limits are counted in memory, records are `async` or `durable`. Stacks
take turns within each round. CPU is that of the process that serves, until all records are durable; p50 is what a client waits, one call
after another.

Last, a verified channel beside a plain one, before the same guarded server: there CPU is that of the client.

    python benchmarks/doors.py [rounds]
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
import uvicorn
from flask import Flask, Response, request
from google.protobuf.wrappers_pb2 import StringValue
from guard import CHAT, COMPLETION, EVENTS, ISSUER, LAST, Bench, Called, called, request_body
from measure import Budget
from werkzeug.serving import WSGIRequestHandler, make_server

import tos_guard_flask
from tos_guard.guard import AsyncGuard, Guard
from tos_guard.stores import KeyFolder
from tos_guard.verifier import Verifier
from tos_guard_grpc import AsyncGuardInterceptor, GuardInterceptor, verified_channel

ROUNDS = 5
CALLS = 60
STREAMS = 5
SHORT, LONG = 2, 200
STACKS = ("bare", "async", "durable")
SERVICE = "bench.Texts"
KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
ROUTES = "{{ {} }}".format(
    ", ".join([f'"{CHAT}" = "openai-chat"', *(f'"/{SERVICE}/{kind}" = {{ dialect = "grpc", model = "small" }}' for kind in KINDS)])
)
TEXT = "The quick brown fox. " * 50
PAYLOADS = [part[6:] for part in EVENTS]


def flusher(guard: Any) -> Callable[[], object]:
    return guard._records.flush  # type: ignore[no-any-return]


# The doors as servers have them


def flask_app(bench: Bench, stack: str) -> tuple[Flask, Callable[[], object]]:
    app = Flask("bench")

    @app.post(CHAT)
    def chat() -> Response:
        asked = request.get_json()
        if asked["stream"]:
            return Response(iter([*EVENTS[: asked["max_tokens"]], *LAST]), mimetype="text/event-stream")
        return Response(COMPLETION, mimetype="application/json")

    if stack == "bare":
        return app, lambda: None
    app.config["TOS_GUARD_SETTINGS"] = str(bench.folder / f"{stack}.toml")
    extension = tos_guard_flask.TosGuard(app)
    return app, flusher(extension.guard_of(app))


class Texts:
    """Four kinds of methods, in threads."""

    def unary_unary(self, _asked: StringValue, _context: Any) -> StringValue:
        return StringValue(value=TEXT)

    def unary_stream(self, asked: StringValue, _context: Any) -> Iterator[StringValue]:
        for number in range(int(asked.value)):
            yield StringValue(value=f"word{number} ")

    def stream_unary(self, asked: Iterator[StringValue], _context: Any) -> StringValue:
        return StringValue(value=str(sum(1 for _ in asked)))

    def stream_stream(self, asked: Iterator[StringValue], _context: Any) -> Iterator[StringValue]:
        yield from asked


class AsyncTexts:
    """The same, awaiting."""

    async def unary_unary(self, _asked: StringValue, _context: Any) -> StringValue:
        return StringValue(value=TEXT)

    async def unary_stream(self, asked: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        for number in range(int(asked.value)):
            yield StringValue(value=f"word{number} ")

    async def stream_unary(self, asked: AsyncIterator[StringValue], _context: Any) -> StringValue:
        return StringValue(value=str(len([0 async for _ in asked])))

    async def stream_stream(self, asked: AsyncIterator[StringValue], _context: Any) -> AsyncIterator[StringValue]:
        async for message in asked:
            yield message


def method_handlers(texts: Any) -> Any:
    form = {"request_deserializer": StringValue.FromString, "response_serializer": StringValue.SerializeToString}
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(texts.unary_unary, **form),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(texts.unary_stream, **form),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(texts.stream_unary, **form),
            "StreamStream": grpc.stream_stream_rpc_method_handler(texts.stream_stream, **form),
        },
    )


# A server in a process of its own


def answer_cpu(flush: Callable[[], object]) -> None:
    """For each line that is read, the seconds of CPU that this process has taken, with all records durable."""
    for _ in sys.stdin:
        flush()
        print(time.process_time(), flush=True)


def serve_flask(bench: Bench, stack: str) -> None:
    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # so that connections stay
        disable_nagle_algorithm = True

        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - named by werkzeug
            """Nothing."""

    app, flush = flask_app(bench, stack)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        print(server.port, flush=True)
        answer_cpu(flush)
        server.shutdown()


def serve_asgi(bench: Bench, stack: str) -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # as in guard.py
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    measured = called(bench, stack)
    server = uvicorn.Server(uvicorn.Config(measured.app, log_config=None, access_log=False))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.run, sockets=[listener])
        print(listener.getsockname()[1], flush=True)
        answer_cpu(measured.flush)
        server.should_exit = True


def serve_grpc(bench: Bench, stack: str) -> None:
    guard = None if stack == "bare" else Guard.from_file(bench.folder / f"{stack}.toml")
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[] if guard is None else [GuardInterceptor(guard)])
    server.add_generic_rpc_handlers((method_handlers(Texts()),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    answer_cpu((lambda: None) if guard is None else flusher(guard))
    server.stop(0).wait()


def serve_aio(bench: Bench, stack: str) -> None:
    async def serve() -> None:
        guard = None if stack == "bare" else AsyncGuard.from_file(bench.folder / f"{stack}.toml")
        server = grpc.aio.server(interceptors=[] if guard is None else [AsyncGuardInterceptor(guard)])
        server.add_generic_rpc_handlers((method_handlers(AsyncTexts()),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await asyncio.to_thread(answer_cpu, (lambda: None) if guard is None else flusher(guard))
        await server.stop(0)

    asyncio.run(serve())


SERVERS = {"flask": serve_flask, "asgi": serve_asgi, "grpc": serve_grpc, "grpc-aio": serve_aio}


class Server:
    """A process that serves one stack at one door."""

    def __init__(self, bench: Bench, door: str, stack: str, running: ExitStack) -> None:
        command = [sys.executable, __file__, "serve", door, stack, str(bench.folder)]
        self._process = running.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        running.callback(self._process.terminate)
        self.port = int(self._said())

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._said())


# Clients: each calls one stack


class Client(Protocol):
    """Calls one stack at one door."""

    def times(self, messages: int, calls: int) -> list[float]:
        """Seconds of each of *calls*, of a whole body or, where *messages* is not 0, of a stream."""
        ...

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        ...


def timed(call: Callable[[], object], calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


@dataclass
class InWSGI:
    """A WSGI app without sockets."""

    app: Any
    flush: Callable[[], object]
    authorization: bytes

    def cpu(self) -> float:
        self.flush()
        return time.process_time()

    def times(self, messages: int, calls: int) -> list[float]:
        return timed(lambda: self._call(request_body(messages)), calls)

    def _call(self, body: bytes) -> None:
        environ = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": CHAT,
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_HOST": "api.example.com",
            "HTTP_AUTHORIZATION": self.authorization.decode(),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }

        def start_response(status: str, _headers: Any, _exc_info: Any = None) -> Callable[[bytes], None]:
            if not status.startswith("200"):
                raise RuntimeError(status)
            return lambda _: None

        parts = self.app(environ, start_response)
        try:
            for _ in parts:
                pass
        finally:
            if (close := getattr(parts, "close", None)) is not None:
                close()


@dataclass
class InASGI:
    """An ASGI app without sockets."""

    called: Called
    loop: asyncio.AbstractEventLoop

    def cpu(self) -> float:
        self.called.flush()
        return time.process_time()

    def times(self, messages: int, calls: int) -> list[float]:
        return self.loop.run_until_complete(self._times(request_body(messages), calls))

    async def _times(self, body: bytes, calls: int) -> list[float]:
        return [(await self.called.call(body))[1] for _ in range(calls)]


class OverHTTP:
    """A server of HTTP, one connection."""

    def __init__(self, server: Server, authorization: bytes, running: ExitStack) -> None:
        self.cpu = server.cpu
        self._headers = {"authorization": authorization.decode(), "content-type": "application/json"}
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port)
        running.callback(self._connection.close)

    def times(self, messages: int, calls: int) -> list[float]:
        return timed(lambda: self._call(request_body(messages)), calls)

    def _call(self, body: bytes) -> None:
        self._connection.request("POST", CHAT, body, self._headers)
        response = self._connection.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}")


class OverGRPC:
    """One kind of method, over a channel."""

    def __init__(self, channel: grpc.Channel, kind: str, authorization: bytes, cpu: Callable[[], float]) -> None:
        self.cpu = cpu
        self._metadata = (("authorization", authorization.decode()),)
        make = {
            "UnaryUnary": channel.unary_unary,
            "UnaryStream": channel.unary_stream,
            "StreamUnary": channel.stream_unary,
            "StreamStream": channel.stream_stream,
        }[kind]
        self._method: Any = make(f"/{SERVICE}/{kind}", StringValue.SerializeToString, StringValue.FromString)
        self._requests_stream = kind.startswith("Stream")
        self._responses_stream = kind.endswith("Stream")

    def times(self, messages: int, calls: int) -> list[float]:
        return timed(lambda: self._call(messages), calls)

    def _call(self, messages: int) -> None:
        asked: Any = StringValue(value=str(messages or TEXT))
        if self._requests_stream:
            asked = iter([StringValue(value=f"word{number} ") for number in range(messages)])
        answer = self._method(asked, metadata=self._metadata)
        if self._responses_stream and sum(1 for _ in answer) != messages:
            raise RuntimeError("messages are missing")


# Measuring


@dataclass
class Cost:
    """Seconds of one stack, round by round."""

    p50: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def of_round(client: Client, messages: int, calls: int) -> tuple[float, float]:
    """Median seconds of a call, and seconds of CPU for each."""
    before = client.cpu()
    times = client.times(messages, calls)
    return statistics.median(times), (client.cpu() - before) / calls


def calls_of(clients: dict[str, Client], rounds: int) -> dict[str, Cost]:
    """What a call costs each stack, in turn."""
    costs = {stack: Cost() for stack in clients}
    for client in clients.values():
        client.times(0, CALLS // 4)
    for _ in range(rounds):
        for stack, client in clients.items():
            p50, cpu = of_round(client, 0, CALLS)
            costs[stack].p50.append(p50)
            costs[stack].cpu.append(cpu)
    return costs


def streams_of(clients: dict[str, Client], rounds: int) -> tuple[dict[str, Cost], dict[str, Cost]]:
    """What a short stream, and each message of a longer one, costs each stack, in turn."""
    calls, messages = {stack: Cost() for stack in clients}, {stack: Cost() for stack in clients}
    for client in clients.values():
        client.times(SHORT, STREAMS)
        client.times(LONG, 1)
    for _ in range(rounds):
        for stack, client in clients.items():
            short, long = of_round(client, SHORT, STREAMS * 4), of_round(client, LONG, STREAMS)
            for cost, index in ((calls, 0), (messages, 1)):
                p50, cpu = short if index == 0 else tuple((more - less) / (LONG - SHORT) for more, less in zip(long, short, strict=True))
                cost[stack].p50.append(p50)
                cost[stack].cpu.append(cpu)
    return calls, messages


HALF = f"{'bare':>8} {'guarded':>8} {'added':>8} {'ratio':>6}"
HEAD = f"{'µs: p50, then CPU':<34} {'records':<8} {HALF}  {HALF}"


class Table:
    """Prints rows as they are measured, and counts the budgets that are missed."""

    def __init__(self) -> None:
        self.missed = 0

    def head(self, title: str) -> None:
        print(f"\n{title}\n{HEAD}\n{'-' * len(HEAD)}")

    def rows(self, what: str, costs: dict[str, Cost], budgets: Callable[[float, float], list[Budget]] | None = None) -> None:
        """A row for each stack but the first, which is what the others are compared with; budgets are for `async`."""
        bare, *others = costs
        for stack in others:
            row, added = f"{what:<34} {stack:<8}", []
            for these, those in ((costs[stack].p50, costs[bare].p50), (costs[stack].cpu, costs[bare].cpu)):
                more = statistics.median(this - that for this, that in zip(these, those, strict=True)) * 1e6
                ratio = statistics.median(this / that if that > 0 else 0.0 for this, that in zip(these, those, strict=True))
                row += f" {statistics.median(those) * 1e6:>8.1f} {statistics.median(these) * 1e6:>8.1f} {more:>8.1f} {ratio:>6.2f} "
                added.append(more)
            held = budgets(*added) if budgets is not None and stack == "async" else []
            self.missed += sum(budget.figure > budget.at_most for budget in held)
            print("  ".join([row, *map(str, held)]), flush=True)


def whole_guard(p50: float, cpu: float) -> list[Budget]:
    return [Budget(p50, 250, "µs p50"), Budget(cpu, 150, "µs CPU")]


def parse_seconds() -> float:
    """Of one event of the stream, as JSON."""

    def parse() -> None:
        for payload in PAYLOADS:
            json.loads(payload)

    return statistics.median(timed(parse, 50)) / len(PAYLOADS)


def http_door(table: Table, title: str, clients: dict[str, Client], rounds: int, *, in_process: bool) -> None:
    """Calls and streams of chat. The budgets are for the guard alone: where a server shares the process, they are not asked for."""
    parse = parse_seconds() * 1e6
    table.head(title)
    table.rows("JSON call", calls_of(clients, rounds), whole_guard if in_process else None)
    calls, messages = streams_of(clients, rounds)
    table.rows("stream of 2 events", calls)
    table.rows(
        "each event more",
        messages,
        (lambda p50, _: [Budget(p50 - parse, 3, f"µs over json.loads ({parse:.1f})")]) if in_process else None,
    )


def grpc_door(table: Table, title: str, channels: dict[str, tuple[grpc.Channel, bytes, Callable[[], float]]], rounds: int) -> None:
    table.head(title)
    for kind in KINDS:
        clients: dict[str, Client] = {
            stack: OverGRPC(channel, kind, authorization, cpu) for stack, (channel, authorization, cpu) in channels.items()
        }
        if kind == "UnaryUnary":
            table.rows(f"{kind}, call", calls_of(clients, rounds))
            continue
        calls, messages = streams_of(clients, rounds)
        table.rows(f"{kind}, call of 2 messages", calls)
        table.rows(f"{kind}, each message more", messages)


def channel_to(server: Server, running: ExitStack) -> grpc.Channel:
    channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
    running.callback(channel.close)
    return channel


def doors(bench: Bench, table: Table, rounds: int) -> None:
    """All doors, one after the other."""
    authorizations = {stack: bench.authorization(stack) for stack in STACKS}
    http_door(
        table,
        "Flask, in process",
        {stack: InWSGI(*flask_app(bench, stack), authorizations[stack]) for stack in STACKS},
        rounds,
        in_process=True,
    )
    loop = asyncio.new_event_loop()
    http_door(table, "ASGI (FastAPI), in process", {stack: InASGI(called(bench, stack), loop) for stack in STACKS}, rounds, in_process=True)
    loop.close()
    for door, title in (("flask", "Flask under werkzeug"), ("asgi", "ASGI (FastAPI) under uvicorn")):
        with ExitStack() as running:
            servers = {stack: Server(bench, door, stack, running) for stack in STACKS}
            clients: dict[str, Client] = {stack: OverHTTP(servers[stack], authorizations[stack], running) for stack in STACKS}
            http_door(table, title, clients, rounds, in_process=False)
    for door, title in (("grpc", "gRPC sync"), ("grpc-aio", "gRPC aio")):
        with ExitStack() as running:
            servers = {stack: Server(bench, door, stack, running) for stack in STACKS}
            channels = {stack: (channel_to(server, running), authorizations[stack], server.cpu) for stack, server in servers.items()}
            grpc_door(table, title, channels, rounds)
    with ExitStack() as running:
        server = Server(bench, "grpc-aio", "async", running)
        verifier = running.enter_context(Verifier(pinned=KeyFolder(bench.folder / "keys").public_set(datetime.now(UTC))))
        plain, below = channel_to(server, running), channel_to(server, running)
        given = (authorizations["async"], time.process_time)
        grpc_door(
            table,
            "verified channel beside a plain one, before gRPC aio guarded; CPU is the client's",
            {"plain": (plain, *given), "verified": (verified_channel(below, verifier, issuer=ISSUER), *given)},
            rounds,
        )


def main() -> int:
    """Run and print.

    Returns:
        1 when a budget is missed, otherwise 0.
    """
    if sys.argv[1:2] == ["serve"]:
        SERVERS[sys.argv[2]](Bench.open(Path(sys.argv[4])), sys.argv[3])
        return 0
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    table = Table()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        bench = Bench.provision(Path(directory), ROUTES)
        print(f"every door: CPython {platform.python_version()}, {os.cpu_count()} cores, {rounds} rounds")
        doors(bench, table, rounds)
    return min(table.missed, 1)


if __name__ == "__main__":
    sys.exit(main())
