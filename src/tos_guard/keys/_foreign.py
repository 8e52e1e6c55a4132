"""Keys and compact JWS of other parties: the bearer tokens of an identity provider (DESIGN D8).

Rules kept here:

- The algorithm is fixed when a key is read, and the header only repeats it.
- A header holds what we know and no more; ``crit``, ``b64``, ``jwk``, ``jku``, ``x5u`` and ``x5c`` are refused, so nothing in a token
  can name a key, an address, or another way to read it. There is no JSON serialisation.
- A key that breaks a rule makes its whole set unusable; a key for another purpose (encryption, a curve we do not read) is passed over.
- A secret never stands beside public keys: whoever confuses the two would take a public key for a secret.

PyJWT's algorithm objects check the signatures. It is imported at the first key, since it is slow to load (docs/adr/0002).
Claims, audiences and times of such tokens are the work of whoever calls this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from tos_guard._canonical import b64url_decode, encode_claims, parse_json, sha256_b64url
from tos_guard.errors import MalformedError, SignatureError, UnknownKeyError
from tos_guard.keys._jws import parse_object, split_compact
from tos_guard.keys._record import PRIVATE_MEMBERS, check_key_ops, ed25519_key

__all__ = ["ForeignJWS", "ForeignKey", "ForeignKeySet", "foreign_key", "jwk_thumbprint", "parse_foreign_jws", "parse_foreign_key_set"]

MAX_TOKEN_CHARS: Final = 8_192  # what common servers accept in one header field
MAX_HEADER_BYTES: Final = 2_048  # alg, kid, typ and two thumbprints take about 300
MAX_HEADER_DEPTH: Final = 1  # strings only
MAX_KID_CHARS: Final = 256
MAX_SET_BYTES: Final = 65_536
MAX_SET_DEPTH: Final = 8
MAX_KEYS: Final = 64
MIN_RSA_BITS: Final = 2_048  # RFC 7518 section 3.3
MAX_RSA_BITS: Final = 8_192  # one check then takes about a millisecond
RSA_EXPONENT: Final = 65_537

_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_HMAC_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_CURVES: Final = {"P-256": ("ES256", 32), "P-384": ("ES384", 48), "P-521": ("ES512", 66)}
_ED25519: Final = ("Ed25519", "EdDSA")  # one algorithm under its old and its new name (RFC 9864)
_KNOWN: Final = frozenset({*_RSA, *_HMAC_BYTES, *_ED25519, *(algorithm for algorithm, _ in _CURVES.values())})
_THUMBPRINT_MEMBERS: Final = {"RSA": ("e", "kty", "n"), "oct": ("k", "kty"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}

# CVE-2017-15361 (ROCA): a modulus of that library is a power of 65537 modulo each small prime. These 17 leave one honest key in 2^27.
_ROCA_PRIMES: Final = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)


@dataclass(frozen=True, slots=True)
class ForeignJWS:
    """A well-formed compact JWS of another party, whose signature nobody has checked.

    Attributes:
        header: Members of the header, all strings.
        unverified_payload: The bytes it claims to sign; `ForeignKeySet.verify` gives them once they are proven.
        signing_input: ASCII bytes that the signature covers.
        signature: Raw signature.
    """

    header: dict[str, str]
    unverified_payload: bytes
    signing_input: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A checked key of another party: one key, one algorithm.

    Attributes:
        kid: Its id, or None where its set gives none.
        algorithm: The algorithm it is for, whatever a header says.
        material: The public key, or the secret of an HMAC.
    """

    kid: str | None
    algorithm: str
    material: Any = field(repr=False)

    @property
    def is_secret(self) -> bool:
        """Whether whoever holds it can also sign."""
        return isinstance(self.material, bytes)

    def is_same_key(self, other: ForeignKey) -> bool:
        """Whether both are one key for one algorithm, whatever their ids."""
        return self.material == other.material and _is_one_algorithm(self.algorithm, other.algorithm)

    def verify(self, jws: ForeignJWS, *, where: str) -> bytes:
        """Check the signature.

        Returns:
            The payload, now proven to come from a holder of the key.

        Raises:
            SignatureError: Another algorithm, or no match.
        """
        named = jws.header["alg"]
        if not _is_one_algorithm(named, self.algorithm):
            raise SignatureError(f"algorithm {named[:24]!r} is not one this key is for", where=where)
        if not _algorithm(self.algorithm).verify(jws.signing_input, self.material, jws.signature):
            raise SignatureError("the signature does not match", where=where)
        return jws.unverified_payload


@dataclass(frozen=True, slots=True)
class ForeignKeySet:
    """Checked keys of one other party, no two with the same id, and either all secret or all public."""

    keys: tuple[ForeignKey, ...]

    def verify(self, jws: ForeignJWS, *, where: str = "bearer token") -> bytes:
        """Check a token's signature with the key it names, or with the only key where it names none.

        Returns:
            The proven payload. What it says is still to be judged.

        Raises:
            UnknownKeyError: No key has its id, or it names none and there are several.
            SignatureError: No match, or another algorithm than the key's.
        """
        kid = jws.header.get("kid")
        found = [key for key in self.keys if key.kid == kid] if kid is not None else list(self.keys)
        if len(found) != 1:
            raise UnknownKeyError("names no key of this set", where=where, cure="The key set may be older than the token.")
        return found[0].verify(jws, where=where)


def parse_foreign_jws(text: str, *, where: str = "bearer token", max_chars: int = MAX_TOKEN_CHARS) -> ForeignJWS:
    """Read a compact JWS of another party without believing it. The payload may be any bytes, none among them.

    Raises:
        MalformedError: Not such a JWS, or a header member that we do not know.
    """
    header_part, payload_part, signature_part = split_compact(text, where=where, max_chars=max_chars)
    header = parse_object(b64url_decode(header_part, where=f"{where} header"), f"{where} header", MAX_HEADER_BYTES, MAX_HEADER_DEPTH)
    if unknown := header.keys() - _HEADER_MEMBERS:
        raise MalformedError(f"holds {min(unknown)[:24]!r}, which we do not act on", where=f"{where} header")
    if "alg" not in header or not all(isinstance(value, str) for value in header.values()):
        raise MalformedError("alg is missing, or a member is not a string", where=f"{where} header")
    payload = b64url_decode(payload_part, where=f"{where} payload")
    signature = b64url_decode(signature_part, where=f"{where} signature")
    return ForeignJWS(header, payload, f"{header_part}.{payload_part}".encode("ascii"), signature)


def parse_foreign_key_set(data: bytes, *, where: str = "key set", assumed_algorithm: str | None = None) -> ForeignKeySet:
    """Read a JWK Set (RFC 7517) of another party.

    Args:
        data: The set as published.
        where: What it is, for the error.
        assumed_algorithm: The algorithm of RSA keys and secrets that name none, as configured for the party. By None they are refused.

    Raises:
        MalformedError: A key breaks a rule, none can be used, two have the same id, or a secret stands beside a public key.
    """
    document = parse_json(data, where=where, max_depth=MAX_SET_DEPTH, max_bytes=MAX_SET_BYTES)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYS:
        raise MalformedError(f"not an object with keys, an array of 1 to {MAX_KEYS}", where=where)
    found = [foreign_key(jwk, where=f"{where} key {position}", assumed_algorithm=assumed_algorithm) for position, jwk in enumerate(entries)]
    keys = tuple(key for key in found if key is not None)
    if not keys:
        raise MalformedError("no key in it can check a signature", where=where)
    if len({key.kid for key in keys}) != len(keys):
        raise MalformedError("two keys have the same kid, or none", where=where)
    if len({key.is_secret for key in keys}) != 1:
        raise MalformedError("a secret stands beside public keys", where=where)
    return ForeignKeySet(keys)


def foreign_key(jwk: Any, *, where: str, assumed_algorithm: str | None = None) -> ForeignKey | None:
    """Check one key of another party.

    Args:
        jwk: The key (RFC 7517).
        where: What it is, for the error.
        assumed_algorithm: The algorithm of an RSA key or secret that names none.

    Returns:
        The key, or None for a well-formed one that is not for signatures, or of a kind we do not read.

    Raises:
        MalformedError: It breaks a rule.
    """
    if not isinstance(jwk, dict):
        raise MalformedError("is not an object", where=where)
    kty, crv, kid = jwk.get("kty"), jwk.get("crv"), jwk.get("kid")
    for name in ("kty", "crv", "kid", "use", "alg"):
        if name in jwk and not isinstance(jwk[name], str):
            raise MalformedError(f"{name} is not a string", where=where)
    if kid is not None and not 1 <= len(kid) <= MAX_KID_CHARS:
        raise MalformedError(f"kid has not 1 to {MAX_KID_CHARS} characters", where=where)
    if leaked := (PRIVATE_MEMBERS - ({"k"} if kty == "oct" else set())) & jwk.keys():
        raise MalformedError(f"holds the private member {min(leaked)!r}", where=where, cure="Ask its owner to revoke it: it is known.")
    operations = check_key_ops(jwk, where)
    if jwk.get("use", "sig") != "sig" or (operations is not None and "verify" not in operations):
        return None
    algorithm = jwk.get("alg")
    if algorithm is not None and algorithm not in _KNOWN:
        return None
    if kty == "RSA":
        return ForeignKey(kid, _one_of(algorithm or assumed_algorithm, _RSA, where), _rsa(jwk, where))
    if kty == "oct":
        name = _one_of(algorithm or assumed_algorithm, _HMAC_BYTES, where)
        return ForeignKey(kid, name, _bytes(jwk, "k", where, at_least=_HMAC_BYTES[name]))
    if kty == "EC" and crv in _CURVES:
        name, size = _CURVES[crv]
        return ForeignKey(kid, _one_of(algorithm or name, (name,), where), _ec(jwk, crv, size, where))
    if kty == "OKP" and crv == "Ed25519":
        return ForeignKey(kid, _one_of(algorithm or "EdDSA", _ED25519, where), ed25519_key(_bytes(jwk, "x", where, exactly=32), where))
    if kty is None:
        raise MalformedError("kty is missing", where=where)
    return None


def _is_one_algorithm(one: str, other: str) -> bool:
    return one == other or (one in _ED25519 and other in _ED25519)


def _one_of(algorithm: str | None, fitting: Any, where: str) -> str:
    if algorithm is None:
        raise MalformedError("names no algorithm, and none is configured for it", where=where)
    if algorithm not in fitting:
        raise MalformedError(f"algorithm {algorithm[:24]!r} does not fit the key", where=where)
    return algorithm


def _bytes(jwk: dict[str, Any], name: str, where: str, *, at_least: int = 1, exactly: int | None = None) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise MalformedError(f"{name} is not a string", where=where)
    data = b64url_decode(value, where=f"{where} {name}")
    if len(data) < at_least or (exactly is not None and len(data) != exactly):
        raise MalformedError(f"{name} has {len(data)} bytes instead of {exactly or f'at least {at_least}'}", where=where)
    return data


def _rsa(jwk: dict[str, Any], where: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    data = _bytes(jwk, "n", where)
    n = int.from_bytes(data, "big")
    if data[0] == 0 or n % 2 == 0 or not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise MalformedError(f"n is not an odd number of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits without leading zeros", where=where)
    if int.from_bytes(_bytes(jwk, "e", where), "big") != RSA_EXPONENT:
        raise MalformedError(f"e is not {RSA_EXPONENT}", where=where)
    if all(n % p in {pow(RSA_EXPONENT, power, p) for power in range(p)} for p in _ROCA_PRIMES):
        raise MalformedError("n comes from a generator whose keys can be factored (CVE-2017-15361)", where=where)
    try:
        return RSAPublicNumbers(RSA_EXPONENT, n).public_key()
    except ValueError:
        raise MalformedError("n is no RSA modulus", where=where) from None


def _ec(jwk: dict[str, Any], crv: str, size: int, where: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[crv]
    x, y = (int.from_bytes(_bytes(jwk, name, where, exactly=size), "big") for name in ("x", "y"))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError:
        raise MalformedError(f"the {crv} point is not on the curve", where=where) from None


def jwk_thumbprint(jwk: dict[str, Any], *, where: str = "key") -> str:
    """RFC 7638 SHA-256 thumbprint of a key of any kind we read, base64url: what ``cnf.jkt`` names.

    Raises:
        MalformedError: Another kind, or a member it is made of is missing.
    """
    names = _THUMBPRINT_MEMBERS.get(str(jwk.get("kty")), ())
    members = {name: jwk.get(name) for name in names}
    if not names or not all(isinstance(value, str) and value.isascii() for value in members.values()):
        raise MalformedError("has not the members of a thumbprint", where=where)
    return sha256_b64url(encode_claims(members))


@cache
def _algorithm(name: str) -> Any:
    from jwt.algorithms import get_default_algorithms  # slow, and only needed here

    return get_default_algorithms()["EdDSA" if name in _ED25519 else name]
