"""The settings file on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tos_guard.errors import ConfigurationError

__all__ = ["read_settings"]

_MAX_BYTES: Final = 1_048_576


def read_settings(path: Path) -> bytes:
    """The bytes of a settings file; `tos_guard.config.parse_settings` reads them.

    Raises:
        ConfigurationError: It cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"cannot be read ({problem})", where=str(path), cure="'tos-guard init' makes one.") from None
    if len(data) > _MAX_BYTES:
        raise ConfigurationError(f"more than {_MAX_BYTES} bytes", where=str(path), cure="Name the settings file.")
    return data
