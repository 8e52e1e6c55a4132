"""What counts the limits, and what knows which proofs were used: as the settings say, with what happens when it fails.

Whoever watches hears of an engine once when it fails and once when it answers again, and once of each loss of its memory; every use of a
failure mode is counted besides.
"""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from tos_guard.config import GuardSettings
from tos_guard.errors import ConfigurationError, LimitsForgottenError, StoreError
from tos_guard.protocols import AsyncLimitEngine, AsyncReplayCache, Clock, LimitEngine, ReplayCache
from tos_guard.telemetry import Telemetry

if TYPE_CHECKING:
    from tos_guard.stores import Store
    from tos_guard.stores._limits_valkey_domain import Epoch

__all__ = ["limits_from_settings", "replays_from_settings"]

_log = logging.getLogger("tos_guard")
_LOSSES: Final = frozenset({"changed", "gone"})
"""Causes of an epoch that begins in doubt."""


class _Watch:
    """Tells of an engine."""

    def __init__(self, failed_class: str, mode: str, telemetry: Telemetry) -> None:
        self._class = failed_class
        self._mode = mode
        self._telemetry = telemetry
        self._epoch: bytes | None = None
        telemetry.watch_engine(failed_class)

    def changed(self, failure: StoreError | None) -> None:
        """It is left alone, or answers again."""
        self._telemetry.engine_changed(self._class, "answered" if failure is None else "failed")
        if failure is None:
            _log.warning("tos_guard %s: the engine answers again", self._class)
        else:
            _log.error("tos_guard %s: the engine is left alone, and %r decides: %s", self._class, self._mode, failure)

    def used_limits(self, operation: str, mode: str, failure: StoreError) -> None:
        """The mode decided in place of the engine."""
        if isinstance(failure, LimitsForgottenError):
            self._telemetry.in_doubt(failure.seconds)
        if (operation, mode) != ("reserve", "deny"):  # of which the guard hears
            self._telemetry.failed("limits", failure)

    def kept_block(self, failure: StoreError) -> None:
        """What a block did not spend could not be given back."""
        self.used_limits("settle", self._mode, failure)

    def used_replays(self, failure: StoreError) -> None:
        """This process decided alone."""
        self._telemetry.failed("replay", failure)
        self._telemetry.degraded("replay", "local")

    def came_to(self, epoch: Epoch) -> None:
        """The engine counts since then; of each epoch once."""
        known, self._epoch = self._epoch, epoch.id
        if epoch.cause == "kept":
            self._telemetry.engine_changed(self._class, "kept")
            _log.warning("tos_guard limits: the engine was restarted, and has kept what it counted")
        elif epoch.id != known and epoch.since and (epoch.cause in _LOSSES or known is not None):
            self._telemetry.engine_changed(self._class, "lost")
            _log.error("tos_guard limits: the engine has lost what it had counted; where windows reach back before, %r decides", self._mode)


def limits_from_settings(
    settings: GuardSettings, store: Store, *, clock: Clock, telemetry: Telemetry, awaits: bool
) -> LimitEngine | AsyncLimitEngine:
    """What counts: for all processes of a fleet, of this host, or for this one.

    Args:
        settings: The settings.
        store: Knows whether a domain has ever lived (`Store.note_limits_domain`).
        clock: The present.
        telemetry: Is told what happens to the engine.
        awaits: Whether the guard is one that awaits.

    Raises:
        ConfigurationError: The engine cannot be named, or its client is not installed.
    """
    from tos_guard.stores import AsyncFallbackLimits, AsyncLeasedLimits, FallbackLimits, LeasedLimits, MemoryLimits, SQLiteLimits

    if settings.limits_shared_by == "process":
        return MemoryLimits(clock=clock)
    failure = settings.failure
    watch = _Watch("limits", failure.limits, telemetry)
    modes: Any = {"mode": failure.limits, "on_use": watch.used_limits, "clock": clock, "local_share": failure.local_share}
    modes["on_change"] = watch.changed
    blocks: Any = {"share": settings.limits_block, "told": watch.kept_block}
    if settings.limits_shared_by == "host":
        file = SQLiteLimits(settings.limits_file, clock=clock)
        return FallbackLimits(LeasedLimits(file, **blocks) if settings.limits_block else file, **modes)

    from tos_guard.stores import AsyncValkeyLimits, ValkeyLimits

    url, fleet = _fleet(settings)
    fleet |= {"note_domain": store.note_limits_domain, "told": watch.came_to}
    if awaits:
        engine = AsyncValkeyLimits(url, **fleet)
        return AsyncFallbackLimits(AsyncLeasedLimits(engine, **blocks) if settings.limits_block else engine, **modes)
    valkey = ValkeyLimits(url, **fleet)
    return FallbackLimits(LeasedLimits(valkey, **blocks) if settings.limits_block else valkey, **modes)


def replays_from_settings(settings: GuardSettings, *, clock: Clock, telemetry: Telemetry, awaits: bool) -> ReplayCache | AsyncReplayCache:
    """What knows which proofs were used: by any process of a fleet, of this host, or by this one.

    Args:
        settings: The settings; they have ``dpop``.
        clock: The present.
        telemetry: Is told what happens to the engine.
        awaits: Whether the guard is one that awaits.

    Raises:
        ConfigurationError: The engine cannot be named, or its client is not installed.
    """
    from tos_guard.stores import AsyncFallbackReplays, FallbackReplays, MemoryReplays, SQLiteReplays

    shared_by = settings.dpop.shared_by if settings.dpop is not None else "process"
    if shared_by == "process":
        return MemoryReplays(clock=clock)
    watch = _Watch("replay", settings.failure.replay, telemetry)
    modes: Any = {"is_local": settings.failure.replay == "local", "on_use": watch.used_replays, "clock": clock, "on_change": watch.changed}
    if shared_by == "host":
        return FallbackReplays(SQLiteReplays(settings.replays_file, clock=clock), **modes)

    from tos_guard.stores import AsyncValkeyReplays, ValkeyReplays

    url, fleet = _fleet(settings)
    if awaits:
        return AsyncFallbackReplays(AsyncValkeyReplays(url, clock=clock, **fleet), **modes)
    return FallbackReplays(ValkeyReplays(url, clock=clock, **fleet), **modes)


def _fleet(settings: GuardSettings) -> tuple[str, dict[str, Any]]:
    """Where the fleet's server is, and what is said to it."""
    valkey = settings.valkey
    if valkey is None:  # the settings see to it
        raise ConfigurationError("a fleet shares a server, and none is set", where="valkey", cure='Set [valkey] url = "redis://…"')
    return valkey.url.resolve(os.environ), {"domain": settings.valkey_domain, "deadline": timedelta(milliseconds=valkey.deadline_ms)}
