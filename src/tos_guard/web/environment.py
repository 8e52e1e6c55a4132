"""The guard for servers that load a middleware by its name and give it nothing but the app, as vLLM's ``--middleware`` does.

    TOS_GUARD_CONFIG=tos-guard.toml vllm serve … --middleware tos_guard.web.environment.Middleware

Settings come from the file that ``TOS_GUARD_CONFIG`` names. Well-known documents and the routes of the settings are served before the
app. When the app shuts down, records that are still to be written are waited for.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from tos_guard.errors import ConfigurationError
from tos_guard.guard import AsyncGuard
from tos_guard.stores import KeyFolder
from tos_guard.web import own_routes
from tos_guard.web.asgi import ASGIApp, Message, Receive, Scope, Send, TosGuardMiddleware
from tos_guard.web.wellknown import WellKnown

__all__ = ["CONFIG_VARIABLE", "Middleware"]

CONFIG_VARIABLE: Final = "TOS_GUARD_CONFIG"
"""Names the settings file."""


class Middleware(TosGuardMiddleware):
    """`TosGuardMiddleware` that finds its guard by itself.

    Args:
        app: The app.

    Raises:
        ConfigurationError: ``TOS_GUARD_CONFIG`` is not set, or a file, key or setting is unusable.
    """

    def __init__(self, app: ASGIApp) -> None:
        path = os.environ.get(CONFIG_VARIABLE)
        if not path:
            raise ConfigurationError(
                f"{CONFIG_VARIABLE} is not set",
                where="environment",
                cure="Set it to the path of the settings file; `tos-guard init` writes one.",
            )
        guard = AsyncGuard.from_file(path)
        keys = KeyFolder(guard.settings.keys)
        documents = WellKnown(guard.settings, lambda: guard.terms, keys, guard.clock, archive=guard.archive)
        super().__init__(app, guard=guard, documents=documents, routes=own_routes(guard))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; with the app's shutdown comes ours."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._closing(send))
            return
        await super().__call__(scope, receive, send)

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await asyncio.to_thread(self.guard.close_stores)
            await send(message)

        return closing
