"""Exchange records, in tables (docs/spec/records.md).

The link between a record and an account is kept apart: `subject` joins record numbers to account numbers, and only `account` knows
what a number stands for. Erasure removes both, so that the records still prove their tokens and no longer name anyone.

What a database may still hold of a deleted row, and what is done about it, is told by `Database.scrub` of each.

Writers of several processes may meet at an account: whoever links to it holds its row shared, so that an erasure waits for the link;
whoever keeps seals of it waits for its turn. Rows are taken in the order of the accounts' names, so that nobody waits for one who waits
for the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from tos_guard._canonical import MAX_SAFE_INTEGER
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.ledger import ExchangeRecord, KeptSeal, SealKind
from tos_guard.stores._kept_seals import KEPT_SEALS, ask_seal, delete_seals_of, encode_seals, insert_seals, purge_seals, select_seals
from tos_guard.stores._model import storable
from tos_guard.stores._sql import Connection, Database, Schema, answered
from tos_guard.stores._writer import Counter, GroupWriter, KeptRows, Row

__all__ = ["RECORDS_SCHEMA", "DenialCount", "SQLRecords", "encode_row", "hour_of", "retention_cutoffs"]

_AccountName = tuple[str, str]
"""Issuer and id."""

DenialCount = tuple[datetime, str, int]
"""Start of an hour (UTC), stable code, how many unauthenticated denials."""

_ACCOUNT_COLUMNS: Final = "(id INTEGER PRIMARY KEY, issuer TEXT NOT NULL, account_id TEXT NOT NULL, UNIQUE (issuer, account_id))"

RECORDS_SCHEMA: Final = Schema(
    what="exchange records",
    application_id=0x74677265,  # "tgre"
    migrations=(
        (
            """CREATE TABLE record (
                id INTEGER PRIMARY KEY,
                issuer TEXT NOT NULL,
                rid TEXT NOT NULL,
                jti TEXT,
                type TEXT NOT NULL,
                started INTEGER NOT NULL,
                document BLOB NOT NULL,
                UNIQUE (issuer, rid))""",
            "CREATE INDEX record_token ON record (issuer, jti) WHERE jti IS NOT NULL",
            "CREATE INDEX record_age ON record (issuer, type, started)",
            f"CREATE TABLE account {_ACCOUNT_COLUMNS}",
            "CREATE TABLE subject (record INTEGER PRIMARY KEY, account INTEGER NOT NULL)",
            "CREATE INDEX subject_account ON subject (account)",
            """CREATE TABLE denial_count (
                issuer TEXT NOT NULL, hour INTEGER NOT NULL, code TEXT NOT NULL, count INTEGER NOT NULL,
                PRIMARY KEY (issuer, hour, code)) WITHOUT ROWID""",
        ),
        KEPT_SEALS,
    ),
)

_SELECT: Final = """SELECT record.document, account.account_id FROM record
    LEFT JOIN subject ON subject.record = record.id LEFT JOIN account ON account.id = subject.account"""

_SELECT_RECORD: Final = "SELECT id FROM record"
_SELECT_ACCOUNT: Final = "SELECT id FROM account"
_UNUSED: Final = """NOT EXISTS (SELECT 1 FROM subject WHERE subject.account = account.id)
    AND NOT EXISTS (SELECT 1 FROM kept_seal WHERE kept_seal.account = account.id)"""
_DELETE_ACCOUNT: Final = "DELETE FROM account WHERE id = ?"

_PURGE_ROWS: Final = 2_000
"""Rows deleted by one commit, so that a purge never holds up the exchanges for long."""

_TYPES: Final = ("exchange", "denial")


class SQLRecords:
    """`RecordStore` in the tables of `RECORDS_SCHEMA`, with the few questions an administrator asks."""

    def __init__(self, records: Database, *, issuer: str, max_pending: int, commit_delay: float = 0.0) -> None:
        self._records_issuer = issuer
        self._records = records
        self._writer = GroupWriter(self._records, _write_rows, max_pending=max_pending, delay=commit_delay)

    def append(self, record: ExchangeRecord) -> Future[None]:
        """As `Store.append`."""
        try:
            row = encode_row(record)
        except StoreError as error:
            failed: Future[None] = Future()
            failed.set_exception(error)
            return failed
        return self._writer.append(row)

    def count_denial(self, code: str, now: datetime) -> None:
        """As `Store.count_denial`."""
        self._writer.count((self._records_issuer, hour_of(now), code))

    def flush(self) -> None:
        """As `Store.flush`."""
        self._writer.flush().result()

    def by_request_id(self, issuer: str, rid: str) -> ExchangeRecord | None:
        """As `Store.by_request_id`."""
        return self._one("WHERE record.issuer = ? AND record.rid = ?", (issuer, storable(rid)))

    def by_token_id(self, issuer: str, jti: str) -> ExchangeRecord | None:
        """As `Store.by_token_id`."""
        return self._one("WHERE record.issuer = ? AND record.jti = ?", (issuer, storable(jti)))

    def of_account(self, issuer: str, account_id: str) -> Sequence[ExchangeRecord]:
        """As `Store.of_account`."""
        where = "WHERE account.issuer = ? AND account.account_id = ? ORDER BY record.started, record.id"
        with self._records.read() as connection:
            rows = connection.execute(f"{_SELECT} {where}", (issuer, storable(account_id))).fetchall()
        return tuple(self._record(*row) for row in rows)

    def count_records(self, issuer: str) -> int:
        """As `Store.count_records`."""
        with self._records.read() as connection:
            count: int = connection.execute("SELECT count(*) FROM record WHERE issuer = ?", (issuer,)).fetchone()[0]
        return count

    def newest_record_at(self, issuer: str) -> datetime | None:
        """As `Store.newest_record_at`."""
        with self._records.read() as connection:
            # One look into the index for each type; the index has the type before the time.
            query = "SELECT max(started) FROM record WHERE issuer = ? AND type = ?"
            found = [connection.execute(query, (issuer, kind)).fetchone()[0] for kind in _TYPES]
        newest = max((started for started in found if started is not None), default=None)
        return None if newest is None else datetime.fromtimestamp(newest / 1000, UTC)

    def denial_counts(self, issuer: str) -> Sequence[DenialCount]:
        """As `Store.denial_counts`."""
        with self._records.read() as connection:
            rows = connection.execute(
                "SELECT hour, code, count FROM denial_count WHERE issuer = ? ORDER BY hour, code", (issuer,)
            ).fetchall()
        return tuple((datetime.fromtimestamp(hour * 3600, UTC), code, count) for hour, code, count in rows)

    def erase_account(self, issuer: str, account_id: str) -> int:
        """As `Store.erase_account`."""
        return self._writer.run(lambda database: _erase(database, issuer, storable(account_id))).result()

    def purge(self, now: datetime, retention_days: Mapping[str, int]) -> int:
        """As `Store.purge`."""
        issuer = self._records_issuer
        purged = 0
        for kind, cutoff in retention_cutoffs(now, retention_days).items():
            if kind == "denial_count":
                step = partial(_purge_counts, issuer=issuer, cutoff=cutoff)
            else:
                step = partial(_purge_records, issuer=issuer, kind=kind, cutoff=cutoff)
            while deleted := self._writer.run(step).result():
                purged += deleted
        return purged

    def keep(self, seals: Sequence[KeptSeal], record: ExchangeRecord | None = None) -> Future[KeptSeal | None]:
        """As `Store.keep`."""
        try:
            rows = KeptRows(encode_seals(seals), None if record is None else encode_row(record))
        except StoreError as error:
            failed: Future[KeptSeal | None] = Future()
            failed.set_exception(error)
            return failed
        return self._writer.keep(rows)

    def kept(self, account_id: str, kind: SealKind, key: str, now: datetime) -> KeptSeal | None:
        """As `Store.kept`."""
        with self._records.read() as connection:
            return answered(connection, ask_seal(self._records_issuer, account_id, kind, key, now))

    def kept_of(self, account_id: str, kind: SealKind | None = None, prefix: str = "") -> Sequence[KeptSeal]:
        """As `Store.kept_of`."""
        with self._records.read() as connection:
            return select_seals(connection, self._records_issuer, account_id, kind, prefix)

    def purge_kept(self, now: datetime) -> int:
        """As `Store.purge_kept`."""
        purged = 0
        step = partial(purge_seals, issuer=self._records_issuer, now=now)
        while deleted := self._writer.run(step).result():
            purged += deleted
        return purged

    def close(self) -> None:
        """As `Store.close`."""
        self._writer.close()
        self._records.close()

    def _one(self, where: str, parameters: tuple[str, str]) -> ExchangeRecord | None:
        with self._records.read() as connection:
            row = connection.execute(f"{_SELECT} {where} LIMIT 1", parameters).fetchone()
        return None if row is None else self._record(*row)

    def _record(self, document: bytes, account_id: str | None) -> ExchangeRecord:
        try:
            return ExchangeRecord.from_document(json.loads(document), account_id=account_id)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"a stored record cannot be read ({error})", where=self._records.where) from error


def encode_row(record: ExchangeRecord) -> Row:
    """The record as it is stored.

    Raises:
        StoreError: The record holds what cannot be stored: a lone surrogate, U+0000 in a name, or a time beyond 2^53.
    """
    try:
        document = record.to_bytes()
    except (ValueError, TypeError) as error:
        raise StoreError(f"the record cannot be encoded ({error})", where=f"record {record.rid!r}") from error
    if any(storable(name) != name for name in (record.rid, record.jti or "", record.account_id or "")):
        raise StoreError("the record cannot be encoded (a name that cannot be stored)", where=f"record {record.rid!r}")
    if not 0 <= record.started <= MAX_SAFE_INTEGER:
        raise StoreError("the record's start is not a time", where=f"record {record.rid!r}")
    return Row(record.issuer, record.rid, record.jti, str(record.type), record.started, document, record.account_id)


def hour_of(now: datetime) -> int:
    """Hours since 1970."""
    return int(now.timestamp()) // 3600


def retention_cutoffs(now: datetime, retention_days: Mapping[str, int]) -> dict[str, datetime]:
    """From when on each type is kept.

    Raises:
        ConfigurationError: An unknown type, or a negative number of days.
    """
    cutoffs = {}
    for kind, days in retention_days.items():
        if kind not in (*_TYPES, "denial_count"):
            raise ConfigurationError(f"{kind!r} is no type of record", where="retention", cure="Name exchange, denial or denial_count")
        if days < 0:
            raise ConfigurationError(f"{days} days is no span of time", where=f"retention of {kind}", cure="Give 0 or more")
        cutoffs[kind] = now - timedelta(days=days)
    return cutoffs


def _write_rows(connection: Connection, rows: Sequence[Row | KeptRows], counts: dict[Counter, int]) -> Sequence[KeptSeal | None]:
    records = [each.record if isinstance(each, KeptRows) else each for each in rows]
    keeping = {_account_of(each) for each in rows if isinstance(each, KeptRows)}
    linking = {(row.issuer, row.account_id) for row in records if row is not None and row.account_id is not None}
    numbers = _find_accounts(connection, keeping | linking, connection.for_turns if keeping else connection.for_share)
    _add_accounts(connection, keeping, numbers)
    results = [insert_seals(connection, each.seals, numbers[_account_of(each)]) if isinstance(each, KeptRows) else None for each in rows]
    # A seal that stands in the way keeps the record out as well.
    records = [row for row, in_the_way in zip(records, results, strict=True) if in_the_way is None]
    _insert_records(connection, [row for row in records if row is not None], numbers)
    if counts:
        connection.executemany(
            """INSERT INTO denial_count (issuer, hour, code, count) VALUES (?, ?, ?, ?)
            ON CONFLICT (issuer, hour, code) DO UPDATE SET count = denial_count.count + excluded.count""",
            [(*counter, count) for counter, count in sorted(counts.items())],
        )
    return results


def _insert_records(connection: Connection, rows: Sequence[Row], numbers: dict[_AccountName, int]) -> None:
    """Insert what is not there yet, and link it. Only what is new makes an account known: the others may have been erased since.

    A record with a token takes the place of one without: an exchange that was thought to have failed may turn out to be kept.
    """
    inserted = connection.insert(
        "INSERT INTO record (issuer, rid, jti, type, started, document) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(row.issuer, row.rid, row.jti, row.type, row.started, row.document) for row in rows],
    )
    sealed = [row for row, number in zip(rows, inserted, strict=True) if number is None and row.jti is not None]
    if sealed:
        connection.executemany(
            "UPDATE record SET jti = ?, type = ?, started = ?, document = ? WHERE issuer = ? AND rid = ? AND jti IS NULL",
            [(row.jti, row.type, row.started, row.document, row.issuer, row.rid) for row in sealed],
        )
    new = [
        (number, (row.issuer, row.account_id))
        for row, number in zip(rows, inserted, strict=True)
        if number is not None and row.account_id is not None
    ]
    _add_accounts(connection, {account for _, account in new}, numbers)
    if new:
        connection.executemany(
            "INSERT INTO subject (record, account) VALUES (?, ?)", [(number, numbers[account]) for number, account in new]
        )


def _account_of(rows: KeptRows) -> _AccountName:
    return rows.seals[0].seal.issuer, rows.seals[0].seal.account_id


def _find_accounts(connection: Connection, accounts: Iterable[_AccountName], lock: str) -> dict[_AccountName, int]:
    """The numbers of those accounts that have one, taken in the order of their names."""
    names = sorted(accounts)
    found = connection.each(f"{_SELECT_ACCOUNT} WHERE issuer = ? AND account_id = ?{lock}", names)
    return {name: int(row[0]) for name, row in zip(names, found, strict=True) if row is not None}


def _add_accounts(connection: Connection, accounts: Iterable[_AccountName], numbers: dict[_AccountName, int]) -> None:
    """Give numbers to those accounts that have none, and note them in *numbers*."""
    while missing := sorted(account for account in accounts if account not in numbers):
        made = connection.insert("INSERT INTO account (issuer, account_id) VALUES (?, ?) ON CONFLICT DO NOTHING", missing)
        numbers.update({name: number for name, number in zip(missing, made, strict=True) if number is not None})
        # Where another process has just made it. Again where a third has erased it meanwhile.
        numbers.update(_find_accounts(connection, [name for name in missing if name not in numbers], connection.for_turns))


def _erase(database: Database, issuer: str, account_id: str) -> int:
    unlinked = database.run(partial(_unlink, account=(issuer, account_id)))
    database.scrub("account", renewed=True)  # nothing else has a name
    return unlinked


def _unlink(connection: Connection, account: _AccountName) -> int:
    number = _find_accounts(connection, [account], connection.for_update).get(account)
    if number is None:
        return 0
    unlinked = connection.execute("DELETE FROM subject WHERE account = ?", (number,)).rowcount
    delete_seals_of(connection, number)
    connection.execute(_DELETE_ACCOUNT, (number,))
    connection.renew("account", _ACCOUNT_COLUMNS)
    return unlinked


def _purge_records(database: Database, *, issuer: str, kind: str, cutoff: datetime) -> int:
    return database.run(partial(_purge_some, issuer=issuer, kind=kind, before=int(cutoff.timestamp() * 1000)))


def _purge_some(connection: Connection, issuer: str, kind: str, before: int) -> int:
    numbers = connection.execute(
        f"{_SELECT_RECORD} WHERE issuer = ? AND type = ? AND started < ? ORDER BY started LIMIT ?{connection.for_update}",
        (issuer, kind, before, _PURGE_ROWS),
    ).fetchall()
    connection.executemany("DELETE FROM subject WHERE record = ?", numbers)
    connection.executemany("DELETE FROM record WHERE id = ?", numbers)
    if len(numbers) < _PURGE_ROWS:
        # An account without records and seals leaves nothing behind but its id, which nobody needs any more. It is held, and looked at
        # again: somebody may have linked to it while we waited for it.
        query = f"{_SELECT_ACCOUNT} WHERE issuer = ? AND {_UNUSED} ORDER BY account_id{connection.for_update}"
        unused = connection.execute(query, (issuer,)).fetchall()
        connection.executemany(f"{_DELETE_ACCOUNT} AND {_UNUSED}", unused)
    return len(numbers)


def _purge_counts(database: Database, *, issuer: str, cutoff: datetime) -> int:
    before = (issuer, hour_of(cutoff))
    return database.run(lambda connection: connection.execute("DELETE FROM denial_count WHERE issuer = ? AND hour < ?", before).rowcount)
