"""Limits that a fleet shares in Valkey: exact under load, and never above the limit whoever is killed, stopped, promoted or garbled.

The limit is on an hour, so that nothing comes back meanwhile. Processes begin at a line, say what they were answered, and are never told
how the engine is: what they notice they notice by themselves.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from awaited import Awaited
from engines import Valkey, running
from limit_workers import AMOUNT, FIVE_HUNDRED, LEASE, PROCESSES, REQUESTS, SLOTS, UNTIL_STOPPED, all_run, limits, used, workers
from proxies import Proxy
from tos_guard.errors import LimitsForgottenError, StoreError
from tos_guard.limits import LimitRefusal, Reservation
from tos_guard.protocols import LimitEngine
from tos_guard.stores import AsyncValkeyLimits, ValkeyLimits

Told = Callable[[str, object], None]


@pytest.fixture
def domain() -> str:
    return f"test-{secrets.token_hex(6)}"


def test_eight_processes_admit_exactly_the_limit(valkey: str, tmp_path: Path, domain: str, record_property: Told) -> None:
    """8 processes × 500 requests on a limit of 1,000: 1,000 are admitted, every slot is free again, and nothing is in doubt."""
    with workers(valkey, tmp_path, domain, FIVE_HUNDRED, *range(PROCESSES)) as started:
        began = time.monotonic()
        for worker in started:
            worker.tell()
        admitted = [int(worker.hear()) for worker in started]
        seconds = time.monotonic() - began
    shares = f"{min(admitted)} to {max(admitted)} in one process"
    record_property(
        "counts", f"{PROCESSES} × 500 requests on a limit of {AMOUNT:,}: {sum(admitted):,} admitted ({shares}), {seconds:.1f} s"
    )
    assert sum(admitted) == AMOUNT
    assert used(valkey, tmp_path, domain) == [AMOUNT, 0]


def test_killed_workers_never_admit_more(valkey: str, tmp_path: Path, domain: str, record_property: Told) -> None:
    """SIGKILL at any moment, 8 times: what was admitted is counted, and no more than the limit is."""
    heard, killed = 0, 0
    with workers(valkey, tmp_path, domain, UNTIL_STOPPED, *(f"doomed-{number}" for number in range(PROCESSES))) as doomed:
        for worker in doomed:
            worker.tell()
        for number, worker in enumerate(doomed):
            for _ in range(5 * number):
                heard += worker.hear() == "admitted"
            worker.process.kill()
            killed += 1
        heard += sum(worker.listen()[0] for worker in doomed)
    before = used(valkey, tmp_path, domain)[0]
    with workers(valkey, tmp_path, domain, UNTIL_STOPPED, *range(PROCESSES)) as living:
        told = all_run(living)
    heard += sum(admitted for admitted, _ in told)
    counted, held = used(valkey, tmp_path, domain)
    lost = counted - heard
    record_property(
        "counts",
        f"{killed} workers killed after {before} admissions, 8 went on: {counted:,} of {AMOUNT:,} used, {heard} heard of,"
        f" {lost} died unheard; {held} slots held until their leases end",
    )
    assert {why for _, why in told} == {"refused same"}
    assert 0 < before < AMOUNT, "nothing to kill in, or nothing left to find out at the end"
    assert heard <= counted == AMOUNT
    assert lost <= killed
    assert held > 0


@pytest.mark.parametrize(
    ("persist", "cause", "error"),
    [(None, "gone", LimitsForgottenError), ("everysec", "changed", LimitsForgottenError), ("always", "kept", None)],
    ids=["no persistence", "everysec", "always"],
)
def test_a_killed_engine_never_admits_more(
    tmp_path: Path, domain: str, persist: str | None, cause: str, error: type[StoreError] | None, record_property: Told
) -> None:
    """``kill -9`` of Valkey under load, restarted: who counted before and who comes anew notice it, and say so.

    With all on disk before it is answered they go on where they were; otherwise the limit is in doubt until its window is over.
    """
    with (
        running(lambda folder: Valkey(folder, persist=persist)) as engine,
        workers(engine.url, tmp_path, domain, UNTIL_STOPPED, *range(4)) as started,
    ):
        for worker in started:
            worker.tell()
        heard = sum(started[0].hear() == "admitted" for _ in range(40))
        engine.kill()
        first = [worker.listen() for worker in started]
        heard += sum(admitted for admitted, _ in first)
        assert all(why.startswith("StoreError") for _, why in first), first
        assert heard < AMOUNT, "nothing left to find out"
        engine.start()
        with workers(engine.url, tmp_path, domain, UNTIL_STOPPED, "new") as new:
            second = all_run([*started, *new])
        more = sum(admitted for admitted, _ in second)
        if error is None:
            counted = used(engine.url, tmp_path, domain)[0]
            lost = counted - heard - more
            said = f"{counted:,} counted, {lost} of them unheard"
            assert counted == AMOUNT
            assert 0 <= lost <= 4
        else:
            said = f"then {error.__name__} from all {len(second)}"
            with (
                limits(engine.url, tmp_path, domain) as late,
                pytest.raises(LimitsForgottenError, match="limit requests had counted") as told,
            ):
                late.reserve([REQUESTS], id="late", lease=LEASE)
            assert 3_600 < told.value.seconds <= 3_905
    causes = {why.split()[1] for _, why in second}
    record_property("counts", f"{heard} admitted, Valkey killed and restarted ({'/'.join(sorted(causes))}), {more} more; {said}")
    assert heard + more <= AMOUNT
    assert cause in causes <= {cause, "same", "begun"}
    assert {why.split()[0] for _, why in second} == {"refused" if error is None else error.__name__}


def test_everything_killed_at_once_is_noticed(tmp_path: Path, domain: str, record_property: Told) -> None:
    """An engine that keeps nothing and all its workers die together: the store knows that the domain has lived, and the engine does not."""
    with running(Valkey) as engine:
        with workers(engine.url, tmp_path, domain, UNTIL_STOPPED, *range(2)) as doomed:
            for worker in doomed:
                worker.tell()
            heard = sum(worker.hear() == "admitted" for worker in doomed for _ in range(20))
            engine.kill()
        engine.start()
        with workers(engine.url, tmp_path, domain, UNTIL_STOPPED, "new", "newer") as new:
            told = all_run(new)
    record_property("counts", f"{heard} admitted, engine and workers killed; those that came after: {told}")
    assert [admitted for admitted, _ in told] == [0, 0]
    assert sorted(why for _, why in told) == ["LimitsForgottenError gone", "LimitsForgottenError same"]


def test_an_engine_that_was_restored_from_a_backup_is_noticed(tmp_path: Path, domain: str) -> None:
    """It promises that it loses nothing, and the backup has an epoch: but not the one that its processes have counted in since."""
    with running(lambda folder: Valkey(folder, persist="always")) as engine, limits(engine.url, tmp_path, domain) as own:
        kept, backup = engine.folder / "appendonlydir", tmp_path / "backup"
        assert isinstance(retried(lambda: own.reserve([REQUESTS], id="before", lease=LEASE)), Reservation)
        engine.kill()
        shutil.copytree(kept, backup)
        shutil.rmtree(kept)
        engine.start()
        for _ in range(2):  # the first finds that the connection is gone
            with pytest.raises(StoreError):
                own.reserve([REQUESTS], id="meanwhile", lease=LEASE)
        engine.kill()
        shutil.rmtree(kept)
        shutil.copytree(backup, kept)
        engine.start()
        causes = []
        for _ in range(3):
            with pytest.raises(StoreError):
                own.reserve([REQUESTS], id="after", lease=LEASE)
            causes.append(own.epoch.cause if own.epoch is not None else "")
        assert "changed" in causes


@dataclass
class Pair:
    """A primary and its replica."""

    primary: Valkey
    replica: Valkey

    def wait_for_copy(self) -> None:
        """Until the replica has what the primary has."""
        with self.primary.client() as client:
            assert client.wait(1, 20_000) == 1

    def follow(self, engine: Valkey, other: Valkey | None) -> None:
        """Make one the replica of another, or a primary; until it is."""
        with engine.client() as client:
            client.replicaof(*(("no", "one") if other is None else ("127.0.0.1", other.port)))
            deadline = time.monotonic() + 20
            while other is not None and client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < deadline


@pytest.fixture
def pair() -> Iterator[Pair]:
    with (
        running(lambda folder: Valkey(folder, persist="always")) as primary,
        running(lambda folder: Valkey(folder, persist="always", replica_of=primary.port)) as replica,
    ):
        both = Pair(primary, replica)
        both.follow(replica, primary)
        yield both


def test_a_promoted_replica_beside_a_living_primary_never_admits_more(
    pair: Pair, tmp_path: Path, domain: str, record_property: Told
) -> None:
    """Split in two, the primary's side counts on to the limit; the promoted side is in doubt, and so is whoever moves over."""
    with Proxy(pair.primary.port) as proxy, workers(pair.primary.url, tmp_path, domain, UNTIL_STOPPED, *range(4)) as primaries:
        for worker in primaries:
            worker.tell()
        heard = sum(worker.hear() == "admitted" for worker in primaries for _ in range(20))
        pair.follow(pair.replica, None)
        with workers(pair.replica.url, tmp_path, domain, UNTIL_STOPPED, *(f"promoted-{number}" for number in range(4))) as promoted:
            other_side = all_run(promoted)
        with workers(f"redis://127.0.0.1:{proxy.port}/0", tmp_path, domain, UNTIL_STOPPED, "moving") as (moving,):
            moved = [moving.run()]
            proxy.target = pair.replica.port
            proxy.drop()
            moved.append(moving.run())
        own_side = [worker.listen() for worker in primaries]
    heard += sum(admitted for admitted, _ in [*own_side, *moved])
    more = sum(admitted for admitted, _ in other_side)
    record_property("counts", f"primary's side: {heard:,} admitted; promoted side: {more}, {other_side[0][1]}; moved over: {moved[-1][1]}")
    assert (heard, more) == (AMOUNT, 0)
    assert {why.split()[0] for _, why in other_side} == {"LimitsForgottenError"}
    assert [why.split()[0] for _, why in moved] == ["refused", "LimitsForgottenError"]


def test_an_engine_that_was_a_replica_meanwhile_is_noticed(pair: Pair, tmp_path: Path, domain: str) -> None:
    """It was never restarted, and has the script: another primary has counted since, and what that one counted last may be lost."""
    with limits(pair.primary.url, tmp_path, domain) as engine:
        assert isinstance(engine.reserve([REQUESTS], id="before", lease=LEASE), Reservation)
        before = engine.epoch
        pair.wait_for_copy()
        pair.follow(pair.replica, None)
        pair.follow(pair.primary, pair.replica)
        with pytest.raises(StoreError, match=r"READONLY|replica"):
            engine.reserve([REQUESTS], id="meanwhile", lease=LEASE)
        pair.follow(pair.primary, None)
        with pytest.raises(LimitsForgottenError):
            engine.reserve([REQUESTS], id="after", lease=LEASE)
        assert before is not None
        assert engine.epoch is not None
        assert engine.epoch.id != before.id


def test_a_stopped_engine_fails_within_the_deadline_and_goes_on(tmp_path: Path, domain: str, record_property: Told) -> None:
    """SIGSTOP: calls end with their deadline; what was taken without an answer stays counted, and nothing is taken twice."""
    waits = []
    with running(Valkey) as engine, limits(engine.url, tmp_path, domain, deadline=timedelta(milliseconds=250)) as own:
        admitted = [retried(lambda: own.reserve([REQUESTS, SLOTS], id="first", lease=LEASE))]
        engine.pause()
        for number in range(5):
            began = time.monotonic()
            with pytest.raises(StoreError, match="deadline"):
                own.reserve([REQUESTS, SLOTS], id=f"stopped-{number}", lease=LEASE)
            waits.append(time.monotonic() - began)
        engine.resume()
        admitted.append(retried(lambda: own.reserve([REQUESTS, SLOTS], id="last", lease=LEASE)))
        counted = used(engine.url, tmp_path, domain)[0]
    record_property(
        "counts", f"5 calls to a stopped engine: {min(waits):.2f} to {max(waits):.2f} s each (deadline 0.25 s); {counted} counted"
    )
    assert all(isinstance(answer, Reservation) for answer in admitted)
    assert 0.25 <= min(waits) <= max(waits) < 1
    assert 2 <= counted <= 7


def retried(call: Callable[[], Any]) -> Any:
    """On a busy machine a deadline that is right for production may pass."""
    for _ in range(20):
        try:
            return call()
        except StoreError:
            continue
        except ValueError:  # the answer was lost, and it was taken
            return Reservation("", ())
    raise AssertionError("never answered")


@pytest.mark.parametrize("colour", ["threads", "loop"])
@pytest.mark.parametrize("fault", ["delay", "cut", "cut within", "garble", "swap", "halve", "stall"])
def test_answers_that_are_late_cut_or_senseless_are_failures(
    valkey: str, tmp_path: Path, domain: str, fault: str, colour: str, record_property: Told
) -> None:
    """Each is a `StoreError` within the deadline, never a traceback or a wrong answer; healed, the next call is answered."""
    port = int(valkey.rpartition(":")[2].partition("/")[0])
    deadline = timedelta(milliseconds=400)
    with Proxy(port) as proxy:
        told: dict[str, Any] = {"domain": domain, "note_domain": lambda domain: True, "deadline": deadline}
        url = f"redis://127.0.0.1:{proxy.port}/0"
        engine: LimitEngine = ValkeyLimits(url, **told) if colour == "threads" else Awaited(AsyncValkeyLimits(url, **told))
        retried(lambda: engine.reserve([REQUESTS], id="before", lease=LEASE))
        match fault:
            case "delay":
                proxy.delay(2)
            case "cut":
                proxy.cut()
            case "cut within":
                proxy.cut(after=9)
            case "garble":
                proxy.garble()
            case "swap":
                proxy.garble(lambda answer: answer.replace(b":0", b":1"))
            case "halve":
                proxy.halve()
            case "stall":
                proxy.stall()
        waits = []
        for number in range(3):
            began = time.monotonic()
            with pytest.raises(StoreError) as failed:
                engine.reserve([REQUESTS], id=f"broken-{number}", lease=LEASE)
            waits.append(time.monotonic() - began)
        assert failed.value.where
        proxy.heal()
        healed = retried(lambda: engine.reserve([REQUESTS], id="after", lease=LEASE))
        counted = retried(lambda: engine.states([REQUESTS]))[0].used
        engine.end() if isinstance(engine, Awaited) else engine.close()
    record_property("counts", f"{fault}, {colour}: {failed.value.what}; {max(waits):.2f} s at most; {counted} counted")
    assert isinstance(healed, Reservation)
    assert max(waits) < 1
    assert counted <= 5 + 20


def test_a_forked_worker_has_its_own_connections(valkey: str, tmp_path: Path, domain: str) -> None:
    """Parent and children that were forked under load count everything once, and no answer goes astray."""
    with limits(valkey, tmp_path, domain) as engine:
        admitted, children = 0, []
        busy = threading.Event()

        def count() -> None:
            number = 0
            while not busy.is_set():
                number += 1
                answer = engine.reserve([SLOTS], id=f"thread-{number}", lease=LEASE)
                assert isinstance(answer, Reservation)
                engine.settle(answer, None)

        threads = [threading.Thread(target=count)]
        threads[0].start()
        for number in range(600):
            admitted += isinstance(engine.reserve([REQUESTS], id=f"parent-{number}", lease=LEASE), Reservation)
            if number % 150 == 0:
                child = os.fork()
                if not child:
                    try:
                        answers = [engine.reserve([REQUESTS], id=f"{os.getpid()}-{each}", lease=LEASE) for each in range(200)]
                        os._exit(sum(isinstance(answer, Reservation) for answer in answers))
                    finally:
                        os._exit(255)
                children.append(child)
        busy.set()
        threads[0].join()
        admitted += sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        assert admitted == AMOUNT
        assert isinstance(engine.reserve([REQUESTS], id="last", lease=LEASE), LimitRefusal)


async def test_many_calls_of_a_loop_share_a_connection(valkey: str, domain: str) -> None:
    """2,000 calls at once admit the limit exactly; calls that are cancelled meanwhile neither break nor mix up the others."""
    engine = AsyncValkeyLimits(valkey, domain=domain, note_domain=lambda domain: True, deadline=timedelta(seconds=20))
    calls = [asyncio.ensure_future(engine.reserve([REQUESTS], id=str(number), lease=LEASE)) for number in range(2 * AMOUNT)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for call in calls[::10]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for number, answer in enumerate(answers):
        assert isinstance(answer, asyncio.CancelledError | LimitRefusal) or (isinstance(answer, Reservation) and answer.id == str(number))
    counted = (await engine.states([REQUESTS]))[0].used
    assert sum(isinstance(answer, Reservation) for answer in answers) <= counted == AMOUNT
    await engine.close()
