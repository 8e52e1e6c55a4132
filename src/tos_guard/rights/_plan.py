"""Plans: an account's terms and grants, compiled so that a decision is a few look-ups (DESIGN D2, D3).

What is known of the account (its kind, standing, grants) is folded in when the plan is made; what is left of each clause are the
conditions on the request. Grants for single models give those models rights of their own, and hold for these alone: a licence to distil
one model says nothing about another. A decision asks the account's standing, models and actions first, then the clauses on the action:
forbid beats permit, and no permission is a denial. Unknown facts count against the request. Clauses in shadow are reported and decide
nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cachetools import LRUCache

from tos_guard.policy import UsagePolicy, usage_policy
from tos_guard.rights._account import Account, Grant
from tos_guard.rights._rules import Rules, compile_rules, kinds_in
from tos_guard.terms import TermsVersion
from tos_guard.types import Decision, Facts, Outcome, Reason, Standing

__all__ = ["Plan", "PlanCache", "compile_plan"]

_BARRED: Final = frozenset({Standing.SUSPENDED, Standing.TERMINATED})
ALL: Final = "*"


@dataclass(frozen=True, slots=True)
class Rights:
    """What holds for one model, or for all that no grant is confined to.

    Attributes:
        rules: Clauses by action.
        usage: What may be done with the output.
        grant: Id of the grant to name in tokens: the first that shapes `usage`, else the first that a clause asks for.
    """

    rules: Mapping[str, Rules]
    usage: UsagePolicy
    grant: str | None
    _actions: frozenset[str]
    _grants: tuple[Grant, ...]
    _opened: bool
    """The model is open by a grant alone."""

    def opens(self, action: str) -> bool:
        """Whether the account may ask for the action at all."""
        return action in self._actions or ALL in self._actions or any(action in grant.actions for grant in self._grants)

    def decisive(self, facts: Facts, kinds: Collection[str]) -> tuple[str, ...]:
        """Ids of the grants without which the request had not been allowed: by their kind, or because they open model or action."""
        by_action = facts.action not in self._actions and ALL not in self._actions
        return tuple(
            grant.id
            for grant in self._grants
            if grant.type in kinds or (self._opened and grant.models) or (by_action and facts.action in grant.actions)
        )


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
    _usual: Rights
    _special: dict[str, Rights]

    def rights(self, model: str) -> Rights:
        """What holds for a model."""
        return self._special.get(model, self._usual)

    def decide(self, facts: Facts) -> Decision:
        """Allow or deny, with every reason and duty. Never raises."""
        if self.account.standing in _BARRED:
            return _SUSPENDED
        if facts.model not in self._models and ALL not in self._models:
            return _NO_MODEL
        rights = self._special.get(facts.model, self._usual)
        if not rights.opens(facts.action):
            return _NO_ACTION
        rules = rights.rules.get(facts.action)
        if rules is None:
            return _NO_PERMISSION
        shadowed = [reason for group in rules.shadowed for _, reason, _ in group.counting(facts)]
        if forbidden := rules.prohibitions.counting(facts):
            return Decision(Outcome.DENY, (*(reason for _, reason, _ in forbidden), *shadowed))
        permitted = rules.permissions.counting(facts)
        if not permitted:
            return Decision(Outcome.DENY, (_nothing_permits(rules, facts), *shadowed))
        reasons = (*(reason for _, reason, _ in permitted), *shadowed)
        duties = tuple(dict.fromkeys(duty for _, _, owed in rules.obligations.counting(facts) for duty in owed))
        if not rights._grants:
            return Decision(Outcome.ALLOW, reasons, duties)
        kinds = {kind for _, _, lifting in rules.lifted.counting(facts) for kind in lifting}
        if all(needed for _, _, needed in permitted):
            kinds.update(kind for _, _, needed in permitted for kind in needed)
        return Decision(Outcome.ALLOW, reasons, duties, rights.decisive(facts, kinds))


_NOTHING_PERMITS: Final = Reason("tos_no_permission")
_NO_PERMISSION: Final = Decision(Outcome.DENY, (_NOTHING_PERMITS,))
_SUSPENDED: Final = Decision(Outcome.DENY, (Reason("tos_account_suspended"),))
_NO_MODEL: Final = Decision(Outcome.DENY, (Reason("tos_model_not_allowed"),))
_NO_ACTION: Final = Decision(Outcome.DENY, (Reason("tos_action_not_allowed"),))


def _nothing_permits(rules: Rules, facts: Facts) -> Reason:
    """The reason when no permission counts; names the facts whose being unknown kept one from counting."""
    unknown = {fact for _, reason, _ in rules.possible.counting(facts) for fact in reason.unknown}
    return Reason(_NOTHING_PERMITS.code, unknown=tuple(sorted(unknown))) if unknown else _NOTHING_PERMITS


def compile_plan(account: Account, terms: TermsVersion, *, now: datetime) -> Plan:
    """Compile the rights of *account* under *terms*, as they are at *now*."""
    active = [grant for grant in account.grants if grant.is_active(now)]
    granted_models = {model for grant in active for model in grant.models}
    # Where a grant opens every model, the account's own must be told from those it opens.
    special_models = (granted_models | account.models if ALL in granted_models else granted_models) - {ALL}

    def rights(grants: tuple[Grant, ...], *, opened: bool) -> Rights:
        kinds = frozenset(grant.type for grant in grants)
        usage = usage_policy(terms, kinds)
        shaping = (grant for grant in grants if usage_policy(terms, kinds - {grant.type}) != usage)
        named = next(shaping, None) or next((grant for grant in grants if _matters(grant, terms)), None)
        return Rights(
            rules=compile_rules(terms, account.kind, account.standing, kinds),
            usage=usage,
            grant=named.id if named is not None else None,
            _actions=account.actions,
            _grants=grants,
            _opened=opened,
        )

    return Plan(
        account=account,
        terms=terms,
        expires=_next_change(account.grants, now),
        _models=account.models | granted_models,
        _usual=rights(tuple(grant for grant in active if not grant.models or ALL in grant.models), opened=ALL not in account.models),
        _special={
            model: rights(
                tuple(grant for grant in active if grant.is_for(model)),
                opened=model not in account.models and ALL not in account.models,
            )
            for model in special_models
        },
    )


def _matters(grant: Grant, terms: TermsVersion) -> bool:
    """Whether any clause asks for this kind of grant."""
    return any(grant.type in kinds_in(clause) for clause in terms.clauses)


def _next_change(grants: Iterable[Grant], now: datetime) -> datetime | None:
    edges = [edge for grant in grants for edge in (grant.not_before, grant.not_after) if edge is not None and edge >= now]
    return min(edges, default=None)


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
