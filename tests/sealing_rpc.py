"""A gRPC server on loopback that seals with a test's keys, and tampers as the test says; stubs of either colour; a wire that can be cut."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from loopback_issuer import SALT, Keys
from provider_grpc.text_pb2 import Completion, Piece
from tos_guard._canonical import b64url_encode

ISSUER = "https://api.example.com"
SERVICE = "/text.v1.Text"
KINDS = {"Complete": (False, False), "Stream": (False, True), "Collect": (True, False), "Chat": (True, True)}
"""Method → whether requests and responses are streams."""

Field = tuple[str, str]


@dataclass(frozen=True)
class Reply:
    """What a call is answered with."""

    initial: tuple[Field, ...]
    messages: tuple[bytes, ...]
    trailing: tuple[Field, ...]
    code: grpc.StatusCode = grpc.StatusCode.OK
    blocks: bool = False

    def without(self, *names: str) -> Reply:
        """The same without these fields of trailing metadata."""
        return replace(self, trailing=tuple(item for item in self.trailing if item[0] not in names))

    def without_initial(self, *names: str) -> Reply:
        """The same without these fields of initial metadata."""
        return replace(self, initial=tuple(item for item in self.initial if item[0] not in names))

    def ending(self, *fields: Field) -> Reply:
        """The same with these fields in trailing metadata, in place of ones of their names."""
        kept = self.without(*(name for name, _ in fields))
        return replace(kept, trailing=(*kept.trailing, *fields))


class SealingServer:
    """Seals each answer for its request, and then lets a test tamper with it.

    Attributes:
        keys: Of the issuer.
        tamper: Changes what leaves.
        asked: Method, metadata and requests of each call.
        called: Set when a call has come in.
        left: Set when a client has gone while a call was blocked.
    """

    def __init__(self) -> None:
        self.keys = Keys(ISSUER)
        self.target = ""
        self.reset()

    def reset(self) -> None:
        self.tamper: Callable[[Reply], Reply] = lambda reply: reply
        self.texts: tuple[str, ...] = ("Hel", "lo", "", "!")
        self.asked: list[tuple[str, dict[str, Any], tuple[bytes, ...]]] = []
        self.called, self.left = threading.Event(), threading.Event()

    def reply(self, method: str, metadata: dict[str, Any], requests: tuple[bytes, ...]) -> Reply:
        streams_requests, streams_responses = KINDS[method]
        bound = {"request": b"" if streams_requests else requests[0], "nonce": metadata.get("ai-provenance-nonce")}
        if streams_responses:
            messages = tuple(Piece(text=text).SerializeToString() for text in self.texts)
        else:
            messages = (Completion(text="".join(self.texts), words=1).SerializeToString(),)
        initial = (("ai-provenance", self.keys.token(**bound)), ("ai-provenance-salt", b64url_encode(SALT)), ("x-request-id", "r"))
        return Reply(initial, messages, (("own", "kept"), ("ai-provenance", self.keys.sealed_messages(*messages, **bound))))

    def _answer(self, method: str, requests: tuple[bytes, ...], context: grpc.ServicerContext) -> Iterator[bytes]:
        metadata = dict(context.invocation_metadata())
        self.asked.append((method, metadata, requests))
        self.called.set()
        reply = self.tamper(self.reply(method, metadata, requests))
        left = self.left
        if reply.blocks and not context.add_callback(left.set):
            left.set()  # it has gone already
        context.send_initial_metadata(reply.initial)
        context.set_trailing_metadata(reply.trailing)
        yield from reply.messages
        if reply.blocks:
            left.wait(30)
        if reply.code is not grpc.StatusCode.OK:
            context.abort(reply.code, "told to fail")

    def _whole(self, method: str, requests: tuple[bytes, ...], context: grpc.ServicerContext) -> bytes:
        return b"".join(self._answer(method, requests, context))

    def handlers(self) -> grpc.GenericRpcHandler:
        makers = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE[1:], {method: makers[kind](self._handler(method, *kind)) for method, kind in KINDS.items()}
        )

    def _handler(self, method: str, streams_requests: bool, streams_responses: bool) -> Callable[[Any, Any], Any]:
        answer = self._answer if streams_responses else self._whole

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            return answer(method, tuple(request) if streams_requests else (request,), context)

        return handle


@contextmanager
def serve_sealing() -> Iterator[SealingServer]:
    """The server on a free port."""
    sealing = SealingServer()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((sealing.handlers(),))
    sealing.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield sealing
    finally:
        server.stop(None).wait()


@dataclass
class Wire:
    """A relay between a client and a server.

    Attributes:
        target: What a client connects to.
        cuts: Bytes from the server after which a connection is dropped, one for each connection to come; without any, none is.
        passed: Bytes from the server on the connection that sent last.
    """

    target: str
    cuts: deque[int] = field(default_factory=deque)
    passed: int = 0


class _Relay:
    def __init__(self, wire: Wire, client: socket.socket, host: str, port: int) -> None:
        self.wire, self.client = wire, client
        self.cut = wire.cuts.popleft() if wire.cuts else None
        self.server = socket.create_connection((host, port))
        self.threads = [threading.Thread(target=work, name="wire", daemon=True) for work in (self.forward, self.back)]
        for thread in self.threads:
            thread.start()

    def forward(self) -> None:
        with suppress(OSError):
            while data := self.client.recv(65_536):
                self.server.sendall(data)
        self.drop()

    def back(self) -> None:
        passed = 0
        with suppress(OSError):
            while data := self.server.recv(65_536):
                room = len(data) if self.cut is None else min(len(data), self.cut - passed)
                self.client.sendall(data[:room])
                passed = self.wire.passed = passed + room
                if passed == self.cut:
                    break
        self.drop()

    def drop(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.drop()
        for thread in self.threads:
            thread.join(10)
        self.client.close()
        self.server.close()


@contextmanager
def wire_to(target: str) -> Iterator[Wire]:
    """A relay in front of a server, whose connections can be dropped at any byte."""
    host, _, port = target.partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(f"127.0.0.1:{listener.getsockname()[1]}")
    relays: list[_Relay] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                relays.append(_Relay(wire, listener.accept()[0], host, int(port)))

    accepting = threading.Thread(target=accept, name="wire-accept", daemon=True)
    accepting.start()
    try:
        yield wire
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(10)
        listener.close()
        for relay in relays:
            relay.close()
