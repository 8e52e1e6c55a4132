"""Accounts and grants: nothing is allowed by default, and what is wrong is refused with our error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from tos_guard.errors import AccountError
from tos_guard.rights import Account, Grant
from tos_guard.types import Standing

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_new_account_may_use_no_model() -> None:
    account = Account(id="acme")
    assert (account.models, account.grants, account.standing) == (frozenset(), (), Standing.GOOD)


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({}, "account.id"),
        ({"id": ""}, "account.id"),
        ({"id": "a", "standing": "excellent"}, "account.standing"),
        ({"id": "a", "models": "small"}, "account.models"),
        ({"id": "a", "actions": {"Generate"}}, "account.actions"),
        ({"id": "a", "version": 0}, "account.version"),
        ({"id": "a", "region": "north"}, "account.region"),
        ({"id": "a", "kind": "Big Corp"}, "account.kind"),
        ({"id": "a", "colour": "blue"}, "account.colour"),
        ({"id": "a", "grants": [Grant(id="g", type="research"), Grant(id="g", type="gold")]}, "account"),
    ],
)
def test_a_wrong_account_is_refused_by_name(members: dict[str, Any], where: str) -> None:
    with pytest.raises(AccountError) as caught:
        Account(**members)
    assert caught.value.where.startswith(where)


@pytest.mark.parametrize(
    "members",
    [
        {"id": "g 1", "type": "research"},
        {"id": "g", "type": "Research"},
        {"id": "g", "type": "research", "not_before": datetime(2026, 1, 1)},  # noqa: DTZ001 - a naive time is what is refused
        {"id": "g", "type": "research", "not_before": NOON, "not_after": NOON - HOUR},
    ],
)
def test_a_wrong_grant_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(AccountError):
        Grant(**members)


@pytest.mark.parametrize(
    ("not_before", "not_after", "active"),
    [
        (None, None, True),
        (NOON, None, True),
        (NOON + HOUR, None, False),
        (None, NOON, True),
        (None, NOON - HOUR, False),
        (NOON - HOUR, NOON + HOUR, True),
    ],
)
def test_a_grant_holds_in_its_time(not_before: datetime | None, not_after: datetime | None, active: bool) -> None:
    assert Grant(id="g", type="research", not_before=not_before, not_after=not_after).is_active(NOON) is active


def test_an_account_survives_its_json_form() -> None:
    grant = Grant(id="lic-1", type="licensed-distillation", models=frozenset({"small"}), not_after=NOON)
    account = Account(id="acme", version=3, kind="organization", models=frozenset({"*"}), grants=(grant,), region="US", stable_sub=True)
    adapter = TypeAdapter(Account)
    assert adapter.validate_json(adapter.dump_json(account)) == account


def test_accounts_do_not_change() -> None:
    account = Account(id="acme")
    with pytest.raises(ValueError, match="frozen"):
        account.standing = Standing.WARNED  # type: ignore[misc]
