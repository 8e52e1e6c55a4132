"""OpenAI chat completions: what a request asks for, where content is, and how a stream carries its tag.

Implements projection ``chat-1`` (docs/spec/projection.md P1–P4) and the OpenAI chat carriers (docs/spec/carriers.md). The same
`ChatProjection` reads a response when it is sealed and when it is verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tos_guard.dialects._body import (
    RequestFacts,
    check_counts,
    count_media,
    parse_request_object,
    read_usage,
    request_choices,
    request_end_user,
    request_model,
    request_output_maximum,
)
from tos_guard.dialects._dialect import NO_HEAD, RequestHead
from tos_guard.dialects._openai import EVENT_STREAM, OpenAIDialect, stored_id
from tos_guard.dialects._projection import Projection
from tos_guard.dialects._streams import Role, StreamFormat
from tos_guard.errors import MalformedError
from tos_guard.limits import Usage
from tos_guard.provenance import canonical_part

__all__ = ["CHAT_PROJECTION", "ChatDialect", "ChatFormat", "ChatProjection", "choice_index"]

CHAT_PROJECTION: Final = "chat-1"
MAX_CHOICE: Final = 65_535
MAX_TOOL_CALLS: Final = 256

_TEXTS: Final = {"content": "text", "refusal": "refusal", "reasoning": "reasoning", "reasoning_content": "reasoning_content"}
_MESSAGE_MEMBERS: Final = frozenset({*_TEXTS, "tool_calls", "function_call"})
# Kind of a tool call → member → end of the part's name. A custom tool's name is a part of its own, so that half of a sealed name cannot be
# moved from a function into a custom tool beside it.
_CALL_PARTS: Final = {"function": {"name": "name", "arguments": "arguments"}, "custom": {"name": "custom_name", "input": "input"}}


class ChatProjection(Projection):
    """Collects the parts of a chat completion from its body or from the events of its stream."""

    name = CHAT_PROJECTION

    def __init__(self) -> None:
        super().__init__()

    def add_body(self, body: Any) -> None:
        """Take a whole response body.

        Raises:
            MalformedError: It has no choices, or they are not what P1 says.
        """
        if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
            raise MalformedError("has no array of choices", where="chat completion")
        seen: set[int] = set()
        for choice in body["choices"]:
            index = choice_index(choice)
            if index in seen:
                raise MalformedError(f"two choices have the index {index}", where="chat completion")
            seen.add(index)
            self._add_message(index, choice, "message", streamed=False)

    def add_event(self, event: dict[str, Any]) -> bool:
        """Take one event of a stream. Returns whether it bears content.

        Raises:
            MalformedError: Its choices are not what P1 says.
        """
        choices = event.get("choices")
        if choices is None:
            return False
        if not isinstance(choices, list):
            raise MalformedError("choices is not an array", where="chat completion chunk")
        bears = False
        for choice in choices:
            if self._add_message(choice_index(choice), choice, "delta", streamed=True):
                bears = True
        return bears

    def note_body(self, body: Any) -> None:
        """Remember which members of a body, already added, are not covered."""
        self._note_uncovered(body, "message")

    def note_event(self, event: dict[str, Any]) -> None:
        """Remember which members of an event, already added, are not covered."""
        self._note_uncovered(event, "delta")

    def _add_message(self, index: int, choice: dict[str, Any], member: str, *, streamed: bool) -> bool:
        message = choice.get(member)
        if message is None:
            return False
        if not isinstance(message, dict):
            raise MalformedError(f"{member} is not an object", where="chat completion")
        bears = False
        for name, value in message.items():
            if value is None or value == "":
                continue
            if (part := _TEXTS.get(name)) is not None:
                if isinstance(value, str):
                    self.parts.add(index, part, value, text=True)
                else:
                    self.parts.cannot_cover(index, part)
                bears = True
            elif name == "tool_calls":
                bears |= self._add_tool_calls(index, value, streamed=streamed)
            elif name == "function_call":
                bears |= self._add_call(index, "function_call", value, _CALL_PARTS["function"])
        return bears

    def _add_tool_calls(self, index: int, calls: Any, *, streamed: bool) -> bool:
        if not isinstance(calls, list) or len(calls) > MAX_TOOL_CALLS:
            raise MalformedError(f"tool_calls is not an array of at most {MAX_TOOL_CALLS}", where="chat completion")
        bears = False
        for position, call in enumerate(calls):
            if call is None:
                continue
            if not isinstance(call, dict):
                raise MalformedError("a tool call is not an object", where="chat completion")
            number = call.get("index") if streamed else position
            if type(number) is not int or not 0 <= number < MAX_TOOL_CALLS:
                raise MalformedError("a tool call has no index", where="chat completion chunk")
            prefix = f"tool_calls.{number}"
            for kind, parts in _CALL_PARTS.items():
                bears |= self._add_call(index, prefix, call.get(kind), parts)
        return bears

    def _add_call(self, index: int, prefix: str, call: Any, parts: Mapping[str, str]) -> bool:
        if call is None:
            return False
        if not isinstance(call, dict):
            raise MalformedError(f"{prefix} is not an object", where="chat completion")
        bears = False
        for member, ending in parts.items():
            value = call.get(member)
            if value is None or value == "":
                continue
            bears = True
            part = f"{prefix}.{ending}"
            if isinstance(value, str):
                self.parts.add(index, part, value, text=False)
            elif isinstance(value, dict) and member != "name" and (data := canonical_part(value)) is not None:
                self.parts.add(index, part, data, text=False)
            else:
                self.parts.cannot_cover(index, part)
        return bears

    def _note_uncovered(self, body: dict[str, Any], member: str) -> None:
        self.note(body.keys() - {"choices", "ai_provenance"})
        for choice in body.get("choices") or ():
            self.note(f"choices[].{name}" for name in choice.keys() - {"index", member})
            message = choice.get(member) or {}
            self.note(f"choices[].{member}.{name}" for name in message.keys() - _MESSAGE_MEMBERS)
            for call in filter(None, message.get("tool_calls") or ()):
                path = f"choices[].{member}.tool_calls[]"
                self.note(f"{path}.{name}" for name in call.keys() - {"function", "custom", "index"})
                for kind, members in _CALL_PARTS.items():
                    self.note(f"{path}.{kind}.{name}" for name in (call.get(kind) or {}).keys() - set(members))
            path = f"choices[].{member}.function_call"
            self.note(f"{path}.{name}" for name in (message.get("function_call") or {}).keys() - {"name", "arguments"})


def choice_index(choice: Any) -> int:
    """The index of an entry of ``choices`` (P1).

    Raises:
        MalformedError: It is no object, or has none.
    """
    if not isinstance(choice, dict):
        raise MalformedError("a choice is not an object", where="completion")
    index = choice.get("index")
    if type(index) is not int or not 0 <= index <= MAX_CHOICE:
        raise MalformedError("a choice has no index", where="completion")
    return index


class ChatFormat:
    """Streams of chat completions: the newest chunk with a ``finish_reason`` carries the tag, or the error event that ends the stream."""

    projection: type[Projection] = ChatProjection
    nested: tuple[str, ...] = ()
    closes_with_done: bool = True

    def role(self, event: dict[str, Any]) -> Role:
        """What a chunk does in its stream."""
        if event.get("error") is not None or event.get("type") in ("error", "response.failed"):
            return Role.FAILS
        choices = event.get("choices")
        if choices:
            for choice in choices:
                if choice.get("finish_reason") is not None:
                    return Role.HOLDS
            return Role.PASSES
        return Role.ENDS if choices is not None and event.get("usage") is not None else Role.PASSES

    def place(self, event: dict[str, Any]) -> str | None:
        """The chunk itself."""
        del event
        return None

    def usage(self, event: dict[str, Any], known: Usage | None) -> Usage | None:
        """As the newest chunk that says it."""
        return known if event.get("usage") is None else read_usage(event) or known


class ChatDialect(OpenAIDialect):
    """OpenAI chat completions over HTTP."""

    name = "openai-chat"
    projection: type[Projection] = ChatProjection

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What the request asks for. One that is about a stored completion names no model, and says which completion it is.

        Raises:
            MalformedRequestError: Not a JSON object with a model, or a count in it is no whole number.
        """
        stored, _ = stored_id(head.path, "completions")
        if stored is not None:
            return RequestFacts(action=self.action, model="", retrieves=stored)
        request = parse_request_object(body)
        check_counts(request)
        maximum, is_open_ended = request_output_maximum(request)
        return RequestFacts(
            action=self.action,
            model=request_model(request),
            stream=request.get("stream") is True,
            choices=request_choices(request),
            max_output_tokens=maximum,
            is_open_ended=is_open_ended,
            media_parts=count_media(request.get("messages")),
            end_user=request_end_user(request),
            stores=request.get("store") is True,
        )

    def stream_format(self, media_type: bytes) -> StreamFormat | None:
        """That of chat streams, for server-sent events."""
        return _FORMAT if media_type == EVENT_STREAM else None


_FORMAT: Final = ChatFormat()
