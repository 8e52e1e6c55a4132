"""A collector of our own: OTLP over gRPC, for tests that look at what a real SDK really sends.

It keeps every request as it came, so that a test can search the serialised bytes, and answers questions about what was in them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

__all__ = ["Receiver", "attributes_of", "otlp_receiver"]

WAIT_SECONDS = 30.0  # a loaded machine exports in far less


def attributes_of(entry: Any) -> dict[str, Any]:
    """The attributes of a span, log record or data point."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in entry.attributes}


class Receiver:
    """What has arrived.

    Attributes:
        endpoint: Where it listens, ``127.0.0.1:<port>``.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self._arrived = threading.Condition()
        self._requests: list[Any] = []

    def take(self, request: Any) -> None:
        """Keep one request."""
        with self._arrived:
            self._requests.append(request)
            self._arrived.notify_all()

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Wait until *is_there*.

        Raises:
            TimeoutError: The time is over.
        """
        with self._arrived:
            if not self._arrived.wait_for(is_there, WAIT_SECONDS):
                raise TimeoutError("what was waited for did not arrive")

    def requests(self) -> list[Any]:
        """All requests so far."""
        with self._arrived:
            return list(self._requests)

    def scopes(self, scope: str | None = None) -> Iterator[Any]:
        """The blocks of one instrumentation scope, or of all: ``ScopeSpans``, ``ScopeMetrics``, ``ScopeLogs``."""
        for request in self.requests():
            for resource in (*getattr(request, "resource_spans", ()), *getattr(request, "resource_metrics", ())):
                yield from _of(resource, scope)
            for resource in getattr(request, "resource_logs", ()):
                yield from _of(resource, scope)

    def metrics(self, scope: str) -> dict[str, Any]:
        """The newest state of each metric of a scope; points are cumulative."""
        return {metric.name: metric for block in self.scopes(scope) for metric in getattr(block, "metrics", ())}

    def points(self, scope: str, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Attributes and value of each point of a metric's newest state: a number, or the point of a histogram."""
        metric = self.metrics(scope).get(name)
        if metric is None:
            return []
        kind = metric.WhichOneof("data")
        return [(attributes_of(point), point if kind == "histogram" else _number(point)) for point in getattr(metric, kind).data_points]

    def spans(self, scope: str | None = None) -> list[Any]:
        """All spans."""
        return [span for block in self.scopes(scope) for span in getattr(block, "spans", ())]

    def events(self, scope: str) -> list[Any]:
        """All log records."""
        return [record for block in self.scopes(scope) for record in getattr(block, "log_records", ())]


def _of(resource: Any, scope: str | None) -> Iterator[Any]:
    for member in ("scope_spans", "scope_metrics", "scope_logs"):
        for block in getattr(resource, member, ()):
            if scope is None or block.scope.name == scope:
                yield block


def _number(point: Any) -> float:
    return float(point.as_int if point.WhichOneof("value") == "as_int" else point.as_double)


def _service(base: type, response: Callable[[], Any], receiver: Receiver) -> Any:
    class Service(base):  # type: ignore[misc]
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the method in the protocol
            receiver.take(request)
            return response()

    return Service()


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """A receiver that listens until the block is left."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_grpc.add_TraceServiceServicer_to_server(
        _service(trace_grpc.TraceServiceServicer, trace.ExportTraceServiceResponse, receiver), server
    )
    metrics_grpc.add_MetricsServiceServicer_to_server(
        _service(metrics_grpc.MetricsServiceServicer, metrics.ExportMetricsServiceResponse, receiver), server
    )
    logs_grpc.add_LogsServiceServicer_to_server(_service(logs_grpc.LogsServiceServicer, logs.ExportLogsServiceResponse, receiver), server)
    receiver.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()
