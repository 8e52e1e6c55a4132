"""Acceptances of terms and their withdrawals, in tables. Rows are only ever added: they are evidence, and outlive whoever gave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from cachetools import LRUCache

from tos_guard._canonical import MAX_SAFE_INTEGER
from tos_guard.errors import AccountError, StoreError
from tos_guard.stores._issuer import CACHED, SQLIssuer
from tos_guard.stores._model import check_name, check_text, storable, to_ms
from tos_guard.stores._sql import Asking
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind

if TYPE_CHECKING:
    from tos_guard.rights import Account
    from tos_guard.terms import Acceptance, Withdrawal

__all__ = ["AcceptanceRows", "SQLAcceptances", "check_kept", "check_new", "check_withdrawn", "oldest_first"]

AcceptanceRows = tuple[tuple[int, int | None], ...]
"""Numbers of acceptances and of their withdrawals. As long as these are the same, so are the acceptances."""

_JOINED: Final = """FROM acceptance LEFT JOIN withdrawal
    ON withdrawal.issuer = acceptance.issuer AND withdrawal.acceptance_id = acceptance.id"""
_SELECT: Final = f"SELECT acceptance.document, withdrawal.document {_JOINED}"
_SELECT_ACTORS: Final = f"SELECT acceptance.added_by, coalesce(withdrawal.added_by, '') {_JOINED}"
_SELECT_NUMBERS: Final = f"""SELECT acceptance.number, withdrawal.number {_JOINED} AND withdrawal.added <= ?
    WHERE acceptance.issuer = ? AND subject_kind = ? AND subject_id = ? AND acceptance.added <= ? AND former = 0"""

_KINDS: Final = {"subject_kind": SubjectKind, "method": AcceptanceMethod, "identified_by": Identification}
_MOMENTS: Final = ("at", "expires")
_APART: Final = "withdrawal"


class SQLAcceptances(SQLIssuer):
    """The acceptances of `Store`."""

    def _forget(self) -> None:
        super()._forget()
        self._acceptances: LRUCache[tuple[int, int | None], Acceptance] = LRUCache(CACHED)

    def add_acceptance(self, acceptance: Acceptance, *, actor: str = "") -> Acceptance:
        """As `Store.add_acceptance`."""
        check_text(actor, "actor")
        check_new(acceptance, self.issuer)
        known = self.acceptance(acceptance.id)
        if known is None:
            row = (
                self.issuer,
                acceptance.id,
                acceptance.subject_kind.value,
                check_name(acceptance.subject_id, acceptance.subject_kind),
                to_ms(self._clock()),
                actor,
                _encode(acceptance),
            )
            with self._changing() as (connection, _):
                connection.execute(
                    """INSERT INTO acceptance (issuer, id, subject_kind, subject_id, added, added_by, document)
                    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
                    row,
                )
            known = self.acceptance(acceptance.id)
        return check_kept(known, acceptance)

    def withdraw_acceptance(self, withdrawal: Withdrawal, *, actor: str = "") -> Acceptance:
        """As `Store.withdraw_acceptance`."""
        check_text(actor, "actor")
        known = self.acceptance(withdrawal.acceptance)
        if known is not None and known.withdrawal is None:
            known.with_withdrawal(withdrawal)  # or an error, before anything is kept
            with self._changing() as (connection, _):
                connection.execute(
                    """INSERT INTO withdrawal (issuer, acceptance_id, added, added_by, document) VALUES (?, ?, ?, ?, ?)
                    ON CONFLICT DO NOTHING""",
                    (self.issuer, withdrawal.acceptance, to_ms(self._clock()), actor, _encode(withdrawal)),
                )
            known = self.acceptance(withdrawal.acceptance)
        return check_withdrawn(known, withdrawal)

    def acceptance(self, acceptance_id: str) -> Acceptance | None:
        """As `Store.acceptance`."""
        with self._accounts.read() as connection:
            row = connection.execute(
                f"{_SELECT} WHERE acceptance.issuer = ? AND acceptance.id = ?", (self.issuer, storable(acceptance_id))
            ).fetchone()
        return None if row is None else self._decoded(*row)

    def acceptances(self, subject_kind: SubjectKind, subject_id: str) -> Sequence[Acceptance]:
        """As `Store.acceptances`."""
        with self._accounts.read() as connection:
            rows = connection.execute(
                f"{_SELECT} WHERE acceptance.issuer = ? AND subject_kind = ? AND subject_id = ? ORDER BY acceptance.number",
                (self.issuer, subject_kind.value, storable(subject_id)),
            ).fetchall()
        return oldest_first([self._decoded(*row) for row in rows])

    def acceptance_recorded_by(self, acceptance_id: str) -> tuple[str, str] | None:
        """As `Store.acceptance_recorded_by`."""
        with self._accounts.read() as connection:
            row: tuple[str, str] | None = connection.execute(
                f"{_SELECT_ACTORS} WHERE acceptance.issuer = ? AND acceptance.id = ?",
                (self.issuer, storable(acceptance_id)),
            ).fetchone()
        return row

    def _acceptances_at(self, account: Account, moment: datetime) -> tuple[Acceptance, ...]:
        """Those of the account and of its organization that were known at *moment*, with the withdrawals that were."""
        acceptances, _ = self._look(self._ask_acceptances(account, to_ms(moment)))
        return acceptances

    def _ask_acceptances(self, account: Account, known_by: int = MAX_SAFE_INTEGER) -> Asking[tuple[tuple[Acceptance, ...], AcceptanceRows]]:
        """Those of the account and of its organization, and their rows; each is parsed once, for all accounts that share it."""
        rows = yield from self._ask_rows(account, known_by)
        acceptances = []
        for row in rows:
            acceptances.append((yield from self._ask_acceptance(row)))  # noqa: PERF401 - no comprehension may ask
        return oldest_first(acceptances), rows

    def _ask_rows(self, account: Account, known_by: int) -> Asking[AcceptanceRows]:
        """In the order in which they were added. One subject at a time: SQLite looks for either of two in all rows of the issuer."""
        subjects = [(SubjectKind.ACCOUNT, account.id)]
        if account.organization is not None:
            subjects.append((SubjectKind.ORGANIZATION, account.organization))
        rows: list[tuple[int, int | None]] = []
        for kind, subject_id in subjects:
            rows += yield _SELECT_NUMBERS, (known_by, self.issuer, kind.value, storable(subject_id), known_by)
        return tuple(sorted(rows, key=itemgetter(0)))

    def _ask_acceptance(self, row: tuple[int, int | None]) -> Asking[Acceptance]:
        with self._caching:
            known = self._acceptances.get(row)
        if known is None:
            ((document, withdrawal),) = yield f"{_SELECT} WHERE acceptance.number = ?", row[:1]
            known = self._decoded(document, None if row[1] is None else withdrawal)
            with self._caching:
                self._acceptances[row] = known
        return known

    def _decoded(self, document: str, withdrawal: str | None) -> Acceptance:
        from tos_guard.terms import Acceptance, Withdrawal

        try:
            second = None if withdrawal is None else Withdrawal(**_members(withdrawal))
            return Acceptance(**_members(document), withdrawal=second)
        except (AccountError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
            raise StoreError(f"a stored acceptance cannot be read ({error})", where=self._accounts.where) from error


def check_new(acceptance: Acceptance, issuer: str) -> None:
    """See to it that it can be added.

    Raises:
        AccountError: It is of another issuer, or withdrawn.
    """
    if acceptance.issuer != issuer:
        raise AccountError(f"it is of the terms of {acceptance.issuer}", where=f"acceptance {acceptance.id}")
    if acceptance.withdrawal is not None:
        raise AccountError("it is withdrawn", where=f"acceptance {acceptance.id}", cure="Add it, then its withdrawal")


def check_kept(known: Acceptance | None, added: Acceptance) -> Acceptance:
    """The one that is kept.

    Raises:
        AccountError: It is another than was added.
    """
    if known is None or replace(known, withdrawal=None) != added:
        raise AccountError("another acceptance is kept under this id", where=f"acceptance {added.id}")
    return known


def check_withdrawn(known: Acceptance | None, withdrawal: Withdrawal) -> Acceptance:
    """The acceptance, withdrawn by this very record.

    Raises:
        AccountError: There is none, or it was withdrawn by another.
    """
    if known is None:
        raise AccountError("unknown acceptance", where=f"acceptance {withdrawal.acceptance}")
    if known.withdrawal != withdrawal:
        raise AccountError("is withdrawn already", where=f"acceptance {known.id}")
    return known


def oldest_first(acceptances: Sequence[Acceptance]) -> tuple[Acceptance, ...]:
    """By when they were made: one may be imported later than it was made."""
    return tuple(sorted(acceptances, key=lambda acceptance: acceptance.at))


def _encode(record: Acceptance | Withdrawal) -> str:
    """Its members as JSON, times in seconds since 1970; a withdrawal stands apart."""
    members = {field.name: getattr(record, field.name) for field in fields(record) if field.name != _APART}
    moments = {name: int(members[name].timestamp()) for name in _MOMENTS if members.get(name) is not None}
    return json.dumps(members | moments)


def _members(document: str) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(document)
    kinds = {name: kind(members[name]) for name, kind in _KINDS.items() if name in members}
    moments = {name: datetime.fromtimestamp(members[name], UTC) for name in _MOMENTS if members.get(name) is not None}
    return members | kinds | moments
