"""What a request may take, and whose amounts hold."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from tos_guard.dialects import RequestFacts
from tos_guard.guard import Meter, ModelFacts
from tos_guard.limits import Amounts, Dimension, Limit, Price, Quantity, Sliding, Usage
from tos_guard.rights import Account, Holder, Organization
from tos_guard.types import Facts

MINUTE = Sliding(60)
TOKENS = Limit(id="tokens", quantity=Quantity.TOKENS, amount=1_000, per=(Dimension.ACCOUNT,), window=MINUTE)
SHARED = Limit(id="shared", quantity=Quantity.REQUESTS, amount=50, per=(Dimension.ORGANIZATION,), window=MINUTE)
FACTS = Facts(action="generate", model="small")


def amounts_of(holder: Holder, larger: dict[str, int] | None = None) -> dict[str, int]:
    meter = Meter((TOKENS, SHARED))
    return {charge.limit.id: charge.limit.amount for charge in meter.charges(holder, MappingProxyType(larger or {}), FACTS, Amounts())}


@pytest.mark.parametrize(
    ("account", "organization", "granted", "expected"),
    [
        ({}, None, {}, {"tokens": 1_000}),
        ({"limits": {"tokens": 200}}, None, {}, {"tokens": 200}),
        ({"limits": {"tokens": 0}}, None, {}, {"tokens": 0}),
        ({}, None, {"tokens": 5_000}, {"tokens": 5_000}),
        ({}, None, {"tokens": 10}, {"tokens": 1_000}),
        ({"limits": {"tokens": 200}}, None, {"tokens": 500}, {"tokens": 500}),
        ({"organization": "corp"}, {"limits": {"shared": 7}}, {"shared": 900}, {"tokens": 1_000, "shared": 7}),
        ({"organization": "corp", "limits": {"shared": 900}}, {}, {}, {"tokens": 1_000, "shared": 50}),
        ({"organization": "corp"}, None, {}, {"tokens": 1_000, "shared": 50}),
    ],
)
def test_whose_amount_holds(account: dict[str, Any], organization: dict[str, Any] | None, granted: dict[str, int], expected: Any) -> None:
    """The settings', else the account's or its organization's own; a grant's where it is larger, but never of a shared limit."""
    shared = None if organization is None else Organization(id="corp", **organization)
    assert amounts_of(Holder(Account(id="acme", **account), shared), granted) == expected


@pytest.mark.parametrize("per", [(), (Dimension.MODEL,), (Dimension.ACTION, Dimension.ORGANIZATION)], ids=str)
def test_a_grant_does_not_move_a_limit_that_all_accounts_share(per: tuple[Dimension, ...]) -> None:
    """Else one account's grant would let it take what the limit keeps for the others."""
    shared = Limit(id="shared", quantity=Quantity.REQUESTS, amount=50, per=per, window=MINUTE)
    holder = Holder(Account(id="acme", organization="corp"))
    (charge,) = Meter((shared,)).charges(holder, MappingProxyType({"shared": 900}), FACTS, Amounts())
    assert charge.limit.amount == 50


def test_an_account_that_was_deleted_and_added_again_has_its_new_limits() -> None:
    """Its version is again the first, and so may be its organization's: neither tells the old one from the new."""
    meter = Meter((TOKENS, SHARED))
    holders = [
        Holder(Account(id="acme", limits={"tokens": tokens}, organization=corp), Organization(id=corp, limits={"shared": shared}))
        for tokens, corp, shared in ((5, "corp", 7), (9, "corp", 7), (9, "corp", 8), (9, "other", 8))
    ]
    for holder in holders:
        charges = meter.charges(holder, MappingProxyType({}), FACTS, Amounts())
        assert holder.organization is not None
        assert [charge.limit.amount for charge in charges] == [holder.account.limits["tokens"], holder.organization.limits["shared"]]
        assert charges[1].scope == (holder.organization.id,)
        assert meter.of(holder, {}) is meter.of(Holder(holder.account, holder.organization), {})


def test_a_change_of_account_or_grant_is_another_set_of_limits() -> None:
    """What was compiled for the old version is not used for the new one."""
    meter = Meter((TOKENS,))
    old, new = Account(id="acme"), Account(id="acme", version=2, limits={"tokens": 5})
    for account, amount in ((old, 1_000), (new, 5), (old, 1_000)):
        (charge,) = meter.charges(Holder(account), MappingProxyType({}), FACTS, Amounts())
        assert charge.limit.amount == amount


def test_the_largest_that_a_request_could_take_is_reserved() -> None:
    """Declared maximum times choices; the model's where none is declared; the prompt by its size; media apart."""
    price = Price(input=1_000_000, output=2_000_000)
    meter = Meter((), models={"small": ModelFacts(100, price)}, bytes_per_token=2, tokens_per_media=70, default_max_output_tokens=30)
    declared = meter.estimate(RequestFacts(action="generate", model="small", choices=3, max_output_tokens=10, media_parts=2), b"x" * 11)
    assert (declared.input_tokens, declared.output_tokens, declared.cost) == (6 + 140, 30, 146 + 60)
    assert meter.estimate(RequestFacts(action="generate", model="small"), b"").output_tokens == 100
    assert meter.estimate(RequestFacts(action="generate", model="other"), b"").output_tokens == 30


def test_the_host_may_count_prompts_itself() -> None:
    """Its tokenizer knows better than the size, media included. A guess of its own may be a fraction."""
    meter = Meter((), count_prompt=lambda request, body: 4.25)
    assert meter.estimate(RequestFacts(action="generate", model="small", media_parts=3), b"x" * 1_000).input_tokens == 5


def test_what_a_response_does_not_say_keeps_the_estimate() -> None:
    """And an error in place of a response served nothing but took a request."""
    meter = Meter((), models={"small": ModelFacts(None, Price(input=1_000_000, output=1_000_000))})
    reserved = Amounts(input_tokens=100, output_tokens=50, reasoning_tokens=50, cost=150)
    assert meter.actual(None, reserved=reserved, model="small") == reserved
    known = meter.actual(Usage(input_tokens=40), reserved=reserved, model="small")
    assert (known.input_tokens, known.output_tokens, known.cost) == (40, 50, 90)
    nothing = meter.nothing_served(reserved=reserved, model="small")
    assert (nothing.requests, nothing.tokens, nothing.cost) == (1, 0, 0)
