"""`tos-guard accounts grant` and `void-grant`: rights beyond the default. A grant is never edited: it is voided, and another is given."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tos_guard.cli._arguments import (
    AccountArgument,
    ActorOption,
    ConfigOption,
    JSONOption,
    ReasonOption,
    acting,
    now,
    opened,
    parse_limit,
    parse_moment,
)
from tos_guard.cli._documents import grant_text, show_changed
from tos_guard.cli._output import note, plain
from tos_guard.errors import AccountError

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.rights import Grant
    from tos_guard.stores import Store

__all__ = ["grant", "void_grant"]

_MAX_ID_CHARS: Final = 32
_RANDOM_CHARS: Final = 8


def grant(
    account_id: AccountArgument,
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="Kind of grant, as the terms name it.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why it is given.")],
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day (UTC), or last moment.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="First day (UTC), or first moment; otherwise at once.")
    ] = None,
    grant_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Id, which tokens carry; otherwise one is made.")] = None,
    models: Annotated[list[str] | None, typer.Option("--model", metavar="NAME", help="Only for this model; repeat it for more.")] = None,
    actions: Annotated[list[str] | None, typer.Option("--action", metavar="NAME", help="Action it adds; repeat it for more.")] = None,
    purposes: Annotated[
        list[str] | None, typer.Option("--purpose", metavar="WORD", help="Only for this declared purpose; repeat it for more.")
    ] = None,
    regions: Annotated[
        list[str] | None, typer.Option("--region", metavar="CC", help="Only for requests from this region; repeat it for more.")
    ] = None,
    limits: Annotated[
        list[str] | None, typer.Option("--limit", metavar="ID=AMOUNT", help="Amount of a limit while it holds; repeat it for more.")
    ] = None,
    issuer: Annotated[str | None, typer.Option("--issuer", metavar="TEXT", help="Who gives it.", show_default="whoever does it")] = None,
    evidence: Annotated[str, typer.Option("--evidence", metavar="TEXT", help="Where the evidence lies: a contract, a case.")] = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Give an account a right beyond the default: a licence to distil, a research exemption, a larger limit."""
    who = acting(actor)
    given = _grant(
        id=grant_id or f"{kind[: _MAX_ID_CHARS - _RANDOM_CHARS - 1]}-{secrets.token_hex(_RANDOM_CHARS // 2)}",
        type=kind,
        reason=reason,
        models=frozenset(models or ()),
        actions=frozenset(actions or ()),
        purposes=frozenset(purposes or ()),
        regions=frozenset(regions or ()),
        limits=dict(parse_limit(text, where="--limit") for text in limits or ()),
        not_before=None if since is None else parse_moment(since, where="--from"),
        not_after=None if until is None else parse_moment(until, where="--until", end_of_day=True),
        issuer=who if issuer is None else issuer,
        evidence=evidence,
    )
    with opened(config) as (settings, store):
        _check_kind(kind, settings, store)
        account = store.add_grant(account_id, given, actor=who)
    for limit_id in sorted(given.limits.keys() - {limit.id for limit in settings.limits}):
        note(f"The settings have no limit {plain(limit_id)}: its amount changes nothing.")
    if given.not_after is not None and given.not_after < now():
        note("Its last moment has passed: it changes nothing.")
    show_changed(account, f"granted {grant_text(given)}", as_json=as_json)


def _check_kind(kind: str, settings: GuardSettings, store: Store) -> None:
    """See to it that some terms know such a grant: no clause would ever ask for another."""
    from tos_guard.stores import load_terms
    from tos_guard.terms import terms_from_document

    documents = [load_terms(settings.terms)]
    documents += [terms_from_document(stored.document, stored.text) for stored in store.terms_versions()]
    known = sorted({granted.id for document in documents for granted in document.grants})
    if kind not in known:
        cure = f"They know: {', '.join(known)}." if known else "They know none: add a [[grant]] to them."
        raise AccountError(f"the terms know no grant {kind!r}", where=str(settings.terms), cure=cure)


def _grant(**members: Any) -> Grant:
    from pydantic import ValidationError

    from tos_guard.config import describe
    from tos_guard.rights import Grant

    try:
        return Grant.model_validate(members)
    except ValidationError as error:
        raise AccountError(describe(error), where="grant", cure="Correct the option of that name.") from None


def void_grant(
    account_id: AccountArgument,
    grant_id: Annotated[str, typer.Argument(metavar="GRANT", help="Id of the grant.")],
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Take a grant back: it stays, marked as voided, and the history keeps both steps."""
    with opened(config) as (_, store):
        account = store.void_grant(account_id, grant_id, reason, actor=acting(actor))
    show_changed(account, f"grant {grant_id} voided", as_json=as_json)
