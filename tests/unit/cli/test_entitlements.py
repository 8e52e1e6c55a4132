"""`tos-guard entitlements`: ask now, see how things stand, take back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outside_systems import OutsideSystem, serve_outside, write

Call = Callable[..., Any]


@pytest.fixture
def system() -> Iterator[OutsideSystem]:
    with serve_outside() as served:
        yield served


@pytest.fixture
def crm(provider: Path, call: Call, system: OutsideSystem, monkeypatch: pytest.MonkeyPatch) -> OutsideSystem:
    """A provider with a source, and the account acme."""
    settings = provider / "tos-guard.toml"
    source = f'\n[[entitlements]]\nname = "crm"\nurl = "{system.url}"\ntoken = "env:CRM_TOKEN"\n'
    settings.write_text(settings.read_text() + source)
    monkeypatch.setenv("CRM_TOKEN", "a-token")
    call("accounts", "add", "acme", "--region", "DE")
    return system


def test_a_source_is_asked_now(crm: OutsideSystem, call: Call) -> None:
    crm.say(acme={"models": ["small"]}, nobody={})
    done = call("entitlements", "pull", "crm")
    assert (done.code, done.out) == (0, "crm  applied: 1 accounts changed, 1 skipped\n")
    assert "nobody: unknown account" in done.err
    assert crm.asked[0]["authorization"] == "Bearer a-token"
    shown = call("accounts", "show", "acme", "--json").document["account"]
    assert (shown["models"], shown["region"]) == (["small"], "DE")
    again = call("entitlements", "pull", "crm", "--json").document
    assert (again["outcome"], again["changed"], again["skipped"]) == ("applied", [], {"nobody": "unknown account"})


def test_how_it_stands_is_shown(crm: OutsideSystem, call: Call) -> None:
    crm.say(acme={"models": ["small"]})
    call("entitlements", "pull", "crm")
    crm.handler = lambda request: write(request, 503)
    failed = call("entitlements", "pull", "crm")
    assert failed.code == 3
    assert "status 503" in failed.err
    state = call("entitlements", "show", "--json").document["sources"][0]
    assert (state["source"], state["accounts"], state["lapsed"], state["etag"]) == ("crm", 1, False, crm.etag)
    assert "status 503" in state["failure"]
    assert "status 503" in call("entitlements", "show").out


def test_all_that_it_gave_is_taken_back(crm: OutsideSystem, call: Call, provider: Path) -> None:
    crm.say(acme={"models": ["small"]})
    call("entitlements", "pull", "crm")
    settings = provider / "tos-guard.toml"
    settings.write_text(settings.read_text().partition("\n[[entitlements]]")[0])
    assert call("entitlements", "pull", "crm").code == 2
    assert call("entitlements", "show").code == 2
    done = call("entitlements", "withdraw", "crm")
    assert (done.code, done.out) == (0, "crm  withdrawn: 1 accounts changed, 0 skipped\n")
    assert call("accounts", "show", "acme", "--json").document["account"]["models"] == []


def test_an_unknown_source_and_a_missing_token_are_told(crm: OutsideSystem, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("entitlements", "pull", "erp")
    assert (done.code, "The settings have: crm" in done.err) == (2, True)
    monkeypatch.delenv("CRM_TOKEN")
    done = call("entitlements", "pull", "crm")
    assert (done.code, "env:CRM_TOKEN" in done.err) == (2, True)
    assert crm.asked == []
