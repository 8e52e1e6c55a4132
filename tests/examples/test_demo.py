"""The demonstration holds with the guard, and does not without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def play(folder: Path, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Play the day in a process of its own."""
    command = [sys.executable, "-m", "tos_guard.cli", "demo", "--model", "replay", "--keep", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, cwd=root)


def test_the_day_holds_with_the_guard(tmp_path: Path, root: Path) -> None:
    """Every step happens as expected, both verifiers agree, everything is kept, and the exit code says so."""
    played = play(tmp_path / "day", root)
    assert played.returncode == 0, played.stdout + played.stderr
    report = json.loads((tmp_path / "day" / "report.json").read_bytes())
    assert report["held"]
    assert len(report["steps"]) >= 35
    assert all(step["held"] for step in report["steps"])
    assert "both verifiers" in (tmp_path / "day" / "table.txt").read_text()
    assert "held in" in played.stdout
    assert {"answer.json", "stream.sse", "keys.json", "cut.sse", "receipt.jwt", "newcomer-accepted.json"} <= {
        path.name for path in (tmp_path / "day").iterdir()
    }
    again = play(tmp_path / "day", root)
    assert again.returncode == 0, "a day can be played again in its own folder"


def test_the_day_does_not_hold_without_the_guard(tmp_path: Path, root: Path) -> None:
    """The checks can fail: unguarded, nothing is refused and nothing can be proven."""
    played = play(tmp_path / "day", root, "--guard", "off")
    assert played.returncode == 1, played.stdout + played.stderr
    steps = {step["what"]: step["held"] for step in json.loads((tmp_path / "day" / "report.json").read_bytes())["steps"]}
    for what in (
        "Good standing, JSON",
        "Terms not accepted",
        "Accepted on the account's page",
        "A limit of three requests a minute",
        "A licence given while it runs",
        "A past decision explained",
        "A model it has no right to",
        "Suspended while it runs",
        "Licensed distiller",
        "Key rotated",
    ):
        assert steps[what] is False
    assert steps["The text alone, with its token"] is False


@pytest.mark.parametrize("content", ["notes.txt", "table.txt"])
def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, root: Path, content: str) -> None:
    """Nothing of the user's is emptied by a demonstration."""
    (tmp_path / content).write_text("mine")
    assert play(tmp_path, root).returncode == 1
    assert (tmp_path / content).read_text() == "mine"
