"""Which dialects there are, by the names that settings give them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from tos_guard.dialects._chat import ChatDialect
from tos_guard.dialects._completions import CompletionsDialect
from tos_guard.dialects._dialect import Dialect
from tos_guard.dialects._embeddings import EmbeddingsDialect
from tos_guard.dialects._file import FileDialect
from tos_guard.dialects._grpc import GrpcDialect
from tos_guard.dialects._messages import MessagesDialect
from tos_guard.dialects._ndjson import NdjsonDialect
from tos_guard.dialects._open_inference import OpenInferenceDialect
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
    OpenInferenceDialect.name: OpenInferenceDialect,
}
"""Made with ``action=``: each request names its model."""

_OF_ANY_REQUESTS: Final[dict[str, Callable[..., Dialect]]] = {
    PlainDialect.name: PlainDialect,
    FileDialect.name: FileDialect,
    GrpcDialect.name: GrpcDialect,
}
"""Made with ``action=`` and ``model=``: the route says which model answers a request that names none."""

NEED_MODEL: Final = frozenset(_OF_ANY_REQUESTS) | {NdjsonDialect.name}
"""Names of the dialects whose routes must name a model."""

DIALECT_NAMES: Final = frozenset(_OF_REQUESTS_WITH_MODEL) | NEED_MODEL
"""Names of all dialects."""


def dialect_named(name: str, *, action: str = "generate", model: str | None = None, tag_line: bool = False) -> Dialect:
    """A dialect for one route.

    Args:
        name: Its name.
        action: Action of the terms that requests of the route ask for.
        model: Model of a request that names none.
        tag_line: Whether a response in lines ends with a line that carries its tag.

    Raises:
        ConfigurationError: There is no such dialect, it has no such line, or it needs a model and none is given.
    """
    if tag_line and name != NdjsonDialect.name:
        raise ConfigurationError(f"responses of {name[:64]!r} have no line for a tag", where="tag_line", cure="Leave it out.")
    if (make := _OF_REQUESTS_WITH_MODEL.get(name)) is not None:
        return make(action=action)
    make = partial(NdjsonDialect, tag_line=tag_line) if name == NdjsonDialect.name else _OF_ANY_REQUESTS.get(name)
    if make is None:
        raise ConfigurationError(f"{name[:64]!r} is no dialect", where="dialect", cure=f"There are: {', '.join(sorted(DIALECT_NAMES))}.")
    if model is None:
        raise ConfigurationError(f"a {name} route needs a model, for requests that name none", where="dialect", cure='Set model = "…".')
    return make(action=action, model=model)
