"""Plans: an account's terms and grants, compiled so that a decision is a few look-ups (DESIGN D2, D3).

What is known of the account (its kind, standing, grants) is folded in when the plan is made; what is left of each clause are the
conditions on the request. Grants for single models give those models rules of their own. A decision walks the prohibitions, then
the permissions of one action: forbid beats permit, and no permission is a denial. Unknown facts count against the request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cachetools import LRUCache

from tos_guard.policy import UsagePolicy, usage_policy
from tos_guard.rights._account import Account, Grant
from tos_guard.terms import Clause, Condition, Effect, Scope, TermsVersion
from tos_guard.types import Decision, Facts, Outcome, Reason, Standing

__all__ = ["Plan", "PlanCache", "compile_plan"]

_BARRED: Final = frozenset({Standing.SUSPENDED, Standing.TERMINATED})
_OF_ACCOUNT: Final = frozenset({"kind", "standing", "grant"})
ALL: Final = "*"

Test = Callable[[Facts], Reason | None]
"""Gives the reason of a clause that counts for these facts, or None."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """The clauses of one action, for one set of grants."""

    prohibitions: tuple[Test, ...]
    permissions: tuple[Test, ...]
    obligations: tuple[tuple[Test, tuple[str, ...]], ...]
    shadowed: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Rights:
    """What holds for one set of grants: rules by action, the usage policy, and the grant to name in tokens."""

    rules: dict[str, _Rules]
    usage: UsagePolicy
    grant: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides for one account under one terms version.

    Attributes:
        account: The account it was compiled for.
        terms: The terms.
        expires: When a grant begins or ends, so that the plan no longer holds; None for never.
    """

    account: Account
    terms: TermsVersion
    expires: datetime | None
    _models: frozenset[str]
    _actions: frozenset[str]
    _usual: Rights
    _special: dict[str, Rights]

    def rights(self, model: str) -> Rights:
        """What holds for a model."""
        return self._special.get(model, self._usual)

    def decide(self, facts: Facts) -> Decision:
        """Allow or deny, with every reason and duty."""
        if self.account.standing in _BARRED:
            return _SUSPENDED
        if facts.model not in self._models and ALL not in self._models:
            return _NO_MODEL
        if facts.action not in self._actions and ALL not in self._actions:
            return _NO_ACTION
        rights = self._special.get(facts.model, self._usual)
        rules = rights.rules.get(facts.action)
        if rules is None:
            return _NO_PERMISSION
        shadowed = tuple(reason for test in rules.shadowed if (reason := test(facts)) is not None) if rules.shadowed else ()
        forbidden = [reason for test in rules.prohibitions if (reason := test(facts)) is not None]
        if forbidden:
            return Decision(Outcome.DENY, (*forbidden, *shadowed))
        permitted = [reason for test in rules.permissions if (reason := test(facts)) is not None]
        if not permitted:
            return Decision(Outcome.DENY, (_NOTHING_PERMITS, *shadowed))
        duties = tuple(duty for test, owed in rules.obligations if test(facts) is not None for duty in owed) if rules.obligations else ()
        grants = (rights.grant,) if rights.grant is not None else ()
        return Decision(Outcome.ALLOW, (*permitted, *shadowed), duties, grants)


_NOTHING_PERMITS: Final = Reason("tos_no_permission")
_NO_PERMISSION: Final = Decision(Outcome.DENY, (_NOTHING_PERMITS,))
_SUSPENDED: Final = Decision(Outcome.DENY, (Reason("tos_account_suspended"),))
_NO_MODEL: Final = Decision(Outcome.DENY, (Reason("tos_model_not_allowed"),))
_NO_ACTION: Final = Decision(Outcome.DENY, (Reason("tos_action_not_allowed"),))


def compile_plan(account: Account, terms: TermsVersion, *, now: datetime) -> Plan:
    """Compile the rights of *account* under *terms*, as they are at *now*."""
    active = [grant for grant in account.grants if grant.is_active(now)]
    general = [grant for grant in active if not grant.models]
    compiled: dict[frozenset[str], dict[str, _Rules]] = {}

    def rights(grants: Collection[Grant]) -> Rights:
        kinds = frozenset(grant.type for grant in grants)
        if kinds not in compiled:
            compiled[kinds] = _compile_rules(account, terms, kinds)
        named = next((grant.id for grant in grants if _matters(grant, terms)), None)
        return Rights(compiled[kinds], usage_policy(terms, kinds), named)

    special_models = {model for grant in active for model in grant.models}
    return Plan(
        account=account,
        terms=terms,
        expires=_next_change(account.grants, now),
        _models=account.models | special_models,
        _actions=account.actions.union(*(grant.actions for grant in active)),
        _usual=rights(general),
        _special={model: rights([g for g in active if not g.models or model in g.models]) for model in special_models},
    )


def _matters(grant: Grant, terms: TermsVersion) -> bool:
    """Whether any clause asks for this kind of grant."""
    return any(
        condition.fact == "grant" and grant.type in condition.values
        for clause in terms.clauses
        for condition in (*clause.when, *clause.unless)
    )


def _next_change(grants: Iterable[Grant], now: datetime) -> datetime | None:
    edges = [edge for grant in grants for edge in (grant.not_before, grant.not_after) if edge is not None and edge >= now]
    return min(edges, default=None)


def _compile_rules(account: Account, terms: TermsVersion, grants: frozenset[str]) -> dict[str, _Rules]:
    known = {"kind": account.kind, "standing": account.standing.value, "grant": grants}
    rules: dict[str, _Rules] = {}
    request_clauses = [clause for clause in terms.clauses if clause.scope is Scope.REQUEST]
    for action in {action for clause in request_clauses for action in clause.actions}:
        tests = [(clause, _fold(clause, known)) for clause in request_clauses if action in clause.actions]
        live = [(clause, test) for clause, test in tests if test is not None]
        deciding = [(clause, test) for clause, test in live if not clause.shadow]
        rules[action] = _Rules(
            prohibitions=tuple(test for clause, test in deciding if clause.effect is Effect.PROHIBIT),
            permissions=tuple(test for clause, test in deciding if clause.effect is Effect.PERMIT),
            obligations=tuple((test, clause.duties) for clause, test in deciding if clause.effect is Effect.OBLIGE),
            shadowed=tuple(test for clause, test in live if clause.shadow),
        )
    return rules


def _fold(clause: Clause, known: dict[str, str | frozenset[str]]) -> Test | None:
    """What is left of a clause once the account is known: a test of the request, or None if it can never count."""
    for condition in clause.when:
        if condition.fact in _OF_ACCOUNT and not condition.holds(known[condition.fact]):
            return None
    for condition in clause.unless:
        if condition.fact in _OF_ACCOUNT and condition.holds(known[condition.fact]):
            return None
    required = tuple(_request_condition(condition, wanted=True) for condition in clause.when if condition.fact not in _OF_ACCOUNT)
    lifting = tuple(_request_condition(condition, wanted=False) for condition in clause.unless if condition.fact not in _OF_ACCOUNT)
    return _test(clause, required + lifting)


_Check = tuple[str, frozenset[str], bool]
"""A fact, values, and whether it must be one of them."""


def _request_condition(condition: Condition, *, wanted: bool) -> _Check:
    """A condition as a check that must pass for the clause to apply: a lifting one must fail."""
    return condition.fact, condition.values, condition.negated is not wanted


def _test(clause: Clause, checks: tuple[_Check, ...]) -> Test:
    code = "tos_clause"
    usual = Reason(code, clause.id, shadow=clause.shadow)
    if not checks:
        return lambda _: usual
    counts_unknown = clause.effect is not Effect.PERMIT

    if len(checks) == 1:
        ((fact, values, inside),) = checks
        unknown_reason = Reason(code, clause.id, (fact,), clause.shadow) if counts_unknown else None

        def single(facts: Facts) -> Reason | None:
            value = getattr(facts, fact)
            if value is None:
                return unknown_reason
            return usual if (value in values) is inside else None

        return single

    def several(facts: Facts) -> Reason | None:
        unknown: list[str] = []
        for fact, values, inside in checks:
            value = getattr(facts, fact)
            if value is None:
                unknown.append(fact)
            elif (value in values) is not inside:
                return None
        if not unknown:
            return usual
        return Reason(code, clause.id, tuple(sorted(set(unknown))), clause.shadow) if counts_unknown else None

    return several


class PlanCache:
    """Plans by issuer, account version and terms: a stale plan has another key and is never found (DESIGN D3)."""

    def __init__(self, *, size: int = 10_000) -> None:
        self._plans: LRUCache[tuple[str, str, int, str], Plan] = LRUCache(size)
        self._lock = threading.Lock()

    def plan(self, account: Account, terms: TermsVersion, *, issuer: str, now: datetime) -> Plan:
        """The plan of *account* under *terms* at *now*."""
        key = (issuer, account.id, account.version, terms.sha256)
        with self._lock:
            plan = self._plans.get(key)
        stale = plan is not None and plan.expires is not None and now >= plan.expires
        if plan is None or stale or (plan.account is not account and plan.account != account):
            plan = compile_plan(account, terms, now=now)
            with self._lock:
                self._plans[key] = plan
        return plan
