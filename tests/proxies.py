"""A TCP proxy on loopback that does to answers what networks and broken engines do: late, cut, garbled, half, none."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

_CHUNK = 65_536


class Proxy:
    """Stands between clients and an engine. A fault holds for all connections, also open ones, from when it is chosen until `heal`.

    Args:
        port: Of the engine, on loopback. `target` may be changed while it runs: new connections go to the new one.
        tls: Clients speak TLS with the proxy; the engine behind it does not.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = port
        self._tls = tls
        self.port = 0
        self.answered = 0
        """Chunks of answers that came from the engine."""
        self._change: Callable[[bytes], bytes] = bytes
        self._late = 0.0
        self._left: int | None = None
        """Bytes of answers that still pass before the connection is cut; None for all."""
        self._stalled = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._server = self._wait(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def heal(self) -> None:
        """Let everything pass again. What was held back or cut stays lost."""
        self._change, self._late, self._left, self._stalled = bytes, 0.0, None, False

    def delay(self, seconds: float) -> None:
        """Let each answer come so much later."""
        self._late = seconds

    def cut(self, after: int = 0) -> None:
        """Close each connection once so many more bytes of answers have passed, of all connections together."""
        self._left = after

    def garble(self, change: Callable[[bytes], bytes] | None = None) -> None:
        """Change each answer; unless told how, every byte of it."""
        self._change = change or (lambda answer: bytes(byte ^ 0x15 for byte in answer))

    def halve(self) -> None:
        """Let the first half of each answer pass, and nothing after it."""
        self._change = lambda answer: answer[: len(answer) // 2]

    def stall(self) -> None:
        """Let nothing pass, neither questions nor answers; connections stay open and are accepted."""
        self._stalled = True

    def drop(self) -> None:
        """Close what is open, now. New connections are accepted."""
        self._wait(self._drop())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            self._writers.discard(writer)
            return
        self._writers.add(back)
        try:
            await asyncio.gather(self._pump(reader, back, is_answer=False), self._pump(there, writer, is_answer=True))
        finally:
            self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if is_answer:
                    self.answered += 1
                    if self._late:
                        await asyncio.sleep(self._late)
                    chunk = self._change(chunk)
                    if self._left is not None:
                        chunk, self._left = chunk[: self._left], max(0, self._left - len(chunk))
                if self._stalled:
                    continue
                writer.write(chunk)
                await writer.drain()
                if is_answer and self._left == 0:
                    break
        with suppress(OSError):
            writer.close()

    async def _drop(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _end(self) -> None:
        self._server.close()
        await self._drop()
        pending = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(20)
