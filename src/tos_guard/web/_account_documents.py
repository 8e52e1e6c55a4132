"""What the account routes say, as JSON members. Pages show the same members and nothing else, so that the two cannot differ.

Internal words of the provider stay inside: who gave a grant, where its evidence lies, which limits are on trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from tos_guard.errors import DeniedError
from tos_guard.guard import LimitUse, Person, PolicyFor, Subject
from tos_guard.ledger import KeptSeal
from tos_guard.limits import Calendar, Quantity, Sliding, Window
from tos_guard.rights import Account, Grant, Holder
from tos_guard.terms import Acceptance, Bound, GrantType, TermsBinding, TermsVersion
from tos_guard.types import UNDECLARED, Standing

__all__ = [
    "BARRED",
    "acceptance_document",
    "account_document",
    "moment",
    "overview_document",
    "receipts_document",
    "rights_document",
    "seal_document",
    "terms_document",
    "terms_members",
    "usage_document",
    "who_document",
]

BARRED: Final = frozenset({Standing.SUSPENDED, Standing.TERMINATED})
"""Standings in which no request is served."""


def moment(at: datetime | None) -> str | None:
    """A time as JSON: ISO 8601, UTC, in seconds."""
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")


def account_document(holder: Holder) -> dict[str, Any]:
    """Who the account is."""
    account, organization = holder.account, holder.organization
    named = {"id": account.organization, "name": organization.name if organization is not None else ""}
    return {
        "id": account.id,
        "kind": account.kind,
        "organization": named if account.organization is not None else None,
        "standing": account.standing.value,
    }


def overview_document(holder: Holder, binding: TermsBinding, *, appeal_url: str | None, here: str) -> dict[str, Any]:
    """Whether requests are served, what is to be done, and where the rest is."""
    owed = [
        {
            "accept_by": moment(bound.grace_ends),
            "models": sorted(bound.to_accept.models),
            "refused": bound.refused,
            "title": bound.to_accept.title,
            "url": f"{here}/terms/{bound.to_accept.version}",
            "version": bound.to_accept.version,
        }
        for bound in binding.owed()
        if bound.to_accept is not None
    ]
    return {
        "account": account_document(holder),
        "appeal_url": appeal_url,
        "links": {name: f"{here}/{name}" for name in ("terms", "rights", "usage", "receipts")},
        "served": holder.account.standing not in BARRED and not binding.refusing(None),
        "to_accept": owed,
    }


# Terms


def terms_members(terms: TermsVersion, here: str) -> dict[str, Any]:
    """A version, without its text."""
    return {
        "acceptance": terms.acceptance.value,
        "effective": terms.effective.isoformat(),
        "locale": terms.locale,
        "models": sorted(terms.models),
        "organization": terms.organization,
        "series": terms.series,
        "sha256": terms.sha256,
        "text_sha256": terms.text_sha256,
        "text_url": f"{here}/terms/{terms.version}.txt",
        "title": terms.title,
        "uri": terms.uri,
        "url": f"{here}/terms/{terms.version}",
        "version": terms.version,
    }


def acceptance_document(acceptance: Acceptance, here: str) -> dict[str, Any]:
    """An acceptance, with its withdrawal."""
    withdrawal = acceptance.withdrawal
    return {
        "accepted_by": acceptance.accepted_by,
        "at": moment(acceptance.at),
        "authority": acceptance.authority,
        "expires": moment(acceptance.expires),
        "id": acceptance.id,
        "identified_by": acceptance.identified_by.value,
        "method": acceptance.method.value,
        "receipt_url": f"{here}/receipts/{acceptance.id}" if acceptance.receipt is not None else None,
        "series": acceptance.series,
        "subject": {"id": acceptance.subject_id, "kind": acceptance.subject_kind.value},
        "terms_sha256": acceptance.terms_sha256,
        "version": acceptance.version,
        "withdrawal": None
        if withdrawal is None
        else {
            "at": moment(withdrawal.at),
            "id": withdrawal.id,
            "reason": withdrawal.reason,
            "receipt_url": f"{here}/receipts/{withdrawal.id}" if withdrawal.receipt is not None else None,
            "withdrawn_by": withdrawal.withdrawn_by,
        },
    }


def who_document(subject: Subject, person: Person | None, refusal: DeniedError | None) -> dict[str, Any]:
    """For whom it is that one accepts, who acts, and why they may not, where they may not."""
    organization = subject.organization
    return {
        "authorities": [one.authority for one in organization.authorized] if organization is not None else [],
        "id": subject.id,
        "kind": subject.kind.value,
        "may_not": None if refusal is None else {"cure": refusal.cure, "message": refusal.what},
        "name": organization.name if organization is not None else "",
        "person": None if person is None else {"id": person.id, "identified_by": person.identified_by.value},
    }


def terms_document(
    holder: Holder,
    binding: TermsBinding,
    upcoming: Iterable[TermsVersion],
    *,
    who: Mapping[str, Any],
    here: str,
) -> dict[str, Any]:
    """What binds, what is to be accepted and until when, and what is to come; each with its text."""
    return {
        "account": account_document(holder),
        "series": [_bound(bound, here) for bound in binding.bounds],
        "upcoming": [terms_members(terms, here) for terms in upcoming],
        "who_accepts": dict(who),
    }


def _bound(bound: Bound, here: str) -> dict[str, Any]:
    """The state of a series: ``binding``, ``grace`` (served until `accept_by`), ``refused``, or ``to_come``."""
    state = (
        "refused" if bound.refused else "grace" if bound.grace_ends is not None else "binding" if bound.version is not None else "to_come"
    )
    acceptance = bound.acceptance
    return {
        "accept_by": moment(bound.grace_ends),
        "acceptance": None if acceptance is None else acceptance_document(acceptance, here),
        "binding": _with_text(bound.version, here),
        "series": bound.series,
        "state": state,
        "to_accept": _with_text(bound.to_accept, here),
    }


def _with_text(terms: TermsVersion | None, here: str) -> dict[str, Any] | None:
    return None if terms is None else terms_members(terms, here) | {"text": terms.text}


# Rights


def rights_document(
    holder: Holder, policies: Iterable[PolicyFor], kinds: Iterable[GrantType], *, appeal_url: str | None, issuer: str, now: datetime
) -> dict[str, Any]:
    """Models, actions, grants and standing, and what may be done with output."""
    account = holder.account
    known = {kind.id: kind for kind in kinds}
    return {
        "account": account_document(holder),
        "actions": sorted(account.actions),
        "appeal_url": appeal_url,
        "blocked_end_users": len(account.blocked_end_users),
        "grants": [_grant(grant, known.get(grant.type), now) for grant in account.grants],
        "models": sorted(account.models),
        "output": [_policy(policy, issuer) for policy in policies],
        "region": account.region,
        "verification": account.verification,
    }


def _grant(grant: Grant, kind: GrantType | None, now: datetime) -> dict[str, Any]:
    return {
        "actions": sorted(grant.actions),
        "id": grant.id,
        "limits": dict(sorted(grant.limits.items())),
        "models": sorted(grant.models),
        "not_after": moment(grant.not_after),
        "not_before": moment(grant.not_before),
        "purposes": sorted(grant.purposes),
        "reason": grant.reason,
        "regions": sorted(grant.regions),
        "state": _state_of(grant, now),
        "text": kind.text if kind is not None else "",
        "title": kind.title if kind is not None else "",
        "type": grant.type,
        "void_reason": grant.void_reason,
        "voided": moment(grant.voided),
    }


def _state_of(grant: Grant, now: datetime) -> str:
    if grant.is_active(now):
        return "active"
    if grant.voided is not None and grant.voided <= now:
        return "voided"
    return "ended" if grant.not_after is not None and grant.not_after < now else "to_come"


def _policy(said: PolicyFor, issuer: str) -> dict[str, Any]:
    policy = said.policy
    return {
        "clauses": json.loads(policy.document)["clauses"],
        "content_usage": policy.content_usage,
        "models": list(said.models),
        "other_models": said.others,
        "purpose": None if said.purpose == UNDECLARED else said.purpose,
        "sha256": policy.sha256,
        "url": f"{issuer}/.well-known/ai-provenance/usage/{policy.sha256}",
    }


# Seals


def seal_document(seal: KeptSeal) -> dict[str, Any]:
    """A kept seal: the tag member as a response would have carried it, and the request id it is for."""
    leaves = {} if seal.leaves is None else {"leaves": [list(leaf) for leaf in seal.leaves]}
    return {"request_id": seal.rid, "token": seal.token, **leaves}


# Usage


def usage_document(account: Account, uses: Iterable[LimitUse], now: datetime) -> dict[str, Any]:
    """How far each limit is used."""
    return {"account": account.id, "as_of": moment(now), "limits": [_use(use, now) for use in uses]}


def _use(use: LimitUse, now: datetime) -> dict[str, Any]:
    limit, state = use.limit, use.state
    seconds = math.ceil(state.reset) if state is not None and state.used > 0 and limit.quantity is not Quantity.CONCURRENCY else None
    return {
        "actions": sorted(limit.actions),
        "amount": limit.amount,
        "burst": limit.burst,
        "id": limit.id,
        "models": sorted(limit.models),
        "per": [dimension.value for dimension in limit.per],
        "quantity": limit.quantity.value,
        "remaining": None if state is None else state.remaining,
        "reset_seconds": seconds,
        "resets_at": None if seconds is None else moment(now + timedelta(seconds=seconds)),
        "scope": None if state is None else dict(zip((dimension.value for dimension in limit.per), state.scope, strict=True)),
        "used": None if state is None else state.used,
        "window": _window(limit.window),
    }


def _window(window: Window | None) -> dict[str, Any] | None:
    match window:
        case Sliding(seconds):
            return {"seconds": seconds}
        case Calendar(unit, zone):
            return {"calendar": unit, "zone": zone}
        case _:
            return None


# Receipts


def receipts_document(holder: Holder, titles: Mapping[str, str], here: str) -> dict[str, Any]:
    """Receipts of acceptances and withdrawals, newest first.

    Args:
        holder: Whose.
        titles: Titles of terms by version.
        here: Where the routes are.
    """
    found: list[dict[str, Any]] = []
    for acceptance in holder.acceptances:
        same = {
            "series": acceptance.series,
            "subject": {"id": acceptance.subject_id, "kind": acceptance.subject_kind.value},
            "title": titles.get(acceptance.version, ""),
            "version": acceptance.version,
        }
        if acceptance.receipt is not None:
            by = {"event": "acceptance", "id": acceptance.id, "at": moment(acceptance.at), "person": acceptance.accepted_by}
            found.append(same | by | {"url": f"{here}/receipts/{acceptance.id}", "expires": moment(acceptance.expires)})
        if (taken := acceptance.withdrawal) is not None and taken.receipt is not None:
            by = {"event": "withdrawal", "id": taken.id, "at": moment(taken.at), "person": taken.withdrawn_by}
            found.append(same | by | {"url": f"{here}/receipts/{taken.id}", "expires": None})
    return {"account": account_document(holder), "receipts": sorted(found, key=lambda one: str(one["at"]), reverse=True)}
