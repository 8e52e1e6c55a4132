"""The calls of the day, through the official `openai` client; each is saved as it came."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai

__all__ = ["Call", "Customer"]


class _Tap(httpx2.HTTPTransport):
    """Keeps the bytes that were sent and received."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.body = b""
        self.headers: dict[str, str] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent = request.read()
        response = super().handle_request(request)
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.body = response.read()
        return httpx2.Response(response.status_code, headers=response.headers, content=self.body)


@dataclass(frozen=True, slots=True)
class Call:
    """One call and what came of it.

    Attributes:
        status: HTTP status.
        text: The text of the first choice, or the refusal's message.
        code: Code of a refusal, or empty.
        details: Members of a refusal.
        headers: Of the response.
        response: File with the body.
        request: File with the request body.
    """

    status: int
    text: str
    code: str
    details: dict[str, Any]
    headers: dict[str, str]
    response: Path
    request: Path

    @property
    def tag(self) -> dict[str, Any]:
        """The tag member, as it stands in the body or in the stream; empty if there is none."""
        for line in self.response.read_bytes().replace(b"\r", b"\n").split(b"\n"):
            data = line.removeprefix(b"data: ")
            if data.startswith(b"{") and b'"ai_provenance"' in data:
                found = json.loads(data).get("ai_provenance", {})
                return found if isinstance(found, dict) else {}
        return {}

    @property
    def token(self) -> str:
        """The final token, or empty."""
        return str(self.tag.get("token", ""))


class Customer:
    """A customer with an API key.

    Args:
        base_url: The provider.
        api_key: The key.
        folder: Where calls are saved.
    """

    def __init__(self, base_url: str, api_key: str, folder: Path) -> None:
        self._base_url = f"{base_url}/v1"
        self._api_key = api_key
        self._folder = folder

    def ask(self, name: str, question: str, *, stream: bool = False, model: str = "smollm2-135m", purpose: str | None = None) -> Call:
        """Ask, and save request, response and headers under *name*."""
        tap = _Tap()
        arguments: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 48,
            "temperature": 0,
            "seed": 7,
            "stream": stream,
        }
        headers = {} if purpose is None else {"AI-Usage-Purpose": purpose}
        status, text, details = 200, "", {}
        with openai.OpenAI(
            base_url=self._base_url, api_key=self._api_key, max_retries=0, http_client=httpx2.Client(transport=tap)
        ) as client:
            try:
                answer = client.chat.completions.create(**arguments, extra_headers=headers)
                if stream:
                    text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
                else:
                    text = answer.choices[0].message.content or ""
            except openai.APIStatusError as error:
                status, text = error.status_code, error.message
                details = error.body if isinstance(error.body, dict) else {}
        response = self._folder / f"{name}.{'sse' if stream and status == 200 else 'json'}"
        response.write_bytes(tap.body)
        request = self._folder / f"{name}.request.json"
        request.write_bytes(tap.sent)
        lines = "".join(f"{field}: {value}\n" for field, value in tap.headers.items())
        (self._folder / f"{name}.headers.txt").write_text(lines, encoding="utf-8")
        return Call(status, text, str(details.get("code", "")), details, tap.headers, response, request)
