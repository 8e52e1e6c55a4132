"""The Flask example on gunicorn: threads, several workers, and workers forked after the guard was built."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.simple_server import make_server as simple_server

import httpx2
import pytest
from werkzeug.serving import make_server

import head_first
from kit import REQUEST
from other_servers import gunicorn
from provisioned import ISSUER, Provider, now
from tos_guard.provenance import parse_token
from tos_guard.types import Completion
from tos_guard.verify import Expected, verify_body, verify_stream
from wsgi_kit import WSGIKit

APP = "provider_flask.guarded:guarded()"
CHAT = "/v1/chat/completions"
LIMITS = """
[[limits]]
id = "twenty"
quantity = "requests"
amount = 20
window = "1h"
per = ["account"]
"""


def asked(**more: Any) -> bytes:
    """A request."""
    return json.dumps({"model": "smollm2-135m", "messages": [{"role": "user", "content": "Go on"}], **more}).encode()


def proven(provider: Provider, answer: httpx2.Response, request: bytes) -> Completion | None:
    """How an answer says that it ended, once it is proven."""
    expected = Expected(request=request, salt=answer.headers["ai-provenance-salt"])
    given: dict[str, Any] = {"trust": provider.trust(), "now": now(), "expected": expected, "token": answer.headers["ai-provenance"]}
    if answer.headers["content-type"].startswith("text/event-stream"):
        return verify_stream(answer.content, **given).claims.completion
    return verify_body(answer.content, **given).claims.completion


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    """A provisioned folder."""
    return Provider(tmp_path)


WAYS = {
    "threads": ["--threads", "4"],
    "workers": ["--workers", "2"],
    "preload": ["--workers", "2", "--preload", "--threads", "4"],
}


@pytest.mark.parametrize(("way", "records"), [("threads", "async"), ("workers", "durable"), ("preload", "durable"), ("preload", "async")])
def test_gunicorn_serves_what_can_be_proven(tmp_path: Path, way: str, records: str) -> None:
    """JSON and streams from several connections at once: sealed, recorded once each, by whichever process, also when it has ended."""
    provider, options = Provider(tmp_path, records=records), WAYS[way]
    headers = {"authorization": f"Bearer {provider.keys['good']}", "content-type": "application/json"}
    with gunicorn(APP, workers=_workers(options), options=options, env=provider.environment()) as served:

        def one(number: int) -> Completion | None:
            request = asked(stream=bool(number % 2), user=str(number))
            return proven(provider, httpx2.post(served.base_url + CHAT, content=request, headers=headers, timeout=30), request)

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(one, range(16))) == {Completion.COMPLETE}
    with provider.store() as store:
        assert [record.unsealed for record in store.of_account(ISSUER, "good")] == [None] * 16


def _workers(options: Sequence[str]) -> int:
    return int(options[options.index("--workers") + 1]) if "--workers" in options else 1


def test_workers_that_were_forked_after_the_guard_was_built_share_its_limits(provider: Provider) -> None:
    """Twenty requests are admitted by all of them together, not twenty by each."""
    provider.settings.write_text(provider.settings.read_text() + LIMITS)
    headers = {"authorization": f"Bearer {provider.keys['good']}", "content-type": "application/json"}
    with gunicorn(APP, workers=2, options=["--preload", "--threads", "2"], env=provider.environment()) as served:

        def one(_: int) -> int:
            return httpx2.post(served.base_url + CHAT, content=asked(), headers=headers, timeout=30).status_code

        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(one, range(30)))
    assert (statuses.count(200), statuses.count(429)) == (20, 10)


class Threads(ThreadingMixIn, WSGIServer):
    """The standard library's server, with a thread for each request."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Its handler, without its log."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def in_a_thread(server: Any) -> Iterator[str]:
    """A server in this process; gives its base URL."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def under_gunicorn(_: WSGIKit) -> Iterator[str]:
    """The same app in a process of gunicorn."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with gunicorn("head_first:application()", workers=1, options=["--threads", "4"], env={"PYTHONPATH": path}) as served:
        yield served.base_url


SERVERS = {
    "werkzeug": lambda kit: in_a_thread(make_server("127.0.0.1", 0, head_first.make(kit), threaded=True)),
    "wsgiref": lambda kit: in_a_thread(simple_server("127.0.0.1", 0, head_first.make(kit), Threads, Quiet)),
    "gunicorn": under_gunicorn,
}


@pytest.mark.parametrize("name", SERVERS)
def test_the_head_of_a_stream_leaves_before_there_is_content(name: str) -> None:
    """With its pending token; the content comes only after the client has read the head and asked for more elsewhere."""
    kit = WSGIKit()
    headers = {"authorization": f"Bearer {kit.key}", "content-type": "application/json"}
    with SERVERS[name](kit) as url, httpx2.stream("POST", url + CHAT, content=REQUEST, headers=headers, timeout=15) as answer:
        assert parse_token(answer.headers["ai-provenance"]).jws.payload["stage"] == "pending"
        assert httpx2.get(f"{url}/healthz", timeout=15).status_code == 200
        assert b'"ai_provenance"' in answer.read()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Provider, str]]:
    """One provider on gunicorn's threads."""
    provider = Provider(tmp_path_factory.mktemp("kept"))
    with gunicorn(APP, workers=1, options=["--threads", "4"], env=provider.environment()) as served:
        yield provider, served.base_url


def test_a_connection_is_kept_through_every_kind_of_answer(kept: tuple[Provider, str]) -> None:
    """JSON, a stream, HEAD, a refusal with an unread body, 404 and an exempt path: the next answer is never read for the last."""
    provider, url = kept
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    credential = {"Authorization": f"Bearer {provider.keys['good']}", "Content-Type": "application/json"}
    connection.connect()
    socket = connection.sock
    for _ in range(2):
        for method, path, body, headers, status in (
            ("POST", CHAT, asked(), credential, 200),
            ("POST", CHAT, asked(stream=True), credential, 200),
            ("HEAD", "/v1/models", None, credential, 200),
            ("POST", CHAT, asked(), {}, 401),
            ("POST", CHAT, b"{", credential, 400),
            ("GET", "/v1/other", None, credential, 404),
            ("GET", "/healthz", None, {}, 200),
            ("GET", "/.well-known/jwks.json", None, {}, 200),
        ):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            assert (answer.status, bool(content)) == (status, method != "HEAD"), (method, path)
    assert connection.sock is socket
    connection.close()


def test_a_request_in_chunks_is_read(kept: tuple[Provider, str]) -> None:
    """gunicorn takes the chunks apart."""
    provider, url = kept
    request = asked()
    headers = {"authorization": f"Bearer {provider.keys['good']}", "content-type": "application/json"}
    answer = httpx2.post(url + CHAT, content=iter([request[:9], request[9:]]), headers=headers)
    assert proven(provider, answer, request) is Completion.COMPLETE


def test_a_route_that_nobody_named_stops_gunicorn(provider: Provider) -> None:
    """`check` in the factory: the master does not come to serve."""
    provider.settings.write_text(provider.settings.read_text().replace('"/v1/models"', '"/v1/models-of-old"'))
    with (
        pytest.raises(RuntimeError, match="1 routes are neither guarded nor exempt: /v1/models"),
        gunicorn(APP, workers=1, options=["--preload"], env={**os.environ, **provider.environment()}),
    ):
        pass
