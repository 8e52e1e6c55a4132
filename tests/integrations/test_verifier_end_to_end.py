"""The example provider with its guard, its keys discovered, called by the official client over verifying transports."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2
import openai
import pytest

from provider_fastapi.app import create_app
from provider_fastapi.replay import ReplayModel
from provisioned import Provider, now
from serving import serve_app
from tos_guard.remote import ResponseChecks
from tos_guard.remote.httpx2 import AsyncVerifyingTransport, VerifyingTransport
from tos_guard.stores import KeyFolder
from tos_guard.verifier import AsyncVerifier, Verifier
from tos_guard.verify import Verified
from tos_guard_fastapi import TosGuard

QUESTIONS: dict[str, dict[str, Any]] = {
    "whole": {},
    "stream": {"stream": True},
    "three choices": {"n": 3},
    "three streamed choices": {"n": 3, "stream": True},
    "stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
}


class Late:
    """An application that is made once its address is known: the issuer is its own origin."""

    inner: Any = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.inner(scope, receive, send)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """A guarded provider, served at its issuer's origin."""
    late = Late()
    with serve_app(late, lifespan="off") as base:
        provided = Provider(tmp_path_factory.mktemp("provider"), issuer=base)
        app = create_app(ReplayModel())
        guard = TosGuard.from_file(provided.settings)
        guard.install(app)
        late.inner = app
        yield provided
        guard.guard.close_stores()


def asked(**given: Any) -> dict[str, Any]:
    return {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello there"}], **given}


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_official_client_needs_two_lines_more(provider: Provider, name: str) -> None:
    proven: list[Verified] = []
    checks = ResponseChecks(on_verified=lambda verified, _: proven.append(verified))
    with Verifier([provider.issuer]) as verifier:
        http = httpx2.Client(transport=VerifyingTransport(verifier, checks))
        with openai.OpenAI(base_url=f"{provider.issuer}/v1", api_key=provider.keys["good"], http_client=http) as client:
            answer = client.chat.completions.create(**asked(**QUESTIONS[name]))
            if QUESTIONS[name].get("stream"):
                assert len(list(answer)) > 2
        status = verifier.discovery.status(provider.issuer)
    assert [(one.claims.iss, one.request_checked, one.notes) for one in proven] == [(provider.issuer, True, ())]
    assert (status.failure, status.history is not None) == (None, True)


async def test_the_asynchronous_client_as_well(provider: Provider) -> None:
    proven: list[Verified] = []
    checks = ResponseChecks(on_verified=lambda verified, _: proven.append(verified))
    async with AsyncVerifier([provider.issuer]) as verifier:
        http = httpx2.AsyncClient(transport=AsyncVerifyingTransport(verifier, checks))
        async with openai.AsyncOpenAI(base_url=f"{provider.issuer}/v1", api_key=provider.keys["good"], http_client=http) as client:
            await client.chat.completions.create(**asked())
            stream = await client.chat.completions.create(**asked(stream=True))
            assert len([chunk async for chunk in stream]) > 2
            await client.models.list()
    assert [one.request_checked for one in proven] == [True, True, True]


def test_a_refusal_reaches_the_client_as_it_is(provider: Provider) -> None:
    with Verifier([provider.issuer]) as verifier:
        http = httpx2.Client(transport=VerifyingTransport(verifier))
        with (
            openai.OpenAI(base_url=f"{provider.issuer}/v1", api_key=provider.keys["suspended"], http_client=http) as client,
            pytest.raises(openai.PermissionDeniedError),
        ):
            client.chat.completions.create(**asked())


def test_a_rotation_is_followed(provider: Provider) -> None:
    """The next key is published before it signs, so a verifier that looks again in time never misses it."""
    proven: list[Verified] = []
    checks = ResponseChecks(on_verified=lambda verified, _: proven.append(verified))
    with Verifier([provider.issuer]) as verifier:
        http = httpx2.Client(transport=VerifyingTransport(verifier, checks))
        with openai.OpenAI(base_url=f"{provider.issuer}/v1", api_key=provider.keys["good"], http_client=http) as client:
            client.chat.completions.create(**asked())
            known = {key.kid for key in verifier.discovery.status(provider.issuer).keys.keys}
            fresh = KeyFolder(provider.folder / "keys").rotate(now=now(), lead=timedelta(hours=1))
            after = {key.kid for key in verifier.discovery.refresh(provider.issuer).keys.keys}
            client.chat.completions.create(**asked())
    assert (after - known, known - after) == ({fresh.kid}, set())
    assert len(proven) == 2
