"""Who has accepted which terms for whom, and what binds an account because of it (docs/adr/0007).

An acceptance is a record that nobody changes. Its withdrawal is a second record. Both are given to the account as signed receipts
(docs/spec/receipts.md).

What binds, for each series:

- A version with ``acceptance = "none"`` binds from its effective day on.
- Otherwise the newest version in effect that was accepted. Who accepted a version has accepted those after it that are not material.
- Who has accepted an earlier version may go on under it until the effective day of a material one and its `grace_days` are over. Where
  several are owed, the first that runs out counts: publishing another does not give more time.
- Who never accepted, withdrew, or let the acceptance expire has no grace.
- An acceptance made before the effective day counts from that day on.
- A contract is accepted for its organization, and by no account for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import Final

from tos_guard._canonical import b64url_encode
from tos_guard.errors import AccountError
from tos_guard.protocols import Entropy
from tos_guard.terms._document import AcceptanceRule, TermsVersion
from tos_guard.terms._receipt import (
    MAX_AUTHORITY_CHARS,
    MAX_NAME_CHARS,
    MAX_REASON_CHARS,
    ReceiptClaims,
    ReceiptEvent,
    ReceiptTerms,
)
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind

__all__ = ["Acceptance", "Bound", "Withdrawal", "new_acceptance", "new_withdrawal", "standing_of"]

_ID_BYTES: Final = 16
_ONE_SECOND: Final = timedelta(seconds=1)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # six characters each in a receipt, or not to be written in one at all
_ACCEPTANCE_ID: Final = re.compile("acc_[A-Za-z0-9_-]{22}")
_WITHDRAWAL_ID: Final = re.compile("wdr_[A-Za-z0-9_-]{22}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """That an acceptance was taken back.

    Attributes:
        id: ``wdr_`` and 22 characters of base64url.
        acceptance: Id of the acceptance.
        withdrawn_by: The person, as the provider or its identity provider names people.
        authority: What gave the person the right; may be empty where an account speaks for itself.
        method: How it reached the provider.
        identified_by: How it is known who the person was.
        at: When, in whole seconds UTC.
        reason: Why, as they say; may be empty.
        receipt: Its receipt, a compact JWS, or None.

    Raises:
        AccountError: A member is empty, too long or of another form.
    """

    id: str
    acceptance: str
    withdrawn_by: str
    authority: str
    method: AcceptanceMethod
    identified_by: Identification
    at: datetime
    reason: str = ""
    receipt: str | None = None

    def __post_init__(self) -> None:
        where = f"withdrawal {self.id[:32]}"
        _check(_WITHDRAWAL_ID.fullmatch(self.id) is not None, "id", where)
        _check(_ACCEPTANCE_ID.fullmatch(self.acceptance) is not None, "acceptance", where)
        _check(_is_text(self.withdrawn_by, 1, MAX_NAME_CHARS), "withdrawn_by", where)
        _check(_is_text(self.authority, 0, MAX_AUTHORITY_CHARS), "authority", where)
        _check(_is_text(self.reason, 0, MAX_REASON_CHARS), "reason", where)
        _check(_is_whole(self.at), "at", where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """That somebody accepted a terms version for an account or an organization.

    Attributes:
        id: ``acc_`` and 22 characters of base64url. The token's ``terms.receipt`` names it.
        issuer: Whose terms they are.
        subject_kind: Whether it is for one account, or for all of an organization.
        subject_id: The provider's own id of the account or organization.
        series: Series of the terms.
        version: The version.
        terms_sha256: Digest of the terms, document and text.
        text_sha256: Digest of the text that was shown.
        uri: Address of the terms.
        locale: Language of the text.
        accepted_by: The person, as the provider or its identity provider names people.
        authority: What gave the person the right; may be empty where an account accepts for itself.
        method: How it reached the provider.
        identified_by: How it is known who the person was.
        at: When, in whole seconds UTC.
        expires: Last second in which it counts, or None.
        receipt: Its receipt, a compact JWS, or None.
        withdrawal: The second record that took it back, or None.

    Raises:
        AccountError: A member is empty, too long or of another form, or a withdrawal is of another acceptance.
    """

    id: str
    issuer: str
    subject_kind: SubjectKind
    subject_id: str
    series: str
    version: str
    terms_sha256: str
    text_sha256: str
    uri: str
    locale: str
    accepted_by: str
    authority: str
    method: AcceptanceMethod
    identified_by: Identification
    at: datetime
    expires: datetime | None = None
    receipt: str | None = None
    withdrawal: Withdrawal | None = None

    def __post_init__(self) -> None:
        where = f"acceptance {self.id[:32]}"
        _check(_ACCEPTANCE_ID.fullmatch(self.id) is not None, "id", where)
        _check(_is_text(self.subject_id, 1, MAX_NAME_CHARS), "subject_id", where)
        _check(_is_text(self.accepted_by, 1, MAX_NAME_CHARS), "accepted_by", where)
        least = 1 if self.subject_kind is SubjectKind.ORGANIZATION else 0
        _check(_is_text(self.authority, least, MAX_AUTHORITY_CHARS), "authority", where)
        _check(_is_whole(self.at), "at", where)
        _check(self.expires is None or (_is_whole(self.expires) and self.expires >= self.at), "expires", where)
        _check(self.withdrawal is None or self.withdrawal.acceptance == self.id, "withdrawal", where)
        organization = self.subject_kind is SubjectKind.ORGANIZATION
        _check(self.withdrawal is None or not organization or self.withdrawal.authority != "", "withdrawal authority", where)

    def is_active(self, now: datetime) -> bool:
        """Whether it counts at *now*: made, not expired, not withdrawn."""
        if self.at > now or (self.withdrawal is not None and self.withdrawal.at <= now):
            return False
        return self.expires is None or now < self.expires + _ONE_SECOND

    def is_of(self, terms: TermsVersion) -> bool:
        """Whether it is of this very version, digest and all, and by whom the terms can be accepted."""
        if terms.organization is not None and (self.subject_kind, self.subject_id) != (SubjectKind.ORGANIZATION, terms.organization):
            return False
        return (self.series, self.version, self.terms_sha256) == (terms.series, terms.version, terms.sha256)

    def with_receipt(self, receipt: str) -> Acceptance:
        """The same with its receipt."""
        return replace(self, receipt=receipt)

    def with_withdrawal(self, withdrawal: Withdrawal) -> Acceptance:
        """The same with the record that takes it back.

        Raises:
            AccountError: That is of another acceptance.
        """
        return replace(self, withdrawal=withdrawal)

    def to_receipt(self, *, now: datetime) -> ReceiptClaims:
        """The claims of its receipt, to be signed at *now*."""
        return ReceiptClaims(
            iss=self.issuer,
            iat=int(now.timestamp()),
            jti=self.id,
            event=ReceiptEvent.ACCEPTANCE,
            at=int(self.at.timestamp()),
            terms=self._receipt_terms(),
            subject_kind=self.subject_kind,
            subject_id=self.subject_id,
            person=self.accepted_by,
            authority=self.authority,
            method=self.method.value,
            identified_by=self.identified_by.value,
            exp=None if self.expires is None else int(self.expires.timestamp()),
        )

    def to_withdrawal_receipt(self, *, now: datetime) -> ReceiptClaims:
        """The claims of the receipt of its withdrawal, to be signed at *now*.

        Raises:
            AccountError: It is not withdrawn.
        """
        if self.withdrawal is None:
            raise AccountError("is not withdrawn", where=f"acceptance {self.id}")
        return ReceiptClaims(
            iss=self.issuer,
            iat=int(now.timestamp()),
            jti=self.withdrawal.id,
            event=ReceiptEvent.WITHDRAWAL,
            at=int(self.withdrawal.at.timestamp()),
            terms=self._receipt_terms(),
            subject_kind=self.subject_kind,
            subject_id=self.subject_id,
            person=self.withdrawal.withdrawn_by,
            authority=self.withdrawal.authority,
            method=self.withdrawal.method.value,
            identified_by=self.withdrawal.identified_by.value,
            acceptance=self.id,
            reason=self.withdrawal.reason,
        )

    def _receipt_terms(self) -> ReceiptTerms:
        return ReceiptTerms(
            series=self.series,
            version=self.version,
            uri=self.uri,
            locale=self.locale,
            sha256=self.terms_sha256,
            text_sha256=self.text_sha256,
        )

    def edges(self) -> Iterator[datetime]:
        """The moments at which it begins or ends to count."""
        yield self.at
        if self.expires is not None:
            yield self.expires + _ONE_SECOND
        if self.withdrawal is not None:
            yield self.withdrawal.at


def new_acceptance(
    terms: TermsVersion,
    *,
    issuer: str,
    subject_kind: SubjectKind,
    subject_id: str,
    accepted_by: str,
    authority: str,
    method: AcceptanceMethod,
    identified_by: Identification,
    now: datetime,
    entropy: Entropy,
    expires: datetime | None = None,
) -> Acceptance:
    """Record that *accepted_by* accepts *terms* now. Fractions of seconds are dropped.

    Raises:
        AccountError: The terms are a contract of another organization or would be accepted by an account for itself, or a member is
            empty, too long, or of another form.
    """
    made = Acceptance(
        id=_new_id("acc_", entropy),
        issuer=issuer,
        subject_kind=subject_kind,
        subject_id=subject_id,
        series=terms.series,
        version=terms.version,
        terms_sha256=terms.sha256,
        text_sha256=terms.text_sha256,
        uri=terms.uri,
        locale=terms.locale,
        accepted_by=accepted_by,
        authority=authority,
        method=method,
        identified_by=identified_by,
        at=_whole(now),
        expires=None if expires is None else _whole(expires),
    )
    if not made.is_of(terms):
        raise AccountError(
            f"terms {terms.version} are a contract of one organization, and can only be accepted for it",
            where=f"{subject_kind} {subject_id[:MAX_NAME_CHARS]}",
            cure="Let an authorized person of that organization accept for it.",
        )
    return made


def new_withdrawal(
    acceptance: Acceptance,
    *,
    withdrawn_by: str,
    authority: str,
    method: AcceptanceMethod,
    identified_by: Identification,
    now: datetime,
    entropy: Entropy,
    reason: str = "",
) -> Withdrawal:
    """Record that *acceptance* is taken back now. Fractions of seconds are dropped.

    Raises:
        AccountError: It is withdrawn already, or a member is empty, too long, or of another form.
    """
    if acceptance.withdrawal is not None:
        raise AccountError("is withdrawn already", where=f"acceptance {acceptance.id}")
    made = Withdrawal(
        id=_new_id("wdr_", entropy),
        acceptance=acceptance.id,
        withdrawn_by=withdrawn_by,
        authority=authority,
        method=method,
        identified_by=identified_by,
        at=_whole(now),
        reason=reason,
    )
    acceptance.with_withdrawal(made)  # refuses what does not fit: an organization takes back on an authority too
    return made


def _new_id(prefix: str, entropy: Entropy) -> str:
    return prefix + b64url_encode(entropy(_ID_BYTES))


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _is_whole(moment: datetime) -> bool:
    return moment.utcoffset() == timedelta(0) and moment.microsecond == 0


def _is_text(value: str, least: int, most: int) -> bool:
    return least <= len(value) <= most and _CONTROL.search(value) is None


def _check(fits: bool, name: str, where: str) -> None:
    if not fits:
        raise AccountError(f"{name} is empty, too long, or of another form", where=where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What binds an account in one series at one moment.

    Attributes:
        series: The series.
        version: The version that binds, or None: nothing is in effect yet, or requests are refused.
        to_accept: The newest version in effect, where it still is to be accepted; else None.
        grace_ends: From when on requests are refused unless it is accepted; None where nothing is to be accepted, or they are already.
        acceptance: The newest acceptance because of which `version` binds, or None where it binds without one.
        changes: When the answer may be another although nothing new is published, accepted or withdrawn; None for never.
    """

    series: str
    version: TermsVersion | None
    to_accept: TermsVersion | None = None
    grace_ends: datetime | None = None
    acceptance: Acceptance | None = None
    changes: datetime | None = None

    @property
    def refused(self) -> bool:
        """Whether requests that the series is for are refused until `to_accept` is accepted."""
        return self.version is None and self.to_accept is not None

    def concerns(self, model: str | None) -> bool:
        """Whether the series says anything about requests on this model."""
        terms = self.version or self.to_accept
        return terms is not None and terms.is_for(model)


def standing_of(versions: Sequence[TermsVersion], acceptances: Iterable[Acceptance], now: datetime) -> Bound:
    """What binds an account in one series.

    Args:
        versions: All versions of the series, in the order in which they were published; at least one.
        acceptances: Acceptances of the account and of its organization, of any series, withdrawn ones too.
        now: The moment, present or past: what is later than it does not count.
    """
    ordered = sorted(versions, key=lambda terms: terms.effective)
    today = now.astimezone(UTC).date()
    in_effect = list(takewhile(lambda terms: terms.effective <= today, ordered))
    ours = [acceptance for acceptance in acceptances if any(acceptance.is_of(terms) for terms in ordered)]
    edges = [_midnight(terms.effective) for terms in ordered[len(in_effect) :]]
    edges += [edge for acceptance in ours for edge in acceptance.edges()]

    def answer(version: TermsVersion | None, acceptance: Acceptance | None = None, grace_ends: datetime | None = None) -> Bound:
        return Bound(
            series=ordered[0].series,
            version=version,
            to_accept=None if not in_effect or version is in_effect[-1] else in_effect[-1],
            grace_ends=grace_ends,
            acceptance=acceptance,
            changes=min((edge for edge in (*edges, grace_ends) if edge is not None and edge > now), default=None),
        )

    if not in_effect:
        return answer(None)
    newest = len(in_effect) - 1
    active = [acceptance for acceptance in ours if acceptance.is_active(now)]
    accepted, by = _last_accepted(in_effect, active)
    free = max((place for place, terms in enumerate(in_effect) if terms.acceptance is AcceptanceRule.NONE), default=-1)
    binding = max(accepted, free)
    if binding == newest:
        return answer(in_effect[newest], by if accepted == newest else None)
    if by is None:
        return answer(None)
    # Of each run of versions that are owed, the first asks; what follows without being material asks for nothing more.
    owed = [place for place in range(binding + 1, newest + 1) if place == binding + 1 or in_effect[place].material]
    grace_ends = min(_grace_ends(in_effect[place]) for place in owed)
    if now >= grace_ends:
        return answer(None)
    return answer(in_effect[binding], by if accepted == binding else None, grace_ends)


def _last_accepted(in_effect: Sequence[TermsVersion], active: Sequence[Acceptance]) -> tuple[int, Acceptance | None]:
    """Place of the newest version that was accepted, by itself or by one before it since which nothing material changed; -1 for none."""
    place, by = -1, None
    for position, terms in enumerate(in_effect):
        found = [acceptance for acceptance in active if acceptance.is_of(terms)]
        if found:
            by = max(found, key=lambda acceptance: acceptance.at)
        if found or (not terms.material and by is not None and place == position - 1):
            place = position
    return place, by


def _grace_ends(terms: TermsVersion) -> datetime:
    """The end of the last day of grace. The effective day itself is one: else all would be refused at the stroke of midnight, UTC."""
    return _midnight(date.fromordinal(min(terms.effective.toordinal() + terms.grace_days + 1, date.max.toordinal())))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
