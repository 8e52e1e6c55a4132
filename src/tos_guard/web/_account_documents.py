"""What the account routes say, as JSON members. Pages show the same members and nothing else, so that the two cannot differ.

Internal words of the provider stay inside: who gave a grant, where its evidence lies, which limits are on trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from tos_guard.errors import DeniedError
from tos_guard.guard import LimitUse, Person, PolicyFor, Subject
from tos_guard.ledger import KeptSeal
from tos_guard.limits import Calendar, Quantity, Sliding, Window
from tos_guard.rights import Account, Grant, HeldStanding, Holder, Ladder, Measure
from tos_guard.stores import MAX_APPEALS_PER_MEASURE, Appeal
from tos_guard.terms import Acceptance, Bound, GrantType, TermsBinding, TermsVersion
from tos_guard.types import UNDECLARED, Standing

__all__ = [
    "acceptance_document",
    "account_document",
    "appeal_document",
    "moment",
    "overview_document",
    "receipts_document",
    "rights_document",
    "seal_document",
    "standing_document",
    "terms_document",
    "terms_members",
    "usage_document",
    "who_document",
]


def moment(at: datetime | None) -> str | None:
    """A time as JSON: ISO 8601, UTC, in seconds."""
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")


def account_document(holder: Holder, standing: Standing) -> dict[str, Any]:
    """Who the account is, and where it stands."""
    account, organization = holder.account, holder.organization
    named = {"id": account.organization, "name": organization.name if organization is not None else ""}
    return {
        "id": account.id,
        "kind": account.kind,
        "organization": named if account.organization is not None else None,
        "standing": standing.value,
    }


def overview_document(
    holder: Holder, binding: TermsBinding, standing: Standing, *, served: bool, appeal_url: str | None, here: str
) -> dict[str, Any]:
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
        "account": account_document(holder, standing),
        "appeal_url": appeal_url,
        "links": {name: f"{here}/{name}" for name in ("terms", "standing", "rights", "usage", "receipts")},
        "served": served,
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
    standing: HeldStanding,
    *,
    again: bool,
    who: Mapping[str, Any],
    here: str,
) -> dict[str, Any]:
    """What binds, what is to be accepted and until when, and what is to come; each with its text.

    Args:
        holder: Who reads it.
        binding: What binds.
        upcoming: What is to come and can be accepted.
        standing: Where the account stands.
        again: Whether the general terms in effect are to be accepted again.
        who: Who accepts.
        here: Where the routes are.
    """
    deadlines = [one.deadline for one in standing.in_force if one.requires == "accept" and one.deadline is not None]
    by = min(deadlines, default=None) if again else None
    return {
        "account": account_document(holder, standing.step),
        "series": [_bound(bound, here, again=again and bound.series == "general", by=by) for bound in binding.bounds],
        "upcoming": [terms_members(terms, here) for terms in upcoming],
        "who_accepts": dict(who),
    }


def _bound(bound: Bound, here: str, *, again: bool, by: datetime | None) -> dict[str, Any]:
    """The state of a series: ``binding``, ``grace`` (served until `accept_by`), ``refused``, ``again`` (a measure asks), or ``to_come``."""
    if again and bound.to_accept is None and bound.version is not None:
        return {
            "accept_by": moment(by),
            "acceptance": None if bound.acceptance is None else acceptance_document(bound.acceptance, here),
            "binding": _with_text(bound.version, here),
            "series": bound.series,
            "state": "again",
            "to_accept": _with_text(bound.version, here),
        }
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
    holder: Holder,
    policies: Iterable[PolicyFor],
    kinds: Iterable[GrantType],
    standing: Standing,
    *,
    grants_suspended: bool,
    appeal_url: str | None,
    issuer: str,
    now: datetime,
) -> dict[str, Any]:
    """Models, actions, grants and standing, and what may be done with output."""
    account = holder.account
    known = {kind.id: kind for kind in kinds}
    return {
        "account": account_document(holder, standing),
        "actions": sorted(account.actions),
        "appeal_url": appeal_url,
        "blocked_end_users": len(account.blocked_end_users),
        "grants": [_grant(grant, known.get(grant.type), now, suspended=grants_suspended) for grant in account.grants],
        "models": sorted(account.models),
        "output": [_policy(policy, issuer) for policy in policies],
        "region": account.region,
        "verification": account.verification,
    }


def _grant(grant: Grant, kind: GrantType | None, now: datetime, *, suspended: bool) -> dict[str, Any]:
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
        "state": "suspended" if suspended and grant.is_active(now) else _state_of(grant, now),
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


# Standing


def standing_document(
    holder: Holder,
    standing: HeldStanding,
    ladder: Ladder,
    appeals: Iterable[Appeal] | None,
    *,
    served: bool,
    appeal_url: str | None,
    here: str,
    now: datetime,
) -> dict[str, Any]:
    """Where the account stands and what that does; each measure, the newest first, with what to do by when, and the appeals against it."""
    by_measure: dict[str, list[Appeal]] = {}
    for appeal in appeals or ():
        by_measure.setdefault(appeal.measure_id, []).append(appeal)
    rung = ladder.rung(standing.step)
    measures = sorted(holder.account.measures, key=lambda one: (one.begins, one.id), reverse=True)
    return {
        "account": account_document(holder, standing.step),
        "appeal_url": appeal_url,
        "appeal_to": f"{here}/standing/appeal",
        "because_of": standing.measure.id if standing.measure is not None else None,
        "effects": {
            "accept": rung.accept,
            "limit_share": rung.limit_share,
            "models": sorted(rung.models) if rung.models is not None else None,
            "refuse": rung.refuse,
            "verify": sorted(rung.verify),
            "without_actions": sorted(rung.without_actions),
            "without_grants": rung.without_grants,
        },
        "measures": [_measure(one, standing, ladder, by_measure.get(one.id, []), here, now, hears=appeals is not None) for one in measures],
        "served": served,
        "withdraw_to": f"{here}/standing/withdraw",
    }


def _measure(
    measure: Measure, standing: HeldStanding, ladder: Ladder, appeals: list[Appeal], here: str, now: datetime, *, hears: bool
) -> dict[str, Any]:
    """A measure as its account may read it: neither where its evidence lies nor who decided."""
    state = _measure_state(measure, standing, now)
    is_open = any(appeal.state == "filed" for appeal in appeals)
    return {
        "accept_url": f"{here}/terms" if measure.requires == "accept" and state == "in_force" else None,
        "appeals": [appeal_document(appeal) for appeal in appeals],
        "automated": measure.automated,
        "begins": moment(measure.begins),
        "clauses": list(measure.clauses),
        "deadline": moment(measure.deadline),
        "deadline_missed": measure.is_missed(now),
        "decides": measure is standing.measure,
        "expires": moment(measure.expires),
        "id": measure.id,
        "lift_reason": measure.lift_reason,
        "lifted": moment(measure.lifted),
        "may_appeal": hears and measure.lifted is None and not is_open and len(appeals) < MAX_APPEALS_PER_MEASURE,
        "notice": measure.notice,
        "reason": measure.reason,
        "requires": measure.requires,
        "state": state,
        "step": measure.step_at(now).value,
        "then": measure.then.value if measure.then is not None and not measure.is_missed(now) else None,
        "verify": sorted(ladder.levels(measure.step)) if measure.requires == "verify" else [],
    }


def _measure_state(measure: Measure, standing: HeldStanding, now: datetime) -> str:
    """``in_force``, ``lifted``, ``ended``, ``to_come``, or ``done``: what it asks for."""
    if measure in standing.in_force:
        return "in_force"
    if measure.lifted is not None and measure.lifted <= now:
        return "lifted"
    if measure.begins > now:
        return "to_come"
    return "ended" if measure.expires is not None and measure.expires <= now else "done"


def appeal_document(appeal: Appeal) -> dict[str, Any]:
    """An appeal as its account may read it: not who decided."""
    return {
        "answer": appeal.answer,
        "ended": moment(appeal.ended),
        "filed": moment(appeal.filed),
        "filed_by": appeal.filed_by,
        "id": appeal.id,
        "measure": appeal.measure_id,
        "state": appeal.state,
        "text": appeal.text,
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


def receipts_document(holder: Holder, titles: Mapping[str, str], standing: Standing, here: str) -> dict[str, Any]:
    """Receipts of acceptances and withdrawals, newest first.

    Args:
        holder: Whose.
        titles: Titles of terms by version.
        standing: Where the account stands.
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
    return {"account": account_document(holder, standing), "receipts": sorted(found, key=lambda one: str(one["at"]), reverse=True)}
