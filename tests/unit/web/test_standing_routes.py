"""Where an account stands, at the account routes, and appeals: for every account, those above all that are refused elsewhere."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from desk import CHAT, HTML, ISSUER, JANE, Desk, Page, form, sent, terms, visit
from tos_guard.guard import RequestView
from tos_guard.rights import Account, Grant, Measure
from tos_guard.types import Standing
from tos_guard.web import AccountRoutes, AdminRoutes

BODY = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
WORDS = {"text": "It was not us.", "filed_by": "Sam"}


def at(desk: Desk, path: str, account: str = "solo", **more: Any) -> Page:
    return visit(AccountRoutes(desk.guard), desk.guard, f"/account{path}", key=desk.keys[account], **more)


def fields_of(page: Page, action: str) -> dict[str, str]:
    """Hidden fields of the form that leads to *action*."""
    found = re.search(rf'<form [^>]*action="{action}"[^>]*>.*?</form>', page.text, re.DOTALL)
    assert found is not None, page.text
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', found[0]))


def take(desk: Desk, step: Standing = Standing.SUSPENDED, measure_id: str = "m-1", account: str = "solo", **members: Any) -> None:
    given = {"id": measure_id, "step": step, "reason": "copied outputs", "begins": desk.clock(), **members}
    desk.store.take_measure(account, Measure(**given), actor="dana")


def desk_of(**settings: Any) -> Desk:
    """Terms that bind without being accepted."""
    return Desk(general=terms("2026-11", acceptance="none"), settings={"appeal_url": None, **settings})


def asked(desk: Desk, account: str = "solo") -> str:
    """The reason for which a request of the account is refused now, or empty."""
    view = RequestView("POST", CHAT, [(b"authorization", f"Bearer {desk.keys[account]}".encode())])
    route = desk.guard.route(CHAT)
    assert route is not None
    exchange = desk.guard.run(desk.guard.admit(desk.guard.run(desk.guard.authenticate(view)), view, route, BODY))
    return "" if exchange.decision.allowed else exchange.decision.reasons[0].code


def administer(desk: Desk, path: str, members: Any = None, **more: Any) -> Page:
    posted = {} if members is None else sent(members)
    return visit(AdminRoutes(desk.guard), desk.guard, f"/admin{path}", key=desk.admin_key, **posted, **more)


def standing(desk: Desk, account: str = "solo") -> Any:
    return at(desk, "/standing.json", account).json()


def appeal(desk: Desk, measure_id: str = "m-1", account: str = "solo") -> str:
    filed = at(desk, "/standing/appeal", account, **sent({"measure": measure_id, **WORDS}))
    assert filed.status == 201, filed.text
    return str(filed.json()["appeal"]["id"])


# Looking


@pytest.mark.parametrize("step", list(Standing)[1:])
def test_each_account_reads_where_it_stands_why_and_what_to_do(step: Standing) -> None:
    """Also when every request is refused. Where the evidence lies and who decided is the provider's own."""
    desk = desk_of()
    until = desk.clock() + timedelta(days=5)
    take(desk, step, clauses=("serve",), notice="Call us.\n<b>Now</b>", evidence="case 7", requires="contact", deadline=until)
    document = standing(desk)
    assert (document["account"]["standing"], document["served"]) == (step, step not in (Standing.SUSPENDED, Standing.TERMINATED))
    (measure,) = document["measures"]
    expected = {"id": "m-1", "state": "in_force", "step": step, "reason": "copied outputs", "clauses": ["serve"], "requires": "contact"}
    assert {name: measure[name] for name in expected} == expected
    assert (measure["may_appeal"], measure["automated"], measure["decides"]) == (True, False, True)
    page = at(desk, "/standing", headers=HTML).text
    assert "copied outputs" in page
    assert "&lt;b&gt;Now&lt;/b&gt;" in page
    assert "Contact the provider" in page
    for text in (page, json.dumps(document)):
        assert "case 7" not in text
        assert "dana" not in text


def test_an_account_in_good_standing_reads_that() -> None:
    document = standing(desk_of())
    assert (document["account"]["standing"], document["served"], document["measures"]) == ("good", True, [])
    assert "In good standing" in at(desk_of(), "/standing", headers=HTML).text


def test_a_standing_without_a_measure_is_said_to_be_one() -> None:
    """There is nothing to appeal against here, and the page does not pretend that there is."""
    desk = desk_of()
    desk.store.set_standing("solo", Standing.SUSPENDED, "abuse")
    assert (standing(desk)["because_of"], standing(desk)["measures"]) == (None, [])
    assert "No measure says why: ask the provider." in at(desk, "/standing", headers=HTML).text
    take(desk)
    assert standing(desk)["because_of"] == "m-1"


def test_every_document_says_the_standing_that_holds() -> None:
    desk = desk_of()
    take(desk, Standing.RESTRICTED)
    for name in ("overview", "terms", "standing", "rights", "receipts"):
        assert at(desk, f"/{name}.json").json()["account"]["standing"] == "restricted"
    assert at(desk, "/overview.json").json()["appeal_url"] == f"{ISSUER}/account/standing"
    assert 'href="/account/standing"' in at(desk, "", headers=HTML).text


def test_suspended_grants_are_said_to_be_suspended() -> None:
    desk = desk_of()
    desk.store.add_grant("solo", Grant(id="g-1", type="licensed-distillation"))
    take(desk, Standing.RESTRICTED)
    assert [grant["state"] for grant in at(desk, "/rights.json").json()["grants"]] == ["suspended"]
    assert "Grants are suspended" in at(desk, "/standing", headers=HTML).text


def test_the_states_of_measures_are_told_apart() -> None:
    desk = desk_of(standing={"warned": {"verify": ["email"]}})
    now, day = desk.clock(), timedelta(days=1)
    take(desk, Standing.NOTICED, "in-force")
    take(desk, Standing.NOTICED, "to-come", begins=now + day)
    take(desk, Standing.NOTICED, "ended", begins=now - 2 * day, expires=now - day)
    take(desk, Standing.NOTICED, "lifted")
    take(desk, Standing.NOTICED, "done", requires="verify")
    desk.store.lift_measure("solo", "lifted", "a mistake")
    account = desk.store.by_id("solo")
    assert account is not None
    desk.store.put_account(account.model_copy(update={"verification": "email"}))
    states = {measure["id"]: measure["state"] for measure in standing(desk)["measures"]}
    assert states == {"in-force": "in_force", "to-come": "to_come", "ended": "ended", "lifted": "lifted", "done": "done"}
    assert at(desk, "/standing", headers=HTML).status == 200


# Appealing


@pytest.mark.parametrize("step", [Standing.WARNED, Standing.SUSPENDED, Standing.TERMINATED])
def test_an_upheld_appeal_restores_the_account_at_once(step: Standing) -> None:
    """The whole way: refused, filed by the account, listed and upheld by an administrator, served by the next request."""
    desk = desk_of()
    take(desk, step)
    assert bool(asked(desk)) is (step is not Standing.WARNED)
    name = appeal(desk)
    (measure,) = standing(desk)["measures"]
    assert ([one["state"] for one in measure["appeals"]], measure["may_appeal"]) == (["filed"], False)
    (waiting,) = administer(desk, "/appeals", query="state=filed").json()["appeals"]
    assert (waiting["id"], waiting["account"], waiting["measure"], waiting["text"]) == (name, "solo", "m-1", "It was not us.")
    decided = administer(desk, f"/appeals/{name}/decide", {"upheld": True, "answer": "You are right."})
    assert (decided.status, decided.json()["appeal"]["state"], decided.json()["appeal"]["ended_by"]) == (200, "upheld", "dana")
    assert asked(desk) == ""
    (measure,) = standing(desk)["measures"]
    assert (measure["state"], measure["appeals"][0]["answer"]) == ("lifted", "You are right.")
    assert "dana" not in at(desk, "/standing", headers=HTML).text
    assert [one["what"] for one in administer(desk, "/accounts/solo/history").json()["history"]][:2] == ["measure_lifted", "appeal_filed"]


def test_a_rejected_appeal_changes_nothing_and_is_answered() -> None:
    desk = desk_of()
    take(desk)
    name = appeal(desk)
    assert administer(desk, f"/appeals/{name}/decide", {"upheld": False, "answer": "The logs say so."}).status == 200
    assert asked(desk) == "tos_account_suspended"
    assert "The logs say so." in at(desk, "/standing", headers=HTML).text
    assert administer(desk, f"/appeals/{name}/decide", {"upheld": True, "answer": "Yes."}).status == 409
    assert administer(desk, "/appeals", query="state=filed").json()["appeals"] == []


def test_a_person_files_and_withdraws_with_the_forms_of_the_page() -> None:
    desk = Desk(general=terms("2026-11", acceptance="none"), overrides={"acceptor": lambda view, account: JANE.id})
    take(desk)
    page = at(desk, "/standing", headers=HTML)
    fields = fields_of(page, "/account/standing/appeal")
    filed = at(desk, "/standing/appeal", **form({**fields, "text": "It was\r\nnot us.", "agree": "yes"}))
    assert filed.status == 201
    assert "The appeal is filed" in filed.text
    (stored,) = desk.store.appeals()
    assert (stored.text, stored.filed_by, stored.account_id) == ("It was\nnot us.", JANE.id, "solo")
    page = at(desk, "/standing", headers=HTML)
    withdrawn = at(desk, "/standing/withdraw", **form({**fields_of(page, "/account/standing/withdraw"), "agree": "yes"}))
    assert withdrawn.status == 200
    assert [one.state for one in desk.store.appeals()] == ["withdrawn"]


def test_a_form_of_another_site_files_nothing() -> None:
    desk = desk_of()
    take(desk)
    refused = at(desk, "/standing/appeal", **form({"measure": "m-1", "text": "No.", "filed_by": "Sam", "agree": "yes", "csrf": "made up"}))
    assert refused.status == 403
    assert desk.store.appeals() == ()


def test_nobody_files_or_withdraws_for_another_account() -> None:
    desk = desk_of()
    take(desk, account="acme", measure_id="m-acme")
    name = appeal(desk, "m-acme", "acme")
    assert at(desk, "/standing/appeal", "solo", **sent({"measure": "m-acme", **WORDS})).status == 404
    assert at(desk, "/standing/withdraw", "solo", **sent({"appeal": name, "withdrawn_by": "Sam"})).status == 404
    assert [one.state for one in desk.store.appeals()] == ["filed"]


def test_appeals_are_bounded() -> None:
    desk = desk_of()
    take(desk)
    for _ in range(3):
        name = appeal(desk)
        assert at(desk, "/standing/appeal", **sent({"measure": "m-1", **WORDS})).status == 409
        assert at(desk, "/standing/withdraw", **sent({"appeal": name, "withdrawn_by": "Sam"})).status == 200
    refused = at(desk, "/standing/appeal", **sent({"measure": "m-1", **WORDS}))
    assert (refused.status, refused.json()["code"]) == (409, "tos_conflict")
    assert not standing(desk)["measures"][0]["may_appeal"]


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"measure": "m-1", "text": " \n ", "filed_by": "Sam"}, 400),
        ({"measure": "m-1", "filed_by": "Sam"}, 400),
        ({"measure": "", "text": "No.", "filed_by": "Sam"}, 400),
        ({"measure": "m-1", "text": "No."}, 400),
        ({"measure": "m-1", "text": 7, "filed_by": "Sam"}, 400),
        ({"measure": "m-1", "text": "No.", "filed_by": "Sam", "more": "x"}, 400),
        ({"measure": "m-9", "text": "No.", "filed_by": "Sam"}, 404),
        ({"measure": "m-1", "text": "x" * 4_001, "filed_by": "Sam"}, 409),
        ({"measure": "m-1", "text": "a\0b", "filed_by": "Sam"}, 409),
        ({"measure": "m-1", "text": "No.", "filed_by": "a\0b"}, 409),
    ],
)
def test_what_is_no_appeal_is_refused(members: Any, status: int) -> None:
    desk = desk_of()
    take(desk)
    assert at(desk, "/standing/appeal", **sent(members)).status == status
    assert desk.store.appeals() == ()


class Host:
    """A provider that keeps its own accounts."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def version(self) -> int:
        return 1

    def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        del public_id, secret_hash
        return None

    def by_id(self, account_id: str) -> Account | None:
        return self.account if account_id == self.account.id else None


def test_accounts_of_the_host_have_measures_and_appeal_to_the_host() -> None:
    """The page promises no appeal that could not be filed."""
    taken = Measure(id="m-1", step=Standing.SUSPENDED, reason="spam", begins=datetime(2020, 1, 1, tzinfo=UTC))
    host = Host(Account(id="theirs", models=frozenset({"small"}), measures=(taken,)))
    desk = Desk(general=terms("2026-11", acceptance="none"), overrides={"accounts": host, "identify": lambda view: "theirs"})
    assert asked(desk) == "tos_account_suspended"
    (measure,) = standing(desk)["measures"]
    assert (measure["state"], measure["may_appeal"]) == ("in_force", False)
    page = at(desk, "/standing", headers=HTML).text
    assert ("File the appeal" in page, f"{ISSUER}/appeal" in page) == (False, True)
    assert at(desk, "/standing/appeal", **sent({"measure": "m-1", **WORDS})).status == 409


# Accepting again


def test_a_measure_may_ask_to_accept_the_terms_again() -> None:
    """Whoever had accepted them accepts once more, and the measure is done; once is enough."""
    desk = Desk(settings={"standing": {"restricted": {"accept": True}}})
    accept = {"version": "2026-11", "accepted_by": "Sam"}
    assert at(desk, "/terms/accept", **sent(accept)).status == 201
    desk.clock.advance(timedelta(days=1))
    take(desk, Standing.RESTRICTED, requires="accept", deadline=desk.clock() + timedelta(days=2), then=Standing.TERMINATED)
    assert asked(desk) == "tos_reaccept"
    (series,) = at(desk, "/terms.json").json()["series"]
    assert (series["state"], series["to_accept"]["version"]) == ("again", "2026-11")
    fields = fields_of(at(desk, "/terms", headers=HTML), "/account/terms/accept")
    assert fields["version"] == "2026-11"
    assert fields_of(at(desk, "/terms/2026-11", headers=HTML), "/account/terms/accept")["version"] == "2026-11"
    desk.clock.advance(timedelta(hours=1))
    assert [at(desk, "/terms/accept", **sent(accept)).status for _ in range(2)] == [201, 200]
    assert asked(desk) == ""
    assert standing(desk)["measures"][0]["state"] == "done"
    assert at(desk, "/terms.json").json()["series"][0]["state"] == "binding"
    desk.clock.advance(timedelta(days=9))
    assert asked(desk) == ""


def test_terms_that_bind_without_acceptance_can_be_asked_for_too() -> None:
    desk = desk_of()
    assert at(desk, "/terms/accept", **sent({"version": "2026-11", "accepted_by": "Sam"})).status == 409
    take(desk, Standing.WARNED, requires="accept", deadline=desk.clock() + timedelta(days=1), then=Standing.SUSPENDED)
    desk.clock.advance(timedelta(days=2))
    assert asked(desk) == "tos_account_suspended"
    assert at(desk, "/terms/accept", **sent({"version": "2026-11", "accepted_by": "Sam"})).status == 201
    assert asked(desk) == ""


# Administrators


def test_an_administrator_takes_and_lifts_measures() -> None:
    desk = desk_of()
    given = {
        "step": "suspended",
        "reason": "copied outputs",
        "clauses": ["serve"],
        "evidence": "case 7",
        "requires": "contact",
        "deadline": "2030-01-01T00:00:00Z",
        "then": "terminated",
    }
    taken = administer(desk, "/accounts/solo/measures", given)
    assert taken.status == 201
    name = taken.json()["measure"]
    shown = administer(desk, "/accounts/solo").json()
    assert (shown["standing"]["step"], shown["standing"]["measure"], shown["standing"]["changes"]) == (
        "suspended",
        name,
        "2030-01-01T00:00:00Z",
    )
    (measure,) = shown["account"]["measures"]
    assert (measure["issuer"], measure["evidence"], measure["automated"]) == ("dana", "case 7", False)
    assert asked(desk) == "tos_account_suspended"
    assert administer(desk, f"/accounts/solo/measures/{name}/lift", {"reason": "a mistake"}).status == 200
    assert asked(desk) == ""
    assert administer(desk, f"/accounts/solo/measures/{name}/lift", {"reason": "again"}).status == 409


@pytest.mark.parametrize(
    ("path", "members", "status"),
    [
        ("/accounts/solo/measures", {"step": "good", "reason": "x"}, 400),
        ("/accounts/solo/measures", {"step": "suspended"}, 400),
        ("/accounts/solo/measures", {"step": "suspended", "reason": "x", "lifted": "2026-01-01T00:00:00Z"}, 400),
        ("/accounts/solo/measures", {"step": "suspended", "reason": "x", "then": "terminated"}, 400),
        ("/accounts/solo/measures", {"step": "suspended", "reason": "x", "requires": "verify"}, 409),
        ("/accounts/solo/measures", {"step": "suspended", "reason": "x", "id": "m-1"}, 409),
        ("/accounts/nobody/measures", {"step": "suspended", "reason": "x"}, 404),
        ("/accounts/solo/measures/m-9/lift", {"reason": "x"}, 404),
        ("/accounts/solo/measures/m-1/lift", {}, 400),
        ("/appeals/ap_unknown/decide", {"upheld": True, "answer": "Yes."}, 404),
        ("/appeals/ap_unknown", None, 404),
    ],
)
def test_what_an_administrator_cannot_do_is_refused(path: str, members: Any, status: int) -> None:
    desk = desk_of()
    take(desk)
    assert administer(desk, path, members).status == status


@pytest.mark.parametrize("query", ["state=open", "limit=0", "more=1"])
def test_a_list_of_appeals_is_asked_for_in_known_words(query: str) -> None:
    assert administer(desk_of(), "/appeals", query=query).status == 400


def test_appeals_come_in_pages() -> None:
    desk = desk_of()
    for number in range(3):
        take(desk, measure_id=f"m-{number}")
        appeal(desk, f"m-{number}")
    first = administer(desk, "/appeals", query="limit=2").json()
    second = administer(desk, "/appeals", query=f"limit=2&after={first['next']}").json()
    assert [one["measure"] for one in (*first["appeals"], *second["appeals"])] == ["m-0", "m-1", "m-2"]
    assert second["next"] is None
