"""The smallest guarded provider, for tests that run several of it: it answers everything with one sentence, and tells what was counted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tos_guard.guard import AsyncGuard
from tos_guard.web.asgi import ASGIApp, TosGuardMiddleware

BODY = b'{"said":"Hello."}'


def guarded() -> ASGIApp:
    """The provider behind its guard; ``PROVIDER_SETTINGS`` names its settings."""
    guard = AsyncGuard.from_file(Path(os.environ["PROVIDER_SETTINGS"]))

    async def provider(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body = BODY
        if scope["path"] == "/counts":
            body = json.dumps({**guard.counts, "age": guard.telemetry.readings("hearing.age")}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    return TosGuardMiddleware(provider, guard=guard)


async def _lifespan(receive: Any, send: Any) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
