"""gRPC calls: what of their responses a token covers, and under which names their metadata carry it.

Implements projection ``grpc-1`` (docs/spec/projection.md) and the names of the gRPC carrier (docs/spec/carriers.md). A message is taken
as its serialised bytes: one that was parsed and serialised again may have others.
"""

from __future__ import annotations

import hashlib
from typing import Final, Self

from tos_guard._canonical import b64url_encode
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
