"""Telemetry that fails stops no request: providers that raise in every way, and an SDK whose collector is gone."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from kit import CHAT, REQUEST, Kit, ask, streamed, whole
from raising_providers import Raising, RaisingInUse, RaisingSpan
from serving import Serve
from tos_guard.telemetry import Telemetry
from tos_guard.verify import verify_body, verify_stream

BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}'
STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hello."},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)


@pytest.fixture(params=[Raising, RaisingInUse], ids=["from the start", "in use"])
def broken(request: pytest.FixtureRequest) -> Kit:
    provider: Any = request.param()
    return Kit(overrides={"telemetry": Telemetry(meter_provider=provider, tracer_provider=provider, logger_provider=provider)})


async def test_where_every_provider_raises_a_body_is_sealed_and_the_loss_is_counted(broken: Kit) -> None:
    with trace.use_span(RaisingSpan(trace.INVALID_SPAN_CONTEXT)):
        answer = await ask(broken.wrap(whole(BODY)), key=broken.key)
    assert answer.status == 200
    verify_body(answer.body, trust=broken.trust, now=broken.clock())
    assert broken.guard.counts["sealed:json"] == 1
    assert broken.guard.counts["telemetry_dropped:raised"] > 0


async def test_where_every_provider_raises_a_stream_is_sealed(broken: Kit) -> None:
    with trace.use_span(RaisingSpan(trace.INVALID_SPAN_CONTEXT)):
        answer = await ask(broken.wrap(streamed(*STREAM)), key=broken.key)
    verify_stream(answer.body, trust=broken.trust, now=broken.clock())
    assert broken.guard.counts["sealed:sse"] == 1


async def test_where_every_provider_raises_a_refusal_is_a_refusal(broken: Kit) -> None:
    with trace.use_span(RaisingSpan(trace.INVALID_SPAN_CONTEXT)):
        assert (await ask(broken.wrap(whole(BODY)))).status == 401
        denied = await ask(broken.wrap(whole(BODY)), key=broken.key, body=REQUEST.replace(b"small", b"other"))
    assert denied.status == 403
    assert broken.guard.counts["denied:tos_model_not_allowed"] == 1


def test_a_collector_that_is_gone_is_noticed_by_no_request(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = {"endpoint": "127.0.0.1:9", "insecure": True, "timeout": 1}
    meters = MeterProvider(
        [PeriodicExportingMetricReader(OTLPMetricExporter(**nowhere), export_interval_millis=50, export_timeout_millis=50)]
    )
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**nowhere), schedule_delay_millis=50))
    kit = Kit(overrides={"telemetry": Telemetry(meter_provider=meters, tracer_provider=tracers)})
    with serve(kit.wrap(whole(BODY))) as url:
        for _ in range(20):
            answer = httpx.post(url + CHAT, content=REQUEST, headers={"authorization": f"Bearer {kit.key}"}, timeout=5)
            assert answer.status_code == 200
    assert kit.guard.counts["sealed:json"] == 20
    assert kit.guard.counts["telemetry_dropped:raised"] == 0  # an exporter that fails is the SDK's to tell, in its own thread
    tracers.shutdown()
    meters.shutdown()
