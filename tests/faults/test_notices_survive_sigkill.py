"""Senders of notices that are killed at any moment leave none out: what is sent again has the id that it had."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from outside_systems import serve_outside
from tos_guard.rights import Account
from tos_guard.stores import SQLiteStore
from tos_guard.types import Standing

ISSUER = "https://api.example"
NOTICES = 60
LIVES = int(os.environ.get("TOS_GUARD_TEST_LIVES", "6"))
"""How often a sender is killed."""

# For each line it reads, forks a life that sends until it is killed, or until there is nothing left to send.
SENDER = """
import os, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tos_guard.config import NoticeSettings
from tos_guard.guard import NoticeReceiver, NoticeSender
from tos_guard.remote import WebhookClient
from tos_guard.stores import SQLiteStore
from tos_guard.telemetry import Telemetry

path, url = Path(sys.argv[1]), sys.argv[2]

def live(life, last):
    def clock():
        return datetime.now(UTC) + timedelta(minutes=2 * life)  # what the life before has taken is free

    store = SQLiteStore(path, issuer="https://api.example", clock=clock)
    settings = NoticeSettings.model_validate({"url": url, "secret": "env:X", "on": ["standing"]})
    receiver = NoticeReceiver(settings, WebhookClient(url).send, lambda: [b"s" * 32])
    sender = NoticeSender(store, [receiver], appeal_url=None, telemetry=Telemetry(clock=clock), clock=clock)
    while True:
        left = sender.work(receiver)
        if last and left > 1:
            os._exit(0)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        live(*map(int, line.split()))
    os.write(1, f"{pid}\\n".encode())
    os.waitpid(pid, 0)
    os.write(1, b"over\\n")
"""


def test_no_notice_is_left_out_and_none_out_of_order(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    path = tmp_path / "guard.db"
    chance = random.Random(11)
    with serve_outside() as system, SQLiteStore(path, issuer=ISSUER, clock=lambda: datetime.now(UTC)) as store:
        command = [sys.executable, "-c", SENDER, str(path), f"{system.origin}/hook"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as nursery:
            assert nursery.stdin is not None
            assert nursery.stdout is not None

            def begin(life: int, *, last: bool) -> int:
                assert nursery.stdin is not None
                assert nursery.stdout is not None
                nursery.stdin.write(f"{life} {int(last)}\n".encode())
                nursery.stdin.flush()
                return int(nursery.stdout.readline())

            begin(0, last=True)  # the receiver becomes known: it is told of what follows
            assert nursery.stdout.readline() == b"over\n"
            store.add_account(Account(id="acme"))
            for number in range(NOTICES):
                store.set_standing("acme", (Standing.SUSPENDED, Standing.GOOD)[number % 2], str(number))
            lives = 0
            while lives < LIVES and len({fields["webhook-id"] for fields, _ in system.received}) < NOTICES:
                lives += 1
                system.came.clear()
                pid = begin(lives, last=False)
                assert system.came.wait(30), "a life sends at least one"
                for _ in range(chance.randrange(4)):
                    system.came.clear()
                    system.came.wait(0.2)
                os.kill(pid, signal.SIGKILL)
                assert nursery.stdout.readline() == b"over\n"
            begin(lives + 1, last=True)
            assert nursery.stdout.readline() == b"over\n"
            nursery.stdin.close()
        sent = [(fields["webhook-id"], json.loads(body)["data"]["reason"]) for fields, body in system.received]
    told = list(dict.fromkeys(sent))
    assert [reason for _, reason in told] == [str(number) for number in range(NOTICES)]
    assert len({message_id for message_id, _ in told}) == NOTICES
    again = len(sent) - NOTICES
    assert again <= lives, "a life that is killed repeats one notice at most"
    record_property(
        "counts", f"{lives} senders ended by SIGKILL, {NOTICES} notices: none lost, in order, {again} sent twice under their id"
    )
