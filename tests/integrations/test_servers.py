"""The servers that people run, and nginx in front: the example providers pass one smoke list on each, over gRPC too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from other_servers import gunicorn, hypercorn, nginx
from provisioned import Provider
from serving import serve_import
from smoke import SMOKE, Target

APP = "provider_fastapi.guarded:guarded"
FLASK_APP = "provider_flask.guarded:guarded()"
PROXY = "location / {{ proxy_pass {url}; client_max_body_size 64m; {more} }}"
GZIP = "gzip on; gzip_min_length 1; gzip_types application/json text/event-stream; gzip_proxied any;"

Start = Callable[[Provider, Path], Iterator[str]]


def _uvicorn(provider: Provider, _: Path) -> Iterator[str]:
    with serve_import(APP, factory=True, env=provider.environment()) as server:
        yield server.base_url


def _uvicorn_on_h11(provider: Provider, _: Path) -> Iterator[str]:
    with serve_import(APP, factory=True, workers=1, env=provider.environment(), options=["--http", "h11"]) as server:
        yield server.base_url


def _hypercorn(provider: Provider, _: Path) -> Iterator[str]:
    with hypercorn(f"{APP}()", env=provider.environment()) as url:
        yield url


def _gunicorn_asgi(provider: Provider, _: Path) -> Iterator[str]:
    with gunicorn(f"{APP}()", options=["-k", "asgi"], env=provider.environment()) as server:
        yield server.base_url


def _gunicorn_threads(provider: Provider, _: Path) -> Iterator[str]:
    with gunicorn(FLASK_APP, workers=1, options=["--threads", "8"], env=provider.environment()) as server:
        yield server.base_url


def _gunicorn_preload(provider: Provider, _: Path) -> Iterator[str]:
    with gunicorn(FLASK_APP, options=["--preload"], env=provider.environment()) as server:
        yield server.base_url


def _flask_behind_nginx(provider: Provider, folder: Path) -> Iterator[str]:
    with ExitStack() as stack:
        server = stack.enter_context(gunicorn(FLASK_APP, options=["--threads", "4"], env=provider.environment()))
        yield stack.enter_context(nginx(folder, PROXY.format(url=server.base_url, more=GZIP)))


def _behind_nginx(more: str) -> Start:
    def start(provider: Provider, folder: Path) -> Iterator[str]:
        with ExitStack() as stack:
            server = stack.enter_context(serve_import(APP, factory=True, env=provider.environment()))
            yield stack.enter_context(nginx(folder, PROXY.format(url=server.base_url, more=more)))

    return start


SERVERS: dict[str, Start] = {
    "uvicorn, 2 workers": _uvicorn,
    "uvicorn on h11": _uvicorn_on_h11,
    "hypercorn, 2 workers": _hypercorn,
    "gunicorn -k asgi, 2 workers": _gunicorn_asgi,
    "gunicorn with Flask behind nginx that compresses": _flask_behind_nginx,
    "gunicorn with threads, the Flask example": _gunicorn_threads,
    "gunicorn --preload, 2 workers, the Flask example": _gunicorn_preload,
    "nginx as it comes, buffering, HTTP/1.0 upstream": _behind_nginx(""),
    "nginx, no buffering, HTTP/1.1 upstream": _behind_nginx('proxy_buffering off; proxy_http_version 1.1; proxy_set_header Connection "";'),
    "nginx that compresses all it sees": _behind_nginx(GZIP),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_passes_the_smoke_list(name: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Every line of the list holds; those that do not are all named."""
    provider = Provider(tmp_path)
    failed: dict[str, BaseException] = {}
    with contextmanager(SERVERS[name])(provider, tmp_path) as url:
        for line in SMOKE:
            try:
                line(Target(url, provider))
            except Exception as error:
                failed[line.__name__] = error
    assert not failed, failed
    record_property("counts", "\n".join(f"{line.__name__.replace('_', ' ')}: held" for line in SMOKE))
