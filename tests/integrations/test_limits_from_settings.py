"""Limits of the settings file: counted for all processes of a host, in a file beside the store."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from provisioned import Provider
from tos_guard.config import parse_settings
from tos_guard.errors import LimitExceededError, RequestError
from tos_guard.guard import AsyncGuard, Guard, RequestView, utc_now
from tos_guard.guard._engines import limits_from_settings
from tos_guard.limits import Charge, Dimension, Limit, Quantity, Reservation, Sliding
from tos_guard.protocols import AsyncLimitEngine
from tos_guard.rights import Account, hash_secret, new_api_key
from tos_guard.stores import AsyncFallbackLimits, FallbackLimits, MemoryStore, SQLiteStore, _limits_blocks
from tos_guard.telemetry import Telemetry

CHAT = "/v1/chat/completions"
RULES = """
[[limits]]
id = "requests"
quantity = "requests"
amount = 3
window = "1h"

[[limits]]
id = "tokens"
quantity = "tokens"
amount = 5_000
window = "calendar month Europe/Berlin"
shadow = true
"""


HOURLY = Limit(id="requests", quantity=Quantity.REQUESTS, amount=160, per=(Dimension.ACCOUNT,), window=Sliding(3_600))


def provider(folder: Path, rules: str = RULES) -> Provider:
    made = Provider(folder)
    made.settings.write_text(made.settings.read_text() + rules)
    return made


def ask(guard: Guard, key: str, **members: Any) -> Any:
    """One request up to the handler; its exchange, or what it is refused with."""
    view = RequestView("POST", CHAT, [(b"authorization", f"Bearer {key}".encode())])
    route = guard.route(CHAT)
    assert route is not None
    body = json.dumps({"model": "smollm2-135m", "messages": [], **members}).encode()
    try:
        exchange = guard.run(guard.admit(guard.run(guard.authenticate(view)), view, route, body))
    except RequestError as error:
        return error
    return guard.run(guard.keep_denial(exchange)) if exchange.is_refused else exchange


def test_two_processes_share_one_limit(tmp_path: Path) -> None:
    """Whichever of them is asked; each account has its own."""
    made = provider(tmp_path)
    one, other = Guard.from_file(made.settings), Guard.from_file(made.settings)
    served = [ask(guard, made.keys["good"]) for guard in (one, other, one)]
    assert all(exchange.decision.allowed for exchange in served)
    refused = ask(other, made.keys["good"])
    assert isinstance(refused, LimitExceededError)
    assert (refused.details["limit"], refused.details["remaining"]) == ("requests", 0)
    assert ask(other, made.keys["enterprise"]).decision.allowed
    one.close_stores()
    other.close_stores()


def test_a_limit_in_shadow_is_told_and_refuses_nothing(tmp_path: Path) -> None:
    """The estimate of a request without a maximum is the settings' default, which is over the shadowed limit."""
    made = provider(tmp_path, RULES + "[estimates]\ndefault_max_output_tokens = 6_000\n")
    guard = Guard.from_file(made.settings)
    exchange = ask(guard, made.keys["good"])
    assert exchange.decision.allowed
    assert [reason.word for reason in exchange.decision.reasons if reason.shadow] == ["shadow:tos_limit:tokens"]
    guard.close_stores()


def test_the_hosts_own_tokenizer_counts_prompts(tmp_path: Path) -> None:
    """Where it is given, the size of the body counts for nothing."""
    made = provider(tmp_path)
    guard = Guard.from_file(made.settings, count_prompt=lambda request, body: 17)
    exchange = ask(guard, made.keys["good"], max_tokens=5)
    assert (exchange.estimate.input_tokens, exchange.estimate.output_tokens) == (17, 5)
    guard.close_stores()


@pytest.mark.parametrize(
    ("mode", "outcome", "counted"),
    [
        ("deny", "tos_unavailable", {"failed:limits"}),
        ("allow", "served", {"failed:limits", "degraded:limits:allow"}),
        ("local", "tos_limit", {"failed:limits", "degraded:limits:local"}),
    ],
)
def test_what_happens_when_the_engine_fails_is_what_the_settings_say(tmp_path: Path, mode: str, outcome: str, counted: set[str]) -> None:
    """And each use of the mode is counted: ``local`` gives this process its share of one request in three."""
    made = provider(tmp_path, RULES + f'[failure]\nlimits = "{mode}"\nlocal_share = 0.34\n')
    guard = Guard.from_file(made.settings)
    guard._limits._engine.close()  # type: ignore[union-attr]  # as if its disk were gone
    answers = [ask(guard, made.keys["good"]) for _ in range(3)]
    codes = {getattr(answer, "code", "served") for answer in answers[1:]}
    assert codes == {outcome}
    missing = counted - {name for name, count in guard.counts.items() if count}
    assert not missing, guard.counts
    guard.close_stores()


def test_limits_per_process_are_counted_by_each_alone(tmp_path: Path) -> None:
    """For a provider of one process: nothing on disk, and nobody else counts."""
    made = provider(tmp_path)
    made.settings.write_text('limits_shared_by = "process"\n' + made.settings.read_text())
    one, other = Guard.from_file(made.settings), Guard.from_file(made.settings)
    assert all(ask(one, made.keys["good"]).decision.allowed for _ in range(3))
    assert isinstance(ask(one, made.keys["good"]), LimitExceededError)
    assert ask(other, made.keys["good"]).decision.allowed
    assert not one.settings.limits_file.exists()
    one.close_stores()
    other.close_stores()


@pytest.mark.parametrize("shared_by", ["host", "fleet"])
def test_blocks_are_spent_to_the_last_request_and_given_back(
    tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch, shared_by: str
) -> None:
    """A guard with ``limits_block`` admits exactly the limit; one that is closed leaves nothing reserved to the next."""
    made = provider(tmp_path, RULES.replace("amount = 3", "amount = 160").replace("shadow = true", 'kinds = ["free"]'))
    head = f'limits_shared_by = "{shared_by}"\nlimits_block = 0.25\n'
    engine = f'[valkey]\nurl = "{valkey}"\ndomain = "test-{secrets.token_hex(6)}"\ndeadline_ms = 10_000\n' if shared_by == "fleet" else ""
    made.settings.write_text(head + made.settings.read_text() + engine)
    monkeypatch.setattr(_limits_blocks, "_BUSY_SECONDS", 60.0)  # the machine may be slow
    first = Guard.from_file(made.settings)
    assert all(ask(first, made.keys["good"]).decision.allowed for _ in range(20))
    used = first._limits.states([Charge(HOURLY, ("good",), 0)])[0].used  # type: ignore[union-attr]
    assert used == 20
    second = Guard.from_file(made.settings)
    assert second._limits.states([Charge(HOURLY, ("good",), 0)])[0].used > 20  # type: ignore[union-attr]
    first.close_stores()
    assert all(ask(second, made.keys["good"]).decision.allowed for _ in range(140))
    assert isinstance(ask(second, made.keys["good"]), LimitExceededError)
    second.close_stores()


def fleet(url: str) -> str:
    """Settings by which a fleet counts; the deadline is not what is tested, and the machine may be busy."""
    return f'[valkey]\nurl = "{url}"\ndomain = "test-{secrets.token_hex(6)}"\ndeadline_ms = 5000\n'


async def test_guards_of_both_colours_on_several_hosts_share_one_limit(tmp_path: Path, valkey: str) -> None:
    """Each host with a store of its own; a command tells what all of them have used."""
    shared = 'limits_shared_by = "fleet"\n'
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        made.append(provider(tmp_path / name))
    valkey_settings = fleet(valkey)
    for each in made:
        each.settings.write_text(shared + each.settings.read_text() + valkey_settings)
    one, other = Guard.from_file(made[0].settings), AsyncGuard.from_file(made[1].settings)
    assert isinstance(one._limits, FallbackLimits)
    assert isinstance(other._async_limits, AsyncFallbackLimits)
    served = [
        await asyncio.to_thread(ask, one, made[0].keys["good"]),
        await ask_async(other, made[1].keys["good"]),
        await asyncio.to_thread(ask, one, made[0].keys["good"]),
    ]
    assert all(exchange.decision.allowed for exchange in served)
    refused = await ask_async(other, made[1].keys["good"])
    assert isinstance(refused, LimitExceededError)
    assert (refused.details["limit"], refused.details["remaining"]) == ("requests", 0)
    done = await asyncio.to_thread(run_command, "accounts", "usage", "good", "--config", str(made[1].settings), "--json")
    assert [(limit["id"], limit["used"]) for limit in json.loads(done)["limits"]] == [("requests", 3)]
    assert not one.settings.limits_file.exists()
    one.close_stores()
    await asyncio.to_thread(other.close_stores)


def run_command(*arguments: str) -> str:
    """What ``tos-guard`` says."""
    done = subprocess.run([sys.executable, "-m", "tos_guard.cli", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def ask_async(guard: AsyncGuard, key: str) -> Any:
    """As `ask`."""
    view = RequestView("POST", CHAT, [(b"authorization", f"Bearer {key}".encode())])
    route = guard.route(CHAT)
    assert route is not None
    body = json.dumps({"model": "smollm2-135m", "messages": []}).encode()
    exchange = await guard.run(guard.admit(await guard.run(guard.authenticate(view)), view, route, body))
    return await guard.run(guard.keep_denial(exchange)) if exchange.is_refused else exchange


@pytest.mark.parametrize("colour", [Guard, AsyncGuard])
def test_whoever_watches_a_fleet_sees_an_engine_that_is_left_alone(
    tmp_path: Path, colour: type[Guard] | type[AsyncGuard], caplog: pytest.LogCaptureFixture
) -> None:
    """Told once, by log, event and gauge; no line of the log has the password."""
    made = provider(tmp_path, RULES + '[valkey]\nurl = "redis://guard:s3cret@127.0.0.1:1/0"\n')
    made.settings.write_text('limits_shared_by = "fleet"\n' + made.settings.read_text())
    guard = colour.from_file(made.settings)
    for _ in range(3):
        if isinstance(guard, Guard):
            assert isinstance(ask(guard, made.keys["good"]), RequestError)
        else:
            with pytest.raises(RequestError):
                asyncio.run(ask_async(guard, made.keys["good"]))
    gauges = {gauge: guard.telemetry.readings(gauge) for gauge in ("engine.left_alone", "limits.doubt")}
    assert gauges == {"engine.left_alone": [(1, {"tos_guard.class": "limits"})], "limits.doubt": [(0.0, {})]}
    assert guard.counts["failed:limits"] == 3
    assert caplog.text.count("the engine is left alone, and 'deny' decides") == 1
    assert "s3cret" not in caplog.text
    guard.close_stores()


def test_a_guard_that_awaits_spends_blocks_too(tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the event loop; what it holds goes back when it is closed."""
    made = provider(tmp_path)
    engine = f'[valkey]\nurl = "{valkey}"\ndomain = "test-{secrets.token_hex(6)}"\ndeadline_ms = 10_000\n'
    made.settings.write_text('limits_shared_by = "fleet"\nlimits_block = 0.1\n' + made.settings.read_text() + engine)
    monkeypatch.setattr(_limits_blocks, "_BUSY_SECONDS", 60.0)  # the machine may be slow
    store = MemoryStore(issuer=made.issuer, clock=utc_now)
    settings = parse_settings(made.settings.read_bytes())

    def opened() -> AsyncLimitEngine:
        limits = limits_from_settings(settings, store, clock=utc_now, telemetry=Telemetry(clock=utc_now), awaits=True)
        assert isinstance(limits, AsyncLimitEngine)
        return limits

    async def run() -> None:
        one, other = opened(), opened()
        for number in range(10):
            background = await one.reserve([Charge(HOURLY, ("good",), 1)], id=str(number), lease=timedelta(hours=24))  # from no block
            assert isinstance(background, Reservation)
        assert (await other.states([Charge(HOURLY, ("good",), 0)]))[0].used == 10
        for number in range(10):
            answer = await one.reserve([Charge(HOURLY, ("good",), 1)], id=f"more-{number}", lease=timedelta(seconds=60))
            assert isinstance(answer, Reservation)
        assert (await other.states([Charge(HOURLY, ("good",), 0)]))[0].used > 20
        await one.close()
        assert (await other.states([Charge(HOURLY, ("good",), 0)]))[0].used == 20
        await other.close()

    asyncio.run(run())


def test_issuers_that_share_a_store_do_not_share_limits(tmp_path: Path) -> None:
    """Accounts of two issuers may have one id: what one uses is nothing to the other."""
    (tmp_path / "theirs").mkdir()
    ours = provider(tmp_path, RULES.replace("amount = 3", "amount = 1"))
    theirs = Provider(tmp_path / "theirs", issuer="http://localhost:8443")
    key = new_api_key(secrets.token_bytes)
    with SQLiteStore(tmp_path / "tos-guard.db", issuer=theirs.issuer, clock=utc_now) as store:
        store.add_account(Account(id="good", models=frozenset({"smollm2-135m"}), region="DE"))
        store.add_api_key("good", key.public_id, hash_secret(key.secret, store.pepper()))
    rules = RULES.replace("amount = 3", "amount = 1")
    theirs.settings.write_text(theirs.settings.read_text().replace('"tos-guard.db"', f'"{tmp_path / "tos-guard.db"}"') + rules)
    one, other = Guard.from_file(ours.settings), Guard.from_file(theirs.settings)
    assert ask(one, ours.keys["good"]).decision.allowed
    assert isinstance(ask(one, ours.keys["good"]), LimitExceededError)
    assert ask(other, key.text).decision.allowed
    assert isinstance(ask(other, key.text), LimitExceededError)
    one.close_stores()
    other.close_stores()


def test_no_two_issuers_have_one_file_of_limits(tmp_path: Path) -> None:
    guard = Guard.from_file(provider(tmp_path).settings)
    issuers = ("https://a.example", "https://a.example:8443", "https://a.example-8443", "http://localhost", "https://localhost")
    files = {guard.settings.model_copy(update={"issuer": issuer}).limits_file.name for issuer in issuers}
    assert len(files) == len(issuers)
    assert {"tos-guard.a.example.limits.db", "tos-guard.a.example_8443.limits.db"} <= files
    guard.close_stores()
