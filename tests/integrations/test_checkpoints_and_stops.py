"""Long streams behind the guard: checkpoints that prove them while they run, and hosts that stop them."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from kit import CHAT, REQUEST, Answer, App, Kit, ask, whole
from streams import STREAMS, event
from tos_guard.errors import IncompleteError, PolicyStop, SignerError
from tos_guard.guard import Admission
from tos_guard.keys import KeyRecord
from tos_guard.provenance import parse_token, text_digest
from tos_guard.testing import SeededSigner
from tos_guard.types import Completion, Stage
from tos_guard.verify import Expected, Prefix, Verified, verify_prefix, verify_stream
from tos_guard.web.asgi import STATE_KEY

Act = Callable[[int, Admission], None]
"""Does something before the message of this number: 0 is the head."""

NAMES = [name for name in STREAMS if name.startswith("openai-")]


def chunk(content: str | None, finish: str | None = None) -> bytes:
    """One event of a chat stream."""
    delta = {} if content is None else {"content": content}
    return event({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


END = [chunk(None, "stop"), b"data: [DONE]\n\n"]


def kit_with(**checkpoints: Any) -> Kit:
    return Kit(settings={"routes": {CHAT: {"dialect": "openai-chat", **checkpoints}}})


def app_that(
    act: Callable[[int, Admission], None], *chunks: bytes, swallows: bool = False, media_type: bytes = b"text/event-stream"
) -> App:
    """An app that does something with its admission before each chunk.

    Args:
        swallows: It goes on whatever sending raises.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        admission: Admission = scope["state"][STATE_KEY]
        messages: list[dict[str, Any]] = [
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]},
            *({"type": "http.response.body", "body": each, "more_body": True} for each in chunks),
            {"type": "http.response.body", "body": b"", "more_body": False},
        ]
        for number, message in enumerate(messages):
            act(number, admission)
            try:
                await send(message)
            except PolicyStop:
                if not swallows:
                    raise

    return app


def tokens(answer: Answer) -> list[str]:
    """The tokens in the events of an answer, in order."""
    events = [json.loads(line[6:]) for line in answer.body.split(b"\n") if line.startswith(b"data: {")]
    holders = (holder for said in events for holder in (said, said.get("response") or {}))
    return [holder["ai_provenance"]["token"] for holder in holders if "ai_provenance" in holder]


def stages(answer: Answer) -> list[str]:
    return [parse_token(token).jws.payload["stage"] for token in tokens(answer)]


def prove(kit: Kit, answer: Answer, body: bytes | None = None) -> Verified:
    expected = Expected(request=REQUEST, salt=answer.headers["ai-provenance-salt"])
    given: Any = {"trust": kit.trust, "now": kit.clock(), "token": answer.headers["ai-provenance"], "expected": expected}
    return verify_stream(answer.body if body is None else body, **given)


def prefix(kit: Kit, answer: Answer, body: bytes) -> Prefix:
    expected = Expected(request=REQUEST, salt=answer.headers["ai-provenance-salt"])
    return verify_prefix(body, trust=kit.trust, now=kit.clock(), token=answer.headers["ai-provenance"], expected=expected)


def nothing(number: int, admission: Admission) -> None:
    del number, admission


async def test_checkpoints_come_after_so_many_events_and_prove_a_stream_that_is_cut() -> None:
    kit = kit_with(checkpoint_events=2)
    answer = await ask(kit.wrap(app_that(nothing, *map(chunk, "abcde"), *END)), key=kit.key)
    assert stages(answer) == ["checkpoint", "checkpoint", "final"]
    assert prove(kit, answer).claims.completion is Completion.COMPLETE
    cut = answer.body[: answer.body.index(b'"e"')]
    with pytest.raises(IncompleteError) as caught:
        prove(kit, answer, cut)
    proven = prefix(kit, answer, cut)
    assert caught.value.proven == proven
    assert proven.claims.content is not None
    assert proven.claims.content.leaves == ((0, "text", text_digest("abcd")),)
    assert proven.request_checked
    assert cut[: proven.size_bytes].count(b"data: ") == 4


async def test_each_token_of_an_exchange_has_an_id_of_its_own_and_checkpoints_leave_no_record() -> None:
    kit = kit_with(checkpoint_events=1)
    answer = await ask(kit.wrap(app_that(nothing, *map(chunk, "abc"), *END)), key=kit.key)
    payloads = [parse_token(token).jws.payload for token in [answer.headers["ai-provenance"], *tokens(answer)]]
    assert [payload["stage"] for payload in payloads] == ["pending", *["checkpoint"] * 3, "final"]
    assert len({payload["jti"] for payload in payloads}) == 5
    assert len({(payload["rid"], payload["sub"], payload["req"]) for payload in payloads}) == 1
    assert [record.jti for record in kit.records()] == [payloads[-1]["jti"]]


async def test_checkpoints_come_with_the_first_content_after_so_many_seconds() -> None:
    kit = kit_with(checkpoint_seconds=10)
    spans = [0, 0, 4, 5, 1, 3, 20]

    def wait(number: int, admission: Admission) -> None:
        del admission
        kit.clock.advance(timedelta(seconds=spans[number] if number < len(spans) else 0))

    answer = await ask(kit.wrap(app_that(wait, chunk("a"), chunk("b"), chunk("c"), chunk("d"), chunk("e"), chunk("f"), *END)), key=kit.key)
    carriers = [each for each in answer.chunks if b"ai_provenance" in each]
    assert [each.split(b'"content": "')[1][:1] for each in carriers[:-1]] == [b"d", b"f"]
    assert stages(answer) == ["checkpoint", "checkpoint", "final"]


async def test_a_clock_that_is_set_back_neither_stops_checkpoints_nor_makes_more_of_them() -> None:
    kit = kit_with(checkpoint_seconds=10)
    spans = [0, 0, 11, -3600, 11]

    def wait(number: int, admission: Admission) -> None:
        del admission
        kit.clock.advance(timedelta(seconds=spans[number] if number < len(spans) else 0))

    answer = await ask(kit.wrap(app_that(wait, *map(chunk, "abcd"), *END)), key=kit.key)
    assert stages(answer) == ["checkpoint", "checkpoint", "final"]


@pytest.mark.parametrize("name", NAMES)
async def test_streams_of_every_dialect_get_checkpoints_and_are_proven(name: str) -> None:
    kit = Kit(settings={"routes": {f"/{name}": {"dialect": name, "checkpoint_events": 2}}})
    answer = await ask(kit.wrap(app_that(nothing, *STREAMS[name])), f"/{name}", key=kit.key)
    assert stages(answer)[-1] == "final"
    assert set(stages(answer)[:-1]) == {"checkpoint"}
    assert prove(kit, answer).claims.stage is Stage.FINAL


class BusySigner(SeededSigner):
    """Fails when it signs for the second time."""

    calls = 0

    def sign(self, key: KeyRecord, message: bytes) -> bytes:
        self.calls += 1
        if self.calls == 2:
            raise SignerError("the signer is busy")
        return super().sign(key, message)


async def test_a_signer_that_fails_at_a_checkpoint_delays_the_proof_and_not_the_stream() -> None:
    kit = Kit(settings={"routes": {CHAT: {"dialect": "openai-chat", "checkpoint_events": 2}}}, signer=BusySigner())
    answer = await ask(kit.wrap(app_that(nothing, *map(chunk, "abcd"), *END)), key=kit.key)
    assert stages(answer) == ["checkpoint", "final"]
    assert prefix(kit, answer, answer.body[: answer.body.index(b'finish_reason": "stop')]).size_bytes > 0
    assert kit.guard.counts["failed:signer"] == 1


# stops


def stop_at(when: int, *, code: str | None = None) -> Act:
    def act(number: int, admission: Admission) -> None:
        if number == when:
            given = {} if code is None else {"code": code}
            # from another thread, as a classifier beside the stream would
            thread = threading.Thread(target=lambda: admission.stop("No weapons", clause="no-weapons", **given))
            thread.start()
            thread.join()

    return act


@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("name", NAMES)
async def test_a_stream_that_the_host_stops_ends_in_band_with_a_token_that_says_so(name: str, swallows: bool) -> None:
    kit = Kit(settings={"routes": {f"/{name}": name}})
    answer = await ask(kit.wrap(app_that(stop_at(3, code="acme_weapons"), *STREAMS[name], swallows=swallows)), f"/{name}", key=kit.key)
    assert (answer.error, answer.ended, answer.status) == (None, True, 200)
    assert answer.body.startswith(b"".join(STREAMS[name][:2]))
    assert STREAMS[name][2] not in answer.body
    said = json.loads(answer.chunks[-1].split(b"data: ")[1])["error"]
    assert (said["message"], said["code"], said["clause"]) == ("No weapons", "acme_weapons", "no-weapons")
    assert prove(kit, answer).claims.completion is Completion.POLICY
    (record,) = kit.records()
    assert record.completion == "policy"


@pytest.mark.parametrize("when", [0, 1, 2])
async def test_a_response_that_is_stopped_before_anything_is_sent_is_a_refusal(when: int) -> None:
    kit = Kit()
    completion = json.dumps({"choices": [{"index": 0, "message": {"content": "x"}}]}).encode()
    answer = await ask(kit.wrap(app_that(stop_at(when), completion, media_type=b"application/json")), key=kit.key)
    assert (answer.error, answer.ended, answer.status) == (None, True, 403)
    assert json.loads(answer.body)["error"]["code"] == "tos_policy_stop"
    (record,) = kit.records()
    assert record.completion == "policy"


async def test_bytes_that_can_say_nothing_in_band_go_no_further() -> None:
    """The connection then breaks, as it does where a handler raises: half a body does not look like all of it."""
    kit = Kit()
    app = app_that(stop_at(2), b"one", b"two", b"three", media_type=b"application/octet-stream", swallows=True)
    answer = await ask(kit.wrap(app), key=kit.key)
    assert b"two" not in answer.body
    assert b"three" not in answer.body


async def test_an_app_that_returns_after_a_stop_has_its_stream_ended() -> None:
    kit = Kit()

    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": chunk("a"), "more_body": True})
        scope["state"][STATE_KEY].stop("Enough", clause="no-weapons")
        scope["state"][STATE_KEY].stop("Too late", clause="other")

    answer = await ask(kit.wrap(app), key=kit.key)
    assert answer.ended
    assert b"Enough" in answer.body
    assert b"Too late" not in answer.body
    assert prove(kit, answer).claims.completion is Completion.POLICY


async def test_a_stop_after_the_seal_changes_nothing() -> None:
    usage = event({"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    kit = Kit()
    answer = await ask(kit.wrap(app_that(stop_at(4), chunk("a"), END[0], usage, END[1])), key=kit.key)
    assert (answer.error, answer.ended) == (None, True)
    assert answer.body.endswith(usage + END[1])
    assert prove(kit, answer).claims.completion is Completion.COMPLETE


async def test_a_whole_answer_of_an_app_that_was_not_stopped_is_untouched() -> None:
    kit = kit_with(checkpoint_events=1, checkpoint_seconds=0.1)
    body = json.dumps({"choices": [{"index": 0, "message": {"content": "x"}}]}).encode()
    answer = await ask(kit.wrap(whole(body)), key=kit.key)
    assert (answer.status, answer.ended) == (200, True)
