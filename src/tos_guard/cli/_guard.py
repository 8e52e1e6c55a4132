"""The guard of the settings, for commands that ask it what it answers without a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tos_guard.cli._arguments import load_settings, now, settings_path
from tos_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from tos_guard.guard import Guard
    from tos_guard.stores import Store

__all__ = ["guard_of", "store_of"]


@contextmanager
def guard_of(config: Path | None) -> Iterator[Guard]:
    """The guard of the settings, for as long as the block lasts. Host's facts and other servers' tokens come with requests only.

    Raises:
        ConfigurationError: A file, key or setting is unusable.
        StoreError: The store cannot be opened.
    """
    from tos_guard.guard import Guard

    settings = load_settings(config).model_copy(update={"bearer": ()})
    guard = Guard.from_file(settings_path(config), settings=settings, assertions=lambda _view, _account: {}, clock=now)
    try:
        yield guard
    finally:
        guard.close_stores()


def store_of(guard: Guard) -> Store:
    """The store of `guard_of`."""
    if guard.store is None:
        raise ConfigurationError("the guard has no store", where="settings")
    return guard.store
