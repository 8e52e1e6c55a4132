"""A database of PostgreSQL that tests use one after the other."""

from __future__ import annotations

import psycopg
from psycopg import sql

_NAMED_BY_OTHERS = ("account", "organization", "acceptance")


def empty(conninfo: str) -> None:
    """Delete all rows of the stores in it, which stay migrated."""
    with psycopg.connect(conninfo) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname LIKE 'tos_guard%' AND tablename <> 'schema_version'"
        ).fetchall()
        for schema, table in sorted(tables, key=lambda name: name[1] in _NAMED_BY_OTHERS):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(schema, table)))
