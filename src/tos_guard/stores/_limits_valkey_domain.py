"""One domain of limits in Valkey, as a process knows it: the steps of each call, and when the engine has forgotten something.

A domain has an **epoch**: an id, the engine that counts it, and from when on it counts everything (the beginning of time for a domain that
never lost anything). Each call names the epoch it knows, and the script answers in no other.

- A process *attaches* before its first call, after each that failed, and whenever the script is gone (the engine was restarted, or is a
  replica that was promoted), the epoch is gone or another, or the engine's history is another. The script compares the engine with the
  epoch's in the step that brings it to the engine, so that nobody counts before.
- An engine that is another, or another run, begins a new epoch, *in doubt*: unless it says, and said before, that it loses nothing
  (``appendonly`` with ``appendfsync always``), and no replica was seen at it. So does one that evicted keys, or knows less than we do.
- An epoch that is gone begins anew in doubt too, unless the store says that the domain has never lived.
- Who comes from another epoch tells how long ago it counted there (a primary lived on beside its successor): no doubt begins earlier.
- In doubt, limits whose window reaches back before the epoch fail (`LimitsForgottenError`); those that refuse by what is known refuse.

Steps are generators, which a driver of either colour runs: they give what is to be asked, and get what was answered.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, Final, Literal, TypeVar, cast

from tos_guard.errors import ConfigurationError, LimitsForgottenError, StoreError
from tos_guard.limits import Amounts, Calendar, Charge, LimitRefusal, LimitState, Reservation
from tos_guard.stores._limits_valkey_wire import (
    SCRIPT,
    SCRIPT_DIGEST,
    Names,
    Question,
    Senseless,
    Status,
    Turns,
    four_turns,
    is_numbers,
    milliseconds,
    read_answer,
    read_states,
)
from tos_guard.stores._valkey import Command, Refusal

__all__ = ["Ask", "Domain", "Epoch", "Note", "Pause", "Step", "Steps"]

T = TypeVar("T")

_ATTEMPTS: Final = 5
"""How often a call is asked once more because the epoch or the window was another. Each time is another cause, or an engine gone mad."""

_BEGIN_SECONDS: Final = 1.0
"""How long a process waits for the one that the store told to begin the first epoch. Afterwards it begins one in doubt."""

_LOOK_SECONDS: Final = 0.02
_RENEW_AT_ONCE: Final = 100
"""Reservations renewed in one step, which keeps the engine from everybody else for a fifth of a millisecond."""

_DOMAIN_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_MAX_DOMAIN: Final = 64
_NEWEST_TOO_OLD: Final = 6
_NOTHING: Final = Amounts(requests=0)
_PROMISES: Final = {b"appendonly": b"yes", b"appendfsync": b"always", b"no-appendfsync-on-rewrite": b"no"}
"""What an engine says that has written to disk whatever it has answered."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """Since when an engine counts.

    Attributes:
        id: Its name.
        since: From when on it knows everything, in milliseconds of the engine's time; 0 where nothing was ever lost.
        cause: How this process came to it: ``begun`` (the domain is new), ``same`` (it went on), ``kept`` (the engine was restarted and
            has kept everything), ``changed`` (another engine, or restarted without its memory), ``gone`` (the engine knew nothing).
    """

    id: bytes
    since: int
    cause: Literal["begun", "same", "kept", "changed", "gone"]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the engine these in one go; what was answered comes back, an answer each. May have been carried out if that fails."""

    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """Ask the store whether the domain is new; a bool comes back."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


Step = Ask | Note | Pause
Steps = Generator[Step, Any, T]


class Domain:
    """What a process knows of a domain. Any thread may call.

    Args:
        name: Its name: letters, digits, dots, dashes; up to 64.
        where: The engine's address, for errors.
        slot_lease: Longest lease of a reservation with slots of concurrency: for so long these are in doubt when the memory was lost.
        told: Called with each epoch that this process comes to. It must not raise, and may be called by any thread.
        unsafe_time: The engine's time in milliseconds, for tests alone: whoever hands one in decides when windows end.

    Raises:
        ConfigurationError: The name cannot be one.
    """

    def __init__(
        self,
        name: str,
        *,
        where: str,
        slot_lease: timedelta,
        told: Callable[[Epoch], None],
        unsafe_time: Callable[[], int] | None = None,
    ) -> None:
        if not 0 < len(name) <= _MAX_DOMAIN or not _DOMAIN_CHARS.issuperset(name):
            raise ConfigurationError(f"{name!r} cannot name a domain of limits", cure="Take up to 64 letters, digits, dots and dashes")
        self.name: str = name
        self._where = f"{where} domain {name}"
        self._names = Names(name, milliseconds(slot_lease))
        self._told = told
        self._unsafe_time = unsafe_time
        self._numbers = count(1)
        self._epoch: Epoch | None = None
        self._last: tuple[bytes, float] = (b"", 0.0)
        """The epoch in which the last call was answered, and when."""
        self._noted: bool | None = None
        self._ahead = time.time() * 1000 - time.monotonic() * 1000
        """The engine's time less our monotonic clock, in milliseconds: what it was in the last answer, first what our own clock says."""
        self._turns: dict[Calendar, tuple[int, int, int, int]] = {}

    @property
    def epoch(self) -> Epoch | None:
        """The epoch that this process knows; None before the first call, and after it was found to be over."""
        return self._epoch

    def look_again(self) -> None:
        """A call has failed: the engine may be another one by the next."""
        self._epoch = None

    # Steps of the calls.

    def reserve(self, charges: Sequence[Charge], id: str, lease: timedelta) -> Steps[Reservation | LimitRefusal]:  # noqa: A002
        """Take all charges, or none."""
        kept = tuple(charges)
        numbers = yield from self._call(b"reserve", lambda turns: self._names.reserve(kept, id, milliseconds(lease), turns), kept)
        status = Status(numbers[1])
        if status is Status.OPEN:
            raise ValueError(f"a reservation with the id {id!r} is open")
        return self._read(lambda: read_answer(numbers, kept, id, status))

    def settle(self, reservation: Reservation, actual: Amounts | None) -> Steps[None]:
        """Replace the estimate by what was used."""
        yield from self._call(b"settle", lambda turns: self._names.settle(reservation, actual, turns))

    def cancel(self, reservation: Reservation) -> Steps[None]:
        """Give everything back."""
        return self.settle(reservation, _NOTHING)

    def renew(self, reservations: Sequence[Reservation], lease: timedelta) -> Steps[None]:
        """Let them hold from now on."""
        for start in range(0, len(reservations), _RENEW_AT_ONCE):
            some = reservations[start : start + _RENEW_AT_ONCE]
            yield from self._call(b"renew", lambda _, some=some: self._names.renew(some, milliseconds(lease)))  # type: ignore[misc]

    def states(self, charges: Sequence[Charge]) -> Steps[tuple[LimitState, ...]]:
        """Look."""
        kept = tuple(charges)
        numbers = yield from self._call(b"states", lambda turns: self._names.states(kept, turns), kept)
        return self._read(lambda: read_states(numbers, kept))

    # One call of the script.

    def _call(self, operation: bytes, ask: Callable[[Turns], Question], charges: tuple[Charge, ...] = ()) -> Steps[list[int]]:
        """The answer of the script, in an epoch that it and we know. Nothing that may have been carried out is asked twice."""
        for _ in range(_ATTEMPTS):
            epoch = self._epoch
            if epoch is None:
                epoch = yield from self._attach()
            question = ask(self._turns_of)
            number = b"%d" % next(self._numbers)
            told = (operation, number, epoch.id, self._test_time(), question.numbers)
            (answer,) = yield Ask((("EVALSHA", SCRIPT_DIGEST, len(question.keys), *question.keys, *told),))
            if isinstance(answer, Refusal):
                if not answer.is_without_script:
                    raise self._failed(str(answer))
                self._forget(epoch)
                continue
            numbers = self._checked(answer, number)
            status = numbers[1]
            if status in (Status.GONE, Status.OTHER, Status.CHANGED):
                self._forget(epoch)
                continue
            if status == Status.WHEN:
                continue
            self._last = epoch.id, time.monotonic()
            if status == Status.FORGOTTEN:
                raise self._forgotten(numbers, charges)
            return numbers
        raise self._failed("the epoch is another each time that it is asked for")

    def _checked(self, answer: Any, number: bytes) -> list[int]:
        """The numbers of an answer to the call with this number; the time in it is kept."""
        if not isinstance(answer, list) or len(answer) < 2 or answer[0] != number:
            raise self._senseless(answer)
        answer[0] = 0
        if not is_numbers(answer) or answer[1] not in Status._value2member_map_:
            raise self._senseless(answer)
        if len(answer) > 2:
            self._ahead = answer[2] - time.monotonic() * 1000
        return answer

    def _read(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except Senseless as error:
            raise self._senseless(error) from None

    def _test_time(self) -> bytes:
        return b"" if self._unsafe_time is None else b"%d" % self._unsafe_time()

    def _turns_of(self, calendar: Calendar) -> tuple[int, int, int, int]:
        now = int(time.monotonic() * 1000 + self._ahead) if self._unsafe_time is None else self._unsafe_time()
        turns = self._turns.get(calendar)
        if turns is None or not turns[1] <= now < turns[2]:
            turns = self._turns[calendar] = four_turns(calendar, now)
        return turns

    # The epoch.

    def _forget(self, epoch: Epoch) -> None:
        if self._epoch is epoch:  # another thread may know the next one already
            self._epoch = None

    def _attach(self) -> Steps[Epoch]:
        """Come to the engine's epoch, or begin one."""
        if self._noted is None:
            is_new = yield Note()
            # Of two threads that ask at once, one is told: it may be this one or the other.
            self._noted = is_new or bool(self._noted)
        mode, gives_up = b"look", time.monotonic() + _BEGIN_SECONDS
        for attempt in count():
            run, is_durable = yield from self._look_at_engine()
            answer = yield from self._bring_script(run, is_durable=is_durable, mode=mode)
            if answer[1] == Status.DONE:
                return self._come_to(answer)
            if answer[1] == Status.GONE and self._noted:
                mode = b"fresh"
            elif answer[1] == Status.GONE and time.monotonic() < gives_up:
                yield Pause(_LOOK_SECONDS)
            elif answer[1] == Status.GONE:
                mode = b"doubt"
            elif attempt >= _ATTEMPTS:
                break
        raise self._failed("the engine is another each time that it is asked for")

    def _look_at_engine(self) -> Steps[tuple[bytes, bool]]:
        """Its run, and whether it loses nothing that it has answered."""
        commands: list[Command] = [("INFO", "server", "replication", "memory"), *(("CONFIG", "GET", name) for name in _PROMISES)]
        about, *promises = yield Ask(tuple(commands))
        if isinstance(about, Refusal) or not isinstance(about, bytes):
            raise self._failed(f"INFO is refused ({about})", cure="Allow it, and take Valkey or Redis from version 7 on")
        facts = dict(line.split(b":", 1) for line in about.split(b"\r\n") if b":" in line)
        version, policy = facts.get(b"redis_version", b""), facts.get(b"maxmemory_policy", b"noeviction")
        if version.split(b".")[0].isdigit() and int(version.split(b".")[0]) <= _NEWEST_TOO_OLD:
            raise self._failed(f"it is of version {version.decode()}", cure="Take Valkey or Redis from version 7 on")
        if facts.get(b"role") != b"master":
            raise self._failed("it is a replica, and counts nothing", cure="Name the primary")
        if policy != b"noeviction":
            raise self._failed(
                f"maxmemory-policy is {policy.decode('ascii', 'replace')}: it would forget what was used, without a word",
                cure="Set it to noeviction",
            )
        return facts.get(b"run_id", b""), all(
            isinstance(answer, list) and answer == [name, value] for answer, (name, value) in zip(promises, _PROMISES.items(), strict=True)
        )

    def _bring_script(self, run: bytes, *, is_durable: bool, mode: bytes) -> Steps[list[Any]]:
        known, when = self._last
        age = int((time.monotonic() - when) * 1000) + 1
        number = b"%d" % next(self._numbers)
        told = (b"attach", number, known, self._test_time(), run, b"1" if is_durable else b"0", mode, secrets.token_hex(8).encode(), age)
        (answer,) = yield Ask((("EVAL", SCRIPT, 1, self._names.epoch, *told),))
        if isinstance(answer, Refusal):
            raise self._failed(str(answer))
        if not isinstance(answer, list) or len(answer) < 2 or answer[0] != number:
            raise self._senseless(answer)
        return answer

    def _come_to(self, answer: list[Any]) -> Epoch:
        match answer:
            case [_, _, int(now), bytes(name), int(since), bytes(cause)] if cause in (b"begun", b"same", b"kept", b"changed", b"gone"):
                epoch = Epoch(name, since, cast(Any, cause.decode()))
            case _:
                raise self._senseless(answer)
        self._ahead = now - time.monotonic() * 1000
        # From now on we know of this epoch, and of what we counted in another the engine has been told.
        self._last = name, time.monotonic()
        self._epoch = epoch
        self._told(epoch)
        return epoch

    # Errors.

    def _forgotten(self, numbers: list[int], charges: tuple[Charge, ...]) -> StoreError:
        match numbers:
            case [_, _, now, which, until, since] if 0 <= which < len(charges):
                return LimitsForgottenError(
                    f"the engine has lost its memory {(now - since) / 1000:.0f} s ago, and with it what limit {charges[which].limit.id}"
                    f" had counted; it is in doubt for {(until - now) / 1000:.0f} s more",
                    where=self._where,
                    cure="failure.limits decides meanwhile; appendonly with appendfsync always loses nothing",
                    seconds=(until - now) / 1000,
                )
        return self._senseless(numbers)

    def _failed(self, what: str, *, cure: str = "See the engine's log; failure.limits decides meanwhile") -> StoreError:
        return StoreError(what, where=self._where, cure=cure)

    def _senseless(self, answer: object) -> StoreError:
        return self._failed(f"a senseless answer ({str(answer)[:80]})", cure="Is this Valkey or Redis, and nothing in between?")
