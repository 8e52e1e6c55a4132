"""The instruments of one meter provider, made so that no provider can stop the guard.

- An SDK may be set up before or after us: until then OpenTelemetry's own proxies stand in, and become real when it comes.
- A provider that raises while instruments are made leaves us instruments that do nothing, and a count of what it cost.
- There is one set of instruments per provider, whatever the number of guards: an SDK keeps the callbacks of the first alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry import metrics

from tos_guard import __version__
from tos_guard.telemetry._words import INSTRUMENTS, REASON, SCHEMA_URL, SCOPE, Instrument

__all__ = ["Gauged", "Instruments", "instruments_of"]

Reading = tuple[float, Mapping[str, str]]
"""What a gauge shows, and its attributes."""


class Gauged(Protocol):
    """What gauges are read from, when a collector asks."""

    def readings(self, gauge: str) -> Iterable[Reading]:
        """The present values of a gauge of `INSTRUMENTS`."""
        ...


class Instruments:
    """The instruments of one provider.

    Attributes:
        dropped: What was lost, by reason.
    """

    def __init__(self, provider: metrics.MeterProvider | None) -> None:
        self.dropped: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._sources: WeakSet[Any] = WeakSet()
        self._made: dict[str, Any] = {}
        idle = metrics.NoOpMeter(SCOPE)
        try:
            meter = metrics.get_meter(SCOPE, __version__, provider, SCHEMA_URL)
        except Exception:  # noqa: BLE001 - a provider is not ours, and may raise anything
            meter = idle
            self.drop("raised")
        for name, instrument in INSTRUMENTS.items():
            try:
                self._made[name] = self._make(meter, name, instrument)
            except Exception:  # noqa: BLE001 - as above
                self._made[name] = self._make(idle, name, instrument)
                self.drop("raised")

    def __getitem__(self, name: str) -> Any:
        """The instrument of this name, without the scope."""
        return self._made[name]

    def _make(self, meter: metrics.Meter, name: str, instrument: Instrument) -> Any:
        about = {"name": instrument.name, "unit": instrument.unit, "description": instrument.description}
        match instrument.kind:
            case "counter":
                return meter.create_counter(**about)
            case "updowncounter":
                return meter.create_up_down_counter(**about)
            case "histogram":
                return meter.create_histogram(**about, explicit_bucket_boundaries_advisory=instrument.buckets)
            case "gauge":
                return meter.create_observable_gauge(**about, callbacks=[self._observe(name)])
            case "observed counter":
                return meter.create_observable_counter(**about, callbacks=[self._lost])

    def add_source(self, source: Gauged) -> None:
        """Read gauges from *source* too, for as long as it lives."""
        with self._lock:
            self._sources.add(source)

    def drop(self, reason: str) -> None:
        """Count something that was lost."""
        with self._lock:
            self.dropped[reason] += 1

    def _lost(self, options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        del options
        with self._lock:
            lost = dict(self.dropped)
        for reason in _LOSSES:
            yield metrics.Observation(lost.get(reason, 0), {REASON: reason})

    def _observe(self, name: str) -> Callable[[metrics.CallbackOptions], list[metrics.Observation]]:
        def read(options: metrics.CallbackOptions) -> list[metrics.Observation]:
            del options
            with self._lock:
                sources = list(self._sources)
            found: list[metrics.Observation] = []
            for source in sources:
                try:
                    found += [metrics.Observation(value, attributes) for value, attributes in source.readings(name)]
                except Exception:  # noqa: BLE001 - reads key folders and caches; one that fails must not hide the others
                    self.drop("raised")
            return found

        return read


_LOSSES: Final = ("raised", "rate")
"""Why telemetry is lost. Both are shown from the start, since a series that appears with its first loss shows no increase."""

_given: WeakKeyDictionary[Any, Instruments] = WeakKeyDictionary()
_given_lock: Final = threading.Lock()


def instruments_of(provider: metrics.MeterProvider | None) -> Instruments:
    """The instruments of *provider*, or of whatever the process has or will set up where it is None."""
    if provider is None:
        return _of_the_process()
    try:
        with _given_lock:
            if provider not in _given:
                _given[provider] = Instruments(provider)
            return _given[provider]
    except TypeError:  # one that cannot be hashed or referred to weakly is good for one guard
        return Instruments(provider)


@cache
def _of_the_process() -> Instruments:
    return Instruments(None)
