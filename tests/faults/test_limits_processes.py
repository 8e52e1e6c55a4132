"""Limits that the processes of a host share: exact under load, never above the limit when workers are killed, never stuck (DESIGN §10)."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tos_guard.errors import StoreError
from tos_guard.limits import Charge, Dimension, Limit, LimitRefusal, Quantity, Reservation, Sliding
from tos_guard.stores import SQLiteLimits
from tos_guard.stores._limits_sqlite import host_seconds

PROCESSES = 8
ROUNDS = 8
KILLS = ROUNDS * PROCESSES
HOUR = Sliding(3_600)
PER = (Dimension.ACCOUNT,)
REQUESTS = Charge(Limit(id="requests", quantity=Quantity.REQUESTS, amount=1_000, per=PER, window=HOUR), ("acme",), 1)
TOKENS = Charge(Limit(id="tokens", quantity=Quantity.TOKENS, amount=10_000, per=PER, window=HOUR), ("acme",), 800)
SLOTS = Charge(Limit(id="running", quantity=Quantity.CONCURRENCY, amount=500, per=PER, window=None), ("acme",), 1)
LEASE = timedelta(minutes=10)

# What every worker begins with.
HEAD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tos_guard.limits import *
from tos_guard.stores import SQLiteLimits

name, hour, per = sys.argv[2], Sliding(3600), (Dimension.ACCOUNT,)
requests = Charge(Limit(id="requests", quantity=Quantity.REQUESTS, amount=1000, per=per, window=hour), ("acme",), 1)
tokens = Charge(Limit(id="tokens", quantity=Quantity.TOKENS, amount=10000, per=per, window=hour), ("acme",), 800)
slots = Charge(Limit(id="running", quantity=Quantity.CONCURRENCY, amount=500, per=per, window=None), ("acme",), 1)
# On a machine with far more processes than cores, a turn may be long in coming.
engine = SQLiteLimits(Path(sys.argv[1]), clock=lambda: datetime.now(UTC), patience=60)

def say(*words):
    print(*words, flush=True)

def reserve(number, *charges):
    return engine.reserve(charges, id=f"{name}-{number}", lease=timedelta(minutes=10))

say("ready")
sys.stdin.readline()
"""

# 500 requests, each settled; how many were admitted.
FIVE_HUNDRED = """
admitted = 0
for number in range(500):
    answer = reserve(number, requests, slots)
    if isinstance(answer, Reservation):
        admitted += 1
        engine.settle(answer, None)
say(admitted)
"""

# Requests without end, each said once it is admitted, most of them settled; until the limit refuses.
UNTIL_REFUSED = """
number = 0
while isinstance(answer := reserve(number, requests, slots), Reservation):
    say("admitted", answer.states[0].used)
    if number % 4:
        engine.settle(answer, None)
    number += 1
say("refused", answer.state.used)
"""

# 25 calls at once, held until told; settled with less than they reserved; and 25 again.
TWENTY_FIVE = """
with ThreadPoolExecutor(25) as threads:
    for turn in range(2):
        answers = list(threads.map(lambda number: reserve(f"{turn}-{number}", tokens), range(25)))
        held = [answer for answer in answers if isinstance(answer, Reservation)]
        say(len(held), max([answer.states[0].used for answer in answers]))
        sys.stdin.readline()
        list(threads.map(lambda answer: engine.settle(answer, Amounts(input_tokens=500)), held))
        say("settled")
        sys.stdin.readline()
"""

# The writers' lock, held within a call for as long as nobody writes a line.
HOLDING = """
with engine._database.write():
    say("holding")
    sys.stdin.readline()
say("done")
"""


class Worker:
    """A process that uses the limits."""

    def __init__(self, path: Path, name: str, script: str) -> None:
        command = [sys.executable, "-c", HEAD + script, str(path), name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.hear() == "ready"

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Its next line; empty at its end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return line.strip() if line.endswith("\n") else ""  # the half line it died in was not heard


@contextmanager
def workers(path: Path, script: str, *names: object) -> Iterator[list[Worker]]:
    """Processes of these names, at the same line."""
    started = [Worker(path, f"worker-{name}", script) for name in names]
    try:
        yield started
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.communicate()


@contextmanager
def limits(path: Path, *, ahead: float = 0.0, patience: float = 60.0) -> Iterator[SQLiteLimits]:
    """The engine in this process, whose clock may be so many seconds ahead."""
    engine = SQLiteLimits(path, clock=lambda: datetime.now(UTC), monotonic=lambda: host_seconds() + ahead, patience=patience)
    try:
        yield engine
    finally:
        engine.close()


def test_eight_processes_admit_exactly_the_limit(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """8 processes × 500 requests on a limit of 1,000: 1,000 are admitted, and every slot is free again."""
    path = tmp_path / "limits.db"
    with workers(path, FIVE_HUNDRED, *range(PROCESSES)) as started:
        began = time.monotonic()
        for worker in started:
            worker.tell()
        admitted = [int(worker.hear()) for worker in started]
        seconds = time.monotonic() - began
    with limits(path) as engine:
        used = [state.used for state in engine.states([REQUESTS, SLOTS])]
    shares = f"{min(admitted)} to {max(admitted)} in one process"
    record_property("counts", f"{PROCESSES} × 500 requests on a limit of 1,000: {sum(admitted):,} admitted ({shares}), in {seconds:.1f} s")
    assert sum(admitted) == 1_000
    assert used == [1_000, 0]


def test_killed_workers_never_admit_more(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """SIGKILL at any moment, 64 times: what was admitted is counted, no more than the limit is, and the slots of the dead return."""
    path = tmp_path / "limits.db"
    chance = random.Random(3)
    heard = 0
    for round_ in range(ROUNDS):
        with workers(path, UNTIL_REFUSED, *(f"{round_}-{number}" for number in range(PROCESSES))) as doomed:
            for worker in doomed:
                worker.tell()
            for worker in doomed:
                time.sleep(chance.random() / 500)
                worker.process.kill()
            for worker in doomed:
                while worker.hear().startswith("admitted"):
                    heard += 1
    with limits(path) as engine, workers(path, UNTIL_REFUSED, *range(PROCESSES)) as living:
        before = engine.states([REQUESTS])[0].used
        for worker in living:
            worker.tell()
        for worker in living:
            while (line := worker.hear()).startswith("admitted"):
                heard += 1
            assert line == "refused 1000"
        used, held = (state.used for state in engine.states([REQUESTS, SLOTS]))
    lost = used - heard
    with limits(path, ahead=LEASE.total_seconds() + 1) as engine:
        slots = engine.states([SLOTS])[0].used
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
    counts = f"{KILLS} workers killed after {before} admissions, 8 went on: {used:,} of 1,000 used, {heard} heard of, {lost} died unheard"
    record_property("counts", f"{counts}; {held} slots never given back, {slots} held after their leases")
    assert 0 < before < 1_000, "nothing to kill in, or nothing left to find out at the end"
    assert heard <= used == 1_000
    assert lost <= KILLS
    assert held > 0 == slots


def test_two_hundred_concurrent_calls_stay_under_the_cap(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """200 calls at once in 8 processes reserve 800 and use 500 under a cap of 10,000: never above, and refunds admit more."""
    path = tmp_path / "limits.db"
    admitted, highest = [], 0
    with workers(path, TWENTY_FIVE, *range(PROCESSES)) as started, limits(path) as engine:
        for turn in range(2):
            for worker in started:
                worker.tell()
            said = [worker.hear().split() for worker in started]
            admitted.append(sum(int(count) for count, _ in said))
            highest = max(highest, *(int(used) for _, used in said), engine.states([TOKENS])[0].used)
            if turn == 0:
                for worker in started:
                    worker.tell()
                assert {worker.hear() for worker in started} == {"settled"}
                refunded = engine.states([TOKENS])[0].used
    record_property(
        "counts",
        f"{PROCESSES * 25} calls: {admitted[0]} admitted; {refunded:,} used after refunds; then {admitted[1]} of as many more;"
        f" at most {highest:,} of 10,000 used",
    )
    assert admitted == [12, 5]
    assert refunded == 12 * 500
    assert highest == 10_000


def test_a_stopped_process_stops_nobody_else_for_ever(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """SIGSTOP in the middle of a call: others get an error when their patience ends, can look, and go on when it does."""
    path = tmp_path / "limits.db"
    with limits(path, patience=0.3) as engine, workers(path, HOLDING, 1) as (worker,):
        held = engine.reserve([REQUESTS, SLOTS], id="before", lease=LEASE)
        assert isinstance(held, Reservation)
        worker.tell()
        assert worker.hear() == "holding"
        worker.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        for call in (
            lambda: engine.reserve([REQUESTS], id="meanwhile", lease=LEASE),
            lambda: engine.settle(held, None),
            lambda: engine.renew(held, lease=LEASE),
            lambda: engine.cancel(held),
        ):
            with pytest.raises(StoreError, match=r"limits\.db\.lock: another writer has held the lock for 0\.3 s"):
                call()
        waited = (time.monotonic() - began) / 4
        assert [state.used for state in engine.states([REQUESTS, SLOTS])] == [1, 1]
        worker.process.send_signal(signal.SIGCONT)
        worker.tell()
        assert worker.hear() == "done"
        engine.settle(held, None)
        assert [state.used for state in engine.states([REQUESTS, SLOTS])] == [1, 0]
    record_property("counts", f"a writer stopped by SIGSTOP: others were told after {waited:.2f} s each (patience 0.3 s)")
    assert 0.3 <= waited < 2


def test_a_fork_under_load_counts_everything_once(tmp_path: Path) -> None:
    """Workers that are forked from a process that counts all the while admit, together with it, exactly the limit."""
    path = tmp_path / "limits.db"
    with limits(path) as engine:
        admitted, children = 0, []
        for number in range(600):
            admitted += isinstance(engine.reserve([REQUESTS], id=f"parent-{number}", lease=LEASE), Reservation)
            if number % 150 == 0:
                child = os.fork()
                if not child:
                    answers = [engine.reserve([REQUESTS], id=f"{os.getpid()}-{each}", lease=LEASE) for each in range(200)]
                    os._exit(sum(isinstance(answer, Reservation) for answer in answers))
                children.append(child)
        admitted += sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        assert admitted == 1_000
        assert isinstance(engine.reserve([REQUESTS], id="last", lease=LEASE), LimitRefusal)


FORKED_GUARD = """
import asyncio, os, sys
from pathlib import Path
from kit import Kit, ask, whole
from tos_guard.guard import utc_now
from tos_guard.limits import *
from tos_guard.stores import SQLiteLimits

requests = Limit(id="requests", quantity=Quantity.REQUESTS, amount=2, per=(Dimension.ACCOUNT,), window=Sliding(3600))
kit = Kit(limits=[requests], engine=SQLiteLimits(Path(sys.argv[1]), clock=utc_now))
app = kit.wrap(whole(b'{"choices":[]}'))
served = lambda: asyncio.run(asyncio.wait_for(ask(app, key=kit.key), 20)).status
assert served() == 200
child = os.fork()
if not child:
    os._exit(0 if served() == 200 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert served() == 429
kit.guard.close_stores()
"""


def test_a_guard_that_was_used_before_a_fork_serves_in_the_child(tmp_path: Path) -> None:
    """Its threads stayed with the parent: what the child gave to them waited for ever."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED_GUARD, str(tmp_path / "limits.db")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stderr
