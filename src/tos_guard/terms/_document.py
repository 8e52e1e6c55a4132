"""A terms version out of its two files (docs/spec/discovery.md, "Terms").

pydantic checks the shape; the lines in errors come from the document's own text. Nothing is guessed: an unknown member, action, fact
or grant is an error, since a misspelt clause that silently does nothing is worse than none.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tos_guard._canonical import b64url_encode, encode_claims, sha256_b64url
from tos_guard.errors import TermsError
from tos_guard.terms._actions import ACTIONS, Action, Scope
from tos_guard.terms._clause import ASSERTED_FACTS, CLAUSE_FACTS, Clause, Condition, Effect

__all__ = ["GrantType", "Problem", "TermsVersion", "parse_terms", "read_document"]

MAX_CLAUSES: Final = 200  # a decision over 100 has a budget; more would be a sign of another need
_URI: Final = re.compile(r"(https://|http://(localhost|127\.0\.0\.1|\[::1\]))[!-~]{1,112}")
_Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")]
_Values = str | list[str]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Header(_Model):
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    uri: str
    text: Annotated[str, Field(min_length=1, max_length=200)]
    effective: date

    @field_validator("effective", mode="before")
    @classmethod
    def _is_day(cls, value: Any) -> Any:
        if isinstance(value, datetime):
            raise ValueError("is a day, such as 2026-11-01, without a time")  # noqa: TRY004 - pydantic turns ValueErrors into findings
        return value

    @field_validator("uri")
    @classmethod
    def _is_uri(cls, uri: str) -> str:
        if _URI.fullmatch(uri) is None or '"' in uri or ">" in uri:
            raise ValueError("is not an https address of at most 120 characters")
        return uri


class _ActionModel(_Model):
    id: _Id
    scope: Literal["request", "output"]
    text: str = ""


class _GrantModel(_Model):
    id: _Id
    title: str = ""
    text: str = ""


class _Operators(_Model):
    is_: Annotated[str | None, Field(alias="is")] = None
    in_: Annotated[list[str] | None, Field(alias="in")] = None
    not_in: list[str] | None = None


class _ClauseModel(_Model):
    id: _Id
    effect: Literal["permit", "prohibit", "oblige"]
    action: _Values
    when: dict[str, _Values | _Operators] = {}
    unless: dict[str, _Values | _Operators] = {}
    shadow: bool = False
    text: str = ""
    duties: list[Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,31}$")]] = []


class _Document(_Model):
    terms: _Header
    action: list[_ActionModel] = []
    grant: list[_GrantModel] = []
    clause: Annotated[list[_ClauseModel], Field(min_length=1, max_length=MAX_CLAUSES)]


@dataclass(frozen=True, slots=True)
class GrantType:
    """A kind of grant that the terms know: a research exemption, a licence to distil."""

    id: str
    title: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a document that makes it unusable, and where."""

    code: str
    message: str
    line: int
    clause: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsVersion:
    """A terms version: immutable, with one digest over document and text.

    Attributes:
        version: Its name, 1–32 characters.
        title: For people.
        uri: Immutable address of the text.
        effective: First day on which it holds.
        text: The text people read, Markdown.
        text_sha256: Digest of the text's bytes, base64url.
        document: The document as JSON members, with ``text_sha256``.
        document_bytes: Its RFC 8785 bytes.
        sha256: Digest over them: the digest of the terms.
        clauses: All clauses in order.
        grants: Kinds of grants.
        actions: The vocabulary with the document's own actions.
    """

    version: str
    title: str
    uri: str
    effective: date
    text: str
    text_sha256: str
    document: Mapping[str, Any]
    document_bytes: bytes
    sha256: str
    clauses: tuple[Clause, ...]
    grants: tuple[GrantType, ...]
    actions: Mapping[str, Action]

    def __hash__(self) -> int:
        return hash(self.sha256)  # the digest covers everything, and mappings have no hash

    @property
    def required_facts(self) -> frozenset[str]:
        """Asserted facts that a clause on requests asks for: each needs a source, or the guard does not start."""
        return frozenset(
            condition.fact
            for clause in self.clauses
            if clause.scope is Scope.REQUEST
            for condition in (*clause.when, *clause.unless)
            if condition.fact in ASSERTED_FACTS
        )


def parse_terms(document: bytes, text: bytes, *, where: str = "terms.toml") -> TermsVersion:
    """Read a terms version from the bytes of its document and of its text.

    Raises:
        TermsError: Something in it cannot be used; ``where`` is ``file:line`` of the first such thing.
    """
    terms, problems = read_document(document, text, where=where)
    if problems or terms is None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise TermsError(first.message + more, where=f"{where}:{first.line}", cure="'tos-guard terms check' lists everything.")
    return terms


def read_document(document: bytes, text: bytes, *, where: str) -> tuple[TermsVersion | None, tuple[Problem, ...]]:
    """Read as much as can be read, with every problem found; for `check_terms` and `parse_terms`.

    Raises:
        TermsError: The document or text is not UTF-8, or the document is not TOML.
    """
    source = _decoded(document, where)
    words = _decoded(text, f"{where} text")
    try:
        raw = tomllib.loads(source)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TermsError(f"not TOML ({error})", where=where) from None
    lines = _Lines(source)
    try:
        parsed = _Document.model_validate(raw)
    except ValidationError as error:
        return None, tuple(_shape_problem(item, lines) for item in error.errors())
    actions = dict(ACTIONS) | {a.id: Action(a.id, Scope(a.scope), a.text) for a in parsed.action}
    known_grants = {grant.id for grant in parsed.grant}
    problems: list[Problem] = []
    clauses: list[Clause] = []
    for position, model in enumerate(parsed.clause):
        clause, found = _clause(model, lines.of("clause", position), actions, known_grants)
        problems += found
        clauses.append(clause)
    problems += _repeated("clause", [c.id for c in parsed.clause], lines)
    problems += _repeated("grant", [g.id for g in parsed.grant], lines)
    problems += _repeated("action", [a.id for a in parsed.action], lines)
    members = _json_form(raw) | {"text_sha256": sha256_b64url(text)}
    data = encode_claims(members)
    terms = TermsVersion(
        version=parsed.terms.version,
        title=parsed.terms.title,
        uri=parsed.terms.uri,
        effective=parsed.terms.effective,
        text=words,
        text_sha256=str(members["text_sha256"]),
        document=members,
        document_bytes=data,
        sha256=b64url_encode(hashlib.sha256(data).digest()),
        clauses=tuple(clauses),
        grants=tuple(GrantType(g.id, g.title, g.text) for g in parsed.grant),
        actions=actions,
    )
    return terms, tuple(sorted(problems, key=lambda problem: problem.line))


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TermsError(f"not UTF-8 at byte {error.start}", where=where) from None


def _clause(model: _ClauseModel, line: int, actions: Mapping[str, Action], grants: set[str]) -> tuple[Clause, list[Problem]]:
    problems: list[Problem] = []

    def problem(code: str, message: str) -> None:
        problems.append(Problem(code, f"clause {model.id}: {message}", line, model.id))

    names = (model.action,) if isinstance(model.action, str) else tuple(model.action)
    for name in names:
        if name not in actions:
            problem("unknown-action", f"unknown action {name!r}")
    scopes = {actions[name].scope for name in names if name in actions}
    if len(scopes) > 1:
        problem("mixed-scopes", "speaks of actions on the request and of later use of the output: make two clauses of it")
    if not names:
        problem("no-action", "names no action")
    if model.duties and model.effect != "oblige":
        problem("duties", "only an obligation has duties")
    scope = Scope.OUTPUT if scopes == {Scope.OUTPUT} else Scope.REQUEST
    when = _conditions(model.when, grants, problem)
    unless = _conditions(model.unless, grants, problem)
    if scope is Scope.OUTPUT and any(condition.fact != "grant" for condition in (*when, *unless)):
        problem("output-condition", "a clause on later use may only depend on grants: nothing else is known when the output is used")
    clause = Clause(model.id, Effect(model.effect), names, scope, when, unless, model.shadow, model.text, tuple(model.duties), line)
    return clause, problems


def _conditions(table: Mapping[str, _Values | _Operators], grants: set[str], problem: Any) -> tuple[Condition, ...]:
    conditions = []
    for fact, given in table.items():
        if fact not in CLAUSE_FACTS:
            problem("unknown-fact", f"asks for the unknown fact {fact!r}; known are {', '.join(CLAUSE_FACTS)}")
            continue
        condition = _condition(fact, given)
        if condition is None:
            problem("operators", f"{fact} needs exactly one of is, in, not_in, with at least one value")
            continue
        if fact == "grant" and (unknown := condition.values - grants):
            problem("unknown-grant", f"asks for the unknown grant {min(unknown)!r}")
        conditions.append(condition)
    return tuple(conditions)


def _condition(fact: str, given: _Values | _Operators) -> Condition | None:
    if isinstance(given, _Operators):
        chosen = [(values, negated) for values, negated in _operands(given) if values is not None]
        if len(chosen) != 1 or not chosen[0][0]:
            return None
        return Condition(fact, frozenset(chosen[0][0]), chosen[0][1])
    values = frozenset([given] if isinstance(given, str) else given)
    return Condition(fact, values) if values else None


def _operands(given: _Operators) -> list[tuple[list[str] | None, bool]]:
    return [(None if given.is_ is None else [given.is_], False), (given.in_, False), (given.not_in, True)]


def _repeated(kind: str, ids: list[str], lines: _Lines) -> list[Problem]:
    return [
        Problem("duplicate", f"{kind} {name} occurs twice", lines.of(kind, position), name if kind == "clause" else None)
        for position, name in enumerate(ids)
        if name in ids[:position]
    ]


def _shape_problem(item: Any, lines: _Lines) -> Problem:
    location = tuple(item["loc"])
    table = str(location[0]) if location else "terms"
    position = location[1] if len(location) > 1 and isinstance(location[1], int) else None
    member = next((part for part in location[1:] if isinstance(part, str)), None)
    path = ".".join(str(part) for part in location)
    return Problem("shape", f"{path}: {item['msg']}", lines.of(table, position, member))


def _json_form(raw: Any) -> Any:
    """TOML values as JSON values: days become their ISO form. pydantic has refused all other kinds."""
    if isinstance(raw, dict):
        return {name: _json_form(value) for name, value in raw.items()}
    if isinstance(raw, list):
        return [_json_form(value) for value in raw]
    return raw.isoformat() if isinstance(raw, date) else raw


class _Lines:
    """Where tables and members stand in a TOML document, by its own lines: good enough to point a person there."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines()

    def of(self, table: str, position: int | None = None, member: str | None = None) -> int:
        """Line of a table, or of a member of it; 1 where it cannot be found."""
        header = re.compile(rf"\s*\[\[?\s*{re.escape(table)}\s*\]\]?")
        starts = [number for number, line in enumerate(self._lines) if header.match(line)]
        index = position or 0
        if index >= len(starts):
            return 1
        start = starts[index]
        if member is not None:
            for number in range(start + 1, len(self._lines)):
                if self._lines[number].lstrip().startswith("["):
                    break
                if re.match(rf'\s*"?{re.escape(member)}"?\s*[.=]', self._lines[number]):
                    return number + 1
        return start + 1
