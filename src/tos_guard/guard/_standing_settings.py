"""The ladder of standing, from settings to values."""

from __future__ import annotations

from collections.abc import Collection

from tos_guard.config import GuardSettings
from tos_guard.errors import ConfigurationError
from tos_guard.rights import Ladder, Rung
from tos_guard.types import Standing

__all__ = ["check_ladder", "ladder_of"]


def ladder_of(settings: GuardSettings) -> Ladder:
    """What each step does."""
    said = settings.standing
    return Ladder(
        {
            step: Rung(
                refuse=found.refuse,
                limit_share=found.limit_share,
                models=found.models,
                without_actions=found.without_actions,
                without_grants=found.without_grants,
                duties=found.duties,
                accept=found.accept,
                verify=found.verify,
            )
            for step in Standing
            if step is not Standing.GOOD and (found := getattr(said, step.value)) is not None
        }
    )


def check_ladder(ladder: Ladder, fulfilled: Collection[str]) -> None:
    """Fail where a step obliges us to something we do not do: a duty that is silently left out is a broken promise.

    Raises:
        ConfigurationError: One does.
    """
    for step, rung in ladder.rungs.items():
        for duty in sorted(set(rung.duties) - set(fulfilled)):
            raise ConfigurationError(
                f"the step {step} obliges to {duty!r}, which this guard cannot fulfil",
                where=f"[standing.{step}] duties",
                cure=f"Fulfilled are: {', '.join(sorted(fulfilled))}.",
            )
