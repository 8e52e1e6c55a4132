"""Keys that are for less than their account, at a guarded app."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from dpop_kit import Holder
from kit import CHAT, ISSUER, Answer, Kit, ask, whole
from tos_guard.guard import AsyncGuard
from tos_guard.rights import Binding, KeyTerms, Measure, hash_secret, new_api_key
from tos_guard.stores import MemoryReplays
from tos_guard.testing import FixedClock, SeededEntropy, SeededSigner
from tos_guard.types import KeyPurpose, Standing
from tos_guard.web import own_routes
from tos_guard.web.asgi import TosGuardMiddleware

BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}'
ENTROPY = SeededEntropy("keys of these tests")


def key_of(kit: Kit, **terms: Any) -> str:
    """A new key of the account, for no more than that."""
    key = new_api_key(ENTROPY)
    kit.store.add_api_key("acme", key.public_id, hash_secret(key.secret, kit.store.pepper()), terms=KeyTerms(**terms))
    return key.text


async def chat(kit: Kit, key: str, *, model: str = "small", path: str = CHAT) -> Answer:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
    return await ask(kit.wrap(whole(BODY)), key=key, body=body, path=path)


def code(answer: Answer) -> str:
    found: str = json.loads(answer.body)["error"]["code"]
    return found


async def test_a_key_is_for_its_actions_and_models() -> None:
    kit = Kit()
    catalogue = key_of(kit, models=frozenset({"catalogue"}))
    classify = key_of(kit, actions=frozenset({"classify"}))
    generate = key_of(kit, actions=frozenset({"generate"}), models=frozenset({"small"}))
    assert (await chat(kit, generate)).status == 200
    for key in (catalogue, classify):
        answer = await chat(kit, key)
        assert (answer.status, code(answer)) == (403, "tos_key_scope")
    records = kit.records()
    assert [record.decision for record in records] == ["allow", "deny", "deny"]
    assert [record.reasons for record in records[1:]] == [("tos_key_scope",)] * 2
    assert kit.guard.counts["denied:tos_key_scope"] == 2


async def test_a_key_gives_nothing_that_its_account_has_not() -> None:
    kit = Kit()
    key = key_of(kit, models=frozenset({"large", "small"}))
    answer = await chat(kit, key, model="large")
    assert (answer.status, code(answer)) == (403, "tos_model_not_allowed")


async def test_a_key_that_has_expired_is_like_one_that_never_was() -> None:
    kit = Kit()
    key = key_of(kit, expires=kit.clock() + timedelta(minutes=1))
    assert (await chat(kit, key)).status == 200
    kit.clock.advance(timedelta(minutes=1))
    answer, unknown = await chat(kit, key), await chat(kit, "tg-abcdefghijkm-" + "A" * 43)
    assert (answer.status, json.loads(answer.body)["error"]["message"]) == (401, json.loads(unknown.body)["error"]["message"])


async def test_a_key_that_is_bound_must_be_proven() -> None:
    kit = Kit(settings={"dpop": {}, "mutual_tls": {}}, overrides={"replays": MemoryReplays(clock=lambda: Kit().clock())})
    kit.clock.advance(timedelta(minutes=1))
    holder = Holder()
    key = key_of(kit, binding=Binding(jkt=holder.thumbprint))
    proof = holder.proof(key, uri=ISSUER + CHAT, now=kit.clock().timestamp()).encode()
    body = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
    app = kit.wrap(whole(BODY))
    authorization = (b"authorization", f"DPoP {key}".encode())
    assert (await ask(app, headers=[authorization, (b"dpop", proof)], body=body)).status == 200
    assert (await ask(app, headers=[authorization, (b"dpop", proof)], body=body)).status == 401
    for headers in ([authorization], [(b"authorization", f"Bearer {key}".encode())], [(b"x-api-key", key.encode())]):
        assert (await ask(app, headers=headers, body=body)).status == 401


async def test_an_action_that_the_handler_demands_is_the_keys_too() -> None:
    """`Admission.require` asks the key as it asks the account."""
    kit = Kit()
    key = key_of(kit, actions=frozenset({"generate"}))
    body = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'

    async def handler(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["state"]["tos_guard"].require("classify")
        await whole(BODY)(scope, receive, send)

    assert (await ask(kit.wrap(handler), key=kit.key, body=body)).status == 200
    answer = await ask(kit.wrap(handler), key=key, body=body)
    assert (answer.status, code(answer)) == (403, "tos_key_scope")


async def test_a_proof_is_asked_for_once_however_slowly_the_body_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the account routes as on guarded ones; that the key was revoked meanwhile is seen all the same."""
    monkeypatch.setattr("tos_guard.guard._admitting.MAX_FOUND_SECONDS", 0.0)
    monkeypatch.setattr("tos_guard.web._door.MAX_FOUND_SECONDS", 0.0)
    path = "/account/standing/appeal"
    holder, clock = Holder(), FixedClock()
    parts = {"replays": MemoryReplays(clock=clock), "receipts": SeededSigner("receipts", purpose=KeyPurpose.RECEIPT)}
    kit = Kit(clock=clock, settings={"dpop": {}, "account_routes": "/account"}, overrides=parts)
    guard = AsyncGuard(kit.guard.settings, **kit.parts, store=kit.store)
    app = TosGuardMiddleware(whole(BODY), guard=guard, routes=own_routes(guard))
    clock.advance(timedelta(minutes=1))
    kit.store.take_measure("acme", Measure(id="m-1", step=Standing.WARNED, reason="test", begins=clock()))
    key = key_of(kit, binding=Binding(jkt=holder.thumbprint))
    body = b'{"measure":"m-1","text":"a mistake","filed_by":"Jo"}'

    def head() -> list[tuple[bytes, bytes]]:
        proof = holder.proof(key, uri=ISSUER + path, now=clock().timestamp()).encode()
        return [(b"authorization", f"DPoP {key}".encode()), (b"dpop", proof)]

    async def revoking(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def read() -> Any:
            kit.store.revoke_api_key(key.split("-")[1], "stolen")
            return await receive()

        await app(scope, read, send)

    assert (await ask(app, path, headers=head(), body=body)).status == 201
    assert (await ask(revoking, path, headers=head(), body=body)).status == 401
