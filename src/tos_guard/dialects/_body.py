"""JSON bodies of requests and responses: strict reading, and putting a tag in without moving another byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tos_guard._canonical import parse_json
from tos_guard.errors import MalformedError, MalformedRequestError

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_BODY_DEPTH",
    "TAG_MEMBER",
    "RequestFacts",
    "parse_request_object",
    "parse_response_json",
    "request_integer",
    "request_model",
    "splice_tag",
    "without_tag",
]

TAG_MEMBER: Final = "ai_provenance"
MAX_BODY_BYTES: Final = 16 * 1024 * 1024  # C9: a response of 128 choices of 32,000 tokens
MAX_BODY_DEPTH: Final = 64  # C3, C9: tool schemas nest about 20 deep
MAX_MODEL_CHARS: Final = 96  # as the claim


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a request asks for, as its dialect says it.

    Attributes:
        action: Action name of the terms.
        model: Model id as the request names it; empty where the dialect has none.
        stream: Whether the response is asked for as a stream.
        choices: How many choices are asked for.
        max_output_tokens: The largest number of output tokens the request allows per choice, or None where it does not say.
    """

    action: str
    model: str
    stream: bool = False
    choices: int = 1
    max_output_tokens: int | None = None


def parse_request_object(body: bytes) -> dict[str, Any]:
    """Read a JSON request body strictly.

    Raises:
        MalformedRequestError: Not a JSON object.
    """
    try:
        request = parse_json(body, where="request body", max_depth=MAX_BODY_DEPTH, max_bytes=MAX_BODY_BYTES, lone_surrogates=True)
    except MalformedError as error:
        raise MalformedRequestError(error.what, where=error.where, cure="Send one JSON object, in UTF-8, each name once.") from None
    if not isinstance(request, dict):
        raise MalformedRequestError("not a JSON object", where="request body")
    return request


def request_model(request: dict[str, Any]) -> str:
    """The model a request names.

    Raises:
        MalformedRequestError: It names none, or none of a reasonable form.
    """
    model = request.get("model")
    if not isinstance(model, str) or not 1 <= len(model) <= MAX_MODEL_CHARS or not model.isprintable():
        raise MalformedRequestError(f"model is not a printable string of 1 to {MAX_MODEL_CHARS} characters", where="request body")
    return model


def request_integer(request: dict[str, Any], name: str) -> int | None:
    """A positive whole number of a request, or None where it is absent.

    Raises:
        MalformedRequestError: It is there and is no such number.
    """
    value = request.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise MalformedRequestError(f"{name} is not a whole number", where="request body")
    return value


def parse_response_json(data: bytes, *, where: str) -> Any:
    """Read a response body or event strictly (C3, C9).

    Raises:
        MalformedError: Not such JSON.
    """
    return parse_json(data, where=where, max_depth=MAX_BODY_DEPTH, max_bytes=MAX_BODY_BYTES, lone_surrogates=True)


def splice_tag(data: bytes, tag: bytes) -> bytes:
    """Put the tag member at the end of a JSON object's bytes, without moving another byte.

    Args:
        data: Bytes of one JSON object that has no such member.
        tag: JSON bytes of the tag.
    """
    end = data.rindex(b"}")
    comma = b"" if data[:end].rstrip(b" \t\r\n").endswith(b"{") else b","
    return b"".join((data[:end], comma, b'"', TAG_MEMBER.encode("ascii"), b'":', tag, data[end:]))


def without_tag(body: dict[str, Any]) -> dict[str, Any]:
    """The object without a tag member."""
    return {name: value for name, value in body.items() if name != TAG_MEMBER}
