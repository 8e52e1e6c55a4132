"""Any other JSON endpoint: the whole body is the content (projection ``json-1``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tos_guard.dialects._body import (
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
from tos_guard.dialects._projection import JSONProjection, Projection
from tos_guard.dialects._streams import StreamFormat
from tos_guard.errors import MalformedRequestError
from tos_guard.limits import LimitState

__all__ = ["PlainDialect"]


class PlainDialect:
    """JSON in, JSON out, no shape of its own. Refusals are problem details (RFC 9457)."""

    name = "plain-json"
    projection: type[Projection] = JSONProjection
    refusal_type: bytes = b"application/problem+json"

    def __init__(self, *, model: str, action: str = "generate") -> None:
        self.action: str = action
        self.model: str = model

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What the request asks for: the dialect's action, and the member ``model`` if the body has one.

        Raises:
            MalformedRequestError: The body looks like JSON and cannot be read, or its model is none.
        """
        del head
        # `json.loads` and the frameworks read UTF-16 and UTF-32 too: what we do not read must not name a model to the app.
        if json.detect_encoding(body) != "utf-8":
            raise MalformedRequestError("is not UTF-8 without a byte-order mark", where="request body", cure="Send JSON in UTF-8.")
        model = self.model
        if body.lstrip().startswith(b"{"):
            request = parse_request_object(body)
            if request.get("model") is not None:
                model = request_model(request)
            maximum, is_open_ended = request_output_maximum(request)
            return RequestFacts(
                action=self.action,
                model=model,
                choices=request_choices(request) * request_prompts(request),
                max_output_tokens=maximum,
                is_open_ended=is_open_ended,
                media_parts=count_media(request.get("messages")),
                end_user=request_end_user(request),
            )
        return RequestFacts(action=self.action, model=model)

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
