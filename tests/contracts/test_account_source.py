"""The contract of `AccountSource`, over every implementation of ours."""

from __future__ import annotations

import threading

import pytest

from tos_guard.protocols import AccountSource
from tos_guard.types import Standing

HASH = b"\x01" * 32
OTHER = b"\x02" * 32
EU = "eu_" + "A" * 22


def test_is_one(case):
    """Every store is an `AccountSource`."""
    assert isinstance(case.store, AccountSource)


def test_finds_by_id_and_by_key(case, account):
    """An account is found by its id, and by a key with the right secret."""
    added = case.store.add_account(account())
    case.store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    case.a_second_passes()
    for source in (case.store, case.peer):
        assert source.by_id("acme") == added
        assert source.by_api_key("AAAAAAAAAAAA", HASH) == added


@pytest.mark.parametrize(
    ("public_id", "secret_hash"),
    [("AAAAAAAAAAAA", OTHER), ("BBBBBBBBBBBB", HASH), ("", HASH), ("AAAAAAAAAAAA", b""), ("\ud800", HASH), ("a\x00b", HASH)],
)
def test_unknown_and_wrong_look_alike(case, account, public_id, secret_hash):
    """Unknown ids, wrong secrets and hostile names are all None, asked once or twice."""
    case.store.add_account(account())
    case.store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    assert case.store.by_api_key(public_id, secret_hash) is None
    assert case.store.by_api_key(public_id, secret_hash) is None
    assert case.store.by_api_key("AAAAAAAAAAAA", HASH) is not None


@pytest.mark.parametrize("name", ["nobody", "", "\udfff", "x' OR 1=1 --"])
def test_unknown_account(case, account, name):
    """An id nobody has is None, whatever it looks like."""
    case.store.add_account(account())
    assert case.store.by_id(name) is None


def test_no_hash_opens_a_missing_key(case):
    """What an unknown key is compared with opens nothing."""
    assert case.store.by_api_key("AAAAAAAAAAAA", bytes(32)) is None


def test_each_change_shows_within_a_second(case, account, grant):
    """Each change of an account, grant or key changes `version` in every process, within a second, and with it what is found."""
    steps = [
        (lambda s: s.add_account(account()), lambda s: s.by_id("acme") is not None),
        (lambda s: s.add_api_key("acme", "AAAAAAAAAAAA", HASH), lambda s: s.by_api_key("AAAAAAAAAAAA", HASH) is not None),
        (lambda s: s.set_standing("acme", Standing.SUSPENDED, "test"), lambda s: s.by_id("acme").standing is Standing.SUSPENDED),
        (lambda s: s.set_standing("acme", Standing.GOOD, "test"), lambda s: s.by_api_key("AAAAAAAAAAAA", HASH).standing is Standing.GOOD),
        (lambda s: s.add_grant("acme", grant()), lambda s: [g.id for g in s.by_id("acme").grants] == ["g1"]),
        (lambda s: s.void_grant("acme", "g1"), lambda s: [g.voided is not None for g in s.by_id("acme").grants] == [True]),
        (lambda s: s.set_limit("acme", "tokens", 5), lambda s: s.by_id("acme").limits == {"tokens": 5}),
        (lambda s: s.block_end_user("acme", EU), lambda s: s.by_id("acme").blocked_end_users == {EU}),
        (lambda s: s.unblock_end_user("acme", EU), lambda s: not s.by_id("acme").blocked_end_users),
        (lambda s: s.revoke_api_key("AAAAAAAAAAAA"), lambda s: s.by_api_key("AAAAAAAAAAAA", HASH) is None),
        (lambda s: s.delete_account("acme"), lambda s: s.by_id("acme") is None),
    ]
    for change, shows in steps:
        before = case.store.version(), case.peer.version()
        change(case.store)
        assert shows(case.store), "the process that made the change sees it at once"
        assert case.store.version() != before[0]
        case.a_second_passes()
        assert case.peer.version() != before[1]
        assert shows(case.peer)


def test_a_change_of_rights_is_a_new_account_version(case, account, grant):
    """Whoever caches under `Account.version` never holds stale rights."""
    versions = [
        case.store.add_account(account()).version,
        case.store.set_standing("acme", Standing.WARNED, "test").version,
        case.store.add_grant("acme", grant()).version,
        case.store.void_grant("acme", "g1").version,
        case.store.put_account(case.store.by_id("acme")).version,
    ]
    assert versions == sorted(set(versions))


def test_nothing_changes_without_a_change(case, account, record):
    """Looking, and keeping records, leave `version` alone."""
    case.store.add_account(account())
    case.a_second_passes()
    before = case.store.version(), case.peer.version()
    case.store.by_id("acme")
    case.store.append(record("r1", account_id="acme")).result(30)
    case.a_second_passes()
    assert (case.store.version(), case.peer.version()) == before


def test_any_thread_may_ask(case, account):
    """Many threads ask while one changes: nobody sees an error, and an older state never follows a newer one."""
    case.store.add_account(account())
    case.store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    failures: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        newest = 0
        try:
            while not stop.is_set():
                found = case.store.by_api_key("AAAAAAAAAAAA", HASH)
                assert found is not None
                assert found.version >= newest
                newest = found.version
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        case.store.set_standing("acme", Standing.SUSPENDED if turn % 2 else Standing.GOOD, "test")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
