"""What a FastAPI app's OpenAPI document says of the guard: of exactly the guarded operations, true, and never over the host's own words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import date
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security
from fastapi.security import APIKeyHeader
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator
from pydantic import BaseModel

from kit import CHAT, REQUEST, Answer, Kit, ask
from tos_guard import Admission
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.terms import parse_terms
from tos_guard.types import Standing
from tos_guard_fastapi import TosGuard, requires

SCORE = "/v1/models"
LIMITS = (
    Limit(id="requests", quantity=Quantity.REQUESTS, amount=3, per=(Dimension.ACCOUNT,), window=Sliding(60)),
    Limit(id="tokens", quantity=Quantity.TOKENS, amount=5_000, per=(Dimension.ACCOUNT,), window=Sliding(60)),
)


class Question(BaseModel):
    model: str
    max_tokens: int = 16


class Failure(BaseModel):
    reason: str


def host(**options: Any) -> FastAPI:
    """A host's own app: two routes to guard, and one that is exempt."""
    app = FastAPI(**options)

    @app.post(CHAT)
    async def chat(question: Question) -> dict[str, Any]:
        message = {"role": "assistant", "content": "Hello."}
        return {"choices": [{"index": 0, "message": message}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}

    @app.get(SCORE)
    async def models() -> list[str]:
        return ["small"]

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    return app


def install(app: FastAPI, **options: Any) -> Kit:
    kit = Kit(limits=LIMITS, **options)
    TosGuard(kit.guard).install(app)
    return kit


def operation(document: dict[str, Any], path: str = CHAT, method: str = "post") -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][path][method]
    return found


def resolved(document: dict[str, Any], value: Any) -> Any:
    """A value, or what it refers to."""
    while isinstance(value, dict) and "$ref" in value:
        found: Any = document
        for step in value["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        value = found
    return value


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (inner for name, inner in value.items() if name == "$ref")
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from references(inner)


# What it says


def test_exactly_the_guarded_operations_are_described() -> None:
    """What is exempt is as FastAPI wrote it; what is guarded says what is asked for, what is refused, and what is added."""
    app, bare = host(), host().openapi()
    install(app)
    document = app.openapi()
    assert document["paths"]["/healthz"] == bare["paths"]["/healthz"]
    for path, method, actions in ((CHAT, "post", ["generate"]), (SCORE, "get", ["classify"])):
        described = operation(document, path, method)
        assert described["x-tos-guard"] == {"actions": actions}
        assert described["security"] == [{"TosGuardBearer": []}, {"TosGuardKey": []}]
        assert {"400", "401", "403", "413", "429", "503"} <= described["responses"].keys()
        assert "451" not in described["responses"], "nothing is refused so"
        assert {"AI-Provenance", "Content-Digest", "RateLimit", "Link"} <= described["responses"]["200"]["headers"].keys()
    assert document["x-tos-guard"]["terms_uri"] == "https://api.example.com/.well-known/ai-provenance/terms/1"
    assert document["x-tos-guard"]["jwks_uri"] == "https://api.example.com/.well-known/jwks.json"
    assert document["info"]["termsOfService"] == "https://api.example.com/.well-known/ai-provenance/terms/1"


@pytest.mark.parametrize(
    ("version", "validator"), [("3.1.0", OpenAPIV31SpecValidator), ("3.0.3", OpenAPIV30SpecValidator)], ids=["3.1", "3.0"]
)
def test_the_document_is_one_that_other_tools_can_read(version: str, validator: Any) -> None:
    """Valid by the specification's own schema, every reference leads somewhere, and every operation keeps its id."""
    app = host()
    app.openapi_version = version
    bare = deepcopy(host().openapi())
    install(app)
    document = app.openapi()
    assert document["openapi"] == version
    assert list(validator(document).iter_errors()) == []
    for reference in references(document):
        assert resolved(document, {"$ref": reference}) is not None
    assert operation(document)["operationId"] == operation(bare)["operationId"]
    assert json.loads(json.dumps(document)) == document


async def test_the_document_that_is_served_is_this_one() -> None:
    """At the app's own address, to whoever may read it."""
    app = host()
    install(app)
    answer = await ask(app, "/openapi.json", method="GET", body=b"")
    assert json.loads(answer.body) == app.openapi()


async def test_every_refusal_and_every_field_is_as_the_document_says() -> None:
    """Refusals of all kinds, on routes of both shapes: each has a status, members and fields that are documented."""
    app = host()
    kit = install(app, settings={"max_request_bytes": 1024, "appeal_url": "https://api.example.com/appeal"})
    document = app.openapi()
    answers: list[tuple[str, str, Answer]] = []

    async def note(path: str = CHAT, method: str = "post", **options: Any) -> Answer:
        body = options.pop("body", REQUEST if path == CHAT else b"")
        answer = await ask(app, path, method=method.upper(), body=body, **{"key": kit.key, **options})
        answers.append((path, method, answer))
        return answer

    assert (await note(headers=[(b"accept", b"*/*")])).status == 200
    assert (await note(SCORE, "get")).status == 200
    for path, method in ((CHAT, "post"), (SCORE, "get")):
        assert (await note(path, method, key=None)).status == 401
        assert (await note(path, method, body=b"{" if path == CHAT else b'{"a":1,"a":1}')).status == 400
        assert (await note(path, method, body=b" " * 2000)).status == 413
    assert (await note(body=REQUEST.replace(b"small", b"other"))).status == 403
    assert (await note(body=REQUEST[:-1] + b',"max_tokens":90000}')).status == 429
    kit.change(limits={"requests": 2})
    assert (await note()).status == 429
    assert (await note(SCORE, "get")).status == 429
    kit.store.set_standing("acme", Standing.SUSPENDED, "test")
    assert (await note(SCORE, "get")).status == 403
    kit.store.set_standing("acme", Standing.GOOD, "test")
    kit.store.publish_terms(to_be_accepted())
    assert (await note()).status == 403
    for path, method, answer in answers:
        described = operation(document, path, method)["responses"][str(answer.status)]
        listed = {name.lower() for name in described["headers"]}
        ours = answer.headers.keys() - {"content-type", "content-length", "cache-control"}
        assert ours <= listed, f"{answer.status} on {path}"
        if answer.status != 200:
            media_type = answer.headers["content-type"]
            schema = {**described["content"][media_type]["schema"], "components": document["components"]}
            body = json.loads(answer.body)
            Draft202012Validator(schema).validate(body)
            written = resolved(document, described["content"][media_type]["schema"])
            if path == CHAT:
                written, body = written["properties"]["error"], body["error"]
            assert body.keys() <= written["properties"].keys(), f"{answer.status} on {path}"
    assert {answer.status for _, _, answer in answers} == {200, 400, 401, 403, 413, 429}


async def test_refusals_of_messages_are_as_the_document_says() -> None:
    """In the shape of Anthropic's errors, with its fields."""
    app = FastAPI()

    @app.post("/v1/messages")
    async def messages() -> Any:
        return {"content": []}

    kit = install(app, settings={"routes": {"/v1/messages": "anthropic-messages"}, "max_request_bytes": 1024})
    document = app.openapi()
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    told = Draft202012Validator({"$ref": "#/components/schemas/TosGuardMessagesError", "components": document["components"]})
    statuses = []
    for body in (REQUEST, REQUEST.replace(b"small", b"other"), b"{", b" " * 2000, REQUEST[:-1] + b',"max_tokens":90000}'):
        answer = await ask(app, "/v1/messages", key=kit.key, body=body)
        described = operation(document, "/v1/messages")["responses"][str(answer.status)]
        ours = answer.headers.keys() - {"content-type", "content-length", "cache-control"}
        assert ours <= {name.lower() for name in described["headers"]}
        statuses.append(answer.status)
        if answer.status != 200:
            assert described["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/TosGuardMessagesError"}
            refused = json.loads(answer.body)
            told.validate(refused)
            written = document["components"]["schemas"]["TosGuardMessagesError"]["properties"]
            assert refused.keys() == written.keys()
            assert refused["error"].keys() <= written["error"]["properties"].keys()
    assert statuses == [200, 403, 400, 413, 429]


def to_be_accepted() -> Any:
    """Terms that bind nobody who has not accepted them."""
    head = f'[terms]\nversion = "2"\ntitle = "T"\nuri = "https://api.example.com/terms/2"\neffective = {date(2026, 11, 2)}\ntext = "t.md"\n'
    clause = '[[clause]]\nid = "serve"\neffect = "permit"\naction = ["generate", "classify"]\ntext = "Served."\n'
    return parse_terms(f'{head}acceptance = "required"\n{clause}'.encode(), b"Words.")


async def test_a_failure_of_our_own_is_as_the_document_says() -> None:
    """503, in the same shape."""
    app = host()
    kit = install(app)
    kit.store.fault = "before"
    answer = await ask(app, key=kit.key)
    described = operation(app.openapi())["responses"]["503"]
    assert answer.status == 503
    schema = {**described["content"]["application/json"]["schema"], "components": app.openapi()["components"]}
    Draft202012Validator(schema).validate(json.loads(answer.body))
    ours = answer.headers.keys() - {"content-type", "content-length", "cache-control"}
    assert ours <= {name.lower() for name in described["headers"]}


# Whose credentials


def test_where_the_host_authenticates_its_own_schemes_are_the_schemes() -> None:
    """With `identify=` our keys open nothing, and are not named."""
    app = FastAPI()

    @app.post(CHAT, dependencies=[Security(APIKeyHeader(name="X-Customer"))])
    async def chat() -> None: ...

    @app.get(SCORE)
    async def models() -> None: ...

    install(app, overrides={"identify": lambda view: view.header("x-customer")})
    document = app.openapi()
    assert operation(document)["security"] == [{"APIKeyHeader": []}]
    assert "security" not in operation(document, SCORE, "get")
    assert list(document["components"]["securitySchemes"]) == ["APIKeyHeader"]


# The host's own words


def test_nothing_of_the_hosts_is_changed() -> None:
    """Its schemes, responses, fields, terms of service and extensions stay to the letter; ours stand beside them where there is room."""
    app = FastAPI(terms_of_service="https://host.example/terms")
    own = {
        403: {"model": Failure, "description": "Not for you.", "headers": {"link": {"schema": {"type": "string"}, "description": "Own."}}},
        "4XX": {"description": "Whatever else is wrong."},
    }

    @app.post(CHAT, responses=own, openapi_extra={"security": [], "x-own": 1})
    async def chat(question: Question) -> dict[str, Any]:
        return {}

    before = deepcopy(app.openapi())
    app.openapi_schema = None
    install(app)
    document = app.openapi()
    described, bare = operation(document), operation(before)
    assert (described["security"], described["x-own"]) == ([], 1)
    assert document["info"] == before["info"]
    refused = described["responses"]["403"]
    assert refused["description"] == "Not for you."
    assert refused["content"] == bare["responses"]["403"]["content"], "one media type has one schema, and it is the host's"
    assert refused["headers"]["link"] == own[403]["headers"]["link"]  # type: ignore[index]
    assert "Link" not in refused["headers"], "the same field in another spelling"
    assert described["responses"]["4XX"]["description"] == "Whatever else is wrong."
    for name in ("summary", "requestBody", "operationId"):
        assert described[name] == bare[name]
    assert document["components"]["schemas"]["Failure"] == before["components"]["schemas"]["Failure"]
    assert app.openapi_schema is not document
    assert operation(app.openapi_schema or {}) == bare, "what FastAPI keeps is the host's own"


def test_security_that_the_host_asks_for_everywhere_is_not_set_aside() -> None:
    """A requirement on an operation would replace the one at the root."""
    app = host()
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = {**plain(), "security": [{"Own": []}]}
        document["components"] = {**document["components"], "securitySchemes": {"Own": {"type": "http", "scheme": "basic"}}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    install(app)
    document = app.openapi()
    assert document["security"] == [{"Own": []}]
    assert "security" not in operation(document)
    assert list(document["components"]["securitySchemes"]) == ["Own"]


@pytest.mark.parametrize("when", ["before", "after", "around"])
async def test_an_openapi_of_the_hosts_own_is_respected(when: str) -> None:
    """However it is put in place, and whenever: what it says is said, and what the guard does is said beside it."""
    app = host()
    kit = Kit()
    guard = TosGuard(kit.guard)
    original: list[Callable[[], dict[str, Any]]] = [app.openapi]

    def openapi() -> dict[str, Any]:
        return {**original[0](), "x-logo": "host"}

    if when == "before":
        app.openapi = openapi  # type: ignore[method-assign]
        guard.install(app)
    else:
        guard.install(app)
        if when == "around":
            original[0] = app.openapi
        app.openapi = openapi  # type: ignore[method-assign]
    async with app.router.lifespan_context(app):
        document = app.openapi()
    assert document["x-logo"] == "host"
    assert operation(document)["security"] == [{"TosGuardBearer": []}, {"TosGuardKey": []}]
    assert "security" not in operation(document, "/healthz", "get")


def test_a_document_of_another_kind_or_of_none_is_left_alone() -> None:
    """An app may serve anything as its document."""
    for strange in ({}, {"swagger": "2.0", "paths": {CHAT: {"post": {}}}}, {"openapi": "3.1.0"}, {"openapi": "3.1.0", "paths": None}):
        app = host()
        app.openapi = lambda strange=strange: strange  # type: ignore[method-assign, misc]
        install(app)
        assert app.openapi() == strange


# Routes


def test_the_document_is_made_once_and_again_when_routes_follow() -> None:
    """As FastAPI's own; a router that is included later is described like the others."""
    app = host()
    kit = install(app, settings={"routes": {CHAT: "openai-chat", "/v1/later/*": {"dialect": "plain-json", "model": "m"}}})
    first = app.openapi()
    assert app.openapi() is first
    router = APIRouter(prefix="/later")

    @router.put("/{name}")
    async def later(name: str) -> None: ...

    app.include_router(router, prefix="/v1")
    app.openapi_schema = None  # what older FastAPI needs to notice, too
    document = app.openapi()
    assert operation(document, "/v1/later/{name}", "put")["security"]
    assert app.openapi() is document
    kit.store.publish_terms(to_be_accepted())
    kit.guard.rulebook.read(kit.store.terms_versions(), kit.store.version())
    assert app.openapi()["x-tos-guard"]["terms_uri"].endswith("/terms/2")


async def test_a_mounted_app_describes_its_own_routes() -> None:
    """By the paths under which they are served, wherever it is mounted, and even where that happens after `install`."""
    prefixes = ("/a", "/b/c", "/d")
    exempt = [f"{prefix}{path}" for prefix in prefixes for path in (SCORE, "/healthz", "/openapi.json")]
    kit = Kit(settings={"routes": {f"{prefix}{CHAT}": "openai-chat" for prefix in prefixes}, "exempt": exempt})
    early, deep, late = (host(docs_url=None, redoc_url=None) for _ in prefixes)
    app, between = FastAPI(), FastAPI(openapi_url=None)
    between.mount("/c", deep)
    app.mount("/a", early)
    app.mount("/b", between)
    TosGuard(kit.guard).install(app)
    assert operation(early.openapi())["security"], "before the app has started"
    app.mount("/d", late)
    async with app.router.lifespan_context(app):
        for inner in (early, deep, late):
            document = inner.openapi()
            assert operation(document)["security"] == [{"TosGuardBearer": []}, {"TosGuardKey": []}]
            assert "security" not in operation(document, SCORE, "get"), "not guarded there"
    assert app.openapi()["paths"] == {}
    assert "components" not in app.openapi()


# requires


def test_a_required_right_is_said_where_it_is_demanded() -> None:
    """On a route, a router and an app; no trace is left of how it got there."""
    app = FastAPI(dependencies=[Depends(requires("batch"))])
    router = APIRouter(dependencies=[Depends(requires("embed")), Security(APIKeyHeader(name="X-Own"))])

    @router.post("/completions")
    async def chat(admitted: Annotated[Admission, Depends(requires("fine-tune"))]) -> None: ...

    @app.get(SCORE)
    async def models() -> None: ...

    app.include_router(router, prefix="/v1/chat")
    install(app)
    document = app.openapi()
    described = operation(document)
    assert sorted(described["x-tos-guard"]["actions"]) == ["batch", "embed", "fine-tune", "generate"]
    assert described["x-tos-guard"]["actions"][0] == "generate"
    assert described["security"] == [{"APIKeyHeader": []}]
    assert operation(document, SCORE, "get")["x-tos-guard"]["actions"] == ["classify", "batch"]
    assert operation(document, SCORE, "get")["security"] == [{"TosGuardBearer": []}, {"TosGuardKey": []}]
    assert sorted(document["components"]["securitySchemes"]) == ["APIKeyHeader", "TosGuardBearer", "TosGuardKey"]
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_a_required_right_of_an_app_without_a_guard_is_still_a_valid_document() -> None:
    """The dependency documents itself; it is the guard that puts its word in the better place."""
    app = FastAPI()

    @app.post("/x", dependencies=[Depends(requires("fine-tune"))])
    async def x() -> None: ...

    document = app.openapi()
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    (scheme,) = document["components"]["securitySchemes"].values()
    assert scheme["description"] == "A right to the action fine-tune."
