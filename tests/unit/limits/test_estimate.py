"""The most that a request could take. The traps are those by which gateways were made to reserve next to nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tos_guard.limits import MAX_AMOUNT, Amounts, Price, Usage, actual, cost, estimate


def estimated(*declared: int, **changes: Any) -> Amounts:
    return estimate(**({"declared": declared, "prompt_bytes": 100} | changes))


def test_trap_mixed_maximum_fields() -> None:
    """``max_tokens: 1`` beside ``max_completion_tokens: 10000`` reserves 10,000: the largest counts, in any order."""
    assert estimated(1, 10_000).output_tokens == 10_000
    assert estimated(10_000, 1).output_tokens == 10_000


def test_trap_input_counted() -> None:
    """The prompt counts as well as the output: its bytes, rounded up, and its images."""
    amounts = estimated(1, prompt_bytes=2_001, media_parts=3, tokens_per_media=500)
    assert (amounts.input_tokens, amounts.tokens) == (1_001 + 1_500, 1_001 + 1_500 + 1)
    assert estimated(1, prompt_bytes=2_001, bytes_per_token=4).input_tokens == 501


def test_choices_multiply_the_output() -> None:
    """``n`` responses may each be as long as the maximum."""
    assert estimated(100, choices=128).output_tokens == 12_800


@pytest.mark.parametrize(
    ("declared", "model_maximum", "expected"),
    [((), None, 4_096), ((), 500, 500), ((7,), 500, 7), ((0,), 500, 500), ((-5, 0), None, 4_096), ((9_000,), 500, 9_000)],
)
def test_without_a_maximum_the_model_has_one(declared: tuple[int, ...], model_maximum: int | None, expected: int) -> None:
    """Declared beats the model's, the model's beats the ceiling; zero and less declare nothing."""
    assert estimated(*declared, model_maximum=model_maximum).output_tokens == expected


def test_a_request_without_end_is_estimated_at_no_less_than_it_also_declares() -> None:
    """And at no less than one that declares nothing."""
    assert estimated(9_000, is_open_ended=True, model_maximum=500).output_tokens == 9_000
    assert estimated(7, is_open_ended=True, model_maximum=500).output_tokens == 500
    assert estimated(7, is_open_ended=True).output_tokens == 4_096


def test_nothing_is_never_the_estimate() -> None:
    """Whatever a request declares, it reserves one token of each at least."""
    amounts = estimated(0, prompt_bytes=0, choices=0, default_maximum=1)
    assert (amounts.input_tokens, amounts.output_tokens, amounts.requests) == (1, 1, 1)


def test_hostile_numbers_are_cut() -> None:
    """No number that JSON can carry makes the estimate fail."""
    amounts = estimated(10**4_000, choices=10**4_000, price=Price(10**9, 10**9))
    assert (amounts.output_tokens, amounts.cost) == (MAX_AMOUNT, MAX_AMOUNT)


def test_reasoning_may_take_all_of_the_output() -> None:
    assert estimated(300).reasoning_tokens == 300


def test_cost_is_rounded_up() -> None:
    """2.50 and 10.00 for a million tokens: one token of each costs 13 millionths, not 12.5."""
    price = Price(input=2_500_000, output=10_000_000)
    assert cost(price, input_tokens=1, output_tokens=1) == 13
    assert cost(price, input_tokens=1_000_000, output_tokens=1_000_000) == 12_500_000
    assert cost(price, input_tokens=0, output_tokens=0) == 0


@pytest.mark.parametrize(("reasoning", "expected"), [(50, 1_000 + 50), (2, 1_000 + 100), (None, 1_000 + 100)])
def test_reasoning_has_its_own_price(reasoning: int | None, expected: int) -> None:
    """As long as it is unknown how much there was, the dearer price counts for all of the output."""
    price = Price(input=10_000_000, output=1_000_000, reasoning=None if reasoning is None else 500_000)
    told = {50: 100, 2: 0, None: None}[reasoning]
    assert cost(price, input_tokens=100, output_tokens=100, reasoning_tokens=told) == expected
    dear = Price(input=0, output=1_000_000, reasoning=3_000_000)
    assert cost(dear, input_tokens=0, output_tokens=100) == 300
    assert estimated(100, price=dear).cost == 300


def test_what_no_model_reads_or_answers_takes_no_tokens() -> None:
    """An embedding has no output, whatever it declares; counting tokens takes none at all."""
    price = Price(input=1_000_000, output=2_000_000)
    only_input = estimate(declared=[9], is_open_ended=True, prompt_bytes=20, choices=5, price=price, gives_output=False)
    assert only_input == Amounts(input_tokens=10, cost=10)
    nothing = estimate(declared=[9], prompt_bytes=20, media_parts=3, price=price, takes_input=False, gives_output=False)
    assert nothing == Amounts()


RESERVED = Amounts(input_tokens=100, output_tokens=200, reasoning_tokens=200, cost=999)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, RESERVED),
        (Usage(), RESERVED),
        (Usage(7, 9, 2), Amounts(input_tokens=7, output_tokens=9, reasoning_tokens=2, cost=999)),
        (Usage(7, None), Amounts(input_tokens=7, output_tokens=200, reasoning_tokens=200, cost=999)),
        (Usage(None, 9), Amounts(input_tokens=100, output_tokens=9, reasoning_tokens=9, cost=999)),
        (Usage(-5, 10**30), Amounts(input_tokens=0, output_tokens=MAX_AMOUNT, reasoning_tokens=200, cost=999)),
    ],
)
def test_what_a_response_does_not_say_keeps_the_estimate(usage: Usage | None, expected: Amounts) -> None:
    """Member by member; what it says is cut to what engines can add."""
    assert actual(usage, reserved=RESERVED) == expected


def test_cost_follows_what_is_known() -> None:
    """The part that is known has its price, the other its estimate."""
    price = Price(input=1_000_000, output=2_000_000)
    assert actual(Usage(7, 9), reserved=RESERVED, price=price).cost == 7 + 18
    assert actual(Usage(None, 9), reserved=RESERVED, price=price).cost == 100 + 18
    assert actual(None, reserved=RESERVED, price=price).cost == 999
