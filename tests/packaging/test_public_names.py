"""What `__all__` promises can be imported, and type checkers see the same names as the interpreter."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import tos_guard

MODULES = {
    tos_guard.__name__: True,
    **{found.name: found.ispkg for found in pkgutil.walk_packages(tos_guard.__path__, "tos_guard.", onerror=lambda _: None)},
}
"""Each module → whether it is a package."""


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_every_name_in_all_exists_once(name: str) -> None:
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])
    assert len(set(listed)) == len(listed)
    assert [missing for missing in listed if not hasattr(module, missing)] == []


def has_private_parts(package: str) -> bool:
    return any(name.startswith(f"{package}._") for name in MODULES)


@pytest.mark.parametrize("name", [name for name, is_package in MODULES.items() if is_package and has_private_parts(name)])
def test_a_package_of_private_files_lists_its_public_names(name: str) -> None:
    assert hasattr(importlib.import_module(name), "__all__")


@pytest.mark.parametrize("package", ["tos_guard", "tos_guard.terms"])
def test_type_checkers_and_the_interpreter_find_the_same_public_names(root: Path, package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse((root / "src" / Path(*package.split(".")) / "__init__.py").read_text(encoding="utf-8"))
    block = next(
        node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    for_checkers = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname
    }
    assert for_checkers == {name: home if "." in home else f"{package}.{home}" for name, home in module._HOME.items()}
    assert set(module.__all__) == {*module._HOME, *(["__version__"] if package == "tos_guard" else [])}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tos_guard.nothing  # noqa: B018 - the access is what is tested


def test_dir_shows_the_public_names() -> None:
    assert dir(tos_guard) == sorted(tos_guard.__all__)
