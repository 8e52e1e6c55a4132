"""Any other JSON endpoint: the whole body is the content (projection ``json-1``)."""

from __future__ import annotations

import json
from typing import Any, Final

from tos_guard.dialects._body import RequestFacts, parse_request_object
from tos_guard.dialects._projection import JSONProjection, Projection

__all__ = ["PlainDialect"]

_JSON_START: Final = (b"{", b"[")


class PlainDialect:
    """JSON in, JSON out, no shape of its own. Refusals are problem details (RFC 9457)."""

    name = "plain-json"
    projection: type[Projection] = JSONProjection

    def __init__(self, *, model: str, action: str = "generate") -> None:
        self.action = action
        self.model = model

    def read_request(self, body: bytes) -> RequestFacts:
        """What the request asks for: the dialect's action, and the member ``model`` if the body has one.

        Raises:
            MalformedRequestError: The body looks like JSON and cannot be read.
        """
        model = self.model
        if body.lstrip().startswith(_JSON_START):
            named = parse_request_object(body).get("model") if body.lstrip().startswith(b"{") else None
            if isinstance(named, str) and 1 <= len(named) <= 96 and named.isprintable():
                model = named
        return RequestFacts(action=self.action, model=model)

    def refusal_body(self, *, message: str, code: str, kind: str, extra: dict[str, Any]) -> bytes:
        """A refusal as problem details."""
        problem = {"type": "about:blank", "title": kind, "detail": message, "code": code, **extra}
        return json.dumps(problem, ensure_ascii=False).encode("utf-8")

    def error_event(self, *, message: str, code: str, extra: dict[str, Any]) -> bytes:
        """The event that ends a stream in-band."""
        error = {"message": message, "code": code, **extra}
        return b"data: " + json.dumps({"error": error}, ensure_ascii=False).encode("utf-8") + b"\n\n"
