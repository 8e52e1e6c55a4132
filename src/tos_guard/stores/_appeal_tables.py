"""Appeals, in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tos_guard.stores._appeals import Appeal, AppealState
from tos_guard.stores._issuer import SQLIssuer
from tos_guard.stores._model import from_ms, storable, to_ms
from tos_guard.stores._sql import ALL_ROWS, Connection

__all__ = ["SQLAppeals"]

_SELECT: Final = """SELECT id, account_id, measure_id, text, filed, filed_by, state, ended, ended_by, answer FROM appeal
    WHERE issuer = ?"""

_NUMBER_OF: Final = "coalesce((SELECT other.number FROM appeal AS other WHERE other.issuer = ? AND other.id = ?), 0)"


class SQLAppeals(SQLIssuer):
    """Appeals in a table, but for what they change of accounts."""

    def appeal(self, appeal_id: str) -> Appeal | None:
        """As `Store.appeal`."""
        with self._accounts.read() as connection:
            row = connection.execute(f"{_SELECT} AND id = ?", (self.issuer, storable(appeal_id))).fetchone()
        return None if row is None else _read(row)

    def appeals(
        self, *, account_id: str | None = None, state: AppealState | None = None, after: str = "", limit: int | None = None
    ) -> Sequence[Appeal]:
        """As `Store.appeals`."""
        query, values = _SELECT, [self.issuer]
        for column, value in (("account_id", account_id), ("state", state)):
            if value is not None:
                query, values = f"{query} AND {column} = ?", [*values, storable(value)]
        if after:
            query = f"{query} AND number > {_NUMBER_OF}"
            values = [*values, self.issuer, storable(after)]
        with self._accounts.read() as connection:
            rows = connection.execute(f"{query} ORDER BY number LIMIT ?", (*values, ALL_ROWS if limit is None else limit)).fetchall()
        return tuple(map(_read, rows))

    def _appeals_of(self, connection: Connection, account_id: str) -> tuple[Appeal, ...]:
        return tuple(map(_read, connection.execute(f"{_SELECT} AND account_id = ? ORDER BY number", (self.issuer, account_id)).fetchall()))

    def _put_appeal(self, connection: Connection, appeal: Appeal) -> None:
        ended = None if appeal.ended is None else to_ms(appeal.ended)
        connection.execute(
            """INSERT INTO appeal (issuer, id, account_id, measure_id, text, filed, filed_by, state, ended, ended_by, answer)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (issuer, id) DO UPDATE SET state = excluded.state, ended = excluded.ended, ended_by = excluded.ended_by,
                answer = excluded.answer""",
            (
                *(self.issuer, appeal.id, appeal.account_id, appeal.measure_id, appeal.text, to_ms(appeal.filed), appeal.filed_by),
                *(appeal.state, ended, appeal.ended_by, appeal.answer),
            ),
        )


def _read(row: Any) -> Appeal:
    appeal_id, account_id, measure_id, text, filed, filed_by, state, ended, ended_by, answer = row
    at = None if ended is None else from_ms(ended)
    return Appeal(appeal_id, account_id, measure_id, text, from_ms(filed), filed_by, state, at, ended_by, answer)
