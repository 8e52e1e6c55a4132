"""What an account may know of itself: what binds it, what it may do with output, how far its limits are used."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Final

from tos_guard.guard._admitting import Admitting
from tos_guard.guard._needs import AskLimits, Steps
from tos_guard.limits import Amounts, Charge, Dimension, Limit, LimitState
from tos_guard.policy import UsagePolicy
from tos_guard.rights import Account, Holder
from tos_guard.terms import TermsBinding
from tos_guard.types import UNDECLARED, Facts

__all__ = ["LimitUse", "PolicyFor", "Reporting"]

MAX_CASES: Final = 500
"""Models that one report looks at, each with each action or purpose. An account may name any number of them."""

_ALL: Final = "*"
_OTHER: Final = ""
"""Stands for a model or action that neither terms nor grants name: no name is empty."""


@dataclass(frozen=True, slots=True)
class PolicyFor:
    """What may be done with output.

    Attributes:
        models: Of which models, by name.
        others: Whether it holds for every other model as well.
        purpose: For requests of which declared purpose; `UNDECLARED` for all whose purpose no grant names.
        policy: The usage policy.
    """

    models: tuple[str, ...]
    others: bool
    purpose: str
    policy: UsagePolicy


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit of the account.

    Attributes:
        limit: The limit, with the amount that holds for the account.
        state: How far a counter of it is used; None where it has one for each end user, or for each of the models or actions that the
            account may use without their being named.
    """

    limit: Limit
    state: LimitState | None


class Reporting(Admitting):
    """The steps that tell an account of itself. They charge nothing and change nothing."""

    def binding(self, holder: Holder) -> Steps[TermsBinding]:
        """What binds the account now.

        Raises:
            StoreError: Published terms could not be read.
        """
        yield from self._read_terms()
        return self.rulebook.shelf.binding(holder.account.organization, holder.acceptances, self.clock())

    def usage_policies(self, holder: Holder) -> Steps[tuple[PolicyFor, ...]]:
        """What the account may do with output. Models with one policy stand together.

        Raises:
            StoreError: Published terms could not be read.
        """
        yield from self._read_terms()
        now, account = self.clock(), holder.account
        region = account.region if self.settings.sources.region == "account" else None
        action = min(account.actions - {_ALL}, default="generate")
        named = {purpose for grant in account.grants if grant.is_active(now) for purpose in grant.purposes}
        found: dict[tuple[str, UsagePolicy], list[str]] = {}
        for model in self._models(account):
            plan = self.rulebook.plan(holder, model, now)
            usual = plan.rights(Facts(action, model, region=region)).usage
            found.setdefault((UNDECLARED, usual), []).append(model)
            for purpose in sorted(named):
                special = plan.rights(Facts(action, model, purpose, region)).usage
                if special != usual:
                    found.setdefault((purpose, special), []).append(model)
        return tuple(
            PolicyFor(tuple(model for model in models if model != _OTHER), _OTHER in models, purpose, policy)
            for (purpose, policy), models in found.items()
        )

    def limit_uses(self, holder: Holder) -> Steps[tuple[LimitUse, ...]]:
        """How far the account's limits are used, in the order of the limits. Limits in shadow refuse nothing, and are left out.

        Raises:
            StoreError: Published terms could not be read, or the limits engine failed.
        """
        yield from self._read_terms()
        charges = tuple({(charge.limit, charge.scope): charge for charge in self._countable(holder)}.values())
        states: tuple[LimitState, ...] = ()
        if charges:
            states = yield AskLimits(charges)
        by_limit: dict[str, list[LimitState]] = {}
        for state in states:
            by_limit.setdefault(state.limit.id, []).append(state)
        uses: list[LimitUse] = []
        share = self.standing(holder)[1].limit_share
        for limit in self.meter.of(holder, {}, share=share).limits:
            if not limit.shadow:
                uses += [LimitUse(state.limit, state) for state in by_limit.get(limit.id, ())] or [LimitUse(limit, None)]
        return tuple(uses)

    def _countable(self, holder: Holder) -> Iterator[Charge]:
        """A charge for each counter that can be named."""
        now, account = self.clock(), holder.account
        actions = _actions(account, {action for limit in self.meter.limits for action in limit.actions})
        for model in self._models(account, {model for limit in self.meter.limits for model in limit.models}):
            plan = self.rulebook.plan(holder, model, now)
            larger, share = plan.rights(Facts(actions[0], model)).larger_limits, plan.rung.limit_share
            for action in actions:
                charges = self.meter.charges(holder, larger, Facts(action, model), Amounts(requests=0), share=share)
                yield from (charge for charge in charges if not charge.limit.shadow and _is_named(charge, model, action))

    def _models(self, account: Account, besides: Set[str] = frozenset()) -> tuple[str, ...]:
        """The models that an account may use, by name; where it may use all, also those *besides* and `_OTHER`."""
        now = self.clock()
        open_to_it = account.models | {model for grant in account.grants if grant.is_active(now) for model in grant.models}
        if _ALL not in open_to_it:
            return tuple(sorted(open_to_it)[:MAX_CASES])
        return (*sorted((open_to_it | besides) - {_ALL})[:MAX_CASES], _OTHER)


def _actions(account: Account, besides: Set[str]) -> tuple[str, ...]:
    """As `Reporting._models`, the actions."""
    if _ALL not in account.actions:
        return tuple(sorted(account.actions)) or (_OTHER,)
    return (*sorted((account.actions | besides) - {_ALL}), _OTHER)


def _is_named(charge: Charge, model: str, action: str) -> bool:
    per = charge.limit.per
    return not (Dimension.END_USER in per or (model == _OTHER and Dimension.MODEL in per) or (action == _OTHER and Dimension.ACTION in per))
