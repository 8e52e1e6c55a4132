"""The usage policy of the token: which clauses are in force, and what `Content-Usage` makes of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import http_sf
import pytest

from tos_guard._canonical import b64url_encode, canonical_json
from tos_guard.policy import usage_policy
from tos_guard.terms import TermsVersion, parse_terms

EXAMPLES = Path(__file__).parents[3] / "examples" / "terms"
HEAD = """\
[terms]
version = "1"
title = "Terms"
uri = "https://api.example.com/terms/1"
text = "terms.md"
effective = 2026-11-01
[[grant]]
id = "licensed-distillation"
[[clause]]
id = "serve"
effect = "permit"
action = "generate"
"""


def terms_of(*clauses: tuple[str, str, str]) -> TermsVersion:
    """Clauses as effect, actions and further members."""
    blocks = [f'[[clause]]\nid = "c-{n}"\neffect = "{e}"\naction = {a}\n{more}\n' for n, (e, a, more) in enumerate(clauses)]
    return parse_terms((HEAD + "".join(blocks)).encode(), b"text")


@pytest.fixture
def sample() -> TermsVersion:
    return parse_terms((EXAMPLES / "sample-2026-11.toml").read_bytes(), (EXAMPLES / "sample-2026-11.md").read_bytes())


def test_the_document_is_as_the_specification_says(sample: TermsVersion) -> None:
    policy = usage_policy(sample, ())
    document = json.loads(policy.document)
    assert document.keys() == {"clauses", "content_usage", "terms", "ver"}
    assert document["ver"] == 1
    assert document["terms"] == {"sha256": sample.sha256, "version": "2026-11"}
    assert document["content_usage"] == policy.content_usage
    assert all(clause.keys() == {"actions", "effect", "id", "text"} for clause in document["clauses"])
    assert policy.document == canonical_json(document)
    assert policy.sha256 == b64url_encode(hashlib.sha256(policy.document).digest())


def test_clauses_on_requests_are_not_in_it(sample: TermsVersion) -> None:
    assert "serve" not in [clause["id"] for clause in json.loads(usage_policy(sample, ()).document)["clauses"]]


def test_a_licence_to_distil_lifts_the_ban_and_adds_the_permission(sample: TermsVersion) -> None:
    default, licensed = usage_policy(sample, ()), usage_policy(sample, ["licensed-distillation"])
    assert default.clauses[0] == "no-competing-model"
    assert default.content_usage == "train-ai=n, ai-use=y"
    assert licensed.clauses[0] == "distil-licensed"
    assert "no-competing-model" not in licensed.clauses
    assert licensed.content_usage == "train-ai=y, ai-use=y"
    assert default.sha256 != licensed.sha256


def test_grants_the_terms_do_not_know_change_nothing(sample: TermsVersion) -> None:
    assert usage_policy(sample, ["gold"]) == usage_policy(sample, [])


@pytest.mark.parametrize(
    ("clauses", "content_usage", "lossy"),
    [
        ([], "", ()),
        ([("prohibit", '"train-model"', "")], "train-ai=n", ()),
        ([("prohibit", '"train-competing-model"', "")], "train-ai=n", ("train-ai",)),
        ([("prohibit", '"distil"', "")], "train-ai=n", ("train-ai",)),
        ([("prohibit", '["distil", "train-model"]', "")], "train-ai=n", ()),
        ([("permit", '"train-model"', "")], "train-ai=y", ()),
        ([("permit", '"train-model"', ""), ("prohibit", '"distil"', "")], "train-ai=n", ("train-ai",)),
        ([("permit", '"distil"', "")], "", ()),
        ([("permit", '["distil", "train-competing-model"]', ""), ("permit", '"use-as-input"', "")], "ai-use=y", ()),
        ([("permit", '"use-as-input"', "")], "ai-use=y", ()),
        ([("prohibit", '"use-as-input"', ""), ("permit", '"use-as-input"', "")], "ai-use=n", ()),
        ([("prohibit", '"resell"', "")], "", ()),
        ([("oblige", '"use-as-input"', "")], "", ()),
        ([("prohibit", '"train-model"', "shadow = true")], "", ()),
        ([("prohibit", '"train-model"', 'unless.grant = "licensed-distillation"')], "train-ai=n", ()),
        ([("permit", '"train-model"', 'when.grant = "licensed-distillation"')], "", ()),
    ],
)
def test_content_usage_says_no_more_than_the_clauses_allow(
    clauses: list[tuple[str, str, str]], content_usage: str, lossy: tuple[str, ...]
) -> None:
    policy = usage_policy(terms_of(*clauses), ())
    assert (policy.content_usage, policy.lossy) == (content_usage, lossy)
    if content_usage:
        assert set(http_sf.parse(content_usage.encode(), tltype="dictionary")) <= {"train-ai", "ai-use"}


def test_a_shadowed_clause_is_not_in_force() -> None:
    assert usage_policy(terms_of(("prohibit", '"resell"', "shadow = true")), ()).clauses == ()


def test_the_token_carries_the_first_clauses_and_the_digest_all() -> None:
    policy = usage_policy(terms_of(*[("prohibit", '"resell"', "")] * 20), ())
    assert policy.clauses == tuple(f"c-{n}" for n in range(8))
    assert len(json.loads(policy.document)["clauses"]) == 20
