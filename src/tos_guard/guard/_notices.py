"""Notices: what happens to the standing of accounts, told to other systems by signed webhooks (docs/guides/standing.md).

- The history of the accounts is what is sent from: whatever is in it, by whichever door it came, is told once to each receiver, in order.
  Nothing is queued in memory and no request waits; a receiver's place in the history is kept by the store.
- One process of a fleet at a time sends to a receiver. Where it dies in between, another sends the same again, under the same id.
- A receiver that fails is tried again after twice the time, up to an hour, twenty times in all; then that notice is given up, loudly.
- A receiver that is new to us is told of what happens from then on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tos_guard._canonical import sha256_b64url
from tos_guard.config import NoticeSettings, SecretPlace
from tos_guard.errors import StoreError, TosGuardError
from tos_guard.guard._background import Worker
from tos_guard.keys import parse_webhook_secret, sign_webhook
from tos_guard.protocols import Clock
from tos_guard.telemetry import Telemetry
from tos_guard.types import Standing

if TYPE_CHECKING:
    from tos_guard.stores import AccountChange, Store

__all__ = ["NoticeReceiver", "NoticeSender", "webhook_secrets"]

_log = logging.getLogger("tos_guard")

MAX_ATTEMPTS: Final = 20  # of one notice: thirteen hours
FIRST_PAUSE_SECONDS: Final = 5.0
LONGEST_PAUSE_SECONDS: Final = 3_600.0
LOOK_SECONDS: Final = 2.0  # how soon a notice leaves
LEASE: Final = timedelta(seconds=60)  # longer than one attempt takes
BATCH: Final = 50
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)

_STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    "standing": ("standing",),
    "measure": ("measure_taken",),
    "lift": ("measure_lifted",),
    "appeal": ("appeal_filed", "appeal_withdrawn", "appeal_rejected", "appeal_upheld"),
}
"""Steps of the history by what the settings call them."""

_OF_A_MEASURE: Final = frozenset({"clauses", "notice", "automated", "begins", "requires", "deadline", "then", "expires"})
"""What a notice tells of a measure beside its reason: what the account may read."""

_NOTICE_TYPES: Final = {
    Standing.GOOD: "reinstatement",
    Standing.NOTICED: "warning",
    Standing.WARNED: "warning",
    Standing.THROTTLED: "restriction",
    Standing.RESTRICTED: "restriction",
    Standing.SUSPENDED: "deactivation",
    Standing.TERMINATED: "deactivation",
}


def webhook_secrets(places: Sequence[SecretPlace]) -> tuple[bytes, ...]:
    """The keys of a webhook, read from where the settings say they are.

    Raises:
        ConfigurationError: One of them is not there, or none. It says where, and nothing of the secret.
    """
    from tos_guard.stores import read_secret

    return tuple(parse_webhook_secret(read_secret(place), where=str(place)) for place in places)


@dataclass(frozen=True, slots=True)
class NoticeReceiver:
    """Somebody who is told.

    Attributes:
        settings: The settings.
        send: Sends a body with its header fields; raises `DiscoveryError`.
        secrets: Reads what it is signed with; raises `ConfigurationError`.
    """

    settings: NoticeSettings
    send: Callable[[bytes, Mapping[str, str]], None]
    secrets: Callable[[], Sequence[bytes]]

    @property
    def turn(self) -> str:
        """Under which name its place in the history is kept: a digest, since an address may hold a secret."""
        return f"notices:{sha256_b64url(self.settings.url.encode('utf-8'))}"

    @property
    def origin(self) -> str:
        """What logs say of it: the rest of its address may be a secret."""
        parts = urlsplit(self.settings.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def steps(self) -> tuple[str, ...]:
        """Steps of the history that it is told of."""
        return tuple(step for name in self.settings.on for step in _STEPS[name])


@dataclass(frozen=True, slots=True)
class _Place:
    """How far a receiver has been told, and how often the next notice has failed."""

    number: int
    attempts: int = 0

    def text(self) -> str:
        return json.dumps({"number": self.number, "attempts": self.attempts})

    @classmethod
    def parse(cls, text: str) -> _Place | None:
        try:
            members = json.loads(text or "null")
            return None if members is None else cls(int(members["number"]), int(members["attempts"]))
        except (ValueError, TypeError, KeyError):
            return None


class NoticeSender:
    """Tells receivers what happens.

    Args:
        store: Its history is told.
        receivers: Who is told.
        appeal_url: Where an account can appeal, or None.
        telemetry: What counts failures.
        clock: The present.
    """

    def __init__(
        self, store: Store, receivers: Sequence[NoticeReceiver], *, appeal_url: str | None, telemetry: Telemetry, clock: Clock
    ) -> None:
        self._store = store
        self._appeal_url = appeal_url
        self._telemetry = telemetry
        self._clock = clock
        self._looked: dict[str, int] = {}
        self._workers = [Worker("tos-guard-notices", partial(self.work, receiver)) for receiver in receivers]

    def keep_up(self) -> None:
        """See that this process has threads that send."""
        for worker in self._workers:
            worker.keep_up()

    def close(self) -> None:
        """Stop sending. What is not sent yet is sent by the next process."""
        for worker in self._workers:
            worker.close()

    def work(self, receiver: NoticeReceiver) -> float:
        """Send what there is to send. Returns in how many seconds to look again. Raises nothing that may happen."""
        try:
            return self._work(receiver)
        except StoreError as error:
            self._telemetry.failed("notices", error)
            _log.error("notices to %s: %s", receiver.origin, error)
            return FIRST_PAUSE_SECONDS

    def _work(self, receiver: NoticeReceiver) -> float:
        turn = self._store.turn(receiver.turn)
        place = None if turn is None else _Place.parse(turn.state)
        if turn is not None and turn.due > self._clock():
            return min(max((turn.due - self._clock()).total_seconds(), 0.05), LONGEST_PAUSE_SECONDS, LOOK_SECONDS)
        if place is not None and not self._waiting(receiver, place):
            return LOOK_SECONDS
        turn = self._store.take_turn(receiver.turn, until=self._clock() + LEASE)
        if turn is None:
            return LOOK_SECONDS
        place = _Place.parse(turn.state)
        if place is None:
            place = _Place(self._store.newest_change())
            self._store.put_turn(receiver.turn, due=_BEGINNING, state=place.text())
            return LOOK_SECONDS
        for number, change in self._store.changes_after(place.number, receiver.steps, limit=BATCH):
            try:
                self._send(receiver, number, change)
            except TosGuardError as error:
                if isinstance(error, StoreError):
                    raise
                return self._failed(receiver, _Place(place.number, place.attempts + 1), number, error)
            place = _Place(number)
            self._store.put_turn(receiver.turn, due=self._clock() + LEASE, state=place.text())
        self._store.put_turn(receiver.turn, due=_BEGINNING)
        return 0.05

    def _waiting(self, receiver: NoticeReceiver, place: _Place) -> bool:
        """Whether there is something to send. What was looked through once is not looked through again."""
        newest = self._store.newest_change()
        since = max(place.number, self._looked.get(receiver.turn, 0))
        if self._store.changes_after(since, receiver.steps, limit=1):
            return True
        self._looked[receiver.turn] = max(since, newest)
        return False

    def _failed(self, receiver: NoticeReceiver, place: _Place, number: int, error: TosGuardError) -> float:
        self._telemetry.failed("notices", error)
        if place.attempts >= MAX_ATTEMPTS:
            _log.error("notice %d to %s is given up after %d attempts: %s", number, receiver.origin, place.attempts, error)
            place, pause = _Place(number), 0.0
        else:
            _log.warning("notice %d to %s failed, attempt %d: %s", number, receiver.origin, place.attempts, error)
            pause = min(FIRST_PAUSE_SECONDS * 2 ** (place.attempts - 1), LONGEST_PAUSE_SECONDS)
        self._store.put_turn(receiver.turn, due=self._clock() + timedelta(seconds=pause), state=place.text())
        return min(pause, LOOK_SECONDS)

    def _send(self, receiver: NoticeReceiver, number: int, change: AccountChange) -> None:
        message_id = f"ntc_{sha256_b64url(f'{self._store.issuer} {number}'.encode())}"
        body = json.dumps(self._message(message_id, change)).encode("ascii")
        receiver.send(body, sign_webhook(body, message_id=message_id, at=self._clock(), secrets=receiver.secrets()))

    def _message(self, message_id: str, change: AccountChange) -> dict[str, Any]:
        """What is told, with the names that providers' safety cases have."""
        kind, told = self._told(message_id, change)
        data = {"entity_identifier": change.account_id, "reason": change.reason, "appeal_url": self._appeal_url, **told}
        return {"type": kind, "timestamp": change.at.isoformat(), "data": data}

    def _told(self, message_id: str, change: AccountChange) -> tuple[str, dict[str, Any]]:
        """The type of a notice, and what it tells of a step beside what all steps have."""
        match change.what:
            case "measure_taken":
                case, _, step = change.detail.partition("=")
                standing = Standing(step)
                measure = self._measure(change.account_id, case)
                notice = {"type": _NOTICE_TYPES[standing], "text": measure.pop("notice", "")}
                return "standing.measure", {"case_id": case, "step": standing, "notice": notice, **measure}
            case "measure_lifted":
                return "standing.lift", {"case_id": change.detail, "notice": {"type": "lift"}}
            case "standing":
                notice = {"type": _NOTICE_TYPES[Standing(change.detail)]}
                return "standing.set", {"case_id": message_id, "step": change.detail, "notice": notice}
            case _:
                appeal, _, case = change.detail.partition(" ")
                state = change.what.removeprefix("appeal_")
                return "standing.appeal", {"case_id": case, "appeal_id": appeal, "state": state, "notice": {"type": "appeal"}}

    def _measure(self, account_id: str, measure_id: str) -> dict[str, Any]:
        """What is told of a measure; nothing where the account is gone."""
        account = self._store.by_id(account_id)
        measure = next((one for one in account.measures if one.id == measure_id), None) if account is not None else None
        return {} if measure is None else measure.model_dump(mode="json", include=set(_OF_A_MEASURE))
