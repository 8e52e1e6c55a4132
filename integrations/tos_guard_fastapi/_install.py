"""Attaching the guard through FastAPI's own doors: `add_middleware`, the lifespan, and the app's ``openapi``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, routing
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.guard import AsyncGuard
from tos_guard.stores import KeyFolder
from tos_guard.web import OwnRoutes, own_routes
from tos_guard.web.asgi import TosGuardMiddleware
from tos_guard.web.openapi import concrete
from tos_guard.web.wellknown import KeyDocuments, WellKnown, is_well_known
from tos_guard_fastapi._dependencies import Requires
from tos_guard_fastapi._openapi import DescribedOpenAPI

__all__ = ["TosGuard"]

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
        self._routes: tuple[OwnRoutes[Any], ...] = ()

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> TosGuard:
        """A guard from its settings file; *overrides* are those of `AsyncGuard.from_file` (``identify=``, ``assertions=``, …).

        Raises:
            ConfigurationError: A file, key or setting is unusable.
        """
        return cls(AsyncGuard.from_file(path, **overrides))

    def install(self, app: Starlette, *, docs: bool = True) -> None:
        """Guard every route of *app*, and say in its OpenAPI document what that means for each.

        Args:
            app: The FastAPI or Starlette app. More routes may follow; they are looked through when the app starts.
            docs: Leave FastAPI's own pages (schema, Swagger UI, ReDoc) unguarded, at the paths where this app serves them.

        Raises:
            ConfigurationError: The paths of the account or admin routes are taken.
        """
        exempt = (*self.guard.settings.exempt, *(_docs_paths(app) if docs else ()))
        self.guard.settings = self.guard.settings.model_copy(update={"exempt": exempt})
        documents = WellKnown(self.guard.settings, lambda: self.guard.terms, self._keys, self.guard.clock, archive=self.guard.archive)
        self._routes = own_routes(self.guard)
        app.add_middleware(TosGuardMiddleware, guard=self.guard, documents=documents, routes=self._routes, adapter="fastapi")
        self._describe(app)
        inner = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(running: Any) -> AsyncIterator[Any]:
            self.check_routes(app)
            self._describe(app)  # apps mounted since, and an `openapi` that the host has put in the place of ours
            purging = asyncio.create_task(self._purge_daily())
            async with inner(running) as state:
                try:
                    yield state
                finally:
                    purging.cancel()
                    await asyncio.gather(purging, return_exceptions=True)
                    await asyncio.to_thread(self.guard.close_stores)

        app.router.lifespan_context = lifespan

    def _describe(self, app: Starlette, prefix: str = "") -> None:
        """Let an app's document, and those of apps mounted in it, say what the guard does."""
        if isinstance(app, FastAPI) and not (isinstance(app.openapi, DescribedOpenAPI) and app.openapi.guard is self.guard):
            app.openapi = DescribedOpenAPI(app.openapi, self.guard, prefix)  # type: ignore[method-assign] # FastAPI's own way
        for path, inner in _mounted(app.routes, prefix):
            self._describe(inner, path)

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
            ConfigurationError: One is neither guarded nor exempt by name, or lies where the guard serves its own, or one that is exempt
                demands a right (`requires`).
        """
        routes = list(_routes(app.routes))
        hidden = sorted({path for path, _ in routes if any(own.owns(concrete(path)) for own in self._routes)})
        if hidden:
            raise ConfigurationError(
                f"{len(hidden)} routes lie below the guard's own and would never be reached: {', '.join(hidden)}",
                where="routes",
                cure="Set account_routes or admin_routes to another path.",
            )
        unguarded = sorted({path for path, _ in routes if not self._is_known(path)})
        if unguarded:
            raise ConfigurationError(
                f"{len(unguarded)} routes are neither guarded nor exempt: {', '.join(unguarded)}",
                where="routes",
                cure="Add each to [routes] or to exempt in the settings.",
            )
        undecided = sorted({path for path, route in routes if self.guard.is_exempt(concrete(path)) and _demands_rights(route)})
        if undecided:
            raise ConfigurationError(
                f"{len(undecided)} exempt routes demand a right with requires(): {', '.join(undecided)}",
                where="routes",
                cure="Nothing is decided on exempt routes: guard each in [routes], or take requires() away.",
            )
        settings = self.guard.settings
        _log.info("tos_guard guards %s; exempt: %s", list(settings.routes), list(settings.exempt))
        modes = ", ".join(f"{failed}: {mode}" for failed, mode in settings.failure.modes.items())
        _log.info("tos_guard mode is %s, records are %s; when a part fails: %s", settings.mode, settings.records, modes)

    def _is_known(self, path: str) -> bool:
        served = concrete(path)
        return is_well_known(served) or self.guard.is_exempt(served) or self.guard.route(served) is not None


def _docs_paths(app: Starlette) -> list[str]:
    """Where FastAPI serves its own pages. A page that it was told not to serve is not exempt: the path may be the host's."""
    schema = getattr(app, "openapi_url", None)
    if schema is None:
        return []
    return [schema, *(path for name in _DOCS_PAGES if (path := getattr(app, name, None)) is not None)]


def _each(routes: Sequence[BaseRoute]) -> Iterator[tuple[Any, BaseRoute]]:
    """Each route as it is served, with its prefixes, and as it was written. Newer FastAPI keeps included routers as one route each."""
    contexts = getattr(routing, "iter_route_contexts", None)
    if contexts is None:
        yield from ((route, route) for route in routes)
    else:
        yield from ((context, context.original_route) for context in contexts(routes))


def _routes(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every path an app serves, mounted apps included, with its route."""
    for served, written in _each(routes):
        path = prefix if isinstance(written, Host) else prefix + (served.path or "")
        inner = list(served.routes or []) if isinstance(written, Host | Mount) else []
        if inner:
            yield from _routes(inner, path)
        else:
            yield (f"{path}/{{path}}" if isinstance(written, Host | Mount) else path), served


def _mounted(routes: Sequence[BaseRoute], prefix: str) -> Iterator[tuple[str, Starlette]]:
    """The apps mounted among routes, with the paths under which they are."""
    for served, written in _each(routes):
        if not isinstance(written, Host | Mount):
            continue
        path = prefix if isinstance(written, Host) else prefix + served.path
        if isinstance(served.app, Starlette):
            yield path, served.app
        else:
            yield from _mounted(list(served.routes or []), path)


def _demands_rights(route: Any) -> bool:
    """Whether a dependency of a route, or one of its dependencies, is of `requires`."""
    pending = [getattr(route, "dependant", None)]
    while pending:
        dependant = pending.pop()
        if isinstance(getattr(dependant, "call", None), Requires):
            return True
        pending += getattr(dependant, "dependencies", ())
    return False
