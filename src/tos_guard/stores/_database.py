"""One SQLite file of ours: created private, migrated, written by one process at a time.

- Write-ahead log, ``synchronous=FULL``: a commit that returned survives a crash of the machine, as far as the disk's fsync goes. A
  file that need not be durable saves the fsync: its commits survive the death of every process, and a crash of the machine may take
  the newest.
- Writers take a kernel lock (``flock`` on a file of its own) before they touch SQLite. Processes that meet at SQLite's own busy
  handler starve one another for seconds.
- Schemas are versioned (``PRAGMA user_version``) and migrated when the file is opened. A newer one is refused.
- Who must not wait for ever sets a patience: a process that is stopped while it holds the lock holds it until it goes on.
- Connections never cross a fork (`tos_guard.stores._fork`).

The lock is held by processes of one host: network file systems are not supported.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.stores._fork import watch_forks
from tos_guard.stores._sql import Schema

__all__ = ["Database", "Schema"]

T = TypeVar("T")

_BUSY_MS: Final = 5_000
"""How long SQLite may wait for a lock that our own does not cover: a reader during a truncating checkpoint, recovery after a crash."""

_CHECKPOINT_PAGES: Final = 4_000
"""Pages (16 MB) after which a commit also moves the log into the file. Each move costs two more fsyncs, so they should be rare."""

_ASK_AGAIN_SECONDS: Final = (0.0001, 0.0005)
"""First and longest pause before the kernel lock is asked for again, by whoever is patient only for a time. One call holds it for less
than the first."""

_DURABLE_PRAGMAS: Final = (
    "synchronous=FULL",
    "fullfsync=ON",  # macOS: fsync alone does not reach the disk
    "checkpoint_fullfsync=ON",
)

_WRITER_PRAGMAS: Final = (
    "secure_delete=ON",
    "foreign_keys=ON",
    "temp_store=MEMORY",  # no copies of rows in a temporary folder
    f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
)


class _Connection(sqlite3.Connection):
    """A `Connection` of the rooms. Nobody else writes meanwhile, so that no row needs a lock of its own."""

    for_share = ""
    for_turns = ""
    for_update = ""

    def each(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> list[Any]:
        """As `Connection.each`."""
        return [self.execute(sql, each).fetchone() for each in parameters]

    def insert(self, sql: str, rows: Sequence[Sequence[Any]], /) -> list[int | None]:
        """As `Connection.insert`."""
        numbers: list[int | None] = []
        for row in rows:
            inserted = self.execute(sql, row)
            numbers.append(inserted.lastrowid if inserted.rowcount == 1 else None)
        return numbers

    def renew(self, table: str, columns: str, /) -> None:
        """As `Connection.renew`: all pages of the old one are given up, and so overwritten."""
        self.execute(f"CREATE TABLE {table}_renewed {columns}")
        self.execute(f"INSERT INTO {table}_renewed SELECT * FROM {table}")  # noqa: S608 - names of our own
        self.execute(f"DROP TABLE {table}")
        self.execute(f"ALTER TABLE {table}_renewed RENAME TO {table}")


class Database:
    """One file. Any thread may call; safe across forks.

    Args:
        path: The file; made when absent, mode 0600. Its folder must exist.
        schema: What it holds.
        durable: Whether a commit waits for the disk.
        patience: Seconds for which a writer waits for others, or None for as long as it takes.

    Attributes:
        generation: Counts the reading connections; what one of them said of itself (``PRAGMA data_version``) means nothing to the next.

    Raises:
        ConfigurationError: The folder is missing, or the file is not this kind of database, or of a newer version.
        StoreError: The file cannot be created, opened or migrated.
    """

    def __init__(self, path: Path, schema: Schema, *, durable: bool = True, patience: float | None = None) -> None:
        self.path = path
        self.where = str(path)
        self._schema = schema
        self._pragmas = (*(_DURABLE_PRAGMAS if durable else ("synchronous=NORMAL",)), *_WRITER_PRAGMAS)
        self._patience = patience
        self._lock_path = path.with_name(path.name + ".lock")
        self._reset()
        self._lock_fd = -1
        self._closed = False
        self.generation = 0
        self._create()
        watch_forks(self)
        self._migrate()

    def _reset(self) -> None:
        # _turn: threads of this process line up for the kernel lock. _writing, _reading: each guards its connection.
        # Order: _turn, kernel lock, _writing. Nobody holds _writing and _reading, except around a fork.
        self._turn = threading.Lock()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._writer: _Connection | None = None
        self._reader: _Connection | None = None

    @contextmanager
    def read(self) -> Iterator[_Connection]:
        """A connection that only reads, one thread at a time.

        Raises:
            StoreError: The engine failed, or the store is closed.
        """
        with self._reading:
            try:
                if self._reader is None:
                    self._reader = self._open(read_only=True)
                    self.generation += 1
                yield self._reader
            except sqlite3.Error as error:
                _discard(self._reader)
                self._reader = None
                raise self._failed("read", error) from error

    @contextmanager
    def snapshot(self) -> Iterator[_Connection]:
        """As `read`; all statements of the block see one state.

        Raises:
            StoreError: The engine failed, or the store is closed.
        """
        with self.read() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")

    @contextmanager
    def write(self, *, transaction: bool = True) -> Iterator[_Connection]:
        """The only connection on this host that writes now; commits when the block ends, and rolls back when it raises.

        Args:
            transaction: False leaves the transactions to the block.

        Raises:
            StoreError: The engine failed, the store is closed, or others wrote for longer than patience lasts. Nothing of the block can
                be relied upon.
        """
        with self._in_turn(), self._kernel_lock(), self._writing:
            try:
                if self._writer is None:
                    self._writer = self._open(read_only=False)
                connection = self._writer
                if transaction:
                    connection.execute("BEGIN IMMEDIATE")
                yield connection
                if transaction:
                    connection.execute("COMMIT")
            except BaseException as error:
                # A connection whose commit failed may be in any state; a new one costs a millisecond.
                if self._writer is not None and self._writer.in_transaction:
                    with suppress(sqlite3.Error):
                        self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    _discard(self._writer)
                    self._writer = None
                    raise self._failed("write", error) from error
                raise

    def run(self, work: Callable[[_Connection], T]) -> T:
        """`write` with *work* as its block.

        Raises:
            StoreError: As `write`.
        """
        with self.write() as connection:
            return work(connection)

    def scrub(self, *_tables: str, renewed: bool = False) -> None:
        """See to it that no file of the database holds anything that was deleted, any more.

        SQLite leaves copies of a deleted row in the unused part of a page that other rows still share. Only pages that are given up
        altogether are overwritten (``secure_delete``): so the file is written anew, unless what matters has been *renewed*. Then the
        write-ahead log is emptied.

        Raises:
            StoreError: The engine failed, or another process read for longer than we wait. Call again.
        """
        if not renewed:
            with self.write(transaction=False) as connection:
                connection.execute("VACUUM")
        self.empty_log()

    def empty_log(self) -> None:
        """Move the write-ahead log into the file and cut it to nothing, so that it holds no earlier state of a row.

        Raises:
            StoreError: The engine failed, or another process read for longer than we wait.
        """
        with self.write(transaction=False) as connection:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StoreError("the write-ahead log could not be emptied while another process reads", where=str(self.path), cure="Try again")

    def close(self) -> None:
        """Close both connections and the lock file. Further use raises `StoreError`."""
        with self._turn, self._writing, self._reading:
            self._closed = True
            _discard(self._writer)
            self._writer = None
            _discard(self._reader)
            self._reader = None
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
                self._lock_fd = -1

    def before_fork(self) -> None:
        """Wait for the commit and the read under way, and close the connections."""
        self._writing.acquire()
        self._reading.acquire()
        _discard(self._writer)
        self._writer = None
        _discard(self._reader)
        self._reader = None

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on; connections open when next used."""
        self._reading.release()
        self._writing.release()

    def after_fork_in_child(self) -> None:
        """Forget the parent's locks. Closing our copy of its lock file does not unlock it: the lock is the parent's."""
        self._reset()
        if self._lock_fd >= 0:
            with suppress(OSError):
                os.close(self._lock_fd)
            self._lock_fd = -1

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=-1 if self._patience is None else self._patience):
            raise self._waited()
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _kernel_lock(self) -> Iterator[None]:
        try:
            if self._closed:
                raise StoreError("the store is closed", where=str(self.path))
            if self._lock_fd < 0:
                self._lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fd = self._lock_fd
            self._take_kernel_lock(fd)
        except OSError as error:
            raise StoreError(
                f"cannot take the writers' lock ({error.strerror})", where=str(self._lock_path), cure="Use a local file system"
            ) from error
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def _take_kernel_lock(self, fd: int) -> None:
        if self._patience is None:
            fcntl.flock(fd, fcntl.LOCK_EX)
            return
        deadline = time.monotonic() + self._patience
        pause, longest = _ASK_AGAIN_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise self._waited() from None
                time.sleep(pause)
                pause = min(2 * pause, longest)
            else:
                return

    def _waited(self) -> StoreError:
        return StoreError(
            f"another writer has held the lock for {self._patience:g} s",
            where=str(self._lock_path),
            cure="Look for a process that is stopped, or a disk that is slow",
        )

    def _create(self) -> None:
        if not self.path.parent.is_dir():
            raise ConfigurationError(
                f"the folder for {self._schema.what} does not exist", where=str(self.path), cure=f"mkdir -p {self.path.parent}"
            )
        try:
            # SQLite would make it readable by all. The log and its index take over this file's mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            _sync_folder(self.path.parent)
        except FileExistsError:
            if not self.path.is_file():
                raise ConfigurationError("not a regular file", where=str(self.path), cure="Name another path") from None
        except OSError as error:
            raise self._failed("create", error) from error

    def _open(self, *, read_only: bool) -> _Connection:
        if self._closed:
            raise StoreError("the store is closed", where=str(self.path))
        # Never create here: a file removed under us must be an error and not an empty store.
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=_BUSY_MS / 1000,
            cached_statements=64,
            factory=_Connection,
        )
        try:
            if read_only:
                connection.execute("PRAGMA query_only=ON")
            else:
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                if mode != "wal":
                    raise sqlite3.OperationalError(f"journal mode is {mode}: the file system has no shared memory")
                for pragma in self._pragmas:
                    connection.execute(f"PRAGMA {pragma}")
            connection.execute("PRAGMA trusted_schema=OFF")
        except BaseException:  # whatever it was, an interrupt included, no connection is left open
            connection.close()
            raise
        return connection

    def _migrate(self) -> None:
        newest = len(self._schema.migrations)
        try:
            with self.write(transaction=False) as connection:
                version, application, tables = self._inspect(connection)
                if application != self._schema.application_id and (application or tables):
                    raise ConfigurationError(
                        f"another program's database, or our other one; it does not keep {self._schema.what}",
                        where=str(self.path),
                        cure="Name another path",
                    )
                if version > newest:
                    raise ConfigurationError(
                        f"{self._schema.what} in version {version}, and this release reads up to {newest}",
                        where=str(self.path),
                        cure="Install the newer tos-guard again",
                    )
                for number, statements in enumerate(self._schema.migrations[version:], version + 1):
                    connection.execute("BEGIN IMMEDIATE")
                    for statement in statements:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id={self._schema.application_id}")
                    connection.execute(f"PRAGMA user_version={number}")
                    connection.execute("COMMIT")
        except StoreError as error:
            if isinstance(error.__cause__, sqlite3.DatabaseError) and "not a database" in str(error.__cause__):
                raise ConfigurationError("not an SQLite database", where=str(self.path), cure="Name another path") from None
            raise

    @staticmethod
    def _inspect(connection: sqlite3.Connection) -> tuple[int, int, int]:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        application: int = connection.execute("PRAGMA application_id").fetchone()[0]
        tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return version, application, tables

    def _failed(self, verb: str, error: Exception) -> StoreError:
        return StoreError(
            f"cannot {verb} {self._schema.what} ({error})",
            where=str(self.path),
            cure="Check free space, permissions and the disk; nothing that was acknowledged is lost",
        )


def _discard(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
