"""What a process does with blocks of limits that it has reserved in a shared engine: the rules, and the steps of each call.

A block is an ordinary reservation, as large as several requests of one *shape* (the same limits of the same account). Requests take from
it what they are charged, without a question to the engine, for as long as it may be *spent*:

- while the slot of every sliding window and the window of every calendar to which it was charged is in progress,
- by our monotonic clock, which goes on while the machine sleeps: from before the question was sent, and eight ninths of what the engine
  says is left (clocks differ).

**No window ever holds more than was admitted.** The engine counts a block whole in slot S, from when it admitted it until S has left the
window whole. Each unit is spent within S. So whatever window holds the moment of its spending holds S too, or a part of it, and the
engine had counted that unit in each such window.

- **Size.** At most a share of each limit's amount, and a sixteenth of what is left of it, for as many requests as are expected: the last
  part of a limit is admitted one request at a time. The first request in a second finds out how much is left, and takes no block.
- **What was not spent goes back** when the block's time is over, when it is used up, and on `close`. When the engine refuses a request
  that would fit with what our own blocks hold, they go back at once, and it is asked again. What other processes hold stays theirs.
- **Requests that run on** when their block ends are moved into a reservation of their own, the *rest*, before the block is settled: for
  a moment they count twice, then later than they began, never earlier. So what they do not use still goes back, when half of a rest is
  free or its last request is settled. As requests (the quantity) they stay counted where they were.
- **Overage** is taken from a block that may be spent, and charged to the engine as debt otherwise, or where it does not fit.
- **Slots of concurrency** are part of a block like all else, and renewed with the requests that hold them.
- **All or none.** A request takes all its charges from one block, or all from the engine.
- **Past us** to the engine go requests that meet a limit with a burst, in shadow, or in a sliding window that is no multiple of 3 s
  (slots of others are not the same in all engines), and those reserved for longer than an hour, which another process may settle.
- A failure of the engine, and doubt (`LimitsForgottenError`), ends all blocks. A process that hears of neither spends what it has
  until the slot ends, which is why an engine that has lost its memory is in doubt for a slot longer than the window.
- A process that is killed leaves its blocks used. After a fork blocks and requests are the parent's.

Steps are generators, which a driver of either colour runs: they give calls of the engine, and get what it answered.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, Final, TypeVar

from cachetools import LRUCache

from tos_guard.config import MAX_LIMIT_BLOCK
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.limits import MAX_AMOUNT, Amounts, Charge, Limit, LimitRefusal, LimitState, Quantity, Reservation, Sliding
from tos_guard.limits._counters import SLOTS
from tos_guard.limits._time import MICROSECONDS
from tos_guard.stores._fork import watch_forks

__all__ = ["MOST_SHARE", "NOTHING", "Blocks", "Call", "Steps"]

T = TypeVar("T")

Call = Callable[[Any], Any]
"""What is to be asked of the engine, which is handed in."""

Steps = Generator[Call, Any, T]

NOTHING: Final = Amounts(requests=0)

_RATE: Final = 8 / 9
"""Of the engine's seconds we believe so many of ours: calendars catch up by an eighth, and clocks that are slewed by a twelfth at most."""

_RESOLUTION: Final = 0.001
"""Engines let their time stand still for so many seconds."""

_LONGEST: Final = 60.0
"""Seconds for which any block may be spent: a process that has become idle gives back what it holds of a month."""

_LONGEST_LEASE: Final = timedelta(hours=1)
"""Reservations for longer are settled by whoever fetches the response, and only the engine is known to all."""

_BUSY_SECONDS: Final = 1.0
"""Whoever asks less often than once in so many seconds gains nothing by a block."""

MOST_SHARE: Final = MAX_LIMIT_BLOCK
"""Four such blocks are the whole limit."""

_PARTS: Final = 16
"""A block is one of so many parts of what is left, at most: so many processes can take one."""

_FEWEST: Final = 2
_FIRST: Final = 4
_MOST: Final = 4_096
"""For how many requests a block is, first and at most: it doubles when it is used up before its time."""

_MOST_SLOTS: Final = 100
"""Slots of concurrency in one block, each a member of its own in the engine (`_limits_valkey_wire.MAX_SLOTS`)."""

_MAX_SHAPES: Final = 10_000
"""Of so many kinds of requests is known how much was left last, about a kilobyte each."""

_DEBT_LEASE: Final = timedelta(seconds=1)
_COMMON_SECONDS: Final = 3
"""Slots of a window of so many seconds, and of all multiples, are whole milliseconds: they are the same in all engines."""

_Key = tuple[tuple[str, int, str, tuple[str, ...], bool], ...]

_state: Final = partial(tuple.__new__, LimitState)
"""`LimitState` from a tuple of its members, in half the time."""


class _Group:
    """What the engine has reserved for several requests of one shape: a block, or the rest of one."""

    def __init__(
        self, key: _Key, charges: tuple[Charge, ...], lease: timedelta, asked: float, open_: dict[str, _Held], *, is_rest: bool
    ) -> None:
        self.key = key
        self.charges = charges
        self.lease = lease
        self.reservation: Reservation | None = None
        """None while the engine is asked for it."""
        self.until = asked + lease.total_seconds()
        """When the reservation ends in the engine, at the earliest."""
        self.free: list[int] = [0 if is_rest else charge.amount for charge in charges]
        """What is left of each charge; less than nothing after an overage."""
        self.open = open_
        self.is_rest = is_rest
        self.begun = self.ends = 0.0
        """From when until when it may be spent."""
        self.count = 0
        """Requests that took from it."""
        self.is_ended = is_rest

    @property
    def spent(self) -> list[int]:
        return [charge.amount - free for charge, free in zip(self.charges, self.free, strict=True)]


@dataclass(slots=True)
class _Held:
    """A request that is open, and what it has of a group."""

    group: _Group
    amounts: list[int]
    ends: float


@dataclass(slots=True)
class _Shape:
    """What is known of requests that meet the same limits."""

    asked: float
    """When the engine was last asked."""
    remaining: list[int]
    size: int = _FIRST
    """For how many requests the next block is."""
    is_asking: bool = False


@dataclass(slots=True)
class _Ended:
    """A reservation that is only to be settled."""

    reservation: Reservation
    actual: Amounts
    until: float = field(default=0.0)


class Blocks:
    """The blocks of one process. Any thread may call; between two steps nothing is locked.

    Args:
        share: Which part of a limit's amount a block takes at most, above 0 and up to a quarter.
        monotonic: Seconds that never go back.

    Raises:
        ConfigurationError: The share is out of range.
    """

    def __init__(self, share: float, *, monotonic: Callable[[], float]) -> None:
        if not 0 < share <= MOST_SHARE:
            raise ConfigurationError(f"blocks of {share:g} of a limit", cure=f"It is above 0 and at most {MOST_SHARE:g}")
        self._share = share
        self._monotonic = monotonic
        self._is_closed = False
        self._prefix = ""
        self._begin()
        watch_forks(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._shapes: LRUCache[_Key, _Shape] = LRUCache(_MAX_SHAPES)
        self._blocks: dict[_Key, _Group] = {}
        self._ended: list[_Group] = []
        self._rests: list[_Group] = []
        self._unsettled: list[_Ended] = []
        self._open: dict[str, _Held] = {}
        self._numbers = count(1)
        self._shadows: LRUCache[int, tuple[Limit, Limit]] = LRUCache(1_000)
        self._prefix = f"block-{secrets.token_hex(8)}-"

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be given back."""
        return not (self._blocks or self._ended or self._rests or self._unsettled)

    @property
    def is_holding(self) -> bool:
        """Whether a block that has ended holds what others could use."""
        return any(_is_worth_it(group) for group in self._ended)

    # Reserve.

    def take(self, charges: tuple[Charge, ...], id: str, lease: timedelta) -> Reservation | None:  # noqa: A002 - as in the Protocol
        """Take the charges from a block; None where the engine is to be asked.

        Raises:
            StoreError: This is closed.
            ValueError: An open reservation has this id.
        """
        with self._lock:
            if self._is_closed:
                raise StoreError("the limits are closed")
            if id in self._open:
                raise ValueError(f"a reservation with the id {id!r} is open")
            if not self._blocks or (block := self._blocks.get(_key(charges))) is None or lease > _LONGEST_LEASE:
                return None
            now = self._monotonic()
            if now >= block.ends:
                self._end(block)
                return None
            for charge, free in zip(charges, block.free, strict=True):
                if charge.amount > max(free, 0):
                    return None
            return self._taken(block, charges, id, now, lease)

    def reserve(self, charges: tuple[Charge, ...], id: str, lease: timedelta) -> Steps[Reservation | LimitRefusal]:  # noqa: A002
        """What `take` had nothing for: a new block, or the request alone."""
        key = _key(charges) if lease <= _LONGEST_LEASE and _fits_blocks(charges) else ()
        if not key:
            answer: Reservation | LimitRefusal = yield lambda engine: engine.reserve(charges, id=id, lease=lease)
            return answer
        with self._lock:
            shape, size = self._plan(key, charges)
            name = self._name()
        asked = self._monotonic()
        if shape is not None and size:
            many = tuple([charge._replace(amount=size * charge.amount) for charge in charges])
            try:
                answer = yield lambda engine: engine.reserve(many, id=name, lease=lease)
            finally:
                shape.is_asking = False
            with self._lock:
                self._note(key, asked, answer)
                if isinstance(answer, Reservation):
                    block = self._new_block(key, answer, asked, lease)
                    return self._taken(block, charges, id, self._monotonic(), lease)
        answer = yield lambda engine: engine.reserve(charges, id=id, lease=lease)
        if isinstance(answer, LimitRefusal) and (holding := self._holding(answer, charges)):
            for group in holding:
                yield from self._give_back(group)
            answer = yield lambda engine: engine.reserve(charges, id=id, lease=lease)
        with self._lock:
            self._note(key, asked, answer)
        return answer

    def _plan(self, key: _Key, charges: tuple[Charge, ...]) -> tuple[_Shape | None, int]:
        """For how many requests a block is to be; 0 for none."""
        shape = self._shapes.get(key)
        if shape is None or shape.is_asking or self._monotonic() - shape.asked > _BUSY_SECONDS:
            return None, 0
        size = 0
        for charge, remaining in zip(charges, shape.remaining, strict=True):
            if charge.amount:
                most = min(int(charge.limit.amount * self._share), remaining // _PARTS)
                if charge.limit.window is None:
                    most = min(most, _MOST_SLOTS)
                size = min(size or shape.size, most // charge.amount)
                if size < _FEWEST:
                    return None, 0
        if size and (block := self._blocks.get(key)) is not None:
            self._end(block)
        shape.is_asking = size > 0
        return shape, size

    def _note(self, key: _Key, asked: float, answer: Reservation | LimitRefusal) -> None:
        remaining = [state.remaining for state in answer.states]
        shape = self._shapes.get(key)
        if shape is None:
            self._shapes[key] = _Shape(asked, remaining)
        else:
            shape.asked, shape.remaining = asked, remaining

    def _new_block(self, key: _Key, reservation: Reservation, asked: float, lease: timedelta) -> _Group:
        block = _Group(key, reservation.charges, lease, asked, {}, is_rest=False)
        block.reservation = reservation
        block.begun, block.ends = asked, asked + _spendable(reservation, lease)
        if (other := self._blocks.get(key)) is not None:
            self._end(other)
        self._blocks[key] = block
        return block

    def _taken(self, block: _Group, charges: tuple[Charge, ...], id: str, now: float, lease: timedelta) -> Reservation:  # noqa: A002
        reservation = block.reservation
        assert reservation is not None  # noqa: S101 - it is a block
        elapsed = now - block.begun
        free, amounts, states = block.free, [], []
        for number, (charge, state) in enumerate(zip(charges, reservation.states, strict=True)):
            amounts.append(charge.amount)
            left = free[number] = free[number] - charge.amount
            reset = max(0.0, state.reset - elapsed)
            states.append(_state((charge.limit, charge.scope, max(0, state.used - left), max(0, state.remaining + left), reset)))
        block.count += 1
        self._open[id] = block.open[id] = _Held(block, amounts, now + lease.total_seconds())
        return Reservation(id, charges, tuple(states))

    # Settle, renew, look.

    def settle(self, reservation: Reservation, actual: Amounts | None) -> Steps[None]:
        """Replace what a request holds by what it used; what was not taken from a block is the engine's."""
        debts: tuple[Charge, ...] = ()
        overdrawn: _Group | None = None
        with self._lock:
            held = self._open.pop(reservation.id, None)
            if held is not None:
                group = held.group
                del group.open[reservation.id]
                now = self._monotonic()
                debts = self._put_back(held, actual if held.ends > now else None, now)
                if not group.is_ended and min(group.free) < 0:
                    overdrawn = group
            name = self._name()
        if held is None:
            yield lambda engine: engine.settle(reservation, actual)
        if overdrawn is not None:
            yield from self._give_back(overdrawn)
        if debts:
            yield lambda engine: engine.reserve(debts, id=name, lease=_DEBT_LEASE)

    def _put_back(self, held: _Held, actual: Amounts | None, now: float) -> tuple[Charge, ...]:
        """Correct what is free in the group. Returns what is to be charged beside it."""
        group = held.group
        may_spend = not group.is_ended and now < group.ends
        debts = []
        for number, (charge, amount) in enumerate(zip(group.charges, held.amounts, strict=True)):
            quantity = charge.limit.quantity
            if quantity is Quantity.CONCURRENCY:
                group.free[number] += amount
            elif actual is not None and not (group.is_rest and quantity is Quantity.REQUESTS):
                over = actual.of(quantity) - amount
                if over <= 0 or may_spend:
                    group.free[number] -= over
                else:
                    debts.append(self._in_shadow(charge, over))
        return tuple(debts)

    def renewed(self, reservations: Sequence[Reservation], lease: timedelta) -> list[Reservation]:
        """Let requests hold for *lease* from now. Returns what is to be renewed in the engine for that."""
        found: dict[str, Reservation] = {}
        with self._lock:
            now = self._monotonic()
            until = now + lease.total_seconds()
            for reservation in reservations:
                held = self._open.get(reservation.id)
                if held is None:
                    found[reservation.id] = reservation
                elif held.ends > now:
                    held.ends = until
                    kept = held.group.reservation
                    if kept is not None and held.group.until < until:
                        found[kept.id] = kept
                        held.group.until = until
        return list(found.values())

    def states(self, charges: Sequence[Charge]) -> Steps[tuple[LimitState, ...]]:
        """How far the limits are used; what our own blocks have left is not."""
        answer: tuple[LimitState, ...] = yield lambda engine: engine.states(charges)
        with self._lock:
            groups = [*self._blocks.values(), *self._ended]
            if not groups:
                return answer
            return tuple(self._seen(state, self._free_of(charge, groups)) for state, charge in zip(answer, charges, strict=True))

    def _seen(self, state: LimitState, free: int) -> LimitState:
        used = max(0, state.used - free)
        return state._replace(
            used=used,
            remaining=max(0, min(state.remaining + free, state.limit.amount - used)) if free else state.remaining,
            reset=state.reset if used else 0.0,
        )

    def _free_of(self, charge: Charge, groups: Sequence[_Group]) -> int:
        """What the groups have left of one counter, as long as the engine knows them."""
        now, counter = self._monotonic(), charge.counter
        return sum(
            free
            for group in groups
            for one, free in zip(group.charges, group.free, strict=True)
            if one.counts and group.until > now and one.counter == counter
        )

    # What ends, and goes back.

    def end_all(self) -> None:
        """The engine has failed or forgotten: nothing more is spent."""
        with self._lock:
            for block in list(self._blocks.values()):
                self._end(block)

    def give_back(self, *, is_last: bool = False) -> Steps[None]:
        """Settle whatever has ended; with *is_last* everything. A failure is raised, and what is left is tried again next time.

        Groups whose requests are open for longer than the engine knows of are renewed, with half of their lease left.
        """
        with self._lock:
            now = self._monotonic()
            ending: list[_Group] = []
            for id, held in list(self._open.items()):  # noqa: A001 - as in the Protocol
                group = held.group
                if held.ends <= now:
                    del self._open[id], group.open[id]
                    self._put_back(held, None, now)
                elif group.until < min(held.ends, now + group.lease.total_seconds() / 2) and group not in ending:
                    ending.append(group)
            for block in [each for each in self._blocks.values() if is_last or each.ends <= now]:
                self._end(block)
            self._ended = [group for group in self._ended if group.until > now]
            self._rests = [group for group in self._rests if group.until > now]
            self._unsettled = [ended for ended in self._unsettled if ended.until > now]
            groups = [*self._ended, *(group for group in self._rests if is_last or _is_worth_it(group))]
            if is_last:
                self._is_closed = True
                self._open.clear()
                ending.clear()
        for group in ending:
            if (reservation := group.reservation) is not None:
                group.until = now + group.lease.total_seconds()
                yield lambda engine, group=group, kept=reservation: engine.renew(kept, lease=group.lease)  # type: ignore[misc]
        while self._unsettled:
            yield from self._settle_ended()
        for group in groups:
            yield from self._give_back(group, is_last=is_last)

    def give_back_held(self) -> Steps[None]:
        """The same for blocks alone that hold what others could use."""
        with self._lock:
            groups = [group for group in self._ended if _is_worth_it(group)]
        for group in groups:
            yield from self._give_back(group)

    def _give_back(self, group: _Group, *, is_last: bool = False) -> Steps[None]:
        """Settle a group that ends; requests that are open in it are moved into one of their own."""
        with self._lock:
            if not group.is_ended:
                self._end(group)
            groups = self._rests if group.is_rest else self._ended
            if group not in groups or group.reservation is None:
                return  # another thread is at it
            groups.remove(group)
            rest = self._rest_of(group) if group.open and not is_last else None
            if rest is None:
                self._forget(group)
            name = self._name()
        if rest is not None:
            try:
                answer = yield lambda engine: engine.reserve(rest.charges, id=name, lease=rest.lease)
            except BaseException:  # a call that is cancelled too
                with self._lock:
                    self._merge(group, rest)
                raise
            with self._lock:
                rest.reservation = answer
                self._forget(group)
        yield from self._settle_ended()

    def _settle_ended(self) -> Steps[None]:
        with self._lock:
            ended = self._unsettled.pop() if self._unsettled else None
        if ended is not None:
            try:
                yield lambda engine: engine.settle(ended.reservation, ended.actual)
            except BaseException:  # a call that is cancelled too
                with self._lock:
                    self._unsettled.append(ended)
                raise

    def _forget(self, group: _Group) -> None:
        """From now on the group is only to be settled."""
        assert group.reservation is not None  # noqa: S101 - who calls has looked
        self._unsettled.append(_Ended(group.reservation, _amounts(group.charges, group.spent), group.until))

    def _rest_of(self, group: _Group) -> _Group:
        """Move the requests that are open into a group of their own, which is to be reserved."""
        moved = [0] * len(group.charges)
        for held in group.open.values():
            for number, charge in enumerate(group.charges):
                if charge.limit.quantity is Quantity.REQUESTS:
                    held.amounts[number] = 0
                moved[number] += held.amounts[number]
        charges = tuple([self._in_shadow(charge, amount) for charge, amount in zip(group.charges, moved, strict=True)])
        rest = _Group(group.key, charges, group.lease, self._monotonic(), group.open, is_rest=True)
        group.open = {}
        for held in rest.open.values():
            held.group = rest
        group.free = [free + amount for free, amount in zip(group.free, moved, strict=True)]
        self._rests.append(rest)
        return rest

    def _merge(self, group: _Group, rest: _Group) -> None:
        """The rest was not reserved: its requests are the group's again."""
        self._rests.remove(rest)
        group.is_rest = True  # what its requests count as requests is no longer theirs
        group.free = [free - spent for free, spent in zip(group.free, rest.spent, strict=True)]
        group.open = rest.open
        for held in group.open.values():
            held.group = group
        self._rests.append(group)

    def _holding(self, refusal: LimitRefusal, charges: tuple[Charge, ...]) -> list[_Group]:
        """Our groups that have something left of what the request lacks, if they have enough."""
        with self._lock:
            groups = [*self._blocks.values(), *self._ended, *self._rests]
            lacking = [charge for charge, state in zip(charges, refusal.states, strict=True) if charge.amount > state.remaining]
            for charge, state in zip(charges, refusal.states, strict=True):
                if charge.amount > state.remaining + max(0, self._free_of(charge, groups)):
                    return []
            return [group for group in groups if any(self._free_of(charge, [group]) > 0 for charge in lacking)]

    def _end(self, block: _Group) -> None:
        """It is not spent any more."""
        block.is_ended = True
        if self._blocks.get(block.key) is block:
            del self._blocks[block.key]
        self._ended.append(block)
        if (shape := self._shapes.get(block.key)) is not None:
            is_used_up = self._monotonic() < block.ends
            shape.size = min(_MOST, 2 * shape.size) if is_used_up else max(_FIRST, min(_MOST, 2 * block.count))

    def _in_shadow(self, charge: Charge, amount: int) -> Charge:
        """A charge of the same counter that nothing refuses: it was admitted already, or used already."""
        kept = self._shadows.get(id(charge.limit))
        if kept is None or kept[0] is not charge.limit:
            kept = self._shadows[id(charge.limit)] = charge.limit, replace(charge.limit, shadow=True)
        return charge._replace(limit=kept[1], amount=min(amount, MAX_AMOUNT))

    def _name(self) -> str:
        return f"{self._prefix}{next(self._numbers)}"

    # Forks.

    def before_fork(self) -> None:
        """Hold still."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Blocks and what was taken from them are the parent's."""
        self._begin()


def _key(charges: Sequence[Charge]) -> _Key:
    """What requests have in common that can take from one block."""
    return tuple([(limit.id, limit.amount, limit.counted, scope, counts) for limit, scope, _, counts in charges])


def _fits_blocks(charges: Sequence[Charge]) -> bool:
    """Whether requests of this shape may take from blocks."""
    for limit, _, _, _ in charges:
        if limit.shadow or limit.burst is not None:
            return False
        if isinstance(limit.window, Sliding) and limit.window.seconds % _COMMON_SECONDS:
            return False
    amounts = [charge.amount for charge in charges]
    used = _amounts(charges, amounts)
    return all(charge.amount == used.of(charge.limit.quantity) for charge in charges)


def _spendable(reservation: Reservation, lease: timedelta) -> float:
    """For how many seconds a block may be spent, from before it was asked for.

    The oldest slot of a sliding window leaves it when a slot ends, so that `LimitState.reset` is a number of slots and what is left of
    the present one; of a calendar it is what is left of the window. Half of the lease: whoever takes a slot of concurrency at its end
    has time to renew it.
    """
    seconds = min(_LONGEST, lease.total_seconds() / 2)
    for charge, state in zip(reservation.charges, reservation.states, strict=True):
        window = charge.limit.window
        if window is None or not charge.amount:
            continue
        left = state.reset
        if isinstance(window, Sliding):
            slot = window.seconds * MICROSECONDS // SLOTS
            left = (round(left * MICROSECONDS) % slot or slot) / MICROSECONDS
        seconds = min(seconds, left)
    return seconds * _RATE - _RESOLUTION


def _is_worth_it(group: _Group) -> bool:
    """Whether enough of an ended group is free to give it back now: all, or half of something."""
    if not group.open:
        return True
    return any(2 * free >= charge.amount > 0 for charge, free in zip(group.charges, group.free, strict=True))


def _amounts(charges: Sequence[Charge], used: Sequence[int]) -> Amounts:
    """The amounts of which each charge's quantity is what was used of it."""
    of = {charge.limit.quantity: max(0, amount) for charge, amount in zip(charges, used, strict=True)}
    tokens, given, read = of.get(Quantity.TOKENS), of.get(Quantity.OUTPUT_TOKENS), of.get(Quantity.INPUT_TOKENS)
    if tokens is not None:
        # What is not counted alone is the rest of the tokens.
        given = (0 if read is None else max(0, tokens - read)) if given is None else given
        read = max(0, tokens - given) if read is None else read
    return Amounts(
        requests=min(of.get(Quantity.REQUESTS, 0), MAX_AMOUNT),
        input_tokens=min(read or 0, MAX_AMOUNT),
        output_tokens=min(given or 0, MAX_AMOUNT),
        reasoning_tokens=min(of.get(Quantity.REASONING_TOKENS, 0), MAX_AMOUNT),
        cost=min(of.get(Quantity.COST, 0), MAX_AMOUNT),
    )
