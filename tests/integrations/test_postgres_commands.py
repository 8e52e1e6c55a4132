"""A provider on PostgreSQL: `init --store`, the other commands, the doctor, and a guard that serves from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from engines import free_port, new_database
from serving import Serve
from tos_guard.cli._app import app
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
