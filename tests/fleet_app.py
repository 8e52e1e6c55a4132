"""A guarded application as a server runs it in several workers; each answer says which worker gave it (``x-worker``).

Served by name: ``uvicorn fleet_app:app``, with ``TOS_GUARD_CONFIG``.
"""

from __future__ import annotations

import os
from typing import Any

from tos_guard.web.environment import Middleware

BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],"usage":{"total_tokens":2}}'


async def handler(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{kind}.complete"})
            if kind == "shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": BODY})


class Named:
    """Says which worker answered, whoever did."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def named(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-worker", str(os.getpid()).encode())]
            await send(message)

        await self.inner(scope, receive, named if scope["type"] == "http" else send)


def app() -> Named:
    """Made when a worker starts."""
    return Named(Middleware(handler))
