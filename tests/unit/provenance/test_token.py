"""The token (docs/spec/token.md T1–T11): its form, and its claims once its key has been checked."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from fuzz import seeds
from tos_guard._canonical import b64url_decode, b64url_encode
from tos_guard.errors import MalformedError, SignatureError, UnsupportedVersionError
from tos_guard.keys import join_jws
from tos_guard.provenance import MAX_TOKEN_CHARS, Claims, Content, parse_token, request_mac, token_signing_input
from tos_guard.types import Completion

CONTENT = Content.of("chat-1", [(0, "text", "A" * 43)])
FINAL = seeds.claims(CONTENT)
PENDING = seeds.claims(None)
GOOD = seeds.token(CONTENT)


def payload(claims: Claims = FINAL, /, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**claims.to_payload(), **changes}.items() if value is not ...}


def read(members: dict[str, Any]) -> Claims:
    return Claims.from_payload(members, where="token")


def test_a_token_reads_back_as_it_was_signed() -> None:
    for claims in (
        FINAL,
        PENDING,
        seeds.claims(CONTENT, aud="a", nonce="n", exp=1, grant="g", status={}, ledger={"origin": "o", "size": 1, "root": "A" * 43}),
    ):
        signing_input = token_signing_input(claims, seeds.KEY)
        token = join_jws(signing_input, seeds.sign(seeds.KEY, signing_input))
        assert parse_token(token).verify_with(seeds.KEY) == claims


def test_the_header_has_exactly_the_documented_bytes() -> None:
    header = b64url_decode(token_signing_input(FINAL, seeds.KEY).decode().split(".")[0])
    assert header == f'{{"alg":"Ed25519","kid":"{seeds.KEY.kid}","typ":"ai-provenance+jwt"}}'.encode()


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "..",
            GOOD + ".x",
            GOOD.rsplit(".", 1)[0],
            GOOD.rsplit(".", 1)[0] + ".",
            "." + GOOD.split(".", 1)[1],
            GOOD + "é",
            GOOD + "\n",
        ),
        *(GOOD + "=", GOOD.replace(".", "..", 1), GOOD[:-1] + "=", GOOD[:20] + " " + GOOD[20:], "A" * (MAX_TOKEN_CHARS + 1)),
    ],
)
def test_t1_t2_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_token(text)


def with_header(header: object) -> str:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return seeds.compact(data, json.dumps(payload()).encode(), seeds.KEY)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"crit": ["exp"]},
            {"b64": False},
            {"jku": "https://evil.example"},
            {"jwk": {}},
            {"x5u": "u"},
            {"x5c": []},
            {"cty": "x"},
            {"extra": 1},
        ),
        *(
            {"alg": ...},
            {"kid": ...},
            {"typ": ...},
            {"alg": 1},
            {"kid": None},
            {"kid": ["a"]},
            {"typ": "JWT"},
            {"typ": "AI-Provenance+JWT"},
            {"typ": 1},
        ),
    ],
)
def test_t4_the_header_has_three_members_and_our_typ(changes: dict[str, Any]) -> None:
    header = {name: value for name, value in {**seeds.header_of(seeds.KEY), **changes}.items() if value is not ...}
    with pytest.raises(MalformedError):
        parse_token(with_header(header))


def test_t4_holds_for_a_header_that_was_read_before() -> None:
    """Headers are remembered, and only good ones: a bad one is refused each time, and under each typ."""
    bad = with_header({**seeds.header_of(seeds.KEY), "crit": []})
    for _ in range(2):
        assert parse_token(GOOD).jws.kid == seeds.KEY.kid
        with pytest.raises(MalformedError):
            parse_token(bad)
    from tos_guard.keys import parse_jws

    with pytest.raises(MalformedError, match="typ"):
        parse_jws(GOOD, typ="ai-key-history+jwt", where="history", max_chars=10_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"1",
        b'{"a":1.5}',
        b'{"a":1e2}',
        b'{"a":NaN}',
        b'{"a":1,"a":1}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 8 + b"]" * 8 + b"}",
    ],
)
def test_t3_the_payload_is_strict_json(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_token(seeds.compact(json.dumps(seeds.header_of(seeds.KEY)).encode(), data, seeds.KEY))


def test_t6_t7_another_key_or_signature() -> None:
    token = parse_token(GOOD)
    for key in (seeds.EC_KEY, seeds.HISTORY_KEY):
        with pytest.raises(SignatureError):
            token.verify_with(key)
    head, body, _ = GOOD.split(".")
    with pytest.raises(SignatureError):
        parse_token(f"{head}.{body}.{b64url_encode(bytes(64))}").verify_with(seeds.KEY)


@pytest.mark.parametrize("version", [0, 2, -1, 2**53 - 1])
def test_t8_another_version_is_undecidable(version: int) -> None:
    with pytest.raises(UnsupportedVersionError):
        read(payload(ver=version))


@pytest.mark.parametrize("version", ["1", True, None, [1], ...])
def test_t8_what_is_no_version_is_malformed(version: Any) -> None:
    with pytest.raises(MalformedError):
        read(payload(ver=version))


ALWAYS = ["iss", "iat", "jti", "rid", "sub", "stage", "model", "dst", "terms", "usage", "req"]


@pytest.mark.parametrize("name", ALWAYS)
def test_t9_claims_that_must_be_there(name: str) -> None:
    with pytest.raises(MalformedError):
        read(payload(FINAL, **{name: ...}))


@pytest.mark.parametrize("value", [None, True, [], {}, 1.5, ["x"]])
@pytest.mark.parametrize("name", [*ALWAYS, "aud", "nonce", "exp", "grant", "completion", "content"])
def test_t9_claims_of_another_type(name: str, value: Any) -> None:
    with pytest.raises(MalformedError):
        read(payload(**{name: value}))


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"iss": "api.example.com"},
            {"iss": "http://api.example.com"},
            {"iss": "https://api.example.com/"},
            {"iss": "https://API.example.com"},
        ),
        *(
            {"iss": "https://u@example.com"},
            {"iss": "https://example.com:x"},
            {"iss": "https://example.com\n"},
            {"iss": ""},
            {"iss": "https://"},
        ),
        *({"jti": ""}, {"jti": "a" * 65}, {"jti": "a b"}, {"rid": "é"}, {"rid": "a\n"}, {"sub": "a/b"}, {"sub": ""}),
        *(
            {"model": ""},
            {"model": "m" * 97},
            {"stage": "FINAL"},
            {"stage": "done"},
            {"completion": "ok"},
            {"req": "A" * 42},
            {"req": "A" * 42 + "B"},
        ),
        *(
            {"nonce": ""},
            {"nonce": "n" * 129},
            {"exp": "1"},
            {"iat": True},
            {"terms": {"uri": "u", "version": "v"}},
            {"status": []},
            {"ledger": {}},
        ),
        *(
            {"terms": {"uri": 1, "version": "v", "sha256": "A" * 43}},
            {"terms": {"uri": "u", "version": "v", "sha256": "A" * 43, "receipt": 1}},
        ),
        *(
            {"usage": {"sha256": "A" * 43, "clauses": ["a"] * 9, "content_usage": ""}},
            {"usage": {"sha256": "A" * 43, "clauses": [1], "content_usage": ""}},
        ),
        {"ledger": {"origin": "o", "size": 1, "root": "A" * 43, "index": "0"}},
    ],
    ids=str,
)
def test_t9_claims_of_another_form(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        read(payload(**changes))


@pytest.mark.parametrize(
    "issuer",
    ["https://a.example", "https://a.example:8443", "https://[2001:db8::1]", "http://localhost:8000", "http://127.0.0.1", "http://[::1]:1"],
)
def test_t9_issuers_that_are_origins(issuer: str) -> None:
    assert read(payload(iss=issuer)).iss == issuer


def test_t10_a_pending_token_has_no_content_and_a_final_one_has() -> None:
    assert read(payload(PENDING)).content is None
    for members in (
        payload(PENDING, stage="final"),
        payload(PENDING, content=CONTENT.to_claim()),
        payload(PENDING, completion="complete"),
        payload(stage="pending"),
        payload(content=...),
        payload(completion=...),
    ):
        with pytest.raises(MalformedError, match="token must"):
            read(members)


def test_unknown_claims_are_ignored() -> None:
    assert read(payload(future={"a": [1]}, x="y")) == FINAL


@pytest.mark.parametrize("completion", list(Completion))
def test_every_completion_reads_back(completion: Completion) -> None:
    assert read(payload(completion=completion.value)).completion is completion


def test_the_request_is_bound_by_an_hmac_under_the_salt() -> None:
    assert request_mac(b"salt", b"body") == b64url_encode(hmac.digest(b"salt", b"body", hashlib.sha256))
    assert request_mac(b"salt", b"body") != request_mac(b"tlas", b"body")
