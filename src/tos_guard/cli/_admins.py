"""`tos-guard admin`: keys of those who administer over the network. The command line itself needs none: whoever reads the files may."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tos_guard.cli._arguments import ActorOption, ConfigOption, JSONOption, acting, opened
from tos_guard.cli._output import moment, note, plain, show, show_json, show_table

if TYPE_CHECKING:
    from tos_guard.stores import StoredAdminKey

__all__ = ["app"]

app = typer.Typer(help="Keys of administrators, for the administrators' routes.", rich_markup_mode=None)


def _document(key: StoredAdminKey) -> dict[str, Any]:
    return {
        "public_id": key.public_id,
        "name": key.name,
        "created": key.created.isoformat(),
        "created_by": key.created_by,
        "revoked": None if key.revoked is None else key.revoked.isoformat(),
        "revoked_by": key.revoked_by,
    }


@app.command("key")
def make_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The administrator, as histories name who did something.")],
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Make an administrator's key, and write it once: only a keyed hash of its secret is kept."""
    from tos_guard.rights import hash_secret, new_admin_key

    key = new_admin_key(secrets.token_bytes)
    with opened(config) as (_, store):
        stored = store.add_admin_key(name, key.public_id, hash_secret(key.secret, store.pepper()), actor=acting(actor))
    if as_json:
        show_json({"key": key.text, **_document(stored)})
        return
    show(key.text)
    note(f"Shown once. Its public id is {key.public_id}; 'tos-guard admin revoke {key.public_id}' ends it.")


@app.command("keys")
def list_keys(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List all keys of administrators, revoked ones too."""
    with opened(config) as (_, store):
        keys = store.admin_keys()
    if as_json:
        show_json({"keys": [_document(key) for key in keys]})
        return
    show_table(
        ("public id", "name", "made", "by", "revoked", "by"),
        ((key.public_id, key.name, moment(key.created), key.created_by, moment(key.revoked), key.revoked_by) for key in keys),
        empty="There are no keys of administrators. 'tos-guard admin key NAME' makes one.",
    )


@app.command("revoke")
def revoke(
    public_id: Annotated[str, typer.Argument(metavar="PUBLIC_ID", help="The 12 characters after 'tga-' in the key.")],
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """End an administrator's key for good; every worker refuses it from then on."""
    with opened(config) as (_, store):
        key = store.revoke_admin_key(public_id, actor=acting(actor))
    if as_json:
        show_json({"key": _document(key)})
        return
    show(plain(f"{key.public_id}  revoked (administrator {key.name})"))
