"""Every scenario at every door, and the table of docs/guides/doors.md as it really is."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.cases import CASES, Case
from scenarios.doors import DOORS, table
from scenarios.rules import Door, expected_at, rule_for

APPLIES = [pytest.param(case, door, id=f"{case.name} at {door.name}") for door in DOORS for case in CASES if rule_for(case, door) != "n/a¹"]


@pytest.mark.parametrize(("case", "door"), APPLIES)
def test_a_door_comes_to_the_same(case: Case, door: Door) -> None:
    """Same verdict, same claims, same record; where a rule says otherwise, exactly what the rule says."""
    assert door.run(case) == expected_at(case, door)


def test_the_table_in_the_docs_is_what_the_doors_come_to(root: Path) -> None:
    """The guide has the table of `python -m scenarios`, where every cell is one of the tests above."""
    guide = (root / "docs" / "guides" / "doors.md").read_text(encoding="utf-8")
    printed = table({(case.name, door.name): expected_at(case, door) for door in DOORS for case in CASES})
    assert "**differs**" not in printed
    assert printed in guide, "docs/guides/doors.md is old: make doors prints the table"
