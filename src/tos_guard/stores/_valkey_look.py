"""Looking at the Valkey or Redis server of a fleet, without making anything there: can it keep what is shared?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from tos_guard.errors import StoreError
from tos_guard.stores._valkey import Command, Connections, Refusal, parse_address

__all__ = ["EngineLook", "look_at_engine"]

_OLDEST: Final = 7
_PROMISES: Final = {b"appendonly": b"yes", b"appendfsync": b"always"}


@dataclass(frozen=True, slots=True)
class EngineLook:
    """What a server says of itself.

    Attributes:
        name: What it is, and of which version.
        wrong: What keeps it from being used, and how to mend it; empty for nothing.
        keeps_all: Whether a restart loses nothing that it has answered.
    """

    name: str
    wrong: tuple[tuple[str, str], ...]
    keeps_all: bool


def look_at_engine(url: str, *, deadline: timedelta) -> EngineLook:
    """Ask a server what it is.

    Raises:
        ConfigurationError: The URL cannot be used.
        StoreError: It does not answer in time, or in order.
    """
    address = parse_address(url)
    connections = Connections(address, deadline=deadline.total_seconds())
    try:
        commands: list[Command] = [("INFO", "server", "replication", "memory"), *(("CONFIG", "GET", name) for name in _PROMISES)]
        about, *promises = connections.ask(commands, time.monotonic() + deadline.total_seconds())
    finally:
        connections.close()
    if isinstance(about, Refusal) or not isinstance(about, bytes):
        raise StoreError(f"INFO is refused ({about})", where=str(address), cure="Allow it; the limits need it too.")
    facts = {name.decode("ascii", "replace"): value.decode("ascii", "replace") for name, value in _pairs(about)}
    version, policy = facts.get("redis_version", "?"), facts.get("maxmemory_policy", "?")
    wrong = []
    if not version.partition(".")[0].isdigit() or int(version.partition(".")[0]) < _OLDEST:
        wrong.append((f"it is of version {version}", f"Take Valkey or Redis from version {_OLDEST} on."))
    if facts.get("role") != "master":
        wrong.append(("it is a replica, which counts nothing", "Name the primary."))
    if policy != "noeviction":
        wrong.append((f"maxmemory-policy is {policy}: it would forget what was used, without a word", "Set it to noeviction."))
    keeps = all(answer == [name, value] for answer, (name, value) in zip(promises, _PROMISES.items(), strict=True))
    name = f"Valkey {facts['valkey_version']}" if "valkey_version" in facts else f"Redis {version}"
    return EngineLook(name, tuple(wrong), keeps)


def _pairs(about: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, colon, value in (line.partition(b":") for line in about.split(b"\r\n")) if colon]
