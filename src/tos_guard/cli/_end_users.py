"""`tos-guard accounts block-end-user` and `unblock-end-user`: refuse one of an account's end users instead of the account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tos_guard.cli._arguments import AccountArgument, ActorOption, ConfigOption, JSONOption, ReasonOption, acting, opened
from tos_guard.cli._documents import show_changed
from tos_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from tos_guard.stores import Store

__all__ = ["block", "unblock"]

EndUserArgument = Annotated[
    str | None, typer.Argument(metavar="END_USER", help="Its keyed hash, 'eu_…', as records show it; or --named.", show_default=False)
]
NamedOption = Annotated[
    str | None, typer.Option("--named", metavar="NAME", help="The account's own name for it, which is hashed as the guard does.")
]


def block(
    account_id: AccountArgument,
    end_user: EndUserArgument = None,
    named: NamedOption = None,
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Refuse one end user of an account; the others are served. Every worker knows within a second."""
    with opened(config) as (_, store):
        blocked = _hash(store, account_id, end_user, named)
        account = store.block_end_user(account_id, blocked, reason, actor=acting(actor))
    show_changed(account, f"end user {blocked} blocked", as_json=as_json)


def unblock(
    account_id: AccountArgument,
    end_user: EndUserArgument = None,
    named: NamedOption = None,
    reason: ReasonOption = "",
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Serve an end user again."""
    with opened(config) as (_, store):
        freed = _hash(store, account_id, end_user, named)
        account = store.unblock_end_user(account_id, freed, reason, actor=acting(actor))
    show_changed(account, f"end user {freed} unblocked", as_json=as_json)


def _hash(store: Store, account_id: str, end_user: str | None, named: str | None) -> str:
    from tos_guard.rights import end_user_key, hash_end_user

    if (end_user is None) == (named is None):
        raise ConfigurationError("no end user, or two", where=f"account {account_id}", cure="Give its hash 'eu_…', or --named NAME.")
    if named is not None:
        return hash_end_user(named, account_id=account_id, key=end_user_key(store.pepper()))
    return end_user or ""
