"""Proofs that were used, over the processes of a fleet: each passes exactly once, whatever happens to the engine that remembers them."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dpop_kit import Holder
from engines import Valkey, running
from provisioned import ISSUER, Provider
from proxies import Proxy
from serving import ServeProcess
from tos_guard.errors import StoreError
from tos_guard.rights import Binding, KeyTerms, hash_secret, new_api_key
from tos_guard.stores import ValkeyReplays

Told = Callable[[str, object], None]

CHAT = "/v1/chat/completions"
REQUEST = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello?"}]}
KEEP = timedelta(minutes=2)
PROOFS = 25

PROCESS = """
import sys
from datetime import UTC, datetime, timedelta
from tos_guard.errors import StoreError
from tos_guard.stores import ValkeyReplays
url, domain, made, proofs, tries = sys.argv[1:]
cache = ValkeyReplays(url, domain=domain, clock=lambda: datetime.now(UTC), clocks_apart=timedelta(0))
print("ready", flush=True)
sys.stdin.readline()
made, keep = datetime.fromtimestamp(float(made), UTC), timedelta(minutes=2)
said = {"first": 0, "used": 0, "forgotten": 0, "failed": 0}
def tell(word):
    print(word, flush=True)
    sys.stdin.readline()
def once():
    for proof in range(int(proofs)):
        try:
            said[cache.use(bytes([proof]) * 32, made_after=made, keep=keep)] += 1
        except StoreError:
            said["failed"] += 1
if tries == "until it fails":
    once()
    print("tried", flush=True)
    while not said["failed"]:
        once()
    tell("down")
    tries = 4
for _ in range(int(tries)):
    once()
print(*said.values(), flush=True)
"""


@pytest.fixture
def domain() -> str:
    return f"test-{secrets.token_hex(6)}"


def utc_now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def processes(url: str, domain: str, made: float, tries: int | str) -> Iterator[list[subprocess.Popen[str]]]:
    """Four that stand at the line."""
    command = [sys.executable, "-c", PROCESS, url, domain, str(made), str(PROOFS), str(tries)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for process in started:
            assert line(process) == "ready"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(started: list[subprocess.Popen[str]]) -> None:
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def total(started: list[subprocess.Popen[str]]) -> dict[str, int]:
    """What all of them were told together."""
    told = [list(map(int, line(process).split())) for process in started]
    return dict(zip(("first", "used", "forgotten", "failed"), map(sum, zip(*told, strict=True)), strict=True))


def begin(url: str, domain: str) -> None:
    """Let the state begin before any of the proofs was made."""
    with opened(url, domain) as cache:
        assert cache.use(b"0" * 32, made_after=utc_now(), keep=KEEP) == "forgotten"


@contextmanager
def opened(url: str, domain: str, **options: Any) -> Iterator[ValkeyReplays]:
    given = {"clock": utc_now, "clocks_apart": timedelta(0), "deadline": timedelta(seconds=5)} | options
    cache = ValkeyReplays(url, domain=domain, **given)
    try:
        yield cache
    finally:
        cache.close()


def test_a_hundred_replays_over_four_processes_pass_once(valkey: str, domain: str, record_property: Told) -> None:
    """25 proofs, each tried 25 times by each of four processes at once."""
    begin(valkey, domain)
    with processes(valkey, domain, time.time() + 1, 25) as started:
        go(started)
        told = total(started)
    record_property("counts", f"{PROOFS} proofs, each 100 times over 4 processes: {told}")
    assert told == {"first": PROOFS, "used": 99 * PROOFS, "forgotten": 0, "failed": 0}


@pytest.mark.parametrize("persist", [None, "everysec", "always"])
def test_no_proof_passes_twice_when_the_engine_is_killed_in_between(domain: str, persist: str | None, record_property: Told) -> None:
    """``kill -9`` while four processes try 25 proofs over and over, and started again: what it has kept or not, none passes twice."""
    with running(lambda folder: Valkey(folder, persist=persist)) as engine:
        begin(engine.url, domain)
        with processes(engine.url, domain, time.time() + 1, "until it fails") as started:
            go(started)
            for process in started:
                assert line(process) == "tried"
            engine.kill()
            for process in started:
                assert line(process) == "down"
            engine.start()
            go(started)
            told = total(started)
        with opened(engine.url, domain) as cache:
            use = secrets.token_bytes(32)
            after = [cache.use(use, made_after=utc_now() + timedelta(seconds=1), keep=KEEP) for _ in range(2)]
    record_property("counts", f"{PROOFS} proofs over and over in 4 processes, Valkey (persistence: {persist}) killed and restarted: {told}")
    assert told["first"] == PROOFS
    assert told["failed"] >= 4, "nobody noticed that it was gone"
    assert told["used" if persist == "always" else "forgotten"] > 0 or persist == "everysec"
    assert after == ["first", "used"]


def test_an_engine_that_has_kept_its_script_is_noticed_all_the_same(domain: str, record_property: Told) -> None:
    """Emptied; or a replica meanwhile, whose primary let a proof pass that it never heard of. Another domain brought the script."""
    with (
        running(Valkey) as primary,
        running(lambda folder: Valkey(folder, replica_of=primary.port)) as replica,
        opened(primary.url, domain) as cache,
    ):
        assert cache.use(b"0" * 32, made_after=utc_now(), keep=KEEP) == "forgotten"
        made = utc_now() + timedelta(milliseconds=1)
        assert cache.use(b"1" * 32, made_after=made + timedelta(seconds=1), keep=KEEP) == "first"
        said = {"another answer of the same engine": cache.use(b"1" * 32, made_after=made, keep=KEEP)}
        with primary.client() as client:
            client.flushall()
        said["emptied"] = cache.use(b"1" * 32, made_after=made, keep=KEEP)
        with replica.client() as client:
            deadline = time.monotonic() + 20
            while client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < deadline
            client.replicaof("no", "one")
        made = utc_now() + timedelta(seconds=1)
        assert cache.use(b"2" * 32, made_after=made + timedelta(seconds=1), keep=KEEP) == "first", "the primary lives on"
        with opened(replica.url, f"{domain}-b") as other:
            other.use(b"3" * 32, made_after=made, keep=KEEP)
        with opened(replica.url, domain) as promoted:
            said["promoted"] = promoted.use(b"2" * 32, made_after=utc_now(), keep=KEEP)
    record_property("counts", f"a proof that was used: {said}")
    assert said == {"another answer of the same engine": "used", "emptied": "forgotten", "promoted": "forgotten"}


def test_who_comes_from_another_engine_brings_its_doubt_along(domain: str) -> None:
    """A primary lived on beside its successor, and let a proof pass: it does not pass again where its process asks from then on."""
    with running(Valkey) as old, running(Valkey) as new, Proxy(old.port) as proxy:
        with opened(new.url, domain) as begun:
            assert begun.use(b"0" * 32, made_after=utc_now(), keep=KEEP) == "forgotten"
        with opened(f"redis://127.0.0.1:{proxy.port}/0", domain) as moving:
            assert moving.use(b"0" * 32, made_after=utc_now(), keep=KEEP) == "forgotten"
            made = utc_now() + timedelta(milliseconds=1)
            while moving.use(secrets.token_bytes(32), made_after=utc_now(), keep=KEEP) != "first":
                assert utc_now() < made + timedelta(seconds=20)
            used = utc_now()
            assert moving.use(b"1" * 32, made_after=used, keep=KEEP) == "first"
            proxy.target = new.port
            proxy.drop()
            with suppress(StoreError):  # where it notices only by asking that it was cut off
                assert moving.use(b"1" * 32, made_after=used, keep=KEEP) == "forgotten"
            assert moving.use(b"1" * 32, made_after=used, keep=KEEP) == "forgotten"


def test_the_clocks_of_a_fleet_may_differ(valkey: str, domain: str) -> None:
    """The process that let a proof pass before a loss was a little ahead of who asks first after it: for a second all are refused."""
    ahead = timedelta(milliseconds=900)
    with opened(valkey, domain, clocks_apart=timedelta(seconds=1)) as cache:
        assert cache.use(b"0" * 32, made_after=utc_now(), keep=KEEP) == "forgotten"
        assert cache.use(b"1" * 32, made_after=utc_now() + ahead - timedelta(milliseconds=100), keep=KEEP) == "forgotten"
    with opened(valkey, f"{domain}-b", clock=lambda: utc_now() + timedelta(seconds=30)) as cache:
        assert cache.use(b"0" * 32, made_after=utc_now() + timedelta(seconds=29), keep=KEEP) == "forgotten", (
            "who asks is ahead of the engine"
        )


def test_an_engine_that_may_forget_without_a_word_is_refused(domain: str) -> None:
    with running(Valkey) as engine, opened(engine.url, domain) as cache:
        with engine.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreError, match="without a word"):
            cache.use(b"1" * 32, made_after=utc_now(), keep=KEEP)


SETTINGS = """
[dpop]
leeway_seconds = 0
shared_by = "{}"
"""


@dataclass
class Fleet:
    """Four workers of a guarded app, and a key that is bound to a holder's."""

    client: httpx.Client
    key: str
    holder: Holder

    def proof(self) -> str:
        return self.holder.proof(self.key, uri=ISSUER + CHAT, now=time.time())

    def present(self, proof: str) -> httpx.Response:
        """One request on a connection of its own, so that any worker may get it."""
        headers = {"authorization": f"DPoP {self.key}", "dpop": proof}
        return self.client.post(CHAT, json=REQUEST, headers=headers)

    def wait(self) -> None:
        """Until a fresh proof passes: what was before the state began is forgotten."""
        deadline = time.monotonic() + 30
        while (said := self.present(self.proof())).status_code != 200:
            assert said.status_code in (401, 503), said.text
            assert time.monotonic() < deadline, said.headers

    def replay(self, proof: str, times: int) -> tuple[Counter[int], set[str]]:
        """So many at once: statuses, and which workers answered."""
        with ThreadPoolExecutor(times) as threads:
            answers = list(threads.map(self.present, [proof] * times))
        return Counter(answer.status_code for answer in answers), {answer.headers["x-worker"] for answer in answers}


@contextmanager
def fleet(tmp_path: Path, serve_process: ServeProcess, shared_by: str, more: str = "") -> Iterator[Fleet]:
    provider = Provider(tmp_path, records="async")
    provider.settings.write_text(provider.settings.read_text() + SETTINGS.format(shared_by) + more)
    holder, key = Holder(), new_api_key(secrets.token_bytes)
    with provider.store() as store:
        bound = KeyTerms(binding=Binding(jkt=holder.thumbprint))
        store.add_api_key("good", key.public_id, hash_secret(key.secret, store.pepper()), terms=bound)
    served = serve_process("fleet_app:app", app_dir=Path("tests"), factory=True, workers=4, env=provider.environment())
    limits = httpx.Limits(max_keepalive_connections=0)
    with served as process, httpx.Client(base_url=process.base_url, limits=limits, timeout=60) as client:
        yield Fleet(client, key.text, holder)


@pytest.mark.parametrize("shared_by", ["host", "fleet"])
def test_a_hundred_replays_over_four_workers_of_an_app_pass_once(
    tmp_path: Path, serve_process: ServeProcess, valkey: str, domain: str, shared_by: str, record_property: Told
) -> None:
    """An API key that is bound to a key of its holder (RFC 9449), at a real server: of 100 requests with one proof one is served."""
    more = f'[valkey]\nurl = "{valkey}"\ndomain = "{domain}"\ndeadline_ms = 5000\n' if shared_by == "fleet" else ""
    with fleet(tmp_path, serve_process, shared_by, more) as at:
        at.wait()
        rounds = [at.replay(at.proof(), 100) for _ in range(2)]
    workers = set().union(*(answered for _, answered in rounds))
    record_property(
        "counts", f"{shared_by}: 2 proofs, each 100 times at once over {len(workers)} workers: {[dict(said) for said, _ in rounds]}"
    )
    assert [dict(said) for said, _ in rounds] == [{200: 1, 401: 99}] * 2
    assert len(workers) == 4


def test_no_proof_is_served_twice_when_the_engine_is_killed_in_between(
    tmp_path: Path, serve_process: ServeProcess, domain: str, record_property: Told
) -> None:
    """Served, Valkey killed and restarted, and the same proof sent again a hundred times: 401 or, while it is down, 503."""
    with running(Valkey) as engine:
        more = f'[valkey]\nurl = "{engine.url}"\ndomain = "{domain}"\ndeadline_ms = 5000\n'
        with fleet(tmp_path, serve_process, "fleet", more) as at:
            at.wait()
            proof = at.proof()
            before, _ = at.replay(proof, 1)
            engine.kill()
            down, _ = at.replay(proof, 20)
            engine.start()
            again, _ = at.replay(proof, 100)
            at.wait()
            last, _ = at.replay(proof, 20)
    record_property("counts", f"before: {dict(before)}; down: {dict(down)}; restarted: {dict(again)}; and later: {dict(last)}")
    assert (dict(before), dict(down), dict(last)) == ({200: 1}, {503: 20}, {401: 20})
    assert set(again) <= {401, 503}
