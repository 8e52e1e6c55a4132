"""Limits in the settings file: every way to write one, and an error that names the wrong one."""

from __future__ import annotations

from typing import get_args

import pytest

from tos_guard import config
from tos_guard.config import GuardSettings, LimitSettings, parse_settings
from tos_guard.dialects import RequestFacts
from tos_guard.errors import ConfigurationError
from tos_guard.guard import limits_of, meter_of
from tos_guard.limits import (
    MAX_AMOUNT,
    MAX_WINDOW_SECONDS,
    Amounts,
    Calendar,
    Dimension,
    Limit,
    Quantity,
    Sliding,
    Usage,
)

HEAD = 'issuer = "https://a.example"\nterms = "t.toml"\nstore = "s.db"\nkeys = "k"\nroutes = { "/v1/chat/completions" = "openai-chat" }\n'


def parsed(text: str) -> GuardSettings:
    return parse_settings((HEAD + text).encode())


def limit_of(text: str) -> Limit:
    (limit,) = limits_of(parsed(f'[[limits]]\nid = "x"\nquantity = "tokens"\namount = 100\n{text}'))
    return limit


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("60s", Sliding(60)),
        ("1m", Sliding(60)),
        ("2h", Sliding(7_200)),
        ("30d", Sliding(30 * 86_400)),
        ("calendar minute", Calendar("minute")),
        ("calendar day UTC", Calendar("day", "UTC")),
        ("calendar month Europe/Berlin", Calendar("month", "Europe/Berlin")),
    ],
)
def test_a_window_in_words(window: str, expected: Sliding | Calendar) -> None:
    """What it is called in messages can be written too."""
    assert limit_of(f'window = "{window}"').window == expected
    assert limit_of(f'window = "{expected}"').window == expected


def test_a_limit_with_everything() -> None:
    assert limit_of(
        'window = "1m"\nper = ["organization", "model"]\nburst = 5\nmodels = ["a", "b"]\n'
        'actions = ["generate"]\nkinds = ["free"]\nshadow = true'
    ) == Limit(
        id="x",
        quantity=Quantity.TOKENS,
        amount=100,
        per=(Dimension.ORGANIZATION, Dimension.MODEL),
        window=Sliding(60),
        burst=5,
        models=frozenset({"a", "b"}),
        actions=frozenset({"generate"}),
        kinds=frozenset({"free"}),
        shadow=True,
    )


def test_a_limit_is_per_account_unless_it_says_otherwise() -> None:
    assert limit_of('window = "1m"').per == (Dimension.ACCOUNT,)
    assert limit_of('window = "1m"\nper = []').per == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"limits\.0: limit x: tokens need a window; write \"60s\""),
        ('window = "0s"', r"limits\.0\.window: '0s' is no window; write"),
        ('window = "1w"', "'1w' is no window"),
        ('window = "60"', "'60' is no window"),
        ("window = 60", "60 is no window"),
        ('window = { unit = "day" }', "is no window"),
        ('window = "99999d"', r"limits\.0\.window\.seconds"),
        ('window = "calendar fortnight"', "is no window"),
        ('window = "calendar day Mars/Olympus"', "'Mars/Olympus' is no zone of this machine"),
        ('window = "calendar day ../../etc/passwd"', "is no zone"),
        ('window = "calendar day"\nburst = 5', "a burst needs a sliding window"),
        ('window = "1m"\nburst = 101', "a burst above the amount"),
        ('window = "1m"\nper = ["planet"]', r"limits\.0\.per\.0: Input should be 'account'"),
        ('window = "1m"\namonut = 5', r"limits\.0\.amonut: Extra inputs"),
    ],
)
def test_a_wrong_limit_is_named(text: str, problem: str) -> None:
    """With place, value and what may be written instead."""
    with pytest.raises(ConfigurationError, match=problem):
        limit_of(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[limits]]\nid = "x"\nquantity = "concurrency"\namount = 5\nwindow = "1m"', "concurrency is what runs now"),
        ('[[limits]]\nid = "X y"\nquantity = "concurrency"\namount = 5', r"limits\.0\.id"),
        ('[[limits]]\nid = "x"\nquantity = "bananas"\namount = 5', r"limits\.0\.quantity: Input should be 'requests'"),
        ('[[limits]]\nid = "x"\nquantity = "concurrency"\namount = 0', r"limits\.0\.amount"),
        ('[[limits]]\nid = "x"\nquantity = "concurrency"\namount = 1.5', r"limits\.0\.amount"),
        ('[[limits]]\nid = "x"\nquantity = "concurrency"\namount = 5\n' * 2, "two limits have the id 'x'"),
        ("[estimates]\nbytes_per_token = 0", r"estimates\.bytes_per_token"),
        ("[models.small]\nprice = { input = -1, output = 5 }", r"models\.small\.price\.input"),
        ("[models.small]\nprice = { input = 1.5, output = 5 }", r"models\.small\.price\.input"),
    ],
)
def test_other_wrong_settings_are_named(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        parsed(text)


def test_the_settings_know_the_words_of_the_limits() -> None:
    """They stand below the limits and cannot import them; the words and bounds are the same."""
    fields = LimitSettings.model_fields
    assert set(get_args(fields["quantity"].annotation)) == set(Quantity)
    assert set(get_args(get_args(fields["per"].annotation)[0])) == set(Dimension)
    assert (config.MAX_LIMIT_AMOUNT, config.MAX_LIMIT_SECONDS) == (MAX_AMOUNT, MAX_WINDOW_SECONDS)


def test_estimates_follow_the_settings() -> None:
    """Maximum and price of the model where they are known; the provider's ceiling for the others."""
    meter = meter_of(
        parsed(
            "[estimates]\ndefault_max_output_tokens = 50\nbytes_per_token = 4\ntokens_per_media = 10\n"
            "[models.small]\nmax_output_tokens = 20\nprice = { input = 1_000_000, output = 2_000_000, reasoning = 3_000_000 }\n"
        )
    )
    small = meter.estimate(RequestFacts("generate", "small", media_parts=2), b"123456789")
    assert small == Amounts(input_tokens=23, output_tokens=20, reasoning_tokens=20, cost=23 + 60)
    assert meter.estimate(RequestFacts("generate", "other"), b"123456789").output_tokens == 50
    declared = RequestFacts("generate", "other", choices=3, max_output_tokens=5)
    assert meter.estimate(declared, b"123456789") == Amounts(input_tokens=3, output_tokens=15, reasoning_tokens=15)
    assert meter.actual(Usage(5, 10, 1), reserved=small, model="small").cost == 5 + 18 + 3
    assert meter.actual(Usage(5, 10, 1), reserved=small, model="other").cost == small.cost


def test_the_hosts_tokenizer_counts_in_place_of_the_size() -> None:
    meter = meter_of(parsed(""), count_prompt=lambda request, body: 7)
    assert meter.estimate(RequestFacts("generate", "small", media_parts=2), bytes(1_000)).input_tokens == 7
    assert meter.limits == ()
