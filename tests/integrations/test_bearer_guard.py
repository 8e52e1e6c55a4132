"""Guarded requests that present a bearer token of another authorization server, against its real key endpoint on loopback."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from authorization_server import JWKS_PATH, NOW, Served, ed25519_key, serve_authorization
from kit import CHAT, ISSUER, REQUEST, Answer, Kit, ask, whole
from provisioned import Provider
from tos_guard.config import BearerSettings
from tos_guard.errors import AuthenticationError, ConfigurationError, RequestError
from tos_guard.guard import Guard, RequestView
from tos_guard.protocols import BearerAuthenticator
from tos_guard.remote import BearerVerifier, JWKSPolicy
from tos_guard.rights import Account, BearerIdentity
from tos_guard.verify import verify_body

BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}'


@pytest.fixture
def server() -> Iterator[Served]:
    with serve_authorization() as served:
        yield served


@asynccontextmanager
async def guarded(
    server: Served, *, policy: dict[str, Any] | None = None, ready: bool = True, keys: JWKSPolicy | None = None
) -> AsyncIterator[Kit]:
    """A guard that takes the server's tokens beside its own keys. It has the server's keys, unless it is to fetch them itself."""
    verifier = BearerVerifier([(server.policy(**(policy or {})), server.source(policy=keys or JWKSPolicy()))])
    if ready:
        await asyncio.to_thread(verifier.refresh)
    kit = Kit(clock=server.clock, overrides={"bearer": verifier})
    try:
        yield kit
    finally:
        server.http.gate.set()
        await asyncio.to_thread(verifier.close)


async def present(kit: Kit, token: str, *, scheme: str = "Bearer", body: bytes = REQUEST) -> Answer:
    return await ask(kit.wrap(whole(BODY)), headers=[(b"authorization", f"{scheme} {token}".encode())], body=body)


def problem(answer: Answer) -> dict[str, Any]:
    """What a refusal says, without the id of the request."""
    error: dict[str, Any] = json.loads(answer.body)["error"]
    return {name: value for name, value in error.items() if name != "request_id"}


async def test_a_token_names_the_account_as_an_api_key_does(server: Served) -> None:
    async with guarded(server) as kit:
        for answer in (await present(kit, server.token()), await present(kit, server.token(), scheme="bearer")):
            assert answer.status == 200
            verify_body(answer.body, trust=kit.trust, now=kit.clock())
        assert (await ask(kit.wrap(whole(BODY)), key=kit.key)).status == 200
        kit.store.flush()
        assert len(kit.store.of_account(ISSUER, "acme")) == 3


async def test_a_token_that_expires_while_the_body_comes_opens_nothing(server: Served) -> None:
    """As a key does not: else a request, or a stream of them, that is kept open outlives its token."""
    async with guarded(server) as kit:
        for seconds, status in ((50, 200), (62, 401)):
            app, now = kit.wrap(whole(BODY)), int(server.clock().timestamp())

            async def slow(scope: Any, receive: Any, send: Any, app: Any = app, seconds: int = seconds) -> None:
                async def read() -> Any:
                    server.pass_by(seconds=seconds)
                    return await receive()

                await app(scope, read, send)

            authorization = f"Bearer {server.token(iat=now, exp=now + 1)}".encode()
            assert (await ask(slow, headers=[(b"authorization", authorization)])).status == status


async def test_whatever_is_wrong_with_a_credential_the_answer_is_the_same(server: Served) -> None:
    """And the reason is counted, in one word of a closed set."""
    async with guarded(server) as kit:
        refused = await ask(kit.wrap(whole(BODY)), key="tg-abcdefghijkm-" + "A" * 43)
        wrong = {
            "expired": server.token(exp=NOW - 40),
            "audience": server.token(aud="https://other.example.com"),
            "issuer": server.token(iss="https://other.example.com/"),
            "signature": server.token(ed25519_key("ed-1", seed="attacker")),
            "unknown_key": server.token(header={"kid": "other"}),
            "type": server.token(header={"typ": "JWT"}),
            "bound": server.token(cnf={"jwk": {}}),
            "malformed": "nonsense",
        }
        for fault, token in wrong.items():
            answer = await present(kit, token)
            assert (answer.status, problem(answer)) == (401, problem(refused)), fault
            assert answer.headers["www-authenticate"] == "Bearer"
            assert kit.guard.counts[f"bearer:{fault}"] == 1
        unknown = await present(kit, server.token(sub="nobody"))
        assert (unknown.status, problem(unknown)) == (401, problem(refused))


@pytest.mark.parametrize(
    "headers",
    [
        lambda token: [(b"x-api-key", token)],
        lambda token: [(b"authorization", b"Basic " + token)],
        lambda token: [(b"authorization", b"DPoP " + token)],
        lambda token: [(b"authorization", token)],
        lambda token: [(b"authorization", b"Bearer  " + token)],
        lambda token: [(b"authorization", b"Bearer " + token)] * 2,
        lambda token: [(b"authorization", b"Bearer " + token), (b"x-api-key", b"tg-abcdefghijkm-" + b"A" * 43)],
        lambda token: [(b"x-account", b"acme"), (b"x-forwarded-user", b"acme")],
    ],
)
async def test_a_token_counts_in_its_own_place_alone(server: Served, headers: Any) -> None:
    async with guarded(server) as kit:
        answer = await ask(kit.wrap(whole(BODY)), headers=headers(server.token().encode()))
        assert (answer.status, problem(answer)["code"]) == (401, "tos_unauthenticated")


async def test_an_api_key_never_reaches_the_authenticator(server: Served) -> None:
    async with guarded(server) as kit:
        assert (await present(kit, "tg-nonsense")).status == 401
        assert not [word for word in kit.guard.counts if word.startswith("bearer:")]


async def test_a_token_for_another_organization_does_not_open_the_account(server: Served) -> None:
    async with guarded(server, policy={"organization_claim": "org"}) as kit:
        kit.store.add_account(Account(id="member", organization="acme-corp", models=frozenset({"small"})))
        expected = {("member", "acme-corp"): 200, ("member", "other"): 401, ("member", ...): 200, ("acme", "acme-corp"): 401}
        for (sub, org), status in expected.items():
            assert (await present(kit, server.token(sub=sub, org=org))).status == status, (sub, org)


async def test_one_end_user_that_a_token_names_can_be_blocked(server: Served) -> None:
    """Whatever the request's body says of its end user, which is the application's own word."""
    body = b'{"model":"small","user":"other","messages":[{"role":"user","content":"hi"}]}'
    async with guarded(server, policy={"end_user_claim": "user"}) as kit:
        kit.store.block_end_user("acme", kit.guard.end_user_hash("acme", "u-7"), "test")
        blocked = await present(kit, server.token(user="u-7"), body=body)
        assert (blocked.status, problem(blocked)["code"]) == (403, "tos_end_user_blocked")
        assert (await present(kit, server.token(user="u-8"), body=body)).status == 200
        kit.store.block_end_user("acme", kit.guard.end_user_hash("acme", "other"), "test")
        assert (await present(kit, server.token(user="u-8"), body=body)).status == 200
        assert (await present(kit, server.token(), body=body)).status == 403


async def test_the_first_requests_wait_for_the_first_keys_together(server: Served) -> None:
    """While the event loop and its threads serve others: looking up the account of an API key takes one."""
    async with guarded(server, ready=False) as kit:
        server.http.gate.clear()
        waiting = [asyncio.create_task(present(kit, server.token(jti=f"{number}"))) for number in range(100)]
        assert await asyncio.to_thread(server.http.asked.wait, 30)
        assert (await ask(kit.wrap(whole(BODY)), key=kit.key)).status == 200
        waiting[0].cancel()
        server.http.gate.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert [answer.status for answer in answers[1:] if isinstance(answer, Answer)] == [200] * 99
        assert server.fetches == 1


async def test_the_wait_for_the_first_keys_is_bounded(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tos_guard.guard._colours._FIRST_KEYS_SECONDS", 0.05)
    async with guarded(server, ready=False) as kit:
        server.http.gate.clear()
        answer = await present(kit, server.token())
        assert (answer.status, problem(answer)["code"]) == (503, "tos_unavailable")


async def test_without_any_keys_nobody_can_be_judged_and_that_is_our_failure(server: Served) -> None:
    """503 at once between two questions, and keys of our own are served all the while."""
    server.http.put(JWKS_PATH, b"down", "text/plain", 503)
    async with guarded(server, ready=False) as kit:
        for _ in range(3):
            answer = await present(kit, server.token())
            assert (answer.status, problem(answer)["code"], answer.headers["x-should-retry"]) == (503, "tos_unavailable", "true")
        assert server.fetches == 1
        assert (await ask(kit.wrap(whole(BODY)), key=kit.key)).status == 200
        counts = kit.guard.counts
        assert (counts["bearer_keys:denied"], counts["bearer_keys:unreachable"], counts["failed:bearer_keys"]) == (3, 1, 1)


@pytest.mark.parametrize(("mode", "status", "counted"), [("local", 200, "degraded:bearer_keys:local"), ("deny", 503, "bearer_keys:denied")])
async def test_the_failure_mode_decides_when_the_endpoint_is_down(server: Served, mode: Any, status: int, counted: str) -> None:
    async with guarded(server, keys=JWKSPolicy(mode=mode)) as kit:
        token = server.token(exp=NOW + 3_600)
        server.http.put(JWKS_PATH, b"down", "text/plain", 503)
        server.pass_by(minutes=14)
        assert (await present(kit, token)).status == 200
        assert kit.guard.counts[counted] == 0
        server.pass_by(minutes=1)
        assert [(await present(kit, token)).status for _ in range(3)] == [status] * 3
        assert kit.guard.counts[counted] == 3


async def test_a_token_is_verified_on_the_event_loop(server: Served) -> None:
    """No thread in between: what it takes is at hand."""
    served_in: list[threading.Thread] = []

    class Authenticator:
        def verify(self, token: str, now: datetime) -> BearerIdentity:
            served_in.append(threading.current_thread())
            return verifier.verify(token, now)

        def first_keys(self, token: str) -> Future[None] | None:
            return verifier.first_keys(token)

        def watch(self, told: Any) -> None:
            pass

        def fetched(self) -> dict[str, datetime]:
            return verifier.fetched()

        def close(self) -> None:
            pass

    verifier = BearerVerifier([(server.policy(), server.source())])
    await asyncio.to_thread(verifier.refresh)
    authenticator = Authenticator()
    assert isinstance(authenticator, BearerAuthenticator)
    kit = Kit(clock=server.clock, overrides={"bearer": authenticator})
    assert (await present(kit, server.token())).status == 200
    assert verifier.fetched() == {server.issuer: kit.clock()}
    assert served_in == [threading.current_thread()]
    await asyncio.to_thread(verifier.close)


def view(token: str) -> RequestView:
    return RequestView("POST", CHAT, [(b"authorization", f"Bearer {token}".encode())])


def test_the_synchronous_guard_goes_the_same_way(server: Served) -> None:
    """It waits for the first keys itself, and is refused as the other is."""
    verifier = BearerVerifier([(server.policy(person_claim="name"), server.source())])
    kit = Kit(clock=server.clock)
    guard = Guard(
        kit.guard.settings,
        terms=kit.guard.terms,
        accounts=kit.store,
        records=kit.store,
        signer=kit.signer,
        pepper=kit.store.pepper(),
        clock=kit.clock,
        bearer=verifier,
    )
    caller = guard.run(guard.authenticate(view(server.token(name="Ada"))))
    assert caller.identity is not None
    assert (caller.account.id, caller.identity.person, server.fetches) == ("acme", "Ada", 1)
    assert guard.run(guard.authenticate(view(kit.key))).identity is None
    with pytest.raises(AuthenticationError):
        guard.run(guard.authenticate(view(server.token(exp=NOW - 40))))
    server.http.put(JWKS_PATH, b"down", "text/plain", 503)
    server.pass_by(days=8)
    with pytest.raises(RequestError) as refused:
        guard.run(guard.authenticate(view(server.token())))
    assert refused.value.status == 503
    guard.close_stores()


def test_it_is_plain_who_says_who_asks(server: Served) -> None:
    """A setting that nothing acts on, and two who would both name the account, stop the start."""
    settings = {"bearer": [BearerSettings(issuer=server.issuer, jwks_uri=server.uri, audience=("a",))]}
    with pytest.raises(ConfigurationError, match="nothing verifies their tokens"):
        Kit(settings=settings)
    with pytest.raises(ConfigurationError, match="the host identifies, and so do bearer tokens"):
        Kit(overrides={"bearer": BearerVerifier([(server.policy(), server.source())]), "identify": lambda _: "acme"})


@pytest.mark.parametrize("mode", ["local", "deny"])
def test_the_settings_file_makes_the_verifier_and_closing_the_guard_ends_its_thread(tmp_path: Path, server: Served, mode: str) -> None:
    before = set(threading.enumerate())

    def asking() -> bool:
        return any(thread.name == "tos-guard-bearer-keys" for thread in set(threading.enumerate()) - before)

    provider = Provider(tmp_path)
    bearer = f'[[bearer]]\nissuer = "{server.issuer}"\njwks_uri = "{server.uri}"\naudience = "a"\n'
    provider.settings.write_text(f'{provider.settings.read_text()}\n[failure]\nbearer_keys = "{mode}"\n\n{bearer}')
    guard = Guard.from_file(provider.settings)
    verifier = guard._bearer
    assert isinstance(verifier, BearerVerifier)
    (status,) = verifier.refresh()
    assert (status.issuer, status.uri, status.mode, status.kids) == (server.issuer, server.uri, mode, ("ed-1",))
    assert asking()
    guard.close_stores()
    assert not asking()


def test_a_guard_without_authorization_servers_loads_no_network_client(tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    code = f"import sys; from tos_guard.guard import Guard; Guard.from_file({str(provider.settings)!r}); sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
