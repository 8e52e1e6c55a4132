"""Everything a guard needs, from its settings file: the one place that knows which parts there are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tos_guard.config import EntitlementSettings, GuardSettings, parse_settings
from tos_guard.errors import KeyFileError
from tos_guard.guard._base import utc_now
from tos_guard.guard._engines import limits_from_settings, replays_from_settings
from tos_guard.guard._entitlements import EntitlementSource, EntitlementSync
from tos_guard.guard._limit_settings import meter_of
from tos_guard.guard._notices import NoticeReceiver, NoticeSender, webhook_secrets
from tos_guard.protocols import Clock, Signer
from tos_guard.rights import MAX_ENTITLEMENT_BYTES
from tos_guard.telemetry import Telemetry
from tos_guard.types import KeyPurpose

if TYPE_CHECKING:
    from tos_guard.stores import Store

__all__ = ["assemble"]

_ASYNC_COMMIT_SECONDS: Final = 0.05  # how long records that nobody waits for gather for one commit


def assemble(path: Path, overrides: dict[str, Any], *, awaits: bool) -> dict[str, Any]:
    """The arguments of a guard.

    Args:
        path: The settings file.
        overrides: Parts to take in place of those that the settings name; ``count_prompt``, a tokenizer of the host (`Estimator`).
        awaits: Whether the guard is one that awaits.

    Raises:
        ConfigurationError: A file, key or setting is unusable.
        StoreError: The store cannot be opened.
    """
    from tos_guard.stores import FileSigner, load_terms, open_store, read_settings

    settings = overrides.pop("settings", None) or parse_settings(read_settings(path), where=str(path)).beside(path.parent)
    clock = overrides.get("clock", utc_now)
    delay = _ASYNC_COMMIT_SECONDS if settings.records == "async" else 0.0
    store = overrides.pop("store", None) or open_store(settings, clock=clock, commit_delay=delay)
    terms = load_terms(settings.terms)
    store.publish_terms(terms)
    signer = overrides.pop("signer", None) or FileSigner(settings.keys)
    receipts = overrides.pop("receipts", None)
    telemetry = overrides.pop("telemetry", None) or Telemetry(clock=clock)
    if isinstance(signer, FileSigner):
        receipts = receipts or _receipt_signer(settings, clock)
        telemetry.watch_keys(lambda: signer.folder.history().keys)
        for key in signer.folder.history().keys:  # beside the records they sign for, so that a lost key folder loses no proof
            store.put_public_key(key.to_jwk())
    if settings.bearer and overrides.get("bearer") is None:
        from tos_guard.remote import bearer_from_settings  # and with it the network client: only for whoever has such settings

        overrides["bearer"] = bearer_from_settings(settings.bearer, mode=settings.failure.bearer_keys, clock=clock)
    defaults = {
        "settings": settings,
        "terms": terms,
        "accounts": store,
        "rights": store,
        "records": store,
        "signer": signer,
        "pepper": store.pepper(),
        "archive": store,
        "telemetry": telemetry,
        "store": store,
        "receipts": receipts,
    }
    count_prompt = overrides.pop("count_prompt", None)
    if settings.dpop is not None and overrides.get("replays") is None:
        overrides["replays"] = replays_from_settings(settings, clock=clock, telemetry=telemetry, awaits=awaits)
    if settings.entitlements and overrides.get("entitlements") is None:
        overrides["entitlements"] = _entitlements(settings, store, clock, telemetry)
    if settings.notices and overrides.get("notices") is None:
        overrides["notices"] = _notices(settings, store, clock, telemetry)
    if settings.limits:
        defaults["meter"] = meter_of(settings, count_prompt=count_prompt)
        if "limits" not in overrides:
            defaults["limits"] = limits_from_settings(settings, store, clock=clock, telemetry=telemetry, awaits=awaits)
    return {**defaults, **overrides}


def _entitlements(settings: GuardSettings, store: Store, clock: Clock, telemetry: Telemetry) -> EntitlementSync:
    from tos_guard.remote import EntitlementClient
    from tos_guard.stores import read_secret

    def client(source: EntitlementSettings, url: str) -> EntitlementClient:
        token = source.token  # read at each question: it is changed without a restart, and commands that ask nothing need none
        return EntitlementClient(
            url,
            token=None if token is None else partial(read_secret, token),
            max_bytes=MAX_ENTITLEMENT_BYTES,
            unsafe_any_address=source.unsafe_any_address,
        )

    sources = {
        source.name: EntitlementSource(source, None if source.url is None else client(source, source.url).fetch)
        for source in settings.entitlements
    }
    limits = frozenset(limit.id for limit in settings.limits)
    return EntitlementSync(store, sources, mode=settings.failure.entitlements, limits=limits, telemetry=telemetry, clock=clock)


def _notices(settings: GuardSettings, store: Store, clock: Clock, telemetry: Telemetry) -> NoticeSender:
    from tos_guard.remote import WebhookClient

    receivers = [
        NoticeReceiver(
            notice, WebhookClient(notice.url, unsafe_any_address=notice.unsafe_any_address).send, partial(webhook_secrets, notice.secret)
        )
        for notice in settings.notices
    ]
    return NoticeSender(store, receivers, appeal_url=settings.appeal_url, telemetry=telemetry, clock=clock)


def _receipt_signer(settings: GuardSettings, clock: Clock) -> Signer | None:
    """The key folder's signer of receipts, or None where an old folder lacks such a key, cannot be written, and no route asks for one."""
    from tos_guard.stores import FileSigner

    try:
        return FileSigner(settings.keys, purpose=KeyPurpose.RECEIPT, clock=clock)
    except KeyFileError:
        if settings.account_routes is not None or settings.admin_routes is not None:
            raise
        return None
