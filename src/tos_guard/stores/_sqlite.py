"""The SQLite store: two files beside each other."""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tos_guard.errors import ConfigurationError
from tos_guard.protocols import Clock, Entropy
from tos_guard.stores._accounts import SQLiteAccounts
from tos_guard.stores._records import SQLiteRecords

__all__ = ["SQLiteStore"]

_MAX_PENDING: Final = 10_000
"""Records that may wait for the disk, about 1 KB each: two seconds of what a slow disk takes."""


class SQLiteStore(SQLiteRecords, SQLiteAccounts):
    """A `Store` for the processes of one host, on a local file system.

    Accounts, keys and terms live in *path* itself; records in a second file beside it (``guard.db`` and ``guard.records.db``), each with a
    lock file. All are made with mode 0600. Make the store before the server forks, or after: both work.

    Args:
        path: The file of the accounts; made when absent. Its folder must exist.
        issuer: Whose accounts and records these are. One file may serve several issuers; none sees the others'.
        clock: Tells when something was changed.
        entropy: Where the pepper comes from.
        monotonic: Seconds that never go back; decides when to look for changes of other processes.
        max_pending: Records that may wait for the disk, before `append` fails.
        commit_delay: Seconds for which a record waits for others to be committed with. More than 0 is for hosts that never wait for
            records: it spares the processor most of the cost of a commit, and a crash may lose as many seconds more.

    Raises:
        ConfigurationError: The folder is missing, the issuer is empty, or a file is something else or of a newer release.
        StoreError: A file cannot be created, opened or migrated.
    """

    def __init__(
        self,
        path: Path,
        *,
        issuer: str,
        clock: Clock,
        entropy: Entropy = secrets.token_bytes,
        monotonic: Callable[[], float] = time.monotonic,
        max_pending: int = _MAX_PENDING,
        commit_delay: float = 0.0,
    ) -> None:
        if not issuer:
            raise ConfigurationError("the issuer is empty", where=str(path), cure="Name the issuer, an https URL")
        SQLiteAccounts.__init__(self, path, issuer=issuer, clock=clock, entropy=entropy, monotonic=monotonic)
        self.records_path: Path = path.with_name(f"{path.stem}.records{path.suffix}")
        SQLiteRecords.__init__(self, self.records_path, issuer=issuer, max_pending=max_pending, commit_delay=commit_delay)
        # At exit, whoever forgot to close still gets everything written.
        self._finalizer = weakref.finalize(self, _close, self._writer.close, self._records.close, self._accounts.close)

    def close(self) -> None:
        """Wait until everything appended is durable, then let go of files and threads. Closing twice is closing once."""
        self._finalizer()


def _close(*steps: Callable[[], None]) -> None:
    for step in steps:
        step()
