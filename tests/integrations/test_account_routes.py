"""Accepting terms on a real server: refused, accepted by JSON or in a form, served, withdrawn, refused again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Mount

from provisioned import Provider, now
from serving import Serve
from to_be_accepted import CHAT, EXAMPLES, JANE, QUESTION, provided
from tos_guard.errors import ConfigurationError
from tos_guard.guard import Guard, RequestView
from tos_guard.keys import parse_key_set
from tos_guard.rights import Account
from tos_guard.stores import load_terms
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind
from tos_guard.verify import ExpectedReceipt, Trust, verify_body, verify_receipt
from tos_guard_fastapi import TosGuard

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def host() -> FastAPI:
    """An app to guard."""
    app = FastAPI()

    @app.post(CHAT)
    async def chat() -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}]}

    return app


def session(view: RequestView) -> str | None:
    """A host that knows its people by a cookie: ``account:person``."""
    return _cookie(view)[0]


def acceptor(view: RequestView, account: Account) -> str | None:
    assert account.id == _cookie(view)[0]
    return _cookie(view)[1]


def _cookie(view: RequestView) -> tuple[str | None, str | None]:
    name, _, person = (view.header("cookie") or "").removeprefix("who=").partition(":")
    return name or None, person or None


@contextmanager
def serving(provider: Provider, serve: Serve, **overrides: Any) -> Iterator[httpx.Client]:
    app = host()
    TosGuard.from_file(provider.settings, **overrides).install(app)
    with serve(app) as base_url, httpx.Client(base_url=base_url) as client:
        yield client


def chat(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post(CHAT, json=QUESTION, headers=headers)


def accept_form(page: str) -> dict[str, str]:
    found = re.search(r'<form method="post" action="/account/terms/accept">.*?</form>', page, re.DOTALL)
    assert found is not None
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', found[0]))


@pytest.mark.parametrize("way", ["json", "form"])
def test_refused_accepted_served_withdrawn_refused(tmp_path: Path, serve: Serve, way: str) -> None:
    """The refusal says where to accept; who follows it is served; the token names the acceptance, and the receipt proves it."""
    provider = provided(tmp_path)
    terms = load_terms(provider.terms)
    with provider.store() as store:
        account = store.by_id("good")
        assert account is not None
        store.put_account(account.model_copy(update={"stable_sub": True}))  # tokens of others name no acceptance: it would link them
    key = {"authorization": f"Bearer {provider.keys['good']}"}
    with serving(provider, serve) as client:
        refused = chat(client, **key)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["who_may_accept"]) == (403, "tos_terms_not_accepted", "account")
        assert error["accept_url"] == f"{provider.issuer}/account/terms"
        path = error["accept_url"].removeprefix(provider.issuer)
        if way == "json":
            wanted = error["accept"][0]
            body = {"version": wanted["version"], "sha256": wanted["sha256"], "accepted_by": "Sam"}
            made = client.post(f"{path}/accept", json=body, headers=key)
            assert made.status_code == 201
            receipt = made.json()["receipt"]
        else:
            page = client.get(path, headers={**key, **BROWSER})
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            fields = accept_form(page.text) | {"accepted_by": "Sam", "agree": "yes"}
            made = client.post(f"{path}/accept", data=fields, headers={**key, **BROWSER})
            assert made.status_code == 201
            link = re.search(r'href="(/account/receipts/[^"]+)"', made.text)
            assert link is not None
            receipt = client.get(link[1], headers=key).text
        trust = Trust.of(parse_key_set(client.get("/.well-known/jwks.json").content))
        proven = verify_receipt(
            receipt,
            trust=trust,
            now=now(),
            terms_document=client.get("/account/terms/2026-11.json", headers=key).content,
            terms_text=client.get("/account/terms/2026-11.txt", headers=key).content,
            expected=ExpectedReceipt(subject_kind=SubjectKind.ACCOUNT, subject_id="good", person="Sam", version=terms.version),
        )
        assert (proven.document_checked, proven.text_checked) == (True, True)
        served = chat(client, **key)
        token = verify_body(served.content, trust=trust, now=now(), token=served.headers["ai-provenance"])
        assert token.claims.terms.receipt == proven.claims.jti
        taken = client.post("/account/terms/withdraw", json={"acceptance": proven.claims.jti, "withdrawn_by": "Sam"}, headers=key)
        assert taken.status_code == 200
        assert verify_receipt(taken.json()["receipt"], trust=trust, now=now()).claims.acceptance == proven.claims.jti
        assert chat(client, **key).status_code == 403
        assert client.get("/.well-known/ai-provenance").json()["account_uri"] == f"{provider.issuer}/account"
        assert len(client.get("/account/receipts.json", headers=key).json()["receipts"]) == 2


def test_an_organizations_contract_is_accepted_by_a_person_whom_the_host_names(tmp_path: Path, serve: Serve) -> None:
    """Two documents, one organization: both accepted by the authorized person's session, by nobody else's, and for all its accounts."""
    provider = provided(tmp_path)
    contract = load_terms(EXAMPLES / "contract-7-1.toml")
    with provider.store() as store:
        store.publish_terms(contract)
    with serving(provider, serve, identify=session, acceptor=acceptor) as client:
        wanted = [one["version"] for one in chat(client, cookie="who=acme").json()["error"]["accept"]]
        assert wanted == ["2026-11", contract.version]
        for cookie, body in (("who=acme", {"accepted_by": JANE}), ("who=acme:mallory@acme.example", {})):
            refused = client.post("/account/terms/accept", json={"version": "2026-11", **body}, headers={"cookie": cookie})
            assert (refused.status_code, refused.json()["code"]) == (403, "tos_may_not_accept")
        for version in wanted:
            made = client.post("/account/terms/accept", json={"version": version}, headers={"cookie": f"who=acme:{JANE}"})
            assert (made.status_code, made.json()["acceptance"]["identified_by"]) == (201, "host")
            assert made.json()["acceptance"]["subject"] == {"id": "acme-corp", "kind": "organization"}
        assert chat(client, cookie="who=acme").status_code == 200
        foreign = client.get(f"/account/terms/{contract.version}", headers={"cookie": "who=good:x"})
        assert foreign.status_code == 404


def test_a_name_is_enough_where_the_settings_say_so(tmp_path: Path, serve: Serve) -> None:
    provider = provided(tmp_path, 'acceptance = { organization = "declared" }')
    with serving(provider, serve, identify=session) as client:
        for name, status in (("mallory@acme.example", 403), (JANE, 201)):
            body = {"version": "2026-11", "accepted_by": name}
            assert client.post("/account/terms/accept", json=body, headers={"cookie": "who=acme"}).status_code == status


def test_a_form_of_another_site_is_refused_although_the_cookie_comes_along(tmp_path: Path, serve: Serve) -> None:
    """Without a token, with one of another session, or as text that looks like JSON."""
    provider = provided(tmp_path)
    with serving(provider, serve, identify=session, acceptor=acceptor) as client:
        victim = {"cookie": f"who=acme:{JANE}", "origin": "https://evil.example"}
        attackers = accept_form(client.get("/account/terms", headers={"cookie": "who=good:mallory"}).text)
        for fields in ({"version": "2026-11", "agree": "yes"}, attackers | {"agree": "yes"}):
            refused = client.post("/account/terms/accept", data=fields, headers=victim)
            assert (refused.status_code, refused.json()["code"]) == (403, "tos_form_refused")
        plain = client.post("/account/terms/accept", content='{"version": "2026-11"}', headers={**victim, "content-type": "text/plain"})
        assert plain.status_code == 415
        preflight = client.options("/account/terms/accept", headers={**victim, "access-control-request-method": "POST"})
        assert "access-control-allow-origin" not in preflight.headers
    with provider.store() as store:
        assert store.acceptances(SubjectKind.ORGANIZATION, "acme-corp") == ()


def test_hostile_requests_are_refused_in_the_shape_of_every_refusal(tmp_path: Path, serve: Serve) -> None:
    """Large, torn, doubled, and of no method there is: 4xx, counted, and never a 500."""
    provider = provided(tmp_path)
    key = {"authorization": f"Bearer {provider.keys['good']}"}
    app = host()
    guard = TosGuard.from_file(provider.settings)
    guard.install(app)
    with serve(app) as base_url, httpx.Client(base_url=base_url) as client:
        answers = [
            client.post("/account/terms/accept", content=b"x" * 65_537, headers={**key, "content-type": "application/json"}),
            client.post("/account/terms/accept", content=b"x" * 65_537),
            client.post("/account/terms/accept", content=b"{", headers={**key, "content-type": "application/json"}),
            client.request("PROPFIND", "/account/terms", headers=key),
            client.get("/account/terms/%2e%2e%2f%2e%2e%2fetc%2fpasswd", headers=key),
            client.get("/account/%00", headers=key),
            client.get("/account//terms", headers=key),
            client.get("/account/terms/%ff%fe", headers=key),
            client.get("/account/receipts/" + "x" * 5_000, headers=key),
            client.get("/account/terms", headers=[("authorization", "Bearer x"), ("authorization", "Bearer y")]),
            client.get("/account", headers={"x-api-key": "tg-" + "x" * 5_000}),
        ]
        statuses = [answer.status_code for answer in answers]
        assert statuses == [413, 401, 400, 405, 404, 404, 404, 404, 404, 401, 401]
        assert all(answer.json().keys() >= {"code", "detail", "request_id", "terms_url"} for answer in answers)
        assert client.head("/account/terms", headers=key).content == b""
        guard.guard.store.flush()  # type: ignore[union-attr]
    counts = guard.guard.counts
    assert (counts["denied:tos_request_too_large"], counts["denied:tos_unauthenticated"], counts["denied:tos_not_found"]) == (1, 3, 5)
    with provider.store() as store:
        rolled = {code: count for _, code, count in store.denial_counts(provider.issuer)}
    assert (rolled["tos_request_too_large"], rolled["tos_unauthenticated"]) == (1, 3)


def test_a_part_that_fails_is_503_and_nothing_is_half_done(tmp_path: Path, serve: Serve) -> None:
    """The receipt's key is gone: nothing is accepted, and the log says why."""
    provider = provided(tmp_path)
    key = {"authorization": f"Bearer {provider.keys['good']}"}
    with serving(provider, serve) as client:
        for path in (tmp_path / "keys").glob("*.key"):
            path.unlink()
        refused = client.post("/account/terms/accept", json={"version": "2026-11", "accepted_by": "Sam"}, headers=key)
        assert (refused.status_code, refused.json()["code"]) == (503, "tos_unavailable")
        page = client.post("/account/terms/accept", json={"version": "2026-11", "accepted_by": "Sam"}, headers={**key, **BROWSER})
        assert (page.status_code, "Not at present" in page.text) == (503, True)
    with provider.store() as store:
        assert store.acceptances(SubjectKind.ACCOUNT, "good") == ()


def test_below_a_root_path_links_lead_back(tmp_path: Path, serve: Serve) -> None:
    """As a proxy's prefix, or an app that is mounted."""
    provider = provided(tmp_path)
    app = host()
    TosGuard.from_file(provider.settings).install(app)
    outer = FastAPI()
    outer.router.routes.append(Mount("/api", app=app))
    key = {"authorization": f"Bearer {provider.keys['good']}"}
    with serve(outer) as base_url, httpx.Client(base_url=base_url) as client:
        page = client.get("/api/account/terms", headers=key)
        action = re.search(r'action="([^"]+/accept)"', page.text)
        assert action is not None
        assert action[1] == "/api/account/terms/accept"
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
        assert client.post(action[1], data=fields | {"agree": "yes", "accepted_by": "Sam"}, headers=key).status_code == 201
        for link in set(re.findall(r'href="(/api/[^"]+)"', page.text)):
            assert client.get(link, headers=key).status_code == 200


def test_routes_of_the_app_below_ours_stop_the_start(tmp_path: Path) -> None:
    """They would never be reached."""
    provider = provided(tmp_path)
    app = host()
    app.get("/account/logo")(lambda: "")
    guard = TosGuard.from_file(provider.settings)
    guard.install(app)
    with pytest.raises(ConfigurationError, match="/account/logo"):
        guard.check_routes(app)
    guard.guard.close_stores()


def test_a_clash_with_a_guarded_route_stops_the_start(tmp_path: Path) -> None:
    provider = provided(tmp_path)
    provider.settings.write_text(provider.settings.read_text().replace('"/account"', '"/v1/models"'))
    guard = TosGuard.from_file(provider.settings)
    with pytest.raises(ConfigurationError, match="/v1/models and /v1/models cannot both be served"):
        guard.install(host())
    guard.guard.close_stores()


def test_the_synchronous_guard_accepts_from_the_same_folder(tmp_path: Path) -> None:
    """Both colours sign with the folder's key for receipts, which is published with the others."""
    provider = provided(tmp_path)
    guard = Guard.from_file(provider.settings)
    assert guard.store is not None
    holder = guard.store.holder_by_id("good")
    assert holder is not None
    steps = guard.accept(
        holder, "2026-11", accepted_by="Sam", method=AcceptanceMethod.CLI, identified_by=Identification.ADMINISTRATOR, authority="letter"
    )
    made = guard.run(steps)
    assert made.receipt is not None
    assert verify_receipt(made.receipt, trust=provider.trust(), now=now()).claims.authority == "letter"
    guard.close_stores()
