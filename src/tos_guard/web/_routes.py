"""What routes of our own have in common: how a request comes in, in which form its answer goes out, what its body may be.

- Sans-IO: `OwnRoutes` are told the head of a request, then its body, and give an answer. In between they yield what they need of the
  guard (`tos_guard.guard.Steps`), so that any adapter can drive them.
- Whoever asks is known before the body is read.
- A body of JSON says so: a page of another origin can send no such body unasked. Forms are for whoever has a token against forgery.
- Every answer depends on who asks, and is stored nowhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote

from tos_guard._canonical import parse_json
from tos_guard.errors import ConfigurationError, MalformedError, MalformedRequestError, RequestError
from tos_guard.guard import GuardSteps, RequestView, Steps

__all__ = [
    "MAX_BODY_BYTES",
    "Answer",
    "MethodNotAllowedError",
    "OwnRoutes",
    "UnsupportedMediaTypeError",
    "WebRequest",
    "answer",
    "check_prefix",
    "form_members",
    "is_json",
    "json_answer",
    "json_members",
    "prefers_json",
    "refusal_answer",
    "segments_of",
    "wants_page",
]

MAX_BODY_BYTES: Final = 65_536  # a dozen fields of a form or an object, at their longest
MAX_DEPTH: Final = 6  # an account with the limits of its grants nests 4 deep
MAX_FIELDS: Final = 20
MAX_FIELD_CHARS: Final = 4_096

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, header fields and body."""

_Who = TypeVar("_Who")
_QUALITY: Final = re.compile(r"q=([01](?:\.\d{0,3})?)", re.IGNORECASE)
_PRIVATE: Final = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class MethodNotAllowedError(RequestError):
    """The path knows no such method.

    Attributes:
        allowed: Methods it knows.
    """

    code = "tos_method_not_allowed"
    status = 405

    def __init__(self, *allowed: str) -> None:
        super().__init__(f"is served by {' and '.join(allowed)} alone", where="method", cure=f"Use {allowed[0]}.")
        self.allowed = allowed


class UnsupportedMediaTypeError(RequestError):
    """The body is of a type that the route does not read."""

    code = "tos_unsupported_media_type"
    status = 415


@dataclass(frozen=True, slots=True)
class WebRequest:
    """A request to a route of ours.

    Attributes:
        view: Its head.
        segments: Its path below the routes' prefix, segment by segment, each decoded.
        query: Its query.
        root: What the app is mounted under: it stands before each path in links.
        body: Its body; empty until it has been read.
    """

    view: RequestView
    segments: tuple[str, ...]
    query: bytes = b""
    root: str = ""
    body: bytes = b""

    def parameters(self) -> dict[str, str]:
        """Members of the query.

        Raises:
            MalformedRequestError: They cannot be read, or one occurs twice.
        """
        return _fields(self.query.decode("latin-1"), where="query")


class OwnRoutes(Protocol[_Who]):
    """Routes that the guard serves itself.

    Attributes:
        prefix: The path that all of them are under.
        name: What they are, as telemetry names where a request came in.
    """

    prefix: str
    name: str

    def owns(self, path: str) -> bool:
        """Whether a path is one of theirs."""
        ...

    def enter(self, request: WebRequest) -> Steps[_Who]:
        """Find who asks, before the body is read.

        Raises:
            RequestError, StoreError: It is nobody who may, or that cannot be told.
        """
        ...

    def still(self, who: _Who, request: WebRequest) -> Steps[_Who]:
        """Who asks, as it is now that the body has come slowly. What proved it before, and is good once, is not asked for again.

        Raises:
            RequestError, StoreError: As of `enter`.
        """
        ...

    def body_limit(self, request: WebRequest) -> int:
        """Largest body that is read, in bytes."""
        ...

    def answer(self, who: _Who, request: WebRequest) -> Steps[Answer]:
        """Serve.

        Raises:
            RequestError: It cannot be served.
            StoreError, SignerError: A part failed.
        """
        ...

    def refuse(self, request: WebRequest, error: RequestError) -> Answer:
        """The answer to a request that is not served."""
        ...


def check_prefix(guard: GuardSteps, prefix: str, *, where: str, others: tuple[str | None, ...] = ()) -> str:
    """See that nothing else is served at a prefix or below it.

    Args:
        guard: The guard, whose routes and exemptions are others.
        prefix: The prefix.
        where: The setting that says it.
        others: Prefixes of our own.

    Raises:
        ConfigurationError: Something is.
    """
    mine = prefix.split("/")
    settings = guard.settings
    taken = [path for path in (*settings.routes, *settings.exempt) if _is_below(path, mine)]
    taken += [path for path in settings.exempt if path.endswith("*") and prefix.startswith(path[:-1])]
    taken += [other for other in ("/.well-known", *others) if other and (_is_below(other, mine) or _is_below(prefix, other.split("/")))]
    for path in taken:
        raise ConfigurationError(f"{prefix} and {path} cannot both be served", where=where, cure="Choose another path for one of them.")
    return prefix


def _is_below(path: str, prefix: list[str]) -> bool:
    """Whether a path, whose ``*`` stands for a segment or the rest of one, is or can be below a prefix."""
    parts = path.split("/")
    return len(parts) >= len(prefix) and all(part in ("*", mine) for part, mine in zip(parts, prefix, strict=False))


def segments_of(path: str, prefix: str, raw_path: bytes | None, root: str) -> tuple[str, ...]:
    """The segments of a path below a prefix. An id may hold a slash: as long as the undecoded path is known, it can be told from others.

    Args:
        path: Decoded path, without *root*.
        prefix: The prefix.
        raw_path: Undecoded path with *root*, or None.
        root: What the app is mounted under.
    """
    below = path[len(prefix) :]
    if raw_path is not None:
        parts = [unquote(part) for part in raw_path.decode("latin-1").split("/")]
        found = tuple(parts[len(f"{root}{prefix}".split("/")) :])
        if "".join(f"/{part}" for part in found) == below:
            return found
    return tuple(below.split("/")[1:])


def _accepted(view: RequestView) -> dict[str, float]:
    """Media types that the client names, with their quality."""
    found: dict[str, float] = {}
    value = b",".join(value for name, value in view.headers if name == b"accept").decode("latin-1")
    for item in value.split(","):
        media_type, _, parameters = item.partition(";")
        quality = _QUALITY.search(parameters)
        found[media_type.strip().lower()] = float(quality[1]) if quality is not None else 1.0
    return found


def prefers_json(view: RequestView) -> bool:
    """Whether the client names JSON, and no page before it."""
    accepted = _accepted(view)
    quality = accepted.get("application/json", 0.0)
    return quality > 0 and quality >= accepted.get("text/html", 0.0)


def wants_page(view: RequestView) -> bool:
    """Whether the client names pages, as browsers do."""
    return _accepted(view).get("text/html", 0.0) > 0 and not prefers_json(view)


def _media_type(view: RequestView) -> str:
    return (view.header("content-type") or "").partition(";")[0].strip().lower()


def is_json(view: RequestView) -> bool:
    """Whether the body says that it is JSON.

    Raises:
        MalformedRequestError: The header cannot be read.
    """
    return _media_type(view) == "application/json"


def json_members(request: WebRequest, *, max_bytes: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """The members of a body of JSON.

    Raises:
        UnsupportedMediaTypeError: It does not say that it is JSON.
        MalformedRequestError: It is no object of strict JSON.
    """
    if not is_json(request.view):
        raise UnsupportedMediaTypeError("is not application/json", where="content-type", cure="Send JSON, and say so.")
    try:
        members = parse_json(request.body, where="request body", max_depth=MAX_DEPTH, max_bytes=max_bytes)
    except MalformedError as error:
        raise MalformedRequestError(error.what, where=error.where) from None
    if not isinstance(members, dict):
        raise MalformedRequestError("is not a JSON object", where="request body")
    return members


def form_members(request: WebRequest) -> dict[str, str]:
    """The fields of a form.

    Raises:
        UnsupportedMediaTypeError: It is no form.
        MalformedRequestError: It cannot be read, or a field occurs twice.
    """
    if _media_type(request.view) != "application/x-www-form-urlencoded":
        raise UnsupportedMediaTypeError("is neither a form nor application/json", where="content-type")
    return _fields(request.body.decode("latin-1"), where="request body")


def _fields(text: str, *, where: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:  # too many, or no UTF-8
        raise MalformedRequestError("cannot be read as fields of a form", where=where) from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedRequestError("names a field twice", where=where)
    if any(len(value) > MAX_FIELD_CHARS for value in fields.values()):
        raise MalformedRequestError(f"has a field of more than {MAX_FIELD_CHARS} characters", where=where)
    return fields


def answer(status: int, media_type: bytes, body: bytes, *more: tuple[bytes, bytes]) -> Answer:
    """An answer to whoever asked, and to nobody else."""
    length = (b"content-length", str(len(body)).encode("ascii"))
    return status, [(b"content-type", media_type), length, *_PRIVATE, *more], body


def json_answer(document: Mapping[str, Any], *, status: int = 200) -> Answer:
    """An answer as JSON."""
    return answer(status, b"application/json", json.dumps(document).encode("ascii"))  # escaped, so that no text can stop an answer


def refusal_answer(guard: GuardSteps, error: RequestError) -> Answer:
    """A refusal as problem details, in the shape of every refusal of the guard."""
    head, body = guard.refuse(error)
    headers = list(head.headers)
    if isinstance(error, MethodNotAllowedError):
        headers.append((b"allow", ", ".join(error.allowed).encode("ascii")))
    return head.status, headers, body
