"""Workers die in the middle of everything; what clients hold stays provable (DESIGN §10)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from provisioned import Provider, now
from serving import ServeProcess
from tos_guard.errors import VerificationError
from tos_guard.provenance import parse_token
from tos_guard.types import Standing
from tos_guard.verify import verify_body, verify_stream

KILLS = 50
CLIENTS = 4


@dataclass
class Load:
    """Clients that ask until they are told to stop, and keep every final token they got."""

    base_url: str
    key: str
    provider: Provider
    stopping: threading.Event = field(default_factory=threading.Event)
    progressed: threading.Condition = field(default_factory=threading.Condition)
    tokens: list[str] = field(default_factory=list)
    broken: int = 0

    def run(self, stream: bool) -> None:
        """Ask, as one client."""
        trust = self.provider.trust()
        number = 0
        with httpx.Client(base_url=self.base_url, headers={"authorization": f"Bearer {self.key}"}, timeout=30) as client:
            while not self.stopping.is_set():
                number += 1
                body = {"model": "smollm2-135m", "stream": stream, "messages": [{"role": "user", "content": f"hello {number} [[words 8]]"}]}
                try:
                    response = client.post("/v1/chat/completions", json=body)
                    given = {"trust": trust, "now": now(), "token": response.headers.get("ai-provenance")}
                    verified = verify_stream(response.content, **given) if stream else verify_body(response.content, **given)
                except (httpx.HTTPError, VerificationError):
                    self.broken += 1
                    continue
                with self.progressed:
                    self.tokens.append(verified.token)
                    self.progressed.notify_all()

    def wait_for_tokens(self, count: int) -> None:
        """Wait until so many more tokens have arrived."""
        with self.progressed:
            wanted = len(self.tokens) + count
            assert self.progressed.wait_for(lambda: len(self.tokens) >= wanted, timeout=60), "the load stands still"


def test_every_final_token_that_a_client_holds_has_its_record(
    tmp_path: Path, serve_process: ServeProcess, record_property: Callable[[str, object], None]
) -> None:
    """50 × SIGKILL of a worker under load: no token without its record, and the record says what the token says."""
    provider = Provider(tmp_path)
    served = serve_process(
        "provider_fastapi.guarded:guarded", app_dir=Path("examples"), factory=True, workers=2, env=provider.environment()
    )
    with served as process:
        load = Load(process.base_url, provider.keys["good"], provider)
        threads = [threading.Thread(target=load.run, args=(bool(number % 2),)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(KILLS):
                load.wait_for_tokens(10)
                process.kill_worker()
        finally:
            load.stopping.set()
            for thread in threads:
                thread.join()
    with provider.store() as store:
        records = {token: store.by_token_id(provider.issuer, parse_token(token).jws.payload["jti"]) for token in load.tokens}
        kept = store.count_records(provider.issuer)
    missing = [token for token, record in records.items() if record is None]
    for token, record in records.items():
        claims = parse_token(token).jws.payload
        assert record is not None
        assert (record.rid, record.root, record.sub) == (claims["rid"], claims["content"]["root"], claims["sub"])
    counts = f"{len(load.tokens)} final tokens held, {kept} records kept, {load.broken} answers cut, {len(missing)} records missing"
    record_property("counts", f"{KILLS} workers killed under load: {counts}")
    assert len(load.tokens) >= KILLS * 10
    assert missing == []


def test_a_suspension_holds_in_the_other_workers_within_a_second(
    tmp_path: Path, serve_process: ServeProcess, record_property: Callable[[str, object], None]
) -> None:
    """Suspended and reinstated from another process, again and again: each worker obeys within a second."""
    provider = Provider(tmp_path)
    served = serve_process(
        "provider_fastapi.guarded:guarded", app_dir=Path("examples"), factory=True, workers=2, env=provider.environment()
    )
    delays: list[float] = []
    with served as process, provider.store() as store:
        # One connection a worker: kept open, so that each stays with its worker.
        clients = [httpx.Client(base_url=process.base_url, headers={"authorization": f"Bearer {provider.keys['good']}"}) for _ in range(8)]
        try:
            for turn in range(20):
                standing, status = (Standing.SUSPENDED, 403) if turn % 2 == 0 else (Standing.GOOD, 200)
                store.set_standing("good", standing, "test")
                changed = now()
                for client in clients:
                    while (answer := client.get("/v1/models")).status_code != status:
                        assert (now() - changed).total_seconds() < 1.0, f"a worker still answers {answer.status_code}"
                delays.append((now() - changed).total_seconds())
                if status == 403:
                    assert json.loads(answer.content)["code"] == "tos_account_suspended"
        finally:
            for client in clients:
                client.close()
    middle, slowest = sorted(delays)[len(delays) // 2] * 1000, max(delays) * 1000
    record_property("counts", f"standing obeyed by all workers after {middle:.0f} ms (median), {slowest:.0f} ms at most")
