"""What travels between the provider and its callers: the request, the error, and the bytes of an event.

The shapes are those of OpenAI chat completions, so that the official client reads them.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DONE", "ChatRequest", "JSONObject", "ProviderError", "ScoreRequest", "encode_event", "encode_json"]

JSONObject: TypeAlias = dict[str, Any]

DONE = b"data: [DONE]\n\n"
"""The last event of every stream that ended as meant."""


class StreamOptions(BaseModel):
    """What a caller wants of a stream."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``; members that are not named here are kept and given to the model."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[JSONObject] = Field(min_length=1, max_length=1_000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    seed: int | None = None
    tools: list[JSONObject] | None = None
    tool_choice: str | JSONObject | None = None

    @property
    def choices(self) -> int:
        """How many choices the caller asks for."""
        return self.n or 1

    @property
    def token_limit(self) -> int | None:
        """The most tokens that one choice may have, or None."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ScoreRequest(BaseModel):
    """The body of ``POST /v1/score``."""

    input: str | list[str]
    model: str = "replay-score"


class ProviderError(Exception):
    """An answer that is an error: a status before the response has started, an error event after that.

    Attributes:
        status: HTTP status.
        body: ``{"error": {"message", "type", "param", "code"}}``.
    """

    def __init__(self, status: int, message: str, *, type: str, code: str | None = None, param: str | None = None) -> None:  # noqa: A002 (the wire's word)
        super().__init__(message)
        self.status = status
        self.body: JSONObject = {"error": {"message": message, "type": type, "param": param, "code": code}}


def encode_json(value: object) -> bytes:
    """JSON without spaces, as UTF-8; where a string holds half a UTF-16 pair, which UTF-8 cannot, everything is escaped to ASCII."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def encode_event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + encode_json(value) + b"\n\n"
