"""Anthropic Messages: what a request asks for, where content is, and how a stream carries its tag.

Implements projection ``messages-1`` (docs/spec/projection.md P11) and the Messages carrier (docs/spec/carriers.md C12). A stream and the
message that a client builds from it have the same leaves: the final token of the one proves the other.

- The choice of a part is the index of its block. Blocks whose members are not in the table are covered whole.
- What a tool is given flows as pieces of JSON text; covered is the object that they make, and not how it was written.
- Counting tokens (``…/messages/count_tokens``) is a request of this dialect that no model answers: nothing is reserved for it but itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from tos_guard._canonical import parse_json
from tos_guard.dialects._body import (
    MAX_BODY_BYTES,
    MAX_BODY_DEPTH,
    RequestFacts,
    parse_request_object,
    read_usage,
    request_end_user,
    request_integer,
    request_model,
    request_output_maximum,
)
from tos_guard.dialects._dialect import NO_HEAD, RequestHead, tightest
from tos_guard.dialects._projection import Projection
from tos_guard.dialects._streams import EVENT_STREAM, Role, StreamFormat
from tos_guard.errors import MalformedError
from tos_guard.limits import LimitState, Quantity, Usage
from tos_guard.provenance import Content, Parts, canonical_part, encode_text

__all__ = ["MESSAGES_PROJECTION", "MessagesDialect", "MessagesFormat", "MessagesProjection"]

MESSAGES_PROJECTION: Final = "messages-1"
MAX_BLOCK: Final = 65_535
MAX_NOTED_CHARS: Final = 64  # of a type that a stream invents

_TOOLS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")
_TOOL_PARTS: Final = {"name": ("name", False), "input": ("input", False)}
_BLOCKS: Final[Mapping[str, Mapping[str, tuple[str, bool]]]] = {
    "text": {"text": ("text", True)},
    "thinking": {"thinking": ("thinking", True), "signature": ("signature", False)},
    "redacted_thinking": {"data": ("redacted_thinking", False)},
    "compaction": {"content": ("compaction", True), "encrypted_content": ("encrypted_content", False)},
    **dict.fromkeys(_TOOLS, _TOOL_PARTS),
}
"""Type of a block → its member → name of the part, and whether it is text."""

_DELTAS: Final[Mapping[str, tuple[frozenset[str], Mapping[str, tuple[str, bool]]]]] = {
    "text_delta": (frozenset({"text"}), _BLOCKS["text"]),
    "thinking_delta": (frozenset({"thinking"}), {"thinking": ("thinking", True)}),
    "signature_delta": (frozenset({"thinking"}), {"signature": ("signature", False)}),
    "compaction_delta": (frozenset({"compaction"}), _BLOCKS["compaction"]),
    "input_json_delta": (frozenset(_TOOLS), {}),
}
"""Type of a delta → the types of blocks that it fits, and its members as above. Pieces of JSON text are joined apart."""

_UNKNOWN: Final[tuple[None, Mapping[str, tuple[str, bool]]]] = (None, {})

_EVENTS: Final = {"message_start": "message", "content_block_start": "content_block", "content_block_delta": "delta"}
"""Type of an event that holds content → where."""


class MessagesProjection(Projection):
    """Collects the parts of a message from its body or from the events of its stream."""

    name = MESSAGES_PROJECTION

    def __init__(self) -> None:
        super().__init__()
        self._types: dict[int, str] = {}  # of the blocks that have begun
        self._inputs: dict[int, list[str] | None] = {}  # pieces of JSON text; None once one of them is no text

    def add_body(self, body: Any) -> None:
        """Take a whole response body.

        Raises:
            MalformedError: It has no array of blocks.
        """
        if not isinstance(body, dict) or not isinstance(body.get("content"), list):
            raise MalformedError("has no array of content", where="message")
        for index, block in enumerate(body["content"]):
            self._begin(index, block)

    def add_event(self, event: dict[str, Any]) -> bool:
        """Take one event of a stream. Returns whether it bears content.

        Raises:
            MalformedError: Its blocks or deltas are not what P11 says.
        """
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._add_delta(event.get("index"), event.get("delta"))
        if kind == "content_block_start":
            return self._begin(event.get("index"), event.get("content_block"))
        return self._open(event.get("message")) if kind == "message_start" else False

    def content(self) -> Content:
        """The content so far."""
        if not self._inputs:
            return super().content()
        leaves = [leaf for leaf in self.parts.leaves() if leaf[1] != "input" or leaf[0] not in self._inputs]
        given = Parts()
        for index, pieces in self._inputs.items():
            data = None if pieces is None else _object_in("".join(pieces))
            if data is None:
                given.cannot_cover(index, "input")
            else:
                given.add(index, "input", data, text=False)
        return Content.of(self.name, [*leaves, *given.leaves()])

    def _open(self, message: Any) -> bool:
        if not isinstance(message, dict):
            raise MalformedError("message is not an object", where="message_start")
        blocks = message.get("content")
        if blocks is None:
            return False
        if not isinstance(blocks, list):
            raise MalformedError("content is not an array", where="message_start")
        bears = False
        for index, block in enumerate(blocks):
            bears |= self._begin(index, block)
        return bears

    def _begin(self, index: Any, block: Any) -> bool:
        if type(index) is not int or not 0 <= index <= MAX_BLOCK:
            raise MalformedError("a block has no index", where="message")
        if not isinstance(block, dict):
            raise MalformedError("a block is not an object", where="message")
        if index in self._types:
            raise MalformedError(f"block {index} begins twice", where="message")
        kind = block.get("type")
        self._types[index] = kind if isinstance(kind, str) else ""
        members = _BLOCKS.get(self._types[index])
        if members is not None:
            return self._add(index, block, members)
        data = canonical_part(block)
        if data is None:
            self.parts.cannot_cover(index, "block")
        else:
            self.parts.add(index, "block", data, text=False)
        return True

    def _add_delta(self, index: Any, delta: Any) -> bool:
        if type(index) is not int or index not in self._types:
            raise MalformedError("a delta is of no block that has begun", where="content_block_delta")
        if not isinstance(delta, dict):
            raise MalformedError("delta is not an object", where="content_block_delta")
        kind = delta.get("type")
        blocks, members = _DELTAS.get(kind, _UNKNOWN) if isinstance(kind, str) else _UNKNOWN
        if blocks is None:
            return False
        if self._types[index] not in blocks:
            raise MalformedError(f"a {kind} in a block of another type", where="content_block_delta")
        return self._add(index, delta, members) if members else self._add_json(index, delta.get("partial_json"))

    def _add(self, index: int, holder: dict[str, Any], members: Mapping[str, tuple[str, bool]]) -> bool:
        bears = False
        for member, (part, is_text) in members.items():
            value = holder.get(member)
            if value is None or value == "":
                continue
            bears = True
            if isinstance(value, str):
                self.parts.add(index, part, value, text=is_text)
            elif part == "input" and isinstance(value, dict) and (data := canonical_part(value)) is not None:
                self.parts.add(index, part, data, text=False)
            else:
                self.parts.cannot_cover(index, part)
        return bears

    def _add_json(self, index: int, piece: Any) -> bool:
        if piece is None or piece == "":
            return False
        if not isinstance(piece, str):
            self._inputs[index] = None
        elif (pieces := self._inputs.setdefault(index, [])) is not None:
            pieces.append(piece)
        return True

    def note_body(self, body: Any) -> None:
        """Remember which members of a body, already added, are not covered."""
        self.note(body.keys() - {"content", "ai_provenance"})
        for block in body["content"]:
            self._note_block("content[]", block)

    def note_event(self, event: dict[str, Any]) -> None:
        """Remember which members of an event, already added, are not covered."""
        kind = event.get("type")
        place = _EVENTS.get(kind) if isinstance(kind, str) else None
        self.note(event.keys() - {"type", "index", place, "ai_provenance"})
        inner = event.get(place) if place is not None else None
        if not isinstance(inner, dict):
            return
        if place == "delta":
            self._note_delta(inner)
        elif place == "content_block":
            self._note_block(place, inner)
        else:
            self.note(f"message.{name}" for name in inner.keys() - {"content", "ai_provenance"})
            for block in inner.get("content") or ():
                self._note_block("message.content[]", block)

    def _note_block(self, path: str, block: dict[str, Any]) -> None:
        kind = block.get("type")
        members = _BLOCKS.get(kind) if isinstance(kind, str) else None
        if members is not None:
            self.note(f"{path}.{name}" for name in block.keys() - members.keys() - {"type"})

    def _note_delta(self, delta: dict[str, Any]) -> None:
        kind = delta.get("type")
        if not isinstance(kind, str) or kind not in _DELTAS:
            self.note([f"delta of type {str(kind)[:MAX_NOTED_CHARS]}"])
            return
        self.note(f"delta.{name}" for name in delta.keys() - _DELTAS[kind][1].keys() - {"type", "partial_json"})


def _object_in(text: str) -> bytes | None:
    """RFC 8785 bytes of the object that a JSON text is, or None where it is none (P3, P11)."""
    data = encode_text(text)
    if data is None:
        return None
    try:
        value = parse_json(data, where="partial_json", max_depth=MAX_BODY_DEPTH, max_bytes=MAX_BODY_BYTES, lone_surrogates=True)
    except MalformedError:
        return None
    return canonical_part(value) if isinstance(value, dict) else None


class MessagesFormat:
    """Messages streams: the pending tag where the message starts, the final one where it stops. No event waits but that one."""

    projection: type[Projection] = MessagesProjection
    nested: tuple[str, ...] = ("message",)
    closes_with_done: bool = False

    def role(self, event: dict[str, Any]) -> Role:
        """``message_start`` opens, ``message_stop`` ends, ``error`` fails."""
        kind = event.get("type")
        if kind == "error" or kind == "response.failed" or event.get("error") is not None:
            return Role.FAILS
        if kind == "message_stop":
            return Role.TERMINAL
        return Role.OPENS if kind == "message_start" else Role.PASSES

    def place(self, event: dict[str, Any]) -> str | None:
        """The message that starts, else the event itself."""
        return "message" if self.role(event) is Role.OPENS else None

    def usage(self, event: dict[str, Any], known: Usage | None) -> Usage | None:
        """Input as the message starts, and output as its newest delta says.

        The output that ``message_start`` names is that of its first moment: for a stream that breaks off, it would be far too little.
        """
        kind = event.get("type")
        if kind == "message_start":
            said = read_usage(event.get("message"))
            return known if said is None or said.input_tokens is None else Usage(input_tokens=said.input_tokens)
        said = read_usage(event) if kind == "message_delta" else None
        if said is None:
            return known
        if known is None:
            return said
        # Totals so far, and what did not change may be left out of them: cached input, for one.
        inputs = [tokens for tokens in (known.input_tokens, said.input_tokens) if tokens is not None]
        output = known.output_tokens if said.output_tokens is None else said.output_tokens
        reasoning = known.reasoning_tokens if said.reasoning_tokens is None else said.reasoning_tokens
        return Usage(max(inputs, default=None), output, reasoning)


class MessagesDialect:
    """Anthropic Messages over HTTP.

    Args:
        action: Action of the terms that a request asks for.
    """

    name = "anthropic-messages"
    projection: type[Projection] = MessagesProjection
    refusal_type: bytes = b"application/json"

    def __init__(self, *, action: str = "generate") -> None:
        self.action: str = action

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What the request asks for.

        Raises:
            MalformedRequestError: Not a JSON object with a model, or ``max_tokens`` is no whole number.
        """
        request = parse_request_object(body)
        request_integer(request, "max_tokens")
        is_answered = not head.path.endswith(_COUNT_TOKENS)
        maximum, is_open_ended = request_output_maximum(request)
        return RequestFacts(
            action=self.action,
            model=request_model(request),
            stream=request.get("stream") is True,
            max_output_tokens=maximum,
            is_open_ended=is_open_ended,
            media_parts=_count_media(request),
            end_user=request_end_user(request),
            takes_input=is_answered,
            gives_output=is_answered,
        )

    def stream_format(self, media_type: bytes) -> StreamFormat | None:
        """That of Messages streams, for server-sent events."""
        return _FORMAT if media_type == EVENT_STREAM else None

    def refusal_body(self, *, message: str, code: str, kind: str, extra: dict[str, Any]) -> bytes:
        """A refusal in Anthropic's error shape; *extra* goes beside ``type``, ``message`` and ``code``."""
        kind = _ERRORS_BY_CODE.get(code) or _ERRORS_BY_KIND.get(kind, kind)
        return json.dumps(_error(kind, message, code, extra)).encode("ascii")  # escaped: what a host says may hold lone surrogates

    def limit_fields(self, states: Sequence[LimitState], *, now: datetime) -> list[tuple[bytes, bytes]]:
        """``anthropic-ratelimit-…-limit``, ``-remaining`` and ``-reset`` of each quantity, of its limit that is used most."""
        fields: list[tuple[bytes, bytes]] = []
        for unit, quantity in _UNITS.items():
            state = tightest(states, quantity)
            if state is not None:
                for what, value in (
                    ("limit", str(state.limit.amount)),
                    ("remaining", str(state.remaining)),
                    ("reset", _moment(now, state.reset)),
                ):
                    fields.append((f"anthropic-ratelimit-{unit}-{what}".encode("ascii"), value.encode("ascii")))
        return fields

    def error_event(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The event that ends a stream in-band. Clients know it by its name."""
        kind = _ERRORS_BY_CODE.get(code, "permission_error")  # whatever else stops a stream is a rule
        return b"event: error\ndata: " + json.dumps(_error(kind, message, code, extra)).encode("ascii") + b"\n\n"


_FORMAT: Final = MessagesFormat()
_COUNT_TOKENS: Final = "/messages/count_tokens"

_ERRORS_BY_KIND: Final = {"server_error": "api_error"}
"""Kind of a refusal → Anthropic's name, where it has another."""

_ERRORS_BY_CODE: Final = {
    "tos_handler_error": "api_error",
    "tos_limit": "rate_limit_error",
    "tos_not_found": "not_found_error",
    "tos_request_too_large": "request_too_large",
    "tos_route_not_guarded": "not_found_error",
    "tos_unavailable": "overloaded_error",
}
"""Codes for which Anthropic has a name that their kind does not tell."""

_UNITS: Final = {
    "requests": Quantity.REQUESTS,
    "tokens": Quantity.TOKENS,
    "input-tokens": Quantity.INPUT_TOKENS,
    "output-tokens": Quantity.OUTPUT_TOKENS,
}

_WORDS: Final = frozenset({*_BLOCKS, "tool_result", "search_result", "tool_reference"})
_ENDINGS_OF_WORDS: Final = ("_tool_use", "_result", "_result_error")
"""Blocks of a prompt whose size shows their tokens. They may hold others."""


def _error(kind: str, message: str, code: str, extra: dict[str, Any]) -> dict[str, Any]:
    rid = {"request_id": extra["request_id"]} if "request_id" in extra else {}
    ours = {name: value for name, value in extra.items() if name != "request_id"}
    return {"type": "error", "error": {"type": kind, "message": message, "code": code, **ours}, **rid}


def _moment(now: datetime, seconds: float) -> str:
    """When a span is over, as RFC 3339 has it, rounded up: who asks earlier asks in vain."""
    moment = now + timedelta(seconds=seconds, microseconds=999_999)
    return f"{moment.replace(microsecond=0, tzinfo=None).isoformat()}Z"


def _count_media(request: dict[str, Any]) -> int:
    """Blocks of the prompt, at whatever depth, that are no words: images, documents, and what we do not know."""
    messages = request.get("messages")
    turns = messages if isinstance(messages, list) else []
    found = 0
    pending = [request.get("system"), *(turn.get("content") for turn in turns if isinstance(turn, dict))]
    while pending:
        content = pending.pop()
        for block in content if isinstance(content, list) else (content,):
            if isinstance(block, dict):
                kind = str(block.get("type"))
                found += not (kind in _WORDS or kind.endswith(_ENDINGS_OF_WORDS))
                source = block.get("source")
                pending += [block.get("content"), source.get("content") if isinstance(source, dict) else None]
    return found
