"""What a limit is, what a request is charged, and what an engine answers: values only.

- A **counter** is named by what it counts: quantity, dimensions, window, and the models and actions it is confined to. A limit's id,
  amount, burst and kinds are not in the name, so that changing these does not reset what was used.
- All amounts are integers. Cost is in millionths of the provider's currency unit.
- An end user belongs to an account: a limit per end user is one per account and end user.

`Charge`, `LimitState`, `Reservation` and `LimitRefusal` are made for each request, and are tuples with names for that reason: a frozen
dataclass takes three times as long to build.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from tos_guard.errors import ConfigurationError
from tos_guard.limits._time import zone_named

__all__ = [
    "MAX_AMOUNT",
    "MAX_WINDOW_SECONDS",
    "Amounts",
    "Calendar",
    "Charge",
    "Dimension",
    "Limit",
    "LimitRefusal",
    "LimitState",
    "Quantity",
    "Reservation",
    "Sliding",
    "Usage",
    "Window",
]

MAX_AMOUNT: Final = 2**53 - 1
"""Largest amount of a limit or a request. Engines add in 64 bits, and a request may declare any number as its maximum."""

MAX_WINDOW_SECONDS: Final = 366 * 86_400
"""Longest sliding window: what an account used stays known for that long."""


class Quantity(StrEnum):
    """What a limit counts. ``tokens`` is input and output together; output includes reasoning."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input-tokens"
    OUTPUT_TOKENS = "output-tokens"
    REASONING_TOKENS = "reasoning-tokens"
    TOKENS = "tokens"
    COST = "cost"
    CONCURRENCY = "concurrency"


class Dimension(StrEnum):
    """What a limit is counted per."""

    ACCOUNT = "account"
    ORGANIZATION = "organization"
    END_USER = "end-user"
    MODEL = "model"
    ACTION = "action"


@dataclass(frozen=True, slots=True)
class Sliding:
    """Any span of this length, wherever it begins.

    Attributes:
        seconds: Its length, at least 1.

    Raises:
        ConfigurationError: Shorter than a second, or longer than 366 days.
    """

    seconds: int

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= MAX_WINDOW_SECONDS:
            raise ConfigurationError(f"a window of {self.seconds} s", cure=f"It lasts from 1 to {MAX_WINDOW_SECONDS} seconds")

    def __str__(self) -> str:
        return f"{self.seconds}s"


@dataclass(frozen=True, slots=True)
class Calendar:
    """A minute, hour, day, week (from Monday) or month of the calendar.

    Attributes:
        unit: Which of these.
        zone: IANA name of the zone in which it begins.

    Raises:
        ConfigurationError: The machine knows no such zone.
    """

    unit: Literal["minute", "hour", "day", "week", "month"]
    zone: str = "UTC"

    def __post_init__(self) -> None:
        zone_named(self.zone)

    def __str__(self) -> str:
        return f"calendar {self.unit} {self.zone}"


Window = Sliding | Calendar


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most so much of one quantity, per something, in any window.

    Attributes:
        id: Its name, as refusals and settings say it.
        quantity: What it counts.
        amount: How much is allowed. Zero allows nothing.
        per: What it is counted per, in the order of `Dimension`. Empty: one counter for everybody.
        window: In which time; None for concurrency, which is what runs now.
        burst: At most so much at once: a bucket that refills evenly over the window. None for no such bound. Sliding windows only.
        models: Models it counts; empty for all.
        actions: Actions it counts; empty for all.
        kinds: Kinds of account that it is for; empty for all.
        shadow: It is counted and reported, and refuses nothing.
        counted: Name of what it counts, the same for limits that share a counter.

    Raises:
        ConfigurationError: Amount or burst out of range, a window for concurrency or none for another quantity, or a burst without a
            sliding window.
    """

    id: str
    quantity: Quantity
    amount: int
    per: tuple[Dimension, ...]
    window: Window | None
    burst: int | None = None
    models: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    shadow: bool = False
    counted: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = f"limit {self.id}"
        if not 0 <= self.amount <= MAX_AMOUNT:
            raise ConfigurationError(f"an amount of {self.amount}", where=where, cure=f"It is from 0 to {MAX_AMOUNT}")
        if (self.window is None) != (self.quantity is Quantity.CONCURRENCY):
            raise ConfigurationError("concurrency has no window, and every other quantity has one", where=where)
        if self.burst is not None and not isinstance(self.window, Sliding):
            raise ConfigurationError("a burst without a sliding window", where=where, cure='Give it one, such as window = "60s"')
        if self.burst is not None and not 1 <= self.burst <= MAX_AMOUNT:
            raise ConfigurationError(f"a burst of {self.burst}", where=where, cure=f"It is from 1 to {MAX_AMOUNT}")
        implied = {Dimension.ACCOUNT} if Dimension.END_USER in self.per else set()
        per = tuple(dimension for dimension in Dimension if dimension in {*self.per, *implied})
        object.__setattr__(self, "per", per)
        named = (self.quantity, per, str(self.window or ""), sorted(self.models), sorted(self.actions))
        object.__setattr__(self, "counted", json.dumps(named, separators=(",", ":")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How much of each quantity one request takes, or took.

    Attributes:
        requests: How many requests it counts as.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the response, reasoning included.
        reasoning_tokens: Those of them spent on reasoning.
        cost: Millionths of the provider's currency unit.

    Raises:
        ValueError: One of them is negative, or more than `MAX_AMOUNT`.
    """

    requests: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0

    def __post_init__(self) -> None:
        members = (self.requests, self.input_tokens, self.output_tokens, self.reasoning_tokens, self.cost)
        if min(members) < 0 or max(members) > MAX_AMOUNT:
            raise ValueError(f"amounts are from 0 to {MAX_AMOUNT}: {members}")

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def of(self, quantity: Quantity) -> int:
        """How much of one quantity; a request takes one slot of concurrency."""
        if quantity is Quantity.CONCURRENCY:
            return 1
        taken: int = getattr(self, _MEMBERS[quantity])
        return taken


_MEMBERS: Final = {quantity: quantity.replace("-", "_") for quantity in Quantity}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a response says it used. None: it does not say.

    Attributes:
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the response, reasoning included.
        reasoning_tokens: Those of them spent on reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


class Charge(NamedTuple):
    """What one limit takes for one request.

    Attributes:
        limit: The limit, with the amount that holds for the account.
        scope: Whose it is: a value for each of ``limit.per``, in that order.
        amount: How much.
        counts: False where an earlier charge of the request has the same counter, which counts it.
    """

    limit: Limit
    scope: tuple[str, ...]
    amount: int
    counts: bool = True

    @property
    def counter(self) -> tuple[str, tuple[str, ...]]:
        """Name of the counter: what is counted, and whose it is."""
        return self.limit.counted, self.scope


class LimitState(NamedTuple):
    """How far a limit is used.

    Attributes:
        limit: The limit, with the amount that holds for the account.
        scope: Whose it is.
        used: How much is used or reserved. More than the amount after an overage, or after the amount was lowered.
        remaining: How much is left; of a limit with a burst, at once.
        reset: Seconds until some of it comes back, at the latest; 0 when nothing is used. Of concurrency it is a guess: slots come back
            when responses end.
    """

    limit: Limit
    scope: tuple[str, ...]
    used: int
    remaining: int
    reset: float


class Reservation(NamedTuple):
    """What was taken for one request, until it is settled.

    Attributes:
        id: Its id, as the caller gave it.
        charges: What was charged.
        states: The limits afterwards, one for each charge.
        shadowed: Those of them that are in shadow and would have refused.
        fallback: Empty, or the failure mode under which it was made: ``allow`` (nothing was counted) or ``local`` (in this process
            alone).
    """

    id: str
    charges: tuple[Charge, ...]
    states: tuple[LimitState, ...] = ()
    shadowed: tuple[LimitState, ...] = ()
    fallback: Literal["", "allow", "local"] = ""


class LimitRefusal(NamedTuple):
    """A request that would exceed a limit. Nothing was charged.

    Attributes:
        state: The limit that refused; of several, the one that takes longest to have enough.
        wanted: How much the request wanted of it.
        retry_after: Seconds until that much is free, if nobody else takes it; None for never: one request wants more than the limit.
        states: All limits, one for each charge.
        shadowed: Those of them that are in shadow and would have refused.
        fallback: As in `Reservation`.
    """

    state: LimitState
    wanted: int
    retry_after: float | None
    states: tuple[LimitState, ...] = ()
    shadowed: tuple[LimitState, ...] = ()
    fallback: Literal["", "allow", "local"] = ""
