"""The help in docs/guides/command-line.md is what the commands say. Run as a script, this file brings it up to date."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tos_guard.cli import main
from tos_guard.cli._app import app
from tos_guard.keys import parse_key_set

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "command-line.md"
MARK = "writes what follows.\n"


def commands() -> Iterator[tuple[str, ...]]:
    """The name of every command: the root, each group, each command in it."""

    def walk(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*path, name))

    yield from walk(typer.main.get_command(app), ())


def shown(path: tuple[str, ...]) -> str:
    """What a command says of itself, 100 columns wide."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("COLUMNS", "100")
        assert main([*path, "--help"]) == 0
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def section(path: tuple[str, ...]) -> str:
    """The part of the guide for a command."""
    name = " ".join(("tos-guard", *path))
    return f"\n### {name}\n\n```text\n{shown(path)}\n```\n"


COMMANDS = list(commands())


def guide() -> str:
    """The generated part of the guide."""
    return GUIDE.read_text(encoding="utf-8").partition(MARK)[2]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "tos-guard")
def test_the_guide_shows_the_help_of(path: tuple[str, ...]) -> None:
    assert section(path) in guide(), f"run: python {Path(__file__).relative_to(GUIDE.parents[2])}"


def test_the_guide_shows_no_command_that_is_gone() -> None:
    listed = [line.removeprefix("### ") for line in guide().splitlines() if line.startswith("### ")]
    assert listed == [" ".join(("tos-guard", *path)) for path in COMMANDS]


def test_the_first_hour_in_the_guide_works(tmp_path: Path) -> None:
    """Each line of it, in an empty folder."""
    block = GUIDE.read_text(encoding="utf-8").partition("## A provider's first hour")[2].split("```")[1]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("TOS_GUARD_CONFIG", None)
    done = subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert parse_key_set((tmp_path / "pinned-keys.json").read_bytes()).issuer == "https://api.example.com"


def test_every_command_and_option_says_what_it_does() -> None:
    def walk(command: object) -> Iterator[str]:
        if not getattr(command, "help", None):
            yield f"{getattr(command, 'name', '?')}: no help"
        for parameter in getattr(command, "params", ()):
            if not getattr(parameter, "help", None):
                yield f"{getattr(command, 'name', '?')} {parameter.name}: no help"
        for inner in getattr(command, "commands", {}).values():
            yield from walk(inner)

    assert list(walk(typer.main.get_command(app))) == []


if __name__ == "__main__":
    written = GUIDE.read_text(encoding="utf-8").partition(MARK)[0]
    GUIDE.write_text(written + MARK + "".join(section(path) for path in COMMANDS), encoding="utf-8")
