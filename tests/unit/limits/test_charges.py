"""Which limits concern a request, and whose counters it is charged to."""

from __future__ import annotations

from typing import Any

import pytest

from tos_guard.errors import ConfigurationError
from tos_guard.limits import Amounts, Charge, Dimension, Limit, Quantity, Sliding, account_limits, charges

ACCOUNT, ORGANIZATION, MODEL, ACTION, END_USER = (
    Dimension.ACCOUNT, Dimension.ORGANIZATION, Dimension.MODEL, Dimension.ACTION, Dimension.END_USER,
)  # fmt: skip
AMOUNTS = Amounts(input_tokens=10, output_tokens=20, cost=7)


def limit(limit_id: str = "x", **changes: Any) -> Limit:
    defaults: dict[str, Any] = {"id": limit_id, "quantity": Quantity.TOKENS, "amount": 100, "per": (ACCOUNT,), "window": Sliding(60)}
    return Limit(**(defaults | changes))


def charged(*limits: Limit, **changes: Any) -> tuple[Charge, ...]:
    defaults: dict[str, Any] = {"amounts": AMOUNTS, "account": "acme-1", "organization": "acme", "model": "small", "action": "generate"}
    return charges(limits, **(defaults | changes))


@pytest.mark.parametrize(
    ("per", "scope"),
    [
        ((), ()),
        ((ACCOUNT,), ("acme-1",)),
        ((ORGANIZATION,), ("acme",)),
        ((MODEL,), ("small",)),
        ((ACTION, ORGANIZATION), ("acme", "generate")),
        ((END_USER,), ("acme-1", "eu_1")),
        ((END_USER, MODEL, ORGANIZATION), ("acme-1", "acme", "eu_1", "small")),
    ],
)
def test_a_charge_names_whose_counter_it_is(per: tuple[Dimension, ...], scope: tuple[str, ...]) -> None:
    (charge,) = charged(limit(per=per), end_user="eu_1")
    assert (charge.scope, charge.amount) == (scope, 30)


def test_requests_without_an_end_user_share_one() -> None:
    """Undeclared is a known value: whoever could leave it out would have a counter of its own each time."""
    (charge,) = charged(limit(per=(END_USER,)))
    assert charge.scope == ("acme-1", "undeclared")


@pytest.mark.parametrize(
    ("changes", "concerned"),
    [
        ({}, True),
        ({"models": {"small", "large"}}, True),
        ({"models": {"large"}}, False),
        ({"actions": {"generate"}}, True),
        ({"actions": {"embed"}}, False),
        ({"kinds": {"default"}}, True),
        ({"kinds": {"paying"}}, False),
        ({"models": {"small"}, "actions": {"embed"}}, False),
    ],
)
def test_a_limit_concerns_the_requests_it_is_for(changes: dict[str, set[str]], concerned: bool) -> None:
    sets = {name: frozenset(values) for name, values in changes.items()}
    assert bool(charged(limit(**sets))) is concerned


def test_a_limit_per_organization_needs_one() -> None:
    """Accounts without an organization do not share a nameless one."""
    assert charged(limit(per=(ORGANIZATION,)), organization=None) == ()
    assert charged(limit(per=(ORGANIZATION, MODEL)), organization=None) == ()


def test_amounts_of_the_account_replace_those_of_the_rule() -> None:
    """Larger, smaller or zero; the counter stays the same, and limits without one of their own stay as they are."""
    rules = (limit("a"), limit("b"), limit("c"))
    found = charged(*rules, overrides={"a": 500, "b": 0, "other": 3})
    assert [(charge.limit.id, charge.limit.amount) for charge in found] == [("a", 500), ("b", 0), ("c", 100)]
    assert {charge.counter for charge in found} == {charged(limit())[0].counter}
    with pytest.raises(ConfigurationError, match="limit a"):
        charged(*rules, overrides={"a": -1})


def test_of_limits_that_count_the_same_one_counts() -> None:
    """Of those that concern the request, the first; a limit that does not concern it counts nothing."""
    twins = (limit("live", kinds=frozenset({"paying"})), limit("tried", shadow=True), limit("other", shadow=True))
    assert [(charge.limit.id, charge.counts) for charge in charged(*twins, kind="paying")] == [
        ("live", True),
        ("tried", False),
        ("other", False),
    ]
    assert [(charge.limit.id, charge.counts) for charge in charged(*twins)] == [("tried", True), ("other", False)]


def test_an_account_compiles_once() -> None:
    """Scopes that the account alone decides are the same tuples in each request: engines keep them."""
    compiled = account_limits([limit("a"), limit("b", quantity=Quantity.COST)], account="acme-1")
    first, second = (compiled.charges(AMOUNTS, model=model, action="generate") for model in ("small", "large"))
    assert first == second
    assert len({id(charge.scope) for charge in (*first, *second)}) == 1
    assert [each.id for each in compiled.limits] == ["a", "b"]


def test_a_long_name_is_counted_by_its_digest() -> None:
    """A counter keeps its name for as long as its window, and requests choose the model's."""
    long, other = (charged(limit(per=(MODEL,)), model=model)[0].scope[0] for model in ("m" * 1_000_000, "m" * 999_999 + "\ud800"))
    assert long != other
    assert max(len(long), len(other)) < 100
