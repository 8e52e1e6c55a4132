"""The document of a FastAPI app, with what the guard does in it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from tos_guard.guard import AsyncGuard
from tos_guard.web.openapi import described

__all__ = ["DescribedOpenAPI"]


class DescribedOpenAPI:
    """Takes the place of an app's ``openapi``, whoever wrote that.

    The host's document is asked for each time and never changed. Ours is made again when that, or the terms in force, have changed: routes
    may be added at any time.

    Args:
        openapi: Gives the host's document.
        guard: The guard.
        prefix: Path under which the app is mounted.

    Attributes:
        guard: The guard.
    """

    def __init__(self, openapi: Callable[[], dict[str, Any]], guard: AsyncGuard, prefix: str) -> None:
        self.guard = guard
        self._openapi = openapi
        self._prefix = prefix
        self._made: tuple[dict[str, Any], str, dict[str, Any]] | None = None

    def __call__(self) -> dict[str, Any]:
        """The document."""
        found, terms = self._openapi(), self.guard.terms.sha256
        if self._made is None or self._made[:2] != (found, terms):
            self._made = deepcopy(found), terms, described(found, self.guard, prefix=self._prefix)
        return self._made[2]
