"""Where an account stands follows from the time, from its measures, and from what was done of what they ask."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sample_records import sample_acceptance, sample_withdrawal
from tos_guard.errors import AccountError
from tos_guard.rights import Account, Grant, Holder, Ladder, Measure, Plan, PlanCache, Rung, compile_plan
from tos_guard.terms import TermsShelf, parse_terms
from tos_guard.types import Decision, Facts, Standing

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TERMS = parse_terms(
    b"""[terms]
version = "1"
title = "T"
uri = "https://a.example/t"
text = "t.md"
effective = 2026-11-01
[[grant]]
id = "research"
[[clause]]
id = "serve"
action = ["generate", "embed"]
effect = "permit"
[[clause]]
id = "deep"
action = "fine-tune"
effect = "permit"
when = { grant = "research" }
""",
    b"text",
)


def measure(measure_id: str = "m-1", step: Standing = Standing.SUSPENDED, **members: Any) -> Measure:
    return Measure(**{"id": measure_id, "step": step, "reason": "copied outputs", "begins": NOW, **members})


def account(*measures: Measure, **members: Any) -> Account:
    given = {"id": "acme", "models": {"small", "large"}, "actions": {"generate", "embed"}, "measures": measures, **members}
    return Account(**given)


def facts(action: str = "generate", model: str = "small", **members: Any) -> Facts:
    return Facts(action, model, **members)


def plan_of(who: Account, *, at: datetime = NOW, **members: Any) -> Plan:
    return compile_plan(who, TERMS, now=at, **members)


def said(decision: Decision) -> list[tuple[str, str | None]]:
    return [(reason.code, reason.clause) for reason in decision.reasons]


# From the time alone


def test_a_measure_holds_from_its_begin_until_its_end() -> None:
    who = account(measure(begins=NOW, expires=NOW + DAY))
    steps = [who.standing_at(NOW + span).step for span in (-timedelta(seconds=1), timedelta(), DAY - timedelta(seconds=1), DAY)]
    assert steps == [Standing.GOOD, Standing.SUSPENDED, Standing.SUSPENDED, Standing.GOOD]


def test_a_missed_deadline_becomes_the_step_that_follows() -> None:
    warned = measure(step=Standing.WARNED, requires="contact", deadline=NOW + DAY, then=Standing.SUSPENDED, expires=NOW + 2 * DAY)
    who = account(warned)
    steps = [who.standing_at(NOW + span).step for span in (timedelta(), DAY - timedelta(seconds=1), DAY, 2 * DAY)]
    assert steps == [Standing.WARNED, Standing.WARNED, Standing.SUSPENDED, Standing.GOOD]


def test_the_lowest_of_the_own_standing_and_of_all_measures_holds() -> None:
    who = account(measure("a", Standing.WARNED), measure("b", Standing.THROTTLED), standing=Standing.NOTICED)
    held = who.standing_at(NOW)
    assert (held.step, held.measure, held.in_force) == (Standing.THROTTLED, who.measures[1], who.measures)
    lower = account(measure("a", Standing.WARNED), standing=Standing.TERMINATED).standing_at(NOW)
    assert (lower.step, lower.measure) == (Standing.TERMINATED, None)


def test_of_several_measures_on_one_step_the_one_that_began_last_is_named() -> None:
    older, newer = measure("a", begins=NOW - DAY), measure("b")
    assert account(newer, older).standing_at(NOW).measure == newer
    assert account(older, standing=Standing.SUSPENDED).standing_at(NOW).measure == older


def test_what_comes_next_is_known() -> None:
    who = account(measure(begins=NOW - DAY, expires=NOW + 3 * DAY), measure("n", Standing.WARNED, begins=NOW + DAY))
    assert who.standing_at(NOW).changes == NOW + DAY
    assert who.standing_at(NOW + DAY).changes == NOW + 3 * DAY
    assert who.standing_at(NOW + 3 * DAY).changes is None


# What is asked


def test_an_acceptance_after_its_begin_ends_a_measure_that_asks_for_one() -> None:
    """Late too, but not one from before, nor one that was taken back."""
    asked = measure(step=Standing.WARNED, requires="accept", deadline=NOW + DAY, then=Standing.SUSPENDED)
    who = account(asked)
    before = sample_acceptance(1, at=NOW - timedelta(seconds=2))
    since = sample_acceptance(2, at=NOW.replace(microsecond=0))
    taken_back = since.with_withdrawal(sample_withdrawal(2, at=NOW + timedelta(hours=1)))
    late = sample_acceptance(3, at=NOW + 2 * DAY)
    for known, moment, step in (
        ((), NOW, Standing.WARNED),
        ((before,), NOW + DAY, Standing.SUSPENDED),
        ((taken_back,), NOW + DAY, Standing.SUSPENDED),
        ((before, since), NOW + DAY, Standing.GOOD),
        ((late,), NOW + 2 * DAY, Standing.GOOD),
    ):
        assert who.standing_at(moment, acceptances=known).step is step


def test_a_level_that_the_ladder_names_ends_a_measure_that_asks_to_be_verified() -> None:
    ladder = Ladder({Standing.RESTRICTED: Rung(verify=frozenset({"organization"}))})
    asked = measure(step=Standing.WARNED, requires="verify")
    for level, step in ((None, Standing.WARNED), ("email", Standing.WARNED), ("organization", Standing.GOOD)):
        assert account(asked, verification=level).standing_at(NOW, ladder=ladder).step is step


def test_contact_is_for_a_person_to_see() -> None:
    asked = measure(requires="contact")
    assert account(asked, verification="organization").standing_at(NOW, acceptances=(sample_acceptance(1, at=NOW),)).step is (
        Standing.SUSPENDED
    )


# What the steps do


def test_each_step_does_what_the_default_ladder_says() -> None:
    """Noticed and warned are only told; throttled has a tenth; restricted has no grants; the last two are refused, by their own codes."""
    research = Grant(id="g-1", type="research", models={"large"}, actions={"fine-tune"})
    expected = {
        Standing.NOTICED: (1.0, [("tos_clause", "serve")], [("tos_clause", "deep")]),
        Standing.WARNED: (1.0, [("tos_clause", "serve")], [("tos_clause", "deep")]),
        Standing.THROTTLED: (0.1, [("tos_clause", "serve")], [("tos_clause", "deep")]),
        Standing.RESTRICTED: (0.1, [("tos_clause", "serve")], [("tos_restricted", "m-1")]),
        Standing.SUSPENDED: (1.0, [("tos_account_suspended", "m-1")], [("tos_account_suspended", "m-1")]),
        Standing.TERMINATED: (1.0, [("tos_account_terminated", "m-1")], [("tos_account_terminated", "m-1")]),
    }
    for step, (share, usual, granted) in expected.items():
        plan = plan_of(account(measure(step=step), grants=(research,)))
        assert (plan.rung.limit_share, said(plan.decide(facts())), said(plan.decide(facts("fine-tune", "large")))) == (
            share,
            usual,
            granted,
        )


def test_a_restricted_account_is_told_so_only_of_what_it_would_have_had() -> None:
    plan = plan_of(account(measure(step=Standing.RESTRICTED), models={"small"}, grants=(Grant(id="g", type="research", models={"large"}),)))
    assert said(plan.decide(facts(model="large"))) == [("tos_restricted", "m-1")]
    assert said(plan.decide(facts(model="huge"))) == [("tos_model_not_allowed", None)]


@pytest.mark.parametrize(
    ("rung", "asked", "expected"),
    [
        (Rung(models=frozenset({"small"})), facts(model="large"), ("tos_restricted", "m-1")),
        (Rung(models=frozenset({"small"})), facts(), ("tos_clause", "serve")),
        (Rung(without_actions=frozenset({"embed"})), facts("embed"), ("tos_restricted", "m-1")),
        (Rung(without_actions=frozenset({"embed"})), facts(), ("tos_clause", "serve")),
        (Rung(refuse=True), facts(), ("tos_restricted", "m-1")),
        (Rung(verify=frozenset({"email"})), facts(), ("tos_verification_required", "m-1")),
        (Rung(verify=frozenset({"email"})), facts(verification="email"), ("tos_clause", "serve")),
        (Rung(accept=True), facts(), ("tos_reaccept", "m-1")),
    ],
)
def test_a_step_does_what_the_settings_say(rung: Rung, asked: Facts, expected: tuple[str, str]) -> None:
    plan = plan_of(account(measure(step=Standing.RESTRICTED)), ladder=Ladder({Standing.RESTRICTED: rung}))
    assert said(plan.decide(asked)) == [expected]


def test_a_step_adds_its_duties_to_those_of_the_terms() -> None:
    ladder = Ladder({Standing.WARNED: Rung(duties=("seal",))})
    assert plan_of(account(measure(step=Standing.WARNED)), ladder=ladder).decide(facts()).duties == ("seal",)
    assert plan_of(account(), ladder=ladder).decide(facts()).duties == ()


def test_to_accept_again_is_demanded_since_the_measure_began() -> None:
    """A standing without a measure has no beginning, and demands none."""
    ladder = Ladder({Standing.RESTRICTED: Rung(accept=True)})
    asked = account(measure(step=Standing.RESTRICTED))
    assert plan_of(asked, ladder=ladder).to_accept == (TERMS,)
    before, since = sample_acceptance(1, at=NOW - DAY), sample_acceptance(2, at=NOW + DAY)
    assert said(plan_of(asked, ladder=ladder, acceptances=(before,)).decide(facts())) == [("tos_reaccept", "m-1")]
    assert plan_of(asked, ladder=ladder, acceptances=(before, since)).decide(facts()).allowed
    assert plan_of(account(standing=Standing.RESTRICTED), ladder=ladder).decide(facts()).allowed


def test_a_kept_plan_ends_with_the_standing_that_it_was_made_for() -> None:
    """Begin, deadline and end of a measure are met by the very next request, though nothing in the store has changed."""
    who = account(
        measure(
            step=Standing.WARNED,
            begins=NOW + DAY,
            requires="contact",
            deadline=NOW + 2 * DAY,
            then=Standing.SUSPENDED,
            expires=NOW + 3 * DAY,
        )
    )
    plans, holder, shelf = PlanCache(), Holder(who), TermsShelf.of((TERMS,))
    steps = [plans.plan(holder, shelf, "small", issuer="https://a.example", now=NOW + days * DAY).standing.step for days in range(4)]
    assert steps == [Standing.GOOD, Standing.WARNED, Standing.SUSPENDED, Standing.GOOD]


# What is no measure


@pytest.mark.parametrize(
    "members",
    [
        {"step": Standing.GOOD},
        {"reason": ""},
        {"reason": "x" * 2_001},
        {"id": "no spaces"},
        {"begins": datetime(2026, 11, 25)},  # noqa: DTZ001 - a time of no zone is none
        {"expires": NOW},
        {"deadline": NOW + DAY},
        {"requires": "contact", "deadline": NOW},
        {"requires": "contact", "deadline": NOW + 2 * DAY, "expires": NOW + DAY},
        {"then": Standing.TERMINATED},
        {"requires": "contact", "deadline": NOW + DAY, "then": Standing.WARNED},
        {"requires": "money"},
        {"lift_reason": "never lifted"},
        {"clauses": ["c"] * 17},
        {"unknown": 1},
        {"reason": "\ud800"},
    ],
)
def test_what_does_not_fit_together_is_no_measure(members: dict[str, Any]) -> None:
    with pytest.raises(AccountError):
        measure(**members)


def test_two_measures_have_two_ids() -> None:
    with pytest.raises(AccountError, match="two measures have one id"):
        account(measure(), measure(step=Standing.WARNED))
