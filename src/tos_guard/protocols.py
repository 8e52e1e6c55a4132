"""The seams: what the guard needs from a signer, a source of accounts and a store of records.

A Protocol's docstring is its contract. A new implementation is done when the suite under ``tests/contracts/`` passes on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tos_guard.keys import KeyRecord
    from tos_guard.ledger import ExchangeRecord
    from tos_guard.rights import Account

__all__ = [
    "AccountSource",
    "AsyncAccountSource",
    "AsyncSigner",
    "Clock",
    "Entropy",
    "PublishedTerms",
    "RecordStore",
    "Signer",
    "TermsArchive",
]


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
    change is committed, `version` must show it within a second in every process (DESIGN D3).
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


class PublishedTerms(Protocol):
    """A terms version as it was published."""

    @property
    def document(self) -> bytes:
        """RFC 8785 bytes of the document."""
        ...

    @property
    def text(self) -> str:
        """The text people read."""
        ...


class TermsArchive(Protocol):
    """Keeps every terms version that was ever published. Any thread may call."""

    def terms(self, version: str) -> PublishedTerms | None:
        """A version by its name, or None. What it says for a name never changes."""
        ...
