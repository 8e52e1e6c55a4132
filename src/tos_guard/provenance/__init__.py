"""The provenance token and what it covers: claims, content projection, and the compact form (docs/spec/token.md, projection.md)."""

from tos_guard.provenance._claims import Claims, Terms, Usage
from tos_guard.provenance._content import (
    MAX_INLINE_LEAVES,
    Content,
    Leaf,
    LeafTree,
    Parts,
    canonical_part,
    encode_text,
    normalise_text,
    parse_leaves,
    text_digest,
)
from tos_guard.provenance._token import (
    MAX_TOKEN_CHARS,
    MAX_WRITTEN_CHARS,
    TOKEN_TYP,
    UnverifiedToken,
    parse_token,
    request_mac,
    token_signing_input,
)

__all__ = [
    "MAX_INLINE_LEAVES",
    "MAX_TOKEN_CHARS",
    "MAX_WRITTEN_CHARS",
    "TOKEN_TYP",
    "Claims",
    "Content",
    "Leaf",
    "LeafTree",
    "Parts",
    "Terms",
    "UnverifiedToken",
    "Usage",
    "canonical_part",
    "encode_text",
    "normalise_text",
    "parse_leaves",
    "parse_token",
    "request_mac",
    "text_digest",
    "token_signing_input",
]
