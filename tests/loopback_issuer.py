"""An issuer on loopback whose documents a test can spoil, delay and count, and whose responses a test seals itself."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tos_guard._canonical import b64url_encode
from tos_guard.dialects import ChatProjection, GrpcProjection
from tos_guard.keys import (
    KEY_HISTORY_TYP,
    KeyHistory,
    KeyRecord,
    KeySet,
    encode_jws_signing_input,
    join_jws,
    key_history_payload,
    record_of,
)
from tos_guard.provenance import Claims, Terms, Usage, request_mac, token_signing_input
from tos_guard.types import Completion, KeyPurpose, Stage

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NBF = int(START.timestamp()) - 86_400
SALT = b"s" * 32
METADATA, JWKS, HISTORY = "/.well-known/ai-provenance", "/.well-known/jwks.json", "/.well-known/ai-provenance/key-history"
DIGEST = b64url_encode(hashlib.sha256(b"").digest())

Answer = tuple[int, dict[str, str], bytes]
Handler = Callable[[BaseHTTPRequestHandler], None]


def made_key(seed: str, purpose: KeyPurpose = KeyPurpose.PROVENANCE) -> tuple[Ed25519PrivateKey, KeyRecord]:
    """A key from a seed."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())
    return private, record_of(private.public_key(), purpose, not_before=NBF)


class Keys:
    """The keys of an issuer, and what it signs with them."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.private, self.key = made_key("first")
        self.history_private, self.history_key = made_key("history", KeyPurpose.KEY_HISTORY)
        self.all: list[KeyRecord] = [self.history_key, self.key]
        self.sequence = 0

    def rotate(self, seed: str = "second") -> KeyRecord:
        """Sign with another key from now on."""
        self.private, self.key = made_key(seed)
        self.all.append(self.key)
        self.sequence += 1
        return self.key

    def key_set(self) -> KeySet:
        """All keys."""
        return KeySet(self.issuer, tuple(self.all))

    def history(self, **changes: Any) -> str:
        """The signed history; *changes* replace claims before it is signed."""
        payload = key_history_payload(KeyHistory(self.issuer, self.sequence, NBF, tuple(self.all))) | changes
        return self.sign_history(payload, self.history_private, self.history_key)

    @staticmethod
    def sign_history(payload: dict[str, Any], private: Ed25519PrivateKey, key: KeyRecord) -> str:
        """A history with these claims."""
        message = encode_jws_signing_input(payload, algorithm=key.algorithm, kid=key.kid, typ=KEY_HISTORY_TYP)
        return join_jws(message, private.sign(message))

    def token(self, content: Any = None, *, request: bytes = b"", seed: str | None = None, **claims: Any) -> str:
        """A token, final where there is content."""
        private, key = (self.private, self.key) if seed is None else made_key(seed)
        known: dict[str, Any] = {
            "iss": self.issuer,
            "iat": int(START.timestamp()),
            "jti": "j",
            "rid": "r",
            "sub": "s",
            "stage": Stage.PENDING if content is None else Stage.FINAL,
            "model": "small",
            "terms": Terms(f"{self.issuer}/terms", "1", DIGEST),
            "usage": Usage(DIGEST, ("no-competing-model",), "train-ai=n"),
            "req": request_mac(SALT, request),
            "content": content,
            "completion": None if content is None else Completion.COMPLETE,
        }
        message = token_signing_input(Claims(**(known | claims)), key)
        return join_jws(message, private.sign(message))

    def sealed_body(self, text: str = "Hello", **token: Any) -> bytes:
        """A chat completion with its token."""
        document: dict[str, Any] = {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "small",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        }
        projection = ChatProjection()
        projection.add_body(document)
        document["ai_provenance"] = {"token": self.token(projection.content(), **token)}
        return json.dumps(document).encode()

    def sealed_events(self, *texts: str, **token: Any) -> list[bytes]:
        """The events of a chat stream, its token on the finish chunk, ``[DONE]`` last."""
        deltas: list[dict[str, Any]] = [{"role": "assistant"}, *({"content": text} for text in texts or ("Hel", "lo")), {}]
        projection = ChatProjection()
        events = []
        for position, delta in enumerate(deltas):
            is_last = position == len(deltas) - 1
            choice = {"index": 0, "delta": delta, "finish_reason": "stop" if is_last else None}
            event: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "small", "choices": [choice]}
            projection.add_event(event)
            if is_last:
                event["ai_provenance"] = {"token": self.token(projection.content(), **token)}
            events.append(b"data: " + json.dumps(event).encode() + b"\n\n")
        return [*events, b"data: [DONE]\n\n"]

    def sealed_messages(self, *messages: bytes, **token: Any) -> str:
        """The token of a gRPC call with these response messages."""
        projection = GrpcProjection()
        for message in messages:
            projection.add_message(message)
        return self.token(projection.content(), **token)


class LoopbackIssuer(Keys):
    """Serves the documents of an issuer.

    Attributes:
        answers: Path → answer in place of the right one.
        handlers: Path → code that writes the answer itself.
        hits: How often each path was asked for.
        asked: Set when a request has come in.
        gate: While cleared, no request is answered.
    """

    def __init__(self, origin: str) -> None:
        super().__init__(origin)
        self.answers: dict[str, Answer] = {}
        self.handlers: dict[str, Handler] = {}
        self.hits: Counter[str] = Counter()
        self.asked = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.closing = False

    def metadata(self, **changes: Any) -> bytes:
        """The issuer metadata; *changes* replace members."""
        document = {"ver": 1, "issuer": self.issuer, "jwks_uri": self.issuer + JWKS, "key_history_uri": self.issuer + HISTORY}
        return json.dumps(document | changes).encode()

    def put(self, path: str, body: bytes, media_type: str = "application/json", status: int = 200) -> None:
        """Answer a path with this from now on."""
        self.answers[path] = (status, {"content-type": media_type}, body)

    def answer(self, path: str) -> Answer:
        """What a path is answered with."""
        if path in self.answers:
            return self.answers[path]
        documents: dict[str, tuple[str, Callable[[], bytes]]] = {
            METADATA: ("application/json", self.metadata),
            JWKS: ("application/json", lambda: self.key_set().to_bytes()),
            HISTORY: ("application/jwt", lambda: self.history().encode()),
        }
        if path not in documents:
            return 404, {"content-type": "text/plain"}, b"?"
        media_type, body = documents[path]
        return 200, {"content-type": media_type}, body()

    def discoveries(self) -> int:
        """How often it was asked for its keys."""
        return self.hits[METADATA]


@contextmanager
def serve_issuer() -> Iterator[LoopbackIssuer]:
    """An issuer on a free port of loopback."""

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            issuer.hits[self.path] += 1
            issuer.asked.set()
            issuer.gate.wait()
            if issuer.closing:
                self.close_connection = True
                return
            if self.path in issuer.handlers:
                issuer.handlers[self.path](self)
                return
            status, headers, body = issuer.answer(self.path)
            try:
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the client had enough

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    server.daemon_threads = True
    issuer = LoopbackIssuer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="issuer")
    thread.start()
    try:
        yield issuer
    finally:
        issuer.closing = True
        issuer.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
