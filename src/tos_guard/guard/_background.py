"""Work beside the requests: a thread in each process that serves any, begun with the first of them, and anew after a fork."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["Worker"]

_log = logging.getLogger("tos_guard")

_AFTER_A_DEFECT_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 12.0  # for what is under way when all is closed: one call over the network


class Worker:
    """Does a piece of work again and again.

    Any thread may call. A process that serves no requests has no thread: commands and tools that look at a guard leave its work alone.

    Args:
        name: Of the thread.
        work: Does a piece, and says in how many seconds the next is due.
    """

    def __init__(self, name: str, work: Callable[[], float]) -> None:
        self._name = name
        self._work = work
        self._started: dict[int, object] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def keep_up(self) -> None:
        """See that this process has a thread at work. Costs next to nothing where it has."""
        pid = os.getpid()
        if pid in self._started or self._closed:
            return
        mine = object()
        if self._started.setdefault(pid, mine) is not mine:  # no lock, since a fork could leave it locked for ever
            return
        self._wake = threading.Event()
        thread = threading.Thread(target=self._run, args=(self._wake,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending; the next request tries again
            _log.warning("no thread for %s: %s", self._name, error)
            del self._started[pid]
            return
        self._thread = thread

    def wake(self) -> None:
        """Let the next piece be due now."""
        self.keep_up()
        self._wake.set()

    def close(self) -> None:
        """Let what is under way come to its end, and do nothing more."""
        self._closed = True
        self._wake.set()
        thread = self._thread
        if thread is not None and os.getpid() in self._started and thread is not threading.current_thread():
            thread.join(_PATIENCE_SECONDS)

    def _run(self, wake: threading.Event) -> None:
        while not self._closed:
            try:
                seconds = self._work()
            except Exception:  # noqa: BLE001 - the thread must live on
                _log.exception("%s has a defect", self._name)
                seconds = _AFTER_A_DEFECT_SECONDS
            wake.wait(max(0.0, seconds))
            wake.clear()
