"""A guarded WSGI app in memory, called as a server calls it, with `wsgiref.validate` on both sides of the guard."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from wsgiref.validate import validator

from kit import CHAT, REQUEST, Answer, Kit
from tos_guard.guard import Guard
from tos_guard.web.wsgi import TosGuardMiddleware

__all__ = ["WSGIKit", "call", "environ_of", "gives", "streams"]

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class WSGIKit(Kit):
    """As `Kit`, with a synchronous guard over the same parts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sync = Guard(self.guard.settings, **self.parts)

    def wsgi(self, app: App, **given: Any) -> App:
        """The app behind the guard, each side held to PEP 3333."""
        return validator(TosGuardMiddleware(validator(app), guard=self.sync, **given))


def environ_of(path: str = CHAT, *, key: str | None = None, method: str = "POST", body: bytes = REQUEST, **more: Any) -> dict[str, Any]:
    """What a server gives an app; *more* replaces what is there, and None takes it out."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path.encode().decode("latin-1"),
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if key is not None:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    return {name: value for name, value in (environ | more).items() if value is not None}


def call(app: App, path: str = CHAT, *, leave_after: int | None = None, **given: Any) -> Answer:
    """Call a WSGI app as a server does.

    Args:
        app: The app.
        path: Path of the request.
        leave_after: The client leaves after so many pieces of content: the server then closes the response.
        given: As `environ_of` has it.
    """
    answer = Answer()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        del exc_info
        answer.status, answer.headers = int(status[:3]), dict(headers)
        return lambda data: answer.chunks.append(data) if data else None

    try:
        content = app(environ_of(path, **given), start_response)
        try:
            for piece in content:
                if piece:
                    answer.chunks.append(piece)
                if leave_after is not None and len(answer.chunks) >= leave_after:
                    break
            else:
                answer.ended = True
        finally:
            content.close()
    except Exception as error:
        answer.error = error
    return answer


def gives(body: bytes, *, status: str = "200 OK", media_type: str = "application/json", headers: Iterable[tuple[str, str]] = ()) -> App:
    """An app that answers with one body."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        typed = [] if status[:3] in ("204", "304") else [("Content-Type", media_type), ("Content-Length", str(len(body)))]
        start_response(status, [*typed, *headers])
        return [body]

    return app


def streams(*chunks: bytes | BaseException, media_type: str = "text/event-stream", closed: list[str] | None = None) -> App:
    """An app that streams chunks, or raises where an exception stands among them."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        del environ
        start_response("200 OK", [("Content-Type", media_type)])
        return _Chunks(chunks, closed)

    return app


class _Chunks:
    def __init__(self, chunks: tuple[bytes | BaseException, ...], closed: list[str] | None) -> None:
        self._chunks = iter(chunks)
        self._closed = closed

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    def close(self) -> None:
        if self._closed is not None:
            self._closed.append("closed")
