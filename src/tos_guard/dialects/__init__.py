"""What a request and a response mean: one small module for each dialect.

A dialect says what a request asks for, where the content of a response is (its projection), which shape an error has, and how a
stream carries its tag. The wire is docs/spec/projection.md and docs/spec/carriers.md.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from tos_guard.dialects._body import (
    MAX_BODY_BYTES,
    MAX_BODY_DEPTH,
    TAG_MEMBER,
    RequestFacts,
    parse_response_json,
    read_usage,
    splice_tag,
    without_tag,
)
from tos_guard.dialects._chat import CHAT_PROJECTION, ChatDialect, ChatProjection
from tos_guard.dialects._grpc import (
    GRPC_PROJECTION,
    NONCE_METADATA,
    REQUEST_ID_METADATA,
    SALT_METADATA,
    TOKEN_METADATA,
    USAGE_METADATA,
    GrpcProjection,
)
from tos_guard.dialects._plain import PlainDialect
from tos_guard.dialects._projection import BytesProjection, JSONProjection, Projection, projection_named
from tos_guard.dialects._sealing import ChatSealing, Step
from tos_guard.dialects._sse import DONE, EventStream, ServerSentEvent
from tos_guard.limits import LimitState

__all__ = [
    "CHAT_PROJECTION",
    "DONE",
    "GRPC_PROJECTION",
    "MAX_BODY_BYTES",
    "MAX_BODY_DEPTH",
    "NONCE_METADATA",
    "PROJECTIONS",
    "REQUEST_ID_METADATA",
    "SALT_METADATA",
    "TAG_MEMBER",
    "TOKEN_METADATA",
    "USAGE_METADATA",
    "BytesProjection",
    "ChatDialect",
    "ChatProjection",
    "ChatSealing",
    "Dialect",
    "EventStream",
    "GrpcProjection",
    "JSONProjection",
    "PlainDialect",
    "Projection",
    "RequestFacts",
    "ServerSentEvent",
    "Step",
    "parse_response_json",
    "projection_named",
    "read_usage",
    "splice_tag",
    "without_tag",
]

PROJECTIONS: tuple[type[Projection], ...] = (ChatProjection, JSONProjection, GrpcProjection, BytesProjection)
"""Every projection this version reads."""


class Dialect(Protocol):
    """What the guard needs to know of a wire format. Pure: bytes and values in, bytes and values out.

    Attributes:
        name: Short name for configuration and telemetry.
        projection: How content is found in a whole JSON body.
    """

    name: str
    projection: type[Projection]

    def read_request(self, body: bytes) -> RequestFacts:
        """What the request asks for. Raises `MalformedRequestError`."""
        ...

    def refusal_body(self, *, message: str, code: str, kind: str, extra: dict[str, Any]) -> bytes:
        """A refusal as JSON bytes in the dialect's own error shape."""
        ...

    def limit_fields(self, states: Sequence[LimitState]) -> list[tuple[bytes, bytes]]:
        """Header fields in which clients of this dialect look for the state of their limits, beside the standard ones."""
        ...

    def error_event(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The in-band error that ends a stream, as one event."""
        ...
