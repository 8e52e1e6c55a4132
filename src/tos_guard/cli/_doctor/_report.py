"""The checks of one examination, in words and as a document."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

from tos_guard.cli._doctor._check import Check, Level
from tos_guard.cli._output import plain, show, show_json

__all__ = ["FOUND", "exit_code", "show_report"]

FOUND: Final = 1
"""Exit code where there are problems."""

_SIGNS: Final = {Level.OK: ("✓", "+"), Level.WARNING: ("!", "!"), Level.PROBLEM: ("✗", "x")}
_STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def exit_code(checks: Iterable[Check]) -> int:
    """1 where there is a problem; warnings alone are none."""
    return FOUND if any(check.level is Level.PROBLEM for check in checks) else 0


def show_report(checks: list[Check], *, as_json: bool) -> None:
    """Show all checks, in the order in which they were made."""
    counts = {level: sum(check.level is level for check in checks) for level in Level}
    if as_json:
        show_json({"problems": counts[Level.PROBLEM], "warnings": counts[Level.WARNING], "checks": [_document(check) for check in checks]})
        return
    number = _sign_number()
    for check in checks:
        at = f"{check.where}: " if check.where else ""
        show((f"{_SIGNS[check.level][number]} {check.level:<7}  {check.code}  {plain(at + check.what)}", _STYLES[check.level]))
        if check.cure:
            show(f"    {plain(check.cure)}")
    show("", f"{counts[Level.PROBLEM]} problems, {counts[Level.WARNING]} warnings, {counts[Level.OK]} checks in order")


def _document(check: Check) -> dict[str, Any]:
    return {"code": check.code, "level": check.level.value, "what": check.what, "where": check.where, "cure": check.cure}


def _sign_number() -> int:
    """Which of the two signs the terminal can show."""
    try:
        "".join(signs[0] for signs in _SIGNS.values()).encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return 1
    return 0
