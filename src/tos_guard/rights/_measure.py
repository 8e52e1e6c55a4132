"""Measures: what puts an account on a step of the ladder of standing, and for how long (docs/adr/0009, "Standing").

- A measure never changes once it is taken: it is lifted by a mark, so that where an account stood on a past day can still be told.
- Where it puts the account follows from the time: it begins and ends, and becomes another step when its deadline is missed, without a job.
- What it asks for, once it is done, ends it; late as well, since nothing is gained by keeping out who has done it. Where a person is
  to look first, it asks to make contact, and that person lifts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from tos_guard.rights._checked import Checked
from tos_guard.terms import Acceptance
from tos_guard.types import Standing

__all__ = ["MAX_MEASURE_TEXT", "Measure", "Requirement", "is_worse"]

MAX_MEASURE_TEXT: Final = 2_000  # of a reason or a notice, in characters: all measures are read with their account
_GENERAL: Final = "general"

Requirement = Literal["accept", "verify", "contact"]
"""What a measure may ask for: to accept the terms again, to be verified, to make contact."""

_ORDER: Final = {standing: place for place, standing in enumerate(Standing)}


def is_worse(one: Standing, other: Standing) -> bool:
    """Whether *one* is below *other* on the ladder."""
    return _ORDER[one] > _ORDER[other]


class Measure(Checked):
    """A step on the ladder of standing, with its reasons. It holds what a statement of reasons needs (Regulation (EU) 2022/2065, art. 17).

    Attributes:
        id: Its id, which refusals name; 1–32 of ``A-Z a-z 0-9 . _ -``.
        step: Where it puts the account; never ``good``.
        reason: Why: the facts, in words that the account reads.
        clauses: Ids of the clauses of the terms that were not kept.
        notice: What else the account is told: what to change, whom to ask.
        evidence: Where the evidence lies: a case, an address. Not for the account.
        issuer: Who decided, as the provider names its people or systems. Not for the account.
        automated: Whether no person decided.
        begins: First moment in which it holds.
        requires: What is asked of the account, or None. Once it is done the measure ends; contact is for a person to see.
        deadline: By when it is to be done, or None.
        then: The step that follows a deadline missed, worse than `step`; None where none follows.
        expires: First moment in which it no longer holds, or None.
        lifted: When it was lifted, or None.
        lifted_by: Who lifted it.
        lift_reason: Why it was lifted.

    Raises:
        AccountError: A member is missing, unknown or wrong.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
    step: Standing
    reason: Annotated[str, Field(min_length=1, max_length=MAX_MEASURE_TEXT)]
    clauses: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(max_length=16)] = ()
    notice: Annotated[str, Field(max_length=MAX_MEASURE_TEXT)] = ""
    evidence: Annotated[str, Field(max_length=500)] = ""
    issuer: Annotated[str, Field(max_length=200)] = ""
    automated: bool = False
    begins: AwareDatetime
    requires: Requirement | None = None
    deadline: AwareDatetime | None = None
    then: Standing | None = None
    expires: AwareDatetime | None = None
    lifted: AwareDatetime | None = None
    lifted_by: Annotated[str, Field(max_length=200)] = ""
    lift_reason: Annotated[str, Field(max_length=MAX_MEASURE_TEXT)] = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.step is Standing.GOOD:
            raise ValueError("good standing needs no measure: lift those that hold")
        if self.expires is not None and self.expires <= self.begins:
            raise ValueError("the measure ends before it begins")
        if self.deadline is not None and self.requires is None:
            raise ValueError("a deadline, and nothing that is to be done by it: give requires")
        if self.deadline is not None and (self.deadline <= self.begins or (self.expires is not None and self.deadline >= self.expires)):
            raise ValueError("the deadline does not lie between begin and end of the measure")
        if self.then is not None and self.deadline is None:
            raise ValueError("a step that follows a missed deadline, and no deadline")
        if self.then is not None and not is_worse(self.then, self.step):
            raise ValueError(f"what follows a missed deadline must be worse than {self.step}")
        if self.lifted is None and (self.lifted_by or self.lift_reason):
            raise ValueError("who lifted it or why, and no time at which it was lifted")
        return self

    def is_in_force(self, now: datetime) -> bool:
        """Whether it holds at *now*, if what it asks for is not done."""
        if self.lifted is not None and self.lifted <= now:
            return False
        return self.begins <= now and (self.expires is None or now < self.expires)

    def is_missed(self, now: datetime) -> bool:
        """Whether its deadline is over at *now*."""
        return self.deadline is not None and self.deadline <= now

    def step_at(self, now: datetime) -> Standing:
        """Where it puts the account at *now*, while it is in force."""
        return self.then if self.then is not None and self.is_missed(now) else self.step

    def is_answered(self, acceptances: Iterable[Acceptance]) -> bool:
        """Whether the general terms were accepted since it began. Receipts count in whole seconds."""
        since = self.begins.replace(microsecond=0)
        return any(one.series == _GENERAL and one.withdrawal is None and one.at >= since for one in acceptances)

    def edges(self) -> Iterator[datetime]:
        """The moments at which it may mean something else."""
        for edge in (self.begins, self.deadline, self.expires, self.lifted):
            if edge is not None:
                yield edge

    def unlifted(self) -> Measure:
        """The measure as it was taken: what never changes."""
        return self.model_copy(update={"lifted": None, "lifted_by": "", "lift_reason": ""})
