"""The ladder of standing: what each step does, and on which an account stands at a moment (docs/adr/0009, "Standing").

The standing that holds is the lowest of the account's own and of its measures in force. In which order these were taken does not matter,
and lifting one leaves exactly what the others say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from tos_guard.rights._measure import Measure, is_worse
from tos_guard.terms import Acceptance
from tos_guard.types import Standing

__all__ = ["DEFAULT_LADDER", "HeldStanding", "Ladder", "Rung", "held_standing"]

THROTTLED_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Rung:
    """What one step does to the accounts that stand on it.

    Attributes:
        refuse: No request is served.
        limit_share: Part of each amount of the account's own limits that is left; at least 1 of each.
        models: Only these models are served; None for all that the account may use.
        without_actions: Actions that are closed.
        without_grants: Grants are suspended: the account has its own rights and no more.
        duties: What each response must carry, beside what the terms oblige to.
        accept: Requests wait until the terms are accepted again, since the measure began.
        verify: Requests wait until the account is verified to one of these levels; empty for no such demand.
    """

    refuse: bool = False
    limit_share: float = 1.0
    models: frozenset[str] | None = None
    without_actions: frozenset[str] = frozenset()
    without_grants: bool = False
    duties: tuple[str, ...] = ()
    accept: bool = False
    verify: frozenset[str] = frozenset()


_NOTHING: Final = Rung()
_DEFAULTS: Final[Mapping[Standing, Rung]] = MappingProxyType(
    {
        Standing.THROTTLED: Rung(limit_share=THROTTLED_SHARE),
        # Not less than the step above it: the lowest step holds alone, and must not give back what that took.
        Standing.RESTRICTED: Rung(limit_share=THROTTLED_SHARE, without_grants=True),
        Standing.SUSPENDED: Rung(refuse=True),
        Standing.TERMINATED: Rung(refuse=True),
    }
)


@dataclass(frozen=True, slots=True)
class Ladder:
    """What each step does.

    Attributes:
        rungs: By step; one that is not named does nothing but be told.
    """

    rungs: Mapping[Standing, Rung] = field(default_factory=lambda: _DEFAULTS)

    def rung(self, step: Standing) -> Rung:
        """What a step does."""
        return self.rungs.get(step, _NOTHING)

    def levels(self, step: Standing) -> frozenset[str]:
        """Levels of verification that answer a measure of this step: those that the step names, or else any that the ladder names."""
        return self.rung(step).verify or frozenset(level for rung in self.rungs.values() for level in rung.verify)


DEFAULT_LADDER: Final = Ladder()


@dataclass(frozen=True, slots=True)
class HeldStanding:
    """Where an account stands at a moment, and why.

    Attributes:
        step: The standing that holds.
        measure: The measure that puts it there, the one that began last where several do; None where the account's own standing does.
        in_force: All measures that hold, in the order in which they began.
        changes: The next moment at which this may be otherwise by the time alone, or None.
    """

    step: Standing
    measure: Measure | None = None
    in_force: tuple[Measure, ...] = ()
    changes: datetime | None = None


def held_standing(
    own: Standing,
    measures: Iterable[Measure],
    now: datetime,
    *,
    verification: str | None = None,
    acceptances: Iterable[Acceptance] = (),
    ladder: Ladder = DEFAULT_LADDER,
) -> HeldStanding:
    """Where an account stands at *now*.

    Args:
        own: Its own standing.
        measures: Its measures.
        now: The moment.
        verification: The level to which it is verified, or None.
        acceptances: Acceptances by it and its organization.
        ladder: What the steps do.
    """
    taken = tuple(measures)
    if not taken:
        return HeldStanding(own)
    known = tuple(acceptances)

    def is_done(measure: Measure) -> bool:
        match measure.requires:
            case "accept":
                return measure.is_answered(known)
            case "verify":
                return verification in ladder.levels(measure.step)
            case _:
                return False

    held = sorted((measure for measure in taken if measure.is_in_force(now) and not is_done(measure)), key=lambda one: (one.begins, one.id))
    step, decisive = own, None
    for measure in held:
        if not is_worse(step, measure.step_at(now)):
            step, decisive = measure.step_at(now), measure
    changes = min((edge for measure in taken for edge in measure.edges() if edge > now), default=None)
    return HeldStanding(step, decisive, tuple(held), changes)
