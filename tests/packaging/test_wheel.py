"""The wheel holds what a user imports, and nothing else."""

from __future__ import annotations

import email
import zipfile
from pathlib import Path

import pytest

import tos_guard

pytestmark = pytest.mark.packaging


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def import_packages(root: Path) -> set[str]:
    folders = [*(root / "src").iterdir(), *(root / "integrations").glob("tos_guard_*")]
    return {folder.name for folder in folders if (folder / "__init__.py").is_file()}


def test_every_import_package_is_in_the_one_wheel_and_nothing_else_is(names: list[str], root: Path) -> None:
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == import_packages(root)


def test_every_source_file_is_in_the_wheel(names: list[str], root: Path) -> None:
    sources = {
        path.relative_to(parent).as_posix()
        for parent in (root / "src", root / "integrations")
        for path in parent.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.relative_to(parent).parts[0] in import_packages(root)
    }
    assert sources <= set(names)


def test_type_checkers_read_our_annotations_in_every_package(names: list[str], root: Path) -> None:
    for package in import_packages(root):
        assert f"{package}/py.typed" in names


def test_the_wheel_carries_the_licence_text(names: list[str], metadata: email.message.Message) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert metadata["License-Expression"] == "Apache-2.0"


def test_no_test_example_or_byte_code_is_shipped(names: list[str]) -> None:
    assert [name for name in names if name.endswith(".pyc") or name.split("/")[0] in {"tests", "examples", "benchmarks"}] == []


def test_the_version_is_the_same_in_the_package_and_in_its_metadata(metadata: email.message.Message) -> None:
    assert metadata["Version"] == tos_guard.__version__


def test_the_changelog_speaks_of_this_version(root: Path) -> None:
    assert f"## {tos_guard.__version__}" in (root / "CHANGELOG.md").read_text(encoding="utf-8")
