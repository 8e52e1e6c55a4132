"""What a servicer may know of the call that it serves."""

from __future__ import annotations

from typing import Any

from tos_guard.guard import Admission
from tos_guard_grpc._call import ADMISSION

__all__ = ["current_admission"]


def current_admission(context: Any) -> Admission | None:
    """The admission of the call that *context* is of; None where it is not guarded, or passed in monitor mode without a decision.

    Args:
        context: What the servicer was given. In a thread of the servicer's own it is what leads to the call; elsewhere the call is known
            from where it runs, whatever inner interceptors have made of the context.
    """
    found = getattr(context, "tos_guard_admission", None)
    return found if isinstance(found, Admission) else ADMISSION.get()
