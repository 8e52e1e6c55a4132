"""What cannot carry its token: kept when the last of it leaves, fetched by its account, and proven by the verifying transport by itself."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

import httpx2
import pytest

from kit import ISSUER, Answer, App, Kit, ask, streamed, whole
from serving import Serve
from tos_guard._canonical import b64url_decode, b64url_encode
from tos_guard.errors import IncompleteError, VerificationError
from tos_guard.ledger import SealKind
from tos_guard.remote import ResponseChecks
from tos_guard.remote.httpx2 import VerifyingTransport
from tos_guard.testing import SeededSigner
from tos_guard.types import KeyPurpose
from tos_guard.verifier import Verifier
from tos_guard.verify import verify_body
from tos_guard.web import own_routes
from tos_guard.web.asgi import TosGuardMiddleware

FILE = "/v1/audio/speech"
SOUND = b"RIFF" + bytes(range(256)) * 40
ASK = b'{"model":"small","input":"hi"}'


@pytest.fixture
def kit() -> Kit:
    settings = {"routes": {FILE: {"dialect": "file", "model": "small", "idempotent": True}}, "account_routes": "/account"}
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
