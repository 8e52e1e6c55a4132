"""Limits, prices and estimates as the settings file says them, as the values that limits are made of."""

from __future__ import annotations

from tos_guard.config import CalendarSettings, GuardSettings, LimitSettings, ModelSettings, SlidingSettings
from tos_guard.guard._meter import Estimator, Meter, ModelFacts
from tos_guard.limits import Calendar, Dimension, Limit, Price, Quantity, Sliding, Window

__all__ = ["limits_of", "meter_of"]


def meter_of(settings: GuardSettings, *, count_prompt: Estimator | None = None) -> Meter:
    """The meter of a guard with these settings.

    Args:
        settings: The settings.
        count_prompt: The host's own tokenizer, or None.
    """
    return Meter(
        limits_of(settings),
        models={name: _model(model) for name, model in settings.models.items()},
        bytes_per_token=settings.estimates.bytes_per_token,
        tokens_per_media=settings.estimates.tokens_per_media,
        default_max_output_tokens=settings.estimates.default_max_output_tokens,
        count_prompt=count_prompt,
    )


def limits_of(settings: GuardSettings) -> tuple[Limit, ...]:
    """The limits of these settings."""
    return tuple(_limit(limit) for limit in settings.limits)


def _limit(settings: LimitSettings) -> Limit:
    return Limit(
        id=settings.id,
        quantity=Quantity(settings.quantity),
        amount=settings.amount,
        per=tuple(map(Dimension, settings.per)),
        window=_window(settings.window),
        burst=settings.burst,
        models=settings.models,
        actions=settings.actions,
        kinds=settings.kinds,
        shadow=settings.shadow,
    )


def _window(settings: SlidingSettings | CalendarSettings | None) -> Window | None:
    match settings:
        case SlidingSettings(seconds=seconds):
            return Sliding(seconds)
        case CalendarSettings(unit=unit, zone=zone):
            return Calendar(unit, zone)
    return None


def _model(settings: ModelSettings) -> ModelFacts:
    price = settings.price
    return ModelFacts(settings.max_output_tokens, None if price is None else Price(price.input, price.output, price.reasoning))
