"""The door to the demonstration: it lives in `examples/demo`, in the source tree, where its story can be read."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from tos_guard.errors import ConfigurationError

__all__ = ["run"]

_STORY: Final = Path("examples") / "demo" / "day.py"


def run(*, model: str, guarded: bool, folder: Path | None) -> int:
    """Play the day, and return its exit code.

    Args:
        model: ``smollm2`` or ``replay``.
        guarded: Whether with the guard.
        folder: Where artifacts are kept; ``build/demo`` of the source tree by default.

    Raises:
        ConfigurationError: There is no source tree here, or something the demonstration needs is not installed.
    """
    root = _source_tree()
    sys.path.insert(0, str(root / "examples"))
    try:
        play: Any = import_module("demo.day")
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is not installed", where="demo", cure="Run 'make demo', which installs it.") from None
    kept = root / "build" / "demo" if folder is None else folder.absolute()
    return int(play.run(kept, model=model, guarded=guarded))


def _source_tree() -> Path:
    """The clone we are called in, or belong to."""
    for start in (Path.cwd(), Path(__file__).resolve()):
        for folder in (start, *start.parents):
            if (folder / _STORY).is_file():
                return folder
    raise ConfigurationError("the demonstration is not here", where="demo", cure="Run 'make demo' in a clone of the repository.")
