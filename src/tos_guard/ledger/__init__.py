"""What is kept of each exchange (docs/spec/records.md). Values only; `tos_guard.stores` keeps them."""

from tos_guard.ledger._record import ExchangeRecord, RecordType

__all__ = ["ExchangeRecord", "RecordType"]
