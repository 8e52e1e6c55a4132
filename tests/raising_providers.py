"""Providers of OpenTelemetry's API that are broken in every way that the API allows."""

from __future__ import annotations

from typing import Any

from opentelemetry import _logs, metrics, trace

__all__ = ["Raising", "RaisingInUse", "RaisingSpan"]


class Raising:
    """Stands for every part of a provider that is broken."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"the provider cannot do {name}")


class RaisingInUse(metrics.NoOpMeterProvider, _logs.LoggerProvider, trace.NoOpTracerProvider):
    """Makes instruments, and each raises in use."""

    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        class Meter(metrics.NoOpMeter):
            def create_histogram(self, *args: Any, **kwargs: Any) -> Any:
                return Raising()

        return Meter("raising")

    def get_logger(self, *args: Any, **kwargs: Any) -> Any:
        return Raising()

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        return Raising()


class RaisingSpan(trace.NonRecordingSpan):
    """A span that says it records, and raises when it should."""

    def is_recording(self) -> bool:
        return True

    def set_attributes(self, attributes: Any) -> None:
        raise RuntimeError("the span is broken")
