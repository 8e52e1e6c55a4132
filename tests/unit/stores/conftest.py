"""A record to store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tos_guard.ledger import ExchangeRecord, RecordType


@pytest.fixture
def record() -> Callable[..., ExchangeRecord]:
    def make(rid: str, **fields: Any) -> ExchangeRecord:
        values: dict[str, Any] = {
            "type": RecordType.EXCHANGE,
            "issuer": "https://api.example",
            "rid": rid,
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
        return ExchangeRecord(**(values | fields))

    return make
