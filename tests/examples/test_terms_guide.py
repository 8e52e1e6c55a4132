"""What docs/guides/terms.md shows is what the library does: its program runs, its documents are read, its lists are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tos_guard.terms import ACTIONS, CLAUSE_FACTS, Scope, check_terms, parse_terms

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "terms.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_the_programs_run(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.chdir(ROOT)
    programs = blocks("python")
    assert len(programs) == 2
    exec(compile(programs[number], "terms.md", "exec"), {})


def test_the_documents_are_read() -> None:
    """Together with the kind of grant they ask for and a permission, they leave nothing to find."""
    head, grants = blocks("toml")
    more = '[[grant]]\nid = "licensed-distillation"\n[[clause]]\nid = "use"\neffect = "permit"\naction = ["generate", "embed"]\n'
    document = f"{head}\n{grants}\n{more}".encode()
    assert [clause.id for clause in parse_terms(document, b"text").clauses] == ["regions", "no-competing-model", "distil-licensed", "use"]
    assert check_terms(document, b"text") == ()


def test_every_action_and_fact_is_listed() -> None:
    row = next(line for line in GUIDE.splitlines() if line.startswith("| `generate`"))
    of_request, of_output = (re.findall("`([a-z-]+)`", cell) for cell in row.strip("| ").split("|"))
    assert of_request == [name for name, action in ACTIONS.items() if action.scope is Scope.REQUEST]
    assert of_output == [name for name, action in ACTIONS.items() if action.scope is Scope.OUTPUT]
    table = GUIDE.split("| fact | who says it | not given |")[1].split("\n\n")[0]
    listed = [name for line in table.splitlines()[2:] for name in re.findall("`([a-z]+)`", line.split("|")[1])]
    assert sorted(listed) == sorted(CLAUSE_FACTS)


def test_every_finding_of_terms_as_such_is_explained() -> None:
    source = (ROOT / "src" / "tos_guard" / "terms" / "_check.py").read_text(encoding="utf-8")
    codes = set(re.findall(r'Problem\("([a-z-]+)"', source)) | {"general-scope", "replaces-for-all"}
    assert codes
    assert [code for code in sorted(codes) if f"`{code}`" not in GUIDE] == []
