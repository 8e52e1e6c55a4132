"""What the admin routes say, as JSON members: everything the store has, but for secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tos_guard.ledger import ExchangeRecord
from tos_guard.rights import Account, HeldStanding, Organization
from tos_guard.stores import AccountChange, Appeal, OrganizationChange, StoredKey, StoredTerms
from tos_guard.terms import Acceptance, Finding, TermsVersion
from tos_guard.web._account_documents import acceptance_document, appeal_document, moment

__all__ = [
    "acceptance_members",
    "account_members",
    "appeal_members",
    "change_members",
    "finding_members",
    "key_members",
    "organization_members",
    "record_members",
    "standing_members",
    "terms_members",
]


def account_members(account: Account) -> dict[str, Any]:
    """An account with its grants; of its blocked end users how many there are, since there may be thousands."""
    document = account.model_dump(mode="json")
    grants = [{name: _sorted(value) for name, value in grant.items()} for grant in document["grants"]]
    sorted_members = {name: _sorted(value) for name, value in document.items()}
    return sorted_members | {"blocked_end_users": len(account.blocked_end_users), "grants": grants}


def standing_members(held: HeldStanding) -> dict[str, Any]:
    """Where an account stands now, because of which measure, and until when nothing changes by itself."""
    return {
        "changes": moment(held.changes),
        "in_force": [measure.id for measure in held.in_force],
        "measure": held.measure.id if held.measure is not None else None,
        "step": held.step.value,
    }


def appeal_members(appeal: Appeal) -> dict[str, Any]:
    """An appeal, whose it is, and who decided."""
    return appeal_document(appeal) | {"account": appeal.account_id, "ended_by": appeal.ended_by}


def _sorted(value: Any) -> Any:
    """Sets come as lists in no order."""
    return sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value


def key_members(key: StoredKey) -> dict[str, Any]:
    """An API key; nobody can tell its secret any more."""
    terms = key.terms
    return {
        "actions": None if terms.actions is None else sorted(terms.actions),
        "created": moment(key.created),
        "expires": moment(terms.expires),
        "jkt": terms.binding.jkt,
        "label": key.label,
        "models": None if terms.models is None else sorted(terms.models),
        "public_id": key.public_id,
        "replaces": key.replaces or None,
        "revoked": moment(key.revoked),
        "x5t": terms.binding.x5t,
    }


def organization_members(organization: Organization) -> dict[str, Any]:
    """An organization."""
    return organization.model_dump(mode="json")


def change_members(change: AccountChange | OrganizationChange) -> dict[str, Any]:
    """A step of a history."""
    return {
        "actor": change.actor,
        "at": moment(change.at),
        "detail": change.detail,
        "reason": change.reason,
        "version": change.version,
        "what": change.what,
    }


def terms_members(terms: TermsVersion, stored: StoredTerms | None) -> dict[str, Any]:
    """A version, and by whom and when it was published."""
    return {
        "acceptance": terms.acceptance.value,
        "effective": terms.effective.isoformat(),
        "grace_days": terms.grace_days,
        "locale": terms.locale,
        "material": terms.material,
        "models": sorted(terms.models),
        "organization": terms.organization,
        "published": moment(stored.published) if stored is not None else None,
        "published_by": stored.published_by if stored is not None else "",
        "series": terms.series,
        "sha256": terms.sha256,
        "title": terms.title,
        "uri": terms.uri,
        "version": terms.version,
    }


def finding_members(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """What was found in a terms document."""
    return [
        {"clause": finding.clause, "code": finding.code, "line": finding.line, "message": finding.message, "severity": finding.severity}
        for finding in findings
    ]


def acceptance_members(acceptance: Acceptance, recorded_by: tuple[str, str] | None) -> dict[str, Any]:
    """An acceptance with its receipts, and the administrators who recorded it and its withdrawal."""
    document = acceptance_document(acceptance, "")
    by, withdrawn_by = recorded_by or ("", "")
    del document["receipt_url"]
    document |= {"receipt": acceptance.receipt, "recorded_by": by}
    if acceptance.withdrawal is not None:
        del document["withdrawal"]["receipt_url"]
        document["withdrawal"] |= {"receipt": acceptance.withdrawal.receipt, "recorded_by": withdrawn_by}
    return document


def record_members(record: ExchangeRecord) -> dict[str, Any]:
    """The record of an exchange, and whose it is."""
    return {"account": record.account_id, "record": record.to_document()}
