"""What the WSGI guard promises, whatever the app, the server or the client do; `wsgiref.validate` watches both of its sides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from io import BytesIO
from itertools import repeat
from typing import Any

import pytest

from kit import REQUEST, Answer
from tos_guard.errors import DeniedError, IncompleteError, PolicyStop
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.provenance import parse_token
from tos_guard.types import Completion
from tos_guard.verify import Expected, Verified, verify_body, verify_stream
from tos_guard.web.wsgi import TosGuardMiddleware
from wsgi_kit import WSGIKit, call, environ_of, gives, streams

COMPLETION = b'{"id":"c1","choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}'


def chunk(text: str | None = None, *, finish: str | None = None) -> bytes:
    """One event of a chat stream."""
    delta = {} if text is None else {"content": text}
    return b"data: " + json.dumps({"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
STREAM = (chunk("Hel"), chunk("lo."), chunk(finish="stop"), DONE)


def proven(kit: WSGIKit, answer: Answer) -> Verified:
    """What a caller can prove of an answer."""
    expected = Expected(request=REQUEST, salt=answer.headers["ai-provenance-salt"])
    given: dict[str, Any] = {"trust": kit.trust, "now": kit.clock(), "expected": expected, "token": answer.headers["ai-provenance"]}
    if answer.headers["content-type"].startswith("text/event-stream"):
        return verify_stream(answer.body, **given)
    return verify_body(answer.body, content_digest=answer.headers.get("content-digest"), **given)


# Responses


def test_a_json_answer_carries_its_final_token_in_header_and_body() -> None:
    """As behind ASGI, with a record that says the same."""
    kit = WSGIKit()
    answer = call(kit.wsgi(gives(COMPLETION)), key=kit.key)
    verified = proven(kit, answer)
    assert json.loads(answer.body)["ai_provenance"] == {"token": answer.headers["ai-provenance"]}
    (record,) = kit.records()
    assert (record.jti, record.carrier, record.completion, record.status) == (verified.claims.jti, "json", "complete", 200)


def test_a_stream_leaves_piece_by_piece() -> None:
    """The head leaves before the first chunk is made, each chunk before the next, and only the last content waits for its seal."""
    kit, seen = WSGIKit(), []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        del environ
        start_response("200 OK", [("Content-Type", "text/event-stream")])

        def chunks() -> Iterator[bytes]:
            for number, each in enumerate(STREAM):
                seen.append(number)
                yield each

        return chunks()

    heads: list[dict[str, str]] = []
    guarded = TosGuardMiddleware(app, guard=kit.sync)
    content = iter(guarded(environ_of(key=kit.key), lambda status, headers, exc=None: heads.append(dict(headers)) or len))
    assert next(content) == b""
    assert (seen, len(heads)) == ([], 1)
    assert parse_token(heads[0]["ai-provenance"]).jws.payload["stage"] == "pending"
    assert next(content) == STREAM[0]
    assert next(content) == STREAM[1]
    assert seen == [0, 1]
    rest = b"".join(content)
    assert b'"ai_provenance"' in rest
    answer = call(kit.wsgi(streams(*STREAM)), key=kit.key)
    assert proven(kit, answer).claims.completion is Completion.COMPLETE


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("POST", "204 No Content"), ("POST", "304 Not Modified")])
def test_an_answer_without_a_body_gets_none(method: str, status: str) -> None:
    """No body leaves, whatever the app gives; the exchange is counted and recorded."""
    kit = WSGIKit()
    answer = call(
        TosGuardMiddleware(gives(b"" if method == "POST" else COMPLETION, status=status), guard=kit.sync), key=kit.key, method=method
    )
    assert (answer.status, answer.body) == (int(status[:3]), b"")
    assert [record.unsealed for record in kit.records()] == ["no_body"]


@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_an_app_that_goes_on_for_ever_does_not_outlast_its_answer(method: str) -> None:
    """Where nothing more can leave, the app's iterable is closed: a client that has left would not be noticed."""
    kit, closed = WSGIKit(), []
    kit.signer.failing = method == "POST"
    endless = streams(closed=closed)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        content = endless(environ, start_response)
        content._chunks = repeat(STREAM[0])
        return content

    answer = call(TosGuardMiddleware(app, guard=kit.sync), key=kit.key, method=method)
    assert answer.status == (503 if method == "POST" else 200)
    assert closed == ["closed"]


def test_an_app_without_any_chunk_is_answered_for() -> None:
    """An empty iterable is an empty body, sealed as such."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        del environ
        start_response("200 OK", [("Content-Type", "application/json")])
        return []

    proven(kit, call(kit.wsgi(app), key=kit.key))


def test_what_is_written_with_write_is_sealed_too() -> None:
    """The old callable sends at once, and cannot send past the seal."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        del environ
        write = start_response("200 OK", [("Content-Type", "text/event-stream")])
        for each in STREAM[:2]:
            write(each)
        return list(STREAM[2:])

    answer = call(kit.wsgi(app), key=kit.key)
    assert answer.chunks[:2] == list(STREAM[:2])
    assert proven(kit, answer).claims.completion is Completion.COMPLETE


def test_a_lazy_app_may_call_start_response_when_it_is_iterated() -> None:
    """An app that is a generator function begins its answer with its first chunk."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        del environ
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield from STREAM

    proven(kit, call(TosGuardMiddleware(app, guard=kit.sync), key=kit.key))


def test_an_answer_may_be_replaced_by_an_error_until_something_is_sent() -> None:
    """``exc_info`` before the first byte begins the answer again; only what left is sealed and recorded."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        del environ
        start_response("200 OK", [("Content-Type", "application/json")])
        try:
            raise ValueError("late")
        except ValueError as error:
            start_response("500 Internal Server Error", [("Content-Type", "application/json")], (type(error), error, error.__traceback__))
        return [b'{"error":"late"}']

    answer = call(kit.wsgi(app), key=kit.key)
    assert answer.status == 500
    assert proven(kit, answer).claims.completion is Completion.ERROR


def test_an_error_after_the_first_byte_is_the_apps_exception() -> None:
    """As PEP 3333 has it: the head cannot be taken back, so the exception goes on, and the stream says so in-band."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        del environ
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield STREAM[0]
        try:
            raise ValueError("late")
        except ValueError as error:
            start_response("500 Internal Server Error", [], (type(error), error, error.__traceback__))

    answer = call(TosGuardMiddleware(app, guard=kit.sync), key=kit.key)
    assert (answer.status, str(answer.error)) == (200, "late")
    assert b"tos_handler_error" in answer.body


def test_an_answer_that_is_under_way_cannot_be_begun_again() -> None:
    """Not even with an ``exc_info`` of no exception: the stream ends as one that failed, and nothing else is sealed in its place."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        del environ
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield STREAM[0]
        start_response("500 Internal Server Error", [("Content-Type", "application/json")], (None, None, None))
        yield b'{"error":"late"}'

    answer = call(TosGuardMiddleware(app, guard=kit.sync), key=kit.key)
    assert isinstance(answer.error, RuntimeError)
    assert proven(kit, answer).claims.completion is Completion.ERROR
    assert b"late" not in answer.body


@pytest.mark.parametrize("calls", [0, 2])
def test_an_app_that_breaks_the_protocol_is_told(calls: int) -> None:
    """No head, or two: the server hears of it, and the exchange is recorded."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        del environ
        for _ in range(calls):
            start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    answer = call(TosGuardMiddleware(app, guard=kit.sync), key=kit.key)
    assert isinstance(answer.error, AssertionError if calls else RuntimeError)
    assert [record.unsealed for record in kit.records()] == ["handler_raised"]


# Ends


@pytest.mark.parametrize("error", [None, ValueError("broken")])
def test_the_apps_iterable_is_closed_and_the_exchange_ends_once(error: Exception | None) -> None:
    """``close`` reaches the app, and the server may call it twice."""
    kit, closed = WSGIKit(), []
    chunks = STREAM if error is None else (STREAM[0], error)
    content = TosGuardMiddleware(streams(*chunks, closed=closed), guard=kit.sync)(environ_of(key=kit.key), lambda *_: len)
    list(content)
    with pytest.raises(ValueError, match="broken") if error is not None else nullcontext():
        content.close()
    content.close()
    assert closed == ["closed"]
    assert len(kit.records()) == 1


def test_a_handler_that_raises_mid_stream_ends_with_a_sealed_error() -> None:
    """The client has a whole body whose token says ``error``; the server hears of the exception when it closes the response."""
    kit = WSGIKit()
    answer = call(kit.wsgi(streams(STREAM[0], ValueError("broken"))), key=kit.key)
    assert answer.ended
    assert str(answer.error) == "broken"
    assert proven(kit, answer).claims.completion is Completion.ERROR


def test_a_handler_that_raises_before_it_answers_leaves_a_record() -> None:
    """The exception goes on to the server, which answers 500."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise ValueError("broken")

    answer = call(kit.wsgi(app), key=kit.key)
    assert (answer.status, str(answer.error)) == (0, "broken")
    assert [(record.unsealed, record.completion) for record in kit.records()] == [("handler_raised", "error")]


def test_a_body_cut_by_an_error_does_not_look_whole() -> None:
    """Where nothing can be said in-band, the exception breaks the response off while it is iterated."""
    kit = WSGIKit()
    app = streams(b"part", ValueError("broken"), media_type="image/png")
    answer = call(kit.wsgi(app), key=kit.key)
    assert (answer.ended, str(answer.error)) == (False, "broken")


@pytest.mark.parametrize("after", [0, 1])
def test_a_client_that_leaves_leaves_a_record(after: int) -> None:
    """Before the first byte or in the middle: recorded as aborted, its reservation settled, and nothing verifies."""
    kit = WSGIKit(limits=[Limit(id="at-once", quantity=Quantity.CONCURRENCY, amount=1, per=(Dimension.ACCOUNT,), window=None)])
    answer = call(kit.wsgi(streams(*STREAM)), key=kit.key, leave_after=after)
    assert answer.error is None
    assert [(record.unsealed, record.completion) for record in kit.records()] == [("client_gone", "aborted")]
    assert kit.used() == {"at-once": 0}
    with pytest.raises(IncompleteError):
        proven(kit, answer)


def test_a_client_that_leaves_what_is_written_is_no_failure_of_the_app() -> None:
    """The server's ``write`` says so, as ``close`` does elsewhere."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        del environ
        write = start_response("200 OK", [("Content-Type", "text/event-stream")])
        for each in STREAM:
            write(each)
        return []

    def write(data: bytes) -> None:
        if STREAM[1] in data:
            raise BrokenPipeError

    content = TosGuardMiddleware(app, guard=kit.sync)(environ_of(key=kit.key), lambda *_: write)
    with pytest.raises(BrokenPipeError):
        list(content)
    content.close()
    assert [(record.unsealed, record.completion) for record in kit.records()] == [("client_gone", "aborted")]


def test_a_response_that_is_never_iterated_is_recorded() -> None:
    """A server whose client has left closes what it never began."""
    kit = WSGIKit()
    TosGuardMiddleware(streams(*STREAM), guard=kit.sync)(environ_of(key=kit.key), lambda *_: len).close()
    assert [record.unsealed for record in kit.records()] == ["client_gone"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_policy_stop_is_the_answer(begun: bool) -> None:
    """Before the first byte or in the middle of a stream: in the dialect's shape, under a token that says ``policy``."""
    kit = WSGIKit()
    stop = PolicyStop("not this", clause="no-resale")
    answer = call(kit.wsgi(streams(*((STREAM[0], stop) if begun else (stop,)))), key=kit.key)
    assert answer.error is None
    assert b"no-resale" in answer.body
    assert proven(kit, answer).claims.completion is Completion.POLICY


@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_denial_that_the_handler_meets_is_the_answer(begun: bool, caught: bool) -> None:
    """Whatever the app makes of the exception."""
    kit = WSGIKit()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream" if begun else "application/json")])
        if begun:
            yield STREAM[0]
        try:
            environ["tos_guard.admission"].require("fine-tune")
        except DeniedError:
            if not caught:
                raise
        yield b"{}"

    answer = call(TosGuardMiddleware(app, guard=kit.sync), key=kit.key)
    assert answer.error is None
    assert answer.status == (200 if begun else 403)
    assert b"tos_action_not_allowed" in answer.body
    assert [record.type for record in kit.records()] == ["denial"]


# Requests


def test_no_credential_is_refused_before_the_body_is_read() -> None:
    """Who does not say who it is makes us read nothing before it is told so; then it is read, or the server would break the connection."""
    kit = WSGIKit()
    source = BytesIO(REQUEST)
    read: list[int] = []
    guarded = kit.wsgi(gives(COMPLETION))

    def watched(environ: Any, start_response: Any) -> Any:
        content = guarded(environ, start_response)
        read.append(source.tell())
        return content

    answer = call(watched, **{"wsgi.input": source})
    assert answer.status == 401
    assert (read, source.tell()) == ([0], len(REQUEST))


def test_no_more_is_drained_of_a_refused_body_than_could_be_accepted() -> None:
    kit = WSGIKit()
    source = BytesIO(b" " * 100)
    answer = call(kit.wsgi(gives(COMPLETION)), **{"wsgi.input": source, "CONTENT_LENGTH": str(1 << 40)})
    assert (answer.status, source.tell()) == (401, 0)


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
def test_a_body_that_a_client_has_asked_leave_to_send_is_not_waited_for(expect: str) -> None:
    """A server that asks for it with the first read would wait for what never comes: the client has its answer."""
    source = BytesIO(REQUEST)
    answer = call(WSGIKit().wsgi(gives(COMPLETION)), **{"wsgi.input": source, "HTTP_EXPECT": expect})
    assert (answer.status, source.tell()) == (401, 0)


def test_a_refused_body_that_comes_slowly_is_drained_for_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte now and then holds no worker of the server for as long as it likes."""
    seconds = 0.0

    class Slow(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal seconds
            seconds += 1.0
            return super().read(size)

    monkeypatch.setattr("tos_guard.web.wsgi.monotonic", lambda: seconds)
    source = Slow(b" " * 1_000_000)
    answer = call(WSGIKit().wsgi(gives(COMPLETION)), **{"wsgi.input": source, "CONTENT_LENGTH": "1000000"})
    assert answer.status == 401
    assert 4 <= seconds <= 6


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"CONTENT_LENGTH": "99999999999"}, 413),
        ({"CONTENT_LENGTH": "9" * 5000}, 413),
        ({"CONTENT_LENGTH": "abc"}, 400),
        ({"CONTENT_LENGTH": "-1"}, 400),
        ({"CONTENT_LENGTH": "+5"}, 400),
        ({"CONTENT_LENGTH": "\xb2"}, 400),
        ({"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"CONTENT_LENGTH": None}, 400),
        ({"CONTENT_LENGTH": str(len(REQUEST) + 1)}, 400),
        ({"CONTENT_LENGTH": None, "wsgi.input_terminated": True, "wsgi.input": BytesIO(b" " * 3000)}, 413),
        ({"CONTENT_LENGTH": None, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}, 200),
        ({"CONTENT_LENGTH": "7", "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}, 200),
        ({"CONTENT_LENGTH": None, "wsgi.input_terminated": True}, 200),
    ],
)
def test_the_length_of_a_body_is_not_taken_on_trust(said: dict[str, Any], status: int) -> None:
    """Missing, lying, in chunks: read to the limit at most, and what cannot be told is refused."""
    kit, bodies = WSGIKit(settings={"max_request_bytes": 2048}), []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        bodies.append((environ["wsgi.input"].read(), environ["CONTENT_LENGTH"]))
        return gives(COMPLETION)(environ, start_response)

    answer = call(TosGuardMiddleware(app, guard=kit.sync), key=kit.key, **said)
    assert answer.status == status
    assert bodies == ([(REQUEST, str(len(REQUEST)))] if status == 200 else [])


class _Breaks:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int) -> bytes:
        del size
        raise self.error


@pytest.mark.parametrize("error", [ConnectionResetError(), RuntimeError("a chunk without a size")])
def test_a_body_that_breaks_off_reaches_no_app(error: Exception) -> None:
    """Whether the connection broke, or the server has an exception of its own for what came."""
    kit = WSGIKit()
    answer = call(TosGuardMiddleware(gives(COMPLETION), guard=kit.sync), key=kit.key, **{"wsgi.input": _Breaks(error)})
    assert answer.status == 400
    assert kit.records() == []


def test_an_app_is_offered_no_way_to_send_past_the_guard() -> None:
    """Neither the client's choices nor the server's own doors."""
    kit, seen = WSGIKit(), {}

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.update(environ)
        return gives(COMPLETION)(environ, start_response)

    doors = ("HTTP_ACCEPT_ENCODING", "HTTP_RANGE", "HTTP_IF_RANGE", "gunicorn.socket", "werkzeug.socket")
    call(TosGuardMiddleware(app, guard=kit.sync), key=kit.key, **dict.fromkeys((*doors, "wsgi.file_wrapper"), "open"))
    assert b"".join(seen["wsgi.file_wrapper"](BytesIO(b"plain"))) == b"plain"
    assert seen["tos_guard.admission"].account.id == "acme"
    assert not seen.keys() & set(doors)


@pytest.mark.parametrize("path", ["/v1/other", "/v1/chat/completions/", "/HEALTHZ", ""])
def test_a_path_that_nobody_named_is_refused(path: str) -> None:
    """404, and counted."""
    kit = WSGIKit()
    assert call(kit.wsgi(gives(COMPLETION)), path, key=kit.key).status == 404
    assert kit.sync.counts["denied:tos_route_not_guarded"] == 1


def test_an_exempt_path_passes_untouched() -> None:
    """The app is called as if there were no guard."""
    kit = WSGIKit()
    answer = call(kit.wsgi(gives(b"ok", media_type="text/plain")), "/healthz", method="GET", body=b"")
    assert (answer.status, answer.body) == (200, b"ok")
    assert "ai-provenance" not in answer.headers


def test_paths_are_those_of_the_app_and_are_utf_8() -> None:
    """What the app is mounted under is no part of them, and the environ's bytes are decoded as behind ASGI."""
    kit = WSGIKit(settings={"routes": {"/v1/größe": "openai-chat"}})
    app = kit.wsgi(gives(COMPLETION))
    assert call(app, "/v1/größe", key=kit.key, SCRIPT_NAME="/mounted").status == 200
    assert call(app, "/mounted/v1/größe", key=kit.key).status == 404
    assert call(TosGuardMiddleware(gives(b""), guard=kit.sync), key=kit.key, PATH_INFO="/v1/\xff").status == 404


@pytest.mark.parametrize("name", ["HTTP_AUTHORIZATION", "HTTP_AI_PROVENANCE_NONCE", "HTTP_AI_USAGE_PURPOSE"])
def test_a_field_that_came_twice_is_no_choice(name: str) -> None:
    """Servers join fields of one name with a comma: neither of two credentials is taken, nor of two purposes."""
    kit = WSGIKit()
    given = {"HTTP_AUTHORIZATION": f"Bearer {kit.key}"} | {name: f"Bearer {kit.key},Bearer {kit.key}" if "AUTH" in name else "a,b"}
    answer = call(kit.wsgi(gives(COMPLETION)), **given)
    if name == "HTTP_AI_PROVENANCE_NONCE":  # may hold a comma: the caller who sent both finds both
        assert proven(kit, answer).claims.nonce == "a,b"
    else:
        assert answer.status == (401 if "AUTH" in name else 400)


def test_a_preflight_brings_nothing_in_and_nothing_out() -> None:
    """The app answers it without a body either way."""
    kit, seen = WSGIKit(), []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        seen.append(environ["wsgi.input"].read())
        start_response("200 OK", [("Access-Control-Allow-Origin", "*"), ("Content-Type", "text/plain"), ("Content-Length", "6")])
        yield b"secret"

    answer = call(TosGuardMiddleware(app, guard=kit.sync), method="OPTIONS", HTTP_ACCESS_CONTROL_REQUEST_METHOD="POST")
    assert (answer.status, answer.body, seen) == (200, b"", [b""])
    assert answer.headers == {"access-control-allow-origin": "*", "content-length": "0"} or answer.headers["content-length"] == "0"


def test_an_app_that_answers_no_preflight_is_told_so() -> None:
    """As with any other request."""
    app = TosGuardMiddleware(lambda *_: [], guard=WSGIKit().sync)
    answer = call(app, method="OPTIONS", body=b"", HTTP_ACCESS_CONTROL_REQUEST_METHOD="POST")
    assert "did not call start_response" in str(answer.error)


@pytest.mark.parametrize("monitors", [False, True])
def test_a_request_to_open_a_websocket_is_refused_and_counted(monitors: bool) -> None:
    """A server that leaves the upgrade to the app opens no door; monitor mode counts and lets pass."""
    kit = WSGIKit(settings={"mode": "monitor"} if monitors else {})
    answer = call(kit.wsgi(gives(COMPLETION)), key=kit.key, method="GET", HTTP_UPGRADE="h2c, WebSocket", HTTP_CONNECTION="Upgrade")
    assert answer.status == (200 if monitors else 403)
    assert "ai-provenance" not in answer.headers
    assert kit.sync.counts["monitored:websocket" if monitors else "denied:websocket"] == 1


def test_two_stacked_guards_of_one_issuer_seal_once() -> None:
    """The inner one lets pass what the outer one seals."""
    kit = WSGIKit()
    answer = call(kit.wsgi(kit.wsgi(gives(COMPLETION))), key=kit.key)
    assert answer.body.count(b"ai_provenance") == 1
    assert len(kit.records()) == 1


def test_a_guard_that_monitors_lets_pass_what_it_would_refuse() -> None:
    """No credential: counted, answered by the app, without a tag; the body is the app's to read."""
    kit, closed = WSGIKit(settings={"mode": "monitor"}), []
    answer = call(kit.wsgi(gives(COMPLETION)))
    assert (answer.status, answer.body) == (200, COMPLETION)
    assert kit.sync.counts["monitored:tos_unauthenticated"] == 1
    assert kit.sync.counts["unsealed:monitor"] == 1
    call(kit.wsgi(streams(*STREAM, closed=closed)), leave_after=1)
    assert closed == ["closed"]


def test_a_limit_is_refused_with_the_time_to_come_back() -> None:
    """429 with what clients act on, as behind ASGI."""
    kit = WSGIKit(limits=[Limit(id="hourly", quantity=Quantity.REQUESTS, amount=1, per=(Dimension.ACCOUNT,), window=Sliding(3600))])
    app = kit.wsgi(gives(COMPLETION))
    assert call(app, key=kit.key).status == 200
    refused = call(app, key=kit.key)
    assert (refused.status, "retry-after" in refused.headers) == (429, True)


@pytest.mark.parametrize("app", [gives(COMPLETION), streams(*STREAM)], ids=["whole", "stream"])
@pytest.mark.parametrize("part", ["signer", "store"])
def test_without_a_seal_nothing_is_called_valid(app: Any, part: str) -> None:
    """The signer or the store is down: a refusal, or an error in place of the last content."""
    kit = WSGIKit()
    if part == "signer":
        kit.signer.failing = True
    else:
        kit.store.fault = "before"
    answer = call(kit.wsgi(app), key=kit.key)
    assert b"tos_unavailable" in answer.body
    assert answer.status == 503 or part == "store"
    assert b'"ai_provenance"' not in answer.body


def test_an_answer_of_the_guard_to_head_has_no_body() -> None:
    """A refusal too: some servers would send it."""
    kit = WSGIKit()
    answer = call(kit.wsgi(gives(COMPLETION)), method="HEAD")
    assert (answer.status, answer.body) == (401, b"")
