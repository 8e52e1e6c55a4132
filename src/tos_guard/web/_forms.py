"""Tokens against forged forms: the host may know its people by a cookie, which a browser also sends with a form of another site.

A token is made for one account and one person, holds for a while, and says nothing to others. It is in pages of ours alone.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import datetime
from typing import Final

from tos_guard._canonical import b64url_encode
from tos_guard.errors import DeniedError

__all__ = ["check_form_token", "form_token"]

MAX_AGE_SECONDS: Final = 4 * 3_600
"""Long enough to read terms of service, and to ask a lawyer about a clause."""

MAX_SKEW_SECONDS: Final = 60
"""Between the clocks of two workers of one provider."""

_FORM: Final = re.compile(r"([0-9]{1,12})\.([A-Za-z0-9_-]{43})")


def form_token(key: bytes, *, account: str, person: str, now: datetime) -> str:
    """A token for the forms of a page."""
    made = int(now.timestamp())
    return f"{made}.{_mac(key, account, person, made)}"


def check_form_token(token: str, key: bytes, *, account: str, person: str, now: datetime) -> None:
    """See that a form comes from a page of ours, which this person had for this account.

    Raises:
        DeniedError: It does not, or the page is too old; one text for all.
    """
    found = _FORM.fullmatch(token)
    made = int(found[1]) if found is not None else 0
    fresh = -MAX_SKEW_SECONDS <= now.timestamp() - made <= MAX_AGE_SECONDS
    genuine = found is not None and hmac.compare_digest(found[2], _mac(key, account, person, made))
    if not (fresh and genuine):
        raise DeniedError(
            "The form is too old, or was not made for you",
            reason="tos_form_refused",
            cure="Nothing was changed. Open the page again, and send the form from there.",
        )


def _mac(key: bytes, account: str, person: str, made: int) -> str:
    parts = (part.encode("utf-8", "surrogatepass") for part in (account, person, str(made)))
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return b64url_encode(hmac.digest(key, message, hashlib.sha256))
