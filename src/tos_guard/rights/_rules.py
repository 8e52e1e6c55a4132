"""The clauses of one action, folded for one kind of account and indexed by the facts they ask for.

What is left of a clause is a conjunction of checks: all of its `when`, and none of its `unless`. Three values make it false when one
check fails, else unknown when one fact is (DESIGN D2). A clause that asks for a fact to be one of some values is found under these, and
under unknown, so a decision evaluates few of the clauses that do not concern it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Final

from tos_guard.terms import Clause, Condition, Effect, Scope, TermsVersion
from tos_guard.types import Facts, Reason, Standing

__all__ = ["Group", "Rules", "compile_rules", "kinds_in"]

_OF_ACCOUNT: Final = frozenset({"kind", "standing", "grant"})

Test = Callable[[Facts], Reason | None]
"""Gives the reason of a clause that counts for these facts, or None."""

Check = tuple[str, frozenset[str], bool]
"""A fact, values, and whether it must be one of them."""

Entry = tuple[int, Test, tuple[str, ...]]
"""Place of a clause in the terms, its test, and what goes with it: duties, or kinds of grants."""

_place: Final = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Group:
    """Clauses that do the same, indexed."""

    always: tuple[Entry, ...]
    """Must be asked whatever the facts are."""
    keyed: tuple[tuple[str, Mapping[str | None, tuple[Entry, ...]]], ...]
    """By fact and value; under None stand all of a fact, since any may count when it is unknown."""

    @classmethod
    def of(cls, clauses: Iterable[tuple[int, Clause, tuple[Check, ...], tuple[str, ...]]], *, unknown_counts: bool) -> Group:
        """The group of these clauses, each with its place, its checks and what goes with it."""
        always: list[Entry] = []
        keyed: dict[str, dict[str | None, list[Entry]]] = {}
        for place, clause, checks, words in clauses:
            entry = (place, _test(clause, checks, unknown_counts), words)
            key = next(((fact, values) for fact, values, inside in checks if inside), None)
            if key is None:
                always.append(entry)
            else:
                fact, values = key
                table = keyed.setdefault(fact, {})
                for value in (*values, None):
                    table.setdefault(value, []).append(entry)
        tables = {fact: {value: tuple(entries) for value, entries in table.items()} for fact, table in keyed.items()}
        return cls(tuple(always), tuple(tables.items()))

    def counting(self, facts: Facts) -> list[tuple[int, Reason, tuple[str, ...]]]:
        """The clauses that count, in the order of the terms: place, reason, and what goes with each."""
        found = [(place, reason, words) for place, test, words in self.always if (reason := test(facts)) is not None]
        for fact, table in self.keyed:
            for place, test, words in table.get(getattr(facts, fact), ()):
                if (reason := test(facts)) is not None:
                    found.append((place, reason, words))
        if len(found) > 1:
            found.sort(key=_place)
        return found


@dataclass(frozen=True, slots=True)
class Rules:
    """The clauses of one action.

    Attributes:
        prohibitions: Any of them forbids.
        permissions: One is needed; each with the kinds of grants without which it would not count.
        obligations: With their duties.
        shadowed: Report only. Those that count when unknown, and permissions.
        lifted: Prohibitions that would count but for grants, with the kinds of these.
        possible: The permissions once more, counting when unknown: they tell what a denial lacked.
    """

    prohibitions: Group
    permissions: Group
    obligations: Group
    shadowed: tuple[Group, ...]
    lifted: Group
    possible: Group


@lru_cache(maxsize=1024)
def compile_rules(terms: TermsVersion, kind: str, standing: Standing, grants: frozenset[str]) -> Mapping[str, Rules]:
    """Rules by action. All accounts of which the same is known share them."""
    known: dict[str, str | frozenset[str]] = {"kind": kind, "standing": standing.value, "grant": grants}
    ungranted = known | {"grant": frozenset[str]()}
    clauses = [
        (place, clause, _fold(clause, known), _fold(clause, ungranted), tuple(sorted(kinds_in(clause) & grants)))
        for place, clause in enumerate(terms.clauses)
        if clause.scope is Scope.REQUEST
    ]

    def rules(action: str) -> Rules:
        concerned = [item for item in clauses if action in item[1].actions]
        live = [(place, clause, checks, without, kinds) for place, clause, checks, without, kinds in concerned if checks is not None]

        def group(effects: set[Effect], *, shadow: bool = False, unknown_counts: bool = True) -> Group:
            chosen = [item for item in live if item[1].effect in effects and item[1].shadow is shadow]
            return Group.of(
                (
                    (place, clause, checks, clause.duties or (kinds if without is None else ()))
                    for place, clause, checks, without, kinds in chosen
                ),
                unknown_counts=unknown_counts,
            )

        shadowed = (
            group({Effect.PROHIBIT, Effect.OBLIGE}, shadow=True),
            group({Effect.PERMIT}, shadow=True, unknown_counts=False),
        )
        return Rules(
            prohibitions=group({Effect.PROHIBIT}),
            permissions=group({Effect.PERMIT}, unknown_counts=False),
            obligations=group({Effect.OBLIGE}),
            shadowed=tuple(found for found in shadowed if found.always or found.keyed),
            lifted=Group.of(
                (
                    (place, clause, without, kinds)
                    for place, clause, checks, without, kinds in concerned
                    if clause.effect is Effect.PROHIBIT and not clause.shadow and checks is None and without is not None
                ),
                unknown_counts=True,
            ),
            possible=group({Effect.PERMIT}),
        )

    return {action: rules(action) for action in {action for _, clause, *_ in clauses for action in clause.actions}}


def kinds_in(clause: Clause) -> frozenset[str]:
    """The kinds of grants that a clause asks for."""
    return frozenset(value for condition in (*clause.when, *clause.unless) if condition.fact == "grant" for value in condition.values)


def _fold(clause: Clause, known: Mapping[str, str | frozenset[str]]) -> tuple[Check, ...] | None:
    """What is left to check of a clause once the account is known, or None if it can never apply."""
    for condition in clause.when:
        if condition.fact in _OF_ACCOUNT and not condition.holds(known[condition.fact]):
            return None
    for condition in clause.unless:
        if condition.fact in _OF_ACCOUNT and condition.holds(known[condition.fact]):
            return None
    required = (_check(condition, wanted=True) for condition in clause.when if condition.fact not in _OF_ACCOUNT)
    lifting = (_check(condition, wanted=False) for condition in clause.unless if condition.fact not in _OF_ACCOUNT)
    return (*required, *lifting)


def _check(condition: Condition, *, wanted: bool) -> Check:
    """A condition as a check that must pass for the clause to apply: a lifting one must fail."""
    return condition.fact, condition.values, condition.negated is not wanted


def _test(clause: Clause, checks: tuple[Check, ...], unknown_counts: bool) -> Test:
    usual = Reason("tos_clause", clause.id, shadow=clause.shadow)
    if not checks:
        return lambda _: usual

    made: dict[tuple[str, ...], Reason] = {}  # at most one for each set of unknown facts

    def test(facts: Facts) -> Reason | None:
        unknown: tuple[str, ...] = ()
        for fact, values, inside in checks:
            value = getattr(facts, fact)
            if value is None:
                unknown = (*unknown, fact)
            elif (value in values) is not inside:
                return None
        if not unknown:
            return usual
        if not unknown_counts:
            return None
        reason = made.get(unknown)
        if reason is None:
            reason = made[unknown] = Reason(usual.code, usual.clause, tuple(sorted(set(unknown))), usual.shadow)
        return reason

    return test
