"""A verifier that forgets one rule is noticed by every bad vector of that rule."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutants = _beside("mutants")


@pytest.mark.parametrize("rule", mutants.RULES)
def test_every_bad_vector_kills_the_mutant_of_its_rule(rule: str) -> None:
    """No other rule covers for the one left out, and most of the vectors are then found valid."""
    row = mutants.run(rule)
    assert row["survivors"] == []
    assert row["killed_alone"] == row["alone"] >= 10
    assert row["clean"] >= 5


def test_good_vectors_pass_without_the_rules_of_refusal() -> None:
    """Leaving out checks, all of them here, refuses nothing new; only computing carelessly does."""
    lax = mutants.mutant(*(rule for rule in mutants.RULES if rule not in mutants.CARELESS))
    assert [vector["id"] for vector in mutants.vectors_of("good") if mutants.outcome(lax, vector) != vector["expected"]] == []


def test_the_printed_table_ends_without_survivors(
    capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    assert mutants.main() == 0
    table = capsys.readouterr().out
    record_property("counts", table)
    assert f"{len(mutants.RULES)} mutants, 0 bad vectors that did not notice" in table
