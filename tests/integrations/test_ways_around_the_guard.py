"""Ways around the guard that were open once: what a client or an app may do, and what must happen all the same."""

from __future__ import annotations

import asyncio
import codecs
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from desk import Desk
from kit import CHAT, ISSUER, Kit, Message, Scope, ask, streamed, whole
from tos_guard.errors import ConfigurationError, ContentMismatchError, PolicyStop, SignerError
from tos_guard.guard import AsyncGuard
from tos_guard.types import Standing
from tos_guard.verify import verify_body
from tos_guard.web._door import Door
from tos_guard.web.admin import AdminRoutes
from tos_guard.web.asgi import TosGuardMiddleware

COMPLETION = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}'
GENERATING = b'{"model":"small"}'


def records(kit: Kit) -> list[Any]:
    kit.store.flush()
    return list(kit.store.of_account(ISSUER, "acme"))


class Recorder:
    """An app that remembers how it was called, and answers with a completion."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.bodies.append((await receive()).get("body", b""))
        await whole(COMPLETION)(scope, receive_nothing, send)


async def receive_nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


# Requests that mean one thing to the guard and another to the app


@pytest.mark.parametrize(
    "body",
    [
        codecs.BOM_UTF8 + b'{"model":"large"}',
        '{"model":"large"}'.encode("utf-16-be"),
        '{"model":"large"}'.encode("utf-16"),
        ' {"model":"large"}'.encode("utf-16-le"),
        '{"model":"large"}'.encode("utf-32"),
    ],
    ids=["utf-8 with mark", "utf-16-be", "utf-16", "utf-16-le after a space", "utf-32"],
)
async def test_json_in_another_encoding_does_not_hide_the_model(body: bytes) -> None:
    """`json.loads` and so Starlette read all of these; the guard once saw no JSON and decided on the route's own model."""
    assert json.loads(body) == {"model": "large"}
    kit = Kit()
    app = Recorder()
    assert (await ask(kit.wrap(app), "/v1/models", key=kit.key, body=body)).status == 400
    assert app.bodies == []


@pytest.mark.parametrize("model", ['"large\\n"', '["large"]', "7", '""', '"' + "m" * 97 + '"'])
async def test_a_model_the_guard_cannot_read_is_not_replaced_by_the_routes_own(model: str) -> None:
    """The app might strip or unpack what the guard passed over."""
    kit = Kit()
    app = Recorder()
    answer = await ask(kit.wrap(app), "/v1/models", key=kit.key, body=b'{"model":%s}' % model.encode())
    assert (answer.status, app.bodies) == (400, [])


async def test_a_plain_request_that_names_no_model_is_decided_on_the_routes_own() -> None:
    """Absent and null are the same."""
    kit = Kit()
    for body in (b"", b"{}", b'{"model":null}', b"[1]"):
        assert (await ask(kit.wrap(whole(b"{}")), "/v1/models", key=kit.key, body=body)).status == 200


async def test_a_large_request_does_not_hold_up_the_others() -> None:
    """4 MB of brackets once stopped the event loop, and so every other request, for more than a second."""
    kit = Kit()
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    other = asyncio.create_task(beat())
    body = b'{"model":"small","messages":[' + b'{"a":[[1]]},' * 340_000 + b"1]}"
    started = time.monotonic()
    answer = await ask(kit.wrap(whole(COMPLETION)), key=kit.key, body=body)
    took = time.monotonic() - started
    other.cancel()
    assert answer.status == 200
    assert longest < took / 2


# Methods, paths, scopes


async def test_a_preflight_brings_nothing_in_and_nothing_out() -> None:
    """Anyone can send OPTIONS with the field of a preflight; an app that ignores methods once generated for it, unsealed and uncounted."""
    kit = Kit()
    app = Recorder()
    answer = await ask(kit.wrap(app), method="OPTIONS", headers=[(b"access-control-request-method", b"POST")])
    assert (answer.status, answer.body, answer.ended) == (200, b"", True)
    assert answer.headers["content-length"] == "0"
    assert app.bodies == [b""]


@pytest.mark.parametrize(
    "path", ["/static/../v1/chat/completions", "/static/./x", "/static//v1/chat", "/static/..", "/static/a\\..\\b", "/static/%2e%2e/v1"]
)
async def test_a_wildcard_exempts_no_path_that_leads_elsewhere(path: str) -> None:
    """What an inner app or proxy may normalise must not enter by the prefix of an exemption."""
    kit = Kit(settings={"exempt": ["/static/*"]})
    app = Recorder()
    assert (await ask(kit.wrap(app), path)).status == 404
    assert app.bodies == []
    for usual in ("/static/site.css", "/static/.well-known", "/static/100%.png", "/static/a..b"):
        assert (await ask(kit.wrap(app), usual)).status == 200


@pytest.mark.parametrize(
    "path", ["/v1/files/%2e%2e%2fadmin", "/v1/files/%2E%2E%2Fadmin", "/v1/files/a%2fb", "/v1/files/%5c", "/v1/files/a\\b", "/v1/files/.."]
)
async def test_a_wildcard_of_a_route_is_a_name(path: str) -> None:
    """What an app or proxy behind may decode once more leads to another path than the one that was decided; a segment held it."""
    kit = Kit(settings={"routes": {"/v1/files/*": {"dialect": "file", "model": "small"}}})
    app = Recorder()
    assert (await ask(kit.wrap(app), path, key=kit.key)).status == 404
    assert app.bodies == []
    for usual in ("/v1/files/a..b", "/v1/files/100%", "/v1/files/a:b@c"):
        assert (await ask(kit.wrap(app), usual, key=kit.key)).status == 200


@pytest.mark.parametrize(
    ("exempt", "route"),
    [
        ("/v2/models/*", "/v2/models/*/infer"),
        ("/v2/*", "/v2/models/*/infer"),
        ("/v2/models*", "/v2/models/*/infer"),
        ("/v1/*", CHAT),
        (CHAT, CHAT),
        ("/*", CHAT),
    ],
)
async def test_no_exemption_takes_a_guarded_route(exempt: str, route: str) -> None:
    """Exemptions come first: every request to it would pass unguarded."""
    routes = {route: {"dialect": "plain-json", "model": "small"}}
    with pytest.raises(ConfigurationError) as told:
        Kit(settings={"routes": routes, "exempt": [exempt]})
    assert repr(exempt) in str(told.value)
    assert route in str(told.value)
    with pytest.raises(ConfigurationError):
        Door(Kit(settings={"routes": routes}).guard, adapter="asgi", exempt=[exempt])


async def test_an_exemption_beside_a_route_or_of_one_of_its_paths_is_nothing_to_refuse() -> None:
    """Metadata of one model, which is not what is guarded."""
    exempt = ["/v2/models/simple", "/v2/models/simple/ready", "/v2/health/*", "/v2/models/simple/*"]
    kit = Kit(settings={"routes": {"/v2/models/*/infer": {"dialect": "open-inference"}}, "exempt": exempt})
    assert (await ask(kit.wrap(Recorder()), "/v2/models/simple/ready", method="GET", body=b"")).status == 200


async def test_an_app_under_a_root_path_is_guarded_by_its_own_paths() -> None:
    """Behind ``--root-path`` servers put the prefix before the path; Starlette takes it away again, and so must the guard."""
    kit = Kit()
    under = _under("/api", kit.wrap(whole(COMPLETION)))
    assert (await ask(under, "/api" + CHAT, key=kit.key)).headers["ai-provenance"]
    assert (await ask(under, "/api" + CHAT)).status == 401
    assert (await ask(under, "/api/healthz")).status == 200
    assert (await ask(under, "/apihealthz")).status == 404
    assert (await ask(under, "/api/api/healthz")).status == 404


def _under(root_path: str, app: Any) -> Any:
    async def mounted(scope: Scope, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": root_path}, receive, send)

    return mounted


async def test_a_connection_of_an_unknown_kind_is_not_let_through() -> None:
    """ASGI may grow; what the guard does not know it does not pass on."""
    kit = Kit()
    called = streamed(AssertionError("the app was called"))
    with pytest.raises(RuntimeError, match="webtransport"):
        await kit.wrap(called)({"type": "webtransport", "path": CHAT, "headers": []}, receive_nothing, receive_nothing)  # type: ignore[arg-type]


# Responses


async def test_a_client_cannot_choose_an_answer_that_cannot_be_sealed() -> None:
    """With ``Accept-Encoding`` or ``Range`` a client once got a compressed or partial body, which carries no final token."""
    kit = Kit()
    app = Recorder()
    fields = [(b"accept-encoding", b"gzip"), (b"Range", b"bytes=0-9"), (b"if-range", b'"x"'), (b"accept", b"*/*")]
    answer = await ask(kit.wrap(app), key=kit.key, headers=fields, body=GENERATING)
    assert "ai_provenance" in json.loads(answer.body)
    names = [name for name, _ in app.scopes[0]["headers"]]
    assert b"accept" in names
    assert not {b"accept-encoding", b"Range", b"range", b"if-range"} & set(names)


@pytest.mark.parametrize(
    "extension", ["http.response.pathsend", "http.response.zerocopysend", "http.response.push", "http.response.trailers"]
)
async def test_an_app_is_offered_no_way_to_send_past_the_guard(extension: str) -> None:
    """A file sent by path, a pushed response and trailers would leave unseen."""
    kit = Kit()
    seen: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(scope.get("extensions", {}))
        await whole(COMPLETION)(scope, receive, send)

    async def server(scope: Scope, receive: Any, send: Any) -> None:
        await kit.wrap(app)({**scope, "extensions": {extension: {}, "tls": {"server_cert": None}}}, receive, send)

    assert (await ask(server, key=kit.key)).status == 200
    assert seen == [{"tls": {"server_cert": None}}]


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
async def test_a_body_by_another_door_is_refused(kind: str) -> None:
    """Even from an app that does not ask whether the server offers it."""
    kit = Kit()
    sent: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"video/mp4")]})
        await send({"type": kind, "path": "/etc/passwd"})

    async def server(scope: Scope, receive: Any, send: Any) -> None:
        async def note(message: Message) -> None:
            sent.append(message)
            await send(message)

        await kit.wrap(app)(scope, receive, note)

    answer = await ask(server, key=kit.key)
    assert isinstance(answer.error, RuntimeError)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert kit.guard.counts["sealed:detached"] == 1  # over nothing, and as an error


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 204), ("POST", 304)])
async def test_an_answer_that_has_no_body_cannot_carry_one(method: str, status: int) -> None:
    """Some servers would pass the bytes on, and nothing seals them."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(COMPLETION, status=status)), "/v1/models", key=kit.key, method=method, body=b"")
    assert (answer.status, answer.body) == (status, b"")


async def test_no_field_of_the_app_speaks_of_other_bytes() -> None:
    """A length beside chunks, a digest of the untagged body, or a coding hidden behind a second field."""
    kit = Kit()
    fields = [(b"Transfer-Encoding", b"chunked"), (b"Repr-Digest", b"sha-256=:AAAA:"), (b"content-md5", b"x"), (b"etag", b'"1"')]
    answer = await ask(kit.wrap(whole(COMPLETION, headers=fields)), key=kit.key)
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert not {"transfer-encoding", "repr-digest", "content-md5"} & answer.headers.keys()
    assert answer.headers["etag"] == 'W/"1"'
    coded = whole(COMPLETION, headers=[(b"content-encoding", b"gzip"), (b"content-encoding", b"identity")])
    assert (await ask(kit.wrap(coded), key=kit.key)).body == COMPLETION
    assert kit.guard.counts["unsealed:encoded"] == 1


@pytest.mark.parametrize("media_type", [b"application/octet-stream", b"application/json"], ids=["untagged", "too large"])
async def test_a_body_cut_by_an_error_does_not_look_whole(media_type: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be said in-band the connection must break: ending the body made half a file look like all of it."""
    monkeypatch.setattr("tos_guard.exchange._responses.MAX_BODY_BYTES", 4)
    kit = Kit()
    answer = await ask(kit.wrap(streamed(b"half a file", RuntimeError("disk"), media_type=media_type)), key=kit.key)
    assert answer.body == b"half a file"
    assert isinstance(answer.error, RuntimeError)
    assert not answer.ended


async def test_nothing_that_naive_readers_take_for_an_event_follows_the_seal() -> None:
    """A last event without its blank line is none by the standard, but a reader of lines prints it."""
    kit = Kit()
    finish = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"total_tokens":1}}\n\n'
    late = b'data: {"choices":[{"index":0,"delta":{"content":"late"},"finish_reason":null}]}\n'
    for chunks in ([finish, late], [finish, usage, late]):
        kit = Kit()
        answer = await ask(kit.wrap(streamed(*chunks)), key=kit.key)
        assert b"ai_provenance" in answer.body
        assert b"late" not in answer.body
        assert kit.guard.counts["dropped_events"] == 1
    answer = await ask(kit.wrap(streamed(finish, b"data: [DONE]")), key=kit.key)
    assert answer.body.endswith(b"data: [DONE]"), "the end of a stream may be written sloppily"


@pytest.mark.parametrize(
    "body", [b'{"id":9007199254740993,"answer":"yes"}', b'{"x":"\\ud800","answer":"yes"}', b'{"x":1e400,"answer":"yes"}']
)
async def test_a_body_without_a_canonical_form_is_covered_all_the_same(body: bytes) -> None:
    """One large integer was enough for a seal over nothing, under which any other answer was valid."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(body)), "/v1/models", key=kit.key, body=b"{}")
    assert answer.body == body
    given: dict[str, Any] = {"trust": kit.trust, "now": kit.clock(), "token": answer.headers["ai-provenance"]}
    assert verify_body(body, **given).uncovered == ()
    with pytest.raises(ContentMismatchError):
        verify_body(body.replace(b"yes", b"no!"), **given)
    (record,) = records(kit)
    assert (record.carrier, record.proj) == ("header", "bytes-1")


# Records that say what happened


@pytest.mark.parametrize("allowed", ["deny", "allow"])
async def test_a_record_does_not_speak_of_a_token_that_was_never_made(allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the signer failed after the record was kept, it said 200 and named a token, although the client got 503 and none."""
    kit = Kit(settings={"failure": {"signer": allowed, "records": allowed}})

    def fail(key: Any, message: bytes) -> bytes:
        del key, message
        raise SignerError("the device is gone")

    monkeypatch.setattr(kit.signer, "sign", fail)
    answer = await ask(kit.wrap(whole(COMPLETION)), key=kit.key)
    assert answer.status == (503 if allowed == "deny" else 200)
    (record,) = records(kit)
    assert (record.status, record.jti, record.kid, record.unsealed, record.carrier) == (answer.status, None, None, "signer", "none")


async def test_a_record_names_no_status_that_was_never_sent() -> None:
    """A handler that had begun a body of its own and raised was recorded as 200, while the host answered 500."""
    kit = Kit()
    answer = await ask(kit.wrap(streamed(b"{", RuntimeError("boom"), media_type=b"application/json")), key=kit.key)
    assert answer.status == 0, "the guard sent nothing"
    (record,) = records(kit)
    assert (record.status, record.unsealed) == (0, "handler_raised")


@pytest.mark.parametrize("begun", [False, True], ids=["before the head", "after the head"])
async def test_the_record_of_a_stopped_body_has_the_status_that_was_sent(begun: bool) -> None:
    """The client got 403, and the record once said 0 or 200."""
    kit = Kit()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        del scope, receive
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        raise PolicyStop("no", clause="no-weapons")

    answer = await ask(kit.wrap(app), key=kit.key)
    assert answer.status == 403
    assert json.loads(answer.body)["error"]["type"] == "permission_error"
    (record,) = records(kit)
    assert (record.status, record.completion) == (403, "policy")


async def test_a_stop_does_not_swallow_what_else_went_wrong() -> None:
    """A task group raises both; the client learns of the stop, and the server of the other."""
    kit = Kit()
    group = ExceptionGroup("tasks", [PolicyStop("stop", clause="c"), RuntimeError("a bug")])
    answer = await ask(kit.wrap(streamed(b"data: {}\n\n", group)), key=kit.key)
    assert answer.error is group
    assert b"tos_policy_stop" in answer.body
    (record,) = records(kit)
    assert record.completion == "policy"


async def test_a_word_that_is_no_unicode_does_not_lose_the_refusal() -> None:
    """A lone surrogate in a path, or in what the host says of a stop, once raised in the middle of the answer."""
    kit = Kit()
    answer = await ask(kit.wrap(whole(b"")), CHAT, key=kit.key, body=b'{"model":"small","n":"\\ud800"}')
    assert answer.status == 400
    stopped = await ask(kit.wrap(streamed(b"data: {}\n\n", PolicyStop("stop \ud800", clause="c"))), key=kit.key)
    assert stopped.error is None
    assert b"tos_policy_stop" in stopped.body


# Rights that end while a body comes


class Slow:
    """A client whose body takes a second, in which something happens."""

    def __init__(self, body: bytes, meanwhile: Callable[[], object]) -> None:
        self.seconds = 0.0
        self._meanwhile = meanwhile
        self._messages = [(body[:1], True), (body[1:], False)]

    def monotonic(self) -> float:
        return self.seconds

    perf_counter = monotonic

    async def receive(self) -> Message:
        body, more = self._messages.pop(0)
        if not more:
            self.seconds += 1.0
            self._meanwhile()
        return {"type": "http.request", "body": body, "more_body": more}


async def answered(app: Any, path: str, key: str, client: Slow) -> int:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b"", "headers": headers}
    await app(scope, client.receive, send)
    return int(sent[0]["status"])


async def test_a_suspension_is_not_outlasted_by_a_slow_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who kept requests open, a byte short of their end, was served hours after the account was suspended."""
    kit, app = Kit(), Recorder()
    client = Slow(GENERATING, lambda: kit.change(standing=Standing.SUSPENDED))
    monkeypatch.setattr("tos_guard.guard._admitting.time", client)
    assert await answered(kit.wrap(app), CHAT, kit.key, client) == 403
    assert app.bodies == []


async def test_a_revoked_administrator_changes_nothing_with_a_slow_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key was good when the head came, and revoked when the change was made."""
    desk = Desk()
    guard = AsyncGuard(desk.given, **desk.parts)
    app = TosGuardMiddleware(Recorder(), guard=guard, routes=[AdminRoutes(guard)])
    client = Slow(b'{"reason":"revenge"}', lambda: desk.store.revoke_admin_key(desk.admin_key.split("-")[1]))
    monkeypatch.setattr("tos_guard.web._door.time", client)
    assert await answered(app, "/admin/accounts/solo/suspend", desk.admin_key, client) == 401
    assert desk.holder("solo").account.standing == "good"


@pytest.mark.parametrize("segment", ["..", ".", ""])
async def test_a_wildcard_of_a_route_stands_for_a_name_and_nothing_that_leads_elsewhere(segment: str) -> None:
    kit = Kit(settings={"routes": {"/v1/models/*": {"dialect": "plain-json", "model": "small"}}})
    assert (await ask(kit.wrap(whole(b"{}")), f"/v1/models/{segment}", key=kit.key)).status == 404
    assert (await ask(kit.wrap(whole(b"{}")), "/v1/models/small", key=kit.key)).status == 200
