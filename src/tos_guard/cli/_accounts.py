"""`tos-guard accounts`: accounts, their API keys and grants, and what an account may ask to see or to have forgotten."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tos_guard.cli._arguments import ConfigOption, JSONOption, ReasonOption, load_settings, now, open_store, parse_moment
from tos_guard.cli._output import moment, note, plain, show, show_json, show_table
from tos_guard.errors import AccountError, ConfigurationError
from tos_guard.types import Standing

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.rights import Account, Grant
    from tos_guard.stores import AccountChange, SQLiteStore, StoredKey

__all__ = ["app"]

app = typer.Typer(help="Accounts, their API keys and grants.", rich_markup_mode=None)

_MAX_GRANT_ID_CHARS: Final = 32

AccountArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the account.")]
KindOption = Annotated[str | None, typer.Option("--kind", metavar="WORD", help="Kind of customer, as the terms name it.")]
ModelOption = Annotated[list[str] | None, typer.Option("--model", metavar="NAME", help="Model it may use; repeat it, or '*' for all.")]
ActionOption = Annotated[
    list[str] | None, typer.Option("--action", metavar="NAME", help="Action it may ask for; repeat it, or '*' for all.")
]
RegionOption = Annotated[str | None, typer.Option("--region", metavar="CC", help="ISO 3166-1 code of where it is, such as DE.")]
OrganizationOption = Annotated[str | None, typer.Option("--organization", metavar="NAME", help="Organization it belongs to.")]
VerificationOption = Annotated[str | None, typer.Option("--verification", metavar="WORD", help="How far you have verified it.")]


@contextmanager
def _opened(config: Path | None) -> Iterator[tuple[GuardSettings, SQLiteStore]]:
    settings = load_settings(config)
    with open_store(settings) as store:
        yield settings, store


def _rights(
    kind: str | None,
    models: list[str] | None,
    actions: list[str] | None,
    region: str | None,
    organization: str | None,
    verification: str | None,
) -> dict[str, Any]:
    """The members that were given."""
    given = {
        "kind": kind,
        "models": frozenset(models) if models else None,
        "actions": frozenset(actions) if actions else None,
        "region": region,
        "organization": organization,
        "verification": verification,
    }
    return {name: value for name, value in given.items() if value is not None}


def _account(members: dict[str, Any]) -> Account:
    from pydantic import ValidationError

    from tos_guard.config import describe
    from tos_guard.rights import Account

    try:
        return Account.model_validate(members)
    except ValidationError as error:
        raise AccountError(describe(error), where=f"account {members.get('id')}", cure="Correct the option of that name.") from None


def _known(store: SQLiteStore, account_id: str) -> Account:
    account = store.by_id(account_id)
    if account is None:
        raise AccountError("unknown account", where=f"account {account_id}", cure="'tos-guard accounts list' shows all.")
    return account


def account_document(account: Account) -> dict[str, Any]:
    """An account as JSON members, sets in order."""
    document: dict[str, Any] = account.model_dump(mode="json")
    grants = [{**grant, **{name: sorted(grant[name]) for name in ("models", "actions")}} for grant in document["grants"]]
    return {**document, "models": sorted(account.models), "actions": sorted(account.actions), "grants": grants}


def _key_document(key: StoredKey) -> dict[str, Any]:
    revoked = None if key.revoked is None else key.revoked.isoformat()
    return {"public_id": key.public_id, "label": key.label, "created": key.created.isoformat(), "revoked": revoked}


def _change_document(change: AccountChange) -> dict[str, Any]:
    return {
        "at": change.at.isoformat(),
        "version": change.version,
        "what": change.what,
        "detail": change.detail,
        "reason": change.reason,
    }


def _changed(account: Account, what: str, *, as_json: bool) -> None:
    if as_json:
        show_json({"account": account_document(account)})
    else:
        show(plain(f"{account.id}  {what}"))


@app.command("add")
def add(
    account_id: AccountArgument,
    kind: KindOption = None,
    models: ModelOption = None,
    actions: ActionOption = None,
    region: RegionOption = None,
    organization: OrganizationOption = None,
    verification: VerificationOption = None,
    stable_sub: Annotated[
        bool, typer.Option("--stable-sub", help="One pseudonym in all its tokens; otherwise each has a fresh one.")
    ] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add an account. It may do nothing until it has a model, and ask for nothing until it has a key."""
    rights = _rights(kind, models, actions, region, organization, verification)
    account = _account({"id": account_id, "stable_sub": stable_sub, **rights})
    with _opened(config) as (_, store):
        added = store.add_account(account)
    _changed(added, "added", as_json=as_json)
    if not added.models:
        note("It may use no model yet: 'tos-guard accounts set' with --model.")


@app.command("set")
def set_rights(
    account_id: AccountArgument,
    kind: KindOption = None,
    models: ModelOption = None,
    actions: ActionOption = None,
    region: RegionOption = None,
    organization: OrganizationOption = None,
    verification: VerificationOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Change what is given of an account; models and actions are replaced as a whole."""
    rights = _rights(kind, models, actions, region, organization, verification)
    if not rights:
        raise ConfigurationError("nothing to change was given", where=f"account {account_id}", cure="Give --model, --kind, ….")
    with _opened(config) as (_, store):
        before = _known(store, account_id)
        account = store.put_account(_account({**before.model_dump(), **rights}), reason=reason)
    _changed(account, f"changed: {', '.join(sorted(rights))}", as_json=as_json)


@app.command("list")
def list_accounts(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List all accounts."""
    with _opened(config) as (_, store):
        accounts = store.accounts()
    if as_json:
        show_json({"accounts": [account_document(account) for account in accounts]})
        return
    show_table(
        ("id", "kind", "standing", "models", "actions", "grants", "region", "organization"),
        (
            (
                account.id,
                account.kind,
                account.standing,
                ", ".join(sorted(account.models)),
                ", ".join(sorted(account.actions)),
                ", ".join(grant.id for grant in account.grants if grant.voided is None),
                account.region or "",
                account.organization or "",
            )
            for account in accounts
        ),
        empty="There are no accounts. 'tos-guard accounts add' makes one.",
    )


@app.command("show")
def show_account(account_id: AccountArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Show one account with its keys, grants and history."""
    with _opened(config) as (_, store):
        account = _known(store, account_id)
        keys, history = store.api_keys(account_id), store.history(account_id)
    if as_json:
        show_json(
            {
                "account": account_document(account),
                "keys": [_key_document(key) for key in keys],
                "history": [_change_document(change) for change in history],
            }
        )
        return
    members = account_document(account)
    for name in ("id", "version", "kind", "standing", "models", "actions", "region", "organization", "verification", "stable_sub"):
        value = members[name]
        show(f"{name:<13} {plain(', '.join(value) if isinstance(value, list) else '' if value is None else value)}".rstrip())
    for grant in account.grants:
        show(f"{'grant':<13} {plain(_grant_text(grant))}")
    for key in keys:
        state = f"revoked {moment(key.revoked)}" if key.revoked is not None else "in use"
        show(f"{'key':<13} {plain(f'{key.public_id} {state} {key.label}')}".rstrip())
    for change in history:
        reason = f" ({change.reason})" if change.reason else ""
        show(f"{'history':<13} {plain(f'{moment(change.at)} {change.what} {change.detail}{reason}')}".rstrip())


def _grant_text(grant: Grant) -> str:
    models = f" for {', '.join(sorted(grant.models))}" if grant.models else ""
    until = f" until {moment(grant.not_after)}" if grant.not_after is not None else ""
    voided = f" voided {moment(grant.voided)}" if grant.voided is not None else ""
    return f"{grant.id} ({grant.type}){models}{until}{voided}" + (f": {grant.reason}" if grant.reason else "")


@app.command("suspend")
def suspend(
    account_id: AccountArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the account's history.")],
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Suspend an account; every worker refuses it within a second."""
    with _opened(config) as (_, store):
        account = store.set_standing(account_id, Standing.SUSPENDED, reason)
    _changed(account, "suspended", as_json=as_json)


@app.command("reinstate")
def reinstate(account_id: AccountArgument, reason: ReasonOption = "", config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Bring an account back into good standing."""
    with _opened(config) as (_, store):
        account = store.set_standing(account_id, Standing.GOOD, reason)
    _changed(account, "in good standing", as_json=as_json)


@app.command("key")
def make_key(
    account_id: AccountArgument,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="What to call the key in lists.")] = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Make an API key, and write it once: only a keyed hash of its secret is kept."""
    from tos_guard.rights import hash_secret, new_api_key

    key = new_api_key(secrets.token_bytes)
    with _opened(config) as (_, store):
        stored = store.add_api_key(account_id, key.public_id, hash_secret(key.secret, store.pepper()), label=label)
    if as_json:
        show_json({"key": key.text, "public_id": stored.public_id, "account": account_id, "label": label})
        return
    show(key.text)
    note(f"Shown once. Its public id is {key.public_id}; 'tos-guard accounts revoke-key {key.public_id}' ends it.")


@app.command("revoke-key")
def revoke_key(
    public_id: Annotated[str, typer.Argument(metavar="PUBLIC_ID", help="The 12 characters after 'tg-' in the key.")],
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """End an API key for good."""
    with _opened(config) as (_, store):
        key = store.revoke_api_key(public_id, reason)
    if as_json:
        show_json({"key": _key_document(key), "account": key.account_id})
        return
    show(plain(f"{key.public_id}  revoked (account {key.account_id})"))


@app.command("grant")
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
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Give an account a right beyond the default: a licence to distil, a research exemption."""
    from tos_guard.stores import load_terms

    with _opened(config) as (settings, store):
        known = tuple(granted.id for granted in load_terms(settings.terms).grants)
        if kind not in known:
            cure = f"They know: {', '.join(known)}." if known else "They know none: add a [[grant]] to them."
            raise AccountError(f"the terms know no grant {kind!r}", where=str(settings.terms), cure=cure)
        given = _grant(
            id=grant_id or f"{kind[: _MAX_GRANT_ID_CHARS - 9]}-{secrets.token_hex(4)}",
            type=kind,
            reason=reason,
            models=frozenset(models or ()),
            actions=frozenset(actions or ()),
            not_before=None if since is None else parse_moment(since, where="--from"),
            not_after=None if until is None else parse_moment(until, where="--until", end_of_day=True),
        )
        account = store.add_grant(account_id, given)
    if given.not_after is not None and given.not_after < now():
        note("Its last moment has passed: it changes nothing.")
    _changed(account, f"granted {_grant_text(given)}", as_json=as_json)


def _grant(**members: Any) -> Grant:
    from pydantic import ValidationError

    from tos_guard.config import describe
    from tos_guard.rights import Grant

    try:
        return Grant.model_validate(members)
    except ValidationError as error:
        raise AccountError(describe(error), where="grant", cure="Correct the option of that name.") from None


@app.command("void-grant")
def void_grant(
    account_id: AccountArgument,
    grant_id: Annotated[str, typer.Argument(metavar="GRANT", help="Id of the grant.")],
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Take a grant back; the history keeps both steps."""
    with _opened(config) as (_, store):
        account = store.void_grant(account_id, grant_id, reason)
    _changed(account, f"grant {grant_id} voided", as_json=as_json)


@app.command("export")
def export(account_id: AccountArgument, config: ConfigOption = None) -> None:
    """Write, as JSON, everything that is linked to an account."""
    with _opened(config) as (settings, store):
        account = _known(store, account_id)
        keys, history = store.api_keys(account_id), store.history(account_id)
        records = store.of_account(settings.issuer, account_id)
    show_json(
        {
            "issuer": settings.issuer,
            "exported": now().isoformat(),
            "account": account_document(account),
            "keys": [_key_document(key) for key in keys],
            "history": [_change_document(change) for change in history],
            "records": [record.to_document() for record in records],
        }
    )


@app.command("erase")
def erase(
    account_id: AccountArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: there is no way back.")] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Forget an account, its keys, grants and history, and which records were its; the records themselves stay."""
    if not yes:
        raise ConfigurationError("erasing cannot be undone", where=f"account {account_id}", cure="Repeat it with --yes.")
    with _opened(config) as (settings, store):
        # The account first, so that no new exchange begins. Unknown is no error yet: an erasure that broke off is finished here.
        deleted = True
        try:
            store.delete_account(account_id)
        except AccountError:
            deleted = False
        unlinked = store.erase_account(settings.issuer, account_id)
    if not deleted and not unlinked:
        raise AccountError("unknown account", where=f"account {account_id}", cure="'tos-guard accounts list' shows all.")
    if as_json:
        show_json({"erased": True, "account_deleted": deleted, "records_unlinked": unlinked})
        return
    show(f"erased; {unlinked} records no longer name it")
    note("An exchange that was still running links its record when it ends: repeat this after a minute to be sure.")
