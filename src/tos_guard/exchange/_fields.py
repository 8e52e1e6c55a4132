"""Header fields of a response on its way out, and the tag as it stands in bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tos_guard._canonical import encode_claims
from tos_guard.exchange._exchange import Headers, Sealed

__all__ = ["bare_tag", "kept_fields", "tag_bytes"]

_REPLACED: Final = frozenset(
    {
        b"ai-provenance",
        b"ai-provenance-salt",
        b"content-usage",
        b"content-digest",
        b"x-request-id",
        b"request-id",
        b"content-length",
        b"transfer-encoding",
    }
)
_OF_OTHER_BYTES: Final = frozenset({b"repr-digest", b"digest", b"content-md5"})
"""Digests of the handler's bytes: false once a tag is in them."""

_EXPOSED: Final = "AI-Provenance, AI-Provenance-Salt, Content-Usage, Content-Digest, Link, X-Request-ID, Request-ID"


def tag_bytes(seal: Sealed) -> bytes:
    """The tag member's value as JSON bytes, with the leaves where they do not fit in the token."""
    if seal.pending or seal.content.is_inline or seal.content.leaves is None:
        return bare_tag(seal.token)
    return encode_claims({"token": seal.token, "leaves": [list(leaf) for leaf in seal.content.leaves]})


def bare_tag(token: str) -> bytes:
    """The tag member's value with a token alone."""
    return b'{"token":"%s"}' % token.encode("ascii")  # base64url and dots: nothing to escape


def kept_fields(headers: Sequence[tuple[bytes, bytes]], *, changed: bool = False) -> Headers:
    """The handler's fields without those we set ourselves; with ours exposed where the host answers another origin.

    Args:
        headers: Of the handler.
        changed: Whether the body has a tag in it, or one less: the bytes differ then, and the meaning does not.
    """
    kept = [(name, value) for name, value in headers if name not in _REPLACED and not (changed and name in _OF_OTHER_BYTES)]
    if changed:
        kept = [(name, b"W/" + value if name == b"etag" and not value.startswith(b"W/") else value) for name, value in kept]
    for position, (name, value) in enumerate(kept):
        if name == b"access-control-expose-headers":
            kept[position] = (name, value + b", " + _EXPOSED.encode("ascii"))
            return kept
    if any(name == b"access-control-allow-origin" for name, _ in kept):
        kept.append((b"access-control-expose-headers", _EXPOSED.encode("ascii")))
    return kept
