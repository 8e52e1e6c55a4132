"""Kept seals in the tables of the records, so that a seal and its record are durable together or not at all.

A row names its account by the number that erasure forgets (`tos_guard.stores._records`), and nothing in it names it otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from tos_guard.errors import StoreError
from tos_guard.ledger import KeptSeal, SealKind
from tos_guard.stores._model import storable, to_ms
from tos_guard.stores._sql import Asking, Connection, Database
from tos_guard.stores._writer import SealRow

__all__ = [
    "KEPT_SEALS",
    "ask_seal",
    "check_seals",
    "delete_seals_of",
    "encode_seals",
    "insert_seals",
    "purge_seals",
    "select_seals",
]

KEPT_SEALS: Final = (
    """CREATE TABLE kept_seal (
        account INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, until INTEGER NOT NULL, document BLOB NOT NULL,
        PRIMARY KEY (account, kind, key)) WITHOUT ROWID""",
    "CREATE INDEX kept_seal_until ON kept_seal (until)",
)
"""Migration of the records."""

MAX_KEY_CHARS: Final = 520
"""Longest name of a seal: ids of responses have some 60, a line of a batch has its batch before its own id, each of 256 at most."""

_LAST: Final = "\U0010ffff"
"""Behind every other character."""

_PURGE_ROWS: Final = 2_000
"""As for records: rows deleted by one commit."""

_SELECT: Final = """SELECT kept_seal.document FROM kept_seal JOIN account ON account.id = kept_seal.account
    WHERE account.issuer = ? AND account.account_id = ?"""


def check_seals(seals: Sequence[KeptSeal]) -> None:
    """See that seals can be kept and found again.

    Raises:
        StoreError: There is none, they are of several accounts, or a name or an account cannot be stored.
    """
    if not seals or len({(seal.issuer, seal.account_id) for seal in seals}) != 1:
        raise StoreError("seals of one account are kept together", where="kept seals")
    for seal in seals:
        if not 1 <= len(seal.key) <= MAX_KEY_CHARS or storable(seal.key) != seal.key or storable(seal.account_id) != seal.account_id:
            raise StoreError("a name that cannot be stored", where=f"kept seal {seal.rid!r}")


def encode_seals(seals: Sequence[KeptSeal]) -> tuple[SealRow, ...]:
    """Seals as they are stored.

    Raises:
        StoreError: As `check_seals`, or a seal holds what cannot be stored.
    """
    check_seals(seals)
    try:
        return tuple(SealRow(seal, seal.to_bytes()) for seal in seals)
    except (ValueError, TypeError) as error:
        raise StoreError(f"the seal cannot be encoded ({error})", where=f"kept seal {seals[0].rid!r}") from error


def insert_seals(connection: Connection, rows: Sequence[SealRow], number: int) -> KeptSeal | None:
    """Keep all of them under the number of their account, or give the one that stands in the way."""
    query = "SELECT document FROM kept_seal WHERE account = ? AND kind = ? AND key = ?"
    there = connection.each(query, [(number, str(row.seal.kind), row.seal.key) for row in rows])
    for row, found in zip(rows, there, strict=True):
        if found is None or bytes(found[0]) == row.document:  # kept already, by a commit whose answer was lost
            continue
        if not (known := _seal(found[0], row.seal.account_id)).gives_way_to(row.seal):
            return known
    connection.executemany(
        """INSERT INTO kept_seal (account, kind, key, until, document) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (account, kind, key) DO UPDATE SET until = excluded.until, document = excluded.document""",
        [(number, str(row.seal.kind), row.seal.key, row.seal.until, row.document) for row in rows],
    )
    return None


def ask_seal(issuer: str, account_id: str, kind: SealKind, key: str, now: datetime) -> Asking[KeptSeal | None]:
    """The seal of a name, unless its time is over."""
    names = (issuer, storable(account_id), str(kind), storable(key), to_ms(now))
    rows = yield f"{_SELECT} AND kind = ? AND key = ? AND until > ?", names
    return _seal(rows[0][0], account_id) if rows else None


def select_seals(connection: Connection, issuer: str, account_id: str, kind: SealKind | None, prefix: str) -> tuple[KeptSeal, ...]:
    """All seals of an account, or those of a kind whose name begins so, by kind and name."""
    names = (issuer, storable(account_id))
    if kind is None:
        rows = connection.execute(f"{_SELECT} ORDER BY kind, key", names).fetchall()
    else:
        within = (str(kind), storable(prefix), f"{storable(prefix)}{_LAST}")
        rows = connection.execute(f"{_SELECT} AND kind = ? AND key BETWEEN ? AND ? ORDER BY key", (*names, *within)).fetchall()
    return tuple(_seal(document, account_id) for (document,) in rows)


def delete_seals_of(connection: Connection, account: int) -> None:
    """Forget all seals of an account, by its number."""
    connection.execute("DELETE FROM kept_seal WHERE account = ?", (account,))


def purge_seals(database: Database, *, issuer: str, now: datetime) -> int:
    """Delete some of the seals whose time is over. Returns how many."""
    return database.run(partial(_purge_some, issuer=issuer, over=to_ms(now)))


def _purge_some(connection: Connection, issuer: str, over: int) -> int:
    found: list[Any] = connection.execute(
        """SELECT account, kind, key FROM kept_seal WHERE until <= ? AND account IN (SELECT id FROM account WHERE issuer = ?)
        ORDER BY until LIMIT ?""",
        (over, issuer, _PURGE_ROWS),
    ).fetchall()
    # Not one that has just been kept anew under the same name.
    connection.executemany(
        "DELETE FROM kept_seal WHERE account = ? AND kind = ? AND key = ? AND until <= ?", [(*row, over) for row in found]
    )
    return len(found)


def _seal(document: bytes, account_id: str) -> KeptSeal:
    try:
        return KeptSeal.from_document(json.loads(document), account_id=account_id)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"a kept seal cannot be read ({error})", where="kept seals") from error
