"""What a request is decided on: rights as they are by then, and what the host asserts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kit import CHAT, REQUEST, TERMS, Kit, ask, whole
from tos_guard.errors import AuthenticationError, StoreError
from tos_guard.exchange import Exchange
from tos_guard.guard import Caller, RequestView
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.types import Standing

OK = whole(b'{"choices":[]}')


def view_of(kit: Kit) -> RequestView:
    return RequestView("POST", CHAT, [(b"authorization", f"Bearer {kit.key}".encode())])


def long_ago(caller: Caller) -> Caller:
    """As if it had been found a second ago."""
    return replace(caller, found_at=caller.found_at - 1)


def admit(kit: Kit, caller: Caller) -> Exchange:
    route = kit.guard.route(CHAT)
    assert route is not None
    return asyncio.run(kit.guard.run(kit.guard.admit(caller, view_of(kit), route, REQUEST)))


def test_an_account_that_is_suspended_while_its_body_comes_is_refused() -> None:
    """Else whoever expects to be suspended keeps requests open, a byte short of their end, and is served for hours."""
    kit = Kit()
    caller = asyncio.run(kit.guard.run(kit.guard.authenticate(view_of(kit))))
    kit.change(standing=Standing.SUSPENDED)
    exchange = admit(kit, long_ago(caller))
    assert [reason.code for reason in exchange.decision.reasons] == ["tos_account_suspended"]
    assert kit.store.by_id("acme") is not None
    assert exchange.account_version == 2


def test_a_key_that_is_revoked_while_the_body_comes_opens_nothing() -> None:
    kit = Kit()
    caller = asyncio.run(kit.guard.run(kit.guard.authenticate(view_of(kit))))
    kit.store.revoke_api_key(kit.key.split("-")[1])
    with pytest.raises(AuthenticationError):
        admit(kit, long_ago(caller))


def test_a_body_that_comes_at_once_costs_no_second_look_up() -> None:
    kit = Kit()
    caller = asyncio.run(kit.guard.run(kit.guard.authenticate(view_of(kit))))
    kit.change(standing=Standing.SUSPENDED)
    assert admit(kit, caller).decision.allowed


@pytest.mark.parametrize(
    "said", [{"region": "kp"}, {"region": " KP"}, {"region": ["KP"]}, {"region": 7}, {"region": None}, {}, None, 1 / 3]
)
def test_a_region_in_another_form_is_unknown(said: Any) -> None:
    """A clause that forbids KP would not meet ``kp``: what is unknown, it meets."""

    def assertions(view: object, account: object) -> Any:
        del view, account
        return said

    refused, kit = region_from(assertions)
    assert refused == 403
    assert kit.records()[-1].region is None
    counted = kit.guard.counts["failed:assertions"]
    assert counted == (0 if said in ({"region": None}, {}) else 1)


def test_a_host_that_cannot_say_where_a_request_is_from_refuses_it_as_unknown() -> None:
    """And its failure is counted, not answered with a server's error."""

    def assertions(view: object, account: object) -> Any:
        raise LookupError("no such address")

    refused, kit = region_from(assertions)
    assert refused == 403
    assert kit.guard.counts["failed:assertions"] == 1


def test_a_region_that_the_host_asserts_is_heard() -> None:
    for region, status in (("DE", 200), ("KP", 403)):
        answered, _ = region_from(lambda view, account, region=region: {"region": region})
        assert answered == status


def region_from(assertions: Any) -> tuple[int, Kit]:
    """What a request is answered where the host asserts regions so."""
    sources = {"region": "host", "verification": "account"}
    terms = TERMS.with_name("sample-2026-11.toml")
    kit = Kit(settings={"sources": sources}, overrides={"assertions": assertions}, terms=terms)
    return asyncio.run(ask(kit.wrap(OK), key=kit.key)).status, kit


@pytest.mark.parametrize(("later", "is_served"), [(299, True), (301, False), (-299, True), (-3_600, False)])
def test_what_was_last_known_ends_though_the_clock_is_set_back(later: int, is_served: bool) -> None:
    """Else a suspension would go unheard for as long as the clock went back."""
    kit = Kit(settings={"failure": {"accounts": "local", "stale_seconds": 300}})
    app = kit.wrap(OK)
    assert asyncio.run(ask(app, key=kit.key)).status == 200
    kit.guard._accounts = Unreachable()  # type: ignore[assignment]  # its file is gone
    kit.clock.now += timedelta(seconds=later)
    assert (asyncio.run(ask(app, key=kit.key)).status == 200) is is_served


class Unreachable:
    """A source of accounts that does not answer."""

    def version(self) -> int:
        raise StoreError("its disk is gone", where="accounts")


def test_a_clause_in_shadow_reports_though_a_limit_refuses(tmp_path: Path) -> None:
    """Whoever tries a clause would otherwise not see whom it would meet: those who ask most."""
    clause = 'id = "tried"\neffect = "prohibit"\naction = ["generate"]\nshadow = true\ntext = "Tried."\n'
    (tmp_path / "minimal.md").write_bytes(TERMS.with_suffix(".md").read_bytes())
    (tmp_path / "minimal.toml").write_text(TERMS.read_text() + f"\n[[clause]]\n{clause}")
    limit = Limit(id="requests", quantity=Quantity.REQUESTS, amount=0, per=(Dimension.ACCOUNT,), window=Sliding(60))
    kit = Kit(limits=[limit], terms=tmp_path / "minimal.toml")
    assert asyncio.run(ask(kit.wrap(OK), key=kit.key)).status == 429
    assert kit.records()[-1].reasons == ("tos_limit:requests", "shadow:tos_clause:tried")
    assert kit.guard.counts["shadowed:tried"] == 1
