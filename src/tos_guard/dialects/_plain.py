"""Any other JSON endpoint: the whole body is the content (projection ``json-1``).

- The model is the member ``model`` of the request, else the route's.
- Of an array each object in it is a request, at whatever depth of arrays, and all of them must be for one model.
- What is counted is counted under every name by which servers take it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tos_guard.dialects._body import (
    CHOICES,
    OUTPUT_MAXIMA,
    PROMPTS,
    RequestFacts,
    count_media,
    parse_request_json,
    parse_request_object,
    request_choices,
    request_end_user,
    request_model,
    request_output_maximum,
    request_prompts,
)
from tos_guard.dialects._dialect import NO_HEAD, RequestHead
from tos_guard.dialects._forms import Form, is_form, parse_form
from tos_guard.dialects._projection import JSONProjection, Projection
from tos_guard.dialects._streams import StreamFormat
from tos_guard.errors import MalformedRequestError
from tos_guard.limits import LimitState

__all__ = ["PlainDialect"]

MAX_LOOK_BYTES: Final = 4_096
"""So far a body is searched for the beginning of JSON in another encoding: longer white space begins no request that a client makes."""

_PROMPTS: Final = (*PROMPTS, "prompts", "text", "texts", "input_ids", "inputs", "instances")
"""By which names servers without a dialect of their own take prompts."""

_INPUT: Final = "input"
"""Likewise, but objects in it are the messages of one conversation."""

MAX_ARRAY_REQUESTS: Final = 512
"""Objects in an array that is a request: each is read by itself, and no server takes so many at once."""

_SAID_ONCE: Final = frozenset({"model", "user", "safety_identifier", *CHOICES, *OUTPUT_MAXIMA})
"""Fields of a form that decide or count."""


def _leaves(values: list[Any]) -> tuple[list[dict[str, Any]], int]:
    """The objects in an array, at whatever depth of arrays, and how many texts, numbers and lists of integers there are beside them."""
    objects: list[dict[str, Any]] = []
    others = 0
    unread = [values]
    while unread:
        array = unread.pop()
        if array and all(type(token) is int for token in array):
            others += 1  # one prompt, as tokens
            continue
        arrays = [each for each in array if isinstance(each, list)]
        found = [each for each in array if isinstance(each, dict)]
        others += len(array) - len(arrays) - len(found)
        objects += found
        unread += arrays
    return objects, others


def _is_json_elsewise(body: bytes) -> bool:
    """Whether a body begins as JSON does in an encoding other than plain UTF-8."""
    encoding = json.detect_encoding(body)
    if encoding == "utf-8":
        return False
    begins = body[:MAX_LOOK_BYTES].decode(encoding, "ignore").lstrip("\ufeff \t\r\n")
    return begins == "" or begins[0] in '{["'


class PlainDialect:
    """JSON in, JSON out, no shape of its own. Refusals are problem details (RFC 9457)."""

    name = "plain-json"
    projection: type[Projection] = JSONProjection
    refusal_type: bytes = b"application/problem+json"

    def __init__(self, *, model: str, action: str = "generate") -> None:
        self.action: str = action
        self.model: str = model

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What the request asks for: the dialect's action, and the member or form field ``model`` if the body has one.

        Raises:
            MalformedRequestError: The body looks like JSON or is said to be a form and cannot be read, its model is none, or an array has
                requests for several models.
        """
        content_type = head.field(b"content-type") or ""
        if is_form(head.media_type):
            return self._of_form(parse_form(body, content_type))
        # `json.loads` and the frameworks read UTF-16 and UTF-32 too: what we do not read must not name a model to the app.
        if _is_json_elsewise(body):
            raise MalformedRequestError("is not UTF-8 without a byte-order mark", where="request body", cure="Send JSON in UTF-8.")
        begins = body.lstrip()[:1]
        if begins == b"{":
            return self._of_object(parse_request_object(body))
        if begins == b"[":
            return self._of_array(parse_request_json(body))
        return RequestFacts(action=self.action, model=self.model)

    def _of_object(self, request: dict[str, Any]) -> RequestFacts:
        given = request.get(_INPUT)
        beside = [each for each in given if not isinstance(each, dict)] if isinstance(given, list) else given
        prompts = request_prompts({**request, _INPUT: beside or None}, (*_PROMPTS, _INPUT))
        return self._facts(request, choices=prompts, media_parts=count_media(request.get("messages")))

    def _of_array(self, values: list[Any]) -> RequestFacts:
        """Of an array: what all in it ask for together, which must be one model's."""
        objects, others = _leaves(values)
        if len(objects) > MAX_ARRAY_REQUESTS:
            raise MalformedRequestError(f"has more than {MAX_ARRAY_REQUESTS} requests", where="request body", cure="Send fewer at once.")
        said = [self._of_object(each) for each in objects]
        models = {request.model for request in said} | ({self.model} if others or not said else set())
        if len(models) > 1:
            raise MalformedRequestError(
                "has requests for several models", where="request body", cure="Name one model in all of them, and send others apart."
            )
        end_users = {request.end_user for request in said if request.end_user is not None}
        if len(end_users) > 1:
            raise MalformedRequestError("has requests of several end users", where="request body", cure="Send those of each apart.")
        maxima = [request.max_output_tokens for request in said if request.max_output_tokens is not None]
        return RequestFacts(
            action=self.action,
            model=models.pop(),
            choices=max(1, sum(request.choices for request in said) + others),
            max_output_tokens=max(maxima, default=None),
            is_open_ended=any(request.is_open_ended for request in said) or 0 < len(maxima) < len(said) + others,
            media_parts=sum(request.media_parts for request in said),
            end_user=end_users.pop() if end_users else None,
        )

    def _of_form(self, form: Form) -> RequestFacts:
        """Of a form: its fields are strings, of which servers make numbers."""
        ambiguous = _SAID_ONCE & (form.repeated | form.oversized | set(form.files)) or {*_PROMPTS, _INPUT} & form.repeated
        if ambiguous:
            raise MalformedRequestError(
                f"{min(ambiguous)} is given twice, as a file, or is too long", where="request form", cure="Give each field once, as text."
            )
        return self._facts(form.fields, choices=1, media_parts=len(form.files))

    def _facts(self, request: dict[str, Any], *, choices: int, media_parts: int) -> RequestFacts:
        maximum, is_open_ended = request_output_maximum(request)
        return RequestFacts(
            action=self.action,
            model=self.model if request.get("model") is None else request_model(request),
            choices=request_choices(request) * choices,
            max_output_tokens=maximum,
            is_open_ended=is_open_ended,
            media_parts=media_parts,
            end_user=request_end_user(request),
        )

    def stream_format(self, media_type: bytes) -> StreamFormat | None:
        """None: what else flows has no form in which a tag has a place."""
        del media_type
        return None

    def refusal_body(self, *, message: str, code: str, kind: str, extra: dict[str, Any]) -> bytes:
        """A refusal as problem details."""
        problem = {"type": "about:blank", "title": kind, "detail": message, "code": code, **extra}
        return json.dumps(problem).encode("ascii")  # escaped, so that no lone surrogate in a path can stop a refusal

    def limit_fields(self, states: Sequence[LimitState], *, now: datetime) -> list[tuple[bytes, bytes]]:
        """None beside the standard ones."""
        del states, now
        return []

    def error_event(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The event that ends a stream in-band."""
        error = {"message": message, "code": code, **extra}
        return b"data: " + json.dumps({"error": error}).encode("ascii") + b"\n\n"
