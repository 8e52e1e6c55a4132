"""`tos_guard` for FastAPI and Starlette.

    guard = TosGuard.from_file("tos-guard.toml")       # or with identify=… where the host authenticates already
    app = FastAPI()
    guard.install(app)

`install` adds the middleware, serves the well-known documents, and looks through the app's routes at start: a route that is neither
guarded nor exempt by name stops the start, because a route nobody thought of is a way around the guard. The app's OpenAPI document says
of each guarded operation what the guard asks for, answers and adds.

A handler learns what was decided from ``Depends(admission)``, and demands a right more with ``Depends(requires("fine-tune"))``.
"""

try:
    from tos_guard_fastapi._dependencies import Requires, admission, requires
    from tos_guard_fastapi._install import TosGuard
except ModuleNotFoundError as _missing:
    if _missing.name not in {"fastapi", "starlette"}:
        raise
    raise ModuleNotFoundError('FastAPI is not installed: pip install "tos-guard[fastapi]"', name=_missing.name) from _missing

__all__ = ["Requires", "TosGuard", "admission", "requires"]
