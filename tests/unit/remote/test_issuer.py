"""What is asked of an issuer and what is believed, step by step, without a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loopback_issuer import HISTORY, JWKS, METADATA, NBF, START, Keys, made_key
from tos_guard._canonical import encode_claims
from tos_guard.errors import ConfigurationError, DiscoveryError, UndecidableError, VerificationError
from tos_guard.keys import KeySet
from tos_guard.remote._issuer import Fetch, Fetched, KnownKeys, Resolve, discover, parse_issuer, strictest
from tos_guard.types import KeyPurpose

ORIGIN = "https://api.example.com"


def asked(
    origin: str = ORIGIN, addresses: list[str] | None = None, *, documents: dict[str, bytes] | None = None
) -> tuple[list[Any], KnownKeys]:
    """Run a discovery; the steps it took, and what it found."""
    keys = Keys(origin)
    metadata = {"ver": 1, "issuer": origin, "jwks_uri": origin + JWKS, "key_history_uri": origin + HISTORY}
    answers = {METADATA: encode_claims(metadata), JWKS: keys.key_set().to_bytes(), HISTORY: keys.history().encode()} | (documents or {})
    found = ["93.184.216.34"] if addresses is None else addresses
    steps = discover(parse_issuer(origin), earlier=None, pinned=None, history=None, any_address=False, now=START)
    taken: list[Any] = []
    try:
        step = next(steps)
        while True:
            taken.append(step)
            step = steps.send(found if isinstance(step, Resolve) else Fetched(answers[step.path]))
    except StopIteration as stop:
        return taken, stop.value
    except VerificationError as error:
        error.add_note(str(len(taken)))
        raise


def test_a_name_is_resolved_once_and_every_fetch_goes_to_its_addresses() -> None:
    taken, known = asked()
    assert taken[0] == Resolve("api.example.com", 443)
    assert [(step.path, step.addresses) for step in taken[1:]] == [(path, ("93.184.216.34",)) for path in (METADATA, JWKS, HISTORY)]
    assert all(isinstance(step, Fetch) and step.max_bytes <= 262_144 for step in taken[1:])
    assert {key.kid for key in known.keys.keys} == {key.kid for key in Keys(ORIGIN).all}


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255"),
        *("192.0.2.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
        *("no address", "", "2130706433"),
    ],
)
def test_an_https_issuer_that_leads_to_no_public_address_is_not_connected_to(address: str) -> None:
    for found in ([address], ["93.184.216.34", address]):
        with pytest.raises(DiscoveryError) as caught:
            asked(addresses=found)
        assert caught.value.__notes__ == ["1"]  # nothing was fetched


@pytest.mark.parametrize("found", [[], ["93.184.216.34"] * 17])
def test_a_name_with_no_or_too_many_addresses_is_not_connected_to(found: list[str]) -> None:
    with pytest.raises(DiscoveryError, match="addresses"):
        asked(addresses=found)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"])
def test_public_addresses_are_connected_to(address: str) -> None:
    assert asked(addresses=[address])[0][1].addresses == (address,)


@pytest.mark.parametrize("origin", ["http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000"])
def test_an_http_issuer_must_lead_to_loopback(origin: str) -> None:
    assert asked(origin, ["127.0.0.1"])[0][0].port == 8000
    with pytest.raises(DiscoveryError, match="not a loopback"):
        asked(origin, ["93.184.216.34"])


@pytest.mark.parametrize(
    "origin",
    [
        *("http://api.example.com", "http://127.0.0.2", "http://2130706433", "http://0x7f000001", "http://localhost.", "http://127.1"),
        *("https://api.example.com/", "https://api.example.com/v1", "https://user@api.example.com", "https://API.example.com"),
        *("https://api.example.com:0", "https://api.example.com:65536", "https://api.example.com:", "https://", "api.example.com"),
        *("ftp://api.example.com", "file:///etc/passwd", "https://api.example.com?x", "https://api.example.com#x", "https://a b", ""),
        *("https://api.example.com\n", "https://api.example.com\\@evil.example"),
    ],
)
def test_what_is_no_plain_origin_is_refused_at_start(origin: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_issuer(origin)


@pytest.mark.parametrize(
    "uri",
    [
        *(None, 7, "", "/jwks.json", "https://evil.example/jwks.json", "https://api.example.com.evil.example/jwks.json", ORIGIN),
        *("https://api.example.com@evil.example/jwks.json", "http://api.example.com/jwks.json", "https://api.example.com:8443/jwks.json"),
        *(f"{ORIGIN}/jwks.json?x=1", f"{ORIGIN}/jwks.json#x", f"{ORIGIN}/a b", f"{ORIGIN}/\r\nHost: evil.example", f"{ORIGIN}/\\evil"),
    ],
)
@pytest.mark.parametrize("name", ["jwks_uri", "key_history_uri"])
def test_no_document_leads_away_from_the_issuers_origin(name: str, uri: Any) -> None:
    metadata = {"ver": 1, "issuer": ORIGIN, "jwks_uri": ORIGIN + JWKS, "key_history_uri": ORIGIN + HISTORY} | {name: uri}
    with pytest.raises(VerificationError) as caught:
        asked(documents={METADATA: encode_claims(metadata)})
    assert caught.value.__notes__ == ["2"]  # resolved, and only the metadata fetched


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"null", b'{"ver":1}', b'{"ver":1,"ver":1}', b"[" * 100_000, b'{"ver":1.0}'])
@pytest.mark.parametrize("path", [METADATA, JWKS, HISTORY])
def test_hostile_documents_end_in_our_error(path: str, body: bytes) -> None:
    with pytest.raises(VerificationError):
        asked(documents={path: body})


def test_a_set_that_names_no_issuer_speaks_for_whom_it_was_asked_of() -> None:
    assert asked(documents={JWKS: KeySet(None, tuple(Keys(ORIGIN).all)).to_bytes()})[1].keys.issuer == ORIGIN


def test_of_two_statements_about_a_key_the_stricter_holds() -> None:
    key = made_key("first")[1]
    early, late = NBF + 10, NBF + 20
    one = replace(key, not_before=early, not_after=late)
    other = replace(key, not_before=NBF, not_after=None, revoked=late, reason="superseded")
    for merged in (strictest(one, other), strictest(other, one)):
        assert (merged.not_before, merged.not_after, merged.revoked, merged.reason) == (early, late, late, "superseded")
    worse = replace(key, revoked=late + 5)  # no reason counts as compromised
    merged = strictest(other, worse)
    assert (merged.revoked, merged.reason) == (late, "compromised")
    assert strictest(key, key) == key
    with pytest.raises(UndecidableError):
        strictest(key, replace(key, purpose=KeyPurpose.KEY_HISTORY))
