"""What is said to the script of the limits, and what it answers: values only (``_limits_valkey.lua``).

- All keys of a domain begin with ``tosg:{domain}:``, so that a cluster keeps them in one place, and every key is named in the call.
- Counters, buckets and reservations are named by digests: neither accounts nor models stand in the engine.
- Numbers are handed over as one string of 64-bit integers: the script reads them in one step.
- An answer that is not of the form it should have is `Senseless`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import IntEnum
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from tos_guard.limits import Amounts, Calendar, Charge, LimitRefusal, LimitState, Reservation
from tos_guard.limits._counters import SLOTS, calendar_window

__all__ = [
    "SCRIPT",
    "SCRIPT_DIGEST",
    "Names",
    "Question",
    "Senseless",
    "Status",
    "Turns",
    "four_turns",
    "is_numbers",
    "milliseconds",
    "read_answer",
    "read_states",
]

SCRIPT: Final = files("tos_guard.stores").joinpath("_limits_valkey.lua").read_bytes()
SCRIPT_DIGEST: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
"""The name under which the engine knows the script, once it has run it."""

MAX_SLOTS: Final = 100
"""Slots of concurrency that one charge may take, each a member of its own in the engine. Requests take one."""

_MAX_NAMES: Final = 16_384
"""Names that are kept, about 300 bytes each: making one anew takes two microseconds."""

_DIGEST_BYTES: Final = 16
_MICROSECONDS: Final = 1_000
_SLIDING, _CALENDAR, _CONCURRENCY = 1, 2, 3
_HEAD, _OF_CHARGE = 5, 4  # numbers of an answer: before those of the charges, and of each charge

Turns = Callable[[Calendar], tuple[int, int, int, int]]
"""Four turns of a window of the calendar around the present, in milliseconds since 1970."""


class Senseless(Exception):
    """An answer that no script of ours gives."""


class Status(IntEnum):
    """What came of a call."""

    DONE = 0
    REFUSED = 1
    FORGOTTEN = 2
    OPEN = 3
    GONE = 4
    OTHER = 5
    CHANGED = 6
    WHEN = 7


class Question(NamedTuple):
    """Keys of a call, and the numbers that go with them."""

    keys: list[bytes]
    numbers: bytes


class Names:
    """Names and questions of one domain.

    Args:
        domain: Its name.
        longest: Longest lease of a reservation with slots of concurrency, in milliseconds.
    """

    def __init__(self, domain: str, longest: int) -> None:
        self._prefix = f"tosg:{{{domain}}}:".encode()
        self._longest = longest
        self.epoch: bytes = self._prefix + b"epoch"

    def reservation(self, id: str) -> bytes:  # noqa: A002 - as in the Protocol
        """The key of a reservation."""
        return self._prefix + b"r:" + _digest(id.encode("utf-8", "surrogatepass"))

    def reserve(self, charges: Sequence[Charge], id: str, lease: int, turns: Turns) -> Question:  # noqa: A002 - as in the Protocol
        """Take all charges, or none.

        Raises:
            ValueError: The lease is too long for one with slots, or a charge takes too many of these.
        """
        for charge in charges:
            if charge.limit.window is None:
                self._check_slots(charge.amount, lease)
        return self._question([self.epoch, self.reservation(id)], [lease, self._longest], charges, turns)

    def states(self, charges: Sequence[Charge], turns: Turns) -> Question:
        """Look."""
        return self._question([self.epoch], [0, self._longest], charges, turns)

    def settle(self, reservation: Reservation, actual: Amounts | None, turns: Turns) -> Question:
        """Replace the estimate by what was used; None keeps it."""
        places = _Places([self.epoch, self.reservation(reservation.id)])
        numbers: list[int] = []
        for index, charge in enumerate(reservation.charges, 1):
            limit, _, amount, counts = charge
            if limit.window is None:
                over = amount
            elif actual is None or (over := actual.of(limit.quantity) - amount) == 0:
                continue
            self._add(numbers, places, charge, over, counts=counts, turns=turns)
            numbers.append(index)
        return Question(places.keys, _packed(numbers))

    def renew(self, reservations: Sequence[Reservation], lease: int) -> Question:
        """Let them hold from now.

        Raises:
            ValueError: The lease is too long for one with slots.
        """
        places = _Places([self.epoch])
        numbers = [lease, self._longest]
        for reservation in reservations:
            held = [charge for charge in reservation.charges if charge.limit.window is None and charge.counts and charge.amount]
            numbers += (places.of(self.reservation(reservation.id)), len(held))
            for charge in held:
                self._check_slots(charge.amount, lease)
                numbers += (places.of(self._counter(charge)), charge.amount)
        return Question(places.keys, _packed(numbers))

    def _check_slots(self, amount: int, lease: int) -> None:
        if lease > self._longest:
            raise ValueError(f"a lease of {lease / 1000:g} s with slots of concurrency, of at most {self._longest / 1000:g} s")
        if amount > MAX_SLOTS:
            raise ValueError(f"{amount} slots of concurrency at once, of at most {MAX_SLOTS}")

    def _question(self, keys: list[bytes], numbers: list[int], charges: Sequence[Charge], turns: Turns) -> Question:
        places = _Places(keys)
        for charge in charges:
            self._add(numbers, places, charge, charge.amount, counts=charge.counts, turns=turns)
        return Question(places.keys, _packed(numbers))

    def _add(self, numbers: list[int], places: _Places, charge: Charge, amount: int, *, counts: bool, turns: Turns) -> None:
        limit = charge.limit
        window = limit.window
        place = places.of(self._counter(charge))
        if window is None:
            numbers += (_CONCURRENCY, place, amount, counts, limit.amount, limit.shadow, 0, 0, 0, 0)
        elif isinstance(window, Calendar):
            numbers += (_CALENDAR, place, amount, counts, limit.amount, limit.shadow, *turns(window))
        else:
            # Rounded up: twelve slots are never shorter than the window.
            slot = -(-window.seconds * 1000 // SLOTS)
            if limit.burst is None:
                numbers += (_SLIDING, place, amount, counts, limit.amount, limit.shadow, slot, 0, 0, 0)
            else:
                bucket = places.of(_name(self._prefix + b"b:", f"{limit.counted}\n{limit.id}", charge.scope))
                span = window.seconds * 1_000_000
                numbers += (_SLIDING, place, amount, counts, limit.amount, limit.shadow, slot, bucket, limit.burst, span)

    def _counter(self, charge: Charge) -> bytes:
        return _name(self._prefix + b"c:", charge.limit.counted, charge.scope)


class _Places:
    """Keys of a call, each once, and their numbers."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys
        self._numbers: dict[bytes, int] = {}

    def of(self, key: bytes) -> int:
        number = self._numbers.get(key)
        if number is None:
            self.keys.append(key)
            number = self._numbers[key] = len(self.keys)
        return number


def four_turns(calendar: Calendar, now: int) -> tuple[int, int, int, int]:
    """The turns of the windows before, around and after *now*, in milliseconds."""
    start, end = calendar_window(calendar, now * _MICROSECONDS)
    before, after = calendar_window(calendar, start - 1)[0], calendar_window(calendar, end)[1]
    return before // _MICROSECONDS, start // _MICROSECONDS, end // _MICROSECONDS, after // _MICROSECONDS


def milliseconds(span: timedelta) -> int:
    """A span as an integer, at least 1."""
    return max(1, span // timedelta(milliseconds=1))


def read_answer(
    numbers: Sequence[int],
    charges: tuple[Charge, ...],
    id: str,  # noqa: A002 - as in the Protocol
    status: Status,
) -> Reservation | LimitRefusal:
    """The answer to `Names.reserve`.

    Raises:
        Senseless: It is none.
    """
    states, lacking = _states(numbers, charges)
    if status is Status.DONE:
        return Reservation(id, charges, states, tuple([states[number] for number in lacking]))
    which, wait = numbers[3], numbers[4]
    if which not in lacking:
        raise Senseless(f"refused by charge {which} of {len(charges)}")
    shadowed = tuple(states[number] for number in lacking if charges[number].limit.shadow)
    return LimitRefusal(states[which], charges[which].amount, None if wait < 0 else wait / 1_000_000, states, shadowed)


def read_states(numbers: Sequence[int], charges: Sequence[Charge]) -> tuple[LimitState, ...]:
    """The answer to `Names.states`.

    Raises:
        Senseless: It is none.
    """
    return _states(numbers, charges)[0]


def _states(numbers: Sequence[int], charges: Sequence[Charge]) -> tuple[tuple[LimitState, ...], list[int]]:
    """How far the limits are used, and the numbers of those that have not enough."""
    if len(numbers) != _HEAD + _OF_CHARGE * len(charges):
        raise Senseless(f"{len(numbers)} numbers about {len(charges)} charges")
    states = []
    lacking = []
    at = _HEAD
    for number, (limit, scope, _, _) in enumerate(charges):
        states.append(LimitState(limit, scope, numbers[at], numbers[at + 1], numbers[at + 2] / 1000))
        if numbers[at + 3]:
            lacking.append(number)
        at += _OF_CHARGE
    return tuple(states), lacking


def _packed(numbers: list[int]) -> bytes:
    return _layout(len(numbers)).pack(*numbers)


@lru_cache(maxsize=256)
def _layout(count: int) -> struct.Struct:
    return struct.Struct(f">{count}q")


@lru_cache(maxsize=_MAX_NAMES)
def _name(prefix: bytes, counted: str, scope: tuple[str, ...]) -> bytes:
    return prefix + _digest(f"{counted}\n{json.dumps(scope)}".encode("utf-8", "surrogatepass"))


def _digest(name: bytes) -> bytes:
    """22 characters, by which nobody finds the name, nor another with the same digest."""
    return base64.urlsafe_b64encode(hashlib.blake2b(name, digest_size=_DIGEST_BYTES).digest())[:22]


def is_numbers(answer: Any) -> bool:
    """Whether all of them are integers."""
    return set(map(type, answer)) == {int}
