"""Terms files that a command was given: the text beside the document."""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath
from typing import Final

from tos_guard.cli._arguments import read_input
from tos_guard.errors import TermsError

__all__ = ["text_beside"]

_ANY_TEXT: Final = b"\n"


def text_beside(path: Path, document: bytes) -> bytes:
    """The text that the document names; something in its place where it names none, which a check then reports by itself.

    Raises:
        TermsError: The name leads out of the folder.
        ConfigurationError: It cannot be read.
    """
    try:
        terms = tomllib.loads(document.decode("utf-8")).get("terms")
    except (ValueError, RecursionError):
        return _ANY_TEXT
    name = terms.get("text") if isinstance(terms, dict) else None
    if not isinstance(name, str) or not name:
        return _ANY_TEXT
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise TermsError(f"text = {name!r} leads out of the folder", where=str(path), cure="Keep the text beside the document.")
    return read_input(str(path.parent / name))
