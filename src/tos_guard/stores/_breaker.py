"""A circuit breaker: an engine that failed is left alone for a moment, since each call would wait for it as long as it is given.

Closed, calls go through. After a failure it is open: calls fail at once, with a copy of that failure. After the moment one call goes
through and finds out for all; until it has, the others fail as before. A success closes it. Any thread may call; safe after fork.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tos_guard.errors import StoreError
from tos_guard.stores._fork import watch_forks

__all__ = ["Breaker"]

_RETRY_SECONDS: Final = 1.0
"""How long a failed engine is left alone."""


class Breaker:
    """Decides whether a call may go to an engine.

    Args:
        monotonic: Seconds that never go back.
        retry_seconds: How long a failed engine is left alone.
        on_change: Called with the failure that opens it, and with None when it is closed again; not for failures in between. It must not
            raise, and may be called by any thread.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        retry_seconds: float = _RETRY_SECONDS,
        on_change: Callable[[StoreError | None], None] | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._retry_seconds = retry_seconds
        self._on_change = on_change
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._failure: StoreError | None = None
        self._retry_at = 0.0

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Around each call.

        Raises:
            StoreError: The engine is left alone, or the call raised it.
        """
        self._check()
        try:
            yield
        except StoreError as error:
            self.failed(error)
            raise
        if self._failure is not None:
            with self._lock:
                was_open, self._failure = self._failure is not None, None
            if was_open and self._on_change is not None:
                self._on_change(None)

    def _check(self) -> None:
        if self._failure is None:  # read without the lock: whoever comes a moment too early makes one call more
            return
        with self._lock:
            failed, now = self._failure, self._monotonic()
            if failed is None:
                return
            if now < self._retry_at:
                raise StoreError(failed.what, where=failed.where, cure=failed.cure)
            self._retry_at = now + self._retry_seconds  # this call finds out, and the others need not

    def failed(self, error: StoreError) -> None:
        """The engine failed, as was seen outside of `trying`."""
        with self._lock:
            was_open = self._failure is not None
            # A copy: an error that was raised holds on to every frame it passed.
            self._failure = StoreError(error.what, where=error.where, cure=error.cure)
            self._retry_at = self._monotonic() + self._retry_seconds
        if not was_open and self._on_change is not None:
            self._on_change(error)

    def before_fork(self) -> None:
        """Hold still while what is known of the engine is copied."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Try the engine anew: the parent's failure may have been its own."""
        self._reset()
