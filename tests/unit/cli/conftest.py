"""Commands as typer's runner calls them, and a provider's folder to call them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tos_guard.cli._app import app

ISSUER = "https://api.example.com"


@dataclass(frozen=True)
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout as JSON."""
        return json.loads(self.out)


Call = Callable[..., Answer]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Call a command; paths are those of *tmp_path*."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOS_GUARD_CONFIG", raising=False)

    def run(*arguments: object, stdin: bytes = b"") -> Answer:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "Traceback" not in done.output
        return Answer(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def provider(call: Call, tmp_path: Path) -> Path:
    """A folder that `init` made; the current one."""
    done = call("init", "--issuer", ISSUER, "--terms", "complete")
    assert done.code == 0, done.err
    return tmp_path
