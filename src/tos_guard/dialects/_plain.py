"""Any other JSON endpoint: the whole body is the content (projection ``json-1``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tos_guard.dialects._body import (
    OUTPUT_MAXIMA,
    RequestFacts,
    count_media,
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

_SAID_ONCE: Final = frozenset({"model", "n", "best_of", "user", "safety_identifier", *OUTPUT_MAXIMA})
"""Fields of a form that decide or count."""


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
            MalformedRequestError: The body looks like JSON or is said to be a form and cannot be read, or its model is none.
        """
        content_type = head.field(b"content-type") or ""
        if is_form(head.media_type):
            return self._of_form(parse_form(body, content_type))
        # `json.loads` and the frameworks read UTF-16 and UTF-32 too: what we do not read must not name a model to the app.
        if _is_json_elsewise(body):
            raise MalformedRequestError("is not UTF-8 without a byte-order mark", where="request body", cure="Send JSON in UTF-8.")
        if body.lstrip().startswith(b"{"):
            request = parse_request_object(body)
            return self._facts(request, choices=request_prompts(request), media_parts=count_media(request.get("messages")))
        return RequestFacts(action=self.action, model=self.model)

    def _of_form(self, form: Form) -> RequestFacts:
        """Of a form: its fields are strings, of which servers make numbers."""
        ambiguous = _SAID_ONCE & (form.repeated | form.oversized | set(form.files))
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
