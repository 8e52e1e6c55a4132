"""What systems outside gave and said, in tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from tos_guard.errors import MalformedError, StoreError
from tos_guard.stores._issuer import SQLIssuer
from tos_guard.stores._model import AccountChange, check_text, from_ms, storable, to_ms
from tos_guard.stores._outside import DELIVERIES_KEPT, StoredEntitlement, Turn
from tos_guard.stores._sql import Connection

if TYPE_CHECKING:
    from tos_guard.rights import Account, Given

__all__ = ["SQLOutside", "note_delivery"]

_MAX_KINDS: Final = 16  # of steps that are asked for at once


class SQLOutside(SQLIssuer):
    """The outside of `Store`, but for the accounts themselves."""

    def entitlements(self, source: str) -> Sequence[StoredEntitlement]:
        """As `Store.entitlements`."""
        with self._accounts.read() as connection:
            rows = connection.execute(
                """SELECT entitlement.account_id, entitlement.given, entitlement.lapsed, entitlement.version = account.version
                FROM entitlement JOIN account ON account.issuer = entitlement.issuer AND account.id = entitlement.account_id
                WHERE entitlement.issuer = ? AND entitlement.source = ? ORDER BY entitlement.account_id""",
                (self.issuer, storable(source)),
            ).fetchall()
        return tuple(StoredEntitlement(account_id, text, bool(lapsed), bool(current)) for account_id, text, lapsed, current in rows)

    def knows_delivery(self, sender: str, message_id: str) -> bool:
        """As `Store.knows_delivery`."""
        with self._accounts.read() as connection:
            row = connection.execute(
                "SELECT 1 FROM delivery WHERE issuer = ? AND sender = ? AND id = ? AND at > ?",
                (self.issuer, storable(sender), storable(message_id), to_ms(self._now() - DELIVERIES_KEPT)),
            ).fetchone()
        return row is not None

    def note_delivery(self, sender: str, message_id: str) -> bool:
        """As `Store.note_delivery`."""
        with self._accounts.write() as connection:
            return note_delivery(connection, self.issuer, sender, message_id, now=self._now())

    def changes_after(self, number: int, what: Collection[str], *, limit: int) -> Sequence[tuple[int, AccountChange]]:
        """As `Store.changes_after`."""
        kinds = sorted(what)[:_MAX_KINDS]
        if not kinds:
            return ()
        with self._accounts.read() as connection:
            rows = connection.execute(
                f"""SELECT number, account_id, version, at, what, detail, reason, actor FROM account_change
                WHERE issuer = ? AND number > ? AND what IN ({", ".join("?" * len(kinds))}) ORDER BY number LIMIT ?""",  # noqa: S608 - marks
                (self.issuer, number, *kinds, limit),
            ).fetchall()
        return tuple((row, AccountChange(owner, version, from_ms(at), *said)) for row, owner, version, at, *said in rows)

    def newest_change(self) -> int:
        """As `Store.newest_change`."""
        with self._accounts.read() as connection:
            newest: int = connection.execute(
                "SELECT coalesce(max(number), 0) FROM account_change WHERE issuer = ?", (self.issuer,)
            ).fetchone()[0]
        return newest

    def turn(self, name: str) -> Turn | None:
        """As `Store.turn`."""
        with self._accounts.read() as connection:
            row = connection.execute("SELECT due, state FROM turn WHERE issuer = ? AND name = ?", (self.issuer, storable(name))).fetchone()
        return None if row is None else Turn(from_ms(row[0]), row[1])

    def take_turn(self, name: str, *, until: datetime) -> Turn | None:
        """As `Store.take_turn`."""
        key, now = (self.issuer, storable(name)), to_ms(self._now())
        known = self.turn(name)
        if known is not None and known.due > self._now():
            return None  # as mostly, without a lock
        with self._accounts.write() as connection:
            connection.execute("INSERT INTO turn (issuer, name, due, state) VALUES (?, ?, 0, '') ON CONFLICT DO NOTHING", key)
            query = f"SELECT due, state FROM turn WHERE issuer = ? AND name = ?{connection.for_update}"  # noqa: S608 - a lock of ours
            row = connection.execute(query, key).fetchone()
            if row is None or row[0] > now:
                return None
            connection.execute("UPDATE turn SET due = ? WHERE issuer = ? AND name = ?", (to_ms(until), *key))
        return Turn(from_ms(row[0]), row[1])

    def put_turn(self, name: str, *, due: datetime | None = None, state: str | None = None) -> None:
        """As `Store.put_turn`."""
        key = (self.issuer, storable(name))
        with self._accounts.write() as connection:
            connection.execute("INSERT INTO turn (issuer, name, due, state) VALUES (?, ?, 0, '') ON CONFLICT DO NOTHING", key)
            if due is not None:
                connection.execute("UPDATE turn SET due = ? WHERE issuer = ? AND name = ?", (to_ms(due), *key))
            if state is not None:
                connection.execute("UPDATE turn SET state = ? WHERE issuer = ? AND name = ?", (check_text(state, "turn"), *key))

    def _given(self, connection: Connection, source: str, account_id: str) -> Given | None:
        from tos_guard.rights import Entitlement, Given

        row = connection.execute(
            "SELECT given, lapsed FROM entitlement WHERE issuer = ? AND source = ? AND account_id = ?",
            (self.issuer, storable(source), storable(account_id)),
        ).fetchone()
        if row is None:
            return None
        try:
            return Given(Entitlement.parse(row[0]), bool(row[1]))
        except MalformedError as error:
            raise StoreError(f"a stored entitlement cannot be read ({error})", where=self._accounts.where) from error

    def _keep_given(self, connection: Connection, source: str, account: Account, given: Given | None) -> None:
        key = (self.issuer, storable(source), account.id)
        connection.execute("DELETE FROM entitlement WHERE issuer = ? AND source = ? AND account_id = ?", key)
        if given is not None:
            connection.execute(
                "INSERT INTO entitlement (issuer, source, account_id, given, lapsed, version) VALUES (?, ?, ?, ?, ?, ?)",
                (*key, given.entitlement.text, int(given.lapsed), account.version),
            )


def note_delivery(connection: Connection, issuer: str, sender: str, message_id: str, *, now: datetime) -> bool:
    """Keep that a message was taken, within a change. Whether that is new."""
    connection.execute("DELETE FROM delivery WHERE issuer = ? AND at <= ?", (issuer, to_ms(now - DELIVERIES_KEPT)))
    inserted = connection.execute(
        "INSERT INTO delivery (issuer, sender, id, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (issuer, storable(sender), storable(message_id), to_ms(now)),
    )
    return inserted.rowcount == 1
