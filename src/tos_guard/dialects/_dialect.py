"""What the guard needs to know of a wire format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from tos_guard.dialects._body import RequestFacts
from tos_guard.dialects._projection import Projection
from tos_guard.dialects._streams import StreamFormat
from tos_guard.errors import MalformedRequestError
from tos_guard.limits import LimitState, Quantity

__all__ = ["NO_HEAD", "Dialect", "RequestHead", "tightest"]


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a dialect may know of a request beside its body.

    Attributes:
        method: In upper case.
        path: Decoded path, as the app's own routes name it.
        media_type: Of the body, in lower case and without parameters; empty where it is not said, or not plainly.
        headers: All fields in order, names in lower case.
    """

    method: str = "POST"
    path: str = ""
    media_type: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()

    def field(self, name: bytes) -> str | None:
        """The value of a field that may occur once, or None.

        Raises:
            MalformedRequestError: It occurs twice, or is not printable ASCII.
        """
        values = [value for found, value in self.headers if found == name]
        if len(values) > 1 or any(not (value.isascii() and value.decode("ascii").isprintable()) for value in values):
            raise MalformedRequestError("occurs more than once, or is not printable ASCII", where=f"header {name.decode('ascii')}")
        return values[0].decode("ascii") if values else None


NO_HEAD: Final = RequestHead()
"""Of a request of which nothing but its body is known."""


class Dialect(Protocol):
    """What the guard needs to know of a wire format. Pure: bytes and values in, bytes and values out.

    Attributes:
        name: Short name for configuration and telemetry.
        projection: How content is found in a whole JSON body.
        refusal_type: Media type of its refusals.
    """

    name: str
    projection: type[Projection]
    refusal_type: bytes

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What the request asks for. Raises `MalformedRequestError`."""
        ...

    def stream_format(self, media_type: bytes) -> StreamFormat | None:
        """How a response of this media type, other than JSON, carries its tag as it flows; None where it cannot."""
        ...

    def refusal_body(self, *, message: str, code: str, kind: str, extra: dict[str, Any]) -> bytes:
        """A refusal as JSON bytes in the dialect's own error shape."""
        ...

    def limit_fields(self, states: Sequence[LimitState], *, now: datetime) -> list[tuple[bytes, bytes]]:
        """Header fields in which clients of this dialect look for the state of their limits, as of *now*, beside the standard ones."""
        ...

    def error_event(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The in-band error that ends a stream, as one event."""
        ...


def tightest(states: Sequence[LimitState], quantity: Quantity) -> LimitState | None:
    """The limit of a quantity that is used most, of those that refuse; None where there is none."""
    of_quantity = [state for state in states if state.limit.quantity is quantity and not state.limit.shadow]
    return min(of_quantity, key=lambda state: state.remaining / max(1, state.limit.amount), default=None)
