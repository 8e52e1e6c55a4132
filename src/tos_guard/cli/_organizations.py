"""`tos-guard organizations`: what the accounts of one customer share: who may accept terms for it, and its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tos_guard.cli._arguments import ActorOption, ConfigOption, JSONOption, OrganizationArgument, ReasonOption, acting, opened
from tos_guard.cli._documents import (
    amounts_text,
    change_document,
    change_text,
    known_organization,
    organization_document,
    show_member,
)
from tos_guard.cli._output import plain, show, show_json, show_table
from tos_guard.errors import AccountError

if TYPE_CHECKING:
    from tos_guard.rights import AuthorizedPerson, Organization

__all__ = ["app"]

app = typer.Typer(help="Organizations: who may accept terms for them, limits that their accounts share.", rich_markup_mode=None)

NameOption = Annotated[str, typer.Option("--name", metavar="TEXT", help="What people call it.")]
PersonArgument = Annotated[
    str, typer.Argument(metavar="PERSON", help="How you or the identity provider name the person: an address, a subject.")
]


def show_changed(organization: Organization, what: str, *, as_json: bool) -> None:
    """An organization that was changed, and how."""
    if as_json:
        show_json({"organization": organization_document(organization)})
    else:
        show(plain(f"{organization.id}  {what}"))


@app.command("add")
def add(
    organization_id: OrganizationArgument,
    name: NameOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add an organization. Accounts belong to it by 'tos-guard accounts set --organization'."""
    from tos_guard.rights import Organization

    with opened(config) as (_, store):
        added = store.add_organization(Organization(id=organization_id, name=name), actor=acting(actor))
    show_changed(added, "added", as_json=as_json)


@app.command("set")
def set_name(
    organization_id: OrganizationArgument,
    name: NameOption,
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Change what people call it."""
    with opened(config) as (_, store):
        before = known_organization(store, organization_id)
        after = store.put_organization(_with(before, name=name), reason=reason, actor=acting(actor))
    show_changed(after, "changed: name", as_json=as_json)


@app.command("list")
def list_organizations(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List all organizations."""
    with opened(config) as (_, store):
        organizations = store.organizations()
    if as_json:
        show_json({"organizations": [organization_document(one) for one in organizations]})
        return
    show_table(
        ("id", "name", "may accept terms for it", "limits"),
        ((one.id, one.name, ", ".join(person.id for person in one.authorized), amounts_text(one.limits)) for one in organizations),
        empty="There are no organizations. 'tos-guard organizations add' makes one.",
    )


@app.command("show")
def show_organization(organization_id: OrganizationArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Show one organization with its accounts and history."""
    with opened(config) as (_, store):
        organization = known_organization(store, organization_id)
        accounts = [account.id for account in store.accounts() if account.organization == organization_id]
        history = store.organization_history(organization_id)
    if as_json:
        changes = [change_document(change) for change in history]
        show_json({"organization": organization_document(organization), "accounts": accounts, "history": changes})
        return
    for name in ("id", "version", "name"):
        show_member(name, getattr(organization, name))
    for person in organization.authorized:
        show_member("may accept", f"{person.id}: {person.authority}")
    if organization.limits:
        show_member("limits", amounts_text(organization.limits))
    show_member("accounts", accounts)
    for change in history:
        show_member("history", change_text(change))


@app.command("authorize")
def authorize(
    organization_id: OrganizationArgument,
    person: PersonArgument,
    authority: Annotated[str, typer.Option("--authority", metavar="TEXT", help="What gives the right: an office, a power of attorney.")],
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Record that a person may accept terms for the organization; again, on another authority, replaces it."""
    from tos_guard.rights import AuthorizedPerson

    with opened(config) as (_, store):
        before = known_organization(store, organization_id)
        others = tuple(one for one in before.authorized if one.id != person)
        authorized = (*others, AuthorizedPerson(id=person, authority=authority))
        after = store.put_organization(
            _with(before, authorized=authorized), reason=_said(f"authorized {person}", reason), actor=acting(actor)
        )
    show_changed(after, f"{person} may accept terms for it: {authority}", as_json=as_json)


@app.command("deauthorize")
def deauthorize(
    organization_id: OrganizationArgument,
    person: PersonArgument,
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Record that a person may no longer accept terms for the organization. What the person accepted stays accepted."""
    with opened(config) as (_, store):
        before = known_organization(store, organization_id)
        left = tuple(one for one in before.authorized if one.id != person)
        if len(left) == len(before.authorized):
            known = ", ".join(one.id for one in before.authorized) or "nobody"
            raise AccountError(f"{person} is not authorized", where=f"organization {organization_id}", cure=f"Authorized: {known}.")
        after = store.put_organization(_with(before, authorized=left), reason=_said(f"deauthorized {person}", reason), actor=acting(actor))
    show_changed(after, f"{person} may no longer accept terms for it", as_json=as_json)


def _with(organization: Organization, *, name: str | None = None, authorized: tuple[AuthorizedPerson, ...] | None = None) -> Organization:
    """The same organization with these members, checked anew."""
    from tos_guard.rights import Organization

    return Organization(
        id=organization.id,
        version=organization.version,
        name=organization.name if name is None else name,
        authorized=organization.authorized if authorized is None else authorized,
        limits=organization.limits,
    )


def _said(what: str, reason: str) -> str:
    """The reason in the history, which keeps no other word of what was changed."""
    return f"{what}: {reason}" if reason else what
