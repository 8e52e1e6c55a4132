"""The steps of the ladder of standing at gRPC servers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from grpc_kit import DOORS, Door, ask, grpc_kit
from tos_guard.rights import Measure
from tos_guard.types import Standing

VERIFIED = {"standing": {"restricted": {"verify": ["organization"]}}}


@pytest.fixture(params=DOORS, ids=lambda door: door.name)
def door(request: pytest.FixtureRequest) -> Door:
    """Each way to serve."""
    return request.param  # type: ignore[no-any-return]


def measure(step: Standing, begins: Any, **members: Any) -> Measure:
    return Measure(**{"id": "m-1", "step": step, "reason": "copied outputs", "begins": begins, **members})


@pytest.mark.parametrize(
    ("step", "code", "reason"),
    [
        (Standing.SUSPENDED, grpc.StatusCode.PERMISSION_DENIED, "tos_account_suspended"),
        (Standing.TERMINATED, grpc.StatusCode.PERMISSION_DENIED, "tos_account_terminated"),
        (Standing.RESTRICTED, grpc.StatusCode.FAILED_PRECONDITION, "tos_verification_required"),
    ],
)
def test_a_refusal_names_the_measure_in_its_details(door: Door, step: Standing, code: grpc.StatusCode, reason: str) -> None:
    """And once it is lifted, the next call is served."""
    kit = grpc_kit(settings=VERIFIED)
    until = kit.clock() + timedelta(days=3)
    kit.store.take_measure("acme", measure(step, kit.clock(), clauses=("no-competing-model",), notice="Call us.", expires=until))
    with door.serving(kit) as address:
        refused = ask(address, "UnaryUnary", kit=kit)
        kit.store.lift_measure("acme", "m-1", "a mistake")
        served = ask(address, "UnaryUnary", kit=kit)
    assert (refused.code, refused.error.reason) == (code, reason)
    told = refused.error.metadata
    assert (told["standing"], told["measure"], told["standing_reason"], told["notice"]) == (step, "m-1", "copied outputs", "Call us.")
    assert (told["clauses"], told["expires"]) == ('["no-competing-model"]', until.isoformat().replace("+00:00", "Z"))
    assert "https://api.example.com/appeal" in {link.url for link in refused.detail(error_details_pb2.Help).links}
    assert served.code is grpc.StatusCode.OK


def test_a_warned_account_is_served_and_told(door: Door) -> None:
    kit = grpc_kit()
    kit.store.take_measure("acme", measure(Standing.WARNED, kit.clock()))
    with door.serving(kit) as address:
        told = ask(address, "UnaryStream", kit=kit)
    assert told.code is grpc.StatusCode.OK
    assert any(name == "link" and 'rel="status"; title="warned"' in str(value) for name, value in (*told.initial, *told.trailing))


def test_the_longest_reasons_in_any_script_reach_the_client(door: Door) -> None:
    """They are cut to what trailing metadata can carry, and not lost with it."""
    kit = grpc_kit()
    kit.store.take_measure("acme", measure(Standing.SUSPENDED, kit.clock(), reason="違" * 2_000, notice="反" * 2_000))
    with door.serving(kit) as address:
        told = ask(address, "UnaryUnary", kit=kit)
    assert (told.code, told.error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "tos_account_suspended")
    assert "違" in told.details
