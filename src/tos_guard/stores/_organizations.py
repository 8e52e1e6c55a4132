"""Organizations, in tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from cachetools import LRUCache

from tos_guard.errors import AccountError, StoreError
from tos_guard.stores._administration import ToOrganization
from tos_guard.stores._issuer import CACHED, SQLIssuer
from tos_guard.stores._model import (
    OrganizationChange,
    Step,
    changed_organization,
    check_name,
    from_ms,
    organization_document,
    organization_from_document,
    storable,
    to_ms,
)
from tos_guard.stores._sql import ALL_ROWS, Asking, Connection

if TYPE_CHECKING:
    from tos_guard.rights import Organization

__all__ = ["SQLOrganizations", "organization_exists", "unknown_organization"]


class SQLOrganizations(SQLIssuer):
    """The organizations of `Store`."""

    def _forget(self) -> None:
        super()._forget()
        self._organizations: LRUCache[str, tuple[Organization, int]] = LRUCache(CACHED)

    def organization(self, organization_id: str) -> Organization | None:
        """As `Store.organization`."""
        with self._accounts.read() as connection:
            row = connection.execute(
                "SELECT document FROM organization WHERE issuer = ? AND id = ?", (self.issuer, storable(organization_id))
            ).fetchone()
        return None if row is None else self._organization(row[0])

    def organizations(self, *, after: str = "", limit: int | None = None) -> Sequence[Organization]:
        """As `Store.organizations`."""
        with self._accounts.read() as connection:
            rows = connection.execute(
                "SELECT document FROM organization WHERE issuer = ? AND id > ? ORDER BY id LIMIT ?",
                (self.issuer, storable(after), ALL_ROWS if limit is None else limit),
            ).fetchall()
        return tuple(self._organization(document) for (document,) in rows)

    def organization_history(self, organization_id: str) -> Sequence[OrganizationChange]:
        """As `Store.organization_history`."""
        with self._accounts.read() as connection:
            self._stored_organization(connection, organization_id)
            rows = connection.execute(
                """SELECT organization_id, version, at, what, detail, reason, actor FROM organization_change
                WHERE issuer = ? AND organization_id = ? ORDER BY number""",
                (self.issuer, organization_id),
            ).fetchall()
        return tuple(OrganizationChange(owner, version, from_ms(at), *said) for owner, version, at, *said in rows)

    def organization_at(self, organization_id: str, moment: datetime) -> Organization | None:
        """As `Store.organization_at`."""
        with self._accounts.read() as connection:
            row = connection.execute(
                """SELECT document FROM organization_version WHERE issuer = ? AND organization_id = ? AND at <= ?
                ORDER BY version DESC LIMIT 1""",
                (self.issuer, storable(organization_id), to_ms(moment)),
            ).fetchone()
        return None if row is None else self._organization(row[0])

    def _insert_organization(self, organization: Organization, step: Step) -> Organization:
        with self._changing() as (connection, changed):
            inserted = connection.execute(
                "INSERT INTO organization (issuer, id, version, changed, document) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    self.issuer,
                    check_name(organization.id, "organization"),
                    organization.version,
                    changed,
                    json.dumps(organization_document(organization)),
                ),
            )
            if inserted.rowcount != 1:
                raise organization_exists(organization.id)
            self._keep_organization(connection, organization, step)
        return organization

    def _change_organization(self, organization_id: str, change: ToOrganization, step: Step) -> Organization:
        with self._changing() as (connection, changed):
            stored = self._stored_organization(connection, organization_id)
            organization = changed_organization(stored, {**change(stored), "version": stored.version + 1})
            connection.execute(
                "UPDATE organization SET version = ?, changed = ?, document = ? WHERE issuer = ? AND id = ?",
                (organization.version, changed, json.dumps(organization_document(organization)), self.issuer, organization_id),
            )
            self._keep_organization(connection, organization, step)
        return organization

    def _keep_organization(self, connection: Connection, organization: Organization, step: Step) -> None:
        """Keep this version for ever, and the step that led to it."""
        at = to_ms(self._clock())
        connection.execute(
            "INSERT INTO organization_version (issuer, organization_id, version, at, document) VALUES (?, ?, ?, ?, ?)",
            (self.issuer, organization.id, organization.version, at, json.dumps(organization_document(organization))),
        )
        connection.execute(
            """INSERT INTO organization_change (issuer, organization_id, version, at, what, detail, reason, actor)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
            (self.issuer, organization.id, organization.version, at, step.what, step.detail, step.reason, step.actor),
        )

    def _stored_organization(self, connection: Connection, organization_id: str) -> Organization:
        row = connection.execute(
            "SELECT document FROM organization WHERE issuer = ? AND id = ?", (self.issuer, storable(organization_id))
        ).fetchone()
        if row is None:
            raise unknown_organization(organization_id)
        return self._organization(row[0])

    def _ask_organization(self, organization_id: str | None) -> Asking[tuple[Organization | None, int]]:
        """The organization, shared by all its accounts, and when it changed last."""
        if organization_id is None:
            return None, 0
        name = (self.issuer, storable(organization_id))
        rows = yield "SELECT changed, document FROM organization WHERE issuer = ? AND id = ?", name
        if not rows:
            return None, 0
        ((changed, document),) = rows
        with self._caching:
            known = self._organizations.get(organization_id)
        if known is not None and known[1] == changed:
            return known
        read = self._organization(document), changed
        with self._caching:
            self._organizations[organization_id] = read
        return read

    def _organization(self, document: str) -> Organization:
        try:
            return organization_from_document(document)
        except AccountError as error:
            raise StoreError(f"a stored organization cannot be read ({error})", where=self._accounts.where) from error


def unknown_organization(organization_id: str) -> AccountError:
    """There is no such organization."""
    return AccountError("unknown organization", where=f"organization {organization_id}", cure="List the organizations")


def organization_exists(organization_id: str) -> AccountError:
    """There is one already."""
    return AccountError("this organization exists already", where=f"organization {organization_id}", cure="Change it, or choose another id")
