"""Limits: reserve and settle over four of them, in memory and in a file that processes share, and what an account costs in memory.

The four are requests and tokens in a sliding minute, cost in a month of the calendar, and what runs at once. `limits` and throttled-py get
the nearest they have: four windows, asked one after the other, with the cost of the call. They neither take all or none nor give back, and
count nothing that runs; so there is no settling to measure, and a refusal by the fourth has charged the first three.

Processes meet in one file, each with 50 accounts; latencies are of `reserve`. Memory is that of a process which has served a million
accounts once (one in ten of them for the others), each with the four limits.

    python benchmarks/reservations.py [seconds] [accounts]
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from limits import RateLimitItemPerDay, RateLimitItemPerMinute, RateLimitItemPerMonth
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter
from measure import Budget, interleaved, report
from throttled import MemoryStore, RateLimiterType, Throttled, per_day, per_duration, per_min

from tos_guard.limits import Amounts, Calendar, Charge, Dimension, Limit, Quantity, Reservation, Sliding, account_limits
from tos_guard.stores import MemoryLimits, SQLiteLimits

SECONDS = 2.0
ACCOUNTS = 1_000_000
PEERS_PART = 10
RESERVE_US = 10.0
ACCOUNT_BYTES = 1024
"""Budgets of DESIGN section 9."""

PER = (Dimension.ACCOUNT,)
LIMITS = (
    Limit(id="requests", quantity=Quantity.REQUESTS, amount=10**9, per=PER, window=Sliding(60)),
    Limit(id="tokens", quantity=Quantity.TOKENS, amount=10**12, per=PER, window=Sliding(60)),
    Limit(id="cost", quantity=Quantity.COST, amount=10**12, per=PER, window=Calendar("month", "Europe/Berlin")),
    Limit(id="running", quantity=Quantity.CONCURRENCY, amount=10**6, per=PER, window=None),
)
ESTIMATE = Amounts(input_tokens=100, output_tokens=1_000, cost=2_300)
USED = Amounts(input_tokens=90, output_tokens=210, cost=510)
LEASE = timedelta(seconds=60)


def utc_now() -> datetime:
    return datetime.now(UTC)


def charges_of(account: str) -> tuple[Charge, ...]:
    return account_limits(LIMITS, account=account).charges(ESTIMATE, model="small", action="generate")


def limits_peer() -> Callable[[str], object]:
    """The four windows of `limits`: sliding counters for what is large, since its moving window keeps an item for each token."""
    storage = MemoryStorage()
    sliding, fixed = SlidingWindowCounterRateLimiter(storage), FixedWindowRateLimiter(storage)
    windows = (
        (sliding, RateLimitItemPerMinute(10**9), 1),
        (sliding, RateLimitItemPerMinute(10**12, namespace="tokens"), 1_100),
        (fixed, RateLimitItemPerMonth(10**12), 2_300),
        (fixed, RateLimitItemPerDay(10**9), 1),
    )
    return lambda account: [strategy.hit(item, account, cost=cost) for strategy, item, cost in windows]


def throttled_peer(accounts: int) -> Callable[[str], object]:
    """The four windows of throttled-py, as GCRA, its quickest."""
    store = MemoryStore(options={"MAX_SIZE": 4 * accounts + 1})
    quotas = ((per_min(10**6), 1), (per_min(10**9), 1_100), (per_duration(timedelta(days=30), 10**9), 2_300), (per_day(10**6), 1))
    windows = [
        (Throttled(using=RateLimiterType.GCRA.value, quota=quota, store=store, key_prefix=str(number)), cost)
        for number, (quota, cost) in enumerate(quotas)
    ]
    return lambda account: [throttled.limit(account, cost) for throttled, cost in windows]


def in_memory() -> int:
    """One call after the other, all of one account. Returns how many budgets are missed."""
    engine = MemoryLimits(clock=utc_now)
    charges, numbers = charges_of("acme"), count()
    compiled = account_limits(LIMITS, account="acme")
    reserved: list[Reservation] = []

    def reserve() -> None:
        answer = engine.reserve(charges, id=str(next(numbers)), lease=LEASE)
        assert isinstance(answer, Reservation)
        reserved.append(answer)

    def settle() -> None:
        engine.settle(reserved.pop(), USED)

    limits_hit, throttled_hit = limits_peer(), throttled_peer(1)
    charging, reserving, settling, limits_time, throttled_time = interleaved(
        lambda: compiled.charges(ESTIMATE, model="small", action="generate"),
        reserve,
        settle,
        lambda: limits_hit("acme"),
        lambda: throttled_hit("acme"),
        number=500,  # and as many reservations open at once, as on a busy server
    )
    return report(
        "Four limits in memory, p50",
        [
            ("which limits are charged, and how much", charging, None),
            ("reserve", reserving, Budget(reserving * 1e6, RESERVE_US, "µs")),
            ("settle", settling, None),
            (f"limits, four hits ({limits_time / reserving:.1f} × reserve)", limits_time, None),
            (f"throttled-py, four limits ({throttled_time / reserving:.1f} × reserve)", throttled_time, None),
        ],
    )


def serve(path: Path, name: str, seconds: float) -> dict[str, Any]:
    """Reserve and settle for *seconds*; the latencies of `reserve`, in microseconds."""
    engine = SQLiteLimits(path, clock=utc_now, patience=60)
    charges = [charges_of(f"account-{number}") for number in range(50)]
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


def in_a_file(folder: Path, seconds: float) -> None:
    """1 and 4 processes at one file, as fast as they can."""
    print(f"\nFour limits in a file, {seconds:g} s\n{'processes':>9} {'exchanges/s':>12} {'reserve p50 µs':>15} {'p99 µs':>9}")
    for processes in (1, 4):
        path = folder / f"limits{processes}.db"
        SQLiteLimits(path, clock=utc_now).close()
        command = [sys.executable, __file__, "serve", str(path)]
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


def resident_bytes() -> int:
    """What this process holds in memory."""
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def remember(engine: str, accounts: int) -> float:
    """Serve each account once. Returns bytes for one of them."""
    gc.disable()  # millions of objects that all stay: looking for garbage among them is all that it would do
    before = resident_bytes()
    if engine == "tos-guard":
        own = MemoryLimits(clock=utc_now)
        for number in range(accounts):
            answer = own.reserve(charges_of(f"account-{number:07}"), id=str(number), lease=LEASE)
            assert isinstance(answer, Reservation)
            own.settle(answer, USED)
    else:
        hit = limits_peer() if engine == "limits" else throttled_peer(accounts)
        for number in range(accounts):
            hit(f"account-{number:07}")
    return (resident_bytes() - before) / accounts


def in_bytes(accounts: int) -> int:
    """What an account costs. Returns how many budgets are missed."""
    figures = {}
    for engine, served in (("tos-guard", accounts), ("limits", accounts // PEERS_PART), ("throttled-py", accounts // PEERS_PART)):
        command = [sys.executable, __file__, "remember", engine, str(served)]
        figures[engine] = served, float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print("\nMemory of an account with four limits")
    for engine, (served, figure) in figures.items():
        budget = Budget(figure, ACCOUNT_BYTES, "bytes")
        print(f"{engine:<14} {served:>9,} accounts  {budget if engine == 'tos-guard' else f'{figure:.2f} bytes'}")
    return int(figures["tos-guard"][1] > ACCOUNT_BYTES)


def main(seconds: float, accounts: int) -> int:
    """Print the tables.

    Returns:
        1 when a budget is missed, otherwise 0.
    """
    missed = in_memory()
    # In the working directory: /tmp is often memory.
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as name:
        in_a_file(Path(name), seconds)
    missed += in_bytes(accounts)
    return min(missed, 1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", path, name, seconds]:
            print(json.dumps(serve(Path(path), name, float(seconds))))
        case ["remember", engine, accounts]:
            print(remember(engine, int(accounts)))
        case [*given]:
            sys.exit(main(float(given[0]) if given else SECONDS, int(given[1]) if given[1:] else ACCOUNTS))
