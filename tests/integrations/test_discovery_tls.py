"""The connection goes to the address that was checked, and the certificate must still be that of the name."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from certificates import make_certificate
from serving import serve_app
from tos_guard.errors import DiscoveryError
from tos_guard.remote._issuer import Fetch, Issuer
from tos_guard.remote._network import AsyncNetwork, Network

NAME = "issuer.test"  # RFC 6761: nobody's


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `NAME` and its key, as files."""
    return make_certificate(tmp_path_factory.mktemp("tls"), NAME)


HOSTS: list[str] = []


async def app(scope: dict[str, object], _: object, send: object) -> None:
    if scope["type"] == "http":
        HOSTS.extend(value.decode() for name, value in scope["headers"] if name == b"host")  # type: ignore[attr-defined]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"{}"})  # type: ignore[operator]


@pytest.fixture(scope="module")
def port(certificate: tuple[Path, Path]) -> Iterator[int]:
    with serve_app(app, ssl_certfile=str(certificate[0]), ssl_keyfile=str(certificate[1]), lifespan="off") as base:
        yield int(base.rpartition(":")[2])


def wanted(port: int, name: str, *addresses: str) -> Fetch:
    return Fetch(Issuer(f"https://{name}:{port}", "https", name, port), "/x", addresses or ("127.0.0.1",), 64, ("application/json",))


async def test_a_connection_made_for_one_issuer_is_not_used_for_another(port: int, certificate: tuple[Path, Path]) -> None:
    """Two issuers at one address: a pool that knows connections by address would let the first answer for the second."""
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with httpx.Client(verify=trusting, trust_env=False) as client:
        Network(client).fetch(wanted(port, NAME))
        with pytest.raises(DiscoveryError, match="CERTIFICATE_VERIFY_FAILED"):
            Network(client).fetch(wanted(port, "other.test"))
    async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
        await AsyncNetwork(client).fetch(wanted(port, NAME))
        with pytest.raises(DiscoveryError, match="CERTIFICATE_VERIFY_FAILED"):
            await AsyncNetwork(client).fetch(wanted(port, "other.test"))


def test_a_protocol_that_shares_connections_is_refused(port: int) -> None:
    answer = httpx.Response(200, content=b"{}", headers={"content-type": "application/json"}, extensions={"http_version": b"HTTP/2"})
    with httpx.Client(transport=httpx.MockTransport(lambda _: answer)) as client, pytest.raises(DiscoveryError, match="HTTP/2"):
        Network(client).fetch(wanted(port, NAME))


async def test_name_and_certificate_stay_those_of_the_issuer(port: int, certificate: tuple[Path, Path]) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    HOSTS.clear()
    with httpx.Client(verify=trusting, trust_env=False) as client:
        assert Network(client).fetch(wanted(port, NAME)).body == b"{}"
        assert Network(client).fetch(wanted(port, NAME, "127.0.0.9", "127.0.0.1")).body == b"{}"  # nobody listens on the first
        with pytest.raises(DiscoveryError, match="CERTIFICATE_VERIFY_FAILED"):
            Network(client).fetch(wanted(port, "other.test"))
    async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
        assert (await AsyncNetwork(client).fetch(wanted(port, NAME))).body == b"{}"
        with pytest.raises(DiscoveryError, match="CERTIFICATE_VERIFY_FAILED"):
            await AsyncNetwork(client).fetch(wanted(port, "other.test"))
    assert set(HOSTS) == {f"{NAME}:{port}"}


def test_a_certificate_nobody_vouches_for_is_refused(port: int) -> None:
    network = Network()
    with pytest.raises(DiscoveryError, match="CERTIFICATE_VERIFY_FAILED"):
        network.fetch(wanted(port, NAME))
    network.close()
