"""Systems outside: whether their secrets can be read, and whether sources of entitlements are heard."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from tos_guard.cli._doctor._check import Check, ok, problem, warning
from tos_guard.cli._output import moment
from tos_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from tos_guard.config import EntitlementSettings, GuardSettings
    from tos_guard.stores import Store

__all__ = ["check_outside"]


def check_outside(settings: GuardSettings, store: Store | None) -> Iterator[Check]:
    """Whether webhooks, notices and entitlements can work, and do. Nothing is sent or asked."""
    if not (settings.webhooks or settings.notices or settings.entitlements):
        return
    found = [*_secrets(settings), *_inside(settings)]
    if store is not None:
        found += [check for source in settings.entitlements for check in _heard(source, store)]
    yield from found
    if not found:
        counts = f"{len(settings.webhooks)} webhooks, {len(settings.notices)} notices, {len(settings.entitlements)} sources of entitlements"
        yield ok("outside", f"{counts}; all secrets can be read", "settings")


def _secrets(settings: GuardSettings) -> Iterator[Check]:
    from tos_guard.guard import webhook_secrets
    from tos_guard.stores import read_secret

    readers = [(f"webhooks {hook.name}", hook.secret) for hook in settings.webhooks]
    readers += [(f"notices to {notice.url}", notice.secret) for notice in settings.notices]
    cure = "Set it where the server runs; the doctor sees the variables of its own environment."
    for whose, places in readers:
        try:
            webhook_secrets(places)
        except ConfigurationError as error:
            yield problem("secret-unreadable", f"a secret of {whose}: {error.what}", where=error.where, cure=error.cure or cure)
    for source in settings.entitlements:
        try:
            if source.token is not None:
                read_secret(source.token)
        except ConfigurationError as error:
            yield problem("secret-unreadable", f"the token of entitlements {source.name}: {error.what}", where=error.where, cure=cure)


def _inside(settings: GuardSettings) -> Iterator[Check]:
    named = [
        (f"entitlements {source.name} may be asked at", "[[entitlements]]") for source in settings.entitlements if source.unsafe_any_address
    ]
    named += [(f"notices to {notice.url} may go to", "[[notices]]") for notice in settings.notices if notice.unsafe_any_address]
    for what, where in named:
        cure = "Remove unsafe_any_address, unless it is inside your network."
        yield warning("unsafe-setting", f"{what} private addresses", where=where, cure=cure)


def _heard(source: EntitlementSettings, store: Store) -> Iterator[Check]:
    from tos_guard.guard import SourceState
    from tos_guard.rights import entitlement_actor

    turn = store.turn(entitlement_actor(source.name))
    state = SourceState.parse("" if turn is None else turn.state)
    where = f"entitlements {source.name}"
    cure = f"'tos-guard entitlements pull {source.name}' asks it now, and says what is wrong."
    if state.lapsed:
        what = f"it has not been heard since {moment(state.heard)}: the rights that it gave have lapsed ({state.failure})"
        yield problem("entitlements-lapsed", what, where=where, cure=cure)
    elif state.failed is not None:
        left = "it has never been heard"
        if state.heard is not None:
            left = f"what it gave holds until {moment(state.heard + timedelta(seconds=source.stale_if_error_seconds))}"
        what = f"it fails ({state.failure}); {left}"
        yield warning("entitlements-silent", what, where=where, cure=cure)
