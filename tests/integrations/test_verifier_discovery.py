"""Verification with discovery against a real issuer on loopback, in both colours: bad key sets, outages, floods, and who waits."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest

from loopback_issuer import HISTORY, JWKS, METADATA, NBF, START, Keys, LoopbackIssuer, made_key, serve_issuer
from tos_guard.errors import ContentMismatchError, DiscoveryError, IncompleteError, KeyRevokedError, UnknownKeyError, UntrustedIssuerError
from tos_guard.keys import KeySet, open_key_history
from tos_guard.testing import FixedClock
from tos_guard.types import KeyPurpose
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Verified

HALF_HOUR = timedelta(minutes=31)
Spoil = Callable[[LoopbackIssuer], None]


class Blocking:
    """A `Verifier` whose calls run in threads, so that one test speaks to both colours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.verifier = Verifier(*args, **kwargs)
        self.discovery = self.verifier.discovery

    async def verify_body(self, body: bytes, **given: Any) -> Verified:
        return await asyncio.to_thread(self.verifier.verify_body, body, **given)

    async def verify_stream(self, stream: bytes, **given: Any) -> Verified:
        return await asyncio.to_thread(self.verifier.verify_stream, stream, **given)

    async def verify_text(self, text: str, **given: Any) -> Verified:
        return await asyncio.to_thread(self.verifier.verify_text, text, **given)

    async def refresh(self, issuer: str) -> Any:
        return await asyncio.to_thread(self.verifier.discovery.refresh, issuer)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.verifier.close)


class OnLoop(AsyncVerifier):
    """An `AsyncVerifier` with the same methods."""

    async def refresh(self, issuer: str) -> Any:
        return await self.discovery.refresh(issuer)


@pytest.fixture
def issuer() -> Iterator[LoopbackIssuer]:
    with serve_issuer() as served:
        yield served


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START)


Open = Callable[..., Any]


@pytest.fixture(params=[Blocking, OnLoop], ids=["sync", "async"])
def opened(request: pytest.FixtureRequest, clock: FixedClock) -> Open:
    """Opens a verifier of one colour for a block."""

    @asynccontextmanager
    async def opens(*issuers: str, **given: Any) -> AsyncIterator[Any]:
        verifier = request.param(issuers, **({"clock": clock} | given))
        try:
            yield verifier
        finally:
            await verifier.aclose()

    return opens


async def test_the_keys_are_fetched_once_and_then_known(issuer: LoopbackIssuer, opened: Open) -> None:
    async with opened(issuer.issuer) as verifier:
        for text in ("one", "two", "three"):
            verified = await verifier.verify_body(issuer.sealed_body(text))
            assert (verified.claims.iss, verified.notes) == (issuer.issuer, ())
    assert dict(issuer.hits) == {METADATA: 1, JWKS: 1, HISTORY: 1}


async def test_bodies_streams_and_texts_are_verified(issuer: LoopbackIssuer, opened: Open) -> None:
    stream = b"".join(issuer.sealed_events())
    async with opened(issuer.issuer) as verifier:
        assert (await verifier.verify_stream(stream)).claims.rid == "r"
        assert (await verifier.verify_stream(stream, token=issuer.token())).claims.rid == "r"
        body = issuer.sealed_body()
        token = json.loads(body)["ai_provenance"]["token"]
        assert (await verifier.verify_body(body, token=token)).token == token
        assert (await verifier.verify_text("Hello", token=token)).token == token
        with pytest.raises(ContentMismatchError):
            await verifier.verify_text("Hell0", token=token)
        with pytest.raises(IncompleteError):
            await verifier.verify_stream(stream[: len(stream) // 2], token=issuer.token())


async def test_an_issuer_that_is_not_on_the_list_is_never_contacted(issuer: LoopbackIssuer, opened: Open) -> None:
    body, stream = issuer.sealed_body(), b"".join(issuer.sealed_events())
    async with opened("https://api.example.com") as verifier:
        for attempt in (verifier.verify_body(body), verifier.verify_stream(stream), verifier.verify_stream(stream, token=issuer.token())):
            with pytest.raises(UntrustedIssuerError):
                await attempt
    assert not issuer.hits


def spoiled_set(**changes: Any) -> Spoil:
    """Publish a key set whose provenance key has these members instead."""

    def spoil(issuer: LoopbackIssuer) -> None:
        document = issuer.key_set().to_document()
        document["keys"][1] |= changes
        issuer.put(JWKS, json.dumps(document).encode())

    return spoil


def key_set_of(make: Callable[[LoopbackIssuer], Any]) -> Spoil:
    """Publish this as key set."""

    def spoil(issuer: LoopbackIssuer) -> None:
        made = make(issuer)
        issuer.put(JWKS, made if isinstance(made, bytes) else json.dumps(made).encode())

    return spoil


def history_of(make: Callable[[LoopbackIssuer], str]) -> Spoil:
    """Publish this as key history."""
    return lambda issuer: issuer.put(HISTORY, make(issuer).encode(), "application/jwt")


def metadata_of(**changes: Any) -> Spoil:
    """Publish metadata with these members instead."""
    return lambda issuer: issuer.put(METADATA, issuer.metadata(**changes))


def doubled(issuer: LoopbackIssuer) -> Any:
    document = issuer.key_set().to_document()
    return document | {"keys": [*document["keys"], document["keys"][1]]}


def stolen(issuer: LoopbackIssuer) -> str:
    """A history that a stranger signed with a key of its own."""
    private, key = made_key("thief", KeyPurpose.KEY_HISTORY)
    payload = {"iss": issuer.issuer, "iat": NBF, "seq": 9, "ver": 1, "keys": [k.to_jwk() for k in (*issuer.all, key)]}
    return issuer.sign_history(payload, private, key)


BAD_SETS: dict[str, Spoil] = {
    "no JSON": key_set_of(lambda _: b"<html>"),
    "no object": key_set_of(lambda _: []),
    "no keys": key_set_of(lambda issuer: {"issuer": issuer.issuer, "keys": []}),
    "65 keys": key_set_of(lambda issuer: issuer.key_set().to_document() | {"keys": [made_key(str(n))[1].to_jwk() for n in range(65)]}),
    "a duplicate member": key_set_of(lambda issuer: issuer.key_set().to_bytes().replace(b'"keys"', b'"keys":[],"keys"', 1)),
    "another issuer": key_set_of(lambda issuer: issuer.key_set().to_document() | {"issuer": "https://evil.example"}),
    "a duplicate key": key_set_of(doubled),
    "a private member": spoiled_set(d="AAAA"),
    "a symmetric key": spoiled_set(kty="oct", k="AAAA"),
    "an RSA key": spoiled_set(kty="RSA", n="AQAB", e="AQAB"),
    "a low-order point": spoiled_set(x="AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
    "other material under the same id": spoiled_set(x=made_key("other")[1].to_jwk()["x"]),
    "a key for encryption": spoiled_set(use="enc"),
    "a key that may not verify": spoiled_set(key_ops=["encrypt"]),
    "an unknown purpose": spoiled_set(purpose="login"),
    "the same key for another purpose": spoiled_set(purpose="key-history"),
    "a time in words": spoiled_set(exp="soon"),
}
BAD_ANSWERS: dict[str, Spoil] = {
    "metadata of another issuer": metadata_of(issuer="https://evil.example"),
    "metadata of version 2": metadata_of(ver=2),
    "metadata of version true": metadata_of(ver=True),
    "metadata without keys": metadata_of(jwks_uri=None),
    "keys on another host": metadata_of(jwks_uri="https://evil.example/.well-known/jwks.json"),
    "a history on another host": metadata_of(key_history_uri="https://evil.example/history"),
    "a history that a stranger signed": history_of(stolen),
    "a history of another issuer": history_of(lambda issuer: issuer.history(iss="https://evil.example")),
    "an altered history": history_of(lambda issuer: issuer.history()[:-4] + "AAAA"),
    "a token as history": history_of(lambda issuer: issuer.token()),
    "an empty history": history_of(lambda _: ""),
}
TAKEN_BACK: dict[str, Spoil] = {
    "a key vanished from set and history": lambda issuer: issuer.all.remove(issuer.all[1]),
    "an older history": history_of(lambda issuer: issuer.history(seq=3)),
    "a history that lost a key": history_of(lambda issuer: issuer.history(seq=5, keys=[issuer.history_key.to_jwk()])),
}


@pytest.mark.parametrize("name", BAD_SETS | BAD_ANSWERS | TAKEN_BACK)
async def test_a_bad_answer_leaves_the_old_keys_in_force_and_raises_an_alarm(
    name: str, issuer: LoopbackIssuer, opened: Open, clock: FixedClock
) -> None:
    issuer.sequence = 4
    body = issuer.sealed_body()
    async with opened(issuer.issuer) as verifier:
        await verifier.verify_body(body)
        before = verifier.discovery.status(issuer.issuer).keys
        (BAD_SETS | BAD_ANSWERS | TAKEN_BACK)[name](issuer)
        clock.advance(HALF_HOUR)
        with pytest.raises(DiscoveryError, match="refused"):
            await verifier.refresh(issuer.issuer)
        status = verifier.discovery.status(issuer.issuer)
        assert (status.keys, status.refused, status.fetched_at) == (before, True, START)
        verified = await verifier.verify_body(body)
        assert verified.notes == (f"keys: as of {START.isoformat()}, issuer refused since",)


@pytest.mark.parametrize("name", BAD_SETS | BAD_ANSWERS)
async def test_a_bad_first_answer_leaves_the_issuer_without_keys(name: str, issuer: LoopbackIssuer, opened: Open) -> None:
    if name == "other material under the same id":
        issuer.all.remove(issuer.all[1])
        issuer.all.append(made_key("first")[1])
    (BAD_SETS | BAD_ANSWERS)[name](issuer)
    async with opened(issuer.issuer) as verifier:
        for _ in range(3):
            with pytest.raises(DiscoveryError):
                await verifier.verify_body(issuer.sealed_body())
    assert issuer.discoveries() == 1


def redirecting(issuer: LoopbackIssuer) -> None:
    issuer.answers[METADATA] = (302, {"location": f"{issuer.issuer}/elsewhere"}, b"")


def endless(request: BaseHTTPRequestHandler) -> None:
    """A body without an end."""
    request.send_response(200)
    request.send_header("content-type", "application/json")
    request.end_headers()
    request.close_connection = True
    try:
        while True:
            request.wfile.write(b" " * 65_536)
    except OSError:
        pass


def coded(issuer: LoopbackIssuer) -> None:
    status, headers, body = issuer.answer(JWKS)
    issuer.answers[JWKS] = (status, headers | {"content-encoding": "gzip"}, body)


BROKEN: dict[str, Spoil] = {
    "redirects": redirecting,
    "endless metadata": lambda issuer: issuer.handlers.update({METADATA: endless}),
    "endless keys": lambda issuer: issuer.handlers.update({JWKS: endless}),
    "a history of a megabyte": lambda issuer: issuer.put(HISTORY, b"a" * 1_048_576, "application/jwt"),
    "fails": lambda issuer: issuer.put(METADATA, b"", status=500),
    "is gone": lambda issuer: issuer.put(JWKS, b"", status=404),
    "is a page": lambda issuer: issuer.put(METADATA, issuer.metadata(), "text/html"),
    "has a content coding": coded,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_endpoint_fails_nothing_whose_key_is_known(
    name: str, issuer: LoopbackIssuer, opened: Open, clock: FixedClock
) -> None:
    body = issuer.sealed_body()
    async with opened(issuer.issuer) as verifier:
        await verifier.verify_body(body)
        BROKEN[name](issuer)
        clock.advance(HALF_HOUR)
        with pytest.raises(DiscoveryError):
            await verifier.refresh(issuer.issuer)
        assert issuer.hits["/elsewhere"] == 0
        status = verifier.discovery.status(issuer.issuer)
        assert (status.refused, status.failure is None) == (False, False)
        assert "unreachable since" in (await verifier.verify_body(body)).notes[0]


async def test_a_slow_endpoint_is_given_up(issuer: LoopbackIssuer, opened: Open) -> None:
    issuer.gate.clear()
    async with opened(issuer.issuer, timeout=timedelta(milliseconds=50)) as verifier:
        with pytest.raises(DiscoveryError, match=r"ReadTimeout|too long"):
            await verifier.verify_body(issuer.sealed_body())


async def test_an_endpoint_that_drips_its_answer_is_given_up(issuer: LoopbackIssuer, opened: Open) -> None:
    """Each read succeeds in time; the head of the response never ends."""
    ended = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        with suppress(OSError):
            request.wfile.write(b"HTTP/1.1 200 OK\r\nx-endless: ")
            while not ended.wait(0.02):
                request.wfile.write(b"a")

    body = issuer.sealed_body()
    async with opened(issuer.issuer, timeout=timedelta(milliseconds=100)) as verifier:
        issuer.handlers[METADATA] = drip
        with pytest.raises(DiscoveryError, match="too long"):
            await verifier.verify_body(body)
        issuer.handlers.clear()
        await verifier.refresh(issuer.issuer)  # the one given up stands in nobody's way
        await verifier.verify_body(body)
        ended.set()


async def test_an_outage_of_a_day_fails_no_known_key_and_one_of_a_month_does(opened: Open, clock: FixedClock) -> None:
    with serve_issuer() as issuer:
        body, unknown = issuer.sealed_body(), issuer.sealed_body(seed="never published")
        verifying = opened(issuer.issuer)
        verifier = await verifying.__aenter__()
        await verifier.verify_body(body)
    try:
        for _ in range(25):
            clock.advance(timedelta(hours=1))
            assert (await verifier.verify_body(body)).claims.iss == issuer.issuer
        with pytest.raises(DiscoveryError):
            await verifier.verify_body(unknown)
        clock.advance(timedelta(days=30))
        with pytest.raises(DiscoveryError, match="could not be fetched"):
            await verifier.verify_body(body)
    finally:
        await verifying.__aexit__(None, None, None)


async def test_a_flood_of_unknown_keys_asks_at_most_twice_a_minute(issuer: LoopbackIssuer, opened: Open, clock: FixedClock) -> None:
    body = issuer.sealed_body()
    unknown = [f"{n:043d}" for n in range(10_000)]
    async with opened(issuer.issuer) as verifier:
        await verifier.verify_body(body)
        clock.advance(timedelta(minutes=1))
        keys_of = verifier.discovery.keys_of
        for kid in unknown:
            found = keys_of(issuer.issuer, kid)
            found = await found if asyncio.iscoroutine(found) else found
            assert found.find(kid, KeyPurpose.PROVENANCE) is None
            clock.advance(timedelta(milliseconds=6))
        with pytest.raises(UnknownKeyError):
            await verifier.verify_body(issuer.sealed_body(seed="never published"))
    assert issuer.discoveries() <= 1 + 2 + 1  # the first, two in the minute of the flood, one at its end


async def test_a_flood_while_the_endpoint_fails_asks_no_more(issuer: LoopbackIssuer, opened: Open, clock: FixedClock) -> None:
    issuer.put(METADATA, b"", status=503)
    async with opened(issuer.issuer) as verifier:
        for n in range(600):
            found = verifier.discovery.keys_of
            with pytest.raises(DiscoveryError):
                keys = found(issuer.issuer, f"{n:043d}")
                await keys
            clock.advance(timedelta(milliseconds=100))
    assert issuer.discoveries() == 2


async def test_a_key_id_that_is_unknown_is_asked_for_once_a_minute(issuer: LoopbackIssuer, opened: Open, clock: FixedClock) -> None:
    body = issuer.sealed_body(seed="never published")
    async with opened(issuer.issuer) as verifier:
        for _ in range(6):
            with pytest.raises(UnknownKeyError):
                await verifier.verify_body(body)
            clock.advance(timedelta(seconds=20))
    assert issuer.discoveries() == 2


async def test_a_known_key_never_waits(issuer: LoopbackIssuer, opened: Open, clock: FixedClock) -> None:
    """Neither for the refresh of old keys, nor for somebody who asks for an unknown key."""
    body, unknown = issuer.sealed_body(), issuer.sealed_body(seed="never published")
    async with opened(issuer.issuer) as verifier:
        await verifier.verify_body(body)
        issuer.gate.clear()
        issuer.asked.clear()
        clock.advance(HALF_HOUR)
        for _ in range(3):
            await verifier.verify_body(body)
        await asyncio.to_thread(issuer.asked.wait)
        waiting = asyncio.create_task(verifier.verify_body(unknown))
        for _ in range(3):
            await verifier.verify_body(body)
        status = verifier.discovery.status(issuer.issuer)
        assert (status.attempted_at, status.fetched_at, status.failure) == (clock.now, START, None)  # the question hangs all the while
        assert not waiting.done()
        issuer.gate.set()
        with pytest.raises(UnknownKeyError):
            await waiting
        assert verifier.discovery.status(issuer.issuer).fetched_at == clock.now
    assert issuer.discoveries() == 2


async def test_many_first_callers_ask_once(issuer: LoopbackIssuer, opened: Open) -> None:
    body = issuer.sealed_body()
    async with opened(issuer.issuer) as verifier:
        issuer.gate.clear()
        callers = [asyncio.create_task(verifier.verify_body(body)) for _ in range(12)]
        await asyncio.to_thread(issuer.asked.wait)
        issuer.gate.set()
        assert len({verified.token for verified in await asyncio.gather(*callers)}) == 1
    assert dict(issuer.hits) == {METADATA: 1, JWKS: 1, HISTORY: 1}


async def test_who_gives_up_does_not_take_the_answer_from_the_others(issuer: LoopbackIssuer, clock: FixedClock) -> None:
    body = issuer.sealed_body()
    async with AsyncVerifier([issuer.issuer], clock=clock) as verifier:
        issuer.gate.clear()
        leaving, staying = (asyncio.create_task(verifier.verify_body(body)) for _ in range(2))
        await asyncio.to_thread(issuer.asked.wait)
        leaving.cancel()
        issuer.gate.set()
        assert (await staying).claims.iss == issuer.issuer
        assert leaving.cancelled()
    assert issuer.discoveries() == 1


async def test_closing_gives_up_a_question_that_hangs(issuer: LoopbackIssuer, clock: FixedClock) -> None:
    verifier = AsyncVerifier([issuer.issuer], clock=clock)
    issuer.gate.clear()
    waiting = asyncio.create_task(verifier.verify_body(issuer.sealed_body()))
    await asyncio.to_thread(issuer.asked.wait)
    await verifier.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    issuer.gate.set()


async def test_a_new_key_is_found_when_its_first_token_comes_and_the_old_one_stays(
    issuer: LoopbackIssuer, opened: Open, clock: FixedClock
) -> None:
    old = issuer.sealed_body("old")
    async with opened(issuer.issuer) as verifier:
        await verifier.verify_body(old)
        issuer.rotate()
        clock.advance(timedelta(seconds=30))
        assert (await verifier.verify_body(issuer.sealed_body("new"))).kid == issuer.key.kid
        issuer.put(JWKS, KeySet(issuer.issuer, (issuer.history_key, issuer.key)).to_bytes())  # the old one is now only in the history
        clock.advance(HALF_HOUR)
        await verifier.refresh(issuer.issuer)
        assert (await verifier.verify_body(old)).kid != issuer.key.kid


async def test_a_revocation_is_learned_from_either_document_and_not_unlearned(
    issuer: LoopbackIssuer, opened: Open, clock: FixedClock
) -> None:
    body = issuer.sealed_body()
    async with opened(issuer.issuer) as verifier:
        await verifier.verify_body(body)
        revoked = replace(issuer.key, revoked=int(START.timestamp()))
        issuer.put(JWKS, KeySet(issuer.issuer, (issuer.history_key, revoked)).to_bytes())
        await verifier.refresh(issuer.issuer)
        for _ in range(2):
            with pytest.raises(KeyRevokedError):
                await verifier.verify_body(body)
            issuer.answers.clear()
            await verifier.refresh(issuer.issuer)


async def test_pinned_history_keys_are_the_only_root(issuer: LoopbackIssuer, opened: Open) -> None:
    """Who controls the web server, and not the history key, adds no key."""
    added = made_key("added by an intruder")[1]
    issuer.put(JWKS, KeySet(issuer.issuer, (*issuer.all, added)).to_bytes())
    forged = issuer.sealed_body(seed="added by an intruder")
    async with opened(issuer.issuer, pinned=KeySet(issuer.issuer, (issuer.history_key,))) as verifier:
        assert (await verifier.verify_body(issuer.sealed_body())).kid == issuer.key.kid
        with pytest.raises(UnknownKeyError):
            await verifier.verify_body(forged)
    async with opened(issuer.issuer) as verifier:
        assert (await verifier.verify_body(forged)).kid == added.kid  # without a pin, the web server is believed


async def test_a_history_signed_by_no_pinned_key_is_refused(issuer: LoopbackIssuer, opened: Open) -> None:
    other = made_key("other", KeyPurpose.KEY_HISTORY)[1]
    async with opened(issuer.issuer, pinned=KeySet(issuer.issuer, (other,))) as verifier:
        with pytest.raises(DiscoveryError, match="unknown key"):
            await verifier.verify_body(issuer.sealed_body())


async def test_a_kept_history_binds_the_issuer_after_a_restart(issuer: LoopbackIssuer, opened: Open) -> None:
    issuer.rotate()
    kept = open_key_history(issuer.history(), trusted=issuer.key_set(), expected_issuer=issuer.issuer)
    issuer.put(HISTORY, issuer.history(seq=0).encode(), "application/jwt")
    async with opened(issuer.issuer, histories=[kept]) as verifier:
        with pytest.raises(DiscoveryError, match="older"):
            await verifier.verify_body(issuer.sealed_body())


async def test_an_issuer_that_is_only_pinned_is_never_asked(issuer: LoopbackIssuer, opened: Open) -> None:
    async with opened(pinned=issuer.key_set()) as verifier:
        assert (await verifier.verify_body(issuer.sealed_body())).claims.iss == issuer.issuer
        with pytest.raises(UnknownKeyError):
            await verifier.verify_body(issuer.sealed_body(seed="never published"))
        with pytest.raises(DiscoveryError):
            await verifier.refresh(issuer.issuer)
    assert not issuer.hits


async def test_a_pinned_key_needs_no_answer_and_learns_of_its_revocation(issuer: LoopbackIssuer, opened: Open) -> None:
    body, pinned = issuer.sealed_body(), issuer.key_set()
    issuer.all[1] = replace(issuer.key, revoked=int(START.timestamp()))
    issuer.gate.clear()
    async with opened(issuer.issuer, pinned=pinned) as verifier:
        await verifier.verify_body(body)
        await asyncio.to_thread(issuer.asked.wait)
        issuer.gate.set()
        await verifier.refresh(issuer.issuer)
        with pytest.raises(KeyRevokedError):
            await verifier.verify_body(body)


async def test_keys_of_one_issuer_say_nothing_for_another(opened: Open) -> None:
    with serve_issuer() as one, serve_issuer() as other:
        relabelled = one.sealed_body(iss=other.issuer, seed="only of the first")
        one.all.append(made_key("only of the first")[1])
        async with opened(one.issuer, other.issuer) as verifier:
            with pytest.raises(UnknownKeyError):
                await verifier.verify_body(relabelled)


def test_a_verifier_that_trusts_nobody_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one issuer"):
        Verifier()
    with pytest.raises(TypeError, match="collection"):
        Verifier("https://api.example.com")


async def test_proxies_of_the_environment_are_not_used(issuer: LoopbackIssuer, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_issuer() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.issuer)
        async with opened(issuer.issuer) as verifier:
            await verifier.verify_body(issuer.sealed_body())
        assert not proxy.hits


async def test_a_cookie_is_not_sent_back(issuer: LoopbackIssuer, opened: Open, clock: FixedClock) -> None:
    seen: list[str | None] = []

    def setting(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers["cookie"])
        request.send_response(200)
        for name, value in {"content-type": "application/json", "set-cookie": "who=you", "content-length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    body = issuer.metadata()
    issuer.handlers[METADATA] = setting
    async with opened(issuer.issuer) as verifier:
        await verifier.refresh(issuer.issuer)
        await verifier.refresh(issuer.issuer)
    assert seen == [None, None]


async def test_a_client_of_the_callers_is_used_and_left_open(issuer: LoopbackIssuer, clock: FixedClock) -> None:
    with httpx.Client(headers={"user-agent": "mine"}, auth=("user", "secret"), follow_redirects=True) as client:
        seen: list[tuple[str, str | None]] = []

        def noting(request: BaseHTTPRequestHandler) -> None:
            seen.append((request.headers["user-agent"], request.headers["authorization"]))
            request.send_response(302)
            request.send_header("location", f"{issuer.issuer}/elsewhere")
            request.send_header("content-length", "0")
            request.end_headers()

        issuer.handlers[METADATA] = noting
        with Verifier([issuer.issuer], client=client, clock=clock) as verifier, pytest.raises(DiscoveryError, match="redirects"):
            await asyncio.to_thread(verifier.verify_body, issuer.sealed_body())
        assert not client.is_closed
        assert (seen, issuer.hits["/elsewhere"]) == ([("mine", None)], 0)


def test_without_address_checks_the_client_finds_the_way() -> None:
    """`unsafe_any_address` is for proxies and private networks: the name is the client's to resolve."""
    keys = Keys("https://ai.internal")
    documents = {
        METADATA: ("application/json", metadata_for(keys.issuer)),
        JWKS: ("application/json", keys.key_set().to_bytes()),
        HISTORY: ("application/jwt", keys.history().encode()),
    }

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "ai.internal"
        media_type, body = documents[request.url.path]
        return httpx.Response(200, content=body, headers={"content-type": media_type})

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        verifier = Verifier([keys.issuer], client=client, clock=FixedClock(START), unsafe_any_address=True)
        assert verifier.verify_body(keys.sealed_body()).claims.iss == keys.issuer


def metadata_for(issuer: str) -> bytes:
    return json.dumps({"ver": 1, "issuer": issuer, "jwks_uri": issuer + JWKS, "key_history_uri": issuer + HISTORY}).encode()
