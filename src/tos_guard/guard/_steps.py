"""The steps of one exchange that need the outside, written once for both colours (DESIGN D1).

Each is a generator that yields what it needs (`tos_guard.guard._needs`) and receives it; `tos_guard.guard._colours` serves the needs.
"""

from __future__ import annotations

import inspect

from tos_guard.guard._administering import Administering
from tos_guard.guard._appealing import Appealing
from tos_guard.guard._batch import Batching
from tos_guard.guard._messages import AdmittingMessages
from tos_guard.guard._reporting import Reporting
from tos_guard.guard._sealing import Sealing
from tos_guard.protocols import ReplayCache

__all__ = ["GuardSteps"]


class GuardSteps(Appealing, Administering, AdmittingMessages, Batching, Reporting, Sealing):
    """What both colours share: everything but how needs are served."""

    def purge(self) -> int:
        """Delete records and seals that are older than they are kept. Returns how many. Not for an event loop: it waits for the store."""
        now = self.clock()
        purged = self._records.purge(now, self.settings.retention.of_records)
        return purged if self.seals is None else purged + self.seals.purge_kept(now)

    def close_stores(self) -> None:
        """Wait until all records are durable."""
        for one in self._beside:
            one.close()
        if self._leases is not None:
            self._leases.close()
        if self._bearer is not None:
            self._bearer.close()
        self._records.close()
        if isinstance(self._replays, ReplayCache) and not inspect.iscoroutinefunction(self._replays.close):
            self._replays.close()
        if self._limits is not None:
            self._limits.close()
