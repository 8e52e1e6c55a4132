"""What arrives at a collector: a guarded app on a real server, a real SDK and its exporters, OTLP over gRPC (docs/guides/telemetry.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import tos_guard
from authorization_server import serve_authorization
from otlp_receiver import Receiver, attributes_of, otlp_receiver
from serving import serve_app
from tos_guard.telemetry import Telemetry
from tos_guard.telemetry._words import EVENTS, INSTRUMENTS, OTHER, REASONS, SCHEMA_URL, SPANS, UNSEALED
from watched import ADDRESS, Watched

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "telemetry.md"
SCOPE = "tos_guard"
SERVER, INTERNAL = 2, 1  # kinds of a span on the wire


@dataclass
class Exported:
    """What a provider under traffic has sent."""

    watched: Watched
    receiver: Receiver


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    with otlp_receiver() as receiver, serve_authorization() as server:
        wire = {"endpoint": receiver.endpoint, "insecure": True}
        meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(**wire), export_interval_millis=3_600_000)])
        tracers, loggers = TracerProvider(), LoggerProvider()
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**wire)))
        loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(**wire)))
        telemetry = Telemetry(meter_provider=meters, tracer_provider=tracers, logger_provider=loggers)
        fastapi = {"tracer_provider": tracers, "meter_provider": meters, "logger_provider": loggers, "metrics": False, "logs": False}
        watched = Watched(tmp_path_factory.mktemp("provider"), telemetry, server, fastapi)
        try:
            with serve_app(watched.app) as url, serve_app(watched.monitoring_app) as monitoring_url:
                watched.drive(url, monitoring_url)
            for provider in (meters, tracers, loggers):
                provider.force_flush()
            yield Exported(watched, receiver)
        finally:
            watched.close()
            for provider in (meters, tracers, loggers):
                provider.shutdown()


def bare(name: str) -> str:
    """An attribute as the guide lists it."""
    return name.removeprefix("tos_guard.")


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading of the guide, without its head; a cell without its marks."""
    text = GUIDE.read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    assert rows, f"no table under {heading!r}"
    return [[cell.strip() for cell in row] for row in rows]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


# Names


def test_every_metric_that_the_guide_lists_arrives_with_its_kind_unit_and_attributes_and_no_other(exported: Exported) -> None:
    kinds = {"sum": "counter", "gauge": "gauge", "histogram": "histogram"}
    found = {}
    for name, metric in exported.receiver.metrics(SCOPE).items():
        kind = kinds[metric.WhichOneof("data")]
        if kind == "counter" and not metric.sum.is_monotonic:
            kind = "updowncounter"
        used = {bare(key) for attributes, _ in exported.receiver.points(SCOPE, name) for key in attributes}
        found[name] = (kind, metric.unit, used)
    listed = {}
    for name, kind_and_unit, attributes, _ in table("Metrics"):
        kind, _, unit = kind_and_unit.partition(", ")
        listed[name.strip("`")] = (kind, unit.strip("`"), words(attributes))
    assert found == listed


def test_the_guide_says_of_each_metric_what_its_description_says(exported: Exported) -> None:
    descriptions = {name: metric.description for name, metric in exported.receiver.metrics(SCOPE).items()}
    assert {name.strip("`"): meaning for name, _, _, meaning in table("Metrics")} == descriptions


def test_histograms_have_the_bounds_that_the_guide_names(exported: Exported) -> None:
    bounds = {
        name: tuple(next(iter(metric.histogram.data_points)).explicit_bounds)
        for name, metric in exported.receiver.metrics(SCOPE).items()
        if metric.WhichOneof("data") == "histogram"
    }
    assert len(bounds) == 4
    assert set(bounds.values()) == {(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1)}
    assert "10 µs to 100 ms" in GUIDE.read_text(encoding="utf-8")


def test_every_event_that_the_guide_lists_arrives_with_its_attributes_and_no_other(exported: Exported) -> None:
    found: dict[str, set[str]] = {}
    for event in exported.receiver.events(SCOPE):
        found.setdefault(event.event_name, set()).update(bare(key) for key in attributes_of(event))
        assert event.body.string_value == event.event_name  # no text that could say more
    assert found == {name.strip("`"): words(attributes) for name, attributes, _ in table("Events")}


def test_the_guide_lists_what_the_code_has() -> None:
    assert {row[0].strip("`") for row in table("Metrics")} == {instrument.name for instrument in INSTRUMENTS.values()}
    assert {row[0].strip("`") for row in table("Events")} == set(EVENTS)
    assert {row[0].strip("`") for row in table("Spans")} == {*SPANS, "the server's own"}
    for heading, known in (("Reasons of a denial", REASONS), ("Reasons why a response has no final token", UNSEALED)):
        assert {row[0].strip("`") for row in table(heading)} == known


def test_no_value_is_outside_its_closed_set(exported: Exported) -> None:
    """What the set does not know would arrive as ``_OTHER``: then a word is missing in it."""
    values = [
        value
        for name in exported.receiver.metrics(SCOPE)
        for attributes, _ in exported.receiver.points(SCOPE, name)
        for value in attributes.values()
    ]
    values += [value for event in exported.receiver.events(SCOPE) for value in attributes_of(event).values()]
    assert values
    assert OTHER not in values


def test_everything_comes_from_one_scope_with_our_version_and_schema(exported: Exported) -> None:
    blocks = list(exported.receiver.scopes(SCOPE))
    assert {(block.scope.name, block.scope.version, block.schema_url) for block in blocks} == {
        ("tos_guard", tos_guard.__version__, SCHEMA_URL)
    }


# Numbers


def test_what_happened_is_what_was_counted(exported: Exported) -> None:
    """The numbers at the collector are those of the guard, and those that the requests caused."""

    def total(name: str, **wanted: str) -> float:
        points = exported.receiver.points(SCOPE, f"tos_guard.{name}")
        return sum(value for attributes, value in points if all(attributes.get(f"tos_guard.{key}") == wanted[key] for key in wanted))

    counts = exported.watched.telemetry.counts
    assert total("decisions", decision="deny", reason="tos_unauthenticated") == counts["denied:tos_unauthenticated"] == 3
    assert total("bearer.refused", reason="malformed") == counts["bearer:malformed"] == 1
    assert total("bearer.keys", event="fetched") > 0
    for reason in ("tos_clause", "tos_model_not_allowed", "tos_limit", "tos_malformed_request", "tos_route_not_guarded"):
        assert total("decisions", decision="deny", reason=reason) == counts[f"denied:{reason}"] == 1, reason
    assert total("decisions", decision="monitor") == 2
    for reason in ("client_gone", "handler_raised", "signer", "store", "monitor"):
        assert total("tokens", outcome="unsealed", reason=reason) == counts[f"unsealed:{reason}"] == 1, reason
    assert total("tokens", outcome="sealed", carrier="sse") == counts["sealed:sse"] == 2
    assert total("tokens", outcome="sealed", carrier="detached") == counts["sealed:detached"] == 1
    assert total("reservations", outcome="reserved") == total("reservations", outcome="settled") == total("decisions", decision="allow")
    assert total("reservations", outcome="refused", limit="hourly-prompts", quantity="input-tokens") == 1
    assert total("reservations", outcome="refused", limit="tight") > 0  # in shadow
    assert total("degraded", mode="allow") == 3
    assert total("degraded", **{"class": "limits"}) == counts["degraded:limits:allow"] == counts["failed:limits"] == 1
    assert total("clauses.shadowed", clause="no-drafts") == 1
    assert total("tokens.removed") == total("events.dropped") == 1
    assert total("streams.active") == 0  # all have ended, the one that was left too
    assert total("telemetry.dropped") == 0


# Spans


def test_each_request_has_one_server_span_which_says_what_was_decided(exported: Exported) -> None:
    spans = exported.receiver.spans()
    servers = [span for span in spans if span.kind == SERVER]
    assert len({span.trace_id for span in servers}) == len(servers)  # never a second one
    assert all(span.name.startswith("POST") for span in servers)
    told: set[str] = set()
    for server in servers:
        attributes = {bare(key): value for key, value in attributes_of(server).items() if key.startswith("tos_guard.")}
        assert attributes["decision"] in ("allow", "deny", "monitor")
        assert attributes["adapter"] == "fastapi"
        told |= attributes.keys()
    (listed,) = (attributes for name, attributes, _ in table("Spans") if name == "`the server's own`")
    assert told == words(listed)


def test_a_denial_and_a_seal_are_on_the_span_of_their_request(exported: Exported) -> None:
    servers = [attributes_of(span) for span in exported.receiver.spans() if span.kind == SERVER]
    denied = [one for one in servers if one.get("tos_guard.clause") == "no-bulk" and one["tos_guard.decision"] == "deny"]
    assert [one["http.response.status_code"] for one in denied] == [403]
    assert [one["tos_guard.outcome"] for one in servers if one.get("tos_guard.carrier") == "sse"] == ["sealed", "sealed"]
    assert [one["tos_guard.outcome"] for one in servers if one.get("tos_guard.unsealed") == "signer"] == ["unsealed"]


def test_own_spans_are_short_internal_children_of_the_servers(exported: Exported) -> None:
    spans = exported.receiver.spans()
    servers = {span.span_id: span for span in spans if span.kind == SERVER}
    own = exported.receiver.spans(SCOPE)
    found: dict[str, set[str]] = {}
    for span in own:
        assert span.kind == INTERNAL
        parent = servers[span.parent_span_id]
        assert span.trace_id == parent.trace_id
        assert span.end_time_unix_nano > span.start_time_unix_nano
        found.setdefault(span.name, set()).update(bare(key) for key in attributes_of(span))
    listed = {name.strip("`"): words(attributes) for name, attributes, _ in table("Spans")}
    assert found == {name: listed[name] for name in SPANS}


def test_events_are_tied_to_the_span_of_their_request(exported: Exported) -> None:
    servers = {attributes_of(span).get("tos_guard.request.id"): span for span in exported.receiver.spans() if span.kind == SERVER}
    tied = [
        event for event in exported.receiver.events(SCOPE) if event.event_name in ("tos_guard.decision.denied", "tos_guard.token.unsealed")
    ]
    assert len(tied) >= 8
    for event in tied:
        server = servers[attributes_of(event)["tos_guard.request.id"]]
        assert (event.trace_id, event.span_id) == (server.trace_id, server.span_id)


# Privacy


def test_nothing_that_is_exported_names_an_account_a_key_a_prompt_an_output_or_an_end_user(exported: Exported) -> None:
    """Searched in every byte that left the process, the server's own telemetry included."""
    everything = b"".join(request.SerializeToString() for request in exported.receiver.requests())
    assert len(everything) > 10_000
    for secret in exported.watched.secrets:
        if secret != ADDRESS:
            assert secret.encode() not in everything, secret


def test_no_address_is_in_what_we_export(exported: Exported) -> None:
    """What the server's own span says of its client is the server's: here FastAPI's, whose addresses are looked for beside ours."""
    ours = b"".join(block.SerializeToString() for block in exported.receiver.scopes(SCOPE))
    added = repr(
        [attributes for span in exported.receiver.spans() for attributes in attributes_of(span).items() if "tos_guard" in attributes[0]]
    )
    assert ADDRESS.encode() not in ours
    assert ADDRESS not in added
    assert "127.0.0.1" not in added


def test_the_search_itself_finds_what_it_looks_for(exported: Exported) -> None:
    """The marks were really there: in the requests, in the answers, and in the log of the handler that raised."""
    everything = b"".join(request.SerializeToString() for request in exported.receiver.requests())
    assert b"no-bulk" in everything
    record = exported.watched.kit.store.of_account("https://api.example.com", exported.watched.kit.account.id)
    assert len(record) > 10
