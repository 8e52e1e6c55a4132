"""What a dialect says of the events of its streams, which form a stream has, and what its events are called (carriers.md C13, C16)."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, Protocol

from tos_guard.dialects._projection import Projection
from tos_guard.limits import Usage

__all__ = ["EVENT_STREAM", "Role", "StreamFormat", "is_named_right", "told_form"]

EVENT_STREAM: Final = b"text/event-stream"

_WITHOUT_FORM: Final = frozenset({"ping", "error"})
"""Types of events that occur in streams of several forms."""

_UNNAMED: Final = (b"", b"message")  # by the standard, an event without a name is called ``message``


class Role(Enum):
    """What an event does in its stream."""

    PASSES = "passes"
    """It leaves at once."""
    OPENS = "opens"
    """It leaves at once, with the pending tag in it."""
    HOLDS = "holds"
    """It may carry the final tag: the newest such event waits until it is known that nothing more follows."""
    ENDS = "ends"
    """No content follows it: an event that waits is sealed before it."""
    TERMINAL = "terminal"
    """It ends the content and carries the final tag."""
    ERRS = "errs"
    """It says that the response failed, and may carry the final tag: it waits as one that holds does."""
    FAILS = "fails"
    """It is terminal, and says that the response failed."""


class StreamFormat(Protocol):
    """How the streams of a dialect carry their tag. Pure, and shared by all streams: what a stream knows is kept by its machine.

    Attributes:
        projection: How content is found in events.
        nested: Members of events, objects, in which a tag may travel beside the top level.
        closes_with_done: Whether a whole stream ends with an event whose data is ``[DONE]`` (C8).
    """

    projection: type[Projection]
    nested: tuple[str, ...]
    closes_with_done: bool

    def role(self, event: dict[str, Any]) -> Role:
        """What an event, which the projection has taken, does in its stream."""
        ...

    def place(self, event: dict[str, Any]) -> str | None:
        """The member, one of `nested`, in which an event that opens, is terminal or fails carries its tag; None for the event itself."""
        ...

    def usage(self, event: dict[str, Any], known: Usage | None) -> Usage | None:
        """The tokens used, from an event and from what is known so far."""
        ...


def told_form(event: dict[str, Any]) -> str | None:
    """The projection of the stream whose first telling event this is, or None where it tells nothing (C13)."""
    kind = event.get("type")
    if isinstance(kind, str) and kind not in _WITHOUT_FORM:
        if kind.startswith("response."):
            return "responses-1"
        if kind == "message_start":
            return "messages-1"
        return "chat-1"
    choices = event.get("choices")
    if choices is None or choices == []:
        return None
    if event.get("object") == "text_completion":
        return "completions-1"
    if isinstance(choices, list) and any(isinstance(choice, dict) and "text" in choice for choice in choices):
        return "completions-1"
    return "chat-1"


def is_named_right(form: str, event: dict[str, Any], name: bytes) -> bool:
    """Whether clients of a stream of this form take an event for what its data says, by the *name* in its ``event`` field (C16)."""
    if form == "messages-1":
        return _is_type(event, name)
    if form == "responses-1":
        return not name or _is_type(event, name)
    return name in _UNNAMED or (name == b"error" and event.get("error") is not None)


def _is_type(event: dict[str, Any], name: bytes) -> bool:
    kind = event.get("type")
    return isinstance(kind, str) and kind == name.decode("utf-8", "replace")
