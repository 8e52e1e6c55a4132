"""What a check came to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Check", "Level", "ok", "problem", "warning"]


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and may not do what was meant."""
    PROBLEM = "problem"
    """It does not work, or not as promised."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        code: Stable word: what was looked at where all is well, what is wrong where not.
        level: How bad it is.
        what: What was found.
        where: At what: a file, a setting, a middleware, an address.
        cure: What to do about it; empty where all is well.
    """

    code: str
    level: Level
    what: str
    where: str = ""
    cure: str = ""


def ok(code: str, what: str, where: str = "") -> Check:
    """All is well."""
    return Check(code, Level.OK, what, where)


def warning(code: str, what: str, *, where: str = "", cure: str) -> Check:
    """It may not do what was meant."""
    return Check(code, Level.WARNING, what, where, cure)


def problem(code: str, what: str, *, where: str = "", cure: str) -> Check:
    """It does not work, or not as promised."""
    return Check(code, Level.PROBLEM, what, where, cure)
