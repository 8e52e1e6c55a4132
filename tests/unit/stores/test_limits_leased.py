"""Blocks of limits: when they are taken, until when they are spent, and what goes back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from tos_guard.errors import ConfigurationError, LimitsForgottenError, StoreError
from tos_guard.limits import Amounts, Calendar, Charge, Limit, LimitRefusal, Quantity, Reservation, Sliding
from tos_guard.protocols import AsyncLimitEngine, LimitEngine
from tos_guard.stores import AsyncLeasedLimits, LeasedLimits, MemoryLimits

LEASE = timedelta(seconds=600)
MINUTE = Sliding(60)


def charge(amount: int, of: int, quantity: Quantity = Quantity.TOKENS, scope: tuple[str, ...] = (), **changes: Any) -> Charge:
    window = None if quantity is Quantity.CONCURRENCY else MINUTE
    return Charge(
        Limit(**({"id": quantity.value, "quantity": quantity, "amount": of, "per": (), "window": window} | changes)), scope, amount
    )


def took(tokens: int) -> Amounts:
    return Amounts(input_tokens=tokens)


class Counting(MemoryLimits):
    """The shared engine, which notes what it is asked, and fails when it is told to."""

    def __init__(self, **times: Any) -> None:
        super().__init__(**times)
        self.asked: list[str] = []
        self.failure: StoreError | None = None

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        self._ask("reserve")
        return super().reserve(charges, id=id, lease=lease)

    def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        self._ask("settle")
        super().settle(reservation, actual)

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        self._ask(f"renew {len(reservations)}")
        super().renew_all(reservations, lease=lease)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.failure is not None:
            raise self.failure


class World:
    """An engine, and processes that spend blocks of it. Time stands still until it is moved."""

    def __init__(self, start: float = 1_001.0) -> None:
        self.seconds = start
        self.numbers = count()
        self.engine = Counting(clock=self.wall, monotonic=lambda: self.seconds)
        self.limits = self.process()

    def wall(self) -> datetime:
        return datetime(2026, 11, 22, 12, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def process(self, **options: Any) -> LeasedLimits:
        return LeasedLimits(self.engine, **({"share": 0.25, "monotonic": lambda: self.seconds, "every": None} | options))

    def reserve(self, *charges: Charge, limits: LimitEngine | None = None, lease: timedelta = LEASE) -> Reservation | LimitRefusal:
        return (limits or self.limits).reserve(charges, id=str(next(self.numbers)), lease=lease)

    def admit(self, *charges: Charge, times: int = 1, **options: Any) -> list[Reservation]:
        answers = [self.reserve(*charges, **options) for _ in range(times)]
        assert all(isinstance(answer, Reservation) for answer in answers), answers
        return [answer for answer in answers if isinstance(answer, Reservation)]

    def calls(self) -> list[str]:
        """What the engine was asked since."""
        asked, self.engine.asked = self.engine.asked, []
        return asked

    def used(self, wanted: Charge) -> int:
        """What the engine counts, blocks included."""
        return self.engine.states([wanted])[0].used


@pytest.fixture
def world() -> World:
    return World()


ONE = charge(1, 1_000)


def test_it_is_a_limit_engine(world: World) -> None:
    """Both colours are what guards take."""
    assert isinstance(world.limits, LimitEngine)
    assert not world.limits.blocks


def test_a_busy_account_asks_the_engine_ever_less_often(world: World) -> None:
    """Blocks double while they are used up in time: 200 requests need the engine a dozen times, beside what goes back later."""
    world.admit(ONE, times=200)
    assert world.calls().count("reserve") <= 12
    assert world.used(ONE) >= 200


def test_a_rare_request_takes_no_block(world: World) -> None:
    """Nothing is held for an account that asks less often than once a second."""
    for _ in range(10):
        world.admit(ONE)
        world.seconds += 1.5
    assert world.used(ONE) == 10


def test_one_process_admits_exactly_the_limit(world: World) -> None:
    """What is left in blocks goes back before a request is refused."""
    admitted = 0
    while isinstance(world.reserve(charge(3, 1_000)), Reservation):
        admitted += 3
    admitted += len([0 for _ in range(5) if isinstance(world.reserve(ONE), Reservation)])
    assert admitted == 1_000
    assert world.used(ONE) == 1_000


def test_blocks_of_one_kind_of_request_do_not_refuse_another(world: World) -> None:
    """Two models share an account's limit: what is held for one goes back when the other needs it."""
    other = charge(1, 900, Quantity.REQUESTS)
    world.admit(ONE, times=20)
    admitted = 20
    while isinstance(world.reserve(charge(300, 1_000), other), Reservation):
        admitted += 300
    admitted += sum(isinstance(world.reserve(charge(10, 1_000), other), Reservation) for _ in range(100)) * 10
    assert admitted == 1_000


def test_what_another_process_holds_is_refused_until_it_goes_back(world: World) -> None:
    """The bound holds, and the rest is admitted once the other's block has ended."""
    world.admit(ONE, times=7)
    held = world.used(ONE) - 7
    assert held > 0
    other = world.process()
    admitted = 0
    while isinstance(world.reserve(ONE, limits=other), Reservation):
        admitted += 1
    assert admitted == 1_000 - 7 - held
    world.seconds += 5
    world.limits.give_back()
    assert world.used(ONE) == 1_000 - held


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="a system that does not count its sleep")
def test_a_block_ends_while_the_machine_sleeps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's windows go on meanwhile: what is spent after it would be in none of them."""
    limits = LeasedLimits(world.engine, share=0.25, every=None)
    world.admit(ONE, times=7, limits=limits)
    world.calls()
    world.admit(ONE, limits=limits)
    assert world.calls() == []  # from a block
    clock = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda which: clock(which) + 3_600 * (which == time.CLOCK_BOOTTIME))
    world.admit(ONE, limits=limits)
    assert "reserve" in world.calls()


@pytest.mark.parametrize("window", [Sliding(60), Sliding(3), Sliding(3_600), Calendar("minute")], ids=str)
@pytest.mark.parametrize("rate", [8 / 9, 1.0, 1.1])
def test_a_block_is_spent_only_in_the_slot_it_was_charged_to(window: Any, rate: float) -> None:
    """From whichever moment of a slot, and with clocks that run apart: nothing is taken from a block of an earlier slot."""
    slot = {"60s": 5.0, "3s": 0.25, "3600s": 300.0}.get(str(window), 60.0)
    wanted = charge(1, 10_000, window=window)
    spent_late = 0.0
    for phase in range(41):
        world = World(slot * (1_000_000 + phase / 41) + 0.002)
        limits = world.process(monotonic=lambda world=world: 77.0 + rate * world.seconds)
        world.admit(wanted, times=2, limits=limits)
        charged = world.seconds
        for _ in range(60):
            world.seconds += slot / 50
            world.calls()
            (reservation,) = world.admit(wanted, limits=limits)
            if world.calls():
                break
            limits.settle(reservation, took(0))  # so that the block is not used up
            assert world.seconds // slot == charged // slot
            spent_late = max(spent_late, world.seconds % slot)
    assert spent_late > 0.5 * min(slot, 60.0)


def test_a_window_that_holds_a_block_spent_late_holds_no_more_than_the_limit() -> None:
    """A block spent at the end of its slot, and everything else as soon as the engine gives it back: still not twice."""
    for phase in range(20):
        world = World(5.0 * 200 + phase / 4)
        spent: list[float] = []
        ends = world.seconds + 200
        while world.seconds < ends:
            limits = world.limits if world.seconds < ends - 100 else world.process()
            while isinstance(world.reserve(charge(10, 1_000), limits=limits), Reservation):
                spent.append(world.seconds)
                if len(spent) % 7 == 0:
                    break
            world.seconds += 0.37
        for begin in spent:
            assert sum(10 for at in spent if begin <= at < begin + 60) <= 1_000


def test_an_idle_process_gives_back_what_it_holds_of_a_month(world: World) -> None:
    """However long the window is."""
    monthly = charge(1, 1_000_000, window=Calendar("month"))
    world.admit(monthly, times=6)
    assert world.used(monthly) > 6
    world.seconds += 61
    world.limits.give_back()
    assert world.used(monthly) == 6


def test_refunds_of_a_block_are_spent_again(world: World) -> None:
    """Without asking: what a request did not use is there for the next."""
    reservations = world.admit(charge(100, 10_000), times=3)
    world.calls()
    for number in range(50):
        world.limits.settle(reservations[-1], took(0 if number else 50))
        reservations += world.admit(charge(100, 10_000))
    assert world.calls() == []


def test_requests_that_outlive_their_block_are_refunded(world: World) -> None:
    """Their estimates are kept apart when the block ends, and what they did not use goes back when they end."""
    wanted = [charge(100, 100_000), charge(1, 1_000, Quantity.REQUESTS), charge(1, 400, Quantity.CONCURRENCY)]
    open_ = world.admit(*wanted, times=20)
    for _ in range(3):
        world.seconds += 5
        world.limits.give_back()
    assert [world.used(each) for each in wanted] == [2_000, 20, 20]
    for reservation in open_:
        world.limits.settle(reservation, took(10))
    world.limits.give_back()
    assert [world.used(each) for each in wanted] == [200, 20, 0]


def test_half_of_a_rest_goes_back_before_its_longest_request_ends(world: World) -> None:
    """One long response does not keep the refunds of all that began with it."""
    wanted = charge(100, 100_000)
    open_ = world.admit(wanted, times=9)
    world.seconds += 5
    world.limits.give_back()
    for reservation in open_[:-1]:
        world.limits.settle(reservation, took(0))
    world.limits.give_back()
    assert world.used(wanted) == 100
    world.limits.settle(open_[-1], took(30))
    world.limits.give_back()
    assert world.used(wanted) == 30


def test_an_overage_is_debt_at_once_whenever_it_becomes_known(world: World) -> None:
    """In a block that has it; in one that has not; after the block ended. The engine counts it without waiting for a thread."""
    wanted = charge(10, 1_000)
    first, second, third, fourth = world.admit(wanted, times=4)
    world.limits.settle(first, took(12))  # the first came from the engine itself
    world.limits.settle(second, took(15))
    assert world.limits.states([wanted])[0].used == 12 + 15 + 20
    world.limits.settle(third, took(300))
    assert world.used(wanted) >= 12 + 15 + 300 + 10
    world.seconds += 5
    world.limits.give_back()
    world.limits.settle(fourth, took(900))
    assert world.used(wanted) == 12 + 15 + 300 + 900
    assert isinstance(world.reserve(wanted), LimitRefusal)


def test_a_killed_process_leaves_its_blocks_used(world: World) -> None:
    """Until the window is over, whatever it had spent of them."""
    world.admit(ONE, times=10)
    used = world.used(ONE)
    world.limits = world.process()
    world.seconds += 5
    world.limits.give_back()
    assert world.used(ONE) == used > 10
    world.seconds += 61
    assert world.used(ONE) == 0


def test_closing_gives_everything_back(world: World) -> None:
    """What was spent stays, the estimates of open requests too."""
    open_ = world.admit(charge(10, 1_000), times=6)
    for reservation in open_[:3]:
        world.limits.settle(reservation, took(1))
    peer = LeasedLimits(MemoryLimits(clock=world.wall), share=0.1)
    peer.close()
    world.engine.close = lambda: None  # type: ignore[method-assign] - looked into afterwards
    world.limits.close()
    assert world.used(ONE) == 3 + 30
    with pytest.raises(StoreError, match="closed"):
        world.reserve(ONE)


@pytest.mark.parametrize(
    "failure", [StoreError("late"), LimitsForgottenError("gone", seconds=60.0)], ids=lambda error: type(error).__name__
)
def test_a_failure_of_the_engine_ends_all_blocks(world: World, failure: StoreError) -> None:
    """Also those of others than asked: what stands in the engine is not known any more. They go back when it answers again."""
    other = charge(1, 1_000, scope=("other",))
    world.admit(ONE, times=6)
    world.admit(other, times=6)
    world.engine.failure = failure
    with pytest.raises(type(failure)):
        for _ in range(50):
            world.reserve(ONE)
    with pytest.raises(type(failure)):
        world.reserve(other)
    with pytest.raises(type(failure)):
        world.limits.give_back()
    world.engine.failure = None
    world.limits.give_back()
    assert world.used(other) == 6


def test_slots_of_concurrency_are_bound_and_held_while_renewed(world: World) -> None:
    """Slots come from blocks too; each open request holds one, for as long as it is renewed and no longer."""
    slot = charge(1, 100, Quantity.CONCURRENCY)
    open_ = world.admit(slot, times=100)
    assert isinstance(world.reserve(slot), LimitRefusal)
    for _ in range(8):
        world.seconds += 250
        world.calls()
        world.limits.renew_all(open_[:30], lease=LEASE)
        assert len(world.calls()) == 1
        world.limits.give_back()
    assert world.used(slot) == 30
    for reservation in open_:
        world.limits.settle(reservation, None)
    world.limits.give_back()
    assert world.used(slot) == 0


def test_a_request_holds_its_slot_for_its_own_lease(world: World) -> None:
    """Also the last of a block, which was reserved before it."""
    slot = charge(1, 100, Quantity.CONCURRENCY)
    world.admit(slot, times=3)
    world.seconds += 50
    world.admit(slot, lease=timedelta(minutes=30))
    for _ in range(17):
        world.seconds += 100
        world.limits.give_back()
    assert world.used(slot) == 1
    world.seconds += 60
    world.limits.give_back()
    world.seconds += 601
    assert world.used(slot) == 0


@pytest.mark.parametrize(
    "wanted",
    [
        (charge(1, 1_000, burst=100),),
        (charge(1, 1_000), charge(1, 1_000, Quantity.COST, shadow=True)),
        (charge(1, 1_000, window=Sliding(10)),),
        (charge(9, 1_000), charge(1, 1_000, Quantity.INPUT_TOKENS), charge(1, 1_000, Quantity.OUTPUT_TOKENS)),
        (charge(1, 1_000), charge(1, 3, Quantity.CONCURRENCY)),
    ],
    ids=["burst", "shadow", "uneven slots", "no amounts", "small limit"],
)
def test_what_no_block_serves_goes_to_the_engine(world: World, wanted: tuple[Charge, ...]) -> None:
    """All charges of it, in one call."""
    world.admit(*wanted, times=3)
    assert world.calls() == ["reserve"] * 3
    assert world.used(wanted[0]) == 3 * wanted[0].amount


def test_what_another_process_may_settle_goes_to_the_engine(world: World) -> None:
    """A response in the background is settled by whoever fetches it."""
    world.admit(ONE, times=4)
    (reservation,) = world.admit(ONE, lease=timedelta(hours=24))
    used = world.used(ONE)
    world.process().settle(reservation, took(0))
    assert world.used(ONE) == used - 1


def test_an_id_is_taken_once(world: World) -> None:
    """Two requests under one id would settle each other."""
    world.admit(ONE, times=2)
    for number in (2, 3):
        world.limits.reserve([ONE], id=f"same-{number}", lease=LEASE)
        with pytest.raises(ValueError, match="same"):
            world.limits.reserve([ONE], id=f"same-{number}", lease=LEASE)


def test_cancelling_gives_the_request_back(world: World) -> None:
    """As requests too, while its block lives."""
    wanted = [charge(5, 1_000), charge(1, 1_000, Quantity.REQUESTS), charge(2, 1_000, Quantity.COST)]
    for reservation in world.admit(*wanted, times=6)[1:]:
        world.limits.cancel(reservation)
    world.seconds += 5
    world.limits.give_back()
    assert [world.used(each) for each in wanted] == [5, 1, 2]


def test_a_child_has_no_blocks(world: World) -> None:
    """After a fork they are the parent's, and what is open there is settled there."""
    world.admit(ONE, times=3)
    used = world.used(ONE)
    child = os.fork()
    if child == 0:
        world.calls()
        world.reserve(ONE)
        os._exit(0 if world.calls() == ["reserve"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    world.calls()
    world.admit(ONE)
    assert world.calls() == []
    assert world.used(ONE) == used


def test_a_thread_gives_back_and_ends(world: World) -> None:
    """It lives for as long as there is anything to give back."""
    limits = LeasedLimits(world.engine, share=0.25, every=timedelta(milliseconds=5))
    world.admit(ONE, times=6, limits=limits, lease=timedelta(seconds=0.1))
    thread = limits._thread
    assert thread is not None
    assert world.used(ONE) > 6
    thread.join(20)
    assert not thread.is_alive()
    assert 6 <= world.used(ONE) <= 13  # what it had not given back when the lease was over stays used


@pytest.mark.parametrize("share", [0, -1, 0.26, 2])
def test_a_share_out_of_range_is_refused(world: World, share: float) -> None:
    """Blocks of nothing, or of everything."""
    with pytest.raises(ConfigurationError):
        world.process(share=share)


class Awaiting:
    """An `AsyncLimitEngine` over the one that counts calls."""

    def __init__(self, engine: Counting) -> None:
        self.engine = engine

    @property
    def blocking(self) -> LimitEngine:
        return self.engine

    async def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        await asyncio.sleep(0)
        return self.engine.reserve(charges, id=id, lease=lease)

    async def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        await asyncio.sleep(0)
        self.engine.settle(reservation, actual)

    async def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        self.engine.renew(reservation, lease=lease)

    async def cancel(self, reservation: Reservation) -> None:
        self.engine.cancel(reservation)

    async def states(self, charges: Sequence[Charge]) -> Any:
        return self.engine.states(charges)

    async def close(self) -> None:
        self.engine.close()


def test_both_colours_share_their_blocks(world: World) -> None:
    """What one takes the other settles; and a call that is cancelled costs no more than its block."""

    async def run() -> None:
        limits = AsyncLeasedLimits(Awaiting(world.engine), share=0.25, monotonic=lambda: world.seconds, every=None)
        assert isinstance(limits, AsyncLimitEngine)
        assert isinstance(limits.blocking, LimitEngine)
        held = [await limits.reserve([ONE], id=f"a{number}", lease=LEASE) for number in range(4)]
        world.calls()
        held.append(limits.blocking.reserve([ONE], id="b", lease=LEASE))
        assert world.calls() == []
        for answer in held:
            assert isinstance(answer, Reservation)
            limits.blocking.settle(answer, took(0))
        world.seconds += 5
        cancelled = asyncio.ensure_future(limits.reserve([ONE], id="c", lease=LEASE))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        for number in range(10):
            assert isinstance(await limits.reserve([ONE], id=f"d{number}", lease=LEASE), Reservation)
        await limits.close()
        with pytest.raises(StoreError, match="closed"):
            await limits.reserve([ONE], id="e", lease=LEASE)

    asyncio.run(run())
