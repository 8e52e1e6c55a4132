"""What an account was allowed at a past moment, read back from the store (docs/adr/0007, "Explain").

Every version of accounts and organizations is kept with its time, terms with the time of their publication, and acceptances are never
changed, so that the state of any moment can be put together again and decided on with the same code. What the steps of standing did then is
not kept: it is taken to be what they do now.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tos_guard.errors import AccountError
from tos_guard.ledger import ExchangeRecord
from tos_guard.rights import DEFAULT_LADDER, Explanation, Ladder, explain
from tos_guard.terms import TermsShelf, terms_from_document
from tos_guard.types import UNDECLARED, Facts

if TYPE_CHECKING:
    from tos_guard.stores import Store

__all__ = ["ExplainedRequest", "explain_moment", "explain_request"]


@dataclass(frozen=True, slots=True)
class ExplainedRequest:
    """A recorded exchange, and its decision made once more.

    Attributes:
        record: What was recorded.
        explanation: What the account's state of that moment says.
    """

    record: ExchangeRecord
    explanation: Explanation

    @property
    def refused_by_limit(self) -> str | None:
        """Id of the limit that refused it, or None. Whether it had room is not decided again: counters are not history."""
        found = (word.removeprefix(_LIMIT) for word in self.record.reasons if word.startswith(_LIMIT))
        return next(found, None)

    @property
    def refused_by_key(self) -> bool:
        """Whether the API key was for less than the account. It is not decided again: which key it was is not recorded."""
        return _KEY in self.record.reasons

    @property
    def agrees(self) -> bool:
        """Whether the decision made once more is the recorded one, reason for reason."""
        recorded = tuple(word for word in self.record.reasons if not word.removeprefix("shadow:").startswith(_LIMIT))
        decision = self.explanation.decision
        if self.refused_by_limit is not None or self.refused_by_key:
            return decision.allowed and self._names_the_same_terms()
        words = tuple(reason.word for reason in decision.reasons)
        return self.record.decision == decision.outcome.value and recorded == words and self._names_the_same_terms()

    def _names_the_same_terms(self) -> bool:
        versions = tuple(terms.version for terms in self.explanation.documents)
        return versions == (self.record.terms_version, *self.record.terms_also)


_LIMIT: Final = "tos_limit:"
_KEY: Final = "tos_key_scope"


def explain_request(store: Store, request_id: str, *, ladder: Ladder = DEFAULT_LADDER) -> ExplainedRequest:
    """Why a recorded request was decided as it was; *ladder* is what the steps of standing do (`ladder_of` the settings).

    Raises:
        AccountError: There is no such record, it names no account any more, or the account's state of that time is not kept.
        StoreError: The store failed.
    """
    where = f"request {request_id[:80]}"
    record = store.by_request_id(store.issuer, request_id)
    if record is None:
        raise AccountError("no record of it", where=where, cure="It may be older than records are kept, or of another issuer.")
    if record.account_id is None:
        raise AccountError("its account was erased, so nothing says whose rights decided it", where=where)
    if record.account_version is None:
        raise AccountError("it was recorded before versions of accounts were kept", where=where)
    account = store.account_version(record.account_id, record.account_version)
    if account is None:
        raise AccountError(
            f"version {record.account_version} of account {record.account_id} is not kept here",
            where=where,
            cure="Where the host keeps its own accounts, ask it for that version.",
        )
    at = datetime.fromtimestamp(record.started / 1000, UTC)
    facts = Facts(
        action=record.action,
        model=record.model,
        purpose=record.purpose,
        region=record.region,
        verification=record.verification,
        channel=record.channel,
        end_user=record.end_user or UNDECLARED,
    )
    return ExplainedRequest(record, explain(store.rights_at(account, at), _shelf(store, at), facts, at=at, ladder=ladder))


def explain_moment(store: Store, account_id: str, facts: Facts, at: datetime, *, ladder: Ladder = DEFAULT_LADDER) -> Explanation:
    """What an account was allowed at a moment; *ladder* as of `explain_request`.

    Raises:
        AccountError: There is no such account, or there was none then.
        StoreError: The store failed.
    """
    account = store.account_at(account_id, at)
    if account is None:
        raise AccountError(f"it did not exist at {at.isoformat()}", where=f"account {account_id[:80]}")
    return explain(store.rights_at(account, at), _shelf(store, at), facts, at=at, ladder=ladder)


def _shelf(store: Store, at: datetime) -> TermsShelf:
    versions = [terms_from_document(stored.document, stored.text) for stored in store.terms_versions() if stored.published <= at]
    if not any(terms.series == "general" for terms in versions):
        raise AccountError(f"no terms were published by {at.isoformat()}", where="terms")
    return TermsShelf.of(versions)
