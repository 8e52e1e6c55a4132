"""Key files: no change takes back what was published, whoever makes it and wherever it breaks off, and signers follow in time."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tos_guard.errors import KeyFileError, SignerError
from tos_guard.keys import KeyHistory, open_key_history
from tos_guard.stores import FileSigner, KeyFolder
from tos_guard.types import KeyPurpose

ISSUER = "https://api.example.com"
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    made = KeyFolder(tmp_path / "keys")
    made.create(ISSUER, now=START)
    return made


def published(folder: KeyFolder) -> KeyHistory:
    return open_key_history(folder.signed_history(), trusted=folder.history().to_key_set(), expected_issuer=ISSUER)


def provenance(folder: KeyFolder) -> list[str]:
    return [key.kid for key in folder.history().keys if key.purpose is KeyPurpose.PROVENANCE]


@pytest.mark.parametrize(("first", "second"), [("compromised", "compromised"), ("compromised", "superseded"), ("superseded", "superseded")])
def test_a_revocation_is_never_softened_by_a_second_one(folder: KeyFolder, first: Any, second: Any) -> None:
    """It once moved the moment of revocation, and every verifier that knew the earlier history refused the new one (H3)."""
    (kid,) = provenance(folder)
    folder.revoke(kid, now=START + HOUR, reason=first)
    before = folder.history()
    with pytest.raises(KeyFileError, match="revoked already"):
        folder.revoke(kid, now=START + 2 * HOUR, reason=second)
    assert folder.history() == before


def test_a_superseded_key_may_turn_out_to_be_compromised(folder: KeyFolder) -> None:
    """That is no softening: the moment stays, the reason gets worse."""
    (kid,) = provenance(folder)
    first = folder.revoke(kid, now=START + HOUR, reason="superseded")
    before = published(folder)
    second = folder.revoke(kid, now=START + 2 * HOUR, reason="compromised")
    assert (second.revoked, second.reason) == (first.revoked, "compromised")
    published(folder).check_follows(before)


def test_revoking_a_retired_key_does_not_replace_the_present_one(folder: KeyFolder) -> None:
    """A key that nobody has seen published yet once took over at once, although another was in force."""
    (old,) = provenance(folder)
    present = folder.rotate(now=START, lead=HOUR)
    folder.revoke(old, now=START + 3 * HOUR, reason="compromised")
    assert set(provenance(folder)) == {old, present.kid}
    assert FileSigner(folder.path).current(START + 3 * HOUR).kid == present.kid


def test_after_the_next_key_was_revoked_another_follows_the_present_one(folder: KeyFolder) -> None:
    """There is no moment without a key, and the present one goes on to its end."""
    (present,) = provenance(folder)
    following = folder.rotate(now=START, lead=HOUR)
    folder.revoke(following.kid, now=START, reason="compromised")
    signer = FileSigner(folder.path)
    assert signer.current(START + HOUR - SECOND).kid == present
    assert signer.current(START + HOUR + SECOND).kid not in (present, following.kid)


@pytest.mark.parametrize("change", ["rotate", "superseded"])
def test_no_token_is_dated_after_its_key(folder: KeyFolder, change: str) -> None:
    """Signers of other processes look once a second; what they sign until then once counted as signed by a retired or revoked key."""
    time = [0.0]
    signer = FileSigner(folder.path, monotonic=lambda: time[0])
    (kid,) = provenance(folder)
    at = START + HOUR
    if change == "rotate":
        folder.rotate(now=at, lead=timedelta(0))
    else:
        folder.revoke(kid, now=at, reason=change)
    time[0] += 0.9
    signing = signer.current(at + SECOND)
    assert signing.kid == kid
    record = folder.history().to_key_set().find(kid, KeyPurpose.PROVENANCE)
    assert record is not None
    record.check_time(int((at + SECOND).timestamp()), where="token")
    time[0] += 1.0
    assert signer.current(at + 2 * SECOND).kid != kid


def test_a_compromised_key_is_revoked_at_once(folder: KeyFolder) -> None:
    """Nothing signed with it counts any more, so there is nothing to wait for."""
    (kid,) = provenance(folder)
    revoked = folder.revoke(kid, now=START + HOUR, reason="compromised")
    assert revoked.revoked == revoked.not_after == int((START + HOUR).timestamp())
    assert FileSigner(folder.path).current(START + HOUR).kid != kid


def test_two_who_rotate_at_once_lose_no_key(folder: KeyFolder) -> None:
    """Each once wrote what it had read, and the key of the other was gone from registry and history."""
    start = threading.Barrier(4)
    made: list[str] = []
    refused: list[KeyFileError] = []

    def rotate() -> None:
        start.wait()
        try:
            made.append(KeyFolder(folder.path).rotate(now=START, lead=HOUR).kid)
        except KeyFileError as error:
            refused.append(error)

    threads = [threading.Thread(target=rotate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 3)
    assert made[0] in provenance(folder)
    assert published(folder).sequence == folder.history().sequence == 1


def test_a_change_that_broke_off_is_not_taken_back_by_the_next(folder: KeyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash between history and registry, the next change once published a history without the key of the first (H3)."""
    from tos_guard.stores import _keys

    write = _keys.write_secret_file

    def crash(path: Path, data: bytes) -> None:
        if path.name == "registry.json":
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(_keys, "write_secret_file", crash)
    with pytest.raises(KeyboardInterrupt):
        folder.rotate(now=START, lead=HOUR)
    monkeypatch.setattr(_keys, "write_secret_file", write)
    seen = published(folder)
    assert seen.sequence == 1
    folder.revoke(provenance(folder)[0], now=START + 3 * HOUR, reason="compromised")
    published(folder).check_follows(seen)
    assert published(folder).sequence == 2


def test_keys_in_hand_go_on_signing_while_the_folder_is_away(folder: KeyFolder) -> None:
    """A backup being restored stops no request; what cannot be read at the start stops the start."""
    time = [0.0]
    signer = FileSigner(folder.path, monotonic=lambda: time[0])
    key = signer.current(START)
    signer.sign(key, b"before")
    folder.path.rename(folder.path.with_name("away"))
    time[0] += 2
    assert signer.current(START) == key
    assert len(signer.sign(key, b"message")) == 64
    with pytest.raises(KeyFileError):
        FileSigner(folder.path)


def test_a_signer_without_a_key_in_force_says_so(folder: KeyFolder) -> None:
    """Before the first moment of the first key."""
    with pytest.raises(SignerError, match="no provenance key is in force"):
        FileSigner(folder.path).current(START - HOUR)


def without(folder: KeyFolder, purpose: KeyPurpose) -> None:
    """The folder as it was made before the purpose was known."""
    history = folder.history()
    for key in history.keys:
        if key.purpose is purpose:
            (folder.path / f"{key.kid}.key").unlink()
    keys = tuple(key for key in history.keys if key.purpose is not purpose)
    folder._write(KeyHistory(history.issuer, history.sequence, history.issued_at, keys))


def test_there_is_a_key_for_each_purpose(folder: KeyFolder) -> None:
    keys = folder.history().keys
    assert sorted(key.purpose for key in keys) == sorted(KeyPurpose)
    assert len({key.kid for key in keys}) == len(keys)
    assert {key.purpose for key in folder.public_set(START).keys} == set(KeyPurpose)


def test_a_folder_from_before_a_purpose_was_known_gets_its_key_and_keeps_the_others(folder: KeyFolder) -> None:
    without(folder, KeyPurpose.RECEIPT)
    before, files = published(folder), {path.name: path.read_bytes() for path in folder.path.glob("*.key")}
    history = folder.complete(now=START + HOUR)
    assert history.keys[:-1] == before.keys
    assert (history.keys[-1].purpose, history.keys[-1].not_before) == (KeyPurpose.RECEIPT, int((START + HOUR).timestamp()))
    published(folder).check_follows(before)
    assert {name: (folder.path / name).read_bytes() for name in files} == files


def test_a_complete_folder_is_only_read(folder: KeyFolder) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.path.iterdir()}
    assert folder.complete(now=START + HOUR) == folder.history()
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.path.iterdir()} == before


def test_of_many_who_complete_a_folder_at_once_one_makes_the_key(folder: KeyFolder) -> None:
    without(folder, KeyPurpose.RECEIPT)
    gate = threading.Barrier(6)

    def complete() -> None:
        gate.wait()
        FileSigner(folder.path, purpose=KeyPurpose.RECEIPT, clock=lambda: START)

    threads = [threading.Thread(target=complete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.purpose for key in folder.history().keys) == sorted(KeyPurpose)


def test_a_signer_signs_for_its_purpose_alone(folder: KeyFolder) -> None:
    tokens, receipts = FileSigner(folder.path), FileSigner(folder.path, purpose=KeyPurpose.RECEIPT)
    key = receipts.current(START + HOUR)
    assert key.purpose is KeyPurpose.RECEIPT
    key.verify("Ed25519", b"message", receipts.sign(key, b"message"), where="receipt")
    assert tokens.current(START + HOUR).purpose is KeyPurpose.PROVENANCE
    for signer, other in ((tokens, key), (receipts, tokens.current(START + HOUR))):
        with pytest.raises(SignerError, match="is for"):
            signer.sign(other, b"message")


def test_a_key_file_of_another_purpose_is_refused_when_it_is_loaded(folder: KeyFolder) -> None:
    """Whoever calls a key by another purpose's name in the registry gets no signature of it."""
    key = next(key for key in folder.history().keys if key.purpose is KeyPurpose.PROVENANCE)
    with pytest.raises(KeyFileError, match="holds a key for provenance, not for receipt"):
        folder.private_key(key.kid, KeyPurpose.RECEIPT)
    renamed = replace(key, purpose=KeyPurpose.RECEIPT)
    with pytest.raises(SignerError, match="holds a key for provenance"):
        FileSigner(folder.path, purpose=KeyPurpose.RECEIPT).sign(renamed, b"message")


def test_keys_of_each_purpose_are_rotated_and_revoked_by_themselves(folder: KeyFolder) -> None:
    receipts = FileSigner(folder.path, purpose=KeyPurpose.RECEIPT, monotonic=iter(range(0, 100, 2)).__next__)
    before = receipts.current(START)
    (token_key,) = provenance(folder)
    fresh = folder.rotate(now=START, lead=HOUR, purpose=KeyPurpose.RECEIPT)
    assert receipts.current(START + HOUR - SECOND) == before.with_times(not_after=fresh.not_before)
    assert receipts.current(START + HOUR) == fresh
    assert folder.rotate(now=START, lead=HOUR).purpose is KeyPurpose.PROVENANCE, "the next receipt key is none of tokens"
    folder.revoke(fresh.kid, now=START + 2 * HOUR, reason="compromised")
    following = receipts.current(START + 2 * HOUR)
    assert following.purpose is KeyPurpose.RECEIPT
    assert following.kid not in (before.kid, fresh.kid)
    assert token_key in provenance(folder)


def test_the_key_of_the_history_is_not_rotated(folder: KeyFolder) -> None:
    with pytest.raises(KeyFileError, match="does not change"):
        folder.rotate(now=START, purpose=KeyPurpose.KEY_HISTORY)
