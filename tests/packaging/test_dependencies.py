"""The declared dependencies are those the code uses, and the locks hold what the declarations say."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import files, packages_distributions
from pathlib import Path
from typing import Any

import pytest

OURS = {"tos_guard", "tos_guard_fastapi", "tos_guard_flask", "tos_guard_grpc"}
LOCKS = ("bench", "build", "clients", "demo", "lint", "model", "oldest", "test", "uv")


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return parsed


def normal(requirement: str) -> str:
    """The distribution that a requirement names."""
    return re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def third_party(folder: Path) -> dict[str, set[str]]:
    """Distribution → files under *folder* that import it."""
    providers = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top in sys.stdlib_module_names or top in OURS:
                    continue
                candidates = set(providers.get(top, [top]))
                for distribution in candidates if len(candidates) == 1 else sharing(candidates, name):
                    found.setdefault(normal(distribution), set()).add(path.relative_to(folder).as_posix())
    return found


def sharing(distributions: set[str], name: str) -> set[str]:
    """Those of several distributions that share a namespace (``opentelemetry``) which bring this module of it."""
    part = "/".join(name.split(".")[:2])
    return {one for one in distributions if any(str(path).startswith((f"{part}/", f"{part}.py")) for path in files(one) or ())}


def test_every_core_dependency_is_used(project: dict[str, Any], root: Path) -> None:
    assert {normal(requirement) for requirement in project["dependencies"]} - set(third_party(root / "src")) == set()


def test_every_package_the_code_imports_is_declared(project: dict[str, Any], root: Path) -> None:
    core = {normal(requirement) for requirement in project["dependencies"]}
    extras = {normal(requirement) for listed in project["optional-dependencies"].values() for requirement in listed}
    assert set(third_party(root / "src")) - core - extras - {"pydantic-core"} == set()  # pydantic's own ground, pinned by it
    for package in (root / "integrations").glob("tos_guard_*"):
        extra = {normal(requirement) for requirement in project["optional-dependencies"][package.name.removeprefix("tos_guard_")]}
        assert set(third_party(package)) - core - extra - {"starlette"} == set()  # starlette is FastAPI's own ground


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_by_hash_and_names_no_index(name: str, root: Path) -> None:
    text = (root / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "index" not in text
    pins = re.split(r"\n(?=\S)", text.strip())
    assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)


def test_every_lock_is_known(root: Path) -> None:
    assert {path.stem for path in (root / "requirements").glob("*.txt")} == set(LOCKS)


def test_the_oldest_lock_holds_exactly_the_lower_bounds(project: dict[str, Any], root: Path) -> None:
    text = (root / "requirements" / "oldest.txt").read_text(encoding="utf-8")
    pinned = {normal(line): line.partition("==")[2].split(" ")[0] for line in text.splitlines() if line and not line.startswith(" ")}
    listed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    bounds = {normal(requirement): requirement.partition(">=")[2] for requirement in listed if ">=" in requirement}
    assert {name for name, bound in bounds.items() if pinned[name] != bound and not pinned[name].startswith(f"{bound}.")} == set()


def test_every_dependency_has_its_reason_on_record(project: dict[str, Any], root: Path) -> None:
    record = (root / "docs" / "adr" / "0001-dependencies.md").read_text(encoding="utf-8")
    for requirement in project["dependencies"]:
        name, _, bound = requirement.partition(">=")
        assert f"| `{name}` | {bound} |" in record
