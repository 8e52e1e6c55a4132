"""Accepting terms, and taking that back: who may, for whom, and the receipts that prove it (docs/adr/0007).

- An account that belongs to an organization speaks through it: an authorized person accepts for all of the organization's accounts.
  Any other account accepts for itself.
- An authorized person is identified by more than their own word, unless the settings say ``declared``.
- What is accepted is the newest version in effect, or one that will come into effect: whoever accepted an older one now would only get
  a grace that was meant for those who had accepted it then. Administrators may record what was accepted in the past.
- Who has accepted what is in effect accepts it again only where a measure asks for it, since that began.
- The receipt is signed first and kept with its record. Both are in the store, which every process reads, when a step returns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tos_guard.errors import AccountError, ConfigurationError, ConflictError, DeniedError, MalformedRequestError, NotFoundError
from tos_guard.guard._admitting import Admitting
from tos_guard.guard._needs import Ask, AskHost, Caller, CurrentKey, FindHolder, RequestView, Sign, Steps
from tos_guard.keys import KeyRecord, join_jws
from tos_guard.rights import Holder, KeyedHolder, Organization
from tos_guard.terms import (
    Acceptance,
    AcceptanceRule,
    ReceiptClaims,
    TermsVersion,
    new_acceptance,
    new_withdrawal,
    receipt_signing_input,
)
from tos_guard.types import AcceptanceMethod, Identification, KeyPurpose, SubjectKind

if TYPE_CHECKING:
    from tos_guard.stores import Store

__all__ = ["Accepting", "Person", "Subject"]

MAY_NOT_ACCEPT: Final = "tos_may_not_accept"
"""Reason of the refusal of whoever may not speak for an organization."""


LAST_YEAR: Final = 9000
"""Of an acceptance that expires: a second later must still be a time."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who acts for an account.

    Attributes:
        id: As the host or its identity provider names people.
        identified_by: How it is known.
    """

    id: str
    identified_by: Identification


@dataclass(frozen=True, slots=True)
class Subject:
    """For whom terms are accepted.

    Attributes:
        kind: An account, or all accounts of an organization.
        id: Which.
        organization: The organization, where one speaks and is stored.
        acceptances: Those for this subject, oldest first, withdrawn ones too.
    """

    kind: SubjectKind
    id: str
    organization: Organization | None
    acceptances: tuple[Acceptance, ...]

    @classmethod
    def of(cls, holder: Holder) -> Subject:
        """Who speaks for an account: its organization, or, where it has none, itself."""
        organization = holder.account.organization
        if organization is None:
            return cls.itself(holder)
        return cls(SubjectKind.ORGANIZATION, organization, holder.organization, _of(holder, SubjectKind.ORGANIZATION))

    @classmethod
    def itself(cls, holder: Holder) -> Subject:
        """The account alone, whether or not it belongs to an organization."""
        return cls(SubjectKind.ACCOUNT, holder.account.id, None, _of(holder, SubjectKind.ACCOUNT))

    def may_know(self, terms: TermsVersion) -> bool:
        """Whether the terms are for everyone, or its own contract."""
        return terms.organization is None or (self.kind is SubjectKind.ORGANIZATION and terms.organization == self.id)


class Accepting(Admitting):
    """The steps by which people accept terms."""

    @property
    def keeps_acceptances(self) -> bool:
        """Whether terms can be accepted through this guard: it has a store, and a signer of receipts."""
        return self.store is not None and self._receipts is not None

    def accept(
        self,
        holder: Holder,
        version: str,
        *,
        accepted_by: str,
        method: AcceptanceMethod,
        identified_by: Identification,
        authority: str = "",
    ) -> Steps[Acceptance]:
        """Accept a terms version for an account's organization, or for the account where it has none. Doing it again changes nothing.

        Args:
            holder: The account.
            version: The version.
            accepted_by: The person.
            method: How it reaches the provider.
            identified_by: How it is known who the person is.
            authority: What gives the person the right; for an organization its own record says so by default.

        Returns:
            The acceptance with its receipt, or an earlier one that still counts.

        Raises:
            NotFoundError: There is no such version, or it is another organization's contract.
            ConflictError: The version binds without being accepted, or a newer one takes its place.
            DeniedError: The person may not accept for the organization, or is not identified well enough.
            MalformedRequestError: The person's name cannot be kept.
            ConfigurationError: The guard has no store, or no signer of receipts.
            SignerError, StoreError: The receipt could not be signed, or the acceptance not be kept.
        """
        return (
            yield from self._accept(
                Subject.of(holder),
                version,
                accepted_by=accepted_by,
                method=method,
                identified_by=identified_by,
                authority=authority,
                since=self.demanded_since(holder),
            )
        )

    def demanded_since(self, holder: Holder) -> datetime | None:
        """Since when an acceptance of the general terms is demanded once more of an account, by a measure or its step; None for no such."""
        held, rung = self.standing(holder)
        begins = [measure.begins for measure in held.in_force if measure.requires == "accept"]
        if rung.accept and held.measure is not None and not held.measure.is_answered(holder.acceptances):
            begins.append(held.measure.begins)
        return max(begins).replace(microsecond=0) if begins else None  # receipts count in whole seconds

    def withdraw(
        self,
        holder: Holder,
        acceptance_id: str,
        *,
        withdrawn_by: str,
        method: AcceptanceMethod,
        identified_by: Identification,
        authority: str = "",
        reason: str = "",
    ) -> Steps[Acceptance]:
        """Take an acceptance of the account or of its organization back. Doing it again changes nothing.

        Args:
            holder: The account.
            acceptance_id: The acceptance.
            withdrawn_by: The person.
            method: As of `accept`.
            identified_by: As of `accept`.
            authority: As of `accept`.
            reason: Why, as they say; may be empty.

        Returns:
            The acceptance with its withdrawal, which has its receipt.

        Raises:
            NotFoundError: There is no such acceptance of the account or its organization.
            DeniedError, MalformedRequestError, ConfigurationError, SignerError, StoreError: As of `accept`.
        """
        acceptance = next((one for one in holder.acceptances if one.id == acceptance_id), None)
        if acceptance is None:
            raise _no_acceptance(acceptance_id)
        return (
            yield from self._withdraw(
                acceptance,
                holder.organization,
                withdrawn_by=withdrawn_by,
                method=method,
                identified_by=identified_by,
                authority=authority,
                reason=reason,
            )
        )

    def record_acceptance(
        self,
        kind: SubjectKind,
        subject_id: str,
        version: str,
        *,
        accepted_by: str,
        authority: str = "",
        method: AcceptanceMethod = AcceptanceMethod.IMPORT,
        at: datetime | None = None,
        expires: datetime | None = None,
        actor: str = "",
    ) -> Steps[Acceptance]:
        """Record, as administrator, that terms were accepted elsewhere: on paper, in a web form. Doing it again changes nothing.

        Args:
            kind: Whether it is for one account, or for all of an organization.
            subject_id: Which.
            version: The version; any that was ever published.
            accepted_by: The person; for an organization, one of its authorized ones.
            authority: What gave the person the right, and where the evidence lies.
            method: How it reached the provider.
            at: When it was accepted; now by default. Later than an acceptance that is known, it is another one.
            expires: Last moment in which it counts, or None.
            actor: The administrator.

        Raises:
            NotFoundError: There is no such account, organization or version.
            ConflictError: The version binds without being accepted, or is a contract of another organization.
            DeniedError: The person is not authorized by the organization.
            MalformedRequestError: A text cannot be kept, or a time is no such time.
            ConfigurationError, SignerError, StoreError: As of `accept`.
        """
        return (
            yield from self._accept(
                (yield from self.find_subject(kind, subject_id)),
                version,
                accepted_by=accepted_by,
                method=method,
                identified_by=Identification.ADMINISTRATOR,
                authority=authority,
                at=at,
                expires=expires,
                actor=actor,
            )
        )

    def record_withdrawal(
        self,
        acceptance_id: str,
        *,
        withdrawn_by: str,
        authority: str = "",
        method: AcceptanceMethod = AcceptanceMethod.IMPORT,
        reason: str = "",
        actor: str = "",
    ) -> Steps[Acceptance]:
        """Record, as administrator, that an acceptance was taken back elsewhere. Doing it again changes nothing.

        Raises:
            NotFoundError: There is no such acceptance.
            DeniedError, MalformedRequestError, ConfigurationError, SignerError, StoreError: As of `record_acceptance`.
        """
        store = self._own_store()
        acceptance: Acceptance | None = yield Ask(lambda: store.acceptance(acceptance_id))
        if acceptance is None:
            raise _no_acceptance(acceptance_id)
        organization: Organization | None = None
        if acceptance.subject_kind is SubjectKind.ORGANIZATION:
            organization = yield Ask(lambda: store.organization(acceptance.subject_id))
        return (
            yield from self._withdraw(
                acceptance,
                organization,
                withdrawn_by=withdrawn_by,
                method=method,
                identified_by=Identification.ADMINISTRATOR,
                authority=authority,
                reason=reason,
                actor=actor,
            )
        )

    def identify_person(self, view: RequestView, caller: Caller) -> Steps[Person | None]:
        """The person who acts for the account, as the host or a bearer token says; None where neither does.

        Raises:
            StoreError: The host's own code failed.
        """
        if (acceptor := self._acceptor) is not None:
            name = yield AskHost("acceptor=", lambda: acceptor(view, caller.account))
            if isinstance(name, str) and name:
                return Person(name, Identification.HOST)
        identity = caller.identity
        if identity is None:
            return None
        server = next((server for server in self.settings.bearer if server.issuer == identity.issuer), None)
        if server is not None and server.person_claim is not None:
            person = identity.person
        else:
            # A token that an application got for itself is about the application (RFC 9068 section 2.2).
            person = identity.subject if identity.subject != identity.client_id else None
        return Person(person, Identification.BEARER) if person else None

    def find_subject(self, kind: SubjectKind, subject_id: str) -> Steps[Subject]:
        """An account or organization that is stored, with its acceptances.

        Raises:
            NotFoundError: It is not stored.
            ConfigurationError: The guard has no store.
            StoreError: The store failed.
        """
        store = self._own_store()
        if kind is SubjectKind.ACCOUNT:
            account: KeyedHolder | None = yield FindHolder(account_id=subject_id)
            if account is None:
                raise _unknown(kind, subject_id)
            return Subject.itself(account.holder)

        def found() -> Subject | None:
            organization = store.organization(subject_id)
            return None if organization is None else Subject(kind, subject_id, organization, tuple(store.acceptances(kind, subject_id)))

        subject: Subject | None = yield Ask(found)
        if subject is None:
            raise _unknown(kind, subject_id)
        return subject

    def why_not_accept(self, subject: Subject, person: str | None, identified_by: Identification) -> DeniedError | None:
        """Why a person may not speak for the subject, or None where they may.

        Args:
            subject: For whom.
            person: Who; None for somebody who is yet to give a name.
            identified_by: How it is known who that is.
        """
        organization = subject.organization
        if subject.kind is SubjectKind.ACCOUNT:
            return None
        if organization is None or not organization.authorized:
            return _may_not(
                subject,
                f"nobody is recorded who may accept for the organization {subject.id}",
                "Tell the provider who may: the name by which you sign in, and the office that gives the right.",
            )
        if identified_by is Identification.DECLARED and self.settings.acceptance.organization == "proven":
            return _may_not(
                subject,
                f"a name alone is not enough to accept for the organization {subject.id}",
                "Let an authorized person sign in, or ask the provider to record the acceptance.",
            )
        if person is not None and organization.authority_of(person) is None:
            return _may_not(
                subject,
                f"{person!r} is not recorded as one who may accept for the organization {subject.id}",
                "Let an authorized person accept, or ask the provider to record who may.",
            )
        return None

    def acceptable(self, subject: Subject, now: datetime, *, since: datetime | None = None) -> tuple[TermsVersion, ...]:
        """Versions that can be accepted for the subject and are not yet: of each series the newest in effect, and later ones.

        Args:
            subject: For whom.
            now: The moment.
            since: As of `demanded_since`: general terms in effect that were accepted before are to be accepted again.
        """

        def is_acceptable(terms: TermsVersion) -> bool:
            demanded = since if _is_demanded(terms, now) else None
            is_to_be = terms.acceptance is AcceptanceRule.REQUIRED or demanded is not None
            return subject.may_know(terms) and is_to_be and _counting(subject, terms, now, None, demanded) is None

        series = (self.rulebook.shelf.versions_of(name) for name in self.rulebook.shelf.series())
        return tuple(terms for versions in series for terms in _choices(versions, now) if is_acceptable(terms))

    def _accept(
        self,
        subject: Subject,
        version: str,
        *,
        accepted_by: str,
        method: AcceptanceMethod,
        identified_by: Identification,
        authority: str,
        at: datetime | None = None,
        expires: datetime | None = None,
        actor: str = "",
        since: datetime | None = None,
    ) -> Steps[Acceptance]:
        store, now = self._own_store(), self.clock()
        yield from self._read_terms()
        is_past = identified_by is Identification.ADMINISTRATOR
        terms = self._wanted(subject, version, now, is_past=is_past, is_demanded=since is not None)
        demanded = at.replace(microsecond=0) if at is not None else since if _is_demanded(terms, now) else None
        authority = self._authority(subject, accepted_by, identified_by, authority)
        if (earlier := _counting(subject, terms, now, expires, demanded)) is not None:
            return earlier
        if at is not None and at > now:
            raise MalformedRequestError("lies in the future", where="at")
        if expires is not None and expires.year > LAST_YEAR:
            raise MalformedRequestError("lies too far in the future", where="expires", cure="Leave it out, where it does not expire.")
        try:
            made = new_acceptance(
                terms,
                issuer=self.settings.issuer,
                subject_kind=subject.kind,
                subject_id=subject.id,
                accepted_by=accepted_by,
                authority=authority,
                method=method,
                identified_by=identified_by,
                now=at or now,
                entropy=self._entropy,
                expires=expires,
            )
        except AccountError as error:
            raise MalformedRequestError(error.what, where=error.where, cure=error.cure) from None
        receipted = made.with_receipt((yield from self._receipt(made.to_receipt(now=now), now)))
        kept: Acceptance = yield Ask(lambda: store.add_acceptance(receipted, actor=actor))
        self.telemetry.accepted(method)
        return kept

    def _withdraw(
        self,
        acceptance: Acceptance,
        organization: Organization | None,
        *,
        withdrawn_by: str,
        method: AcceptanceMethod,
        identified_by: Identification,
        authority: str,
        reason: str,
        actor: str = "",
    ) -> Steps[Acceptance]:
        store, now = self._own_store(), self.clock()
        subject = Subject(acceptance.subject_kind, acceptance.subject_id, organization, ())
        authority = self._authority(subject, withdrawn_by, identified_by, authority)
        if acceptance.withdrawal is not None:
            return acceptance
        try:
            made = new_withdrawal(
                acceptance,
                withdrawn_by=withdrawn_by,
                authority=authority,
                method=method,
                identified_by=identified_by,
                now=now,
                entropy=self._entropy,
                reason=reason,
            )
        except AccountError as error:
            raise MalformedRequestError(error.what, where=error.where, cure=error.cure) from None
        claims = acceptance.with_withdrawal(made).to_withdrawal_receipt(now=now)
        receipted = replace(made, receipt=(yield from self._receipt(claims, now)))
        try:
            kept: Acceptance = yield Ask(lambda: store.withdraw_acceptance(receipted, actor=actor))
        except AccountError:
            known: Acceptance | None = yield Ask(lambda: store.acceptance(acceptance.id))
            if known is None or known.withdrawal is None:
                raise
            return known  # by another process, of which this one had not heard
        self.telemetry.accepted(method, outcome="withdrawn")
        return kept

    def _own_store(self) -> Store:
        if self.store is None:
            raise ConfigurationError("the guard has no store to keep acceptances in", where="store=", cure="Give one, as from_file does.")
        return self.store

    def _wanted(self, subject: Subject, version: str, now: datetime, *, is_past: bool, is_demanded: bool) -> TermsVersion:
        """The version of this name, if it can be accepted for the subject."""
        terms = self.rulebook.shelf.version(version)
        if terms is None or not (subject.may_know(terms) or is_past):
            raise NotFoundError("no terms of this version", where=f"version {version[:64]}")
        if not subject.may_know(terms):
            raise ConflictError(f"is a contract of the organization {terms.organization}", where=f"version {version}")
        if terms.acceptance is AcceptanceRule.NONE and not (is_demanded and _is_demanded(terms, now)):
            raise ConflictError("binds without being accepted", where=f"version {version}", cure="There is nothing to do.")
        choices = _choices(self.rulebook.shelf.versions_of(terms.series), now)
        if not is_past and terms not in choices:
            newer = next(choice.version for choice in choices if choice.effective >= terms.effective)
            raise ConflictError(f"version {newer} has taken its place", where=f"version {version}", cure=f"Read and accept {newer}.")
        return terms

    def _authority(self, subject: Subject, person: str, identified_by: Identification, given: str) -> str:
        """What gives the person the right to speak for the subject.

        Raises:
            DeniedError: Nothing does, or it is not known well enough who it is.
        """
        if (refusal := self.why_not_accept(subject, person, identified_by)) is not None:
            raise refusal
        if given or subject.organization is None:
            return given
        return subject.organization.authority_of(person) or ""

    def _receipt(self, claims: ReceiptClaims, now: datetime) -> Steps[str]:
        key: KeyRecord = yield CurrentKey(now, KeyPurpose.RECEIPT)
        message = receipt_signing_input(claims, key)
        signature: bytes = yield Sign(key, message)
        return join_jws(message, signature)


def _of(holder: Holder, kind: SubjectKind) -> tuple[Acceptance, ...]:
    return tuple(one for one in holder.acceptances if one.subject_kind is kind)


def _choices(versions: tuple[TermsVersion, ...], now: datetime) -> tuple[TermsVersion, ...]:
    """Of one series' versions by effective day: the newest in effect, and those to come; of one day, the one published last."""
    today = now.astimezone(UTC).date()
    in_effect = [terms for terms in versions if terms.effective <= today]
    to_come = {terms.effective: terms for terms in versions if terms.effective > today}
    return (*in_effect[-1:], *to_come.values())


def _is_demanded(terms: TermsVersion, now: datetime) -> bool:
    """Whether it is of such terms that an acceptance may be demanded again: general ones, in effect."""
    return terms.series == "general" and terms.effective <= now.astimezone(UTC).date()


def _counting(
    subject: Subject, terms: TermsVersion, now: datetime, expires: datetime | None, since: datetime | None = None
) -> Acceptance | None:
    """An acceptance of these very terms that counts now, given no earlier and for at least as long as is asked for."""
    counting = (one for one in subject.acceptances if one.is_of(terms) and one.is_active(now) and (since is None or one.at >= since))
    return next((one for one in counting if one.expires is None or (expires is not None and one.expires >= expires)), None)


def _may_not(subject: Subject, what: str, cure: str) -> DeniedError:
    details = {"who_may_accept": subject.kind.value, "organization": subject.id}
    return DeniedError(what, reason=MAY_NOT_ACCEPT, details=details, cure=cure)


def _unknown(kind: SubjectKind, name: str) -> NotFoundError:
    return NotFoundError(f"unknown {kind}", where=f"{kind} {name[:128]}")


def _no_acceptance(acceptance_id: str) -> NotFoundError:
    return NotFoundError("no such acceptance", where=f"acceptance {acceptance_id[:64]}")
