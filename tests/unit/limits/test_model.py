"""Limits and amounts as values: what is refused when they are made, and what names a counter."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from tos_guard.errors import ConfigurationError
from tos_guard.limits import MAX_AMOUNT, Amounts, Calendar, Charge, Dimension, Limit, LimitState, Quantity, Reservation, Sliding


def limit(**changes: Any) -> Limit:
    defaults: dict[str, Any] = {
        "id": "x", "quantity": Quantity.TOKENS, "amount": 100, "per": (Dimension.ACCOUNT,), "window": Sliding(60),
    }  # fmt: skip
    return Limit(**(defaults | changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"amount": -1}, "limit x: an amount of -1"),
        ({"amount": MAX_AMOUNT + 1}, "an amount of"),
        ({"window": None}, "no window"),
        ({"quantity": Quantity.CONCURRENCY}, "concurrency has no window"),
        ({"burst": 0}, "a burst of 0"),
        ({"window": Calendar("day"), "burst": 5}, "without a sliding window"),
        ({"quantity": Quantity.CONCURRENCY, "window": None, "burst": 5}, "without a sliding window"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(changes: dict[str, Any], problem: str) -> None:
    """With our error, which names the limit."""
    with pytest.raises(ConfigurationError, match=problem):
        limit(**changes)


@pytest.mark.parametrize("seconds", [0, -1, 366 * 86_400 + 1])
def test_a_window_has_a_sensible_length(seconds: int) -> None:
    with pytest.raises(ConfigurationError, match="a window of"):
        Sliding(seconds)


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "\x00", "x" * 5_000])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="zone"):
        Calendar("day", zone)


@pytest.mark.parametrize("amounts", [{"input_tokens": -1}, {"cost": MAX_AMOUNT + 1}, {"requests": -1}])
def test_amounts_are_what_engines_can_add(amounts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="amounts"):
        Amounts(**amounts)


def test_each_quantity_has_its_amount() -> None:
    amounts = Amounts(requests=1, input_tokens=20, output_tokens=300, reasoning_tokens=40, cost=5)
    assert {quantity.value: amounts.of(quantity) for quantity in Quantity} == {
        "requests": 1, "input-tokens": 20, "output-tokens": 300, "reasoning-tokens": 40, "tokens": 320, "cost": 5, "concurrency": 1,
    }  # fmt: skip


@pytest.mark.parametrize("changes", [{"id": "y"}, {"amount": 5}, {"burst": 5}, {"kinds": frozenset({"free"})}, {"shadow": True}])
def test_a_change_that_counts_the_same_keeps_the_counter(changes: dict[str, Any]) -> None:
    """Usage goes by the counter, so that it outlives a changed rule."""
    assert limit(**changes).counted == limit().counted


def test_whatever_counts_something_else_has_another_counter() -> None:
    others = [
        limit(),
        limit(quantity=Quantity.COST),
        limit(per=()),
        limit(per=(Dimension.ACCOUNT, Dimension.MODEL)),
        limit(window=Sliding(61)),
        limit(window=Calendar("minute")),
        limit(window=Calendar("minute", "Asia/Tokyo")),
        limit(models=frozenset({"small"})),
        limit(actions=frozenset({"small"})),
        limit(models=frozenset({"a", "b"})),
        limit(models=frozenset({"a,b"})),
    ]
    assert len({each.counted for each in others}) == len(others)


def test_dimensions_are_a_set() -> None:
    """Order and repetition do not make another counter."""
    one = limit(per=(Dimension.MODEL, Dimension.ACCOUNT, Dimension.MODEL))
    assert one.per == (Dimension.ACCOUNT, Dimension.MODEL)
    assert one.counted == limit(per=(Dimension.ACCOUNT, Dimension.MODEL)).counted


def test_an_end_user_is_one_of_an_account() -> None:
    """Otherwise the undeclared end users of all accounts would share one counter."""
    assert limit(per=(Dimension.END_USER,)).per == (Dimension.ACCOUNT, Dimension.END_USER)


def test_a_reservation_can_be_settled_elsewhere() -> None:
    """It survives pickling, with limits that are still the same."""
    charge = Charge(limit(), ("acme",), 5)
    reservation = Reservation("r", (charge,), (LimitState(limit(), ("acme",), 5, 95, 65.0),))
    again = pickle.loads(pickle.dumps(reservation))
    assert again == reservation
    assert again.charges[0].counter == charge.counter == (limit().counted, ("acme",))


def test_limits_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        limit().amount = 5  # type: ignore[misc]
