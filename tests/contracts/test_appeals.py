"""Appeals in every store: one open against a measure, few in all, each act one entry, and upholding lifts at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tos_guard.errors import AccountError
from tos_guard.rights import Measure
from tos_guard.stores import MAX_ANSWER_CHARS, MAX_APPEAL_CHARS
from tos_guard.types import Standing


@pytest.fixture
def barred(case, account):
    """The case, with an account that two measures bar."""
    case.store.add_account(account())
    for name in ("m-1", "m-2"):
        case.store.take_measure("acme", measure(case, name))
    return case


def measure(case, measure_id: str, **members: Any) -> Measure:
    return Measure(**{"id": measure_id, "step": Standing.SUSPENDED, "reason": "copied outputs", "begins": case.clock(), **members})


def entries(store) -> list[tuple[str, str, str, str]]:
    return [(step.what, step.detail, step.reason, step.actor) for step in store.history("acme")[3:]]


def test_an_upheld_appeal_lifts_its_measure_in_one_step(barred):
    """One entry for the filing and one for the decision, in one new version of the account."""
    filed = barred.store.file_appeal("acme", "m-1", "It was not us.", actor="ann@acme.example")
    assert (filed.state, filed.filed, filed.filed_by, filed.text) == ("filed", barred.clock(), "ann@acme.example", "It was not us.")
    before = barred.store.by_id("acme").version
    barred.a_second_passes()
    assert barred.peer.appeal(filed.id) == filed
    decided = barred.peer.decide_appeal(filed.id, upheld=True, answer="You are right.", actor="bob")
    assert (decided.state, decided.ended, decided.ended_by, decided.answer) == ("upheld", barred.clock(), "bob", "You are right.")
    barred.a_second_passes()
    account = barred.store.by_id("acme")
    assert (account.version, [one.lifted is not None for one in account.measures]) == (before + 1, [True, False])
    why = f"appeal {filed.id} upheld: You are right."
    assert (account.measures[0].lifted_by, account.measures[0].lift_reason) == ("bob", why)
    assert entries(barred.store) == [
        ("appeal_filed", f"{filed.id} m-1", "", "ann@acme.example"),
        ("measure_lifted", "m-1", why, "bob"),
    ]
    assert barred.store.appeals() == (decided,)


def test_a_rejected_and_a_withdrawn_appeal_change_no_rights(barred):
    account = barred.store.by_id("acme")
    first = barred.store.file_appeal("acme", "m-1", "No.")
    second = barred.store.file_appeal("acme", "m-2", "No.")
    rejected = barred.store.decide_appeal(first.id, upheld=False, answer="The logs say otherwise.", actor="bob")
    withdrawn = barred.store.withdraw_appeal("acme", second.id, actor="ann@acme.example")
    assert (rejected.state, withdrawn.state, withdrawn.ended_by) == ("rejected", "withdrawn", "ann@acme.example")
    assert barred.store.by_id("acme") == account
    assert entries(barred.store)[2:] == [
        ("appeal_rejected", f"{first.id} m-1", "The logs say otherwise.", "bob"),
        ("appeal_withdrawn", f"{second.id} m-2", "", "ann@acme.example"),
    ]


def test_one_appeal_is_open_against_a_measure_and_three_are_filed(barred):
    for _ in range(3):
        appeal = barred.store.file_appeal("acme", "m-1", "No.")
        with pytest.raises(AccountError, match="is open"):
            barred.peer.file_appeal("acme", "m-1", "And again.")
        barred.store.withdraw_appeal("acme", appeal.id)
    with pytest.raises(AccountError, match="3 appeals"):
        barred.store.file_appeal("acme", "m-1", "No.")
    assert len(barred.store.appeals()) == 3


def test_ten_appeals_a_day_are_filed(barred):
    """Whoever is barred can write nothing else, and so could write this without end."""
    for number in range(3, 13):
        barred.store.take_measure("acme", measure(barred, f"m-{number}"))
        barred.store.file_appeal("acme", f"m-{number}", "No.")
    with pytest.raises(AccountError, match="within a day"):
        barred.store.file_appeal("acme", "m-1", "No.")
    barred.clock.move(timedelta(days=1))
    assert barred.store.file_appeal("acme", "m-1", "No.").state == "filed"


def test_what_is_no_appeal_or_no_decision_is_refused_and_changes_nothing(barred):
    appeal = barred.store.file_appeal("acme", "m-1", "No.")
    barred.store.lift_measure("acme", "m-2", "a mistake")
    version = barred.store.version()
    for step in (
        lambda: barred.store.file_appeal("nobody", "m-1", "No."),
        lambda: barred.store.file_appeal("acme", "m-9", "No."),
        lambda: barred.store.file_appeal("acme", "m-2", "No."),
        lambda: barred.store.file_appeal("acme", "m-1", " \n"),
        lambda: barred.store.file_appeal("acme", "m-1", "x" * (MAX_APPEAL_CHARS + 1)),
        lambda: barred.store.file_appeal("acme", "m-1", "\0"),
        lambda: barred.store.file_appeal("acme", "m-1", "\ud800"),
        lambda: barred.store.withdraw_appeal("acme", "ap_unknown"),
        lambda: barred.store.withdraw_appeal("nobody", appeal.id),
        lambda: barred.store.decide_appeal("ap_unknown", upheld=True, answer="Yes."),
        lambda: barred.store.decide_appeal("\0", upheld=True, answer="Yes."),
        lambda: barred.store.decide_appeal(appeal.id, upheld=True, answer=""),
        lambda: barred.store.decide_appeal(appeal.id, upheld=True, answer="x" * (MAX_ANSWER_CHARS + 1)),
    ):
        with pytest.raises(AccountError):
            step()
    assert barred.store.version() == version
    assert barred.store.appeals() == (appeal,)


def test_an_appeal_is_decided_once(barred):
    appeal = barred.store.file_appeal("acme", "m-1", "No.")
    barred.store.decide_appeal(appeal.id, upheld=False, answer="No.")
    for step in (
        lambda: barred.store.decide_appeal(appeal.id, upheld=True, answer="Yes."),
        lambda: barred.store.withdraw_appeal("acme", appeal.id),
    ):
        with pytest.raises(AccountError, match="it was rejected"):
            step()


def test_an_appeal_may_be_upheld_whose_measure_was_lifted_meanwhile(barred):
    """The longest answer too: what it says stands in the history."""
    appeal = barred.store.file_appeal("acme", "m-1", "x" * MAX_APPEAL_CHARS)
    lifted = barred.store.lift_measure("acme", "m-1", "a mistake")
    assert barred.store.decide_appeal(appeal.id, upheld=True, answer="y" * MAX_ANSWER_CHARS).state == "upheld"
    assert barred.store.by_id("acme") == lifted
    assert barred.store.history("acme")[-1].what == "appeal_upheld"
    other = barred.store.file_appeal("acme", "m-2", "No.")
    barred.store.decide_appeal(other.id, upheld=True, answer="y" * MAX_ANSWER_CHARS)
    assert barred.store.by_id("acme").measures[1].lifted is not None


def test_appeals_are_found_by_account_state_and_page(barred, account):
    barred.store.add_account(account("other"))
    barred.store.take_measure("other", measure(barred, "m-1"))
    first, second = (barred.store.file_appeal("acme", name, "No.") for name in ("m-1", "m-2"))
    third = barred.store.file_appeal("other", "m-1", "No.")
    decided = barred.store.decide_appeal(first.id, upheld=False, answer="No.")
    find = barred.peer.appeals
    assert find() == (decided, second, third)
    assert find(account_id="acme") == (decided, second)
    assert find(state="filed") == (second, third)
    assert find(account_id="acme", state="filed") == (second,)
    assert find(after=second.id) == (third,)
    assert find(limit=2) == (decided, second)
    assert find(account_id="nobody") == find(account_id="\0") == ()


def test_who_is_forgotten_leaves_no_appeal_behind(barred):
    appeal = barred.store.file_appeal("acme", "m-1", "No.")
    barred.store.delete_account("acme")
    assert (barred.store.appeal(appeal.id), barred.store.appeals()) == (None, ())
