"""What leaves through telemetry, seen by a real SDK in memory, and what happens where there is none or it fails."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from timeit import timeit
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from opentelemetry import _logs, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from raising_providers import Raising, RaisingInUse, RaisingSpan
from tos_guard.errors import StoreError
from tos_guard.limits import Charge, Dimension, Limit, LimitRefusal, LimitState, Quantity, Reservation, Sliding
from tos_guard.remote._jwks import KeyEvent
from tos_guard.telemetry import Telemetry
from tos_guard.telemetry._telemetry import ENDLESS_SECONDS, EVENT_SECONDS, MAX_EVENTS
from tos_guard.telemetry._words import CHANGES, EVENTS, INSTRUMENTS, KEY_EVENTS, OTHER, REASONS, SPANS
from tos_guard.testing import FixedClock, SeededSigner
from tos_guard.types import Decision, Outcome, Reason, Standing

ALLOWED = Decision(Outcome.ALLOW, (Reason("tos_clause", "use"),), ("seal",))
DENIED = Decision(Outcome.DENY, (Reason("tos_clause", "no-resale"),))


class Events(_logs.LoggerProvider, _logs.Logger):
    """A provider of OpenTelemetry's API that keeps what is emitted."""

    def __init__(self) -> None:
        self.records: list[_logs.LogRecord] = []

    def get_logger(self, *args: Any, **kwargs: Any) -> _logs.Logger:
        return self

    def emit(self, record: Any = None, **kwargs: Any) -> None:
        self.records.append(record)

    def enabled(self, **kwargs: Any) -> bool:
        return True


@dataclass
class Sdk:
    """A telemetry under a real SDK."""

    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    events: Events = field(default_factory=Events)
    clock: FixedClock = field(default_factory=FixedClock)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.meters = MeterProvider([self.reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = self.another()

    def another(self) -> Telemetry:
        return Telemetry(
            clock=self.clock,
            monotonic=lambda: self.seconds,
            meter_provider=self.meters,
            tracer_provider=self.tracers,
            logger_provider=self.events,
        )

    def server_span(self) -> trace.Span:
        return self.tracers.get_tracer("server").start_span("POST /", kind=trace.SpanKind.SERVER)

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {metric.name: metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics}

    def points(self, name: str, *, zeros: bool = False) -> dict[tuple[tuple[str, Any], ...], Any]:
        """Value by attributes; of a histogram the sum. Series that stand at 0 from the start only on demand."""
        metric = self.metrics().get(name)
        points = metric.data.data_points if metric is not None else ()
        values = {tuple(sorted(point.attributes.items())): getattr(point, "value", getattr(point, "sum", None)) for point in points}
        return {attributes: value for attributes, value in values.items() if value or zeros}

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    made = Sdk()
    yield made
    made.meters.shutdown()
    made.tracers.shutdown()


def named(**attributes: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((f"tos_guard.{name.replace('__', '.')}", value) for name, value in attributes.items()))


# Names


def test_an_allowed_exchange_counts_its_decision_its_token_and_its_times(sdk: Sdk) -> None:
    observed = sdk.telemetry.observe("asgi")
    observed.enforce_seconds = 0.25
    sdk.telemetry.decided(observed, ALLOWED, terms_version="2026-11")
    sdk.telemetry.recorded(0.5)
    sdk.telemetry.sealed(observed, carrier="json", seconds=1.5)
    sdk.telemetry.ended(observed, carrier="json")
    assert sdk.points("tos_guard.decisions") == {named(decision="allow", terms__version="2026-11", adapter="asgi"): 1}
    assert sdk.points("tos_guard.enforce.duration") == {named(decision="allow", adapter="asgi"): 0.25}
    assert sdk.points("tos_guard.seal.duration") == {named(carrier="json"): 1.5}
    assert sdk.points("tos_guard.record.duration") == {(): 0.5}
    assert sdk.points("tos_guard.tokens") == {named(outcome="sealed", carrier="json"): 1}
    assert sdk.events.records == []
    assert sdk.telemetry.counts == {"sealed:json": 1}


def test_a_denial_names_the_code_in_metrics_and_the_clause_in_its_event(sdk: Sdk) -> None:
    observed = sdk.telemetry.observe("asgi")
    observed.request_id = "req_1"
    sdk.telemetry.decided(observed, DENIED, terms_version="2026-11")
    attributes = {"decision": "deny", "reason": "tos_clause", "terms__version": "2026-11", "adapter": "asgi"}
    assert sdk.points("tos_guard.decisions") == {named(**attributes): 1}
    (event,) = sdk.events.records
    assert event.event_name == "tos_guard.decision.denied"
    assert dict(event.attributes or {}) == dict(named(**attributes, clause="no-resale", request__id="req_1"))
    assert sdk.telemetry.counts == {"denied:tos_clause": 1}


def test_what_monitor_mode_lets_through_is_told_from_what_is_denied(sdk: Sdk) -> None:
    sdk.telemetry.decided(sdk.telemetry.observe("asgi"), DENIED, terms_version="1", monitored=True)
    (attributes,) = sdk.points("tos_guard.decisions")
    assert dict(attributes)["tos_guard.decision"] == "monitor"
    assert sdk.telemetry.counts == {"monitored:tos_clause": 1}


def test_a_denial_without_reasons_is_for_want_of_permission(sdk: Sdk) -> None:
    sdk.telemetry.decided(sdk.telemetry.observe("asgi"), Decision(Outcome.DENY), terms_version="1")
    assert sdk.telemetry.counts == {"denied:tos_no_permission": 1}


def test_clauses_in_shadow_are_counted_by_their_id_and_decide_nothing(sdk: Sdk) -> None:
    reasons = (*ALLOWED.reasons, Reason("tos_clause", "new-rule", shadow=True), Reason("tos_limit", "tpm", shadow=True))
    sdk.telemetry.decided(sdk.telemetry.observe("asgi"), Decision(Outcome.ALLOW, reasons), terms_version="1")
    assert sdk.points("tos_guard.clauses.shadowed") == {named(clause="new-rule"): 1}
    assert [dict(key)["tos_guard.decision"] for key in sdk.points("tos_guard.decisions")] == ["allow"]


def test_no_contract_of_an_organization_is_named(sdk: Sdk) -> None:
    """Whoever writes a contract may call it after its customer: of its clauses only their own ids leave, and no version of it."""
    observed = sdk.telemetry.observe("asgi")
    in_shadow = Reason("tos_clause", "initech-contract/no-drafts", shadow=True)
    for reason in (Reason("tos_clause", "initech-contract/no-resale"), Reason("tos_terms_not_accepted", "initech-2026")):
        sdk.telemetry.decided(observed, Decision(Outcome.DENY, (reason, in_shadow)), terms_version="2026-11")
    told = [dict(record.attributes or {}).get("tos_guard.clause") for record in sdk.events.records]
    assert told == ["no-resale", None]
    assert sdk.points("tos_guard.clauses.shadowed") == {named(clause="no-drafts"): 2}
    assert "initech" not in str(sdk.reader.get_metrics_data())


def test_a_refusal_before_the_decision_is_counted_and_makes_no_event(sdk: Sdk) -> None:
    sdk.telemetry.refused(sdk.telemetry.observe("asgi"), "tos_unauthenticated")
    assert sdk.points("tos_guard.decisions") == {named(decision="deny", reason="tos_unauthenticated", adapter="asgi"): 1}
    assert sdk.points("tos_guard.enforce.duration") == {}  # nothing was timed
    assert sdk.events.records == []


@pytest.mark.parametrize(("reason", "events"), [("signer", 1), ("no_carrier", 1), ("no_body", 0), ("client_gone", 0)])
def test_an_unsealed_response_is_counted_and_is_an_event_where_one_misses_the_seal(sdk: Sdk, reason: str, events: int) -> None:
    sdk.telemetry.ended(sdk.telemetry.observe("asgi"), unsealed=reason)
    assert sdk.points("tos_guard.tokens") == {named(outcome="unsealed", carrier="none", reason=reason): 1}
    assert len(sdk.events.records) == events
    assert sdk.telemetry.counts == {f"unsealed:{reason}": 1}


def test_words_that_we_do_not_know_make_no_new_series(sdk: Sdk) -> None:
    observed = sdk.telemetry.observe("asgi")
    for number in range(20):
        sdk.telemetry.refused(observed, f"made_up_{number}")
        sdk.telemetry.ended(observed, unsealed=f"made_up_{number}")
        sdk.telemetry.failed(f"made_up_{number}", StoreError("no"))
        sdk.telemetry.degraded(f"made_up_{number}", f"made_up_{number}")
        sdk.telemetry.settled(f"made_up_{number}")
        sdk.telemetry.accepted(f"made_up_{number}", outcome=f"made_up_{number}")
    for name in ("decisions", "tokens", "failures", "degraded", "reservations", "acceptances"):
        (attributes,) = sdk.points(f"tos_guard.{name}")
        assert OTHER in dict(attributes).values(), name


def test_every_code_of_a_refusal_in_the_source_is_a_known_reason(root: Path) -> None:
    """A new code is told apart in telemetry only once it is in the closed set."""
    found = set()
    for room in ("errors.py", "guard", "rights", "web", "exchange"):
        for path in sorted((root / "src" / "tos_guard" / room).rglob("*.py")) or [root / "src" / "tos_guard" / room]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("tos_"):
                    found.add(node.value)
    # Names of ours, in-band ends of a response, and a line of a batch that nobody answered.
    others = {"tos_guard", "tos_guard.issuers", "tos_handler_error", "tos_policy_stop", "tos_batch_closed"}
    codes = {word for word in found if word.isidentifier()} - others
    assert len(codes) > 10
    assert codes - REASONS == set()


def test_the_closed_sets_hold_the_words_of_those_who_use_them(root: Path) -> None:
    """Changes of accounts as the stores note them, and what happens to keys as their source tells it."""
    noted = set()
    for path in (root / "src" / "tos_guard" / "stores").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Step"), args=[ast.Constant(value=str(word)), *_]):
                    noted.add(word)
    assert len(noted) > 5
    assert noted - CHANGES == set()
    assert set(get_args(KeyEvent)) == KEY_EVENTS


def test_what_a_part_failed_with_is_told_by_its_type_alone(sdk: Sdk) -> None:
    failure = StoreError("account acct-4711 cannot be read", where="/srv/acct-4711.db")
    failure.__cause__ = OSError("acct-4711")
    sdk.telemetry.failed("store", failure)
    (event,) = sdk.events.records
    assert dict(event.attributes or {}) == {"tos_guard.part": "store", "error.type": "OSError"}
    assert "acct-4711" not in repr((event.body, event.attributes))
    assert sdk.points("tos_guard.failures") == {named(part="store"): 1}
    assert sdk.telemetry.counts == {"failed:store": 1}


def test_use_of_a_failure_mode_is_counted_and_the_modes_in_force_are_shown(sdk: Sdk) -> None:
    sdk.telemetry.in_force({"limits": "local", "signer": "deny"})
    sdk.telemetry.degraded("limits", "local")
    assert sdk.points("tos_guard.degraded") == {named(**{"class": "limits"}, mode="local"): 1}
    assert sdk.points("tos_guard.failure_mode") == {
        named(**{"class": "limits"}, mode="local"): 1,
        named(**{"class": "signer"}, mode="deny"): 1,
    }
    assert [record.event_name for record in sdk.events.records] == ["tos_guard.failure_mode.used"]


def test_changes_are_events_that_say_what_and_not_whose(sdk: Sdk) -> None:
    sdk.telemetry.published("2026-11")
    sdk.telemetry.changed("standing", standing=Standing.SUSPENDED)
    sdk.telemetry.changed("grant_added")
    sdk.telemetry.accepted("account-route")
    assert [(record.event_name, dict(record.attributes or {})) for record in sdk.events.records] == [
        ("tos_guard.terms.published", {"tos_guard.terms.version": "2026-11"}),
        ("tos_guard.account.changed", {"tos_guard.change": "standing", "tos_guard.standing": "suspended"}),
        ("tos_guard.account.changed", {"tos_guard.change": "grant_added"}),
    ]
    assert sdk.points("tos_guard.acceptances") == {named(outcome="accepted", method="account-route"): 1}
    assert sdk.points("tos_guard.changes") == {named(change="standing", standing="suspended"): 1, named(change="grant_added"): 1}


def test_what_must_never_happen_is_shown_as_zero_before_it_does(sdk: Sdk) -> None:
    """A counter that appears with its first failure shows no increase, and no alert on an increase would see it."""
    sdk.telemetry.in_force({"limits": "local"})
    assert sdk.points("tos_guard.failures", zeros=True)[named(part="signer")] == 0
    assert sdk.points("tos_guard.tokens", zeros=True)[named(outcome="unsealed", carrier="none", reason="store")] == 0
    assert sdk.points("tos_guard.degraded", zeros=True) == {named(**{"class": "limits"}, mode="local"): 0}
    assert sdk.points("tos_guard.telemetry.dropped", zeros=True) == {named(reason="raised"): 0, named(reason="rate"): 0}
    assert sdk.telemetry.counts == {}


def test_every_name_is_in_our_namespace_and_every_histogram_has_bounds() -> None:
    assert all(name.startswith("tos_guard.") for name in (*EVENTS, *SPANS, *(one.name for one in INSTRUMENTS.values())))
    for instrument in INSTRUMENTS.values():
        assert bool(instrument.buckets) == (instrument.kind == "histogram"), instrument.name
        assert list(instrument.buckets) == sorted(set(instrument.buckets))
        assert instrument.unit == "s" or (instrument.unit.startswith("{") and instrument.unit.endswith("}")), instrument.name


# Limits


TPM = Limit(id="tpm", quantity=Quantity.TOKENS, amount=1000, per=(Dimension.ACCOUNT,), window=Sliding(60))
RPM = Limit(id="rpm", quantity=Quantity.REQUESTS, amount=10, per=(Dimension.ACCOUNT,), window=Sliding(60))


def state(limit: Limit) -> LimitState:
    return LimitState(limit, ("acct-4711",), 5, 0, 1.0)


def test_reservations_tell_the_limit_and_never_whose_it_is(sdk: Sdk) -> None:
    charge = Charge(RPM, ("acct-4711",), 1)
    sdk.telemetry.reserved(Reservation("req_1", (charge,), shadowed=(state(TPM),)), 0.25)
    sdk.telemetry.reserved(LimitRefusal(state(RPM), 1, 30.0), 0.25)
    sdk.telemetry.reserve_failed(0.5)
    sdk.telemetry.settled()
    sdk.telemetry.settled("cancelled")
    assert sdk.points("tos_guard.reservations") == {
        named(outcome="reserved"): 1,
        named(outcome="refused", limit="tpm", quantity="tokens", shadow=True): 1,
        named(outcome="refused", limit="rpm", quantity="requests", shadow=False): 1,
        named(outcome="settled"): 1,
        named(outcome="cancelled"): 1,
    }
    durations = {named(outcome="reserved"): 0.25, named(outcome="refused"): 0.25, named(outcome="failed"): 0.5}
    assert sdk.points("tos_guard.reserve.duration") == durations
    assert "acct-4711" not in str(sdk.reader.get_metrics_data())


def test_engines_show_whether_they_are_left_alone_and_for_how_long_limits_are_in_doubt(sdk: Sdk) -> None:
    assert sdk.points("tos_guard.engine.left_alone") == {}
    for part in ("limits", "replay"):
        sdk.telemetry.watch_engine(part)
    both = {"limits": named(**{"class": "limits"}), "replay": named(**{"class": "replay"})}
    assert sdk.points("tos_guard.engine.left_alone", zeros=True) == {both["limits"]: 0, both["replay"]: 0}
    assert sdk.points("tos_guard.limits.doubt", zeros=True) == {named(): 0}
    sdk.telemetry.engine_changed("limits", "failed")
    sdk.telemetry.in_doubt(60.0)
    sdk.telemetry.in_doubt(30.0)
    sdk.seconds += 10
    assert sdk.points("tos_guard.engine.left_alone") == {both["limits"]: 1}
    assert sdk.points("tos_guard.limits.doubt") == {named(): 50}
    sdk.telemetry.engine_changed("limits", "answered")
    sdk.telemetry.engine_changed("limits", "lost")
    sdk.seconds += 60
    assert sdk.points("tos_guard.engine.left_alone") == {}
    assert sdk.points("tos_guard.limits.doubt") == {}
    assert [record.event_name for record in sdk.events.records] == ["tos_guard.engine.changed"] * 3


# Streams


def test_a_stream_is_in_flight_from_its_head_to_its_end_however_often_that_is_told(sdk: Sdk) -> None:
    observed = sdk.telemetry.observe("asgi")
    sdk.telemetry.stream_started(observed)
    sdk.telemetry.stream_started(observed)
    assert sdk.points("tos_guard.streams.active") == {named(adapter="asgi"): 1}
    sdk.telemetry.stream_ended(observed)
    sdk.telemetry.ended(observed, unsealed="client_gone")
    assert sdk.points("tos_guard.streams.active", zeros=True) == {named(adapter="asgi"): 0}


def test_a_response_that_was_no_stream_ends_none(sdk: Sdk) -> None:
    sdk.telemetry.ended(sdk.telemetry.observe("asgi"), carrier="json")
    assert sdk.points("tos_guard.streams.active", zeros=True) == {}


def test_what_was_taken_out_of_a_response_is_counted(sdk: Sdk) -> None:
    sdk.telemetry.filtered(removed_tokens=0, dropped_events=0)
    assert sdk.points("tos_guard.tokens.removed", zeros=True) == {(): 0}
    sdk.telemetry.filtered(removed_tokens=2, dropped_events=3)
    assert sdk.points("tos_guard.tokens.removed") == {(): 2}
    assert sdk.points("tos_guard.events.dropped") == {(): 3}
    assert sdk.telemetry.counts == {"removed_tags": 2, "dropped_events": 3}


# Spans


def test_the_span_an_exchange_came_in_by_is_enriched_whatever_is_current_later(sdk: Sdk) -> None:
    with trace.use_span(sdk.server_span(), end_on_exit=True):
        observed = sdk.telemetry.observe("asgi")
        observed.request_id = "req_1"
        observed.enforce_seconds = 0.25
        with sdk.tracers.get_tracer("app").start_as_current_span("model"):
            sdk.telemetry.decided(observed, DENIED, terms_version="1", monitored=True)
            sdk.telemetry.sealed(observed, carrier="sse", seconds=0.5)
            sdk.telemetry.ended(observed, carrier="sse")
    spans = sdk.spans()
    server = spans["POST /"]
    assert dict(server.attributes or {}) == dict(
        named(
            decision="monitor",
            reason="tos_clause",
            clause="no-resale",
            terms__version="1",
            adapter="asgi",
            request__id="req_1",
            outcome="sealed",
            carrier="sse",
        )
    )
    assert not spans["model"].attributes
    assert [record.span_id for record in sdk.events.records] == [server.context.span_id]


def test_own_spans_are_internal_children_as_long_as_what_they_stand_for(sdk: Sdk) -> None:
    with trace.use_span(sdk.server_span(), end_on_exit=True):
        observed = sdk.telemetry.observe("asgi")
        observed.enforce_seconds = 0.25
        sdk.telemetry.decided(observed, ALLOWED, terms_version="1")
        sdk.telemetry.sealed(observed, carrier="json", seconds=0.5)
    spans = sdk.spans()
    for name, seconds in (("tos_guard.enforce", 0.25), ("tos_guard.seal", 0.5)):
        span = spans[name]
        assert span.kind is trace.SpanKind.INTERNAL
        assert span.parent is not None
        assert span.parent.span_id == spans["POST /"].context.span_id
        assert (span.end_time or 0) - (span.start_time or 0) == seconds * 1e9
    assert [span.name for span in sdk.exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER] == ["POST /"]


def test_without_a_recording_span_none_of_ours_is_opened(sdk: Sdk) -> None:
    observed = sdk.telemetry.observe("asgi")
    observed.enforce_seconds = 0.25
    sdk.telemetry.decided(observed, ALLOWED, terms_version="1")
    sdk.telemetry.sealed(observed, carrier="json", seconds=0.5)
    assert sdk.exporter.get_finished_spans() == ()


def test_a_span_that_its_server_ended_early_is_left_alone(sdk: Sdk, caplog: pytest.LogCaptureFixture) -> None:
    with trace.use_span(sdk.server_span(), end_on_exit=True):
        observed = sdk.telemetry.observe("asgi")
    sdk.telemetry.ended(observed, carrier="json")
    assert not sdk.spans()["POST /"].attributes
    assert caplog.records == []  # the SDK complains where one writes to a span that is over


# Gauges


def test_a_key_shows_how_long_it_lasts_and_one_without_an_end_reaches_no_alert(sdk: Sdk) -> None:
    now = int(sdk.clock.now.timestamp())
    endless, ending = SeededSigner("a").key, SeededSigner("b").key.with_times(not_after=now + 60)
    revoked = SeededSigner("c").key.with_times(revoked=now, not_after=now)
    sdk.telemetry.watch_keys(lambda: [endless, ending, revoked])
    assert sdk.points("tos_guard.key.expiry") == {
        named(key__id=endless.kid, key__purpose="provenance"): ENDLESS_SECONDS,
        named(key__id=ending.kid, key__purpose="provenance"): 60,
    }


def test_when_the_last_key_of_a_purpose_has_ended_it_goes_on_to_be_shown(sdk: Sdk) -> None:
    now = int(sdk.clock.now.timestamp())
    first, last = (SeededSigner(seed).key.with_times(not_after=end) for seed, end in (("a", now - 900), ("b", now - 60)))
    sdk.telemetry.watch_keys(lambda: [first, last])
    assert list(sdk.points("tos_guard.key.expiry").values()) == [-60]


def test_the_age_of_bearer_keys_is_that_of_the_last_good_fetch(sdk: Sdk) -> None:
    sdk.telemetry.watch_bearer_keys(lambda: {"https://login.example.com": sdk.clock.now - timedelta(hours=2)})
    assert sdk.points("tos_guard.bearer.keys.age") == {named(issuer="https://login.example.com"): 7200}


def test_the_age_of_what_was_heard_is_that_of_the_longest_unheard(sdk: Sdk) -> None:
    assert sdk.points("tos_guard.hearing.age") == {}  # nothing to hear of
    sdk.telemetry.watch_hearing(lambda: [0.1, 7.5])
    assert sdk.points("tos_guard.hearing.age") == {named(): 7.5}


def test_what_happens_to_hearing_is_counted_and_told(sdk: Sdk) -> None:
    assert sdk.points("tos_guard.hearing", zeros=True) == {named(event=event): 0 for event in ("unheard", "heard", "silent", "listening")}
    for event in ("unheard", "heard", "something else"):
        sdk.telemetry.hearing(event)
    assert sdk.points("tos_guard.hearing")[named(event=OTHER)] == 1
    assert sdk.telemetry.counts["hearing:unheard"] == sdk.telemetry.counts["hearing:heard"] == 1
    assert [record.event_name for record in sdk.events.records] == ["tos_guard.hearing.changed"] * 3


def test_two_guards_of_one_process_share_instruments_and_both_show_their_gauges(sdk: Sdk, caplog: pytest.LogCaptureFixture) -> None:
    other = sdk.another()
    sdk.telemetry.in_force({"signer": "deny"})
    other.in_force({"records": "allow"})
    for telemetry in (sdk.telemetry, other):
        telemetry.refused(telemetry.observe("asgi"), "tos_unauthenticated")
    assert len(sdk.points("tos_guard.failure_mode")) == 2
    assert list(sdk.points("tos_guard.decisions").values()) == [2]
    assert sdk.telemetry.counts == other.counts == {"denied:tos_unauthenticated": 1}
    assert caplog.records == []  # the SDK complains of instruments made twice


def test_what_a_guard_has_counted_stays_counted_when_it_is_gone(sdk: Sdk) -> None:
    other = sdk.another()
    other.settled()
    del other
    assert sdk.points("tos_guard.reservations") == {named(outcome="settled"): 1}


def test_a_source_of_gauges_that_fails_hides_no_other_and_is_counted(sdk: Sdk) -> None:
    other = sdk.another()

    def unreadable() -> list[Any]:
        raise StoreError("the key folder is gone")

    sdk.telemetry.watch_keys(unreadable)
    other.watch_keys(lambda: [SeededSigner().key])
    assert len(sdk.points("tos_guard.key.expiry")) == 1
    assert sdk.points("tos_guard.telemetry.dropped")[named(reason="raised")] > 0


# Losses


def test_events_of_one_name_that_come_too_fast_are_dropped_and_counted(sdk: Sdk) -> None:
    observed = sdk.telemetry.observe("asgi")
    for _ in range(MAX_EVENTS + 7):
        sdk.telemetry.decided(observed, DENIED, terms_version="1")
    sdk.telemetry.published("2026-11")
    assert len(sdk.events.records) == MAX_EVENTS + 1  # another name has its own room
    assert sdk.telemetry.counts["telemetry_dropped:rate"] == 7
    assert sdk.points("tos_guard.telemetry.dropped", zeros=True) == {named(reason="raised"): 0, named(reason="rate"): 7}
    assert list(sdk.points("tos_guard.decisions").values()) == [MAX_EVENTS + 7]  # counters miss nothing
    sdk.seconds += EVENT_SECONDS
    sdk.telemetry.decided(observed, DENIED, terms_version="1")
    assert len(sdk.events.records) == MAX_EVENTS + 2


def everything(telemetry: Telemetry, span: trace.Span = trace.INVALID_SPAN) -> None:
    """Each method once."""
    with trace.use_span(span):
        observed = telemetry.observe("asgi")
    observed.enforce_seconds = 0.1
    telemetry.decided(observed, DENIED, terms_version="1")
    telemetry.refused(observed, "tos_unauthenticated")
    telemetry.stream_started(observed)
    telemetry.recorded(0.1)
    telemetry.sealed(observed, carrier="sse", seconds=0.1)
    telemetry.ended(observed, unsealed="signer")
    telemetry.filtered(removed_tokens=1, dropped_events=1)
    telemetry.reserved(Reservation("req_1", (), shadowed=(state(TPM),)), 0.1)
    telemetry.settled()
    telemetry.in_force({"signer": "deny"})
    telemetry.failed("signer", StoreError("no"))
    telemetry.degraded("signer", "allow")
    telemetry.published("1")
    telemetry.accepted("cli")
    telemetry.changed("added")


def test_a_provider_that_raises_in_use_stops_nothing_and_each_loss_is_counted() -> None:
    broken = RaisingInUse()
    telemetry = Telemetry(meter_provider=broken, tracer_provider=broken, logger_provider=broken)
    assert telemetry.counts == {}
    everything(telemetry, RaisingSpan(trace.INVALID_SPAN_CONTEXT))
    assert telemetry.counts["telemetry_dropped:raised"] > 15
    assert telemetry.counts["unsealed:signer"] == 1  # our own counts stand


def test_a_provider_that_raises_from_the_start_stops_nothing_either() -> None:
    broken: Any = Raising()
    telemetry = Telemetry(meter_provider=broken, tracer_provider=broken, logger_provider=broken)
    everything(telemetry, RaisingSpan(trace.INVALID_SPAN_CONTEXT))
    assert telemetry.counts["telemetry_dropped:raised"] > 0
    assert telemetry.counts["unsealed:signer"] == 1


def test_a_span_that_raises_when_it_is_asked_stops_nothing() -> None:
    class Broken(trace.NonRecordingSpan):
        def is_recording(self) -> bool:
            raise RuntimeError("the span is broken")

    telemetry = Telemetry()
    with trace.use_span(Broken(trace.INVALID_SPAN_CONTEXT)):
        assert telemetry.observe("asgi").span is None
    assert telemetry.counts == {"telemetry_dropped:raised": 1}


def test_without_an_sdk_nothing_is_lost_but_what_nobody_collects() -> None:
    telemetry = Telemetry()
    everything(telemetry)
    assert telemetry.counts["telemetry_dropped:raised"] == 0
    assert telemetry.counts["unsealed:signer"] == 1


LATE = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tos_guard.telemetry import Telemetry

telemetry = Telemetry()
telemetry.in_force({"signer": "deny"})
telemetry.refused(telemetry.observe("asgi"), "tos_unauthenticated")
reader, spans = InMemoryMetricReader(), InMemorySpanExporter()
metrics.set_meter_provider(MeterProvider([reader]))
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
with trace.get_tracer("server").start_as_current_span("server"):
    observed = telemetry.observe("asgi")
    telemetry.sealed(observed, carrier="json", seconds=0.1)
    telemetry.ended(observed, carrier="json")
for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
    for point in metric.data.data_points:
        if getattr(point, "value", 1):
            print(metric.name, *sorted(point.attributes.values()))
print([span.name for span in spans.get_finished_spans()])
"""


def test_an_sdk_that_is_set_up_late_sees_every_count_since_the_start_and_every_duration_from_then_on() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "['tos_guard.seal', 'server']",
        "tos_guard.decisions asgi deny tos_unauthenticated",
        "tos_guard.failure_mode deny signer",
        "tos_guard.seal.duration json",
        "tos_guard.tokens json sealed",
    ]


def test_without_an_sdk_an_exchange_costs_a_small_part_of_its_signature() -> None:
    """A fifth at the most; benchmarks/telemetry.py has the figure. Taken in turns, the best of each: a busy machine changes nothing."""
    telemetry, key = Telemetry(), Ed25519PrivateKey.generate()

    def told() -> None:
        observed = telemetry.observe("asgi")
        observed.enforce_seconds = 1e-4
        telemetry.decided(observed, ALLOWED, terms_version="1")
        telemetry.recorded(1e-4)
        telemetry.sealed(observed, carrier="json", seconds=1e-4)
        telemetry.ended(observed, carrier="json")

    rounds = [(timeit(told, number=500), timeit(lambda: key.sign(b"x" * 1200), number=500)) for _ in range(9)]
    assert min(ours for ours, _ in rounds) < min(signed for _, signed in rounds) / 5


def test_the_default_clock_is_the_present() -> None:
    telemetry = Telemetry()
    telemetry.watch_bearer_keys(lambda: {"https://login.example.com": datetime.now(UTC)})
    ((age, _),) = telemetry.readings("bearer.keys.age")
    assert -60 < age < 60  # the wall clock may be set meanwhile
