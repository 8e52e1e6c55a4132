"""What the guides to Flask and WSGI show runs as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from provisioned import Provider
from tos_guard.errors import ConfigurationError
from wsgi_kit import call

CHAT = "/v1/chat/completions"
QUESTION = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello?"}]}
GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def blocks(guide: str) -> list[str]:
    """The Python of a guide, in order."""
    return re.findall(r"```python\n(.*?)```", (GUIDES / guide).read_text(encoding="utf-8"), re.DOTALL)


def host() -> Flask:
    """An app to guard."""
    app = Flask("host")

    @app.post(CHAT)
    def chat() -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}]}

    return app


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """A provisioned folder, in which the process runs."""
    monkeypatch.chdir(tmp_path)
    return Provider(tmp_path)


def test_three_lines_with_our_keys(provider: Provider) -> None:
    """flask.md, first, third and fourth block: a key is accepted, routes are looked through, and a view learns what was decided."""
    names: dict[str, Any] = {"app": host()}
    exec(blocks("flask.md")[0], names)
    exec(blocks("flask.md")[3], names)
    exec(blocks("flask.md")[2], names)
    client = names["app"].test_client()
    assert client.post(CHAT, json=QUESTION).status_code == 401
    assert "ai_provenance" in client.post(CHAT, json=QUESTION, headers={"x-api-key": provider.keys["good"]}).get_json()
    scored = client.post("/v1/score", json={"input": "x"}, headers={"x-api-key": provider.keys["good"]})
    assert (scored.get_json()["account"], scored.get_json()["request"]) == ("good", scored.headers["x-request-id"])
    names["app"].extensions["tos_guard"].guard.close_stores()


def test_three_lines_with_own_authentication(provider: Provider) -> None:
    """flask.md, second block: the account is whom the host names."""
    del provider
    names: dict[str, Any] = {"app": host()}
    exec(blocks("flask.md")[1], names)
    client = names["app"].test_client()
    assert client.post(CHAT, json=QUESTION).status_code == 401
    assert "ai_provenance" in client.post(CHAT, json=QUESTION, environ_base={"REMOTE_USER": "good"}).get_json()
    names["app"].extensions["tos_guard"].guard.close_stores()


def test_a_route_by_oversight_does_not_pass_the_check(provider: Provider) -> None:
    """flask.md, third block, with a route that no setting names."""
    del provider
    names: dict[str, Any] = {"app": host()}
    names["app"].add_url_rule("/v1/forgotten", "forgotten", lambda: "")
    exec(blocks("flask.md")[0], names)
    with pytest.raises(ConfigurationError, match="/v1/forgotten"):
        exec(blocks("flask.md")[2], names)
    names["guard"].guard_of(names["app"]).close_stores()


def test_a_right_more_is_demanded_where_the_guide_says(provider: Provider) -> None:
    """flask.md, last block: without the right 403, before the view runs."""
    settings = (
        provider.settings.read_text() + '"/v1/fine-tunes" = { dialect = "plain-json", model = "smollm2-135m", action = "generate" }\n'
    )
    provider.settings.write_text(settings)
    names: dict[str, Any] = {"app": host()}
    exec(blocks("flask.md")[0], names)
    exec(blocks("flask.md")[4], names)
    refused = names["app"].test_client().post("/v1/fine-tunes", json={}, headers={"x-api-key": provider.keys["good"]})
    assert (refused.status_code, refused.get_json(force=True)["code"]) == (403, "tos_action_not_allowed")
    names["guard"].guard_of(names["app"]).close_stores()


def test_any_wsgi_app_is_guarded_as_the_guide_shows(provider: Provider) -> None:
    """wsgi.md: credentials are asked for, answers are sealed, and the documents are served."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [environ["tos_guard.admission"].account.id.encode().join((b'{"id":"', b'"}'))]

    names: dict[str, Any] = {"application": application}
    exec(blocks("wsgi.md")[0], names)
    assert call(names["application"]).status == 401
    answer = call(names["application"], "/v1/models", key=provider.keys["good"], method="GET", body=b"")
    assert b'"id":"good"' in answer.body
    assert b"ai_provenance" in answer.body
    assert call(names["application"], "/.well-known/jwks.json", method="GET", body=b"").status == 200
    names["guard"].close_stores()
