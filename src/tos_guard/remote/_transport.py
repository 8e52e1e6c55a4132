"""What a verifying transport decides, whatever client it stands under: bytes and header fields in, verdicts out.

- A request goes out only to the origin of an issuer, or to one that is named. Each attempt carries a nonce and asks for an uncoded body;
  the token that comes back must name that nonce, that request and that issuer.
- The nonce is fresh, but where the request has an ``Idempotency-Key``: a retry is answered with the token of the first attempt. There it is
  derived from the key and the request under a secret of this transport, so that all attempts of one request have the same, and no other
  request has it. What answers any of them answers all of them, which is what the key asks for.
- A stored response that is retrieved or cancelled (``GET …/responses/{id}``, ``GET …/chat/completions/{id}``,
  ``POST …/responses/{id}/cancel``) has the token of the request that made it. Issuer, content and the other demands are checked; that it
  was made for this request cannot be. `Verified.nonce_checked` is true where it names the nonce of this attempt all the same. A nonce that
  the caller sends or expects is demanded there too: that of the request which made it holds the answer to that request.
- A response that runs on in the background, has no output yet and carries a right pending token passes: there is nothing in it to prove.
- A whole body is verified before the client sees it. A stream is checked as it is read, and judged when it has ended as its form has it
  (``[DONE]``, or a terminal event), when its body ends, or when the client closes it: clients stop reading before the body ends. What a
  client has already read of a stream that then fails has been read; it must not be used as if verified.
- A body that could not carry its token brings a pending one. Where the caller says under which path seals are kept, its final token is
  asked for there, at the same origin and with the same credential, once, when the whole body has come. JSON in lines is such a body, or has
  its token in a line of its own. For a stream of events nothing is asked: clients leave it at its last event, before its seal is kept.
- A response outside 2xx without a token passes: refusals are not sealed. A 2xx response without one is `AbsentError`, unless the
  caller named another policy.
- Errors are raised as our own, from inside the client's request or iteration.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from tos_guard.errors import IncompleteError, VerificationError
from tos_guard.remote._attempt import (
    EXTENSION,
    MAX_SEAL_BYTES,
    SECRET_BYTES,
    TOKEN,
    Attempt,
    ResponseCheck,
    ResponseChecks,
    Way,
    decoded,
    digest_of,
    emptied,
    fetched,
    grown,
    prepare,
    report,
    same_response,
    sent,
    unended,
)
from tos_guard.types import Stage
from tos_guard.verify import Expected, Verified

__all__ = [
    "AsyncResponseVerifier",
    "AsyncVerifying",
    "AsyncVerifyingStream",
    "ResponseVerifier",
    "SyncVerifying",
    "SyncVerifyingStream",
]


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

    def verify_token(self, text: str, *, expected: Expected | None) -> Verified:
        """Prove a token of whatever stage, and nothing of a content. Raises `VerificationError`."""
        ...

    def verify_lines(self, lines: bytes, *, token: str | None, pending: str | None, expected: Expected | None) -> Verified:
        """Prove a whole body of JSON in lines. Raises `VerificationError`."""
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

    async def verify_token(self, text: str, *, expected: Expected | None) -> Verified:
        """As `ResponseVerifier.verify_token`."""
        ...

    async def verify_lines(self, lines: bytes, *, token: str | None, pending: str | None, expected: Expected | None) -> Verified:
        """As `ResponseVerifier.verify_lines`."""
        ...

    def stream(self, *, token: str | None, expected: Expected | None) -> _AsyncStream:
        """As `ResponseVerifier.stream`."""
        ...


class SyncVerifying:
    """A blocking transport for `library`, the client's module; its public classes add the types."""

    library: Any

    def __init__(self, verifier: ResponseVerifier, inner: Any, checks: ResponseChecks, stream_class: Any) -> None:
        self._verifier = verifier
        self._inner = inner
        self._checks = checks
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._stream_class = stream_class

    def _handle(self, request: Any) -> Any:
        attempt = prepare(self._checks, self._verifier.issuers, self._secret, request, request.read())
        if attempt is None:
            return self._inner.handle_request(request)
        response = self._inner.handle_request(sent(self.library, request, attempt))
        check = response.extensions[EXTENSION] = ResponseCheck()
        way = attempt.way(response.status_code, response.headers, check)
        if way is Way.PASS:
            return response
        if way is Way.EMPTY:
            try:
                has_content = any(response.iter_raw())
            finally:
                response.close()
            return emptied(self.library, response, attempt, check, has_content=has_content)
        token, expected = response.headers.get(TOKEN), attempt.expected(response.headers)
        if way is Way.STREAM:
            stream = self._stream_class(attempt, self._verifier.stream(token=token, expected=expected), response, check)
            stream.handed_on = decoded(self.library, response, stream)
            return stream.handed_on
        body = bytearray()
        try:
            for chunk in response.iter_bytes():
                grown(body, chunk)
            verify = self._verify_lines if way is Way.LINES else self._verify_body
            try:
                verified = attempt.accept(verify(attempt, request, response, bytes(body)))
            except IncompleteError as error:
                if (pending := unended(bytes(body), token)) is None:
                    raise
                attempt.pass_unended(check, self._verifier.verify_token(pending, expected=expected), error)
                return decoded(self.library, response, self.library.ByteStream(bytes(body)))
        except VerificationError as error:
            attempt.fail(check, error, response)
            return decoded(self.library, response, self.library.ByteStream(bytes(body)))
        finally:
            response.close()
        handed_on = decoded(self.library, response, self.library.ByteStream(bytes(body)))
        attempt.succeed(check, verified, handed_on)
        return handed_on

    def _verify_body(self, attempt: Attempt, request: Any, response: Any, body: bytes) -> Verified:
        expected, token, digest = attempt.expected(response.headers), response.headers.get(TOKEN), digest_of(response)
        try:
            return self._verifier.verify_body(body, token=token, content_digest=digest, expected=expected)
        except IncompleteError as error:
            if unended(body, token) is not None:
                raise  # nothing is kept of it yet
            token = self._fetch_seal(attempt, request, response, error)
        verified = self._verifier.verify_body(body, token=token, content_digest=digest, expected=expected)
        return same_response(verified, response)

    def _verify_lines(self, attempt: Attempt, request: Any, response: Any, body: bytes) -> Verified:
        expected, token, pending = attempt.expected(response.headers), response.headers.get(TOKEN), None
        if token is not None and (self._verifier.verify_token(token, expected=expected)).claims.stage is Stage.PENDING:
            token, pending = None, token
        try:
            return self._verifier.verify_lines(body, token=token, pending=pending, expected=expected)
        except IncompleteError as error:
            token = self._fetch_seal(attempt, request, response, error)
        verified = self._verifier.verify_lines(body, token=token, pending=pending, expected=expected)
        return same_response(verified, response)

    def _fetch_seal(self, attempt: Attempt, request: Any, response: Any, error: IncompleteError) -> str:
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
        return fetched(answer.status_code, bytes(seal), error)

    def close(self) -> None:
        """Close the transport below. The verifier stays open: it may serve others."""
        self._inner.close()


class SyncVerifyingStream:
    """The body of a streamed response, checked as it is read."""

    def __init__(self, attempt: Attempt, stream: _Stream, response: Any, check: ResponseCheck) -> None:
        self._attempt = attempt
        self._stream = stream
        self._response = response
        self._chunks = response.iter_bytes()  # once: clients iterate a second time to drain what is left
        self._check = check
        self.handed_on: Any = None

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            try:
                self._stream.feed(chunk)
                if self._stream.done:
                    self._judge()
            except VerificationError as error:
                self._attempt.fail(self._check, error, self.handed_on)
            yield chunk
        try:
            self._judge(ended=True)
        except VerificationError as error:
            self._attempt.fail(self._check, error, self.handed_on)

    def _judge(self, *, ended: bool = False) -> None:
        """Judge it once, and when it has *ended* once more: what came behind its end may go on with it."""
        if self._check.error is None and (ended or self._check.verified is None):
            verified = self._attempt.accept(self._stream.finish())
            self._attempt.succeed(self._check, verified, self.handed_on)

    def close(self) -> None:
        """Close the response. A stream not judged by now is judged by what was read, and an error only reported."""
        self._response.close()
        try:
            self._judge()
        except VerificationError as error:
            report(self._attempt, self._check, error, self.handed_on)


class AsyncVerifying:
    """`SyncVerifying` for one event loop."""

    library: Any

    def __init__(self, verifier: AsyncResponseVerifier, inner: Any, checks: ResponseChecks, stream_class: Any) -> None:
        self._verifier = verifier
        self._inner = inner
        self._checks = checks
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._stream_class = stream_class

    async def _handle(self, request: Any) -> Any:
        attempt = prepare(self._checks, self._verifier.issuers, self._secret, request, await request.aread())
        if attempt is None:
            return await self._inner.handle_async_request(request)
        response = await self._inner.handle_async_request(sent(self.library, request, attempt))
        check = response.extensions[EXTENSION] = ResponseCheck()
        way = attempt.way(response.status_code, response.headers, check)
        if way is Way.PASS:
            return response
        if way is Way.EMPTY:
            has_content = False
            try:
                async for chunk in response.aiter_raw():
                    has_content = has_content or bool(chunk)
                    if has_content:
                        break
            finally:
                await response.aclose()
            return emptied(self.library, response, attempt, check, has_content=has_content)
        token, expected = response.headers.get(TOKEN), attempt.expected(response.headers)
        if way is Way.STREAM:
            stream = self._stream_class(attempt, self._verifier.stream(token=token, expected=expected), response, check)
            stream.handed_on = decoded(self.library, response, stream)
            return stream.handed_on
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                grown(body, chunk)
            verify = self._verify_lines if way is Way.LINES else self._verify_body
            try:
                verified = attempt.accept(await verify(attempt, request, response, bytes(body)))
            except IncompleteError as error:
                if (pending := unended(bytes(body), token)) is None:
                    raise
                attempt.pass_unended(check, await self._verifier.verify_token(pending, expected=expected), error)
                return decoded(self.library, response, self.library.ByteStream(bytes(body)))
        except VerificationError as error:
            attempt.fail(check, error, response)
            return decoded(self.library, response, self.library.ByteStream(bytes(body)))
        finally:
            await response.aclose()
        handed_on = decoded(self.library, response, self.library.ByteStream(bytes(body)))
        attempt.succeed(check, verified, handed_on)
        return handed_on

    async def _verify_body(self, attempt: Attempt, request: Any, response: Any, body: bytes) -> Verified:
        expected, token, digest = attempt.expected(response.headers), response.headers.get(TOKEN), digest_of(response)
        try:
            return await self._verifier.verify_body(body, token=token, content_digest=digest, expected=expected)
        except IncompleteError as error:
            if unended(body, token) is not None:
                raise  # nothing is kept of it yet
            token = await self._fetch_seal(attempt, request, response, error)
        verified = await self._verifier.verify_body(body, token=token, content_digest=digest, expected=expected)
        return same_response(verified, response)

    async def _verify_lines(self, attempt: Attempt, request: Any, response: Any, body: bytes) -> Verified:
        expected, token, pending = attempt.expected(response.headers), response.headers.get(TOKEN), None
        if token is not None and (await self._verifier.verify_token(token, expected=expected)).claims.stage is Stage.PENDING:
            token, pending = None, token
        try:
            return await self._verifier.verify_lines(body, token=token, pending=pending, expected=expected)
        except IncompleteError as error:
            token = await self._fetch_seal(attempt, request, response, error)
        verified = await self._verifier.verify_lines(body, token=token, pending=pending, expected=expected)
        return same_response(verified, response)

    async def _fetch_seal(self, attempt: Attempt, request: Any, response: Any, error: IncompleteError) -> str:
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
        return fetched(answer.status_code, bytes(seal), error)

    async def aclose(self) -> None:
        """Close the transport below. The verifier stays open: it may serve others."""
        await self._inner.aclose()


class AsyncVerifyingStream:
    """`SyncVerifyingStream` for one event loop."""

    def __init__(self, attempt: Attempt, stream: _AsyncStream, response: Any, check: ResponseCheck) -> None:
        self._attempt = attempt
        self._stream = stream
        self._response = response
        self._chunks = response.aiter_bytes()  # once: clients iterate a second time to drain what is left
        self._check = check
        self.handed_on: Any = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            try:
                await self._stream.feed(chunk)
                if self._stream.done:
                    await self._judge()
            except VerificationError as error:
                self._attempt.fail(self._check, error, self.handed_on)
            yield chunk
        try:
            await self._judge(ended=True)
        except VerificationError as error:
            self._attempt.fail(self._check, error, self.handed_on)

    async def _judge(self, *, ended: bool = False) -> None:
        if self._check.error is None and (ended or self._check.verified is None):
            verified = self._attempt.accept(await self._stream.finish())
            self._attempt.succeed(self._check, verified, self.handed_on)

    async def aclose(self) -> None:
        """As `SyncVerifyingStream.close`."""
        await self._response.aclose()
        try:
            await self._judge()
        except VerificationError as error:
            report(self._attempt, self._check, error, self.handed_on)
