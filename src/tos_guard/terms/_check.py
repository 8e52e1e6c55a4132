"""What is odd about a terms document, and what a bare request would get: for `tos-guard terms check`.

Where a clause applies is a box: for each fact a set of values, finite or all but finitely many. A clause whose box is empty never
applies; a permission or obligation inside prohibitions' boxes never has an effect. Each action is compared with single prohibitions,
not with unions of them, so a clean check does not prove that every clause matters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tos_guard.terms._actions import Scope
from tos_guard.terms._clause import ASSERTED_FACTS, Clause, Condition, Effect
from tos_guard.terms._document import GENERAL, AcceptanceRule, Problem, TermsVersion, read_document
from tos_guard.terms._lines import Lines
from tos_guard.terms._shelf import TermsShelf, TermsStack
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


def check_terms(
    document: bytes,
    text: bytes,
    *,
    where: str = "terms.toml",
    sources: Collection[str] | None = None,
    beside: TermsShelf | None = None,
) -> tuple[Finding, ...]:
    """Everything that is wrong or odd about a terms document, in the order of its lines.

    Args:
        document: The TOML file.
        text: The text people read.
        where: Name of the document, for findings.
        sources: Asserted facts (``region``, ``verification``) that the provider has a source for; None when that is not known here.
        beside: The terms published so far, beside which it will hold; None when they are not at hand.

    Raises:
        TermsError: It is not TOML or not UTF-8, so that nothing can be said of it.
    """
    terms, problems = read_document(document, text, where=where)
    findings = [Finding("error", p.code, p.message, where, p.line, p.clause) for p in problems]
    if terms is not None:
        lines = Lines(document.decode("utf-8"))
        wrong = (*_without_source(terms, sources), *(_unfit(terms, beside, lines) if beside is not None else ()))
        findings += [Finding("error", p.code, p.message, where, p.line, p.clause) for p in wrong]
        findings += [Finding("warning", p.code, p.message, where, p.line, p.clause) for p in (*_odd(terms), *_odd_header(terms, lines))]
    return tuple(sorted(findings, key=lambda finding: (finding.line, finding.severity)))


def _without_source(terms: TermsVersion, sources: Collection[str] | None) -> Iterable[Problem]:
    for clause in terms.clauses if sources is not None else ():
        for fact in sorted({c.fact for c in (*clause.when, *clause.unless)} & ASSERTED_FACTS - set(sources or ())):
            message = f"clause {clause.id}: asks for {fact}, which has no source, so the guard will not start"
            yield Problem("fact-without-source", message, clause.line, clause.id)


def _unfit(terms: TermsVersion, beside: TermsShelf, lines: Lines) -> Iterable[Problem]:
    """What does not fit the terms that are published already."""
    earlier = [other for other in beside.versions_of(terms.series) if other.version != terms.version]
    if any(other.organization != terms.organization for other in earlier):
        message = f"[terms] organization: series {terms.series} is for {earlier[-1].organization or 'all'}, and stays so"
        yield Problem("series-changed", message, lines.of(("terms", "organization")))
    if earlier and earlier[-1].effective > terms.effective:
        message = f"[terms] effective: before version {earlier[-1].version} of the series, so this one would be set aside by it"
        yield Problem("out-of-order", message, lines.of(("terms", "effective")))
    general = _general_beside(terms, beside)
    if general is None or terms.series == GENERAL:
        return
    for name in sorted(terms.replaces - {clause.id for clause in general.clauses}):
        yield Problem(
            "unknown-clause",
            f"[terms] replaces: the general terms {general.version} have no clause {name}",
            lines.of(("terms", "replaces")),
        )
    for position, declared in enumerate(terms.document.get("action", ())):
        action, known = terms.actions[declared["id"]], general.actions.get(declared["id"])
        if known is not None and known.scope is not action.scope:
            message = f"action {action.id} is of scope {action.scope} here, and of {known.scope} in the general terms"
            yield Problem("action-differs", message, lines.of(("action", position)))


def _general_beside(terms: TermsVersion, beside: TermsShelf) -> TermsVersion | None:
    """The general terms in effect when *terms* begin, or the first to come."""
    versions = beside.versions_of(GENERAL)
    begun = [general for general in versions if general.effective <= terms.effective]
    return begun[-1] if begun else next(iter(versions), None)


def _odd_header(terms: TermsVersion, lines: Lines) -> Iterable[Problem]:
    """Members of ``[terms]`` that likely do not mean what was meant."""
    if terms.organization is not None and terms.acceptance is AcceptanceRule.NONE:
        message = "[terms] acceptance: binds an organization without anyone having accepted for it; a contract says 'required'"
        yield Problem("contract-without-acceptance", message, lines.of(("terms", "organization")))
    if terms.organization is not None and terms.organization in terms.series:
        message = "[terms] series: names the organization, and goes into the tokens of its outputs with each of its clauses"
        yield Problem("series-names-organization", message, lines.of(("terms", "series")))
    if terms.grace_days and (terms.acceptance is AcceptanceRule.NONE or not terms.material):
        message = "[terms] grace_days: has no effect where no new acceptance is asked for"
        yield Problem("grace-without-effect", message, lines.of(("terms", "grace_days")))


def _odd(terms: TermsVersion) -> Iterable[Problem]:
    boxes = [(clause, _Box.of(clause)) for clause in terms.clauses]
    prohibitions = [(clause, box) for clause, box in boxes if clause.effect is Effect.PROHIBIT and not clause.shadow]
    for position, (clause, box) in enumerate(boxes):
        if box.is_empty():
            yield Problem("unreachable", f"clause {clause.id}: its conditions can never all hold", clause.line, clause.id)
        elif clause.effect is not Effect.PROHIBIT:
            yield from _forbidden(clause, box, prohibitions)
        else:
            earlier = [other for other, outer in prohibitions if other in terms.clauses[:position] and box.within(outer)]
            if set(clause.actions) <= {action for other in earlier for action in other.actions}:
                yield Problem("redundant", f"clause {clause.id}: already prohibited by {_named(earlier)}", clause.line, clause.id)
    permits = [clause for clause in terms.clauses if clause.effect is Effect.PERMIT and not clause.shadow]
    if terms.series == GENERAL and not any(clause.scope is Scope.REQUEST for clause in permits):
        yield Problem("no-permission", "no clause permits any request, so every request is denied", 1)
    used = {value for clause in terms.clauses for c in (*clause.when, *clause.unless) if c.fact == "grant" for value in c.values}
    for grant in terms.grants:
        if grant.id not in used:
            yield Problem("unused-grant", f"grant {grant.id} changes nothing: no clause asks for it", grant.line)


def _forbidden(clause: Clause, box: _Box, prohibitions: Sequence[tuple[Clause, _Box]]) -> Iterable[Problem]:
    """A permission or obligation is void where prohibitions apply whenever it does."""
    covering = [(other, outer) for other, outer in prohibitions if set(other.actions) & set(clause.actions) and box.within(outer)]
    same = [other for other, outer in covering if outer.within(box)]
    verb = "permits" if clause.effect is Effect.PERMIT else "attaches duties to"
    if same:
        message = f"clause {clause.id}: {verb} what is prohibited under the same conditions by {_named(same)}"
        yield Problem("contradictory", message, clause.line, clause.id)
    elif set(clause.actions) <= {action for other, _ in covering for action in other.actions}:
        message = f"clause {clause.id}: never has an effect, since what it {verb} is prohibited whenever it applies by "
        yield Problem("unreachable", message + _named([other for other, _ in covering]), clause.line, clause.id)


def _named(clauses: Iterable[Clause]) -> str:
    return ", ".join(f"{clause.id} (line {clause.line})" for clause in clauses)


_BARRED: Final = frozenset({Standing.SUSPENDED, Standing.TERMINATED})
"""Standings in which no clause is asked."""


@dataclass(frozen=True, slots=True)
class _Box:
    """Where a clause applies.

    Attributes:
        facts: What each fact must be, as one condition.
        grants: What is asked of grants. An account has any number of them, so these conditions do not merge into one.
    """

    facts: Mapping[str, Condition]
    grants: tuple[Condition, ...]

    @classmethod
    def of(cls, clause: Clause) -> _Box:
        """All of `when`, and none of `unless`."""
        facts: dict[str, Condition] = {}
        grants: list[Condition] = []
        for condition in (*clause.when, *(Condition(c.fact, c.values, not c.negated) for c in clause.unless)):
            if condition.fact == "grant":
                grants.append(condition)
            else:
                known = facts.get(condition.fact)
                facts[condition.fact] = condition if known is None else _both(known, condition)
        return cls(facts, tuple(grants))

    def is_empty(self) -> bool:
        """Whether the clause can never apply."""
        standing = self.facts.get("standing")
        if standing is not None and not any(standing.holds(one.value) for one in Standing if one not in _BARRED):
            return True
        if any(not condition.values and not condition.negated for condition in self.facts.values()):
            return True
        return any(one.values <= other.values for one in self.grants if not one.negated for other in self.grants if other.negated)

    def within(self, other: _Box) -> bool:
        """Whether the other clause applies wherever this one does."""
        of_facts = all(fact in self.facts and _implies(self.facts[fact], condition) for fact, condition in other.facts.items())
        return of_facts and all(any(_implies(mine, theirs) for mine in self.grants) for theirs in other.grants)


def _both(one: Condition, other: Condition) -> Condition:
    """What holds of a fact for which both hold."""
    match one.negated, other.negated:
        case False, False:
            return Condition(one.fact, one.values & other.values)
        case False, True:
            return Condition(one.fact, one.values - other.values)
        case True, False:
            return Condition(one.fact, other.values - one.values)
        case _:
            return Condition(one.fact, one.values | other.values, negated=True)


def _implies(one: Condition, other: Condition) -> bool:
    """Whether *other* holds wherever *one* does."""
    match one.negated, other.negated:
        case False, False:
            return one.values <= other.values
        case True, True:
            return other.values <= one.values
        case False, True:
            return one.fact != "grant" and one.values.isdisjoint(other.values)
        case _:
            return False


_NO_ONE: Final = "\0"  # a known value that is in no clause


def bare_requests(terms: TermsVersion | TermsStack, *, kinds: Collection[str] = ("default",)) -> tuple[BareRequest, ...]:
    """What a request that declares nothing gets, for each kind of account and action, with asserted facts known and unknown."""
    rows = []
    actions = [name for name, action in terms.actions.items() if action.scope is Scope.REQUEST]
    named = {value for c in terms.clauses for x in (*c.when, *c.unless) if x.fact == "kind" for value in x.values}
    for kind in sorted({*kinds, *named}):
        for action in actions:
            rows.append(_bare(terms, kind, action, "known"))
            if terms.required_facts:
                rows.append(_bare(terms, kind, action, "unknown"))
    return tuple(rows)


def _bare(terms: TermsVersion | TermsStack, kind: str, action: str, asserted: Literal["known", "unknown"]) -> BareRequest:
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
    return BareRequest(kind, action, asserted, bool(permitting) and not forbidding, forbidding or permitting)
