"""What one API key is for: less than its account may do, never more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tos_guard.errors import AccountError
from tos_guard.rights._account import Holder
from tos_guard.rights._binding import UNBOUND, Binding

__all__ = ["ACCOUNT_ROUTES", "UNLIMITED_KEY", "KeyTerms", "KeyedHolder"]

ACCOUNT_ROUTES: Final = "account"
"""The action of a key that may use the account routes: read what is said there, accept terms, appeal."""

MAX_NAMES: Final = 64
MAX_NAME_CHARS: Final = 128
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_MEMBERS: Final = frozenset({"actions", "models", "expires", "jkt", "x5t"})


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What a key is for.

    Attributes:
        actions: Actions it may ask for, `ACCOUNT_ROUTES` among them or not; None for all that its account may.
        models: Models it may use; None for all that its account may.
        expires: From this moment on it is no key any more; None for never.
        binding: The key or certificate that whoever presents it must prove.

    Raises:
        AccountError: There are no names or too many, or a time without a zone.
    """

    actions: frozenset[str] | None = None
    models: frozenset[str] | None = None
    expires: datetime | None = None
    binding: Binding = UNBOUND

    def __post_init__(self) -> None:
        for what, names in (("actions", self.actions), ("models", self.models)):
            if names is None:
                continue
            if not 1 <= len(names) <= MAX_NAMES or not all(1 <= len(name) <= MAX_NAME_CHARS and name.isprintable() for name in names):
                raise AccountError(f"a key has 1 to {MAX_NAMES} {what}, of 1 to {MAX_NAME_CHARS} printable characters each", where="key")
        if self.expires is not None and self.expires.tzinfo is None:
            raise AccountError("the time at which it expires has no zone", where="key", cure="Write 2027-01-31T00:00:00Z")

    def has_expired(self, now: datetime) -> bool:
        """Whether it is no key any more."""
        return self.expires is not None and now >= self.expires

    def permits(self, action: str, model: str) -> bool:
        """Whether it is for this; whether its account may is another question."""
        return (self.actions is None or action in self.actions) and (self.models is None or model in self.models)

    @property
    def permits_account_routes(self) -> bool:
        """Whether it opens the account routes."""
        return self.actions is None or ACCOUNT_ROUTES in self.actions

    @property
    def is_unlimited(self) -> bool:
        """Whether it is for all that its account may, for whoever has it, until it expires."""
        return self.actions is None and self.models is None and not self.binding

    def document(self) -> dict[str, Any]:
        """As JSON members; what is not said is left out. Times are milliseconds since 1970."""
        members: dict[str, Any] = {}
        if self.actions is not None:
            members["actions"] = sorted(self.actions)
        if self.models is not None:
            members["models"] = sorted(self.models)
        if self.expires is not None:
            members["expires"] = (self.expires - _EPOCH) // _MILLISECOND
        for name in ("jkt", "x5t"):
            if (thumbprint := getattr(self.binding, name)) is not None:
                members[name] = thumbprint
        return members

    @classmethod
    def from_document(cls, document: Any) -> KeyTerms:
        """Read what `document` has written.

        Raises:
            AccountError: It is not that. What a key is not for must not be forgotten, so nothing is passed over.
        """
        if not isinstance(document, Mapping) or not document.keys() <= _MEMBERS:
            raise AccountError("what the key is for cannot be read", where="key")
        try:
            expires = document.get("expires")
            return cls(
                actions=None if (actions := document.get("actions")) is None else frozenset(actions),
                models=None if (models := document.get("models")) is None else frozenset(models),
                expires=None if expires is None else _EPOCH + expires * _MILLISECOND,
                binding=Binding(document.get("jkt"), document.get("x5t")),
            )
        except (TypeError, ValueError, OverflowError, OSError) as error:
            raise AccountError(f"what the key is for cannot be read ({error})", where="key") from None


UNLIMITED_KEY: Final = KeyTerms()
"""For all that its account may, for ever, for whoever has it."""


@dataclass(frozen=True, slots=True)
class KeyedHolder:
    """Whose a presented key is, and what it is for.

    Attributes:
        holder: The account, with what its rights depend on.
        terms: What the key is for. Whether it has expired, and who presents it, is for the caller to check.
    """

    holder: Holder
    terms: KeyTerms
