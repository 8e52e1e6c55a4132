"""Judging saved files in a separate process: `tos-guard verify`, and the independent verifier as a second opinion."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Judge", "Judgement"]

SPEC: Final = Path(__file__).resolve().parents[2] / "docs" / "spec"
_ITS_WORDS: Final = {"--terms-text": "--text"}
VERDICTS: Final = {0: "valid", 1: "invalid", 2: "usage error", 3: "undecidable", 4: "unacceptable", 5: "absent"}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a verifier said.

    Attributes:
        code: Exit code (docs/spec/README.md).
        second: Exit code of the independent verifier, or None where it was not asked.
        said: What `tos-guard verify` printed.
    """

    code: int
    second: int | None
    said: str

    def __str__(self) -> str:
        agrees = "" if self.second is None else ", both verifiers" if self.second == self.code else f", BUT the other says {self.second}"
        return f"exit {self.code} ({VERDICTS.get(self.code, '?')}{agrees})"


class Judge:
    """Runs the verifiers on saved files."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer

    def verify(self, file: Path, *, keys: Path | None, options: tuple[str, ...] = (), issuer: str | None = None) -> Judgement:
        """Verify a saved file.

        Args:
            file: What was saved.
            keys: Pinned keys, or None for none.
            options: Further options that both verifiers understand.
            issuer: Whose keys they are, if not the provider's.
        """
        pinned = () if keys is None else ("--keys", str(keys), "--issuer", issuer or self._issuer)
        ours = _run([sys.executable, "-m", "tos_guard.cli", "verify", str(file), *pinned, *options])
        second = None
        receipt = "receipt" in options
        independent = SPEC / ("receipt_verifier.py" if receipt else "verifier.py")
        if independent.exists() and keys is not None:
            asked = [_ITS_WORDS.get(option, option) for option in options if option not in ("--as", "receipt")] if receipt else options
            second = _run([sys.executable, str(independent), str(file), *pinned, *asked]).returncode
        return Judgement(ours.returncode, second, ours.stdout + ours.stderr)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
