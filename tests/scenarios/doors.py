"""Every door, and the table of what comes of the scenarios at each."""

from __future__ import annotations

from scenarios.cases import CASES, Case, Outcome
from scenarios.grpc_doors import KINDS, AioGrpcDoor, GrpcDoor
from scenarios.http_doors import ASGI, WSGI, FastAPIDoor, FlaskDoor
from scenarios.rules import RULES, Door, expected_at, rule_for

__all__ = ["DOORS", "table"]


DOORS: tuple[Door, ...] = (ASGI(), FastAPIDoor(), WSGI(), FlaskDoor(), *map(GrpcDoor, KINDS), *map(AioGrpcDoor, KINDS))


def table(outcomes: dict[tuple[str, str], Outcome | None]) -> str:
    """The table in Markdown: what must come of each case, and whether it does at each door."""
    lines = [
        "| scenario | what must come of it | " + " | ".join(door.name for door in DOORS) + " |",
        "| --- | --- | " + " | ".join("---" for _ in DOORS) + " |",
    ]
    for case in CASES:
        cells = [_cell(case, door, outcomes.get((case.name, door.name))) for door in DOORS]
        lines.append(f"| {case.name} | {_told(case.expected)} | " + " | ".join(cells) + " |")
    notes = [f"- {mark}: {text}." for mark, text in RULES.items()]
    return "\n".join([*lines, "", *notes]) + "\n"


def _cell(case: Case, door: Door, outcome: Outcome | None) -> str:
    rule = rule_for(case, door)
    if rule == "n/a¹":
        return rule
    if outcome != expected_at(case, door):
        return "**differs**"
    return rule or "yes"


def _told(outcome: Outcome) -> str:
    said = f"{outcome.verdict} `{outcome.code}`" if outcome.code else outcome.verdict
    token = f"token {outcome.token}" if outcome.token else "no token"
    if outcome.record is None:
        return f"{said}, {token}, no record"
    how = f" {outcome.record.unsealed or outcome.record.completion or ''}".rstrip()
    mode = ", monitored" if outcome.record.mode == "monitor" else ""
    return f"{said}, {token}, record: {outcome.record.type}{how}{mode}"
