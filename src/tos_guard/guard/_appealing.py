"""Appealing against a measure, and taking that back: for every account, barred ones too (docs/adr/0009, "Standing")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tos_guard.errors import AccountError, ConflictError, NotFoundError
from tos_guard.guard._accepting import Accepting
from tos_guard.guard._needs import Ask, Steps
from tos_guard.rights import Holder

if TYPE_CHECKING:
    from tos_guard.stores import Appeal

__all__ = ["Appealing"]


class Appealing(Accepting):
    """The steps by which accounts appeal."""

    def appeals_of(self, holder: Holder) -> Steps[tuple[Appeal, ...] | None]:
        """The appeals of an account, oldest first; None of an account that the host keeps itself, whose appeals are the host's to hear.

        Raises:
            ConfigurationError: The guard has no store.
            StoreError: The store failed.
        """
        store = self._own_store()
        name = holder.account.id

        def found() -> tuple[Appeal, ...] | None:
            return None if store.by_id(name) is None else tuple(store.appeals(account_id=name))

        appeals: tuple[Appeal, ...] | None = yield Ask(found)
        return appeals

    def file_appeal(self, holder: Holder, measure_id: str, text: str, *, filed_by: str) -> Steps[Appeal]:
        """File an appeal against a measure of the account.

        Raises:
            NotFoundError: It has no such measure.
            ConflictError: The measure is lifted, an appeal against it is open, or there were too many; or the text is too long.
            ConfigurationError, StoreError: As of `appeals_of`.
        """
        store = self._own_store()
        if all(measure.id != measure_id for measure in holder.account.measures):
            raise NotFoundError("the account has no such measure", where=f"measure {measure_id[:64]}")

        def filed() -> Appeal:
            try:
                return store.file_appeal(holder.account.id, measure_id, text, actor=filed_by)
            except AccountError as error:
                raise ConflictError(error.what, where=error.where, cure=error.cure) from None

        appeal: Appeal = yield Ask(filed)
        self.telemetry.changed("appeal_filed")
        return appeal

    def withdraw_appeal(self, holder: Holder, appeal_id: str, *, withdrawn_by: str) -> Steps[Appeal]:
        """Take an open appeal of the account back.

        Raises:
            NotFoundError: It has no such appeal.
            ConflictError: The appeal is not open.
            ConfigurationError, StoreError: As of `appeals_of`.
        """
        store = self._own_store()

        def withdrawn() -> Appeal:
            known = store.appeal(appeal_id)
            if known is None or known.account_id != holder.account.id:
                raise NotFoundError("the account has no such appeal", where=f"appeal {appeal_id[:64]}")
            try:
                return store.withdraw_appeal(holder.account.id, appeal_id, actor=withdrawn_by)
            except AccountError as error:
                raise ConflictError(error.what, where=error.where, cure=error.cure) from None

        appeal: Appeal = yield Ask(withdrawn)
        self.telemetry.changed("appeal_withdrawn")
        return appeal
