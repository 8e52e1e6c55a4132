"""Blocks of limits against none, in Valkey; and a guarded app in four processes against one, with Valkey and PostgreSQL.

Blocks: each process reserves and settles the four limits of `reservations.py` as fast as it can, for one busy account; with `LeasedLimits`
(2 % of a limit at once) and without, in turn. Most reservations of a block ask nobody, so that medians say little: means and shares do.

Fleet: the app of `guard.py` with 16 connections, which are spread evenly over one or four uvicorn processes; accounts and records are in
PostgreSQL, four limits in Valkey. Client, both servers and all workers share the cores of the machine, so that four workers are faster
only where one leaves something of them. Ratios are of rounds in turn, medians.

    python benchmarks/fleet.py [seconds]
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import guard as whole
import uvicorn
from limits_fleet import engine_options
from reservations import LEASE, USED, charges_of

from engines import Postgres, Valkey, running
from tos_guard.limits import Reservation
from tos_guard.protocols import LimitEngine
from tos_guard.rights import Account, hash_secret, new_api_key
from tos_guard.stores import AsyncLeasedLimits, AsyncValkeyLimits, KeyFolder, LeasedLimits, PostgresStore, ValkeyLimits

SECONDS = 2.0
ROUNDS = 5
SHARE = 0.02
STACKS = ("bare", "fleet", "fleet, blocks")
PROCESSES = (1, 4)


# Blocks against none


def opened(url: str, kind: str) -> Any:
    """An engine of this kind: ``thread`` or ``loop``, and with blocks."""
    colour, _, blocks = kind.partition(", ")
    if colour == "thread":
        engine: LimitEngine = ValkeyLimits(url, **engine_options("leased"))
        return LeasedLimits(engine, share=SHARE) if blocks else engine
    awaiting = AsyncValkeyLimits(url, **engine_options("leased"))
    return AsyncLeasedLimits(awaiting, share=SHARE) if blocks else awaiting


def exchanges(engine: Any, name: str, seconds: float) -> list[float]:
    """Reserve and settle for *seconds*; how long each took to reserve, in microseconds."""
    charges, latencies = charges_of("acme"), list[float]()
    start = time.perf_counter()
    while (began := time.perf_counter()) - start < seconds:
        answer = engine.reserve(charges, id=f"{name}-{len(latencies)}", lease=LEASE)
        latencies.append((time.perf_counter() - began) * 1e6)
        assert isinstance(answer, Reservation)
        engine.settle(answer, USED)
    return latencies


async def awaited_exchanges(engine: Any, name: str, seconds: float) -> list[float]:
    """The same that awaits."""
    charges, latencies = charges_of("acme"), list[float]()
    start = time.perf_counter()
    while (began := time.perf_counter()) - start < seconds:
        answer = await engine.reserve(charges, id=f"{name}-{len(latencies)}", lease=LEASE)
        latencies.append((time.perf_counter() - began) * 1e6)
        assert isinstance(answer, Reservation)
        await engine.settle(answer, USED)
    await engine.close()
    return latencies


def reserve_for(url: str, kind: str, name: str, seconds: float) -> dict[str, Any]:
    """What one process does, once it is told."""
    engine = opened(url, kind)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    if kind.startswith("thread"):
        latencies = exchanges(engine, name, seconds)
        engine.close()
    else:
        latencies = asyncio.run(awaited_exchanges(engine, name, seconds))
    return {"count": len(latencies), "elapsed": time.perf_counter() - start, "latencies": latencies[::10]}


def blocks(url: str, seconds: float) -> None:
    """1 and 4 processes, with blocks and without."""
    print(f"\nFour limits in Valkey, one account, {seconds:g} s")
    print(f"{'engine':<15} {'processes':>9} {'exchanges/s':>12} {'× none':>7} {'p50 µs':>8} {'p99 µs':>8}")
    for processes in PROCESSES:
        for colour in ("thread", "loop"):
            without = 0.0
            for kind in (colour, f"{colour}, blocks"):
                workers = [
                    subprocess.Popen(
                        [sys.executable, __file__, "reserve", url, kind, f"{kind}-{processes}-{number}", str(seconds)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
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
                without = without or rate
                p99 = latencies[len(latencies) * 99 // 100]
                print(f"{kind:<15} {processes:>9} {rate:>12,.0f} {rate / without:>7.1f} {statistics.median(latencies):>8.0f} {p99:>8.0f}")


# A fleet


def provision(folder: Path, conninfo: str, url: str) -> bytes:
    """Settings with and without blocks, an account, and its credential."""
    KeyFolder(folder / "keys").create(whole.ISSUER, now=datetime.now(UTC))
    for stack, share in (("fleet", 0.0), ("fleet, blocks", SHARE)):
        settings = whole.SETTINGS.format(issuer=whole.ISSUER, terms=whole.TERMS, routes=whole.ROUTES, records="async", shared="fleet")
        settings = settings.replace('store = "tos-guard-async.db"', f'store = "{conninfo}"\nlimits_block = {share}')
        (folder / f"{stack}.toml").write_text(f'{settings}\n[valkey]\nurl = "{url}"\ndomain = "{stack[-6:]}"\ndeadline_ms = 5_000\n')
    with PostgresStore(conninfo, issuer=whole.ISSUER, clock=lambda: datetime.now(UTC)) as store:
        store.add_account(Account(id="acme", models=frozenset({"small"}), actions=frozenset({"generate"}), region="DE"))
        key = new_api_key(secrets.token_bytes)
        store.add_api_key("acme", key.public_id, hash_secret(key.secret, store.pepper()))
    return b"Bearer " + key.text.encode()


def serve(stack: str, folder: Path) -> None:
    """One uvicorn process; prints its port when it listens."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(whole.CONNECTIONS)
    app = whole.bare_app() if stack == "bare" else whole.guarded_app(folder, stack)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[listener])


async def load(ports: list[int], authorization: bytes, seconds: float) -> float:
    """Answers a second, of all processes together."""
    return sum(await asyncio.gather(*(whole.load(port, authorization, seconds, whole.CONNECTIONS // len(ports)) for port in ports)))


def fleet(seconds: float) -> None:
    """Rounds in turn over all stacks, in one process and in four."""
    with ExitStack() as stack:
        engine = stack.enter_context(running(Valkey))
        server = stack.enter_context(running(lambda folder: Postgres(folder, durable=True)))
        # In the working directory: /tmp is often memory.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-")))
        authorization = provision(folder, server.conninfo(), engine.url)
        ports: dict[tuple[str, int], list[int]] = {}
        for name in STACKS:
            for processes in PROCESSES:
                ports[name, processes] = []
                for _ in range(processes):
                    command = [sys.executable, __file__, "serve", name, str(folder)]
                    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}))
                    stack.callback(process.terminate)
                    assert process.stdout is not None
                    ports[name, processes].append(int(process.stdout.readline()))
                asyncio.run(load(ports[name, processes], authorization, seconds / 4))
        rates: dict[tuple[str, int], list[float]] = {which: [] for which in ports}
        for _ in range(ROUNDS):
            for which, listening in ports.items():
                rates[which].append(asyncio.run(load(listening, authorization, seconds)))
    print(f"\nJSON calls under uvicorn, {whole.CONNECTIONS} connections, {os.cpu_count()} cores for everything, rounds in turn")
    print(f"{'stack':<15} {'processes':>9} {'calls/s':>8} {'× one':>6} {'× bare':>7} {'× no blocks':>12}")
    for (name, processes), measured in rates.items():
        ratios = [whole.median_of_ratios(measured, rates[other]) for other in ((name, 1), ("bare", processes), ("fleet", processes))]
        print(f"{name:<15} {processes:>9} {statistics.median(measured):>8.0f} {ratios[0]:>6.2f} {ratios[1]:>7.2f} {ratios[2]:>12.2f}")


def main(seconds: float) -> int:
    """Print the tables.

    Returns:
        0: these figures have no budget.
    """
    with running(Valkey) as server:
        blocks(server.url, seconds)
    fleet(seconds / 2)
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["reserve", url, kind, name, seconds]:
            print(json.dumps(reserve_for(url, kind, name, float(seconds))))
        case ["serve", stack, folder]:
            serve(stack, Path(folder))
        case [*given]:
            sys.exit(main(float(given[0]) if given else SECONDS))
