"""The library and the independent verifier of docs/spec find the same leaves in mutated content, or both refuse it."""

from __future__ import annotations

import importlib.util
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from fuzz import seeds
from fuzz.mutation import mutate_bytes, mutate_json, write_json
from tos_guard.dialects import (
    CompletionsProjection,
    InferProjection,
    MessagesProjection,
    Projection,
    ResponsesProjection,
    parse_response_json,
    read_infer_tag,
)
from tos_guard.errors import TosGuardError

INPUTS = 20_000 if os.environ.get("CI", "").lower() in {"1", "true", "yes"} else 2_000
"""For each kind of content."""
REFUSED = "refused"
LEGACY = {"object": "text_completion", "choices": [{"index": 0, "text": "Hello"}, {"index": 1, "text": "x"}]}
BODIES: list[tuple[type[Projection], dict[str, Any]]] = [
    (ResponsesProjection, seeds.RESPONSE),
    (MessagesProjection, seeds.MESSAGE),
    (InferProjection, seeds.INFERENCE),
    (CompletionsProjection, LEGACY),
]
EVENTS: list[tuple[type[Projection], list[dict[str, Any]]]] = [
    (ResponsesProjection, seeds.RESPONSE_EVENTS),
    (MessagesProjection, seeds.MESSAGE_EVENTS),
    (CompletionsProjection, seeds.LEGACY_EVENTS),
]

Found = tuple[int, str] | str
Both = tuple[Any, Callable[[], Found], Callable[[], Found]]


def _independent() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "vectors" / "mutants.py"
    spec = importlib.util.spec_from_file_location("mutants", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load_verifier()  # type: ignore[no-any-return]


PAGES = _independent()


def _library(projection: Projection) -> Found:
    content = projection.content()
    return content.count, content.root


def _of_pages(values: list[Any]) -> Found:
    leaves = PAGES.leaves_of(values)
    return len(leaves), PAGES.b64(PAGES.tree(leaves))


def _object(data: bytes) -> dict[str, Any]:
    value, faults = PAGES.read_json(data, 64, False)
    if faults or not isinstance(value, dict):
        raise PAGES.Refused("invalid", "C3 or C9")
    return value


def _bodies(random: Random) -> Both:
    kind, document = random.choice(BODIES)
    data = write_json(random, mutate_json(random, document))

    def library() -> Found:
        projection = kind()
        projection.add_body(parse_response_json(data, where="body"))
        return _library(projection)

    def pages() -> Found:
        fits, read = PAGES.BODIES[kind().name]
        body = _object(data)
        return _of_pages(read(body, data)) if fits(body) else REFUSED

    return data, library, pages


def _streams(random: Random) -> Both:
    kind, events = random.choice(EVENTS)
    sent = [write_json(random, mutate_json(random, event)) if random.random() < 0.25 else json.dumps(event).encode() for event in events]
    if random.random() < 0.2:
        sent.insert(random.randrange(len(sent)), random.choice(sent))

    def library() -> Found:
        projection = kind()
        for data in sent:
            event = parse_response_json(data, where="event")
            if not isinstance(event, dict):
                return REFUSED
            projection.add_event(event)
        return _library(projection)

    def pages() -> Found:
        begun: dict[int, Any] = {}
        form = kind().name
        steps = PAGES.dialects.gather([PAGES.dialects.STREAMS[form](_object(data), begun) for data in sent])
        leaves = PAGES.dialects.found_in(form, steps)
        return len(leaves), PAGES.b64(PAGES.tree(leaves))

    return sent, library, pages


def _messages(random: Random) -> Both:
    message = mutate_bytes(random, seeds.TENSORS)

    def library() -> Found:
        projection = InferProjection()
        projection.add_message(message)
        read_infer_tag(message)
        return _library(projection)

    return message, library, lambda: _of_pages(PAGES.messages.infer_message(message, 0, False)[0])


def _pairs(made: Both) -> Iterator[Found]:
    for find in made[1:]:
        try:
            yield find()
        except (TosGuardError, PAGES.Refused):
            yield REFUSED


@pytest.mark.parametrize("make", [_bodies, _streams, _messages], ids=["bodies", "streams", "messages"])
def test_two_readers_of_one_page_find_the_same_leaves(
    make: Callable[[Random], Both], record_property: Callable[[str, object], None]
) -> None:
    random = Random(f"leaves {make.__name__}")
    counts: Counter[str] = Counter()
    for _ in range(INPUTS):
        made = make(random)
        library, pages = _pairs(made)
        assert library == pages, made[0]
        counts[REFUSED if library == REFUSED else "found"] += 1
    record_property("counts", dict(counts))
    assert min(counts[REFUSED], counts["found"]) > INPUTS // 20
