"""`tos-guard records`: look one exchange up, and delete what is older than its retention."""

from __future__ import annotations

from typing import Annotated

import typer

from tos_guard.cli._arguments import ConfigOption, JSONOption, load_settings, now, open_store
from tos_guard.cli._output import moment, plain, show, show_json
from tos_guard.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(help="Records of exchanges.", rich_markup_mode=None)


@app.command("show")
def show_record(
    name: Annotated[str, typer.Argument(metavar="ID", help="Request id ('rid') or token id ('jti').")],
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show the record of one exchange, by the ids that its response carries."""
    settings = load_settings(config)
    with open_store(settings) as store:
        record = store.by_request_id(settings.issuer, name) or store.by_token_id(settings.issuer, name)
    if record is None:
        raise ConfigurationError("no record has this request id or token id", where=f"record {name}", cure="It may be past its retention.")
    if as_json:
        show_json({"record": record.to_document(), "account": record.account_id})
        return
    for member, value in {**record.to_document(), "account": record.account_id}.items():
        text = moment(value // 1000) if member in {"started", "finished"} else ", ".join(value) if isinstance(value, list) else value
        show(f"{member:<14} {plain('' if text is None else text)}".rstrip())


@app.command("purge")
def purge(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Delete records and kept seals older than the retention in the settings."""
    settings = load_settings(config)
    with open_store(settings) as store:
        deleted = store.purge(now(), settings.retention.of_records) + store.purge_kept(now())
    if as_json:
        show_json({"deleted": deleted, "retention_days": settings.retention.model_dump()})
        return
    show(f"{deleted} deleted")
