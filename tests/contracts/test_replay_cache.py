"""The contract of `ReplayCache`, over every implementation of ours."""

from __future__ import annotations

import dataclasses
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from awaited import AwaitedReplays
from tos_guard.errors import StoreError
from tos_guard.protocols import ReplayCache
from tos_guard.stores import AsyncFallbackReplays, AsyncValkeyReplays, FallbackReplays, MemoryReplays, SQLiteReplays, ValkeyReplays
from tos_guard.testing import FixedClock

KEEP = timedelta(minutes=2)


@dataclasses.dataclass
class Case:
    """One implementation, a second view of the same state, and whether that has a past of its own."""

    cache: ReplayCache
    peer: ReplayCache
    clock: FixedClock

    def use(self, number: int = 1, *, age: float = 0.0, peer: bool = False) -> str:
        made_after = self.clock() - timedelta(seconds=age)
        return (self.peer if peer else self.cache).use(number.to_bytes(32, "big"), made_after=made_after, keep=KEEP)


@pytest.fixture(params=["memory", "sqlite", "fallback", "valkey", "async valkey", "async fallback"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    clock = FixedClock()
    opened: list[ReplayCache] = []
    shared = request.param not in ("memory", "fallback")
    fleet: Any = {"domain": f"test-{secrets.token_hex(6)}", "clock": clock, "clocks_apart": timedelta(0)}
    # Its deadline is not what is tested here, and the machine may be busy.
    fleet |= {"deadline": timedelta(seconds=20), "unsafe_time": lambda: int(clock().timestamp() * 1000)}

    def open_cache() -> ReplayCache:
        if "valkey" in request.param or request.param == "async fallback":
            url = request.getfixturevalue("valkey")
            if request.param == "valkey":
                opened.append(ValkeyReplays(url, **fleet))
            elif request.param == "async valkey":
                opened.append(AwaitedReplays(AsyncValkeyReplays(url, **fleet)))
            else:
                engine = AsyncValkeyReplays(url, **fleet)
                mode: Any = {"is_local": True, "on_use": lambda error: pytest.fail(str(error)), "clock": clock}
                opened.append(AwaitedReplays(AsyncFallbackReplays(engine, **mode)))
        elif request.param == "sqlite":
            opened.append(SQLiteReplays(tmp_path / "replays.db", clock=clock, boot=lambda: "boot-1"))
        elif request.param == "memory":
            opened.append(MemoryReplays(clock=clock))
        else:
            alone = MemoryReplays(clock=clock)
            opened.append(FallbackReplays(alone, is_local=True, on_use=lambda error: pytest.fail(str(error)), clock=clock))
        return opened[-1]

    cache = open_cache()
    found = Case(cache, open_cache() if shared else cache, clock)
    assert found.use(0) == "forgotten"  # the state begins with the first question
    clock.advance(timedelta(seconds=60))
    yield found
    for each in opened:
        each.end() if isinstance(each, AwaitedReplays) else each.close()


def test_a_proof_is_used_once_whoever_asks(case: Case) -> None:
    assert [case.use(), case.use(), case.use(peer=True)] == ["first", "used", "used"]
    assert case.use(2, peer=True) == "first"
    assert case.use(2) == "used"


def test_a_proof_is_remembered_for_as_long_as_it_could_be_used_again(case: Case) -> None:
    case.use()
    case.clock.advance(KEEP - timedelta(microseconds=1))
    assert case.use(age=110) == "used"
    case.clock.advance(timedelta(microseconds=1))
    assert case.use(age=0) == "first"


def test_of_what_was_before_it_began_nothing_is_known(case: Case) -> None:
    """It may have been used: with an earlier state that was lost, or in another process."""
    assert case.use(age=59) == "first"
    assert case.use(2, age=60) == "forgotten"
    assert case.use(2, age=61) == "forgotten"
    assert case.use(2) == "first"


def test_a_clock_that_is_set_back_makes_nothing_forgotten(case: Case) -> None:
    case.use()
    case.clock.advance(-timedelta(seconds=30))
    assert case.use() == "used"
    case.clock.advance(KEEP)
    assert case.use() == "used"


def test_of_a_hundred_who_ask_at_once_one_is_first(case: Case) -> None:
    with ThreadPoolExecutor(25) as threads:
        said = list(threads.map(lambda number: case.use(7, peer=bool(number % 2)), range(100)))
    assert sorted(said) == ["first"] + ["used"] * 99


def test_what_is_closed_says_nothing(case: Case) -> None:
    case.cache.close()
    with pytest.raises(StoreError):
        case.use()


def test_state_does_not_grow_beyond_what_is_remembered(case: Case, tmp_path: Path) -> None:
    for number in range(100):
        case.use(number + 10)
        case.clock.advance(KEEP)
    known = case.cache
    if isinstance(known, MemoryReplays):
        assert len(known._until) == 1
    elif isinstance(known, SQLiteReplays):
        with known._database.read() as connection:
            assert connection.execute("SELECT count(*) FROM used").fetchone()[0] <= 2


def test_a_full_memory_refuses_the_newest_and_forgets_none() -> None:
    clock = FixedClock()
    cache = MemoryReplays(clock=clock, most=2)
    clock.advance(timedelta(seconds=1))
    use: Callable[[int], str] = lambda number: cache.use(bytes([number]) * 32, made_after=clock(), keep=KEEP)  # noqa: E731 - one line
    assert [use(1), use(2)] == ["first", "first"]
    with pytest.raises(StoreError, match="2 proofs"):
        use(3)
    assert use(1) == "used"


def test_after_a_restart_of_the_machine_the_file_begins_anew(tmp_path: Path) -> None:
    """Its commits do not wait for the disk: what the crash took is not known."""
    clock = FixedClock()
    first = SQLiteReplays(tmp_path / "r.db", clock=clock, boot=lambda: "boot-1")
    first.use(b"0" * 32, made_after=clock(), keep=KEEP)
    clock.advance(timedelta(seconds=10))
    assert first.use(b"1" * 32, made_after=clock(), keep=KEEP) == "first"
    first.close()
    clock.advance(timedelta(seconds=10))
    again = SQLiteReplays(tmp_path / "r.db", clock=clock, boot=lambda: "boot-2")
    assert again.use(b"1" * 32, made_after=clock() - timedelta(seconds=10), keep=KEEP) == "used"
    assert again.use(b"2" * 32, made_after=clock() - timedelta(seconds=5), keep=KEEP) == "forgotten"
    clock.advance(timedelta(seconds=10))
    assert again.use(b"2" * 32, made_after=clock() - timedelta(seconds=5), keep=KEEP) == "first"
    again.close()


class Broken:
    """An engine that fails when told to."""

    blocks = False

    def __init__(self, clock: FixedClock) -> None:
        self.engine = MemoryReplays(clock=clock)
        self.fails = False

    def use(self, use: bytes, *, made_after: object, keep: timedelta) -> str:
        if self.fails:
            raise StoreError("the engine is down")
        return self.engine.use(use, made_after=made_after, keep=keep)  # type: ignore[arg-type]

    def close(self) -> None:
        self.engine.close()


def test_when_the_engine_fails_the_mode_decides_and_no_proof_passes_twice_here() -> None:
    clock, uses = FixedClock(), list[StoreError]()
    engines = {mode: Broken(clock) for mode in ("local", "deny")}
    caches = {
        mode: FallbackReplays(engine, is_local=mode == "local", on_use=uses.append, clock=clock)  # type: ignore[arg-type]
        for mode, engine in engines.items()
    }
    clock.advance(timedelta(seconds=1))
    for cache in caches.values():
        assert cache.use(b"1" * 32, made_after=clock(), keep=KEEP) == "first"
    for engine in engines.values():
        engine.fails = True
    with pytest.raises(StoreError, match="down"):
        caches["deny"].use(b"2" * 32, made_after=clock(), keep=KEEP)
    assert not uses
    local = caches["local"]
    assert local.use(b"1" * 32, made_after=clock(), keep=KEEP) == "used"
    assert local.use(b"2" * 32, made_after=clock(), keep=KEEP) == "first"
    assert local.use(b"2" * 32, made_after=clock(), keep=KEEP) == "used"
    assert len(uses) == 3


PROCESS = """
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tos_guard.stores import SQLiteReplays
cache = SQLiteReplays(Path(sys.argv[1]), clock=lambda: datetime.now(UTC))
print("ready", flush=True)
sys.stdin.readline()
made = datetime.fromtimestamp(float(sys.argv[2]), UTC)
keep = timedelta(minutes=2)
said = [cache.use(bytes([turn]) * 32, made_after=made, keep=keep) for turn in range(25) for _ in range(25)]
print(said.count("first"), flush=True)
"""


def test_four_processes_that_replay_a_hundred_times_pass_each_proof_once(tmp_path: Path) -> None:
    """25 proofs, each tried 25 times by each of 4 processes at once."""
    path = tmp_path / "replays.db"
    subprocess.run([sys.executable, "-c", PROCESS, str(path), "0"], input="\n", capture_output=True, text=True, check=True)
    environment = dict(os.environ)
    made = str(time.time() + 1)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path), made], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    passed = 0
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        passed += int(worker.communicate()[0])
    assert passed == 25
