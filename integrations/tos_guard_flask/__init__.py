"""`tos_guard` for Flask.

    app = Flask(__name__)
    app.config["TOS_GUARD_SETTINGS"] = "tos-guard.toml"
    guard = TosGuard(app)                              # or guard = TosGuard(); guard.init_app(app)

`init_app` puts the guard around the app, serves the well-known documents, and looks through the app's routes before the first request: a
route that is neither guarded nor exempt by name stops the app, because a route nobody thought of is a way around the guard.
`TosGuard.check` does so when the host says, best at the end of its factory.

A view learns what was decided from `current_admission` (or ``g.tos_guard``), and demands a right more with ``@requires("fine-tune")``.
"""

try:
    from tos_guard_flask._admission import current_admission, requires
    from tos_guard_flask._extension import TosGuard
except ModuleNotFoundError as _missing:
    if _missing.name not in {"flask", "werkzeug"}:
        raise
    raise ModuleNotFoundError('Flask is not installed: pip install "tos-guard[flask]"', name=_missing.name) from _missing

__all__ = ["TosGuard", "current_admission", "requires"]
