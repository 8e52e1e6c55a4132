"""Bytes that two parties must agree on: strict JSON in, canonical JSON out, base64url, digests, Merkle roots.

Rules kept here (docs/spec/token.md T2, T3; docs/spec/projection.md P6):

- JSON is UTF-8 without a byte-order mark, has no duplicate names, no NaN or Infinity, no lone surrogates, bounded depth.
- Canonical JSON is RFC 8785. Numbers go through the `rfc8785` package; documents without fractions take a faster road that
  gives the same bytes (a property test compares the two).
- base64url has no padding and one spelling per value (RFC 4648 section 3.5).
- Trees are RFC 6962: 0x00 before a leaf, 0x01 before a pair.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from tos_guard.errors import MalformedError

__all__ = [
    "MAX_SAFE_INTEGER",
    "b64url_decode",
    "b64url_encode",
    "canonical_json",
    "encode_claims",
    "is_digest",
    "leaf_hash",
    "merkle_root",
    "parse_json",
    "sha256_b64url",
]

MAX_SAFE_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly (RFC 7493 section 2.2)."""

_DIGEST = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_B64_TO_URL = bytes.maketrans(b"+/", b"-_")
_URL_TO_B64 = bytes.maketrans(b"-_", b"+/")


def b64url_encode(data: bytes) -> str:
    """Encode *data* as unpadded base64url (RFC 7515 section 2)."""
    return binascii.b2a_base64(data, newline=False).translate(_B64_TO_URL, b"=").decode("ascii")


def b64url_decode(text: str, *, where: str = "base64url value") -> bytes:
    """Decode unpadded, canonical base64url.

    Raises:
        MalformedError: Another alphabet, padding, white space, a bad length, or bits beyond the value.
    """
    try:
        encoded = text.encode("ascii")
        if encoded.translate(None, b"-_") != encoded.translate(None, b"-_+/=\r\n "):
            raise ValueError
        data = binascii.a2b_base64(encoded.translate(_URL_TO_B64) + b"=" * (-len(encoded) % 4), strict_mode=True)
    except (ValueError, binascii.Error):
        raise MalformedError("not unpadded base64url", where=where) from None
    # Compare the re-encoding: two spellings of one value would be two tokens with one meaning.
    if b64url_encode(data) != text:
        raise MalformedError("not canonical base64url: bits are set beyond the value", where=where)
    return data


def sha256_b64url(data: bytes) -> str:
    """SHA-256 of *data* as 43 characters of base64url."""
    return b64url_encode(hashlib.sha256(data).digest())


def is_digest(value: object) -> bool:
    """Whether *value* is 32 bytes as canonical base64url."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_encode_claims = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False).encode


def _refuse_fraction(text: str) -> NoReturn:
    raise ValueError(f"{text[:24]} is not an integer")


def _safe_integer(text: str) -> int:
    number = int(text)
    if not -MAX_SAFE_INTEGER <= number <= MAX_SAFE_INTEGER:
        raise ValueError(f"{text[:24]} is beyond the integers every reader keeps")
    return number


_any_number = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
_integers = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_refuse_fraction, parse_int=_safe_integer
)


def _decode(decoder: json.JSONDecoder, text: str) -> Any:
    """As ``decoder.decode``, without its two searches for white space where an object fills the text."""
    if text.startswith("{"):
        try:
            value, end = decoder.scan_once(text, 0)  # type: ignore[attr-defined]
        except StopIteration:
            pass  # `decode` says it better
        else:
            if end == len(text):
                return value
    return decoder.decode(text)


def parse_json(
    data: bytes, *, where: str, max_depth: int, max_bytes: int, integers_only: bool = False, lone_surrogates: bool = False
) -> Any:
    """Parse untrusted JSON strictly (RFC 8259, RFC 7493).

    Args:
        data: UTF-8 bytes.
        where: What the bytes are, for the error.
        max_depth: Deepest nesting accepted; a scalar has depth 0.
        max_bytes: Largest input accepted.
        integers_only: Refuse fractions, exponents, and integers beyond ±(2^53-1), as our own documents must.
        lone_surrogates: Let escapes of unpaired UTF-16 halves pass. Generated text may hold them, our own documents never.

    Raises:
        MalformedError: Anything that is not such JSON.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"{len(data)} bytes, more than the {max_bytes} accepted", where=where)
    try:
        text = data.decode("utf-8")
        value = _decode(_integers if integers_only else _any_number, text)
    except RecursionError:
        raise MalformedError("nested too deeply", where=where) from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise MalformedError(f"not strict JSON ({_brief(error)})", where=where) from None
    # Few brackets cannot nest deeply, and only an escape can make a lone surrogate out of valid UTF-8.
    if data.count(b"[") + data.count(b"{") > max_depth and _depth(value) > max_depth:
        raise MalformedError(f"nested deeper than {max_depth}", where=where)
    if not lone_surrogates and b"\\u" in data:
        try:
            _encode_claims(value).encode("utf-8")
        except (UnicodeEncodeError, ValueError, RecursionError):
            raise MalformedError("holds an unpaired UTF-16 half", where=where) from None
    return value


def _brief(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return str(error)[:80]


def _depth(value: Any) -> int:
    """Depth of nesting, without recursion."""
    deepest = 0
    pending = [(value, 0)]
    while pending:
        item, level = pending.pop()
        if isinstance(item, dict):
            children: Any = item.values()
        elif isinstance(item, list):
            children = item
        else:
            continue
        deepest = max(deepest, level + 1)
        pending.extend((child, level + 1) for child in children)
    return deepest


def encode_claims(value: Any) -> bytes:
    """Canonical JSON of a value that holds only strings, integers within ±(2^53-1), booleans, null, lists and dicts with ASCII names.

    For such values this equals RFC 8785. Callers vouch for the shape; `canonical_json` is for values of others.
    """
    return _encode_claims(value).encode("utf-8")


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of any I-JSON value.

    Raises:
        MalformedError: The value is not I-JSON (lone surrogate, integer beyond ±(2^53-1), NaN) and has no canonical form.
    """
    import rfc8785  # only needed for values of others, and not cheap to import

    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as error:
        raise MalformedError(f"has no canonical form ({error})", where="JSON value") from None


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962 section 2.1 hash of one leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def merkle_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1 root over leaf hashes; of no leaves, SHA-256 of nothing."""
    level = list(leaf_hashes)
    if not level:
        return hashlib.sha256(b"").digest()
    # Pairing level by level and carrying an odd last node up gives RFC 6962's tree.
    while len(level) > 1:
        paired = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]
