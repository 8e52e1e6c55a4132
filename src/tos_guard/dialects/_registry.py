"""Which dialects there are, by the names that settings give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tos_guard.dialects._chat import ChatDialect
from tos_guard.dialects._completions import CompletionsDialect
from tos_guard.dialects._dialect import Dialect
from tos_guard.dialects._embeddings import EmbeddingsDialect
from tos_guard.dialects._grpc import GrpcDialect
from tos_guard.dialects._messages import MessagesDialect
from tos_guard.dialects._plain import PlainDialect
from tos_guard.dialects._responses import ResponsesDialect
from tos_guard.errors import ConfigurationError

__all__ = ["DIALECT_NAMES", "NEED_MODEL", "dialect_named"]

_OF_REQUESTS_WITH_MODEL: Final[dict[str, Callable[..., Dialect]]] = {
    ChatDialect.name: ChatDialect,
    CompletionsDialect.name: CompletionsDialect,
    ResponsesDialect.name: ResponsesDialect,
    EmbeddingsDialect.name: EmbeddingsDialect,
    MessagesDialect.name: MessagesDialect,
}
"""Made with ``action=``: each request names its model."""

_OF_ANY_REQUESTS: Final[dict[str, Callable[..., Dialect]]] = {
    PlainDialect.name: PlainDialect,
    GrpcDialect.name: GrpcDialect,
}
"""Made with ``action=`` and ``model=``: the route says which model answers a request that names none."""

NEED_MODEL: Final = frozenset(_OF_ANY_REQUESTS)
"""Names of the dialects whose routes must name a model."""

DIALECT_NAMES: Final = frozenset(_OF_REQUESTS_WITH_MODEL) | NEED_MODEL
"""Names of all dialects."""


def dialect_named(name: str, *, action: str = "generate", model: str | None = None) -> Dialect:
    """A dialect for one route.

    Args:
        name: Its name.
        action: Action of the terms that requests of the route ask for.
        model: Model of a request that names none.

    Raises:
        ConfigurationError: There is no such dialect, or it needs a model and none is given.
    """
    if (make := _OF_REQUESTS_WITH_MODEL.get(name)) is not None:
        return make(action=action)
    if (make := _OF_ANY_REQUESTS.get(name)) is None:
        raise ConfigurationError(f"{name[:64]!r} is no dialect", where="dialect", cure=f"There are: {', '.join(sorted(DIALECT_NAMES))}.")
    if model is None:
        raise ConfigurationError(f"a {name} route needs a model, for requests that name none", where="dialect", cure='Set model = "…".')
    return make(action=action, model=model)
