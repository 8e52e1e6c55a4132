"""`tos-guard init`: a folder that a guard can start from."""

from __future__ import annotations

from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tos_guard.cli._arguments import JSONOption, now, open_store
from tos_guard.cli._output import note, show, show_json
from tos_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from tos_guard.terms import TermsVersion

__all__ = ["init"]

_SAMPLE_ORIGIN: Final = "https://api.example.com"  # in the samples' addresses; the issuer takes its place

INSTALL: Final = (
    "from tos_guard_fastapi import TosGuard",
    'guard = TosGuard.from_file("tos-guard.toml")',
    "guard.install(app)",
)
"""Three lines for an existing FastAPI application."""

_SETTINGS: Final = """\
# Settings of the guard; docs/guides/configuration.md tells what may stand here. Paths are taken from this file's folder.
issuer = "{issuer}"
terms = "terms/{terms}"
store = "{store}"
keys = "keys"

# Every other path must be named, or the application does not start: guarded under [routes], or here.
exempt = ["/healthz"]

# Decide, count and record, and refuse nothing, until the counts are as meant:
# mode = "monitor"
{sources}
[routes]
"/v1/chat/completions" = "openai-chat"

# How much one account may take; 'tos-guard accounts limit' gives one of them another amount.
# [[limits]]
# id = "tokens-per-minute"
# quantity = "tokens"
# amount = 200_000
# window = "1m"
"""

_REGION: Final = """
# Clauses ask for the region of a request: it is that of the account ('tos-guard accounts add --region').
[sources]
region = "account"
"""


class Sample(StrEnum):
    """Which terms to begin with."""

    MINIMAL = "minimal"
    COMPLETE = "complete"


_FILES: Final = {Sample.MINIMAL: "minimal", Sample.COMPLETE: "sample-2026-11"}


def init(
    issuer: Annotated[str, typer.Option("--issuer", metavar="ORIGIN", help="Your origin, as tokens will name it: https://api.example.com")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; made if absent.", show_default="current folder")] = Path(),
    sample: Annotated[
        Sample, typer.Option("--terms", help="Three clauses, or a complete sample with grants and regions.")
    ] = Sample.MINIMAL,
    store_address: Annotated[
        str,
        typer.Option(
            "--store", metavar="STORE", help="SQLite file; or a database: postgresql://user@host/database, or env:NAME, which holds one."
        ),
    ] = "tos-guard.db",
    as_json: JSONOption = False,
) -> None:
    """Make a folder with settings, terms, keys and a store. Overwrites nothing."""
    from tos_guard.config import parse_settings
    from tos_guard.stores import KeyFolder

    path = folder / "tos-guard.toml"
    name = _FILES[sample]
    source = files("tos_guard.cli") / "samples"
    words = _SETTINGS.format(
        issuer=_quoted(issuer), terms=f"{name}.toml", store=_quoted(store_address), sources=_REGION if sample is Sample.COMPLETE else ""
    )
    settings = parse_settings(words.encode("utf-8"), where="--issuer").beside(folder)
    document = (source / f"{name}.toml").read_text("utf-8").replace(_SAMPLE_ORIGIN, issuer)
    text = (source / f"{name}.md").read_text("utf-8").replace(_SAMPLE_ORIGIN, issuer)
    terms = _parsed(document, text, issuer)
    files_made = [path, settings.terms, settings.terms.with_suffix(".md"), settings.keys / "registry.json"]
    for taken in [*files_made, settings.store] if isinstance(settings.store, Path) else files_made:
        if taken.exists():
            raise ConfigurationError("is there already", where=str(taken), cure="Choose an empty folder; nothing was changed.")
    _write(settings.terms, document)
    _write(settings.terms.with_suffix(".md"), text)
    history = KeyFolder(settings.keys).create(settings.issuer, now=now())
    with open_store(settings) as store:
        store.publish_terms(terms)
    _write(path, words)  # last: a folder with settings is complete
    if as_json:
        show_json(
            {
                "issuer": settings.issuer,
                "settings": str(path),
                "terms": str(settings.terms),
                "keys": str(settings.keys),
                "store": str(settings.store),
                "kids": {key.purpose.value: key.kid for key in history.keys},
                "install": list(INSTALL),
            }
        )
        return
    show(*INSTALL)
    note(f"Made {path}, terms, keys and store. Put these lines beside your FastAPI app.")
    note("Then 'tos-guard accounts add ID --model NAME'; 'tos-guard doctor' finds what is wrong.")


def _quoted(text: str) -> str:
    """*text* within a TOML string."""
    return "".join(char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08X}" for char in text)


def _parsed(document: str, text: str, issuer: str) -> TermsVersion:
    from tos_guard.terms import parse_terms

    return parse_terms(document.encode("utf-8"), text.encode("utf-8"), where=f"terms of {issuer}")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigurationError(f"cannot be written ({error.strerror})", where=str(path), cure="Check the folder.") from None
