"""What a host's handlers ask of the guard, as FastAPI dependencies: the admission of the request, and one right more.

Both work for sync and async handlers, on routes, routers and apps. On a route that is not guarded nothing was decided, and they say so.
"""

# No postponed annotations here: FastAPI cannot resolve those of an object's `__call__`.

import re
from typing import Final

from fastapi.openapi.models import HTTPBearer
from fastapi.openapi.models import SecurityBase as SecurityBaseModel
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from tos_guard.errors import ConfigurationError
from tos_guard.guard import Admission
from tos_guard.web.asgi import STATE_KEY
from tos_guard.web.openapi import action_scheme

__all__ = ["Requires", "admission", "requires"]

_ACTION: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")


def admission(connection: HTTPConnection) -> Admission:
    """The admission of the running request, as a FastAPI dependency: ``Depends(admission)``.

    Raises:
        ConfigurationError: Nothing was decided: the route is exempt, or the guard only monitors and could not tell who asks for what.
    """
    found = getattr(connection.state, STATE_KEY, None)
    if not isinstance(found, Admission):
        raise ConfigurationError(
            "nothing was decided for this request, so there is no admission",
            where=connection.url.path,
            cure="Guard the route in [routes] of the settings, or do not ask for an admission on it.",
        )
    return found


class Requires(SecurityBase):
    """A dependency that demands a right to one action; `requires` makes them. Those of one action are equal.

    To FastAPI it is a security scheme, which it brings into the OpenAPI document; `TosGuard.install` writes the action there.

    Attributes:
        action: The action.
    """

    def __init__(self, action: str) -> None:
        self.action: str = action
        self.scheme_name: str = action_scheme(action)
        self.model: SecurityBaseModel = HTTPBearer(description=f"A right to the action {action}.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Requires) and other.action == self.action

    def __hash__(self) -> int:
        return hash((Requires, self.action))

    async def __call__(self, connection: HTTPConnection) -> Admission:
        """Demand it for the running request.

        Raises:
            DeniedError: The account has no such right; the guard answers.
            ConfigurationError: As `admission`.
        """
        admitted = admission(connection)
        admitted.require(self.action)
        return admitted


def requires(action: str) -> Requires:
    """A dependency that demands a right to one more action of the terms than the route's own, and gives the admission.

        @app.post("/v1/fine-tunes", dependencies=[Depends(requires("fine-tune"))])

    Where the account has no such right the handler does not run, and the guard answers with 403 in the dialect's shape.

    Args:
        action: An action of the terms, for example ``fine-tune``.

    Raises:
        ConfigurationError: No action can have this name.
    """
    if _ACTION.fullmatch(action) is None:
        raise ConfigurationError(f"{action!r} cannot be an action of terms", where="requires()", cure='Name one such as "fine-tune".')
    return Requires(action)
