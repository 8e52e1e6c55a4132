"""A record to store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sample_records import sample_record
from tos_guard.ledger import ExchangeRecord


@pytest.fixture
def record() -> Callable[..., ExchangeRecord]:
    def make(rid: str, **fields: Any) -> ExchangeRecord:
        return sample_record(rid, **({"issuer": "https://api.example"} | fields))

    return make
