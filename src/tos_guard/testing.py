"""The test kit: clocks, keys and stores for tests of hosts, and parts that fail on demand.

Our own types are never mocked; what is faked here are faults, time and chance. Nothing of this belongs in production: keys are made
from seeds, and stores forget. `MemoryStore.fault` makes records fail before or after they are kept.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tos_guard.errors import SignerError
from tos_guard.keys import KeyRecord, KeySet, record_of
from tos_guard.stores import MemoryStore
from tos_guard.types import KeyPurpose

__all__ = ["FixedClock", "MemoryStore", "SeededEntropy", "SeededSigner"]


class FixedClock:
    """A clock that stands still until it is told to go on.

    Attributes:
        now: What it shows.
    """

    def __init__(self, now: datetime = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)) -> None:
        self.now: datetime = now

    def __call__(self) -> datetime:
        """The time it shows."""
        return self.now

    def advance(self, span: timedelta) -> None:
        """Go on by *span*."""
        self.now += span


class SeededEntropy:
    """Random bytes that are the same in each run."""

    def __init__(self, seed: str = "tos_guard") -> None:
        self._state = seed.encode("utf-8")

    def __call__(self, size: int, /) -> bytes:
        """*size* bytes that no other call gives."""
        drawn = b""
        while len(drawn) < size:
            self._state = hashlib.sha256(self._state).digest()
            drawn += hashlib.sha256(b"out" + self._state).digest()
        return drawn[:size]


class SeededSigner:
    """A signer whose one key comes from a seed.

    Attributes:
        key: The key.
        failing: While true, every signature fails.
        signatures: How many were made.
    """

    def __init__(
        self, seed: str = "tos_guard", *, issuer: str = "https://api.example.com", purpose: KeyPurpose = KeyPurpose.PROVENANCE
    ) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode("utf-8")).digest())
        self._issuer = issuer
        self.key: KeyRecord = record_of(self._private.public_key(), purpose)
        self.failing = False
        self.signatures: int = 0

    @property
    def key_set(self) -> KeySet:
        """The key as a set to pin."""
        return KeySet(self._issuer, (self.key,))

    def current(self, now: datetime) -> KeyRecord:
        """The key.

        Raises:
            SignerError: It is failing.
        """
        del now
        if self.failing:
            raise SignerError("told to fail", where="SeededSigner")
        return self.key

    def sign(self, key: KeyRecord, message: bytes) -> bytes:
        """Sign.

        Raises:
            SignerError: It is failing.
        """
        if self.failing:
            raise SignerError(f"told to fail with {key.kid}", where="SeededSigner")
        self.signatures += 1
        return self._private.sign(message)
