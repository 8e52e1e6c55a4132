"""Guarded responses as they arrive, proxies included: is the tag still there, the content unchanged, the stream a stream?"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tos_guard._content_digest import check_content_digest
from tos_guard.cli._doctor._check import Check, ok, problem, warning
from tos_guard.cli._doctor._http import Answer, Origin, UnreachableError, ask
from tos_guard.cli._doctor._published import PASS_ON, json_object, local_keys, published_keys
from tos_guard.dialects import TAG_MEMBER
from tos_guard.errors import TosGuardError, VerificationError
from tos_guard.provenance import parse_token
from tos_guard.verify import Expected, Trust, verify_body, verify_stream

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings

__all__ = ["Question", "check_responses", "is_held_back", "is_in_one_piece"]

SMALL_BUFFER_BYTES: Final = 4_096
"""What nginx gives the head of a response by default on most machines (proxy_buffer_size); a larger one is answered with 502."""

LARGE_BUFFER_BYTES: Final = 8_192
"""What most servers and clients take."""

_ALWAYS: Final = ("ai-provenance", "ai-provenance-salt", "link", "x-request-id")
"""Fields of every sealed response; a whole one has a digest beside them."""

_NAMES: Final = {name.lower(): name for name in ("AI-Provenance", "AI-Provenance-Salt", "Link", "X-Request-ID", "Content-Digest")}
_PROMPT: Final = "Count to twelve."
_MAX_TOKENS: Final = 32
_MAX_DECODED_BYTES: Final = 16 * 1024 * 1024

_MOMENT: Final = 1.0
"""Seconds. What took less may well have been made at once."""

_FEW_EVENTS: Final = 3
_BURST: Final = 0.05
"""Part of the time since the head in which all events came, where somebody held them."""


_MESSAGES: Final[dict[str, Any]] = {"messages": [{"role": "user", "content": _PROMPT}], "max_tokens": _MAX_TOKENS}
ASKED: Final[dict[str, dict[str, Any]]] = {
    "openai-chat": _MESSAGES,
    "anthropic-messages": _MESSAGES,
    "openai-completions": {"prompt": _PROMPT, "max_tokens": _MAX_TOKENS},
    "openai-responses": {"input": _PROMPT, "max_output_tokens": _MAX_TOKENS, "store": False},
}
"""Dialects that stream, and how each is asked a small question."""


@dataclass(frozen=True, slots=True)
class Question:
    """A small request that the guard should seal.

    Attributes:
        path: A guarded path.
        model: Model to ask.
        api_key: The credential.
        dialect: The dialect of its route, or None where nobody knows.
    """

    path: str
    model: str
    api_key: str
    dialect: str | None

    @property
    def can_stream(self) -> bool:
        """Whether the route can answer in a stream."""
        return self.dialect in ASKED

    def body(self, *, stream: bool) -> bytes:
        """The request body."""
        asked: dict[str, Any] = {"model": self.model}
        if self.dialect in ASKED:
            asked |= {**ASKED[self.dialect], "stream": stream}
        return json.dumps(asked).encode("ascii")

    def headers(self) -> dict[str, str]:
        """The header fields."""
        return {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}


def check_responses(origin: Origin, question: Question, settings: GuardSettings | None, now: datetime) -> Iterator[Check]:
    """Whether what the guard seals arrives as it was sealed: one whole response, and where the route can stream, one stream."""
    trust = _trust(origin, settings, now)
    if trust is None:
        return  # said already
    yield from _checked(origin, question, trust, now, stream=False)
    if question.can_stream:
        yield from _checked(origin, question, trust, now, stream=True)


def _trust(origin: Origin, settings: GuardSettings | None, now: datetime) -> Trust | None:
    keys = local_keys(settings, now)
    if keys is None:
        published = published_keys(origin)
        keys = None if isinstance(published, Check) else published
    try:
        return None if keys is None else Trust.of(keys)
    except ValueError:
        return None


def _checked(origin: Origin, question: Question, trust: Trust, now: datetime, *, stream: bool) -> Iterator[Check]:
    where = f"POST {origin}{question.path}" + (" (stream)" if stream else "")
    body = question.body(stream=stream)
    try:
        answer = ask(
            origin,
            "POST",
            question.path,
            headers=question.headers() | ({"Accept-Encoding": "gzip", "Accept": "text/event-stream"} if stream else {}),
            body=body,
        )
    except UnreachableError as error:
        cure = "Look into the logs of the proxy and of the server."
        yield problem("unreachable", f"there was no whole answer ({error})", where=where, cure=cure)
        return
    if (refused := _refused(answer, where)) is not None:
        yield refused
        return
    found = [*(_stream(answer, body, trust, now, where) if stream else _whole(answer, body, trust, now, where)), *_head_size(answer, where)]
    yield from found
    if not found:
        code, what = (
            ("stream", "sealed; it arrives as it is made, and verifies") if stream else ("response", "sealed, and verifies byte for byte")
        )
        yield ok(code, f"{what}; its head has {answer.head_bytes} bytes", where)


def _refused(answer: Answer, where: str) -> Check | None:
    """Why the question was not answered, if it was not."""
    if answer.status in (200, 201) or (answer.field("ai-provenance") is not None and answer.status < 500):
        return None
    error = json_object(answer.body)
    error = error["error"] if isinstance(error.get("error"), dict) else error
    code, said = error.get("code"), str(error.get("message") or error.get("detail") or error.get("title") or "")[:300]
    if isinstance(code, str) and code.startswith("tos_"):
        cure = "Ask with the key and --model of an account that may: 'tos-guard accounts explain' says what stands against it."
        return problem("request-refused", f"the guard refuses it ({answer.status}, {code}): {said}", where=where, cure=cure)
    what = f"is answered with {answer.status}" + (f": {said}" if said else "")
    return problem(
        "request-failed", what, where=where, cure="Look into the logs of the proxy and of the server; --path names another route."
    )


def _decoded(answer: Answer) -> bytes | None:
    """The body without its coding; None for a coding that is not known here."""
    coding = (answer.field("content-encoding") or "identity").lower()
    if coding == "identity":
        return answer.body
    if coding != "gzip":
        return None
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(answer.body)) as file:
            return file.read(_MAX_DECODED_BYTES)
    except (OSError, EOFError, zlib.error):
        return None


def _stripped(answer: Answer, names: tuple[str, ...], where: str) -> Iterator[Check]:
    missing = [_NAMES[name] for name in names if answer.field(name) is None]
    if missing:
        yield problem("fields-stripped", f"arrives without {', '.join(missing)}", where=where, cure=PASS_ON)


def _whole(answer: Answer, request: bytes, trust: Trust, now: datetime, where: str) -> Iterator[Check]:
    """A response that is sent whole."""
    if answer.field("content-encoding") not in (None, "identity"):
        yield problem("re-encoded", f"arrives as {answer.field('content-encoding')}, which nobody asked for", where=where, cure=PASS_ON)
    body = _decoded(answer)
    if body is None:
        return
    tag, token = TAG_MEMBER in json_object(body), answer.field("ai-provenance")
    if not tag and token is None:
        yield _not_sealed(where)
        return
    yield from _stripped(answer, (*_ALWAYS, "content-digest"), where)
    if not tag and _isjson_object(body):
        yield problem("tag-stripped", f"arrives without the member {TAG_MEMBER!r}", where=where, cure=PASS_ON)
        return
    if (digest := answer.field("content-digest")) is not None and (changed := _changed(digest, body)) is not None:
        yield problem("content-changed", f"is not what was sealed: {changed}", where=where, cure=PASS_ON)
        return
    salt = answer.field("ai-provenance-salt")
    expected = Expected(request=request, salt=salt) if salt is not None else None
    try:
        verify_body(body, trust=trust, now=_later(now), token=token, expected=expected)
    except VerificationError as error:
        yield _unproven(error, where)


def _not_sealed(where: str) -> Check:
    cure = "See to it that the path is under [routes], and that the proxy passes both the field AI-Provenance and the body on unchanged."
    return problem("not-sealed", "carries no tag, neither as field nor in its body", where=where, cure=cure)


def _unproven(error: VerificationError, where: str) -> Check:
    return problem("does-not-verify", f"does not verify: {error}", where=where, cure=error.cure or PASS_ON)


def _isjson_object(body: bytes) -> bool:
    return body.lstrip(b" \t\r\n").startswith(b"{")


def _changed(digest: str, body: bytes) -> str | None:
    """How the bytes differ from what Content-Digest says, or None."""
    try:
        check_content_digest(digest, body)
    except VerificationError as error:
        return str(error)
    return None


def _later(now: datetime) -> datetime:
    """The present, when an answer has come: its token may be of the seconds that it took."""
    return max(now, datetime.now(UTC))


def _stream(answer: Answer, request: bytes, trust: Trust, now: datetime, where: str) -> Iterator[Check]:
    """A response that is streamed."""
    kind = (answer.field("content-type") or "").split(";")[0].strip().lower()
    if kind != "text/event-stream":
        what = f"was asked for as a stream, and arrives as {kind or 'nothing in particular'}"
        yield problem(
            "stream-collected",
            what,
            where=where,
            cure="Let the proxy pass streams on; where the model cannot stream, --path names another.",
        )
        return
    yield from _held(answer, where)
    body = _decoded(answer)
    if body is None:
        return
    yield from _stripped(answer, _ALWAYS, where)
    salt = answer.field("ai-provenance-salt")
    expected = Expected(request=request, salt=salt) if salt is not None else None
    try:
        verified = verify_stream(body, trust=trust, now=_later(now), token=answer.field("ai-provenance"), expected=expected)
    except VerificationError as error:
        yield _unproven(error, where)
        return
    pending = _issued_at(answer.field("ai-provenance"))
    if pending is not None and is_held_back(verified.claims.iat - pending, answer.head_at, answer.arrivals):
        yield _buffered(f"was made over {verified.claims.iat - pending} s, by its signed times, and arrived at once", where)
    elif is_in_one_piece(body.count(b"data:"), answer.head_at, answer.arrivals):
        what = "its events arrived all at once, long after its head: the model made them so, or somebody holds them back"
        cure = (
            "Ask the server itself, without the proxy: where its events come one by one, switch buffering off (nginx: proxy_buffering off)."
        )
        yield warning("stream-perhaps-buffered", what, where=where, cure=cure)


def _held(answer: Answer, where: str) -> Iterator[Check]:
    """Signs that somebody collects a stream before passing it on."""
    if answer.field("content-length") is not None:
        yield _buffered("arrives with a Content-Length: somebody has waited for its end", where)
    elif answer.field("content-encoding") not in (None, "identity"):
        what = f"arrives as {answer.field('content-encoding')}: a compressor holds events back until a block is full"
        yield warning("stream-compressed", what, where=where, cure="Exclude text/event-stream from compression.")


def _buffered(what: str, where: str) -> Check:
    return problem("stream-buffered", what, where=where, cure="Switch buffering off for it, in nginx with proxy_buffering off.")


def is_held_back(signed_seconds: int, head_at: float, arrivals: tuple[tuple[float, int], ...]) -> bool:
    """Whether a stream arrived in less time than it took to make: for certain, and not by the feel of it.

    Args:
        signed_seconds: Between pending and final token, both made at the server in whole seconds.
        head_at: When the head came, in seconds since the question.
        arrivals: When each piece came, likewise.
    """
    if not arrivals:
        return False
    # Whole seconds: 2 apart means that more than 1 has passed.
    return signed_seconds >= 2 and arrivals[-1][0] - head_at < signed_seconds - 1


def is_in_one_piece(events: int, head_at: float, arrivals: tuple[tuple[float, int], ...]) -> bool:
    """Whether several events arrived together, long after the head.

    Args:
        events: How many there are.
        head_at: When the head came, in seconds since the question.
        arrivals: When each piece came, likewise.
    """
    if not arrivals:
        return False
    waited = arrivals[-1][0] - head_at
    return events >= _FEW_EVENTS and waited >= _MOMENT and arrivals[-1][0] - arrivals[0][0] < _BURST * waited


def _issued_at(token: str | None) -> int | None:
    """When a token says that it was made. It is compared, and not believed."""
    try:
        issued = parse_token(token).jws.payload.get("iat") if token is not None else None
    except TosGuardError:
        return None
    return issued if type(issued) is int else None


def _head_size(answer: Answer, where: str) -> Iterator[Check]:
    size = answer.head_bytes
    if size > SMALL_BUFFER_BYTES:
        level = problem if size > LARGE_BUFFER_BYTES else warning
        what = f"its head has {size} bytes; a proxy whose buffer is smaller answers 502"
        yield level(
            "head-too-large",
            what,
            where=where,
            cure="Shorten the application's own fields, or enlarge the buffer: in nginx proxy_buffer_size 16k.",
        )
