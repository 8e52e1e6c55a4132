"""Amounts of an account's or organization's own, and how far they are used."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tos_guard.guard import Guard
from tos_guard.limits import Amounts
from tos_guard.types import Facts

Call = Callable[..., Any]

LIMITS = """
[[limits]]
id = "tokens-per-minute"
quantity = "tokens"
amount = 100_000
window = "1m"

[[limits]]
id = "shared-requests"
quantity = "requests"
per = ["organization"]
amount = 50
window = "calendar day"

[[limits]]
id = "concurrent"
quantity = "concurrency"
amount = 4

[[limits]]
id = "each-user"
quantity = "requests"
per = ["end-user"]
amount = 10
window = "1h"
"""


@pytest.fixture
def acme(provider: Path, call: Call) -> Path:
    """A provider with limits, and the account acme of acme-corp."""
    settings = provider / "tos-guard.toml"
    settings.write_text(settings.read_text() + LIMITS)
    call("accounts", "add", "acme", "--model", "small", "--organization", "acme-corp")
    call("organizations", "add", "acme-corp")
    return provider


def take(folder: Path, **amounts: int) -> None:
    """Reserve as a server does: a response that is still running."""
    guard = Guard.from_file(folder / "tos-guard.toml")
    assert guard.store is not None
    assert guard._limits is not None
    holder = guard.store.holder_by_id("acme")
    assert holder is not None
    charges = guard.meter.charges(holder, {}, Facts("generate", "small"), Amounts(**amounts))
    guard._limits.reserve(charges, id="r1", lease=timedelta(minutes=5))
    guard.close_stores()


def uses(call: Call) -> dict[str, dict[str, Any]]:
    done = call("accounts", "usage", "acme", "--json")
    assert done.code == 0, done.err
    return {use["id"]: use for use in done.document["limits"]}


def test_usage_is_what_all_servers_of_the_host_counted(acme: Path, call: Call) -> None:
    take(acme, input_tokens=1_000, output_tokens=250)
    found = uses(call)
    assert {name: (use["used"], use["remaining"]) for name, use in found.items()} == {
        "tokens-per-minute": (1_250, 98_750),
        "shared-requests": (1, 49),
        "concurrent": (1, 3),
        "each-user": (None, None),
    }
    assert found["shared-requests"]["scope"] == ["acme-corp"]
    assert 0 < found["tokens-per-minute"]["reset_seconds"] <= 65
    shown = call("accounts", "usage", "acme")
    row = next(line for line in shown.out.splitlines() if line.startswith("tokens-per-minute"))
    assert row.split()[:8] == ["tokens-per-minute", "tokens", "account", "acme", "60s", "100000", "1250", "98750"]
    assert "end user" in shown.err


def test_an_amount_of_its_own_holds_at_once_and_forgets_no_use(acme: Path, call: Call) -> None:
    take(acme, input_tokens=1_000)
    assert call("accounts", "limit", "acme", "tokens-per-minute", "5000", "--reason", "pilot", "--actor", "ops").code == 0
    assert (uses(call)["tokens-per-minute"]["amount"], uses(call)["tokens-per-minute"]["used"]) == (5_000, 1_000)
    shown = call("accounts", "show", "acme", "--json").document
    assert shown["account"]["limits"] == {"tokens-per-minute": 5_000}
    assert (shown["history"][-1]["detail"], shown["history"][-1]["actor"]) == ("tokens-per-minute=5000", "ops")
    assert "limits        tokens-per-minute=5000" in call("accounts", "show", "acme").out
    assert call("accounts", "limit", "acme", "tokens-per-minute", "--default").code == 0
    assert uses(call)["tokens-per-minute"]["amount"] == 100_000


def test_an_organization_has_its_own_amount_for_all_its_accounts(acme: Path, call: Call) -> None:
    done = call("organizations", "limit", "acme-corp", "shared-requests", "500", "--json")
    assert done.document["organization"]["limits"] == {"shared-requests": 500}
    assert uses(call)["shared-requests"]["amount"] == 500
    assert "shared-requests=500" in call("organizations", "list").out
    assert call("organizations", "limit", "acme-corp", "shared-requests", "--default").code == 0
    assert uses(call)["shared-requests"]["amount"] == 50


def test_a_grant_that_enlarges_a_limit_shows(acme: Path, call: Call) -> None:
    done = call("accounts", "grant", "acme", "research", "--reason", "r", "--limit", "tokens-per-minute=300000", "--limit", "nothing=5")
    assert (done.code, "no limit nothing" in done.err) == (0, True)
    assert uses(call)["tokens-per-minute"]["amount"] == 300_000


@pytest.mark.parametrize("noun", ["accounts", "organizations"])
@pytest.mark.parametrize(
    "arguments",
    [("tokens-per-minute",), ("tokens-per-minute", "5", "--default"), ("tokens-per-day", "5"), ("tokens-per-minute", "-5"), ("", "5")],
)
def test_a_limit_is_one_of_the_settings_and_has_one_amount(acme: Path, call: Call, noun: str, arguments: tuple[str, ...]) -> None:
    done = call(noun, "limit", "acme" if noun == "accounts" else "acme-corp", *arguments)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert call("accounts", "show", "acme", "--json").document["account"]["limits"] == {}


def test_an_amount_of_a_limit_that_is_gone_can_be_taken_away(acme: Path, call: Call) -> None:
    call("accounts", "limit", "acme", "concurrent", "9")
    settings = acme / "tos-guard.toml"
    settings.write_text(settings.read_text().replace('id = "concurrent"', 'id = "slots"'))
    assert call("accounts", "limit", "acme", "concurrent", "5").code == 2
    assert call("accounts", "limit", "acme", "concurrent", "--default").code == 0


def test_use_that_each_server_counts_alone_cannot_be_told_here(acme: Path, call: Call) -> None:
    settings = acme / "tos-guard.toml"
    settings.write_text('limits_shared_by = "process"\n' + settings.read_text())
    done = call("accounts", "usage", "acme")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "limits_shared_by" in done.err


def test_without_limits_or_account_it_is_said(provider: Path, call: Call) -> None:
    assert call("accounts", "usage", "nobody").code == 2
    call("accounts", "add", "acme")
    done = call("accounts", "usage", "acme")
    assert (done.code, done.out) == (0, "")
    assert "no limits" in done.err
