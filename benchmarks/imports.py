"""What an import costs, above an empty interpreter, beside its budget.

The starts are interleaved, so that a busy moment of the machine falls on all of them alike; the median of the differences is
printed. Byte code is cached first, as in any installation that has been started once.

    python benchmarks/imports.py [rounds]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUDGETS_MS = {"import tos_guard": 60.0, "import tos_guard.verify": 80.0}
"""Statement → budget (DESIGN section 9)."""

FOR_COMPARISON = ("import cryptography.hazmat.primitives.asymmetric.ed25519", "import jwt", "import pydantic", "import httpx")
ROUNDS = 21


def start_ms(code: str, environment: dict[str, str]) -> float:
    """Milliseconds from starting an interpreter to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return (time.perf_counter() - began) * 1e3


def measure(rounds: int) -> tuple[float, dict[str, float]]:
    """The median start of an empty interpreter, and for each statement the median of what it adds (ms)."""
    statements = [*BUDGETS_MS, *FOR_COMPARISON]
    with tempfile.TemporaryDirectory() as cache:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(Path(cache) / "bytecode")
        for statement in ["pass", *statements]:
            start_ms(statement, environment)
        empty: list[float] = []
        added: dict[str, list[float]] = {statement: [] for statement in statements}
        for _ in range(rounds):
            empty.append(start_ms("pass", environment))
            for statement in statements:
                added[statement].append(start_ms(statement, environment) - empty[-1])
    return statistics.median(empty), {statement: statistics.median(values) for statement, values in added.items()}


def main() -> int:
    """Print the table.

    Returns:
        1 when a budget is missed, otherwise 0.
    """
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    empty, added = measure(rounds)
    print(f"imports: CPython {sys.version.split()[0]}, median of {rounds} interleaved starts, empty interpreter {empty:.1f} ms")
    print(f"{'statement':<58} {'added':>9} {'x empty':>8} {'budget':>9}")
    missed = 0
    for statement, milliseconds in added.items():
        budget = BUDGETS_MS.get(statement)
        verdict = "" if budget is None else f"{budget:>6.0f} ms  {'held' if milliseconds <= budget else 'MISSED'}"
        missed += budget is not None and milliseconds > budget
        print(f"{statement:<58} {milliseconds:>6.1f} ms {milliseconds / empty:>8.2f} {verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
