"""Which published terms hold together: series, contracts, supplements, and what they set aside."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from tos_guard._canonical import b64url_encode, canonical_json
from tos_guard.policy import usage_policy
from tos_guard.terms import Acceptance, Scope, TermsShelf, TermsStack, TermsVersion, bare_requests, new_acceptance, parse_terms
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind

EXAMPLES = Path(__file__).parents[3] / "examples" / "terms"
USE = '[[clause]]\nid = "use"\neffect = "permit"\naction = "generate"\n'
NOVEMBER, DECEMBER = date(2026, 11, 20), date(2026, 12, 1)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def example(name: str) -> TermsVersion:
    return parse_terms((EXAMPLES / f"{name}.toml").read_bytes(), (EXAMPLES / f"{name}.md").read_bytes())


GENERAL, CONTRACT, PREVIEW = (example(name) for name in ("sample-2026-11", "contract-7-1", "preview-2026-11"))
SHELF = TermsShelf.of((GENERAL, CONTRACT, PREVIEW))


def version(name: str, *header: str, effective: str = "2026-11-01", clauses: str = USE) -> TermsVersion:
    document = f'[terms]\nversion = "{name}"\ntitle = "T"\nuri = "https://a.example/{name}"\ntext = "t.md"\neffective = {effective}\n'
    return parse_terms((document + "".join(f"{line}\n" for line in header) + clauses).encode(), b"text")


def accepted(terms: TermsVersion, kind: SubjectKind = SubjectKind.ORGANIZATION, subject: str = "acme-corp") -> Acceptance:
    return new_acceptance(
        terms,
        issuer="https://api.example.com",
        subject_kind=kind,
        subject_id=subject,
        accepted_by="jane@acme.example",
        authority="general counsel",
        method=AcceptanceMethod.CLI,
        identified_by=Identification.ADMINISTRATOR,
        now=datetime(2026, 11, 10, tzinfo=UTC),
        entropy=lambda size: bytes(size),
    )


def test_within_a_series_the_newest_version_in_effect_is_in_force() -> None:
    first, second = version("1"), version("2", effective="2026-12-01")
    shelf = TermsShelf.of((second, first))
    assert shelf.versions_of("general") == (first, second)
    assert shelf.in_force(datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC)) == {}
    assert shelf.in_force(datetime(2026, 11, 1, tzinfo=UTC)) == {"general": first}
    assert shelf.in_force(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)) == {"general": first}
    assert shelf.in_force(datetime.fromisoformat("2026-12-01T00:30:00+01:00")) == {"general": first}, "the day is one of UTC"
    assert shelf.in_force(datetime.fromisoformat("2026-11-30T23:30:00-01:00")) == {"general": second}


def test_of_two_versions_of_one_day_the_one_published_last_is_in_force() -> None:
    first, second = version("b"), version("a")
    assert TermsShelf.of((first, second)).in_force(NOON) == {"general": second}
    assert TermsShelf.of((second, first)).in_force(NOON) == {"general": first}


def test_a_version_is_found_by_its_name() -> None:
    assert SHELF.version("contract-7-1") is CONTRACT
    assert SHELF.version("nothing") is None
    assert SHELF.versions_of("nothing") == ()
    assert SHELF.series() == ("general", "contract-7", "preview")


@pytest.mark.parametrize(
    ("organization", "model", "day", "documents"),
    [
        (None, None, NOVEMBER, (GENERAL,)),
        ("other", "small", NOVEMBER, (GENERAL,)),
        ("acme-corp", "small", NOVEMBER, (GENERAL, CONTRACT)),
        ("acme-corp", None, NOVEMBER, (GENERAL, CONTRACT)),
        (None, "large-preview", NOVEMBER, (GENERAL, PREVIEW)),
        ("acme-corp", "large-preview", NOVEMBER, (GENERAL, CONTRACT, PREVIEW)),
        ("acme-corp", "large-preview", date(2026, 11, 14), (GENERAL,)),
        ("acme-corp", "large-preview", date(2026, 10, 31), ()),
    ],
)
def test_documents_hold_for_their_organization_and_models(
    organization: str | None, model: str | None, day: date, documents: tuple[TermsVersion, ...]
) -> None:
    assert SHELF.documents_for(organization, model, day) == documents


def test_two_contracts_of_one_organization_both_hold() -> None:
    other = version("contract-9-1", 'series = "contract-9"', 'organization = "acme-corp"')
    shelf = TermsShelf.of((other, GENERAL, CONTRACT))
    assert shelf.documents_for("acme-corp", None, NOVEMBER) == (GENERAL, CONTRACT, other)


def test_a_policy_for_everyone_holds_beside_the_general_terms() -> None:
    policy = version("aup-1", 'series = "acceptable-use"')
    assert TermsShelf.of((policy, GENERAL, CONTRACT)).documents_for("acme-corp", None, NOVEMBER) == (GENERAL, policy, CONTRACT)


def test_the_general_terms_alone_are_what_they_always_were() -> None:
    """Same digest, same clauses, same usage policy byte for byte."""
    stack = TermsStack.of(GENERAL)
    assert (stack.sha256, stack.clauses, stack.grants) == (GENERAL.sha256, GENERAL.clauses, GENERAL.grants)
    assert (stack.actions, stack.required_facts, stack.general) == (GENERAL.actions, GENERAL.required_facts, GENERAL)
    assert stack.clauses is stack.general.clauses, "nothing is copied"
    for grants in ((), ("research",), ("licensed-distillation",)):
        assert usage_policy(stack, grants) == usage_policy(GENERAL, grants)
    assert bare_requests(stack) == bare_requests(GENERAL)
    assert hash(stack) == hash(TermsStack.of(GENERAL))


def test_joined_clauses_go_by_their_series_and_those_set_aside_are_gone() -> None:
    stack = TermsStack.of(GENERAL, (PREVIEW, CONTRACT))
    ids = [clause.id for clause in stack.clauses]
    kept = [clause.id for clause in GENERAL.clauses if clause.id not in {"benchmark-research", "no-resale"}]
    assert ids == [*kept, "contract-7/resell-in-product", "contract-7/no-fine-tuning", "preview/no-batch", "preview/not-for-publication"]
    assert stack.documents == (GENERAL, CONTRACT, PREVIEW)
    assert stack.grants == GENERAL.grants


def test_a_clause_of_another_series_is_never_taken_for_a_general_one() -> None:
    """A contract with a clause id of the general terms adds its own, and only `replaces` sets theirs aside."""
    same = version("x-1", 'series = "x"', 'organization = "acme-corp"', clauses=USE.replace('"use"', '"no-resale"'))
    ids = [clause.id for clause in TermsStack.of(GENERAL, (same,)).clauses]
    assert "no-resale" in ids
    assert "x/no-resale" in ids


def test_one_contract_does_not_set_aside_clauses_of_another() -> None:
    forbidding = version(
        "y-1", 'series = "y"', 'organization = "acme-corp"', clauses=USE.replace('"use"', '"no-resale"').replace("permit", "prohibit")
    )
    ids = [clause.id for clause in TermsStack.of(GENERAL, (CONTRACT, forbidding)).clauses]
    assert "no-resale" not in ids, "contract-7 replaces it"
    assert "y/no-resale" in ids


def test_facts_grants_and_actions_of_all_documents_count() -> None:
    asking = version(
        "z-1",
        'series = "z"',
        clauses='[[action]]\nid = "translate"\nscope = "request"\n[[grant]]\nid = "research"\ntitle = "Other"\n[[grant]]\nid = "vip"\n'
        '[[clause]]\nid = "no"\neffect = "prohibit"\naction = "translate"\nwhen = { verification = "none" }\n',
    )
    stack = TermsStack.of(GENERAL, (asking,))
    assert stack.required_facts == {"region", "verification"}
    assert [grant.id for grant in stack.grants] == ["research", "licensed-distillation", "vip"]
    assert stack.grants[0].title == "Research exemption", "the general terms come first"
    assert stack.actions["translate"].scope is Scope.REQUEST


def test_facts_that_only_a_clause_set_aside_asks_for_need_no_source() -> None:
    contract = version("c-1", 'series = "c"', 'organization = "acme-corp"', 'replaces = ["regions"]')
    assert TermsStack.of(GENERAL, (contract,)).required_facts == frozenset()


def test_the_digest_names_the_combination() -> None:
    stack = TermsStack.of(GENERAL, (CONTRACT, PREVIEW))
    assert stack.sha256 == b64url_encode(hashlib.sha256(canonical_json([GENERAL.sha256, CONTRACT.sha256, PREVIEW.sha256])).digest())
    assert stack == TermsStack.of(GENERAL, (PREVIEW, CONTRACT)), "in whatever order they are given"
    others = [TermsStack.of(GENERAL), TermsStack.of(GENERAL, (CONTRACT,)), TermsStack.of(GENERAL, (PREVIEW,))]
    assert len({stack.sha256, *(other.sha256 for other in others)}) == 4
    assert all(stack != other for other in others)


def test_accounts_with_the_same_documents_share_one_stack() -> None:
    assert TermsStack.of(GENERAL, (CONTRACT,)) is TermsStack.of(GENERAL, (CONTRACT,))


def test_the_usage_policy_lists_the_documents_beside_the_general_terms() -> None:
    document = json.loads(usage_policy(TermsStack.of(GENERAL, (CONTRACT, PREVIEW)), ()).document)
    assert document["terms"] == {
        "sha256": GENERAL.sha256,
        "version": "2026-11",
        "also": [
            {"series": "contract-7", "sha256": CONTRACT.sha256, "version": "contract-7-1"},
            {"series": "preview", "sha256": PREVIEW.sha256, "version": "preview-2026-11"},
        ],
    }
    ids = [clause["id"] for clause in document["clauses"]]
    assert "no-resale" not in ids
    assert ids[-2:] == ["contract-7/resell-in-product", "preview/not-for-publication"]


def test_documents_that_say_nothing_of_later_use_still_change_the_usage_policy() -> None:
    """The policy's digest covers all documents, so that nobody can be shown one under other terms."""
    silent = version("s-1", 'series = "s"')
    assert usage_policy(TermsStack.of(GENERAL, (silent,)), ()).sha256 != usage_policy(GENERAL, ()).sha256


def test_a_contract_binds_once_it_is_accepted_for_the_organization() -> None:
    unaccepted = SHELF.binding("acme-corp", (), NOON)
    assert [bound.series for bound in unaccepted.refusing("small")] == ["contract-7"]
    assert [bound.series for bound in unaccepted.owed()] == ["contract-7"]
    binding = SHELF.binding("acme-corp", (accepted(CONTRACT),), NOON)
    assert binding.refusing("small") == ()
    assert binding.owed() == ()
    assert binding.stack("small") == TermsStack.of(GENERAL, (CONTRACT,))
    assert binding.stack("large-preview") == TermsStack.of(GENERAL, (CONTRACT, PREVIEW))
    assert binding.models == {"large-preview"}


def test_a_contract_of_another_organization_is_no_concern() -> None:
    for organization in (None, "other"):
        binding = SHELF.binding(organization, (), NOON)
        assert binding.refusing("small") == ()
        assert binding.stack("small") == TermsStack.of(GENERAL)


def test_a_supplement_that_is_not_accepted_refuses_its_models_alone() -> None:
    supplement = version("p-1", 'series = "p"', 'models = ["new"]', 'acceptance = "required"')
    binding = TermsShelf.of((GENERAL, supplement)).binding(None, (), NOON)
    assert [bound.to_accept for bound in binding.refusing("new")] == [supplement]
    assert binding.refusing("small") == ()
    assert binding.refusing(None) == ()
    assert binding.models == {"new"}
    assert binding.stack("small") == TermsStack.of(GENERAL)


def test_without_general_terms_in_effect_nothing_holds() -> None:
    binding = SHELF.binding(None, (), datetime(2026, 10, 1, tzinfo=UTC))
    assert binding.stack("small") is None
    assert binding.refusing("small") == ()
    assert binding.changes == datetime(2026, 11, 1, tzinfo=UTC)
    assert TermsShelf.of(()).binding(None, (), NOON).stack(None) is None
    assert TermsShelf.of(()).binding(None, (), NOON).changes is None


def test_supplements_alone_make_no_stack() -> None:
    assert TermsShelf.of((PREVIEW,)).binding(None, (), NOON).stack("large-preview") is None


def test_the_binding_changes_when_the_first_of_its_series_does() -> None:
    assert SHELF.binding(None, (), datetime(2026, 11, 2, tzinfo=UTC)).changes == datetime(2026, 11, 15, tzinfo=UTC)
    assert SHELF.binding(None, (), NOON).changes is None
