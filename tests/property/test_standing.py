"""The standing that holds is the lowest of what is in force: in whatever order measures come, and back again when they are lifted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from sample_records import sample_acceptance
from tos_guard.rights import Account, Holder, Ladder, Measure, PlanCache, Rung, compile_plan
from tos_guard.terms import TermsShelf, parse_terms
from tos_guard.types import Facts, Standing

NOW = datetime(2026, 11, 25, tzinfo=UTC)
HOURS = 48
ORDER = list(Standing)
LADDER = Ladder({Standing.SUSPENDED: Rung(refuse=True), Standing.WARNED: Rung(verify=frozenset({"email"}))})
TERMS = parse_terms(
    b"""[terms]
version = "1"
title = "T"
uri = "https://a.example/t"
text = "t.md"
effective = 2026-11-01
[[clause]]
id = "serve"
action = "generate"
effect = "permit"
""",
    b"text",
)

moments = st.integers(0, HOURS).map(lambda hour: NOW + timedelta(hours=hour))


@st.composite
def measures(draw: st.DrawFn) -> Measure:
    step = draw(st.sampled_from(ORDER[1:]))
    first, second, third = sorted(draw(st.lists(st.integers(0, HOURS), min_size=3, max_size=3, unique=True)))
    begins, deadline, expires = (NOW + timedelta(hours=hour) for hour in (first, second, third))
    worse = ORDER[ORDER.index(step) + 1 :]
    requires = draw(st.sampled_from((None, "accept", "verify", "contact")))
    with_deadline = requires is not None and draw(st.booleans())
    lifted = draw(st.none() | moments)
    return Measure(
        id=f"m{draw(st.integers(0, 10**9))}",
        step=step,
        reason="why",
        begins=begins,
        requires=requires,
        deadline=deadline if with_deadline else None,
        then=draw(st.sampled_from(worse)) if with_deadline and worse and draw(st.booleans()) else None,
        expires=draw(st.sampled_from((None, expires))),
        lifted=lifted,
        lift_reason="undone" if lifted is not None else "",
    )


many = st.lists(measures(), max_size=5, unique_by=lambda one: one.id)
owns = st.sampled_from(ORDER)
accepted = st.lists(moments, max_size=2)
levels = st.sampled_from((None, "email", "organization"))


def naive(own: Standing, taken: list[Measure], now: datetime, accepted: list[datetime], level: str | None) -> Standing:
    found = [own]
    for one in taken:
        over = (one.lifted is not None and now >= one.lifted) or (one.expires is not None and now >= one.expires)
        done = (one.requires == "accept" and any(at >= one.begins for at in accepted)) or (one.requires == "verify" and level == "email")
        if now >= one.begins and not over and not done:
            missed = one.deadline is not None and now >= one.deadline
            found.append(one.then if missed and one.then is not None else one.step)
    return max(found, key=ORDER.index)


@given(owns, many, moments, accepted, levels)
def test_the_lowest_that_is_in_force_holds(
    own: Standing, taken: list[Measure], now: datetime, accepted: list[datetime], level: str | None
) -> None:
    known = [sample_acceptance(number, at=at) for number, at in enumerate(accepted)]
    who = Account(id="acme", standing=own, measures=taken, verification=level)
    assert who.standing_at(now, acceptances=known, ladder=LADDER).step is naive(own, taken, now, accepted, level)


@given(owns, many, moments, st.randoms())
def test_the_order_of_measures_does_not_matter(own: Standing, taken: list[Measure], now: datetime, random: Random) -> None:
    shuffled = list(taken)
    random.shuffle(shuffled)
    assert Account(id="a", standing=own, measures=taken).standing_at(now) == Account(id="a", standing=own, measures=shuffled).standing_at(
        now
    )


@given(owns, many, measures(), moments)
def test_lifting_leaves_exactly_what_the_others_say(own: Standing, others: list[Measure], extra: Measure, now: datetime) -> None:
    lifted = extra.unlifted().model_copy(update={"lifted": now, "id": "extra"})
    without = Account(id="a", standing=own, measures=others).standing_at(now)
    undone = Account(id="a", standing=own, measures=[*others, lifted]).standing_at(now)
    assert (undone.step, undone.measure, undone.in_force) == (without.step, without.measure, without.in_force)


@given(owns, many, st.lists(moments, min_size=1, max_size=8), accepted)
def test_a_kept_plan_says_at_every_moment_what_a_fresh_one_says(
    own: Standing, taken: list[Measure], asked: list[datetime], accepted: list[datetime]
) -> None:
    known = tuple(sample_acceptance(number, at=at) for number, at in enumerate(accepted))
    holder = Holder(Account(id="acme", standing=own, measures=taken, models={"small"}), None, known)
    plans, shelf = PlanCache(ladder=LADDER), TermsShelf.of((TERMS,))
    for now in sorted(asked):
        kept = plans.plan(holder, shelf, "small", issuer="https://a.example", now=now)
        fresh = compile_plan(holder.account, TERMS, now=now, acceptances=known, ladder=LADDER)
        assert (kept.standing.step, kept.decide(Facts("generate", "small"))) == (
            fresh.standing.step,
            fresh.decide(Facts("generate", "small")),
        )
