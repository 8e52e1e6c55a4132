"""The provider of a scenario: a guard over stores in memory, and a handler that does as it is told."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import ISSUER, TERMS, Kit
from tos_guard.errors import StoreError
from tos_guard.guard import AsyncGuard, Guard, Meter
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.rights import Account, Holder
from tos_guard.stores import FallbackLimits, MemoryLimits, MemoryStore, load_terms
from tos_guard.terms import new_acceptance
from tos_guard.testing import SeededEntropy
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind

if TYPE_CHECKING:
    from scenarios.cases import Case

__all__ = ["MODEL", "PIECES", "ROUTES", "World"]

MODEL = "small"
PIECES = ("Hello", " there", ".")
MAX_REQUEST_BYTES = 2_048
SECONDS = 20.0  # a bound for what comes at once on an idle machine

ROUTES: dict[str, Any] = {
    "/v1/chat/completions": "openai-chat",
    "/plain": {"dialect": "plain-json", "model": MODEL},
}


class Accounts:
    """The store as a source of accounts that can be down."""

    def __init__(self, store: MemoryStore) -> None:
        self.is_down = False
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if self.is_down:
            raise StoreError("told to be down", where="accounts")
        return getattr(self._store, name)

    def version(self) -> int:
        return int(self.__getattr__("version")())

    def by_api_key(self, public_id: str, secret_hash: bytes) -> Account | None:
        found: Account | None = self.__getattr__("by_api_key")(public_id, secret_hash)
        return found

    def by_id(self, account_id: str) -> Account | None:
        found: Account | None = self.__getattr__("by_id")(account_id)
        return found

    def rights_of(self, account: Account) -> Holder:
        found: Holder = self.__getattr__("rights_of")(account)
        return found


class World:
    """One provider for one scenario.

    Attributes:
        kit: Stores, signer, clock and account.
        accounts: The source of accounts.
        limits_down: The engine of limits does not answer.
        calls: How often the handler ran.
        begun: Set when a handler with one answer is at work.
        left: Set when the client has left.
    """

    def __init__(self, case: Case, routes: Mapping[str, Any] = ROUTES) -> None:
        self._case = case
        self.limits_down = False
        self.calls = 0
        self.begun = threading.Event()
        self.left = threading.Event()
        settings = {"routes": dict(routes), "max_request_bytes": MAX_REQUEST_BYTES, **case.settings}
        self.kit = Kit(settings=settings, terms=_terms(required=case.required))
        self.accounts = Accounts(self.kit.store)

    @property
    def key(self) -> str | None:
        """The key that the client sends."""
        return self.kit.key if self._case.key == "good" else None if self._case.key is None else f"{self.kit.key[:-4]}AAAA"

    def accept(self, *, for_days: int) -> None:
        """Accept the terms for so long."""
        self.kit.store.add_acceptance(
            new_acceptance(
                self.kit.guard.terms,
                issuer=ISSUER,
                subject_kind=SubjectKind.ACCOUNT,
                subject_id="acme",
                accepted_by="jane@acme.example",
                authority="owner",
                method=AcceptanceMethod.CLI,
                identified_by=Identification.ADMINISTRATOR,
                now=self.kit.clock(),
                entropy=SeededEntropy("acceptance"),
                expires=self.kit.clock() + timedelta(days=for_days),
            )
        )

    @cached_property
    def async_guard(self) -> AsyncGuard:
        """The guard for asynchronous doors."""
        return AsyncGuard(self.kit.guard.settings, **self._parts())

    @cached_property
    def guard(self) -> Guard:
        """The guard for synchronous doors."""
        return Guard(self.kit.guard.settings, **self._parts())

    def _parts(self) -> dict[str, Any]:
        kit = self.kit
        parts: dict[str, Any] = {
            "terms": kit.guard.terms,
            "accounts": self.accounts,
            "rights": self.accounts,
            "archive": kit.store,
            "records": kit.store,
            "signer": kit.signer,
            "pepper": kit.store.pepper(),
            "store": kit.store,
            "clock": kit.clock,
        }
        if self._case.limits is not None:
            limit = Limit(
                id="requests", quantity=Quantity.REQUESTS, amount=self._case.limits, per=(Dimension.ACCOUNT,), window=Sliding(3600)
            )
            mode = kit.guard.settings.failure.limits
            engine = FallbackLimits(_Engine(self), mode=mode, on_use=lambda *used: None, clock=kit.clock)
            parts |= {"meter": Meter((limit,)), "limits": engine}
        return parts


class _Engine(MemoryLimits):
    """Limits in memory, of an engine that can be down."""

    def __init__(self, world: World) -> None:
        super().__init__(clock=world.kit.clock, monotonic=lambda: world.kit.clock().timestamp())
        self._world = world

    def reserve(self, *args: Any, **kwargs: Any) -> Any:
        if self._world.limits_down:
            raise StoreError("told to be down", where="limits")
        return super().reserve(*args, **kwargs)


def _terms(*, required: bool) -> Path:
    if not required:
        return TERMS
    folder = Path(tempfile.mkdtemp(prefix="terms-"))
    document = TERMS.read_text(encoding="utf-8").replace('text = "', 'acceptance = "required"\ntext = "', 1)
    (folder / "terms.toml").write_text(document, encoding="utf-8")
    (folder / "minimal.md").write_text(TERMS.with_name("minimal.md").read_text(encoding="utf-8"), encoding="utf-8")
    load_terms(folder / "terms.toml")
    return folder / "terms.toml"
