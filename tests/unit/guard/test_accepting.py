"""Who may accept terms for whom, and the receipts they get (docs/adr/0007)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from desk import JANE, Desk, contract, terms
from tos_guard.errors import ConfigurationError, ConflictError, DeniedError, MalformedRequestError, NotFoundError, RequestError, SignerError
from tos_guard.guard import Subject
from tos_guard.rights import Organization
from tos_guard.terms import Acceptance
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind
from tos_guard.verify import ExpectedReceipt, verify_receipt

ROUTE = AcceptanceMethod.ACCOUNT_ROUTE


def accept(
    desk: Desk,
    account: str = "solo",
    version: str = "2026-11",
    person: str = JANE.id,
    by: Identification = Identification.HOST,
    **more: Any,
) -> Acceptance:
    steps = desk.guard.accept(desk.holder(account), version, accepted_by=person, method=ROUTE, identified_by=by, **more)
    return desk.guard.run(steps)


def withdraw(
    desk: Desk, account: str, acceptance: str, person: str = JANE.id, by: Identification = Identification.HOST, **more: Any
) -> Acceptance:
    steps = desk.guard.withdraw(desk.holder(account), acceptance, withdrawn_by=person, method=ROUTE, identified_by=by, **more)
    return desk.guard.run(steps)


def is_bound(desk: Desk, account: str) -> bool:
    binding = desk.guard.run(desk.guard.binding(desk.holder(account)))
    return not binding.refusing("small")


def test_an_account_without_an_organization_accepts_for_itself() -> None:
    """Whoever has its credential may: their own word is enough, and the receipt says that it was no more."""
    desk = Desk()
    assert not is_bound(desk, "solo")
    made = accept(desk, person="Sam Solo", by=Identification.DECLARED)
    assert (made.subject_kind, made.subject_id, made.authority) == (SubjectKind.ACCOUNT, "solo", "")
    assert is_bound(desk, "solo")
    assert made.receipt is not None
    proven = verify_receipt(
        made.receipt,
        trust=desk.trust,
        now=desk.clock.now,
        terms_document=desk.general.document_bytes,
        terms_text=desk.general.text,
        expected=ExpectedReceipt(subject_id="solo", person="Sam Solo", version="2026-11", event="acceptance"),
    )
    assert (proven.claims.identified_by, proven.claims.method) == ("declared", "account-route")


def test_an_authorized_person_accepts_for_all_accounts_of_an_organization() -> None:
    """On the authority that the organization's record names."""
    desk = Desk()
    made = accept(desk, "acme")
    assert (made.subject_kind, made.subject_id, made.authority) == (SubjectKind.ORGANIZATION, "acme-corp", "general counsel")
    assert is_bound(desk, "acme")
    assert is_bound(desk, "acme-2")
    assert not is_bound(desk, "solo")


@pytest.mark.parametrize(
    ("account", "person", "by", "said"),
    [
        ("acme", "mallory@acme.example", Identification.HOST, "not recorded as one who may accept"),
        ("acme", "mallory@acme.example", Identification.ADMINISTRATOR, "not recorded as one who may accept"),
        ("acme", JANE.id, Identification.DECLARED, "a name alone is not enough"),
        ("acme", "", Identification.BEARER, "not recorded as one who may accept"),
        ("stray", JANE.id, Identification.HOST, "nobody is recorded who may accept"),
    ],
    ids=["stranger", "stranger-on-paper", "own-word", "nameless", "unknown-organization"],
)
def test_nobody_else_speaks_for_an_organization(account: str, person: str, by: Identification, said: str) -> None:
    """The refusal says why, who may, and what to do."""
    desk = Desk()
    with pytest.raises(DeniedError, match=said) as refused:
        accept(desk, account, person=person, by=by)
    assert refused.value.reason == "tos_may_not_accept"
    assert refused.value.details["who_may_accept"] == "organization"
    assert refused.value.cure
    assert desk.store.acceptances(SubjectKind.ORGANIZATION, "acme-corp") == ()


def test_an_organizations_person_may_declare_themselves_where_the_settings_say_so() -> None:
    desk = Desk(settings={"acceptance": {"organization": "declared"}})
    assert accept(desk, "acme", by=Identification.DECLARED).identified_by is Identification.DECLARED
    with pytest.raises(DeniedError, match="not recorded"):
        accept(desk, "acme-2", person="mallory@acme.example", by=Identification.DECLARED)


def test_an_organization_without_authorized_persons_has_nobody_to_accept() -> None:
    desk = Desk()
    stored = desk.store.organization("acme-corp")
    assert stored is not None
    desk.store.put_organization(stored.model_copy(update={"authorized": ()}))
    with pytest.raises(DeniedError, match="nobody is recorded"):
        accept(desk, "acme")


def test_accepting_twice_is_accepting_once() -> None:
    """A double click makes no second record, and no second signature."""
    desk = Desk()
    assert accept(desk) == accept(desk)
    assert desk.receipts.signatures == 1


def test_an_acceptance_that_ends_can_be_renewed() -> None:
    """One that counts for longer is another."""
    desk = Desk()
    end = desk.clock.now + timedelta(days=30)
    record = desk.guard.record_acceptance
    first = desk.guard.run(record(SubjectKind.ACCOUNT, "solo", "2026-11", accepted_by="Sam", expires=end))
    assert desk.guard.run(record(SubjectKind.ACCOUNT, "solo", "2026-11", accepted_by="Sam", expires=end)) == first
    assert accept(desk).id != first.id


def test_a_contract_is_accepted_by_its_organization_alone() -> None:
    """Others learn no more of it than of a version that does not exist."""
    desk = Desk(published=(contract(),))
    with pytest.raises(NotFoundError) as foreign:
        accept(desk, "solo", "acme-1")
    with pytest.raises(NotFoundError) as unknown:
        accept(desk, "solo", "acme-9")
    assert str(foreign.value).replace("acme-1", "acme-9") == str(unknown.value)
    assert accept(desk, "acme", "acme-1").series == "acme-contract"


def test_only_the_newest_version_and_those_to_come_are_accepted() -> None:
    """Accepting an old one would give a grace that was meant for those who had accepted it in time."""
    newer = terms("2026-11b", date(2026, 11, 20), "grace_days = 30")
    to_come = terms("2027", date(2027, 1, 1))
    corrected = terms("2027b", date(2027, 1, 1))
    desk = Desk(published=(newer, to_come, corrected))
    desk.guard.run(desk.guard.binding(desk.holder("solo")))
    offered = desk.guard.acceptable(Subject.of(desk.holder("solo")), desk.clock.now)
    assert [version.version for version in offered] == ["2026-11b", "2027b"]
    with pytest.raises(ConflictError, match="version 2026-11b has taken its place"):
        accept(desk, version="2026-11")
    with pytest.raises(ConflictError, match="version 2027b has taken its place"):
        accept(desk, version="2027")
    accept(desk, version="2027b")
    assert not is_bound(desk, "solo")
    desk.clock.now = datetime(2027, 1, 1, tzinfo=UTC)
    assert is_bound(desk, "solo")


def test_what_binds_without_being_accepted_is_not_accepted() -> None:
    desk = Desk(general=terms("2026-11", acceptance="none"))
    with pytest.raises(ConflictError, match="binds without being accepted"):
        accept(desk)
    assert desk.guard.acceptable(Subject.of(desk.holder("solo")), desk.clock.now) == ()


def test_terms_published_a_moment_ago_can_be_accepted() -> None:
    """The step looks at the archive first, as a request does."""
    desk = Desk()
    desk.store.publish_terms(terms("2026-11b", date(2026, 11, 22)))
    assert accept(desk, version="2026-11b").version == "2026-11b"


def test_a_withdrawal_refuses_again_and_has_its_receipt() -> None:
    desk = Desk()
    made = accept(desk, "acme")
    desk.clock.advance(timedelta(seconds=5))
    withdrawn = withdraw(desk, "acme-2", made.id, reason="we go elsewhere").withdrawal
    assert withdrawn is not None
    assert not is_bound(desk, "acme")
    assert withdrawn.receipt is not None
    claims = verify_receipt(withdrawn.receipt, trust=desk.trust, now=desk.clock.now).claims
    assert (claims.event, claims.acceptance, claims.reason, claims.authority) == (
        "withdrawal",
        made.id,
        "we go elsewhere",
        "general counsel",
    )
    again = withdraw(desk, "acme", made.id, reason="again")
    assert again.withdrawal == withdrawn
    assert accept(desk, "acme").id != made.id
    assert is_bound(desk, "acme")


def test_nobody_takes_back_what_others_accepted() -> None:
    """Neither another account, nor a person whom the organization did not authorize."""
    desk = Desk()
    made, own = accept(desk, "acme"), accept(desk, "solo")
    with pytest.raises(NotFoundError):
        withdraw(desk, "solo", made.id)
    with pytest.raises(NotFoundError):
        withdraw(desk, "acme", own.id)
    for person, by in (("mallory@acme.example", Identification.HOST), (JANE.id, Identification.DECLARED)):
        with pytest.raises(DeniedError):
            withdraw(desk, "acme", made.id, person=person, by=by)
    assert is_bound(desk, "acme")


def test_administrators_record_what_was_signed_on_paper() -> None:
    """In the past, of any version, for whom they say; by persons whom the organization authorized."""
    newer = terms("2026-11b", date(2026, 11, 20), "grace_days = 30")
    desk = Desk(published=(newer, contract()))
    record = desk.guard.record_acceptance
    signed = datetime(2026, 11, 5, 9, tzinfo=UTC)
    made = desk.guard.run(
        record(SubjectKind.ORGANIZATION, "acme-corp", "2026-11", accepted_by=JANE.id, authority="order form 7", at=signed)
    )
    assert (made.at, made.authority, made.method, made.identified_by) == (
        signed,
        "order form 7",
        AcceptanceMethod.IMPORT,
        Identification.ADMINISTRATOR,
    )
    assert made.receipt is not None
    claims = verify_receipt(made.receipt, trust=desk.trust, now=desk.clock.now).claims
    assert (claims.at, claims.iat) == (int(signed.timestamp()), int(desk.clock.now.timestamp()))
    assert is_bound(desk, "acme-2") is False, "the contract is still to be accepted"
    desk.guard.run(record(SubjectKind.ORGANIZATION, "acme-corp", "acme-1", accepted_by=JANE.id))
    assert is_bound(desk, "acme-2")
    alone = desk.guard.run(record(SubjectKind.ACCOUNT, "acme", "2026-11", accepted_by="Ann"))
    assert alone.subject_kind is SubjectKind.ACCOUNT


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((SubjectKind.ACCOUNT, "nobody", "2026-11"), NotFoundError),
        ((SubjectKind.ORGANIZATION, "nobody", "2026-11"), NotFoundError),
        ((SubjectKind.ACCOUNT, "solo", "none"), NotFoundError),
        ((SubjectKind.ACCOUNT, "acme", "acme-1"), ConflictError),
        ((SubjectKind.ORGANIZATION, "other-corp", "acme-1"), ConflictError),
    ],
)
def test_administrators_cannot_record_what_cannot_be(arguments: tuple[Any, ...], error: type[RequestError]) -> None:
    desk = Desk(published=(contract(),))
    desk.store.add_organization(Organization(id="other-corp", authorized=(JANE,)))
    with pytest.raises(error):
        desk.guard.run(desk.guard.record_acceptance(*arguments, accepted_by=JANE.id))


def test_times_and_texts_that_cannot_be_kept_are_refused() -> None:
    desk = Desk()
    record = desk.guard.record_acceptance
    for more in (
        {"at": desk.clock.now + timedelta(hours=1)},
        {"expires": desk.clock.now - timedelta(days=1)},
        {"expires": datetime.max.replace(tzinfo=UTC)},
        {"authority": "x" * 201},
        {"accepted_by": ""},
        {"accepted_by": "a\x00b"},
        {"accepted_by": "\ud800"},
    ):
        with pytest.raises(MalformedRequestError):
            desk.guard.run(record(SubjectKind.ACCOUNT, "solo", "2026-11", **({"accepted_by": "Sam"} | more)))
    made = accept(desk)
    with pytest.raises(MalformedRequestError):
        withdraw(desk, "solo", made.id, reason="x" * 501)


def test_administrators_record_withdrawals() -> None:
    desk = Desk()
    made = accept(desk, "acme")
    taken = desk.guard.run(desk.guard.record_withdrawal(made.id, withdrawn_by=JANE.id, reason="letter of 3 November", actor="dana"))
    assert desk.store.acceptance_recorded_by(made.id) == ("", "dana")
    assert taken.withdrawal is not None
    assert taken.withdrawal.identified_by is Identification.ADMINISTRATOR
    with pytest.raises(NotFoundError):
        desk.guard.run(desk.guard.record_withdrawal("acc_" + "A" * 22, withdrawn_by=JANE.id))


def test_without_a_signature_nothing_is_kept() -> None:
    desk = Desk()
    desk.receipts.failing = True
    with pytest.raises(SignerError):
        accept(desk)
    assert desk.store.acceptances(SubjectKind.ACCOUNT, "solo") == ()


@pytest.mark.parametrize("missing", ["receipts", "store"])
def test_a_guard_without_receipts_or_store_says_so(missing: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{missing}="):
        accept(Desk(overrides={missing: None}))


def test_telemetry_counts_what_was_accepted_and_how() -> None:
    desk = Desk()
    withdraw(desk, "solo", accept(desk).id)
    assert {word: desk.guard.counts[word] for word in ("accepted:account-route", "withdrawn:account-route")} == {
        "accepted:account-route": 1,
        "withdrawn:account-route": 1,
    }


def test_a_withdrawal_that_another_process_was_first_with_is_the_answer() -> None:
    """A double click may reach two processes, of which the second has not heard of the first."""
    desk = Desk()
    made = accept(desk)
    before = desk.holder("solo")
    first, second = (
        desk.guard.run(desk.guard.withdraw(before, made.id, withdrawn_by=JANE.id, method=ROUTE, identified_by=Identification.HOST))
        for _ in range(2)
    )
    assert first == second
    assert second.withdrawal is not None
