"""A compiled plan decides as a reader of the clauses would, one clause after the other, with three values."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from tos_guard.rights import Account, Grant, compile_plan
from tos_guard.terms import Clause, Condition, Effect, Scope, TermsVersion
from tos_guard.types import Decision, Facts, Outcome, Standing

NOW = datetime(2026, 11, 22, tzinfo=UTC)

VALUES = {
    "model": ("small", "large"),
    "purpose": ("undeclared", "benchmark"),
    "region": ("US", "KP"),
    "verification": ("none", "email"),
    "channel": ("api", "batch"),
    "kind": ("individual", "organization"),
    "standing": ("good", "warned", "restricted"),
    "grant": ("research", "licensed-distillation"),
}

conditions = st.sampled_from(sorted(VALUES)).flatmap(
    lambda fact: st.builds(
        Condition, st.just(fact), st.frozensets(st.sampled_from(VALUES[fact]), min_size=1, max_size=2), negated=st.booleans()
    )
)


few = st.sampled_from((0, 0, 1, 1, 2)).flatmap(lambda count: st.lists(conditions, min_size=count, max_size=count))


@st.composite
def clauses(draw: st.DrawFn, position: int) -> Clause:
    effect = draw(st.sampled_from((Effect.PERMIT, Effect.PERMIT, Effect.PROHIBIT, Effect.OBLIGE)))
    return Clause(
        id=f"c-{position}",
        effect=effect,
        actions=tuple(draw(st.sets(st.sampled_from(("generate", "embed")), min_size=1))),
        scope=Scope.REQUEST,
        when=tuple(draw(few)),
        unless=tuple(draw(few)),
        shadow=draw(st.integers(0, 4)) == 0,
        duties=tuple(draw(st.sets(st.sampled_from(("seal", "watermark")), min_size=1))) if effect is Effect.OBLIGE else (),
    )


@st.composite
def terms(draw: st.DrawFn) -> TermsVersion:
    count = draw(st.integers(2, 7))
    written = tuple(draw(clauses(position)) for position in range(count))
    # Plans share rules under the digest: here each set of clauses is a version of its own.
    digest = repr(written)
    return TermsVersion(
        version="v",
        title="t",
        uri="https://api.example.com/t",
        effective=date(2026, 11, 1),
        text="t",
        text_sha256="t",
        document={},
        document_bytes=b"{}",
        sha256=digest,
        clauses=written,
        grants=(),
        actions={},
    )


grants = st.builds(
    Grant,
    id=st.sampled_from(("g-1", "g-2", "g-3")),
    type=st.sampled_from(VALUES["grant"]),
    models=st.frozensets(st.sampled_from((*VALUES["model"], "private", "*")), max_size=2),
    actions=st.frozensets(st.sampled_from(("embed", "fine-tune")), max_size=1),
    not_after=st.sampled_from((None, datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))),
)

accounts = st.builds(
    Account,
    id=st.just("acme"),
    kind=st.sampled_from(VALUES["kind"]),
    standing=st.sampled_from((*[Standing.GOOD] * 4, Standing.WARNED, Standing.RESTRICTED, Standing.SUSPENDED)),
    models=st.sampled_from((frozenset({"*"}), frozenset({"small"}), frozenset({"small", "large"}), frozenset({"*"}))),
    actions=st.sampled_from((frozenset({"*"}), frozenset({"generate"}), frozenset({"generate", "embed"}))),
    grants=st.lists(grants, max_size=3, unique_by=lambda grant: grant.id).map(tuple),
)

requests = st.builds(
    Facts,
    action=st.sampled_from((*["generate"] * 4, "embed", "embed", "fine-tune", "unheard-of")),
    model=st.sampled_from((*["small"] * 3, "large", "private")),
    purpose=st.sampled_from(VALUES["purpose"]),
    region=st.sampled_from((*VALUES["region"], None)),
    verification=st.sampled_from((*VALUES["verification"], None)),
    channel=st.sampled_from(VALUES["channel"]),
)


def kleene_and(*values: bool | None) -> bool | None:
    return False if False in values else None if None in values else True


def kleene_or(*values: bool | None) -> bool | None:
    return True if True in values else None if None in values else False


def kleene_not(value: bool | None) -> bool | None:
    return None if value is None else not value


def holds(condition: Condition, account: Account, held: set[str], facts: Facts) -> bool | None:
    if condition.fact == "grant":
        meets: bool | None = bool(held & condition.values)
    else:
        of_account = {"kind": account.kind, "standing": account.standing.value}
        value = of_account[condition.fact] if condition.fact in of_account else getattr(facts, condition.fact)
        meets = None if value is None else value in condition.values
    return kleene_not(meets) if condition.negated else meets


Said = tuple[str, list[str], list[str], set[str], set[str]]


def naive(account: Account, terms: TermsVersion, facts: Facts) -> Said:
    """Outcome or code of the denial, deciding clauses, shadowed ones, unknown facts of the deciding ones, duties."""
    said = by_rights(account, terms, facts)
    if account.standing is Standing.RESTRICTED:  # whose grants are suspended
        without = by_rights(account.model_copy(update={"grants": ()}), terms, facts)
        return ("tos_restricted", [], [], set(), set()) if without[0] != "allow" and said[0] == "allow" else without
    return said


def by_rights(account: Account, terms: TermsVersion, facts: Facts) -> Said:
    in_force = [g for g in account.grants if g.not_after is None or g.not_after > NOW]
    here = [g for g in in_force if not g.models or {"*", facts.model} & g.models]
    held = {g.type for g in here}
    if account.standing in ("suspended", "terminated"):
        return "tos_account_suspended", [], [], set(), set()
    if not ({"*", facts.model} & account.models or any({"*", facts.model} & g.models for g in in_force)):
        return "tos_model_not_allowed", [], [], set(), set()
    if not ({"*", facts.action} & account.actions or any(facts.action in g.actions for g in here)):
        return "tos_action_not_allowed", [], [], set(), set()

    def applies(clause: Clause) -> bool | None:
        when = kleene_and(*(holds(c, account, held, facts) for c in clause.when))
        return kleene_and(when, kleene_not(kleene_or(*(holds(c, account, held, facts) for c in clause.unless))))

    concerned = [(c, applies(c)) for c in terms.clauses if facts.action in c.actions]
    counting = [c for c, value in concerned if value is True or (value is None and c.effect is not Effect.PERMIT)]
    shadowed = [c.id for c in counting if c.shadow]

    def unknown(chosen: list[Clause]) -> set[str]:
        return {
            c.fact
            for clause in chosen
            if applies(clause) is None
            for c in (*clause.when, *clause.unless)
            if holds(c, account, held, facts) is None
        }

    forbidding = [c for c in counting if c.effect is Effect.PROHIBIT and not c.shadow]
    if forbidding:
        return "tos_clause", [c.id for c in forbidding], shadowed, unknown(forbidding), set()
    permitting = [c for c in counting if c.effect is Effect.PERMIT and not c.shadow]
    if not permitting:
        possible = [c for c, value in concerned if value is None and c.effect is Effect.PERMIT and not c.shadow]
        return "tos_no_permission", [], shadowed, unknown(possible), set()
    duties = {duty for c in counting if c.effect is Effect.OBLIGE and not c.shadow for duty in c.duties}
    return "allow", [c.id for c in permitting], shadowed, set(), duties


def summary(decision: Decision) -> Said:
    deciding = [r for r in decision.reasons if not r.shadow]
    code = "allow" if decision.allowed else deciding[0].code
    shadowed = sorted(r.clause for r in decision.reasons if r.shadow and r.clause is not None)
    return code, [r.clause for r in deciding if r.clause], shadowed, {f for r in deciding for f in r.unknown}, set(decision.duties)


@settings(max_examples=250)
@given(accounts, terms(), st.lists(requests, min_size=8, max_size=8))
def test_a_plan_decides_as_the_clauses_read(account: Account, terms: TermsVersion, asked: list[Facts]) -> None:
    plan = compile_plan(account, terms, now=NOW)
    for facts in asked:
        code, deciding, shadowed, unknown, duties = naive(account, terms, facts)
        assert summary(plan.decide(facts)) == (code, deciding, sorted(shadowed), unknown, duties)


def told(facts: Facts, fact: str, value: str | None) -> Facts:
    return replace(facts, region=value) if fact == "region" else replace(facts, verification=value)


@settings(max_examples=120)
@given(accounts, terms(), requests, st.sampled_from(("region", "verification")))
def test_what_a_failed_source_hides_never_helps_the_request(account: Account, terms: TermsVersion, facts: Facts, fact: str) -> None:
    """What is refused when a fact is known to be anything is not allowed because it is unknown."""
    plan = compile_plan(account, terms, now=NOW)
    if plan.decide(told(facts, fact, None)).allowed:
        assert all(plan.decide(told(facts, fact, value)).allowed for value in (*VALUES[fact], "elsewhere"))


@settings(max_examples=120)
@given(accounts, terms(), requests)
def test_grants_are_named_when_the_request_is_refused_without_them(account: Account, terms: TermsVersion, facts: Facts) -> None:
    decision = compile_plan(account, terms, now=NOW).decide(facts)
    without = compile_plan(account.model_copy(update={"grants": ()}), terms, now=NOW).decide(facts)
    if decision.allowed and not without.allowed:
        assert decision.grants
    if decision.outcome is Outcome.DENY:
        assert decision.grants == ()
