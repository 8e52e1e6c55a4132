"""Offline verification: bytes, keys and a clock in; what was proven out (docs/spec/README.md).

    >>> verified = verify_body(body, trust=Trust.of(parse_key_set(pinned)), now=now)   # doctest: +SKIP
    >>> verified.claims.usage.content_usage                                            # doctest: +SKIP
    'train-ai=n, ai-use=y'

Each function returns a `Verified` (of a receipt, a `VerifiedReceipt`), or raises a `VerificationError` whose `verdict` says which way it
failed; there is no boolean to forget. Nothing here opens a connection, reads a file or asks the time. `tos_guard.verifier` adds discovery.
"""

from tos_guard.keys import KeySet, open_key_history, parse_key_set
from tos_guard.verify._content import verify_body, verify_text
from tos_guard.verify._lines import verify_lines
from tos_guard.verify._messages import MessagesVerifier, verify_messages
from tos_guard.verify._proof import Expected, Trust, Verified, verify_token
from tos_guard.verify._receipt import ExpectedReceipt, VerifiedReceipt, verify_receipt
from tos_guard.verify._stream import Prefix, StreamVerifier, verify_prefix, verify_stream

__all__ = [
    "Expected",
    "ExpectedReceipt",
    "KeySet",
    "MessagesVerifier",
    "Prefix",
    "StreamVerifier",
    "Trust",
    "Verified",
    "VerifiedReceipt",
    "open_key_history",
    "parse_key_set",
    "verify_body",
    "verify_lines",
    "verify_messages",
    "verify_prefix",
    "verify_receipt",
    "verify_stream",
    "verify_text",
    "verify_token",
]
