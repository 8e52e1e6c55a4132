"""Each way to install the wheel works: bare, with each extra, with all of them, and with the oldest versions we claim."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import UV, Environment, run

pytestmark = pytest.mark.packaging

LOADED = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))))"
"""Prints the third-party packages that are loaded."""

FRAMEWORKS = {"fastapi", "starlette", "flask", "grpc", "typer", "rich", "uvicorn", "openai", "httpx2"}

ADAPTERS = ("fastapi", "flask", "grpc")

EXTRAS = {
    # extra: code that must run with it
    **{name: f"import tos_guard_{name} as adapter; assert [getattr(adapter, name) for name in adapter.__all__]" for name in ADAPTERS},
    "cli": "import tos_guard.cli",
    "httpx2": "import tos_guard.remote.httpx2",
    "postgres": "from tos_guard.stores import PostgresStore",
    "redis": "import hiredis; from tos_guard.stores import AsyncValkeyLimits, ValkeyLimits",
    "all": "import tos_guard.cli, tos_guard_fastapi, tos_guard_flask, tos_guard_grpc, httpx2, psycopg, redis",
}


def loaded(environment: Environment, code: str) -> set[str]:
    """The third-party packages that running *code* loads; site-packages' own start-up files are not counted."""
    names: list[str] = json.loads(environment.run(f"{code}\n{LOADED}").stdout)
    return {name for name in names if not name.startswith("_") and name not in {"tos_guard", "sitecustomize", "usercustomize"}}


def test_importing_the_package_loads_nothing_else(bare: Environment) -> None:
    assert loaded(bare, "import tos_guard") == set()


def test_every_public_name_works_without_an_extra(bare: Environment) -> None:
    assert not FRAMEWORKS & loaded(bare, "import tos_guard\nfor name in tos_guard.__all__: getattr(tos_guard, name)")


def test_offline_verification_loads_only_cryptography_and_canonical_json(bare: Environment) -> None:
    assert loaded(bare, "import tos_guard.verify") <= {"cryptography", "rfc8785"}


def test_nothing_but_the_core_is_installed_without_an_extra(bare: Environment) -> None:
    listed = json.loads(run(UV, "pip", "list", "--quiet", "--format", "json", "--python", bare.python).stdout)
    assert not FRAMEWORKS & {entry["name"] for entry in listed}


def test_the_command_names_the_extra_when_it_is_missing(bare: Environment) -> None:
    done = run(bare.script("tos-guard"), "--help", check=False)
    assert done.returncode != 0
    assert "tos-guard[cli]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_names_its_extra_when_the_framework_is_missing(name: str, bare: Environment) -> None:
    done = bare.run(
        f"try:\n    import tos_guard_{name} as adapter\n    getattr(adapter, adapter.__all__[0])\n"
        "except ImportError as error:\n    print(error)"
    )
    assert f"tos-guard[{name}]" in done.stdout


def test_the_guard_of_wsgi_apps_needs_no_framework(bare: Environment) -> None:
    assert not FRAMEWORKS & loaded(bare, "import tos_guard.web.wsgi")


def test_every_extra_is_tried(root: Path) -> None:
    declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(declared) == set(EXTRAS)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_alone_is_enough_for_what_it_is_for(extra: str, make_environment: Callable[..., Environment]) -> None:
    environment = make_environment([extra])
    environment.run(EXTRAS[extra])
    if extra in {"cli", "all"}:
        assert "Usage" in run(environment.script("tos-guard"), "--help").stdout


def test_the_oldest_versions_we_claim_pass_the_unit_tests_and_the_vectors(make_environment: Callable[..., Environment], root: Path) -> None:
    """Deprecations that newer releases fixed are not ours: here warnings are not errors."""
    environment = make_environment(locked="oldest")
    chosen = [root / "tests" / name for name in ("unit", "vectors", "contracts")]
    # Triton's client has no release for the older gRPC that we take.
    of_triton = [
        f"--ignore={path}"
        for folder in chosen
        for path in folder.rglob("test_*.py")
        if "import tritonclient" in path.read_text("utf-8") or "from tritonclient" in path.read_text("utf-8")
    ]
    done = run(
        environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default",
        f"--basetemp={environment.folder / 'tmp'}", *of_triton, *chosen, cwd=root,
    )  # fmt: skip
    assert " passed" in done.stdout


def interpreters() -> dict[str, str]:
    """Version → path of each CPython on this machine that we support, the newest patch of each minor."""
    command = [UV, "python", "list", "--only-installed", "--no-python-downloads", "--output-format", "json"]
    listed: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for entry in listed:
        parts = entry["version_parts"]
        if (
            entry["implementation"] == "cpython"
            and (3, 11) <= (parts["major"], parts["minor"]) <= (3, 14)
            and entry.get("variant") == "default"
        ):
            found.setdefault(f"{parts['major']}.{parts['minor']}", entry["path"])
    return found


INTERPRETERS = interpreters()


@pytest.mark.parametrize("version", sorted(INTERPRETERS))
def test_every_supported_interpreter_on_this_machine_imports_all_public_names(
    version: str, make_environment: Callable[..., Environment]
) -> None:
    environment = make_environment(["all"], python=INTERPRETERS[version])
    environment.run("import tos_guard, tos_guard.verify\nfor name in tos_guard.__all__: getattr(tos_guard, name)")
