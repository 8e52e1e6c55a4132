"""HTTP without a framework: the ASGI middleware, the well-known documents, and routes of our own."""

from __future__ import annotations

from typing import Any

from tos_guard.guard import GuardSteps
from tos_guard.web._routes import OwnRoutes
from tos_guard.web.account import AccountRoutes
from tos_guard.web.admin import AdminRoutes
from tos_guard.web.webhooks import WebhookRoutes

__all__ = ["AccountRoutes", "AdminRoutes", "OwnRoutes", "WebhookRoutes", "own_routes"]


def own_routes(guard: GuardSteps) -> tuple[OwnRoutes[Any], ...]:
    """The routes of our own that the settings ask for: those for account holders, for webhooks, and for administrators.

    Raises:
        ConfigurationError: A path is taken, or the guard lacks what they need.
    """
    routes: list[OwnRoutes[Any]] = []
    if guard.settings.account_routes is not None:
        routes.append(AccountRoutes(guard))
    if guard.settings.webhooks:
        routes.append(WebhookRoutes(guard))  # before those whose path is around it
    if guard.settings.admin_routes is not None:
        routes.append(AdminRoutes(guard))
    return tuple(routes)
