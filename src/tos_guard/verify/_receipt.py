"""The proof that a receipt is genuine, and that it is of these terms and this text (docs/spec/receipts.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tos_guard._canonical import parse_json, sha256_b64url
from tos_guard.errors import ContentMismatchError, ExpiredError, MalformedError, UnacceptableError, UnknownKeyError
from tos_guard.terms._receipt import ReceiptClaims, parse_receipt
from tos_guard.types import KeyPurpose, SubjectKind
from tos_guard.verify._proof import MAX_CLOCK_SKEW_SECONDS, Trust

__all__ = ["ExpectedReceipt", "VerifiedReceipt", "verify_receipt"]

MAX_DOCUMENT_BYTES: Final = 4 << 20  # as published terms
MAX_DOCUMENT_DEPTH: Final = 8
_DEFAULTS: Final = {"series": "general", "locale": "en"}  # what a terms document means that does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedReceipt:
    """What the caller expects a receipt to say; None expects nothing (R10).

    Attributes:
        subject_kind: Whether it is for an account or an organization.
        subject_id: Which.
        person: Who accepted or withdrew.
        version: Which terms version.
        at: When, in seconds since 1970.
        event: ``acceptance`` or ``withdrawal``.
    """

    subject_kind: SubjectKind | None = None
    subject_id: str | None = None
    person: str | None = None
    version: str | None = None
    at: int | None = None
    event: str | None = None

    def check(self, claims: ReceiptClaims) -> None:
        """Check genuine claims.

        Raises:
            UnacceptableError: One is another than expected; the error names it.
        """
        for name, expected, found in (
            ("event", self.event, claims.event),
            ("subject kind", self.subject_kind, claims.subject_kind),
            ("subject id", self.subject_id, claims.subject_id),
            ("person", self.person, claims.person),
            ("terms version", self.version, claims.terms.version),
            ("at", self.at, claims.at),
        ):
            if expected is not None and expected != found:
                raise UnacceptableError(f"says {str(found)!r}, not {str(expected)!r}", where=f"receipt {name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReceipt:
    """What was proven. There is no such value for anything but ``valid``.

    Attributes:
        claims: The claims, signed by a trusted receipt key of ``claims.iss``.
        kid: That key.
        receipt: The receipt itself.
        document_checked: Whether the terms document was there and is the one that was accepted.
        text_checked: Whether the text was there and is the one that was accepted.
    """

    claims: ReceiptClaims
    kid: str
    receipt: str
    document_checked: bool = False
    text_checked: bool = False


def verify_receipt(
    text: str,
    *,
    trust: Trust,
    now: datetime,
    terms_document: bytes | None = None,
    terms_text: bytes | str | None = None,
    expected: ExpectedReceipt | None = None,
) -> VerifiedReceipt:
    """Prove that the issuer attested an acceptance or withdrawal of terms. That a later record took it back, it cannot tell.

    Args:
        text: The compact JWS.
        trust: Keys the caller trusts.
        now: The moment to judge at.
        terms_document: The terms document as published, byte for byte, to check that it is the one.
        terms_text: The text of the terms, likewise; a string stands for its UTF-8.
        expected: What the receipt is expected to say.

    Raises:
        MalformedError, SignatureError, UnsupportedVersionError: It is no such receipt, or was altered.
        UntrustedIssuerError, UnknownKeyError, KeyRevokedError: It cannot be decided.
        ContentMismatchError: It is genuine, and not of this document or text.
        ExpiredError: Its key was not in use when it signed, or the acceptance no longer counts.
        UnacceptableError: It says something else than expected.
    """
    unverified = parse_receipt(text)
    key = trust.keys_of(unverified.unverified_issuer, where="receipt").find(unverified.jws.kid, KeyPurpose.RECEIPT)
    if key is None:
        raise UnknownKeyError(
            f"no trusted receipt key of {unverified.unverified_issuer} has the id {unverified.jws.kid[:64]!r}",
            where="receipt kid",
            cure="Fetch the issuer's newest keys, if you trust where they come from.",
        )
    claims = unverified.verify_with(key)
    if claims.iat > now.timestamp() + MAX_CLOCK_SKEW_SECONDS:
        raise MalformedError("iat lies in the future", where="receipt", cure="Check this machine's clock.")
    key.check_time(claims.iat, where="receipt")
    if terms_document is not None:
        _check_document(terms_document, claims)
    if terms_text is not None:
        _check_text(terms_text, claims)
    if claims.exp is not None and int(now.timestamp()) > claims.exp:
        raise ExpiredError("the acceptance has expired", where="receipt exp")
    if expected is not None:
        expected.check(claims)
    return VerifiedReceipt(
        claims=claims, kid=key.kid, receipt=text, document_checked=terms_document is not None, text_checked=terms_text is not None
    )


def _check_document(document: bytes, claims: ReceiptClaims) -> None:
    """R7: the digest is of these bytes, and what the receipt says of the terms is what they say."""
    if sha256_b64url(document) != claims.terms.sha256:
        raise ContentMismatchError(
            "the receipt is of another terms document", where="terms document", cure="Give it byte for byte as it was published."
        )
    members = parse_json(document, where="terms document", max_depth=MAX_DOCUMENT_DEPTH, max_bytes=MAX_DOCUMENT_BYTES, integers_only=True)
    header: Any = members.get("terms") if isinstance(members, dict) else None
    if not isinstance(header, dict):
        raise MalformedError("is no terms document", where="terms document")
    said = {**_DEFAULTS, **header, "text_sha256": members.get("text_sha256")}
    for name, value in claims.terms.to_members().items():
        if name != "sha256" and said.get(name) != value:
            raise ContentMismatchError(
                f"the receipt says {value[:200]!r}, the terms document something else", where=f"receipt terms {name}"
            )


def _check_text(text: bytes | str, claims: ReceiptClaims) -> None:
    """R8: the digest is of this text."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if sha256_b64url(data) != claims.terms.text_sha256:
        raise ContentMismatchError("the receipt is of another text", where="terms text", cure="Give it byte for byte as it was published.")
