"""The network under entitlements and notices: one document that is asked for again and again, one address that messages go to.

- https, or http on literal loopback names; the address is that of the settings, and nothing that comes back leads elsewhere: redirects
  are refused. A name is resolved once, and must live on public addresses unless the settings name that unsafe (`_issuer`).
- One deadline for all of an answer, a cap on its body while it is read, no proxy or credentials from the environment, no content coding.
- A document that has not changed is not sent again: ``If-None-Match`` with the ``ETag`` of the last one that was applied.
- Each call has an event loop of its own: they are made in threads of their own, never in a request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Mapping
from datetime import timedelta
from typing import Any, Final

import httpx

from tos_guard.errors import ConfigurationError, DiscoveryError
from tos_guard.remote._issuer import Fetch, Fetched, Issuer, Step, parse_issuer, way_to
from tos_guard.remote._network import DEFAULT_TIMEOUT, ThreadNetwork, no_cookies

__all__ = ["EntitlementClient", "WebhookClient"]

_ADDRESS: Final = re.compile(r"(https?://[^/?#\s]+)(/[!-~]*)")
_JSON: Final = ("application/json",)
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")
_DELIVERED: Final = frozenset(range(200, 300))
_KEPT: Final = "What it gave before holds for stale_if_error_seconds."
_AGAIN: Final = "It is sent again later."


class _Address:
    """An address of the settings, and how it is asked.

    Args:
        url: The address.
        unsafe_any_address: Connect wherever the name leads.
        client: Makes the client of each call, which is closed after it.
        timeout: For connecting and each read; a call as a whole may take twice as long.

    Raises:
        ConfigurationError: The address is none that we ask.
    """

    def __init__(
        self,
        url: str,
        *,
        unsafe_any_address: bool = False,
        client: Callable[[], httpx.AsyncClient] | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
    ) -> None:
        match = _ADDRESS.fullmatch(url)
        if match is None:
            raise ConfigurationError(f"{url[:200]!r} is no address that we ask", where="url", cure="Give https://host/path.")
        self.url = url
        self._server: Issuer = parse_issuer(match[1])
        self._path = match[2]
        self._any_address = unsafe_any_address
        self._client = client or _client
        self._timeout = timeout

    def _call(self, fetch: Callable[[tuple[str, ...] | None], Fetch]) -> Fetched:
        """Raises `DiscoveryError`, which names the origin alone: what follows it in an address may be a secret, and errors are logged."""
        origin = self._server.origin
        try:
            return asyncio.run(self._run(fetch))
        except DiscoveryError as error:
            raise DiscoveryError(error.what, where=origin, cure=error.cure) from None
        except Exception as error:  # what a server can make a client raise is more than its documentation says
            raise DiscoveryError(f"could not be asked ({type(error).__name__})", where=origin) from error

    async def _run(self, fetch: Callable[[tuple[str, ...] | None], Fetch]) -> Fetched:
        async with self._client() as client:
            return await ThreadNetwork(client, timeout=self._timeout).run(self._steps(fetch))

    def _steps(self, fetch: Callable[[tuple[str, ...] | None], Fetch]) -> Generator[Step, Any, Fetched]:
        addresses = yield from way_to(self._server, any_address=self._any_address)
        answer: Fetched = yield fetch(addresses)
        return answer


class EntitlementClient(_Address):
    """Asks for the document of one source; arguments as of an address, and what gives the bearer token."""

    def __init__(self, url: str, *, token: Callable[[], str] | None = None, max_bytes: int, **more: Any) -> None:
        super().__init__(url, **more)
        self._token = token
        self._max_bytes = max_bytes

    def fetch(self, etag: str) -> tuple[bytes, str] | None:
        """The document and its ``ETag``, empty where it has none; None where it has not changed since it had the one given.

        Args:
            etag: As it was told with the last document, or empty.

        Raises:
            DiscoveryError: It did not come whole and in time, or is too large or of another media type.
            ConfigurationError: The token cannot be read or sent.
        """
        headers: list[tuple[str, str]] = []
        if self._token is not None:
            token = self._token().strip()
            if _TOKEN.fullmatch(token) is None:
                raise ConfigurationError("holds no bearer token", where="token", cure="Visible ASCII without spaces, on one line.")
            headers.append(("authorization", f"Bearer {token}"))
        statuses = frozenset({200})
        if etag:
            headers.append(("if-none-match", etag))
            statuses = frozenset({200, 304})
        answer = self._call(
            lambda addresses: Fetch(
                self._server, self._path, addresses, self._max_bytes, _JSON, tuple(headers), statuses=statuses, cure=_KEPT
            )
        )
        return None if answer.status == 304 else (answer.body, answer.etag)


class WebhookClient(_Address):
    """Sends messages to one address."""

    def send(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send one. Returns when the receiver has said that it has it.

        Raises:
            DiscoveryError: The receiver did not say so in time; perhaps it has it all the same.
        """
        fields = (*headers.items(), ("content-type", "application/json"))
        self._call(
            lambda addresses: Fetch(self._server, self._path, addresses, 0, (), fields, content=body, statuses=_DELIVERED, cure=_AGAIN)
        )


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, cookies=no_cookies())
