"""Receipts on the command line: verified with the terms and the text they are of, and told in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tos_guard._canonical import b64url_decode
from tos_guard.cli._arguments import read_input
from tos_guard.cli._judgement import TrustGiven
from tos_guard.cli._output import Line, mark, moment, plain
from tos_guard.cli._terms_files import text_beside
from tos_guard.errors import (
    EXIT_CODES,
    ConfigurationError,
    MalformedError,
    UndecidableError,
    UntrustedIssuerError,
    Verdict,
    VerificationError,
)
from tos_guard.terms._receipt import RECEIPT_TYP, ReceiptClaims, UnverifiedReceipt, parse_receipt
from tos_guard.types import SubjectKind
from tos_guard.verify import ExpectedReceipt, VerifiedReceipt, verify_receipt

__all__ = ["ReceiptOutcome", "ReceiptQuestion", "expected_receipt", "is_receipt", "judge_receipt", "read_terms"]

_MAX_FILE_BYTES: Final = 65_536  # far beyond any receipt, so that a wrong file is refused for its form and not echoed
_MAX_HEADER_CHARS: Final = 1_024

_SENTENCE: Final = {
    "malformed": "this is no receipt, or does not have the form that the format demands",
    "signature": "the receipt was changed, or was not made with the key it names",
    "content_mismatch": "the receipt is genuine, but not of these terms",
    "undecidable": "something needed to decide is missing",
    "unknown_key": "you trust the issuer, but not the key that this receipt names",
    "untrusted_issuer": "no key that you trust vouches for this receipt",
    "unsupported_version": "the receipt is of a version that this program does not read",
    "key_revoked": "the key that signed this receipt was revoked",
    "expired": "the receipt is genuine, but the acceptance no longer counts, or its key was not in use",
    "unacceptable": "the receipt is genuine, but does not say what you expect",
}
"""The first sentence, by code of the error."""

_CURE: Final[dict[Verdict, str]] = {
    "invalid": "Do not rely on it. Get the receipt again from whoever was given it, and the terms byte for byte as published.",
    "undecidable": "Pin the issuer's keys (--keys), from a source that you trust.",
    "unacceptable": "Nobody has changed it: check what you demanded, and as of which moment (--at).",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptQuestion:
    """A receipt to be verified, as it was given.

    Attributes:
        name: What it is called in answers.
        data: The bytes.
        terms: The terms document as published, or None.
        text: The text of the terms, or None.
        expected: What it is expected to say.
        at: The moment as of which it is judged.
    """

    name: str
    data: bytes
    terms: bytes | None
    text: bytes | None
    expected: ExpectedReceipt
    at: datetime


def is_receipt(data: bytes) -> bool:
    """Whether the bytes look like a receipt: a compact JWS whose header names the typ. Nothing is believed because of it."""
    header, dot, _ = data[:_MAX_FILE_BYTES].lstrip().partition(b".")
    if not dot or len(header) > _MAX_HEADER_CHARS:
        return False
    try:
        return f'"{RECEIPT_TYP}"'.encode() in b64url_decode(header.decode("ascii"))
    except (MalformedError, UnicodeDecodeError):
        return False


def read_terms(terms: str | None, text: str | None) -> tuple[bytes | None, bytes | None]:
    """The terms document as published and its text, from the files that were named. A TOML file brings the text beside it.

    Raises:
        ConfigurationError: A file cannot be read.
        TermsError: It is TOML, and no terms document.
    """
    document = None if terms is None else read_input(terms, what="--terms")
    words = None if text is None else read_input(text, what="--terms-text")
    if terms is None or document is None or Path(terms).suffix != ".toml":
        return document, words
    from tos_guard.terms import parse_terms

    beside = text_beside(Path(terms), document) if words is None else words
    return parse_terms(document, beside, where=terms).document_bytes, beside


def expected_receipt(subject: str | None, person: str | None) -> ExpectedReceipt:
    """What a receipt is expected to say, from the options.

    Raises:
        ConfigurationError: The subject is not ``account:ID`` or ``organization:ID``.
    """
    if subject is None:
        return ExpectedReceipt(person=person)
    kind, _, name = subject.partition(":")
    if kind not in tuple(SubjectKind) or not name:
        cure = "Write account:ID or organization:ID."
        raise ConfigurationError(f"{subject!r} is no subject", where="--subject", cure=cure)
    return ExpectedReceipt(subject_kind=SubjectKind(kind), subject_id=name, person=person)


def judge_receipt(question: ReceiptQuestion, given: TrustGiven) -> ReceiptOutcome:
    """Verify."""
    text = question.data[:_MAX_FILE_BYTES].decode("utf-8", "replace").strip()
    verified: VerifiedReceipt | None = None
    error: VerificationError | None = None
    try:
        verified = verify_receipt(
            text,
            trust=given.trust,
            now=question.at,
            terms_document=question.terms,
            terms_text=question.text,
            expected=question.expected,
        )
    except VerificationError as raised:
        error = given.refused if isinstance(raised, UntrustedIssuerError) and given.refused is not None else raised
    claimed = None
    if isinstance(error, UndecidableError):
        claimed = _claimed(text)
    return ReceiptOutcome(name=question.name, verified=verified, error=error, claimed=claimed)


def _claimed(text: str) -> UnverifiedReceipt | None:
    try:
        return parse_receipt(text)
    except MalformedError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptOutcome:
    """What the verification of a receipt came to.

    Attributes:
        name: What was verified: a path, or ``-``.
        verified: What was proven, or None.
        error: Why nothing was, or None.
        claimed: What the receipt says of itself where its key could not be checked. Not proven.
    """

    name: str
    verified: VerifiedReceipt | None
    error: VerificationError | None
    claimed: UnverifiedReceipt | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict."""
        return "valid" if self.error is None else self.error.verdict

    @property
    def exit_code(self) -> int:
        """The exit code of the verdict."""
        return EXIT_CODES[self.verdict]

    def to_document(self) -> dict[str, Any]:
        """The stable JSON form."""
        error = None
        if self.error is not None:
            cure = self.error.cure or _CURE.get(self.error.verdict, "")
            error = {"code": self.error.code, "what": self.error.what, "where": self.error.where, "cure": cure}
        proven = None if self.verified is None else {"kid": self.verified.kid, **self.verified.claims.to_payload()}
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "input": self.name,
            "form": "receipt",
            "proven": proven,
            "document_checked": self.verified is not None and self.verified.document_checked,
            "text_checked": self.verified is not None and self.verified.text_checked,
            "error": error,
            "unverified_claims": None if self.claimed is None else self.claimed.jws.payload,
        }

    def to_lines(self) -> list[str | Line]:
        """The words for people: a sentence, what was proven and what was not looked at, or what failed and what to do."""
        if self.verified is not None:
            return [
                *_sentence(f"{plain(self.verified.claims.iss)} attests this, and nothing in it has been changed", "valid"),
                *_told(self.verified),
            ]
        assert self.error is not None  # noqa: S101 - an outcome without proof has an error
        located = f"{self.error.where}: {self.error.what}" if self.error.where else self.error.what
        lines: list[str | Line] = _sentence(_SENTENCE.get(self.error.code, self.error.what), self.verdict)
        lines += ["Failed check", (f"  {mark(passed=False)}  {plain(located)}", "red")]
        lines += ["", "What to do", f"  {plain(self.error.cure or _CURE.get(self.error.verdict, ''))}"]
        if self.claimed is not None:
            lines += ["", "The receipt says of itself, NOT verified"]
            lines += [f"  {plain(name):<13}  {plain(value)}" for name, value in self.claimed.jws.payload.items()]
        return lines


def _sentence(words: str, verdict: Verdict) -> list[str | Line]:
    return [(f"{verdict.upper()}: {words}.", "bold green" if verdict == "valid" else "bold red"), ""]


def _told(verified: VerifiedReceipt) -> list[str | Line]:
    claims = verified.claims
    lines: list[str | Line] = ["Proven", *(f"  {name:<13}  {plain(value)}" for name, value in _facts(claims)), "", "Checked beside it"]
    for checked, what, option in (
        (verified.document_checked, "the terms document", "--terms"),
        (verified.text_checked, "the text", "--terms-text"),
    ):
        lines.append(
            (f"  {mark(passed=True)}  {what} is the one", "green") if checked else f"  not looked at: {what} (give it with {option})"
        )
    if claims.acceptance is None:
        lines += ["", "Notes", "  Whether it was withdrawn later, a receipt cannot tell: ask the issuer, or look for one of a withdrawal."]
    return lines


def _facts(claims: ReceiptClaims) -> list[tuple[str, object]]:
    withdrawn = claims.acceptance is not None
    facts: list[tuple[str, object]] = [
        ("what", f"withdrawal of {claims.acceptance}" if withdrawn else "acceptance"),
        ("id", claims.jti),
        ("when", moment(claims.at)),
        ("terms", f"{claims.terms.series}, version {claims.terms.version} ({claims.terms.locale}), {claims.terms.uri}"),
        ("for", f"{claims.subject_kind} {claims.subject_id}"),
        ("by", claims.person),
        ("how", f"{claims.method}; the person was identified by: {claims.identified_by}"),
    ]
    optional = (("authority", claims.authority), ("until", moment(claims.exp)), ("reason", claims.reason))
    return [*facts, *((name, value) for name, value in optional if value)]
