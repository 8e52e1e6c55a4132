"""Organizations, and accounts with all that their rights depend on (`RightsSource`), over every store of ours."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from tos_guard.errors import AccountError
from tos_guard.protocols import RightsSource
from tos_guard.rights import Account, AuthorizedPerson, Holder, Organization
from tos_guard.types import Standing

HASH = b"\x01" * 32


def organization(organization_id: str = "acme-corp", **fields) -> Organization:
    return Organization(**({"id": organization_id, "name": "Acme"} | fields))


def test_is_one(store):
    """Every store is a `RightsSource`."""
    assert isinstance(store, RightsSource)


def test_an_organization_is_added_once(store):
    """An id is taken once, and starts as version 1; all are listed by id."""
    added = store.add_organization(organization(version=7))
    assert (added.version, store.organization("acme-corp")) == (1, added)
    with pytest.raises(AccountError, match="acme-corp"):
        store.add_organization(organization())
    store.add_organization(organization("aaa"))
    assert [each.id for each in store.organizations()] == ["aaa", "acme-corp"]
    assert store.organization("nobody") is store.organization("\ud800") is None


@pytest.mark.parametrize("name", ["", "\ud800", "a\0b"])
def test_an_organization_that_cannot_be_named_is_refused(store, name):
    """As for accounts."""
    with pytest.raises(AccountError):
        store.add_organization(organization().model_copy(update={"id": name}))


def test_an_organization_changed_meanwhile_is_not_overwritten(store):
    """Two administrators cannot undo each other's change unknowingly."""
    read = store.add_organization(organization())
    changed = store.put_organization(read.model_copy(update={"name": "Acme Corp"}))
    assert (changed.version, changed.name) == (2, "Acme Corp")
    with pytest.raises(AccountError, match="version 2"):
        store.put_organization(read)
    assert store.organization("acme-corp") == changed


def test_limits_of_an_organization_are_set_and_cleared(store):
    """As those of an account."""
    store.add_organization(organization())
    assert store.set_organization_limit("acme-corp", "tokens", 5).limits == {"tokens": 5}
    assert store.set_organization_limit("acme-corp", "tokens", None).limits == {}
    for limit_id, amount in (("tokens", None), ("Tokens", 1), ("tokens", -1)):
        with pytest.raises(AccountError):
            store.set_organization_limit("acme-corp", limit_id, amount)


def test_an_organization_has_a_history(case):
    """What was done to an organization, when, why and by whom."""
    read = case.store.add_organization(organization(), actor="ann")
    case.clock.move(timedelta(hours=1))
    case.store.put_organization(read, reason="renamed", actor="bob")
    case.store.set_organization_limit("acme-corp", "tokens", 5, "asked for", actor="ann")
    case.store.set_organization_limit("acme-corp", "tokens", None)
    history = case.peer.organization_history("acme-corp")
    assert [(each.version, each.what, each.detail, each.reason, each.actor) for each in history] == [
        (1, "added", "", "", "ann"),
        (2, "changed", "", "renamed", "bob"),
        (3, "limit_set", "tokens=5", "asked for", "ann"),
        (4, "limit_cleared", "tokens", "", ""),
    ]
    assert {each.organization_id for each in history} == {"acme-corp"}
    assert history[1].at - history[0].at == timedelta(hours=1)


def test_every_version_of_an_organization_is_kept(case):
    """Who could accept for an organization on a past day can still be told."""
    start = case.clock()
    first = case.store.add_organization(organization(authorized=(AuthorizedPerson(id="ann@acme", authority="officer"),)))
    case.clock.move(timedelta(hours=1))
    second = case.store.put_organization(first.model_copy(update={"authorized": ()}))
    moments = [start + timedelta(minutes=minutes) for minutes in (-1, 0, 59, 60)]
    for source in (case.store, case.peer):
        assert [source.organization_at("acme-corp", moment) for moment in moments] == [None, first, first, second]
        assert source.organization_at("\ud800", start) is None


def test_a_holder_is_the_account_with_its_organization(case, account):
    """By key, by id and by the account itself; an organization that is not stored is none."""
    one = case.store.add_organization(organization())
    member = case.store.add_account(account(organization="acme-corp"))
    alone = case.store.add_account(account("alone"))
    lost = case.store.add_account(account("lost", organization="nowhere"))
    case.store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    case.a_second_passes()
    for source in (case.store, case.peer):
        assert (
            source.holder_by_api_key("AAAAAAAAAAAA", HASH) == source.holder_by_id("acme") == source.rights_of(member) == Holder(member, one)
        )
        assert source.holder_by_id("alone") == Holder(alone)
        assert source.holder_by_id("lost") == Holder(lost)


@pytest.mark.parametrize(
    ("public_id", "secret_hash"), [("AAAAAAAAAAAA", b"\x02" * 32), ("BBBBBBBBBBBB", HASH), ("AAAAAAAAAAAA", b""), ("\ud800", HASH)]
)
def test_no_holder_for_a_wrong_key(store, account, public_id, secret_hash):
    """Unknown ids and wrong secrets look alike, as for accounts."""
    store.add_account(account())
    store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    assert store.holder_by_api_key(public_id, secret_hash) is None
    assert store.holder_by_id("nobody") is None


def test_a_holder_stays_the_same_object_until_something_of_it_changes(case, account):
    """Plans may be kept by the identity of a holder, whichever key found it, and whatever else changes in the store."""
    case.store.add_organization(organization())
    case.store.add_organization(organization("other"))
    case.store.add_account(account(organization="acme-corp"))
    case.store.add_account(account("calm"))
    case.store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    case.store.add_api_key("acme", "BBBBBBBBBBBB", HASH)

    def found(source):
        holder = source.holder_by_id("acme")
        assert source.holder_by_api_key("AAAAAAAAAAAA", HASH) is source.holder_by_api_key("BBBBBBBBBBBB", HASH) is holder
        assert source.rights_of(holder.account) is source.rights_of(Account(**holder.account.model_dump())) is holder
        return holder

    case.a_second_passes()
    before = found(case.store), found(case.peer)
    for unrelated in (
        lambda: case.store.set_standing("calm", Standing.WARNED, "why"),
        lambda: case.store.set_organization_limit("other", "tokens", 5),
        lambda: case.store.revoke_api_key("CCCCCCCCCCCC") if case.store.add_api_key("calm", "CCCCCCCCCCCC", HASH) else None,
    ):
        unrelated()
        case.a_second_passes()
        assert (found(case.store), found(case.peer)) == before
        assert found(case.store) is before[0]
        assert found(case.peer) is before[1]
    for related in (
        lambda: case.store.set_standing("acme", Standing.WARNED, "why"),
        lambda: case.store.set_organization_limit("acme-corp", "tokens", 5),
    ):
        related()
        case.a_second_passes()
        after = found(case.store), found(case.peer)
        assert after[0] is not before[0]
        assert after[1] is not before[1]
        assert after[0] == after[1] != before[0]
        before = after


def test_a_change_of_the_organization_shows_within_a_second(case, account):
    """In every process, and in `version`."""
    case.store.add_account(account(organization="acme-corp"))
    steps = [
        (lambda: case.store.add_organization(organization()), lambda holder: holder.organization.version == 1),
        (lambda: case.store.set_organization_limit("acme-corp", "tokens", 5), lambda holder: holder.organization.limits == {"tokens": 5}),
        (lambda: case.store.put_organization(organization(version=2)), lambda holder: not holder.organization.limits),
    ]
    for change, shows in steps:
        before = case.store.version(), case.peer.version()
        change()
        assert shows(case.store.holder_by_id("acme"))
        assert case.store.version() != before[0]
        case.a_second_passes()
        assert case.peer.version() != before[1]
        assert shows(case.peer.holder_by_id("acme"))


def test_an_account_that_comes_back_under_its_id_is_another(case, account):
    """Deleted and added again between two looks of another process, it has the new rights there: both are version 1."""
    case.store.add_account(account())
    case.a_second_passes()
    assert case.peer.by_id("acme").region is None
    case.store.delete_account("acme")
    case.store.add_account(account(region="FR"))
    case.a_second_passes()
    assert (case.peer.by_id("acme").version, case.peer.by_id("acme").region) == (1, "FR")


def test_the_rights_of_an_account_of_the_host(case, account):
    """A host that keeps its accounts itself gets the organization from our store; each account is told from the one before."""
    one = case.store.add_organization(organization())
    theirs = account("theirs", organization="acme-corp")
    holder = case.store.rights_of(theirs)
    assert holder == Holder(theirs, one)
    assert case.store.rights_of(account("theirs", organization="acme-corp")) is holder
    moved = account("theirs", version=2)
    assert case.store.rights_of(moved) == Holder(moved)
    hostile = theirs.model_copy(update={"id": "\ud800", "organization": "\udfff"})
    assert case.store.rights_of(hostile) == Holder(hostile)


def test_any_thread_may_ask_for_rights(case, account):
    """While accounts and organizations change, an older state never follows a newer one, and equal ones are one object."""
    case.store.add_organization(organization())
    case.store.add_account(account(organization="acme-corp"))
    failures: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        newest, last = (0, 0), None
        try:
            while not stop.is_set():
                holder = case.store.holder_by_id("acme")
                state = holder.account.version, holder.organization.version
                assert state >= newest
                assert state != newest or holder is last
                newest, last = state, holder
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        case.store.set_standing("acme", Standing.SUSPENDED if turn % 2 else Standing.GOOD, "test")
        case.store.set_organization_limit("acme-corp", "tokens", turn)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
