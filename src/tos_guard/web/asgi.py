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

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from tos_guard.errors import (
    DeniedError,
    KeyFileError,
    MalformedRequestError,
    PolicyStop,
    RequestError,
    SignerError,
    StoreError,
    TosGuardError,
)
from tos_guard.exchange import Exchange
from tos_guard.guard import AsyncGuard, Caller, RequestView, Route, unavailable
from tos_guard.guard._admitting import MAX_FOUND_SECONDS
from tos_guard.telemetry import Observed
from tos_guard.types import Completion
from tos_guard.web._delivery import LARGE_BYTES, WITHOUT_CONTENT, ASGIApp, Delivery, Message, Receive, Scope, Send, send_answer
from tos_guard.web._routes import OwnRoutes, WebRequest, segments_of

__all__ = ["TosGuardMiddleware"]


SCOPE_KEY: Final = "tos_guard.issuers"
"""Issuers that already guard this request, so that two stacked guards of one issuer seal once."""

STATE_KEY: Final = "tos_guard"
"""Where the handler finds its `Admission`: ``scope["state"]["tos_guard"]``."""

_BODY_CHOICES: Final = frozenset({b"accept-encoding", b"range", b"if-range"})
"""Fields by which a client could ask for a compressed or partial body, which cannot be sealed. Compression belongs outside the guard."""


class Documents(Protocol):
    """What serves the well-known documents."""

    def owns(self, path: str) -> bool:
        """Whether a path is one of them."""
        ...

    def get(self, method: str, path: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """The document. Raises `KeyFileError` or `StoreError` where it cannot be read."""
        ...


class RequestTooLargeError(RequestError):
    """The request body is larger than the settings allow."""

    code = "tos_request_too_large"
    status = 413


class RouteNotGuardedError(RequestError):
    """The path is neither guarded nor exempt."""

    code = "tos_route_not_guarded"
    status = 404


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
        self.documents = documents
        self.routes: tuple[OwnRoutes[Any], ...] = tuple(routes)
        self.adapter: str = adapter

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
        if self.guard.settings.issuer in issuers or self.guard.is_exempt(path):
            await self.app(scope, receive, send)
            return
        scope[SCOPE_KEY] = (*issuers, self.guard.settings.issuer)
        if kind == "websocket":
            await self._refuse_socket(path, scope, receive, send)
        elif self.documents is not None and self.documents.owns(path):
            await self._publish(self.documents, scope["method"], path, send)
        elif (own := next((routes for routes in self.routes if routes.owns(path)), None)) is not None:
            await self._serve_own(own, path, scope, receive, send)
        elif _is_preflight(scope):
            _shut_side_doors(scope)
            await self.app(scope, _Replay(b"", receive), _without_body(send))
        else:
            await self._guarded(path, scope, receive, send)

    async def _publish(self, documents: Documents, method: str, path: str, send: Send) -> None:
        try:
            # In a thread, since keys and older terms are read from disk, and anyone may ask.
            status, headers, body = await asyncio.to_thread(documents.get, method, path)
        except (KeyFileError, StoreError) as error:
            self.guard.report_failure("documents", error)
            await self._refuse(send, unavailable(), None, None)
            return
        await send_answer(send, status, headers, body)

    async def _serve_own(self, routes: OwnRoutes[Any], path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a route of our own. As everywhere, who asks is known before the body is read."""
        observed = self.guard.telemetry.observe(self.adapter)
        view = RequestView(scope["method"], path, [(n.lower(), v) for n, v in scope["headers"]], scope, observed)
        root: str = scope.get("root_path", "")
        segments = segments_of(path, routes.prefix, scope.get("raw_path"), root)
        request = WebRequest(view, segments, scope.get("query_string", b""), root)
        try:
            entered = time.monotonic()
            who = await self.guard.run(routes.enter(request))
            body = await self._read_body(receive, routes.body_limit(request))
            if body is None:
                return  # the client left before it had asked
            if time.monotonic() - entered > MAX_FOUND_SECONDS:
                who = await self.guard.run(routes.enter(request))  # a key may have been revoked while the body came
            answer = await self.guard.run(routes.answer(who, replace(request, body=body)))
        except RequestError as error:
            self.guard.count_refusal(error, observed)
            answer = routes.refuse(request, error)
        except TosGuardError as error:
            self.guard.report_failure("signer" if isinstance(error, SignerError) else "store", error)
            refusal = unavailable()
            self.guard.telemetry.refused(observed, refusal.code)
            answer = routes.refuse(request, refusal)
        status, headers, content = answer
        await send_answer(send, status, headers, b"" if view.method == "HEAD" else content)

    async def _guarded(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        observed = self.guard.telemetry.observe(self.adapter)
        view = RequestView(scope["method"], path, [(n.lower(), v) for n, v in scope["headers"]], scope, observed)
        route = self.guard.route(view.path)
        exchange: Exchange | None = None
        body: bytes | None = None
        try:
            if route is None:
                raise RouteNotGuardedError("this path is neither guarded nor exempt", where=view.path[:200])
            caller = await self.guard.run(self.guard.authenticate(view))
            body = await self._read_body(receive, self.guard.settings.max_request_bytes)
            if body is None:
                return  # the client left before it had asked
            large = len(body) > LARGE_BYTES
            request = await asyncio.to_thread(route.dialect.read_request, body, view.head) if large else None
            exchange = await self.guard.run(self.guard.admit(caller, view, route, body, request=request))
            if exchange.is_refused:
                raise await self.guard.run(self.guard.keep_denial(exchange))
        except RequestError as error:
            lets_pass = exchange is None and self.guard.monitors and not isinstance(error, RequestTooLargeError)
            if exchange is None:
                self.guard.count_refusal(error, observed, monitored=lets_pass)
            refusal = error
        except StoreError as error:
            lets_pass, refusal = self.guard.monitors, unavailable()
            self.guard.report_failure("accounts", error)
            self.guard.telemetry.refused(observed, refusal.code, monitored=lets_pass)
        else:
            await self._serve(scope, receive, send, caller, exchange, body)
            return
        if lets_pass:
            await self._let_pass(observed, scope, receive if body is None else _Replay(body, receive), send)
        else:
            await self._refuse(send, refusal, route, exchange)

    async def _let_pass(self, observed: Observed, scope: Scope, receive: Receive, send: Send) -> None:
        """Monitor mode: it reaches the app, and leaves without a tag, for nothing was decided that one could seal."""
        try:
            await self.app(scope, receive, send)
        finally:
            self.guard.telemetry.ended(observed, unsealed="monitor")

    async def _serve(self, scope: Scope, receive: Receive, send: Send, caller: Caller, exchange: Exchange, body: bytes) -> None:
        scope.setdefault("state", {})[STATE_KEY] = self.guard.admission(caller, exchange)
        _shut_side_doors(scope)
        delivery = Delivery(self.guard, exchange, send, bodiless=scope["method"] == "HEAD")
        request = _Replay(body, receive)
        reason = "client_gone"  # unless we learn better: a server may also end us by cancelling
        try:
            await self.app(scope, request, delivery.send)
            if exchange.is_refused:  # the app has caught the denial, and answered nothing
                reason = await delivery.deny()
            else:
                reason = "" if delivery.ended else "client_gone" if request.disconnected else "handler_ended_early"
        except Exception as error:  # the app is the host's: whatever it raises ends this exchange, and goes on to the server
            if exchange.is_refused:
                reason = await delivery.deny()
                if not (_is_only(DeniedError, error) or isinstance(error.__cause__, DeniedError)):
                    raise  # what else went wrong is for the server to know
                return
            stop = _policy_stop_in(error)
            if stop is not None:
                reason = ""
                await delivery.fail(str(stop.what), stop.code, {"clause": stop.clause}, Completion.POLICY)
                if not _is_only(PolicyStop, error):
                    raise
                return
            left = delivery.client_gone or _is_disconnect(error)
            reason = "client_gone" if left else "" if delivery.ended else "handler_raised"
            if delivery.started and reason == "handler_raised":
                await delivery.fail("The response could not be completed", "tos_handler_error", {}, Completion.ERROR)
            raise
        finally:
            await self.guard.run(
                self.guard.close(exchange, delivery.response, status=delivery.sent_status, sealed=delivery.sealed, reason=reason)
            )

    @staticmethod
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
                raise RequestTooLargeError(f"larger than the {limit} bytes accepted", where="request body", cure="Send less.")
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def _refuse(self, send: Send, error: RequestError, route: Route | None, exchange: Exchange | None) -> None:
        head, body = self.guard.refuse(error, route.dialect if route else None, exchange)
        await send_answer(send, head.status, head.headers, body)

    async def _refuse_socket(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        error = MalformedRequestError("WebSockets are not served on guarded paths", where=path[:200])
        observed = self.guard.telemetry.observe(self.adapter)
        self.guard.telemetry.refused(observed, "websocket", monitored=self.guard.monitors)
        if self.guard.monitors:
            await self._let_pass(observed, scope, receive, send)
            return
        await receive()  # websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": "not served on guarded paths"})
            return
        head, body = self.guard.refuse(error)
        await send({"type": "websocket.http.response.start", "status": 403, "headers": head.headers})
        await send({"type": "websocket.http.response.body", "body": body})


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
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name.lower() not in _BODY_CHOICES]
    if scope.get("extensions"):
        scope["extensions"] = {
            name: value for name, value in scope["extensions"].items() if not name.startswith("http.response.") or name in WITHOUT_CONTENT
        }


def _without_body(send: Send) -> Send:
    """A send that lets the head of an answer pass and nothing else: nobody has asked who wants it."""

    async def bare(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in _FRAMING]
            length = [] if message["status"] == 204 else [(b"content-length", b"0")]
            await send({"type": "http.response.start", "status": message["status"], "headers": [*kept, *length]})
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return bare


_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"content-encoding", b"content-type"})


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and any(name.lower() == b"access-control-request-method" for name, _ in scope["headers"])


def _is_disconnect(error: BaseException) -> bool:
    """Whether an app's exception is Starlette's word for a client that left, which it makes of the ``OSError`` of the server's send."""
    return type(error).__name__ == "ClientDisconnect"


def _is_only(kind: type[Exception], error: Exception) -> bool:
    """Whether an exception is of this kind, or a group of nothing else, as task groups of frameworks make them."""
    return isinstance(error, kind) or (isinstance(error, ExceptionGroup) and error.split(kind)[1] is None)


def _policy_stop_in(error: BaseException) -> PolicyStop | None:
    """A policy stop, maybe inside an exception group."""
    if isinstance(error, PolicyStop):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if (found := _policy_stop_in(inner)) is not None:
                return found
    return None
