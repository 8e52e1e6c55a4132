"""What OpenAI's dialects share: the shape of errors, and where clients look for the state of their limits."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tos_guard.dialects._dialect import tightest
from tos_guard.dialects._streams import EVENT_STREAM
from tos_guard.limits import LimitState, Quantity

__all__ = ["EVENT_STREAM", "OpenAIDialect", "stored_id"]


MAX_ID_CHARS: Final = 256  # of a stored response; OpenAI's have about 60


class OpenAIDialect:
    """Errors and limits as OpenAI's clients read them.

    Args:
        action: Action of the terms that a request asks for.
    """

    refusal_type: bytes = b"application/json"

    def __init__(self, *, action: str = "generate") -> None:
        self.action: str = action

    def refusal_body(self, *, message: str, code: str, kind: str, extra: dict[str, Any]) -> bytes:
        """A refusal in OpenAI's error shape; *extra* goes beside ``message``, ``type``, ``param`` and ``code``."""
        error = {"message": message, "type": kind, "param": None, "code": code, **extra}
        return json.dumps({"error": error}).encode("ascii")  # escaped: what a host says of a stop may hold lone surrogates

    def limit_fields(self, states: Sequence[LimitState], *, now: datetime) -> list[tuple[bytes, bytes]]:
        """``x-ratelimit-…-requests`` and ``…-tokens``, of the limit of each kind that is used most."""
        del now  # their reset is a span
        fields: list[tuple[bytes, bytes]] = []
        for unit, quantity in (("requests", Quantity.REQUESTS), ("tokens", Quantity.TOKENS)):
            state = tightest(states, quantity)
            if state is not None:
                for what, value in (
                    ("limit", str(state.limit.amount)),
                    ("remaining", str(state.remaining)),
                    ("reset", _duration(state.reset)),
                ):
                    fields.append((f"x-ratelimit-{what}-{unit}".encode("ascii"), value.encode("ascii")))
        return fields

    def error_event(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The event that ends a stream in-band."""
        error = {"message": message, "type": "tos_guard_error", "param": None, "code": code, **extra}
        return b"data: " + json.dumps({"error": error}).encode("ascii") + b"\n\n"


def stored_id(path: str, noun: str) -> tuple[str | None, str]:
    """Which stored response a path names, ``…/noun/{id}``, and what follows below it.

    Args:
        path: Decoded path.
        noun: What such responses lie under: ``responses``, ``completions``.

    Returns:
        Its id, or None where the path names none; and the rest, without a slash before it.
    """
    _, found, below = path.rpartition(f"/{noun}/")
    name, _, rest = below.partition("/") if found else ("", "", "")
    return (name if 1 <= len(name) <= MAX_ID_CHARS and name.isprintable() else None), rest


def _duration(seconds: float) -> str:
    """A span as OpenAI writes it: ``250ms``, ``6m0s``, ``1h2m3s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"
