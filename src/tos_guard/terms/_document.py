"""A terms version out of its two files, or out of its published form (docs/spec/discovery.md, "Terms").

pydantic checks the shape; the lines in errors come from the document's own text. Nothing is guessed: an unknown member, action, fact
or grant is an error, since a misspelt clause that silently does nothing is worse than none.

A version belongs to a series (docs/adr/0007). The series ``general`` is for everyone; others add to it: a contract for one
organization, a supplement for some models, a policy for all. Only a contract or a supplement may set clauses of the general terms aside.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from tos_guard._canonical import b64url_encode, encode_claims, parse_json, sha256_b64url
from tos_guard.errors import MalformedError, TermsError
from tos_guard.terms._actions import ACTIONS, Action, Scope
from tos_guard.terms._clause import ASSERTED_FACTS, CLAUSE_FACTS, Clause, Condition, Effect
from tos_guard.terms._lines import Lines
from tos_guard.types import Standing

__all__ = ["GENERAL", "AcceptanceRule", "GrantType", "Problem", "TermsVersion", "parse_terms", "read_document", "terms_from_document"]

GENERAL: Final = "general"
"""The series of the terms that hold for everyone, which tokens name."""

MAX_CLAUSES: Final = 200  # a decision over 100 has a budget; more would be a sign of another need
MAX_DOCUMENT_BYTES: Final = 1 << 20  # 200 clauses of the longest text fit; a larger file is no terms document
MAX_JSON_BYTES: Final = 4 << 20  # the published form of such a document: JSON spells names and escapes at greater length
MAX_JSON_DEPTH: Final = 8  # a condition's values lie at 6
MAX_TEXT_BYTES: Final = 1 << 20  # ten times the longest published terms
MAX_MODELS: Final = 500  # as values of one condition
MAX_GRACE_DAYS: Final = 366  # longer than a year is no grace but another version
MAX_URI_CHARS: Final = 120  # it is in every token
_URI: Final = re.compile(r"(https://[!-~]|http://(localhost|127\.0\.0\.1|\[::1\])[:/])[!-~]*")
_REGION: Final = re.compile("[A-Z]{2}")
_PUBLISHED_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LOCALE: Final = r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,7}$"
_STANDINGS: Final = tuple(standing.value for standing in Standing)
_Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")]
_Name = Annotated[str, Field(min_length=1, max_length=128)]
_Value = Annotated[str, Field(min_length=1, max_length=200)]
_Prose = Annotated[str, Field(max_length=2000)]


def _day(value: Any) -> Any:
    if isinstance(value, datetime):
        raise PydanticCustomError("day", "should be a day, such as 2026-11-01, without a time")
    return value


def _address(uri: Any) -> Any:
    if not isinstance(uri, str) or len(uri) > MAX_URI_CHARS or _URI.fullmatch(uri) is None or '"' in uri or ">" in uri:
        raise PydanticCustomError("address", "should be an https address of at most 120 characters")
    return uri


def _listed(value: Any) -> Any:
    """One action may stand without brackets."""
    return [value] if isinstance(value, str) else value


def _operation(value: Any) -> Any:
    """A condition in its long form; a string is short for ``is``, a list for ``in``."""
    if isinstance(value, str | list):
        value = {"is" if isinstance(value, str) else "in": value}
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"is", "in", "not_in"}:
        raise PydanticCustomError("operation", "should be a string, a list of strings, or a table with one of is, in, not_in")
    ((operator, operand),) = value.items()
    if isinstance(operand, list) is (operator == "is"):
        raise PydanticCustomError("operand", "should compare with a string (is) or with a list of strings (in, not_in)")
    return {"values": [operand] if operator == "is" else operand, "negated": operator == "not_in"}


def _several(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise PydanticCustomError("several", "should name each once")
    return names


def _single_models(names: list[str]) -> list[str]:
    if "*" in names:
        raise PydanticCustomError("models", "should name models one by one; leave it out where the terms are for all")
    return names


class AcceptanceRule(StrEnum):
    """Whether a version binds by itself, or only who has accepted it."""

    NONE = "none"
    REQUIRED = "required"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Header(_Model):
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    uri: Annotated[str, BeforeValidator(_address)]
    text: Annotated[str, Field(min_length=1, max_length=200)]
    effective: Annotated[date, BeforeValidator(_day)]
    series: _Id = GENERAL
    organization: _Name = ""  # no document can say this: where it names one, the name is not empty
    models: Annotated[
        list[_Name], AfterValidator(_several), AfterValidator(_single_models), Field(min_length=1, max_length=MAX_MODELS)
    ] = []
    locale: Annotated[str, Field(pattern=_LOCALE, max_length=35)] = "en"
    material: bool = True
    grace_days: Annotated[int, Field(ge=0, le=MAX_GRACE_DAYS)] = 0
    acceptance: Literal["none", "required"] = "none"
    replaces: Annotated[list[_Id], AfterValidator(_several), Field(min_length=1, max_length=MAX_CLAUSES)] = []


class _ActionModel(_Model):
    id: _Id
    scope: Literal["request", "output"]
    text: _Prose = ""


class _GrantModel(_Model):
    id: _Id
    title: Annotated[str, Field(max_length=200)] = ""
    text: _Prose = ""


class _ConditionModel(_Model):
    values: Annotated[list[_Value], Field(min_length=1, max_length=500)]
    negated: bool


_Conditions = dict[str, Annotated[_ConditionModel, BeforeValidator(_operation)]]


class _ClauseModel(_Model):
    id: _Id
    effect: Literal["permit", "prohibit", "oblige"]
    action: Annotated[list[_Value], BeforeValidator(_listed), Field(min_length=1, max_length=50)]
    when: _Conditions = {}
    unless: _Conditions = {}
    shadow: bool = False
    text: _Prose = ""
    duties: Annotated[list[Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,31}$")]], Field(max_length=20)] = []


class _Document(_Model):
    terms: _Header
    action: Annotated[list[_ActionModel], Field(max_length=100)] = []
    grant: Annotated[list[_GrantModel], Field(max_length=50)] = []
    clause: Annotated[list[_ClauseModel], Field(min_length=1, max_length=MAX_CLAUSES)]


@dataclass(frozen=True, slots=True)
class GrantType:
    """A kind of grant that the terms know: a research exemption, a licence to distil."""

    id: str
    title: str = ""
    text: str = ""
    line: int = field(default=0, compare=False)


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
        series: Series it belongs to; within one, versions replace one another by their `effective` day.
        organization: The organization it is for alone (its contract), or None.
        models: Models it is for alone (a supplement); empty for all.
        locale: Language of the text, BCP 47.
        material: Whether its change asks those for a new acceptance who accepted the version before.
        grace_days: Days after the effective one on which these may go on without it.
        acceptance: Whether it binds only who has accepted it.
        replaces: Ids of clauses of the general terms that it sets aside.
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
    series: str = GENERAL
    organization: str | None = None
    models: frozenset[str] = frozenset()
    locale: str = "en"
    material: bool = True
    grace_days: int = 0
    acceptance: AcceptanceRule = AcceptanceRule.NONE
    replaces: frozenset[str] = frozenset()

    def __hash__(self) -> int:
        return hash(self.sha256)  # the digest covers everything, and mappings have no hash

    @property
    def general(self) -> TermsVersion:
        """Itself: where only one document holds, it is the one that tokens name (compare `TermsStack.general`)."""
        return self

    @property
    def documents(self) -> tuple[TermsVersion, ...]:
        """Itself alone (compare `TermsStack.documents`)."""
        return (self,)

    @property
    def required_facts(self) -> frozenset[str]:
        """Asserted facts that a clause on requests asks for: each needs a source, or the guard does not start."""
        return facts_required_by(self.clauses)

    def is_for(self, model: str | None) -> bool:
        """Whether it holds for requests on this model; None for a model that no terms name."""
        return not self.models or model in self.models


def facts_required_by(clauses: Iterable[Clause]) -> frozenset[str]:
    """Asserted facts that a clause on requests asks for."""
    return frozenset(
        condition.fact
        for clause in clauses
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
    if terms is None or problems:
        first = problems[0]
        raise TermsError(
            first.message + _and_more(problems), where=f"{where}:{first.line}", cure="'tos-guard terms check' lists everything."
        )
    return terms


def _and_more(problems: tuple[Problem, ...]) -> str:
    return f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""


def terms_from_document(document: bytes, text: bytes | str, *, where: str = "terms document") -> TermsVersion:
    """Read a terms version from its published form: the canonical JSON document (`TermsVersion.document_bytes`) and its text.

    The value equals the one that was published, digest and all.

    Raises:
        TermsError: It is not canonical JSON, the text is not the one it names, or something in it cannot be used.
    """
    try:
        raw = parse_json(document, where=where, max_depth=MAX_JSON_DEPTH, max_bytes=MAX_JSON_BYTES, integers_only=True)
        words = text.encode("utf-8") if isinstance(text, str) else text
    except MalformedError as error:
        raise TermsError(error.what, where=where) from None
    except UnicodeEncodeError:
        raise TermsError("holds an unpaired UTF-16 half", where=f"{where} text") from None
    if not isinstance(raw, dict) or encode_claims(raw) != document:
        raise TermsError("not an object in canonical form (RFC 8785)", where=where, cure="Give it byte for byte as it was published.")
    if raw.pop("text_sha256", None) != sha256_b64url(words):
        raise TermsError("text_sha256 is not the digest of this text", where=where, cure="Give the text byte for byte as it was published.")
    header = raw.get("terms")
    if isinstance(header, dict) and isinstance(header.get("effective"), str) and _PUBLISHED_DAY.fullmatch(header["effective"]):
        with suppress(ValueError):  # a day that no month has is refused below, as any string
            header["effective"] = date.fromisoformat(header["effective"])
    terms, problems = _read(raw, words, Lines(""), where)
    if terms is None or problems:
        raise TermsError(problems[0].message + _and_more(problems), where=where)
    return terms


def read_document(document: bytes, text: bytes, *, where: str) -> tuple[TermsVersion | None, tuple[Problem, ...]]:
    """Read as much as can be read, with every problem found; for `check_terms` and `parse_terms`.

    Raises:
        TermsError: The document or text is not UTF-8, or the document is not TOML.
    """
    source = _decoded(document, MAX_DOCUMENT_BYTES, where)
    return _read(_toml(source, where), text, Lines(source), where)


def _read(raw: dict[str, Any], text: bytes, lines: Lines, where: str) -> tuple[TermsVersion | None, tuple[Problem, ...]]:
    """The version out of the members of its document, days as `date`."""
    words = _decoded(text, MAX_TEXT_BYTES, f"{where} text")
    try:
        parsed = _Document.model_validate(raw)
    except ValidationError as error:
        return None, tuple(_shape_problem(item, lines, raw) for item in error.errors(include_url=False))
    header = parsed.terms
    actions = dict(ACTIONS) | {a.id: Action(a.id, Scope(a.scope), a.text) for a in parsed.action}
    known_grants = {grant.id for grant in parsed.grant}
    problems = _scope_problems(header, lines)
    clauses: list[Clause] = []
    for position, model in enumerate(parsed.clause):
        clause, found = _clause(model, lines.of(("clause", position)), actions, known_grants)
        problems += found
        clauses.append(clause)
    problems += _repeated("clause", [c.id for c in parsed.clause], lines)
    problems += _repeated("grant", [g.id for g in parsed.grant], lines)
    problems += _repeated("action", [a.id for a in parsed.action], lines)
    for position, action in enumerate(parsed.action):
        if action.id in ACTIONS:
            problems.append(Problem("duplicate", f"action {action.id} is built in", lines.of(("action", position))))
    members = _json_form(raw) | {"text_sha256": sha256_b64url(text)}
    data = encode_claims(members)
    terms = TermsVersion(
        version=header.version,
        title=header.title,
        uri=header.uri,
        effective=header.effective,
        text=words,
        text_sha256=str(members["text_sha256"]),
        document=members,
        document_bytes=data,
        sha256=b64url_encode(hashlib.sha256(data).digest()),
        clauses=tuple(clauses),
        grants=tuple(GrantType(g.id, g.title, g.text, lines.of(("grant", n))) for n, g in enumerate(parsed.grant)),
        actions=actions,
        series=header.series,
        organization=header.organization or None,
        models=frozenset(header.models),
        locale=header.locale,
        material=header.material,
        grace_days=header.grace_days,
        acceptance=AcceptanceRule(header.acceptance),
        replaces=frozenset(header.replaces),
    )
    return terms, tuple(sorted(problems, key=lambda problem: problem.line))


def _scope_problems(header: _Header, lines: Lines) -> list[Problem]:
    """For whom a document may be, and what it may set aside: the general terms hold for everyone, and nothing loosens them for everyone."""
    given = {"organization": bool(header.organization), "models": bool(header.models), "replaces": bool(header.replaces)}
    if header.series == GENERAL:
        message = "[terms] {0}: the series general is for everyone; name another series"
        return [Problem("general-scope", message.format(name), lines.of(("terms", name))) for name, there in given.items() if there]
    if given["replaces"] and not (given["organization"] or given["models"]):
        message = "[terms] replaces: only terms for an organization or for models set general ones aside; change the general terms instead"
        return [Problem("replaces-for-all", message, lines.of(("terms", "replaces")))]
    return []


def _decoded(data: bytes, at_most: int, where: str) -> str:
    if not 0 < len(data) <= at_most:
        raise TermsError(f"{len(data)} bytes, where 1 to {at_most} are accepted", where=where)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TermsError(f"not UTF-8 at byte {error.start}", where=f"{where}:{line}") from None


def _toml(source: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        at = re.search(r"\(at line (\d+), column \d+\)", said)
        line = int(at[1]) if at else source.rstrip("\n").count("\n") + 1
        raise TermsError(f"not TOML: {said}", where=f"{where}:{line}") from None
    except (RecursionError, ValueError):  # ValueError: an integer of more digits than int() takes
        raise TermsError("not TOML that can be read: nested too deeply, or a number too long", where=where) from None


def _clause(model: _ClauseModel, line: int, actions: Mapping[str, Action], grants: set[str]) -> tuple[Clause, list[Problem]]:
    problems: list[Problem] = []

    def problem(code: str, message: str) -> None:
        problems.append(Problem(code, f"clause {model.id}: {message}", line, model.id))

    names = tuple(dict.fromkeys(model.action))
    for name in names:
        if name not in actions:
            problem("unknown-action", f"unknown action {name!r}")
    scopes = {actions[name].scope for name in names if name in actions}
    if len(scopes) > 1:
        problem("mixed-scopes", "speaks of actions on the request and of later use of the output: make two clauses of it")
    if bool(model.duties) is not (model.effect == "oblige" and scopes != {Scope.OUTPUT}):
        problem("duties", "an obligation on requests names its duties, and no other clause has any")
    scope = Scope.OUTPUT if scopes == {Scope.OUTPUT} else Scope.REQUEST
    when = _conditions(model.when, grants, problem)
    unless = _conditions(model.unless, grants, problem)
    if scope is Scope.OUTPUT and any(condition.fact != "grant" for condition in (*when, *unless)):
        problem("output-condition", "a clause on later use may only depend on grants: nothing else is known when the output is used")
    clause = Clause(model.id, Effect(model.effect), names, scope, when, unless, model.shadow, model.text, tuple(model.duties), line)
    return clause, problems


def _conditions(table: _Conditions, grants: set[str], problem: Callable[[str, str], None]) -> tuple[Condition, ...]:
    conditions = []
    for fact, given in table.items():
        if fact not in CLAUSE_FACTS:
            problem("unknown-fact", f"asks for the unknown fact {fact!r}; known are {', '.join(CLAUSE_FACTS)}")
            continue
        condition = Condition(fact, frozenset(given.values), given.negated)
        for value in sorted(condition.values):
            if fact == "grant" and value not in grants:
                problem("unknown-grant", f"asks for the unknown grant {value!r}")
            elif fact == "region" and _REGION.fullmatch(value) is None:
                problem("bad-value", f"region {value!r} is no ISO 3166-1 alpha-2 code, such as US")
            elif fact == "standing" and value not in _STANDINGS:
                problem("bad-value", f"standing {value!r} is none of {', '.join(_STANDINGS)}")
        conditions.append(condition)
    return tuple(conditions)


def _repeated(kind: str, ids: list[str], lines: Lines) -> list[Problem]:
    return [
        Problem("duplicate", f"{kind} {name} occurs twice", lines.of((kind, position)), name if kind == "clause" else None)
        for position, name in enumerate(ids)
        if name in ids[:position]
    ]


def _shape_problem(item: ErrorDetails, lines: Lines, raw: dict[str, Any]) -> Problem:
    location = item["loc"] or ("document",)
    *around, last = location
    clause = None
    if len(around) > 1 and around[0] == "clause" and isinstance(around[1], int) and isinstance(raw["clause"][around[1]], dict):
        found = raw["clause"][around[1]].get("id")
        clause = found if isinstance(found, str) else None
    inside = f"clause {clause}: " if clause is not None else "".join(f"[{part}] " for part in around[:1])
    in_list = len(around) > 1 and isinstance(around[1], int)
    path = ".".join(str(part) for part in location[2 if in_list else min(len(around), 1) :])
    match item["type"]:
        case "missing":
            said = f"{last} is missing"
        case "extra_forbidden":
            said = f"unknown member {last}"
        case _:
            said = f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}"
    return Problem("shape", f"{inside}{said}", lines.of(location), clause)


def _json_form(raw: Any) -> Any:
    """TOML values as JSON values: days become their ISO form. pydantic has refused all other kinds."""
    if isinstance(raw, dict):
        return {name: _json_form(value) for name, value in raw.items()}
    if isinstance(raw, list):
        return [_json_form(value) for value in raw]
    return raw.isoformat() if isinstance(raw, date) else raw
