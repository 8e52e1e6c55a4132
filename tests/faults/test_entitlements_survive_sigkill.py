"""A process that is killed while it applies entitlements leaves each account whole, and the next one brings all of them to the end."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tos_guard.rights import Account
from tos_guard.stores import SQLiteStore

ISSUER = "https://api.example"
ACCOUNTS = 20
LIVES = int(os.environ.get("TOS_GUARD_TEST_LIVES", "5"))
"""How often it is killed."""

# Applies the documents of one number after the other, each of which changes everything of every account, and says which account is done.
APPLIER = """
import json, os, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tos_guard.config import EntitlementSettings
from tos_guard.guard import EntitlementSource, EntitlementSync
from tos_guard.stores import SQLiteStore
from tos_guard.telemetry import Telemetry

path, life, number, accounts, until = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])

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

    def applier(life: int, until: int) -> list[str]:
        return [sys.executable, "-c", APPLIER, str(path), str(life), str(number), str(ACCOUNTS), str(until)]

    with SQLiteStore(path, issuer=ISSUER, clock=lambda: datetime.now(UTC)) as store:
        store.add_account(Account(id="bystander", models=frozenset({"own"})))
        for life in range(LIVES):
            with subprocess.Popen(applier(life, 1_000), stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                for _ in range(chance.randrange(1, 2 * ACCOUNTS)):
                    assert process.stdout.readline().endswith(b"\n"), "it ended by itself"
                process.kill()
            found = [said_by(account) for account in store.accounts() if account.id != "bystander"]
            number = max(found)
            assert set(found) <= {number, number - 1}, "no account is older than the document before"
            given = {one.account_id: one for one in store.entitlements("crm")}
            assert len(given) == len(found), "what was given and the account that it made are there together"
            assert all(one.is_current for one in given.values())
        subprocess.run(applier(LIVES, number), check=True, capture_output=True)
        assert {said_by(account) for account in store.accounts() if account.id != "bystander"} == {number}
        bystander = store.by_id("bystander")
        assert bystander is not None
        assert (bystander.models, bystander.version) == ({"own"}, 1)
        record_property("counts", f"{LIVES} lives ended by SIGKILL, at document {number} of {ACCOUNTS} accounts: each account whole")
