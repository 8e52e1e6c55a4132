"""Writers that are killed in the middle of their work lose nothing that they acknowledged."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from tos_guard.stores import SQLiteStore

ISSUER = "https://api.example"
WRITERS = 4
LIVES = int(os.environ.get("TOS_GUARD_TEST_LIVES", "10"))
"""How often each writer is killed."""

# Appends for ever, with up to 200 records under way, and prints each request id once its record is durable.
WRITER = """
import os, sys, threading
from datetime import UTC, datetime
from pathlib import Path
from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.stores import SQLiteStore

path, writer, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = SQLiteStore(path, issuer="https://api.example", clock=lambda: datetime.now(UTC))
room = threading.Semaphore(200)

def acknowledged(rid, future):
    future.result()
    os.write(1, f"{rid}\\n".encode())
    room.release()

while True:
    room.acquire()
    rid = f"{writer}-{number}"
    record = ExchangeRecord(
        type=RecordType.EXCHANGE, issuer="https://api.example", rid=rid, sub="s", started=number, finished=number, status=200,
        action="generate", model="m", purpose="undeclared", decision="allow", reasons=(), terms_version="1", terms_sha256="t",
        usage_sha256="u", jti=f"j-{rid}", account_id=f"account-{writer}",
    )
    store.append(record).add_done_callback(lambda future, rid=rid: acknowledged(rid, future))
    number += 1
"""


def live_and_die(path: Path, writer: int, chance: random.Random, acknowledged: list[str]) -> None:
    """Run one writer, kill it after a number of acknowledgements, and begin again; the next life repeats the last records."""
    for _ in range(LIVES):
        first = max(0, len(acknowledged) - 100)
        command = [sys.executable, "-c", WRITER, str(path), str(writer), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 1500)):
                line = process.stdout.readline()
                assert line.endswith(b"\n"), "the writer ended by itself"
                acknowledged.append(line.decode().strip())
            process.kill()
            # What it said before it died counts, the half line it died in does not.
            acknowledged.extend(line.decode().strip() for line in process.stdout if line.endswith(b"\n"))


def test_acknowledged_records_survive_sigkill(tmp_path):
    """Four writers, killed forty times in the middle of appends: each acknowledged record is there, linked, and there once."""
    path = tmp_path / "guard.db"
    acknowledged: list[list[str]] = [[] for _ in range(WRITERS)]
    failures: list[BaseException] = []

    def work(writer: int) -> None:
        try:
            live_and_die(path, writer, random.Random(writer), acknowledged[writer])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures

    with SQLiteStore(path, issuer=ISSUER, clock=lambda: datetime.now(UTC)) as store:
        for writer in range(WRITERS):
            linked = [record.rid for record in store.of_account(ISSUER, f"account-{writer}")]
            assert len(linked) == len(set(linked))
            lost = set(acknowledged[writer]) - set(linked)
            assert not lost, f"{len(lost)} acknowledged records are lost"
            # Records of one process become durable in the order of `append`, so what is there has no gap.
            assert linked == [f"{writer}-{number}" for number in range(len(linked))]
        total = store.count_records(ISSUER)
        sample = acknowledged[0][-1]
        assert store.by_token_id(ISSUER, f"j-{sample}").rid == sample
    said = sum(map(len, map(set, acknowledged)))
    assert total >= said > 0
    connection = sqlite3.connect(tmp_path / "guard.records.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(DISTINCT rid) FROM record").fetchone() == (total,)
    finally:
        connection.close()
    sys.stdout.write(f"{WRITERS * LIVES} kills, {said} acknowledged, {total} stored, 0 lost, 0 twice\n")
