"""Bound credentials at a guarded app: proven by their holder they are served, stolen they are not (RFC 9449, RFC 8705)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from authorization_server import Served, serve_authorization
from dpop_kit import Holder
from kit import CHAT, ISSUER, REQUEST, Answer, Kit, Scope, ask, whole
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.protocols import Use
from tos_guard.remote import BearerVerifier
from tos_guard.rights import certificate_thumbprint
from tos_guard.stores import FallbackReplays, MemoryReplays

BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}'
URI = ISSUER + CHAT


@dataclass
class Desk:
    """A guard that takes bound tokens, and somebody who holds a key."""

    kit: Kit
    server: Served
    holder: Holder

    @property
    def now(self) -> float:
        return self.kit.clock().timestamp()

    def bound(self, **claims: Any) -> str:
        """A token that is bound to the holder's key."""
        return self.server.token(**({"cnf": {"jkt": self.holder.thumbprint}} | claims))

    async def present(
        self, token: str, *proofs: str, scheme: str = "DPoP", more: list[tuple[bytes, bytes]] | None = None, **scope: Any
    ) -> Answer:
        """A request with a token and so many proofs."""
        headers = [(b"authorization", f"{scheme} {token}".encode()), *((b"dpop", proof.encode()) for proof in proofs), *(more or [])]
        app = self.kit.wrap(whole(BODY))

        async def changed(given: Scope, receive: Any, send: Any) -> None:
            await app({**given, **scope}, receive, send)

        return await ask(changed, headers=headers, body=REQUEST)

    def refusal(self, answer: Answer) -> tuple[int, str, str | None]:
        """Status, the word of the challenge, and the nonce."""
        said = answer.headers["www-authenticate"]
        return answer.status, said.partition('error="')[2].partition('"')[0] or said, answer.headers.get("dpop-nonce")


@asynccontextmanager
async def desk(*, age: float = 60.0, overrides: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Desk]:
    with serve_authorization() as server:
        verifier = BearerVerifier([(server.policy(), server.source())])
        await asyncio.to_thread(verifier.refresh)
        replays = MemoryReplays(clock=server.clock)
        kit = Kit(
            clock=server.clock,
            settings={"dpop": {}, **settings},
            overrides={"bearer": verifier, "replays": replays, **(overrides or {})},
        )
        server.pass_by(seconds=age)
        try:
            yield Desk(kit, server, Holder())
        finally:
            await asyncio.to_thread(verifier.close)


def counted(desk: Desk, fault: str) -> int:
    return desk.kit.guard.counts[f"proof:{fault}"]


async def test_a_bound_token_is_served_to_whoever_proves_its_key() -> None:
    async with desk() as at:
        token = at.bound()
        for scheme in ("DPoP", "dpop"):
            assert (await at.present(token, at.holder.proof(token, uri=URI, now=at.now), scheme=scheme)).status == 200


async def test_a_stolen_token_is_of_no_use() -> None:
    async with desk() as at:
        token, thief = at.bound(), Holder()
        proof = at.holder.proof(token, uri=URI, now=at.now)
        other = at.bound(jti="t-2")
        tries = [
            ("missing", "invalid_dpop_proof", await at.present(token)),
            ("missing", "invalid_dpop_proof", await at.present(token, scheme="Bearer")),
            ("missing", "invalid_dpop_proof", await at.present(token, proof, scheme="Bearer")),
            ("key", "invalid_token", await at.present(token, thief.proof(token, uri=URI, now=at.now))),
            ("credential", "invalid_dpop_proof", await at.present(other, proof)),
            ("request", "invalid_dpop_proof", await at.present(token, at.holder.proof(token, uri=URI, now=at.now, method="GET"))),
            (
                "request",
                "invalid_dpop_proof",
                await at.present(token, at.holder.proof(token, uri="https://evil.example" + CHAT, now=at.now)),
            ),
            ("malformed", "invalid_dpop_proof", await at.present(token, proof, proof)),
            ("malformed", "invalid_dpop_proof", await at.present(token, "nonsense")),
            ("signature", "invalid_dpop_proof", await at.present(token, proof[:-8] + "AAAAAAAA")),
        ]
        seen: dict[str, int] = {}
        for fault, word, answer in tries:
            seen[fault] = seen.get(fault, 0) + 1
            status, said, nonce = at.refusal(answer)
            assert (status, said, nonce is not None) == (401, word, True), fault
            assert json.loads(answer.body)["error"]["code"] == "tos_unauthenticated"
        for fault, count in seen.items():
            assert counted(at, fault) == count, fault
        assert (await at.present(token, proof)).status == 200  # none of that has used it up


async def test_what_a_request_says_of_its_host_does_not_count() -> None:
    async with desk() as at:
        token = at.bound()
        for more in ([(b"host", b"evil.example")], [(b"x-forwarded-host", b"evil.example"), (b"forwarded", b"host=evil.example")]):
            evil = at.holder.proof(token, uri=f"https://evil.example{CHAT}", now=at.now)
            assert (await at.present(token, evil, more=more)).status == 401
            assert (await at.present(token, at.holder.proof(token, uri=URI, now=at.now), more=more)).status == 200


async def test_a_proof_is_used_once_even_by_a_hundred_at_once() -> None:
    async with desk() as at:
        token = at.bound()
        proof = at.holder.proof(token, uri=URI, now=at.now)
        answers = await asyncio.gather(*(at.present(token, proof) for _ in range(100)))
        assert sorted(answer.status for answer in answers) == [200] + [401] * 99
        assert counted(at, "replayed") == 99


async def test_a_client_learns_the_nonce_it_needs() -> None:
    """As RFC 9449 section 9 says: refused with a nonce, it proves again with that, and is served."""
    async with desk(dpop={"require_nonce": True}) as at:
        token = at.bound()
        refused = await at.present(token, at.holder.proof(token, uri=URI, now=at.now))
        status, word, nonce = at.refusal(refused)
        assert (status, word) == (401, "use_dpop_nonce")
        assert 'algs="ES256 ' in refused.headers["www-authenticate"]
        assert (await at.present(token, at.holder.proof(token, uri=URI, now=at.now, nonce=nonce))).status == 200
        at.server.pass_by(seconds=299)
        assert (await at.present(token, at.holder.proof(token, uri=URI, now=at.now, nonce=nonce))).status == 200
        at.server.pass_by(seconds=2)
        assert at.refusal(await at.present(token, at.holder.proof(token, uri=URI, now=at.now, nonce=nonce)))[1] == "use_dpop_nonce"


async def test_a_client_whose_clock_is_wrong_takes_the_time_from_a_nonce() -> None:
    async with desk() as at:
        token = at.bound()
        wrong = at.now - 4_000
        _, word, nonce = at.refusal(await at.present(token, at.holder.proof(token, uri=URI, now=wrong)))
        assert (word, counted(at, "time")) == ("use_dpop_nonce", 1)
        assert (await at.present(token, at.holder.proof(token, uri=URI, now=wrong, nonce=nonce))).status == 200


async def test_what_may_have_been_used_before_we_began_is_asked_for_again() -> None:
    async with desk(age=0.0) as at:
        token = at.bound()
        _, word, nonce = at.refusal(await at.present(token, at.holder.proof(token, uri=URI, now=at.now)))
        assert (word, counted(at, "forgotten")) == ("use_dpop_nonce", 1)
        at.server.pass_by(seconds=1)
        _, _, nonce = at.refusal(await at.present(token, at.holder.proof(token, uri=URI, now=at.now - 2)))
        assert (await at.present(token, at.holder.proof(token, uri=URI, now=at.now, nonce=nonce))).status == 200


async def test_a_proof_for_a_credential_that_is_not_bound_is_refused() -> None:
    """Section 7.1: whoever proves a key believes that the token is bound to it."""
    async with desk() as at:
        token = at.server.token()
        assert (await at.present(token, at.holder.proof(token, uri=URI, now=at.now))).status == 401
        assert (await at.present(at.kit.key, at.holder.proof(at.kit.key, uri=URI, now=at.now))).status == 401
        assert counted(at, "scheme") == 2
        assert (await at.present(token, scheme="Bearer")).status == 200


async def test_without_the_setting_no_bound_token_is_accepted() -> None:
    async with desk(dpop=None, mutual_tls=None) as at:
        for token in (at.bound(), at.server.token(cnf={"x5t#S256": "A" * 43})):
            answer = await at.present(token, at.holder.proof(token, uri=URI, now=at.now))
            assert (answer.status, answer.headers.get("dpop-nonce")) == (401, None)
            assert (await at.present(token, scheme="Bearer")).status == 401


class Down:
    """A replay cache that is down."""

    blocks = False

    def use(self, use: bytes, *, made_after: datetime, keep: timedelta) -> Use:
        raise StoreError("the engine is down")

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(("is_local", "statuses"), [(False, [503, 503, 503]), (True, [200, 401, 200])])
async def test_when_it_is_not_known_what_was_used_the_mode_decides(is_local: bool, statuses: list[int]) -> None:
    uses: list[StoreError] = []
    async with desk() as at:
        engine = FallbackReplays(Down(), is_local=is_local, on_use=uses.append, clock=lambda: at.kit.clock() - timedelta(hours=1))
        at.kit.guard._replays = engine
        token = at.bound()
        proofs = [at.holder.proof(token, uri=URI, now=at.now) for _ in range(2)]
        found = [(await at.present(token, proof)).status for proof in (proofs[0], proofs[0], proofs[1])]
        assert found == statuses
        assert (len(uses), at.kit.guard.counts["failed:replay"]) == ((3, 0) if is_local else (0, 3))


def test_proofs_are_not_accepted_where_nothing_knows_which_were_used() -> None:
    with pytest.raises(ConfigurationError, match="nothing knows which were used"):
        Kit(settings={"dpop": {}})


# Certificates


def certificate(name: str = "client") -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        .sign(key, SHA256())
    )


CLIENT = certificate()
DER = CLIENT.public_bytes(Encoding.DER)
BOUND = {"cnf": {"x5t#S256": certificate_thumbprint(DER)}}


def tls(shown: x509.Certificate, error: str | None = None) -> dict[str, Any]:
    """ASGI's extension for a connection whose client has shown a certificate."""
    chain = [shown.public_bytes(Encoding.PEM).decode()]
    return {"extensions": {"tls": {"client_cert_chain": chain, "client_cert_error": error}}}


def field(shown: x509.Certificate) -> tuple[bytes, bytes]:
    return b"client-cert", b":" + base64.b64encode(shown.public_bytes(Encoding.DER)) + b":"


async def test_a_token_bound_to_a_certificate_is_served_on_its_connection_alone() -> None:
    async with desk(mutual_tls={}) as at:
        token = at.server.token(**BOUND)
        assert (await at.present(token, scheme="Bearer", **tls(CLIENT))).status == 200
        refused = [
            await at.present(token, scheme="Bearer"),
            await at.present(token, scheme="Bearer", **tls(certificate())),
            await at.present(token, scheme="Bearer", **tls(CLIENT, error="expired")),
            await at.present(token, scheme="Bearer", more=[field(CLIENT)]),
            await at.present(token, scheme="Bearer", more=[field(CLIENT)], **tls(CLIENT)),
        ]
        assert [answer.status for answer in refused] == [401] * 5
        assert counted(at, "certificate") == 5
        assert all("another certificate" in answer.headers["www-authenticate"] for answer in refused)


PROXY = {"client": ("10.1.2.3", 4711)}


async def test_behind_a_proxy_the_proxy_says_which_certificate_it_was() -> None:
    async with desk(mutual_tls={"proxies": ["10.1.0.0/16", "2001:db8::1"]}) as at:
        token = at.server.token(**BOUND)
        for client in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"):
            assert (await at.present(token, scheme="Bearer", more=[field(CLIENT)], client=(client, 1))).status == 200, client
        for client in ("10.2.2.3", "2001:db8::2", "", "unix", "10.1.2.3.4"):
            assert (await at.present(token, scheme="Bearer", more=[field(CLIENT)], client=(client, 1))).status == 401, client
        assert (await at.present(token, scheme="Bearer", more=[field(CLIENT)], client=None)).status == 401


@pytest.mark.parametrize(
    "more", [[], [field(certificate())], [field(CLIENT)] * 2, [(b"client-cert", b"nonsense")], [(b"client-cert", b":AA==:;a")]]
)
async def test_a_field_that_is_not_the_certificate_proves_nothing(more: list[tuple[bytes, bytes]]) -> None:
    """The connection's own certificate is the proxy's then, and no answer to it."""
    async with desk(mutual_tls={"proxies": ["10.1.2.3"]}) as at:
        token = at.server.token(**BOUND)
        assert (await at.present(token, scheme="Bearer", more=more, **PROXY, **tls(CLIENT))).status == 401


async def test_a_field_from_anybody_else_is_refused_whatever_the_credential() -> None:
    """Whoever sends it means to be believed; passing it over would hide a proxy that is missing from the settings."""
    async with desk(mutual_tls={"proxies": ["10.1.2.3"]}) as at:
        assert (await at.present(at.kit.key, scheme="Bearer", more=[field(CLIENT)])).status == 401
        assert (await at.present(at.kit.key, scheme="Bearer")).status == 200


async def test_a_token_may_be_bound_to_both() -> None:
    async with desk(mutual_tls={}) as at:
        token = at.server.token(cnf={"jkt": at.holder.thumbprint, **BOUND["cnf"]})

        def proof() -> str:
            return at.holder.proof(token, uri=URI, now=at.now)

        assert (await at.present(token, proof(), **tls(CLIENT))).status == 200
        assert (await at.present(token, proof())).status == 401
        assert (await at.present(token, scheme="Bearer", **tls(CLIENT))).status == 401


@pytest.mark.parametrize(
    "settings",
    [
        {"dpop": {"urls": ["api.example.com"]}},
        {"dpop": {"urls": ["http://api.example.com"]}},
        {"dpop": {"window_seconds": 3_600}},
        {"mutual_tls": {"proxies": ["0.0.0.0/0"]}},
        {"mutual_tls": {"proxies": ["::/0"]}},
        {"mutual_tls": {"proxies": ["proxy.example.com"]}},
        {"mutual_tls": {"proxies": ["10.1.2.3/16"]}},
    ],
)
def test_a_setting_that_would_believe_anybody_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"dpop|mutual_tls"):
        Kit(settings=settings, overrides={"replays": MemoryReplays(clock=Kit().clock)})
