"""When an issuer is asked: the rules alone, with a clock that stands still."""

from __future__ import annotations

from datetime import timedelta

import pytest

from loopback_issuer import START, Keys, made_key
from tos_guard.errors import DiscoveryError
from tos_guard.keys import KeySet, open_key_history
from tos_guard.remote._cache import MAX_UNKNOWN_KIDS, CachePolicy, IssuerKeys, Need
from tos_guard.remote._issuer import KnownKeys, parse_issuer
from tos_guard.testing import FixedClock

ORIGIN = "https://api.example.com"
OTHER = "0" * 43


class Cached:
    """One issuer's keys, a clock, and answers on demand."""

    def __init__(self, pinned: KeySet | None = None) -> None:
        self.clock = FixedClock(START)
        self.issuer = Keys(ORIGIN)
        self.kid = self.issuer.key.kid
        self.keys = IssuerKeys(parse_issuer(ORIGIN), ORIGIN, pinned=pinned, history=None, policy=CachePolicy(), clock=self.clock)

    def need(self, kid: str, *, in_flight: bool = False) -> Need:
        return self.keys.need(kid, now=self.clock(), in_flight=in_flight)

    def answer(self) -> None:
        """The issuer is asked and answers."""
        self.keys.begin(self.clock())
        trusted = self.issuer.key_set()
        history = open_key_history(self.issuer.history(), trusted=trusted, expected_issuer=ORIGIN)
        self.keys.accept(KnownKeys(trusted, history, self.clock()))

    def fail(self) -> None:
        """The issuer is asked and does not answer."""
        self.keys.begin(self.clock())
        self.keys.fail(DiscoveryError("down"), refused=False)

    def pass_by(self, **span: float) -> None:
        self.clock.advance(timedelta(**span))


def test_the_first_caller_waits_and_so_do_those_who_come_while_it_is_asked() -> None:
    cached = Cached()
    assert cached.need(cached.kid) is Need.WAIT
    cached.keys.begin(cached.clock())
    assert cached.need(cached.kid, in_flight=True) is Need.WAIT


def test_known_keys_are_used_then_refreshed_and_never_waited_for() -> None:
    cached = Cached()
    cached.answer()
    assert cached.need(cached.kid) is Need.USE
    cached.pass_by(minutes=30)
    assert cached.need(cached.kid) is Need.REFRESH
    assert cached.need(cached.kid, in_flight=True) is Need.USE
    cached.fail()
    assert cached.need(cached.kid) is Need.USE
    cached.pass_by(seconds=30)
    assert cached.need(cached.kid) is Need.REFRESH


def test_unknown_keys_wait_once_per_cooldown_after_success_and_failure_alike() -> None:
    for settle in (Cached.answer, Cached.fail):
        cached = Cached()
        settle(cached)
        assert cached.need(OTHER) is Need.REFUSED
        cached.pass_by(seconds=29.9)
        assert cached.need(OTHER) is Need.REFUSED
        cached.pass_by(seconds=0.1)
        assert cached.need(OTHER) is Need.WAIT


def test_an_id_the_issuer_does_not_know_is_remembered_for_a_minute() -> None:
    cached = Cached()
    cached.answer()
    cached.keys.miss(OTHER, now=cached.clock())
    cached.pass_by(seconds=59)
    assert (cached.need(OTHER), cached.need("1" * 43)) == (Need.REFUSED, Need.WAIT)
    cached.pass_by(seconds=1)
    assert cached.need(OTHER) is Need.WAIT


def test_nothing_is_remembered_of_ids_when_the_issuer_did_not_answer() -> None:
    cached = Cached()
    cached.fail()
    cached.keys.miss(OTHER, now=cached.clock())
    cached.pass_by(seconds=30)
    assert cached.need(OTHER) is Need.WAIT


def test_a_flood_of_ids_takes_bounded_memory() -> None:
    cached = Cached()
    cached.answer()
    for number in range(3 * MAX_UNKNOWN_KIDS):
        cached.keys.miss(f"{number:043d}", now=cached.clock())
    assert len(cached.keys._unknown) == MAX_UNKNOWN_KIDS


def test_an_id_that_was_unknown_is_used_as_soon_as_it_is_known() -> None:
    cached = Cached()
    cached.answer()
    fresh = made_key("second")[1].kid
    cached.keys.miss(fresh, now=cached.clock())
    cached.issuer.rotate("second")
    cached.answer()
    assert cached.need(fresh) is Need.USE


def test_keys_are_served_while_the_issuer_is_down_but_not_for_ever() -> None:
    cached = Cached()
    cached.answer()
    cached.pass_by(days=7)
    cached.fail()
    assert cached.keys.give(cached.kid, now=cached.clock()).keys
    cached.pass_by(seconds=1)
    with pytest.raises(DiscoveryError, match="down"):
        cached.keys.give(cached.kid, now=cached.clock())
    assert cached.keys.status(cached.clock()).keys.keys == ()


def test_pinned_keys_are_served_for_ever() -> None:
    cached = Cached(Keys(ORIGIN).key_set())
    cached.pass_by(days=4000)
    assert cached.need(cached.kid) is Need.REFRESH
    cached.fail()
    assert cached.keys.give(cached.kid, now=cached.clock()).keys


def test_a_clock_that_was_set_back_does_not_stop_questions() -> None:
    cached = Cached()
    cached.answer()
    cached.pass_by(hours=-5)
    assert (cached.need(cached.kid), cached.need(OTHER)) == (Need.REFRESH, Need.WAIT)


@pytest.mark.parametrize(
    "spans",
    [
        {"cooldown": timedelta(0)},
        {"refresh_after": timedelta(seconds=1)},
        {"max_stale": timedelta(hours=23)},
        {"refresh_after": timedelta(days=8)},
    ],
)
def test_a_policy_that_could_not_hold_its_promises_is_refused(spans: dict[str, timedelta]) -> None:
    with pytest.raises(ValueError, match="at least"):
        CachePolicy(**spans)
