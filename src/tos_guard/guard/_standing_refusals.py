"""What an account is told that is refused because of its standing: which step and why, what there is to do, and by when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from tos_guard.errors import DeniedError
from tos_guard.exchange import Exchange
from tos_guard.rights import HeldStanding, Measure
from tos_guard.terms import TermsVersion

__all__ = ["STANDING_CODES", "standing_denial"]

MAX_TOLD_CHARS: Final = 300
"""Of a reason or notice in a refusal, which must fit in trailing metadata; the account pages have all of it."""

_SAID: Final = {
    "tos_account_suspended": "This account is suspended",
    "tos_account_terminated": "This account is closed",
    "tos_restricted": "This account is restricted, and this request is not open to it",
    "tos_reaccept": "The terms must be accepted again before this account is served",
    "tos_verification_required": "This account must be verified before it is served",
}
STANDING_CODES: Final = frozenset(_SAID)
"""Reasons of denials by a step of standing."""

_CURE: Final = "The provider can lift this; the terms say how to appeal."


def standing_denial(exchange: Exchange, code: str, accept_url: str | None) -> DeniedError:
    """What an exchange is told that was denied by a step of its account's standing.

    Args:
        exchange: The exchange.
        code: The reason, one of `STANDING_CODES`.
        accept_url: Where people accept terms, or None where nobody said.
    """
    held, rung = exchange.plan.standing, exchange.plan.rung
    details: dict[str, Any] = {"standing": held.step.value}
    if code == "tos_reaccept":
        details["accept"] = [_to_accept(terms) for terms in exchange.plan.to_accept]
        if accept_url is not None:
            details["accept_url"] = accept_url
    if code == "tos_verification_required":
        details["verify"] = sorted(rung.verify)
    measure = held.measure
    if measure is None:
        return DeniedError(_SAID[code], reason=code, details=details, cure=_to_do(code, accept_url, rung.verify) or _CURE)
    details |= _members(measure, exchange.started)
    return DeniedError(
        f"{_SAID[code]}: {_short(measure.reason)}",
        reason=code,
        clauses=measure.clauses,
        details=details,
        cure=" ".join(filter(None, (_to_do(code, accept_url, rung.verify), _short(measure.notice), _until(held)))) or _CURE,
    )


def _members(measure: Measure, now: datetime) -> dict[str, Any]:
    """What programs read of a measure. What is not there says nothing."""
    members = {
        "measure": measure.id,
        "standing_reason": _short(measure.reason),
        "notice": _short(measure.notice) or None,
        "requires": measure.requires,
        "deadline": _moment(measure.deadline),
        "deadline_missed": True if measure.is_missed(now) else None,
        "expires": _moment(measure.expires),
    }
    return {name: value for name, value in members.items() if value is not None}


def _to_do(code: str, accept_url: str | None, levels: frozenset[str]) -> str:
    if code == "tos_reaccept":
        return f"Accept them{f' at {accept_url}' if accept_url is not None else ''}."
    if code == "tos_verification_required":
        return f"Have the provider verify it ({' or '.join(sorted(levels))})."
    return ""


def _until(held: HeldStanding) -> str:
    """When it ends by itself: the measure does, and nothing else keeps the account there."""
    measure = held.measure
    if measure is None or measure.expires is None or len(held.in_force) > 1:
        return ""
    return f"It ends at {_moment(measure.expires)}."


def _to_accept(terms: TermsVersion) -> dict[str, str]:
    return {"series": terms.series, "version": terms.version, "uri": terms.uri, "sha256": terms.sha256}


def _short(text: str) -> str:
    return text if len(text) <= MAX_TOLD_CHARS else f"{text[: MAX_TOLD_CHARS - 1]}…"


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
