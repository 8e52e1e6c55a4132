"""Bytes that two parties must agree on: what is read, what is refused, and the one spelling of each value."""

from __future__ import annotations

import base64
import hashlib
import itertools

import pytest

from tos_guard._canonical import (
    MAX_SAFE_INTEGER,
    b64url_decode,
    b64url_encode,
    canonical_json,
    encode_claims,
    leaf_hash,
    merkle_root,
    parse_json,
    sha256_b64url,
)
from tos_guard.errors import MalformedError


def read(data: bytes, **options: bool) -> object:
    return parse_json(data, where="input", max_depth=4, max_bytes=100, **options)


@pytest.mark.parametrize("length", range(70))
def test_base64url_reads_what_it_wrote(length: int) -> None:
    data = bytes(range(length))
    assert b64url_decode(b64url_encode(data)) == data
    assert b64url_encode(data) == base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text", ["A", "A===", "AA==", "AB", "AAB", "A A", "AA\n", "\nAA", "A+A/", "AA=", "AAAA=", "é", "Ａ", "A.A", "AAAAA", "\x00AAA"]
)
def test_base64url_has_one_spelling_per_value(text: str) -> None:
    with pytest.raises(MalformedError):
        b64url_decode(text)


def test_every_other_spelling_of_one_byte_is_refused() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    accepted = [pair for pair in map("".join, itertools.product(alphabet, repeat=2)) if _reads(pair)]
    assert sorted(accepted) == sorted(b64url_encode(bytes([value])) for value in range(256))


def _reads(text: str) -> bool:
    try:
        b64url_decode(text)
    except MalformedError:
        return False
    return True


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b" ", b"{", b'{"a":1,}', b"[1,]", b"NaN", b"[Infinity]", b"-Infinity", b"'a'", b"01", b"1 2", b'"\x01"', b'"\\x"', b"\xff"),
        *(b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"b":{"a":1,"a":1}}', b'"\xed\xa0\x80"'),
    ],
)
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="input"):
        read(data)


def test_depth_is_counted_in_containers() -> None:
    assert read(b"[[[[1]]]]") == [[[[1]]]]
    assert read(b'{"a":[{"b":[]}]}') == {"a": [{"b": []}]}
    assert read(b"1") == 1
    for data in (b"[[[[[1]]]]]", b'{"a":[{"b":[{}]}]}'):
        with pytest.raises(MalformedError, match="nested deeper than 4"):
            read(data)


def test_brackets_inside_strings_do_not_nest() -> None:
    assert read(b'"[[[[[[[[{{{{{{"') == "[[[[[[[[{{{{{{"


def test_hostile_depth_is_a_clean_error() -> None:
    for data in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000):
        with pytest.raises(MalformedError, match="nested"):
            parse_json(data, where="input", max_depth=8, max_bytes=1_000_000)


def test_size_is_checked_first() -> None:
    assert read(b'"' + b"a" * 98 + b'"') == "a" * 98
    with pytest.raises(MalformedError, match="101 bytes"):
        read(b'"' + b"a" * 99 + b'"')


@pytest.mark.parametrize("data", [b'"\\ud800"', b'"\\udc00\\ud800"', b'["\\ud83dx"]', b'{"\\udfff":1}'])
def test_lone_surrogates_pass_only_where_they_may(data: bytes) -> None:
    with pytest.raises(MalformedError, match="unpaired"):
        read(data)
    assert read(data, lone_surrogates=True)


def test_a_pair_of_escapes_is_one_character() -> None:
    assert read(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("data", [b"1.0", b"1e2", b"-0.5", b"9007199254740992", b"-9007199254740992", b"1E400", b"9" * 90])
def test_our_own_documents_hold_only_integers_that_every_reader_keeps(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read(data, integers_only=True)
    assert read(data) is not None


def test_the_limits_of_integers_are_inclusive() -> None:
    for number in (MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER, 0, -0):
        assert read(str(number).encode(), integers_only=True) == number


def test_an_integer_too_long_to_convert_is_our_error() -> None:
    with pytest.raises(MalformedError):
        parse_json(b"9" * 5_000, where="input", max_depth=1, max_bytes=10_000)


def test_claims_are_written_as_rfc_8785() -> None:
    value = {"b": [True, None, -1], "a": 'é\u2028\x7f\x1f"\\/', "A": {}, "_": MAX_SAFE_INTEGER}
    assert encode_claims(value) == canonical_json(value)


@pytest.mark.parametrize("value", ["\ud800", {"\udc00": 1}, 2**53, float("nan"), float("inf"), {"a": [2**60]}])
def test_what_is_not_i_json_has_no_canonical_form(value: object) -> None:
    with pytest.raises(MalformedError, match="no canonical form"):
        canonical_json(value)


def test_a_value_nested_too_deeply_has_no_canonical_form() -> None:
    value: object = 1
    for _ in range(50_000):
        value = [value]
    with pytest.raises(MalformedError, match="no canonical form"):
        canonical_json(value)
    while isinstance(value, list):  # taken apart here: freeing it whole would recurse as well
        value = value.pop()


def recursive_root(hashes: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return hashlib.sha256(b"\x01" + recursive_root(hashes[:split]) + recursive_root(hashes[split:])).digest()


@pytest.mark.parametrize("count", [*range(40), 63, 64, 65, 1000])
def test_merkle_root_is_that_of_rfc_6962(count: int) -> None:
    hashes = [leaf_hash(str(number).encode()) for number in range(count)]
    assert merkle_root(hashes) == recursive_root(hashes)


def test_a_leaf_is_never_taken_for_a_node() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != merkle_root([left, right])


def test_sha256_in_base64url() -> None:
    assert sha256_b64url(b"") == "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
