"""The field ``Content-Digest`` (RFC 9530) over exact bytes."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from tos_guard.errors import ContentMismatchError, MalformedError

__all__ = ["check_content_digest", "content_digest"]

_ALGORITHMS: Final = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
"""The two that RFC 9530 section 5 calls fit against an adversary."""


def content_digest(body: bytes) -> str:
    """The field value over *body*, with SHA-256."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode('ascii')}:"


def check_content_digest(value: str, body: bytes) -> int:
    """Compare a field value with *body*.

    Returns:
        How many digests were compared; 0 means that none is of an algorithm worth comparing.

    Raises:
        MalformedError: Not an RFC 9651 dictionary of byte sequences.
        ContentMismatchError: A digest of sha-256 or sha-512 does not match.
    """
    import http_sf  # only where a digest is checked

    try:
        members = http_sf.parse(value.encode("ascii"), tltype="dictionary")
    except (http_sf.StructuredFieldError, ValueError) as error:
        raise MalformedError(f"not a dictionary of digests ({error})", where="Content-Digest") from None
    if not members:
        raise MalformedError("holds no digest", where="Content-Digest")
    if not isinstance(members, dict):
        raise MalformedError("not a dictionary", where="Content-Digest")
    compared = 0
    for name, member in members.items():
        digest = member[0] if isinstance(member, tuple) else member
        if not isinstance(digest, bytes):
            raise MalformedError(f"{name} is not a byte sequence", where="Content-Digest")
        algorithm = _ALGORITHMS.get(name)
        if algorithm is None:
            continue
        compared += 1
        if not hmac.compare_digest(algorithm(body).digest(), digest):
            raise ContentMismatchError(f"the bytes do not have this {name}", where="Content-Digest")
    return compared
