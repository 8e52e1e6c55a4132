"""Hostile bytes end in a value or in our error, quickly, and reach nobody (must-show 7 of the first issue)."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable

import pytest

from fuzz.campaign import (
    BODIES,
    CALLS,
    DIALECT_BODIES,
    DIALECT_STREAMS,
    LINES,
    LINES_TOKEN,
    MAX_SECONDS,
    PLAIN,
    REQUESTS,
    STREAMS,
    TEXT,
    TEXT_TOKEN,
    TOKENS,
    TRUST,
    run,
    table,
)
from fuzz.seeds import EC_KEY, ISSUER, KEY, NOW
from tos_guard.verify import Expected, verify_body, verify_lines, verify_messages, verify_stream, verify_text, verify_token

PARTS = 4
INPUTS = 200_000 if os.environ.get("CI", "").lower() in {"1", "true", "yes"} else 20_000
"""All of it under CI; a tenth elsewhere. ``cd tests && python -m fuzz`` runs all of it and prints the counts."""


@pytest.mark.parametrize("seed", range(PARTS))
def test_mutated_inputs_end_in_values_or_our_errors(seed: int, record_property: Callable[[str, object], None]) -> None:
    """Within 50 ms each, with no socket, no forged token and no lost byte, and at least 30 % of them past the JSON reader."""
    rows = run(seed=seed, inputs=INPUTS // PARTS)
    record_property("counts", table(rows))
    inputs = sum(row.inputs for row in rows)
    assert inputs >= INPUTS // PARTS - len(rows)
    assert sum(row.past_json for row in rows) >= 0.3 * inputs
    assert max(row.slowest_seconds for row in rows) < MAX_SECONDS
    for row in rows:
        assert row.inputs == row.accepted + sum(row.refused.values())
        assert row.accepted > 0, f"{row.parser}: the mutations leave nothing valid, so they only test the first check"


def test_the_same_seed_makes_the_same_inputs() -> None:
    first, second = (run(seed=7, inputs=600) for _ in range(2))
    counts = [[(row.parser, row.inputs, row.past_json, row.accepted, row.refused) for row in rows] for rows in (first, second)]
    assert counts[0] == counts[1]


def test_every_kind_of_refusal_is_reached() -> None:
    """The mutations reach the checks behind the signature too: algorithm, issuer, version, audience, content, time."""
    refused: Counter[str] = Counter()
    for row in run(seed=1, inputs=5_000):
        refused.update(row.refused)
    expected = {
        "malformed",
        "signature",
        "content_mismatch",
        "audience",
        "unknown_key",
        "untrusted_issuer",
        "unsupported_version",
        "expired",
    }
    assert expected <= refused.keys()


def test_the_seeds_themselves_are_valid() -> None:
    """Else the mutations would only ever reach the first check."""
    for token in TOKENS:
        assert (
            verify_token(token, trust=TRUST, now=NOW, expected=Expected(audience="a") if token == TOKENS[1] else None).claims.iss == ISSUER
        )
    for body in [*BODIES, *DIALECT_BODIES]:
        assert verify_body(body, trust=TRUST, now=NOW).kid in {KEY.kid, EC_KEY.kid}
    for body, token in PLAIN:
        assert verify_body(body, token=token, trust=TRUST, now=NOW).token == token
    for events in [*STREAMS, *DIALECT_STREAMS]:
        assert verify_stream(b"".join(events), trust=TRUST, now=NOW).notes == ()
    assert verify_text(TEXT, token=TEXT_TOKEN, trust=TRUST, now=NOW).claims.iss == ISSUER
    for message, token, method in CALLS:
        assert verify_messages([message], token=token, method=method, trust=TRUST, now=NOW).token == token
    assert verify_lines(LINES, trust=TRUST, now=NOW).token == LINES_TOKEN
    for dialect, request in REQUESTS:
        assert dialect.read_request(json.dumps(request).encode()).model == "small-1"
