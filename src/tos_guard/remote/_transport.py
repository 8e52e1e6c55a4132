"""What a verifying transport decides, whatever client it stands under: bytes and header fields in, verdicts out.

- A request goes out only to the origin of an issuer, or to one that is named. Each attempt carries a nonce of its own and asks for an
  uncoded body; the token that comes back must name that nonce, that request and that issuer.
- A whole body is verified before the client sees it. A stream is checked as it is read, and judged when it has ended as its form has it
  (``[DONE]``, or a terminal event), when its body ends, or when the client closes it: clients stop reading before the body ends. What a
  client has already read of a stream that then fails has been read; it must not be used as if verified.
- A body that could not carry its token brings a pending one. Where the caller says under which path seals are kept, its final token is
  asked for there, at the same origin and with the same credential, once, when the whole body has come.
- A response outside 2xx without a token passes: refusals are not sealed. A 2xx response without one is `AbsentError`, unless the
  caller named another policy.
- Errors are raised as our own, from inside the client's request or iteration.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal, Protocol

from tos_guard._canonical import parse_json
from tos_guard.errors import (
    AbsentError,
    IncompleteError,
    MalformedError,
    NonceError,
    UnacceptableError,
    UntrustedIssuerError,
    VerificationError,
)
from tos_guard.verify import Expected, Verified

__all__ = [
    "AsyncResponseVerifier",
    "AsyncVerifying",
    "AsyncVerifyingStream",
    "ResponseCheck",
    "ResponseChecks",
    "ResponseVerifier",
    "SyncVerifying",
    "SyncVerifyingStream",
]

EXTENSION: Final = "tos_guard"
MAX_BODY_BYTES: Final = 64 * 1024 * 1024  # of a whole body, held in memory until it is verified; JSON may have 16 MiB (C9)
NONCE_BYTES: Final = 16
MAX_SEAL_BYTES: Final = 65_536  # of a fetched seal: a token and some leaves

_TOKEN: Final = "ai-provenance"
_NONCE: Final = "ai-provenance-nonce"
_SALT: Final = "ai-provenance-salt"
_DIGEST: Final = "content-digest"
_EVENT_STREAM: Final = "text/event-stream"
_REQUEST_ID: Final = "x-request-id"
_REQUEST_IDS: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CREDENTIALS: Final = frozenset({b"host", b"authorization", b"x-api-key", b"cookie", b"user-agent"})
"""What of a request goes along when its response's seal is asked for."""

_OF_THE_CODING: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


class _Stream(Protocol):
    @property
    def done(self) -> bool: ...
    def feed(self, chunk: bytes) -> None: ...
    def finish(self) -> Verified: ...


class _AsyncStream(Protocol):
    @property
    def done(self) -> bool: ...
    async def feed(self, chunk: bytes) -> None: ...
    async def finish(self) -> Verified: ...


class ResponseVerifier(Protocol):
    """What a transport needs of a verifier; `tos_guard.verifier.Verifier` is one."""

    @property
    def issuers(self) -> frozenset[str]:
        """Origins of the issuers that are trusted."""
        ...

    def verify_body(self, body: bytes, *, token: str | None, content_digest: str | None, expected: Expected | None) -> Verified:
        """Prove a whole body. Raises `VerificationError`."""
        ...

    def stream(self, *, token: str | None, expected: Expected | None) -> _Stream:
        """Check a stream as it is read."""
        ...


class AsyncResponseVerifier(Protocol):
    """What an asynchronous transport needs; `tos_guard.verifier.AsyncVerifier` is one."""

    @property
    def issuers(self) -> frozenset[str]:
        """Origins of the issuers that are trusted."""
        ...

    async def verify_body(self, body: bytes, *, token: str | None, content_digest: str | None, expected: Expected | None) -> Verified:
        """As `ResponseVerifier.verify_body`."""
        ...

    def stream(self, *, token: str | None, expected: Expected | None) -> _AsyncStream:
        """As `ResponseVerifier.stream`."""
        ...


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
        send_nonce: Send a fresh nonce with each attempt, unless the caller sent one, and demand it back.
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


class _Way(Enum):
    PASS = "pass"
    BODY = "body"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One request as it is sent."""

    checks: ResponseChecks
    issuer: str
    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    nonce: str | None
    is_coded: bool

    def way(self, status: int, headers: Mapping[str, str], check: ResponseCheck) -> _Way:
        """What is done with a response."""
        if self.path in self.checks.exempt_paths:
            check.passed = f"path {self.path} is exempt"
        elif not 200 <= status < 300 and _TOKEN not in headers:
            check.passed = f"status {status} without a token"
        elif self.method == "HEAD" or status in (204, 304):
            check.passed = "no content"
        else:
            media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            return _Way.STREAM if media_type == _EVENT_STREAM else _Way.BODY
        return _Way.PASS

    def expected(self, headers: Mapping[str, str]) -> Expected:
        """What the token must be bound to."""
        salt = headers.get(_SALT)
        binds = salt is not None and not self.is_coded
        demands = self.checks.expected or Expected()
        nonce = self.nonce if self.nonce is not None else demands.nonce
        return replace(demands, nonce=nonce, request=self.body if binds else None, salt=salt if binds else None)

    def accept(self, verified: Verified) -> Verified:
        """Check what only the attempt knows.

        Raises:
            UnacceptableError: Sealed by another issuer than the one asked.
            NonceError: Nothing binds the token to the request.
        """
        if verified.claims.iss != self.issuer:
            raise UnacceptableError(f"the response of {self.issuer} is sealed by {verified.claims.iss}", where="token iss")
        if self.checks.require_request and not self.is_coded and not verified.request_checked:
            raise NonceError(
                "the response came without the salt that binds it to its request",
                where="AI-Provenance-Salt",
                cure="Set require_request=False if something on the way removes it.",
            )
        return verified

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


def _attempt(checks: ResponseChecks, issuers: frozenset[str], request: Any, body: bytes) -> _Attempt | None:
    """Prepare one attempt, or None for an origin that is not verified.

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
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"accept-encoding"]
    headers.append((b"Accept-Encoding", b"identity"))  # what is verified is what was sealed, before any coding
    nonce = request.headers.get(_NONCE)
    if nonce is None and checks.send_nonce:
        nonce = secrets.token_urlsafe(NONCE_BYTES)
        headers.append((b"AI-Provenance-Nonce", nonce.encode("ascii")))
    is_coded = request.headers.get("content-encoding", "identity").lower() != "identity"
    return _Attempt(checks, issuer, request.method, request.url.path, headers, body, nonce, is_coded)


def _sent(library: Any, request: Any, attempt: _Attempt) -> Any:
    return library.Request(request.method, request.url, headers=attempt.headers, content=attempt.body, extensions=request.extensions)


def _handed_on(library: Any, response: Any, stream: Any) -> Any:
    """The response with a body that has been decoded."""
    is_coded = "content-encoding" in response.headers
    kept = [(name, value) for name, value in response.headers.raw if not (is_coded and name.lower() in _OF_THE_CODING)]
    return library.Response(response.status_code, headers=kept, stream=stream, extensions=response.extensions)


def _digest(response: Any) -> str | None:
    """The digest, where it is of the bytes as they came."""
    return None if "content-encoding" in response.headers else response.headers.get(_DIGEST)


def _grown(body: bytearray, chunk: bytes) -> bytearray:
    body += chunk
    if len(body) > MAX_BODY_BYTES:
        raise MalformedError(f"is larger than {MAX_BODY_BYTES} bytes", where="body", cure="Ask for a stream.")
    return body


def _fetched(status: int, body: bytes, error: IncompleteError) -> str:
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


def _same_response(verified: Verified, response: Any) -> Verified:
    """What was proven, of the response whose seal was asked for.

    Raises:
        UnacceptableError: It is that of another.
    """
    if verified.claims.rid != response.headers.get(_REQUEST_ID):
        raise UnacceptableError("the seal is that of another response", where="token rid")
    return verified


_LEFT: Final = "was closed before it could be judged"


class SyncVerifying:
    """A blocking transport for `library`, the client's module; its public classes add the types."""

    library: Any

    def __init__(self, verifier: ResponseVerifier, inner: Any, checks: ResponseChecks, stream_class: Any) -> None:
        self._verifier = verifier
        self._inner = inner
        self._checks = checks
        self._stream_class = stream_class

    def _handle(self, request: Any) -> Any:
        attempt = _attempt(self._checks, self._verifier.issuers, request, request.read())
        if attempt is None:
            return self._inner.handle_request(request)
        response = self._inner.handle_request(_sent(self.library, request, attempt))
        check = response.extensions[EXTENSION] = ResponseCheck()
        way = attempt.way(response.status_code, response.headers, check)
        if way is _Way.PASS:
            return response
        token, expected = response.headers.get(_TOKEN), attempt.expected(response.headers)
        if way is _Way.STREAM:
            stream = self._stream_class(attempt, self._verifier.stream(token=token, expected=expected), response, check)
            stream.handed_on = _handed_on(self.library, response, stream)
            return stream.handed_on
        body = bytearray()
        try:
            for chunk in response.iter_bytes():
                _grown(body, chunk)
            try:
                verified = self._verifier.verify_body(bytes(body), token=token, content_digest=_digest(response), expected=expected)
            except IncompleteError as error:
                verified = self._verify_detached(attempt, request, response, bytes(body), error)
            attempt.accept(verified)
        except VerificationError as error:
            attempt.fail(check, error, response)
            return _handed_on(self.library, response, self.library.ByteStream(bytes(body)))
        finally:
            response.close()
        handed_on = _handed_on(self.library, response, self.library.ByteStream(bytes(body)))
        attempt.succeed(check, verified, handed_on)
        return handed_on

    def _verify_detached(self, attempt: _Attempt, request: Any, response: Any, body: bytes, error: IncompleteError) -> Verified:
        asked = attempt.seal_request(self.library, request, response)
        if asked is None:
            raise error
        answer = self._inner.handle_request(asked)
        seal = bytearray()
        try:
            for chunk in answer.iter_raw():
                seal += chunk
                if len(seal) > MAX_SEAL_BYTES:
                    raise error
        finally:
            answer.close()
        token, expected = _fetched(answer.status_code, bytes(seal), error), attempt.expected(response.headers)
        verified = self._verifier.verify_body(body, token=token, content_digest=_digest(response), expected=expected)
        return _same_response(verified, response)

    def close(self) -> None:
        """Close the transport below. The verifier stays open: it may serve others."""
        self._inner.close()


class SyncVerifyingStream:
    """The body of a streamed response, checked as it is read."""

    def __init__(self, attempt: _Attempt, stream: _Stream, response: Any, check: ResponseCheck) -> None:
        self._attempt = attempt
        self._stream = stream
        self._response = response
        self._check = check
        self.handed_on: Any = None

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._response.iter_bytes():
            try:
                self._stream.feed(chunk)
                if self._stream.done:
                    self._judge()
            except VerificationError as error:
                self._attempt.fail(self._check, error, self.handed_on)
            yield chunk
        try:
            self._judge()
        except VerificationError as error:
            self._attempt.fail(self._check, error, self.handed_on)

    def _judge(self) -> None:
        if self._check.verified is None and self._check.error is None:
            verified = self._attempt.accept(self._stream.finish())
            self._attempt.succeed(self._check, verified, self.handed_on)

    def close(self) -> None:
        """Close the response. A stream not judged by now is judged by what was read, and an error only reported."""
        self._response.close()
        try:
            self._judge()
        except VerificationError as error:
            _report(self._attempt, self._check, error, self.handed_on)


class AsyncVerifying:
    """`SyncVerifying` for one event loop."""

    library: Any

    def __init__(self, verifier: AsyncResponseVerifier, inner: Any, checks: ResponseChecks, stream_class: Any) -> None:
        self._verifier = verifier
        self._inner = inner
        self._checks = checks
        self._stream_class = stream_class

    async def _handle(self, request: Any) -> Any:
        attempt = _attempt(self._checks, self._verifier.issuers, request, await request.aread())
        if attempt is None:
            return await self._inner.handle_async_request(request)
        response = await self._inner.handle_async_request(_sent(self.library, request, attempt))
        check = response.extensions[EXTENSION] = ResponseCheck()
        way = attempt.way(response.status_code, response.headers, check)
        if way is _Way.PASS:
            return response
        token, expected = response.headers.get(_TOKEN), attempt.expected(response.headers)
        if way is _Way.STREAM:
            stream = self._stream_class(attempt, self._verifier.stream(token=token, expected=expected), response, check)
            stream.handed_on = _handed_on(self.library, response, stream)
            return stream.handed_on
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                _grown(body, chunk)
            try:
                verified = await self._verifier.verify_body(bytes(body), token=token, content_digest=_digest(response), expected=expected)
            except IncompleteError as error:
                verified = await self._verify_detached(attempt, request, response, bytes(body), error)
            attempt.accept(verified)
        except VerificationError as error:
            attempt.fail(check, error, response)
            return _handed_on(self.library, response, self.library.ByteStream(bytes(body)))
        finally:
            await response.aclose()
        handed_on = _handed_on(self.library, response, self.library.ByteStream(bytes(body)))
        attempt.succeed(check, verified, handed_on)
        return handed_on

    async def _verify_detached(self, attempt: _Attempt, request: Any, response: Any, body: bytes, error: IncompleteError) -> Verified:
        asked = attempt.seal_request(self.library, request, response)
        if asked is None:
            raise error
        answer = await self._inner.handle_async_request(asked)
        seal = bytearray()
        try:
            async for chunk in answer.aiter_raw():
                seal += chunk
                if len(seal) > MAX_SEAL_BYTES:
                    raise error
        finally:
            await answer.aclose()
        token, expected = _fetched(answer.status_code, bytes(seal), error), attempt.expected(response.headers)
        verified = await self._verifier.verify_body(body, token=token, content_digest=_digest(response), expected=expected)
        return _same_response(verified, response)

    async def aclose(self) -> None:
        """Close the transport below. The verifier stays open: it may serve others."""
        await self._inner.aclose()


class AsyncVerifyingStream:
    """`SyncVerifyingStream` for one event loop."""

    def __init__(self, attempt: _Attempt, stream: _AsyncStream, response: Any, check: ResponseCheck) -> None:
        self._attempt = attempt
        self._stream = stream
        self._response = response
        self._check = check
        self.handed_on: Any = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_bytes():
            try:
                await self._stream.feed(chunk)
                if self._stream.done:
                    await self._judge()
            except VerificationError as error:
                self._attempt.fail(self._check, error, self.handed_on)
            yield chunk
        try:
            await self._judge()
        except VerificationError as error:
            self._attempt.fail(self._check, error, self.handed_on)

    async def _judge(self) -> None:
        if self._check.verified is None and self._check.error is None:
            verified = self._attempt.accept(await self._stream.finish())
            self._attempt.succeed(self._check, verified, self.handed_on)

    async def aclose(self) -> None:
        """As `SyncVerifyingStream.close`."""
        await self._response.aclose()
        try:
            await self._judge()
        except VerificationError as error:
            _report(self._attempt, self._check, error, self.handed_on)


def _report(attempt: _Attempt, check: ResponseCheck, error: VerificationError, response: Any) -> None:
    """Report without raising: an error out of `close` would hide the one that led there."""
    left = error
    if isinstance(error, AbsentError | IncompleteError):
        left = IncompleteError(_LEFT, where="stream", cure="Read a stream to its end.")
    try:
        attempt.fail(check, left, response)
    except VerificationError:
        return
