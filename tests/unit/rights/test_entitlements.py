"""What a document of entitlements may say, and what becomes of an account by it."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tos_guard.errors import AccountError, MalformedError
from tos_guard.rights import Account, Entitlement, Given, Grant, entitlement_changes, parse_entitlements
from tos_guard.rights._entitlements import MAX_GIVEN_GRANTS

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
LICENCE = {"id": "lic", "type": "licensed-distillation", "models": ["small"]}


def document(**changes: Any) -> bytes:
    return json.dumps({"version": 1, "issued": "2026-11-25T12:00:00Z", "accounts": {"acme": {"models": ["small"]}}} | changes).encode()


def says(**members: Any) -> Entitlement:
    return Entitlement.parse(json.dumps(members))


def account(**members: Any) -> Account:
    return Account(**{"id": "acme"} | members)


def follow(before: Account, entitlement: Entitlement | None, earlier: Given | None = None, **more: Any) -> Account:
    """The account as it becomes."""
    members = entitlement_changes("crm", before, entitlement, earlier, now=more.pop("now", NOW), **more)
    return Account(**before.model_dump(mode="json") | members)


def test_a_document_is_read() -> None:
    read = parse_entitlements(document(accounts={"acme": {"kind": "partner", "limits": {"tokens": 5}, "grants": [LICENCE]}}), now=NOW)
    assert read.issued == NOW
    assert read.limits == {"tokens"}
    assert read.accounts["acme"].members == {"kind": "partner", "limits": {"tokens": 5}, "grants": [LICENCE]}


@pytest.mark.parametrize(
    ("body", "what"),
    [
        pytest.param(b"", "entitlements", id="nothing"),
        pytest.param(b"[]", "object", id="no object"),
        pytest.param(document(version=2), "version", id="version"),
        pytest.param(document(version="1"), "version", id="version as text"),
        pytest.param(document(issued="2026-11-25T12:00:00"), "issued", id="no zone"),
        pytest.param(document(issued="2026-11-25T12:05:01Z"), "future", id="future"),
        pytest.param(document(issued="9999-12-31T23:59:59-12:00"), "issued", id="end of time"),
        pytest.param(document(more=1), "more", id="unknown member"),
        pytest.param(document(accounts={"acme": {"standing": "good"}}), "standing", id="standing is not theirs"),
        pytest.param(document(accounts={"acme": {"models": "small"}}), "models", id="no list"),
        pytest.param(document(accounts={"acme": {"limits": {"tokens": "5"}}}), "limits", id="amount as text"),
        pytest.param(document(accounts={"acme": {"limits": {"tokens": -1}}}), "limits", id="amount below nothing"),
        pytest.param(document(accounts={"acme": {"grants": [LICENCE, LICENCE]}}), "grants", id="grant twice"),
        pytest.param(document(accounts={"acme": {"grants": [LICENCE | {"id": "a.b"}]}}), "grants", id="grant's id"),
        pytest.param(document(accounts={"acme": {"grants": [LICENCE | {"voided": "2026-11-25T12:00:00Z"}]}}), "voided", id="voided grant"),
        pytest.param(document(accounts={"acme\0": {}}), "U\\+0000", id="U+0000"),
        pytest.param(document(accounts={"": {}}), "accounts", id="empty id"),
        pytest.param(b'{"version": 1, "version": 1, "issued": "2026-11-25T12:00:00Z", "accounts": {}}', "twice", id="name twice"),
        pytest.param(document()[:-1], "entitlements", id="cut"),
        pytest.param(b"[" * 100_000, "entitlements", id="deep"),
        pytest.param(b" " * (8 * 1_048_576 + 1), "entitlements", id="huge"),
    ],
)
def test_a_document_is_refused_as_a_whole(body: bytes, what: str) -> None:
    with pytest.raises(MalformedError, match=what):
        parse_entitlements(body, now=NOW)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_hostile_documents_raise_our_error(value: Any) -> None:
    for body in (json.dumps(value).encode(), document(accounts=value), document(accounts={"acme": value}), document(issued=value)):
        with suppress(MalformedError):
            parse_entitlements(body, now=NOW)


def test_only_what_is_named_is_touched() -> None:
    before = account(models={"small"}, region="DE", limits={"requests": 3}, stable_sub=True, kind="partner")
    after = follow(before, says(models=["large"], limits={"tokens": 5}))
    assert after == account(models={"large"}, region="DE", limits={"requests": 3, "tokens": 5}, stable_sub=True, kind="partner")
    assert entitlement_changes("crm", after, says(models=["large"], limits={"tokens": 5}), None, now=NOW) == {}


def test_what_is_named_no_longer_becomes_what_a_new_account_has() -> None:
    earlier = Given(says(models=["large"], kind="partner", actions=["generate", "classify"], limits={"tokens": 5, "requests": 1}))
    before = follow(account(region="DE", limits={"cost": 9}), earlier.entitlement)
    assert follow(before, says(limits={"tokens": 5}), earlier) == account(region="DE", limits={"cost": 9, "tokens": 5})
    assert follow(before, None, earlier) == account(region="DE", limits={"cost": 9})


def test_a_grant_is_given_once_voided_when_it_vanishes_and_anew_when_it_changes() -> None:
    first = says(grants=[LICENCE])
    given = follow(account(), first)
    assert [(grant.id, grant.issuer, grant.voided) for grant in given.grants] == [("crm.lic", "entitlements:crm", None)]
    assert follow(given, first, Given(first)) == given
    second = says(grants=[LICENCE | {"models": ["small", "large"]}])
    changed = follow(given, second, Given(first))
    assert [(grant.id, grant.voided, len(grant.models)) for grant in changed.grants] == [("crm.lic", NOW, 1), ("crm.lic.2", None, 2)]
    assert follow(changed, second, Given(second), now=NOW + timedelta(1)) == changed
    gone = follow(changed, None, Given(second), now=NOW + timedelta(2))
    assert [grant.voided for grant in gone.grants] == [NOW, NOW + timedelta(2)]
    assert [grant.id for grant in follow(gone, second).grants] == ["crm.lic", "crm.lic.2", "crm.lic.3"]


def test_what_somebody_else_voided_stays_voided_until_the_source_says_something_new() -> None:
    first = says(grants=[LICENCE])
    given = follow(account(), first)
    mark = {"voided": NOW, "void_reason": "misused"}
    voided = given.model_copy(update={"grants": tuple(grant.model_copy(update=mark) for grant in given.grants)})
    assert follow(voided, first, Given(first)) == voided
    renewed = follow(voided, says(grants=[LICENCE | {"evidence": "contract 8"}]), Given(first))
    assert [(grant.id, grant.voided) for grant in renewed.grants] == [("crm.lic", NOW), ("crm.lic.2", None)]


def test_grants_of_others_are_not_touched() -> None:
    """Neither those of an administrator nor those of another source, even where an id looks like one of ours."""
    others = (
        Grant(id="crm.lic", type="research", issuer="dana"),
        Grant(id="billing.lic", type="research", issuer="entitlements:billing"),
        Grant(id="crmx", type="research", issuer="entitlements:crm"),
    )
    after = follow(account(grants=others), says(grants=[LICENCE]))
    assert [grant.id for grant in after.grants] == ["crm.lic", "billing.lic", "crmx", "crm.lic.2"]
    assert follow(after, None, Given(says(grants=[LICENCE]))).grants[:3] == others


def test_a_silent_source_takes_its_rights_along_and_nothing_else() -> None:
    earlier = Given(says(models=["large"], actions=["classify"], kind="partner", limits={"tokens": 5}, grants=[LICENCE]))
    before = follow(account(region="DE"), earlier.entitlement)
    lapsed = follow(before, None, earlier, lapse=True)
    assert lapsed.model_copy(update={"grants": ()}) == account(region="DE", kind="partner", limits={"tokens": 5})
    assert [grant.voided for grant in lapsed.grants] == [NOW]
    back = follow(lapsed, earlier.entitlement, Given(earlier.entitlement, lapsed=True))
    assert back.models == {"large"}
    assert [(grant.id, grant.voided) for grant in back.grants] == [("crm.lic", NOW), ("crm.lic.2", None)]


def test_a_source_that_says_nothing_of_models_takes_none_along() -> None:
    earlier = Given(says(grants=[LICENCE]))
    assert follow(account(models={"small"}), None, earlier, lapse=True).models == {"small"}


def test_a_source_that_changes_a_grant_for_ever_comes_to_an_end() -> None:
    held = tuple(
        Grant(id=f"crm.lic.{number}", type="research", issuer="entitlements:crm", voided=NOW) for number in range(MAX_GIVEN_GRANTS)
    )
    with pytest.raises(AccountError, match="more than 500"):
        follow(account(grants=held), says(grants=[LICENCE]))
    assert follow(account(grants=held), None).grants == held
