"""Every scenario at every door, and the table of docs/guides/doors.md as it really is."""

from __future__ import annotations

import pytest

from scenarios.cases import CASES, Case
from scenarios.doors import DOORS
from scenarios.rules import Door, expected_at, rule_for

APPLIES = [pytest.param(case, door, id=f"{case.name} at {door.name}") for door in DOORS for case in CASES if rule_for(case, door) != "n/a¹"]


@pytest.mark.parametrize(("case", "door"), APPLIES)
def test_a_door_comes_to_the_same(case: Case, door: Door) -> None:
    """Same verdict, same claims, same record; where a rule says otherwise, exactly what the rule says."""
    assert door.run(case) == expected_at(case, door)
