"""Keeping reservations alive while their responses run: a thread renews them, so that a slot is held to the end of a long stream.

When the process dies nothing renews them any more, and their slots come back when the lease ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from tos_guard.errors import StoreError
from tos_guard.limits import Reservation
from tos_guard.protocols import LimitEngine

__all__ = ["BACKGROUND_LEASE", "LEASE", "Leases"]

LEASE: Final = timedelta(seconds=60)
"""How long a slot may stay taken after its process was killed."""

BACKGROUND_LEASE: Final = timedelta(hours=24)
"""For how long what a response in the background took can be settled by whoever fetches it; afterwards the estimate stands."""

_RENEWALS: Final = 4  # in one lease: three of them may fail or come late


class Leases:
    """The reservations of one process that are still open. Any thread may call; the thread starts with the first of them.

    Args:
        engine: Where they were made.
        report: Told of each failure to renew.
    """

    def __init__(self, engine: LimitEngine, report: Callable[[str, Exception], None]) -> None:
        from tos_guard.stores._fork import watch_forks

        self._engine = engine
        self._report = report
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._open: dict[str, Reservation] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, reservation: Reservation) -> None:
        """Renew *reservation* until it is let go."""
        with self._lock:
            self._open[reservation.id] = reservation
            if self._thread is None or not self._thread.is_alive():
                self._wake = threading.Event()
                self._thread = threading.Thread(target=self._renew, args=(self._wake,), name="tos-guard-leases", daemon=True)
                self._thread.start()

    def let_go(self, reservation: Reservation) -> None:
        """It is settled or cancelled."""
        with self._lock:
            self._open.pop(reservation.id, None)

    def close(self) -> None:
        """Stop renewing."""
        with self._lock:
            self._open.clear()
        self._wake.set()

    def renew(self) -> None:
        """Renew all that are open, once."""
        with self._lock:
            held = tuple(self._open.values())
        if held:
            try:
                self._engine.renew_all(held, lease=LEASE)
            except StoreError as failure:
                self._report("limits", failure)

    def _renew(self, wake: threading.Event) -> None:
        while not wake.wait(LEASE.total_seconds() / _RENEWALS):
            self.renew()
            with self._lock:
                if not self._open:
                    self._thread = None
                    return

    def before_fork(self) -> None:
        """Hold still: a lock that another thread held would stay locked in the child for ever."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """What was open is the parent's, and its thread stayed there."""
        self._reset()
