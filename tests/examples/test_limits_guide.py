"""What docs/guides/limits.md shows is what the library does: its program runs, and its settings are limits."""

from __future__ import annotations

import re
from pathlib import Path

from tos_guard.config import parse_settings
from tos_guard.guard import limits_of
from tos_guard.limits import Calendar, Quantity, Sliding

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "limits.md").read_text(encoding="utf-8")
HEAD = 'issuer = "https://a.example"\nterms = "t.toml"\nstore = "s.db"\nkeys = "k"\nroutes = { "/v1/chat/completions" = "openai-chat" }\n'


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return str(found)


def test_the_program_runs() -> None:
    exec(compile(block("python"), "limits.md", "exec"), {})


def test_the_settings_are_limits() -> None:
    """The stricter twin in shadow counts what the live limit counts."""
    minute, month, running, twin = limits_of(parse_settings((HEAD + block("toml")).encode()))
    assert (minute.window, minute.burst) == (Sliding(60), 50_000)
    assert (month.quantity, month.window) == (Quantity.COST, Calendar("month", "Europe/Berlin"))
    assert running.window is None
    assert twin.shadow
    assert twin.counted == minute.counted
