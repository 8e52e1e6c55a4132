"""What a store keeps for systems outside: what they gave to accounts, which of their messages were taken, whose turn it is to ask them.

- What a source gives and the account that it makes of it change together, or not at all.
- A message that changes an account is noted in the change itself: neither is there without the other.
- A *turn* is work of which one process of a fleet does a piece at a time, with what it must remember in between. Whoever takes it says
  until when; a process that dies then holds nobody up for longer. The work must bear being done twice.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tos_guard.stores._administration import AccountAdministration
from tos_guard.stores._model import AccountChange, Step, changed_account

if TYPE_CHECKING:
    from tos_guard.rights import Account, Entitlement, Given

__all__ = ["DELIVERIES_KEPT", "Outside", "StoredEntitlement", "ToGiven", "Turn"]

DELIVERIES_KEPT: Final = timedelta(days=7)
"""For so long the id of a message is known: senders repeat one that they have had no answer to for days, with a time that is new."""

ToGiven = Callable[["Account | None", "Given | None"], "tuple[Account | None, Given | None]"]
"""What becomes of an account and of what a source gave it last. The same account for no change. May raise `AccountError`."""


@dataclass(frozen=True, slots=True)
class StoredEntitlement:
    """What a source gave an account last.

    Attributes:
        account_id: The account.
        text: What it gave, as `Entitlement.text`.
        lapsed: Whether it was taken back since.
        is_current: Whether the account has not changed since then.
    """

    account_id: str
    text: str
    lapsed: bool
    is_current: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """A piece of work of a fleet.

    Attributes:
        due: When it is to be done next, or until when somebody has it.
        state: What must be remembered of it; empty at first.
    """

    due: datetime
    state: str = ""


class Outside(AccountAdministration):
    """What systems outside give and say."""

    def entitle(
        self, source: str, account_id: str, entitlement: Entitlement | None, *, create: bool = False, lapse: bool = False
    ) -> Account | None:
        """Let an account have what a source gives it, and no longer what the source gave it before and does not now.

        Where nothing differs, nothing changes: neither the account's version nor its history.

        Args:
            source: Its name; the history names it as ``entitlements:<name>``.
            account_id: The account.
            entitlement: What the source says of it; None where it says nothing (any longer).
            create: Add the account where there is none.
            lapse: The source is silent: take back the rights that it gave, and remember that.

        Returns:
            The account as it is now; None where there is none.

        Raises:
            AccountError: The account cannot be as the source says.
            StoreError: The engine failed. The account is as it was, or as the source says, and nothing in between.
        """
        from tos_guard.rights import Account, Given, entitlement_actor, entitlement_changes

        def given(stored: Account | None, earlier: Given | None) -> tuple[Account | None, Given | None]:
            if stored is None and not (create and entitlement is not None):
                return None, None
            account = stored or Account(id=account_id)
            members = entitlement_changes(source, account, entitlement, earlier, now=self._now(), lapse=lapse)
            if members or stored is None:
                account = changed_account(account, members)
            if lapse:
                return account, None if earlier is None else Given(earlier.entitlement, lapsed=True)
            return account, None if entitlement is None else Given(entitlement)

        why = "the source is silent" if lapse else ""
        return self._entitle(source, account_id, given, Step("changed", reason=why, actor=entitlement_actor(source)))

    @abstractmethod
    def entitlements(self, source: str) -> Sequence[StoredEntitlement]:
        """What a source gave last, by account id.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def knows_delivery(self, sender: str, message_id: str) -> bool:
        """Whether a message was taken in the last seven days.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def note_delivery(self, sender: str, message_id: str) -> bool:
        """Keep that a message was taken, for seven days. A message that changes one account is noted by that change: see `Step`.

        Returns:
            Whether that is new. Of all processes, one is told so, once.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def changes_after(self, number: int, what: Collection[str], *, limit: int) -> Sequence[tuple[int, AccountChange]]:
        """Steps in the histories of all accounts, in the order in which they were made, each with its number.

        Args:
            number: Only those that come after this one.
            what: Only steps of these kinds.
            limit: At most so many.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def newest_change(self) -> int:
        """The number of the newest step in any history; 0 where there is none.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def turn(self, name: str) -> Turn | None:
        """How a piece of work stands; None where it was never taken.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def take_turn(self, name: str, *, until: datetime) -> Turn | None:
        """Take a piece of work, if it is due and nobody has it; it is given back by `put_turn`, or at *until*.

        Returns:
            How it stood; None where it is not to be had.

        Raises:
            StoreError: The engine failed.
        """

    @abstractmethod
    def put_turn(self, name: str, *, due: datetime | None = None, state: str | None = None) -> None:
        """Keep how a piece of work stands.

        Args:
            name: Its name.
            due: When it is due, or until when somebody has it; None for no change.
            state: What must be remembered of it; likewise.

        Raises:
            StoreError: The engine failed.
        """

    # What an engine provides for the above.

    @abstractmethod
    def _entitle(self, source: str, account_id: str, change: ToGiven, step: Step) -> Account | None: ...
