"""What each worker runs: the guarded provider of `provider_fastapi`, which says beside each answer which worker gave it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from provider_fastapi.guarded import guarded

__all__ = ["numbered"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


def numbered() -> Callable[[_Message, _Receive, _Send], Awaitable[None]]:
    """The guarded provider, with the number of its process as ``x-worker``."""
    app, number = guarded(), str(os.getpid()).encode()

    async def serve(scope: _Message, receive: _Receive, send: _Send) -> None:
        async def say(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"x-worker", number)]}
            await send(message)

        await app(scope, receive, say)

    return serve
