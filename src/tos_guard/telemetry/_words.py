"""Every name that leaves through telemetry: instruments, events, attributes, and the closed sets their values come from.

The tables of docs/guides/telemetry.md say the same; tests/integrations/test_telemetry_otlp.py compares them with what arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from tos_guard.errors import BearerFault, ProofFault
from tos_guard.types import AcceptanceMethod

SCOPE: Final = "tos_guard"
"""Instrumentation scope of everything we emit, and first part of every name."""

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
"""Version of the semantic conventions that ``error.type`` is taken from; the other attributes are our own."""

OTHER: Final = "_OTHER"
"""Stands for a value outside its closed set, as the semantic conventions spell it. A word we do not know must not become a new series."""

CARRIERS: Final = frozenset({"detached", "grpc", "grpc-message", "header", "json", "line", "none", "sse"})
KEPT_SEALS: Final = frozenset({"kept", "opened", "closed", "reused", "conflict"})
CLASSES: Final = frozenset({"accounts", "bearer_keys", "entitlements", "limits", "records", "replay", "signer"})
MODES: Final = frozenset({"deny", "allow", "local"})
LOSSES: Final = ("raised", "rate")
"""Why telemetry is lost: a provider raised, or events of one name came too fast."""

DROPPED: Final = "telemetry.dropped"
RESERVATION_ENDS: Final = frozenset({"settled", "cancelled"})
ACCEPTANCES: Final = frozenset({"accepted", "withdrawn"})
METHODS: Final = frozenset(str(method) for method in AcceptanceMethod)
CHANGES: Final = frozenset(
    {
        *("added", "changed", "standing", "grant_added", "grant_voided", "limit_set", "limit_cleared"),
        *("end_user_blocked", "end_user_unblocked", "key_added", "key_revoked", "key_rotated"),
        *("measure_taken", "measure_lifted", "appeal_filed", "appeal_withdrawn", "appeal_upheld", "appeal_rejected"),
    }
)
BEARER_FAULTS: Final[frozenset[str]] = frozenset(get_args(BearerFault))
PROOF_FAULTS: Final[frozenset[str]] = frozenset(get_args(ProofFault))
KEY_EVENTS: Final = frozenset({"fetched", "vanished", "unreachable", "refused", "replaced", "stale", "denied"})
ENGINE_EVENTS: Final = frozenset({"failed", "answered", "lost", "kept"})
"""An engine is left alone after a failure, answers again, has lost its memory, or was restarted and has kept it."""

HEARING_EVENTS: Final = frozenset({"unheard", "heard", "silent", "listening"})
FAILED_PARTS: Final = frozenset(
    {
        *("accounts", "assertions", "bearer_keys", "documents", "entitlements", "limits", "notices", "purge", "record", "replay"),
        *("signer", "store", "terms", "usage_policy"),
    }
)
UNSEALED: Final = frozenset(
    {
        *("client_gone", "encoded", "handler_ended_early", "handler_raised", "no_body", "no_carrier", "no_response", "partial"),
        *("by_proxy", "denied", "monitor", "seal_conflict", "signer", "store", "unprojectable"),
    }
)
REASONS: Final = frozenset(
    {
        "tos_account_suspended",
        "tos_account_terminated",
        "tos_action_not_allowed",
        "tos_clause",
        "tos_conflict",
        "tos_denied",
        "tos_end_user_blocked",
        "tos_form_refused",
        "tos_idempotency_mismatch",
        "tos_key_scope",
        "tos_length_required",
        "tos_limit",
        "tos_malformed_request",
        "tos_may_not_accept",
        "tos_method_not_allowed",
        "tos_model_not_allowed",
        "tos_no_permission",
        "tos_not_found",
        "tos_reaccept",
        "tos_request",
        "tos_request_too_large",
        "tos_restricted",
        "tos_route_not_guarded",
        "tos_seal_conflict",
        "tos_terms_not_accepted",
        "tos_unauthenticated",
        "tos_unavailable",
        "tos_unknown_response",
        "tos_unsupported_media_type",
        "tos_verification_required",
        "websocket",
    }
)
"""Stable codes of refusals: `tos_guard.errors`, `tos_guard.rights` and the adapters make no others."""


ADAPTER: Final = "tos_guard.adapter"
CARRIER: Final = "tos_guard.carrier"
CHANGE: Final = "tos_guard.change"
CLASS: Final = "tos_guard.class"
CLAUSE: Final = "tos_guard.clause"
DECISION: Final = "tos_guard.decision"
ERROR_TYPE: Final = "error.type"
EVENT: Final = "tos_guard.event"
ISSUER: Final = "tos_guard.issuer"
KEY_ID: Final = "tos_guard.key.id"
KEY_PURPOSE: Final = "tos_guard.key.purpose"
LIMIT: Final = "tos_guard.limit"
METHOD: Final = "tos_guard.method"
MODE: Final = "tos_guard.mode"
OUTCOME: Final = "tos_guard.outcome"
PART: Final = "tos_guard.part"
QUANTITY: Final = "tos_guard.quantity"
REASON: Final = "tos_guard.reason"
REQUEST_ID: Final = "tos_guard.request.id"
SHADOW: Final = "tos_guard.shadow"
STANDING: Final = "tos_guard.standing"
TERMS_VERSION: Final = "tos_guard.terms.version"
WHY_UNSEALED: Final = "tos_guard.unsealed"

_SHORT: Final = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1)
"""Bounds in seconds, 10 µs to 100 ms: the defaults of the SDK begin at 5 ms, in which a whole guarded call is over many times."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """A metric.

    Attributes:
        name: As it is exported.
        kind: Which of OpenTelemetry's instruments.
        unit: UCUM, or an annotation in braces.
        description: What one unit of it says.
        attributes: Its attributes; not each is on every point.
        buckets: Advised bounds of a histogram, in its unit.
    """

    name: str
    kind: Literal["counter", "updowncounter", "histogram", "gauge"]
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


INSTRUMENTS: Final = {
    instrument.name.removeprefix(f"{SCOPE}."): instrument
    for instrument in (
        Instrument(
            "tos_guard.decisions",
            "counter",
            "{decision}",
            "Requests decided or refused before a decision",
            (DECISION, REASON, TERMS_VERSION, ADAPTER),
        ),
        Instrument(
            "tos_guard.clauses.shadowed",
            "counter",
            "{decision}",
            "Decisions in which a clause in shadow would have forbidden the request",
            (CLAUSE,),
        ),
        Instrument(
            "tos_guard.enforce.duration",
            "histogram",
            "s",
            "Time to authenticate and decide, without the wait for the request's body",
            (DECISION, ADAPTER),
            _SHORT,
        ),
        Instrument(
            "tos_guard.seal.duration",
            "histogram",
            "s",
            "Time the last bytes of a response wait for its seal: signature and record",
            (CARRIER,),
            _SHORT,
        ),
        Instrument(
            "tos_guard.record.duration",
            "histogram",
            "s",
            "Part of the seal's time in which its record becomes durable",
            (),
            _SHORT,
        ),
        Instrument(
            "tos_guard.tokens",
            "counter",
            "{response}",
            "Responses that ended, by where their final token is or why there is none",
            (OUTCOME, CARRIER, REASON),
        ),
        Instrument("tos_guard.tokens.removed", "counter", "{token}", "Tag members of an upstream that were taken out of a response"),
        Instrument("tos_guard.events.dropped", "counter", "{event}", "Events of a stream that bore content after its seal"),
        Instrument(
            "tos_guard.seals",
            "counter",
            "{seal}",
            "Seals kept for responses that may leave again, and what came of them",
            (OUTCOME,),
        ),
        Instrument(
            "tos_guard.streams.active",
            "updowncounter",
            "{stream}",
            "Responses whose head is out and whose end is not",
            (ADAPTER,),
        ),
        Instrument(
            "tos_guard.reservations",
            "counter",
            "{reservation}",
            "Reservations made, refused by a limit, and brought to an end",
            (OUTCOME, LIMIT, QUANTITY, SHADOW),
        ),
        Instrument("tos_guard.reserve.duration", "histogram", "s", "Time to reserve over all limits", (OUTCOME,), _SHORT),
        Instrument(
            "tos_guard.acceptances",
            "counter",
            "{acceptance}",
            "Acceptances of terms and their withdrawals",
            (OUTCOME, METHOD),
        ),
        Instrument(
            "tos_guard.changes",
            "counter",
            "{change}",
            "Changes of accounts through this process, and appeals",
            (CHANGE, STANDING),
        ),
        Instrument("tos_guard.bearer.refused", "counter", "{token}", "Bearer tokens of others that were not accepted", (REASON,)),
        Instrument("tos_guard.proof.refused", "counter", "{request}", "Bound credentials that came without a proof we accept", (REASON,)),
        Instrument("tos_guard.bearer.keys", "counter", "{event}", "What happened to the keys of issuers of bearer tokens", (EVENT,)),
        Instrument("tos_guard.failures", "counter", "{failure}", "Failures of a part of the guard", (PART,)),
        Instrument("tos_guard.degraded", "counter", "{use}", "Uses of a failure mode", (CLASS, MODE)),
        Instrument("tos_guard.failure_mode", "gauge", "{mode}", "1 for the failure mode that is configured for a class", (CLASS, MODE)),
        Instrument(
            "tos_guard.engine.left_alone",
            "gauge",
            "{engine}",
            "1 while the engine of a class is left alone since it failed, 0 while it is asked",
            (CLASS,),
        ),
        Instrument(
            "tos_guard.limits.doubt",
            "gauge",
            "s",
            "Time for which some limit is not known, since the engine that counts it has lost its memory",
        ),
        Instrument("tos_guard.key.expiry", "gauge", "s", "Time until a signing key ends", (KEY_ID, KEY_PURPOSE)),
        Instrument("tos_guard.bearer.keys.age", "gauge", "s", "Time since the keys of an issuer of bearer tokens were fetched", (ISSUER,)),
        Instrument("tos_guard.hearing", "counter", "{event}", "What happened to how this process hears of changes", (EVENT,)),
        Instrument("tos_guard.hearing.age", "gauge", "s", "Time for which changes elsewhere may not have been heard of in this process"),
        Instrument(
            "tos_guard.telemetry.dropped",
            "counter",
            "{item}",
            "Telemetry that was lost: a provider raised, or events came too fast",
            (REASON,),
        ),
    )
}
"""Every metric, by its name without the scope."""

EVENTS: Final = {
    "tos_guard.decision.denied": (DECISION, REASON, CLAUSE, TERMS_VERSION, ADAPTER, REQUEST_ID),
    "tos_guard.token.unsealed": (REASON, ADAPTER, REQUEST_ID),
    "tos_guard.part.failed": (PART, ERROR_TYPE),
    "tos_guard.failure_mode.used": (CLASS, MODE),
    "tos_guard.engine.changed": (CLASS, EVENT),
    "tos_guard.hearing.changed": (EVENT,),
    "tos_guard.terms.published": (TERMS_VERSION,),
    "tos_guard.account.changed": (CHANGE, STANDING),
}
"""Every event (a log record with this ``event_name``) and its attributes."""

SPANS: Final = {
    "tos_guard.enforce": (DECISION, REASON),
    "tos_guard.seal": (CARRIER,),
}
"""Every span of ours, both INTERNAL, and its attributes."""

ON_THE_SERVERS_SPAN: Final = (DECISION, REASON, CLAUSE, TERMS_VERSION, ADAPTER, REQUEST_ID, OUTCOME, CARRIER, WHY_UNSEALED)
"""What the span that the server opened is told."""
