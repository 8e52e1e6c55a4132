"""The official `anthropic` client, and `openai` for embeddings, against a guarded provider on a real server and the same one bare."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from kit import ISSUER, Kit, ask, streamed
from serving import serve_app
from tos_guard.errors import AbsentError, ContentMismatchError, IncompleteError, PolicyStop, VerificationError
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.remote import ResponseChecks
from tos_guard.remote.httpx2 import AsyncVerifyingTransport, VerifyingTransport
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Expected, Verified, verify_body, verify_stream, verify_text

TEXT = "Grüße aus Köln \U0001f642, with a tab\tand\r\ntwo lines.\n"
BLOCKS: dict[str, list[dict[str, Any]]] = {
    "text": [{"type": "text", "text": TEXT, "citations": None}],
    "thinking": [
        {"type": "thinking", "thinking": " They greet;\nso greet back.", "signature": "c2lnbmVk"},
        {"type": "redacted_thinking", "data": "ZW5j"},
        {"type": "text", "text": TEXT, "citations": None},
    ],
    "tools": [
        {"type": "text", "text": "Let me see.", "citations": None},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln \U0001f642", "days": [1, 2.50], "now": None}},
        {"type": "tool_use", "id": "toolu_2", "name": "clock", "input": {}},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Köln"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [
                {"type": "web_search_result", "title": "Köln", "url": "https://a.example", "encrypted_content": "ZW5j", "page_age": None}
            ],
        },
    ],
    "nothing": [],
}
USAGE = {"input_tokens": 9, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 1, "output_tokens": 21}
USED = {"requests": 1, "input-tokens": 110, "output-tokens": 21}
VECTOR = [0.25, -0.5, 0.125, 1.0]

Event = dict[str, Any]


def message(asked: dict[str, Any], content: list[dict[str, Any]], **members: Any) -> dict[str, Any]:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"], "content": content}
    return {**head, "stop_reason": None, "stop_sequence": None, **members}


def pieces(text: str) -> list[str]:
    """The text in deltas of five characters, which cut CR LF and what stands around it."""
    return [text[at : at + 5] for at in range(0, len(text), 5)]


def block_events(index: int, block: dict[str, Any]) -> Iterator[Event]:
    def delta(kind: str, **members: Any) -> Event:
        return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **members}}

    begun = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}.get(block["type"], {})
    begun |= {"input": {}} if "input" in block else {}
    yield {"type": "content_block_start", "index": index, "content_block": {**block, **begun}}
    for name in ("text", "thinking"):
        for piece in pieces(block.get(name, "")):
            yield delta(f"{name}_delta", **{name: piece})
    if "signature" in block:
        yield delta("signature_delta", signature=block["signature"])
    if "input" in block:
        yield delta("input_json_delta", partial_json="")
        for piece in pieces(json.dumps(block["input"], indent=1)) if block["input"] else ():
            yield delta("input_json_delta", partial_json=piece)
    yield {"type": "content_block_stop", "index": index}


def events_of(asked: dict[str, Any], blocks: list[dict[str, Any]]) -> Iterator[Event]:
    yield {"type": "message_start", "message": message(asked, [], usage={**USAGE, "output_tokens": 1})}
    yield {"type": "ping"}
    for index, block in enumerate(blocks):
        yield from block_events(index, block)
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 21}}
    yield {"type": "message_stop"}


class Provider:
    """Speaks Messages and embeddings; what a message holds is the word that the prompt is.

    Attributes:
        gate: While cleared, a stream stops after its first delta.
        asked: Bodies of requests that reached it.
        raises: What a stream raises after its first delta, or None.
        says: Changes events before they leave.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked: list[dict[str, Any]] = []
        self.app = FastAPI()
        self.app.post("/v1/messages")(self.messages)
        self.app.post("/v1/messages/count_tokens")(self.count_tokens)
        self.app.post("/v1/embeddings")(self.embeddings)
        self.reset()

    def reset(self) -> None:
        self.asked.clear()
        self.gate.set()
        self.raises: Exception | None = None
        self.says: Callable[[list[Event]], list[Event]] = lambda events: events

    async def messages(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        blocks = BLOCKS.get(asked["messages"][0]["content"], BLOCKS["text"])
        if asked.get("stream"):
            return StreamingResponse(self.stream(self.says([*events_of(asked, blocks)])), media_type="text/event-stream")
        return JSONResponse(message(asked, blocks, stop_reason="end_turn", usage=USAGE))

    async def stream(self, events: list[Event]) -> AsyncIterator[bytes]:
        for event in events:
            yield f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
            if event["type"] == "content_block_delta":
                await asyncio.to_thread(self.gate.wait, 20)
                if self.raises is not None:
                    raise self.raises

    async def count_tokens(self, request: Request) -> Response:
        self.asked.append(await request.json())
        return JSONResponse({"input_tokens": 9})

    async def embeddings(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        inputs = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        vector: Any = VECTOR
        if asked.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode("ascii")
        data = [{"object": "embedding", "index": at, "embedding": vector} for at in range(len(inputs))]
        return JSONResponse({"object": "list", "data": data, "model": asked["model"], "usage": {"prompt_tokens": 9, "total_tokens": 9}})


def limit(quantity: Quantity, amount: int = 1_000_000) -> Limit:
    return Limit(id=quantity.value, quantity=quantity, amount=amount, per=(Dimension.ACCOUNT,), window=Sliding(20))


class Guarded:
    """A guarded provider that is being served, and the same one without its guard.

    Attributes:
        base: URL of the guarded one.
        bare: URL of the other one.
    """

    def __init__(self, provider: Provider, stack: ExitStack) -> None:
        self.provider = provider
        self.kit = Kit(
            settings={
                "routes": {
                    "/v1/messages": "anthropic-messages",
                    "/v1/messages/count_tokens": "anthropic-messages",
                    "/v1/embeddings": "openai-embeddings",
                },
                "max_request_bytes": 4096,
            },
            limits=[limit(quantity) for quantity in (Quantity.REQUESTS, Quantity.INPUT_TOKENS, Quantity.OUTPUT_TOKENS)],
        )
        self.base = stack.enter_context(serve_app(self.kit.wrap(provider.app)))
        self.bare = stack.enter_context(serve_app(provider.app))

    def prove(self, recorder: Recorder) -> Verified:
        """What the recorded bytes prove, with header and request."""
        given: dict[str, Any] = {
            "trust": self.kit.trust,
            "now": self.kit.clock(),
            "token": recorder.headers["ai-provenance"],
            "expected": Expected(request=recorder.sent[-1], salt=recorder.headers["ai-provenance-salt"]),
        }
        if recorder.headers["content-type"].startswith("text/event-stream"):
            return verify_stream(recorder.body, **given)
        return verify_body(recorder.body, content_digest=recorder.headers["content-digest"], **given)


@pytest.fixture(scope="module")
def served() -> Iterator[Guarded]:
    with ExitStack() as stack:
        yield Guarded(Provider(), stack)


@pytest.fixture
def guarded(served: Guarded) -> Guarded:
    """As if nothing had been asked in this minute."""
    served.provider.reset()
    served.kit.signer.failing = False
    served.kit.clock.advance(timedelta(seconds=120))
    served.kit.change(models=frozenset({"small"}), actions=frozenset({"generate"}), limits={})
    return served


class Recorder(httpx2.HTTPTransport):
    """Keeps the bytes that a client got and sent."""

    def __init__(self) -> None:
        super().__init__()
        self.body = b""
        self.sent: list[bytes] = []
        self.headers: dict[str, str] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent.append(request.read())
        response = super().handle_request(request)
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.body = response.read()
        return httpx2.Response(response.status_code, headers=response.headers, content=self.body)


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Closes what a test opens."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def client(guarded: Guarded, clients: ExitStack) -> Callable[..., anthropic.Anthropic]:
    """Makes official clients of the guarded provider."""

    def made(transport: httpx2.BaseTransport | None = None, *, base: str | None = None, **given: Any) -> anthropic.Anthropic:
        http = httpx2.Client(transport=transport or Recorder())
        return clients.enter_context(
            anthropic.Anthropic(base_url=base or guarded.base, http_client=http, **{"api_key": guarded.kit.key, **given})
        )

    return made


Client = Callable[..., anthropic.Anthropic]


def question(word: str = "text", **given: Any) -> dict[str, Any]:
    return {"model": "small", "max_tokens": 64, "messages": [{"role": "user", "content": word}], **given}


def without_tag(value: Any) -> Any:
    """Parsed output without what only the guard adds."""
    document = value.model_dump(warnings=False)  # embeddings in base64 are not what the client declares
    document.pop("ai_provenance", None)
    if isinstance(document.get("message"), dict):
        document["message"].pop("ai_provenance", None)
    return document


def member_of(value: Any) -> Any:
    return (value.model_extra or {}).get("ai_provenance")


@pytest.mark.parametrize("word", BLOCKS)
def test_a_json_answer_is_the_same_with_the_guard_and_proven(guarded: Guarded, client: Client, word: str) -> None:
    recorder = Recorder()
    answer = client(recorder).messages.create(**question(word))
    assert without_tag(answer) == without_tag(client(base=guarded.bare).messages.create(**question(word)))
    assert member_of(answer)["token"] == recorder.headers["ai-provenance"]
    verified = guarded.prove(recorder)
    assert (verified.claims.content.projection, verified.claims.completion) == ("messages-1", "complete")  # type: ignore[union-attr]
    assert (answer._request_id, verified.request_checked) == (verified.claims.rid, True)
    kept = answer.to_json().encode()
    assert verify_body(kept, trust=guarded.kit.trust, now=guarded.kit.clock()).claims == verified.claims
    if word == "text":
        verify_text(answer.content[0].text, token=verified.token, trust=guarded.kit.trust, now=guarded.kit.clock())  # type: ignore[union-attr]
    assert guarded.kit.used() == USED


@pytest.mark.parametrize("word", BLOCKS)
def test_a_streamed_answer_is_the_same_with_the_guard_and_proven(guarded: Guarded, client: Client, word: str) -> None:
    """Event for event, but for the pending tag where the message starts and the final one where it stops."""
    recorder = Recorder()
    events = list(client(recorder).messages.create(**question(word), stream=True))
    bare = list(client(base=guarded.bare).messages.create(**question(word), stream=True))
    assert [without_tag(event) for event in events] == [without_tag(event) for event in bare]
    assert [position for position, event in enumerate(events) if member_of(event)] == [len(events) - 1]
    assert member_of(events[0].message) == {"token": recorder.headers["ai-provenance"]}  # type: ignore[union-attr]
    verified = guarded.prove(recorder)
    assert (verified.token, verified.notes) == (member_of(events[-1])["token"], ())
    assert guarded.kit.used() == USED


@pytest.mark.parametrize("word", ["text", "thinking", "tools", "nothing"])
def test_the_message_that_the_client_builds_from_a_stream_is_proven_by_the_tag_of_the_stream(
    guarded: Guarded, client: Client, word: str
) -> None:
    """Only the bytes have that tag: the client makes the last event of its own streams anew."""
    recorder = Recorder()
    with client(recorder).messages.stream(**question(word)) as stream:
        final = stream.get_final_message()
    tag = json.loads(recorder.body.rpartition(b"data: ")[2])["ai_provenance"]
    with client(base=guarded.bare).messages.stream(**question(word)) as bare:
        assert without_tag(final) == without_tag(bare.get_final_message())
    given: dict[str, Any] = {"trust": guarded.kit.trust, "now": guarded.kit.clock()}
    kept = json.loads(final.to_json())
    with pytest.raises(IncompleteError):  # what the client keeps by itself is the pending token
        verify_body(json.dumps(kept).encode(), **given)
    kept["ai_provenance"] = tag
    verified = verify_body(json.dumps(kept).encode(), **given)
    assert verified.claims.content.projection == "messages-1"  # type: ignore[union-attr]
    if word != "tools":  # whose search result is covered whole, and would get members of the client's own
        dumped = {**json.loads(final.model_dump_json()), "ai_provenance": tag}
        assert verify_body(json.dumps(dumped).encode(), **given).claims == verified.claims
    for block in kept["content"]:
        changed = {**block, **{name: "x" for name in ("text", "thinking", "signature", "data", "name") if name in block}}
        others = [changed if each is block else each for each in kept["content"]]
        if changed != block:
            with pytest.raises(ContentMismatchError):
                verify_body(json.dumps({**kept, "content": others}).encode(), **given)


def test_the_text_of_a_stream_is_the_same_with_the_guard(guarded: Guarded, client: Client) -> None:
    texts = []
    for base in (guarded.base, guarded.bare):
        with client(base=base).messages.stream(**question("thinking")) as stream:
            texts.append(list(stream.text_stream))
    assert texts[0] == texts[1]
    assert "".join(texts[0]) == TEXT


def test_each_event_leaves_before_the_next_is_made(guarded: Guarded, client: Client) -> None:
    """The provider makes nothing more until the client has its first word."""
    guarded.provider.gate.clear()
    seen = []
    with client(httpx2.HTTPTransport()).messages.create(**question(), stream=True) as stream:
        for event in stream:
            seen.append(event.type)
            if event.type == "content_block_delta":
                assert event.delta.text == TEXT[:5]  # type: ignore[union-attr]
                guarded.provider.gate.set()
                break
        rest = [event.type for event in stream]
    assert seen == ["message_start", "content_block_start", "content_block_delta"]
    assert rest[-1] == "message_stop"


def test_a_recorded_stream_cut_at_any_byte_is_never_valid(guarded: Guarded, client: Client) -> None:
    recorder = Recorder()
    list(client(recorder).messages.create(**question("nothing"), stream=True))
    given: dict[str, Any] = {"trust": guarded.kit.trust, "now": guarded.kit.clock()}
    for size in range(len(recorder.body)):
        with pytest.raises(IncompleteError):
            verify_stream(recorder.body[:size], token=recorder.headers["ai-provenance"], **given)
    assert verify_stream(recorder.body, **given).notes == ()


# What is refused.


@pytest.mark.parametrize(
    ("change", "status", "kind", "name", "code"),
    [
        ({"api_key": "tg-000000000000-" + "A" * 43}, 401, anthropic.AuthenticationError, "authentication_error", "tos_unauthenticated"),
        ({"model": "large"}, 403, anthropic.PermissionDeniedError, "permission_error", "tos_model_not_allowed"),
        ({"extra_body": {"max_tokens": "many"}}, 400, anthropic.BadRequestError, "invalid_request_error", "tos_malformed_request"),
        ({"system": "x" * 5000}, 413, anthropic.RequestTooLargeError, "request_too_large", "tos_request_too_large"),
        ({"limit": 0}, 429, anthropic.RateLimitError, "rate_limit_error", "tos_limit"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_reach_the_client_in_its_own_errors_and_are_not_tried_again(
    guarded: Guarded,
    client: Client,
    change: dict[str, Any],
    status: int,
    kind: type[anthropic.APIStatusError],
    name: str,
    code: str,
    stream: bool,
) -> None:
    recorder = Recorder()
    change = dict(change)
    given = {"api_key": change.pop("api_key")} if "api_key" in change else {}
    if "limit" in change:
        guarded.kit.change(limits={"output-tokens": change.pop("limit")})
    with pytest.raises(kind) as caught:
        client(recorder, **given).messages.create(**question(**change), stream=stream)
    error = caught.value
    assert error.status_code == status
    assert error.body["error"] | {"type": name, "code": code} == error.body["error"]  # type: ignore[index]
    assert error.type == name
    assert error.request_id == error.body["request_id"]  # type: ignore[index]
    assert error.body["error"]["terms_url"].startswith("https://")  # type: ignore[index]
    assert (len(recorder.sent), guarded.provider.asked) == (1, [])


def test_a_limit_that_has_room_again_soon_says_so(guarded: Guarded, client: Client) -> None:
    """Within a minute: the client is told that trying again helps, and when."""
    guarded.kit.change(limits={"requests": 1})
    client().messages.create(**question())
    recorder = Recorder()
    with pytest.raises(anthropic.RateLimitError) as caught:
        client(recorder, max_retries=0).messages.create(**question())
    headers = caught.value.response.headers
    assert headers["x-should-retry"] == "true"
    assert 20 <= int(headers["retry-after"]) <= 22
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"


def test_a_failing_signer_is_an_overloaded_provider(guarded: Guarded, client: Client) -> None:
    guarded.kit.signer.failing = True
    for stream in (False, True):
        with pytest.raises(anthropic.InternalServerError) as caught:
            client(max_retries=0).messages.create(**question(), stream=stream)
        assert (caught.value.status_code, caught.value.type) == (503, "overloaded_error")


@pytest.mark.parametrize(
    ("raised", "name", "completion"),
    [(RuntimeError("broken"), "api_error", "error"), (PolicyStop("Stopped", clause="no-weapons"), "permission_error", "policy")],
)
def test_a_stream_that_breaks_off_ends_in_the_clients_own_error_and_is_proven(
    guarded: Guarded, client: Client, raised: Exception, name: str, completion: str
) -> None:
    guarded.provider.raises = raised
    recorder = Recorder()
    with pytest.raises(anthropic.APIStatusError) as caught, client(recorder).messages.stream(**question()) as stream:
        stream.get_final_message()
    assert caught.value.type == name
    assert "broken" not in json.dumps(caught.value.body)
    verified = guarded.prove(recorder)
    assert (verified.claims.completion, verified.notes) == (completion, (f"completion: {completion}",))
    assert caught.value.body["ai_provenance"]["token"] == verified.token  # type: ignore[index]
    verify_text(TEXT[:5], token=verified.token, trust=guarded.kit.trust, now=guarded.kit.clock())


def test_an_error_of_the_provider_in_the_stream_is_sealed(guarded: Guarded, client: Client) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    guarded.provider.says = lambda events: [*events[:5], error]
    recorder = Recorder()
    with pytest.raises(anthropic.APIStatusError) as caught:
        list(client(recorder).messages.create(**question(), stream=True))
    assert caught.value.type == "overloaded_error"
    assert guarded.prove(recorder).claims.completion == "error"


async def test_a_stream_without_its_end_is_unsealed_and_counted() -> None:
    kit = Kit(settings={"routes": {"/v1/messages": "anthropic-messages"}})
    events = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events_of({"model": "small"}, BLOCKS["text"])]
    answer = await ask(kit.wrap(streamed(*events[:-1])), "/v1/messages", key=kit.key)
    with pytest.raises(IncompleteError):
        verify_stream(answer.body, trust=kit.trust, now=kit.clock())
    assert kit.guard.counts["unsealed:no_carrier"] == 1
    assert [record.unsealed for record in kit.records()] == ["no_carrier"]


def test_limits_are_told_in_anthropics_fields(guarded: Guarded, client: Client) -> None:
    """So many quantities as there is room for beside the token; with a refusal, all."""
    headers = client().messages.with_raw_response.create(**question()).headers
    told = {name.removeprefix("anthropic-ratelimit-"): value for name, value in headers.items() if name.startswith("anthropic-ratelimit-")}
    seconds = re.findall(r'"requests";r=\d+;t=(\d+)', headers["ratelimit"])
    at = f"{guarded.kit.clock() + timedelta(seconds=int(seconds[0])):%Y-%m-%dT%H:%M:%SZ}"
    assert {name: told[name] for name in told if name.startswith("requests")} == {
        "requests-limit": "1000000",
        "requests-remaining": "999999",
        "requests-reset": at,
    }
    guarded.kit.change(limits={"requests": 1})
    with pytest.raises(anthropic.RateLimitError) as caught:
        client(max_retries=0).messages.create(**question())
    for unit in ("requests", "input-tokens", "output-tokens"):
        assert caught.value.response.headers[f"anthropic-ratelimit-{unit}-reset"] == at


def test_counting_tokens_is_decided_and_sealed_and_takes_none(guarded: Guarded, client: Client) -> None:
    recorder = Recorder()
    asked = {"model": "small", "messages": [{"role": "user", "content": "text"}]}
    assert client(recorder).messages.count_tokens(**asked).input_tokens == 9  # type: ignore[arg-type]
    assert guarded.prove(recorder).claims.content.projection == "json-1"  # type: ignore[union-attr]
    assert guarded.kit.used() == {"requests": 1, "input-tokens": 0, "output-tokens": 0}
    with pytest.raises(anthropic.PermissionDeniedError):
        client().messages.count_tokens(**{**asked, "model": "large"})  # type: ignore[arg-type]


# The verifying transport under the official clients.


class Tampering(httpx2.HTTPTransport):
    """Changes what a server said before anyone verifies it."""

    def __init__(self, change: Callable[[bytes], bytes] = lambda body: body) -> None:
        super().__init__()
        self._change = change

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        body = self._change(response.read())
        kept = [(name, value) for name, value in response.headers.multi_items() if name not in ("content-length", "content-digest")]
        return httpx2.Response(response.status_code, headers=kept, content=body)


class Verifying:
    """A client whose transport verifies, and what it found."""

    def __init__(self, guarded: Guarded, clients: ExitStack) -> None:
        self.verified: list[Verified] = []
        self.unverified: list[VerificationError] = []
        self.checks = ResponseChecks(
            origins={guarded.base: ISSUER},
            on_verified=lambda verified, _: self.verified.append(verified),
            on_unverified=lambda error, _: self.unverified.append(error),
        )
        self._verifier = clients.enter_context(Verifier(pinned=guarded.kit.trust, clock=guarded.kit.clock))

    def transport(self, inner: httpx2.BaseTransport | None = None) -> VerifyingTransport:
        return VerifyingTransport(self._verifier, self.checks, transport=inner or httpx2.HTTPTransport())


@pytest.fixture
def verifying(guarded: Guarded, clients: ExitStack) -> Verifying:
    return Verifying(guarded, clients)


@pytest.mark.parametrize("word", BLOCKS)
def test_the_official_client_reads_verified_answers(client: Client, verifying: Verifying, word: str) -> None:
    reading = client(verifying.transport())
    whole = reading.messages.create(**question(word))
    with reading.messages.stream(**question(word)) as stream:
        assert stream.get_final_message().to_dict()["content"] == whole.to_dict()["content"]
    assert [event.type for event in reading.messages.create(**question(word), stream=True)][-1] == "message_stop"
    assert [verified.request_checked for verified in verifying.verified] == [True] * 3
    assert [verified.notes for verified in verifying.verified] == [()] * 3
    assert verifying.unverified == []


@pytest.mark.parametrize("word", BLOCKS)
def test_the_message_that_the_client_builds_is_proven_by_the_token_that_its_transport_found(
    guarded: Guarded, client: Client, verifying: Verifying, word: str
) -> None:
    with client(verifying.transport()).messages.stream(**question(word)) as stream:
        kept = json.loads(stream.get_final_message().to_json())
        token = stream.response.extensions["tos_guard"].verified.token
    kept["ai_provenance"] = {"token": token}
    assert verify_body(json.dumps(kept).encode(), trust=guarded.kit.trust, now=guarded.kit.clock()).token == token


def test_what_the_guide_shows_of_keeping_a_message_is_so(guarded: Guarded, client: Client, verifying: Verifying) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "dialects.md").read_text(encoding="utf-8")
    (shown,) = [block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "get_final_message" in block]
    known: dict[str, Any] = {"client": client(verifying.transport())}
    exec(shown, known)
    proven = verify_body(json.dumps(known["message"]).encode(), trust=guarded.kit.trust, now=guarded.kit.clock())
    assert proven.token == verifying.verified[0].token


def test_a_stream_is_judged_when_the_client_has_its_last_event_though_it_reads_no_further(client: Client, verifying: Verifying) -> None:
    with client(verifying.transport()).messages.create(**question(), stream=True) as stream:
        for event in stream:
            assert verifying.verified == [] or event.type == "message_stop"
            if event.type == "message_stop":
                break
        assert len(verifying.verified) == 1


def test_a_stream_that_the_client_leaves_is_reported(guarded: Guarded, client: Client, verifying: Verifying) -> None:
    guarded.provider.gate.clear()
    with client(verifying.transport()).messages.create(**question(), stream=True) as stream:
        next(stream)
    guarded.provider.gate.set()
    assert (verifying.verified, [type(error) for error in verifying.unverified]) == ([], [IncompleteError])


def test_a_changed_word_is_found_before_the_answer_is_whole(client: Client, verifying: Verifying) -> None:
    """In a stream the error is ours; around a whole body the client puts its own, and keeps ours as the cause."""
    changing = client(verifying.transport(Tampering(lambda body: body.replace(b"Let", b"Set"))), max_retries=0)
    seen = []
    with pytest.raises(ContentMismatchError):
        seen.extend(event.type for event in changing.messages.create(**question("tools"), stream=True))
    assert "message_stop" not in seen
    with pytest.raises(anthropic.APIConnectionError) as caught:
        changing.messages.create(**question("tools"))
    assert isinstance(caught.value.__cause__, ContentMismatchError)
    assert [type(error) for error in verifying.unverified] == [ContentMismatchError, ContentMismatchError]
    assert verifying.verified == []


def test_a_stripped_or_cut_stream_is_found(client: Client, verifying: Verifying) -> None:
    stop = b"event: message_stop"

    def stripped(body: bytes) -> bytes:
        return body[: body.index(stop)] + stop + b'\ndata: {"type": "message_stop"}\n\n'

    for change in (stripped, lambda body: body[: body.index(stop)]):
        with pytest.raises(IncompleteError), client(verifying.transport(Tampering(change))).messages.stream(**question()) as stream:
            stream.get_final_message()


def test_an_answer_without_a_token_is_refused(guarded: Guarded, client: Client, verifying: Verifying) -> None:
    verifying.checks = ResponseChecks(origins={guarded.bare: ISSUER})
    reading = client(verifying.transport(), base=guarded.bare, max_retries=0)
    with pytest.raises(anthropic.APIConnectionError) as caught:
        reading.messages.create(**question())
    assert isinstance(caught.value.__cause__, AbsentError)
    with pytest.raises(AbsentError):
        list(reading.messages.create(**question(), stream=True))


async def test_the_official_asynchronous_client_reads_verified_answers(guarded: Guarded) -> None:
    found: list[Verified] = []
    checks = ResponseChecks(origins={guarded.base: ISSUER}, on_verified=lambda verified, _: found.append(verified))
    async with AsyncVerifier(pinned=guarded.kit.trust, clock=guarded.kit.clock) as verifier:
        http = httpx2.AsyncClient(transport=AsyncVerifyingTransport(verifier, checks))
        async with anthropic.AsyncAnthropic(base_url=guarded.base, api_key=guarded.kit.key, http_client=http) as reading:
            whole = await reading.messages.create(**question("tools"))
            async with reading.messages.stream(**question("tools")) as stream:
                assert (await stream.get_final_message()).to_dict()["content"] == whole.to_dict()["content"]
            stream = await reading.messages.create(**question(), stream=True)
            async for event in stream:
                if event.type == "message_stop":
                    break
            assert len(found) == 3
            await stream.close()


# Embeddings.


@pytest.fixture
def embedding(guarded: Guarded, clients: ExitStack) -> Callable[..., openai.OpenAI]:
    """Makes official clients of the guarded provider's embeddings."""

    def made(transport: httpx2.BaseTransport | None = None, *, base: str | None = None) -> openai.OpenAI:
        http = httpx2.Client(transport=transport or Recorder())
        return clients.enter_context(openai.OpenAI(base_url=f"{base or guarded.base}/v1", api_key=guarded.kit.key, http_client=http))

    return made


FORMATS = [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}]


@pytest.mark.parametrize("given", FORMATS, ids=["as the client likes", "float", "base64"])
@pytest.mark.parametrize("inputs", ["one", ["one", "two"], [[1, 2], [3]]], ids=["a text", "texts", "tokens"])
def test_embeddings_are_the_same_with_the_guard_and_proven(
    guarded: Guarded, embedding: Callable[..., openai.OpenAI], given: dict[str, Any], inputs: Any
) -> None:
    """In what form the client asks for them, and whatever it makes of them. What they cost is their input."""
    recorder = Recorder()
    asked = {"model": "small", "input": inputs, **given}
    answer = embedding(recorder).embeddings.create(**asked)
    assert without_tag(answer) == without_tag(embedding(base=guarded.bare).embeddings.create(**asked))
    verified = guarded.prove(recorder)
    assert verified.claims.content.projection == "json-1"  # type: ignore[union-attr]
    assert member_of(answer)["token"] == verified.token
    assert guarded.kit.used() == {"requests": 1, "input-tokens": 9, "output-tokens": 0}
    kept: dict[str, Any] = {"body": answer.to_json(warnings=False).encode(), "trust": guarded.kit.trust, "now": guarded.kit.clock()}
    if given:
        assert verify_body(**kept).token == verified.token
    else:  # the client asks for base64 by itself, and decodes it
        with pytest.raises(ContentMismatchError):
            verify_body(**kept)


def test_embeddings_are_decided_and_reserve_no_output(guarded: Guarded, embedding: Callable[..., openai.OpenAI]) -> None:
    guarded.kit.change(limits={"output-tokens": 0})
    assert embedding().embeddings.create(model="small", input="one").data[0].embedding == VECTOR
    with pytest.raises(openai.PermissionDeniedError) as caught:
        embedding().embeddings.create(model="large", input="one")
    assert caught.value.code == "tos_model_not_allowed"


@pytest.mark.parametrize("given", FORMATS, ids=["as the client likes", "float", "base64"])
def test_the_official_client_reads_verified_embeddings(
    embedding: Callable[..., openai.OpenAI], verifying: Verifying, given: dict[str, Any]
) -> None:
    embedding(verifying.transport()).embeddings.create(model="small", input="one", **given)
    assert [verified.request_checked for verified in verifying.verified] == [True]
    changed = embedding(verifying.transport(Tampering(lambda body: body.replace(b'"index":0', b'"index":1'))))
    with pytest.raises(ContentMismatchError):
        changed.embeddings.create(model="small", input="one", **given)
