"""Clauses and their conditions, with three values (DESIGN D2): True, False, and None for unknown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tos_guard.terms._actions import Scope

__all__ = ["ASSERTED_FACTS", "CLAUSE_FACTS", "Clause", "Condition", "Effect"]

CLAUSE_FACTS: Final = ("model", "purpose", "region", "verification", "channel", "kind", "standing", "grant")
"""What a condition may ask for. ``kind``, ``standing`` and ``grant`` are of the account, the others of the request."""

ASSERTED_FACTS: Final = frozenset({"region", "verification"})
"""Facts that the provider asserts: they need a source, and are unknown where it fails."""


class Effect(StrEnum):
    """What a clause does (ODRL's three)."""

    PERMIT = "permit"
    PROHIBIT = "prohibit"
    OBLIGE = "oblige"


@dataclass(frozen=True, slots=True)
class Condition:
    """One fact compared with values.

    Attributes:
        fact: Name of the fact.
        values: What it is compared with.
        negated: Whether it must *not* be one of them.
    """

    fact: str
    values: frozenset[str]
    negated: bool = False

    def holds(self, value: str | Collection[str] | None) -> bool | None:
        """Whether a fact of this value meets the condition; None for unknown. A set (grants) meets it by any member."""
        if value is None:
            return None
        found = value in self.values if isinstance(value, str) else not self.values.isdisjoint(value)
        return found is not self.negated


@dataclass(frozen=True, slots=True)
class Clause:
    """One permission, prohibition or obligation.

    Attributes:
        id: Short name, stable across versions where the meaning is; in a `TermsStack` after its series, as in ``contract-7/no-resale``.
        effect: What it does.
        actions: Which actions it speaks of; all of one scope.
        scope: Of the actions.
        when: All of these must hold for the clause to apply.
        unless: Any of these lifts it.
        shadow: It reports, and does not decide.
        text: What it says, in a sentence.
        duties: What an obligation asks of the response.
        line: Where it stands in the document.
    """

    id: str
    effect: Effect
    actions: tuple[str, ...]
    scope: Scope
    when: tuple[Condition, ...] = ()
    unless: tuple[Condition, ...] = ()
    shadow: bool = False
    text: str = ""
    duties: tuple[str, ...] = ()
    line: int = field(default=0, compare=False)

    def applies(self, facts: Mapping[str, str | Collection[str] | None]) -> bool | None:
        """Whether the clause applies to these facts; None for unknown. A missing fact is unknown."""
        required = _all(condition.holds(facts.get(condition.fact)) for condition in self.when)
        lifted = _any(condition.holds(facts.get(condition.fact)) for condition in self.unless)
        return _all((required, None if lifted is None else not lifted))

    def counts(self, facts: Mapping[str, str | Collection[str] | None]) -> bool:
        """Whether the clause takes effect: unknown counts in a prohibition or obligation, and not in a permission."""
        applies = self.applies(facts)
        return applies is True or (applies is None and self.effect is not Effect.PERMIT)


def _all(values: Iterable[bool | None]) -> bool | None:
    unknown = False
    for value in values:
        if value is False:
            return False
        unknown |= value is None
    return None if unknown else True


def _any(values: Iterable[bool | None]) -> bool | None:
    unknown = False
    for value in values:
        if value is True:
            return True
        unknown |= value is None
    return None if unknown else False
