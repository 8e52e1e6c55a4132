"""One list of what every server must do with the example provider, whatever runs it and whatever stands in front."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import httpx

from provisioned import Provider, now
from tos_guard.errors import IncompleteError
from tos_guard.verify import Expected, verify_body, verify_stream, verify_token

__all__ = ["SMOKE", "Target"]

CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Tell me about rivers"}]}


@dataclass(frozen=True)
class Target:
    """A server that answers for a provisioned provider.

    Attributes:
        url: Its base URL.
        provider: The provider.
    """

    url: str
    provider: Provider

    def post(
        self, body: dict[str, Any], headers: Mapping[str, str] = MappingProxyType({}), *, account: str | None = "good"
    ) -> httpx.Response:
        """Ask for a chat completion."""
        return httpx.post(f"{self.url}{CHAT}", content=json.dumps(body), headers={**self.fields(account), **headers}, timeout=30)

    def fields(self, account: str | None = "good") -> dict[str, str]:
        """Header fields of a question."""
        key = {} if account is None else {"authorization": f"Bearer {self.provider.keys[account]}"}
        return {"content-type": "application/json", **key}


def a_json_answer_verifies(target: Target) -> None:
    """Header and member carry one token over the body as it came, bound to the request."""
    response = target.post(QUESTION, {"accept-encoding": "gzip, br"})
    assert response.status_code == 200
    verify_body(
        response.content,
        trust=target.provider.trust(),
        now=now(),
        token=response.headers["ai-provenance"],
        expected=Expected(request=json.dumps(QUESTION).encode(), salt=response.headers["ai-provenance-salt"]),
    )


def a_stream_verifies(target: Target) -> None:
    """A stream is whole, and its pending token is of the same exchange."""
    response = target.post({**QUESTION, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    verified = verify_stream(response.content, trust=target.provider.trust(), now=now(), token=response.headers["ai-provenance"])
    assert verified.notes == ()


def a_first_piece_is_no_whole(target: Target) -> None:
    """What a client has of a long stream at first is not taken for all of it."""
    body = {**QUESTION, "stream": True, "messages": [{"role": "user", "content": "long [[words 400]]"}]}
    with httpx.stream("POST", f"{target.url}{CHAT}", json=body, headers=target.fields(), timeout=30) as response:
        token = response.headers["ai-provenance"]
        first = next(response.iter_bytes())
    try:
        verify_stream(first, trust=target.provider.trust(), now=now(), token=token)
    except IncompleteError:
        return
    assert b"[DONE]" in first, "what was cut verified as if whole"


def no_key_no_answer(target: Target) -> None:
    """401 in the dialect's shape."""
    response = target.post(QUESTION, account=None)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "tos_unauthenticated")


def a_suspended_account_is_refused(target: Target) -> None:
    """403, with a code, and a client that is told not to try again."""
    response = target.post(QUESTION, account="suspended")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "tos_account_suspended")
    assert response.headers["x-should-retry"] == "false"


def a_path_that_nobody_named_is_closed(target: Target) -> None:
    """404, and nothing of the app behind it."""
    assert httpx.get(f"{target.url}/internal", timeout=30).status_code == 404


def an_exempt_path_is_the_apps_own(target: Target) -> None:
    """No token, no key asked for."""
    response = httpx.get(f"{target.url}/healthz", timeout=30)
    assert response.status_code == 200
    assert "ai-provenance" not in response.headers


def a_body_that_is_too_large_is_refused(target: Target) -> None:
    """413, by us or by what stands in front."""
    response = target.post({**QUESTION, "messages": [{"role": "user", "content": "x" * (17 << 20)}]})
    assert response.status_code == 413


def a_body_in_chunks_of_unknown_length_is_read(target: Target) -> None:
    """Without a length the whole body is read, decided on and bound."""
    content = json.dumps(QUESTION).encode()
    response = httpx.post(f"{target.url}{CHAT}", content=iter([content[:10], content[10:]]), headers=target.fields(), timeout=30)
    demand = Expected(request=content, salt=response.headers["ai-provenance-salt"])
    verify_body(response.content, trust=target.provider.trust(), now=now(), expected=demand)


def head_has_no_body(target: Target) -> None:
    """HEAD of a guarded path answers without a body, whatever the app thinks of the method."""
    assert httpx.head(f"{target.url}/v1/models", headers=target.fields(), timeout=30).content == b""


def keys_are_published(target: Target) -> None:
    """Metadata and keys are where verifiers look."""
    metadata = httpx.get(f"{target.url}/.well-known/ai-provenance", timeout=30).json()
    assert metadata["issuer"] == target.provider.issuer
    keys = httpx.get(f"{target.url}/.well-known/jwks.json", timeout=30).json()["keys"]
    token = target.post(QUESTION).headers["ai-provenance"]
    assert verify_token(token, trust=target.provider.trust(), now=now()).kid in {key["kid"] for key in keys}


def a_client_that_leaves_harms_nobody(target: Target) -> None:
    """The connection is broken in the middle of a stream; the next request on a new one is served and verifies."""
    where = urlsplit(target.url)
    body = json.dumps({**QUESTION, "stream": True}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: {where.netloc}\r\nauthorization: Bearer {target.provider.keys['good']}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((str(where.hostname), int(where.port or 80)), timeout=30) as connection:
        connection.sendall(head.encode("ascii") + body)
        assert re.match(rb"HTTP/1.1 200", connection.recv(64))
    a_json_answer_verifies(target)


SMOKE: tuple[Callable[[Target], None], ...] = (
    a_json_answer_verifies,
    a_stream_verifies,
    a_first_piece_is_no_whole,
    no_key_no_answer,
    a_suspended_account_is_refused,
    a_path_that_nobody_named_is_closed,
    an_exempt_path_is_the_apps_own,
    a_body_that_is_too_large_is_refused,
    a_body_in_chunks_of_unknown_length_is_read,
    head_has_no_body,
    keys_are_published,
    a_client_that_leaves_harms_nobody,
)
"""The list."""
