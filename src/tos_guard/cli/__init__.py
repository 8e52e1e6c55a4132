"""The command line: `tos-guard`. Each noun has a module; what they share is in `_output` and `_arguments`.

- stdout carries data and nothing else; notes and errors go to stderr.
- People read text, coloured on a terminal only; programs read ``--json``, whose documents carry ``"version": 1``.
- Every error is one line: which input, what, what to do. Exit codes: `tos_guard.errors.EXIT_CODES`, 2 for anything that kept a command
  from being carried out, 70 for a defect of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code.

    Args:
        arguments: What follows the program's name; those of this process by default.
    """
    try:
        from tos_guard.cli._app import run
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.stderr.write(f'tos-guard: {error.name} is not installed. The command line needs: pip install "tos-guard[cli]"\n')
        return 2
    return run(sys.argv[1:] if arguments is None else list(arguments))
