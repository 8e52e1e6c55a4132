"""Notices to a real receiver: what they say, that they are signed, in order, once, and what becomes of one that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from outside_systems import START, OutsideSystem, serve_outside
from tos_guard.config import NoticeSettings
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.guard import NoticeReceiver, NoticeSender
from tos_guard.guard._notices import MAX_ATTEMPTS
from tos_guard.keys import parse_webhook_head, verify_webhook
from tos_guard.remote import WebhookClient
from tos_guard.rights import Account, Measure
from tos_guard.stores import Store
from tos_guard.telemetry import Telemetry
from tos_guard.testing import FixedClock, MemoryStore
from tos_guard.types import Standing

SECRETS = (b"n" * 32, b"o" * 32)
MEASURE = Measure(
    id="case-7",
    step=Standing.WARNED,
    reason="resells output",
    notice="Stop it.",
    evidence="internal: case 7",
    clauses=("serve",),
    begins=START,
    requires="contact",
    deadline=START + timedelta(days=7),
    then=Standing.SUSPENDED,
)


class Telling:
    """A store, and a process that tells a receiver what happens in it."""

    def __init__(self, system: OutsideSystem, store: Store | None = None, clock: FixedClock | None = None, **settings: Any) -> None:
        self.clock = clock or FixedClock(START)
        self.store = store or MemoryStore(issuer="https://api.example.com", clock=self.clock)
        self.telemetry = Telemetry(clock=self.clock)
        on = {"standing", "measure", "lift", "appeal"}
        url = f"{system.origin}/hook?who=us"
        notice = NoticeSettings.model_validate({"url": url, "secret": "env:HOOK", "on": on} | settings)
        self.receiver = NoticeReceiver(notice, WebhookClient(url, timeout=timedelta(seconds=20)).send, lambda: SECRETS)
        self.sender = NoticeSender(
            self.store, [self.receiver], appeal_url="https://api.example.com/appeal", telemetry=self.telemetry, clock=self.clock
        )

    def work(self, times: int = 3) -> None:
        for _ in range(times):
            assert 0 <= self.sender.work(self.receiver) <= 5


@pytest.fixture
def system() -> Iterator[OutsideSystem]:
    with serve_outside() as served:
        yield served


@pytest.fixture
def telling(system: OutsideSystem) -> Telling:
    """A receiver that has been known for a while."""
    telling = Telling(system)
    telling.store.add_account(Account(id="acme"))
    telling.work(1)
    return telling


def messages(system: OutsideSystem) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in system.received]


def test_a_measure_and_its_lift_are_told_in_the_shape_of_a_safety_case(telling: Telling, system: OutsideSystem) -> None:
    telling.store.take_measure("acme", MEASURE, actor="dana")
    telling.store.lift_measure("acme", "case-7", "settled", actor="dana")
    telling.store.set_standing("acme", Standing.SUSPENDED, "resells again", actor="dana")
    telling.work()
    measure, lift, standing = messages(system)
    assert measure == {
        "type": "standing.measure",
        "timestamp": START.isoformat(),
        "data": {
            "case_id": "case-7",
            "entity_identifier": "acme",
            "reason": "resells output",
            "step": "warned",
            "notice": {"type": "warning", "text": "Stop it."},
            "clauses": ["serve"],
            "automated": False,
            "begins": "2026-11-25T12:00:00Z",
            "requires": "contact",
            "deadline": "2026-12-02T12:00:00Z",
            "then": "suspended",
            "expires": None,
            "appeal_url": "https://api.example.com/appeal",
        },
    }
    assert (lift["type"], lift["data"]["case_id"], lift["data"]["notice"]) == ("standing.lift", "case-7", {"type": "lift"})
    assert (standing["type"], standing["data"]["notice"]["type"]) == ("standing.set", "deactivation")
    assert b"internal" not in b"".join(body for _, body in system.received), "evidence is not for others"


def test_notices_are_signed_with_all_secrets_of_a_rotation(telling: Telling, system: OutsideSystem) -> None:
    telling.store.set_standing("acme", Standing.SUSPENDED, "case 7")
    telling.work()
    ((fields, body),) = system.received
    head = parse_webhook_head(fields["webhook-id"], fields["webhook-timestamp"], fields["webhook-signature"], now=telling.clock())
    for secret in SECRETS:
        verify_webhook(head, body, secrets=[secret])
    assert fields["content-type"] == "application/json"


def test_only_what_the_settings_name_is_told(system: OutsideSystem) -> None:
    telling = Telling(system, on={"lift"})
    telling.store.add_account(Account(id="acme"))
    telling.work(1)
    telling.store.take_measure("acme", MEASURE)
    telling.store.set_standing("acme", Standing.SUSPENDED, "case 7")
    telling.store.lift_measure("acme", "case-7", "settled")
    telling.work()
    assert [message["type"] for message in messages(system)] == ["standing.lift"]


def test_a_new_receiver_is_told_of_nothing_that_was_before(system: OutsideSystem) -> None:
    telling = Telling(system)
    telling.store.add_account(Account(id="acme"))
    telling.store.set_standing("acme", Standing.SUSPENDED, "case 7")
    telling.work()
    assert system.received == []


def test_a_receiver_that_fails_gets_it_again_with_longer_pauses_in_order_and_under_one_id(telling: Telling, system: OutsideSystem) -> None:
    telling.store.set_standing("acme", Standing.SUSPENDED, "one")
    telling.store.set_standing("acme", Standing.GOOD, "two")
    system.status = 500
    for pause in (5, 10, 20):
        telling.work()
        telling.clock.advance(timedelta(seconds=pause - 1))
        telling.work()
        telling.clock.advance(timedelta(seconds=1))
    assert len(system.received) == 3
    system.status = 204
    telling.work()
    assert [message["data"]["reason"] for message in messages(system)] == ["one", "one", "one", "one", "two"]
    ids = [fields["webhook-id"] for fields, _ in system.received]
    assert len(set(ids[:4])) == 1
    assert ids[4] != ids[0]
    assert telling.telemetry.counts["failed:notices"] == 3
    telling.work()
    assert len(system.received) == 5


@pytest.mark.parametrize("status", [301, 302, 307, 400, 410, 503])
def test_whatever_is_not_2xx_is_a_failure_and_no_redirect_is_followed(telling: Telling, system: OutsideSystem, status: int) -> None:
    telling.store.set_standing("acme", Standing.SUSPENDED, "one")
    system.status = status
    telling.work()
    assert (len(system.received), telling.telemetry.counts["failed:notices"]) == (1, 1)


def test_a_notice_is_given_up_in_the_end_and_the_next_one_leaves(telling: Telling, system: OutsideSystem) -> None:
    telling.store.set_standing("acme", Standing.SUSPENDED, "one")
    telling.store.set_standing("acme", Standing.GOOD, "two")
    system.status = 500
    for _ in range(MAX_ATTEMPTS):
        telling.work(1)
        telling.clock.advance(timedelta(hours=1))
    assert len(system.received) == MAX_ATTEMPTS
    system.status = 200
    telling.work()
    assert messages(system)[-1]["data"]["reason"] == "two"
    assert len(system.received) == MAX_ATTEMPTS + 1


def test_another_process_goes_on_where_one_has_died(telling: Telling, system: OutsideSystem) -> None:
    """It had taken its turn, and sent nothing."""
    telling.store.set_standing("acme", Standing.SUSPENDED, "one")
    assert telling.store.take_turn(telling.receiver.turn, until=telling.clock() + timedelta(minutes=1)) is not None
    other = Telling(system, telling.store, telling.clock)
    other.work()
    assert system.received == []
    telling.clock.advance(timedelta(minutes=1))
    other.work()
    telling.work()
    assert [message["data"]["reason"] for message in messages(system)] == ["one"]


def test_a_secret_that_cannot_be_read_fails_the_notice_and_nothing_else(telling: Telling, system: OutsideSystem) -> None:
    def missing() -> tuple[bytes, ...]:
        raise ConfigurationError("holds no secret", where="env:HOOK")

    telling.store.set_standing("acme", Standing.SUSPENDED, "one")
    broken = NoticeReceiver(telling.receiver.settings, telling.receiver.send, missing)
    assert telling.sender.work(broken) <= 5
    assert telling.telemetry.counts["failed:notices"] == 1
    telling.clock.advance(timedelta(seconds=5))
    telling.work()
    assert len(system.received) == 1


def test_the_thread_sends_while_the_store_works_and_stops_when_it_is_told_to(telling: Telling, system: OutsideSystem) -> None:
    telling.store.set_standing("acme", Standing.SUSPENDED, "one")
    telling.sender.keep_up()
    telling.sender.keep_up()
    assert system.came.wait(10)
    telling.sender.close()
    telling.sender.keep_up()
    assert [message["data"]["reason"] for message in messages(system)] == ["one"]


def test_an_address_that_holds_a_secret_is_in_no_log(
    telling: Telling, system: OutsideSystem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tos_guard.guard._notices.MAX_ATTEMPTS", 2)
    system.status = 500
    telling.store.take_measure("acme", MEASURE)
    for _ in range(2):
        telling.work(1)
        telling.clock.advance(timedelta(minutes=1))

    def failing(*_: Any) -> None:
        raise StoreError("down")

    monkeypatch.setattr(telling.store, "turn", failing)
    telling.work(1)
    said = [record.getMessage() for record in caplog.records if record.name == "tos_guard"]
    assert len(said) == 3
    assert all(system.origin in line and "/hook" not in line and "who=us" not in line for line in said), said


def test_appeals_are_told_without_what_the_account_wrote(telling: Telling, system: OutsideSystem) -> None:
    """An upheld one is told by the lift of its measure."""
    telling.store.take_measure("acme", MEASURE, actor="dana")
    first = telling.store.file_appeal("acme", "case-7", "It was my cousin.")
    telling.store.decide_appeal(first.id, upheld=False, answer="No.", actor="dana")
    second = telling.store.file_appeal("acme", "case-7", "Really, my cousin.")
    telling.store.decide_appeal(second.id, upheld=True, answer="Fine.", actor="dana")
    telling.work()
    told = [(message["type"], message["data"].get("state"), message["data"]["case_id"]) for message in messages(system)]
    assert told == [
        ("standing.measure", None, "case-7"),
        ("standing.appeal", "filed", "case-7"),
        ("standing.appeal", "rejected", "case-7"),
        ("standing.appeal", "filed", "case-7"),
        ("standing.lift", None, "case-7"),
    ]
    assert messages(system)[1]["data"]["appeal_id"] == first.id
    assert b"cousin" not in b"".join(body for _, body in system.received)
