"""Attaching the guard through FastAPI's own doors: `add_middleware` and the lifespan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Host, Mount

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.guard import Admission, AsyncGuard
from tos_guard.stores import KeyFolder
from tos_guard.web.asgi import STATE_KEY, TosGuardMiddleware
from tos_guard.web.wellknown import PREFIX, KeyDocuments, WellKnown

__all__ = ["TosGuard", "admission"]

_log = logging.getLogger("tos_guard")
_PURGE_SECONDS: Final = 86_400.0

_DOCS_PAGES: Final = ("docs_url", "swagger_ui_oauth2_redirect_url", "redoc_url")


class TosGuard:
    """A guard for FastAPI apps.

    Args:
        guard: The guard itself.
        keys: Where published keys come from; the key folder of the settings by default.
    """

    def __init__(self, guard: AsyncGuard, *, keys: KeyDocuments | None = None) -> None:
        self.guard = guard
        self._keys = keys or KeyFolder(guard.settings.keys)

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> TosGuard:
        """A guard from its settings file; *overrides* are those of `AsyncGuard.from_file` (``identify=``, ``assertions=``, …).

        Raises:
            ConfigurationError: A file, key or setting is unusable.
        """
        return cls(AsyncGuard.from_file(path, **overrides))

    def install(self, app: Starlette, *, docs: bool = True) -> None:
        """Guard every route of *app*.

        Args:
            app: The FastAPI or Starlette app. More routes may follow; they are looked through when the app starts.
            docs: Leave FastAPI's own pages (schema, Swagger UI, ReDoc) unguarded, at the paths where this app serves them.
        """
        exempt = (*self.guard.settings.exempt, *(_docs_paths(app) if docs else ()))
        self.guard.settings = self.guard.settings.model_copy(update={"exempt": exempt})
        documents = WellKnown(self.guard.settings, lambda: self.guard.terms, self._keys, self.guard.clock, archive=self.guard.archive)
        app.add_middleware(TosGuardMiddleware, guard=self.guard, documents=documents, adapter="fastapi")
        inner = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(running: Any) -> AsyncIterator[Any]:
            self.check_routes(app)
            purging = asyncio.create_task(self._purge_daily())
            async with inner(running) as state:
                try:
                    yield state
                finally:
                    purging.cancel()
                    await asyncio.gather(purging, return_exceptions=True)
                    await asyncio.to_thread(self.guard.close_stores)

        app.router.lifespan_context = lifespan

    async def _purge_daily(self) -> None:
        """Delete what is older than its type is kept, at start and each day."""
        while True:
            try:
                await asyncio.to_thread(self.guard.purge)
            except StoreError as error:
                self.guard.report_failure("purge", error)
            await asyncio.sleep(_PURGE_SECONDS)

    def check_routes(self, app: Starlette) -> None:
        """Look through the routes of *app*.

        Raises:
            ConfigurationError: One is neither guarded nor exempt by name.
        """
        unguarded = sorted({path for path in _paths(app.routes) if not self._is_known(path)})
        if unguarded:
            raise ConfigurationError(
                f"{len(unguarded)} routes are neither guarded nor exempt: {', '.join(unguarded)}",
                where="routes",
                cure="Add each to [routes] or to exempt in the settings.",
            )
        settings = self.guard.settings
        _log.info("tos_guard guards %s; exempt: %s", list(settings.routes), list(settings.exempt))
        modes = ", ".join(f"{failed}: {mode}" for failed, mode in settings.failure.modes.items())
        _log.info("tos_guard mode is %s, records are %s; when a part fails: %s", settings.mode, settings.records, modes)

    def _is_known(self, path: str) -> bool:
        concrete = _concrete(path)
        return (
            concrete == PREFIX
            or concrete.startswith(f"{PREFIX}/")
            or self.guard.is_exempt(concrete)
            or self.guard.route(concrete) is not None
        )


def _docs_paths(app: Starlette) -> list[str]:
    """Where FastAPI serves its own pages. A page that it was told not to serve is not exempt: the path may be the host's."""
    schema = getattr(app, "openapi_url", None)
    if schema is None:
        return []
    return [schema, *(path for name in _DOCS_PAGES if (path := getattr(app, name, None)) is not None)]


def _paths(routes: list[BaseRoute], prefix: str = "") -> Iterator[str]:
    """Every path an app serves, mounted apps included."""
    for route in routes:
        path = prefix + getattr(route, "path", "")
        if isinstance(route, Host):
            yield from _paths(list(route.routes or []), prefix) if route.routes else [f"{prefix}/{{path}}"]
        elif isinstance(route, Mount):
            inner = list(route.routes or [])
            yield from _paths(inner, path) if inner else [f"{path}/{{path}}"]
        else:
            yield path


def _concrete(path: str) -> str:
    """A path template as one path that it serves: ``/v1/models/{id}`` becomes ``/v1/models/x``."""
    return "/".join("x" if segment.startswith("{") else segment for segment in path.split("/"))


def admission(connection: HTTPConnection) -> Admission:
    """The admission of the running request, as a FastAPI dependency: ``Depends(admission)``.

    Raises:
        ConfigurationError: The route is exempt, so nothing was decided.
    """
    found = getattr(connection.state, STATE_KEY, None)
    if not isinstance(found, Admission):
        raise ConfigurationError("this route is not guarded, so there is no admission", where=connection.url.path)
    return found
