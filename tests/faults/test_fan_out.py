"""Changes made by one process, and four others that serve: each obeys within a second; who cannot hear refuses, or goes by its mode.

Correctness is a matter of order: no answer to a request that was sent a second after a change goes by what was before it, and no process
goes back. How long it took is printed. The second is the promise; a machine that did not let anybody run meanwhile is allowed for by what
a process of its own, which does nothing but look at the clock, has found it to stand still at most.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict

from engines import new_database
from proxies import Proxy
from serving import ServedProcess, ServeProcess
from tos_guard.rights import Account, Grant, hash_secret, new_api_key
from tos_guard.stores import KeyFolder, PostgresStore, SQLiteStore, Store, load_terms
from tos_guard.types import Standing

ISSUER = "https://api.example.com"
SERVERS = 4
BOUND = 1.0
"""What is promised."""

ROUNDS = 8
STALE_SECONDS = 4
DEADLINE_MS = 500
HOLDS = 0.5
"""How long what was heard holds: a process that was stopped for longer asks before it answers."""

BACK_SECONDS = 0.001 * DEADLINE_MS + 1 + 2
"""How long after the way is healed a process may take to hear: its last question, the pause after it, and a connection."""

SETTINGS = """\
issuer = "{issuer}"
terms = "terms.toml"
store = "{store}"
keys = "keys"
exempt = ["/counts"]
records = "async"

[routes]
"/ask" = {{ dialect = "plain-json", model = "small", action = "generate" }}

[failure]
records = "allow"
accounts = "{mode}"
stale_seconds = {stale}

[postgres]
deadline_ms = {deadline}
"""

TERMS = """\
[terms]
version = "{version}"
title = "Terms"
uri = "https://api.example.com/.well-known/ai-provenance/terms/{version}"
text = "terms.md"
effective = 2026-11-01

[[clause]]
id = "use"
effect = "permit"
action = ["generate"]
text = "Accounts may use the API."

[[clause]]
id = "no-distilling"
effect = "prohibit"
action = ["generate"]
when = {{ purpose = "distillation" }}
unless = {{ grant = "licence" }}
text = "Not for distillation without a licence."

[[clause]]
id = "no-bulk"
effect = "prohibit"
action = ["generate"]
when = {{ purpose = [{purposes}] }}
text = "Not in bulk."

[[grant]]
id = "licence"
title = "Licence"
text = "The licensee may distil."
"""

STANDS_STILL = """
import select, sys, time
worst, last = 0.0, time.monotonic()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    now = time.monotonic()
    worst, last = max(worst, now - last), now
print(worst, flush=True)
"""


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Noise:
    """For how long the machine stood still at most, as a process of its own has found."""

    seconds: float = 0.0


@contextmanager
def watching_the_machine() -> Iterator[Noise]:
    noise = Noise()
    with subprocess.Popen([sys.executable, "-c", STANDS_STILL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        try:
            yield noise
        finally:
            process.stdin.close()
            noise.seconds = float(process.stdout.readline())


class Fleet:
    """An issuer's folder and store, and what people do with it."""

    def __init__(self, folder: Path, store: Store, addresses: Mapping[str, str]) -> None:
        self.folder = folder
        self.store = store
        self._addresses = addresses
        self._published: list[str] = []
        KeyFolder(folder / "keys").create(ISSUER, now=now() - timedelta(minutes=1))
        (folder / "terms.md").write_text("Terms.\n")
        self._write_terms("first")
        store.add_account(Account(id="acme", models=frozenset({"small"})))
        self.key = self.new_key()[1]

    def settings(self, name: str, *, mode: str = "deny") -> Path:
        """The settings of one server."""
        path = self.folder / f"{name}.toml"
        address = self._addresses.get(name, self._addresses[""])
        path.write_text(SETTINGS.format(issuer=ISSUER, store=address, mode=mode, stale=STALE_SECONDS, deadline=DEADLINE_MS))
        return path

    def new_key(self) -> tuple[str, str]:
        """Public id and text."""
        key = new_api_key(secrets.token_bytes)
        self.store.add_api_key("acme", key.public_id, hash_secret(key.secret, self.store.pepper()))
        return key.public_id, key.text

    def publish(self, purpose: str) -> None:
        """Terms that forbid one purpose more."""
        self._published.append(purpose)
        self.store.publish_terms(load_terms(self._write_terms(f"v{len(self._published)}")))

    def _write_terms(self, version: str) -> Path:
        path = self.folder / ("terms.toml" if version == "first" else f"terms-{version}.toml")
        purposes = ", ".join(f'"{purpose}"' for purpose in ("bulk", *self._published))
        path.write_text(TERMS.format(version=version, purposes=purposes))
        return path


class Asking:
    """Asks one server over one connection, which stays open."""

    def __init__(self, served: ServedProcess) -> None:
        self.served = served
        self._connection = http.client.HTTPConnection(urlsplit(served.base_url).netloc, timeout=30)
        self._connection.connect()

    @property
    def pid(self) -> int:
        return self.served.workers()[0]

    def send(self, key: str, purpose: str = "chat") -> None:
        """The request alone."""
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "ai-usage-purpose": purpose}
        self._connection.request("POST", "/ask", b"{}", headers)

    def answer(self) -> tuple[int, str]:
        """Status and code."""
        answer = self._connection.getresponse()
        body = json.loads(answer.read())
        return answer.status, str(body.get("code", ""))

    def ask(self, key: str, purpose: str = "chat") -> tuple[int, str]:
        self.send(key, purpose)
        return self.answer()

    def counts(self) -> dict[str, Any]:
        self._connection.request("GET", "/counts")
        counts: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return counts

    def close(self) -> None:
        self._connection.close()


@dataclass
class Running:
    """Four servers over one store; the last two reach it by a way that can be cut."""

    fleet: Fleet
    servers: list[Asking]
    way: Proxy | None


@contextmanager
def running(folder: Path, serve_process: ServeProcess, conninfo: str | None) -> Iterator[Running]:
    with ExitStack() as stack:
        proxy: Proxy | None = None
        store: Store
        if conninfo is None:
            store = stack.enter_context(SQLiteStore(folder / "guard.db", issuer=ISSUER, clock=now))
            addresses = {"": "guard.db"}
        else:
            parts = conninfo_to_dict(new_database(conninfo))
            proxy = stack.enter_context(Proxy(int(str(parts["port"]))))
            store = stack.enter_context(PostgresStore(_address(parts, parts["port"]), issuer=ISSUER, clock=now))
            addresses = {"": _address(parts, parts["port"]), "2": _address(parts, proxy.port), "3": _address(parts, proxy.port)}
        fleet = Fleet(folder, store, addresses)
        begun = [serve(serve_process, fleet.settings(str(number), mode="local" if number == 3 else "deny")) for number in range(SERVERS)]
        with ThreadPoolExecutor(SERVERS) as together:
            servers = [Asking(served) for served in together.map(stack.enter_context, begun)]
        for server in servers:
            stack.callback(server.close)
        for server in servers:
            assert server.ask(fleet.key) == (200, "")
        yield Running(fleet, servers, proxy)


def serve(serve_process: ServeProcess, settings: Path) -> AbstractContextManager[ServedProcess]:
    """One server of one process; connections stay open while the test waits."""
    return serve_process(
        "fanned_provider:guarded",
        workers=1,
        app_dir=Path(__file__).parents[1],
        factory=True,
        env={"PROVIDER_SETTINGS": str(settings)},
        options=["--timeout-keep-alive", "120"],
    )


def _address(parts: Mapping[str, Any], port: object) -> str:
    return f"postgresql://{parts['user']}@{parts['host']}:{port}/{parts['dbname']}"


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def four(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, serve_process: ServeProcess) -> Iterator[Running]:
    conninfo = request.getfixturevalue("postgres") if request.param == "postgres" else None
    with running(tmp_path_factory.mktemp(f"fleet-{request.param}"), serve_process, conninfo) as four:
        yield four


def obeyed(servers: list[Asking], key: str, purpose: str, expected: tuple[int, str], before: tuple[int, str]) -> list[float]:
    """Seconds from now until each server has answered as *expected*; none answers otherwise than *before* until then, nor afterwards."""
    began = time.monotonic()
    delays = [0.0] * len(servers)
    wrong: list[object] = []

    def follow(place: int) -> None:
        server = servers[place]
        while (answer := server.ask(key, purpose)) != expected:
            if answer != before or time.monotonic() - began > 20 * BOUND:
                wrong.append((place, answer, time.monotonic() - began))
                return
        delays[place] = time.monotonic() - began
        wrong.extend((place, "goes back", answer) for _ in range(3) if (answer := server.ask(key, purpose)) != expected)

    threads = [threading.Thread(target=follow, args=(place,)) for place in range(len(servers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    return delays


def summary(delays: list[float]) -> str:
    ordered = sorted(delays)
    at = {"p50": ordered[len(ordered) // 2], "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], "max": ordered[-1]}
    return ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in at.items())


SERVED = (200, "")
SUSPENDED = (403, "tos_account_suspended")
FORBIDDEN = (403, "tos_clause")
UNKNOWN = (401, "tos_unauthenticated")


def test_four_processes_obey_within_a_second(four: Running, record_property: Callable[[str, object], None]) -> None:
    """Suspension, reinstatement, grant, voiding, terms and revocation, again and again."""
    fleet, servers = four.fleet, four.servers
    store = fleet.store
    keys = [fleet.new_key() for _ in range(ROUNDS)]
    delays: dict[str, list[float]] = {}

    def change(name: str, do: Callable[[], object], *told: Any) -> None:
        do()
        delays.setdefault(name, []).extend(obeyed(servers, *told))

    for _, text in keys:
        obeyed(servers, text, "chat", SERVED, UNKNOWN)
    with watching_the_machine() as noise:
        for number, (public_id, text) in enumerate(keys):
            suspend = lambda standing: lambda: store.set_standing("acme", standing, "test")  # noqa: E731
            change("suspended", suspend(Standing.SUSPENDED), fleet.key, "chat", SUSPENDED, SERVED)
            change("reinstated", suspend(Standing.GOOD), fleet.key, "chat", SERVED, SUSPENDED)
            grant = Grant(id=f"lic-{number}", type="licence", reason="test", purposes=frozenset({"distillation"}))
            change("granted", lambda grant=grant: store.add_grant("acme", grant), fleet.key, "distillation", SERVED, FORBIDDEN)
            change("voided", lambda grant=grant: store.void_grant("acme", grant.id, "test"), fleet.key, "distillation", FORBIDDEN, SERVED)
            purpose = f"probe-{number}"
            change("terms", lambda purpose=purpose: fleet.publish(purpose), fleet.key, purpose, FORBIDDEN, SERVED)
            change("revoked", lambda public_id=public_id: store.revoke_api_key(public_id), text, "chat", UNKNOWN, SERVED)
    every = [delay for of_change in delays.values() for delay in of_change]
    lines = [f"{name:>10}: {summary(of_change)}" for name, of_change in delays.items()]
    record_property(
        "counts",
        f"{len(every)} changes heard by {SERVERS} processes: {summary(every)} (the machine stood still for {1000 * noise.seconds:.0f} ms)\n"
        + "\n".join(lines),
    )
    assert sorted(every)[int(len(every) * 0.99)] <= BOUND + noise.seconds
    assert max(every) <= BOUND + noise.seconds


def test_a_process_that_was_stopped_obeys_with_its_first_answer(four: Running, record_property: Callable[[str, object], None]) -> None:
    """SIGSTOP during a change, for longer than what it has heard holds: a request that waited, and the next, go by the change or refuse."""
    fleet, server = four.fleet, four.servers[1]
    chance = random.Random(7)
    refused = 0
    for turn in range(8):
        standing, expected = ((Standing.SUSPENDED, SUSPENDED), (Standing.GOOD, SERVED))[turn % 2]
        other = (SERVED, SUSPENDED)[turn % 2]
        assert server.ask(fleet.key) == other
        os.kill(server.pid, signal.SIGSTOP)
        try:
            server.send(fleet.key)  # waits in the socket
            fleet.store.set_standing("acme", standing, "test")
            time.sleep(HOLDS + chance.random())
        finally:
            os.kill(server.pid, signal.SIGCONT)
        for answer in (server.answer(), server.ask(fleet.key)):
            assert answer in (expected, (503, "tos_unavailable"))
            refused += answer != expected
        obeyed([server], fleet.key, "chat", expected, (503, "tos_unavailable"))
    record_property("counts", f"stopped and resumed 8 times: 0 of 16 answers by what was before, {refused} refused")


def test_a_process_that_is_cut_off_follows_its_failure_mode(
    tmp_path: Path, serve_process: ServeProcess, postgres: str, record_property: Callable[[str, object], None]
) -> None:
    """Cut off while the account is suspended: ``deny`` refuses within a second, ``local`` goes on for a while; healed, both obey."""
    with running(tmp_path, serve_process, postgres) as four, watching_the_machine() as noise:
        fleet, (deny, local) = four.fleet, four.servers[2:]
        assert four.way is not None
        four.way.stall()
        cut = time.monotonic()
        fleet.store.set_standing("acme", Standing.SUSPENDED, "test")
        with ThreadPoolExecutor(2) as both:
            following = {name: both.submit(follow, server, fleet.key, cut) for name, server in (("deny", deny), ("local", local))}
            seen = {name: future.result() for name, future in following.items()}
        counts = {"deny": deny.counts(), "local": local.counts()}
        assert four.servers[0].ask(fleet.key) == SUSPENDED  # whoever can hear has long obeyed
        four.way.heal()
        healed = time.monotonic()
        back = {name: follow_back(server, fleet.key, healed) for name, server in (("deny", deny), ("local", local))}
    refused = seen["deny"].first_refusal
    local_until = seen["local"].last_served
    told = [
        f"deny: refused after {1000 * refused:.0f} ms, {seen['deny'].refused} refusals, obeyed {1000 * back['deny']:.0f} ms after the heal",
        f"local: went on for {local_until:.1f} s of {STALE_SECONDS}, {counts['local'].get('degraded:accounts:local', 0)} uses counted",
        f"       obeyed {1000 * back['local']:.0f} ms after the heal",
        f"the machine stood still for {1000 * noise.seconds:.0f} ms",
    ]
    record_property("counts", "\n".join(told))
    assert refused <= BOUND + noise.seconds
    assert seen["deny"].last_served <= refused
    assert counts["deny"]["hearing:unheard"] == counts["local"]["hearing:unheard"] == 1
    assert [server.served.log.count("hears nothing of changes") for server in (deny, local)] == [1, 1]
    assert counts["deny"]["age"][0][0] > STALE_SECONDS
    assert counts["deny"].get("degraded:accounts:local", 0) == 0
    assert counts["local"]["degraded:accounts:local"] > 0
    assert seen["local"].served > 0
    assert local_until <= STALE_SECONDS + HOLDS + noise.seconds + BOUND
    assert seen["local"].refused > 0
    assert max(back.values()) <= BACK_SECONDS + BOUND + noise.seconds


@dataclass
class Seen:
    """What a server that is cut off answered, in seconds since the cut."""

    first_refusal: float = float("inf")
    last_served: float = 0.0
    served: int = 0
    refused: int = 0


def follow(server: Asking, key: str, cut: float) -> Seen:
    """Ask until some seconds after what was read is too old."""
    seen = Seen()
    while (sent := time.monotonic()) - cut < STALE_SECONDS + 3:
        answer = server.ask(key)
        ended = time.monotonic() - cut
        if answer == SERVED:
            seen.served += 1
            seen.last_served = sent - cut
        else:
            assert answer[0] == 503
            seen.refused += 1
            seen.first_refusal = min(seen.first_refusal, ended)
        time.sleep(0.01)
    return seen


def follow_back(server: Asking, key: str, healed: float) -> float:
    """Seconds until it obeys; until then it refuses."""
    while (answer := server.ask(key)) != SUSPENDED:
        assert answer[0] == 503, answer
        assert time.monotonic() - healed < 30
        time.sleep(0.01)
    took = time.monotonic() - healed
    assert all(server.ask(key) == SUSPENDED for _ in range(3))
    return took
