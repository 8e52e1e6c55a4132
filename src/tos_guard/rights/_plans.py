"""The terms that bind an account, and its plans under them, kept as long as nothing has changed (DESIGN D3, docs/adr/0007).

A plan is kept for the very account, organization, acceptances and shelf of terms it was compiled from, and until the next moment at which
terms, an acceptance, a grant or a measure begins or ends, or a deadline passes: a stale one cannot be used.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime

from cachetools import LRUCache

from tos_guard.rights._account import Holder
from tos_guard.rights._plan import Plan, compile_plan
from tos_guard.rights._standing import DEFAULT_LADDER, Ladder
from tos_guard.terms import TermsBinding, TermsShelf, TermsStack

__all__ = ["PlanCache", "holder_plan"]


def holder_plan(holder: Holder, shelf: TermsShelf, model: str, *, now: datetime, ladder: Ladder = DEFAULT_LADDER) -> Plan:
    """The plan of *holder* for requests on *model*, as it is at *now*; compiled afresh."""
    return _Held.of(holder, shelf, ladder, now).plan(model, now)


@dataclass(slots=True)
class _Held:
    """The plans of one account."""

    holder: Holder
    shelf: TermsShelf
    ladder: Ladder
    binding: TermsBinding
    until: datetime | None
    supplemented: frozenset[str]
    plans: dict[str | None, Plan] = field(default_factory=dict)

    @classmethod
    def of(cls, holder: Holder, shelf: TermsShelf, ladder: Ladder, now: datetime) -> _Held:
        binding = shelf.binding(holder.account.organization, holder.acceptances, now)
        return cls(holder, shelf, ladder, binding, until=binding.changes, supplemented=binding.models)

    def holds(self, holder: Holder, shelf: TermsShelf, now: datetime) -> bool:
        """Whether nothing has changed since."""
        if self.shelf is not shelf or (self.until is not None and now >= self.until):
            return False
        return self.holder is holder or self.holder == holder

    def plan(self, model: str, now: datetime) -> Plan:
        """The plan for a model; all that no terms name share one."""
        name = model if model in self.supplemented else None
        plan = self.plans.get(name)
        if plan is None or (plan.expires is not None and now >= plan.expires):
            plan = self.plans[name] = self._compiled(name, now)
        return plan

    def _compiled(self, model: str | None, now: datetime) -> Plan:
        general = self.binding.bounds[0]
        # Where no general terms bind yet, a denial still names some: those to accept, or the first that were published.
        named = general.version or general.to_accept or self.shelf.versions_of(general.series)[0]
        accepted = general.acceptance
        return compile_plan(
            self.holder.account,
            self.binding.stack(model) or TermsStack.of(named),
            now=now,
            to_accept=tuple(bound.to_accept for bound in self.binding.refusing(model) if bound.to_accept is not None),
            receipt=accepted.id if accepted is not None else None,
            until=self.until,
            acceptances=self.holder.acceptances,
            ladder=self.ladder,
        )


class PlanCache:
    """Plans by issuer and account (DESIGN D3). Any thread may call.

    Args:
        size: Most accounts whose plans are kept.
        ladder: What the steps of standing do.
    """

    def __init__(self, *, size: int = 10_000, ladder: Ladder = DEFAULT_LADDER) -> None:
        self._ladder = ladder
        self._held: LRUCache[tuple[str, str], _Held] = LRUCache(size)
        self._lock = threading.Lock()

    def plan(self, holder: Holder, shelf: TermsShelf, model: str, *, issuer: str, now: datetime) -> Plan:
        """The plan of *holder* for requests on *model* at *now*."""
        key = (issuer, holder.account.id)
        with self._lock:
            held = self._held.get(key)
        if held is None or not held.holds(holder, shelf, now):
            held = _Held.of(holder, shelf, self._ladder, now)
            with self._lock:
                self._held[key] = held
        return held.plan(model, now)
