"""Round trips and equalities that hold for every value, not only for those we thought of."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tos_guard._canonical import MAX_SAFE_INTEGER, b64url_decode, b64url_encode, canonical_json, encode_claims, parse_json
from tos_guard.errors import MalformedError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ASCII_NAMES = st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=10)
INTEGERS = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
CLAIMS = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ASCII_NAMES, inner, max_size=4),
    max_leaves=20,
)
# From 2^53 on a fraction's canonical form has no point, and reads back as an integer that has none (docs/spec/projection.md P3).
FLOATS = st.floats(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(CLAIMS)
def test_the_faster_road_gives_the_bytes_of_rfc_8785(value: object) -> None:
    assert encode_claims(value) == canonical_json(value)


@given(CLAIMS)
def test_claims_read_back_as_they_were_written(value: object) -> None:
    data = encode_claims(value)
    assert parse_json(data, where="claims", max_depth=64, max_bytes=100_000, integers_only=True) == value


@given(VALUES)
def test_canonical_json_reads_back_and_is_its_own_canonical_form(value: object) -> None:
    data = canonical_json(value)
    again = parse_json(data, where="value", max_depth=64, max_bytes=100_000)
    assert again == value
    assert canonical_json(again) == data


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_how_json_is_written_does_not_change_its_canonical_form(value: object, ascii_only: bool, indent: int | None) -> None:
    written = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert canonical_json(parse_json(written, where="value", max_depth=64, max_bytes=1_000_000)) == canonical_json(value)


@given(st.binary(max_size=200))
def test_base64url_round_trips(data: bytes) -> None:
    assert b64url_decode(b64url_encode(data)) == data


@given(st.text(max_size=30))
def test_text_that_base64url_reads_is_the_text_it_writes(text: str) -> None:
    try:
        data = b64url_decode(text)
    except MalformedError:
        return
    assert b64url_encode(data) == text


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_json(data, where="bytes", max_depth=8, max_bytes=1_000)
    except MalformedError:
        return
    json.loads(data)
