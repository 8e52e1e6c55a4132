"""`tos-guard terms`: check a document before it is published, show it, publish it."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tos_guard.cli._arguments import ActorOption, ConfigOption, JSONOption, acting, load_settings, now, open_store, read_input
from tos_guard.cli._output import Line, mark, note, plain, show, show_json, show_table
from tos_guard.cli._terms_files import text_beside
from tos_guard.errors import TermsError

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.stores import Store
    from tos_guard.terms import BareRequest, Clause, Condition, Finding, TermsShelf, TermsVersion

__all__ = ["app", "published_shelf"]

app = typer.Typer(help="Terms documents: check, publish, list, show.", rich_markup_mode=None)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Terms document (TOML), with its text beside it.")]


@app.command("check")
def check(
    file: FileArgument,
    general: Annotated[
        Path | None, typer.Option("--general", metavar="FILE", help="General terms beside which a contract or supplement will hold.")
    ] = None,
    as_json: JSONOption = False,
) -> int:
    """Find what is wrong or odd, by file and line, and say what a bare request gets. Exits 1 on errors."""
    from tos_guard.terms import TermsShelf, TermsStack, bare_requests, check_terms, parse_terms

    where = str(file)
    document = read_input(where)
    text = text_beside(file, document)
    beside = None if general is None else _load(general)
    try:
        findings = check_terms(document, text, where=where, beside=None if beside is None else TermsShelf.of((beside,)))
    except TermsError as error:
        findings = (_unreadable(error.what, where),)
    except (ValueError, RecursionError) as error:
        findings = (_unreadable(f"not TOML ({error})", where),)
    errors = sum(finding.severity == "error" for finding in findings)
    rows: tuple[BareRequest, ...] = ()
    if not errors:
        terms = parse_terms(document, text, where=where)
        rows = bare_requests(terms if beside is None or terms.series == beside.series else TermsStack.of(beside, (terms,)))
    if as_json:
        show_json(
            {
                "file": where,
                "errors": errors,
                "warnings": len(findings) - errors,
                "findings": [_finding_document(finding) for finding in findings],
                "bare_requests": [_row_document(row) for row in rows],
            }
        )
    else:
        for finding in findings:
            show(_finding_line(finding))
        show_table(
            ("account kind", "action", "asserted facts", "a bare request", "by clause"),
            ((row.kind, row.action, row.asserted, "is allowed" if row.allowed else "is denied", ", ".join(row.clauses)) for row in rows),
            empty="What a bare request gets is shown once there are no errors.",
        )
        show(("" if errors else f"{mark(passed=True)}: ") + f"{errors} errors, {len(findings) - errors} warnings")
    return 1 if errors else 0


def _unreadable(what: str, where: str) -> Finding:
    """A document of which nothing more can be said."""
    from tos_guard.terms import Finding

    line = re.search(r"at line ([0-9]+)", what)
    return Finding("error", "unreadable", what, where, int(line[1]) if line is not None else 1)


def _finding_line(finding: Finding) -> Line:
    style = "red" if finding.severity == "error" else "yellow"
    return plain(f"{finding.file}:{finding.line}: {finding.severity}: {finding.message} [{finding.code}]"), style


def _finding_document(finding: Finding) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "code": finding.code,
        "message": finding.message,
        "file": finding.file,
        "line": finding.line,
        "clause": finding.clause,
    }


def _row_document(row: BareRequest) -> dict[str, Any]:
    return {"kind": row.kind, "action": row.action, "asserted": row.asserted, "allowed": row.allowed, "clauses": list(row.clauses)}


def _load(file: Path) -> TermsVersion:
    from tos_guard.stores import load_terms

    try:
        return load_terms(file)
    except (ValueError, RecursionError) as error:
        raise TermsError(f"not TOML ({error})", where=str(file)) from None


@app.command("list")
def list_terms(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List all published versions: of which series, for whom, since when, and which are in force."""
    settings = load_settings(config)
    with open_store(settings) as store:
        shelf = published_shelf(store)
    at = now()
    rows = [terms for series in shelf.series() for terms in shelf.versions_of(series)]
    if as_json:
        show_json({"issuer": settings.issuer, "terms": [_version_document(terms, shelf, at) for terms in rows]})
        return
    show_table(
        ("series", "version", "effective", "state", "acceptance", "for"),
        ((terms.series, terms.version, terms.effective, _state(terms, shelf, at), _acceptance(terms), _for(terms)) for terms in rows),
        empty="Nothing is published: 'tos-guard terms publish FILE'.",
    )


def published_shelf(store: Store) -> TermsShelf:
    """All terms that were published."""
    from tos_guard.terms import TermsShelf, terms_from_document

    stored = store.terms_versions()
    return TermsShelf.of(terms_from_document(one.document, one.text, where=f"terms {one.version}") for one in stored)


def _state(terms: TermsVersion, shelf: TermsShelf, at: datetime) -> str:
    if shelf.in_force(at).get(terms.series) == terms:
        return "in force"
    return "to come" if terms.effective > at.date() else "replaced"


def _acceptance(terms: TermsVersion) -> str:
    if terms.acceptance.value == "none":
        return "not asked for"
    if not terms.material:
        return "required; not material"
    return f"required; {terms.grace_days} days of grace"


def _for(terms: TermsVersion) -> str:
    models = f"models {', '.join(sorted(terms.models))}" if terms.models else ""
    organization = f"organization {terms.organization}" if terms.organization is not None else ""
    return "; ".join(part for part in (organization, models) if part) or "everyone"


def _version_document(terms: TermsVersion, shelf: TermsShelf, at: datetime) -> dict[str, Any]:
    return {
        "series": terms.series,
        "version": terms.version,
        "effective": terms.effective.isoformat(),
        "state": _state(terms, shelf, at),
        "acceptance": terms.acceptance.value,
        "material": terms.material,
        "grace_days": terms.grace_days,
        "organization": terms.organization,
        "models": sorted(terms.models),
        "locale": terms.locale,
        "replaces": sorted(terms.replaces),
        "uri": terms.uri,
        "sha256": terms.sha256,
    }


@app.command("show")
def show_terms(
    source: Annotated[str, typer.Argument(metavar="FILE|VERSION", help="Terms document (TOML), or the name of a published version.")],
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show a document as it is understood: its digest, clauses and grants."""
    terms = _load(Path(source)) if Path(source).exists() or source.endswith(".toml") else _published(source, load_settings(config))
    if as_json:
        show_json({"sha256": terms.sha256, "document": dict(terms.document), "text": terms.text})
        return
    for name, value in (
        ("title", terms.title),
        ("series", terms.series),
        ("version", terms.version),
        ("effective", terms.effective.isoformat()),
        ("for", _for(terms)),
        ("acceptance", _acceptance(terms)),
        ("replaces", ", ".join(sorted(terms.replaces)) or "nothing"),
        ("locale", terms.locale),
        ("address", terms.uri),
        ("sha256", terms.sha256),
    ):
        show(f"{name:<10} {plain(value)}")
    show_table(
        ("clause", "effect", "on", "actions", "conditions", "text"),
        (
            (c.id, f"{c.effect}{' (shadow)' if c.shadow else ''}", c.scope, ", ".join(c.actions), _conditions(c), c.text)
            for c in terms.clauses
        ),
        empty="There are no clauses.",
    )
    for grant in terms.grants:
        show(plain(f"grant {grant.id}: {grant.title or grant.text}"))


def _published(version: str, settings: GuardSettings) -> TermsVersion:
    with open_store(settings) as store:
        found = published_shelf(store).version(version)
    if found is None:
        raise TermsError("is neither a file nor a published version", where=version, cure="'tos-guard terms list' shows all.")
    return found


def _conditions(clause: Clause) -> str:
    when = [_condition(condition) for condition in clause.when]
    unless = [f"unless {_condition(condition)}" for condition in clause.unless]
    return "; ".join((*when, *unless))


def _condition(condition: Condition) -> str:
    return f"{condition.fact} {'not in' if condition.negated else 'in'} {', '.join(sorted(condition.values))}"


@app.command("publish")
def publish(file: FileArgument, actor: ActorOption = None, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Keep a version in the store for ever; running servers take it up within a second, from its effective day on."""
    settings = load_settings(config)
    terms = _load(file)
    with open_store(settings) as store:
        shelf = published_shelf(store)
        warnings = _checked(file, settings, shelf)
        store.publish_terms(terms, actor=acting(actor))
        shelf = published_shelf(store)
    at = now()
    if as_json:
        show_json({"terms": _version_document(terms, shelf, at), "warnings": [_finding_document(finding) for finding in warnings]})
        return
    show(f"{plain(terms.version)}  {terms.sha256}")
    for finding in warnings:
        note(_finding_line(finding)[0])
    state = _state(terms, shelf, at)
    since = f"from {terms.effective} on" if state == "to come" else "within a second"
    note(f"Published in series {terms.series}: {state}. Running servers take it up {since}; it never changes.")


def _checked(file: Path, settings: GuardSettings, shelf: TermsShelf) -> list[Finding]:
    """The warnings; what is published never changes, so nothing with an error is.

    Raises:
        TermsError: The check finds an error.
    """
    from tos_guard.terms import check_terms

    document = read_input(str(file))
    sources = [name for name, source in settings.sources.model_dump().items() if source is not None]
    findings = check_terms(document, text_beside(file, document), where=str(file), sources=sources, beside=shelf)
    for finding in findings:
        if finding.severity == "error":
            raise TermsError(finding.message, where=f"{finding.file}:{finding.line}", cure="Nothing was published.")
    return list(findings)
