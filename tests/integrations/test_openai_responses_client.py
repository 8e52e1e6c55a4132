"""OpenAI Responses and the older completions, called by the official `openai` client over a real server, with and without the guard."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from every_dialect import TEXT, THOUGHT, every_dialect
from kit import Kit
from serving import Serve
from streams import STREAMS
from tos_guard.errors import IncompleteError, PolicyStop
from tos_guard.guard import Admission
from tos_guard.types import Completion
from tos_guard.verify import Expected, Verified, verify_body, verify_prefix, verify_stream
from tos_guard.web.asgi import STATE_KEY

MODEL = "small"
ROUTES = {"/v1/responses": "openai-responses", "/v1/completions": "openai-completions"}


class Recorder(httpx2.HTTPTransport):
    """Keeps what a client sent and got."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.body = b""
        self.headers: dict[str, str] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent = request.read()
        response = super().handle_request(request)
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.body = response.read()
        return httpx2.Response(response.status_code, headers=response.headers, content=self.body)


class Called:
    """A server, and the official client that calls it."""

    def __init__(self, base_url: str, kit: Kit) -> None:
        self.recorder = Recorder()
        self.kit = kit
        http = httpx2.Client(transport=self.recorder)
        self.client = openai.OpenAI(base_url=f"{base_url}/v1", api_key=kit.key, max_retries=0, http_client=http)

    def prove(self) -> Verified:
        """What the bytes of the last answer prove, with header and request."""
        headers = self.recorder.headers
        given: dict[str, Any] = {
            "trust": self.kit.trust,
            "now": self.kit.clock(),
            "token": headers["ai-provenance"],
            "expected": Expected(request=self.recorder.sent, salt=headers["ai-provenance-salt"]),
        }
        if headers["content-type"].startswith("text/event-stream"):
            return verify_stream(self.recorder.body, **given)
        return verify_body(self.recorder.body, content_digest=headers["content-digest"], **given)


@pytest.fixture(scope="module")
def kit() -> Kit:
    """A guard for all servers of this module."""
    return Kit(settings={"routes": {path: {"dialect": name, "checkpoint_events": 4} for path, name in ROUTES.items()}})


@pytest.fixture(scope="module")
def guarded(kit: Kit, serve: Serve) -> Iterator[Called]:
    """The provider behind the guard."""
    with serve(kit.wrap(every_dialect())) as base_url:
        called = Called(base_url, kit)
        with called.client:
            yield called


@pytest.fixture(scope="module")
def bare(kit: Kit, serve: Serve) -> Iterator[Called]:
    """The same provider without a guard."""
    with serve(every_dialect()) as base_url:
        called = Called(base_url, kit)
        with called.client:
            yield called


def without_tags(value: Any) -> Any:
    """Parsed output without what only the guard adds."""
    document = value.model_dump() if hasattr(value, "model_dump") else value
    if isinstance(document, dict):
        return {name: without_tags(inner) for name, inner in document.items() if name != "ai_provenance"}
    return [without_tags(inner) for inner in document] if isinstance(document, list) else document


def test_a_response_is_the_same_with_the_guard_and_proven(guarded: Called, bare: Called) -> None:
    """The token is a member of the response that the client parses, and the header."""
    tagged = guarded.client.responses.create(model=MODEL, input="Hello")
    plain = bare.client.responses.create(model=MODEL, input="Hello")
    assert tagged.output_text == plain.output_text == TEXT
    assert without_tags(tagged) == without_tags(plain)
    assert tagged.model_extra is not None
    assert tagged.model_extra["ai_provenance"]["token"] == guarded.recorder.headers["ai-provenance"]
    verified = guarded.prove()
    assert verified.request_checked
    assert verified.claims.content is not None
    assert [leaf[:2] for leaf in verified.claims.content.leaves or ()] == [(0, "reasoning_summary"), (1, "text")]


def test_a_stream_of_responses_is_the_same_with_the_guard_and_its_final_object_has_the_token(guarded: Called, bare: Called) -> None:
    given: dict[str, Any] = {"model": MODEL, "input": "Hello", "stream": True}
    tagged, plain = list(guarded.client.responses.create(**given)), list(bare.client.responses.create(**given))
    assert without_tags(tagged) == without_tags(plain)
    assert "".join(each.delta for each in tagged if each.type == "response.output_text.delta") == TEXT
    last: Any = tagged[-1]
    assert last.type == "response.completed"
    verified = guarded.prove()
    assert last.response.model_extra["ai_provenance"]["token"] == verified.token
    assert verified.claims.completion is Completion.COMPLETE
    checkpoints = [each for each in tagged[:-1] if "ai_provenance" in (each.model_extra or {})]
    assert checkpoints


def test_what_the_stream_helper_builds_can_be_proven_by_the_token_of_the_stream(guarded: Called, bare: Called) -> None:
    """Whoever keeps the final object only has what the terminal event said, and the same leaves."""
    with guarded.client.responses.stream(model=MODEL, input="Hello") as stream:
        stream.until_done()
        final = stream.get_final_response()
    with bare.client.responses.stream(model=MODEL, input="Hello") as stream:
        plain = stream.get_final_response()
    assert final.output_text == TEXT
    assert without_tags(final) == without_tags(plain)
    kept = json.dumps(json.loads(guarded.recorder.body.split(b"data: ")[-1])["response"]).encode()
    assert THOUGHT.encode() in kept
    verified = verify_body(kept, trust=guarded.kit.trust, now=guarded.kit.clock())
    assert final.model_extra is not None
    assert verified.token == final.model_extra["ai_provenance"]["token"]


def test_a_cut_stream_which_the_client_takes_for_a_whole_one_proves_a_prefix(guarded: Called) -> None:
    list(guarded.client.responses.create(model=MODEL, input="Hello", stream=True))
    cut = guarded.recorder.body[: guarded.recorder.body.index(b"event: response.completed")]
    token = guarded.recorder.headers["ai-provenance"]
    with pytest.raises(IncompleteError):
        verify_stream(cut, trust=guarded.kit.trust, now=guarded.kit.clock(), token=token)
    prefix = verify_prefix(cut, trust=guarded.kit.trust, now=guarded.kit.clock(), token=token)
    assert 0 < prefix.size_bytes <= len(cut)


def test_a_completion_is_the_same_with_the_guard_and_proven(guarded: Called, bare: Called) -> None:
    tagged = guarded.client.completions.create(model=MODEL, prompt="Hello")
    plain = bare.client.completions.create(model=MODEL, prompt="Hello")
    assert tagged.choices[0].text == TEXT
    assert without_tags(tagged) == without_tags(plain)
    assert tagged.model_extra is not None
    assert tagged.model_extra["ai_provenance"]["token"] == guarded.recorder.headers["ai-provenance"]
    assert guarded.prove().claims.content is not None


def test_a_stream_of_completions_is_the_same_with_the_guard_and_its_finishing_chunk_has_the_token(guarded: Called, bare: Called) -> None:
    given: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "stream": True}
    tagged, plain = list(guarded.client.completions.create(**given)), list(bare.client.completions.create(**given))
    assert without_tags(tagged) == without_tags(plain)
    assert "".join(each.choices[0].text for each in tagged) == TEXT
    finishing = next(each for each in tagged if each.choices[0].finish_reason)
    assert (finishing.model_extra or {})["ai_provenance"]["token"] == guarded.prove().token


# in-band failure


def failing() -> FastAPI:
    """A provider whose streams are stopped, or raise, in their midst."""
    app = FastAPI()

    @app.post("/v1/responses")
    @app.post("/v1/completions")
    async def answer(request: Request) -> StreamingResponse:
        asked = await request.json()
        admission: Admission = request.scope["state"][STATE_KEY]
        name = "openai-responses" if request.url.path.endswith("responses") else "openai-completions"
        how = asked.get("input") or asked.get("prompt")

        async def body() -> AsyncIterator[bytes]:
            for number, each in enumerate(STREAMS[name]):
                if number == 2 and how == "raise":
                    raise RuntimeError("the model broke")
                if number == 2 and how == "stop":
                    raise PolicyStop("No weapons", clause="no-weapons")
                if number == 2 and how == "flag":
                    admission.stop("No weapons", clause="no-weapons")
                yield each

        return StreamingResponse(body(), media_type="text/event-stream")

    return app


@pytest.fixture(scope="module")
def breaking(kit: Kit, serve: Serve) -> Iterator[Called]:
    """The provider that fails, behind the guard."""
    with serve(kit.wrap(failing())) as base_url:
        called = Called(base_url, kit)
        with called.client:
            yield called


def ask(called: Called, way: str, how: str) -> None:
    """Read a stream to its end, or until the client raises."""
    if way == "completions":
        list(called.client.completions.create(model=MODEL, prompt=how, stream=True))
    elif way == "create":
        list(called.client.responses.create(model=MODEL, input=how, stream=True))
    else:
        with called.client.responses.stream(model=MODEL, input=how) as stream:
            stream.until_done()


@pytest.mark.parametrize("how", ["stop", "flag"])
@pytest.mark.parametrize("way", ["completions", "create", "stream"])
def test_a_policy_stop_is_loud_in_every_way_of_reading_and_the_token_says_so(breaking: Called, way: str, how: str) -> None:
    """An `error` event in OpenAI's own form would be handed out as any other, and half a response taken for all of it."""
    with pytest.raises(openai.APIError, match="No weapons") as caught:
        ask(breaking, way, how)
    assert caught.value.code == "tos_policy_stop"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["clause"] == "no-weapons"
    assert breaking.prove().claims.completion is Completion.POLICY


@pytest.mark.parametrize("way", ["completions", "create", "stream"])
def test_a_handler_that_breaks_is_loud_in_every_way_of_reading_and_the_token_says_so(breaking: Called, way: str) -> None:
    with pytest.raises(openai.APIError, match="could not be completed") as caught:
        ask(breaking, way, "raise")
    assert caught.value.code == "tos_handler_error"
    assert breaking.prove().claims.completion is Completion.ERROR
