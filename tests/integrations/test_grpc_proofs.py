"""Bound credentials over gRPC, at each door: a proof in metadata, or the client's certificate of the connection itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certificates import authority, issued, pem
from dpop_kit import Holder
from grpc_kit import DOORS, Door, ask, ask_on, grpc_kit, path_of
from kit import ISSUER, Kit
from tos_guard.rights import Binding, KeyTerms, certificate_thumbprint, hash_secret, new_api_key
from tos_guard.stores import MemoryReplays
from tos_guard.testing import FixedClock, SeededEntropy
from tos_guard_grpc._call import _address

KIND = "UnaryUnary"
ENTROPY = SeededEntropy("keys of these tests")


@pytest.fixture(params=DOORS, ids=lambda door: door.name)
def door(request: pytest.FixtureRequest) -> Door:
    """Each way to serve."""
    return request.param  # type: ignore[no-any-return]


def bound_kit(**settings: Any) -> Kit:
    clock = FixedClock()
    kit = grpc_kit(clock=clock, settings=settings, overrides={"replays": MemoryReplays(clock=clock)})
    clock.advance(timedelta(minutes=1))
    return kit


def key_of(kit: Kit, binding: Binding) -> str:
    key = new_api_key(ENTROPY)
    kit.store.add_api_key("acme", key.public_id, hash_secret(key.secret, kit.store.pepper()), terms=KeyTerms(binding=binding))
    return key.text


def test_a_bound_key_is_served_to_whoever_proves_it_and_once(door: Door) -> None:
    kit, holder = bound_kit(dpop={}), Holder()
    key = key_of(kit, Binding(jkt=holder.thumbprint))
    proof = holder.proof(key, uri=ISSUER + path_of(KIND), now=kit.clock().timestamp())
    proven = (("authorization", f"DPoP {key}"), ("dpop", proof))
    with door.serving(kit) as address:
        served, again = ask(address, KIND, metadata=proven), ask(address, KIND, metadata=proven)
        bare = ask(address, KIND, metadata=(("authorization", f"Bearer {key}"),))
        nonce = dict(bare.trailing)["dpop-nonce"]
        fresh = holder.proof(key, uri=ISSUER + path_of(KIND), now=0, nonce=nonce)
        with_nonce = ask(address, KIND, metadata=(("authorization", f"DPoP {key}"), ("dpop", fresh)))
    assert [told.code for told in (served, again, bare, with_nonce)] == [
        *(grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED),
        *(grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.OK),
    ]
    assert 'error="invalid_dpop_proof"' in dict(again.trailing)["www-authenticate"]
    counts = kit.guard.counts if door.is_async else None
    assert counts is None or (counts["proof:replayed"], counts["proof:missing"]) == (1, 1)


def test_a_key_bound_to_a_certificate_is_served_on_its_connection_alone(door: Door) -> None:
    """Over real mutual TLS. What metadata says of a certificate is not believed."""
    root = authority()
    server, client, other = (issued(name, root) for name in ("server", "client", "other"))
    kit = bound_kit(mutual_tls={})
    key = key_of(kit, Binding(x5t=certificate_thumbprint(client[0].public_bytes(Encoding.DER))))
    credential = (("authorization", f"Bearer {key}"),)
    port = 0

    def listen(listening: Any) -> None:
        nonlocal port
        offered = grpc.ssl_server_credentials([pem(server)], pem(root)[1], require_client_auth=True)
        port = listening.add_secure_port("127.0.0.1:0", offered)

    def call(shown: Any) -> grpc.StatusCode:
        private, chain = pem(shown)
        with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(pem(root)[1], private, chain)) as channel:
            code: grpc.StatusCode = ask_on(channel, KIND, metadata=credential).code
            return code

    with door.serving(kit, register=listen) as plain:
        codes = [call(client), call(other), ask(plain, KIND, metadata=credential).code]
        said = ask(plain, KIND, metadata=(*credential, ("client-cert", "AA==")))
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED]
    assert said.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:10.1.2.3:4711", "10.1.2.3"), ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"), ("unix:/run/x.sock", ""), ("unix:", ""), ("", "")],
)
def test_the_address_of_a_peer_is_read(peer: str, address: str) -> None:
    assert _address(peer) == address
