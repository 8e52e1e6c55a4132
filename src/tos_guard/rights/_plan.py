"""Plans: an account's terms and grants, compiled so that a decision is a few look-ups (DESIGN D2, D3).

What is known of the account (its kind, standing, grants) is folded in when the plan is made; what is left of each clause are the
conditions on the request. A decision asks, in this order: the account's standing, whether the terms are accepted, whether the end user
is blocked, what the step of its standing leaves open, the account's models and actions, and then the clauses on the action: forbid beats
permit, and no permission is a denial. Unknown facts count against the request. Clauses in shadow are reported and decide nothing.

Grants for single models give those models rights of their own, and hold for these alone: a licence to distil one model says nothing
about another. Grants for purposes or regions hold for requests with these alone; the rights under each set of them that a request meets
are compiled when it is first met.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from tos_guard.policy import UsagePolicy, usage_policy
from tos_guard.rights._account import Account, Grant
from tos_guard.rights._rules import Rules, compile_rules, kinds_in
from tos_guard.rights._standing import DEFAULT_LADDER, HeldStanding, Ladder, Rung
from tos_guard.terms import Acceptance, TermsStack, TermsVersion
from tos_guard.types import Decision, Facts, Outcome, Reason, Standing

__all__ = ["Plan", "Rights", "compile_plan"]

_REFUSALS: Final = {Standing.SUSPENDED: "tos_account_suspended", Standing.TERMINATED: "tos_account_terminated"}
_RESTRICTED: Final = "tos_restricted"
_NONE: Final[Mapping[str, int]] = MappingProxyType({})
ALL: Final = "*"


@dataclass(frozen=True, slots=True)
class Rights:
    """What holds under one set of grants, for one model or for all that no grant is confined to.

    Attributes:
        rules: Clauses by action.
        usage: What may be done with the output.
        grant: Id of the grant to name in tokens: the first that shapes `usage`, else the first that a clause asks for.
        larger_limits: Amounts by limit id that the grants give, the largest of each.
    """

    rules: Mapping[str, Rules]
    usage: UsagePolicy
    grant: str | None
    larger_limits: Mapping[str, int]
    _models: frozenset[str]
    _actions: frozenset[str]
    _grants: tuple[Grant, ...]
    _opened: bool
    """The model is open by a grant alone."""

    def has_model(self, model: str) -> bool:
        """Whether the account may use the model at all."""
        return model in self._models or ALL in self._models

    def opens(self, action: str) -> bool:
        """Whether the account may ask for the action at all."""
        return action in self._actions or ALL in self._actions or any(action in grant.actions for grant in self._grants)

    def decide(self, facts: Facts) -> Decision:
        """What model, action and clauses say of a request of an account that may make requests."""
        if not self.has_model(facts.model):
            return _NO_MODEL
        if not self.opens(facts.action):
            return _NO_ACTION
        rules = self.rules.get(facts.action)
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
        if not self._grants:
            return Decision(Outcome.ALLOW, reasons, duties)
        kinds = {kind for _, _, lifting in rules.lifted.counting(facts) for kind in lifting}
        if all(needed for _, _, needed in permitted):
            kinds.update(kind for _, _, needed in permitted for kind in needed)
        return Decision(Outcome.ALLOW, reasons, duties, self._decisive(facts, kinds))

    def _decisive(self, facts: Facts, kinds: Collection[str]) -> tuple[str, ...]:
        """Ids of the grants without which the request had not been allowed: by their kind, or because they open model or action."""
        by_action = facts.action not in self._actions and ALL not in self._actions
        return tuple(
            grant.id
            for grant in self._grants
            if grant.type in kinds or (self._opened and grant.models) or (by_action and facts.action in grant.actions)
        )


@dataclass(frozen=True, slots=True)
class _Case:
    """One model, or all that no grant is confined to: its rights under each set of grants that a request may meet."""

    account: Account
    standing: Standing
    terms: TermsStack
    always: tuple[Grant, ...]
    sometimes: tuple[Grant, ...]
    model: str | None
    _made: dict[tuple[str, ...], Rights] = field(default_factory=dict, compare=False)

    def rights(self, purpose: str, region: str | None) -> Rights:
        """The rights of a request with this purpose and region."""
        met: tuple[Grant, ...] = ()
        key: tuple[str, ...] = ()
        if self.sometimes:
            met = tuple(grant for grant in self.sometimes if grant.covers(purpose, region))
            key = tuple(grant.id for grant in met)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = _rights(self.account, self.standing, self.terms, (*self.always, *met), self.model)
        return made


@dataclass(frozen=True, slots=True)
class _Cases:
    """The rights of an account for each model: those that grants name, and all others together."""

    usual: _Case
    special: Mapping[str, _Case]

    @classmethod
    def of(cls, account: Account, standing: Standing, terms: TermsStack, grants: Collection[Grant]) -> _Cases:
        """The cases of an account with these grants."""
        granted_models = {model for grant in grants for model in grant.models}
        # Where a grant opens every model, the account's own must be told from those it opens.
        special_models = (granted_models | account.models if ALL in granted_models else granted_models) - {ALL}

        def case(model: str | None) -> _Case:
            held = [grant for grant in grants if (not grant.models or ALL in grant.models if model is None else grant.is_for(model))]
            return _Case(
                account,
                standing,
                terms,
                always=tuple(grant for grant in held if not grant.is_conditional),
                sometimes=tuple(grant for grant in held if grant.is_conditional),
                model=model,
            )

        return cls(case(None), {model: case(model) for model in special_models})

    def rights(self, facts: Facts) -> Rights:
        """What holds for requests like this one."""
        return self.special.get(facts.model, self.usual).rights(facts.purpose, facts.region)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides for one account under the terms in force for it.

    Attributes:
        account: The account it was compiled for.
        terms: The terms in force for it.
        receipt: Id of the acceptance because of which the general terms bind, or None where they bind without one.
        to_accept: Versions that the account has to accept before it may make requests, some maybe again; empty where nothing is missing.
        expires: When a grant, a measure or the terms in force change, so that the plan no longer holds; None for never.
        standing: Where the account stands, and because of which measure.
        rung: What that does.
    """

    account: Account
    terms: TermsStack
    receipt: str | None
    to_accept: tuple[TermsVersion, ...]
    expires: datetime | None
    standing: HeldStanding
    rung: Rung
    _whatever: Decision | None
    """The decision on any request, where it does not depend on the request."""
    _cases: _Cases
    _granted: _Cases | None
    """As if grants were not suspended, to tell what is refused because of that; None where they are not."""

    @property
    def refuses_all(self) -> bool:
        """Whether no request is served, whatever it asks for."""
        return self._whatever is not None or bool(self.rung.verify and self.account.verification not in self.rung.verify)

    def rights(self, facts: Facts) -> Rights:
        """What holds for requests like this one."""
        return self._cases.rights(facts)

    def decide(self, facts: Facts) -> Decision:
        """Allow or deny, with every reason and duty. Never raises."""
        if self._whatever is not None:
            return self._whatever
        rung = self.rung
        if rung.verify and self.account.verification not in rung.verify and facts.verification not in rung.verify:
            return _because(self.standing, "tos_verification_required")
        if facts.end_user in self.account.blocked_end_users:
            return _END_USER
        if facts.action in rung.without_actions or (rung.models is not None and facts.model not in rung.models):
            return _because(self.standing, _RESTRICTED)
        decision = self.rights(facts).decide(facts)
        if not decision.allowed:
            if self._granted is not None and self._granted.rights(facts).decide(facts).allowed:
                return _because(self.standing, _RESTRICTED)
            return decision
        return replace(decision, duties=tuple(dict.fromkeys((*decision.duties, *rung.duties)))) if rung.duties else decision


_NOTHING_PERMITS: Final = Reason("tos_no_permission")
_NO_PERMISSION: Final = Decision(Outcome.DENY, (_NOTHING_PERMITS,))
_END_USER: Final = Decision(Outcome.DENY, (Reason("tos_end_user_blocked"),))
_NO_MODEL: Final = Decision(Outcome.DENY, (Reason("tos_model_not_allowed"),))
_NO_ACTION: Final = Decision(Outcome.DENY, (Reason("tos_action_not_allowed"),))


def _nothing_permits(rules: Rules, facts: Facts) -> Reason:
    """The reason when no permission counts; names the facts whose being unknown kept one from counting."""
    unknown = {fact for _, reason, _ in rules.possible.counting(facts) for fact in reason.unknown}
    return Reason(_NOTHING_PERMITS.code, unknown=tuple(sorted(unknown))) if unknown else _NOTHING_PERMITS


def _because(standing: HeldStanding, code: str) -> Decision:
    """The denial by a step of standing. It names the measure, where one put the account there."""
    return Decision(Outcome.DENY, (Reason(code, standing.measure.id if standing.measure is not None else None),))


def compile_plan(
    account: Account,
    terms: TermsVersion | TermsStack,
    *,
    now: datetime,
    to_accept: tuple[TermsVersion, ...] = (),
    receipt: str | None = None,
    until: datetime | None = None,
    acceptances: Collection[Acceptance] = (),
    ladder: Ladder = DEFAULT_LADDER,
) -> Plan:
    """Compile the rights of *account* under *terms*, as they are at *now*.

    Args:
        account: The account.
        terms: The terms in force for it.
        now: The moment.
        to_accept: Versions without whose acceptance it may make no requests.
        receipt: Id of the acceptance of the general terms, or None.
        until: When other terms come into force for it, or None.
        acceptances: Acceptances by it and its organization.
        ladder: What the steps of standing do.
    """
    stack = terms if isinstance(terms, TermsStack) else TermsStack.of(terms)
    standing = account.standing_at(now, acceptances=acceptances, ladder=ladder)
    rung = ladder.rung(standing.step)
    active = [grant for grant in account.grants if grant.is_active(now)]
    held = [] if rung.without_grants else active
    again = (stack.general,) if not to_accept and _must_accept_again(rung, standing, acceptances) else ()
    edges = [edge for edge in (_next_change(account.grants, now), standing.changes, until) if edge is not None]
    return Plan(
        account=account,
        terms=stack,
        receipt=receipt,
        to_accept=to_accept or again,
        expires=min(edges, default=None),
        standing=standing,
        rung=rung,
        _whatever=_on_anything(standing, rung, to_accept, must_accept_again=bool(again)),
        _cases=_Cases.of(account, standing.step, stack, held),
        _granted=_Cases.of(account, standing.step, stack, active) if rung.without_grants and active else None,
    )


def _must_accept_again(rung: Rung, standing: HeldStanding, acceptances: Collection[Acceptance]) -> bool:
    """Whether the step demands an acceptance that has not come. A standing without a measure has no beginning, and demands none."""
    return rung.accept and standing.measure is not None and not standing.measure.is_answered(acceptances)


def _on_anything(standing: HeldStanding, rung: Rung, to_accept: tuple[TermsVersion, ...], *, must_accept_again: bool) -> Decision | None:
    """The decision that holds for every request, or None where it depends on the request."""
    if rung.refuse:
        return _because(standing, _REFUSALS.get(standing.step, _RESTRICTED))
    if to_accept:
        return Decision(Outcome.DENY, tuple(Reason("tos_terms_not_accepted", terms.version) for terms in to_accept))
    return _because(standing, "tos_reaccept") if must_accept_again else None


def _rights(account: Account, standing: Standing, terms: TermsStack, grants: tuple[Grant, ...], model: str | None) -> Rights:
    kinds = frozenset(grant.type for grant in grants)
    usage = usage_policy(terms, kinds)
    shaping = (grant for grant in grants if usage_policy(terms, kinds - {grant.type}) != usage)
    named = next(shaping, None) or next((grant for grant in grants if _matters(grant, terms)), None)
    larger: dict[str, int] = {}
    for grant in grants:
        for limit, amount in grant.limits.items():
            larger[limit] = max(amount, larger.get(limit, 0))
    return Rights(
        rules=compile_rules(terms, account.kind, standing, kinds),
        usage=usage,
        grant=named.id if named is not None else None,
        larger_limits=MappingProxyType(larger) if larger else _NONE,
        _models=account.models | {name for grant in grants for name in grant.models},
        _actions=account.actions,
        _grants=grants,
        _opened=(model is None or model not in account.models) and ALL not in account.models,
    )


def _matters(grant: Grant, terms: TermsStack) -> bool:
    """Whether any clause asks for this kind of grant."""
    return any(grant.type in kinds_in(clause) for clause in terms.clauses)


def _next_change(grants: Iterable[Grant], now: datetime) -> datetime | None:
    edges = [edge for grant in grants for edge in (grant.not_before, grant.not_after, grant.voided) if edge is not None and edge >= now]
    return min(edges, default=None)
