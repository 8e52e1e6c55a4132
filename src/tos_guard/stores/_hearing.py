"""How a store learns that something has changed, and how old its answer may be.

`tos_guard.stores._issuer` counts the changes of an issuer in one row. Who asks for that number on each request must not pay for it.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import MethodType
from typing import Any, Final, Protocol

from tos_guard.errors import StoreError
from tos_guard.stores._announcements import Announcements
from tos_guard.stores._database import Database as FileDatabase
from tos_guard.stores._sql import Connection, Database

__all__ = ["POLL_SECONDS", "SELECT_VERSION", "AskedVersion", "FileHearing", "Hearing", "ServerHearing", "Told", "version_in"]

POLL_SECONDS: Final = 0.05
"""How old the version of a file may be. Revocation must hold everywhere within a second (DESIGN D3)."""

_STALE_SECONDS: Final = 0.5
"""How old it may be while another thread is asking; then everyone waits for the answer."""

_ASK_SECONDS: Final = 0.2
"""How often a server is asked for the version, whatever is announced."""

_APART_SECONDS: Final = 0.01
"""How far apart questions are at least: each of fifty processes would otherwise ask after every change of an import of thousands."""

_FRESH_SECONDS: Final = 0.5
"""How long an answer of a server holds. Whoever has heard nothing for longer asks before it answers."""

_PATIENCE_SECONDS: Final = 0.5
"""How long a call waits for an answer, with the time for which one is outstanding already: what is cut off is known within a second."""

_LEAST_PATIENCE_SECONDS: Final = 0.1
"""How long a call waits all the same. A process that was stopped finds a question of before, and its answer may be there already."""

_SILENT_SECONDS: Final = 3.0
"""How long nobody may listen before it is told: connecting takes its time, and asking goes on meanwhile."""

Told = Callable[[str, StoreError | None], None]
"""Is told what happened to the hearing: a word, and what failed."""

SELECT_VERSION: Final = "SELECT version FROM issuer WHERE issuer = ?"


class Hearing(Protocol):
    """Knows the version of an issuer. Any thread may call."""

    def version(self) -> int:
        """The version, at most half a second old.

        Raises:
            StoreError: It could not be learned.
        """
        ...

    def announce(self, connection: Connection) -> None:
        """Within the transaction of a change: let others hear of it once it is committed."""

    def note(self, version: int) -> None:
        """A change of our own is committed, which made this version."""

    def forget(self) -> None:
        """In the child of a fork: know nothing, and hold nothing."""

    def close(self) -> None:
        """Stop listening."""


class FileHearing:
    """The version in an SQLite file, which any process learns within `POLL_SECONDS` of a commit and at next to no cost.

    ``PRAGMA data_version`` tells that the file has changed, and only then is anything read again. Accounts and records are two files,
    since each record would otherwise look like a change of rights.
    """

    def __init__(self, database: FileDatabase, issuer: str, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._issuer = issuer
        self._monotonic = monotonic
        self.forget()

    def forget(self) -> None:
        """As `Hearing.forget`."""
        self._polling = threading.Lock()
        self._polled_at = float("-inf")
        self._state: tuple[int, int] | None = None
        self._version = 0

    def version(self) -> int:
        """As `Hearing.version`: a number of the file, the same in all processes."""
        now = self._monotonic()
        age = now - self._polled_at
        if age < POLL_SECONDS:
            return self._version
        if self._polling.acquire(blocking=age >= _STALE_SECONDS):
            try:
                self._poll(now)
            finally:
                self._polling.release()
        return self._version

    def announce(self, connection: Connection) -> None:
        """Nothing: the file tells."""

    def note(self, version: int) -> None:
        """Own changes show at once. Never backwards: another thread may have seen a later one."""
        with self._polling:
            self._version = max(self._version, version)

    def close(self) -> None:
        """Nothing: there is no thread."""

    def _poll(self, now: float) -> None:
        if now - self._polled_at < POLL_SECONDS:
            return  # another thread has asked while this one waited
        with self._database.read() as connection:
            # Which file state this is must be known before the state is read, or a commit in between would be missed.
            state = (self._database.generation, connection.execute("PRAGMA data_version").fetchone()[0])
            if state != self._state:
                rows = connection.execute(SELECT_VERSION, (self._issuer,)).fetchall()
                self._version = max(self._version, version_in(rows, self._database.where))
                self._state = state
        self._polled_at = now


class AskedVersion(ABC):
    """A version that lies at a server: asked for by a thread, every `_ASK_SECONDS` and whenever a change is announced.

    Whoever has heard nothing for `_FRESH_SECONDS` (the thread did not get to run, the server was silent, the process was stopped) waits
    for the answer to a new question, and raises where none comes in time. Time counts from when a question was sent: the answer may have
    been on its way for as long. Once it is known that nothing is heard, calls raise at once, and the thread goes on asking.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._closed = threading.Event()
        self._watching: list[Callable[[], Told | None]] = []
        self._reset()

    def _reset(self) -> None:
        self._knowing = threading.Lock()
        self._asking = threading.Lock()
        self._wake = threading.Event()
        self._heard_at = float("-inf")
        self._asked_at: float | None = None
        self._next = _expected()
        self._version = 0
        self._failure: StoreError | None = None
        self._listened_at = float("inf")
        self._is_silent = False
        self._thread: threading.Thread | None = None

    @abstractmethod
    def _learn(self, known: int) -> int:
        """The version, once more than *known* where the server's went back.

        Raises:
            StoreError: The server does not say.
        """

    @abstractmethod
    def _listen(self, wake: Callable[[], None]) -> None:
        """Begin to call *wake* for what is announced."""

    @property
    @abstractmethod
    def _is_listening(self) -> bool:
        """Whether it would be."""

    @property
    def is_fresh(self) -> bool:
        """Whether `version` answers without waiting."""
        return self._monotonic() - self._heard_at <= _FRESH_SECONDS

    @property
    def age(self) -> float | None:
        """Seconds since the question was sent whose answer is known; None before the first."""
        heard_at = self._heard_at
        return None if heard_at == float("-inf") else max(0.0, self._monotonic() - heard_at)

    def watch(self, told: Told) -> None:
        """Tell *told*, from any thread, what happens.

        ``unheard`` once nothing is heard any more, with what failed; ``heard`` when it is again; ``silent`` where announcements are not
        listened to, so that changes are heard of by asking alone; ``listening`` when they are again. *told* must not raise. Whose method
        it is is not kept alive.
        """
        self._watching.append(weakref.WeakMethod(told) if isinstance(told, MethodType) else lambda: told)

    def version(self) -> int:
        """The version, at most half a second old.

        Raises:
            StoreError: Nothing was heard for half a second, and the server does not answer.
        """
        if self.is_fresh:
            return self._version
        if not self._has_thread:
            with self._asking:
                self._ask_here()
            return self._version
        answer = self._awaited()
        try:
            version = answer.result(self._patience)
        except TimeoutError:
            raise self._late() from None
        return self._of_answer(version)

    async def heard_version(self) -> int:
        """As `version`; the event loop does not wait.

        Raises:
            StoreError: As `version`.
        """
        if self.is_fresh:
            return self._version
        if not self._has_thread:
            return await asyncio.to_thread(self.version)
        answer = asyncio.wrap_future(self._awaited())
        done, _ = await asyncio.wait((answer,), timeout=self._patience)
        if not done:
            raise self._late()
        return self._of_answer(answer.result())

    def forget(self) -> None:
        """In the child of a fork: know nothing, and hold nothing."""
        self._reset()

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def _has_thread(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def _patience(self) -> float:
        asked_at, now = self._asked_at, self._monotonic()
        return max(_LEAST_PATIENCE_SECONDS, _PATIENCE_SECONDS - (0.0 if asked_at is None else now - asked_at))

    def _awaited(self) -> Future[int | None]:
        """The answer to the next question."""
        with self._knowing:
            if self._failure is not None:
                raise _again(self._failure)
            answer = self._next
        self._wake.set()
        return answer

    def _of_answer(self, version: int | None) -> int:
        if version is None:
            raise _again(self._failure or StoreError("the version could not be learned"))
        return version

    def _late(self) -> StoreError:
        failure = StoreError(
            "nothing was heard of changes for half a second, and a question gets no answer",
            cure="Is the server reachable from here? failure.accounts decides meanwhile",
        )
        self._note(failure)
        return failure

    def _ask_here(self) -> None:
        """The first question of a process, unless another thread has asked it while this one waited."""
        if not self.is_fresh:
            self._ask()
            self._start()

    def _start(self) -> None:
        """Begin to listen, with the first question of a process: a server may fork after it has made its store."""
        if self._thread is None and not self._closed.is_set():
            thread = threading.Thread(target=self._loop, name="tos-guard-hearing", daemon=True)
            with suppress(RuntimeError):  # no thread to be had: then each call asks that must
                thread.start()
                self._thread = thread
                self._listened_at = self._monotonic()
                self._listen(self._wake.set)

    def _loop(self) -> None:
        wake = self._wake
        while not self._closed.is_set():
            wake.wait(_ASK_SECONDS)
            wake.clear()
            if not self._closed.is_set():
                with suppress(StoreError):  # whoever needs to know is told
                    self._ask()
                self._look_at_listening()
                self._closed.wait(_APART_SECONDS)

    def _ask(self) -> None:
        asked_at = self._asked_at = self._monotonic()
        with self._knowing:
            known = self._version
            answer, self._next = self._next, _expected()
        try:
            version = self._learn(known)
        except StoreError as failure:
            self._asked_at = None
            self._note(failure)
            answer.set_result(None)
            raise
        except BaseException:
            answer.set_result(None)
            raise
        with self._knowing:
            self._asked_at = None
            version = self._version = max(self._version, version)
            self._heard_at = max(self._heard_at, asked_at)
            was_unheard = self._failure is not None and self.is_fresh
            if was_unheard:
                self._failure = None
        answer.set_result(version)
        if was_unheard:
            self._tell("heard")

    def _note(self, failure: StoreError) -> None:
        """A question failed, or got no answer. As long as the last answer holds that is nothing."""
        with self._knowing:
            if self.is_fresh or self._closed.is_set():
                return
            is_news, self._failure = self._failure is None, _again(failure)
        if is_news:
            self._tell("unheard", failure)

    def _look_at_listening(self) -> None:
        now = self._monotonic()
        if self._is_listening:
            self._listened_at = now
            if self._is_silent:
                self._is_silent = False
                self._tell("listening")
        elif not self._is_silent and now - self._listened_at > _SILENT_SECONDS:
            self._is_silent = True
            self._tell("silent")

    def _tell(self, word: str, failure: StoreError | None = None) -> None:
        for watching in tuple(self._watching):
            if (told := watching()) is not None:
                told(word, failure)


def _expected() -> Future[int | None]:
    """An answer that is to come: a version, or None where none did. Nobody can cancel it."""
    answer: Future[int | None] = Future()
    answer.set_running_or_notify_cancel()
    return answer


def _again(failure: StoreError) -> StoreError:
    """A copy: an error that was raised holds on to every frame it passed."""
    return StoreError(failure.what, where=failure.where, cure=failure.cure)


class TimedDatabase(Database, Protocol):
    """A database on a server that may be followed by another."""

    def timeline(self) -> str:
        """Which of its histories the server writes."""
        ...


class ServerHearing(AskedVersion):
    """The version in a server's database: a `Hearing`.

    A version never goes back. Where a replica took over that had not heard of the newest changes, it is raised above what is known here:
    a later change would otherwise come under a number that is known already, and not be heard. That is seen by a lower number, and by
    the server's timeline: another change may have come to the same number already.
    """

    def __init__(self, database: TimedDatabase, announcements: Announcements, issuer: str, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._announcements = announcements
        self._issuer = issuer
        self._timeline: str | None = None
        self._lost: weakref.WeakMethod[Callable[[], None]] | None = None
        super().__init__(monotonic)

    def on_loss(self, forget: Callable[[], None]) -> None:
        """Call *forget*, a method of whoever keeps what was read, where numbers of before may stand for something else by now."""
        self._lost = weakref.WeakMethod(forget)

    def announce(self, connection: Connection) -> None:
        """As `Hearing.announce`."""
        self._announcements.announce(self._issuer, connection)

    def note(self, version: int) -> None:
        """As `Hearing.note`."""
        with self._knowing:
            self._version = max(self._version, version)
        self._announcements.committed(self._issuer)

    def forget(self) -> None:
        """As `Hearing.forget`."""
        self._announcements.forget()
        super().forget()

    def close(self) -> None:
        """As `Hearing.close`."""
        super().close()
        self._announcements.close()

    @property
    def _is_listening(self) -> bool:
        return self._announcements.is_hearing

    def _listen(self, wake: Callable[[], None]) -> None:
        self._announcements.listen(self._issuer, wake)

    def _learn(self, known: int) -> int:
        timeline = self._database.timeline()  # before the version: one that is newer than it is found out with the next question
        with self._database.read() as connection:
            version = version_in(connection.execute(SELECT_VERSION, (self._issuer,)).fetchall(), self._database.where)
        is_other = self._timeline is not None and timeline != self._timeline
        is_lost = is_other or version < known
        if is_lost and version <= known:
            version = known + 1
            with self._database.write() as connection:
                query = "UPDATE issuer SET version = ? WHERE issuer = ? AND version < ?"
                connection.execute(query, (version, self._issuer, version))
                self.announce(connection)
            self._announcements.committed(self._issuer)
        if is_lost and self._lost is not None and (forget := self._lost()) is not None:
            forget()
        self._timeline = timeline
        return version


def version_in(rows: list[Any], where: str) -> int:
    """The version that `SELECT_VERSION` found.

    Raises:
        StoreError: The issuer's row is gone.
    """
    if not rows:
        raise StoreError("the issuer's row is gone", where=where, cure="Restore it from a backup")
    version: int = rows[0][0]
    return version
