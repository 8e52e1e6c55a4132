"""The administration of accounts and organizations, told in terms of a few primitives that engines provide.

- Every change makes a new version and a step in the history, with its reason and who did it. Every version is kept.
- Grants stay as they were given: one is voided by a mark, and never edited or removed. So do measures, of which each is taken and lifted
  by a step of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tos_guard.errors import AccountError
from tos_guard.protocols import Clock
from tos_guard.stores._model import (
    AccountChange,
    OrganizationChange,
    Step,
    StoredAdminKey,
    StoredKey,
    account_document,
    changed_account,
    changed_organization,
    check_grants_kept,
    check_measures_kept,
    from_ms,
    grant_document,
    measure_document,
    organization_document,
    to_ms,
)
from tos_guard.types import Standing

if TYPE_CHECKING:
    from tos_guard.rights import Account, Grant, KeyTerms, Measure, Organization

__all__ = ["AccountAdministration", "AdministratorKeys", "OrganizationAdministration", "ToAccount", "ToOrganization"]

ToAccount = Callable[["Account"], Mapping[str, Any] | None]
"""Members of an account's JSON form to set, given the stored account; None where nothing is to be changed. May raise `AccountError`."""

ToOrganization = Callable[["Organization"], Mapping[str, Any]]
"""As `ToAccount`, of an organization."""


class AccountAdministration(ABC):
    """Accounts, their grants, limits, end users and API keys.

    `actor` is who does it: an administrator's name, ``cli``, …; the history keeps it.
    """

    issuer: str
    _clock: Clock

    def _now(self) -> datetime:
        """The present as all stores keep it: in milliseconds."""
        return from_ms(to_ms(self._clock()))

    @abstractmethod
    def accounts(self, *, after: str = "", limit: int | None = None) -> Sequence[Account]:
        """Accounts by id, all of them by default.

        Args:
            after: Only those whose id comes after this one.
            limit: At most so many; None for all.

        Raises:
            StoreError: The engine failed.
        """

    def add_account(self, account: Account, *, actor: str = "") -> Account:
        """Store a new account, as version 1, and return it.

        Raises:
            AccountError: The id is taken.
            StoreError: The engine failed.
        """
        return self._insert_account(changed_account(account, {"version": 1}), Step("added", actor=actor))

    def put_account(self, account: Account, *, reason: str = "", actor: str = "") -> Account:
        """Replace an account that was read before, and return it with its new version.

        Raises:
            AccountError: The id is unknown; or the account has changed since it was read: `Account.version` is not the stored one; or a
                grant that it holds was changed otherwise than by voiding it, or left out; or its measures are not the stored ones.
            StoreError: The engine failed.
        """

        def replaced(stored: Account) -> Mapping[str, Any]:
            _check_fresh(stored.version, account.version, where=f"account {account.id}")
            check_grants_kept(stored, account)
            check_measures_kept(stored, account)
            return account_document(account)

        return self._change_account(account.id, replaced, Step("changed", reason=reason, actor=actor))

    def set_standing(
        self, account_id: str, standing: Standing, reason: str, *, actor: str = "", delivery: tuple[str, str] | None = None
    ) -> Account:
        """Move the account to *standing*, without an end, and return it. Its measures hold as before: the lowest of all counts.

        Args:
            account_id: The account.
            standing: Where it is to stand.
            reason: Why.
            actor: Who does it.
            delivery: Sender and id of the message that asks for it: what was done for it once is not done again.

        Raises:
            AccountError: The id is unknown.
            StoreError: The engine failed.
        """
        step = Step("standing", standing.value, reason, actor, delivery)
        return self._change_account(account_id, lambda _: {"standing": standing.value}, step)

    def add_grant(self, account_id: str, grant: Grant, *, actor: str = "") -> Account:
        """Give the account *grant*, and return it.

        Raises:
            AccountError: The account is unknown, or has, or had, a grant of this id.
            StoreError: The engine failed.
        """

        def added(stored: Account) -> Mapping[str, Any]:
            if any(held.id == grant.id for held in stored.grants):
                raise AccountError(f"grant {grant.id} is there already", where=f"account {account_id}", cure="Give it another id")
            return {"grants": [*map(grant_document, stored.grants), grant_document(grant)]}

        return self._change_account(account_id, added, Step("grant_added", grant.id, actor=actor))

    def void_grant(self, account_id: str, grant_id: str, reason: str = "", *, actor: str = "") -> Account:
        """Take the grant back from now on, and return the account. The grant stays, with the mark of when and why.

        Raises:
            AccountError: The account is unknown, has no such grant, or it is voided already.
            StoreError: The engine failed.
        """

        def voided(stored: Account) -> Mapping[str, Any]:
            given = next((grant for grant in stored.grants if grant.id == grant_id), None)
            if given is None or given.voided is not None:
                problem = f"there is no grant {grant_id}" if given is None else f"grant {grant_id} is voided already"
                raise AccountError(problem, where=f"account {account_id}")
            marked = given.model_copy(update={"voided": self._now(), "void_reason": reason})
            return {"grants": [grant_document(marked if grant is given else grant) for grant in stored.grants]}

        return self._change_account(account_id, voided, Step("grant_voided", grant_id, reason, actor))

    def take_measure(self, account_id: str, measure: Measure, *, actor: str = "", delivery: tuple[str, str] | None = None) -> Account:
        """Put the account on a step of the ladder of standing, and return it.

        Args:
            account_id: The account.
            measure: The measure; whoever acts is its issuer, where it names none.
            actor: Who does it.
            delivery: As of `set_standing`.

        Raises:
            AccountError: The account is unknown; it has, or had, a measure of this id, or too many; or the measure is lifted already.
            StoreError: The engine failed.
        """
        if measure.lifted is not None:
            raise AccountError(f"measure {measure.id} is lifted already", where=f"account {account_id}", cure="Take it without that mark")
        taken = measure if measure.issuer else measure.model_copy(update={"issuer": actor})

        def added(stored: Account) -> Mapping[str, Any]:
            if any(held.id == taken.id for held in stored.measures):
                raise AccountError(f"measure {taken.id} is there already", where=f"account {account_id}", cure="Give it another id")
            return {"measures": [*map(measure_document, stored.measures), measure_document(taken)]}

        return self._change_account(account_id, added, Step("measure_taken", f"{taken.id}={taken.step}", taken.reason, actor, delivery))

    def lift_measure(
        self, account_id: str, measure_id: str, reason: str, *, actor: str = "", delivery: tuple[str, str] | None = None
    ) -> Account:
        """End the measure from now on, and return the account. The measure stays, with the mark of when, by whom and why.

        Args:
            account_id: The account.
            measure_id: The measure.
            reason: Why.
            actor: Who does it.
            delivery: As of `set_standing`.

        Raises:
            AccountError: The account is unknown, has no such measure, or it is lifted already.
            StoreError: The engine failed.
        """
        step = Step("measure_lifted", measure_id, reason, actor, delivery)
        return self._change_account(account_id, lambda stored: self._lifted(stored, measure_id, reason, actor), step)

    def _lifted(self, stored: Account, measure_id: str, reason: str, actor: str) -> Mapping[str, Any]:
        taken = next((measure for measure in stored.measures if measure.id == measure_id), None)
        if taken is None or taken.lifted is not None:
            problem = f"there is no measure {measure_id}" if taken is None else f"measure {measure_id} is lifted already"
            raise AccountError(problem, where=f"account {stored.id}")
        marked = taken.model_copy(update={"lifted": self._now(), "lifted_by": actor, "lift_reason": reason})
        return {"measures": [measure_document(marked if measure is taken else measure) for measure in stored.measures]}

    def set_limit(self, account_id: str, limit_id: str, amount: int | None, reason: str = "", *, actor: str = "") -> Account:
        """Set the account's own amount of a limit, and return the account; None for that of the settings again.

        Raises:
            AccountError: The account is unknown; the limit's id or the amount is none; or there is no own amount to clear.
            StoreError: The engine failed.
        """
        step = _limit_step(limit_id, amount, reason, actor)
        return self._change_account(account_id, lambda stored: _limits(stored, limit_id, amount), step)

    def block_end_user(self, account_id: str, end_user: str, reason: str = "", *, actor: str = "") -> Account:
        """Refuse an end user of the account, named by its keyed hash (``eu_…``), and return the account. Again changes nothing.

        Raises:
            AccountError: The account is unknown, the name is no such hash, or too many are blocked already.
            StoreError: The engine failed.
        """

        def blocked(stored: Account) -> Mapping[str, Any] | None:
            if end_user in stored.blocked_end_users:
                return None
            return {"blocked_end_users": sorted({*stored.blocked_end_users, end_user})}

        return self._change_account(account_id, blocked, Step("end_user_blocked", end_user, reason, actor))

    def unblock_end_user(self, account_id: str, end_user: str, reason: str = "", *, actor: str = "") -> Account:
        """Serve the end user again, and return the account.

        Raises:
            AccountError: The account is unknown, or the end user is not blocked.
            StoreError: The engine failed.
        """

        def unblocked(stored: Account) -> Mapping[str, Any]:
            if end_user not in stored.blocked_end_users:
                raise AccountError(f"end user {end_user} is not blocked", where=f"account {account_id}")
            return {"blocked_end_users": sorted(stored.blocked_end_users - {end_user})}

        return self._change_account(account_id, unblocked, Step("end_user_unblocked", end_user, reason, actor))

    @abstractmethod
    def delete_account(self, account_id: str) -> None:
        """Forget the account with its keys, history and earlier versions, in every file of the accounts.

        Its acceptances stay: they are evidence of what was agreed, and name the account by its id. An account that gets the id later
        has accepted nothing. For its records see `erase_account`.

        Raises:
            AccountError: The id is unknown.
            StoreError: The engine failed. The account may be gone already and still be legible in a file: call again.
        """

    @abstractmethod
    def history(self, account_id: str) -> Sequence[AccountChange]:
        """What happened to the account, oldest first.

        Raises:
            AccountError: The id is unknown.
            StoreError: The engine failed.
        """

    @abstractmethod
    def account_version(self, account_id: str, version: int) -> Account | None:
        """The account as it was in this version, or None where that is not known.

        Versions are kept from the release on that first keeps them; before that, the one that was in force.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def account_at(self, account_id: str, moment: datetime) -> Account | None:
        """The account as it was at *moment*, or None where that is not known, or it was not there yet. A deleted account never was.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def add_api_key(
        self, account_id: str, public_id: str, secret_hash: bytes, *, label: str = "", terms: KeyTerms | None = None, actor: str = ""
    ) -> StoredKey:
        """Store a key: its public id, the keyed hash of its secret, and what it is for; None for all that its account may.

        Raises:
            AccountError: The account is unknown, the public id is taken, or the hash has not 32 bytes.
            StoreError: The engine failed.
        """

    @abstractmethod
    def rotate_api_key(
        self, public_id: str, new_public_id: str, secret_hash: bytes, *, overlap: timedelta, terms: KeyTerms | None = None, actor: str = ""
    ) -> StoredKey:
        """Replace a key by another of the same label, and let it expire after a while in which both are good. One step: both or neither.

        Args:
            public_id: The key that is replaced.
            new_public_id: The new one.
            secret_hash: Keyed hash of its secret.
            overlap: For how long the old one stays good, at most; one that expires earlier still does.
            terms: What the new one is for; None for the same as the old one.
            actor: Who does it.

        Raises:
            AccountError: The key is unknown, revoked, has expired or was replaced before, the new public id is taken, or the hash has not
                32 bytes.
            StoreError: The engine failed.
        """

    @abstractmethod
    def revoke_api_key(self, public_id: str, reason: str = "", *, actor: str = "") -> StoredKey:
        """End a key for good. Revoking it again changes nothing.

        Raises:
            AccountError: The key is unknown.
            StoreError: The engine failed.
        """

    @abstractmethod
    def api_keys(self, account_id: str) -> Sequence[StoredKey]:
        """The account's keys, revoked ones too, oldest first.

        Raises:
            AccountError: The account is unknown.
            StoreError: The engine failed.
        """

    # What an engine provides for the above.

    @abstractmethod
    def _insert_account(self, account: Account, step: Step) -> Account: ...

    @abstractmethod
    def _change_account(self, account_id: str, change: ToAccount, step: Step) -> Account: ...


class OrganizationAdministration(ABC):
    """What accounts of one customer share. An account may name an organization that is not stored: it shares nothing then."""

    @abstractmethod
    def organization(self, organization_id: str) -> Organization | None:
        """The organization with this id, or None.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def organizations(self, *, after: str = "", limit: int | None = None) -> Sequence[Organization]:
        """Organizations by id, as `accounts`.

        Raises:
            StoreError: The engine failed.
        """

    def add_organization(self, organization: Organization, *, actor: str = "") -> Organization:
        """Store a new organization, as version 1, and return it.

        Raises:
            AccountError: The id is taken.
            StoreError: The engine failed.
        """
        return self._insert_organization(changed_organization(organization, {"version": 1}), Step("added", actor=actor))

    def put_organization(self, organization: Organization, *, reason: str = "", actor: str = "") -> Organization:
        """Replace an organization that was read before, and return it with its new version.

        Raises:
            AccountError: The id is unknown, or the organization has changed since it was read: `Organization.version` is not the stored
                one.
            StoreError: The engine failed.
        """

        def replaced(stored: Organization) -> Mapping[str, Any]:
            _check_fresh(stored.version, organization.version, where=f"organization {organization.id}")
            return organization_document(organization)

        return self._change_organization(organization.id, replaced, Step("changed", reason=reason, actor=actor))

    def set_organization_limit(
        self, organization_id: str, limit_id: str, amount: int | None, reason: str = "", *, actor: str = ""
    ) -> Organization:
        """Set the organization's own amount of a limit, and return the organization; None for that of the settings again.

        Raises:
            AccountError: The organization is unknown; the limit's id or the amount is none; or there is no own amount to clear.
            StoreError: The engine failed.
        """
        step = _limit_step(limit_id, amount, reason, actor)
        return self._change_organization(organization_id, lambda stored: _limits(stored, limit_id, amount), step)

    @abstractmethod
    def organization_history(self, organization_id: str) -> Sequence[OrganizationChange]:
        """What happened to the organization, oldest first.

        Raises:
            AccountError: The id is unknown.
            StoreError: The engine failed.
        """

    @abstractmethod
    def organization_at(self, organization_id: str, moment: datetime) -> Organization | None:
        """The organization as it was at *moment*, or None where it was not there yet.

        Raises:
            StoreError: The engine failed.
        """

    # What an engine provides for the above.

    @abstractmethod
    def _insert_organization(self, organization: Organization, step: Step) -> Organization: ...

    @abstractmethod
    def _change_organization(self, organization_id: str, change: ToOrganization, step: Step) -> Organization: ...


class AdministratorKeys(ABC):
    """Keys of those who administer the store over the network. Their secrets are hashed as those of API keys.

    Look-ups are not cached: a revoked key is refused everywhere at once.
    """

    @abstractmethod
    def add_admin_key(self, name: str, public_id: str, secret_hash: bytes, *, actor: str = "") -> StoredAdminKey:
        """Store the key of an administrator, whom the history will name by *name*.

        Raises:
            AccountError: The name is empty, the public id is taken, or the hash has not 32 bytes.
            StoreError: The engine failed.
        """

    @abstractmethod
    def admin_by_key(self, public_id: str, secret_hash: bytes) -> str | None:
        """The administrator's name; None for an unknown or revoked key and for a wrong secret alike.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def revoke_admin_key(self, public_id: str, *, actor: str = "") -> StoredAdminKey:
        """End a key for good. Revoking it again changes nothing.

        Raises:
            AccountError: The key is unknown.
            StoreError: The engine failed.
        """

    @abstractmethod
    def admin_keys(self) -> Sequence[StoredAdminKey]:
        """All keys of administrators, revoked ones too, oldest first.

        Raises:
            StoreError: The engine failed.
        """


def _check_fresh(stored: int, read: int, *, where: str) -> None:
    if stored != read:
        raise AccountError(
            f"changed meanwhile: it is version {stored}, and you read {read}", where=where, cure="Read it again and repeat the change"
        )


def _limit_step(limit_id: str, amount: int | None, reason: str, actor: str) -> Step:
    if amount is None:
        return Step("limit_cleared", limit_id, reason, actor)
    return Step("limit_set", f"{limit_id}={amount}", reason, actor)


def _limits(stored: Account | Organization, limit_id: str, amount: int | None) -> Mapping[str, Any]:
    limits = dict(stored.limits)
    if amount is not None:
        limits[limit_id] = amount
    elif limits.pop(limit_id, None) is None:
        raise AccountError(f"it has no amount of its own for limit {limit_id}", where=f"{type(stored).__name__.lower()} {stored.id}")
    return {"limits": limits}
