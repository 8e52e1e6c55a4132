"""OpenAI Responses: what a request asks for, where content is, and how a stream carries its tag.

Implements projection ``responses-1`` (docs/spec/projection.md P2–P4, P10) and the OpenAI Responses carrier (docs/spec/carriers.md). A
stream says most of its content twice or more: in deltas, and in events that repeat what is whole. Deltas are covered, and what is
repeated must be the same, so that the object which a client keeps of a stream has the leaves of the stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from tos_guard.dialects._body import (
    TAG_MEMBER,
    RequestFacts,
    count_media,
    parse_request_object,
    read_usage,
    request_choices,
    request_end_user,
    request_integer,
    request_model,
    request_output_maximum,
)
from tos_guard.dialects._dialect import NO_HEAD, RequestHead
from tos_guard.dialects._openai import EVENT_STREAM, OpenAIDialect, stored_id
from tos_guard.dialects._projection import Projection
from tos_guard.dialects._streams import Role, StreamFormat
from tos_guard.errors import MalformedError, MalformedRequestError
from tos_guard.limits import Usage
from tos_guard.provenance import canonical_part
from tos_guard.types import Completion

__all__ = ["RESPONSES_PROJECTION", "ResponsesDialect", "ResponsesFormat", "ResponsesProjection"]

RESPONSES_PROJECTION: Final = "responses-1"
MAX_INDEX: Final = 65_535  # as a leaf's choice

_Part = tuple[str, Any, bool]
"""Name of a part, value as it was read, and whether it is text."""

_ENTRIES: Final = {
    "output_text": ("text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning", "text"),
    "summary_text": ("reasoning_summary", "text"),
}
"""Type of an entry of ``content`` or ``summary`` → part, member."""

_CALLS: Final = {
    "function_call": {"name": "name", "arguments": "arguments"},
    "custom_tool_call": {"custom_name": "name", "input": "input"},
}
"""Type of an item → part → member."""

_OBJECTS: Final = frozenset({"arguments", "input"})
"""Parts whose value may be an object (P3)."""

_OF_TEXTS: Final = ("message", "reasoning")
_BESIDE_ITEM: Final = frozenset({"id", "status", "encrypted_content"})  # the last is encrypted anew in each event that has it
"""Members that an item is covered without: servers give them while it is made."""

_DELTAS: Final = {
    "response.output_text.delta": ("text", "content_index", True),
    "response.refusal.delta": ("refusal", "content_index", True),
    "response.reasoning_text.delta": ("reasoning", "content_index", True),
    "response.reasoning_summary_text.delta": ("reasoning_summary", "summary_index", True),
    "response.function_call_arguments.delta": ("arguments", None, False),
    "response.custom_tool_call_input.delta": ("input", None, False),
}
"""Type of an event that adds its ``delta`` → part, member with the part's index, whether it is text."""

_DONE: Final = {
    "response.output_text.done": ("text", "content_index", "text", True),
    "response.refusal.done": ("refusal", "content_index", "refusal", True),
    "response.reasoning_text.done": ("reasoning", "content_index", "text", True),
    "response.reasoning_summary_text.done": ("reasoning_summary", "summary_index", "text", True),
    "response.function_call_arguments.done": ("arguments", None, "arguments", False),
    "response.custom_tool_call_input.done": ("input", None, "input", False),
}
"""Type of an event that repeats one part → part, member with the part's index, member with the value, whether it is text."""

_PARTS: Final = {
    "response.content_part.added": ("content_index", "content", False),
    "response.content_part.done": ("content_index", "content", True),
    "response.reasoning_summary_part.added": ("summary_index", "summary", False),
    "response.reasoning_summary_part.done": ("summary_index", "summary", True),
}
"""Type of an event with a ``part`` → member with its index, the member of an item that it is of, whether it is whole."""

_ITEMS: Final = {"response.output_item.added": False, "response.output_item.done": True}
"""Type of an event with an ``item`` → whether it is whole."""

_LIVES: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
_TERMINAL: Final = ("response.completed", "response.incomplete", "response.failed")  # a tuple: what is looked up may be anything
_COVERED: Final = frozenset({*_DELTAS, *_DONE, *_PARTS, *_ITEMS, *_LIVES, *_TERMINAL})
_ENDED: Final = {"failed": Completion.ERROR, "cancelled": Completion.ABORTED}
"""Status of a whole response that did not complete."""


class ResponsesProjection(Projection):
    """Collects the parts of a response from its body or from the events of its stream."""

    name = RESPONSES_PROJECTION

    def __init__(self) -> None:
        super().__init__()
        self._whole: dict[tuple[int, str], str | None] = {}  # parts that were repeated, with the digest of their value

    def add_body(self, body: Any) -> None:
        """Take a whole response body.

        Raises:
            MalformedError: It has no output, or that is not what P10 says.
        """
        if not isinstance(body, dict) or not isinstance(body.get("output"), list):
            raise MalformedError("has no array output", where="response")
        self._add_output(body, repeats=False)
        status = body.get("status")
        self.completion: Completion = _ENDED.get(status, Completion.COMPLETE) if isinstance(status, str) else Completion.COMPLETE

    def add_event(self, event: dict[str, Any]) -> bool:
        """Take one event of a stream. Returns whether it bears content.

        Raises:
            MalformedError: It is not what P10 says, adds to a part that is whole, or repeats one with another value.
        """
        kind = event.get("type")
        if not isinstance(kind, str):
            return False
        if (delta := _DELTAS.get(kind)) is not None:
            part, counted_by, text = delta
            return self._add(_index(event, "output_index"), _numbered(part, event, counted_by), event.get("delta"), text=text)
        if (done := _DONE.get(kind)) is not None:
            part, counted_by, member, text = done
            return self._repeat(_index(event, "output_index"), _numbered(part, event, counted_by), event.get(member), text=text)
        if kind in _COVERED:
            return self._add_object(kind, event)
        return False

    def _add_object(self, kind: str, event: dict[str, Any]) -> bool:
        if (about := _PARTS.get(kind)) is not None:
            counted_by, member, whole = about
            choice, number = _index(event, "output_index"), _index(event, counted_by)
            entry = _object(event, "part")
            found = [] if entry is None else [_entry_part(entry, member, number)]
            return self._take(choice, found, whole=whole)
        if (is_done := _ITEMS.get(kind)) is not None:
            choice = _index(event, "output_index")
            item = _object(event, "item")
            return self._take(choice, [] if item is None else _item_parts(item), whole=is_done)
        response = _object(event, "response")
        if kind in _TERMINAL and response is None:
            raise MalformedError("has no response", where="terminal event")
        return response is not None and self._add_output(response, repeats=kind in _TERMINAL)

    def _add_output(self, response: dict[str, Any], *, repeats: bool) -> bool:
        bears = False
        for number, item in enumerate(_objects(response, "output")):
            for name, value, text in _item_parts(item):
                put = self._repeat if repeats else self._add
                bears |= put(number, name, value, text=text)
        return bears

    def _take(self, choice: int, found: Any, *, whole: bool) -> bool:
        """Add the parts of what begins, without those that only what is whole can have; or repeat those of what is whole."""
        bears = False
        for name, value, text in found:
            if whole:
                bears |= self._repeat(choice, name, value, text=text)
            elif not isinstance(value, _Whole):
                bears |= self._add(choice, name, value, text=text)
        return bears

    def _add(self, choice: int, name: str, value: Any, *, text: bool) -> bool:
        if value is None or value == "":
            return False
        if (choice, name) in self._whole:
            raise MalformedError(f"adds to {name} of item {choice}, which is whole", where="event")
        self._put(choice, name, value, text=text)
        return True

    def _repeat(self, choice: int, name: str, value: Any, *, text: bool) -> bool:
        if value is None or value == "":
            return False
        alone = ResponsesProjection()
        alone._put(choice, name, value, text=text)
        digest = alone.parts.digest(choice, name)
        key = (choice, name)
        is_new = key not in self._whole and not self.parts.has(choice, name)
        if is_new:
            self._put(choice, name, value, text=text)
        elif digest != (self._whole[key] if key in self._whole else self.parts.digest(choice, name)):
            raise MalformedError(f"repeats {name} of item {choice} with another value", where="event")
        self._whole[key] = digest
        return is_new

    def _put(self, choice: int, name: str, value: Any, *, text: bool) -> None:
        if isinstance(value, _Whole):
            value = value.data
        elif isinstance(value, dict) and name in _OBJECTS:
            value = canonical_part(value)
        if isinstance(value, str | bytes):
            self.parts.add(choice, name, value, text=text)
        else:
            self.parts.cannot_cover(choice, name)

    def note_body(self, body: Any) -> None:
        """Remember which members of a body, already added, are not covered."""
        self._note_response(body, "")

    def note_event(self, event: dict[str, Any]) -> None:
        """Remember which members of an event, already added, are not covered; of an event that none is of, its type."""
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in _COVERED:
            self.note([kind[:64] if isinstance(kind, str) else "event"])
            return
        if isinstance(response := event.get("response"), dict):
            self._note_response(response, "response.")
        if isinstance(item := event.get("item"), dict):
            self._note_item(item, "item")
        if isinstance(entry := event.get("part"), dict):
            self._note_entry(entry, "part")

    def _note_response(self, response: dict[str, Any], path: str) -> None:
        self.note(path + name for name in response.keys() - {"output", TAG_MEMBER})
        for item in response.get("output") or ():
            self._note_item(item, f"{path}output[]")

    def _note_item(self, item: dict[str, Any], path: str) -> None:
        kind = item.get("type")
        if kind in _OF_TEXTS:
            covered = {"type", "content", *(("summary",) if kind == "reasoning" else ())}
        elif (call := _CALLS.get(kind) if isinstance(kind, str) else None) is not None:
            covered = {"type", *call.values()}
        else:
            self.note(f"{path}.{name}" for name in item.keys() & _BESIDE_ITEM)
            return
        self.note(f"{path}.{name}" for name in item.keys() - covered)
        for member in ("content", "summary"):
            for entry in (item.get(member) or ()) if member in covered else ():
                self._note_entry(entry, f"{path}.{member}[]")

    def _note_entry(self, entry: dict[str, Any], path: str) -> None:
        known = _entry_form(entry)
        if known is not None:
            self.note(f"{path}.{name}" for name in entry.keys() - {"type", known[1]})


class _Whole:
    """A value that only something whole has: RFC 8785 bytes of an object, or None where it has none."""

    __slots__ = ("data",)

    def __init__(self, value: dict[str, Any]) -> None:
        self.data = canonical_part(value)


def _item_parts(item: dict[str, Any]) -> Iterator[_Part]:
    """The parts of an item of ``output``.

    Raises:
        MalformedError: Its content or summary is not what P10 says.
    """
    kind = item.get("type")
    if kind in _OF_TEXTS:
        for number, entry in enumerate(_objects(item, "content")):
            yield _entry_part(entry, "content", number)
        if kind == "reasoning":
            for number, entry in enumerate(_objects(item, "summary")):
                yield _entry_part(entry, "summary", number)
    elif (call := _CALLS.get(kind) if isinstance(kind, str) else None) is not None:
        for part, member in call.items():
            yield part, item.get(member), False
    else:
        yield "item", _Whole({name: value for name, value in item.items() if name not in _BESIDE_ITEM}), False


def _entry_form(entry: dict[str, Any]) -> tuple[str, str] | None:
    kind = entry.get("type")
    return _ENTRIES.get(kind) if isinstance(kind, str) else None


def _entry_part(entry: dict[str, Any], member: str, number: int) -> _Part:
    """The part of an entry of an item's ``content`` or ``summary``."""
    known = _entry_form(entry)
    if known is None:
        return f"{member}.{number}" if number else member, _Whole(entry), False
    part, value = known
    return f"{part}.{number}" if number else part, entry.get(value), True


def _numbered(part: str, event: dict[str, Any], counted_by: str | None) -> str:
    number = 0 if counted_by is None else _index(event, counted_by)
    return f"{part}.{number}" if number else part


def _index(event: dict[str, Any], member: str) -> int:
    index = event.get(member)
    if type(index) is not int or not 0 <= index <= MAX_INDEX:
        raise MalformedError(f"{member} is no index", where="event")
    return index


def _object(event: dict[str, Any], member: str) -> dict[str, Any] | None:
    value = event.get(member)
    if value is not None and not isinstance(value, dict):
        raise MalformedError(f"{member} is not an object", where="event")
    return value


def _objects(holder: dict[str, Any], member: str) -> list[dict[str, Any]]:
    values = holder.get(member)
    if values is None:
        return []
    if not isinstance(values, list) or len(values) > MAX_INDEX + 1 or not all(isinstance(value, dict) for value in values):
        raise MalformedError(f"{member} is not an array of at most {MAX_INDEX + 1} objects", where="response")
    return values


class ResponsesFormat:
    """Streams of Responses: the terminal event carries the tag in its ``response``, an ``error`` event at its top level.

    An ``error`` event waits, since servers send ``response.failed`` behind it.
    """

    projection: type[Projection] = ResponsesProjection
    nested: tuple[str, ...] = ("response",)
    closes_with_done: bool = False

    def role(self, event: dict[str, Any]) -> Role:
        """What an event does in its stream."""
        kind = event.get("type")
        if kind == "response.failed":
            return Role.FAILS
        if kind == "error" or event.get("error") is not None:
            return Role.ERRS
        return Role.TERMINAL if kind == "response.completed" or kind == "response.incomplete" else Role.PASSES

    def place(self, event: dict[str, Any]) -> str | None:
        """``response`` of a terminal event."""
        return "response" if event.get("type") in _TERMINAL else None

    def usage(self, event: dict[str, Any], known: Usage | None) -> Usage | None:
        """As ``response`` says it."""
        return known if (response := event.get("response")) is None else read_usage(response) or known


_FORMAT: Final = ResponsesFormat()


_ID_PREFIX: Final = "resp_"
"""What ids of responses begin with: whatever is asked of one is about a stored response, by whichever method."""


class ResponsesDialect(OpenAIDialect):
    """OpenAI Responses over HTTP: made, streamed, made in the background, retrieved."""

    name = "openai-responses"
    projection: type[Projection] = ResponsesProjection

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What the request asks for. One that is about a stored response names no model, and says which response it is.

        Raises:
            MalformedRequestError: Not a JSON object with a model, a maximum in it is no whole number, or it is no request of this API.
        """
        stored = _stored(head)
        if stored is not None:
            return RequestFacts(action=self.action, model="", retrieves=stored)
        request = parse_request_object(body)
        request_integer(request, "max_output_tokens")
        maximum, is_open_ended = request_output_maximum(request)
        return RequestFacts(
            action=self.action,
            model=request_model(request),
            stream=request.get("stream") is True,
            choices=request_choices(request),
            max_output_tokens=maximum,
            is_open_ended=is_open_ended,
            media_parts=count_media(request.get("input")),
            end_user=request_end_user(request),
            stores=request.get("store") is not False,  # kept unless the caller says otherwise
            background=request.get("background") not in (None, False),  # lenient servers take 1 or "true" for it
        )

    def stream_format(self, media_type: bytes) -> StreamFormat | None:
        """That of Responses, for server-sent events."""
        return _FORMAT if media_type == EVENT_STREAM else None

    def error_event(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The ``error`` event that ends a stream in-band.

        It has a member ``error`` too, as errors of other streams have: without it, official clients hand the event out as one more
        of the stream, and whoever looks for text alone takes half a response for all of it.
        """
        error = {"message": message, "type": "tos_guard_error", "param": None, "code": code, **extra}
        event = {"type": "error", "code": code, "message": message, "param": None, "error": error}
        return b"event: error\ndata: " + json.dumps(event).encode("ascii") + b"\n\n"


def _stored(head: RequestHead) -> str | None:
    """Which stored response a request is about: ``…/responses/{id}`` and what lies below; None for one that has a body to decide on.

    Raises:
        MalformedRequestError: It is neither.
    """
    stored, below = stored_id(head.path, "responses")
    if head.method == "POST" and below != "cancel" and not (stored or "").startswith(_ID_PREFIX):
        return None  # also `compact` and `input_tokens`, which are no ids
    if stored is None:
        raise MalformedRequestError("names no stored response", where="path", cure="Ask for …/responses/{id}, or make one with POST.")
    return stored
