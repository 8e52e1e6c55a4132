"""Whatever is done in whatever order, every store of ours answers alike."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from postgres_tables import empty
from sample_records import sample_acceptance as acceptance
from sample_records import sample_withdrawal as withdrawal
from tos_guard.errors import TosGuardError
from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.rights import Account, Grant, Measure, Organization
from tos_guard.stores import MemoryStore, PostgresStore, SQLiteStore, Store
from tos_guard.types import Standing, SubjectKind

ISSUER = "https://api.example"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)

ACCOUNTS = ("acme", "ünïcode' --", "a\x00b")
KEYS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")
HASHES = (bytes(32), b"\x01" * 32, b"short")
ORGANIZATIONS = ("acme-corp", "ünïcode' --")
END_USERS = ("eu_" + "A" * 22, "eu_" + "B" * 22, "else")
SUBJECTS = ((SubjectKind.ACCOUNT, ACCOUNTS[0]), (SubjectKind.ACCOUNT, ACCOUNTS[1]), (SubjectKind.ORGANIZATION, ORGANIZATIONS[0]))
RIDS = ("r0", "r1", "r2", "r3")

ids = st.sampled_from(ACCOUNTS)
organizations = st.sampled_from(ORGANIZATIONS)
names = st.sampled_from(KEYS)
hashes = st.sampled_from(HASHES)
rids = st.sampled_from(RIDS)
days = st.integers(0, 3)


def outcome(ask: Callable[[], Any]) -> Any:
    """What it answers, or which of our errors it raises."""
    try:
        return ask()
    except TosGuardError as error:
        return type(error), error.what


class Stores(RuleBasedStateMachine):
    """Memory is the model; another store, and a second one over the same files or tables, are compared with it after each step."""

    conninfo = ""
    """Of an empty database, for PostgreSQL."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.now = NOW
        self.seconds = 0.0
        self.memory = MemoryStore(issuer=ISSUER, clock=lambda: self.now)
        if self.conninfo:
            empty(self.conninfo)
        self.store, self.peer = (self.opened() for _ in range(2))

    def opened(self) -> Store:
        clock, monotonic = (lambda: self.now), (lambda: self.seconds)
        if self.conninfo:
            return PostgresStore(self.conninfo, issuer=ISSUER, clock=clock, monotonic=monotonic)
        return SQLiteStore(Path(self.folder.name) / "guard.db", issuer=ISSUER, clock=clock, monotonic=monotonic)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.peer.close()
            self.folder.cleanup()

    def change(self, step: Callable[[Store], Any]) -> None:
        expected = outcome(lambda: step(self.memory))
        assert outcome(lambda: step(self.store)) == expected
        self.seconds += 1.0

    def ask(self, question: Callable[[Store], Any]) -> None:
        expected = outcome(lambda: question(self.memory))
        assert outcome(lambda: question(self.store)) == expected
        assert outcome(lambda: question(self.peer)) == expected

    @rule(account_id=ids, models=st.frozensets(st.sampled_from(["small", "large"])), organization=st.none() | organizations)
    def add_account(self, account_id, models, organization):
        self.change(lambda store: store.add_account(Account(id=account_id, models=models, organization=organization)))

    @rule(account_id=ids, version=st.integers(1, 3))
    def put_account(self, account_id, version):
        self.change(lambda store: store.put_account(Account(id=account_id, version=version, region="FR")))

    @rule(account_id=ids, standing=st.sampled_from(list(Standing)))
    def set_standing(self, account_id, standing):
        self.change(lambda store: store.set_standing(account_id, standing, "why"))

    @rule(account_id=ids, grant_id=st.sampled_from(["g1", "g2"]))
    def add_grant(self, account_id, grant_id):
        self.change(lambda store: store.add_grant(account_id, Grant(id=grant_id, type="research", not_after=NOW)))

    @rule(account_id=ids, grant_id=st.sampled_from(["g1", "g2"]))
    def void_grant(self, account_id, grant_id):
        self.change(lambda store: store.void_grant(account_id, grant_id, "why", actor="ann"))

    @rule(account_id=ids, amount=st.none() | st.integers(-1, 2))
    def set_limit(self, account_id, amount):
        self.change(lambda store: store.set_limit(account_id, "tokens", amount, "why", actor="ann"))

    @rule(account_id=ids, end_user=st.sampled_from(END_USERS))
    def block_end_user(self, account_id, end_user):
        self.change(lambda store: store.block_end_user(account_id, end_user, "why"))

    @rule(account_id=ids, end_user=st.sampled_from(END_USERS))
    def unblock_end_user(self, account_id, end_user):
        self.change(lambda store: store.unblock_end_user(account_id, end_user, "why"))

    @rule(account_id=ids, number=st.integers(1, 2), step=st.sampled_from([Standing.WARNED, Standing.SUSPENDED]))
    def take_measure(self, account_id, number, step):
        measure = Measure(id=f"m{number}", step=step, reason="why", begins=self.now)
        self.change(lambda store: store.take_measure(account_id, measure, actor="ann"))

    @rule(account_id=ids, number=st.integers(1, 2))
    def lift_measure(self, account_id, number):
        self.change(lambda store: store.lift_measure(account_id, f"m{number}", "a mistake", actor="bob"))

    @rule(organization_id=organizations)
    def add_organization(self, organization_id):
        self.change(lambda store: store.add_organization(Organization(id=organization_id), actor="ann"))

    @rule(organization_id=organizations, version=st.integers(1, 3))
    def put_organization(self, organization_id, version):
        self.change(lambda store: store.put_organization(Organization(id=organization_id, version=version, name="x"), reason="why"))

    @rule(organization_id=organizations, amount=st.none() | st.integers(-1, 2))
    def set_organization_limit(self, organization_id, amount):
        self.change(lambda store: store.set_organization_limit(organization_id, "tokens", amount, "why"))

    @rule(account_id=ids)
    def delete_account(self, account_id):
        self.change(lambda store: store.delete_account(account_id))

    @rule(account_id=ids, public_id=names, secret_hash=hashes)
    def add_api_key(self, account_id, public_id, secret_hash):
        self.change(lambda store: store.add_api_key(account_id, public_id, secret_hash, label="x"))

    @rule(public_id=names)
    def revoke_api_key(self, public_id):
        self.change(lambda store: store.revoke_api_key(public_id, "why"))

    @rule(number=st.integers(1, 3), subject=st.sampled_from(SUBJECTS))
    def add_acceptance(self, number, subject):
        kind, subject_id = subject
        given = acceptance(number, subject_kind=kind, subject_id=subject_id)
        self.change(lambda store: store.add_acceptance(given, actor=kind))

    @rule(number=st.integers(1, 3), reason=st.sampled_from(["x", "y"]))
    def withdraw_acceptance(self, number, reason):
        self.change(
            lambda store: store.withdraw_acceptance(withdrawal(number, reason=reason, authority="" if reason == "y" else "officer"))
        )

    @rule(public_id=names, secret_hash=hashes)
    def add_admin_key(self, public_id, secret_hash):
        self.change(lambda store: store.add_admin_key("ann", public_id, secret_hash, actor="cli"))

    @rule(public_id=names)
    def revoke_admin_key(self, public_id):
        self.change(lambda store: store.revoke_admin_key(public_id, actor="bob"))

    @rule(rid=rids, account_id=st.none() | ids, age=days, kind=st.sampled_from(list(RecordType)))
    def append(self, rid, account_id, age, kind):
        started = int((self.now - timedelta(days=age)).timestamp() * 1000)
        record = ExchangeRecord(
            type=kind, issuer=ISSUER, rid=rid, sub="s", started=started, finished=started, status=200, action="a", model="m", purpose="p",
            decision="allow", reasons=("x",), terms_version="1", terms_sha256="t", usage_sha256="u", jti=f"j-{rid}", account_id=account_id,
        )  # fmt: skip
        self.change(lambda store: store.append(replace(record)).result(60))

    @rule(account_id=ids)
    def erase_account(self, account_id):
        self.change(lambda store: store.erase_account(ISSUER, account_id))

    @rule(retention=st.dictionaries(st.sampled_from(["exchange", "denial", "denial_count", "else"]), days))
    def purge(self, retention):
        self.change(lambda store: store.purge(self.now, retention))

    @rule(code=st.sampled_from(["x", "y"]), age=days)
    def count_denial(self, code, age):
        self.change(lambda store: (store.count_denial(code, self.now - timedelta(days=age)), store.flush()))

    @rule(hours=st.integers(1, 30))
    def time_passes(self, hours):
        self.now += timedelta(hours=hours)

    @invariant()
    def all_answers_are_alike(self):
        for account_id in ACCOUNTS:
            self.ask(lambda store, a=account_id: store.by_id(a))
            self.ask(lambda store, a=account_id: store.api_keys(a))
            self.ask(lambda store, a=account_id: store.holder_by_id(a))
            self.ask(lambda store, a=account_id: store.rights_of(Account(id=a, organization=ORGANIZATIONS[0])))
            self.ask(lambda store, a=account_id: store.history(a))
            for number in (1, 2, 3):
                self.ask(lambda store, a=account_id, n=number: store.account_version(a, n))
            for moment in (self.now, self.now - timedelta(hours=1)):
                self.ask(lambda store, a=account_id, m=moment: store.account_at(a, m))
                self.ask(lambda store, a=account_id, m=moment: store.rights_at(Account(id=a, organization=ORGANIZATIONS[0]), m))
            self.ask(lambda store, a=account_id: sorted(record.rid for record in store.of_account(ISSUER, a)))
            self.ask(lambda store, a=account_id: [record.started for record in store.of_account(ISSUER, a)])
        for organization_id in ORGANIZATIONS:
            self.ask(lambda store, o=organization_id: store.organization(o))
            self.ask(lambda store, o=organization_id: store.organization_history(o))
            self.ask(lambda store, o=organization_id: store.organization_at(o, self.now - timedelta(hours=1)))
        for kind, subject_id in SUBJECTS:
            self.ask(lambda store, k=kind, s=subject_id: store.acceptances(k, s))
        for number in (1, 2, 3):
            self.ask(lambda store, n=number: store.acceptance_recorded_by(acceptance(n).id))
        for after in ("", *ACCOUNTS):
            self.ask(lambda store, a=after: [account.id for account in store.accounts(after=a, limit=2)])
            self.ask(lambda store, a=after: [organization.id for organization in store.organizations(after=a, limit=1)])
        self.ask(lambda store: store.admin_keys())
        for rid in RIDS:
            self.ask(lambda store, r=rid: store.by_request_id(ISSUER, r))
            self.ask(lambda store, r=rid: store.by_token_id(ISSUER, f"j-{r}"))
        for public_id in KEYS:
            for secret_hash in HASHES:
                self.ask(lambda store, k=public_id, h=secret_hash: store.holder_by_api_key(k, h))
                self.ask(lambda store, k=public_id, h=secret_hash: store.admin_by_key(k, h))
        self.ask(lambda store: sorted(account.id for account in store.accounts()))
        self.ask(lambda store: store.count_records(ISSUER))
        self.ask(lambda store: store.newest_record_at(ISSUER))
        self.ask(lambda store: list(store.denial_counts(ISSUER)))


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def test_memory_and_sqlite_agree():
    """Whatever happens to them."""
    steps = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(Stores, settings=steps)


def test_memory_and_postgres_agree(database):
    """Whatever happens to them; in fewer steps, since each is asked a hundred questions over the network."""

    class OverPostgres(Stores):
        conninfo = database

    steps = settings(max_examples=5, stateful_step_count=12, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(OverPostgres, settings=steps)
