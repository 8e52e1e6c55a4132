"""What cannot carry its token: kept when the last of it leaves, fetched by its account, and proven by the verifying transport by itself."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

import httpx
import httpx2
import pytest

import tos_guard.remote.httpx
import tos_guard.remote.httpx2
from kit import ISSUER, Answer, App, Kit, ask, streamed, whole
from serving import Serve
from tos_guard._canonical import b64url_decode, b64url_encode
from tos_guard.errors import ContentMismatchError, IncompleteError, VerificationError
from tos_guard.ledger import SealKind
from tos_guard.remote import ResponseChecks
from tos_guard.remote.httpx2 import VerifyingTransport
from tos_guard.testing import SeededSigner
from tos_guard.types import KeyPurpose
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Verified, verify_body
from tos_guard.web import own_routes
from tos_guard.web.asgi import TosGuardMiddleware

FILE = "/v1/audio/speech"
SOUND = b"RIFF" + bytes(range(256)) * 40
ASK = b'{"model":"small","input":"hi"}'


@pytest.fixture
def kit() -> Kit:
    routes = {
        FILE: {"dialect": "file", "model": "small", "idempotent": True},
        "/lines": {"dialect": "ndjson", "model": "small"},
        "/tagged": {"dialect": "ndjson", "model": "small", "tag_line": True},
    }
    settings = {"routes": routes, "account_routes": "/account"}
    return Kit(settings=settings)


def guarded(kit: Kit, app: App) -> TosGuardMiddleware:
    kit.guard.store, kit.guard._receipts = kit.store, SeededSigner("receipts", purpose=KeyPurpose.RECEIPT)
    return TosGuardMiddleware(app, guard=kit.guard, routes=own_routes(kit.guard))


def sound() -> App:
    return streamed(SOUND[:5000], SOUND[5000:], media_type=b"audio/wav")


def called(kit: Kit, app: App, path: str = FILE, **more: Any) -> Answer:
    return asyncio.run(ask(guarded(kit, app), path, key=kit.key, **{"body": ASK, **more}))


def fetched(kit: Kit, rid: str) -> Answer:
    return called(kit, whole(b""), f"/account/seals/{rid}", method="GET", body=b"")


def test_the_seal_of_a_file_is_fetched_by_its_request_id(kit: Kit) -> None:
    """The file passes as it is; its token covers its bytes, binds its request, and is recorded as detached."""
    answer = called(kit, sound())
    assert answer.body == SOUND
    with pytest.raises(IncompleteError):
        verify_body(answer.body, trust=kit.trust, now=kit.clock(), token=answer.headers["ai-provenance"])
    seal = json.loads(fetched(kit, answer.headers["x-request-id"]).body)
    verified = verify_body(answer.body, trust=kit.trust, now=kit.clock(), token=seal["token"])
    assert (verified.claims.rid, seal["request_id"]) == (answer.headers["x-request-id"],) * 2
    salt = b64url_decode(answer.headers["ai-provenance-salt"])
    assert verified.claims.req == b64url_encode(hmac.digest(salt, ASK, hashlib.sha256))
    with pytest.raises(VerificationError):
        verify_body(answer.body[:-1], trust=kit.trust, now=kit.clock(), token=seal["token"])
    (record,) = kit.records()
    assert (record.carrier, record.jti) == ("detached", verified.claims.jti)


def test_a_file_that_broke_off_has_no_seal(kit: Kit) -> None:
    """What its reader left before its end is not there to be fetched."""
    answer = called(kit, sound(), leave_after=1, send_error=True)
    missing = fetched(kit, answer.headers["x-request-id"])
    assert (missing.status, missing.headers["retry-after"]) == (404, "1")
    assert kit.store.kept_of("acme", SealKind.REQUEST) == ()


def test_a_retried_file_has_the_seal_of_the_first(kit: Kit) -> None:
    """Its head tells the first request id, under which the one token is."""
    key = [(b"idempotency-key", b"k")]
    first = called(kit, sound(), headers=key)
    again = called(kit, sound(), headers=key)
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert len(kit.store.kept_of("acme", SealKind.REQUEST)) == len(kit.records()) == 1


LINES = (b'{"n": 1}\n{"n"', b": 2}\n", b"[3.0]\n")


def verifying(kit: Kit, library: Any, base: str, proven: list[Verified], *, spoil: Any = None) -> Any:
    """What asks for a path over a verifying transport and gives the body, in the blocking colour and the asynchronous one."""
    checks = ResponseChecks(origins={base: ISSUER}, seals_path="/account/seals", on_verified=lambda verified, _: proven.append(verified))
    given: dict[str, Any] = {"content": ASK, "headers": {"authorization": f"Bearer {kit.key}", "content-type": "application/json"}}
    transports = tos_guard.remote.httpx if library is httpx else tos_guard.remote.httpx2

    class Line(library.HTTPTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            response = super().handle_request(request)
            body = response.read()
            return library.Response(
                response.status_code, headers=response.headers, stream=library.ByteStream(body if spoil is None else spoil(body))
            )

    def blocking(path: str) -> bytes:
        with Verifier(pinned=kit.trust, clock=kit.clock) as verifier:
            client = library.Client(transport=transports.VerifyingTransport(verifier, checks, transport=Line()))
            with client:
                return bytes(client.post(base + path, **given).content)

    async def asynchronous(path: str) -> bytes:
        async with AsyncVerifier(pinned=kit.trust, clock=kit.clock) as verifier:
            client = library.AsyncClient(transport=transports.AsyncVerifyingTransport(verifier, checks))
            async with client:
                return bytes((await client.post(base + path, **given)).content)

    return blocking, asynchronous


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("path", ["/lines", "/tagged"])
def test_the_verifying_transport_proves_lines(kit: Kit, serve: Serve, library: Any, path: str) -> None:
    """By the token that it fetches, or by that of the last line; request and nonce are bound either way."""
    proven: list[Verified] = []
    with serve(guarded(kit, streamed(*LINES, media_type=b"application/x-ndjson"))) as base:
        blocking, asynchronous = verifying(kit, library, base, proven)
        bodies = blocking(path), asyncio.run(asynchronous(path))
    assert all(body.startswith(b"".join(LINES)) for body in bodies)
    assert [(one.claims.content and one.claims.content.projection, one.request_checked, one.nonce_checked) for one in proven] == [
        ("ndjson-1", True, True)
    ] * 2


@pytest.mark.parametrize("path", ["/lines", "/tagged"])
def test_lines_that_were_altered_or_cut_are_not_handed_out(kit: Kit, serve: Serve, path: str) -> None:
    proven: list[Verified] = []
    with serve(guarded(kit, streamed(*LINES, media_type=b"application/x-ndjson"))) as base:
        with pytest.raises(ContentMismatchError):
            verifying(kit, httpx2, base, proven, spoil=lambda body: body.replace(b"3.0", b"4.0"))[0](path)
        with pytest.raises(IncompleteError if path == "/tagged" else ContentMismatchError):
            verifying(kit, httpx2, base, proven, spoil=lambda body: body.partition(b"\n")[0])[0](path)
    assert proven == []


def test_events_without_a_place_for_a_tag_fail_over_the_transport(kit: Kit, serve: Serve) -> None:
    """Nothing is fetched for them: they are proven with the token that the caller fetches."""
    proven: list[Verified] = []
    events = b'data: {"a":1}\n\n'
    with serve(guarded(kit, streamed(events, media_type=b"text/event-stream"))) as base, pytest.raises(IncompleteError):
        verifying(kit, httpx2, base, proven)[0](FILE)
    answer = called(kit, streamed(events, media_type=b"text/event-stream"))
    seal = json.loads(fetched(kit, answer.headers["x-request-id"]).body)
    assert verify_body(answer.body, trust=kit.trust, now=kit.clock(), token=seal["token"]).claims.rid == seal["request_id"]
    assert proven == []


def test_lines_with_a_token_in_the_header_need_no_other(kit: Kit, serve: Serve) -> None:
    """Where their length was known, and another dialect sealed their bytes."""
    proven: list[Verified] = []
    with serve(guarded(kit, whole(b"".join(LINES), media_type=b"application/x-ndjson"))) as base:
        assert verifying(kit, httpx2, base, proven)[0](FILE) == b"".join(LINES)
    assert [one.claims.content and one.claims.content.projection for one in proven] == ["bytes-1"]


def test_the_verifying_transport_fetches_it_by_itself(kit: Kit, serve: Serve) -> None:
    """On a real server: one call of the client, and the file is proven."""
    proven: list[str] = []
    with serve(guarded(kit, sound())) as base, Verifier(pinned=kit.trust, clock=kit.clock) as verifier:
        checks = ResponseChecks(
            origins={base: ISSUER}, seals_path="/account/seals", on_verified=lambda verified, _: proven.append(verified.claims.rid)
        )
        with httpx2.Client(transport=VerifyingTransport(verifier, checks)) as client:
            answer = client.post(
                base + FILE, content=ASK, headers={"authorization": f"Bearer {kit.key}", "content-type": "application/json"}
            )
    assert answer.content == SOUND
    assert proven == [answer.headers["x-request-id"]]
