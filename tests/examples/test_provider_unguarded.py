"""The example provider without a guard, over real sockets, as the official ``openai`` client sees it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from provider_fastapi.app import create_app
from provider_fastapi.models import ReplayModel, SmolModel
from serving import Serve, ServeProcess

MODEL = "smollm2-135m"
CREATED = 1_790_000_000
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
    },
}


def ask(text: str) -> Any:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def client_of(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def base_url(serve: Serve) -> Iterator[str]:
    with serve(create_app(ReplayModel(clock=lambda: CREATED))) as url:
        yield url


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with client_of(base_url) as made:
        yield made


def texts(chunks: list[ChatCompletionChunk]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            found[choice.index] = found.get(choice.index, "") + (choice.delta.content or "")
    return found


def test_json_answer_is_a_whole_completion(client: openai.OpenAI) -> None:
    """The client gets text, an end and usage that adds up."""
    answer = client.chat.completions.create(model=MODEL, messages=ask("Why do leaves turn yellow?"))
    assert answer.model == MODEL
    assert answer.created == CREATED
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream_says_what_json_says_for_every_choice(client: openai.OpenAI) -> None:
    """Three interleaved choices: each text is that of the JSON answer, and each choice ends once."""
    whole = client.chat.completions.create(model=MODEL, messages=ask("Tell me of Kyoto."), n=3)
    chunks = list(client.chat.completions.create(model=MODEL, messages=ask("Tell me of Kyoto."), n=3, stream=True))
    assert texts(chunks) == {choice.index: choice.message.content for choice in whole.choices}
    assert len(set(texts(chunks).values())) == 3
    order = [choice.index for chunk in chunks for choice in chunk.choices]
    assert order != sorted(order), "the choices are interleaved"
    assert sorted(choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason) == [0, 1, 2]
    assert {chunk.id for chunk in chunks} == {whole.id}


def test_usage_chunk_comes_last_and_only_when_asked_for(client: openai.OpenAI) -> None:
    """With ``include_usage`` the last chunk has usage and no choices; without, no chunk has usage."""
    asked: Any = {"model": MODEL, "messages": ask("What is an API key?"), "stream": True}
    with_usage = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    assert with_usage[-1].choices == []
    assert with_usage[-1].usage is not None
    assert all(chunk.usage is None for chunk in with_usage[:-1])
    assert all(chunk.usage is None and chunk.choices for chunk in client.chat.completions.create(**asked))


def test_tool_calls_stream_their_arguments(client: openai.OpenAI) -> None:
    """A prompt that names a tool gets a call whose streamed arguments join to the JSON that the whole answer has."""
    asked: Any = {"model": MODEL, "messages": ask("Please get weather for Lisbon"), "tools": [WEATHER]}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    assert whole.message.tool_calls is not None
    (call,) = whole.message.tool_calls
    assert call.type == "function"
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert [(c.id, c.function.name, c.function.arguments) for c in streamed.message.tool_calls or ()] == [
        (call.id, "get_weather", call.function.arguments)
    ]
    assert client.chat.completions.create(**asked, tool_choice="none").choices[0].message.content


def test_reasoning_refusal_and_fewer_choices_on_demand(client: openai.OpenAI) -> None:
    """The stand-in shows the rarer shapes."""
    answer = client.chat.completions.create(model=MODEL, messages=ask("Hi [[think]] [[refuse]] [[choices 1]]"), n=3)
    (choice,) = answer.choices
    assert choice.message.refusal == "I'm sorry, but I can't help with that."
    assert choice.message.content is None
    assert choice.message.model_extra is not None
    assert choice.message.model_extra["reasoning_content"].startswith("The user asks")


def test_wire_is_exact_and_the_same_twice(base_url: str) -> None:
    """Events are ``data: {json}`` and a blank line, the last is ``[DONE]``; the bytes depend on the request alone."""
    body = {"model": MODEL, "messages": ask("Cherry trees, please. [[halves]] [[crlf]]"), "n": 2, "stream": True}
    first, second = (httpx.post(f"{base_url}/v1/chat/completions", json=body, timeout=30) for _ in range(2))
    assert first.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert first.content == second.content
    *events, done, rest = first.content.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(json.loads(event.removeprefix(b"data: "))["object"] == "chat.completion.chunk" for event in events)
    assert b'"content":"\\ud83c"' in first.content
    whole = httpx.post(f"{base_url}/v1/chat/completions", json={**body, "stream": False}, timeout=30)
    assert "🌧" in whole.json()["choices"][0]["message"]["content"]


def test_error_before_the_first_chunk_is_a_status(client: openai.OpenAI) -> None:
    """Unknown models and bad requests are HTTP errors in OpenAI's shape, streamed or not."""
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-none", messages=ask("Hi"), stream=stream)
        assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as invalid:
        client.chat.completions.create(model=MODEL, messages=ask("Hi"), n=0)
    assert invalid.value.param == "n"
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model=MODEL, messages=ask("Hi [[error]]"))


@pytest.mark.parametrize(("directive", "code"), [("error", "upstream_failed"), ("policy", "content_policy_violation")])
def test_error_in_a_stream_is_an_event_and_no_done(base_url: str, client: openai.OpenAI, directive: str, code: str) -> None:
    """An error after some chunks reaches the client as its own exception, and the stream ends there."""
    asked: Any = {"model": MODEL, "messages": ask(f"Hi [[{directive} 5]]"), "stream": True}
    chunks = iter(client.chat.completions.create(**asked))
    assert len([next(chunks) for _ in range(5)]) == 5
    with pytest.raises(openai.APIError) as error:
        next(chunks)
    assert error.value.code == code
    raw = httpx.post(f"{base_url}/v1/chat/completions", json=asked, timeout=30).content
    assert b"[DONE]" not in raw


def test_filter_ends_every_choice(client: openai.OpenAI) -> None:
    """A filtered answer ends with ``content_filter`` for each choice that was still open."""
    chunks = list(client.chat.completions.create(model=MODEL, messages=ask("Hi [[filter 4]]"), n=2, stream=True))
    assert [choice.finish_reason for chunk in chunks[4:] for choice in chunk.choices] == ["content_filter"] * 2


def test_crash_in_a_stream_cuts_the_connection(base_url: str) -> None:
    """An exception that nobody handles leaves a body without its end."""
    body = {"model": MODEL, "messages": ask("Hi [[crash 3]]"), "stream": True}
    with httpx.stream("POST", f"{base_url}/v1/chat/completions", json=body, timeout=30) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()


def test_client_that_leaves_closes_the_stream(serve: Serve) -> None:
    """A stream held at chunk 4 is closed when its caller goes; the first chunks had come before."""
    closed = threading.Event()
    ends: list[tuple[int, bool]] = []

    async def hold(number: int) -> None:
        if number == 4:
            await asyncio.Event().wait()

    def on_close(count: int, ended: bool) -> None:
        ends.append((count, ended))
        closed.set()

    with serve(create_app(ReplayModel(before_chunk=hold, on_close=on_close))) as url:
        with client_of(url) as client, client.chat.completions.create(model=MODEL, messages=ask("Hi"), stream=True) as stream:
            for _ in range(4):
                next(stream)
        assert closed.wait(30)
    assert ends == [(4, False)]


def test_other_routes_are_plain(base_url: str, client: openai.OpenAI) -> None:
    """Models are listed; scores are nested JSON with floats; health is answered."""
    assert [model.id for model in client.models.list()] == ["smollm2-135m", "smollm2-135m-preview"]
    scored = httpx.post(f"{base_url}/v1/score", json={"input": ["a", "b"]}, timeout=30).json()
    assert all(isinstance(value, float) for result in scored["results"] for value in result["category_scores"].values())
    assert httpx.get(f"{base_url}/healthz", timeout=30).json() == {"status": "ok"}


def test_two_workers_answer_alike_and_a_killed_one_is_replaced(serve_process: ServeProcess) -> None:
    """Under two worker processes the same request has the same bytes, before and after a worker was killed."""
    body = {"model": MODEL, "messages": ask("Hello"), "stream": True}
    with serve_process("provider_fastapi.app:unguarded", factory=True, workers=2, env={"PROVIDER_CREATED": str(CREATED)}) as server:
        url = f"{server.base_url}/v1/chat/completions"
        before = {httpx.post(url, json=body, timeout=30).content for _ in range(4)}
        workers = server.workers()
        assert len(workers) == 2
        new = server.kill_worker(workers[0])
        assert new in server.workers()
        assert workers[0] not in server.workers()
        assert {httpx.post(url, json=body, timeout=30).content for _ in range(4)} == before
        assert len(before) == 1


@pytest.mark.model
def test_real_model_answers_json_streams_and_choices(serve: Serve) -> None:
    """SmolLM2 behind the same provider: structure only, for the text is the model's own business."""
    asked: Any = {"model": MODEL, "messages": ask("Say hello."), "max_tokens": 8, "temperature": 0, "seed": 1}
    with serve(create_app(SmolModel())) as url, client_of(url) as client:
        whole = client.chat.completions.create(**asked)
        assert whole.model == MODEL
        assert whole.choices[0].message.content
        assert whole.usage is not None
        assert 0 < whole.usage.completion_tokens <= 8
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        assert texts(chunks)[0].strip() == whole.choices[0].message.content.strip()
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert len({choice.index for choice in client.chat.completions.create(**{**asked, "temperature": 1}, n=3).choices}) == 3
        with client.chat.completions.create(**{**asked, "max_tokens": 512}, stream=True) as left:
            next(left)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**asked, n=5)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**{**asked, "model": "other"})
        with pytest.raises(openai.BadRequestError, match="context size"):
            client.chat.completions.create(**{**asked, "messages": ask("word " * 9_000)})
