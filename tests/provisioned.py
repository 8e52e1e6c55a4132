"""A provider's folder as `tos-guard init` and its operator would leave it: settings, terms, keys, accounts."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tos_guard.keys import KeySet
from tos_guard.rights import Account, Grant, hash_secret, new_api_key
from tos_guard.stores import KeyFolder, SQLiteStore
from tos_guard.verify import Trust

SAMPLE = Path(__file__).parents[1] / "examples" / "terms" / "sample-2026-11.toml"
ISSUER = "https://api.example.com"
MODELS = frozenset({"smollm2-135m", "catalogue", "scorer"})

SETTINGS = """\
issuer = "{issuer}"
terms = "{terms}"
store = "tos-guard.db"
keys = "keys"
exempt = ["/healthz"]
records = "{records}"

[sources]
region = "account"

[routes]
"/v1/chat/completions" = "openai-chat"
"/v1/models" = {{ dialect = "plain-json", model = "catalogue", action = "classify" }}
"/v1/score" = {{ dialect = "plain-json", model = "scorer", action = "classify" }}
"""


def now() -> datetime:
    """The present."""
    return datetime.now(UTC)


@dataclass
class Provider:
    """A provisioned folder.

    Attributes:
        folder: Where everything is.
        keys: API keys by account: ``good``, ``suspended``, ``distiller``, and ``enterprise`` (a kind that may fine-tune).
    """

    folder: Path
    terms: Path = SAMPLE
    records: str = "durable"
    issuer: str = ISSUER
    keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        KeyFolder(self.folder / "keys").create(self.issuer, now=now() - timedelta(minutes=1))
        self.settings.write_text(SETTINGS.format(issuer=self.issuer, terms=self.terms, records=self.records))
        licence = Grant(id="lic-2026-7", type="licensed-distillation", reason="contract 7")
        accounts = [
            Account(id="good"),
            Account(id="suspended", standing="suspended"),
            Account(id="distiller", grants=(licence,)),
            Account(id="enterprise", kind="enterprise"),
        ]
        with self.store() as store:
            for account in accounts:
                rights = {"models": MODELS, "actions": frozenset({"generate", "classify"}), "region": "DE"}
                store.add_account(account.model_copy(update=rights))
                key = new_api_key(secrets.token_bytes)
                store.add_api_key(account.id, key.public_id, hash_secret(key.secret, store.pepper()))
                self.keys[account.id] = key.text

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.folder / "tos-guard.toml"

    def store(self) -> SQLiteStore:
        """The store, opened anew."""
        return SQLiteStore(self.folder / "tos-guard.db", issuer=self.issuer, clock=now)

    def key_set(self) -> KeySet:
        """The key set in force."""
        return KeyFolder(self.folder / "keys").public_set(now())

    def trust(self) -> Trust:
        """Trust in this provider's keys."""
        return Trust.of(self.key_set())

    def environment(self) -> dict[str, str]:
        """What `provider_fastapi.guarded` reads."""
        return {"TOS_GUARD_CONFIG": str(self.settings), "PROVIDER_MODEL": "replay", "PROVIDER_CREATED": "1790000000"}
