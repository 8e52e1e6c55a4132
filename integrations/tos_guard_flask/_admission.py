"""What a host's views ask of the guard: the admission of the running request, and one right more.

On a route that is not guarded nothing was decided, and both say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar, cast

from flask import current_app, request
from flask.views import MethodView
from werkzeug.local import LocalProxy

from tos_guard.errors import ConfigurationError
from tos_guard.guard import Admission
from tos_guard.web.wsgi import ADMISSION_KEY

__all__ = ["actions_of", "current_admission", "requires"]

_ACTIONS: Final = "tos_guard_actions"
"""Attribute of a view: the actions that `requires` demands for it."""

_ACTION: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")

_View = TypeVar("_View", bound=Callable[..., Any])


def _find() -> Admission:
    found = request.environ.get(ADMISSION_KEY)
    if not isinstance(found, Admission):
        raise ConfigurationError(
            "nothing was decided for this request, so there is no admission",
            where=request.path,
            cure="Guard the route in [routes] of the settings, or do not ask for an admission on it.",
        )
    return found


current_admission: Admission = cast("Admission", LocalProxy(_find, unbound_message="there is no request"))
"""The admission of the running request.

Raises `ConfigurationError` when used where nothing was decided: the route is exempt, or the guard only monitors and could not tell who
asks for what. As all of Flask's proxies it ends with the request: a stream keeps it with ``stream_with_context``, or takes ``g.tos_guard``
before it begins.
"""


def requires(action: str) -> Callable[[_View], _View]:
    """A decorator that demands a right to one more action of the terms than the route's own, before the view runs.

        @app.post("/v1/fine-tunes")
        @requires("fine-tune")
        def fine_tune(): ...

    It stands below the route, on functions, coroutines, and methods of a `flask.views.MethodView` (or among its ``decorators``). Where the
    account has no such right the view does not run, and the guard answers with 403 in the dialect's shape.

    Args:
        action: An action of the terms, for example ``fine-tune``.

    Raises:
        ConfigurationError: No action can have this name.
    """
    if _ACTION.fullmatch(action) is None:
        raise ConfigurationError(f"{action!r} cannot be an action of terms", where="requires()", cure='Name one such as "fine-tune".')

    def decorate(view: _View) -> _View:
        @wraps(view)
        def demanding(*args: Any, **kwargs: Any) -> Any:
            current_admission.require(action)
            return current_app.ensure_sync(view)(*args, **kwargs)

        setattr(demanding, _ACTIONS, (action, *getattr(view, _ACTIONS, ())))
        return cast("_View", demanding)

    return decorate


def actions_of(view: Callable[..., Any] | None, method: str | None = None) -> tuple[str, ...]:
    """The actions that `requires` demands for a view.

    Args:
        view: The view.
        method: For requests of this method, in upper case; None for any.
    """
    found: tuple[str, ...] = getattr(view, _ACTIONS, ())
    kind = getattr(view, "view_class", None)
    if isinstance(kind, type) and issubclass(kind, MethodView):
        for name in kind.methods or ():
            if method in (None, name):
                found += getattr(getattr(kind, name.lower(), None), _ACTIONS, ())
    return found
