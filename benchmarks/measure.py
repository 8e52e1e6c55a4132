"""How all benchmarks measure and print: candidates interleaved in one run, medians, budgets beside their figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Budget:
    """A figure beside its budget of DESIGN §9."""

    figure: float
    at_most: float
    unit: str

    def __str__(self) -> str:
        verdict = "within" if self.figure <= self.at_most else "OVER"
        return f"{self.figure:.2f} {self.unit} (budget ≤ {self.at_most:g}: {verdict})"


def interleaved(*candidates: Callable[[], object], number: int) -> list[float]:
    """Median seconds of one call of each candidate; the candidates take turns, so that noise meets them alike."""
    for candidate in candidates:
        candidate()
    rounds: list[list[float]] = [[] for _ in candidates]
    for _ in range(ROUNDS):
        for times, candidate in zip(rounds, candidates, strict=True):
            start = time.perf_counter()
            for _ in range(number):
                candidate()
            times.append((time.perf_counter() - start) / number)
    return [statistics.median(times) for times in rounds]


def report(title: str, rows: list[tuple[str, float, Budget | None]]) -> int:
    """Print a table: what, microseconds, budget. Returns how many budgets are missed."""
    width = max(len(what) for what, _, _ in rows)
    print(f"\n{title}\n{'-' * (width + 40)}")
    for what, seconds, budget in rows:
        print(f"{what:<{width}}  {seconds * 1e6:>10.2f} µs  {budget if budget is not None else ''}")
    return sum(budget is not None and budget.figure > budget.at_most for _, _, budget in rows)
