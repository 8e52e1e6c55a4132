"""`tos-guard accounts`: accounts, their API keys and grants, and what an account may ask to see or to have forgotten."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    parse_moment,
    parse_span,
)
from tos_guard.cli._documents import (
    acceptance_document,
    account_document,
    amounts_text,
    appeal_document,
    change_document,
    change_text,
    grant_text,
    key_document,
    key_text,
    known_account,
    measure_text,
    show_changed,
    show_member,
)
from tos_guard.cli._output import moment, note, plain, show, show_json, show_table
from tos_guard.errors import AccountError, ConfigurationError
from tos_guard.types import Standing, SubjectKind

if TYPE_CHECKING:
    from tos_guard.rights import Account, ApiKey, Binding
    from tos_guard.stores import StoredKey

__all__ = ["app"]

app = typer.Typer(help="Accounts: API keys, grants, limits, end users, acceptances of terms.", rich_markup_mode=None)

KindOption = Annotated[str | None, typer.Option("--kind", metavar="WORD", help="Kind of customer, as the terms name it.")]
ModelOption = Annotated[list[str] | None, typer.Option("--model", metavar="NAME", help="Model it may use; repeat it, or '*' for all.")]
ActionOption = Annotated[
    list[str] | None, typer.Option("--action", metavar="NAME", help="Action it may ask for; repeat it, or '*' for all.")
]
RegionOption = Annotated[str | None, typer.Option("--region", metavar="CC", help="ISO 3166-1 code of where it is, such as DE.")]
OrganizationOption = Annotated[str | None, typer.Option("--organization", metavar="NAME", help="Organization it belongs to.")]
VerificationOption = Annotated[str | None, typer.Option("--verification", metavar="WORD", help="How far you have verified it.")]

PublicIdArgument = Annotated[str, typer.Argument(metavar="PUBLIC_ID", help="The 12 characters after 'tg-' in the key.")]
KeyModelOption = Annotated[
    list[str] | None, typer.Option("--model", metavar="NAME", help="Model it is for; repeat it. Without: all of the account.")
]
KeyActionOption = Annotated[
    list[str] | None,
    typer.Option("--action", metavar="NAME", help="Action it is for, 'account' for the account routes; repeat it. Without: all."),
]
KeyUntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="When it expires: a day, which it includes, or a time.")
]


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
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add an account. It may do nothing until it has a model, and ask for nothing until it has a key."""
    rights = _rights(kind, models, actions, region, organization, verification)
    account = _account({"id": account_id, "stable_sub": stable_sub, **rights})
    with opened(config) as (_, store):
        added = store.add_account(account, actor=acting(actor))
    show_changed(added, "added", as_json=as_json)
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
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Change what is given of an account; models and actions are replaced as a whole."""
    rights = _rights(kind, models, actions, region, organization, verification)
    if not rights:
        raise ConfigurationError("nothing to change was given", where=f"account {account_id}", cure="Give --model, --kind, ….")
    with opened(config) as (_, store):
        before = known_account(store, account_id)
        account = store.put_account(_account({**before.model_dump(), **rights}), reason=reason, actor=acting(actor))
    show_changed(account, f"changed: {', '.join(sorted(rights))}", as_json=as_json)


@app.command("list")
def list_accounts(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List all accounts."""
    with opened(config) as (_, store):
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
    """Show one account with its standing, measures, keys, grants and history."""
    from tos_guard.guard import ladder_of

    with opened(config) as (settings, store):
        account = known_account(store, account_id)
        keys, history = store.api_keys(account_id), store.history(account_id)
        held = account.standing_at(now(), acceptances=store.rights_of(account).acceptances, ladder=ladder_of(settings))
    if as_json:
        show_json(
            {
                "account": account_document(account),
                "standing": {"step": held.step.value, "in_force": [measure.id for measure in held.in_force]},
                "keys": [key_document(key) for key in keys],
                "history": [change_document(change) for change in history],
            }
        )
        return
    members = account_document(account)
    for name in ("id", "version", "kind", "standing", "models", "actions", "region", "organization", "verification", "stable_sub"):
        show_member(name, members[name])
    if account.limits:
        show_member("limits", amounts_text(account.limits))
    for end_user in members["blocked_end_users"]:
        show_member("blocked", end_user)
    if held.step is not account.standing:
        show_member("holds", f"{held.step}, by measure {held.measure.id}" if held.measure is not None else held.step)
    for measure in account.measures:
        mark = "in force" if measure in held.in_force else "not in force"
        show_member("measure", f"{measure_text(measure, now())} ({mark})")
    for grant in account.grants:
        show_member("grant", grant_text(grant))
    for key in keys:
        show_member("key", key_text(key))
    for change in history:
        show_member("history", change_text(change))


@app.command("suspend")
def suspend(
    account_id: AccountArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the history.")],
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Suspend an account; every worker refuses it within a second."""
    with opened(config) as (_, store):
        account = store.set_standing(account_id, Standing.SUSPENDED, reason, actor=acting(actor))
    show_changed(account, "suspended", as_json=as_json)


@app.command("reinstate")
def reinstate(
    account_id: AccountArgument,
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Bring an account back into good standing. Measures hold as before: 'lift' ends one."""
    with opened(config) as (_, store):
        account = store.set_standing(account_id, Standing.GOOD, reason, actor=acting(actor))
    if (held := account.standing_at(now())).in_force and not as_json:
        note(f"Measures still in force: {plain(', '.join(one.id for one in held.in_force))}.")
    show_changed(account, "in good standing", as_json=as_json)


@app.command("key")
def make_key(
    account_id: AccountArgument,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="What to call the key in lists.")] = "",
    models: KeyModelOption = None,
    actions: KeyActionOption = None,
    until: KeyUntilOption = None,
    jkt: Annotated[str | None, typer.Option("--jkt", metavar="THUMBPRINT", help="Key whose holder must prove it (DPoP, RFC 9449).")] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="Client certificate (PEM) that it is bound to (RFC 8705).")
    ] = None,
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Make an API key, and write it once: only a keyed hash of its secret is kept."""
    from tos_guard.rights import KeyTerms, hash_secret, new_api_key

    terms = KeyTerms(
        actions=frozenset(actions) if actions else None,
        models=frozenset(models) if models else None,
        expires=None if until is None else parse_moment(until, where="--until", end_of_day=True),
        binding=_binding(jkt, certificate),
    )
    key = new_api_key(secrets.token_bytes)
    with opened(config) as (_, store):
        hashed = hash_secret(key.secret, store.pepper())
        stored = store.add_api_key(account_id, key.public_id, hashed, label=label, terms=terms, actor=acting(actor))
    _show_new_key(key, stored, as_json=as_json)


@app.command("rotate-key")
def rotate_key(
    public_id: PublicIdArgument,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="SPAN", help="For how long the old key stays good beside the new one: 0s, 90m, 24h, 7d.")
    ] = "24h",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Make a key in place of another, for the same and as long, and let the old one expire after an overlap."""
    from tos_guard.rights import hash_secret, new_api_key

    span = parse_span(overlap, where="--overlap")
    key = new_api_key(secrets.token_bytes)
    with opened(config) as (_, store):
        hashed = hash_secret(key.secret, store.pepper())
        stored = store.rotate_api_key(public_id, key.public_id, hashed, overlap=span, actor=acting(actor))
        old = next(each for each in store.api_keys(stored.account_id) if each.public_id == public_id)
    _show_new_key(key, stored, as_json=as_json)
    if not as_json:
        note(f"{public_id} is good until {moment(old.terms.expires)}.")


def _binding(jkt: str | None, certificate: Path | None) -> Binding:
    """What a key is bound to."""
    from tos_guard.guard import der_of
    from tos_guard.rights import Binding, certificate_thumbprint

    x5t = None
    if certificate is not None:
        try:
            der = der_of(certificate.read_text("ascii"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot be read ({error})", where=str(certificate), cure="Name a certificate in PEM") from None
        if der is None:
            raise ConfigurationError("there is no certificate in it", where=str(certificate), cure="Name a certificate in PEM")
        x5t = certificate_thumbprint(der)
    try:
        return Binding(jkt, x5t)
    except ValueError as error:
        raise ConfigurationError(str(error), where="--jkt", cure="Give the RFC 7638 thumbprint of the key") from None


def _show_new_key(key: ApiKey, stored: StoredKey, *, as_json: bool) -> None:
    if as_json:
        show_json({"key": key.text, "account": stored.account_id, **key_document(stored)})
        return
    show(key.text)
    note(f"Shown once. Its public id is {key.public_id}; 'tos-guard accounts revoke-key {key.public_id}' ends it.")


@app.command("revoke-key")
def revoke_key(
    public_id: PublicIdArgument,
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """End an API key for good."""
    with opened(config) as (_, store):
        key = store.revoke_api_key(public_id, reason, actor=acting(actor))
    if as_json:
        show_json({"key": key_document(key), "account": key.account_id})
        return
    show(plain(f"{key.public_id}  revoked (account {key.account_id})"))


@app.command("export")
def export(account_id: AccountArgument, config: ConfigOption = None) -> None:
    """Write, as JSON, everything that is linked to an account."""
    with opened(config) as (settings, store):
        account = known_account(store, account_id)
        keys, history = store.api_keys(account_id), store.history(account_id)
        acceptances = store.acceptances(SubjectKind.ACCOUNT, account_id)
        records = store.of_account(settings.issuer, account_id)
        seals = store.kept_of(account_id)
        appeals = store.appeals(account_id=account_id)
    show_json(
        {
            "issuer": settings.issuer,
            "exported": now().isoformat(),
            "account": account_document(account),
            "keys": [key_document(key) for key in keys],
            "history": [change_document(change) for change in history],
            "acceptances": [acceptance_document(acceptance) for acceptance in acceptances],
            "appeals": [appeal_document(appeal) for appeal in appeals],
            "records": [record.to_document() for record in records],
            "kept_seals": [seal.to_document() for seal in seals],
        }
    )


@app.command("erase")
def erase(
    account_id: AccountArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: there is no way back.")] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Forget an account with all that it holds, and which records were its; records and acceptances stay.

    It holds keys, grants, measures, appeals, its history, and kept seals.
    """
    if not yes:
        raise ConfigurationError("erasing cannot be undone", where=f"account {account_id}", cure="Repeat it with --yes.")
    with opened(config) as (settings, store):
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
