"""A domain of limits in a real Valkey: how its epoch begins, what is in doubt without memory and for how long, its cost, who gets in."""

from __future__ import annotations

import hashlib
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certificates import make_certificate
from engines import Valkey, free_port, running
from proxies import Proxy
from tos_guard.errors import LimitsForgottenError, StoreError
from tos_guard.limits import Amounts, Calendar, Charge, Dimension, Limit, LimitRefusal, Quantity, Reservation, Sliding
from tos_guard.protocols import AsyncLimitEngine, LimitEngine
from tos_guard.stores import AsyncValkeyLimits, MemoryStore, ValkeyLimits
from tos_guard.stores import _limits_valkey_domain as domain_module
from tos_guard.testing import FixedClock

PER = (Dimension.ACCOUNT,)
LEASE = timedelta(seconds=60)
SIXTY = Sliding(60)
START = 1_795_350_600_000  # 2026-11-22T12:30Z


def charge(taken: int = 1, *, quantity: Quantity = Quantity.TOKENS, window: Any = SIXTY, **changes: Any) -> Charge:
    fields = {"id": quantity.value, "quantity": quantity, "amount": 10, "per": PER, "window": window}
    return Charge(Limit(**(fields | changes)), ("acme",), taken)


MINUTE = charge()
HOUR = charge(quantity=Quantity.COST, window=Calendar("hour"))
SLOT = charge(quantity=Quantity.CONCURRENCY, window=None)


class Fleet:
    """Engines of one domain, by one clock that is moved by hand."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.domain = f"test-{secrets.token_hex(6)}"
        self.store = MemoryStore(issuer="https://api.example", clock=FixedClock())
        self.now = START
        self.opened: list[ValkeyLimits] = []
        self.numbers = 0

    def engine(self, **options: Any) -> ValkeyLimits:
        told: dict[str, Any] = {"note_domain": self.store.note_limits_domain, "unsafe_time": lambda: self.now}
        self.opened.append(ValkeyLimits(self.url, domain=self.domain, **({"deadline": timedelta(seconds=20)} | told | options)))
        return self.opened[-1]

    def take(self, engine: LimitEngine, *charges: Charge) -> Reservation:
        self.numbers += 1
        answer = engine.reserve(charges, id=f"r{self.numbers}", lease=LEASE)
        assert isinstance(answer, Reservation), answer
        return answer

    def forgets(self, engine: LimitEngine, *charges: Charge) -> float:
        """That the engine has forgotten what was used; for how many seconds."""
        self.numbers += 1
        with pytest.raises(LimitsForgottenError) as told:
            engine.reserve(charges, id=f"r{self.numbers}", lease=LEASE)
        return told.value.seconds

    def lose_memory(self) -> None:
        """As a restart without persistence does, for this domain."""
        with self.client() as client:
            for key in self.keys(client):
                client.delete(key)

    def client(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url)

    def keys(self, client: Any) -> list[bytes]:
        return list(client.scan_iter(f"tosg:{{{self.domain}}}:*"))


@pytest.fixture
def fleet(valkey: str) -> Iterator[Fleet]:
    made = Fleet(valkey)
    yield made
    for engine in made.opened:
        engine.close()


def test_both_are_engines(fleet: Fleet) -> None:
    """Of threads, and of an event loop; the blocking side of the second is of the first kind."""
    engine = AsyncValkeyLimits(fleet.url, domain=fleet.domain, note_domain=lambda domain: True)
    assert isinstance(engine, AsyncLimitEngine)
    assert isinstance(engine.blocking, ValkeyLimits)
    assert isinstance(fleet.engine(), LimitEngine)
    engine.blocking.close()


# How an epoch begins.


def test_two_fresh_workers_begin_a_domain_without_doubt(fleet: Fleet) -> None:
    """The store tells one of them that the domain is new; the other waits until that one has begun, however the two meet."""
    noted, told = threading.Event(), threading.Event()

    def first(domain: str) -> bool:
        assert fleet.store.note_limits_domain(domain)
        noted.set()
        told.wait(20)  # the process is not scheduled for a moment
        return True

    def second(domain: str) -> bool:
        assert not fleet.store.note_limits_domain(domain)
        told.set()
        return False

    one, other = fleet.engine(note_domain=first), fleet.engine(note_domain=second)
    with ThreadPoolExecutor(2) as threads:
        begun = threads.submit(one.reserve, [MINUTE], id="one", lease=LEASE)
        noted.wait(20)
        assert isinstance(other.reserve([HOUR], id="other", lease=LEASE), Reservation)
        assert isinstance(begun.result(20), Reservation)
    assert one.epoch is not None
    assert other.epoch is not None
    assert (one.epoch.id, one.epoch.since) == (other.epoch.id, 0)


def test_a_worker_that_dies_before_it_begins_leaves_doubt(fleet: Fleet) -> None:
    """It was told that the domain is new, and nobody knows what it did with that. The others wait for a second, and then count in doubt."""
    fleet.store.note_limits_domain(fleet.domain)
    engine = fleet.engine()
    began = time.monotonic()
    assert fleet.forgets(engine, MINUTE) == 65
    assert 1 <= time.monotonic() - began < 15
    fleet.now += 65_000
    fleet.take(engine, MINUTE)


def test_an_epoch_of_another_store_is_noted_in_ours(fleet: Fleet) -> None:
    """The engine lived on, and the store is new: what the engine forgets later is noticed all the same."""
    fleet.take(fleet.engine(), MINUTE)
    fleet.store = MemoryStore(issuer="https://api.example", clock=FixedClock())
    fleet.take(fleet.engine(), MINUTE)
    fleet.lose_memory()
    assert fleet.forgets(fleet.engine(), MINUTE)


# What is in doubt, and for how long.


def test_each_limit_is_in_doubt_until_its_window_is_over(fleet: Fleet) -> None:
    """A sliding one for its length and a slot, one of the calendar to its end, slots for the longest lease."""
    engine = fleet.engine(slot_lease=timedelta(minutes=5))
    fleet.take(engine, MINUTE, HOUR, SLOT)
    fleet.lose_memory()
    assert fleet.forgets(engine, MINUTE) == 65
    assert fleet.forgets(engine, SLOT) == 300
    assert fleet.forgets(engine, MINUTE, HOUR, SLOT) == 1_800
    assert fleet.forgets(engine, charge(burst=5)) == 65
    assert fleet.forgets(engine, charge(burst=30)) == 180  # a full bucket of that burst lasts so long
    for seconds, still in ((64.999, (MINUTE, HOUR, SLOT)), (0.001, (HOUR, SLOT)), (234.999, (HOUR, SLOT)), (0.001, (HOUR,)), (1_500, ())):
        fleet.now += round(seconds * 1000)
        for each in (MINUTE, HOUR, SLOT):
            if each in still:
                fleet.forgets(engine, each)
            else:
                fleet.take(engine, each)


def test_a_look_in_doubt_says_so(fleet: Fleet) -> None:
    """Nothing used is not what is known."""
    engine = fleet.engine()
    fleet.take(engine, MINUTE)
    fleet.lose_memory()
    with pytest.raises(LimitsForgottenError, match="limit tokens"):
        engine.states([MINUTE])


def test_doubt_neither_stops_shadows_nor_settling_nor_what_is_certain(fleet: Fleet) -> None:
    """Shadows count, what is settled counts, who wants nothing gets it; who exceeds what is known, or the limit alone, is refused."""
    engine = fleet.engine()
    fleet.take(engine, MINUTE)
    fleet.lose_memory()
    shadow = charge(4, shadow=True)
    reservation = fleet.take(engine, shadow, charge(0, quantity=Quantity.COST))
    engine.settle(reservation, Amounts(input_tokens=9))
    assert fleet.take(engine, charge(0, shadow=True)).states[0].used == 9
    fleet.forgets(engine, charge(1))
    for wanted in (2, 11):
        assert isinstance(engine.reserve([charge(wanted)], id=f"more-{wanted}", lease=LEASE), LimitRefusal)
    fleet.now += 64_999
    assert isinstance(engine.reserve([charge(2)], id="later", lease=LEASE), LimitRefusal)


def test_what_was_reserved_before_is_settled_without_harm(fleet: Fleet) -> None:
    """Its slots and estimate are forgotten: nothing comes back that was never taken here."""
    engine = fleet.engine()
    reservation = fleet.take(engine, charge(9), SLOT)
    fleet.lose_memory()
    engine.settle(reservation, Amounts(input_tokens=1))
    engine.cancel(reservation)
    fleet.now += 65_000
    assert [state.used for state in engine.states([MINUTE, SLOT])] == [0, 0]


def test_what_still_runs_holds_its_slots_when_the_doubt_is_over(fleet: Fleet) -> None:
    """Whoever goes on renewing is counted again, once; whoever does not, is not."""
    engine, peer = fleet.engine(), fleet.engine()
    running = [fleet.take(engine, SLOT) for _ in range(3)]
    fleet.lose_memory()
    for _ in range(4):
        engine.renew_all(running[:2], lease=LEASE)
        fleet.now += 15_000
    assert [state.used for state in peer.states([SLOT])] == [2]
    engine.settle(running[0], None)
    peer.renew_all(running, lease=LEASE)
    assert [state.used for state in peer.states([SLOT])] == [1]


def test_who_counted_elsewhere_until_now_puts_the_doubt_off(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that comes from a primary that lived on beside this engine has counted there after the epoch began here."""
    engine, moved = fleet.engine(), fleet.engine()
    fleet.take(engine, MINUTE)
    fleet.lose_memory()
    fleet.forgets(engine, MINUTE)
    fleet.now += 50_000
    assert fleet.forgets(engine, MINUTE) == 15
    monkeypatch.setattr(moved._domain, "_last", (b"of-the-primary", time.monotonic()))
    assert 64 < fleet.forgets(moved, MINUTE) <= 65
    assert 64 < fleet.forgets(engine, MINUTE) <= 65


def test_an_engine_that_was_given_an_older_memory_is_noticed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same epoch, and what it remembers ends before what this process was answered: a backup was brought back."""
    engine = fleet.engine(unsafe_time=None)
    fleet.take(engine, MINUTE)
    assert engine.epoch is not None
    before = engine.epoch.id
    fleet.take(fleet.engine(unsafe_time=None), MINUTE)
    monkeypatch.setattr(engine._domain, "_last", (before, time.monotonic() + 10))
    engine._domain.look_again()
    assert fleet.forgets(engine, MINUTE) == pytest.approx(65, abs=5)
    assert engine.epoch.id != before


def test_an_engine_that_kept_nothing_before_is_not_trusted_for_what_it_keeps_now() -> None:
    """Restarted with everything on disk, after a run that wrote once a second."""
    with running(lambda folder: Valkey(folder, persist="everysec")) as server:
        fleet = Fleet(server.url)
        engine = fleet.engine(unsafe_time=None)
        fleet.take(engine, MINUTE)
        server.kill()
        server._options[-1] = "always"
        server.start()
        assert fleet.forgets(engine, MINUTE) == pytest.approx(65, abs=5)
        engine.close()


def test_an_engine_that_has_evicted_is_in_doubt() -> None:
    """Set right again or not: what is gone is gone, while the epoch is still there."""
    with running(Valkey) as server, server.client() as client:
        fleet = Fleet(server.url)
        engine = fleet.engine()
        fleet.take(engine, MINUTE)
        client.config_set("maxmemory-policy", "volatile-lru")
        client.set("of somebody else", bytes(100_000), ex=100)
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 50_000)
        client.set("more", b"x")
        assert client.info("stats")["evicted_keys"] > 0
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")
        fleet.now += 1_000
        assert fleet.forgets(engine, MINUTE) == 65
        engine.close()


# Time.


def test_time_that_goes_back_opens_nothing(fleet: Fleet) -> None:
    """The engine's clock is set back by a day: what was used stays used, leases go on, and time goes on when the clock has caught up."""
    engine = fleet.engine()
    fleet.take(engine, charge(10), charge(10, quantity=Quantity.COST, window=Calendar("day")))
    fleet.now += 1_000
    held = fleet.take(engine, SLOT)
    fleet.now -= 86_400_000
    for wanted in (MINUTE, charge(quantity=Quantity.COST, window=Calendar("day"))):
        assert isinstance(engine.reserve([wanted], id="back", lease=LEASE), LimitRefusal)
    assert engine.states([SLOT])[0].used == 1
    engine.renew(held, lease=LEASE)
    fleet.now += 86_400_000 + 59_000
    assert engine.states([SLOT])[0].used == 1
    fleet.now += 2_000
    assert engine.states([SLOT])[0].used == 0


def test_a_worker_whose_clock_is_wrong_is_told_the_time(fleet: Fleet) -> None:
    """The engine asks again where none of the windows that it was given is the present one."""
    engine = fleet.engine(unsafe_time=None)
    daily = charge(quantity=Quantity.COST, window=Calendar("day", "Asia/Tokyo"))
    for days in (-400, -2, -1, 1, 2, 400):
        engine._domain._ahead += days * 86_400_000
        reservation = fleet.take(engine, daily)
    engine._domain._ahead += 400 * 86_400_000
    engine.settle(reservation, Amounts(cost=2))
    assert engine.states([daily])[0].used == 7


# What it costs.


def test_an_account_costs_less_than_a_kilobyte(valkey: str, record_property: Callable[[str, object], None]) -> None:
    """Four limits, one of them with a burst, and a request that runs; every key but the epoch ends by itself."""
    fleet = Fleet(valkey)
    engine = fleet.engine(unsafe_time=None)
    charges = (
        charge(1, quantity=Quantity.REQUESTS, amount=100, burst=100),
        charge(1_100, amount=10**9),
        charge(2_300, quantity=Quantity.COST, amount=10**12, window=Calendar("month", "Europe/Berlin")),
        charge(1, quantity=Quantity.CONCURRENCY, window=None),
    )
    fleet.take(engine, *charges)
    with fleet.client() as client:
        keys = fleet.keys(client)
        sizes = {key: client.memory_usage(key, samples=0) for key in keys if not key.endswith(b"epoch")}
        ends = {key: client.pttl(key) for key in sizes}
        held = sum(size for key, size in sizes.items() if b":r:" in key)
    total = sum(sizes.values())
    record_property("counts", f"an account with four limits: {total} bytes in Valkey, {held} of them for its request that runs")
    assert total <= 1024
    assert len(sizes) == 6
    assert all(0 < end <= 32 * 86_400_000 for end in ends.values())
    assert min(ends.values()) < 1_000 < max(end for key, end in ends.items() if b":c:" in key)
    engine.close()


def test_several_slots_at_once_come_back_at_once(fleet: Fleet) -> None:
    """A charge of three slots is three, renewed and given back together."""
    engine = fleet.engine()
    held = fleet.take(engine, charge(3, quantity=Quantity.CONCURRENCY, window=None))
    fleet.now += 50_000
    engine.renew(held, lease=LEASE)
    fleet.now += 50_000
    assert engine.states([SLOT])[0].used == 3
    engine.settle(held, None)
    assert engine.states([SLOT])[0].used == 0


# Engines, and who gets in.


def test_two_releases_count_together(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a script of its own; the counters are the same, and neither takes the other for a restart."""
    engine = fleet.engine()
    fleet.take(engine, charge(6))
    script = domain_module.SCRIPT + b"\n-- another release\n"
    monkeypatch.setattr(domain_module, "SCRIPT", script)
    monkeypatch.setattr(domain_module, "SCRIPT_DIGEST", hashlib.sha1(script).hexdigest().encode())
    newer = fleet.engine()
    fleet.take(newer, charge(4))
    monkeypatch.undo()
    assert isinstance(engine.reserve([MINUTE], id="last", lease=LEASE), LimitRefusal)
    assert engine.epoch is not None
    assert newer.epoch is not None
    assert newer.epoch.id == engine.epoch.id


def test_an_engine_that_evicts_is_refused(tmp_path: Path) -> None:
    """It would forget counters while it remembers the epoch. Set right, it is taken."""
    with running(Valkey) as server, server.client() as client:
        fleet = Fleet(server.url)
        engine = fleet.engine()
        client.config_set("maxmemory-policy", "volatile-lru")
        with pytest.raises(StoreError, match=r"maxmemory-policy is volatile-lru.*Set it to noeviction"):
            fleet.take(engine, MINUTE)
        client.config_set("maxmemory-policy", "noeviction")
        fleet.take(engine, MINUTE)
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreError, match="maxmemory"):
            fleet.take(engine, MINUTE)
        client.config_set("maxmemory", "0")
        assert engine.states([MINUTE])[0].used == 1
        engine.close()


class Node(Valkey):
    """A node of a cluster."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._options += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]


def test_the_node_of_a_cluster_that_has_the_domain_counts_it() -> None:
    """All keys of a domain are in one place, and every key is named in the call. Another node says where it is, and is refused."""
    with running(Node) as node, node.client() as client:
        fleet = Fleet(node.url)
        engine = fleet.engine()
        slot = client.execute_command("CLUSTER", "KEYSLOT", f"tosg:{{{fleet.domain}}}:epoch")
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", slot, slot)
        client.execute_command("CLUSTER", "BUMPEPOCH")
        client.config_set("cluster-require-full-coverage", "no")
        take_when_up(fleet, engine)
        engine.settle(fleet.take(engine, MINUTE, HOUR, SLOT, charge(burst=5, quantity=Quantity.REQUESTS)), Amounts(input_tokens=1))
        other = Fleet(node.url)
        elsewhere = other.engine()
        with pytest.raises(StoreError, match=r"slot|CLUSTERDOWN|Hash"):
            other.take(elsewhere, MINUTE)
        engine.close()
        elsewhere.close()


def take_when_up(fleet: Fleet, engine: ValkeyLimits) -> None:
    """A node takes a moment until it believes that its cluster is up."""
    deadline = time.monotonic() + 20
    while True:
        try:
            fleet.take(engine, MINUTE)
        except StoreError:
            assert time.monotonic() < deadline
        else:
            return


def test_a_replica_is_refused() -> None:
    """It would take nothing, and what it knows is late."""
    with running(Valkey) as primary, running(lambda folder: Valkey(folder, replica_of=primary.port)) as replica:
        fleet = Fleet(replica.url)
        engine = fleet.engine()
        with pytest.raises(StoreError, match=r"it is a replica.*Name the primary"):
            fleet.take(engine, MINUTE)
        engine.close()


def test_users_passwords_and_what_they_may(root: Path) -> None:
    """What the guide allows a user is enough; a wrong password is an error that does not repeat it; without INFO nothing is counted."""
    rules = "~tosg:* +@read +@write +@scripting +info +time +select"
    assert rules in (root / "docs" / "guides" / "limits.md").read_text("utf-8")
    with running(Valkey) as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "guard", "reset", "on", ">s3cret", *rules.split())
        fleet = Fleet(f"redis://guard:s3cret@127.0.0.1:{server.port}/0")
        engine = fleet.engine()
        fleet.take(engine, MINUTE)
        engine.close()
        wrong = Fleet(f"redis://guard:wr0ng@127.0.0.1:{server.port}/0").engine()
        with pytest.raises(StoreError, match="we are refused") as told:
            fleet.take(wrong, MINUTE)
        assert "wr0ng" not in str(told.value)
        wrong.close()
        client.execute_command("ACL", "SETUSER", "guard", "-info")
        blind = fleet.engine()
        with pytest.raises(StoreError, match=r"INFO is refused.*permissions"):
            fleet.take(blind, MINUTE)
        blind.close()


@pytest.mark.parametrize("colour", ["threads", "loop"])
async def test_tls_by_the_url(fleet: Fleet, tmp_path: Path, colour: str) -> None:
    """``rediss://`` trusts whom it is told to, and nobody else."""
    certificate, key = make_certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    port = int(fleet.url.rpartition(":")[2].partition("/")[0])
    with Proxy(port, tls=context) as proxy:
        told: dict[str, Any] = {"domain": fleet.domain, "note_domain": lambda domain: True, "deadline": timedelta(seconds=20)}
        for url, works in (
            (f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={certificate}", True),
            (f"rediss://localhost:{proxy.port}/0", False),
            (f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={certificate}", False),
            (f"redis://localhost:{proxy.port}/0", False),
        ):
            if colour == "loop":
                engine = AsyncValkeyLimits(url, **told)
                call = engine.reserve([MINUTE], id=url, lease=LEASE)
            else:
                blocking = ValkeyLimits(url, **told)
            if works:
                answer = await call if colour == "loop" else blocking.reserve([MINUTE], id=url, lease=LEASE)
                assert isinstance(answer, Reservation)
            else:
                with pytest.raises(StoreError, match=r"failed|closed"):
                    await call if colour == "loop" else blocking.reserve([MINUTE], id=url, lease=LEASE)
            if colour == "loop":
                await engine.close()
            else:
                blocking.close()
