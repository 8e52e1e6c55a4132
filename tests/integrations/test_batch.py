"""Batches: each line decided and reserved when the batch is opened, sealed when it is answered (docs/guides/batch.md)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from kit import CHAT, ISSUER, Kit
from tos_guard._canonical import b64url_decode, b64url_encode, canonical_json
from tos_guard.errors import AuthenticationError, ConflictError, MalformedRequestError, NotFoundError, RequestError
from tos_guard.guard import AsyncGuard, Batch, Guard, SealConflictError
from tos_guard.guard import _batch as module
from tos_guard.limits import Amounts, Dimension, Limit, Quantity, Sliding
from tos_guard.rights import KeyTerms
from tos_guard.stores import SQLiteLimits, SQLiteStore
from tos_guard.types import Facts, Standing
from tos_guard.verify import Verified, verify_body

EMBEDDINGS, COMPLETIONS, RESPONSES = "/v1/embeddings", "/v1/completions", "/v1/responses"
ROUTES = {CHAT: "openai-chat", RESPONSES: "openai-responses", EMBEDDINGS: "openai-embeddings", COMPLETIONS: "openai-completions"}
LIMITS = (
    Limit(id="r", quantity=Quantity.REQUESTS, amount=5, per=(Dimension.ACCOUNT,), window=Sliding(3600)),
    Limit(id="t", quantity=Quantity.TOKENS, amount=1_000_000, per=(Dimension.ACCOUNT,), window=Sliding(3600)),
    Limit(id="c", quantity=Quantity.CONCURRENCY, amount=1, per=(Dimension.ACCOUNT,), window=None),
)


def line(custom_id: Any = "a", url: str = CHAT, method: str = "POST", **body: Any) -> bytes:
    asked = {"model": "small", "messages": [{"role": "user", "content": f"hi {custom_id}"}], "max_tokens": 9} | body
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": asked}).encode() + b"\n"


def completion(text: str = "Hello") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "small", "choices": [choice], "usage": usage}


@pytest.fixture
def kit() -> Kit:
    return Kit(settings={"routes": ROUTES}, limits=LIMITS)


def run(kit: Kit, steps: Any) -> Any:
    return asyncio.run(kit.guard.run(steps))


def opened(kit: Kit, lines: bytes | Iterable[bytes], endpoint: str = CHAT, **more: Any) -> Batch:
    batch = run(kit, kit.guard.open_batch("acme", endpoint, lines, **more))
    assert isinstance(batch, Batch)
    return batch


def sealed(kit: Kit, batch: Batch, custom_id: str, body: Any = None, status: int = 200) -> dict[str, Any]:
    """The output line as it is read."""
    out = run(kit, kit.guard.seal_line(batch, custom_id, status, completion() if body is None else body))
    assert out.endswith(b"\n")
    assert out.count(b"\n") == 1
    read = json.loads(out)
    assert isinstance(read, dict)
    return read


def verified(kit: Kit, out: dict[str, Any]) -> Verified:
    return verify_body(json.dumps(out["response"]["body"]).encode(), trust=kit.trust, now=kit.clock())


def test_each_output_line_carries_its_token(kit: Kit) -> None:
    """The client's own type reads the body; the token is bound to the line's request, and its record is there."""
    asked = [line("a"), line("b")]
    batch = opened(kit, b"".join(asked))
    assert [(each.custom_id, each.body["max_tokens"]) for each in batch.lines] == [("a", 9), ("b", 9)]
    for each, sent in zip(batch.lines, asked, strict=True):
        out = sealed(kit, batch, each.custom_id, completion(f"Hello {each.custom_id}"))
        assert out.keys() == {"id", "custom_id", "response", "error"}
        assert (out["custom_id"], out["error"], out["response"]["status_code"]) == (each.custom_id, None, 200)
        read = ChatCompletion.model_validate(out["response"]["body"])
        assert read.choices[0].message.content == f"Hello {each.custom_id}"
        claims = verified(kit, out).claims
        assert claims.rid == out["response"]["request_id"] == each.request_id
        salt = b64url_decode(out["response"]["ai_provenance_salt"])
        assert claims.req == b64url_encode(hmac.digest(salt, canonical_json(json.loads(sent)["body"]), hashlib.sha256))
        record = kit.store.by_request_id(ISSUER, each.request_id)
        assert record is not None
        assert (record.jti, record.channel, record.carrier) == (claims.jti, "batch", "json")
    assert run(kit, kit.guard.close_batch(batch)) == []


@pytest.mark.parametrize(
    ("endpoint", "asked", "said", "projection"),
    [
        (RESPONSES, {"input": "hi"}, {"id": "resp_1", "status": "completed", "output": []}, "responses-1"),
        (EMBEDDINGS, {"input": "hi"}, {"object": "list", "data": [{"embedding": [0.5], "index": 0}]}, "json-1"),
        (COMPLETIONS, {"prompt": "hi"}, {"choices": [{"index": 0, "text": "Hello"}]}, "completions-1"),
    ],
)
def test_batches_of_other_endpoints(kit: Kit, endpoint: str, asked: dict[str, Any], said: dict[str, Any], projection: str) -> None:
    """Each in its dialect."""
    sent = json.dumps({"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "small", **asked}}).encode()
    batch = opened(kit, [sent], endpoint)
    assert verified(kit, sealed(kit, batch, "a", said)).claims.content.projection == projection


def test_a_line_is_reserved_when_the_batch_is_opened_and_settled_when_it_is_answered(kit: Kit) -> None:
    """No line holds a slot, and what it did not use comes back; one that was never answered keeps its estimate, if it may have run."""
    batch = opened(kit, [line("a"), line("b"), line("c")])
    estimated = kit.used()
    assert (estimated["r"], estimated["c"]) == (3, 0)
    kit.clock.advance(timedelta(minutes=40))
    sealed(kit, batch, "a")
    per_line = estimated["t"] // 3
    assert kit.used()["t"] == 5 + 2 * per_line
    run(kit, kit.guard.close_batch(batch))
    assert kit.used() == {"r": 3, "t": 5 + 2 * per_line, "c": 0}
    other = opened(kit, [line("d")])
    run(kit, kit.guard.close_batch(other, may_have_run=False))
    assert kit.used() == {"r": 3, "t": 5 + 2 * per_line, "c": 0}


def test_refused_lines_are_answered(kit: Kit) -> None:
    """In the shape of any refusal: the body that the same request would have got by itself."""
    batch = opened(kit, [line("a"), line("b", model="else"), *(line(f"c{number}") for number in range(6))])
    refused = [json.loads(out) for out in batch.refused]
    assert [(out["custom_id"], out["response"]["status_code"]) for out in refused] == [("b", 403), ("c4", 429), ("c5", 429)]
    assert refused[0]["response"]["body"]["error"]["code"] == "tos_model_not_allowed"
    assert refused[1]["response"]["body"]["error"]["limit"] == "r"
    assert "ai_provenance" not in refused[0]["response"]["body"]
    assert [each.custom_id for each in batch.lines] == ["a", "c0", "c1", "c2", "c3"]
    assert sum(record.type == "denial" for record in kit.records()) == 3
    with pytest.raises(NotFoundError):
        sealed(kit, batch, "b")


BROKEN: dict[str, bytes] = {
    "no JSON": b"{",
    "no object": b"[1]",
    "no UTF-8": b'{"custom_id":"\xff"}',
    "a name twice": b'{"custom_id":"x","custom_id":"y","method":"POST","url":"/v1/chat/completions","body":{}}',
    "no id": json.dumps({"method": "POST", "url": CHAT, "body": {}}).encode(),
    "an id that is none": line(7),
    "an id that is too long": line("x" * 257),
    "half of a character as id": line("\ud800"),
    "another url": line("x", url="/v1/else"),
    "another method": line("x", method="GET"),
    "no body": json.dumps({"custom_id": "x", "method": "POST", "url": CHAT, "body": None}).encode(),
    "no model": line("x", model=None),
    "a stream": line("x", stream=True),
    "a number that no double holds": b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{"model":"small","n":1e999}}',
    "nested too deeply": b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":' + b"[" * 99 + b"]" * 99 + b"}",
    "the id of another line": line("a"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_line_that_cannot_be_read_is_answered_and_the_others_are_served(kit: Kit, name: str) -> None:
    """An error line each, with its number and its id where it has one."""
    batch = opened(kit, [line("a"), b"  \n", BROKEN[name], line("b")])
    (out,) = map(json.loads, batch.refused)
    assert out["response"] is None
    assert out["error"]["code"] in ("tos_malformed_request", "tos_conflict")
    assert out["error"]["line"] == 3
    assert [each.custom_id for each in batch.lines] == ["a", "b"]
    assert kit.used()["r"] == 2


def test_lines_behind_the_most_that_a_batch_may_have_are_answered(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with an error; nothing is lost."""
    monkeypatch.setattr(module, "MAX_BATCH_LINES", 2)
    batch = opened(kit, [line(str(number)) for number in range(4)])
    assert [each.custom_id for each in batch.lines] == ["0", "1"]
    assert [json.loads(out)["custom_id"] for out in batch.refused] == ["2", "3"]


def test_many_lines_are_kept_in_order(kit: Kit) -> None:
    """More than are read in one go."""
    kit = Kit(settings={"routes": ROUTES})
    batch = opened(kit, (line(f"n{number}") for number in range(450)))
    again = run(kit, kit.guard.reopen_batch("acme", batch.id))
    assert [each.custom_id for each in again.lines] == [each.custom_id for each in batch.lines] == [f"n{number}" for number in range(450)]


def test_the_same_answer_has_one_token_and_another_is_refused(kit: Kit) -> None:
    """A worker that repeats itself does no harm."""
    batch = opened(kit, [line("a")])
    first = sealed(kit, batch, "a")
    assert sealed(kit, batch, "a") == first
    with pytest.raises(SealConflictError):
        sealed(kit, batch, "a", completion("Bye"))
    assert (len(kit.records()), kit.used()["t"]) == (1, 5)


def test_an_error_of_the_worker_is_sealed_as_one(kit: Kit) -> None:
    """It served nothing."""
    batch = opened(kit, [line("a")])
    out = sealed(kit, batch, "a", {"error": {"message": "overloaded"}}, status=500)
    assert verified(kit, out).claims.completion == "error"
    assert kit.used() == {"r": 1, "t": 0, "c": 0}


def test_an_answer_in_many_lines_is_one_line(kit: Kit) -> None:
    """Whatever white space the worker writes between members."""
    batch = opened(kit, [line("a")])
    assert verified(kit, sealed(kit, batch, "a", json.dumps(completion("One\nTwo"), indent=2).encode())).claims.rid


@pytest.mark.parametrize("body", [b"[1]", b"text", b"", b'{"a":1e999}', b'{"choices":'])
def test_what_is_no_answer_is_an_error_of_the_worker(kit: Kit, body: bytes) -> None:
    """And the line stays open."""
    batch = opened(kit, [line("a")])
    with pytest.raises(ValueError, match="JSON object"):
        sealed(kit, batch, "a", body)
    assert verified(kit, sealed(kit, batch, "a"))


def test_lines_without_an_answer_say_so_when_the_batch_is_closed(kit: Kit) -> None:
    """And are recorded; a closed batch cannot be opened again, nor its lines be sealed."""
    batch = opened(kit, [line("a"), line("b")], batch_id="batch-7")
    sealed(kit, batch, "a")
    (out,) = map(json.loads, run(kit, kit.guard.close_batch(batch)))
    assert (out["custom_id"], out["response"], out["error"]["code"]) == ("b", None, "tos_batch_closed")
    assert {record.unsealed for record in kit.records()} == {None, "no_response"}
    with pytest.raises(NotFoundError):
        sealed(kit, batch, "b")
    with pytest.raises(NotFoundError):
        run(kit, kit.guard.reopen_batch("acme", "batch-7"))
    with pytest.raises(ConflictError):
        opened(kit, [line("a")], batch_id="batch-7")


@pytest.mark.parametrize("count", [2, 450])
def test_what_another_process_has_open_cannot_be_sealed_once_the_batch_is_closed(kit: Kit, count: int) -> None:
    """Its line was told to have no answer, and recorded as such. What it sealed before stays its answer."""
    limits = [replace(limit, amount=10**9) for limit in LIMITS]
    kit = Kit(settings={"routes": ROUTES}, limits=limits)
    batch = opened(kit, [line(f"{number}") for number in range(count)], batch_id="batch-7")
    other = run(kit, kit.guard.reopen_batch("acme", "batch-7"))
    answered = sealed(kit, other, "1")
    closed = [json.loads(each) for each in run(kit, kit.guard.close_batch(batch))]
    assert [each["custom_id"] for each in closed] == [str(number) for number in range(count) if number != 1]
    with pytest.raises(NotFoundError):
        sealed(kit, other, "0")
    assert sealed(kit, other, "1") == answered
    assert [json.loads(each)["custom_id"] for each in run(kit, kit.guard.close_batch(other))] == [each["custom_id"] for each in closed]
    assert len(kit.records()) == count
    assert sum(record.unsealed is None for record in kit.records()) == 1


def test_an_answer_may_be_any_mapping(kit: Kit) -> None:
    """As clients' own types are; one that is no JSON is an error of the worker, and the line stays open."""
    batch = opened(kit, [line("a")])
    for wrong in (MappingProxyType({"a": object()}), MappingProxyType({("a", "b"): 1}), {"a": b"bytes"}):
        with pytest.raises(ValueError, match="JSON"):
            sealed(kit, batch, "a", wrong)
    said = completion()
    out = sealed(kit, batch, "a", MappingProxyType({**said, "usage": MappingProxyType(said["usage"])}))
    assert verified(kit, out)
    assert out["response"]["body"]["usage"] == said["usage"]


def test_a_suspended_account_opens_no_line_and_gets_what_was_begun(kit: Kit) -> None:
    """Each line is decided when the batch is opened."""
    batch = opened(kit, [line("a")])
    kit.change(standing=Standing.SUSPENDED)
    assert json.loads(opened(kit, [line("b")]).refused[0])["response"]["status_code"] == 403
    assert verified(kit, sealed(kit, batch, "a"))


@pytest.mark.parametrize(
    ("account", "endpoint", "batch_id", "error"),
    [
        ("nobody", CHAT, None, AuthenticationError),
        ("acme", "/v1/else", None, NotFoundError),
        ("acme", CHAT, "", MalformedRequestError),
        ("acme", CHAT, "a:b", MalformedRequestError),
        ("acme", CHAT, "x" * 257, MalformedRequestError),
    ],
)
def test_what_is_no_batch_is_refused(kit: Kit, account: str, endpoint: str, batch_id: str | None, error: type[RequestError]) -> None:
    """Before anything is reserved."""
    with pytest.raises(error):
        run(kit, kit.guard.open_batch(account, endpoint, [line()], batch_id=batch_id))
    assert kit.used()["r"] == 0


def test_ids_may_be_as_long_as_they_may(kit: Kit) -> None:
    """Of the batch and of the line at once."""
    batch = opened(kit, [line("l" * 256)], batch_id="b" * 256)
    assert verified(kit, sealed(kit, batch, "l" * 256))
    assert run(kit, kit.guard.reopen_batch("acme", "b" * 256)).lines == []


def test_nobody_opens_the_batch_of_another(kit: Kit) -> None:
    """An id is an account's own."""
    batch = opened(kit, [line("a")])
    with pytest.raises(NotFoundError):
        run(kit, kit.guard.reopen_batch("other", batch.id))


def test_another_process_goes_on_with_a_batch(kit: Kit, tmp_path: Path) -> None:
    """A guard of the other colour, over the same files: it seals what is open under the ids of before, and settles it."""

    def guard(colour: type[Guard] | type[AsyncGuard]) -> tuple[Any, SQLiteStore]:
        store = SQLiteStore(tmp_path / "g.db", issuer=ISSUER, clock=kit.clock)
        counts = SQLiteLimits(tmp_path / "g.limits.db", clock=kit.clock)
        seals = {"records": store, "limits": counts, "meter": kit.guard.meter, "accounts": kit.store, "rights": kit.store}
        parts = {"signer": kit.signer, "pepper": kit.store.pepper(), "clock": kit.clock, "terms": kit.guard.terms}
        return colour(kit.guard.settings, **seals, **parts), store

    first, store = guard(AsyncGuard)
    begun = asyncio.run(first.run(first.open_batch("acme", CHAT, [line("a"), line("b"), line("c")], batch_id="b7")))
    asyncio.run(first.run(first.seal_line(begun, "a", 200, completion("A"))))
    first.close_stores()
    store.close()
    second, store = guard(Guard)
    batch = second.run(second.reopen_batch("acme", "b7"))
    assert [(each.custom_id, each.request_id, each.body) for each in batch.lines] == [
        (each.custom_id, each.request_id, {}) for each in begun.lines[1:]
    ]
    out = json.loads(second.run(second.seal_line(batch, "b", 200, completion("B"))))
    claims = verified(kit, out).claims
    assert claims.rid == begun.lines[1].request_id
    salt = b64url_decode(out["response"]["ai_provenance_salt"])
    assert claims.req == b64url_encode(hmac.digest(salt, canonical_json(json.loads(line("b"))["body"]), hashlib.sha256))
    again = json.loads(second.run(second.seal_line(batch, "a", 200, completion("A"))))
    assert verified(kit, again).claims.rid == begun.lines[0].request_id
    assert len(second.run(second.close_batch(batch, may_have_run=False))) == 1
    holder = kit.store.holder_by_id("acme")
    assert holder is not None
    (requests, tokens, *_) = second._limits.states(second.meter.charges(holder, {}, Facts("generate", "small"), Amounts()))
    assert (requests.used, tokens.used) == (2, 10)
    second.close_stores()


def test_the_lines_ask_for_no_more_than_the_key_that_submitted_them(kit: Kit) -> None:
    narrow = KeyTerms(models=frozenset({"other"}), expires=kit.clock() + timedelta(hours=1))
    batch = opened(kit, line(), key=narrow)
    assert batch.lines == []
    (refused,) = batch.refused
    assert json.loads(refused)["response"]["body"]["error"]["code"] == "tos_key_scope"
    assert len(opened(kit, line(), key=replace(narrow, models=frozenset({"small"}))).lines) == 1
    kit.clock.advance(timedelta(hours=1))
    with pytest.raises(AuthenticationError):
        opened(kit, line(), key=narrow)
