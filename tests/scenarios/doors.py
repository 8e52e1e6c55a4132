"""Every door, and the rules by which a scenario does not apply to one."""

from __future__ import annotations

from typing import Protocol

from scenarios.cases import CASES, Case, Does, Outcome
from scenarios.grpc_doors import KINDS, AioGrpcDoor, GrpcDoor
from scenarios.http_doors import ASGI, FastAPIDoor

__all__ = ["DOORS", "RULES", "Door", "expected_at", "rule_for", "table"]


class Door(Protocol):
    """Serves a scenario over a real connection, and tells what came of it."""

    name: str
    kind: str
    answers_errors: bool

    def run(self, case: Case) -> Outcome:
        """What comes of a case."""
        ...


DOORS: tuple[Door, ...] = (ASGI(), FastAPIDoor(), *map(GrpcDoor, KINDS), *map(AioGrpcDoor, KINDS))

RULES = {
    "n/a¹": "a gRPC kind with one response message has no stream",
    "no token²": (
        "an exception before the answer is answered by the framework or server outside the guard, so that the client holds no token; "
        "the record is the same but for `unsealed: handler_raised`. Flask and gRPC answer it inside, and so it is sealed"
    ),
}
"""Where a cell is not plain: by which rule."""


def rule_for(case: Case, door: Door) -> str | None:
    """The mark of the rule by which *case* does not apply to *door* as it stands, or None."""
    if door.kind == "grpc-unary" and case.does in (Does.STREAM, Does.BREAK):
        return "n/a¹"
    if case.does is Does.RAISE and not door.answers_errors:
        return "no token²"
    return None


def expected_at(case: Case, door: Door) -> Outcome | None:
    """What must come of *case* at *door*; None where it does not apply."""
    rule = rule_for(case, door)
    if rule == "n/a¹":
        return None
    if rule == "no token²":
        assert case.expected.record is not None
        return case.expected._replace(token="", record=case.expected.record._replace(unsealed="handler_raised"))
    return case.expected


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
    how = outcome.record.unsealed or outcome.record.completion or "denied"
    mode = ", monitored" if outcome.record.mode == "monitor" else ""
    return f"{said}, {token}, record: {outcome.record.type} {how}{mode}"
