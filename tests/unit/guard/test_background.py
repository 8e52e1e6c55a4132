"""Work beside the requests: one thread in each process that asks for it, anew after a fork, and none once it is closed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from tos_guard.guard._background import Worker


def test_a_thread_works_until_it_is_closed() -> None:
    worked = threading.Semaphore(0)

    def work() -> float:
        worked.release()
        return 0.001

    worker = Worker("test-worker", work)
    assert not any(thread.name == "test-worker" for thread in threading.enumerate()), "none before it is asked for"
    for _ in range(3):
        worker.keep_up()
    assert sum(thread.name == "test-worker" for thread in threading.enumerate()) == 1
    assert all(worked.acquire(timeout=10) for _ in range(3))
    worker.close()
    assert not any(thread.name == "test-worker" for thread in threading.enumerate())
    worker.keep_up()
    assert not any(thread.name == "test-worker" for thread in threading.enumerate())


def test_it_is_woken_before_its_time() -> None:
    worked = threading.Semaphore(0)

    def work() -> float:
        worked.release()
        return 3_600.0

    worker = Worker("test-woken", work)
    worker.wake()
    assert worked.acquire(timeout=10)
    worker.wake()
    assert worked.acquire(timeout=10)
    worker.close()


def test_a_defect_does_not_end_it(caplog) -> None:
    tried = threading.Semaphore(0)

    def work() -> float:
        tried.release()
        raise RuntimeError("a defect")

    worker = Worker("test-defect", work)
    worker.keep_up()
    assert tried.acquire(timeout=10)
    worker.wake()
    assert tried.acquire(timeout=10)
    worker.close()
    assert "a defect" in caplog.text


FORKING = """
import os, threading
from tos_guard.guard._background import Worker

worked = threading.Event()

def work():
    worked.set()
    return 3600.0

worker = Worker("forked", work)
worker.keep_up()
assert worked.wait(10)
worked.clear()
pid = os.fork()
if pid == 0:
    worker.keep_up()
    ok = worked.wait(10)
    worker.close()
    os._exit(0 if ok else 1)
_, status = os.waitpid(pid, 0)
worker.close()
print(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_has_a_thread_of_its_own() -> None:
    """As under a server that loads the app before it forks its workers."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "0\n"
