"""The guard as pure ASGI middleware.

Rules kept here (facts about servers behind each are in docs/guides/asgi.md):

- Every HTTP path is guarded, exempt by name, our own, or refused. Nothing slips past because nobody thought of it.
- Paths are those of the app's own routes: what the server mounted it under (``root_path``) is taken away first, as Starlette does.
- A denied request never reaches the app. Authentication comes before the body is read.
- Neither the client (``Accept-Encoding``, ``Range``) nor the server (files sent by path, pushes, trailers) opens a door beside the seal.
- The app's bytes are passed on as they come; the head of a stream goes out at once. Only the last content waits for its seal.
- A denial that the handler meets while it runs (`Admission.require`) is the answer, whatever the app makes of the exception.
- However a response ends (done, client gone, handler raised, cancelled), the exchange is recorded once, and what it reserved is settled:
  before the last of the response leaves, where it has one.
- WebSockets are refused unless exempt by name: what cannot be sealed is not let through in silence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any, Final

from tos_guard.exchange import Head
from tos_guard.guard import AsyncGuard, Connection, der_of
from tos_guard.telemetry import Observed
from tos_guard.web._delivery import OUT, Delivering, Delivery, SendHead, next_out
from tos_guard.web._door import BODY_CHOICES, Admitted, Answered, Asked, Documents, Door, LetPass, Preflight, bare_head, too_large
from tos_guard.web._routes import OwnRoutes

__all__ = ["ASGIApp", "Message", "Receive", "Scope", "Send", "TosGuardMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SCOPE_KEY: Final = "tos_guard.issuers"
"""Issuers that already guard this request, so that two stacked guards of one issuer seal once."""

STATE_KEY: Final = "tos_guard"
"""Where the handler finds its `Admission`: ``scope["state"]["tos_guard"]``."""

_WITHOUT_CONTENT: Final = frozenset({"http.response.debug", "http.response.early_hint"})
"""Extensions of servers through which no content can leave. Others (pathsend, zerocopysend, push, trailers) are not offered to the app."""


class TosGuardMiddleware:
    """Guards an ASGI app.

    Args:
        app: The app.
        guard: The guard.
        documents: The well-known documents, or None to leave these paths to the app.
        routes: Routes of our own that are served before the app (`tos_guard.web.own_routes`).
        adapter: What the guard came in by, as telemetry names it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        guard: AsyncGuard,
        documents: Documents | None = None,
        routes: Sequence[OwnRoutes[Any]] = (),
        adapter: str = "asgi",
    ) -> None:
        self.app = app
        self.guard = guard
        self.adapter: str = adapter
        self._door = Door(guard, documents=documents, routes=routes, adapter=adapter)

    @property
    def documents(self) -> Documents | None:
        """The well-known documents, as given."""
        return self._door.documents

    @property
    def routes(self) -> tuple[OwnRoutes[Any], ...]:
        """Routes of our own, as given."""
        return self._door.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            raise RuntimeError(f"tos_guard cannot guard a connection of type {kind!r}")
        path = own_path(scope)
        issuers = scope.setdefault(SCOPE_KEY, ())
        if self._door.passes(path, issuers):
            await self.app(scope, receive, send)
            return
        scope[SCOPE_KEY] = (*issuers, self.guard.settings.issuer)
        asked = Asked(
            method=scope.get("method", "GET"),
            path=path,
            headers=[(name.lower(), value) for name, value in scope["headers"]],
            host=scope,
            read=partial(_read_body, receive),
            query=scope.get("query_string", b""),
            root=scope.get("root_path", ""),
            raw_path=scope.get("raw_path"),
            is_socket=kind == "websocket",
            connection=_connection(scope),
        )
        match await self.guard.run(self._door.decide(asked)):
            case Admitted() as admitted:
                await self._serve(scope, receive, send, admitted)
            case Answered() as answer:
                await (_answer_socket if asked.is_socket else _answer)(scope, receive, send, answer)
            case LetPass(observed, body):
                await self._let_pass(observed, scope, receive if body is None else _Replay(body, receive), send)
            case Preflight():
                _shut_side_doors(scope)
                await self.app(scope, _Replay(b"", receive), _without_body(send))

    async def _let_pass(self, observed: Observed, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            self.guard.telemetry.ended(observed, unsealed="monitor")

    async def _serve(self, scope: Scope, receive: Receive, send: Send, admitted: Admitted) -> None:
        exchange = admitted.exchange
        scope.setdefault("state", {})[STATE_KEY] = self.guard.admission(admitted.caller, exchange)
        _shut_side_doors(scope)
        request = _Replay(admitted.body, receive)
        answering = _Answering(self.guard, Delivery(self.guard, exchange, bodiless=scope["method"] == "HEAD"), request, send)
        delivery = answering.delivery
        try:
            await self.app(scope, request, answering.send)
            delivery.client_gone = request.disconnected
            await answering.deliver(delivery.returned())
        except Exception as error:  # the app is the host's: whatever it raises ends this exchange, and goes on to the server
            # What an app makes of a client that left, once it was told, is no failure of its own.
            delivery.client_gone = delivery.client_gone or (request.disconnected and not delivery.ended) or _is_disconnect(error)
            await answering.deliver(delivery.raised(error))
            if not delivery.explains(error):
                raise
        finally:
            await self.guard.run(delivery.close())


class _Answering:
    """Takes the app's messages, and sends what the delivery makes of them."""

    def __init__(self, guard: AsyncGuard, delivery: Delivery, request: _Replay, send: Send) -> None:
        self.delivery = delivery
        self._guard = guard
        self._request = request
        self._send = send

    async def send(self, message: Message) -> None:
        """Take one message of the app.

        Raises:
            DeniedError: The app goes on although it met a denial, which is by now the answer.
        """
        kind = message["type"]
        if kind == "http.response.body":
            await self.deliver(self.delivery.feed(message.get("body", b"")))
            if not message.get("more_body", False) and not self._is_cut:
                await self.deliver(self.delivery.finish())
        elif kind == "http.response.start":
            head = Head(message["status"], [(name.lower(), value) for name, value in message.get("headers", ())])
            await self.deliver(self.delivery.start(head))
        elif kind in _WITHOUT_CONTENT:
            await self._to_server(message)
        else:
            raise RuntimeError(f"the message {kind!r} would carry content past the guard")

    @property
    def _is_cut(self) -> bool:
        """Whether the end of the body may be no more than where the app stopped, told that nobody reads a stream of it any more.

        Sealed as whole, half an answer would have a token that says so.
        """
        return self._request.disconnected and self.delivery.response is not None and self.delivery.response.early

    async def deliver(self, delivering: Delivering[None]) -> None:
        """Serve what a step of the delivery needs, and send what it makes."""
        for item in delivering:
            out = item if isinstance(item, OUT) else await self._guard.run(next_out(item, delivering))
            if out is None:
                return
            if isinstance(out, SendHead):
                await self._to_server({"type": "http.response.start", "status": out.status, "headers": out.headers})
            else:
                await self._to_server({"type": "http.response.body", "body": out.data, "more_body": not out.last})

    async def _to_server(self, message: Message) -> None:
        """Send, and remember if the server says that the client left: an ``OSError`` of the app's own means nothing of the kind."""
        try:
            await self._send(message)
        except OSError:
            self.delivery.client_gone = True
            raise


async def _answer(scope: Scope, receive: Receive, send: Send, answer: Answered) -> None:
    """Send a whole response of our own."""
    del scope, receive
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


async def _answer_socket(scope: Scope, receive: Receive, send: Send, answer: Answered) -> None:
    """Refuse a WebSocket before it is accepted."""
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": "not served on guarded paths"})
        return
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "websocket.http.response.body", "body": answer.body})


def _connection(scope: Scope) -> Connection:
    client = scope.get("client")
    return Connection(client[0] if client else "", partial(_certificate, scope))


def _certificate(scope: Scope) -> bytes | None:
    """The client certificate that the server's TLS has verified, as ASGI's extension ``tls`` tells it; None where the server has none."""
    said = (scope.get("extensions") or {}).get("tls") or {}
    chain = said.get("client_cert_chain") or ()
    return der_of(chain[0]) if chain and not said.get("client_cert_error") else None


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole request body, or None if the client left.

    Raises:
        RequestTooLargeError: It has more than *limit* bytes.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


class _Replay:
    """A receive that gives this body, and then only the client's leaving.

    Attributes:
        disconnected: Whether the app was told that the client left.
    """

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.disconnected = False
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        while (message := await self._receive())["type"] != "http.disconnect":
            pass  # of a body that was not for the app
        self.disconnected = True
        return message


def own_path(scope: Scope) -> str:
    """The path as the app's own routes name it: without what the app is mounted under (as `starlette._utils.get_route_path`)."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        return path[len(root) :]
    return path


def _shut_side_doors(scope: Scope) -> None:
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name.lower() not in BODY_CHOICES]
    if scope.get("extensions"):
        scope["extensions"] = {
            name: value for name, value in scope["extensions"].items() if not name.startswith("http.response.") or name in _WITHOUT_CONTENT
        }


def _without_body(send: Send) -> Send:
    """A send that lets the head of an answer pass and nothing else."""

    async def bare(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = bare_head(message["status"], message.get("headers", ()))
            await send({"type": "http.response.start", "status": message["status"], "headers": headers})
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return bare


def _is_disconnect(error: BaseException) -> bool:
    """Whether an app's exception is Starlette's word for a client that left, which it makes of the ``OSError`` of the server's send."""
    return type(error).__name__ == "ClientDisconnect"
