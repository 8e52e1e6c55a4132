"""One guard's telemetry: what happened, counted in memory and told to OpenTelemetry's API."""

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
from tos_guard.telemetry._instruments import Attributes, Reading, Series, Tally, instruments_of, lost
from tos_guard.types import Decision, KeyPurpose, Outcome, Reason, Standing

__all__ = ["Observed", "Telemetry"]

MAX_EVENTS: Final = 100
EVENT_SECONDS: Final = 10.0
"""Of one name at most `MAX_EVENTS` events leave in `EVENT_SECONDS`: an account that hammers at its limit, or a disk that is full, would
otherwise fill the log store. What is over is counted as dropped; the counters miss nothing."""

ENDLESS_SECONDS: Final = 100 * 365 * 86_400.0
"""What `tos_guard.key.expiry` shows for a key without an end: a number that no alert reaches, since not every back end takes infinity."""

_NO_ATTRIBUTES: Final[Mapping[str, str]] = {}
_NS: Final = 1_000_000_000
_INFO: Final = _logs.SeverityNumber.INFO
_WARN: Final = _logs.SeverityNumber.WARN
_ERROR: Final = _logs.SeverityNumber.ERROR
_ALLOW: Final = Outcome.ALLOW  # looking a member up in its class takes longer than counting it
_NOTHING_PERMITS: Final = Reason("tos_no_permission")  # what a denial without reasons is told
_NOT_MISSED: Final = frozenset({"client_gone", "denied", "monitor", "no_body"})
"""Responses without a final token in which nobody misses one: counted, and no event."""


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

    def __init__(self, adapter: str, span: trace.Span | None = None) -> None:
        self.adapter: str = adapter
        self.span: trace.Span | None = span
        self.request_id: str = ""
        self.enforce_seconds: float = 0.0
        self.streaming: bool = False


class Telemetry:
    """Takes what happened, counts it, and tells OpenTelemetry.

    Any thread may call. Nothing here raises or waits: what a provider raises is swallowed and counted as `tos_guard.telemetry.dropped`.
    How long a provider itself takes is the host's choice of processors.

    Args:
        clock: The present; gauges are measured from it.
        monotonic: Seconds that never go back.
        meter_provider: Instead of the process's own, which may be set up later.
        tracer_provider: The same for spans.
        logger_provider: The same for events.
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
        self._clock = clock
        self._monotonic = monotonic
        self._tally = Tally(_from_the_start())
        self._count = self._tally.add
        self._windows: dict[str, tuple[float, int]] = {}
        self._windows_lock = threading.Lock()
        self._modes: dict[str, str] = {}
        self._left_alone: dict[str, bool] = {}
        self._doubt_ends: float | None = None
        self._keys: Callable[[], Iterable[KeyRecord]] = tuple
        self._bearer_keys: Callable[[], Mapping[str, datetime]] = dict
        self._hearing_ages: Callable[[], Iterable[float]] = tuple
        instruments = instruments_of(meter_provider)
        instruments.watch(self._tally, self)
        self._enforce = instruments["enforce.duration"]
        self._seal = instruments["seal.duration"]
        self._record = instruments["record.duration"]
        self._reserve = instruments["reserve.duration"]
        self._tracer: trace.Tracer = trace.NoOpTracer()
        self._logger: _logs.Logger = _logs.NoOpLogger(words.SCOPE)
        try:
            self._tracer = trace.get_tracer(words.SCOPE, __version__, tracer_provider, words.SCHEMA_URL)
            self._logger = _logs.get_logger(words.SCOPE, __version__, logger_provider, words.SCHEMA_URL)
        except Exception:  # noqa: BLE001 - a provider is not ours, and may raise anything
            self._drop("raised")

    @property
    def counts(self) -> Counter[str]:
        """Everything counted so far, for a person or a test: ``denied:tos_clause``, ``sealed:json``, ``failed:signer``, … ."""
        found: Counter[str] = Counter()
        for series, number in self._tally.numbers().items():
            if number and (word := _count_word(series)):
                found[word] += number
        return found

    # One exchange

    def observe(self, adapter: str) -> Observed:
        """A new exchange, in the span that is current now."""
        try:
            span = trace.get_current_span()
            return Observed(adapter, span if span.is_recording() else None)
        except Exception:  # noqa: BLE001 - the span is the host's
            self._drop("raised")
            return Observed(adapter)

    def decided(self, observed: Observed, decision: Decision, *, terms_version: str, monitored: bool = False) -> None:
        """An account's request was decided.

        Args:
            observed: The exchange.
            decision: The decision, limits included.
            terms_version: The general terms in force.
            monitored: A denial was let through all the same.
        """
        allowed = decision.outcome is _ALLOW
        word, reason, clause = "allow", "", None
        if not allowed:
            word = "monitor" if monitored else "deny"
            deciding = next((reason for reason in decision.reasons if not reason.shadow), _NOTHING_PERMITS)
            reason, clause = _closed(deciding.code, words.REASONS), _named(deciding)
        series, timed = _decision(word, reason, terms_version, observed.adapter)
        self._count(series)
        if observed.enforce_seconds:
            try:
                self._enforce.record(observed.enforce_seconds, timed)
            except Exception:  # noqa: BLE001 - whatever a provider raises, the request goes on
                self._drop("raised")
        if decision.reasons and decision.reasons[-1].shadow:  # those in shadow follow the others
            self._count_shadowed(decision.reasons)
        if observed.span is None and allowed:
            return
        detail = {**dict(series[1]), words.REQUEST_ID: observed.request_id}
        if clause is not None:
            detail[words.CLAUSE] = clause
        self._enforced(observed, detail)
        if not allowed:
            self._event("tos_guard.decision.denied", _INFO, detail, observed.span)

    def _count_shadowed(self, reasons: Iterable[Reason]) -> None:
        for reason in reasons:
            if reason.shadow and reason.clause is not None and reason.code == "tos_clause":
                self._count(("clauses.shadowed", ((words.CLAUSE, _own_id(reason.clause)),)))

    def refused(self, observed: Observed, code: str, *, monitored: bool = False) -> None:
        """A request was refused before anything was decided, or would have been. No event: anyone may cause these."""
        series, timed = _decision("monitor" if monitored else "deny", _closed(code, words.REASONS), "", observed.adapter)
        self._count(series)
        if observed.enforce_seconds:  # what no route serves is refused before anything is timed
            self._measure(self._enforce, observed.enforce_seconds, timed)
        self._enforced(observed, dict(series[1]))

    def _enforced(self, observed: Observed, detail: Mapping[str, Any]) -> None:
        """Tell the server's span what came of it, and give it a child for the time it took."""
        if observed.span is not None:
            self._enrich(observed.span, detail)
            if observed.enforce_seconds:
                named = {name: detail[name] for name in words.SPANS["tos_guard.enforce"] if name in detail}
                self._child(observed.span, "tos_guard.enforce", observed.enforce_seconds, named)

    def recorded(self, seconds: float) -> None:
        """The record of a response became durable, after *seconds*."""
        try:
            self._record.record(seconds, _NO_ATTRIBUTES)
        except Exception:  # noqa: BLE001 - as above
            self._drop("raised")

    def sealed(self, observed: Observed, *, carrier: str, seconds: float) -> None:
        """The final token of a response was made, *seconds* after it was asked for."""
        named = _carried(carrier)
        try:
            self._seal.record(seconds, named)
        except Exception:  # noqa: BLE001 - as above
            self._drop("raised")
        if observed.span is not None:
            self._enrich(observed.span, {words.OUTCOME: "sealed", **named})
            self._child(observed.span, "tos_guard.seal", seconds, named)

    def not_sealed(self, observed: Observed, reason: str) -> None:
        """No final token could be made. Told at once: some servers end their span with the last byte, before a response has `ended`."""
        if observed.span is not None:
            self._enrich(observed.span, {words.OUTCOME: "unsealed", words.WHY_UNSEALED: _closed(reason, words.UNSEALED)})

    def ended(self, observed: Observed, *, carrier: str = "none", unsealed: str = "") -> None:
        """A response ended.

        Args:
            observed: The exchange.
            carrier: Where its final token is.
            unsealed: Why it has none; empty where it has one.
        """
        if observed.streaming:
            self.stream_ended(observed)
        series = _unsealed(unsealed) if unsealed else _sealed(carrier)
        self._count(series)
        if unsealed and observed.span is not None:
            self.not_sealed(observed, unsealed)
        if unsealed and unsealed not in _NOT_MISSED:
            reason = _closed(unsealed, words.UNSEALED)
            detail = {words.REASON: reason, words.ADAPTER: observed.adapter, words.REQUEST_ID: observed.request_id}
            self._event("tos_guard.token.unsealed", _WARN, detail, observed.span)

    def kept(self, outcome: str) -> None:
        """What came of a kept seal: ``kept``, ``opened`` (the response runs on), ``closed`` (it ended), ``reused``, ``conflict``."""
        self._count(_kept_seal(outcome))

    def filtered(self, *, removed_tokens: int, dropped_events: int) -> None:
        """What was taken out of a response: tag members of an upstream, and events after the seal."""
        if removed_tokens:
            self._count(_REMOVED, removed_tokens)
        if dropped_events:
            self._count(_DROPPED_EVENTS, dropped_events)

    def stream_started(self, observed: Observed) -> None:
        """The head of a response is out before its content."""
        if not observed.streaming:
            observed.streaming = True
            self._count(("streams.active", ((words.ADAPTER, observed.adapter),)))

    def stream_ended(self, observed: Observed) -> None:
        """A response that had started so is over, however it ended. A second call changes nothing."""
        if observed.streaming:
            observed.streaming = False
            self._count(("streams.active", ((words.ADAPTER, observed.adapter),)), -1)

    # Limits

    def reserved(self, told: Reservation | LimitRefusal, seconds: float) -> None:
        """A limits engine answered after *seconds*. Only limit ids and quantities leave, never a scope, which names accounts."""
        if isinstance(told, LimitRefusal):
            self._count(_over_limit(told.state, shadow=False))
            self._measure(self._reserve, seconds, {words.OUTCOME: "refused"})
        else:
            self._count(_reservation("reserved"))
            self._measure(self._reserve, seconds, {words.OUTCOME: "reserved"})
        for state in told.shadowed:
            self._count(_over_limit(state, shadow=True))

    def reserve_failed(self, seconds: float) -> None:
        """A limits engine failed, or was left alone, after *seconds*."""
        self._measure(self._reserve, seconds, {words.OUTCOME: "failed"})

    def settled(self, outcome: str = "settled") -> None:
        """A reservation came to its end: ``settled``, or ``cancelled`` where the client left while it was being made."""
        self._count(_reservation(_closed(outcome, words.RESERVATION_ENDS)))

    # Bearer tokens of others

    def bearer_refused(self, fault: str) -> None:
        """A bearer token of another authorization server was not accepted; *fault* is a word of `tos_guard.errors.BearerFault`."""
        self._count(("bearer.refused", ((words.REASON, _closed(fault, words.BEARER_FAULTS)),)))

    def proof_refused(self, fault: str) -> None:
        """A bound credential was not proven to be its sender's; *fault* is a word of `tos_guard.errors.ProofFault`."""
        self._count(("proof.refused", ((words.REASON, _closed(fault, words.PROOF_FAULTS)),)))

    def bearer_keys(self, event: str) -> None:
        """Something happened to the keys of an issuer of bearer tokens: ``fetched``, ``unreachable``, … ."""
        self._count(("bearer.keys", ((words.EVENT, _closed(event, words.KEY_EVENTS)),)))

    # Parts that fail

    def in_force(self, modes: Mapping[str, str]) -> None:
        """Which failure mode is configured, by class."""
        self._modes = dict(modes)
        for failed_class, mode in modes.items():
            self._count(_use_of_mode(failed_class, mode), 0)

    def failed(self, part: str, failure: BaseException) -> None:
        """A part of the guard failed. Of the failure only its type leaves: its message may name anything."""
        series = _failure(part)
        self._count(series)
        cause = type(failure.__cause__ or failure).__name__
        self._event("tos_guard.part.failed", _ERROR, {**dict(series[1]), words.ERROR_TYPE: cause})

    def degraded(self, failed_class: str, mode: str) -> None:
        """A failure mode was used for one request."""
        series = _use_of_mode(failed_class, mode)
        self._count(series)
        self._event("tos_guard.failure_mode.used", _ERROR, dict(series[1]))

    # Engines that processes share

    def watch_engine(self, failed_class: str) -> None:
        """Show whether the engine of this class is left alone; of ``limits`` also for how long some limit is in doubt."""
        self._left_alone[failed_class] = False
        if failed_class == "limits" and self._doubt_ends is None:
            self._doubt_ends = self._monotonic()

    def engine_changed(self, failed_class: str, event: str) -> None:
        """What happened to the engine of a class: ``failed`` (it is left alone), ``answered`` again, ``lost`` its memory, ``kept`` it."""
        if event in ("failed", "answered"):
            self._left_alone[failed_class] = event == "failed"
        attributes = {words.CLASS: _closed(failed_class, words.CLASSES), words.EVENT: _closed(event, words.ENGINE_EVENTS)}
        self._event("tos_guard.engine.changed", _INFO if event in ("answered", "kept") else _ERROR, attributes)

    def in_doubt(self, seconds: float) -> None:
        """How much was used of some limit is not known, for *seconds* more."""
        self._doubt_ends = max(self._doubt_ends or 0.0, self._monotonic() + seconds)

    def hearing(self, event: str) -> None:
        """Something happened to how this process hears of changes: ``unheard``, ``heard``, ``silent``, ``listening``."""
        series = _hearing(event)
        self._count(series)
        self._event("tos_guard.hearing.changed", _ERROR if event == "unheard" else _WARN, dict(series[1]))

    # What changes about terms and accounts

    def published(self, terms_version: str) -> None:
        """A version of the terms was published; not for a contract, whose version may name a customer."""
        self._event("tos_guard.terms.published", _INFO, {words.TERMS_VERSION: terms_version})

    def accepted(self, method: str, *, outcome: str = "accepted") -> None:
        """Terms were accepted, or an acceptance ``withdrawn``; *method* says how: ``cli``, ``account-route``, ``import``."""
        named = ((words.OUTCOME, _closed(outcome, words.ACCEPTANCES)), (words.METHOD, _closed(method, words.METHODS)))
        self._count(("acceptances", named))

    def changed(self, change: str, *, standing: Standing | None = None) -> None:
        """An account was changed in this process, or has appealed; says what and not whose.

        Args:
            change: What was changed, a word of `tos_guard.stores.AccountChange`.
            standing: The new standing, or the step of the measure, where that is what changed.
        """
        attributes = {words.CHANGE: _closed(change, words.CHANGES)}
        if standing is not None:
            attributes[words.STANDING] = str(standing)
        self._count(("changes", tuple(attributes.items())))
        self._event("tos_guard.account.changed", _INFO, attributes)

    # Gauges

    def watch_keys(self, keys: Callable[[], Iterable[KeyRecord]]) -> None:
        """Show how long signing keys last. *keys* is called by whatever thread collects; what it raises is counted as dropped."""
        self._keys = keys

    def watch_bearer_keys(self, fetched: Callable[[], Mapping[str, datetime]]) -> None:
        """Show how old the keys of bearer tokens' issuers are: *fetched* gives the time of the last good fetch by issuer."""
        self._bearer_keys = fetched

    def watch_hearing(self, ages: Callable[[], Iterable[float]]) -> None:
        """Show for how long changes may not have been heard of: the longest of *ages*, in seconds."""
        self._hearing_ages = ages

    def readings(self, gauge: str) -> list[Reading]:
        """The present values of a gauge, for a collector."""
        if gauge == "failure_mode":
            return [(1, {words.CLASS: failed_class, words.MODE: mode}) for failed_class, mode in self._modes.items()]
        if gauge == "engine.left_alone":
            return [(int(alone), {words.CLASS: failed_class}) for failed_class, alone in self._left_alone.items()]
        if gauge == "limits.doubt":
            return [] if self._doubt_ends is None else [(max(0.0, self._doubt_ends - self._monotonic()), _NO_ATTRIBUTES)]
        if gauge == "hearing.age":
            return [(age, {}) for age in sorted(self._hearing_ages())[-1:]]
        now = self._clock().timestamp()
        if gauge == "key.expiry":
            return [
                (_remaining(key, now), {words.KEY_ID: key.kid, words.KEY_PURPOSE: str(key.purpose)}) for key in _shown(self._keys(), now)
            ]
        return [(now - at.timestamp(), {words.ISSUER: issuer}) for issuer, at in self._bearer_keys().items()]

    # Speaking to OpenTelemetry, whatever it answers

    def _drop(self, reason: str) -> None:
        self._count(lost(reason))

    def _measure(self, histogram: Any, seconds: float, attributes: Mapping[str, str]) -> None:
        try:
            histogram.record(seconds, attributes)
        except Exception:  # noqa: BLE001 - as above
            self._drop("raised")

    def _enrich(self, span: trace.Span, attributes: Mapping[str, Any]) -> None:
        try:
            if span.is_recording():  # a server may have ended it before the app was done
                span.set_attributes(attributes)
        except Exception:  # noqa: BLE001 - as above
            self._drop("raised")

    def _child(self, parent: trace.Span, name: str, seconds: float, attributes: Mapping[str, Any]) -> None:
        """A span that is over: *seconds* long, ending now."""
        try:
            end = time.time_ns()
            context = trace.set_span_in_context(parent)
            start = end - int(seconds * _NS)
            self._tracer.start_span(name, context, trace.SpanKind.INTERNAL, attributes, start_time=start).end(end)
        except Exception:  # noqa: BLE001 - as above
            self._drop("raised")

    def _event(self, name: str, severity: _logs.SeverityNumber, attributes: Mapping[str, Any], span: trace.Span | None = None) -> None:
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
        with self._windows_lock:
            began, number = self._windows.get(name, (now, 0))
            if now - began >= EVENT_SECONDS:
                began, number = now, 0
            self._windows[name] = (began, number + 1)
        return number >= MAX_EVENTS


# Series. Those of nearly every exchange are few: built once, and shared.

_REMOVED: Final[Series] = ("tokens.removed", ())
_DROPPED_EVENTS: Final[Series] = ("events.dropped", ())


def _named(reason: Reason) -> str | None:
    """The clause or limit that decided; not terms that are not accepted, since a contract's version may name a customer."""
    if reason.clause is None or reason.code not in ("tos_clause", "tos_limit"):
        return None
    return _own_id(reason.clause) if reason.code == "tos_clause" else reason.clause


def _own_id(clause: str) -> str:
    """A clause's id without the series it is qualified by: that of a contract may name a customer."""
    return clause.rpartition("/")[2]


def _closed(value: str, known: frozenset[str]) -> str:
    return value if value in known else words.OTHER


@lru_cache(maxsize=256)
def _decision(decision: str, reason: str, terms_version: str, adapter: str) -> tuple[Series, Mapping[str, str]]:
    """The series of a decision, and the attributes of the time it took."""
    named = ((words.DECISION, decision), (words.REASON, reason), (words.TERMS_VERSION, terms_version), (words.ADAPTER, adapter))
    return ("decisions", tuple(pair for pair in named if pair[1])), {words.DECISION: decision, words.ADAPTER: adapter}


@lru_cache(maxsize=16)
def _carried(carrier: str) -> Mapping[str, str]:
    return {words.CARRIER: _closed(carrier, words.CARRIERS)}


@lru_cache(maxsize=16)
def _sealed(carrier: str) -> Series:
    return "tokens", ((words.OUTCOME, "sealed"), (words.CARRIER, _closed(carrier, words.CARRIERS)))


def _unsealed(reason: str) -> Series:
    return "tokens", ((words.OUTCOME, "unsealed"), (words.CARRIER, "none"), (words.REASON, _closed(reason, words.UNSEALED)))


@lru_cache(maxsize=16)
def _reservation(outcome: str) -> Series:
    return "reservations", ((words.OUTCOME, outcome),)


def _over_limit(state: LimitState, *, shadow: bool) -> Series:
    limit: Attributes = ((words.LIMIT, state.limit.id), (words.QUANTITY, str(state.limit.quantity)), (words.SHADOW, shadow))
    return "reservations", ((words.OUTCOME, "refused"), *limit)


@lru_cache(maxsize=16)
def _kept_seal(outcome: str) -> Series:
    return "seals", ((words.OUTCOME, _closed(outcome, words.KEPT_SEALS)),)


def _failure(part: str) -> Series:
    return "failures", ((words.PART, _closed(part, words.FAILED_PARTS)),)


def _use_of_mode(failed_class: str, mode: str) -> Series:
    return "degraded", ((words.CLASS, _closed(failed_class, words.CLASSES)), (words.MODE, _closed(mode, words.MODES)))


def _hearing(event: str) -> Series:
    return "hearing", ((words.EVENT, _closed(event, words.HEARING_EVENTS)),)


def _from_the_start() -> Iterator[Series]:
    """Series that stand at 0 before anything happens: one that appears with its first failure shows no increase."""
    yield from (_failure(part) for part in words.FAILED_PARTS)
    yield from (_unsealed(reason) for reason in words.UNSEALED)
    yield from (_kept_seal(outcome) for outcome in words.KEPT_SEALS)
    yield from (lost(reason) for reason in words.LOSSES)
    yield from (_hearing(event) for event in words.HEARING_EVENTS)
    yield _REMOVED
    yield _DROPPED_EVENTS


def _count_word(series: Series) -> str:
    """A series as a short word with its detail, or "" for what only collectors read."""
    name, attributes = series
    named = dict(attributes)
    match name:
        case "decisions" if named[words.DECISION] != "allow":
            return f"{'denied' if named[words.DECISION] == 'deny' else 'monitored'}:{named[words.REASON]}"
        case "tokens":
            sealed = named[words.OUTCOME] == "sealed"
            return f"sealed:{named[words.CARRIER]}" if sealed else f"unsealed:{named[words.REASON]}"
        case "reservations":
            shadowed = "shadowed:" if named.get(words.SHADOW) else ""
            limit = f":{named[words.LIMIT]}" if words.LIMIT in named else ""
            return f"reservation:{shadowed}{named[words.OUTCOME]}{limit}"
        case "seals":
            return f"seal:{named[words.OUTCOME]}"
        case "acceptances":
            return f"{named[words.OUTCOME]}:{named[words.METHOD]}"
        case "failures":
            return f"failed:{named[words.PART]}"
        case "degraded":
            return f"degraded:{named[words.CLASS]}:{named[words.MODE]}"
        case "bearer.refused":
            return f"bearer:{named[words.REASON]}"
        case "proof.refused":
            return f"proof:{named[words.REASON]}"
        case "bearer.keys":
            return f"bearer_keys:{named[words.EVENT]}"
        case "hearing":
            return f"hearing:{named[words.EVENT]}"
        case "clauses.shadowed":
            return f"shadowed:{named[words.CLAUSE]}"
        case "tokens.removed":
            return "removed_tags"
        case "events.dropped":
            return "dropped_events"
        case words.DROPPED:
            return f"telemetry_dropped:{named[words.REASON]}"
        case _:
            return ""


# Keys


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
