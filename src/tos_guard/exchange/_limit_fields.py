"""Header fields that tell a caller how far its limits are used.

`RateLimit-Policy` and `RateLimit` are those of draft-ietf-httpapi-ratelimit-headers: structured fields (RFC 9651), one member for each
limit. Limits in shadow refuse nothing and are not told. The limit that is used most comes first; there is room for a few, and for both
fields or none: what is left says little without of how much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from tos_guard.limits import LimitState, Quantity, Sliding

__all__ = ["FRAMING_BYTES", "fields_size", "limit_fields", "reset_seconds"]

MAX_TOLD: Final = 4  # limits in one response: account and organization, requests and tokens
MAX_INTEGER: Final = 999_999_999_999_999  # of structured fields (RFC 9651 section 3.3.1); a limit may be nine times as large
FRAMING_BYTES: Final = 4  # a colon, a space, CR and LF

_Fields = list[tuple[bytes, bytes]]


def limit_fields(states: Iterable[LimitState], *, room: int | None = None) -> _Fields:
    """The two fields, or none where there is no limit to tell.

    Args:
        states: How far the limits are used.
        room: Bytes that they may take; so many limits are told as fit. None for no such bound.
    """
    told = sorted((state for state in states if not state.limit.shadow), key=_room)[:MAX_TOLD]
    while told:
        policy = ", ".join(f'"{state.limit.id}";q={_told(state.limit.amount)}{_unit(state)}{_window(state)}' for state in told)
        now = ", ".join(f'"{state.limit.id}";r={_told(state.remaining)};t={reset_seconds(state)}' for state in told)
        fields = [(b"ratelimit-policy", policy.encode("ascii")), (b"ratelimit", now.encode("ascii"))]
        if room is None or fields_size(fields) <= room:
            return fields
        told.pop()
    return []


def fields_size(fields: Iterable[tuple[bytes, bytes]]) -> int:
    """Bytes that header fields take on the wire."""
    return sum(len(name) + len(value) + FRAMING_BYTES for name, value in fields)


def reset_seconds(state: LimitState) -> int:
    """Whole seconds until some of a limit comes back, rounded up: who asks earlier asks in vain."""
    return math.ceil(state.reset)


def _told(amount: int) -> int:
    return min(amount, MAX_INTEGER)


def _room(state: LimitState) -> float:
    return state.remaining / state.limit.amount if state.limit.amount else 0.0


def _window(state: LimitState) -> str:
    return f";w={state.limit.window.seconds}" if isinstance(state.limit.window, Sliding) else ""


def _unit(state: LimitState) -> str:
    return ';qu="concurrent-requests"' if state.limit.quantity is Quantity.CONCURRENCY else ""
