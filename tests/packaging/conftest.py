"""The built wheel, and fresh environments to install it into.

`make test` builds the wheel once and names it in ``TOS_GUARD_WHEEL``; a single test started by hand builds its own. Environments are
made by uv, which comes with the test requirements, and held to the versions that `requirements/test.txt` pins.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv

UV = uv.find_uv_bin()


LIMIT_SECONDS = 900
"""A command that takes longer hangs."""


def run(*command: str | Path, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run *command*, with what it printed in the failure's message."""
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"} and not name.startswith("PYTEST_")
    }
    words = [str(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=LIMIT_SECONDS)
    if check and done.returncode:
        pytest.fail(f"{' '.join(words)}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
    return done


@dataclass(frozen=True)
class Environment:
    """A virtual environment with our wheel in it."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def script(self, name: str) -> Path:
        return self.folder / "bin" / name

    def run(self, code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run *code* in isolated mode: no folder of the clone can be imported from, and every warning is an error."""
        return run(self.python, "-I", "-W", "error", "-c", code, check=check, cwd=self.folder)


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel under test."""
    named = os.environ.get("TOS_GUARD_WHEEL")
    if named:
        return Path(named)
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--quiet", "--wheel", "--out-dir", folder, root)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def make_environment(wheel: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """Make an environment: the wheel with extras, or with exactly the requirements of one file."""

    def make(extras: Sequence[str] = (), *, locked: str | None = None, python: str | None = None) -> Environment:
        environment = Environment(tmp_path_factory.mktemp("-".join(extras) or locked or "bare"))
        run(UV, "venv", "--quiet", "--clear", *(("--python", python) if python else ()), environment.folder)
        install = (UV, "pip", "install", "--quiet", "--python", environment.python)
        if locked:
            run(*install, "--require-hashes", "--requirement", root / "requirements" / f"{locked}.txt")
            run(*install, "--no-deps", wheel)
        else:
            named = f"tos-guard[{','.join(extras)}]" if extras else "tos-guard"
            run(*install, "--constraint", root / "requirements" / "test.txt", f"{named} @ {wheel.as_uri()}")
        return environment

    return make


@pytest.fixture(scope="session")
def bare(make_environment: Callable[..., Environment]) -> Environment:
    """What ``pip install tos-guard`` gives."""
    return make_environment()
