"""OpenAI's older completions: prompts in, texts out (projection ``completions-1``). Streams are as those of chat completions."""

from __future__ import annotations

from typing import Any, Final

from tos_guard.dialects._body import (
    TAG_MEMBER,
    RequestFacts,
    check_counts,
    parse_request_object,
    request_choices,
    request_end_user,
    request_model,
    request_output_maximum,
    request_prompts,
)
from tos_guard.dialects._chat import ChatFormat, choice_index
from tos_guard.dialects._dialect import NO_HEAD, RequestHead
from tos_guard.dialects._openai import EVENT_STREAM, OpenAIDialect
from tos_guard.dialects._projection import Projection
from tos_guard.dialects._streams import StreamFormat
from tos_guard.errors import MalformedError

__all__ = ["CompletionsDialect", "CompletionsFormat", "CompletionsProjection"]


class CompletionsProjection(Projection):
    """Collects the texts of completions from their body or from the events of their stream."""

    name = "completions-1"

    def add_body(self, body: Any) -> None:
        """Take a whole response body.

        Raises:
            MalformedError: It has no choices, or they are not what P1 says.
        """
        if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
            raise MalformedError("has no array of choices", where="completion")
        seen: set[int] = set()
        for choice in body["choices"]:
            index = choice_index(choice)
            if index in seen:
                raise MalformedError(f"two choices have the index {index}", where="completion")
            seen.add(index)
            self._add_text(index, choice)

    def add_event(self, event: dict[str, Any]) -> bool:
        """Take one event of a stream. Returns whether it bears content.

        Raises:
            MalformedError: Its choices are not what P1 says.
        """
        choices = event.get("choices")
        if choices is None:
            return False
        if not isinstance(choices, list):
            raise MalformedError("choices is not an array", where="completion chunk")
        bears = False
        for choice in choices:
            bears |= self._add_text(choice_index(choice), choice)
        return bears

    def _add_text(self, index: int, choice: dict[str, Any]) -> bool:
        text = choice.get("text")
        if text is None or text == "":
            return False
        if isinstance(text, str):
            self.parts.add(index, "text", text, text=True)
        else:
            self.parts.cannot_cover(index, "text")
        return True

    def note_body(self, body: Any) -> None:
        """Remember which members of a body, already added, are not covered."""
        self.note_event(body)

    def note_event(self, event: dict[str, Any]) -> None:
        """Remember which members of an event, already added, are not covered."""
        self.note(event.keys() - {"choices", TAG_MEMBER})
        for choice in event.get("choices") or ():
            self.note(f"choices[].{name}" for name in choice.keys() - {"index", "text"})


class CompletionsFormat(ChatFormat):
    """Streams of completions: those of chat, with texts in place of deltas."""

    projection: type[Projection] = CompletionsProjection


_FORMAT: Final = CompletionsFormat()


class CompletionsDialect(OpenAIDialect):
    """OpenAI's older completions over HTTP."""

    name = "openai-completions"
    projection: type[Projection] = CompletionsProjection

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What the request asks for: each of its prompts is answered with all its choices.

        Raises:
            MalformedRequestError: Not a JSON object with a model, or a count in it is no whole number.
        """
        del head
        request = parse_request_object(body)
        check_counts(request)
        maximum, is_open_ended = request_output_maximum(request)
        return RequestFacts(
            action=self.action,
            model=request_model(request),
            stream=request.get("stream") is True,
            choices=request_choices(request) * request_prompts(request),
            max_output_tokens=maximum,
            is_open_ended=is_open_ended,
            end_user=request_end_user(request),
        )

    def stream_format(self, media_type: bytes) -> StreamFormat | None:
        """That of completions, for server-sent events."""
        return _FORMAT if media_type == EVENT_STREAM else None
