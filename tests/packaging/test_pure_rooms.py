"""From `exchange` down there is no I/O, no clock, no randomness and no logging (DESIGN section 4).

import-linter holds the directions between our modules; it cannot see the standard library, so this reads the syntax trees.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SHELLS = {"cli", "console", "guard", "remote", "stores", "telemetry", "testing", "verifier", "web"}
"""Rooms above `exchange`: they may touch disk, clock and network."""

EFFECTS = {
    *("asyncio", "ftplib", "glob", "http", "imaplib", "io", "logging", "multiprocessing", "os", "pathlib", "random", "sched", "secrets"),
    *("select", "selectors", "shutil", "signal", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "sys", "tempfile"),
    *("time", "urllib.request", "uuid"),
}
READS_THE_CLOCK = {"now", "utcnow", "today"}
BUILTINS = {"breakpoint", "input", "open", "print"}
NAMES_FILES = {"config.py"}
"""Settings hold paths as values; nothing is opened there."""
MAY_IMPORT_FOR_TYPES_FROM_ABOVE = {"__init__.py", "protocols.py", "terms/__init__.py"}
"""Others would hide a wrong direction from import-linter (docs/adr/0003)."""


def effects(tree: ast.AST) -> Iterator[str]:
    """Each statement in *tree* that reaches outside."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                imported = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                imported = [module]
            case _:
                imported = []
        for name in imported:
            if name in EFFECTS or name.partition(".")[0] in EFFECTS:
                yield f"line {node.lineno}: imports {name}"  # type: ignore[attr-defined]
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=("datetime" | "date")), attr=attr)) if attr in READS_THE_CLOCK:
                yield f"line {node.lineno}: asks the time with {attr}()"
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                yield f"line {node.lineno}: calls {name}()"


def pure_files() -> list[Path]:
    source = Path(__file__).resolve().parents[2] / "src" / "tos_guard"
    return [path for path in sorted(source.rglob("*.py")) if path.relative_to(source).parts[0].removesuffix(".py") not in SHELLS]


@pytest.mark.parametrize("path", pure_files(), ids=lambda path: "/".join(path.parts[path.parts.index("tos_guard") :]))
def test_a_pure_module_reaches_nothing_outside(path: Path) -> None:
    found = list(effects(ast.parse(path.read_text(encoding="utf-8"))))
    assert [effect for effect in found if not (path.name in NAMES_FILES and effect.endswith("imports pathlib"))] == []


def test_only_the_protocols_look_upwards_for_types(root: Path) -> None:
    source = root / "src" / "tos_guard"
    asking = {path.relative_to(source).as_posix() for path in pure_files() if "TYPE_CHECKING" in path.read_text(encoding="utf-8")}
    assert asking <= MAY_IMPORT_FOR_TYPES_FROM_ABOVE


@pytest.mark.parametrize(
    "code",
    [
        "import socket",
        "import os.path",
        "from urllib.request import urlopen",
        "def f():\n    from secrets import token_bytes",
        "datetime.now(UTC)",
        "date.today()",
        "open('x')",
        "print('x')",
    ],
)
def test_the_check_itself_sees(code: str) -> None:
    assert list(effects(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["from urllib.parse import urlsplit", "import threading", "now = datetime.fromtimestamp(0, UTC)", "feed.open()"]
)
def test_the_check_itself_leaves_pure_code_alone(code: str) -> None:
    assert list(effects(ast.parse(code))) == []
