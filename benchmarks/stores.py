"""The PostgreSQL store beside the SQLite store: look-ups, durable appends of 1 and 4 processes, and how soon a change is seen.

The server is the one of the tests, on loopback and on the same disk, with fsync; both stores take turns within one run. What a network
adds is a round trip for each of: beginning, each question, the commit.

    python benchmarks/stores.py [seconds]
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from measure import interleaved, report
from records import ISSUER, UNDER_WAY, record, utc_now

from engines import Postgres, running
from tos_guard.rights import Account
from tos_guard.stores import PostgresStore, SQLiteStore, Store
from tos_guard.types import Standing

SECONDS = 3.0
CHANGES = 60
SECRET_HASH = bytes(31) + b"\x01"


def opened(where: str) -> Store:
    """The store of an address or a path."""
    if where.startswith("postgresql:"):
        return PostgresStore(where, issuer=ISSUER, clock=utc_now, deadline=10.0)
    return SQLiteStore(Path(where), issuer=ISSUER, clock=utc_now)


def work(where: str, name: str, seconds: float) -> dict[str, Any]:
    """Append for *seconds*, 32 under way; the latencies of all, in milliseconds."""
    latencies: list[float] = []
    with opened(where) as store:
        store.append(record(f"{name}-first", "account-0")).result()
        print("ready", flush=True)
        sys.stdin.readline()
        room = threading.Semaphore(UNDER_WAY)

        def done(began: float, _: Future[None]) -> None:
            latencies.append((time.perf_counter() - began) * 1e3)
            room.release()

        start, number = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            room.acquire()
            began = time.perf_counter()
            store.append(record(f"{name}-{os.urandom(8).hex()}", f"account-{number % 500}")).add_done_callback(partial(done, began))
            number += 1
        store.flush()
        elapsed = time.perf_counter() - start
    return {"count": number, "elapsed": elapsed, "latencies": latencies}


def appended(where: str, processes: int, seconds: float) -> tuple[float, float, float]:
    """Appends a second of all processes together, and the median and 99th percentile of their latency in ms."""
    command = [sys.executable, __file__, "work", where]
    workers = [
        subprocess.Popen([*command, str(number), str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(processes)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    results = [json.loads(worker.communicate()[0]) for worker in workers]
    latencies = sorted(latency for result in results for latency in result["latencies"])
    rate = sum(result["count"] / result["elapsed"] for result in results)
    return rate, latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]


def appends(places: dict[str, str], seconds: float) -> None:
    print("Durable records, 32 under way in each process\nstore       processes  records/s   p50 ms   p99 ms")
    for processes in (1, 4):
        rates = {}
        for name, where in places.items():
            rate, median, slow = appended(where, processes, seconds)
            rates[name] = rate
            print(f"{name:<12}{processes:>9}{rate:>11,.0f}{median:>9.2f}{slow:>9.2f}")
        print(f"{'':12}{'':9}{rates['PostgreSQL'] / rates['SQLite']:>10.2f} × SQLite")


def look_ups(sqlite: Store, postgres: PostgresStore) -> None:
    for store in (sqlite, postgres):
        store.add_account(Account(id="acme"))
        store.add_api_key("acme", "aaaaaaaaaaaa", SECRET_HASH)

    def cold(store: Any) -> Callable[[], object]:
        def ask() -> object:
            store._known.clear()
            store._holders.clear()
            return store.by_id("acme")

        return ask

    hot = interleaved(*(partial(store.by_api_key, "aaaaaaaaaaaa", SECRET_HASH) for store in (sqlite, postgres)), number=5_000)
    read = interleaved(cold(sqlite), cold(postgres), number=50)

    async def awaited() -> float:
        times = []
        for _ in range(300):
            postgres._known.clear()
            postgres._holders.clear()
            start = time.perf_counter()
            await postgres.awaitable.by_id("acme")
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    rows = [
        ("by_api_key(), known: SQLite", hot[0], None),
        ("the same: PostgreSQL", hot[1], None),
        ("by_id(), read and parsed anew: SQLite", read[0], None),
        ("the same: PostgreSQL, in a thread", read[1], None),
        ("the same: PostgreSQL, on an event loop", asyncio.run(awaited()), None),
    ]
    report("An account for a request", rows)
    print(f"known {hot[1] / hot[0]:.1f} ×, read anew {read[1] / read[0]:.1f} × SQLite")


def seen_after(one: Store, other: Store) -> list[float]:
    """Seconds from the return of a change to another process's store seeing it, sorted."""
    other.by_id("acme")
    times = []
    for number in range(CHANGES):
        standing = Standing.WARNED if number % 2 else Standing.GOOD
        one.set_standing("acme", standing, "benchmark")
        changed = time.perf_counter()
        while True:
            account = other.by_id("acme")
            if account is not None and account.standing is standing:
                break
            time.sleep(0.0002)
        times.append(time.perf_counter() - changed)
        time.sleep(0.01)
    return sorted(times)


def changes(places: dict[str, str]) -> None:
    print("\nA change, to another store's look-up\nstore                       change p50   seen p50   seen p99, ms")
    for name, options in (("SQLite", {}), ("PostgreSQL", {}), ("PostgreSQL", {"announcements": "none"})):
        where = places[name]
        one = opened(where)
        if options:
            other: Store = PostgresStore(where, issuer=ISSUER, clock=utc_now, **options)
        else:
            other = opened(where)
        with one, other:
            spent = []
            for number in range(20):
                began = time.perf_counter()
                one.set_standing("acme", Standing.GOOD if number % 2 else Standing.WARNED, "benchmark")
                spent.append(time.perf_counter() - began)
            seen = seen_after(one, other)
        what = f"{name}, by asking" if options else name
        median, slow = seen[len(seen) // 2] * 1e3, seen[len(seen) * 99 // 100] * 1e3
        print(f"{what:<28}{statistics.median(spent) * 1e3:>10.2f}{median:>11.2f}{slow:>11.2f}")


def main(seconds: float) -> int:
    with tempfile.TemporaryDirectory() as folder, running(lambda path: Postgres(path, durable=True)) as engine:
        places = {"SQLite": str(Path(folder) / "guard.db"), "PostgreSQL": engine.conninfo(_database(engine))}
        with opened(places["SQLite"]) as sqlite, opened(places["PostgreSQL"]) as postgres:
            assert isinstance(postgres, PostgresStore)
            look_ups(sqlite, postgres)
        changes(places)
        print()
        appends(places, seconds)
    return 0


def _database(engine: Postgres) -> str:
    import psycopg

    with psycopg.connect(engine.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE guard")
    return "guard"


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        print(json.dumps(work(sys.argv[2], sys.argv[3], float(sys.argv[4]))))
    else:
        sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS))
