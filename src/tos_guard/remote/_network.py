"""The network under key discovery: two short drivers over httpx, for callers of either colour.

What a request may do is the same in both: no redirect, no proxy or credentials from the environment, no cookie, no content coding,
a cap on the body while it is read, and a deadline for the whole of it. What is asked, of whom, is decided in `_issuer`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Generator
from contextlib import aclosing, closing
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, TypeVar

import httpx

from tos_guard.errors import DiscoveryError
from tos_guard.remote._issuer import Fetch, Fetched, Resolve, Step

__all__ = ["DEFAULT_TIMEOUT", "AsyncNetwork", "Network", "ThreadNetwork", "no_cookies", "resolve"]

DEFAULT_TIMEOUT: Final = timedelta(seconds=5)
"""For connecting, for each read, and, doubled, for one document as a whole."""

_Result = TypeVar("_Result")
_ETAG: Final = re.compile(r'(?:W/)?"[!#-~]{0,256}"')  # RFC 9110 section 8.8.3, in ASCII and bounded
_CONNECT_ERRORS: Final = (httpx.ConnectError, httpx.ConnectTimeout)


class Network:
    """Runs the steps of a discovery, blocking.

    Args:
        client: Used for every request. By default one of our own, which `close` closes.
        timeout: See `DEFAULT_TIMEOUT`.
        monotonic: Seconds that never go back.
    """

    def __init__(
        self,
        client: httpx.Client | None = None,
        *,
        timeout: timedelta = DEFAULT_TIMEOUT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client or httpx.Client(trust_env=False, cookies=no_cookies())
        self._owned = client is None
        self._seconds = timeout.total_seconds()
        self._monotonic = monotonic

    def run(self, steps: Generator[Step, Any, _Result]) -> _Result:
        """Run the steps to their end.

        Raises:
            DiscoveryError: The network did not give what was asked.
        """
        try:
            step = next(steps)
            while True:
                step = steps.send(self.resolve(step) if isinstance(step, Resolve) else self.fetch(step))
        except StopIteration as stop:
            result: _Result = stop.value
            return result

    def resolve(self, step: Resolve) -> list[str]:
        """The addresses of a name.

        Raises:
            DiscoveryError: It has none.
        """
        return resolve(step)

    def fetch(self, step: Fetch) -> Fetched:
        """One document.

        Raises:
            DiscoveryError: It did not come, or is not what was asked for.
        """
        deadline = self._monotonic() + 2 * self._seconds
        for address, is_last in _ways(step):
            request = _request(self._client, step, address, self._seconds)
            try:
                response = self._client.send(request, stream=True, follow_redirects=False, auth=None)
                with closing(response):
                    _check_head(step, response)  # which refuses content codings, so what follows is not decoded
                    body = bytearray()
                    for chunk in response.iter_bytes() if step.max_bytes else ():
                        _take(step, body, chunk)
                        if self._monotonic() > deadline:
                            raise _failed(step, "took too long")
                    return Fetched(bytes(body), response.status_code, _etag(response))
            except _CONNECT_ERRORS as error:
                if is_last or self._monotonic() > deadline:
                    raise _failed(step, _reason(error)) from None
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                raise _failed(step, _reason(error)) from None
        raise _failed(step, "has no address")

    def close(self) -> None:
        """Close the client if it is ours."""
        if self._owned:
            self._client.close()


class AsyncNetwork:
    """Runs the steps of a discovery on an event loop; otherwise as `Network`."""

    def __init__(self, client: httpx.AsyncClient | None = None, *, timeout: timedelta = DEFAULT_TIMEOUT) -> None:
        self._client = client or httpx.AsyncClient(trust_env=False, cookies=no_cookies())
        self._owned = client is None
        self._seconds = timeout.total_seconds()

    async def run(self, steps: Generator[Step, Any, _Result]) -> _Result:
        """As `Network.run`."""
        try:
            step = next(steps)
            while True:
                step = steps.send(await self.resolve(step) if isinstance(step, Resolve) else await self.fetch(step))
        except StopIteration as stop:
            result: _Result = stop.value
            return result

    async def resolve(self, step: Resolve) -> list[str]:
        """As `Network.resolve`."""
        try:
            loop = asyncio.get_running_loop()
            return _addresses(await loop.getaddrinfo(step.host, step.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            raise _unresolved(step, error) from None

    async def fetch(self, step: Fetch) -> Fetched:
        """As `Network.fetch`."""
        try:
            async with asyncio.timeout(2 * self._seconds):
                return await self._fetch(step)
        except TimeoutError:
            raise _failed(step, "took too long") from None

    async def _fetch(self, step: Fetch) -> Fetched:
        for address, is_last in _ways(step):
            request = _request(self._client, step, address, self._seconds)
            try:
                response = await self._client.send(request, stream=True, follow_redirects=False, auth=None)
                async with aclosing(response):
                    _check_head(step, response)
                    body = bytearray()
                    if step.max_bytes:
                        async for chunk in response.aiter_bytes():
                            _take(step, body, chunk)
                    return Fetched(bytes(body), response.status_code, _etag(response))
            except _CONNECT_ERRORS as error:
                if is_last:
                    raise _failed(step, _reason(error)) from None
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                raise _failed(step, _reason(error)) from None
        raise _failed(step, "has no address")

    async def aclose(self) -> None:
        """Close the client if it is ours."""
        if self._owned:
            await self._client.aclose()


class ThreadNetwork(AsyncNetwork):
    """A network whose loop has a thread to itself. On a loop there is one deadline for all of an answer, its head among it."""

    async def resolve(self, step: Resolve) -> list[str]:
        """Blocks: the threads of a loop's executor, which would look it up otherwise, hold up the end of the process."""
        return resolve(step)


def resolve(step: Resolve) -> list[str]:
    """The addresses of a name.

    Raises:
        DiscoveryError: It has none.
    """
    try:
        return _addresses(socket.getaddrinfo(step.host, step.port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise _unresolved(step, error) from None


def no_cookies() -> CookieJar:
    """A jar that takes none."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def _addresses(found: list[Any]) -> list[str]:
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _ways(step: Fetch) -> list[tuple[str | None, bool]]:
    """Each address to try, and whether it is the last; None leaves the way to the client."""
    addresses: tuple[str | None, ...] = (None,) if step.addresses is None else step.addresses
    return [(address, position == len(addresses)) for position, address in enumerate(addresses, 1)]


def _request(client: httpx.Client | httpx.AsyncClient, step: Fetch, address: str | None, seconds: float) -> httpx.Request:
    issuer = step.issuer
    headers = {"accept": ", ".join(step.media_types) or "*/*", "accept-encoding": "identity", **dict(step.headers)}
    extensions: dict[str, Any] = {}
    origin = issuer.origin
    if address is not None:
        # To the address that was checked; certificate and virtual host are still those of the name.
        origin = f"{issuer.scheme}://{f'[{address}]' if ':' in address else address}:{issuer.port}"
        headers["host"] = issuer.origin.partition("://")[2]
        # A pool knows connections by address: one whose certificate was checked for another issuer must not be there to be used again.
        headers["connection"] = "close"
        if issuer.scheme == "https":
            extensions["sni_hostname"] = issuer.host.strip("[]")
    method = "GET" if step.content is None else "POST"
    url = origin + step.path
    return client.build_request(method, url, content=step.content, headers=headers, timeout=seconds, extensions=extensions)


def _check_head(step: Fetch, response: httpx.Response) -> None:
    if step.addresses is not None and not response.http_version.startswith("HTTP/1."):
        raise _failed(step, f"came over {response.http_version[:16]}, which shares connections between names")
    if response.is_redirect and response.status_code not in step.statuses:
        raise _failed(step, "redirects, which is not followed")
    if response.status_code not in step.statuses:
        raise _failed(step, f"answers with status {response.status_code}")
    if response.status_code == 304 or not step.media_types:
        return
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in step.media_types:
        raise _failed(step, f"is {media_type[:64] or 'of no media type'!r} and not {' or '.join(step.media_types)}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _failed(step, "has a content coding that was not asked for")


def _etag(response: httpx.Response) -> str:
    """The ``ETag``, if it is one that can be sent back."""
    etag: str = response.headers.get("etag", "")
    return etag if _ETAG.fullmatch(etag) is not None else ""


def _take(step: Fetch, body: bytearray, chunk: bytes) -> None:
    body += chunk
    if len(body) > step.max_bytes:
        raise _failed(step, f"is larger than {step.max_bytes} bytes")


def _reason(error: Exception) -> str:
    return f"could not be fetched ({type(error).__name__}{f': {error}'[:200] if str(error) else ''})"


def _failed(step: Fetch, what: str) -> DiscoveryError:
    return DiscoveryError(what, where=step.issuer.origin + step.path, cure=step.cure)


def _unresolved(step: Resolve, error: Exception) -> DiscoveryError:
    return DiscoveryError(f"has no address ({error})", where=step.host, cure="Keys that are known already stay in use.")
