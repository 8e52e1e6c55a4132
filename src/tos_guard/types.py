"""Plain values that more than one room uses: what is known of a request, what was decided, who signs for what.

Everything here is frozen, compares by value, and needs only the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

__all__ = [
    "UNDECLARED",
    "AcceptanceMethod",
    "Completion",
    "Decision",
    "Facts",
    "Identification",
    "KeyPurpose",
    "Outcome",
    "Reason",
    "Stage",
    "Standing",
    "SubjectKind",
]

UNDECLARED: Final = "undeclared"
"""The known value of anything a caller may declare and has not (DESIGN D2): whoever can omit can lie."""


class Stage(StrEnum):
    """How much a token knows of its response."""

    PENDING = "pending"
    """Nothing yet."""
    CHECKPOINT = "checkpoint"
    """What came so far."""
    FINAL = "final"
    """All of it."""


class Completion(StrEnum):
    """How a response ended, as its final token says."""

    COMPLETE = "complete"
    POLICY = "policy"
    ABORTED = "aborted"
    ERROR = "error"


class KeyPurpose(StrEnum):
    """What a key signs. One key has one purpose (DESIGN D16)."""

    PROVENANCE = "provenance"
    KEY_HISTORY = "key-history"
    RECEIPT = "receipt"


class SubjectKind(StrEnum):
    """For whom terms are accepted."""

    ACCOUNT = "account"
    ORGANIZATION = "organization"


class AcceptanceMethod(StrEnum):
    """How an acceptance or withdrawal reached the provider."""

    CLI = "cli"
    ACCOUNT_ROUTE = "account-route"
    IMPORT = "import"


class Identification(StrEnum):
    """How it is known who the person was that accepted or withdrew."""

    ADMINISTRATOR = "administrator"
    """The provider's own people say so."""
    HOST = "host"
    """The provider's backend had authenticated the person."""
    BEARER = "bearer"
    """A bearer token of an identity provider names the person."""
    DECLARED = "declared"
    """The person's own word, behind the account's credential."""


class Standing(StrEnum):
    """Where an account stands (DESIGN §3), from best to worst."""

    GOOD = "good"
    NOTICED = "noticed"
    WARNED = "warned"
    THROTTLED = "throttled"
    RESTRICTED = "restricted"
    SUSPENDED = "suspended"
    TERMINATED = "terminated"


class Outcome(StrEnum):
    """The answer of a decision."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one request when it is decided.

    ``None`` means *unknown*: the provider asserts this fact and its source could not say (DESIGN D2). What the caller may declare
    is never unknown; undeclared, it has the value `UNDECLARED`.

    Attributes:
        action: What is asked for, an action name of the terms, for example ``generate``.
        model: Model the request names.
        purpose: Purpose the caller declared, or `UNDECLARED`.
        region: ISO 3166-1 alpha-2 code the provider asserts, or None.
        verification: Level to which the provider has verified the account (``none``, ``email``, ``organization``, …), or None.
        channel: ``api``, ``batch``, ``realtime``, … : how the request came.
        end_user: Keyed hash of the end user whom the account serves with this request, or `UNDECLARED`.
    """

    action: str
    model: str
    purpose: str = UNDECLARED
    region: str | None = None
    verification: str | None = None
    channel: str = "api"
    end_user: str = UNDECLARED


@dataclass(frozen=True, slots=True)
class Reason:
    """One clause, or one limit of the account, that took part in a decision.

    Attributes:
        code: Stable machine code: ``tos_clause``, ``tos_model_not_allowed``, ``tos_action_not_allowed``, ``tos_account_suspended``,
            ``tos_account_terminated``, ``tos_restricted``, ``tos_reaccept``, ``tos_verification_required``, ``tos_terms_not_accepted``,
            ``tos_end_user_blocked``, ``tos_key_scope``, ``tos_limit``, ``tos_no_permission``, …
        clause: Id of the clause (``tos_clause``), of the limit (``tos_limit``) or version of the terms (``tos_terms_not_accepted``), or
            of the measure because of whose step it is refused; None where the account's own rights or standing decided.
        unknown: Names of the facts whose being unknown made the clause count.
        shadow: The clause only reports; it did not decide.
    """

    code: str
    clause: str | None = None
    unknown: tuple[str, ...] = ()
    shadow: bool = False

    @property
    def word(self) -> str:
        """As records write it: the code, what it names after a colon, and ``shadow:`` before one that did not decide."""
        named = self.code if self.clause is None else f"{self.code}:{self.clause}"
        return f"shadow:{named}" if self.shadow else named


@dataclass(frozen=True, slots=True)
class Decision:
    """Allow or deny, with every reason.

    Attributes:
        outcome: Allow or deny.
        reasons: On a denial, what forbade it; on permission, the permitting clause first. Shadowed clauses follow, marked.
        duties: What the response must carry (``seal``, …).
        grants: Ids of the grants that made the difference.
    """

    outcome: Outcome
    reasons: tuple[Reason, ...] = ()
    duties: tuple[str, ...] = ()
    grants: tuple[str, ...] = field(default=())

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.outcome is Outcome.ALLOW

    @property
    def clauses(self) -> tuple[str, ...]:
        """Ids of the clauses that decided, without the shadowed ones."""
        return tuple(r.clause for r in self.reasons if r.clause is not None and not r.shadow)
