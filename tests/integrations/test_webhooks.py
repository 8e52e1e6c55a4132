"""Webhooks and entitlements at real servers of both colours: signed messages from a client that knows only the specification."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from flask import Flask
from werkzeug.serving import make_server

from outside_systems import OutsideSystem, serve_outside
from provisioned import Provider
from serving import Serve
from tos_guard.config import parse_settings
from tos_guard.guard import Guard
from tos_guard.rights import parse_entitlements
from tos_guard_fastapi import TosGuard
from tos_guard_flask import TosGuard as FlaskGuard

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
CHAT = "/v1/chat/completions"
QUESTION = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello?"}]}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}]}
SECRET = os.urandom(32)
SETTINGS = """
admin_routes = "/admin"

[[webhooks]]
name = "trust"
secret = "env:TRUST_SECRET"
may = ["standing", "entitlements"]

[[entitlements]]
name = "crm"
url = "{url}"
token = "crm.token"
webhook = "trust"

[[notices]]
url = "{hook}"
secret = "env:TRUST_SECRET"
on = ["standing"]
"""


@pytest.fixture
def system() -> Iterator[OutsideSystem]:
    with serve_outside() as served:
        yield served


@pytest.fixture
def provider(tmp_path: Path, system: OutsideSystem, monkeypatch: pytest.MonkeyPatch) -> Provider:
    made = Provider(tmp_path)
    monkeypatch.setenv("TRUST_SECRET", "whsec_" + base64.b64encode(SECRET).decode())
    token = tmp_path / "crm.token"
    token.write_text("a-token\n")
    token.chmod(0o600)
    head, _, rest = made.settings.read_text().partition("\n[sources]")
    made.settings.write_text(head + SETTINGS.format(url=system.url, hook=f"{system.origin}/hook") + "\n[sources]" + rest)
    return made


def send(base_url: str, message: dict[str, Any], message_id: str, *, secret: bytes = SECRET) -> httpx.Response:
    """A message as the specification says, without our own code."""
    body, now = json.dumps(message), int(time.time())
    mac = hmac.new(secret, f"{message_id}.{now}.{body}".encode(), hashlib.sha256).digest()
    headers = {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }
    return httpx.post(f"{base_url}/admin/webhooks/trust", content=body, headers=headers)


def story(base_url: str, provider: Provider, system: OutsideSystem) -> None:
    """A message suspends at once; a pushed document opens a model at once; and both systems outside have heard in the end."""

    def ask() -> int:
        return httpx.post(base_url + CHAT, json=QUESTION, headers={"x-api-key": provider.keys["good"]}).status_code

    system.say(good={"models": ["smollm2-135m"]})
    assert ask() == 200
    assert system.came.wait(20), "the first request began to ask the source"
    suspend = {"type": "standing.set", "data": {"account": "good", "standing": "suspended", "reason": "case 7"}}
    assert send(base_url, suspend, "m1", secret=os.urandom(32)).status_code == 401
    assert ask() == 200
    assert send(base_url, suspend, "m1").status_code == 200
    assert ask() == 403
    assert send(base_url, suspend, "m1").json()["taken"] == "before"
    reinstate = {"type": "standing.set", "data": {"account": "good", "standing": "good", "reason": "a mistake"}}
    assert send(base_url, reinstate, "m2").status_code == 200
    assert ask() == 200
    document = {"version": 1, "issued": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "accounts": {"good": {"models": []}}}
    for attempt in range(200):  # the thread that asks may be at it
        pushed = send(base_url, {"type": "entitlements.document", "data": {"source": "crm", "document": document}}, f"d{attempt}")
        if pushed.status_code != 409:
            break
    assert pushed.status_code == 200, pushed.text
    assert ask() == 403
    with provider.store() as store:
        actors = [step.actor for step in store.history("good")]
    assert {"webhook:trust", "entitlements:crm"} <= set(actors)
    assert system.asked[0]["authorization"] == "Bearer a-token"


def test_what_the_guide_shows_runs_and_is_parsed_as_it_stands(provider: Provider, serve: Serve, tmp_path: Path) -> None:
    """webhooks.md and entitlements.md: the client's code, the settings and the documents."""
    guide = (GUIDES / "webhooks.md").read_text(encoding="utf-8")
    app = FastAPI()
    TosGuard.from_file(provider.settings).install(app)
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    with serve(app) as base_url:
        exec(code, {"api": base_url, "secret": os.environ["TRUST_SECRET"]})
    with provider.store() as store:
        account = store.by_id("good")
    assert account is not None
    assert [(measure.id, measure.step, measure.issuer) for measure in account.measures] == [("case-7", "suspended", "webhook:trust")]
    other = (GUIDES / "entitlements.md").read_text(encoding="utf-8")
    limits = frozenset({"tokens-per-minute"})
    (document,) = re.findall(r"```json\n(.*?)```", other, re.DOTALL)
    read = parse_entitlements(document.encode(), now=datetime(2026, 11, 25, 12, tzinfo=UTC))
    assert (sorted(read.accounts), read.limits) == (["acme", "solo"], limits)
    head = provider.settings.read_text().partition("[[webhooks]]")[0].replace('admin_routes = "/admin"', "")
    routes = '\n[routes]\n"/v1/chat/completions" = "openai-chat"\n'
    ins, out = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    pull, push = re.findall(r"```toml\n(.*?)```", other, re.DOTALL)
    for settings in (ins + out, pull, 'admin_routes = "/admin"\n' + push):
        parse_settings((head + settings + routes).encode())


def test_fastapi(provider: Provider, system: OutsideSystem, serve: Serve) -> None:
    app = FastAPI()

    @app.post(CHAT)
    async def chat() -> dict[str, Any]:
        return ANSWER

    TosGuard.from_file(provider.settings).install(app)
    with serve(app) as base_url:
        story(base_url, provider, system)


def test_flask(provider: Provider, system: OutsideSystem) -> None:
    app = Flask("provider")

    @app.post(CHAT)
    def chat() -> dict[str, Any]:
        return ANSWER

    guard = Guard.from_file(provider.settings)
    FlaskGuard(app, guard=guard)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="flask")
    thread.start()
    try:
        story(f"http://127.0.0.1:{server.server_port}", provider, system)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        guard.close_stores()
