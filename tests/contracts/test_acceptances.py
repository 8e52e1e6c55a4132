"""Acceptances of terms as evidence, over every store of ours: added, withdrawn by a second record, never changed and never removed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from sample_records import sample_acceptance as acceptance
from sample_records import sample_withdrawal as withdrawal
from tos_guard.errors import AccountError
from tos_guard.rights import Holder, Organization
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind

AT = acceptance().at
ACCOUNT, ORGANIZATION = SubjectKind.ACCOUNT, SubjectKind.ORGANIZATION


def test_an_acceptance_comes_back_as_it_was(case):
    """With every member, in every process, by its id and by whom it is for."""
    full = acceptance(1, subject_kind=ORGANIZATION, subject_id="acme-corp", expires=AT + timedelta(days=365), receipt="a.b.c")
    bare = acceptance(2, accepted_by="ünïcode' --", authority="", method=AcceptanceMethod.IMPORT, identified_by=Identification.DECLARED)
    for each in (full, bare):
        assert case.store.add_acceptance(each) == each
    for source in (case.store, case.peer):
        assert [source.acceptance(each.id) for each in (full, bare)] == [full, bare]
        assert source.acceptances(ORGANIZATION, "acme-corp") == (full,)
        assert source.acceptances(ACCOUNT, "acme") == (bare,)
        assert source.acceptances(ACCOUNT, "acme-corp") == source.acceptances(ORGANIZATION, "\ud800") == ()
        assert source.acceptance("acc_nothing") is source.acceptance("\ud800") is None


def test_acceptances_are_listed_by_when_they_were_made(store):
    """One that is imported late stands where it belongs."""
    late, early = acceptance(1), acceptance(2, at=AT - timedelta(days=9), method=AcceptanceMethod.IMPORT)
    store.add_acceptance(late)
    store.add_acceptance(early)
    assert store.acceptances(ACCOUNT, "acme") == (early, late)


def test_a_withdrawal_is_a_second_record(case):
    """It takes nothing from the acceptance, and is there wherever that is."""
    kept = case.store.add_acceptance(acceptance())
    withdrawn = case.store.withdraw_acceptance(withdrawal())
    assert withdrawn == kept.with_withdrawal(withdrawal())
    for source in (case.store, case.peer):
        assert source.acceptance(kept.id) == withdrawn
        assert source.acceptances(ACCOUNT, "acme") == (withdrawn,)


def test_again_changes_nothing(case):
    """Whoever does not know whether it was kept adds it again, and withdraws it again; `version` stays."""
    case.store.add_acceptance(acceptance())
    withdrawn = case.store.withdraw_acceptance(withdrawal())
    case.a_second_passes()
    before = case.store.version()
    for store in (case.store, case.peer):
        assert store.add_acceptance(acceptance()) == withdrawn
        assert store.withdraw_acceptance(withdrawal()) == withdrawn
    case.a_second_passes()
    assert case.store.version() == before
    assert case.peer.acceptances(ACCOUNT, "acme") == (withdrawn,)


def test_who_recorded_what_is_kept_beside_it(case):
    """The acceptance is the account's, and does not name the administrator; whoever repeats it does not become the one."""
    case.store.add_acceptance(acceptance(1), actor="ann")
    case.store.add_acceptance(acceptance(2))
    assert case.peer.acceptance_recorded_by(acceptance(1).id) == ("ann", "")
    case.store.withdraw_acceptance(withdrawal(1), actor="bob")
    case.store.withdraw_acceptance(withdrawal(1), actor="eve")
    case.store.add_acceptance(acceptance(1), actor="eve")
    assert case.peer.acceptance_recorded_by(acceptance(1).id) == ("ann", "bob")
    assert case.peer.acceptance_recorded_by(acceptance(2).id) == ("", "")
    assert case.peer.acceptance_recorded_by("acc_nothing") is case.peer.acceptance_recorded_by("\ud800") is None
    for change in (
        lambda: case.store.add_acceptance(acceptance(3), actor="\ud800"),
        lambda: case.store.withdraw_acceptance(withdrawal(2), actor="\ud800"),
    ):
        with pytest.raises(AccountError):
            change()


def test_nothing_kept_is_changed(store):
    """Another acceptance under a known id, another withdrawal of a withdrawn one, one of another issuer: refused."""
    withdrawn = acceptance(2)
    store.add_acceptance(acceptance(1))
    store.add_acceptance(withdrawn)
    withdrawn = store.withdraw_acceptance(withdrawal(2))
    shared = store.add_acceptance(acceptance(4, subject_kind=ORGANIZATION))
    for step in (
        lambda: store.add_acceptance(acceptance(1, version="2026-12")),
        lambda: store.add_acceptance(acceptance(1, receipt="a.b.c")),
        lambda: store.add_acceptance(replace(withdrawn, id=f"acc_{3:022}", withdrawal=withdrawal(3))),
        lambda: store.add_acceptance(acceptance(3, issuer="https://other.example")),
        lambda: store.add_acceptance(acceptance(3, subject_id="\ud800")),
        lambda: store.withdraw_acceptance(withdrawal(2, reason="another")),
        lambda: store.withdraw_acceptance(withdrawal(9)),
        lambda: store.withdraw_acceptance(withdrawal(4, authority="")),
    ):
        with pytest.raises(AccountError):
            step()
    assert store.acceptances(ACCOUNT, "acme") == (acceptance(1), withdrawn)
    assert store.acceptance(f"acc_{3:022}") is None
    assert store.acceptance(shared.id) == shared


def test_a_holder_has_the_acceptances_of_account_and_organization(case, account):
    """Each is there within a second in every process, and its withdrawal as well; the holder is another with each."""
    case.store.add_account(account(organization="acme-corp"))
    theirs = account("theirs", organization="acme-corp")
    own, shared = acceptance(1), acceptance(2, subject_kind=ORGANIZATION, subject_id="acme-corp", at=AT - timedelta(days=1))
    steps = [
        (lambda: case.store.add_acceptance(own), (own,), ()),
        (lambda: case.store.add_acceptance(shared), (shared, own), (shared,)),
        (lambda: case.store.add_acceptance(acceptance(3, subject_id="acme-corp")), (shared, own), (shared,)),
        (lambda: case.store.add_acceptance(acceptance(4, subject_kind=ORGANIZATION)), (shared, own), (shared,)),
        (
            lambda: case.store.withdraw_acceptance(withdrawal(2)),
            (shared.with_withdrawal(withdrawal(2)), own),
            (shared.with_withdrawal(withdrawal(2)),),
        ),
    ]
    for change, ours, of_the_host in steps:
        known = case.store.version(), case.peer.version()
        before = case.store.holder_by_id("acme"), case.peer.holder_by_id("acme")
        change()
        assert case.store.version() != known[0]
        assert case.store.holder_by_id("acme").acceptances == ours
        assert case.store.rights_of(theirs).acceptances == of_the_host
        case.a_second_passes()
        assert case.peer.version() != known[1]
        assert case.peer.holder_by_id("acme").acceptances == ours
        assert case.peer.rights_of(theirs).acceptances == of_the_host
        after = case.store.holder_by_id("acme"), case.peer.holder_by_id("acme")
        for one, other in zip(before, after, strict=True):
            assert (one is other) is (one.acceptances == ours)


def test_the_rights_of_a_past_moment_are_those_that_were_known_then(case, account):
    """What is added or withdrawn later, or imported with an earlier date, was not there; a deleted account's acceptances never were."""
    first_moment = case.clock()
    member = case.store.add_account(account(organization="acme-corp"))
    imported = acceptance(1, at=first_moment.replace(microsecond=0) - timedelta(days=9), method=AcceptanceMethod.IMPORT)
    shared = acceptance(2, subject_kind=ORGANIZATION, subject_id="acme-corp")
    states = [(first_moment, None, ())]

    def later(change):
        case.clock.move(timedelta(milliseconds=1))
        done = change()
        states.append((case.clock(), case.store.organization("acme-corp"), case.store.rights_of(member).acceptances))
        return done

    later(lambda: case.store.add_acceptance(imported))
    later(lambda: case.store.add_organization(Organization(id="acme-corp")))
    later(lambda: case.store.add_acceptance(shared))
    later(lambda: case.store.set_organization_limit("acme-corp", "tokens", 5))
    later(lambda: case.store.withdraw_acceptance(withdrawal(1)))
    assert [len(state[2]) for state in states] == [0, 1, 1, 2, 2, 2]
    for source in (case.store, case.peer):
        for moment, organization, acceptances in states:
            assert source.rights_at(member, moment) == Holder(member, organization, acceptances)
    case.store.delete_account("acme")
    case.store.add_account(account(organization="acme-corp"))
    assert case.store.rights_at(member, case.clock()).acceptances == (shared,)


def test_acceptances_outlive_their_account(case, account):
    """They are evidence: deleting the account leaves them. Whoever gets its id later has accepted nothing."""
    case.store.add_account(account())
    case.store.add_acceptance(acceptance(1))
    case.store.add_acceptance(acceptance(2, subject_id="other"))
    case.store.delete_account("acme")
    assert case.store.acceptances(ACCOUNT, "acme") == case.peer.acceptances(ACCOUNT, "acme") == (acceptance(1),)
    case.store.add_account(account())
    case.store.add_account(account("other"))
    case.a_second_passes()
    for source in (case.store, case.peer):
        assert source.holder_by_id("acme").acceptances == ()
        assert source.holder_by_id("other").acceptances == (acceptance(2, subject_id="other"),)
    case.store.add_acceptance(acceptance(3))
    assert case.store.holder_by_id("acme").acceptances == (acceptance(3),)
    assert case.store.acceptances(ACCOUNT, "acme") == (acceptance(1), acceptance(3))
