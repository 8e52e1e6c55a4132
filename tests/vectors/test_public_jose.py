"""Public vectors for keys and JWS, from ``../shared/vectors``: Wycheproof, the JOSE cookbook, RFC 7638, RFC 7797, panva/jose.

Every row is checked. Where ``overrides.json`` contradicts a row, the override is what is checked, and that the row is still there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tos_guard._canonical import b64url_decode, b64url_encode, encode_claims
from tos_guard.errors import MalformedError, SignatureError, TosGuardError, VerificationError
from tos_guard.keys import KeyRecord, join_jws, parse_jwk, parse_key_set
from tos_guard.keys._foreign import jwk_thumbprint, parse_foreign_jws, parse_foreign_key_set
from tos_guard.provenance import parse_token

Rows = list[tuple[dict[str, Any], dict[str, Any]]]


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rows(path: Path) -> Rows:
    document = load(path)
    found = [(group, test) for group in document["testGroups"] for test in group["tests"]]
    assert len(found) == document["numberOfTests"]
    return found


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def accepts(jws: object, keys: bytes) -> bool:
    """Whether the token verifies under the set. Anything but success or our own error is a failure of the test."""
    text = jws if isinstance(jws, str) else json.dumps(jws)
    try:
        parse_foreign_key_set(keys).verify(parse_foreign_jws(text))
    except VerificationError:
        return False
    return True


def test_wycheproof_jws(shared: Path) -> None:
    """401 tokens: every valid one verifies, every invalid one is refused, and the 8 overridden ones as the override says."""
    folder = shared / "vectors" / "wycheproof"
    overrides = load(folder / "overrides.json")["json_web_signature"]
    refused_by_override = {346, 347, 350, 351, 372, 373}
    same_as_the_valid_357 = {367, 370}
    assert {int(number) for number in overrides} == refused_by_override | same_as_the_valid_357
    found = rows(folder / "json_web_signature_test.json")
    by_id = {test["tcId"]: test for _, test in found}
    wrong = []
    for group, test in found:
        number = test["tcId"]
        expected = test["result"] == "valid"
        if number in refused_by_override:
            assert expected
            expected = False
        elif number in same_as_the_valid_357:
            assert test["result"] == "invalid"
            assert test["jws"] == by_id[357]["jws"]
            expected = by_id[357]["result"] == "valid"
        if accepts(test["jws"], key_set(group.get("public") or group["private"])) is not expected:
            wrong.append((number, test["comment"]))
    assert wrong == []
    assert len(found) == 401


def test_wycheproof_jwk(shared: Path) -> None:
    """26 key sets: 5 verify; 21 do not, among them the mixed set, the duplicate id and the ROCA key that the overrides name."""
    folder = shared / "vectors" / "wycheproof"
    found = rows(folder / "json_web_key_test.json")
    for group, test in found:
        keys = json.dumps(group.get("public") or group["private"]).encode()
        assert accepts(test["jws"], keys) is (test["result"] == "valid"), (test["tcId"], test["comment"])
        if str(test["tcId"]) in load(folder / "overrides.json")["json_web_key"]:
            with pytest.raises(MalformedError):
                parse_foreign_key_set(keys)
    assert len(found) == 26


def test_private_jwks_of_wycheproof_are_refused_as_verification_keys(shared: Path) -> None:
    for group, _ in rows(shared / "vectors" / "wycheproof" / "json_web_signature_test.json"):
        if "public" in group and "d" in group.get("private", {}):
            with pytest.raises(MalformedError, match="private member"):
                parse_foreign_key_set(key_set(group["private"]))


def record(jwk: dict[str, Any]) -> KeyRecord:
    members: dict[str, Any] = {name: jwk[name] for name in ("crv", "kty", "x", "y") if name in jwk}
    kid = b64url_encode(hashlib.sha256(encode_claims(members)).digest())
    return parse_jwk({**members, "kid": kid, "purpose": "provenance", "use": "sig"}, where="vector")


def test_wycheproof_ed25519(shared: Path) -> None:
    """151 raw signatures: 88 verify under our key record, 63 do not."""
    found = rows(shared / "vectors" / "wycheproof" / "ed25519_test.json")
    for group, test in found:
        key = record(group["publicKeyJwk"])
        message, signature = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
        if test["result"] == "valid":
            key.verify("Ed25519", message, signature, where="vector")
        else:
            with pytest.raises(SignatureError):
                key.verify("Ed25519", message, signature, where="vector")
    assert len(found) == 151


def cookbook(shared: Path) -> list[tuple[str, dict[str, Any]]]:
    folder = shared / "vectors" / "jose-cookbook"
    paths = sorted([*(folder / "jws").iterdir(), *(folder / "curve25519").iterdir()])
    assert len(paths) == 9
    return [(path.name, load(path)) for path in paths]


def public_part(jwk: dict[str, Any]) -> dict[str, Any]:
    if jwk["kty"] == "oct":
        return jwk
    return {name: value for name, value in jwk.items() if name not in {"d", "p", "q", "dp", "dq", "qi"}}


def test_cookbook_compact_tokens_verify(shared: Path) -> None:
    """RFC 7520 section 4.1 to 4.5 and RFC 8037 A.4: each compact form verifies under its key, and gives back the payload."""
    verified = []
    for name, case in cookbook(shared):
        if "compact" not in case["output"]:
            continue
        keys = parse_foreign_key_set(key_set(public_part(case["input"]["key"])), assumed_algorithm=case["input"]["alg"])
        compact = case["output"]["compact"]
        payload = case["input"]["payload"].encode()
        if ".." in compact:  # 4.5: detached; the payload is put back before it is read, as RFC 7515 appendix F says
            with pytest.raises(SignatureError):
                keys.verify(parse_foreign_jws(compact))
            compact = compact.replace("..", f".{b64url_encode(payload)}.")
        assert keys.verify(parse_foreign_jws(compact)) == payload, name
        verified.append(name)
    assert len(verified) == 6


def test_json_serialisations_are_refused(shared: Path) -> None:
    """RFC 7520 section 4.6 to 4.8 exist only as JSON, and every general or flattened form is refused as no compact token."""
    count = 0
    for _, case in cookbook(shared):
        for form in ("json", "json_flat"):
            if form in case["output"]:
                count += 1
                with pytest.raises(MalformedError):
                    parse_foreign_jws(json.dumps(case["output"][form]))
    assert count == 17


def test_cookbook_keys(shared: Path) -> None:
    """RFC 7520 section 3: public keys and the signing secret load, private keys and the encryption secret do not."""
    expected = {
        "3_1.ec_public_key.json": True,
        "3_2.ec_private_key.json": False,
        "3_3.rsa_public_key.json": True,
        "3_4.rsa_private_key.json": False,
        "3_5.symmetric_key_mac_computation.json": True,
        "3_6.symmetric_key_encryption.json": False,
    }
    folder = shared / "vectors" / "jose-cookbook" / "jwk"
    found = {}
    for path in folder.iterdir():
        try:
            parse_foreign_key_set(key_set(load(path)), assumed_algorithm="RS256")
        except MalformedError:
            found[path.name] = False
        else:
            found[path.name] = True
    assert found == expected


def test_unencoded_payloads_are_refused_by_policy(shared: Path) -> None:
    """RFC 7797: ``b64`` and ``crit`` are not understood here, so all but the control are refused, however they are spelt."""
    folder = shared / "vectors" / "jose-cookbook"
    document = load(folder / "rfc7797.json")
    keys = parse_foreign_key_set(key_set(document["key"]), assumed_algorithm="HS256")
    control, *others = document["cases"]
    assert keys.verify(parse_foreign_jws(control["jws"])) == control["payload"].encode()
    assert len(others) == 4
    old_drafts = [load(path)["output"] for path in sorted((folder / "rfc7797").iterdir())]
    assert len(old_drafts) == 2
    outputs = [form for output in old_drafts for form in output.values()]
    for jws in [*(case["jws"] for case in others), *outputs]:
        with pytest.raises(MalformedError):
            parse_foreign_jws(jws if isinstance(jws, str) else json.dumps(jws))


def test_thumbprints(shared: Path) -> None:
    """RFC 7638 and RFC 8037 A.3: all 4, and the id our own keys must have is the same thumbprint."""
    cases = load(shared / "vectors" / "jose-cookbook" / "thumbprints.json")
    assert len(cases) == 4
    own = 0
    for case in cases:
        assert jwk_thumbprint(case["jwk"]) == case["sha256"], case["id"]
        if case["jwk"]["kty"] != "RSA":
            own += 1
            assert parse_jwk({**case["jwk"], "kid": case["sha256"], "purpose": "provenance"}, where="vector").kid == case["sha256"]
    assert own == 3


def test_malformed_sets_and_keys_give_no_key(shared: Path) -> None:
    """panva/jose: 8 malformed sets and 8 malformed key members, in sets of our own and of others."""
    document = load(shared / "vectors" / "jose-cookbook" / "panva-jwks-reject.json")
    assert (len(document["jwks_must_be_refused"]), len(document["key_must_not_match_es256"])) == (8, 8)
    base = document["base_key"]
    assert parse_foreign_key_set(key_set(base)).keys[0].algorithm == "ES256"
    own = {**base, "kid": jwk_thumbprint(base), "purpose": "provenance"}
    assert parse_key_set(key_set(own)).keys
    bad_sets = [json.dumps(value).encode() for value in document["jwks_must_be_refused"]]
    bad_keys = document["key_must_not_match_es256"]
    for data in [*bad_sets, *(key_set({**base, **member}) for member in bad_keys)]:
        with pytest.raises(MalformedError):
            parse_foreign_key_set(data)
    for data in [*bad_sets, *(key_set({**own, **member}) for member in bad_keys)]:
        with pytest.raises(MalformedError):
            parse_key_set(data)


def test_no_wycheproof_token_passes_our_own_parser(shared: Path) -> None:
    """They are tokens of another kind: each ends in our error, none in a crash."""
    for _, test in rows(shared / "vectors" / "wycheproof" / "json_web_signature_test.json"):
        text = test["jws"] if isinstance(test["jws"], str) else json.dumps(test["jws"])
        with pytest.raises(TosGuardError):
            parse_token(text)


def test_rfc_8037_signature_is_recreated_byte_for_byte(shared: Path) -> None:
    """The one reproducible vector of an algorithm that we sign with ourselves."""
    case = load(shared / "vectors" / "jose-cookbook" / "curve25519" / "jws.json")
    private = Ed25519PrivateKey.from_private_bytes(b64url_decode(case["input"]["key"]["d"]))
    signing_input = case["signing"]["sig-input"].encode()
    assert join_jws(signing_input, private.sign(signing_input)) == case["output"]["compact"]
