"""What the guides show runs as it stands there, and the settings they list are those there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pydantic import BaseModel

from authorization_server import serve_authorization
from provisioned import Provider
from serving import Serve
from tos_guard.config import (
    AcceptanceSettings,
    BearerSettings,
    DPoPSettings,
    EntitlementSettings,
    EstimateSettings,
    FactSources,
    FailureModes,
    GuardSettings,
    LimitSettings,
    ModelSettings,
    MutualTLSSettings,
    NoticeSettings,
    PostgresSettings,
    PriceSettings,
    Retention,
    RouteSettings,
    StandingSettings,
    StepSettings,
    ValkeySettings,
    WebhookSettings,
    parse_settings,
)
from tos_guard.verify import verify_body
from tos_guard_fastapi import TosGuard

CHAT = "/v1/chat/completions"
QUESTION = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello?"}]}
GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def blocks(guide: str, language: str) -> list[str]:
    """The code of a guide, in order."""
    return re.findall(rf"```{language}\n(.*?)```", (GUIDES / guide).read_text(encoding="utf-8"), re.DOTALL)


def host() -> FastAPI:
    """An app to guard."""
    app = FastAPI()

    @app.post(CHAT)
    async def chat() -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello. " * 100}}]}

    return app


class Authenticated:
    """A host's own authentication."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            customer = dict(scope["headers"]).get(b"x-customer")
            scope["state"] = {"customer": customer.decode()} if customer else {}
        await self.app(scope, receive, send)


def test_three_lines_with_own_authentication(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """fastapi.md, first block: the account is whom the host's middleware named, and nobody is 401."""
    Provider(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = host()
    exec(blocks("fastapi.md", "python")[0], {"app": app})
    app.add_middleware(Authenticated)
    with serve(app) as base_url:
        known = httpx.post(base_url + CHAT, json=QUESTION, headers={"x-customer": "good"})
        assert (known.status_code, "ai_provenance" in known.json()) == (200, True)
        assert httpx.post(base_url + CHAT, json=QUESTION).status_code == 401


def test_three_lines_with_our_keys(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """fastapi.md, second and third block: both headers carry a key, and a handler learns what was decided."""
    provider = Provider(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"app": host()}
    exec(blocks("fastapi.md", "python")[1], names)
    exec(blocks("fastapi.md", "python")[2], names)
    key = provider.keys["good"]
    with serve(names["app"]) as base_url:
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            assert "ai_provenance" in httpx.post(base_url + CHAT, json=QUESTION, headers=headers).json()
        scored = httpx.post(base_url + "/v1/score", json={"input": "x"}, headers={"x-api-key": key})
    assert (scored.json()["account"], scored.json()["request"]) == ("good", scored.headers["x-request-id"])


def test_three_ways_to_say_who_asks(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """authentication.md: the host's word with the block shown; our keys and bearer tokens side by side with the setting shown."""
    provider = Provider(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = host()
    exec(blocks("authentication.md", "python")[0], {"app": app})
    app.add_middleware(Authenticated)
    with serve(app) as base_url:
        assert httpx.post(base_url + CHAT, json=QUESTION, headers={"x-customer": "good"}).status_code == 200
    with serve_authorization() as server:
        setting, *proofs = blocks("authentication.md", "toml")
        setting = setting.replace("https://login.example.com/.well-known/jwks.json", server.uri)
        provider.settings.write_text("\n".join((provider.settings.read_text(), setting, *proofs)))
        app = host()
        guard = TosGuard.from_file(provider.settings)
        guard.install(app)
        now = int(guard.guard.clock().timestamp())
        tokens = [server.token(sub="good", iat=now, exp=now + 60), server.token(sub="good", iat=now, exp=now + 60, aud="other")]
        with serve(app) as base_url:
            for credential, status in ((tokens[0], 200), (provider.keys["good"], 200), (tokens[1], 401), ("nonsense", 401)):
                answer = httpx.post(base_url + CHAT, json=QUESTION, headers={"authorization": f"Bearer {credential}"})
                assert answer.status_code == status
        assert guard.guard.counts["bearer:audience"] == guard.guard.counts["bearer:malformed"] == 1


def test_a_right_more_is_demanded_where_the_guide_says(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """fastapi.md, fourth block: without the right 403 before the handler runs, with it the handler's answer, and the document says so."""
    provider = Provider(tmp_path)
    monkeypatch.chdir(tmp_path)
    routes = "".join(f'"{path}" = {{ dialect = "plain-json", model = "scorer" }}\n' for path in ("/v1/fine-tunes", "/v1/batches"))
    provider.settings.write_text(provider.settings.read_text() + routes)
    with provider.store() as store:
        found = store.by_id("enterprise")
        assert found is not None
        store.put_account(found.model_copy(update={"actions": frozenset({"generate", "fine-tune", "batch"})}))
    names: dict[str, Any] = {"app": host()}
    exec(blocks("fastapi.md", "python")[1], names)
    exec(blocks("fastapi.md", "python")[3], names)
    with serve(names["app"]) as base_url:
        for path in ("/v1/fine-tunes", "/v1/batches"):
            refused = httpx.post(base_url + path, headers={"x-api-key": provider.keys["good"]})
            assert (refused.status_code, refused.json()["code"]) == (403, "tos_action_not_allowed")
        given = {"headers": {"x-api-key": provider.keys["enterprise"]}}
        assert httpx.post(f"{base_url}/v1/fine-tunes", **given).json()["status"] == "queued"
        assert httpx.post(f"{base_url}/v1/batches", **given).json()["account"] == "enterprise"
        document = httpx.get(f"{base_url}/openapi.json").json()
    assert document["paths"]["/v1/fine-tunes"]["post"]["x-tos-guard"] == {"actions": ["generate", "fine-tune"]}


def test_middleware_in_the_order_of_the_guide(tmp_path: Path, serve: Serve) -> None:
    """asgi.md: with compression and CORS outside, what a client decodes verifies, digest included, and a browser may read refusals."""
    provider = Provider(tmp_path)
    app = host()
    guard = TosGuard.from_file(provider.settings)
    exec(blocks("asgi.md", "python")[0], {"app": app, "guard": guard, "GZipMiddleware": GZipMiddleware, "CORSMiddleware": CORSMiddleware})
    origin = {"origin": "https://app.example.com", "accept-encoding": "gzip"}
    with serve(app) as base_url:
        answer = httpx.post(base_url + CHAT, json=QUESTION, headers={"x-api-key": provider.keys["good"], **origin})
        refused = httpx.post(base_url + CHAT, json=QUESTION, headers=origin)
    assert answer.headers["content-encoding"] == "gzip"
    now = guard.guard.clock()
    assert verify_body(answer.content, trust=provider.trust(), now=now, content_digest=answer.headers["content-digest"])
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example.com")


def test_telemetry_reaches_the_providers_it_is_given(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """telemetry.md: what the host hands in sees what happens, and the keys of the folder last."""
    provider = Provider(tmp_path)
    monkeypatch.chdir(tmp_path)
    reader = InMemoryMetricReader()
    names: dict[str, Any] = {"my_meters": MeterProvider([reader])}
    exec(blocks("telemetry.md", "python")[0], names)
    app = host()
    names["guard"].install(app)
    with serve(app) as base_url:
        assert httpx.post(base_url + CHAT, json=QUESTION, headers={"x-api-key": provider.keys["good"]}).status_code == 200
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {metric.name: metric.data.data_points for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert sum(point.value for point in metrics["tos_guard.decisions"]) == 1
    assert {point.attributes["tos_guard.key.purpose"] for point in metrics["tos_guard.key.expiry"]} >= {"provenance", "key-history"}
    assert len(metrics["tos_guard.failure_mode"]) == 7
    names["my_meters"].shutdown()


TABLES: dict[str, type[BaseModel]] = {
    "": GuardSettings,
    "postgres": PostgresSettings,
    "valkey": ValkeySettings,
    "routes.<path>": RouteSettings,
    "sources": FactSources,
    "bearer": BearerSettings,
    "dpop": DPoPSettings,
    "mutual_tls": MutualTLSSettings,
    "webhooks": WebhookSettings,
    "notices": NoticeSettings,
    "entitlements": EntitlementSettings,
    "failure": FailureModes,
    "acceptance": AcceptanceSettings,
    "standing": StandingSettings,
    "standing.<step>": StepSettings,
    "limits": LimitSettings,
    "estimates": EstimateSettings,
    "models.<name>": ModelSettings,
    "models.<name>.price": PriceSettings,
    "retention": Retention,
}
"""Each table of the settings' guide, by the name before it, and the model that it lists."""


def settings_tables() -> dict[str, dict[str, str]]:
    """Setting and default of each row, by table."""
    tables: dict[str, dict[str, str]] = {}
    name = ""
    for line in (GUIDES / "configuration.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"`([a-z_]+(?:\.[a-z<>]+)*)`:", line):
            name = heading[1]
        elif row := re.match(r"\| `(\w+)` \| (.+?) \|", line):
            tables.setdefault(name, {})[row[1]] = row[2]
    return tables


def test_every_table_of_settings_is_there() -> None:
    """configuration.md: one for each part of the settings file. A window is written in words, and has none."""
    assert settings_tables().keys() == TABLES.keys()


@pytest.mark.parametrize("name", TABLES, ids=lambda name: name or "settings")
def test_every_setting_is_listed(name: str) -> None:
    """configuration.md has a row for each field of each model, no other, and the defaults that they have."""
    listed, fields = settings_tables()[name], TABLES[name].model_fields
    assert sorted(listed) == sorted(fields)
    for setting, field in fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if field.is_required():
            expected = {"required"}
        elif isinstance(default, BaseModel):
            expected = {"below", "none"}
        elif isinstance(default, bool) or default is None:
            expected = {str(default).lower()}
        elif isinstance(default, str):
            expected = {f'`"{default}"`'}
        elif isinstance(default, int | float):
            expected = {str(default)}
        else:
            expected = {f"`{json.dumps(sorted(default))}`"} | ({"none"} if not default else set())
        assert listed[setting] in expected, setting


def test_the_settings_shown_are_settings() -> None:
    """configuration.md: the example is read without an error."""
    (example,) = blocks("configuration.md", "toml")
    settings = parse_settings(example.encode())
    assert settings.routes["/v1/score"].model == "scorer"
    assert [limit.id for limit in settings.limits] == ["tokens-per-minute", "spend-per-month"]
