"""The guides to the account and admin routes run as they stand, and list the routes that there are."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from desk import Desk
from provisioned import now
from serving import Serve
from to_be_accepted import CHAT, JANE, QUESTION, provided
from tos_guard.rights import Account, hash_secret, new_admin_key
from tos_guard.types import Standing, SubjectKind
from tos_guard.verify import verify_receipt
from tos_guard.web import AdminRoutes
from tos_guard_fastapi import TosGuard

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def blocks(guide: str) -> list[str]:
    """The Python of a guide, in order."""
    return re.findall(r"```python\n(.*?)```", (GUIDES / guide).read_text(encoding="utf-8"), re.DOTALL)


def host() -> FastAPI:
    """An app to guard."""
    app = FastAPI()

    @app.post(CHAT)
    async def chat() -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}]}

    return app


class Session:
    """A host's own authentication: who is signed in stands in a header of its own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            fields = {name.decode(): value.decode() for name, value in scope["headers"]}
            scope["state"] = {word: fields[f"x-{word}"] for word in ("customer", "person", "administrator") if f"x-{word}" in fields}
        await self.app(scope, receive, send)


def test_the_hosts_person_accepts_as_the_guide_shows(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    provided(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = host()
    exec(blocks("account-routes.md")[0], {"app": app})
    app.add_middleware(Session)
    with serve(app) as base_url:
        made = httpx.post(f"{base_url}/account/terms/accept", json={"version": "2026-11"}, headers={"x-customer": "acme", "x-person": JANE})
        assert (made.status_code, made.json()["acceptance"]["identified_by"]) == (201, "host")
        assert httpx.post(base_url + CHAT, json=QUESTION, headers={"x-customer": "acme"}).status_code == 200


def test_a_program_accepts_and_proves_as_the_guide_shows(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    provider = provided(tmp_path)
    app = host()
    TosGuard.from_file(provider.settings).install(app)
    with serve(app) as base_url:
        names: dict[str, Any] = {"key": provider.keys["good"], "pinned": httpx.get(f"{base_url}/.well-known/jwks.json").content}
        accept, prove = blocks("account-routes.md")[1:]
        exec(accept.replace("https://api.example.com", base_url), names)
        exec(prove, names)
        assert httpx.post(base_url + CHAT, json=QUESTION, headers={"x-api-key": provider.keys["good"]}).status_code == 200
    assert capsys.readouterr().out.endswith("Sam Solo 2026-11\n")


def test_the_hosts_administrator_works_as_the_guide_shows(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    provided(tmp_path, 'admin_routes = "/admin"')
    monkeypatch.chdir(tmp_path)
    app = host()
    exec(blocks("administration.md")[0], {"app": app})
    app.add_middleware(Session)
    with serve(app) as base_url:
        assert httpx.get(f"{base_url}/admin", headers={"x-administrator": "erin"}).json()["administrator"] == "erin"
        assert httpx.get(f"{base_url}/admin", headers={"x-customer": "acme"}).status_code == 401


def test_a_program_administers_as_the_guide_shows(tmp_path: Path, serve: Serve) -> None:
    provider = provided(tmp_path, 'admin_routes = "/admin"')
    key = new_admin_key(secrets.token_bytes)
    with provider.store() as store:
        store.add_admin_key("dana", key.public_id, hash_secret(key.secret, store.pepper()))
    app = host()
    TosGuard.from_file(provider.settings).install(app)
    with serve(app) as base_url:
        exec(blocks("administration.md")[1].replace("https://api.example.com", base_url), {"admin_key": key.text})
    with provider.store() as store:
        account = store.by_id("acme")
        assert account is not None
        assert "large" in account.models
        assert account.standing is Standing.SUSPENDED


def test_python_administers_as_the_guide_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the block does is in the store afterwards, with the name of who did it; and the receipt proves itself."""
    provider = provided(tmp_path)
    with provider.store() as store:
        store.add_account(Account(id="free"))
    terms = tmp_path / "terms"
    terms.mkdir()
    (terms / "acme-contract.toml").write_text(
        '[terms]\nversion = "acme-contract-1"\ntitle = "Contract"\nuri = "https://api.example.com/terms/acme-1"\ntext = "t.md"\n'
        'effective = 2026-11-01\nseries = "acme-contract"\norganization = "acme-corp"\nacceptance = "required"\n'
        '[[clause]]\nid = "use"\neffect = "permit"\naction = "generate"\n'
    )
    (terms / "t.md").write_text("Words.")
    monkeypatch.chdir(tmp_path)
    block = blocks("administration.md")[2]
    exec(block.replace('id="acme-corp"', 'id="acme-corp-2"'), {})  # this provider has the organization already
    receipt = capsys.readouterr().out.strip()
    assert verify_receipt(receipt, trust=provider.trust(), now=now()).claims.authority == "order form 7, page 3"
    with provider.store() as store:
        (acceptance,) = store.acceptances(SubjectKind.ORGANIZATION, "acme-corp")
        assert store.acceptance_recorded_by(acceptance.id) == ("dana", "")
        assert {step.actor for step in store.history("acme")[-2:]} == {"dana"}


def test_the_guide_lists_every_admin_route() -> None:
    """No path is served that the table does not name, and it names no other."""
    text = (GUIDES / "administration.md").read_text(encoding="utf-8")
    listed: set[tuple[str, str]] = set()
    for row in re.findall(r"^\|( `/.*)\|$", text, re.MULTILINE):
        paths, got, posted = row.split("|")
        first, *others = re.findall(r"`(/[^`]*)`", paths)
        for path in (first, *(f"{first.rpartition('/')[0]}{other}" for other in others)):
            plain = re.sub(r"<[^>]+>", "*", path).strip("/")
            listed |= {(method, plain) for method, said in (("GET", got), ("POST", posted)) if said.strip()}
    served = {(method, "/".join(part or "*" for part in pattern)) for method, pattern, _ in AdminRoutes(Desk().guard)._routes}
    assert listed == served
