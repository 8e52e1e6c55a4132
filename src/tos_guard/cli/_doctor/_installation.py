"""Settings, keys, files and the clock of an installation."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tos_guard.cli._arguments import load_settings
from tos_guard.cli._doctor._check import Check, ok, problem, warning
from tos_guard.cli._output import moment
from tos_guard.errors import ConfigurationError, KeyFileError, StoreError, TosGuardError, VerificationError
from tos_guard.types import KeyPurpose

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.keys import KeyHistory, KeyRecord
    from tos_guard.stores import KeyFolder, Store

__all__ = ["check_clock", "check_engine", "check_files", "check_keys", "network_file_system", "read_settings_file"]

MAX_KEY_AGE: Final = timedelta(days=366)
"""A key that signs for longer leaves more tokens to doubt when it is lost."""

LEAD: Final = timedelta(minutes=30)
"""For how long verifiers keep a key set: they must have the next key before it signs."""

KEY_ENDS_SOON: Final = timedelta(days=30)
FIRST_RELEASE: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""A clock that shows an earlier time is wrong."""

LAST_YEAR: Final = 2100
CLOCK_SKEW: Final = timedelta(seconds=60)
"""Verifiers refuse tokens from further in the future (docs/spec/token.md T12)."""

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "davfs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs"}
    | {"nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs"}
)
"""Types that Linux names in its mounts; their locks hold between hosts at best, and SQLite's shared memory never does."""

MOUNTS: Final = Path("/proc/self/mountinfo")
_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def read_settings_file(config: Path) -> tuple[GuardSettings | None, Check]:
    """The settings, or None and why not."""
    try:
        settings = load_settings(config)
    except ConfigurationError as error:
        cure = error.cure or "Correct it; 'tos-guard init' makes one to start from."
        return None, problem("settings", error.what, where=error.where or str(config), cure=cure)
    return settings, ok("settings", f"read; the issuer is {settings.issuer}", str(config))


# Files


ENGINE_PATIENCE: Final = timedelta(seconds=2)
"""How long the doctor waits for the server of a fleet; a guard waits for as long as the settings say."""


def check_files(settings: GuardSettings) -> Iterator[Check]:
    """Whether the store's files are there, private, and on a disk of this host."""
    cure = "'tos-guard init' makes one; or correct 'store' in the settings."
    if not isinstance(settings.store, Path):
        yield from _check_server(settings, cure)
        return
    if not settings.store.is_file():
        yield problem("store-missing", "there is no such file", where=str(settings.store), cure=cure)
        return
    found = [path for path in _files_of(settings) if path.exists()]
    wrong = [check for path in found for check in _file(path)]
    file_system = network_file_system(settings.store, MOUNTS)
    if file_system is not None:
        cure = "Move the store to a local disk: SQLite's locks and shared memory do not reach over a network."
        wrong.append(problem("store-on-network", f"lies on a network file system ({file_system})", where=str(settings.store), cure=cure))
    yield from wrong
    if not wrong:
        yield ok("store-files", f"{len(found)} files, private and on a local disk", str(settings.store.parent))


def _check_server(settings: GuardSettings, cure: str) -> Iterator[Check]:
    """Whether the store is on its server. Where that cannot be told, opening it tells why."""
    from tos_guard.stores import is_there

    try:
        found = is_there(settings)
    except (ConfigurationError, StoreError):
        return
    if found:
        yield ok("store-server", "the database has a store", str(settings.store))
    else:
        yield problem("store-missing", "the database has no store", where=str(settings.store), cure=cure)


def check_engine(settings: GuardSettings) -> Iterator[Check]:
    """Whether the server that a fleet shares is there, and can keep what is shared."""
    if settings.valkey is None:
        return
    from tos_guard.stores import look_at_engine

    try:
        seen = look_at_engine(settings.valkey.url.resolve(os.environ), deadline=ENGINE_PATIENCE)
    except (ConfigurationError, StoreError) as error:
        where = error.where or str(settings.valkey.url)
        yield problem("engine", error.what, where=where, cure=error.cure or "Start it, or correct 'valkey.url' in the settings.")
        return
    where = str(settings.valkey.url)
    for what, cure in seen.wrong:
        yield problem("engine", what, where=where, cure=cure)
    if not seen.keeps_all:
        what = "a restart of it loses what was counted last: limits are in doubt until their windows are over, and 'failure.limits' decides"
        yield warning("engine-forgets", what, where=where, cure="Set appendonly yes and appendfsync always, without replicas.")
    if not seen.wrong:
        yield ok("engine", f"{seen.name}, domain {settings.valkey_domain}", where)


def _files_of(settings: GuardSettings) -> Iterator[Path]:
    """The files of the store, and those beside them that SQLite and our locks make."""
    store = settings.store
    if not isinstance(store, Path):
        return
    for path in (store, store.with_name(f"{store.stem}.records{store.suffix}"), settings.limits_file):
        yield from (path.with_name(path.name + end) for end in ("", "-wal", "-shm", ".lock"))


def _file(path: Path) -> Iterator[Check]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS_MAY:
        what = f"others than its owner may use it (mode {mode:04o}); it holds what accounts are and do"
        yield problem("store-permissions", what, where=str(path), cure=f"chmod 600 {path}")


def network_file_system(path: Path, mounts: Path) -> str | None:
    """The type of the network file system that *path* lies on; None for a local one, and where the system does not tell.

    Args:
        path: An existing file or folder.
        mounts: What the system mounts where, as Linux writes it (proc_pid_mountinfo(5)).
    """
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
        real = path.resolve()
    except OSError:
        return None
    nearest: tuple[int, str] = (0, "")
    for line in lines:
        before, dash, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not dash or len(fields) < 5:
            continue
        mounted = Path(_unescaped(fields[4]))
        # Of several mounts on one place the last covers the others.
        if real.is_relative_to(mounted) and len(mounted.parts) >= nearest[0]:
            nearest = (len(mounted.parts), kinds[0])
    return nearest[1] if nearest[1] in NETWORK_FILE_SYSTEMS else None


def _unescaped(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


# Keys


def check_keys(settings: GuardSettings, now: datetime) -> Iterator[Check]:
    """Whether there is a key in force for each purpose, which loads, is published as it is, and is followed in time."""
    from tos_guard.stores import KeyFolder

    folder = KeyFolder(settings.keys)
    try:
        history = folder.history()
    except KeyFileError as error:
        yield _broken("keys", error)
        return
    found = [
        *_issuer(settings, history),
        *_folder_mode(settings.keys),
        *(check for purpose in KeyPurpose for check in _purpose(folder, history, purpose, now)),
        *_published(folder, history),
    ]
    yield from found
    if not found:
        yield ok("keys", f"{len(history.keys)} keys, one in force for each purpose; the signed history is up to date", str(settings.keys))


def _broken(code: str, error: TosGuardError) -> Check:
    return problem(code, error.what, where=error.where, cure=error.cure or "Restore it from a backup.")


def _issuer(settings: GuardSettings, history: KeyHistory) -> Iterator[Check]:
    if history.issuer != settings.issuer:
        what = f"these are keys of {history.issuer}, and the settings name {settings.issuer}: no token will verify"
        yield problem("keys-of-another-issuer", what, where=str(settings.keys), cure="Correct 'issuer' or 'keys' in the settings.")


def _folder_mode(path: Path) -> Iterator[Check]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS_MAY_WRITE:
        what = f"others may put keys of theirs in it (mode {mode:04o})"
        yield problem("keys-folder-permissions", what, where=str(path), cure=f"chmod 700 {path}")


def _purpose(folder: KeyFolder, history: KeyHistory, purpose: KeyPurpose, now: datetime) -> Iterator[Check]:
    present = int(now.timestamp())
    alive = [key for key in history.keys if key.purpose is purpose and key.revoked is None]
    in_force = [key for key in alive if (key.not_before or 0) <= present and (key.not_after is None or present <= key.not_after)]
    if not in_force:
        yield _none_in_force(folder, purpose, ever=any(key.purpose is purpose for key in history.keys))
        return
    to_come = [key for key in alive if (key.not_before or 0) > present]
    for key in (*in_force, *to_come):
        try:
            folder.private_key(key.kid, purpose)
        except KeyFileError as error:
            yield _broken("key-file", error)
    newest = max(in_force, key=lambda key: key.not_before or 0)
    yield from _age(folder, newest, to_come, now)
    if purpose is KeyPurpose.PROVENANCE:
        first = min((key for key in history.keys if key.purpose is purpose), key=lambda key: key.not_before or 0)
        yield from (check for key in (newest, *to_come) if key.kid != first.kid for check in _lead(folder, key, now))


def _none_in_force(folder: KeyFolder, purpose: KeyPurpose, *, ever: bool) -> Check:
    where = str(folder.path)
    if purpose is KeyPurpose.RECEIPT and not ever:
        what = "there is no key for receipts: nobody can accept terms"
        return problem("no-receipt-key", what, where=where, cure="'tos-guard keys list' makes it, as a user who may write there.")
    code = {KeyPurpose.PROVENANCE: "no-signing-key", KeyPurpose.RECEIPT: "no-receipt-key"}.get(purpose, "no-history-key")
    cure = (
        "Restore the folder from a backup." if purpose is KeyPurpose.KEY_HISTORY else f"tos-guard keys rotate --lead 0 --purpose {purpose}"
    )
    return problem(code, f"no {purpose} key is in force", where=where, cure=cure)


def _age(folder: KeyFolder, newest: KeyRecord, to_come: Iterable[KeyRecord], now: datetime) -> Iterator[Check]:
    if newest.purpose is KeyPurpose.KEY_HISTORY:
        return  # it does not change
    rotate = f"tos-guard keys rotate --purpose {newest.purpose}"
    where = str(folder.path)
    following = min((key.not_before or 0 for key in to_come), default=None)
    if newest.not_after is not None and (following is None or following > newest.not_after):
        ends = datetime.fromtimestamp(newest.not_after, UTC)
        what = f"the {newest.purpose} key {newest.kid} ends {moment(ends)}, and no key follows in time"
        level = problem if ends - now < KEY_ENDS_SOON else warning
        yield level("key-ends", what, where=where, cure=rotate)
    age = now - datetime.fromtimestamp(newest.not_before or 0, UTC)
    if following is None and age > MAX_KEY_AGE:
        what = f"the {newest.purpose} key {newest.kid} has signed for {age.days} days"
        yield warning("key-old", what, where=where, cure=f"{rotate}: once a year bounds what a lost key can do.")


def _lead(folder: KeyFolder, key: KeyRecord, now: datetime) -> Iterator[Check]:
    """Whether verifiers could know a key before it signs. It was published when its file was made."""
    starts = datetime.fromtimestamp(key.not_before or 0, UTC)
    try:
        published = datetime.fromtimestamp(int((folder.path / f"{key.kid}.key").stat().st_mtime), UTC)
    except OSError:
        return  # said already
    if starts - published < LEAD and now < starts + LEAD:
        what = (
            f"key {key.kid} was published {moment(published)} and signs from {moment(starts)} on: verifiers keep a key set for 30 minutes"
        )
        cure = f"Tokens that do not verify yet will from {moment(starts + LEAD)} on. Leave 'keys rotate' its --lead of an hour."
        yield warning("key-published-late", what, where=str(folder.path), cure=cure)


def _published(folder: KeyFolder, history: KeyHistory) -> Iterator[Check]:
    """Whether the signed history says what the registry does."""
    from tos_guard.keys import open_key_history

    where = str(folder.path / "key-history.jwt")
    try:
        published = open_key_history(folder.signed_history(), trusted=history.to_key_set(), expected_issuer=history.issuer)
    except (KeyFileError, VerificationError) as error:
        yield problem("key-history", error.what, where=error.where or where, cure="Restore the folder from a backup, or rotate a key.")
        return
    if published.sequence != history.sequence or published.keys != history.keys:
        what = "the signed history does not say what the registry does: a change broke off half-way"
        yield problem("key-history", what, where=where, cure="tos-guard keys rotate")


# Clock


def check_clock(settings: GuardSettings | None, store: Store | None, now: datetime) -> Iterator[Check]:
    """Whether the clock can be right: it is not before this program, nor before what the store has seen."""
    if now < FIRST_RELEASE or now.year >= LAST_YEAR:
        yield problem("clock", f"this machine's clock shows {moment(now)}", where="clock", cure="Set it, and keep it right with NTP.")
        return
    newest = max(_moments(settings, store), default=None)
    if newest is not None and newest[0] - now > CLOCK_SKEW:
        seen, what = newest
        text = f"shows {moment(now)}, and {what} is of {moment(seen)}: it goes wrong, or went wrong before"
        cure = "Set it, and keep it right with NTP. Tokens from the future are refused by verifiers."
        yield problem("clock-behind", text, where="clock", cure=cure)
        return
    yield ok("clock", f"shows {moment(now)} ({time.tzname[0]}), and nothing kept is of a later time", "clock")


def _moments(settings: GuardSettings | None, store: Store | None) -> Iterator[tuple[datetime, str]]:
    """What was kept, and when, by a clock of this host."""
    from tos_guard.stores import KeyFolder

    if settings is not None:
        with suppress(KeyFileError, ValueError, OverflowError, OSError):  # said already
            yield datetime.fromtimestamp(KeyFolder(settings.keys).history().issued_at, UTC), "the key history"
    if store is None:
        return
    record = store.newest_record_at(store.issuer)
    if record is not None:
        yield record, "the newest record"
    for terms in store.terms_versions():
        yield terms.published, f"the publication of terms {terms.version}"
