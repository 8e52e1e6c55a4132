"""The tree of commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tos_guard.cli import (
    _acceptances,
    _accounts,
    _admins,
    _appeals,
    _doctor,
    _end_users,
    _entitlements,
    _explain,
    _grants,
    _init,
    _inspect,
    _keys,
    _limits,
    _measures,
    _organizations,
    _records,
    _store,
    _terms,
    _verify,
)
from tos_guard.cli._output import carried_out, show

__all__ = ["app", "run"]


class _Commands(TyperGroup):
    """The root: whatever goes wrong below it ends in one line and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command that the arguments name, and leave with its exit code."""
        extra["standalone_mode"] = False
        sys.exit(carried_out(lambda: super(_Commands, self).main(*args, **extra)))


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"max_content_width": 110},
    help="Terms of service that run: rights per account, a signed provenance token on every response, offline verification.",
    epilog="Exit codes: 0 done or valid, 1 invalid or incomplete, 2 cannot be carried out, 3 cannot decide, 4 not acceptable, 5 no tag.",
)
app.command("init")(_init.init)
app.add_typer(_keys.app, name="keys")
_accounts.app.command("grant")(_grants.grant)
_accounts.app.command("void-grant")(_grants.void_grant)
_accounts.app.command("measure")(_measures.measure)
_accounts.app.command("lift")(_measures.lift)
_accounts.app.command("limit")(_limits.limit_account)
_accounts.app.command("usage")(_limits.usage)
_accounts.app.command("block-end-user")(_end_users.block)
_accounts.app.command("unblock-end-user")(_end_users.unblock)
_accounts.app.command("accept")(_acceptances.accept_for_account)
_accounts.app.command("withdraw")(_acceptances.withdraw_for_account)
_accounts.app.command("acceptances")(_acceptances.list_of_account)
_accounts.app.command("explain")(_explain.explain)
app.add_typer(_accounts.app, name="accounts")
app.add_typer(_appeals.app, name="appeals")
_organizations.app.command("limit")(_limits.limit_organization)
_organizations.app.command("accept")(_acceptances.accept_for_organization)
_organizations.app.command("withdraw")(_acceptances.withdraw_for_organization)
_organizations.app.command("acceptances")(_acceptances.list_of_organization)
app.add_typer(_organizations.app, name="organizations")
app.add_typer(_admins.app, name="admin")
app.add_typer(_entitlements.app, name="entitlements")
app.add_typer(_terms.app, name="terms")
app.add_typer(_records.app, name="records")
app.add_typer(_store.app, name="store")
app.command("doctor")(_doctor.doctor)
app.command("verify")(_verify.verify)
app.command("inspect")(_inspect.inspect)


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Write the version and leave.")] = False,
) -> None:
    """Terms of service that run: rights per account, a signed provenance token on every response, offline verification."""
    if version:
        from tos_guard import __version__

        show(f"tos-guard {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        show(context.get_help())
        raise typer.Exit


class Model(StrEnum):
    """Who answers in the demonstration."""

    SMOLLM2 = "smollm2"
    REPLAY = "replay"


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


@app.command("demo")
def demo(
    model: Annotated[Model, typer.Option("--model", help="A real small model, or recorded answers.")] = Model.SMOLLM2,
    guard: Annotated[Switch, typer.Option("--guard", help="Without the guard the day must fail.")] = Switch.ON,
    keep: Annotated[
        Path | None, typer.Option("--keep", "--directory", metavar="DIR", help="Where everything is kept; build/demo by default.")
    ] = None,
) -> int:
    """Play a scripted day at a guarded provider: expected against happened."""
    from tos_guard.cli import _demo

    return _demo.run(model=model.value, guarded=guard is Switch.ON, folder=keep)


def run(arguments: Sequence[str]) -> int:
    """Run the command that *arguments* name, and return its exit code."""
    try:
        typer.main.get_command(app).main(args=list(arguments), prog_name="tos-guard")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    return 0
