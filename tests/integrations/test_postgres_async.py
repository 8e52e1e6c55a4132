"""The second colour of the PostgreSQL store: the answers of the first, its caches, and an `AsyncGuard` that takes no thread for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from psycopg.conninfo import conninfo_to_dict

from engines import Postgres, new_database, running
from provisioned import Provider
from sample_records import sample_acceptance
from serving import Serve
from tos_guard._canonical import sha256_b64url
from tos_guard.errors import StoreError
from tos_guard.ledger import KeptSeal, SealKind
from tos_guard.protocols import AsyncAccountSource
from tos_guard.rights import Account, Organization, hash_secret, new_api_key
from tos_guard.stores import PostgresStore
from tos_guard.types import Standing
from tos_guard_fastapi import TosGuard

ISSUER = "https://api.example"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HASH = b"\x01" * 32
CHAT = "/v1/chat/completions"
QUESTION = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello?"}]}


@pytest.fixture
def store(postgres: str) -> Iterator[PostgresStore]:
    with PostgresStore(new_database(postgres), issuer=ISSUER, clock=lambda: NOW) as store:
        store.add_organization(Organization(id="acme-corp"))
        store.add_account(Account(id="acme", models=frozenset({"small"}), organization="acme-corp"))
        store.add_api_key("acme", "aaaaaaaaaaaa", HASH)
        store.add_acceptance(sample_acceptance(1))
        yield store


async def test_both_colours_answer_alike(store: PostgresStore) -> None:
    """By key, by id and for an account of the host's; unknown ids and wrong secrets; the very same holder, whoever read it first."""
    ask = store.awaitable
    assert isinstance(ask, AsyncAccountSource)
    holder = await ask.holder_by_api_key("aaaaaaaaaaaa", HASH)
    assert holder is not None
    assert holder.organization == store.organization("acme-corp")
    assert len(holder.acceptances) == 1
    assert holder is await ask.holder_by_id("acme") is store.holder_by_id("acme") is await ask.rights_of(holder.account)
    assert await ask.keyed_holder("aaaaaaaaaaaa", HASH) == store.keyed_holder("aaaaaaaaaaaa", HASH)
    assert await ask.by_id("acme") is await ask.by_api_key("aaaaaaaaaaaa", HASH) is holder.account
    for public_id, secret in (("aaaaaaaaaaaa", b"\x02" * 32), ("bbbbbbbbbbbb", HASH), ("\ud800", HASH), ("a\0", HASH)):
        assert await ask.by_api_key(public_id, secret) is None
    assert await ask.by_id("nobody") is None
    theirs = Account(id="theirs", organization="acme-corp")
    assert await ask.rights_of(theirs) == store.rights_of(theirs)
    await ask.put_usage_policy(sha256_b64url(b"{}"), b"{}")
    assert await ask.usage_policy(sha256_b64url(b"{}")) == store.usage_policy(sha256_b64url(b"{}")) == b"{}"
    assert await ask.usage_policy("else") is None
    assert list(await ask.terms_versions()) == list(store.terms_versions())


async def test_a_kept_seal_is_found_by_both(store: PostgresStore) -> None:
    names = {"issuer": ISSUER, "account_id": "acme", "kind": SealKind.REQUEST, "key": "req_1", "rid": "req_1"}
    ends = int((NOW + timedelta(days=1)).timestamp() * 1000)
    seal = KeptSeal(**names, jti="j", sub="s", req="q", kept=ends - 1, until=ends, token="a.b.c")
    await asyncio.wrap_future(store.keep([seal]))
    assert await store.awaitable.kept("acme", SealKind.REQUEST, "req_1", NOW) == seal
    assert await store.awaitable.kept("acme", SealKind.REQUEST, "req_1", NOW + timedelta(days=2)) is None


async def test_a_change_is_heard_by_both(store: PostgresStore) -> None:
    """What an event loop has found holds until the store changes, and no longer."""
    assert (await store.awaitable.by_id("acme")).standing is Standing.GOOD
    await asyncio.to_thread(store.set_standing, "acme", Standing.SUSPENDED, "x")
    assert (await store.awaitable.by_id("acme")).standing is Standing.SUSPENDED


async def test_many_ask_at_once_over_few_connections(store: PostgresStore) -> None:
    """They wait for one another, and all are answered."""
    found = await asyncio.gather(*(store.awaitable.by_id(f"nobody-{number}") for number in range(200)), store.awaitable.by_id("acme"))
    assert [account.id for account in found if account is not None] == ["acme"]


async def test_one_who_leaves_takes_no_connection_along(store: PostgresStore) -> None:
    """Look-ups are cancelled at whatever point they are; as many connections as before are there."""
    for _ in range(3):
        tasks = [asyncio.create_task(store.awaitable.by_id(f"gone-{number}")) for number in range(32)]
        await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await asyncio.wait_for(store.awaitable.by_id("acme"), 10) is not None


def test_each_event_loop_has_its_own_connections(store: PostgresStore) -> None:
    """One after the other, and two at once."""
    for _ in range(2):
        assert asyncio.run(store.awaitable.by_id("acme")) is not None
        store._known.clear()
    met = threading.Barrier(2)

    async def ask() -> None:
        met.wait(10)
        for number in range(20):
            assert await store.awaitable.by_id(f"nobody-{threading.get_ident()}-{number}") is None

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


async def test_a_silent_server_holds_up_no_event_loop() -> None:
    """Look-ups fail by their deadline, and meanwhile the loop goes on."""
    with (
        running(Postgres) as engine,
        PostgresStore(engine.database(), issuer=ISSUER, clock=lambda: NOW, deadline=0.5) as store,
    ):
        assert await store.awaitable.by_id("acme") is None
        engine.pause()
        try:
            await asyncio.sleep(0.6)
            longest, last, ended = 0.0, time.monotonic(), asyncio.Event()

            async def watch() -> None:
                nonlocal longest, last
                while not ended.is_set():
                    await asyncio.sleep(0.005)
                    longest, last = max(longest, time.monotonic() - last), time.monotonic()

            watching = asyncio.create_task(watch())
            for _ in range(3):
                with pytest.raises(StoreError):
                    await store.awaitable.by_id("acme")
            leaving = asyncio.create_task(store.awaitable._store._accounts_tables.look(store._ask_terms_versions()))
            await asyncio.sleep(0.05)
            leaving.cancel()
            began = time.monotonic()
            await asyncio.gather(leaving, return_exceptions=True)
            assert time.monotonic() - began < 1.0
            ended.set()
            await watching
            assert longest < 0.3
        finally:
            engine.resume()


def test_an_async_guard_takes_no_thread_for_it(tmp_path: Path, postgres: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts, terms, policies and kept seals are asked on the event loop; suspension is heard; answers are sealed."""
    monkeypatch.setenv("GUARD_DB", conninfo_uri(new_database(postgres)))
    provider = Provider(tmp_path)
    provider.settings.write_text(
        provider.settings.read_text()
        .replace('store = "tos-guard.db"', 'store = "env:GUARD_DB"')
        .replace('"openai-chat"', '{ dialect = "openai-chat", idempotent = true }')
    )
    app = FastAPI()

    @app.post(CHAT)
    async def chat() -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}]}

    adapter = TosGuard.from_file(provider.settings)
    adapter.install(app)
    store = adapter.guard.store
    assert isinstance(store, PostgresStore)
    with provider.store() as files:
        for account in files.accounts():
            store.add_account(account)
    made = new_api_key(lambda size: b"\x07" * size)
    store.add_api_key("good", made.public_id, hash_secret(made.secret, store.pepper()))
    asked: list[str] = []
    for name in ("keyed_holder", "holder_by_id", "terms_versions", "kept", "usage_policy"):
        original = getattr(store, name)
        monkeypatch.setattr(store, name, lambda *arguments, n=name, o=original: (asked.append(n), o(*arguments))[1])
    with serve(app) as base_url:
        for number in range(2):
            answer = httpx.post(base_url + CHAT, json=QUESTION, headers={"x-api-key": made.text, "idempotency-key": f"key-{number}"})
            assert (answer.status_code, "ai_provenance" in answer.json()) == (200, True), answer.text
        assert set(asked) <= {"usage_policy"}  # where a new policy is kept, by a thread, once
        store.set_standing("good", Standing.SUSPENDED, "x")
        assert httpx.post(base_url + CHAT, json=QUESTION, headers={"x-api-key": made.text}).status_code == 403


def conninfo_uri(conninfo: str) -> str:
    members = conninfo_to_dict(conninfo)
    return f"postgresql://{members['user']}@{members['host']}:{members['port']}/{members['dbname']}"
