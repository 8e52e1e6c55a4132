"""What every store keeps for systems outside: what they gave, which messages were taken, whose turn it is."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tos_guard.errors import AccountError
from tos_guard.rights import Entitlement
from tos_guard.stores import DELIVERIES_KEPT, Turn
from tos_guard.types import Standing


def said(**members):
    return Entitlement.model_validate_json(json.dumps(members))


def test_what_differs_is_one_change_and_what_does_not_is_none(case, account):
    """A source gives: one version and one step with its name. The same again: nothing, in no process."""
    case.store.add_account(account(models={"small"}, region="DE"))
    gives = said(models=["large", "small"], limits={"tokens": 5}, grants=[{"id": "lic", "type": "licensed-distillation"}])
    changed = case.store.entitle("crm", "acme", gives)
    assert (changed.version, changed.models, dict(changed.limits)) == (2, {"large", "small"}, {"tokens": 5})
    assert (changed.region, [grant.id for grant in changed.grants]) == ("DE", ["crm.lic"])
    last = case.peer.history("acme")[-1]
    assert (last.what, last.actor, last.version) == ("changed", "entitlements:crm", 2)
    case.a_second_passes()
    before = case.peer.version()
    for store in (case.peer, case.store):
        assert store.entitle("crm", "acme", gives) == changed
    assert len(case.store.history("acme")) == 2
    case.a_second_passes()
    assert case.peer.version() == before
    assert [(one.account_id, one.text, one.lapsed, one.is_current) for one in case.peer.entitlements("crm")] == [
        ("acme", gives.text, False, True)
    ]
    case.store.set_limit("acme", "tokens", 9)
    assert [one.is_current for one in case.peer.entitlements("crm")] == [False]
    assert case.store.entitlements("other") == ()


def test_what_vanishes_is_lost_and_the_rest_stays(case, account):
    case.store.add_account(account(models=set(), region="DE"))
    case.store.entitle("crm", "acme", said(models=["large"], kind="partner", grants=[{"id": "lic", "type": "research"}]))
    case.clock.move(timedelta(seconds=1))
    left = case.peer.entitle("crm", "acme", None)
    assert (left.models, left.kind, left.region, left.version) == (frozenset(), "default", "DE", 3)
    assert left.grants[0].voided == case.clock.now
    assert case.store.entitlements("crm") == ()


def test_what_lapsed_is_known_as_lapsed(case, account):
    case.store.add_account(account(models=set()))
    gives = said(models=["large"], kind="partner")
    case.store.entitle("crm", "acme", gives)
    lapsed = case.store.entitle("crm", "acme", None, lapse=True)
    assert (lapsed.models, lapsed.kind) == (frozenset(), "partner")
    assert [(one.text, one.lapsed) for one in case.peer.entitlements("crm")] == [(gives.text, True)]
    assert case.peer.entitle("crm", "acme", gives).models == {"large"}
    assert [one.lapsed for one in case.store.entitlements("crm")] == [False]


def test_accounts_are_added_only_where_that_is_asked_for(store):
    assert store.entitle("crm", "new", said(models=["small"])) is None
    assert store.entitle("crm", "new", None, create=True) is None
    assert store.entitlements("crm") == ()
    added = store.entitle("crm", "new", said(models=["small"]), create=True)
    assert (added.version, added.models) == (1, {"small"})
    assert [(step.what, step.actor) for step in store.history("new")] == [("added", "entitlements:crm")]
    with pytest.raises(AccountError):
        store.entitle("crm", "a\0b", said(models=["small"]), create=True)


def test_a_deleted_account_leaves_nothing_of_what_it_was_given(store, account):
    store.add_account(account())
    store.entitle("crm", "acme", said(models=["large"]))
    store.delete_account("acme")
    assert store.entitlements("crm") == ()
    store.add_account(account(models={"small"}))
    assert store.entitle("crm", "acme", None).models == {"small"}


def test_a_message_is_taken_once(case):
    """Of all processes, one is told that it is new; it is known for seven days; senders are apart."""
    before = case.store.version(), case.peer.version()
    assert not case.store.knows_delivery("hook", "m1")
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda number: (case.store, case.peer)[number % 2].note_delivery("hook", "m1"), range(8)))
    assert sorted(told) == [False] * 7 + [True]
    assert case.peer.knows_delivery("hook", "m1")
    assert not case.peer.knows_delivery("other", "m1")
    assert case.peer.note_delivery("other", "m1")
    case.clock.move(DELIVERIES_KEPT)
    assert not case.store.knows_delivery("hook", "m1")
    assert case.store.note_delivery("hook", "m1")
    assert (case.store.version(), case.peer.version()) == before


def test_a_message_that_moves_an_account_does_so_once(case, account):
    """The change and the note of the message are one: a repeated message undoes nothing that was done since."""
    case.store.add_account(account())
    case.store.set_standing("acme", Standing.SUSPENDED, "case 7", actor="webhook:hook", delivery=("hook", "m1"))
    case.store.set_standing("acme", Standing.GOOD, "a mistake", actor="dana")
    again = case.peer.set_standing("acme", Standing.SUSPENDED, "case 7", actor="webhook:hook", delivery=("hook", "m1"))
    assert again.standing is Standing.GOOD
    assert case.peer.knows_delivery("hook", "m1")
    assert len(case.store.history("acme")) == 3
    with pytest.raises(AccountError):
        case.store.set_standing("nobody", Standing.SUSPENDED, "case 7", delivery=("hook", "m2"))
    assert not case.store.knows_delivery("hook", "m2")


def test_steps_of_all_accounts_are_read_in_their_order(case, account):
    first = case.store.newest_change()
    case.store.add_account(account("a"))
    case.store.add_account(account("b"))
    case.store.set_standing("b", Standing.SUSPENDED, "one")
    case.peer.set_standing("a", Standing.SUSPENDED, "two")
    case.store.set_standing("b", Standing.GOOD, "three")
    found = case.peer.changes_after(first, {"standing"}, limit=2)
    assert [(step.account_id, step.reason) for _, step in found] == [("b", "one"), ("a", "two")]
    rest = case.peer.changes_after(found[-1][0], {"standing"}, limit=2)
    assert [(number, step.reason) for number, step in rest] == [(case.store.newest_change(), "three")]
    assert case.store.changes_after(first, set(), limit=2) == ()
    case.store.delete_account("b")
    assert [step.account_id for _, step in case.peer.changes_after(first, {"standing"}, limit=9)] == ["a"]


def test_one_process_at_a_time_has_a_turn(case):
    """It is to be had when it is due, by one; whoever dies with it holds nobody up for longer than was said."""
    until = case.clock.now + timedelta(seconds=60)
    assert case.store.turn("work") is None
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda number: (case.store, case.peer)[number % 2].take_turn("work", until=until), range(8)))
    assert [turn.state for turn in told if turn is not None] == [""]
    assert case.peer.turn("work").due == until
    case.clock.move(timedelta(seconds=60))
    assert case.peer.take_turn("work", until=until + timedelta(seconds=60)) == Turn(until)
    case.peer.put_turn("work", due=case.clock.now + timedelta(seconds=5))
    case.store.put_turn("work", state='{"etag": "7"}')
    assert case.peer.turn("work") == Turn(case.clock.now + timedelta(seconds=5), '{"etag": "7"}')
    assert case.store.take_turn("work", until=until) is None
    case.clock.move(timedelta(seconds=5))
    assert case.store.take_turn("work", until=until + timedelta(days=1)).state == '{"etag": "7"}'
    assert case.store.take_turn("other", until=until) is not None
