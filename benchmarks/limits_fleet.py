"""Limits in Valkey: reserve and settle over four of them in one round trip, beside one of `limits` and of throttled-py, and beside PING.

The four are requests and tokens in a sliding minute, cost in a month of the calendar, and what runs at once. The others get one of these: a
sliding counter of requests in a minute (GCRA for throttled-py, its quickest), without reserving, settling or a second limit: four of them
would be four round trips, of which a refused last one has charged the first three. PING is the least that a round trip of redis-py takes.

Candidates take turns within one run, first those of threads, then those of an event loop. Then 1 and 4 processes reserve and settle at one
server as fast as they can, each with 50 accounts.

    python benchmarks/limits_fleet.py [seconds]
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import limits
import limits.aio
import redis
import redis.asyncio
import throttled
import throttled.asyncio
from measure import Budget, report
from reservations import LEASE, USED, charges_of

from engines import Valkey, running
from tos_guard.limits import Reservation
from tos_guard.stores import AsyncValkeyLimits, ValkeyLimits

SECONDS = 2.0
CALLS = 1_500
WARM_UP = 50
RESERVE_US = 120.0
ACCOUNT_BYTES = 1024
"""Budgets of DESIGN section 9."""

PATIENT = timedelta(seconds=5)
"""On a busy machine a deadline that is right for production may pass."""


def engine_options(domain: str) -> dict[str, Any]:
    return {"domain": domain, "note_domain": lambda _: True, "deadline": PATIENT}


def interleaved_calls(*candidates: Callable[[], object]) -> list[float]:
    """Median seconds of single calls: an average would be that of the other jobs on the machine. The candidates take turns."""
    times: list[list[float]] = [[] for _ in candidates]
    for number in range(WARM_UP + CALLS):
        for taken, candidate in zip(times, candidates, strict=True):
            start = time.perf_counter()
            candidate()
            if number >= WARM_UP:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


async def interleaved_awaits(*candidates: Callable[[], Awaitable[object]]) -> list[float]:
    """The same for what awaits."""
    times: list[list[float]] = [[] for _ in candidates]
    for number in range(WARM_UP + CALLS):
        for taken, candidate in zip(times, candidates, strict=True):
            start = time.perf_counter()
            await candidate()
            if number >= WARM_UP:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def rows(times: list[float]) -> list[tuple[str, float, Budget | None]]:
    ping, reserving, settling, limits_time, throttled_time = times
    return [
        ("PING", ping, None),
        (f"reserve, four limits ({reserving / ping:.1f} × PING)", reserving, Budget(reserving * 1e6, RESERVE_US, "µs")),
        (f"settle, four limits ({settling / ping:.1f} × PING)", settling, None),
        (f"limits, one limit (reserve takes {reserving / limits_time:.2f} ×)", limits_time, None),
        (f"throttled-py, one limit (reserve takes {reserving / throttled_time:.2f} ×)", throttled_time, None),
    ]


def in_threads(url: str) -> int:
    """One call after the other, all of one account. Returns how many budgets are missed."""
    engine = ValkeyLimits(url, **engine_options("threads"))
    charges, numbers, reserved = charges_of("acme"), count(), list[Reservation]()
    client = redis.Redis.from_url(url)
    item = limits.RateLimitItemPerMinute(10**9)
    hits = limits.strategies.SlidingWindowCounterRateLimiter(limits.storage.RedisStorage(url))
    store = throttled.RedisStore(server=url)
    throttle = throttled.Throttled(using=throttled.RateLimiterType.GCRA.value, quota=throttled.per_min(10**6), store=store, key="acme")

    def reserve() -> None:
        answer = engine.reserve(charges, id=f"t{next(numbers)}", lease=LEASE)
        assert isinstance(answer, Reservation)
        reserved.append(answer)

    def settle() -> None:
        engine.settle(reserved.pop(), USED)

    times = interleaved_calls(client.ping, reserve, settle, lambda: hits.hit(item, "acme"), throttle.limit)
    engine.close()
    client.close()
    return report("Limits in Valkey, from a thread, p50", rows(times))


async def in_a_loop(url: str) -> int:
    """The same that awaits."""
    engine = AsyncValkeyLimits(url, **engine_options("loop"))
    charges, numbers, reserved = charges_of("acme"), count(), list[Reservation]()
    client = redis.asyncio.Redis.from_url(url)
    item = limits.RateLimitItemPerMinute(10**9)
    storage = limits.aio.storage.RedisStorage(f"async+{url}", implementation="redispy")
    hits = limits.aio.strategies.SlidingWindowCounterRateLimiter(storage)
    store = throttled.asyncio.RedisStore(server=url)
    throttle = throttled.asyncio.Throttled(
        using=throttled.RateLimiterType.GCRA.value, quota=throttled.per_min(10**6), store=store, key="acme"
    )

    async def reserve() -> None:
        answer = await engine.reserve(charges, id=f"a{next(numbers)}", lease=LEASE)
        assert isinstance(answer, Reservation)
        reserved.append(answer)

    async def settle() -> None:
        await engine.settle(reserved.pop(), USED)

    times = await interleaved_awaits(client.ping, reserve, settle, lambda: hits.hit(item, "acme"), throttle.limit)
    await engine.close()
    await client.aclose()
    return report("Limits in Valkey, from an event loop, p50", rows(times))


def script_times(url: str) -> None:
    """What the server itself spends on each of our calls."""
    engine = ValkeyLimits(url, **engine_options("script"))
    charges = charges_of("acme")
    reserved: list[Any] = []

    def spent(client: Any, call: Callable[[int], object]) -> float:
        client.config_resetstat()
        for number in range(1_000):
            call(number)
        return float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])

    with redis.Redis.from_url(url) as client:
        reserving = spent(client, lambda number: reserved.append(engine.reserve(charges, id=f"s{number}", lease=LEASE)))
        settling = spent(client, lambda number: engine.settle(reserved[number], USED))
    engine.close()
    print(f"\nOf which the server spends {reserving:.0f} µs to reserve, {settling:.0f} µs to settle")


def serve(url: str, name: str, seconds: float) -> dict[str, Any]:
    """Reserve and settle for *seconds*; the latencies of `reserve`, in microseconds."""
    engine = ValkeyLimits(url, **engine_options("together"))
    charges = [charges_of(f"account-{number}") for number in range(50)]
    engine.states(charges[0])
    print("ready", flush=True)
    sys.stdin.readline()
    latencies: list[float] = []
    start = time.perf_counter()
    while (began := time.perf_counter()) - start < seconds:
        answer = engine.reserve(charges[len(latencies) % 50], id=f"{name}-{len(latencies)}", lease=LEASE)
        latencies.append((time.perf_counter() - began) * 1e6)
        assert isinstance(answer, Reservation)
        engine.settle(answer, USED)
    elapsed = time.perf_counter() - start
    engine.close()
    return {"count": len(latencies), "elapsed": elapsed, "latencies": latencies}


def together(url: str, seconds: float) -> None:
    """1 and 4 processes at one server, as fast as they can."""
    print(f"\nFour limits in Valkey, {seconds:g} s\n{'processes':>9} {'exchanges/s':>12} {'reserve p50 µs':>15} {'p99 µs':>9}")
    for processes in (1, 4):
        command = [sys.executable, __file__, "serve", url]
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
        print(f"{processes:>9} {rate:>12,.0f} {statistics.median(latencies):>15.0f} {latencies[len(latencies) * 99 // 100]:>9.0f}")


def in_bytes(url: str) -> int:
    """What an account with the four limits costs the server. Returns how many budgets are missed."""
    engine = ValkeyLimits(url, **engine_options("bytes"))
    with redis.Redis.from_url(url) as client:
        before = client.info("memory")["used_memory"]
        accounts = 5_000
        for number in range(accounts):
            answer = engine.reserve(charges_of(f"account-{number:07}"), id=str(number), lease=LEASE)
            assert isinstance(answer, Reservation)
            engine.settle(answer, USED)
        figure = Budget((client.info("memory")["used_memory"] - before) / accounts, ACCOUNT_BYTES, "bytes")
    engine.close()
    print(f"\nMemory of an account with four limits, of {accounts:,}: {figure}")
    return int(figure.figure > ACCOUNT_BYTES)


def main(seconds: float) -> int:
    """Print the tables.

    Returns:
        1 when a budget is missed, otherwise 0.
    """
    with running(Valkey) as server:
        missed = in_threads(server.url) + asyncio.run(in_a_loop(server.url))
        script_times(server.url)
        together(server.url, seconds)
        missed += in_bytes(server.url)
    return min(missed, 1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", url, name, seconds]:
            print(json.dumps(serve(url, name, float(seconds))))
        case [*given]:
            sys.exit(main(float(given[0]) if given else SECONDS))
