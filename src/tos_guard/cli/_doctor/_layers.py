"""The middleware of an ASGI application, from the outermost to the innermost, and what is wrong with its order.

Nothing is called, and no framework is imported: Starlette and FastAPI apps are known by their attributes, wrappers by the ``app`` they
wrap. What is mounted inside counts as inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tos_guard.cli._doctor._check import Check, ok, problem, warning
from tos_guard.web.asgi import TosGuardMiddleware

if TYPE_CHECKING:
    from tos_guard.guard import AsyncGuard

__all__ = ["Layer", "Layers", "check_layers", "layers_of"]

MAX_DEPTH: Final = 100
"""Wrappers followed: more are a ring."""

BROWSER_FIELDS: Final = ("AI-Provenance", "AI-Provenance-Salt", "Content-Usage", "Content-Digest", "Link", "X-Request-ID")
"""What a script in a browser must be let read to verify a response (docs/guides/asgi.md)."""

_COMPRESSES: Final = re.compile(r"gzip|brotli|zstd|deflate|compress", re.IGNORECASE)
_AUTHENTICATES: Final = re.compile(r"auth(entication)?(middleware|backend)?$|authentication", re.IGNORECASE)
_CORS: Final = re.compile(r"cors", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layer:
    """One middleware.

    Attributes:
        kind: Its class.
        options: What it was given by name, as far as that is known before it is made.
        instance: The middleware itself, where it is made already.
    """

    kind: type
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    instance: Any = None

    @property
    def name(self) -> str:
        """Name of its class."""
        return self.kind.__name__

    @property
    def guard(self) -> AsyncGuard | None:
        """Its guard, where it is one of ours."""
        if not issubclass(self.kind, TosGuardMiddleware):
            return None
        found: AsyncGuard | None = self.options.get("guard", getattr(self.instance, "guard", None))
        return found

    @property
    def documents(self) -> Any:
        """The well-known documents that a guard serves, or None."""
        return self.options.get("documents", getattr(self.instance, "documents", None))

    def is_base_http(self) -> bool:
        """Whether it is one of Starlette's ``BaseHTTPMiddleware``."""
        return any(base.__name__ == "BaseHTTPMiddleware" for base in self.kind.__mro__)

    def exposed(self) -> frozenset[str]:
        """Fields that a CORS middleware lets a browser's scripts read, in small letters."""
        given = self.options.get("expose_headers")
        if given is None:
            given = getattr(self.instance, "simple_headers", {}).get("Access-Control-Expose-Headers", "").split(",")
        return frozenset(name.strip().lower() for name in given)


@dataclass(frozen=True, slots=True)
class Layers:
    """The middleware of an application.

    Attributes:
        outer: Middleware of the application itself, the outermost first.
        mounted: Middleware of what is mounted in it, with the path.
        starlette: The Starlette or FastAPI application inside, or None.
    """

    outer: tuple[Layer, ...]
    mounted: tuple[tuple[str, Layer], ...]
    starlette: Any


def layers_of(app: Any) -> Layers:
    """Look through an application."""
    outer, starlette = _chain(app)
    return Layers(tuple(outer), tuple(_mounted(starlette)) if starlette is not None else (), starlette)


def _chain(app: Any) -> tuple[list[Layer], Any]:
    """The wrappers around an application, and the Starlette application inside, if it is one."""
    found: list[Layer] = []
    for _ in range(MAX_DEPTH):
        declared = getattr(app, "user_middleware", None)
        if declared is not None:
            return [*found, *(Layer(one.cls, dict(one.kwargs)) for one in declared)], app
        inner = getattr(app, "app", None)
        if inner is None or not callable(inner):
            return found, None
        found.append(Layer(type(app), instance=app))
        app = inner
    return found, None


def _mounted(app: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Layer]]:
    for route in getattr(app, "routes", None) or ():
        inner = getattr(route, "app", None)
        if not hasattr(route, "routes") or inner is None or depth > MAX_DEPTH:
            continue  # an endpoint, whose ``app`` is a function of the framework's
        path = f"{prefix}{getattr(route, 'path', '')}"
        found, starlette = _chain(inner)
        yield from ((path, layer) for layer in found)
        yield from _mounted(starlette if starlette is not None else route, path, depth + 1)


def check_layers(layers: Layers) -> Iterator[Check]:
    """Whether there is one guard, and what must be outside it is."""
    guards = [number for number, layer in enumerate(layers.outer) if layer.guard is not None]
    mounted = [(path, layer) for path, layer in layers.mounted if layer.guard is not None]
    if not guards:
        where = f"; one guards {mounted[0][0]} alone, which is mounted" if mounted else ""
        cure = "Call guard.install(app) on the application that is served."
        yield problem("no-guard", f"no guard is installed{where}", where="middleware", cure=cure)
        return
    if len(guards) + len(mounted) > 1:
        what = f"{len(guards) + len(mounted)} guards are installed: of one issuer the inner does nothing, of two each seals over the other"
        yield problem("two-guards", what, where="middleware", cure="Install one, on the application that is served.")
    outside = layers.outer[: guards[0]]
    inside = [layer for layer in layers.outer[guards[-1] + 1 :] if layer.guard is None]
    inside += [layer for path, layer in layers.mounted if layer.guard is None and not _is_exempt(layers.outer[guards[0]], path)]
    found = [*_inside(inside), *_outside(outside), *_identity(layers.outer[guards[0]], outside, inside)]
    yield from found
    if not found:
        order = " > ".join(layer.name for layer in layers.outer)
        yield ok("middleware", f"from the outermost: {order}", "middleware")


def _is_exempt(guarding: Layer, path: str) -> bool:
    """Whether all that is mounted at a path is exempt: what it does with its bodies is its own affair."""
    return guarding.guard is not None and guarding.guard.is_exempt(f"{path}/x")


_LATER: Final = "Add it after guard.install(app): what is added last is outermost."


def _inside(layers: Iterable[Layer]) -> Iterator[Check]:
    for layer in layers:
        if _COMPRESSES.search(layer.name):
            what = (
                "compresses inside the guard: what it encodes cannot be sealed, and where it heeds Accept-Encoding, which the guard "
                "takes away, it does nothing"
            )
            yield problem("compression-inside-guard", what, where=layer.name, cure=_LATER)
        elif _CORS.search(layer.name):
            what = "stands inside the guard: refusals leave without CORS fields, and browsers show them as CORS errors"
            yield problem("cors-inside-guard", what, where=layer.name, cure=_LATER)


def _outside(layers: Iterable[Layer]) -> Iterator[Check]:
    for layer in layers:
        if layer.is_base_http():
            what = (
                "is a BaseHTTPMiddleware outside the guard: it hides that a client has left, and ends a stream that broke off as if it "
                "were whole"
            )
            yield warning(
                "base-http-middleware", what, where=layer.name, cure="Write it as pure ASGI middleware, or add it before the guard."
            )
        hidden = [name for name in BROWSER_FIELDS if not {"*", name.lower()} & layer.exposed()]
        if _CORS.search(layer.name) and hidden:
            names = ", ".join(f'"{name}"' for name in BROWSER_FIELDS)
            what = f"lets no script in a browser read {', '.join(hidden)}"
            yield warning("cors-hides-fields", what, where=layer.name, cure=f"Give it expose_headers=[{names}].")


def _identity(guarding: Layer, outside: Iterable[Layer], inside: Iterable[Layer]) -> Iterator[Check]:
    """Whether who the host has authenticated reaches the guard."""
    guard = guarding.guard
    if guard is None:
        return
    if guard.takes_credentials:
        for layer in outside:
            if _AUTHENTICATES.search(layer.name) and not guard.settings.bearer:
                what = "authenticates outside the guard, and the guard is not told whom: it asks for API keys of its own"
                cure = "Give the guard identify=, which names the account of a request that you have authenticated."
                yield warning("identify-missing", what, where=layer.name, cure=cure)
        return
    for layer in inside:
        if _AUTHENTICATES.search(layer.name):
            what = "authenticates inside the guard, which asks identify= before: it will find nobody"
            yield problem("authentication-inside-guard", what, where=layer.name, cure=_LATER)
