"""The shell around one exchange: who asks, under which plan, what is recorded, what is signed (DESIGN §5, D1).

Each step that needs the outside is a generator that yields what it needs (`FindHolder`, `Reserve`, `Sign`, `Keep`, …). `Guard` and
`AsyncGuard` differ only in how they serve these. An adapter calls, in this order:

    caller   = run(guard.authenticate(view))          AuthenticationError → guard.refuse
    exchange = run(guard.admit(caller, view, route, body))
    run(guard.keep_denial(exchange))                  where it is refused → guard.refuse
    token    = run(guard.pending(exchange))           where the head goes out early
    sealed   = run(guard.seal(exchange, response, …)) when a step says seal: signed, recorded, then given out
    run(guard.close(exchange, response, …))           in any case, once, in the end

Beside exchanges, accounts ask about themselves and accept terms (`accept`, `withdraw`, `binding`, `limit_uses`, …), and administrators
record what was accepted elsewhere (`authenticate_admin`, `record_acceptance`, …).
"""

from tos_guard.guard._accepting import Person, Subject
from tos_guard.guard._base import Acceptor, AdminAuthorizer, Assertions, Identifier, utc_now
from tos_guard.guard._batch import MAX_BATCH_LINES, Batch, BatchLine
from tos_guard.guard._colours import AsyncGuard, Guard
from tos_guard.guard._entitlements import EntitlementSource, EntitlementSync, Pulled, SourceState
from tos_guard.guard._explaining import ExplainedRequest, explain_moment, explain_request
from tos_guard.guard._keeping import IdempotencyMismatchError, SealConflictError, UnknownResponseError
from tos_guard.guard._limit_settings import limits_of, meter_of
from tos_guard.guard._meter import Estimator, Meter, ModelFacts
from tos_guard.guard._needs import Admission, Ask, Caller, Connection, RequestView, Route, Steps
from tos_guard.guard._notices import NoticeReceiver, NoticeSender, webhook_secrets
from tos_guard.guard._proving import der_of
from tos_guard.guard._refusals import challenge, denial_members, may_retry, unavailable
from tos_guard.guard._reporting import LimitUse, PolicyFor
from tos_guard.guard._standing_settings import ladder_of
from tos_guard.guard._steps import GuardSteps

__all__ = [
    "MAX_BATCH_LINES",
    "Acceptor",
    "AdminAuthorizer",
    "Admission",
    "Ask",
    "Assertions",
    "AsyncGuard",
    "Batch",
    "BatchLine",
    "Caller",
    "Connection",
    "EntitlementSource",
    "EntitlementSync",
    "Estimator",
    "ExplainedRequest",
    "Guard",
    "GuardSteps",
    "IdempotencyMismatchError",
    "Identifier",
    "LimitUse",
    "Meter",
    "ModelFacts",
    "NoticeReceiver",
    "NoticeSender",
    "Person",
    "PolicyFor",
    "Pulled",
    "RequestView",
    "Route",
    "SealConflictError",
    "SourceState",
    "Steps",
    "Subject",
    "UnknownResponseError",
    "challenge",
    "denial_members",
    "der_of",
    "explain_moment",
    "explain_request",
    "ladder_of",
    "limits_of",
    "may_retry",
    "meter_of",
    "unavailable",
    "utc_now",
    "webhook_secrets",
]
