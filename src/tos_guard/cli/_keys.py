"""`tos-guard keys`: key files, rotation, and what is published of them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tos_guard.cli._arguments import ConfigOption, JSONOption, load_settings, now, parse_span
from tos_guard.cli._output import moment, note, show, show_json, show_table

if TYPE_CHECKING:
    from tos_guard.keys import KeyRecord
    from tos_guard.stores import KeyFolder

__all__ = ["app"]

app = typer.Typer(help="Signing keys: make, list, rotate, revoke, publish.", rich_markup_mode=None)


class RevocationReason(StrEnum):
    """Why a key is revoked."""

    COMPROMISED = "compromised"
    SUPERSEDED = "superseded"


class SigningPurpose(StrEnum):
    """What a key that can be rotated signs."""

    PROVENANCE = "provenance"
    RECEIPT = "receipt"


def _folder(config: Any) -> KeyFolder:
    """The key folder, with a key for each purpose."""
    from tos_guard.stores import KeyFolder

    folder = KeyFolder(load_settings(config).keys)
    folder.complete(now=now())
    return folder


def state(key: KeyRecord, at: datetime) -> str:
    """Where a key stands at a moment: ``revoked``, ``next``, ``retired`` or ``in force``."""
    present = int(at.timestamp())
    if key.revoked is not None:
        return "revoked"
    if key.not_before is not None and key.not_before > present:
        return "next"
    return "retired" if key.not_after is not None and key.not_after < present else "in force"


def _document(key: KeyRecord, at: datetime) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "purpose": key.purpose.value,
        "state": state(key, at),
        "not_before": key.not_before,
        "not_after": key.not_after,
        "revoked": key.revoked,
        "reason": key.reason,
    }


def _times(key: KeyRecord) -> str:
    until = f" until {moment(key.not_after)}" if key.not_after is not None else ""
    revoked = f"; revoked {moment(key.revoked)} ({key.reason})" if key.revoked is not None else ""
    return f"from {moment(key.not_before)}{until}{revoked}"


@app.command("generate")
def generate(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Make the first keys of the issuer, one for each purpose."""
    from tos_guard.stores import KeyFolder

    settings = load_settings(config)
    at = now()
    history = KeyFolder(settings.keys).create(settings.issuer, now=at)
    if as_json:
        show_json({"issuer": history.issuer, "keys": [_document(key, at) for key in history.keys]})
        return
    for key in history.keys:
        show(f"{key.kid}  {key.purpose}")
    note(f"Made in {settings.keys}. Keep a backup: whoever has these files can sign for {settings.issuer}.")


@app.command("list")
def list_keys(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List all keys there ever were."""
    history = _folder(config).history()
    at = now()
    if as_json:
        document = {"issuer": history.issuer, "sequence": history.sequence, "keys": [_document(key, at) for key in history.keys]}
        show_json(document)
        return
    show_table(
        ("kid", "purpose", "state", "signs"),
        ((key.kid, key.purpose, state(key, at), _times(key)) for key in history.keys),
        empty="There are no keys.",
    )


@app.command("rotate")
def rotate(
    lead: Annotated[
        str, typer.Option("--lead", metavar="SPAN", help="How long the key is published before it signs: 3600, 30m, 1h, 2d.")
    ] = "1h",
    purpose: Annotated[
        SigningPurpose, typer.Option("--purpose", help="What the key signs: tokens, or receipts of acceptance.")
    ] = SigningPurpose.PROVENANCE,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Publish the next signing key; the present one signs until it takes over."""
    from tos_guard.types import KeyPurpose

    at = now()
    fresh = _folder(config).rotate(now=at, lead=parse_span(lead, where="--lead"), purpose=KeyPurpose(purpose.value))
    if as_json:
        show_json({"key": _document(fresh, at)})
        return
    show(fresh.kid)
    note(f"Published. It signs from {moment(fresh.not_before)} on; running servers follow by themselves.")


@app.command("revoke", context_settings={"ignore_unknown_options": True})  # one id in 64 begins with a dash
def revoke(
    kid: Annotated[str, typer.Argument(metavar="KID", help="Id of the key, as 'keys list' shows it.")],
    reason: Annotated[
        RevocationReason,
        typer.Option("--reason", help="After 'compromised' no token of the key is believed; after 'superseded' the older ones are."),
    ],
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Revoke a signing key; a new one takes over at once."""
    at = now()
    revoked = _folder(config).revoke(kid, now=at, reason=reason.value)
    if as_json:
        show_json({"key": _document(revoked, at)})
        return
    show(f"{revoked.kid}  revoked ({revoked.reason})")
    note("A new key signs now. Tell those who pinned your keys to fetch the new set.")


@app.command("jwks")
def jwks(config: ConfigOption = None) -> None:
    """Write the key set in force, as published: the file that others pin."""
    show(_folder(config).public_set(now()).to_bytes().decode("utf-8"))


@app.command("history")
def history(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Write the signed key history: every key that ever signed."""
    folder = _folder(config)
    signed = folder.signed_history()
    if as_json:
        known = folder.history()
        show_json({"issuer": known.issuer, "sequence": known.sequence, "issued_at": known.issued_at, "history": signed})
        return
    show(signed)
