"""What is said to the script of the limits, and what is made of its answers: without an engine."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import NoScriptError, ResponseError

from tos_guard.errors import ConfigurationError, LimitsForgottenError, StoreError
from tos_guard.limits import Amounts, Calendar, Charge, Dimension, Limit, LimitRefusal, Quantity, Reservation, Sliding
from tos_guard.stores._limits_valkey_domain import Ask, Domain, Note
from tos_guard.stores._limits_valkey_wire import Names, four_turns
from tos_guard.stores._valkey import Refusal

PER = (Dimension.ACCOUNT, Dimension.MODEL)
TOKENS = Limit(id="tokens", quantity=Quantity.TOKENS, amount=100, per=PER, window=Sliding(60), burst=50)
DAY = Limit(id="day", quantity=Quantity.COST, amount=100, per=PER, window=Calendar("day", "Europe/Berlin"))
RUNNING = Limit(id="running", quantity=Quantity.CONCURRENCY, amount=5, per=PER, window=None)
SCOPE = ("acme", "model-x")
LEASE = timedelta(seconds=60)
CHARGES = (Charge(TOKENS, SCOPE, 7), Charge(DAY, SCOPE, 8), Charge(RUNNING, SCOPE, 1))
NOW = 1_795_350_600_000  # 2026-11-22T12:30Z


def turns(calendar: Calendar) -> tuple[int, int, int, int]:
    return four_turns(calendar, NOW)


def domain(**options: Any) -> Domain:
    return Domain("eu", where="valkey:6379", slot_lease=LEASE, told=lambda _: None, **options)


def test_all_keys_of_a_domain_are_in_one_place_and_name_nobody() -> None:
    """A cluster goes by what stands in braces; neither accounts, models nor request ids can be read in the engine."""
    names = Names("eu", 60_000)
    reservation = Reservation("req_1", CHARGES)
    questions = [
        names.reserve(CHARGES, "req_1", 60_000, turns),
        names.states(CHARGES, turns),
        names.settle(reservation, Amounts(), turns),
        names.renew([reservation], 60_000),
    ]
    keys = {key for question in questions for key in question.keys}
    assert all(key.startswith(b"tosg:{eu}:") for key in keys)
    assert not any(name in key for key in keys for name in (b"acme", b"model", b"req_1", b"tokens"))
    # The epoch, the reservation, three counters and a bucket, the same in every question.
    assert len(keys) == 6


def test_counters_go_by_what_is_counted_and_buckets_by_their_limit() -> None:
    """Another amount, id or burst is the same counter; another scope is another one, however it is written."""

    def keys(limit: Limit, scope: tuple[str, ...] = SCOPE) -> list[bytes]:
        return Names("eu", 60_000).states([Charge(limit, scope, 1)], turns).keys[1:]

    def tokens(**changes: Any) -> Limit:
        return dataclasses.replace(TOKENS, **changes)

    counter, bucket = keys(tokens())
    assert keys(tokens(amount=7)) == [counter, bucket]
    assert keys(tokens(burst=None)) == [counter]
    assert keys(tokens(id="other"))[0] == counter
    assert keys(tokens(id="other"))[1] != bucket
    assert len({keys(tokens(), scope)[0] for scope in (SCOPE, ("acmem", "odel-x"), ('acme","model-x',), ("\ud800", "é"), ("?", "é"))}) == 5


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "{a}", "é", "a\n"])
def test_a_domain_has_a_plain_name(name: str) -> None:
    """It stands in braces, in keys."""
    with pytest.raises(ConfigurationError, match="domain"):
        Domain(name, where="valkey:6379", slot_lease=LEASE, told=lambda _: None)


def test_slots_are_few_and_their_leases_short() -> None:
    """After memory was lost slots are in doubt for the longest lease: nobody may hold one for longer."""
    names = Names("eu", 60_000)
    with pytest.raises(ValueError, match="a lease of 61 s"):
        names.reserve(CHARGES, "x", 61_000, turns)
    with pytest.raises(ValueError, match="a lease of 61 s"):
        names.renew([Reservation("x", CHARGES)], 61_000)
    with pytest.raises(ValueError, match="101 slots"):
        names.reserve([Charge(RUNNING, SCOPE, 101)], "x", 1_000, turns)
    names.reserve(CHARGES[:2], "x", 86_400_000, turns)


def test_turns_around_the_present() -> None:
    """The day before, the present one and the next, also where clocks are changed between them."""
    hour = 3_600_000
    for day, length in (("2026-03-29T12:00", 23), ("2026-10-25T12:00", 25), ("2026-11-22T12:00", 24)):
        now = int(datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp() * 1000)
        before, start, end, after = four_turns(Calendar("day", "Europe/Berlin"), now)
        assert (start - before, end - start, after - end) == (24 * hour, length * hour, 24 * hour)


def refusal(words: str) -> Refusal:
    return Refusal(ResponseError(words))


def answered(*answers: Any) -> Any:
    """What comes of a reservation when these are the answers, after it has attached; `Note` says that the domain is new."""
    steps = domain().reserve(CHARGES, "req_1", LEASE)
    step = next(steps)
    assert isinstance(step, Note)
    step = steps.send(True)
    given = iter(answers)
    try:
        while True:
            assert isinstance(step, Ask)
            (name, *rest) = step.commands[0]
            if name == "INFO":
                about = b"redis_version:7.2.4\r\nrun_id:ab\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n"
                step = steps.send([about, refusal("NOPERM"), [], [b"no-appendfsync-on-rewrite", b"no"]])
            elif name == "EVAL":
                step = steps.send([[rest[4], 0, NOW, b"epoch-1", 0, b"begun"]])
            else:
                answer = next(given)
                number = rest[2 + rest[1] + 1]
                step = steps.send([[number, *answer] if isinstance(answer, tuple) else answer])
    except StopIteration as done:
        return done.value


def test_an_answer_is_what_the_script_said() -> None:
    """Admitted, refused, or in doubt."""
    states = (7, 43, 65_000, 0, 8, 92, 1_000, 0, 1, 4, 1_000, 0)
    admitted = answered((0, NOW, 0, 0, *states))
    assert isinstance(admitted, Reservation)
    assert [state[2:] for state in admitted.states] == [(7, 43, 65.0), (8, 92, 1.0), (1, 4, 1.0)]
    refused = answered((1, NOW, 1, 1_500_000, *states[:7], 1, *states[8:]))
    assert isinstance(refused, LimitRefusal)
    assert (refused.state.limit, refused.wanted, refused.retry_after) == (DAY, 8, 1.5)
    never = answered((1, NOW, 0, -1, *states[:3], 1, *states[4:]))
    assert isinstance(never, LimitRefusal)
    assert never.retry_after is None
    with pytest.raises(LimitsForgottenError, match=r"valkey:6379 domain eu: .* 10 s ago.*limit day.*50 s more") as told:
        answered((2, NOW, 1, NOW + 50_000, NOW - 10_000))
    assert told.value.seconds == 50
    with pytest.raises(ValueError, match="req_1"):
        answered((3,))


def test_nothing_that_may_have_been_done_is_asked_again() -> None:
    """Only what the script says that it has not done: no script, another epoch, another window."""
    states = (7, 43, 65_000, 0, 8, 92, 1_000, 0, 1, 4, 1_000, 0)
    done = (0, NOW, 0, 0, *states)
    for first in (Refusal(NoScriptError("NOSCRIPT")), (4,), (5,), (6,), (7, NOW)):
        assert isinstance(answered(first, done), Reservation)
    for words in ("OOM command not allowed", "READONLY You can't write", "BUSY Redis is busy", "ERR anything"):
        with pytest.raises(StoreError, match=words.split(maxsplit=1)[0]):
            answered(refusal(words))
    with pytest.raises(StoreError, match="another each time"):
        answered(*[(5,)] * 5)


anything = st.recursive(
    st.none() | st.integers() | st.binary(max_size=8) | st.builds(refusal, st.text(max_size=8)), lambda inner: st.lists(inner, max_size=20)
)


@given(answer=anything | st.lists(st.integers(-1, 9), max_size=20).map(tuple) | st.tuples(*[st.integers(0, 3)] * 16))
def test_whatever_is_answered_is_an_answer_or_an_error_of_ours(answer: Any) -> None:
    """An engine gone mad, or something else that speaks its language."""
    with suppress(StoreError, ValueError):
        assert isinstance(answered(*[answer] * 5), Reservation | LimitRefusal)
