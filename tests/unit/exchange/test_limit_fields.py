"""The fields that tell a caller how far its limits are used."""

from __future__ import annotations

from datetime import UTC, datetime

import http_sf
import pytest

from tos_guard.dialects import ChatDialect, PlainDialect
from tos_guard.exchange import limit_fields
from tos_guard.exchange._limit_fields import fields_size
from tos_guard.limits import Calendar, Dimension, Limit, LimitState, Quantity, Sliding

NOW = datetime(2026, 11, 25, 12, 0, 0, 250_000, tzinfo=UTC)


def state(
    name: str, remaining: int, *, quantity: Quantity = Quantity.REQUESTS, amount: int = 100, reset: float = 30.2, **more: object
) -> LimitState:
    window = None if quantity is Quantity.CONCURRENCY else more.pop("window", Sliding(60))
    limit = Limit(id=name, quantity=quantity, amount=amount, per=(Dimension.ACCOUNT,), window=window, **more)  # type: ignore[arg-type]
    return LimitState(limit, ("acme",), amount - remaining, remaining, reset)


def test_they_are_structured_fields_of_the_draft() -> None:
    """Lists of strings with parameters (RFC 9651): quota, window, remaining, seconds rounded up."""
    states = [
        state("requests", 40),
        state("month", 7, window=Calendar("month")),
        state("slots", 1, quantity=Quantity.CONCURRENCY, amount=2),
    ]
    fields = dict(limit_fields(states))
    policy = {item[0]: item[1] for item in http_sf.parse(fields[b"ratelimit-policy"], tltype="list")}
    now = {item[0]: item[1] for item in http_sf.parse(fields[b"ratelimit"], tltype="list")}
    assert policy == {"requests": {"q": 100, "w": 60}, "month": {"q": 100}, "slots": {"q": 2, "qu": "concurrent-requests"}}
    assert now == {"requests": {"r": 40, "t": 31}, "month": {"r": 7, "t": 31}, "slots": {"r": 1, "t": 31}}


def test_the_fullest_limits_are_told_first_and_few_of_them() -> None:
    """A header has no room for all; those in shadow refuse nothing and are not told."""
    states = [state(f"l-{remaining}", remaining) for remaining in (90, 10, 50, 30, 70)] + [state("hidden", 0, shadow=True)]
    told = [item[0] for item in http_sf.parse(dict(limit_fields(states))[b"ratelimit"], tltype="list")]
    assert told == ["l-10", "l-30", "l-50", "l-70"]
    assert limit_fields([state("hidden", 0, shadow=True)]) == []


def test_as_many_limits_are_told_as_there_is_room_for() -> None:
    """Both fields or neither, and the fullest limits first; a long token once left a policy without what remains of it."""
    states = [state(f"l-{remaining}", remaining) for remaining in (10, 30, 50)]
    whole = fields_size(limit_fields(states))
    told = {room: [item[0] for item in limit_fields(states, room=room)] for room in range(whole + 1)}
    assert all(names in ([], [b"ratelimit-policy", b"ratelimit"]) for names in told.values())
    for room in range(whole + 1):
        fields = limit_fields(states, room=room)
        assert fields_size(fields) <= room
        if fields:
            names = [item[0] for item in http_sf.parse(dict(fields)[b"ratelimit"], tltype="list")]
            assert names == ["l-10", "l-30", "l-50"][: len(names)]
    assert limit_fields(states, room=whole) == limit_fields(states)
    assert len(http_sf.parse(dict(limit_fields(states, room=whole - 1))[b"ratelimit"], tltype="list")) == 2


@pytest.mark.parametrize(
    ("reset", "written"), [(0.25, "250ms"), (0.0, "0ms"), (1.0, "1s"), (59.1, "1m0s"), (61, "1m1s"), (3_600, "1h0m0s"), (90_061, "25h1m1s")]
)
def test_chat_clients_find_their_own_fields(reset: float, written: str) -> None:
    """Of requests and of tokens, each of the limit that is used most."""
    states = [
        state("r", 40, reset=reset),
        state("r2", 90),
        state("t", 5, quantity=Quantity.TOKENS, amount=10, reset=reset),
        state("cost", 1, quantity=Quantity.COST),
    ]
    fields = dict(ChatDialect().limit_fields(states, now=NOW))
    assert fields == {
        b"x-ratelimit-limit-requests": b"100",
        b"x-ratelimit-remaining-requests": b"40",
        b"x-ratelimit-reset-requests": written.encode(),
        b"x-ratelimit-limit-tokens": b"10",
        b"x-ratelimit-remaining-tokens": b"5",
        b"x-ratelimit-reset-tokens": written.encode(),
    }
    assert PlainDialect(model="x").limit_fields(states, now=NOW) == []


def test_amounts_beyond_what_structured_fields_can_say_are_told_as_the_most_they_can() -> None:
    """A limit may be 2^53 - 1; a reader of the field would refuse all of it."""
    fields = dict(limit_fields([state("tokens", 2**53 - 2, amount=2**53 - 1, quantity=Quantity.TOKENS)]))
    (policy,), (now,) = (http_sf.parse(fields[name], tltype="list") for name in (b"ratelimit-policy", b"ratelimit"))
    assert policy == ("tokens", {"q": 10**15 - 1, "w": 60})
    assert now == ("tokens", {"r": 10**15 - 1, "t": 31})
