"""Ways around the guard of a FastAPI app that were open once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Host, Route, Router

from kit import CHAT, Kit, ask
from provisioned import Provider
from tos_guard.errors import ConfigurationError
from tos_guard.stores import KeyFolder
from tos_guard.web.asgi import TosGuardMiddleware
from tos_guard.web.wellknown import JWKS_PATH, PREFIX, WellKnown
from tos_guard_fastapi import TosGuard

ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello. " * 200}}]}


def chat(request: Any) -> JSONResponse:
    del request
    return JSONResponse(ANSWER)


def page(request: Any) -> PlainTextResponse:
    del request
    return PlainTextResponse("generated")


def test_a_hosts_own_route_at_the_path_of_the_docs_is_not_exempt() -> None:
    """The paths of FastAPI's pages were exempt whether or not FastAPI served them."""
    for app in (FastAPI(docs_url=None, redoc_url=None), FastAPI(openapi_url=None), Starlette()):
        app.router.routes.append(Route("/docs", page))
        guard = TosGuard(Kit().guard)
        guard.install(app)
        with pytest.raises(ConfigurationError, match="1 routes are neither guarded nor exempt: /docs"):
            guard.check_routes(app)


def test_pages_of_fastapi_are_exempt_where_the_app_serves_them() -> None:
    """Also at other paths than the usual ones."""
    app = FastAPI(docs_url="/internal/docs", openapi_url="/internal/schema.json")
    guard = TosGuard(Kit().guard)
    guard.install(app)
    guard.check_routes(app)
    assert guard.guard.is_exempt("/internal/docs")
    assert not guard.guard.is_exempt("/docs")


def test_routes_behind_a_host_name_are_looked_through() -> None:
    """Their paths were read as none at all, and nobody could tell which route was meant."""
    app = Starlette(routes=[Host("api.example.com", Router([Route("/v1/hidden", page)]))])
    guard = TosGuard(Kit().guard)
    guard.install(app)
    with pytest.raises(ConfigurationError, match="1 routes are neither guarded nor exempt: /v1/hidden"):
        guard.check_routes(app)


@pytest.mark.parametrize("mounted", [False, True], ids=["included", "included in a mounted app"])
def test_routes_of_included_routers_are_looked_through(mounted: bool) -> None:
    """Newer FastAPI keeps a router as one route without a path: each of its routes was read as "", which no setting could name."""
    inner, outer, app = APIRouter(), APIRouter(), FastAPI()
    inner.add_api_route("/hidden/{id}", lambda: "forgotten")
    inner.add_route("/files/{name}", page)
    outer.include_router(inner, prefix="/v1")
    serving = FastAPI(openapi_url=None) if mounted else app
    serving.include_router(outer, prefix="/api")
    if mounted:
        app.mount("/sub", serving)
    guard = TosGuard(Kit().guard)
    guard.install(app)
    prefix = "/sub" if mounted else ""
    with pytest.raises(ConfigurationError, match=rf"2 routes .*: {prefix}/api/v1/files/{{name}}, {prefix}/api/v1/hidden/{{id}}\."):
        guard.check_routes(app)


async def test_compression_inside_the_guard_does_not_unseal() -> None:
    """Starlette's own middleware once made every answer to a client with ``Accept-Encoding`` unsealable."""
    kit = Kit()
    app = Starlette(routes=[Route(CHAT, chat, methods=["POST"])], middleware=[Middleware(GZipMiddleware)])
    answer = await ask(kit.wrap(app), key=kit.key, headers=[(b"accept-encoding", b"gzip")])
    assert b'"ai_provenance"' in answer.body
    assert "content-encoding" not in answer.headers


async def test_an_app_with_a_root_path_is_guarded_by_its_routes() -> None:
    """Starlette serves each route with and without its root path; the guard knows both as the same."""
    kit = Kit()
    app = FastAPI(openapi_url=None)
    app.router.routes.append(Route(CHAT, chat, methods=["POST"]))
    TosGuard(kit.guard).install(app)

    async def server(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/api"}, receive, send)

    for path in (CHAT, "/api" + CHAT):
        assert (await ask(server, path, key=kit.key)).headers["ai-provenance"]
        assert (await ask(server, path)).status == 401


@pytest.mark.parametrize("path", [JWKS_PATH, f"{PREFIX}/key-history"])
async def test_documents_that_cannot_be_read_are_refused_and_counted(path: str, tmp_path: Path) -> None:
    """A key folder that is away once gave a traceback to whoever asked."""
    kit = Kit()
    Provider(tmp_path)
    folder = KeyFolder(tmp_path / "keys")
    documents = WellKnown(kit.guard.settings, lambda: kit.guard.terms, folder, kit.clock)
    app = TosGuardMiddleware(page, guard=kit.guard, documents=documents)  # type: ignore[arg-type]
    assert (await ask(app, path, method="GET", body=b"")).status == 200
    folder.path.rename(tmp_path / "away")
    answer = await ask(app, path, method="GET", body=b"")
    assert (answer.status, answer.error) == (503, None)
    assert str(tmp_path).encode() not in answer.body
    assert kit.guard.counts["failed:documents"] == 1
