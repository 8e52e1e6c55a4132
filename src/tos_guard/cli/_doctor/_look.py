"""Looks at an application in a process of its own: ``python -m tos_guard.cli._doctor._look RESULT MODULE:ATTR [factory]``.

The application is imported and looked through; its lifespan does not run, and it serves nothing. Whatever it prints, starts or breaks
stays in this process.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tos_guard.cli._doctor._check import Check, ok, problem, warning
from tos_guard.cli._doctor._layers import Layers, check_layers, layers_of
from tos_guard.errors import ConfigurationError, TosGuardError

__all__ = ["look_at"]


def look_at(app: Any) -> tuple[list[Check], dict[str, Any]]:
    """What is wrong with an application, and what its guard goes by.

    Returns:
        The checks; and of the guard, where there is one: issuer, store, keys, whether it takes credentials itself, and whether the host
        names administrators.
    """
    layers = layers_of(app)
    checks = [*check_layers(layers)]
    guarding = next((layer for layer in layers.outer if layer.guard is not None), None)
    if guarding is None or guarding.guard is None:
        return checks, {}
    if guarding.documents is None:
        what = "the guard was given no documents: nobody finds keys, terms and usage policies"
        checks.append(warning("documents-not-served", what, where="middleware", cure="Install it with guard.install(app)."))
    checks += _routes(layers, guarding.guard)
    settings = guarding.guard.settings
    return checks, {
        "issuer": settings.issuer,
        "store": settings.store_name,
        "keys": str(settings.keys.absolute()),
        "takes_credentials": guarding.guard.takes_credentials,
        "authorizes_admins": guarding.guard._authorize_admin is not None,
    }


def _routes(layers: Layers, guard: Any) -> Iterator[Check]:
    """Whether each route is guarded or exempt, as the guard itself checks it at start."""
    if layers.starlette is None:
        cure = "See to it that each path it serves is under [routes] or exempt; all others are answered with 404."
        yield warning(
            "routes-unknown", "this is no Starlette or FastAPI application: its routes cannot be looked through", where="app", cure=cure
        )
        return
    adapter = importlib.import_module("tos_guard_fastapi")
    try:
        adapter.TosGuard(guard).check_routes(layers.starlette)
    except ConfigurationError as error:
        yield problem("unguarded-routes", error.what, where=error.where, cure=error.cure)
    else:
        yield ok("app-routes", f"{len(guard.settings.routes)} guarded paths; all others are exempt by name", "app")


def _loaded(target: str, *, factory: bool) -> Any:
    module, _, attribute = target.partition(":")
    found: Any = importlib.import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
    return found() if factory else found


def _main(result: str, target: str, factory: bool) -> None:
    sys.path.insert(0, str(Path.cwd()))  # as servers do; with -m it stands there already, unless PYTHONSAFEPATH is set
    checks: list[Check] = []
    facts: dict[str, Any] = {}
    try:
        checks, facts = look_at(_loaded(target, factory=factory))
    except TosGuardError as error:
        checks = [
            problem("app", f"the guard refuses to start: {error.what}", where=error.where or target, cure=error.cure or "Correct it.")
        ]
    except BaseException as error:  # noqa: BLE001 - the application is the host's, and may do anything when it is imported, SystemExit too
        what = f"it cannot be imported ({type(error).__name__}: {error})"
        cure = "Name it as your server does, in the folder and with the environment in which that starts."
        checks = [problem("app", what, where=target, cure=cure)]
    document = {"checks": [asdict(check) for check in checks], "facts": facts}
    Path(result).write_text(json.dumps(document), encoding="ascii")
    os._exit(0)  # threads that the application started would keep us


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3:] == ["factory"])
