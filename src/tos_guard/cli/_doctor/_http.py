"""HTTP as it arrives: fields and bytes untouched, and when they came. Standard library only, since clients repair what is to be seen.

No redirect is followed, nothing is decoded, and no proxy of the environment is used: what is examined is the address that was given.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tos_guard.errors import ConfigurationError

__all__ = ["Answer", "Origin", "UnreachableError", "ask"]

TIMEOUT_SECONDS: Final = 30.0
"""For connecting, and for each read: a model may think for a while before its first token."""

WHOLE_SECONDS: Final = 120.0
MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""As the dialects read; a longer answer to a question of ours is none of ours."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class UnreachableError(Exception):
    """There was no answer, or it broke off.

    Attributes:
        is_tls: Whether the certificate was the reason.
    """

    def __init__(self, what: str, *, is_tls: bool = False) -> None:
        super().__init__(what)
        self.is_tls = is_tls


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to ask.

    Attributes:
        scheme: ``http`` or ``https``.
        host: Name or address.
        port: Port, or None for that of the scheme.
    """

    scheme: str
    host: str
    port: int | None

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an address.

        Raises:
            ConfigurationError: It is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        plain = not (parts.query or parts.fragment or parts.username or parts.password) and parts.path in ("", "/")
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise ConfigurationError(f"{url!r} is no origin", where="--url", cure="Write it as clients reach it: https://api.example.com.")
        return cls(parts.scheme, parts.hostname, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port is not None else "")

    @property
    def is_confidential(self) -> bool:
        """Whether nobody between us and it can read along: TLS, or this very machine."""
        return self.scheme == "https" or self.host in _LOOPBACK


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        status: Status.
        fields: Header fields as they came.
        body: Body as it came.
        arrivals: Seconds since the question was sent, and bytes of the body that had come by then, for each piece.
        head_at: Seconds until the head had come.
    """

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    arrivals: tuple[tuple[float, int], ...]
    head_at: float

    def field(self, name: str) -> str | None:
        """The value of a field, several joined by commas; None where it is absent."""
        values = [value for key, value in self.fields if key.lower() == name]
        return ", ".join(values) if values else None

    @property
    def head_bytes(self) -> int:
        """Size of all fields as HTTP/1.1 writes them."""
        return sum(len(name) + len(value) + len(": \r\n") for name, value in self.fields)


def ask(origin: Origin, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
    """Ask once.

    Raises:
        UnreachableError: There was no answer, or it broke off, or was too long.
    """
    kind = http.client.HTTPSConnection if origin.scheme == "https" else http.client.HTTPConnection
    connection = kind(origin.host, origin.port, timeout=TIMEOUT_SECONDS)
    try:
        started = time.monotonic()
        connection.request(method, path, body=body, headers={"Accept-Encoding": "identity", **headers})
        response = connection.getresponse()
        head_at = time.monotonic() - started
        fields = tuple((name, value.strip()) for name, value in response.getheaders())
        chunks: list[bytes] = []
        arrivals: list[tuple[float, int]] = []
        size = 0
        while piece := response.read1(65_536):
            chunks.append(piece)
            size += len(piece)
            arrivals.append((time.monotonic() - started, size))
            if size > MAX_BODY_BYTES or arrivals[-1][0] > WHOLE_SECONDS:
                raise UnreachableError(f"the answer did not end within {MAX_BODY_BYTES} bytes and {WHOLE_SECONDS:.0f} s")
        return Answer(response.status, fields, b"".join(chunks), tuple(arrivals), head_at)
    except ssl.SSLError as error:
        raise UnreachableError(error.reason or str(error), is_tls=True) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(str(error) or type(error).__name__) from None
    finally:
        connection.close()
