"""What the guide to dialects says is so: its names, its settings, and what a cut stream proves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fuzz import seeds
from streams import event
from tos_guard.config import parse_settings
from tos_guard.dialects import DIALECT_NAMES, ChatFormat, StreamSealing
from tos_guard.types import Stage
from tos_guard.verify import Trust

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
GUIDE = (GUIDES / "dialects.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The guide's code, in order."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def test_every_dialect_has_its_row_and_its_mention_among_the_settings() -> None:
    rows = set(re.findall(r"^\| `([a-z0-9-]+)` \|", GUIDE, re.MULTILINE))
    assert rows - {"dialect"} == DIALECT_NAMES
    settings = (GUIDES / "configuration.md").read_text(encoding="utf-8")
    assert {name for name in DIALECT_NAMES if f'"{name}"' not in settings} == set()


def test_the_settings_it_shows_can_be_read() -> None:
    head = 'issuer = "https://api.example.com"\nterms = "t.toml"\nstore = "s.db"\nkeys = "keys"\n'
    read = [parse_settings((head + routes).encode()) for routes in blocks("toml")]
    assert read[0].routes["/v1/responses"].checkpoint_seconds == 30
    assert all(settings.routes for settings in read)


def test_what_it_shows_of_a_cut_stream_gives_the_part_that_is_proven() -> None:
    chunks = [event({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in ("Hel", "lo", " there")]
    sealing = StreamSealing(ChatFormat(), checkpoint_events=2)
    begun = sealing.feed(b"".join(chunks)).out
    token = seeds.token(sealing.content, stage=Stage.CHECKPOINT, completion=None)
    saved = begun + sealing.checkpointed(b'{"token":"%s"}' % token.encode()).out
    known: dict[str, Any] = {"saved": saved, "trust": Trust.of(seeds.KEYS), "now": seeds.NOW, "pending": seeds.token(None)}
    exec(next(block for block in blocks("python") if "verify_stream" in block), known)
    assert known["whole"] == saved.removesuffix(chunks[2])
