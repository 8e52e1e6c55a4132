"""Exchange records that are forgotten with the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal, TypeVar

from tos_guard.errors import StoreError
from tos_guard.ledger import ExchangeRecord, KeptSeal, SealKind
from tos_guard.stores._kept_seals import encode_seals
from tos_guard.stores._model import to_ms
from tos_guard.stores._records import encode_row, hour_of, retention_cutoffs

__all__ = ["MemoryRecords"]

_T = TypeVar("_T")


class MemoryRecords:
    """`RecordStore` in memory, with the few questions an administrator asks.

    Attributes:
        fault: What `append` and `keep` do wrong, for tests: ``before`` fails without storing, ``after`` stores and fails all the same.
    """

    def __init__(self, *, issuer: str) -> None:
        self.fault: Literal["before", "after"] | None = None
        self._records_issuer = issuer
        self._lock = threading.RLock()
        self._closed = False
        self._records: dict[tuple[str, str], ExchangeRecord] = {}
        self._denials: dict[tuple[int, str], int] = {}
        self._kept: dict[tuple[str, str], dict[tuple[str, str], KeptSeal]] = {}

    def append(self, record: ExchangeRecord) -> Future[None]:
        """As `Store.append`."""

        def store() -> None:
            encode_row(record)
            self._put(record)

        return self._stored_by(store)

    def keep(self, seals: Sequence[KeptSeal], record: ExchangeRecord | None = None) -> Future[KeptSeal | None]:
        """As `Store.keep`."""

        def store() -> KeptSeal | None:
            encode_seals(seals)
            if record is not None:
                encode_row(record)
            kept = self._kept.setdefault((seals[0].issuer, seals[0].account_id), {})
            for seal in seals:
                known = kept.get((seal.kind, seal.key))
                if known is not None and known != seal and not known.gives_way_to(seal):
                    return known
            kept |= {(seal.kind, seal.key): seal for seal in seals}
            if record is not None:
                self._put(record)
            return None

        return self._stored_by(store)

    def _put(self, record: ExchangeRecord) -> None:
        """Put it where there is none of its exchange, or none with a token."""
        known = self._records.get((record.issuer, record.rid))
        if known is None or (known.jti is None and record.jti is not None):
            account_id = record.account_id if known is None else known.account_id
            self._records[record.issuer, record.rid] = replace(record, account_id=account_id)

    def _stored_by(self, store: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()
        try:
            with self._lock:
                if self._closed:
                    raise StoreError("the store is closed", where="memory")
                if self.fault == "before":
                    raise StoreError("the record was not stored", where="memory")
                result = store()
                if self.fault == "after":
                    raise StoreError("the record was stored, and the store failed", where="memory")
        except StoreError as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def kept(self, account_id: str, kind: SealKind, key: str, now: datetime) -> KeptSeal | None:
        """As `Store.kept`."""
        with self._lock:
            seal = self._kept.get((self._records_issuer, account_id), {}).get((kind, key))
            return seal if seal is not None and seal.until > to_ms(now) else None

    def kept_of(self, account_id: str, kind: SealKind | None = None, prefix: str = "") -> Sequence[KeptSeal]:
        """As `Store.kept_of`."""
        with self._lock:
            kept = self._kept.get((self._records_issuer, account_id), {})
            return tuple(kept[name] for name in sorted(kept) if kind is None or (name[0] == kind and name[1].startswith(prefix)))

    def purge_kept(self, now: datetime) -> int:
        """As `Store.purge_kept`."""
        purged = 0
        with self._lock:
            for (issuer, _), kept in self._kept.items():
                old = [name for name, seal in kept.items() if issuer == self._records_issuer and seal.until <= to_ms(now)]
                purged += len(old)
                for name in old:
                    del kept[name]
        return purged

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

    def newest_record_at(self, issuer: str) -> datetime | None:
        """As `Store.newest_record_at`."""
        newest = max((record.started for record in self._of(issuer)), default=None)
        return None if newest is None else datetime.fromtimestamp(newest / 1000, UTC)

    def denial_counts(self, issuer: str) -> Sequence[tuple[datetime, str, int]]:
        """As `Store.denial_counts`."""
        if issuer != self._records_issuer:
            return ()
        with self._lock:
            return tuple((datetime.fromtimestamp(hour * 3600, UTC), code, count) for (hour, code), count in sorted(self._denials.items()))

    def erase_account(self, issuer: str, account_id: str) -> int:
        """As `Store.erase_account`."""
        with self._lock:
            self._kept.pop((issuer, account_id), None)
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
                if record.issuer == self._records_issuer
                and record.type in cutoffs
                and record.started < int(cutoffs[record.type].timestamp() * 1000)
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
