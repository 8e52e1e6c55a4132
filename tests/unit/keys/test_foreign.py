"""Keys and tokens of other parties: what may select a key, what may name an algorithm, and what is refused unread."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from fuzz import seeds
from tos_guard._canonical import b64url_encode
from tos_guard.errors import MalformedError, SignatureError, UnknownKeyError
from tos_guard.keys._foreign import ForeignKeySet, jwk_thumbprint, parse_foreign_jws, parse_foreign_key_set

RSA_KEY = rsa.generate_private_key(65_537, 2_048)
SECRET = bytes(range(64))
CURVES: dict[str, tuple[Any, Any, str]] = {
    "P-256": (ec.SECP256R1(), SHA256(), "ES256"),
    "P-384": (ec.SECP384R1(), SHA384(), "ES384"),
    "P-521": (ec.SECP521R1(), SHA512(), "ES512"),
}


def number(value: int, size: int | None = None) -> str:
    return b64url_encode(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def rsa_jwk(**changes: Any) -> dict[str, Any]:
    return changed({"kty": "RSA", "n": number(RSA_KEY.public_key().public_numbers().n), "e": "AQAB", "kid": "r", "alg": "RS256"}, changes)


def secret_jwk(**changes: Any) -> dict[str, Any]:
    return changed({"kty": "oct", "k": b64url_encode(SECRET), "kid": "s", "alg": "HS256"}, changes)


def ed_jwk(**changes: Any) -> dict[str, Any]:
    return changed({"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(seeds.KEY.coordinates[0]), "kid": "e"}, changes)


def ec_jwk(private: ec.EllipticCurvePrivateKey, crv: str, **changes: Any) -> dict[str, Any]:
    numbers = private.public_key().public_numbers()
    size = (private.key_size + 7) // 8
    return changed({"kty": "EC", "crv": crv, "x": number(numbers.x, size), "y": number(numbers.y, size), "kid": "c"}, changes)


def changed(jwk: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**jwk, **changes}.items() if value is not ...}


def key_set(*keys: dict[str, Any], assumed: str | None = None) -> ForeignKeySet:
    return parse_foreign_key_set(json.dumps({"keys": keys}).encode(), assumed_algorithm=assumed)


def signing_input(header: dict[str, Any], payload: bytes = b'{"sub":"u"}') -> bytes:
    return f"{b64url_encode(json.dumps(header).encode())}.{b64url_encode(payload)}".encode()


def hs(header: dict[str, Any], name: str = "sha256", secret: bytes = SECRET) -> str:
    data = signing_input(header)
    return f"{data.decode()}.{b64url_encode(hmac.digest(secret, data, name))}"


def ed(header: dict[str, Any]) -> str:
    data = signing_input(header)
    return f"{data.decode()}.{b64url_encode(seeds.ED25519.sign(data))}"


def test_importing_the_keys_does_not_import_pyjwt() -> None:
    code = "import sys, tos_guard.keys, tos_guard.keys._foreign; sys.exit('jwt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("crv", CURVES)
def test_elliptic_curve_tokens_verify_and_their_curve_fixes_the_algorithm(crv: str) -> None:
    curve, digest, algorithm = CURVES[crv]
    private = ec.generate_private_key(curve)
    data = signing_input({"alg": algorithm, "kid": "c"})
    size = (private.key_size + 7) // 8
    r, s = decode_dss_signature(private.sign(data, ec.ECDSA(digest)))
    token = f"{data.decode()}.{b64url_encode(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"
    keys = key_set(ec_jwk(private, crv))
    assert keys.keys[0].algorithm == algorithm
    assert keys.verify(parse_foreign_jws(token)) == b'{"sub":"u"}'
    der = f"{data.decode()}.{b64url_encode(private.sign(data, ec.ECDSA(digest)))}"
    with pytest.raises(SignatureError):
        keys.verify(parse_foreign_jws(der))
    with pytest.raises(MalformedError, match="does not fit"):
        key_set(ec_jwk(private, crv, alg="RS256"))


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_an_rsa_key_is_for_one_algorithm(algorithm: str) -> None:
    digest = {"256": SHA256(), "384": SHA384(), "512": SHA512()}[algorithm[2:]]
    pad: Any = padding.PKCS1v15() if algorithm[0] == "R" else padding.PSS(padding.MGF1(digest), digest.digest_size)
    data = signing_input({"alg": algorithm, "kid": "r"})
    token = f"{data.decode()}.{b64url_encode(RSA_KEY.sign(data, pad, digest))}"
    assert key_set(rsa_jwk(alg=algorithm)).verify(parse_foreign_jws(token))
    assert key_set(rsa_jwk(alg=...), assumed=algorithm).verify(parse_foreign_jws(token))
    for other in {"RS256", "PS256", "RS512"} - {algorithm}:
        with pytest.raises(SignatureError, match="algorithm"):
            key_set(rsa_jwk(alg=other)).verify(parse_foreign_jws(token))


@pytest.mark.parametrize("n", [2**2_047 + 1, 3**1_300, 2**2_048 - 1, 2**4_095 + 3])
@pytest.mark.parametrize("algorithm", ["RS256", "PS512"])
def test_odd_signatures_under_odd_moduli_do_not_match_and_do_not_crash(n: int, algorithm: str) -> None:
    keys = key_set(rsa_jwk(n=number(n), alg=algorithm))
    size = (n.bit_length() + 7) // 8
    data = signing_input({"alg": algorithm, "kid": "r"}).decode()
    for signature in (b"\0", bytes(size), b"\xff" * size, b"\1" * (size - 1), b"\1" * size, b"\1" * (size + 1), number(n - 1).encode()):
        with pytest.raises(SignatureError, match="does not match"):
            keys.verify(parse_foreign_jws(f"{data}.{b64url_encode(signature)}"))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_secrets_verify(algorithm: str) -> None:
    token = hs({"alg": algorithm, "kid": "s"}, f"sha{algorithm[2:]}")
    keys = key_set(secret_jwk(alg=algorithm))
    assert keys.verify(parse_foreign_jws(token))
    assert "bytes" not in repr(keys)
    assert repr(SECRET)[2:20] not in repr(keys)
    wrong = hs({"alg": algorithm, "kid": "s"}, f"sha{algorithm[2:]}", hashlib.sha256(b"other").digest())
    with pytest.raises(SignatureError):
        keys.verify(parse_foreign_jws(wrong))


@pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("written", [..., "EdDSA", "Ed25519"])
def test_both_names_of_ed25519_are_one_algorithm(name: str, written: Any) -> None:
    assert key_set(ed_jwk(alg=written)).verify(parse_foreign_jws(ed({"alg": name, "kid": "e"})))


def test_a_public_key_is_never_a_secret() -> None:
    """The classic confusion: HS256 under the bytes of a public key."""
    token = hs({"alg": "HS256", "kid": "e"}, secret=seeds.KEY.coordinates[0])
    with pytest.raises(SignatureError, match="algorithm"):
        key_set(ed_jwk()).verify(parse_foreign_jws(token))
    with pytest.raises(MalformedError, match="secret stands beside"):
        key_set(ed_jwk(), secret_jwk())


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "nOnE", "HS256", "RS256", "ES256", "ES521", "A128KW", "dir"])
def test_the_header_does_not_choose_the_algorithm(algorithm: str) -> None:
    with pytest.raises(SignatureError, match="algorithm"):
        key_set(ed_jwk()).verify(parse_foreign_jws(ed({"alg": algorithm, "kid": "e"})))


@pytest.mark.parametrize(
    "members",
    [
        *({"crit": ["exp"]}, {"crit": []}, {"b64": True}, {"b64": False, "crit": ["b64"]}, {"jwk": {"kty": "oct", "k": "AA"}}),
        *(
            {"jku": "https://evil.example"},
            {"x5u": "https://evil.example"},
            {"x5c": ["AA"]},
            {"zip": "DEF"},
            {"enc": "A128GCM"},
            {"cty": "JWT"},
        ),
        *({"kid": 1}, {"kid": None}, {"kid": ["e"]}, {"typ": 1}, {"typ": None}, {"alg": None}, {"alg": 1}, {"alg": ["EdDSA"]}, {"x5t": {}}),
    ],
)
def test_header_members_that_we_do_not_act_on_are_refused(members: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        parse_foreign_jws(ed({"alg": "EdDSA", "kid": "e", **members}))


def test_headers_of_common_providers_pass() -> None:
    for more in ({"typ": "at+jwt"}, {"typ": "JWT", "x5t": "AAAA"}, {"x5t#S256": "AAAA"}):
        assert key_set(ed_jwk()).verify(parse_foreign_jws(ed({"alg": "EdDSA", "kid": "e", **more})))


GOOD = ed({"alg": "EdDSA", "kid": "e"})


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "...", "a.b", "a.b.c.d", GOOD + ".", "." + GOOD, GOOD + "=", GOOD + "\n", " " + GOOD, GOOD.replace(".", ". ", 1)),
        *(GOOD.rsplit(".", 1)[0], GOOD.rsplit(".", 1)[0] + ".", "." + GOOD.split(".", 1)[1], GOOD + "é", "é" + GOOD, GOOD[:-1] + "?"),
        json.dumps({"payload": GOOD.split(".")[1], "protected": GOOD.split(".")[0], "signature": GOOD.split(".")[2]}),
        json.dumps({"payload": GOOD.split(".")[1], "signatures": [{"protected": GOOD.split(".")[0], "signature": GOOD.split(".")[2]}]}),
        "A" * 9_000 + ".A.A",
    ],
)
def test_what_is_no_compact_jws_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_foreign_jws(text)


@pytest.mark.parametrize(
    "header",
    [
        *(b"", b"[]", b"1", b"null", b'"alg"', b"{}", b'{"kid":"e"}', b'\xef\xbb\xbf{"alg":"EdDSA"}', '{"alg":"EdDSA"}'.encode("utf-16")),
        *(
            b'{"alg":"EdDSA","alg":"EdDSA"}',
            b'{"alg":"EdDSA","\\u0061lg":"none"}',
            b'{"alg":"EdDSA","kid":"\\ud800"}',
            b'{"alg":"EdDSA","kid":NaN}',
        ),
        b'{"alg":"EdDSA","kid":"' + b"a" * 3_000 + b'"}',
    ],
)
def test_headers_are_strict_json(header: bytes) -> None:
    data = f"{b64url_encode(header)}.{b64url_encode(b'x')}".encode()
    with pytest.raises(MalformedError):
        parse_foreign_jws(f"{data.decode()}.{b64url_encode(seeds.ED25519.sign(data))}")


def test_a_payload_may_be_any_bytes_and_is_given_only_once_proven() -> None:
    for payload in (b"", b"\xff\x00", b'{"a":1}'):
        data = signing_input({"alg": "EdDSA", "kid": "e"}, payload)
        jws = parse_foreign_jws(f"{data.decode()}.{b64url_encode(seeds.ED25519.sign(data))}")
        assert jws.unverified_payload == key_set(ed_jwk()).verify(jws) == payload


def test_a_token_names_its_key_or_there_is_only_one() -> None:
    other = {"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(seeds.HISTORY_KEY.coordinates[0]), "kid": "other"}
    nameless = ed({"alg": "EdDSA"})
    assert key_set(ed_jwk()).verify(parse_foreign_jws(nameless))
    assert key_set(ed_jwk(kid=...)).verify(parse_foreign_jws(nameless))
    for keys, token in (
        (key_set(ed_jwk(), other), nameless),
        (key_set(ed_jwk(kid=...)), GOOD),
        (key_set(other), GOOD),
        (key_set(ed_jwk(kid="E")), GOOD),
    ):
        with pytest.raises(UnknownKeyError):
            keys.verify(parse_foreign_jws(token))


@pytest.mark.parametrize(
    "keys",
    [
        [ed_jwk(), ed_jwk()],
        [ed_jwk(kid=...), rsa_jwk(kid=...)],
        [ed_jwk(), rsa_jwk(kid="e")],
        [ed_jwk(kid="")],
        [ed_jwk(kid="k" * 257)],
        [ed_jwk(d="AA")],
        [rsa_jwk(d="AA")],
        [rsa_jwk(use="enc", p="AA")],
        [ed_jwk(x=...)],
        [ed_jwk(x=1)],
        [ed_jwk(x="AA")],
        [ed_jwk(x=b64url_encode(bytes(32)))],
        [ed_jwk(kty=...)],
        [ed_jwk(kty=1)],
        [ed_jwk(alg="ES256")],
        [ed_jwk(use=0)],
        [ed_jwk(key_ops=None)],
        [secret_jwk(alg=...)],
        [secret_jwk(k=...)],
        [secret_jwk(k="")],
        [secret_jwk(k=b64url_encode(SECRET[:31]))],
        [secret_jwk(k=b64url_encode(SECRET[:47]), alg="HS384")],
        [secret_jwk(k=b64url_encode(SECRET[:63]), alg="HS512")],
        [secret_jwk(alg="RS256")],
        [rsa_jwk(alg=...)],
        [rsa_jwk(alg="HS256")],
        [rsa_jwk(e="AQ")],
        [rsa_jwk(e="Aw")],
        [rsa_jwk(e=...)],
        [rsa_jwk(n=number(2**2047))],
        [rsa_jwk(n=number(2**1024 - 159))],
        [rsa_jwk(n=number(2**8200 - 1))],
        [rsa_jwk(n="AA" + rsa_jwk()["n"])],
        [1],
        [],
        [ed_jwk()] * 65,
    ],
)
def test_a_set_with_such_keys_is_refused(keys: list[Any]) -> None:
    with pytest.raises(MalformedError):
        key_set(*keys)


@pytest.mark.parametrize(
    "passed_over",
    [
        rsa_jwk(kid="x", use="enc", alg="RSA-OAEP"),
        rsa_jwk(kid="x", key_ops=["encrypt"]),
        rsa_jwk(kid="x", alg="RSA1_5"),
        {"kty": "OKP", "crv": "X25519", "x": "AA", "kid": "x"},
        {"kty": "OKP", "crv": "Ed448", "x": "AA", "kid": "x"},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "x"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "kid": "x"},
    ],
)
def test_keys_for_another_purpose_are_passed_over_and_never_selected(passed_over: dict[str, Any]) -> None:
    keys = key_set(passed_over, ed_jwk())
    assert [key.kid for key in keys.keys] == ["e"]
    with pytest.raises(MalformedError, match="no key in it"):
        key_set(passed_over)


def test_keys_from_the_roca_generator_are_refused() -> None:
    """A modulus that is a power of 65537 modulo each small prime, as that generator makes them."""
    product = 1
    for prime in (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157):
        product *= prime
    n = pow(65_537, 12_345, product) + product * (1 << 1_950 | 1)
    n += product * ((2**2_047 - n) // product + 1)
    assert n.bit_length() == 2_048
    with pytest.raises(MalformedError, match="CVE-2017-15361"):
        key_set(rsa_jwk(n=number(n)))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b'{"keys":{}}', b'{"keys":null}', b"{" * 100, b'{"keys":[],"keys":[]}', b" " * 70_000]
)
def test_what_is_no_key_set_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_foreign_key_set(data)


@pytest.mark.parametrize("jwk", [{}, {"kty": "RSA"}, {"kty": "x"}, {"kty": ["RSA"]}, {"kty": "OKP", "crv": "Ed25519", "x": "é"}])
def test_a_thumbprint_needs_its_members(jwk: dict[str, Any]) -> None:
    with pytest.raises(MalformedError, match="thumbprint"):
        jwk_thumbprint(jwk)
