"""The account routes, driven without a server: what they say, to whom, and what they refuse."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from desk import CHAT, HTML, ISSUER, JANE, JSON, Desk, Page, contract, form, sent, terms, visit
from tos_guard.errors import ConfigurationError
from tos_guard.guard import Meter, RequestView
from tos_guard.ledger import KeptSeal, SealKind
from tos_guard.limits import Amounts, Calendar, Dimension, Limit, Quantity, Sliding
from tos_guard.rights import Account, AuthorizedPerson, BearerIdentity, Grant, Organization, hash_secret, new_api_key
from tos_guard.stores import MemoryLimits
from tos_guard.testing import FixedClock, SeededEntropy
from tos_guard.types import Facts, Standing, SubjectKind
from tos_guard.verify import ExpectedReceipt, verify_receipt
from tos_guard.web import AccountRoutes
from tos_guard.web._routes import WebRequest

PAGES = ("", "/terms", "/standing", "/rights", "/usage", "/receipts")


def at(desk: Desk, path: str, account: str | None = "solo", **more: Any) -> Page:
    key = None if account is None else desk.keys[account]
    return visit(AccountRoutes(desk.guard), desk.guard, f"/account{path}", key=key, **more)


def as_jane(**more: Any) -> Desk:
    """The host names the person."""
    return Desk(overrides={"acceptor": lambda view, account: JANE.id}, **more)


def fields_of(page: Page, action: str) -> dict[str, str]:
    """Hidden fields of the form that leads to *action*."""
    found = re.search(rf'<form [^>]*action="[^"]*{action}"[^>]*>.*?</form>', page.text, re.DOTALL)
    assert found is not None, page.text
    hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', found[0])
    return dict(hidden)


def state(desk: Desk, account: str = "solo") -> str:
    series = at(desk, "/terms.json", account).json()["series"]
    return str(series[0]["state"])


# Who may look


@pytest.mark.parametrize("path", [*PAGES, "/terms/2026-11", "/receipts/acc_x", "/nothing", "/terms/accept"])
def test_without_a_credential_nothing_is_said(path: str) -> None:
    """Not even what there is."""
    for method in ("GET", "POST", "OPTIONS", "HEAD", "DELETE"):
        answer = at(Desk(), path, None, method=method)
        assert (answer.status, answer.json()["code"], answer.headers["www-authenticate"]) == (401, "tos_unauthenticated", "Bearer")


def test_an_administrators_key_is_no_account() -> None:
    desk = Desk()
    assert visit(AccountRoutes(desk.guard), desk.guard, "/account", key=desk.admin_key).status == 401


@pytest.mark.parametrize("path", PAGES)
def test_who_has_accepted_nothing_may_look(path: str) -> None:
    desk = Desk()
    assert state(desk) == "refused"
    assert at(desk, path).status == 200


@pytest.mark.parametrize("standing", [Standing.SUSPENDED, Standing.TERMINATED])
def test_a_suspended_account_reads_its_rights_receipts_and_where_to_appeal(standing: Standing) -> None:
    desk = Desk()
    made = at(desk, "/terms/accept", **sent({"version": "2026-11", "accepted_by": "Sam"})).json()
    desk.store.set_standing("solo", standing, "abuse")
    overview = at(desk, "/overview.json").json()
    assert (overview["served"], overview["appeal_url"], overview["account"]["standing"]) == (False, f"{ISSUER}/appeal", standing)
    for path in PAGES:
        assert at(desk, path).status == 200
    assert f'href="{ISSUER}/appeal"' in at(desk, "").text
    assert f'href="{ISSUER}/appeal"' in at(desk, "/rights").text
    assert at(desk, f"/receipts/{made['acceptance']['id']}").status == 200


# Seals that nothing could carry


def test_an_account_fetches_the_seals_of_its_responses() -> None:
    """Token, and leaves where the token does not hold them, under the request id; nothing is told of another account's."""
    desk = Desk()
    named: dict[str, Any] = {"issuer": ISSUER, "jti": "j", "sub": "s", "req": "q", "kept": 0, "until": 2**52, "token": "a.b.c"}
    for account_id, rid, kind, leaves in (
        ("solo", "req_1", SealKind.REQUEST, ((0, "body", "d" * 43),)),
        ("solo", "req_2", SealKind.REQUEST, None),
        ("solo", "req_3", SealKind.RESPONSE, None),
        ("acme", "req_4", SealKind.REQUEST, None),
    ):
        desk.store.keep([KeptSeal(account_id=account_id, kind=kind, key=rid, rid=rid, leaves=leaves, **named)]).result(30)
    found = at(desk, "/seals/req_1")
    assert (found.status, found.headers["content-type"], found.headers["cache-control"]) == (200, "application/json", "no-store")
    assert found.json() == {"request_id": "req_1", "token": "a.b.c", "leaves": [[0, "body", "d" * 43]]}
    assert at(desk, "/seals/req_2").json() == {"request_id": "req_2", "token": "a.b.c"}
    for rid in ("req_3", "req_4", "req_5", "", "%F0%28", "a" * 4_000):
        missing = at(desk, f"/seals/{rid}")
        assert (missing.status, missing.headers.get("retry-after")) == (404, "1")
    assert at(desk, "/seals/req_1", method="POST").status == 405


# Forms of an answer


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_a_document_with_the_same_facts(path: str) -> None:
    """By its path and by what the client accepts; a client that names nothing gets the page."""
    desk = Desk()
    page = at(desk, path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    twin = re.search(r'<a href="/account(/[^"]*\.json)">', page.text)
    assert twin is not None
    documents = [at(desk, twin[1]), at(desk, path, headers=JSON), at(desk, path, headers={"accept": "text/html;q=0.5, application/json"})]
    assert {document.headers["content-type"] for document in documents} == {"application/json"}
    assert documents[0].json() == documents[1].json() == documents[2].json()
    for accept in ("text/html", "*/*", "", "application/json;q=0, text/html", "text/html, application/json;q=0.9", "x" * 9_000, ",;q=,"):
        assert at(desk, path, headers={"accept": accept}).headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", [*PAGES, "/terms/2026-11"])
def test_a_page_brings_all_it_needs_and_runs_nothing(path: str) -> None:
    """Its policy allows its own style alone; nothing is fetched, framed or kept."""
    desk = Desk()
    page = at(desk, path)
    assert "<script" not in page.text
    assert " style=" not in page.text
    assert re.search(r"""(src|srcset|@import|url\()""", page.text) is None
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (page.headers["cache-control"], page.headers["x-content-type-options"], page.headers["x-frame-options"]) == (
        "no-store",
        "nosniff",
        "DENY",
    )
    assert "access-control-allow-origin" not in page.headers
    assert page.text.startswith('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">')
    assert page.text.count("<h1>") == page.text.count("<main ") == 1


def test_links_stand_below_what_the_app_is_mounted_under() -> None:
    desk = Desk()
    routes = AccountRoutes(desk.guard)
    view = RequestView("GET", "/account", [(b"x-api-key", desk.keys["solo"].encode())])
    request = WebRequest(view, (), root='/api"><b>')
    status, _, body = desk.guard.run(routes.answer(desk.guard.run(routes.enter(request)), request))
    assert status == 200
    assert b'href="/api&quot;&gt;&lt;b&gt;/account/terms"' in body


def test_a_browser_that_is_refused_gets_a_page_and_a_program_the_problem() -> None:
    desk = Desk()
    page = at(desk, "/nothing", headers=HTML)
    assert page.status == 404
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "tos_not_found" in page.text
    assert "content-security-policy" in page.headers
    problem = at(desk, "/nothing")
    assert (problem.status, problem.headers["content-type"]) == (404, "application/problem+json")
    assert problem.json().keys() >= {"code", "detail", "request_id", "terms_url"}
    assert at(desk, "/nothing.json", headers=HTML).headers["content-type"] == "application/problem+json"
    unknown = at(desk, "", None, headers=HTML)
    assert (unknown.status, unknown.headers["www-authenticate"]) == (401, "Bearer")
    assert "solo" not in unknown.text


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        *((path, method, "GET, HEAD") for path in (*PAGES, "/terms/2026-11") for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH")),
        ("/terms/accept", "PUT", "POST"),
        ("/terms/withdraw", "DELETE", "POST"),
    ],
)
def test_another_method_is_told_which_there_are(path: str, method: str, allowed: str) -> None:
    answer = at(Desk(), path, method=method)
    assert (answer.status, answer.headers["allow"], answer.json()["code"]) == (405, allowed, "tos_method_not_allowed")


# Terms


def test_terms_say_what_is_to_accept_and_who_may() -> None:
    desk = Desk(published=(contract(), terms("2027", date(2027, 1, 1))))
    document = at(desk, "/terms.json", "acme").json()
    assert [(one["series"], one["state"], one["to_accept"]["version"]) for one in document["series"]] == [
        ("general", "refused", "2026-11"),
        ("acme-contract", "refused", "acme-1"),
    ]
    assert document["series"][1]["to_accept"]["text"] == contract().text
    assert [one["version"] for one in document["upcoming"]] == ["2027"]
    assert document["who_accepts"]["kind"] == "organization"
    assert document["who_accepts"]["may_not"]["message"].startswith("a name alone is not enough")
    assert JANE.id not in json.dumps(document), "who may is told by office, since a name could be used"
    page = at(desk, "/terms", "acme").text
    assert "general counsel" in page
    assert "<form" not in page


def test_terms_in_grace_say_until_when() -> None:
    desk = Desk()
    at(desk, "/terms/accept", **sent({"version": "2026-11", "accepted_by": "Sam"}))
    desk.store.publish_terms(terms("2026-12", date(2026, 11, 22), "grace_days = 30"))
    (series,) = at(desk, "/terms.json").json()["series"]
    assert (series["state"], series["accept_by"], series["binding"]["version"]) == ("grace", "2026-12-23T00:00:00Z", "2026-11")
    assert "23 December 2026, 00:00" in at(desk, "/terms").text
    assert at(desk, "/overview.json").json()["served"] is True


def test_another_organizations_contract_is_not_there() -> None:
    """Neither in the list nor by its name, in any form."""
    desk = Desk(published=(contract(text="The secret price."),))
    for path in ("/terms", "/terms.json", "/terms/acme-1", "/terms/acme-1.json", "/terms/acme-1.txt"):
        assert "secret price" not in at(desk, path).text
        assert "secret price" in at(desk, path, "acme").text or path.endswith("acme-1.json")
    assert at(desk, "/terms/acme-1").status == at(desk, "/terms/none").status == 404


def test_a_version_is_served_byte_for_byte() -> None:
    desk = Desk()
    assert at(desk, "/terms/2026-11.txt").body == desk.general.text.encode()
    assert at(desk, "/terms/2026-11.json").body == at(desk, "/terms/2026-11", headers=JSON).body == desk.general.document_bytes


def test_a_version_whose_name_looks_like_a_form_is_that_version() -> None:
    odd = terms("v1.json", date(2026, 11, 20))
    desk = Desk(published=(odd,))
    assert "version v1.json" in at(desk, "/terms/v1.json").text
    assert at(desk, "/terms/v1.json.json").body == odd.document_bytes


# Accepting


def test_accepting_by_json() -> None:
    desk = Desk()
    made = at(desk, "/terms/accept", **sent({"version": "2026-11", "sha256": desk.general.sha256, "accepted_by": "Sam Solo"}))
    assert made.status == 201
    acceptance = made.json()["acceptance"]
    assert (acceptance["accepted_by"], acceptance["identified_by"], acceptance["method"]) == ("Sam Solo", "declared", "account-route")
    verify_receipt(
        made.json()["receipt"],
        trust=desk.trust,
        now=desk.clock.now,
        terms_document=desk.general.document_bytes,
        terms_text=desk.general.text,
        expected=ExpectedReceipt(person="Sam Solo", subject_id="solo"),
    )
    assert state(desk) == "binding"
    again = at(desk, "/terms/accept", **sent({"version": "2026-11", "accepted_by": "Sam Solo"}))
    assert (again.status, again.json()) == (200, made.json())


def test_accepting_by_form() -> None:
    desk = Desk()
    fields = fields_of(at(desk, "/terms"), "/terms/accept") | {"agree": "yes", "accepted_by": "  Sam <b>Solo  "}
    made = at(desk, "/terms/accept", **form(fields))
    assert made.status == 201
    assert made.headers["content-type"] == "text/html; charset=utf-8"
    assert "Sam &lt;b&gt;Solo" in made.text
    (acceptance,) = desk.store.acceptances(SubjectKind.ACCOUNT, "solo")
    assert f'href="/account/receipts/{acceptance.id}"' in made.text
    assert acceptance.accepted_by == "Sam <b>Solo"
    assert at(desk, "/terms/accept", **form(fields)).status == 200, "a reload accepts once"
    as_json = form(fields) | {"headers": {"content-type": "application/x-www-form-urlencoded", **JSON}}
    assert at(desk, "/terms/accept", **as_json).json()["acceptance"]["id"] == acceptance.id


def test_the_hosts_person_accepts_for_the_organization() -> None:
    """Nobody is asked for a name; giving another is refused, since the record could name only one of them."""
    desk = as_jane(published=(contract(),))
    page = at(desk, "/terms", "acme")
    assert f"You act as <b>{JANE.id}</b>" in page.text
    assert 'name="accepted_by"' not in page.text
    fields = fields_of(page, "/terms/accept")
    assert at(desk, "/terms/accept", "acme", **form(fields | {"agree": "yes"})).status == 201
    other = at(desk, "/terms/accept", "acme", **sent({"version": "acme-1", "accepted_by": "mallory@acme.example"}))
    assert (other.status, other.json()["code"]) == (409, "tos_conflict")
    made = at(desk, "/terms/accept", "acme", **sent({"version": "acme-1", "accepted_by": JANE.id}))
    assert (made.status, made.json()["acceptance"]["identified_by"], made.json()["acceptance"]["authority"]) == (
        201,
        "host",
        "general counsel",
    )
    assert [one["state"] for one in at(desk, "/terms.json", "acme-2").json()["series"]] == ["binding", "binding"]


def test_the_host_may_know_nobody() -> None:
    desk = Desk(overrides={"acceptor": lambda view, account: None})
    assert (
        at(desk, "/terms/accept", **sent({"version": "2026-11", "accepted_by": "Sam"})).json()["acceptance"]["identified_by"] == "declared"
    )
    refused = at(desk, "/terms/accept", "acme", **sent({"version": "2026-11", "accepted_by": JANE.id}))
    assert (refused.status, refused.json()["code"], refused.json()["organization"]) == (403, "tos_may_not_accept", "acme-corp")
    assert refused.json()["appeal_url"] == f"{ISSUER}/appeal"


class Bearers:
    """Takes every token for one of this person."""

    def __init__(self, person: str | None, subject: str = "sub-1") -> None:
        self.person, self.subject = person, subject

    def verify(self, token: str, now: datetime) -> BearerIdentity:
        start, end = now - timedelta(minutes=1), now + timedelta(hours=1)
        return BearerIdentity(
            "https://login.example.com", "acme", self.subject, "client-1", None, None, self.person, frozenset(), start, end, "1"
        )

    def first_keys(self, token: str) -> None:
        return None

    def watch(self, told: Any) -> None:
        return None

    def fetched(self) -> dict[str, datetime]:
        return {}

    def close(self) -> None:
        return None


BEARER = {
    "issuer": "https://login.example.com",
    "jwks_uri": "https://login.example.com/jwks.json",
    "audience": ("https://api.example.com",),
}


@pytest.mark.parametrize(
    ("claim", "bearers", "authorized", "status"),
    [
        ("email", Bearers(JANE.id), JANE.id, 201),
        ("email", Bearers(None), "sub-1", 403),
        (None, Bearers(None), "sub-1", 201),
        (None, Bearers(None, "client-1"), "client-1", 403),
    ],
    ids=["claim", "claim-missing", "subject", "an-application-is-no-person"],
)
def test_a_bearer_tokens_person_accepts(claim: str | None, bearers: Bearers, authorized: str, status: int) -> None:
    """Where the settings name a claim it is that claim; else the subject, unless the token is an application's own."""
    desk = Desk(settings={"bearer": (BEARER | {"person_claim": claim},)}, overrides={"bearer": bearers})
    stored = desk.store.organization("acme-corp")
    assert stored is not None
    person = AuthorizedPerson(id=authorized, authority="director")
    desk.store.put_organization(stored.model_copy(update={"authorized": (person,)}))
    arguments = sent({"version": "2026-11", "accepted_by": authorized})
    made = visit(AccountRoutes(desk.guard), desk.guard, "/account/terms/accept", key="eyJ", **arguments)
    assert made.status == status
    if status == 201:
        assert made.json()["acceptance"]["identified_by"] == "bearer"


def test_a_form_without_a_token_of_its_page_changes_nothing() -> None:
    """Missing, of another account, of another person, expired, altered."""
    desk = Desk()
    own = fields_of(at(desk, "/terms"), "/terms/accept") | {"agree": "yes", "accepted_by": "Sam"}
    desk.store.add_account(Account(id="other"))
    stale = dict(own)
    foreign = fields_of(at(as_jane(), "/terms"), "/terms/accept")
    other_account = own | {"csrf": "1.x"}
    for fields in (
        {name: value for name, value in own.items() if name != "csrf"},
        other_account,
        own | {"csrf": foreign["csrf"]},
        own | {"csrf": own["csrf"][:-1] + ("A" if own["csrf"][-1] != "A" else "B")},
    ):
        refused = at(desk, "/terms/accept", **form(fields))
        assert refused.status == 403
        assert "tos_form_refused" in refused.text
    desk.clock.advance(timedelta(hours=5))
    assert at(desk, "/terms/accept", **form(stale)).status == 403
    assert desk.store.acceptances(SubjectKind.ACCOUNT, "solo") == ()


def test_another_accounts_token_does_not_count() -> None:
    desk = as_jane()
    theirs = fields_of(at(desk, "/terms", "acme"), "/terms/accept")
    assert at(desk, "/terms/accept", "solo", **form(theirs | {"agree": "yes"})).status == 403
    assert at(desk, "/terms/accept", "acme", **form(theirs | {"agree": "yes"})).status == 201


def test_a_form_without_consent_is_no_acceptance() -> None:
    desk = Desk()
    fields = fields_of(at(desk, "/terms"), "/terms/accept") | {"accepted_by": "Sam"}
    assert at(desk, "/terms/accept", **form(fields)).status == 400
    assert at(desk, "/terms/accept", **form(fields | {"agree": "no"})).status == 400


def test_json_by_another_name_is_not_read() -> None:
    """A page of another origin can send a form, or text that looks like JSON, but nothing that says it is JSON."""
    desk = Desk()
    body = json.dumps({"version": "2026-11", "accepted_by": "Sam"}).encode()
    for media_type in ("text/plain", "", "application/x-json", "multipart/form-data", "application/jsonx"):
        refused = at(desk, "/terms/accept", method="POST", headers={"content-type": media_type}, body=body)
        assert (refused.status, refused.json()["code"]) == (415, "tos_unsupported_media_type")
    for media_type in ("application/json", "Application/JSON; charset=utf-8"):
        assert at(desk, "/terms/accept", method="POST", headers={"content-type": media_type}, body=body).status in (200, 201)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"version": 1}',
        b'{"version": null, "accepted_by": "x"}',
        b'{"version": "2026-11"}',
        b'{"version": "2026-11", "accepted_by": "  "}',
        b'{"version": "2026-11", "accepted_by": "x", "acceptedBy": "y"}',
        b'{"version": "2026-11", "version": "2026-11", "accepted_by": "x"}',
        b'{"version": "2026-11", "accepted_by": "\\ud800"}',
        b'{"version": "2026-11", "accepted_by": "a\\u0000b"}',
        b'{"version": "2026-11", "accepted_by": "' + b"x" * 129 + b'"}',
        b'{"version": "2026-11", "accepted_by": NaN}',
        b'{"version": "2026-11", "accepted_by": ["x"]}',
        b'{"version": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        b"\xff\xfe{}",
    ],
)
def test_a_hostile_body_is_a_clear_400(body: bytes) -> None:
    desk = Desk()
    refused = at(desk, "/terms/accept", method="POST", headers={"content-type": "application/json"}, body=body)
    assert (refused.status, refused.json()["code"]) == (400, "tos_malformed_request")
    assert desk.store.acceptances(SubjectKind.ACCOUNT, "solo") == ()


@pytest.mark.parametrize(
    "body", [b"a=%ff", b"&".join(b"a%d=1" % n for n in range(30)), b"csrf=1&csrf=2", b"version=" + b"x" * 5_000, b"x=1"]
)
def test_a_hostile_form_is_refused(body: bytes) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert at(Desk(), "/terms/accept", method="POST", headers=headers, body=body).status == 400


def test_what_cannot_be_accepted_says_why() -> None:
    newer = terms("2026-12", date(2026, 11, 20))
    desk = Desk(published=(newer,))
    for version, status, code in (("2026-11", 409, "tos_conflict"), ("none", 404, "tos_not_found")):
        refused = at(desk, "/terms/accept", **sent({"version": version, "accepted_by": "Sam"}))
        assert (refused.status, refused.json()["code"]) == (status, code)
    other = at(desk, "/terms/accept", **sent({"version": "2026-12", "sha256": desk.general.sha256, "accepted_by": "Sam"}))
    assert other.status == 409
    assert "digest" in other.json()["detail"]


def test_terms_to_come_are_accepted_from_their_own_page() -> None:
    desk = Desk(published=(terms("2027", date(2027, 1, 1)),))
    fields = fields_of(at(desk, "/terms/2027"), "/terms/accept") | {"agree": "yes", "accepted_by": "Sam"}
    assert at(desk, "/terms/accept", **form(fields)).status == 201
    assert "<form" not in at(desk, "/terms/2027").text
    assert at(desk, "/terms.json").json()["upcoming"] == []


# Withdrawing


def test_withdrawing_by_form_and_json_refuses_again() -> None:
    desk = Desk()
    for way in ("form", "json"):
        made = at(desk, "/terms/accept", **sent({"version": "2026-11", "accepted_by": "Sam"})).json()["acceptance"]
        assert state(desk) == "binding"
        desk.clock.advance(timedelta(seconds=2))
        if way == "form":
            fields = fields_of(at(desk, "/terms"), "/terms/withdraw")
            assert fields["acceptance"] == made["id"]
            taken = at(desk, "/terms/withdraw", **form(fields | {"agree": "yes", "withdrawn_by": "Sam", "reason": "<i>why"}))
            assert "Taken back" in taken.text
        else:
            taken = at(desk, "/terms/withdraw", **sent({"acceptance": made["id"], "withdrawn_by": "Sam", "reason": "why"}))
            verify_receipt(taken.json()["receipt"], trust=desk.trust, now=desk.clock.now, expected=ExpectedReceipt(event="withdrawal"))
        assert taken.status == 200
        assert state(desk) == "refused"
        desk.clock.advance(timedelta(seconds=2))


def test_others_acceptances_are_not_there_to_withdraw() -> None:
    desk = as_jane()
    made = at(desk, "/terms/accept", "acme", **sent({"version": "2026-11"})).json()["acceptance"]
    refused = at(desk, "/terms/withdraw", "solo", **sent({"acceptance": made["id"]}))
    assert (refused.status, refused.json()["code"]) == (404, "tos_not_found")
    assert at(desk, f"/receipts/{made['id']}", "solo").status == 404


# Rights


def test_rights_say_models_grants_and_what_may_be_done_with_output() -> None:
    """What is the provider's own (who gave a grant, where its evidence lies) stays with the provider."""
    desk = Desk()
    start, end = datetime(2027, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    desk.store.add_grant("acme", Grant(id="later", type="research", not_before=start, issuer="dana", evidence="case 9", reason="paper"))
    desk.store.add_grant("acme", Grant(id="over", type="research", not_after=end))
    desk.store.add_grant("acme", Grant(id="gone", type="research"))
    desk.store.void_grant("acme", "gone", "never published")
    desk.store.block_end_user("acme", "eu_" + "A" * 22)
    document = at(desk, "/rights.json", "acme").json()
    assert (document["models"], document["actions"], document["blocked_end_users"]) == (["large", "small"], ["generate"], 1)
    assert {grant["id"]: grant["state"] for grant in document["grants"]} == {
        "lic-7": "active",
        "later": "to_come",
        "over": "ended",
        "gone": "voided",
    }
    assert document["grants"][0]["title"] == "Licence to distil"
    assert [(said["models"], [clause["id"] for clause in said["clauses"]]) for said in document["output"]] == [
        (["large"], ["no-competing-model"]),
        (["small"], []),
    ]
    page = at(desk, "/rights", "acme").text
    assert "Output trains no competing model." in page
    assert "You may not" in page
    for text in (page, json.dumps(document)):
        assert "dana" not in text
        assert "case 9" not in text
    assert "every model" in at(desk, "/rights", "acme-2").text


# Usage


def test_usage_says_amount_used_left_and_when_it_comes_back() -> None:
    clock = FixedClock()
    limits = (
        Limit(id="requests", quantity=Quantity.REQUESTS, amount=10, per=(Dimension.ACCOUNT,), window=Sliding(60)),
        Limit(id="spend", quantity=Quantity.COST, amount=5_000_000, per=(Dimension.ACCOUNT,), window=Calendar("month", "Europe/Berlin")),
        Limit(id="slots", quantity=Quantity.CONCURRENCY, amount=2, per=(Dimension.ACCOUNT,), window=None),
        Limit(id="each", quantity=Quantity.REQUESTS, amount=2, per=(Dimension.END_USER,), window=Calendar("day")),
        Limit(id="none", quantity=Quantity.REQUESTS, amount=0, per=(Dimension.ACCOUNT,), window=Sliding(86_400)),
        Limit(id="trial", quantity=Quantity.REQUESTS, amount=1, per=(Dimension.ACCOUNT,), window=Sliding(1), shadow=True),
    )
    engine = MemoryLimits(clock=clock)
    desk = Desk(clock=clock, overrides={"meter": Meter(limits), "limits": engine})
    charges = desk.guard.meter.charges(desk.holder("solo"), {}, Facts("generate", "small"), Amounts(requests=9, cost=1_500_000))
    engine.reserve([charge for charge in charges if charge.limit.id in ("requests", "spend", "slots")], id="r", lease=timedelta(minutes=1))
    document = at(desk, "/usage.json").json()
    told = {one["id"]: (one["amount"], one["used"], one["remaining"]) for one in document["limits"]}
    assert told == {
        "requests": (10, 9, 1),
        "spend": (5_000_000, 1_500_000, 3_500_000),
        "slots": (2, 1, 1),
        "each": (2, None, None),
        "none": (0, 0, 0),
    }
    requests = document["limits"][0]
    assert requests["window"] == {"seconds": 60}
    assert 0 < requests["reset_seconds"] <= 70
    assert document["limits"][1]["resets_at"] == "2026-11-30T23:00:00Z"
    page = at(desk, "/usage").text
    for words in ("10 requests in any minute", "5.00 of cost in a month of the calendar (Europe/Berlin)", "1.50 (30%)", "9 (90%)"):
        assert words in page
    for words in ("2 requests at a time", "when a response ends", "counted for each by itself", "in any day", "1 left"):
        assert words in page
    assert "trial" not in page


def test_without_limits_usage_says_so() -> None:
    assert "No limits hold for this account." in at(Desk(), "/usage").text


# Receipts


def test_receipts_are_listed_and_downloaded() -> None:
    desk = Desk()
    made = at(desk, "/terms/accept", **sent({"version": "2026-11", "accepted_by": "Sam"})).json()
    desk.clock.advance(timedelta(minutes=1))
    taken = at(desk, "/terms/withdraw", **sent({"acceptance": made["acceptance"]["id"], "withdrawn_by": "Sam"})).json()
    listed = at(desk, "/receipts.json").json()["receipts"]
    assert [(one["event"], one["title"], one["person"]) for one in listed] == [
        ("withdrawal", "Terms of service", "Sam"),
        ("acceptance", "Terms of service", "Sam"),
    ]
    for one, receipt in zip(listed, (taken["receipt"], made["receipt"]), strict=True):
        saved = at(desk, one["url"].removeprefix("/account"))
        assert (saved.text, saved.headers["content-type"]) == (receipt, "application/jwt")
        assert saved.headers["content-disposition"] == f'attachment; filename="{one["id"]}.jwt"'
        told = at(desk, one["url"].removeprefix("/account") + ".json").json()
        assert (told["receipt"], told["claims"]["jti"]) == (receipt, one["id"])
    assert at(desk, "/receipts/acc_" + "A" * 22).status == 404


# What stands in pages


NASTY = "</p><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def test_nothing_that_stands_in_a_page_becomes_a_part_of_it() -> None:
    """Names, reasons, titles and texts of others: each is text."""
    evil_terms = terms("2026-11", title=NASTY.replace('"', "'"), text=f"# {NASTY}\n- {NASTY}\n\n{NASTY}\n")
    evil = contract("acme-1", text=NASTY)
    desk = Desk(
        general=evil_terms,
        published=(replace(evil, title=NASTY),),
        settings={"acceptance": {"organization": "declared"}, "appeal_url": f"{ISSUER}/appeal?<script>'\""},
    )
    organization = desk.store.organization("acme-corp")
    assert organization is not None
    person = AuthorizedPerson(id=NASTY, authority=NASTY)
    desk.store.put_organization(organization.model_copy(update={"name": NASTY, "authorized": (person,)}))
    account = desk.holder("acme").account
    grants = (*account.grants, Grant(id="x", type="research", models=frozenset({NASTY}), reason=NASTY, limits={"a": 1}))
    desk.store.put_account(account.model_copy(update={"models": frozenset({NASTY}), "grants": grants}))
    desk.store.set_standing("acme", Standing.SUSPENDED, NASTY)
    desk.store.void_grant("acme", "x", NASTY)
    made = at(desk, "/terms/accept", "acme", **sent({"version": "2026-11", "accepted_by": NASTY})).json()["acceptance"]
    pages = [at(desk, path, "acme") for path in (*PAGES, "/terms/2026-11", "/terms/acme-1")]
    desk.clock.advance(timedelta(seconds=2))
    fields = fields_of(pages[1], "/terms/withdraw") | {"agree": "yes", "withdrawn_by": NASTY, "reason": NASTY}
    pages.append(at(desk, "/terms/withdraw", "acme", **form(fields)))
    pages += [at(desk, f"/{NASTY}", "acme", headers=HTML), at(desk, f"/terms/{NASTY}", "acme", headers=HTML)]
    assert made["accepted_by"] == NASTY
    assert sum(page.text.count("&lt;script&gt;") for page in pages) > 20
    for page in pages:
        assert page.headers["content-type"].startswith("text/html")
        assert re.search(r"<script|<img|onerror=(?!alert\(1\)&gt;)", page.text) is None
        inside = re.sub(r"<style>.*?</style>", "", page.text, flags=re.DOTALL)
        assert (
            re.findall(
                r"<(?!/?(?:html|head|meta|title|link|body|a|header|div|p|b|nav|ul|li|main|h[1-6]|section|span|svg|path|dl|dt|dd|code"
                r"|form|input|label|button|details|summary|time|table|thead|tbody|tr|th|td|rect|footer|ol|strong|em)\b|!doctype|/?style)",
                inside,
            )
            == []
        )


def test_an_account_with_nothing_has_pages() -> None:
    desk = Desk()
    desk.store.add_account(Account(id="bare", actions=frozenset()))
    key = new_api_key(SeededEntropy("bare"))
    desk.store.add_api_key("bare", key.public_id, hash_secret(key.secret, desk.store.pepper()))
    desk.keys["bare"] = key.text
    for path in (*PAGES, *(f"{path or '/overview'}.json" for path in PAGES)):
        assert at(desk, path, "bare").status == 200


def test_terms_that_are_not_in_effect_yet_say_so() -> None:
    desk = Desk(general=terms("2027", date(2027, 1, 1)))
    assert state(desk) == "to_come"
    assert "Not yet in effect" in at(desk, "/terms").text


# Where they are


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"account_routes": None}, "no path is set"),
        ({"account_routes": "/v1"}, "/v1/chat/completions"),
        ({"account_routes": "/v1/chat/completions"}, "/v1/chat/completions"),
        ({"account_routes": "/.well-known"}, "/.well-known"),
        ({"account_routes": "/.well-known/account"}, "/.well-known"),
        ({"account_routes": "/admin"}, "/admin"),
        ({"account_routes": "/admin/account"}, "/admin"),
        ({"account_routes": "/account", "admin_routes": "/account/admin"}, "/account/admin"),
        ({"exempt": ("/account/*",)}, "/account/"),
        ({"exempt": ("/acc*",)}, "/acc"),
        ({"exempt": ("/*",)}, "/\\*"),
        ({"exempt": ("/account/logo.png",)}, "/account/logo.png"),
        ({"routes": {"/*/terms": "openai-chat"}}, "terms"),
    ],
)
def test_a_path_that_is_taken_stops_the_start(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        AccountRoutes(Desk(settings=settings).guard)


@pytest.mark.parametrize("settings", [{"exempt": ("/healthz", "/accounting", "/static/*")}, {"routes": {"/v1/*/account": "openai-chat"}}])
def test_a_path_beside_them_is_no_clash(settings: dict[str, Any]) -> None:
    routes = AccountRoutes(Desk(settings=settings).guard)
    assert [routes.owns(path) for path in ("/account", "/account/", "/account/x", "/accounting", CHAT)] == [True, True, True, False, False]


@pytest.mark.parametrize("missing", ["store", "receipts"])
def test_a_guard_that_cannot_keep_acceptances_stops_the_start(missing: str) -> None:
    with pytest.raises(ConfigurationError, match="store to keep acceptances"):
        AccountRoutes(Desk(overrides={missing: None}).guard)


def test_an_organization_that_nobody_stored_is_told_what_to_do() -> None:
    desk = as_jane()
    page = at(desk, "/terms", "stray").text
    assert "Nobody is recorded who may accept" in page
    desk.store.add_organization(Organization(id="nobody-knows", authorized=(JANE,)))
    assert at(desk, "/terms/accept", "stray", **sent({"version": "2026-11"})).status == 201
