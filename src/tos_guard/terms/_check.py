"""What is odd about a terms document, and what a bare request would get: for `tos-guard terms check`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from tos_guard.terms._actions import Scope
from tos_guard.terms._clause import ASSERTED_FACTS, Clause, Condition, Effect
from tos_guard.terms._document import Problem, TermsVersion, read_document
from tos_guard.types import UNDECLARED, Standing

__all__ = ["BareRequest", "Finding", "bare_requests", "check_terms"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `check_terms` found.

    Attributes:
        severity: An ``error`` makes the terms unusable; a ``warning`` makes them likely not to mean what was meant.
        code: Stable word: ``unknown-action``, ``unreachable``, ``contradictory``, ….
        message: What, for people.
        file: Name of the document.
        line: Line in it.
        clause: Id of the clause, where there is one.
    """

    severity: Literal["error", "warning"]
    code: str
    message: str
    file: str
    line: int
    clause: str | None = None


@dataclass(frozen=True, slots=True)
class BareRequest:
    """What a request that declares nothing gets.

    Attributes:
        kind: Kind of the account.
        action: What is asked for.
        asserted: ``known`` where the provider's facts are known to be of no clause's concern, ``unknown`` where their source failed.
        allowed: The answer.
        clauses: Ids of the clauses that decide.
    """

    kind: str
    action: str
    asserted: Literal["known", "unknown"]
    allowed: bool
    clauses: tuple[str, ...]


def check_terms(document: bytes, text: bytes, *, where: str = "terms.toml") -> tuple[Finding, ...]:
    """Everything that is wrong or odd about a terms document, in the order of its lines.

    Raises:
        TermsError: It is not TOML or not UTF-8, so that nothing can be said of it.
    """
    terms, problems = read_document(document, text, where=where)
    findings = [Finding("error", p.code, p.message, where, p.line, p.clause) for p in problems]
    if terms is not None:
        findings += [Finding("warning", p.code, p.message, where, p.line, p.clause) for p in _odd(terms)]
    return tuple(sorted(findings, key=lambda finding: (finding.line, finding.severity)))


def _odd(terms: TermsVersion) -> Iterable[Problem]:
    deciding = [clause for clause in terms.clauses if not clause.shadow]
    for clause in terms.clauses:
        if _is_impossible(clause):
            yield Problem("unreachable", f"clause {clause.id}: its conditions can never all hold", clause.line, clause.id)
        if clause.effect is not Effect.PROHIBIT:
            yield from _covered(clause, deciding)
    permitted = {action for clause in deciding if clause.effect is Effect.PERMIT for action in clause.actions}
    if not any(terms.actions[action].scope is Scope.REQUEST for action in permitted if action in terms.actions):
        yield Problem("no-permission", "no clause permits any request, so every request is denied", 1)
    used = {value for clause in terms.clauses for c in (*clause.when, *clause.unless) if c.fact == "grant" for value in c.values}
    for grant in terms.grants:
        if grant.id not in used:
            yield Problem("unused-grant", f"grant {grant.id} changes nothing: no clause asks for it", 1)


def _covered(clause: Clause, deciding: list[Clause]) -> Iterable[Problem]:
    """A permission is void where prohibitions that always apply with it cover all its actions."""
    stronger = [other for other in deciding if other.effect is Effect.PROHIBIT and _implied(other, clause)]
    covered = {action for other in stronger for action in other.actions} & set(clause.actions)
    if not covered:
        return
    names = ", ".join(other.id for other in stronger if covered & set(other.actions))
    same = any((other.when, other.unless) == (clause.when, clause.unless) for other in stronger)
    code = "contradictory" if same else "unreachable"
    verb = (
        "permits what is prohibited under the same conditions"
        if same
        else "never has an effect, since it is prohibited whenever it applies"
    )
    if covered == set(clause.actions) or same:
        yield Problem(code, f"clause {clause.id}: {verb} by {names}", clause.line, clause.id)


def _implied(prohibition: Clause, clause: Clause) -> bool:
    """Whether the prohibition applies whenever the clause does: each of its conditions is one that the clause asks for too."""
    return all(any(_is_within(mine, needed) for mine in clause.when) for needed in prohibition.when) and all(
        lifting in clause.unless for lifting in prohibition.unless
    )


def _is_within(narrow: Condition, wide: Condition) -> bool:
    if narrow.fact != wide.fact or narrow.negated != wide.negated:
        return False
    return narrow.values >= wide.values if narrow.negated else narrow.values <= wide.values


def _is_impossible(clause: Clause) -> bool:
    for condition in clause.when:
        if any(_is_within(condition, lifting) for lifting in clause.unless):
            return True
        for other in clause.when:
            if condition.fact != other.fact or condition.fact == "grant" or condition.negated:
                continue
            if other.negated and condition.values <= other.values:
                return True
            if not other.negated and condition.values.isdisjoint(other.values):
                return True
    return False


_NO_ONE: Final = "\0"  # a known value that is in no clause


def bare_requests(terms: TermsVersion, *, kinds: Collection[str] = ("default",)) -> tuple[BareRequest, ...]:
    """What a request that declares nothing gets, for each kind of account and action, with asserted facts known and unknown."""
    rows = []
    actions = [name for name, action in terms.actions.items() if action.scope is Scope.REQUEST]
    named = {value for c in terms.clauses for x in (*c.when, *c.unless) if x.fact == "kind" for value in x.values}
    for kind in sorted({*kinds, *named}):
        for action in actions:
            for asserted in ("known", "unknown") if terms.required_facts else ("known",):
                rows.append(_bare(terms, kind, action, asserted))  # noqa: PERF401 - three loops read better than one comprehension
    return tuple(rows)


def _bare(terms: TermsVersion, kind: str, action: str, asserted: Literal["known", "unknown"] | str) -> BareRequest:
    facts: dict[str, str | Collection[str] | None] = {
        "model": _NO_ONE,
        "purpose": UNDECLARED,
        "channel": "api",
        "kind": kind,
        "standing": Standing.GOOD.value,
        "grant": (),
        **dict.fromkeys(ASSERTED_FACTS, _NO_ONE if asserted == "known" else None),
    }
    concerned = [c for c in terms.clauses if c.scope is Scope.REQUEST and not c.shadow and action in c.actions and c.counts(facts)]
    forbidding = tuple(c.id for c in concerned if c.effect is Effect.PROHIBIT)
    permitting = tuple(c.id for c in concerned if c.effect is Effect.PERMIT)
    known: Literal["known", "unknown"] = "known" if asserted == "known" else "unknown"
    return BareRequest(kind, action, known, bool(permitting) and not forbidding, forbidding or permitting)
