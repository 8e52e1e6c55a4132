"""Signatures of webhooks, as Standard Webhooks 1.0.0 has them: a shared secret, HMAC-SHA256 over id, time and body.

- An id holds no full stop: nobody can move the border between id and time and keep the signature.
- The time is that of the attempt, and may differ from ours by five minutes. The id stays the same when an attempt is repeated: whoever
  takes webhooks sees to it that each is taken once, which is not done here.
- A message may bear several signatures, and its receiver know several secrets, so that a secret can be changed without a gap. Signatures
  of other kinds (``v1a``, …) are passed over.
- All signatures and secrets are compared in constant time. Which of them matched is not told.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tos_guard.errors import ConfigurationError, ExpiredError, MalformedError, SignatureError

__all__ = ["WEBHOOK_TOLERANCE", "UnverifiedWebhook", "parse_webhook_head", "parse_webhook_secret", "sign_webhook", "verify_webhook"]

WEBHOOK_TOLERANCE: Final = timedelta(minutes=5)
"""How far the time of a message may be from ours, in either direction."""

MAX_SIGNATURES: Final = 8  # a rotation needs two; each is compared with each secret
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64  # the specification's own bounds
_MAX_ID_CHARS: Final = 256
_MAX_FIELD_CHARS: Final = 2_048  # of all signatures: one of ed25519 takes 93, and a few may come
_PREFIX: Final = "whsec_"
_ID: Final = re.compile(rf"[!-\-/-~]{{1,{_MAX_ID_CHARS}}}")  # visible ASCII without the full stop
_TIME: Final = re.compile(r"[1-9][0-9]{0,11}")
_WHERE: Final = "webhook"


@dataclass(frozen=True, slots=True)
class UnverifiedWebhook:
    """What the head of a message says, before its signature has been checked.

    Attributes:
        id: Its id.
        timestamp: When this attempt was made, in seconds since 1970.
        signatures: HMACs that it bears.
    """

    id: str
    timestamp: int
    signatures: tuple[bytes, ...]


def parse_webhook_secret(text: str, *, where: str) -> bytes:
    """The key in a secret of the form ``whsec_<base64>``. No error says anything of it.

    Raises:
        ConfigurationError: Another form, or not 24 to 64 bytes.
    """
    key = _base64(text.removeprefix(_PREFIX)) if text.startswith(_PREFIX) else None
    if key is None or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ConfigurationError(
            "holds no secret of a webhook",
            where=where,
            cure="whsec_ and 24 to 64 random bytes as base64: echo whsec_$(openssl rand -base64 32)",
        )
    return key


def parse_webhook_head(message_id: str, timestamp: str, signature: str, *, now: datetime) -> UnverifiedWebhook:
    """Read the three header fields of a message.

    Args:
        message_id: ``webhook-id``.
        timestamp: ``webhook-timestamp``.
        signature: ``webhook-signature``.
        now: The present.

    Raises:
        MalformedError: A field is not what the specification says, or no signature is an HMAC.
        ExpiredError: The time is more than five minutes from ours.
    """
    if _ID.fullmatch(message_id) is None:
        raise MalformedError(f"not 1 to {_MAX_ID_CHARS} visible characters without a full stop", where="webhook-id")
    if _TIME.fullmatch(timestamp) is None:
        raise MalformedError("not seconds since 1970", where="webhook-timestamp")
    signatures = _signatures(signature)
    at = int(timestamp)
    if abs(at - now.timestamp()) > WEBHOOK_TOLERANCE.total_seconds():
        raise ExpiredError("more than five minutes from now", where="webhook-timestamp", cure="Are both clocks right?")
    return UnverifiedWebhook(message_id, at, signatures)


def verify_webhook(unverified: UnverifiedWebhook, body: bytes, *, secrets: Sequence[bytes]) -> None:
    """Prove that a message came from somebody who knows one of *secrets*, with this body.

    Says nothing about whether the message was taken before.

    Raises:
        SignatureError: No signature is made with any of them.
    """
    matches = False
    for secret in secrets:
        expected = _mac(secret, unverified.id, unverified.timestamp, body)
        for given in unverified.signatures:
            matches |= hmac.compare_digest(expected, given)
    if not matches:
        raise SignatureError("no signature is made with a secret of this webhook", where=_WHERE)


def sign_webhook(body: bytes, *, message_id: str, at: datetime, secrets: Sequence[bytes]) -> dict[str, str]:
    """The header fields of a message, signed with each of *secrets*.

    Args:
        body: Its body.
        message_id: Its id, the same for each attempt.
        at: When this attempt is made.
        secrets: One, or, while it is being changed, the new and the old.

    Raises:
        MalformedError: The id is none.
    """
    if _ID.fullmatch(message_id) is None:
        raise MalformedError(f"not 1 to {_MAX_ID_CHARS} visible characters without a full stop", where="webhook-id")
    timestamp = int(at.timestamp())
    signatures = (base64.b64encode(_mac(secret, message_id, timestamp, body)).decode("ascii") for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _mac(secret: bytes, message_id: str, timestamp: int, body: bytes) -> bytes:
    return hmac.digest(secret, f"{message_id}.{timestamp}.".encode("ascii") + body, hashlib.sha256)


def _signatures(field: str) -> tuple[bytes, ...]:
    parts = field.split(" ") if len(field) <= _MAX_FIELD_CHARS else []
    if not 1 <= len(parts) <= MAX_SIGNATURES:
        raise MalformedError(f"not 1 to {MAX_SIGNATURES} signatures with a space between them", where="webhook-signature")
    found = []
    for part in parts:
        version, comma, encoded = part.partition(",")
        if not version or not comma:
            raise MalformedError("a signature is not its version, a comma and base64", where="webhook-signature")
        if version == "v1":
            mac = _base64(encoded)
            if mac is None or len(mac) != hashlib.sha256().digest_size:
                raise MalformedError("a signature v1 is not 32 bytes as base64", where="webhook-signature")
            found.append(mac)
    if not found:
        raise MalformedError("there is no signature v1", where="webhook-signature")
    return tuple(found)


def _base64(text: str) -> bytes | None:
    """What *text* says in base64, or None where it is another, or another spelling."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if base64.b64encode(data).decode("ascii") == text else None
