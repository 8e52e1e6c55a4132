"""What administrators may send, member by member. Unknown members and other types are refused; the values' own rules are their types'."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tos_guard.config import describe
from tos_guard.errors import AccountError, MalformedRequestError
from tos_guard.rights import Binding, KeyTerms
from tos_guard.stores import MAX_ANSWER_CHARS
from tos_guard.types import Standing, SubjectKind
from tos_guard.web._routes import MAX_BODY_BYTES, WebRequest, json_members

__all__ = [
    "ChangeAccount",
    "ChangeOrganization",
    "DecideAppeal",
    "EndUser",
    "NewAccount",
    "NewGrant",
    "NewKey",
    "NewMeasure",
    "NewOrganization",
    "PublishTerms",
    "Reason",
    "RecordAcceptance",
    "RecordWithdrawal",
    "RotateKey",
    "SetLimit",
    "read_input",
]

MAX_LISTED: Final = 1_000  # models, actions, persons of one account, grant or organization
MAX_SAID: Final = 500  # characters of what is wrong with a body
MAX_REASON_CHARS: Final = 2_000
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 9000


def _in_utc(at: datetime) -> datetime:
    if not FIRST_YEAR <= at.year <= LAST_YEAR:  # beyond these, arithmetic with zones and seconds has no result
        raise ValueError(f"should be a time from {FIRST_YEAR} to {LAST_YEAR}")
    return at.astimezone(UTC)


_Text = Annotated[str, Field(max_length=500)]
_Why = Annotated[str, Field(min_length=1, max_length=MAX_REASON_CHARS)]
_Said = Annotated[str, Field(max_length=MAX_REASON_CHARS)]
_Listed = Annotated[list[_Text], Field(max_length=MAX_LISTED)]
_Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
_Amount = Annotated[int, Field(ge=0, le=2**48)]
_Model = TypeVar("_Model", bound="Input")


class Input(BaseModel):
    """A body. Its members are of exactly these types."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True)

    def given(self) -> dict[str, Any]:
        """The members that were sent."""
        return self.model_dump(include=self.model_fields_set)


class Reason(Input):
    """Why."""

    reason: _Why


class NewAccount(Input):
    """An account; it may do nothing until it has a model, and ask for nothing until it has a key."""

    id: _Text
    kind: _Text = "default"
    organization: _Text | None = None
    models: _Listed = []
    actions: _Listed = ["generate"]
    region: _Text | None = None
    verification: _Text | None = None
    stable_sub: bool = False


class ChangeAccount(Input):
    """Members to set of an account that was read before, in the version that it had then."""

    version: int
    reason: _Why
    kind: _Text = ""
    organization: _Text | None = None
    models: _Listed = []
    actions: _Listed = []
    region: _Text | None = None
    verification: _Text | None = None
    stable_sub: bool = False


class NewKey(Input):
    """An API key: what the administrator calls it, and what it is for; None for all that its account may."""

    label: _Text
    models: _Listed | None = None
    actions: _Listed | None = None
    expires: _Moment | None = None
    jkt: _Text | None = None
    x5t: _Text | None = None

    def terms(self) -> KeyTerms:
        """What it is for.

        Raises:
            AccountError: It cannot be that.
        """
        try:
            binding = Binding(self.jkt, self.x5t)
        except ValueError as error:
            raise AccountError(str(error), where="key") from None
        actions, models = (None if names is None else frozenset(names) for names in (self.actions, self.models))
        return KeyTerms(actions, models, self.expires, binding)


class RotateKey(Input):
    """A key in place of another: for how many seconds the old one stays good."""

    overlap_seconds: Annotated[int, Field(ge=0, le=366 * 86_400)]


class NewGrant(Input):
    """A grant."""

    id: _Text
    type: _Text
    models: _Listed = []
    actions: _Listed = []
    purposes: _Listed = []
    regions: _Listed = []
    limits: Annotated[dict[_Text, _Amount], Field(max_length=MAX_LISTED)] = {}
    not_before: _Moment | None = None
    not_after: _Moment | None = None
    issuer: _Text = ""
    reason: _Why
    evidence: _Text = ""


class NewMeasure(Input):
    """A measure. Its id is made where none is given, and it begins now."""

    id: _Text | None = None
    step: Standing
    reason: _Why
    clauses: Annotated[list[_Text], Field(max_length=16)] = []
    notice: _Said = ""
    evidence: _Text = ""
    issuer: Annotated[str, Field(max_length=200)] = ""
    automated: bool = False
    begins: _Moment | None = None
    requires: Literal["accept", "verify", "contact"] | None = None
    deadline: _Moment | None = None
    then: Standing | None = None
    expires: _Moment | None = None


class DecideAppeal(Input):
    """The decision on an appeal, and what the account is told of it."""

    upheld: bool
    answer: Annotated[str, Field(min_length=1, max_length=MAX_ANSWER_CHARS)]


class SetLimit(Input):
    """An own amount of a limit; None for that of the settings again."""

    limit: _Text
    amount: _Amount | None
    reason: _Said = ""


class EndUser(Input):
    """An end user: as the account names it in its requests, or by the hash that records have."""

    end_user: Annotated[str, Field(min_length=1, max_length=1_024)] | None = None
    hash: _Text | None = None
    reason: _Why

    @model_validator(mode="after")
    def _is_named_once(self) -> EndUser:
        if (self.end_user is None) is (self.hash is None):
            raise ValueError("give either end_user or hash")
        return self


class Authorized(Input):
    """Who may accept for an organization, and why."""

    id: _Text
    authority: _Text


class NewOrganization(Input):
    """An organization."""

    id: _Text
    name: _Text = ""
    authorized: Annotated[list[Authorized], Field(max_length=MAX_LISTED)] = []


class ChangeOrganization(Input):
    """As `ChangeAccount`, of an organization."""

    version: int
    reason: _Why
    name: _Text = ""
    authorized: Annotated[list[Authorized], Field(max_length=MAX_LISTED)] = []


class PublishTerms(Input):
    """A terms document (TOML) and its text (Markdown); only looked at, where `check_only` says so."""

    document: str
    text: str
    check_only: bool = False


class Whom(Input):
    """For whom terms were accepted."""

    kind: SubjectKind
    id: _Text


class RecordAcceptance(Input):
    """That terms were accepted elsewhere."""

    subject: Whom
    version: _Text
    accepted_by: _Text
    authority: _Text = ""
    at: _Moment | None = None
    expires: _Moment | None = None


class RecordWithdrawal(Input):
    """That an acceptance was taken back elsewhere."""

    withdrawn_by: _Text
    authority: _Text = ""
    reason: _Text = ""


def read_input(model: type[_Model], request: WebRequest, *, max_bytes: int = MAX_BODY_BYTES) -> _Model:
    """The body of a request as *model*.

    Raises:
        UnsupportedMediaTypeError: It does not say that it is JSON.
        MalformedRequestError: It is no strict JSON, or a member is missing, unknown or wrong; the text names each.
    """
    json_members(request, max_bytes=max_bytes)  # stricter than what follows: no name twice, bounded depth
    try:
        return model.model_validate_json(request.body)
    except ValidationError as error:
        raise MalformedRequestError(describe(error)[:MAX_SAID], where="request body") from None
