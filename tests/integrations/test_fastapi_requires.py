"""A right that only a handler knows to ask for: `requires` and `Admission.require`, whatever a FastAPI app makes of the denial."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware

from kit import CHAT, REQUEST, Answer, Kit, ask
from tos_guard import Admission
from tos_guard.errors import ConfigurationError, DeniedError
from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.types import Completion
from tos_guard.verify import verify_stream
from tos_guard_fastapi import TosGuard, admission, requires

ANSWER: dict[str, Any] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}]}
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
PER_ACCOUNT = (Dimension.ACCOUNT,)
LIMITS = (
    Limit(id="requests", quantity=Quantity.REQUESTS, amount=100, per=PER_ACCOUNT, window=Sliding(60)),
    Limit(id="tokens", quantity=Quantity.TOKENS, amount=100_000, per=PER_ACCOUNT, window=Sliding(60)),
    Limit(id="slots", quantity=Quantity.CONCURRENCY, amount=1, per=PER_ACCOUNT, window=None),
)
ESTIMATE = 4_096 + len(REQUEST) // 2 + len(REQUEST) % 2  # the default maximum, and the prompt's own size

Admitted = Annotated[Admission, Depends(admission)]


def guarded(app: FastAPI, **options: Any) -> Kit:
    """A guard on *app*, whose account may generate and classify, but not embed."""
    kit = Kit(limits=LIMITS, **options)
    TosGuard(kit.guard).install(app)
    return kit


def check_denied(kit: Kit, answer: Answer) -> None:
    """Every denial looks the same, wherever it was met: 403 in the dialect's shape, one record, and nothing left reserved."""
    error = json.loads(answer.body)["error"]
    assert (answer.status, answer.headers["x-should-retry"], answer.ended) == (403, "false", True)
    assert (error["code"], error["type"]) == ("tos_action_not_allowed", "permission_error")
    assert error["message"].startswith("This account has no right to the action embed.")
    assert "ai-provenance" not in answer.headers
    check_record(kit, status=403)
    assert kit.used() == {"requests": 1, "tokens": 0, "slots": 0}


def check_record(kit: Kit, *, status: int) -> ExchangeRecord:
    """The one record of a denial for the action that the handler asked for."""
    (record,) = kit.records()
    assert (record.type, record.decision, record.action, record.status) == (RecordType.DENIAL, "deny", "embed", status)
    assert kit.guard.counts["denied:tos_action_not_allowed"] == 1
    assert kit.guard.counts["reservation:settled"] == 1
    return record


# requires


def on_the_route(app: FastAPI) -> None:
    @app.post(CHAT, dependencies=[Depends(requires("embed"))])
    async def chat() -> Any:
        return ANSWER


def on_a_sync_route(app: FastAPI) -> None:
    @app.post(CHAT)
    def chat(admitted: Annotated[Admission, Depends(requires("embed"))]) -> Any:
        return {**ANSWER, "account": admitted.account.id}


def on_a_router(app: FastAPI) -> None:
    router = APIRouter(prefix="/v1", dependencies=[Depends(requires("embed"))])

    @router.post("/chat/completions")
    async def chat() -> Any:
        return ANSWER

    app.include_router(router)


def on_the_inclusion(app: FastAPI) -> None:
    router = APIRouter()

    @router.post("/completions")
    def chat() -> Any:
        return ANSWER

    app.include_router(router, prefix="/v1/chat", dependencies=[Depends(requires("embed"))])


def searching(admitted: Annotated[Admission, Depends(requires("embed"))]) -> Admission:
    return admitted


def under_another_dependency(app: FastAPI) -> None:
    @app.post(CHAT)
    async def chat(admitted: Annotated[Admission, Depends(searching)]) -> Any:
        return ANSWER


PLACES = [on_the_route, on_a_sync_route, on_a_router, on_the_inclusion, under_another_dependency]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_a_required_right_is_demanded_before_the_handler_runs(place: Callable[[FastAPI], None]) -> None:
    """Wherever a dependency may stand, for sync and async handlers: 403 without the right, and the same answer as ever with it."""
    app = FastAPI()
    place(app)
    kit = guarded(app)
    check_denied(kit, await ask(app, key=kit.key))
    kit.change(actions=frozenset({"generate", "embed"}))
    answer = await ask(app, key=kit.key)
    assert (answer.status, json.loads(answer.body)["choices"]) == (200, ANSWER["choices"])


async def test_a_required_right_may_come_from_a_grant_of_the_terms_or_of_the_action() -> None:
    """It is decided as any request is: account, grants and clauses, for the model and purpose of the running request."""
    app = FastAPI()
    on_the_route(app)
    kit = guarded(app)
    kit.change(actions=frozenset({"generate", "embed"}), models=frozenset({"other"}))
    answer = await ask(app, key=kit.key)
    assert json.loads(answer.body)["error"]["code"] == "tos_model_not_allowed"


async def test_a_right_required_on_an_exempt_route_is_an_error_that_says_so() -> None:
    """Nothing is decided there, so nothing could be demanded: the start stops, and a request that comes all the same fails."""
    app = FastAPI()

    @app.get("/healthz", dependencies=[Depends(requires("embed"))])
    async def healthz() -> str:
        return "ok"

    kit = Kit()
    guard = TosGuard(kit.guard)
    guard.install(app)
    with pytest.raises(ConfigurationError, match=r"1 exempt routes demand a right with requires\(\): /healthz"):
        guard.check_routes(app)
    answer = await ask(app, "/healthz", method="GET", body=b"")
    assert isinstance(answer.error, ConfigurationError)
    assert "nothing was decided for this request" in str(answer.error)
    assert "/healthz" in str(answer.error)


@pytest.mark.parametrize("name", ["", "Embed", "fine tune", "fine_tune", "x" * 33])
def test_a_word_that_cannot_be_an_action_is_refused_where_it_is_written(name: str) -> None:
    """At import, and not with the first customer."""
    with pytest.raises(ConfigurationError, match="cannot be an action of terms"):
        requires(name)


async def test_a_test_of_the_host_may_put_something_else_in_its_place() -> None:
    """Two that demand the same are equal, so that FastAPI's own overrides find them."""
    app = FastAPI()
    on_the_route(app)
    kit = guarded(app)
    app.dependency_overrides[requires("embed")] = lambda: None
    assert (await ask(app, key=kit.key)).status == 200
    assert requires("embed") != requires("classify")


# A denial inside the app, in all orders


def raised_by_the_handler(app: FastAPI) -> None:
    @app.post(CHAT)
    async def chat(admitted: Admitted) -> Any:
        admitted.require("embed")
        return ANSWER


def raised_in_a_thread(app: FastAPI) -> None:
    @app.post(CHAT)
    def chat(admitted: Admitted) -> Any:
        admitted.require("embed")
        return ANSWER


def raised_in_a_task_group(app: FastAPI) -> None:
    @app.post(CHAT)
    async def chat(admitted: Admitted) -> Any:
        async def search() -> None:
            admitted.require("embed")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(search())
        return ANSWER


async def session(request: Request) -> AsyncIterator[str]:
    request.app.state.closed = []
    try:
        yield "session"
    finally:
        request.app.state.closed.append("closed")


def raised_around_a_dependency_with_yield(app: FastAPI) -> None:
    @app.post(CHAT)
    async def chat(admitted: Admitted, held: Annotated[str, Depends(session)]) -> Any:
        admitted.require("embed")
        return ANSWER


def raised_behind_middleware_of_the_host(app: FastAPI) -> None:
    async def dispatch(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    raised_by_the_handler(app)


def caught_and_answered_by_the_handler(app: FastAPI) -> None:
    @app.post(CHAT)
    async def chat(admitted: Admitted) -> Any:
        try:
            admitted.require("embed")
        except DeniedError:
            return ANSWER


def caught_and_made_another_error(app: FastAPI) -> None:
    @app.post(CHAT)
    async def chat(admitted: Admitted) -> Any:
        try:
            admitted.require("embed")
        except DeniedError as error:
            raise HTTPException(404, "not here") from error


def caught_by_an_exception_handler(app: FastAPI) -> None:
    @app.exception_handler(DeniedError)
    async def answer(request: Request, error: DeniedError) -> JSONResponse:
        return JSONResponse({"detail": "the host's own words"}, status_code=200)

    raised_by_the_handler(app)


def caught_and_streamed(app: FastAPI) -> None:
    @app.post(CHAT)
    async def chat(admitted: Admitted) -> Any:
        try:
            admitted.require("embed")
        except DeniedError:
            return StreamingResponse(iter([CHUNK, END]), media_type="text/event-stream")


def caught_with_work_left_for_later(app: FastAPI) -> None:
    done: list[str] = []
    app.state.done = done

    @app.post(CHAT)
    async def chat(admitted: Admitted, later: BackgroundTasks) -> Any:
        later.add_task(done.append, "trained")
        try:
            admitted.require("embed")
        except DeniedError:
            return {"accepted": True}


INSIDE = [
    raised_by_the_handler,
    raised_in_a_thread,
    raised_in_a_task_group,
    raised_around_a_dependency_with_yield,
    raised_behind_middleware_of_the_host,
    caught_and_answered_by_the_handler,
    caught_and_made_another_error,
    caught_by_an_exception_handler,
    caught_and_streamed,
    caught_with_work_left_for_later,
]


@pytest.mark.parametrize("shape", INSIDE, ids=lambda shape: shape.__name__)
async def test_a_denial_met_by_the_handler_is_the_answer(shape: Callable[[FastAPI], None]) -> None:
    """Raised anywhere, or caught and papered over: a failed check is never an answer with content, nor work done in the background."""
    app = FastAPI()
    shape(app)
    kit = guarded(app)
    answer = await ask(app, key=kit.key)
    check_denied(kit, answer)
    assert answer.error is None
    assert getattr(app.state, "closed", ["closed"]) == ["closed"]
    assert getattr(app.state, "done", []) == []


async def test_a_dependency_with_yield_that_swallows_the_denial_does_not_hide_it() -> None:
    """FastAPI calls that a bug of the dependency and raises; the client gets the denial, and the server the host's error."""
    app = FastAPI()

    def swallowing() -> Iterator[None]:
        with suppress(DeniedError):
            yield

    @app.post(CHAT, dependencies=[Depends(swallowing)])
    async def chat(admitted: Admitted) -> Any:
        admitted.require("embed")
        return ANSWER

    kit = guarded(app)
    answer = await ask(app, key=kit.key)
    check_denied(kit, answer)
    assert isinstance(answer.error, RuntimeError)


async def test_another_error_beside_the_denial_is_for_the_server_to_know() -> None:
    """The client gets the denial all the same."""
    app = FastAPI()

    @app.post(CHAT)
    async def chat(admitted: Admitted) -> Any:
        try:
            admitted.require("embed")
        finally:
            raise KeyError("a bug while cleaning up")

    kit = guarded(app)
    answer = await ask(app, key=kit.key)
    check_denied(kit, answer)
    assert isinstance(answer.error, KeyError)


async def test_an_app_that_catches_the_denial_and_says_nothing_has_answered_with_it() -> None:
    """Not with silence, in which a server would break the connection."""
    kit = Kit(limits=LIMITS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            scope["state"]["tos_guard"].require("embed")
        except DeniedError:
            return

    check_denied(kit, await ask(kit.wrap(app), key=kit.key))


@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "swallowed"])
async def test_a_denial_in_a_stream_that_has_begun_is_its_end(swallowed: bool) -> None:
    """Status and first chunks are out: the stream ends with the denial in-band, under a token that says so, and nothing comes after it."""
    app = FastAPI()
    produced: list[str] = []

    @app.post(CHAT)
    async def chat(admitted: Admitted) -> Any:
        async def events() -> AsyncIterator[bytes]:
            yield CHUNK
            try:
                admitted.require("embed")
            except DeniedError:
                if not swallowed:
                    raise
            yield CHUNK.replace(b"Hel", b"secret")
            produced.append("went on")
            yield END

        return StreamingResponse(events(), media_type="text/event-stream")

    kit = guarded(app)
    answer = await ask(app, key=kit.key)
    assert (answer.status, answer.ended, answer.error, produced) == (200, True, None, [])
    assert answer.body.startswith(CHUNK)
    assert b"secret" not in answer.body
    error = json.loads(answer.body.removeprefix(CHUNK).removeprefix(b"data: "))["error"]
    assert (error["code"], error["terms_url"]) == ("tos_action_not_allowed", kit.guard.terms.uri)
    claims = verify_stream(answer.body, trust=kit.trust, now=kit.clock()).claims
    assert claims.completion is Completion.POLICY
    record = check_record(kit, status=200)
    assert (record.jti, record.completion) == (claims.jti, "policy")
    assert kit.used() == {"requests": 1, "tokens": ESTIMATE, "slots": 0}, "what it took until then is not known, so the estimate stays"


@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "swallowed"])
async def test_a_denial_where_nothing_can_be_said_in_band_breaks_the_response_off(swallowed: bool) -> None:
    """Half a body must not look like all of it, and the denied half does not leave."""
    app = FastAPI()

    @app.post(CHAT)
    async def chat(admitted: Admitted) -> Any:
        async def lines() -> AsyncIterator[bytes]:
            yield b"first half, "
            try:
                admitted.require("embed")
            except DeniedError:
                if not swallowed:
                    raise
            yield b"second half"

        return StreamingResponse(lines(), media_type="text/plain")

    kit = guarded(app)
    answer = await ask(app, key=kit.key)
    assert (answer.body, answer.ended) == (b"first half, ", False)
    assert isinstance(answer.error, DeniedError), "the server must hear of it, or it would end the body as if it were whole"
    record = check_record(kit, status=200)
    assert (record.carrier, record.completion, record.unsealed) == ("detached", "policy", None)


async def test_a_body_that_has_begun_and_is_still_held_is_replaced_by_the_denial() -> None:
    """The app has sent a head of 200 and half a body; the client has none of it."""
    kit = Kit(limits=LIMITS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"half":', "more_body": True})
        scope["state"]["tos_guard"].require("embed")

    answer = await ask(kit.wrap(app), key=kit.key)
    check_denied(kit, answer)
    assert b"half" not in answer.body


def in_the_background(app: FastAPI, respond: Callable[[], Response]) -> None:
    @app.post(CHAT)
    async def chat(admitted: Admitted) -> Any:
        response = respond()
        response.background = BackgroundTask(admitted.require, "embed")
        return response


def asking_while_closing(admitted: Admitted) -> Iterator[None]:
    yield
    admitted.require("embed")


def when_a_dependency_closes(app: FastAPI, respond: Callable[[], Response]) -> None:
    @app.post(CHAT, dependencies=[Depends(asking_while_closing)])
    async def chat() -> Any:
        return respond()


@pytest.mark.parametrize("late", [in_the_background, when_a_dependency_closes], ids=lambda late: late.__name__)
@pytest.mark.parametrize(
    ("respond", "unsealed"),
    [
        (lambda: JSONResponse(ANSWER), None),
        (lambda: PlainTextResponse("words"), None),
        (lambda: StreamingResponse(iter([b"words"]), media_type="text/plain"), None),
        (lambda: PlainTextResponse("words", headers={"content-encoding": "br"}), "encoded"),
    ],
    ids=["sealed", "sealed in the header", "sealed beside it", "not sealed"],
)
async def test_a_denial_after_the_response_changes_nothing_of_it(late: Any, respond: Callable[[], Response], unsealed: str | None) -> None:
    """Something asks for more than it may when all is said: the server hears of it; answer, record and seal stay true."""
    app = FastAPI()
    late(app, respond)
    kit = guarded(app)
    answer = await ask(app, key=kit.key)
    assert (answer.status, answer.ended) == (200, True)
    assert isinstance(answer.error, DeniedError)
    (record,) = kit.records()
    assert (record.type, record.decision, record.action, record.unsealed) == (RecordType.EXCHANGE, "allow", "generate", unsealed)
    assert record.completion != "error"
    assert kit.guard.counts["denied:tos_action_not_allowed"] == 1
    assert kit.used()["slots"] == 0


async def test_a_guard_that_monitors_lets_a_denied_handler_go_on_and_records_it() -> None:
    """Nothing is refused, and what would have been is told."""
    app = FastAPI()
    on_the_route(app)
    kit = guarded(app, settings={"mode": "monitor"})
    answer = await ask(app, key=kit.key)
    assert (answer.status, "ai_provenance" in json.loads(answer.body)) == (200, True)
    (record,) = kit.records()
    assert (record.type, record.decision, record.action, record.mode) == (RecordType.EXCHANGE, "deny", "embed", "monitor")
    assert kit.guard.counts["monitored:tos_action_not_allowed"] == 1


async def test_a_slot_comes_back_when_the_response_ends_and_not_when_its_background_work_does() -> None:
    """A limit of one at a time once refused the next request for as long as the host tidied up behind the last answer."""
    app = FastAPI()
    begun, tidied = asyncio.Event(), asyncio.Event()

    async def tidy() -> None:
        begun.set()
        await tidied.wait()

    @app.post(CHAT)
    async def chat(later: BackgroundTasks) -> Any:
        later.add_task(tidy)
        return ANSWER

    kit = guarded(app)
    first = asyncio.create_task(ask(app, key=kit.key))
    await begun.wait()
    assert kit.used()["slots"] == 0
    second = asyncio.create_task(ask(app, key=kit.key))
    tidied.set()
    assert [(await answer).status for answer in (first, second)] == [200, 200]


async def test_what_is_reserved_is_that_of_the_routes_own_action() -> None:
    """A limit that is confined to another action counts nothing, whatever right the handler demands."""
    app = FastAPI()

    @app.post(CHAT, dependencies=[Depends(requires("classify"))])
    async def complete() -> dict[str, Any]:
        return ANSWER

    def confined(action: str) -> Limit:
        actions = frozenset({action})
        return Limit(id=action, quantity=Quantity.REQUESTS, amount=1, per=PER_ACCOUNT, window=Sliding(60), actions=actions)

    kit = Kit(limits=[confined("classify"), confined("generate")])
    TosGuard(kit.guard).install(app)
    assert (await ask(app, key=kit.key)).status == 200
    assert json.loads((await ask(app, key=kit.key)).body)["error"]["limit"] == "generate"
    assert kit.used(action="classify") == {"classify": 0}
