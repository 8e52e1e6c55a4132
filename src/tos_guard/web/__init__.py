"""HTTP without a framework: the ASGI middleware, the well-known documents, and the routes for account holders and administrators."""

from __future__ import annotations

from typing import Any

from tos_guard.guard import GuardSteps
from tos_guard.web._routes import OwnRoutes
from tos_guard.web.account import AccountRoutes
from tos_guard.web.admin import AdminRoutes

__all__ = ["AccountRoutes", "AdminRoutes", "OwnRoutes", "own_routes"]


def own_routes(guard: GuardSteps) -> tuple[OwnRoutes[Any], ...]:
    """The routes of our own that the settings ask for: those for account holders, and those for administrators.

    Raises:
        ConfigurationError: A path is taken, or the guard lacks what they need.
    """
    routes: list[OwnRoutes[Any]] = []
    if guard.settings.account_routes is not None:
        routes.append(AccountRoutes(guard))
    if guard.settings.admin_routes is not None:
        routes.append(AdminRoutes(guard))
    return tuple(routes)
