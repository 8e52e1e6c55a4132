"""The official `openai` client against two workers that store, run in the background and replay: whichever answers, one seal leaves."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from provisioned import Provider, now
from serving import ServeProcess
from tos_guard.errors import IncompleteError
from tos_guard.verify import Verified, verify_body, verify_stream

SETTINGS = """
[routes]
"/v1/responses" = { dialect = "openai-responses", idempotent = true }
"/v1/responses/*" = "openai-responses"
"/v1/responses/*/cancel" = "openai-responses"
"/v1/chat/completions" = { dialect = "openai-chat", idempotent = true }

[[limits]]
id = "requests"
quantity = "requests"
amount = 1000
window = "1h"

[[limits]]
id = "slots"
quantity = "concurrency"
amount = 2
"""


class Recorder(httpx2.HTTPTransport):
    """Keeps the bytes that a client got."""

    def __init__(self) -> None:
        super().__init__()
        self.body = b""
        self.headers: dict[str, str] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.body = response.read()
        return httpx2.Response(response.status_code, headers=response.headers, content=self.body)


class Client:
    """A client of an account, and what it last got."""

    def __init__(self, provider: Provider, base_url: str, account: str = "good") -> None:
        self.recorder = Recorder()
        self.provider = provider
        self.base_url = base_url
        self.http = httpx2.Client(transport=self.recorder)
        self.openai = openai.OpenAI(base_url=f"{base_url}/v1", api_key=provider.keys[account], http_client=self.http, max_retries=0)

    def verified(self) -> Verified:
        """What the last answer proves."""
        given: dict[str, Any] = {"trust": self.provider.trust(), "now": now(), "token": self.recorder.headers.get("ai-provenance")}
        if self.recorder.headers["content-type"].startswith("text/event-stream"):
            return verify_stream(self.recorder.body, **given)
        return verify_body(self.recorder.body, content_digest=self.recorder.headers.get("content-digest"), **given)

    def used(self) -> dict[str, int]:
        """How much of each limit the account has used."""
        usage = self.openai.get("../account/usage.json", cast_to=object)
        assert isinstance(usage, dict)
        return {limit["id"]: limit["used"] or 0 for limit in usage["limits"]}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    """A provisioned provider with these routes."""
    provider = Provider(tmp_path_factory.mktemp("provider"))
    head = provider.settings.read_text().partition("[routes]")[0]
    provider.settings.write_text(f'account_routes = "/account"\n{head}{SETTINGS}')
    with provider.store() as store:
        for account in store.accounts():
            store.put_account(account.model_copy(update={"models": frozenset({"small"})}))
    return provider


@pytest.fixture(scope="module")
def base_url(provider: Provider, serve_process: ServeProcess) -> Iterator[str]:
    """Where two workers serve it."""
    env = {"PROVIDER_FOLDER": str(provider.folder)}
    with serve_process("storing_provider:guarded", app_dir=Path("tests"), factory=True, workers=2, env=env) as process:
        yield process.base_url


@pytest.fixture
def client(provider: Provider, base_url: str) -> Iterator[Client]:
    """A client of the account ``good``."""
    client = Client(provider, base_url)
    yield client
    client.http.close()


def test_a_background_response_is_polled_to_its_end(client: Client) -> None:
    """Pending, pending, final: under one request id, charged once, without a slot in between."""
    before = client.used()
    made = client.openai.responses.create(model="small", input="hi", background=True)
    assert made.status == "queued"
    rid = made._request_id
    assert (made.model_extra or {})["ai_provenance"] == {"token": client.recorder.headers["ai-provenance"]}
    with pytest.raises(IncompleteError):
        client.verified()
    assert client.used() == {"requests": before["requests"] + 1, "slots": 0}
    statuses, polls = [made.status], 0
    while statuses[-1] != "completed":
        polls += 1
        assert polls < 9
        found = client.openai.responses.retrieve(made.id)
        assert found._request_id == rid
        statuses.append(found.status)
    assert statuses == ["queued", "in_progress", "completed"]
    first = client.verified()
    assert first.claims.rid == rid
    client.openai.responses.retrieve(made.id)
    assert client.verified().token == first.token
    assert client.used() == {"requests": before["requests"] + 1, "slots": 0}


def test_a_background_response_is_streamed_to_its_end(client: Client) -> None:
    """The client reads the stream of a response that another request made."""
    made = client.openai.responses.create(model="small", input="hi", background=True)
    with client.openai.responses.retrieve(made.id, stream=True) as stream:
        events = list(stream)
    assert events[-1].type == "response.completed"
    assert client.verified().claims.rid == made._request_id
    token = client.verified().token
    client.openai.responses.retrieve(made.id)
    client.openai.responses.retrieve(made.id)
    assert client.verified().token == token


def test_a_cancelled_background_response_is_sealed(client: Client) -> None:
    """What there is of it: nothing."""
    made = client.openai.responses.create(model="small", input="hi", background=True)
    assert client.openai.responses.cancel(made.id).status == "cancelled"
    assert client.verified().claims.rid == made._request_id
    assert client.verified().claims.content.count == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stored_response_is_retrieved_with_its_token(client: Client, streamed: bool) -> None:
    """However it was made."""
    if streamed:
        with client.openai.responses.create(model="small", input="hi", stream=True) as stream:
            made = next(event for event in stream if event.type == "response.completed").response
    else:
        made = client.openai.responses.create(model="small", input="hi")
    first = client.verified()
    again = client.openai.responses.retrieve(made.id)
    assert again.output_text == made.output_text
    assert client.verified().token == first.token


def test_another_account_cannot_retrieve_it(client: Client, provider: Provider, base_url: str) -> None:
    """To whoever did not make it, it is unknown."""
    made = client.openai.responses.create(model="small", input="hi")
    other = Client(provider, base_url, "enterprise")
    with pytest.raises(openai.NotFoundError) as refused:
        other.openai.responses.retrieve(made.id)
    other.http.close()
    assert refused.value.code == "tos_unknown_response"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_retries_are_sealed_and_charged_once(client: Client, api: str, streamed: bool) -> None:
    """Whichever worker answers them."""
    more: dict[str, Any] = {"model": "small", "stream": streamed, "extra_headers": {"Idempotency-Key": secrets.token_hex(8)}}
    before = client.used()["requests"]
    tokens = set()
    for _ in range(6):
        if api == "chat":
            said: Any = client.openai.chat.completions.create(messages=[{"role": "user", "content": "hi"}], **more)
        else:
            said = client.openai.responses.create(input="hi", **more)
        if streamed:
            list(said)
        tokens.add(client.verified().token)
    assert len(tokens) == 1
    assert client.used()["requests"] == before + 1
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.openai.responses.create(input="else", **more)
    assert refused.value.code == "tos_idempotency_mismatch"


def test_of_many_that_poll_at_once_all_get_one_token(client: Client, provider: Provider, base_url: str) -> None:
    """Across both workers: one seal wins, and there is one record."""
    made = client.openai.responses.create(model="small", input="hi", background=True)
    client.openai.responses.retrieve(made.id)

    def poll(_: int) -> str:
        mine = Client(provider, base_url)
        mine.openai.responses.retrieve(made.id)
        mine.http.close()
        return mine.verified().token

    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(poll, range(16)))
    assert len(tokens) == 1
    with provider.store() as store:
        record = store.by_request_id(provider.issuer, str(made._request_id))
    assert record is not None
    assert record.jti == client_jti(tokens.pop(), provider)


def client_jti(token: str, provider: Provider) -> str:
    """The id of a token."""
    from tos_guard.verify import verify_token

    return verify_token(token, trust=provider.trust(), now=now()).claims.jti
