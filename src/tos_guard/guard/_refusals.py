"""What a request that is not served is told, in its dialect's own error shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from tos_guard.dialects import Dialect, PlainDialect
from tos_guard.errors import AuthenticationError, DeniedError, LimitExceededError, ProofError, RequestError
from tos_guard.exchange import Exchange, Head, Headers, limit_fields
from tos_guard.guard._standing_refusals import STANDING_CODES, standing_denial
from tos_guard.limits import Calendar, Limit, LimitRefusal, LimitState, Quantity, Sliding
from tos_guard.rights import DPOP_ALGORITHMS
from tos_guard.terms import TermsVersion

__all__ = ["UnavailableError", "challenge", "denial", "denial_members", "may_retry", "refusal", "unauthenticated", "unavailable"]

_INVALID: Final = "invalid_request_error"
_KINDS: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OF_THE_TOKEN: Final = frozenset({"key", "scheme"})  # another proof for the same credential cannot help
_PLAIN: Final = PlainDialect(model="none")
_DENIALS: Final = {
    "tos_end_user_blocked": "The end user that this request names is blocked",
    "tos_model_not_allowed": "This account has no right to the model {model}",
    "tos_action_not_allowed": "This account has no right to the action {action}",
    "tos_key_scope": "This API key is not for the action {action} on the model {model}",
    "tos_no_permission": "No clause of the terms permits this request",
    "tos_clause": "Clause {clause} of the terms forbids this request",
}
_CURES: Final = {
    "tos_end_user_blocked": "Other end users of this account are served. The provider can lift this.",
    "tos_model_not_allowed": "Ask the provider for access, or use another model.",
    "tos_action_not_allowed": "Ask the provider for access.",
    "tos_key_scope": "Use another key of the account.",
}


class UnavailableError(RequestError):
    """A part of the guard failed, and the settings deny rather than allow."""

    code = "tos_unavailable"
    status = 503


def unavailable() -> UnavailableError:
    """The refusal for a failure of our own; says nothing of its cause, which is in the log."""
    return UnavailableError("The provider cannot check or seal this request at present", cure="Try again later.")


def unauthenticated() -> AuthenticationError:
    """The refusal for no credential and for any that is not accepted: one text for all."""
    return AuthenticationError()


def denial(exchange: Exchange, accept_url: str | None = None) -> DeniedError:
    """What a denied exchange is told: the stable code, the deciding clauses, what was not known, and what to do.

    Args:
        exchange: The exchange.
        accept_url: Where people accept terms, or None where nobody said.
    """
    if exchange.limit_refusal is not None:
        return _limit_denial(exchange, exchange.limit_refusal)
    reasons = [reason for reason in exchange.decision.reasons if not reason.shadow]
    code = reasons[0].code if reasons else "tos_no_permission"
    if code == "tos_terms_not_accepted":
        return _terms_denial(exchange, accept_url)
    if code in STANDING_CODES:
        return standing_denial(exchange, code, accept_url)
    clause = next((reason.clause for reason in reasons if reason.clause is not None), None)
    what = _DENIALS.get(code, "The terms do not allow this request").format(
        model=exchange.facts.model, action=exchange.facts.action, clause=clause
    )
    unknown = sorted({name for reason in reasons for name in reason.unknown})
    cure = f"Not known of this request: {', '.join(unknown)}." if unknown else _CURES.get(code, "")
    return DeniedError(what, reason=code, clauses=exchange.decision.clauses, cure=cure)


def _terms_denial(exchange: Exchange, accept_url: str | None) -> DeniedError:
    wanted = exchange.plan.to_accept
    named = " and ".join(f"{terms.title} {terms.version} ({terms.uri})" for terms in wanted)
    organization = exchange.plan.account.organization
    who = f"An authorized person of the organization {organization}" if organization is not None else "The holder of the account"
    where = f" at {accept_url}" if accept_url is not None else ""
    details: dict[str, Any] = {
        "accept": [_to_accept(terms) for terms in wanted],
        "who_may_accept": "organization" if organization is not None else "account",
    }
    if accept_url is not None:
        details["accept_url"] = accept_url
    return DeniedError(
        f"These terms are not accepted: {named}", reason="tos_terms_not_accepted", details=details, cure=f"{who} can accept them{where}."
    )


def _to_accept(terms: TermsVersion) -> dict[str, str]:
    return {"series": terms.series, "version": terms.version, "uri": terms.uri, "sha256": terms.sha256}


def _limit_denial(exchange: Exchange, refused: LimitRefusal) -> LimitExceededError:
    """Names the limit, whose it is, its window, and when it has room again: "too many requests" alone helps nobody."""
    limit, state = refused.state.limit, refused.state
    scope = f"per {' and '.join(dimension.value for dimension in limit.per)}" if limit.per else "for everyone together"
    details: dict[str, Any] = {
        "limit": limit.id,
        "quantity": limit.quantity.value,
        "scope": [dimension.value for dimension in limit.per],
        "window": _window_name(limit),
        "amount": limit.amount,
        "remaining": state.remaining,
        "requested": refused.wanted,
    }
    left, wanted = _number(limit, state.remaining), _number(limit, refused.wanted)
    what = f"The limit {limit.id} is reached: {_allowed(limit)} {scope}{_per_window(limit)}, {left} left, {wanted} asked for"
    if refused.retry_after is None:
        details["retry_after"] = None
        cure = (
            "This request alone asks for more than the limit: ask for less (max_tokens, n, a shorter prompt), or ask the provider for more."
        )
        return LimitExceededError(what, retry_after=None, details=details, cure=cure)
    seconds = math.ceil(refused.retry_after)
    details["retry_after"] = seconds
    if limit.quantity is Quantity.CONCURRENCY:
        cure = "A slot comes back when one of the running responses ends."
    else:
        resets = (exchange.started + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        details["resets_at"] = resets
        cure = f"There is room again in {seconds} s, at {resets}, if nothing else takes it."
    return LimitExceededError(what, retry_after=refused.retry_after, details=details, cure=cure)


def _number(limit: Limit, amount: int) -> str:
    """An amount for people: cost in units of the currency, of which limits count millionths."""
    return f"{amount / 1_000_000:.15g}" if limit.quantity is Quantity.COST else str(amount)


def _allowed(limit: Limit) -> str:
    match limit.quantity:
        case Quantity.COST:
            return f"a cost of {_number(limit, limit.amount)}"
        case Quantity.CONCURRENCY | Quantity.REQUESTS:
            return f"{limit.amount} request{'' if limit.amount == 1 else 's'}"
        case _:
            return f"{limit.amount} {limit.quantity.value.replace('-', ' ')}"


def _window_name(limit: Limit) -> str | None:
    return None if limit.window is None else str(limit.window)


def _per_window(limit: Limit) -> str:
    match limit.window:
        case Sliding(seconds):
            return f" in {seconds} s"
        case Calendar(unit, zone):
            return f" in a calendar {unit} ({zone})"
        case _:
            return " at a time"


def refusal(
    error: RequestError,
    dialect: Dialect | None,
    *,
    rid: str,
    terms_url: str,
    appeal_url: str | None,
    now: datetime,
    states: Sequence[LimitState] = (),
) -> tuple[Head, bytes]:
    """The answer to a request that is not served.

    Args:
        error: Why.
        dialect: Of its route; problem details (RFC 9457) where there is none.
        rid: Request id.
        terms_url: Where the terms are.
        appeal_url: Where a refused account can appeal, or None.
        now: When the limits were asked.
        states: How far the account's limits are used, where they were asked.
    """
    reason = error.reason if isinstance(error, DeniedError) else error.code
    extra: dict[str, Any] = {"terms_url": terms_url, "request_id": rid}
    if isinstance(error, DeniedError):
        extra |= denial_members(error)
    if appeal_url is not None and error.status == 403:
        extra["appeal_url"] = appeal_url
    shape = dialect or _PLAIN
    body = shape.refusal_body(
        message=f"{error}", code=reason, kind=_KINDS.get(error.status, _INVALID if error.status < 500 else "server_error"), extra=extra
    )
    encoded_rid = rid.encode("ascii")
    headers: Headers = [
        (b"content-type", shape.refusal_type),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"link", f'<{terms_url}>; rel="terms-of-service"'.encode("ascii")),
        (b"x-should-retry", b"true" if may_retry(error) else b"false"),
        (b"x-request-id", encoded_rid),
        (b"request-id", encoded_rid),
    ]
    if error.status == 401:
        headers += challenge(error)
    if isinstance(error, LimitExceededError) and error.retry_after is not None:
        headers.append((b"retry-after", str(math.ceil(error.retry_after)).encode("ascii")))
    headers += limit_fields(states)
    if dialect is not None:
        headers += dialect.limit_fields(states, now=now)
    return Head(error.status, headers), body


def challenge(error: RequestError) -> Headers:
    """What to prove, and with which nonce (RFC 9449 sections 7.1, 8 and 9); of any other wrong credential, that one is wanted."""
    if not isinstance(error, ProofError):
        return [(b"www-authenticate", b"Bearer")]
    if error.fault == "certificate":
        return [(b"www-authenticate", b'Bearer error="invalid_token", error_description="bound to another certificate"')]
    if not error.nonce:
        return [(b"www-authenticate", b'Bearer error="invalid_token"')]
    word = "use_dpop_nonce" if error.wants_nonce else "invalid_token" if error.fault in _OF_THE_TOKEN else "invalid_dpop_proof"
    return [
        (b"www-authenticate", f'DPoP error="{word}", algs="{DPOP_ALGORITHMS}"'.encode("ascii")),
        (b"dpop-nonce", error.nonce.encode("ascii")),
    ]


def denial_members(error: DeniedError) -> dict[str, Any]:
    """What a program may read of a denial beside its code: the clauses that decided, and what there is to do."""
    clauses = {"clause": error.clauses[0], "clauses": list(error.clauses)} if error.clauses else {}
    return {**clauses, **error.details}


MAX_RETRY_SECONDS: Final = 60.0  # official clients wait for as long as Retry-After says up to a minute, and retry at once beyond it


def may_retry(error: RequestError) -> bool:
    """Whether trying again soon can help."""
    if isinstance(error, LimitExceededError):
        return error.retry_after is not None and error.retry_after <= MAX_RETRY_SECONDS
    return error.status >= 500
