"""The instruments of one meter provider, made so that no provider can stop the guard.

- Counters are kept in memory, by us, and read when a collector asks: a request pays for one addition, an SDK that is set up late still
  sees everything since the start, and no count depends on what a provider does. Only durations are handed over as they come.
- An SDK may be set up before or after us: until then OpenTelemetry's own proxies stand in, and become real when it comes.
- A provider that raises while instruments are made leaves us instruments that do nothing, and a count of what it cost.
- There is one set of instruments per provider, whatever the number of guards: an SDK keeps the callbacks of the first alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry import metrics

from tos_guard import __version__
from tos_guard.telemetry._words import DROPPED, INSTRUMENTS, LOSSES, REASON, SCHEMA_URL, SCOPE, Instrument

__all__ = ["Attributes", "Gauges", "Instruments", "Reading", "Series", "Tally", "instruments_of", "lost"]

Attributes = tuple[tuple[str, str | bool], ...]
"""Attributes as they key a series."""

Series = tuple[str, Attributes]
"""Name of a counter without the scope, and attributes."""

Reading = tuple[float, Mapping[str, str]]
"""What a gauge shows, and its attributes."""


class Tally:
    """Numbers by series, from any thread."""

    def __init__(self, known: Iterable[Series] = ()) -> None:
        self._lock = threading.Lock()
        self._numbers = {series: [0] for series in known}  # in cells, since finding a series takes longer than adding to it

    def add(self, series: Series, number: int = 1) -> None:
        """Add to a series, which begins at 0."""
        with self._lock:
            try:
                self._numbers[series][0] += number
            except KeyError:
                self._numbers[series] = [number]

    def numbers(self) -> dict[Series, int]:
        """All series as they are."""
        with self._lock:
            return {series: number for series, (number,) in self._numbers.items()}


class Gauges(Protocol):
    """What gauges are read from, when a collector asks."""

    def readings(self, gauge: str) -> Iterable[Reading]:
        """The present values of a gauge of `INSTRUMENTS`."""
        ...


class Instruments:
    """The instruments of one provider."""

    def __init__(self, provider: metrics.MeterProvider | None) -> None:
        self._own = Tally(lost(reason) for reason in LOSSES)
        self._lock = threading.Lock()
        self._tallies = [self._own]  # for ever: what a guard has counted stays counted when it is gone
        self._gauges: WeakSet[Any] = WeakSet()
        self._made: dict[str, Any] = {}
        idle = metrics.NoOpMeter(SCOPE)
        try:
            meter = metrics.get_meter(SCOPE, __version__, provider, SCHEMA_URL)
        except Exception:  # noqa: BLE001 - a provider is not ours, and may raise anything
            meter = idle
            self._own.add(lost("raised"))
        for name, instrument in INSTRUMENTS.items():
            try:
                self._made[name] = self._make(meter, name, instrument)
            except Exception:  # noqa: BLE001 - as above
                self._made[name] = self._make(idle, name, instrument)
                self._own.add(lost("raised"))

    def __getitem__(self, name: str) -> Any:
        """The instrument of this name, without the scope."""
        return self._made[name]

    def _make(self, meter: metrics.Meter, name: str, instrument: Instrument) -> Any:
        about = {"name": instrument.name, "unit": instrument.unit, "description": instrument.description}
        match instrument.kind:
            case "counter":
                return meter.create_observable_counter(**about, callbacks=[self._counted(name)])
            case "updowncounter":
                return meter.create_observable_up_down_counter(**about, callbacks=[self._counted(name)])
            case "gauge":
                return meter.create_observable_gauge(**about, callbacks=[self._shown(name)])
            case "histogram":
                return meter.create_histogram(**about, explicit_bucket_boundaries_advisory=instrument.buckets)

    def watch(self, tally: Tally, gauges: Gauges) -> None:
        """Read counters from *tally* too, and gauges from *gauges* for as long as they live."""
        with self._lock:
            self._tallies.append(tally)
            self._gauges.add(gauges)

    def _counted(self, name: str) -> Callable[[metrics.CallbackOptions], list[metrics.Observation]]:
        def read(options: metrics.CallbackOptions) -> list[metrics.Observation]:
            del options
            with self._lock:
                tallies = list(self._tallies)
            total: Counter[Attributes] = Counter()
            for tally in tallies:
                for (counter, attributes), number in tally.numbers().items():
                    if counter == name:
                        total[attributes] += number
            return [metrics.Observation(number, dict(attributes)) for attributes, number in total.items()]

        return read

    def _shown(self, name: str) -> Callable[[metrics.CallbackOptions], list[metrics.Observation]]:
        def read(options: metrics.CallbackOptions) -> list[metrics.Observation]:
            del options
            with self._lock:
                sources = list(self._gauges)
            found: list[metrics.Observation] = []
            for source in sources:
                try:
                    found += [metrics.Observation(value, attributes) for value, attributes in source.readings(name)]
                except Exception:  # noqa: BLE001 - reads key folders and caches; one that fails must not hide the others
                    self._own.add(lost("raised"))
            return found

        return read


def lost(reason: str) -> Series:
    """The series of telemetry that was lost for this reason."""
    return DROPPED, ((REASON, reason),)


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
