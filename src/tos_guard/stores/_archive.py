"""What is published once and kept for ever, in tables: terms, usage policies, public keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from tos_guard._canonical import sha256_b64url
from tos_guard.errors import StoreError, TermsError
from tos_guard.stores._issuer import SQLIssuer
from tos_guard.stores._model import StoredTerms, check_text, checked_public_key, from_ms, storable, to_ms
from tos_guard.stores._sql import Asking

if TYPE_CHECKING:
    from tos_guard.terms import TermsVersion

__all__ = ["SQLArchive", "already_published", "check_usage_policy"]

_SELECT_TERMS: Final = "SELECT version, uri, effective, sha256, document, text, published, published_by FROM terms"


class SQLArchive(SQLIssuer):
    """Terms, public keys, usage policies and domains of limits, of `Store`."""

    def publish_terms(self, terms: TermsVersion, *, actor: str = "") -> None:
        """As `Store.publish_terms`."""
        check_text(actor, "actor")
        known = self.terms(terms.version)
        if known is not None and known.sha256 == terms.sha256:
            return  # as each worker does at its start
        with self._changing() as (connection, _):
            row = connection.execute("SELECT sha256 FROM terms WHERE issuer = ? AND version = ?", (self.issuer, terms.version)).fetchone()
            if row is None:
                connection.execute(
                    """INSERT INTO terms (issuer, version, uri, effective, sha256, document, text, published, published_by)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                    (
                        self.issuer,
                        terms.version,
                        terms.uri,
                        terms.effective.isoformat(),
                        terms.sha256,
                        terms.document_bytes,
                        terms.text,
                        to_ms(self._clock()),
                        actor,
                    ),
                )
            elif row[0] != terms.sha256:
                raise already_published(terms.version)

    def terms(self, version: str) -> StoredTerms | None:
        """As `Store.terms`."""
        with self._accounts.read() as connection:
            row = connection.execute(f"{_SELECT_TERMS} WHERE issuer = ? AND version = ?", (self.issuer, storable(version))).fetchone()
        return None if row is None else _stored_terms(row)

    def terms_versions(self) -> Sequence[StoredTerms]:
        """As `Store.terms_versions`."""
        return self._read(self._ask_terms_versions())

    def _ask_terms_versions(self) -> Asking[Sequence[StoredTerms]]:
        rows = yield f"{_SELECT_TERMS} WHERE issuer = ? ORDER BY effective, number", (self.issuer,)
        return tuple(map(_stored_terms, rows))

    def put_usage_policy(self, sha256: str, document: bytes) -> None:
        """As `Store.put_usage_policy`."""
        check_usage_policy(sha256, document)
        if self.usage_policy(sha256) is not None:
            return
        # Not `_changing`: nobody's rights are others because of it.
        with self._accounts.write() as connection:
            connection.execute(
                "INSERT INTO usage_policy (issuer, sha256, document) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (self.issuer, sha256, document),
            )

    def usage_policy(self, sha256: str) -> bytes | None:
        """As `Store.usage_policy`."""
        return self._read(self._ask_usage_policy(sha256))

    def _ask_usage_policy(self, sha256: str) -> Asking[bytes | None]:
        rows = yield "SELECT document FROM usage_policy WHERE issuer = ? AND sha256 = ?", (self.issuer, storable(sha256))
        return bytes(rows[0][0]) if rows else None

    def note_limits_domain(self, domain: str) -> bool:
        """As `Store.note_limits_domain`."""
        with self._accounts.write() as connection:
            inserted = connection.execute(
                "INSERT INTO limits_domain (issuer, domain, since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (self.issuer, storable(domain), to_ms(self._clock())),
            )
            return inserted.rowcount == 1

    def put_public_key(self, document: Mapping[str, Any]) -> None:
        """As `Store.put_public_key`."""
        with self._changing() as (connection, _):
            row = connection.execute(
                "SELECT document FROM public_key WHERE issuer = ? AND kid = ?", (self.issuer, storable(str(document.get("kid"))))
            ).fetchone()
            checked = checked_public_key(document, None if row is None else json.loads(row[0]))
            connection.execute(
                """INSERT INTO public_key (issuer, kid, document) VALUES (?, ?, ?)
                ON CONFLICT (issuer, kid) DO UPDATE SET document = excluded.document""",
                (self.issuer, checked["kid"], json.dumps(checked)),
            )

    def public_keys(self) -> Sequence[dict[str, Any]]:
        """As `Store.public_keys`."""
        with self._accounts.read() as connection:
            rows = connection.execute("SELECT document FROM public_key WHERE issuer = ? ORDER BY number", (self.issuer,)).fetchall()
        return tuple(json.loads(document) for (document,) in rows)


def check_usage_policy(sha256: str, document: bytes) -> None:
    """See to it that a document is kept under its own digest: it cannot be corrected later.

    Raises:
        StoreError: It is that of another.
    """
    if sha256_b64url(document) != sha256:
        raise StoreError("the digest is not that of the document", where=f"usage policy {sha256!r}")


def already_published(version: str) -> TermsError:
    """A version is one document and one text, for ever."""
    return TermsError(
        "other terms have been published under this version", where=f"terms {version}", cure="Give the changed terms a new version"
    )


def _stored_terms(row: tuple[str, str, str, str, bytes, str, int, str]) -> StoredTerms:
    version, uri, effective, sha256, document, text, published, published_by = row
    return StoredTerms(version, uri, date.fromisoformat(effective), sha256, document, text, from_ms(published), published_by)
