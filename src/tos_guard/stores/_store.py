"""What every store of ours can do, beside the administration of accounts and organizations: look-ups, terms, public keys, records."""

from __future__ import annotations

import hmac
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tos_guard.ledger import ExchangeRecord, KeptSeal, SealKind
from tos_guard.stores._administration import AdministratorKeys, OrganizationAdministration
from tos_guard.stores._appeals import Appealing
from tos_guard.stores._model import StoredTerms
from tos_guard.stores._outside import Outside

if TYPE_CHECKING:
    from tos_guard.rights import Account, Holder, KeyedHolder
    from tos_guard.terms import Acceptance, TermsVersion, Withdrawal
    from tos_guard.types import SubjectKind

__all__ = ["NO_HASH", "Store", "matching"]

NO_HASH: Final = bytes(32)
"""Compared with in place of an unknown key's hash, so that unknown and wrong take the same steps. No HMAC is ever this value."""


def matching(stored: bytes | None, given: bytes) -> bool:
    """Whether *given* is the *stored* hash, in time that does not depend on where they differ, or on whether there is one."""
    equal = hmac.compare_digest(NO_HASH if stored is None else stored, given)
    return equal and stored is not None


class Store(Outside, Appealing, OrganizationAdministration, AdministratorKeys):
    """Accounts, organizations, acceptances, keys, terms, usage policies, exchange records and kept seals of one issuer.

    An `AccountSource`, a `RightsSource`, a `RecordStore`, a `SealStore` and a `TermsArchive`, with their administration. Any thread may
    call; safe across forks. Every change of an account raises its `Account.version` and `version`, and is durable when the call
    returns. Used as a context manager, the store closes at the end.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # What a request asks.

    @abstractmethod
    def version(self) -> int:
        """Changes with every change of an account, an organization, an acceptance, an API key, the terms or the public keys.

        In other processes of the host within 50 ms, over a server within half a second.

        Raises:
            StoreError: The engine failed, or has not been heard for as long.
        """

    @abstractmethod
    def keyed_holder(self, public_id: str, secret_hash: bytes) -> KeyedHolder | None:
        """The account of a key, with what else its rights depend on, and what the key is for: how guards look keys up.

        None for an unknown or revoked key and for a wrong secret alike. Whether it has expired is for the caller to check, against its
        own present.

        Raises:
            StoreError: The engine failed.
        """

    def holder_by_api_key(self, public_id: str, secret_hash: bytes) -> Holder | None:
        """The account of a key that is for all its account may, with what else its rights depend on.

        None for an unknown, revoked or expired key and for a wrong secret alike; and for a key that is for less, or bound, since nothing
        here could tell (`keyed_holder` does).

        The same object as long as nothing of it has changed, so that it may stand in the key of a cache by its identity. Keep it
        there as well, or its identity may be given to another.

        Raises:
            StoreError: The engine failed.
        """
        found = self.keyed_holder(public_id, secret_hash)
        if found is None or not found.terms.is_unlimited or found.terms.has_expired(self._clock()):
            return None
        return found.holder

    @abstractmethod
    def holder_by_id(self, account_id: str) -> Holder | None:
        """The account with this id and what else its rights depend on, or None. The same object as of `holder_by_api_key`.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def rights_of(self, account: Account) -> Holder:
        """As `RightsSource.rights_of`, for an account of this store or one that the host keeps itself.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def rights_at(self, account: Account, moment: datetime) -> Holder:
        """The account with its organization and acceptances as this store knew them at *moment*.

        What was added later is not there, whatever time it bears: an acceptance that was imported afterwards had bound nobody.

        Raises:
            StoreError: The engine failed.
        """

    def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        """As `AccountSource.by_api_key`: `holder_by_api_key` without the rest.

        Raises:
            StoreError: The engine failed.
        """
        holder = self.holder_by_api_key(public_id, secret_hash)
        return None if holder is None else holder.account

    def by_id(self, account_id: str) -> Account | None:
        """As `AccountSource.by_id`: `holder_by_id` without the rest.

        Raises:
            StoreError: The engine failed.
        """
        holder = self.holder_by_id(account_id)
        return None if holder is None else holder.account

    @abstractmethod
    def pepper(self) -> bytes:
        """32 random bytes, made once per issuer, under which secrets of API keys are hashed.

        Raises:
            StoreError: The engine failed.
        """

    # Terms, public keys and usage policies: published, and kept for ever.

    @abstractmethod
    def publish_terms(self, terms: TermsVersion, *, actor: str = "") -> None:
        """Keep a terms version for ever. Publishing the same again changes nothing; *actor* is who does it.

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

    @abstractmethod
    def put_usage_policy(self, sha256: str, document: bytes) -> None:
        """Keep a usage policy for ever under its digest, which tokens name; a policy that is kept already costs no write.

        It changes nothing for anyone, so `version` stays.

        Raises:
            StoreError: The engine failed, or *sha256* is not the digest of *document*.
        """

    @abstractmethod
    def usage_policy(self, sha256: str) -> bytes | None:
        """The usage policy with this digest, or None.

        Raises:
            StoreError: The engine failed.
        """

    # Acceptances: evidence, which no method removes.

    @abstractmethod
    def add_acceptance(self, acceptance: Acceptance, *, actor: str = "") -> Acceptance:
        """Keep an acceptance for ever, and return it; with its withdrawal, where it is there already and withdrawn.

        Again changes nothing. Whether whom it names may accept is the caller's to know: the account or organization need not be stored.
        *actor* is the administrator who records it; empty where people accept by themselves.

        Raises:
            AccountError: It is of another issuer, or withdrawn, or another acceptance is kept under its id.
            StoreError: The engine failed.
        """

    @abstractmethod
    def withdraw_acceptance(self, withdrawal: Withdrawal, *, actor: str = "") -> Acceptance:
        """Keep the withdrawal of an acceptance for ever, and return the acceptance with it. Again changes nothing; *actor* as above.

        Raises:
            AccountError: The acceptance is unknown, was withdrawn by another record, or cannot be by this one.
            StoreError: The engine failed.
        """

    @abstractmethod
    def acceptance(self, acceptance_id: str) -> Acceptance | None:
        """The acceptance with this id, and its withdrawal, or None.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def acceptance_recorded_by(self, acceptance_id: str) -> tuple[str, str] | None:
        """The administrators who recorded an acceptance and its withdrawal, each empty where nobody did; None where it is unknown.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def acceptances(self, subject_kind: SubjectKind, subject_id: str) -> Sequence[Acceptance]:
        """Acceptances for an account or an organization, with their withdrawals, oldest first.

        Those of a deleted account are among them; no `Holder` has these.

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
    def newest_record_at(self, issuer: str) -> datetime | None:
        """When the issuer's newest exchange started, or None where there is none.

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
        """Forget which records belong to the account, and all of its kept seals; no file of the records holds its id any more.

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

    # Kept seals.

    @abstractmethod
    def keep(self, seals: Sequence[KeptSeal], record: ExchangeRecord | None = None) -> Future[KeptSeal | None]:
        """As `SealStore.keep`. The future fails with `StoreError`, and cannot be cancelled."""

    @abstractmethod
    def kept(self, account_id: str, kind: SealKind, key: str, now: datetime) -> KeptSeal | None:
        """As `SealStore.kept`.

        Raises:
            StoreError: The engine failed, or the row is damaged.
        """

    @abstractmethod
    def kept_of(self, account_id: str, kind: SealKind | None = None, prefix: str = "") -> Sequence[KeptSeal]:
        """As `SealStore.kept_of`.

        Raises:
            StoreError: The engine failed, or a row is damaged.
        """

    @abstractmethod
    def purge_kept(self, now: datetime) -> int:
        """As `SealStore.purge_kept`.

        Raises:
            StoreError: The engine failed; what was deleted stays deleted.
        """

    # Limits that are counted elsewhere.

    @abstractmethod
    def note_limits_domain(self, domain: str) -> bool:
        """Keep for ever that limits have been counted in *domain*, by an engine that may lose its memory.

        Returns:
            Whether that is new: nothing was ever counted there, so that an engine without a memory of it has forgotten nothing. Of all
            processes, one is told so, once.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Wait until everything appended is durable, then let go of files and threads."""
