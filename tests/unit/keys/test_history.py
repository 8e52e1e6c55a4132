"""The signed key history (docs/spec/keys.md H1–H3)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fuzz import seeds
from tos_guard.errors import MalformedError, SignatureError, UndecidableError, UnknownKeyError, UntrustedIssuerError
from tos_guard.keys import KEY_HISTORY_TYP, KeyHistory, KeySet, key_history_payload, open_key_history
from tos_guard.provenance import TOKEN_TYP

HISTORY = KeyHistory(seeds.ISSUER, 3, seeds.IAT, (seeds.KEY, seeds.EC_KEY, seeds.HISTORY_KEY))


def signed(payload: dict[str, Any], *, key: Any = seeds.HISTORY_KEY, typ: str = KEY_HISTORY_TYP) -> str:
    kept = {name: value for name, value in payload.items() if value is not ...}
    return seeds.compact(json.dumps(seeds.header_of(key, typ)).encode(), json.dumps(kept).encode(), key)


def changed(**changes: Any) -> str:
    return signed({**key_history_payload(HISTORY), **changes})


def open_it(text: str, *, trusted: KeySet = seeds.KEYS, issuer: str = seeds.ISSUER) -> KeyHistory:
    return open_key_history(text, trusted=trusted, expected_issuer=issuer)


def test_a_history_reads_back_as_it_was_signed() -> None:
    assert open_it(changed()) == HISTORY


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"ver": 2},
            {"ver": True},
            {"ver": "1"},
            {"ver": ...},
            {"seq": -1},
            {"seq": "3"},
            {"seq": True},
            {"seq": ...},
            {"iat": ...},
            {"iat": "1"},
        ),
        *({"keys": ...}, {"keys": []}, {"keys": [1]}, {"keys": [{**seeds.HISTORY_KEY.to_jwk(), "nbf": None}]}),
        {"keys": [{name: value for name, value in seeds.HISTORY_KEY.to_jwk().items() if name != "nbf"}]},
        {"keys": [{**seeds.HISTORY_KEY.to_jwk(), "d": "AA"}]},
        {"keys": [seeds.HISTORY_KEY.to_jwk()] * 2},
    ],
)
def test_h1_claims_of_another_form(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        open_it(changed(**changes))


@pytest.mark.parametrize("typ", [TOKEN_TYP, "JWT", "", KEY_HISTORY_TYP.upper()])
def test_h1_a_token_of_another_kind_is_no_history(typ: str) -> None:
    with pytest.raises(MalformedError):
        open_it(signed(key_history_payload(HISTORY), typ=typ))


def test_h2_a_provenance_key_signs_no_history() -> None:
    with pytest.raises(UnknownKeyError):
        open_it(signed(key_history_payload(HISTORY), key=seeds.KEY))


def test_h2_only_a_trusted_key_counts_even_if_it_lists_itself() -> None:
    with pytest.raises(UnknownKeyError):
        open_it(changed(), trusted=KeySet(seeds.ISSUER, (seeds.KEY,)))


def test_h2_another_issuer_is_not_trusted() -> None:
    with pytest.raises(UntrustedIssuerError):
        open_it(changed(), issuer="https://other.example.net")
    with pytest.raises(UntrustedIssuerError):
        open_it(changed(iss=...))


def test_h2_the_signing_key_is_listed_and_not_revoked() -> None:
    for keys in ([seeds.KEY], [seeds.KEY, seeds.HISTORY_KEY.with_times(revoked=seeds.IAT)]):
        with pytest.raises(UnknownKeyError, match="does not list"):
            open_it(changed(keys=[key.to_jwk() for key in keys]))


def test_a_changed_history_does_not_match() -> None:
    header, payload, _ = changed().split(".")
    other = changed(seq=4).split(".")
    with pytest.raises(SignatureError):
        open_it(".".join([header, payload, other[2]]))


def test_h3_a_longer_history_follows() -> None:
    later = replace(HISTORY, sequence=4, keys=(seeds.KEY.with_times(revoked=seeds.IAT, reason="superseded"), *HISTORY.keys[1:]))
    later.check_follows(HISTORY)
    HISTORY.check_follows(HISTORY)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (HISTORY, replace(HISTORY, sequence=2)),
        (HISTORY, replace(HISTORY, issuer="https://other.example.net")),
        (HISTORY, replace(HISTORY, keys=HISTORY.keys[1:])),
        (HISTORY, replace(HISTORY, keys=(replace(seeds.KEY, purpose=seeds.HISTORY_KEY.purpose), *HISTORY.keys[1:]))),
        (HISTORY, replace(HISTORY, keys=(replace(seeds.KEY, coordinates=(bytes(32),)), *HISTORY.keys[1:]))),
        (replace(HISTORY, keys=(seeds.KEY.with_times(not_after=500),)), replace(HISTORY, keys=(seeds.KEY,))),
        (replace(HISTORY, keys=(seeds.KEY.with_times(not_after=500),)), replace(HISTORY, keys=(seeds.KEY.with_times(not_after=501),))),
        (replace(HISTORY, keys=(seeds.KEY.with_times(revoked=500),)), replace(HISTORY, keys=(seeds.KEY,))),
    ],
    ids=[
        "older",
        "another issuer",
        "a key vanished",
        "another purpose",
        "other material",
        "lives again",
        "lives longer",
        "no longer revoked",
    ],
)
def test_h3_nothing_is_taken_back(earlier: KeyHistory, later: KeyHistory) -> None:
    with pytest.raises(UndecidableError):
        later.check_follows(earlier)
