"""The guard in the company that real applications keep: CORS, compression, mounted apps, files, background tasks, cached answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI, Response
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from kit import ISSUER, Kit
from scenarios.http_doors import CHAT, body_of, events_of
from serving import serve_app
from tos_guard.errors import IncompleteError
from tos_guard.verify import Verified, verify_body, verify_stream
from tos_guard.web.wellknown import WellKnown
from tos_guard_fastapi import TosGuard

ORIGIN = "https://app.example.com"
PLAIN = {"dialect": "plain-json", "model": "small"}


class Company:
    """An app with everything, its guard, and what its background tasks did."""

    def __init__(self, folder: Path) -> None:
        self.kit = Kit(settings={"routes": {CHAT: "openai-chat", "/files/*": PLAIN, "/paper": PLAIN, "/v2/chat": "openai-chat"}})
        self.done = threading.Event()
        (folder / "paper.txt").write_text("What was written, line by line.\n" * 400)
        inner = FastAPI(openapi_url=None)
        app = FastAPI(openapi_url=None)

        @app.post(CHAT)
        async def chat(tasks: BackgroundTasks, stream: bool = False) -> Response:
            tasks.add_task(self.done.set)
            if stream:
                return StreamingResponse(iter(events_of()), media_type="text/event-stream", background=tasks)
            return Response(body_of(), media_type="application/json", background=tasks)

        @inner.post("/chat")
        async def inner_chat() -> Response:
            return Response(body_of(), media_type="application/json")

        @app.get("/paper")
        async def paper() -> FileResponse:
            return FileResponse(folder / "paper.txt")

        @app.get("/healthz")
        async def healthz() -> Response:
            return Response()

        app.mount("/v2", inner)
        app.mount("/files", StaticFiles(directory=folder))
        TosGuard(self.kit.guard).install(app)
        app.add_middleware(GZipMiddleware, minimum_size=1)
        exposed = ["AI-Provenance", "AI-Provenance-Salt", "Content-Usage", "X-Request-ID"]
        app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN], allow_methods=["*"], allow_headers=["*"], expose_headers=exposed)
        self.app = app

    def prove(self, response: httpx.Response, content: bytes) -> Verified:
        """What a body or stream proves with its header."""
        given: dict[str, Any] = {"trust": self.kit.trust, "now": self.kit.clock(), "token": response.headers["ai-provenance"]}
        is_stream = response.headers["content-type"].startswith("text/event-stream")
        return verify_stream(content, **given) if is_stream else verify_body(content, **given)


@pytest.fixture
def company(tmp_path: Path) -> Company:
    """The app."""
    return Company(tmp_path)


@pytest.fixture
def client(company: Company) -> Iterator[httpx.Client]:
    """A client of another origin with a key."""
    fields = {"authorization": f"Bearer {company.kit.key}", "origin": ORIGIN, "content-type": "application/json"}
    with serve_app(company.app, lifespan="off") as url, httpx.Client(base_url=url, headers=fields) as client:
        yield client


ASKED = b'{"model":"small","messages":[]}'


def test_a_browser_sees_refusals_and_tokens(client: httpx.Client) -> None:
    """Refusals too have CORS fields, with CORS outermost; our fields are exposed."""
    served = client.post(CHAT, content=ASKED)
    refused = client.post(CHAT, content=ASKED, headers={"authorization": "Bearer none"})
    assert (served.status_code, refused.status_code) == (200, 401)
    for response in (served, refused):
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "AI-Provenance" in response.headers["access-control-expose-headers"]


def test_a_preflight_needs_no_key(client: httpx.Client) -> None:
    fields = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    response = client.options(CHAT, headers={"authorization": "", **fields})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, ORIGIN)


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_compression_outside_changes_nothing_that_is_proven(company: Company, client: httpx.Client, coding: str) -> None:
    response = client.post(CHAT, content=ASKED, headers={"accept-encoding": coding})
    assert response.headers.get("content-encoding", "identity") == coding
    assert company.prove(response, response.content).claims.model == "small"


def test_a_stream_passes_a_compressor_and_verifies(company: Company, client: httpx.Client) -> None:
    response = client.post(CHAT, params={"stream": True}, content=ASKED, headers={"accept-encoding": "gzip"})
    assert company.prove(response, response.content).notes == ()


def test_a_mounted_app_is_guarded_by_the_outer_path(company: Company, client: httpx.Client) -> None:
    response = client.post("/v2/chat", content=ASKED)
    assert company.prove(response, response.content).claims.content is not None
    assert client.post("/v2/other", content=ASKED).status_code == 404


@pytest.mark.parametrize("path", ["/paper", "/files/paper.txt"])
def test_a_file_carries_its_token_in_the_header_and_no_range_cuts_it(company: Company, client: httpx.Client, path: str) -> None:
    response = client.get(path, headers={"range": "bytes=10-20", "accept-encoding": "identity"})
    assert (response.status_code, len(response.content)) == (200, 32 * 400)
    assert company.prove(response, response.content).claims.content is not None


def test_an_answer_that_says_unchanged_has_no_body_and_no_final_token(company: Company, client: httpx.Client) -> None:
    """304: the token in its head is pending, and what the client kept has its own."""
    first = client.get("/files/paper.txt")
    again = client.get("/files/paper.txt", headers={"if-none-match": first.headers["etag"].removeprefix("W/")})
    assert (again.status_code, again.content) == (304, b"")
    given = {"trust": company.kit.trust, "now": company.kit.clock()}
    with pytest.raises(IncompleteError):
        verify_body(first.content, token=again.headers["ai-provenance"], **given)  # type: ignore[arg-type]


def test_options_without_a_preflight_are_a_request_like_any_other(client: httpx.Client) -> None:
    assert client.options(CHAT, headers={"authorization": ""}).status_code == 401


@pytest.mark.parametrize("stream", [False, True])
def test_a_background_task_runs_after_the_seal(company: Company, client: httpx.Client, stream: bool) -> None:
    """The record is kept before the last bytes leave; what runs afterwards changes nothing of it."""
    response = client.post(CHAT, params={"stream": stream}, content=ASKED)
    company.prove(response, response.content)
    assert company.done.wait(10)
    (record,) = company.kit.records()
    assert (record.completion, record.unsealed) == ("complete", None)


def test_discovery_says_that_sockets_are_refused(company: Company) -> None:
    guard = company.kit.guard
    documents = WellKnown(guard.settings, lambda: guard.terms, company.kit.signer, guard.clock)  # type: ignore[arg-type]
    _, _, body = documents.get("GET", "/.well-known/ai-provenance")
    assert b'"sockets":"refused"' in body
    assert ISSUER.encode() in body
