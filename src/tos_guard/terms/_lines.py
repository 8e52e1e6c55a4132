"""Where in a TOML file a value stands. `tomllib` does not say, and a finding without a line is a riddle.

The scan follows strings, comments and brackets just far enough to know which lines begin a header or a key. A value inside an
inline table or a long array is reported at the line of the key that holds it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

__all__ = ["Lines"]

Path = tuple[str | int, ...]

_TOKEN: Final = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}\n]', re.DOTALL)
# Matched against lines without outer blanks. Bounded and without backtracking into blanks: a line of these could take hours otherwise.
_HEADER: Final = re.compile(r"(\[\[?)[ \t]*+([^\[\]\n]{1,300}?)[ \t]*+\]")
_KEY: Final = re.compile(r"([A-Za-z0-9_.\"' -]{1,300}?)[ \t]*+=")


class Lines:
    """Lines of the tables and keys of one TOML document that `tomllib` has read."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        counts: Counter[Path] = Counter()
        table: Path = ()
        for number, line in _logical_lines(text):
            if header := _HEADER.match(line):
                names = _names(header[2])
                path = self._inside(names[:-1], counts) + names[-1:]
                if header[1] == "[[":
                    counts[path] += 1
                    path = (*path, counts[path] - 1)
                elif path in counts:
                    path = (*path, counts[path] - 1)
                table = path
                self._lines.setdefault(path, number)
            elif key := _KEY.match(line):
                names = _names(key[1])
                for end in range(1, len(names) + 1):
                    self._lines.setdefault(table + names[:end], number)

    @staticmethod
    def _inside(names: Path, counts: Counter[Path]) -> Path:
        """*names* with the index of the newest element behind each array of tables."""
        path: Path = ()
        for name in names:
            path = (*path, name)
            if path in counts:
                path = (*path, counts[path] - 1)
        return path

    def of(self, path: Sequence[str | int]) -> int:
        """The line of the value at *path*, or of the nearest one around it; 1 when nothing around it is known."""
        for end in range(len(path), 0, -1):
            if (line := self._lines.get(tuple(path[:end]))) is not None:
                return line
        return 1


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Number and text, without outer blanks, of each line that does not begin inside a string or bracket."""
    lines: list[tuple[int, str]] = []
    number, start, first, depth = 1, 0, 1, 0
    for token in _TOKEN.finditer(text + "\n"):
        sign = token[0]
        if sign in {"[", "{"}:
            depth += 1
        elif sign in {"]", "}"}:
            depth -= 1
        elif sign == "\n":
            number += 1
            if depth <= 0:
                lines.append((first, text[start : token.start()].strip()))
                start, first, depth = token.end(), number, 0
        else:
            number += sign.count("\n")
    return lines


def _names(dotted: str) -> Path:
    return tuple(name.strip().strip("\"'") for name in dotted.split("."))
