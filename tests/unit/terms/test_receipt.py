"""Receipts: what is written is what was accepted, and stays within what every verifier reads."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tos_guard._canonical import b64url_decode, b64url_encode, canonical_json
from tos_guard.errors import AccountError, ContentMismatchError, MalformedError, SignatureError, UnacceptableError, VerificationError
from tos_guard.keys import KeySet, join_jws, record_of
from tos_guard.terms import (
    Acceptance,
    ReceiptClaims,
    ReceiptEvent,
    new_acceptance,
    new_withdrawal,
    parse_receipt,
    parse_terms,
    receipt_signing_input,
)
from tos_guard.types import AcceptanceMethod, Identification, KeyPurpose, SubjectKind
from tos_guard.verify import ExpectedReceipt, Trust, VerifiedReceipt, verify_receipt

ISSUER = "https://api.example.com"
NOW = datetime(2026, 11, 22, 12, 0, 0, 500_000, tzinfo=UTC)
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
KEY = record_of(PRIVATE.public_key(), KeyPurpose.RECEIPT, not_before=int(NOW.timestamp()) - 1_000)
TRUST = Trust.of(KeySet(ISSUER, (KEY,)))
TEXT = b"# Terms\n\nDisputes within 30 days.\n"
TERMS = parse_terms(
    b"""[terms]
version = "2026-11"
title = "Terms"
uri = "https://api.example.com/.well-known/ai-provenance/terms/2026-11"
text = "terms.md"
effective = 2026-11-01
acceptance = "required"
locale = "en-GB"
[[clause]]
id = "use"
effect = "permit"
action = "generate"
""",
    TEXT,
)


def acceptance(**over: object) -> Acceptance:
    members: dict[str, object] = {
        "issuer": ISSUER,
        "subject_kind": SubjectKind.ORGANIZATION,
        "subject_id": "acme-corp",
        "accepted_by": "jane@acme.example",
        "authority": "general counsel",
        "method": AcceptanceMethod.ACCOUNT_ROUTE,
        "identified_by": Identification.BEARER,
        "now": NOW,
        "entropy": lambda size: b"\x07" * size,
        **over,
    }
    return new_acceptance(TERMS, **members)  # type: ignore[arg-type]


def withdrawn(made: Acceptance, **over: object) -> Acceptance:
    members: dict[str, object] = {
        "withdrawn_by": "john@acme.example",
        "authority": "director",
        "method": AcceptanceMethod.CLI,
        "identified_by": Identification.ADMINISTRATOR,
        "now": NOW + timedelta(days=1),
        "entropy": lambda size: b"\x08" * size,
        "reason": "The contract ended.",
        **over,
    }
    return made.with_withdrawal(new_withdrawal(made, **members))  # type: ignore[arg-type]


def signed(claims: ReceiptClaims) -> str:
    message = receipt_signing_input(claims, KEY)
    return join_jws(message, PRIVATE.sign(message))


def verified(receipt: str, **more: object) -> VerifiedReceipt:
    return verify_receipt(receipt, trust=TRUST, now=NOW + timedelta(days=2), **more)  # type: ignore[arg-type]


def test_a_receipt_says_what_was_accepted_by_whom_for_whom_on_whose_authority_how_and_when() -> None:
    made = acceptance(expires=NOW + timedelta(days=30))
    claims = verified(signed(made.to_receipt(now=NOW))).claims
    assert (claims.iss, claims.jti, claims.event) == (ISSUER, made.id, ReceiptEvent.ACCEPTANCE)
    assert (claims.subject_kind, claims.subject_id, claims.person, claims.authority) == (
        SubjectKind.ORGANIZATION,
        "acme-corp",
        "jane@acme.example",
        "general counsel",
    )
    assert (claims.method, claims.identified_by) == ("account-route", "bearer")
    assert (claims.terms.version, claims.terms.sha256, claims.terms.text_sha256) == ("2026-11", TERMS.sha256, TERMS.text_sha256)
    assert (claims.terms.series, claims.terms.uri, claims.terms.locale) == ("general", TERMS.uri, "en-GB")
    assert claims.at == claims.iat == int(NOW.timestamp())
    assert claims.exp == claims.at + 30 * 86_400


def test_a_receipt_is_proved_with_its_terms_at_hand() -> None:
    proof = verified(signed(acceptance().to_receipt(now=NOW)), terms_document=TERMS.document_bytes, terms_text=TEXT)
    assert (proof.document_checked, proof.text_checked, proof.kid) == (True, True, KEY.kid)
    assert verified(proof.receipt, terms_text=TEXT.decode()).text_checked
    assert not verified(proof.receipt).document_checked


def test_a_withdrawal_has_a_receipt_of_its_own() -> None:
    made = withdrawn(acceptance())
    assert made.withdrawal is not None
    claims = verified(signed(made.to_withdrawal_receipt(now=NOW + timedelta(days=1)))).claims
    assert (claims.event, claims.jti, claims.acceptance) == (ReceiptEvent.WITHDRAWAL, made.withdrawal.id, made.id)
    assert (claims.person, claims.authority, claims.reason) == ("john@acme.example", "director", "The contract ended.")
    assert claims.terms == made.to_receipt(now=NOW).terms
    assert (claims.method, claims.identified_by, claims.exp) == ("cli", "administrator", None)
    assert claims.at == int((NOW + timedelta(days=1)).timestamp())


def test_what_is_not_withdrawn_has_no_such_receipt() -> None:
    with pytest.raises(AccountError, match="not withdrawn"):
        acceptance().to_withdrawal_receipt(now=NOW)


def test_an_organization_takes_back_on_an_authority_too() -> None:
    with pytest.raises(AccountError, match="authority"):
        withdrawn(acceptance(), authority="")


def test_claims_are_read_as_they_were_written() -> None:
    for made in (acceptance(), acceptance(subject_kind=SubjectKind.ACCOUNT, authority=""), acceptance(expires=NOW + timedelta(days=1))):
        claims = made.to_receipt(now=NOW)
        assert ReceiptClaims.from_payload(claims.to_payload(), where="receipt") == claims
    claims = withdrawn(acceptance(), reason="").to_withdrawal_receipt(now=NOW + timedelta(days=1))
    assert "reason" not in claims.to_payload()
    assert ReceiptClaims.from_payload(claims.to_payload(), where="receipt") == claims


def test_header_and_payload_are_written_as_rfc_8785() -> None:
    header, payload, _ = signed(acceptance().to_receipt(now=NOW)).split(".")
    for part in (header, payload):
        data = b64url_decode(part)
        assert canonical_json(json.loads(data)) == data
    assert json.loads(b64url_decode(header)) == {"alg": "Ed25519", "kid": KEY.kid, "typ": "ai-terms-receipt+jwt"}


def test_the_longest_record_makes_a_receipt_that_every_verifier_reads() -> None:
    widest = "\U0001f600"
    made = acceptance(subject_id=widest * 128, accepted_by=widest * 128, authority=widest * 200)
    made = withdrawn(made, withdrawn_by=widest * 128, authority=widest * 200, reason=widest * 500)
    receipt = signed(made.to_withdrawal_receipt(now=NOW + timedelta(days=1)))
    assert len(receipt) <= 6_300
    assert verified(receipt).claims.reason == widest * 500


@pytest.mark.parametrize("character", ["\x00", "\x1f", "\x7f", "\ud800", "\n"])
def test_a_name_that_a_receipt_cannot_hold_is_refused(character: str) -> None:
    for member in ("subject_id", "accepted_by", "authority"):
        with pytest.raises(AccountError, match=member):
            acceptance(**{member: f"a{character}"})


def test_another_document_text_or_expectation_is_named() -> None:
    receipt = signed(acceptance().to_receipt(now=NOW))
    with pytest.raises(ContentMismatchError, match="another text") as caught:
        verified(receipt, terms_text=TEXT.replace(b"30", b"60"))
    assert caught.value.where == "terms text"
    with pytest.raises(ContentMismatchError, match="another terms document") as caught:
        verified(receipt, terms_document=TERMS.document_bytes.replace(b"permit", b"oblige"))
    assert caught.value.where == "terms document"
    for expected, where in (
        (ExpectedReceipt(person="john@acme.example"), "receipt person"),
        (ExpectedReceipt(subject_id="acme"), "receipt subject id"),
        (ExpectedReceipt(subject_kind=SubjectKind.ACCOUNT), "receipt subject kind"),
        (ExpectedReceipt(at=int(NOW.timestamp()) - 1), "receipt at"),
        (ExpectedReceipt(version="2026-12"), "receipt terms version"),
        (ExpectedReceipt(event="withdrawal"), "receipt event"),
    ):
        with pytest.raises(UnacceptableError) as unexpected:
            verified(receipt, expected=expected)
        assert unexpected.value.where == where


def test_a_receipt_that_says_other_than_the_document_it_names_is_found() -> None:
    claims = acceptance().to_receipt(now=NOW)
    for member, value in (
        ("series", "contract-7"),
        ("version", "1"),
        ("uri", "https://b.example"),
        ("locale", "de"),
        ("text_sha256", TERMS.sha256),
    ):
        forged = replace(claims, terms=replace(claims.terms, **{member: value}))
        with pytest.raises(ContentMismatchError) as caught:
            verified(signed(forged), terms_document=TERMS.document_bytes)
        assert caught.value.where == f"receipt terms {member}"


def test_every_flipped_bit_of_a_receipt_is_found() -> None:
    """Its text, its date, its names, its signature: nothing can be changed unseen."""
    receipt = signed(acceptance().to_receipt(now=NOW))
    assert verified(receipt)
    for position in range(len(receipt)):
        for bit in (0, 3, 6):
            changed = receipt[:position] + chr(ord(receipt[position]) ^ (1 << bit)) + receipt[position + 1 :]
            with pytest.raises(VerificationError):
                verified(changed)


def test_a_name_or_date_changed_in_the_claims_breaks_the_signature() -> None:
    header, _, signature = signed(acceptance().to_receipt(now=NOW)).split(".")
    claims = acceptance().to_receipt(now=NOW)
    for changed in (
        replace(claims, person="john@acme.example"),
        replace(claims, subject_id="acme"),
        replace(claims, authority="chief executive"),
        replace(claims, at=claims.at - 1),
        replace(claims, terms=replace(claims.terms, text_sha256=TERMS.sha256)),
    ):
        with pytest.raises(SignatureError):
            verified(f"{header}.{b64url_encode(canonical_json(changed.to_payload()))}.{signature}")


def test_a_key_of_tokens_signs_no_receipt() -> None:
    other = record_of(PRIVATE.public_key(), KeyPurpose.PROVENANCE)
    message = receipt_signing_input(acceptance().to_receipt(now=NOW), other)
    with pytest.raises(VerificationError) as caught:
        verify_receipt(join_jws(message, PRIVATE.sign(message)), trust=Trust.of(KeySet(ISSUER, (other,))), now=NOW)
    assert caught.value.verdict == "undecidable"


def test_a_token_is_no_receipt() -> None:
    header = b64url_encode(canonical_json({"alg": "Ed25519", "kid": KEY.kid, "typ": "ai-provenance+jwt"}))
    payload = b64url_encode(canonical_json(acceptance().to_receipt(now=NOW).to_payload()))
    with pytest.raises(MalformedError, match="typ is not"):
        parse_receipt(f"{header}.{payload}.{b64url_encode(PRIVATE.sign(f'{header}.{payload}'.encode()))}")
