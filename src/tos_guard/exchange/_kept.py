"""An exchange as it is kept with its seal: enough to decide it again and, while it is open, to seal and settle it elsewhere.

Neither prompt nor output nor salt is in it. Who made the request has the salt, or can have it again (`Idempotency-Key`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tos_guard.dialects import Dialect, RequestFacts
from tos_guard.exchange._exchange import Exchange, ExchangeIds, Sealed, TermsInForce
from tos_guard.ledger import KeptSeal, SealKind
from tos_guard.limits import Amounts
from tos_guard.limits._document import reservation_document, reservation_from
from tos_guard.provenance import Content, Terms, Usage
from tos_guard.rights import Plan
from tos_guard.types import Decision, Facts, Outcome, Reason

__all__ = ["SealName", "closed", "covers", "kept_content", "kept_facts", "opened", "original_of"]

SealName = tuple[SealKind, str, int]
"""Kind, key, and until when the seal is kept under it, in ms since 1970."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FOR_OPEN: Final = ("estimate", "nonce", "reservation")
"""What is needed only until there is a final token."""


def opened(exchange: Exchange, names: tuple[SealName, ...], now: datetime, *, request_hash: str | None) -> tuple[KeptSeal, ...]:
    """The open seals of an exchange, one for each name; a response may end long after the process that began it.

    Args:
        exchange: The exchange.
        names: Under what they are kept.
        now: The present.
        request_hash: Keyed hash of the request, where a retry is compared with it.
    """
    reservation = None if exchange.reservation is None else reservation_document(exchange.reservation)
    document = {
        "account_version": exchange.account_version,
        "also": list(exchange.in_force.also),
        "decision": _decision_document(exchange.decision),
        "estimate": asdict(exchange.estimate),
        "facts": asdict(exchange.facts),
        "grant": exchange.in_force.grant,
        "monitored": exchange.monitored,
        "names": [[str(kind), key, until] for kind, key, until in names],
        "nonce": exchange.nonce,
        "pending_jti": exchange.ids.pending_jti,
        "reservation": reservation,
        "started": _milliseconds(exchange.started),
        "terms": asdict(exchange.in_force.terms),
        "usage": {**asdict(exchange.in_force.usage), "clauses": list(exchange.in_force.usage.clauses)},
    }
    first = KeptSeal(
        issuer=exchange.issuer,
        account_id=exchange.account_id,
        kind=names[0][0],
        key=names[0][1],
        rid=exchange.ids.rid,
        jti=exchange.ids.jti,
        sub=exchange.ids.sub,
        req=exchange.req,
        kept=_milliseconds(now),
        until=names[0][2],
        request_hash=request_hash,
        exchange=document,
    )
    return _under(first, names)


def closed(seal: KeptSeal, sealed: Sealed) -> tuple[KeptSeal, ...]:
    """An open seal with its final token, under all its names.

    Args:
        seal: The open one.
        sealed: The token, and what it covers.
    """
    content = sealed.content
    leaves = None if content.is_inline else content.leaves
    names = tuple((SealKind(kind), key, until) for kind, key, until in seal.exchange["names"])
    document = {name: value for name, value in seal.exchange.items() if name not in _FOR_OPEN}
    done = replace(seal, token=sealed.token, leaves=leaves, proj=content.projection, n=content.count, root=content.root, exchange=document)
    return _under(done, names)


def _under(seal: KeptSeal, names: tuple[SealName, ...]) -> tuple[KeptSeal, ...]:
    return tuple(replace(seal, kind=kind, key=key, until=until) for kind, key, until in names)


def original_of(seal: KeptSeal, *, dialect: Dialect, plan: Plan, request: RequestFacts, observed: Any, salt: bytes) -> Exchange:
    """The exchange that a kept seal is of.

    Args:
        seal: The seal.
        dialect: Of its route.
        plan: What decides now; how it was decided is kept.
        request: What is known of the request.
        observed: What telemetry knows.
        salt: The salt of the exchange, where it is known again; empty where only its caller has it.

    Raises:
        KeyError, TypeError, ValueError, ConfigurationError: What was kept is no exchange, or one of another machine.
    """
    document = seal.exchange
    usage = {**document["usage"], "clauses": tuple(document["usage"]["clauses"])}
    terms, facts = Terms(**document["terms"]), kept_facts(seal)
    held = document.get("reservation")
    original = Exchange(
        issuer=seal.issuer,
        ids=ExchangeIds(rid=seal.rid, jti=seal.jti, pending_jti=document.get("pending_jti", ""), sub=seal.sub, salt=salt),
        account_id=seal.account_id,
        account_version=document["account_version"],
        started=_EPOCH + timedelta(milliseconds=document["started"]),
        dialect=dialect,
        request=request,
        facts=facts,
        decision=_decision(document["decision"]),
        in_force=TermsInForce(terms, Usage(**usage), document["grant"], tuple(document["also"])),
        plan=plan,
        request_body=b"",
        nonce=document.get("nonce"),
        monitored=document["monitored"],
        reservation=None if held is None else reservation_from(held),
        estimate=Amounts(**document["estimate"]) if "estimate" in document else Amounts(),
        observed=observed,
    )
    original.req = seal.req
    return original


def kept_facts(seal: KeptSeal) -> Facts:
    """What the exchange of a seal was decided on.

    Raises:
        KeyError, TypeError: What was kept are no facts.
    """
    return Facts(**seal.exchange["facts"])


def covers(seal: KeptSeal, content: Content) -> bool:
    """Whether a kept seal is one of this content."""
    return not seal.is_open and (seal.proj, seal.n, seal.root) == (content.projection, content.count, content.root)


def kept_content(seal: KeptSeal, content: Content) -> Content:
    """The content that a seal covers, with its leaves where the seal has them."""
    return content.with_leaves_beside() if seal.leaves is not None else content


def _decision_document(decision: Decision) -> dict[str, Any]:
    reasons = [{**asdict(reason), "unknown": list(reason.unknown)} for reason in decision.reasons]
    return {"outcome": str(decision.outcome), "reasons": reasons}


def _decision(document: Mapping[str, Any]) -> Decision:
    reasons = (Reason(**{**reason, "unknown": tuple(reason["unknown"])}) for reason in document["reasons"])
    return Decision(Outcome(document["outcome"]), tuple(reasons))


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
