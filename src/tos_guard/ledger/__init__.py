"""What is kept of each exchange (docs/spec/records.md), and of seals. Values only; `tos_guard.stores` keeps them."""

from tos_guard.ledger._kept import KeptSeal, SealKind
from tos_guard.ledger._record import ExchangeRecord, RecordType

__all__ = ["ExchangeRecord", "KeptSeal", "RecordType", "SealKind"]
