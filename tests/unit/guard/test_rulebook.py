"""Published terms take effect while the guard runs, and what it cannot keep is left out and said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

import pytest

from tos_guard.errors import ConfigurationError
from tos_guard.guard._rulebook import Rulebook
from tos_guard.rights import Account, Holder
from tos_guard.terms import TermsVersion, parse_terms

ISSUER = "https://api.example.com"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOLDER = Holder(Account(id="acme", models=frozenset({"small"})))


def terms(version: str, effective: date = date(2026, 11, 1), *, duty: str = "seal") -> TermsVersion:
    document = f"""
[terms]
version = "{version}"
title = "Terms"
uri = "{ISSUER}/terms/{version}"
text = "t.md"
effective = {effective}

[[clause]]
id = "serve-{version}"
effect = "permit"
action = "generate"

[[clause]]
id = "duty"
effect = "oblige"
action = "generate"
duties = ["{duty}"]
"""
    return parse_terms(document.encode(), b"Words.")


@dataclass
class Published:
    """As an archive gives it."""

    sha256: str
    document: bytes
    text: str


def published(*versions: TermsVersion) -> list[Published]:
    return [Published(one.sha256, one.document_bytes, one.text) for one in versions]


def only_seals(version: TermsVersion) -> None:
    for clause in version.clauses:
        if set(clause.duties) - {"seal"}:
            raise ConfigurationError("a duty that nobody fulfils", where=version.version)


def rulebook() -> Rulebook:
    return Rulebook(ISSUER, terms("1"), only_seals)


def test_what_is_published_decides_from_then_on() -> None:
    """A plan kept under the old shelf is not used under the new one."""
    book = rulebook()
    before = book.plan(HOLDER, "small", NOW)
    assert book.plan(HOLDER, "small", NOW) is before
    assert not book.is_current(7)
    assert book.read(published(terms("1"), terms("2")), 7) == []
    assert book.is_current(7)
    assert book.plan(HOLDER, "small", NOW).terms.general.version == "2"
    assert book.general(NOW).version == "2"


def test_terms_of_the_future_wait_for_their_day() -> None:
    """Published today, in force from its effective day, without anything being read again."""
    book = rulebook()
    book.read(published(terms("1"), terms("2", date(2026, 11, 26))), 2)
    assert book.plan(HOLDER, "small", NOW).terms.general.version == "1"
    assert book.plan(HOLDER, "small", datetime(2026, 11, 26, tzinfo=UTC)).terms.general.version == "2"


def test_the_terms_given_at_start_hold_without_being_published() -> None:
    """A host may keep no archive, or an archive that does not know them yet."""
    book = rulebook()
    book.read([], 2)
    assert book.general(NOW).version == "1"


@pytest.mark.parametrize("wrong", ["duty", "bytes", "digest"])
def test_terms_that_cannot_be_kept_are_left_out_and_told_once(wrong: str) -> None:
    """The guard goes on under the others, and does not report the same at each request."""
    bad = terms("2", duty="watermark") if wrong == "duty" else terms("2")
    (stored,) = published(bad)
    if wrong == "bytes":
        stored = Published(stored.sha256, b"{", stored.text)
    if wrong == "digest":
        stored = Published("other", stored.document, stored.text)
    book = rulebook()
    (problem,) = book.read([*published(terms("1")), stored], 2)
    assert isinstance(problem, ConfigurationError)
    assert book.read([*published(terms("1")), stored], 3) == []
    assert book.general(NOW).version == "1"


def test_terms_before_their_first_day_are_named_all_the_same() -> None:
    """A denial needs terms to point to, even where none are in effect yet."""
    book = Rulebook(ISSUER, terms("1", date(2030, 1, 1)), only_seals)
    assert book.general(NOW).version == "1"
    assert book.plan(HOLDER, "small", NOW).terms.general.version == "1"
