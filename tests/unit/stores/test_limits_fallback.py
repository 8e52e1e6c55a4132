"""The failure modes of the limits: what each does while the engine is down, what is reported, and how it comes back. In both colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from awaited import Awaited
from tos_guard.errors import ConfigurationError, LimitsForgottenError, StoreError
from tos_guard.limits import Amounts, Charge, Dimension, Limit, LimitRefusal, LimitState, Quantity, Reservation, Sliding
from tos_guard.protocols import LimitEngine
from tos_guard.stores import AsyncFallbackLimits, FallbackLimits, MemoryLimits

LEASE = timedelta(minutes=10)
LIMIT = Limit(id="tokens", quantity=Quantity.TOKENS, amount=100, per=(Dimension.ACCOUNT,), window=Sliding(60), burst=50)
SLOTS = Limit(id="running", quantity=Quantity.CONCURRENCY, amount=1, per=(Dimension.ACCOUNT,), window=None)


@dataclass
class Engine:
    """An engine that fails as long as it is told to, and counts how often it is asked."""

    inner: MemoryLimits
    down: bool = False
    forgets: str = ""
    """The limit of which it has lost what was used."""
    asked: list[str] = field(default_factory=list)
    blocks: bool = True

    def _ask(self, what: str) -> MemoryLimits:
        self.asked.append(what)
        if self.down:
            raise StoreError("the engine is down", where="limits.db", cure="Start it")
        return self.inner

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002
        if any(charge.limit.id == self.forgets for charge in charges):
            self.asked.append("reserve")
            raise LimitsForgottenError("the engine has lost its memory", seconds=60)
        return self._ask("reserve").reserve(charges, id=id, lease=lease)

    def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        self._ask("settle").settle(reservation, actual)

    def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        self._ask("renew").renew(reservation, lease=lease)

    def renew_all(self, reservations: Sequence[Reservation], *, lease: timedelta) -> None:
        self._ask("renew_all").renew_all(reservations, lease=lease)

    def cancel(self, reservation: Reservation) -> None:
        self._ask("cancel").cancel(reservation)

    def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        return self._ask("states").states(charges)

    def close(self) -> None:
        self.inner.close()


@dataclass
class AsyncEngine:
    """The same engine, awaited."""

    blocking: LimitEngine

    async def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002
        return self.blocking.reserve(charges, id=id, lease=lease)

    async def settle(self, reservation: Reservation, actual: Amounts | None) -> None:
        self.blocking.settle(reservation, actual)

    async def renew(self, reservation: Reservation, *, lease: timedelta) -> None:
        self.blocking.renew(reservation, lease=lease)

    async def cancel(self, reservation: Reservation) -> None:
        self.blocking.cancel(reservation)

    async def states(self, charges: Sequence[Charge]) -> tuple[LimitState, ...]:
        return self.blocking.states(charges)

    async def close(self) -> None:
        self.blocking.close()


class Setup:
    colour = "threads"
    opened: list[Setup]

    def __init__(self, mode: Any, **options: Any) -> None:
        self.seconds = 0.0
        times: Any = {"clock": lambda: datetime(2026, 11, 22, tzinfo=UTC), "monotonic": lambda: self.seconds}
        self.uses: list[tuple[str, str]] = []
        self.changes: list[str | None] = []
        self.engine = Engine(MemoryLimits(**times))
        told: Any = {
            "on_use": lambda *use: self.uses.append(use[:2]),
            "on_change": lambda failure: self.changes.append(failure and failure.what),
        }
        self.limits: LimitEngine
        if self.colour == "threads":
            self.limits = FallbackLimits(self.engine, mode=mode, **told, **times, **options)
        else:
            self.limits = Awaited(AsyncFallbackLimits(AsyncEngine(self.engine), mode=mode, **told, **times, **options))
        self.opened.append(self)
        self.number = 0

    def reserve(self, tokens: int, *more: Charge) -> Reservation | LimitRefusal:
        self.number += 1
        return self.limits.reserve([Charge(LIMIT, ("acme",), tokens), *more], id=f"r{self.number}", lease=LEASE)


@pytest.fixture(autouse=True, params=["threads", "loop"])
def _colour(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Setup, "colour", request.param)
    monkeypatch.setattr(Setup, "opened", [], raising=False)
    yield
    for setup in Setup.opened:
        setup.limits.end() if isinstance(setup.limits, Awaited) else setup.limits.close()


def test_an_engine_that_works_is_asked_and_nothing_is_reported() -> None:
    setup = Setup("allow")
    reservation = setup.reserve(50)
    assert isinstance(reservation, Reservation)
    assert reservation.fallback == ""
    setup.limits.renew(reservation, lease=LEASE)
    setup.limits.settle(reservation, Amounts(input_tokens=10))
    setup.limits.cancel(reservation)
    assert setup.limits.states(reservation.charges)[0].used == 10
    assert setup.engine.asked == ["reserve", "renew", "settle", "cancel", "states"]
    assert setup.uses == []
    assert setup.limits.blocks is True


def test_deny_refuses_with_the_error_of_the_engine() -> None:
    """Each refusal is reported."""
    setup = Setup("deny")
    setup.engine.down = True
    for _ in range(3):
        with pytest.raises(StoreError, match=r"limits\.db: the engine is down\. Start it"):
            setup.reserve(5)
    with pytest.raises(StoreError, match="down"):
        setup.limits.states([])
    assert setup.uses == [("reserve", "deny")] * 3 + [("states", "deny")]


def test_allow_admits_without_counting() -> None:
    """The reservation says so, and its settlement asks nobody."""
    setup = Setup("allow")
    setup.engine.down = True
    answers = [setup.reserve(5_000) for _ in range(5)]
    for answer in answers:
        assert answer == Reservation(answer.id, (), fallback="allow")  # type: ignore[union-attr]
    assert setup.limits.states([Charge(LIMIT, ("acme",), 1)]) == ()
    assert setup.uses == [("reserve", "allow")] * 5 + [("states", "allow")]
    setup.engine.down = False
    setup.seconds += 2
    for answer in answers:
        setup.limits.settle(answer, Amounts(input_tokens=5_000))  # type: ignore[arg-type]
    assert setup.engine.inner.states([Charge(LIMIT, ("acme",), 0)])[0].used == 0


def test_local_counts_in_this_process_at_its_share() -> None:
    """A quarter of amount and burst, rounded down and never below one; settled, renewed and cancelled where it was reserved."""
    setup = Setup("local", local_share=0.25)
    setup.engine.down = True
    slot = Charge(SLOTS, ("acme",), 1)
    reservation = setup.reserve(12, slot)
    assert isinstance(reservation, Reservation)
    assert reservation.fallback == "local"
    assert [(state.limit.amount, state.limit.burst, state.used) for state in reservation.states] == [(25, 12, 12), (1, None, 1)]
    refusal = setup.reserve(1, slot)
    assert isinstance(refusal, LimitRefusal)
    assert refusal.fallback == "local"
    setup.limits.renew(reservation, lease=timedelta(hours=1))
    setup.engine.down = False
    setup.seconds += 700
    setup.limits.settle(reservation, Amounts(input_tokens=3))
    assert setup.engine.inner.states([Charge(LIMIT, ("acme",), 0)])[0].used == 0
    setup.engine.down = True
    assert [state.used for state in setup.limits.states([slot])] == [0]
    cancelled = setup.reserve(5)
    assert isinstance(cancelled, Reservation)
    setup.limits.cancel(cancelled)
    assert [state.used for state in setup.limits.states([Charge(LIMIT, ("acme",), 0)])] == [0]


def test_a_limit_of_nothing_has_no_shares() -> None:
    """What nobody may have, no process gives out alone."""
    setup = Setup("local", local_share=0.5)
    setup.engine.down = True
    nothing = Limit(id="none", quantity=Quantity.COST, amount=0, per=(), window=Sliding(60))
    assert isinstance(setup.limits.reserve([Charge(nothing, (), 1)], id="x", lease=LEASE), LimitRefusal)


def test_an_engine_that_failed_is_left_alone_for_a_second() -> None:
    """Requests do not wait for it one after the other; then one of them finds that it works again."""
    setup = Setup("allow")
    setup.engine.down = True
    for _ in range(10):
        setup.reserve(5)
        setup.seconds += 0.09
    assert setup.engine.asked == ["reserve"]
    setup.seconds += 0.2
    setup.reserve(5)
    setup.reserve(5)
    assert setup.engine.asked == ["reserve"] * 2
    setup.engine.down = False
    setup.seconds += 1.1
    assert [setup.reserve(5).fallback for _ in range(3)] == ["", "", ""]
    assert setup.engine.asked == ["reserve"] * 5


def test_whoever_watches_hears_once_that_an_engine_is_left_alone_and_once_that_it_answers() -> None:
    """However many calls fail meanwhile, and whichever of the colours makes them."""
    setup = Setup("allow")
    setup.engine.down = True
    for _ in range(5):
        setup.reserve(5)
        setup.limits.renew_all([Reservation("r", ())], lease=LEASE)
        setup.seconds += 1.1
    assert setup.changes == ["the engine is down"]
    setup.engine.down = False
    setup.reserve(5)
    setup.reserve(5)
    assert setup.changes == ["the engine is down", None]


@pytest.mark.parametrize("mode", ["deny", "allow", "local"])
def test_an_engine_that_has_forgotten_a_limit_is_asked_as_ever(mode: str) -> None:
    """For what it cannot answer the mode decides, for that call; it is not left alone, and counts what it knows."""
    setup = Setup(mode)
    setup.engine.forgets = "tokens"
    slot = Charge(SLOTS, ("acme",), 1)
    for _ in range(3):
        if mode == "deny":
            with pytest.raises(LimitsForgottenError):
                setup.reserve(5)
        else:
            assert setup.reserve(5).fallback == mode
        held = setup.limits.reserve([slot], id="slot", lease=LEASE)
        assert isinstance(held, Reservation)
        assert held.fallback == ""
        setup.limits.settle(held, None)
    assert setup.engine.asked == ["reserve", "reserve", "settle"] * 3
    assert setup.uses == [("reserve", mode)] * 3
    assert setup.changes == []


def test_an_engine_that_answers_that_it_has_forgotten_is_no_longer_left_alone() -> None:
    setup = Setup("allow")
    setup.engine.down = True
    setup.reserve(5)
    setup.engine.down, setup.engine.forgets = False, "tokens"
    setup.seconds += 1.1
    setup.reserve(5)
    assert setup.changes == ["the engine is down", None]
    setup.reserve(5)
    assert setup.engine.asked == ["reserve"] * 3


def test_a_settlement_that_fails_is_reported_and_dropped() -> None:
    """The response has been given; the estimate stands, and the slot ends with its lease."""
    setup = Setup("local")
    reservation = setup.reserve(50)
    assert isinstance(reservation, Reservation)
    setup.engine.down = True
    setup.limits.settle(reservation, Amounts(input_tokens=1))
    setup.limits.renew(reservation, lease=LEASE)
    setup.limits.cancel(reservation)
    assert setup.uses == [("settle", "local"), ("renew", "local"), ("cancel", "local")]
    assert setup.engine.inner.states(reservation.charges)[0].used == 50


def test_renewals_go_where_each_was_reserved() -> None:
    """What was counted here is renewed here, what was not counted nowhere, and the rest in one call; a failure is reported once."""
    setup = Setup("local")
    slot = Charge(replace(SLOTS, amount=3), ("acme",), 1)
    shared = [setup.reserve(1, slot), setup.reserve(1, slot)]
    setup.engine.down = True
    alone = setup.reserve(1, slot)
    everything: Any = [*shared, alone, Reservation("nothing", (), fallback="allow")]
    setup.uses.clear()
    setup.limits.renew_all(everything, lease=timedelta(hours=1))
    assert setup.uses == [("renew", "local")]
    setup.engine.down = False
    setup.seconds += 2
    setup.limits.renew_all(everything, lease=timedelta(hours=1))
    assert setup.engine.asked[-1:] == ["renew_all"]
    setup.seconds += 700
    assert setup.engine.inner.states([slot])[0].used == 2
    setup.engine.down = True
    assert setup.limits.states([slot])[0].used == 1
    setup.engine.asked.clear()
    setup.limits.renew_all([everything[3]], lease=LEASE)
    assert setup.engine.asked == []


def test_a_mistake_of_the_caller_is_no_failure_of_the_engine() -> None:
    """An id that is taken is not waved through."""
    setup = Setup("allow")
    setup.limits.reserve([], id="same", lease=LEASE)
    with pytest.raises(ValueError, match="same"):
        setup.limits.reserve([], id="same", lease=LEASE)
    assert setup.uses == []


@pytest.mark.parametrize("share", [0, -1, 1.01, float("nan")])
def test_a_share_is_a_part(share: float) -> None:
    with pytest.raises(ConfigurationError, match="share"):
        Setup("local", local_share=share)
