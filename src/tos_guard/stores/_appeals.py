"""Appeals against measures: filed by the account, decided by an administrator (docs/adr/0009, "Standing").

- Filing, withdrawing and deciding are one entry each in the account's history. Upholding an appeal lifts its measure in the same step, so
  that neither is there without the other.
- An account has one open appeal against a measure at a time, and few in all: an account that is barred can write nothing else.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from tos_guard.errors import AccountError
from tos_guard.stores._administration import AccountAdministration
from tos_guard.stores._model import Step, check_text

if TYPE_CHECKING:
    from tos_guard.rights import Account

__all__ = [
    "MAX_ANSWER_CHARS",
    "MAX_APPEALS_PER_DAY",
    "MAX_APPEALS_PER_MEASURE",
    "MAX_APPEAL_CHARS",
    "Appeal",
    "AppealState",
    "Appealing",
    "ToAppeal",
]

MAX_APPEAL_CHARS: Final = 4_000  # a page and a half; a field of a form holds no more
MAX_ANSWER_CHARS: Final = 1_900  # with what stands before it, the reason for which a measure is lifted
MAX_APPEALS_PER_MEASURE: Final = 3
MAX_APPEALS_PER_DAY: Final = 10
_DAY: Final = timedelta(days=1)

AppealState = Literal["filed", "withdrawn", "upheld", "rejected"]


@dataclass(frozen=True, slots=True)
class Appeal:
    """An appeal.

    Attributes:
        id: Its id, ``ap_`` and 22 characters.
        account_id: Whose.
        measure_id: Against which measure.
        text: What the account says.
        filed: When it was filed.
        filed_by: The person who filed it, where that is known.
        state: ``filed`` while it is open; ``withdrawn`` by the account; ``upheld`` or ``rejected`` by an administrator.
        ended: When it was withdrawn or decided, or None.
        ended_by: Who did that.
        answer: What the account is told of the decision.
    """

    id: str
    account_id: str
    measure_id: str
    text: str
    filed: datetime
    filed_by: str = ""
    state: AppealState = "filed"
    ended: datetime | None = None
    ended_by: str = ""
    answer: str = ""


ToAppeal = Callable[["Account", Sequence[Appeal]], tuple[Appeal, Mapping[str, Any] | None, Step]]
"""Given an account and its appeals: the appeal as it is to be, members of the account to set or None, and the step.

May raise `AccountError`.
"""


class Appealing(AccountAdministration):
    """Appeals of accounts."""

    def file_appeal(self, account_id: str, measure_id: str, text: str, *, actor: str = "") -> Appeal:
        """File an appeal against a measure, and return it. *actor* is the person, where that is known.

        Raises:
            AccountError: The account or measure is unknown; the measure is lifted, or an appeal against it is open; there were too many
                against it, or of the account within a day; or the text is none.
            StoreError: The engine failed.
        """
        where = f"measure {measure_id[:64]}"
        if not text.strip() or len(check_text(text, "appeal")) > MAX_APPEAL_CHARS:
            raise AccountError(f"has not 1 to {MAX_APPEAL_CHARS} characters", where="appeal")
        appeal = Appeal(f"ap_{secrets.token_urlsafe(16)}", account_id, measure_id, text, self._now(), actor)
        step = Step("appeal_filed", f"{appeal.id} {measure_id}", actor=actor)

        def filed(account: Account, appeals: Sequence[Appeal]) -> tuple[Appeal, None, Step]:
            measure = next((one for one in account.measures if one.id == measure_id), None)
            if measure is None:
                raise AccountError("there is no such measure", where=where)
            if measure.lifted is not None:
                raise AccountError("is lifted already", where=where, cure="There is nothing to appeal against.")
            against = [one for one in appeals if one.measure_id == measure_id]
            if any(one.state == "filed" for one in against):
                raise AccountError("an appeal against it is open", where=where, cure="Wait for the answer, or withdraw it.")
            if len(against) >= MAX_APPEALS_PER_MEASURE:
                raise AccountError(f"{MAX_APPEALS_PER_MEASURE} appeals against it were filed, which is all there are", where=where)
            if sum(one.filed > appeal.filed - _DAY for one in appeals) >= MAX_APPEALS_PER_DAY:
                raise AccountError(f"{MAX_APPEALS_PER_DAY} appeals were filed within a day", where=where, cure="Try again tomorrow.")
            return appeal, None, step

        return self._appeal(account_id, filed)

    def withdraw_appeal(self, account_id: str, appeal_id: str, *, actor: str = "") -> Appeal:
        """Take an open appeal of the account back, and return it.

        Raises:
            AccountError: The account is unknown, has no such appeal, or it is not open.
            StoreError: The engine failed.
        """

        def withdrawn(_: Account, appeals: Sequence[Appeal]) -> tuple[Appeal, None, Step]:
            appeal = _open(appeals, appeal_id)
            ended = replace(appeal, state="withdrawn", ended=self._now(), ended_by=actor)
            return ended, None, Step("appeal_withdrawn", f"{appeal.id} {appeal.measure_id}", actor=actor)

        return self._appeal(account_id, withdrawn)

    def decide_appeal(self, appeal_id: str, *, upheld: bool, answer: str, actor: str = "") -> Appeal:
        """Decide an open appeal, and return it. Upheld, its measure is lifted in the same step, unless it is lifted already.

        Raises:
            AccountError: The appeal is unknown or not open, or the answer is none.
            StoreError: The engine failed.
        """
        if not answer.strip() or len(check_text(answer, "answer")) > MAX_ANSWER_CHARS:
            raise AccountError(f"has not 1 to {MAX_ANSWER_CHARS} characters", where="answer")
        found = self.appeal(appeal_id)
        if found is None:
            raise _unknown(appeal_id)

        def decided(account: Account, appeals: Sequence[Appeal]) -> tuple[Appeal, Mapping[str, Any] | None, Step]:
            appeal = _open(appeals, appeal_id)
            ended = replace(appeal, state="upheld" if upheld else "rejected", ended=self._now(), ended_by=actor, answer=answer)
            if not upheld:
                return ended, None, Step("appeal_rejected", f"{appeal.id} {appeal.measure_id}", answer, actor)
            why = f"appeal {appeal.id} upheld: {answer}"
            if any(one.id == appeal.measure_id and one.lifted is not None for one in account.measures):
                return ended, None, Step("appeal_upheld", f"{appeal.id} {appeal.measure_id}", answer, actor)
            return ended, self._lifted(account, appeal.measure_id, why, actor), Step("measure_lifted", appeal.measure_id, why, actor)

        return self._appeal(found.account_id, decided)

    @abstractmethod
    def appeal(self, appeal_id: str) -> Appeal | None:
        """The appeal with this id, or None.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def appeals(
        self, *, account_id: str | None = None, state: AppealState | None = None, after: str = "", limit: int | None = None
    ) -> Sequence[Appeal]:
        """Appeals, in the order in which they were filed.

        Args:
            account_id: Only those of this account.
            state: Only those in this state.
            after: Only those that were filed after the one with this id.
            limit: At most so many; None for all.

        Raises:
            StoreError: The engine failed.
        """

    # What an engine provides for the above.

    @abstractmethod
    def _appeal(self, account_id: str, change: ToAppeal) -> Appeal: ...


def _open(appeals: Sequence[Appeal], appeal_id: str) -> Appeal:
    appeal = next((one for one in appeals if one.id == appeal_id), None)
    if appeal is None:
        raise _unknown(appeal_id)
    if appeal.state != "filed":
        raise AccountError(f"is not open: it was {appeal.state}", where=f"appeal {appeal_id}")
    return appeal


def _unknown(appeal_id: str) -> AccountError:
    return AccountError("no such appeal", where=f"appeal {appeal_id[:64]}")
