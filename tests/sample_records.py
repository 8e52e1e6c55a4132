"""Exchange records and acceptances for tests of stores: all that is not said is the same in each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.terms import Acceptance, Withdrawal
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind

ACCEPTED = datetime(2026, 11, 22, 12, tzinfo=UTC)


def sample_record(rid: str, *, issuer: str, **fields: Any) -> ExchangeRecord:
    """A record of an allowed exchange with this request id, with *fields* in place of the usual ones."""
    values: dict[str, Any] = {
        "type": RecordType.EXCHANGE,
        "sub": f"sub-{rid}",
        "started": 1_795_000_000_000,
        "finished": 1_795_000_000_250,
        "status": 200,
        "action": "generate",
        "model": "small",
        "purpose": "undeclared",
        "decision": "allow",
        "reasons": ("tos_clause:use",),
        "terms_version": "2026-11",
        "terms_sha256": "t" * 43,
        "usage_sha256": "u" * 43,
    }
    return ExchangeRecord(rid=rid, **({"issuer": issuer} | values | fields))


def sample_acceptance(number: int = 1, **fields: Any) -> Acceptance:
    """An acceptance by account ``acme`` with an id of this number."""
    values: dict[str, Any] = {
        "id": f"acc_{number:022}",
        "issuer": "https://api.example",
        "subject_kind": SubjectKind.ACCOUNT,
        "subject_id": "acme",
        "series": "general",
        "version": "2026-11",
        "terms_sha256": "t" * 43,
        "text_sha256": "x" * 43,
        "uri": "https://api.example/terms/2026-11",
        "locale": "en",
        "accepted_by": "ann@acme.example",
        "authority": "officer",
        "method": AcceptanceMethod.ACCOUNT_ROUTE,
        "identified_by": Identification.HOST,
        "at": ACCEPTED,
    }
    return Acceptance(**(values | fields))


def sample_withdrawal(number: int = 1, **fields: Any) -> Withdrawal:
    """The withdrawal of the acceptance of this number, a day later."""
    values: dict[str, Any] = {
        "id": f"wdr_{number:022}",
        "acceptance": f"acc_{number:022}",
        "withdrawn_by": "bob@acme.example",
        "authority": "officer",
        "method": AcceptanceMethod.CLI,
        "identified_by": Identification.ADMINISTRATOR,
        "at": ACCEPTED + timedelta(days=1),
        "reason": "we left",
        "receipt": "r.e.c",
    }
    return Withdrawal(**(values | fields))
