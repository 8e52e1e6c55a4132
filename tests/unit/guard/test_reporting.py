"""What an account learns of itself: the policies of its models, and how far its limits are used."""

from __future__ import annotations

from datetime import timedelta

import pytest

from desk import Desk
from tos_guard.errors import AuthenticationError, StoreError
from tos_guard.guard import LimitUse, Meter, RequestView
from tos_guard.limits import Amounts, Dimension, Limit, Quantity, Reservation, Sliding
from tos_guard.rights import Grant
from tos_guard.stores import MemoryLimits
from tos_guard.testing import FixedClock
from tos_guard.types import UNDECLARED, Facts

MINUTE = Sliding(60)
REQUESTS = Limit(id="requests", quantity=Quantity.REQUESTS, amount=10, per=(Dimension.ACCOUNT,), window=MINUTE)
SHARED = Limit(id="shared", quantity=Quantity.TOKENS, amount=1_000, per=(Dimension.ORGANIZATION,), window=MINUTE)
PER_MODEL = Limit(id="per-model", quantity=Quantity.REQUESTS, amount=5, per=(Dimension.ACCOUNT, Dimension.MODEL), window=MINUTE)
PER_USER = Limit(id="per-user", quantity=Quantity.REQUESTS, amount=2, per=(Dimension.END_USER,), window=MINUTE)
SHADOW = Limit(id="trial", quantity=Quantity.COST, amount=1, per=(Dimension.ACCOUNT,), window=MINUTE, shadow=True)


def limited(*limits: Limit) -> Desk:
    clock = FixedClock()
    return Desk(clock=clock, overrides={"meter": Meter(limits), "limits": MemoryLimits(clock=clock)})


def uses(desk: Desk, account: str) -> list[LimitUse]:
    return list(desk.guard.run(desk.guard.limit_uses(desk.holder(account))))


def charge(desk: Desk, account: str, model: str = "small", **amounts: int) -> None:
    charges = desk.guard.meter.charges(desk.holder(account), {}, Facts("generate", model), Amounts(**amounts))
    engine = desk.parts["limits"]
    assert isinstance(engine, MemoryLimits)
    assert isinstance(engine.reserve(charges, id=f"{account}-{model}", lease=timedelta(minutes=1)), Reservation)


def test_an_account_sees_how_far_its_limits_are_used() -> None:
    """Its own, and those it shares; with the amounts that hold for it. Looking charges nothing."""
    desk = limited(REQUESTS, SHARED)
    desk.store.set_limit("acme", "requests", 20)
    charge(desk, "acme", input_tokens=100)
    charge(desk, "acme-2", input_tokens=50)
    for _ in range(2):
        found = [(use.limit.id, use.limit.amount, use.state.used, use.state.remaining) for use in uses(desk, "acme") if use.state]
        assert found == [("requests", 20, 1, 19), ("shared", 1_000, 150, 850)]
    assert [(use.limit.id, use.state.used) for use in uses(desk, "solo") if use.state] == [("requests", 0)]


def test_a_limit_per_model_is_told_model_by_model() -> None:
    """Models that are not named have counters that cannot be listed; the limit itself is told all the same."""
    desk = limited(PER_MODEL)
    charge(desk, "acme", "large")
    assert [(use.state.scope, use.state.used) for use in uses(desk, "acme") if use.state] == [
        (("acme", "large"), 1),
        (("acme", "small"), 0),
    ]
    assert [(use.limit.id, use.state) for use in uses(desk, "acme-2")] == [("per-model", None)]


def test_a_limit_per_end_user_is_told_without_their_counters() -> None:
    assert [(use.limit.id, use.state) for use in uses(limited(PER_USER), "solo")] == [("per-user", None)]


def test_a_grants_larger_amount_is_the_amount() -> None:
    desk = limited(PER_MODEL)
    desk.store.add_grant("acme", Grant(id="more", type="larger", models=frozenset({"large"}), limits={"per-model": 500}))
    amounts = {use.state.scope[1]: use.limit.amount for use in uses(desk, "acme") if use.state}
    assert amounts == {"large": 500, "small": 5}


def test_limits_in_shadow_refuse_nothing_and_are_not_told() -> None:
    assert uses(limited(SHADOW), "solo") == []
    assert uses(Desk(), "solo") == []


def test_models_with_one_policy_stand_together() -> None:
    """A licence to distil one model changes the policy of its output alone."""
    desk = Desk()
    policies = desk.guard.run(desk.guard.usage_policies(desk.holder("acme")))
    assert [(one.models, one.others, one.purpose, one.policy.content_usage) for one in policies] == [
        (("large",), False, UNDECLARED, "train-ai=n"),
        (("small",), False, UNDECLARED, ""),
    ]
    (everything,) = desk.guard.run(desk.guard.usage_policies(desk.holder("acme-2")))
    assert (everything.models, everything.others) == ((), True)


def test_a_grant_for_a_purpose_shows_beside_the_usual_policy() -> None:
    desk = Desk()
    desk.store.add_grant("solo", Grant(id="lic", type="licensed-distillation", purposes=frozenset({"distillation"})))
    policies = desk.guard.run(desk.guard.usage_policies(desk.holder("solo")))
    assert [(one.purpose, one.policy.content_usage) for one in policies] == [(UNDECLARED, "train-ai=n"), ("distillation", "")]


def view(*headers: tuple[bytes, bytes]) -> RequestView:
    return RequestView("GET", "/admin/accounts", headers)


def test_an_administrators_key_names_the_administrator() -> None:
    desk = Desk()
    for header in ((b"authorization", f"Bearer {desk.admin_key}".encode()), (b"x-api-key", desk.admin_key.encode())):
        assert desk.guard.run(desk.guard.authenticate_admin(view(header))) == "dana"


def test_no_other_credential_administers() -> None:
    """Neither an account's key, nor a revoked or altered one, nor none; and an administrator's key is no account's."""
    desk = Desk()
    revoked = desk.store.admin_keys()[0].public_id
    altered = desk.admin_key[:-1] + ("A" if desk.admin_key[-1] != "A" else "B")
    for text in (desk.keys["solo"], altered, "tga-", "x", ""):
        with pytest.raises(AuthenticationError):
            desk.guard.run(desk.guard.authenticate_admin(view((b"authorization", f"Bearer {text}".encode()))))
    with pytest.raises(AuthenticationError):
        desk.guard.run(desk.guard.authenticate_admin(view()))
    with pytest.raises(AuthenticationError):
        desk.guard.run(desk.guard.authenticate(view((b"x-api-key", desk.admin_key.encode()))))
    desk.store.revoke_admin_key(revoked)
    with pytest.raises(AuthenticationError):
        desk.guard.run(desk.guard.authenticate_admin(view((b"x-api-key", desk.admin_key.encode()))))


def test_the_host_may_name_its_administrators() -> None:
    """In place of keys: then these open nothing. What is no name is nobody."""
    answers: list[str | None] = ["erin", None, "", "x" * 201]
    desk = Desk(overrides={"authorize_admin": lambda _: answers.pop(0)})
    with_key = view((b"x-api-key", desk.admin_key.encode()))
    assert desk.guard.run(desk.guard.authenticate_admin(with_key)) == "erin"
    while answers:
        with pytest.raises(AuthenticationError):
            desk.guard.run(desk.guard.authenticate_admin(with_key))


def test_whatever_the_hosts_code_raises_is_a_failure_of_a_part() -> None:
    def broken(_: RequestView) -> str | None:
        raise KeyError("session")

    desk = Desk(overrides={"authorize_admin": broken})
    with pytest.raises(StoreError, match="authorize_admin= raised KeyError"):
        desk.guard.run(desk.guard.authenticate_admin(view()))
