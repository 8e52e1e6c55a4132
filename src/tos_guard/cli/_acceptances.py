"""`accept`, `withdraw` and `acceptances`, of accounts and organizations: what an administrator records on evidence, with receipts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tos_guard.cli._arguments import (
    AccountArgument,
    ActorOption,
    ConfigOption,
    JSONOption,
    OrganizationArgument,
    acting,
    now,
    opened,
    parse_moment,
)
from tos_guard.cli._documents import acceptance_document, acceptance_state, known_account, known_organization, terms_document
from tos_guard.cli._guard import guard_of, store_of
from tos_guard.cli._output import moment, note, plain, show, show_json, show_table
from tos_guard.errors import AccountError
from tos_guard.types import AcceptanceMethod, SubjectKind

if TYPE_CHECKING:
    from tos_guard.guard import Guard
    from tos_guard.stores import Store
    from tos_guard.terms import Acceptance, Bound

__all__ = [
    "accept_for_account",
    "accept_for_organization",
    "list_of_account",
    "list_of_organization",
    "withdraw_for_account",
    "withdraw_for_organization",
]

ByOption = Annotated[str, typer.Option("--by", metavar="PERSON", help="Who did: an address, a subject of the identity provider.")]
AuthorityOption = Annotated[
    str, typer.Option("--authority", metavar="TEXT", help="What gave the person the right, and where the evidence lies.")
]
AuthorizedOption = Annotated[
    str, typer.Option("--authority", metavar="TEXT", help="What gave the person the right; as the organization's record says by default.")
]
VersionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--version", metavar="VERSION", help="Which terms; repeat it for more. Otherwise all in effect that are still to be accepted."
    ),
]
AtOption = Annotated[str | None, typer.Option("--at", metavar="TIME", help="When it was accepted; now otherwise.")]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day (UTC), or last moment, in which it counts.")]
WhyOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, as the person says; in the receipt.")]
AcceptanceArgument = Annotated[str, typer.Argument(metavar="ACCEPTANCE", help="Id of the acceptance, 'acc_…'.")]


def accept_for_account(
    account_id: AccountArgument,
    by: ByOption,
    authority: AuthorityOption = "",
    versions: VersionOption = None,
    at: AtOption = None,
    until: UntilOption = None,
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Record that terms were accepted for an account, and sign its receipt."""
    _accept(SubjectKind.ACCOUNT, account_id, versions, by, authority, at, until, acting(actor), config, as_json=as_json)


def accept_for_organization(
    organization_id: OrganizationArgument,
    by: ByOption,
    authority: AuthorizedOption = "",
    versions: VersionOption = None,
    at: AtOption = None,
    until: UntilOption = None,
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Record that an authorized person accepted terms for all accounts of an organization, and sign its receipt."""
    _accept(SubjectKind.ORGANIZATION, organization_id, versions, by, authority, at, until, acting(actor), config, as_json=as_json)


def withdraw_for_account(
    account_id: AccountArgument,
    acceptance_id: AcceptanceArgument,
    by: ByOption,
    authority: AuthorityOption = "",
    reason: WhyOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Record that an acceptance was taken back, and sign the receipt of that. Both records stay."""
    _withdraw(SubjectKind.ACCOUNT, account_id, acceptance_id, by, authority, reason, acting(actor), config, as_json=as_json)


def withdraw_for_organization(
    organization_id: OrganizationArgument,
    acceptance_id: AcceptanceArgument,
    by: ByOption,
    authority: AuthorizedOption = "",
    reason: WhyOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Record that an authorized person took an acceptance back, and sign the receipt of that. Both records stay."""
    _withdraw(SubjectKind.ORGANIZATION, organization_id, acceptance_id, by, authority, reason, acting(actor), config, as_json=as_json)


def list_of_account(account_id: AccountArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List what was accepted for an account and its organization, and what still is to be; --json has the receipts."""
    with opened(config) as (_, store):
        organization = known_account(store, account_id).organization
        found = list(store.acceptances(SubjectKind.ACCOUNT, account_id))
        if organization is not None:
            found += store.acceptances(SubjectKind.ORGANIZATION, organization)
        _list(store, found, _owed(store, organization, found), as_json=as_json)


def list_of_organization(organization_id: OrganizationArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List what was accepted for an organization, and what still is to be; --json has the receipts."""
    with opened(config) as (_, store):
        known_organization(store, organization_id)
        found = store.acceptances(SubjectKind.ORGANIZATION, organization_id)
        _list(store, found, _owed(store, organization_id, found), as_json=as_json)


def _accept(
    kind: SubjectKind,
    subject_id: str,
    versions: list[str] | None,
    by: str,
    authority: str,
    at: str | None,
    until: str | None,
    actor: str,
    config: Path | None,
    *,
    as_json: bool,
) -> None:
    when = None if at is None else parse_moment(at, where="--at")
    expires = None if until is None else parse_moment(until, where="--until", end_of_day=True)
    with guard_of(config) as guard:
        wanted = tuple(versions or _all_owed(guard, kind, subject_id))
        made = [
            guard.run(
                guard.record_acceptance(
                    kind,
                    subject_id,
                    version,
                    accepted_by=by,
                    authority=authority,
                    method=AcceptanceMethod.CLI,
                    at=when,
                    expires=expires,
                    actor=actor,
                )
            )
            for version in wanted
        ]
        recorded = _recorded_by(store_of(guard), made)
    if as_json:
        show_json({"acceptances": [{**acceptance_document(one), **recorded[one.id]} for one in made]})
        return
    for one in made:
        show(plain(f"{one.id}  {one.series} {one.version} accepted for {kind} {subject_id} by {one.accepted_by} on {moment(one.at)}"))


def _withdraw(
    kind: SubjectKind,
    subject_id: str,
    acceptance_id: str,
    by: str,
    authority: str,
    reason: str,
    actor: str,
    config: Path | None,
    *,
    as_json: bool,
) -> None:
    with guard_of(config) as guard:
        given = store_of(guard).acceptance(acceptance_id)
        if given is None or (given.subject_kind, given.subject_id) != (kind, subject_id):
            cure = f"'tos-guard {kind}s acceptances {subject_id}' shows all."
            raise AccountError(f"there is no acceptance {acceptance_id}", where=f"{kind} {subject_id}", cure=cure)
        withdrawn = guard.run(
            guard.record_withdrawal(
                acceptance_id, withdrawn_by=by, authority=authority, method=AcceptanceMethod.CLI, reason=reason, actor=actor
            )
        )
        recorded = _recorded_by(store_of(guard), [withdrawn])
    if as_json:
        show_json({"acceptance": {**acceptance_document(withdrawn), **recorded[withdrawn.id]}})
        return
    show(plain(f"{withdrawn.id}  {withdrawn.series} {withdrawn.version} {acceptance_state(withdrawn)}"))
    note(f"What 'tos-guard {kind}s acceptances' lists as still to be accepted is refused until somebody accepts it.")


def _all_owed(guard: Guard, kind: SubjectKind, subject_id: str) -> list[str]:
    """Versions in effect that the subject itself can accept and has not."""
    store = store_of(guard)
    if kind is SubjectKind.ACCOUNT:
        organization = known_account(store, subject_id).organization
        found = list(store.acceptances(SubjectKind.ACCOUNT, subject_id))
        found += store.acceptances(SubjectKind.ORGANIZATION, organization) if organization is not None else ()
    else:
        organization, found = known_organization(store, subject_id).id, list(store.acceptances(kind, subject_id))
    asked = [bound.to_accept for bound in _owed(store, organization, found) if bound.to_accept is not None]
    versions = [terms.version for terms in asked if kind is SubjectKind.ORGANIZATION or terms.organization is None]
    if not versions:
        contracts = ", ".join(f"{terms.version} (only for organization {terms.organization})" for terms in asked)
        cure = f"Still to be accepted: {contracts}." if contracts else "Name with --version one that takes effect later."
        raise AccountError("nothing is to be accepted", where=f"{kind} {subject_id}", cure=cure)
    return versions


def _owed(store: Store, organization: str | None, acceptances: Sequence[Acceptance], at: datetime | None = None) -> tuple[Bound, ...]:
    from tos_guard.cli._terms import published_shelf

    return published_shelf(store).binding(organization, acceptances, at or now()).owed()


def _recorded_by(store: Store, acceptances: Sequence[Acceptance]) -> dict[str, dict[str, Any]]:
    """Which administrators recorded each acceptance and its withdrawal; None where people did it by themselves."""
    found = {one.id: store.acceptance_recorded_by(one.id) or ("", "") for one in acceptances}
    return {name: {"recorded_by": made or None, "withdrawal_recorded_by": taken or None} for name, (made, taken) in found.items()}


def _list(store: Store, acceptances: Sequence[Acceptance], owed: Sequence[Bound], *, as_json: bool) -> None:
    recorded = _recorded_by(store, acceptances)
    if as_json:
        show_json(
            {
                "acceptances": [{**acceptance_document(one), **recorded[one.id]} for one in acceptances],
                "to_accept": [
                    {
                        **terms_document(bound.to_accept),
                        "grace_ends": None if bound.grace_ends is None else bound.grace_ends.isoformat(),
                        "refused": bound.refused,
                    }
                    for bound in owed
                    if bound.to_accept is not None
                ],
            }
        )
        return
    show_table(
        ("id", "terms", "for", "accepted by", "known by", "recorded by", "on", "state"),
        (
            (
                one.id,
                f"{one.series} {one.version}",
                f"{one.subject_kind} {one.subject_id}",
                one.accepted_by,
                one.identified_by,
                recorded[one.id]["recorded_by"] or "",
                moment(one.at),
                acceptance_state(one),
            )
            for one in acceptances
        ),
        empty="Nothing was accepted.",
    )
    for bound in owed:
        if bound.to_accept is not None:
            until = "refused until it is" if bound.refused else f"in grace until {moment(bound.grace_ends)}"
            note(f"Still to be accepted: {plain(f'{bound.series} {bound.to_accept.version} ({bound.to_accept.uri})')}; {until}.")
