"""What a request that is not served is told, in its dialect's own error shape."""

from __future__ import annotations

from typing import Any, Final

from tos_guard.dialects import ChatDialect, Dialect, PlainDialect
from tos_guard.errors import AuthenticationError, DeniedError, RequestError
from tos_guard.exchange import Exchange, Head, Headers

__all__ = ["UnavailableError", "denial", "refusal", "unauthenticated", "unavailable"]

_INVALID: Final = "invalid_request_error"
_KINDS: Final = {400: _INVALID, 401: "authentication_error", 403: "permission_error", 404: _INVALID, 413: _INVALID}
_PLAIN: Final = PlainDialect(model="none")
_DENIALS: Final = {
    "tos_account_suspended": "This account is suspended",
    "tos_model_not_allowed": "This account has no right to the model {model}",
    "tos_action_not_allowed": "This account has no right to the action {action}",
    "tos_no_permission": "No clause of the terms permits this request",
    "tos_clause": "Clause {clause} of the terms forbids this request",
}
_CURES: Final = {
    "tos_account_suspended": "The provider can lift this; the terms say how to appeal.",
    "tos_model_not_allowed": "Ask the provider for access, or use another model.",
    "tos_action_not_allowed": "Ask the provider for access.",
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
    return AuthenticationError("The credential is missing or not accepted", cure="Send a valid API key as 'Authorization: Bearer …'.")


def denial(exchange: Exchange) -> DeniedError:
    """What a denied exchange is told: the stable code, the deciding clauses, what was not known, and what to do."""
    reasons = [reason for reason in exchange.decision.reasons if not reason.shadow]
    code = reasons[0].code if reasons else "tos_no_permission"
    clause = next((reason.clause for reason in reasons if reason.clause is not None), None)
    what = _DENIALS.get(code, "The terms do not allow this request").format(
        model=exchange.facts.model, action=exchange.facts.action, clause=clause
    )
    unknown = sorted({name for reason in reasons for name in reason.unknown})
    cure = f"Not known of this request: {', '.join(unknown)}." if unknown else _CURES.get(code, "")
    return DeniedError(what, reason=code, clauses=exchange.decision.clauses, cure=cure)


def refusal(error: RequestError, dialect: Dialect | None, *, rid: str, terms_url: str, appeal_url: str | None) -> tuple[Head, bytes]:
    """The answer to a request that is not served.

    Args:
        error: Why.
        dialect: Of its route; problem details (RFC 9457) where there is none.
        rid: Request id.
        terms_url: Where the terms are.
        appeal_url: Where a refused account can appeal, or None.
    """
    reason = error.reason if isinstance(error, DeniedError) else error.code
    extra: dict[str, Any] = {"terms_url": terms_url, "request_id": rid}
    if isinstance(error, DeniedError) and error.clauses:
        extra["clause"] = error.clauses[0]
        extra["clauses"] = list(error.clauses)
    if appeal_url is not None and error.status == 403:
        extra["appeal_url"] = appeal_url
    body = (dialect or _PLAIN).refusal_body(message=f"{error}", code=reason, kind=_KINDS.get(error.status, "server_error"), extra=extra)
    encoded_rid = rid.encode("ascii")
    headers: Headers = [
        (b"content-type", b"application/json" if isinstance(dialect, ChatDialect) else b"application/problem+json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"link", f'<{terms_url}>; rel="terms-of-service"'.encode("ascii")),
        (b"x-should-retry", b"true" if error.status >= 500 else b"false"),
        (b"x-request-id", encoded_rid),
        (b"request-id", encoded_rid),
    ]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Head(error.status, headers), body
