"""A system outside, on loopback: it has a document that is asked for, and takes messages. A test can spoil, delay and count both."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)

Handler = Callable[[BaseHTTPRequestHandler], None]


class OutsideSystem:
    """What it has, and what it was asked.

    Attributes:
        origin: Where it is.
        accounts: What its document says.
        issued: When it was made; moved on by `say`.
        etag: Its ``ETag``; empty for none.
        handler: Code that writes the answer itself, or None.
        status: Status of the answer to a message.
        asked: Header fields of each question for the document.
        answers: Status of each answer to them.
        received: Header fields and body of each message.
        came: Set with each question and message.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.accounts: dict[str, Any] = {}
        self.issued = START
        self.etag = '"0"'
        self.handler: Handler | None = None
        self.status = 200
        self.asked: list[dict[str, str]] = []
        self.answers: list[int] = []
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.came = threading.Event()

    @property
    def url(self) -> str:
        """Where its document is."""
        return f"{self.origin}/entitlements.json"

    @property
    def document(self) -> bytes:
        """Its document."""
        return json.dumps({"version": 1, "issued": self.issued.isoformat(), "accounts": self.accounts}).encode()

    def say(self, **accounts: Any) -> None:
        """Have a new document."""
        self.accounts = accounts
        self.issued += timedelta(seconds=1)
        self.etag = f'"{int(self.issued.timestamp())}"'


def write(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **fields: str) -> None:
    """Write an answer; ``_`` in the names of fields stands for a dash."""
    request.send_response(status)
    for name, value in {"content_type": "application/json", "content_length": str(len(body)), **fields}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def serve_outside() -> Iterator[OutsideSystem]:
    """A system on a free port of loopback."""

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            system.asked.append({name.lower(): value for name, value in self.headers.items()})
            try:
                if system.handler is not None:
                    system.handler(self)
                    return
                unchanged = bool(system.etag) and self.headers.get("if-none-match") == system.etag
                system.answers.append(304 if unchanged else 200)
                if unchanged:
                    self.send_response(304)
                    self.send_header("etag", system.etag)
                    self.end_headers()
                else:
                    write(self, 200, system.document, **({"etag": system.etag} if system.etag else {}))
            except OSError:
                self.close_connection = True  # the client had enough
            finally:
                system.came.set()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            system.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            try:
                write(self, system.status, b"thanks", content_type="text/plain")
            except OSError:
                self.close_connection = True
            finally:
                system.came.set()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    server.daemon_threads = True
    system = OutsideSystem(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="outside")
    thread.start()
    try:
        yield system
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
