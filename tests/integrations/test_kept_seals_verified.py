"""The official `openai` client over verifying transports, against a guarded provider that stores, runs in the background and replays."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import httpx
import httpx2
import openai
import pytest

import storing_provider
import tos_guard.remote.httpx
import tos_guard.remote.httpx2
from provisioned import Provider, now
from serving import serve_app
from tos_guard.errors import IncompleteError, NonceError, UnacceptableError, VerificationError
from tos_guard.guard import AsyncGuard
from tos_guard.remote import ResponseCheck, ResponseChecks
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Expected, Verified
from tos_guard.web import own_routes
from tos_guard.web.asgi import TosGuardMiddleware

ROUTES = """
[routes]
"/v1/responses" = { dialect = "openai-responses", idempotent = true }
"/v1/responses/*" = "openai-responses"
"/v1/responses/*/cancel" = "openai-responses"
"/v1/chat/completions" = { dialect = "openai-chat", idempotent = true }
"""
ASK: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
TRANSPORTS: dict[ModuleType, ModuleType] = {httpx: tos_guard.remote.httpx, httpx2: tos_guard.remote.httpx2}


@dataclass
class Line:
    """What lies between a transport and the server, and what went over it.

    Attributes:
        drops: How many answers get lost after the server has served them.
        sent: Header fields of each request.
        served: Header fields and body of each answer, lost ones too.
        tamper: Changes header fields and body of an answer.
    """

    drops: int = 0
    sent: list[dict[str, str]] = field(default_factory=list)
    served: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    tamper: Any = None

    def passed(self, library: ModuleType, response: Any, body: bytes) -> Any:
        """The answer as it comes out.

        Raises:
            ReadError: It is lost.
        """
        headers = {name.lower(): value for name, value in response.headers.items()}
        self.served.append((headers, body))
        if self.drops:
            self.drops -= 1
            raise library.ReadError("the connection broke")
        if self.tamper is not None:
            headers, body = self.tamper(headers, body)
        headers = {name: value for name, value in headers.items() if name not in ("content-length", "transfer-encoding")}
        return library.Response(response.status_code, headers=headers, content=body)


def blocking_line(library: Any, line: Line) -> Any:
    class Transport(library.HTTPTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            line.sent.append({name.lower(): value for name, value in request.headers.items()})
            response = super().handle_request(request)
            body = response.read()
            response.close()
            return line.passed(library, response, body)

    return Transport()


def async_line(library: Any, line: Line) -> Any:
    class Transport(library.AsyncHTTPTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            line.sent.append({name.lower(): value for name, value in request.headers.items()})
            response = await super().handle_async_request(request)
            body = await response.aread()
            await response.aclose()
            return line.passed(library, response, body)

    return Transport()


@dataclass
class Caller:
    """An official client of the account ``good``, and what its transport has reported."""

    provider: Provider
    base: str
    library: ModuleType
    checks: dict[str, Any] = field(default_factory=dict)
    line: Line = field(default_factory=Line)
    proven: list[Verified] = field(default_factory=list)
    failed: list[VerificationError] = field(default_factory=list)

    def response_checks(self) -> ResponseChecks:
        return ResponseChecks(
            origins={self.base: self.provider.issuer},
            on_verified=lambda verified, _: self.proven.append(verified),
            on_unverified=lambda error, _: self.failed.append(error),
            **self.checks,
        )

    def client(self) -> openai.OpenAI:
        verifier = Verifier(pinned=self.provider.trust(), clock=now)
        transport = TRANSPORTS[self.library].VerifyingTransport(
            verifier, self.response_checks(), transport=blocking_line(self.library, self.line)
        )
        http = self.library.Client(transport=transport)
        return openai.OpenAI(base_url=f"{self.base}/v1", api_key=self.provider.keys["good"], http_client=http, max_retries=2)

    def async_client(self) -> openai.AsyncOpenAI:
        verifier = AsyncVerifier(pinned=self.provider.trust(), clock=now)
        transport = TRANSPORTS[self.library].AsyncVerifyingTransport(
            verifier, self.response_checks(), transport=async_line(self.library, self.line)
        )
        http = self.library.AsyncClient(transport=transport)
        return openai.AsyncOpenAI(base_url=f"{self.base}/v1", api_key=self.provider.keys["good"], http_client=http, max_retries=2)

    @property
    def nonces(self) -> list[str | None]:
        return [headers.get("ai-provenance-nonce") for headers in self.line.sent]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    provider = Provider(tmp_path_factory.mktemp("provider"))
    head = provider.settings.read_text().partition("[routes]")[0]
    provider.settings.write_text(f'account_routes = "/account"\n{head}{ROUTES}')
    with provider.store() as store:
        for account in store.accounts():
            store.put_account(account.model_copy(update={"models": frozenset({"small"})}))
    return provider


@pytest.fixture(scope="module")
def base(provider: Provider) -> Iterator[str]:
    guard = AsyncGuard.from_file(provider.settings)
    app = TosGuardMiddleware(storing_provider.provider(provider.folder), guard=guard, routes=own_routes(guard))
    with serve_app(app) as base:
        yield base


@pytest.fixture(params=TRANSPORTS, ids=lambda library: library.__name__)
def caller(request: pytest.FixtureRequest, provider: Provider, base: str) -> Caller:
    return Caller(provider, base, request.param)


def key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(8)}


def records(provider: Provider, rids: list[str]) -> int:
    with provider.store() as store:
        return sum(store.by_request_id(provider.issuer, rid) is not None for rid in set(rids))


def text_of(answer: Any, *, streamed: bool) -> str:
    if streamed:
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    text: str = answer.choices[0].message.content
    return text


# Retries


@pytest.mark.parametrize("streamed", [False, True])
def test_a_retry_under_a_key_is_proven_by_the_token_of_the_answer_that_was_lost(caller: Caller, streamed: bool) -> None:
    """The client retries by itself: the same nonce goes out, the original token comes back, and the request is bound by both."""
    caller.line.drops = 1
    with caller.client() as client:
        text = text_of(client.chat.completions.create(**ASK, stream=streamed, extra_headers=key()), streamed=streamed)
    assert len(caller.nonces) == 2
    assert len(set(caller.nonces)) == 1
    (first, _), (again, body) = caller.line.served
    assert first["x-request-id"] == again["x-request-id"]
    (verified,) = caller.proven
    assert (verified.claims.nonce, verified.nonce_checked, verified.request_checked) == (caller.nonces[0], True, True)
    assert verified.claims.rid == first["x-request-id"]
    assert text
    assert streamed or text.encode() in body


@pytest.mark.parametrize("streamed", [False, True])
async def test_so_it_is_over_an_asynchronous_client(caller: Caller, streamed: bool) -> None:
    caller.line.drops = 1
    async with caller.async_client() as client:
        answer: Any = await client.chat.completions.create(**ASK, stream=streamed, extra_headers=key())
        if streamed:
            assert isinstance(answer, AsyncIterator)
            assert [chunk async for chunk in answer]
    assert (len(caller.nonces), len(set(caller.nonces))) == (2, 1)
    assert [(verified.nonce_checked, verified.request_checked) for verified in caller.proven] == [(True, True)]


def test_the_client_sends_no_key_of_its_own_so_its_retry_is_another_request(caller: Caller) -> None:
    """Two exchanges, each under a nonce of its own; the second is proven."""
    caller.line.drops = 1
    with caller.client() as client:
        client.chat.completions.create(**ASK)
    assert not any("idempotency-key" in headers for headers in caller.line.sent)
    assert len(set(caller.nonces)) == 2
    assert len({headers["x-request-id"] for headers, _ in caller.line.served}) == 2
    assert caller.proven[0].claims.nonce == caller.nonces[1]


def test_nonces_tell_apart_keys_requests_and_transports(caller: Caller) -> None:
    """What one of them was answered with answers no other."""
    one, other = key(), key()
    with caller.client() as client:
        for headers in (one, one, other):
            client.chat.completions.create(**ASK, extra_headers=headers)
        with pytest.raises(openai.UnprocessableEntityError):
            client.chat.completions.create(**{**ASK, "temperature": 1}, extra_headers=one)
    first, again, of_other_key, of_other_request = caller.nonces
    assert first == again
    assert len({first, of_other_key, of_other_request}) == 3
    second = Caller(caller.provider, caller.base, caller.library)
    with second.client() as client, pytest.raises(NonceError, match="nonce"):
        client.chat.completions.create(**ASK, extra_headers=one)
    assert second.nonces[0] != first


def test_an_answer_to_another_key_is_refused(caller: Caller) -> None:
    """Somebody on the way gives back what the same question was answered with before, under another key."""
    with caller.client() as client:
        client.chat.completions.create(**ASK, extra_headers=key())
        old = caller.line.served[0]
        caller.line.tamper = lambda *_: old
        with pytest.raises(NonceError, match="nonce"):
            client.chat.completions.create(**ASK, extra_headers=key())


# Stored responses


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stored_response_is_retrieved_and_proven_and_no_freshness_claimed(caller: Caller, streamed: bool) -> None:
    """By another process even, which never saw the nonce of the request that made it."""
    with caller.client() as client:
        made = client.responses.create(model="small", input="hi")
    other = Caller(caller.provider, caller.base, caller.library)
    with other.client() as client:
        if streamed:
            with client.responses.retrieve(made.id, stream=True) as events:
                assert [event.type for event in events][-1] == "response.completed"
        else:
            assert client.responses.retrieve(made.id).output_text == made.output_text
    (first,), (again,) = caller.proven, other.proven
    assert (first.nonce_checked, first.request_checked, again.nonce_checked, again.request_checked) == (True, True, False, False)
    assert (again.token, again.claims.rid) == (first.token, made._request_id)
    assert other.failed == []


def test_a_retrieved_response_is_held_to_the_nonce_of_the_request_that_made_it(caller: Caller) -> None:
    """Where the caller sends it, or expects it: another response of the account is refused then."""
    with caller.client() as client:
        made, another = client.responses.create(model="small", input="hi"), client.responses.create(model="small", input="hi")
        nonce = str(caller.proven[0].claims.nonce)
        client.responses.retrieve(made.id, extra_headers={"AI-Provenance-Nonce": nonce})
        assert caller.proven[-1].nonce_checked
        with pytest.raises(NonceError, match="nonce"):
            client.responses.retrieve(another.id, extra_headers={"AI-Provenance-Nonce": nonce})
    strict = Caller(caller.provider, caller.base, caller.library, checks={"expected": Expected(nonce=nonce)})
    with strict.client() as client:
        client.responses.retrieve(made.id)
        assert strict.proven[-1].nonce_checked
        with pytest.raises(NonceError, match="nonce"):
            client.responses.retrieve(another.id)


def test_a_retrieved_response_that_was_altered_is_refused(caller: Caller) -> None:
    with caller.client() as client:
        made = client.responses.create(model="small", input="hi")
        text = made.output_text.encode()

        def altered(headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
            return {name: value for name, value in headers.items() if name != "content-digest"}, body.replace(text, b"no")

        caller.line.tamper = altered
        with pytest.raises(VerificationError):
            client.responses.retrieve(made.id)
    assert len(caller.proven) == 1


def test_only_what_is_stored_may_come_without_its_nonce(caller: Caller) -> None:
    """What is made by a request is held to it, whatever was stored."""
    with caller.client() as client:
        made = client.responses.create(model="small", input="hi")
        client.responses.retrieve(made.id)
        stored = caller.line.served[-1]
        caller.line.tamper = lambda *_: stored
        with pytest.raises(NonceError):
            client.responses.create(model="small", input="hi")
        with pytest.raises(NonceError):
            client.get("/models", cast_to=object)
        with pytest.raises(NonceError):
            client.responses.input_items.list(made.id)
        with pytest.raises(NonceError):
            client.responses.delete(made.id)


# In the background


def test_a_background_response_is_polled_to_its_end_and_proven(caller: Caller) -> None:
    """Until then it has nothing in it, and passes; its end is proven under the ids of the request that made it."""
    with caller.client() as client:
        raw = client.responses.with_raw_response.create(model="small", input="hi", background=True)
        made = raw.parse()
        check = raw.http_response.extensions["tos_guard"]
        assert isinstance(check, ResponseCheck)
        assert (check.verified, check.error, check.passed) == (None, None, "the response has not ended")
        found, seen = made, [made.status]
        while found.status != "completed":
            found = client.responses.retrieve(made.id)
            seen.append(found.status)
            assert len(seen) < 9
    assert seen == ["queued", "in_progress", "completed"]
    (verified,) = caller.proven
    assert (verified.claims.rid, verified.claims.nonce, verified.nonce_checked) == (made._request_id, caller.nonces[0], False)
    assert (caller.failed, len(set(caller.nonces))) == ([], 3)


async def test_so_it_is_polled_by_an_asynchronous_client(caller: Caller) -> None:
    async with caller.async_client() as client:
        found = await client.responses.create(model="small", input="hi", background=True)
        seen = [found.status]
        while found.status != "completed":
            found = await client.responses.retrieve(found.id)
            seen.append(found.status)
            assert len(seen) < 9
    assert (len(caller.proven), caller.failed) == (1, [])


def test_a_cancelled_background_response_is_proven(caller: Caller) -> None:
    with caller.client() as client:
        made = client.responses.create(model="small", input="hi", background=True)
        assert client.responses.cancel(made.id).status == "cancelled"
    assert [verified.claims.rid for verified in caller.proven] == [made._request_id]


def test_a_background_request_is_retried_under_its_key(caller: Caller) -> None:
    caller.line.drops = 1
    with caller.client() as client:
        made = client.responses.create(model="small", input="hi", background=True, extra_headers=key())
    assert (made.status, caller.failed, len(set(caller.nonces))) == ("queued", [], 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b'"output":[]', b'"output":[{"type":"message","content":[{"type":"output_text","text":"sold"}]}]', id="it has output"),
        pytest.param(b'"status":"queued"', b'"status":"completed"', id="it says that it has ended"),
        pytest.param(b'"output":[]', b'"output":""', id="it is no response"),
    ],
)
def test_what_a_pending_token_does_not_prove_does_not_pass(caller: Caller, old: bytes, new: bytes) -> None:
    def altered(headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
        assert old in body.replace(b'": ', b'":')
        return {name: value for name, value in headers.items() if name != "content-digest"}, body.replace(b'": ', b'":').replace(old, new)

    caller.line.tamper = altered
    with caller.client() as client, pytest.raises(IncompleteError):
        client.responses.create(model="small", input="hi", background=True)


def test_a_pending_token_of_another_request_or_issuer_does_not_pass(caller: Caller) -> None:
    with caller.client() as client:
        client.responses.create(model="small", input="hi", background=True)
        old = caller.line.served[0]
        caller.line.tamper = lambda *_: old
        with pytest.raises(NonceError):
            client.responses.create(model="small", input="hi", background=True)
    other = Caller(caller.provider, caller.base, caller.library)
    origins = {caller.base: "https://other.example"}
    verifier = Verifier(["https://other.example"], pinned=caller.provider.trust(), clock=now)
    transport = TRANSPORTS[caller.library].VerifyingTransport(verifier, ResponseChecks(origins=origins))
    http = caller.library.Client(transport=transport)
    with (
        openai.OpenAI(base_url=f"{caller.base}/v1", api_key=other.provider.keys["good"], http_client=http) as client,
        pytest.raises(UnacceptableError),
    ):
        client.responses.create(model="small", input="hi", background=True)
