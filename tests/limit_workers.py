"""Processes that use limits which a fleet shares in Valkey, and say what they were answered. They begin at a line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tos_guard.guard import utc_now
from tos_guard.limits import Charge, Dimension, Limit, Quantity, Sliding
from tos_guard.stores import SQLiteStore, ValkeyLimits

PROCESSES = 8
AMOUNT = 1_000
PER = (Dimension.ACCOUNT,)
REQUESTS = Charge(Limit(id="requests", quantity=Quantity.REQUESTS, amount=AMOUNT, per=PER, window=Sliding(3_600)), ("acme",), 1)
SLOTS = Charge(Limit(id="running", quantity=Quantity.CONCURRENCY, amount=500, per=PER, window=None), ("acme",), 1)
LEASE = timedelta(seconds=60)

# What every worker begins with. Its deadline is long, for the machine may be busy: a dead engine refuses connections at once.
HEAD = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tos_guard.errors import *
from tos_guard.limits import *
from tos_guard.stores import SQLiteStore, ValkeyLimits

url, folder, domain, name = sys.argv[1:]
per = (Dimension.ACCOUNT,)
requests = Charge(Limit(id="requests", quantity=Quantity.REQUESTS, amount=1000, per=per, window=Sliding(3600)), ("acme",), 1)
slots = Charge(Limit(id="running", quantity=Quantity.CONCURRENCY, amount=500, per=per, window=None), ("acme",), 1)
store = SQLiteStore(Path(folder) / "guard.db", issuer="https://api.example", clock=lambda: datetime.now(UTC))
epochs = []
engine = ValkeyLimits(url, domain=domain, note_domain=store.note_limits_domain, deadline=timedelta(seconds=20), told=epochs.append)
number = 0

def say(*words):
    print(*words, flush=True)

def reserve(*charges):
    global number
    number += 1
    return engine.reserve(charges, id=f"{name}-{number}", lease=timedelta(seconds=60))

say("ready")
sys.stdin.readline()
"""

# 500 requests, each settled; how many were admitted.
FIVE_HUNDRED = """
admitted = 0
for _ in range(500):
    answer = reserve(requests, slots)
    if isinstance(answer, Reservation):
        admitted += 1
        engine.settle(answer, None)
say(admitted)
"""

# Requests until one is refused or fails, each said once it is admitted; and again, as often as told. Then why it stopped, and the epoch.
UNTIL_STOPPED = """
while True:
    stopped = ""
    while not stopped:
        try:
            answer = reserve(requests, slots)
            if isinstance(answer, Reservation):
                say("admitted")
                if number % 4:
                    engine.settle(answer, None)
            else:
                stopped = "refused"
        except StoreError as error:
            stopped = type(error).__name__
    say(stopped, epochs[-1].cause if epochs else "none")
    sys.stdin.readline()
"""


class Worker:
    """A process that uses the limits."""

    def __init__(self, url: str, folder: Path, domain: str, name: str, script: str) -> None:
        command = [sys.executable, "-c", HEAD + script, url, str(folder), domain, name]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

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

    def run(self) -> tuple[int, str]:
        """Tell it to go on, and listen until it stops: how many it admitted, and why it stopped."""
        self.tell()
        return self.listen()

    def listen(self) -> tuple[int, str]:
        admitted = 0
        while (line := self.hear()) == "admitted":
            admitted += 1
        return admitted, line


@contextmanager
def workers(url: str, folder: Path, domain: str, script: str, *names: object) -> Iterator[list[Worker]]:
    """Processes of these names, at the same line."""
    started = [Worker(url, folder, domain, f"worker-{name}", script) for name in names]
    try:
        assert {worker.hear() for worker in started} == {"ready"}
        yield started
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.communicate()


def all_run(started: list[Worker]) -> list[tuple[int, str]]:
    """Let all go on at once, and listen to each until it stops."""
    for worker in started:
        worker.tell()
    return [worker.listen() for worker in started]


@contextmanager
def limits(url: str, folder: Path, domain: str, **options: Any) -> Iterator[ValkeyLimits]:
    """The engine in this process."""
    with SQLiteStore(folder / "guard.db", issuer="https://api.example", clock=utc_now) as store:
        told: dict[str, Any] = {"deadline": timedelta(seconds=20), "note_domain": store.note_limits_domain} | options
        engine = ValkeyLimits(url, domain=domain, **told)
        try:
            yield engine
        finally:
            engine.close()


def used(url: str, folder: Path, domain: str) -> list[int]:
    with limits(url, folder, domain) as engine:
        return [state.used for state in engine.states([REQUESTS, SLOTS])]
