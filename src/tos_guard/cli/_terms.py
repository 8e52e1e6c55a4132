"""`tos-guard terms`: check a document before it is published, show it, publish it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tos_guard.cli._arguments import ConfigOption, JSONOption, load_settings, open_store, read_input
from tos_guard.cli._output import Line, mark, note, plain, show, show_json, show_table
from tos_guard.errors import TermsError

if TYPE_CHECKING:
    from tos_guard.terms import BareRequest, Clause, Condition, Finding, TermsVersion

__all__ = ["app"]

_ANY_TEXT: Final = b"\n"

app = typer.Typer(help="Terms documents: check, show, publish.", rich_markup_mode=None)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Terms document (TOML), with its text beside it.")]


def _text_beside(path: Path, document: bytes) -> bytes:
    """The text that the document names; something in its place where it names none, which the check then reports by itself."""
    try:
        terms = tomllib.loads(document.decode("utf-8")).get("terms")
    except (ValueError, RecursionError):
        return _ANY_TEXT
    name = terms.get("text") if isinstance(terms, dict) else None
    if not isinstance(name, str) or not name:
        return _ANY_TEXT
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise TermsError(f"text = {name!r} leads out of the folder", where=str(path), cure="Keep the text beside the document.")
    return read_input(str(path.parent / name))


@app.command("check")
def check(file: FileArgument, as_json: JSONOption = False) -> int:
    """Find what is wrong or odd, by file and line, and say what a bare request gets. Exits 1 on errors."""
    from tos_guard.terms import bare_requests, check_terms, parse_terms

    where = str(file)
    document = read_input(where)
    text = _text_beside(file, document)
    try:
        findings = check_terms(document, text, where=where)
    except TermsError as error:
        findings = (_unreadable(error.what, where),)
    except (ValueError, RecursionError) as error:
        findings = (_unreadable(f"not TOML ({error})", where),)
    errors = sum(finding.severity == "error" for finding in findings)
    rows = () if errors else bare_requests(parse_terms(document, text, where=where))
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


@app.command("show")
def show_terms(file: FileArgument, as_json: JSONOption = False) -> None:
    """Show a document as it is understood: its digest, clauses and grants."""
    terms = _load(file)
    if as_json:
        show_json({"sha256": terms.sha256, "document": dict(terms.document), "text": terms.text})
        return
    for name, value in (
        ("title", terms.title),
        ("version", terms.version),
        ("effective", terms.effective.isoformat()),
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


def _conditions(clause: Clause) -> str:
    when = [_condition(condition) for condition in clause.when]
    unless = [f"unless {_condition(condition)}" for condition in clause.unless]
    return "; ".join((*when, *unless))


def _condition(condition: Condition) -> str:
    return f"{condition.fact} {'not in' if condition.negated else 'in'} {', '.join(sorted(condition.values))}"


@app.command("publish")
def publish(file: FileArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Keep a version in the store for ever; what is published never changes."""
    settings = load_settings(config)
    terms = _load(file)
    with open_store(settings) as store:
        store.publish_terms(terms)
    if as_json:
        members = {"version": terms.version, "sha256": terms.sha256, "uri": terms.uri, "effective": terms.effective.isoformat()}
        show_json({"terms": members})
        return
    show(f"{plain(terms.version)}  {terms.sha256}")
    if file.resolve() != settings.terms.resolve():
        note(f"Servers follow {settings.terms}: change 'terms' in the settings when this version takes effect.")
