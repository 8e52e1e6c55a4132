"""Acceptance: what a record holds, and what binds an account because of it (docs/adr/0007)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tos_guard.errors import AccountError
from tos_guard.terms import Acceptance, Bound, TermsVersion, Withdrawal, new_acceptance, new_withdrawal, parse_terms, standing_of
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind

ISSUER = "https://api.example.com"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def version(name: str, effective: str, *header: str, required: bool = True) -> TermsVersion:
    lines = [
        f'version = "{name}"',
        'title = "T"',
        f'uri = "https://a.example/{name}"',
        'text = "t.md"',
        f"effective = {effective}",
        *header,
    ]
    rule = ['acceptance = "required"'] if required else []
    clause = '[[clause]]\nid = "use"\neffect = "permit"\naction = "generate"\n'
    return parse_terms(("[terms]\n" + "\n".join((*lines, *rule)) + f"\n{clause}").encode(), f"text of {name}".encode())


V1 = version("1", "2026-01-01")
V2 = version("2", "2026-03-01", "grace_days = 30")
MINOR = version("2.1", "2026-04-15", "material = false")


def accept(terms: TermsVersion, when: str, **over: Any) -> Acceptance:
    members: dict[str, Any] = {
        "issuer": ISSUER,
        "subject_kind": SubjectKind.ACCOUNT,
        "subject_id": "acme",
        "accepted_by": "jane@acme.example",
        "authority": "",
        "method": AcceptanceMethod.ACCOUNT_ROUTE,
        "identified_by": Identification.HOST,
        "entropy": lambda size: bytes(size),
        **over,
    }
    return new_acceptance(terms, now=at(when), **members)


def withdraw(acceptance: Acceptance, when: str) -> Acceptance:
    withdrawal = new_withdrawal(
        acceptance,
        withdrawn_by="jane@acme.example",
        authority="",
        method=AcceptanceMethod.ACCOUNT_ROUTE,
        identified_by=Identification.HOST,
        now=at(when),
        entropy=lambda size: bytes(size),
    )
    return acceptance.with_withdrawal(withdrawal)


def answer(bound: Bound) -> tuple[str | None, str | None, bool]:
    """Which version binds, which is to be accepted, and whether requests are refused."""
    return bound.version and bound.version.version, bound.to_accept and bound.to_accept.version, bound.refused


def test_terms_that_ask_for_no_acceptance_bind_from_their_day_on() -> None:
    free, newer = version("1", "2026-01-01", required=False), version("2", "2026-03-01", required=False)
    assert answer(standing_of((free, newer), (), at("2025-12-31T23:59:59"))) == (None, None, False)
    assert answer(standing_of((free, newer), (), at("2026-02-01"))) == ("1", None, False)
    assert answer(standing_of((free, newer), (), at("2026-03-01"))) == ("2", None, False)


def test_whoever_never_accepted_is_refused_without_grace() -> None:
    assert answer(standing_of((V1,), (), at("2026-01-01"))) == (None, "1", True)
    assert answer(standing_of((V1, V2), (), at("2026-03-01"))) == (None, "2", True)
    assert standing_of((V1, V2), (), at("2026-03-01")).grace_ends is None


def test_nothing_binds_and_nothing_is_refused_before_the_first_day() -> None:
    bound = standing_of((V1,), (), at("2025-12-31"))
    assert answer(bound) == (None, None, False)
    assert bound.changes == at("2026-01-01")


def test_what_was_accepted_binds() -> None:
    mine = accept(V1, "2026-01-05T10:00:00")
    assert answer(standing_of((V1,), (mine,), at("2026-01-05T09:59:59"))) == (None, "1", True)
    bound = standing_of((V1,), (mine,), at("2026-01-05T10:00:00"))
    assert answer(bound) == ("1", None, False)
    assert bound.acceptance == mine


def test_a_material_version_binds_once_accepted_and_refuses_when_its_grace_is_over() -> None:
    mine = accept(V1, "2026-01-05")
    versions = (V1, V2)
    assert answer(standing_of(versions, (mine,), at("2026-02-28"))) == ("1", None, False)
    bound = standing_of(versions, (mine,), at("2026-03-01"))
    assert answer(bound) == ("1", "2", False)
    assert bound.grace_ends == bound.changes == at("2026-04-01"), "the effective day and 30 more"
    assert answer(standing_of(versions, (mine,), at("2026-03-31T23:59:59"))) == ("1", "2", False)
    assert answer(standing_of(versions, (mine,), at("2026-04-01"))) == (None, "2", True)
    again = accept(V2, "2026-03-10")
    assert answer(standing_of(versions, (mine, again), at("2026-03-09"))) == ("1", "2", False)
    assert answer(standing_of(versions, (mine, again), at("2026-03-10"))) == ("2", None, False)
    assert answer(standing_of(versions, (mine, accept(V2, "2026-06-01")), at("2026-06-01"))) == ("2", None, False), "late, and still"


def test_without_grace_days_the_effective_day_is_the_last() -> None:
    newer = version("2", "2026-03-01")
    mine = accept(V1, "2026-01-05")
    assert answer(standing_of((V1, newer), (mine,), at("2026-03-01T23:59:59"))) == ("1", "2", False)
    assert answer(standing_of((V1, newer), (mine,), at("2026-03-02"))) == (None, "2", True)


def test_a_version_that_is_not_material_binds_whoever_accepted_the_one_before() -> None:
    versions = (V1, V2, MINOR)
    mine = accept(V2, "2026-03-10")
    bound = standing_of(versions, (mine,), at("2026-04-15"))
    assert answer(bound) == ("2.1", None, False)
    assert bound.acceptance == mine
    assert answer(standing_of(versions, (accept(V1, "2026-01-05"),), at("2026-04-15"))) == (None, "2.1", True), "nor the material one"
    assert answer(standing_of(versions, (), at("2026-04-15"))) == (None, "2.1", True)


def test_acceptance_of_a_version_that_is_not_material_is_acceptance_of_all_it_says() -> None:
    assert answer(standing_of((V1, V2, MINOR), (accept(MINOR, "2026-04-20"),), at("2026-05-01"))) == ("2.1", None, False)


def test_another_material_version_does_not_give_more_time() -> None:
    newer = version("3", "2026-03-20", "grace_days = 90")
    mine = accept(V1, "2026-01-05")
    bound = standing_of((V1, V2, newer), (mine,), at("2026-03-25"))
    assert answer(bound) == ("1", "3", False)
    assert bound.grace_ends == at("2026-04-01")
    assert answer(standing_of((V1, V2, newer), (mine,), at("2026-04-01"))) == (None, "3", True)


def test_a_version_that_is_not_material_neither_gives_nor_takes_time() -> None:
    early_minor = version("2.1", "2026-03-05", "material = false")
    mine = accept(V1, "2026-01-05")
    bound = standing_of((V1, V2, early_minor), (mine,), at("2026-03-20"))
    assert answer(bound) == ("1", "2.1", False)
    assert bound.grace_ends == at("2026-04-01")


def test_acceptance_before_the_effective_day_counts_from_that_day_on() -> None:
    ahead = accept(V2, "2026-02-01")
    assert answer(standing_of((V1, V2), (ahead,), at("2026-02-15"))) == (None, "1", True), "it says nothing about the version before"
    both = (accept(V1, "2026-01-05"), ahead)
    assert answer(standing_of((V1, V2), both, at("2026-02-28T23:59:59"))) == ("1", None, False)
    assert answer(standing_of((V1, V2), both, at("2026-03-01"))) == ("2", None, False)


def test_withdrawal_ends_an_acceptance_at_its_moment() -> None:
    mine = withdraw(accept(V1, "2026-01-05"), "2026-02-01T12:00:00")
    assert answer(standing_of((V1,), (mine,), at("2026-02-01T11:59:59"))) == ("1", None, False)
    assert standing_of((V1,), (mine,), at("2026-01-10")).changes == at("2026-02-01T12:00:00")
    assert answer(standing_of((V1,), (mine,), at("2026-02-01T12:00:00"))) == (None, "1", True)
    assert answer(standing_of((V1, V2), (mine,), at("2026-03-05"))) == (None, "2", True), "and gives no grace"


def test_whoever_accepts_again_after_a_withdrawal_is_bound_again() -> None:
    mine = withdraw(accept(V1, "2026-01-05"), "2026-02-01")
    assert answer(standing_of((V1,), (mine, accept(V1, "2026-02-10")), at("2026-02-10"))) == ("1", None, False)


def test_expiry_ends_an_acceptance_after_its_last_second() -> None:
    mine = accept(V1, "2026-01-05", expires=at("2026-02-01T12:00:00"))
    last = at("2026-02-01T12:00:00")
    assert answer(standing_of((V1,), (mine,), last + timedelta(microseconds=999_999))) == ("1", None, False)
    bound = standing_of((V1,), (mine,), last + timedelta(seconds=1))
    assert answer(bound) == (None, "1", True)
    assert standing_of((V1,), (mine,), last).changes == last + timedelta(seconds=1)


def test_terms_that_come_to_ask_for_acceptance_ask_at_once() -> None:
    """Who was bound without accepting has accepted nothing, and has no grace: such a version is published ahead."""
    free = version("1", "2026-01-01", required=False)
    assert answer(standing_of((free, V2), (), at("2026-02-28"))) == ("1", None, False)
    assert answer(standing_of((free, V2), (), at("2026-03-01"))) == (None, "2", True)
    ahead = accept(V2, "2026-02-10")
    assert answer(standing_of((free, V2), (ahead,), at("2026-03-01"))) == ("2", None, False)


def test_terms_that_no_longer_ask_bind_everyone() -> None:
    free = version("3", "2026-05-01", required=False)
    assert answer(standing_of((V1, V2, free), (), at("2026-05-01"))) == ("3", None, False)


def test_a_version_that_bound_without_acceptance_binds_on_during_the_grace_of_the_next() -> None:
    free = version("1.5", "2026-02-01", required=False)
    mine = accept(V1, "2026-01-05")
    bound = standing_of((V1, free, V2), (mine,), at("2026-03-05"))
    assert answer(bound) == ("1.5", "2", False)
    assert bound.acceptance is None
    assert bound.grace_ends == at("2026-04-01")


def test_an_acceptance_counts_for_the_very_bytes_that_were_accepted() -> None:
    mine = accept(V1, "2026-01-05")
    for forged in (replace(mine, terms_sha256=V2.sha256), replace(mine, version="2"), replace(mine, series="other")):
        assert answer(standing_of((V1, V2), (forged,), at("2026-02-01"))) == (None, "1", True)


def test_an_acceptance_for_the_organization_binds_its_accounts_to_the_general_terms() -> None:
    theirs = accept(V1, "2026-01-05", subject_kind=SubjectKind.ORGANIZATION, subject_id="acme-corp", authority="counsel")
    assert answer(standing_of((V1,), (theirs,), at("2026-02-01"))) == ("1", None, False)


CONTRACT = version("c-1", "2026-01-01", 'series = "contract"', 'organization = "acme-corp"')


def test_no_account_accepts_a_contract_for_itself_and_no_organization_that_of_another() -> None:
    with pytest.raises(AccountError, match="a contract of one organization"):
        accept(CONTRACT, "2026-01-05")
    with pytest.raises(AccountError, match="a contract of one organization"):
        accept(CONTRACT, "2026-01-05", subject_kind=SubjectKind.ORGANIZATION, subject_id="other", authority="counsel")
    theirs = accept(CONTRACT, "2026-01-05", subject_kind=SubjectKind.ORGANIZATION, subject_id="acme-corp", authority="counsel")
    assert answer(standing_of((CONTRACT,), (theirs,), at("2026-02-01"))) == ("c-1", None, False)
    forged = replace(theirs, subject_kind=SubjectKind.ACCOUNT)
    assert answer(standing_of((CONTRACT,), (forged,), at("2026-02-01"))) == (None, "c-1", True)


def test_a_record_says_what_was_accepted_in_which_words() -> None:
    mine = accept(V1, "2026-01-05T10:00:00.750000")
    assert (mine.terms_sha256, mine.text_sha256, mine.uri, mine.locale) == (V1.sha256, V1.text_sha256, V1.uri, "en")
    assert (mine.series, mine.version, mine.at) == ("general", "1", at("2026-01-05T10:00:00"))
    assert mine.id == "acc_" + "A" * 22
    assert mine.with_receipt("a.b.c").receipt == "a.b.c"


def test_an_acceptance_is_withdrawn_once() -> None:
    with pytest.raises(AccountError, match="withdrawn already"):
        withdraw(withdraw(accept(V1, "2026-01-05"), "2026-02-01"), "2026-02-02")


def test_a_withdrawal_is_of_one_acceptance() -> None:
    mine = withdraw(accept(V1, "2026-01-05"), "2026-02-01")
    other = accept(V1, "2026-01-06", entropy=lambda size: b"\1" * size)
    assert mine.withdrawal is not None
    assert mine.withdrawal.id == "wdr_" + "A" * 22
    with pytest.raises(AccountError, match="withdrawal"):
        other.with_withdrawal(mine.withdrawal)


GOOD = accept(V1, "2026-01-05")
GOOD_WITHDRAWAL = withdraw(GOOD, "2026-02-01").withdrawal


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("id", "acc_short"),
        ("id", "xyz_" + "A" * 22),
        ("subject_id", ""),
        ("subject_id", "x" * 129),
        ("accepted_by", ""),
        ("accepted_by", "x" * 129),
        ("authority", "x" * 201),
        ("at", datetime(2026, 1, 1)),  # noqa: DTZ001 - what is refused
        ("at", datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        ("expires", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_record_of_another_form_is_refused(member: str, value: object) -> None:
    with pytest.raises(AccountError, match=f"{member} is empty, too long, or of another form"):
        replace(GOOD, **{member: value})  # type: ignore[arg-type]


def test_for_an_organization_the_authority_is_named() -> None:
    with pytest.raises(AccountError, match="authority"):
        accept(V1, "2026-01-05", subject_kind=SubjectKind.ORGANIZATION, subject_id="acme-corp")


@pytest.mark.parametrize(
    ("member", "value"),
    [("id", "acc_" + "A" * 22), ("acceptance", "x"), ("withdrawn_by", ""), ("authority", "x" * 201), ("reason", "x" * 501)],
)
def test_a_withdrawal_of_another_form_is_refused(member: str, value: str) -> None:
    assert isinstance(GOOD_WITHDRAWAL, Withdrawal)
    with pytest.raises(AccountError, match=f"{member} is empty, too long, or of another form"):
        replace(GOOD_WITHDRAWAL, **{member: value})  # type: ignore[arg-type]
