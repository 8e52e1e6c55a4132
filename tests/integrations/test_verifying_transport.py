"""Verifying transports under real clients, against a sealing application on loopback: httpx, httpx2 and the official `openai` client."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import httpx
import httpx2
import openai
import pytest

import tos_guard.remote.httpx
import tos_guard.remote.httpx2
from loopback_issuer import SALT, START, Keys
from serving import serve_app
from tos_guard._canonical import b64url_encode
from tos_guard._content_digest import content_digest
from tos_guard.dialects import BytesProjection, ChatProjection
from tos_guard.errors import (
    AbsentError,
    ContentMismatchError,
    IncompleteError,
    MalformedError,
    NonceError,
    UnacceptableError,
    UntrustedIssuerError,
    VerificationError,
)
from tos_guard.remote import ResponseCheck, ResponseChecks
from tos_guard.testing import FixedClock
from tos_guard.types import Stage
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Expected, Trust, Verified

ISSUER = "https://api.example.com"
CHAT = "/v1/chat/completions"
Headers = dict[str, str]
Tamper = Callable[[int, Headers, list[bytes]], tuple[int, Headers, list[bytes]]]


class Provider:
    """Seals each answer for its request, and then lets a test tamper with it.

    Attributes:
        tamper: Changes status, header fields and chunks before they leave.
        asked: Header fields and body of each request.
    """

    def __init__(self) -> None:
        self.keys = Keys(ISSUER)
        self.tamper: Tamper = lambda *answer: answer
        self.asked: list[tuple[Headers, bytes]] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append((asked, body))
        bound = {"request": body, "nonce": asked.get("ai-provenance-nonce")}
        headers = {"ai-provenance-salt": b64url_encode(SALT), "x-request-id": "r"}
        if b'"stream":true' in body.replace(b" ", b""):
            chunks = self.keys.sealed_events("Hel", "lo", **bound)
            headers |= {"content-type": "text/event-stream", "ai-provenance": self.keys.token(**bound)}
        else:
            chunks = [self.keys.sealed_body(**bound)]
            token = json.loads(chunks[0])["ai_provenance"]["token"]
            headers |= {"content-type": "application/json", "ai-provenance": token, "content-digest": content_digest(chunks[0])}
        status, headers, chunks = self.tamper(200, headers, chunks)
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class Served:
    """A provider that is being served, and a verifier that has pinned its keys."""

    base: str
    provider: Provider
    verified: list[Verified] = field(default_factory=list)
    unverified: list[VerificationError] = field(default_factory=list)

    def checks(self, **given: Any) -> ResponseChecks:
        """Checks that keep what they find."""
        return ResponseChecks(
            origins={self.base: ISSUER},
            on_verified=lambda verified, _: self.verified.append(verified),
            on_unverified=lambda error, _: self.unverified.append(error),
            **given,
        )


@pytest.fixture(scope="module")
def base_and_provider() -> Iterator[tuple[str, Provider]]:
    provider = Provider()
    with serve_app(provider) as base:
        yield base, provider


@pytest.fixture
def served(base_and_provider: tuple[str, Provider]) -> Served:
    base, provider = base_and_provider
    provider.asked.clear()
    provider.tamper = lambda *answer: answer
    return Served(base, provider)


@dataclass
class Got:
    """What a client read."""

    status: int
    chunks: list[bytes]
    check: ResponseCheck | None
    headers: Headers
    error: Exception | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


def trust(*keys: Keys) -> Trust:
    return Trust.of(*(one.key_set() for one in keys))


class Way:
    """One client of one colour."""

    def __init__(self, library: ModuleType, transports: ModuleType, colour: str) -> None:
        self.library, self.transports, self.colour = library, transports, colour

    async def ask(self, served: Served, checks: ResponseChecks | None = None, *, take: int | None = None, **given: Any) -> Got:
        """Send a request and read its answer, or its first *take* chunks. An error while reading is kept; one before is raised."""
        pinned = given.pop("pinned", trust(served.provider.keys))
        streamed = given.pop("streamed", False)
        request = {
            "method": "POST",
            "url": served.base + given.pop("path", CHAT),
            "content": b'{"model":"small","stream":true}' if streamed else b'{"model":"small"}',
            **given,
        }
        asking = self._ask if self.colour == "async" else self._ask_in_thread
        return await asking(pinned, checks or served.checks(), take, request)

    async def _ask_in_thread(self, pinned: Trust, checks: ResponseChecks, take: int | None, request: dict[str, Any]) -> Got:
        return await asyncio.to_thread(self._ask_blocking, pinned, checks, take, request)

    def _ask_blocking(self, pinned: Trust, checks: ResponseChecks, take: int | None, request: dict[str, Any]) -> Got:
        with Verifier(pinned=pinned, clock=FixedClock(START)) as verifier:
            transport = self.transports.VerifyingTransport(verifier, checks)
            with self.library.Client(transport=transport) as client, client.stream(**request) as response:
                got = self._got(response)
                try:
                    for chunk in response.iter_raw():
                        got.chunks.append(chunk)
                        if len(got.chunks) == take:
                            break
                except VerificationError as error:
                    got.error = error
        return got

    async def _ask(self, pinned: Trust, checks: ResponseChecks, take: int | None, request: dict[str, Any]) -> Got:
        async with AsyncVerifier(pinned=pinned, clock=FixedClock(START)) as verifier:
            transport = self.transports.AsyncVerifyingTransport(verifier, checks)
            async with self.library.AsyncClient(transport=transport) as client, client.stream(**request) as response:
                got = self._got(response)
                try:
                    async for chunk in response.aiter_raw():
                        got.chunks.append(chunk)
                        if len(got.chunks) == take:
                            break
                except VerificationError as error:
                    got.error = error
        return got

    @staticmethod
    def _got(response: Any) -> Got:
        return Got(response.status_code, [], response.extensions.get("tos_guard"), dict(response.headers))


WAYS = {
    f"{library.__name__}-{colour}": Way(library, transports, colour)
    for library, transports in ((httpx, tos_guard.remote.httpx), (httpx2, tos_guard.remote.httpx2))
    for colour in ("sync", "async")
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def changed(**changes: Any) -> Tamper:
    """Change the status (``status``), or header fields by name with ``_`` for ``-``; None removes one."""

    def tamper(status: int, headers: Headers, chunks: list[bytes]) -> tuple[int, Headers, list[bytes]]:
        fields = {name.replace("_", "-"): value for name, value in changes.items() if name != "status"}
        kept = {name: value for name, value in (headers | fields).items() if value is not None}
        return changes.get("status", status), kept, chunks

    return tamper


def chunked(make: Callable[[list[bytes]], list[bytes]]) -> Tamper:
    """Send these chunks instead, without their digest."""

    def tamper(status: int, headers: Headers, chunks: list[bytes]) -> tuple[int, Headers, list[bytes]]:
        return status, {name: value for name, value in headers.items() if name != "content-digest"}, make(chunks)

    return tamper


def without_token(events: list[bytes]) -> list[bytes]:
    """The events, their tag removed."""
    kept = []
    for event in events:
        data = event.removeprefix(b"data: ").strip()
        with suppress(ValueError):
            document = json.loads(data)
            document.pop("ai_provenance", None)
            data = json.dumps(document).encode()
        kept.append(b"data: " + data + b"\n\n")
    return kept


async def test_a_whole_body_is_verified_with_its_request(served: Served, way: Way) -> None:
    got = await way.ask(served)
    assert got.check is not None
    assert got.check.verified is not None
    assert (got.check.verified.request_checked, served.verified) == (True, [got.check.verified])
    sent = served.provider.asked[0][0]
    assert sent["accept-encoding"] == "identity"
    assert got.check.verified.claims.nonce == sent["ai-provenance-nonce"]
    assert json.loads(got.body)["choices"][0]["message"]["content"] == "Hello"


async def test_each_attempt_has_a_nonce_of_its_own_and_a_callers_nonce_is_kept(served: Served, way: Way) -> None:
    await way.ask(served)
    await way.ask(served)
    await way.ask(served, headers={"AI-Provenance-Nonce": "mine"})
    nonces = [headers["ai-provenance-nonce"] for headers, _ in served.provider.asked]
    assert len(set(nonces)) == 3
    assert nonces[2] == "mine"


async def test_a_stream_is_handed_on_as_it_came_and_verified(served: Served, way: Way) -> None:
    got = await way.ask(served, streamed=True)
    assert got.error is None
    assert got.check is not None
    assert got.check.verified is not None
    assert (served.verified, got.check.verified.notes, got.check.verified.request_checked) == ([got.check.verified], (), True)
    assert got.body.endswith(b"data: [DONE]\n\n")


async def test_a_stream_is_judged_when_done_has_passed_though_the_client_reads_no_further(served: Served, way: Way) -> None:
    served.provider.tamper = chunked(lambda events: [b"".join(events)])
    got = await way.ask(served, streamed=True, take=1)
    assert got.check is not None
    assert got.check.verified is not None
    assert got.check.verified.notes == ()


async def test_how_a_stream_is_cut_into_chunks_changes_nothing(served: Served, way: Way) -> None:
    served.provider.tamper = chunked(lambda events: [bytes([byte]) for byte in b"".join(events)])
    got = await way.ask(served, streamed=True)
    assert (got.error, len(served.verified)) == (None, 1)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_changed_letter_is_found_before_the_end_is_handed_on(served: Served, way: Way, streamed: bool) -> None:
    served.provider.tamper = chunked(lambda chunks: [chunk.replace(b"Hel", b"Hal") for chunk in chunks])
    if streamed:
        got = await way.ask(served, streamed=True)
        assert isinstance(got.error, ContentMismatchError)
        assert b'finish_reason": "stop' not in got.body
        assert got.check is not None
        assert (got.check.verified, got.check.error) == (None, got.error)
    else:
        with pytest.raises(ContentMismatchError):
            await way.ask(served)
    assert (served.verified, len(served.unverified)) == ([], 1)


@pytest.mark.parametrize("events", [1, 2, 3])
async def test_a_stream_cut_before_its_token_is_incomplete(served: Served, way: Way, events: int) -> None:
    served.provider.tamper = chunked(lambda chunks: chunks[:events])
    got = await way.ask(served, streamed=True)
    assert isinstance(got.error, IncompleteError)


async def test_a_stream_cut_after_its_token_is_valid_and_says_so(served: Served, way: Way) -> None:
    served.provider.tamper = chunked(lambda chunks: chunks[:-1])
    got = await way.ask(served, streamed=True)
    assert (got.error, served.verified[0].notes) == (None, ("terminator: missing",))


async def test_content_after_done_is_found_where_the_client_still_reads(served: Served, way: Way) -> None:
    served.provider.tamper = chunked(lambda chunks: [*chunks, chunks[1]])
    got = await way.ask(served, streamed=True)
    assert isinstance(got.error, ContentMismatchError)
    assert got.check is not None
    assert got.check.verified is None


async def test_a_stream_the_client_leaves_is_reported_and_not_raised(served: Served, way: Way) -> None:
    got = await way.ask(served, streamed=True, take=1)
    assert got.error is None
    assert got.check is not None
    assert isinstance(got.check.error, IncompleteError)
    assert served.unverified == [got.check.error]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_stripped_tag_is_absent_unless_the_policy_says_report(served: Served, way: Way, streamed: bool) -> None:
    strip = changed(ai_provenance=None, ai_provenance_salt=None, content_digest=None)

    def tamper(status: int, headers: Headers, chunks: list[bytes]) -> tuple[int, Headers, list[bytes]]:
        bare = without_token(chunks) if streamed else [json.dumps({"choices": []}).encode()]
        return strip(status, headers, bare)

    served.provider.tamper = tamper
    if streamed:
        assert isinstance((await way.ask(served, streamed=True)).error, AbsentError)
    else:
        with pytest.raises(AbsentError):
            await way.ask(served)
    got = await way.ask(served, served.checks(on_missing="report"), streamed=streamed)
    assert got.error is None
    assert got.check is not None
    assert isinstance(got.check.error, AbsentError)
    assert got.body.endswith(b"[DONE]\n\n" if streamed else b"}")
    assert len(served.unverified) == 2


@pytest.mark.parametrize("status", [301, 400, 401, 429, 500])
async def test_a_refusal_without_a_token_passes(served: Served, way: Way, status: int) -> None:
    served.provider.tamper = changed(status=status, ai_provenance=None)
    got = await way.ask(served)
    assert got.check is not None
    assert (got.status, got.check.verified, got.check.passed) == (status, None, f"status {status} without a token")


@pytest.mark.parametrize(("method", "status"), [("POST", 204), ("HEAD", 200)])
@pytest.mark.parametrize("content", [b"", b'{"choices":[{"message":{"content":"Not said."}}]}'])
async def test_what_allows_no_content_has_none(way: Way, method: str, status: int, content: bytes) -> None:
    """Over HTTP/2 content may come with any status, and after HEAD: nobody has verified it."""

    def answer(request: Any) -> Any:
        del request
        return way.library.Response(status, stream=way.library.ByteStream(content), headers={"x-request-id": "r"})

    below = way.library.MockTransport(answer)
    checks = ResponseChecks()
    with nullcontext() if not content else pytest.raises(MalformedError, match="has content"):
        if way.colour == "sync":
            with Verifier(pinned=trust(Keys(ISSUER)), clock=FixedClock(START)) as verifier:
                transport = way.transports.VerifyingTransport(verifier, checks, transport=below)
                got = way.library.Client(transport=transport).request(method, ISSUER + CHAT)
        else:
            async with AsyncVerifier(pinned=trust(Keys(ISSUER)), clock=FixedClock(START)) as verifier:
                transport = way.transports.AsyncVerifyingTransport(verifier, checks, transport=below)
                got = await way.library.AsyncClient(transport=transport).request(method, ISSUER + CHAT)
        assert (got.status_code, got.content, got.headers["x-request-id"]) == (status, b"", "r")
        assert got.extensions["tos_guard"].passed == "no content"


async def test_a_sealed_error_is_verified(served: Served, way: Way) -> None:
    served.provider.tamper = changed(status=500)
    assert (await way.ask(served)).status == 500
    assert len(served.verified) == 1


async def test_the_answer_to_another_request_is_unacceptable(served: Served, way: Way) -> None:
    kept: list[tuple[int, Headers, list[bytes]]] = []

    def replay(*answer: Any) -> Any:
        kept.append(answer)
        return kept[0]

    served.provider.tamper = replay
    await way.ask(served, headers={"AI-Provenance-Nonce": "same"})
    with pytest.raises(NonceError, match="nonce"):
        await way.ask(served)
    with pytest.raises(NonceError, match="another request"):
        await way.ask(served, headers={"AI-Provenance-Nonce": "same"}, content=b'{"model":"large"}')


async def test_without_the_salt_nothing_binds_the_request_unless_the_caller_accepts_that(served: Served, way: Way) -> None:
    served.provider.tamper = changed(ai_provenance_salt=None)
    with pytest.raises(NonceError, match="salt"):
        await way.ask(served)
    assert isinstance((await way.ask(served, streamed=True)).error, NonceError)
    await way.ask(served, served.checks(require_request=False))
    assert [verified.request_checked for verified in served.verified] == [False]


async def test_nothing_is_sent_to_an_origin_that_answers_for_no_issuer(served: Served, way: Way) -> None:
    with pytest.raises(UntrustedIssuerError, match="Nothing was sent"):
        await way.ask(served, ResponseChecks())
    assert served.provider.asked == []


async def test_an_origin_named_unverified_passes_and_keeps_its_headers(served: Served, way: Way) -> None:
    got = await way.ask(served, ResponseChecks(unverified_origins=[served.base]))
    assert (got.status, got.check) == (200, None)
    assert "ai-provenance-nonce" not in served.provider.asked[0][0]


async def test_an_exempt_path_passes(served: Served, way: Way) -> None:
    served.provider.tamper = changed(ai_provenance=None)
    got = await way.ask(served, served.checks(exempt_paths=["/healthz"]), path="/healthz")
    assert got.check is not None
    assert got.check.passed == "path /healthz is exempt"


async def test_a_response_of_another_trusted_issuer_is_unacceptable(served: Served, way: Way) -> None:
    other = Keys("https://other.example")
    checks = ResponseChecks(origins={served.base: "https://other.example"})
    with pytest.raises(UnacceptableError, match=r"other\.example is sealed by https://api\.example"):
        await way.ask(served, checks, pinned=trust(served.provider.keys, other))


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_coding_added_on_the_way_is_taken_off_before_verification(served: Served, way: Way, streamed: bool) -> None:
    def zipped(status: int, headers: Headers, chunks: list[bytes]) -> tuple[int, Headers, list[bytes]]:
        body = gzip.compress(b"".join(chunks))
        return status, headers | {"content-encoding": "gzip", "content-length": str(len(body))}, [body]

    served.provider.tamper = zipped
    got = await way.ask(served, streamed=streamed)
    assert (got.error, len(served.verified)) == (None, 1)
    assert b"Hel" in got.body
    assert "content-encoding" not in got.headers


async def test_a_digest_that_does_not_match_is_found(served: Served, way: Way) -> None:
    served.provider.tamper = changed(content_digest=content_digest(b"something else"))
    with pytest.raises(ContentMismatchError, match="sha-256"):
        await way.ask(served)


async def test_demands_of_the_caller_are_checked(served: Served, way: Way) -> None:
    with pytest.raises(UnacceptableError, match="usage policy"):
        await way.ask(served, served.checks(expected=Expected(policies=["another"])))


async def test_a_body_without_bound_is_refused(served: Served, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tos_guard.remote._attempt.MAX_BODY_BYTES", 100)
    with pytest.raises(MalformedError, match="larger than"):
        await way.ask(served)


async def test_a_request_that_is_streamed_is_bound_as_well(served: Served) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"model":'
        yield b'"small"}'

    await WAYS["httpx2-sync"].ask(served, content=pieces())
    assert (served.provider.asked[0][1], served.verified[0].request_checked) == (b'{"model":"small"}', True)


async def test_a_request_that_is_streamed_is_framed_once(served: Served, way: Way) -> None:
    """A length beside chunks is how requests are smuggled, and refused by strict servers and proxies."""
    await way.ask(served, content=b'{"model":"small"}', headers={"Transfer-Encoding": "chunked"})
    sent = served.provider.asked[0][0]
    assert (sent.get("transfer-encoding"), sent.get("content-length")) == (None, "17")


@pytest.mark.parametrize(
    ("stage", "error"),
    [pytest.param(Stage.PENDING, None, id="pending"), pytest.param(Stage.CHECKPOINT, IncompleteError, id="checkpoint")],
)
@pytest.mark.parametrize("carrier", ["member", "header"])
async def test_a_running_response_passes_with_a_pending_token_alone(
    served: Served, way: Way, stage: Stage, error: type[VerificationError] | None, carrier: str
) -> None:
    def running(status: int, headers: Headers, chunks: list[bytes]) -> tuple[int, Headers, list[bytes]]:
        asked, body = served.provider.asked[-1]
        content: dict[str, Any] = {"content": ChatProjection().content(), "completion": None} if stage is Stage.CHECKPOINT else {}
        token = served.provider.keys.token(request=body, nonce=asked["ai-provenance-nonce"], stage=stage, **content)
        document: dict[str, Any] = {"id": "resp_1", "status": "queued", "output": []}
        if carrier == "member":
            document["ai_provenance"] = {"token": token}
        return _without_digest((status, headers | {"ai-provenance": token}, [json.dumps(document).encode()]))

    served.provider.tamper = running
    if error is not None:
        with pytest.raises(error):
            await way.ask(served)
        return
    got = await way.ask(served)
    assert got.check == ResponseCheck(passed="the response has not ended")
    assert (json.loads(got.body)["status"], served.verified, served.unverified) == ("queued", [], [])


def test_a_stream_that_is_iterated_again_goes_on_where_it_was(served: Served) -> None:
    """So do clients drain what is left behind ``[DONE]``."""
    served.provider.tamper = chunked(lambda events: [*events, b": nothing\n\n"])
    with Verifier(pinned=trust(served.provider.keys), clock=FixedClock(START)) as verifier:
        transport = tos_guard.remote.httpx2.VerifyingTransport(verifier, served.checks())
        with (
            httpx2.Client(transport=transport) as client,
            client.stream("POST", served.base + CHAT, content=b'{"stream":true}') as response,
        ):
            chunks = response.iter_raw()
            first = next(chunks)
            assert isinstance(response.stream, httpx2.SyncByteStream)
            rest = b"".join(response.stream)
    assert (first + rest).count(b"[DONE]") == 1
    assert (len(served.verified), served.unverified) == (1, [])


# The official client.


def official(served: Served, library: ModuleType = httpx2, **given: Any) -> tuple[openai.OpenAI, Verifier]:
    """The blocking client over a verifying transport."""
    verifier = Verifier(pinned=trust(served.provider.keys), clock=FixedClock(START))
    transports = tos_guard.remote.httpx if library is httpx else tos_guard.remote.httpx2
    http = library.Client(transport=transports.VerifyingTransport(verifier, served.checks()))
    return openai.OpenAI(base_url=f"{served.base}/v1", api_key="k", http_client=http, **given), verifier


def question(**given: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": "hi"}], **given}


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
def test_the_official_client_reads_verified_answers(served: Served, library: ModuleType) -> None:
    client, verifier = official(served, library)
    with client, verifier:
        assert client.chat.completions.create(**question()).choices[0].message.content == "Hello"
        texts = [chunk.choices[0].delta.content for chunk in client.chat.completions.create(**question(stream=True))]
        assert "".join(text or "" for text in texts) == "Hello"
        raw = client.chat.completions.with_raw_response.create(**question())
        assert raw.http_response.extensions["tos_guard"].verified is served.verified[2]
    assert len(served.verified) == 3
    assert all(verified.request_checked for verified in served.verified)


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
def test_our_errors_reach_the_caller_of_the_official_client_as_themselves_and_are_not_retried(served: Served, library: ModuleType) -> None:
    served.provider.tamper = chunked(lambda chunks: [chunk.replace(b"Hel", b"Hal") for chunk in chunks])
    client, verifier = official(served, library)
    with client, verifier:
        with pytest.raises(ContentMismatchError):
            client.chat.completions.create(**question())
        with pytest.raises(ContentMismatchError):
            list(client.chat.completions.create(**question(stream=True)))
        served.provider.tamper = chunked(lambda chunks: chunks[:2])
        with pytest.raises(IncompleteError):
            list(client.chat.completions.create(**question(stream=True)))
    assert len(served.provider.asked) == 3


def test_a_retry_of_the_official_client_is_an_attempt_of_its_own(served: Served) -> None:
    answers: list[Tamper] = [changed(status=503, ai_provenance=None, retry_after_ms="1"), lambda *answer: answer]
    served.provider.tamper = lambda *answer: answers.pop(0)(*answer)
    client, verifier = official(served, max_retries=1)
    with client, verifier:
        client.chat.completions.create(**question())
    nonces = [headers["ai-provenance-nonce"] for headers, _ in served.provider.asked]
    assert len(set(nonces)) == 2
    assert [verified.claims.nonce for verified in served.verified] == [nonces[1]]


def test_refusals_stay_those_of_the_official_client(served: Served) -> None:
    served.provider.tamper = changed(status=403, ai_provenance=None)
    client, verifier = official(served)
    with client, verifier, pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(**question())


async def test_the_official_asynchronous_client_reads_verified_answers(served: Served) -> None:
    async with AsyncVerifier(pinned=trust(served.provider.keys), clock=FixedClock(START)) as verifier:
        http = httpx2.AsyncClient(transport=tos_guard.remote.httpx2.AsyncVerifyingTransport(verifier, served.checks()))
        async with openai.AsyncOpenAI(base_url=f"{served.base}/v1", api_key="k", http_client=http) as client:
            assert (await client.chat.completions.create(**question())).choices[0].message.content == "Hello"
            stream = await client.chat.completions.create(**question(stream=True))
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello"
            assert len(served.verified) == 2
            served.provider.tamper = chunked(lambda chunks: [chunk.replace(b"Hel", b"Hal") for chunk in chunks])
            with pytest.raises(ContentMismatchError):
                await client.chat.completions.create(**question())
            stream = await client.chat.completions.create(**question(stream=True))
            with pytest.raises(ContentMismatchError):
                [chunk async for chunk in stream]


# Responses that cannot carry their token

FILE = b"\x89PNG of a cat"


def detached(served: Served, seal: Callable[[str], tuple[int, bytes]] | None = None) -> None:
    """Answer with a file and a pending token; then, under its request id, with its seal or what *seal* makes of the token."""
    keys, bound = served.provider.keys, dict[str, Any]()

    def tamper(status: int, headers: Headers, chunks: list[bytes]) -> tuple[int, Headers, list[bytes]]:
        asked, body = served.provider.asked[-1]
        if body:
            bound.update(request=body, nonce=asked.get("ai-provenance-nonce"))
            return status, headers | {"content-type": "image/png", "content-digest": "", "ai-provenance": keys.token(**bound)}, [FILE]
        projection = BytesProjection()
        projection.add_body(FILE)
        token = keys.token(projection.content(), **bound)
        made = (200, json.dumps({"request_id": "r", "token": token}).encode()) if seal is None else seal(token)
        return made[0], {"content-type": "application/json"}, [made[1]]

    served.provider.tamper = lambda *answer: _without_digest(tamper(*answer))


def _without_digest(answer: tuple[int, Headers, list[bytes]]) -> tuple[int, Headers, list[bytes]]:
    status, headers, chunks = answer
    return status, {name: value for name, value in headers.items() if name != "content-digest"}, chunks


async def test_the_seal_of_a_file_is_fetched(way: Way, served: Served) -> None:
    """From the same origin, with the same credential and nothing else of the request, once."""
    detached(served)
    got = await way.ask(served, served.checks(seals_path="/account/seals"), headers={"authorization": "Bearer k", "x-secret": "s"})
    assert got.body == FILE
    assert served.verified[0].claims.rid == "r"
    (_, asked) = served.provider.asked
    assert (asked[0]["authorization"], asked[1]) == ("Bearer k", b"")
    assert "x-secret" not in asked[0]
    assert "ai-provenance-nonce" not in asked[0]


async def test_without_a_path_such_a_response_is_incomplete(way: Way, served: Served) -> None:
    """Nothing is asked for."""
    detached(served)
    with pytest.raises(IncompleteError):
        await way.ask(served)
    assert len(served.provider.asked) == 1


@pytest.mark.parametrize(
    ("seal", "error"),
    [
        pytest.param(lambda token: (404, b"{}"), IncompleteError, id="there is none"),
        pytest.param(lambda token: (200, b"{"), IncompleteError, id="no JSON"),
        pytest.param(lambda token: (200, b"[]"), IncompleteError, id="no object"),
        pytest.param(lambda token: (200, b'{"token":7}'), IncompleteError, id="no token"),
        pytest.param(lambda token: (200, b" " * 70_000 + b'{"token":""}'), IncompleteError, id="too large"),
        pytest.param(lambda token: (200, json.dumps({"token": token[:-8] + "AAAAAAAA"}).encode()), VerificationError, id="altered"),
    ],
)
async def test_a_seal_that_is_none_proves_nothing(way: Way, served: Served, seal: Any, error: type[VerificationError]) -> None:
    """Whatever stands in its place, the body is not handed out as verified."""
    detached(served, seal)
    with pytest.raises(error):
        await way.ask(served, served.checks(seals_path="/account/seals"))
    assert served.verified == []


async def test_the_seal_of_another_response_proves_nothing(way: Way, served: Served) -> None:
    """Of the same bytes to the same request, under another request id."""
    keys = served.provider.keys
    projection = BytesProjection()
    projection.add_body(FILE)

    def of_another(token: str) -> tuple[int, bytes]:
        asked, body = served.provider.asked[0]
        other = keys.token(projection.content(), rid="other", request=body, nonce=asked["ai-provenance-nonce"])
        return 200, json.dumps({"token": other}).encode()

    detached(served, of_another)
    with pytest.raises(UnacceptableError):
        await way.ask(served, served.checks(seals_path="/account/seals"))


def test_a_seals_path_is_a_path() -> None:
    with pytest.raises(ValueError, match="seals_path"):
        ResponseChecks(seals_path="https://evil.example/seals")
