"""The store that settings name: a file of SQLite, or a database on a PostgreSQL server."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from tos_guard.config import GuardSettings
from tos_guard.errors import ConfigurationError
from tos_guard.protocols import Clock
from tos_guard.stores._announcements import Announcements
from tos_guard.stores._sqlite import SQLiteStore
from tos_guard.stores._store import Store

__all__ = ["is_there", "open_store"]


def open_store(settings: GuardSettings, *, clock: Clock, commit_delay: float = 0.0) -> Store:
    """The store, made where it is not there yet, and migrated; to be closed by the caller.

    Args:
        settings: Name it.
        clock: Tells when something was changed.
        commit_delay: Seconds for which a record waits for others to be committed with.

    Raises:
        ConfigurationError: It cannot be used: a folder is missing, psycopg is not installed, it is something else or of a newer release.
        StoreError: It cannot be opened.
    """
    if isinstance(settings.store, Path):
        return SQLiteStore(settings.store, issuer=settings.issuer, clock=clock, commit_delay=commit_delay)
    from tos_guard.stores import PostgresStore

    postgres = settings.postgres
    return PostgresStore(
        settings.store.resolve(os.environ),
        issuer=settings.issuer,
        clock=clock,
        commit_delay=commit_delay,
        namespace=postgres.namespace,
        deadline=postgres.deadline_ms / 1000,
        connections=postgres.connections,
        announcements=_over_valkey(settings) if postgres.announcements == "valkey" else postgres.announcements,
    )


def _over_valkey(settings: GuardSettings) -> Announcements:
    from tos_guard.stores import ValkeyAnnouncements

    valkey = settings.valkey
    if valkey is None:  # the settings see to it
        raise ConfigurationError(
            "changes are announced over a server, and none is set", where="valkey", cure='Set [valkey] url = "redis://…"'
        )
    deadline = timedelta(milliseconds=valkey.deadline_ms)
    return ValkeyAnnouncements(valkey.url.resolve(os.environ), domain=settings.valkey_domain, deadline=deadline)


def is_there(settings: GuardSettings) -> bool:
    """Whether the store exists: looking makes nothing.

    Raises:
        ConfigurationError: Its server cannot be named, or psycopg is not installed.
        StoreError: Its server does not answer.
    """
    if isinstance(settings.store, Path):
        return settings.store.is_file()
    from tos_guard.stores import PostgresStore

    return PostgresStore.is_there(settings.store.resolve(os.environ), namespace=settings.postgres.namespace)
