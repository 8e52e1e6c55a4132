"""`tos-guard accounts explain`: what an account was allowed, and why; of a recorded request, or of any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tos_guard.cli._arguments import ConfigOption, JSONOption, load_settings, now, open_store, parse_moment
from tos_guard.cli._documents import measure_text
from tos_guard.cli._output import moment, plain, show, show_json
from tos_guard.errors import AccountError, ConfigurationError
from tos_guard.types import UNDECLARED, Facts

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.guard import ExplainedRequest
    from tos_guard.rights import Explanation, Grant
    from tos_guard.stores import Store
    from tos_guard.types import Reason

__all__ = ["explain"]

_MEANINGS = {
    "tos_account_suspended": "the account was suspended",
    "tos_account_terminated": "the account was closed",
    "tos_restricted": "the account was restricted, and this was not open to it",
    "tos_reaccept": "the terms were to be accepted again",
    "tos_verification_required": "the account was to be verified",
    "tos_end_user_blocked": "the end user was blocked",
    "tos_model_not_allowed": "the account had no right to the model",
    "tos_action_not_allowed": "the account had no right to the action",
    "tos_no_permission": "no clause permitted it",
}


def explain(
    account_id: Annotated[str | None, typer.Argument(metavar="ID", help="Id of the account; not needed with --request.")] = None,
    request_id: Annotated[str | None, typer.Option("--request", metavar="RID", help="Explain this recorded request.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="The moment; now otherwise.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Model a request would name.")] = None,
    action: Annotated[str, typer.Option("--action", metavar="NAME", help="Action it would ask for.")] = "generate",
    purpose: Annotated[str, typer.Option("--purpose", metavar="WORD", help="Purpose it would declare.")] = UNDECLARED,
    region: Annotated[
        str | None, typer.Option("--region", metavar="CC", help="Region it would come from; the account's where that is the source.")
    ] = None,
    verification: Annotated[str | None, typer.Option("--verification", metavar="WORD", help="Likewise for the verification level.")] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> int:
    """Say what an account was allowed at a moment, and why, as the guard decided then.

    With --request it decides a recorded request once more and compares: exit 0 if both say the same, 1 if not.
    """
    from tos_guard.guard import explain_moment, explain_request, ladder_of

    settings = load_settings(config)
    with open_store(settings) as store:
        if request_id is not None:
            told = explain_request(store, request_id, ladder=ladder_of(settings))
            if account_id not in (None, told.record.account_id):
                raise AccountError("the request is of another account", where=f"request {request_id}", cure="Leave the account out.")
            return _show_request(told, as_json=as_json)
        if account_id is None or model is None:
            raise ConfigurationError("nothing to explain was named", where="explain", cure="Give --request RID, or an account and --model.")
        when = now() if at is None else parse_moment(at, where="--at")
        facts = _facts(store, settings, account_id, Facts(action, model, purpose, region, verification), when)
        found = explain_moment(store, account_id, facts, when, ladder=ladder_of(settings))
    if as_json:
        show_json({"explanation": _document(found)})
    else:
        _show(found)
    return 0


def _facts(store: Store, settings: GuardSettings, account_id: str, given: Facts, when: Any) -> Facts:
    """The facts with what the account itself says, where the settings take it from there."""
    account = store.account_at(account_id, when)
    if account is None:
        return given
    sources = settings.sources
    return Facts(
        given.action,
        given.model,
        given.purpose,
        given.region or (account.region if sources.region == "account" else None),
        given.verification or (account.verification if sources.verification == "account" else None),
    )


def _show_request(told: ExplainedRequest, *, as_json: bool) -> int:
    record = told.record
    if as_json:
        shown = {"request": record.rid, "recorded": record.to_document(), "agrees": told.agrees, "limit": told.refused_by_limit}
        show_json({**shown, "explanation": _document(told.explanation)})
        return 0 if told.agrees else 1
    _show(told.explanation)
    if told.refused_by_limit is not None:
        show(f"{'limit':<13} refused by {plain(told.refused_by_limit)}, which had not enough left then; the rights alone allowed it")
    if told.refused_by_key:
        show(f"{'key':<13} the API key was for less than the account; the account's rights alone allowed it")
    words = f"{record.decision} ({', '.join(record.reasons)})"
    same = "the same" if told.agrees else "NOT the same"
    show(f"{'recorded':<13} {plain(words)}, HTTP {record.status}: {same} as decided once more")
    return 0 if told.agrees else 1


def _show(found: Explanation) -> None:
    facts, account = found.facts, found.account
    show(
        f"{'decision':<13} {'ALLOWED' if found.decision.allowed else 'DENIED'} at {moment(found.at)}",
        f"{'request':<13} "
        + plain(f"{facts.action} on {facts.model}, purpose {facts.purpose}, region {facts.region or 'unknown'}")
        + (f", end user {facts.end_user}" if facts.end_user != UNDECLARED else ""),
    )
    for reason in found.decision.reasons:
        show(f"{'because':<13} {plain(_meaning(found, reason))}")
    show(f"{'account':<13} {plain(account.id)} version {account.version}, {found.standing.step}, kind {plain(account.kind)}")
    for measure in found.standing.in_force:
        mark = "decided the standing" if measure is found.standing.measure else "in force"
        show(f"{'measure':<13} {plain(f'{measure_text(measure, found.at)} ({mark})')}")
    for terms in found.documents:
        show(f"{'terms':<13} {plain(f'{terms.title} ({terms.series} {terms.version}), {terms.uri}')}")
    if (acceptance := found.acceptance) is not None:
        show(f"{'accepted':<13} {plain(f'by {acceptance.accepted_by} on {moment(acceptance.at)}, receipt {acceptance.id}')}")
    for grant in found.grants:
        mark = "decided" if grant.id in found.decision.grants else "in force"
        show(f"{'grant':<13} {plain(_grant(grant, mark))}")
    usage = found.rights.usage
    show(f"{'output':<13} {plain(usage.content_usage or 'nothing said')}; clauses {plain(', '.join(usage.clauses) or 'none')}")


def _meaning(found: Explanation, reason: Reason) -> str:
    shadow = " (in shadow: reported, decided nothing)" if reason.shadow else ""
    unknown = f"; not known: {', '.join(reason.unknown)}" if reason.unknown else ""
    if reason.code == "tos_clause":
        clause = next(clause for clause in found.plan.terms.clauses if clause.id == reason.clause)
        return f"clause {clause.id} ({clause.effect.value}): {clause.text}{unknown}{shadow}"
    if reason.code == "tos_terms_not_accepted":
        return f"terms {reason.clause} were not accepted"
    measure = f", by measure {reason.clause}" if reason.clause is not None else ""
    return f"{_MEANINGS.get(reason.code, reason.code)}{measure}{unknown}{shadow}"


def _grant(grant: Grant, mark: str) -> str:
    why = f": {grant.reason}" if grant.reason else ""
    return f"{grant.id} ({grant.type}) {mark}{why}"


def _document(found: Explanation) -> dict[str, Any]:
    facts, acceptance = found.facts, found.acceptance
    return {
        "at": found.at.isoformat(),
        "decision": found.decision.outcome.value,
        "reasons": [
            {
                "code": reason.code,
                "names": reason.clause,
                "unknown": list(reason.unknown),
                "shadow": reason.shadow,
                "text": _meaning(found, reason),
            }
            for reason in found.decision.reasons
        ],
        "facts": {
            "action": facts.action,
            "model": facts.model,
            "purpose": facts.purpose,
            "region": facts.region,
            "verification": facts.verification,
            "channel": facts.channel,
            "end_user": None if facts.end_user == UNDECLARED else facts.end_user,
        },
        "account": {"id": found.account.id, "version": found.account.version, "standing": found.standing.step.value},
        "measures": [
            {
                "id": measure.id,
                "step": measure.step_at(found.at).value,
                "reason": measure.reason,
                "clauses": list(measure.clauses),
                "decided": measure is found.standing.measure,
            }
            for measure in found.standing.in_force
        ],
        "terms": [
            {"series": terms.series, "version": terms.version, "uri": terms.uri, "sha256": terms.sha256} for terms in found.documents
        ],
        "acceptance": None if acceptance is None else {"id": acceptance.id, "by": acceptance.accepted_by, "at": acceptance.at.isoformat()},
        "grants": [{"id": grant.id, "type": grant.type, "decided": grant.id in found.decision.grants} for grant in found.grants],
        "usage": {"sha256": found.rights.usage.sha256, "content_usage": found.rights.usage.content_usage},
    }
