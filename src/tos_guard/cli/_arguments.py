"""Arguments as values: files with a cap, moments, spans, and the options that several commands share."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tos_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.stores import Store

__all__ = [
    "AccountArgument",
    "ActorOption",
    "ConfigOption",
    "JSONOption",
    "OrganizationArgument",
    "ReasonOption",
    "acting",
    "load_settings",
    "now",
    "open_store",
    "opened",
    "parse_limit",
    "parse_moment",
    "parse_span",
    "read_input",
    "settings_path",
]

MAX_INPUT_BYTES: Final = 64 * 1024 * 1024  # a saved stream of 16 MiB of content, with its framing; a device named by mistake ends here

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file. Otherwise TOS_GUARD_CONFIG names it, or it is ./tos-guard.toml."),
]
JSONOption = Annotated[bool, typer.Option("--json", help='Write JSON: a document with "version": 1.')]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the history.")]
AccountArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the account.")]
OrganizationArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the organization, as accounts name it.")]
ActorOption = Annotated[
    str | None,
    typer.Option("--actor", metavar="NAME", help="Who does it; kept in the history.", show_default="cli: and your user name"),
]

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SPAN: Final = re.compile(r"([0-9]{1,9})([smhd]?)")
_MAX_DIGITS: Final = 18  # what a counter holds
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def now() -> datetime:
    """The present."""
    return datetime.now(UTC)


def acting(given: str | None) -> str:
    """Who does it: as given, or whoever the operating system says runs this command, as ``cli:jane``.

    Raises:
        ConfigurationError: The given name is empty.
    """
    if given is not None:
        if not given.strip():
            raise ConfigurationError("is empty", where="--actor", cure="Say who does it, or leave it out.")
        return given
    user = os.getuid()
    try:
        return f"cli:{pwd.getpwuid(user).pw_name}"
    except KeyError:  # a container's user need not have a name
        return f"cli:{user}"


def read_input(name: str, *, what: str = "") -> bytes:
    """The bytes of a file, or of stdin where *name* is ``-``.

    Args:
        name: Path, or ``-``.
        what: What it is for, for the error: an option, say.

    Raises:
        ConfigurationError: It cannot be read, or is larger than 64 MiB.
    """
    where = f"{what} {name}".strip()
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_INPUT_BYTES + 1)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"cannot be read ({problem})", where=where, cure="Name a readable file.") from None
    if len(data) > MAX_INPUT_BYTES:
        raise ConfigurationError(f"more than {MAX_INPUT_BYTES} bytes", where=where, cure="Name the file of one response.")
    return data


def parse_moment(text: str, *, where: str, end_of_day: bool = False) -> datetime:
    """A moment from ``2026-11-22``, ``2026-11-22T21:00:00Z`` or seconds since 1970.

    Args:
        text: As given.
        where: The option.
        end_of_day: Whether a day alone means its last second (UTC) and not its first.

    Raises:
        ConfigurationError: None of these.
    """
    try:
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text), UTC)
        at = datetime.fromisoformat(text)
        if _DAY.fullmatch(text):
            return datetime.combine(at.date(), time(23, 59, 59) if end_of_day else time(), UTC)
    except (ValueError, OverflowError, OSError):
        at = None
    if at is None or at.tzinfo is None:
        cure = "Write a day as 2026-11-22, a moment as 2026-11-22T21:00:00Z, or seconds since 1970."
        raise ConfigurationError(f"{text!r} is no moment", where=where, cure=cure)
    return at


def parse_span(text: str, *, where: str) -> timedelta:
    """A span from ``3600``, ``90s``, ``30m``, ``1h`` or ``2d``.

    Raises:
        ConfigurationError: None of these.
    """
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{text!r} is no span of time", where=where, cure="Write seconds, or 90s, 30m, 1h, 2d.")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def parse_limit(text: str, *, where: str) -> tuple[str, int]:
    """Id and amount from ``tokens-per-minute=500000``; underscores may group the digits.

    Raises:
        ConfigurationError: Another form.
    """
    limit_id, _, amount = text.partition("=")
    digits = amount.replace("_", "")
    if not limit_id or not digits.isascii() or not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ConfigurationError(f"{text!r} is no limit with its amount", where=where, cure="Write tokens-per-minute=500000.")
    return limit_id, int(digits)


def settings_path(config: Path | None) -> Path:
    """The settings file: as given, as ``TOS_GUARD_CONFIG`` names it, or in the current folder."""
    return config or Path(os.environ.get("TOS_GUARD_CONFIG") or "tos-guard.toml")


def load_settings(config: Path | None) -> GuardSettings:
    """The settings, with paths taken from the folder of their file.

    Raises:
        ConfigurationError: The file cannot be read or used.
    """
    from tos_guard.config import parse_settings
    from tos_guard.stores import read_settings

    path = settings_path(config)
    return parse_settings(read_settings(path), where=str(path)).beside(path.parent)


def open_store(settings: GuardSettings) -> Store:
    """The store of the settings, to be closed by the caller.

    Raises:
        ConfigurationError: It cannot be used.
        StoreError: It cannot be opened.
    """
    from tos_guard import stores

    return stores.open_store(settings, clock=now)


@contextmanager
def opened(config: Path | None) -> Iterator[tuple[GuardSettings, Store]]:
    """The settings, and their store for as long as the block lasts.

    Raises:
        ConfigurationError: The settings cannot be read, or the store cannot be used.
        StoreError: The store cannot be opened.
    """
    settings = load_settings(config)
    with open_store(settings) as store:
        yield settings, store
