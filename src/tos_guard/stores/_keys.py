"""Key files: one private key a file, and a public registry from which key set and key history are made (DESIGN D16).

    keys/
      registry.json           every key that ever was, public parts only; never loses one
      <kid>.key               one private key, mode 0600: {"kid", "purpose", "seed"}
      key-history.jwt         the signed history of the registry
      .lock                   held by whoever changes the folder

Each purpose has keys of its own, and a signer is for one purpose. A folder from before a purpose was known gets its key when one is
first asked for (`KeyFolder.complete`).

Rotation publishes the next key before it signs: it enters the registry at once, with an ``nbf`` in the future, and the signer of every
process takes it up when that moment comes.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tos_guard._canonical import b64url_decode, b64url_encode, parse_json
from tos_guard.errors import KeyFileError, MalformedError, SignerError, VerificationError
from tos_guard.keys import (
    KEY_HISTORY_TYP,
    KeyHistory,
    KeyRecord,
    KeySet,
    encode_jws_signing_input,
    join_jws,
    key_history_payload,
    open_key_history,
    parse_jwk,
    record_of,
)
from tos_guard.protocols import Clock
from tos_guard.stores._files import read_secret_file, write_secret_file
from tos_guard.types import KeyPurpose

__all__ = ["FileSigner", "KeyFolder"]

DEFAULT_LEAD: Final = timedelta(hours=1)
"""How long before its first signature a key is published: twice as long as verifiers keep a key set."""

_TAKE_UP: Final = timedelta(seconds=2)
"""How long a key that is retired or superseded stays good, since signers of other processes look for changes once a second."""

_KEPT_IN_SET: Final = timedelta(days=1)  # a retired key leaves the set after this; the history never loses it
_REGISTRY: Final = "registry.json"
_HISTORY: Final = "key-history.jwt"
_LOCK: Final = ".lock"
_MAX_REGISTRY_BYTES: Final = 1_048_576


class KeyFolder:
    """The keys of one issuer on disk.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, issuer: str, *, now: datetime) -> KeyHistory:
        """Make the folder with one key of each purpose.

        Raises:
            KeyFileError: There are keys already, or the folder cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise KeyFileError(f"cannot be made ({error.strerror})", where=str(self.path)) from None
        with self._locked():
            if (self.path / _REGISTRY).exists():
                raise KeyFileError("there are keys already", where=str(self.path), cure="Use 'tos-guard keys rotate' for a new one.")
            made = tuple(self._generate(purpose, not_before=int(now.timestamp())) for purpose in KeyPurpose)
            return self._write(KeyHistory(issuer, 0, int(now.timestamp()), made))

    def complete(self, *, now: datetime) -> KeyHistory:
        """The registry, after a key was made for each purpose that had none: those made before a purpose was known lack one.

        A folder that lacks none is only read. The other keys stay as they are.

        Raises:
            KeyFileError: The folder cannot be read, or lacks a key and cannot be written.
        """
        history = self.history()
        if not _lacking(history):
            return history
        with self._locked():
            history = self._latest()
            made = [self._generate(purpose, not_before=int(now.timestamp())) for purpose in _lacking(history)]
            return self._write(self._changed(history, made, now)) if made else history

    def rotate(self, *, now: datetime, lead: timedelta = DEFAULT_LEAD, purpose: KeyPurpose = KeyPurpose.PROVENANCE) -> KeyRecord:
        """Publish the next key of a purpose. It signs from *now* + *lead* on; the present one until then.

        Raises:
            KeyFileError: A next key is published already, the purpose is the key history, or the folder cannot be read or written.
        """
        if purpose is KeyPurpose.KEY_HISTORY:
            raise KeyFileError("the key of the history does not change", where=str(self.path), cure="Publish a new issuer instead.")
        with self._locked():
            history = self._latest()
            present = int(now.timestamp())
            starts = int((now + lead).timestamp())
            alike = [key for key in history.keys if key.purpose is purpose]
            if any((key.not_before or 0) > present for key in alike):
                raise KeyFileError("the next key is published already", where=str(self.path), cure="Wait until it has taken over.")
            fresh = self._generate(purpose, not_before=starts)
            ends = max(starts, int((now + _TAKE_UP).timestamp()))
            retired = [key.with_times(not_after=ends) for key in alike if key.not_after is None]
            self._write(self._changed(history, [*retired, fresh], now))
            return fresh

    def revoke(self, kid: str, *, now: datetime, reason: str) -> KeyRecord:
        """Mark a key as revoked. Where no other would be in force, a new one takes over.

        A revocation is final: a second one can only turn ``superseded`` into ``compromised``, and keeps the moment of the first.

        Args:
            kid: The key.
            now: The present.
            reason: ``compromised`` or ``superseded``.

        Raises:
            KeyFileError: No such key, or it is revoked already, or the folder cannot be read or written.
        """
        with self._locked():
            return self._revoke(kid, now=now, reason=reason)

    def _revoke(self, kid: str, *, now: datetime, reason: str) -> KeyRecord:
        history = self._latest()
        key = next((key for key in history.keys if key.kid == kid), None)
        if key is None:
            raise KeyFileError(f"there is no key {kid}", where=str(self.path), cure="'tos-guard keys list' shows all.")
        if key.purpose is KeyPurpose.KEY_HISTORY:
            raise KeyFileError(f"key {kid} signs the key history", where=str(self.path), cure="Publish a new issuer instead.")
        present = int(now.timestamp())
        if key.revoked is not None and (reason != "compromised" or key.reason != "superseded"):
            raise KeyFileError(f"key {kid} is revoked already", where=str(self.path))
        moment = present if reason == "compromised" else int((now + _TAKE_UP).timestamp())
        if key.revoked is not None:
            moment = key.revoked
        revoked = key.with_times(revoked=moment, not_after=moment if key.not_after is None else min(key.not_after, moment))
        revoked = parse_jwk({**revoked.to_jwk(), "reason": reason}, where="revoked key")
        changed = [revoked]
        if (starts := self._first_gap(history, without=key, present=present)) is not None:
            changed.append(self._generate(key.purpose, not_before=starts))
        self._write(self._changed(history, changed, now))
        return revoked

    @staticmethod
    def _first_gap(history: KeyHistory, *, without: KeyRecord, present: int) -> int | None:
        """The first moment from *present* on at which no key of this one's purpose would be in force, or None if there is none."""
        alive = [
            key
            for key in history.keys
            if key.purpose is without.purpose
            and key.kid != without.kid
            and key.revoked is None
            and (key.not_after is None or key.not_after > present)
        ]
        if not any((key.not_before or 0) <= present for key in alive):
            return present
        ends = [key.not_after for key in alive]
        return None if None in ends else max(end for end in ends if end is not None)

    def _latest(self) -> KeyHistory:
        """The registry, or the published history where a crash left that a step ahead: what it said may not be taken back (H3)."""
        history = self.history()
        try:
            published = open_key_history(self.signed_history(), trusted=history.to_key_set(), expected_issuer=history.issuer)
        except (KeyFileError, VerificationError):
            return history
        return published if published.sequence > history.sequence else history

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the folder: each would write what it had read, and lose the other's key."""
        try:
            fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise KeyFileError(
                f"cannot be changed ({error.strerror})", where=str(self.path), cure="Check the path and the owner."
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def history(self) -> KeyHistory:
        """The registry as it is.

        Raises:
            KeyFileError: It is missing or damaged.
        """
        path = self.path / _REGISTRY
        try:
            data = path.read_bytes()
        except OSError as error:
            raise KeyFileError(
                f"cannot be read ({error.strerror})", where=str(path), cure="'tos-guard keys generate' makes keys."
            ) from None
        try:
            document = parse_json(data, where=str(path), max_depth=8, max_bytes=_MAX_REGISTRY_BYTES, integers_only=True)
            keys = tuple(parse_jwk(jwk, where=f"{path} key {position}") for position, jwk in enumerate(document["keys"]))
            return KeyHistory(str(document["iss"]), int(document["seq"]), int(document["iat"]), keys)
        except (MalformedError, KeyError, TypeError, ValueError) as error:
            raise KeyFileError(f"is damaged ({error})", where=str(path), cure="Restore it from a backup; do not edit it.") from None

    def signed_history(self) -> str:
        """The key history as published.

        Raises:
            KeyFileError: It is missing.
        """
        path = self.path / _HISTORY
        try:
            return path.read_text("ascii")
        except (OSError, UnicodeDecodeError):
            raise KeyFileError("cannot be read", where=str(path), cure="'tos-guard keys generate' makes it.") from None

    def public_set(self, now: datetime) -> KeySet:
        """The key set in force: present and next keys, and those retired within a day."""
        history = self.history()
        oldest = int((now - _KEPT_IN_SET).timestamp())
        return KeySet(history.issuer, tuple(key for key in history.keys if key.not_after is None or key.not_after >= oldest))

    def private_key(self, kid: str, purpose: KeyPurpose) -> Ed25519PrivateKey:
        """Load one private key.

        Raises:
            KeyFileError: Missing, readable by others, damaged, or of another purpose.
        """
        path = self.path / f"{kid}.key"
        try:
            document = parse_json(read_secret_file(path), where=str(path), max_depth=2, max_bytes=4096, integers_only=True)
            private = Ed25519PrivateKey.from_private_bytes(b64url_decode(document["seed"], where=str(path)))
            found = KeyPurpose(document["purpose"])
        except (MalformedError, KeyError, TypeError, ValueError, AttributeError):
            raise KeyFileError("is no key file", where=str(path), cure="Restore it from a backup.") from None
        if found is not purpose:
            raise KeyFileError(f"holds a key for {found}, not for {purpose}", where=str(path))
        if record_of(private.public_key(), purpose).kid != kid:
            raise KeyFileError("holds another key than its name says", where=str(path), cure="Restore it from a backup.")
        return private

    def _generate(self, purpose: KeyPurpose, *, not_before: int) -> KeyRecord:
        private = Ed25519PrivateKey.generate()
        record = record_of(private.public_key(), purpose, not_before=not_before)
        document = {"kid": record.kid, "purpose": str(purpose), "seed": b64url_encode(private.private_bytes_raw())}
        write_secret_file(self.path / f"{record.kid}.key", json.dumps(document).encode("ascii"))
        return record

    @staticmethod
    def _changed(history: KeyHistory, keys: list[KeyRecord], now: datetime) -> KeyHistory:
        merged = history.to_key_set().merged(keys).keys
        return KeyHistory(history.issuer, history.sequence + 1, int(now.timestamp()), merged)

    def _write(self, history: KeyHistory) -> KeyHistory:
        payload: dict[str, Any] = key_history_payload(history)
        key = next(key for key in history.keys if key.purpose is KeyPurpose.KEY_HISTORY)
        message = encode_jws_signing_input(payload, algorithm=key.algorithm, kid=key.kid, typ=KEY_HISTORY_TYP)
        signature = self.private_key(key.kid, KeyPurpose.KEY_HISTORY).sign(message)
        # The history first: a crash in between leaves a history that says more than the registry, never less.
        write_secret_file(self.path / _HISTORY, join_jws(message, signature).encode("ascii"))
        write_secret_file(self.path / _REGISTRY, json.dumps(payload, indent=1).encode("ascii"))
        return history


def _lacking(history: KeyHistory) -> tuple[KeyPurpose, ...]:
    """Purposes of which there never was a key."""
    known = {key.purpose for key in history.keys}
    return tuple(purpose for purpose in KeyPurpose if purpose not in known)


class FileSigner:
    """Signs with the key in force of one purpose, and follows rotation without a restart.

    Args:
        path: The key folder. It gets a key of the purpose where it has none yet.
        purpose: What it signs. It uses no key of another purpose.
        monotonic: Seconds that never go back; how often the folder is looked at depends on them.
        clock: Tells when such a new key begins to sign.

    Raises:
        KeyFileError: The folder cannot be read, or lacks a key of the purpose and cannot be written.
    """

    _LOOK_SECONDS: Final = 1.0

    def __init__(
        self,
        path: Path,
        *,
        purpose: KeyPurpose = KeyPurpose.PROVENANCE,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self.folder: KeyFolder = KeyFolder(path)
        self.purpose = purpose
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._seen: tuple[int, int] | None = None
        self._keys: tuple[KeyRecord, ...] = ()
        self._private: dict[str, Ed25519PrivateKey] = {}
        self._refresh()
        if not self._keys:
            self.folder.complete(now=clock())
            self._looked = float("-inf")
            self._refresh()

    def current(self, now: datetime) -> KeyRecord:
        """The key to sign with; of several in force, the newest.

        Raises:
            SignerError: None is in force.
        """
        self._refresh()
        present = int(now.timestamp())
        usable = [key for key in self._keys if (key.not_before or 0) <= present and (key.not_after is None or present <= key.not_after)]
        if not usable:
            raise SignerError(
                f"no {self.purpose} key is in force",
                where=str(self.folder.path),
                cure=f"Run 'tos-guard keys rotate --lead 0 --purpose {self.purpose}'.",
            )
        return max(usable, key=lambda key: key.not_before or 0)

    def sign(self, key: KeyRecord, message: bytes) -> bytes:
        """Sign.

        Raises:
            SignerError: The key is for another purpose, or the private key cannot be loaded.
        """
        if key.purpose is not self.purpose:
            raise SignerError(f"key {key.kid} is for {key.purpose}, not for {self.purpose}", where=str(self.folder.path))
        private = self._private.get(key.kid)
        if private is None:
            try:
                private = self.folder.private_key(key.kid, self.purpose)
            except KeyFileError as error:
                raise SignerError(error.what, where=error.where, cure=error.cure) from None
            self._private[key.kid] = private
        return private.sign(message)

    def _refresh(self) -> None:
        moment = self._monotonic()
        if moment - self._looked < self._LOOK_SECONDS:
            return
        with self._lock:
            self._looked = moment
            try:
                status = (self.folder.path / _REGISTRY).stat()
                seen = (status.st_mtime_ns, status.st_ino)
                if seen == self._seen:
                    return
                history = self.folder.history()
            except (OSError, KeyFileError) as error:
                if self._keys:
                    return  # keys in hand go on signing; the folder may be in the middle of a change
                if isinstance(error, KeyFileError):
                    raise
                raise KeyFileError("there are no keys", where=str(self.folder.path), cure="'tos-guard keys generate' makes them.") from None
            self._keys = tuple(key for key in history.keys if key.purpose is self.purpose and key.revoked is None)
            self._seen = seen
