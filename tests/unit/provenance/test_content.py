"""The content projection (docs/spec/projection.md P2–P6): what is normalised, what is covered, and in which order."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tos_guard._canonical import b64url_encode, leaf_hash, merkle_root
from tos_guard.errors import MalformedError
from tos_guard.provenance import MAX_INLINE_LEAVES, Content, Leaf, Parts, canonical_part, normalise_text, parse_leaves, text_digest


def digest(data: bytes) -> str:
    return b64url_encode(hashlib.sha256(data).digest())


D = digest(b"x")


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("", ""),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\nb"),
        ("a\r\r\nb", "a\n\nb"),
        ("a\n\rb", "a\n\nb"),
        (" \t\r\n a b \r\n\t ", "a b"),
        ("\r\n", ""),
        ("a  b", "a  b"),
        ("\u00a0a\u2028", "\u00a0a\u2028"),
        ("\x0ba\x0c\x85", "\x0ba\x0c\x85"),
        ("\ufeffa", "\ufeffa"),
        ("e\u0301", "e\u0301"),
        ("\x00a\x00", "\x00a\x00"),
    ],
)
def test_p2_only_line_ends_and_outer_white_space_change(text: str, normalised: str) -> None:
    assert normalise_text(text) == normalised


@pytest.mark.parametrize("other", ["é", "ﬁ", "Å", "\u1e9b\u0323"])
def test_p2_no_unicode_normalisation(other: str) -> None:
    import unicodedata

    forms = {unicodedata.normalize(form, other) for form in ("NFC", "NFD", "NFKC", "NFKD")} | {other}
    assert len({text_digest(form) for form in forms}) == len(forms)


def leaves_of(*pieces: str | bytes, text: bool = True) -> list[Leaf]:
    parts = Parts()
    for piece in pieces:
        parts.add(0, "text", piece, text=text)
    return parts.leaves()


def test_p2_a_line_end_cut_in_two_is_one_line_end() -> None:
    assert leaves_of("a\r", "\nb") == leaves_of("a\nb")


def test_p2_exact_values_are_not_normalised() -> None:
    assert leaves_of(" a\r\n", text=False) == [(0, "text", digest(b" a\r\n"))]


def test_p3_halves_of_a_character_meet_across_deltas() -> None:
    assert leaves_of("a\ud83d", "\ude00b") == leaves_of("a\U0001f600b")
    assert leaves_of("\ud83d", "", "\ude00") == leaves_of("\U0001f600")


@pytest.mark.parametrize(
    "pieces", [["\ud83d"], ["\ude00", "\ud83d"], ["\ud83d", "x", "\ude00"], ["\ud83d", " \ude00"], ["\ud83d\ud83d\ude00"]]
)
def test_p3_a_lone_half_makes_the_part_uncoverable(pieces: list[str]) -> None:
    assert leaves_of(*pieces) == [(0, "text", None)]


def test_p3_halves_joined_by_stripping_do_not_meet() -> None:
    """Joining comes after normalising: white space between halves keeps them apart."""
    assert leaves_of("\ud83d", "\n", "\ude00") == [(0, "text", None)]


def test_a_part_that_is_empty_after_normalising_does_not_exist() -> None:
    assert leaves_of(" ", "\r\n") == []
    assert leaves_of("") == []
    assert leaves_of(" ", text=False) == [(0, "text", digest(b" "))]


def test_p4_one_uncoverable_value_makes_the_whole_part_so() -> None:
    parts = Parts()
    parts.add(0, "text", "a", text=True)
    parts.cannot_cover(0, "text")
    parts.add(0, "text", "b", text=True)
    assert parts.leaves() == [(0, "text", None)]


def test_bytes_of_an_object_have_a_meaning_only_alone() -> None:
    assert leaves_of(b"{}", text=False) == [(0, "text", digest(b"{}"))]
    assert leaves_of(b"{}", b"{}", text=False) == [(0, "text", None)]
    assert leaves_of("a", b"{}", text=False) == [(0, "text", None)]


def test_p5_leaves_stand_by_choice_and_then_by_name() -> None:
    content = Content.of("chat-1", [(1, "a", D), (0, "text", D), (10, "a", D), (0, "reasoning", None), (2, "a", D)])
    assert content.leaves == ((0, "reasoning", None), (0, "text", D), (1, "a", D), (2, "a", D), (10, "a", D))
    assert parse_leaves([list(leaf) for leaf in content.leaves or ()], where="leaves") == content.leaves


def test_p6_the_root_is_that_of_the_leaves_as_written() -> None:
    leaves = [(0, "text", D), (1, "text", None)]
    written = [json.dumps(list(leaf), separators=(",", ":")).encode() for leaf in leaves]
    assert Content.of("chat-1", leaves).root == b64url_encode(merkle_root([leaf_hash(data) for data in written]))
    assert Content.of("chat-1", []).root == digest(b"")


@pytest.mark.parametrize(
    "leaves",
    [
        *(None, {}, "x", 1, [1], [[]], [[0, "text"]], [[0, "text", D, D]], [["0", "text", D]], [[True, "text", D]], [[0.0, "text", D]]),
        *(
            [[-1, "text", D]],
            [[65_536, "text", D]],
            [[0, "Text", D]],
            [[0, "", D]],
            [[0, "a" * 65, D]],
            [[0, "a-b", D]],
            [[0, "a\n", D]],
            [[0, 1, D]],
        ),
        *(
            [[0, "text", D[:-1]]],
            [[0, "text", D + "="]],
            [[0, "text", ""]],
            [[0, "text", 1]],
            [[0, "text", D[:-1] + "B"]],
            [[0, "text", False]],
        ),
        *([[1, "a", D], [0, "a", D]], [[0, "b", D], [0, "a", D]], [[0, "a", D], [0, "a", D]], [[0, "a", D], [0, "a", None]]),
        [[0, f"a{number:06}", None] for number in range(65_537)],
    ],
    ids=lambda leaves: str(leaves)[:30],
)
def test_leaves_of_another_form_or_order_are_refused(leaves: Any) -> None:
    with pytest.raises(MalformedError):
        parse_leaves(leaves, where="leaves")


@pytest.mark.parametrize("count", range(8))
def test_the_claim_holds_up_to_four_leaves_and_reads_back(count: int) -> None:
    content = Content.of("chat-1", [(number, "text", D) for number in range(count)])
    claim = content.to_claim()
    assert ("leaves" in claim) == (count <= MAX_INLINE_LEAVES)
    read = Content.from_claim(claim, where="content")
    assert (read.count, read.root, read.projection) == (count, content.root, "chat-1")
    assert read.leaves == (content.leaves if count <= MAX_INLINE_LEAVES else None)
    assert read.with_leaves([list(leaf) for leaf in content.leaves or ()], where="leaves") == content


@pytest.mark.parametrize(
    "changes",
    [
        *({"n": 1}, {"n": 3}, {"n": -1}, {"n": "2"}, {"n": True}, {"n": 2.0}, {"n": 65_537}, {"n": ...}),
        *({"root": D}, {"root": 1}, {"root": ""}, {"root": ...}, {"proj": 1}, {"proj": None}, {"proj": ...}),
        *({"leaves": None}, {"leaves": []}, {"leaves": [[1, "text", D], [0, "text", D]]}, {"leaves": [[0, "text", D]]}),
    ],
)
def test_t11_a_content_claim_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    claim = {**Content.of("chat-1", [(0, "text", D), (1, "text", D)]).to_claim(), **changes}
    with pytest.raises(MalformedError):
        Content.from_claim({name: value for name, value in claim.items() if value is not ...}, where="content")


def test_t11_many_leaves_are_not_inline() -> None:
    content = Content.of("chat-1", [(number, "text", D) for number in range(5)])
    with pytest.raises(MalformedError, match="more than 4 parts"):
        Content.from_claim({**content.to_claim(), "leaves": [list(leaf) for leaf in content.leaves or ()]}, where="content")


def test_other_leaves_do_not_fit_the_root() -> None:
    content = Content.of("chat-1", [(0, "text", D)])
    with pytest.raises(MalformedError, match="count and root"):
        content.with_leaves([[0, "text", None]], where="leaves")


def test_canonical_part_of_what_is_no_i_json_is_none() -> None:
    assert canonical_part({"b": 1, "a": 1.0}) == b'{"a":1,"b":1}'
    for value in ({"a": 2**53}, {"a": float("inf")}, {"a": "\ud800"}, {"\udc00": 1}):
        assert canonical_part(value) is None
