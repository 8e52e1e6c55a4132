"""The response of a gRPC call: messages, each complete in itself, and then a status (docs/spec/carriers.md).

A message is what was serialised, once: what is digested is what leaves. Where the format has room in a message, the tag goes there too.
"""

from __future__ import annotations

from typing import Protocol

from tos_guard.dialects import CallFormat
from tos_guard.exchange._exchange import Exchange
from tos_guard.limits import Usage
from tos_guard.provenance import Content
from tos_guard.types import Completion

__all__ = ["CallResponse", "Sealable"]


class Sealable(Protocol):
    """What the guard needs to know of a response to seal it and to say how it ended.

    Attributes as of `Response` and `CallResponse`.
    """

    @property
    def carrier(self) -> str:
        """Where the final token goes: a word of docs/spec/records.md."""
        ...

    @property
    def completion(self) -> Completion:
        """How the response ended."""
        ...

    @property
    def unsealed(self) -> str | None:
        """Why there is no final token, or None."""
        ...

    @property
    def removed_tags(self) -> int:
        """Tags of an upstream that were taken out."""
        ...

    @property
    def dropped_events(self) -> int:
        """What bore content after the seal, and did not leave."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The tokens that the response says it used, or None."""
        ...

    @property
    def content(self) -> Content | None:
        """What the final token covers, so far as it is known."""
        ...

    @property
    def early(self) -> bool:
        """Whether the pending token has left before the content is known."""
        ...

    @property
    def response_id(self) -> str | None:
        """The id that the response gives itself, by which it may be asked for again; None of one that we ended."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether it says that it goes on after it has left."""
        ...


class CallResponse:
    """The messages of one call on their way out.

    Args:
        exchange: The exchange that they answer.
        format: What of the messages is content, and whether they carry a tag.

    Attributes:
        count: How many there were.
        carrier: Where the final token goes: ``grpc`` for trailing metadata alone, ``grpc-message`` where a message has it too.
        completion: How the response ended.
        unsealed: Why there is no final token, or None.
        removed_tags: Tags of an upstream that were taken out of messages.
        dropped_events: Messages that came after the end, and did not leave.
        usage: None: messages do not say what they took; the handler may (`Admission.report_usage`).
        early: The pending token leaves in the initial metadata.
        response_id: None: no call can be asked for again.
        is_running: What has left has ended.
    """

    usage: Usage | None = None
    early: bool = True
    response_id: str | None = None
    is_running: bool = False

    def __init__(self, exchange: Exchange, format: CallFormat) -> None:  # noqa: A002 - the word of the dialects
        self._exchange = exchange
        self._format = format
        self._projection = format.projection()
        self.count: int = 0
        self.carrier: str = "grpc"
        self.completion: Completion = Completion.COMPLETE
        self.unsealed: str | None = None
        self.removed_tags: int = 0
        self.dropped_events: int = 0

    @property
    def content(self) -> Content:
        """What the token covers: the messages so far."""
        return self._projection.content()

    def add(self, message: bytes) -> bytes:
        """Take the next message.

        Returns:
            The message without a tag of an upstream.

        Raises:
            MalformedError: It is none of which the format could say what it means.
        """
        plain = self._format.without_tag(message)
        if plain != message:
            self.removed_tags += 1
        self._projection.add_message(plain)
        self.count += 1
        return plain

    def tagged(self, message: bytes, token: str) -> bytes:
        """The message with a token in it."""
        return self._format.tagged(message, token)
