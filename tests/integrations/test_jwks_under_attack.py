"""Bearer tokens against a real key endpoint on loopback that is spoiled, slow, huge, down or flooded: known keys keep working.

At most two questions a minute reach it, and nothing that a token says opens a connection.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from authorization_server import AUDIENCE, JWKS_PATH, NOW, Served, ServerKey, compact, ed25519_key, p256_key, rsa_key, serve_authorization
from loopback_issuer import LoopbackIssuer, serve_issuer
from tos_guard._canonical import b64url_encode
from tos_guard.config import BearerSettings
from tos_guard.errors import AuthenticationError, BearerError, StoreError
from tos_guard.remote import BearerVerifier, JWKSource, JWKSPolicy, bearer_from_settings

REFRESH = timedelta(minutes=10)
SECOND_KEY = ed25519_key("ed-2")
RSA_KEY = rsa_key()


@pytest.fixture
def server() -> Iterator[Served]:
    with serve_authorization() as served:
        yield served


@pytest.fixture
def canary() -> Iterator[LoopbackIssuer]:
    """A server that nobody has a reason to ask."""
    with serve_issuer() as served:
        yield served


_watching: list[list[tuple[str, Any]]] = []


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _watching and event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        _watching[-1].append((event, args[1:]))


sys.addaudithook(_hear)


@contextmanager
def connections() -> Iterator[list[tuple[str, Any]]]:
    """Every connection and name look-up of this process, in any thread."""
    _watching.append([])
    try:
        yield _watching[-1]
    finally:
        _watching.pop()


def fault(verifier: BearerVerifier, server: Served, token: str) -> str:
    with pytest.raises(BearerError) as refused:
        verifier.verify(token, server.clock())
    assert str(refused.value) == str(AuthenticationError())
    return refused.value.fault


def most_in_a_minute(server: Served) -> int:
    """The most questions in any minute."""
    moments = server.asked_at
    return max((sum(begin <= moment < begin + timedelta(minutes=1) for moment in moments) for begin in moments), default=0)


# Bad sets

Spoil = Callable[[Served, str], None]


def key_set(*keys: dict[str, Any]) -> Spoil:
    """Publish these keys beside the right one."""
    return document(lambda server: json.dumps({"keys": [server.keys[0].jwk, *keys]}).encode())


def document(make: Callable[[Served], bytes], *, media_type: str = "application/json", status: int = 200) -> Spoil:
    return lambda server, canary: server.http.put(JWKS_PATH, make(server), media_type, status)


def redirect(server: Served, canary: str) -> None:
    server.http.answers[JWKS_PATH] = (302, {"location": f"{canary}{JWKS_PATH}"}, b"")


def compressed(server: Served, canary: str) -> None:
    server.http.answers[JWKS_PATH] = (200, {"content-type": "application/json", "content-encoding": "gzip"}, server.key_set())


BAD_SETS: dict[str, Spoil] = {
    "a private key": key_set(SECOND_KEY.jwk | {"d": b64url_encode(b"\1" * 32)}),
    "a kid twice": key_set(SECOND_KEY.jwk, p256_key("ed-2").jwk),
    "a secret beside RSA": key_set(RSA_KEY.jwk, {"kty": "oct", "kid": "s", "alg": "HS256", "k": b64url_encode(b"k" * 32)}),
    "secrets alone": document(lambda _: json.dumps({"keys": [{"kty": "oct", "kid": "s", "alg": "HS256", "k": "A" * 43}]}).encode()),
    "a huge set": document(lambda server: server.key_set()[:-1] + b" " * 70_000 + b"}"),
    "too many keys": key_set(*(ed25519_key(f"k-{number}").jwk for number in range(64))),
    "HTML": document(lambda _: b"<!doctype html><title>Sign in</title>"),
    "half a set": document(lambda server: server.key_set()[:-20]),
    "a redirect": redirect,
    "another media type": document(lambda server: server.key_set(), media_type="text/html"),
    "a low-order point": key_set(SECOND_KEY.jwk | {"x": b64url_encode(b"\1" + bytes(31))}),
    "an algorithm of another key": key_set(p256_key().jwk | {"alg": "RS256"}),
    "another key under a known id": document(lambda _: json.dumps({"keys": [ed25519_key("ed-1", seed="attacker").jwk]}).encode()),
    "a short RSA key": key_set(RSA_KEY.jwk | {"n": b64url_encode((2**1024 - 159).to_bytes(128, "big"))}),
    "a failure": document(lambda _: b"{}", status=500),
    "nothing": document(lambda _: b""),
    "compression": compressed,
}


@pytest.mark.parametrize("spoil", BAD_SETS.values(), ids=BAD_SETS)
def test_a_bad_set_changes_nothing_for_known_keys_and_gives_none(server: Served, canary: LoopbackIssuer, spoil: Spoil) -> None:
    with server.verifier() as verifier:
        before = verifier.status()[0].kids
        spoil(server, canary.issuer)
        server.pass_by(minutes=10)
        (status,) = verifier.refresh()
        assert (server.fetches, status.kids, status.failure is None) == (2, before, False)
        assert verifier.verify(server.token(iat=NOW, exp=NOW + 3_600), server.clock()).account_id == "acme"
        assert fault(verifier, server, server.token(SECOND_KEY, iat=NOW, exp=NOW + 3_600)) == "unknown_key"
        attacker = ed25519_key("ed-1", seed="attacker")
        assert fault(verifier, server, server.token(attacker, iat=NOW, exp=NOW + 3_600)) == "signature"
    assert not canary.hits


@pytest.mark.parametrize("name", [name for name in BAD_SETS if name != "another key under a known id"])
def test_a_bad_set_at_first_contact_gives_no_key(server: Served, canary: LoopbackIssuer, name: str) -> None:
    BAD_SETS[name](server, canary.issuer)
    with server.verifier() as verifier:
        assert verifier.status()[0].kids == ()
        with pytest.raises(StoreError, match="not been fetched"):
            verifier.verify(server.token(), server.clock())
    assert not canary.hits


def test_a_set_that_is_good_again_is_taken_up(server: Served) -> None:
    with server.verifier() as verifier:
        BAD_SETS["half a set"](server, "")
        server.pass_by(minutes=10)
        verifier.refresh()
        server.publish(server.keys[0], SECOND_KEY)
        server.pass_by(seconds=30)
        verifier.refresh()
        assert verifier.verify(server.token(SECOND_KEY, exp=NOW + 3_600), server.clock()).account_id == "acme"


# Slow, huge, down


def endless(chunk: bytes, *, head: bytes = b"", stop: Callable[[], bool]) -> Callable[[BaseHTTPRequestHandler], None]:
    """Send a head, then the same bytes for ever."""

    def handle(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        with suppress(OSError):
            request.wfile.write(b"HTTP/1.1 200 OK\r\n" + head)
            while not stop():
                request.wfile.write(chunk)
                time.sleep(0.001)

    return handle


BODY = b"content-type: application/json\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "chunk", "reason"),
    [(BODY, b" " * 65_536, "is larger than 65536 bytes"), (BODY, b" ", "took too long"), (b"", b"x", "took too long")],
    ids=["huge", "a byte at a time", "a head that never ends"],
)
def test_an_answer_without_end_is_cut_off(server: Served, head: bytes, chunk: bytes, reason: str) -> None:
    with server.verifier(timeout=timedelta(seconds=0.2)) as verifier:
        server.http.handlers[JWKS_PATH] = endless(chunk, head=head, stop=lambda: server.http.closing)
        server.pass_by(minutes=10)
        verifier.refresh()
        assert reason in str(verifier.status()[0].failure)
        assert verifier.verify(server.token(iat=NOW, exp=NOW + 3_600), server.clock()).account_id == "acme"
        del server.http.handlers[JWKS_PATH]
        server.pass_by(seconds=30)
        assert verifier.refresh()[0].failure is None


def test_known_keys_answer_as_fast_while_the_endpoint_hangs(server: Served) -> None:
    """Compared in one run, on tokens that were never seen before; each is a whole verification."""

    def median(verifier: BearerVerifier, jti: str) -> float:
        spans = []
        for number in range(300):
            token = server.token(iat=NOW, exp=NOW + 3_600, jti=f"{jti}-{number}")
            began = time.perf_counter()
            verifier.verify(token, server.clock())
            spans.append(time.perf_counter() - began)
        return statistics.median(spans)

    with server.verifier() as verifier:
        server.pass_by(minutes=9)
        calm = median(verifier, "calm")
        server.http.gate.clear()
        server.http.asked.clear()
        server.pass_by(minutes=1)
        verifier.verify(server.token(iat=NOW, exp=NOW + 3_600), server.clock())
        assert server.http.asked.wait(30)
        for number in range(50):
            assert fault(verifier, server, server.token(header={"kid": f"unknown-{number}"}, iat=NOW, exp=NOW + 3_600)) == "unknown_key"
        hanging = median(verifier, "hanging")
        assert server.fetches == 2
        assert hanging < 3 * calm


def test_a_day_without_the_endpoint_fails_no_request_with_a_known_key(server: Served) -> None:
    """One hour in steps of 10 seconds, each question settled; then the rest of the day, and more."""
    with server.verifier() as verifier:
        server.http.put(JWKS_PATH, b"down", "text/plain", 503)
        for _ in range(360):
            now = server.pass_by(seconds=10)
            seconds = int(now.timestamp())
            assert verifier.verify(server.token(iat=seconds, exp=seconds + 60), now).account_id == "acme"
            verifier.refresh()
        assert (most_in_a_minute(server), server.fetches) == (2, 121)
        for _ in range(24 * 60):
            now = server.pass_by(minutes=1)
            seconds = int(now.timestamp())
            assert verifier.verify(server.token(iat=seconds, exp=seconds + 60), now).account_id == "acme"
        assert most_in_a_minute(server) <= 2
        assert server.counted["stale"] > 24 * 60
        assert server.counted["denied"] == 0
        server.publish()
        server.pass_by(seconds=30)
        assert verifier.refresh()[0].failure is None
        stale = server.counted["stale"]
        now = server.clock()
        assert verifier.verify(server.token(iat=int(now.timestamp()), exp=int(now.timestamp()) + 60), now).account_id == "acme"
        assert server.counted["stale"] == stale


def test_with_the_mode_deny_keys_that_are_overdue_accept_nobody(server: Served) -> None:
    with server.verifier(policy=JWKSPolicy(mode="deny")) as verifier:
        token = server.token(exp=NOW + 7_200)
        server.http.put(JWKS_PATH, b"down", "text/plain", 503)
        server.pass_by(minutes=14)
        assert verifier.verify(token, server.clock()).account_id == "acme"
        server.pass_by(minutes=1)
        for _ in range(3):
            with pytest.raises(StoreError, match="0:15:00 old"):
                verifier.verify(token, server.clock())
        assert (server.counted["denied"], server.counted["stale"]) == (3, 0)


# Floods


def test_ten_thousand_unknown_keys_bring_two_questions_a_minute(server: Served) -> None:
    """Over five minutes, among them requests with a known key, which all pass."""
    with server.verifier() as verifier:
        server.wait_until_settled()
        server.asked_at.clear()
        for number in range(10_000):
            if number % 100 == 0:
                assert verifier.verify(server.token(exp=NOW + 3_600, jti=f"{number}"), server.clock()).account_id == "acme"
                server.pass_by(seconds=3)
            assert fault(verifier, server, server.token(header={"kid": f"unknown-{number}"}, exp=NOW + 3_600)) == "unknown_key"
            if number % 1_000 == 950:  # 30 seconds after the last: it is due
                server.wait_until_settled()
        assert (most_in_a_minute(server), len(server.asked_at)) == (2, 10)


def test_a_new_key_is_fetched_because_a_token_names_it_and_that_token_does_not_wait(server: Served) -> None:
    with server.verifier() as verifier:
        server.wait_until_settled()
        server.publish(server.keys[0], SECOND_KEY)
        token = server.token(SECOND_KEY)
        server.pass_by(seconds=10)
        assert fault(verifier, server, token) == "unknown_key"
        server.pass_by(seconds=20)
        assert fault(verifier, server, token) == "unknown_key"
        server.wait_until_settled()
        assert verifier.verify(token, server.clock()).account_id == "acme"
        assert server.fetches == 2


def test_a_flood_at_the_very_first_moment_brings_one_question(server: Served) -> None:
    verifier = BearerVerifier([(server.policy(), server.source())])
    server.http.gate.clear()
    refused = 0

    def flood(name: int) -> None:
        nonlocal refused
        for number in range(100):
            with suppress(StoreError):
                verifier.verify(server.token(header={"kid": f"{name}-{number}"}), server.clock())
                raise AssertionError("was accepted")
            verifier.first_keys(server.token())
            refused += 1

    threads = [threading.Thread(target=flood, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer = verifier.first_keys(server.token())
    server.http.gate.set()
    assert answer is not None
    answer.result(30)
    assert verifier.verify(server.token(), server.clock()).account_id == "acme"
    assert server.fetches == 1
    verifier.close()


# What a token says opens nothing


def hostile_headers(canary: str) -> list[dict[str, Any]]:
    own = ed25519_key("own")
    return [
        {"jku": f"{canary}/jwks.json"},
        {"jku": f"{canary}/jwks.json", "kid": "own"},
        {"x5u": f"{canary}/cert.pem"},
        {"jwk": own.jwk, "kid": "own"},
        {"x5c": ["MIIB"]},
        {"kid": f"{canary}/jwks.json"},
        {"kid": "../../../../etc/passwd"},
        {"kid": "' OR 1=1 --"},
        {"kid": "a\r\nlocation: " + canary},
        {"typ": f"{canary}"},
    ]


def test_nothing_in_a_token_opens_a_connection(server: Served, canary: LoopbackIssuer) -> None:
    """Neither in its header nor in its claims; not even the configured server is asked before its cooldown is over."""
    own = ed25519_key("own")
    claims = [
        {"iss": canary.issuer},
        {"iss": f"{canary.issuer}/"},
        {"iss": f"{server.issuer}#{canary.issuer}"},
        {"jwks_uri": canary.issuer},
    ]
    with server.verifier() as verifier:
        with connections() as made:
            for signing in (own, server.keys[0]):
                for header in hostile_headers(canary.issuer):
                    with pytest.raises(BearerError):
                        verifier.verify(compact(server.header(**header), server.claims(), signing.sign), server.clock())
                for more in claims[:3]:
                    assert fault(verifier, server, server.token(signing, header={"kid": "ed-1"}, **more)) == "issuer"
            assert verifier.verify(server.token(**claims[3]), server.clock()).account_id == "acme"
            assert verifier.first_keys(server.token(iss=canary.issuer)) is None
        assert made == []
    assert (dict(canary.hits), server.fetches) == ({}, 1)


def test_an_issuer_that_is_not_listed_makes_nobody_ask(server: Served) -> None:
    """Not even at the very first moment, when there are no keys at all."""
    verifier = BearerVerifier([(server.policy(), server.source())])
    with connections() as made:
        assert fault(verifier, server, server.token(iss="https://other.example.com/")) == "issuer"
        assert verifier.first_keys(server.token(iss="https://other.example.com/")) is None
        assert verifier.first_keys("no token") is None
    assert (made, server.fetches, verifier.status()[0].attempted_at) == ([], 0, None)
    verifier.close()


@pytest.mark.parametrize(
    "uri",
    [
        *("https://localhost:{port}/jwks", "https://127.0.0.1:{port}/jwks", "https://[::1]:{port}/jwks", "https://2130706433:{port}/jwks"),
        *("https://0.0.0.0:{port}/jwks", "https://[::ffff:127.0.0.1]:{port}/jwks", "https://10.0.0.1/jwks", "https://169.254.169.254/jwks"),
    ],
)
def test_keys_are_not_fetched_from_inside_the_network(canary: LoopbackIssuer, server: Served, uri: str) -> None:
    """Decimal and mapped spellings among them; nothing is sent."""
    source = JWKSource(server.issuer, uri.format(port=canary.issuer.rpartition(":")[2]))
    with connections() as made:
        status = source.refresh()
    assert "not a public address" in str(status.failure) or "has no address" in str(status.failure)
    assert not [event for event, _ in made if event == "socket.connect"]
    assert not canary.hits
    source.close()


def test_keys_may_lie_inside_the_network_where_the_settings_say_so(canary: LoopbackIssuer, server: Served) -> None:
    uri = f"https://localhost:{canary.issuer.rpartition(':')[2]}/jwks"
    settings = BearerSettings(issuer=server.issuer, jwks_uri=uri, audience=(AUDIENCE,), unsafe_any_address=True)
    verifier = bearer_from_settings([settings])
    with connections() as made:
        (status,) = verifier.refresh()
    assert [event for event, _ in made if event == "socket.connect"]
    assert "could not be fetched (ConnectError" in str(status.failure)  # it speaks no TLS
    verifier.close()


def test_rsa_keys_that_name_no_algorithm_are_for_the_one_in_the_settings(server: Served) -> None:
    server.publish(
        ServerKey("r", "RS256", {name: value for name, value in RSA_KEY.jwk.items() if name not in ("alg", "use")}, RSA_KEY.sign)
    )
    for algorithm, kids in (("RS256", ("rsa-1",)), (None, ())):
        settings = BearerSettings(issuer=server.issuer, jwks_uri=server.uri, audience=(AUDIENCE,), algorithm=algorithm)
        verifier = bearer_from_settings([settings], clock=server.clock)
        assert verifier.refresh()[0].kids == kids
        if kids:
            assert verifier.verify(server.token(header={"kid": "rsa-1"}), server.clock()).account_id == "acme"
        verifier.close()


# Hostile tokens


def padded(text: bytes) -> str:
    return urlsafe_b64encode(text).decode()


def hostile_tokens(server: Served) -> dict[str, tuple[str, str]]:
    """Name → token, signed with the right key wherever it could be, and the fault to be found."""
    key = server.keys[0]
    header, claims = json.dumps(server.header()).encode(), json.dumps(server.claims()).encode()

    def signed(header: Any = header, payload: Any = claims) -> str:
        return compact(header, payload, key.sign)

    def raw(header_part: str, payload_part: str) -> str:
        message = f"{header_part}.{payload_part}"
        return f"{message}.{b64url_encode(key.sign(message.encode()))}"

    good = signed()
    x = b64url_encode(bytes(32))
    return {
        "header name twice": (signed(header[:-1] + b',"typ":"at+jwt"}'), "malformed"),
        "claim twice": (signed(payload=claims[:-1] + b',"sub":"root"}'), "malformed"),
        "claim twice, escaped": (signed(payload=claims[:-1] + b',"s\\u0075b":"root"}'), "malformed"),
        "byte-order mark": (signed(payload=b"\xef\xbb\xbf" + claims), "malformed"),
        "UTF-16 payload": (signed(payload=claims.decode().encode("utf-16")), "malformed"),
        "UTF-16 header": (signed(header.decode().encode("utf-16")), "malformed"),
        "UTF-32 payload": (signed(payload=claims.decode().encode("utf-32")), "malformed"),
        "NaN": (signed(payload=claims[:-1] + b',"x":NaN}'), "malformed"),
        "Infinity": (signed(payload=claims[:-1] + b',"x":-Infinity}'), "malformed"),
        "1e400": (signed(payload=claims[:-1] + b',"x":1e400}'), "malformed"),
        "lone surrogate": (signed(payload=claims[:-1] + b',"x":"\\ud800"}'), "malformed"),
        "huge header": (signed(server.header(kid="k" * 3_000)), "malformed"),
        "huge token": (signed(payload=json.dumps(server.claims(x="x" * 1_000_000)).encode()), "malformed"),
        "deep claims": (signed(payload=claims[:-1] + b',"x":' + b"[" * 200 + b"]" * 200 + b"}"), "malformed"),
        "deep header": (signed(header[:-1] + b',"x":' + b"[" * 200 + b"]" * 200 + b"}"), "malformed"),
        "padding": (raw(padded(header + b" "), padded(claims + b" ")), "malformed"),
        "padded signature": (good + "==", "malformed"),
        "bits beyond the value": (good[:-1] + ("B" if good[-1] == "A" else chr(ord(good[-1]) + 1)), "malformed"),
        "line break": (good + "\n", "malformed"),
        "JSON serialisation": (json.dumps({"payload": good.split(".")[1], "protected": good.split(".")[0]}), "malformed"),
        "detached": (f"{good.split('.')[0]}..{good.split('.')[2]}", "malformed"),
        "no signature": (good.rsplit(".", 1)[0] + ".", "malformed"),
        "alg none": (f"{b64url_encode(json.dumps(server.header(alg='none')).encode())}.{b64url_encode(claims)}.", "malformed"),
        "alg none, signed": (signed(server.header(alg="none")), "signature"),
        "HMAC under the public key": (signed(server.header(alg="HS256")), "signature"),
        "another algorithm": (signed(server.header(alg="ES256")), "signature"),
        "DPoP proof": (signed(server.header(typ="dpop+jwt")), "type"),
        "logout token": (signed(server.header(typ="logout+jwt")), "type"),
        "ID token": (signed(server.header(typ="JWT")), "type"),
        "provenance token": (signed(server.header(typ="ai-provenance+jwt")), "type"),
        "no typ": (signed(server.header(typ=...)), "type"),
        "typ a number": (signed(server.header(typ=1)), "malformed"),
        "typ null": (signed(server.header(typ=None)), "malformed"),
        "crit": (signed(server.header(crit=["exp"])), "malformed"),
        "crit twice": (signed(server.header(crit=["b64", "b64"], b64=True)), "malformed"),
        "b64 false": (signed(server.header(b64=False, crit=["b64"])), "malformed"),
        "b64 a text": (signed(server.header(b64="false")), "malformed"),
        "kid of 64 KiB": (signed(server.header(kid="k" * 65_536)), "malformed"),
        "kid with a line break": (signed(server.header(kid="ed-1\r\n")), "unknown_key"),
        "kid a path": (signed(server.header(kid="/etc/passwd")), "unknown_key"),
        "kid a list": (signed(server.header(kid=["ed-1"])), "malformed"),
        "exp a text": (server.token(exp=str(NOW + 540)), "claims"),
        "exp true": (server.token(exp=True), "claims"),
        "iat false": (server.token(iat=False), "claims"),
        "nbf a text": (server.token(nbf="0"), "claims"),
        "no exp": (server.token(exp=...), "claims"),
        "exp of 4,000 digits": (signed(payload=claims.replace(str(NOW + 540).encode(), b"9" * 4_000)), "malformed"),
        "exp far away": (server.token(exp=2**53 - 1), "claims"),
        "exp in a century": (server.token(exp=NOW + 3_155_760_000), "lifetime"),
        "expired": (server.token(exp=NOW - 40), "expired"),
        "too early": (server.token(nbf=NOW + 40), "early"),
        "another audience": (server.token(aud="https://other.example.com"), "audience"),
        "no audience": (server.token(aud=...), "claims"),
        "another issuer": (server.token(iss="https://evil.example.com/"), "issuer"),
        "no issuer": (server.token(iss=...), "claims"),
        "bound in a way that we cannot check": (server.token(cnf={"jwk": ed25519_key("x").jwk}), "bound"),
        "signed by another": (compact(server.header(), server.claims(), ed25519_key("x").sign), "signature"),
        "key in the header": (compact(server.header(jwk=ed25519_key("x").jwk), server.claims(), ed25519_key("x").sign), "malformed"),
        "low-order key in the header": (signed(server.header(jwk={"kty": "OKP", "crv": "Ed25519", "x": x})), "malformed"),
        "empty": ("", "malformed"),
        "not ASCII": (good[:-1] + "é", "malformed"),
        "an API key": ("tg-abcdefghijkm-" + "A" * 43, "malformed"),
    }


def test_every_hostile_token_is_refused_with_one_text(server: Served) -> None:
    """The classes that PyJWT lets pass (measured), and more; each fault is found where it is, and none takes long."""
    with server.verifier() as verifier:
        for name, (token, expected) in hostile_tokens(server).items():
            began = time.thread_time()
            assert fault(verifier, server, token) == expected, name
            assert time.thread_time() - began < 0.05, name
        assert verifier.verify(server.token(), server.clock()).account_id == "acme"
    assert server.fetches == 1


def test_no_changed_bit_is_accepted(server: Served) -> None:
    """Every bit of a token in turn, after the token itself was accepted and is remembered."""
    with server.verifier() as verifier:
        token = server.token().encode()
        verifier.verify(token.decode(), server.clock())
        for at in range(8 * len(token)):
            changed = bytearray(token)
            changed[at // 8] ^= 1 << at % 8
            with pytest.raises(BearerError):
                verifier.verify(changed.decode("latin-1"), server.clock())


# Accepted tokens are remembered, and for how long


def test_a_remembered_token_is_forgotten_with_its_time(server: Served) -> None:
    with server.verifier() as verifier:
        token = server.token(nbf=NOW - 30)
        assert verifier.verify(token, server.clock()) is verifier.verify(token, server.clock())
        server.pass_by(seconds=539)
        verifier.verify(token, server.clock())
        server.pass_by(seconds=31)
        assert fault(verifier, server, token) == "expired"
        server.pass_by(seconds=-631)  # the clock was set back, to before the token
        assert fault(verifier, server, token) == "early"


def test_a_remembered_token_is_forgotten_with_its_key(server: Served) -> None:
    with server.verifier() as verifier:
        token = server.token(iat=NOW, exp=NOW + 3_600)
        verifier.verify(token, server.clock())
        server.publish(SECOND_KEY)
        server.pass_by(minutes=10)
        verifier.refresh()
        assert fault(verifier, server, token) == "unknown_key"


def test_what_is_remembered_is_bounded(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tos_guard.remote._bearer.MAX_REMEMBERED", 100)
    with server.verifier() as verifier:
        for number in range(300):
            verifier.verify(server.token(jti=f"{number}"), server.clock())
        assert len(verifier._accepted) == 100


def test_keys_of_one_issuer_do_not_sign_for_another(server: Served) -> None:
    """Not even under the same key id."""
    with serve_authorization() as other:
        other.issuer = "https://other.example.com/"
        other.publish(ed25519_key("ed-1", seed="other"))
        verifier = BearerVerifier(
            [(server.policy(account_prefix="one:"), server.source()), (other.policy(account_prefix="two:"), other.source())]
        )
        verifier.refresh()
        assert verifier.verify(server.token(), server.clock()).account_id == "one:acme"
        assert verifier.verify(other.token(), server.clock()).account_id == "two:acme"
        assert fault(verifier, server, server.token(iss=other.issuer)) == "signature"
        assert fault(verifier, server, other.token(iss=server.issuer)) == "signature"
        verifier.close()


@pytest.mark.parametrize("key", [ed25519_key(), p256_key(), RSA_KEY], ids=lambda key: key.algorithm)
def test_tokens_of_each_common_algorithm_are_accepted(server: Served, key: Any) -> None:
    server.publish(key)
    with server.verifier() as verifier:
        assert verifier.verify(server.token(aud=[AUDIENCE, "other"]), server.clock()).client_id == "batch-runner"
