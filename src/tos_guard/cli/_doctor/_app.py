"""An application's middleware and routes, looked at in a process of its own (`_look`)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tos_guard.cli._doctor._check import Check, Level, problem, warning
from tos_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.stores import Store

__all__ = ["check_app", "check_target"]

IMPORT_SECONDS: Final = 120.0
"""How long an application may take to be imported: one that loads a model takes minutes, and belongs into a lifespan."""

_TARGET: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PAGE: Final = 1_000


def check_target(target: str) -> str:
    """*target*, if it names something in a module.

    Raises:
        ConfigurationError: It does not.
    """
    if _TARGET.fullmatch(target) is None:
        raise ConfigurationError(
            f"{target!r} names no application", where="--app", cure="Write MODULE:ATTR, as for uvicorn: shop.main:app."
        )
    return target


def check_app(
    target: str, *, factory: bool, settings: GuardSettings | None, store: Store | None, seconds: float = IMPORT_SECONDS
) -> Iterator[Check]:
    """Import an application in a process of its own, and look through its middleware and routes. Its lifespan does not run.

    Args:
        target: ``MODULE:ATTR``.
        factory: Whether ATTR is called to make the application.
        settings: The settings that were looked at, or None.
        store: Their store, or None.
        seconds: How long it may take.
    """
    looked = _looked_at(target, factory=factory, seconds=seconds)
    if isinstance(looked, Check):
        yield looked
        return
    for made in looked["checks"]:
        yield Check(**{**made, "level": Level(made["level"])})
    facts = looked["facts"]
    if facts and settings is not None:
        yield from _other_settings(facts, settings)
        yield from _nobody_can_ask(facts, settings, store)
        yield from _nobody_can_administer(facts, settings, store)


def _looked_at(target: str, *, factory: bool, seconds: float) -> dict[str, Any] | Check:
    with tempfile.TemporaryDirectory(prefix="tos-guard-doctor-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "tos_guard.cli._doctor._look", str(result), target, *(["factory"] if factory else [])]
        # It finds what this process finds, by whatever path this one was started with.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(  # noqa: S603 - our own program; the target is a name in the caller's own code
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                cure = "Move what takes long, and what serves, out of the module: into the lifespan, or under __main__."
                return problem("app", f"it was not imported within {seconds:.0f} s", where=target, cure=cure)
            finally:
                with suppress(ProcessLookupError):  # it, and whatever it started
                    os.killpg(process.pid, signal.SIGKILL)
        if not result.exists():
            what = f"the process that imported it died (exit code {process.returncode})"
            return problem("app", what, where=target, cure="Import it in a shell to see why.")
        document: dict[str, Any] = json.loads(result.read_bytes())
        return document


def _other_settings(facts: dict[str, Any], settings: GuardSettings) -> Iterator[Check]:
    """Whether the application goes by the settings that were looked at."""
    ours = {"issuer": settings.issuer, "store": settings.store_name, "keys": str(settings.keys.absolute())}
    for name, value in ours.items():
        if not _is_same(name, facts[name], value):
            what = f"the application's guard has {name} {facts[name]}, and these settings say {value}"
            cure = "Name with --config the settings that the application reads."
            yield problem("app-has-other-settings", what, where="app", cure=cure)
            return


def _is_same(name: str, one: str, other: str) -> bool:
    return one == other if name == "issuer" else Path(one).resolve() == Path(other).resolve()


def _nobody_can_ask(facts: dict[str, Any], settings: GuardSettings, store: Store | None) -> Iterator[Check]:
    """Whether anybody has a credential that the guard takes."""
    if not facts["takes_credentials"] or settings.bearer or store is None or _has_key(store):
        return
    what = "no account has an API key, no authorization server is set, and the guard has no identify=: every request is refused"
    cure = "'tos-guard accounts key' makes a key; or give the guard identify=, where you authenticate already."
    yield problem("nobody-can-ask", what, where="app", cure=cure)


def _nobody_can_administer(facts: dict[str, Any], settings: GuardSettings, store: Store | None) -> Iterator[Check]:
    if settings.admin_routes is None or facts["authorizes_admins"] or store is None:
        return
    if all(key.revoked is not None for key in store.admin_keys()):
        what = f"no administrator has a key, and the guard has no authorize_admin=: nobody may use {settings.admin_routes}"
        yield warning("nobody-can-administer", what, where="app", cure="'tos-guard admin key NAME' makes a key; or remove admin_routes.")


def _has_key(store: Store) -> bool:
    after = ""
    while page := store.accounts(after=after, limit=_PAGE):
        if any(key.revoked is None for account in page for key in store.api_keys(account.id)):
            return True
        after = page[-1].id
    return False
