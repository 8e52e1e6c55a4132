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
from tos_guard.stores._accounts import SQLAccounts
from tos_guard.stores._database import Database
from tos_guard.stores._hearing import FileHearing
from tos_guard.stores._records import RECORDS_SCHEMA, SQLRecords
from tos_guard.stores._schema import ACCOUNTS_SCHEMA

__all__ = ["SQLiteStore"]

_MAX_PENDING: Final = 10_000
"""Records that may wait for the disk, about 1 KB each: two seconds of what a slow disk takes."""


class SQLiteStore(SQLRecords, SQLAccounts):
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
        accounts = Database(path, ACCOUNTS_SCHEMA)
        SQLAccounts.__init__(self, accounts, FileHearing(accounts, issuer, monotonic), issuer=issuer, clock=clock, entropy=entropy)
        self.records_path: Path = path.with_name(f"{path.stem}.records{path.suffix}")
        records = Database(self.records_path, RECORDS_SCHEMA)
        SQLRecords.__init__(self, records, issuer=issuer, max_pending=max_pending, commit_delay=commit_delay)
        # At exit, whoever forgot to close still gets everything written.
        self._finalizer = weakref.finalize(self, _close, self._writer.close, self._records.close, self._accounts.close)

    def close(self) -> None:
        """Wait until everything appended is durable, then let go of files and threads. Closing twice is closing once."""
        self._finalizer()


def _close(*steps: Callable[[], None]) -> None:
    for step in steps:
        step()
