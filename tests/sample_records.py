"""Exchange records for tests of stores: all that is not said is the same in each."""

from __future__ import annotations

from typing import Any

from tos_guard.ledger import ExchangeRecord, RecordType


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
