"""What happens, and what must come of it: once, for every door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from scenarios.world import World
from tos_guard.rights import Measure
from tos_guard.types import Standing

__all__ = ["CASES", "STATUSES", "Case", "Does", "Outcome", "Record"]


STATUSES = {
    "tos_unauthenticated": (401, "UNAUTHENTICATED"),
    "tos_account_suspended": (403, "PERMISSION_DENIED"),
    "tos_model_not_allowed": (403, "PERMISSION_DENIED"),
    "tos_terms_not_accepted": (403, "FAILED_PRECONDITION"),
    "tos_limit": (429, "RESOURCE_EXHAUSTED"),
    "tos_request_too_large": (413, "RESOURCE_EXHAUSTED"),
    "tos_unavailable": (503, "UNAVAILABLE"),
}
"""The status of a refusal over HTTP and over gRPC, by its code."""


class Does(Enum):
    """What the handler does."""

    ANSWER = "answers"
    STREAM = "streams"
    RAISE = "raises before it answers"
    BREAK = "raises in the middle of a stream"
    LINGER = "streams until the client has left"


class Record(NamedTuple):
    """What is kept of it, less what is fresh in every exchange, and less how the token travelled."""

    type: str
    decision: str
    reasons: tuple[str, ...] = ()
    completion: str | None = "complete"
    unsealed: str | None = None
    mode: str = "enforce"


class Outcome(NamedTuple):
    """What the client holds in the end, and what the provider has kept.

    Attributes:
        verdict: ``served``, ``refused``, ``failed`` (the handler did) or ``left`` (the client did).
        code: Code of a refusal, or empty.
        token: Completion of the final token that the client holds, or empty.
        record: What was kept, or None for nothing.
    """

    verdict: str
    code: str = ""
    token: str = ""
    record: Record | None = None


@dataclass(frozen=True)
class Case:
    """One scenario.

    Attributes:
        name: Its name in the table.
        expected: What must come of it.
        prepare: Changes the world before the request.
        does: What the handler does.
        key: Which key is sent: ``good``, ``unknown``, or None for none.
        body: ``normal``, ``big`` (over the limit of 2,048 bytes) or ``empty``.
        settings: Settings of the guard.
        limits: The requests in an hour that the account may make, or None for no limit.
        required: The terms are to be accepted.
        before: So many requests are served first.
    """

    name: str
    expected: Outcome
    prepare: Callable[[World], None] = lambda world: None
    does: Does = Does.ANSWER
    key: str | None = "good"
    body: str = "normal"
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    limits: int | None = None
    required: bool = False
    before: int = 0


SERVED = Outcome("served", token="complete", record=Record("exchange", "allow", ("tos_clause:serve",)))
UNTAGGED = Outcome("served")


def refused(code: str, *reasons: str) -> Outcome:
    """Refused and recorded."""
    return Outcome("refused", code, record=Record("denial", "deny", reasons, None))


def turned_away(code: str) -> Outcome:
    """Refused before there was anything to record: it is counted."""
    return Outcome("refused", code)


def _no_rights(world: World) -> None:
    world.kit.change(models=frozenset({"other"}))


def _measure(step: Standing, **members: Any) -> Callable[[World], None]:
    def taken(world: World) -> None:
        measure = Measure(id="m-1", step=step, reason="copied outputs", begins=world.kit.clock(), **members)
        world.kit.store.take_measure("acme", measure)

    return taken


def _accepted_once(world: World) -> None:
    world.accept(for_days=1)
    world.kit.clock.advance(timedelta(days=2))


def _accounts_down(world: World) -> None:
    world.accounts.is_down = True


def _records_down(world: World) -> None:
    world.kit.store.fault = "before"


def _signer_down(world: World) -> None:
    world.kit.signer.failing = True


def _limits_down(world: World) -> None:
    world.limits_down = True


def _failing(**modes: Any) -> Mapping[str, Any]:
    return MappingProxyType({"failure": modes})


CASES: tuple[Case, ...] = (
    Case("allowed", SERVED),
    Case("denied: no right to the model", refused("tos_model_not_allowed", "tos_model_not_allowed"), prepare=_no_rights),
    Case("terms not accepted", refused("tos_terms_not_accepted", "tos_terms_not_accepted:1"), required=True),
    Case("acceptance expired", refused("tos_terms_not_accepted", "tos_terms_not_accepted:1"), prepare=_accepted_once, required=True),
    Case("suspended", refused("tos_account_suspended", "tos_account_suspended:m-1"), prepare=_measure(Standing.SUSPENDED)),
    Case("warned", SERVED, prepare=_measure(Standing.WARNED)),
    Case("unknown key", turned_away("tos_unauthenticated"), key="unknown"),
    Case("no key", turned_away("tos_unauthenticated"), key=None),
    Case("over a limit", refused("tos_limit", "tos_limit:requests"), limits=1, before=1),
    Case("body too large", turned_away("tos_request_too_large"), body="big"),
    Case("empty body", SERVED, body="empty"),
    Case("stream", SERVED, does=Does.STREAM),
    Case(
        "client leaves",
        Outcome("left", record=Record("exchange", "allow", ("tos_clause:serve",), "aborted", "client_gone")),
        does=Does.LINGER,
    ),
    Case(
        "handler raises before it answers",
        Outcome("failed", token="error", record=Record("exchange", "allow", ("tos_clause:serve",), "error")),
        does=Does.RAISE,
    ),
    Case(
        "handler raises in a stream",
        Outcome("failed", token="error", record=Record("exchange", "allow", ("tos_clause:serve",), "error")),
        does=Does.BREAK,
    ),
    Case("accounts down, deny", turned_away("tos_unavailable"), prepare=_accounts_down),
    Case("accounts down, local", SERVED, prepare=_accounts_down, settings=_failing(accounts="local"), before=1),
    Case("limits down, deny", turned_away("tos_unavailable"), prepare=_limits_down, limits=5),
    Case("limits down, allow", SERVED, prepare=_limits_down, limits=5, settings=_failing(limits="allow")),
    Case("limits down, local", SERVED, prepare=_limits_down, limits=50, settings=_failing(limits="local")),
    Case("records down, deny", turned_away("tos_unavailable"), prepare=_records_down),
    Case("records down, allow", UNTAGGED, prepare=_records_down, settings=_failing(records="allow")),
    Case(
        "signer down, deny",
        Outcome("refused", "tos_unavailable", record=Record("exchange", "allow", ("tos_clause:serve",), None, "signer")),
        prepare=_signer_down,
    ),
    Case(
        "signer down, allow",
        Outcome("served", record=Record("exchange", "allow", ("tos_clause:serve",), None, "signer")),
        prepare=_signer_down,
        settings=_failing(signer="allow"),
    ),
    Case(
        "monitor mode, denied",
        Outcome("served", token="complete", record=Record("exchange", "deny", ("tos_model_not_allowed",), mode="monitor")),
        prepare=_no_rights,
        settings=MappingProxyType({"mode": "monitor"}),
    ),
    Case("monitor mode, unknown key", UNTAGGED, key="unknown", settings=MappingProxyType({"mode": "monitor"})),
)
"""The list. Settings of `_failing` name failure modes; all others deny."""
