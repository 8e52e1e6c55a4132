"""A guarded app in memory: the pieces that most integration tests start from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tos_guard.config import GuardSettings
from tos_guard.guard import AsyncGuard, Meter, ModelFacts
from tos_guard.ledger import ExchangeRecord
from tos_guard.limits import Amounts, Limit
from tos_guard.protocols import AsyncLimitEngine, LimitEngine
from tos_guard.rights import Account, hash_secret, new_api_key
from tos_guard.stores import MemoryLimits, load_terms
from tos_guard.testing import FixedClock, MemoryStore, SeededEntropy, SeededSigner
from tos_guard.types import Facts
from tos_guard.verify import Trust
from tos_guard.web.asgi import TosGuardMiddleware

TERMS = Path(__file__).parents[1] / "examples" / "terms" / "minimal.toml"
ISSUER = "https://api.example.com"
CHAT = "/v1/chat/completions"
REQUEST = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'

Scope = dict[str, Any]
Message = dict[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


@dataclass
class Kit:
    """A guard over stores in memory, with one account and its key.

    Attributes:
        limits: What is limited; the time of their windows is the clock's.
        models: What is known of models, for estimates and costs.
        engine: What counts; one in memory by default.
    """

    clock: FixedClock = field(default_factory=FixedClock)
    signer: SeededSigner = field(default_factory=SeededSigner)
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    terms: Path = TERMS
    limits: Sequence[Limit] = ()
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    engine: LimitEngine | AsyncLimitEngine | None = None

    def __post_init__(self) -> None:
        entropy = SeededEntropy()
        self.store = MemoryStore(issuer=ISSUER, clock=self.clock)
        self.account = self.store.add_account(
            Account(id="acme", models=frozenset({"small", "catalogue"}), actions=frozenset({"generate", "classify"}))
        )
        key = new_api_key(entropy)
        self.store.add_api_key("acme", key.public_id, hash_secret(key.secret, self.store.pepper()))
        self.key = key.text
        given = {
            "issuer": ISSUER,
            "terms": self.terms,
            "store": Path("unused.db"),
            "keys": Path("unused"),
            "exempt": ["/healthz"],
            "routes": {CHAT: "openai-chat", "/v1/models": {"dialect": "plain-json", "model": "catalogue", "action": "classify"}},
        }
        parts = {
            "terms": load_terms(self.terms),
            "accounts": self.store,
            "rights": self.store,
            "archive": self.store,
            "records": self.store,
            "signer": self.signer,
            "pepper": self.store.pepper(),
            "clock": self.clock,
            "entropy": entropy,
        }
        if self.limits:
            self.engine = self.engine or MemoryLimits(clock=self.clock, monotonic=lambda: self.clock().timestamp())
            parts |= {"meter": Meter(self.limits, models=self.models), "limits": self.engine}
        self.parts: dict[str, Any] = parts | self.overrides
        self.guard = AsyncGuard(GuardSettings(**(given | self.settings)), **self.parts)
        self.trust = Trust.of(self.signer.key_set)

    def wrap(self, app: App) -> TosGuardMiddleware:
        """The app behind the guard."""
        return TosGuardMiddleware(app, guard=self.guard)

    def change(self, **fields: Any) -> None:
        """Change the account."""
        account = self.store.by_id("acme")
        assert account is not None
        self.store.put_account(account.model_copy(update=fields))

    def used(self, **facts: str) -> dict[str, int]:
        """How much counts now of each limit that a request with these facts is charged."""
        holder = self.store.holder_by_id("acme")
        assert holder is not None
        assert self.engine is not None
        charges = self.guard.meter.charges(holder, {}, Facts(**{"action": "generate", "model": "small", **facts}), Amounts())
        engine = self.engine.blocking if isinstance(self.engine, AsyncLimitEngine) else self.engine
        return {state.limit.id: state.used for state in engine.states(charges)}

    def records(self) -> list[ExchangeRecord]:
        """The records of the account."""
        self.store.flush()
        return list(self.store.of_account(ISSUER, "acme"))


@dataclass
class Answer:
    """What a client got."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    ended: bool = False
    error: BaseException | None = None

    @property
    def body(self) -> bytes:
        """All of the body."""
        return b"".join(self.chunks)


async def ask(
    app: Any,
    path: str = CHAT,
    *,
    key: str | None = None,
    method: str = "POST",
    body: bytes = REQUEST,
    headers: list[tuple[bytes, bytes]] | None = None,
    leave_after: int | None = None,
    send_error: bool = False,
) -> Answer:
    """Call an ASGI app as a server does.

    Args:
        app: The app.
        leave_after: The client leaves after so many body messages: `receive` then gives ``http.disconnect``.
        send_error: From then on `send` raises ``OSError``, as servers of ASGI 2.4 do.
    """
    answer = Answer()
    gone = asyncio.Event()
    fields = [(b"content-type", b"application/json"), *(headers or [])]
    if key is not None:
        fields.append((b"authorization", b"Bearer " + key.encode()))
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if gone.is_set() and send_error:
            raise OSError("client left")
        if gone.is_set():
            return
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        if message.get("body"):
            answer.chunks.append(message["body"])
            if leave_after is not None and len(answer.chunks) >= leave_after:
                gone.set()
        answer.ended = answer.ended or not message.get("more_body", False)

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": fields,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    try:
        await app(scope, receive, send)
    except Exception as error:
        answer.error = error
    return answer


def whole(
    body: bytes, *, status: int = 200, media_type: bytes = b"application/json", headers: list[tuple[bytes, bytes]] | None = None
) -> App:
    """An app that answers with one body."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        del scope
        await receive()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", media_type), (b"content-length", str(len(body)).encode()), *(headers or [])],
            }
        )
        await send({"type": "http.response.body", "body": body})

    return app


def streamed(*chunks: bytes | BaseException, media_type: bytes = b"text/event-stream", closed: list[str] | None = None) -> App:
    """An app that streams chunks, or raises where an exception stands among them."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        del scope
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})
        try:
            async for chunk in _each(chunks):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            if closed is not None:
                closed.append("closed")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def _each(chunks: tuple[bytes | BaseException, ...]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk
