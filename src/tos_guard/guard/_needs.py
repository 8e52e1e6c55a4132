"""What an adapter hands in, what a handler may know, and what a step may need from the outside."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tos_guard.dialects import Dialect, RequestHead
from tos_guard.errors import MalformedRequestError, PolicyStop, StoreError
from tos_guard.guard._leases import LEASE
from tos_guard.keys import KeyRecord
from tos_guard.ledger import ExchangeRecord, KeptSeal, SealKind
from tos_guard.limits import Amounts, Charge, Reservation, Usage
from tos_guard.policy import UsagePolicy
from tos_guard.rights import UNLIMITED_KEY, Account, BearerIdentity, Holder, KeyTerms
from tos_guard.telemetry import Observed
from tos_guard.types import Facts, KeyPurpose

__all__ = [
    "Admission",
    "Ask",
    "AskHost",
    "AskLimits",
    "Caller",
    "Cancel",
    "Connection",
    "CurrentKey",
    "FindHolder",
    "FindSeal",
    "Identify",
    "Keep",
    "KeepPolicy",
    "KeepSeals",
    "Need",
    "ReadBody",
    "ReadTerms",
    "RequestView",
    "Reserve",
    "Route",
    "Settle",
    "Sign",
    "Steps",
    "UndecidedError",
    "UseProof",
    "VerifyBearer",
]

_T = TypeVar("_T")


def _no_certificate() -> bytes | None:
    return None


@dataclass(frozen=True, slots=True)
class Connection:
    """What the server knows of a request's connection, whatever the request says.

    Attributes:
        peer: Address at its other end; empty where it has none.
        certificate: Gives the client certificate that the server's TLS has verified, in DER; None where there is none.
    """

    peer: str = ""
    certificate: Callable[[], bytes | None] = _no_certificate


_UNKNOWN_CONNECTION = Connection()


@dataclass(frozen=True, slots=True)
class RequestView:
    """The head of a request, as an adapter sees it.

    Attributes:
        method: In upper case.
        path: Decoded path, without the root path that the app is mounted under.
        headers: Fields in order, names in lower case.
        host: What the host has of the request (the ASGI scope, the Flask request, …): for ``identify=`` and ``assertions=``.
        observed: What telemetry knows of the exchange: ``guard.telemetry.observe("…")`` with the adapter's name.
        connection: What the server knows of its connection.
    """

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    host: Any = field(default=None, compare=False)
    observed: Observed = field(default_factory=lambda: Observed("none"), compare=False)
    connection: Connection = field(default=_UNKNOWN_CONNECTION, compare=False)

    @property
    def head(self) -> RequestHead:
        """What a dialect may know of it. A media type that is given twice, or is not ASCII, is none."""
        types = [value for name, value in self.headers if name == b"content-type"]
        said = types[0].split(b";", 1)[0].strip().lower() if len(types) == 1 else b""
        return RequestHead(self.method, self.path, said.decode("ascii") if said.isascii() else "", self.headers)

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
    """A guarded route.

    Attributes:
        path: As configured.
        dialect: Its dialect.
        idempotent: Whether its handler answers the same ``Idempotency-Key`` with the same response.
    """

    path: str
    dialect: Dialect
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        holder: The account, with what its rights depend on.
        identity: What a bearer token says beside it, where one was presented.
        key: What the API key is for, where one was presented.
        need: How the account was found, or None where it was not looked up.
        found_at: When, in seconds of a clock that never goes back.
    """

    holder: Holder
    identity: BearerIdentity | None = None
    key: KeyTerms = UNLIMITED_KEY
    need: FindHolder | None = field(default=None, repr=False, compare=False)
    found_at: float = field(default=0.0, repr=False, compare=False)

    @property
    def account(self) -> Account:
        """The account."""
        return self.holder.account


@dataclass(frozen=True, slots=True)
class Admission:
    """What a handler may know of the exchange it serves, and say of it.

    Attributes:
        account: The account.
        request_id: Id of the exchange.
        facts: What was decided on.
        clauses: Clauses that decided.
        content_usage: Value of ``Content-Usage`` of the response.
        key: What the API key is for that came with the request; of any other credential, all that the account may.
    """

    account: Account
    request_id: str
    facts: Facts
    clauses: tuple[str, ...]
    content_usage: str
    key: KeyTerms
    _report: Callable[[Usage], None] = field(repr=False, compare=False)
    _narrow: Callable[[str], None] = field(repr=False, compare=False)
    _stop: Callable[[PolicyStop], None] = field(repr=False, compare=False)

    def require(self, action: str) -> None:
        """Demand a right to one more action of the terms, for handlers that only know while they run what is asked for.

        Raises:
            DeniedError: The account may not. Let it go on: from here on it is the guard's answer in the dialect's shape, also where it is
                caught; of a stream that has begun it is the end. Once the response has ended it is the host's to deal with.
        """
        self._narrow(action)

    def stop(self, what: str, *, clause: str, code: str = "tos_policy_stop") -> None:
        """End the response, from any thread: with the next of it that the handler gives, in place of that.

        It ends as where the handler raises `tos_guard.PolicyStop`: with the dialect's in-band error and a final token whose completion is
        ``policy``; as a refusal (403) where nothing is sent yet. The handler is told by that exception when it goes on. Once the content
        is sealed there is nothing to stop. The first word counts.

        Args:
            what: Why, for people; it is sent to the caller.
            clause: The clause of the terms that says so.
            code: The same for programs, stable.
        """
        self._stop(PolicyStop(what, clause=clause, reason=code))

    def report_usage(
        self, *, input_tokens: float | None = None, output_tokens: float | None = None, reasoning_tokens: float | None = None
    ) -> None:
        """Say what the response took, where its body does not. Limits are settled with it; what is not said keeps the estimate.

        Parts of a token are rounded up.

        Args:
            input_tokens: Tokens of the prompt.
            output_tokens: Tokens of the response, reasoning included.
            reasoning_tokens: Those of them spent on reasoning.

        Raises:
            TypeError, ValueError, OverflowError: One of them is no number that counts anything.
        """
        self._report(Usage(*map(_whole, (input_tokens, output_tokens, reasoning_tokens))))


def _whole(tokens: float | None) -> int | None:
    """A guess such as ``len(text) / 4``, rounded up: engines count in integers."""
    return None if tokens is None else math.ceil(tokens)


@dataclass(frozen=True, slots=True)
class FindHolder:
    """Needs the account of a key or of an id, with what its rights depend on and what the key is for: a `KeyedHolder`, or None."""

    public_id: str | None = None
    secret_hash: bytes = b""
    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class ReadTerms:
    """Needs all published terms, since the archive has changed."""


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """Needs a usage policy kept, so that it can be served for as long as tokens name it."""

    policy: UsagePolicy


@dataclass(frozen=True, slots=True)
class Reserve:
    """Needs the charges of a request reserved: all or none."""

    charges: tuple[Charge, ...]
    id: str
    lease: timedelta = LEASE


@dataclass(frozen=True, slots=True)
class Cancel:
    """Needs a reservation given back."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class Settle:
    """Needs a reservation settled, with what is known to have been used."""

    reservation: Reservation
    actual: Amounts


@dataclass(frozen=True, slots=True)
class Identify:
    """Needs the host's word on who asks."""

    view: RequestView


@dataclass(frozen=True, slots=True)
class VerifyBearer:
    """Needs to know who presents a bearer token of another authorization server."""

    token: str = field(repr=False)
    now: datetime


@dataclass(frozen=True, slots=True)
class UseProof:
    """Needs to know whether a proof of possession was used before, and uses it; see `tos_guard.protocols.ReplayCache`."""

    use: bytes
    made_after: datetime
    keep: timedelta


@dataclass(frozen=True, slots=True)
class Ask:
    """Needs what a call gives that may take its time: one of the store, which waits for a disk, or one that writes a long page."""

    call: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class AskHost:
    """Needs the host's word.

    Attributes:
        what: Name of the override that is asked, as logs say it.
        call: Asks it.
    """

    what: str
    call: Callable[[], Any | Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ReadBody:
    """Needs the request's body, which comes as slowly as its client sends it.

    Attributes:
        read: Reads all of it, or gives None where the client left; raises `RequestError`.
    """

    read: Callable[[], bytes | Awaitable[bytes | None] | None]


@dataclass(frozen=True, slots=True)
class AskLimits:
    """Needs to know how far limits are used; nothing is charged."""

    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class CurrentKey:
    """Needs the key to sign with."""

    now: datetime
    purpose: KeyPurpose = KeyPurpose.PROVENANCE


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


@dataclass(frozen=True, slots=True)
class FindSeal:
    """Needs the kept seal of a name; gives it, or None."""

    account_id: str
    kind: SealKind
    key: str
    now: datetime


class UndecidedError(StoreError):
    """What was to be kept was not durable in time, and may still become so."""


@dataclass(frozen=True, slots=True)
class KeepSeals:
    """Needs seals kept with the record of their exchange; gives the one that stands in the way, or None.

    A task that is cancelled meanwhile goes on as if they were kept where there is a record to keep *instead*; if they cannot be, that is.
    """

    seals: tuple[KeptSeal, ...]
    record: ExchangeRecord | None = None
    instead: ExchangeRecord | None = None


Need = (
    FindHolder
    | ReadTerms
    | KeepPolicy
    | Reserve
    | Settle
    | Cancel
    | Identify
    | VerifyBearer
    | UseProof
    | Ask
    | AskHost
    | ReadBody
    | AskLimits
    | CurrentKey
    | Sign
    | Keep
    | FindSeal
    | KeepSeals
)
Steps = Generator[Need, Any, _T]
"""A step: yields what it needs, receives what came of it, and returns what it makes."""
