"""What must happen around ``os.fork`` to whoever holds a SQLite connection, a thread or a lock.

A connection must not be open across a fork. SQLite counts its file locks per process, in memory: a child that inherits the count
believes that it holds locks which only its parent holds, so that the parent's `close` may delete the write-ahead log under the
child, with the child's records in it. So connections are closed before each fork, in both processes, and opened again when next used.

Threads do not survive into the child, and a lock another thread held stays locked there for ever: the child gets new ones.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import cache
from typing import Protocol

__all__ = ["ForkAware", "watch_forks"]


class ForkAware(Protocol):
    """Is told of each fork of the process. None of the three may raise."""

    def before_fork(self) -> None:
        """Come to rest and hold whatever another thread must not touch meanwhile."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Start anew; no other thread exists."""


_watched: weakref.WeakSet[ForkAware] = weakref.WeakSet()


class _Resting(threading.local):
    def __init__(self) -> None:
        self.members: list[ForkAware] = []


_resting = _Resting()


def _before() -> None:
    _resting.members = list(_watched)
    for member in _resting.members:
        member.before_fork()


def _in_parent() -> None:
    members, _resting.members = _resting.members, []
    for member in reversed(members):
        member.after_fork_in_parent()


def _in_child() -> None:
    members, _resting.members = _resting.members, []
    for member in members:
        member.after_fork_in_child()


def watch_forks(member: ForkAware) -> None:
    """Tell *member* of each fork for as long as it lives."""
    _register()
    _watched.add(member)


@cache
def _register() -> None:
    """Called first when there is something to tell, so that importing the package has no effect. Twice would do no harm but this."""
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
