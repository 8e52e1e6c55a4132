"""A disk without room: appends fail in plain sight, nothing acknowledged is lost, and work goes on when there is room again."""

from __future__ import annotations

import subprocess
import sys

# RLIMIT_FSIZE makes each write beyond a size fail, as a full disk does.
SCRIPT = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from tos_guard.errors import StoreError
from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.stores import SQLiteStore

ISSUER = "https://api.example"
store = SQLiteStore(Path(sys.argv[1]), issuer=ISSUER, clock=lambda: datetime.now(UTC))

def record(number):
    return ExchangeRecord(
        type=RecordType.EXCHANGE, issuer=ISSUER, rid=f"r{number}", sub="s", started=number, finished=number, status=200, action="a",
        model="m", purpose="p", decision="allow", reasons=(), terms_version="1", terms_sha256="t" * 2000, usage_sha256="u",
    )

acknowledged, failed = [], []
def append(numbers):
    for number, future in [(number, store.append(record(number))) for number in numbers]:
        (failed if isinstance(future.exception(60), StoreError) else acknowledged).append(number)

append(range(20))
assert not failed
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
for start in range(20, 620, 20):
    append(range(start, start + 20))
assert failed, "the disk was never full"
store.count_denial("tos_unauthenticated", datetime(2026, 11, 22, tzinfo=UTC))
for number in range(10_000, 10_050):  # the same thread keeps answering
    append([number])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
before = len(failed)
append(range(1000, 1020))
assert len(failed) == before, "the writer did not recover"
store.flush()
assert store.denial_counts(ISSUER)[0][2] == 1, "a count was lost"
store.close()

again = SQLiteStore(Path(sys.argv[1]), issuer=ISSUER, clock=lambda: datetime.now(UTC))
assert all(again.by_request_id(ISSUER, f"r{number}") == record(number) for number in acknowledged)
again.close()
print(len(acknowledged), "acknowledged,", len(failed), "failed")
"""


def test_a_full_disk_loses_nothing_acknowledged(tmp_path):
    """While the disk is full each append fails with `StoreError`; before and after it is kept."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "guard.db")], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "acknowledged" in run.stdout
