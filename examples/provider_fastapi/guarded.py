"""The same provider, guarded: three lines more.

TOS_GUARD_CONFIG=tos-guard.toml PROVIDER_MODEL=replay uvicorn --app-dir examples --factory provider_fastapi.guarded:guarded
"""

from __future__ import annotations

import os

from fastapi import FastAPI

from provider_fastapi.app import create_app
from provider_fastapi.models import model_from_environment
from tos_guard_fastapi import TosGuard


def guarded() -> FastAPI:
    """The provider with its guard; settings from the file that ``TOS_GUARD_CONFIG`` names."""
    app = create_app(model_from_environment())
    guard = TosGuard.from_file(os.environ["TOS_GUARD_CONFIG"])
    guard.install(app)
    return app
