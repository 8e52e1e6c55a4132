"""Our own strict compact-JWS parser (docs/spec/token.md T1–T4; DESIGN D8).

It separates reading from believing: what it returns is named unverified until a key has checked the signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from tos_guard._canonical import b64url_decode, b64url_encode, encode_claims, parse_json
from tos_guard.errors import MalformedError

__all__ = ["UnverifiedJWS", "encode_jws_signing_input", "join_jws", "parse_jws"]

MAX_HEADER_BYTES: Final = 512  # alg, kid and typ take about 110
MAX_DEPTH: Final = 8  # our claims nest 3 deep; the rest is room for claims we do not know
_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ"})


@dataclass(frozen=True, slots=True)
class UnverifiedJWS:
    """A well-formed compact JWS whose signature nobody has checked.

    Attributes:
        algorithm: What the header claims; the key decides (T6).
        kid: Key id from the header.
        payload: The claims as read.
        signing_input: ASCII bytes that the signature covers.
        signature: Raw signature.
    """

    algorithm: str
    kid: str
    payload: dict[str, Any]
    signing_input: bytes
    signature: bytes


def parse_jws(text: str, *, typ: str, where: str, max_chars: int) -> UnverifiedJWS:
    """Read a compact JWS of exactly this *typ*, whatever it claims, without believing it.

    Raises:
        MalformedError: T1 to T4 do not hold.
    """
    header_part, payload_part, signature_part = split_compact(text, where=where, max_chars=max_chars)
    algorithm, kid = _parse_header(header_part, typ, f"{where} header")
    payload = parse_object(b64url_decode(payload_part, where=f"{where} payload"), f"{where} payload", max_chars, MAX_DEPTH)
    signature = b64url_decode(signature_part, where=f"{where} signature")
    signing_input = text[: len(header_part) + 1 + len(payload_part)].encode("ascii")
    return UnverifiedJWS(algorithm, kid, payload, signing_input, signature)


@lru_cache(maxsize=256)  # all tokens of one key have one header; only well-formed ones are kept
def _parse_header(part: str, typ: str, where: str) -> tuple[str, str]:
    header = parse_object(b64url_decode(part, where=where), where, MAX_HEADER_BYTES, MAX_DEPTH)
    if header.keys() != _HEADER_MEMBERS or not all(isinstance(value, str) for value in header.values()):
        raise MalformedError("members are not exactly the strings alg, kid and typ", where=where)
    if header["typ"] != typ:
        raise MalformedError(f"typ is not {typ}", where=where, cure="This is a token of another kind.")
    return header["alg"], header["kid"]


def split_compact(text: str, *, where: str, max_chars: int) -> tuple[str, str, str]:
    """Header, payload and signature of a compact JWS, still encoded. Only the payload may be empty.

    Raises:
        MalformedError: Too long, not ASCII, or not of three parts.
    """
    if len(text) > max_chars:
        raise MalformedError(f"{len(text)} characters, more than the {max_chars} accepted", where=where)
    parts = text.split(".") if text.isascii() else []
    if len(parts) != 3 or not parts[0] or not parts[2]:
        raise MalformedError("not three non-empty parts of ASCII separated by dots", where=where, cure="Give the whole token.")
    return parts[0], parts[1], parts[2]


def parse_object(data: bytes, where: str, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """Read one JSON object without fractions (T3).

    Raises:
        MalformedError: It is not one.
    """
    value = parse_json(data, where=where, max_depth=max_depth, max_bytes=max_bytes, integers_only=True)
    if not isinstance(value, dict):
        raise MalformedError("not a JSON object", where=where)
    return value


def encode_jws_signing_input(payload: dict[str, Any], *, algorithm: str, kid: str, typ: str) -> bytes:
    """The bytes to sign: base64url header, dot, base64url payload, both as RFC 8785 JSON."""
    return f"{_header(algorithm, kid, typ)}.{b64url_encode(encode_claims(payload))}".encode("ascii")


@lru_cache(maxsize=64)
def _header(algorithm: str, kid: str, typ: str) -> str:
    return b64url_encode(f'{{"alg":"{algorithm}","kid":"{kid}","typ":"{typ}"}}'.encode("ascii"))


def join_jws(signing_input: bytes, signature: bytes) -> str:
    """The compact JWS of what was signed and its signature."""
    return f"{signing_input.decode('ascii')}.{b64url_encode(signature)}"
