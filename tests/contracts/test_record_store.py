"""The contract of `RecordStore`, over every implementation of ours."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.ledger import RecordType
from tos_guard.protocols import RecordStore

ISSUER = "https://api.example"
OTHER = "https://other.example"


def test_is_one(store):
    """Every store is a `RecordStore`."""
    assert isinstance(store, RecordStore)


def test_a_record_comes_back_as_it_was(case, record):
    """What `append` acknowledged is found by request id and by token id, unchanged, and by another process too."""
    full = record(
        "r1", account_id="acme", grant="licensed-distillation", jti="j1", kid="k", proj="p", n=2, root="r", completion="complete",
        req="q", carrier="sse", reasons=("tos_clause:a", "shadow:tos_clause:é"),
    )  # fmt: skip
    bare = record("r2", type=RecordType.DENIAL, decision="deny", status=403, unsealed="no_carrier")
    for each in (full, bare):
        assert case.store.append(each).result(30) is None
    for source in (case.store, case.peer):
        assert source.by_request_id(ISSUER, "r1") == full
        assert source.by_token_id(ISSUER, "j1") == full
        assert source.by_request_id(ISSUER, "r2") == bare
        assert source.count_records(ISSUER) == 2


def test_unknown_is_none(store, record):
    """Nothing is found under another id or another issuer."""
    store.append(record("r1", jti="j1", account_id="acme")).result(30)
    assert store.by_request_id(ISSUER, "r2") is None
    assert store.by_request_id(OTHER, "r1") is None
    assert store.by_token_id(ISSUER, "j2") is None
    assert store.by_token_id(OTHER, "j1") is None
    assert store.of_account(OTHER, "acme") == ()
    assert store.of_account(ISSUER, "nobody") == ()


def test_a_request_id_is_stored_once(store, record):
    """A retry is acknowledged, and the first record stays; the same id of another issuer is another record."""
    first = record("r1", status=200)
    futures = [store.append(each) for each in (first, record("r1", status=500), record("r1", issuer=OTHER, status=404))]
    for future in futures:
        future.result(30)
    assert store.by_request_id(ISSUER, "r1") == first
    assert store.by_request_id(OTHER, "r1").status == 404
    assert store.count_records(ISSUER) == 1


def test_of_account_is_oldest_first(case, record):
    """An account's records come in the order of their start."""
    for rid, started in (("late", 3000), ("early", 1000), ("middle", 2000)):
        case.store.append(record(rid, started=started, account_id="acme"))
    case.store.append(record("else", account_id="other"))
    case.store.flush()
    assert [each.rid for each in case.peer.of_account(ISSUER, "acme")] == ["early", "middle", "late"]


def test_the_newest_record_is_the_one_that_started_last(case, record):
    """Of whatever type, in whatever order they came; none of another issuer."""
    assert case.peer.newest_record_at(ISSUER) is None
    case.store.append(record("late", started=3_500, type=RecordType.DENIAL, decision="deny", status=403))
    case.store.append(record("early", started=1_000))
    case.store.append(record("else", started=9_000, issuer=OTHER))
    case.store.flush()
    assert case.peer.newest_record_at(ISSUER) == datetime.fromtimestamp(3.5, UTC)


def test_erasure_unlinks_and_keeps_the_records(case, record):
    """After erasure nothing leads from the account to its records, and the records still prove their tokens."""
    for rid in ("r1", "r2", "r3"):
        case.store.append(record(rid, jti=f"j-{rid}", account_id="acme"))
    case.store.append(record("r4", account_id="other"))
    assert case.store.erase_account(ISSUER, "acme") == 3
    assert case.store.erase_account(ISSUER, "acme") == 0
    for source in (case.store, case.peer):
        assert source.of_account(ISSUER, "acme") == ()
        assert source.by_token_id(ISSUER, "j-r2") == record("r2", jti="j-r2", account_id=None)
        assert [each.rid for each in source.of_account(ISSUER, "other")] == ["r4"]


def test_erasure_is_by_issuer(store, record):
    """An account of the same name at another issuer keeps its records."""
    store.append(record("r1", account_id="acme"))
    store.append(record("r1", issuer=OTHER, account_id="acme")).result(30)
    assert store.erase_account(ISSUER, "acme") == 1
    assert len(store.of_account(OTHER, "acme")) == 1


def test_an_account_may_come_back_after_erasure(store, record):
    """Records made after an erasure are linked; those from before stay unlinked, even when appended again."""
    store.append(record("r1", account_id="acme")).result(30)
    store.erase_account(ISSUER, "acme")
    store.append(record("r1", account_id="acme"))
    store.append(record("r2", account_id="acme")).result(30)
    assert [each.rid for each in store.of_account(ISSUER, "acme")] == ["r2"]


def test_retention_is_by_type(store, record):
    """Each type is kept for its own time; one that is not named is kept."""
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    for days in (1, 10, 100):
        started = int((now - timedelta(days=days)).timestamp() * 1000)
        store.append(record(f"e{days}", started=started, account_id="acme"))
        store.append(record(f"d{days}", started=started, type=RecordType.DENIAL))
        store.count_denial("tos_unauthenticated", now - timedelta(days=days))
    store.flush()
    assert store.purge(now, {"exchange": 50}) == 1
    assert store.purge(now, {"exchange": 50, "denial": 5, "denial_count": 5}) == 4
    assert [store.by_request_id(ISSUER, rid) is not None for rid in ("e1", "e10", "e100", "d1", "d10", "d100")] == [
        True, True, False, True, False, False,
    ]  # fmt: skip
    assert [count for _, _, count in store.denial_counts(ISSUER)] == [1]
    assert [each.rid for each in store.of_account(ISSUER, "acme")] == ["e10", "e1"]


def test_retention_ends_to_the_millisecond(store, record):
    """A record as old as its type allows is kept, one a millisecond older is not; counts go by whole hours."""
    now = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
    edge = int((now - timedelta(days=3)).timestamp() * 1000)
    store.append(record("kept", started=edge))
    store.append(record("gone", started=edge - 1))
    for hours in (72, 73):
        store.count_denial("tos_unauthenticated", now - timedelta(hours=hours))
    store.flush()
    assert store.purge(now, {"exchange": 3, "denial_count": 3}) == 2
    assert store.by_request_id(ISSUER, "kept") is not None
    assert [hour for hour, _, _ in store.denial_counts(ISSUER)] == [datetime(2026, 11, 19, 12, tzinfo=UTC)]


def test_a_large_purge_ends(store, record):
    """More records than one commit deletes are deleted all the same."""
    for number in range(4_100):
        store.append(record(f"r{number}", started=number, account_id="acme"))
    store.flush()
    assert store.purge(datetime(2026, 11, 22, tzinfo=UTC), {"exchange": 1}) == 4_100
    assert store.count_records(ISSUER) == 0
    assert store.of_account(ISSUER, "acme") == ()


@pytest.mark.parametrize("retention", [{"prompts": 3}, {"exchange": -1}])
def test_retention_that_means_nothing_is_refused(store, record, retention):
    """A mistyped type never deletes, and never passes for having deleted."""
    store.append(record("r1", started=1)).result(30)
    with pytest.raises(ConfigurationError):
        store.purge(datetime(2026, 11, 22, tzinfo=UTC), retention)
    assert store.count_records(ISSUER) == 1


def test_denials_are_counted_by_hour_and_code(case):
    """Unauthenticated denials become one number per hour and code."""
    noon = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    for minutes in (0, 59, 60):
        case.store.count_denial("tos_unauthenticated", noon + timedelta(minutes=minutes))
    case.store.count_denial("tos_malformed_request", noon)
    case.store.flush()
    case.store.count_denial("tos_unauthenticated", noon)
    case.store.flush()
    expected = [
        (noon, "tos_malformed_request", 1),
        (noon, "tos_unauthenticated", 3),
        (noon + timedelta(hours=1), "tos_unauthenticated", 1),
    ]
    assert list(case.peer.denial_counts(ISSUER)) == expected
    assert not case.peer.denial_counts(OTHER)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "\ud800"},
        {"account_id": "\udfff"},
        {"started": 2**63},
        {"rid": "\ud800"},
        {"rid": "a\0b"},
        {"jti": "a\0b"},
        {"account_id": "a\0b"},
    ],
)
def test_a_record_that_cannot_be_stored_fails_alone(store, record, fields):
    """Hostile text in a record fails its own future with our error, and nobody else's."""
    good = store.append(record("good"))
    bad = store.append(record(**({"rid": "bad"} | fields)))
    later = store.append(record("later"))
    with pytest.raises(StoreError):
        bad.result(30)
    good.result(30)
    later.result(30)


def test_a_caller_who_leaves_takes_nothing_along(store, record):
    """A future cannot be cancelled: the record is stored whoever waits for it."""
    future = store.append(record("r1"))
    assert not future.cancel()
    assert future.result(30) is None
    assert store.by_request_id(ISSUER, "r1") is not None


def test_any_thread_may_append(store, record):
    """Records of many threads are all stored, once each."""

    def work(worker: int) -> None:
        for future in [store.append(record(f"{worker}-{n}", account_id=f"a{worker}")) for n in range(100)]:
            future.result(30)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count_records(ISSUER) == 800
    assert len(store.of_account(ISSUER, "a3")) == 100


def test_close_waits_for_what_was_appended(case, record):
    """`close` leaves nothing behind, may be called twice, and later appends fail with our error."""
    futures = [case.store.append(record(f"r{n}")) for n in range(200)]
    case.store.close()
    case.store.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(StoreError):
        case.store.append(record("late")).result(30)
    assert case.peer.count_records(ISSUER) == 200
