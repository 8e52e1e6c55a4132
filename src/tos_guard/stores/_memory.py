"""A store that forgets everything with the process: for tests and for a first look."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from tos_guard.protocols import Clock, Entropy
from tos_guard.stores._acceptances import check_kept, check_new, check_withdrawn, oldest_first
from tos_guard.stores._accounts import account_exists, unknown_account
from tos_guard.stores._administration import ToAccount, ToOrganization
from tos_guard.stores._appeals import Appeal, AppealState, ToAppeal
from tos_guard.stores._archive import already_published, check_usage_policy
from tos_guard.stores._memory_records import MemoryRecords
from tos_guard.stores._model import (
    AccountChange,
    OrganizationChange,
    Step,
    StoredAdminKey,
    StoredKey,
    StoredTerms,
    changed_account,
    changed_organization,
    check_name,
    check_secret_hash,
    check_text,
    checked_public_key,
    from_ms,
    key_taken,
    new_stored_key,
    rotated,
    storable,
    to_ms,
    unknown_key,
)
from tos_guard.stores._organizations import organization_exists, unknown_organization
from tos_guard.stores._outside import DELIVERIES_KEPT, StoredEntitlement, ToGiven, Turn
from tos_guard.stores._store import Store, matching
from tos_guard.types import SubjectKind

if TYPE_CHECKING:
    from tos_guard.rights import Account, Given, Holder, KeyedHolder, KeyTerms, Organization
    from tos_guard.terms import Acceptance, TermsVersion, Withdrawal

__all__ = ["MemoryStore"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Key:
    stored: StoredKey
    secret_hash: bytes


@dataclass(frozen=True, slots=True)
class _AdminKey:
    stored: StoredAdminKey
    secret_hash: bytes


class MemoryStore(MemoryRecords, Store):
    """A `Store` in memory. A fork copies it; the copies know nothing of each other.

    Args:
        issuer: Whose accounts and records these are.
        clock: Tells when something was changed.
        entropy: Where the pepper comes from.

    Attributes:
        fault: What `append` and `keep` do wrong, for tests: ``before`` fails without storing, ``after`` stores and fails all the same.
    """

    def __init__(self, *, issuer: str, clock: Clock, entropy: Entropy = secrets.token_bytes) -> None:
        MemoryRecords.__init__(self, issuer=issuer)
        self.issuer = issuer
        self._clock = clock
        self._version = 1
        self._pepper = entropy(32)
        self._accounts: dict[str, Account] = {}
        self._account_versions: dict[str, list[tuple[datetime, Account]]] = {}
        self._changes: dict[str, list[AccountChange]] = {}
        self._api_keys: dict[str, _Key] = {}
        self._appeals: dict[str, Appeal] = {}
        self._organizations: dict[str, Organization] = {}
        self._organization_versions: dict[str, list[tuple[datetime, Organization]]] = {}
        self._organization_changes: dict[str, list[OrganizationChange]] = {}
        self._holders: dict[str, Holder] = {}
        self._terms: dict[str, StoredTerms] = {}
        self._policies: dict[str, bytes] = {}
        self._public_keys: dict[str, dict[str, Any]] = {}
        self._acceptances: dict[str, Acceptance] = {}
        self._accepted: dict[str, datetime] = {}
        self._withdrawn: dict[str, datetime] = {}
        self._added_by: dict[str, tuple[str, str]] = {}
        self._former: set[str] = set()
        self._admin_keys: dict[str, _AdminKey] = {}
        self._limits_domains: set[str] = set()
        self._all_changes: list[AccountChange] = []
        self._entitlements: dict[tuple[str, str], tuple[Given, int]] = {}
        self._deliveries: dict[tuple[str, str], datetime] = {}
        self._turns: dict[str, Turn] = {}

    # What a request asks.

    def version(self) -> int:
        """As `Store.version`."""
        return self._version

    def keyed_holder(self, public_id: str, secret_hash: bytes) -> KeyedHolder | None:
        """As `Store.keyed_holder`."""
        from tos_guard.rights import KeyedHolder

        with self._lock:
            key = self._api_keys.get(public_id)
            usable = key is not None and key.stored.revoked is None
            if not matching(key.secret_hash if key is not None and usable else None, secret_hash) or key is None:
                return None
            return KeyedHolder(self.rights_of(self._accounts[key.stored.account_id]), key.stored.terms)

    def holder_by_id(self, account_id: str) -> Holder | None:
        """As `Store.holder_by_id`."""
        with self._lock:
            account = self._accounts.get(account_id)
            return None if account is None else self.rights_of(account)

    def rights_of(self, account: Account) -> Holder:
        """As `Store.rights_of`."""
        from tos_guard.rights import Holder

        with self._lock:
            holder = Holder(account, self._organizations.get(account.organization or ""), oldest_first(self._acceptances_of(account)))
            known = self._holders.get(account.id)
            if known is not None and known == holder:
                return known
            self._holders[account.id] = holder
            return holder

    def rights_at(self, account: Account, moment: datetime) -> Holder:
        """As `Store.rights_at`."""
        from tos_guard.rights import Holder

        with self._lock:
            organization = None if account.organization is None else self.organization_at(account.organization, moment)
            known = [
                one if one.withdrawal is None or self._withdrawn[one.id] <= moment else replace(one, withdrawal=None)
                for one in self._acceptances_of(account)
                if self._accepted[one.id] <= moment
            ]
            return Holder(account, organization, oldest_first(known))

    def _acceptances_of(self, account: Account) -> list[Acceptance]:
        subjects = (SubjectKind.ACCOUNT, account.id), (SubjectKind.ORGANIZATION, account.organization)
        return [one for one in self._acceptances.values() if (one.subject_kind, one.subject_id) in subjects and one.id not in self._former]

    def pepper(self) -> bytes:
        """As `Store.pepper`."""
        return self._pepper

    # Accounts.

    def accounts(self, *, after: str = "", limit: int | None = None) -> Sequence[Account]:
        """As `Store.accounts`."""
        with self._lock:
            return _page(self._accounts, after, limit)

    def delete_account(self, account_id: str) -> None:
        """As `Store.delete_account`."""
        with self._lock:
            self._stored(account_id)
            self._version += 1
            for kept in (self._accounts, self._account_versions, self._changes):
                del kept[account_id]
            self._holders.pop(account_id, None)
            self._appeals = {name: one for name, one in self._appeals.items() if one.account_id != account_id}
            self._former |= {each.id for each in self.acceptances(SubjectKind.ACCOUNT, account_id)}
            self._api_keys = {name: key for name, key in self._api_keys.items() if key.stored.account_id != account_id}
            self._entitlements = {key: given for key, given in self._entitlements.items() if key[1] != account_id}
            self._all_changes = [replace(one, what="") if one.account_id == account_id else one for one in self._all_changes]

    def history(self, account_id: str) -> Sequence[AccountChange]:
        """As `Store.history`."""
        with self._lock:
            self._stored(account_id)
            return tuple(self._changes[account_id])

    def account_version(self, account_id: str, version: int) -> Account | None:
        """As `Store.account_version`."""
        with self._lock:
            return next((account for _, account in self._account_versions.get(account_id, ()) if account.version == version), None)

    def account_at(self, account_id: str, moment: datetime) -> Account | None:
        """As `Store.account_at`."""
        with self._lock:
            return next((account for at, account in reversed(self._account_versions.get(account_id, [])) if at <= moment), None)

    def add_api_key(
        self, account_id: str, public_id: str, secret_hash: bytes, *, label: str = "", terms: KeyTerms | None = None, actor: str = ""
    ) -> StoredKey:
        """As `Store.add_api_key`."""
        with self._lock:
            key = new_stored_key(public_id, account_id, label, self._now(), terms)
            account = self._stored(account_id)
            self._insert_key(key, secret_hash)
            self._note(account, Step("key_added", public_id, actor=actor))
            return key

    def rotate_api_key(
        self, public_id: str, new_public_id: str, secret_hash: bytes, *, overlap: timedelta, terms: KeyTerms | None = None, actor: str = ""
    ) -> StoredKey:
        """As `Store.rotate_api_key`."""
        with self._lock:
            old = self._api_keys.get(public_id)
            if old is None:
                raise unknown_key(public_id)
            successor = next((name for name, key in self._api_keys.items() if key.stored.replaces == public_id), None)
            ending, key = rotated(old.stored, new_public_id, self._now(), overlap, terms, successor=successor)
            self._insert_key(key, secret_hash)
            self._api_keys[public_id] = replace(old, stored=replace(old.stored, terms=ending))
            self._note(self._accounts[key.account_id], Step("key_rotated", new_public_id, f"replaces {public_id}", actor))
            return key

    def _insert_key(self, key: StoredKey, secret_hash: bytes) -> None:
        check_secret_hash(secret_hash, key.public_id)
        if key.public_id in self._api_keys:
            raise key_taken(key.public_id)
        self._version += 1
        self._api_keys[key.public_id] = _Key(key, secret_hash)

    def revoke_api_key(self, public_id: str, reason: str = "", *, actor: str = "") -> StoredKey:
        """As `Store.revoke_api_key`."""
        with self._lock:
            key = self._api_keys.get(public_id)
            if key is None:
                raise unknown_key(public_id)
            if key.stored.revoked is None:
                step = Step("key_revoked", public_id, reason, actor)
                self._version += 1
                key = replace(key, stored=replace(key.stored, revoked=self._now()))
                self._api_keys[public_id] = key
                self._note(self._accounts[key.stored.account_id], step)
            return key.stored

    def api_keys(self, account_id: str) -> Sequence[StoredKey]:
        """As `Store.api_keys`."""
        with self._lock:
            self._stored(account_id)
            return tuple(key.stored for key in self._api_keys.values() if key.stored.account_id == account_id)

    def _insert_account(self, account: Account, step: Step) -> Account:
        with self._lock:
            if check_name(account.id, "account") in self._accounts:
                raise account_exists(account.id)
            self._account_versions[account.id], self._changes[account.id] = [], []
            return self._keep_account(account, step)

    def _change_account(self, account_id: str, change: ToAccount, step: Step) -> Account:
        with self._lock:
            stored = self._stored(account_id)
            if step.delivery is not None and self.knows_delivery(*step.delivery):
                return stored
            changes = change(stored)
            if changes is None:
                return stored
            if step.delivery is not None:
                self.note_delivery(*step.delivery)
            return self._keep_account(changed_account(stored, {**changes, "version": stored.version + 1}), step)

    def _keep_account(self, account: Account, step: Step) -> Account:
        self._version += 1
        self._accounts[account.id] = account
        self._account_versions[account.id].append((self._now(), account))
        self._note(account, step)
        return account

    def _note(self, account: Account, step: Step) -> None:
        change = AccountChange(account.id, account.version, self._now(), step.what, step.detail, step.reason, step.actor)
        self._changes[account.id].append(change)
        self._all_changes.append(change)

    def _stored(self, account_id: str) -> Account:
        account = self._accounts.get(account_id)
        if account is None:
            raise unknown_account(account_id)
        return account

    # Appeals.

    def appeal(self, appeal_id: str) -> Appeal | None:
        """As `Store.appeal`."""
        return self._appeals.get(appeal_id)

    def appeals(
        self, *, account_id: str | None = None, state: AppealState | None = None, after: str = "", limit: int | None = None
    ) -> Sequence[Appeal]:
        """As `Store.appeals`."""
        with self._lock:
            filed = list(self._appeals.values())
        names = [appeal.id for appeal in filed]
        rest = filed[names.index(after) + 1 :] if after in names else filed
        found = [one for one in rest if account_id in (None, one.account_id) and state in (None, one.state)]
        return tuple(found[:limit])

    def _appeal(self, account_id: str, change: ToAppeal) -> Appeal:
        with self._lock:
            stored = self._stored(account_id)
            appeal, changes, step = change(stored, self.appeals(account_id=account_id))
            self._appeals[appeal.id] = appeal
            if changes is None:
                self._version += 1
                self._note(stored, step)
            else:
                self._keep_account(changed_account(stored, {**changes, "version": stored.version + 1}), step)
            return appeal

    # What systems outside give and say.

    def _entitle(self, source: str, account_id: str, change: ToGiven, step: Step) -> Account | None:
        with self._lock:
            stored = self._accounts.get(account_id)
            earlier, _ = self._entitlements.get((source, account_id), (None, 0))
            account, given = change(stored, earlier)
            if account is None:
                return None
            if stored is None:
                account = self._insert_account(account, replace(step, what="added"))
            elif account is not stored:
                account = self._keep_account(changed_account(account, {"version": stored.version + 1}), step)
            self._entitlements.pop((source, account_id), None)
            if given is not None:
                self._entitlements[source, account_id] = given, account.version
            return account

    def entitlements(self, source: str) -> Sequence[StoredEntitlement]:
        """As `Store.entitlements`."""
        with self._lock:
            found = sorted((account_id, *given) for (name, account_id), given in self._entitlements.items() if name == source)
            return tuple(
                StoredEntitlement(account_id, given.entitlement.text, given.lapsed, self._accounts[account_id].version == version)
                for account_id, given, version in found
            )

    def knows_delivery(self, sender: str, message_id: str) -> bool:
        """As `Store.knows_delivery`."""
        at = self._deliveries.get((sender, message_id))
        return at is not None and at > self._now() - DELIVERIES_KEPT

    def note_delivery(self, sender: str, message_id: str) -> bool:
        """As `Store.note_delivery`."""
        with self._lock:
            since = self._now() - DELIVERIES_KEPT
            self._deliveries = {key: at for key, at in self._deliveries.items() if at > since}
            is_new = (sender, message_id) not in self._deliveries
            self._deliveries.setdefault((sender, message_id), self._now())
            return is_new

    def changes_after(self, number: int, what: Collection[str], *, limit: int) -> Sequence[tuple[int, AccountChange]]:
        """As `Store.changes_after`."""
        with self._lock:
            found = [(row, change) for row, change in enumerate(self._all_changes, 1) if row > number and change.what in what]
            return tuple(found[:limit])

    def newest_change(self) -> int:
        """As `Store.newest_change`."""
        return len(self._all_changes)

    def turn(self, name: str) -> Turn | None:
        """As `Store.turn`."""
        return self._turns.get(name)

    def take_turn(self, name: str, *, until: datetime) -> Turn | None:
        """As `Store.take_turn`."""
        with self._lock:
            turn = self._turns.get(name) or Turn(from_ms(0))
            if turn.due > self._now():
                return None
            self._turns[name] = replace(turn, due=until)
            return turn

    def put_turn(self, name: str, *, due: datetime | None = None, state: str | None = None) -> None:
        """As `Store.put_turn`."""
        with self._lock:
            turn = self._turns.get(name) or Turn(from_ms(0))
            kept = check_text(turn.state if state is None else state, "turn")
            self._turns[name] = Turn(turn.due if due is None else from_ms(to_ms(due)), kept)

    # Organizations.

    def organization(self, organization_id: str) -> Organization | None:
        """As `Store.organization`."""
        return self._organizations.get(organization_id)

    def organizations(self, *, after: str = "", limit: int | None = None) -> Sequence[Organization]:
        """As `Store.organizations`."""
        with self._lock:
            return _page(self._organizations, after, limit)

    def organization_history(self, organization_id: str) -> Sequence[OrganizationChange]:
        """As `Store.organization_history`."""
        with self._lock:
            self._stored_organization(organization_id)
            return tuple(self._organization_changes[organization_id])

    def organization_at(self, organization_id: str, moment: datetime) -> Organization | None:
        """As `Store.organization_at`."""
        with self._lock:
            versions = self._organization_versions.get(organization_id, [])
            return next((organization for at, organization in reversed(versions) if at <= moment), None)

    def _insert_organization(self, organization: Organization, step: Step) -> Organization:
        with self._lock:
            if check_name(organization.id, "organization") in self._organizations:
                raise organization_exists(organization.id)
            self._organization_versions[organization.id], self._organization_changes[organization.id] = [], []
            return self._keep_organization(organization, step)

    def _change_organization(self, organization_id: str, change: ToOrganization, step: Step) -> Organization:
        with self._lock:
            stored = self._stored_organization(organization_id)
            return self._keep_organization(changed_organization(stored, {**change(stored), "version": stored.version + 1}), step)

    def _keep_organization(self, organization: Organization, step: Step) -> Organization:
        self._version += 1
        now = self._now()
        self._organizations[organization.id] = organization
        self._organization_versions[organization.id].append((now, organization))
        self._organization_changes[organization.id].append(
            OrganizationChange(organization.id, organization.version, now, step.what, step.detail, step.reason, step.actor)
        )
        return organization

    def _stored_organization(self, organization_id: str) -> Organization:
        organization = self._organizations.get(organization_id)
        if organization is None:
            raise unknown_organization(organization_id)
        return organization

    # Terms and public keys.

    def publish_terms(self, terms: TermsVersion, *, actor: str = "") -> None:
        """As `Store.publish_terms`."""
        check_text(actor, "actor")
        with self._lock:
            known = self._terms.get(terms.version)
            if known is not None and known.sha256 != terms.sha256:
                raise already_published(terms.version)
            if known is None:
                self._version += 1
                self._terms[terms.version] = StoredTerms(
                    terms.version, terms.uri, terms.effective, terms.sha256, terms.document_bytes, terms.text, self._now(), actor
                )

    def terms(self, version: str) -> StoredTerms | None:
        """As `Store.terms`."""
        return self._terms.get(version)

    def terms_versions(self) -> Sequence[StoredTerms]:
        """As `Store.terms_versions`."""
        with self._lock:
            return tuple(sorted(self._terms.values(), key=lambda terms: terms.effective))

    def put_usage_policy(self, sha256: str, document: bytes) -> None:
        """As `Store.put_usage_policy`."""
        check_usage_policy(sha256, document)
        with self._lock:
            self._policies.setdefault(sha256, document)

    def usage_policy(self, sha256: str) -> bytes | None:
        """As `Store.usage_policy`."""
        return self._policies.get(sha256)

    def note_limits_domain(self, domain: str) -> bool:
        """As `Store.note_limits_domain`."""
        with self._lock:
            is_new = domain not in self._limits_domains
            self._limits_domains.add(domain)
        return is_new

    def put_public_key(self, document: Mapping[str, Any]) -> None:
        """As `Store.put_public_key`."""
        with self._lock:
            checked = checked_public_key(document, self._public_keys.get(str(document.get("kid"))))
            self._version += 1
            self._public_keys[checked["kid"]] = json.loads(json.dumps(checked))

    def public_keys(self) -> Sequence[dict[str, Any]]:
        """As `Store.public_keys`."""
        with self._lock:
            return tuple(json.loads(json.dumps(document)) for document in self._public_keys.values())

    # Acceptances.

    def add_acceptance(self, acceptance: Acceptance, *, actor: str = "") -> Acceptance:
        """As `Store.add_acceptance`."""
        check_new(acceptance, self.issuer)
        check_text(actor, "actor")
        with self._lock:
            if acceptance.id not in self._acceptances:
                check_name(acceptance.subject_id, acceptance.subject_kind)
                self._version += 1
                self._acceptances[acceptance.id] = acceptance
                self._accepted[acceptance.id] = self._now()
                self._added_by[acceptance.id] = (actor, "")
            return check_kept(self._acceptances[acceptance.id], acceptance)

    def withdraw_acceptance(self, withdrawal: Withdrawal, *, actor: str = "") -> Acceptance:
        """As `Store.withdraw_acceptance`."""
        check_text(actor, "actor")
        with self._lock:
            known = self._acceptances.get(withdrawal.acceptance)
            if known is not None and known.withdrawal is None:
                known = known.with_withdrawal(withdrawal)
                self._version += 1
                self._acceptances[known.id] = known
                self._withdrawn[known.id] = self._now()
                self._added_by[known.id] = (self._added_by[known.id][0], actor)
            return check_withdrawn(known, withdrawal)

    def acceptance(self, acceptance_id: str) -> Acceptance | None:
        """As `Store.acceptance`."""
        return self._acceptances.get(acceptance_id)

    def acceptances(self, subject_kind: SubjectKind, subject_id: str) -> Sequence[Acceptance]:
        """As `Store.acceptances`."""
        with self._lock:
            return oldest_first(
                [one for one in self._acceptances.values() if (one.subject_kind, one.subject_id) == (subject_kind, subject_id)]
            )

    def acceptance_recorded_by(self, acceptance_id: str) -> tuple[str, str] | None:
        """As `Store.acceptance_recorded_by`."""
        return self._added_by.get(acceptance_id)

    # Keys of administrators.

    def add_admin_key(self, name: str, public_id: str, secret_hash: bytes, *, actor: str = "") -> StoredAdminKey:
        """As `Store.add_admin_key`."""
        check_secret_hash(secret_hash, public_id)
        key = StoredAdminKey(check_name(public_id, "key"), check_name(name, "administrator"), self._now(), check_text(actor, "actor"))
        with self._lock:
            if public_id in self._admin_keys:
                raise key_taken(public_id)
            self._admin_keys[public_id] = _AdminKey(key, secret_hash)
            return key

    def admin_by_key(self, public_id: str, secret_hash: bytes) -> str | None:
        """As `Store.admin_by_key`."""
        key = self._admin_keys.get(public_id)
        if key is not None and key.stored.revoked is not None:
            key = None
        equal = matching(None if key is None else key.secret_hash, secret_hash)
        return key.stored.name if equal and key is not None else None

    def revoke_admin_key(self, public_id: str, *, actor: str = "") -> StoredAdminKey:
        """As `Store.revoke_admin_key`."""
        check_text(actor, "actor")
        with self._lock:
            key = self._admin_keys.get(public_id)
            if key is None:
                raise unknown_key(public_id)
            if key.stored.revoked is None:
                key = _AdminKey(replace(key.stored, revoked=self._now(), revoked_by=actor), key.secret_hash)
                self._admin_keys[public_id] = key
            return key.stored

    def admin_keys(self) -> Sequence[StoredAdminKey]:
        """As `Store.admin_keys`."""
        with self._lock:
            return tuple(key.stored for key in self._admin_keys.values())


def _page(kept: Mapping[str, _T], after: str, limit: int | None) -> tuple[_T, ...]:
    """Of what is kept by name, in order, so many from the first name after *after* on."""
    names = sorted(name for name in kept if name > storable(after))
    return tuple(kept[name] for name in names[:limit])
