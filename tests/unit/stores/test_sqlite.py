"""What is particular to the SQLite store: how little a look-up reads, erasure down to the bytes, forks, several issuers in one file."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sample_records import sample_acceptance, sample_withdrawal
from tos_guard._canonical import sha256_b64url
from tos_guard.errors import StoreError
from tos_guard.rights import Account, Holder, Organization
from tos_guard.stores import SQLiteStore
from tos_guard.types import Standing, SubjectKind

ISSUER = "https://api.example"
OTHER = "https://other.example"
HASH = b"\x01" * 32


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def open_store(path: Path, issuer: str = ISSUER, **options) -> SQLiteStore:
    return SQLiteStore(path, issuer=issuer, clock=lambda: datetime(2026, 11, 22, tzinfo=UTC), **options)


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def store(tmp_path, seconds):
    with open_store(tmp_path / "guard.db", monotonic=seconds) as store:
        yield store


def statements(store: SQLiteStore) -> list[str]:
    """What the reading connection of the accounts is asked from now on."""
    asked: list[str] = []
    with store._accounts.read() as connection:
        connection.set_trace_callback(asked.append)
    return asked


def account(account_id: str = "acme", **fields) -> Account:
    return Account(id=account_id, models=frozenset({"small"}), **fields)


def test_a_request_reads_nothing(store, seconds):
    """Within 50 ms a known key costs no statement at all; after it, one that asks whether anything has changed."""
    store.add_organization(Organization(id="acme-corp"))
    store.add_account(account(organization="acme-corp"))
    store.add_api_key("acme", "aaaaaaaaaaaa", HASH)
    theirs = account("theirs", organization="acme-corp")
    seconds.now += 1
    store.by_api_key("aaaaaaaaaaaa", HASH)
    store.by_api_key("bbbbbbbbbbbb", HASH)
    store.rights_of(theirs)
    asked = statements(store)
    for _ in range(10):
        holder = store.holder_by_api_key("aaaaaaaaaaaa", HASH)
        assert holder is store.rights_of(holder.account)
        assert store.by_api_key("aaaaaaaaaaaa", HASH) is holder.account
        assert store.by_api_key("bbbbbbbbbbbb", HASH) is None
        assert store.rights_of(theirs).organization is holder.organization
    assert asked == []
    seconds.now += 0.05
    store.by_api_key("aaaaaaaaaaaa", HASH)
    assert asked == ["PRAGMA data_version"]


def test_a_change_elsewhere_shows_after_50_ms_and_reads_only_what_changed(store, seconds, tmp_path):
    """Another process changes one account: it is read and parsed anew, and the others keep their value."""
    store.add_account(account())
    store.add_account(account("calm"))
    seconds.now += 1
    acme, calm = store.by_id("acme"), store.by_id("calm")
    with open_store(tmp_path / "guard.db") as elsewhere:
        elsewhere.set_standing("acme", Standing.SUSPENDED, "test")
    seconds.now += 0.049
    assert store.by_id("acme") is acme
    seconds.now += 0.002
    assert store.by_id("acme").standing is Standing.SUSPENDED
    assert store.by_id("calm") is calm


def test_nobody_waits_for_an_answer_that_is_fresh_enough(store, seconds, tmp_path):
    """While one thread asks, the others go on with what is known for half a second, and wait for the answer after that."""

    class Taken:
        """The lock as it is while another thread asks; whoever waits for it gets it."""

        def acquire(self, blocking: bool = True) -> bool:
            return blocking

        def release(self) -> None:
            pass

    store.add_account(account())
    seconds.now += 1
    before = store.version()
    with open_store(tmp_path / "guard.db") as elsewhere:
        elsewhere.set_standing("acme", Standing.SUSPENDED, "test")
    store._hearing._polling = Taken()
    seconds.now += 0.4
    assert store.version() == before
    seconds.now += 0.2
    assert store.version() != before


def test_a_look_up_searches_for_what_is_the_accounts_own(store, seconds):
    """However many accounts, organizations and acceptances there are, no statement of a look-up goes through all of them."""
    store.add_organization(Organization(id="acme-corp"))
    store.add_account(account(organization="acme-corp"))
    store.add_api_key("acme", "aaaaaaaaaaaa", HASH)
    store.add_acceptance(sample_acceptance(1))
    store.add_acceptance(sample_acceptance(2, subject_kind=SubjectKind.ORGANIZATION, subject_id="acme-corp"))
    store.withdraw_acceptance(sample_withdrawal(1))
    asked = statements(store)
    assert len(store.holder_by_api_key("aaaaaaaaaaaa", HASH).acceptances) == 2
    store.rights_at(store.by_id("acme"), datetime(2026, 11, 22, tzinfo=UTC))
    with store._accounts.read() as connection:
        for statement in [statement for statement in asked if statement.startswith("SELECT")]:
            steps = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not [step for step in steps if "SCAN" in step], statement
            if "subject_kind" in statement:
                assert any("subject_kind=? AND subject_id=?" in step for step in steps), steps


def test_records_are_no_change_of_rights(store, seconds, record):
    """Records go to a file of their own, so the accounts are not looked at again after each."""
    store.add_account(account())
    seconds.now += 1
    store.by_id("acme")
    asked = statements(store)
    store.append(record("r1", account_id="acme")).result(30)
    seconds.now += 1
    store.by_id("acme")
    assert asked == ["PRAGMA data_version"]


def test_inventing_ids_pushes_nobody_out(store, seconds, monkeypatch):
    """A flood of unknown keys takes its own room in memory, and not that of the known."""
    store.add_account(account())
    store.add_api_key("acme", "aaaaaaaaaaaa", HASH)
    store.by_api_key("aaaaaaaaaaaa", HASH)
    for number in range(21_000):
        store._unknown["key", f"x{number}"] = store._find("key", "bbbbbbbbbbbb")
    assert len(store._unknown) == 20_000
    asked = statements(store)
    assert store.by_api_key("aaaaaaaaaaaa", HASH) is not None
    assert asked == []


def test_an_engine_that_fails_is_said_each_time(store, seconds, monkeypatch):
    """While the file cannot be read, `version` raises; it never passes off an old number as a new one."""
    store.add_account(account())
    seconds.now += 1
    assert store.by_id("acme") is not None

    def fail(**_: object) -> None:
        raise StoreError("disk")

    with monkeypatch.context() as patch:
        store._accounts.before_fork()
        store._accounts.after_fork_in_parent()
        patch.setattr(store._accounts, "_open", fail)
        seconds.now += 1
        for _ in range(3):
            with pytest.raises(StoreError):
                store.version()
            with pytest.raises(StoreError):
                store.by_id("acme")
            with pytest.raises(StoreError):
                store.rights_of(account())
            with pytest.raises(StoreError):
                store.acceptance(sample_acceptance().id)
    assert store.by_id("acme") is not None


def test_issuers_share_a_file_and_nothing_else(tmp_path, record):
    """Two issuers in one file: same ids, different accounts, keys, peppers, versions and records."""
    with open_store(tmp_path / "guard.db") as one, open_store(tmp_path / "guard.db", OTHER) as two:
        one.add_account(account())
        one.add_api_key("acme", "aaaaaaaaaaaa", HASH)
        one.put_public_key({"kid": "k1"})
        one.count_denial("code", datetime(2026, 11, 22, tzinfo=UTC))
        one.flush()
        assert one.pepper() != two.pepper()
        assert two.by_id("acme") is None
        assert two.by_api_key("aaaaaaaaaaaa", HASH) is None
        one.add_organization(Organization(id="acme-corp"))
        one.add_acceptance(sample_acceptance(subject_id="theirs"))
        one.add_admin_key("ann", "aaaaaaaaaaaa", HASH)
        one.put_usage_policy(sha256_b64url(b"{}"), b"{}")
        assert two.accounts() == two.public_keys() == two.denial_counts(OTHER) == two.organizations() == two.admin_keys() == ()
        assert two.admin_by_key("aaaaaaaaaaaa", HASH) is two.usage_policy(sha256_b64url(b"{}")) is two.account_version("acme", 1) is None
        assert two.rights_of(account("theirs", organization="acme-corp")) == Holder(account("theirs", organization="acme-corp"))
        assert two.acceptances(SubjectKind.ACCOUNT, "theirs") == ()
        two.add_account(account(region="FR"))
        two.add_api_key("acme", "aaaaaaaaaaaa", HASH)
        assert one.by_id("acme").region is None
        one.append(record("r1", account_id="acme")).result(30)
        two.append(record("r1", issuer=OTHER, account_id="acme")).result(30)
        two.purge(datetime(2030, 1, 1, tzinfo=UTC), {"exchange": 1, "denial_count": 1})
        assert one.count_records(ISSUER) == 1
        assert one.count_records(OTHER) == 0
        assert len(one.denial_counts(ISSUER)) == 1


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(60)), size=st.integers(1, 400))
def test_erasure_leaves_no_byte_of_the_id(tmp_path_factory, record, order, size):
    """After erasure and deletion no file holds the account's id, whatever rows lay around it, and the others are all there."""
    folder = tmp_path_factory.mktemp("erasure")
    names = [f"customer-{number:03}-{'x' * (size * number % 90)}" for number in order]
    gone = names[: len(names) // 2]
    with open_store(folder / "guard.db") as store:
        for name in names:
            store.add_account(account(name)) if size % 2 else store.append(record(f"a-{name}", sub="s", account_id=name))
            for number in range(3):
                store.append(record(f"r-{order[0]}-{names.index(name)}-{number}", sub="s", account_id=name))
        store.flush()
        if not size % 2:
            store.purge(datetime(2030, 1, 1, tzinfo=UTC), {"exchange": 1})
            names, gone = [], names
        for name in gone:
            store.erase_account(ISSUER, name)
            if size % 2:
                store.delete_account(name)
        for file in folder.iterdir():
            data = file.read_bytes()
            assert not [name for name in gone if name.encode() in data], file.name
        assert all(len(store.of_account(ISSUER, name)) == 3 for name in names if name not in gone)
        assert store.count_records(ISSUER) == 3 * len(names)


@pytest.mark.parametrize("seed", [24, 34])
def test_erasure_reaches_the_unused_part_of_shared_pages(tmp_path, record, seed):
    """Pages that were split keep copies of rows that moved, and SQLite does not clear them: found with these names."""
    chance = random.Random(seed)
    names = [f"customer-{chance.getrandbits(40):010x}-{'x' * chance.randrange(5, 200)}" for _ in range(chance.randrange(30, 300))]
    with open_store(tmp_path / "guard.db", "i") as store:
        for number, name in enumerate(names):
            store.append(record(str(number), issuer="i", account_id=name))
        chance.shuffle(names)
        gone = names[: chance.randrange(1, len(names) // 2)]
        for name in gone:
            assert store.erase_account("i", name) == 1
        data = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert not [name for name in gone if name.encode() in data]


FORK = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.rights import Account, Organization
from tos_guard.stores import SQLiteStore
from tos_guard.types import Standing

ISSUER = "https://api.example"
path = Path(sys.argv[1])
store = SQLiteStore(path, issuer=ISSUER, clock=lambda: datetime.now(UTC), monotonic=iter(range(10**9)).__next__)

def append(prefix, count):
    return [store.append(ExchangeRecord(
        type=RecordType.EXCHANGE, issuer=ISSUER, rid=f"{prefix}-{number}", sub="s", started=number, finished=number, status=200, action="a",
        model="m", purpose="p", decision="allow", reasons=(), terms_version="1", terms_sha256="t", usage_sha256="u", account_id="acme",
    )) for number in range(count)]

store.add_organization(Organization(id="acme-corp"))
store.add_account(Account(id="acme", organization="acme-corp"))
store.by_id("acme")
pending = append("parent", 500)  # the writer is at work while the process forks
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert store.by_id("acme") is not None
            for future in append(f"child{child}", 300):
                future.result(60)
            store.set_standing("acme", Standing.WARNED, f"child {child}")
            store.set_organization_limit("acme-corp", "tokens", child)
            assert store.rights_of(store.by_id("acme")).organization.version > 1
            store.close()
            status = 0
        finally:
            os._exit(status)
    children.append(pid)
    pending += append(f"parent-after-{child}", 100)
for future in pending:
    future.result(60)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
assert store.by_id("acme").standing is Standing.WARNED
assert store.count_records(ISSUER) == 500 + 4 * 100 + 4 * 300, store.count_records(ISSUER)
assert store.by_id("acme").version == store.holder_by_id("acme").organization.version == 5
assert [store.account_version("acme", number).version for number in range(1, 6)] == [1, 2, 3, 4, 5]
store.close()
"""


def test_a_store_survives_forks(tmp_path):
    """A server that forks while it writes: parent and children go on, each record is there once, changes show in the parent."""
    run = subprocess.run([sys.executable, "-c", FORK, str(tmp_path / "guard.db")], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr


PARENT_CLOSES = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.stores import SQLiteStore

ISSUER = "https://api.example"
path = Path(sys.argv[1])
store = SQLiteStore(path, issuer=ISSUER, clock=lambda: datetime.now(UTC))

def append(rid):
    store.append(ExchangeRecord(
        type=RecordType.EXCHANGE, issuer=ISSUER, rid=rid, sub="s", started=1, finished=1, status=200, action="a", model="m", purpose="p",
        decision="allow", reasons=(), terms_version="1", terms_sha256="t", usage_sha256="u",
    )).result(60)

append("before")
ready, closed = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    status = 1
    try:
        append("child-1")
        os.write(ready[1], b"x")
        os.read(closed[0], 1)
        append("child-2")  # into the log that the parent may have deleted when it closed
        status = 0
    finally:
        os._exit(status)
os.read(ready[0], 1)
store.close()
os.write(closed[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
with SQLiteStore(path, issuer=ISSUER, clock=lambda: datetime.now(UTC)) as again:
    assert again.count_records(ISSUER) == 3, again.count_records(ISSUER)
"""


def test_a_parent_that_closes_takes_nothing_from_its_children(tmp_path):
    """The master of a pre-fork server closes its store; what its workers acknowledge afterwards is kept."""
    command = [sys.executable, "-c", PARENT_CLOSES, str(tmp_path / "guard.db")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr


def test_a_process_that_forgets_to_close_keeps_everything(tmp_path):
    """At the end of a process, what was appended and counted is written."""
    script = FORK.split("store.add_account")[0] + "append('r', 300)\nstore.count_denial('code', datetime(2026, 11, 22, tzinfo=UTC))\n"
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(tmp_path / "guard.db")], timeout=120, check=True)
    with open_store(tmp_path / "guard.db") as store:
        assert store.count_records(ISSUER) == 300
        assert store.denial_counts(ISSUER)[0][1:] == ("code", 1)


def test_a_damaged_row_is_our_error(store, record):
    """A row that was tampered with is named as such."""
    store.append(record("r1")).result(30)
    for document in (b"{", b"{}", b'{"type": "strange", "reasons": []}', b"[]", b"\xff"):
        with store._records.write() as connection:
            connection.execute("UPDATE record SET document = ?", (document,))
        with pytest.raises(StoreError, match="cannot be read"):
            store.by_request_id(ISSUER, "r1")
    store.add_account(account())
    with store._accounts.write() as connection:
        connection.execute("UPDATE account SET document = '{}'")
    store.add_organization(Organization(id="acme-corp"))
    store.add_acceptance(sample_acceptance(subject_id="lost"))
    with store._accounts.write() as connection:
        connection.execute("UPDATE organization SET document = '[]'")
        connection.execute('UPDATE acceptance SET document = \'{"at": "noon"}\'')
    for ask in (
        lambda: store.accounts(),
        lambda: store.by_id("acme"),
        lambda: store.organizations(),
        lambda: store.rights_of(account("theirs", organization="acme-corp")),
        lambda: store.rights_of(account("lost")),
        lambda: store.acceptance(sample_acceptance().id),
    ):
        with pytest.raises(StoreError, match="cannot be read"):
            ask()
