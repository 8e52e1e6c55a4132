"""Which limits concern a request, and what it is charged.

What is known of the account (kind, organization, its own amounts) is folded in once, as a plan is; what is left for each request are
model, action and end user. A limit per organization does not concern an account without one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from tos_guard.limits._model import Amounts, Charge, Dimension, Limit
from tos_guard.types import UNDECLARED

__all__ = ["AccountLimits", "account_limits", "charges"]

MAX_MODEL_CHARS: Final = 128
"""Of longer names a counter keeps the digest: the request chooses the name, and the counter keeps it for as long as its window."""

_OF_ACCOUNT: Final = frozenset({Dimension.ACCOUNT, Dimension.ORGANIZATION})


@dataclass(frozen=True, slots=True)
class _Rule:
    limit: Limit
    scope: tuple[str, ...] | None
    """Whose it is, where the account alone decides that."""
    shares: bool
    """An earlier limit has the same counter."""


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """The limits of one account. Make it with `account_limits`, and keep it as long as the account's version.

    Attributes:
        limits: The limits that can concern the account, with the amounts that hold for it.
    """

    limits: tuple[Limit, ...]
    _rules: tuple[_Rule, ...]
    _fixed: Mapping[Dimension, str]

    def charges(self, amounts: Amounts, *, model: str, action: str, end_user: str = UNDECLARED) -> tuple[Charge, ...]:
        """What a request for this model and action is charged.

        Args:
            amounts: How much it takes at most.
            model: Model the request names.
            action: What is asked for.
            end_user: Who is behind it, as the account's hashed id; all that declare none are one.

        Returns:
            One charge for each limit that concerns it, in the order of the limits.
        """
        found: list[Charge] = []
        for rule in self._rules:
            limit = rule.limit
            if (limit.models and model not in limit.models) or (limit.actions and action not in limit.actions):
                continue
            scope = rule.scope
            if scope is None:
                if len(model) > MAX_MODEL_CHARS:
                    model = f"sha256:{hashlib.sha256(model.encode('utf-8', 'surrogatepass')).hexdigest()}"
                values = {**self._fixed, Dimension.MODEL: model, Dimension.ACTION: action, Dimension.END_USER: end_user}
                scope = tuple([values[dimension] for dimension in limit.per])
            counts = not rule.shares or all(charge.limit.counted != limit.counted for charge in found)
            found.append(Charge(limit, scope, amounts.of(limit.quantity), counts))
        return tuple(found)


def account_limits(
    limits: Iterable[Limit],
    *,
    account: str,
    organization: str | None = None,
    kind: str = "default",
    overrides: Mapping[str, int] = MappingProxyType({}),
) -> AccountLimits:
    """Compile the limits of one account.

    Args:
        limits: All limits of the provider.
        account: Its id.
        organization: Its organization, or None.
        kind: What kind of account it is.
        overrides: Amounts of its own, by limit id; other ids are ignored.

    Raises:
        ConfigurationError: An amount is out of range.
    """
    fixed = {Dimension.ACCOUNT: account}
    if organization is not None:
        fixed[Dimension.ORGANIZATION] = organization
    scopes: dict[tuple[Dimension, ...], tuple[str, ...]] = {}
    rules: list[_Rule] = []
    for limit in limits:
        if (limit.kinds and kind not in limit.kinds) or (organization is None and Dimension.ORGANIZATION in limit.per):
            continue
        own = overrides.get(limit.id, limit.amount)
        effective = limit if own == limit.amount else replace(limit, amount=own)
        scope = None
        if _OF_ACCOUNT.issuperset(limit.per):
            # One tuple for all limits of the same dimensions: engines keep it, and it is most of what an account costs them.
            scope = scopes.setdefault(limit.per, tuple(fixed[dimension] for dimension in limit.per))
        rules.append(_Rule(effective, scope, any(rule.limit.counted == limit.counted for rule in rules)))
    return AccountLimits(tuple(rule.limit for rule in rules), tuple(rules), fixed)


def charges(
    limits: Iterable[Limit],
    *,
    amounts: Amounts,
    account: str,
    model: str,
    action: str,
    organization: str | None = None,
    kind: str = "default",
    end_user: str = UNDECLARED,
    overrides: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Charge, ...]:
    """What one request is charged: `account_limits` and `AccountLimits.charges` in one step.

    Raises:
        ConfigurationError: An amount in *overrides* is out of range.
    """
    compiled = account_limits(limits, account=account, organization=organization, kind=kind, overrides=overrides)
    return compiled.charges(amounts, model=model, action=action, end_user=end_user)
