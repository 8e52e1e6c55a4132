"""The traps that gateways for models fall into, each as requests to a guarded app.

A case is named after its trap; its docstring says which kind of bug that was, and where one was reported. Time stands still until it is
moved; where a server is real, so is its time.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import http_sf
import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from kit import CHAT, ISSUER, Answer, Kit, Message, Scope, ask, streamed, whole
from provisioned import Provider
from serving import Serve, ServedProcess, ServeProcess
from tos_guard.errors import PolicyStop, StoreError
from tos_guard.guard import ModelFacts, utc_now
from tos_guard.limits import Calendar, Dimension, Limit, Price, Quantity, Sliding
from tos_guard.protocols import AsyncLimitEngine, LimitEngine
from tos_guard.rights import Account, Grant, Organization, hash_secret, new_api_key
from tos_guard.stores import AsyncFallbackLimits, AsyncValkeyLimits, FallbackLimits, MemoryLimits, SQLiteLimits
from tos_guard.terms import new_acceptance, parse_terms
from tos_guard.testing import FixedClock, SeededEntropy
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind
from tos_guard.verify import verify_body
from tos_guard_fastapi import TosGuard

MINUTE = Sliding(60)
SLOT = timedelta(seconds=5)
"""A twelfth of a minute: what comes back may do so by so much later."""

PROMPT = "x" * 100


def limit(quantity: str, amount: int, **changes: Any) -> Limit:
    """A limit per account and minute, named after what it counts."""
    window = None if quantity == "concurrency" else MINUTE
    defaults = {"id": quantity, "quantity": Quantity(quantity), "amount": amount, "per": (Dimension.ACCOUNT,), "window": window}
    return Limit(**(defaults | changes))


def question(**members: Any) -> bytes:
    """A request of the chat dialect."""
    return json.dumps({"model": "small", "messages": [{"role": "user", "content": PROMPT}], **members}).encode()


def prompt_tokens(body: bytes) -> int:
    """What the prompt is estimated at: a token for two bytes, rounded up."""
    return (len(body) + 1) // 2


def reserving(total: int, **members: Any) -> bytes:
    """A request for which so many tokens are reserved, prompt and output together."""
    longest = question(max_tokens=total, **members)
    return question(max_tokens=total - prompt_tokens(longest), **members).ljust(len(longest))


def completion(prompt: int = 0, output: int = 0) -> bytes:
    """A response that says what it used."""
    message = {"role": "assistant", "content": "Hello."}
    usage = {"prompt_tokens": prompt, "completion_tokens": output}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}).encode()


def event(**members: Any) -> bytes:
    return b"data: " + json.dumps(members).encode() + b"\n\n"


CHUNK = event(choices=[{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}])
FINISH = event(choices=[{"index": 0, "delta": {"content": "lo."}, "finish_reason": "stop"}])
USAGE = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 5})
DONE = b"data: [DONE]\n\n"


def error(answer: Answer) -> Any:
    """What a refusal says."""
    return json.loads(answer.body)["error"]


def refused_for(answer: Answer) -> str:
    """The limit for which a request was refused."""
    assert (answer.status, error(answer)["code"]) == (429, "tos_limit"), answer
    return str(error(answer)["limit"])


async def until(holds: Callable[[], bool]) -> None:
    """Let everything else go on until something holds."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for knows nothing of us
            await asyncio.sleep(0)


class Model:
    """A host's model: it begins when it is asked, and answers when it is let.

    Attributes:
        running: How many answers are under way.
        asked: How many were asked for.
    """

    def __init__(self, *, answer: bytes = completion(), held: bool = True) -> None:
        self.running = 0
        self.asked = 0
        self.answer = answer
        self.gate = asyncio.Event()
        self.arrived = asyncio.Event()
        if not held:
            self.gate.set()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.running += 1
        self.asked += 1
        self.arrived.set()
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        await whole(self.answer)(scope, receive, send)


MakeKit = Callable[..., Kit]


@pytest.fixture(params=["memory", "sqlite", "valkey"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeKit]:
    """Makes guards with limits in memory, in a file, and in Valkey behind its failure mode; those of one test share file or domain."""
    engines: list[LimitEngine | AsyncLimitEngine] = []
    domain = f"traps-{secrets.token_hex(6)}"
    url = request.getfixturevalue("valkey") if request.param == "valkey" else ""

    def in_valkey(**times: Any) -> AsyncLimitEngine:
        began = times["clock"]().timestamp() - times["monotonic"]()
        engine = AsyncValkeyLimits(
            url,
            domain=domain,
            note_domain=lambda domain: True,
            deadline=timedelta(seconds=20),  # is not what is tested here, and the machine may be busy
            unsafe_time=lambda: round((began + times["monotonic"]()) * 1000),  # on another host, where nobody sets the clock
        )
        return AsyncFallbackLimits(engine, mode="deny", on_use=lambda *use: None, **times)

    def make_kit(*limits: Limit, clock: FixedClock | None = None, monotonic: Callable[[], float] | None = None, **options: Any) -> Kit:
        clock = clock or FixedClock()
        times: dict[str, Any] = {"clock": clock, "monotonic": monotonic or (lambda: clock().timestamp())}
        if request.param == "sqlite":
            engines.append(SQLiteLimits(tmp_path / "limits.db", boot="one", **times))
        elif request.param == "valkey":
            engines.append(in_valkey(**times))
        else:
            engines.append(MemoryLimits(**times))
        return Kit(clock=clock, limits=limits, engine=engines[-1], **options)

    yield make_kit
    for engine in engines:
        if isinstance(engine, AsyncLimitEngine):
            await engine.close()
        else:
            engine.close()


# Concurrency


async def test_concurrency(make: MakeKit) -> None:
    """Budgets charged after the response: five calls at once spent more than the cap (BerriAI/litellm#40002, #18730).

    200 concurrent calls that reserve 800 and use 500 under a cap of 10,000: never above it, and refunds admit more.
    """
    kit = make(limit("tokens", 10_000))
    highest = 0
    admitted = []
    for _ in range(2):
        model = Model(answer=completion(100, 400))
        app = kit.wrap(model)
        calls = [asyncio.create_task(ask(app, key=kit.key, body=reserving(800))) for _ in range(200)]

        def all_decided(model: Model = model, calls: list[asyncio.Task[Answer]] = calls) -> bool:
            nonlocal highest
            highest = max(highest, kit.used()["tokens"])
            return sum(call.done() for call in calls) + model.running == 200

        await until(all_decided)
        model.gate.set()
        answers = await asyncio.gather(*calls)
        assert {answer.status for answer in answers} == {200, 429}
        admitted.append(model.asked)
        assert kit.used()["tokens"] == 500 * sum(admitted)
    assert admitted == [12, 5]
    assert 9_600 <= highest <= 10_000


async def test_concurrency_of_several_limits_at_once(make: MakeKit) -> None:
    """Scopes reserved one by one, and released as well as one can: what one limit refuses, no other may keep (the same reports)."""
    kit = make(limit("tokens", 100_000), limit("requests", 3), limit("concurrency", 2))
    model = Model()
    calls = [asyncio.create_task(ask(kit.wrap(model), key=kit.key, body=reserving(800))) for _ in range(20)]
    await until(lambda: sum(call.done() for call in calls) + model.running == 20)
    assert kit.used() == {"tokens": 1_600, "requests": 2, "concurrency": 2}
    model.gate.set()
    assert sorted(answer.status for answer in await asyncio.gather(*calls)) == [200] * 2 + [429] * 18


# What a request could cost


@pytest.mark.parametrize(
    "members",
    [
        {"max_tokens": 1, "max_completion_tokens": 10_000},
        {"max_tokens": 10_000, "max_completion_tokens": 1},
        {"max_tokens": 1, "max_output_tokens": 10_000},
        {"max_tokens": 1, "max_new_tokens": 10_000},
        {"max_tokens": 1, "max_gen_len": 10_000},
        {"max_tokens": 1, "max_length": 10_000},
        {"max_tokens": 1, "max_tokens_to_sample": 10_000},
        {"max_tokens": 1, "n_predict": 10_000},
        {"max_tokens": 1, "num_predict": 10_000},
        {"max_tokens": 1, "options": {"num_predict": 10_000}},
        {"max_tokens": 1, "parameters": {"max_new_tokens": 10_000}},
        {"max_tokens": 1, "sampling_params": {"max_new_tokens": 10_000}},
        {"max_tokens": 1, "sampling_params": {"max_tokens": 10_000}},
        {"max_tokens": 1, "generation_config": {"max_output_tokens": 10_000}},
        {"max_tokens": 1, "generationConfig": {"maxOutputTokens": 10_000}},
        {"max_tokens": 1, "inferenceConfig": {"maxTokens": 10_000}},
        {"max_tokens": 1, "reasoning": {"max_tokens": 10_000}},
        {"max_tokens": 1, "thinking": {"type": "enabled", "budget_tokens": 10_000}},
    ],
    ids=lambda members: "+".join(members),
)
async def test_mixed_maximum_fields(members: dict[str, Any]) -> None:
    """A small maximum under one name hid a large one under another: 2 tokens were reserved for 10,000 (BerriAI/litellm#37001)."""
    kit = Kit(limits=[limit("output-tokens", 15_000)])
    model = Model()
    call = asyncio.create_task(ask(kit.wrap(model), key=kit.key, body=question(**members)))
    await model.arrived.wait()
    assert kit.used() == {"output-tokens": 10_000}
    assert refused_for(await ask(kit.wrap(model), key=kit.key, body=question(**members))) == "output-tokens"
    model.gate.set()
    assert (await call).status == 200
    assert kit.used() == {"output-tokens": 0}


@pytest.mark.parametrize(
    ("members", "times"),
    [
        ({"n": 4}, 4),
        ({"best_of": 4}, 4),
        ({"n": 2, "best_of": 4}, 4),
        ({"n": 4, "best_of": 2}, 4),
        ({"n": 1}, 1),
        ({"sampling_params": {"n": 4}}, 4),
        ({"sampling_params": [{"n": 2}, {"n": 4}]}, 4),
        ({"parameters": {"best_of": 4}}, 4),
        ({"parameters": {"num_return_sequences": "4"}}, 4),
        ({"generationConfig": {"candidateCount": 4}}, 4),
        ({"n": 1, "generation_config": {"candidate_count": 4}}, 4),
    ],
    ids=json.dumps,
)
async def test_choices_multiply(members: dict[str, Any], times: int) -> None:
    """One request for many choices was charged as one of them, or those made and thrown away as none."""
    kit = Kit(limits=[limit("output-tokens", 10_000)])
    model = Model()
    call = asyncio.create_task(ask(kit.wrap(model), key=kit.key, body=question(max_tokens=1_000, **members)))
    await model.arrived.wait()
    assert kit.used() == {"output-tokens": 1_000 * times}
    model.gate.set()
    await call


@pytest.mark.parametrize(
    ("prompt", "times"),
    [("one", 1), (["one", "two", "three"], 3), ([1, 2, 3], 1), ([[1], [2, 3]], 2), ([], 1)],
    ids=["text", "texts", "tokens", "lists of tokens", "none"],
)
async def test_prompts_multiply(prompt: Any, times: int) -> None:
    """A completion for each of a list of prompts was charged as one: the older completion API answers all of them."""
    routes = {"/v1/completions": {"dialect": "plain-json", "model": "small"}}
    kit = Kit(limits=[limit("output-tokens", 50_000)], settings={"routes": routes})
    model = Model()
    body = json.dumps({"prompt": prompt, "max_tokens": 1_000, "n": 2}).encode()
    call = asyncio.create_task(ask(kit.wrap(model), "/v1/completions", key=kit.key, body=body))
    await model.arrived.wait()
    assert kit.used() == {"output-tokens": 2_000 * times}
    model.gate.set()
    await call


@pytest.mark.parametrize("name", ["prompt", "prompts", "text", "texts", "input", "input_ids", "inputs", "instances", "prompt_embeds"])
async def test_prompts_multiply_under_whatever_name(name: str) -> None:
    """Servers differ in the name under which they take many prompts: three of them were charged as one."""
    assert await reserved_for({name: ["one", "two", "three"], "max_tokens": 1_000}) == 3_000
    assert await reserved_for({"prompt": "four", name: ["one", "two", "three"], "max_tokens": 1_000}) >= 3_000


async def test_requests_of_an_array_add_up() -> None:
    """An array of requests was charged as one without a maximum; each of them may ask for many choices."""
    requests: list[Any] = [{"max_tokens": 1_000}, {"max_tokens": 2_000, "n": 2}, [{"prompt": ["one", "two"], "max_tokens": 1}], "text"]
    assert await reserved_for(requests[:2]) == 3 * 2_000
    assert await reserved_for(requests) == 6 * 4_096  # the text says no maximum


async def reserved_for(request: Any) -> int:
    """Output tokens that are reserved for a request to an endpoint without a dialect of its own."""
    kit = Kit(limits=[limit("output-tokens", 50_000)], settings={"routes": {"/generate": {"dialect": "plain-json", "model": "small"}}})
    model = Model()
    call = asyncio.create_task(ask(kit.wrap(model), "/generate", key=kit.key, body=json.dumps(request).encode()))
    await model.arrived.wait()
    used = kit.used()["output-tokens"]
    model.gate.set()
    await call
    return used


async def test_input_counted(make: MakeKit) -> None:
    """Only output was counted (BerriAI/litellm#17664): a long prompt with a short answer was nearly free."""
    body = question(max_tokens=1, user="y" * 20_000)
    kit = make(limit("tokens", 15_000), limit("input-tokens", 15_000))
    app = kit.wrap(whole(completion(8_000, 1)))
    assert (await ask(app, key=kit.key, body=body)).status == 200
    assert kit.used() == {"tokens": 8_001, "input-tokens": 8_000}
    assert refused_for(await ask(app, key=kit.key, body=body)) in {"tokens", "input-tokens"}


async def test_a_request_that_says_no_maximum_is_not_free() -> None:
    """Zero was reserved for a request without a maximum, and for a model that the price list did not know (the same file as #37001)."""
    price = Price(input=1_000_000, output=3_000_000)
    models = {"small": ModelFacts(max_output_tokens=2_000, price=price)}
    limits = [limit("output-tokens", 50_000), limit("cost", 10**9)]
    for model_name, output in (("small", 2_000), ("unheard-of", 4_096)):
        kit = Kit(limits=limits, models=models)
        kit.change(models=frozenset({"*"}))
        model = Model()
        body = question(model=model_name)
        call = asyncio.create_task(ask(kit.wrap(model), key=kit.key, body=body))
        await model.arrived.wait()
        cost = prompt_tokens(body) + 3 * output if model_name == "small" else 0
        assert kit.used() == {"output-tokens": output, "cost": cost}
        model.gate.set()
        await call


# Streams


@pytest.mark.parametrize("told", ["usage chunk", "no usage chunk", "reported by the host"])
async def test_streams_counted(make: MakeKit, told: str) -> None:
    """Limits were never enforced on streams, for their usage comes last or not at all (BerriAI/litellm#41610, #17706)."""
    kit = make(limit("tokens", 10_000), limit("output-tokens", 10_000))

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if told == "reported by the host":
            scope["state"]["tos_guard"].report_usage(input_tokens=7, output_tokens=5)
        chunks = (CHUNK, FINISH, *([USAGE] if told == "usage chunk" else []), DONE)
        await streamed(*chunks)(scope, receive, send)

    body = reserving(3_000, stream=True)
    answer = await ask(kit.wrap(app), key=kit.key, body=body)
    assert (answer.status, answer.ended) == (200, True)
    known = told != "no usage chunk"
    assert kit.used() == {"tokens": 12 if known else 3_000, "output-tokens": 5 if known else 3_000 - prompt_tokens(body)}


async def test_more_used_than_estimated_is_a_debt(make: MakeKit) -> None:
    """What a request used beyond its estimate was forgotten."""
    kit = make(limit("tokens", 1_000))
    app = kit.wrap(whole(completion(100, 1_900)))
    assert (await ask(app, key=kit.key, body=reserving(500))).status == 200
    assert kit.used() == {"tokens": 2_000}
    refused = await ask(app, key=kit.key, body=reserving(500))
    assert error(refused)["remaining"] == 0
    kit.clock.advance(timedelta(seconds=60) + SLOT)
    assert (await ask(app, key=kit.key, body=reserving(500))).status == 200


# Windows


async def test_window_boundary(make: MakeKit) -> None:
    """Fixed windows let twice the limit through around their boundary, and carried usage over for minutes (BerriAI/litellm#18953, #24677).

    At most the limit in any minute, wherever it begins; and all of it again a slot later.
    """
    kit = make(limit("requests", 10))
    app = kit.wrap(whole(completion()))
    served: list[datetime] = []
    for _ in range(60):  # five minutes, in steps of five seconds, three calls each
        statuses = [(await ask(app, key=kit.key)).status for _ in range(3)]
        served += [kit.clock()] * statuses.count(200)
        kit.clock.advance(timedelta(seconds=5))
    for began in served:
        assert sum(began <= moment < began + timedelta(seconds=60) for moment in served) <= 10
    assert len(served) >= 40
    kit.clock.advance(timedelta(seconds=60) + SLOT)
    assert [(await ask(app, key=kit.key)).status for _ in range(11)] == [200] * 10 + [429]


async def test_window_of_the_calendar_begins_in_its_zone(make: MakeKit) -> None:
    """Months and days began whenever the counter happened to be made, or in the server's own zone (envoyproxy/ai-gateway#2469)."""
    clock = FixedClock(datetime(2026, 11, 30, 22, 30, tzinfo=UTC))
    kit = make(limit("requests", 1, window=Calendar("month", "Europe/Berlin")), clock=clock)
    app = kit.wrap(whole(completion()))
    assert (await ask(app, key=kit.key)).status == 200
    refused = await ask(app, key=kit.key)
    assert (refused.headers["retry-after"], error(refused)["resets_at"]) == ("1800", "2026-11-30T23:00:00+00:00")
    clock.advance(timedelta(minutes=30))
    assert (await ask(app, key=kit.key)).status == 200


# Whose requests


async def test_unknown_users_first_request(make: MakeKit) -> None:
    """The first requests of a new end user slipped past the default budget (BerriAI/litellm#40095); so would those of a new account."""
    kit = make(limit("requests", 1, id="each", per=(Dimension.END_USER,)), limit("tokens", 1_000))
    app = kit.wrap(whole(completion(100, 100)))
    assert refused_for(await ask(app, key=kit.key, body=reserving(1_001, user="never-seen"))) == "tokens"
    assert (await ask(app, key=kit.key, body=reserving(500, user="never-seen"))).status == 200
    assert refused_for(await ask(app, key=kit.key, body=reserving(500, user="never-seen"))) == "each"
    assert (await ask(app, key=kit.key, body=reserving(500, user="another"))).status == 200
    kit.store.add_account(Account(id="new", models=frozenset({"small"})))
    made = new_api_key(SeededEntropy("another"))
    kit.store.add_api_key("new", made.public_id, hash_secret(made.secret, kit.store.pepper()))
    assert refused_for(await ask(app, key=made.text, body=reserving(1_001))) == "tokens"


async def test_end_users_who_are_not_named_are_one(make: MakeKit) -> None:
    """Whoever can leave a name out would otherwise have no limit: those without one share what one of them has."""
    kit = make(limit("requests", 2, per=(Dimension.END_USER,)))
    app = kit.wrap(whole(completion()))
    bodies = [question(), question(user=""), question(user=None), question(user="known")]
    assert [(await ask(app, key=kit.key, body=body)).status for body in bodies] == [200, 200, 429, 200]


async def test_limits_per_end_user_organization_and_model(make: MakeKit) -> None:
    """Counters by the wrong name: per tenant counted and never enforced, or one for all models (envoyproxy/ai-gateway#2460)."""
    kit = make(
        limit("requests", 2, id="user", per=(Dimension.END_USER,)),
        limit("requests", 3, id="model", per=(Dimension.ACCOUNT, Dimension.MODEL)),
        limit("requests", 7, id="shared", per=(Dimension.ORGANIZATION,)),
        limit("requests", 1, id="scores", actions=frozenset({"classify"})),
        limit("requests", 1, id="large-only", models=frozenset({"large"})),
    )
    kit.store.add_organization(Organization(id="corp"))
    kit.change(organization="corp", models=frozenset({"small", "large", "catalogue"}))
    app = kit.wrap(whole(completion()))

    async def outcome(model: str, user: str) -> str:
        answer = await ask(app, key=kit.key, body=question(model=model, user=user))
        return "served" if answer.status == 200 else refused_for(answer)

    assert [await outcome("small", "a") for _ in range(3)] == ["served", "served", "user"]
    assert [await outcome("small", "b") for _ in range(2)] == ["served", "model"]
    assert [await outcome("large", user) for user in "cd"] == ["served", "large-only"]
    scores = [await ask(app, "/v1/models", key=kit.key, method="GET", body=b"") for _ in range(2)]
    assert scores[0].status == 200
    assert (scores[1].status, json.loads(scores[1].body)["limit"]) == (429, "scores")
    kit.store.add_account(Account(id="sister", organization="corp", models=frozenset({"small"})))
    made = new_api_key(SeededEntropy("another"))
    kit.store.add_api_key("sister", made.public_id, hash_secret(made.secret, kit.store.pepper()))
    answers = [await ask(app, key=made.text, body=question(user=f"u{number}")) for number in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert refused_for(answers[2]) == "shared", "five of the first account, two of its sister"


# Ways past the limits


async def test_passthrough_route() -> None:
    """Routes beside the usual one skipped the budget (maximhq/bifrost#2873), or a limit whose name did not fit was not applied, in silence.

    Every door to a model is charged or shut: other dialects, other methods, mounted apps, paths that nobody named.
    """

    def page(request: Any) -> JSONResponse:
        return JSONResponse({"answered": request.url.path})

    inner = FastAPI(openapi_url=None)
    inner.router.routes.append(Route("/generate", page, methods=["GET", "POST"]))
    app = FastAPI(openapi_url=None)
    app.router.routes += [
        Route(CHAT, page, methods=["POST", "GET"]),
        Route("/v1/any", page, methods=["POST", "GET", "PUT"]),
        Mount("/inner", app=inner),
        Route("/forgotten", page, methods=["POST"]),
    ]
    plain = {"dialect": "plain-json", "model": "small"}
    routes = {CHAT: "openai-chat", "/v1/any": plain, "/inner/generate": plain}
    kit = Kit(limits=[limit("requests", 100)], settings={"routes": routes})
    guarded = kit.wrap(app)
    doors = [
        (CHAT, "POST", question()),
        ("/v1/any", "POST", b'{"model":"small"}'),
        ("/v1/any", "GET", b""),
        ("/v1/any", "PUT", b"not json"),
        ("/inner/generate", "POST", b"{}"),
        ("/inner/generate", "GET", b""),
    ]
    for number, (path, method, body) in enumerate(doors, start=1):
        answer = await ask(guarded, path, key=kit.key, method=method, body=body)
        assert answer.status == 200, path
        assert answer.headers["ratelimit"] == f'"requests";r={100 - number};t=65'
    for path in ("/forgotten", "/inner/generate/", "//v1/any", "/V1/any"):
        assert (await ask(guarded, path, key=kit.key, body=b"{}")).status == 404
    assert kit.used() == {"requests": len(doors)}
    kit.change(limits={"requests": len(doors)})
    for path, method, body in doors:
        answer = await ask(guarded, path, key=kit.key, method=method, body=body)
        assert (answer.status, answer.headers["x-should-retry"]) == (429, "false")


async def test_a_refused_request_is_not_charged(make: MakeKit) -> None:
    """A denied request had already been counted, so that hammering at a limit kept it closed for ever."""
    kit = make(limit("requests", 1), limit("tokens", 1_000))
    app = kit.wrap(whole(completion()))
    assert (await ask(app, key=kit.key, body=reserving(500))).status == 200
    for _ in range(20):
        assert (await ask(app, key=kit.key, body=reserving(500))).status == 429
    assert (await ask(app, key=kit.key, body=question(model="other"))).status == 403
    assert (await ask(app, body=question())).status == 401
    assert (await ask(app, key=kit.key, body=b"{")).status == 400
    assert kit.used() == {"requests": 1, "tokens": 0}
    kit.clock.advance(timedelta(seconds=60) + SLOT)
    assert (await ask(app, key=kit.key, body=reserving(500))).status == 200


# Restarts, clocks, changed rules


def test_restart(tmp_path: Path, serve: Serve) -> None:
    """A budget that was neither saved nor enforced after a restart (maximhq/bifrost#5673): killing the server was a refill."""
    statuses = []
    for _ in range(3):
        engine = SQLiteLimits(tmp_path / "limits.db", clock=utc_now)
        kit = Kit(clock=utc_now, limits=[limit("requests", 3, window=Sliding(3_600))], engine=engine)  # type: ignore[arg-type]
        app = FastAPI()
        app.router.routes.append(Route(CHAT, lambda request: JSONResponse(json.loads(completion())), methods=["POST"]))
        with serve(kit.wrap(app)) as base_url:  # type: ignore[arg-type]
            client = httpx.Client(base_url=base_url, headers={"authorization": f"Bearer {kit.key}"})
            statuses += [client.post(CHAT, content=question()).status_code for _ in range(2)]
            client.close()
        kit.guard.close_stores()
    assert statuses == [200, 200, 200, 429, 429, 429]


@pytest.mark.parametrize("hours", [1, -1], ids=["an hour ahead", "an hour back"])
async def test_clock(make: MakeKit, hours: int) -> None:
    """Windows by the application's own wall clock: setting it opened them early, or kept them shut (the limiter of BerriAI/litellm)."""
    seconds = [1_000.0]
    clock = FixedClock()
    kit = make(limit("requests", 2), limit("tokens", 10_000, window=Calendar("day")), clock=clock, monotonic=lambda: seconds[0])
    app = kit.wrap(whole(completion(500, 500)))
    assert [(await ask(app, key=kit.key, body=reserving(1_000))).status for _ in range(3)] == [200, 200, 429]
    clock.advance(timedelta(hours=hours))
    refused = await ask(app, key=kit.key, body=reserving(1_000))
    assert (refused.status, error(refused)["retry_after"]) == (429, 65)
    assert kit.used() == {"requests": 2, "tokens": 2_000}
    seconds[0] += 65
    clock.advance(timedelta(seconds=65))
    assert (await ask(app, key=kit.key, body=reserving(1_000))).status == 200
    assert kit.used() == {"requests": 1, "tokens": 3_000}, "the day has not begun anew"


async def test_changed_rule(tmp_path: Path) -> None:
    """Changing a rule reset what had been used (TensorZero's documentation): a refill for everybody."""
    clock = FixedClock()
    engine = SQLiteLimits(tmp_path / "limits.db", clock=clock, monotonic=lambda: clock().timestamp(), boot="one")

    def guard(amount: int, **changes: Any) -> Kit:
        return Kit(clock=clock, limits=[limit("requests", amount, **changes)], engine=engine)

    async def statuses(kit: Kit, number: int) -> list[int]:
        return [(await ask(kit.wrap(whole(completion())), key=kit.key)).status for _ in range(number)]

    assert await statuses(guard(5), 4) == [200] * 4
    assert await statuses(guard(3), 1) == [429], "less than was used already"
    assert await statuses(guard(6, id="renamed", burst=6), 3) == [200, 200, 429]
    kit = guard(5)
    kit.change(limits={"requests": 8})
    assert await statuses(kit, 3) == [200, 200, 429]
    kit.store.add_grant("acme", Grant(id="more", type="larger-limit", limits={"requests": 10}))
    assert await statuses(kit, 3) == [200, 200, 429]
    kit.store.void_grant("acme", "more", reason="contract ended")
    assert kit.used() == {"requests": 10}
    assert await statuses(kit, 1) == [429]
    engine.close()


# Slots


async def test_slot_held_to_the_streams_end(make: MakeKit) -> None:
    """The slot came back when the handler returned its stream, and the tokens were never counted (api7/aisix#690, maximhq/bifrost#4790)."""
    kit = make(limit("concurrency", 1), limit("tokens", 50_000))
    seen: list[tuple[str, Any]] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        async def note(message: Message) -> None:
            await send(message)
            refused = await ask(kit.wrap(whole(completion())), key=kit.key)
            seen.append((message["type"].rpartition(".")[2], refused_for(refused) if refused.status == 429 else refused.status))

        await streamed(CHUNK, FINISH, USAGE, DONE)(scope, receive, note)

    answer = await ask(kit.wrap(app), key=kit.key, body=reserving(3_000, stream=True))
    assert (answer.status, answer.ended) == (200, True)
    assert seen == [("start", "concurrency"), *[("body", "concurrency")] * 4, ("body", 200)]
    assert kit.used() == {"concurrency": 0, "tokens": 12}


class Streaming:
    """A stream that goes on for ever after its first chunk, until whoever runs it ends it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        self.begun.set()
        await receive()


async def client_gone(kit: Kit) -> None:
    await ask(kit.wrap(Streaming()), key=kit.key, leave_after=1)


async def client_gone_as_sending_shows(kit: Kit) -> None:
    await ask(kit.wrap(streamed(CHUNK, CHUNK, CHUNK)), key=kit.key, leave_after=1, send_error=True)


async def cancelled(kit: Kit) -> None:
    app = Streaming()
    task = asyncio.create_task(ask(kit.wrap(app), key=kit.key))
    await app.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled_at_every_wait(kit: Kit) -> None:
    """As middleware outside the guard does that runs it in a task group: whatever is waited for while cleaning up is cancelled too."""
    app = Streaming()

    async def call() -> None:
        await ask(kit.wrap(app), key=kit.key)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await app.begun.wait()
        tasks.cancel_scope.cancel()


async def handler_raised(kit: Kit) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        raise RuntimeError("boom")

    await ask(kit.wrap(app), key=kit.key)


async def handler_raised_in_its_stream(kit: Kit) -> None:
    await ask(kit.wrap(streamed(CHUNK, RuntimeError("boom"))), key=kit.key)


async def handler_said_nothing(kit: Kit) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None: ...

    await ask(kit.wrap(app), key=kit.key)


async def stopped_by_a_clause(kit: Kit) -> None:
    await ask(kit.wrap(streamed(CHUNK, PolicyStop("no", clause="no-weapons"))), key=kit.key)


async def denied_by_the_handler(kit: Kit) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scope["state"]["tos_guard"].require("embed")

    await ask(kit.wrap(app), key=kit.key)


async def not_sealed(kit: Kit) -> None:
    kit.signer.failing = True
    await ask(kit.wrap(whole(completion())), key=kit.key)
    kit.signer.failing = False


async def not_recorded(kit: Kit) -> None:
    kit.store.fault = "after"
    await ask(kit.wrap(whole(completion())), key=kit.key)
    kit.store.fault = None


async def answered_without_a_body(kit: Kit) -> None:
    await ask(kit.wrap(whole(b"", status=204)), key=kit.key)


ENDS = [
    client_gone,
    client_gone_as_sending_shows,
    cancelled,
    cancelled_at_every_wait,
    handler_raised,
    handler_raised_in_its_stream,
    handler_said_nothing,
    stopped_by_a_clause,
    denied_by_the_handler,
    not_sealed,
    not_recorded,
    answered_without_a_body,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_slot_returned_however_a_response_ends(make: MakeKit, end: Callable[[Kit], Awaitable[None]]) -> None:
    """Slots leaked where a response did not end as planned, until nobody could call any more. Each end is recorded once, too."""
    kit = make(limit("concurrency", 1))
    await end(kit)
    await until(lambda: kit.used()["concurrency"] == 0)  # a thread writes the file, and a cancelled task does not wait for it
    assert len(kit.records()) == 1
    assert (await ask(kit.wrap(whole(completion())), key=kit.key)).status == 200


async def test_slot_of_a_handler_that_guesses_its_usage(make: MakeKit) -> None:
    """``len(text) / 4`` is no integer: it broke the response, and its slot never came back."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scope["state"]["tos_guard"].report_usage(input_tokens=3, output_tokens=10 / 4)
        await whole(b'{"choices":[]}')(scope, receive, send)

    kit = make(limit("tokens", 10_000), limit("concurrency", 1))
    assert [(await ask(kit.wrap(app), key=kit.key)).status for _ in range(2)] == [200, 200]
    assert kit.used() == {"tokens": 12, "concurrency": 0}


async def test_slot_of_a_client_that_left_as_the_server_shut_down(tmp_path: Path) -> None:
    """What a cancelled task no longer waits for was lost when the stores closed: the next server began with a slot that nobody held."""
    clock = FixedClock()
    times: dict[str, Any] = {"clock": clock, "monotonic": lambda: clock().timestamp(), "boot": "one"}
    entered = threading.Event()

    class Slow(SQLiteLimits):
        def settle(self, *args: Any, **kwargs: Any) -> None:
            entered.wait(30)
            super().settle(*args, **kwargs)

    kit = Kit(clock=clock, limits=[limit("concurrency", 1)], engine=Slow(tmp_path / "limits.db", **times))
    await cancelled_at_every_wait(kit)
    assert kit.used() == {"concurrency": 1}, "the thread that settles has not been let"
    closing = asyncio.create_task(asyncio.to_thread(kit.guard.close_stores))
    await asyncio.sleep(0)
    entered.set()
    await closing
    again = Kit(clock=clock, limits=[limit("concurrency", 1)], engine=SQLiteLimits(tmp_path / "limits.db", **times))
    assert again.used() == {"concurrency": 0}
    again.guard.close_stores()


async def test_slot_of_a_client_that_left_while_it_was_reserved(tmp_path: Path) -> None:
    """Cancelled between the engine's answer and the request's next step: nobody was left who would have settled it."""
    entered, leave = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow(SQLiteLimits):
        def reserve(self, *args: Any, **kwargs: Any) -> Any:
            answer = super().reserve(*args, **kwargs)
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(leave.wait(), loop).result()
            return answer

    kit = Kit(limits=[limit("concurrency", 1)], engine=Slow(tmp_path / "limits.db", clock=FixedClock()))
    model = Model()
    task = asyncio.create_task(ask(kit.wrap(model), key=kit.key))
    await entered.wait()
    assert kit.used() == {"concurrency": 1}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    leave.set()
    await until(lambda: kit.used()["concurrency"] == 0)
    assert model.asked == 0
    kit.guard.close_stores()


# Watching without refusing


async def test_shadow_limit(make: MakeKit) -> None:
    """A new rule can be tried on live traffic (asked of Osprey and Coop, had by Envoy): it counts and reports, and nobody notices."""
    kit = make(limit("requests", 1, shadow=True), limit("tokens", 10_000))
    app = kit.wrap(whole(completion(10, 10)))
    answers = [await ask(app, key=kit.key) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert all("requests" not in answer.headers["ratelimit"] for answer in answers)
    assert kit.used() == {"requests": 3, "tokens": 60}
    assert ["shadow:tos_limit:requests" in record.reasons for record in kit.records()] == [False, True, True]
    assert {record.decision for record in kit.records()} == {"allow"}
    assert kit.guard.counts["reservation:shadowed:refused:requests"] == 2


async def test_monitor_mode(make: MakeKit) -> None:
    """A guard that is tried before it is trusted: everything is decided, sealed, counted and recorded, and nothing is refused."""
    kit = make(limit("requests", 2), settings={"mode": "monitor"})
    app = kit.wrap(whole(completion()))
    over = [await ask(app, key=kit.key) for _ in range(3)]
    other = await ask(app, key=kit.key, body=question(model="other"))
    for answer in (*over, other):
        assert answer.status == 200
        verify_body(answer.body, trust=kit.trust, now=kit.clock(), token=answer.headers["ai-provenance"])
    assert [(record.decision, record.mode, record.reasons[0]) for record in kit.records()] == [
        ("allow", "monitor", "tos_clause:serve"),
        ("allow", "monitor", "tos_clause:serve"),
        ("deny", "monitor", "tos_limit:requests"),
        ("deny", "monitor", "tos_model_not_allowed"),
    ]
    unknown = await ask(app)
    assert (unknown.status, unknown.body) == (200, completion()), "nobody to decide for, so nothing to seal"
    assert (await ask(app, "/forgotten")).status == 200
    counts = kit.guard.counts
    for word in ("tos_limit", "tos_model_not_allowed", "tos_unauthenticated", "tos_route_not_guarded"):
        assert counts[f"monitored:{word}"] == 1
        assert counts[f"denied:{word}"] == 0
    assert counts["unsealed:monitor"] == 2


@pytest.mark.parametrize("app", [whole(completion()), streamed(CHUNK, FINISH, DONE)], ids=["whole", "streamed"])
@pytest.mark.parametrize("part", ["accounts", "limits", "signer", "records"])
async def test_monitor_mode_while_parts_of_the_guard_fail(part: str, app: Any) -> None:
    """A guard on trial that takes the service down with it: its failures are counted, and the answer leaves untagged."""
    store = FragileStore()
    kit, engine = with_fragile_limits("deny", limit("requests", 5), settings={"mode": "monitor"}, make=store.guard)
    store.down, engine.down, kit.signer.failing = part == "accounts", part == "limits", part == "signer"
    kit.store.fault = "before" if part == "records" else None
    answer = await ask(kit.wrap(app), key=kit.key)
    assert (answer.status, answer.ended, answer.error) == (200, True, None)
    assert b"ai_provenance" not in answer.body
    counts = kit.guard.counts
    assert counts[f"failed:{'store' if part == 'records' else part}"] >= 1
    if part in ("accounts", "limits"):
        assert (counts["monitored:tos_unavailable"], counts["unsealed:monitor"]) == (1, 1)
    else:
        assert counts[f"degraded:{part}:allow"] >= 1


async def test_monitor_mode_lets_sockets_pass() -> None:
    """They would be refused, and say so in the counts."""
    kit = Kit(settings={"mode": "monitor"})
    seen: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await kit.wrap(app)({"type": "websocket", "path": "/v1/realtime", "headers": []}, None, None)  # type: ignore[arg-type]
    assert seen == ["websocket"]
    assert (kit.guard.counts["monitored:websocket"], kit.guard.counts["denied:websocket"]) == (1, 0)


async def test_monitor_mode_of_one_clause(tmp_path: Path) -> None:
    """A clause in shadow reports what it would have refused, beside clauses that refuse."""
    kit = Kit()
    clause = '[[clause]]\nid = "{}"\neffect = "prohibit"\naction = "generate"\nwhen = {{ purpose = "{}" }}\nshadow = {}\ntext = "No."\n'
    kit.store.publish_terms(terms("2", clause.format("watched", "benchmark", "true") + clause.format("kept", "resale", "false")))
    app = kit.wrap(whole(completion()))
    assert (await ask(app, key=kit.key, headers=[(b"ai-usage-purpose", b"benchmark")])).status == 200
    assert (await ask(app, key=kit.key, headers=[(b"ai-usage-purpose", b"resale")])).status == 403
    watched, kept = kit.records()
    assert (watched.decision, watched.reasons[-1]) == ("allow", "shadow:tos_clause:watched")
    assert (kept.decision, kept.reasons) == ("deny", ("tos_clause:kept",))
    assert (kit.guard.counts["shadowed:watched"], kit.guard.counts["denied:tos_clause"]) == (1, 1)


def terms(version: str, more: str = "", **header: str) -> Any:
    """Terms that serve, and whatever else they say."""
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in header.items())
    head = (
        f'[terms]\nversion = "{version}"\ntitle = "Terms"\nuri = "{ISSUER}/terms/{version}"\neffective = 2026-11-02\ntext = "t.md"\n{lines}'
    )
    serve = '[[clause]]\nid = "serve"\neffect = "permit"\naction = "generate"\ntext = "Served."\n'
    return parse_terms(f"{head}{serve}{more}".encode(), b"Words.")


# What a refusal says


REFUSALS: list[tuple[Limit, int, str, str, dict[str, Any]]] = [
    (
        limit("tokens", 1_000),
        800,
        "1000 tokens per account in 60 s, 100 left, {wanted} asked for.",
        "There is room again in 65 s, at 2026-11-22T12:01:05+00:00, if nothing else takes it.",
        {"scope": ["account"], "window": "60s", "remaining": 100, "retry_after": 65, "resets_at": "2026-11-22T12:01:05+00:00"},
    ),
    (
        limit("tokens", 1_000, window=Calendar("day", "Europe/Berlin"), per=(Dimension.ACCOUNT, Dimension.MODEL)),
        800,
        "1000 tokens per account and model in a calendar day (Europe/Berlin), 100 left, {wanted} asked for.",
        "There is room again in 39600 s, at 2026-11-22T23:00:00+00:00, if nothing else takes it.",
        {"scope": ["account", "model"], "window": "calendar day Europe/Berlin", "retry_after": 39_600},
    ),
    (
        limit("tokens", 1_000, per=()),
        5_000,
        "1000 tokens for everyone together in 60 s, 100 left, {wanted} asked for.",
        "This request alone asks for more than the limit: ask for less (max_tokens, n, a shorter prompt), or ask the provider for more.",
        {"scope": [], "retry_after": None, "amount": 1_000},
    ),
]


@pytest.mark.parametrize(("rule", "output", "state", "cure", "details"), REFUSALS, ids=["sliding", "calendar", "never"])
async def test_refusal_names_scope_limit_window_and_reset(rule: Limit, output: int, state: str, cure: str, details: dict[str, Any]) -> None:
    """The commonest complaint about providers: "too many requests", and no word of which, whose and until when."""
    kit = Kit(limits=[rule])
    app = kit.wrap(whole(completion(400, 500)))
    assert (await ask(app, key=kit.key, body=reserving(900))).status == 200
    body = question(max_tokens=output)
    refused = await ask(app, key=kit.key, body=body)
    wanted = prompt_tokens(body) + output
    assert refused.status == 429
    assert error(refused)["message"] == f"The limit tokens is reached: {state.format(wanted=wanted)} {cure}"
    assert error(refused)["type"] == "rate_limit_error"
    assert {"limit": "tokens", "quantity": "tokens", "requested": wanted, **details}.items() <= error(refused).items()
    (denial,) = [record for record in kit.records() if record.decision == "deny"]
    assert (denial.status, denial.reasons) == (429, ("tos_limit:tokens",))


async def test_refusal_for_cost_is_told_in_units_of_the_currency() -> None:
    """Limits count millionths, and nobody thinks in these."""
    models = {"small": ModelFacts(price=Price(input=0, output=2_500_000))}
    kit = Kit(limits=[limit("cost", 1_250_000, window=Calendar("month"))], models=models)
    refused = await ask(kit.wrap(whole(completion())), key=kit.key, body=question(max_tokens=600_000))
    said = "The limit cost is reached: a cost of 1.25 per account in a calendar month (UTC), 1.25 left, 1.5 asked for."
    assert error(refused)["message"].startswith(said)
    assert error(refused)["amount"] == 1_250_000


async def test_refusal_for_a_slot_says_when_to_ask_again() -> None:
    """Nobody knows when a response ends; to ask again in a second is better than at once, or never."""
    kit = Kit(limits=[limit("concurrency", 1)])
    model = Model()
    first = asyncio.create_task(ask(kit.wrap(model), key=kit.key))
    await model.arrived.wait()
    refused = await ask(kit.wrap(model), key=kit.key)
    assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")
    assert error(refused)["message"] == (
        "The limit concurrency is reached: 1 request per account at a time, 0 left, 1 asked for. "
        "A slot comes back when one of the running responses ends."
    )
    model.gate.set()
    await first


async def test_fields_are_structured_and_true(make: MakeKit) -> None:
    """Fields by many names that no library reads, and numbers that did not move (envoyproxy/ai-gateway#1754)."""
    kit = make(
        limit("requests", 5, id="requests-per-minute"),
        limit("tokens", 10_000, id="tokens-per-day", window=Calendar("day")),
        limit("concurrency", 2, id="at-once"),
    )
    app = kit.wrap(whole(completion(300, 200)))
    for number in range(1, 7):
        answer = await ask(app, key=kit.key, body=reserving(1_000))
        policies = dict(http_sf.parse(answer.headers["ratelimit-policy"].encode(), tltype="list"))
        now = dict(http_sf.parse(answer.headers["ratelimit"].encode(), tltype="list"))
        assert policies == {
            "requests-per-minute": {"q": 5, "w": 60},
            "tokens-per-day": {"q": 10_000},
            "at-once": {"q": 2, "qu": "concurrent-requests"},
        }
        if number < 6:
            assert now["requests-per-minute"] == {"r": 5 - number, "t": 65}
            assert now["tokens-per-day"] == {"r": 10_000 - 1_000 - 500 * (number - 1), "t": 12 * 3_600}
            assert answer.headers["x-ratelimit-remaining-requests"] == str(5 - number)
            assert answer.headers["x-ratelimit-limit-tokens"] == "10000"
        else:
            assert (answer.status, answer.headers["retry-after"], now["requests-per-minute"]["r"]) == (429, "65", 0)


# The official client


class Counting:
    """An app, and how many requests have reached it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.requests += 1
        await self.app(scope, receive, send)


@pytest.fixture
async def call(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Awaitable[tuple[Any, int, list[float]]]]]:
    """Calls a guarded app with the official client: what came of it, requests made, and the seconds it waited, which pass at once."""
    clients: list[openai.AsyncOpenAI] = []

    async def create(kit: Kit, app: Any, *, key: str | None = None, **members: Any) -> tuple[Any, int, list[float]]:
        waited: list[float] = []

        async def sleep(seconds: float) -> None:
            waited.append(seconds)
            kit.clock.advance(timedelta(seconds=seconds))

        monkeypatch.setattr("openai._base_client.anyio.sleep", sleep)
        counting = Counting(app)
        transport = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=counting))
        clients.append(openai.AsyncOpenAI(base_url=f"{ISSUER}/v1", api_key=key or kit.key, http_client=transport))
        given = {"model": "small", "messages": [{"role": "user", "content": "Hello?"}], **members}
        try:
            outcome: Any = await clients[-1].chat.completions.create(**given)
        except openai.APIStatusError as failure:
            outcome = failure
        return outcome, counting.requests, waited

    yield create
    for client in clients:
        await client.close()


async def test_official_client_does_not_ask_again_where_that_cannot_help(call: Any) -> None:
    """Retry storms: 429 and 5xx are tried three times by default, whatever is the matter."""
    hour = limit("requests", 1, window=Sliding(3_600))
    cases: list[tuple[Kit, dict[str, Any], type[openai.APIStatusError], str]] = [
        (Kit(limits=[limit("tokens", 1_000)]), {"max_tokens": 2_000}, openai.RateLimitError, "tos_limit"),
        (Kit(limits=[hour]), {}, openai.RateLimitError, "tos_limit"),
        (Kit(limits=[limit("requests", 0, window=MINUTE)]), {}, openai.RateLimitError, "tos_limit"),
        (Kit(), {"model": "other"}, openai.PermissionDeniedError, "tos_model_not_allowed"),
        (Kit(), {"key": "tg-000000000000-" + "A" * 43}, openai.AuthenticationError, "tos_unauthenticated"),
    ]
    for kit, members, kind, code in cases:
        app = kit.wrap(whole(completion()))
        if kit.guard.meter.limits == (hour,):
            assert (await ask(app, key=kit.key)).status == 200
        failure, requests, waited = await call(kit, app, **members)
        assert type(failure) is kind
        assert (failure.code, requests, waited) == (code, 1, [])
        assert failure.body["message"]


async def test_official_client_waits_as_long_as_it_is_told_and_asks_once_more(call: Any) -> None:
    """Where waiting does help, `Retry-After` says for how long, and the client that waits so long is served."""
    kit = Kit(limits=[limit("requests", 1, window=Sliding(12))])
    app = kit.wrap(whole(completion()))
    assert (await ask(app, key=kit.key)).status == 200
    outcome, requests, waited = await call(kit, app)
    assert outcome.choices[0].message.content == "Hello."
    assert (requests, waited) == (2, [13.0])


async def test_official_client_asks_again_after_a_failure_of_ours(call: Any) -> None:
    """503 is our own failure, and may be over: the client's own patience decides."""
    kit = Kit()
    kit.signer.failing = True
    failure, requests, waited = await call(kit, kit.wrap(whole(completion())))
    assert (type(failure), failure.code, requests, len(waited)) == (openai.InternalServerError, "tos_unavailable", 3, 2)


# Failure modes


class Fragile(MemoryLimits):
    """An engine that can be told to fail."""

    down = False

    def reserve(self, *args: Any, **kwargs: Any) -> Any:
        if self.down:
            raise StoreError("told to fail", where="limits")
        return super().reserve(*args, **kwargs)

    def settle(self, *args: Any, **kwargs: Any) -> None:
        if self.down:
            raise StoreError("told to fail", where="limits")
        super().settle(*args, **kwargs)


def with_fragile_limits(
    mode: Any, *limits: Limit, settings: dict[str, Any] | None = None, make: Callable[..., Kit] = Kit
) -> tuple[Kit, Fragile]:
    """A guard whose engine can fail, and then does what the mode says, at a third of each limit."""
    clock = FixedClock()
    times: dict[str, Any] = {"clock": clock, "monotonic": lambda: clock().timestamp()}
    engine = Fragile(**times)
    fallback = FallbackLimits(engine, mode=mode, on_use=lambda operation, mode, error: None, local_share=0.34, **times)
    return make(clock=clock, limits=limits, engine=fallback, settings={"failure": {"limits": mode}, **(settings or {})}), engine


@pytest.mark.parametrize(
    ("mode", "statuses"), [("deny", [503] * 4), ("local", [200, 200, 429, 429]), ("allow", [200] * 4)], ids=["deny", "local", "allow"]
)
async def test_failure_of_the_limits(mode: str, statuses: list[int]) -> None:
    """On an error of its engine a limiter fell back to a counter of each process, or to none, and told nobody (BerriAI/litellm, Kong)."""
    kit, engine = with_fragile_limits(mode, limit("requests", 6))
    model = Model(held=False)
    app = kit.wrap(model)
    assert (await ask(app, key=kit.key)).status == 200
    engine.down = True
    answers = [await ask(app, key=kit.key) for _ in range(4)]
    assert [answer.status for answer in answers] == statuses
    counts = kit.guard.counts
    assert counts["failed:limits"] == (4 if mode == "deny" else 0)
    assert counts[f"degraded:limits:{mode}"] == (0 if mode == "deny" else 4)
    assert model.asked == 1 + statuses.count(200)
    if mode == "deny":
        assert {(answer.headers["x-should-retry"], error(answer)["code"]) for answer in answers} == {("true", "tos_unavailable")}
        assert [record.status for record in kit.records()] == [200], "nothing was decided"
    engine.down = False
    kit.clock.advance(timedelta(seconds=2))
    assert (await ask(app, key=kit.key)).status == 200
    assert kit.used() == {"requests": 2}, "what was counted before the failure still counts"


async def test_failure_of_the_limits_while_a_response_runs() -> None:
    """What was reserved keeps its estimate; the response is given, sealed and recorded, and its slot comes back with the lease."""
    kit, engine = with_fragile_limits("deny", limit("tokens", 10_000), limit("concurrency", 1))
    model = Model(answer=completion(10, 10))
    running = asyncio.create_task(ask(kit.wrap(model), key=kit.key, body=reserving(1_000)))
    await model.arrived.wait()
    engine.down = True
    model.gate.set()
    answer = await running
    assert (answer.status, b"ai_provenance" in answer.body, len(kit.records())) == (200, True, 1)
    engine.down = False
    kit.clock.advance(timedelta(seconds=2))
    assert kit.used() == {"tokens": 1_000, "concurrency": 1}
    kit.clock.advance(timedelta(minutes=1))
    assert kit.used()["concurrency"] == 0


class FragileStore:
    """The store of accounts, acceptances and terms of a kit, which can be told to fail."""

    awaitable = None

    def __init__(self) -> None:
        self.kit: Kit | None = None
        self.down = False

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.down:
                raise StoreError("told to fail", where="store")
            assert self.kit is not None
            return getattr(self.kit.store, name)(*args, **kwargs)

        return call

    def guard(self, **options: Any) -> Kit:
        """A kit over it."""
        parts = {"accounts": self, "rights": self, "archive": self}
        self.kit = Kit(**{**options, "overrides": {**options.get("overrides", {}), **parts}})
        return self.kit


@pytest.mark.parametrize("mode", ["deny", "local"])
async def test_failure_of_the_store(mode: str) -> None:
    """A gateway without its database let everybody in, or nobody. ``local``: who was known goes on for so long, and nobody else."""
    store = FragileStore()
    kit = store.guard(settings={"failure": {"accounts": mode, "stale_seconds": 60}})
    app = kit.wrap(whole(completion()))
    assert (await ask(app, key=kit.key)).status == 200
    store.down = True
    known = [await ask(app, key=kit.key) for _ in range(2)]
    unknown = await ask(app, key="tg-000000000000-" + "A" * 43)
    assert [answer.status for answer in known] == ([503, 503] if mode == "deny" else [200, 200])
    assert (unknown.status, unknown.headers["x-should-retry"]) == (503, "true")
    counts = kit.guard.counts
    assert counts["failed:accounts"] == 3
    assert counts["degraded:accounts:local"] == (0 if mode == "deny" else 4), "for the account and for its terms"
    if mode == "local":
        verify_body(known[0].body, trust=kit.trust, now=kit.clock())
    kit.clock.advance(timedelta(seconds=61))
    assert (await ask(app, key=kit.key)).status == 503
    store.down = False
    kit.change(models=frozenset())
    refused = await ask(app, key=kit.key)
    assert (refused.status, error(refused)["code"]) == (403, "tos_model_not_allowed"), "what has changed meanwhile holds at once"


# A real server, with the settings of a provider


RULES = """
[[limits]]
id = "requests"
quantity = "requests"
amount = 20
window = "1h"
"""


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    """A provider's folder, with limits."""
    made = Provider(tmp_path)
    made.settings.write_text(made.settings.read_text() + RULES)
    return made


@pytest.fixture
def running(provider: Provider, serve_process: ServeProcess) -> Callable[[], AbstractContextManager[ServedProcess]]:
    """Runs the example provider with two workers."""
    application = "provider_fastapi.guarded:guarded"
    return lambda: serve_process(application, factory=True, workers=2, env=provider.environment())


def calls(base_url: str, key: str, number: int) -> list[httpx.Response]:
    """So many calls, a dozen at a time, each over a connection of its own so that both workers get some."""

    def call(_: int) -> httpx.Response:
        body = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello?"}]}
        return httpx.post(base_url + CHAT, json=body, headers={"authorization": f"Bearer {key}"}, timeout=60)

    with ThreadPoolExecutor(12) as threads:
        return list(threads.map(call, range(number)))


def test_replica_split_restart_and_changed_rule_on_a_real_server(provider: Provider, running: Any) -> None:
    """Counters of each worker (maximhq/bifrost#3547), lost with it, or begun anew by a changed rule: twenty are twenty, then five more."""
    key = provider.keys["good"]
    with running() as server:
        statuses = [answer.status_code for answer in calls(server.base_url, key, 60)]
        assert (statuses.count(200), statuses.count(429)) == (20, 40)
    with running() as server:
        refused = calls(server.base_url, key, 6)
        assert [answer.status_code for answer in refused] == [429] * 6
        assert {answer.json()["error"]["limit"] for answer in refused} == {"requests"}
        with provider.store() as store:
            found = store.by_id("good")
            assert found is not None
            store.put_account(found.model_copy(update={"limits": {"requests": 25}}))
        served, patience = 0, utc_now() + timedelta(seconds=30)
        while served < 5 and utc_now() < patience:  # each worker hears of it within a second
            served += [answer.status_code for answer in calls(server.base_url, key, 6)].count(200)
        assert served == 5
        assert {answer.status_code for answer in calls(server.base_url, key, 30)} == {429}


def test_slot_held_to_the_streams_end_on_a_real_server(tmp_path: Path, serve: Serve) -> None:
    """A client that reads its stream holds its slot; one that leaves gives it back; and whoever has its answer finds its slot free."""
    engine = SQLiteLimits(tmp_path / "limits.db", clock=utc_now)
    kit = Kit(clock=utc_now, limits=[limit("concurrency", 1)], engine=engine)  # type: ignore[arg-type]
    app = FastAPI()

    async def endless() -> AsyncIterator[bytes]:
        yield CHUNK
        await asyncio.Event().wait()

    @app.post(CHAT)
    async def chat(asked: dict[str, Any]) -> Response:
        if asked.get("stream"):
            return StreamingResponse(endless(), media_type="text/event-stream")
        return Response(completion(), media_type="application/json")

    TosGuard(kit.guard).install(app)
    fields = {"x-api-key": kit.key, "content-type": "application/json"}
    with serve(app) as base_url, httpx.Client(base_url=base_url, headers=fields) as client:

        def status() -> int:
            return client.post(CHAT, content=question()).status_code

        with client.stream("POST", CHAT, content=question(stream=True)) as stream:
            chunks = stream.iter_bytes()
            assert next(chunks) == CHUNK
            assert [status() for _ in range(3)] == [429] * 3
        patience = utc_now() + timedelta(seconds=30)
        while status() == 429 and utc_now() < patience:
            pass  # until the server has seen that the client is gone
        assert [status() for _ in range(50)] == [200] * 50
        kit.store.flush()
        assert [record.unsealed for record in kit.records() if record.unsealed is not None and record.status == 200] == ["client_gone"]


# Rights


async def test_one_end_user_is_blocked_and_not_the_account() -> None:
    """For one bad customer of a customer the whole organization was banned; a stable hashed identifier tells them apart."""
    kit = Kit()
    hashed = kit.guard.end_user_hash("acme", "mallory@example.com")
    kit.change(blocked_end_users=frozenset({hashed}))
    app = kit.wrap(whole(completion()))
    named = [
        {"safety_identifier": "mallory@example.com"},
        {"user": "mallory@example.com"},
        {"metadata": {"user_id": "mallory@example.com"}},
    ]
    for members in named:
        refused = await ask(app, key=kit.key, body=question(**members))
        assert (refused.status, error(refused)["code"]) == (403, "tos_end_user_blocked")
    assert (await ask(app, key=kit.key, body=question(user="alice"))).status == 200
    assert (await ask(app, key=kit.key)).status == 200
    assert [record.end_user for record in kit.records()] == [hashed] * 3 + [kit.guard.end_user_hash("acme", "alice"), None]
    assert all(b"mallory" not in record.to_bytes() for record in kit.records())


async def test_declared_purpose_is_recorded_as_the_accounts_own_word() -> None:
    """Whoever can leave a purpose out can lie: what is not declared has a word of its own, and nothing is guessed."""
    kit = Kit()
    app = kit.wrap(whole(completion()))
    assert (await ask(app, key=kit.key, headers=[(b"ai-usage-purpose", b"evaluation")])).status == 200
    assert (await ask(app, key=kit.key)).status == 200
    assert [record.purpose for record in kit.records()] == ["evaluation", "undeclared"]
    for wrong in (b"", b"Evaluation!", b"x" * 33):
        assert (await ask(app, key=kit.key, headers=[(b"ai-usage-purpose", wrong)])).status == 400


async def test_grant_for_purposes_and_regions_with_limits() -> None:
    """A grant that one part honoured and another did not (anthropics/claude-code#84352): one moves decision, policy and limit."""
    kit = Kit(
        terms=Kit().terms.with_name("sample-2026-11.toml"), settings={"sources": {"region": "account"}}, limits=[limit("tokens", 1_000)]
    )
    distilling = [(b"ai-usage-purpose", b"distillation")]
    grant = Grant(
        id="lic-7",
        type="licensed-distillation",
        purposes=frozenset({"distillation"}),
        regions=frozenset({"DE", "FR"}),
        limits={"tokens": 9_000},
        issuer="legal",
        evidence="contract 7",
    )
    app = kit.wrap(whole(completion(0, 0)))

    async def outcome(region: str, headers: Any, total: int) -> Any:
        kit.change(region=region)
        answer = await ask(app, key=kit.key, headers=headers, body=reserving(total))
        if answer.status != 200:
            return answer.status, error(answer).get("clause") or error(answer).get("limit")
        claims = verify_body(answer.body, trust=kit.trust, now=kit.clock()).claims
        return claims.grant, claims.usage.content_usage, answer.headers["x-ratelimit-limit-tokens"]

    assert await outcome("DE", distilling, 500) == (403, "distillation-licence")
    kit.store.add_grant("acme", grant)
    assert await outcome("DE", distilling, 5_000) == ("lic-7", "train-ai=y, ai-use=y", "9000")
    assert await outcome("DE", [], 500) == (None, "train-ai=n, ai-use=y", "1000")
    assert await outcome("DE", [], 5_000) == (429, "tokens")
    assert await outcome("US", distilling, 500) == (403, "distillation-licence")
    kit.store.void_grant("acme", "lic-7", reason="contract ended")
    assert await outcome("DE", distilling, 500) == (403, "distillation-licence")


async def test_terms_published_while_running_take_effect() -> None:
    """Every change was a deployment (agentgateway/agentgateway#2171).

    They hold from the next request on: who has to accept them is told so, and after that the plan is the new one.
    """
    kit = Kit()
    app = kit.wrap(whole(completion()))
    assert verify_body((await ask(app, key=kit.key)).body, trust=kit.trust, now=kit.clock()).claims.terms.version == "1"
    purpose = [(b"ai-usage-purpose", b"resale")]
    assert (await ask(app, key=kit.key, headers=purpose)).status == 200
    no_resale = '[[clause]]\nid = "no-resale"\neffect = "prohibit"\naction = "generate"\nwhen = { purpose = "resale" }\ntext = "No."\n'
    published = terms("2", no_resale, acceptance="required")
    kit.store.publish_terms(published)
    refused = await ask(app, key=kit.key)
    assert (refused.status, error(refused)["code"], error(refused)["who_may_accept"]) == (403, "tos_terms_not_accepted", "account")
    assert error(refused)["accept"] == [{"series": "general", "version": "2", "uri": f"{ISSUER}/terms/2", "sha256": published.sha256}]
    made = new_acceptance(
        published,
        issuer=ISSUER,
        subject_kind=SubjectKind.ACCOUNT,
        subject_id="acme",
        accepted_by="ann",
        authority="",
        method=AcceptanceMethod.IMPORT,
        identified_by=Identification.ADMINISTRATOR,
        now=kit.clock(),
        entropy=SeededEntropy(),
    )
    kit.store.add_acceptance(made)
    answer = await ask(app, key=kit.key)
    claims = verify_body(answer.body, trust=kit.trust, now=kit.clock()).claims
    assert (claims.terms.version, claims.terms.sha256) == ("2", published.sha256)
    assert answer.headers["link"] == f'<{ISSUER}/terms/2>; rel="terms-of-service"'
    resale = await ask(app, key=kit.key, headers=purpose)
    assert (resale.status, error(resale)["clause"]) == (403, "no-resale")
    assert [record.terms_version for record in kit.records()][:2] == ["1", "1"]
