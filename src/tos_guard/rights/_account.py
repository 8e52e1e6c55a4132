"""Accounts and their grants: plain values that pydantic has checked."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tos_guard.errors import AccountError
from tos_guard.types import Standing

__all__ = ["Account", "Grant"]

_Name = Annotated[str, Field(min_length=1, max_length=128)]
_Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")]


class _Checked(BaseModel):
    """A frozen value that refuses what it does not know, with our error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **members: Any) -> None:
        try:
            super().__init__(**members)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join((type(self).__name__.lower(), *(str(part) for part in first["loc"])))
            raise AccountError(first["msg"], where=where) from None


class Grant(_Checked):
    """A positive right beyond the default: a licence to distil, a research exemption, a larger set of models.

    A grant that names models holds for requests on these alone, and opens them to the account: a licence to distil one model says
    nothing about another.

    Attributes:
        id: Its id, which tokens carry where it applies; 1–32 of ``A-Z a-z 0-9 . _ -``.
        type: Kind of grant, as the terms name it.
        models: Models it is for, ``*`` for every model; they are added to the account's own. Empty for all that the account may use.
        actions: Actions it adds to the account's own, on the models it is for.
        not_before: First moment it is in force, or None.
        not_after: Last moment, or None.
        reason: Why it was given.

    Raises:
        AccountError: A member is missing, unknown or wrong.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
    type: _Word
    models: frozenset[_Name] = frozenset()
    actions: frozenset[_Word] = frozenset()
    not_before: AwareDatetime | None = None
    not_after: AwareDatetime | None = None
    reason: str = ""

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.not_before is not None and self.not_after is not None and self.not_before > self.not_after:
            raise ValueError("the grant ends before it begins")
        return self

    def is_for(self, model: str) -> bool:
        """Whether it holds for requests on this model, if the account may use that."""
        return not self.models or model in self.models or "*" in self.models

    def is_active(self, now: datetime) -> bool:
        """Whether it is in force at *now*."""
        return (self.not_before is None or self.not_before <= now) and (self.not_after is None or now <= self.not_after)


class Account(_Checked):
    """An account and all its rights. "Changing" one makes a new one with a higher version.

    Attributes:
        id: The provider's own id; never in a token.
        version: One more with each change.
        kind: What kind of customer it is, as conditions of the terms name it.
        organization: Organization it belongs to, or None.
        standing: Where it stands.
        models: Models it may use; ``*`` for all.
        actions: Actions it may ask for; ``*`` for all.
        grants: Its grants, in force or not.
        region: ISO 3166-1 alpha-2 code the provider asserts, or None for unknown.
        verification: Level to which the provider has verified it, or None for unknown.
        stable_sub: The account asked for one pseudonym in all its tokens; by default each token has a fresh one.

    Raises:
        AccountError: A member is missing, unknown or wrong, or two grants have one id.
    """

    id: _Name
    version: Annotated[int, Field(ge=1)] = 1
    kind: _Word = "default"
    organization: _Name | None = None
    standing: Standing = Standing.GOOD
    models: frozenset[_Name] = frozenset()
    actions: frozenset[Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9.-]{0,31})$")]] = frozenset({"generate"})
    grants: tuple[Grant, ...] = ()
    region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    verification: _Word | None = None
    stable_sub: bool = False

    @model_validator(mode="after")
    def _grant_ids_differ(self) -> Self:
        if len({grant.id for grant in self.grants}) != len(self.grants):
            raise ValueError("two grants have one id")
        return self
