"""Key sets (docs/spec/keys.md K1–K9): each rule refused when broken, and the set with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fuzz import seeds
from tos_guard._canonical import b64url_encode
from tos_guard.errors import ExpiredError, KeyRevokedError, MalformedError, SignatureError
from tos_guard.keys import KeySet, parse_jwk, parse_key_set, record_of, thumbprint
from tos_guard.types import KeyPurpose

P = 2**255 - 19
Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
LOW_ORDER = [0, 1, P - 1, Y8, P - Y8]


def document(*keys: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"keys": list(keys), **members}).encode()


def jwk(**changes: Any) -> dict[str, Any]:
    members = {**seeds.KEY.to_jwk(), **changes}
    return {name: value for name, value in members.items() if value is not ...}


def okp(x: bytes) -> dict[str, Any]:
    """A key whose id fits its material, so that only the material is wrong."""
    return {"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(x), "kid": thumbprint("OKP", (x,)), "purpose": "provenance"}


def test_a_set_reads_back_as_it_was_written() -> None:
    assert parse_key_set(seeds.KEYS.to_bytes()) == seeds.KEYS


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"[]",
            b"null",
            b"{}",
            b'{"keys":{}}',
            b'{"keys":[]}',
            b'{"keys":[1]}',
            b'{"keys":[null]}',
            b'{"keys":[[]]}',
            b'{"keys":null}',
        ),
        document(jwk(), issuer=1),
        document(*[jwk()] * 65),
        document(jwk(pad="x" * 70_000)),
        document(jwk(extra=1.5)),
        document(jwk(extra=2**53)),
        document(jwk()).replace(b'"kty"', b'"kty":"OKP","kty"', 1),
    ],
)
def test_k1_the_set_itself(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_key_set(data)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"kty": "RSA"},
            {"kty": "EC"},
            {"crv": "P-256"},
            {"crv": "Ed448"},
            {"crv": "X25519"},
            {"kty": ...},
            {"crv": ...},
            {"kty": ["OKP"]},
        ),
        *({"x": ...}, {"x": 1}, {"x": ""}, {"x": "AA"}, {"x": seeds.KEY.to_jwk()["x"] + "="}, {"x": seeds.KEY.to_jwk()["x"][:-1]}),
    ],
)
def test_k2_material_of_another_kind_or_length(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        parse_key_set(document(jwk(**changes)))


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", LOW_ORDER)
def test_k3_points_of_low_order_are_refused_in_every_spelling(y: int, sign: int) -> None:
    """Under such a key one signature verifies for every message."""
    spellings = [y, y + P] if y + P < 2**255 else [y]
    for spelling in spellings:
        x = (spelling | sign << 255).to_bytes(32, "little")
        with pytest.raises(MalformedError, match=r"low order|canonically"):
            parse_jwk(okp(x), where="key")


def test_k3_points_off_the_curve_are_refused() -> None:
    refused = 0
    for number in range(2, 60):
        x = number.to_bytes(32, "little")
        try:
            parse_jwk(okp(x), where="key")
        except MalformedError as error:
            assert "not on the curve" in error.what  # noqa: PT017 - about half of all numbers are points
            refused += 1
    assert 15 < refused < 45


def test_k3_a_p256_point_must_lie_on_its_curve() -> None:
    good = seeds.EC_KEY.to_jwk()
    x, y = seeds.EC_KEY.coordinates
    wrong = bytes([y[0] ^ 1]) + y[1:]
    with pytest.raises(MalformedError, match="not on the curve"):
        parse_jwk({**good, "y": b64url_encode(wrong), "kid": thumbprint("EC", (x, wrong))}, where="key")
    zero = bytes(32)
    with pytest.raises(MalformedError, match="not on the curve"):
        parse_jwk({**good, "x": b64url_encode(zero), "y": b64url_encode(zero), "kid": thumbprint("EC", (zero, zero))}, where="key")


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_k4_private_members_are_refused_and_the_error_says_to_revoke(member: str) -> None:
    with pytest.raises(MalformedError, match="revoke"):
        parse_key_set(document(jwk(**{member: "AA"})))


@pytest.mark.parametrize(
    "changes",
    [
        *({"use": "enc"}, {"use": 1}, {"use": None}, {"use": ["sig"]}),
        *({"key_ops": []}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"key_ops": None}, {"key_ops": ["verify", "verify"]}),
        *({"key_ops": ["verify", 1]}, {"key_ops": {"verify": 1}}, {"key_ops": [["verify"]]}),
        *({"alg": "ES256"}, {"alg": "none"}, {"alg": "HS256"}, {"alg": 0}, {"alg": None}, {"alg": ["EdDSA"]}, {"alg": "eddsa"}),
    ],
)
def test_k5_a_key_that_is_not_for_verifying_our_signatures(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        parse_key_set(document(jwk(**changes)))


@pytest.mark.parametrize(
    "changes", [{"use": ...}, {"key_ops": ["verify"]}, {"key_ops": ["sign", "verify"]}, {"alg": "EdDSA"}, {"alg": "Ed25519"}]
)
def test_k5_what_it_allows_passes(changes: dict[str, Any]) -> None:
    assert parse_key_set(document(jwk(**changes))).keys


@pytest.mark.parametrize("kid", [..., "", "a", 1, None, seeds.HISTORY_KEY.kid, seeds.KEY.kid + "=", seeds.KEY.kid.lower()])
def test_k6_the_id_is_the_thumbprint(kid: Any) -> None:
    with pytest.raises(MalformedError, match="thumbprint"):
        parse_key_set(document(jwk(kid=kid)))


def test_k6_two_keys_alike_are_refused() -> None:
    with pytest.raises(MalformedError, match="same kid"):
        parse_key_set(document(jwk(), jwk(purpose="key-history")))


@pytest.mark.parametrize("purpose", [..., "", "Provenance", "token", 1, None, ["provenance"], {"provenance": 1}])
def test_k7_the_purpose_is_one_of_ours(purpose: Any) -> None:
    with pytest.raises(MalformedError, match="purpose"):
        parse_key_set(document(jwk(purpose=purpose)))


@pytest.mark.parametrize("changes", [{"nbf": "1"}, {"exp": 1.0}, {"revoked": True}, {"nbf": []}, {"reason": "stolen"}, {"reason": 1}])
def test_times_and_reasons_have_their_form(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        parse_key_set(document(jwk(**changes)))


def test_one_bad_key_makes_the_whole_set_unusable() -> None:
    with pytest.raises(MalformedError, match="key 1"):
        parse_key_set(document(seeds.HISTORY_KEY.to_jwk(), jwk(use="enc")))


def test_k8_a_token_is_of_the_time_of_its_key() -> None:
    key = seeds.KEY.with_times(not_before=100, not_after=200)
    for issued_at in (100, 150, 200):
        key.check_time(issued_at, where="token")
    for issued_at in (99, 201):
        with pytest.raises(ExpiredError):
            key.check_time(issued_at, where="token")


@pytest.mark.parametrize("reason", [None, "compromised"])
def test_k9_a_compromised_key_proves_nothing_at_any_date(reason: Any) -> None:
    key = seeds.KEY.with_times(revoked=200, reason=reason)
    for issued_at in (seeds.IAT - 500, 199, 201):
        with pytest.raises(KeyRevokedError):
            key.check_time(issued_at, where="token")


def test_k9_a_superseded_key_keeps_what_it_signed_before() -> None:
    key = record_of(seeds.ED25519.public_key(), KeyPurpose.PROVENANCE).with_times(revoked=200, reason="superseded")
    key.check_time(199, where="token")
    for issued_at in (200, 201):
        with pytest.raises(KeyRevokedError):
            key.check_time(issued_at, where="token")


def test_a_key_is_found_only_for_its_purpose() -> None:
    assert seeds.KEYS.find(seeds.KEY.kid, KeyPurpose.PROVENANCE) == seeds.KEY
    assert seeds.KEYS.find(seeds.KEY.kid, KeyPurpose.KEY_HISTORY) is None
    assert seeds.KEYS.find("unknown", KeyPurpose.PROVENANCE) is None


def test_merging_puts_newer_records_in_place_of_older_ones() -> None:
    revoked = seeds.KEY.with_times(revoked=1)
    merged = seeds.KEYS.merged([revoked])
    assert merged.find(seeds.KEY.kid, KeyPurpose.PROVENANCE) == revoked
    assert len(merged.keys) == len(seeds.KEYS.keys)
    assert seeds.KEYS.find(seeds.KEY.kid, KeyPurpose.PROVENANCE) == seeds.KEY


@pytest.mark.parametrize("algorithm", ["ES256", "none", "", "HS256", "eddsa", "Ed448", "EdDSA "])
def test_the_key_and_not_the_header_says_the_algorithm(algorithm: str) -> None:
    signature = seeds.ED25519.sign(b"message")
    with pytest.raises(SignatureError, match="algorithm"):
        seeds.KEY.verify(algorithm, b"message", signature, where="token")
    seeds.KEY.verify("EdDSA", b"message", signature, where="token")


@pytest.mark.parametrize("key", [seeds.KEY, seeds.EC_KEY], ids=["Ed25519", "ES256"])
def test_signatures_of_another_length_message_or_key_do_not_match(key: Any) -> None:
    signature = seeds.sign(key, b"message")
    key.verify(key.algorithm, b"message", signature, where="token")
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64), b"\xff" * 64, signature[32:] + signature[:32]):
        with pytest.raises(SignatureError):
            key.verify(key.algorithm, b"message", wrong, where="token")
    with pytest.raises(SignatureError):
        key.verify(key.algorithm, b"massage", signature, where="token")
    other = record_of(Ed25519PrivateKey.from_private_bytes(b"\x09" * 32).public_key(), KeyPurpose.PROVENANCE)
    with pytest.raises(SignatureError):
        other.verify("EdDSA", b"message", signature, where="token")


def test_sets_compare_by_value_and_records_by_what_they_publish() -> None:
    again = parse_key_set(seeds.KEYS.to_bytes())
    assert again == seeds.KEYS
    assert again.keys[0] != again.keys[0].with_times(revoked=5)
    assert KeySet(None, ()).to_document() == {"keys": []}
    assert len({*again.keys, *seeds.KEYS.keys}) == len(again.keys)
