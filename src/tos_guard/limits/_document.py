"""A reservation as JSON, so that another process can settle it later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tos_guard.limits._model import Calendar, Charge, Dimension, Limit, Quantity, Reservation, Sliding, Window

__all__ = ["reservation_document", "reservation_from"]


def reservation_document(reservation: Reservation) -> dict[str, Any]:
    """JSON members of *reservation*, without the states that its request was told."""
    return {
        "charges": [
            {"amount": charge.amount, "counts": charge.counts, "limit": _limit_document(charge.limit), "scope": list(charge.scope)}
            for charge in reservation.charges
        ],
        "fallback": reservation.fallback,
        "id": reservation.id,
    }


def reservation_from(document: Mapping[str, Any]) -> Reservation:
    """The reservation of `reservation_document`.

    Raises:
        KeyError, TypeError, ValueError, ConfigurationError: It is none, or names a zone that this machine does not know.
    """
    charges = (
        Charge(_limit(charge["limit"]), tuple(charge["scope"]), charge["amount"], charge["counts"]) for charge in document["charges"]
    )
    return Reservation(document["id"], tuple(charges), fallback=document["fallback"])


def _limit_document(limit: Limit) -> dict[str, Any]:
    return {
        "actions": sorted(limit.actions),
        "amount": limit.amount,
        "burst": limit.burst,
        "id": limit.id,
        "kinds": sorted(limit.kinds),
        "models": sorted(limit.models),
        "per": [str(dimension) for dimension in limit.per],
        "quantity": str(limit.quantity),
        "shadow": limit.shadow,
        "window": _window_document(limit.window),
    }


def _limit(document: Mapping[str, Any]) -> Limit:
    members = dict(document)
    members["quantity"] = Quantity(members["quantity"])
    members["per"] = tuple(map(Dimension, members["per"]))
    members["window"] = _window(members["window"])
    for name in ("actions", "kinds", "models"):
        members[name] = frozenset(members[name])
    return Limit(**members)


def _window_document(window: Window | None) -> dict[str, Any] | None:
    match window:
        case Sliding(seconds):
            return {"seconds": seconds}
        case Calendar(unit, zone):
            return {"unit": unit, "zone": zone}
        case _:
            return None


def _window(document: Mapping[str, Any] | None) -> Window | None:
    if document is None:
        return None
    return Sliding(document["seconds"]) if "seconds" in document else Calendar(document["unit"], document["zone"])
