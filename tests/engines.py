"""Real engines for tests: those that `fleet.engines` starts, or others.

`TOS_GUARD_TEST_POSTGRES` and `TOS_GUARD_TEST_REDIS` may name others (a conninfo, a URL); what must kill or stop an engine uses its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fleet.engines import Engine, Postgres, Valkey, free_port, new_database, running

__all__ = ["Engine", "Postgres", "Valkey", "free_port", "new_database", "postgres_conninfo", "running", "valkey_url"]


@contextmanager
def valkey_url() -> Iterator[str]:
    """URL of an engine for tests that only use it: the one that is named, or one of our own."""
    if named := os.environ.get("TOS_GUARD_TEST_REDIS"):
        yield named
    else:
        with running(Valkey) as engine:
            yield engine.url


@contextmanager
def postgres_conninfo() -> Iterator[str]:
    """Conninfo of a server for tests that only use it: the one that is named, or one of our own."""
    if named := os.environ.get("TOS_GUARD_TEST_POSTGRES"):
        yield named
    else:
        with running(Postgres) as engine:
            yield engine.conninfo()
