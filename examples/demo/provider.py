"""The provider of the day: its folder, its accounts, its processes."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from tos_guard.rights import Account, Grant, hash_secret, new_api_key
from tos_guard.stores import KeyFolder, SQLiteStore, load_terms

__all__ = ["EXAMPLES", "ISSUER", "Provider", "serve"]

EXAMPLES: Final = Path(__file__).resolve().parent.parent
ISSUER: Final = "https://api.example.com"
START_SECONDS: Final = 120.0  # a loaded machine reads the weights in far less

SETTINGS: Final = """\
issuer = "{issuer}"
terms = "{terms}"
store = "tos-guard.db"
keys = "keys"
exempt = ["/healthz"]
appeal_url = "https://example.com/appeals"

account_routes = "/account"

[sources]
region = "account"

# Accounts on trial have three requests a minute, and a budget of tokens like everybody else.
[[limits]]
id = "trial-requests"
quantity = "requests"
amount = 3
window = "1m"
kinds = ["trial"]

[[limits]]
id = "tokens-per-day"
quantity = "tokens"
amount = 200000
window = "calendar day Europe/Berlin"

[routes]
"/v1/chat/completions" = "openai-chat"
"/v1/models" = {{ dialect = "plain-json", model = "catalogue", action = "classify" }}
"/v1/score" = {{ dialect = "plain-json", model = "scorer", action = "classify" }}
"""


def now() -> datetime:
    """The present."""
    return datetime.now(UTC)


class Provider:
    """The provider's folder, as its operator set it up.

    Attributes:
        folder: Where everything is.
        api_keys: API key of each account: ``good``, ``distiller``, ``offender``, ``newcomer`` (has accepted nothing), ``trial``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api_keys: dict[str, str] = {}
        folder.mkdir(parents=True)
        # Published a moment before they sign, as keys should be.
        self.keys = KeyFolder(folder / "keys")
        self.keys.create(ISSUER, now=now() - timedelta(minutes=1))
        self.first_terms = self.write_terms("2026-11")
        (folder / "tos-guard.toml").write_text(SETTINGS.format(issuer=ISSUER, terms=self.first_terms), encoding="utf-8")
        licence = Grant(id="lic-2026-7", type="licensed-distillation", reason="contract 7 of 2026", issuer="legal", evidence="contract 7")
        with self.store() as store:
            store.publish_terms(load_terms(self.first_terms))
            for name, grants in {"good": (), "distiller": (licence,), "offender": (), "newcomer": (), "trial": ()}.items():
                kind = "trial" if name == "trial" else "default"
                store.add_account(Account(id=name, kind=kind, models=frozenset({"smollm2-135m"}), region="DE", grants=grants))
                key = new_api_key(secrets.token_bytes)
                store.add_api_key(name, key.public_id, hash_secret(key.secret, store.pepper()))
                self.api_keys[name] = key.text
        for name in self.api_keys:
            if name != "newcomer":
                self.accept_on_paper(name)

    def write_terms(self, version: str, *, acceptance: str = "required", closing: str = "") -> Path:
        """The sample terms as a version of their own, with a clause more if *closing* is one."""
        source = EXAMPLES / "terms" / "sample-2026-11.toml"
        written = source.read_text(encoding="utf-8").replace("terms/2026-11", f"terms/{version}")
        written = written.replace('version = "2026-11"', f'version = "{version}"\nacceptance = "{acceptance}"')
        path = self.folder / "terms" / f"{version}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(written + closing, encoding="utf-8")
        (path.parent / "sample-2026-11.md").write_bytes(source.with_suffix(".md").read_bytes())
        return path

    def publish(self, path: Path) -> None:
        """Publish terms while the provider runs."""
        with self.store() as store:
            store.publish_terms(load_terms(path))

    def accept_on_paper(self, account: str) -> None:
        """Record that an account has signed the first terms, as an administrator does who has them on paper."""
        command = ["accounts", "accept", account, "--by", f"{account}@example.com", "--config", str(self.folder / "tos-guard.toml")]
        subprocess.run([sys.executable, "-m", "tos_guard.cli", *command], check=True, stdout=subprocess.DEVNULL)

    def store(self) -> SQLiteStore:
        """The provider's store, opened beside the running workers."""
        return SQLiteStore(self.folder / "tos-guard.db", issuer=ISSUER, clock=now)


@contextmanager
def serve(provider: Provider, *, model: str, guarded: bool, log: Path) -> Iterator[str]:
    """Run the provider under uvicorn with two workers.

    Args:
        provider: Its folder.
        model: ``smollm2`` or ``replay``.
        guarded: Whether with the guard.
        log: File for what the processes say.

    Yields:
        Base URL, which answers.

    Raises:
        RuntimeError: It did not start; the log says why.
    """
    app = "provider_fastapi.guarded:guarded" if guarded else "provider_fastapi.app:unguarded"
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--factory", app, "--workers", "2", "--port", "0"]
    environment = {
        **os.environ,
        "TOS_GUARD_CONFIG": str(provider.folder / "tos-guard.toml"),
        "PROVIDER_MODEL": "smol" if model == "smollm2" else model,
    }
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        ready = threading.Event()
        found: list[str] = []

        def follow() -> None:
            started = 0
            for line in process.stdout or ():
                out.write(line)
                out.flush()
                if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                    found.append(match[0])
                started += "Application startup complete" in line
                if started >= 2:
                    ready.set()
            ready.set()  # it ended

        reader = threading.Thread(target=follow, name="provider-log")
        reader.start()
        try:
            ready.wait(START_SECONDS)
            if process.poll() is not None or not found:
                raise RuntimeError(f"the provider did not start; see {log}")
            yield found[0]
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join(15)
