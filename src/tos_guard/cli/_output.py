"""What commands say: data on stdout, notes and errors on stderr, for people or for programs.

Whatever came from outside is shown with its control characters written out, so that a hostile claim cannot steer a terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from tos_guard.errors import ConfigurationError, TosGuardError, VerificationError

__all__ = ["DEFECT", "FAILED", "Line", "carried_out", "mark", "moment", "note", "plain", "show", "show_json", "show_table"]

FAILED: Final = 2
"""Exit code where a command could not be carried out: its arguments, a file, a setting, a store."""

DEFECT: Final = 70
"""Exit code of a defect of ours (EX_SOFTWARE of sysexits.h): none of the verdicts."""

_INTERRUPTED: Final = 130
_JSON_VERSION: Final = 1

Line = tuple[str, str]
"""A line and its style; the style says nothing that the words do not."""


def plain(value: object) -> str:
    """*value* as text on one line, with everything unprintable written out."""
    text = str(value)
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def moment(at: datetime | int | None) -> str:
    """A time for people: UTC, to the second."""
    if at is None:
        return ""
    try:
        known = at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{at} seconds after 1970"
    return known.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def mark(passed: bool) -> str:
    """A sign and a word for a check."""
    signs = ("✓", "✗")
    try:
        "".join(signs).encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        signs = ("+", "x")
    return f"{signs[0]} passed" if passed else f"{signs[1]} failed"


def show(*lines: str | Line) -> None:
    """Write lines to stdout."""
    for line in lines:
        text, style = (line, "") if isinstance(line, str) else line
        if style and _is_terminal():
            from rich.console import Console
            from rich.text import Text

            Console(highlight=False).print(Text(text, style=style), soft_wrap=True)
        else:
            _write(sys.stdout, text + "\n")


def show_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout; ASCII, so that no terminal and no pipe changes it."""
    _write(sys.stdout, json.dumps({"version": _JSON_VERSION, **document}, indent=2) + "\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Write a table to stdout: fitted to the terminal where there is one, aligned elsewhere."""
    cells = [[plain(value) for value in row] for row in rows]
    if not cells:
        note(empty)
        return
    if _is_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for number, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=number == 0)  # the first is an id, to be copied whole
        for row in cells:
            table.add_row(*map(Text, row))
        Console(highlight=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in ([*columns], *cells):
        _write(sys.stdout, "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() + "\n")


def note(text: str) -> None:
    """Write a line to stderr."""
    _write(sys.stderr, text + "\n")


def carried_out(command: Callable[[], object]) -> int:
    """Run a command, turn whatever goes wrong into one line, and give the exit code."""
    try:
        code = command()
    except KeyboardInterrupt:
        note("tos-guard: interrupted")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - no traceback ever reaches a user
        return _report(error)
    return code if isinstance(code, int) else 0


def _report(error: Exception) -> int:
    if isinstance(error, VerificationError):
        from tos_guard.errors import EXIT_CODES

        return _failed(str(error), EXIT_CODES[error.verdict])
    if isinstance(error, TosGuardError):
        return _failed(str(error), FAILED)
    format_message = getattr(error, "format_message", None)  # of click's errors, wherever this typer keeps its click
    if format_message is not None:
        context = getattr(error, "ctx", None)
        path = getattr(context, "command_path", "tos-guard")
        what = " ".join(str(format_message()).split()).rstrip(".")
        return _failed(f"{what}. See '{path} --help'.", FAILED)
    if isinstance(error, OSError):
        return _failed(f"{error.filename or 'system'}: {error.strerror or error}. Check the path and its permissions.", FAILED)
    if os.environ.get("TOS_GUARD_DEBUG"):
        import traceback

        note(traceback.format_exc())
    what = f"a defect of tos-guard: {type(error).__name__}: {error}"
    return _failed(f"{what}. Please report it with what TOS_GUARD_DEBUG=1 prints.", DEFECT)


def _failed(text: str, code: int) -> int:
    note(f"tos-guard: {plain(text)}")
    return code


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # closed by whoever started us
        return
    try:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        _discard(stream)  # whoever read has read enough; the exit code still counts
    except OSError as error:
        _discard(stream)
        if stream is sys.stderr:
            return
        raise ConfigurationError(f"cannot be written ({error.strerror})", where="stdout", cure="Check where it leads.") from None


def _discard(stream: TextIO) -> None:
    """Lead the stream to nowhere, so that the interpreter's own flush at exit does not fail again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
