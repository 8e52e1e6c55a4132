"""The gRPC provider behind nginx (`grpc_pass`): every kind is verified by a channel that sees only the proxy."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from other_servers import nginx
from provider_grpc.server import serving
from provider_grpc.text_pb2 import Prompt
from provider_grpc.text_pb2_grpc import TextStub
from provisioned import SAMPLE, now
from tos_guard.rights import Account, hash_secret, new_api_key
from tos_guard.stores import KeyFolder, SQLiteStore
from tos_guard.verifier import Verifier
from tos_guard.verify import Trust
from tos_guard_grpc import verified, verified_channel

ISSUER = "https://api.example.com"
EXAMPLE = Path(__file__).parents[2] / "examples" / "provider_grpc" / "tos-guard.toml"


class Behind:
    """The provider with its settings, and the address of the proxy in front."""

    def __init__(self, folder: Path) -> None:
        KeyFolder(folder / "keys").create(ISSUER, now=now())
        self.settings = folder / "tos-guard.toml"
        self.settings.write_text(EXAMPLE.read_text().replace("../terms/sample-2026-11.toml", str(SAMPLE)))
        with SQLiteStore(folder / "tos-guard.db", issuer=ISSUER, clock=now) as store:
            account = Account(id="reader", models=frozenset({"storyteller"}), actions=frozenset({"generate"}), region="DE")
            store.add_account(account)
            key = new_api_key(secrets.token_bytes)
            store.add_api_key("reader", key.public_id, hash_secret(key.secret, store.pepper()))
        self.credential = (("authorization", f"Bearer {key.text}"),)
        self.keys = KeyFolder(folder / "keys").public_set(now())
        self.target = ""


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """Provider and proxy."""
    provider = Behind(tmp_path_factory.mktemp("provider"))
    with serving(provider.settings) as upstream:
        location = f"location / {{ grpc_pass grpc://{upstream}; grpc_read_timeout 30s; client_max_body_size 64m; }}"
        with nginx(tmp_path_factory.mktemp("nginx"), location, http2=True) as url:
            provider.target = url.removeprefix("http://")
            yield provider


@pytest.fixture
def stub(behind: Behind) -> Iterator[Any]:
    """A stub over a channel that verifies."""
    with (
        Verifier([], pinned=behind.keys) as verifier,
        verified_channel(grpc.insecure_channel(behind.target), verifier, issuer=ISSUER) as channel,
    ):
        yield TextStub(channel)


def test_a_call_verifies(behind: Behind, stub: Any) -> None:
    answer, call = stub.Complete.with_call(Prompt(text="Once"), metadata=behind.credential, timeout=30)
    assert answer.text
    assert verified(call).request_checked


@pytest.mark.parametrize("kind", ["Stream", "Chat"])
def test_a_stream_verifies_to_its_end(behind: Behind, stub: Any, kind: str) -> None:
    asked: Any = Prompt(text="Once") if kind == "Stream" else iter([Prompt(text="Once"), Prompt(text="more")])
    call = getattr(stub, kind)(asked, metadata=behind.credential, timeout=30)
    assert list(call)
    assert str(verified(call).claims.completion) == "complete"


def test_a_stream_of_requests_verifies(behind: Behind, stub: Any) -> None:
    answer, call = stub.Collect.with_call(iter([Prompt(text="Once"), Prompt(text="more")]), metadata=behind.credential, timeout=30)
    assert answer.text
    assert verified(call).claims.model == "storyteller"


def test_a_refusal_keeps_its_details(behind: Behind, stub: Any) -> None:
    """The status and its structured details pass the proxy."""
    with pytest.raises(grpc.RpcError) as refused:
        stub.Complete(Prompt(text="Once"), timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert b"tos_unauthenticated" in dict(refused.value.trailing_metadata())["grpc-status-details-bin"]


def test_metadata_of_the_user_still_fits(behind: Behind, stub: Any) -> None:
    """5 KB of the user's own, beside what the guard reads and adds."""
    metadata = (*behind.credential, ("x-users-own", "x" * 5_000))
    _, call = stub.Complete.with_call(Prompt(text="Once"), metadata=metadata, timeout=30)
    assert verified(call).claims.iss == ISSUER
    assert Trust.of(behind.keys)
