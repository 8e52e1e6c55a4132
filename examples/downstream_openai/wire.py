"""What stands between the client and the network in this story: evidence is kept, and a gateway may strip what it does not know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx2

__all__ = ["Keeping", "Stripping"]


class Keeping(httpx2.BaseTransport):
    """Keeps each response as it came: its bytes, and beside them the pending token of a stream.

    The files stay verifiable by anyone who has the issuer's keys: ``tos-guard verify answer-1.json --keys keys.json``.

    Attributes:
        kept: Files, in order.
    """

    def __init__(self, folder: Path, inner: httpx2.BaseTransport) -> None:
        self.kept: list[Path] = []
        self._folder = folder
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._inner.handle_request(request)
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        file = self._folder / f"answer-{len(self.kept) + 1}.{'sse' if streamed else 'json'}"
        self.kept.append(file)
        if streamed and (token := response.headers.get("ai-provenance")):
            file.with_suffix(".pending").write_text(token)
        return httpx2.Response(response.status_code, headers=response.headers, stream=_Kept(response, file), extensions=response.extensions)

    def close(self) -> None:
        self._inner.close()


class _Kept(httpx2.SyncByteStream):
    def __init__(self, response: httpx2.Response, file: Path) -> None:
        self._response = response
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        with self._file.open("wb") as kept:
            for chunk in cast(httpx2.SyncByteStream, self._response.stream):
                kept.write(chunk)
                yield chunk

    def close(self) -> None:
        self._response.close()


class Stripping(httpx2.BaseTransport):
    """A gateway that passes on only what it knows, as many do: neither the header nor the member of the tag."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._inner.handle_request(request)
        document = json.loads(response.read())
        document.pop("ai_provenance", None)
        response.close()
        known = {"content-type": "application/json", "x-request-id": response.headers.get("x-request-id", "")}
        return httpx2.Response(response.status_code, headers=known, content=json.dumps(document).encode())

    def close(self) -> None:
        self._inner.close()
