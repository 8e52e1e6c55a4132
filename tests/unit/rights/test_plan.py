"""Plans: who may do what under the sample terms, with every reason, and for how long the answer holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tos_guard.rights import Account, Grant, Holder, Plan, PlanCache, compile_plan
from tos_guard.terms import TermsShelf, parse_terms
from tos_guard.types import Decision, Facts, Outcome, Reason, Standing

EXAMPLES = Path(__file__).parents[3] / "examples" / "terms"
SAMPLE = parse_terms((EXAMPLES / "sample-2026-11.toml").read_bytes(), (EXAMPLES / "sample-2026-11.md").read_bytes())
SHELF = TermsShelf.of((SAMPLE,))
NOW = datetime(2026, 11, 22, tzinfo=UTC)
DAY = timedelta(days=1)
ISSUER = "https://api.example.com"

RESEARCH = Grant(id="r-1", type="research")
LICENCE = Grant(id="lic-1", type="licensed-distillation")


def account(**members: Any) -> Account:
    return Account(**({"id": "acme", "models": {"small"}, "actions": {"*"}} | members))


def plan_of(*, at: datetime = NOW, **members: Any) -> Plan:
    return compile_plan(account(**members), SAMPLE, now=at)


def facts(action: str = "generate", model: str = "small", **known: Any) -> Facts:
    return Facts(**({"action": action, "model": model, "region": "US"} | known))


def codes(decision: Decision) -> list[str]:
    return [reason.clause or reason.code for reason in decision.reasons]


DECISIONS: list[tuple[dict[str, Any], Facts, str, list[str]]] = [
    ({}, facts(), "allow", ["serve"]),
    ({}, facts(model="large"), "deny", ["tos_model_not_allowed"]),
    ({"models": {"*"}}, facts(model="large"), "allow", ["serve"]),
    ({"models": set()}, facts(), "deny", ["tos_model_not_allowed"]),
    ({"actions": {"embed"}}, facts(), "deny", ["tos_action_not_allowed"]),
    ({"standing": Standing.SUSPENDED}, facts(), "deny", ["tos_account_suspended"]),
    ({"standing": Standing.TERMINATED}, facts(model="large"), "deny", ["tos_account_terminated"]),
    ({"standing": Standing.RESTRICTED}, facts(), "allow", ["serve"]),
    ({}, facts(region="KP"), "deny", ["regions"]),
    ({}, facts(region=None), "deny", ["regions"]),
    ({}, facts(purpose="distillation"), "deny", ["distillation-licence"]),
    ({}, facts(purpose="distillation", region="KP"), "deny", ["regions", "distillation-licence"]),
    ({"grants": [LICENCE]}, facts(purpose="distillation"), "allow", ["serve"]),
    ({"grants": [RESEARCH]}, facts(purpose="distillation"), "deny", ["distillation-licence"]),
    ({"grants": [RESEARCH]}, facts(purpose="benchmark"), "allow", ["serve"]),
    ({}, facts("fine-tune"), "deny", ["tos_no_permission"]),
    ({"kind": "organization"}, facts("fine-tune"), "allow", ["fine-tuning-verified"]),
    ({}, facts("unheard-of"), "deny", ["tos_no_permission"]),
    ({}, facts("distil"), "deny", ["tos_no_permission"]),
]


@pytest.mark.parametrize(("members", "request_facts", "outcome", "reasons"), DECISIONS)
def test_the_sample_terms_decide(members: dict[str, Any], request_facts: Facts, outcome: str, reasons: list[str]) -> None:
    decision = plan_of(**members).decide(request_facts)
    assert (decision.outcome, codes(decision)) == (Outcome(outcome), reasons)
    assert decision.duties == (("seal",) if decision.allowed and request_facts.action != "fine-tune" else ())


def test_a_denial_names_the_fact_that_was_unknown() -> None:
    assert plan_of().decide(facts(region=None)).reasons == (Reason("tos_clause", "regions", ("region",)),)


def terms_with(*clauses: str) -> Any:
    head = '[terms]\nversion = "1"\ntitle = "T"\nuri = "https://a.example/t"\ntext = "t.md"\neffective = 2026-11-01\n'
    grant = '[[grant]]\nid = "research"\n'
    blocks = [f'[[clause]]\nid = "c-{n}"\naction = "generate"\n{clause}\n' for n, clause in enumerate(clauses)]
    return parse_terms((head + grant + "\n".join(blocks)).encode(), b"text")


def decided(*clauses: str, request: Facts | None = None, **members: Any) -> Decision:
    return compile_plan(account(**members), terms_with(*clauses), now=NOW).decide(request or facts())


PERMIT = 'effect = "permit"'
FORBID = 'effect = "prohibit"'


def test_a_permission_that_waits_for_an_unknown_fact_says_so() -> None:
    decision = decided(f'{PERMIT}\nwhen = {{ region = "US" }}', request=facts(region=None))
    assert decision == Decision(Outcome.DENY, (Reason("tos_no_permission", unknown=("region",)),))
    elsewhere = decided(f'{PERMIT}\nwhen = {{ region = "US", purpose = "study" }}', request=facts(region=None))
    assert elsewhere == Decision(Outcome.DENY, (Reason("tos_no_permission"),)), "the purpose alone kept it from counting"


@pytest.mark.parametrize("unless", ['{ region = "US" }', '{ region = { not_in = ["KP"] } }', '{ region = "US", purpose = "study" }'])
def test_an_unknown_exception_lifts_no_prohibition(unless: str) -> None:
    decision = decided(PERMIT, f"{FORBID}\nunless = {unless}", request=facts(region=None))
    assert decision.reasons == (Reason("tos_clause", "c-1", ("region",)),)
    assert decided(PERMIT, f"{FORBID}\nunless = {unless}", request=facts(region="US")).allowed


def test_an_unknown_exception_takes_a_permission_away() -> None:
    clause = f'{PERMIT}\nunless = {{ region = "KP" }}'
    assert decided(clause, request=facts(region="US")).allowed
    assert not decided(clause, request=facts(region=None)).allowed


def test_an_unknown_fact_obliges() -> None:
    oblige = 'effect = "oblige"\nwhen = { region = "US" }\nduties = ["seal", "watermark"]'
    assert decided(PERMIT, oblige, request=facts(region=None)).duties == ("seal", "watermark")
    assert decided(PERMIT, oblige, request=facts(region="KP")).duties == ()


def test_a_purpose_not_declared_is_known() -> None:
    clause = f'{FORBID}\nwhen = {{ purpose = {{ not_in = ["study"] }} }}'
    assert codes(decided(PERMIT, clause)) == ["c-1"]
    assert decided(PERMIT, clause).reasons[0].unknown == ()
    assert decided(PERMIT, f'{FORBID}\nwhen = {{ purpose = "undeclared" }}').outcome is Outcome.DENY


def test_a_shadowed_clause_reports_and_decides_nothing() -> None:
    assert decided(PERMIT, f"{FORBID}\nshadow = true").reasons == (Reason("tos_clause", "c-0"), Reason("tos_clause", "c-1", shadow=True))
    assert decided(PERMIT, f"{FORBID}\nshadow = true").clauses == ("c-0",)
    assert codes(decided(f"{PERMIT}\nshadow = true")) == ["tos_no_permission", "c-0"]
    assert decided(PERMIT, 'effect = "oblige"\nshadow = true\nduties = ["seal"]').duties == ()


def test_reasons_come_in_the_order_of_the_terms() -> None:
    by_region, by_purpose = f'{FORBID}\nwhen = {{ region = "US" }}', f'{FORBID}\nwhen = {{ purpose = "undeclared" }}'
    assert codes(decided(PERMIT, by_region, by_purpose, FORBID, by_region)) == ["c-1", "c-2", "c-3", "c-4"]


# Grants


def test_the_grant_that_made_the_difference_is_named() -> None:
    grants = [RESEARCH, LICENCE]
    assert plan_of(grants=grants).decide(facts(purpose="distillation")).grants == ("lic-1",)
    assert plan_of(grants=grants).decide(facts(purpose="benchmark")).grants == ("r-1", "lic-1")
    assert plan_of(grants=grants).decide(facts()).grants == ()
    permit = f'{PERMIT}\nwhen = {{ grant = "research" }}'
    assert decided(permit, grants=[RESEARCH]).grants == ("r-1",)
    assert decided(permit, PERMIT, grants=[RESEARCH]).grants == ()


def test_a_licence_for_one_model_says_nothing_about_another() -> None:
    plan = plan_of(models={"small", "large"}, grants=[Grant(id="lic-s", type="licensed-distillation", models={"small"})])
    assert plan.decide(facts(purpose="distillation", model="small")).allowed
    assert not plan.decide(facts(purpose="distillation", model="large")).allowed
    assert (plan.rights(facts(model="small")).grant, plan.rights(facts(model="large")).grant) == ("lic-s", None)
    assert "train-ai=y" in plan.rights(facts(model="small")).usage.content_usage
    assert "train-ai=n" in plan.rights(facts(model="large")).usage.content_usage


def test_a_grant_opens_its_models_and_its_actions_there_alone() -> None:
    grant = Grant(id="p-1", type="research", models={"preview"}, actions={"embed"})
    plan = plan_of(actions={"generate"}, grants=[grant])
    assert plan.decide(facts(model="preview")).grants == ("p-1",)
    assert plan.decide(facts("embed", "preview")).allowed
    assert codes(plan.decide(facts("embed", "small"))) == ["tos_action_not_allowed"], "what a grant opens stays with its models"
    assert codes(plan.decide(facts(model="large"))) == ["tos_model_not_allowed"]


@pytest.mark.parametrize("model", ["small", "large", "*"])
def test_a_grant_for_every_model_opened_them_all_but_held_for_none(model: str) -> None:
    plan = plan_of(grants=[Grant(id="lic-1", type="licensed-distillation", models={"*"})])
    assert plan.decide(facts(model=model, purpose="distillation")).grants == ("lic-1",)
    assert plan.decide(facts(model=model)).grants == (() if model == "small" else ("lic-1",)), "what is open anyway needs no grant"
    assert "train-ai=y" in plan.rights(facts(model=model)).usage.content_usage


def test_licences_for_two_models_stay_apart() -> None:
    grants = [Grant(id="s-1", type="research", models={"small"}), Grant(id="l-1", type="licensed-distillation", models={"large"})]
    plan = plan_of(models={"small", "large"}, grants=grants)
    allowed = {
        (model, purpose): plan.decide(facts(model=model, purpose=purpose)).allowed
        for model in ("small", "large")
        for purpose in ("benchmark", "distillation")
    }
    assert allowed == {
        ("small", "benchmark"): True,
        ("small", "distillation"): False,
        ("large", "benchmark"): True,
        ("large", "distillation"): True,
    }


def test_a_grant_for_a_model_the_account_has_anyway_made_no_difference() -> None:
    grant = Grant(id="p-1", type="research", models={"small"})
    assert plan_of(grants=[grant]).decide(facts()).grants == ()


def test_the_token_names_the_grant_that_shapes_what_may_be_done_with_the_output() -> None:
    quiet = Grant(id="g-0", type="gold")
    assert plan_of(grants=[quiet]).rights(facts(model="small")).grant is None
    assert plan_of(grants=[quiet, LICENCE]).rights(facts(model="small")).grant == "lic-1"
    assert plan_of(grants=[quiet, RESEARCH, LICENCE]).rights(facts(model="small")).grant == "r-1"


@pytest.mark.parametrize(
    ("grant", "at", "allowed", "expires"),
    [
        ({}, NOW, True, None),
        ({"not_after": NOW + DAY}, NOW, True, NOW + DAY),
        ({"not_after": NOW - DAY}, NOW, False, None),
        ({"not_before": NOW + DAY}, NOW, False, NOW + DAY),
        ({"not_before": NOW - DAY, "not_after": NOW + DAY}, NOW, True, NOW + DAY),
        ({"not_before": NOW + DAY, "not_after": NOW + 2 * DAY}, NOW, False, NOW + DAY),
    ],
)
def test_grants_hold_in_their_time_and_the_plan_knows_when_that_changes(
    grant: dict[str, Any], at: datetime, allowed: bool, expires: datetime | None
) -> None:
    plan = plan_of(at=at, grants=[Grant(id="lic-1", type="licensed-distillation", **grant)])
    assert plan.decide(facts(purpose="distillation")).allowed is allowed
    assert plan.expires == expires


# The cache


def test_a_kept_plan_is_the_same_until_rights_change() -> None:
    plans = PlanCache()
    first = plans.plan(Holder(account()), SHELF, "small", issuer=ISSUER, now=NOW)
    assert plans.plan(Holder(account()), SHELF, "small", issuer=ISSUER, now=NOW + 9 * DAY) is first
    suspended = account(version=2, standing=Standing.SUSPENDED)
    assert not plans.plan(Holder(suspended), SHELF, "small", issuer=ISSUER, now=NOW).decide(facts()).allowed


def test_a_kept_plan_is_not_used_after_a_grant_began_or_ended() -> None:
    plans = PlanCache()
    licensed = account(grants=[Grant(id="l", type="licensed-distillation", not_before=NOW + DAY, not_after=NOW + 2 * DAY)])
    answers = [
        plans.plan(Holder(licensed), SHELF, "small", issuer=ISSUER, now=at).decide(facts(purpose="distillation")).allowed
        for at in (NOW, NOW + DAY, NOW + 1.5 * DAY, NOW + 2 * DAY + timedelta(seconds=1))
    ]
    assert answers == [False, True, True, False]


def test_a_host_that_forgets_to_raise_the_version_gets_no_stale_plan() -> None:
    plans = PlanCache()
    assert plans.plan(Holder(account()), SHELF, "small", issuer=ISSUER, now=NOW).decide(facts()).allowed
    assert not plans.plan(Holder(account(models=set())), SHELF, "small", issuer=ISSUER, now=NOW).decide(facts()).allowed


def test_the_cache_is_bounded() -> None:
    plans = PlanCache(size=2)
    kept = [plans.plan(Holder(account(id=f"a-{n}")), SHELF, "small", issuer=ISSUER, now=NOW) for n in range(3)]
    assert plans.plan(Holder(account(id="a-0")), SHELF, "small", issuer=ISSUER, now=NOW) is not kept[0]
    assert plans.plan(Holder(account(id="a-2")), SHELF, "small", issuer=ISSUER, now=NOW) is kept[2]


# Grants for purposes and regions, and what comes before the clauses


def test_a_grant_for_a_purpose_holds_for_requests_with_it_alone() -> None:
    """The licence changes the decision and what may be done with the output, where the purpose is declared, and nowhere else."""
    plan = plan_of(grants=[Grant(id="lic", type="licensed-distillation", purposes={"distillation"})])
    assert plan.decide(facts(purpose="distillation")).grants == ("lic",)
    assert "train-ai=y" in plan.rights(facts(purpose="distillation")).usage.content_usage
    assert "train-ai=n" in plan.rights(facts()).usage.content_usage
    assert plan.rights(facts()).grant is None


def test_a_grant_for_a_region_does_not_hold_where_the_region_is_unknown() -> None:
    """Unknown counts against the request, for grants as for clauses."""
    plan = plan_of(grants=[Grant(id="lic", type="licensed-distillation", regions={"DE"})])
    allowed = {region: plan.decide(facts(purpose="distillation", region=region)).allowed for region in ("DE", "FR", None)}
    assert allowed == {"DE": True, "FR": False, None: False}


def test_a_conditional_grant_opens_its_model_under_its_condition_alone() -> None:
    """A model that only a grant opens is closed to requests which the grant does not cover."""
    plan = plan_of(models={"small"}, grants=[Grant(id="g", type="research", models={"large"}, purposes={"benchmark"})])
    codes = [plan.decide(facts(model="large", purpose=purpose)).reasons[0].code for purpose in ("undeclared", "benchmark")]
    assert codes[0] == "tos_model_not_allowed"
    assert codes[1] != "tos_model_not_allowed"
    assert plan.decide(facts(model="small")).allowed


def test_the_largest_limit_of_the_grants_that_hold_is_given() -> None:
    """Of those for the request, and of no other."""
    grants = [
        Grant(id="a", type="research", limits={"tokens": 10, "requests": 5}),
        Grant(id="b", type="research", limits={"tokens": 20}),
        Grant(id="c", type="research", limits={"tokens": 90}, purposes={"benchmark"}),
    ]
    plan = plan_of(grants=grants)
    assert dict(plan.rights(facts()).larger_limits) == {"tokens": 20, "requests": 5}
    assert dict(plan.rights(facts(purpose="benchmark")).larger_limits) == {"tokens": 90, "requests": 5}


def test_a_voided_grant_ended_when_it_was_voided() -> None:
    """It is still there, so that the past can be explained; and the plan of before ends with it."""
    voided = Grant(id="lic", type="licensed-distillation", voided=NOW, void_reason="contract ended")
    before = plan_of(grants=[voided], at=NOW - DAY)
    assert before.decide(facts(purpose="distillation")).allowed
    assert before.expires == NOW
    assert not plan_of(grants=[voided]).decide(facts(purpose="distillation")).allowed


def test_one_end_user_is_blocked_and_the_others_are_served() -> None:
    """Instead of the whole account."""
    blocked = "eu_" + "x" * 22
    plan = plan_of(blocked_end_users={blocked})
    assert plan.decide(facts(end_user=blocked)).reasons == (Reason("tos_end_user_blocked"),)
    assert plan.decide(facts(end_user="eu_" + "y" * 22)).allowed
    assert plan.decide(facts()).allowed


def test_terms_that_are_not_accepted_come_before_clauses_and_after_suspension() -> None:
    """The first thing to put right is told first."""
    wanting = compile_plan(account(), SAMPLE, now=NOW, to_accept=(SAMPLE,))
    assert wanting.decide(facts(model="none")).reasons == (Reason("tos_terms_not_accepted", "2026-11"),)
    suspended = compile_plan(account(standing=Standing.SUSPENDED), SAMPLE, now=NOW, to_accept=(SAMPLE,))
    assert suspended.decide(facts()).reasons[0].code == "tos_account_suspended"
