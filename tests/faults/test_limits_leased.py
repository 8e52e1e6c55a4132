"""Blocks of limits that processes of a fleet spend alone, in Valkey: never more than the limit, whoever is killed; and how many fewer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import Valkey, running
from limit_workers import AMOUNT, FIVE_HUNDRED, PROCESSES, UNTIL_STOPPED, all_run, used, workers

Told = Callable[[str, object], None]

# Before what a worker does: it spends blocks of 2 %, and counts what it asks the engine.
LEASED = """
from tos_guard.stores import LeasedLimits

asked = 0

class Counted:
    blocks = True
    def __init__(self, engine):
        self._engine = engine
    def __getattr__(self, name):
        global asked
        asked += name != "close"
        return getattr(self._engine, name)

engine = LeasedLimits(Counted(engine), share=0.02)
"""

# After it: what is left goes back, and how often the engine was asked is said.
CLOSED = """
engine.close()
say(asked)
"""


@pytest.fixture
def domain() -> str:
    return f"test-{secrets.token_hex(6)}"


def test_eight_processes_admit_no_more_than_the_limit(valkey: str, tmp_path: Path, domain: str, record_property: Told) -> None:
    """8 processes × 500 requests on a limit of 1,000, with blocks of 2 %: no more than 1,000, all of which are counted; few are missing."""
    with workers(valkey, tmp_path, domain, LEASED + FIVE_HUNDRED + CLOSED, *range(PROCESSES)) as started:
        began = time.monotonic()
        for worker in started:
            worker.tell()
        admitted = [int(worker.hear()) for worker in started]
        seconds = time.monotonic() - began
        asked = [int(worker.hear()) for worker in started]
    counted, held = used(valkey, tmp_path, domain)
    record_property(
        "counts",
        f"{PROCESSES} × 500 requests on a limit of {AMOUNT:,}: {sum(admitted):,} admitted ({AMOUNT - sum(admitted)} fewer),"
        f" {min(admitted)} to {max(admitted)} in one process; Valkey asked {sum(asked):,} times; {seconds:.1f} s",
    )
    assert AMOUNT * 0.9 <= sum(admitted) <= AMOUNT
    assert (counted, held) == (sum(admitted), 0)


def test_killed_workers_leave_their_blocks_used(valkey: str, tmp_path: Path, domain: str, record_property: Told) -> None:
    """SIGKILL at any moment, 8 times: what was admitted is counted, what was held is lost until the window is over, and no more."""
    heard = 0
    with workers(valkey, tmp_path, domain, LEASED + UNTIL_STOPPED, *(f"doomed-{number}" for number in range(PROCESSES))) as doomed:
        for worker in doomed:
            worker.tell()
        for number, worker in enumerate(doomed):
            for _ in range(5 * number):
                heard += worker.hear() == "admitted"
            worker.process.kill()
        heard += sum(worker.listen()[0] for worker in doomed)
    before = used(valkey, tmp_path, domain)[0]
    with workers(valkey, tmp_path, domain, LEASED + UNTIL_STOPPED, *range(PROCESSES)) as living:
        told = all_run(living)
    heard += sum(admitted for admitted, _ in told)
    counted = used(valkey, tmp_path, domain)[0]
    record_property(
        "counts",
        f"{PROCESSES} workers killed with {before} used, 8 went on: {heard} admissions heard of, {counted:,} of {AMOUNT:,} used,"
        f" {counted - heard} lost with blocks or died unheard",
    )
    assert {why.split()[0] for _, why in told} == {"refused"}
    assert heard <= counted <= AMOUNT
    # A block that has just ended, and the next.
    assert counted - heard <= PROCESSES * (AMOUNT * 0.02 * 2 + 1)


@pytest.mark.parametrize(("persist", "why"), [(None, "LimitsForgottenError"), ("always", "refused")], ids=["no persistence", "always"])
def test_a_killed_engine_ends_the_blocks(tmp_path: Path, domain: str, persist: str | None, why: str, record_property: Told) -> None:
    """``kill -9`` of Valkey under load, restarted: with what was admitted before and after there are no more than the limit."""
    with (
        running(lambda folder: Valkey(folder, persist=persist)) as engine,
        workers(engine.url, tmp_path, domain, LEASED + UNTIL_STOPPED, *range(4)) as started,
    ):
        for worker in started:
            worker.tell()
        heard = sum(started[0].hear() == "admitted" for _ in range(40))
        engine.kill()
        first = [worker.listen() for worker in started]
        heard += sum(admitted for admitted, _ in first)
        engine.start()
        second = all_run(started)
    more = sum(admitted for admitted, _ in second)
    causes = "/".join(sorted({told for _, told in second}))
    record_property("counts", f"{heard} admitted, Valkey killed and restarted, {more} more ({causes})")
    assert heard + more <= AMOUNT
    assert {told.split()[0] for _, told in second} == {why}
