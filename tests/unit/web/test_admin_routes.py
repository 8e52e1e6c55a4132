"""The admin routes, driven without a server: what administrators do, what is kept of it, and what is refused."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta
from typing import Any

import pytest

from desk import ISSUER, JANE, Desk, Page, contract, sent, terms, visit
from sample_records import sample_record
from tos_guard.errors import ConfigurationError
from tos_guard.guard import Meter, RequestView
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.rights import Account, hash_secret, parse_api_key
from tos_guard.stores import MemoryLimits
from tos_guard.testing import FixedClock
from tos_guard.types import SubjectKind
from tos_guard.verify import verify_receipt
from tos_guard.web import AdminRoutes
from tos_guard.web._routes import WebRequest, segments_of

REQUESTS = Limit(id="requests", quantity=Quantity.REQUESTS, amount=10, per=(Dimension.ACCOUNT,), window=Sliding(60))
SHARED = Limit(id="shared", quantity=Quantity.TOKENS, amount=10, per=(Dimension.ORGANIZATION,), window=Sliding(60))


def limited(**more: Any) -> Desk:
    clock = FixedClock()
    return Desk(clock=clock, overrides={"meter": Meter((REQUESTS, SHARED)), "limits": MemoryLimits(clock=clock)}, **more)


def at(desk: Desk, path: str, *, key: str | None = "admin", **more: Any) -> Page:
    credential = desk.admin_key if key == "admin" else key
    return visit(AdminRoutes(desk.guard), desk.guard, f"/admin{path}", key=credential, **more)


def done(desk: Desk, path: str, members: Any, status: int = 200) -> Any:
    answer = at(desk, path, **sent(members))
    assert answer.status == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def every_route() -> list[tuple[str, str]]:
    desk = Desk()
    routes = AdminRoutes(desk.guard)._routes
    return [(method, "".join(f"/{part or 'solo'}" for part in pattern)) for method, pattern, _ in routes]


@pytest.mark.parametrize(("method", "path"), [*every_route(), ("GET", "/nothing"), ("OPTIONS", ""), ("DELETE", "/accounts/solo")])
def test_no_route_without_authentication(method: str, path: str) -> None:
    """Nor with an account's key; and nobody learns what there is."""
    desk = Desk()
    for key in (None, desk.keys["solo"], desk.admin_key[:-1] + "!", "x"):
        refused = at(desk, path, key=key, method=method)
        assert (refused.status, refused.json()["code"], refused.headers["www-authenticate"]) == (401, "tos_unauthenticated", "Bearer")


def test_the_index_names_the_administrator_and_the_routes() -> None:
    index = at(Desk(), "").json()
    assert (index["administrator"], index["issuer"]) == ("dana", ISSUER)
    assert "/admin/accounts/*/suspend" in index["routes"]


# Accounts


def test_an_account_is_added_given_a_key_and_shown() -> None:
    desk = Desk()
    made = done(desk, "/accounts", {"id": "new", "models": ["small"], "organization": "acme-corp", "region": "DE"}, 201)
    assert made["account"]["version"] == 1
    key = done(desk, "/accounts/new/keys", {"label": "laptop"}, 201)["key"]
    public_id, secret = parse_api_key(key["text"])
    assert desk.store.by_api_key(public_id, hash_secret(secret, desk.store.pepper())) == desk.store.by_id("new")
    shown = at(desk, "/accounts/new")
    assert shown.json()["keys"][0]["label"] == "laptop"
    assert secret not in shown.text, "the secret is shown once"
    revoked = done(desk, f"/accounts/new/keys/{public_id}/revoke", {"reason": "lost"})
    assert revoked["key"]["revoked"] is not None
    assert desk.store.by_api_key(public_id, hash_secret(secret, desk.store.pepper())) is None
    assert at(desk, "/accounts", **sent({"id": "new"})).status == 409
    steps = at(desk, "/accounts/new/history").json()["history"]
    assert [(step["what"], step["actor"], step["reason"]) for step in steps] == [
        ("key_revoked", "dana", "lost"),
        ("key_added", "dana", ""),
        ("added", "dana", ""),
    ]


def test_a_change_names_the_version_that_was_read() -> None:
    """Two administrators do not undo each other's change unknowingly; what was not sent stays, and null takes away."""
    desk = Desk()
    changed = done(desk, "/accounts/acme", {"version": 1, "models": ["large"], "reason": "asked for"})["account"]
    assert (changed["version"], changed["models"], changed["organization"]) == (2, ["large"], "acme-corp")
    assert len(changed["grants"]) == 1
    stale = at(desk, "/accounts/acme", **sent({"version": 1, "models": ["small"], "reason": "late"}))
    assert (stale.status, stale.json()["code"]) == (409, "tos_conflict")
    assert "version 2" in stale.json()["detail"]
    moved = done(desk, "/accounts/acme", {"version": 2, "organization": None, "kind": "enterprise", "reason": "moved"})["account"]
    assert (moved["organization"], moved["kind"], moved["models"]) == (None, "enterprise", ["large"])
    assert desk.store.history("acme")[-1].actor == "dana"


def test_accounts_come_in_pages() -> None:
    desk = Desk()
    for number in range(60):
        desk.store.add_account(Account(id=f"n-{number:02}"))
    names: list[str] = []
    after, pages = "", 0
    while pages == 0 or after:
        page = at(desk, "/accounts", query=f"after={after}").json()
        names += [account["id"] for account in page["accounts"]]
        assert len(page["accounts"]) <= 50
        after, pages = page["next"] or "", pages + 1
    assert names == sorted(account.id for account in desk.store.accounts())
    assert pages == 2
    assert len(at(desk, "/accounts", query="limit=1").json()["accounts"]) == 1
    for query in (
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=%C2%B2",
        "limit=1e2",
        "limit=9" * 3,
        "limit=1&limit=2",
        "a=1",
    ):
        assert at(desk, "/accounts", query=query).status == 400


def test_an_id_with_a_slash_is_one_name() -> None:
    """As long as the undecoded path is known."""
    raw = b"/api/admin/accounts/a%2Fb%20c/suspend"
    assert segments_of("/admin/accounts/a/b c/suspend", "/admin", raw, "/api") == ("accounts", "a/b c", "suspend")
    assert segments_of("/admin/accounts/a/b", "/admin", None, "") == ("accounts", "a", "b")
    assert segments_of("/admin/accounts/a/b", "/admin", b"/else", "") == ("accounts", "a", "b"), "what does not fit is not believed"
    assert segments_of("/admin", "/admin", b"/admin", "") == ()
    assert segments_of("/admin/\ufffd", "/admin", b"/admin/%ff", "") == ("\ufffd",)


def test_suspending_and_reinstating() -> None:
    desk = Desk()
    assert done(desk, "/accounts/solo/suspend", {"reason": "resells output"})["account"]["standing"] == "suspended"
    assert done(desk, "/accounts/solo/reinstate", {"reason": "appeal 7"})["account"]["standing"] == "good"
    assert [(step.what, step.detail, step.reason, step.actor) for step in desk.store.history("solo")[-2:]] == [
        ("standing", "suspended", "resells output", "dana"),
        ("standing", "good", "appeal 7", "dana"),
    ]
    assert at(desk, "/accounts/solo/suspend", **sent({})).status == 400, "nobody is suspended without a reason"


def test_grants_are_added_and_voided() -> None:
    desk = limited()
    grant = {"id": "g1", "type": "research", "models": ["small"], "limits": {"requests": 99}, "not_after": "2027-01-01T00:00:00Z"}
    made = done(desk, "/accounts/solo/grants", grant | {"reason": "paper", "evidence": "case 9"}, 201)["account"]["grants"][0]
    assert (made["issuer"], made["evidence"], made["limits"], made["not_after"]) == (
        "dana",
        "case 9",
        {"requests": 99},
        "2027-01-01T00:00:00Z",
    )
    assert at(desk, "/accounts/solo/grants", **sent(grant | {"reason": "again"})).status == 409
    voided = done(desk, "/accounts/solo/grants/g1/void", {"reason": "withdrawn"})["account"]["grants"][0]
    assert (voided["void_reason"], voided["voided"] is not None) == ("withdrawn", True)
    assert at(desk, "/accounts/solo/grants/g1/void", **sent({"reason": "again"})).status == 409
    assert at(desk, "/accounts/solo/grants/g2/void", **sent({"reason": "x"})).status == 404
    assert [step.actor for step in desk.store.history("solo")[-2:]] == ["dana", "dana"]


def test_limits_are_set_and_cleared() -> None:
    """For an account or an organization, by the names that the settings have: a misspelt one would limit nothing."""
    desk = limited()
    assert done(desk, "/accounts/solo/limits", {"limit": "requests", "amount": 50, "reason": "asked"})["account"]["limits"] == {
        "requests": 50
    }
    assert done(desk, "/accounts/solo/limits", {"limit": "requests", "amount": None})["account"]["limits"] == {}
    assert at(desk, "/accounts/solo/limits", **sent({"limit": "requests", "amount": None})).status == 409
    stored = done(desk, "/organizations/acme-corp/limits", {"limit": "shared", "amount": 7})["organization"]
    assert stored["limits"] == {"shared": 7}
    for path in ("/accounts/solo", "/organizations/acme-corp"):
        refused = at(desk, f"{path}/limits", **sent({"limit": "request", "amount": 1}))
        assert (refused.status, "requests, shared" in refused.json()["detail"]) == (400, True)
    grant = {"id": "g", "type": "x", "reason": "x", "limits": {"request": 1}}
    assert at(desk, "/accounts/solo/grants", **sent(grant)).status == 400


def test_end_users_are_blocked_by_name_or_hash() -> None:
    """The name is the account's own word for a person: what is kept is its hash."""
    desk = Desk()
    hashed = done(desk, "/accounts/solo/end-users/block", {"end_user": "user-7", "reason": "abuse"})["end_user"]
    assert hashed == desk.guard.end_user_hash("solo", "user-7")
    other = desk.guard.end_user_hash("solo", "user-8")
    assert done(desk, "/accounts/solo/end-users/block", {"hash": other, "reason": "abuse"}) == {"end_user": other}
    listed = at(desk, "/accounts/solo/end-users", query="limit=1").json()
    assert listed == {"end_users": [min(hashed, other)], "next": min(hashed, other)}
    assert at(desk, "/accounts/solo/end-users", query=f"after={listed['next']}").json()["end_users"] == [max(hashed, other)]
    assert at(desk, "/accounts/solo").json()["account"]["blocked_end_users"] == 2
    done(desk, "/accounts/solo/end-users/unblock", {"end_user": "user-7", "reason": "appeal"})
    assert desk.holder("solo").account.blocked_end_users == {other}
    assert at(desk, "/accounts/solo/end-users/unblock", **sent({"end_user": "user-7", "reason": "x"})).status == 409
    for members in ({"reason": "x"}, {"end_user": "a", "hash": other, "reason": "x"}, {"end_user": "", "reason": "x"}):
        assert at(desk, "/accounts/solo/end-users/block", **sent(members)).status == 400
    assert at(desk, "/accounts/solo/end-users/block", **sent({"hash": "user-7", "reason": "x"})).status == 409
    assert "user-7" not in json.dumps([step.detail for step in desk.store.history("solo")])


# Organizations


def test_organizations_are_added_and_changed() -> None:
    desk = Desk()
    person = {"id": "bo@b.example", "authority": "director"}
    assert done(desk, "/organizations", {"id": "b-corp", "name": "B", "authorized": [person]}, 201)["organization"]["authorized"] == [
        person
    ]
    changed = done(desk, "/organizations/b-corp", {"version": 1, "authorized": [], "reason": "left"})["organization"]
    assert (changed["version"], changed["name"], changed["authorized"]) == (2, "B", [])
    assert at(desk, "/organizations/b-corp", **sent({"version": 1, "name": "C", "reason": "x"})).status == 409
    assert [step["actor"] for step in at(desk, "/organizations/b-corp/history").json()["history"]] == ["dana", "dana"]
    assert [one["id"] for one in at(desk, "/organizations", query="limit=1").json()["organizations"]] == ["acme-corp"]
    assert at(desk, "/organizations", query="after=acme-corp").json() == {"next": None, "organizations": [changed]}
    twice = {"id": "c-corp", "authorized": [person, person]}
    assert at(desk, "/organizations", **sent(twice)).status == 400


# Terms


DOCUMENT = """
[terms]
version = "2027"
title = "Terms"
uri = "https://api.example.com/terms/2027"
text = "t.md"
effective = 2027-01-01
acceptance = "required"

[[clause]]
id = "use"
effect = "permit"
action = "generate"
"""


def test_terms_are_checked_then_published_for_ever() -> None:
    desk = Desk()
    looked = done(desk, "/terms", {"document": DOCUMENT, "text": "Be fair.", "check_only": True})
    assert (looked["terms"]["version"], looked["terms"]["published"]) == ("2027", None)
    assert desk.store.terms("2027") is None
    made = done(desk, "/terms", {"document": DOCUMENT, "text": "Be fair."}, 201)["terms"]
    assert (made["published_by"], made["acceptance"], made["effective"]) == ("dana", "required", "2027-01-01")
    assert done(desk, "/terms", {"document": DOCUMENT, "text": "Be fair."})["terms"] == made
    other = at(desk, "/terms", **sent({"document": DOCUMENT, "text": "Be unfair."}))
    assert (other.status, other.json()["code"]) == (409, "tos_conflict")
    assert [one["version"] for one in at(desk, "/terms").json()["terms"]] == ["2026-11", "2027"]
    shown = at(desk, "/terms/2027").json()
    assert (shown["text"], shown["document"]["terms"]["version"]) == ("Be fair.", "2027")
    assert at(desk, "/terms/2028").status == 404


@pytest.mark.parametrize(
    ("document", "text", "said"),
    [
        ("", "x", "document"),
        ("[terms", "x", "document:1"),
        (DOCUMENT, "", "text"),
        (DOCUMENT.replace('"permit"', '"allow"'), "x", "document:12"),
        (DOCUMENT + 'when = { region = ["DE"] }\n', "x", "no source"),
        (DOCUMENT.replace('effect = "permit"', 'effect = "oblige"\nduties = ["watermark"]'), "x", "cannot fulfil"),
    ],
)
def test_terms_that_no_guard_could_keep_are_not_published(document: str, text: str, said: str) -> None:
    desk = Desk()
    refused = at(desk, "/terms", **sent({"document": document, "text": text}))
    assert (refused.status, refused.json()["code"]) == (400, "tos_malformed_request")
    assert said in refused.json()["detail"]
    assert len(desk.store.terms_versions()) == 1


def test_only_terms_may_be_large() -> None:
    desk = Desk()
    routes = AdminRoutes(desk.guard)
    view = RequestView("POST", "/admin/terms", ())
    assert routes.body_limit(WebRequest(view, ("terms",))) == 2 * 1_048_576
    assert routes.body_limit(WebRequest(view, ("accounts",))) == 65_536
    text = "words " * 150_000
    assert at(desk, "/terms", **sent({"document": DOCUMENT, "text": text})).status == 201


# Acceptances


def test_what_was_signed_on_paper_is_recorded_and_withdrawn() -> None:
    desk = Desk(published=(contract(), terms("2026-10", date(2026, 10, 1))))
    body = {"subject": {"kind": "organization", "id": "acme-corp"}, "version": "acme-1", "accepted_by": JANE.id}
    made = done(
        desk, "/acceptances", body | {"authority": "order form 7", "at": "2026-11-05T09:00:00Z", "expires": "2027-11-05T09:00:00Z"}, 201
    )
    acceptance = made["acceptance"]
    assert (acceptance["recorded_by"], acceptance["identified_by"], acceptance["at"]) == ("dana", "administrator", "2026-11-05T09:00:00Z")
    verify_receipt(acceptance["receipt"], trust=desk.trust, now=desk.clock.now)
    assert at(desk, f"/acceptances/{acceptance['id']}").json() == made
    desk.clock.advance(timedelta(hours=1))
    taken = done(desk, f"/acceptances/{acceptance['id']}/withdraw", {"withdrawn_by": JANE.id, "reason": "letter"})["acceptance"]
    assert (taken["withdrawal"]["recorded_by"], taken["withdrawal"]["reason"]) == ("dana", "letter")
    verify_receipt(taken["withdrawal"]["receipt"], trust=desk.trust, now=desk.clock.now)
    alone = {"subject": {"kind": "account", "id": "solo"}, "version": "2026-10", "accepted_by": "Sam"}
    done(desk, "/acceptances", alone, 201)
    listed = at(desk, "/organizations/acme-corp/acceptances").json()["acceptances"]
    assert [one["id"] for one in listed] == [acceptance["id"]]
    assert [one["version"] for one in at(desk, "/accounts/solo/acceptances").json()["acceptances"]] == ["2026-10"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"accepted_by": "mallory@acme.example"}, 403),
        ({"version": "none"}, 404),
        ({"subject": {"kind": "organization", "id": "none"}}, 404),
        ({"subject": {"kind": "account", "id": "none"}}, 404),
        ({"subject": {"kind": "account", "id": "acme"}}, 409),
        ({"subject": {"kind": "person", "id": "acme"}}, 400),
        ({"subject": "acme"}, 400),
        ({"at": "2026-11-05"}, 400),
        ({"at": "2026-11-05T09:00:00"}, 400),
        ({"at": "9999-12-31T23:59:59Z"}, 400),
        ({"expires": "2020-01-01T00:00:00Z"}, 400),
        ({"expires": "9999-12-31T23:59:59-14:00"}, 400),
        ({"at": "0001-01-01T00:00:00+14:00"}, 400),
        ({"authority": "x" * 201}, 400),
    ],
)
def test_what_cannot_have_been_accepted_is_not_recorded(change: dict[str, Any], status: int) -> None:
    desk = Desk(published=(contract(),))
    body = {"subject": {"kind": "organization", "id": "acme-corp"}, "version": "acme-1", "accepted_by": JANE.id}
    assert at(desk, "/acceptances", **sent(body | change)).status == status
    assert desk.store.acceptances(SubjectKind.ORGANIZATION, "acme-corp") == ()


# Records


def test_a_record_is_found_by_request_and_token_id() -> None:
    desk = Desk()
    record = sample_record("req_1", issuer=ISSUER, jti="tok_1", account_id="solo")
    desk.store.append(record).result()
    for name in ("req_1", "tok_1"):
        assert at(desk, f"/records/{name}").json() == {"account": "solo", "record": record.to_document()}
    assert at(desk, "/records/req_2").status == 404


# Hostile input


POSTS = [path for method, path in every_route() if method == "POST"]
BODIES: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b'{"reason": 1}',
    b'{"reason": "x", "reason": "x"}',
    b'{"reason": ""}',
    b'{"unknown": "x"}',
    b'{"reason": "\\ud800"}',
    b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    b"\xff\xfe",
    b'{"version": 1e400, "reason": "x"}',
    b'{"version": 99999999999999999999999999, "reason": "x"}',
    b'{"version": true, "reason": "x"}',
    b'{"version": "1", "reason": "x"}',
    b'{"id": "", "type": "", "reason": "x"}',
    b'{"id": "a\\u0000b", "self": 1}',
    b'{"id": {"$ne": 1}}',
    b'{"models": {"a": 1}, "version": 1, "reason": "x"}',
    b'{"models": [1], "version": 1, "reason": "x"}',
    b'{"limit": "requests", "amount": -1}',
    b'{"limit": "requests", "amount": 1.5}',
    b'{"limit": "requests", "amount": 281474976710657}',
    b'{"id": "g", "type": "t", "reason": "x", "not_before": "2027-01-01T00:00:00Z", "not_after": "2026-01-01T00:00:00Z"}',
    b'{"id": "g", "type": "t", "reason": "x", "not_before": 5}',
    b'{"document": 1, "text": []}',
    b'{"id": "x", "authorized": [{"id": "a"}]}',
    b'{"id": "x", "authorized": ' + json.dumps([{"id": "a", "authority": "b"}] * 1_001).encode() + b"}",
]


@pytest.mark.parametrize("path", POSTS)
def test_hostile_bodies_are_clear_4xx_in_the_shape_of_every_refusal(path: str) -> None:
    desk = limited()
    for body in BODIES:
        for media_type in ("application/json", "text/plain"):
            refused = at(desk, path, method="POST", headers={"content-type": media_type}, body=body)
            assert 400 <= refused.status < 500, (body, refused.text)
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json().keys() >= {"code", "detail", "request_id"}
            assert len(refused.body) < 2_000
            assert "Error" not in refused.json()["detail"]


@pytest.mark.parametrize("name", ["nobody", "a\x00b", "\ufffd", "'; DROP TABLE account; --", "x" * 5_000, "..", "<script>"])
def test_hostile_names_are_404(name: str) -> None:
    desk = Desk()
    for method, pattern in every_route():
        path = pattern.replace("solo", name)
        if "solo" not in pattern:
            continue
        body = {"reason": "x", "version": 1, "withdrawn_by": JANE.id}
        answer = at(desk, path, method=method, headers={"content-type": "application/json"}, body=json.dumps(body).encode())
        assert answer.status in (400, 404), (path, answer.text)
        assert len(answer.body) < 2_000


@pytest.mark.parametrize(
    ("path", "allowed"), [("/accounts", "GET, POST"), ("/accounts/solo/suspend", "POST"), ("/records/x", "GET"), ("", "GET")]
)
def test_another_method_is_told_which_there_are(path: str, allowed: str) -> None:
    for method in ("DELETE", "PUT", "OPTIONS"):
        answer = at(Desk(), path, method=method)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)


def test_every_change_names_who_made_it() -> None:
    """No POST leaves a step without the administrator's name."""
    desk = limited()
    done(desk, "/accounts/solo/limits", {"limit": "requests", "amount": 5})
    done(desk, "/accounts/solo/end-users/block", {"end_user": "u", "reason": "x"})
    done(desk, "/accounts/solo/suspend", {"reason": "x"})
    done(desk, "/accounts/solo", {"version": 4, "kind": "trial", "reason": "x"})
    actors = {step.what: step.actor for step in desk.store.history("solo") if step.what not in ("added", "key_added")}
    assert actors == dict.fromkeys(("limit_set", "end_user_blocked", "standing", "changed"), "dana")


def test_the_hosts_administrator_is_the_one_named() -> None:
    desk = Desk(overrides={"authorize_admin": lambda view: {None: None, "t": "erin"}[view.host]})
    assert at(desk, "/accounts/solo/suspend", host="t", **sent({"reason": "x"})).status == 200
    assert desk.store.history("solo")[-1].actor == "erin"
    assert at(desk, "/accounts").status == 401


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"admin_routes": None}, "no path is set"),
        ({"admin_routes": "/v1/chat"}, "/v1/chat/completions"),
        ({"admin_routes": "/account/x"}, "/account"),
    ],
)
def test_a_path_that_is_taken_stops_the_start(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        AdminRoutes(Desk(settings=settings).guard)


@pytest.mark.parametrize("missing", ["store", "receipts"])
def test_a_guard_without_a_store_stops_the_start(missing: str) -> None:
    with pytest.raises(ConfigurationError, match="no store to administer"):
        AdminRoutes(Desk(overrides={missing: None}).guard)
