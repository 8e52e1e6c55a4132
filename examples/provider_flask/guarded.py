"""The same provider, guarded: three lines more.

TOS_GUARD_CONFIG=tos-guard.toml gunicorn --threads 8 --pythonpath examples 'provider_flask.guarded:guarded()'
"""

from __future__ import annotations

import os

from flask import Flask

from provider_flask.app import create_app
from tos_guard_flask import TosGuard


def guarded() -> Flask:
    """The provider with its guard; settings from the file that ``TOS_GUARD_CONFIG`` names."""
    app = create_app()
    app.config["TOS_GUARD_SETTINGS"] = os.environ["TOS_GUARD_CONFIG"]
    guard = TosGuard(app)
    guard.check(app)
    return app
