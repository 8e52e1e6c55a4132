"""Proofs of possession (RFC 9449): the published ones are accepted, and whatever is changed in one is refused for its own reason."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop_kit import Holder
from tos_guard._canonical import b64url_decode, b64url_encode
from tos_guard.errors import ProofError
from tos_guard.rights import DPoPNonces, DPoPPolicy, DPoPProof, normal_uri, read_dpop_proof

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
URI = "https://api.example/v1/chat/completions"
PATH = "/v1/chat/completions"
TOKEN = "the-credential"
POLICY = DPoPPolicy(uris=("https://api.example",))
NONCES = DPoPNonces(b"s" * 32, lifetime=POLICY.nonce_lifetime)
HOLDER = Holder()


def read(text: str, *, method: str = "POST", path: str = PATH, now: datetime = NOW, **policy: Any) -> DPoPProof:
    given = DPoPPolicy(**({"uris": POLICY.uris} | policy))
    return read_dpop_proof(text, method=method, path=path, credential=TOKEN, policy=given, nonces=NONCES, now=now)


def proof(holder: Holder = HOLDER, **changes: Any) -> str:
    return holder.proof(TOKEN, uri=changes.pop("htu", URI), now=changes.pop("iat", NOW.timestamp()), **changes)


def fault(text: str, **options: Any) -> str:
    with pytest.raises(ProofError) as refused:
        read(text, **options)
    return refused.value.fault


def published(shared: Path) -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads((shared / "vectors" / "dpop" / "rfc9449.json").read_text("utf-8"))
    return vectors


def read_published(vectors: dict[str, Any], **changes: Any) -> DPoPProof:
    row = vectors["proofs"][1]
    options: dict[str, Any] = {
        "text": row["proof"],
        "method": "GET",
        "path": "/protectedresource",
        "credential": vectors["access_token_of_the_resource_example"],
        "now": datetime.fromtimestamp(row["payload"]["iat"] + 1, UTC),
        "policy": DPoPPolicy(uris=("https://resource.example.org",)),
        "nonces": NONCES,
    } | changes
    return read_dpop_proof(options.pop("text"), **options)


def test_the_published_proof_is_accepted_and_names_its_key(shared: Path) -> None:
    vectors = published(shared)
    assert read_published(vectors).is_of(vectors["cnf_jkt"])
    assert [row["jkt"] for row in vectors["proofs"]] == [vectors["cnf_jkt"]] * 2


def test_the_published_proof_without_a_credential_is_none_for_a_resource(shared: Path) -> None:
    """The first is for the token endpoint: it names no access token."""
    vectors = published(shared)
    row = vectors["proofs"][0]
    made = datetime.fromtimestamp(row["payload"]["iat"], UTC)
    with pytest.raises(ProofError) as refused:
        read_published(
            vectors, text=row["proof"], method="POST", path="/token", now=made, policy=DPoPPolicy(uris=("https://server.example.com",))
        )
    assert refused.value.fault == "malformed"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"method": "POST"}, "request"),
        ({"path": "/other"}, "request"),
        ({"policy": DPoPPolicy(uris=("https://other.example.org",))}, "request"),
        ({"credential": "another"}, "credential"),
        ({"now": datetime.fromtimestamp(1562262618 + 66, UTC)}, "time"),
        ({"now": datetime.fromtimestamp(1562262618 - 6, UTC)}, "time"),
    ],
)
def test_the_published_proof_is_for_its_own_request_credential_and_time(shared: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ProofError) as refused:
        read_published(published(shared), **changes)
    assert refused.value.fault == why


def test_each_changed_character_of_the_published_proof_is_found(shared: Path) -> None:
    vectors = published(shared)
    text: str = vectors["proofs"][1]["proof"]
    for position in range(len(text)):
        changed = text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :]
        with pytest.raises(ProofError):
            read_published(vectors, text=changed)


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "Ed25519", "RS256", "PS256"])
def test_asymmetric_algorithms_are_accepted(algorithm: str) -> None:
    holder = Holder(algorithm)
    assert read(proof(holder)).thumbprint == holder.thumbprint


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"typ": "JWT"}, "malformed"),
        ({"typ": "at+jwt"}, "malformed"),
        ({"typ": None}, "malformed"),
        ({"typ": 1}, "malformed"),
        ({"alg": "none"}, "signature"),
        ({"alg": "HS256"}, "signature"),
        ({"alg": "RS256"}, "signature"),
        ({"alg": None}, "malformed"),
        ({"jwk": None}, "malformed"),
        ({"jwk": {"kty": "oct", "k": "c2VjcmV0LXRoYXQtZXZlcnlib2R5LWtub3dzLTMyLWJ5dGVz", "alg": "HS256"}}, "malformed"),
        ({"jwk": Holder().jwk}, "signature"),
        ({"jwk": HOLDER.jwk | {"d": "AQAB"}}, "malformed"),
        ({"jwk": HOLDER.jwk | {"use": "enc"}}, "malformed"),
        ({"jwk": HOLDER.jwk | {"crv": "secp256k1"}}, "malformed"),
        ({"kid": "1"}, "malformed"),
        ({"crit": ["exp"]}, "malformed"),
        ({"jku": "https://attacker.example/keys"}, "malformed"),
    ],
)
def test_a_header_says_what_a_proof_says_and_no_more(header: dict[str, Any], why: str) -> None:
    assert fault(HOLDER.sign(HOLDER.claims(TOKEN, uri=URI, now=NOW.timestamp()), header=header)) == why


@pytest.mark.parametrize("name", ["jti", "htm", "htu", "iat", "ath"])
def test_no_claim_may_be_missing_or_of_another_kind(name: str) -> None:
    for value in (None, True, [], {}, "" if name != "iat" else -1, 1.5):
        claims = HOLDER.claims(TOKEN, uri=URI, now=NOW.timestamp()) | {name: value}
        if value is None:
            del claims[name]
        assert fault(HOLDER.sign(claims)) == "malformed", value


def test_a_proof_is_good_for_a_minute_and_a_little() -> None:
    for age, good in ((-5, True), (-6, False), (60, True), (65, True), (66, False)):
        text = proof(iat=NOW.timestamp() - age)
        if good:
            read(text)
        else:
            assert fault(text) == "time"


@pytest.mark.parametrize(
    "written",
    [
        "HTTPS://API.example:443/v1/chat/completions?x=1#y",
        "https://api.example/v1/%63hat/completions",
        "https://api.example/v1/chat/completions?",
    ],
)
def test_one_address_may_be_written_in_several_ways(written: str) -> None:
    read(proof(htu=written))


@pytest.mark.parametrize(
    "other",
    [
        "http://api.example/v1/chat/completions",
        "https://api.example:444/v1/chat/completions",
        "https://api.example.evil/v1/chat/completions",
        "https://api.example@evil/v1/chat/completions",
        "https://evil@api.example/v1/chat/completions",
        "https://api.example/v1/chat/completions/",
        "https://api.example/v1//chat/completions",
        "https://api.example/v1/chat/../chat/completions",
        "/v1/chat/completions",
        "https:///v1/chat/completions",
        "https://[::1/v1",
        "https://api.example:port/v1/chat/completions",
    ],
)
def test_another_address_is_another_request(other: str) -> None:
    assert fault(proof(htu=other)) == "request"


def test_an_address_may_have_a_path_of_its_own() -> None:
    read(proof(htu="https://api.example/eu/v1/chat/completions"), uris=("https://api.example/eu/",))
    assert fault(proof(), uris=("https://api.example/eu",)) == "request"


def test_a_nonce_of_ours_proves_when_a_proof_was_made_whatever_its_clock_says() -> None:
    made = NOW - timedelta(seconds=100)
    assert read(proof(nonce=NONCES.new(made), iat=0)).made_after == made
    assert read(proof()).made_after == NOW - timedelta(seconds=5)


@pytest.mark.parametrize("nonce", ["x", "é", "A" * 32, b64url_encode(b"\xff" * 24), b64url_encode(b"") + "AA"])
def test_a_nonce_that_is_none_of_ours_is_refused_and_asked_for(nonce: str) -> None:
    with pytest.raises(ProofError) as refused:
        read(proof(nonce=nonce))
    assert (refused.value.fault, refused.value.wants_nonce) == ("nonce", True)


def test_a_nonce_ends() -> None:
    text = proof(nonce=NONCES.new(NOW))
    read(text, now=NOW + timedelta(seconds=300))
    assert fault(text, now=NOW + timedelta(seconds=301)) == "nonce"
    assert fault(text, now=NOW - timedelta(seconds=61)) == "nonce"


def test_where_a_nonce_is_demanded_a_proof_without_one_is_asked_for_it() -> None:
    assert fault(proof(), require_nonce=True) == "nonce"
    read(proof(nonce=NONCES.new(NOW)), require_nonce=True)


def test_a_nonce_of_another_secret_is_not_ours() -> None:
    assert fault(proof(nonce=DPoPNonces(b"t" * 32, lifetime=timedelta(minutes=5)).new(NOW))) == "nonce"


def test_a_use_is_named_by_key_and_jti_alone() -> None:
    """ECDSA has two signatures for each, and JSON many texts: none of them makes a proof another one."""
    claims = HOLDER.claims(TOKEN, uri=URI, now=NOW.timestamp())
    first, again = HOLDER.sign(claims), HOLDER.sign({**claims, "more": 1})
    assert first != again
    assert read(first).use == read(again).use
    head, body, signature = first.split(".")
    r, s = b64url_decode(signature)[:32], int.from_bytes(b64url_decode(signature)[32:], "big")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    assert read(f"{head}.{body}.{b64url_encode(r + (order - s).to_bytes(32, 'big'))}").use == read(first).use
    assert read(Holder().sign(claims)).use != read(first).use


def test_a_proof_is_remembered_for_as_long_as_it_could_be_used_again() -> None:
    used = NOW
    last = NOW + POLICY.keep
    assert fault(proof(iat=(used + POLICY.leeway).timestamp()), now=last) == "time"
    assert fault(proof(nonce=NONCES.new(used + timedelta(seconds=60))), now=last + timedelta(milliseconds=1)) == "nonce"


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}", fullmatch=True))
def test_whatever_stands_in_the_field_is_refused_with_our_error(text: str) -> None:
    with pytest.raises(ProofError):
        read(text)


@given(st.text(max_size=40))
def test_an_address_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert normal_uri(text)


def test_a_policy_names_an_address_and_bounded_spans() -> None:
    for wrong in ({"uris": ()}, {"window": timedelta(0)}, {"window": timedelta(seconds=301)}, {"leeway": timedelta(seconds=61)}):
        with pytest.raises(ValueError):
            DPoPPolicy(**({"uris": ("https://api.example",)} | wrong))  # type: ignore[arg-type]
