"""Claims of others' access tokens: what RFC 9068 demands, whom they name, and that nothing else gets through."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from authorization_server import AUDIENCE, NOW, AuthorizationServer
from tos_guard.errors import AuthenticationError, BearerError, BearerFault
from tos_guard.rights import (
    UNBOUND,
    BearerIdentity,
    BearerPolicy,
    Binding,
    check_bearer_type,
    parse_api_key,
    read_bearer_claims,
    unverified_issuer,
)

SERVER = AuthorizationServer()
PRESENT = datetime.fromtimestamp(NOW, UTC)


def read(claims: dict[str, Any] | bytes, now: datetime = PRESENT, **policy: Any) -> BearerIdentity:
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return read_bearer_claims(payload, SERVER.policy(**policy), now)


def fault(claims: dict[str, Any] | bytes, now: datetime = PRESENT, **policy: Any) -> BearerFault:
    with pytest.raises(BearerError) as refused:
        read(claims, now, **policy)
    return refused.value.fault


def test_the_claims_name_the_account_and_all_else_that_is_known() -> None:
    identity = read(
        SERVER.claims(org="acme-corp", user="u-7", act_for="Ada", tenant="a-1"),
        account_claim="tenant",
        account_prefix="login:",
        organization_claim="org",
        end_user_claim="user",
        person_claim="act_for",
    )
    assert identity == BearerIdentity(
        issuer="https://login.example.com/",
        account_id="login:a-1",
        subject="acme",
        client_id="batch-runner",
        organization="acme-corp",
        end_user="u-7",
        person="Ada",
        scopes=frozenset({"generate", "classify"}),
        not_before=datetime.fromtimestamp(NOW - 60, UTC),
        expires=datetime.fromtimestamp(NOW + 540, UTC),
        jti="t-1",
    )


def test_what_a_token_does_not_say_of_organization_and_people_is_not_known() -> None:
    identity = read(SERVER.claims(), organization_claim="org", end_user_claim="user", person_claim="act_for")
    assert (identity.account_id, identity.organization, identity.end_user, identity.person) == ("acme", None, None, None)


@pytest.mark.parametrize("typ", ["at+jwt", "application/at+jwt"])
def test_an_access_token_says_so(typ: str) -> None:
    check_bearer_type({"typ": typ})


@pytest.mark.parametrize(
    "typ",
    [
        None,
        "",
        "JWT",
        "jwt",
        "AT+JWT",
        "at+jwt ",
        "at-jwt",
        "dpop+jwt",
        "logout+jwt",
        "ai-provenance+jwt",
        "application/jwt",
        "secevent+jwt",
    ],
)
def test_a_token_of_another_kind_names_nobody(typ: str | None) -> None:
    with pytest.raises(BearerError) as refused:
        check_bearer_type({} if typ is None else {"typ": typ})
    assert refused.value.fault == "type"


@pytest.mark.parametrize("name", ["sub", "aud", "client_id", "iat", "exp", "jti"])
@pytest.mark.parametrize("value", [..., None, True, False, [], {}, "", 1.5, -1], ids=repr)
def test_each_claim_that_is_required_is_there_and_of_its_kind(name: str, value: Any) -> None:
    assert fault(SERVER.claims(**{name: value})) in {"claims", "malformed", "audience"}


@pytest.mark.parametrize("name", ["iat", "exp", "nbf"])
@pytest.mark.parametrize("value", [str(NOW), f"{NOW}.0", True, None, [NOW], 10**15, -1])
def test_a_time_is_an_integer_and_nothing_that_looks_like_one(name: str, value: Any) -> None:
    assert fault(SERVER.claims(**{name: value})) == "claims"


@pytest.mark.parametrize("text", ["1.0", "1e3", "1e400", "NaN", "Infinity", "-Infinity", "9" * 4_000, "9" * 5_000, str(2**53), "01", "0x1"])
def test_no_other_number_gets_past_the_reader(text: str) -> None:
    payload = json.dumps(SERVER.claims(exp="@")).replace('"@"', text).encode()
    assert fault(payload) == "malformed"


@pytest.mark.parametrize(
    "iss",
    [
        ...,
        None,
        "",
        1,
        "https://login.example.com",
        "https://LOGIN.example.com/",
        "https://login.example.com//",
        "https://login.example.com/ ",
    ],
)
def test_the_issuer_is_ours_to_the_byte(iss: Any) -> None:
    assert fault(SERVER.claims(iss=iss)) == "issuer"


@pytest.mark.parametrize("aud", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]])
def test_one_of_several_audiences_is_enough(aud: Any) -> None:
    assert read(SERVER.claims(aud=aud)).account_id == "acme"


@pytest.mark.parametrize(
    ("aud", "expected"),
    [
        *(("https://api.example.org", "audience"), (AUDIENCE + "/", "audience"), (AUDIENCE.upper(), "audience"), (["other"], "audience")),
        *(([AUDIENCE, 1], "claims"), ([AUDIENCE, None], "claims"), ([[AUDIENCE]], "claims"), ({AUDIENCE: 1}, "claims")),
        ([AUDIENCE] * 33, "claims"),
    ],
)
def test_a_token_for_another_service_does_not_open_ours(aud: Any, expected: str) -> None:
    assert fault(SERVER.claims(aud=aud)) == expected


@pytest.mark.parametrize(
    ("changes", "late", "expected"),
    [
        ({}, 569, None),
        ({}, 570, "expired"),
        ({"exp": NOW - 30}, 0, "expired"),
        ({"exp": NOW - 29}, 0, None),
        ({"iat": NOW + 30}, 0, None),
        ({"iat": NOW + 31}, 0, "early"),
        ({"nbf": NOW + 30}, 0, None),
        ({"nbf": NOW + 31}, 0, "early"),
        ({"nbf": NOW + 31}, 1, None),
        ({"nbf": 0}, 0, None),
        ({}, -3_600, "early"),
        ({}, 3_600, "expired"),
        ({"iat": NOW - 60, "exp": NOW - 60 + 86_400}, 0, None),
        ({"iat": NOW - 60, "exp": NOW - 59 + 86_400}, 0, "lifetime"),
        ({"exp": 253_402_300_799}, 0, "lifetime"),
        ({"iat": 0}, 0, "lifetime"),
        ({"exp": NOW - 60}, 0, "lifetime"),
        ({"exp": NOW - 61}, 0, "lifetime"),
    ],
)
def test_a_token_is_good_between_its_times_and_not_made_for_ever(changes: dict[str, Any], late: int, expected: str | None) -> None:
    claims, now = SERVER.claims(**changes), PRESENT + timedelta(seconds=late)
    if expected is None:
        assert read(claims, now).account_id == "acme"
    else:
        assert fault(claims, now) == expected


@pytest.mark.parametrize("scope", [..., "", "classify", "generate", "Generate classify", "generate-classify"])
def test_every_scope_that_is_demanded_is_there(scope: Any) -> None:
    assert fault(SERVER.claims(scope=scope), scopes=frozenset({"generate", "classify"})) == "scope"


@pytest.mark.parametrize("scope", [["generate"], 1, None, " generate", "generate  classify", "generate\tclassify", 'gen"erate', "généré"])
def test_scopes_are_one_text_of_words(scope: Any) -> None:
    assert fault(SERVER.claims(scope=scope)) == "claims"


def test_a_token_says_what_it_is_bound_to() -> None:
    thumbprint = "A" * 43
    assert read(SERVER.claims()).binding == UNBOUND
    assert not UNBOUND
    assert read(SERVER.claims(cnf={"jkt": thumbprint})).binding == Binding(jkt=thumbprint)
    assert read(SERVER.claims(cnf={"x5t#S256": thumbprint})).binding == Binding(x5t=thumbprint)
    assert read(SERVER.claims(cnf={"jkt": thumbprint, "x5t#S256": "B" * 43})).binding == Binding(jkt=thumbprint, x5t="B" * 43)


@pytest.mark.parametrize(
    "cnf", [{}, None, "A", ["jkt"], {"jkt": None}, {"jkt": "A" * 42}, {"jkt": "A" * 43, "kid": "1"}, {"jwk": {}}, {"jkt": "A" * 42 + "="}]
)
def test_a_token_bound_in_a_way_we_cannot_check_is_not_accepted(cnf: Any) -> None:
    """It is not taken as one that is not bound."""
    assert fault(SERVER.claims(cnf=cnf)) == "bound"


@pytest.mark.parametrize("name", ["sub", "client_id", "jti", "tenant"])
@pytest.mark.parametrize("value", ["a\r\nb", "a\x00", "a\u202eb", "\u00a0", "\t", "a" * 257, 7, ["a"]])
def test_names_are_short_and_printable(name: str, value: Any) -> None:
    """They reach logs and headers, where a line break would begin a line of the token's own making."""
    assert fault(SERVER.claims(**{"tenant": "a", name: value}), account_claim="tenant") == "claims"


def test_an_account_id_has_room_for_as_much_as_accounts_have() -> None:
    assert read(SERVER.claims(sub="a" * 120), account_prefix="login:" + "x" * 2).account_id == "login:xx" + "a" * 120
    assert fault(SERVER.claims(sub="a" * 121), account_prefix="login:" + "x" * 2) == "claims"


@pytest.mark.parametrize(
    "payload",
    [
        *(
            b"",
            b"null",
            b"[]",
            b'"x"',
            b"1",
            b"{",
            b"{}x",
            b"\xff{}",
            b'\xef\xbb\xbf{"iss":1}',
            "{}".encode("utf-16"),
            "{}".encode("utf-32"),
        ),
        json.dumps(SERVER.claims())[:-1].encode() + b',"sub":"other"}',
        json.dumps(SERVER.claims())[:-1].encode() + b',"s\\u0075b":"other"}',
        json.dumps(SERVER.claims(role="\ud800")).encode(),
        json.dumps(SERVER.claims(role=[[[[[[[[1]]]]]]]])).encode(),
        b"[" * 3_000 + b"]" * 3_000,
        json.dumps(SERVER.claims(role="x" * 7_000)).encode(),
    ],
)
def test_the_payload_is_strict_json_of_bounded_size(payload: bytes) -> None:
    assert fault(payload) == "malformed"
    with pytest.raises(BearerError):
        unverified_issuer(payload)


def test_the_issuer_can_be_read_before_anything_is_believed() -> None:
    assert unverified_issuer(json.dumps(SERVER.claims()).encode()) == SERVER.issuer
    for iss in (..., None, 1, [SERVER.issuer]):
        with pytest.raises(BearerError):
            unverified_issuer(json.dumps(SERVER.claims(iss=iss)).encode())


def test_the_caller_reads_the_same_whatever_was_wrong() -> None:
    with pytest.raises(AuthenticationError) as wrong_key:
        parse_api_key("tg-")
    faults: tuple[BearerFault, ...] = ("expired", "signature", "unknown_key")
    assert {str(BearerError(word)) for word in faults} == {str(wrong_key.value)}
    assert (BearerError("expired").status, BearerError("expired").code) == (401, "tos_unauthenticated")


@pytest.mark.parametrize(
    "changes",
    [
        *({"audiences": frozenset()}, {"audiences": frozenset({""})}, {"leeway": timedelta(seconds=61)}, {"leeway": timedelta(seconds=-1)}),
        *(
            {"max_lifetime": timedelta(0)},
            {"account_claim": "jti"},
            {"account_claim": "aud"},
            {"end_user_claim": "exp"},
            {"person_claim": "iss"},
        ),
    ],
)
def test_a_policy_that_could_not_hold_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        BearerPolicy(**({"issuer": SERVER.issuer, "audiences": frozenset({AUDIENCE})} | changes))
