"""The places that touch disk or an engine: accounts, terms, public keys and exchange records, terms files and secret files.

`SQLiteStore` serves the processes of one host without anything to install, `PostgresStore` those of many; `MemoryStore` behaves the same in
a test. Each is a `Store`, and so an `AccountSource` and a `RecordStore` of `tos_guard.protocols`. `MemoryLimits` and `SQLiteLimits` are
its `LimitEngine`, `ValkeyLimits` and `AsyncValkeyLimits` those of a fleet, of which `LeasedLimits` spends blocks alone; `FallbackLimits`
knows what to do when they fail. The same names with ``Replays`` keep which proofs were used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tos_guard.errors import ConfigurationError
from tos_guard.stores._appeals import MAX_ANSWER_CHARS, MAX_APPEAL_CHARS, MAX_APPEALS_PER_MEASURE, Appeal, AppealState
from tos_guard.stores._files import load_terms, read_secret_file, write_secret_file
from tos_guard.stores._keys import FileSigner, KeyFolder
from tos_guard.stores._limits_fallback import AsyncFallbackLimits, FallbackLimits
from tos_guard.stores._limits_leased import AsyncLeasedLimits, LeasedLimits
from tos_guard.stores._limits_memory import MemoryLimits
from tos_guard.stores._limits_sqlite import SQLiteLimits
from tos_guard.stores._memory import MemoryStore
from tos_guard.stores._model import AccountChange, OrganizationChange, StoredAdminKey, StoredKey, StoredTerms
from tos_guard.stores._opening import is_there, open_store
from tos_guard.stores._outside import DELIVERIES_KEPT, StoredEntitlement, Turn
from tos_guard.stores._replays import AsyncFallbackReplays, FallbackReplays, MemoryReplays, SQLiteReplays
from tos_guard.stores._secrets import read_secret
from tos_guard.stores._settings import read_settings
from tos_guard.stores._sqlite import SQLiteStore
from tos_guard.stores._store import Store

if TYPE_CHECKING:
    from tos_guard.stores._announcements_valkey import ValkeyAnnouncements
    from tos_guard.stores._copying import copy_store
    from tos_guard.stores._limits_valkey import ValkeyLimits
    from tos_guard.stores._limits_valkey_async import AsyncValkeyLimits
    from tos_guard.stores._postgres import PostgresStore
    from tos_guard.stores._postgres_async import AsyncPostgresStore
    from tos_guard.stores._replays_valkey import AsyncValkeyReplays, ValkeyReplays
    from tos_guard.stores._shared_version import SharedVersion
    from tos_guard.stores._valkey_look import look_at_engine

__all__ = [
    "DELIVERIES_KEPT",
    "MAX_ANSWER_CHARS",
    "MAX_APPEALS_PER_MEASURE",
    "MAX_APPEAL_CHARS",
    "AccountChange",
    "Appeal",
    "AppealState",
    "AsyncFallbackLimits",
    "AsyncFallbackReplays",
    "AsyncLeasedLimits",
    "AsyncPostgresStore",
    "AsyncValkeyLimits",
    "AsyncValkeyReplays",
    "FallbackLimits",
    "FallbackReplays",
    "FileSigner",
    "KeyFolder",
    "LeasedLimits",
    "MemoryLimits",
    "MemoryReplays",
    "MemoryStore",
    "OrganizationChange",
    "PostgresStore",
    "SQLiteLimits",
    "SQLiteReplays",
    "SQLiteStore",
    "SharedVersion",
    "Store",
    "StoredAdminKey",
    "StoredEntitlement",
    "StoredKey",
    "StoredTerms",
    "Turn",
    "ValkeyAnnouncements",
    "ValkeyLimits",
    "ValkeyReplays",
    "copy_store",
    "is_there",
    "load_terms",
    "look_at_engine",
    "open_store",
    "read_secret",
    "read_secret_file",
    "read_settings",
    "write_secret_file",
]


def __getattr__(name: str) -> Any:
    """What needs an engine's client is imported when it is asked for.

    Raises:
        ConfigurationError: The client is not installed.
    """
    try:
        match name:
            case "PostgresStore":
                from tos_guard.stores._postgres import PostgresStore

                return PostgresStore
            case "copy_store":
                from tos_guard.stores._copying import copy_store

                return copy_store
            case "AsyncPostgresStore":
                from tos_guard.stores._postgres_async import AsyncPostgresStore

                return AsyncPostgresStore
            case "ValkeyLimits":
                from tos_guard.stores._limits_valkey import ValkeyLimits

                return ValkeyLimits
            case "AsyncValkeyLimits":
                from tos_guard.stores._limits_valkey_async import AsyncValkeyLimits

                return AsyncValkeyLimits
            case "look_at_engine":
                from tos_guard.stores._valkey_look import look_at_engine

                return look_at_engine
            case "ValkeyReplays":
                from tos_guard.stores._replays_valkey import ValkeyReplays

                return ValkeyReplays
            case "AsyncValkeyReplays":
                from tos_guard.stores._replays_valkey import AsyncValkeyReplays

                return AsyncValkeyReplays
            case "ValkeyAnnouncements":
                from tos_guard.stores._announcements_valkey import ValkeyAnnouncements

                return ValkeyAnnouncements
            case "SharedVersion":
                from tos_guard.stores._shared_version import SharedVersion

                return SharedVersion
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        extra, setting = _EXTRAS[missing]
        raise ConfigurationError(f"{missing} is not installed", where=setting, cure=f'pip install "tos-guard[{extra}]"') from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_EXTRAS = {"psycopg": ("postgres", "store"), "redis": ("redis", "valkey.url")}
