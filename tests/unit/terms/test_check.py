"""`tos-guard terms check`: what is odd is found at its line, and sound terms are left in peace."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tos_guard.rights import Account, compile_plan
from tos_guard.terms import TermsShelf, TermsStack, bare_requests, check_terms, parse_terms
from tos_guard.types import Facts

EXAMPLES = Path(__file__).parents[3] / "examples" / "terms"
HEAD = """\
[terms]
version = "1"
title = "Terms"
uri = "https://api.example.com/terms/1"
text = "terms.md"
effective = 2026-11-01
[[grant]]
id = "research"
"""
USE_GRANT = """
[[clause]]
id = "study"
effect = "permit"
action = "evaluate"
when = { grant = "research" }
"""


def clause(name: str, effect: str, action: str, *lines: str) -> str:
    return f'\n[[clause]]\nid = "{name}"\neffect = "{effect}"\naction = {action}\n' + "".join(f"{line}\n" for line in lines)


USE = clause("use", "permit", '["generate", "embed"]')


def found(*parts: str, sources: set[str] | None = None) -> list[tuple[str, str | None, str]]:
    document = "".join((HEAD, USE_GRANT, *parts))
    findings = check_terms(document.encode(), b"text", where="t.toml", sources=sources)
    for finding in findings:
        named = finding.clause is not None and finding.code != "shape"
        expected = document[: document.index(f'id = "{finding.clause}"')].count("\n") if named else finding.line
        assert (finding.file, finding.line) == ("t.toml", expected), "each finding names the line of its clause"
    return [(finding.code, finding.clause, finding.severity) for finding in findings]


KP = 'when = { region = "KP" }'
ODD = [
    ("unreachable", "covered", [USE, clause("no", "prohibit", '"embed"'), clause("covered", "permit", '"embed"', KP)]),
    ("unreachable", "covered", [USE, clause("a", "prohibit", '"embed"'), clause("b", "prohibit", '"classify"'),
                                clause("covered", "permit", '["embed", "classify"]', KP)]),
    ("unreachable", "covered", [USE, clause("no", "prohibit", '"embed"', 'when = { region = ["KP", "IR"] }'),
                                clause("covered", "oblige", '"embed"', KP, 'duties = ["seal"]')]),
    ("unreachable", "never", [USE, clause("never", "prohibit", '"embed"', KP, 'unless = { region = ["KP", "IR"] }')]),
    ("unreachable", "never", [USE, clause("never", "prohibit", '"embed"', 'when = { standing = "suspended" }')]),
    ("unreachable", "never", [USE, clause("never", "permit", '"distil"', 'when = { grant = "research" }',
                                          'unless = { grant = "research" }')]),
    ("contradictory", "both", [USE, clause("no", "prohibit", '"embed"', KP), clause("both", "permit", '"embed"', KP)]),
    ("contradictory", "both", [USE, clause("both", "permit", '"distil"'), clause("no", "prohibit", '"distil"')]),
    ("redundant", "again", [USE, clause("no", "prohibit", '"embed"'), clause("again", "prohibit", '"embed"', KP)]),
    ("no-permission", None, [clause("no", "prohibit", '"embed"')]),
    ("no-permission", None, [clause("use", "permit", '"embed"', "shadow = true")]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "clause_id", "parts"), ODD)
def test_what_is_odd_is_found(code: str, clause_id: str | None, parts: list[str]) -> None:
    assert (code, clause_id, "warning") in found(*parts)


SOUND = [
    [USE, clause("no", "prohibit", '"embed"', KP), clause("other", "permit", '"embed"', 'when = { region = "US" }')],
    [USE, clause("no", "prohibit", '"embed"', "shadow = true"), clause("also", "permit", '"embed"', KP)],
    [USE, clause("no", "prohibit", '"distil"', 'unless = { grant = "research" }'),
     clause("yes", "permit", '"distil"', 'when = { grant = "research" }')],
    [USE, clause("no", "prohibit", '"embed"', KP), clause("no-2", "prohibit", '"embed"', 'when = { region = ["KP", "IR"] }')],
    [USE, clause("no", "prohibit", '"embed"', 'when = { region = { not_in = ["US"] } }'),
     clause("us", "oblige", '"embed"', 'when = { region = "US" }', 'duties = ["seal"]')],
]  # fmt: skip


@pytest.mark.parametrize("parts", SOUND)
def test_sound_terms_are_left_in_peace(parts: list[str]) -> None:
    assert found(*parts) == []


def test_conditions_across_operators_are_understood() -> None:
    """`unless region in [US]` is `when region not_in [US]`: a prohibition written one way covers a permission written the other."""
    no = clause("no", "prohibit", '"embed"', 'when = { region = { not_in = ["US", "CA"] } }')
    yes = clause("kp", "permit", '"embed"', KP)
    assert ("unreachable", "kp", "warning") in found(USE, no, yes)
    lifted = clause("no", "prohibit", '"embed"', 'unless = { region = ["US", "CA"] }')
    assert ("unreachable", "kp", "warning") in found(USE, lifted, yes)


def test_a_fact_without_a_source_is_an_error_where_sources_are_known() -> None:
    no = clause("no", "prohibit", '"embed"', KP)
    assert found(USE, no) == []
    assert found(USE, no, sources={"region"}) == []
    assert found(USE, no, sources=set()) == [("fact-without-source", "no", "error")]


def test_all_mistakes_are_listed_at_once() -> None:
    codes = [
        code for code, *_ in found(USE, clause("a", "prohibit", '"generat"'), clause("b", "prohibit", '"embed"', 'when.grant = "gold"'))
    ]
    assert codes == ["unknown-action", "unknown-grant"]


def test_an_unused_grant_is_named_at_its_line() -> None:
    (finding,) = check_terms((HEAD + USE).encode(), b"text")
    assert (finding.code, finding.line) == ("unused-grant", 7)


@pytest.mark.parametrize("name", ["minimal", "sample-2026-11"])
def test_our_examples_have_no_findings(name: str) -> None:
    document, text = ((EXAMPLES / f"{name}{suffix}").read_bytes() for suffix in (".toml", ".md"))
    assert check_terms(document, text, sources={"region"}) == ()


def test_the_table_of_bare_requests_is_what_a_plan_decides() -> None:
    document, text = ((EXAMPLES / f"sample-2026-11{suffix}").read_bytes() for suffix in (".toml", ".md"))
    terms = parse_terms(document, text)
    for row in bare_requests(terms, kinds=["individual", "enterprise"]):
        account = Account(id="a", kind=row.kind, models=frozenset({"*"}), actions=frozenset({"*"}))
        facts = Facts(action=row.action, model="any", region="US" if row.asserted == "known" else None)
        decision = compile_plan(account, terms, now=datetime(2026, 11, 22, tzinfo=UTC)).decide(facts)
        assert (decision.allowed, decision.clauses) == (row.allowed, row.clauses)


def test_the_table_of_bare_requests_shows_what_unknown_costs() -> None:
    document, text = ((EXAMPLES / f"sample-2026-11{suffix}").read_bytes() for suffix in (".toml", ".md"))
    table = {
        (r.kind, r.action, r.asserted): (r.allowed, r.clauses) for r in bare_requests(parse_terms(document, text), kinds=["individual"])
    }
    assert table["individual", "generate", "known"] == (True, ("serve",))
    assert table["individual", "generate", "unknown"] == (False, ("regions",))
    assert table["individual", "fine-tune", "known"] == (False, ())
    assert table["organization", "fine-tune", "known"] == (True, ("fine-tuning-verified",))


CONTRACT_HEAD = HEAD.replace('"1"', '"2"').replace(
    "[[grant]]", 'series = "contract-7"\norganization = "acme"\nacceptance = "required"\n[[grant]]'
)
GENERAL = parse_terms((HEAD + USE_GRANT + USE).encode(), b"text")


def found_beside(head: str, *parts: str, shelf: TermsShelf | None = None) -> list[tuple[str, str, int]]:
    document = "".join((head, USE_GRANT, *parts))
    beside = shelf or TermsShelf.of((GENERAL,))
    return [(finding.code, finding.severity, finding.line) for finding in check_terms(document.encode(), b"text", beside=beside)]


def test_a_sound_contract_has_no_findings() -> None:
    """It permits no request by itself: the general terms do."""
    assert found_beside(CONTRACT_HEAD, clause("no", "prohibit", '"embed"')) == []
    assert found_beside(CONTRACT_HEAD.replace("[[grant]]", 'replaces = ["use"]\n[[grant]]'), USE) == []


HEADERS = [
    ("contract-without-acceptance", "warning", 8, CONTRACT_HEAD.replace('"required"', '"none"')),
    ("contract-without-acceptance", "warning", 8, CONTRACT_HEAD.replace('acceptance = "required"\n', "")),
    ("series-names-organization", "warning", 7, CONTRACT_HEAD.replace("contract-7", "acme-contract")),
    ("grace-without-effect", "warning", 10, CONTRACT_HEAD.replace("[[grant]]", "grace_days = 5\nmaterial = false\n[[grant]]")),
    ("grace-without-effect", "warning", 7, HEAD.replace("[[grant]]", "grace_days = 5\n[[grant]]")),
    ("unknown-clause", "error", 10, CONTRACT_HEAD.replace("[[grant]]", 'replaces = ["use", "nothing"]\n[[grant]]')),
    (
        "action-differs",
        "error",
        12,
        CONTRACT_HEAD + '[[action]]\nid = "translate"\nscope = "output"\n' + clause("t", "prohibit", '"translate"'),
    ),
]


@pytest.mark.parametrize(("code", "severity", "line", "head"), HEADERS, ids=[f"{code}-{n}" for n, (code, *_) in enumerate(HEADERS)])
def test_what_a_document_says_of_itself_is_checked(code: str, severity: str, line: int, head: str) -> None:
    translating = HEAD + USE_GRANT + USE + '[[action]]\nid = "translate"\nscope = "request"\n'
    shelf = TermsShelf.of((parse_terms(translating.encode(), b"text"),))
    more = () if "[[action]]" in head else (USE,)
    assert found_beside(head, *more, shelf=shelf) == [(code, severity, line)]


def test_a_series_stays_with_its_organization_and_its_versions_in_order() -> None:
    first = parse_terms((CONTRACT_HEAD + USE_GRANT).encode(), b"text")
    shelf = TermsShelf.of((GENERAL, first))
    assert found_beside(CONTRACT_HEAD, shelf=shelf) == [], "the same version again"
    third = CONTRACT_HEAD.replace('"2"', '"3"')
    assert found_beside(third, shelf=shelf) == []
    assert found_beside(third.replace('"acme"', '"other"'), shelf=shelf) == [("series-changed", "error", 8)]
    assert found_beside(third.replace("2026-11-01", "2026-10-31"), shelf=shelf) == [("out-of-order", "error", 6)]


def test_what_is_replaced_is_looked_for_in_the_general_terms_of_its_day() -> None:
    newer = HEAD.replace('"1"', '"9"').replace("2026-11-01", "2027-01-01") + USE_GRANT + clause("newer", "permit", '"generate"')
    shelf = TermsShelf.of((GENERAL, parse_terms(newer.encode(), b"text")))
    replacing = CONTRACT_HEAD.replace("[[grant]]", 'replaces = ["newer"]\n[[grant]]')
    assert [code for code, _, _ in found_beside(replacing, shelf=shelf)] == ["unknown-clause"]
    assert found_beside(replacing.replace("2026-11-01", "2027-01-01"), shelf=shelf) == []
    assert [code for code, _, _ in found_beside(replacing.replace("2026-11-01", "2026-01-01"), shelf=shelf)] == ["unknown-clause"]


def test_a_bare_request_under_a_contract_is_told_with_the_general_terms() -> None:
    contract = parse_terms((CONTRACT_HEAD + USE_GRANT + clause("no", "prohibit", '"embed"')).encode(), b"text")
    rows = {row.action: row for row in bare_requests(TermsStack.of(GENERAL, (contract,)))}
    assert (rows["generate"].allowed, rows["generate"].clauses) == (True, ("use",))
    assert (rows["embed"].allowed, rows["embed"].clauses) == (False, ("contract-7/no",))
