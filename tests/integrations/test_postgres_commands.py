"""A provider on PostgreSQL: `init --store`, the other commands, the doctor, and a guard that serves from it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from engines import free_port, new_database
from provisioned import Provider
from sample_records import sample_acceptance, sample_record
from serving import Serve
from tos_guard.cli._app import app
from tos_guard.stores import PostgresStore, Store
from tos_guard.types import Standing
from tos_guard_fastapi import TosGuard

ISSUER = "https://api.example.com"
CHAT = "/v1/chat/completions"
QUESTION = {"model": "small", "messages": [{"role": "user", "content": "Hello?"}]}


@pytest.fixture
def folder(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the address of an empty database in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOS_GUARD_CONFIG", raising=False)
    monkeypatch.setenv("GUARD_DB", uri(new_database(postgres)))
    return tmp_path


def uri(conninfo: str) -> str:
    """The address in the form of a URI."""
    members = conninfo_to_dict(conninfo)
    return f"postgresql://{members['user']}@{members['host']}:{members['port']}/{members['dbname']}"


def call(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_provider_lives_in_a_database(folder: Path, serve: Serve) -> None:
    """From `init` to a sealed answer: no store file appears; accounts, records and terms are asked of the database by every command."""
    assert call("init", "--issuer", ISSUER, "--store", "env:GUARD_DB")[0] == 0
    assert 'store = "env:GUARD_DB"' in (folder / "tos-guard.toml").read_text()
    assert call("accounts", "add", "acme", "--model", "small", "--action", "generate")[0] == 0
    key = json.loads(call("accounts", "key", "acme", "--json")[1])["key"]
    host = FastAPI()

    @host.post(CHAT)
    async def chat() -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}]}

    guard = TosGuard.from_file(folder / "tos-guard.toml")
    guard.install(host)
    with serve(host) as base_url:
        answer = httpx.post(base_url + CHAT, json=QUESTION, headers={"x-api-key": key})
        assert (answer.status_code, "ai_provenance" in answer.json()) == (200, True), answer.text
        assert call("accounts", "suspend", "acme", "--reason", "test")[0] == 0
        refused = httpx.post(base_url + CHAT, json=QUESTION, headers={"x-api-key": key})
        assert refused.status_code == 403
    assert json.loads(call("records", "show", answer.headers["x-request-id"], "--json")[1])["account"] == "acme"
    assert not list(folder.glob("*.db"))


def test_the_doctor_looks_into_the_database_and_makes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database without a store, one with a store, a server that is not there, a variable that is not set."""
    empty = uri(new_database(os.environ["GUARD_DB"]))
    assert call("init", "--issuer", ISSUER, "--store", "env:GUARD_DB")[0] == 0
    found = json.loads(call("doctor", "--json")[1])["checks"]
    assert "store-server" in {check["code"] for check in found if check["level"] == "ok"}
    for _ in range(2):
        monkeypatch.setenv("GUARD_DB", empty)
        assert codes(call("doctor", "--json")[1]) == {"store-missing"}
    monkeypatch.setenv("GUARD_DB", f"postgresql://guard:s3cret@127.0.0.1:{free_port()}/x")
    out = call("doctor", "--json")[1]
    assert codes(out) == {"store"}
    assert "s3cret" not in out
    monkeypatch.delenv("GUARD_DB")
    assert codes(call("doctor", "--json")[1]) == {"store"}


def codes(out: str) -> set[str]:
    """Codes of the problems."""
    return {check["code"] for check in json.loads(out)["checks"] if check["level"] == "problem"}


def test_a_provider_moves_into_the_database(folder: Path) -> None:
    """Everything of the file is in the database under its numbers, and goes on there; a database that holds a store is left alone."""
    provider = Provider(folder, issuer=ISSUER)
    with provider.store() as files:
        files.set_standing("good", Standing.WARNED, "x")
        files.add_acceptance(sample_acceptance(1, issuer=ISSUER, subject_id="good"))
        files.put_public_key({"kid": "k1"})
        for number in range(3):
            files.append(sample_record(f"r{number}", issuer=ISSUER, account_id="good")).result(30)
        before = state(files)
    code, _, said = call("store", "copy", "tos-guard.db")
    assert (code, "not a database" in said) == (2, True)
    provider.settings.write_text(provider.settings.read_text().replace('store = "tos-guard.db"', 'store = "env:GUARD_DB"'))
    code, out, said = call("store", "copy", "tos-guard.db", "--json")
    assert code == 0, said
    rows = json.loads(out)["rows"]
    assert (rows["tos_guard.account"], rows["tos_guard_records.record"], rows["tos_guard.acceptance"]) == (4, 3, 1)
    with PostgresStore(os.environ["GUARD_DB"], issuer=ISSUER, clock=lambda: datetime.now(UTC)) as server:
        assert state(server) == before
        server.add_api_key("good", "aaaaaaaaaaaa", bytes(range(32)))
        server.append(sample_record("r3", issuer=ISSUER, account_id="good")).result(30)
        assert [record.rid for record in server.of_account(ISSUER, "good")] == ["r0", "r1", "r2", "r3"]
        changed = state(server)
    code, _, said = call("store", "copy", "tos-guard.db")
    assert (code, "there are rows" in said) == (2, True)
    with PostgresStore(os.environ["GUARD_DB"], issuer=ISSUER, clock=lambda: datetime.now(UTC)) as server:
        assert state(server) == changed


def state(store: Store) -> list[Any]:
    """What a store holds."""
    accounts = store.accounts()
    return [
        store.version(), store.pepper(), accounts, [store.history(account.id) for account in accounts],
        [store.api_keys(account.id) for account in accounts], [store.holder_by_id(account.id) for account in accounts],
        store.public_keys(), store.terms_versions(), [store.of_account(ISSUER, account.id) for account in accounts],
    ]  # fmt: skip
