"""Form bodies: which text fields a request has, read so strictly that no server reads others (RFC 7578; WHATWG URL section 5).

Whoever sends a form instead of JSON must not get around the right to a model. Where form readers differ (escapes in names, transfer
encodings, other charsets, preambles, bare line feeds), the form is refused rather than guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from tos_guard.errors import MalformedRequestError

__all__ = ["Form", "is_form", "parse_form"]

URLENCODED: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/"  # some servers read any of these as form data

MAX_FIELDS: Final = 1_000  # as Starlette and Werkzeug
MAX_HEADER_BYTES: Final = 8_192  # of one part
MAX_CONTENT_TYPE_CHARS: Final = 512
MAX_VALUE_BYTES: Final = 4_096  # of a value that is kept: names and numbers, no prompts

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'\s*;\s*({_TOKEN})=(?:"([^"\\\r\n]*)"|({_TOKEN}))')
_MEDIA_TYPE: Final = re.compile(rf"\s*({_TOKEN}/{_TOKEN})")
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_DISPOSITION: Final = re.compile(r"form-data(?=\s*;)", re.IGNORECASE)
_CHARSETS: Final = frozenset({"utf-8", "us-ascii"})
_UNENCODED: Final = frozenset({"7bit", "8bit", "binary"})

_WHERE: Final = "request form"


@dataclass(frozen=True, slots=True)
class Form:
    """What is read of a form.

    Attributes:
        fields: Values of its text fields by name; the first of several, and only short ones.
        repeated: Names that occur more than once, as field or file.
        oversized: Names of fields that are too long to be kept.
        files: Names of its files, one for each.
    """

    fields: dict[str, str] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    oversized: set[str] = field(default_factory=set)
    files: list[str] = field(default_factory=list)


class _Part(NamedTuple):
    name: str
    is_file: bool
    value: memoryview


def is_form(media_type: str) -> bool:
    """Whether a body of this media type is a form."""
    return media_type == URLENCODED or media_type.startswith(MULTIPART)


def parse_form(body: bytes, content_type: str) -> Form:
    """Read a form.

    Args:
        body: The request's body.
        content_type: The field ``Content-Type``, of which `is_form` holds.

    Raises:
        MalformedRequestError: Not such a form, or one that servers could read in different ways.
    """
    media_type, parameters = _content_type(content_type)
    if parameters.get("charset", "utf-8").lower() not in _CHARSETS:
        raise _refused("is not in UTF-8")
    parts = _urlencoded(body) if media_type == URLENCODED else _multipart(body, parameters.get("boundary", ""))
    form = Form()
    seen: set[str] = set()
    for count, part in enumerate(parts, 1):
        if count > MAX_FIELDS:
            raise _refused(f"has more than {MAX_FIELDS} fields")
        if part.name in seen:
            form.repeated.add(part.name)
        seen.add(part.name)
        if part.is_file:
            form.files.append(part.name)
        elif len(part.value) > MAX_VALUE_BYTES:
            form.oversized.add(part.name)
        else:
            form.fields.setdefault(part.name, _text(bytes(part.value)))
    return form


def _refused(what: str) -> MalformedRequestError:
    return MalformedRequestError(what, where=_WHERE, cure="Send a plain form as browsers and HTTP clients do, in UTF-8.")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _refused("is not in UTF-8") from None


def _content_type(value: str) -> tuple[str, dict[str, str]]:
    found = _MEDIA_TYPE.match(value)
    if found is None or len(value) > MAX_CONTENT_TYPE_CHARS:
        raise _refused("has no plain media type")
    return found[1].lower(), _parameters(value, found.end())


def _parameters(value: str, at: int) -> dict[str, str]:
    """Parameters of a header field, each once and plainly spelled.

    Some readers put ``name*0`` and ``boundary*=…`` (RFC 2231) in the place of ``name`` and ``boundary``, others pass over them.
    """
    parameters: dict[str, str] = {}
    while at < len(value):
        found = _PARAMETER.match(value, at)
        if found is None:
            if not value[at:].strip(" \t"):
                break
            raise _refused("has a header that cannot be read in one way")
        name = found[1].lower()
        if "*" in name and name != "filename*":
            raise _refused(f"has a header with a parameter {name!r}, which some readers take for another")
        if name in parameters:
            raise _refused(f"has a header with two parameters {name!r}")
        parameters[name] = found[3] if found[2] is None else found[2]
        at = found.end()
    return parameters


def _urlencoded(body: bytes) -> Iterator[_Part]:
    if b";" in body:
        raise _refused("has a semicolon, at which some readers part fields")
    for pair in body.split(b"&"):
        if not pair:
            continue
        name, _, value = pair.partition(b"=")
        yield _Part(_text(_unquoted(name)), False, memoryview(_unquoted(value)))


def _unquoted(data: bytes) -> bytes:
    return unquote_to_bytes(data.replace(b"+", b" "))


def _multipart(body: bytes, boundary: str) -> Iterator[_Part]:
    if _BOUNDARY.fullmatch(boundary) is None:
        raise _refused("has no boundary")
    opening = b"--" + boundary.encode("ascii")
    if not body.startswith(opening):
        raise _refused("does not begin with its boundary")
    view = memoryview(body)
    at = len(opening)
    while True:
        if body.startswith(b"--", at):
            if body[at + 2 :] not in (b"", b"\r\n"):
                raise _refused("goes on after its end")
            return
        headers_end = body.find(b"\r\n\r\n", at, at + MAX_HEADER_BYTES)
        if not body.startswith(b"\r\n", at) or headers_end < 0:
            raise _refused("has a part whose headers cannot be read")
        start = headers_end + 4
        # Some readers take a boundary behind a bare line feed for one, others do not: it may stand nowhere but where it bounds.
        bound = body.find(opening, start)
        if bound < start + 2 or body[bound - 2 : bound] != b"\r\n":
            raise _refused("has a part without a proper end")
        name, is_file = _read_headers(body[at + 2 : headers_end])
        yield _Part(name, is_file, view[start : bound - 2])
        at = bound + len(opening)


def _read_headers(data: bytes) -> tuple[str, bool]:
    """Name of a part, and whether it is a file."""
    text = _text(data)
    found: dict[str, str] = {}
    for line in text.split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon or re.fullmatch(_TOKEN, name) is None or "\n" in line or "\r" in line or name.lower() in found:
            raise _refused("has a part whose headers cannot be read")
        found[name.lower()] = value.strip(" \t")
    disposition = found.get("content-disposition", "")
    kind = _DISPOSITION.match(disposition)
    if kind is None:
        raise _refused("has a part that is no form data")
    if found.get("content-transfer-encoding", "binary").lower() not in _UNENCODED:
        raise _refused("has a part in a transfer encoding")
    if found.get("content-type", "").lower().startswith(MULTIPART):
        raise _refused("has a form within a part")
    parameters = _parameters(disposition, kind.end())
    if "name" not in parameters:
        raise _refused("has a part without a plain name")
    return parameters["name"], not {"filename", "filename*"}.isdisjoint(parameters)
