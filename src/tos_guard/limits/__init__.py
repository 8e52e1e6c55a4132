"""Limits: how much an account may take in which time, and how much a request is charged (DESIGN D4). Pure: engines keep the counters."""

from tos_guard.limits._charges import AccountLimits, account_limits, charges
from tos_guard.limits._estimate import Price, actual, cost, estimate
from tos_guard.limits._model import (
    MAX_AMOUNT,
    MAX_WINDOW_SECONDS,
    Amounts,
    Calendar,
    Charge,
    Dimension,
    Limit,
    LimitRefusal,
    LimitState,
    Quantity,
    Reservation,
    Sliding,
    Usage,
    Window,
)

__all__ = [
    "MAX_AMOUNT",
    "MAX_WINDOW_SECONDS",
    "AccountLimits",
    "Amounts",
    "Calendar",
    "Charge",
    "Dimension",
    "Limit",
    "LimitRefusal",
    "LimitState",
    "Price",
    "Quantity",
    "Reservation",
    "Sliding",
    "Usage",
    "Window",
    "account_limits",
    "actual",
    "charges",
    "cost",
    "estimate",
]
