"""Who asks for what, under which terms: the values of one exchange, its claims, its record and the header fields it adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tos_guard._canonical import b64url_encode
from tos_guard.dialects import Dialect, RequestFacts
from tos_guard.errors import PolicyStop
from tos_guard.exchange._limit_fields import fields_size, limit_fields
from tos_guard.ledger import ExchangeRecord, KeptSeal, RecordType
from tos_guard.limits import Amounts, LimitRefusal, LimitState, Reservation
from tos_guard.limits import Usage as UsedTokens
from tos_guard.policy import UsagePolicy
from tos_guard.provenance import Claims, Content, Terms, Usage, request_mac
from tos_guard.rights import Plan
from tos_guard.types import UNDECLARED, Completion, Decision, Facts, Stage, Standing

__all__ = ["Exchange", "ExchangeIds", "Head", "Headers", "Sealed", "TermsInForce"]

MAX_ADDED_BYTES: Final = 2_180  # of 2,300, less what a tagged body's length and digest take
_ONE_REQUEST: Final = Amounts()

Headers = list[tuple[bytes, bytes]]
"""Header fields in order; names in lower case."""


@dataclass(frozen=True, slots=True)
class ExchangeIds:
    """The fresh values of one exchange, all drawn before it is decided.

    Attributes:
        rid: Request id.
        jti: Id of the final token.
        pending_jti: Id of the pending token.
        sub: Pseudonym of the account in both.
        salt: 32 bytes that bind the request; only the caller receives them. Empty where only the caller has them.
    """

    rid: str
    jti: str
    pending_jti: str
    sub: str
    salt: bytes

    @classmethod
    def fresh(cls, entropy: Callable[[int], bytes], *, sub: str | None = None, salt: bytes | None = None) -> ExchangeIds:
        """Draw new ids: 128 random bits each, 256 for the salt unless it is given, in one call."""
        drawn = entropy(96)
        names = [b64url_encode(drawn[start : start + 16]) for start in (0, 16, 32, 48)]
        return cls(rid=f"req_{names[0]}", jti=names[1], pending_jti=names[2], sub=sub or names[3], salt=salt or drawn[64:])


@dataclass(frozen=True, slots=True)
class TermsInForce:
    """What a plan says about its terms and the use of the output, ready for the token."""

    terms: Terms
    usage: Usage
    grant: str | None = None
    also: tuple[str, ...] = ()
    """Versions of further documents in force: contracts, supplements."""

    @classmethod
    def of(
        cls,
        *,
        uri: str,
        version: str,
        sha256: str,
        policy: UsagePolicy,
        grant: str | None,
        receipt: str | None = None,
        also: tuple[str, ...] = (),
    ) -> TermsInForce:
        """From the parts of a plan."""
        terms = Terms(uri, version, sha256, receipt)
        return cls(terms, Usage(policy.sha256, tuple(policy.clauses), policy.content_usage), grant, also)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A final token and the content it covers, which knows whether its leaves stand beside it.

    Attributes:
        token: The token.
        content: What it covers.
        pending: The response has not ended: it is a pending token, and covers nothing.
    """

    token: str
    content: Content
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """Status and header fields to send."""

    status: int
    headers: Headers


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One authenticated exchange, from its decision to its record.

    Attributes:
        issuer: Origin that signs.
        ids: Fresh ids.
        account_id: Who asks; never in a token, and in the record only as the link kept apart.
        account_version: Version of the account under which it was decided.
        started: When the request came.
        dialect: What the request and response mean.
        request: What the request asks for.
        facts: What was decided on.
        decision: The decision.
        in_force: Terms and usage policy.
        plan: What decides.
        request_body: Body of the request as received.
        nonce: Chosen by the caller, or None.
        standing_url: Where the account sees where it stands, or None where nobody said.
        monitored: Nothing is refused: a denial is recorded, and the handler runs all the same.
        reservation: What was reserved of the account's limits, or None.
        limit_refusal: The limit that refused, where one did.
        estimate: The most that the request could take.
        reported: What the host says that the response took, or None.
        answered: The last of the response is on its way: what the handler asks for from now on changes nothing of it.
        settled: What was reserved has been settled.
        messages: How many messages of a request stream have been charged beside the call.
        further: What they reserved, with the most that each could take.
        slot: What was reserved of concurrency, where it ends before the rest: a response that runs in the background holds no slot once
            its head is out.
        key: The caller's ``Idempotency-Key``, hashed, or None.
        request_hash: Keyed hash of the request, where a retry is compared with it.
        kept: The seal that the response may leave with again, or None.
        original: The exchange of that seal.
        repeats: What leaves is the original's: its ids, its terms, its token.
        uncharged: What was reserved is given back: the same response has been charged before.
        recording: Whose final record is on its way to the store: this one's, or the original's. None once it is known what came of it.
        checkpoint_seconds: How often a stream of it gets a checkpoint at least, as far as it has content then; None for never.
        checkpoint_events: After how many events with content it gets one; None for never.
        checkpoints: How many tokens of checkpoints have been made.
        stopped: Why the host has said that the response must end, or None.
        observed: What telemetry knows of it; nothing here looks at it.
    """

    issuer: str
    ids: ExchangeIds
    account_id: str
    account_version: int
    started: datetime
    dialect: Dialect
    request: RequestFacts
    facts: Facts
    decision: Decision
    in_force: TermsInForce
    plan: Plan
    request_body: bytes
    nonce: str | None = None
    standing_url: str | None = None
    monitored: bool = False
    reservation: Reservation | None = None
    limit_refusal: LimitRefusal | None = None
    estimate: Amounts = _ONE_REQUEST
    reported: UsedTokens | None = None
    answered: bool = False
    settled: bool = False
    messages: int = 0
    further: list[tuple[Reservation, Amounts]] = field(default_factory=list)
    slot: Reservation | None = None
    key: str | None = None
    request_hash: str | None = None
    kept: KeptSeal | None = None
    original: Exchange | None = None
    repeats: bool = False
    uncharged: bool = False
    recording: Exchange | None = field(default=None, compare=False, repr=False)
    checkpoint_seconds: float | None = None
    checkpoint_events: int | None = None
    checkpoints: int = 0
    stopped: PolicyStop | None = None
    observed: Any = None
    req: str = field(init=False)

    def __post_init__(self) -> None:
        self.req = request_mac(self.ids.salt, self.request_body)

    @property
    def is_refused(self) -> bool:
        """Whether the handler must not run."""
        return not (self.decision.allowed or self.monitored)

    @property
    def shown(self) -> Exchange:
        """Whose ids and terms the caller reads."""
        return self.original if self.repeats and self.original is not None else self

    @property
    def limit_states(self) -> tuple[LimitState, ...]:
        """How far the account's limits are used, with this exchange."""
        told = self.reservation or self.limit_refusal
        return told.states if told is not None else ()

    def pending_claims(self, now: datetime) -> Claims:
        """Claims of the token that goes out before the content is known."""
        return self._claims(now, self.ids.pending_jti, Stage.PENDING, None, None)

    def checkpoint_claims(self, now: datetime, content: Content) -> Claims:
        """Claims of the next token over the content so far."""
        self.checkpoints += 1
        return self._claims(now, f"{self.ids.jti}.{self.checkpoints}", Stage.CHECKPOINT, content, None)

    def final_claims(self, now: datetime, content: Content, completion: Completion) -> Claims:
        """Claims of the token over the whole content."""
        return self._claims(now, self.ids.jti, Stage.FINAL, content, completion)

    def _claims(self, now: datetime, jti: str, stage: Stage, content: Content | None, completion: Completion | None) -> Claims:
        return Claims(
            iss=self.issuer,
            iat=int(now.timestamp()),
            jti=jti,
            rid=self.ids.rid,
            sub=self.ids.sub,
            stage=stage,
            model=self.facts.model,
            terms=self.in_force.terms,
            usage=self.in_force.usage,
            req=self.req,
            content=content,
            completion=completion,
            nonce=self.nonce,
            grant=self.in_force.grant,
        )

    def record(
        self,
        *,
        now: datetime,
        status: int,
        content: Content | None = None,
        completion: Completion | None = None,
        kid: str | None = None,
        carrier: str = "none",
        unsealed: str | None = None,
    ) -> ExchangeRecord:
        """What is kept of the exchange (docs/spec/records.md)."""
        sealed = kid is not None
        return ExchangeRecord(
            type=RecordType.DENIAL if self.is_refused else RecordType.EXCHANGE,
            issuer=self.issuer,
            rid=self.ids.rid,
            sub=self.ids.sub,
            started=_milliseconds(self.started),
            finished=_milliseconds(now),
            status=status,
            action=self.facts.action,
            model=self.facts.model,
            purpose=self.facts.purpose,
            decision=self.decision.outcome.value,
            reasons=tuple(reason.word for reason in self.decision.reasons),
            terms_version=self.in_force.terms.version,
            terms_sha256=self.in_force.terms.sha256,
            usage_sha256=self.in_force.usage.sha256,
            grant=self.in_force.grant,
            jti=self.ids.jti if sealed else None,
            kid=kid,
            proj=content.projection if content else None,
            n=content.count if content else None,
            root=content.root if content else None,
            completion=completion.value if completion else None,
            req=self.req,
            carrier=carrier,
            unsealed=unsealed,
            account_id=self.account_id,
            **self._circumstances(),
        )

    def _circumstances(self) -> dict[str, Any]:
        """What `explain` needs to decide the same again."""
        facts = self.facts
        return {
            "region": facts.region,
            "verification": facts.verification,
            "channel": facts.channel,
            "end_user": None if facts.end_user == UNDECLARED else facts.end_user,
            "account_version": self.account_version,
            "terms_also": self.in_force.also,
            "receipt": self.in_force.terms.receipt,
            "mode": "monitor" if self.monitored else "enforce",
        }

    def headers(self, token: str | None, *, early: bool = False) -> Headers:
        """The fields we add: the token, what it says in standard words, and the ids it is bound to.

        Args:
            token: The token that is known by now.
            early: Whether a final token may still follow, which only the salt in this head can check.
        """
        ids, in_force = self.shown.ids, self.shown.in_force
        rid = ids.rid.encode("ascii")
        fields: Headers = [
            (b"link", f'<{in_force.terms.uri}>; rel="terms-of-service"{self._notice}'.encode("ascii")),
            (b"x-request-id", rid),
            (b"request-id", rid),
        ]
        if in_force.usage.content_usage:
            fields.append((b"content-usage", in_force.usage.content_usage.encode("ascii")))
        if token is not None:
            fields.append((b"ai-provenance", token.encode("ascii")))
        if ids.salt and (token is not None or early):
            fields.append((b"ai-provenance-salt", b64url_encode(ids.salt).encode("ascii")))
        if self.limit_states:
            room = MAX_ADDED_BYTES - fields_size(fields)
            told = limit_fields(self.limit_states, room=room)
            fields += told
            self._add_fields_of_dialect(fields, room - fields_size(told))
        return fields

    @property
    def _notice(self) -> str:
        """A link (RFC 8288) to where the account stands, with the step, where that is not good: whoever is only warned reads no refusal."""
        step = self.plan.standing.step
        if self.standing_url is None or step is Standing.GOOD:
            return ""
        return f', <{self.standing_url}>; rel="status"; title="{step}"'

    def _add_fields_of_dialect(self, fields: Headers, room: int) -> None:
        """Tell limits as the dialect's clients read them: of each quantity all fields or none, for so many as fit in *room* bytes."""
        states = self.limit_states
        for quantity in dict.fromkeys([state.limit.quantity for state in states]):
            told = self.dialect.limit_fields([state for state in states if state.limit.quantity is quantity], now=self.started)
            if (size := fields_size(told)) <= room:
                fields += told
                room -= size


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
