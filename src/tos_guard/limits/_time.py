"""An engine's two times, made of a clock that never goes back and the clock on the wall.

- *time* grows with the monotonic clock. Sliding windows, buckets and leases go by it; nobody can set it.
- *calendar* is the time on the wall, for windows of the calendar. It follows that clock, and is not jerked by it: where the two differ, it
  runs an eighth faster or slower until they agree. A clock that is set an hour ahead and back changes no window by more than that.
  Only a day or more ahead (the clock had never been set) moves it at once.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tos_guard.errors import ConfigurationError

__all__ = ["MICROSECONDS", "Moment", "follow", "microseconds", "zone_named"]

MICROSECONDS: Final = 1_000_000
"""In a second."""

_CORRECTION: Final = 8
"""Of so many seconds, one may be used to catch up with the wall clock: no window is shorter than eight ninths of its length."""

_NEVER_SET: Final = 86_400 * MICROSECONDS
_MICROSECOND: Final = timedelta(microseconds=1)


class Moment(NamedTuple):
    """What an engine's clocks show, in microseconds.

    Attributes:
        time: Since some fixed moment; never goes back.
        calendar: Since 1970.
    """

    time: int
    calendar: int


def follow(calendar: int, elapsed: int, wall: int) -> int:
    """What the calendar shows after *elapsed*, when the wall clock shows *wall*; all in microseconds."""
    expected = calendar + elapsed
    behind = wall - expected
    if behind >= _NEVER_SET:
        return wall
    most = elapsed // _CORRECTION
    return expected + max(-most, min(behind, most))


@lru_cache(maxsize=64)
def zone_named(name: str) -> ZoneInfo:
    """A zone by its IANA name.

    Raises:
        ConfigurationError: The machine knows no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError("no zone of this machine", where=name, cure="Name one such as Europe/Berlin, or install tzdata") from None


def microseconds(span: timedelta) -> int:
    """A span as an integer."""
    return span // _MICROSECOND
