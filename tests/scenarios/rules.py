"""The rules by which what comes of a scenario differs at a door: written once, told in the docs, and nothing else differs."""

from __future__ import annotations

from typing import Protocol

from scenarios.cases import Case, Does, Outcome, Record

__all__ = ["RULES", "Door", "expected_at", "rule_for"]


class Door(Protocol):
    """Serves a scenario over a real connection, and tells what came of it."""

    name: str
    kind: str
    answers_errors: bool

    def run(self, case: Case) -> Outcome:
        """What comes of a case."""
        ...


RULES = {
    "n/a¹": "a gRPC kind with one response message has no stream",
    "no token²": (
        "an exception before the answer is answered by the framework or server outside the guard, so that the client holds no token; "
        "the record is the same but for `unsealed: handler_raised`. Flask and gRPC answer it inside, and so it is sealed"
    ),
    "recorded³": (
        "a gRPC request stream is decided before its messages come, so that a message that is too large ends an exchange that was "
        "admitted, and has a record (`unsealed: denied`)"
    ),
}
"""What stands in a cell that is not plain, and why."""


def rule_for(case: Case, door: Door) -> str | None:
    """The mark of the rule by which *case* does not apply to *door* as it stands, or None."""
    if door.kind == "grpc-unary" and case.does in (Does.STREAM, Does.BREAK):
        return "n/a¹"
    if case.body == "big" and door.streams_requests:
        return "recorded³"
    if case.does is Does.RAISE and not door.answers_errors:
        return "no token²"
    return None


def expected_at(case: Case, door: Door) -> Outcome | None:
    """What must come of *case* at *door*; None where it does not apply."""
    rule = rule_for(case, door)
    if rule == "n/a¹":
        return None
    if rule == "recorded³":
        return case.expected._replace(record=Record("exchange", "allow", ("tos_clause:serve",), None, "denied"))
    if rule == "no token²":
        assert case.expected.record is not None
        return case.expected._replace(token="", record=case.expected.record._replace(unsealed="handler_raised"))
    return case.expected
