"""`tos-guard appeals`: what accounts say against measures, and the decisions."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tos_guard.cli._arguments import ActorOption, ConfigOption, JSONOption, acting, opened
from tos_guard.cli._documents import appeal_document
from tos_guard.cli._output import moment, note, plain, show, show_json, show_table
from tos_guard.errors import AccountError, ConfigurationError

if TYPE_CHECKING:
    from tos_guard.stores import AppealState

__all__ = ["app"]

app = typer.Typer(help="Appeals of accounts against measures.", rich_markup_mode=None)

AppealArgument = Annotated[str, typer.Argument(metavar="APPEAL", help="Id of the appeal, 'ap_…'.")]


class State(StrEnum):
    """Which appeals."""

    FILED = "filed"
    WITHDRAWN = "withdrawn"
    UPHELD = "upheld"
    REJECTED = "rejected"
    ALL = "all"


@app.command("list")
def list_appeals(
    account_id: Annotated[str | None, typer.Option("--account", metavar="ID", help="Only of this account.")] = None,
    state: Annotated[State, typer.Option("--state", help="Only in this state.")] = State.FILED,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """List appeals, those that wait longest first."""
    wanted = None if state is State.ALL else cast("AppealState", state.value)
    with opened(config) as (_, store):
        appeals = store.appeals(account_id=account_id, state=wanted)
    if as_json:
        show_json({"appeals": [appeal_document(one) for one in appeals]})
        return
    rows = ((one.id, one.account_id, one.measure_id, one.state, moment(one.filed), one.filed_by) for one in appeals)
    show_table(("id", "account", "measure", "state", "filed", "by"), rows, empty="There are none.")


@app.command("show")
def show_appeal(appeal_id: AppealArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Show an appeal, and the measure that it is against."""
    with opened(config) as (_, store):
        appeal = store.appeal(appeal_id)
        account = None if appeal is None else store.by_id(appeal.account_id)
    if appeal is None:
        raise AccountError("no such appeal", where=f"appeal {appeal_id[:64]}", cure="'tos-guard appeals list --state all' shows all.")
    against = None if account is None else next((one for one in account.measures if one.id == appeal.measure_id), None)
    if as_json:
        document: dict[str, Any] = appeal_document(appeal)
        show_json({"appeal": document, "measure": None if against is None else against.model_dump(mode="json")})
        return
    show(
        f"{'appeal':<9} {plain(appeal.id)} {appeal.state}",
        f"{'account':<9} {plain(appeal.account_id)}",
        f"{'filed':<9} {moment(appeal.filed)}{plain(f' by {appeal.filed_by}' if appeal.filed_by else '')}",
    )
    if against is not None:
        show(f"{'measure':<9} {plain(f'{against.id}: {against.step}, {against.reason}')}")
        if against.evidence:
            show(f"{'evidence':<9} {plain(against.evidence)}")
    for line in appeal.text.splitlines():
        show(f"{'says':<9} {plain(line)}")
    if appeal.ended is not None:
        show(f"{'ended':<9} {moment(appeal.ended)}{plain(f' by {appeal.ended_by}' if appeal.ended_by else '')}: {plain(appeal.answer)}")


@app.command("decide")
def decide(
    appeal_id: AppealArgument,
    answer: Annotated[str, typer.Option("--answer", metavar="TEXT", help="What the account is told.")],
    upheld: Annotated[bool, typer.Option("--uphold", help="The account is right: lift the measure.")] = False,
    rejected: Annotated[bool, typer.Option("--reject", help="The measure stays.")] = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Decide an appeal. Upheld, it lifts the measure in the same step; every worker obeys within a second."""
    if upheld is rejected:
        raise ConfigurationError("no decision, or two", where=f"appeal {appeal_id}", cure="Give --uphold or --reject.")
    with opened(config) as (_, store):
        appeal = store.decide_appeal(appeal_id, upheld=upheld, answer=answer, actor=acting(actor))
    if as_json:
        show_json({"appeal": appeal_document(appeal)})
        return
    show(plain(f"{appeal.id}  {appeal.state} (account {appeal.account_id}, measure {appeal.measure_id})"))
    if upheld:
        note("The measure is lifted.")
