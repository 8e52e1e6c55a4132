"""What was decided about a request, and why: the same plan as the one that decided, with everything that went into it spelled out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tos_guard.rights._account import Account, Grant, Holder
from tos_guard.rights._plan import Plan, Rights
from tos_guard.rights._plans import holder_plan
from tos_guard.rights._standing import DEFAULT_LADDER, HeldStanding, Ladder
from tos_guard.terms import Acceptance, Clause, TermsShelf, TermsVersion
from tos_guard.types import Decision, Facts

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with all that it rests on.

    Attributes:
        at: The moment it is for.
        facts: What was known of the request.
        holder: The account, its organization and acceptances, as they were.
        plan: What decided.
        decision: The decision; limits are not part of it, since counters are not history.
    """

    at: datetime
    facts: Facts
    holder: Holder
    plan: Plan
    decision: Decision

    @property
    def account(self) -> Account:
        """The account as it was."""
        return self.holder.account

    @property
    def standing(self) -> HeldStanding:
        """Where the account stood, and because of which measures."""
        return self.plan.standing

    @property
    def documents(self) -> tuple[TermsVersion, ...]:
        """The terms that bound it, the general ones first."""
        return self.plan.terms.documents

    @property
    def rights(self) -> Rights:
        """What held for requests like this one."""
        return self.plan.rights(self.facts)

    @property
    def acceptance(self) -> Acceptance | None:
        """The acceptance because of which the general terms bound it, or None where they bound without one."""
        return next((one for one in self.holder.acceptances if one.id == self.plan.receipt), None)

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """The clauses that decided, shadowed ones too, in the order of the reasons."""
        by_id = {clause.id: clause for clause in self.plan.terms.clauses}
        return tuple(by_id[reason.clause] for reason in self.decision.reasons if reason.clause in by_id)

    @property
    def grants(self) -> tuple[Grant, ...]:
        """The grants that were in force and held for this request."""
        return tuple(
            grant
            for grant in self.account.grants
            if grant.is_active(self.at)
            and not self.plan.rung.without_grants
            and grant.is_for(self.facts.model)
            and grant.covers(self.facts.purpose, self.facts.region)
        )


def explain(holder: Holder, shelf: TermsShelf, facts: Facts, *, at: datetime, ladder: Ladder = DEFAULT_LADDER) -> Explanation:
    """Decide a request once more, as it was decided at *at*.

    Args:
        holder: The account as it was, and acceptances; later ones do not count.
        shelf: The terms that were published by then.
        facts: What was known of the request.
        at: The moment.
        ladder: What the steps of standing do.
    """
    plan = holder_plan(holder, shelf, facts.model, now=at, ladder=ladder)
    return Explanation(at, facts, holder, plan, plan.decide(facts))
