"""What the ASGI guard promises, whatever the app, the client or our own parts do."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import timedelta
from typing import Any

import pytest

from kit import CHAT, ISSUER, REQUEST, Answer, Kit, ask, streamed, whole
from tos_guard._content_digest import check_content_digest
from tos_guard.errors import AbsentError, IncompleteError, PolicyStop
from tos_guard.guard import Meter, utc_now
from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.provenance import parse_token
from tos_guard.rights import Grant
from tos_guard.stores import MemoryLimits
from tos_guard.types import Completion, Standing
from tos_guard.verify import Expected, StreamVerifier, Verified, verify_body, verify_stream

COMPLETION = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "model": "small",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    }
).encode()


def chunk(text: str | None = None, *, index: int = 0, finish: str | None = None, **extra: Any) -> bytes:
    """One event of a chat stream."""
    delta = {} if text is None else {"content": text}
    event = {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": index, "delta": delta, "finish_reason": finish}], **extra}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


USAGE = b'data: {"id":"c1","choices":[],"usage":{"total_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = (chunk("Hel"), chunk("lo."), chunk(finish="stop"), USAGE, DONE)


def records(kit: Kit) -> list[ExchangeRecord]:
    """The records of the account, durable ones."""
    kit.store.flush()
    return list(kit.store.of_account(ISSUER, "acme"))


def proven(kit: Kit, answer: Answer) -> Verified:
    """What a caller can prove of an answer."""
    expected = Expected(request=REQUEST, salt=answer.headers["ai-provenance-salt"])
    given: dict[str, Any] = {"trust": kit.trust, "now": kit.clock(), "expected": expected, "token": answer.headers["ai-provenance"]}
    if answer.headers["content-type"].startswith("text/event-stream"):
        return verify_stream(answer.body, **given)
    return verify_body(answer.body, content_digest=answer.headers.get("content-digest"), **given)


# JSON


async def test_a_json_answer_carries_its_final_token_in_header_and_body() -> None:
    """The token is where DESIGN §7 says, the text is untouched, and the record is durable and says the same."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(COMPLETION)), key=kit.key)
    body = json.loads(answer.body)
    assert answer.status == 200
    assert body.pop("ai_provenance") == {"token": answer.headers["ai-provenance"]}
    assert body == json.loads(COMPLETION)
    verified = proven(kit, answer)
    assert verified.request_checked
    assert answer.headers["x-request-id"] == answer.headers["request-id"] == verified.claims.rid
    assert answer.headers["content-usage"] == "train-ai=n, ai-use=y" == verified.claims.usage.content_usage
    assert check_content_digest(answer.headers["content-digest"], answer.body) == 1
    (record,) = records(kit)
    assert (record.jti, record.root, record.kid) == (verified.claims.jti, verified.claims.content.root, verified.kid)  # type: ignore[union-attr]
    assert (record.carrier, record.completion, record.unsealed) == ("json", "complete", None)


async def test_only_the_tag_is_added_to_the_bytes_of_a_json_body() -> None:
    """White space, member order and number spelling of the app's bytes stay as they are."""
    kit = Kit()
    body = b'{ "b" : 1.50, "choices":[{"index":0,"message":{"content":"x"}}] ,\n "a":[ ] }  '
    answer = await ask(kit.wrap(whole(body)), key=kit.key)
    start, _, _ = answer.body.partition(b',"ai_provenance"')
    assert body.startswith(start)
    assert answer.body.endswith(b"}  ")
    proven(kit, answer)


@pytest.mark.parametrize(
    "body",
    [b"[1, 2]", b'"text"', b"3.5", b'{"a":1,"a":2}', b'{"x":NaN}', b"not json", b"", b'{"a":"\\ud800"}', b"{}", b'{"choices":7}'],
    ids=lambda body: body.decode()[:16] or "empty",
)
async def test_any_json_body_can_be_proven(body: bytes) -> None:
    """Whatever a JSON route answers, strict JSON or not, is sealed and verifies."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(body)), key=kit.key)
    assert proven(kit, answer).claims.completion is Completion.COMPLETE


async def test_a_strong_etag_becomes_weak_with_a_tag_in_the_body() -> None:
    """The bytes are others than the app named, the meaning is not."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(COMPLETION, headers=[(b"etag", b'"v1"')])), key=kit.key)
    assert answer.headers["etag"] == 'W/"v1"'


async def test_a_large_body_is_sealed_like_a_small_one() -> None:
    """It is read in a thread, so that nobody else waits for it."""
    kit = Kit()
    message = {"role": "assistant", "content": "word " * 200_000}
    large = json.dumps({"choices": [{"index": 0, "message": message}]}).encode()
    assert proven(kit, await ask(kit.wrap(whole(large)), key=kit.key)).claims.completion is Completion.COMPLETE


async def test_an_upstream_tag_is_removed_and_counted() -> None:
    """An app, or a model behind it, cannot smuggle a tag of its own into an answer."""
    kit = Kit()
    forged = json.dumps({**json.loads(COMPLETION), "ai_provenance": {"token": "forged"}}).encode()
    answer = await ask(kit.wrap(whole(forged, headers=[(b"ai-provenance", b"forged"), (b"x-request-id", b"theirs")])), key=kit.key)
    assert b"forged" not in answer.body
    assert answer.headers["ai-provenance"] != "forged"
    proven(kit, answer)
    assert kit.guard.counts["removed_tags"] == 1


async def test_a_number_beside_a_foreign_tag_is_never_rewritten() -> None:
    """1e400 has no Python float; such a body once went out as ``Infinity``. The tag goes, and every other byte stays."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(b'{"n":1e400, "ai_provenance":{"token":"forged"} }')), key=kit.key)
    assert answer.body == b'{"n":1e400 }'
    assert proven(kit, answer).claims.content is not None
    assert kit.guard.counts["removed_tags"] == 1


async def test_an_error_of_the_app_is_sealed_as_an_error() -> None:
    """An error body is the provider's statement too."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(b'{"error":{"message":"overloaded"}}', status=503)), key=kit.key)
    assert answer.status == 503
    assert proven(kit, answer).claims.completion is Completion.ERROR


async def test_a_text_answer_carries_its_token_in_the_header() -> None:
    """Bytes without a place for a member are covered as bytes."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(b"plain words", media_type=b"text/plain")), key=kit.key)
    assert answer.body == b"plain words"
    assert proven(kit, answer).claims.content.projection == "bytes-1"  # type: ignore[union-attr]
    (record,) = records(kit)
    assert record.carrier == "header"


async def test_an_encoded_body_passes_untouched_and_is_counted() -> None:
    """A body that the app compressed cannot be sealed; it goes out with a pending token only, and nobody calls it valid."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(b"\x1f\x8bzip", headers=[(b"content-encoding", b"gzip")])), key=kit.key)
    assert answer.body == b"\x1f\x8bzip"
    with pytest.raises(IncompleteError):
        verify_body(COMPLETION, trust=kit.trust, now=kit.clock(), token=answer.headers["ai-provenance"])
    assert kit.guard.counts["unsealed:encoded"] == 1


@pytest.mark.parametrize("field", [b"X-Accel-Redirect", b"x-sendfile"])
@pytest.mark.parametrize("media_type", [b"application/json", b"image/png", b"text/event-stream"])
async def test_what_the_server_in_front_sends_is_not_sealed_as_nothing(field: bytes, media_type: bytes) -> None:
    """What passes here is not what the client gets: a final token over it would call the file altered, and its record complete."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(b"", media_type=media_type, headers=[(field, b"/kept/a.png")])), key=kit.key)
    assert answer.headers[field.decode().lower()] == "/kept/a.png"
    assert "content-digest" not in answer.headers
    with pytest.raises(IncompleteError):
        verify_body(b"a file", trust=kit.trust, now=kit.clock(), token=answer.headers["ai-provenance"])
    assert [(record.jti, record.unsealed) for record in records(kit)] == [(None, "by_proxy")]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 204), ("GET", 304)])
async def test_an_answer_without_a_body_gets_none(method: str, status: int) -> None:
    """No member, no length, no digest is invented where there is no body."""
    kit = Kit()
    app = whole(b"", status=status)
    answer = await ask(kit.wrap(app), "/v1/models", key=kit.key, method=method, body=b"")
    assert (answer.status, answer.body) == (status, b"")
    assert "content-digest" not in answer.headers
    assert kit.guard.counts["unsealed:no_body"] == 1


# Streams


async def test_a_stream_carries_its_token_on_the_last_chunk_with_a_finish_reason() -> None:
    """All other events pass byte for byte, in order."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(*STREAM)), key=kit.key)
    verified = proven(kit, answer)
    assert verified.notes == ()
    events = answer.body.split(b"\n\n")
    assert [event + b"\n\n" for position, event in enumerate(events[:-1]) if position != 2] == [STREAM[0], STREAM[1], USAGE, DONE]
    tagged = json.loads(events[2].removeprefix(b"data: "))
    assert tagged.pop("ai_provenance")["token"] == verified.token
    assert b"data: " + json.dumps(tagged).encode() + b"\n\n" == STREAM[2]
    (record,) = records(kit)
    assert (record.carrier, record.jti) == ("sse", verified.claims.jti)


async def test_each_chunk_leaves_before_the_next_is_made() -> None:
    """The guard adds no wait: the client holds chunk n when the app makes chunk n + 1."""
    kit = Kit()
    seen: list[int] = []
    answer = Answer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for part in STREAM:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            seen.append(len(answer.body))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            answer.chunks.append(message["body"])

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"authorization", b"Bearer " + kit.key.encode())]}
    messages = [{"type": "http.request", "body": REQUEST}]

    async def receive() -> Any:
        return messages.pop()

    await kit.wrap(app)(scope, receive, send)
    assert seen[:2] == [len(STREAM[0]), len(STREAM[0] + STREAM[1])]
    assert seen[2] == seen[1], "only the chunk that may carry the seal waits"
    assert seen[3] > seen[2]


async def test_a_stream_cut_anywhere_is_not_valid() -> None:
    """Official clients accept a stream cut short in silence; the seal does not."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(*STREAM)), key=kit.key)
    end = answer.body.index(b"\n\n", answer.body.index(b"ai_provenance")) + 2
    for size in range(len(answer.body)):
        verifier = StreamVerifier(trust=kit.trust, now=kit.clock(), token=answer.headers["ai-provenance"])
        verifier.feed(answer.body[:size])
        if size < end:
            with pytest.raises(IncompleteError):
                verifier.finish()
        else:
            assert ("terminator: missing" in verifier.finish().notes) == (size < len(answer.body))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
async def test_the_apps_chunking_changes_nothing(size: int) -> None:
    """Events cut across ASGI messages are put together before they are judged."""
    kit = Kit()
    data = b"".join(STREAM)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    answer = await ask(kit.wrap(streamed(*pieces)), key=kit.key)
    assert proven(kit, answer).claims.content == proven(kit, await ask(kit.wrap(streamed(*STREAM)), key=kit.key)).claims.content


async def test_fewer_choices_than_asked_for_are_sealed_at_the_end() -> None:
    """The seal does not wait for choices that never come."""
    kit = Kit()
    body = REQUEST[:-1] + b',"n":3}'
    parts = (chunk("a", index=0), chunk("b", index=2), chunk(finish="stop", index=0), chunk("c", index=2), chunk(finish="stop", index=2))
    answer = await ask(kit.wrap(streamed(*parts)), key=kit.key, body=body)
    verified = verify_stream(answer.body, trust=kit.trust, now=kit.clock())
    assert [leaf[0] for leaf in verified.claims.content.leaves or ()] == [0, 2]  # type: ignore[union-attr]
    assert verified.notes == ("terminator: missing",)


async def test_a_handler_that_raises_mid_stream_ends_with_a_sealed_error() -> None:
    """The client sees an error event that proves what was sent before it; the server still sees the exception."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(STREAM[0], RuntimeError("boom"))), key=kit.key)
    assert isinstance(answer.error, RuntimeError)
    verified = proven(kit, answer)
    assert verified.claims.completion is Completion.ERROR
    assert b"boom" not in answer.body
    assert b'"code": "tos_handler_error"' in answer.body
    (record,) = records(kit)
    assert record.completion == "error"


@pytest.mark.parametrize("wrap", [lambda stop: stop, lambda stop: ExceptionGroup("group", [stop])], ids=["plain", "in a group"])
async def test_a_policy_stop_ends_the_stream_in_band(wrap: Any) -> None:
    """The host stops a response by a clause; the client learns which, and the token says so."""
    kit = Kit()
    stop = wrap(PolicyStop("Stopped by policy", clause="no-weapons"))
    answer = await ask(kit.wrap(streamed(STREAM[0], STREAM[1], stop)), key=kit.key)
    assert answer.error is None
    assert answer.ended
    verified = proven(kit, answer)
    assert verified.claims.completion is Completion.POLICY
    assert b'"clause": "no-weapons"' in answer.body


async def test_an_error_event_of_the_app_carries_the_token() -> None:
    """The last thing that bears content is sealed, and it is the error."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(STREAM[0], b'data: {"error":{"message":"overloaded"}}\n\n')), key=kit.key)
    assert proven(kit, answer).claims.completion is Completion.ERROR


@pytest.mark.parametrize("send_error", [False, True], ids=["cancelled or told", "send raises"])
async def test_a_client_that_leaves_leaves_a_record(send_error: bool) -> None:
    """Nothing was sealed, and the record says why."""
    kit = Kit()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": STREAM[0], "more_body": True})
        if send_error:
            await send({"type": "http.response.body", "body": STREAM[1], "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    await ask(kit.wrap(app), key=kit.key, leave_after=1, send_error=send_error)
    (record,) = records(kit)
    assert (record.unsealed, record.jti, record.completion) == ("client_gone", None, "aborted")
    assert kit.guard.counts["unsealed:client_gone"] == 1


async def test_what_an_app_raises_because_its_client_left_is_no_failure_of_its_own() -> None:
    """An app that is told so and raises was left: nothing is sealed as an error, nor is what it took given back as if it had failed."""
    limit = Limit(id="daily", quantity=Quantity.TOKENS, amount=10_000, per=(Dimension.ACCOUNT,), window=Sliding(86_400))
    kit = Kit(limits=[limit])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, send
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        raise RuntimeError("nobody is there")

    async def leave(message: Any) -> None:
        del message

    left = iter([{"type": "http.request", "body": REQUEST}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(left)

    headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {kit.key}".encode())]
    scope: Any = {"type": "http", "method": "POST", "path": CHAT, "headers": headers}
    with pytest.raises(RuntimeError, match="nobody is there"):
        await kit.wrap(app)(scope, receive, leave)
    assert [(record.unsealed, record.completion) for record in records(kit)] == [("client_gone", "aborted")]
    assert kit.used()["daily"] > 0


@pytest.mark.parametrize("media_type", [b"application/x-ndjson", b"application/octet-stream"])
async def test_what_an_app_cuts_short_for_a_client_that_left_is_not_sealed_as_whole(media_type: bytes) -> None:
    """It asks whether anybody reads on (`request.is_disconnected`), and ends the body: no token may call half an answer complete."""
    kit = Kit(settings={"routes": {"/lines": {"dialect": "ndjson", "model": "small"}}})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})
        await send({"type": "http.response.body", "body": b'{"word":"Do"}\n', "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    await ask(kit.wrap(app), "/lines", key=kit.key, leave_after=1)
    assert [(record.jti, record.unsealed, record.completion) for record in records(kit)] == [(None, "client_gone", "aborted")]


async def test_a_cancelled_exchange_is_recorded() -> None:
    """Servers of ASGI 2.3 cancel the app when the client leaves."""
    kit = Kit()
    started = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": STREAM[0], "more_body": True})
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(kit.wrap(app), key=kit.key))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = records(kit)
    assert record.unsealed == "client_gone"


class SlowLimits(MemoryLimits):
    """An engine that reserves in a thread of the guard's, and only when it is told to."""

    blocks = True

    def __init__(self) -> None:
        super().__init__(clock=utc_now)
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.cancelled = threading.Event()

    def reserve(self, charges: Any, *, id: str, lease: timedelta) -> Any:  # noqa: A002 - as the Protocol names it
        self.asked.set()
        assert self.go_on.wait(30)
        return super().reserve(charges, id=id, lease=lease)

    def cancel(self, reservation: Any) -> None:
        super().cancel(reservation)
        self.cancelled.set()


async def test_what_is_reserved_for_a_client_that_has_left_meanwhile_is_given_back() -> None:
    """Nobody is left who would settle it: the slot would be taken until its lease ends, and the tokens until the window does."""
    engine = SlowLimits()
    limit = Limit(id="daily", quantity=Quantity.REQUESTS, amount=1, per=(Dimension.ACCOUNT,), window=Sliding(86_400))
    kit = Kit(overrides={"limits": engine, "meter": Meter([limit])})
    left = asyncio.create_task(ask(kit.wrap(whole(COMPLETION)), key=kit.key))
    assert await asyncio.to_thread(engine.asked.wait, 30)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    engine.go_on.set()
    assert await asyncio.to_thread(engine.cancelled.wait, 30)
    assert (await ask(kit.wrap(whole(COMPLETION)), key=kit.key)).status == 200  # the one request of the day is there again
    assert kit.guard.counts["reservation:cancelled"] == 1


async def test_an_app_cannot_begin_again_what_is_under_way() -> None:
    """A second head mid-stream, as of error handling that does not look: the app is told, and the stream ends as one that failed."""
    kit = Kit()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": STREAM[0], "more_body": True})
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"error":"late"}'})

    answer = await ask(kit.wrap(app), key=kit.key)
    assert isinstance(answer.error, RuntimeError)
    assert proven(kit, answer).claims.completion is Completion.ERROR
    assert b"late" not in answer.body
    assert [record.status for record in records(kit)] == [200]


async def test_a_handler_whose_own_upstream_broke_is_no_client_that_left() -> None:
    """`ConnectionError` is an ``OSError`` too; only the server's send says that the client is gone."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(STREAM[0], ConnectionResetError("the model server died"))), key=kit.key)
    assert isinstance(answer.error, ConnectionResetError)
    assert proven(kit, answer).claims.completion is Completion.ERROR
    assert kit.guard.counts["unsealed:client_gone"] == 0


async def test_a_handler_that_raises_before_it_answers_leaves_a_record() -> None:
    """The host's own error handling makes the answer; we only remember."""
    kit = Kit()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive, send
        raise RuntimeError("boom")

    answer = await ask(kit.wrap(app), key=kit.key)
    assert isinstance(answer.error, RuntimeError)
    (record,) = records(kit)
    assert record.unsealed == "handler_raised"


async def test_a_stream_without_any_finish_reason_is_counted_and_not_valid() -> None:
    """We add no chunk of our own; what cannot carry a seal is not called valid."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(STREAM[0], DONE)), key=kit.key)
    assert answer.body == STREAM[0] + DONE
    with pytest.raises(IncompleteError):
        proven(kit, answer)
    with pytest.raises(AbsentError):
        verify_stream(answer.body, trust=kit.trust, now=kit.clock())
    assert kit.guard.counts["unsealed:no_carrier"] == 1


async def test_content_after_the_seal_does_not_get_out() -> None:
    """What follows the usage chunk would be unproven, so it is dropped and counted."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(*STREAM[:4], chunk("late"), DONE)), key=kit.key)
    assert b"late" not in answer.body
    assert proven(kit, answer).notes == ()
    assert kit.guard.counts["dropped_events"] == 1


# Refusals


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer tg-000000000000-" + b"A" * 43)],
        [(b"authorization", b"Bearer nonsense")],
        [(b"authorization", b"Basic abc")],
        [(b"authorization", b"\xff\xfe")],
        [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")],
        [(b"x-api-key", b"tg-")],
    ],
    ids=["none", "unknown", "malformed", "other scheme", "bytes", "two", "cut"],
)
async def test_every_bad_credential_gets_the_same_answer(headers: list[tuple[bytes, bytes]]) -> None:
    """Nobody can learn from the answer whether a key exists."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(COMPLETION)), headers=headers)
    error = json.loads(answer.body)["error"]
    error.pop("request_id")
    assert answer.status == 401
    assert answer.headers["x-should-retry"] == "false"
    assert error == {
        "message": "The credential is missing or not accepted. Send a valid credential as 'Authorization: Bearer …'.",
        "type": "authentication_error",
        "param": None,
        "code": "tos_unauthenticated",
        "terms_url": kit.guard.terms.uri,
    }
    kit.store.flush()
    assert records(kit) == []
    assert [(code, count) for _, code, count in kit.store.denial_counts(ISSUER)] == [("tos_unauthenticated", 1)]


async def test_a_denied_request_never_reaches_the_app() -> None:
    """The refusal names code and terms in the dialect's shape, and is recorded without a token."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(AssertionError("the app was called"))), key=kit.key, body=REQUEST.replace(b"small", b"large"))
    assert answer.status == 403
    assert json.loads(answer.body)["error"]["code"] == "tos_model_not_allowed"
    assert "ai-provenance" not in answer.headers
    (record,) = records(kit)
    assert (record.type, record.decision, record.reasons, record.jti) == (RecordType.DENIAL, "deny", ("tos_model_not_allowed",), None)


async def test_a_suspension_is_obeyed_by_the_next_request() -> None:
    """Standing is part of the account's version, so no cache can miss it."""
    kit = Kit()
    guarded = kit.wrap(whole(COMPLETION))
    assert (await ask(guarded, key=kit.key)).status == 200
    kit.store.set_standing("acme", Standing.SUSPENDED, "test")
    answer = await ask(guarded, key=kit.key)
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (403, "tos_account_suspended")
    kit.store.set_standing("acme", Standing.GOOD, "appeal upheld")
    assert (await ask(guarded, key=kit.key)).status == 200


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"model":7}', b'{"a":1,"a":1}', b"\xff", b'{"model":"' + b"m" * 97 + b'"}', b"[" * 5000]
)
async def test_a_request_that_cannot_be_read_is_refused_with_a_cure(body: bytes) -> None:
    """No traceback, no call of the app, the dialect's error shape."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(AssertionError("the app was called"))), key=kit.key, body=body)
    assert (answer.status, answer.error) == (400, None)
    assert json.loads(answer.body)["error"]["code"] == "tos_malformed_request"


async def test_a_body_over_the_limit_is_refused() -> None:
    """Nobody fills our memory."""
    kit = Kit(settings={"max_request_bytes": 1024})
    answer = await ask(kit.wrap(whole(COMPLETION)), key=kit.key, body=b"x" * 1025)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"], error["type"]) == (413, "tos_request_too_large", "invalid_request_error")


async def test_a_path_that_nobody_named_is_refused() -> None:
    """A route that is neither guarded nor exempt is not a way around the guard."""
    kit = Kit()
    called = streamed(AssertionError("the app was called"))
    for path in ("/v1/other", "/v1/chat/completions/", "/V1/chat/completions", "//v1/chat/completions", "/healthz/../v1/chat/completions"):
        answer = await ask(kit.wrap(called), path, key=kit.key)
        assert (answer.status, json.loads(answer.body)["code"]) == (404, "tos_route_not_guarded")


async def test_an_exempt_path_passes_untouched() -> None:
    """Exempt by name, and nothing is added."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(b"ok", media_type=b"text/plain")), "/healthz")
    assert (answer.status, answer.body) == (200, b"ok")
    assert "ai-provenance" not in answer.headers


async def test_a_preflight_passes_and_our_fields_are_exposed_to_browsers() -> None:
    """A browser verifier can read what it needs."""
    kit = Kit()
    preflight = [(b"access-control-request-method", b"POST")]
    assert (await ask(kit.wrap(whole(b"", status=200)), method="OPTIONS", headers=preflight)).status == 200
    answer = await ask(kit.wrap(whole(COMPLETION, headers=[(b"access-control-allow-origin", b"*")])), key=kit.key)
    assert "AI-Provenance" in answer.headers["access-control-expose-headers"]


async def test_two_stacked_guards_of_one_issuer_seal_once() -> None:
    """The outer one does the work."""
    kit = Kit()
    answer = await ask(kit.wrap(kit.wrap(whole(COMPLETION))), key=kit.key)
    proven(kit, answer)
    assert len(records(kit)) == 1


async def test_a_websocket_that_comes_as_http_is_refused_too() -> None:
    """A server without WebSockets of its own leaves the upgrade to the app, which might know how."""
    kit = Kit()
    headers = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    answer = await ask(kit.wrap(whole(COMPLETION)), key=kit.key, method="GET", headers=headers)
    assert (answer.status, kit.guard.counts["denied:websocket"]) == (403, 1)


async def test_a_websocket_on_a_guarded_path_is_refused() -> None:
    """What cannot be sealed is not let through in silence."""
    kit = Kit()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await kit.wrap(streamed(AssertionError("the app was called")))(
        {"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send
    )
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "not served on guarded paths"}]


# Failures of our own


@pytest.mark.parametrize("app", [whole(COMPLETION), streamed(*STREAM)], ids=["json", "stream"])
async def test_without_a_seal_nothing_is_called_valid(app: Any) -> None:
    """The settings deny: a body becomes a refusal, a stream ends with an error instead of its last content."""
    kit = Kit()
    kit.store.fault = "before"
    answer = await ask(kit.wrap(app), key=kit.key)
    assert b"tos_unavailable" in answer.body
    if answer.headers["content-type"] == "text/event-stream":
        with pytest.raises(IncompleteError):
            proven(kit, answer)
    else:
        assert (answer.status, answer.headers["x-should-retry"]) == (503, "true")
        assert b"Hello." not in answer.body
    assert kit.guard.counts["failed:store"] == 1


@pytest.mark.parametrize("app", [whole(COMPLETION), streamed(*STREAM)], ids=["json", "stream"])
async def test_where_the_settings_allow_it_an_answer_goes_out_unsealed_and_counted(app: Any) -> None:
    """Fail-open has a name, and every use is counted."""
    kit = Kit(settings={"failure": {"signer": "allow", "records": "allow"}})
    kit.signer.failing = True
    answer = await ask(kit.wrap(app), key=kit.key)
    assert answer.status == 200
    assert b"Hello." in answer.body or b"Hel" in answer.body
    assert b"ai_provenance" not in answer.body
    assert kit.guard.counts["unsealed:signer"] == 1
    assert kit.guard.counts["failed:signer"] >= 1


async def test_a_signer_that_is_down_denies_a_stream_before_it_begins() -> None:
    """No pending token, no stream."""
    kit = Kit()
    kit.signer.failing = True
    answer = await ask(kit.wrap(streamed(*STREAM)), key=kit.key)
    assert answer.status == 503
    assert b"Hel" not in answer.body


async def test_the_record_is_durable_before_the_token_leaves() -> None:
    """Whoever holds a final token can demand its record: with a store that fails after keeping, the token does not leave."""
    kit = Kit()
    kit.store.fault = "after"
    answer = await ask(kit.wrap(whole(COMPLETION)), key=kit.key)
    assert answer.status == 503
    assert "ai-provenance" not in answer.headers
    assert len(records(kit)) == 1


# Identity and rights


async def test_a_host_that_authenticates_already_names_its_account() -> None:
    """`identify=` takes the host's own principal, sync or async."""

    async def later(view: Any) -> str | None:
        return view.header("x-user")

    for identify in (lambda view: view.header("x-user"), later):
        kit = Kit(overrides={"identify": identify})
        assert (await ask(kit.wrap(whole(COMPLETION)), headers=[(b"x-user", b"acme")])).status == 200
        assert (await ask(kit.wrap(whole(COMPLETION)), headers=[(b"x-user", b"nobody")])).status == 401
        assert (await ask(kit.wrap(whole(COMPLETION)), key=kit.key)).status == 401


async def test_what_the_hosts_own_code_raises_is_a_failure_with_a_name() -> None:
    """`identify=` and the host's accounts may break; the client gets 503 and may try again, and the failure is counted."""

    def broken(view: Any) -> str:
        raise KeyError(view)

    class Source:
        version = Kit().store.version

        def by_id(self, account_id: str) -> Any:
            raise ConnectionError(account_id)

    for overrides in ({"identify": broken}, {"identify": lambda view: view.path, "accounts": Source()}):
        kit = Kit(overrides=overrides)
        answer = await ask(kit.wrap(whole(COMPLETION)))
        assert (answer.status, answer.error) == (503, None)
        assert answer.headers["x-should-retry"] == "true"
        assert kit.guard.counts["failed:accounts"] == 1


async def test_accounts_may_come_from_an_asynchronous_source() -> None:
    """A host's own accounts, behind the asynchronous protocol."""
    kit = Kit()

    class Source:
        def version(self) -> int:
            return kit.store.version()

        async def by_api_key(self, public_id: str, secret_hash: bytes) -> Any:
            return kit.store.by_api_key(public_id, secret_hash)

        async def by_id(self, account_id: str) -> Any:
            return kit.store.by_id(account_id)

    other = Kit(overrides={"accounts": Source(), "pepper": kit.store.pepper(), "records": kit.store})
    assert (await ask(other.wrap(whole(COMPLETION)), key=kit.key)).status == 200


async def test_keys_may_live_behind_an_asynchronous_signer() -> None:
    """A KMS or HSM answers across a network; the event loop waits for it, and nothing else does."""
    kit = Kit()
    signer = kit.signer

    class Remote:
        async def current(self, now: Any) -> Any:
            await asyncio.sleep(0)
            return signer.current(now)

        async def sign(self, key: Any, message: bytes) -> bytes:
            await asyncio.sleep(0)
            return signer.sign(key, message)

    for app in (whole(COMPLETION), streamed(*STREAM)):
        other = Kit(overrides={"signer": Remote()})
        proven(other, await ask(other.wrap(app), key=other.key))


async def test_a_grant_changes_what_the_token_says() -> None:
    """A licensed distiller's answers say so."""
    sample = Kit().terms.with_name("sample-2026-11.toml")
    kit = Kit(terms=sample, settings={"sources": {"region": "account"}})
    kit.store.put_account(kit.store.by_id("acme").model_copy(update={"region": "DE"}))  # type: ignore[union-attr]
    guarded = kit.wrap(whole(COMPLETION))
    purpose = [(b"ai-usage-purpose", b"distillation")]
    refused = await ask(guarded, key=kit.key, headers=purpose)
    assert json.loads(refused.body)["error"]["clause"] == "distillation-licence"
    kit.store.add_grant("acme", Grant(id="lic-7", type="licensed-distillation"))
    claims = proven(kit, await ask(guarded, key=kit.key, headers=purpose)).claims
    assert (claims.grant, claims.usage.content_usage) == ("lic-7", "train-ai=y, ai-use=y")
    assert "distil-licensed" in claims.usage.clauses


async def test_no_two_tokens_share_a_pseudonym_unless_the_account_asks_for_it() -> None:
    """A customer's published outputs cannot be linked (DESIGN D10)."""
    kit = Kit()
    guarded = kit.wrap(whole(COMPLETION))
    subs = [proven(kit, await ask(guarded, key=kit.key)).claims.sub for _ in range(3)]
    assert len(set(subs)) == 3
    kit.store.put_account(kit.store.by_id("acme").model_copy(update={"stable_sub": True}))  # type: ignore[union-attr]
    subs = [proven(kit, await ask(guarded, key=kit.key)).claims.sub for _ in range(3)]
    assert len(set(subs)) == 1
    assert "acme" not in subs[0]


async def test_a_nonce_comes_back_in_the_token() -> None:
    """A caller can tell that an answer was made for it, now."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(COMPLETION)), key=kit.key, headers=[(b"ai-provenance-nonce", b"n-123")])
    verify_body(answer.body, trust=kit.trust, now=kit.clock(), expected=Expected(nonce="n-123"))
    assert parse_token(answer.headers["ai-provenance"]).jws.payload["nonce"] == "n-123"


async def test_neither_token_nor_record_holds_account_prompt_or_output() -> None:
    """What is kept and shown names no one (DESIGN D10)."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(COMPLETION)), key=kit.key)
    (record,) = records(kit)
    payload = json.dumps(parse_token(answer.headers["ai-provenance"]).jws.payload)
    for secret in ("acme", "Hello.", '"hi"', kit.key, "127.0.0.1"):
        assert secret not in payload
        assert secret not in record.to_bytes().decode()
