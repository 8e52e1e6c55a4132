"""Keys of administrators, in tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tos_guard.stores._issuer import SQLIssuer
from tos_guard.stores._model import (
    StoredAdminKey,
    check_name,
    check_secret_hash,
    check_text,
    from_ms,
    key_taken,
    storable,
    to_ms,
    unknown_key,
)
from tos_guard.stores._store import matching

__all__ = ["SQLAdminKeys"]

_SELECT: Final = "SELECT public_id, name, created, created_by, revoked, revoked_by FROM admin_key"


class SQLAdminKeys(SQLIssuer):
    """The administrators' keys of `Store`. They give nobody rights on requests, so that `version` stays."""

    def add_admin_key(self, name: str, public_id: str, secret_hash: bytes, *, actor: str = "") -> StoredAdminKey:
        """As `Store.add_admin_key`."""
        check_secret_hash(secret_hash, public_id)
        key = StoredAdminKey(check_name(public_id, "key"), check_name(name, "administrator"), self._now(), check_text(actor, "actor"))
        with self._accounts.write() as connection:
            inserted = connection.execute(
                """INSERT INTO admin_key (issuer, public_id, name, secret_hash, created, created_by, revoked_by)
                VALUES (?, ?, ?, ?, ?, ?, '') ON CONFLICT DO NOTHING""",
                (self.issuer, public_id, name, secret_hash, to_ms(key.created), actor),
            )
            if inserted.rowcount != 1:
                raise key_taken(public_id)
        return key

    def admin_by_key(self, public_id: str, secret_hash: bytes) -> str | None:
        """As `Store.admin_by_key`."""
        with self._accounts.read() as connection:
            row: tuple[str, bytes] | None = connection.execute(
                "SELECT name, secret_hash FROM admin_key WHERE issuer = ? AND public_id = ? AND revoked IS NULL",
                (self.issuer, storable(public_id)),
            ).fetchone()
        name, stored = row or (None, None)
        return name if matching(stored, secret_hash) else None

    def revoke_admin_key(self, public_id: str, *, actor: str = "") -> StoredAdminKey:
        """As `Store.revoke_admin_key`."""
        name = (self.issuer, storable(public_id))
        with self._accounts.write() as connection:
            connection.execute(
                "UPDATE admin_key SET revoked = ?, revoked_by = ? WHERE issuer = ? AND public_id = ? AND revoked IS NULL",
                (to_ms(self._clock()), check_text(actor, "actor"), *name),
            )
            row = connection.execute(f"{_SELECT} WHERE issuer = ? AND public_id = ?", name).fetchone()
            if row is None:
                raise unknown_key(public_id)
        return _stored(row)

    def admin_keys(self) -> Sequence[StoredAdminKey]:
        """As `Store.admin_keys`."""
        with self._accounts.read() as connection:
            rows = connection.execute(f"{_SELECT} WHERE issuer = ? ORDER BY number", (self.issuer,)).fetchall()
        return tuple(map(_stored, rows))


def _stored(row: tuple[str, str, int, str, int | None, str]) -> StoredAdminKey:
    public_id, name, created, created_by, revoked, revoked_by = row
    return StoredAdminKey(public_id, name, from_ms(created), created_by, None if revoked is None else from_ms(revoked), revoked_by)
