"""The middleware that model servers load by its name, which gives it nothing but the app.

vLLM itself needs a GPU build of PyTorch and is not installed: `load` does with the name what vLLM's documentation of ``--middleware`` says
that its server does, before the app starts.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from provider_fastapi.app import unguarded
from provisioned import Provider
from serving import serve_app
from smoke import SMOKE, Target
from tos_guard.errors import ConfigurationError

NAME = "tos_guard.web.environment.Middleware"


def load(app: FastAPI, name: str) -> None:
    """A class is added as a middleware without arguments; a coroutine function would be one of its kind."""
    module, _, attribute = name.rpartition(".")
    found: Any = getattr(importlib.import_module(module), attribute)
    if not inspect.isclass(found):
        raise TypeError(f"{name} is no class")
    app.add_middleware(found)


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """A provisioned provider that the environment names."""
    provider = Provider(tmp_path)
    for name, value in provider.environment().items():
        monkeypatch.setenv(name, value)
    return provider


def test_a_server_that_knows_only_its_name_passes_the_smoke_list(provider: Provider) -> None:
    app = unguarded()
    load(app, NAME)
    with serve_app(app, lifespan="on") as url:
        for line in SMOKE:
            line(Target(url, provider))


def test_records_are_durable_once_the_app_has_shut_down(provider: Provider) -> None:
    app = unguarded()
    load(app, NAME)
    with serve_app(app, lifespan="on") as url:
        rid = Target(url, provider).post({"model": "none", "messages": []}).headers["x-request-id"]
    with provider.store() as store:
        assert store.by_request_id(provider.issuer, rid) is not None


def test_without_settings_the_server_does_not_start(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and what to do; no server answers unguarded."""
    monkeypatch.delenv("TOS_GUARD_CONFIG")
    app = unguarded()
    load(app, NAME)
    with pytest.raises(ConfigurationError, match="TOS_GUARD_CONFIG is not set"):
        app.build_middleware_stack()
    with pytest.raises(RuntimeError, match="did not start"), serve_app(app, lifespan="on"):
        pass
