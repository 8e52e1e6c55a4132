"""What is to be verified: a body, a saved stream, lines or a text, with what was kept beside it.

Nothing here decides anything: which form the bytes have, which token they carry, and what was in the saved headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tos_guard.dialects import DONE, STREAM_FORMATS, TAG_MEMBER, EventStream, parse_response_json
from tos_guard.errors import MalformedError

__all__ = ["Form", "SavedHeaders", "form_of", "parse_headers", "parse_leaves_file", "unverified_token"]

_BOM: Final = b"\xef\xbb\xbf"
_SSE: Final = re.compile(rb"(?:^|[\r\n])(?:data|event|id|retry)(?::|[\r\n])")
_NESTED: Final = frozenset(name for known in STREAM_FORMATS.values() for name in known.nested)
"""Members of events in which some streams carry their token."""

_LOOKED_AT: Final = 4096  # comments and keep-alives before the first field


class Form(StrEnum):
    """What the bytes are."""

    BODY = "body"
    STREAM = "stream"
    LINES = "lines"
    TEXT = "text"


def form_of(data: bytes) -> Form:
    """A JSON object is a body, several in lines are lines, server-sent events are a stream, anything else is a text."""
    head = data[:_LOOKED_AT].removeprefix(_BOM)
    if head.lstrip(b" \t\r\n").startswith(b"{"):
        return Form.LINES if _is_lines(data) else Form.BODY
    first = next((line for line in head.splitlines() if line and not line.startswith(b":")), b"")
    return Form.STREAM if _SSE.match(first + b"\n") else Form.TEXT


def _is_lines(data: bytes) -> bool:
    """Whether the first line is JSON by itself, and others follow."""
    first, _, rest = data.lstrip(b" \t\r\n").partition(b"\n")
    if not rest.strip(b" \t\r\n"):
        return False
    try:
        parse_response_json(first, where="line 1")
    except MalformedError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class SavedHeaders:
    """The header fields of a response that bear on its verification, as saved: nothing is believed."""

    token: str | None = None
    salt: str | None = None
    content_digest: str | None = None


def parse_headers(data: bytes, *, where: str) -> SavedHeaders:
    """Read saved header lines, as ``curl -D FILE`` writes them; of several responses (redirects), the last.

    Raises:
        MalformedError: The token or the salt occurs twice with different values, or a value is not printable ASCII.
    """
    found: dict[str, list[str]] = {}
    for line in data.decode("latin-1").splitlines():
        if line.startswith("HTTP/"):
            found = {}
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), []).append(value.strip())

    def single(name: str) -> str | None:
        values = set(found.get(name, ()))
        if len(values) > 1:
            raise MalformedError(f"{name} occurs with different values", where=where)
        value = next(iter(values), None)
        if value is not None and not (value.isascii() and value.isprintable()):
            raise MalformedError(f"{name} is not printable ASCII", where=where)
        return value

    digests = found.get("content-digest")
    return SavedHeaders(single("ai-provenance"), single("ai-provenance-salt"), ", ".join(digests) if digests else None)


def parse_leaves_file(data: bytes, *, where: str) -> list[Any]:
    """The leaves beside a token: an array, or an object that has them as ``leaves``.

    Raises:
        MalformedError: Neither.
    """
    value = parse_response_json(data, where=where)
    if isinstance(value, dict):
        value = value.get("leaves")
    if not isinstance(value, list):
        raise MalformedError("is neither an array of leaves nor an object with them", where=where)
    return value


def unverified_token(data: bytes, form: Form) -> str | None:
    """The token that a body, a stream or lines carry, its last, or None. Nothing it says has been checked.

    Raises:
        MalformedError: The bytes are not of this form.
    """
    if form is Form.TEXT:
        return None
    if form is Form.BODY:
        return _token_in(parse_response_json(data, where="body"))
    if form is Form.LINES:
        return _token_in(parse_response_json(data.rstrip(b" \t\r\n").rpartition(b"\n")[2], where="last line"))
    newest: str | None = None
    for event in EventStream().feed(data):
        if event.data and event.data != DONE:
            said = parse_response_json(event.data, where="event")
            for holder in (said, *(said.get(name) for name in _NESTED if isinstance(said, dict))):
                newest = _token_in(holder) or newest
    return newest


def _token_in(value: Any) -> str | None:
    tag = value.get(TAG_MEMBER) if isinstance(value, dict) else None
    token = tag.get("token") if isinstance(tag, dict) else None
    return token if isinstance(token, str) else None
