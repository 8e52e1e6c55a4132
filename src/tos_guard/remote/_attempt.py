"""What a verifying transport decides of one attempt: what is sent, what is demanded of the answer, and how the verdict is reported.

Without I/O, and whatever client it stands under. `tos_guard.remote._transport` sends, reads and verifies, and has the rules.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal

from tos_guard._canonical import b64url_encode, parse_json
from tos_guard.dialects import LINES_TYPES, TAG_MEMBER, is_running, parse_response_json
from tos_guard.errors import (
    AbsentError,
    IncompleteError,
    MalformedError,
    NonceError,
    UnacceptableError,
    UntrustedIssuerError,
    VerificationError,
)
from tos_guard.types import Stage
from tos_guard.verify import Expected, Verified

__all__ = [
    "EXTENSION",
    "MAX_SEAL_BYTES",
    "SECRET_BYTES",
    "TOKEN",
    "Attempt",
    "ResponseCheck",
    "ResponseChecks",
    "Way",
    "decoded",
    "digest_of",
    "emptied",
    "fetched",
    "grown",
    "prepare",
    "report",
    "same_response",
    "sent",
    "unended",
]

EXTENSION: Final = "tos_guard"
MAX_BODY_BYTES: Final = 64 * 1024 * 1024  # of a whole body, held in memory until it is verified; JSON may have 16 MiB (C9)
NONCE_BYTES: Final = 16
SECRET_BYTES: Final = 32
MAX_SEAL_BYTES: Final = 65_536  # of a fetched seal: a token and some leaves

TOKEN: Final = "ai-provenance"
_NONCE: Final = "ai-provenance-nonce"
_SALT: Final = "ai-provenance-salt"
_IDEMPOTENCY_KEY: Final = "idempotency-key"
_DIGEST: Final = "content-digest"
_EVENT_STREAM: Final = "text/event-stream"
_REQUEST_ID: Final = "x-request-id"
_REQUEST_IDS: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CREDENTIALS: Final = frozenset({b"host", b"authorization", b"x-api-key", b"cookie", b"user-agent"})
"""What of a request goes along when its response's seal is asked for."""

_STORED: Final = {
    "GET": re.compile(r"/(?:responses|chat/completions)/[^/]+\Z"),
    "POST": re.compile(r"/responses/[^/]+/cancel\Z"),
}
"""How the path ends of a request that is answered with a response made before, by method (docs/adr/0008, "Retrieval")."""

_OF_THE_CODING: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
_OF_THE_WAY: Final = frozenset({b"accept-encoding", b"transfer-encoding"})
"""What of a request does not go on: its body goes whole, with its length, and a second framing beside that is refused by servers."""

_LEFT: Final = "was closed before it could be judged"


@dataclass(slots=True)
class ResponseCheck:
    """What is known of one response: its extension ``tos_guard``. For a stream it fills when the stream is judged.

    Attributes:
        verified: What was proven, or None.
        error: Why nothing was, or None.
        passed: Why the response was handed on unverified, or None.
    """

    verified: Verified | None = None
    error: VerificationError | None = None
    passed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseChecks:
    """What a transport demands of responses.

    Attributes:
        origins: Origins that answer for an issuer of another name, such as a gateway: origin → issuer. An issuer answers for itself.
        unverified_origins: Origins whose responses pass unverified. Requests to any other origin are not sent.
        exempt_paths: Paths whose responses pass unverified.
        on_missing: ``raise`` refuses a 2xx response without a token; ``report`` hands it on and tells `on_unverified`.
        require_request: A response must bring the salt that binds its token to the request. Without it a token that is bound by its
            nonce alone is accepted, and `Verified.request_checked` is false.
        send_nonce: Send a nonce with each attempt, unless the caller sent one, and demand it back. It is fresh, but for requests with an
            ``Idempotency-Key``: all attempts of one have the same. Of a stored response that is retrieved none is demanded back but one
            that the caller sent or expects; `Verified.nonce_checked` says whether it came.
        seals_path: Path under which the origin keeps seals of responses that could not carry them (`seals_uri` in its metadata, without
            the origin and the request id), such as ``/account/seals``; None to take such responses for incomplete.
        expected: Further demands: audience, policies.
        on_verified: Called with what was proven and the response, once per response.
        on_unverified: Called with the error and the response: one that is raised, one that is reported, or an `IncompleteError` for
            a stream that the client closed before it could be judged.
    """

    origins: Mapping[str, str] = field(default_factory=dict)
    unverified_origins: Collection[str] = ()
    exempt_paths: Collection[str] = ()
    on_missing: Literal["raise", "report"] = "raise"
    require_request: bool = True
    send_nonce: bool = True
    seals_path: str | None = None
    expected: Expected | None = None
    on_verified: Callable[[Verified, Any], None] | None = None
    on_unverified: Callable[[VerificationError, Any], None] | None = None

    def __post_init__(self) -> None:
        if self.on_missing not in ("raise", "report"):
            raise ValueError(f"on_missing is 'raise' or 'report', not {self.on_missing!r}")
        if self.seals_path is not None and not self.seals_path.startswith("/"):
            raise ValueError(f"seals_path is a path such as '/account/seals', not {self.seals_path!r}")


class Way(Enum):
    PASS = "pass"
    EMPTY = "empty"
    BODY = "body"
    LINES = "lines"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request as it is sent.

    Attributes:
        checks: What is demanded.
        issuer: Who must have sealed the answer.
        method: Of the request.
        path: Its decoded path.
        headers: Its header fields, with ours.
        body: Its body.
        nonce: The nonce in them, or None.
        demanded_nonce: The nonce that the token must name, or None for any.
        retrieves: It is answered with a response made before, whose token names the nonce of the request that made it and is bound to that.
        is_coded: The body has a content coding, so that its bytes are not what the token binds.
    """

    checks: ResponseChecks
    issuer: str
    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    nonce: str | None
    demanded_nonce: str | None
    retrieves: bool
    is_coded: bool

    def way(self, status: int, headers: Mapping[str, str], check: ResponseCheck) -> Way:
        """What is done with a response."""
        if self.path in self.checks.exempt_paths:
            check.passed = f"path {self.path} is exempt"
        elif not 200 <= status < 300 and TOKEN not in headers:
            check.passed = f"status {status} without a token"
        elif self.method == "HEAD" or status in (204, 304):
            check.passed = "no content"
            return Way.EMPTY
        else:
            media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type == _EVENT_STREAM:
                return Way.STREAM
            return Way.LINES if media_type.encode("latin-1", "replace") in LINES_TYPES else Way.BODY
        return Way.PASS

    def expected(self, headers: Mapping[str, str]) -> Expected:
        """What the token must be bound to."""
        salt = headers.get(_SALT)
        binds = salt is not None and not self.is_coded
        demands = self.checks.expected or Expected()
        return replace(demands, nonce=self.demanded_nonce, request=self.body if binds else None, salt=salt if binds else None)

    def accept(self, verified: Verified) -> Verified:
        """Check what only the attempt knows.

        Raises:
            UnacceptableError: Sealed by another issuer than the one asked.
            NonceError: Nothing binds the token to the request.
        """
        if verified.claims.iss != self.issuer:
            raise UnacceptableError(f"the response of {self.issuer} is sealed by {verified.claims.iss}", where="token iss")
        if self.retrieves:
            was_named = self.nonce is not None and verified.claims.nonce == self.nonce
            return replace(verified, nonce_checked=verified.nonce_checked or was_named)
        if self.checks.require_request and not self.is_coded and not verified.request_checked:
            raise NonceError(
                "the response came without the salt that binds it to its request",
                where="AI-Provenance-Salt",
                cure="Set require_request=False if something on the way removes it.",
            )
        return verified

    def pass_unended(self, check: ResponseCheck, verified: Verified, error: IncompleteError) -> None:
        """Hand on a response that runs on in the background: its pending token is right, and nothing is in it yet.

        Raises:
            IncompleteError: Its token is of another stage.
            VerificationError: As `accept`.
        """
        if self.accept(verified).claims.stage is not Stage.PENDING:
            raise error
        check.passed = "the response has not ended"

    def seal_request(self, library: Any, request: Any, response: Any) -> Any | None:
        """What asks for the final token of a response, or None where there is nowhere to ask."""
        rid = response.headers.get(_REQUEST_ID, "")
        if self.checks.seals_path is None or _REQUEST_IDS.fullmatch(rid) is None:
            return None
        url = request.url.copy_with(raw_path=f"{self.checks.seals_path.rstrip('/')}/{rid}".encode("ascii"))
        headers = [(name, value) for name, value in self.headers if name.lower() in _CREDENTIALS]
        return library.Request("GET", url, headers=[*headers, (b"Accept-Encoding", b"identity")], extensions=request.extensions)

    def succeed(self, check: ResponseCheck, verified: Verified, response: Any) -> None:
        """Report what was proven, once."""
        if check.verified is None:
            check.verified = verified
            if self.checks.on_verified is not None:
                self.checks.on_verified(verified, response)

    def fail(self, check: ResponseCheck, error: VerificationError, response: Any) -> None:
        """Report an error, once, whatever was thought before.

        Raises:
            VerificationError: The error, unless the policy says to report it only.
        """
        if check.error is None:
            check.verified, check.error = None, error
            if self.checks.on_unverified is not None:
                self.checks.on_unverified(error, response)
        if not (isinstance(error, AbsentError) and self.checks.on_missing == "report"):
            raise error


def _origin(url: Any) -> str:
    host = url.raw_host.decode("ascii")
    port = f":{url.port}" if url.port is not None else ""
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def prepare(checks: ResponseChecks, issuers: frozenset[str], secret: bytes, request: Any, body: bytes) -> Attempt | None:
    """Prepare one attempt, or None for an origin that is not verified.

    Args:
        checks: What is demanded.
        issuers: Who is trusted.
        secret: Of the transport, for the nonces of retries.
        request: The client's request.
        body: Its body.

    Raises:
        UntrustedIssuerError: Nothing is known of the origin; nothing is sent.
    """
    origin = _origin(request.url)
    if origin in checks.unverified_origins:
        return None
    issuer = checks.origins.get(origin, origin)
    if issuer not in issuers:
        raise UntrustedIssuerError(
            f"{origin} answers for no issuer that is trusted", where="request", cure="Nothing was sent. Name it in ResponseChecks.origins."
        )
    headers = [(name, value) for name, value in request.headers.raw if name.lower() not in _OF_THE_WAY]
    headers.append((b"Accept-Encoding", b"identity"))  # what is verified is what was sealed, before any coding
    nonce = request.headers.get(_NONCE)
    stored = _STORED.get(request.method)
    retrieves = stored is not None and stored.search(request.url.path) is not None
    demanded = nonce if nonce is not None else checks.expected.nonce if checks.expected is not None else None
    if nonce is None and checks.send_nonce:
        nonce = _nonce(secret, request, body)
        headers.append((b"AI-Provenance-Nonce", nonce.encode("ascii")))
        demanded = demanded if retrieves else nonce
    is_coded = request.headers.get("content-encoding", "identity").lower() != "identity"
    return Attempt(checks, issuer, request.method, request.url.path, headers, body, nonce, demanded, retrieves, is_coded)


def _nonce(secret: bytes, request: Any, body: bytes) -> str:
    """A nonce that nobody else can know before it is sent: fresh, or the one of all attempts of this request under its key."""
    key = request.headers.get(_IDEMPOTENCY_KEY)
    if key is None:
        return secrets.token_urlsafe(NONCE_BYTES)
    # In one JSON text, so that no two of them say the same. Another request under the same key gets another nonce.
    named = json.dumps([key, request.method, str(request.url), hashlib.sha256(body).hexdigest()])
    return b64url_encode(hmac.digest(secret, named.encode("ascii"), hashlib.sha256)[:NONCE_BYTES])


def sent(library: Any, request: Any, attempt: Attempt) -> Any:
    return library.Request(request.method, request.url, headers=attempt.headers, content=attempt.body, extensions=request.extensions)


def decoded(library: Any, response: Any, stream: Any) -> Any:
    """The response with a body that has been decoded."""
    is_coded = "content-encoding" in response.headers
    kept = [(name, value) for name, value in response.headers.raw if not (is_coded and name.lower() in _OF_THE_CODING)]
    return library.Response(response.status_code, headers=kept, stream=stream, extensions=response.extensions)


def emptied(library: Any, response: Any, attempt: Attempt, check: ResponseCheck, *, has_content: bool) -> Any:
    """A response of a method or status that allows no content.

    Raises:
        MalformedError: It has some, which HTTP/1 would not have told and nobody has verified.
    """
    if has_content:
        check.passed = None
        attempt.fail(check, MalformedError("has content where its method or status allows none", where="body"), response)
    return library.Response(
        response.status_code, headers=response.headers.raw, stream=library.ByteStream(b""), extensions=response.extensions
    )


def digest_of(response: Any) -> str | None:
    """The digest, where it is of the bytes as they came."""
    return None if "content-encoding" in response.headers else response.headers.get(_DIGEST)


def grown(body: bytearray, chunk: bytes) -> bytearray:
    body += chunk
    if len(body) > MAX_BODY_BYTES:
        raise MalformedError(f"is larger than {MAX_BODY_BYTES} bytes", where="body", cure="Ask for a stream.")
    return body


def unended(body: bytes, token: str | None) -> str | None:
    """The pending token of a response that runs on in the background and has no output yet; None for any other body."""
    try:
        document = parse_response_json(body, where="body")
    except MalformedError:
        return None
    if not isinstance(document, dict) or not is_running(document) or document["output"]:
        return None
    tag = document.get(TAG_MEMBER)
    named = tag.get("token") if isinstance(tag, dict) else token
    return named if isinstance(named, str) else None


def fetched(status: int, body: bytes, error: IncompleteError) -> str:
    """The final token that was asked for.

    Raises:
        IncompleteError: There is none.
    """
    try:
        document = parse_json(body, where="seal", max_depth=4, max_bytes=MAX_SEAL_BYTES) if status == 200 else None
    except MalformedError:
        document = None
    token = document.get("token") if isinstance(document, dict) else None
    if not isinstance(token, str):
        raise error
    return token


def same_response(verified: Verified, response: Any) -> Verified:
    """What was proven, of the response whose seal was asked for.

    Raises:
        UnacceptableError: It is that of another.
    """
    if verified.claims.rid != response.headers.get(_REQUEST_ID):
        raise UnacceptableError("the seal is that of another response", where="token rid")
    return verified


def report(attempt: Attempt, check: ResponseCheck, error: VerificationError, response: Any) -> None:
    """Report without raising: an error out of `close` would hide the one that led there."""
    left = error
    if isinstance(error, AbsentError | IncompleteError):
        left = IncompleteError(_LEFT, where="stream", cure="Read a stream to its end.")
    try:
        attempt.fail(check, left, response)
    except VerificationError:
        return
