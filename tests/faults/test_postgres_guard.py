"""A provider whose PostgreSQL server is stopped or paused under traffic: answers are those of the named failure mode, and none is late."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engines import Postgres, running
from provisioned import Provider, now
from serving import Serve
from tos_guard.errors import StoreError
from tos_guard.rights import hash_secret, new_api_key
from tos_guard.stores import PostgresStore
from tos_guard.types import Standing
from tos_guard_fastapi import TosGuard

CHAT = "/v1/chat/completions"
QUESTION = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello?"}]}
LONGEST_SECONDS = 6.0
"""A deadline of 0.5 s for each of a request's few calls, and the two seconds that psycopg waits for a new connection."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Postgres]:
    with running(Postgres) as engine:
        yield engine


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.post(CHAT)
    async def chat() -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}]}

    return app


def provider(folder: Path, engine: Postgres, failure: str) -> tuple[Path, str, PostgresStore]:
    """The settings of a provider over a new database, a key of its account ``good``, and its store."""
    made = Provider(folder)
    address = f"postgresql://postgres@127.0.0.1:{engine.port}/{engine.database().partition('dbname=')[2].split()[0]}"
    settings = made.settings.read_text().replace('store = "tos-guard.db"', f'store = "{address}"')
    made.settings.write_text(f"{settings}\n[postgres]\ndeadline_ms = 500\n[failure]\n{failure}\n")
    store = PostgresStore(address, issuer=made.issuer, clock=now)
    with made.store() as files:
        for account in files.accounts():
            store.add_account(account)
    key = new_api_key(lambda size: b"\x07" * size)
    store.add_api_key("good", key.public_id, hash_secret(key.secret, store.pepper()))
    return made.settings, key.text, store


@pytest.mark.parametrize("fault", ["stop", "pause"])
@pytest.mark.parametrize(("mode", "expected"), [("deny", 503), ("local", 200)])
def test_answers_are_those_of_the_named_mode(
    tmp_path: Path, engine: Postgres, serve: Serve, fault: str, mode: str, expected: int, record_property: Callable[[str, object], None]
) -> None:
    """While the server is away: 503 by `deny`, what was last read by `local`; afterwards all is as before, and a suspension holds."""
    settings, key, store = provider(tmp_path, engine, f'accounts = "{mode}"\nrecords = "allow"')
    app = fastapi_app()
    TosGuard.from_file(settings).install(app)
    seen: Counter[int] = Counter()
    longest = 0.0
    with store, serve(app) as base_url:

        def ask() -> int:
            nonlocal longest
            began = time.monotonic()
            status = httpx.post(base_url + CHAT, json=QUESTION, headers={"x-api-key": key}, timeout=30).status_code
            longest = max(longest, time.monotonic() - began)
            return status

        assert ask() == 200
        getattr(engine, fault)()
        try:
            time.sleep(0.6)  # the time for which an answer of the server holds
            for _ in range(12):
                seen[ask()] += 1
        finally:
            engine.start() if fault == "stop" else engine.resume()
        until = time.monotonic() + 20
        while ask() != 200:
            assert time.monotonic() < until
        while True:
            try:
                store.set_standing("good", Standing.SUSPENDED, "x")
            except StoreError:
                assert time.monotonic() < until
                time.sleep(0.05)
            else:
                break
        suspended = time.monotonic()
        while ask() == 200:
            assert time.monotonic() < suspended + 1.0
    assert seen == {expected: 12}
    assert longest < LONGEST_SECONDS
    record_property("counts", f"{fault}, {mode}: {dict(seen)}, the longest took {longest:.2f} s")
