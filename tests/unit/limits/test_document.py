"""A reservation that another process settles is the one that was made."""

from __future__ import annotations

import json

import pytest

from tos_guard.errors import ConfigurationError
from tos_guard.limits import Calendar, Charge, Dimension, Limit, Quantity, Reservation, Sliding, Window
from tos_guard.limits._document import reservation_document, reservation_from


@pytest.mark.parametrize("window", [Sliding(60), Calendar("month", "Europe/Berlin"), None])
@pytest.mark.parametrize("fallback", ["", "local", "allow"])
def test_a_reservation_comes_back_as_it_was(window: Window | None, fallback: str) -> None:
    """Whatever its limits are, and in whatever failure mode it was made; without what its request was told."""
    limit = Limit(
        id="x",
        quantity=Quantity.TOKENS if window is not None else Quantity.CONCURRENCY,
        amount=9,
        per=(Dimension.ACCOUNT, Dimension.MODEL),
        window=window,
        burst=3 if isinstance(window, Sliding) else None,
        models=frozenset({"smäll", "b"}),
        actions=frozenset({"generate"}),
        kinds=frozenset({"organization"}),
        shadow=True,
    )
    made = Reservation("req_1", (Charge(limit, ("acme", "smäll"), 7), Charge(limit, ("acme", "b"), 1, counts=False)), fallback=fallback)
    kept = json.loads(json.dumps(reservation_document(made)))
    assert reservation_from(kept) == made
    assert reservation_from(kept).charges[0].counter == made.charges[0].counter


@pytest.mark.parametrize("document", [{}, {"id": "x", "charges": [{}], "fallback": ""}, {"id": "x", "charges": 3, "fallback": ""}])
def test_what_is_no_reservation_is_an_error(document: dict) -> None:
    """One of the errors that its reader expects."""
    with pytest.raises((KeyError, TypeError, ValueError, ConfigurationError)):
        reservation_from(document)
