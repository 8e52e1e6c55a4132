"""Each step of the ladder of standing, at a guarded app: what is served, what is told, and what undoes it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from kit import Answer, Kit, ask, whole
from tos_guard.config import GuardSettings
from tos_guard.errors import ConfigurationError
from tos_guard.guard import AsyncGuard
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.rights import Grant, Measure
from tos_guard.types import Standing

COMPLETION = b'{"object":"chat.completion","model":"small","choices":[{"index":0,"message":{"role":"assistant","content":"Hi."}}]}'
DAY = timedelta(days=1)
APPEAL = "https://api.example.com/appeal"


def kit_with(**parts: Any) -> Kit:
    return Kit(settings={"appeal_url": APPEAL, **parts.pop("settings", {})}, **parts)


def take(kit: Kit, step: Standing, measure_id: str = "m-1", **members: Any) -> None:
    given = {"id": measure_id, "step": step, "reason": "copied outputs", "begins": kit.clock(), **members}
    kit.store.take_measure("acme", Measure(**given), actor="ann")


async def asked(kit: Kit, body: bytes | None = None) -> Answer:
    return await ask(kit.wrap(whole(COMPLETION)), key=kit.key, **({} if body is None else {"body": body}))


def error(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.body)["error"]
    return found


@pytest.mark.parametrize("step", [Standing.NOTICED, Standing.WARNED, Standing.THROTTLED, Standing.RESTRICTED])
async def test_who_is_served_all_the_same_reads_in_each_response_where_it_stands(step: Standing) -> None:
    """A link with the step; a good account has none. What we add stays within 2,300 bytes."""
    kit = kit_with()
    assert "status" not in (await asked(kit)).headers["link"]
    take(kit, step)
    answer = await asked(kit)
    assert answer.status == 200
    assert answer.headers["link"].endswith(f', <{APPEAL}>; rel="status"; title="{step}"')
    assert sum(len(name) + len(value) + 4 for name, value in answer.headers.items()) <= 2_300


async def test_any_address_of_the_settings_makes_a_field_that_can_be_sent() -> None:
    """One that is no ASCII, or would end the field, is percent-encoded."""
    kit = kit_with(settings={"appeal_url": "https://example.com/ä>b\r\nx: y"})
    take(kit, Standing.WARNED)
    answer = await asked(kit)
    assert answer.headers["link"].endswith('<https://example.com/%C3%A4%3Eb%0D%0Ax:%20y>; rel="status"; title="warned"')


@pytest.mark.parametrize(("step", "code"), [(Standing.SUSPENDED, "tos_account_suspended"), (Standing.TERMINATED, "tos_account_terminated")])
async def test_a_refusal_names_the_measure_its_reasons_and_what_there_is_to_do(step: Standing, code: str) -> None:
    kit = kit_with()
    take(kit, step, clauses=("no-competing-model",), notice="Stop it.", requires="contact", deadline=kit.clock() + DAY, evidence="case 7")
    answer = await asked(kit)
    assert answer.status == 403
    told = error(answer)
    assert {name: told[name] for name in ("code", "standing", "measure", "clauses", "clause", "standing_reason", "notice", "requires")} == {
        "code": code,
        "standing": step.value,
        "measure": "m-1",
        "clauses": ["no-competing-model"],
        "clause": "no-competing-model",
        "standing_reason": "copied outputs",
        "notice": "Stop it.",
        "requires": "contact",
    }
    assert (told["deadline"], told["appeal_url"]) == ((kit.clock() + DAY).isoformat().replace("+00:00", "Z"), APPEAL)
    assert "copied outputs" in told["message"]
    assert "Stop it." in told["message"]
    assert "case 7" not in answer.body.decode()
    assert "ann" not in told.values()
    assert answer.headers["x-should-retry"] == "false"
    (record,) = kit.records()
    assert record.reasons == (f"{code}:m-1",)


async def test_a_long_reason_is_cut_in_refusals() -> None:
    kit = kit_with()
    take(kit, Standing.SUSPENDED, reason="x" * 2_000, notice="y" * 2_000)
    answer = await asked(kit)
    assert len(answer.body) < 3_000
    assert error(answer)["standing_reason"] == "x" * 299 + "…"


async def test_a_measure_ends_and_a_deadline_turns_it_by_the_clock_alone() -> None:
    """Nothing is written between the requests."""
    kit = kit_with()
    take(
        kit,
        Standing.WARNED,
        requires="contact",
        deadline=kit.clock() + DAY,
        then=Standing.SUSPENDED,
        expires=kit.clock() + 2 * DAY,
    )
    version = kit.store.version()
    statuses = []
    for _ in range(3):
        statuses.append((await asked(kit)).status)
        kit.clock.advance(DAY)
    assert statuses == [200, 403, 200]
    assert kit.store.version() == version


async def test_lifting_restores_at_once_what_the_measure_took() -> None:
    kit = kit_with()
    before = await asked(kit)
    take(kit, Standing.TERMINATED)
    assert (await asked(kit)).status == 403
    kit.store.lift_measure("acme", "m-1", "a mistake", actor="ann")
    after = await asked(kit)
    assert (after.status, after.headers["link"]) == (200, before.headers["link"])


async def test_a_throttled_account_has_a_part_of_its_own_limits() -> None:
    """A tenth of 20, and of those that it shares all; at least 1 of each."""
    own = Limit(id="own", quantity=Quantity.REQUESTS, amount=20, per=(Dimension.ACCOUNT,), window=Sliding(3_600))
    slots = Limit(id="slots", quantity=Quantity.CONCURRENCY, amount=4, per=(Dimension.ACCOUNT,), window=None)
    shared = Limit(id="shared", quantity=Quantity.REQUESTS, amount=20, per=(), window=Sliding(3_600))
    kit = kit_with(limits=(own, slots, shared))
    take(kit, Standing.THROTTLED)
    answers = [await asked(kit) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert (error(answers[2])["limit"], error(answers[2])["amount"]) == ("own", 2)
    kit.store.lift_measure("acme", "m-1", "paid")
    assert (await asked(kit)).status == 200


async def test_a_restricted_account_loses_what_grants_gave_and_keeps_the_rest() -> None:
    kit = kit_with()
    kit.store.add_grant("acme", Grant(id="g-1", type="research", models=frozenset({"large"})))
    large = b'{"model":"large","messages":[{"role":"user","content":"hi"}]}'
    assert (await asked(kit, large)).status == 200
    take(kit, Standing.RESTRICTED)
    assert (await asked(kit)).status == 200
    refused = await asked(kit, large)
    assert (refused.status, error(refused)["code"], error(refused)["measure"]) == (403, "tos_restricted", "m-1")
    kit.store.lift_measure("acme", "m-1", "cleared")
    assert (await asked(kit, large)).status == 200


async def test_a_step_may_demand_that_the_account_is_verified() -> None:
    kit = kit_with(settings={"standing": {"restricted": {"verify": ["organization"]}}})
    take(kit, Standing.RESTRICTED, requires="verify")
    answer = await asked(kit)
    assert (answer.status, error(answer)["code"], error(answer)["verify"]) == (403, "tos_verification_required", ["organization"])
    kit.change(verification="organization")
    answer = await asked(kit)
    assert (answer.status, "status" in answer.headers["link"]) == (200, False)


async def test_the_settings_say_what_a_step_does() -> None:
    """What a table does not name stays as it was."""
    kit = kit_with(
        settings={"standing": {"suspended": {"refuse": False, "models": ["small"]}, "warned": {"without_actions": ["generate"]}}}
    )
    take(kit, Standing.SUSPENDED)
    assert (await asked(kit)).status == 200
    assert error(await asked(kit, b'{"model":"catalogue","messages":[]}'))["code"] == "tos_restricted"
    kit.store.lift_measure("acme", "m-1", "test")
    take(kit, Standing.WARNED, "m-2")
    assert error(await asked(kit))["code"] == "tos_restricted"
    assert kit.guard.rulebook.ladder.rung(Standing.RESTRICTED).without_grants


async def test_a_duty_that_nobody_fulfils_stops_the_start() -> None:
    kit = kit_with()
    settings = GuardSettings(**{**kit.guard.settings.model_dump(), "standing": {"warned": {"duties": ["watermark"]}}})
    with pytest.raises(ConfigurationError, match="warned obliges to 'watermark'"):
        AsyncGuard(settings, **kit.parts)
