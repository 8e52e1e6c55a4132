"""Webhooks that come in: whom they are believed from, what they may do, and that each is taken once."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desk import Desk, Page, visit
from tos_guard.config import EntitlementSettings
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.guard import EntitlementSource, EntitlementSync
from tos_guard.keys import parse_webhook_secret, sign_webhook
from tos_guard.telemetry import Telemetry
from tos_guard.types import Standing
from tos_guard.web import AdminRoutes, WebhookRoutes, own_routes

SECRETS = {name: "whsec_" + base64.b64encode(name.encode() * 8).decode() for name in ("TRUST", "CRM", "NEW")}
WEBHOOKS = [
    {"name": "trust", "secret": ["env:TRUST", "env:NEW"], "may": ["standing"]},
    {"name": "crm", "secret": "env:CRM", "may": ["entitlements"]},
]
SET = {"type": "standing.set", "data": {"account": "acme", "standing": "suspended", "reason": "case 7"}}


@pytest.fixture(autouse=True, scope="module")
def _secrets() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, secret in SECRETS.items():
            patch.setenv(name, secret)
        yield


def desk() -> Desk:
    return Desk(settings={"webhooks": WEBHOOKS})


def send(
    at: Desk,
    message: Any,
    *,
    to: str = "trust",
    message_id: str = "m1",
    secret: str | None = "TRUST",
    late: timedelta = timedelta(0),
    body: bytes | None = None,
    **fields: str,
) -> Page:
    """A message; *body* is sent in place of what was signed."""
    signed = message if isinstance(message, bytes) else json.dumps(message).encode()
    headers = {"content-type": "application/json"}
    if secret is not None:
        key = parse_webhook_secret(SECRETS[secret], where="test")
        headers |= sign_webhook(signed, message_id=message_id, at=at.clock() - late, secrets=[key])
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}
    routes = WebhookRoutes(at.guard)
    return visit(routes, at.guard, f"/admin/webhooks/{to}", method="POST", headers=headers, body=signed if body is None else body)


def test_a_signed_message_moves_an_account_and_the_history_names_the_webhook() -> None:
    at = desk()
    answer = send(at, SET)
    assert (answer.status, answer.json()) == (200, {"id": "m1", "taken": "now"})
    assert at.holder("acme").account.standing is Standing.SUSPENDED
    last = at.store.history("acme")[-1]
    assert (last.what, last.detail, last.reason, last.actor) == ("standing", "suspended", "case 7", "webhook:trust")


def test_the_same_message_changes_nothing_again() -> None:
    """Also when its sender has heard nothing for a day, and what it did has been undone since."""
    at = desk()
    send(at, SET)
    at.store.set_standing("acme", Standing.GOOD, "a mistake", actor="dana")
    at.clock.advance(timedelta(days=1))
    answer = send(at, SET)
    assert (answer.status, answer.json()) == (200, {"id": "m1", "taken": "before"})
    assert at.holder("acme").account.standing is Standing.GOOD
    assert send(at, SET, message_id="m2").json()["taken"] == "now"


def test_a_measure_that_no_verification_could_end_is_refused() -> None:
    """As by the other doors: nothing that the account does would bring it back."""
    asked = {"account": "acme", "step": "restricted", "reason": "case 7", "requires": "verify"}
    told = send(desk(), {"type": "standing.measure", "data": asked})
    assert (told.status, told.json()["code"]) == (409, "tos_conflict")
    knowing = Desk(settings={"webhooks": WEBHOOKS, "standing": {"restricted": {"verify": ["organization"]}}})
    assert send(knowing, {"type": "standing.measure", "data": asked}).status == 200


def test_two_webhooks_have_no_secret_in_common() -> None:
    """Else what was signed for one could be sent to the other, which may do other things."""
    shared = [WEBHOOKS[0], {**WEBHOOKS[1], "secret": ["env:CRM", "env:TRUST"]}]
    with pytest.raises(ConfigurationError, match="trust and crm have one secret") as raised:
        WebhookRoutes(Desk(settings={"webhooks": shared}).guard)
    assert SECRETS["TRUST"] not in str(raised.value)


def test_what_cannot_be_proven_gets_one_answer() -> None:
    at = desk()
    wrong = [
        send(at, SET, secret="CRM"),
        send(at, SET, secret=None),
        send(at, SET, to="nobody"),
        send(at, SET, to="trust/more"),
        send(at, SET, to=""),
        send(at, SET, late=timedelta(minutes=5, seconds=1)),
        send(at, SET, late=-timedelta(minutes=5, seconds=1)),
        send(at, SET, body=json.dumps(SET).replace("acme", "solo").encode()),
        send(at, SET, webhook_id="m2"),
        send(at, SET, webhook_id="a.b"),
        send(at, SET, webhook_timestamp="now"),
        send(at, SET, webhook_signature="v1,AAAA"),
        send(at, b"", secret="CRM"),
    ]
    assert {page.status for page in wrong} == {401}
    bodies = [{name: value for name, value in page.json().items() if name != "request_id"} for page in wrong]
    assert all(body == bodies[0] for body in bodies)
    assert at.holder("acme").account.standing is Standing.GOOD
    assert not at.store.knows_delivery("trust", "m1")


def test_either_secret_is_good_while_it_is_being_changed() -> None:
    at = desk()
    assert send(at, SET, secret="NEW").status == 200


def test_measures_are_taken_and_lifted() -> None:
    at = desk()
    deadline = (at.clock() + timedelta(days=7)).isoformat()
    data = {"account": "acme", "step": "warned", "reason": "case 7", "clauses": ["serve"], "requires": "contact", "deadline": deadline}
    assert send(at, {"type": "standing.measure", "data": data | {"id": "case-7", "then": "suspended"}}).status == 200
    assert send(at, {"type": "standing.measure", "data": data}, message_id="m2").status == 200
    first, second = at.holder("acme").account.measures
    assert (first.id, first.step, first.issuer, first.automated, first.begins) == ("case-7", "warned", "webhook:trust", True, at.clock())
    assert second.id.startswith("wh-")
    again = send(at, {"type": "standing.measure", "data": data | {"id": "case-7"}}, message_id="m3")
    assert (again.status, again.json()["code"]) == (409, "tos_conflict")
    lift = {"type": "standing.lift", "data": {"account": "acme", "measure": "case-7", "reason": "settled"}}
    assert send(at, lift, message_id="m4").status == 200
    assert at.holder("acme").account.measures[0].lifted_by == "webhook:trust"
    assert send(at, lift, message_id="m5").status == 409
    assert [step.what for step in at.store.history("acme")][-3:] == ["measure_taken", "measure_taken", "measure_lifted"]


@pytest.mark.parametrize(
    ("message", "status", "what"),
    [
        pytest.param(b"{", 400, "request body", id="no JSON"),
        pytest.param(b"[]", 400, "type and data", id="no object"),
        pytest.param({"type": "standing.set"}, 400, "type and data", id="no data"),
        pytest.param({"type": "standing.reset", "data": {}}, 400, "standing.lift", id="unknown type"),
        pytest.param(b'{"type": "standing.set", "type": "standing.set", "data": {}}', 400, "twice", id="name twice"),
        pytest.param({"type": "standing.set", "data": SET["data"] | {"more": 1}}, 400, "more", id="unknown member"),
        pytest.param({"type": "standing.set", "data": SET["data"] | {"standing": "awful"}}, 400, "standing", id="no such step"),
        pytest.param({"type": "standing.set", "data": SET["data"] | {"account": "nobody"}}, 404, "nobody", id="unknown account"),
        pytest.param({"type": "standing.set", "data": SET["data"] | {"reason": "a\0b"}}, 409, "no text", id="U+0000"),
        pytest.param({"type": "standing.measure", "data": {"account": "acme", "step": "good", "reason": "x"}}, 400, "good", id="good"),
        pytest.param(
            {"type": "standing.lift", "data": {"account": "acme", "measure": "m", "reason": "x"}}, 404, "measure", id="no measure"
        ),
        pytest.param({"type": "entitlements.changed", "data": {"source": "crm"}}, 403, "entitlements", id="may not"),
    ],
)
def test_what_a_message_cannot_do_is_told_with_the_reason_and_may_be_sent_again(message: Any, status: int, what: str) -> None:
    at = desk()
    answer = send(at, message)
    assert (answer.status, what in answer.text) == (status, True), answer.text
    assert not at.store.knows_delivery("trust", "m1")
    assert send(at, SET).json() == {"id": "m1", "taken": "now"}


def test_other_members_beside_type_and_data_are_passed_over() -> None:
    assert send(desk(), SET | {"timestamp": "2026-11-22T12:00:00Z", "version": 3}).status == 200


def test_it_is_a_post_of_json() -> None:
    at = desk()
    assert send(at, SET, content_type="text/plain").status == 415
    got = visit(WebhookRoutes(at.guard), at.guard, "/admin/webhooks/trust")
    assert (got.status, got.headers["allow"]) == (405, "POST")


def test_a_store_that_fails_is_no_answer_that_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    at = desk()

    def failing(*_: Any, **__: Any) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(at.store, "set_standing", failing)
    with pytest.raises(StoreError):
        send(at, SET)
    monkeypatch.undo()
    assert send(at, SET).json()["taken"] == "now"


def entitled(fetched: list[str], **settings: Any) -> Desk:
    """A provider with a source that may be pushed."""
    at = desk()
    source = EntitlementSettings(**{"name": "erp", "url": "https://erp.example.com/e.json", "webhook": "crm"} | settings)

    def fetch(etag: str) -> None:
        fetched.append(etag)

    sync = EntitlementSync(
        at.store,
        {"erp": EntitlementSource(source, fetch if source.url is not None else None)},
        mode="deny",
        limits=frozenset(),
        telemetry=Telemetry(clock=at.clock),
        clock=at.clock,
    )
    parts = at.parts | {"entitlements": sync}
    at.guard = type(at.guard)(at.given.model_copy(update={"entitlements": (source,)}), **parts)
    return at


def pushed(at: Desk, issued: str = "2026-11-22T12:00:00Z", **accounts: Any) -> dict[str, Any]:
    document = {"version": 1, "issued": issued, "accounts": accounts}
    return {"type": "entitlements.document", "data": {"source": "erp", "document": document}}


def test_a_document_is_pushed_and_applied_before_the_answer() -> None:
    at = entitled([], url=None)
    message = pushed(at, solo={"models": ["large"], "grants": [{"id": "g", "type": "research", "models": ["large"]}]})
    assert send(at, message, to="crm", secret="CRM").json()["taken"] == "now"
    assert at.holder("solo").account.models == {"large"}
    assert at.store.history("solo")[-1].actor == "entitlements:erp"
    assert send(at, message, to="crm", secret="CRM").json()["taken"] == "before"
    older = pushed(at, "2026-11-22T11:59:59Z", solo={"models": ["small"]})
    answer = send(at, older, to="crm", secret="CRM", message_id="m2")
    assert (answer.status, "before the one in force" in answer.text) == (400, True)
    wrong = pushed(at, solo={"standing": "good"})
    assert send(at, wrong, to="crm", secret="CRM", message_id="m3").status == 400
    assert send(at, {"type": "entitlements.changed", "data": {"source": "erp"}}, to="crm", secret="CRM", message_id="m4").status == 404


def test_a_change_that_is_announced_is_asked_for_in_the_background() -> None:
    fetched: list[str] = []
    at = entitled(fetched)
    answer = send(at, {"type": "entitlements.changed", "data": {"source": "erp"}}, to="crm", secret="CRM")
    assert answer.json()["taken"] == "now"
    at.guard.close_stores()  # waits for what is under way
    assert fetched == [""]


def test_a_webhook_sends_for_the_sources_that_name_it_and_no_other() -> None:
    at = entitled([], webhook="trust", url="https://erp.example.com/e.json")
    for message in (pushed(at), {"type": "entitlements.changed", "data": {"source": "erp"}}, pushed(at) | {"type": "standing.set"}):
        assert send(at, message, to="crm", secret="CRM").status in (403, 404)


def test_routes_stand_before_those_of_the_administrators_and_secrets_are_read_at_start() -> None:
    at = desk()
    assert [routes.name for routes in own_routes(at.guard)] == ["account", "webhooks", "admin"]
    assert AdminRoutes(at.guard).owns("/admin/webhooks/trust")
    bare = Desk(settings={"webhooks": [{"name": "x", "secret": "env:NO_SUCH_VARIABLE", "may": ["standing"]}]})
    with pytest.raises(ConfigurationError, match="env:NO_SUCH_VARIABLE"):
        own_routes(bare.guard)


shared_desk = cache(desk)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_every_message_has_an_answer(data: Any) -> None:
    at = shared_desk()  # nothing is ever done there
    for kind in ("standing.set", "standing.measure", "standing.lift", "entitlements.document"):
        answer = send(at, {"type": kind, "data": data})
        assert 400 <= answer.status < 500
