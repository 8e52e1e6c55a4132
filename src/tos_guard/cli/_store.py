"""`tos-guard store`: move a provider from the file of one host to a database of many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tos_guard.cli._arguments import ConfigOption, JSONOption, load_settings
from tos_guard.cli._output import note, show_json, show_table
from tos_guard.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(help="Where accounts, terms and records are kept.", rich_markup_mode=None)


@app.callback()
def store() -> None:
    """Where accounts, terms and records are kept."""


@app.command("copy")
def copy(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="SQLite file of the accounts; the records lie beside it.")],
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Copy an SQLite store into the PostgreSQL database that the settings name, and which holds no store yet.

    All tables and all issuers of the file, in one transaction. Stop the servers first: what they write afterwards is not copied.
    """
    settings = load_settings(config)
    if isinstance(settings.store, Path):
        raise ConfigurationError(
            "the settings name a file, not a database", where="store", cure='Write store = "postgresql://…" or "env:NAME".'
        )
    from tos_guard.stores import copy_store

    counts = copy_store(source, settings.store.resolve(os.environ), namespace=settings.postgres.namespace)
    if as_json:
        show_json({"rows": counts})
        return
    show_table(("table", "rows"), counts.items(), empty="no tables")
    note(f"Copied {source} to {settings.store}, and counted on both sides. Start the servers with these settings.")
