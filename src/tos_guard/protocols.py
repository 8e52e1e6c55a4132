"""The seams: what the guard needs from a signer, a source of accounts and a store of records.

A Protocol's docstring is its contract. A new implementation is done when the suite under ``tests/contracts/`` passes on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tos_guard.errors import StoreError
    from tos_guard.keys import KeyRecord
    from tos_guard.ledger import ExchangeRecord, KeptSeal, SealKind
    from tos_guard.limits import Amounts, Charge, LimitRefusal, LimitState, Reservation
    from tos_guard.rights import Account, BearerIdentity, Holder

__all__ = [
    "AccountSource",
    "AsyncAccountSource",
    "AsyncLimitEngine",
    "AsyncReplayCache",
    "AsyncSigner",
    "BearerAuthenticator",
    "Clock",
    "Entropy",
    "HeardVersion",
    "LimitEngine",
    "PublishedTerms",
    "RecordStore",
    "ReplayCache",
    "RightsSource",
    "SealStore",
    "Signer",
    "TermsArchive",
    "Use",
]

Use = Literal["first", "used", "forgotten"]
"""What a replay cache says of the use of a proof; see `ReplayCache.use`."""


class Clock(Protocol):
    """Tells the time."""

    def __call__(self) -> datetime:
        """The present, as an aware datetime in UTC."""
        ...


class Entropy(Protocol):
    """Gives unpredictable bytes, as `secrets.token_bytes` does."""

    def __call__(self, size: int, /) -> bytes:
        """*size* fresh random bytes."""
        ...


@runtime_checkable
class Signer(Protocol):
    """Signs for one issuer and one purpose. Any thread may call.

    The key may change between two calls (rotation); `sign` says which key it used by taking it as argument, so that a token never
    names another key than the one that signed it.
    """

    def current(self, now: datetime) -> KeyRecord:
        """The key to sign with at *now*.

        Raises:
            SignerError: No key of this purpose is valid at *now*.
        """
        ...

    def sign(self, key: KeyRecord, message: bytes) -> bytes:
        """Sign *message* with *key*: 64 bytes (RFC 8032 for Ed25519, r||s for ES256).

        Raises:
            SignerError: The key is gone, or the device did not answer.
        """
        ...


@runtime_checkable
class AsyncSigner(Protocol):
    """`Signer` for keys that live across a network: a KMS or HSM."""

    async def current(self, now: datetime) -> KeyRecord:
        """As `Signer.current`."""
        ...

    async def sign(self, key: KeyRecord, message: bytes) -> bytes:
        """As `Signer.sign`."""
        ...


@runtime_checkable
class AccountSource(Protocol):
    """Finds accounts: ours (`tos_guard.stores`), or the host's own behind this Protocol. Any thread may call.

    Whatever an account may do is a function of its value, so a change of rights must show as a new ``Account.version``. Once a
    change is committed, `version` must show it within a second in every process (DESIGN D3), or raise `StoreError` where it cannot: then
    ``[failure] accounts`` decides. A source whose version lies at a server has it heard of by a `HeardVersion`, and names that as its
    attribute ``hearing``, as `tos_guard.stores.SharedVersion` is one.
    """

    def version(self) -> int:
        """A number that changes whenever any account, key or grant may have changed. Cheap: called for each request."""
        ...

    def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        """The account of a key, or None for an unknown id and for a wrong secret alike."""
        ...

    def by_id(self, account_id: str) -> Account | None:
        """The account with this id, or None."""
        ...


@runtime_checkable
class AsyncAccountSource(Protocol):
    """`AccountSource` whose look-ups await."""

    def version(self) -> int:
        """As `AccountSource.version`."""
        ...

    async def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        """As `AccountSource.by_api_key`."""
        ...

    async def by_id(self, account_id: str) -> Account | None:
        """As `AccountSource.by_id`."""
        ...


@runtime_checkable
class HeardVersion(Protocol):
    """A version that lies at a server and is heard of beforehand, so that no request waits for it. Any thread may call; safe after fork.

    A guard finds it as the attribute ``hearing`` of what gives it accounts, rights or terms: an `AsyncGuard` awaits `heard_version`
    where it is not fresh, and either tells what happens to it.
    """

    @property
    def is_fresh(self) -> bool:
        """Whether `version` answers without waiting."""
        ...

    @property
    def age(self) -> float | None:
        """Seconds for which the version may be out of date; None before it was first asked for. Asks nothing."""
        ...

    def version(self) -> int:
        """The version, at most half a second old; never less than before.

        Raises:
            StoreError: It could not be learned, or not in time.
        """
        ...

    async def heard_version(self) -> int:
        """As `version`; the event loop does not wait."""
        ...

    def watch(self, told: Callable[[str, StoreError | None], None]) -> None:
        """Tell *told* what happens, from any thread, in one word.

        ``unheard`` once nothing is heard any more, with what failed, and ``heard`` when it is again; ``silent`` where announcements are
        missed and changes are heard of by asking alone, and ``listening`` when they are not.
        """
        ...


@runtime_checkable
class RightsSource(Protocol):
    """Adds to an account what else its rights depend on: its organization, and the acceptances of both. Any thread may call.

    Apart from `AccountSource`, so that a host may keep its own accounts while our store (`tos_guard.stores`) keeps organizations and
    acceptances, by the account's `id` and `organization`. Our store is both, and answers both from one cached look-up.
    """

    def version(self) -> int:
        """A number that changes whenever the answer for any account may have changed, as `AccountSource.version`."""
        ...

    def rights_of(self, account: Account) -> Holder:
        """The account with its organization and acceptances; without, where nothing is known of them. Cheap when asked again.

        As long as nothing of it has changed, the answer is the same object, so that plans can be kept by its identity.
        """
        ...


@runtime_checkable
class BearerAuthenticator(Protocol):
    """Proves who presents a bearer token of another authorization server. Any thread may call; safe after fork.

    `verify` works with what is at hand: it neither waits for the network nor opens a connection because of what a token says, so an
    event loop may call it. Where the keys of an issuer have never come, `first_keys` gives what to wait for.
    """

    def verify(self, token: str, now: datetime) -> BearerIdentity:
        """Who asks, if what the identity's ``binding`` names is proven too: that is the work of whoever calls.

        Raises:
            AuthenticationError: The token is not accepted; the text is that of every wrong credential.
            StoreError: What it takes to judge the token is not at hand, or too old.
        """
        ...

    def first_keys(self, token: str) -> Future[None] | None:
        """What to wait for before `verify` can judge this token for the first time, or None. The future ends whatever comes of it."""
        ...

    def watch(self, told: Callable[[str, Exception | None], None]) -> None:
        """Tell *told* what happens to the keys: a word, and what failed where something did. Each use of keys that are overdue is one."""
        ...

    def fetched(self) -> Mapping[str, datetime]:
        """When the keys of each issuer were last fetched; without those whose keys never were. Asks nothing."""
        ...

    def close(self) -> None:
        """Stop asking for keys."""
        ...


@runtime_checkable
class RecordStore(Protocol):
    """Keeps exchange records. Any thread may call; safe after fork.

    `append` returns at once. The future is done when the record is durable (it survives a crash of process and machine as far as
    the engine's fsync goes), or fails with `StoreError`. Records of one process become durable in the order of `append`. A record
    whose request id (`rid`) is already stored is not stored twice; its future is done all the same.
    """

    def append(self, record: ExchangeRecord) -> Future[None]:
        """Store *record*; see above for when."""
        ...

    def count_denial(self, code: str, now: datetime) -> None:
        """Count one unauthenticated denial. Rolled up per hour and code, never one row each; may lose up to a second on a crash."""
        ...

    def by_request_id(self, issuer: str, rid: str) -> ExchangeRecord | None:
        """The record of one exchange."""
        ...

    def by_token_id(self, issuer: str, jti: str) -> ExchangeRecord | None:
        """The record whose final token has this `jti`."""
        ...

    def of_account(self, issuer: str, account_id: str) -> Sequence[ExchangeRecord]:
        """All records that can still be linked to the account, oldest first."""
        ...

    def erase_account(self, issuer: str, account_id: str) -> int:
        """Forget which records belong to the account. Returns how many were unlinked. The records stay, so tokens stay provable."""
        ...

    def purge(self, now: datetime, retention_days: Mapping[str, int]) -> int:
        """Delete records older than their type allows (``exchange``, ``denial``, ``denial_count``). Returns how many."""
        ...

    def close(self) -> None:
        """Wait until everything appended is durable, then stop the writer."""
        ...


@runtime_checkable
class SealStore(Protocol):
    """Keeps seals of responses that may leave again, beside the records. Any thread may call; safe after fork.

    A name is an account, a kind and a key; an account finds its own alone. `RecordStore.erase_account` forgets the account's seals too.
    A host whose record store is none of ours keeps seals by this Protocol on the same object, since a seal and its record become
    durable together.
    """

    def keep(self, seals: Sequence[KeptSeal], record: ExchangeRecord | None = None) -> Future[KeptSeal | None]:
        """Keep seals of one exchange, with its record: all, or nothing at all.

        The future is done when they are durable, and gives None. Where one of the names has a seal that does not give way
        (`KeptSeal.gives_way_to`), nothing is kept, and it gives that one: of two exchanges that end at once, one wins. It fails with
        `StoreError`. A record whose request id is stored already is not stored twice, but for one with a token after one without: it
        takes its place, and is of the account that the first one is still of.
        """
        ...

    def kept(self, account_id: str, kind: SealKind, key: str, now: datetime) -> KeptSeal | None:
        """The seal of a name, or None; none whose time is over. What another process has kept is found as soon as it is durable."""
        ...

    def kept_of(self, account_id: str, kind: SealKind | None = None, prefix: str = "") -> Sequence[KeptSeal]:
        """All seals of an account, or those of a kind whose key begins so, by kind and key; those whose time is over, until a purge."""
        ...

    def purge_kept(self, now: datetime) -> int:
        """Delete seals whose time is over. Returns how many."""
        ...


@runtime_checkable
class LimitEngine(Protocol):
    """Counts what accounts use, and reserves it before it is used (DESIGN D4). Synchronous; any thread may call; safe after fork.

    No counter ever admits more than its limit in any window, whatever calls meet, fail or stop half-way. Counters go by what is counted
    (``Charge.counter``): the same usage is there after the limit's amount has changed. Time never goes back: neither sliding windows
    nor leases follow the wall clock, and an earlier window of the calendar is never opened again. Limits in shadow are counted and
    refuse nothing.
    """

    @property
    def blocks(self) -> bool:
        """Whether a call may wait for a disk, another process or the network, so that an event loop must not make it."""
        ...

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002
        """Take all charges, or none, in one step.

        Args:
            charges: What to take; see `tos_guard.limits.AccountLimits.charges`.
            id: Name of the reservation; no two open ones share it.
            lease: How long it holds without `renew`. Afterwards its slots of concurrency return, and the rest keeps the estimate.

        Raises:
            StoreError: The engine failed. The charges may have been taken; they are never taken twice.
            ValueError: An open reservation has this id.
        """
        ...

    def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """Replace the estimate by what was used, and free the slots.

        What was not used goes back to the time it was charged for; what was used beyond it is charged now, even above the limit. Once
        settled, cancelled or expired, further calls change nothing.

        Args:
            reservation: What `reserve` gave, in this process or another.
            actual: What was used (`tos_guard.limits.actual`), or None to keep the estimate.

        Raises:
            StoreError: The engine failed. The estimate stands until it is settled or the windows are over.
        """
        ...

    def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """Let the reservation hold for *lease* from now. One that has ended stays ended.

        Raises:
            StoreError: The engine failed.
        """
        ...

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        """`renew` for many: what a process does for all that it has open, in as few steps as the engine can.

        Raises:
            StoreError: The engine failed. Some of them may have been renewed.
        """
        ...

    def cancel(self, reservation: Reservation) -> None:
        """Give everything back, the request itself too. Only for what was never dispatched.

        Raises:
            StoreError: The engine failed. The estimate stands until the windows are over.
        """
        ...

    def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """How far the limits are used, without charging anything.

        Raises:
            StoreError: The engine failed.
        """
        ...

    def close(self) -> None:
        """Let go of files and threads. Further use raises `StoreError`."""
        ...


@runtime_checkable
class AsyncLimitEngine(Protocol):
    """`LimitEngine` whose calls await, for engines across a network. One event loop at a time; safe after fork.

    A call that is cancelled may have been carried out: what it reserved is held until its lease ends, and what it settled stays settled.
    """

    @property
    def blocking(self) -> LimitEngine:
        """The same engine for threads: what either of the two reserves, both settle and renew. `close` closes both."""
        ...

    async def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002
        """As `LimitEngine.reserve`."""
        ...

    async def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        """As `LimitEngine.settle`."""
        ...

    async def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        """As `LimitEngine.renew`."""
        ...

    async def cancel(self, reservation: Reservation) -> None:
        """As `LimitEngine.cancel`."""
        ...

    async def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        """As `LimitEngine.states`."""
        ...

    async def close(self) -> None:
        """As `LimitEngine.close`."""
        ...


@runtime_checkable
class ReplayCache(Protocol):
    """Knows which proofs were used (RFC 9449 section 11.1). Any thread may call; safe after fork.

    Of all who ask for one use, in whatever process that shares the state, exactly one is told ``first``.
    """

    @property
    def blocks(self) -> bool:
        """Whether a call may wait for a disk, another process or the network, so that an event loop must not make it."""
        ...

    def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        """Use a proof.

        Args:
            use: 32 bytes that name it.
            made_after: No earlier than this was it made.
            keep: For how long it could be used again.

        Returns:
            ``first`` for the first to ask. ``used`` for everybody else. ``forgotten`` where it may have been used before what is known
            began: the state was lost, or is new; what is made from now on will do.

        Raises:
            StoreError: The engine failed. The proof may count as used.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections. Further use raises `StoreError`."""
        ...


@runtime_checkable
class AsyncReplayCache(Protocol):
    """`ReplayCache` whose engine is across a network."""

    async def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        """As `ReplayCache.use`."""
        ...

    async def close(self) -> None:
        """As `ReplayCache.close`."""
        ...


class PublishedTerms(Protocol):
    """A terms version as it was published."""

    @property
    def sha256(self) -> str:
        """Digest of the terms, base64url."""
        ...

    @property
    def document(self) -> bytes:
        """RFC 8785 bytes of the document."""
        ...

    @property
    def text(self) -> str:
        """The text people read."""
        ...


class TermsArchive(Protocol):
    """Keeps every terms version that was ever published, and every usage policy that a token names. Any thread may call."""

    def version(self) -> int:
        """A number that changes whenever terms may have been published, in other processes within a second. Called for each request."""
        ...

    def terms_versions(self) -> Sequence[PublishedTerms]:
        """All published versions of all series, in the order in which they take effect; of one day, in the order of publication."""
        ...

    def put_usage_policy(self, sha256: str, document: bytes) -> None:
        """Keep the RFC 8785 bytes of a usage policy for ever. Doing it again changes nothing, and no `version`."""
        ...

    def usage_policy(self, sha256: str) -> bytes | None:
        """The usage policy with this digest, or None."""
        ...

    def terms(self, version: str) -> PublishedTerms | None:
        """A version by its name, or None. What it says for a name never changes."""
        ...
