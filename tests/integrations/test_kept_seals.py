"""What leaves again leaves with the seal that it had: stored and background responses, idempotent retries (docs/adr/0008-every-door.md)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kit import CHAT, ISSUER, Answer, App, Kit, ask, streamed, whole
from tos_guard._canonical import b64url_decode, b64url_encode
from tos_guard.config import RouteSettings
from tos_guard.errors import ConfigurationError, IncompleteError, StoreError, VerificationError
from tos_guard.guard import AsyncGuard
from tos_guard.guard._leases import LEASE
from tos_guard.ledger import SealKind
from tos_guard.limits import Charge, Dimension, Limit, LimitRefusal, Quantity, Reservation, Sliding
from tos_guard.stores import MemoryLimits
from tos_guard.types import Standing
from tos_guard.verify import Verified, verify_body, verify_stream

RESPONSES = "/v1/responses"
STORED = "/v1/responses/resp_1"
MESSAGES = "/v1/messages"
ROUTES: dict[str, Any] = {
    RESPONSES: {"dialect": "openai-responses", "idempotent": True},
    "/v1/responses/*": "openai-responses",
    "/v1/responses/*/cancel": "openai-responses",
    CHAT: {"dialect": "openai-chat", "idempotent": True},
    "/v1/chat/completions/*": "openai-chat",
    MESSAGES: {"dialect": "anthropic-messages", "idempotent": True},
}
ASK = b'{"model":"small","input":"hi"}'
BACKGROUND = b'{"model":"small","input":"hi","background":true}'
USAGE = {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5}


def response(text: str = "Hello", status: str = "completed", response_id: str = "resp_1", **more: Any) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": []}]
    output = [{"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": parts}] if text else []
    ended = {"usage": USAGE} if status == "completed" else {}
    return {"id": response_id, "object": "response", "status": status, "model": "small", "output": output, **ended, **more}


def body(text: str = "Hello", status: str = "completed", response_id: str = "resp_1") -> bytes:
    return json.dumps(response(text, status, response_id)).encode()


def events(text: str = "Hello", response_id: str = "resp_1") -> list[bytes]:
    done = response(text, response_id=response_id)
    said: list[dict[str, Any]] = [
        {"type": "response.created", "response": response("", "in_progress", response_id)},
        *(
            {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "m1", "delta": letter}
            for letter in text
        ),
        {"type": "response.completed", "response": done},
    ]
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in said]


def completion(text: str = "Hello") -> bytes:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "model": "small", "choices": choices}).encode()


def chunks(text: str = "Hello") -> list[bytes]:
    said = [{"index": 0, "delta": {"content": letter}, "finish_reason": None} for letter in text]
    said.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return [*(b"data: " + json.dumps({"id": "chatcmpl-1", "choices": [each]}).encode() + b"\n\n" for each in said), b"data: [DONE]\n\n"]


def message_events(text: str = "Hello") -> list[bytes]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "small", "content": [], "stop_reason": None}
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 2, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": letter}} for letter in text),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in said]


@pytest.fixture
def kit() -> Kit:
    requests = Limit(id="r", quantity=Quantity.REQUESTS, amount=100, per=(Dimension.ACCOUNT,), window=Sliding(3600))
    tokens = Limit(id="t", quantity=Quantity.TOKENS, amount=100_000, per=(Dimension.ACCOUNT,), window=Sliding(3600))
    slots = Limit(id="c", quantity=Quantity.CONCURRENCY, amount=3, per=(Dimension.ACCOUNT,), window=None)
    return Kit(settings={"routes": ROUTES}, limits=(requests, tokens, slots))


def call(
    kit: Kit,
    app: App,
    path: str = RESPONSES,
    *,
    method: str = "POST",
    sent: bytes = ASK,
    key: str | None = None,
    idempotency: str | None = None,
    **more: Any,
) -> Answer:
    headers = [(b"idempotency-key", idempotency.encode())] if idempotency is not None else []
    return asyncio.run(ask(kit.wrap(app), path, key=key or kit.key, method=method, body=sent, headers=headers, **more))


def get(kit: Kit, app: App, path: str = STORED, **more: Any) -> Answer:
    return call(kit, app, path, method="GET", sent=b"", **more)


def verified(kit: Kit, answer: Answer) -> Verified:
    token = answer.headers.get("ai-provenance")
    if answer.headers["content-type"] == "text/event-stream":
        return verify_stream(answer.body, trust=kit.trust, now=kit.clock(), token=token)
    return verify_body(answer.body, trust=kit.trust, now=kit.clock(), token=token, content_digest=answer.headers.get("content-digest"))


def verified_beside(kit: Kit, answer: Answer) -> Verified:
    """Of a response whose final token is fetched by its request id."""
    (seal,) = kit.store.kept_of("acme", SealKind.REQUEST, answer.headers["x-request-id"])
    return verify_body(answer.body, trust=kit.trust, now=kit.clock(), token=seal.token)


def another_account(kit: Kit) -> str:
    from tos_guard.rights import Account, hash_secret, new_api_key
    from tos_guard.testing import SeededEntropy

    kit.store.add_account(Account(id="other", models=frozenset({"small"}), actions=frozenset({"generate"})))
    key = new_api_key(SeededEntropy("other"))
    kit.store.add_api_key("other", key.public_id, hash_secret(key.secret, kit.store.pepper()))
    return key.text


# Stored responses


@pytest.mark.parametrize(
    ("made", "path", "sent", "stored"),
    [
        pytest.param(whole(body()), STORED, ASK, whole(body()), id="a response, whole and whole"),
        pytest.param(streamed(*events()), STORED, ASK, whole(body()), id="a response, streamed and whole"),
        pytest.param(whole(body()), STORED, ASK, streamed(*events()), id="a response, whole and streamed"),
        pytest.param(streamed(*events()), STORED, ASK, streamed(*events()), id="a response, streamed twice"),
    ],
)
def test_a_stored_response_leaves_again_with_its_token(kit: Kit, made: App, path: str, sent: bytes, stored: App) -> None:
    """Whichever way it was made and is read, it has one token, one request id and one record, and is charged once."""
    first = call(kit, made, RESPONSES, sent=sent)
    used, records = kit.used(), kit.records()
    again = get(kit, stored, path)
    assert verified(kit, again).token == verified(kit, first).token
    assert again.headers["x-request-id"] == again.headers["request-id"] == first.headers["x-request-id"]
    assert "ai-provenance-salt" not in again.headers
    assert (kit.used(), kit.records()) == (used, records)
    assert kit.guard.counts["seal:reused"] == 1


def test_a_stored_chat_completion_leaves_again_with_its_token(kit: Kit) -> None:
    """Chat stores where it is asked to; a completion that was streamed is read whole."""
    sent = b'{"model":"small","messages":[],"stream":true,"store":true}'
    first = call(kit, streamed(*chunks()), CHAT, sent=sent)
    for method, path in (("GET", "chatcmpl-1"), ("POST", "chatcmpl-1"), ("GET", "chatcmpl-1")):
        again = call(kit, whole(completion()), f"{CHAT}/{path}", method=method, sent=b'{"metadata":{}}' if method == "POST" else b"")
        assert verified(kit, again).token == verified(kit, first).token


def test_leaves_beside_the_token_come_again_too(kit: Kit) -> None:
    """A response of many parts has its leaves beside the token each time."""
    many = response()
    many["output"] = [{**many["output"][0], "id": f"m{number}"} for number in range(6)]
    app = whole(json.dumps(many).encode())
    first, again = call(kit, app), get(kit, app)
    assert json.loads(again.body)["ai_provenance"] == json.loads(first.body)["ai_provenance"]
    assert verified(kit, again).claims.content.count == 6


@pytest.mark.parametrize("path", [STORED, f"{CHAT}/chatcmpl-1", f"{STORED}/cancel"])
def test_an_id_that_was_not_sealed_for_the_account_is_unknown(kit: Kit, path: str) -> None:
    """Neither before anything was made, nor to another account: the handler is not asked."""
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])

    method = "POST" if path.endswith("cancel") else "GET"
    unknown = call(kit, app, path, method=method, sent=b"")
    assert (unknown.status, json.loads(unknown.body)["error"]["code"]) == (404, "tos_unknown_response")
    call(kit, whole(body()))
    assert call(kit, app, path, method=method, sent=b"", key=another_account(kit)).status == 404
    assert asked == []


def test_what_is_not_to_be_stored_is_not_kept(kit: Kit) -> None:
    """A response with ``store`` false, and a chat completion without it, cannot be had again; no seal of them is kept."""
    call(kit, whole(body()), sent=b'{"model":"small","input":"hi","store":false}')
    call(kit, whole(completion()), CHAT)
    assert kit.store.kept_of("acme") == ()


def test_a_stored_response_that_was_changed_is_sealed_as_its_own(kit: Kit) -> None:
    """The original token would not fit it: another token, another request id, a record of its own."""
    first = call(kit, whole(body()))
    again = get(kit, whole(body("Bye")))
    assert verified(kit, again).claims.rid == again.headers["x-request-id"] != first.headers["x-request-id"]
    assert {record.rid for record in kit.records()} == {first.headers["x-request-id"], again.headers["x-request-id"]}


def test_a_stream_of_a_stored_response_that_was_changed_is_withheld(kit: Kit) -> None:
    """Its head has told the request id of the first one, of which there is one final token: no second one is made."""
    first = call(kit, whole(body()))
    again = get(kit, streamed(*events("Bye")))
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert b"tos_seal_conflict" in again.chunks[-1]
    assert b"response.completed" not in again.body
    with pytest.raises(IncompleteError):
        verified(kit, again)
    assert [record.unsealed for record in kit.records()] == [None, "seal_conflict"]
    assert kit.guard.counts["seal:conflict"] == 1


def test_what_is_said_about_a_stored_response_is_sealed_as_its_own(kit: Kit) -> None:
    """That it is deleted, or that there was an error, is not the response."""
    first = call(kit, whole(body()))
    gone = call(kit, whole(b'{"id":"resp_1","object":"response","deleted":true}'), STORED, method="DELETE", sent=b"")
    missing = get(kit, whole(b'{"error":{"message":"gone"}}', status=404))
    for answer in (gone, missing):
        assert verified(kit, answer).claims.rid not in (first.headers["x-request-id"], "")
    assert len(kit.records()) == 3


def test_who_may_not_make_it_may_not_have_it_again(kit: Kit) -> None:
    """Retrieval is decided like the request that made the response, with the rights of now."""
    call(kit, whole(body()))
    kit.change(models=frozenset({"else"}))
    refused = get(kit, whole(body()))
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (403, "tos_model_not_allowed")
    kit.change(models=frozenset({"small"}), standing=Standing.SUSPENDED)
    assert get(kit, whole(body())).status == 403
    assert [record.type for record in kit.records()] == ["exchange", "denial", "denial"]


def test_retrieval_is_served_at_an_exhausted_limit(kit: Kit) -> None:
    """It makes nothing, and is charged nothing."""
    kit = Kit(
        settings={"routes": ROUTES},
        limits=(Limit(id="r", quantity=Quantity.REQUESTS, amount=1, per=(Dimension.ACCOUNT,), window=Sliding(3600)),),
    )
    call(kit, whole(body()))
    assert call(kit, whole(body())).status == 429
    assert get(kit, whole(body())).status == 200


def test_seals_are_kept_as_long_as_the_settings_say(kit: Kit) -> None:
    """Then the response is unknown, and a purge deletes the seal."""
    call(kit, whole(body()))
    kit.clock.advance(timedelta(days=30) - timedelta(seconds=1))
    assert get(kit, whole(body())).status == 200
    kit.clock.advance(timedelta(seconds=1))
    assert get(kit, whole(body())).status == 404
    kit.guard.purge()
    assert kit.store.kept_of("acme") == ()


def test_an_erased_account_has_nothing_again(kit: Kit) -> None:
    """Its seals go with the links of its records."""
    call(kit, whole(body()), idempotency="k")
    assert {seal.kind for seal in kit.store.kept_of("acme")} == {SealKind.RESPONSE, SealKind.IDEMPOTENCY}
    kit.store.erase_account(ISSUER, "acme")
    assert get(kit, whole(body())).status == 404


def test_nothing_said_is_kept(kit: Kit) -> None:
    """Neither prompt nor output, neither salt nor key is in a kept seal."""
    prompt, output = "what-was-asked", "what-was-answered"
    sent = json.dumps({"model": "small", "input": prompt}).encode()
    answer = call(kit, whole(body(output)), sent=sent, idempotency="key-of-the-caller")
    kept = json.dumps([seal.to_document() for seal in kit.store.kept_of("acme")])
    for secret in (prompt, output, answer.headers["ai-provenance-salt"], "key-of-the-caller", kit.key, "acme"):
        assert secret not in kept


def test_a_stored_response_is_the_newest_of_its_id(kit: Kit) -> None:
    """A host that gives an id twice has the newer one kept."""
    call(kit, whole(body("One")))
    second = call(kit, whole(body("Two")))
    assert verified(kit, get(kit, whole(body("Two")))).claims.rid == second.headers["x-request-id"]


# In the background


def test_a_background_response_is_sealed_when_it_is_found_ended(kit: Kit) -> None:
    """Pending while it runs, in header and member alike; then final under the same ids, with the salt of the request that made it."""
    first = call(kit, whole(body("", "queued")), sent=BACKGROUND)
    assert json.loads(first.body)["ai_provenance"] == {"token": first.headers["ai-provenance"]}
    with pytest.raises(IncompleteError):
        verified(kit, first)
    running = get(kit, whole(body("Hel", "in_progress")))
    assert running.headers["x-request-id"] == first.headers["x-request-id"]
    with pytest.raises(IncompleteError):
        verified(kit, running)
    assert kit.records() == []
    kit.clock.advance(timedelta(minutes=9))
    ended = get(kit, whole(body()))
    claims = verified(kit, ended).claims
    assert claims.rid == ended.headers["x-request-id"] == first.headers["x-request-id"]
    salt = b64url_decode(first.headers["ai-provenance-salt"])
    assert claims.req == b64url_encode(hmac.digest(salt, BACKGROUND, hashlib.sha256))
    (record,) = kit.records()
    assert (record.rid, record.jti, record.finished - record.started) == (claims.rid, claims.jti, 9 * 60_000)
    assert verified(kit, get(kit, whole(body()))).token == verified(kit, ended).token
    counts = kit.guard.counts
    assert (counts["seal:opened"], counts["seal:closed"], counts["seal:reused"]) == (1, 1, 1)


@pytest.mark.parametrize("status", ["completed", "failed", "incomplete", "cancelled"])
def test_a_background_response_may_end_in_any_way(kit: Kit, status: str) -> None:
    """Whatever way it ended, what there is of it is sealed."""
    first = call(kit, whole(body("", "queued")), sent=BACKGROUND)
    path, method = (f"{STORED}/cancel", "POST") if status == "cancelled" else (STORED, "GET")
    ended = call(kit, whole(body("Hel", status)), path, method=method, sent=b"")
    assert verified(kit, ended).claims.rid == first.headers["x-request-id"]


def test_a_background_response_holds_no_slot_and_is_charged_when_it_is_found(kit: Kit) -> None:
    """Its slot is free when its first answer has left; what it takes is estimated until somebody finds it ended, and then known."""
    call(kit, whole(body("", "queued")), sent=BACKGROUND)
    estimated = kit.used()
    assert (estimated["r"], estimated["c"]) == (1, 0)
    assert estimated["t"] > 1000
    kit.clock.advance(timedelta(minutes=30))
    get(kit, whole(body("Hel", "in_progress")))
    assert kit.used() == estimated
    get(kit, whole(body()))
    assert kit.used() == {"r": 1, "t": 5, "c": 0}
    get(kit, whole(body()))
    assert kit.used() == {"r": 1, "t": 5, "c": 0}


def test_a_background_response_that_nobody_fetches_keeps_its_estimate(kit: Kit) -> None:
    """As every reservation that is abandoned; found later than a day, it is sealed all the same."""
    call(kit, whole(body("", "queued")), sent=BACKGROUND)
    kit.clock.advance(timedelta(hours=25))
    assert verified(kit, get(kit, whole(body()))).claims.completion == "complete"


def test_a_background_request_takes_all_or_nothing(kit: Kit) -> None:
    """Where no slot is free it is refused, and charged nothing."""
    kit = Kit(
        settings={"routes": ROUTES},
        limits=(
            Limit(id="r", quantity=Quantity.REQUESTS, amount=9, per=(Dimension.ACCOUNT,), window=Sliding(3600)),
            Limit(id="c", quantity=Quantity.CONCURRENCY, amount=0, per=(Dimension.ACCOUNT,), window=None),
        ),
    )
    refused = call(kit, whole(body("", "queued")), sent=BACKGROUND)
    assert (refused.status, json.loads(refused.body)["error"]["limit"]) == (429, "c")
    assert kit.used() == {"r": 0, "c": 0}


def test_a_background_request_answered_at_once_is_sealed_at_once(kit: Kit) -> None:
    """What has ended when it leaves is no open exchange."""
    answer = call(kit, whole(body()), sent=BACKGROUND)
    assert verified(kit, answer).claims.completion == "complete"
    assert kit.used() == {"r": 1, "t": 5, "c": 0}
    assert kit.guard.counts["seal:opened"] == 0


def test_the_stream_of_a_background_response_seals_it(kit: Kit) -> None:
    """The pending token in the head has the ids of the final one, which are those of the request that made it."""
    first = call(kit, whole(body("", "queued")), sent=BACKGROUND)
    ended = get(kit, streamed(*events()))
    assert verified(kit, ended).claims.rid == first.headers["x-request-id"] == ended.headers["x-request-id"]
    assert verified(kit, get(kit, whole(body()))).token == verified(kit, ended).token
    assert kit.used() == {"r": 1, "t": 5, "c": 0}


def test_a_stream_that_breaks_off_leaves_a_background_response_open(kit: Kit) -> None:
    """Whoever loses the connection, or meets a handler that fails, asks again."""
    first = call(kit, whole(body("", "queued")), sent=BACKGROUND)
    get(kit, streamed(*events()[:3]))
    get(kit, streamed(*events()[:3], RuntimeError("handler")))
    get(kit, streamed(*events()), leave_after=2, send_error=True)
    get(kit, whole(b'{"error":{"message":"later"}}', status=500))
    ended = get(kit, whole(body()))
    assert verified(kit, ended).claims.rid == first.headers["x-request-id"]
    assert verified(kit, ended).claims.completion == "complete"


def test_a_background_stream_can_be_resumed_when_its_reader_has_left(kit: Kit) -> None:
    """Its exchange stays open, and the stream that is read to its end seals it; the pending tokens of both have the same ids."""
    sent = b'{"model":"small","input":"hi","background":true,"stream":true}'
    first = call(kit, streamed(*events()), sent=sent, leave_after=2, send_error=True)
    assert (kit.records(), kit.used()["c"]) == ([], 0)
    resumed = get(kit, streamed(*events()))
    assert verified(kit, resumed).claims.rid == first.headers["x-request-id"]
    assert kit.used() == {"r": 1, "t": 5, "c": 0}
    assert len(kit.records()) == 1


def test_a_background_stream_that_its_handler_ends_for_a_reader_that_left_can_be_resumed(kit: Kit) -> None:
    """As frameworks and handlers do that ask whether anybody reads on: the end of the body is not the end of the response."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for event in events()[:2]:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    sent = b'{"model":"small","input":"hi","background":true,"stream":true}'
    first = call(kit, app, sent=sent, leave_after=2)
    resumed = get(kit, streamed(*events()))
    assert verified(kit, resumed).claims.rid == first.headers["x-request-id"]


def test_a_stream_that_is_resumed_in_its_middle_passes_without_a_token(kit: Kit) -> None:
    """Half of it is not what was sealed; the response itself, fetched whole, is."""
    call(kit, whole(body()))
    half = get(kit, streamed(events()[0], *events()[3:]))
    assert b"response.completed" in half.body
    with pytest.raises(VerificationError):
        verified(kit, half)
    assert kit.guard.counts["unsealed:unprojectable"] == 1


def test_of_two_that_find_it_ended_at_once_both_get_one_token(kit: Kit) -> None:
    """One seal wins; there is one record."""
    call(kit, whole(body("", "queued")), sent=BACKGROUND)
    app = kit.wrap(whole(body()))

    async def both() -> list[Answer]:
        return await asyncio.gather(*(ask(app, STORED, key=kit.key, method="GET", body=b"") for _ in range(8)))

    tokens = {verified(kit, answer).token for answer in asyncio.run(both())}
    assert len(tokens) == len(kit.records()) == 1


# Idempotent retries


@pytest.mark.parametrize(
    ("path", "sent", "app"),
    [
        pytest.param(CHAT, b'{"model":"small","messages":[]}', lambda: whole(completion()), id="chat, whole"),
        pytest.param(CHAT, b'{"model":"small","messages":[],"stream":true}', lambda: streamed(*chunks()), id="chat, streamed"),
        pytest.param(RESPONSES, ASK, lambda: whole(body()), id="a response, whole"),
        pytest.param(RESPONSES, b'{"model":"small","input":"hi","stream":true}', lambda: streamed(*events()), id="a response, streamed"),
        pytest.param(
            MESSAGES, b'{"model":"small","max_tokens":9,"messages":[],"stream":true}', lambda: streamed(*message_events()), id="a message"
        ),
    ],
)
def test_a_retry_gets_the_original_token_and_is_charged_once(kit: Kit, path: str, sent: bytes, app: Callable[[], App]) -> None:
    """Same request id, same salt: the original token binds the retried request as well."""
    first = call(kit, app(), path, sent=sent, idempotency="k")
    used, records = kit.used(), kit.records()
    again = call(kit, app(), path, sent=sent, idempotency="k")
    assert verified(kit, again).token == verified(kit, first).token
    for name in ("x-request-id", "ai-provenance-salt"):
        assert again.headers[name] == first.headers[name]
    salt = b64url_decode(again.headers["ai-provenance-salt"])
    assert verified(kit, again).claims.req == b64url_encode(hmac.digest(salt, sent, hashlib.sha256))
    assert (kit.used(), kit.records()) == (used, records)


def test_a_key_is_for_one_request(kit: Kit) -> None:
    """Another body, or another path, under the same key is refused and not served."""
    call(kit, whole(completion()), CHAT, idempotency="k")
    for path, sent in ((CHAT, b'{"model":"small","messages":[1]}'), (RESPONSES, ASK)):
        refused = call(kit, whole(completion()), path, sent=sent, idempotency="k")
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (422, "tos_idempotency_mismatch")
    assert kit.used()["r"] == 1


def test_a_key_is_the_accounts_own(kit: Kit) -> None:
    """Another account may use the same key for its own request, and has another salt."""
    one = call(kit, whole(completion()), CHAT, idempotency="k")
    other = call(kit, whole(completion("Bye")), CHAT, idempotency="k", key=another_account(kit), sent=b'{"model":"small","messages":[2]}')
    assert other.status == 200
    assert other.headers["ai-provenance-salt"] != one.headers["ai-provenance-salt"]


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\tb"])
def test_what_is_no_key_is_refused(kit: Kit, key: str) -> None:
    """1 to 255 printable characters."""
    refused = call(kit, whole(completion()), CHAT, idempotency=key)
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (400, "tos_malformed_request")
    assert call(kit, whole(completion()), CHAT, idempotency="x" * 255).status == 200


def test_a_route_that_is_not_idempotent_knows_no_keys() -> None:
    """There each request is its own, whatever header it has."""
    kit = Kit()
    tokens = {call(kit, whole(completion()), CHAT, idempotency="k").headers["ai-provenance"] for _ in range(2)}
    assert len(tokens) == len(kit.records()) == 2


def test_a_retry_that_is_answered_otherwise_is_sealed_and_charged_as_its_own(kit: Kit) -> None:
    """The provider's handler did not keep its word; nothing leaves under a token that does not fit."""
    first = call(kit, whole(completion()), CHAT, idempotency="k")
    again = call(kit, whole(completion("Bye")), CHAT, idempotency="k")
    assert verified(kit, again).claims.rid == again.headers["x-request-id"] != first.headers["x-request-id"]
    assert kit.used()["r"] == len(kit.records()) == 2
    assert verified(kit, call(kit, whole(completion()), CHAT, idempotency="k")).token == verified(kit, first).token


def test_a_streamed_retry_that_is_answered_otherwise_is_withheld(kit: Kit) -> None:
    """Its head has told the first request id."""
    call(kit, streamed(*chunks()), CHAT, idempotency="k")
    again = call(kit, streamed(*chunks("Bye")), CHAT, idempotency="k")
    assert b"tos_seal_conflict" in again.body
    with pytest.raises(IncompleteError):
        verified(kit, again)


def test_a_failure_is_not_kept_for_a_retry(kit: Kit) -> None:
    """A handler that failed may be asked once more with the same key."""
    failed = call(kit, whole(b'{"error":{}}', status=500), CHAT, idempotency="k")
    again = call(kit, whole(completion()), CHAT, idempotency="k")
    assert verified(kit, again).claims.rid != failed.headers["x-request-id"]
    assert verified(kit, call(kit, whole(completion()), CHAT, idempotency="k")).token == verified(kit, again).token


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("same", [True, False])
def test_two_in_flight_with_one_key_are_charged_once_where_they_are_the_same(kit: Kit, stream: bool, same: bool) -> None:
    """Neither leaves unsealed. Whole, both have one token; streams have told their own request ids before either had ended."""
    waiting = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = len(arrived)
        arrived.append(number)
        if number == 0:
            await waiting.wait()
        else:
            waiting.set()
        text = "Hello" if same else f"Hello {number}"
        await (streamed(*chunks(text)) if stream else whole(completion(text)))(scope, receive, send)

    arrived: list[int] = []
    guarded = kit.wrap(app)

    async def both() -> list[Answer]:
        sent = b'{"model":"small","messages":[]}'
        return await asyncio.gather(*(ask(guarded, CHAT, key=kit.key, body=sent, headers=[(b"idempotency-key", b"k")]) for _ in range(2)))

    answers = asyncio.run(both())
    tokens = {verified(kit, answer).token for answer in answers}
    assert len(tokens) == (1 if same and not stream else 2)
    assert kit.used()["r"] == (1 if same else 2)
    assert kit.used()["c"] == 0


def test_a_key_is_new_after_a_day(kit: Kit) -> None:
    """Then another request may use it."""
    call(kit, whole(completion()), CHAT, idempotency="k")
    kit.clock.advance(timedelta(days=1))
    assert call(kit, whole(completion()), CHAT, sent=b'{"model":"small","messages":[3]}', idempotency="k").status == 200


def test_the_retry_of_a_background_request_is_of_the_same_response(kit: Kit) -> None:
    """Pending while it runs, final once it has ended, under one request id; charged once."""
    first = call(kit, whole(body("", "queued")), sent=BACKGROUND, idempotency="k")
    running = call(kit, whole(body("", "in_progress")), sent=BACKGROUND, idempotency="k")
    ended = call(kit, whole(body()), sent=BACKGROUND, idempotency="k")
    assert verified(kit, ended).claims.rid == running.headers["x-request-id"] == first.headers["x-request-id"]
    assert verified(kit, get(kit, whole(body()))).token == verified(kit, ended).token
    assert kit.used() == {"r": 1, "t": 5, "c": 0}


def jobs(kit: Kit, *ids: str, sent: bytes = BACKGROUND, path: str = RESPONSES) -> list[Answer]:
    """Background requests under one key, which a handler answers with responses of these ids."""
    return [call(kit, whole(body("", "queued", response_id)), path, sent=sent, idempotency="k") for response_id in ids]


def test_jobs_under_one_key_are_each_their_own(kit: Kit) -> None:
    """Where the handler replays nothing it made four: each is charged, kept, and had again by its owner under its own request id."""
    ids = [f"resp_{number}" for number in range(4)]
    answers = jobs(kit, *ids)
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4
    assert (kit.used()["r"], kit.used()["c"], kit.guard.counts["seal:opened"]) == (4, 0, 4)
    for number, (response_id, answer) in enumerate(zip(ids, answers, strict=True)):
        ended = get(kit, whole(body(f"Job {number}", response_id=response_id)), f"{RESPONSES}/{response_id}")
        assert verified(kit, ended).claims.rid == answer.headers["x-request-id"]
    assert kit.used() == {"r": 4, "t": 20, "c": 0}
    assert len(kit.records()) == 4
    assert get(kit, whole(body()), f"{RESPONSES}/resp_3", key=another_account(kit)).status == 404


def test_a_job_that_is_replayed_is_charged_once(kit: Kit) -> None:
    """Four answers with one response, before and after somebody found it ended, are of one exchange."""
    answers = jobs(kit, *["resp_1"] * 4)
    ended = get(kit, whole(body()))
    answers += jobs(kit, "resp_1")
    assert {answer.headers["x-request-id"] for answer in answers} == {ended.headers["x-request-id"]}
    assert verified(kit, get(kit, whole(body()))).token == verified(kit, ended).token
    assert kit.used() == {"r": 1, "t": 5, "c": 0}
    assert len(kit.records()) == 1


def test_jobs_in_flight_under_one_key_are_each_their_own(kit: Kit) -> None:
    """None knew of another when it began; those with one response are one."""
    ids = ["resp_1", "resp_2", "resp_1"]
    made = iter(ids)
    together = asyncio.Barrier(len(ids))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await together.wait()
        await whole(body("", "queued", next(made)))(scope, receive, send)

    async def all_at_once() -> list[Answer]:
        guarded, headers = kit.wrap(app), [(b"idempotency-key", b"k")]
        calls = (ask(guarded, RESPONSES, key=kit.key, body=BACKGROUND, headers=headers) for _ in ids)
        return await asyncio.wait_for(asyncio.gather(*calls), 20)

    assert len({answer.headers["x-request-id"] for answer in asyncio.run(all_at_once())}) == 2
    for response_id in ("resp_1", "resp_2"):
        assert get(kit, whole(body(response_id=response_id)), f"{RESPONSES}/{response_id}").status == 200
    assert kit.used() == {"r": 2, "t": 10, "c": 0}


def test_a_job_under_the_key_of_what_has_ended_is_its_own(kit: Kit) -> None:
    """What ended at once under the key is another response."""
    done = call(kit, whole(body()), sent=BACKGROUND, idempotency="k")
    (job,) = jobs(kit, "resp_2")
    ended = get(kit, whole(body(response_id="resp_2")), f"{RESPONSES}/resp_2")
    assert verified(kit, ended).claims.rid == job.headers["x-request-id"] != done.headers["x-request-id"]
    assert kit.used() == {"r": 2, "t": 10, "c": 0}


def test_a_job_streamed_under_a_key_of_another_can_be_had_when_its_reader_has_left(kit: Kit) -> None:
    """It runs on, and is its owner's."""
    sent = b'{"model":"small","input":"hi","background":true,"stream":true}'
    jobs(kit, "resp_1", sent=sent)
    call(kit, streamed(*events(response_id="resp_2")), sent=sent, idempotency="k", leave_after=2, send_error=True)
    ended = get(kit, whole(body(response_id="resp_2")), f"{RESPONSES}/resp_2")
    assert verified(kit, ended).claims.completion == "complete"
    assert kit.used()["r"] == 2
    assert kit.used()["c"] == 0


# Slots of what runs on


@pytest.mark.parametrize("said", ["1", '"true"', '"yes"', "[]"])
def test_what_a_lenient_server_takes_for_the_background_holds_no_slot(kit: Kit, said: str) -> None:
    """Its slot is free at once, and it can be settled as long as any other."""
    call(kit, whole(body("", "queued")), sent=b'{"model":"small","input":"hi","background":%s}' % said.encode())
    assert kit.used()["c"] == 0
    kit.clock.advance(timedelta(minutes=30))
    get(kit, whole(body()))
    assert kit.used() == {"r": 1, "t": 5, "c": 0}


@pytest.mark.parametrize("said", ["", ',"background":false', ',"background":null'])
def test_what_runs_on_unasked_holds_its_slot_no_longer_than_a_lease(kit: Kit, said: str) -> None:
    """Nothing renews it once its first answer has left; it was held for ever."""
    call(kit, whole(body("", "queued")), sent=b'{"model":"small","input":"hi"%s}' % said.encode())
    leases = kit.guard._leases
    assert leases is not None
    for _ in range(3):
        kit.clock.advance(LEASE * 0.4)
        leases.renew()
    estimated = kit.used()
    assert (estimated["r"], estimated["c"]) == (1, 0)
    assert verified(kit, get(kit, whole(body()))).claims.completion == "complete"
    assert kit.used() == estimated


class NoSlots(MemoryLimits):
    """An engine that is lost between the two reservations of a background request."""

    def reserve(self, charges: Sequence[Charge], *, id: str, lease: timedelta) -> Reservation | LimitRefusal:  # noqa: A002 - as in the Protocol
        if any(charge.limit.window is None for charge in charges):
            raise StoreError("lost", where="limits")
        return super().reserve(charges, id=id, lease=lease)


def test_a_background_request_whose_slot_cannot_be_asked_for_is_charged_nothing(kit: Kit) -> None:
    """The handler is not asked: what else was taken for it is given back."""
    engine = NoSlots(clock=kit.clock, monotonic=lambda: kit.clock().timestamp())
    broken = Kit(settings={"routes": ROUTES}, limits=kit.limits, clock=kit.clock, engine=engine)
    assert call(broken, whole(body("", "queued")), sent=BACKGROUND).status == 503
    assert broken.used() == {"r": 0, "t": 0, "c": 0}


# What keeps nothing


class OnlyRecords:
    """A host's own store of records, which keeps no seals."""

    def __init__(self, store: Any) -> None:
        for name in ("append", "count_denial", "by_request_id", "by_token_id", "of_account", "erase_account", "purge", "close"):
            setattr(self, name, getattr(store, name))


def test_a_guard_that_keeps_no_seals_refuses_idempotent_routes(kit: Kit) -> None:
    """A promise that nothing can keep is refused at the start."""
    with pytest.raises(ConfigurationError, match="idempotent"):
        Kit(settings={"routes": ROUTES}, overrides={"records": OnlyRecords(kit.store)})


def test_a_guard_that_keeps_no_seals_serves_what_it_can(kit: Kit) -> None:
    """Responses are sealed as they leave; none can be had again."""
    routes = {
        path: {"dialect": RouteSettings.model_validate(it if isinstance(it, dict) else {"dialect": it}).dialect}
        for path, it in ROUTES.items()
    }
    bare = Kit(settings={"routes": routes}, overrides={"records": OnlyRecords(kit.store)})
    assert isinstance(bare.guard, AsyncGuard)
    assert bare.guard.seals is None
    answer = call(bare, whole(body("", "queued")), sent=BACKGROUND)
    assert verified(bare, answer).claims.completion == "complete"
    assert get(bare, whole(body())).status == 404
    bare.guard.purge()


@pytest.mark.parametrize("exchange", [{}, {"facts": {"action": "generate"}}, {"facts": {"action": "generate", "model": "small"}}])
def test_a_kept_seal_that_is_damaged_is_a_failure_of_the_store(kit: Kit, exchange: dict[str, Any]) -> None:
    """Whoever changes the file gets no crash; the handler is not asked."""
    call(kit, whole(body()))
    (seal,) = kit.store.kept_of("acme")
    kit.store.keep([replace(seal, rid="req_else", exchange=exchange)]).result(30)
    assert get(kit, whole(body())).status == 503


@pytest.mark.parametrize("fault", ["before", "after"])
def test_no_content_leaves_where_its_seal_cannot_be_kept(kit: Kit, fault: Any) -> None:
    """As where the record cannot: a refusal, and no token."""
    kit.store.fault = fault
    answer = call(kit, whole(body()))
    assert answer.status == 503
    assert b"Hello" not in answer.body


def test_a_response_too_large_to_wait_for_cannot_be_had_again(kit: Kit) -> None:
    """As docs/guides/stored.md says. Its token can, by its request id; as a stream it is had again like any other."""
    large = "x" * (16 * 1024 * 1024)
    first = call(kit, whole(body(large)))
    assert first.status == 200
    assert verified_beside(kit, first).claims.completion == "complete"
    assert get(kit, whole(body(large))).status == 404
    chunked = [large[at : at + 1_000_000] for at in range(0, len(large), 1_000_000)]
    said = [{"type": "response.created", "response": response("", "in_progress", "resp_2")}]
    said += [
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "m1", "delta": each} for each in chunked
    ]
    ends = {**response("", "completed", "resp_2"), "usage": USAGE}
    said += [{"type": "response.completed", "response": ends}]
    stream = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in said]
    sent = b'{"model":"small","input":"hi","stream":true}'
    streamed_first, again = call(kit, streamed(*stream), sent=sent), get(kit, streamed(*stream), "/v1/responses/resp_2")
    assert verified(kit, streamed_first).token == verified(kit, again).token


# A store that fails, and may have kept it all the same


@contextmanager
def keeping_fails(kit: Kit, monkeypatch: pytest.MonkeyPatch, how: str) -> Iterator[list[Callable[[], object]]]:
    """What is kept meanwhile is ``lost``; or ``kept``, and the answer lost; or ``late``: it comes with a call of what is given."""
    keep, later = kit.store.keep, []

    def failing(*given: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        if how == "kept":
            keep(*given).result(30)
        if how == "late":
            later.append(lambda: keep(*given).result(30))
        else:
            answer.set_exception(StoreError("down", where="memory"))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(kit.store, "keep", failing)
        patch.setattr("tos_guard.guard._colours._SEAL_SECONDS", 0.1)
        yield later


@contextmanager
def looking_fails(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def kept(*_: Any) -> None:
        raise StoreError("down", where="memory")

    with monkeypatch.context() as patch:
        patch.setattr(kit.store, "kept", kept)
        yield


def check_sealed(kit: Kit, answer: Answer) -> None:
    """It leaves with a final token that has its record, and was charged what it says, once."""
    assert answer.status == 200
    claims = verified(kit, answer).claims
    record = kit.store.by_token_id(ISSUER, claims.jti)
    assert record is not None
    assert (record.rid, record.unsealed) == (claims.rid, None)
    assert kit.used() == {"r": 1, "t": 5, "c": 0}


def test_a_background_request_that_was_kept_after_all_is_open(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    with keeping_fails(kit, monkeypatch, "kept"):
        answer = call(kit, whole(body("", "queued")), sent=BACKGROUND)
    assert answer.status == 200
    check_sealed(kit, get(kit, whole(body())))


def test_a_background_request_that_was_not_kept_costs_nothing(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    with keeping_fails(kit, monkeypatch, "lost"):
        assert call(kit, whole(body("", "queued")), sent=BACKGROUND).status == 503
    assert get(kit, whole(body())).status == 404
    assert kit.used() == {"r": 1, "t": 0, "c": 0}
    assert [record.unsealed for record in kit.records()] == ["store"]


@pytest.mark.parametrize("how", ["late", "kept"])
def test_a_background_request_of_which_nobody_knows_is_sealed_by_who_finds_it(kit: Kit, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The record that says it failed gives way to that of the token. Until then it costs its estimate, since it may be had."""
    with keeping_fails(kit, monkeypatch, how) as later, looking_fails(kit, monkeypatch):
        assert call(kit, whole(body("", "queued")), sent=BACKGROUND).status == 503
    assert [record.unsealed for record in kit.records()] == ["store"]
    for keep in later:
        keep()
    assert kit.used()["t"] > 5
    check_sealed(kit, get(kit, whole(body())))
    assert len(kit.records()) == 1


def test_a_background_request_that_becomes_durable_late_is_sealed_by_who_finds_it(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is looked for it is not there yet."""
    with keeping_fails(kit, monkeypatch, "late") as (later):
        assert call(kit, whole(body("", "queued")), sent=BACKGROUND).status == 503
    for keep in later:
        keep()
    check_sealed(kit, get(kit, whole(body())))


@pytest.mark.parametrize("how", ["lost", "late", "kept"])
@pytest.mark.parametrize("ended", [whole(body()), streamed(*events())], ids=["whole", "stream"])
def test_a_response_whose_end_was_kept_or_not_is_settled_once(kit: Kit, monkeypatch: pytest.MonkeyPatch, how: str, ended: App) -> None:
    call(kit, whole(body("", "queued")), sent=BACKGROUND)
    with keeping_fails(kit, monkeypatch, how) as later:
        answer = get(kit, ended)
        assert answer.status == 503 or b"tos_unavailable" in answer.body
    for keep in later:
        keep()
    assert kit.used() == {"r": 1, "t": 5, "c": 0}
    check_sealed(kit, get(kit, ended))


@pytest.mark.parametrize(("how", "known"), [("lost", True), ("lost", False), ("late", True), ("kept", False)])
def test_a_background_stream_that_nobody_could_keep_open_has_a_record(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, how: str, known: bool
) -> None:
    sent = b'{"model":"small","input":"hi","background":true,"stream":true}'
    with keeping_fails(kit, monkeypatch, how) as later:
        if known:
            call(kit, streamed(*events()), sent=sent, leave_after=2, send_error=True)
        else:
            with looking_fails(kit, monkeypatch):
                call(kit, streamed(*events()), sent=sent, leave_after=2, send_error=True)
    assert [(record.unsealed, record.completion) for record in kit.records()] == [("client_gone", "aborted")]
    assert kit.used()["c"] == 0
    for keep in later:
        keep()
    if how == "lost":
        assert get(kit, streamed(*events())).status == 404
    else:
        check_sealed(kit, get(kit, streamed(*events())))
        assert len(kit.records()) == 1


def test_a_background_stream_that_was_kept_open_after_all_has_one_record(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = b'{"model":"small","input":"hi","background":true,"stream":true}'
    with keeping_fails(kit, monkeypatch, "kept"):
        call(kit, streamed(*events()), sent=sent, leave_after=2, send_error=True)
    assert kit.records() == []
    check_sealed(kit, get(kit, streamed(*events())))


@pytest.mark.parametrize("comes_of_it", ["failure", "another", "kept"])
def test_a_task_that_is_cancelled_while_it_keeps_a_stream_open_leaves_a_record(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, comes_of_it: str
) -> None:
    """The server has no patience with a task whose client left; the record is kept in place of the seals when they turn out not to be."""
    pending: Future[Any] = Future()
    call(kit, whole(body("", "queued")), sent=BACKGROUND)
    (another,) = kit.store.kept_of("acme")

    async def leave() -> None:
        asked = asyncio.Event()

        def keep(*_: Any) -> Future[Any]:
            asked.set()
            return pending

        monkeypatch.setattr(kit.store, "keep", keep)
        sent = b'{"model":"small","input":"hi","background":true,"stream":true}'
        app = kit.wrap(streamed(*events(response_id="resp_2")))
        task = asyncio.create_task(ask(app, RESPONSES, key=kit.key, body=sent, leave_after=2, send_error=True))
        await asyncio.wait_for(asked.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert kit.used()["c"] == 0
    assert kit.records() == []
    if comes_of_it == "failure":
        pending.set_exception(StoreError("down", where="memory"))
    else:
        pending.set_result(another if comes_of_it == "another" else None)
    assert [record.unsealed for record in kit.records()] == ([] if comes_of_it == "kept" else ["client_gone"])


def test_a_poll_that_is_cancelled_while_it_seals_settles_what_it_has_found_ended(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one repeats its token, and settles nothing."""
    call(kit, whole(body("", "queued")), sent=BACKGROUND)
    keep = kit.store.keep

    async def leave() -> None:
        asked = asyncio.Event()

        def keeping(*given: Any) -> Future[Any]:
            keep(*given).result(30)
            asked.set()
            return Future()

        with monkeypatch.context() as patch:
            patch.setattr(kit.store, "keep", keeping)
            task = asyncio.create_task(ask(kit.wrap(whole(body())), STORED, key=kit.key, method="GET", body=b""))
            await asyncio.wait_for(asked.wait(), 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(leave())
    check_sealed(kit, get(kit, whole(body())))
