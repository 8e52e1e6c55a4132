"""One guard's telemetry: counts in memory, and the same facts in OpenTelemetry's API."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from opentelemetry import _logs, metrics, trace

from tos_guard import __version__
from tos_guard.keys import KeyRecord
from tos_guard.limits import LimitRefusal, LimitState, Reservation
from tos_guard.telemetry import _words as words
from tos_guard.telemetry._instruments import Reading, instruments_of
from tos_guard.types import Decision, KeyPurpose, Reason, Standing

__all__ = ["Observed", "Telemetry"]

MAX_EVENTS: Final = 100
EVENT_SECONDS: Final = 10.0
"""Of one name at most `MAX_EVENTS` events leave in `EVENT_SECONDS`: an account that hammers at its limit, or a disk that is full, would
otherwise fill the log store. What is over is counted as dropped; the counters miss nothing."""

ENDLESS_SECONDS: Final = 100 * 365 * 86_400.0
"""What `tos_guard.key.expiry` shows for a key without an end: a number that no alert reaches, since not every back end takes infinity."""

_NS: Final = 1_000_000_000
_WARN: Final = _logs.SeverityNumber.WARN
_INFO: Final = _logs.SeverityNumber.INFO
_ERROR: Final = _logs.SeverityNumber.ERROR
_NOTHING_PERMITS: Final = Reason("tos_no_permission")  # what a denial without reasons is told
_WITHOUT_CONTENT: Final = frozenset({"no_body", "client_gone"})
"""Responses without a final token that nobody misses one in: counted, and no event."""


class Observed:
    """One exchange as telemetry sees it, from its request to its end.

    Attributes:
        adapter: The door it came in by.
        span: The span it runs under, taken before the app runs and makes its own; None where nothing records.
        request_id: Its id, once it has one.
        enforce_seconds: What authenticating and deciding have taken so far.
        streaming: Whether its head is out and its end is not.
    """

    __slots__ = ("adapter", "enforce_seconds", "request_id", "span", "streaming")

    def __init__(self, adapter: str, span: trace.Span | None) -> None:
        self.adapter = adapter
        self.span = span
        self.request_id = ""
        self.enforce_seconds = 0.0
        self.streaming = False


class Telemetry:
    """Takes what happened, counts it, and tells OpenTelemetry.

    Any thread may call. Nothing here raises or waits: what a provider raises is swallowed and counted in ``counts["telemetry_dropped"]``
    and `tos_guard.telemetry.dropped`. How long a provider itself takes is the host's choice of processors.

    Args:
        clock: The present; gauges are measured from it.
        monotonic: Seconds that never go back.
        meter_provider: Instead of the process's own, which may be set up later.
        tracer_provider: The same for spans.
        logger_provider: The same for events.

    Attributes:
        counts: Everything that must not pass unseen, as ``word:detail``; kept whether or not anyone collects.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        meter_provider: metrics.MeterProvider | None = None,
        tracer_provider: trace.TracerProvider | None = None,
        logger_provider: _logs.LoggerProvider | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._windows: dict[str, tuple[float, int]] = {}
        self._keys: Callable[[], Iterable[KeyRecord]] = tuple
        self._bearer_keys: Callable[[], Mapping[str, datetime]] = dict
        self._modes: dict[str, str] = {}
        self._instruments = made = instruments_of(meter_provider)
        made.add_source(self)
        self._decisions = made["decisions"]
        self._shadowed = made["clauses.shadowed"]
        self._enforce = made["enforce.duration"]
        self._seal = made["seal.duration"]
        self._record = made["record.duration"]
        self._tokens = made["tokens"]
        self._streams = made["streams.active"]
        self._reservations = made["reservations"]
        self._reserve = made["reserve.duration"]
        self._tracer: trace.Tracer = trace.NoOpTracer()
        self._logger: _logs.Logger = _logs.NoOpLogger(words.SCOPE)
        try:
            self._tracer = trace.get_tracer(words.SCOPE, __version__, tracer_provider, words.SCHEMA_URL)
            self._logger = _logs.get_logger(words.SCOPE, __version__, logger_provider, words.SCHEMA_URL)
        except Exception:  # noqa: BLE001 - a provider is not ours, and may raise anything
            self._drop("raised")

    # Counting

    def count(self, what: str, number: int = 1) -> None:
        """Count something that must not pass unseen; names are ``word:detail``."""
        with self._lock:
            self.counts[what] += number

    # One exchange

    def observe(self, adapter: str) -> Observed:
        """A new exchange, in the span that is current now."""
        try:
            span = trace.get_current_span()
            return Observed(adapter, span if span.is_recording() else None)
        except Exception:  # noqa: BLE001 - the span is the host's
            self._drop("raised")
            return Observed(adapter, None)

    def decided(self, observed: Observed, decision: Decision, *, terms_version: str, monitored: bool = False) -> None:
        """An account's request was decided.

        Args:
            observed: The exchange.
            decision: The decision, limits included.
            terms_version: The general terms in force.
            monitored: A denial was let through all the same.
        """
        allowed = decision.allowed
        word, reason, clause = "allow", "", None
        if not allowed:
            word = "monitor" if monitored else "deny"
            deciding = next((reason for reason in decision.reasons if not reason.shadow), _NOTHING_PERMITS)
            reason, clause = deciding.code, deciding.clause
        named, timed = _decision(word, _closed(reason, words.REASONS) if reason else "", terms_version, observed.adapter)
        self._add(self._decisions, named)
        if observed.enforce_seconds:
            self._measure(self._enforce, observed.enforce_seconds, timed)
        if decision.reasons and decision.reasons[-1].shadow:  # those in shadow follow the others
            self._count_shadowed(decision.reasons)
        if observed.span is None and allowed:
            return
        detail = {**named, words.REQUEST_ID: observed.request_id}
        if clause is not None:
            detail[words.CLAUSE] = clause
        self._enforced(observed, detail)
        if not allowed:
            self.count(f"{'monitored' if monitored else 'denied'}:{reason}")
            self._event("tos_guard.decision.denied", _INFO, detail, observed.span)

    def _count_shadowed(self, reasons: Iterable[Reason]) -> None:
        for reason in reasons:
            if reason.shadow and reason.clause is not None and reason.code == "tos_clause":
                self._add(self._shadowed, {words.CLAUSE: reason.clause})

    def refused(self, observed: Observed, code: str) -> None:
        """A request was refused before anything was decided. No event: anyone may cause these."""
        self.count(f"denied:{code}")
        named, timed = _decision("deny", _closed(code, words.REASONS), "", observed.adapter)
        self._add(self._decisions, named)
        if observed.enforce_seconds:  # what no route serves is refused before anything is timed
            self._measure(self._enforce, observed.enforce_seconds, timed)
        self._enforced(observed, named)

    def _enforced(self, observed: Observed, detail: Mapping[str, str]) -> None:
        """Tell the server's span what came of it, and give it a child for the time it took."""
        if observed.span is not None:
            self._enrich(observed.span, detail)
            named = {name: detail[name] for name in words.SPANS["tos_guard.enforce"] if name in detail}
            if observed.enforce_seconds:
                self._child(observed.span, "tos_guard.enforce", observed.enforce_seconds, named)

    def recorded(self, seconds: float) -> None:
        """The record of a response became durable."""
        self._measure(self._record, seconds, {})

    def sealed(self, observed: Observed, *, carrier: str, seconds: float) -> None:
        """The final token of a response was made, *seconds* after it was asked for."""
        named = _carried(carrier)
        self._measure(self._seal, seconds, named)
        if observed.span is not None:
            self._child(observed.span, "tos_guard.seal", seconds, named)

    def ended(self, observed: Observed, *, carrier: str = "none", unsealed: str = "") -> None:
        """A response ended.

        Args:
            observed: The exchange.
            carrier: Where its final token is.
            unsealed: Why it has none; empty where it has one.
        """
        self.stream_ended(observed)
        self.count(f"unsealed:{unsealed}" if unsealed else f"sealed:{carrier}")
        named = _ending("none" if unsealed else carrier, unsealed)
        self._add(self._tokens, named)
        if observed.span is not None:
            self._enrich(observed.span, named)
        if unsealed and unsealed not in _WITHOUT_CONTENT:
            detail = {words.REASON: named[words.REASON], words.ADAPTER: observed.adapter, words.REQUEST_ID: observed.request_id}
            self._event("tos_guard.token.unsealed", _WARN, detail, observed.span)

    def filtered(self, *, removed_tokens: int, dropped_events: int) -> None:
        """What was taken out of a response: tag members of an upstream, and events after the seal."""
        for name, count, number in (
            ("tokens.removed", "removed_tags", removed_tokens),
            ("events.dropped", "dropped_events", dropped_events),
        ):
            if number:
                self.count(count, number)
                self._add(self._instruments[name], {}, number)

    def stream_started(self, observed: Observed) -> None:
        """The head of a response is out before its content."""
        if not observed.streaming:
            observed.streaming = True
            self._add(self._streams, {words.ADAPTER: observed.adapter})

    def stream_ended(self, observed: Observed) -> None:
        """A response that had started so is over, however it ended. A second call changes nothing."""
        if observed.streaming:
            observed.streaming = False
            self._add(self._streams, {words.ADAPTER: observed.adapter}, -1)

    # Limits

    def reserved(self, told: Reservation | LimitRefusal, seconds: float) -> None:
        """A limits engine answered after *seconds*. Only limit ids and quantities leave, never a scope, which names accounts."""
        outcome = "refused" if isinstance(told, LimitRefusal) else "reserved"
        self._measure(self._reserve, seconds, {words.OUTCOME: outcome})
        named = {words.OUTCOME: outcome}
        if isinstance(told, LimitRefusal):
            named |= _limited(told.state)
        self._add(self._reservations, named)
        for state in told.shadowed:
            self._add(self._reservations, {words.OUTCOME: "refused", **_limited(state), words.SHADOW: True})

    def settled(self, outcome: str = "settled") -> None:
        """A reservation came to its end: ``settled``, ``expired`` or ``cancelled``."""
        self._add(self._reservations, {words.OUTCOME: _closed(outcome, words.RESERVATION_ENDS)})

    # Parts that fail

    def in_force(self, modes: Mapping[str, str]) -> None:
        """Which failure mode is configured, by class."""
        self._modes = dict(modes)

    def failed(self, part: str, failure: BaseException) -> None:
        """A part of the guard failed. Of the failure only its type leaves: its message may name anything."""
        self.count(f"failed:{part}")
        named = _closed(part, words.FAILED_PARTS)
        self._add(self._instruments["failures"], {words.PART: named})
        cause = type(failure.__cause__ or failure).__name__
        self._event("tos_guard.part.failed", _ERROR, {words.PART: named, words.ERROR_TYPE: cause})

    def degraded(self, failed_class: str, mode: str) -> None:
        """A failure mode was used for one request."""
        self.count(f"degraded:{failed_class}:{mode}")
        attributes = {words.CLASS: _closed(failed_class, words.CLASSES), words.MODE: _closed(mode, words.MODES)}
        self._add(self._instruments["degraded"], attributes)
        self._event("tos_guard.failure_mode.used", _ERROR, attributes)

    # What changes about terms and accounts

    def published(self, terms_version: str) -> None:
        """A version of the terms was published."""
        self._event("tos_guard.terms.published", _INFO, {words.TERMS_VERSION: terms_version})

    def accepted(self, method: str, *, outcome: str = "accepted") -> None:
        """Terms were accepted, or an acceptance ``withdrawn``; *method* says how: ``cli``, ``account-route``, ``import``."""
        attributes = {words.OUTCOME: _closed(outcome, words.ACCEPTANCES), words.METHOD: _closed(method, words.METHODS)}
        self._add(self._instruments["acceptances"], attributes)

    def changed(self, change: str, *, standing: Standing | None = None) -> None:
        """An account was changed in this process; says what and not whose.

        Args:
            change: What was changed, a word of `tos_guard.stores.AccountChange`.
            standing: The new standing, where that is what changed.
        """
        attributes = {words.CHANGE: _closed(change, words.CHANGES)}
        if standing is not None:
            attributes[words.STANDING] = str(standing)
        self._event("tos_guard.account.changed", _INFO, attributes)

    # Gauges

    def watch_keys(self, keys: Callable[[], Iterable[KeyRecord]]) -> None:
        """Show how long signing keys last. *keys* is called by whatever thread collects; what it raises is counted as dropped."""
        self._keys = keys

    def watch_bearer_keys(self, fetched: Callable[[], Mapping[str, datetime]]) -> None:
        """Show how old the keys of bearer tokens' issuers are: *fetched* gives the time of the last good fetch by issuer."""
        self._bearer_keys = fetched

    def readings(self, gauge: str) -> list[Reading]:
        """The present values of a gauge, for a collector."""
        if gauge == "failure_mode":
            return [(1, {words.CLASS: failed_class, words.MODE: mode}) for failed_class, mode in self._modes.items()]
        now = self._clock().timestamp()
        if gauge == "key.expiry":
            return [
                (_remaining(key, now), {words.KEY_ID: key.kid, words.KEY_PURPOSE: str(key.purpose)}) for key in _shown(self._keys(), now)
            ]
        return [(now - at.timestamp(), {words.ISSUER: issuer}) for issuer, at in self._bearer_keys().items()]

    # Speaking to OpenTelemetry, whatever it answers

    def _drop(self, reason: str) -> None:
        self.count("telemetry_dropped")
        self._instruments.drop(reason)

    def _add(self, counter: Any, attributes: Mapping[str, Any], number: int = 1) -> None:
        try:
            counter.add(number, attributes)
        except Exception:  # noqa: BLE001 - whatever a provider raises, the request goes on
            self._drop("raised")

    def _measure(self, histogram: Any, seconds: float, attributes: Mapping[str, str]) -> None:
        try:
            histogram.record(seconds, attributes)
        except Exception:  # noqa: BLE001 - as above
            self._drop("raised")

    def _enrich(self, span: trace.Span, attributes: Mapping[str, str]) -> None:
        try:
            if span.is_recording():  # a server may have ended it before the app was done
                span.set_attributes(attributes)
        except Exception:  # noqa: BLE001 - as above
            self._drop("raised")

    def _child(self, parent: trace.Span, name: str, seconds: float, attributes: Mapping[str, str]) -> None:
        """A span that is over: *seconds* long, ending now."""
        try:
            end = time.time_ns()
            context = trace.set_span_in_context(parent)
            start = end - int(seconds * _NS)
            self._tracer.start_span(name, context, trace.SpanKind.INTERNAL, attributes, start_time=start).end(end)
        except Exception:  # noqa: BLE001 - as above
            self._drop("raised")

    def _event(self, name: str, severity: _logs.SeverityNumber, attributes: Mapping[str, str], span: trace.Span | None = None) -> None:
        if self._is_too_fast(name):
            self._drop("rate")
            return
        try:
            context = None if span is None else trace.set_span_in_context(span)
            event = _logs.LogRecord(
                timestamp=time.time_ns(), event_name=name, severity_number=severity, body=name, attributes=dict(attributes), context=context
            )
            self._logger.emit(event)
        except Exception:  # noqa: BLE001 - as above
            self._drop("raised")

    def _is_too_fast(self, name: str) -> bool:
        now = self._monotonic()
        with self._lock:
            began, number = self._windows.get(name, (now, 0))
            if now - began >= EVENT_SECONDS:
                began, number = now, 0
            self._windows[name] = (began, number + 1)
        return number >= MAX_EVENTS


# The same few attributes on nearly every exchange: built once, and shared, since nothing changes what it is given to measure.


@lru_cache(maxsize=256)
def _decision(decision: str, reason: str, terms_version: str, adapter: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Attributes of a decision, and of the time it took."""
    named = {words.DECISION: decision, words.REASON: reason, words.TERMS_VERSION: terms_version, words.ADAPTER: adapter}
    return {name: value for name, value in named.items() if value}, {words.DECISION: decision, words.ADAPTER: adapter}


def _limited(state: LimitState) -> dict[str, Any]:
    return {words.LIMIT: state.limit.id, words.QUANTITY: str(state.limit.quantity), words.SHADOW: False}


@lru_cache(maxsize=16)
def _carried(carrier: str) -> Mapping[str, str]:
    return {words.CARRIER: _closed(carrier, words.CARRIERS)}


@lru_cache(maxsize=64)
def _ending(carrier: str, unsealed: str) -> Mapping[str, str]:
    named = {words.OUTCOME: "unsealed" if unsealed else "sealed", **_carried(carrier)}
    return {**named, words.REASON: _closed(unsealed, words.UNSEALED)} if unsealed else named


def _closed(value: str, known: frozenset[str]) -> str:
    return value if value in known else words.OTHER


def _remaining(key: KeyRecord, now: float) -> float:
    return ENDLESS_SECONDS if key.not_after is None else key.not_after - now


def _shown(keys: Iterable[KeyRecord], now: float) -> Iterator[KeyRecord]:
    """The keys that may still sign; of a purpose that has none left the last one, so that its end is seen and does not just go missing."""
    by_purpose: dict[KeyPurpose, list[KeyRecord]] = {}
    for key in keys:
        if key.revoked is None:
            by_purpose.setdefault(key.purpose, []).append(key)
    for of_purpose in by_purpose.values():
        alive = [key for key in of_purpose if _remaining(key, now) > 0]
        yield from alive or [max(of_purpose, key=lambda key: _remaining(key, now))]
