"""A reverse proxy on loopback that changes what it passes on, as real ones do."""

from __future__ import annotations

import http.client
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Change", "Passed", "Proxy", "changing_proxy"]

GZIP = 31  # wbits of zlib for gzip
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade"})


@dataclass(frozen=True)
class Passed:
    """A response on its way through."""

    path: str
    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def media_type(self) -> str:
        """Its media type, without parameters."""
        return next((value for name, value in self.fields if name.lower() == "content-type"), "").split(";")[0]

    def without(self, *names: str) -> Passed:
        """The same without these fields."""
        return replace(self, fields=tuple((name, value) for name, value in self.fields if name.lower() not in names))

    def having(self, name: str, value: str) -> Passed:
        """The same with this field, in place of one of its name."""
        kept = self.without(name.lower())
        return replace(kept, fields=(*kept.fields, (name, value)))


Change = Callable[[Passed], Passed]


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        url: Its origin.
        asked: Method, path and fields of each request.
    """

    url: str
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


@contextmanager
def changing_proxy(
    upstream: str, change: Change | None = None, *, collects: bool = True, compresses_streams: bool = False, host: str = "127.0.0.1"
) -> Iterator[Proxy]:
    """Pass requests on to *upstream*, and its responses back, changed.

    Args:
        upstream: Its origin.
        change: What is done to each response; None for nothing.
        collects: Whether event streams are collected before they are passed on; otherwise they are passed on as they come, unchanged.
        compresses_streams: Whether event streams that are not collected are compressed, for whoever accepts that.
        host: Address to listen on.
    """
    target = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            proxy.asked.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            connection = http.client.HTTPConnection(target, timeout=30)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                connection.request(self.command, self.path, body=body or None, headers=headers)
                answer = connection.getresponse()
                fields = tuple((name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP)
                head = Passed(self.path, answer.status, fields, b"")
                if head.media_type == "text/event-stream" and not collects:
                    self._stream(head, answer)
                else:
                    self._whole(head, answer.read())
            finally:
                connection.close()

        def _whole(self, head: Passed, body: bytes) -> None:
            passed = replace(head, body=body)
            passed = passed if change is None else change(passed)
            self._head(passed.without("content-length").having("Content-Length", str(len(passed.body))))
            self.wfile.write(passed.body)

        def _stream(self, head: Passed, answer: http.client.HTTPResponse) -> None:
            coder = zlib.compressobj(wbits=GZIP) if compresses_streams and "gzip" in self.headers.get("accept-encoding", "") else None
            head = head.having("Content-Encoding", "gzip") if coder is not None else head
            self._head(head.having("Transfer-Encoding", "chunked"))
            while piece := answer.read1(65_536):
                self._chunk(piece if coder is None else coder.compress(piece))
            self._chunk(b"" if coder is None else coder.flush())
            self.wfile.write(b"0\r\n\r\n")

        def _chunk(self, data: bytes) -> None:
            if data:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

        def _head(self, passed: Passed) -> None:
            self.send_response_only(passed.status)
            for name, value in passed.fields:
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.close_connection = True
            self.end_headers()

        do_GET = do_POST = _pass_on  # noqa: N815 - the names that the server calls

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((host, 0), Handler)
    proxy = Proxy(f"http://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="proxy")
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
