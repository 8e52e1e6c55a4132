"""Streams whose events were renamed, that ended early or go on: clients read something else, their verifying transport raises."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from every_dialect import ROUTES, TEXT, every_dialect
from kit import ISSUER, Kit
from serving import Serve
from tos_guard.errors import VerificationError
from tos_guard.remote import ResponseChecks
from tos_guard.remote.httpx2 import VerifyingTransport
from tos_guard.verifier import Verifier

Change = Callable[[bytes], bytes]
Read = Callable[[str, Kit, httpx2.BaseTransport], str]


class Changing(httpx2.HTTPTransport):
    """Changes the bytes of each answer, as a proxy may."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self._change = change

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        body = self._change(response.read())
        kept = [(name, value) for name, value in response.headers.multi_items() if name != "content-length"]
        return httpx2.Response(response.status_code, headers=kept, content=body)


def chat(base: str, kit: Kit, transport: httpx2.BaseTransport) -> str:
    with openai.OpenAI(base_url=f"{base}/v1", api_key=kit.key, max_retries=0, http_client=httpx2.Client(transport=transport)) as client:
        chunks = client.chat.completions.create(model="small", messages=[{"role": "user", "content": "Hello"}], stream=True)
        return "".join(choice.delta.content or "" for chunk in chunks for choice in getattr(chunk, "choices", None) or ())


def completions(base: str, kit: Kit, transport: httpx2.BaseTransport) -> str:
    with openai.OpenAI(base_url=f"{base}/v1", api_key=kit.key, max_retries=0, http_client=httpx2.Client(transport=transport)) as client:
        chunks = client.completions.create(model="small", prompt="Hello", stream=True)
        return "".join(choice.text or "" for chunk in chunks for choice in getattr(chunk, "choices", None) or ())


def responses(base: str, kit: Kit, transport: httpx2.BaseTransport) -> str:
    with openai.OpenAI(base_url=f"{base}/v1", api_key=kit.key, max_retries=0, http_client=httpx2.Client(transport=transport)) as client:
        events: Any = client.responses.create(model="small", input="Hello", stream=True)
        return "".join(each.delta for each in events if getattr(each, "type", None) == "response.output_text.delta")


def messages(base: str, kit: Kit, transport: httpx2.BaseTransport) -> str:
    with anthropic.Anthropic(base_url=base, api_key=kit.key, max_retries=0, http_client=httpx2.Client(transport=transport)) as client:
        events: Any = client.messages.create(model="small", max_tokens=64, messages=[{"role": "user", "content": "Hello"}], stream=True)
        return "".join(each.delta.text for each in events if each.type == "content_block_delta" and each.delta.type == "text_delta")


def lines(base: str, kit: Kit, transport: httpx2.BaseTransport) -> str:
    """As clients do that know no events: each line of data that comes."""
    ask: Any = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    headers = {"authorization": f"Bearer {kit.key}"}
    with (
        httpx2.Client(transport=transport) as client,
        client.stream("POST", f"{base}/v1/chat/completions", json=ask, headers=headers) as response,
    ):
        said = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in said for choice in event["choices"])


def going_on(body: bytes) -> bytes:
    """The first of the text once more at the end, but for the line's end that would make it an event."""
    return body + next(each for each in body.split(b"\n\n") if TEXT[:3].encode() in each) + b"\n"


def going_on_without_done(body: bytes) -> bytes:
    """The same in place of ``[DONE]``."""
    return going_on(body).replace(b"data: [DONE]\n\n", b"")


def second_with(holds: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
    """What comes before the second event that holds this, the event, and what comes after it."""
    events = body.split(b"\n\n")
    at = [position for position, each in enumerate(events) if holds in each][1]
    return b"".join(each + b"\n\n" for each in events[:at]), events[at] + b"\n\n", b"\n\n".join(events[at + 1 :])


def one_named(name: bytes, holds: bytes) -> Change:
    """The second event that holds this gets another name."""

    def change(body: bytes) -> bytes:
        before, one, after = second_with(holds, body)
        return before + b"event: " + name + b"\n" + one[one.index(b"data: ") :] + after

    return change


def done_before(holds: bytes) -> Change:
    """``[DONE]`` before the second event that holds this."""

    def change(body: bytes) -> bytes:
        before, one, after = second_with(holds, body)
        return before + b"data: [DONE]\n\n" + one + after

    return change


@pytest.fixture(scope="module")
def kit() -> Kit:
    return Kit(settings={"routes": ROUTES})


@pytest.fixture(scope="module")
def base(kit: Kit, serve: Serve) -> Iterator[str]:
    with serve(kit.wrap(every_dialect())) as url:
        yield url


def read(base: str, kit: Kit, how: Read, change: Change) -> str:
    """What the client reads through a transport that verifies."""
    checks = ResponseChecks(origins={base: ISSUER})
    with Verifier(pinned=kit.trust, clock=kit.clock) as verifier:
        return how(base, kit, VerifyingTransport(verifier, checks, transport=Changing(change)))


@pytest.mark.parametrize("how", [chat, completions, responses, messages], ids=lambda how: how.__name__)
def test_the_clients_read_what_was_not_changed(base: str, kit: Kit, how: Read) -> None:
    assert read(base, kit, how, lambda body: body) == TEXT


@pytest.mark.parametrize(
    ("how", "name", "holds"),
    [
        (messages, b"ping", b"text_delta"),
        (messages, b"message", b"text_delta"),
        (responses, b"thread.x", b"output_text.delta"),
        (responses, b"response.created", b"output_text.delta"),
        (chat, b"thread.x", b'"content"'),
        (chat, b"ping", b'"content"'),
        (completions, b"thread.x", b'"text"'),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else value.__name__,
)
def test_a_renamed_event_raises(base: str, kit: Kit, how: Read, name: bytes, holds: bytes) -> None:
    with pytest.raises(VerificationError, match=rf"named '{name.decode()}'.*\(C16\)") as caught:
        read(base, kit, how, one_named(name, holds))
    assert caught.value.verdict == "invalid"


@pytest.mark.parametrize(
    ("how", "holds"),
    [(chat, b'"content"'), (completions, b'"text"'), (responses, b"output_text.delta"), (messages, b"text_delta")],
    ids=lambda value: "" if isinstance(value, bytes) else value.__name__,
)
def test_a_done_put_before_the_end_raises(base: str, kit: Kit, how: Read, holds: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        read(base, kit, how, done_before(holds))
    assert caught.value.verdict in ("invalid", "incomplete")


@pytest.mark.parametrize("change", [going_on, going_on_without_done])
def test_content_that_no_blank_line_ends_raises(base: str, kit: Kit, change: Change) -> None:
    assert read(base, kit, lines, lambda body: body) == TEXT
    with pytest.raises(VerificationError, match=r"\(C18\)") as caught:
        read(base, kit, lines, change)
    assert caught.value.verdict == "invalid"


def test_without_verification_the_clients_take_the_changed_streams_for_whole_ones(base: str, kit: Kit) -> None:
    """Which is what the rules are for."""
    renamed = messages(base, kit, Changing(one_named(b"ping", b"text_delta")))
    assert renamed == TEXT[:7] + TEXT[14:]
    assert chat(base, kit, Changing(done_before(b'"content"'))) == ""
    assert lines(base, kit, Changing(going_on)) == TEXT + TEXT[:7]
