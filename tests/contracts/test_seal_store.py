"""The contract of `SealStore`, over every implementation of ours."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tos_guard.errors import StoreError
from tos_guard.ledger import ExchangeRecord, KeptSeal, SealKind
from tos_guard.protocols import SealStore
from tos_guard.stores import SQLiteStore

ISSUER = "https://api.example"
OTHER = "https://other.example"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def seal(rid: str = "req_1", **fields: Any) -> KeptSeal:
    """A sealed one; with ``token=None``, one that is open."""
    values: dict[str, Any] = {
        "issuer": ISSUER,
        "account_id": "acme",
        "kind": SealKind.RESPONSE,
        "key": "resp_1",
        "jti": f"jti-{rid}",
        "sub": f"sub-{rid}",
        "req": "q" * 43,
        "kept": ms(NOW),
        "until": ms(NOW + timedelta(days=1)),
        "request_hash": "h" * 43,
        "token": "a.b.c",
        "leaves": ((0, "text", "d" * 43), (1, "text", None)),
        "proj": "responses-1",
        "n": 2,
        "root": "r" * 43,
        "exchange": {"facts": {"model": "smäll"}, "reservation": None},
    }
    return KeptSeal(rid=rid, **(values | fields))


def test_is_one(store):
    """Every store is a `SealStore`."""
    assert isinstance(store, SealStore)


def test_a_seal_comes_back_as_it_was(case):
    """What `keep` acknowledged is found by its name, unchanged, by another process too; an open one likewise."""
    full = seal()
    bare = seal("req_2", key="resp_2", token=None, leaves=None, proj=None, n=None, root=None, request_hash=None)
    for each in (full, bare):
        assert case.store.keep([each]).result(30) is None
    for source in (case.store, case.peer):
        assert source.kept("acme", SealKind.RESPONSE, "resp_1", NOW) == full
        assert source.kept("acme", SealKind.RESPONSE, "resp_2", NOW) == bare


def test_nobody_finds_the_seal_of_another(store):
    """One account's id fetches nothing of another's; nor does another kind, another key, or a name that no engine can hold."""
    store.keep([seal()]).result(30)
    for account, kind, key in (
        ("other", SealKind.RESPONSE, "resp_1"),
        ("acme", SealKind.REQUEST, "resp_1"),
        ("acme", SealKind.RESPONSE, "resp_2"),
        ("acme", SealKind.RESPONSE, "\ud800"),
        ("\ud800", SealKind.RESPONSE, "resp_1"),
    ):
        assert store.kept(account, kind, key, NOW) is None


def test_another_issuer_of_the_file_finds_nothing(tmp_path):
    """Two issuers share a file, and none sees the other's seals, purges them or erases them."""
    one, other = (SQLiteStore(tmp_path / "g.db", issuer=issuer, clock=lambda: NOW) for issuer in (ISSUER, OTHER))
    with one, other:
        one.keep([seal()]).result(30)
        assert other.kept("acme", SealKind.RESPONSE, "resp_1", NOW) is None
        assert other.kept_of("acme") == ()
        assert other.purge_kept(NOW + timedelta(days=9)) == 0
        other.erase_account(OTHER, "acme")
        assert one.kept("acme", SealKind.RESPONSE, "resp_1", NOW) == seal()


def test_a_seal_and_its_record_are_kept_together(case, record):
    """Whoever finds the seal finds the record; where a seal is in the way neither is kept."""
    first, second = seal(kind=SealKind.IDEMPOTENCY), seal("req_2", kind=SealKind.IDEMPOTENCY)
    assert case.store.keep([first], record("req_1", account_id="acme")).result(30) is None
    assert case.peer.by_request_id(ISSUER, "req_1").account_id == "acme"
    assert case.store.keep([second], record("req_2", account_id="acme")).result(30) == first
    assert case.peer.by_request_id(ISSUER, "req_2") is None
    assert case.peer.kept("acme", SealKind.IDEMPOTENCY, "resp_1", NOW) == first


def test_a_record_with_a_token_takes_the_place_of_one_without(case, record):
    """A token has its record, also where its exchange was recorded as a failure before; the link to the account stays as it is."""
    case.store.append(record("req_1", account_id="acme", unsealed="store")).result(30)
    case.store.keep([seal()], record("req_1", account_id="acme", jti="jti-req_1")).result(30)
    for late in ({"unsealed": "store"}, {"jti": "jti-else"}):
        case.store.append(record("req_1", account_id="acme", **late)).result(30)
    assert case.peer.by_request_id(ISSUER, "req_1").unsealed is None
    assert case.peer.by_token_id(ISSUER, "jti-req_1") == case.peer.by_request_id(ISSUER, "req_1")
    assert case.peer.by_token_id(ISSUER, "jti-else") is None
    assert [each.jti for each in case.peer.of_account(ISSUER, "acme")] == ["jti-req_1"]


def test_of_two_records_at_once_the_one_with_a_token_stays(case, record):
    """Both may be written in one transaction."""
    given = [case.store.append(record(f"req_{number}", account_id="acme", unsealed="store")) for number in range(8)]
    given += [case.store.append(record(f"req_{number}", account_id="acme", jti=f"jti-{number}")) for number in range(8)]
    for each in given:
        each.result(30)
    assert sorted(str(each.jti) for each in case.peer.of_account(ISSUER, "acme")) == [f"jti-{number}" for number in range(8)]


def test_a_record_that_was_unlinked_stays_so(case, record):
    """Its account was erased; a token that is found later names nobody either."""
    case.store.append(record("req_1", account_id="acme", unsealed="store")).result(30)
    case.store.erase_account(ISSUER, "acme")
    case.store.append(record("req_1", account_id="acme", jti="jti-1")).result(30)
    assert case.peer.by_token_id(ISSUER, "jti-1").account_id is None
    assert case.peer.of_account(ISSUER, "acme") == ()


def test_several_names_are_kept_all_or_none(case):
    """An exchange whose response has an id and whose caller gave a key is found by both, or by neither."""
    names = [seal(), seal(kind=SealKind.IDEMPOTENCY, key="k")]
    assert case.store.keep(names).result(30) is None
    others = [seal("req_2", key="resp_2"), seal("req_2", kind=SealKind.IDEMPOTENCY, key="k")]
    assert case.store.keep(others).result(30) == names[1]
    assert case.peer.kept("acme", SealKind.RESPONSE, "resp_2", NOW) is None


@pytest.mark.parametrize(
    ("known", "new", "gives_way"),
    [
        pytest.param({"token": None}, {}, True, id="open, then sealed under the same request id"),
        pytest.param({}, {"token": "x.y.z"}, False, id="sealed, then sealed again"),
        pytest.param({}, {}, True, id="the very same, by a caller whose answer was lost"),
        pytest.param({}, {"token": None}, False, id="sealed, then open again"),
        pytest.param({}, {"rid": "req_2"}, True, id="the host gave a response's id again"),
        pytest.param({"kind": SealKind.IDEMPOTENCY}, {"kind": SealKind.IDEMPOTENCY, "rid": "req_2"}, False, id="key of another request"),
        pytest.param({"kind": SealKind.BATCH}, {"kind": SealKind.BATCH, "rid": "req_2"}, False, id="line of another request"),
        pytest.param(
            {"kind": SealKind.IDEMPOTENCY, "until": ms(NOW)}, {"kind": SealKind.IDEMPOTENCY, "rid": "req_2"}, True, id="its time is over"
        ),
    ],
)
def test_which_seal_stays(case, known, new, gives_way):
    """The first seal of an exchange stays, and the first of a key, until its time is over; an open one gives way to its own end."""
    before, after = seal(**known), seal(**({"kind": known.get("kind", SealKind.RESPONSE)} | new))
    case.store.keep([before]).result(30)
    assert case.store.keep([after]).result(30) == (None if gives_way else before)
    assert case.peer.kept("acme", before.kind, "resp_1", NOW - timedelta(hours=1)) == (after if gives_way else before)


def test_of_many_that_seal_at_once_one_wins(case):
    """Two workers find a background response ended at the same moment: all are told the same seal."""
    case.store.keep([seal(token=None)]).result(30)
    offers = [seal(token=f"t.{number}.x") for number in range(16)]
    told: list[KeptSeal | None] = []

    def offer(mine: KeptSeal, store: SealStore) -> None:
        told.append(store.keep([mine]).result(30) or mine)

    threads = [threading.Thread(target=offer, args=(each, store)) for each in offers for store in (case.store, case.peer)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = case.peer.kept("acme", SealKind.RESPONSE, "resp_1", NOW)
    assert {each.token for each in told} == {winner.token}


def test_what_is_over_is_not_found_and_is_purged(case):
    """A seal is found until its time is over, to the millisecond; a purge then deletes it, and nothing else."""
    case.store.keep([seal(key=key, until=ms(NOW) + span) for key, span in (("a", 1), ("b", 0), ("c", -1))]).result(30)
    assert [key for key in "abc" if case.peer.kept("acme", SealKind.RESPONSE, key, NOW)] == ["a"]
    assert case.store.purge_kept(NOW) == 2
    assert [each.key for each in case.peer.kept_of("acme")] == ["a"]
    assert case.store.purge_kept(NOW) == 0


def test_an_account_sees_what_is_kept_of_it(case):
    """All kinds, by kind and key; of one kind, those whose key begins so."""
    for kind, key in ((SealKind.BATCH, "b1:2"), (SealKind.BATCH, "b1:1"), (SealKind.BATCH, "b2:1"), (SealKind.REQUEST, "b1:1")):
        case.store.keep([seal(kind=kind, key=key)]).result(30)
    case.store.keep([seal(account_id="other", kind=SealKind.BATCH, key="b1:3")]).result(30)
    found = [(each.kind, each.key) for each in case.peer.kept_of("acme")]
    assert found == [("batch", "b1:1"), ("batch", "b1:2"), ("batch", "b2:1"), ("request", "b1:1")]
    assert [each.key for each in case.peer.kept_of("acme", SealKind.BATCH, "b1:")] == ["b1:1", "b1:2"]
    assert case.peer.kept_of("nobody") == ()


def test_erasure_forgets_the_seals(case, record):
    """An erased account has no seals any more; the record stays, and the seals of others do."""
    case.store.keep([seal()], record("req_1", account_id="acme")).result(30)
    case.store.keep([seal(account_id="other")]).result(30)
    assert case.store.erase_account(ISSUER, "acme") == 1
    assert case.peer.kept("acme", SealKind.RESPONSE, "resp_1", NOW) is None
    assert case.peer.by_request_id(ISSUER, "req_1") is not None
    assert [each.account_id for each in case.peer.kept_of("other")] == ["other"]


def test_a_purge_of_records_leaves_the_seals(case, record):
    """A seal outlives its record where it is kept for longer."""
    case.store.keep([seal()], record("req_1", account_id="acme", started=0)).result(30)
    assert case.store.purge(NOW, {"exchange": 1}) == 1
    assert case.peer.kept("acme", SealKind.RESPONSE, "resp_1", NOW) == seal()


@pytest.mark.parametrize(
    "seals",
    [
        pytest.param([], id="none"),
        pytest.param([seal(), seal(account_id="other")], id="of two accounts"),
        pytest.param([seal(key="")], id="no name"),
        pytest.param([seal(key="k" * 521)], id="a name too long"),
        pytest.param([seal(key="\udc00")], id="a name that cannot be stored"),
        pytest.param([seal(exchange={"model": "\udc00"})], id="content that cannot be stored"),
    ],
)
def test_what_cannot_be_kept_is_our_error(store, seals):
    """The future fails, and nothing else does."""
    with pytest.raises(StoreError):
        store.keep(seals).result(30)
    assert store.kept_of("acme") == ()


def test_keeping_in_a_closed_store_fails(case):
    """Nothing is taken and then lost."""
    case.store.close()
    with pytest.raises(StoreError):
        case.store.keep([seal()]).result(30)


def test_a_seal_does_not_wait_for_others_to_be_committed_with(tmp_path: Path, record: Callable[..., ExchangeRecord]):
    """Whoever keeps one waits for it, also where records that nobody waits for gather first; those before it go along."""
    with SQLiteStore(tmp_path / "g.db", issuer=ISSUER, clock=lambda: NOW, commit_delay=600.0) as store:
        store.append(record("req_0"))
        assert store.keep([seal()], record("req_1")).result(30) is None
        assert store.count_records(ISSUER) == 2


def test_children_of_a_fork_keep_too(tmp_path: Path):
    """A store that was made before the server forked works in every worker."""
    with SQLiteStore(tmp_path / "g.db", issuer=ISSUER, clock=lambda: NOW) as store:
        store.keep([seal("req_0", key="r0")]).result(30)
        children = []
        for number in (1, 2):
            if (child := os.fork()) == 0:
                code = 1
                try:
                    store.keep([seal(f"req_{number}", key=f"r{number}")]).result(30)
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert [each.key for each in store.kept_of("acme")] == ["r0", "r1", "r2"]


def test_a_damaged_row_is_our_error(tmp_path: Path):
    """Whoever changes the file gets an error that says so."""
    with SQLiteStore(tmp_path / "g.db", issuer=ISSUER, clock=lambda: NOW) as store:
        store.keep([seal()]).result(30)
        with closing(sqlite3.connect(tmp_path / "g.records.db")) as connection, connection:
            connection.execute("UPDATE kept_seal SET document = ?", (b'{"kind":"none"}',))
        with pytest.raises(StoreError):
            store.kept("acme", SealKind.RESPONSE, "resp_1", NOW)
