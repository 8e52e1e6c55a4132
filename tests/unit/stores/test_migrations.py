"""Files of earlier releases: each opens under this one, with everything that it holds.

The statements of a release stand here as it had them. They are its memory: where the store's differ, files that are out there would no
longer be what a migration expects.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from sample_records import sample_record
from tos_guard.ledger import KeptSeal, SealKind
from tos_guard.rights import Account, Grant
from tos_guard.stores import AccountChange, SQLiteStore, StoredTerms
from tos_guard.stores._records import RECORDS_SCHEMA
from tos_guard.stores._schema import ACCOUNTS_SCHEMA
from tos_guard.types import Standing

ISSUER = "https://api.example"
HASH = b"\x01" * 32
START = datetime(2026, 11, 1, 12, tzinfo=UTC)

RELEASE_0_1 = (
    "CREATE TABLE issuer (issuer TEXT PRIMARY KEY, version INTEGER NOT NULL, pepper BLOB NOT NULL)",
    """CREATE TABLE account (
        issuer TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, document TEXT NOT NULL,
        PRIMARY KEY (issuer, id)) WITHOUT ROWID""",
    """CREATE TABLE api_key (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        public_id TEXT NOT NULL,
        account_id TEXT NOT NULL,
        secret_hash BLOB NOT NULL,
        label TEXT NOT NULL,
        created INTEGER NOT NULL,
        revoked INTEGER,
        UNIQUE (issuer, public_id),
        FOREIGN KEY (issuer, account_id) REFERENCES account (issuer, id))""",
    "CREATE INDEX api_key_account ON api_key (issuer, account_id)",
    """CREATE TABLE account_change (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        account_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        at INTEGER NOT NULL,
        what TEXT NOT NULL,
        detail TEXT NOT NULL,
        reason TEXT NOT NULL,
        FOREIGN KEY (issuer, account_id) REFERENCES account (issuer, id))""",
    "CREATE INDEX account_change_account ON account_change (issuer, account_id)",
    """CREATE TABLE terms (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        version TEXT NOT NULL,
        uri TEXT NOT NULL,
        effective TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        document BLOB NOT NULL,
        text TEXT NOT NULL,
        published INTEGER NOT NULL,
        UNIQUE (issuer, version))""",
    """CREATE TABLE public_key (
        number INTEGER PRIMARY KEY, issuer TEXT NOT NULL, kid TEXT NOT NULL, document TEXT NOT NULL,
        UNIQUE (issuer, kid))""",
)

RECORDS_0_1 = (
    """CREATE TABLE record (
        id INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        rid TEXT NOT NULL,
        jti TEXT,
        type TEXT NOT NULL,
        started INTEGER NOT NULL,
        document BLOB NOT NULL,
        UNIQUE (issuer, rid))""",
    "CREATE INDEX record_token ON record (issuer, jti) WHERE jti IS NOT NULL",
    "CREATE INDEX record_age ON record (issuer, type, started)",
    "CREATE TABLE account (id INTEGER PRIMARY KEY, issuer TEXT NOT NULL, account_id TEXT NOT NULL, UNIQUE (issuer, account_id))",
    "CREATE TABLE subject (record INTEGER PRIMARY KEY, account INTEGER NOT NULL)",
    "CREATE INDEX subject_account ON subject (account)",
    """CREATE TABLE denial_count (
        issuer TEXT NOT NULL, hour INTEGER NOT NULL, code TEXT NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (issuer, hour, code)) WITHOUT ROWID""",
)

ACME = (
    '{"id": "acme", "version": 3, "kind": "organization", "organization": "acme-corp", "standing": "warned", "models": ["small"], '
    '"actions": ["generate"], "grants": [{"id": "g1", "type": "licensed-distillation", "models": ["small"], "actions": [], '
    '"not_before": null, "not_after": "2027-01-01T00:00:00Z", "reason": "contract 7"}], "region": "FR", "verification": "email", '
    '"stable_sub": true}'
)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def at(hours: int) -> datetime:
    return START + timedelta(hours=hours)


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """The accounts as release 0.1 left them: added, granted something, warned; a key that came later, and one that is revoked."""
    path = tmp_path / "guard.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    for statement in RELEASE_0_1:
        connection.execute(statement)
    connection.execute("INSERT INTO issuer VALUES (?, 9, ?)", (ISSUER, b"p" * 32))
    connection.execute("INSERT INTO account VALUES (?, 'acme', 3, ?)", (ISSUER, ACME))
    for version, hours, what, detail, reason in (
        (1, 0, "added", "", ""),
        (2, 1, "grant_added", "g1", ""),
        (3, 2, "standing", "warned", "scraping"),
        (3, 3, "key_added", "aaaaaaaaaaaa", ""),
    ):
        connection.execute(
            "INSERT INTO account_change (issuer, account_id, version, at, what, detail, reason) VALUES (?, 'acme', ?, ?, ?, ?, ?)",
            (ISSUER, version, ms(at(hours)), what, detail, reason),
        )
    for public_id, revoked in (("aaaaaaaaaaaa", None), ("bbbbbbbbbbbb", ms(at(4)))):
        connection.execute(
            "INSERT INTO api_key (issuer, public_id, account_id, secret_hash, label, created, revoked) VALUES (?, ?, 'acme', ?, 'x', ?, ?)",
            (ISSUER, public_id, HASH, ms(at(3)), revoked),
        )
    connection.execute(
        """INSERT INTO terms (issuer, version, uri, effective, sha256, document, text, published)
        VALUES (?, '1', 'u', '2026-11-01', 's', ?, 't', 5)""",
        (ISSUER, b"{}"),
    )
    connection.execute("INSERT INTO public_key (issuer, kid, document) VALUES (?, 'k1', ?)", (ISSUER, json.dumps({"kid": "k1"})))
    connection.execute(f"PRAGMA application_id={0x74676163}")
    connection.execute("PRAGMA user_version=1")
    connection.commit()
    connection.close()
    return path


def test_the_statements_of_a_release_are_as_it_had_them():
    """Whoever changes a released migration is told so."""

    def words(statements):
        return [" ".join(statement.split()) for statement in statements]

    assert words(ACCOUNTS_SCHEMA.migrations[0]) == words(RELEASE_0_1)
    assert words(RECORDS_SCHEMA.migrations[0]) == words(RECORDS_0_1)


def test_a_file_of_0_1_opens_with_all_it_holds(old_file):
    """Accounts, grants, keys, history, terms and the pepper are there, and what is new has its default."""
    licence = Grant(
        id="g1", type="licensed-distillation", models={"small"}, not_after=datetime(2027, 1, 1, tzinfo=UTC), reason="contract 7"
    )
    acme = Account(
        id="acme", version=3, kind="organization", organization="acme-corp", standing=Standing.WARNED, models={"small"}, region="FR",
        verification="email", stable_sub=True, grants=(licence,),
    )  # fmt: skip
    for _ in range(2):
        with SQLiteStore(old_file, issuer=ISSUER, clock=lambda: at(10)) as store:
            assert store.by_id("acme") == store.by_api_key("aaaaaaaaaaaa", HASH) == acme
            assert store.by_api_key("bbbbbbbbbbbb", HASH) is None
            assert [(key.public_id, key.created, key.revoked) for key in store.api_keys("acme")] == [
                ("aaaaaaaaaaaa", at(3), None),
                ("bbbbbbbbbbbb", at(3), at(4)),
            ]
            assert store.history("acme") == (
                AccountChange("acme", 1, at(0), "added"),
                AccountChange("acme", 2, at(1), "grant_added", "g1"),
                AccountChange("acme", 3, at(2), "standing", "warned", "scraping"),
                AccountChange("acme", 3, at(3), "key_added", "aaaaaaaaaaaa"),
            )
            assert store.terms_versions() == (
                StoredTerms("1", "u", date(2026, 11, 1), "s", b"{}", "t", datetime.fromtimestamp(0.005, UTC)),
            )
            assert store.public_keys() == ({"kid": "k1"},)
            assert (store.pepper(), store.version()) == (b"p" * 32, 9)
            # The version in force is kept from the step on that made it; those before it were never kept.
            assert [store.account_version("acme", version) for version in (1, 2, 3)] == [None, None, acme]
            assert [store.account_at("acme", at(hours)) for hours in (0, 1, 2, 3)] == [None, None, acme, acme]


def test_a_file_of_0_1_goes_on(old_file):
    """After the migration every change works as in a new file."""
    with SQLiteStore(old_file, issuer=ISSUER, clock=lambda: at(10)) as store:
        voided = store.void_grant("acme", "g1", "ended", actor="ann")
        assert (voided.version, voided.grants[0].voided) == (4, at(10))
        assert store.history("acme")[-1] == AccountChange("acme", 4, at(10), "grant_voided", "g1", "ended", "ann")
        assert store.account_at("acme", at(9)) == store.account_version("acme", 3) != voided
        assert store.account_at("acme", at(10)) == voided
        store.delete_account("acme")
        assert store.account_version("acme", 3) is None
        assert store.accounts() == ()
    assert all(b"acme" not in file.read_bytes() for file in old_file.parent.iterdir())


def test_records_of_0_1_open_and_seals_are_kept_beside_them(tmp_path):
    """A record of the first release is there under this one, linked to its account, and the account's seals are kept with it."""
    old = sample_record("req_old", issuer=ISSUER, account_id="acme")
    connection = sqlite3.connect(tmp_path / "guard.records.db")
    connection.execute("PRAGMA journal_mode=WAL")
    for statement in RECORDS_0_1:
        connection.execute(statement)
    connection.execute("INSERT INTO record VALUES (7, ?, 'req_old', NULL, 'exchange', ?, ?)", (ISSUER, old.started, old.to_bytes()))
    connection.execute("INSERT INTO account VALUES (3, ?, 'acme')", (ISSUER,))
    connection.execute("INSERT INTO subject VALUES (7, 3)")
    connection.execute(f"PRAGMA application_id={0x74677265}")
    connection.execute("PRAGMA user_version=1")
    connection.commit()
    connection.close()
    names = {"issuer": ISSUER, "account_id": "acme", "kind": SealKind.REQUEST, "key": "req_1", "rid": "req_1"}
    seal = KeptSeal(**names, jti="j", sub="s", req="q", kept=ms(at(1)), until=ms(at(9)), token="a.b.c")
    for _ in range(2):
        with SQLiteStore(tmp_path / "guard.db", issuer=ISSUER, clock=lambda: at(2)) as store:
            assert store.of_account(ISSUER, "acme") == (old,)
            store.keep([seal]).result(30)
            assert store.kept("acme", SealKind.REQUEST, "req_1", at(2)) == seal
    with SQLiteStore(tmp_path / "guard.db", issuer=ISSUER, clock=lambda: at(2)) as store:
        assert store.erase_account(ISSUER, "acme") == 1
    assert all(b"acme" not in file.read_bytes() for file in tmp_path.iterdir())
