"""Organizations, accounts and their grants: plain values that pydantic has checked.

A grant never changes once it is given: it is voided by a mark, so that what an account was allowed on a past day can still be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, Field, PlainSerializer, model_validator

from tos_guard.rights._checked import Checked
from tos_guard.rights._measure import Measure
from tos_guard.rights._standing import DEFAULT_LADDER, HeldStanding, Ladder, held_standing
from tos_guard.terms import Acceptance
from tos_guard.types import Standing

__all__ = ["Account", "AuthorizedPerson", "Grant", "Holder", "Organization"]

MAX_MEASURES: int = 1_000  # of one account, lifted ones too: all are read with it
MAX_BLOCKED_END_USERS: int = 10_000  # of one account; each is 25 characters, and all are read with it

_Name = Annotated[str, Field(min_length=1, max_length=128)]
_Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")]
_Region = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
_Amounts = Annotated[
    Mapping[_Word, Annotated[int, Field(ge=0, le=2**48)]],
    AfterValidator(lambda amounts: MappingProxyType(dict(amounts))),
    Field(validate_default=True),
    PlainSerializer(dict, return_type=dict[str, int]),
]
"""Amounts by limit id, in place of those that the settings give."""


class Grant(Checked):
    """A positive right beyond the default: a licence to distil, a research exemption, a larger set of models, a larger limit.

    A grant that names models, purposes or regions holds for requests on these alone: a licence to distil one model says nothing about
    another. Models that it names are opened to the account by it.

    Attributes:
        id: Its id, which tokens carry where it applies; 1–32 of ``A-Z a-z 0-9 . _ -``.
        type: Kind of grant, as the terms name it.
        models: Models it is for, ``*`` for every model; they are added to the account's own. Empty for all that the account may use.
        actions: Actions it adds to the account's own, on the models it is for.
        purposes: Declared purposes it is for; empty for all, undeclared ones too.
        regions: Asserted regions (ISO 3166-1 alpha-2) it is for; empty for all, unknown ones too.
        limits: Amounts by limit id; where one is larger than the account's own, it holds instead.
        not_before: First moment it is in force, or None.
        not_after: Last moment, or None.
        issuer: Who gave it, as the provider names its people or systems.
        reason: Why it was given.
        evidence: Where the evidence lies: a contract's number, a case, an address.
        voided: When it was taken back, or None.
        void_reason: Why it was taken back.

    Raises:
        AccountError: A member is missing, unknown or wrong.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
    type: _Word
    models: frozenset[_Name] = frozenset()
    actions: frozenset[_Word] = frozenset()
    purposes: frozenset[_Word] = frozenset()
    regions: frozenset[_Region] = frozenset()
    limits: _Amounts = Field(default_factory=dict)
    not_before: AwareDatetime | None = None
    not_after: AwareDatetime | None = None
    issuer: Annotated[str, Field(max_length=200)] = ""
    reason: str = ""
    evidence: Annotated[str, Field(max_length=500)] = ""
    voided: AwareDatetime | None = None
    void_reason: str = ""

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.not_before is not None and self.not_after is not None and self.not_before > self.not_after:
            raise ValueError("the grant ends before it begins")
        if self.void_reason and self.voided is None:
            raise ValueError("a reason to void it, and no time at which it was voided")
        return self

    def is_for(self, model: str) -> bool:
        """Whether it holds for requests on this model, if the account may use that."""
        return not self.models or model in self.models or "*" in self.models

    @property
    def is_conditional(self) -> bool:
        """Whether it holds only for requests with certain purposes or regions."""
        return bool(self.purposes or self.regions)

    def covers(self, purpose: str, region: str | None) -> bool:
        """Whether it holds for requests with this declared purpose from this asserted region; an unknown region is none of its own."""
        return (not self.purposes or purpose in self.purposes) and (not self.regions or region in self.regions)

    def is_active(self, now: datetime) -> bool:
        """Whether it is in force at *now*."""
        if self.voided is not None and self.voided <= now:
            return False
        return (self.not_before is None or self.not_before <= now) and (self.not_after is None or now <= self.not_after)

    def unvoided(self) -> Grant:
        """The grant as it was given: what never changes."""
        return self.model_copy(update={"voided": None, "void_reason": ""})


class Account(Checked):
    """An account and all its rights. "Changing" one makes a new one with a higher version.

    Attributes:
        id: The provider's own id; never in a token.
        version: One more with each change.
        kind: What kind of customer it is, as conditions of the terms name it.
        organization: Organization it belongs to, or None.
        standing: Where it stands without any measure; see `standing_at`.
        models: Models it may use; ``*`` for all.
        actions: Actions it may ask for; ``*`` for all.
        grants: Its grants, in force or not.
        region: ISO 3166-1 alpha-2 code the provider asserts, or None for unknown.
        verification: Level to which the provider has verified it, or None for unknown.
        stable_sub: The account asked for one pseudonym in all its tokens; by default each token has a fresh one.
        limits: Amounts by limit id, in place of those that the settings give.
        blocked_end_users: End users of it that are refused, each as its keyed hash (``eu_…``).
        measures: The measures that were taken, in force or not.

    Raises:
        AccountError: A member is missing, unknown or wrong, or two grants or two measures have one id.
    """

    id: _Name
    version: Annotated[int, Field(ge=1)] = 1
    kind: _Word = "default"
    organization: _Name | None = None
    standing: Standing = Standing.GOOD
    models: frozenset[_Name] = frozenset()
    actions: frozenset[Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9.-]{0,31})$")]] = frozenset({"generate"})
    grants: tuple[Grant, ...] = ()
    region: _Region | None = None
    verification: _Word | None = None
    stable_sub: bool = False
    limits: _Amounts = Field(default_factory=dict)
    blocked_end_users: Annotated[
        frozenset[Annotated[str, Field(pattern=r"^eu_[A-Za-z0-9_-]{22}$")]], Field(max_length=MAX_BLOCKED_END_USERS)
    ] = frozenset()
    measures: Annotated[tuple[Measure, ...], Field(max_length=MAX_MEASURES)] = ()

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        if len({grant.id for grant in self.grants}) != len(self.grants):
            raise ValueError("two grants have one id")
        if len({measure.id for measure in self.measures}) != len(self.measures):
            raise ValueError("two measures have one id")
        return self

    def standing_at(self, now: datetime, *, acceptances: Iterable[Acceptance] = (), ladder: Ladder = DEFAULT_LADDER) -> HeldStanding:
        """Where it stands at *now*: the lowest of its own standing and of the measures in force, from the time alone.

        Args:
            now: The moment.
            acceptances: Those of the account and of its organization that are known, for measures that ask to accept again.
            ladder: What the steps do, for measures that ask to be verified.
        """
        return held_standing(self.standing, self.measures, now, verification=self.verification, acceptances=acceptances, ladder=ladder)


class AuthorizedPerson(Checked):
    """Somebody who may accept terms for an organization.

    Attributes:
        id: How the provider or its identity provider names the person: an address, a subject.
        authority: What gives the right: an office, a power of attorney.
    """

    id: _Name
    authority: Annotated[str, Field(min_length=1, max_length=200)]


class Organization(Checked):
    """What accounts of one customer share. "Changing" one makes a new one with a higher version.

    Attributes:
        id: The provider's own id, as `Account.organization` names it.
        version: One more with each change.
        name: What people call it.
        authorized: Who may accept terms for it.
        limits: Amounts by limit id, for limits per organization.

    Raises:
        AccountError: A member is missing, unknown or wrong, or one person stands twice.
    """

    id: _Name
    version: Annotated[int, Field(ge=1)] = 1
    name: Annotated[str, Field(max_length=200)] = ""
    authorized: tuple[AuthorizedPerson, ...] = ()
    limits: _Amounts = Field(default_factory=dict)

    @model_validator(mode="after")
    def _persons_differ(self) -> Self:
        if len({person.id for person in self.authorized}) != len(self.authorized):
            raise ValueError("one person is authorized twice")
        return self

    def authority_of(self, person: str) -> str | None:
        """What gives the person the right to accept for it, or None."""
        return next((one.authority for one in self.authorized if one.id == person), None)


@dataclass(frozen=True, slots=True)
class Holder:
    """An account with what else its rights depend on, as they were read at one moment.

    Attributes:
        account: The account.
        organization: Its organization, or None where it has none, or none is stored.
        acceptances: Acceptances of terms by the account and by its organization, oldest first, withdrawn ones too.
    """

    account: Account
    organization: Organization | None = None
    acceptances: tuple[Acceptance, ...] = ()
