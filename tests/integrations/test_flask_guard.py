"""What `tos_guard_flask` promises: nothing is unguarded by oversight, and the answer is the guard's, whatever a view does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask import Flask, Response, g, jsonify, request, send_file, stream_with_context
from flask.views import MethodView
from werkzeug.serving import make_server

from kit import REQUEST
from provisioned import Provider
from tos_guard.errors import ConfigurationError, DeniedError, PolicyStop
from tos_guard.guard import Admission
from tos_guard.limits import Dimension, Limit, Quantity
from tos_guard.types import Completion
from tos_guard.verify import Expected, Verified, verify_body, verify_stream
from tos_guard_flask import TosGuard, current_admission, requires
from wsgi_kit import WSGIKit

CHAT = "/v1/chat/completions"
COMPLETION = {"id": "c1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}]}


def chunk(text: str | None = None, *, finish: str | None = None) -> str:
    """One event of a chat stream."""
    delta = {} if text is None else {"content": text}
    return f"data: {json.dumps({'id': 'c1', 'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}]})}\n\n"


STREAM = (chunk("Hel"), chunk("lo."), chunk(finish="stop"), "data: [DONE]\n\n")


class Own(Flask):
    """A host that runs coroutines in its own way, as Flask has hosts do that do not want its extra for them."""

    def async_to_sync(self, func: Any) -> Any:
        return lambda *args, **kwargs: asyncio.run(func(*args, **kwargs))


def made(view: Any, kit: WSGIKit, **config: Any) -> Flask:
    """A guarded app whose chat route is *view*."""
    app = Own("made", static_folder=None)
    app.config.update(config)
    app.add_url_rule(CHAT, "chat", view, methods=["POST", "GET"])
    TosGuard(app, guard=kit.sync, keys=_Keys(kit))
    return app


class _Keys:
    def __init__(self, kit: WSGIKit) -> None:
        self._kit = kit

    def public_set(self, now: Any) -> Any:
        del now
        return self._kit.signer.key_set


def post(app: Flask, kit: WSGIKit, path: str = CHAT, **given: Any) -> Any:
    """Ask as the account."""
    return app.test_client().post(
        path, data=REQUEST, buffered=True, headers={"Authorization": f"Bearer {kit.key}"}, content_type="application/json", **given
    )


def proven(kit: WSGIKit, answer: Any) -> Verified:
    """What a caller can prove of an answer."""
    expected = Expected(request=REQUEST, salt=answer.headers["ai-provenance-salt"])
    given: dict[str, Any] = {"trust": kit.trust, "now": kit.clock(), "expected": expected, "token": answer.headers["ai-provenance"]}
    if answer.mimetype == "text/event-stream":
        return verify_stream(answer.data, **given)
    return verify_body(answer.data, content_digest=answer.headers.get("content-digest"), **given)


def streamed(*chunks: str | Exception) -> Iterator[str]:
    """A generator that raises where an exception stands among its chunks."""
    for each in chunks:
        if isinstance(each, Exception):
            raise each
        yield each


# Views


def test_json_and_streams_are_sealed() -> None:
    """Both shapes that a chat route has, with and without the request's context."""
    kit = WSGIKit()
    views = (
        lambda: jsonify(COMPLETION),
        lambda: COMPLETION,
        lambda: Response(streamed(*STREAM), mimetype="text/event-stream"),
        lambda: Response(stream_with_context(streamed(*STREAM)), mimetype="text/event-stream"),
    )
    for view in views:
        assert proven(kit, post(made(view, kit), kit)).claims.completion is Completion.COMPLETE
    assert [record.completion for record in kit.records()] == ["complete"] * 4


def test_a_view_learns_what_was_decided() -> None:
    """From the proxy, from ``g``, in a `before_request` that was registered before, and in a stream that keeps its context."""
    kit, seen = WSGIKit(), []
    app = Flask("learns", static_folder=None)

    @app.before_request
    def before() -> None:
        seen.append(g.tos_guard.request_id)

    @app.post(CHAT)
    def chat() -> Response:
        admitted: Admission = g.tos_guard
        seen.append(current_admission.request_id)

        def content() -> Iterator[str]:
            seen.append(admitted.request_id)
            seen.append(current_admission.request_id)
            yield from STREAM

        return Response(stream_with_context(content()), mimetype="text/event-stream")

    TosGuard(app, guard=kit.sync, keys=_Keys(kit))
    answer = post(app, kit)
    assert answer.data
    assert len(seen) == 4
    assert set(seen) == {answer.headers["x-request-id"]}


def test_where_nothing_was_decided_there_is_no_admission() -> None:
    """An exempt route that asks for one is told, not served."""
    kit = WSGIKit()
    app = made(lambda: COMPLETION, kit, TESTING=True)

    @app.get("/healthz")
    def healthz() -> str:
        assert g.tos_guard is None
        return current_admission.request_id

    with pytest.raises(ConfigurationError, match="nothing was decided"):
        app.test_client().get("/healthz")


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_policy_stop_of_a_view_is_the_answer(begun: bool, testing: bool) -> None:
    """Flask would make a 500 of it. Raised in the view, or in a stream that is under way."""
    kit = WSGIKit()

    def view() -> Response:
        stop = PolicyStop("not this", clause="no-resale")
        if not begun:
            raise stop
        return Response(streamed(STREAM[0], stop), mimetype="text/event-stream")

    answer = post(made(view, kit, TESTING=testing), kit)
    assert answer.status_code == (200 if begun else 403)
    assert b"no-resale" in answer.data
    assert proven(kit, answer).claims.completion is Completion.POLICY


@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_denial_that_a_view_meets_is_the_answer(begun: bool, caught: bool) -> None:
    """Whatever Flask, an error handler of the host or the view makes of it."""
    kit = WSGIKit()

    def view() -> Any:
        if not begun:
            try:
                current_admission.require("fine-tune")
            except Exception:
                if not caught:
                    raise
            return COMPLETION
        admitted = g.tos_guard

        def content() -> Iterator[str]:
            yield STREAM[0]
            admitted.require("fine-tune")

        return Response(content(), mimetype="text/event-stream")

    app = made(view, kit)
    if caught:
        app.register_error_handler(Exception, lambda error: ("nothing happened", 200))
    answer = post(app, kit)
    assert answer.status_code == (200 if begun else 403)
    assert b"tos_action_not_allowed" in answer.data
    assert [record.type for record in kit.records()] == ["denial"]


def test_an_exception_of_a_view_is_flasks_500_and_sealed_as_an_error() -> None:
    """Flask answers it inside the guard, so that the client can prove this too."""
    kit = WSGIKit()

    def view() -> Response:
        raise ValueError("broken")

    answer = post(made(view, kit), kit)
    assert answer.status_code == 500
    assert proven(kit, answer).claims.completion is Completion.ERROR


def test_a_denial_of_the_hosts_own_is_answered_in_our_shape() -> None:
    """One that no guard has met: a refusal, and no 500."""
    kit = WSGIKit()
    app = made(lambda: COMPLETION, kit)

    @app.get("/healthz")
    def healthz() -> str:
        raise DeniedError("not for you", reason="tos_denied", clauses=())

    answer = app.test_client().get("/healthz")
    assert (answer.status_code, answer.get_json(force=True)["code"]) == (403, "tos_denied")


@pytest.mark.parametrize("view", [lambda: ("", 204), lambda: send_file(BytesIO(b"\x89PNG"), mimetype="image/png"), lambda: ""])
def test_answers_without_json_pass_as_they_are(view: Any) -> None:
    """Empty ones, and files, which are sent without the server's own way of sending files."""
    kit = WSGIKit()
    app = made(view, kit)
    plain = Flask("plain", static_folder=None)
    plain.add_url_rule(CHAT, "chat", view, methods=["POST"])
    answer = post(app, kit)
    assert answer.data == plain.test_client().post(CHAT).data
    assert len(kit.records()) == 1


def test_head_runs_the_view_and_sends_no_body() -> None:
    """Flask answers HEAD with the view of GET."""
    kit = WSGIKit()
    answer = made(lambda: COMPLETION, kit).test_client().head(CHAT, headers={"Authorization": f"Bearer {kit.key}"})
    assert answer.data == b""


def test_what_runs_at_teardown_finds_the_exchange_as_it_was() -> None:
    """`after_request` comes before the seal, `teardown_request` before the stream, `call_on_close` after all of it."""
    kit, order = WSGIKit(), []

    def view() -> Response:
        def content() -> Iterator[str]:
            order.append("content")
            yield from STREAM

        answer = Response(content(), mimetype="text/event-stream")
        answer.call_on_close(lambda: order.append(f"closed, {len(kit.records())} recorded"))
        return answer

    app = made(view, kit)
    app.after_request(lambda answer: order.append("after") or answer)
    app.teardown_request(lambda error: order.append("teardown"))
    proven(kit, post(app, kit))
    assert order == ["after", "teardown", "content", "closed, 1 recorded"]


# One right more


class Tunes(MethodView):
    """A view whose methods ask for different rights."""

    def get(self) -> Any:
        """Anyone may look."""
        return COMPLETION

    @requires("fine-tune")
    def post(self) -> Any:
        """Not anyone may begin."""
        return COMPLETION


@requires("classify")
@requires("generate")
async def allowed() -> Any:
    """A coroutine, which Flask runs."""
    return COMPLETION


def test_a_right_more_is_demanded_before_the_view_runs() -> None:
    """Of functions, of methods, and of coroutines."""
    kit = WSGIKit(settings={"routes": {CHAT: "openai-chat", "/v1/tunes": "openai-chat"}})
    app = made(lambda: COMPLETION, kit)
    app.add_url_rule("/v1/tunes", view_func=Tunes.as_view("tunes"))
    refused = post(app, kit, "/v1/tunes")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (403, "tos_action_not_allowed")
    assert proven(kit, post(made(allowed, kit), kit)).claims.completion is Completion.COMPLETE


def test_an_action_that_no_terms_can_name_is_refused_where_it_is_written() -> None:
    with pytest.raises(ConfigurationError, match="cannot be an action"):
        requires("Fine Tune")


# Apps and their configuration


def test_a_route_that_nobody_named_stops_the_app() -> None:
    """When `check` is called, and else at the first request, before anything is served, exempt routes too."""
    kit = WSGIKit()
    app = made(lambda: COMPLETION, kit)
    app.add_url_rule("/healthz", "healthz", lambda: "ok")
    app.add_url_rule("/v1/forgotten/<path:name>", "forgotten", lambda name: name)
    app.testing = True
    with pytest.raises(ConfigurationError, match="/v1/forgotten/x"):
        TosGuard().check(app)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="neither guarded nor exempt"):
            app.test_client().get("/healthz")


def test_routes_may_follow_the_guard() -> None:
    """What is registered after `init_app` is looked through as well, and served."""
    kit = WSGIKit(settings={"routes": {CHAT: "openai-chat", "/v1/models/*": {"dialect": "plain-json", "model": "small"}}})
    app = made(lambda: COMPLETION, kit)
    app.add_url_rule("/v1/models/<name>", "model", lambda name: {"id": name})
    TosGuard().check(app)
    answer = app.test_client().get("/v1/models/one", headers={"Authorization": f"Bearer {kit.key}"})
    assert answer.get_json()["id"] == "one"
    assert "ai_provenance" in answer.get_json()


def test_an_exempt_route_that_demands_a_right_stops_the_app() -> None:
    """Nothing is decided there, so the demand could not be met."""
    kit = WSGIKit()
    app = made(lambda: COMPLETION, kit)
    app.add_url_rule("/healthz", "healthz", requires("fine-tune")(lambda: "ok"))
    with pytest.raises(ConfigurationError, match="demand a right"):
        TosGuard().check(app)


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    """A provisioned folder."""
    return Provider(tmp_path)


def from_config(provider: Provider, extension: TosGuard, **config: Any) -> Flask:
    """An app with static files, guarded as its config says."""
    app = Flask("configured")
    app.config.update(TOS_GUARD_SETTINGS=str(provider.settings), **config)
    app.add_url_rule("/v1/models", "models", lambda: {"object": "list", "data": []})
    extension.init_app(app)
    return app


def test_one_extension_guards_several_apps_each_by_its_own_config(tmp_path: Path) -> None:
    """Nothing of an app stays on the extension."""
    extension = TosGuard()
    providers = [
        Provider(tmp_path / name, issuer=f"https://{name}.example.com") for name in ("one", "two") if not (tmp_path / name).mkdir()
    ]
    apps = [from_config(provider, extension) for provider in providers]
    for provider, app in zip(providers, apps, strict=True):
        client = app.test_client()
        assert client.get("/.well-known/ai-provenance").get_json()["issuer"] == provider.issuer
        assert client.get("/v1/models", headers={"X-API-Key": provider.keys["good"]}).status_code == 200
        assert extension.guard_of(app).settings.issuer == provider.issuer
        other = providers[provider is providers[0]]
        assert client.get("/v1/models", headers={"X-API-Key": other.keys["good"]}).status_code == 401
    for app in apps:
        extension.guard_of(app).close_stores()


def test_parts_come_from_the_config_too(provider: Provider) -> None:
    """``TOS_GUARD_IDENTIFY`` is the ``identify=`` of `Guard.from_file`; what the host authenticates is in the environ."""
    extension = TosGuard()
    app = from_config(provider, extension, TOS_GUARD_IDENTIFY=lambda view: view.host.get("REMOTE_USER"))
    assert app.test_client().get("/v1/models").status_code == 401
    assert app.test_client().get("/v1/models", environ_base={"REMOTE_USER": "good"}).status_code == 200
    extension.guard_of(app).close_stores()


def test_static_files_are_flasks_own_business_unless_the_config_says_no(provider: Provider) -> None:
    """They have no account; with ``TOS_GUARD_STATIC`` false they are a route like any other."""
    extension = TosGuard()
    app = from_config(provider, extension)
    extension.check(app)
    client = app.test_client()
    assert client.get("/static/none.css").status_code == 404, "Flask's own answer"
    assert "ai-provenance" not in client.get("/static/none.css").headers
    assert "/static/*" in client.get("/.well-known/ai-provenance").get_json()["sealed"]["exempt"]
    strict = from_config(provider, extension, TOS_GUARD_STATIC=False)
    with pytest.raises(ConfigurationError, match="/static/x"):
        extension.check(strict)
    for each in (app, strict):
        extension.guard_of(each).close_stores()


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/chat"])
def test_static_files_never_exempt_what_is_guarded(path: str) -> None:
    """At the root, or above a guarded route, they would leave it open: that is told before anything is served."""
    kit = WSGIKit()
    app = Flask("open", static_url_path=path)
    app.add_url_rule(CHAT, "chat", lambda: jsonify(COMPLETION), methods=["POST"])
    with pytest.raises(ConfigurationError, match="would exempt routes"):
        TosGuard(app, guard=kit.sync, keys=_Keys(kit))
    assert not kit.sync.is_exempt(CHAT)


def test_static_files_of_one_app_open_nothing_of_another_with_the_same_guard() -> None:
    kit = WSGIKit()
    with_static, without = Flask("with", static_url_path="/files"), Flask("without", static_folder=None)
    without.add_url_rule("/files/<name>", "secret", lambda name: name)
    for app in (with_static, without):
        TosGuard(app, guard=kit.sync, keys=_Keys(kit))
    assert with_static.test_client().get("/files/none").status_code == 404
    with pytest.raises(ConfigurationError, match="/files/x"):
        without.test_client().get("/files/secret")


def test_a_view_below_the_static_files_is_found() -> None:
    """It would be served to anyone, and nobody had said so."""
    kit = WSGIKit()
    app = Flask("below")
    app.add_url_rule("/static/secret", "secret", lambda: "secret")
    guard = TosGuard(app, guard=kit.sync, keys=_Keys(kit))
    with pytest.raises(ConfigurationError, match="below the app's static files"):
        guard.check(app)


@pytest.mark.parametrize(
    ("config", "message"),
    [({}, "TOS_GUARD_SETTINGS is not set"), ({"TOS_GUARD_SETINGS": "x"}, "there is no TOS_GUARD_SETINGS")],
)
def test_a_config_that_makes_no_guard_is_told(config: dict[str, Any], message: str) -> None:
    """At `init_app`, before anything is served."""
    app = Flask("unconfigured")
    app.config.update(config)
    with pytest.raises(ConfigurationError, match=message):
        TosGuard(app)
    with pytest.raises(ConfigurationError, match="has no guard"):
        TosGuard().check(app)


def test_an_app_has_one_guard() -> None:
    """A second `init_app` is an oversight; so is a guard beside what one is made of."""
    kit = WSGIKit()
    app = made(lambda: COMPLETION, kit)
    with pytest.raises(ConfigurationError, match="a guard already"):
        TosGuard(app, guard=kit.sync)
    other = Flask("other")
    other.config["TOS_GUARD_SETTINGS"] = "tos-guard.toml"
    with pytest.raises(ConfigurationError, match="as well"):
        TosGuard(other, guard=kit.sync)


def test_an_openapi_document_says_what_the_guard_does() -> None:
    """The fragment that FastAPI apps get, for documents that the host makes: actions of `requires` per method included."""
    kit = WSGIKit(settings={"routes": {CHAT: "openai-chat", "/v1/tunes/*": "openai-chat"}})
    app = made(lambda: COMPLETION, kit)
    app.add_url_rule("/v1/tunes/<int:number>", view_func=Tunes.as_view("tunes"))
    app.add_url_rule("/healthz", "healthz", lambda: "ok")
    operations = {"/v1/tunes/{number}": {"get": {}, "post": {}}, "/healthz": {"get": {}}, CHAT: {"post": {}}}
    document = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": operations}
    said = TosGuard().openapi(app, document)
    paths = said["paths"]
    assert paths["/v1/tunes/{number}"]["post"]["x-tos-guard"] == {"actions": ["generate", "fine-tune"]}
    assert paths["/v1/tunes/{number}"]["get"]["x-tos-guard"] == {"actions": ["generate"]}
    assert paths[CHAT]["post"]["responses"].keys() >= {"401", "403", "429"}
    assert paths["/healthz"] == {"get": {}}
    assert document["paths"] == {"/v1/tunes/{number}": {"get": {}, "post": {}}, "/healthz": {"get": {}}, CHAT: {"post": {}}}


# On werkzeug's threaded server


class Served:
    """An app on werkzeug's threaded server."""

    def __init__(self, app: Flask) -> None:
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> str:
        self._thread.start()
        return self.url

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def headers(kit: WSGIKit) -> dict[str, str]:
    """Of a request of the account."""
    return {"Authorization": f"Bearer {kit.key}", "Content-Type": "application/json"}


def test_a_stream_is_read_while_it_is_made() -> None:
    """The client has head and first chunk while the view waits to make the second."""
    kit, go_on = WSGIKit(), threading.Event()

    def view() -> Response:
        def content() -> Iterator[str]:
            yield STREAM[0]
            assert go_on.wait(10)
            yield from STREAM[1:]

        return Response(content(), mimetype="text/event-stream")

    with Served(made(view, kit)) as url, httpx2.stream("POST", url + CHAT, content=REQUEST, headers=headers(kit)) as answer:
        assert answer.headers["ai-provenance"]
        pieces = answer.iter_raw()
        assert next(pieces) == STREAM[0].encode()
        go_on.set()
        assert b'"ai_provenance"' in b"".join(pieces)


def test_a_client_that_leaves_mid_stream_is_recorded_and_frees_its_slot() -> None:
    """The server closes the response: the generator ends, the exchange is recorded as aborted, and the slot is free."""
    kit = WSGIKit(limits=[Limit(id="at-once", quantity=Quantity.CONCURRENCY, amount=1, per=(Dimension.ACCOUNT,), window=None)])
    ended = threading.Event()

    def view() -> Response:
        def content() -> Iterator[str]:
            try:
                while True:
                    yield STREAM[0] * 100
            finally:
                ended.set()

        return Response(content(), mimetype="text/event-stream")

    with Served(made(view, kit)) as url:
        with httpx2.stream("POST", url + CHAT, content=REQUEST, headers=headers(kit)) as answer:
            next(answer.iter_raw())
        assert ended.wait(10)
    assert [(record.unsealed, record.completion) for record in kit.records()] == [("client_gone", "aborted")]
    assert kit.used() == {"at-once": 0}


def test_a_view_that_raises_mid_stream_ends_with_a_sealed_error() -> None:
    """The client reads a whole body, in chunks with their end, whose token says ``error``."""
    kit = WSGIKit()
    app = made(lambda: Response(streamed(STREAM[0], ValueError("broken")), mimetype="text/event-stream"), kit)
    with Served(app) as url:
        answer = httpx2.post(url + CHAT, content=REQUEST, headers=headers(kit))
    expected = Expected(request=REQUEST, salt=answer.headers["ai-provenance-salt"])
    verified = verify_stream(answer.content, trust=kit.trust, now=kit.clock(), expected=expected, token=answer.headers["ai-provenance"])
    assert verified.claims.completion is Completion.ERROR


def test_a_request_in_chunks_is_read_bounded_and_given_to_the_view() -> None:
    """Without a length: the server takes the chunks apart, and the guard reads no more than the settings allow."""
    kit = WSGIKit(settings={"max_request_bytes": 2048})
    app = made(lambda: {**COMPLETION, "length": len(request.get_data())}, kit)
    with Served(app) as url:
        fine = httpx2.post(url + CHAT, content=iter([REQUEST[:10], REQUEST[10:]]), headers=headers(kit))
        assert (fine.status_code, fine.json()["length"]) == (200, len(REQUEST))
        large = httpx2.post(url + CHAT, content=iter([b" " * 1000] * 4), headers=headers(kit))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "tos_request_too_large")
