"""The guard as WSGI middleware (PEP 3333), with the standard library alone.

The rules are those of `tos_guard.web.asgi`, by the same code: `tos_guard.web._door` decides what becomes of a request, and
`tos_guard.web._delivery` how a response leaves. What is of WSGI alone (facts about servers behind each are in docs/guides/wsgi.md):

- The response is sealed while the server iterates it. There is no request context then, so nothing is looked up there.
- A body whose head waits for its seal gives the server nothing before it is whole; every other gives it at least an empty string for each
  chunk of the app, and the head of a stream leaves with the first of them.
- However the server lets go of the response, ``close`` closes the app's iterable and ends the exchange, once.
- What the app raises once its stream has ended in-band is raised again in ``close``: the server knows of it, and the client has it whole.
- The server's own way of sending files (``wsgi.file_wrapper``) and its sockets are not offered to the app: they lead past the seal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from io import BytesIO
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from wsgiref.util import FileWrapper

from tos_guard.errors import MalformedRequestError
from tos_guard.exchange import Exchange, Head
from tos_guard.guard import Connection, Guard, der_of
from tos_guard.web._delivery import OUT, Delivering, Delivery, SendHead, next_out
from tos_guard.web._door import (
    BODY_CHOICES,
    Admitted,
    Answered,
    Asked,
    Documents,
    Door,
    LengthRequiredError,
    LetPass,
    Preflight,
    bare_head,
    too_large,
)
from tos_guard.web._routes import OwnRoutes

if TYPE_CHECKING:
    from types import TracebackType
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

__all__ = ["ADMISSION_KEY", "TosGuardMiddleware"]

ADMISSION_KEY: Final = "tos_guard.admission"
"""Where the handler finds its `Admission`: ``environ["tos_guard.admission"]``."""

ISSUERS_KEY: Final = "tos_guard.issuers"
"""Issuers that already guard this request, so that two stacked guards of one issuer seal once."""

_SIDE_DOORS: Final = (
    *(f"HTTP_{name.decode('ascii').upper().replace('-', '_')}" for name in BODY_CHOICES),
    "gunicorn.socket",
    "werkzeug.socket",
    "wsgi.websocket",
)
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_READ_BYTES: Final = 65_536  # of the request's body at a time: what it says of its length is not believed before it has come
_MAX_DRAINED_BYTES: Final = 32 * 1024 * 1024  # twice the largest body that settings can allow
_MAX_DRAIN_SECONDS: Final = 5.0  # a proxy that has the body already sends it in less
_DRAIN_BYTES: Final = 4_096  # at a time: a server may wait until it has them all, and the time is looked at only in between
_MAX_LENGTH_DIGITS: Final = 18  # more than any limit has; Python itself refuses to read thousands


class TosGuardMiddleware:
    """Guards a WSGI app.

    Args:
        app: The app.
        guard: The guard.
        documents: The well-known documents, or None to leave these paths to the app.
        routes: Routes of our own that are served before the app (`tos_guard.web.own_routes`).
        adapter: What the guard came in by, as telemetry names it.
        exempt: Names of paths that are the app's own business, beside those of the settings.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        guard: Guard,
        documents: Documents | None = None,
        routes: Sequence[OwnRoutes[Any]] = (),
        adapter: str = "wsgi",
        exempt: Sequence[str] = (),
    ) -> None:
        self.app: WSGIApplication = app
        self.guard: Guard = guard
        self._door = Door(guard, documents=documents, routes=routes, adapter=adapter, exempt=exempt)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        path = _decoded(environ.get("PATH_INFO", ""))
        issuers = environ.get(ISSUERS_KEY, ())
        if self._door.passes(path, issuers):
            return self.app(environ, start_response)
        environ[ISSUERS_KEY] = (*issuers, self.guard.settings.issuer)
        incoming = _Incoming(environ)
        asked = Asked(
            method=environ["REQUEST_METHOD"].upper(),
            path=path,
            headers=_headers(environ),
            host=environ,
            read=incoming.read_body,
            query=environ.get("QUERY_STRING", "").encode("latin-1"),
            root=_decoded(environ.get("SCRIPT_NAME", "")),
            raw_path=_raw_path(environ),
            connection=Connection(environ.get("REMOTE_ADDR", ""), partial(_certificate, environ)),
        )
        match self.guard.run(self._door.decide(asked)):
            case Admitted() as admitted:
                environ[ADMISSION_KEY] = self.guard.admission(admitted.caller, admitted.exchange)
                _shut_side_doors(environ)
                _replay(environ, admitted.body)
                return _Answering(
                    self.guard, admitted.exchange, partial(self.app, environ), start_response, bodiless=asked.method == "HEAD"
                )
            case Answered() as answer:
                return _Refusing(_answer(start_response, answer), incoming)
            case LetPass(observed, body):
                if body is not None:
                    _replay(environ, body)
                ended = partial(self.guard.telemetry.ended, observed, unsealed="monitor")
                return _Watched(partial(self.app, environ, start_response), ended)
            case Preflight():
                _shut_side_doors(environ)
                _replay(environ, b"")
                return self._answer_preflight(environ, start_response)
            case _:  # the client left: whatever the server makes of this, nobody reads it
                return _answer(start_response, Answered(400, [(b"content-type", b"text/plain"), (b"content-length", b"0")], b""))

    def _answer_preflight(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Let the head of the app's answer pass, and nothing else."""
        begun: list[tuple[str, list[tuple[str, str]]]] = []

        def begin(status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Callable[[bytes], object]:
            del exc_info  # nothing has been sent
            begun[:] = [(status, headers)]
            return len  # whatever is written goes nowhere

        content = self.app(environ, begin)
        try:
            for _ in content:
                if begun:
                    break
        finally:
            _close(content)
        if not begun:
            raise RuntimeError("the app did not call start_response")
        status, headers = begun[0]
        start_response(status, _text(bare_head(int(status[:3]), _bytes(headers))))
        return ()


class _Answering:
    """The app's answer, delivered while the server iterates it."""

    def __init__(
        self,
        guard: Guard,
        exchange: Exchange,
        app: Callable[[StartResponse], Iterable[bytes]],
        start_response: StartResponse,
        *,
        bodiless: bool,
    ) -> None:
        self._guard = guard
        self._delivery = Delivery(guard, exchange, bodiless=bodiless)
        self._bodiless = bodiless
        self._app = app
        self._start_response = start_response
        self._write: Callable[[bytes], object] | None = None
        self._head: Head | None = None
        self._status = ""
        self._is_begun = False
        self._content: Iterable[bytes] = ()
        self._raised: Exception | None = None
        self._pieces = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """The server is done with the response, whether or not it is whole.

        Raises:
            Exception: What the app raised when its stream was under way, or now raises in its own ``close``.
        """
        try:
            self._pieces.close()
        finally:
            content, self._content = self._content, ()
            try:
                _close(content)
            finally:
                self._guard.run(self._delivery.close())
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised

    def _run(self) -> Generator[bytes, None, None]:
        """Run the app and deliver its answer, piece by piece."""
        delivery = self._delivery
        try:
            self._content = self._app(self._begin)
            yield from self._deliver_head()
            for chunk in self._content:
                yield from self._deliver_head()
                if not self._is_begun:
                    raise RuntimeError("the app gave content before it called start_response")
                gave = False
                for piece in self._deliver(delivery.feed(chunk)):
                    gave = True
                    yield piece
                if delivery.ended or (self._bodiless and delivery.started):
                    break  # nothing more can leave, however long the app would go on
                if delivery.started and not gave:
                    yield b""
            yield from self._deliver_head()
            if not self._is_begun and not delivery.ended:
                raise RuntimeError("the app did not call start_response")
            yield from self._deliver(delivery.finish())
            yield from self._deliver(delivery.returned())
        except Exception as error:  # the app is the host's: whatever it raises ends this exchange, and goes on to the server
            yield from self._deliver(delivery.raised(error))
            if delivery.explains(error):
                return
            if not delivery.ended:
                raise
            self._raised = error

    def _begin(self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /) -> Callable[[bytes], object]:
        """The app's ``start_response``: what it says holds until the delivery begins, and with *exc_info* until something is sent."""
        if exc_info is not None and self._delivery.started and exc_info[1] is not None:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # as PEP 3333 asks, for the sake of what its frames hold
        if exc_info is None and self._head is not None:
            raise AssertionError("start_response was called twice, and not for an error")
        self._head, self._status, self._is_begun = Head(int(status[:3]), _bytes(headers)), status, False
        return self._write_through

    def _write_through(self, data: bytes) -> None:
        """The app's ``write``, for those that were written before there were iterables: it sends at once."""
        for piece in chain(self._deliver_head(), self._deliver(self._delivery.feed(data))):
            if self._write is not None:
                try:
                    self._write(piece)
                except OSError:
                    self._delivery.client_gone = True
                    raise

    def _deliver_head(self) -> Iterator[bytes]:
        if self._head is not None and not self._is_begun:
            self._is_begun = True
            yield from self._deliver(self._delivery.start(self._head))
            if self._delivery.started:
                yield b""  # with which servers send the head

    def _deliver(self, delivering: Delivering[None]) -> Iterator[bytes]:
        """Serve what a step of the delivery needs, and give the server what it makes."""
        for item in delivering:
            out = item if isinstance(item, OUT) else self._guard.run(next_out(item, delivering))
            if out is None:
                return
            if isinstance(out, SendHead):
                as_app_said = self._head is not None and out.status == self._head.status
                line = self._status if as_app_said else _status_line(out.status)
                self._write = self._start_response(line, _text(out.headers))
            elif out.data:
                yield out.data


class _Watched:
    """What an app gives as it is, with a word when it has ended."""

    def __init__(self, app: Callable[[], Iterable[bytes]], ended: Callable[[], None]) -> None:
        self._ended: Callable[[], None] | None = ended
        try:
            self._content = app()
        except BaseException:  # whatever ends the app, a server's own leaving too: the exchange is over, and the server hears of it
            ended()
            raise

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._content)

    def close(self) -> None:
        """The server is done with it."""
        try:
            _close(self._content)
        finally:
            ended, self._ended = self._ended, None
            if ended is not None:
                ended()


def _answer(start_response: StartResponse, answer: Answered) -> list[bytes]:
    """Give a whole response of our own."""
    start_response(_status_line(answer.status), _text(answer.headers))
    return [answer.body] if answer.body else []


def _status_line(status: int) -> str:
    return f"{status} {_PHRASES.get(status, 'Unknown')}"


def _close(content: Iterable[bytes]) -> None:
    close = getattr(content, "close", None)
    if close is not None:
        close()


def _decoded(path: str) -> str:
    """A path of the environ, whose characters are bytes, as every ASGI server decodes it."""
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def _raw_path(environ: WSGIEnvironment) -> bytes | None:
    """The undecoded path, which PEP 3333 does not ask of servers."""
    said = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    return said.partition("?")[0].encode("latin-1", "replace") if said.startswith("/") else None


def _certificate(environ: WSGIEnvironment) -> bytes | None:
    """The client certificate that the server's TLS has verified: as mod_ssl and uWSGI tell it, or from gunicorn's own socket."""
    said = environ.get("SSL_CLIENT_CERT")
    if isinstance(said, str) and said and environ.get("SSL_CLIENT_VERIFY", "SUCCESS") == "SUCCESS":
        return der_of(said)
    ask = getattr(environ.get("gunicorn.socket"), "getpeercert", None)
    return None if ask is None else ask(binary_form=True) or None


def _headers(environ: WSGIEnvironment) -> list[tuple[bytes, bytes]]:
    """The request's fields, of which servers have joined those that came twice with a comma."""
    found = {"content-" + key[8:].lower(): environ[key] for key in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(key)}
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            found.setdefault(key[5:].replace("_", "-").lower(), value)
    return [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in found.items()]


class _Refusing:
    """An answer of our own that is sent before what is left of the request has come."""

    def __init__(self, content: list[bytes], incoming: _Incoming) -> None:
        self._content = content
        self._incoming = incoming

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._content)

    def close(self) -> None:
        """The server has sent it."""
        self._incoming.drain()


class _Incoming:
    """The body of a request, as far as it was read."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ
        self._read_bytes = 0

    def read_body(self, limit: int) -> bytes | None:
        """The whole body, or None if the client left.

        Raises:
            RequestTooLargeError: It has more than *limit* bytes, or says so.
            LengthRequiredError: It comes in chunks that the server does not take apart.
            MalformedRequestError: Its length is no number, or it cannot be read.
        """
        said, terminated = self._environ.get("CONTENT_LENGTH") or "", bool(self._environ.get("wsgi.input_terminated"))
        if said and not (said.isascii() and said.isdigit()):
            raise MalformedRequestError("is not a length", where="header content-length")
        if len(said) > _MAX_LENGTH_DIGITS or (said and int(said) > limit):
            raise too_large(limit)
        if self._environ.get("HTTP_TRANSFER_ENCODING"):
            if not terminated:
                raise LengthRequiredError(
                    "comes in chunks, which this server does not read", where="request body", cure="Send Content-Length."
                )
            expected = None
        elif said or not terminated:
            expected = int(said or "0")
        else:
            expected = None
        body = self._read(limit + 1 if expected is None else expected)
        if body is None or (expected is not None and len(body) < expected):
            return None
        if len(body) > limit:
            raise too_large(limit)
        return body

    def drain(self) -> None:
        """Take what is left of a body that says its length and is not much larger than one that is accepted.

        A server that closes a connection with unread bytes resets it, and a proxy in front then never sees the refusal. Whoever asked
        whether to send the body at all has the answer, and need not send it: reading would wait for what never comes.
        """
        if not self._read_bytes and "100-continue" in self._environ.get("HTTP_EXPECT", "").lower():
            return
        said = self._environ.get("CONTENT_LENGTH") or ""
        if not (said.isascii() and said.isdigit() and len(said) <= _MAX_LENGTH_DIGITS) or int(said) > _MAX_DRAINED_BYTES:
            return
        until = monotonic() + _MAX_DRAIN_SECONDS
        with suppress(MalformedRequestError):
            while (left := int(said) - self._read_bytes) > 0 and monotonic() < until and self._read(min(left, _DRAIN_BYTES)):
                pass

    def _read(self, wanted: int) -> bytes | None:
        """At most so many bytes, or None where the connection broke."""
        chunks: list[bytes] = []
        while wanted > 0:
            try:
                chunk = self._environ["wsgi.input"].read(min(wanted, _READ_BYTES))
            except OSError:
                return None
            except Exception as error:  # servers have exceptions of their own for what a client sent in place of chunks
                raise MalformedRequestError("cannot be read", where="request body") from error
            if not chunk:
                break
            chunks.append(chunk)
            wanted -= len(chunk)
            self._read_bytes += len(chunk)
        return b"".join(chunks)


def _replay(environ: WSGIEnvironment, body: bytes) -> None:
    """Give the app the body that was read."""
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ["wsgi.input"] = BytesIO(body)
    environ["wsgi.input_terminated"] = True
    environ["CONTENT_LENGTH"] = str(len(body))


def _shut_side_doors(environ: WSGIEnvironment) -> None:
    for name in _SIDE_DOORS:
        environ.pop(name, None)
    # Replaced and not taken out, since gunicorn looks for it afterwards. This one is no server's: what it wraps passes the seal.
    environ["wsgi.file_wrapper"] = FileWrapper


def _bytes(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _text(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
