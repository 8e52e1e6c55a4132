"""The example of a fleet holds, and says what happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_fleet_holds(root: Path) -> None:
    """Each step happens as promised, and the exit code says so; nothing is left running."""
    played = subprocess.run(
        [sys.executable, "-m", "fleet"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=root / "examples",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert played.returncode == 0, played.stdout + played.stderr
    assert "FAILED" not in played.stdout
    assert played.stdout.count("✓ held") >= 20
    assert "20 of 20 held in" in played.stdout
