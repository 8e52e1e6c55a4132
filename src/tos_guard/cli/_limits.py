"""`limit`, of accounts and of organizations, and `accounts usage`: amounts of their own, and how far they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tos_guard.cli._arguments import (
    AccountArgument,
    ActorOption,
    ConfigOption,
    JSONOption,
    OrganizationArgument,
    ReasonOption,
    acting,
    opened,
)
from tos_guard.cli._documents import organization_document, show_changed, span
from tos_guard.cli._guard import guard_of, store_of
from tos_guard.cli._output import note, plain, show, show_json, show_table
from tos_guard.errors import AccountError, ConfigurationError

if TYPE_CHECKING:
    from tos_guard.guard import LimitUse
    from tos_guard.stores import Store

__all__ = ["limit_account", "limit_organization", "usage"]

LimitArgument = Annotated[str, typer.Argument(metavar="LIMIT", help="Id of the limit, as the settings name it.")]
AmountArgument = Annotated[
    int | None, typer.Argument(metavar="AMOUNT", help="How much is allowed; or --default.", min=0, show_default=False)
]
DefaultOption = Annotated[bool, typer.Option("--default", help="What the settings say, and no amount of its own.")]


def limit_account(
    account_id: AccountArgument,
    limit_id: LimitArgument,
    amount: AmountArgument = None,
    default: DefaultOption = False,
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Give an account its own amount of a limit. What is used stays used."""
    with _limiting(limit_id, amount, config, default=default) as store:
        account = store.set_limit(account_id, limit_id, amount, reason, actor=acting(actor))
    show_changed(account, _said(limit_id, amount), as_json=as_json)


def limit_organization(
    organization_id: OrganizationArgument,
    limit_id: LimitArgument,
    amount: AmountArgument = None,
    default: DefaultOption = False,
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Give an organization its own amount of a limit that its accounts share. What is used stays used."""
    with _limiting(limit_id, amount, config, default=default) as store:
        organization = store.set_organization_limit(organization_id, limit_id, amount, reason, actor=acting(actor))
    if as_json:
        show_json({"organization": organization_document(organization)})
    else:
        show(plain(f"{organization.id}  {_said(limit_id, amount)}"))


@contextmanager
def _limiting(limit_id: str, amount: int | None, config: Path | None, *, default: bool) -> Iterator[Store]:
    """The store, where the arguments make sense. An amount of a limit that is gone can only be taken away."""
    if (amount is None) != default:
        raise ConfigurationError("no amount, or two", where=f"limit {limit_id}", cure="Give an amount, or --default.")
    with opened(config) as (settings, store):
        known = [limit.id for limit in settings.limits]
        if amount is not None and limit_id not in known:
            cure = f"They have: {', '.join(known)}." if known else "They have none: add a [[limits]] to them."
            raise ConfigurationError(f"the settings have no limit {limit_id!r}", where="settings", cure=cure)
        yield store


def _said(limit_id: str, amount: int | None) -> str:
    return f"limit {limit_id}: {'as the settings say' if amount is None else amount}"


def usage(account_id: AccountArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Show how far the limits of an account are used, in all processes that share them."""
    with guard_of(config) as guard:
        if guard.settings.limits_shared_by == "process":
            what = 'limits_shared_by = "process": each server counts in its own memory'
            raise ConfigurationError(what, where="settings", cure="The account routes of the server tell it.")
        holder = store_of(guard).holder_by_id(account_id)
        if holder is None:
            raise AccountError("unknown account", where=f"account {account_id}", cure="'tos-guard accounts list' shows all.")
        uses = guard.run(guard.limit_uses(holder))
    if as_json:
        show_json({"account": account_id, "limits": [_document(use) for use in uses]})
        return
    show_table(
        ("limit", "of", "per", "window", "amount", "used", "remaining", "some comes back in"),
        (_row(use) for use in uses),
        empty="There are no limits: [[limits]] in the settings makes some.",
    )
    if any(use.state is None for use in uses):
        note("'each' counts apart for each end user, or for each model or action that the account may use without their being named.")


def _document(use: LimitUse) -> dict[str, Any]:
    limit, state = use.limit, use.state
    return {
        "id": limit.id,
        "quantity": limit.quantity.value,
        "per": [dimension.value for dimension in limit.per],
        "scope": None if state is None else list(state.scope),
        "window": None if limit.window is None else str(limit.window),
        "amount": limit.amount,
        "burst": limit.burst,
        "used": None if state is None else state.used,
        "remaining": None if state is None else state.remaining,
        "reset_seconds": None if state is None else state.reset,
    }


def _row(use: LimitUse) -> tuple[object, ...]:
    limit, state = use.limit, use.state
    scope = [dimension.value for dimension in limit.per]
    if state is not None:
        scope = [f"{name} {value}" for name, value in zip(scope, state.scope, strict=True)]
    window = "at a time" if limit.window is None else str(limit.window)
    used = ("each", "each", "") if state is None else (state.used, state.remaining, span(state.reset) if state.used else "")
    return limit.id, limit.quantity.value, ", ".join(scope) or "everyone", window, limit.amount, *used
