"""The places that touch disk: accounts, terms, public keys and exchange records in SQLite or in memory, terms files and secret files.

`SQLiteStore` serves the processes of one host without anything to install; `MemoryStore` behaves the same in a test. Both are a
`Store`, and so an `AccountSource` and a `RecordStore` of `tos_guard.protocols`. `MemoryLimits` and `SQLiteLimits` are its `LimitEngine`;
`FallbackLimits` knows what to do when they fail.
"""

from tos_guard.stores._files import load_terms, read_secret_file, write_secret_file
from tos_guard.stores._keys import FileSigner, KeyFolder
from tos_guard.stores._limits_fallback import FallbackLimits
from tos_guard.stores._limits_memory import MemoryLimits
from tos_guard.stores._limits_sqlite import SQLiteLimits
from tos_guard.stores._memory import MemoryStore
from tos_guard.stores._model import AccountChange, OrganizationChange, StoredAdminKey, StoredKey, StoredTerms
from tos_guard.stores._replays import AsyncFallbackReplays, FallbackReplays, MemoryReplays, SQLiteReplays
from tos_guard.stores._settings import read_settings
from tos_guard.stores._sqlite import SQLiteStore
from tos_guard.stores._store import Store

__all__ = [
    "AccountChange",
    "AsyncFallbackReplays",
    "FallbackLimits",
    "FallbackReplays",
    "FileSigner",
    "KeyFolder",
    "MemoryLimits",
    "MemoryReplays",
    "MemoryStore",
    "OrganizationChange",
    "SQLiteLimits",
    "SQLiteReplays",
    "SQLiteStore",
    "Store",
    "StoredAdminKey",
    "StoredKey",
    "StoredTerms",
    "load_terms",
    "read_secret_file",
    "read_settings",
    "write_secret_file",
]
