"""A process that is killed while it applies entitlements leaves each account whole, and the next one brings all of them to the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tos_guard.rights import Account
from tos_guard.stores import SQLiteStore

ISSUER = "https://api.example"
ACCOUNTS = 20
LIVES = int(os.environ.get("TOS_GUARD_TEST_LIVES", "10"))
"""How often it is killed."""

# For each line it reads, forks a life: that applies the documents of one number after the other, each of which changes everything of every
# account, and says which account is done.
APPLIER = """
import json, os, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tos_guard.config import EntitlementSettings
from tos_guard.guard import EntitlementSource, EntitlementSync
from tos_guard.stores import SQLiteStore
from tos_guard.telemetry import Telemetry

path, accounts = Path(sys.argv[1]), int(sys.argv[2])

def live(life, number, until):
    def clock():
        return datetime.now(UTC) + timedelta(minutes=2 * life)  # what the life before has leased is over

    class Telling(SQLiteStore):
        def entitle(self, source, account_id, entitlement, **more):
            account = super().entitle(source, account_id, entitlement, **more)
            os.write(1, f"{account_id} {number}\\n".encode())
            return account

    store = Telling(path, issuer="https://api.example", clock=clock)
    source = EntitlementSource(EntitlementSettings(name="crm", webhook="crm", create=True), None)
    sync = EntitlementSync(
        store, {"crm": source}, mode="deny", limits=frozenset({"tokens"}), telemetry=Telemetry(clock=clock), clock=clock
    )
    while number <= until:
        given = {
            "models": [f"m{number}"], "limits": {"tokens": number}, "kind": f"k{number}",
            "grants": [{"id": "lic", "type": "research", "evidence": str(number)}],
        }
        issued = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)).isoformat()
        document = {"version": 1, "issued": issued, "accounts": {f"a{name:03}": given for name in range(accounts)}}
        sync.push("crm", json.dumps(document).encode())
        number += 1

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        live(*map(int, line.split()))
        os._exit(0)
    os.write(1, f"pid {pid}\\n".encode())
    os.waitpid(pid, 0)
    os.write(1, b"over\\n")
"""


def said_by(account: Account) -> int:
    """The number of the document that an account is as; all of it says the same."""
    ((model,), (grant,)) = account.models, [grant for grant in account.grants if grant.voided is None]
    said = {model.removeprefix("m"), str(account.limits["tokens"]), account.kind.removeprefix("k"), grant.evidence}
    assert len(said) == 1, f"{account.id} is not whole: {said}"
    return int(said.pop())


def test_each_account_is_whole_after_every_kill(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    path = tmp_path / "guard.db"
    chance = random.Random(7)
    number = 1
    command = [sys.executable, "-c", APPLIER, str(path), str(ACCOUNTS)]
    with (
        SQLiteStore(path, issuer=ISSUER, clock=lambda: datetime.now(UTC)) as store,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as nursery,
    ):
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        store.add_account(Account(id="bystander", models=frozenset({"own"})))
        for life in range(LIVES + 1):
            is_last = life == LIVES
            nursery.stdin.write(f"{life} {number} {number if is_last else 1_000}\n".encode())
            nursery.stdin.flush()
            lines = iter(nursery.stdout.readline, b"over\n")
            pid = next(int(line.split()[1]) for line in lines if line.startswith(b"pid"))
            if not is_last:
                for _ in range(chance.randrange(1, 2 * ACCOUNTS)):
                    assert next(lines, b"").endswith(b"\n"), "it ended by itself"
                os.kill(pid, signal.SIGKILL)
            assert all(line for line in lines)
            found = [said_by(account) for account in store.accounts() if account.id != "bystander"]
            number = max(found)
            assert set(found) <= ({number} if is_last else {number, number - 1}), "no account is older than the document before"
            given = {one.account_id: one for one in store.entitlements("crm")}
            assert len(given) == len(found), "what was given and the account that it made are there together"
            assert all(one.is_current for one in given.values())
        nursery.stdin.close()
        bystander = store.by_id("bystander")
        assert bystander is not None
        assert (bystander.models, bystander.version) == ({"own"}, 1)
        record_property("counts", f"{LIVES} lives ended by SIGKILL, at document {number} of {ACCOUNTS} accounts: each account whole")
