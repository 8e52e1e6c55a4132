"""A guarded WSGI app whose stream does not begin before the client, who has only its head, asks on another connection for it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from tos_guard.web.wsgi import TosGuardMiddleware
from wsgi_kit import WSGIKit

__all__ = ["application", "make"]

EVENTS = (
    b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Hello."},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)


def make(kit: WSGIKit) -> TosGuardMiddleware:
    """The app, behind the kit's guard."""
    asked_on = threading.Event()

    def content() -> Iterator[bytes]:
        if not asked_on.wait(20):
            raise TimeoutError("the client has not got the head")
        yield from EVENTS

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/healthz":
            asked_on.set()
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
            return [b"ok"]
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return content()

    return TosGuardMiddleware(app, guard=kit.sync)


def application() -> TosGuardMiddleware:
    """The same for ``gunicorn 'head_first:application()'``; every kit of the same settings has the same key."""
    return make(WSGIKit())
