"""What ``pip install tos-guard`` gives has OpenTelemetry's API and no SDK: the guard works, counts, and tells nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Environment

pytestmark = pytest.mark.packaging

GUARDED = """
import asyncio, importlib.util, sys
sys.path.insert(0, {tests!r})
assert importlib.util.find_spec("opentelemetry.trace") is not None
assert importlib.util.find_spec("opentelemetry.sdk") is None
from kit import Kit, ask, whole

kit = Kit()
app = kit.wrap(whole(b'{{"choices":[{{"index":0,"message":{{"role":"assistant","content":"Hi"}},"finish_reason":"stop"}}]}}'))
served, refused = asyncio.run(ask(app, key=kit.key)), asyncio.run(ask(app))
print(served.status, "ai_provenance" in served.body.decode(), refused.status, *sorted(kit.guard.counts.items()))
"""


def test_a_guard_works_and_counts_without_an_sdk(bare: Environment, root: Path) -> None:
    done = bare.run(GUARDED.format(tests=str(root / "tests")))
    assert done.stdout.strip() == "200 True 401 ('denied:tos_unauthenticated', 1) ('sealed:json', 1)"
