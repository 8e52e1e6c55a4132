"""What a call that is not served is told: a status, and details that programs can read (docs/guides/grpc.md).

- One table maps the codes of our errors to those of gRPC.
- ``grpc-status-details-bin`` holds a ``google.rpc.Status`` with an ``ErrorInfo`` (reason: our stable code, domain: the issuer), for limits
  a ``RetryInfo``, and a ``Help`` with the addresses of the terms and of whoever can be asked.
- ``grpc-retry-pushback-ms`` of -1 tells clients that retry by themselves not to, where asking again cannot help.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from tos_guard.errors import DeniedError, LimitExceededError, PolicyStop, ProofError, RequestError, TosGuardError
from tos_guard.exchange import Exchange, limit_fields
from tos_guard.guard import GuardSteps, challenge, denial_members, may_retry

__all__ = ["HTTP_STATUS", "Metadata", "Refusal", "refusal_of"]

Metadata = tuple[tuple[str, str | bytes], ...]
"""Metadata in order; names in lower case, values bytes where the name ends in ``-bin``."""

DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
MAX_DETAILS_BYTES: Final = 3_072  # of 8 KiB that gRPC takes of all trailing metadata; base64 makes a third more of them
MAX_MESSAGE_CHARS: Final = 1_024
MAX_MESSAGE_BYTES: Final = 3_072  # on the wire, where a character may become nine or twelve: with the details it must fit in those 8 KiB
NO_RETRY: Final = "-1"

_BY_REASON: Final[Mapping[str, grpc.StatusCode]] = {
    "tos_terms_not_accepted": grpc.StatusCode.FAILED_PRECONDITION,
    "tos_reaccept": grpc.StatusCode.FAILED_PRECONDITION,
    "tos_verification_required": grpc.StatusCode.FAILED_PRECONDITION,
    "tos_route_not_guarded": grpc.StatusCode.UNIMPLEMENTED,
}
_BY_HTTP_STATUS: Final[Mapping[int, grpc.StatusCode]] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself says of a message that is too large
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}

HTTP_STATUS: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}
"""What records write for a status (google.rpc.Code); 500 for any other."""


class Refusal(NamedTuple):
    """How a call ends that goes no further.

    Attributes:
        code: Its status.
        message: For people.
        metadata: Trailing metadata of ours.
    """

    code: grpc.StatusCode
    message: str
    metadata: Metadata


def refusal_of(error: TosGuardError, guard: GuardSteps, exchange: Exchange | None) -> Refusal:
    """The status and details of an error.

    Args:
        error: Why the call is not served, or goes no further.
        guard: The guard, which knows issuer, terms and where to appeal.
        exchange: The exchange, where there is one.
    """
    reason = error.reason if isinstance(error, (DeniedError, PolicyStop)) else error.code
    code = _code_of(error, reason)
    message = _for_people(str(error))
    rid, terms_url = guard.named_in_refusals(exchange)
    details = _details(error, guard, reason=reason, rid=rid, terms_url=terms_url)
    status = status_pb2.Status(code=code.value[0], message=message, details=details).SerializeToString()
    if len(status) > MAX_DETAILS_BYTES:  # the members of a denial may be long: what everyone needs stays
        few = error_details_pb2.ErrorInfo(reason=reason, domain=guard.settings.issuer, metadata={"request_id": rid})
        status = status_pb2.Status(code=code.value[0], message=message, details=[_packed(few)]).SerializeToString()
    metadata: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status), ("x-request-id", rid)]
    if (pushback := _pushback(error)) is not None:
        metadata.append((PUSHBACK_KEY, pushback))
    if isinstance(error, ProofError):
        metadata += [(name.decode("ascii"), value.decode("ascii")) for name, value in challenge(error)]
    if exchange is not None:
        metadata += [(name.decode("ascii"), value.decode("ascii")) for name, value in limit_fields(exchange.limit_states)]
    return Refusal(code, message, tuple(metadata))


def _code_of(error: TosGuardError, reason: str) -> grpc.StatusCode:
    if reason in _BY_REASON:
        return _BY_REASON[reason]
    if isinstance(error, PolicyStop):
        return grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, RequestError):
        return _BY_HTTP_STATUS.get(error.status, grpc.StatusCode.UNKNOWN)
    return grpc.StatusCode.INTERNAL


def _for_people(message: str) -> str:
    """What a status can carry: text that has UTF-8, and not without end."""
    text = message[:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode("utf-8")
    size = 0
    for position, character in enumerate(text):
        size += 1 if character.isascii() and character.isprintable() and character != "%" else 3 * len(character.encode("utf-8"))
        if size > MAX_MESSAGE_BYTES:
            return text[:position]
    return text


def _pushback(error: TosGuardError) -> str | None:
    """Milliseconds after which a client may retry by itself; None to leave that to it."""
    if not isinstance(error, RequestError) or not may_retry(error):
        return NO_RETRY
    if isinstance(error, LimitExceededError) and error.retry_after is not None:
        return str(math.ceil(error.retry_after * 1_000))
    return None


def _details(error: TosGuardError, guard: GuardSteps, *, reason: str, rid: str, terms_url: str) -> list[AnyMessage]:
    members: dict[str, Any] = {"request_id": rid, "terms_url": terms_url}
    if isinstance(error, DeniedError):
        members |= denial_members(error)
    if isinstance(error, PolicyStop):
        members["clause"] = error.clause
    appeal_url = guard.appeal_url
    if appeal_url is not None and isinstance(error, RequestError) and error.status == 403:
        members["appeal_url"] = appeal_url
    info = error_details_pb2.ErrorInfo(
        reason=reason, domain=guard.settings.issuer, metadata={name: _text(value) for name, value in members.items()}
    )
    details = [_packed(info)]
    if isinstance(error, LimitExceededError) and error.retry_after is not None:
        seconds = math.ceil(error.retry_after)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds))))
    named = (("Terms of service", "terms_url"), ("Accept the terms", "accept_url"), ("Appeal", "appeal_url"))
    links = [
        error_details_pb2.Help.Link(description=what, url=url) for what, name in named if isinstance(url := members.get(name), str) and url
    ]
    details.append(_packed(error_details_pb2.Help(links=links)))
    return details


def _text(value: Any) -> str:
    """A member as the map of an ``ErrorInfo`` takes it: text as it is, anything else as JSON."""
    return _for_people(value) if isinstance(value, str) else json.dumps(value)


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
