"""Measures in every store: taken and lifted by one entry each, heard by every process, and never otherwise changed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tos_guard.errors import AccountError
from tos_guard.rights import Measure
from tos_guard.types import Standing


@pytest.fixture
def measure(case):
    def make(measure_id: str = "m-1", step: Standing = Standing.SUSPENDED, **members: Any) -> Measure:
        return Measure(**{"id": measure_id, "step": step, "reason": "copied outputs", "begins": case.clock(), **members})

    return make


def test_a_measure_is_taken_and_lifted_by_one_entry_each(case, account, measure):
    case.store.add_account(account(), actor="ann")
    taken = measure(
        clauses=("no-copying",), notice="Call us.", evidence="case 7", requires="contact", expires=case.clock() + timedelta(days=9)
    )
    held = case.store.take_measure("acme", taken, actor="bob").measures
    assert held == (taken.model_copy(update={"issuer": "bob"}),)
    case.a_second_passes()
    assert case.peer.by_id("acme").standing_at(case.clock()).step is Standing.SUSPENDED
    lifted = case.store.lift_measure("acme", "m-1", "a mistake", actor="cleo")
    (marked,) = lifted.measures
    assert (marked.unlifted(), marked.lifted, marked.lifted_by, marked.lift_reason) == (*held, case.clock(), "cleo", "a mistake")
    case.a_second_passes()
    assert case.peer.by_id("acme") == lifted
    assert lifted.standing_at(case.clock()).step is Standing.GOOD
    steps = [(step.version, step.what, step.detail, step.reason, step.actor) for step in case.peer.history("acme")]
    assert steps == [
        (1, "added", "", "", "ann"),
        (2, "measure_taken", "m-1=suspended", "copied outputs", "bob"),
        (3, "measure_lifted", "m-1", "a mistake", "cleo"),
    ]
    assert case.peer.account_version("acme", 2).measures == held


def test_each_change_of_measures_is_a_new_version_of_the_store(store, account, measure):
    """It is how other processes hear of it."""
    store.add_account(account())
    seen = [store.version()]
    store.take_measure("acme", measure())
    seen.append(store.version())
    store.lift_measure("acme", "m-1", "a mistake")
    seen.append(store.version())
    assert len(set(seen)) == 3


def test_what_a_holder_says_follows_measures_at_once(store, account, measure):
    store.add_account(account())
    now = store.holder_by_id("acme")
    store.take_measure("acme", measure())
    then = store.holder_by_id("acme")
    assert (now.account.measures, [one.id for one in then.account.measures]) == ((), ["m-1"])


def test_a_measure_is_taken_once_and_lifted_once(store, account, measure):
    store.add_account(account())
    store.take_measure("acme", measure())
    store.lift_measure("acme", "m-1", "a mistake")
    before = store.by_id("acme")
    for step in (
        lambda: store.take_measure("acme", measure()),
        lambda: store.take_measure("acme", measure("m-2", lifted=before.measures[0].lifted)),
        lambda: store.take_measure("nobody", measure()),
        lambda: store.lift_measure("acme", "m-1", "again"),
        lambda: store.lift_measure("acme", "m-9", "unknown"),
        lambda: store.lift_measure("nobody", "m-1", "unknown"),
    ):
        with pytest.raises(AccountError):
            step()
    assert store.by_id("acme") == before


def test_the_own_standing_and_measures_hold_side_by_side(case, account, measure):
    """Neither takes the other's place: the lowest counts, and each is undone by itself."""
    case.store.add_account(account())
    case.store.set_standing("acme", Standing.WARNED, "spam")
    case.store.take_measure("acme", measure())
    case.store.set_standing("acme", Standing.GOOD, "cleared")
    assert case.store.by_id("acme").standing_at(case.clock()).step is Standing.SUSPENDED
    case.store.set_standing("acme", Standing.THROTTLED, "spam")
    assert case.store.lift_measure("acme", "m-1", "a mistake").standing_at(case.clock()).step is Standing.THROTTLED


def test_put_account_leaves_measures_alone(store, account, measure):
    store.add_account(account())
    read = store.take_measure("acme", measure())
    (taken,) = read.measures
    for measures in ((), (taken.model_copy(update={"step": Standing.WARNED}),), (taken, measure("m-2"))):
        with pytest.raises(AccountError, match="measures were changed"):
            store.put_account(read.model_copy(update={"measures": measures}))
    changed = store.put_account(read.model_copy(update={"kind": "individual"}))
    assert (changed.kind, changed.measures) == ("individual", (taken,))
