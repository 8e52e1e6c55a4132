"""What becomes of an HTTP request before the app sees it: the outline that every door follows, without I/O.

- Every path is guarded, exempt by name, our own, or refused. Nothing slips past because nobody thought of it.
- A denied request never reaches the app. Authentication comes before the body is read.
- Requests to open a WebSocket are refused: what cannot be sealed is not let through in silence.

`Door.decide` is a step of the guard: a door runs it with ``guard.run`` and does what the verdict says. How a response leaves is the
business of `tos_guard.web._delivery`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

from tos_guard.dialects import RequestFacts
from tos_guard.errors import KeyFileError, MalformedRequestError, RequestError, SignerError, StoreError, TosGuardError
from tos_guard.exchange import Exchange
from tos_guard.guard import Ask, Caller, Connection, GuardSteps, RequestView, Route, Steps, unavailable
from tos_guard.guard._admitting import MAX_FOUND_SECONDS
from tos_guard.guard._needs import ReadBody
from tos_guard.telemetry import Observed
from tos_guard.web._delivery import LARGE_BYTES
from tos_guard.web._routes import Answer, OwnRoutes, WebRequest, segments_of

__all__ = [
    "BODY_CHOICES",
    "Admitted",
    "Answered",
    "Asked",
    "Documents",
    "Door",
    "LengthRequiredError",
    "LetPass",
    "Preflight",
    "RequestTooLargeError",
    "Verdict",
    "bare_head",
    "too_large",
]

BODY_CHOICES: Final = frozenset({b"accept-encoding", b"range", b"if-range"})
"""Fields by which a client could ask for a compressed or partial body, which cannot be sealed. Compression belongs outside the guard."""

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"content-encoding", b"content-type"})
_UNKNOWN: Final = Connection()
_MAX_SAID_CHARS: Final = 200  # of a path that is refused, in the refusal


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


class LengthRequiredError(RequestError):
    """The request does not say where its body ends, in a way that its server understands."""

    code = "tos_length_required"
    status = 411


class RouteNotGuardedError(RequestError):
    """The path is neither guarded nor exempt."""

    code = "tos_route_not_guarded"
    status = 404


def too_large(limit: int) -> RequestTooLargeError:
    """What a body of more than *limit* bytes is refused with."""
    return RequestTooLargeError(f"larger than the {limit} bytes accepted", where="request body", cure="Send less.")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request at a door.

    Attributes:
        method: In upper case.
        path: Decoded path, without what the app is mounted under.
        headers: Fields in order, names in lower case.
        host: What the host has of it (the ASGI scope, the WSGI environ).
        read: Reads the whole body of at most so many bytes, or gives None where the client left; raises `RequestError`.
        query: Its query.
        root: What the app is mounted under.
        raw_path: Undecoded path with *root*, or None where the server does not tell.
        is_socket: Whether it comes as a WebSocket.
        connection: What the server knows of its connection.
    """

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    host: Any
    read: Callable[[int], bytes | Awaitable[bytes | None] | None]
    query: bytes = b""
    root: str = ""
    raw_path: bytes | None = None
    is_socket: bool = False
    connection: Connection = _UNKNOWN

    @property
    def asks_for_socket(self) -> bool:
        """Whether it would become a WebSocket, where a server leaves that to the app."""
        upgrades = (value for name, value in self.headers if name == b"upgrade")
        return any(token.strip().lower() == b"websocket" for value in upgrades for token in value.split(b","))

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks what it may ask."""
        return self.method == "OPTIONS" and any(name == b"access-control-request-method" for name, _ in self.headers)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The app answers, and its response is delivered by a `Delivery`."""

    caller: Caller
    exchange: Exchange
    body: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is ours."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class LetPass:
    """Monitor mode: it reaches the app, and leaves without a tag, for nothing was decided that one could seal.

    Attributes:
        observed: Told when it has ended, with ``unsealed="monitor"``.
        body: The body, where it has been read.
    """

    observed: Observed
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Preflight:
    """It reaches the app without a body, and the answer leaves without one: nobody has asked who wants it."""


Verdict = Admitted | Answered | LetPass | Preflight | None
"""None: the client left before it had asked."""


class Door:
    """What a middleware decides with.

    Args:
        guard: The guard.
        documents: The well-known documents, or None to leave these paths to the app.
        routes: Routes of our own that are served before the app.
        adapter: What the guard came in by, as telemetry names it.
        exempt: Names of paths that are the app's own business, beside those of the settings.

    Raises:
        ConfigurationError: An exempt name takes a guarded route.
    """

    def __init__(
        self,
        guard: GuardSteps,
        *,
        documents: Documents | None = None,
        routes: Iterable[OwnRoutes[Any]] = (),
        adapter: str,
        exempt: Sequence[str] = (),
    ) -> None:
        self.documents: Documents | None = documents
        self.routes: tuple[OwnRoutes[Any], ...] = tuple(routes)
        self._guard = guard
        self._adapter = adapter
        self._exempt = tuple(exempt)
        guard.check_exempt(self._exempt, where="exempt=")

    def passes(self, path: str, issuers: Sequence[str]) -> bool:
        """Whether a request is the app's own business: exempt by name, or guarded already by a guard of this issuer outside."""
        return self._guard.settings.issuer in issuers or self._guard.is_exempt(path, self._exempt)

    def decide(self, asked: Asked) -> Steps[Verdict]:
        """What becomes of a request that does not pass."""
        if asked.is_socket:
            return self._without_socket(asked)
        if self.documents is not None and self.documents.owns(asked.path):
            return (yield from self._publish(self.documents, asked))
        for routes in self.routes:
            if routes.owns(asked.path):
                return (yield from self._serve_own(routes, asked))
        if asked.asks_for_socket:
            return self._without_socket(asked)
        if asked.is_preflight:
            return Preflight()
        return (yield from self._admit(asked))

    def _without_socket(self, asked: Asked) -> Answered | LetPass:
        observed = self._guard.telemetry.observe(self._adapter)
        self._guard.telemetry.refused(observed, "websocket", monitored=self._guard.monitors)
        if self._guard.monitors:
            return LetPass(observed, None)
        error = MalformedRequestError("WebSockets are not served on guarded paths", where=asked.path[:_MAX_SAID_CHARS])
        head, body = self._guard.refuse(error)
        return Answered(403, head.headers, _body_for(asked, body))

    def _publish(self, documents: Documents, asked: Asked) -> Steps[Answered]:
        try:
            # Asked for, since keys and older terms are read from disk, and anyone may ask.
            status, headers, body = yield Ask(partial(documents.get, asked.method, asked.path))
        except (KeyFileError, StoreError) as error:
            self._guard.report_failure("documents", error)
            return self._refused(asked, unavailable(), None, None)
        return Answered(status, headers, _body_for(asked, body))

    def _serve_own(self, routes: OwnRoutes[Any], asked: Asked) -> Steps[Answered | None]:
        """Serve a route of our own. As everywhere, who asks is known before the body is read."""
        view = self._view(asked)
        segments = segments_of(asked.path, routes.prefix, asked.raw_path, asked.root)
        request = WebRequest(view, segments, asked.query, asked.root)
        answer: Answer
        try:
            entered = time.monotonic()
            who = yield from routes.enter(request)
            body = yield ReadBody(partial(asked.read, routes.body_limit(request)))
            if body is None:
                return None
            if time.monotonic() - entered > MAX_FOUND_SECONDS:
                who = yield from routes.still(who, request)  # a key may have been revoked while the body came
            answer = yield from routes.answer(who, replace(request, body=body))
        except RequestError as error:
            self._guard.count_refusal(error, view.observed)
            answer = routes.refuse(request, error)
        except TosGuardError as error:
            self._guard.report_failure("signer" if isinstance(error, SignerError) else "store", error)
            refusal = unavailable()
            self._guard.telemetry.refused(view.observed, refusal.code)
            answer = routes.refuse(request, refusal)
        status, headers, content = answer
        return Answered(status, headers, _body_for(asked, content))

    def _admit(self, asked: Asked) -> Steps[Verdict]:
        view = self._view(asked)
        route = self._guard.route(view.path)
        exchange: Exchange | None = None
        body: bytes | None = None
        try:
            if route is None:
                raise RouteNotGuardedError("this path is neither guarded nor exempt", where=view.path[:_MAX_SAID_CHARS])
            caller = yield from self._guard.authenticate(view)
            body = yield ReadBody(partial(asked.read, self._guard.settings.max_request_bytes))
            if body is None:
                return None
            request: RequestFacts | None = None
            if len(body) > LARGE_BYTES:
                request = yield Ask(partial(route.dialect.read_request, body, view.head))
            exchange = yield from self._guard.admit(caller, view, route, body, request=request)
            if exchange.is_refused:
                raise (yield from self._guard.keep_denial(exchange))
        except RequestError as error:
            lets_pass = exchange is None and self._guard.monitors and not isinstance(error, RequestTooLargeError)
            if exchange is None:
                self._guard.count_refusal(error, view.observed, monitored=lets_pass)
            refusal = error
        except StoreError as error:
            lets_pass, refusal = self._guard.monitors, unavailable()
            self._guard.report_failure("accounts", error)
            self._guard.telemetry.refused(view.observed, refusal.code, monitored=lets_pass)
        else:
            return Admitted(caller, exchange, body)
        return LetPass(view.observed, body) if lets_pass else self._refused(asked, refusal, route, exchange)

    def _view(self, asked: Asked) -> RequestView:
        observed = self._guard.telemetry.observe(self._adapter)
        return RequestView(asked.method, asked.path, asked.headers, asked.host, observed, asked.connection)

    def _refused(self, asked: Asked, error: RequestError, route: Route | None, exchange: Exchange | None) -> Answered:
        head, body = self._guard.refuse(error, route.dialect if route else None, exchange)
        return Answered(head.status, head.headers, _body_for(asked, body))


def bare_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The fields of an answer to a preflight, which leaves without a body."""
    kept = [(name, value) for name, value in headers if name.lower() not in _FRAMING]
    return kept if status == 204 else [*kept, (b"content-length", b"0")]


def _body_for(asked: Asked, body: bytes) -> bytes:
    return b"" if asked.method == "HEAD" else body
