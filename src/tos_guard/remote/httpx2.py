"""Transports that verify what an `httpx2` client reads.

    >>> import httpx2                                                                # doctest: +SKIP
    >>> from tos_guard.remote.httpx2 import VerifyingTransport                       # doctest: +SKIP
    >>> from tos_guard.verifier import Verifier                                    # doctest: +SKIP
    >>> verifier = Verifier(["https://api.example.com"])                           # doctest: +SKIP
    >>> http = httpx2.Client(transport=VerifyingTransport(verifier))                 # doctest: +SKIP
    >>> client = openai.OpenAI(base_url=..., http_client=http, max_retries=0)      # doctest: +SKIP

What is demanded, and what happens to responses without a token, says `tos_guard.remote.ResponseChecks`. What was proven is given to its
`on_verified`, and stands in the response's extension ``tos_guard``.
"""

from __future__ import annotations

try:
    import httpx2
except ModuleNotFoundError as _missing:
    if _missing.name != "httpx2":
        raise
    raise ModuleNotFoundError('httpx2 is not installed: pip install "tos-guard[httpx2]"', name=_missing.name) from _missing

from tos_guard.remote._attempt import ResponseCheck, ResponseChecks
from tos_guard.remote._transport import (
    AsyncResponseVerifier,
    AsyncVerifying,
    AsyncVerifyingStream,
    ResponseVerifier,
    SyncVerifying,
    SyncVerifyingStream,
)

__all__ = ["AsyncVerifyingTransport", "ResponseCheck", "ResponseChecks", "VerifyingTransport"]


class _Stream(SyncVerifyingStream, httpx2.SyncByteStream):
    pass


class _AsyncStream(AsyncVerifyingStream, httpx2.AsyncByteStream):
    pass


class VerifyingTransport(SyncVerifying, httpx2.BaseTransport):
    """Verifies each response of an `httpx2.Client`.

    Args:
        verifier: A `tos_guard.verifier.Verifier`; it stays the caller's to close.
        checks: What is demanded.
        transport: What sends the requests, closed with this one. By default `httpx2.HTTPTransport()`, with no proxy from the environment.
    """

    library = httpx2

    def __init__(
        self, verifier: ResponseVerifier, checks: ResponseChecks | None = None, *, transport: httpx2.BaseTransport | None = None
    ) -> None:
        super().__init__(verifier, transport or httpx2.HTTPTransport(), checks or ResponseChecks(), _Stream)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one attempt and verify its response.

        Raises:
            UntrustedIssuerError: The origin answers for no trusted issuer; nothing was sent.
            VerificationError: A whole body is not what a trusted issuer sealed. A stream raises while it is read.
        """
        response: httpx2.Response = self._handle(request)
        return response


class AsyncVerifyingTransport(AsyncVerifying, httpx2.AsyncBaseTransport):
    """Verifies each response of an `httpx2.AsyncClient`. Arguments as `VerifyingTransport`, with an `AsyncVerifier`."""

    library = httpx2

    def __init__(
        self, verifier: AsyncResponseVerifier, checks: ResponseChecks | None = None, *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        super().__init__(verifier, transport or httpx2.AsyncHTTPTransport(), checks or ResponseChecks(), _AsyncStream)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """As `VerifyingTransport.handle_request`."""
        response: httpx2.Response = await self._handle(request)
        return response
