"""The command: which checks are made, in which order, of what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tos_guard.cli._arguments import ConfigOption, JSONOption, now, open_store, read_input, settings_path
from tos_guard.cli._doctor._app import check_app, check_target
from tos_guard.cli._doctor._check import Check, problem
from tos_guard.cli._doctor._http import Origin
from tos_guard.cli._doctor._report import exit_code, show_report
from tos_guard.errors import AuthenticationError, ConfigurationError, StoreError, TosGuardError, VerificationError

if TYPE_CHECKING:
    from tos_guard.cli._doctor._sealed import Question
    from tos_guard.config import GuardSettings
    from tos_guard.rights import Account
    from tos_guard.stores import Store

__all__ = ["doctor"]

_MAX_KEY_CHARS: Final = 4_096  # a bearer token of another server; a wrong file is refused and not sent
_BY_PATH: Final = {
    "/chat/completions": "openai-chat",
    "/messages": "anthropic-messages",
    "/completions": "openai-completions",
    "/responses": "openai-responses",
}
"""Where official clients ask, first match first, and what they ask there."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """Where to ask, and what.

    Attributes:
        origin: Where.
        key: The credential, or None to ask for the documents alone.
        model: Which model, or None for one of the account's.
        path: Which guarded path, or None for the first of the settings.
    """

    origin: Origin
    key: str | None = field(repr=False)
    model: str | None
    path: str | None


def doctor(
    app: Annotated[
        str | None, typer.Option("--app", metavar="MODULE:ATTR", help="Look through this application too, without starting it.")
    ] = None,
    factory: Annotated[bool, typer.Option("--factory", help="ATTR is called to make the application, as with uvicorn --factory.")] = False,
    url: Annotated[
        str | None, typer.Option("--url", metavar="ORIGIN", help="Look at what arrives from here too, proxies included.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", metavar="KEY", help="Ask --url for two small responses with it; @FILE reads it from a file, @- from stdin."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Model to ask.", show_default="one of the account's")] = None,
    path: Annotated[
        str | None, typer.Option("--path", metavar="PATH", help="Guarded path to ask.", show_default="the first of the settings")
    ] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> int:
    """Find what is wrong with an installation: each check with what, where, and what to do.

    Exits 0 if there is no problem (warnings are none), 1 if there is one, 2 if this command cannot be carried out.
    """
    if factory and app is None:
        raise ConfigurationError("needs --app", where="--factory", cure="Name the factory: --app shop.main:make_app --factory.")
    target = None if app is None else check_target(app)
    asking = _asking(url, api_key, model, path)
    with ExitStack() as stack:
        checks = [*_examine(stack, settings_path(config), now(), target, asking, factory=factory)]
    show_report(checks, as_json=as_json)
    return exit_code(checks)


def _asking(url: str | None, api_key: str | None, model: str | None, path: str | None) -> _Asking | None:
    if url is not None:
        return _Asking(Origin.of(url), None if api_key is None else _key(api_key), model, path)
    for option, value in (("--api-key", api_key), ("--model", model), ("--path", path)):
        if value is not None:
            raise ConfigurationError("needs --url", where=option, cure="Say where to ask.")
    return None


def _key(given: str) -> str:
    """The key of the option: itself, or the content of a file, so that no process list shows it."""
    text = read_input(given[1:], what="--api-key")[: _MAX_KEY_CHARS + 1].decode("latin-1").strip() if given.startswith("@") else given
    if not text.isascii() or not text.isprintable() or not 0 < len(text) <= _MAX_KEY_CHARS:
        raise ConfigurationError("is no key", where="--api-key", cure="Give the key itself, or @FILE with nothing else in it.")
    return text


def _examine(stack: ExitStack, config: Path, at: datetime, target: str | None, asking: _Asking | None, *, factory: bool) -> Iterator[Check]:
    from tos_guard.cli._doctor._installation import check_clock, check_engine, check_files, check_keys, read_settings_file
    from tos_guard.cli._doctor._outside import check_outside
    from tos_guard.cli._doctor._rules import check_modes, check_routes, check_terms

    settings, read = read_settings_file(config)
    yield read
    store: Store | None = None
    if settings is not None:
        yield from check_files(settings)
        store, failed = _opened(stack, settings)
        yield from failed
        yield from check_engine(settings)
        yield from check_keys(settings, at)
    yield from _as_far_as_it_goes(check_clock(settings, store, at))
    if settings is not None:
        yield from _as_far_as_it_goes(check_terms(settings, store, at))
        yield from _as_far_as_it_goes(_of_accounts(settings, store, at))
        yield from check_modes(settings)
        yield from check_routes(settings)
        yield from _as_far_as_it_goes(check_outside(settings, store))
    if target is not None:
        yield from _as_far_as_it_goes(check_app(target, factory=factory, settings=settings, store=store))
    if asking is not None:
        yield from _over_the_network(asking, settings, store, at)


def _of_accounts(settings: GuardSettings, store: Store | None, at: datetime) -> Iterator[Check]:
    from tos_guard.cli._doctor._accounts import check_accounts, check_limits
    from tos_guard.cli._doctor._rules import known_terms

    if store is not None:
        yield from check_accounts(settings, store, known_terms(settings, store), at)
    yield from check_limits(settings, store)


def _as_far_as_it_goes(checks: Iterator[Check]) -> Iterator[Check]:
    """The checks, and in place of those that a damaged store breaks off, that it is damaged."""
    try:
        yield from checks
    except (ConfigurationError, StoreError, VerificationError) as error:
        cure = error.cure or "Restore it from a backup."
        yield problem("store", f"what it holds cannot be read: {error.what}", where=error.where or "store", cure=cure)


def _opened(stack: ExitStack, settings: GuardSettings) -> tuple[Store | None, list[Check]]:
    """The store, where it is there: looking must not make one."""
    from tos_guard.stores import is_there

    try:
        if not is_there(settings):
            return None, []
        return stack.enter_context(open_store(settings)), []
    except (ConfigurationError, StoreError) as error:
        cure = error.cure or "Run this, and the server, as the user whose store this is."
        return None, [problem("store", error.what, where=error.where or str(settings.store), cure=cure)]


def _over_the_network(asking: _Asking, settings: GuardSettings | None, store: Store | None, at: datetime) -> Iterator[Check]:
    from tos_guard.cli._doctor._published import check_documents
    from tos_guard.cli._doctor._rules import known_terms
    from tos_guard.cli._doctor._sealed import check_responses

    shelf = known_terms(settings, store) if settings is not None else None
    documents = [*check_documents(asking.origin, settings, None if shelf is None else shelf.in_force(at).get("general"), at)]
    yield from documents
    reached = not any(check.code in ("unreachable", "tls") for check in documents)
    if asking.key is not None and reached and asking.origin.is_confidential:  # a key is not sent where others can read along
        yield from check_responses(asking.origin, _question(asking, asking.key, settings, store), settings, at)


def _question(asking: _Asking, key: str, settings: GuardSettings | None, store: Store | None) -> Question:
    """What to ask: the route and model that were named, or the first that fit."""
    from tos_guard.cli._doctor._sealed import ASKED, Question

    routes = {} if settings is None else settings.routes
    plain = [name for name in routes if "*" not in name]
    chosen = asking.path or next((name for name in plain if routes[name].dialect in ASKED), None) or next(iter(plain), None)
    if chosen is None:
        raise ConfigurationError("no guarded path is known", where="--path", cure="Name one: /v1/chat/completions.")
    route = routes.get(chosen)
    dialect = route.dialect if route is not None else next((name for end, name in _BY_PATH.items() if chosen.endswith(end)), None)
    name = asking.model or (route.model if route is not None else None) or _model_of(store, key)
    if name is None:
        raise ConfigurationError("no model is known that this key may use", where="--model", cure="Name one.")
    return Question(chosen, name, key, dialect)


def _model_of(store: Store | None, key: str) -> str | None:
    """A model that the account of a key may use, by name."""
    from tos_guard.rights import hash_secret, parse_api_key

    if store is None:
        return None
    try:
        public_id, secret = parse_api_key(key)
        account: Account | None = store.by_api_key(public_id, hash_secret(secret, store.pepper()))
    except (AuthenticationError, TosGuardError):
        return None
    return None if account is None else min(account.models - {"*"}, default=None)
