"""`tos-guard inspect`: what a token says of itself. It checks no signature, so it never says that anything is valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from tos_guard.cli._arguments import JSONOption, read_input
from tos_guard.cli._output import moment, plain, show, show_json
from tos_guard.errors import AbsentError

__all__ = ["inspect"]

_TIMES: Final = frozenset({"iat", "exp", "at"})


def inspect(
    source: Annotated[
        str, typer.Argument(metavar="FILE|TOKEN", help="Saved response, file with a token or receipt, - for stdin, or the token itself.")
    ],
    as_json: JSONOption = False,
) -> None:
    """Show what a token or receipt says of itself, UNVERIFIED: anyone may have written it. 'tos-guard verify' proves it.

    Exits 0 if there is a token to show, 1 if it is malformed, 5 if there is none.
    """
    from tos_guard.cli._receipts import is_receipt
    from tos_guard.provenance import TOKEN_TYP, parse_token
    from tos_guard.terms import RECEIPT_TYP, parse_receipt

    token = _token(source)
    receipt = is_receipt(token.encode("utf-8", "replace"))
    unverified = parse_receipt(token) if receipt else parse_token(token)
    header = {"alg": unverified.jws.algorithm, "kid": unverified.jws.kid, "typ": RECEIPT_TYP if receipt else TOKEN_TYP}
    if as_json:
        show_json({"verified": False, "unverified_header": header, "unverified_claims": unverified.jws.payload, "token": token})
        return
    thing = "receipt" if receipt else "token"
    show((f"UNVERIFIED: this is what the {thing} says of itself; no signature was checked.", "bold yellow"))
    for title, members in (("Header (unverified)", header), ("Claims (unverified)", unverified.jws.payload)):
        show("", title)
        for name, value in members.items():
            text = value if isinstance(value, str) else json.dumps(value)
            known = f"  ({moment(value)})" if name in _TIMES and type(value) is int else ""
            show(f"  {plain(name):<10}  {plain(text)}{known}")


def _token(source: str) -> str:
    """The token in what was given."""
    from tos_guard.cli._evidence import form_of, unverified_token

    if source != "-" and source.count(".") == 2 and source.startswith("eyJ") and not Path(source[:255]).exists():
        return source
    data = read_input(source)
    form = form_of(data)
    found = unverified_token(data, form)
    if found is not None:
        return found
    text = data.decode("utf-8", "replace").strip()
    if form == "text" and text.count(".") == 2 and not any(char.isspace() for char in text):
        return text
    raise AbsentError("carries no token", where=source, cure="That proves nothing: tags are easily lost.")
