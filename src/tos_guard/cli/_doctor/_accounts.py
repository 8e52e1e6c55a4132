"""What accounts come to under terms and limits: who is refused, now or soon, and which limits no request fits into.

One pass over the accounts, with bounded memory: of each finding a few names are kept, and the rest is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final

from tos_guard.cli._doctor._check import Check, ok, problem, warning

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.limits import Limit
    from tos_guard.rights import Account
    from tos_guard.stores import Store
    from tos_guard.terms import Acceptance, TermsShelf

__all__ = ["check_accounts", "check_limits"]

SOON: Final = timedelta(days=14)
"""How long before accounts are refused it is said: time to ask them."""

MAX_NAMED: Final = 5
"""Accounts or models named in one line."""

MAX_ACCOUNTS: Final = 50_000
"""Accounts that are looked at: each costs a tenth of a millisecond."""

MAX_MODELS: Final = 1_000
_PAGE: Final = 1_000
_UNKNOWN_MODEL: Final = ""  # no name is empty


@dataclass
class _Names:
    """Some names of many."""

    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, name: str) -> None:
        """Count a name."""
        self.count += 1
        if len(self.first) < MAX_NAMED:
            self.first.append(name)

    def __str__(self) -> str:
        rest = f" and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return ", ".join(self.first) + rest


def check_accounts(settings: GuardSettings, store: Store, shelf: TermsShelf | None, now: datetime) -> Iterator[Check]:
    """Whether accounts are refused, now or soon, because of terms they have not accepted; and whether their amounts are of limits.

    Args:
        settings: The settings.
        store: Their store.
        shelf: All terms, or None where they cannot be read.
        now: The present.
    """
    survey = _Survey(settings, shelf, now)
    for account in _accounts(store):
        survey.look_at(account, store)
    for organization in store.organizations():
        survey.note_amounts(f"organization {organization.id}", organization.limits)
    found = [*survey.findings()]
    yield from found
    if not found:
        more = "; there may be more" if survey.looked_at == MAX_ACCOUNTS else ""
        what = f"{survey.looked_at} looked at{more}; none is refused for want of acceptance, now or within {SOON.days} days"
        yield ok("accounts", what, str(settings.store))


def _accounts(store: Store) -> Iterator[Account]:
    def pages() -> Iterator[Account]:
        after = ""
        while page := store.accounts(after=after, limit=_PAGE):
            yield from page
            after = page[-1].id

    return islice(pages(), MAX_ACCOUNTS)


class _Survey:
    """What was found of the accounts so far."""

    def __init__(self, settings: GuardSettings, shelf: TermsShelf | None, now: datetime) -> None:
        self.looked_at = 0
        self._settings = settings
        self._known = {limit.id for limit in settings.limits}
        self._shelf = shelf if shelf is not None and any(terms.acceptance.value == "required" for terms in shelf.versions) else None
        self._now = now
        self._refused: dict[str, _Names] = {}
        self._soon: dict[str, _Names] = {}
        self._unknown: dict[str, _Names] = {}
        self._too_small: dict[str, Check] = {}

    def look_at(self, account: Account, store: Store) -> None:
        """Take an account into account."""
        self.looked_at += 1
        if self._shelf is not None:
            self._note_refusals(self._shelf, account, store.rights_of(account).acceptances)
        for amounts in (account.limits, *(grant.limits for grant in account.grants if grant.voided is None)):
            self.note_amounts(f"account {account.id}", amounts)
        if account.limits:
            for limit_id, check in _never_met(self._settings, f"account {account.id}", account, _models_of(self._settings, [account])):
                self._too_small.setdefault(limit_id, check)

    def note_amounts(self, whose: str, amounts: Iterable[str]) -> None:
        """Take up amounts of limits, by their ids."""
        for limit_id in set(amounts) - self._known:
            self._unknown.setdefault(limit_id, _Names()).add(whose)

    def _note_refusals(self, shelf: TermsShelf, account: Account, acceptances: Sequence[Acceptance]) -> None:
        def owed(at: datetime) -> set[str]:
            bounds = shelf.binding(account.organization, acceptances, at).bounds
            return {bound.to_accept.version for bound in bounds if bound.refused and bound.to_accept is not None}

        at_once = owed(self._now)
        for version in at_once:
            self._refused.setdefault(version, _Names()).add(account.id)
        for version in owed(self._now + SOON) if not at_once else ():
            self._soon.setdefault(version, _Names()).add(account.id)

    def findings(self) -> Iterator[Check]:
        """What is wrong."""
        for version, names in sorted(self._refused.items()):
            cure = (
                "They can accept through the account routes; or record it: 'tos-guard accounts accept', 'tos-guard organizations accept'."
            )
            what = f"{names.count} accounts are refused until it is accepted: {names}"
            yield warning("terms-not-accepted", what, where=f"terms {version}", cure=cure)
        for version, names in sorted(self._soon.items()):
            cure = "Ask them to; 'tos-guard accounts acceptances' says until when."
            what = f"{names.count} accounts will be refused within {SOON.days} days unless it is accepted: {names}"
            yield warning("grace-ends-soon", what, where=f"terms {version}", cure=cure)
        for limit_id, names in sorted(self._unknown.items()):
            what = f"{names} have an amount of the limit {limit_id}, which the settings do not have: it changes nothing"
            cure = "Add the limit to the settings, or take the amount away: 'tos-guard accounts limit … --default'."
            yield warning("unknown-limit", what, where="[[limits]]", cure=cure)
        yield from self._too_small.values()


# Limits


def check_limits(settings: GuardSettings, store: Store | None) -> Iterator[Check]:
    """Whether each limit can be met by some request, and refuses."""
    models = _models_of(settings, _accounts(store) if store is not None else ())
    found = [check for _, check in _never_met(settings, "the settings", None, models)]
    for limit in settings.limits:
        if limit.shadow:
            what = f"limit {limit.id} is in shadow: it is counted, and refuses nothing"
            found.append(warning("limit-in-shadow", what, where="[[limits]]", cure="Remove 'shadow' once its counts are as meant."))
    yield from found
    if settings.limits and not found:
        yield ok("limits", f"{len(settings.limits)} limits; a request that declares no maximum fits into each", "[[limits]]")


def _models_of(settings: GuardSettings, accounts: Iterable[Account]) -> set[str]:
    """The models that accounts may use; where that is all, those of the settings and one that nothing is known of."""
    named = (model for account in accounts for some in (account.models, *(grant.models for grant in account.grants)) for model in some)
    models = set(islice(named, MAX_MODELS))
    return models if models and "*" not in models else {*(models - {"*"}), *settings.models, _UNKNOWN_MODEL}


def _never_met(settings: GuardSettings, name: str, account: Account | None, models: Iterable[str]) -> Iterator[tuple[str, Check]]:
    """Limits that refuse every request that declares no maximum of its own: its estimate alone is more than the amount."""
    from tos_guard.dialects import RequestFacts
    from tos_guard.guard._limit_settings import meter_of

    meter = meter_of(settings)
    bare = {model: meter.estimate(RequestFacts(action="generate", model=model), b"{}") for model in models}
    for limit in meter.limits:
        if limit.shadow or (account is not None and limit.id not in account.limits):
            continue
        allowed = _at_once(limit, account)
        counted = {model: amounts.of(limit.quantity) for model, amounts in bare.items() if not limit.models or model in limit.models}
        if too_much := {model: amount for model, amount in counted.items() if amount > allowed}:
            yield limit.id, _too_small(limit, name, allowed, too_much, settings)


def _at_once(limit: Limit, account: Account | None) -> int:
    amount = limit.amount if account is None else account.limits.get(limit.id, limit.amount)
    return amount if limit.burst is None else min(amount, limit.burst)


def _too_small(limit: Limit, name: str, allowed: int, asked: dict[str, int], settings: GuardSettings) -> Check:
    most = max(asked.values())
    names = _Names()
    for model in sorted(asked):
        names.add(model)
    on = f"on {names}" if _UNKNOWN_MODEL not in asked else "on a model of which nothing is known"
    what = f"limit {limit.id} of {name} allows {allowed} {limit.quantity} at once, and a request {on} without max_tokens takes up to {most}"
    known = sorted(model for model in asked if model in settings.models)
    knob = f'[models."{known[0]}"] max_output_tokens' if known else "[estimates] default_max_output_tokens"
    cure = f"Each such request is refused for ever. Allow at least {most}, or lower {knob} to what the model really gives."
    return problem("limit-never-met", what, where="[[limits]]", cure=cure)
