"""A pending token that was given beside lines (docs/spec/carriers.md C14, C7), with and without a final one."""

from __future__ import annotations

import pytest

from loopback_issuer import START, Keys
from tos_guard.errors import ContentMismatchError, IncompleteError, MalformedError, UntrustedIssuerError, VerificationError
from tos_guard.verify import Trust, verify_lines

KEYS = Keys("https://api.example.com")
OTHERS = Keys("https://other.example.net")
PENDING = KEYS.token()


@pytest.mark.parametrize("lines", [b'{"a":1}\n', b""])
def test_lines_with_a_pending_token_alone_are_incomplete(lines: bytes) -> None:
    with pytest.raises(IncompleteError):
        verify_lines(lines, trust=Trust.of(KEYS.key_set()), now=START, pending=PENDING)


@pytest.mark.parametrize(
    ("pending", "error"),
    [("x", MalformedError), (KEYS.sealed_messages(b"x"), ContentMismatchError), (OTHERS.token(), UntrustedIssuerError)],
    ids=["no token", "a final token", "a token of nobody who is trusted"],
)
def test_what_is_no_pending_token_is_refused_although_there_is_no_final_one(pending: str, error: type[VerificationError]) -> None:
    with pytest.raises(error):
        verify_lines(b'{"a":1}\n', trust=Trust.of(KEYS.key_set()), now=START, pending=pending)
