"""What README.md shows runs as it stands there."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask
import grpc
import httpx
import pytest
from fastapi import FastAPI

from provisioned import Provider
from scenarios.http_doors import serve_wsgi
from serving import Serve
from tos_guard.config import parse_settings

CHAT = "/v1/chat/completions"


@pytest.fixture
def blocks(root: Path) -> list[str]:
    """The Python blocks of the README, in order: own authentication, our keys, Flask, gRPC, verification, a verifying client."""
    found = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 6
    return found


def host() -> FastAPI:
    """An app to guard."""
    app = FastAPI()

    @app.post(CHAT)
    async def chat() -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}]}

    return app


class Authenticated:
    """A host's own authentication, as middleware outside the guard: it leaves the account in the request's state."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            names = dict(scope["headers"])
            scope.setdefault("state", {})["account_id"] = names.get(b"x-customer", b"").decode() or None
        await self.app(scope, receive, send)


def test_the_three_lines_with_own_authentication(blocks: list[str], tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first block guards an app whose own middleware says who asks."""
    Provider(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = host()
    exec(blocks[0], {"app": app})
    app.add_middleware(Authenticated)
    with serve(app) as base_url:
        known = httpx.post(base_url + CHAT, json={"model": "smollm2-135m"}, headers={"x-customer": "good"})
        assert (known.status_code, "ai_provenance" in known.json()) == (200, True)
        assert httpx.post(base_url + CHAT, json={"model": "smollm2-135m"}).status_code == 401


def test_the_three_lines_with_our_keys_and_the_proof(
    blocks: list[str], tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second block guards an app; the fifth proves its answer."""
    provider = Provider(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = host()
    exec(blocks[1], {"app": app})
    with serve(app) as base_url:
        answer = httpx.post(base_url + CHAT, json={"model": "smollm2-135m"}, headers={"x-api-key": provider.keys["good"]})
    capsys.readouterr()
    exec(blocks[4], {"body": answer.content, "pinned": provider.key_set().to_bytes()})
    assert capsys.readouterr().out == "train-ai=n, ai-use=y\n"


def test_the_other_doors(blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third block guards a Flask app, the fourth a gRPC server: neither serves whoever has no key."""
    provider = Provider(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = flask.Flask(__name__, static_folder=None)
    app.add_url_rule(CHAT, view_func=lambda: {"choices": []}, methods=["POST"])
    exec(blocks[2], {"app": app})
    with serve_wsgi(app) as base_url:
        served = httpx.post(base_url + CHAT, json={"model": "smollm2-135m"}, headers={"x-api-key": provider.keys["good"]})
        assert (served.status_code, "ai_provenance" in served.json()) == (200, True)
        assert httpx.post(base_url + CHAT, json={"model": "smollm2-135m"}).status_code == 401
    made: dict[str, Any] = {"grpc": grpc, "ThreadPoolExecutor": ThreadPoolExecutor}
    exec(blocks[3], made)
    port = made["server"].add_insecure_port("127.0.0.1:0")
    made["server"].start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/text.v1.Text/Complete", _registered_method=False)(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        made["server"].stop(None).wait()


def test_the_client_that_verifies(blocks: list[str]) -> None:
    """The sixth block makes a client; what it checks is tested in tests/integrations against the guarded provider."""
    made: dict[str, Any] = {}
    exec(blocks[5].replace("openai.OpenAI(", 'openai.OpenAI(api_key="none", '), made)
    assert list(made["verifier"].issuers) == ["https://api.example.com"]
    made["client"].close()
    made["verifier"].close()


def test_the_settings_of_the_readme_are_settings(root: Path, tmp_path: Path) -> None:
    """Added to what `tos-guard init` writes, they are read, and both limits hold."""
    (block,) = re.findall(r"```toml\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    own = Provider(tmp_path).settings.read_text()
    settings = parse_settings((block.partition("[[limits]]")[0] + own + "[[limits]]" + block.partition("[[limits]]")[2]).encode())
    assert [limit.id for limit in settings.limits] == ["tokens-per-minute", "running"]
    assert (settings.mode, settings.account_routes) == ("monitor", "/account")
