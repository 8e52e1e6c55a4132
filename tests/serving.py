"""Real servers on loopback for tests: an ASGI application in a thread, or a ``uvicorn`` with several workers in a process group.

Loaded as a pytest plugin by ``tests/conftest.py``, which gives the fixtures `serve` and `serve_process`. A server is ready when its
``with`` block is entered and gone when the block is left; nothing polls and nothing sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvicorn

__all__ = ["Serve", "ServeProcess", "ServedProcess", "serve_app", "serve_import"]

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0  # a loaded machine starts an interpreter, FastAPI and a model in far less
STOP_SECONDS = 10.0


class _Server(uvicorn.Server):
    """Says when it answers, or that it never will."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.settled.set()

    def run_in_thread(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self.serve(sockets=[listener]))
        except SystemExit:  # how uvicorn says that the application did not start; the log says why
            pass
        finally:
            self.settled.set()


@contextmanager
def serve_app(app: Any, **config: Any) -> Iterator[str]:
    """Serve an ASGI application from a thread with its own event loop.

    Args:
        app: The application. Its lifespan runs; an application without one is served too.
        config: More of `uvicorn.Config`, for example ``http="h11"``.

    Yields:
        The base URL, ``http://127.0.0.1:<port>``, which answers.

    Raises:
        RuntimeError: The application did not start, or did not stop.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, **{"log_config": None, "access_log": False, "timeout_graceful_shutdown": 5, **config}))
    thread = threading.Thread(target=server.run_in_thread, args=(listener,), name="uvicorn")
    thread.start()
    try:
        if not server.settled.wait(START_SECONDS) or not server.started:
            raise RuntimeError("the application did not start; uvicorn's log above says why")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(STOP_SECONDS)
        listener.close()
        if thread.is_alive():
            server.force_exit = True
            raise RuntimeError("the server did not stop; a request may hang")


class ServedProcess:
    """A running ``uvicorn`` in a process group of its own.

    Attributes:
        base_url: ``http://127.0.0.1:<port>``.
        process: The supervisor, or the one server where there is one worker.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.base_url = ""
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="uvicorn-log")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def log(self) -> str:
        """All that the processes have written so far, both channels."""
        with self._changed:
            return "".join(self._lines)

    def wait_for_log(self, pattern: str, *, count: int = 1, timeout: float = START_SECONDS) -> list[re.Match[str]]:
        """Wait until *pattern* has been found in at least *count* lines of the log; all matches since the start.

        Raises:
            RuntimeError: The time is over, or the processes have ended.
        """
        found: list[re.Match[str]] = []

        def is_there() -> bool:
            found[:] = [match for line in self._lines if (match := re.search(pattern, line))]
            return len(found) >= count or self._ended

        with self._changed:
            self._changed.wait_for(is_there, timeout)
        if len(found) < count:
            raise RuntimeError(f"{len(found)} of {count} lines with {pattern!r} in the server's log:\n{self.log}")
        return found

    def workers(self) -> list[int]:
        """Process ids of the workers that live, oldest first. A killed one is gone from the list; its successor is in it once started."""
        announced = [int(match) for match in re.findall(r"Started server process \[(\d+)\]", self.log)]
        return [pid for pid in announced if _is_running(pid)]

    def kill_worker(self, pid: int | None = None) -> int:
        """SIGKILL one worker and wait until uvicorn's supervisor has put another in its place; the new worker's id.

        Raises:
            RuntimeError: No worker lives, or none came.
        """
        alive = self.workers()
        if not alive:
            raise RuntimeError(f"no worker lives:\n{self.log}")
        ready = len(re.findall(r"Application startup complete", self.log))
        os.kill(alive[0] if pid is None else pid, signal.SIGKILL)
        self.wait_for_log(r"Application startup complete", count=ready + 1)
        return int(self.wait_for_log(r"Started server process \[(\d+)\]")[-1][1])

    def stop(self) -> None:
        """End the whole group, gently and then not."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


@contextmanager
def serve_import(
    application: str,
    *,
    workers: int = 2,
    env: Mapping[str, str] | None = None,
    app_dir: Path | None = None,
    factory: bool = False,
    cwd: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[ServedProcess]:
    """Run ``python -m uvicorn`` on a free port until the block is left.

    Args:
        application: Import string, ``package.module:name``.
        workers: Worker processes. With one there is no supervisor.
        env: Added to the environment.
        app_dir: Where *application* is imported from; ``examples`` by default.
        factory: The name is a function that makes the application.
        cwd: Working directory of the processes; the clone by default.
        options: More options of uvicorn.

    Yields:
        The running server; every worker has started.

    Raises:
        RuntimeError: The server did not start; the message has its log.
    """
    command = [sys.executable, "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", "0", "--workers", str(workers)]
    command += ["--app-dir", str(app_dir or ROOT / "examples"), "--lifespan", "on", "--no-use-colors", "--no-access-log"]
    command += ["--timeout-graceful-shutdown", "3", *(["--factory"] if factory else []), *options]
    process = subprocess.Popen(
        command,
        cwd=cwd or ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    served = ServedProcess(process)
    try:
        served.wait_for_log(r"Application startup complete", count=workers)
        served.base_url = served.wait_for_log(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")[0][1]
        yield served
    finally:
        served.stop()


Serve: TypeAlias = Callable[..., AbstractContextManager[str]]
ServeProcess: TypeAlias = Callable[..., AbstractContextManager[ServedProcess]]


@pytest.fixture(scope="session")
def serve() -> Serve:
    """``with serve(app) as base_url:`` serves an ASGI application from a thread; see `serve_app`."""
    return serve_app


@pytest.fixture(scope="session")
def serve_process() -> ServeProcess:
    """``with serve_process("module:app", workers=2, env=...) as server:`` runs uvicorn as processes; see `serve_import`."""
    return serve_import
