"""What telemetry costs one exchange: without an SDK, beside the raw signature that every sealed exchange pays, and with an SDK in memory.

An exchange is what a whole response does: observed, decided, its record durable, sealed, ended. Counting is in it: without telemetry the
guard would still have to count.

    python benchmarks/telemetry.py
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from measure import Budget, interleaved, report
from opentelemetry import trace

from tos_guard.limits import Reservation
from tos_guard.telemetry import Telemetry
from tos_guard.types import Decision, Outcome, Reason

BUDGET_US = 2.0  # of the 150 µs that a guarded call may take (DESIGN §9)
ALLOWED = Decision(Outcome.ALLOW, (Reason("tos_clause", "use"),), ("seal",))
DENIED = Decision(Outcome.DENY, (Reason("tos_clause", "no-resale"),))


def exchange(telemetry: Telemetry, decision: Decision = ALLOWED) -> Callable[[], None]:
    """One exchange, as the guard tells it."""

    def run() -> None:
        observed = telemetry.observe("asgi")
        observed.enforce_seconds = 1e-4
        telemetry.decided(observed, decision, terms_version="2026-11")
        if decision is ALLOWED:
            telemetry.recorded(2e-4)
            telemetry.sealed(observed, carrier="json", seconds=3e-4)
            telemetry.ended(observed, carrier="json")

    return run


def main() -> int:
    """Print the table; returns how many budgets are missed."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {datetime.now().astimezone():%Y-%m-%d}")
    alone = Telemetry()
    reservation = Reservation("req_1", ())

    def reserved() -> None:
        alone.reserved(reservation, 1e-5)
        alone.settled()

    key = Ed25519PrivateKey.generate()
    rows: list[tuple[str, float, Budget | None]] = []
    candidates: dict[str, Callable[[], object]] = {
        "raw Ed25519 signature": lambda: key.sign(b"x" * 1200),
        "no SDK: an exchange": exchange(alone),
        "no SDK: an exchange that is denied, with its event": exchange(alone, DENIED),
        "no SDK: a reservation, settled": reserved,
    }
    for name, seconds in zip(candidates, interleaved(*candidates.values(), number=5_000), strict=True):
        rows.append((name, seconds, Budget(seconds * 1e6, BUDGET_US, "µs") if name == "no SDK: an exchange" else None))
    rows += _with_sdk()
    return report("telemetry", rows)


def _with_sdk() -> list[tuple[str, float, Budget | None]]:
    """The same with an SDK that keeps everything in memory; nothing where none is installed."""
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError:
        return []
    meters = MeterProvider([InMemoryMetricReader()])
    tracers = TracerProvider()
    told = exchange(Telemetry(meter_provider=meters, tracer_provider=tracers))

    def spanned() -> None:
        with trace.use_span(tracers.get_tracer("server").start_span("POST /", kind=trace.SpanKind.SERVER), end_on_exit=True):
            told()

    def bare() -> None:
        with trace.use_span(tracers.get_tracer("server").start_span("POST /", kind=trace.SpanKind.SERVER), end_on_exit=True):
            pass

    measured, with_spans, server = interleaved(told, spanned, bare, number=1_000)
    return [
        ("SDK: an exchange, metrics alone", measured, None),
        ("SDK: an exchange, metrics and two spans, over the server's own span", with_spans - server, None),
    ]


if __name__ == "__main__":
    sys.exit(min(main(), 1))
