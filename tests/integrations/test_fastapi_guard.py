"""Installing the guard on a FastAPI app, and the documents it serves to anyone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.routing import Mount

from provisioned import Provider, now
from serving import Serve
from tos_guard import Admission
from tos_guard._canonical import sha256_b64url
from tos_guard.errors import ConfigurationError
from tos_guard.keys import open_key_history, parse_key_set
from tos_guard.rights import Account
from tos_guard.stores import KeyFolder, load_terms
from tos_guard.types import KeyPurpose
from tos_guard.verify import Trust, verify_body
from tos_guard_fastapi import TosGuard, admission

CHAT = "/v1/chat/completions"


def host() -> FastAPI:
    """A host's own app, with a lifespan and a dependency of its own."""
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, list[str]]]:
        events.append("up")
        yield {"events": events}
        events.append("down")

    app = FastAPI(lifespan=lifespan)
    app.state.events = events

    @app.post(CHAT)
    async def chat(admitted: Annotated[Admission, Depends(admission)]) -> dict[str, object]:
        message = {"role": "assistant", "content": f"{admitted.account.id} may: {admitted.content_usage}"}
        return {"choices": [{"index": 0, "message": message}], "events": events}

    @app.get("/v1/models")
    async def models() -> list[str]:
        return ["smollm2-135m"]

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    return app


def test_three_lines_guard_an_app_with_its_own_authentication(tmp_path: Path, serve: Serve) -> None:
    """`identify=` names the host's principal; handler, lifespan and exempt routes are as before."""
    provider = Provider(tmp_path)
    app = host()
    guard = TosGuard.from_file(provider.settings, identify=lambda request: request.header("x-customer"))
    guard.install(app)
    with serve(app) as base_url, httpx.Client(base_url=base_url) as client:
        answer = client.post(CHAT, json={"model": "smollm2-135m"}, headers={"x-customer": "distiller"})
        verified = verify_body(answer.content, trust=provider.trust(), now=now(), token=answer.headers["ai-provenance"])
        assert answer.json()["choices"][0]["message"]["content"] == f"distiller may: {verified.claims.usage.content_usage}"
        assert answer.json()["events"] == ["up"]
        assert verified.claims.grant == "lic-2026-7"
        assert client.post(CHAT, json={"model": "smollm2-135m"}).status_code == 401
        assert client.get("/healthz").json() == "ok"
        assert client.get("/docs").status_code == 200
    assert app.state.events == ["up", "down"]


def test_three_lines_guard_an_app_with_our_keys(tmp_path: Path, serve: Serve) -> None:
    """Bearer or `x-api-key`, as the two dialects' clients send them."""
    provider = Provider(tmp_path)
    app = host()
    guard = TosGuard.from_file(provider.settings)
    guard.install(app)
    key = provider.keys["good"]
    with serve(app) as base_url, httpx.Client(base_url=base_url) as client:
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}, {"authorization": f"bearer {key}", "x-api-key": key}):
            assert client.post(CHAT, json={"model": "smollm2-135m"}, headers=headers).status_code == 200
        torn = {"authorization": f"Bearer {key}", "x-api-key": provider.keys["distiller"]}
        assert client.post(CHAT, json={"model": "smollm2-135m"}, headers=torn).status_code == 401


@pytest.mark.parametrize("mounted", [False, True], ids=["route", "mounted app"])
def test_an_unguarded_route_stops_the_start_by_name(tmp_path: Path, mounted: bool) -> None:
    """A route nobody thought of is a way around the guard, also where another app is mounted."""
    provider = Provider(tmp_path)
    app = host()
    if mounted:
        app.router.routes.append(Mount("/sub", app=host()))
    else:
        app.get("/v1/files/{id}")(lambda: "forgotten")
    guard = TosGuard.from_file(provider.settings)
    guard.install(app)
    with pytest.raises(ConfigurationError, match="/sub/v1/chat/completions" if mounted else r"1 routes are .*: /v1/files/{id}\."):
        guard.check_routes(app)
    guard.guard.close_stores()


def test_a_fact_without_a_source_stops_the_start(tmp_path: Path) -> None:
    """Terms that ask for a region need someone who asserts it (DESIGN D2)."""
    provider = Provider(tmp_path)
    provider.settings.write_text(provider.settings.read_text().replace('region = "account"', ""))
    with pytest.raises(ConfigurationError, match="'region', which has no source"):
        TosGuard.from_file(provider.settings)


def test_a_duty_that_nobody_fulfils_stops_the_start(tmp_path: Path) -> None:
    """Terms that oblige to a watermark are not half kept."""
    provider = Provider(tmp_path)
    for suffix in (".toml", ".md"):
        text = provider.terms.with_suffix(suffix).read_text()
        (tmp_path / f"sample-2026-11{suffix}").write_text(text.replace('duties = ["seal"]', 'duties = ["seal", "watermark"]'))
    provider.settings.write_text(provider.settings.read_text().replace(str(provider.terms), str(tmp_path / "sample-2026-11.toml")))
    with pytest.raises(ConfigurationError, match="clause seal obliges to 'watermark'"):
        TosGuard.from_file(provider.settings)


def test_the_hosts_word_on_a_region_is_heard(tmp_path: Path, serve: Serve) -> None:
    """`assertions=` gives what the provider knows of a request; unknown counts against it."""
    provider = Provider(tmp_path)
    provider.settings.write_text(provider.settings.read_text().replace('region = "account"', 'region = "host"'))

    def assertions(request: object, account: Account) -> dict[str, str | None]:
        del account
        return {"region": getattr(request, "header")("x-country")}  # noqa: B009 - whatever the host has

    app = host()
    TosGuard.from_file(provider.settings, assertions=assertions).install(app)
    with serve(app) as base_url, httpx.Client(base_url=base_url, headers={"x-api-key": provider.keys["good"]}) as client:
        for country, status in (("DE", 200), ("KP", 403), (None, 403)):
            headers = {} if country is None else {"x-country": country}
            answer = client.post(CHAT, json={"model": "smollm2-135m"}, headers=headers)
            assert answer.status_code == status
        assert answer.json()["error"]["clause"] == "regions"
        assert "Not known of this request: region" in answer.json()["error"]["message"]


def test_everything_a_token_points_at_is_served(tmp_path: Path, serve: Serve) -> None:
    """Metadata, keys, history, terms and usage policy, each with the digest that the token names; old terms stay."""
    provider = Provider(tmp_path)
    older = load_terms(provider.terms.with_name("minimal.toml"))
    with provider.store() as store:
        store.publish_terms(older)
    app = host()
    TosGuard.from_file(provider.settings).install(app)
    with serve(app) as base_url, httpx.Client(base_url=base_url) as client:
        token_answer = client.post(CHAT, json={"model": "smollm2-135m"}, headers={"x-api-key": provider.keys["distiller"]})
        metadata = client.get("/.well-known/ai-provenance").json()
        assert metadata["issuer"] == provider.issuer
        assert metadata["sealed"]["routes"] == [CHAT, "/v1/models", "/v1/score"]

        def fetch(uri: str) -> httpx.Response:
            answer = client.get(uri.removeprefix(provider.issuer))
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "*"
            return answer

        keys = parse_key_set(fetch(metadata["jwks_uri"]).content)
        claims = verify_body(token_answer.content, trust=Trust.of(keys), now=now()).claims
        history = open_key_history(fetch(metadata["key_history_uri"]).text, trusted=keys, expected_issuer=provider.issuer)
        assert {key.kid for key in history.keys} == {key.kid for key in keys.keys}
        assert sha256_b64url(fetch(metadata["terms_uri"]).content) == claims.terms.sha256
        text = fetch(metadata["terms_uri"] + ".txt").content
        assert sha256_b64url(text) == fetch(metadata["terms_uri"]).json()["text_sha256"]
        policy = fetch(metadata["usage_policy_uri"].replace("{sha256}", claims.usage.sha256))
        assert sha256_b64url(policy.content) == claims.usage.sha256
        assert [clause["id"] for clause in policy.json()["clauses"]][: len(claims.usage.clauses)] == list(claims.usage.clauses)
        assert sha256_b64url(fetch(f"{provider.issuer}/.well-known/ai-provenance/terms/{older.version}").content) == older.sha256
        for path in ("/.well-known/ai-provenance/terms/none", "/.well-known/ai-provenance/usage/x", "/.well-known/ai-provenance/x"):
            assert client.get(path).status_code == 404
        assert client.post("/.well-known/jwks.json").status_code == 405


def test_rotation_needs_no_restart(tmp_path: Path, serve: Serve) -> None:
    """The next key is published before it signs; when its moment comes, the running guard takes it up, and old answers stay provable."""
    provider = Provider(tmp_path)
    folder = KeyFolder(tmp_path / "keys")
    app = host()
    TosGuard.from_file(provider.settings).install(app)
    with serve(app) as base_url, httpx.Client(base_url=base_url, headers={"x-api-key": provider.keys["good"]}) as client:

        def kid() -> tuple[str, bytes]:
            answer = client.post(CHAT, json={"model": "smollm2-135m"})
            return verify_body(answer.content, trust=provider.trust(), now=now()).kid, answer.content

        before, old_answer = kid()
        fresh = folder.rotate(now=now(), lead=timedelta(seconds=2))
        published = parse_key_set(client.get("/.well-known/jwks.json").content)
        assert published.find(fresh.kid, KeyPurpose.PROVENANCE) is not None, "published before it signs"
        with pytest.raises(ConfigurationError, match="published already"):
            folder.rotate(now=now())
        used = {before}
        while fresh.kid not in used:
            assert now().timestamp() < (fresh.not_before or 0) + 10, "the new key is never taken up"
            used.add(kid()[0])
        assert used == {before, fresh.kid}
        verify_body(old_answer, trust=provider.trust(), now=now())
        assert json.loads((tmp_path / "keys" / "registry.json").read_text())["seq"] == 1
