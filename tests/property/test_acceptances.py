"""What binds an account is what a day-by-day reading of the record's rules says, at every moment (docs/adr/0007)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from tos_guard.terms import Acceptance, Bound, TermsVersion, new_acceptance, new_withdrawal, parse_terms, standing_of
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind

FIRST = date(2026, 1, 1)
SPAN = 40


@cache
def version(position: int, day: int, material: bool, grace: int, required: bool) -> TermsVersion:
    rule = "required" if required else "none"
    head = f'[terms]\nversion = "v{position}"\ntitle = "T"\nuri = "https://a.example/{position}"\ntext = "t.md"\n'
    head += f'effective = {FIRST + timedelta(days=day)}\nmaterial = {str(material).lower()}\ngrace_days = {grace}\nacceptance = "{rule}"\n'
    return parse_terms(f'{head}[[clause]]\nid = "use"\neffect = "permit"\naction = "generate"\n'.encode(), b"text")


@st.composite
def versions(draw: st.DrawFn) -> tuple[TermsVersion, ...]:
    count = draw(st.integers(1, 5))
    few_days = st.integers(0, SPAN // 2)
    return tuple(
        version(n, draw(few_days), draw(st.booleans()), draw(st.sampled_from((0, 0, 1, 5))), draw(st.integers(0, 3)) > 0)
        for n in range(count)
    )


moments = st.integers(0, SPAN * 86_400 - 1) | st.integers(0, SPAN - 1).map(lambda day: day * 86_400)


def at(seconds: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


@st.composite
def records(draw: st.DrawFn, published: tuple[TermsVersion, ...]) -> tuple[Acceptance, ...]:
    made = []
    for number in range(draw(st.integers(0, 4))):
        accepted = draw(moments)
        entropy = bytes([number]).__mul__
        expires = draw(st.none() | st.integers(accepted, SPAN * 86_400))
        acceptance = new_acceptance(
            draw(st.sampled_from(published)),
            issuer="https://api.example.com",
            subject_kind=SubjectKind.ACCOUNT,
            subject_id="acme",
            accepted_by="jane",
            authority="",
            method=AcceptanceMethod.CLI,
            identified_by=Identification.ADMINISTRATOR,
            now=at(accepted),
            entropy=entropy,
            expires=None if expires is None else at(expires),
        )
        if draw(st.booleans()):
            withdrawal = new_withdrawal(
                acceptance,
                withdrawn_by="jane",
                authority="",
                method=AcceptanceMethod.CLI,
                identified_by=Identification.ADMINISTRATOR,
                now=at(draw(st.integers(accepted, SPAN * 86_400))),
                entropy=entropy,
            )
            acceptance = acceptance.with_withdrawal(withdrawal)
        made.append(acceptance)
    return tuple(made)


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[TermsVersion, ...], tuple[Acceptance, ...]]:
    published = draw(versions())
    return published, draw(records(published))


def naive(published: tuple[TermsVersion, ...], acceptances: tuple[Acceptance, ...], now: datetime) -> tuple[str | None, str | None]:
    """Version that binds, and version to accept, told as the record tells it, with no shared step."""
    line = [v for _, v in sorted(enumerate(published), key=lambda item: (item[1].effective, item[0])) if v.effective <= now.date()]
    if not line:
        return None, None

    def counts(record: Acceptance) -> bool:
        if record.withdrawal is not None and now >= record.withdrawal.at:
            return False
        return record.at <= now and (record.expires is None or now.replace(microsecond=0) <= record.expires)

    names = {record.version for record in acceptances if counts(record)}

    def is_accepted(place: int) -> bool:
        """It, or one before it with only changes in between that are not material."""
        if line[place].version in names:
            return True
        return place > 0 and not line[place].material and is_accepted(place - 1)

    def is_free(place: int) -> bool:
        return line[place].acceptance == "none"

    newest = len(line) - 1
    if is_accepted(newest) or is_free(newest):
        return line[newest].version, None
    to_accept = line[newest].version
    if not any(is_accepted(place) for place in range(len(line))):
        return None, to_accept
    binding = max(place for place in range(len(line)) if is_accepted(place) or is_free(place))
    for place in range(binding + 1, len(line)):
        asks = line[place].material or place == binding + 1
        if asks and (now.date() - line[place].effective).days > line[place].grace_days:
            return None, to_accept
    return line[binding].version, to_accept


def said(bound: Bound) -> tuple[str | None, str | None]:
    return bound.version and bound.version.version, bound.to_accept and bound.to_accept.version


@settings(max_examples=400)
@given(cases(), moments)
def test_the_rule_says_what_the_record_of_the_decision_says(
    case: tuple[tuple[TermsVersion, ...], tuple[Acceptance, ...]], seconds: int
) -> None:
    published, acceptances = case
    assert said(standing_of(published, acceptances, at(seconds))) == naive(published, acceptances, at(seconds))


@settings(max_examples=200)
@given(cases(), moments, st.floats(0, 0.999))
def test_an_answer_holds_until_the_moment_it_names(
    case: tuple[tuple[TermsVersion, ...], tuple[Acceptance, ...]], seconds: int, share: float
) -> None:
    """A plan that is kept until `changes` decides as a fresh one would."""
    published, acceptances = case
    bound = standing_of(published, acceptances, at(seconds))
    until = bound.changes or at(SPAN * 86_400 * 2)
    between = at(seconds) + (until - at(seconds)) * share
    assert replace(standing_of(published, acceptances, between), changes=None) == replace(bound, changes=None)


@settings(max_examples=200)
@given(cases(), moments)
def test_what_is_later_than_the_moment_asked_for_changes_nothing(
    case: tuple[tuple[TermsVersion, ...], tuple[Acceptance, ...]], seconds: int
) -> None:
    """`explain` of a past moment gives the answer that was given then."""
    published, acceptances = case
    now = at(seconds)
    known = tuple(
        replace(record, withdrawal=None) if record.withdrawal is not None and record.withdrawal.at > now else record
        for record in acceptances
        if record.at <= now
    )
    assert said(standing_of(published, known, now)) == said(standing_of(published, acceptances, now))


@settings(max_examples=200)
@given(cases(), moments)
def test_nothing_binds_that_is_neither_accepted_nor_free(
    case: tuple[tuple[TermsVersion, ...], tuple[Acceptance, ...]], seconds: int
) -> None:
    published, acceptances = case
    bound = standing_of(published, acceptances, at(seconds))
    if bound.version is not None and bound.version.acceptance == "required":
        assert bound.acceptance is not None
        assert bound.acceptance.is_active(at(seconds))
    assert bound.refused == (bound.version is None and bound.to_accept is not None)
    assert bound.grace_ends is None or (bound.version is not None and bound.to_accept is not None and bound.grace_ends > at(seconds))
