"""`tos-guard accounts measure` and `lift`: the ladder of standing. A measure is never edited: it is lifted, and another is taken."""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tos_guard.cli._arguments import (
    AccountArgument,
    ActorOption,
    ConfigOption,
    JSONOption,
    acting,
    now,
    opened,
    parse_moment,
)
from tos_guard.cli._documents import measure_text, show_changed
from tos_guard.cli._output import note, plain
from tos_guard.errors import AccountError, ConfigurationError
from tos_guard.types import Standing

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.rights import Measure

__all__ = ["lift", "measure"]

_RANDOM_BYTES = 8


class Requires(StrEnum):
    """What a measure asks for."""

    ACCEPT = "accept"
    VERIFY = "verify"
    CONTACT = "contact"


def measure(
    account_id: AccountArgument,
    step: Annotated[Standing, typer.Argument(metavar="STEP", help="noticed, warned, throttled, restricted, suspended or terminated.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the account reads it.")],
    notice: Annotated[str, typer.Option("--notice", metavar="TEXT", help="What else the account is told.")] = "",
    clauses: Annotated[list[str] | None, typer.Option("--clause", metavar="ID", help="Clause not kept; repeat it for more.")] = None,
    evidence: Annotated[str, typer.Option("--evidence", metavar="TEXT", help="Where the evidence lies; not for the account.")] = "",
    since: Annotated[str | None, typer.Option("--from", metavar="DATE", help="When it begins; otherwise at once.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day (UTC), or when it ends; otherwise never.")] = None,
    requires: Annotated[Requires | None, typer.Option("--requires", help="What the account is asked for; done, the measure ends.")] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", metavar="DATE", help="By when: last day (UTC), or moment.")] = None,
    then: Annotated[Standing | None, typer.Option("--then", metavar="STEP", help="Step that follows a deadline missed.")] = None,
    automated: Annotated[bool, typer.Option("--automated", help="No person decided.")] = False,
    measure_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Id, which refusals name; otherwise one is made.")] = None,
    issuer: Annotated[str | None, typer.Option("--issuer", metavar="TEXT", help="Who decided.", show_default="whoever does it")] = None,
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Put an account on a step of the ladder of standing; every worker obeys within a second."""
    who = acting(actor)
    taken = _measure(
        id=measure_id or f"m-{secrets.token_hex(_RANDOM_BYTES)}",
        step=step,
        reason=reason,
        notice=notice,
        clauses=tuple(clauses or ()),
        evidence=evidence,
        issuer=who if issuer is None else issuer,
        automated=automated,
        begins=now() if since is None else parse_moment(since, where="--from"),
        requires=None if requires is None else requires.value,
        deadline=None if deadline is None else parse_moment(deadline, where="--deadline", end_of_day=True),
        then=then,
        expires=None if until is None else parse_moment(until, where="--until", end_of_day=True),
    )
    with opened(config) as (settings, store):
        _check_answerable(taken, settings)
        account = store.take_measure(account_id, taken, actor=who)
    if taken.expires is not None and taken.expires <= now():
        note("Its end has passed: it changes nothing.")
    show_changed(account, f"measure taken: {measure_text(taken, now())}", as_json=as_json)


def _check_answerable(taken: Measure, settings: GuardSettings) -> None:
    """See to it that an account can do what is asked of it."""
    from tos_guard.guard import ladder_of

    if taken.requires == "verify" and not ladder_of(settings).levels(taken.step):
        raise ConfigurationError(
            "no step of the ladder names a level of verification", where="--requires", cure=f"Set [standing.{taken.step}] verify = […]."
        )


def _measure(**members: Any) -> Measure:
    from pydantic import ValidationError

    from tos_guard.config import describe
    from tos_guard.rights import Measure

    try:
        return Measure.model_validate(members)
    except ValidationError as error:
        raise AccountError(describe(error), where="measure", cure="Correct the option of that name.") from None


def lift(
    account_id: AccountArgument,
    measure_id: Annotated[str, typer.Argument(metavar="MEASURE", help="Id of the measure.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the account reads it.")],
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """End a measure: it stays, marked as lifted, and what it took is there again within a second."""
    from tos_guard.guard import ladder_of

    with opened(config) as (settings, store):
        account = store.lift_measure(account_id, measure_id, reason, actor=acting(actor))
        acceptances = store.rights_of(account).acceptances
    held = account.standing_at(now(), acceptances=acceptances, ladder=ladder_of(settings))
    if held.in_force and not as_json:
        note(f"Still in force: {plain(', '.join(one.id for one in held.in_force))}.")
    show_changed(account, f"measure {measure_id} lifted; standing {held.step}", as_json=as_json)
