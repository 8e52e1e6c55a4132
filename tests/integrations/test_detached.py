"""What cannot carry its token, or is too large to wait for: passed on as it comes, digested, sealed when it ends (the dialects guide)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest

from kit import Answer, App, Kit, ask, streamed, whole
from serving import Serve
from tos_guard._canonical import b64url_encode
from tos_guard.dialects import MAX_BODY_BYTES, EventStream
from tos_guard.errors import IncompleteError, PolicyStop, VerificationError
from tos_guard.ledger import SealKind
from tos_guard.verify import Verified, verify_body, verify_lines, verify_token

ROUTES: dict[str, dict[str, Any]] = {
    "/lines": {"dialect": "ndjson", "model": "small"},
    "/tagged": {"dialect": "ndjson", "model": "small", "tag_line": True},
    "/file": {"dialect": "file", "model": "small"},
    "/plain": {"dialect": "plain-json", "model": "small"},
}
LINES = (b'{"n": 1}\n{"n"', b": 2}\n", b"[3.0]")
MEGABYTE = bytes(range(256)) * 4_096


@pytest.fixture
def kit() -> Kit:
    return Kit(settings={"routes": ROUTES})


def called(kit: Kit, app: App, path: str, **more: Any) -> Answer:
    return asyncio.run(ask(kit.wrap(app), path, key=kit.key, **more))


def kept_token(kit: Kit, answer: Answer) -> str:
    """The token that is kept under the request id."""
    (seal,) = [seal for seal in kit.store.kept_of("acme", SealKind.REQUEST) if seal.rid == answer.headers["x-request-id"]]
    assert seal.token is not None
    return seal.token


def proven(kit: Kit, answer: Answer, *, token: str | None = None) -> Verified:
    given: dict[str, Any] = {"trust": kit.trust, "now": kit.clock(), "token": token or kept_token(kit, answer)}
    return verify_body(answer.body, **given)


def bytes_app(*chunks: bytes | BaseException, headers: list[tuple[bytes, bytes]], status: int = 200) -> App:
    """An app that answers with these fields, chunk by chunk."""

    async def app(scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        del scope
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


# Files and other bytes


def test_a_file_of_known_length_carries_its_token_in_the_header_and_keeps_its_fields(kit: Kit) -> None:
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", b"9"),
        (b"content-disposition", b'attachment; filename="a.json"'),
        (b"etag", b'"strong"'),
        (b"repr-digest", b"sha-256=:x:"),
    ]
    answer = called(kit, bytes_app(b'{"a": 1}\n', headers=fields), "/file", method="GET", body=b"")
    assert answer.body == b'{"a": 1}\n'
    assert (answer.headers["etag"], answer.headers["repr-digest"]) == ('"strong"', "sha-256=:x:")
    assert answer.headers["content-disposition"] == 'attachment; filename="a.json"'
    verified = proven(kit, answer, token=answer.headers["ai-provenance"])
    assert (verified.claims.model, verified.claims.content and verified.claims.content.projection) == ("small", "bytes-1")
    assert kit.records()[0].carrier == "header"


def test_the_last_bytes_of_a_large_body_of_known_length_wait_for_its_seal(kit: Kit) -> None:
    sizes: list[tuple[int, int]] = []
    chunks = [MEGABYTE] * 17

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def noted(message: dict[str, Any]) -> None:
            sizes.append((len(message.get("body", b"")), len(kit.store.kept_of("acme", SealKind.REQUEST))))
            await send(message)

        headers = [(b"content-type", b"video/mp4"), (b"content-length", str(17 * len(MEGABYTE)).encode())]
        await kit.wrap(bytes_app(*chunks, headers=headers))(scope, receive, noted)

    answer = asyncio.run(ask(app, "/file", key=kit.key))
    assert answer.body == b"".join(chunks)
    assert answer.headers["content-length"] == str(len(answer.body))
    before, last = [kept for size, kept in sizes if size][:-1], [kept for size, kept in sizes if size][-1]
    assert (set(before), last) == ({0}, 1)
    assert proven(kit, answer).claims.completion == "complete"


def test_a_json_body_over_the_cap_is_sealed_as_its_bytes(kit: Kit) -> None:
    for headers in ([], [(b"content-length", str(MAX_BODY_BYTES + 2).encode())]):
        chunks = (b'"', b"x" * (MAX_BODY_BYTES - 1), b"x", b'"')
        answer = called(kit, bytes_app(*chunks, headers=[(b"content-type", b"application/json"), *headers]), "/plain")
        assert answer.body == b"".join(chunks)
        with pytest.raises(IncompleteError):
            proven(kit, answer, token=answer.headers["ai-provenance"])
        assert proven(kit, answer).claims.rid == answer.headers["x-request-id"]


def test_events_of_another_form_are_sealed_as_they_left(kit: Kit) -> None:
    answer = called(kit, streamed(b"event: tick\ndata: 1\n\n", b"data: 2\n\n"), "/plain")
    assert answer.chunks == [b"event: tick\ndata: 1\n\n", b"data: 2\n\n"]
    assert proven(kit, answer).claims.completion == "complete"


def test_events_that_fail_end_with_an_error_that_is_sealed_too(kit: Kit) -> None:
    for failure, completion in ((RuntimeError("x"), "error"), (PolicyStop("stop", clause="c"), "policy")):
        answer = called(kit, streamed(b"data: 1\n\n", failure), "/plain")
        assert answer.ended
        assert json.loads(answer.chunks[-1].removeprefix(b"data: "))["error"]["code"].startswith("tos_")
        assert proven(kit, answer).claims.completion == completion


@pytest.mark.parametrize("begun", [b"data: 2", b"data: 2\n", b"event: tick\r\n", b"data: 2\r", b": alive", b"data: 2\n\n"])
@pytest.mark.parametrize("path", ["/plain", "/lines", "/file"])
def test_the_error_is_an_event_of_its_own_where_the_handler_failed_within_one(kit: Kit, path: str, begun: bytes) -> None:
    """Glued to what was begun, no client would know it for an error."""
    answer = called(kit, streamed(b"data: 1\n\n", begun[:3], begun[3:], RuntimeError("x")), path)
    assert answer.body.startswith(b"data: 1\n\n" + begun)
    last = EventStream().feed(answer.body)[-1]
    assert json.loads(last.data or b"")["error"]["code"] == "tos_handler_error"
    assert proven(kit, answer).claims.completion == "error"


@pytest.mark.parametrize(("failure", "completion"), [(RuntimeError("x"), "error"), (PolicyStop("stop", clause="c"), "policy")])
def test_half_a_file_breaks_off_and_its_token_says_so(kit: Kit, failure: Exception, completion: str) -> None:
    """It does not end as a whole one does, and the server is told."""
    answer = called(kit, bytes_app(b"half", failure, headers=[(b"content-type", b"audio/wav")]), "/file")
    assert (answer.body, answer.ended, type(answer.error)) == (b"half", False, type(failure))
    assert proven(kit, answer).claims.completion == completion


def test_without_a_seal_the_end_of_a_file_does_not_leave(kit: Kit) -> None:
    length = [(b"content-length", str(17 * len(MEGABYTE)).encode())]
    for headers in ([], length):
        fields = [(b"content-type", b"audio/wav"), *headers]

        async def signer_falls(scope: dict[str, Any], receive: Any, send: Any, fields: Any = fields) -> None:
            async def until_begun(message: dict[str, Any]) -> None:
                await send(message)
                kit.signer.failing = True

            await bytes_app(*[MEGABYTE] * 17, headers=fields)(scope, receive, until_begun)

        kit.signer.failing = False
        answer = called(kit, signer_falls, "/file")
        assert not answer.ended
        assert len(answer.body) == (16 if headers else 17) * len(MEGABYTE)
        assert kit.guard.counts["unsealed:signer"] == 1 + bool(headers)
    assert kit.store.kept_of("acme", SealKind.REQUEST) == ()


def test_a_signer_that_fails_at_the_head_makes_a_refusal(kit: Kit) -> None:
    kit.signer.failing = True
    assert called(kit, bytes_app(b"x", headers=[(b"content-type", b"audio/wav")]), "/file").status == 503


def test_a_client_that_left_has_a_record_and_no_seal(kit: Kit) -> None:
    called(kit, streamed(b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"), "/plain", leave_after=1, send_error=True)
    (record,) = kit.records()
    assert (record.unsealed, record.completion, record.jti) == ("client_gone", "aborted", None)
    assert kit.store.kept_of("acme", SealKind.REQUEST) == ()


@pytest.mark.parametrize(
    ("path", "fields", "status", "reason"),
    [
        ("/file", [(b"content-encoding", b"gzip")], 200, "encoded"),
        ("/file", [(b"content-range", b"bytes 0-1/9")], 206, "partial"),
        ("/lines", [(b"content-encoding", b"gzip")], 200, "encoded"),
    ],
)
def test_what_is_encoded_or_partial_stays_unsealed(
    kit: Kit, path: str, fields: list[tuple[bytes, bytes]], status: int, reason: str
) -> None:
    called(kit, bytes_app(b"xy", headers=[(b"content-type", b"application/x-ndjson"), *fields], status=status), path)
    assert kit.guard.counts[f"unsealed:{reason}"] == 1


# Lines


def test_lines_are_sealed_by_their_values_and_the_token_is_kept(kit: Kit) -> None:
    answer = called(kit, streamed(*LINES, media_type=b"application/x-ndjson; charset=utf-8"), "/lines")
    assert answer.chunks == [b'{"n": 1}\n', b'{"n": 2}\n', b"[3.0]"]
    given: dict[str, Any] = {"trust": kit.trust, "now": kit.clock(), "pending": answer.headers["ai-provenance"]}
    verified = verify_lines(b'{"n":1}\n\n{"n":2}\r\n[3]\n', token=kept_token(kit, answer), **given)
    assert verified.claims.content is not None
    assert verified.claims.content.projection == "ndjson-1"
    with pytest.raises(IncompleteError):
        verify_lines(answer.body, **given)
    assert kit.records()[0].carrier == "detached"


def test_a_tag_line_ends_a_response_that_asks_for_it(kit: Kit) -> None:
    upstream = b'{"ai_provenance": {"token": "theirs"}}\n'
    answer = called(kit, streamed(upstream, *LINES, media_type=b"application/jsonl"), "/tagged")
    given: dict[str, Any] = {"trust": kit.trust, "now": kit.clock()}
    assert verify_lines(answer.body, pending=answer.headers["ai-provenance"], **given).token in answer.body.decode()
    assert b"theirs" not in answer.body
    assert kit.guard.counts["removed_tags"] == 1
    (record,) = kit.records()
    assert record.carrier == "line"
    assert kit.store.kept_of("acme", SealKind.REQUEST) == ()


def test_lines_with_their_tag_cut_at_any_byte_are_valid_only_whole(kit: Kit) -> None:
    answer = called(kit, streamed(*LINES, media_type=b"application/jsonlines"), "/tagged")
    valid = []
    for size in range(len(answer.body) + 1):
        try:
            verify_lines(answer.body[:size], trust=kit.trust, now=kit.clock(), pending=answer.headers["ai-provenance"])
        except VerificationError:
            continue
        valid.append(size)
    assert valid == [len(answer.body) - 1, len(answer.body)]  # the last byte is the LF of the tag's line


def test_lines_that_fail_say_so_in_a_line_and_carry_their_tag(kit: Kit) -> None:
    answer = called(kit, streamed(b'1\n{"half', RuntimeError("x"), media_type=b"application/x-ndjson"), "/tagged")
    first, error, _ = answer.body.splitlines()
    assert (first, json.loads(error)["error"]["code"]) == (b"1", "tos_handler_error")
    assert verify_lines(answer.body, trust=kit.trust, now=kit.clock()).claims.completion == "error"
    assert answer.ended


def test_lines_that_are_no_json_have_no_line_for_the_tag(kit: Kit) -> None:
    answer = called(kit, streamed(b"1\nNaN\n", media_type=b"application/x-ndjson"), "/tagged")
    assert answer.body == b"1\nNaN\n"
    given: dict[str, Any] = {"trust": kit.trust, "now": kit.clock(), "token": kept_token(kit, answer)}
    assert verify_lines(answer.body, **given).claims.rid == answer.headers["x-request-id"]


def test_without_a_seal_lines_end_with_an_error(kit: Kit) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def until_begun(message: dict[str, Any]) -> None:
            await send(message)
            kit.signer.failing = True

        await streamed(b"1\n", b"2", media_type=b"application/x-ndjson")(scope, receive, until_begun)

    answer = called(kit, app, "/tagged")
    assert answer.body.startswith(b'1\n2\n{"error"')
    assert answer.ended


def test_a_json_answer_on_such_a_route_is_a_body_like_any(kit: Kit) -> None:
    answer = called(kit, whole(b'{"a":1}'), "/lines")
    assert "ai_provenance" in json.loads(answer.body)


# Forms


def test_a_form_is_no_way_around_the_right_to_a_model(kit: Kit) -> None:
    def status(body: bytes, content_type: bytes) -> int:
        app = kit.wrap(whole(b"{}"))
        scope_fields = [(b"content-type", content_type)]

        async def served(scope: dict[str, Any], receive: Any, send: Any) -> None:
            kept = [(name, value) for name, value in scope["headers"] if (name, value) != (b"content-type", b"application/json")]
            await app({**scope, "headers": kept}, receive, send)

        return asyncio.run(ask(served, "/file", key=kit.key, body=body, headers=scope_fields)).status

    multipart = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--b--\r\n'
    assert status(multipart % b"small", b"multipart/form-data; boundary=b") == 200
    assert status(multipart % b"forbidden", b"multipart/form-data; boundary=b") == 403
    assert status(b"model=forbidden", b"application/x-www-form-urlencoded") == 403
    assert status(b"model=small&model=forbidden", b"application/x-www-form-urlencoded") == 400


# On a real server


def test_fifty_megabytes_flow_in_little_memory(kit: Kit, serve: Serve) -> None:
    """A file of 50 MB, of no known length, through a real server: no copy of it is kept, and its token covers all of it."""
    digest, size = hashlib.sha256(), 0
    app = bytes_app(*[MEGABYTE] * 50, headers=[(b"content-type", b"video/mp4")])
    with serve(kit.wrap(app)) as base, httpx2.Client(timeout=60) as client:
        tracemalloc.start()
        try:
            with client.stream("GET", base + "/file", headers={"authorization": f"Bearer {kit.key}"}) as response:
                for chunk in response.iter_raw():
                    digest.update(chunk)
                    size += len(chunk)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        rid = response.headers["x-request-id"]
    assert size == 50 * len(MEGABYTE)
    assert peak < 20_000_000
    (seal,) = kit.store.kept_of("acme", SealKind.REQUEST)
    assert seal.token is not None
    content = verify_token(seal.token, trust=kit.trust, now=kit.clock()).claims.content
    assert content is not None
    assert (seal.rid, content.leaves) == (rid, ((0, "body", b64url_encode(digest.digest())),))
