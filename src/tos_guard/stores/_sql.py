"""What the rooms of a store need of a database: few calls, the same for SQLite and PostgreSQL. What differs stands in the databases.

- A statement is written once, for both. ``?`` stands for a parameter; rows are tuples, by position; integers have 64 bits, texts compare
  byte by byte, and no text holds U+0000.
- Within a block of `Database.write` all is done or nothing is. Where several may write at once, a block takes the lock on the row that
  it decides by, before it reads it: by an ``UPDATE``, or by a ``SELECT`` that ends in one of the locks of `Connection`.
- A look-up on the request's way is a generator of questions (`Asking`), so that it can be answered with `await` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

__all__ = ["ALL_ROWS", "Asking", "Connection", "Database", "OnlySQLite", "Question", "Rows", "Schema", "answered"]

T = TypeVar("T")

Question = tuple[str, Sequence[Any]]
"""A query and its parameters."""

Asking = Generator[Question, list[Any], T]
"""Asks for rows, question by question, of one state of the database."""

ALL_ROWS: Final = 2**53 - 1
"""A ``LIMIT`` that is none: both databases have other words for it."""


class OnlySQLite(str):
    """A statement of a migration for what only files can hold: rows of a release that knew no other database."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file of ours holds, or a schema of a PostgreSQL database.

    Attributes:
        what: What is kept, for messages.
        application_id: ``PRAGMA application_id``, so that another program's file, or our other one, is not taken for this.
        migrations: Statements that lead from version i to i + 1. Released ones never change. Types are those of SQLite:
            ``INTEGER PRIMARY KEY`` is a number that the database gives, and never gives again.
    """

    what: str
    application_id: int
    migrations: Sequence[Sequence[str]]


class Rows(Protocol):
    """What came of a statement."""

    @property
    def rowcount(self) -> int:
        """Rows that an ``INSERT``, ``UPDATE`` or ``DELETE`` touched."""
        ...

    def fetchone(self) -> Any:
        """The next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        ...


class Connection(Protocol):
    """A connection within a block of a `Database`, used by one thread at a time.

    Attributes:
        for_share: Ends a ``SELECT`` whose rows nobody may remove until the block ends; empty where nobody else writes meanwhile.
        for_turns: Likewise, of rows that others who ask so must wait for.
        for_update: Likewise, of rows that nobody else who asks for them in any of these ways may have.
    """

    for_share: str
    for_turns: str
    for_update: str

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows:
        """Run one statement."""
        ...

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> Rows:
        """Run one statement for each of *parameters*, in this order."""
        ...

    def each(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> list[Any]:
        """The first row that one query gives for each of *parameters*, asked in this order; None where there is none."""
        ...

    def insert(self, sql: str, rows: Sequence[Sequence[Any]], /) -> list[int | None]:
        """Insert rows one after the other into a table whose ``id`` the database gives, and whose first two columns name a row.

        *sql* is ``INSERT INTO … (…) VALUES (?, …) ON CONFLICT DO NOTHING``.

        Returns:
            The id of each, None where a row stood in the way.
        """
        ...

    def renew(self, table: str, columns: str, /) -> None:
        """Write a small table anew, where that rids it of deleted rows; *columns* are as it was made with."""


class Database(Protocol):
    """Tables of one `Schema`. Any thread may call; safe across forks.

    Attributes:
        where: The file or the server's database, for messages; no secret.
    """

    where: str

    def read(self) -> AbstractContextManager[Connection]:
        """A connection that only reads.

        Raises:
            StoreError: The engine failed, or the database is closed.
        """
        ...

    def snapshot(self) -> AbstractContextManager[Connection]:
        """A connection that only reads, and sees one state in all statements.

        Raises:
            StoreError: The engine failed, or the database is closed.
        """
        ...

    def write(self) -> AbstractContextManager[Connection]:
        """A connection whose statements are committed when the block ends, and undone when it raises.

        Raises:
            StoreError: The engine failed, or the database is closed. Nothing of the block can be relied upon.
        """
        ...

    def run(self, work: Callable[[Connection], T]) -> T:
        """`write` with *work* as its block, which may be called again when all of it was undone: it must change nothing else.

        Raises:
            StoreError: As `write`.
        """
        ...

    def scrub(self, *tables: str, renewed: bool = False) -> None:
        """After a deletion from *tables*: see to it that nothing holds the deleted rows any more, as far as the database can.

        Args:
            tables: Where rows were deleted.
            renewed: Whether `Connection.renew` has written them anew already.

        Raises:
            StoreError: It could not be done. Call again.
        """

    def close(self) -> None:
        """Let go of all connections. Further use raises `StoreError`."""


def answered(connection: Connection, asking: Asking[T]) -> T:
    """What *asking* comes to, its questions answered by *connection*."""
    rows: list[Any] | None = None
    try:
        while True:
            query, parameters = next(asking) if rows is None else asking.send(rows)
            rows = connection.execute(query, parameters).fetchall()
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
