"""What every store of ours does alike: the administration of accounts, told in terms of a few primitives that engines provide."""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tos_guard.errors import AccountError
from tos_guard.ledger import ExchangeRecord
from tos_guard.stores._model import AccountChange, StoredKey, StoredTerms, account_document, changed_account, grant_document
from tos_guard.types import Standing

if TYPE_CHECKING:
    from tos_guard.rights import Account, Grant
    from tos_guard.terms import TermsVersion

__all__ = ["NO_HASH", "Store", "matching"]

NO_HASH: Final = bytes(32)
"""Compared with in place of an unknown key's hash, so that unknown and wrong take the same steps. No HMAC is ever this value."""


def matching(stored: bytes | None, given: bytes) -> bool:
    """Whether *given* is the *stored* hash, in time that does not depend on where they differ, or on whether there is one."""
    equal = hmac.compare_digest(NO_HASH if stored is None else stored, given)
    return equal and stored is not None


class Store(ABC):
    """Accounts, API keys, terms, public keys and exchange records of one issuer: `AccountSource`, `RecordStore` and their administration.

    Any thread may call; safe across forks. Every change of an account raises its `Account.version` and `version`, and is durable when
    the call returns. Used as a context manager, the store closes at the end.
    """

    issuer: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Accounts: what a request asks.

    @abstractmethod
    def version(self) -> int:
        """Changes with every change of an account, an API key, the terms or the public keys; in other processes within 50 ms.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        """The account of a key; None for an unknown or revoked key and for a wrong secret alike.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def by_id(self, account_id: str) -> Account | None:
        """The account with this id, or None.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def pepper(self) -> bytes:
        """32 random bytes, made once per issuer, under which secrets of API keys are hashed.

        Raises:
            StoreError: The engine failed.
        """

    # Accounts: administration.

    @abstractmethod
    def accounts(self) -> Sequence[Account]:
        """All accounts, by id.

        Raises:
            StoreError: The engine failed.
        """

    def add_account(self, account: Account) -> Account:
        """Store a new account, as version 1, and return it.

        Raises:
            AccountError: The id is taken.
            StoreError: The engine failed.
        """
        return self._insert_account(changed_account(account, {"version": 1}))

    def put_account(self, account: Account, *, reason: str = "") -> Account:
        """Replace an account that was read before, and return it with its new version.

        Raises:
            AccountError: The id is unknown, or the account has changed since it was read: `Account.version` is not the stored one.
            StoreError: The engine failed.
        """

        def replaced(stored: Account) -> Mapping[str, Any]:
            if stored.version != account.version:
                raise AccountError(
                    f"changed meanwhile: it is version {stored.version}, and you read {account.version}",
                    where=f"account {account.id}",
                    cure="Read it again and repeat the change",
                )
            return account_document(account)

        return self._change_account(account.id, replaced, what="changed", detail="", reason=reason)

    def set_standing(self, account_id: str, standing: Standing, reason: str) -> Account:
        """Move the account to *standing*, and return it.

        Raises:
            AccountError: The id is unknown.
            StoreError: The engine failed.
        """
        return self._change_account(
            account_id, lambda _: {"standing": standing.value}, what="standing", detail=standing.value, reason=reason
        )

    def add_grant(self, account_id: str, grant: Grant) -> Account:
        """Give the account *grant*, and return it.

        Raises:
            AccountError: The account is unknown, or already has a grant of this id.
            StoreError: The engine failed.
        """

        def added(stored: Account) -> Mapping[str, Any]:
            if any(held.id == grant.id for held in stored.grants):
                raise AccountError(f"grant {grant.id} is there already", where=f"account {account_id}", cure="Give it another id")
            return {"grants": [*map(grant_document, stored.grants), grant_document(grant)]}

        return self._change_account(account_id, added, what="grant_added", detail=grant.id, reason="")

    def void_grant(self, account_id: str, grant_id: str, reason: str = "") -> Account:
        """Take the grant from the account, and return it. Its history keeps both steps.

        Raises:
            AccountError: The account is unknown, or has no such grant.
            StoreError: The engine failed.
        """

        def voided(stored: Account) -> Mapping[str, Any]:
            kept = [grant for grant in stored.grants if grant.id != grant_id]
            if len(kept) == len(stored.grants):
                raise AccountError(f"there is no grant {grant_id}", where=f"account {account_id}")
            return {"grants": [*map(grant_document, kept)]}

        return self._change_account(account_id, voided, what="grant_voided", detail=grant_id, reason=reason)

    @abstractmethod
    def delete_account(self, account_id: str) -> None:
        """Forget the account, its keys and its history, in every file of the accounts. Its records: see `erase_account`.

        Raises:
            AccountError: The id is unknown.
            StoreError: The engine failed. The account may be gone already and still be legible in a file: call again.
        """

    @abstractmethod
    def history(self, account_id: str) -> Sequence[AccountChange]:
        """What happened to the account, oldest first.

        Raises:
            AccountError: The id is unknown.
            StoreError: The engine failed.
        """

    @abstractmethod
    def add_api_key(self, account_id: str, public_id: str, secret_hash: bytes, *, label: str = "") -> StoredKey:
        """Store a key: its public id, and the keyed hash of its secret.

        Raises:
            AccountError: The account is unknown, the public id is taken, or the hash has not 32 bytes.
            StoreError: The engine failed.
        """

    @abstractmethod
    def revoke_api_key(self, public_id: str, reason: str = "") -> StoredKey:
        """End a key for good. Revoking it again changes nothing.

        Raises:
            AccountError: The key is unknown.
            StoreError: The engine failed.
        """

    @abstractmethod
    def api_keys(self, account_id: str) -> Sequence[StoredKey]:
        """The account's keys, revoked ones too, oldest first.

        Raises:
            AccountError: The account is unknown.
            StoreError: The engine failed.
        """

    # Terms and public keys.

    @abstractmethod
    def publish_terms(self, terms: TermsVersion) -> None:
        """Keep a terms version for ever. Publishing the same again changes nothing.

        Raises:
            TermsError: Another document or text has been published under this version.
            StoreError: The engine failed.
        """

    @abstractmethod
    def terms(self, version: str) -> StoredTerms | None:
        """A published version, or None.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def terms_versions(self) -> Sequence[StoredTerms]:
        """All published versions, in the order in which they take effect; of one day, in the order of publication.

        Raises:
            StoreError: The engine failed.
        """

    def current_terms(self, now: datetime) -> StoredTerms | None:
        """The version in force on the UTC day of *now*, or None.

        Raises:
            StoreError: The engine failed.
        """
        today = now.date()
        return next((terms for terms in reversed(self.terms_versions()) if terms.effective <= today), None)

    @abstractmethod
    def put_public_key(self, document: Mapping[str, Any]) -> None:
        """Keep a public key, a JSON object with a `kid`; its other members may change later, its material never.

        Raises:
            ConfigurationError: No `kid`, private members, or other material than is known under this `kid`.
            StoreError: The engine failed.
        """

    @abstractmethod
    def public_keys(self) -> Sequence[dict[str, Any]]:
        """All public keys ever put, oldest first.

        Raises:
            StoreError: The engine failed.
        """

    # Records.

    @abstractmethod
    def append(self, record: ExchangeRecord) -> Future[None]:
        """Store *record*. Done when it is durable; fails with `StoreError`. The future cannot be cancelled."""

    @abstractmethod
    def count_denial(self, code: str, now: datetime) -> None:
        """Count one unauthenticated denial, per hour and code; durable within a second."""

    @abstractmethod
    def flush(self) -> None:
        """Wait until everything appended and counted so far by this process is durable.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def by_request_id(self, issuer: str, rid: str) -> ExchangeRecord | None:
        """The record of one exchange.

        Raises:
            StoreError: The engine failed, or the row is damaged.
        """

    @abstractmethod
    def by_token_id(self, issuer: str, jti: str) -> ExchangeRecord | None:
        """The record whose final token has this `jti`.

        Raises:
            StoreError: The engine failed, or the row is damaged.
        """

    @abstractmethod
    def of_account(self, issuer: str, account_id: str) -> Sequence[ExchangeRecord]:
        """All records that can still be linked to the account, oldest first.

        Raises:
            StoreError: The engine failed, or a row is damaged.
        """

    @abstractmethod
    def count_records(self, issuer: str) -> int:
        """How many records the issuer has.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def denial_counts(self, issuer: str) -> Sequence[tuple[datetime, str, int]]:
        """Start of the hour (UTC), code and count of unauthenticated denials, oldest hour first.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def erase_account(self, issuer: str, account_id: str) -> int:
        """Forget which records belong to the account, and see to it that no file of the records holds its id.

        Records appended before by this process are unlinked as well. An exchange that is still running links itself when it ends:
        suspend the account first.

        Returns:
            How many records were unlinked. Zero when it is called again, which is safe.

        Raises:
            StoreError: The engine failed, or another process read for so long that the log could not be emptied. Call again.
        """

    @abstractmethod
    def purge(self, now: datetime, retention_days: Mapping[str, int]) -> int:
        """Delete records and counts of this store's issuer older than their type allows. A type not named is kept.

        Returns:
            How many records and counts were deleted.

        Raises:
            ConfigurationError: An unknown type, or a negative number of days.
            StoreError: The engine failed; what was deleted stays deleted.
        """

    @abstractmethod
    def close(self) -> None:
        """Wait until everything appended is durable, then let go of files and threads."""

    # What an engine provides for the above.

    @abstractmethod
    def _insert_account(self, account: Account) -> Account: ...

    @abstractmethod
    def _change_account(
        self, account_id: str, change: Callable[[Account], Mapping[str, Any]], *, what: str, detail: str, reason: str
    ) -> Account: ...
