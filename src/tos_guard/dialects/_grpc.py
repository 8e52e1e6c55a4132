"""gRPC calls: what their requests ask for, what of their responses a token covers, and under which names their metadata carry it.

Implements projection ``grpc-1`` (docs/spec/projection.md) and the names of the gRPC carrier (docs/spec/carriers.md). A message is taken
as its serialised bytes: one that was parsed and serialised again may have others.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, Protocol, Self, runtime_checkable

from tos_guard._canonical import b64url_encode
from tos_guard.dialects._body import RequestFacts
from tos_guard.dialects._dialect import NO_HEAD, RequestHead
from tos_guard.dialects._plain import PlainDialect
from tos_guard.dialects._projection import Projection
from tos_guard.errors import MalformedError
from tos_guard.provenance import Content

__all__ = [
    "GRPC_PROJECTION",
    "NONCE_METADATA",
    "REQUEST_ID_METADATA",
    "SALT_METADATA",
    "TOKEN_METADATA",
    "USAGE_METADATA",
    "CallDialect",
    "CallFormat",
    "CallProjection",
    "GrpcDialect",
    "GrpcFormat",
    "GrpcProjection",
]

GRPC_PROJECTION: Final = "grpc-1"
MESSAGES_PART: Final = "messages"
LENGTH_BYTES: Final = 4  # what precedes a message, on the wire of gRPC as in the part
MAX_MESSAGE_BYTES: Final = (1 << 8 * LENGTH_BYTES) - 1  # what that length can say

TOKEN_METADATA: Final = "ai-provenance"
"""Of initial metadata: the pending token. Of trailing metadata: the final one."""
SALT_METADATA: Final = "ai-provenance-salt"
NONCE_METADATA: Final = "ai-provenance-nonce"
USAGE_METADATA: Final = "content-usage"
REQUEST_ID_METADATA: Final = "x-request-id"


class GrpcProjection(Projection):
    """``grpc-1``: the response messages in their order, each with its length. Holds one hash, however long the stream."""

    name = GRPC_PROJECTION

    def __init__(self) -> None:
        super().__init__()
        self._digest = hashlib.sha256()
        self.count: int = 0

    def add_message(self, message: bytes) -> bool:
        """Take the next response message as serialised. Returns whether it bears content, which even an empty message does.

        Raises:
            MalformedError: It is longer than a length of four bytes can say.
        """
        if len(message) > MAX_MESSAGE_BYTES:
            raise MalformedError(f"is larger than {MAX_MESSAGE_BYTES} bytes", where="message")
        self._digest.update(len(message).to_bytes(LENGTH_BYTES, "big"))
        self._digest.update(message)
        self.count += 1
        return True

    def content(self) -> Content:
        """The content so far, as a token of this moment says it. More messages may follow."""
        leaves = [(0, MESSAGES_PART, b64url_encode(self._digest.copy().digest()))] if self.count else []
        return Content.of(self.name, leaves)

    def copy(self) -> Self:
        """One that goes on from here by itself."""
        other = type(self)()
        other._digest = self._digest.copy()
        other.count = self.count
        return other


class CallProjection(Protocol):
    """A projection that takes response messages."""

    def add_message(self, message: bytes) -> bool:
        """Take the next message as serialised. Returns whether it bears content.

        Raises:
            MalformedError: The projection does not cover it.
        """
        ...

    def content(self) -> Content:
        """The content so far."""
        ...


class CallFormat(Protocol):
    """How the messages of a gRPC method say what is asked for, and how its responses carry their tag. Pure, and shared by all calls.

    Attributes:
        reads_requests: Whether requests say what they ask for. Then the first of a request stream is read before the call is decided.
        carries: Which token the response messages have room for: none, the final one of a single message, or a checkpoint in each.
    """

    reads_requests: bool
    carries: Literal["", "final", "checkpoint"]

    def projection(self) -> CallProjection:
        """A fresh projection of the response messages."""
        ...

    def tagged(self, message: bytes, token: str) -> bytes:
        """A response message with a token in it, no other byte of it moved."""
        ...

    def without_tag(self, message: bytes) -> bytes:
        """A response message without a tag that it came with."""
        ...


@runtime_checkable
class CallDialect(Protocol):
    """A dialect that gRPC methods can have."""

    def call_format(self, path: str) -> CallFormat:
        """The format of a method.

        Args:
            path: ``/package.Service/Method``.
        """
        ...


class GrpcFormat:
    """Messages of which nothing is known: they are bytes, and have no room for a tag."""

    reads_requests = False
    carries: Literal["", "final", "checkpoint"] = ""

    def projection(self) -> CallProjection:
        """Of the messages as they are."""
        return GrpcProjection()

    def tagged(self, message: bytes, token: str) -> bytes:
        """Never asked for."""
        del token
        return message

    def without_tag(self, message: bytes) -> bytes:
        """As it is."""
        return message


class GrpcDialect(PlainDialect):
    """Any gRPC method. What it asks for is known from its route; of its requests only the size counts."""

    name = "grpc"
    projection: type[Projection] = GrpcProjection

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What the route says."""
        del body, head
        return RequestFacts(action=self.action, model=self.model)

    def call_format(self, path: str) -> CallFormat:
        """The one for any messages."""
        del path
        return GrpcFormat()
