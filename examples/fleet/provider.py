"""The provider: its folder, its accounts and keys, its four workers."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from fleet.clients import ProofKey
from fleet.engines import Valkey, free_port
from tos_guard.rights import Account, Binding, KeyTerms, hash_secret, new_api_key
from tos_guard.stores import KeyFolder, PostgresStore

__all__ = ["AMOUNT", "ISSUER", "WORKERS", "Fleet", "Provider", "serve"]

EXAMPLES: Final = Path(__file__).resolve().parent.parent
ISSUER: Final = "https://api.example.com"
WORKERS: Final = 4
AMOUNT: Final = 40
START_SECONDS: Final = 120.0

SETTINGS: Final = """\
issuer = "{issuer}"
terms = "{terms}"
store = "env:FLEET_STORE"
keys = "keys"
exempt = ["/healthz"]
limits_shared_by = "fleet"

[valkey]
url = "env:FLEET_VALKEY"

[postgres]
deadline_ms = 1000

[sources]
region = "account"

[dpop]
urls = ["{url}"]
shared_by = "fleet"

# Accounts on trial have so many requests an hour: all workers together.
[[limits]]
id = "trial-requests"
quantity = "requests"
amount = {amount}
window = "1h"
kinds = ["trial"]

[[limits]]
id = "running"
quantity = "concurrency"
amount = 64

[routes]
"/v1/chat/completions" = "openai-chat"
"/v1/models" = {{ dialect = "plain-json", model = "catalogue", action = "classify" }}
"/v1/score" = {{ dialect = "plain-json", model = "scorer", action = "classify" }}
"""


def now() -> datetime:
    """The present."""
    return datetime.now(UTC)


class Provider:
    """The provider's folder and database, as its operator set them up.

    Attributes:
        folder: Where everything is.
        url: Where its workers will be.
        api_keys: API key of each account: ``good``, ``offender``, ``trial``; that of ``scoped`` is only for the catalogue, that of
            ``bound`` needs proofs by `proof_key`.
        proof_key: What proofs for ``bound`` are made with.
    """

    def __init__(self, folder: Path, conninfo: str, valkey: Valkey) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.proof_key = ProofKey()
        self.api_keys: dict[str, str] = {}
        self._address = conninfo
        self.environment = {"FLEET_STORE": self._address, "FLEET_VALKEY": valkey.url, "TOS_GUARD_CONFIG": str(folder / "tos-guard.toml")}
        KeyFolder(folder / "keys").create(ISSUER, now=now() - timedelta(minutes=1))
        terms = EXAMPLES / "terms" / "sample-2026-11.toml"
        settings = SETTINGS.format(issuer=ISSUER, terms=terms, url=self.url, amount=AMOUNT)
        (folder / "tos-guard.toml").write_text(settings, encoding="utf-8")
        key_terms = {
            "scoped": KeyTerms(actions=frozenset({"classify"})),
            "bound": KeyTerms(binding=Binding(jkt=self.proof_key.thumbprint)),
        }
        models = frozenset({"smollm2-135m", "catalogue"})
        with self.store() as store:
            for name in ("good", "offender", "trial", "scoped", "bound"):
                kind = "trial" if name == "trial" else "default"
                store.add_account(Account(id=name, kind=kind, models=models, actions=frozenset({"generate", "classify"}), region="DE"))
                key = new_api_key(secrets.token_bytes)
                store.add_api_key(name, key.public_id, hash_secret(key.secret, store.pepper()), terms=key_terms.get(name))
                self.api_keys[name] = key.text

    def store(self) -> PostgresStore:
        """The provider's store, opened beside the running workers."""
        return PostgresStore(self._address, issuer=ISSUER, clock=now)

    def rotate(self, store: PostgresStore, account: str, overlap: timedelta) -> tuple[str, str]:
        """Replace an account's key; the old one's public id, and the new key."""
        (old,) = (key for key in store.api_keys(account) if key.revoked is None)
        key = new_api_key(secrets.token_bytes)
        store.rotate_api_key(old.public_id, key.public_id, hash_secret(key.secret, store.pepper()), overlap=overlap)
        return old.public_id, key.text


class Fleet:
    """The running workers, under one supervisor of uvicorn that puts another in the place of one that died."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._begun: list[int] = []
        self._ready = 0
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._follow, name="fleet-log")
        self._reader.start()

    def _follow(self) -> None:
        with self._log.open("w", encoding="utf-8") as out:
            for line in self._process.stdout or ():
                out.write(line)
                out.flush()
                with self._changed:
                    if started := re.search(r"Started server process \[(\d+)\]", line):
                        self._begun.append(int(started[1]))
                    self._ready += "Application startup complete" in line
                    self._changed.notify_all()
        with self._changed:
            self._ready = -1
            self._changed.notify_all()

    def wait_for(self, ready: int) -> None:
        """Until so many workers have started since the beginning.

        Raises:
            RuntimeError: They do not; it says what they said.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready >= ready or self._ready < 0, START_SECONDS)
            if self._ready < ready:
                raise RuntimeError(f"the workers did not start:\n{self._log.read_text(encoding='utf-8')}")

    def kill_worker(self) -> tuple[int, int]:
        """``kill -9`` of the oldest worker; its number, and that of the one in its place."""
        with self._changed:
            ready = self._ready
            killed = self._begun[0]
        os.kill(killed, signal.SIGKILL)
        self.wait_for(ready + 1)
        return killed, self._begun[-1]

    def stop(self) -> None:
        """End all of it."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.join(15)


@contextmanager
def serve(provider: Provider) -> Iterator[Fleet]:
    """Four workers of the provider, which answer.

    Raises:
        RuntimeError: They did not start.
    """
    port = provider.url.rpartition(":")[2]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--factory", "fleet.worker:numbered"]
    command += ["--host", "127.0.0.1", "--port", port, "--workers", str(WORKERS), "--no-access-log"]
    environment = {**os.environ, **provider.environment, "PROVIDER_MODEL": "replay", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    fleet = Fleet(process, provider.folder.parent / "workers.log")
    try:
        fleet.wait_for(WORKERS)
        yield fleet
    finally:
        fleet.stop()
