"""Connections to an engine that never ends its answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tos_guard.errors import StoreError
from tos_guard.stores._valkey import Connections, parse_address

DEADLINE = 0.2
ON_A_BUSY_MACHINE = 5.0


@pytest.fixture
def dripping() -> Iterator[str]:
    """URL of an engine whose answers of a thousand bytes come one by one, each well within the deadline."""
    ended = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65_536)
                    for byte in b"$1000\r\n" + b"x" * 1_000 + b"\r\n":
                        if ended.wait(DEADLINE / 10):
                            return
                        connection.sendall(bytes([byte]))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_an_answer_that_drips_ends_at_the_deadline(dripping: str) -> None:
    """The time is the whole answer's: parts that come in time do not hold a thread of the host for as long as there are more of them."""
    connections = Connections(parse_address(dripping), deadline=DEADLINE)
    began = time.monotonic()
    with pytest.raises(StoreError, match="no answer within the deadline"):
        connections.ask([("GET", "x")], began + DEADLINE)
    assert time.monotonic() - began < ON_A_BUSY_MACHINE
    connections.close()
