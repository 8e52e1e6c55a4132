"""What docs/guides/fleet.md shows is what the library does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tos_guard.config import parse_settings
from tos_guard.protocols import AccountSource, HeardVersion
from tos_guard.telemetry._words import INSTRUMENTS

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "fleet.md").read_text(encoding="utf-8")
HEAD = 'issuer = "https://a.example"\nterms = "t.toml"\nkeys = "k"\nroutes = { "/v1/chat/completions" = "openai-chat" }\n'


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return str(found)


def test_the_settings_are_those_of_a_fleet() -> None:
    settings = parse_settings((HEAD + block("toml")).encode())
    assert settings.limits_shared_by == "fleet"
    environment = {"TOS_GUARD_STORE": "postgresql://db/tos", "TOS_GUARD_VALKEY": "rediss://valkey:6379/0"}
    assert settings.valkey is not None
    assert settings.valkey.url.resolve(environment) == environment["TOS_GUARD_VALKEY"]


def test_accounts_of_a_host_hear_of_changes(valkey: str) -> None:
    """The class that the guide shows is a source of accounts, and what it hears with is found."""
    names: dict[str, Any] = {}
    exec(compile(block("python"), "fleet.md", "exec"), names)
    accounts, other = names["Accounts"](valkey), names["Accounts"](valkey)
    assert isinstance(accounts, AccountSource)
    assert isinstance(accounts.hearing, HeardVersion)
    before = accounts.version()
    assert other.hearing.bump() > before
    assert other.version() > before
    for each in (accounts, other):
        each.hearing.close()


def test_the_metrics_to_watch_are_metrics() -> None:
    named = set(re.findall(r"`(tos_guard\.[a-z_.]+)`", GUIDE))
    assert named <= {instrument.name for instrument in INSTRUMENTS.values()}
