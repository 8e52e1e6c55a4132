"""Terms documents: what is read, what is refused, and at which line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tos_guard._canonical import b64url_encode, canonical_json
from tos_guard.errors import TermsError
from tos_guard.terms import GENERAL, AcceptanceRule, Condition, Effect, Scope, TermsVersion, parse_terms, terms_from_document

HEAD = """\
[terms]
version = "1"
title = "Terms"
uri = "https://api.example.com/terms/1"
text = "terms.md"
effective = 2026-11-01
"""
CLAUSE = """
[[clause]]
id = "use"
effect = "permit"
action = "generate"
"""
TEXT = b"# Terms\n"


def parsed(*parts: str, text: bytes = TEXT) -> TermsVersion:
    return parse_terms("".join((HEAD, *parts)).encode(), text)


def clause(name: str, *lines: str, effect: str = "prohibit", action: str = '"generate"') -> str:
    return f'\n[[clause]]\nid = "{name}"\neffect = "{effect}"\naction = {action}\n' + "".join(f"{line}\n" for line in lines)


def test_the_digest_covers_document_and_text() -> None:
    """docs/spec/discovery.md: SHA-256 over the RFC 8785 bytes of the file's JSON form with `text_sha256`."""
    terms = parsed(CLAUSE)
    members = {
        "terms": {
            "version": "1",
            "title": "Terms",
            "uri": "https://api.example.com/terms/1",
            "text": "terms.md",
            "effective": "2026-11-01",
        },
        "clause": [{"id": "use", "effect": "permit", "action": "generate"}],
        "text_sha256": b64url_encode(hashlib.sha256(TEXT).digest()),
    }
    assert json.loads(terms.document_bytes) == members
    assert terms.document_bytes == canonical_json(members)
    assert terms.sha256 == b64url_encode(hashlib.sha256(terms.document_bytes).digest())
    assert terms.sha256 != parsed(CLAUSE, text=TEXT + b"\n").sha256


def test_comments_and_order_of_members_do_not_change_the_digest() -> None:
    lines = HEAD.splitlines(keepends=True)
    shuffled = "# a comment\n" + lines[0] + "".join(reversed(lines[1:])) + CLAUSE
    assert parse_terms(shuffled.encode(), TEXT).sha256 == parsed(CLAUSE).sha256


@pytest.mark.parametrize(
    ("written", "condition"),
    [
        ('"US"', Condition("region", frozenset({"US"}))),
        ('["US", "CA"]', Condition("region", frozenset({"US", "CA"}))),
        ('{ is = "US" }', Condition("region", frozenset({"US"}))),
        ('{ in = ["US"] }', Condition("region", frozenset({"US"}))),
        ('{ not_in = ["US"] }', Condition("region", frozenset({"US"}), negated=True)),
    ],
)
def test_conditions_have_a_short_and_a_long_form(written: str, condition: Condition) -> None:
    terms = parsed(CLAUSE, clause("no", f"when = {{ region = {written} }}"), clause("dotted", f"unless.region = {written}"))
    assert terms.clauses[1].when == (condition,)
    assert terms.clauses[2].unless == (condition,)
    assert terms.required_facts == {"region"}


def test_clauses_on_later_use_are_told_by_their_actions() -> None:
    own = '\n[[action]]\nid = "translate"\nscope = "output"\n'
    terms = parsed(own, CLAUSE, clause("no", action='["distil", "translate"]', effect="prohibit"))
    assert [c.scope for c in terms.clauses] == [Scope.REQUEST, Scope.OUTPUT]
    assert terms.clauses[1].effect is Effect.PROHIBIT
    assert terms.clauses[1].line == 17


def test_a_document_that_names_no_series_is_general_and_binds_at_once() -> None:
    """What documents said before there were series they say still."""
    terms = parsed(CLAUSE)
    assert (terms.series, terms.organization, terms.models, terms.replaces) == (GENERAL, None, frozenset(), frozenset())
    assert (terms.locale, terms.material, terms.grace_days, terms.acceptance) == ("en", True, 0, AcceptanceRule.NONE)
    assert (terms.general, terms.documents) == (terms, (terms,))
    assert terms.is_for("small")
    assert terms.is_for(None)


CONTRACT = (
    'series = "contract-7"\norganization = "acme-corp"\nmodels = ["large", "small"]\nlocale = "de-CH"\nmaterial = false\n'
    'grace_days = 30\nacceptance = "required"\nreplaces = ["regions"]\n'
)


def test_a_contract_says_for_whom_it_is_and_what_it_sets_aside() -> None:
    terms = parsed(CONTRACT, CLAUSE)
    assert (terms.series, terms.organization, terms.models) == ("contract-7", "acme-corp", {"large", "small"})
    assert (terms.locale, terms.material, terms.grace_days) == ("de-CH", False, 30)
    assert (terms.acceptance, terms.replaces) == (AcceptanceRule.REQUIRED, {"regions"})
    assert terms.is_for("small")
    assert not terms.is_for("medium")
    assert not terms.is_for(None)
    assert terms.document["terms"]["grace_days"] == 30


EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "terms").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_was_published_is_read_again_as_it_was(path: Path) -> None:
    terms = parse_terms(path.read_bytes(), path.with_suffix(".md").read_bytes())
    again = terms_from_document(terms.document_bytes, terms.text)
    assert again == terms
    assert again.sha256 == terms.sha256
    assert again.document_bytes == terms.document_bytes


def published(**header: object) -> bytes:
    members = {"version": "1", "title": "T", "uri": "https://a.example/1", "text": "t.md", "effective": "2026-11-01", **header}
    return canonical_json(
        {
            "terms": {name: value for name, value in members.items() if value is not ...},
            "clause": [{"id": "use", "effect": "permit", "action": "generate"}],
            "text_sha256": b64url_encode(hashlib.sha256(TEXT).digest()),
        }
    )


def test_the_published_form_is_read_from_bytes_or_text() -> None:
    assert terms_from_document(published(), TEXT) == terms_from_document(published(), TEXT.decode())


HOSTILE = [
    (published(), TEXT + b"\n", "text_sha256 is not the digest"),
    (published(), "\ud800", "unpaired UTF-16"),
    (published() + b"\n", TEXT, "canonical"),
    (b" " + published(), TEXT, "canonical"),
    (published().replace(b'"version":"1"', b'"version":"\\u0031"'), TEXT, "canonical"),
    (b"[]", TEXT, "canonical"),
    (b"{}", TEXT, "text_sha256"),
    (b"", TEXT, "not strict JSON"),
    (b"\xff", TEXT, "not strict JSON"),
    (b"[" * 100_000, TEXT, "nested"),
    (b'{"a":1,"a":1}', TEXT, "occurs twice"),
    (b'{"a":1.5}', TEXT, "not an integer"),
    (b'{"a":"\\ud800"}', TEXT, "unpaired"),
    (b'"' + b"a" * (4 << 20) + b'"', TEXT, "bytes"),
    (published(effective=...), TEXT, "effective is missing"),
    (published(effective="20261101"), TEXT, "effective"),
    (published(effective="2026-02-30"), TEXT, "effective"),
    (published(effective=20261101), TEXT, "effective"),
    (published(organization=None), TEXT, "organization"),
    (published(series="x", organization=""), TEXT, "organization"),
    (published(extra=1), TEXT, "unknown member extra"),
    (published(organization="acme"), TEXT, "series general is for everyone"),
    (canonical_json({"text_sha256": b64url_encode(hashlib.sha256(TEXT).digest())}), TEXT, "terms is missing"),
    (canonical_json({"terms": 5, "text_sha256": b64url_encode(hashlib.sha256(TEXT).digest())}), TEXT, "terms"),
]


@pytest.mark.parametrize(("document", "text", "said"), HOSTILE, ids=range(len(HOSTILE)))
def test_other_published_forms_are_refused(document: bytes, text: bytes | str, said: str) -> None:
    with pytest.raises(TermsError, match=said):
        terms_from_document(document, text)


@given(st.binary(max_size=300), st.one_of(st.binary(max_size=20), st.text(st.characters(), max_size=20)))
@example(b'{"terms":{"effective":"2026-11-01"}}', b"")
def test_any_bytes_as_a_published_form_are_terms_or_our_error(document: bytes, text: bytes | str) -> None:
    with pytest.raises(TermsError):
        terms_from_document(document, text)


GRANT = '\n[[grant]]\nid = "research"\n'
WRONG = [
    # document, line, what the message says
    (HEAD, 1, "clause is missing"),
    (CLAUSE, 1, "terms is missing"),
    (HEAD.replace('version = "1"\n', "") + CLAUSE, 1, "version is missing"),
    (HEAD.replace('"1"', '"one two"') + CLAUSE, 2, "version"),
    (HEAD.replace('"1"', "1") + CLAUSE, 2, "version: input should be a valid string"),
    (HEAD.replace("https:", "http:") + CLAUSE, 4, "https address"),
    (HEAD.replace("/terms/1", "/" + "x" * 120) + CLAUSE, 4, "120 characters"),
    (HEAD.replace("https://api", "http://localhost.api") + CLAUSE, 4, "https address"),
    (HEAD.replace("2026-11-01", "2026-11-01T00:00:00Z") + CLAUSE, 6, "without a time"),
    (HEAD.replace("2026-11-01", "1.5") + CLAUSE, 6, "effective"),
    (HEAD + 'extra = "x"\n' + CLAUSE, 7, "unknown member extra"),
    (HEAD + 'series = "A"\n' + CLAUSE, 7, "series"),
    (HEAD + 'series = "a/b"\n' + CLAUSE, 7, "series"),
    (HEAD + 'series = "x"\norganization = ""\n' + CLAUSE, 8, "organization"),
    (HEAD + 'series = "x"\nmodels = []\n' + CLAUSE, 8, "models"),
    (HEAD + 'series = "x"\nmodels = "small"\n' + CLAUSE, 8, "models"),
    (HEAD + 'series = "x"\nmodels = ["a", "a"]\n' + CLAUSE, 8, "name each once"),
    (HEAD + 'series = "x"\nmodels = ["*"]\n' + CLAUSE, 8, "one by one"),
    (HEAD + 'locale = "deutsch!"\n' + CLAUSE, 7, "locale"),
    (HEAD + 'locale = ""\n' + CLAUSE, 7, "locale"),
    (HEAD + 'material = "yes"\n' + CLAUSE, 7, "material"),
    (HEAD + "grace_days = -1\n" + CLAUSE, 7, "grace_days"),
    (HEAD + "grace_days = 367\n" + CLAUSE, 7, "grace_days"),
    (HEAD + "grace_days = true\n" + CLAUSE, 7, "grace_days"),
    (HEAD + 'acceptance = "click"\n' + CLAUSE, 7, "acceptance"),
    (HEAD + 'series = "x"\norganization = "a"\nreplaces = ["A"]\n' + CLAUSE, 9, "replaces"),
    (HEAD + 'organization = "acme"\n' + CLAUSE, 7, "series general is for everyone"),
    (HEAD + 'models = ["small"]\n' + CLAUSE, 7, "series general is for everyone"),
    (HEAD + 'replaces = ["use"]\n' + CLAUSE, 7, "series general is for everyone"),
    (HEAD + 'series = "x"\nreplaces = ["use"]\n' + CLAUSE, 8, "only terms for an organization or for models"),
    (HEAD + CLAUSE + "\n[extra]\n", 13, "unknown member extra"),
    (HEAD + CLAUSE + clause("no", "shaddow = true"), 17, "clause no: unknown member shaddow"),
    (HEAD + CLAUSE + clause("no", "shadow = 1"), 17, "clause no: shadow"),
    (HEAD + CLAUSE + clause("No"), 14, "clause No: id"),
    (HEAD + CLAUSE + clause("x" * 33), 14, "id"),
    (HEAD + CLAUSE + clause("no", effect="forbid"), 15, "clause no: effect"),
    (HEAD + CLAUSE + clause("no", action="[]"), 16, "clause no: action"),
    (HEAD + CLAUSE + clause("no", action="5"), 16, "clause no: action"),
    (HEAD + CLAUSE + clause("no", action='"generat"'), 13, "unknown action 'generat'"),
    (HEAD + CLAUSE + clause("no", action='["generate", "distil"]'), 13, "make two clauses"),
    (HEAD + CLAUSE + clause("use"), 13, "clause use occurs twice"),
    (HEAD + CLAUSE + clause("no", 'when = { weather = "fair" }'), 13, "unknown fact 'weather'"),
    (HEAD + CLAUSE + clause("no", 'when = { grant = "research" }'), 13, "unknown grant 'research'"),
    (HEAD + CLAUSE + clause("no", 'when = { region = "north" }'), 13, "ISO 3166-1"),
    (HEAD + CLAUSE + clause("no", 'when = { standing = "bad" }'), 13, "standing 'bad'"),
    (HEAD + CLAUSE + clause("no", "when = { region = 5 }"), 17, "region"),
    (HEAD + CLAUSE + clause("no", "when = { region = [] }"), 17, "region"),
    (HEAD + CLAUSE + clause("no", 'when = { region = { in = "US" } }'), 17, "list of strings (in, not_in)"),
    (HEAD + CLAUSE + clause("no", 'when = { region = { is = ["US"] } }'), 17, "with a string (is)"),
    (HEAD + CLAUSE + clause("no", 'when = { region = { is = "US", in = ["US"] } }'), 17, "one of is, in, not_in"),
    (HEAD + CLAUSE + clause("no", 'when = { region = { like = "U" } }'), 17, "one of is, in, not_in"),
    (HEAD + CLAUSE + clause("no", 'when = "always"'), 17, "when"),
    (HEAD + CLAUSE + clause("no", 'duties = ["seal"]'), 13, "duties"),
    (HEAD + CLAUSE + clause("must", effect="oblige"), 13, "names its duties"),
    (HEAD + GRANT + GRANT + CLAUSE, 11, "grant research occurs twice"),
    (HEAD + CLAUSE + '\n[[action]]\nid = "generate"\nscope = "output"\n', 13, "built in"),
    (HEAD + CLAUSE + clause("no", 'when = { kind = "x" }', action='"distil"'), 13, "only depend on grants"),
    (HEAD + CLAUSE + "x = = 1\n", 12, "not TOML"),
    (HEAD + CLAUSE + 'x = "open', 12, "not TOML"),
]


@pytest.mark.parametrize(("document", "line", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_a_mistake_is_refused_at_its_line(document: str, line: int, message: str) -> None:
    with pytest.raises(TermsError) as caught:
        parse_terms(document.encode(), TEXT, where="mine.toml")
    assert caught.value.where == f"mine.toml:{line}"
    assert message in caught.value.what


def test_lines_are_right_behind_strings_and_brackets_that_look_like_tables() -> None:
    decoy = 'text = """\n[[clause]]\nid = "decoy"\n"""\n'
    array = 'action = [\n  "generate", # [[clause]]\n  "embed",\n]\n'
    document = HEAD + f'\n[[clause]]\nid = "use"\neffect = "permit"\n{array}{decoy}' + clause("no", effect="nope")
    with pytest.raises(TermsError) as caught:
        parse_terms(document.encode(), TEXT)
    assert caught.value.where == f"terms.toml:{document[: document.index('nope')].count(chr(10)) + 1}"


def test_lines_of_blanks_took_hours_to_find() -> None:
    """Cubic backtracking: 600 blanks took 0.1 s. With it, this test would not end."""
    blanks = " " * 100_000
    quoted = f'{blanks}# comment\n["a[{blanks}"]\n"b{blanks}" = 1\n'
    with pytest.raises(TermsError, match="unknown member"):
        parsed(CLAUSE, blanks, "\n", quoted)


def test_every_byte_of_the_text_is_in_the_digest() -> None:
    text = b"# Terms\r\nOne.\n"
    variants = [text, *(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :] for at in range(len(text))), text + b"\n", text[:-1]]
    assert len({parsed(CLAUSE, text=variant).sha256 for variant in variants}) == len(variants)


def test_the_number_of_clauses_is_bounded() -> None:
    assert len(parsed(CLAUSE, *(clause(f"no-{n}") for n in range(199))).clauses) == 200
    with pytest.raises(TermsError, match="200"):
        parsed(CLAUSE, *(clause(f"no-{n}") for n in range(200)))


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b"\xff", TEXT),
        (b"", TEXT),
        ((HEAD + CLAUSE).encode(), b""),
        ((HEAD + CLAUSE).encode(), b"\xff"),
        (b"x = " + b"[" * 50_000, TEXT),
        (b"x = " + b"9" * 5_000, TEXT),
        (b"#" * (2 << 20), TEXT),
        (b"clause = [1]\nterms = 1", TEXT),
    ],
    ids=["not UTF-8", "empty", "no text", "text not UTF-8", "deep", "long number", "large", "other types"],
)
def test_hostile_files_end_in_our_error(document: bytes, text: bytes) -> None:
    with pytest.raises(TermsError):
        parse_terms(document, text)


SAMPLE = (Path(__file__).parents[3] / "examples" / "terms" / "minimal.toml").read_bytes()


@given(st.integers(0, len(SAMPLE)), st.integers(0, 40), st.binary(max_size=12) | st.sampled_from([b"=", b"]]", b'"', b"1", b"{"]))
@example(0, 0, b"\xef\xbb\xbf")
def test_a_damaged_file_is_terms_or_our_error(at: int, cut: int, put: bytes) -> None:
    damaged = SAMPLE[:at] + put + SAMPLE[at + cut :]
    try:
        terms = parse_terms(damaged, TEXT)
    except TermsError:
        return
    assert terms.document_bytes == canonical_json(json.loads(terms.document_bytes))
