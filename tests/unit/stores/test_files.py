"""Secret files and terms files on disk."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from tos_guard.errors import KeyFileError, TermsError
from tos_guard.stores import load_terms, read_secret_file, write_secret_file

TERMS = """\
[terms]
version = "2026-11"
title = "Example terms"
uri = "https://api.example/terms/2026-11"
effective = 2026-11-01
text = "terms.md"

[[clause]]
id = "use"
effect = "permit"
action = ["generate"]
text = "You may use it."
"""


def test_a_secret_comes_back(tmp_path):
    """Mode 0600 whatever the umask, the bytes as given, and no draft left."""
    path = tmp_path / "a.key"
    before = os.umask(0o277)
    try:
        write_secret_file(path, b"secret\x00")
    finally:
        os.umask(before)
    assert read_secret_file(path) == b"secret\x00"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_is_replaced_whole(tmp_path):
    """A second write takes the place of the first in one step, and tightens its mode."""
    path = tmp_path / "a.key"
    path.write_bytes(b"a longer secret from before")
    path.chmod(0o644)
    write_secret_file(path, b"new")
    assert read_secret_file(path) == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_can_be_protected_from_replacement(tmp_path):
    """With ``replace=False`` what is there stays."""
    path = tmp_path / "a.key"
    write_secret_file(path, b"old", replace=False)
    with pytest.raises(KeyFileError, match="already"):
        write_secret_file(path, b"new", replace=False)
    assert read_secret_file(path) == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_a_secret_that_others_may_use_is_refused(tmp_path, mode):
    """Any right of group or others; the error says which command mends it."""
    path = tmp_path / "a.key"
    write_secret_file(path, b"hunter2")
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"{mode:04o}.*chmod 600 {re.escape(str(path))}") as caught:
        read_secret_file(path)
    assert "hunter2" not in str(caught.value)


def test_a_link_to_a_secret_is_followed_and_checked(tmp_path):
    """What counts is the file, as orchestrators mount secrets through links."""
    path, link = tmp_path / "a.key", tmp_path / "link.key"
    write_secret_file(path, b"secret")
    link.symlink_to(path)
    assert read_secret_file(link) == b"secret"
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod"):
        read_secret_file(link)


def test_what_is_no_key_file_is_refused(tmp_path):
    """Missing, a folder, a pipe nobody writes to, a device, a name no system takes, a file of any size: our error, at once."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    write_secret_file(tmp_path / "large", bytes(65_537))
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe", Path("/dev/null"), tmp_path / "a\x00b", tmp_path / "large"):
        with pytest.raises(KeyFileError):
            read_secret_file(path)


def test_a_secret_that_cannot_be_written_leaves_nothing(tmp_path):
    """A missing folder, a folder in the way: our error, and no draft."""
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "a.key", tmp_path / "folder", tmp_path / "a\x00b"):
        with pytest.raises(KeyFileError):
            write_secret_file(path, b"secret")
    assert list(tmp_path.rglob("*")) == [tmp_path / "folder"]


def write_terms(folder: Path, document: str = TERMS, text: str | None = "# Terms\n") -> Path:
    path = folder / "terms.toml"
    path.write_text(document, encoding="utf-8")
    if text is not None:
        (folder / "terms.md").write_text(text, encoding="utf-8")
    return path


def test_terms_are_read_with_their_text(tmp_path):
    """The text beside the document belongs to the version."""
    terms = load_terms(write_terms(tmp_path))
    assert (terms.version, terms.text) == ("2026-11", "# Terms\n")


@pytest.mark.parametrize(
    ("document", "text", "message"),
    [
        (TERMS, None, r"terms\.md: cannot be read.*terms\.toml:6"),
        (TERMS.replace("terms.md", "../terms.md"), "# Terms\n", r"terms\.toml:6: .*leads out"),
        (TERMS.replace("terms.md", "/etc/hostname"), "# Terms\n", r"terms\.toml:6: .*leads out"),
        (TERMS.replace("terms.md", "a\\u0000b"), "# Terms\n", r"cannot be read"),
        (TERMS.replace("terms.md", "."), "# Terms\n", r"cannot be read"),
        (TERMS.replace('text = "terms.md"\n', ""), "# Terms\n", r"terms\.toml"),
        (TERMS.replace("[terms]", "[terms"), "# Terms\n", r"terms\.toml"),
        (TERMS.replace('"permit"', '"allow"'), "# Terms\n", r"terms\.toml:\d+"),
        ("", "# Terms\n", r"terms\.toml"),
        ("terms = 3", "# Terms\n", r"terms\.toml"),
        ("a=" + "[" * 5000, "# Terms\n", r"terms\.toml"),
        (TERMS + "#" * (1 << 20), "# Terms\n", r"terms\.toml: more than"),
        (TERMS, "x" * ((1 << 20) + 1), r"terms\.md: more than"),
    ],
)
def test_terms_that_cannot_be_used_name_file_and_line(tmp_path, document, text, message):
    """Whatever is wrong with document or text is said with the place where it is."""
    with pytest.raises(TermsError, match=message):
        load_terms(write_terms(tmp_path, document, text))


def test_a_missing_document_is_named(tmp_path):
    """The error names the path."""
    with pytest.raises(TermsError, match=r"none\.toml: cannot be read"):
        load_terms(tmp_path / "none.toml")
