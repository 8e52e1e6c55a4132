"""`tos-guard entitlements`: ask a source now, see how things stand, take back what it gave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tos_guard.cli._arguments import ConfigOption, JSONOption
from tos_guard.cli._guard import guard_of, store_of
from tos_guard.cli._output import moment, note, plain, show, show_json, show_table
from tos_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from tos_guard.guard import EntitlementSync, Guard, Pulled, SourceState

__all__ = ["app"]

app = typer.Typer(help="What systems outside say that accounts may do.", rich_markup_mode=None)

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the source, as the settings have it.")]


def _sync(guard: Guard) -> EntitlementSync:
    if guard.entitlements is None:
        cure = "Add an [[entitlements]] to them."
        raise ConfigurationError("they have no source of entitlements", where="settings", cure=cure)
    return guard.entitlements


def _document(name: str, state: SourceState, accounts: int) -> dict[str, Any]:
    times = {"issued": state.issued, "heard": state.heard, "failed": state.failed}
    return {
        "source": name,
        "accounts": accounts,
        **{what: None if at is None else at.isoformat() for what, at in times.items()},
        "failure": state.failure,
        "lapsed": state.lapsed,
        "etag": state.etag,
        "sha256": state.sha256,
    }


def _pulled(pulled: Pulled) -> dict[str, Any]:
    return {
        "source": pulled.source,
        "outcome": pulled.outcome,
        "accounts": pulled.accounts,
        "changed": list(pulled.changed),
        "skipped": dict(pulled.skipped),
    }


def _show_pulled(pulled: Pulled, *, as_json: bool) -> None:
    if as_json:
        show_json(_pulled(pulled))
        return
    show(plain(f"{pulled.source}  {pulled.outcome}: {len(pulled.changed)} accounts changed, {len(pulled.skipped)} skipped"))
    for account_id, why in pulled.skipped.items():
        note(plain(f"{account_id}: {why}"))


@app.command("pull")
def pull(source: SourceArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Ask a source now, and apply what it says. Servers do so by themselves; this is for cron and for people."""
    with guard_of(config) as guard:
        pulled = _sync(guard).pull(source)
    _show_pulled(pulled, as_json=as_json)


@app.command("show")
def show_sources(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Show how it stands with each source: when it was heard last, what failed, how many accounts have something from it."""
    with guard_of(config) as guard:
        sync, store = _sync(guard), store_of(guard)
        found = [(name, sync.state(name), len(store.entitlements(name))) for name in sync.names]
    if as_json:
        show_json({"sources": [_document(*one) for one in found]})
        return
    show_table(
        ("source", "accounts", "issued", "heard", "failed", "failure"),
        (
            (
                name,
                count,
                moment(state.issued),
                moment(state.heard),
                moment(state.failed),
                f"lapsed. {state.failure}" if state.lapsed else state.failure,
            )
            for name, state, count in found
        ),
        empty="",
    )


@app.command("withdraw")
def withdraw(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the source; it need not be in the settings any longer.")],
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Take back all that a source gave. One that is still in the settings gives it again when it is next asked."""
    with guard_of(config) as guard:
        pulled = _any_sync(guard).withdraw(source)
    _show_pulled(pulled, as_json=as_json)


def _any_sync(guard: Guard) -> EntitlementSync:
    """What pulls, also where the settings have no source any longer."""
    from tos_guard.guard import EntitlementSync

    return guard.entitlements or EntitlementSync(
        store_of(guard), {}, mode="deny", limits=frozenset(), telemetry=guard.telemetry, clock=guard.clock
    )
