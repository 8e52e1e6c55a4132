"""Terms of service that run: rights per account, a signed provenance token on every response, offline verification.

Importing this package loads none of its parts and none of its dependencies: each public name is fetched from its module when it
is first used (PEP 562). `tos_guard.verify` can be imported on its own, without pydantic, a network client or a framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings as GuardSettings
    from tos_guard.errors import PolicyStop as PolicyStop
    from tos_guard.errors import TosGuardError as TosGuardError
    from tos_guard.errors import Verdict as Verdict
    from tos_guard.errors import VerificationError as VerificationError
    from tos_guard.guard import Admission as Admission
    from tos_guard.guard import AsyncGuard as AsyncGuard
    from tos_guard.guard import Guard as Guard
    from tos_guard.guard import RequestView as RequestView
    from tos_guard.rights import Account as Account
    from tos_guard.rights import Grant as Grant
    from tos_guard.verifier import AsyncVerifier as AsyncVerifier
    from tos_guard.verifier import Verifier as Verifier

__version__ = "0.1.0"

_HOME: Final = {
    "Account": "tos_guard.rights",
    "Admission": "tos_guard.guard",
    "AsyncGuard": "tos_guard.guard",
    "AsyncVerifier": "tos_guard.verifier",
    "Grant": "tos_guard.rights",
    "Guard": "tos_guard.guard",
    "GuardSettings": "tos_guard.config",
    "PolicyStop": "tos_guard.errors",
    "RequestView": "tos_guard.guard",
    "TosGuardError": "tos_guard.errors",
    "Verdict": "tos_guard.errors",
    "VerificationError": "tos_guard.errors",
    "Verifier": "tos_guard.verifier",
}
"""Public name → the module that defines it. The imports above tell the same to type checkers; tests/packaging compares the two."""

__all__ = [
    "Account",
    "Admission",
    "AsyncGuard",
    "AsyncVerifier",
    "Grant",
    "Guard",
    "GuardSettings",
    "PolicyStop",
    "RequestView",
    "TosGuardError",
    "Verdict",
    "VerificationError",
    "Verifier",
    "__version__",
]


if not TYPE_CHECKING:  # a checker that saw it would accept every name

    def __getattr__(name: str) -> Any:
        """Fetch a public name from its module.

        Raises:
            AttributeError: There is no such name.
        """
        try:
            home = _HOME[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
