"""The receipt of an acceptance or withdrawal: its claims, what to sign, how to read it (docs/spec/receipts.md).

A receipt names the account or organization and the person. It is given to them and published nowhere; the token carries no more of it
than an id. `tos_guard.verify.verify_receipt` proves one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tos_guard.errors import MalformedError, UnsupportedVersionError
from tos_guard.keys import ID, ORIGIN, ClaimReader, KeyRecord, UnverifiedJWS, encode_jws_signing_input, parse_jws
from tos_guard.types import SubjectKind

__all__ = [
    "RECEIPT_TYP",
    "ReceiptClaims",
    "ReceiptEvent",
    "ReceiptTerms",
    "UnverifiedReceipt",
    "parse_receipt",
    "receipt_signing_input",
]

RECEIPT_TYP: Final = "ai-terms-receipt+jwt"
MAX_RECEIPT_CHARS: Final = 8_192  # as a token (T1); the longest we write takes 6,300
MAX_NAME_CHARS: Final = 128  # of an account, organization or person
MAX_AUTHORITY_CHARS: Final = 200
MAX_REASON_CHARS: Final = 500
MAX_WORD_CHARS: Final = 32
VERSION: Final = 1


class ReceiptEvent(StrEnum):
    """What a receipt is of."""

    ACCEPTANCE = "acceptance"
    WITHDRAWAL = "withdrawal"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptTerms:
    """Which terms were accepted, in which words: series, version, address, language, and the digests of terms and text."""

    series: str
    version: str
    uri: str
    locale: str
    sha256: str
    text_sha256: str

    def to_members(self) -> dict[str, str]:
        """As JSON members."""
        return {
            "locale": self.locale,
            "series": self.series,
            "sha256": self.sha256,
            "text_sha256": self.text_sha256,
            "uri": self.uri,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptClaims:
    """What a receipt says, as the table of docs/spec/receipts.md; times in seconds since 1970.

    Attributes:
        iss: Whose terms they are, and who signed.
        iat: When it was signed.
        jti: Id of the acceptance or withdrawal.
        event: Which of the two it is.
        at: When it was accepted or withdrawn.
        terms: Which terms.
        subject_kind: Whether it is for one account, or for all of an organization.
        subject_id: Id of the account or organization.
        person: Who accepted or withdrew.
        authority: What gave the person the right; empty where an account speaks for itself.
        method: How it reached the provider (`tos_guard.types.AcceptanceMethod`; a later version of ours may know more words).
        identified_by: How it is known who the person was (`tos_guard.types.Identification`; likewise).
        exp: Last second in which an acceptance counts, or None.
        acceptance: Of a withdrawal, the id of the acceptance.
        reason: Of a withdrawal, why, as they say; may be empty.
    """

    iss: str
    iat: int
    jti: str
    event: ReceiptEvent
    at: int
    terms: ReceiptTerms
    subject_kind: SubjectKind
    subject_id: str
    person: str
    authority: str
    method: str
    identified_by: str
    exp: int | None = None
    acceptance: str | None = None
    reason: str = ""

    def to_payload(self) -> dict[str, Any]:
        """The claims as JSON members."""
        person = {"id": self.person} | ({"authority": self.authority} if self.authority else {})
        optional = {"exp": self.exp, "acceptance": self.acceptance, "reason": self.reason or None}
        return {
            "at": self.at,
            "event": self.event.value,
            "iat": self.iat,
            "identified_by": self.identified_by,
            "iss": self.iss,
            "jti": self.jti,
            "method": self.method,
            "person": person,
            "subject": {"id": self.subject_id, "kind": self.subject_kind.value},
            "terms": self.terms.to_members(),
            "ver": VERSION,
            **{name: value for name, value in optional.items() if value is not None},
        }

    @classmethod
    def from_payload(cls, payload: dict[str, Any], *, where: str) -> ReceiptClaims:
        """Read claims; their signature is the caller's concern.

        Raises:
            UnsupportedVersionError: Another version (R3).
            MalformedError: A claim is missing, has the wrong form or does not fit the others (R4–R6).
        """
        version = payload.get("ver")
        if type(version) is not int:
            raise MalformedError("ver is not an integer", where=where)
        if version != VERSION:
            raise UnsupportedVersionError(f"version {version} of the receipt format", where=where, cure="Use a newer verifier.")
        reader = ClaimReader(payload, where)
        subject = ClaimReader(reader.object("subject"), f"{where} subject")
        person = ClaimReader(reader.object("person"), f"{where} person")
        claims = cls(
            iss=reader.matching("iss", ORIGIN),
            iat=reader.integer("iat"),
            jti=reader.matching("jti", ID),
            event=reader.word("event", ReceiptEvent),
            at=reader.integer("at"),
            terms=_terms(reader.object("terms"), f"{where} terms"),
            subject_kind=subject.word("kind", SubjectKind),
            subject_id=subject.string("id", 1, MAX_NAME_CHARS),
            person=person.string("id", 1, MAX_NAME_CHARS),
            authority=person.string("authority", 1, MAX_AUTHORITY_CHARS) if "authority" in reader.object("person") else "",
            method=reader.string("method", 1, MAX_WORD_CHARS),
            identified_by=reader.string("identified_by", 1, MAX_WORD_CHARS),
            exp=reader.integer("exp") if "exp" in payload else None,
            acceptance=reader.matching("acceptance", ID) if "acceptance" in payload else None,
            reason=reader.string("reason", 1, MAX_REASON_CHARS) if "reason" in payload else "",
        )
        claims._check_fit(where)
        return claims

    def _check_fit(self, where: str) -> None:
        withdrawn = self.event is ReceiptEvent.WITHDRAWAL
        if (self.acceptance is not None) is not withdrawn or (self.reason and not withdrawn) or (self.exp is not None and withdrawn):
            raise MalformedError("acceptance and reason are of a withdrawal alone, exp of an acceptance", where=where)
        if self.subject_kind is SubjectKind.ORGANIZATION and not self.authority:
            raise MalformedError("is for an organization, and says not on whose authority", where=f"{where} person")
        if self.at > self.iat or (self.exp is not None and self.exp < self.at):
            raise MalformedError("at is later than iat or exp", where=where)


def _terms(members: dict[str, Any], where: str) -> ReceiptTerms:
    reader = ClaimReader(members, where)
    return ReceiptTerms(
        series=reader.string("series"),
        version=reader.string("version"),
        uri=reader.string("uri"),
        locale=reader.string("locale"),
        sha256=reader.digest("sha256"),
        text_sha256=reader.digest("text_sha256"),
    )


@dataclass(frozen=True, slots=True)
class UnverifiedReceipt:
    """A well-formed JWS of the receipts' typ. Nothing it says has been checked."""

    jws: UnverifiedJWS

    @property
    def unverified_issuer(self) -> object:
        """What the receipt says about who issued it."""
        return self.jws.payload.get("iss")

    def verify_with(self, key: KeyRecord, *, where: str = "receipt") -> ReceiptClaims:
        """Check the signature with *key*, then read the claims (T6, T7, R3–R6).

        Raises:
            SignatureError: No match, or another algorithm.
            UnsupportedVersionError: A version we do not read.
            MalformedError: A claim is missing, has the wrong form or does not fit the others.
        """
        key.verify(self.jws.algorithm, self.jws.signing_input, self.jws.signature, where=where)
        return ReceiptClaims.from_payload(self.jws.payload, where=where)


def parse_receipt(text: str, *, where: str = "receipt") -> UnverifiedReceipt:
    """Read a receipt's form (T1–T4 with its own typ, R1).

    Raises:
        MalformedError: It is not a receipt.
    """
    return UnverifiedReceipt(parse_jws(text, typ=RECEIPT_TYP, where=where, max_chars=MAX_RECEIPT_CHARS))


def receipt_signing_input(claims: ReceiptClaims, key: KeyRecord) -> bytes:
    """The bytes to sign with a key of purpose ``receipt``; `tos_guard.keys.join_jws` then makes the receipt."""
    return encode_jws_signing_input(claims.to_payload(), algorithm=key.algorithm, kid=key.kid, typ=RECEIPT_TYP)
