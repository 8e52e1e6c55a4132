"""Attaching the guard through Flask's own doors: ``wsgi_app``, ``extensions``, ``config``, error handlers and ``request_started``."""

from __future__ import annotations

import atexit
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flask import Flask, Response, g, request, request_started

from tos_guard.errors import ConfigurationError, DeniedError, PolicyStop
from tos_guard.guard import Admission, Guard
from tos_guard.stores import KeyFolder
from tos_guard.web import OwnRoutes, own_routes
from tos_guard.web.openapi import action_scheme, described
from tos_guard.web.wellknown import KeyDocuments, WellKnown, is_well_known
from tos_guard.web.wsgi import ADMISSION_KEY, TosGuardMiddleware
from tos_guard_flask._admission import actions_of

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["TosGuard"]

_log = logging.getLogger("tos_guard")

_NAME: Final = "tos_guard"
_PREFIX: Final = "TOS_GUARD_"
_PARTS: Final = frozenset({*inspect.signature(Guard).parameters, "count_prompt"} - {"settings"})
"""What ``TOS_GUARD_…`` may name beside the settings: the overrides of `Guard.from_file`."""

_VARIABLE: Final = re.compile(r"""<(?:[^<>"']|"[^"]*"|'[^']*')*>""")
"""A variable part of a rule, whose converter may have arguments in quotation marks."""

_VARIABLE_NAME: Final = re.compile(r"(\w+)>$")


class TosGuard:
    """A guard for Flask apps. It keeps nothing of an app on itself: one object may guard several.

    What an app's guard is made of stands in its ``config``: ``TOS_GUARD_SETTINGS``, the path of the settings file; ``TOS_GUARD_STATIC``,
    whether Flask's own static files stay unguarded (true by default); and any override of `Guard.from_file` in upper case, for example
    ``TOS_GUARD_IDENTIFY``.

    Args:
        app: Guarded at once, where it is given.
        guard: A guard to use for every app in place of one from its config.
        keys: Where published keys come from; the key folder of the settings by default.
        overrides: Those of `Guard.from_file` for every app (``identify=``, ``assertions=``, …); an app's config comes before them.

    Raises:
        ConfigurationError: As `init_app`.
    """

    def __init__(self, app: Flask | None = None, *, guard: Guard | None = None, keys: KeyDocuments | None = None, **overrides: Any) -> None:
        self._guard = guard
        self._keys = keys
        self._overrides = overrides
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Guard every route of *app*. More routes may follow; all are looked through before the first request.

        Raises:
            ConfigurationError: A file, key or setting is unusable, a name in the config is unknown, the paths of the account or admin
                routes are taken, static files lie at the root or above a guarded route, or the app has a guard already.
        """
        if _NAME in app.extensions:
            raise ConfigurationError("this app has a guard already", where=app.name, cure="Call init_app once for each app.")
        guard = self._guard_of(app)
        static: tuple[str, ...] = ()
        if app.config.get(f"{_PREFIX}STATIC", True) and app.static_url_path is not None and app.has_static_folder:
            prefix = f"{app.static_url_path}/"
            if prefix == "/" or any(path.startswith(prefix) for path in guard.settings.routes):
                raise ConfigurationError(
                    f"static files at {prefix}* would exempt routes that are to be guarded",
                    where="static_url_path",
                    cure=f"Serve them at a path of their own, or set {_PREFIX}STATIC to False.",
                )
            static = (f"{prefix}*",)
        keys = self._keys or KeyFolder(guard.settings.keys)
        told = guard.settings.model_copy(update={"exempt": (*guard.settings.exempt, *static)})
        documents = WellKnown(told, lambda: guard.terms, keys, guard.clock, archive=guard.archive)
        routes = own_routes(guard)
        guarded = _GuardedApp(app, guard, routes, static)
        app.extensions[_NAME] = guarded
        middleware = TosGuardMiddleware(app.wsgi_app, guard=guard, documents=documents, routes=routes, adapter="flask", exempt=static)
        app.wsgi_app = _CheckedFirst(middleware, guarded.check)  # type: ignore[method-assign] # Flask's own way
        app.register_error_handler(PolicyStop, _stop)
        app.register_error_handler(DeniedError, guarded.deny)
        request_started.connect(_put_on_g, app, weak=False)

    def _guard_of(self, app: Flask) -> Guard:
        said = {name.removeprefix(_PREFIX).lower(): value for name, value in app.config.items() if name.startswith(_PREFIX)}
        said.pop("static", None)
        path = said.pop("settings", None)
        for name in said.keys() - _PARTS:
            raise ConfigurationError(
                f"there is no {_PREFIX}{name.upper()}", where="app.config", cure="docs/guides/flask.md lists what may be set."
            )
        if self._guard is not None:
            if path is not None or said or self._overrides:
                raise ConfigurationError(
                    "a guard was given, and what one is made of as well", where="guard=", cure="Leave one of them out."
                )
            return self._guard
        if path is None:
            raise ConfigurationError(
                f"{_PREFIX}SETTINGS is not set", where="app.config", cure="Set the path of the settings file; `tos-guard init` writes one."
            )
        guard = Guard.from_file(Path(path), **{**self._overrides, **said})
        atexit.register(guard.close_stores)  # Flask has no moment of shutting down; a worker that a server ends comes by here
        return guard

    def guard_of(self, app: Flask) -> Guard:
        """The guard of an app.

        Raises:
            ConfigurationError: It has none.
        """
        return _guarded(app).guard

    def check(self, app: Flask) -> None:
        """Look through the routes of *app* now. Without this it happens before the first request, which then fails, as all that follow.

        Raises:
            ConfigurationError: One is neither guarded nor exempt by name, or lies where the guard serves its own, or one that is exempt
                demands a right (`requires`); or the app has no guard.
        """
        _guarded(app).check()

    def openapi(self, app: Flask, document: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of an OpenAPI document of *app* that says what the guard does, on exactly the operations that it guards.

        Args:
            app: The app.
            document: As the host, apispec or flask-smorest makes it; paths as templates (``/v1/models/{id}``).

        Raises:
            ConfigurationError: The app has no guard.
        """
        return _guarded(app).openapi(document)


class _GuardedApp:
    """One app and its guard: what ``app.extensions["tos_guard"]`` holds.

    Attributes:
        guard: The guard.
    """

    def __init__(self, app: Flask, guard: Guard, routes: tuple[OwnRoutes[Any], ...], static: tuple[str, ...]) -> None:
        self.guard = guard
        self._app = app
        self._routes = routes
        self._static = static

    def check(self) -> None:
        """As `TosGuard.check`."""
        rules = list(self._rules())
        _fail_for(
            (path for path, _ in rules if any(own.owns(path) for own in self._routes)),
            "lie below the guard's own and would never be reached",
            "Set account_routes or admin_routes to another path.",
        )
        _fail_for(
            (path for path, view in rules if self._is_static(path) and view is not self._app.view_functions.get("static")),
            "lie below the app's static files, where nothing is guarded",
            f"Move them, or set {_PREFIX}STATIC to False.",
        )
        _fail_for(
            (path for path, _ in rules if not self._is_known(path)),
            "are neither guarded nor exempt",
            "Add each to [routes] or to exempt in the settings.",
        )
        _fail_for(
            (path for path, view in rules if self._is_exempt(path) and actions_of(view)),
            "are exempt, and demand a right with requires()",
            "Nothing is decided on exempt routes: guard each in [routes], or take requires() away.",
        )
        settings = self.guard.settings
        _log.info("tos_guard guards %s; exempt: %s", list(settings.routes), [*settings.exempt, *self._static])
        modes = ", ".join(f"{failed}: {mode}" for failed, mode in settings.failure.modes.items())
        _log.info("tos_guard mode is %s, records are %s; when a part fails: %s", settings.mode, settings.records, modes)

    def _rules(self) -> Iterator[tuple[str, Callable[..., Any] | None]]:
        """Each rule that answers requests, as one path that it serves, with its view."""
        for rule in self._app.url_map.iter_rules():
            if not rule.build_only:
                yield _VARIABLE.sub("x", rule.rule), self._app.view_functions.get(rule.endpoint)

    def _is_known(self, path: str) -> bool:
        return is_well_known(path) or self._is_exempt(path) or self.guard.route(path) is not None

    def _is_exempt(self, path: str) -> bool:
        return self.guard.is_exempt(path, self._static)

    def _is_static(self, path: str) -> bool:
        return any(path.startswith(name.removesuffix("*")) for name in self._static)

    def openapi(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """As `TosGuard.openapi`."""
        found = deepcopy(dict(document))
        paths = found.get("paths") or {}
        for rule in self._app.url_map.iter_rules():
            operations = paths.get(_VARIABLE.sub(_named, rule.rule), {})
            for method in rule.methods or ():
                if (operation := operations.get(method.lower())) is None:
                    continue
                for action in actions_of(self._app.view_functions.get(rule.endpoint), method):
                    operation.setdefault("security", []).append({action_scheme(action): []})  # which the writer turns into an action
        return described(found, self.guard)

    def deny(self, error: DeniedError) -> Response:
        """What a denial is answered with where no guard answers it: one that the host raised itself."""
        head, body = self.guard.refuse(error)
        return Response(body, head.status, [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers])


class _CheckedFirst:
    """The guarded app, whose routes are looked through before it serves anything."""

    def __init__(self, app: WSGIApplication, check: Callable[[], None]) -> None:
        self._app = app
        self._check = check
        self._is_checked = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._is_checked:
            self._check()
            self._is_checked = True
        return self._app(environ, start_response)


def _guarded(app: Flask) -> _GuardedApp:
    found = app.extensions.get(_NAME)
    if not isinstance(found, _GuardedApp):
        raise ConfigurationError("this app has no guard", where=app.name, cure="Call init_app first.")
    return found


def _fail_for(paths: Iterable[str], what: str, cure: str) -> None:
    found = sorted(set(paths))
    if found:
        raise ConfigurationError(f"{len(found)} routes {what}: {', '.join(found)}", where="routes", cure=cure)


def _named(variable: re.Match[str]) -> str:
    name = _VARIABLE_NAME.search(variable[0])
    return f"{{{name[1]}}}" if name is not None else variable[0]


def _stop(error: PolicyStop) -> Response:
    """Flask makes an answer of every exception of a view, so the guard is told by another way that it is to stop."""
    admission = request.environ.get(ADMISSION_KEY)
    if not isinstance(admission, Admission):
        raise error
    admission.stop(str(error.what), clause=error.clause, code=error.reason)
    return Response(status=403)


def _put_on_g(sender: Flask, **_: Any) -> None:
    del sender
    g.tos_guard = request.environ.get(ADMISSION_KEY)
