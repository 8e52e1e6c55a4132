"""Files an operator keeps: a terms version beside its text, and secrets.

- A secret file is readable by its owner alone, and is refused otherwise, as ssh does.
- Writing is all or nothing: a temporary file in the same folder, fsync, then one step that gives it its name.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import tomllib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from tos_guard.errors import KeyFileError, TermsError

if TYPE_CHECKING:
    from tos_guard.terms import TermsVersion

__all__ = ["load_terms", "read_secret_file", "write_secret_file"]

_MAX_TERMS_BYTES: Final = 1 << 20
"""Of the document and of the text, each: far beyond any real terms of service."""

_MAX_SECRET_BYTES: Final = 1 << 16
"""A key file is smaller than 1 KiB; a device or a log named by mistake should not be read to its end."""

_SHARED_BITS: Final = stat.S_IRWXG | stat.S_IRWXO


def load_terms(path: Path) -> TermsVersion:
    """Read a terms document (TOML) and the text that it names with ``[terms] text = "terms.md"``, beside it.

    Raises:
        TermsError: A file is missing, too large or not UTF-8, or `parse_terms` refuses it. Names file and line.
    """
    from tos_guard.terms import parse_terms  # reading a key file needs no pydantic

    document = _read_terms_file(path)
    text_name = _text_name(document)
    if text_name is None:
        # It cannot be used without a text; `parse_terms` says what is wrong, and where.
        parse_terms(document, b"", where=str(path))
        raise TermsError('[terms] has no text = "FILE.md"', where=str(path), cure="Name the file of the text")
    line = _line_of_text(document)
    name = PurePosixPath(text_name)
    if name.is_absolute() or ".." in name.parts:
        raise TermsError(f"text = {text_name!r} leads out of the folder", where=f"{path}:{line}", cure="Keep the text beside the document")
    return parse_terms(document, _read_terms_file(path.parent / name, named_at=f"{path}:{line}"), where=str(path))


def _read_terms_file(path: Path, *, named_at: str = "") -> bytes:
    data = _read(path, _MAX_TERMS_BYTES)
    if isinstance(data, str):
        raise TermsError(data, where=str(path), cure=f"It is named at {named_at}" if named_at else "Check the path")
    return data


def _read(path: Path, max_bytes: int) -> bytes | str:
    """The content, or what is wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        return f"cannot be read ({_problem(error)})"
    return data if len(data) <= max_bytes else f"more than {max_bytes} bytes"


def _problem(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _text_name(document: bytes) -> str | None:
    try:
        terms = tomllib.loads(document.decode("utf-8")).get("terms")
    except (ValueError, RecursionError):
        return None
    name = terms.get("text") if isinstance(terms, dict) else None
    return name if isinstance(name, str) and name else None


def _line_of_text(document: bytes) -> int:
    found = re.search(rb"^[ \t]*(?:terms[ \t]*\.[ \t]*)?text[ \t]*=", document, re.MULTILINE)
    return 1 if found is None else document.count(b"\n", 0, found.start()) + 1


def read_secret_file(path: Path) -> bytes:
    """The content of a secret file.

    Raises:
        KeyFileError: It is missing, no regular file, readable by others, or larger than 64 KiB.
    """
    try:
        # The file that was checked must be the file that is read; and opening a pipe by mistake must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise KeyFileError(f"cannot be read ({_problem(error)})", where=str(path), cure="Check the path and the owner") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError("not a regular file", where=str(path), cure="Name a key file")
        if status.st_mode & _SHARED_BITS:
            mode = stat.S_IMODE(status.st_mode)
            raise KeyFileError(f"others than its owner may use it (mode {mode:04o})", where=str(path), cure=f"chmod 600 {path}")
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(_MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"cannot be read ({_problem(error)})", where=str(path), cure="Check the disk") from None
    finally:
        os.close(fd)
    if len(data) > _MAX_SECRET_BYTES:
        raise KeyFileError(f"more than {_MAX_SECRET_BYTES} bytes", where=str(path), cure="Name a key file")
    return data


def write_secret_file(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write *data* to *path*, mode 0600, durably and all or nothing.

    Args:
        path: The file; its folder must exist.
        data: What it will hold.
        replace: Whether it may take the place of a file that is there. If not, a file that is there stays as it is.

    Raises:
        KeyFileError: The file is there and must not be replaced, or it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, 0o600)  # whatever the umask took away
                file.write(data)
                file.flush()
                os.fsync(fd)
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path, follow_symlinks=False)  # fails when the name is taken, unlike a rename
        finally:
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise KeyFileError("there is a file already", where=str(path), cure="Move it away, or choose another name") from None
    except (OSError, ValueError) as error:
        raise KeyFileError(f"cannot be written ({_problem(error)})", where=str(path), cure="Check the folder and the disk") from None
