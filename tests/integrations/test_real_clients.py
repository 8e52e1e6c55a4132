"""Clients as people use them, in one run: what they show is the same with and without the guard, and the token is where the wire says.

Node.js comes with the tests' environment, and its clients and those of `tests/clients/python_clients.py` live in environments of their
own, which `make test` sets up and names.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import grpc
import httpx2
import openai
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc.service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server

from every_dialect import ROUTES, TEXT, VECTOR, every_dialect
from grpc_kit import DOORS
from kit import Kit
from provider_grpc.inference import Letters
from serving import serve_app
from tos_guard.provenance import parse_token
from tos_guard.types import Stage
from tos_guard.verify import verify_token

HERE = Path(__file__).parents[1] / "clients"
MODEL = "small"
SECONDS = 120.0  # a loaded machine starts an interpreter and imports a client in a tenth of that

Said = dict[str, dict[str, Any]]
Client = Callable[[str, str], Said]


def process(*command: str, cwd: Path | None = None) -> Said:
    """What a client that runs as a process prints as its last line."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, encoding="utf-8", timeout=SECONDS, cwd=cwd)
    assert done.returncode == 0, done.stderr[-4000:]
    said: Said = json.loads(done.stdout.splitlines()[-1])
    return said


def environment(name: str) -> str:
    """What `make test` names; without it nothing was checked, and that is no pass."""
    named = os.environ.get(name)
    if named is None:
        pytest.skip(f"{name} is not set: these clients were NOT checked. Run `make test`, which sets their environments up.")
    return named


def node(script: str) -> Client:
    """A script of ours beside the packages it imports."""

    def run(base: str, key: str) -> Said:
        folder = Path(environment("TOS_GUARD_NODE"))
        copied = shutil.copy(HERE / script, folder / f"{os.getpid()}-{script}")
        try:
            return process(str(Path(sys.executable).parent / "node"), str(copied), base, key, MODEL, cwd=folder)
        finally:
            Path(copied).unlink()

    return run


def python_clients(base: str, key: str) -> Said:
    """LiteLLM's library and langchain-openai."""
    return process(environment("TOS_GUARD_CLIENTS"), str(HERE / "python_clients.py"), base, key, MODEL)


def token(value: Any) -> str | None:
    """The token of what a client parsed, where it has one."""
    tag = (getattr(value, "model_extra", None) or {}).get("ai_provenance")
    return tag["token"] if tag else None


def openai_python(base: str, key: str) -> Said:
    """The official `openai` client."""
    messages: Any = [{"role": "user", "content": "Hello"}]
    said: Said = {}
    with openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0, http_client=httpx2.Client()) as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages)
        chat = raw.parse()
        said["chat json"] = {"text": chat.choices[0].message.content, "tag": token(chat), "header": raw.headers.get("ai-provenance")}
        stream = list(client.chat.completions.create(model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        said["chat stream"] = {"text": text, "tag": next(filter(None, map(token, stream)), None)}
        completion = client.completions.create(model=MODEL, prompt="Hello")
        said["completions json"] = {"text": completion.choices[0].text, "tag": token(completion)}
        chunks = list(client.completions.create(model=MODEL, prompt="Hello", stream=True))
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        said["completions stream"] = {"text": text, "tag": next(filter(None, map(token, chunks)), None)}
        response = client.responses.create(model=MODEL, input="Hello")
        said["responses json"] = {"text": response.output_text, "tag": token(response)}
        events = list(client.responses.create(model=MODEL, input="Hello", stream=True))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        said["responses stream"] = {"text": text, "tag": next(token(each.response) for each in events if each.type == "response.completed")}
        with client.responses.stream(model=MODEL, input="Hello") as helper:
            final = helper.get_final_response()
        said["responses stream helper"] = {"text": final.output_text, "tag": token(final)}
        embedded = client.embeddings.create(model=MODEL, input="Hello")
        said["embeddings"] = {"text": json.dumps(embedded.data[0].embedding), "tag": token(embedded)}
    return said


def anthropic_python(base: str, key: str) -> Said:
    """The official `anthropic` client."""
    asked: Any = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}
    said: Said = {}
    with anthropic.Anthropic(base_url=base, api_key=key, max_retries=0, http_client=httpx2.Client()) as client:
        raw = client.messages.with_raw_response.create(**asked)
        message = raw.parse()
        said["messages json"] = {"text": _text(message), "tag": token(message), "header": raw.headers.get("ai-provenance")}
        events: list[Any] = list(client.messages.create(**asked, stream=True))
        said["messages stream"] = {
            "text": "".join(each.delta.text for each in events if each.type == "content_block_delta" and each.delta.type == "text_delta"),
            "pending": next(token(event.message) for event in events if event.type == "message_start"),
            "tag": next(token(event) for event in events if event.type == "message_stop"),
        }
        with client.messages.stream(**asked) as helper:
            final = helper.get_final_message()
        said["messages stream helper"] = {"text": _text(final), "pending": token(final)}
    return said


def _text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def triton_http(base: str, key: str) -> Said:
    """`tritonclient` over HTTP: a JSON answer with the tag in it, and Triton's binary form with the tag in the header."""
    said: Said = {}
    with tritonclient.http.InferenceServerClient(base.removeprefix("http://")) as client:
        for name, binary in (("infer json", False), ("infer binary", True)):
            given = tritonclient.http.InferInput("INPUT", [1], "BYTES")
            given.set_data_from_numpy(_one_element("Hello"), binary_data=False)
            wanted = tritonclient.http.InferRequestedOutput("OUTPUT", binary_data=binary)
            answer = client.infer(MODEL, [given], outputs=[wanted], headers={"authorization": f"Bearer {key}"})
            element = answer.as_numpy("OUTPUT")[0]
            said[name] = {"text": element.decode("utf-8") if isinstance(element, bytes) else element}
            if not binary:
                said[name]["tag"] = (answer.get_response().get("ai_provenance") or {}).get("token")
    return said


def _one_element(text: str) -> Any:
    import numpy as np

    return np.array([text.encode("utf-8")], dtype=object)


CLIENTS: dict[str, tuple[Client, dict[str, set[str]]]] = {
    "openai (Python)": (
        openai_python,
        {
            "chat json": {"tag", "header"},
            "chat stream": {"tag"},
            "completions json": {"tag"},
            "completions stream": {"tag"},
            "responses json": {"tag"},
            "responses stream": {"tag"},
            "responses stream helper": {"tag"},
            "embeddings": {"tag"},
        },
    ),
    "anthropic (Python)": (
        anthropic_python,
        {"messages json": {"tag", "header"}, "messages stream": {"tag", "pending"}, "messages stream helper": {"pending"}},
    ),
    "openai (Node.js)": (
        node("openai.mjs"),
        {
            "chat json": {"tag", "header"},
            "chat stream": {"tag"},
            "chat stream helper": set(),
            "completions json": {"tag"},
            "completions stream": {"tag"},
            "responses json": {"tag"},
            "responses stream": {"tag"},
            "responses stream helper": {"tag"},
            "embeddings": {"tag"},
        },
    ),
    "@anthropic-ai/sdk": (
        node("anthropic.mjs"),
        {"messages json": {"tag", "header"}, "messages stream": {"tag", "pending"}, "messages stream helper": {"pending"}},
    ),
    "Vercel AI SDK": (
        node("vercel.mjs"),
        {
            "chat json": {"tag", "header"},
            "chat stream": {"tag", "early"},
            "messages json": {"tag", "header"},
            "messages stream": {"tag", "early"},
        },
    ),
    "LiteLLM and langchain-openai": (
        python_clients,
        {
            "litellm json": {"tag", "header"},
            "litellm stream": {"tag"},
            "langchain json": {"header"},
            "langchain stream": {"early"},
        },
    ),
    "tritonclient (HTTP)": (triton_http, {"infer json": {"tag"}, "infer binary": set()}),
}
"""Of each client: what it says, and where a token must be found in it. ``early`` is the header of a stream, which is pending."""

PENDING = {"pending", "early"}


@pytest.fixture(scope="module")
def kit() -> Kit:
    """A guard before every dialect."""
    return Kit(settings={"routes": ROUTES})


@pytest.fixture(scope="module")
def bare() -> Iterator[str]:
    """The provider without a guard."""
    with serve_app(every_dialect()) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(kit: Kit) -> Iterator[str]:
    """The same provider, guarded."""
    with serve_app(kit.wrap(every_dialect())) as url:
        yield url


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_shows_the_same_and_finds_the_token(
    name: str, kit: Kit, bare: str, guarded: str, record_property: Callable[[str, object], None]
) -> None:
    """Text for text; each token is genuine, of the stage its place says, and of the model that was asked."""
    run, wanted = CLIENTS[name]
    without, with_guard = run(bare, kit.key), run(guarded, kit.key)
    assert {way: said["text"] for way, said in with_guard.items()} == {way: said["text"] for way, said in without.items()}
    assert with_guard.keys() == wanted.keys()
    lines = []
    for way, said in with_guard.items():
        assert said["text"] in (TEXT, json.dumps(VECTOR), json.dumps(VECTOR, separators=(",", ":")).replace("1.0]", "1]"))
        found = {("early" if place == "header" and "early" in wanted[way] else place): said[place] for place in said if place != "text"}
        assert {place for place, value in found.items() if value} >= wanted[way]
        for place in wanted[way]:
            claims = verify_token(found[place], trust=kit.trust, now=kit.clock()).claims
            assert claims.stage is (Stage.PENDING if place in PENDING else Stage.FINAL)
            assert claims.model == MODEL
        if {"tag", "header"} <= wanted[way]:
            assert found["tag"] == found["header"]
        lines.append(f"{way:<26} text identical   token in: {', '.join(sorted(wanted[way])) or 'not shown by this client'}")
        assert not any(value for place, value in without[way].items() if place != "text")
    record_property("counts", "\n".join(lines))


def triton_grpc(target: str, key: str) -> Said:
    """`tritonclient` over gRPC, which shows no trailing metadata: one inference, and one in a stream."""
    said: Said = {}
    given = tritonclient.grpc.InferInput("INPUT", [1], "BYTES")
    given.set_data_from_numpy(_one_element("Hello"))
    headers = {"authorization": f"Bearer {key}"}
    with tritonclient.grpc.InferenceServerClient(target) as client:
        answer = client.infer("letters", [given], headers=headers)
        said["infer"] = _inferred(answer)
        streamed: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: streamed.put(error or result), headers=headers)
        client.async_stream_infer("letters", [given])
        said["stream infer"] = _inferred(streamed.get(timeout=SECONDS))
        client.stop_stream()
    return said


def _inferred(answer: Any) -> dict[str, Any]:
    assert not isinstance(answer, Exception), answer
    parameters = answer.get_response().parameters
    tag = parameters["ai_provenance"].string_param if "ai_provenance" in parameters else None
    return {"text": answer.as_numpy("capitals")[0].decode("utf-8"), "tag": tag}


def test_triton_over_grpc_shows_the_same_and_finds_the_token(record_property: Callable[[str, object], None]) -> None:
    """The tag is in the message: final for one inference, a checkpoint for one in a stream, whose end the client does not show."""
    kit = Kit(settings={"routes": {f"/inference.GRPCInferenceService/Model{way}": "open-inference" for way in ("Infer", "StreamInfer")}})
    kit.change(models=frozenset({"letters"}))

    def register(server: Any) -> None:
        add_GRPCInferenceServiceServicer_to_server(Letters(), server)

    bare = grpc.server(ThreadPoolExecutor(2))
    register(bare)
    port = bare.add_insecure_port("127.0.0.1:0")
    bare.start()
    try:
        without = triton_grpc(f"127.0.0.1:{port}", kit.key)
    finally:
        bare.stop(None).wait()
    with DOORS[0].serving(kit, register=register) as target:
        with_guard = triton_grpc(target, kit.key)
    for way, stage in (("infer", Stage.FINAL), ("stream infer", Stage.CHECKPOINT)):
        assert with_guard[way]["text"] == without[way]["text"] == "HELLO"
        assert without[way]["tag"] is None
        claims = parse_token(with_guard[way]["tag"]).verify_with(kit.signer.key)
        assert (claims.stage, claims.model) == (stage, "letters")
    record_property(
        "counts", "infer                      text identical   token in: parameters\nstream infer               the same, of each message"
    )
