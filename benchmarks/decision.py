"""A decision with all its reasons, over 20 and 100 clauses, beside its budget, a raw cache hit, and Cedar where it is installed.

The clauses are on one action, so each is evaluated: prohibitions on region, purpose, model and verification that do not apply, one
permission that does, one obligation, and one clause in shadow. Cedar gets the same rules, with its policies parsed beforehand and its
entities kept; it names the deciding policies, knows no unknown and carries no duties. The host may install it: ``pip install cedarpy``.

    python benchmarks/decision.py
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cachetools import LRUCache
from measure import Budget, interleaved, report

from tos_guard.rights import Account, Grant, Holder, Plan, PlanCache, compile_plan, holder_plan
from tos_guard.rights._rules import compile_rules
from tos_guard.terms import TermsShelf, TermsVersion, parse_terms
from tos_guard.types import Facts

NOW = datetime(2026, 11, 22, tzinfo=UTC)
BUDGETS = {20: 10.0, 100: 25.0}
"""Microseconds, p50 (DESIGN section 9)."""

HEAD = """
[terms]
version = "bench"
uri = "https://api.example.com/terms/bench"
title = "Benchmark"
effective = 2026-11-01
text = "bench.md"

[[grant]]
id = "research"

[[clause]]
id = "use"
effect = "permit"
action = "generate"

[[clause]]
id = "seal"
effect = "oblige"
action = "generate"
duties = ["seal"]

[[clause]]
id = "shadowed"
effect = "prohibit"
action = "generate"
when = { channel = "api" }
shadow = true
"""

CONDITIONS = (
    'when = { region = ["CU", "IR", "KP", "SY"] }',
    'when = { purpose = ["distillation", "train-competing-model"] }\nunless = { grant = "research" }',
    'when = { model = { in = ["large", "larger"] } }\nunless = { verification = "organization" }',
    'when = { verification = { not_in = ["email", "organization"] }, region = "US" }',
)


def terms_of(clauses: int) -> TermsVersion:
    """Terms with this many clauses on one action."""
    blocks = [
        f'[[clause]]\nid = "no-{number}"\neffect = "prohibit"\naction = "generate"\n{CONDITIONS[number % len(CONDITIONS)]}\n'
        for number in range(clauses - 3)
    ]
    return parse_terms((HEAD + "\n".join(blocks)).encode(), b"Benchmark terms.")


def account(**changes: Any) -> Account:
    return Account(id="acme", models=frozenset({"small"}), actions=frozenset({"generate"}), **changes)


FACTS = Facts(action="generate", model="small", region="US", verification="email")
UNKNOWN = Facts(action="generate", model="small")


def main() -> int:
    cache: LRUCache[str, int] = LRUCache(1000)
    cache["key"] = 1
    ((hit),) = interleaved(lambda: cache["key"], number=20_000)
    rows: list[tuple[str, float, Budget | None]] = [("raw cachetools hit", hit, None)]
    for clauses, budget in BUDGETS.items():
        rows += measured(terms_of(clauses), budget, hit)
    return report("Decision with reasons, p50", rows)


def measured(terms: TermsVersion, budget: float, hit: float) -> list[tuple[str, float, Budget | None]]:
    clauses = len(terms.clauses)
    plan = compile_plan(account(), terms, now=NOW)
    granted = compile_plan(account(grants=(Grant(id="r-1", type="research"),)), terms, now=NOW)
    assert plan.decide(FACTS).allowed
    assert not plan.decide(UNKNOWN).allowed
    plans, whose, shelf = PlanCache(), account(), TermsShelf.of((terms,))
    holder = Holder(whose)
    licence = Grant(id="r-2", type="research", purposes=frozenset({"benchmark"}))
    conditional = compile_plan(account(grants=(licence,)), terms, now=NOW)
    candidates: dict[str, Callable[[], object]] = {
        "decide": lambda: plan.decide(FACTS),
        "decide, with a grant": lambda: granted.decide(FACTS),
        "decide, with a grant for one purpose": lambda: conditional.decide(FACTS),
        "decide, region and verification unknown": lambda: plan.decide(UNKNOWN),
        "plan from its cache": lambda: plans.plan(holder, shelf, "small", issuer="https://api.example.com", now=NOW),
        "compile a plan and its rights (rules shared)": lambda: compile_plan(whose, terms, now=NOW).rights(FACTS),
        "bind terms, compile a plan and its rights": lambda: holder_plan(holder, shelf, "small", now=NOW).rights(FACTS),
    }
    if (cedar := cedar_decision(plan)) is not None:
        candidates["cedarpy, parsed policies and entities"] = cedar
    times = interleaved(*candidates.values(), number=2_000)

    def compile_afresh() -> object:
        compile_rules.cache_clear()
        return compile_plan(whose, terms, now=NOW).rights(FACTS)

    candidates["compile a plan and its rights, rules too"] = compile_afresh
    times += interleaved(compile_afresh, number=20)
    rows: list[tuple[str, float, Budget | None]] = []
    for name, seconds in zip(candidates, times, strict=True):
        checked = Budget(seconds * 1e6, budget, "µs") if name == "decide" else None
        rows.append((f"{clauses} clauses: {name} ({seconds / hit:.0f} × cache hit)", seconds, checked))
    return rows


def cedar_decision(plan: Plan) -> Callable[[], object] | None:
    """The same clauses for Cedar, or None where it is not installed."""
    try:
        cedar = importlib.import_module("cedarpy")
    except ImportError:
        return None
    policies = ["permit (principal, action, resource);"]
    for clause in plan.terms.clauses:
        if clause.effect == "prohibit" and not clause.shadow:
            parts = [condition_in_cedar(c.fact, c.values, c.negated) for c in clause.when if c.fact != "grant"]
            parts += [f"!({condition_in_cedar(c.fact, c.values, c.negated)})" for c in clause.unless if c.fact != "grant"]
            policies.append(f"forbid (principal, action, resource) when {{ {' && '.join(parts)} }};")
    text = "\n".join(policies)
    parsed = cedar.PolicySet.from_str(text)
    request = {
        "principal": 'Account::"acme"',
        "action": 'Action::"generate"',
        "resource": 'Model::"small"',
        "context": {fact: getattr(FACTS, fact) for fact in ("model", "purpose", "channel", "region", "verification")},
    }
    entities = cedar.Entities.from_json_str("[]")
    if not cedar.is_authorized(request, parsed, entities).allowed:
        raise RuntimeError("Cedar was asked something else")
    return lambda: cedar.is_authorized(request, parsed, entities)


def condition_in_cedar(fact: str, values: frozenset[str], negated: bool) -> str:
    listed = ", ".join(f'"{value}"' for value in sorted(values))
    return f"{'!' if negated else ''}[{listed}].contains(context.{fact})"


if __name__ == "__main__":
    sys.exit(min(main(), 1))
