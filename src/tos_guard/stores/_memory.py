"""A store that forgets everything with the process: for tests and for a first look."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from tos_guard.errors import AccountError, StoreError
from tos_guard.ledger import ExchangeRecord
from tos_guard.protocols import Clock, Entropy
from tos_guard.stores._accounts import SECRET_HASH_BYTES, account_exists, already_published, check_name, unknown_account
from tos_guard.stores._model import AccountChange, StoredKey, StoredTerms, changed_account, checked_public_key
from tos_guard.stores._records import encode_row, hour_of, retention_cutoffs
from tos_guard.stores._store import Store, matching

if TYPE_CHECKING:
    from tos_guard.rights import Account
    from tos_guard.terms import TermsVersion

__all__ = ["MemoryStore"]


@dataclass(frozen=True, slots=True)
class _Key:
    stored: StoredKey
    secret_hash: bytes


class MemoryStore(Store):
    """A `Store` in memory. A fork copies it; the copies know nothing of each other.

    Args:
        issuer: Whose accounts and records these are.
        clock: Tells when something was changed.
        entropy: Where the pepper comes from.

    Attributes:
        fault: What `append` does wrong, for tests: ``before`` fails without storing, ``after`` stores and fails all the same.
    """

    def __init__(self, *, issuer: str, clock: Clock, entropy: Entropy = secrets.token_bytes) -> None:
        self.issuer = issuer
        self.fault: Literal["before", "after"] | None = None
        self._clock = clock
        self._lock = threading.RLock()
        self._closed = False
        self._version = 1
        self._pepper = entropy(32)
        self._accounts: dict[str, Account] = {}
        self._changes: dict[str, list[AccountChange]] = {}
        self._api_keys: dict[str, _Key] = {}
        self._terms: dict[str, StoredTerms] = {}
        self._public_keys: dict[str, dict[str, Any]] = {}
        self._records: dict[tuple[str, str], ExchangeRecord] = {}
        self._denials: dict[tuple[int, str], int] = {}

    def version(self) -> int:
        """As `Store.version`."""
        return self._version

    def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        """As `Store.by_api_key`."""
        with self._lock:
            key = self._api_keys.get(public_id)
            usable = key is not None and key.stored.revoked is None
            if not matching(key.secret_hash if key is not None and usable else None, secret_hash) or key is None:
                return None
            return self._accounts[key.stored.account_id]

    def by_id(self, account_id: str) -> Account | None:
        """As `Store.by_id`."""
        return self._accounts.get(account_id)

    def pepper(self) -> bytes:
        """As `Store.pepper`."""
        return self._pepper

    def accounts(self) -> Sequence[Account]:
        """As `Store.accounts`."""
        with self._lock:
            return tuple(self._accounts[account_id] for account_id in sorted(self._accounts))

    def delete_account(self, account_id: str) -> None:
        """As `Store.delete_account`."""
        with self._lock:
            self._stored(account_id)
            self._version += 1
            del self._accounts[account_id]
            del self._changes[account_id]
            self._api_keys = {name: key for name, key in self._api_keys.items() if key.stored.account_id != account_id}

    def history(self, account_id: str) -> Sequence[AccountChange]:
        """As `Store.history`."""
        with self._lock:
            self._stored(account_id)
            return tuple(self._changes[account_id])

    def add_api_key(self, account_id: str, public_id: str, secret_hash: bytes, *, label: str = "") -> StoredKey:
        """As `Store.add_api_key`."""
        if len(secret_hash) != SECRET_HASH_BYTES:
            raise AccountError(f"a hash of {len(secret_hash)} bytes, not {SECRET_HASH_BYTES}", where=f"key {public_id}")
        with self._lock:
            account = self._stored(account_id)
            if check_name(public_id, "key") in self._api_keys:
                raise AccountError("this public id is taken", where=f"key {public_id}", cure="Make a new key")
            self._version += 1
            stored = StoredKey(public_id, account_id, label, self._now())
            self._api_keys[public_id] = _Key(stored, secret_hash)
            self._note(account, "key_added", public_id, "")
            return stored

    def revoke_api_key(self, public_id: str, reason: str = "") -> StoredKey:
        """As `Store.revoke_api_key`."""
        with self._lock:
            key = self._api_keys.get(public_id)
            if key is None:
                raise AccountError("unknown API key", where=f"key {public_id}")
            if key.stored.revoked is None:
                self._version += 1
                key = replace(key, stored=replace(key.stored, revoked=self._now()))
                self._api_keys[public_id] = key
                self._note(self._accounts[key.stored.account_id], "key_revoked", public_id, reason)
            return key.stored

    def api_keys(self, account_id: str) -> Sequence[StoredKey]:
        """As `Store.api_keys`."""
        with self._lock:
            self._stored(account_id)
            return tuple(key.stored for key in self._api_keys.values() if key.stored.account_id == account_id)

    def publish_terms(self, terms: TermsVersion) -> None:
        """As `Store.publish_terms`."""
        with self._lock:
            known = self._terms.get(terms.version)
            if known is not None and known.sha256 != terms.sha256:
                raise already_published(terms.version)
            if known is None:
                self._version += 1
                self._terms[terms.version] = StoredTerms(
                    terms.version, terms.uri, terms.effective, terms.sha256, terms.document_bytes, terms.text
                )

    def terms(self, version: str) -> StoredTerms | None:
        """As `Store.terms`."""
        return self._terms.get(version)

    def terms_versions(self) -> Sequence[StoredTerms]:
        """As `Store.terms_versions`."""
        with self._lock:
            return tuple(sorted(self._terms.values(), key=lambda terms: terms.effective))

    def put_public_key(self, document: Mapping[str, Any]) -> None:
        """As `Store.put_public_key`."""
        with self._lock:
            checked = checked_public_key(document, self._public_keys.get(str(document.get("kid"))))
            self._version += 1
            self._public_keys[checked["kid"]] = json.loads(json.dumps(checked))

    def public_keys(self) -> Sequence[dict[str, Any]]:
        """As `Store.public_keys`."""
        with self._lock:
            return tuple(json.loads(json.dumps(document)) for document in self._public_keys.values())

    def append(self, record: ExchangeRecord) -> Future[None]:
        """As `Store.append`."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        try:
            encode_row(record)
            with self._lock:
                if self._closed:
                    raise StoreError("the store is closed", where="memory")
                if self.fault == "before":
                    raise StoreError("the record was not stored", where="memory")
                self._records.setdefault((record.issuer, record.rid), record)
                if self.fault == "after":
                    raise StoreError("the record was stored, and the store failed", where="memory")
        except StoreError as error:
            future.set_exception(error)
        else:
            future.set_result(None)
        return future

    def count_denial(self, code: str, now: datetime) -> None:
        """As `Store.count_denial`."""
        with self._lock:
            counter = (hour_of(now), code)
            self._denials[counter] = self._denials.get(counter, 0) + 1

    def flush(self) -> None:
        """As `Store.flush`."""

    def by_request_id(self, issuer: str, rid: str) -> ExchangeRecord | None:
        """As `Store.by_request_id`."""
        return self._records.get((issuer, rid))

    def by_token_id(self, issuer: str, jti: str) -> ExchangeRecord | None:
        """As `Store.by_token_id`."""
        return next((record for record in self._of(issuer) if record.jti == jti), None)

    def of_account(self, issuer: str, account_id: str) -> Sequence[ExchangeRecord]:
        """As `Store.of_account`."""
        return tuple(sorted((record for record in self._of(issuer) if record.account_id == account_id), key=lambda record: record.started))

    def count_records(self, issuer: str) -> int:
        """As `Store.count_records`."""
        return len(self._of(issuer))

    def denial_counts(self, issuer: str) -> Sequence[tuple[datetime, str, int]]:
        """As `Store.denial_counts`."""
        if issuer != self.issuer:
            return ()
        with self._lock:
            return tuple((datetime.fromtimestamp(hour * 3600, UTC), code, count) for (hour, code), count in sorted(self._denials.items()))

    def erase_account(self, issuer: str, account_id: str) -> int:
        """As `Store.erase_account`."""
        with self._lock:
            linked = self.of_account(issuer, account_id)
            for record in linked:
                self._records[record.issuer, record.rid] = replace(record, account_id=None)
            return len(linked)

    def purge(self, now: datetime, retention_days: Mapping[str, int]) -> int:
        """As `Store.purge`."""
        cutoffs = retention_cutoffs(now, retention_days)
        with self._lock:
            old_records = [
                key
                for key, record in self._records.items()
                if record.issuer == self.issuer and record.type in cutoffs and record.started < int(cutoffs[record.type].timestamp() * 1000)
            ]
            counts_from = hour_of(cutoffs["denial_count"]) if "denial_count" in cutoffs else 0
            old_counts = [counter for counter in self._denials if counter[0] < counts_from]
            for key in old_records:
                del self._records[key]
            for counter in old_counts:
                del self._denials[counter]
            return len(old_records) + len(old_counts)

    def close(self) -> None:
        """As `Store.close`."""
        self._closed = True

    def _of(self, issuer: str) -> list[ExchangeRecord]:
        with self._lock:
            return [record for record in self._records.values() if record.issuer == issuer]

    def _now(self) -> datetime:
        """The present as other stores keep it: in milliseconds."""
        now = self._clock()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def _stored(self, account_id: str) -> Account:
        account = self._accounts.get(account_id)
        if account is None:
            raise unknown_account(account_id)
        return account

    def _note(self, account: Account, what: str, detail: str, reason: str) -> None:
        self._changes[account.id].append(AccountChange(account.id, account.version, self._now(), what, detail, reason))

    def _insert_account(self, account: Account) -> Account:
        with self._lock:
            if check_name(account.id, "account") in self._accounts:
                raise account_exists(account.id)
            self._version += 1
            self._accounts[account.id] = account
            self._changes[account.id] = []
            self._note(account, "added", "", "")
            return account

    def _change_account(
        self, account_id: str, change: Callable[[Account], Mapping[str, Any]], *, what: str, detail: str, reason: str
    ) -> Account:
        with self._lock:
            stored = self._stored(account_id)
            account = changed_account(stored, {**change(stored), "version": stored.version + 1})
            self._version += 1
            self._accounts[account_id] = account
            self._note(account, what, detail, reason)
            return account
