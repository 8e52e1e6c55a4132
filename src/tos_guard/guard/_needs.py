"""What an adapter hands in, what a handler may know, and what a step may need from the outside."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from tos_guard.dialects import Dialect
from tos_guard.errors import MalformedRequestError
from tos_guard.keys import KeyRecord
from tos_guard.ledger import ExchangeRecord
from tos_guard.rights import Account
from tos_guard.types import Facts

__all__ = ["Admission", "CurrentKey", "FindAccount", "Identify", "Keep", "Need", "RequestView", "Route", "Sign", "Steps"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RequestView:
    """The head of a request, as an adapter sees it.

    Attributes:
        method: In upper case.
        path: Decoded path, without the root path that the app is mounted under.
        headers: Fields in order, names in lower case.
        host: What the host has of the request (the ASGI scope, the Flask request, …): for ``identify=`` and ``assertions=``.
    """

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    host: Any = field(default=None, compare=False)

    def header(self, name: str) -> str | None:
        """The value of a field that may occur once, or None.

        Raises:
            MalformedRequestError: It occurs twice, or is not printable ASCII.
        """
        wanted = name.encode("ascii")
        found: bytes | None = None
        for key, value in self.headers:
            if key == wanted:
                if found is not None:
                    raise MalformedRequestError("occurs more than once", where=f"header {name}", cure="Send it once.")
                found = value
        if found is None:
            return None
        text = found.decode("latin-1")
        if not (text.isascii() and text.isprintable()):
            raise MalformedRequestError("is not printable ASCII", where=f"header {name}")
        return text


@dataclass(frozen=True, slots=True)
class Route:
    """A guarded route: its path as configured, and its dialect."""

    path: str
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class Admission:
    """What a handler may know of the exchange it serves.

    Attributes:
        account: The account.
        request_id: Id of the exchange.
        facts: What was decided on.
        clauses: Clauses that decided.
        content_usage: Value of ``Content-Usage`` of the response.
    """

    account: Account
    request_id: str
    facts: Facts
    clauses: tuple[str, ...]
    content_usage: str


@dataclass(frozen=True, slots=True)
class FindAccount:
    """Needs the account of a key or of an id."""

    public_id: str | None = None
    secret_hash: bytes = b""
    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class Identify:
    """Needs the host's word on who asks."""

    view: RequestView


@dataclass(frozen=True, slots=True)
class CurrentKey:
    """Needs the key to sign with."""

    now: datetime


@dataclass(frozen=True, slots=True)
class Sign:
    """Needs a signature."""

    key: KeyRecord
    message: bytes


@dataclass(frozen=True, slots=True)
class Keep:
    """Needs a record kept; waits until it is durable if *wait*."""

    record: ExchangeRecord
    wait: bool


Need = FindAccount | Identify | CurrentKey | Sign | Keep
Steps = Generator[Need, Any, _T]
"""A step: yields what it needs, receives what came of it, and returns what it makes."""
