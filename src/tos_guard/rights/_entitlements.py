"""Entitlements: what a system outside says of accounts, and what becomes of an account by it (docs/guides/entitlements.md).

- A document is read as a whole or refused as a whole. It says when it was issued: an older one never follows a newer one.
- What a source gives of an account is the source's, field by field and limit by limit; what it does not name is not touched, and standing
  is never its business. What it gave and gives no longer becomes what a new account has.
- Grants follow the rule of all grants: one stays as it was given. Where the document says another, the old one is voided and a new one
  given; where somebody else voided one, it stays voided until the document says something new.
- Where a source is silent for too long, what it gave *lapses*: models, actions and grants are taken back. What only describes or bounds
  the account stays: rights are what must not outlive their source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tos_guard._canonical import parse_json
from tos_guard.errors import AccountError, MalformedError
from tos_guard.rights._account import Account, Grant, _Amounts, _Name, _Region, _Word

__all__ = [
    "MAX_ENTITLEMENT_BYTES",
    "Entitlement",
    "EntitlementDocument",
    "Given",
    "entitlement_actor",
    "entitlement_changes",
    "parse_entitlements",
]

MAX_ENTITLEMENT_BYTES: Final = 8 * 1_048_576
"""Largest document: 20,000 accounts with a few models, limits and grants each."""

MAX_ENTITLED: Final = 50_000
"""Accounts in one document; each is looked at in turn."""

MAX_GIVEN_GRANTS: Final = 500
"""Grants of one source that an account holds, voided ones too: a source that changes them with each pull must not let it grow for ever."""

MAX_AHEAD: Final = timedelta(minutes=5)
"""How far ahead of our clock a document may be issued. One from next year would keep all others out until then."""

_MAX_DEPTH: Final = 6  # document, accounts, account, grants, grant, its models
_MAX_LISTED: Final = 1_000
_WHERE: Final = "entitlements"
_LAPSING: Final = ("models", "actions")
_FIELDS: Final = ("kind", "organization", "models", "actions", "region", "verification")
_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {name: value for name, value in Account(id="new").model_dump(mode="json").items() if name in _FIELDS}
)


class _Said(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True)


_Models = Annotated[frozenset[_Name], Field(max_length=_MAX_LISTED)]
_Words = Annotated[frozenset[_Word], Field(max_length=_MAX_LISTED)]


class EntitledGrant(_Said):
    """A grant as a document says it. Members as `Grant`; `id` is the source's own."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,16}$")]
    type: _Word
    models: _Models = frozenset()
    actions: _Words = frozenset()
    purposes: _Words = frozenset()
    regions: Annotated[frozenset[_Region], Field(max_length=_MAX_LISTED)] = frozenset()
    limits: _Amounts = Field(default_factory=dict)
    not_before: AwareDatetime | None = None
    not_after: AwareDatetime | None = None
    reason: Annotated[str, Field(max_length=2_000)] = ""
    evidence: Annotated[str, Field(max_length=500)] = ""

    @field_validator("reason", "evidence")
    @classmethod
    def _is_storable(cls, text: str) -> str:
        if "\0" in text:
            raise ValueError("holds U+0000")
        return text

    @field_validator("not_before", "not_after")
    @classmethod
    def _in_utc(cls, moment: datetime | None) -> datetime | None:
        if moment is not None and not 1970 <= moment.year <= 9000:  # beyond these, arithmetic with zones has no result
            raise ValueError("should be a time from 1970 to 9000")
        return None if moment is None else moment.astimezone(UTC)

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> EntitledGrant:
        if self.not_before is not None and self.not_after is not None and self.not_before > self.not_after:
            raise ValueError("the grant ends before it begins")
        return self

    def grant(self, grant_id: str, issuer: str) -> Grant:
        """The grant that an account is given."""
        members: dict[str, Any] = self.model_dump() | {"id": grant_id, "issuer": issuer}
        return Grant(**members)


class Entitlement(_Said):
    """What a document says of one account: members as of `Account`. What is not named is none of the source's."""

    kind: _Word = "default"
    organization: _Name | None = None
    models: _Models = frozenset()
    actions: Annotated[frozenset[Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9.-]{0,31})$")]], Field(max_length=_MAX_LISTED)] = (
        frozenset()
    )
    region: _Region | None = None
    verification: _Word | None = None
    limits: _Amounts = Field(default_factory=dict)
    grants: Annotated[tuple[EntitledGrant, ...], Field(max_length=100)] = ()

    @model_validator(mode="after")
    def _grant_ids_differ(self) -> Entitlement:
        if len({grant.id for grant in self.grants}) != len(self.grants):
            raise ValueError("two grants have one id")
        return self

    @property
    def members(self) -> dict[str, Any]:
        """The members that are named, as JSON: the same text for the same entitlement."""
        return _ordered(self.model_dump(mode="json", exclude_unset=True))

    @property
    def text(self) -> str:
        """`members` as text; `parse` reads it."""
        return json.dumps(self.members, sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Entitlement:
        """The entitlement of `text`.

        Raises:
            MalformedError: It is none.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise MalformedError("a kept entitlement cannot be read", where=_WHERE) from None


class EntitlementDocument(_Said):
    """A document of entitlements.

    Attributes:
        version: The form of the document.
        issued: When its source made it.
        accounts: What it says, by account id.
    """

    version: Literal[1]
    issued: AwareDatetime
    accounts: Annotated[dict[_Name, Entitlement], Field(max_length=MAX_ENTITLED)]

    @field_validator("issued")
    @classmethod
    def _in_utc(cls, issued: datetime) -> datetime:
        if not 1970 <= issued.year <= 9000:
            raise ValueError("should be a time from 1970 to 9000")
        return issued.astimezone(UTC)

    @field_validator("accounts")
    @classmethod
    def _are_names(cls, accounts: dict[str, Entitlement]) -> dict[str, Entitlement]:
        for name in accounts:
            if "\0" in name:
                raise ValueError("an account's id holds U+0000")
        return accounts

    @property
    def limits(self) -> frozenset[str]:
        """Every limit that it names."""
        named: set[str] = set()
        for entitlement in self.accounts.values():
            named.update(entitlement.limits, *(grant.limits for grant in entitlement.grants))
        return frozenset(named)


@dataclass(frozen=True, slots=True)
class Given:
    """What a source gave an account last.

    Attributes:
        entitlement: What it said.
        lapsed: Whether it was taken back since, because the source fell silent.
    """

    entitlement: Entitlement
    lapsed: bool = False


def parse_entitlements(data: bytes, *, now: datetime) -> EntitlementDocument:
    """Read a document.

    Args:
        data: Its bytes.
        now: The present.

    Raises:
        MalformedError: It is no strict JSON, too large, of another version, issued in the future, or says something that no account has.
    """
    parse_json(data, where=_WHERE, max_depth=_MAX_DEPTH, max_bytes=MAX_ENTITLEMENT_BYTES)  # no name twice, bounded depth
    try:
        document = EntitlementDocument.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:200]
        raise MalformedError(f"{place or 'the document'}: {first['msg'].removeprefix('Value error, ')[:200]}", where=_WHERE) from None
    if document.issued > now + MAX_AHEAD:
        raise MalformedError(f"issued in the future, at {document.issued.isoformat()}", where=_WHERE, cure="Are both clocks right?")
    return document


def entitlement_actor(source: str) -> str:
    """Who changes accounts by what a source says, as histories and grants name it."""
    return f"entitlements:{source}"


def entitlement_changes(
    source: str, account: Account, given: Entitlement | None, earlier: Given | None, *, now: datetime, lapse: bool = False
) -> dict[str, Any]:
    """Members of an account's JSON form to set, so that it has what a source gives, and no longer what it gave. Empty where it is so.

    Args:
        source: Its name.
        account: The account as it is.
        given: What the source says of it; None where it says nothing.
        earlier: What it gave last, or None.
        now: The present.
        lapse: The source is silent: take back the rights that it gave. *given* is None then.

    Raises:
        AccountError: It would hold more grants of this source than an account may.
    """
    stored = account.model_dump(mode="json")
    named = given.members if given is not None else {}
    before = earlier.entitlement.members if earlier is not None else {}
    wanted: dict[str, Any] = {}
    for name in _LAPSING if lapse else _FIELDS:
        if name in named:
            wanted[name] = named[name]
        elif name in before:
            wanted[name] = _DEFAULTS[name]
    if not lapse:
        limits = {name: amount for name, amount in stored["limits"].items() if name not in before.get("limits", {})}
        wanted["limits"] = limits | named.get("limits", {})
    wanted["grants"] = [grant.model_dump(mode="json") for grant in _grants(source, account, given, earlier, now=now, lapse=lapse)]
    present = _ordered(stored) | {"grants": stored["grants"]}
    return {name: value for name, value in wanted.items() if value != present[name]}


def _grants(source: str, account: Account, given: Entitlement | None, earlier: Given | None, *, now: datetime, lapse: bool) -> list[Grant]:
    """The account's grants, those of the source as it says."""
    issuer = entitlement_actor(source)
    said = {grant.id: grant for grant in given.grants} if given is not None else {}
    known = {grant.id: grant for grant in earlier.entitlement.grants} if earlier is not None and not earlier.lapsed else {}
    why = "the source of entitlements is silent" if lapse else "not among the entitlements any longer"
    kept: list[Grant] = []
    settled: set[str] = set()
    for held in account.grants:
        own_id = _own_id(source, held) if held.issuer == issuer else None
        wanted = said.get(own_id or "")
        if own_id is None:
            kept.append(held)
        elif held.voided is not None:
            kept.append(held)
            if known.get(own_id) == wanted:  # somebody else took it back, and the source has said nothing new since
                settled.add(own_id)
        elif wanted is not None and wanted.grant(held.id, issuer) == held:
            kept.append(held)
            settled.add(own_id)
        else:
            kept.append(held.model_copy(update={"voided": now, "void_reason": why}))
    taken = {grant.id for grant in kept}
    for own_id, wanted in said.items():
        if own_id not in settled:
            kept.append(wanted.grant(_free_id(f"{source}.{own_id}", taken), issuer))
    if sum(grant.issuer == issuer for grant in kept) > max(MAX_GIVEN_GRANTS, sum(grant.issuer == issuer for grant in account.grants)):
        raise AccountError(f"more than {MAX_GIVEN_GRANTS} grants of {issuer}, voided ones too", where=f"account {account.id}")
    return kept


def _own_id(source: str, grant: Grant) -> str | None:
    """The source's own id of a grant of it."""
    parts = grant.id.split(".")
    return parts[1] if len(parts) in (2, 3) and parts[0] == source else None


def _free_id(base: str, taken: set[str]) -> str:
    """An id for the grant: the source's own, and which of that id it is from the second on."""
    number, grant_id = 1, base
    while grant_id in taken:
        number += 1
        grant_id = f"{base}.{number}"
    taken.add(grant_id)
    return grant_id


def _ordered(members: dict[str, Any]) -> dict[str, Any]:
    """JSON of sets in one order."""
    return {
        name: sorted(value)
        if isinstance(value, list) and name != "grants"
        else [_ordered(one) for one in value]
        if name == "grants"
        else value
        for name, value in members.items()
    }
