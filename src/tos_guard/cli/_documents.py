"""Accounts, organizations, grants and acceptances as commands show them: JSON members, and words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tos_guard.cli._arguments import now
from tos_guard.cli._output import moment, plain, show, show_json
from tos_guard.errors import AccountError

if TYPE_CHECKING:
    from tos_guard.rights import Account, Grant, Measure, Organization
    from tos_guard.stores import AccountChange, Appeal, OrganizationChange, Store, StoredKey
    from tos_guard.terms import Acceptance, TermsVersion

__all__ = [
    "acceptance_document",
    "acceptance_state",
    "account_document",
    "amounts_text",
    "appeal_document",
    "change_document",
    "change_text",
    "grant_text",
    "key_document",
    "known_account",
    "known_organization",
    "measure_text",
    "organization_document",
    "show_changed",
    "show_member",
    "span",
    "terms_document",
]

_NAME_CHARS = 13


def known_account(store: Store, account_id: str) -> Account:
    """The account with this id.

    Raises:
        AccountError: There is none.
    """
    account = store.by_id(account_id)
    if account is None:
        raise AccountError("unknown account", where=f"account {account_id}", cure="'tos-guard accounts list' shows all.")
    return account


def known_organization(store: Store, organization_id: str) -> Organization:
    """The organization with this id.

    Raises:
        AccountError: There is none.
    """
    organization = store.organization(organization_id)
    if organization is None:
        cure = "'tos-guard organizations list' shows all."
        raise AccountError("unknown organization", where=f"organization {organization_id}", cure=cure)
    return organization


def account_document(account: Account) -> dict[str, Any]:
    """An account as JSON members, sets in order."""
    document: dict[str, Any] = account.model_dump(mode="json")
    sets = ("models", "actions", "purposes", "regions")
    grants = [{**grant, **{name: sorted(grant[name]) for name in sets}} for grant in document["grants"]]
    ordered = {name: sorted(document[name]) for name in ("models", "actions", "blocked_end_users")}
    return {**document, **ordered, "grants": grants}


def organization_document(organization: Organization) -> dict[str, Any]:
    """An organization as JSON members."""
    document: dict[str, Any] = organization.model_dump(mode="json")
    return document


def key_document(key: StoredKey) -> dict[str, Any]:
    """An API key as JSON members; of what it is for, only what is less than all."""
    terms = key.terms
    limited = {
        "actions": None if terms.actions is None else sorted(terms.actions),
        "models": None if terms.models is None else sorted(terms.models),
        "expires": None if terms.expires is None else terms.expires.isoformat(),
        "jkt": terms.binding.jkt,
        "x5t": terms.binding.x5t,
        "replaces": key.replaces or None,
    }
    return {
        "public_id": key.public_id,
        "label": key.label,
        "created": key.created.isoformat(),
        "revoked": None if key.revoked is None else key.revoked.isoformat(),
        **{name: value for name, value in limited.items() if value is not None},
    }


def key_text(key: StoredKey) -> str:
    """An API key in words."""
    terms = key.terms
    parts = [f"{key.public_id} {key.label}".rstrip()]
    parts += [f"for {', '.join(sorted(names))}" for names in (terms.actions, terms.models) if names is not None]
    parts += [f"bound to {name} {value}" for name, value in (("key", terms.binding.jkt), ("certificate", terms.binding.x5t)) if value]
    if key.revoked is not None:
        parts.append(f"revoked {moment(key.revoked)}")
    elif terms.expires is None:
        parts.append("in use")
    else:
        parts.append(f"{'expired' if terms.has_expired(now()) else 'expires'} {moment(terms.expires)}")
    return "; ".join(parts)


def change_document(change: AccountChange | OrganizationChange) -> dict[str, Any]:
    """A step of a history as JSON members."""
    members = ("version", "what", "detail", "reason", "actor")
    return {"at": change.at.isoformat(), **{name: getattr(change, name) for name in members}}


def change_text(change: AccountChange | OrganizationChange) -> str:
    """A step of a history in words."""
    reason = f" ({change.reason})" if change.reason else ""
    actor = f" by {change.actor}" if change.actor else ""
    return f"{moment(change.at)} {change.what} {change.detail}{actor}{reason}"


def grant_text(grant: Grant) -> str:
    """A grant in words."""
    parts = [f"{grant.id} ({grant.type})"]
    for word, names in (("for", grant.models), ("adds", grant.actions), ("purposes", grant.purposes), ("regions", grant.regions)):
        if names:
            parts.append(f"{word} {', '.join(sorted(names))}")
    if grant.limits:
        parts.append(f"limits {amounts_text(grant.limits)}")
    if grant.not_before is not None:
        parts.append(f"from {moment(grant.not_before)}")
    if grant.not_after is not None:
        parts.append(f"until {moment(grant.not_after)}")
    if grant.issuer:
        parts.append(f"by {grant.issuer}")
    if grant.evidence:
        parts.append(f"evidence {grant.evidence}")
    if grant.voided is not None:
        parts.append(f"voided {moment(grant.voided)}" + (f" ({grant.void_reason})" if grant.void_reason else ""))
    return " ".join(parts) + (f": {grant.reason}" if grant.reason else "")


def measure_text(measure: Measure, at: datetime) -> str:
    """A measure in words, as it is at a moment."""
    parts = [f"{measure.id} {measure.step_at(at)}", f"from {moment(measure.begins)}"]
    if measure.expires is not None:
        parts.append(f"until {moment(measure.expires)}")
    if measure.requires is not None:
        parts.append(f"asks to {_ASKED[measure.requires]}" + (f" by {moment(measure.deadline)}" if measure.deadline is not None else ""))
    if measure.then is not None and not measure.is_missed(at):
        parts.append(f"then {measure.then}")
    if measure.clauses:
        parts.append(f"clauses {', '.join(measure.clauses)}")
    if measure.issuer:
        parts.append(f"by {measure.issuer}" + (", automated" if measure.automated else ""))
    if measure.evidence:
        parts.append(f"evidence {measure.evidence}")
    if measure.lifted is not None:
        who = f" by {measure.lifted_by}" if measure.lifted_by else ""
        parts.append(f"lifted {moment(measure.lifted)}{who}" + (f" ({measure.lift_reason})" if measure.lift_reason else ""))
    return f"{', '.join(parts)}: {measure.reason}"


_ASKED = {"accept": "accept the terms again", "verify": "be verified", "contact": "make contact"}


def appeal_document(appeal: Appeal) -> dict[str, Any]:
    """An appeal as JSON members."""
    return {
        "id": appeal.id,
        "account": appeal.account_id,
        "measure": appeal.measure_id,
        "text": appeal.text,
        "filed": appeal.filed.isoformat(),
        "filed_by": appeal.filed_by,
        "state": appeal.state,
        "ended": None if appeal.ended is None else appeal.ended.isoformat(),
        "ended_by": appeal.ended_by,
        "answer": appeal.answer,
    }


def amounts_text(amounts: Mapping[str, int]) -> str:
    """Amounts by limit id in words."""
    return ", ".join(f"{name}={amounts[name]}" for name in sorted(amounts))


def span(seconds: float) -> str:
    """Seconds in words, rounded up."""
    whole = math.ceil(seconds)
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{math.ceil(whole / size)} {name}"
    return f"{whole} s"


def acceptance_state(acceptance: Acceptance) -> str:
    """What became of an acceptance."""
    if acceptance.withdrawal is not None:
        return f"withdrawn {moment(acceptance.withdrawal.at)} by {acceptance.withdrawal.withdrawn_by}"
    return f"until {moment(acceptance.expires)}" if acceptance.expires is not None else "in force"


def acceptance_document(acceptance: Acceptance) -> dict[str, Any]:
    """An acceptance with its receipts as JSON members."""
    withdrawal = acceptance.withdrawal
    return {
        "id": acceptance.id,
        "subject": {"kind": acceptance.subject_kind.value, "id": acceptance.subject_id},
        "terms": {
            "series": acceptance.series,
            "version": acceptance.version,
            "uri": acceptance.uri,
            "locale": acceptance.locale,
            "sha256": acceptance.terms_sha256,
            "text_sha256": acceptance.text_sha256,
        },
        "accepted_by": acceptance.accepted_by,
        "authority": acceptance.authority,
        "method": acceptance.method.value,
        "identified_by": acceptance.identified_by.value,
        "at": acceptance.at.isoformat(),
        "expires": None if acceptance.expires is None else acceptance.expires.isoformat(),
        "receipt": acceptance.receipt,
        "withdrawal": None
        if withdrawal is None
        else {
            "id": withdrawal.id,
            "withdrawn_by": withdrawal.withdrawn_by,
            "authority": withdrawal.authority,
            "method": withdrawal.method.value,
            "identified_by": withdrawal.identified_by.value,
            "at": withdrawal.at.isoformat(),
            "reason": withdrawal.reason,
            "receipt": withdrawal.receipt,
        },
    }


def terms_document(terms: TermsVersion) -> dict[str, Any]:
    """Which terms these are, as JSON members."""
    return {
        "series": terms.series,
        "version": terms.version,
        "uri": terms.uri,
        "effective": terms.effective.isoformat(),
        "sha256": terms.sha256,
    }


def show_member(name: str, value: object) -> None:
    """One member in words: a line with its name. Lists are joined, and what is not set shows as nothing."""
    words = ", ".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else value
    show(f"{name:<{_NAME_CHARS}} {plain('' if words is None else words)}".rstrip())


def show_changed(account: Account, what: str, *, as_json: bool) -> None:
    """An account that was changed, and how."""
    if as_json:
        show_json({"account": account_document(account)})
    else:
        show(plain(f"{account.id}  {what}"))
